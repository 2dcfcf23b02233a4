package helper_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/helper"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
)

const (
	secret  = "hunter2-<in-force>&\""
	retired = "hunter2-retired"
	next    = "hunter2-next"
)

var now = time.Date(2026, 5, 6, 7, 8, 9, 0, time.UTC)

func login(host credential.Host, user, secret string, expires time.Time) *state.Credential {
	return &state.Credential{Credential: credential.Credential{
		ID: "id-" + user, Host: host, Username: user, Secret: credential.NewSecret(secret), Expires: expires,
	}}
}

// keyring has a registry in each state that a rotation knows.
func keyring() *state.Document {
	doc := state.New()
	old := &state.Retired{Credential: *login("h.example.com", "old", retired, time.Time{})}
	*doc.Registry("h.example.com") = state.Registry{
		Current: login("h.example.com", "robot", secret, now.Add(time.Second)),
		Next:    login("h.example.com", "robot", next, time.Time{}), Retired: []*state.Retired{old},
		Trouble: &state.Trouble{Text: "a place cannot be read"},
	}
	*doc.Registry(credential.DockerHub) = state.Registry{Current: login(credential.DockerHub, "acme", "hub-secret", time.Time{})}
	*doc.Registry("h.example.com:5000") = state.Registry{Current: login("h.example.com:5000", "other", "port-secret", time.Time{})}
	*doc.Registry("expired.example.com") = state.Registry{
		Current: login("expired.example.com", "robot", secret, now), Trouble: &state.Trouble{Text: "the source does not answer"},
	}
	*doc.Registry("asked.example.com") = state.Registry{Intent: &state.Intent{Name: "x"}}
	*doc.Registry("issued.example.com") = state.Registry{Next: login("issued.example.com", "robot", next, time.Time{})}
	*doc.Registry("failed.example.com") = state.Registry{Trouble: &state.Trouble{Text: "the token lacks read:package"}}
	*doc.Registry("left.example.com") = state.Registry{Retired: []*state.Retired{old}}
	*doc.Registry("raw.example.com") = state.Registry{Current: login("raw.example.com", "robot", "hunter2-\xff", time.Time{})}
	return doc
}

func write(t testing.TB, folder string, doc *state.Document) {
	t.Helper()
	store, err := state.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	if err := store.Save(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
}

func written(t testing.TB, doc *state.Document) string {
	t.Helper()
	folder := t.TempDir()
	write(t, folder, doc)
	return folder
}

// serve is the daemon of a data folder whose state is elsewhere: what the helper
// asks on its socket.
func serve(t testing.TB, handler http.Handler) (folder string) {
	t.Helper()
	// The path of a socket must be short.
	folder, err := os.MkdirTemp("", "rk") //nolint:usetesting // its folders' names are long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", helper.Socket(folder))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return folder
}

func loads(doc *state.Document) http.Handler {
	return helper.Handler(func(context.Context) (*state.Document, error) { return doc, nil })
}

func newHelper(folders ...string) *helper.Helper {
	return helper.New(helper.Config{Folders: folders, Now: func() time.Time { return now }})
}

// clean fails if an error has a secret in it, or is in more than it should.
func clean(t testing.TB, err error) {
	t.Helper()
	if err != nil && strings.Contains(err.Error()+problem.HintOf(err), "hunter2") {
		t.Errorf("an error has a secret: %v", err)
	}
}

func TestGet(t *testing.T) {
	t.Parallel()
	for name, folder := range map[string]string{"at rest": written(t, keyring()), "from the daemon": serve(t, loads(keyring()))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHelper(folder)
			for url, want := range map[string][2]string{
				"h.example.com":               {"robot", secret},
				"https://h.example.com/v2/":   {"robot", secret},
				"h.example.com:5000":          {"other", "port-secret"},
				"https://index.docker.io/v1/": {"acme", "hub-secret"},
				"docker.io":                   {"acme", "hub-secret"},
			} {
				user, got, err := h.Get(url)
				if err != nil || user != want[0] || got != want[1] {
					t.Errorf("%s: user %q, right secret %v, %v", url, user, got == want[1], err)
				}
			}
			for _, url := range []string{
				"other.example.com", "h.example.com:443", "h.example.com:5001", "left.example.com", "sub.h.example.com",
				"https://index.docker.io/v1/access-token", "no registry", "https://h.example.com@evil.example.org",
			} {
				user, got, err := h.Get(url)
				if !credentials.IsErrCredentialsNotFound(err) || user != "" || got != "" {
					t.Errorf("%s: %q, %v; want not found", url, user, err)
				}
			}
			for url, word := range map[string]string{
				"expired.example.com": "expired at 2026-05-06T07:08:09Z: the source does not answer",
				"asked.example.com":   "there is no login for asked.example.com yet",
				"issued.example.com":  "there is no login for issued.example.com yet",
				"failed.example.com":  "yet: the token lacks read:package",
				"raw.example.com":     "no UTF-8",
			} {
				user, got, err := h.Get(url)
				if err == nil || credentials.IsErrCredentialsNotFound(err) || !strings.Contains(err.Error(), word) || problem.HintOf(err) == "" || user != "" || got != "" {
					t.Errorf("%s: %q, %v; want an error with %q", url, user, err, word)
				}
				clean(t, err)
			}
		})
	}
}

