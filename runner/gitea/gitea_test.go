package gitea_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitearunner"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
	"github.com/regkeeper/regkeeper/runner/gitea"
)

const (
	accessToken       = "access-s3cret"
	registrationToken = "registration-s3cret"
)

// machine is a machine with a runner, and the server it is at.
type machine struct {
	t    *testing.T
	fake *fakegitearunner.Server
	url  string
	file string
	*gitea.Fleet
}

func boot(t *testing.T, config fakegitearunner.Config, change func(*gitea.Config)) *machine {
	t.Helper()
	m := &machine{t: t, fake: fakegitearunner.New(config), file: filepath.Join(t.TempDir(), "runner", ".runner")}
	server := httptest.NewServer(m.fake)
	t.Cleanup(server.Close)
	m.url = server.URL
	c := gitea.Config{
		File: m.file, AccessToken: credential.NewSecret(accessToken), Scope: gitea.Scope{Kind: gitea.Instance},
		Transport: transport.New(transport.Config{}), Now: func() time.Time { return time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC) },
	}
	if change != nil {
		change(&c)
	}
	m.Fleet = gitea.New(c)
	return m
}

func usual() fakegitearunner.Config {
	return fakegitearunner.Config{AccessToken: accessToken, RegistrationToken: registrationToken}
}

func (m *machine) request() gitea.Request {
	return gitea.Request{URL: m.url + "/", Name: "build-host", Labels: []string{"ubuntu:docker://r.example/job:1", "here:host"}}
}

func (m *machine) register(r gitea.Request, deliverer runner.Deliverer) (*gitea.Registration, runner.Info, error) {
	m.t.Helper()
	facts, err := m.Look(m.t.Context())
	if err != nil {
		m.t.Fatalf("Look: %v", err)
	}
	plan := gitea.Decide(r, facts)
	info, err := m.Apply(m.t.Context(), plan, deliverer)
	return plan, info, err
}

func (m *machine) must(r gitea.Request) (*gitea.Registration, runner.Info) {
	m.t.Helper()
	plan, info, err := m.register(r, nil)
	if err != nil {
		m.t.Fatalf("register: %v", err)
	}
	return plan, info
}

func (m *machine) registration() map[string]any {
	m.t.Helper()
	text, err := os.ReadFile(m.file)
	if err != nil {
		m.t.Fatal(err)
	}
	var reg map[string]any
	if err := json.Unmarshal(text, &reg); err != nil {
		m.t.Fatal(err)
	}
	return reg
}

