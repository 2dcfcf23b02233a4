package gitlab_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitlabrunner"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
	"github.com/regkeeper/regkeeper/runner/gitlab"
	"github.com/regkeeper/regkeeper/runnerconfig"
)

const (
	accessToken       = "glpat-access"
	registrationToken = "GR1348941registration"
)

var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

// machine is a machine with runners, and the server they are at.
type machine struct {
	t    *testing.T
	fake *fakegitlabrunner.Server
	url  string
	path string
	now  time.Time
	*gitlab.Fleet
}

func boot(t *testing.T, config fakegitlabrunner.Config) *machine {
	t.Helper()
	m := &machine{t: t, now: start, path: filepath.Join(t.TempDir(), "gitlab-runner", "config.toml")}
	config.Now = func() time.Time { return m.now }
	m.fake = fakegitlabrunner.New(config)
	server := httptest.NewServer(m.fake)
	t.Cleanup(server.Close)
	m.url = server.URL
	m.Fleet = gitlab.New(gitlab.Config{Path: m.path, Transport: transport.New(transport.Config{}), Now: func() time.Time { return m.now }})
	return m
}

func usual() fakegitlabrunner.Config {
	return fakegitlabrunner.Config{AccessToken: accessToken, RegistrationToken: registrationToken, Lifetime: 30 * 24 * time.Hour}
}

func secret(s string) credential.Secret { return credential.NewSecret(s) }

func (m *machine) request(change func(*gitlab.Request)) gitlab.Request {
	r := gitlab.Request{URL: m.url, Name: "docker-runner", Executor: "docker", Settings: runnerconfig.Section{"docker": map[string]any{"image": "alpine:latest"}}}
	change(&r)
	return r
}

func created(r *gitlab.Request) { r.AccessToken, r.Type = secret(accessToken), gitlab.InstanceType }

func (m *machine) register(r gitlab.Request, deliverer runner.Deliverer) (*gitlab.Registration, runner.Info, error) {
	m.t.Helper()
	facts := m.look(r)
	plan := gitlab.Decide(r, facts)
	info, err := m.Apply(m.t.Context(), plan, deliverer)
	return plan, info, err
}

func (m *machine) look(r gitlab.Request) gitlab.Facts {
	m.t.Helper()
	facts, err := m.Look(m.t.Context())
	if err != nil {
		m.t.Fatalf("Look: %v", err)
	}
	if facts, err = m.Ask(m.t.Context(), r, facts); err != nil {
		m.t.Fatalf("Ask: %v", err)
	}
	return facts
}

func (m *machine) must(r gitlab.Request) (*gitlab.Registration, runner.Info) {
	m.t.Helper()
	plan, info, err := m.register(r, nil)
	if err != nil {
		m.t.Fatalf("register: %v", err)
	}
	return plan, info
}

func (m *machine) text() string {
	m.t.Helper()
	text, err := os.ReadFile(m.path)
	if err != nil {
		m.t.Fatal(err)
	}
	return strings.ReplaceAll(string(text), m.url, "URL")
}

func (m *machine) write(text string) {
	m.t.Helper()
	if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(m.path, []byte(strings.ReplaceAll(text, "URL", m.url)), 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func actions(plan *gitlab.Registration) (list []runner.Action) {
	for _, step := range plan.Steps {
		list = append(list, step.Action)
	}
	return list
}

func TestCreateThroughTheAPI(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	plan, info := m.must(m.request(func(r *gitlab.Request) {
		r.AccessToken, r.Type, r.ProjectID = secret(accessToken), gitlab.ProjectType, 17
		r.TagList, r.RunUntagged, r.Locked, r.Paused = []string{"docker", "aws"}, new(true), new(false), new(true)
		r.AccessLevel, r.MaintenanceNote, r.MaximumTimeout = gitlab.RefProtected, "note", 3600
	}))
	if diff := cmp.Diff([]runner.Action{runner.Write, runner.Create, runner.Write}, actions(plan)); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	want := map[string]any{
		"runner_type": "project_type", "project_id": 17.0, "description": "docker-runner", "paused": true, "locked": false, "run_untagged": true,
		"tag_list": []any{"docker", "aws"}, "access_level": "ref_protected", "maximum_timeout": 3600.0, "maintenance_note": "note",
	}
	has := m.fake.Runners()
	if diff := cmp.Diff(want, has[0].Settings); diff != "" {
		t.Errorf("settings at the server (-want +got):\n%s", diff)
	}
	if info.ID != 1 || info.Name != "docker-runner" || info.Expires == nil || !info.Expires.Equal(start.Add(30*24*time.Hour)) {
		t.Errorf("it is %+v", info)
	}
	const text = `concurrent = 1
check_interval = 0
shutdown_timeout = 0

[session_server]
  session_timeout = 1800

[[runners]]
  name = "docker-runner"
  url = "URL"
  id = 1
  token = "glrt-fake-1-1"
  token_obtained_at = 2026-05-01T12:00:00Z
  token_expires_at = 2026-05-31T12:00:00Z
  executor = "docker"
  [runners.docker]
    image = "alpine:latest"
    volumes = ["/cache"]
`
	if diff := cmp.Diff(text, m.text()); diff != "" {
		t.Errorf("config.toml (-want +got):\n%s", diff)
	}
	entries, err := os.ReadDir(filepath.Dir(m.path))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", entry.Name(), info.Mode(), err)
		}
	}
	if diff := cmp.Diff([]string{".config.toml.regkeeper-runner.lock", ".runner_system_id", "config.toml"}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func TestRegistrationToken(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	plan, _ := m.must(m.request(func(r *gitlab.Request) {
		r.RegistrationToken, r.TagList, r.AccessLevel, r.Locked = secret(registrationToken), []string{"docker", "aws"}, gitlab.NotProtected, new(false)
	}))
	if len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "deprecated") {
		t.Errorf("warnings are %q", plan.Warnings)
	}
	got := m.fake.Runners()[0].Settings
	delete(got, "info")
	want := map[string]any{
		"description": "docker-runner", "locked": false, "paused": false, "run_untagged": false, "tag_list": "docker,aws", "access_level": "not_protected",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("settings at the server (-want +got):\n%s", diff)
	}
	for _, request := range m.fake.Requests() {
		if strings.Contains(request, "?") {
			t.Errorf("the token may be in a URL: %s", request)
		}
	}

	off := boot(t, fakegitlabrunner.Config{})
	_, _, err := off.register(off.request(func(r *gitlab.Request) { r.RegistrationToken = secret(registrationToken) }), nil)
	if problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), "turned off") || !strings.Contains(problem.HintOf(err), "create_runner") {
		t.Errorf("turned off: %v", err)
	}
	_, _, err = m.register(m.request(func(r *gitlab.Request) { r.RegistrationToken, r.Name = secret("wrong-token"), "other" }), nil)
	if problem.KindOf(err) != problem.Denied || strings.Contains(err.Error(), "wrong-token") {
		t.Errorf("a wrong token: %v", err)
	}
}

