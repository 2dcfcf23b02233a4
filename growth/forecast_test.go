package growth_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/growth"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

func TestSentences(t *testing.T) {
	t.Parallel()
	// Two pushes a day but on weekends, of 8 to 24 MB.
	busy := newRepository("gitea.example.com", "team/api")
	n := 0
	for d := 400; d >= 0; d-- {
		at := noon.Add(-time.Duration(d) * day)
		if at.Weekday() == time.Saturday || at.Weekday() == time.Sunday {
			continue
		}
		for range 2 {
			n++
			busy.push(fmt.Sprintf("t%d", n), at.Add(time.Duration(n%7)*time.Minute), int64(8+n*n%17)*MB)
		}
	}
	dead := newRepository("gitea.example.com", "team/dead")
	once := newRepository("gitea.example.com", "team/once")
	undated := newRepository("gitea.example.com", "team/undated")
	for i := range 5 {
		dead.push(fmt.Sprintf("t%d", i), noon.Add(-time.Duration(300+i)*day), GB)
		once.push(fmt.Sprintf("t%d", i), noon.Add(-time.Duration(200+i)*day), MB)
		undated.push(fmt.Sprintf("t%d", i), time.Unix(0, 0), GB)
	}
	once.push("moved in", noon.Add(-3*day), 5*GB)
	mixed := steady("team/mixed", 30, 100*MB)
	mixed.push("undated", time.Time{}, 2*GB)

	// Busy weeks, calm ones, and a few pushes in each month.
	seasons, bursts := newRepository("gitea.example.com", "team/seasons"), newRepository("gitea.example.com", "team/bursts")
	for d := 90; d >= 0; d-- {
		seasons.push(fmt.Sprintf("t%d", d), noon.Add(-time.Duration(d)*day), []int64{90, 5, 40, 15}[d/10%4]*MB)
	}
	for _, d := range []int{90, 75, 40, 38, 2} {
		bursts.push(fmt.Sprintf("t%d", d), noon.Add(-time.Duration(d)*day), GB)
	}

	var b strings.Builder
	for _, c := range []struct {
		name string
		of   repository
		q    growth.Question
	}{
		{"no disk", busy, growth.Question{}},
		{"a disk", busy, growth.Question{Capacity: 80 * GB}},
		{"a disk with others", busy, growth.Question{Capacity: 80 * GB, Others: 50 * GB}},
		{"a short window", busy, growth.Question{Capacity: 80 * GB, Days: 21}},
		{"a full disk", busy, growth.Question{Capacity: GB}},
		{"a disk that is full soon", busy, growth.Question{Capacity: 14 * GB}},
		{"a disk that is full next month", busy, growth.Question{Capacity: 10 * GB}},
		{"a huge disk", busy, growth.Question{Capacity: 5_000_000 * GB}},
		{"seasons", seasons, growth.Question{Capacity: 80 * GB}},
		{"bursts", bursts, growth.Question{Capacity: 80 * GB}},
		{"bursts on a larger disk", bursts, growth.Question{Capacity: 1500 * GB}},
		{"no pushes any more", dead, growth.Question{Capacity: 80 * GB}},
		{"one move", once, growth.Question{Capacity: 80 * GB}},
		{"twelve days", steady("team/young", 13, MB), growth.Question{Capacity: 80 * GB}},
		{"no dates", undated, growth.Question{Capacity: 80 * GB}},
		{"some dates", mixed, growth.Question{Capacity: 80 * GB}},
		{"nothing", newRepository("gitea.example.com", "team/empty"), growth.Question{Capacity: 80 * GB}},
	} {
		fmt.Fprintf(&b, "%s: %s\n", c.name, count(t, c.of).History(noon).Forecast(c.q))
	}
	golden(t, "sentences.txt", b.String())
}

