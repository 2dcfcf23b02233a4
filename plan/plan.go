// Package plan decides what of a repository stays and what goes: retention rules,
// an inventory and some facts in, a plan with a reason for everything out.
//
// It refuses to do I/O. What it does not know keeps: an image without a date, a
// cluster that could not be asked, a manifest that could not be read.
package plan

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
)

// Policy is the rules for a repository. What one of them keeps stays. Without
// rules everything stays.
type Policy struct {
	Rules []Rule
	// Grace is how long manifests without a tag stay in any case: they may be
	// part of a push that is under way.
	Grace time.Duration
}

// Facts are what the rules ask besides the inventory.
type Facts struct {
	Now time.Time
	// Uses are all known uses of images, of any repository.
	Uses []image.Use
	// UsesUnknown says what could not be asked for uses, and why.
	UsesUnknown []string
	// Histories are, by [Branch.String], the histories that rules ask for.
	Histories map[string]History
}

// Plan is what is to be deleted of one repository, and why; and what stays, and
// why.
type Plan struct {
	Repository image.Repository `json:"repository"`
	// Made is the time for which it was decided.
	Made time.Time `json:"made"`
	// Rules are the policy's, as people know them.
	Rules []string `json:"rules"`
	// Images are judged newest first; those without a date come before.
	Images []Verdict `json:"images"`
	// Steps are carried out in this order.
	Steps []Step `json:"steps"`
	// Frees is how many bytes nothing of the repository needs any more once the
	// steps are done, each blob counted once. Other repositories may share some.
	Frees int64 `json:"frees"`
	// Unread says what could not be read. Nothing goes while there is any: it
	// may need all that would.
	Unread []image.Unread `json:"unread,omitempty"`
	// Notes are what an operator should know besides.
	Notes []string `json:"notes,omitempty"`
}

// Verdict is what becomes of an image.
type Verdict struct {
	Digest digest.Digest `json:"digest"`
	Tags   []string      `json:"tags"` // none for an image without
	Date   time.Time     `json:"date,omitzero"`
	Size   int64         `json:"size"` // in bytes, with all platforms and attachments
	Keep   bool          `json:"keep"`
	// Reasons say why it stays, or of each rule why it does not keep it.
	Reasons []string `json:"reasons"`
}

// Step deletes one tag or one manifest.
type Step struct {
	// Tag is deleted if it leads to the digest still; if there is none, the
	// manifest is.
	Tag    string        `json:"tag,omitempty"`
	Digest digest.Digest `json:"digest"`
	// Reason says what it is: "image", "child of ...", "attached to ...".
	Reason string `json:"reason"`
}

// String is the step as people know it.
func (s Step) String() string {
	if s.Tag != "" {
		return "delete tag " + s.Tag
	}
	return "delete manifest " + s.Digest.String()
}

// Gone counts the images that go.
func (p *Plan) Gone() int {
	n := 0
	for _, v := range p.Images {
		if !v.Keep {
			n++
		}
	}
	return n
}

// Tagged counts the images that have a tag, and those of them that go.
func (p *Plan) Tagged() (all, gone int) {
	for _, v := range p.Images {
		if len(v.Tags) > 0 {
			all++
			if !v.Keep {
				gone++
			}
		}
	}
	return all, gone
}

// candidate is an image that is judged.
type candidate struct {
	digest digest.Digest
	tags   []string
	// date is when it was pushed, or else built; pushed says which it is.
	date, built, pulled time.Time
	pushed              bool
	uses                []string
	// part says that it is a part of another image, or belongs to one: it stays
	// with that, and takes no place among the last.
	part bool

	keep    bool
	reasons []string
}

func (c candidate) dated(now time.Time) string {
	verb := "built "
	if c.pushed {
		verb = "pushed "
	}
	return verb + ago(now.Sub(c.date))
}

// Decide makes the plan for a repository.
//
// An image is what a tag leads to; manifests without a tag that belong to nothing
// are images too. What the rules keep, stays with all that it needs and all that
// belongs to it (children, signatures, attestations, SBOMs), and so does all that
// shares a digest with these. What goes, goes with all that only it needs:
//
//	kept by a rule   reached from what is kept    then
//	yes              -                            stays
//	no               yes                          stays
//	no               no                           goes, with its closure less that of what stays
func Decide(policy Policy, inventory *image.Inventory, facts Facts) *Plan {
	graph := inventory.Graph()
	p := &Plan{
		Repository: inventory.Repository, Made: facts.Now.UTC(), Rules: []string{}, Images: []Verdict{}, Steps: []Step{},
		Unread: inventory.Unread,
	}
	for _, rule := range policy.Rules {
		p.Rules = append(p.Rules, rule.String())
	}
	candidates := candidates(inventory, graph)
	p.Notes = attach(candidates, inventory, graph, facts.Uses)
	for _, c := range candidates {
		c.judge(policy, facts)
	}
	keepLast(policy, candidates, facts)
	if len(policy.Rules) == 0 {
		for _, c := range candidates {
			c.keepBecause("no rule is set")
		}
	}
	kept := graph.Closure(func(yield func(digest.Digest) bool) {
		for _, c := range candidates {
			if c.keep && !yield(c.digest) {
				return
			}
		}
		for d := range inventory.Manifests {
			if dangling(inventory, graph, d) && !yield(d) {
				return
			}
		}
	})
	for _, c := range candidates {
		switch {
		case c.keep:
		case kept[c.digest]:
			c.reasons = nil
			c.keepBecause(sharedBecause(inventory, graph, kept, c.digest))
		case len(inventory.Unread) > 0:
			u := inventory.Unread[0]
			c.keepBecause(fmt.Sprintf("%s of the repository could not be read, and may need it: %s", u.What, u.Why))
		}
	}
	p.judged(candidates, inventory, graph)
	p.steps(candidates, inventory, graph, kept)
	return p
}