func TestRunnerToken(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	given := m.fake.Put()
	request := m.request(func(r *gitlab.Request) { r.Token = secret(given.Token) })
	plan, info := m.must(request)
	if info.ID != given.ID || !plan.Does(runner.Verify) {
		t.Errorf("it is %+v by %v", info, plan.Steps)
	}
	if machines := m.fake.Runners()[0].Machines; len(machines) != 1 {
		t.Errorf("machines at the server are %v", machines)
	}
	before := m.text()
	// Again: nothing is appended.
	plan, _ = m.must(request)
	if diff := cmp.Diff([]runner.Action{runner.Keep}, actions(plan)); diff != "" || m.text() != before {
		t.Errorf("again (-want +got):\n%s", diff)
	}
	request.Replace, request.Settings = true, runnerconfig.Section{"docker": map[string]any{"image": "ruby:3.3"}}
	m.must(request)
	if diff := cmp.Diff(strings.Replace(before, "alpine:latest", "ruby:3.3", 1), m.text()); diff != "" {
		t.Errorf("replaced (-want +got):\n%s", diff)
	}
	// Another token of the same runner takes the place of the one before.
	m.write(strings.Replace(m.text(), given.Token, "glrt-before", 1))
	m.must(m.request(func(r *gitlab.Request) { r.Token = secret(given.Token) }))
	if infos, err := m.List(t.Context()); err != nil || len(infos) != 1 || !strings.Contains(m.text(), given.Token) {
		t.Errorf("with another token there are %v, %v", infos, err)
	}
	_, _, err := m.register(m.request(func(r *gitlab.Request) { r.Token = secret("glrt-removed") }), nil)
	if problem.KindOf(err) != problem.Denied || strings.Contains(err.Error(), "glrt-removed") {
		t.Errorf("a token that is not taken: %v", err)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	full := func(r *gitlab.Request) {
		r.TagList, r.RunUntagged, r.Locked, r.Paused = []string{"a"}, new(true), new(false), new(true)
		r.AccessLevel, r.MaintenanceNote, r.MaximumTimeout = gitlab.RefProtected, "note", 3600
	}
	for _, c := range []struct {
		name   string
		change func(*gitlab.Request)
		want   []string
	}{
		{
			"what the server keeps for itself", func(r *gitlab.Request) { full(r); r.Token = secret("glrt-x") },
			[]string{"--tag-list", "--run-untagged", "--locked", "--access-level", "--maximum-timeout", "--paused", "--maintenance-note"},
		},
		{"locked, as the server has it", func(r *gitlab.Request) { r.Token, r.Locked, r.Paused = secret("glrt-x"), new(true), new(false) }, nil},
		{"no token", func(*gitlab.Request) {}, []string{"--token"}},
		{"two tokens", func(r *gitlab.Request) { created(r); r.Token = secret("glrt-x") }, []string{"--token"}},
		{"access level", func(r *gitlab.Request) { created(r); r.AccessLevel = "protected" }, []string{"--access-level"}},
		{"executor", func(r *gitlab.Request) { created(r); r.Executor = "podman" }, []string{"--executor"}},
		{"no image", func(r *gitlab.Request) { created(r); r.Settings = nil }, []string{"--docker-image"}},
		{"no host", func(r *gitlab.Request) { created(r); r.Executor = "ssh" }, []string{"--template-config"}},
		{"url", func(r *gitlab.Request) { created(r); r.URL = "gitlab.example.com" }, []string{"--url"}},
		{"login in the url", func(r *gitlab.Request) { created(r); r.URL = "https://u:p@gitlab.example.com" }, []string{"--url"}},
		{"type", func(r *gitlab.Request) { created(r); r.Type = "" }, []string{"--runner-type"}},
		{"group without a number", func(r *gitlab.Request) { created(r); r.Type = gitlab.GroupType }, []string{"--runner-type"}},
		{"no jobs at all", func(r *gitlab.Request) { created(r); r.RunUntagged = new(false) }, []string{"--run-untagged"}},
		{"no jobs at all, the way before", func(r *gitlab.Request) { r.RegistrationToken, r.RunUntagged = secret("GR"), new(false) }, []string{"--run-untagged"}},
		{"jobs with tags alone", func(r *gitlab.Request) {
			r.RegistrationToken = secret("GR")
			r.RunUntagged, r.TagList = new(false), []string{"a"}
		}, nil},
		{"no name", func(r *gitlab.Request) { created(r); r.Name = "" }, []string{"--description"}},
	} {
		plan := gitlab.Decide(m.request(c.change), gitlab.Facts{Path: m.path})
		var got []string
		for _, refusal := range plan.Refused {
			got = append(got, refusal.What)
			if refusal.Reason == "" {
				t.Errorf("%s: %s has no reason", c.name, refusal.What)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if _, err := m.Apply(t.Context(), plan, nil); len(c.want) > 0 && problem.KindOf(err) != problem.Usage {
			t.Errorf("%s: applied with %v", c.name, err)
		}
	}
	// In the place of a registration token, GitLab Runner ignores the same.
	plan := gitlab.Decide(m.request(func(r *gitlab.Request) { full(r); r.RegistrationToken = secret("glrt-x") }), gitlab.Facts{Path: m.path})
	if len(plan.Refused) != 0 || len(plan.Warnings) != 7 {
		t.Errorf("refused %v, warned %q", plan.Refused, plan.Warnings)
	}
	if _, err := os.Stat(m.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
}

func TestRegisterAgainByName(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	m.write("# mine\nconcurrent = 3\n")
	_, first := m.must(m.request(created))
	plan, again := m.must(m.request(created))
	if !plan.Does(runner.Keep) || again.ID != first.ID || len(m.fake.Runners()) != 1 {
		t.Errorf("again: %+v by %v; the server has %d runners", again, plan.Steps, len(m.fake.Runners()))
	}
	m.fake.Remove(first.ID)
	plan, later := m.must(m.request(created))
	if !plan.Does(runner.Create) || !plan.Does(runner.Replace) || later.ID == first.ID {
		t.Errorf("after it was removed: %+v by %v", later, plan.Steps)
	}
	if infos, err := m.List(t.Context()); err != nil || len(infos) != 1 || !strings.HasPrefix(m.text(), "# mine\nconcurrent = 3\n") {
		t.Errorf("there are %v, %v in\n%s", infos, err, m.text())
	}
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	template, err := runnerconfig.Template([]byte(`[[runners]]
name = "template"
token = "template"
request_concurrency = 2
environment = ["DOCKER_AUTH_CONFIG={}"]
[runners.kubernetes]
  image = "gone"
[runners.docker]
  image = "template"
  volumes = ["/data", "/cache"]
  [[runners.docker.services]]
    name = "postgres:latest"
  [[runners.docker.services]]
    name = "mysql:latest"
`))
	if err != nil {
		t.Fatal(err)
	}
	given := m.fake.Put()
	plan, _ := m.must(m.request(func(r *gitlab.Request) {
		r.Token, r.Template = secret(given.Token), template
		r.Settings = runnerconfig.Section{"docker": map[string]any{"image": "ruby:3.3"}, "environment": []any{"A=1"}}
	}))
	if len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "DOCKER_AUTH_CONFIG") {
		t.Errorf("warnings are %q", plan.Warnings)
	}
	_, section, _ := strings.Cut(m.text(), "[[runners]]\n")
	const want = `  name = "docker-runner"
  request_concurrency = 2
  url = "URL"
  id = 1
  token = "glrt-fake-1-1"
  token_obtained_at = 2026-05-01T12:00:00Z
  token_expires_at = 2026-05-31T12:00:00Z
  executor = "docker"
  environment = ["A=1"]
  [runners.docker]
    image = "ruby:3.3"
    volumes = ["/data", "/cache"]
    [[runners.docker.services]]
      name = "postgres:latest"
    [[runners.docker.services]]
      name = "mysql:latest"
`
	if diff := cmp.Diff(want, section); diff != "" {
		t.Errorf("section (-want +got):\n%s", diff)
	}
}

func TestExecutors(t *testing.T) {
	t.Parallel()
	for executor, want := range map[string]string{
		"docker-windows": "executor = \"docker-windows\"\n  shell = \"pwsh\"\n  [runners.docker]\n    image = \"alpine:latest\"\n    volumes = ['c:\\cache']\n",
		"shell":          "executor = \"shell\"\n",
		"kubernetes":     "executor = \"kubernetes\"\n",
	} {
		m := boot(t, usual())
		m.must(m.request(func(r *gitlab.Request) { created(r); r.Executor = executor }))
		if text := m.text(); !strings.HasSuffix(text, want) {
			t.Errorf("%s ends with\n%s\nwant\n%s", executor, text, want)
		}
	}
}

// cut ends a request as a process that is killed sees it: the server has done
// its part, and the answer never arrives.
func cut(path string, times int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, path) || times == 0 {
			return false
		}
		times--
		if hijacker, ok := w.(http.Hijacker); ok {
			if conn, _, err := hijacker.Hijack(); err == nil {
				_ = conn.Close()
			}
		}
		return true
	}
}

func TestRotate(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	_, info := m.must(m.request(created))
	before := m.text()
	m.now = start.Add(24 * time.Hour)
	steps, err := m.Rotate(t.Context(), runner.Selection{}, 7*24*time.Hour)
	if err != nil || len(steps) != 1 || steps[0].Action != runner.Keep || m.text() != before {
		t.Fatalf("not due yet: %v, %v", steps, err)
	}
	if steps, err = m.Rotate(t.Context(), runner.Selection{}, 0); err != nil || len(steps) != 1 || steps[0].Action != runner.Reset {
		t.Fatalf("rotate: %v, %v", steps, err)
	}
	want := strings.NewReplacer("glrt-fake-1-1", "glrt-fake-1-2", "obtained_at = 2026-05-01", "obtained_at = 2026-05-02", "2026-05-31", "2026-06-01").Replace(before)
	if diff := cmp.Diff(want, m.text()); diff != "" {
		t.Errorf("config.toml (-want +got):\n%s", diff)
	}
	verdicts, err := m.Verify(t.Context(), runner.Selection{All: true})
	if err != nil || len(verdicts) != 1 || verdicts[0].Health != runner.Alive {
		t.Errorf("after it: %v, %v", verdicts, err)
	}
	m.fake.Remove(info.ID)
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Denied || problem.HintOf(err) == "" {
		t.Errorf("one that was removed: %v", err)
	}
	if m.text() != want {
		t.Error("a rotation that was refused changed the file")
	}
}

func TestRotateCutOff(t *testing.T) {
	t.Parallel()
	t.Run("the file cannot be written", func(t *testing.T) {
		t.Parallel()
		m := boot(t, usual())
		m.must(m.request(created))
		broken := gitlab.New(gitlab.Config{Path: m.path, Now: func() time.Time { return m.now }, Transport: transport.New(transport.Config{Base: tripper(
			func(r *http.Request) (*http.Response, error) {
				response, err := http.DefaultTransport.RoundTrip(r)
				m.write("[[broken")
				return response, err
			})})})
		good := m.text()
		_, err := broken.Rotate(t.Context(), runner.Selection{}, 0)
		if problem.KindOf(err) != problem.Storage || !strings.Contains(problem.HintOf(err), ".config.toml.regkeeper-runner.json") {
			t.Fatalf("rotate: %v", err)
		}
		m.write(good)
		steps, err := m.Rotate(t.Context(), runner.Selection{}, 0)
		if err != nil || len(steps) != 1 || !strings.Contains(m.text(), "glrt-fake-1-2") {
			t.Errorf("afterwards: %v, %v:\n%s", steps, err, m.text())
		}
		if _, err := os.Stat(runner.JournalFor(m.path).Path()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the journal is there still: %v", err)
		}
	})
	t.Run("killed between the journal and the file", func(t *testing.T) {
		t.Parallel()
		m := boot(t, usual())
		_, info := m.must(m.request(created))
		if err := runner.JournalFor(m.path).Save(runner.Entry{
			Verb: "rotate", URL: m.url, Name: "as it was named", ID: info.ID, Before: runner.Fingerprint("glrt-fake-1-1"), Token: "glrt-from-the-journal",
		}); err != nil {
			t.Fatal(err)
		}
		steps, err := m.Rotate(t.Context(), runner.Selection{}, 0)
		if err != nil || len(steps) != 1 || !strings.Contains(m.text(), "glrt-from-the-journal") {
			t.Errorf("%v, %v:\n%s", steps, err, m.text())
		}
	})
	t.Run("the request never arrived", func(t *testing.T) {
		t.Parallel()
		config := usual()
		config.Before = cut("reset_authentication_token", 1)
		m := boot(t, config)
		m.must(m.request(created))
		if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Unreachable {
			t.Fatalf("rotate: %v", err)
		}
		if steps, err := m.Rotate(t.Context(), runner.Selection{}, 0); err != nil || len(steps) != 1 || !strings.Contains(m.text(), "glrt-fake-1-2") {
			t.Errorf("afterwards: %v, %v", steps, err)
		}
	})
	t.Run("the answer never arrived", func(t *testing.T) {
		t.Parallel()
		config := usual()
		config.After = cut("reset_authentication_token", 1)
		m := boot(t, config)
		m.must(m.request(created))
		if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Unreachable {
			t.Fatalf("rotate: %v", err)
		}
		// GitLab tells a token once: all that can be done is to say so.
		_, err := m.Rotate(t.Context(), runner.Selection{}, 0)
		if problem.KindOf(err) != problem.Denied || !strings.Contains(err.Error(), "lost") || problem.HintOf(err) == "" {
			t.Errorf("afterwards: %v", err)
		}
	})
}

type tripper func(*http.Request) (*http.Response, error)

func (t tripper) RoundTrip(r *http.Request) (*http.Response, error) { return t(r) }

func TestRegisterCutOff(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	given := m.fake.Put()
	if err := runner.JournalFor(m.path).Save(runner.Entry{Verb: "register", URL: m.url, Name: "docker-runner", NewID: given.ID, Token: given.Token}); err != nil {
		t.Fatal(err)
	}
	plan, _, err := m.register(m.request(func(r *gitlab.Request) { created(r); r.Name = "other" }), nil)
	if problem.KindOf(err) != problem.Usage || len(plan.Refused) != 1 {
		t.Errorf("another one: %v", err)
	}
	if _, err := m.Rotate(t.Context(), runner.Selection{All: true}, 0); problem.KindOf(err) != problem.Busy {
		t.Errorf("a rotation would overwrite the token: %v", err)
	}
	_, info := m.must(m.request(created))
	if info.ID != given.ID || len(m.fake.Runners()) != 1 {
		t.Errorf("it is %+v, and the server has %d runners", info, len(m.fake.Runners()))
	}
	// An answer that never arrived: said, and made anew.
	config := usual()
	config.After = cut("user/runners", 1)
	m = boot(t, config)
	if _, _, err := m.register(m.request(created), nil); problem.KindOf(err) != problem.Unreachable {
		t.Fatalf("register: %v", err)
	}
	plan, _ = m.must(m.request(created))
	if len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "nobody uses") {
		t.Errorf("warnings are %q", plan.Warnings)
	}
}

