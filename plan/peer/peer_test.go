package peer_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/plan/peer"
)

// ten are ten signed builds, of which Gitea has four rows each.
func ten() *shop {
	s := newShop()
	for i := range 10 {
		ago := time.Duration(10-i)*day + 40*day
		s.buildx(ago, version(i))
		s.cosign(version(i), ago)
	}
	return s
}

// TestGiteaMeasured is what was measured on Gitea: keeping 6 of 10 builds keeps 2,
// and an image that a pattern keeps loses its signature.
func TestGiteaMeasured(t *testing.T) {
	t.Parallel()
	s := ten()
	o, made, diff := s.judge(parse(t, peer.Gitea, "keep_count: 6\nremove_days: 30\n"))
	same(t, "Gitea keeps", []string{
		"v1.8", "v1.8 amd64", "v1.8 amd64 provenance", "v1.8 signature",
		"v1.9", "v1.9 amd64", "v1.9 amd64 provenance", "v1.9 signature",
	}, s.called(o.Keeps))
	if len(o.Manifests) != 32 {
		t.Errorf("%d manifests are gone, want 32", len(o.Manifests))
	}
	if gone := made.Gone(); gone != 4 {
		t.Errorf("of ten images %d go, want 4", gone)
	}
	if len(diff.Images) != 4 || diff.Images[0].Side != peer.PeerDeletes || len(diff.Breaks) != 0 {
		t.Errorf("the difference is %v", s.lines(diff))
	}
	same(t, "the first difference", []string{
		"v1.7: the peer deletes it (version 10, which nothing keeps), the plan keeps it (last 6: number 3, pushed 43 days ago)",
	}, s.lines(diff)[:1])

	s = ten()
	s.use(":v1.4", "Deployment team/api of context prod")
	s.use("@"+d("v1.3 amd64").String(), "Pod team/api-x of context prod")
	o, _, diff = s.judge(parse(t, peer.Gitea, `{"keep_count": 1, "keep_pattern": "v1\\.0", "remove_days": 7}`), plan.Rule{Deployed: true})
	same(t, "Gitea keeps with a pattern", []string{"v1.0", "v1.0 amd64", "v1.0 amd64 provenance", "v1.9 signature"}, s.called(o.Keeps))
	same(t, "the differences with a pattern", []string{
		"v1.9: the peer deletes it (version 2, which nothing keeps), the plan keeps it (last 1: number 1, pushed 41 days ago)",
		"v1.4: the peer deletes it (version 22, which nothing keeps), the plan keeps it (deployed: Deployment team/api of context prod)",
		"v1.3: the peer deletes it (version 26, which nothing keeps), the plan keeps it (deployed: Pod team/api-x of context prod)",
		"! v1.3 amd64 is deleted and in use: Pod team/api-x of context prod",
		"! tag v1.4 is deleted and in use: Deployment team/api of context prod",
		"! v1.0 stays and loses its signature (v1.0 signature)",
	}, s.lines(diff))
}

