package peer

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// gitlabPolicy is a project's cleanup policy for container images: the attributes
// container_expiration_policy of the projects API, alone or in the answer for a
// project.
//
// Its meaning is that of GitLab's page "Reduce container registry storage", "How
// the cleanup policy works", and of CleanupTagsBaseService.
type gitlabPolicy struct {
	enabled   bool
	keepN     int // 0 for none
	olderThan int // in days; 0 for none
	// remove is what tags have to match to go; nil matches none.
	remove, keep *expression
}

const gitlabHint = "save the answer of GET /api/v4/projects/ID, or its container_expiration_policy"

func parseGitLab(doc *document, raw []byte) Policy {
	value, ok := doc.json(raw, gitlabHint)
	if !ok {
		return nil
	}
	o := doc.object(value, "")
	for _, wrapper := range []string{"container_expiration_policy", "container_expiration_policy_attributes"} {
		if o.has(wrapper) {
			o = doc.object(o.fields[wrapper], wrapper)
			break
		}
	}
	p := &gitlabPolicy{enabled: o.flag("enabled")}
	if !o.has("enabled") {
		o.fault("enabled", gitlabHint, "it is missing")
	}
	if o.has("cadence") {
		o.oneOf("cadence", "1d", "7d", "14d", "1month", "3month")
	}
	o.ignore("next_run_at", "project_id", "created_at", "updated_at")
	if o.has("keep_n") {
		p.keepN = o.count("keep_n", 1)
	}
	if text := o.text("older_than"); text != "" {
		n, err := strconv.Atoi(strings.TrimSuffix(text, "d"))
		if !strings.HasSuffix(text, "d") || err != nil || n < 1 {
			o.fault("older_than", "write 7d, 14d, 30d or 90d", "%q is no number of days", text)
		}
		p.olderThan = n
	}
	p.keep = expressionOf(o, "name_regex_keep", false)
	p.remove = expressionOf(o, "name_regex", false)
	if o.has("name_regex_delete") {
		p.remove = expressionOf(o, "name_regex_delete", false)
	}
	o.done()
	return p
}

// Kind implements [Policy].
func (p *gitlabPolicy) Kind() Kind { return GitLab }

// still says why the policy deletes nothing; empty if it may.
func (p *gitlabPolicy) still() string {
	switch {
	case !p.enabled:
		return "the policy is switched off: GitLab deletes nothing"
	case p.remove == nil:
		return "name_regex is empty, and matches no tag: GitLab deletes nothing"
	}
	return ""
}

// Rules implements [Policy].
//
//	GitLab keeps tags that                        the rule
//	are called latest                             pattern latest
//	do not match name_regex                       regex of the tags that do not
//	match name_regex_keep                         regex
//	are among the newest keep_n of the others     last keep_n, of the others
//	are not older than older_than                 newerThan
func (p *gitlabPolicy) Rules(image.Repository) (plan.Policy, []string) {
	if why := p.still(); why != "" {
		return plan.Policy{}, []string{why}
	}
	policy := plan.Policy{Grace: forGood, Rules: []plan.Rule{{Pattern: "latest"}}}
	notes := []string{"GitLab counts and deletes tags: of an image it may take some, and a signature is a tag like others; the rules keep an image with all its tags and what belongs to it", "images without a tag are not the policy's" + uncounted}
	add := func(rule plan.Rule) { policy.Rules = append(policy.Rules, rule) }
	removed, exact := p.remove.words()
	others, some := otherThan(removed)
	if some {
		add(others)
	}
	if !exact {
		notes = append(notes, fmt.Sprintf("GitLab keeps what does not match %s, which no rule can say in full: more stays", p.remove.source))
	}
	notes = append(notes, p.remove.looseNote("name_regex")...)
	if p.keep != nil {
		add(plan.Rule{Regex: p.keep.whole})
		notes = append(notes, p.keep.looseNote("name_regex_keep")...)
	}
	if p.olderThan > 0 {
		add(plan.Rule{NewerThan: days(p.olderThan)})
	}
	if p.keepN > 0 {
		rule, counted := p.counted(removed, exact && !some)
		if !counted {
			notes = append(notes, fmt.Sprintf("keep_n counts only the tags that nothing else keeps, which no rule can say of these expressions: all that match %s stay", p.remove.source))
		}
		add(rule)
	}
	return policy, notes
}

// counted is the rule for keep_n: it counts the tags that name_regex matches, and
// that are neither kept by their names nor latest. Every is whether name_regex
// matches all tags. Where that cannot be said, all that it matches stays.
func (p *gitlabPolicy) counted(removed []word, every bool) (plan.Rule, bool) {
	all := plan.Rule{Regex: p.remove.whole}
	kept := []word{{text: "latest", self: true}}
	if p.keep != nil {
		words, exact := p.keep.words()
		if !exact {
			return all, false
		}
		kept = append(kept, words...)
	}
	rule, some := otherThan(kept)
	switch {
	case !some: // all are kept by their names
		return plan.Rule{Regex: p.keep.whole}, true
	case every:
	case len(removed) == 1 && removed[0].longer && removed[0].self && p.rest(removed):
		rule.Pattern = removed[0].text + "*"
	default:
		return all, false
	}
	rule.Last = p.keepN
	return rule, true
}