func TestVerifyAndUnregister(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	m.must(m.request(created))
	m.must(m.request(func(r *gitlab.Request) { r.RegistrationToken, r.Name = secret(registrationToken), "legacy" }))
	gone := m.fake.Put()
	m.must(m.request(func(r *gitlab.Request) { r.Token, r.Name = secret(gone.Token), "gone" }))
	m.fake.Remove(gone.ID)
	verdicts, err := m.Verify(t.Context(), runner.Selection{All: true})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]runner.Health{}
	for _, v := range verdicts {
		got[v.Name] = v.Health
	}
	if diff := cmp.Diff(map[string]runner.Health{"docker-runner": runner.Alive, "legacy": runner.Alive, "gone": runner.Removed}, got); diff != "" {
		t.Errorf("healths (-want +got):\n%s", diff)
	}
	steps, err := m.Unregister(t.Context(), runner.Selection{All: true})
	if err != nil || len(steps) != 6 {
		t.Errorf("unregister: %v, %v", steps, err)
	}
	has := m.fake.Runners()
	if len(has) != 1 || len(has[0].Machines) != 0 {
		t.Errorf("the server has %+v", has)
	}
	if infos, err := m.List(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("the file has %v, %v", infos, err)
	}
	for _, request := range m.fake.Requests() {
		if strings.Contains(request, "?") {
			t.Errorf("the token may be in a URL: %s", request)
		}
	}
}

