package peer_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/plan/peer"
)

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// whole holds an outcome to its promise: every tag is told of once, and nothing
// that stays has lost its manifest.
func whole(t failer, s *shop, o peer.Outcome) {
	t.Helper()
	tags, manifests := map[string]bool{}, map[digest.Digest]bool{}
	gone := map[digest.Digest]bool{}
	for _, d := range o.Manifests {
		gone[d] = true
	}
	for i, e := range slices.Concat(o.Keeps, o.Deletes) {
		switch {
		case e.Tag != "" && tags[e.Tag], e.Tag == "" && manifests[e.Digest]:
			t.Fatalf("%q of %s is told of twice", e.Tag, s.names[e.Digest])
		case i < len(o.Keeps) && gone[e.Digest]:
			t.Fatalf("%q stays, and its manifest is gone", e.Tag)
		case e.Reason == "":
			t.Fatalf("%q of %s has no reason", e.Tag, s.names[e.Digest])
		}
		if e.Tag != "" {
			tags[e.Tag] = true
		} else {
			manifests[e.Digest] = true
		}
	}
	for tag := range s.Tags {
		if !tags[tag] {
			t.Fatalf("nothing is told of tag %s", tag)
		}
	}
	for d := range gone {
		if !s.Manifests.Has(d) {
			t.Fatalf("%s is gone, and was never there", d)
		}
	}
}

var kinds = rapid.SampledFrom(peer.Kinds())

// stock draws a repository of images with one tag each, and dates that are all
// apart.
func stock(t *rapid.T) *shop {
	s := newShop()
	names := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{
		"latest", "v1", "v1.2", "v2", "pr-1", "pr-2", "pr-10", "dev", "dev-1", "main", "main-1", "release-1", "release-1-debug", "release-2", "a", "p", "pr", "3",
	}), 1, 9, rapid.ID[string]).Draw(t, "names")
	for i, name := range names {
		ago := time.Duration(rapid.IntRange(0, 40).Draw(t, "age"))*day + time.Duration(i)*time.Minute + 3*time.Second
		switch rapid.IntRange(0, 3).Draw(t, "what") {
		case 0:
			s.image(ago, name)
		case 1:
			s.add(name)
			s.untagged(name, ago)
			continue
		default:
			s.buildx(ago, name)
		}
		if rapid.Bool().Draw(t, "signed") {
			s.cosign(name, ago)
		}
		if rapid.Bool().Draw(t, "sbom") {
			s.refers(name+" sbom", name, ago)
		}
		if rapid.Bool().Draw(t, "pulled") {
			s.pulled(time.Duration(rapid.IntRange(0, 40).Draw(t, "pull"))*day+time.Second, name)
		}
	}
	return s
}

var (
	expressions = rapid.SampledFrom([]string{"", ".*", ".+", "v.*", "pr-.*", "(?:pr|dev)-.*", "pr-.*|dev.*", "main|v1", `v\d+`, "[a-d].*", "release-.*-debug", "^v1$", "dev(-1)?", "(?i)V.*", "pr-?.*"})
	globs       = rapid.SampledFrom([]string{"**", "*", "v*", "pr-*", "{pr,dev}-*", "release-*", "*-debug", "v?", "[a-d]*", "main", "!main"})
	numbers     = rapid.IntRange(0, 4)
	ages        = rapid.SampledFrom([]int{0, 7, 14, 30})
)

