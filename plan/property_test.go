package plan_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"reflect"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

var (
	count  = flag.Int("plans", 20_000, "how many plans TestSafety checks")
	update = flag.Bool("update", false, "write the golden plans")
	seed   = flag.Uint64("seed", 1, "where TestSafety begins")
)

// noon is when the plans are made.
var noon = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

var (
	here  = image.Repository{Host: "gitea.example.com", Path: "team/api"}
	other = []image.Repository{
		{Host: "gitea.example.com", Path: "team/worker"},
		{Host: "docker.io", Path: "team/api"},
		{Host: "gitea.example.com:3000", Path: "team/api"},
	}
)

// draw returns a number from 0 to n-1; 0 is the simplest.
type draw func(n int) int

// often is true in k of n cases.
func (d draw) often(k, n int) bool { return d(n) >= n-k }

func pick[T any](d draw, from []T) T { return from[d(len(from))] }

// someCase is a repository with a policy and facts.
type someCase struct {
	registry *fakeRegistry
	policy   plan.Policy
	facts    plan.Facts
}

func (c someCase) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%vgrace %v\n", c.registry, c.policy.Grace)
	for _, r := range c.policy.Rules {
		fmt.Fprintf(&b, "  rule %v\n", r)
	}
	for _, u := range c.facts.Uses {
		fmt.Fprintf(&b, "  use %v\n", u.Reference)
	}
	fmt.Fprintf(&b, "  unknown uses %v, deleted %v, histories %v\n", c.facts.UsesUnknown, slices.Collect(maps.Keys(c.facts.Deleted)), c.facts.Histories)
	return b.String()
}

