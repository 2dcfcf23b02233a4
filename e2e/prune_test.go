package e2e_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"

	"github.com/regkeeper/regkeeper/e2e/peers/buildx"
	"github.com/regkeeper/regkeeper/e2e/peers/commands"
	"github.com/regkeeper/regkeeper/e2e/peers/distribution"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/e2e/peers/stock"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
)

// pruning is the arguments of a prune of a repository, by rules.
func (y *yard) pruning(p place, rules ...string) []string {
	return append([]string{"image", "prune", p.repository}, rules...)
}

// plans makes a plan for a repository.
func (y *yard) plans(t *testing.T, p place, rules ...string) (*plan.Plan, string) {
	t.Helper()
	got := y.keeper.run(append(y.pruning(p, rules...), "-o", "json")...)
	if got.code != 2 {
		t.Fatalf("the plan: exit code %d, want 2\n%s%s", got.code, got.out, got.err)
	}
	file := filepath.Join(t.TempDir(), "plan.json")
	writeText(t, file, got.out)
	made := decode[[]*plan.Plan](t, got.out)
	if len(made) != 1 || len(made[0].Unread) > 0 {
		t.Fatalf("the plan is %s", got.out)
	}
	return made[0], file
}

// outcomes are the tags that a plan keeps, and those that it does not.
func outcomes(made *plan.Plan) (keeps, goes []string) {
	for _, v := range made.Images {
		if v.Keep {
			keeps = append(keeps, v.Tags...)
		} else {
			goes = append(goes, v.Tags...)
		}
	}
	slices.Sort(keeps)
	slices.Sort(goes)
	return keeps, goes
}

// nothingToDo wants a prune to find nothing, and to do nothing if told to.
func (y *yard) nothingToDo(t *testing.T, p place, rules ...string) {
	t.Helper()
	for _, more := range [][]string{nil, {"--apply"}} {
		got := y.keeper.run(append(y.pruning(p, rules...), more...)...)
		if got.code != 0 {
			t.Errorf("another prune %v: exit code %d\n%s%s", more, got.code, got.out, got.err)
		}
	}
}

// TestPruneKeepsWhatStays prunes real registries of images that share, name and
// sign each other, and asks skopeo, crane and cosign what is left.
func TestPruneKeepsWhatStays(t *testing.T) {
	t.Parallel()
	builder, with := buildx.Start(t), newTools(t)
	for kind, start := range yards {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			y := start(t)
			y.noticesLoss(t, builder, with)
			s, deployed := y.stockAll(t, builder, with)
			rules := []string{"--keep-last", "3", "--keep-pattern", "release-*", "--keep-pattern", "arm-*", "--in-use-file", deployed}
			before := s.reached(t, s.list(t)...)

			made, file := y.plans(t, s.place, rules...)
			keeps, goes := outcomes(made)
			if diff := cmp.Diff([]string{"amd-6", "arm-3", "release-2", "v10", "v11", "v12", "v2", "v5", "v6", "v7", "v8"}, keeps); diff != "" {
				t.Errorf("the plan keeps (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"v1", "v3", "v4", "v9"}, goes); diff != "" {
				t.Errorf("the plan deletes (-want +got):\n%s", diff)
			}

			began := time.Now()
			result := decode[[]lifecycle.Pruned](t, y.keeper.must("image", "prune", "--from", file, "--apply", "-o", "json"))
			if len(result) != 1 || len(result[0].Failed) > 0 || len(result[0].Skipped) > 0 || result[0].Deleted != len(made.Steps) {
				t.Errorf("of %d steps: %+v", len(made.Steps), result)
			}
			t.Logf("%d images, of which %d go with %d steps, in %v", len(made.Images), made.Gone(), len(made.Steps), time.Since(began).Round(time.Millisecond))
			s.whole(t, with, keeps...)
			for _, tag := range goes {
				if got := s.leads(t, tag); got != "" {
					t.Errorf("%s is still there, and leads to %s", tag, got)
				}
			}
			s.pullsEach(t, with, "v2", "v6", "v7", "v8", "v11", "v12")
			y.remains(t, s.place, before, keeps...)
			y.nothingToDo(t, s.place, rules...)
		})
	}
}

