package plan_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

const (
	days = 24 * time.Hour
	mib  = 1 << 20
)

// shop is a repository in the making. What is in it is named, and the digests are
// those of the names.
type shop struct {
	*image.Inventory
	policy plan.Policy
	facts  plan.Facts
	// brief leaves out all steps but the first few.
	brief bool
}

func d(name string) digest.Digest { return digest.FromString(name) }

func (s *shop) add(m image.Manifest) digest.Digest {
	if m.MediaType == "" {
		m.MediaType = ocispec.MediaTypeImageManifest
	}
	m.Size = 1000
	s.Manifests.Put(&m)
	return m.Digest
}

// without takes a manifest out.
func (s *shop) without(gone digest.Digest) {
	rest := image.NewManifests()
	for d, m := range s.Manifests.All() {
		if d != gone {
			rest.Put(m)
		}
	}
	s.Manifests = rest
}

// built has a manifest say when it was built.
func (s *shop) built(d digest.Digest, at time.Time) {
	m := s.Manifests.Get(d)
	m.Created = at
	s.Manifests.Put(m)
}

// platform adds an image of one platform, with a base layer that all share and
// one of its own.
func (s *shop) platform(name string, built time.Duration) digest.Digest {
	m := image.Manifest{
		Digest: d(name), Config: &image.Blob{Digest: d(name + " config"), Size: 2000},
		Layers: []image.Blob{{Digest: d("base"), Size: 50 * mib}, {Digest: d(name + " layer"), Size: mib}},
	}
	if built > 0 {
		m.Created = noon.Add(-built)
	}
	return s.add(m)
}

// index adds an index of images.
func (s *shop) index(name string, children ...string) digest.Digest {
	m := image.Manifest{Digest: d(name), MediaType: ocispec.MediaTypeImageIndex}
	for _, c := range children {
		child := image.Child{Digest: d(c), Platform: c}
		if of, ok := strings.CutSuffix(c, " provenance"); ok {
			child.Platform, child.Attests = "", d(of)
		}
		m.Children = append(m.Children, child)
	}
	return s.add(m)
}

// buildx adds what `docker buildx build --platform linux/amd64,linux/arm64 --push`
// makes: an index of two images and of an attestation for each.
func (s *shop) buildx(name string, pushed time.Duration, tags ...string) digest.Digest {
	amd, arm := name+" amd64", name+" arm64"
	for _, p := range []string{amd, arm} {
		s.platform(p, pushed+time.Hour)
		s.add(image.Manifest{Digest: d(p + " provenance"), Layers: []image.Blob{{Digest: d(p + " in-toto"), Size: 9000}}})
	}
	i := s.index(name, amd, arm, amd+" provenance", arm+" provenance")
	s.tag(i, pushed, tags...)
	return i
}

// tag writes tags, so long ago; 0 for a registry that does not tell.
func (s *shop) tag(of digest.Digest, pushed time.Duration, tags ...string) {
	for _, name := range tags {
		t := image.Tag{Name: name, Digest: of}
		if pushed > 0 {
			t.Pushed = noon.Add(-pushed)
		}
		s.Tags[name] = t
	}
}

// cosign signs as cosign does by default.
func (s *shop) cosign(of digest.Digest, pushed time.Duration) {
	sig := s.add(image.Manifest{Digest: d("signature of " + of.String()), Layers: []image.Blob{{Digest: d("payload of " + of.String()), Size: 300}}})
	s.tag(sig, pushed, image.ReferrersTag(of)+".sig")
}

// refers adds an artifact with a subject, that the registry's list tells of.
func (s *shop) refers(name string, to digest.Digest) digest.Digest {
	a := s.add(image.Manifest{Digest: d(name), ArtifactType: "application/spdx+json", Subject: to, Layers: []image.Blob{{Digest: d(name + " document"), Size: 4000}}})
	s.Referrers[to] = append(s.Referrers[to], a)
	return a
}

func (s *shop) untagged(of digest.Digest, pushed time.Duration) {
	t := image.Tag{Digest: of}
	if pushed > 0 {
		t.Pushed = noon.Add(-pushed)
	}
	s.Untagged[of] = t
}

func (s *shop) keep(rules ...plan.Rule) { s.policy.Rules = rules }

// use reads a reference as Kubernetes writes it, of this repository if it begins
// with : or @.
func (s *shop) use(where, text string) {
	if text[0] == ':' || text[0] == '@' {
		text = here.String() + text
	}
	s.facts.Uses = append(s.facts.Uses, image.Use{Reference: must(image.ParseReference(text)), Where: where})
}