var (
	commits = []string{
		"0e4c1a7f2b9d4c6e8a0b1c2d3e4f5061728394a5",
		"237c6b8d51fa3e0c9b7a6655443322110f0e0d0c",
		"9f8e7d6c5b4a39281706f5e4d3c2b1a098877665",
	}
	names = []string{
		"v1.0.0", "v1.2.0", "v2.0.0-rc.1", "1.4", "2", "latest", "nightly", "dev",
		"237c6b8", "main-0e4c1a7", "9f8e7d6", "abcdef0", "pr-12", "release", "v1-debug", "3.0.0",
	}
	suffixes = []string{".sig", ".att", ".sbom", ""}
	main     = plan.Branch{Git: "/src", Refs: []string{"main"}}
	release  = plan.Branch{Git: "/src", Refs: []string{"release/*"}}
	patterns = []string{"v*", "*", "latest", "v1.?.0", "none*"}
	regexes  = []*regexp.Regexp{
		regexp.MustCompile(`v[0-9.]+`), regexp.MustCompile(`v1|v1\.0\.0|latest|late`), regexp.MustCompile(`[0-9a-f]{7}`), regexp.MustCompile(`(?m)^nightly$|^dev`),
	}
	ranges = []*semver.Constraints{must(semver.NewConstraint(">=1.0.0")), must(semver.NewConstraint("^1.2")), must(semver.NewConstraint(">=2.0.0-0"))}
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// dates draws moments: all apart, some equal, some missing, some made up.
type dates struct {
	draw
	missing, equal, madeUp bool
	next                   int
}

func (d *dates) at() time.Time {
	if d.missing && d.often(1, 3) {
		return time.Time{}
	}
	if d.madeUp && d.often(1, 4) {
		return time.Unix(0, 0).UTC()
	}
	if d.equal && d.often(1, 2) {
		return noon.Add(-time.Duration(1+d.draw(3)) * 10 * 24 * time.Hour)
	}
	d.next++
	return noon.Add(-time.Duration(d.draw(60))*24*time.Hour - time.Duration(d.next)*time.Minute)
}

func generate(d draw) someCase {
	r := &fakeRegistry{tags: map[string]fakeTag{}, lists: d.often(2, 3), referrers: d.often(1, 2)}
	at := &dates{draw: d, missing: d.often(1, 3), equal: d.often(1, 3), madeUp: d.often(1, 4)}
	pushes, pulls := d(3), d(3) // whether the registry tells: never, always, of some
	told := func(how int) time.Time {
		if how == 0 || how == 2 && d.often(1, 2) {
			return time.Time{}
		}
		return at.at()
	}
	n := 1 + d(11)
	if d.often(1, 16) {
		n += d(24)
	}
	untagged := d.often(1, 2)
	for i := range n {
		m := node{subject: -1, blobs: 1 << (3 * i % 40), created: at.at(), pushed: told(pushes), pulled: told(pulls)}
		if i > 0 && d.often(2, 5) {
			m.index, m.blobs = true, 0
			for range 1 + d(3) {
				c := d(i)
				if d.often(1, 24) {
					c = absent + d(total-absent)
				}
				if slices.Contains(m.children, c) && d.often(3, 4) {
					continue
				}
				if len(m.children) > 0 && d.often(1, 4) {
					m.attests |= one(c)
				}
				m.children = append(m.children, c)
			}
			if d.often(3, 4) {
				m.created = time.Time{}
			}
		} else {
			for range 2 {
				m.blobs |= one(d(40))
			}
			if d.often(1, 16) {
				m.foreign = one(d(40)) & m.blobs
			}
		}
		if i > 0 && d.often(1, 4) {
			if m.subject = d(i); d.often(1, 12) {
				m.subject = absent + d(total-absent)
			}
			m.listed = r.referrers && d.often(1, 4)
		}
		r.nodes = append(r.nodes, m)
		for d.often(2, 5) && (!untagged || d.often(2, 3)) {
			r.tags[pick(d, names)] = fakeTag{node: i, pushed: told(pushes), pulled: told(pulls)}
		}
	}
	for range d(5) {
		subject := d(n) // what comes later too: rings
		if d.often(1, 8) {
			subject = absent + d(total-absent)
		}
		r.tags["sha256-"+digests[subject].Encoded()+pick(d, suffixes)] = fakeTag{node: d(n), pushed: told(pushes), pulled: told(pulls)}
	}
	if d.often(1, 24) { // a tag that leads nowhere
		r.tags[pick(d, names)] = fakeTag{node: absent, pushed: told(pushes)}
	}
	if len(r.tags) == 0 && !r.lists {
		r.tags["v1.0.0"] = fakeTag{node: n - 1, pushed: told(pushes), pulled: told(pulls)}
	}
	if d.often(1, 16) {
		r.unread = []image.Unread{{What: "v9", Why: "500 Internal Server Error"}}
	}

	if d.often(1, 48) {
		r.skipped = d(n)
	}

	c := someCase{registry: r, facts: plan.Facts{Now: noon, Histories: map[string]plan.History{}, Deleted: map[digest.Digest]bool{}}}
	if d.often(1, 2) {
		c.policy.Grace = time.Duration(1+d(30))*24*time.Hour + 30*time.Second
	}
	for range d(4) {
		c.policy.Rules = append(c.policy.Rules, generateRule(d))
	}
	for range d(3) { // what earlier runs deleted, and what came back
		i := d(n)
		if d.often(2, 3) {
			i = absent + d(total-absent)
		}
		c.facts.Deleted[digests[i]] = true
	}
	for range d(4) {
		c.facts.Uses = append(c.facts.Uses, generateUse(d, r))
	}
	if d.often(1, 12) {
		c.facts.UsesUnknown = []string{"context prod: connection refused"}
	}
	for _, b := range []plan.Branch{main, release} {
		switch d(4) {
		case 0:
			c.facts.Histories[b.String()] = plan.History{Commits: commits[:2]}
		case 1:
			c.facts.Histories[b.String()] = plan.History{Commits: commits}
		case 2:
			c.facts.Histories[b.String()] = plan.History{Unknown: "not a git repository"}
		}
	}
	return c
}

func generateRule(d draw) plan.Rule {
	var r plan.Rule
	for range 1 + d(2) {
		switch d(9) {
		case 0, 1:
			r.Last = 1 + d(4)
		case 2:
			r.Pattern = pick(d, patterns)
		case 3:
			r.Regex = pick(d, regexes)
		case 4:
			r.Semver = pick(d, ranges)
		case 5:
			r.NewerThan = time.Duration(1+d(60))*24*time.Hour + 30*time.Second
		case 6:
			r.PulledWithin = time.Duration(1+d(60))*24*time.Hour + 30*time.Second
		case 7:
			r.Deployed = true
		case 8:
			r.Branch = &main
			if d.often(1, 2) {
				r.Branch = &release
			}
		}
	}
	return r
}

func generateUse(d draw, r *fakeRegistry) image.Use {
	u := image.Use{Reference: image.Reference{Repository: here}, Where: "Deployment team/api of context prod"}
	if d.often(1, 4) {
		u.Reference.Repository = pick(d, other)
	}
	if d.often(1, 2) {
		if u.Reference.Tag = pick(d, names); d.often(1, 3) {
			u.Reference.Tag = strings.ToUpper(u.Reference.Tag) // Gitea has it in lower case
		}
	}
	if d.often(1, 24) {
		return u
	}
	if u.Reference.Tag == "" || d.often(1, 6) {
		i := d(len(r.nodes))
		switch u.Reference.Digest = digests[i]; d(12) {
		case 11:
			u.Reference.Digest = digests[absent]
		case 10:
			if m := r.manifest(i); m.Config != nil { // as some runtimes know it
				u.Reference.Digest = m.Config.Digest
			}
		}
	}
	return u
}

// answer is what a rule or a model of it says of an image: where the
// documentation leaves it open, either.
type answer int

const (
	no answer = iota
	either
	yes
)

// unit is an image as the model sees it.
type unit struct {
	node           int
	tags           []string
	pushed, pulled []time.Time // of each tag, or else of the manifest without one
	odd            bool        // an attachment's tag leads to it too
}

// model is what the documentation of Decide says of a case.
type model struct {
	someCase
	*edges
	units []unit
	// claimed are those that say that they belong to what is not there. They
	// may stay, for what is not there may be in another repository.
	claimed set
	// orphans are those of them of which regkeeper deleted what they belong to.
	orphans set
	// pushes says whether the registry tells when images were pushed.
	pushes bool
}

func newModel(c someCase) *model {
	m := &model{someCase: c, edges: c.registry.edges()}
	byNode := map[int]*unit{}
	get := func(i int) *unit {
		if byNode[i] == nil {
			byNode[i] = &unit{node: i}
		}
		return byNode[i]
	}
	var odd set
	for name, tag := range c.registry.tags {
		if attachedTo(name) >= 0 {
			odd |= one(tag.node)
			continue
		}
		u := get(tag.node)
		u.tags = append(u.tags, name)
		u.pushed, u.pulled = append(u.pushed, tag.pushed), append(u.pulled, tag.pulled)
	}
	var elsewhere set // what belongs to something that is not there
	for s, belongs := range m.belongs {
		if !m.visible.has(s) {
			elsewhere |= belongs
		}
	}
	if c.registry.lists {
		for i := range (m.visible &^ m.tagged).each {
			n := c.registry.nodes[i]
			if m.partOf(i) == 0 && !elsewhere.has(i) {
				u := get(i)
				u.pushed, u.pulled = []time.Time{n.pushed}, []time.Time{n.pulled}
			}
		}
	}
	for i := range total {
		if u := byNode[i]; u != nil {
			u.odd = odd.has(i)
			slices.Sort(u.tags)
			m.units = append(m.units, *u)
			m.pushes = m.pushes || len(u.tags) > 0 && slices.ContainsFunc(u.pushed, func(at time.Time) bool { return at.Year() >= 1980 })
		}
	}
	m.claim(byNode)
	return m
}

// partOf are the manifests that need the manifest or that it belongs to, but
// for those that are its own parts: to belong to itself makes nothing a part.
func (m *model) partOf(i int) set {
	var holders set
	for h := range m.visible.each {
		if (m.needs[h] | m.belongs[h]).has(i) {
			holders |= one(h)
		}
	}
	return holders &^ m.closure(one(i))
}

func (m *model) claim(images map[int]*unit) {
	var inUse set
	for _, use := range m.facts.Uses {
		if use.Reference.Path != here.Path { // a registry can have several names
			continue
		}
		inUse |= m.meant(use.Reference.Digest)
		if tag, ok := m.registry.tags[strings.ToLower(use.Reference.Tag)]; ok {
			inUse |= one(tag.node)
		}
	}
	for i := range m.visible.each {
		var subjects set
		if n := m.registry.nodes[i]; n.subject >= 0 && !n.listed {
			subjects |= one(n.subject)
		}
		for name, tag := range m.registry.tags {
			if s := attachedTo(name); s >= 0 && tag.node == i {
				subjects |= one(s)
			}
		}
		if subjects.within(m.visible) {
			continue
		}
		m.claimed |= one(i)
		deleted := true
		for s := range subjects.each {
			deleted = deleted && m.facts.Deleted[digests[s]]
		}
		if deleted && images[i] == nil && m.closure(one(i))&inUse == 0 {
			m.orphans |= one(i)
		}
	}
}

// built is the date of the manifest, or else the latest of its platforms.
func (m *model) built(i int) time.Time {
	if !m.registry.exists(i) {
		return time.Time{}
	}
	n := m.registry.nodes[i]
	if n.created.Year() >= 1980 {
		return n.created
	}
	var latest time.Time
	for _, c := range n.children {
		if at := m.built(c); !n.attests.has(c) && at.After(latest) {
			latest = at
		}
	}
	return latest
}

// date is when the image was last pushed, or else built; and whether that is
// beyond question.
func (m *model) date(u unit) (time.Time, bool) {
	var latest time.Time
	certain := !u.odd
	for _, at := range u.pushed {
		if at.Year() < 1980 { // nobody pushed then: the registry does not know
			certain = certain && len(u.pushed) == 1
			continue
		}
		if at.After(latest) {
			latest = at
		}
	}
	if latest.IsZero() {
		// Where some were pushed at a time that is known, when others were built
		// tells little of when they came.
		return m.built(u.node), !u.odd && (!m.pushes || m.built(u.node).IsZero())
	}
	return latest, certain
}

func (m *model) newer(u unit, within time.Duration) answer {
	at, certain := m.date(u)
	switch {
	case !certain:
		return either
	case at.IsZero() || !at.Before(noon.Add(-within)):
		return yes
	}
	return no
}

func (m *model) pulled(u unit, within time.Duration) answer {
	told := false
	best := no
	for _, at := range u.pulled {
		switch {
		case at.Year() < 1980:
			best = either // one of its tags
		case !at.Before(noon.Add(-within)):
			return yes
		default:
			told = true
		}
	}
	if !told && !u.odd {
		return yes
	}
	if u.odd {
		return either
	}
	return best
}

func (m *model) byTags(r plan.Rule, u unit) answer {
	conditions := []func(string) answer{}
	if r.Pattern != "" {
		conditions = append(conditions, func(tag string) answer { return known(must(path.Match(r.Pattern, tag))) })
	}
	if r.Regex != nil {
		whole := regexp.MustCompile(`\A(?:` + r.Regex.String() + `)\z`)
		conditions = append(conditions, func(tag string) answer { return known(whole.MatchString(tag)) })
	}
	if r.Semver != nil {
		conditions = append(conditions, func(tag string) answer {
			v, err := semver.NewVersion(tag)
			return known(err == nil && r.Semver.Check(v))
		})
	}
	if r.Branch != nil {
		history, ok := m.facts.Histories[r.Branch.String()]
		if !ok || history.Unknown != "" {
			conditions = append(conditions, func(string) answer { return yes })
		} else {
			conditions = append(conditions, func(tag string) answer {
				parts := strings.FieldsFunc(tag, func(c rune) bool { return !strings.ContainsRune("0123456789abcdef", c) })
				for _, part := range parts {
					for _, commit := range history.Commits {
						if len(part) >= 7 && strings.HasPrefix(commit, part) {
							return yes
						}
					}
				}
				return no
			})
		}
	}
	if len(conditions) == 0 {
		return yes
	}
	unknown := r.Branch != nil && len(conditions) == 1 && conditions[0]("") == yes
	if len(u.tags) == 0 {
		if unknown {
			return either // of an image without a tag, no history says anything
		}
		return no
	}
	// One tag that meets all is enough. Of several that meet each a part, the
	// documentation does not say.
	best := no
	var met int
	for i, condition := range conditions {
		for _, tag := range u.tags {
			if condition(tag) == yes {
				met |= 1 << i
			}
		}
	}
	if met == 1<<len(conditions)-1 {
		best = either
	}
	for _, tag := range u.tags {
		all := true
		for _, condition := range conditions {
			all = all && condition(tag) == yes
		}
		if all {
			best = yes
		}
	}
	return best
}

func known(ok bool) answer {
	if ok {
		return yes
	}
	return no
}

// meant are the manifests that a use's digest tells of: its own, or those with
// the config.
func (m *model) meant(d digest.Digest) set {
	if i, ok := numbers[d]; ok {
		return one(i)
	}
	var all set
	for i, n := range m.registry.nodes {
		for b := range (n.blobs &^ n.foreign).each {
			if blobDigests[b] == d && !n.index {
				all |= one(i)
			}
			break // the first is the config
		}
	}
	return all & m.visible
}

func (m *model) deployed(u unit) answer {
	if len(m.facts.UsesUnknown) > 0 {
		return yes
	}
	var images set
	for _, v := range m.units {
		images |= one(v.node)
	}
	inside := one(u.node)
	for grown := set(0); grown != inside; {
		grown = inside
		for i := range grown.each {
			inside |= m.needs[i]
		}
	}
	around := m.closure(one(u.node)) // what is attached may be in use too
	best := no
	for _, use := range m.facts.Uses {
		ref := use.Reference
		if ref.Path != here.Path {
			continue
		}
		if ref.Tag == "" && ref.Digest == "" { // a tag that nobody knows: any
			if len(u.tags) > 0 {
				return yes
			}
			best = either
		}
		for i := range m.meant(ref.Digest).each {
			switch {
			case i == u.node, inside.has(i) && !images.has(i):
				return yes
			case around.has(i):
				best = either
			}
		}
		for name, tag := range m.registry.tags {
			switch {
			case !strings.EqualFold(name, ref.Tag):
			case tag.node == u.node && ref.Digest == "":
				return yes
			case around.has(tag.node): // beside a digest, that counts
				best = either
			}
		}
	}
	return best
}

// others says whether the image meets all conditions of the rule but Last.
func (m *model) others(r plan.Rule, u unit) answer {
	best := m.byTags(r, u)
	if r.NewerThan > 0 {
		best = min(best, m.newer(u, r.NewerThan))
	}
	if r.PulledWithin > 0 {
		best = min(best, m.pulled(u, r.PulledWithin))
	}
	if r.Deployed {
		best = min(best, m.deployed(u))
	}
	return best
}

// uncertain says whether one of the conditions could only be guessed.
func (m *model) uncertain(r plan.Rule, u unit) bool {
	unknown := r.Deployed && len(m.facts.UsesUnknown) > 0
	unknown = unknown || r.PulledWithin > 0 && slices.ContainsFunc(u.pulled, func(at time.Time) bool { return at.Year() < 1980 })
	if at, _ := m.date(u); r.NewerThan > 0 && at.IsZero() {
		unknown = true
	}
	if r.Branch != nil {
		h, ok := m.facts.Histories[r.Branch.String()]
		unknown = unknown || !ok || h.Unknown != ""
	}
	return unknown
}

// kept says, of each image, whether the rule keeps it.
func (m *model) kept(r plan.Rule) []answer {
	answers := make([]answer, len(m.units))
	for i, u := range m.units {
		answers[i] = m.others(r, u)
	}
	if r.Last == 0 {
		return answers
	}
	// What counts are images with a tag, but for what is part of one that counts
	// and came before it; and for this only that there is nothing to guess.
	exact := true
	var moments []time.Time
	silent := map[time.Time]bool{}
	covered := make([]bool, len(m.units))
	for i, u := range m.units {
		if answers[i] == no || len(u.tags) == 0 {
			continue
		}
		at, certain := m.date(u)
		exact = exact && certain && answers[i] == yes && !m.uncertain(r, u)
		for k, v := range m.units {
			if i == k || answers[k] == no || len(v.tags) == 0 || !m.closure(one(v.node)).has(u.node) {
				continue
			}
			other, _ := m.date(v)
			if at.Equal(other) {
				exact = exact && !m.built(v.node).Before(m.built(u.node)) && !m.closure(one(u.node)).has(v.node)
			}
			covered[i] = covered[i] || other.IsZero() || !at.IsZero() && !other.Before(at)
		}
		if !covered[i] && !at.IsZero() {
			moments = append(moments, at)
			silent[at] = silent[at] || m.built(u.node).IsZero()
		}
	}
	slices.SortFunc(moments, func(a, b time.Time) int { return b.Compare(a) })
	for i, u := range m.units {
		at, certain := m.date(u)
		switch {
		case answers[i] == no:
		case r.Deployed && len(m.facts.UsesUnknown) > 0 && answers[i] == yes:
		case !exact || len(u.tags) == 0:
			if !certain || !at.IsZero() || answers[i] == either || len(u.tags) == 0 || covered[i] {
				answers[i] = either
			}
		case covered[i]:
			answers[i] = no
		case at.IsZero(), len(moments) <= r.Last:
		case at.Equal(moments[r.Last-1]):
			tie := moments[r.Last].Equal(at) || r.Last > 1 && moments[r.Last-2].Equal(at)
			if tie && !silent[at] { // all may say when they were built
				answers[i] = either
			}
		case at.Before(moments[r.Last-1]):
			answers[i] = no
		}
	}
	return answers
}

// verdicts says, of each image, whether it has to be kept for itself.
func (m *model) verdicts() []answer {
	best := make([]answer, len(m.units))
	for _, r := range m.policy.Rules {
		for i, a := range m.kept(r) {
			best[i] = max(best[i], a)
		}
	}
	for i, u := range m.units {
		switch {
		case len(m.policy.Rules) == 0 || len(m.registry.unread) > 0:
			best[i] = yes
		case len(u.tags) == 0 && !m.lost() && m.facts.Deleted[digests[u.node]]:
		case len(u.tags) == 0 && m.lost(), !m.registry.exists(u.node):
			best[i] = yes
		case len(u.tags) == 0 && (u.pushed[0].Year() < 1980 || u.pushed[0].After(noon.Add(-m.policy.Grace))):
			best[i] = yes
		}
	}
	return best
}

// lost says whether a manifest is not there that may be an index. The fake's
// indexes name all their children as images.
func (m *model) lost() bool {
	for _, tag := range m.registry.tags {
		if !m.registry.exists(tag.node) {
			return true
		}
	}
	return false
}

// check compares a plan with the model, carries it out, and looks at what is
// left.
func (m *model) check(p *plan.Plan) error {
	var keeps, goes, judged set
	for _, v := range p.Images {
		i, ok := numbers[v.Digest]
		if !ok || judged.has(i) {
			return fmt.Errorf("a verdict of %s: twice, or of nothing", v.Digest)
		}
		judged |= one(i)
		if len(v.Reasons) == 0 || slices.Contains(v.Reasons, "") {
			return fmt.Errorf("no reason for the verdict of %d", i)
		}
		if v.Keep {
			keeps |= one(i)
		} else {
			goes |= one(i)
		}
		if want := m.registry.bytes(m.closure(one(i)) & m.visible); v.Size != want {
			return fmt.Errorf("size of %d is %d, want %d", i, v.Size, want)
		}
	}
	if p.Gone() != goes.size() {
		return fmt.Errorf("Gone is %d, want %d", p.Gone(), goes.size())
	}
	if !slices.IsSortedFunc(p.Images, newestFirst) {
		return errors.New("the images are not sorted by date")
	}

	var images, must, may set
	for i, a := range m.verdicts() {
		u := m.units[i]
		images |= one(u.node)
		if a == yes {
			must |= one(u.node)
		}
		if a >= either {
			may |= one(u.node)
		}
	}
	if images != judged {
		return fmt.Errorf("judged are %b, and images are %b", judged, images)
	}
	if !must.within(keeps) {
		return fmt.Errorf("%b must be kept, and %b are", must, keeps)
	}

	// What belongs to nothing any more goes as images do.
	leaves := goes
	if len(m.policy.Rules) > 0 && len(m.registry.unread) == 0 {
		leaves |= m.orphans
	}
	// What nobody judges stays, with all that it needs and that belongs to it.
	unjudged := m.visible &^ m.closure(judged|leaves)
	for name, tag := range m.registry.tags {
		if s := attachedTo(name); s >= 0 && !m.closure(leaves).has(s) && !leaves.has(tag.node) {
			unjudged |= one(tag.node)
		}
	}
	stays := m.closure(keeps | unjudged)
	if goes&stays != 0 {
		return fmt.Errorf("%b are said to go, and are reached from what stays", goes&stays)
	}
	claimed := m.closure(m.claimed &^ leaves)
	if reached := m.closure(keeps&may|unjudged) | claimed; !keeps.within(reached | may) {
		return fmt.Errorf("%b are kept for nothing", keeps&^(reached|may))
	}
	ends := m.closure(leaves) &^ stays // what may be deleted, and has to be

	after := m.registry.clone()
	for k, s := range p.Steps {
		i, ok := numbers[s.Digest]
		if !ok || s.Reason == "" {
			return fmt.Errorf("step %d (%v): of nothing, or for nothing", k, s)
		}
		if !ends.has(i) {
			return fmt.Errorf("step %d (%v) is for %d, that stays", k, s, i)
		}
		var err error
		if s.Tag != "" {
			err = after.deleteTag(s.Tag, s.Digest)
		} else {
			err = after.deleteManifest(s.Digest, m.visible)
		}
		if err != nil {
			return fmt.Errorf("step %d (%v): %w", k, s, err)
		}
	}
	// The steps only ever take away. What is there after the last was there after
	// each: a run that ends early has lost nothing more.
	if err := m.whole(after, stays); err != nil {
		return err
	}
	for i := range (ends &^ claimed).each {
		if after.exists(i) && m.visible.has(i) {
			return fmt.Errorf("manifest %d is left, and only what goes needs it", i)
		}
		for name, tag := range after.tags {
			if tag.node == i {
				return fmt.Errorf("tag %s is left, and leads to %d that goes", name, i)
			}
		}
	}
	var left, deleted set
	for i := range m.visible.each {
		if after.exists(i) {
			left |= one(i)
		} else {
			deleted |= one(i)
		}
	}
	if want := m.registry.bytes(left|deleted) - m.registry.bytes(left); p.Frees != want {
		return fmt.Errorf("it says that it frees %d, and it frees %d", p.Frees, want)
	}
	return m.again(p, after)
}

// whole looks at what has to stay as those do who use it: by pulling all of it
// by tag and by digest, and by looking for what is attached in each of the ways.
func (m *model) whole(after *fakeRegistry, stays set) error {
	for name, tag := range m.registry.tags {
		if now, ok := after.tags[name]; stays.has(tag.node) && (!ok || now.node != tag.node) {
			return fmt.Errorf("tag %s of %d is gone", name, tag.node)
		}
	}
	for i := range stays.each {
		if !m.registry.exists(i) || !m.visible.has(i) {
			continue
		}
		if !after.exists(i) {
			return fmt.Errorf("manifest %d is gone", i)
		}
		for _, c := range after.nodes[i].children {
			if m.registry.exists(c) && !after.exists(c) {
				return fmt.Errorf("child %d of %d is gone", c, i)
			}
		}
		for k, n := range m.registry.nodes {
			if n.subject == i && m.visible.has(k) && !after.exists(k) {
				return fmt.Errorf("referrer %d of %d is gone", k, i)
			}
		}
		for _, suffix := range suffixes {
			name := "sha256-" + digests[i].Encoded() + suffix
			if was, ok := m.registry.tags[name]; ok && after.tags[name] != was {
				return fmt.Errorf("%s of %d is gone", suffix, i)
			}
		}
	}
	// Nothing that something uses is gone.
	if !slices.ContainsFunc(m.policy.Rules, func(r plan.Rule) bool { return reflect.DeepEqual(r, plan.Rule{Deployed: true}) }) {
		return nil
	}
	for _, use := range m.facts.Uses {
		if use.Reference.Path != here.Path { // a registry can have several names
			continue
		}
		for i := range (m.meant(use.Reference.Digest) & m.visible).each {
			if !after.exists(i) {
				return fmt.Errorf("%d is in use and gone", i)
			}
		}
		for name, tag := range m.registry.tags {
			if use.Reference.Digest == "" && strings.EqualFold(name, use.Reference.Tag) && after.tags[name] != tag {
				return fmt.Errorf("tag %s is in use and gone", name)
			}
		}
	}
	return nil
}

// again decides for what is left: nothing more goes.
func (m *model) again(p *plan.Plan, after *fakeRegistry) error {
	if len(p.Steps) == 0 {
		return nil
	}
	then := m.someCase
	then.registry = after
	left := newModel(then)
	if left.pushes != m.pushes {
		return nil // no image that is left says when it was pushed: then others' dates count
	}
	if left.visible != m.visible&^deletes(p) {
		return nil // what belongs to something unknown stayed, and is not found any more
	}
	q := plan.Decide(m.policy, after.crawl(here), m.facts)
	if len(q.Steps) > 0 {
		return fmt.Errorf("once carried out, there is more to do: %v", q.Steps)
	}
	var before, now set
	for _, v := range p.Images {
		if v.Keep {
			before |= one(numbers[v.Digest])
		}
	}
	for _, v := range q.Images {
		now |= one(numbers[v.Digest])
	}
	if !before.within(now) { // what was part of what went may count as an image since
		return fmt.Errorf("%b are kept, and afterwards %b", before, now)
	}
	return nil
}

func newestFirst(a, b plan.Verdict) int {
	switch {
	case a.Date.IsZero() && b.Date.IsZero():
		return 0
	case a.Date.IsZero():
		return -1
	case b.Date.IsZero():
		return 1
	}
	return b.Date.Compare(a.Date)
}

// deletes are the manifests that the steps of a plan delete.
func deletes(p *plan.Plan) set {
	var s set
	for _, step := range p.Steps {
		s |= one(numbers[step.Digest])
	}
	return s
}

// checkCase decides the case that is drawn, and checks the plan; and, of some,
// how it compares with plans for a little more.
func checkCase(d draw) (c someCase, err error) {
	c = generate(d)
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	inventory := c.registry.crawl(here)
	p := plan.Decide(c.policy, inventory, c.facts)
	m := newModel(c)
	if c.registry.skipped > 0 && m.visible.has(c.registry.skipped) {
		if len(p.Steps) > 0 || p.Gone() > 0 || p.Frees != 0 {
			return c, fmt.Errorf("of a repository that was read in part goes %b", deletes(p))
		}
		return c, nil
	}
	if err := m.check(p); err != nil {
		return c, err
	}
	switch d(8) {
	case 0: // the order of maps
		q := plan.Decide(c.policy, c.registry.crawl(here), c.facts)
		if !reflect.DeepEqual(p, q) {
			return c, fmt.Errorf("two plans for one case: %+v and %+v", p, q)
		}
	case 1: // the inventory is only read
		if want := c.registry.crawl(here); !reflect.DeepEqual(unpacked(inventory), unpacked(want)) || !reflect.DeepEqual(inventory.Tags, want.Tags) ||
			!reflect.DeepEqual(inventory.Untagged, want.Untagged) || !reflect.DeepEqual(inventory.Missing, want.Missing) {
			return c, errors.New("Decide changed the inventory")
		}
	case 2:
		if err := roundTrip(p); err != nil {
			return c, err
		}
	case 3: // one rule more
		if len(c.policy.Rules) == 0 {
			break
		}
		more := c.policy
		rule := generateRule(d)
		more.Rules = slices.Insert(slices.Clone(more.Rules), d(len(more.Rules)+1), rule)
		if q := plan.Decide(more, inventory, c.facts); !deletes(q).within(deletes(p)) {
			return c, fmt.Errorf("with the rule %v more goes: %b, not %b", rule, deletes(q), deletes(p))
		}
	case 4: // one use more
		if slices.ContainsFunc(c.policy.Rules, func(r plan.Rule) bool { return r.Deployed && r.Last > 0 }) {
			break // "the last that are deployed": a newer one takes an older one's place
		}
		facts := c.facts
		use := generateUse(d, c.registry)
		facts.Uses = append(slices.Clone(facts.Uses), use)
		if q := plan.Decide(c.policy, inventory, facts); !deletes(q).within(deletes(p)) {
			return c, fmt.Errorf("with the use %v more goes: %b, not %b", use.Reference, deletes(q), deletes(p))
		}
	case 5: // something that was known is not
		facts := c.facts
		facts.UsesUnknown = []string{"context prod: timeout"}
		facts.Histories = nil
		if q := plan.Decide(c.policy, inventory, facts); !deletes(q).within(deletes(p)) {
			return c, fmt.Errorf("knowing less, more goes: %b, not %b", deletes(q), deletes(p))
		}
	case 6: // a run that ended early is taken up again
		if err := resumed(c, p, d); err != nil {
			return c, err
		}
	}
	return c, nil
}

// resumed carries out a part of the plan and then decides anew: what goes in the
// end is not more than what was to go.
func resumed(c someCase, p *plan.Plan, d draw) error {
	if len(p.Steps) == 0 {
		return nil
	}
	half := c.registry.clone()
	var gone set
	c.facts.Deleted = maps.Clone(c.facts.Deleted)
	for _, s := range p.Steps[:d(len(p.Steps))] {
		if s.Tag != "" {
			delete(half.tags, s.Tag)
		} else {
			half.nodes[numbers[s.Digest]].gone = true
			gone |= one(numbers[s.Digest])
			c.facts.Deleted[s.Digest] = true
		}
	}
	before := newModel(c)
	c.registry = half
	now := newModel(c)
	q := plan.Decide(c.policy, half.crawl(here), c.facts)
	// What belonged to what went, and to what went before, goes now.
	found := now.visible == before.visible&^gone // without lists of referrers some are found by an index only
	if found && now.pushes == before.pushes && !deletes(q).within(deletes(p)|before.closure(before.claimed)) {
		return fmt.Errorf("taken up again, more goes: %b, not %b", deletes(q), deletes(p))
	}
	return now.check(q)
}

func roundTrip(p *plan.Plan) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return err
	}
	var q plan.Plan
	if err := json.Unmarshal(raw, &q); err != nil {
		return err
	}
	again, err := json.Marshal(&q)
	if err != nil {
		return err
	}
	if !bytes.Equal(raw, again) {
		return fmt.Errorf("JSON is not stable:\n%s\n%s", raw, again)
	}
	return nil
}