func TestProxySaysNo(t *testing.T) {
	t.Parallel()
	config, blocked := usual(), false
	config.Before = func(w http.ResponseWriter, _ *http.Request) bool {
		if blocked {
			http.Error(w, "<html>blocked</html>", http.StatusForbidden)
		}
		return blocked
	}
	m := boot(t, config)
	m.must(m.request(created))
	before := m.text()
	blocked = true
	if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Unknown {
		t.Errorf("verify: %v, %v", verdicts, err)
	}
	if _, err := m.Unregister(t.Context(), runner.Selection{}); problem.KindOf(err) != problem.Unreachable || m.text() != before {
		t.Errorf("unregister: %v", err)
	}
	if plan, _, err := m.register(m.request(created), nil); problem.KindOf(err) != problem.Usage || len(plan.Refused) != 1 {
		t.Errorf("register: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	m.write("[[runners]]\nname = 'x'\nurl = 'http://127.0.0.1:1'\ntoken = 'glrt-s3cret'\n")
	before := m.text()
	verdicts, err := m.Verify(t.Context(), runner.Selection{})
	if err != nil || verdicts[0].Health != runner.Unknown || verdicts[0].Reason == "" {
		t.Errorf("verify: %v, %v", verdicts, err)
	}
	if _, err := m.Unregister(t.Context(), runner.Selection{}); problem.KindOf(err) != problem.Unreachable || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("unregister: %v", err)
	}
	if m.text() != before {
		t.Error("a runner that the server could not be told of was taken out")
	}
}

// TestTokenInTheEnvironment is about what GitLab Runner expands in its file.
func TestTokenInTheEnvironment(t *testing.T) {
	m := boot(t, usual())
	given := m.fake.Put()
	m.write("[[runners]]\nname = 'x'\nurl = '${THE_SERVER}/'\nid = 1\ntoken = '$THE_TOKEN'\nexecutor = 'shell'\n")
	before := m.text()
	verdicts, err := m.Verify(t.Context(), runner.Selection{})
	if err != nil || verdicts[0].Health != runner.Unknown {
		t.Errorf("without the variables: %v, %v", verdicts, err)
	}
	t.Setenv("THE_SERVER", m.url)
	t.Setenv("THE_TOKEN", given.Token)
	if verdicts, err = m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Alive || verdicts[0].URL != m.url {
		t.Errorf("with them: %v, %v", verdicts, err)
	}
	if plan, _ := m.must(m.request(func(r *gitlab.Request) { r.Token = secret(given.Token) })); !plan.Does(runner.Keep) {
		t.Errorf("registered again: %v", plan.Steps)
	}
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Refused || m.text() != before {
		t.Errorf("rotate: %v", err)
	}
	m.must(m.request(func(r *gitlab.Request) { r.Token, r.Replace = secret(given.Token), true }))
	if text := m.text(); !strings.Contains(text, `token = "$THE_TOKEN"`) || strings.Contains(text, given.Token) {
		t.Errorf("replaced:\n%s", text)
	}
	if _, err := m.Unregister(t.Context(), runner.Selection{}); err != nil || strings.Contains(m.text(), "docker-runner") {
		t.Errorf("unregister: %v", err)
	}
}

// TestCertificates is about a server whose certificate no system knows.
func TestCertificates(t *testing.T) {
	t.Parallel()
	fake := fakegitlabrunner.New(fakegitlabrunner.Config{AccessToken: accessToken, Now: time.Now})
	server := httptest.NewTLSServer(fake)
	t.Cleanup(server.Close)
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	m := &machine{t: t, fake: fake, url: server.URL, path: filepath.Join(t.TempDir(), "config.toml")}
	m.Fleet = gitlab.New(gitlab.Config{
		Path: m.path, Transport: transport.New(transport.Config{}), Now: time.Now,
		Trust: func(text []byte) (http.RoundTripper, error) {
			if !bytes.Equal(text, certificate) {
				return nil, errors.New("no certificate")
			}
			return server.Client().Transport, nil
		},
	})
	if _, _, err := m.register(m.request(created), nil); problem.KindOf(err) != problem.Unreachable {
		t.Fatalf("without the certificate: %v", err)
	}
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	withCA := m.request(func(r *gitlab.Request) { created(r); r.Settings[runnerconfig.KeyCA] = file })
	m.must(withCA)
	if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Alive {
		t.Errorf("with tls-ca-file: %v, %v", verdicts, err)
	}
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); err != nil {
		t.Error(err)
	}
	// As GitLab Runner finds it without being told.
	m.write(strings.Replace(m.text(), "tls-ca-file", "was", 1))
	certs := filepath.Join(filepath.Dir(m.path), "certs")
	if err := os.Mkdir(certs, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "127.0.0.1.crt"), certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	if verdicts, err := m.Verify(t.Context(), runner.Selection{}); err != nil || verdicts[0].Health != runner.Alive {
		t.Errorf("with certs/HOST.crt: %v, %v", verdicts, err)
	}
	withCA.Name, withCA.Settings = "other", runnerconfig.Section{runnerconfig.KeyCA: file + ".none", "docker": map[string]any{"image": "i"}}
	if _, _, err := m.register(withCA, nil); problem.KindOf(err) != problem.Storage {
		t.Errorf("with a file that is not there: %v", err)
	}
}