func TestGiteaRows(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, rule string
		build      func(*shop)
		keeps      []string
	}{
		{"latest stays, and with it its children", "keep_count: 0\nremove_days: 0\n", func(s *shop) {
			s.buildx(50*day, "latest")
			s.buildx(40*day, "v1")
		}, []string{"latest", "latest amd64", "latest amd64 provenance"}},
		{"latest takes a place", "keep_count: 1\n", func(s *shop) {
			s.image(day, "latest")
			s.image(2*day, "v1")
		}, []string{"latest"}},
		{"a tag of two stays, and its manifest", "keep_count: 1\n", func(s *shop) {
			s.image(2*day, "v1")
			s.tag("v1", day, "stable")
		}, []string{"stable"}},
		{"capitals and alternatives", "keep_count: 0\nkeep_pattern: V1|rc\nremove_days: 1\n", func(s *shop) {
			for _, tag := range []string{"v1", "v1.2", "2-rc", "rc-2", "x"} {
				s.image(9*day, tag)
			}
		}, []string{"2-rc", "v1", "v1.2"}},
		{"what does not match stays", "remove_pattern: pr-.*\n", func(s *shop) {
			s.buildx(9*day, "pr-1")
			s.buildx(8*day, "v1")
		}, []string{"pr-1 amd64", "pr-1 amd64 provenance", "v1", "v1 amd64", "v1 amd64 provenance"}},
		{"full names", "match_full_name: true\nremove_pattern: api/pr-.*\n", func(s *shop) {
			s.image(9*day, "pr-1")
			s.image(8*day, "v1")
		}, []string{"v1"}},
		{"young", "remove_days: 7\n", func(s *shop) {
			s.image(7*day, "week")
			s.image(7*day-time.Second, "less")
		}, []string{"less"}},
		{"switched off", "enabled: false\nkeep_count: 1\n", func(s *shop) {
			s.image(9*day, "a")
			s.image(8*day, "b")
		}, []string{"a", "b"}},
		{"a child with a tag of its own goes under its index", "keep_count: 1\n", func(s *shop) {
			s.image(3*day, "v1-amd64")
			s.add("v1", "v1-amd64")
			s.tag("v1", 2*day, "v1")
		}, []string{"v1"}},
	} {
		s := newShop()
		c.build(s)
		p := parse(t, peer.Gitea, c.rule)
		o := p.Outcome(s.Inventory, s.facts)
		same(t, c.name, c.keeps, s.called(o.Keeps))
	}
}

// TestBreaks shows what images lose that stay.
func TestBreaks(t *testing.T) {
	t.Parallel()
	s := newShop()
	s.image(3*day, "v1-amd64")
	s.add("v1", "v1-amd64")
	s.tag("v1", 2*day, "v1")
	for _, suffix := range []string{".sig", ".att", ".sbom", ""} {
		name := "v1" + suffix + " attached"
		s.add(name)
		s.change(name, func(m *image.Manifest) { m.ArtifactType = "x" })
		s.tag(name, 9*day, image.ReferrersTag(d("v1"))+suffix)
	}
	s.add("scan")
	s.change("scan", func(m *image.Manifest) { m.Subject, m.ArtifactType = d("v1"), "application/spdx+json" })
	s.untagged("scan", 9*day)
	_, _, diff := s.judge(parse(t, peer.Gitea, "keep_count: 1\n"))
	same(t, "the differences", []string{
		"v1-amd64: the peer deletes it (version 2, which nothing keeps), the plan keeps it (part of v1, which stays)",
		"! v1 stays and loses linux/amd64 (v1-amd64)",
		"! v1 stays and loses its signature (v1.sig attached)",
		"! v1 stays and loses its list of referrers (v1 attached)",
		"! v1 stays and loses its attestation (v1.att attached)",
		"! v1 stays and loses its application/spdx+json (scan)",
		"! v1 stays and loses its SBOM (v1.sbom attached)",
	}, sorted(s.lines(diff), 2))
}

// sorted leaves the first lines where they are: the rest is in the order of
// digests.
func sorted(lines []string, first int) []string {
	slices.SortFunc(lines[min(first, len(lines)):], func(a, b string) int { return strings.Compare(b, a) })
	return lines
}

// TestDates is of a registry that does not tell when anything was pushed.
func TestDates(t *testing.T) {
	t.Parallel()
	for _, kind := range peer.Kinds() {
		s := newShop()
		for i, name := range []string{"a", "b", "c"} {
			m := s.add(name)
			if i < 2 {
				m.Created = noon.Add(-time.Duration(i+1) * 40 * day)
				s.Manifests.Put(m)
			}
			s.Tags[name] = image.Tag{Name: name, Digest: m.Digest}
		}
		p := parse(t, kind, map[peer.Kind]string{
			peer.Gitea: "keep_count: 2", peer.GitLab: `{"enabled": true, "keep_n": 2, "name_regex": ".*", "older_than": "7d"}`, peer.Harbor: harbor(harborRule("latestPushedK", "2", allTags)),
			peer.ECR: `{"rules": [{"rulePriority": 1, "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 2}, "action": {"type": "expire"}}]}`,
		}[kind])
		if p.Kind() != kind {
			t.Errorf("a policy of %s is one of %s", kind, p.Kind())
		}
		o, _, _ := s.judge(p)
		same(t, string(kind)+" deletes", []string{"b"}, s.called(o.Deletes))
		notes := strings.Join(o.Notes, "\n")
		if !strings.Contains(notes, "when 2 of the tags and manifests were pushed is not told") || !strings.Contains(notes, "of 1 of the tags and manifests no date is known") {
			t.Errorf("%s notes:\n%s", kind, notes)
		}
	}
}