// stockAll pushes, one after the other,
//
//	v1         signed and attested in every way   nothing keeps it
//	v2         also release-2                     a pattern keeps it
//	v3         its arm64 is arm-3 by itself       a pattern keeps that
//	v4, v5     of one amd64                       v5 is in use by digest
//	v6         its amd64 is amd-6                 which is in use by tag
//	v7                                            in use by tag
//	v8                                            its arm64 is in use by digest
//	v9                                            nothing keeps it
//	v10        of one platform, unattested        the last three
//	v11, v12
//
// and returns with it a file that names what is in use.
func (y *yard) stockAll(t *testing.T, builder *buildx.Builder, with tools) (s *shelf, deployed string) {
	t.Helper()
	s = newShelf(y.place)
	day := func(n int) time.Time { return epoch.AddDate(0, 0, n) }
	all := map[string]string{}
	push := func(n int, m buildx.Image, tags ...string) string {
		m.Created = day(n)
		all[tags[0]] = s.push(t, builder, m, tags...)
		return all[tags[0]]
	}
	alias := func(digest, tag string) {
		if _, err := with.crane.Run(t.Context(), s.config, "tag", s.repository+"@"+digest, tag); err != nil {
			t.Fatal(err)
		}
		s.tags[tag] = digest
	}
	push(1, buildx.Image{}, "v1")
	push(2, buildx.Image{}, "v2", "release-2")
	arm := s.child(t, push(3, buildx.Image{}, "v3"), "linux/arm64")
	alias(arm, "arm-3")
	push(4, buildx.Image{Content: "shared"}, "v4")
	push(4, buildx.Image{Content: "shared", Platforms: []string{"linux/amd64"}}, "v5")
	if s.child(t, all["v4"], "linux/amd64") != s.child(t, all["v5"], "linux/amd64") {
		t.Fatal("v4 and v5 share no platform")
	}
	alias(s.child(t, push(6, buildx.Image{}, "v6"), "linux/amd64"), "amd-6")
	push(7, buildx.Image{}, "v7")
	pod := s.child(t, push(8, buildx.Image{}, "v8"), "linux/arm64")
	push(9, buildx.Image{}, "v9")
	push(10, buildx.Image{Bare: true, Platforms: []string{"linux/amd64"}}, "v10")
	push(11, buildx.Image{}, "v11")
	push(12, buildx.Image{}, "v12")

	s.sign(t, with.signer, legacy, all["v1"], all["v2"], all["v3"], arm, all["v5"], all["v6"], all["v9"], all["v10"], all["v12"])
	s.sign(t, with.signer, bundle, all["v1"], all["v2"], all["v3"], arm, all["v4"], all["v7"], all["v8"], all["v10"], all["v11"])
	s.sign(t, with.signer, attestedLegacy, all["v1"], all["v12"])
	s.sign(t, with.signer, attested, all["v1"], all["v11"])

	deployed = filepath.Join(t.TempDir(), "deployed.txt")
	writeText(t, deployed, strings.Join([]string{
		s.repository + "@" + all["v5"], s.repository + ":amd-6", s.repository + ":v7", s.repository + "@" + pod,
	}, "\n")+"\n")
	return s, deployed
}

// noticesLoss is the control: what cosign says, once a signature is deleted.
func (y *yard) noticesLoss(t *testing.T, builder *buildx.Builder, with tools) {
	t.Helper()
	p := y.repo("control")
	digest := builder.Multiarch(t, p.config, p.repository+":v1")
	tag := strings.Replace(digest, ":", "-", 1)
	for f, lost := range map[form]string{legacy: tag + ".sig", bundle: tag} {
		p.sign(t, with.signer, f, digest)
		if err := p.verify(t, with.signer, f, digest); err != nil {
			t.Fatalf("control: %s: %v", forms[f], err)
		}
		what := []string{"tag", "rm", p.repository + ":" + lost}
		if p.leads(t, lost) == "" { // the registry keeps the list of referrers
			subject, err := name.NewDigest(p.repository + "@" + digest)
			if err != nil {
				t.Fatal(err)
			}
			what = []string{"manifest", "rm", p.repository + "@" + p.referrers(t, subject)[0].Digest.String()}
		}
		if _, err := commands.Regctl(t, p.host()).Run(t.Context(), p.config, what...); err != nil {
			t.Fatalf("control: delete %v: %v", what, err)
		}
		if err := p.verify(t, with.signer, f, digest); err == nil {
			t.Errorf("control: %s: cosign verifies what was deleted", forms[f])
		}
	}
}