// TestMain lets garbage be: a plan is small, and there are many.
func TestMain(m *testing.M) {
	flag.Parse()
	debug.SetGCPercent(1000)
	os.Exit(m.Run())
}

// TestSafety checks what no plan may do, and what every plan has to, over many
// repositories that are unlike any that a person would think of.
func TestSafety(t *testing.T) {
	t.Parallel()
	n := *count
	if testing.Short() {
		n = min(n, 10_000)
	}
	var steps, gone, kept int
	for i := range n {
		var drawn []int
		random := rand.New(rand.NewPCG(*seed, uint64(i)))
		c, err := checkCase(func(n int) int {
			k := random.IntN(n)
			drawn = append(drawn, k)
			return k
		})
		if err != nil {
			shortest, c, err := shrink(drawn, c, err)
			t.Fatalf("plan %d (-seed %d): %v\n%v\n%s\ndrawn: %v", i, *seed, err, c, shown(c), shortest)
		}
		if i%64 == 0 {
			p := plan.Decide(c.policy, c.registry.crawl(here), c.facts)
			steps += len(p.Steps)
			gone += p.Gone()
			kept += len(p.Images) - p.Gone()
		}
	}
	t.Logf("%d plans; of every 64th together: %d images kept, %d gone, in %d steps", n, kept, gone, steps)
	if gone == 0 || kept == 0 {
		t.Error("nothing was decided")
	}
}