// TestGitLabExample is the example of GitLab's documentation, "Example cleanup
// policy workflow".
func TestGitLabExample(t *testing.T) {
	t.Parallel()
	s := newShop()
	for tag, ago := range map[string]time.Duration{
		"latest": 2 * time.Hour, "production-v44": 3 * day, "production-v43": 6 * day, "production-v42": 11 * day,
		"dev-v44": 2 * day, "dev-v43": 5 * day, "dev-v42": 10 * day, "v44": day, "v43": 12 * day, "v42": 20 * day,
	} {
		s.image(ago, tag)
	}
	p := parse(t, peer.GitLab, `{"container_expiration_policy": {
		"cadence": "7d", "enabled": true, "keep_n": 1, "older_than": "7d", "name_regex": ".*", "name_regex_keep": "production-.*", "next_run_at": "2031-03-02T00:00:00.000Z"
	}, "id": 5}`)
	o, made, diff := s.judge(p)
	same(t, "GitLab deletes", []string{"dev-v42", "v42", "v43"}, s.called(o.Deletes))
	same(t, "the differences", []string{}, s.lines(diff))
	if made.Gone() != 3 {
		t.Errorf("the plan deletes %d images", made.Gone())
	}
}

func TestGitLabTags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, policy string
		build        func(*shop)
		deletes      []string
		lines        []string
	}{
		{"latest always stays", `{"enabled": true, "name_regex": ".*"}`, func(s *shop) {
			s.image(90*day, "latest")
			s.image(80*day, "v1")
		}, []string{"v1"}, []string{}},
		{"latest lends its image no tags", `{"enabled": true, "name_regex": ".*"}`, func(s *shop) {
			s.image(90*day, "latest", "v1")
		}, []string{"v1"}, []string{"latest, v1: the peer takes v1 from it (matches .*, and nothing keeps it), the plan keeps all its tags (pattern latest: tag latest)"}},
		{"a signature is a tag", `{"enabled": true, "name_regex": ".*", "name_regex_keep": "v.*"}`, func(s *shop) {
			s.buildx(90*day, "v1")
			s.cosign("v1", 90*day)
		}, []string{"v1 signature"}, []string{"! v1 stays and loses its signature (v1 signature)"}},
		{"children go with the last tag, and a platform that another has stays", `{"enabled": true, "name_regex": "pr-.*", "older_than": "7d"}`, func(s *shop) {
			s.buildx(90*day, "pr-1")
			s.add("v1", "pr-1 amd64")
			s.tag("v1", 80*day, "v1")
		}, []string{"pr-1", "pr-1 amd64 provenance"}, []string{}},
		{"what refers to an image goes and stays with it", `{"enabled": true, "name_regex": "pr-.*"}`, func(s *shop) {
			for _, name := range []string{"pr-1", "v1"} {
				s.image(90*day, name)
				s.refers(name+" scan", name, 90*day)
			}
		}, []string{"pr-1", "pr-1 scan"}, []string{}},
		{"a tag that is too short to match", `{"enabled": true, "name_regex": "pr-.+"}`, func(s *shop) {
			s.image(90*day, "pr-")
			s.image(90*day, "pr-1")
		}, []string{"pr-1"}, []string{}},
		{"alternatives without parentheses", `{"enabled": true, "name_regex": ".*", "name_regex_keep": "main|stable.*"}`, func(s *shop) {
			for _, tag := range []string{"main", "main-old", "unstable-1", "x"} {
				s.image(90*day, tag)
			}
		}, []string{"x"}, []string{}},
		{"none is matched", `{"enabled": true, "keep_n": 1}`, func(s *shop) { s.image(90*day, "a") }, []string{}, []string{}},
		{"switched off", `{"enabled": false, "name_regex": ".*"}`, func(s *shop) { s.image(90*day, "a") }, []string{}, []string{}},
		{"no date", `{"enabled": true, "name_regex": ".*", "older_than": "7d"}`, func(s *shop) {
			s.add("a")
			s.tag("a", 0, "a")
			undated := s.Tags["a"]
			undated.Pushed = time.Unix(0, 0)
			s.Tags["a"] = undated
		}, []string{}, []string{}},
	} {
		s := newShop()
		c.build(s)
		o, _, diff := s.judge(parse(t, peer.GitLab, c.policy))
		same(t, c.name, c.deletes, s.called(o.Deletes))
		same(t, c.name+", the differences", c.lines, s.lines(diff))
	}
}

