package harbor_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeharbor"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/source/harbor"
	"github.com/regkeeper/regkeeper/source/sourcetest"
)

const (
	user     = "ci-admin"
	password = "hunter2-of-the-admin"
	project  = "acme"
)

var noon = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

// world is a fake server, and sources for it.
type world struct {
	*fakeharbor.Server
	url string
	now time.Time
}

func start(t *testing.T, config fakeharbor.Config) *world {
	t.Helper()
	w := &world{now: noon}
	config.Username, config.Password, config.Project = user, password, project
	config.Images, config.Now = fakeregistry.New(fakeregistry.Config{}), func() time.Time { return w.now }
	w.Server = fakeharbor.New(config)
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func (w *world) source(t *testing.T, password string) *harbor.Source {
	t.Helper()
	return sourceAt(t, w.url, password, project, func() time.Time { return w.now })
}

func sourceAt(t *testing.T, url, password, project string, now func() time.Time) *harbor.Source {
	t.Helper()
	name := "HARBOR_PASSWORD_" + strconv.Itoa(len(password))
	t.Setenv(name, password)
	return harbor.New(harbor.Config{
		URL: url + "/", Project: project, User: user, Password: secretref.Ref{Env: name},
		Transport: transport.New(transport.Config{}), Now: now,
	})
}

// try says what the registry answers to a login.
func (w *world) try(t testing.TB, login credential.Credential, method, path string) int {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, w.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.SetBasicAuth(login.Username, login.Secret.Reveal())
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.StatusCode
}

// accepts asks the registry for one thing of each scope.
func (w *world) accepts(t testing.TB, login credential.Credential) (credential.Scopes, bool) {
	t.Helper()
	if w.try(t, login, http.MethodGet, "/v2/") != http.StatusOK {
		return nil, false
	}
	missing := "sha256:" + strings.Repeat("0", 64)
	var has credential.Scopes
	for scope, ask := range map[credential.Scope][2]string{
		credential.Pull:   {http.MethodGet, "/v2/acme/app/manifests/latest"},
		credential.Push:   {http.MethodPost, "/v2/acme/app/blobs/uploads/"},
		credential.Delete: {http.MethodDelete, "/api/v2.0/projects/acme/repositories/app/artifacts/" + missing},
	} {
		switch status := w.try(t, login, ask[0], ask[1]); status {
		case http.StatusForbidden:
		case http.StatusNotFound, http.StatusAccepted:
			has = append(has, scope)
		default:
			t.Errorf("%s %s answered %d", ask[0], ask[1], status)
		}
	}
	return has, true
}

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
		w := start(t, fakeharbor.Config{})
		gone := httptest.NewServer(http.NotFoundHandler())
		gone.Close()
		return sourcetest.Fixture{
			Source: w.source(t, password), Refused: w.source(t, "hunter2-wrong"),
			Down: sourceAt(t, gone.URL, password+"-2", project, time.Now),
			Host: "harbor.example.com", Asked: credential.ScopesOf(credential.Pull, credential.Push),
			Many: 201, Remote: true, Secrets: []string{"hunter2", "Fake0harbor"},
			Foreign: func(_ testing.TB, name string) { w.AddRobot(name) },
			Names: func(testing.TB) (names []string) {
				for _, robot := range w.Robots() {
					names = append(names, robot.Name)
				}
				return names
			},
			Accepts: w.accepts,
		}
	})
}

// TestScopes sees that the registry grants what was asked for: pushing and
// deleting with pulling, which they take.
func TestScopes(t *testing.T) {
	w := start(t, fakeharbor.Config{})
	source := w.source(t, password)
	for i, test := range []struct{ asked, want credential.Scopes }{
		{credential.ScopesOf(credential.Pull), credential.ScopesOf(credential.Pull)},
		{credential.ScopesOf(credential.Push), credential.ScopesOf(credential.Pull, credential.Push)},
		{credential.ScopesOf(credential.Delete, credential.Pull), credential.ScopesOf(credential.Pull, credential.Delete)},
		{credential.ScopesOf(credential.Delete, credential.Push), credential.ScopesOf(credential.Pull, credential.Push, credential.Delete)},
	} {
		login, err := source.Issue(t.Context(), credential.Request{Name: fmt.Sprintf("regkeeper-1-%d", i), Scopes: test.asked})
		if err != nil {
			t.Fatal(err)
		}
		if has, ok := w.accepts(t, login); !ok || !has.Equal(test.want) {
			t.Errorf("asked for %s, the registry grants %s (accepted: %t), want %s", test.asked, has, ok, test.want)
		}
		// Lists of images are the server's own API.
		if status := w.try(t, login, http.MethodGet, "/api/v2.0/repositories"); status != http.StatusOK {
			t.Errorf("asked for %s, listing repositories answers %d", test.asked, status)
		}
	}
}