func TestAddAndDelete(t *testing.T) {
	t.Parallel()
	for name, folder := range map[string]string{"at rest": written(t, keyring()), "from the daemon": serve(t, loads(keyring()))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHelper(folder)
			if err := h.Add(&credentials.Credentials{ServerURL: "h.example.com", Username: "robot", Secret: secret}); err != nil {
				t.Errorf("storing the login in force: %v", err)
			}
			for _, login := range []credentials.Credentials{
				{ServerURL: "h.example.com", Username: "robot", Secret: "hunter2-typed"},
				{ServerURL: "h.example.com", Username: "me", Secret: secret},
				{ServerURL: "h.example.com", Username: "robot", Secret: next},
				{ServerURL: "failed.example.com", Username: "me"},
				{ServerURL: "other.example.com", Username: "me", Secret: "hunter2-typed"},
				{ServerURL: "https://me:hunter2@other.example.com", Username: "me", Secret: "hunter2-typed"},
			} {
				err := h.Add(&login)
				if problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), "nothing was stored") || problem.HintOf(err) == "" {
					t.Errorf("%s: %v", login.ServerURL, err)
				}
				clean(t, err)
			}
			for _, url := range []string{"h.example.com", "expired.example.com", "failed.example.com"} {
				if err := h.Delete(url); problem.KindOf(err) != problem.Refused || !strings.Contains(err.Error(), "nothing was erased") {
					t.Errorf("erase %s: %v", url, err)
				}
			}
			if err := h.Delete("other.example.com"); !credentials.IsErrCredentialsNotFound(err) {
				t.Errorf("erase other.example.com: %v", err)
			}
			if user, got, err := h.Get("h.example.com"); user != "robot" || got != secret {
				t.Errorf("afterwards the login is %q, %v", user, err)
			}
		})
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	want := map[string]string{
		"h.example.com": "robot", "h.example.com:5000": "other", "https://index.docker.io/v1/": "acme",
		"expired.example.com": "robot", "raw.example.com": "robot",
	}
	for name, folder := range map[string]string{"at rest": written(t, keyring()), "from the daemon": serve(t, loads(keyring()))} {
		got, err := newHelper(folder).List()
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

// The daemon gives a secret for the one registry that is asked for.
func TestDaemonGivesOneSecret(t *testing.T) {
	t.Parallel()
	for query, want := range map[string]int{"": 0, "?host=h.example.com": 1, "?host=other.example.com": 0, "?host=H.EXAMPLE.COM": 0} {
		var got struct {
			Kept map[string]struct{ Secret []byte }
		}
		recorded := answered(t, loads(keyring()), query)
		if err := json.Unmarshal(recorded, &got); err != nil {
			t.Fatal(err)
		}
		secrets := 0
		for _, entry := range got.Kept {
			if len(entry.Secret) > 0 {
				secrets++
			}
		}
		if secrets != want || query == "" && len(got.Kept) != 8 {
			t.Errorf("%q is answered with %d secrets of %d entries", query, secrets, len(got.Kept))
		}
	}
}

func TestFoldersInOrder(t *testing.T) {
	t.Parallel()
	one, two := state.New(), state.New()
	*one.Registry("h.example.com") = state.Registry{Current: login("h.example.com", "one", "1", time.Time{})}
	*two.Registry("h.example.com") = state.Registry{Current: login("h.example.com", "two", "2", time.Time{})}
	*two.Registry("i.example.com") = state.Registry{Current: login("i.example.com", "two", "2", time.Time{})}
	missing := filepath.Join(t.TempDir(), "missing")
	h := newHelper(missing, written(t, one), written(t, two))
	for host, want := range map[string]string{"h.example.com": "one", "i.example.com": "two"} {
		if user, _, err := h.Get(host); user != want || err != nil {
			t.Errorf("%s is answered for %q, %v; want %s", host, user, err, want)
		}
	}
	// It may be kept in the folder that is missing.
	if _, _, err := h.Get("j.example.com"); problem.KindOf(err) != problem.NotFound || !strings.Contains(err.Error(), missing) {
		t.Errorf("with a folder missing: %v", err)
	}
}

func TestDaemonThatFails(t *testing.T) {
	t.Parallel()
	hanging := make(chan struct{})
	t.Cleanup(func() { close(hanging) })
	dead := t.TempDir()
	for name, c := range map[string]struct {
		folder, want string
		kind         problem.Kind
	}{
		"stopped":   {dead, "no daemon runs on it", problem.NotFound},
		"no folder": {filepath.Join(dead, "none"), "does not exist", problem.NotFound},
		"an error":  {serve(t, helper.Handler(func(context.Context) (*state.Document, error) { return nil, errors.New("no cluster") })), "no cluster", problem.Internal},
		"a problem": {serve(t, helper.Handler(func(context.Context) (*state.Document, error) {
			return nil, problem.New(problem.Denied, "grant it", "may not")
		})), "may not", problem.Denied},
		"no order": {serve(t, http.NotFoundHandler()), "404 Not Found", problem.Unreachable},
		"no protocol": {serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = w.Write([]byte("{}"))
		})), "418", problem.Internal},
		"hangs up": {serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })), "ask the daemon", problem.Unreachable},
	} {
		user, got, err := newHelper(c.folder).Get("h.example.com")
		if err == nil || credentials.IsErrCredentialsNotFound(err) || !strings.Contains(err.Error(), c.want) || problem.KindOf(err) != c.kind || user+got != "" {
			t.Errorf("%s: %v of kind %s", name, err, problem.KindOf(err))
		}
	}
}