// harbor is a policy of rules that select all tags unless they say otherwise.
func harbor(rules string) string {
	return `{"id": 1, "algorithm": "or", "rules": [` + rules + `], "trigger": {"kind": "Schedule", "settings": {"cron": "0 0 0 * * *"}}, "scope": {"level": "project", "ref": 1}}`
}

func harborRule(template string, n, tags string) string {
	return `{"id": 1, "priority": 1, "disabled": false, "action": "retain", "template": "` + template + `", "params": {"` + template + `": ` + n + `},
		"tag_selectors": [` + tags + `],
		"scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "**"}]}}`
}

const (
	allTags  = `{"kind": "doublestar", "decoration": "matches", "pattern": "**", "extras": "{\"untagged\":true}"}`
	releases = `{"kind": "doublestar", "decoration": "matches", "pattern": "release-*", "extras": "{\"untagged\":false}"}`
)

func TestHarborArtifacts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, rules string
		build       func(*shop)
		keeps       []string
	}{
		{"a tag that is retained retains all of its artifact", harborRule("latestPushedK", "1", releases), func(s *shop) {
			s.buildx(9*day, "release-1", "v1", "pr-4")
			s.buildx(8*day, "v2")
		}, []string{"pr-4", "release-1", "release-1 amd64", "release-1 amd64 provenance", "v1"}},
		{"signatures and referrers go and stay with their artifact", harborRule("latestPushedK", "1", allTags), func(s *shop) {
			for i, name := range []string{"new", "old"} {
				ago := time.Duration(i+1) * day
				s.buildx(ago, name)
				s.cosign(name, ago)
				s.refers(name+" sbom", name, ago)
			}
		}, []string{"new", "new amd64", "new amd64 provenance", "new sbom", "new signature"}},
		{"a child with a tag is not deleted under its index", harborRule("latestPushedK", "1", allTags), func(s *shop) {
			s.image(3*day, "v1-amd64")
			s.add("v1", "v1-amd64")
			s.tag("v1", 2*day, "v1")
			s.image(9*day, "v0")
		}, []string{"v1", "v1-amd64"}},
		{"either rule", harborRule("nDaysSinceLastPush", "5", allTags) + "," + harborRule("nDaysSinceLastPull", "5", allTags), func(s *shop) {
			s.image(5*day, "pushed")
			s.image(30*day, "pulled")
			s.pulled(day, "pulled")
			s.image(30*day, "neither")
			s.pulled(20*day, "neither")
		}, []string{"pulled", "pushed"}},
		{"the last to be pulled", harborRule("latestPulledN", "1", allTags), func(s *shop) {
			s.image(30*day, "pulled")
			s.pulled(day, "pulled")
			s.image(day, "pushed")
		}, []string{"pulled"}},
		{"a rule that retains nothing deletes all", harborRule("latestPushedK", "0", allTags), func(s *shop) { s.image(day, "a") }, []string{}},
		{"artifacts without a tag", harborRule("always", "1", releases), func(s *shop) {
			s.add("old")
			s.untagged("old", 9*day)
			s.image(day, "release-1")
		}, []string{"release-1"}},
		{"excluded", harborRule("always", "1", `{"kind": "doublestar", "decoration": "excludes", "pattern": "{pr,dev}-*"}`), func(s *shop) {
			for _, tag := range []string{"pr-1", "dev-1", "v1"} {
				s.image(day, tag)
			}
		}, []string{"v1"}},
		{"no rule is for it", `{"action": "retain", "template": "always", "params": {}, "tag_selectors": [` + allTags + `],
			"scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoExcludes", "pattern": "{api,worker}"}]}}`, func(s *shop) {
			s.image(day, "a")
		}, []string{"a"}},
	} {
		s := newShop()
		c.build(s)
		p := parse(t, peer.Harbor, harbor(c.rules))
		o, _, diff := s.judge(p)
		same(t, c.name, c.keeps, s.called(o.Keeps))
		for _, i := range diff.Images {
			if i.Side == peer.PlanDeletes {
				t.Errorf("%s: %s", c.name, i)
			}
		}
	}
}

