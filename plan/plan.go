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
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

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
	// Uses are all known uses of images, of any repository. One without tag and
	// digest uses an image of which only the repository is known: any.
	Uses []image.Use
	// UsesUnknown says what could not be asked for uses, and why.
	UsesUnknown []string
	// Histories are, by [Branch.String], the histories that rules ask for.
	Histories map[string]History
	// Deleted are manifests of the repository that regkeeper deleted: what
	// belongs to one of them goes. Of any other that is not there, what belongs
	// to it may be of an image in another repository.
	Deleted map[digest.Digest]bool
	// Notes are what an operator should know of how the facts were found.
	Notes []string
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
	// CutOff says that its deletion was begun, and cut off.
	CutOff bool `json:"cutOff,omitempty"`
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

// Digests are those of the steps, each once, sorted.
func (p *Plan) Digests() []digest.Digest {
	digests := make([]digest.Digest, len(p.Steps))
	for i, step := range p.Steps {
		digests[i] = step.Digest
	}
	slices.Sort(digests)
	return slices.Compact(digests)
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
	date, pulled time.Time
	pushed       bool
	// built orders those of one date; zero if it does not say.
	built time.Time
	uses  []string
	// closure is all that it needs and all that belongs to it, itself too.
	closure image.Set

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
		Unread: unread(inventory),
	}
	policy.Rules = slices.Clone(policy.Rules)
	for i, rule := range policy.Rules {
		p.Rules = append(p.Rules, rule.String())
		policy.Rules[i] = rule.whole()
	}
	candidates := candidates(inventory, graph)
	byDigest, anyTag, notes := used(inventory, facts.Uses)
	for _, c := range candidates {
		c.attach(byDigest, anyTag)
	}
	p.Notes = slices.Concat(facts.Notes, notes, idle(policy, candidates, facts))
	unfound := lost(inventory, graph)
	for _, c := range candidates {
		c.judge(policy, facts, unfound)
		if inventory.Missing[c.digest] {
			c.keepBecause("what it leads to could not be found")
		}
	}
	keepLast(policy, candidates, graph, facts)
	if len(policy.Rules) == 0 {
		for _, c := range candidates {
			c.keepBecause("no rule is set")
		}
	}
	for _, c := range candidates {
		if m := inventory.Manifests.Get(c.digest); m != nil && m.Deleting && len(policy.Rules) > 0 {
			c.keep, c.reasons = false, []string{"its deletion was cut off"}
		}
	}
	var roots, judged []digest.Digest
	for _, c := range candidates {
		judged = append(judged, c.digest)
		if c.keep {
			roots = append(roots, c.digest)
		}
	}
	for d := range inventory.Manifests.Digests() {
		if dangling(inventory, graph, d) {
			judged = append(judged, d)
			if !orphaned(inventory, graph, facts.Deleted, d) || inUse(byDigest, graph, d) {
				roots = append(roots, d)
			}
		}
	}
	// What nobody judged stays.
	reached := graph.Closure(judged...)
	for d := range inventory.Manifests.Digests() {
		if !reached.Has(d) {
			roots = append(roots, d)
		}
	}
	kept := graph.Closure(roots...)
	for _, c := range candidates {
		switch {
		case c.keep:
		case kept.Has(c.digest):
			c.reasons = nil
			c.keepBecause(sharedBecause(inventory, graph, kept, c.digest))
		case len(p.Unread) > 0:
			u := p.Unread[0]
			c.keepBecause(fmt.Sprintf("%s of the repository could not be read, and may need it: %s", u.What, u.Why))
		}
	}
	p.judged(candidates, inventory, facts.Deleted)
	p.steps(candidates, inventory, graph, kept, facts.Deleted)
	return p
}

// unread tells what was not read: what the reader tells of or, where that is
// nothing, what something leads to that neither was read nor is missing.
func unread(inventory *image.Inventory) []image.Unread {
	if len(inventory.Unread) > 0 {
		return inventory.Unread
	}
	var lacking []string
	note := func(d digest.Digest, what string) {
		if !inventory.Manifests.Has(d) && !inventory.Missing[d] {
			lacking = append(lacking, cmp.Or(d.String(), what))
		}
	}
	for name, tag := range inventory.Tags {
		note(tag.Digest, name)
	}
	for d, m := range inventory.Manifests.All() {
		note(d, "")
		for _, c := range m.Children {
			note(c.Digest, "")
		}
	}
	for d := range inventory.Untagged {
		note(d, "")
	}
	for _, referrers := range inventory.Referrers {
		for _, d := range referrers {
			note(d, "")
		}
	}
	slices.Sort(lacking)
	var list []image.Unread
	for _, what := range slices.Compact(lacking) {
		list = append(list, image.Unread{What: what, Why: "it was not read"})
	}
	return list
}

