package growth

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
)

// Decide tells which manifests of a repository rules would delete at a moment: the
// Digests of a plan of package plan, made for that time.
type Decide func(inventory *image.Inventory, at time.Time) (gone []digest.Digest)

const (
	// moments is at how many times the rules are tried.
	moments = 10
	// tried is the bit of what was in an inventory, whatever the rules said.
	tried = 1 << 15
)

// Rehearsal tries retention rules on the past: what would they have kept of what
// was there then? It shows what a repository comes to under rules, whichever these
// are, and with what images really share.
//
// It knows what is there today, and no more: tags lead where they lead now, and
// what is in use or was pulled is that of now. Images that are gone already are
// not in it, so that it believes only the moments from which on the rules found
// something to delete.
type Rehearsal struct {
	usage *Usage
	at    []time.Time
	days  int
	// kept has a bit for each moment, by manifest or blob.
	kept []uint16
	// since is the first moment at which the rules of every repository but the
	// idle ones found an image to delete; -1 if there is none.
	since int
	// idle counts the repositories whose rules never did.
	idle  int
	added map[image.Repository]bool
}

// Rehearse tries rules at ten moments of the last days; 0 days are 90. It takes as
// long as ten plans.
func (u *Usage) Rehearse(now time.Time, days int) *Rehearsal {
	if days <= 0 {
		days = someDays
	}
	r := &Rehearsal{usage: u, days: days, since: -1, added: map[image.Repository]bool{}}
	for i := range moments {
		back := float64(days) * float64(moments-1-i) / (moments - 1)
		r.at = append(r.at, now.Add(-time.Duration(back*float64(day))).UTC())
	}
	return r
}

// Add tries the rules of a repository that was added to the usage; nil is none,
// and keeps all. It is an error to try one twice, or one that was not added.
func (r *Rehearsal) Add(inventory *image.Inventory, rules Decide) error {
	switch {
	case !r.usage.added[inventory.Repository]:
		return fmt.Errorf("rehearse %s: it is not counted", inventory.Repository)
	case r.added[inventory.Repository]:
		return fmt.Errorf("rehearse %s: it is rehearsed already", inventory.Repository)
	}
	r.added[inventory.Repository] = true
	graph := inventory.Graph()
	full := -1
	for k, at := range r.at {
		then := inventory
		if k < moments-1 {
			then = past(inventory, graph, at)
		}
		gone := map[digest.Digest]bool{}
		if rules != nil {
			for _, d := range rules(then, at) {
				gone[d] = true
			}
		}
		if full < 0 && slices.ContainsFunc(then.Images(), func(i image.Image) bool { return gone[i.Digest] }) {
			full = k
		}
		for d := range then.Manifests.Digests() {
			for id := range r.usage.of(inventory, d) {
				if missing := int(id) + 1 - len(r.kept); missing > 0 {
					r.kept = append(r.kept, make([]uint16, missing)...)
				}
				if !gone[d] {
					r.kept[id] |= 1 << k
				}
				r.kept[id] |= tried
			}
		}
	}
	if rules != nil && full < 0 {
		r.idle++
	}
	r.since = max(r.since, full)
	return nil
}

// past is the inventory as it may have been at a time: without what came later.
// What has no date was there.
func past(inventory *image.Inventory, graph *image.Graph, at time.Time) *image.Inventory {
	then := image.NewInventory(inventory.Repository)
	then.Missing, then.Unread = inventory.Missing, inventory.Unread
	was := func(d digest.Digest) bool { return !dated(inventory, graph, d).After(at) }
	var roots []digest.Digest
	reached := graph.Marks()
	// What is of a later image is none of its own.
	for _, i := range inventory.Images() {
		reached.SetAll(graph.Closure(i.Digest))
		if was(i.Digest) {
			roots = append(roots, i.Digest)
		}
	}
	for d := range loose(inventory, graph, reached) {
		reached.SetAll(graph.Closure(d))
		if was(d) {
			roots = append(roots, d)
		}
	}
	there := graph.Closure(roots...)
	for d := range there.All() {
		if m := inventory.Manifests.Get(d); m != nil {
			then.Manifests.Put(m)
		}
		if row, ok := inventory.Untagged[d]; ok {
			then.Untagged[d] = row
		}
		if referrers := inventory.Referrers[d]; len(referrers) > 0 {
			then.Referrers[d] = referrers
		}
	}
	for name, tag := range inventory.Tags {
		if there.Has(tag.Digest) && (!image.Told(tag.Pushed) || !tag.Pushed.After(at)) {
			then.Tags[name] = tag
		}
	}
	for subject, referrers := range inventory.Referrers {
		if !inventory.Manifests.Has(subject) && slices.ContainsFunc(referrers, there.Has) {
			then.Referrers[subject] = referrers
		}
	}
	return then
}