func TestECRImages(t *testing.T) {
	t.Parallel()
	rule := func(priority, selection string) string {
		return `{"rulePriority": ` + priority + `, "description": "x", "selection": {` + selection + `}, "action": {"type": "expire"}}`
	}
	const (
		oneUntagged = `"tagStatus": "untagged", "countType": "imageCountMoreThan", "countNumber": 1`
		twoOfAny    = `"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 2`
		twoPR       = `"tagStatus": "tagged", "tagPrefixList": ["pr-"], "countType": "imageCountMoreThan", "countNumber": 2`
		weekOfAll   = `"tagStatus": "any", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 7`
	)
	for _, c := range []struct {
		name, rules string
		build       func(*shop)
		deletes     []string
		lines       []string
	}{
		{"children stay as long as their index", rule("1", oneUntagged), func(s *shop) {
			s.buildx(90*day, "v1")
			s.buildx(80*day, "v2")
			for i, name := range []string{"a", "b"} {
				s.add(name)
				s.untagged(name, time.Duration(70+i)*day)
			}
		}, []string{"b"}, []string{
			"b: the peer deletes it (rule 1 (untagged, more than 1) expires it), the plan keeps it (it has no tag, and is new: pushed 71 days ago)",
		}},
		{"children go on a run after their index, and take no place before", rule("1", twoOfAny), func(s *shop) {
			for i := range 4 {
				s.buildx(time.Duration(9-i)*day, version(i))
			}
		}, []string{"v1.0", "v1.0 amd64", "v1.0 amd64 provenance", "v1.1", "v1.1 amd64", "v1.1 amd64 provenance"}, []string{}},
		{"cosign's signatures take places", rule("1", twoOfAny), func(s *shop) {
			for i := range 3 {
				ago := time.Duration(9-i) * day
				s.image(ago, version(i))
				s.cosign(version(i), ago)
			}
		}, []string{"v1.0", "v1.0 signature", "v1.1", "v1.1 signature"}, []string{
			"v1.1: the peer deletes it (rule 1 (any, more than 2) expires it), the plan keeps it (last 2: number 2, pushed 8 days ago)",
		}},
		{"referrers go with their subject", rule("1", weekOfAll), func(s *shop) {
			s.image(90*day, "v1")
			s.refers("scan", "v1", day)
			s.image(2*day, "v2")
		}, []string{"scan", "v1"}, []string{}},
		{"a rule of higher priority has the image, and a lower counts it", rule("2", twoOfAny) + "," + rule("1", `"tagStatus": "tagged", "tagPatternList": ["prod*"], "countType": "imageCountMoreThan", "countNumber": 1`), func(s *shop) {
			s.image(day, "prod-3")
			s.image(2*day, "prod-2")
			s.image(3*day, "beta-1")
			s.image(4*day, "beta-0")
		}, []string{"beta-0", "beta-1", "prod-2"}, []string{
			"prod-2: the peer deletes it (rule 1 (tagged prod*, more than 1) expires it), the plan keeps it (last 2: number 2, pushed 2 days ago)",
		}},
		{"other tags go along", rule("1", twoPR), func(s *shop) {
			s.image(day, "pr-3")
			s.image(2*day, "pr-2")
			s.image(3*day, "pr-1", "v1")
			s.use(":v1", "Deployment team/api of context prod")
		}, []string{"pr-1", "v1"}, []string{
			"pr-1, v1: the peer deletes it (rule 1 (tagged pr-*, more than 2) expires it), the plan keeps it (regex (?:p(?:r(?:[^\\-].*)?|[^r].*)?|[^p].*): tag v1)",
			"! tag v1 is deleted and in use: Deployment team/api of context prod",
			"! pr-1, v1: tag v1 goes because another tag of the same digest was meant",
		}},
		{"all prefixes have to match", rule("1", `"tagStatus": "tagged", "tagPrefixList": ["a", "b"], "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 1`), func(s *shop) {
			s.image(9*day, "a1", "b1")
			s.image(8*day, "a2")
		}, []string{"a1", "b1"}, []string{
			"a1, b1: the peer deletes it (rule 1 (tagged a* and b*, older than 1 days) expires it), the plan keeps it (pattern *: tag a1)",
		}},
		{"what no rule selects stays", rule("1", twoPR), func(s *shop) {
			s.image(900*day, "v1")
			s.add("x")
			s.untagged("x", 900*day)
		}, []string{}, []string{}},
		{"archived is kept", `{"rulePriority": 1, "selection": {` + weekOfAll + `}, "action": {"type": "transition", "targetStorageClass": "archive"}},
			{"rulePriority": 2, "selection": {"tagStatus": "any", "storageClass": "archive", "countType": "sinceImageTransitioned", "countUnit": "days", "countNumber": 90}, "action": {"type": "expire"}}`, func(s *shop) {
			s.image(900*day, "v1")
		}, []string{}, []string{}},
	} {
		s := newShop()
		c.build(s)
		p := parse(t, peer.ECR, `{"rules": [`+c.rules+`]}`)
		o, _, diff := s.judge(p)
		same(t, c.name, c.deletes, s.called(o.Deletes))
		same(t, c.name+", the differences", c.lines, s.lines(diff))
	}
}

