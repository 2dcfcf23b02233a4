package peer_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/plan/peer"
	"github.com/regkeeper/regkeeper/problem"
)

// said are the rules and the grace of a policy, and its notes behind "note: ".
func said(p peer.Policy) []string {
	policy, notes := p.Rules(here)
	var lines []string
	for _, r := range policy.Rules {
		lines = append(lines, r.String())
	}
	lines = append(lines, "grace "+policy.Grace.String())
	for _, note := range notes {
		lines = append(lines, "note: "+note)
	}
	return lines
}

const (
	dayGrace = "grace 24h0m0s"
	forGood  = "grace 876000h0m0s"

	giteaNote      = "note: Gitea counts, dates and deletes rows: each tag, each platform's manifest and each signature is one; the rules count images and keep what belongs to them"
	gitlabNote     = "note: GitLab counts and deletes tags: of an image it may take some, and a signature is a tag like others; the rules keep an image with all its tags and what belongs to it"
	gitlabUntagged = "note: images without a tag are not the policy's: they all stay, unless a shorter grace is set"
	harborNote     = "note: Harbor's immutable tags are no part of the policy: write rules for them"
	ecrNote        = "note: ECR never asks what is deployed: add {deployed: true}"
	untaggedNote   = "images without a tag are not counted: they all stay, unless a shorter grace is set"
)

func TestRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   peer.Kind
		policy string
		want   []string
	}{
		{peer.Gitea, "type: container\nenabled: true\nkeep_count: 5\nkeep_pattern: v.+\nremove_days: 30\nremove_pattern: .*\nmatch_full_name: false\n", []string{
			"pattern latest", "last 5", "newer than 30d", "regex (?i:v.+)", forGood, giteaNote, "note: " + untaggedNote,
		}},
		{peer.Gitea, `[{"id":3,"enabled":1,"owner_id":1,"type":"container","keep_count":0,"keep_pattern":"","remove_days":7,"remove_pattern":"(pr|dev)-.*","match_full_name":0,"created_unix":1,"updated_unix":2},
			{"id":4,"enabled":1,"owner_id":1,"type":"npm","keep_count":0,"keep_pattern":"","remove_days":7,"remove_pattern":"","match_full_name":0}]`, []string{
			"pattern latest", "newer than 1w", `regex (?:d(?:e(?:v(?:[^\-].*)?|[^v].*)?|[^e].*)?|p(?:r(?:[^\-].*)?|[^r].*)?|[^dp].*)`, forGood, giteaNote,
		}},
		{peer.Gitea, `{"KeepPattern": "v1|rc", "RemovePattern": "\\d+.*"}`, []string{
			"pattern latest", `regex (?s:.*)(?:(?i)\Av1|rc\z)(?s:.*)`, "pattern *", forGood, giteaNote,
			`note: keep_pattern v1|rc is anchored only at its first and last character, so that its alternatives match parts of tags: (?:v1|rc) would be whole tags`,
			`note: Gitea keeps what does not match \d+.*, which no rule can say in full: more stays`,
		}},
		{peer.Gitea, "keep_count: 1\nkeep_pattern: api/v.*\nmatch_full_name: true\n", []string{
			"pattern latest", "last 1", "everything", forGood, giteaNote, "note: " + untaggedNote,
			"note: the patterns are of the package's name and the version together, which rules cannot say: everything stays until they are written as patterns of tags",
		}},
		{peer.Gitea, "enabled: false\nkeep_count: 1\n", []string{"grace 0s", "note: the rule is switched off: Gitea deletes nothing"}},

		{peer.GitLab, `{"enabled": true, "cadence": "1d", "keep_n": 10, "older_than": "14d", "name_regex": ".*", "name_regex_keep": null}`, []string{
			"pattern latest", "newer than 2w", `last 10, regex (?:l(?:a(?:t(?:e(?:s(?:t.+|[^t].*)?|[^s].*)?|[^e].*)?|[^t].*)?|[^a].*)?|[^l].*)`, forGood, gitlabNote, gitlabUntagged,
		}},
		{peer.GitLab, `{"enabled": true, "keep_n": 1, "name_regex_delete": "pr-.*", "name_regex": "x"}`, []string{
			"pattern latest", `regex (?:p(?:r(?:[^\-].*)?|[^r].*)?|[^p].*)`,
			`last 1, pattern pr-*, regex (?:l(?:a(?:t(?:e(?:s(?:t.+|[^t].*)?|[^s].*)?|[^e].*)?|[^t].*)?|[^a].*)?|[^l].*)`, forGood, gitlabNote, gitlabUntagged,
		}},
		{peer.GitLab, `{"enabled": true, "keep_n": 5, "name_regex": ".*", "name_regex_keep": "v\\d+\\.\\d+"}`, []string{
			"pattern latest", `regex v\d+\.\d+`, "regex .*", forGood, gitlabNote, gitlabUntagged,
			"note: keep_n counts only the tags that nothing else keeps, which no rule can say of these expressions: all that match .* stay",
		}},
		{peer.GitLab, `{"enabled": false, "name_regex": ".*"}`, []string{"grace 0s", "note: the policy is switched off: GitLab deletes nothing"}},

		{peer.Harbor, harbor(harborRule("latestPushedK", "10", allTags)), []string{"last 10", forGood, "note: latestPushedK 10: artifacts without a tag are not counted: they all stay, unless a shorter grace is set", harborNote}},
		{peer.Harbor, harbor(harborRule("nDaysSinceLastPush", "14", allTags) + "," + harborRule("nDaysSinceLastPull", "7", releases)), []string{
			"newer than 2w", "pattern release-*, pulled within 1w", "grace 336h0m0s",
			"note: nDaysSinceLastPull 7 matching release-*: where it is not known when an image was pulled, it stays", harborNote,
		}},
		{peer.Harbor, harbor(harborRule("latestPulledN", "3", releases)), []string{
			"pattern release-*", dayGrace, "note: latestPulledN 3 matching release-*: no rule counts by pulls: all that it counts stays", harborNote,
		}},
		{peer.Harbor, harbor(harborRule("latestPushedK", "2", releases+`,{"kind": "doublestar", "decoration": "excludes", "pattern": "release-*-{debug,test}"}`)), []string{
			"pattern release-*", dayGrace, "note: latestPushedK 2 matching release-* excluding release-*-{debug,test}: its tags cannot be told by one expression: more stays", harborNote,
		}},
		{peer.Harbor, harbor(harborRule("latestPushedK", "0", releases)), []string{
			dayGrace, "note: latestPushedK 0 matching release-*: it retains nothing, and is left out",
			"note: the rules retain nothing: Harbor would delete all, and without rules everything stays", harborNote,
		}},
		{peer.Harbor, harbor(strings.Replace(harborRule("always", "1", allTags), `"**"}]}}`, `"web-*"}]}}`, 1)), []string{
			"grace 0s", "note: no rule of the policy is for this repository: Harbor deletes nothing",
		}},

		{peer.ECR, `{"registryId": "1", "repositoryName": "a", "lifecyclePolicyText": "{\"rules\":[{\"rulePriority\":1,\"selection\":{\"tagStatus\":\"untagged\",\"countType\":\"sinceImagePushed\",\"countUnit\":\"days\",\"countNumber\":14},\"action\":{\"type\":\"expire\"}},{\"rulePriority\":2,\"selection\":{\"tagStatus\":\"any\",\"countType\":\"imageCountMoreThan\",\"countNumber\":30},\"action\":{\"type\":\"expire\"}}]}", "lastEvaluatedAt": 1}`, []string{
			"last 30", "grace 336h0m0s", ecrNote,
		}},
		{peer.ECR, `{"rules": [{"rulePriority": 1, "selection": {"tagStatus": "tagged", "tagPatternList": ["*-sha-*"], "countType": "sinceImagePulled", "countUnit": "days", "countNumber": 30}, "action": {"type": "transition", "targetStorageClass": "archive"}}]}`, []string{
			"pattern *-sha-*", "pattern *", forGood, ecrNote, "note: rule 1 (tagged *-sha-*, not pulled for 30 days): nothing is archived: it stays",
			"note: rule 1 (tagged *-sha-*, not pulled for 30 days): ECR keeps what no rule selects, and that no rule can say in full: more stays",
		}},
		{peer.ECR, `{"rules": []}`, []string{"grace 0s", "note: the policy has no rules: ECR deletes nothing"}},
	} {
		same(t, string(c.kind)+" "+c.policy, c.want, said(parse(t, c.kind, c.policy)))
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   peer.Kind
		policy string
		want   []string
	}{
		{peer.Gitea, "type: npm\nkeep_count: -1\nkeep_pattern: (\nremove_days: week\nkeep: 3\n", []string{
			`type: "npm" is not known`, "remove_days: it is no whole number", "keep_count: -1 is too few", `keep_pattern: "(" cannot be read: error parsing regexp: missing closing ): ` + "`(`", "keep: it is not known",
		}},
		{peer.Gitea, "", []string{"it is null, and has to be an object", "it names none of keep_count, keep_pattern, remove_days and remove_pattern"}},
		{peer.Gitea, "enabled: true", []string{"it names none of keep_count, keep_pattern, remove_days and remove_pattern"}},
		{peer.Gitea, "[]", []string{"it lists 0 rules of type container, and has to have one"}},
		{peer.Gitea, `{"keep_count": 1, "KeepCount": 2}`, []string{`keep_count: "keep_count" comes twice`}},
		{peer.GitLab, `{"enabled": "yes", "keep_n": 0, "older_than": "2 weeks", "name_regex": "(?!v)", "cadence": "2d", "name_regexp": ".*"}`, []string{
			"enabled: it is a text", `cadence: "2d" is not known`, "keep_n: 0 is too few", `older_than: "2 weeks" is no number of days`, `name_regex: "(?!v)" cannot be read`, "name_regexp: it is not known",
		}},
		{peer.GitLab, `{"enabled": true, "enabled": false}`, []string{`"enabled" comes twice`}},
		{peer.GitLab, "{\n\"enabled\": true,\n}", []string{"it is no JSON: line 3"}},
		{peer.GitLab, `{"enabled": true} {}`, []string{"it is no JSON: line 1: there is more behind its end"}},
		{peer.GitLab, `[` + strings.Repeat("[", 100), []string{"it is no JSON: line 1: it is nested too deep"}},
		{peer.GitLab, `{}`, []string{"enabled: it is missing"}},
		{peer.Harbor, `{"algorithm": "and", "rules": [{"action": "delete", "template": "latestPushedK", "params": {"k": 1}, "tag_selectors": [{"kind": "label", "decoration": "with", "pattern": "[", "extras": "x"}]}], "scope": {"level": "system"}, "x": 1}`, []string{
			`algorithm: "and" is not known`, `scope.level: "system" is not known`, `rules[0].action: "delete" is not known`, "rules[0].params.latestPushedK: it is missing", "rules[0].params.k: it is not known",
			`rules[0].tag_selectors[0].kind: "label" is not known`, `rules[0].tag_selectors[0].decoration: "with" is not known`, `rules[0].tag_selectors[0].pattern: "[" cannot be read`, "rules[0].tag_selectors[0].extras: it cannot be read",
			"rules[0].scope_selectors: it is null, and has to be an object", "x: it is not known",
		}},
		{peer.Harbor, `{"algorithm": "or"}`, []string{"rules: it is missing"}},
		{peer.ECR, `{"rules": [
			{"rulePriority": 1, "selection": {"tagStatus": "any", "tagPrefixList": ["a"], "countType": "imageCountMoreThan", "countUnit": "days", "countNumber": 0}, "action": {"type": "expire"}},
			{"rulePriority": 1, "selection": {"tagStatus": "tagged", "countType": "sinceImagePulled", "countNumber": 1.5}, "action": {"type": "delete"}}
		]}`, []string{
			`rules[0].selection.tagPatternList: it is for images with a tag only`, "rules[0].selection.countNumber: 0 is too few", "rules[0].selection.countUnit: it is for ages only",
			`rules[1].action.type: "delete" is not known`, "rules[1].selection.tagPatternList: it is missing", "rules[1].selection.countNumber: it is no whole number", "rules[1].selection.countUnit: it is missing",
			"rules[1].selection.countType: ECR does not expire by sinceImagePulled", "two rules have rulePriority 1",
		}},
		{peer.ECR, `{"rules": [
			{"rulePriority": 1, "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 1}, "action": {"type": "expire"}},
			{"rulePriority": 2, "selection": {"tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 1}, "action": {"type": "expire"}}
		]}`, []string{"rule 1 is for any, and rule 2 comes after it"}},
		{peer.ECR, `{"rules": [{"rulePriority": 1, "selection": {"tagStatus": "tagged", "tagPatternList": ["*a*b*c*d*"], "tagPrefixList": ["x*"], "countType": "imageCountMoreThan", "countNumber": 1}, "action": {"type": "expire"}}]}`, []string{
			`prefix "x*" has a wildcard`, `pattern "*a*b*c*d*" has too many`, "there is a tagPatternList too",
		}},
		{peer.ECR, `{"rules": {}}`, []string{"rules: it is an object, and has to be a list"}},
		{peer.ECR, `{"lifecyclePolicyText": "x"}`, []string{"it is no JSON: line 1"}},
	} {
		p, err := peer.Parse(c.kind, []byte(c.policy))
		if err == nil {
			t.Errorf("%s %s is read as %+v", c.kind, c.policy, p)
			continue
		}
		if problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
			t.Errorf("%s %s: kind %s, hint %q", c.kind, c.policy, problem.KindOf(err), problem.HintOf(err))
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: no word of %q in\n%v", c.kind, c.policy, want, err)
			}
		}
		if lines := strings.Count(err.Error(), string(c.kind)+" policy: "); lines != len(c.want) {
			t.Errorf("%s %s: %d faults, want %d:\n%v", c.kind, c.policy, lines, len(c.want), err)
		}
	}
	if _, err := peer.Parse("quay", nil); problem.KindOf(err) != problem.Usage {
		t.Errorf("the error for a kind that is none is %v", err)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"keep_count: 5\nkeep_pattern: v.+|x\nremove_pattern: (a|b)-.*$\n", `{"enabled": true, "keep_n": 1, "name_regex": "^v?.+", "name_regex_keep": "a[bc]|d"}`,
		harbor(harborRule("latestPushedK", "1", `{"kind": "doublestar", "decoration": "excludes", "pattern": "{a,[b-c]?}**"}`)),
		`{"rules": [{"rulePriority": 1, "selection": {"tagStatus": "tagged", "tagPatternList": ["a*[b"], "countType": "imageCountMoreThan", "countNumber": 1}, "action": {"type": "expire"}}]}`,
	} {
		for i := range peer.Kinds() {
			f.Add(i, text)
		}
	}
	s := newShop()
	for i, tag := range []string{"latest", "v1", "a-b", "ab"} {
		s.buildx(time.Duration(90-i)*day, tag)
		s.cosign(tag, day)
	}
	f.Fuzz(func(t *testing.T, kind int, text string) {
		kinds := peer.Kinds()
		p, err := peer.Parse(kinds[uint(kind)%uint(len(kinds))], []byte(text))
		if err != nil {
			var of *problem.Error
			if !errors.As(err, &of) || of.Kind != problem.Config || p != nil {
				t.Fatalf("%v, %v", p, err)
			}
			return
		}
		_, _ = p.Rules(image.Repository{Host: "a.example.com", Path: "x"})
		rules, _ := p.Rules(here)
		o := p.Outcome(s.Inventory, s.facts)
		whole(t, s, o)
		_ = peer.Compare(s.Inventory, s.facts, o, plan.Decide(rules, s.Inventory, s.facts))
	})
}