// policies draws a policy of a kind.
func policies(t *rapid.T, kind peer.Kind) string {
	null := func(text string) string {
		if text == "" || text == "0" || text == `"0d"` {
			return "null"
		}
		return text
	}
	switch kind {
	case peer.Gitea:
		return fmt.Sprintf(`{"keep_count": %d, "remove_days": %d, "keep_pattern": %q, "remove_pattern": %q}`, numbers.Draw(t, "count"), ages.Draw(t, "days"), expressions.Draw(t, "keep"), expressions.Draw(t, "remove"))
	case peer.GitLab:
		return fmt.Sprintf(`{"enabled": true, "keep_n": %s, "older_than": %s, "name_regex": %q, "name_regex_keep": %q}`, null(fmt.Sprint(numbers.Draw(t, "count"))), null(fmt.Sprintf(`"%dd"`, ages.Draw(t, "days"))), expressions.Draw(t, "remove"), expressions.Draw(t, "keep"))
	case peer.Harbor:
		var rules []string
		for range rapid.IntRange(0, 3).Draw(t, "rules") {
			var tags []string
			for range rapid.IntRange(1, 2).Draw(t, "selectors") {
				extras := rapid.SampledFrom([]string{``, `{\"untagged\":true}`, `{\"untagged\":false}`}).Draw(t, "extras")
				tags = append(tags, fmt.Sprintf(`{"kind": "doublestar", "decoration": %q, "pattern": %q, "extras": "%s"}`, rapid.SampledFrom([]string{"matches", "excludes"}).Draw(t, "decoration"), globs.Draw(t, "glob"), extras))
			}
			template := rapid.SampledFrom([]string{"always", "latestPushedK", "latestPulledN", "nDaysSinceLastPush", "nDaysSinceLastPull", "latestActiveK", "lastXDays"}).Draw(t, "template")
			rules = append(rules, harborRule(template, fmt.Sprint(numbers.Draw(t, "n")*rapid.SampledFrom([]int{1, 7}).Draw(t, "unit")), strings.Join(tags, ",")))
		}
		return harbor(strings.Join(rules, ","))
	}
	var rules []string
	statuses := []string{"tagged", "tagged", "untagged", "tagged", "any"}
	for i, status := range statuses {
		if rapid.Bool().Draw(t, "left out") {
			continue
		}
		selection := fmt.Sprintf(`"tagStatus": %q, "countType": "imageCountMoreThan", "countNumber": %d`, status, 1+numbers.Draw(t, "n"))
		if rapid.Bool().Draw(t, "by age") {
			selection = fmt.Sprintf(`"tagStatus": %q, "countType": "sinceImagePushed", "countUnit": "days", "countNumber": %d`, status, 1+ages.Draw(t, "days"))
		}
		if status == "tagged" {
			patterns := rapid.SliceOfN(rapid.SampledFrom([]string{"*", "v*", "pr-*", "*-debug", "release-*", "main", "dev*"}), 1, 2).Draw(t, "patterns")
			selection += fmt.Sprintf(`, "tagPatternList": ["%s"]`, strings.Join(patterns, `", "`))
		}
		action := `{"type": "expire"}`
		if rapid.IntRange(0, 5).Draw(t, "archive") == 5 {
			action = `{"type": "transition", "targetStorageClass": "archive"}`
		}
		rules = append(rules, fmt.Sprintf(`{"rulePriority": %d, "selection": {%s}, "action": %s}`, i+1, selection, action))
	}
	return `{"rules": [` + strings.Join(rules, ",") + `]}`
}

// TestRulesKeepMore holds the rules to their promise: of images with one tag, the
// plan deletes none that the peer keeps.
func TestRulesKeepMore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := stock(t)
		kind := kinds.Draw(t, "kind")
		text := policies(t, kind)
		p, err := peer.Parse(kind, []byte(text))
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		o, made, diff := s.judge(p)
		whole(t, s, o)
		for _, i := range diff.Images {
			if i.Side == peer.PlanDeletes {
				t.Fatalf("%s\nrules %q\n%s", text, made.Rules, s.lines(diff))
			}
		}
	})
}

// TestCompareAgrees holds plans against peers that do the same as they do: there
// is no difference.
func TestCompareAgrees(t *testing.T) {
	t.Parallel()
	deleted := 0
	rapid.Check(t, func(t *rapid.T) {
		s := stock(t)
		rules := plan.Policy{Rules: []plan.Rule{{Last: 1 + numbers.Draw(t, "last")}}, Grace: days(ages.Draw(t, "grace"))}
		made := plan.Decide(rules, s.Inventory, s.facts)
		o := peer.Outcome{Peer: kinds.Draw(t, "kind"), Manifests: made.Digests()}
		tags, manifests := maps.Clone(s.Tags), maps.Collect(s.Manifests.All())
		for _, step := range made.Steps {
			o.Deletes = append(o.Deletes, peer.Entry{Tag: step.Tag, Digest: step.Digest, Reason: step.Reason})
			delete(tags, step.Tag)
			delete(manifests, step.Digest)
			deleted++
		}
		for tag, of := range tags {
			o.Keeps = append(o.Keeps, peer.Entry{Tag: tag, Digest: of.Digest, Reason: "x"})
		}
		for d := range manifests {
			o.Keeps = append(o.Keeps, peer.Entry{Digest: d, Reason: "x"})
		}
		if diff := peer.Compare(s.Inventory, s.facts, o, made); !diff.Empty() {
			t.Fatalf("they differ: %q", s.lines(diff))
		}
		// And one thing more that the peer deletes is one difference at least.
		for i, e := range o.Keeps {
			if e.Tag == "" {
				continue
			}
			o.Keeps = slices.Delete(slices.Clone(o.Keeps), i, i+1)
			o.Deletes = append(o.Deletes, e)
			if diff := peer.Compare(s.Inventory, s.facts, o, made); diff.Empty() {
				t.Fatalf("that %s goes makes no difference", e.Tag)
			}
			break
		}
	})
	if deleted == 0 {
		t.Error("no plan deleted anything")
	}
}

