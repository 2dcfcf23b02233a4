package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/daemon"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
	"github.com/regkeeper/regkeeper/target/file"
)

const (
	host     credential.Host = "registry.example.com"
	patience                 = 10 * time.Second
)

// origin is a source and its registry, in memory. It counts what is asked of
// either.
type origin struct {
	mu     sync.Mutex
	serial int
	issued map[string]credential.Issued
	asked  atomic.Int64
}

var (
	_ credential.Minter   = (*origin)(nil)
	_ credential.Verifier = (*origin)(nil)
)

func (o *origin) Issue(_ context.Context, request credential.Request) (credential.Credential, error) {
	o.asked.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.serial++
	id := "login-" + strconv.Itoa(o.serial)
	o.issued[id] = credential.Issued{ID: id, Name: request.Name, Created: time.Now()}
	return credential.Credential{
		ID: id, Name: request.Name, Host: request.Host, Username: "me", Secret: credential.NewSecret("secret-" + id),
		Scopes: request.Scopes, Issued: time.Now(),
	}, nil
}

func (o *origin) Issued(_ context.Context, mark credential.Mark) iter.Seq2[credential.Issued, error] {
	o.asked.Add(1)
	return func(yield func(credential.Issued, error) bool) {
		o.mu.Lock()
		defer o.mu.Unlock()
		for _, issued := range o.issued {
			if mark.Owns(issued.Name) && !yield(issued, nil) {
				return
			}
		}
	}
}

func (o *origin) Revoke(_ context.Context, id string) error {
	o.asked.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.issued, id)
	return nil
}

func (o *origin) Verify(ctx context.Context, login credential.Credential, _ string) (credential.Proof, error) {
	return credential.Proof{Scheme: "basic"}, o.Check(ctx, login, credential.Proof{})
}

func (o *origin) Check(_ context.Context, login credential.Credential, _ credential.Proof) error {
	o.asked.Add(1)
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.issued[login.ID]; !ok {
		return problem.Wrap(credential.ErrRefused, problem.Denied, "look there", "log in to %s", login.Host)
	}
	return nil
}

// brokenStore cannot be loaded.
type brokenStore struct{ state.Store }

func (brokenStore) Load(context.Context) (*state.Document, error) {
	return nil, problem.New(problem.Damaged, "put a copy back", "state cannot be read")
}

// world is a daemon with what it works on.
type world struct {
	*testing.T
	origin *origin
	path   string
	log    logBuffer
	// setup is what Load gives; it may be changed.
	setup   func() (daemon.Setup, error)
	resync  time.Duration
	store   state.Store
	watched []string
	metrics *daemon.Metrics

	d *daemon.Daemon
	// stop ends it, and waits.
	stop func()
}

type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	folder := t.TempDir()
	store, err := state.Open(filepath.Join(folder, "data"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	w := &world{
		T: t, origin: &origin{issued: map[string]credential.Issued{}}, path: filepath.Join(folder, "out", "config.json"),
		resync: time.Hour, store: store, metrics: daemon.NewMetrics("test"),
	}
	w.setup = func() (daemon.Setup, error) { return w.wire(w.path), nil }
	return w
}

// wire makes a setup that delivers to the paths.
func (w *world) wire(paths ...string) daemon.Setup {
	files := file.New(file.Config{Paths: paths})
	return daemon.Setup{
		Keeper: keeper.New(keeper.Config{
			Instance: "test", Store: w.store, Verifier: w.origin,
			Registries: []keeper.Registry{{
				Host: host, Source: w.origin, Origin: "test", Scopes: credential.ScopesOf(credential.Pull),
				Schedule: keeper.Schedule{Overlap: time.Hour},
			}},
			Targets: []keeper.Target{{Target: files, Name: "out", Kind: "file"}},
			Report:  daemon.Report(slog.New(slog.NewTextHandler(&w.log, nil)), w.metrics),
		}),
		Watchers: map[string]credential.Watcher{"out": files},
		Resync:   w.resync,
	}
}

// start runs the daemon.
func (w *world) start() {
	w.Helper()
	w.d = daemon.New(daemon.Config{
		Load: func() (daemon.Setup, error) { return w.setup() },
		Log:  slog.New(slog.NewTextHandler(&w.log, nil)), Metrics: w.metrics, Watched: w.watched,
	})
	ctx, cancel := context.WithCancel(w.Context())
	done := make(chan error, 1)
	go func() { done <- w.d.Run(ctx) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.Errorf("run: %v", err)
			}
		case <-time.After(patience):
			w.Error("it does not stop")
		}
	})
	w.Cleanup(w.stop)
}