// candidates lists the images, newest first.
func candidates(inventory *image.Inventory, graph *image.Graph) []*candidate {
	var all []*candidate
	part := func(d digest.Digest) bool {
		if len(graph.Parents(d)) > 0 {
			return true
		}
		subject, ok := graph.Subject(d)
		return ok && inventory.Manifests[subject] != nil
	}
	somePushed := false
	for _, i := range inventory.Images() {
		c := &candidate{digest: i.Digest, tags: i.Tags, part: part(i.Digest)}
		for _, name := range i.Tags {
			c.seen(inventory.Tags[name])
		}
		somePushed = somePushed || c.pushed
		all = append(all, c)
	}
	for d, row := range inventory.Untagged {
		if len(graph.Tags(d)) > 0 || part(d) || dangling(inventory, graph, d) {
			continue
		}
		c := &candidate{digest: d}
		c.seen(row)
		all = append(all, c)
	}
	for _, c := range all {
		c.built = inventory.Built(c.digest)
		// Dates of two kinds cannot be compared.
		if !c.pushed && !somePushed {
			c.date = c.built
		}
	}
	slices.SortFunc(all, func(a, b *candidate) int {
		return cmp.Or(compareAge(a, b), cmp.Compare(a.digest, b.digest))
	})
	return all
}

func (c *candidate) seen(tag image.Tag) {
	if tag.Pushed.After(c.date) {
		c.date, c.pushed = tag.Pushed, true
	}
	if tag.Pulled.After(c.pulled) {
		c.pulled = tag.Pulled
	}
}