// What grows by the same each day is forecast to within a twentieth.
func TestSteadyGrowth(t *testing.T) {
	t.Parallel()
	for _, days := range []int{15, 40, 90, 91, 300, 1000} {
		const perDay = 100 * MB
		h := count(t, steady("team/api", days, perDay)).History(noon)
		capacity := h.Bytes + 730*perDay
		f := h.Forecast(growth.Question{Capacity: capacity})
		near(t, fmt.Sprintf("%d days: pace", days), float64(f.PerYear.Middle), 365*float64(perDay))
		near(t, fmt.Sprintf("%d days: full", days), f.Full.At.Sub(noon).Hours(), 730*24)
		if f.Full.Early.After(f.Full.At) || f.Full.Late.Before(f.Full.At) {
			t.Errorf("%d days: full %+v", days, f.Full)
		}
	}
}

// A day on which much is moved in at once makes no pace.
func TestOutlier(t *testing.T) {
	t.Parallel()
	r := steady("team/api", 120, 100*MB)
	r.push("moved in", noon.Add(-20*day), 50*GB)
	f := count(t, r).History(noon).Forecast(growth.Question{})
	if f.PerYear.Middle > 55*GB {
		t.Errorf("the pace is %s a year", growth.Bytes(f.PerYear.Middle))
	}
}

func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if math.Abs(got-want) > want/20 {
		t.Errorf("%s is %.0f, want %.0f", what, got, want)
	}
}

func TestDates(t *testing.T) {
	t.Parallel()
	r := newRepository("gitea.example.com", "team/api")
	layer := func(n string) image.Blob { return blob(n, MB) }
	put := func(name string, pushed, built time.Time) {
		r.tag(name, r.manifest(name, "linux/amd64", built, layer(name), layer("all")), pushed)
	}
	put("pushed", noon.Add(-10*day), noon.Add(-30*day))
	put("built", time.Time{}, noon.Add(-20*day))
	put("neither", time.Time{}, time.Time{})
	put("epoch", time.Unix(0, 0), time.Unix(0, 0))
	put("tomorrow", noon.Add(20*time.Hour), time.Time{})
	put("next year", noon.Add(300*day), time.Time{})
	r.tag("pushed again", r.Manifests.Get(r.Tags["pushed"].Digest), noon)
	// A manifest without a tag is no image, and grows the disk.
	old := r.manifest("old", "linux/amd64", time.Time{}, layer("old"))
	r.Untagged[old.Digest] = image.Tag{Digest: old.Digest, Pushed: noon.Add(-40 * day)}

	h := count(t, r).History(noon)
	const each = MB + kB + 500
	midnight := noon.Truncate(day)
	want := []growth.Point{
		{Day: midnight.Add(-40 * day), Bytes: each},
		{Day: midnight.Add(-20 * day), Bytes: 2*each + MB},
		{Day: midnight.Add(-10 * day), Bytes: 3*each + MB},
		{Day: midnight, Bytes: 4*each + MB},
	}
	if diff := cmp.Diff(want, h.Points); diff != "" {
		t.Errorf("points (-want +got):\n%s", diff)
	}
	if h.Undated != 3*each || h.Images != 3 || h.UndatedImages != 3 || h.Bytes != 7*each+MB {
		t.Errorf("undated %d, %d images with and %d without a date, %d bytes", h.Undated, h.Images, h.UndatedImages, h.Bytes)
	}
}

func decide(policy plan.Policy, facts plan.Facts) growth.Decide {
	return func(v *image.Inventory, at time.Time) []digest.Digest {
		facts.Now = at
		return plan.Decide(policy, v, facts).Digests()
	}
}