// candidates lists the images, newest first.
func candidates(inventory *image.Inventory, graph *image.Graph) []*candidate {
	var all []*candidate
	part := func(d digest.Digest) bool {
		holders := graph.Parents(d)
		if subject, ok := graph.Subject(d); ok && inventory.Manifests.Has(subject) {
			holders = append(slices.Clone(holders), subject)
		}
		if len(holders) == 0 {
			return false
		}
		// Tags can be made so that a manifest belongs to itself: that is none.
		own := graph.Closure(d)
		return slices.ContainsFunc(holders, func(holder digest.Digest) bool { return !own.Has(holder) })
	}
	somePushed := false
	for _, i := range inventory.Images() {
		c := &candidate{digest: i.Digest, tags: i.Tags, closure: graph.Closure(i.Digest)}
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
		c := &candidate{digest: d, closure: graph.Closure(d)}
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
		// What is part of another comes after it.
		return cmp.Or(compareAge(a, b), cmp.Compare(b.closure.Len(), a.closure.Len()), cmp.Compare(a.digest, b.digest))
	})
	return all
}

func (c *candidate) seen(tag image.Tag) {
	if image.Told(tag.Pushed) && tag.Pushed.After(c.date) {
		c.date, c.pushed = tag.Pushed, true
	}
	if image.Told(tag.Pulled) && tag.Pulled.After(c.pulled) {
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
	return cmp.Or(b.date.Compare(a.date), b.built.Compare(a.built))
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

// used tells where each manifest is used, by its tags and by its digest; and where
// the repository is, by a tag that is not known.
func used(inventory *image.Inventory, uses []image.Use) (byDigest map[digest.Digest][]string, anyTag, notes []string) {
	byDigest = map[digest.Digest][]string{}
	for _, use := range uses {
		ref := use.Reference
		if !SamePath(ref.Repository, inventory.Repository) {
			continue
		}
		// A registry can have several names: what another repository of that path
		// has under the tag may be this one's.
		same := ref.Repository == inventory.Repository
		if ref.Digest != "" {
			byDigest[ref.Digest] = append(byDigest[ref.Digest], use.Where)
		}
		if ref.Tag == "" {
			if ref.Digest == "" {
				anyTag = append(anyTag, use.Where)
			}
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
		case ref.Digest == "" && same:
			notes = append(notes, fmt.Sprintf("tag %s is not in the repository, and used by %s", ref.Tag, use.Where))
		}
	}
	// Some runtimes know an image by the digest of its config.
	configs := map[digest.Digest]bool{}
	for d, m := range inventory.Manifests.All() {
		if len(byDigest) == 0 {
			break
		}
		if m.Config != nil && len(byDigest[m.Config.Digest]) > 0 {
			configs[m.Config.Digest] = true
			byDigest[d] = append(byDigest[d], byDigest[m.Config.Digest]...)
		}
	}
	for d, where := range byDigest {
		if !inventory.Manifests.Has(d) && !configs[d] {
			notes = append(notes, fmt.Sprintf("manifest %s is not among what was read, and used by %s", image.Short(d), slices.Min(where)))
		}
		slices.Sort(byDigest[d])
		byDigest[d] = slices.Compact(byDigest[d])
	}
	slices.Sort(notes)
	return byDigest, anyTag, slices.Compact(notes)
}

// SamePath says whether a repository may be another under another name: its
// registry's, a mirror's, which puts something before the path.
func SamePath(a, b image.Repository) bool {
	return a.Path == b.Path || strings.HasSuffix(a.Path, "/"+b.Path)
}

// Used lists the manifests of an inventory that are used.
func Used(inventory *image.Inventory, uses []image.Use) []digest.Digest {
	byDigest, anyTag, _ := used(inventory, uses)
	if len(byDigest)+len(anyTag) == 0 {
		return nil
	}
	all := map[digest.Digest]bool{}
	for d, m := range inventory.Manifests.All() {
		if len(byDigest[d]) > 0 || m.Config != nil && len(byDigest[m.Config.Digest]) > 0 {
			all[d] = true
		}
	}
	for _, tag := range inventory.Tags {
		if len(anyTag) > 0 {
			all[tag.Digest] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// attach tells an image of its uses: its own, and those of all that it needs and
// that belongs to it.
func (c *candidate) attach(byDigest map[digest.Digest][]string, anyTag []string) {
	c.uses = slices.Clone(anyTag)
	for d := range c.closure.All() {
		c.uses = append(c.uses, byDigest[d]...)
	}
	slices.Sort(c.uses)
	c.uses = slices.Compact(c.uses)
}

// inUse says whether a manifest is used, or something that it leads to.
func inUse(byDigest map[digest.Digest][]string, graph *image.Graph, d digest.Digest) bool {
	for d := range graph.Closure(d).All() {
		if len(byDigest[d]) > 0 {
			return true
		}
	}
	return false
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
func (c *candidate) judge(policy Policy, facts Facts, lost bool) {
	if len(c.tags) == 0 {
		switch age := facts.Now.Sub(c.date); {
		case lost:
			c.keepBecause("it has no tag, and an index that may need it could not be found")
		case facts.Deleted[c.digest]:
			c.goBecause("it has no tag, and its deletion was cut off")
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

// keepLast asks the rules that count images. They come newest first. What is part
// of one that was counted, or belongs to one, stays with that and takes no place.
func keepLast(policy Policy, candidates []*candidate, graph *image.Graph, facts Facts) {
	for _, rule := range policy.Rules {
		if rule.Last <= 0 {
			continue
		}
		taken := 0
		var last *candidate
		counted := graph.Marks()
		// Of some that came at one time, one that does not say when it was built may
		// be older or newer than any.
		silent := map[int64]bool{}
		for _, c := range candidates {
			if c.built.IsZero() && len(c.tags) > 0 && rule.judge(*c, facts).met {
				silent[c.date.UnixNano()] = true
			}
		}
		for _, c := range candidates {
			a := rule.judge(*c, facts)
			switch {
			case a.unknown, a.met && rule.Deployed && len(facts.UsesUnknown) > 0:
				// What is known to be deployed stays when what may be does.
				c.keepBecause(rule.said(a))
			case len(c.tags) == 0:
			case !a.met:
				c.goBecause(rule.said(a))
			case counted.On(c.digest):
				c.goBecause(rule.String() + ": it is part of another image")
			case c.date.IsZero():
				counted.SetAll(c.closure)
				c.keepBecause(rule.String() + ": its age is not known")
			case taken < rule.Last || compareAge(last, c) == 0 || c.date.Equal(last.date) && silent[c.date.UnixNano()]:
				// Of those as old as the last, none is the older.
				taken++
				last = c
				counted.SetAll(c.closure)
				c.keepBecause(fmt.Sprintf("%s: number %d, %s", rule, taken, c.dated(facts.Now)))
			default:
				taken++
				counted.SetAll(c.closure)
				c.goBecause(fmt.Sprintf("%s: number %d, %s", rule, taken, c.dated(facts.Now)))
			}
		}
	}
}

// idle notes the rules that keep nothing: they may be written wrong.
func idle(policy Policy, candidates []*candidate, facts Facts) (notes []string) {
	for _, rule := range policy.Rules {
		if !slices.ContainsFunc(candidates, func(c *candidate) bool {
			a := rule.judge(*c, facts)
			return a.met || a.unknown
		}) && len(candidates) > 0 {
			notes = append(notes, fmt.Sprintf("the rule %q keeps nothing here", rule))
		}
	}
	return notes
}

// lost says whether a manifest that is not in the registry may be an index: what
// it needs is not known.
func lost(inventory *image.Inventory, graph *image.Graph) bool {
	if len(inventory.Missing) == 0 {
		return false
	}
	for d := range inventory.Missing {
		if _, listed := inventory.Untagged[d]; listed || len(graph.Tags(d)) > 0 {
			return true
		}
	}
	for _, m := range inventory.Manifests.All() {
		for _, child := range m.Children {
			if inventory.Missing[child.Digest] && child.MediaType != ocispec.MediaTypeImageManifest && child.MediaType != image.DockerManifest {
				return true
			}
		}
	}
	return false
}

// dangling says whether a manifest belongs to one that is not here: its subject
// may be in another repository, as cosign can be told to have it.
func dangling(inventory *image.Inventory, graph *image.Graph, d digest.Digest) bool {
	if subject := inventory.Manifests.Subject(d); subject != "" && !inventory.Manifests.Has(subject) {
		return true
	}
	for _, name := range graph.Tags(d) {
		if subject, ok := image.Attached(name); ok && !inventory.Manifests.Has(subject) {
			return true
		}
	}
	return false
}

// orphaned says whether all that a dangling manifest belongs to was deleted by us.
func orphaned(inventory *image.Inventory, graph *image.Graph, deleted map[digest.Digest]bool, d digest.Digest) bool {
	if subject := inventory.Manifests.Subject(d); subject != "" && !deleted[subject] {
		return false
	}
	for _, name := range graph.Tags(d) {
		if subject, ok := image.Attached(name); !ok || !deleted[subject] {
			return false
		}
	}
	return len(deleted) > 0
}

func sharedBecause(inventory *image.Inventory, graph *image.Graph, kept image.Set, d digest.Digest) string {
	for _, parent := range graph.Parents(d) {
		if kept.Has(parent) {
			return "part of " + graph.Called(parent) + ", which stays"
		}
	}
	switch subject, ok := graph.Subject(d); {
	case ok && !inventory.Manifests.Has(subject):
		return "belongs to " + image.Short(subject) + ", which is not in this repository"
	case ok:
		return "belongs to " + graph.Called(subject) + ", which stays"
	}
	return "belongs to an image that stays"
}

func (p *Plan) judged(candidates []*candidate, inventory *image.Inventory, deleted map[digest.Digest]bool) {
	for _, c := range candidates {
		v := Verdict{Digest: c.digest, Tags: c.tags, Date: c.date.UTC(), Keep: c.keep, Reasons: c.reasons}
		if c.date.IsZero() {
			v.Date = time.Time{}
		}
		m := inventory.Manifests.Get(c.digest)
		v.CutOff = !v.Keep && (m != nil && m.Deleting || len(v.Tags) == 0 && deleted[c.digest])
		if v.Tags == nil {
			v.Tags = []string{}
		}
		v.Size = c.closure.Size()
		p.Images = append(p.Images, v)
	}
}

// steps lists what is deleted for the images that go: the image first, then what
// only it needs, then what belongs to it. Killed in between, what is left over
// belongs to nothing, and no image that stays lacks anything.
func (p *Plan) steps(candidates []*candidate, inventory *image.Inventory, graph *image.Graph, kept image.Set, deleted map[digest.Digest]bool) {
	done := graph.Marks()
	order := make([]Step, 0, max(0, inventory.Manifests.Len()-kept.Len()))
	var remove func(d digest.Digest, reason string)
	remove = func(d digest.Digest, reason string) {
		if kept.Has(d) || done.On(d) {
			return
		}
		done.Set(d)
		order = append(order, Step{Digest: d, Reason: reason})
		if m := inventory.Manifests.Get(d); m != nil && len(m.Children) > 0 {
			reason := "part of " + graph.Called(d)
			for _, c := range m.Children {
				remove(c.Digest, reason)
			}
		}
		if attached := graph.Attached(d); len(attached) > 0 {
			reason := "belongs to " + graph.Called(d)
			for _, a := range attached {
				remove(a, reason)
			}
		}
	}
	for _, c := range slices.Backward(candidates) { // the oldest first
		if !c.keep {
			remove(c.digest, "no rule keeps "+graph.Called(c.digest))
		}
	}
	for _, d := range slices.Sorted(inventory.Manifests.Digests()) {
		if len(p.Rules) > 0 && len(p.Unread) == 0 && dangling(inventory, graph, d) && orphaned(inventory, graph, deleted, d) {
			subject, _ := graph.Subject(d)
			remove(d, "belonged to "+image.Short(subject)+", which was deleted")
		}
	}
	p.Steps = ordered(order, inventory, graph)
	p.Frees = inventory.Size(inventory.Manifests.Digests()) - inventory.Size(func(yield func(digest.Digest) bool) {
		for d := range inventory.Manifests.Digests() {
			if !done.On(d) && !yield(d) {
				return
			}
		}
	})
}

// ordered are the steps for the manifests, with those for their tags before each.
// What is part of several goes after the last of them: until then each is whole,
// and some registries refuse to delete a part.
func ordered(manifests []Step, inventory *image.Inventory, graph *image.Graph) []Step {
	numbers := image.NewDigests() // those of the steps, in their order
	for _, s := range manifests {
		numbers.Add(s.Digest)
	}
	written := make([]bool, len(manifests))
	indexes := make([]int, len(manifests)) // that go, and are not written
	for n, s := range manifests {
		for _, parent := range graph.Parents(s.Digest) {
			if numbers.Has(parent) {
				indexes[n]++
			}
		}
	}
	steps := make([]Step, 0, 2*len(manifests))
	var write func(d digest.Digest)
	write = func(d digest.Digest) {
		n, ok := numbers.Find(d)
		if !ok || written[n] || indexes[n] > 0 {
			return
		}
		written[n] = true
		step := manifests[n]
		for _, tag := range graph.Tags(d) {
			steps = append(steps, Step{Tag: tag, Digest: step.Digest, Reason: step.Reason})
		}
		if !inventory.Missing[d] {
			steps = append(steps, step)
		}
		m := inventory.Manifests.Get(d)
		if m == nil {
			return
		}
		for i, c := range m.Children {
			// The same may be of two platforms.
			if !slices.ContainsFunc(m.Children[:i], func(b image.Child) bool { return b.Digest == c.Digest }) {
				if n, goes := numbers.Find(c.Digest); goes {
					indexes[n]--
				}
				write(c.Digest)
			}
		}
	}
	for _, s := range manifests {
		write(s.Digest)
	}
	return slices.Clip(steps)
}