// Outcome is what repositories come to under retention rules.
type Outcome struct {
	Now time.Time `json:"now"`
	// Keeps and Frees are what stays and goes if the rules are applied now, in
	// bytes.
	Keeps int64 `json:"keeps"`
	Frees int64 `json:"frees"`
	// TooLittle says why no more is known; Days, Steady, Least, Most, PerYear and
	// Full are zero then.
	TooLittle string `json:"tooLittle,omitempty"`
	// Days are those for which the rules found images to delete.
	Days int `json:"days"`
	// Steady says that what stays does not grow: less than a tenth a year, or no
	// more than it goes up and down.
	Steady bool `json:"steady"`
	// Least and Most are what would have stayed within these days, in bytes.
	Least int64 `json:"least"`
	Most  int64 `json:"most"`
	// PerYear is the pace of what stays, if that is not steady.
	PerYear Range `json:"perYear"`
	// Idle counts the repositories whose rules never found an image to delete.
	// They grow until these do: there the outcome is the most.
	Idle int `json:"idle,omitempty"`
	// Capacity, Others, Left and Full are as of a forecast, with what stays.
	Capacity int64 `json:"capacity,omitempty"`
	Others   int64 `json:"others,omitempty"`
	Left     int64 `json:"left,omitempty"`
	Full     Full  `json:"full,omitzero"`
}

// Outcome tells what was tried comes to. What was not tried is not in it. The
// question's Days were given to Rehearse.
func (r *Rehearsal) Outcome(q Question) Outcome {
	o := Outcome{Now: r.at[moments-1], Idle: r.idle, Capacity: q.Capacity, Others: max(q.Others, 0)}
	kept := make([]int64, moments)
	for id, bits := range r.kept {
		size := r.usage.contents[id].size
		for k := range kept {
			if bits&(1<<k) != 0 {
				kept[k] = plus(kept[k], size)
			}
		}
		if bits&(tried|1<<(moments-1)) == tried {
			o.Frees = plus(o.Frees, size)
		}
	}
	o.Keeps = kept[moments-1]
	if o.Capacity > 0 {
		o.Left = o.Capacity - plus(o.Keeps, o.Others)
	}
	if r.since < 0 {
		o.TooLittle = "the rules find no image to delete"
		return o
	}
	days := o.Now.Sub(r.at[r.since]).Hours() / 24
	if days < leastDays || moments-r.since < 3 {
		o.TooLittle = fmt.Sprintf("the rules find images to delete for %s only; it takes %d", count(int(math.Round(days)), "day"), leastDays)
		return o
	}
	o.Days = int(math.Round(days))
	o.Least, o.Most = slices.Min(kept[r.since:]), slices.Max(kept[r.since:])
	var marks []mark
	for k := r.since; k < moments; k++ {
		marks = append(marks, mark{days: r.at[k].Sub(r.at[r.since]).Hours() / 24, bytes: float64(kept[k])})
	}
	low, middle, high := slopes(marks, 0)
	o.Steady = middle*365 <= float64(o.Keeps)/10 || low < 0 && high > 0
	if !o.Steady {
		o.PerYear = Range{Low: perYear(low), Middle: perYear(middle), High: perYear(high)}
		if o.Capacity > 0 {
			o.Full = full(o.Now, o.Left, o.PerYear)
		}
	}
	return o
}

// String is the outcome as a sentence without a full stop: "with the rules it
// stays about 4.0 GB (3.8 GB to 4.2 GB in the last 60 days); 80 GB are enough".
func (o Outcome) String() string {
	var parts []string
	switch {
	case o.TooLittle != "":
		parts = append(parts, fmt.Sprintf("the rules keep %s now and free %s", Bytes(o.Keeps), Bytes(o.Frees)),
			"too little history to tell how that goes on: "+o.TooLittle)
	case o.Steady:
		text := "with the rules it stays about " + Bytes(o.Keeps)
		if least, most := Bytes(o.Least), Bytes(o.Most); least != most {
			text += fmt.Sprintf(" (%s to %s in the last %s)", least, most, count(o.Days, "day"))
		}
		parts = append(parts, text)
	default:
		parts = append(parts, fmt.Sprintf("with the rules it is %s, and about %s more a year (%s)", Bytes(o.Keeps), Bytes(o.PerYear.Middle), count(o.Days, "day")))
	}
	switch {
	case o.Capacity <= 0:
	case o.Steady && o.Capacity < plus(o.Most, o.Others):
		parts = append(parts, Bytes(o.Capacity)+" are not enough")
	case o.Steady:
		parts = append(parts, Bytes(o.Capacity)+" are enough")
	default:
		parts = append(parts, filled(o.Now, o.Capacity, o.Left, o.Full, o.TooLittle == ""))
	}
	if o.Idle > 0 && o.TooLittle == "" {
		parts = append(parts, fmt.Sprintf("the rules find nothing to delete in %s yet, which will grow until they do", some(o.Idle)))
	}
	return strings.Join(parts, "; ")
}

func some(repositories int) string {
	if repositories == 1 {
		return "1 repository"
	}
	return fmt.Sprintf("%d repositories", repositories)
}
