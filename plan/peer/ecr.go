package peer

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// ecrPolicy is a repository's lifecycle policy, as its JSON or in the answer of
// `aws ecr get-lifecycle-policy`.
//
// Its meaning is that of the Amazon ECR user guide, "Automate the cleanup of
// images by using lifecycle policies", its evaluation rules, and "Lifecycle policy
// properties".
type ecrPolicy struct {
	rules []ecrRule // by priority
}

type ecrRule struct {
	priority int
	status   string // tagged, untagged or any
	// patterns all have to be matched, each by some tag of the image; their only
	// wildcard is *.
	patterns    []string
	expressions []*expression // of the patterns
	archived    bool          // it selects what is in the archive, and nothing else
	count       string
	number      int
	archives    bool // it archives in place of expiring
}

const ecrHint = "save the answer of aws ecr get-lifecycle-policy --repository-name NAME"

func parseECR(doc *document, raw []byte) Policy {
	value, ok := doc.json(raw, ecrHint)
	if !ok {
		return nil
	}
	o := doc.object(value, "")
	if o.has("lifecyclePolicyText") {
		if value, ok = doc.json([]byte(o.text("lifecyclePolicyText")), ecrHint); !ok {
			return nil
		}
		o = doc.object(value, "")
	}
	if !o.has("rules") {
		o.fault("rules", ecrHint, "it is missing")
	}
	p := &ecrPolicy{}
	for _, rule := range o.objects("rules") {
		p.rules = append(p.rules, parseECRRule(doc, rule))
	}
	o.done()
	slices.SortStableFunc(p.rules, func(a, b ecrRule) int { return cmp.Compare(a.priority, b.priority) })
	p.check(doc)
	return p
}

func parseECRRule(doc *document, o *object) ecrRule {
	o.ignore("description", "selection", "action")
	r := ecrRule{priority: o.count("rulePriority", 1)}
	if !o.has("rulePriority") {
		o.fault("rulePriority", "write 1 for the first", "it is missing")
	}
	action := doc.object(o.fields["action"], join(o.at, "action"))
	if r.archives = action.oneOf("type", "expire", "transition") == "transition"; r.archives {
		action.oneOf("targetStorageClass", "archive")
	}
	action.done()
	s := doc.object(o.fields["selection"], join(o.at, "selection"))
	r.status = s.oneOf("tagStatus", "tagged", "untagged", "any")
	prefixes, patterns := s.texts("tagPrefixList"), s.texts("tagPatternList")
	for _, prefix := range prefixes {
		if strings.Contains(prefix, "*") {
			s.fault("tagPrefixList", "write it into tagPatternList", "prefix %q has a wildcard", prefix)
		}
		r.patterns = append(r.patterns, prefix+"*")
	}
	for _, pattern := range patterns {
		if strings.Count(pattern, "*") > 4 {
			s.fault("tagPatternList", "write four wildcards at most", "pattern %q has too many", pattern)
		}
		r.patterns = append(r.patterns, pattern)
	}
	listed := s.has("tagPrefixList") || s.has("tagPatternList")
	switch {
	case s.has("tagPrefixList") && s.has("tagPatternList"):
		s.fault("tagPrefixList", "write one of them", "there is a tagPatternList too")
	case r.status == "tagged" && len(r.patterns) == 0:
		s.fault("tagPatternList", `write ["*"] for all tags`, "it is missing")
	case r.status != "tagged" && listed:
		s.fault("tagPatternList", `write "tagStatus": "tagged"`, "it is for images with a tag only")
	}
	if s.has("storageClass") {
		r.archived = s.oneOf("storageClass", "standard", "archive") == "archive"
	}
	r.count = s.oneOf("countType", "imageCountMoreThan", "sinceImagePushed", "sinceImagePulled", "sinceImageTransitioned")
	if !s.has("countNumber") {
		s.fault("countNumber", "write 1 or more", "it is missing")
	}
	r.number = s.count("countNumber", 1)
	switch {
	case r.count == "imageCountMoreThan" && s.has("countUnit"):
		s.fault("countUnit", "take it away", "it is for ages only")
	case strings.HasPrefix(r.count, "since"):
		s.oneOf("countUnit", "days")
	}
	switch {
	case r.count == "sinceImagePulled" && !r.archives:
		s.fault("countType", "use sinceImagePushed", "ECR does not expire by sinceImagePulled")
	case r.count == "sinceImageTransitioned" && (r.archives || !r.archived):
		s.fault("countType", `write "storageClass": "archive", and expire`, "sinceImageTransitioned is for what is in the archive")
	case r.count != "sinceImageTransitioned" && r.archived:
		s.fault("storageClass", "use sinceImageTransitioned", "%s is not for what is in the archive", r.count)
	}
	for _, pattern := range r.patterns {
		e, err := compile(strings.ReplaceAll(regexp.QuoteMeta(pattern), `\*`, ".*"), false)
		if err != nil {
			s.fault("tagPatternList", `write it as "prod*"`, "pattern %q cannot be read: %v", pattern, err)
			continue
		}
		r.expressions = append(r.expressions, e)
	}
	s.done()
	o.done()
	return r
}

