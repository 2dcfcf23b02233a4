package e2e_test

import (
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers/commands"
	"github.com/regkeeper/regkeeper/e2e/peers/distribution"
	peer "github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/plan"
)

const keptByPlan = 30

// rack is a repository with many tags.
type rack struct {
	b          *testing.B
	host, path string
	// config is a config.json with the login; empty for none.
	config             string
	username, password string
	// api is the address of Gitea's package API; empty where there is none.
	api  string
	tags []string
}

func (s *rack) repository() string { return s.host + "/" + s.path }

// plan runs `regkeeper image prune`, and makes sure that the plan is right.
func (s *rack) plan(p *product, repository string) meteredRun {
	s.b.Helper()
	got := p.meter("image", "prune", repository, "--keep-last", fmt.Sprint(keptByPlan), "-o", "json")
	if got.code != 2 {
		s.b.Fatalf("image prune: exit code %d: %s", got.code, got.err)
	}
	made := decode[[]*plan.Plan](s.b, got.out)
	gone := len(s.tags) - keptByPlan
	// Gitea's own dates have seconds, and many tags are pushed in one: what is as
	// old as the last one that stays, stays.
	right := len(made) == 1 && (made[0].Gone() == gone || s.api != "" && made[0].Gone() > gone/2 && made[0].Gone() < gone)
	if !right || len(made[0].Unread) > 0 {
		s.b.Fatalf("the plan is wrong: %d of %d images go: %v", made[0].Gone(), len(s.tags), made[0].Unread)
	}
	return got
}

// byAPI is regkeeper with the package API of Gitea, which tells of dates and of what
// has no tag.
const byAPI = "regkeeper, api: gitea"

// withAPI is a regkeeper with an empty cache that is told of the package API.
func (s *rack) withAPI() *product {
	return newProduct(s.b, fmt.Sprintf(`
registries:
  - {host: %q, source: {static: {username: %s, password: {env: PASSWORD}}}, verify: false, scopes: [pull], api: {gitea: {url: %q}}}
`, s.host, s.username, s.api), "PASSWORD="+s.password)
}

// planner is a regkeeper with an empty cache.
func (s *rack) planner() *product {
	if s.config == "" {
		return newProduct(s.b, "")
	}
	return newProduct(s.b, "", "DOCKER_CONFIG="+filepath.Dir(s.config))
}

// tagScript is a way to find each tag's digest and date with a command.
type tagScript struct {
	name   string
	atOnce int
	list   func() string
	tag    func(ref string) (digest, config string, err error)
}

// scripts are those that people write with the commands: a list of the tags, and
// for each tag the digest and the date.
func (s *rack) scripts() []tagScript {
	b, ctx := s.b, s.b.Context()
	crane, regctl, skopeo := commands.Crane(b), commands.Regctl(b, s.host), commands.Skopeo(b)
	two := func(c *commands.Command, first, second []string) func(string) (string, string, error) {
		return func(ref string) (string, string, error) {
			digest, err := c.Run(ctx, s.config, append(first[:len(first):len(first)], ref)...)
			if err != nil {
				return "", "", err
			}
			config, err := c.Run(ctx, s.config, append(second[:len(second):len(second)], ref)...)
			return digest, config, err
		}
	}
	ofCrane := two(crane, []string{"digest"}, []string{"config"})
	lsCrane := func() string { return mustPeer(b, crane, s.config, "ls", s.repository()) }
	lsSkopeo := func() string {
		return mustPeer(b, skopeo, s.config, "list-tags", "--tls-verify=false", "docker://"+s.repository())
	}
	ofSkopeo := func(ref string) (string, string, error) {
		both, err := skopeo.Run(ctx, s.config, "inspect", "--no-tags", "--tls-verify=false", "docker://"+ref)
		return both, both, err
	}
	return []tagScript{
		{"crane", 1, lsCrane, ofCrane},
		{"crane xargs -P 8", 8, lsCrane, ofCrane},
		{"regctl", 1, func() string { return mustPeer(b, regctl, s.config, "tag", "ls", s.repository()) },
			two(regctl, []string{"manifest", "head"}, []string{"image", "config"})},
		{"skopeo", 1, lsSkopeo, ofSkopeo},
		{"skopeo xargs -P 8", 8, lsSkopeo, ofSkopeo},
	}
}

// tagsOfScript is how many tags a script does in each round: the whole would take
// minutes, and takes as long for each tag.
const tagsOfScript = 160

// run runs the script on some tags, and scales to all.
func (s *rack) run(of tagScript, round int) time.Duration {
	s.b.Helper()
	began := time.Now()
	if out := of.list(); strings.Count(out, "build-") != len(s.tags) {
		s.b.Fatalf("%s lists %d tags", of.name, strings.Count(out, "build-"))
	}
	listed := time.Since(began)
	n := min(tagsOfScript, len(s.tags)/rounds)
	began = time.Now()
	atOnceEach(s.b, n, of.atOnce, func(i int) error {
		tag := s.tags[round*n+i]
		digest, config, err := of.tag(s.repository() + ":" + tag)
		if err == nil && (!strings.Contains(digest, "sha256:") || !strings.Contains(strings.ToLower(config), "created")) {
			err = fmt.Errorf("%s tells of %s: %s %s", of.name, tag, digest, config)
		}
		return err
	})
	return listed + time.Since(began)*time.Duration(len(s.tags))/time.Duration(n)
}