func TestDamagedKeyring(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, text := range []string{"", "{", `{"registries":{"h.example.com":{"current":{"secret":"hunter2"}}}`, "[]"} {
		if err := os.WriteFile(filepath.Join(folder, "state.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, err := newHelper(folder).Get("h.example.com")
		if problem.KindOf(err) != problem.Damaged {
			t.Errorf("%q: %v", text, err)
		}
		clean(t, err)
	}
}

// A pull while the keyring is written finds one login or the other, and always one.
func TestGetWhileTheKeyringIsWritten(t *testing.T) {
	t.Parallel()
	folder := written(t, keyring())
	store, err := state.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	logins := map[string]string{"robot": secret}
	stop, ended := make(chan struct{}), make(chan struct{})
	long := strings.Repeat("y", 5000)
	logins["long"] = long
	go func() {
		defer close(ended)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			doc := keyring()
			if i%2 == 0 {
				doc.Registries["h.example.com"].Current = login("h.example.com", "long", long, time.Time{})
			}
			if err := store.Save(context.Background(), doc); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	var readers [4]chan struct{}
	for i := range readers {
		readers[i] = make(chan struct{})
		go func() {
			defer close(readers[i])
			for range 200 {
				user, got, err := newHelper(folder).Get("h.example.com")
				if err != nil || logins[user] != got || got == "" {
					t.Errorf("user %q, right secret %v, %v", user, logins[user] == got, err)
					return
				}
			}
		}()
	}
	for _, done := range readers {
		<-done
	}
	close(stop)
	<-ended
}