// check holds the rules against one another. They are in their order.
func (p *ecrPolicy) check(doc *document) {
	for i, r := range p.rules {
		for _, before := range p.rules[:i] {
			switch {
			case before.priority == r.priority:
				doc.fault("", "give each rule its own rulePriority", "two rules have rulePriority %d", r.priority)
			case before.archived != r.archived:
			case before.status == "any":
				doc.fault("", "give the rule for any the greatest number", "rule %d is for any, and rule %d comes after it", before.priority, r.priority)
			case before.status == "untagged" && r.status == "untagged":
				doc.fault("", "leave one of them", "rules %d and %d are both for untagged images", before.priority, r.priority)
			}
		}
	}
}

// Kind implements [Policy].
func (p *ecrPolicy) Kind() Kind { return ECR }

// selects says whether the rule's tagging requirements are met.
func (r ecrRule) selects(tags []string) bool {
	switch r.status {
	case "any":
		return true
	case "untagged":
		return len(tags) == 0
	}
	return !slices.ContainsFunc(r.expressions, func(e *expression) bool { return !slices.ContainsFunc(tags, e.MatchString) })
}

// String is the rule as people know it.
func (r ecrRule) String() string {
	text := fmt.Sprintf("rule %d (%s", r.priority, r.status)
	if len(r.patterns) > 0 {
		text += " " + strings.Join(r.patterns, " and ")
	}
	switch r.count {
	case "imageCountMoreThan":
		return fmt.Sprintf("%s, more than %d)", text, r.number)
	case "sinceImagePulled":
		return fmt.Sprintf("%s, not pulled for %d days)", text, r.number)
	case "sinceImageTransitioned":
		return fmt.Sprintf("%s, archived for %d days)", text, r.number)
	}
	return fmt.Sprintf("%s, older than %d days)", text, r.number)
}

// Rules implements [Policy].
//
//	ECR keeps images that                                the rule
//	are among the newest of imageCountMoreThan           last, of their tags
//	are not older than sinceImagePushed                  newerThan, of their tags
//	a rule archives                                      the tags' pattern alone
//	no rule selects                                      regex of the other tags
//	have no tag, and no rule selects them                grace without end
func (p *ecrPolicy) Rules(image.Repository) (plan.Policy, []string) {
	policy := plan.Policy{Grace: forGood}
	if len(p.rules) == 0 {
		return plan.Policy{}, []string{"the policy has no rules: ECR deletes nothing"}
	}
	notes := []string{"ECR never asks what is deployed: add {deployed: true}"}
	var taken []word
	all, untagged := false, false // whether a rule before has them
	for _, r := range p.rules {
		if r.archived {
			notes = append(notes, fmt.Sprintf("%s: what is in the archive is not known, and left out", r))
			continue
		}
		rule, exact := r.tagged()
		if r.archives {
			notes = append(notes, fmt.Sprintf("%s: nothing is archived: it stays", r))
		}
		if r.status != "tagged" {
			switch {
			case r.archives:
			case r.count == "sinceImagePushed" && !untagged:
				policy.Grace = max(leastGrace, days(r.number))
			case untagged: // the rule before has them
			default:
				notes = append(notes, fmt.Sprintf("%s: images without a tag are not counted%s", r, uncounted))
			}
			untagged = true
			if r.status == "untagged" {
				continue
			}
			all = true
		}
		switch {
		case r.archives:
		case r.count == "sinceImagePushed":
			rule.NewerThan = days(r.number)
		case exact:
			rule.Last = r.number
		}
		if !exact {
			notes = append(notes, fmt.Sprintf("%s: that an image has several tags no rule can ask: more stays", r))
		}
		policy.Rules = append(policy.Rules, rule)
		if len(r.patterns) == 1 {
			words, whole := r.expressions[0].words()
			taken = append(taken, words...)
			if !whole {
				notes = append(notes, fmt.Sprintf("%s: ECR keeps what no rule selects, and that no rule can say in full: more stays", r))
			}
		}
	}
	if !all {
		if rule, some := otherThan(taken); some {
			policy.Rules = append(policy.Rules, rule)
		}
	}
	return policy, notes
}

// tagged is the rule for what the patterns select; exact says that it selects
// the same.
func (r ecrRule) tagged() (plan.Rule, bool) {
	if len(r.patterns) == 0 {
		return plan.Rule{}, true
	}
	// "*" is a pattern too: it means no image without a tag.
	rule := plan.Rule{Pattern: r.patterns[0]}
	if strings.ContainsAny(rule.Pattern, `[]?\/`) {
		rule = plan.Rule{Regex: r.expressions[0].whole}
	}
	return rule, len(r.patterns) == 1
}