// bench prints what planning takes, and ratios to the scripts.
func (s *rack) bench(fill time.Duration) {
	b := s.b
	before := machineLoad(b)
	var warm, cold meteredRun
	var caches [rounds]*product
	all := []contender{{"regkeeper cold", func(round int) time.Duration {
		p := s.planner()
		cold = s.plan(p, s.repository())
		caches[round] = p
		return cold.took
	}}, {"regkeeper warm", func(round int) time.Duration {
		if caches[round] == nil {
			caches[round] = s.planner()
			s.plan(caches[round], s.repository())
		}
		warm = s.plan(caches[round], s.repository())
		return warm.took
	}}}
	for _, script := range s.scripts() {
		all = append(all, contender{script.name, func(round int) time.Duration { return s.run(script, round) }})
	}
	var own *product
	if s.api != "" {
		all = append(all, contender{byAPI + ", cold", func(int) time.Duration {
			p := s.withAPI()
			took := s.plan(p, s.repository()).took
			own = p
			return took
		}}, contender{byAPI + ", warm", func(int) time.Duration {
			if own == nil {
				own = s.withAPI()
				s.plan(own, s.repository())
			}
			return s.plan(own, s.repository()).took
		}})
	}
	took := race(b, all...)

	var t benchTable
	t.row("planning", len(s.tags), "tags", "of the best peer")
	names := []string{"regkeeper cold", "regkeeper warm", byAPI + ", cold", byAPI + ", warm"}
	best := time.Duration(math.MaxInt64)
	for _, script := range s.scripts() {
		names = append(names, script.name)
		best = min(best, took[script.name])
	}
	for _, name := range names {
		if took[name] > 0 {
			t.row(name, took[name], fmt.Sprintf("%.2f ms/tag", took[name].Seconds()*1000/float64(len(s.tags))), float64(took[name])/float64(best))
		}
	}
	tell(b, "load %.1f to %.1f; filled in %.1f s\n%s", before, machineLoad(b), fill.Seconds(), &t)

	proxy := countBefore(b, s.host)
	through := *s
	through.host = proxy.host
	if s.config != "" {
		through.config = writeLogin(b, proxy.host, s.username, s.password)
	}
	p := through.planner()
	for _, name := range []string{"cold", "warm"} {
		through.plan(p, through.repository())
		counts, sum := proxy.take()
		b.ReportMetric(float64(sum)/float64(len(s.tags)), "requests/tag-"+name)
		tell(b, "requests per tag, %s: %s", name, perKind(counts, len(s.tags)))
	}
	if s.api != "" {
		through.api = "http://" + proxy.host
		p := through.withAPI()
		for _, name := range []string{"cold", "warm"} {
			through.plan(p, through.repository())
			counts, sum := proxy.take()
			tell(b, "requests per tag, %s, %s: %.3f: %s", byAPI, name, float64(sum)/float64(len(s.tags)), perKind(counts, len(s.tags)))
		}
	}
	for _, script := range through.scripts() {
		if script.atOnce > 1 {
			continue
		}
		n := min(50, len(s.tags))
		atOnceEach(b, n, script.atOnce, func(i int) error {
			_, _, err := script.tag(through.repository() + ":" + s.tags[i])
			return err
		})
		counts, sum := proxy.take()
		tell(b, "requests per tag, %s: %.3g: %s", script.name, float64(sum)/float64(n), perKind(counts, n))
	}
	b.ReportMetric(took["regkeeper cold"].Seconds(), "s-cold")
	b.ReportMetric(took["regkeeper warm"].Seconds(), "s-warm")
	b.ReportMetric(float64(took["regkeeper cold"])/float64(best), "x-best-cold")
	b.ReportMetric(float64(took["regkeeper warm"])/float64(best), "x-best-warm")
	b.ReportMetric(cold.peak, "MiB-peak-cold")
	b.ReportMetric(warm.peak, "MiB-peak-warm")
	b.ReportMetric(cold.cpu.Seconds(), "s-cpu-cold")
	b.ReportMetric(warm.cpu.Seconds(), "s-cpu-warm")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkPlanImages makes a plan for a repository of many tags, against scripts
// that find out with other commands what such a plan rests on: each tag's digest
// and date. Of the scripts some hundred tags are measured, and scaled to all.
func BenchmarkPlanImages(b *testing.B) {
	if _, err := binary(); err != nil {
		b.Fatal(err) // before minutes of filling
	}
	for _, of := range []struct {
		name string
		n    int
		v3   bool
	}{{"distribution3", 10_000, true}, {"distribution2", 2000, false}} {
		b.Run(of.name, func(b *testing.B) {
			server := distribution.Start(b, distribution.Options{V3: of.v3, DeleteEnabled: true})
			s := &rack{b: b, host: server.Host, path: "team/app"}
			var fill time.Duration
			s.tags, fill = fillerOf(b, s.host, s.path, "", "").tags(of.n)
			s.bench(fill)
		})
	}
	b.Run("gitea", func(b *testing.B) {
		server := peer.Start(b)
		_, token := server.CreateToken(owner, server.CreateUser(owner), "bench", "write:package")
		s := &rack{
			b: b, host: server.Host, path: owner + "/app", api: server.URL,
			username: owner, password: token, config: writeLogin(b, server.Host, owner, token),
		}
		var fill time.Duration
		s.tags, fill = fillerOf(b, s.host, s.path, owner, token).tags(4000)
		s.bench(fill)
	})
}