func TestRegister(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, scope, request string
		forgejo, token       bool
	}{
		{"instance", "instance", "POST /api/v1/admin/actions/runners/registration-token", false, false},
		{"organization", "org:acme", "POST /api/v1/orgs/acme/actions/runners/registration-token", false, false},
		{"user", "user", "POST /api/v1/user/actions/runners/registration-token", false, false},
		{"repository", "repo:acme/app", "POST /api/v1/repos/acme/app/actions/runners/registration-token", false, false},
		{"forgejo instance", "instance", "GET /api/v1/admin/runners/registration-token", true, false},
		{"forgejo repository", "repo:acme/app", "GET /api/v1/repos/acme/app/actions/runners/registration-token", true, false},
		{"registration token", "instance", "POST /api/actions/runner.v1.RunnerService/Register", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config := usual()
			config.Forgejo = c.forgejo
			m := boot(t, config, func(g *gitea.Config) {
				scope, err := gitea.ParseScope(c.scope)
				if err != nil || scope.String() != c.scope {
					t.Fatalf("scope %s, %v", scope, err)
				}
				g.Scope = scope
				if c.token {
					g.AccessToken = credential.Secret{}
				}
			})
			r := m.request()
			if c.token {
				r.Token = credential.NewSecret(registrationToken)
			}
			plan, info := m.must(r)
			if !plan.Does(runner.Create) || !plan.Does(runner.Write) || info.ID != 1 || info.Name != "build-host" || info.URL != m.url {
				t.Errorf("it is %+v by %v", info, plan.Steps)
			}
			if requests := strings.Join(m.fake.Requests(), "\n"); !strings.Contains(requests, c.request) {
				t.Errorf("%s is not among:\n%s", c.request, requests)
			}
			reg := m.registration()
			delete(reg, "WARNING")
			want := map[string]any{
				"id": 1.0, "uuid": "uuid-1", "name": "build-host", "token": "token-1", "address": m.url, "ephemeral": false,
				"labels": []any{"ubuntu:docker://r.example/job:1", "here:host"},
			}
			if diff := cmp.Diff(want, reg); diff != "" {
				t.Errorf(".runner (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"ubuntu", "here"}, m.fake.Runners()[0].Labels); diff != "" {
				t.Errorf("labels at the server (-want +got):\n%s", diff)
			}
			entries, err := os.ReadDir(filepath.Dir(m.file))
			if err != nil || len(entries) != 2 || entries[0].Name() != "..runner.regkeeper-runner.lock" {
				t.Fatalf("files are %v, %v", entries, err)
			}
			for _, entry := range entries {
				if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("mode of %s is %v, %v", entry.Name(), info.Mode(), err)
				}
			}
			if plan, again := m.must(r); !plan.Does(runner.Keep) || again.ID != 1 || len(m.fake.Runners()) != 1 {
				t.Errorf("again: %+v by %v", again, plan.Steps)
			}
			m.fake.Remove(1)
			if plan, later := m.must(r); !plan.Does(runner.Replace) || later.ID != 2 {
				t.Errorf("after it was removed: %+v by %v", later, plan.Steps)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	good := gitea.Request{URL: "https://gitea.example.com", Name: "n", Labels: []string{"a", "b:host", "c:docker://i"}}
	there := &runner.Info{Name: "there", URL: "https://gitea.example.com", ID: 1}
	for _, c := range []struct {
		name   string
		change func(*gitea.Request, *gitea.Facts)
		want   []string
	}{
		{"nothing", func(*gitea.Request, *gitea.Facts) {}, nil},
		{"url", func(r *gitea.Request, _ *gitea.Facts) { r.URL = "gitea.example.com" }, []string{"--url"}},
		{"name", func(r *gitea.Request, _ *gitea.Facts) { r.Name = "" }, []string{"--name"}},
		{"label", func(r *gitea.Request, _ *gitea.Facts) { r.Labels = []string{"a:k8s", ":host", "b"} }, []string{"--labels", "--labels"}},
		{"no token", func(_ *gitea.Request, f *gitea.Facts) { f.CanAsk = false }, []string{"--token"}},
		{"no scope", func(_ *gitea.Request, f *gitea.Facts) { f.Scope = gitea.Scope{} }, []string{"--scope"}},
		{"no answer", func(_ *gitea.Request, f *gitea.Facts) { f.There, f.Health = there, runner.Unknown }, []string{"there"}},
		{"another server", func(_ *gitea.Request, f *gitea.Facts) {
			f.There = &runner.Info{Name: "x", URL: "https://other.example"}
		}, []string{"x"}},
		{"login in the environment", func(r *gitea.Request, _ *gitea.Facts) { r.Login = &runner.Delivery{Way: runner.Environment} }, []string{"--login-in"}},
		{"a rotation", func(_ *gitea.Request, f *gitea.Facts) {
			f.Pending = &runner.Entry{Verb: "rotate", Name: "n", Token: "t"}
		}, []string{"n"}},
	} {
		r, facts := good, gitea.Facts{Path: "f", CanAsk: true, Scope: gitea.Scope{Kind: gitea.Instance}}
		c.change(&r, &facts)
		plan := gitea.Decide(r, facts)
		var got []string
		for _, refusal := range plan.Refused {
			got = append(got, refusal.What)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	for _, text := range []string{"", "org", "org:", "org:a/b", "repo:a", "repo:a/", "repo:a/b/c", "instance:x", "team:x"} {
		if scope, err := gitea.ParseScope(text); problem.KindOf(err) != problem.Usage {
			t.Errorf("%q is scope %v, %v", text, scope, err)
		}
	}
}

func TestServerSaysNo(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), func(c *gitea.Config) { c.AccessToken = credential.NewSecret("wrong-s3cret") })
	_, _, err := m.register(m.request(), nil)
	if problem.KindOf(err) != problem.Denied || strings.Contains(err.Error(), "s3cret") || !strings.Contains(problem.HintOf(err), "write:admin") {
		t.Errorf("a wrong access token: %v", err)
	}
	r := m.request()
	r.Token = credential.NewSecret("other-s3cret")
	if _, _, err = m.register(r, nil); problem.KindOf(err) != problem.Denied || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a wrong registration token: %v", err)
	}
	r.URL = "http://127.0.0.1:1"
	if _, _, err = m.register(r, nil); problem.KindOf(err) != problem.Unreachable {
		t.Errorf("no server: %v", err)
	}
	if _, err := os.Stat(m.file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

func TestVerifyAndUnregister(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	if _, err := m.Verify(t.Context(), runner.Selection{}); problem.KindOf(err) != problem.NotFound {
		t.Errorf("nothing registered: %v", err)
	}
	m.must(m.request())
	verdicts, err := m.Verify(t.Context(), runner.Selection{})
	if err != nil || verdicts[0].Health != runner.Alive {
		t.Errorf("verify: %v, %v", verdicts, err)
	}
	m.fake.Change(1, func(r *fakegitearunner.Runner) { r.Token = "another" })
	if verdicts, err = m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Removed {
		t.Errorf("with a token that was replaced: %v, %v", verdicts, err)
	}
	steps, err := m.Unregister(t.Context(), runner.Selection{})
	if err != nil || len(steps) != 2 || len(m.fake.Runners()) != 0 {
		t.Errorf("unregister: %v, %v", steps, err)
	}
	if infos, err := m.List(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("there are %v, %v", infos, err)
	}
	if err := os.WriteFile(m.file, []byte(`{"token": "s3cret"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.List(t.Context()); problem.KindOf(err) != problem.Damaged || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a damaged file: %v", err)
	}
	if err := os.WriteFile(m.file, []byte(`{"id":1,"uuid":"u","name":"n","token":"s3cret","address":"http://127.0.0.1:1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Unknown {
		t.Errorf("no server: %v, %v", verdicts, err)
	}
	if _, err := m.Unregister(t.Context(), runner.Selection{}); problem.KindOf(err) != problem.Unreachable {
		t.Errorf("no server: %v", err)
	}
	if _, err := os.Stat(m.file); err != nil {
		t.Errorf("a runner that the server could not be told of was taken out: %v", err)
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	m.must(m.request())
	m.fake.Change(1, func(r *fakegitearunner.Runner) { r.Online, r.Busy = true, true })
	rotate := func(want ...runner.Action) {
		t.Helper()
		steps, err := m.Rotate(t.Context(), runner.Selection{}, 0)
		var got []runner.Action
		for _, step := range steps {
			got = append(got, step.Action)
		}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("steps, %v (-want +got):\n%s", err, diff)
		}
	}
	rotate(runner.Replace, runner.Keep)
	if reg := m.registration(); reg["id"] != 2.0 || reg["token"] != "token-2" || len(reg["labels"].([]any)) != 2 {
		t.Errorf("registered is %v", reg)
	}
	rotate(runner.Keep)
	m.fake.Change(2, func(r *fakegitearunner.Runner) { r.Online = true })
	rotate(runner.Keep) // the old one has a job still
	m.fake.Change(1, func(r *fakegitearunner.Runner) { r.Busy = false })
	rotate(runner.Keep) // it was seen a moment ago
	m.fake.Change(1, func(r *fakegitearunner.Runner) { r.Online = false })
	rotate(runner.Delete)
	if has := m.fake.Runners(); len(has) != 1 || has[0].ID != 2 {
		t.Errorf("the server has %v", has)
	}
	if steps, err := m.Rotate(t.Context(), runner.Selection{}, time.Hour); err != nil || len(steps) != 1 || steps[0].Action != runner.Keep {
		t.Errorf("what does not expire: %v, %v", steps, err)
	}
}

// TestCutOff kills a registration and a rotation after each request that the
// server answers, and does them again.
func TestCutOff(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{"register", "rotate"} {
		var left atomic.Int64 // how many requests are answered still; below zero for all
		left.Store(-1)
		stop := 0
		for {
			config := usual()
			config.After = func(w http.ResponseWriter, _ *http.Request) bool {
				if left.Load() < 0 || left.Add(-1) >= 0 {
					return false
				}
				if hijacker, ok := w.(http.Hijacker); ok {
					if conn, _, err := hijacker.Hijack(); err == nil {
						_ = conn.Close()
					}
				}
				return true
			}
			m := boot(t, config, nil)
			act := func() error {
				if verb == "register" {
					facts, err := m.Look(t.Context())
					if err != nil {
						return err
					}
					_, err = m.Apply(t.Context(), gitea.Decide(m.request(), facts), nil)
					return err
				}
				_, err := m.Rotate(t.Context(), runner.Selection{}, 0)
				return err
			}
			if verb == "rotate" {
				m.must(m.request())
			}
			stop++
			left.Store(int64(stop - 1))
			first := act()
			cutOff := left.Load() < 0
			left.Store(-1)
			if cutOff {
				// Whatever it was: what is registered is good, and the same again works.
				if verb == "rotate" {
					if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Alive {
						t.Errorf("%s cut off after request %d: %v, %v", verb, stop, verdicts, err)
					}
				}
				if err := act(); err != nil {
					t.Errorf("%s cut off after request %d (%v), again: %v", verb, stop, first, err)
				}
			}
			if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Alive {
				t.Errorf("%s cut off after request %d, again: %v, %v", verb, stop, verdicts, err)
			}
			if !cutOff {
				break
			}
		}
		if stop < 3 {
			t.Errorf("%s was cut off %d times only", verb, stop-1)
		}
	}
}

func TestProxySaysNo(t *testing.T) {
	t.Parallel()
	config, status := usual(), 0
	config.After = func(w http.ResponseWriter, _ *http.Request) bool {
		if status > 0 {
			http.Error(w, "<html>blocked</html>", status)
		}
		return status > 0
	}
	m := boot(t, config, nil)
	m.must(m.request())
	for _, status = range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusInternalServerError, http.StatusBadGateway} {
		if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Unknown {
			t.Errorf("%d: %v, %v", status, verdicts, err)
		}
	}
}

func TestUnfinishedRegistrationIsKept(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	m.must(m.request())
	journal := runner.JournalFor(m.file)
	if err := journal.Save(runner.Entry{Verb: "register", URL: m.url, Name: "build-host", Token: "t"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Busy {
		t.Errorf("a rotation would overwrite the token: %v", err)
	}
	if entry, err := journal.Load(); err != nil || entry == nil || entry.Token != "t" {
		t.Errorf("the journal has %v, %v", entry, err)
	}
}

type deliverer struct{ registered bool }

func (d *deliverer) Deliver(_ context.Context, delivery runner.Delivery) error {
	_, err := os.Stat(delivery.Path)
	d.registered = err == nil
	return errors.New("the registry is down")
}

func TestLoginComesFirst(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	r := m.request()
	r.Login = &runner.Delivery{Way: runner.ConfigFile, Path: m.file, Registries: []credential.Host{"r.example"}}
	d := &deliverer{}
	plan, _, err := m.register(r, d)
	if err == nil || d.registered || len(m.fake.Runners()) != 0 || plan.Steps[0].Action != runner.Deliver {
		t.Errorf("without a login it was registered: %v, %v", err, plan.Steps)
	}
}

func (m *machine) journal() runner.Journal { return runner.JournalFor(m.file) }

// with is another fleet of the same file.
func (m *machine) with(change func(*gitea.Config)) *gitea.Fleet {
	c := gitea.Config{
		File: m.file, AccessToken: credential.NewSecret(accessToken), Scope: gitea.Scope{Kind: gitea.Instance},
		Transport: transport.New(transport.Config{}), Now: func() time.Time { return time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC) },
	}
	change(&c)
	return gitea.New(c)
}

// TestNotShownIsNotGone is about the 404 of a scope that is not the runner's.
func TestNotShownIsNotGone(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), func(c *gitea.Config) { c.Scope = gitea.Scope{Kind: gitea.Organization, Owner: "acme"} })
	m.must(m.request())
	other := m.with(func(c *gitea.Config) { c.Scope = gitea.Scope{Kind: gitea.Repository, Owner: "acme", Repository: "app"} })
	for verb, act := range map[string]func() ([]runner.Step, error){
		"unregister": func() ([]runner.Step, error) { return other.Unregister(t.Context(), runner.Selection{}) },
		"rotate":     func() ([]runner.Step, error) { return other.Rotate(t.Context(), runner.Selection{}, 0) },
	} {
		steps, err := act()
		if problem.KindOf(err) != problem.NotFound || !strings.Contains(problem.HintOf(err), "--scope") || len(steps) != 0 {
			t.Errorf("%s: %v, %v", verb, steps, err)
		}
	}
	if has := m.fake.Runners(); len(has) != 1 || m.registration()["id"] != 1.0 {
		t.Errorf("the server has %v", has)
	}
	if has, err := m.journal().Load(); has != nil || err != nil {
		t.Errorf("the journal has %v, %v", has, err)
	}
	// The rotation of one scope is not finished in another.
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Usage || problem.HintOf(err) != "give --scope org:acme" {
		t.Errorf("finished in another scope: %v", err)
	}
	if has := m.fake.Runners(); len(has) != 2 || has[1].Scope != "orgs/acme" {
		t.Errorf("the server has %v", has)
	}
}

func TestScopeMustBeSaid(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	m.must(m.request())
	m.fake.Requests()
	unsaid := m.with(func(c *gitea.Config) { c.Scope = gitea.Scope{} })
	_, rotate := unsaid.Rotate(t.Context(), runner.Selection{}, 0)
	_, unregister := unsaid.Unregister(t.Context(), runner.Selection{})
	for _, err := range []error{rotate, unregister} {
		if problem.KindOf(err) != problem.Usage || !strings.Contains(problem.HintOf(err), "--scope") {
			t.Errorf("without a scope: %v", err)
		}
	}
	if requests := m.fake.Requests(); len(requests) != 0 {
		t.Errorf("the server was asked for %v", requests)
	}
}

// TestOwnQuestionIsNoSignOfLife is about verify between two calls of rotate, and a
// runner at work with the old token that the server cannot see for a while.
func TestOwnQuestionIsNoSignOfLife(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	now := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	fleet := m.with(func(c *gitea.Config) { c.Now = func() time.Time { return now } })
	m.must(m.request())
	last := func() runner.Step {
		t.Helper()
		steps, err := fleet.Rotate(t.Context(), runner.Selection{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return steps[len(steps)-1]
	}
	last()
	if verdicts, err := fleet.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Alive {
		t.Fatalf("verify: %v, %v", verdicts, err)
	}
	if has := m.fake.Runners(); !has[1].Online || has[0].Online {
		t.Fatalf("the server has %v", has)
	}
	if step := last(); step.Action != runner.Keep || !strings.Contains(step.Reason, "verify") || len(m.fake.Runners()) != 2 {
		t.Errorf("after verify: %v, and the server has %v", step, m.fake.Runners())
	}
	now = now.Add(2 * time.Minute)
	m.fake.Change(2, func(r *fakegitearunner.Runner) { r.Online = false })
	if step := last(); step.Action != runner.Keep || len(m.fake.Runners()) != 2 {
		t.Errorf("two minutes later: %v", step)
	}
	m.fake.Change(2, func(r *fakegitearunner.Runner) { r.Online = true })
	if step := last(); step.Action != runner.Delete || len(m.fake.Runners()) != 1 {
		t.Errorf("when it was started: %v", step)
	}
}

// TestFileOfAnother is about a rotation that was cut off while the file went another
// way.
func TestFileOfAnother(t *testing.T) {
	t.Parallel()
	const other = `{"id": 9, "uuid": "u9", "name": "build-host", "token": "t9", "address": "https://other.example", "labels": []}`
	pending := func(t *testing.T) *machine {
		t.Helper()
		m := boot(t, usual(), nil)
		m.must(m.request())
		if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); err != nil {
			t.Fatal(err)
		}
		return m
	}
	t.Run("another server's", func(t *testing.T) {
		t.Parallel()
		m := pending(t)
		if err := os.WriteFile(m.file, []byte(other), 0o600); err != nil {
			t.Fatal(err)
		}
		_, rotate := m.Rotate(t.Context(), runner.Selection{}, 0)
		_, unregister := m.Unregister(t.Context(), runner.Selection{})
		for _, err := range []error{rotate, unregister} {
			if problem.KindOf(err) != problem.Busy || problem.HintOf(err) == "" {
				t.Errorf("another runner's file: %v", err)
			}
		}
		if text, err := os.ReadFile(m.file); err != nil || string(text) != other {
			t.Errorf("the file is %s, %v", text, err)
		}
		if has, err := m.journal().Load(); err != nil || has == nil || has.NewID != 2 {
			t.Errorf("the journal has %v, %v", has, err)
		}
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		m := pending(t)
		if err := os.Remove(m.file); err != nil {
			t.Fatal(err)
		}
		steps, err := m.Rotate(t.Context(), runner.Selection{}, 0)
		if err != nil || steps[0].Action != runner.Replace {
			t.Fatalf("rotate: %v, %v", steps, err)
		}
		if reg := m.registration(); reg["id"] != 2.0 || reg["token"] != "token-2" || reg["address"] != m.url || len(reg["labels"].([]any)) != 2 {
			t.Errorf("registered is %v", reg)
		}
	})
	t.Run("unregister", func(t *testing.T) {
		t.Parallel()
		m := pending(t)
		if steps, err := m.Unregister(t.Context(), runner.Selection{}); err != nil || len(steps) != 3 || len(m.fake.Runners()) != 0 {
			t.Errorf("unregister: %v, %v; the server has %v", steps, err, m.fake.Runners())
		}
		if has, err := m.journal().Load(); has != nil || err != nil {
			t.Errorf("the journal has %v, %v", has, err)
		}
	})
	t.Run("changed meanwhile", func(t *testing.T) {
		t.Parallel()
		config := usual()
		var m *machine
		config.After = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/Register") && len(m.fake.Runners()) == 2 {
				if err := os.WriteFile(m.file, []byte(other), 0o600); err != nil {
					t.Error(err)
				}
			}
			return false
		}
		m = boot(t, config, nil)
		m.must(m.request())
		if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Busy {
			t.Errorf("rotate: %v", err)
		}
		if text, err := os.ReadFile(m.file); err != nil || string(text) != other {
			t.Errorf("the file is %s, %v", text, err)
		}
	})
}

func TestOneAtATime(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	facts, err := m.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan := gitea.Decide(m.request(), facts)
	m.must(m.request())
	if _, err := m.Apply(t.Context(), plan, nil); problem.KindOf(err) != problem.Busy || len(m.fake.Runners()) != 1 {
		t.Errorf("decided before another: %v", err)
	}
	unlock, err := m.journal().Lock()
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	_, rotate := m.Rotate(t.Context(), runner.Selection{}, 0)
	_, unregister := m.Unregister(t.Context(), runner.Selection{})
	_, apply := m.Apply(t.Context(), plan, nil)
	for _, err := range []error{rotate, unregister, apply} {
		if problem.KindOf(err) != problem.Busy || !strings.Contains(err.Error(), "another regkeeper") {
			t.Errorf("beside another: %v", err)
		}
	}
}

// TestFaults is about errors of a server's own, which say nothing of a runner.
func TestFaults(t *testing.T) {
	t.Parallel()
	config := usual()
	var fault error
	config.Fault = func(string) error { return fault }
	m := boot(t, config, nil)
	for _, c := range []struct {
		fault error
		kind  problem.Kind
	}{
		{connect.NewError(connect.CodeUnavailable, errors.New("down")), problem.Unreachable},
		{connect.NewError(connect.CodeInternal, errors.New("broken")), problem.Unreachable},
		{errors.New("can't update runner token status"), problem.Unreachable},
		{connect.NewError(connect.CodePermissionDenied, errors.New("no")), problem.Denied},
		{errors.New("runner registration token has been invalidated, please use the latest one"), problem.Denied},
	} {
		fault = c.fault
		_, _, err := m.register(m.request(), nil)
		if problem.KindOf(err) != c.kind {
			t.Errorf("register with %v: %v", c.fault, err)
		}
		if has, err := m.journal().Load(); err != nil || (has == nil) != (c.kind == problem.Denied) {
			t.Errorf("with %v, the journal has %v, %v", c.fault, has, err)
		}
	}
	fault = nil
	m.must(m.request())
	for _, fault = range []error{
		connect.NewError(connect.CodeUnavailable, errors.New("down")), connect.NewError(connect.CodeResourceExhausted, errors.New("slow down")),
		errors.New("rpc error: code = Internal desc = database is locked"),
	} {
		if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Unknown {
			t.Errorf("verify with %v: %v, %v", fault, verdicts, err)
		}
	}
}

func TestFileKeepsWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	m.must(m.request())
	text, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	theirs := strings.Replace(string(text), "{\n", "{\n  \"first\": {\"a\": [1, 2]},\n", 1)
	if err := os.WriteFile(m.file, []byte(theirs), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); err != nil {
		t.Fatal(err)
	}
	if text, err = os.ReadFile(m.file); err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer(`"id": 1`, `"id": 2`, "uuid-1", "uuid-2", "token-1", "token-2").Replace(theirs)
	reg := m.registration()
	if diff := cmp.Diff(map[string]any{"a": []any{1.0, 2.0}}, reg["first"]); diff != "" || reg["token"] != "token-2" {
		t.Errorf("first (-want +got):\n%s", diff)
	}
	if before, _, _ := strings.Cut(want, `"labels"`); !strings.HasPrefix(string(text), before) {
		t.Errorf("the file is\n%s\nwant\n%s", text, want)
	}
}

func TestRegistrationThatWasCutOff(t *testing.T) {
	t.Parallel()
	m := boot(t, usual(), nil)
	config := m.fake
	m.must(m.request())
	if err := os.Remove(m.file); err != nil {
		t.Fatal(err)
	}
	entry := runner.Entry{Verb: "register", URL: m.url, Name: "build-host", NewID: 1, UUID: "uuid-1", Token: "token-1", Labels: []string{"as-made:host"}, Ephemeral: true}
	save := func(entry runner.Entry) {
		t.Helper()
		if err := m.journal().Save(entry); err != nil {
			t.Fatal(err)
		}
	}
	save(entry)
	plan, info := m.must(m.request())
	if info.ID != 1 || len(plan.Warnings) != 1 || len(config.Runners()) != 1 {
		t.Errorf("it is %+v by %v, %q", info, plan.Steps, plan.Warnings)
	}
	if reg := m.registration(); !cmp.Equal(reg["labels"], []any{"as-made:host"}) || reg["ephemeral"] != true {
		t.Errorf("registered is %v", reg)
	}
	// Killed when the file had it already.
	save(entry)
	if plan, _ := m.must(m.request()); !plan.Does(runner.Keep) {
		t.Errorf("it is %v", plan.Steps)
	}
	if has, err := m.journal().Load(); has != nil || err != nil {
		t.Errorf("the journal has %v, %v", has, err)
	}
	// The file is another server's by now.
	const other = `{"id": 9, "uuid": "u9", "name": "build-host", "token": "t9", "address": "http://127.0.0.1:1", "labels": []}`
	if err := os.WriteFile(m.file, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	save(entry)
	if plan, _, err := m.register(m.request(), nil); problem.KindOf(err) != problem.Usage || len(plan.Refused) != 1 {
		t.Errorf("another server's file: %v", err)
	}
	// The token is not taken any more.
	if err := os.Remove(m.file); err != nil {
		t.Fatal(err)
	}
	m.fake.Remove(1)
	if plan, info = m.must(m.request()); info.ID != 2 || !plan.Does(runner.Create) || len(plan.Warnings) != 1 {
		t.Errorf("it is %+v by %v, %q", info, plan.Steps, plan.Warnings)
	}
}

// TestRedirect is about a server that sends tokens on to another.
func TestRedirect(t *testing.T) {
	t.Parallel()
	var got atomic.Int32
	thief := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got.Add(1) }))
	t.Cleanup(thief.Close)
	config, away := usual(), false
	config.After = func(w http.ResponseWriter, r *http.Request) bool {
		if away {
			http.Redirect(w, r, thief.URL+r.URL.Path, http.StatusTemporaryRedirect)
		}
		return away
	}
	m := boot(t, config, nil)
	m.must(m.request())
	away = true
	if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Unknown {
		t.Errorf("verify: %v, %v", verdicts, err)
	}
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Unreachable {
		t.Errorf("rotate: %v", err)
	}
	if _, err := m.Unregister(t.Context(), runner.Selection{}); problem.KindOf(err) != problem.Unreachable {
		t.Errorf("unregister: %v", err)
	}
	if n := got.Load(); n != 0 {
		t.Errorf("another server got %d requests", n)
	}
}