// ecrRuns is how many runs of the policy are told at most. Each lets go of the
// children of the indexes of the one before.
const ecrRuns = 32

// Outcome implements [Policy].
func (p *ecrPolicy) Outcome(inventory *image.Inventory, facts plan.Facts) Outcome {
	s := newShelf(inventory, facts)
	o := &Outcome{Peer: ECR}
	all := s.all()
	gone := map[digest.Digest]bool{}
	why := map[digest.Digest]string{}
	shares := map[digest.Digest]map[string]string{}
	dates := map[digest.Digest]time.Time{}
	for _, d := range all {
		dates[d] = s.pushedLast(d)
	}
	children := false
	for range ecrRuns {
		var ranked []digest.Digest
		for _, d := range all {
			holder, held := s.holds(d, gone)
			switch {
			case gone[d]:
			case held:
				why[d] = "part of " + s.graph.Called(holder) + ": ECR does not expire it before that"
				children = true
			default:
				ranked = append(ranked, d)
			}
		}
		slices.SortStableFunc(ranked, func(a, b digest.Digest) int { return newest(dates[a], dates[b]) })
		expired := p.run(s, ranked, dates, facts.Now, why, shares)
		if len(expired) == 0 {
			break
		}
		for len(expired) > 0 {
			for _, d := range expired {
				gone[d] = true
			}
			expired = expired[:0]
			for _, d := range all {
				if subject, ok := s.refers(d); ok && gone[subject] && !gone[d] {
					why[d] = "refers to " + s.graph.Called(subject) + ", which expires"
					expired = append(expired, d)
				}
			}
		}
	}
	for _, d := range all {
		for _, tag := range s.entries(d) {
			if !gone[d] {
				o.keep(tag, d, "%s", why[d])
				continue
			}
			o.delete(tag, d, "%s", why[d])
			o.Deletes[len(o.Deletes)-1].Shares = shares[d][tag]
		}
	}
	if children {
		o.Notes = append(o.Notes, "what an index names is taken to take no place among the images that are counted; and on a run after the index is gone, it counts")
	}
	if slices.ContainsFunc(p.rules, func(r ecrRule) bool { return r.archived }) {
		o.Notes = append(o.Notes, "what is in the archive is not known: nothing is taken to be")
	}
	o.Notes = append(o.Notes, s.dates("they are taken for the newest")...)
	return o.settle(gone)
}

// refers is the subject that a manifest itself names. Tags in cosign's scheme
// are tags like others to ECR.
func (s *shelf) refers(d digest.Digest) (digest.Digest, bool) {
	subject := s.Manifests.Subject(d)
	return subject, subject != "" && s.Manifests.Has(subject)
}

// run evaluates all rules once on images, the newest first, and tells what
// expires. The first rule that selects an image has it, but each counts all that
// it selects.
func (p *ecrPolicy) run(s *shelf, ranked []digest.Digest, dates map[digest.Digest]time.Time, now time.Time, why map[digest.Digest]string, shares map[digest.Digest]map[string]string) []digest.Digest {
	claimed := map[digest.Digest]bool{}
	var expired []digest.Digest
	for _, d := range ranked {
		why[d] = "no rule selects it"
	}
	for _, r := range p.rules {
		if r.archived {
			continue
		}
		n := 0
		for _, d := range ranked {
			tags := s.graph.Tags(d)
			if !r.selects(tags) {
				continue
			}
			n++
			if claimed[d] {
				continue
			}
			claimed[d] = true
			met := false
			switch r.count {
			case "imageCountMoreThan":
				met = n > r.number
			case "sinceImagePushed":
				met = !dates[d].IsZero() && dates[d].Before(now.Add(-days(r.number)))
			}
			switch {
			case met && r.archives:
				why[d] = r.String() + " archives it: it cannot be pulled before it is restored"
			case r.archives:
				why[d] = r.String() + " has it, and may archive it"
			case !met:
				why[d] = r.String() + " has it, and does not expire it"
			default:
				why[d] = r.String() + " expires it"
				shares[d] = r.shares(tags)
				expired = append(expired, d)
			}
		}
	}
	return expired
}

// shares are the tags that no pattern of the rule matches, with one that does.
func (r ecrRule) shares(tags []string) map[string]string {
	meant, others := "", map[string]string{}
	for _, tag := range tags {
		if slices.ContainsFunc(r.expressions, func(e *expression) bool { return e.MatchString(tag) }) {
			meant = cmp.Or(meant, tag)
		} else if len(r.patterns) > 0 {
			others[tag] = ""
		}
	}
	for _, tag := range slices.Collect(maps.Keys(others)) {
		others[tag] = meant
	}
	return others
}
