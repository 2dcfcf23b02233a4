package peer

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// harborPolicy is a project's retention policy, as GET /api/v2.0/retentions/{id}
// answers it (RetentionPolicy of Harbor's swagger.yaml).
//
// Its meaning is that of src/pkg/retention of Harbor: artifacts are candidates,
// the rules are joined by OR, and what no rule retains goes. See also
// src/controller/artifact, whose deletion takes children and accessories along.
type harborPolicy struct {
	rules []harborRule
}

type harborRule struct {
	disabled bool
	template string
	n        int
	tags     []harborSelector
	scope    []harborSelector
}

type harborSelector struct {
	excludes bool
	pattern  string
	untagged bool // whether it selects artifacts without a tag
}

const harborHint = "save the answer of GET /api/v2.0/retentions/ID"

// harborTemplates are the templates of rules, and whether they have a number.
var harborTemplates = map[string]bool{
	"always": false, "latestPushedK": true, "latestPulledN": true, "nDaysSinceLastPush": true, "nDaysSinceLastPull": true, "latestActiveK": true, "lastXDays": true,
}

func parseHarbor(doc *document, raw []byte) Policy {
	value, ok := doc.json(raw, harborHint)
	if !ok {
		return nil
	}
	o := doc.object(value, "")
	o.ignore("id", "trigger", "scope", "rules")
	o.oneOf("algorithm", "or")
	if o.has("scope") {
		scope := doc.object(o.fields["scope"], "scope")
		scope.oneOf("level", "project")
	}
	if !o.has("rules") {
		o.fault("rules", harborHint, "it is missing")
	}
	p := &harborPolicy{}
	for _, rule := range o.objects("rules") {
		p.rules = append(p.rules, parseHarborRule(doc, rule))
	}
	o.done()
	return p
}

func parseHarborRule(doc *document, o *object) harborRule {
	o.ignore("id", "priority")
	o.oneOf("action", "retain")
	r := harborRule{disabled: o.flag("disabled"), template: o.oneOf("template", "always", "latestPushedK", "latestPulledN", "nDaysSinceLastPush", "nDaysSinceLastPull", "latestActiveK", "lastXDays")}
	params := o.get("params")
	if harborTemplates[r.template] {
		p := doc.object(params, join(o.at, "params"))
		if !p.has(r.template) {
			p.fault(r.template, "write how many", "it is missing")
		}
		r.n = p.count(r.template, 0)
		p.done()
	}
	for _, selector := range o.objects("tag_selectors") {
		r.tags = append(r.tags, parseHarborSelector(selector, "matches", "excludes"))
	}
	if len(r.tags) == 0 {
		o.fault("tag_selectors", `write [{"kind": "doublestar", "decoration": "matches", "pattern": "**"}]`, "there is none")
	}
	scope := doc.object(o.get("scope_selectors"), join(o.at, "scope_selectors"))
	for _, selector := range scope.objects("repository") {
		r.scope = append(r.scope, parseHarborSelector(selector, "repoMatches", "repoExcludes"))
	}
	scope.done()
	o.done()
	return r
}

func parseHarborSelector(o *object, matches, excludes string) harborSelector {
	o.oneOf("kind", "doublestar")
	s := harborSelector{excludes: o.oneOf("decoration", matches, excludes) == excludes, pattern: o.text("pattern")}
	if !o.has("pattern") {
		o.fault("pattern", `write "**" for all`, "it is missing")
	}
	if !doublestar.ValidatePattern(s.pattern) {
		o.fault("pattern", `write it as "release-*"`, "%q cannot be read", s.pattern)
	}
	// Harbor's own default, for policies older than the question.
	s.untagged = !s.excludes
	if extras := o.text("extras"); extras != "" {
		var of struct {
			Untagged bool `json:"untagged"`
		}
		if err := json.Unmarshal([]byte(extras), &of); err != nil {
			o.fault("extras", `write it as "{\"untagged\":true}"`, "it cannot be read: %v", err)
		}
		s.untagged = of.Untagged
	}
	return s
}