type deliverer struct{ got []string }

func (d *deliverer) Deliver(_ context.Context, delivery runner.Delivery) error {
	text, _ := os.ReadFile(filepath.Join(filepath.Dir(delivery.Path), "config.toml"))
	d.got = append(d.got, fmt.Sprintf("%s %s %v, registered: %v", delivery.Way, delivery.Runner, delivery.Registries, len(text) > 0))
	return nil
}

func TestLoginComesWithIt(t *testing.T) {
	t.Parallel()
	for way, want := range map[runner.Way]string{
		runner.ConfigFile:  "config-file  [r.example], registered: false",
		runner.Environment: "environment docker-runner [r.example], registered: true",
	} {
		m := boot(t, usual())
		d := &deliverer{}
		r := m.request(func(r *gitlab.Request) {
			created(r)
			r.Login = &runner.Delivery{Way: way, Path: filepath.Join(filepath.Dir(m.path), "x"), Registries: []credential.Host{"r.example"}}
		})
		plan, _, err := m.register(r, d)
		if err != nil || !plan.Does(runner.Deliver) {
			t.Errorf("%s: %v by %v", way, err, plan.Steps)
		}
		if diff := cmp.Diff([]string{want}, d.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", way, diff)
		}
	}
}

func (m *machine) journal() runner.Journal { return runner.JournalFor(m.path) }