// rest says whether a text can stand in a glob as it is, and name_regex is no
// more than the words.
func (p *gitlabPolicy) rest(words []word) bool {
	_, exact := p.remove.words()
	return exact && plainTag.MatchString(words[0].text)
}

var plainTag = regexp.MustCompile(`^[A-Za-z0-9_.-]*$`)

// Outcome implements [Policy].
func (p *gitlabPolicy) Outcome(inventory *image.Inventory, facts plan.Facts) Outcome {
	s := newShelf(inventory, facts)
	o := &Outcome{Peer: GitLab}
	still := p.still()
	if still != "" {
		o.Notes = append(o.Notes, still)
	}
	type dated struct {
		image.Tag
		at time.Time
	}
	var left []dated
	for _, name := range slices.Sorted(maps.Keys(inventory.Tags)) {
		tag := inventory.Tags[name]
		tag.Name = name
		switch {
		case still != "":
			o.keep(name, tag.Digest, "%s", still)
		case name == "latest":
			o.keep(name, tag.Digest, "latest always stays")
		case !p.remove.MatchString(name):
			o.keep(name, tag.Digest, "does not match %s", p.remove.source)
		case p.keep != nil && p.keep.MatchString(name):
			o.keep(name, tag.Digest, "matches %s", p.keep.source)
		case inventory.Missing[tag.Digest]:
			o.keep(name, tag.Digest, "it has no manifest")
		default:
			left = append(left, dated{tag, s.pushed(name, tag.Digest)})
		}
	}
	slices.SortStableFunc(left, func(a, b dated) int { return cmp.Or(newest(a.at, b.at), strings.Compare(b.Name, a.Name)) })
	for i, tag := range left {
		switch {
		case i < p.keepN:
			o.keep(tag.Name, tag.Digest, "number %d of the newest %d", i+1, p.keepN)
		case p.olderThan > 0 && tag.at.IsZero():
			o.keep(tag.Name, tag.Digest, "when it was pushed is not known")
		case p.olderThan > 0 && !tag.at.Before(facts.Now.Add(-days(p.olderThan))):
			o.keep(tag.Name, tag.Digest, "not older than %d days", p.olderThan)
		default:
			o.delete(tag.Name, tag.Digest, "matches %s, and nothing keeps it", p.remove.source)
		}
	}
	gone := s.collected(o)
	o.Notes = append(o.Notes, s.dates("they are taken for the newest")...)
	if len(inventory.Tags) > gitlabPage && p.keepN > 0 && still == "" {
		o.Notes = append(o.Notes, fmt.Sprintf("GitLab reads tags in pages of %d, and may keep %d of each", gitlabPage, p.keepN))
	}
	if len(gone) > 0 {
		o.Notes = append(o.Notes, "a manifest that no tag and no index leads to is collected after a day; one that refers to an image that stays is taken to stay")
	}
	return o.settle(gone)
}

// gitlabPage is how many tags CleanupTagsService reads at once.
const gitlabPage = 1000

// collected are the manifests that are lost to a collection of garbage once the
// tags are deleted: those that no tag that is left leads to, by children and by
// what refers to them. What no tag led to before is told as it is found: it stays
// in neither case for the policy's sake.
func (s *shelf) collected(o *Outcome) map[digest.Digest]bool {
	reach := func(entries []Entry) map[digest.Digest]bool {
		seen := map[digest.Digest]bool{}
		var visit func(d digest.Digest)
		visit = func(d digest.Digest) {
			if seen[d] {
				return
			}
			seen[d] = true
			m := s.Manifests.Get(d)
			if m == nil {
				return
			}
			for _, c := range m.Children {
				visit(c.Digest)
			}
			for _, a := range s.graph.Attached(d) {
				// What is kept under a tag of its own has no other tie.
				if s.Manifests.Subject(a) == d || slices.Contains(s.Referrers[d], a) {
					visit(a)
				}
			}
		}
		for _, e := range entries {
			visit(e.Digest)
		}
		return seen
	}
	kept, gone := reach(o.Keeps), map[digest.Digest]bool{}
	for d := range reach(o.Deletes) {
		if !kept[d] && s.Manifests.Has(d) {
			gone[d] = true
		}
	}
	for _, d := range s.all() {
		switch {
		case len(s.graph.Tags(d)) > 0:
		case gone[d]:
			o.delete("", d, "no tag leads to it any more")
		case kept[d]:
			o.keep("", d, "a tag leads to it")
		default:
			o.keep("", d, "no tag leads to it: it is not the policy's")
		}
	}
	return gone
}