// TestPruneKilled kills prunes at random moments, and looks each time at what is
// to stay. It carries on with the same plan, which finishes all of it, and with
// plans made anew: these find what has a tag, or is listed without one. The rest
// is the registry's own collection's.
func TestPruneKilled(t *testing.T) {
	t.Parallel()
	builder, with := buildx.Start(t), newTools(t)
	for _, kind := range []string{"distribution 2", "gitea", "embedded"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			y := yards[kind](t)
			y.keeper.configure(y.keeper.text() + fmt.Sprintf("images:\n  - {match: %q, keep: [{last: 3}], grace: \"0\", maxShare: 100, rate: 20}\n", y.host()+"/**"))
			for _, how := range []string{"same", "anew"} {
				s := newShelf(y.repo(how))
				var all []string
				tags := stock.Numbered("v", 8)
				for n, tag := range tags {
					all = append(all, s.push(t, builder, buildx.Image{Created: epoch.AddDate(0, 0, n)}, tag))
				}
				s.sign(t, with.signer, bundle, all...)
				s.sign(t, with.signer, legacy, all...)
				before, keeps := s.reached(t, s.list(t)...), tags[5:]

				made, file := y.plans(t, s.place)
				prune := append(y.pruning(s.place), "--apply")
				if how == "same" {
					prune = []string{"image", "prune", "--from", file, "--apply"}
				}
				killed, ended := 0, false
				for range 6 {
					if ended = !killedWithin(t, y.keeper.command(prune...), rand.N(600*time.Millisecond)); ended {
						break
					}
					killed++
					s.whole(t, with, keeps...)
				}
				t.Logf("%s: %d steps, killed %d times, ended by itself then: %t", how, len(made.Steps), killed, ended)
				if killed < 3 {
					t.Errorf("killed %d times only", killed)
				}
				y.keeper.must(prune...)
				s.whole(t, with, keeps...)
				if how == "anew" && y.gitea == nil {
					before = nil
				}
				y.remains(t, s.place, before, keeps...)
				y.nothingToDo(t, s.place)
			}
		})
	}
}

// TestPruneKilledAtEachRequest kills a prune of Debian's registry, where to delete
// a tag takes several requests, once each of them was carried out, and before the
// answer comes.
func TestPruneKilledAtEachRequest(t *testing.T) {
	t.Parallel()
	builder, with := buildx.Start(t), newTools(t)
	y := distributionYard(t, distribution.Options{DeleteEnabled: true})
	ambush := newAmbush(t, y.host())
	y.keeper.configure(registriesText("", ambush.host, y.source, y.host(), y.source))
	s := newShelf(y.place)
	for n, tag := range []string{"old", "new"} {
		d := s.push(t, builder, buildx.Image{Bare: true, Created: epoch.AddDate(0, 0, n)}, tag)
		s.sign(t, with.signer, bundle, d)
		s.sign(t, with.signer, legacy, d)
	}
	rules := []string{"--keep-last", "1", "--rate", "0"}
	const most = 30
	for _, tag := range []string{"old", "new"} {
		args := []string{"image", "copy", s.repository + ":" + tag}
		for n := range most {
			args = append(args, y.repo(fmt.Sprint("app", n+1)).repository)
		}
		y.keeper.must(args...)
	}
	for n := 1; ; n++ {
		if n > most {
			t.Fatalf("a prune has more requests than %d", most)
		}
		p := y.repo(fmt.Sprint("app", n))
		needs := p.reached(t, attachedTo(p.list(t), s.tags["new"], "new")...)
		there := s.copied(p)
		through := p
		through.repository = ambush.host + strings.TrimPrefix(p.repository, y.host())
		request, killed := ambush.run(t, y.keeper.command(append(y.pruning(through, rules...), "--apply")...), n)
		for digest := range needs {
			if p.leads(t, digest) == "" {
				t.Errorf("killed after request %d, %s: %s is gone", n, request, digest)
			}
		}
		if !killed {
			t.Logf("%d requests that change something", n-1)
			break
		}
		before := t.Failed()
		y.keeper.must(append(y.pruning(through, rules...), "--apply")...)
		there.whole(t, with, "new")
		y.remains(t, p, nil, "new")
		y.nothingToDo(t, through, rules...)
		if t.Failed() && !before {
			t.Logf("killed after request %d, %s\n%s", n, request, y.keeper.run(append(y.pruning(through, rules...), "--all")...).out)
		}
	}
}