// sent says whether the server was asked for such a path since the last call.
func (m *machine) sent(path string) bool {
	return slices.ContainsFunc(m.fake.Requests(), func(request string) bool { return strings.Contains(request, path) })
}

func TestJournalsTokenIsKept(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	m.must(m.request(created))
	other := m.fake.Put()
	entry := runner.Entry{Verb: "rotate", URL: m.url, Name: "docker-runner", ID: other.ID, Before: runner.Fingerprint("glrt-ended"), Token: other.Token}
	if err := m.journal().Save(entry); err != nil {
		t.Fatal(err)
	}
	before := m.text()
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); problem.KindOf(err) != problem.Busy || !strings.Contains(problem.HintOf(err), m.path) {
		t.Errorf("rotate: %v", err)
	}
	if _, err := m.Unregister(t.Context(), runner.Selection{}); problem.KindOf(err) != problem.Busy {
		t.Errorf("unregister: %v", err)
	}
	if has, err := m.journal().Load(); err != nil || has == nil || has.Token != other.Token || m.text() != before {
		t.Errorf("the journal has %v, %v, and the file\n%s", has, err, m.text())
	}
	// One that the server does not take is of no use.
	m.fake.Remove(other.ID)
	if steps, err := m.Rotate(t.Context(), runner.Selection{}, 0); err != nil || len(steps) != 1 || strings.Contains(m.text(), other.Token) {
		t.Errorf("afterwards: %v, %v", steps, err)
	}
}