func days(n int) time.Duration { return time.Duration(n) * day }

var someTags = rapid.StringMatching(`[a-dlmprv01.-]{1,6}`)

// TestExpressions holds the rules made of expressions to what the peer matches:
// what it keeps by its name is kept, and by no more where that is promised.
func TestExpressions(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		source := expressions.Draw(t, "expression")
		if rapid.Bool().Draw(t, "generated") {
			source = rapid.StringMatching(`\(?[ap]?(-|r|v)(\.\*|\.\+|\[01\]|\?)?(\|(p|\$|v\.\*))?`).Draw(t, "source")
			if strings.HasPrefix(source, "(") {
				source += ")"
			}
		}
		again, err := regexp.Compile(`\A` + source + `\z`)
		if err != nil || source == "" {
			return
		}
		tag := rapid.OneOf(someTags, rapid.SampledFrom([]string{"pr", "pr-", "pr-1", "v", "v1", "dev", "dev-1", "main"})).Draw(t, "tag")
		policy := fmt.Sprintf(`{"enabled": true, "name_regex": %q}`, source)
		p, err := peer.Parse(peer.GitLab, []byte(policy))
		if err != nil {
			return
		}
		rules, notes := p.Rules(here)
		s := newShop()
		s.image(90*day, tag)
		made := plan.Decide(rules, s.Inventory, s.facts)
		kept, stays := made.Images[0].Keep, !again.MatchString(tag) || tag == "latest"
		inexact := slices.ContainsFunc(notes, func(note string) bool { return strings.Contains(note, "more stays") })
		if stays && !kept || !stays && kept && !inexact {
			t.Fatalf("%s of %s: the peer keeps it: %v; by %q: %v", tag, source, stays, made.Rules, kept)
		}
		p, err = peer.Parse(peer.GitLab, []byte(fmt.Sprintf(`{"enabled": true, "name_regex": ".*", "name_regex_keep": %q}`, source)))
		if err != nil {
			t.Fatal(err)
		}
		rules, _ = p.Rules(here)
		made = plan.Decide(rules, s.Inventory, s.facts)
		if want := again.MatchString(tag) || tag == "latest"; made.Images[0].Keep != want {
			t.Fatalf("%s of %s is kept: %v, want %v by %q", tag, source, !want, want, made.Rules)
		}
	})
}

// TestGlobs holds the rules made of Harbor's globs to what they match there.
func TestGlobs(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		glob := rapid.OneOf(globs, rapid.StringMatching(`([a-c*?-]|\[[!^]?[a-c]\]|\[a-c\]|\{a,b\*\}|\\-){1,5}`)).Draw(t, "glob")
		tag := rapid.StringMatching(`[a-c-]{1,5}`).Draw(t, "tag")
		decoration := rapid.SampledFrom([]string{"matches", "excludes"}).Draw(t, "decoration")
		p, err := peer.Parse(peer.Harbor, []byte(harbor(harborRule("always", "1", fmt.Sprintf(`{"kind": "doublestar", "decoration": %q, "pattern": %q}`, decoration, glob)))))
		if err != nil {
			return
		}
		s := newShop()
		s.image(90*day, tag)
		o, made, _ := s.judge(p)
		_, notes := p.Rules(here)
		inexact := slices.ContainsFunc(notes, func(note string) bool { return strings.Contains(note, "more stays") })
		if stays, kept := len(o.Keeps) == 1, made.Images[0].Keep; stays && !kept || kept && !stays && !inexact {
			t.Fatalf("%s %s %s: Harbor keeps it: %v; by %q: %v", tag, decoration, glob, stays, made.Rules, kept)
		}
	})
}

// TestOrderOfUses holds that a use elsewhere breaks nothing here.
func TestOrderOfUses(t *testing.T) {
	t.Parallel()
	s := newShop()
	s.image(90*day, "v1")
	s.facts.Uses = []image.Use{{Reference: must(image.ParseReference("registry.example.com/team/web:v1")), Where: "a pod"}}
	_, _, diff := s.judge(parse(t, peer.GitLab, `{"enabled": true, "name_regex": ".*"}`))
	same(t, "the differences", []string{}, s.lines(diff))
}