// compareAge puts the newer first, and what has no date before all. Registries
// tell when something was pushed to the second: of the same second the later
// built is the newer.
func compareAge(a, b *candidate) int {
	if none := compareBool(b.date.IsZero(), a.date.IsZero()); none != 0 {
		return none
	}
	if byDate := b.date.Compare(a.date); byDate != 0 || a.built.IsZero() || b.built.IsZero() {
		return byDate
	}
	return b.built.Compare(a.built)
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// attach tells each image of its uses: those of its tags, of its digest and of
// all that it needs.
func attach(candidates []*candidate, inventory *image.Inventory, graph *image.Graph, uses []image.Use) (notes []string) {
	byDigest := map[digest.Digest][]string{}
	for _, use := range uses {
		ref := use.Reference
		if ref.Repository != inventory.Repository {
			continue
		}
		if ref.Digest != "" {
			byDigest[ref.Digest] = append(byDigest[ref.Digest], use.Where)
		}
		if ref.Tag == "" {
			continue
		}
		tag, ok := inventory.Tags[ref.Tag]
		if !ok {
			// Gitea keeps tags in lower case, whatever was pushed.
			tag, ok = inventory.Tags[strings.ToLower(ref.Tag)]
		}
		switch {
		case ok:
			byDigest[tag.Digest] = append(byDigest[tag.Digest], use.Where)
		case ref.Digest == "":
			notes = append(notes, fmt.Sprintf("tag %s is not in the repository, and used by %s", ref.Tag, use.Where))
		}
	}
	for d := range byDigest {
		slices.Sort(byDigest[d])
		byDigest[d] = slices.Compact(byDigest[d])
	}
	for _, c := range candidates {
		if len(byDigest) == 0 {
			break
		}
		for d := range graph.Closure(slices.Values([]digest.Digest{c.digest})) {
			c.uses = append(c.uses, byDigest[d]...)
		}
		slices.Sort(c.uses)
		c.uses = slices.Compact(c.uses)
	}
	slices.Sort(notes)
	return slices.Compact(notes)
}

func (c *candidate) keepBecause(reason string) {
	if !c.keep {
		c.reasons = nil
	}
	c.keep = true
	c.reasons = append(c.reasons, reason)
}

func (c *candidate) goBecause(reason string) {
	if !c.keep {
		c.reasons = append(c.reasons, reason)
	}
}

// judge asks the rules that count nothing.
func (c *candidate) judge(policy Policy, facts Facts) {
	if len(c.tags) == 0 {
		switch age := facts.Now.Sub(c.date); {
		case !c.pushed:
			c.keepBecause("it has no tag, and when it was pushed is not known")
		case age < policy.Grace:
			c.keepBecause("it has no tag, and is new: " + c.dated(facts.Now))
		default:
			c.goBecause("it has no tag")
		}
	}
	for _, rule := range policy.Rules {
		if rule.Last > 0 {
			continue
		}
		a := rule.judge(*c, facts)
		switch {
		case a.unknown, a.met:
			c.keepBecause(rule.said(a))
		default:
			c.goBecause(rule.said(a))
		}
	}
}

// keepLast asks the rules that count images. They come newest first.
func keepLast(policy Policy, candidates []*candidate, facts Facts) {
	for _, rule := range policy.Rules {
		if rule.Last <= 0 {
			continue
		}
		taken := 0
		var last *candidate
		for _, c := range candidates {
			a := rule.judge(*c, facts)
			switch {
			case len(c.tags) == 0:
			case a.unknown:
				c.keepBecause(rule.said(a))
			case !a.met:
				c.goBecause(rule.said(a))
			case c.part:
				c.goBecause(rule.String() + ": it is part of another image")
			case c.date.IsZero():
				c.keepBecause(rule.String() + ": its age is not known")
			case taken < rule.Last || compareAge(last, c) == 0:
				// Of those as old as the last, none is the older.
				taken++
				last = c
				c.keepBecause(fmt.Sprintf("%s: number %d, %s", rule, taken, c.dated(facts.Now)))
			default:
				taken++
				c.goBecause(fmt.Sprintf("%s: number %d, %s", rule, taken, c.dated(facts.Now)))
			}
		}
	}
}

// dangling says whether a manifest belongs to one that is not here: its subject
// may be in another repository, as cosign can be told to have it.
func dangling(inventory *image.Inventory, graph *image.Graph, d digest.Digest) bool {
	if m := inventory.Manifests[d]; m != nil && m.Subject != "" && inventory.Manifests[m.Subject] == nil {
		return true
	}
	for _, name := range graph.Tags(d) {
		if subject, ok := image.Attached(name); ok && inventory.Manifests[subject] == nil {
			return true
		}
	}
	return false
}

func sharedBecause(inventory *image.Inventory, graph *image.Graph, kept map[digest.Digest]bool, d digest.Digest) string {
	for _, parent := range graph.Parents(d) {
		if kept[parent] {
			return "part of " + called(graph, parent) + ", which stays"
		}
	}
	switch subject, ok := graph.Subject(d); {
	case ok && inventory.Manifests[subject] == nil:
		return "belongs to " + image.Short(subject) + ", which is not in this repository"
	case ok:
		return "belongs to " + called(graph, subject) + ", which stays"
	}
	return "belongs to an image that stays"
}

// called is a manifest as people know it.
func called(graph *image.Graph, d digest.Digest) string {
	if tags := graph.Tags(d); len(tags) > 0 {
		return tags[0]
	}
	return image.Short(d)
}

func (p *Plan) judged(candidates []*candidate, inventory *image.Inventory, graph *image.Graph) {
	for _, c := range candidates {
		v := Verdict{Digest: c.digest, Tags: c.tags, Date: c.date.UTC(), Keep: c.keep, Reasons: c.reasons}
		if c.date.IsZero() {
			v.Date = time.Time{}
		}
		if v.Tags == nil {
			v.Tags = []string{}
		}
		v.Size = inventory.Size(maps.Keys(graph.Closure(slices.Values([]digest.Digest{c.digest}))))
		p.Images = append(p.Images, v)
	}
}

// steps lists what is deleted for the images that go: the image first, then what
// only it needs, then what belongs to it. Killed in between, what is left over
// belongs to nothing, and no image that stays lacks anything.
func (p *Plan) steps(candidates []*candidate, inventory *image.Inventory, graph *image.Graph, kept map[digest.Digest]bool) {
	done := map[digest.Digest]bool{}
	var remove func(d digest.Digest, reason string)
	remove = func(d digest.Digest, reason string) {
		if kept[d] || done[d] {
			return
		}
		done[d] = true
		if !inventory.Missing[d] {
			for _, tag := range graph.Tags(d) {
				p.Steps = append(p.Steps, Step{Tag: tag, Digest: d, Reason: reason})
			}
			p.Steps = append(p.Steps, Step{Digest: d, Reason: reason})
		}
		if m := inventory.Manifests[d]; m != nil {
			for _, c := range m.Children {
				remove(c.Digest, "part of "+called(graph, d))
			}
		}
		for _, a := range graph.Attached(d) {
			remove(a, "belongs to "+called(graph, d))
		}
	}
	for _, c := range slices.Backward(candidates) { // the oldest first
		if !c.keep {
			remove(c.digest, "no rule keeps "+called(graph, c.digest))
		}
	}
	p.Frees = inventory.Size(maps.Keys(inventory.Manifests)) - inventory.Size(func(yield func(digest.Digest) bool) {
		for d := range inventory.Manifests {
			if !done[d] && !yield(d) {
				return
			}
		}
	})
}