// sha is the abbreviated name of the nth commit.
func sha(n int) string { return d(fmt.Sprint("commit ", n)).Encoded()[:7] }

var goldens = []struct {
	name  string
	build func(*shop)
}{
	{"sixty builds, last 30 and deployed", func(s *shop) {
		for i := 1; i <= 60; i++ {
			s.cosign(s.buildx(sha(i), time.Duration(i)*days, sha(i)), time.Duration(i)*days)
		}
		s.use("Deployment team/api of context prod", ":"+sha(41))
		s.use("ReplicaSet team/api-6d8f, 2 rollbacks back, of context prod", "@"+d(sha(55)).String())
		s.use("Pod team/api-6d8f-x2x9v of context prod", "docker-pullable://"+here.String()+"@"+d(sha(58)+" arm64").String())
		s.use("Deployment team/worker of context prod", other[0].String()+":"+sha(50))
		s.keep(plan.Rule{Last: 30}, plan.Rule{Deployed: true})
		s.brief = true
	}},
	{"no rule", func(s *shop) {
		s.buildx("a", 900*days, "v1")
		s.untagged(s.platform("b", 900*days), 900*days)
	}},
	{"versions", func(s *shop) {
		for i, tag := range []string{"v2.1.0", "v2.1.0-rc.1", "2.0.9", "v1.9.9", "nightly", "v2"} {
			s.buildx(tag, time.Duration(i+1)*days, tag)
		}
		s.keep(plan.Rule{Semver: must(semver.NewConstraint(">=2.0.0"))})
	}},
	{"a glob and a regular expression", func(s *shop) {
		for i, tag := range []string{"release-7", "release-7-debug", "pr-9", "v1", "v1.0"} {
			s.buildx(tag, time.Duration(i+1)*days, tag)
		}
		s.keep(plan.Rule{Pattern: "pr-?"}, plan.Rule{Regex: regexp.MustCompile(`release-[0-9]+|v1|v1\.0`)})
	}},
	{"the last 2 of each kind", func(s *shop) {
		for i, tag := range []string{"main-4", "pr-4", "main-3", "pr-3", "main-2", "main-1"} {
			s.buildx(tag, time.Duration(i+1)*days, tag)
		}
		s.keep(plan.Rule{Last: 2, Pattern: "main-*"}, plan.Rule{Last: 1, Pattern: "pr-*"})
	}},
	{"commits of a branch", func(s *shop) {
		s.buildx("on main", 20*days, commits[0][:7])
		s.buildx("on main, a platform's", 19*days, "main-"+commits[0][:9]+"-amd64")
		s.buildx("on a branch that is gone", 18*days, commits[1][:7])
		s.buildx("no commit", 17*days, "deadbee")
		s.keep(plan.Rule{Branch: &main})
		s.facts.Histories = map[string]plan.History{main.String(): {Commits: commits[:1]}}
	}},
	{"a history that cannot be read", func(s *shop) {
		s.buildx("a", 20*days, commits[0][:7])
		s.keep(plan.Rule{Branch: &main})
		s.facts.Histories = map[string]plan.History{main.String(): {Unknown: "/src is no git repository"}}
	}},
	{"signatures, SBOMs and attestations", func(s *shop) {
		kept, gone := s.buildx("new", days, "v2"), s.buildx("old", 2*days, "v1")
		for _, i := range []digest.Digest{kept, gone} {
			s.cosign(i, days)
			s.cosign(s.refers("SBOM of "+i.String(), i), days)
			s.refers("scan of "+i.String(), d("SBOM of "+i.String()))
		}
		s.cosign(d("new arm64"), days)
		s.cosign(d("old arm64"), days)
		s.keep(plan.Rule{Last: 1})
	}},
	{"a list of referrers under a tag", func(s *shop) {
		for i, name := range []string{"v2", "v1"} {
			of := s.buildx(name, time.Duration(i+1)*days, name)
			s.add(image.Manifest{Digest: d("SBOM of " + name), Subject: of})
			s.tag(s.index("list of "+name, "SBOM of "+name), days, image.ReferrersTag(of))
		}
		s.keep(plan.Rule{Last: 1})
	}},
	{"signatures of another repository's images", func(s *shop) {
		s.cosign(d("an image of team/worker"), 400*days)
		s.buildx("a", 300*days, "v1")
		s.buildx("b", days, "v2")
		s.keep(plan.Rule{Last: 1})
	}},
	{"a signature whose image an earlier run deleted", func(s *shop) {
		s.cosign(d("deleted"), 400*days)
		s.buildx("b", days, "v2")
		s.keep(plan.Rule{Last: 1})
		s.facts.Deleted = map[digest.Digest]bool{d("deleted"): true}
	}},
	{"several tags of one image", func(s *shop) {
		s.buildx("a", 30*days, "v1.0.0", "v1.0", "stable")
		s.buildx("b", 20*days, "v0.9.0", "beta")
		s.keep(plan.Rule{Pattern: "stable"})
	}},
	{"tags of the platforms", func(s *shop) {
		for i, name := range []string{"v3", "v2", "v1"} {
			s.buildx(name, time.Duration(i+1)*days, name)
			s.tag(d(name+" amd64"), time.Duration(i+1)*days+time.Minute, name+"-amd64")
			s.tag(d(name+" arm64"), time.Duration(i+1)*days+time.Minute, name+"-arm64")
		}
		s.tag(d("v1 amd64"), time.Hour, "prod") // promoted since
		s.keep(plan.Rule{Last: 2})
	}},
	{"without tags", func(s *shop) {
		s.buildx("latest", days, "latest")
		s.untagged(s.buildx("was latest", 0), 2*days)
		s.untagged(s.buildx("being pushed", 0), time.Hour)
		s.untagged(s.buildx("of unknown age", 0), 0)
		s.untagged(s.buildx("deployed by digest", 0), 9*days)
		s.use("StatefulSet team/db of context prod", "@"+d("deployed by digest").String())
		s.policy.Grace = days
		s.keep(plan.Rule{Last: 30}, plan.Rule{Deployed: true})
	}},
	{"a read that failed", func(s *shop) {
		s.buildx("new", days, "v2")
		s.buildx("old", 2*days, "v1")
		s.Unread = []image.Unread{{What: "tag v3", Why: "500 Internal Server Error"}}
		s.keep(plan.Rule{Last: 1})
	}},
	{"an inventory with a hole", func(s *shop) {
		s.buildx("new", days, "v2")
		s.tag(d("never read"), 2*days, "v1")
		s.keep(plan.Rule{Last: 1})
	}},
	{"a tag that leads nowhere", func(s *shop) {
		s.buildx("new", days, "v2")
		s.tag(d("missing"), 2*days, "v1")
		s.Missing[d("missing")] = true
		s.keep(plan.Rule{Last: 1})
	}},
	{"an index that lacks a platform", func(s *shop) {
		s.buildx("new", days, "v2")
		s.without(d("new arm64"))
		s.Missing[d("new arm64")] = true
		s.buildx("old", 2*days, "v1")
		s.keep(plan.Rule{Last: 1})
	}},
	{"a cluster that cannot be asked", func(s *shop) {
		s.buildx("new", days, "v2")
		s.buildx("old", 200*days, "v1")
		s.buildx("try", 300*days, "pr-1")
		s.facts.UsesUnknown = []string{"context prod: connection refused"}
		s.keep(plan.Rule{Last: 1}, plan.Rule{Pattern: "v*", Deployed: true})
	}},
	{"in use under other spellings", func(s *shop) {
		s.buildx("a", 200*days, "v1.0-rc1")
		s.buildx("b", 300*days, "gone")
		s.use("Deployment team/api of context prod", ":V1.0-RC1")
		s.use("CronJob team/report of context prod", ":moved")
		s.keep(plan.Rule{Deployed: true})
	}},
	{"in use by digests of several kinds", func(s *shop) {
		s.buildx("a", 200*days, "v1")
		s.buildx("b", 300*days, "v2")
		s.buildx("c", 400*days, "v3")
		s.use("Pod team/api-1 of context prod, by its index", "@"+d("a").String())
		s.use("Pod team/api-2 of context prod, by its config", "@"+d("b amd64 config").String())
		s.use("Pod team/api-3 of context prod, by what has no tag now", "@"+d("was latest").String())
		s.keep(plan.Rule{Deployed: true})
	}},
	{"in use by a tag that is not known", func(s *shop) {
		s.buildx("a", 200*days, "v1")
		s.facts.Uses = []image.Use{{Reference: image.Reference{Repository: here}, Where: "line 12 of .gitea/workflows/deploy.yaml"}}
		s.keep(plan.Rule{Deployed: true})
	}},
	{"dates that are missing or made up", func(s *shop) {
		s.buildx("a", 0, "v4")
		s.built(d("a amd64"), time.Unix(0, 0))
		s.built(d("a arm64"), time.Time{})
		for i, name := range []string{"v3", "v2", "v1"} {
			s.tag(s.platform(name, time.Duration(i+1)*days), 0, name)
		}
		s.keep(plan.Rule{Last: 1}, plan.Rule{NewerThan: 36 * time.Hour})
	}},
	{"pulled", func(s *shop) {
		for tag, ago := range map[string]time.Duration{"often": days, "once": 200 * days, "nobody tells": 0} {
			s.buildx(tag, 300*days, tag)
			if ago > 0 {
				s.Tags[tag] = image.Tag{Name: tag, Digest: d(tag), Pushed: noon.Add(-300 * days), Pulled: noon.Add(-ago)}
			}
		}
		s.keep(plan.Rule{PulledWithin: 90 * days})
	}},
	{"pushed in the same second", func(s *shop) {
		for _, tag := range []string{"a", "b", "c", "d"} {
			s.tag(s.platform(tag, 0), days, tag)
		}
		s.tag(s.platform("older", 0), 2*days, "older")
		s.keep(plan.Rule{Last: 2})
	}},
	{"pushed in the same second, and one says when it was built", func(s *shop) {
		s.tag(s.platform("a", 5*days), days, "a")
		s.tag(s.platform("b", 0), days, "b")
		s.tag(s.platform("c", 2*days), 2*days, "c")
		s.tag(s.platform("d", 3*days), 2*days, "d")
		s.keep(plan.Rule{Last: 1})
	}},
	{"pushed in the same second, and all say when they were built", func(s *shop) {
		s.tag(s.platform("c", 3*days), 2*days, "older")
		s.tag(s.platform("d", 2*days), 2*days, "newer")
		s.keep(plan.Rule{Last: 1})
	}},
	{"an image that two indexes share", func(s *shop) {
		s.platform("amd64", 9*days)
		for i, name := range []string{"v3", "v2", "v1"} {
			s.platform(name+" arm64", days)
			s.tag(s.index(name, "amd64", name+" arm64"), time.Duration(i+1)*days, name)
		}
		s.platform("old", 9*days)
		for i, name := range []string{"v0.2", "v0.1"} {
			s.tag(s.index(name, "old"), time.Duration(i+20)*days, name)
		}
		s.keep(plan.Rule{Last: 1})
	}},
}