func TestUnregisterFinishesARotation(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	given := m.fake.Put()
	m.must(m.request(func(r *gitlab.Request) { r.Token = secret(given.Token) }))
	m.write(strings.Replace(m.text(), given.Token, "glrt-ended", 1))
	if err := m.journal().Save(runner.Entry{Verb: "rotate", URL: m.url, Name: "docker-runner", ID: given.ID, Before: runner.Fingerprint("glrt-ended"), Token: given.Token}); err != nil {
		t.Fatal(err)
	}
	if steps, err := m.Unregister(t.Context(), runner.Selection{}); err != nil || len(steps) != 3 {
		t.Errorf("unregister: %v, %v", steps, err)
	}
	if has := m.fake.Runners(); len(has[0].Machines) != 0 {
		t.Errorf("the server has %+v", has)
	}
	if err := m.journal().Save(runner.Entry{Verb: "register", URL: m.url, Name: "docker-runner", Token: "t"}); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Unregister(t.Context(), runner.Selection{}); problem.KindOf(err) != problem.Busy {
		t.Errorf("with a registration that was cut off: %v", err)
	}
}

func TestOneAtATime(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	m.must(m.request(created))
	request := m.request(func(r *gitlab.Request) { created(r); r.Name = "second" })
	plan := gitlab.Decide(request, m.look(request))
	unlock, err := m.journal().Lock()
	if err != nil {
		t.Fatal(err)
	}
	m.fake.Requests()
	_, rotate := m.Rotate(t.Context(), runner.Selection{}, 0)
	_, unregister := m.Unregister(t.Context(), runner.Selection{})
	_, register := m.Apply(t.Context(), plan, nil)
	unlock()
	for verb, err := range map[string]error{"rotate": rotate, "unregister": unregister, "register": register} {
		if problem.KindOf(err) != problem.Busy {
			t.Errorf("%s beside another: %v", verb, err)
		}
	}
	if requests := m.fake.Requests(); len(requests) != 0 {
		t.Errorf("the server was asked for %v", requests)
	}
	// Two that decided at the same time.
	if _, err := m.Apply(t.Context(), plan, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Apply(t.Context(), plan, nil); problem.KindOf(err) != problem.Busy || len(m.fake.Runners()) != 2 {
		t.Errorf("the second: %v, and the server has %d runners", err, len(m.fake.Runners()))
	}
}

// TestFileThatCannotBeEdited is about what would fail after a token was ended.
func TestFileThatCannotBeEdited(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	given := m.fake.Put()
	m.write("runners = [{name = 'x', url = 'URL', id = 1, token = '" + given.Token + "', executor = 'shell'}]\n")
	if _, err := m.Rotate(t.Context(), runner.Selection{}, 0); err == nil || m.sent("reset_authentication_token") || m.fake.Runners()[0].Token != given.Token {
		t.Errorf("rotate: %v, and the server has %v", err, m.fake.Runners())
	}
	if _, _, err := m.register(m.request(created), nil); err == nil || len(m.fake.Runners()) != 1 {
		t.Errorf("register: %v, and the server has %v", err, m.fake.Runners())
	}
	// A link to where no file can be.
	m = boot(t, usual())
	if err := os.MkdirAll(filepath.Dir(m.path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(filepath.Dir(m.path), "none", "config.toml"), m.path); err != nil {
		t.Skip(err)
	}
	if _, _, err := m.register(m.request(created), nil); problem.KindOf(err) != problem.Storage || len(m.fake.Runners()) != 0 {
		t.Errorf("through a link: %v, and the server has %v", err, m.fake.Runners())
	}
}

func TestRegisterKilledBeforeTheJournalIsCleared(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	_, info := m.must(m.request(created))
	entry := runner.Entry{Verb: "register", URL: m.url, Name: info.Name, NewID: info.ID, Token: m.fake.Runners()[0].Token}
	if err := m.journal().Save(entry); err != nil {
		t.Fatal(err)
	}
	if plan, _ := m.must(m.request(created)); !plan.Does(runner.Keep) {
		t.Errorf("it is %v", plan.Steps)
	}
	if has, err := m.journal().Load(); has != nil || err != nil {
		t.Errorf("the journal has %v, %v", has, err)
	}
	// Another runner of that name: the file gets both.
	entry.NewID, entry.Token = m.fake.Put().ID, m.fake.Runners()[1].Token
	if err := m.journal().Save(entry); err != nil {
		t.Fatal(err)
	}
	if plan, later := m.must(m.request(created)); plan.Does(runner.Keep) || plan.Does(runner.Replace) || later.ID != entry.NewID {
		t.Errorf("it is %+v by %v", later, plan.Steps)
	}
	if infos, err := m.List(t.Context()); err != nil || len(infos) != 2 {
		t.Errorf("the file has %v, %v", infos, err)
	}
	if has, err := m.journal().Load(); has != nil || err != nil {
		t.Errorf("the journal has %v, %v", has, err)
	}
}

func TestEntriesWithOneToken(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	one, two := m.fake.Put(), m.fake.Put()
	entry := func(name, token string) string {
		return "[[runners]]\nname = '" + name + "'\nurl = 'URL'\ntoken = '" + token + "'\nexecutor = 'shell'\n"
	}
	m.write(entry("a", one.Token) + entry("b", one.Token) + entry("a", two.Token))
	steps, err := m.Rotate(t.Context(), runner.Selection{Names: []string{"b"}}, 0)
	if err != nil || len(steps) != 1 || steps[0].What != "a, b" || !strings.Contains(steps[0].Reason, "other machines") {
		t.Errorf("rotate: %v, %v", steps, err)
	}
	if strings.Contains(m.text(), one.Token) || strings.Count(m.text(), m.fake.Runners()[0].Token) != 2 || !strings.Contains(m.text(), two.Token) {
		t.Errorf("the file is\n%s", m.text())
	}
	// A rotation that was cut off is not taken for that of another of its name.
	ended := m.fake.Runners()[0].Token
	if err := m.journal().Save(runner.Entry{Verb: "rotate", URL: m.url, Name: "a", Before: runner.Fingerprint(ended), Token: "glrt-finished"}); err != nil {
		t.Fatal(err)
	}
	if steps, err = m.Rotate(t.Context(), runner.Selection{Names: []string{"a"}}, 0); err != nil || len(steps) != 2 {
		t.Errorf("rotate: %v, %v", steps, err)
	}
	if text := m.text(); strings.Count(text, "glrt-finished") != 2 || strings.Contains(text, two.Token) || !strings.Contains(text, m.fake.Runners()[1].Token) {
		t.Errorf("the file is\n%s", text)
	}
}

func TestTokenThatIsLost(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	m.must(m.request(created))
	broken := gitlab.New(gitlab.Config{Path: m.path, Now: func() time.Time { return m.now }, Transport: transport.New(transport.Config{Base: tripper(
		func(r *http.Request) (*http.Response, error) {
			response, err := http.DefaultTransport.RoundTrip(r)
			m.write("[[broken")
			_ = os.Remove(m.journal().Path())
			if err := os.MkdirAll(filepath.Join(m.journal().Path(), "x"), 0o700); err != nil {
				t.Error(err)
			}
			return response, err
		})})})
	_, err := broken.Rotate(t.Context(), runner.Selection{}, 0)
	if problem.KindOf(err) != problem.Storage || !strings.Contains(err.Error(), "lost") || strings.Contains(problem.HintOf(err), m.journal().Path()) {
		t.Errorf("rotate: %v (%s)", err, problem.HintOf(err))
	}
}

func TestLookAsksNobody(t *testing.T) {
	t.Parallel()
	m := boot(t, usual())
	m.must(m.request(created))
	if err := os.Remove(filepath.Join(filepath.Dir(m.path), ".runner_system_id")); err != nil {
		t.Fatal(err)
	}
	m.fake.Requests()
	facts, err := m.Look(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	plan := gitlab.Decide(m.request(created), facts)
	if diff := cmp.Diff([]runner.Action{runner.Verify}, actions(plan)); diff != "" || plan.Err("") != nil {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if _, err := m.Apply(t.Context(), plan, nil); problem.KindOf(err) != problem.Usage {
		t.Errorf("carried out: %v", err)
	}
	if requests := m.fake.Requests(); len(requests) != 0 {
		t.Errorf("the server was asked for %v", requests)
	}
	for range 2 {
		m.look(m.request(created))
	}
	if machines := m.fake.Runners()[0].Machines; len(machines) != 1 {
		t.Errorf("the server knows %v", machines)
	}
}