// attachedTo are the tags that are kept for a manifest, and some more.
func attachedTo(tags []string, digest string, more ...string) []string {
	for _, tag := range tags {
		if strings.HasPrefix(tag, strings.Replace(digest, ":", "-", 1)) {
			more = append(more, tag)
		}
	}
	return more
}

// ambush is a proxy before a registry that kills who asks.
type ambush struct {
	host string

	mu      sync.Mutex
	left    int // requests that change something, until it kills
	kill    context.CancelFunc
	killed  chan struct{}
	request string
}

func newAmbush(t *testing.T, registry string) *ambush {
	t.Helper()
	a := &ambush{}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: registry})
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			if r.Request.Method == http.MethodGet || r.Request.Method == http.MethodHead {
				return nil
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.left--; a.left == 0 {
				a.request = fmt.Sprint(r.Request.Method, " ", r.Request.URL.Path, " ", r.StatusCode)
				a.kill()
				<-a.killed
			}
			return nil
		},
	}
	server := httptest.NewServer(proxy)
	t.Cleanup(server.Close)
	a.host = strings.TrimPrefix(server.URL, "http://")
	return a
}

// run runs a command that is killed after so many requests, and says after which
// it was.
func (a *ambush) run(t *testing.T, cmd *exec.Cmd, n int) (request string, killed bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dead := make(chan struct{})
	a.mu.Lock()
	a.left, a.kill, a.killed, a.request = n, cancel, dead, ""
	a.mu.Unlock()
	_, err := process.Output(ctx, cmd)
	close(dead)
	if err != nil && ctx.Err() == nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.request, err != nil
}

// TestPruneTheDocumentsCase keeps the last images of a project's three
// repositories at Gitea, and older ones that are deployed: exactly these.
func TestPruneTheDocumentsCase(t *testing.T) {
	t.Parallel()
	builder, with := buildx.Start(t), newTools(t)
	y := giteaYard(t)
	workflow := filepath.Join(t.TempDir(), "deploy.yaml")
	var text strings.Builder
	text.WriteString("services:\n")
	type project struct {
		*shelf
		last   int
		before map[string]string
		keeps  []string
	}
	var projects []*project
	began := time.Now()
	for n, c := range []struct {
		name        string
		count, last int
		legacy      bool
	}{{"honeydue-api", 60, 30, false}, {"honeydue-worker", 60, 30, true}, {"honeydue-admin", 60, 30, false}} {
		pr := &project{shelf: newShelf(y.repo(c.name)), last: c.last}
		tags := stock.Numbered("1.", c.count)
		pr.fill(t, builder, with, c.legacy, tags[:c.count-c.last], epoch)
		pr.fill(t, builder, with, c.legacy, tags[c.count-c.last:], epoch.AddDate(0, 0, c.count))
		pr.before = pr.reached(t, pr.list(t)...)
		// Deployed are one by tag, one by digest, one by the digest of a platform.
		fmt.Fprintf(&text, "  by-tag-%d: {image: %q}\n", n, pr.repository+":"+tags[1])
		fmt.Fprintf(&text, "  by-digest-%d: {image: %q}\n", n, pr.repository+"@"+pr.tags[tags[3]])
		fmt.Fprintf(&text, "  by-platform-%d: {image: %q}\n", n, pr.repository+"@"+pr.child(t, pr.tags[tags[4]], "linux/amd64"))
		pr.keeps = append([]string{tags[1], tags[3], tags[4]}, tags[c.count-c.last:]...)
		slices.Sort(pr.keeps)
		projects = append(projects, pr)
	}
	writeText(t, workflow, text.String())
	t.Logf("180 images, pushed and signed in %v", time.Since(began).Round(time.Second))
	for _, pr := range projects {
		rules := []string{"--keep-last", fmt.Sprint(pr.last), "--in-use-file", workflow}
		began := time.Now()
		made, file := y.plans(t, pr.place, rules...)
		planned := time.Since(began)
		keeps, goes := outcomes(made)
		if diff := cmp.Diff(pr.keeps, keeps); diff != "" {
			t.Errorf("the plan for %s keeps (-want +got):\n%s", pr.repository, diff)
		}
		y.keeper.must("image", "prune", "--from", file, "--apply", "--rate", "0")
		t.Logf("%s: %d images stay and %d go: planned in %v, %d steps in %v", pr.repository, len(keeps), len(goes),
			planned.Round(time.Millisecond), len(made.Steps), (time.Since(began) - planned).Round(time.Millisecond))
		y.remains(t, pr.place, pr.before, pr.keeps...)
		pr.whole(t, with, pr.keeps...)
		y.nothingToDo(t, pr.place, rules...)
	}
}