func TestRehearsal(t *testing.T) {
	t.Parallel()
	releases := steady("team/api", 200, 100*MB)
	for i := range 200 {
		if i%3 == 0 {
			old := fmt.Sprintf("t%d", i)
			tag := releases.Tags[old]
			delete(releases.Tags, old)
			tag.Name = fmt.Sprintf("v1.%d.0", i)
			releases.Tags[tag.Name] = tag
		}
	}
	mixed := newRepository("gitea.example.com", "team/web")
	for i := range 200 {
		mixed.push(fmt.Sprintf("t%d", i), noon.Add(-time.Duration(199-i)*day), int64(50+i*i%101)*MB)
	}
	last := plan.Policy{Rules: []plan.Rule{{Last: 30}}}
	released := plan.Policy{Rules: []plan.Rule{{Last: 30}, {Pattern: "v1.*"}}}
	deployed := plan.Facts{Uses: []image.Use{{Reference: image.Reference{Repository: mixed.Repository, Tag: "t3"}, Where: "Deployment team/web"}}}
	var b strings.Builder
	for _, c := range []struct {
		name  string
		of    repository
		rules growth.Decide
		q     growth.Question
	}{
		{"last 30", steady("team/api", 200, 100*MB), decide(last, plan.Facts{}), growth.Question{Capacity: 80 * GB}},
		{"last 30 on a small disk", steady("team/api", 200, 100*MB), decide(last, plan.Facts{}), growth.Question{Capacity: 3 * GB}},
		{"last 30 of several sizes, and deployed", mixed, decide(plan.Policy{Rules: []plan.Rule{{Last: 30}, {Deployed: true}}}, deployed), growth.Question{}},
		{"last 30 and releases", releases, decide(released, plan.Facts{}), growth.Question{Capacity: 80 * GB}},
		{"newer than 30 days", steady("team/api", 200, 100*MB), decide(plan.Policy{Rules: []plan.Rule{{NewerThan: 30 * day}}}, plan.Facts{}), growth.Question{}},
		{"last 30, pruned already", steady("team/api", 30, 100*MB), decide(last, plan.Facts{}), growth.Question{Capacity: 80 * GB}},
		{"last 30 for some days", steady("team/api", 35, 100*MB), decide(last, plan.Facts{}), growth.Question{Capacity: 80 * GB}},
		{"no rules", steady("team/api", 200, 100*MB), nil, growth.Question{Capacity: 80 * GB}},
	} {
		u := count(t, c.of)
		r := u.Rehearse(noon, 0)
		if err := r.Add(c.of.Inventory, c.rules); err != nil {
			t.Fatal(err)
		}
		o := r.Outcome(c.q)
		fmt.Fprintf(&b, "%s: %s\n", c.name, o)
		if total := u.Report().Total.Bytes; o.Keeps+o.Frees != total {
			t.Errorf("%s: keeps %d and frees %d of %d", c.name, o.Keeps, o.Frees, total)
		}
		if c.rules != nil {
			p := c.rules(c.of.Inventory, noon)
			gone := map[digest.Digest]bool{}
			for _, d := range p {
				gone[d] = true
			}
			kept := func(yield func(digest.Digest) bool) {
				for d := range c.of.Manifests.Digests() {
					if !gone[d] && !yield(d) {
						return
					}
				}
			}
			if want := c.of.Size(kept); o.Keeps != want {
				t.Errorf("%s: keeps %d, the plan %d", c.name, o.Keeps, want)
			}
		}
	}
	golden(t, "rules.txt", b.String())
}

func TestRehearsalOfSeveral(t *testing.T) {
	t.Parallel()
	api, web, far := steady("team/api", 200, 100*MB), steady("team/web", 200, 50*MB), steady("team/far", 5, MB)
	u := count(t, api, web, far)
	r := u.Rehearse(noon, 90)
	rules := decide(plan.Policy{Rules: []plan.Rule{{Last: 10}}}, plan.Facts{})
	for _, v := range []repository{api, web, far} {
		if err := r.Add(v.Inventory, rules); err != nil {
			t.Fatal(err)
		}
	}
	o := r.Outcome(growth.Question{})
	if !o.Steady || o.Idle != 1 || o.Days != 90 {
		t.Errorf("outcome %+v", o)
	}
	// The base layers are there once.
	near(t, "what stays", float64(o.Keeps), float64(10*150*MB+58*MB+5*MB))
	if err := r.Add(api.Inventory, rules); err == nil {
		t.Error("a repository was tried twice")
	}
	if err := r.Add(newRepository("gitea.example.com", "team/other").Inventory, rules); err == nil {
		t.Error("a repository that was not counted was tried")
	}
}