// TestSafetyRapid is the same with rapid, that draws more extreme cases.
func TestSafetyRapid(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		c, err := checkCase(func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "drawn") })
		if err != nil {
			rt.Fatalf("%v\n%v\n%s", err, c, shown(c))
		}
	})
}

func shown(c someCase) string {
	p := plan.Decide(c.policy, c.registry.crawl(here), c.facts)
	var b strings.Builder
	for _, v := range p.Images {
		fmt.Fprintf(&b, "  image %d %v keep %v: %s\n", numbers[v.Digest], v.Tags, v.Keep, strings.Join(v.Reasons, "; "))
	}
	for _, s := range p.Steps {
		fmt.Fprintf(&b, "  step %q %d: %s\n", s.Tag, numbers[s.Digest], s.Reason)
	}
	return b.String()
}

// shrink looks for fewer and smaller draws with which the check still fails.
// What is drawn after the last is 0.
func shrink(drawn []int, c someCase, err error) ([]int, someCase, error) {
	replay := func(list []int) bool {
		at := 0
		got, failure := checkCase(func(n int) int {
			at++
			if at > len(list) {
				return 0
			}
			return min(list[at-1], n-1)
		})
		if failure != nil {
			drawn, c, err = slices.Clone(list[:min(at, len(list))]), got, failure
		}
		return failure != nil
	}
	for progress := true; progress; {
		progress = false
		for size := 16; size > 0; size /= 2 {
			for i := 0; i+size <= len(drawn); i++ {
				if replay(slices.Delete(slices.Clone(drawn), i, i+size)) {
					progress = true
					i--
				}
			}
		}
		for i := 0; i < len(drawn); i++ {
			for v := 0; i < len(drawn) && v < drawn[i]; v++ {
				smaller := slices.Clone(drawn)
				smaller[i] = v
				if replay(smaller) {
					progress = true
					break
				}
			}
		}
	}
	return drawn, c, err
}

// unpacked are the manifests of an inventory.
func unpacked(v *image.Inventory) map[digest.Digest]*image.Manifest {
	return maps.Collect(v.Manifests.All())
}