// fill pushes images and signs them. The next ones come a second later or more:
// that is how exactly Gitea says when something was pushed.
func (s *shelf) fill(t *testing.T, builder *buildx.Builder, with tools, old bool, tags []string, newest time.Time) {
	t.Helper()
	made, err := stock.Fill(t.Context(), builder, with.signer, s.config, stock.Plan{
		Repository: s.repository, Tags: tags, Newest: newest, Every: 24 * time.Hour, Sign: !old, SignLegacy: old,
	})
	if err != nil {
		t.Fatal(err)
	}
	f := bundle
	if old {
		f = legacy
	}
	for _, m := range made {
		s.tags[m.Tag] = m.Digest
		s.signed[m.Digest] = append(s.signed[m.Digest], f)
	}
}

// TestGiteasOwnRule has Gitea clean up by a rule of its own, beside a prune by the
// same rules of the same images.
func TestGiteasOwnRule(t *testing.T) {
	t.Parallel()
	builder, with := buildx.Start(t), newTools(t)
	tags := stock.Numbered("1.", 10)
	fill := func(y *yard) (s *shelf) {
		s = newShelf(y.place)
		for n, tag := range tags {
			digest := s.push(t, builder, buildx.Image{Created: epoch.AddDate(0, 0, n)}, tag)
			s.sign(t, with.signer, legacy, digest)
		}
		return s
	}
	stays := []string{"1.1", "1.6", "1.7", "1.8", "1.9", "1.10"}

	ours := giteaYard(t)
	s := fill(ours)
	ours.keeper.must(append(ours.pruning(s.place), "--keep-last", "5", "--keep-pattern", "1.1", "--apply")...)
	s.whole(t, with, stays...)
	ours.remains(t, s.place, nil, slices.Clone(stays)...)

	theirs := giteaYard(t)
	s = fill(theirs)
	theirs.rule(t, map[string]string{"type": "container", "enabled": "on", "keep_count": "5", "keep_pattern": `1\.1`, "action": "save"})
	rows := len(theirs.rows(t, s.place))
	client := theirs.gitea.Client(theirs.gitea.Admin, theirs.gitea.Password)
	if _, err := client.RunCronTasks("cleanup_packages"); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "Gitea to clean up", func() error {
		if left := len(theirs.rows(t, s.place)); left == rows {
			return fmt.Errorf("%d versions", left)
		}
		return nil
	})
	var gone, broken, unsigned []string
	for _, tag := range stays {
		digest := s.tags[tag]
		_, err := with.skopeo.Run(t.Context(), s.config, "copy", "--all", "--src-tls-verify=false", "docker://"+s.repository+":"+tag, "dir:"+t.TempDir())
		switch {
		case s.leads(t, tag) == "":
			gone = append(gone, tag)
		case err != nil:
			broken = append(broken, tag)
		case s.verify(t, with.signer, legacy, digest) != nil:
			unsigned = append(unsigned, tag)
		}
	}
	t.Logf("of %d versions %d are left; of the images that were to stay %v: gone %v, not to be pulled %v, without their signature %v; tags left %v",
		rows, len(theirs.rows(t, s.place)), stays, gone, broken, unsigned, s.list(t))
	if len(gone) == 0 || len(unsigned)+len(broken) == 0 {
		t.Error("Gitea's rule lost nothing: the comparison in the documents is not true of this version")
	}
}

// rule adds a rule for cleaning up, which Gitea takes by its forms only.
func (y *yard) rule(t *testing.T, fields map[string]string) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	post := func(path string, fields map[string]string) {
		t.Helper()
		form := url.Values{}
		for name, value := range fields {
			form.Set(name, value)
		}
		resp, err := client.PostForm(y.gitea.URL+path, form)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusSeeOther {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<12))
			t.Fatalf("POST %s: %s: %s", path, resp.Status, text)
		}
	}
	post("/user/login", map[string]string{"user_name": owner, "password": y.account})
	post("/user/settings/packages/rules/add", fields)
}