// TestUsername sees that the login is the account's full name, with the prefix
// that the server chose.
func TestUsername(t *testing.T) {
	w := start(t, fakeharbor.Config{})
	login, err := w.source(t, password).Issue(t.Context(), credential.Request{Name: "regkeeper-1-2-3"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "robot$acme+regkeeper-1-2-3"; login.Username != want {
		t.Errorf("username is %q, want %q", login.Username, want)
	}
	if login.Issued != noon || !login.Expires.IsZero() {
		t.Errorf("issued %s, expires %s", login.Issued, login.Expires)
	}
}

// TestExpiry sees that a login lasts as long as asked, at most a day longer,
// and is refused then.
func TestExpiry(t *testing.T) {
	w := start(t, fakeharbor.Config{})
	source := w.source(t, password)
	serial := 0
	rapid.Check(t, func(r *rapid.T) {
		asked := noon.Add(time.Duration(rapid.Int64Range(1, int64(400*24*time.Hour)).Draw(r, "life")))
		w.now = noon
		serial++
		login, err := source.Issue(t.Context(), credential.Request{Name: fmt.Sprintf("life-%d", serial), Expires: asked})
		if err != nil {
			r.Fatal(err)
		}
		// Harbor counts in whole seconds.
		if login.Expires.Before(asked.Truncate(time.Second)) || login.Expires.After(asked.Add(24*time.Hour)) {
			r.Fatalf("asked for %s, expires %s", asked, login.Expires)
		}
		if w.now = login.Expires.Add(-time.Second); w.try(t, login, http.MethodGet, "/v2/") != http.StatusOK {
			r.Error("refused before it expires")
		}
		if w.now = login.Expires; w.try(t, login, http.MethodGet, "/v2/") != http.StatusUnauthorized {
			r.Error("accepted after it expired")
		}
	})
	for _, past := range []time.Duration{0, -time.Hour, -1000 * time.Hour} {
		w.now = noon
		login, err := source.Issue(t.Context(), credential.Request{Name: fmt.Sprintf("past-%d", -past), Expires: noon.Add(past)})
		if err != nil {
			t.Fatal(err)
		}
		if want := noon.Add(24 * time.Hour); !login.Expires.Equal(want) {
			t.Errorf("asked for an end %s ago, expires %s, want %s", -past, login.Expires, want)
		}
	}
}

// TestRevokeNamesOnly sees that nothing is deleted but what has just that name.
func TestRevokeNamesOnly(t *testing.T) {
	w := start(t, fakeharbor.Config{})
	source := w.source(t, password)
	for _, name := range []string{"app", "app-1", "my-app", "1", "acme"} {
		w.AddRobot(name)
	}
	for _, id := range []string{"app", "ap", "2", "acme+app-1", "robot$acme+app-1", ""} {
		if err := source.Revoke(t.Context(), id); err != nil {
			t.Errorf("revoke %q: %v", id, err)
		}
	}
	var left []string
	for _, robot := range w.Robots() {
		left = append(left, robot.Name)
	}
	if diff := cmp.Diff([]string{"app-1", "my-app", "1", "acme"}, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// TestListChanges sees that no account is missed when others go while pages are
// read.
func TestListChanges(t *testing.T) {
	var w *world
	deleted := false
	w = start(t, fakeharbor.Config{Before: func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("page") == "2" && !deleted {
			deleted = true
			request := httptest.NewRequest(http.MethodDelete, "/api/v2.0/robots/1", nil)
			request.SetBasicAuth(user, password)
			w.ServeHTTP(httptest.NewRecorder(), request)
		}
		return false
	}})
	mark := credential.MarkOf("instance", "harbor.example.com")
	for i := range 150 {
		w.AddRobot(mark.Name(fmt.Sprintf("%03d", i)))
	}
	listed := map[string]bool{}
	for issued, err := range w.source(t, password).Issued(t.Context(), mark) {
		if err != nil {
			t.Fatal(err)
		}
		listed[issued.Name] = true
	}
	if !deleted {
		t.Fatal("nothing was deleted meanwhile")
	}
	for i := 1; i < 150; i++ {
		if name := mark.Name(fmt.Sprintf("%03d", i)); !listed[name] {
			t.Errorf("%s was missed", name)
		}
	}
}

// TestOtherProject sees that a project that is not there, or that has another
// name, is an error also where a login is to be ended: it may be there still.
func TestOtherProject(t *testing.T) {
	w := start(t, fakeharbor.Config{})
	for _, other := range []string{"other", "7", "acme/team"} {
		source := sourceAt(t, w.url, password, other, time.Now)
		_, err := source.Issue(t.Context(), credential.Request{Name: "regkeeper-1"})
		for what, err := range map[string]error{"issue": err, "revoke": source.Revoke(t.Context(), "regkeeper-1")} {
			if problem.KindOf(err) != problem.NotFound && problem.KindOf(err) != problem.Unreachable {
				t.Errorf("%s in %s: %v", what, other, err)
			}
		}
	}
}

// TestOddAnswers sees that what is no answer of Harbor's is an error, and no
// login.
func TestOddAnswers(t *testing.T) {
	write := func(status int, body string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
			return true
		}
	}
	for _, test := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request) bool
		want   problem.Kind
	}{
		{"server error", write(http.StatusInternalServerError, `{}`), problem.Unreachable},
		{"overloaded", write(http.StatusTooManyRequests, `{}`), problem.Unreachable},
		{"forbidden", write(http.StatusForbidden, `{"errors":[{"code":"FORBIDDEN"}]}`), problem.Denied},
		{"an old server", write(http.StatusNotFound, `{"errors":[{"code":"NOT_FOUND"}]}`), problem.NotFound},
		{"a name that is taken", write(http.StatusConflict, `{"errors":[{"code":"CONFLICT"}]}`), problem.Busy},
		{"not taken", write(http.StatusBadRequest, `{"errors":[{"code":"BAD_REQUEST"}]}`), problem.Unreachable},
		{"a redirect", write(http.StatusFound, ``), problem.Unreachable},
		{"nothing", write(http.StatusCreated, ``), problem.Unreachable},
		{"no secret", write(http.StatusCreated, `{"id":1,"name":"robot$acme+regkeeper-1-2-3"}`), problem.Unreachable},
		{"another name", write(http.StatusCreated, `{"id":1,"name":"robot$acme+laptop","secret":"hunter2"}`), problem.Unreachable},
		{"another project", write(http.StatusCreated, `{"id":1,"name":"robot$other+regkeeper-1-2-3","secret":"hunter2"}`), problem.Unreachable},
		{"a web page", func(w http.ResponseWriter, _ *http.Request) bool {
			_, _ = w.Write([]byte("<html>hunter2</html>"))
			return true
		}, problem.Unreachable},
		{"a web page, not found", func(w http.ResponseWriter, r *http.Request) bool {
			http.NotFound(w, r)
			return true
		}, problem.Unreachable},
		{"the password in the answer", func(w http.ResponseWriter, r *http.Request) bool {
			_, secret, _ := r.BasicAuth()
			return write(http.StatusUnauthorized, fmt.Sprintf(`{"errors":[{"message":"no %s, header %s"}]}`, secret, r.Header.Get("Authorization")))(w, r)
		}, problem.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := start(t, fakeharbor.Config{Before: test.answer})
			source := w.source(t, password)
			login, err := source.Issue(t.Context(), credential.Request{Name: "regkeeper-1-2-3"})
			if err == nil {
				t.Fatalf("the answer made a login: %+v", login)
			}
			if got := problem.KindOf(err); got != test.want || problem.HintOf(err) == "" {
				t.Errorf("error is of kind %q with hint %q, want %q: %v", got, problem.HintOf(err), test.want, err)
			}
			basic := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), basic) {
				t.Errorf("the error holds a secret: %v", err)
			}
			// What cannot be looked up is not taken for gone.
			if err := source.Revoke(t.Context(), "regkeeper-1-2-3"); err == nil {
				t.Error("revoked by that answer")
			}
		})
	}
}