// TestJSON holds the names under which scripts find things.
func TestJSON(t *testing.T) {
	t.Parallel()
	s := newShop()
	s.image(90*day, "v1")
	s.use(":v1", "a pod")
	o, _, diff := s.judge(parse(t, peer.ECR, `{"rules": [{"rulePriority": 1, "selection": {"tagStatus": "tagged", "tagPatternList": ["v*"], "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 1}, "action": {"type": "expire"}}]}`), plan.Rule{Deployed: true})
	digest := d("v1").String()
	for _, c := range []struct {
		value any
		want  string
	}{
		{o, `{"peer":"ecr","keeps":[],"deletes":[{"tag":"v1","digest":"` + digest + `","reason":"rule 1 (tagged v*, older than 1 days) expires it"}],"manifests":["` + digest + `"]}`},
		{diff, `{"peer":"ecr","images":[{"side":"peer-deletes","digest":"` + digest + `","tags":["v1"],"peer":["rule 1 (tagged v*, older than 1 days) expires it"],"plan":["deployed: a pod"]}],` +
			`"breaks":[{"damage":"deployed","image":"` + digest + `","tags":["v1"],"lost":"` + digest + `","what":"tag v1","where":["a pod"]}]}`},
	} {
		if got := string(must(json.Marshal(c.value))); got != c.want {
			t.Errorf("got  %s\nwant %s", got, c.want)
		}
	}
}