// matches says whether the pattern matches a name. One that is empty matches all.
func (s harborSelector) matches(name string) bool {
	ok, err := doublestar.Match(s.pattern, name)
	return s.pattern == "" || err == nil && ok
}

// selects says whether an artifact with these tags is selected: by one tag that
// matches, or by one that is not excluded.
func (s harborSelector) selects(tags []string) bool {
	if len(tags) == 0 {
		return s.untagged != s.excludes
	}
	return slices.ContainsFunc(tags, func(tag string) bool { return s.matches(tag) != s.excludes })
}

// covers says whether the rule is for the repository: its name without the
// project's.
func (r harborRule) covers(repository image.Repository) bool {
	_, name, _ := strings.Cut(repository.Path, "/")
	return !slices.ContainsFunc(r.scope, func(s harborSelector) bool { return s.matches(name) == s.excludes })
}

// Kind implements [Policy].
func (p *harborPolicy) Kind() Kind { return Harbor }

// String is the rule as Harbor names it.
func (r harborRule) String() string {
	text := r.template
	if harborTemplates[r.template] {
		text += fmt.Sprintf(" %d", r.n)
	}
	for _, s := range r.tags {
		if s.excludes {
			text += " excluding " + s.pattern
		} else if s.pattern != "**" && s.pattern != "" {
			text += " matching " + s.pattern
		}
	}
	return text
}

// running are the rules that are for the repository.
func (p *harborPolicy) running(repository image.Repository) []harborRule {
	var rules []harborRule
	for _, r := range p.rules {
		if !r.disabled && r.covers(repository) {
			rules = append(rules, r)
		}
	}
	return rules
}

const harborStill = "no rule of the policy is for this repository: Harbor deletes nothing"

// Rules implements [Policy].
//
//	Harbor retains                    the rule
//	always                            the tags' pattern alone
//	latestPushedK                     last K
//	nDaysSinceLastPush, lastXDays     newerThan
//	nDaysSinceLastPull                pulledWithin
//	latestPulledN, latestActiveK      none: all that it counts stays
func (p *harborPolicy) Rules(repository image.Repository) (plan.Policy, []string) {
	running := p.running(repository)
	if len(running) == 0 {
		return plan.Policy{}, []string{harborStill}
	}
	policy := plan.Policy{Grace: leastGrace}
	var notes []string
	for _, r := range running {
		rule, exact := r.tagged()
		if !exact {
			notes = append(notes, fmt.Sprintf("%s: its tags cannot be told by one expression: more stays", r))
		}
		untagged := !slices.ContainsFunc(r.tags, func(s harborSelector) bool { return !s.selects(nil) })
		switch {
		case r.n == 0 && harborTemplates[r.template]:
			notes = append(notes, fmt.Sprintf("%s: it retains nothing, and is left out", r))
			continue
		case r.template == "latestPushedK":
			if exact {
				rule.Last = r.n
			}
			if untagged {
				policy.Grace = forGood
				notes = append(notes, fmt.Sprintf("%s: artifacts without a tag are not counted%s", r, uncounted))
			}
		case r.template == "nDaysSinceLastPush", r.template == "lastXDays":
			rule.NewerThan = days(r.n)
			if untagged {
				policy.Grace = max(policy.Grace, rule.NewerThan)
			}
		case r.template == "nDaysSinceLastPull":
			rule.PulledWithin = days(r.n)
			notes = append(notes, fmt.Sprintf("%s: where it is not known when an image was pulled, it stays", r))
			if untagged && (rule.Pattern != "" || rule.Regex != nil) {
				policy.Grace = forGood
			}
		case r.template == "always":
			if untagged {
				policy.Grace = forGood
			}
		default:
			notes = append(notes, fmt.Sprintf("%s: no rule counts by pulls: all that it counts stays", r))
			if untagged {
				policy.Grace = forGood
			}
		}
		policy.Rules = append(policy.Rules, rule)
	}
	if len(policy.Rules) == 0 {
		notes = append(notes, "the rules retain nothing: Harbor would delete all, and without rules everything stays")
	}
	return policy, append(notes, "Harbor's immutable tags are no part of the policy: write rules for them")
}