// TestGolden compares plans with what an operator was shown before.
func TestGolden(t *testing.T) {
	t.Parallel()
	var files []string
	for _, c := range goldens {
		name := strings.Trim(regexp.MustCompile(`[^a-zA-Z0-9]+`).ReplaceAllString(c.name, "-"), "-") + ".txt"
		files = append(files, name)
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := &shop{Inventory: image.NewInventory(here), facts: plan.Facts{Now: noon}}
			c.build(s)
			got := report(s, plan.Decide(s.policy, s.Inventory, s.facts))
			file := filepath.Join("testdata", "plans", name)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("plan (-want +got):\n%s", diff)
			}
		})
	}
	there, err := os.ReadDir(filepath.Join("testdata", "plans"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range there {
		if !slices.Contains(files, f.Name()) {
			t.Errorf("testdata/plans/%s is of no case", f.Name())
		}
	}
}

func report(s *shop, p *plan.Plan) string {
	var b strings.Builder
	for _, r := range p.Rules {
		fmt.Fprintf(&b, "keep %s\n", r)
	}
	for _, v := range p.Images {
		verdict := "goes "
		if v.Keep {
			verdict = "stays"
		}
		fmt.Fprintf(&b, "%s  %s %v %s %d bytes\n", verdict, image.Short(v.Digest), v.Tags, day(v.Date), v.Size)
		for _, reason := range v.Reasons {
			fmt.Fprintf(&b, "       %s\n", reason)
		}
	}
	steps := p.Steps
	if s.brief && len(steps) > 20 {
		steps = steps[:20]
	}
	for _, step := range steps {
		if name, rest, ok := strings.Cut(step.Tag, "."); len(name) == 71 { // shorter, for people
			step.Tag = name[:19] + "…"
			if ok {
				step.Tag += "." + rest
			}
		}
		what := "manifest " + image.Short(step.Digest)
		if step.Tag != "" {
			what = "tag " + step.Tag
		}
		fmt.Fprintf(&b, "delete %s: %s\n", what, step.Reason)
	}
	if len(steps) < len(p.Steps) {
		fmt.Fprintf(&b, "delete %d more\n", len(p.Steps)-len(steps))
	}
	all, gone := p.Tagged()
	fmt.Fprintf(&b, "%d of %d images with a tag go, %d of all; frees %d bytes\n", gone, all, p.Gone(), p.Frees)
	for _, u := range p.Unread {
		fmt.Fprintf(&b, "not read: %s: %s\n", u.What, u.Why)
	}
	for _, note := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", note)
	}
	return b.String()
}