func (w *world) eventually(what string, is func() bool) {
	w.Helper()
	w.within(patience, what, is)
}

func (w *world) within(limit time.Duration, what string, is func() bool) {
	w.Helper()
	for deadline := time.Now().Add(limit); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("not within %s: %s\nlog:\n%s", limit, what, w.log.String())
		}
	}
}

// get asks the health endpoints.
func (w *world) get(path string) (status int, body string) {
	w.Helper()
	recorder := httptest.NewRecorder()
	w.d.Health().ServeHTTP(recorder, httptest.NewRequestWithContext(w.Context(), http.MethodGet, path, nil))
	return recorder.Code, recorder.Body.String()
}

func (w *world) ready() bool {
	status, _ := w.get("/readyz")
	return status == http.StatusOK
}

// metric is a metric's value; the line's beginning names it.
func (w *world) metric(line string) float64 {
	w.Helper()
	_, text := w.get("/metrics")
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(line) + ` (\S+)$`).FindStringSubmatch(text)
	if found == nil {
		return 0
	}
	value, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		w.Fatal(err)
	}
	return value
}

func (w *world) passes() float64 {
	return w.metric(`regkeeper_sync_duration_seconds_count{result="success"}`) +
		w.metric(`regkeeper_sync_duration_seconds_count{result="error"}`)
}

// delivered waits until so many deliveries have ended. One that is disturbed
// while it is read back is the keeper's case.
func (w *world) delivered(n int) {
	w.Helper()
	w.eventually("the delivery has ended", func() bool {
		return w.metric(`regkeeper_delivery_total{result="success",target="out"}`) == float64(n)
	})
}

// logins are the hosts with a login in a file.
func logins(path string) map[string]any {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var doc struct{ Auths map[string]any }
	if json.Unmarshal(text, &doc) != nil {
		return nil
	}
	return doc.Auths
}

func (w *world) holds(path string) bool { return logins(path)[string(host)] != nil }

// replace puts a file in another's place, as docker login does.
func (w *world) replace(path, text string) {
	w.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		w.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		w.Fatal(err)
	}
}

const foreign = `{"auths": {"other.example.com": {"auth": "YTpi"}}}`

// TestHealing takes our login out of the file: it is back within a second, the
// other writer's is kept, and nothing is asked of the registry or the source.
func TestHealing(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.eventually("ready", w.ready)
	asked := w.origin.asked.Load()
	for n := range 5 {
		w.delivered(n + 1)
		w.replace(w.path, foreign)
		w.within(time.Second, "the login is back", func() bool { return w.holds(w.path) })
		if logins(w.path)["other.example.com"] == nil {
			t.Fatal("the other writer's login was lost")
		}
	}
	w.delivered(6)
	// In one step: what is taken away file by file is put back meanwhile.
	if err := os.Rename(filepath.Dir(w.path), filepath.Join(t.TempDir(), "away")); err != nil {
		t.Fatal(err)
	}
	w.within(time.Second, "the folder is back", func() bool { return w.holds(w.path) })
	if now := w.origin.asked.Load(); now != asked {
		t.Errorf("%d requests were made to heal", now-asked)
	}
}