// tagged is the rule for the tags that the selectors select; exact says that it
// selects the same, of images with one tag.
func (r harborRule) tagged() (rule plan.Rule, exact bool) {
	exact = true
	for _, s := range r.tags {
		of, known := globbed(s.pattern)
		if !known {
			exact = false
			continue
		}
		if s.excludes {
			words, whole := excluded(of)
			others, some := otherThan(words)
			if !some || !whole {
				// All tags are excluded, or not all that are can be told.
				exact = false
			}
			of = others
		}
		switch {
		case of.Pattern == "" && of.Regex == nil:
		case of.Pattern != "" && rule.Pattern == "":
			rule.Pattern = of.Pattern
		case of.Regex != nil && rule.Regex == nil:
			rule.Regex = of.Regex
		default:
			exact = false
		}
	}
	if !exact {
		// Of one pattern more stays than of several.
		if rule.Pattern != "" {
			rule.Regex = nil
		}
	}
	return rule, exact
}

// excluded are the words of a glob.
func excluded(of plan.Rule) ([]word, bool) {
	source := ".*"
	switch {
	case of.Pattern != "":
		source = globText(of.Pattern)
	case of.Regex != nil:
		source = of.Regex.String()
	}
	e, err := compile("(?:"+source+")", false)
	if err != nil {
		return nil, false
	}
	return e.words()
}

// artifact is what Harbor judges.
type artifact struct {
	digest         digest.Digest
	tags           []string
	pushed, pulled time.Time
}

// Outcome implements [Policy].
func (p *harborPolicy) Outcome(inventory *image.Inventory, facts plan.Facts) Outcome {
	s := newShelf(inventory, facts)
	o := &Outcome{Peer: Harbor}
	running := p.running(inventory.Repository)
	if len(running) == 0 {
		o.Notes = append(o.Notes, harborStill)
	}
	artifacts, pulls := s.harborArtifacts()
	retained := map[digest.Digest]string{}
	for _, r := range running {
		var selected []artifact
		for _, a := range artifacts {
			if !slices.ContainsFunc(r.tags, func(s harborSelector) bool { return !s.selects(a.tags) }) {
				selected = append(selected, a)
			}
		}
		for _, a := range r.retains(selected, facts.Now) {
			retained[a.digest] = cmp.Or(retained[a.digest], "retained by "+r.String())
		}
		if !pulls && (r.template == "nDaysSinceLastPull" || r.template == "latestPulledN" || r.template == "latestActiveK") {
			o.Notes = append(o.Notes, fmt.Sprintf("%s: of nothing is it told when it was pulled: all is taken as never pulled", r))
		}
	}
	condemned := map[digest.Digest]bool{}
	judged := map[digest.Digest]bool{}
	for _, a := range artifacts {
		judged[a.digest] = true
		condemned[a.digest] = len(running) > 0 && retained[a.digest] == ""
	}
	gone := s.harborGone(condemned, judged)
	refused := false
	for _, d := range s.all() {
		why := retained[d]
		holder, held := s.holds(d, gone)
		switch subject, belongs := s.subject(d); {
		case gone[d] && judged[d]:
			why = "no rule retains it"
		case gone[d] && belongs && gone[subject]:
			why = "goes with " + s.graph.Called(subject)
		case gone[d]:
			why = "goes with the last index that names it"
		case len(running) == 0:
			why = "no rule is for the repository"
		case why != "":
		case condemned[d]:
			why, refused = "part of "+s.graph.Called(holder)+": Harbor refuses to delete it", true
		case held:
			why = "part of " + s.graph.Called(holder)
		case belongs:
			why = "belongs to " + s.graph.Called(subject)
		}
		for _, tag := range s.entries(d) {
			if gone[d] {
				o.delete(tag, d, "%s", why)
			} else {
				o.keep(tag, d, "%s", why)
			}
		}
	}
	if refused {
		o.Notes = append(o.Notes, "what is part of an index goes on a run after the index is gone")
	}
	if len(running) > 0 {
		o.Notes = append(o.Notes, "immutable tags are no part of the policy: what they keep is not known")
	}
	o.Notes = append(o.Notes, s.dates("they are taken for the newest")...)
	return o.settle(gone)
}

// entries are the tags of a manifest; of one without, an empty one.
func (s *shelf) entries(d digest.Digest) []string {
	if tags := s.graph.Tags(d); len(tags) > 0 {
		return tags
	}
	return []string{""}
}

// harborArtifacts are what Harbor lists: manifests with a tag, and those that no
// index names. A signature and what refers to an image is its accessory, and is
// none. Pulls says whether it is told of any when it was pulled.
func (s *shelf) harborArtifacts() (list []artifact, pulls bool) {
	for _, d := range s.all() {
		tags := s.graph.Tags(d)
		if len(tags) == 0 && len(s.graph.Parents(d)) > 0 || s.harborAccessory(d) {
			continue
		}
		a := artifact{digest: d, tags: tags, pushed: s.pushedLast(d), pulled: s.Untagged[d].Pulled}
		for _, tag := range tags {
			if at := s.Tags[tag].Pulled; at.After(a.pulled) {
				a.pulled = at
			}
		}
		if !image.Told(a.pulled) {
			a.pulled = time.Time{}
		}
		pulls = pulls || !a.pulled.IsZero()
		list = append(list, a)
	}
	return list, pulls
}

// harborAccessory says whether Harbor takes a manifest for an accessory: by its
// subject, or by cosign's tag for a signature. Its tags for attestations and
// SBOMs are tags like others to Harbor.
func (s *shelf) harborAccessory(d digest.Digest) bool {
	if _, ok := s.subject(d); !ok {
		return false
	}
	if s.Manifests.Subject(d) != "" {
		return true
	}
	for _, tag := range s.graph.Tags(d) {
		if _, attached := image.Attached(tag); !attached || strings.HasSuffix(tag, ".att") || strings.HasSuffix(tag, ".sbom") {
			return false
		}
	}
	return true
}

// retains are those of the selected that the rule retains.
func (r harborRule) retains(selected []artifact, now time.Time) []artifact {
	first := func(order func(a, b artifact) int) []artifact {
		slices.SortStableFunc(selected, order)
		return selected[:min(r.n, len(selected))]
	}
	since := now.Add(-days(r.n))
	switch r.template {
	case "latestPushedK":
		return first(func(a, b artifact) int { return newest(a.pushed, b.pushed) })
	case "latestActiveK":
		return first(func(a, b artifact) int { return newest(a.active(), b.active()) })
	case "latestPulledN":
		return first(func(a, b artifact) int { return b.pulled.Compare(a.pulled) })
	case "nDaysSinceLastPush", "lastXDays":
		return slices.DeleteFunc(selected, func(a artifact) bool { return !a.pushed.IsZero() && a.pushed.Before(since) })
	case "nDaysSinceLastPull":
		return slices.DeleteFunc(selected, func(a artifact) bool { return a.pulled.IsZero() || a.pulled.Before(since) })
	}
	return selected // always
}

// active is when something was done with the artifact.
func (a artifact) active() time.Time {
	if a.pushed.IsZero() || a.pushed.After(a.pulled) {
		return a.pushed
	}
	return a.pulled
}

// harborGone follows deletions: with an index go its children that have no tag
// and no other index, and with an artifact its accessories. What an index names
// is refused as long as that is there.
func (s *shelf) harborGone(condemned, judged map[digest.Digest]bool) map[digest.Digest]bool {
	gone := map[digest.Digest]bool{}
	all := s.all()
	for again := true; again; {
		again = false
		for _, d := range all {
			if gone[d] {
				continue
			}
			_, held := s.holds(d, gone)
			subject, belongs := s.subject(d)
			switch {
			case judged[d]:
				gone[d] = condemned[d] && !held
			case belongs && s.harborAccessory(d):
				gone[d] = gone[subject] && !held
			default:
				gone[d] = !held && len(s.graph.Parents(d)) > 0
			}
			again = again || gone[d]
		}
	}
	return gone
}