// TestOwnWritesDoNotLoop counts the passes of a second after our own writes.
func TestOwnWritesDoNotLoop(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.eventually("ready", w.ready)
	before := w.passes()
	if _, err := w.d.Sync(t.Context(), keeper.Rotate{Hosts: []credential.Host{host}}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // nothing is waited for: what must not happen is counted
	if n := w.passes() - before; n < 1 || n > 4 {
		t.Errorf("one rotation made %v passes in a second, want 1 to 4", n)
	}
	settled := w.passes()
	time.Sleep(500 * time.Millisecond)
	if n := w.passes() - settled; n != 0 {
		t.Errorf("%v passes were made for nothing", n)
	}
}

// TestFailingPlaceDoesNotLoop does the same where delivery fails.
func TestFailingPlaceDoesNotLoop(t *testing.T) {
	w := newWorld(t)
	if err := os.MkdirAll(filepath.Join(w.path, "mine"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.eventually("the first pass", func() bool { return w.passes() > 0 })
	before := w.passes()
	time.Sleep(time.Second) // as above
	if n := w.passes() - before; n > 4 {
		t.Errorf("%v passes were made in a second", n)
	}
}

// TestBusyPlaceDoesNotStarveChecks changes a place all the time: the login is
// checked at its registry all the same.
func TestBusyPlaceDoesNotStarveChecks(t *testing.T) {
	w := newWorld(t)
	w.resync = 300 * time.Millisecond
	w.start()
	w.eventually("ready", w.ready)
	asked := w.origin.asked.Load()
	for i := range 60 {
		w.replace(w.path, fmt.Sprintf(`{"auths": {"other.example.com": {"auth": "YTpi"}}, "n": %d}`, i))
		time.Sleep(25 * time.Millisecond) // the pace of the writer
	}
	if n := w.origin.asked.Load() - asked; n < 2 {
		t.Errorf("the registry was asked %d times in 1.5 s, want at least 2 at a resync of %s", n, w.resync)
	}
}

// TestRevokedBehindOurBack ends the login at its source: it is replaced.
func TestRevokedBehindOurBack(t *testing.T) {
	w := newWorld(t)
	w.resync = 100 * time.Millisecond
	w.start()
	w.eventually("ready", w.ready)
	if err := w.origin.Revoke(t.Context(), "login-1"); err != nil {
		t.Fatal(err)
	}
	w.eventually("a new login is in force", func() bool {
		status, err := w.d.Status(t.Context())
		return err == nil && status.Ready && status.Registries[0].Credential == "login-2"
	})
}

// TestReload takes up a changed setup, on a call and on a file's change, and
// keeps the one in force when the new one is broken.
func TestReload(t *testing.T) {
	w := newWorld(t)
	watched := filepath.Join(t.TempDir(), "regkeeper.yaml")
	if err := os.WriteFile(watched, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.watched = []string{watched}
	second := filepath.Join(t.TempDir(), "second.json")
	var stage atomic.Int32
	w.setup = func() (daemon.Setup, error) {
		switch stage.Load() {
		case 0:
			return w.wire(w.path), nil
		case 1:
			return daemon.Setup{}, problem.New(problem.Config, "mend it", "the document is broken")
		}
		return w.wire(w.path, second), nil
	}
	w.start()
	w.eventually("ready", w.ready)

	// Broken: counted, logged with the hint, and the one before is in force.
	stage.Store(1)
	w.d.Reload()
	const failed, succeeded = `regkeeper_config_reload_total{result="error"}`, `regkeeper_config_reload_total{result="success"}`
	w.eventually("the failure is counted", func() bool { return w.metric(failed) == 1 })
	for _, want := range []string{"the document is broken", "mend it"} {
		if !strings.Contains(w.log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, w.log.String())
		}
	}
	if !w.ready() {
		t.Error("it is not ready any more")
	}
	w.replace(w.path, foreign)
	w.within(time.Second, "it heals still", func() bool { return w.holds(w.path) })

	// Mended: a change of the file is enough.
	stage.Store(2)
	w.replace(watched, "2")
	w.eventually("the second place is delivered to", func() bool { return w.holds(second) })
	if got := w.metric(succeeded); got != 2 {
		t.Errorf("%v setups were taken up, want 2", got)
	}
	w.eventually("ready again", w.ready)
	w.replace(second, foreign)
	w.within(time.Second, "the second place is watched", func() bool { return w.holds(second) })

	// A touch without a change, and a file that is gone, reload nothing.
	w.replace(watched, "2")
	if err := os.Remove(watched); err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond) // longer than a burst of changes is gathered
	if got := w.metric(succeeded); got != 2 {
		t.Errorf("%v setups were taken up, want 2 still", got)
	}
	w.replace(watched, "3")
	w.eventually("a file that came back is taken up", func() bool { return w.metric(succeeded) == 3 })
	if got := w.origin.serial; got != 1 {
		t.Errorf("%d logins were minted, want 1: a reload mints nothing", got)
	}
}

// TestFirstLoadFails is an error of Run.
func TestFirstLoadFails(t *testing.T) {
	w := newWorld(t)
	broken := errors.New("broken")
	d := daemon.New(daemon.Config{
		Load: func() (daemon.Setup, error) { return daemon.Setup{}, broken },
		Log:  slog.New(slog.DiscardHandler),
	})
	if err := d.Run(w.Context()); !errors.Is(err, broken) {
		t.Errorf("run: %v, want %v", err, broken)
	}
}

// conditions is what /healthz and /readyz answer.
type conditions struct {
	OK         bool
	Conditions []daemon.Condition
}

func (w *world) conditions(path string) (int, conditions) {
	w.Helper()
	status, body := w.get(path)
	var c conditions
	if err := json.Unmarshal([]byte(body), &c); err != nil {
		w.Fatalf("%s: %v", body, err)
	}
	return status, c
}

// TestHealth looks at the conditions while things go wrong and right.
func TestHealth(t *testing.T) {
	w := newWorld(t)
	loading := make(chan struct{})
	w.setup = func() (daemon.Setup, error) {
		<-loading
		return w.wire(w.path), nil
	}
	w.start()

	// Before the first pass it lives and is not ready.
	if status, got := w.conditions("/healthz"); status != http.StatusOK || !got.OK {
		t.Errorf("/healthz before the first pass: %d %+v", status, got)
	}
	status, got := w.conditions("/readyz")
	if diff := cmp.Diff(conditions{Conditions: []daemon.Condition{{Code: "pass", Text: "the first pass is under way"}}}, got); status != http.StatusServiceUnavailable || diff != "" {
		t.Errorf("/readyz before the first pass: %d (-want +got)\n%s", status, diff)
	}
	close(loading)
	w.eventually("ready", w.ready)
	_, got = w.conditions("/readyz")
	want := conditions{OK: true, Conditions: []daemon.Condition{
		{Code: "pass", OK: true}, {Code: "registry", On: string(host), OK: true}, {Code: "target", On: "out " + w.path, OK: true},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("/readyz when all is well (-want +got):\n%s", diff)
	}

	// A place that cannot be used: not ready, with text and hint; alive.
	if err := os.Remove(w.path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(w.path, "mine"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.eventually("not ready", func() bool {
		status, got = w.conditions("/readyz")
		return status == http.StatusServiceUnavailable && !got.OK && len(got.Conditions) == 3
	})
	if c := got.Conditions[2]; c.OK || !strings.Contains(c.Text, "is a directory") || !strings.Contains(c.Hint, "bind mount whose source is missing") {
		t.Errorf("the target's condition is %+v", c)
	}
	if c := got.Conditions[0]; c.OK || c.Text == "" {
		t.Errorf("the pass's condition is %+v", c)
	}
	if status, _ := w.get("/healthz"); status != http.StatusOK {
		t.Errorf("/healthz: %d, though passes are made", status)
	}
	if w.metric(`regkeeper_place_ready_status{place="`+w.path+`",target="out"}`) != 0 {
		t.Error("the place's metric says ready")
	}

	// Mended: ready, without waiting for the back-off.
	if err := os.RemoveAll(w.path); err != nil {
		t.Fatal(err)
	}
	w.eventually("ready again", w.ready)
}

// TestPassThatFails says so: in the log, once, and in the conditions.
func TestPassThatFails(t *testing.T) {
	w := newWorld(t)
	w.store = brokenStore{w.store}
	w.resync = 100 * time.Millisecond
	w.start()
	w.eventually("some passes", func() bool { return w.passes() >= 3 })
	status, got := w.conditions("/readyz")
	if status != http.StatusServiceUnavailable || got.OK {
		t.Errorf("/readyz: %d %+v", status, got)
	}
	if c := got.Conditions[0]; c.OK || !strings.Contains(c.Text, "state cannot be read") || c.Hint != "put a copy back" {
		t.Errorf("the pass's condition is %+v", c)
	}
	if n := strings.Count(w.log.String(), "state cannot be read"); n != 1 {
		t.Errorf("the log says it %d times, want once:\n%s", n, w.log.String())
	}
}

// TestMetrics holds the names and labels of the metrics, and what linters say.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.eventually("ready", w.ready)
	_, text := w.get("/metrics")
	for _, line := range []string{
		`regkeeper_credential_ready_status{registry="registry.example.com"} 1`,
		`regkeeper_credential_expiration_timestamp_seconds{registry="registry.example.com"} 0`,
		`regkeeper_credential_renewal_timestamp_seconds{registry="registry.example.com"} 0`,
		`regkeeper_place_ready_status{place="` + w.path + `",target="out"} 1`,
		`regkeeper_sync_duration_seconds_count{result="success"} `,
		`regkeeper_config_reload_total{result="success"} 1`,
		`regkeeper_build_info{version="test"} 1`,
		"go_goroutines ", "process_start_time_seconds ",
	} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("there is no line %q in:\n%s", line, text)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "regkeeper_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
}

// TestControl gives orders as the command line does.
func TestControl(t *testing.T) {
	w := newWorld(t)
	loading := make(chan struct{})
	w.setup = func() (daemon.Setup, error) {
		<-loading
		return w.wire(w.path), nil
	}
	w.start()
	ask := func(method, path string) (int, daemon.Outcome) {
		t.Helper()
		recorder := httptest.NewRecorder()
		w.d.Control().ServeHTTP(recorder, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		var outcome daemon.Outcome
		if recorder.Code != http.StatusOK || strings.HasPrefix(path, "/sync") {
			if err := json.Unmarshal(recorder.Body.Bytes(), &outcome); err != nil {
				t.Fatalf("%s: %v", recorder.Body, err)
			}
		}
		return recorder.Code, outcome
	}
	for _, path := range []string{"/status", "/sync"} {
		method := map[string]string{"/status": http.MethodGet, "/sync": http.MethodPost}[path]
		if status, outcome := ask(method, path); status != http.StatusConflict || outcome.Kind != problem.Busy || outcome.Hint == "" {
			t.Errorf("%s while it starts: %d %+v", path, status, outcome)
		}
	}
	close(loading)
	w.eventually("ready", w.ready)
	if status, _ := ask(http.MethodGet, "/status"); status != http.StatusOK {
		t.Errorf("/status: %d", status)
	}
	status, outcome := ask(http.MethodPost, "/sync?rotate="+string(host))
	if status != http.StatusOK || outcome.Problem != "" || outcome.Result == nil || len(outcome.Result.Done) == 0 {
		t.Errorf("rotate: %d %+v", status, outcome)
	}
	if status, outcome := ask(http.MethodPost, "/sync?rotate=nosuch"); status != http.StatusNotFound || outcome.Kind != problem.NotFound {
		t.Errorf("rotate of an unknown host: %d %+v", status, outcome)
	}
}

// TestStop serves and runs, and leaves nothing behind: no goroutine of ours,
// and no listener.
func TestStop(t *testing.T) {
	w := newWorld(t)
	w.watched = []string{filepath.Join(t.TempDir(), "regkeeper.yaml")}
	w.start()
	var config net.ListenConfig
	tcp, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "s")
	unix, err := config.Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- daemon.Serve(ctx,
			daemon.Server{Name: "health", Listener: tcp, Handler: w.d.Health()},
			daemon.Server{Name: "control", Listener: unix, Handler: w.d.Control()})
	}()
	w.eventually("it serves", func() bool {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+tcp.Addr().String()+"/readyz", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return false
		}
		defer func() { _ = response.Body.Close() }()
		_, _ = io.Copy(io.Discard, response.Body)
		return response.StatusCode == http.StatusOK
	})
	http.DefaultClient.CloseIdleConnections()
	cancel()
	w.stop()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("serve: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the servers do not stop")
	}
	if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", tcp.Addr().String()); err == nil {
		_ = conn.Close()
		t.Error("the port is open still")
	}
	if _, err := os.Stat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is there still: %v", err)
	}
	ours := regexp.MustCompile(`regkeeper/(daemon|keeper|target)[./]|fsnotify`)
	w.eventually("no goroutine is left", func() bool {
		var stacks bytes.Buffer
		if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
			t.Fatal(err)
		}
		for stack := range strings.SplitSeq(stacks.String(), "\n\n") {
			if ours.MatchString(stack) && !strings.Contains(stack, "testing.tRunner") {
				return false
			}
		}
		return true
	})
}
