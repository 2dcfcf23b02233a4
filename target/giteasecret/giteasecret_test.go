package giteasecret_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitea"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/giteasecret"
	"github.com/regkeeper/regkeeper/target/targettest"
)

const (
	user     = "ci-bot"
	password = "hunter2-of-the-bot"
	name     = "DOCKER_AUTH_CONFIG"
	noteName = "REGKEEPER_DOCKER_AUTH_CONFIG"
)

type logins = map[credential.Host]credential.Login

type candidates = map[credential.Host][]credential.Login

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// world is a fake server, and targets of it.
type world struct {
	t            testing.TB
	fake         *fakegitea.Server
	config       giteasecret.Config
	passwordFile string

	mu sync.Mutex
	// refuse has requests that contain it fail, once there is something in it;
	// after is called for each request.
	refuse string
	after  func(request string)
	now    time.Time
}

func newWorld(t testing.TB, changes ...func(*fakegitea.Config, *giteasecret.Config)) *world {
	t.Helper()
	w := &world{t: t, passwordFile: filepath.Join(t.TempDir(), "password"), now: time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)}
	fake := fakegitea.Config{
		Username: user, Password: password, Repositories: []string{"acme/app", "acme/web"}, Organizations: []string{"acme"},
		Now: func() time.Time { w.now = w.now.Add(time.Minute); return w.now }, Before: w.before,
	}
	w.config = giteasecret.Config{
		User: user, Password: secretref.Ref{File: w.passwordFile}, Repositories: []string{"acme/app"}, Name: name,
		Transport: transport.New(transport.Config{Base: http.DefaultTransport}),
	}
	for _, change := range changes {
		change(&fake, &w.config)
	}
	w.fake = fakegitea.New(fake)
	server := httptest.NewServer(w.fake)
	t.Cleanup(server.Close)
	w.config.URL = server.URL
	w.password(password)
	return w
}

func (w *world) before(answer http.ResponseWriter, r *http.Request) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	request := r.Method + " " + r.URL.Path
	if w.after != nil {
		defer w.after(request)
	}
	if w.refuse != "" && strings.Contains(request, w.refuse) {
		answer.WriteHeader(http.StatusInternalServerError)
		return true
	}
	return false
}

func (w *world) password(text string) {
	w.t.Helper()
	w.fake.SetPassword(text)
	must(w.t, os.WriteFile(w.passwordFile, []byte(text), 0o600))
}

func (w *world) target() *giteasecret.Target { return giteasecret.New(w.config) }

const at credential.Place = "repos/acme/app/secrets/DOCKER_AUTH_CONFIG"

// secret is what the secret holds.
func (w *world) secret() map[string]string {
	w.t.Helper()
	text, ok := w.fake.Secret("repos/acme/app", name)
	if !ok {
		return nil
	}
	doc, err := dockerconfig.Parse([]byte(text))
	must(w.t, err)
	held := map[string]string{}
	for host, login := range doc.Logins() {
		held[host] = login.Username + ":" + login.Secret.Reveal()
	}
	return held
}

// recognizes wants a target to recognize logins.
func (w *world) recognizes(target credential.Recognizer, place credential.Place, asked candidates, want logins, unknown ...credential.Host) {
	w.t.Helper()
	held, got, err := target.Recognize(w.t.Context(), place, asked)
	must(w.t, err)
	plain := func(l logins) map[string]string {
		m := map[string]string{}
		for host, login := range l {
			m[string(host)] = login.Username + ":" + login.Secret.Reveal()
		}
		return m
	}
	if diff := cmp.Diff(plain(want), plain(held)); diff != "" {
		w.t.Errorf("held (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(append([]credential.Host{}, unknown...), append([]credential.Host{}, got...)); diff != "" {
		w.t.Errorf("unknown (-want +got):\n%s", diff)
	}
}

func failsAs(t testing.TB, err error, kind problem.Kind, text, hint string) {
	t.Helper()
	if problem.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), text) || !strings.Contains(problem.HintOf(err), hint) {
		t.Errorf("it fails with kind %s: %v\nhint: %s\nwant kind %s: %s\nhint: %s", problem.KindOf(err), err, problem.HintOf(err), kind, text, hint)
	}
}

// strict is the form that docker CLI's reader of DOCKER_AUTH_CONFIG takes
// (cli/config/configfile): "auths" with "auth", and no other member.
func strict(content []byte) error {
	var form struct {
		Auths map[string]struct {
			Auth string `json:"auth"`
		} `json:"auths"`
	}
	decoder := json.NewDecoder(strings.NewReader(string(content)))
	decoder.DisallowUnknownFields()
	return decoder.Decode(&form)
}

// TestTargets runs the suite for each shape, each kind of place and servers with
// and without descriptions.
func TestTargets(t *testing.T) {
	t.Parallel()
	document := func(*fakegitea.Config, *giteasecret.Config) {}
	pair := func(_ *fakegitea.Config, c *giteasecret.Config) {
		c.Name, c.Prefix, c.Host = "", "registry", targettest.Host
	}
	for name, change := range map[string]func(*fakegitea.Config, *giteasecret.Config){
		"config.json": document, "username and password": pair,
		"config.json without descriptions": func(f *fakegitea.Config, _ *giteasecret.Config) { f.NoDescriptions, f.Page = true, 1 },
		"a token":                          func(_ *fakegitea.Config, c *giteasecret.Config) { c.User = "" },
	} {
		places := func(_ *fakegitea.Config, c *giteasecret.Config) {
			c.Repositories, c.Organizations = []string{"acme/app", "acme/web"}, []string{"acme"}
		}
		one := strings.HasPrefix(name, "username")
		t.Run("secrets/"+name, func(t *testing.T) {
			t.Parallel()
			var w *world
			parts := func(place credential.Place) (where, name string) {
				where, name, _ = strings.Cut(string(place), "/secrets/")
				return where, strings.Replace(name, "*", "PASSWORD", 1)
			}
			h := targettest.Harness{
				One:   one,
				New:   func(t testing.TB) credential.Target { w = newWorld(t, change, places); return w.target() },
				Again: func(testing.TB) credential.Target { return w.target() },
				Raw: func(_ testing.TB, place credential.Place) []byte {
					text, ok := w.fake.Secret(parts(place))
					if !ok {
						return nil
					}
					return []byte(text)
				},
				Whole:  strict,
				Remove: func(_ testing.TB, place credential.Place) { w.fake.DeleteSecret(parts(place)) },
			}
			if one {
				h.Whole = nil
				h.Remove = func(_ testing.TB, place credential.Place) {
					where, name := parts(place)
					w.fake.DeleteSecret(where, name)
					w.fake.DeleteSecret(where, "REGISTRY_USERNAME")
				}
			}
			targettest.Run(t, h)
		})
		t.Run("variables/"+name, func(t *testing.T) {
			t.Parallel()
			var w *world
			parts := func(place credential.Place) (where, name string) {
				where, name, _ = strings.Cut(string(place), "/variables/")
				return where, strings.Replace(name, "*", "PASSWORD", 1)
			}
			own := func(_ *fakegitea.Config, c *giteasecret.Config) { c.Own = true }
			h := targettest.Harness{
				One: one,
				New: func(t testing.TB) credential.Target {
					w = newWorld(t, change, places, own)
					return giteasecret.NewVariables(w.config)
				},
				Again: func(testing.TB) credential.Target { return giteasecret.NewVariables(w.config) },
				Raw: func(_ testing.TB, place credential.Place) []byte {
					text, ok := w.fake.Variable(parts(place))
					if !ok {
						return nil
					}
					return []byte(text)
				},
				Whole: strict,
				Put: func(t testing.TB, place credential.Place, host credential.Host, l credential.Login) {
					where, name := parts(place)
					text, _ := w.fake.Variable(where, name)
					doc, err := dockerconfig.Parse([]byte(text))
					must(t, err)
					doc.Set(host, l)
					w.fake.SetVariable(where, name, string(doc.Bytes()))
				},
				Remove: func(_ testing.TB, place credential.Place) { w.fake.DeleteVariable(parts(place)) },
			}
			if one {
				h.Whole, h.Put = nil, nil
			}
			targettest.Run(t, h)
		})
	}
}

// TestNothingIsTold: the note tells nobody a login, and not whether two places
// hold the same.
func TestNothingIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(_ *fakegitea.Config, c *giteasecret.Config) { c.Repositories = []string{"acme/app", "acme/web"} })
	target := w.target()
	for _, where := range []string{"acme/app", "acme/web"} {
		must(t, target.Deliver(t.Context(), credential.Place("repos/"+where+"/secrets/"+name), logins{"h": login("some-user", "s3cr3t")}))
	}
	one, ok := w.fake.Variable("repos/acme/app", noteName)
	other, _ := w.fake.Variable("repos/acme/web", noteName)
	if !ok || strings.Contains(one, "s3cr3t") || strings.Contains(one, "some-user") || strings.Contains(one, password) {
		t.Errorf("the note is %s", one)
	}
	hash := func(text string) string {
		var n struct{ Logins map[string][]string }
		must(t, json.Unmarshal([]byte(text), &n))
		return n.Logins["h"][0]
	}
	if len(hash(one)) != 64 || hash(one) == hash(other) {
		t.Errorf("the hashes are %s and %s", hash(one), hash(other))
	}
	requests := strings.Join(w.fake.Requests(), "\n")
	if strings.Contains(requests, "s3cr3t") {
		t.Error("a secret is in an address")
	}
	// What is held already takes no write.
	must(t, target.Deliver(t.Context(), at, logins{"h": login("some-user", "s3cr3t")}))
	for _, request := range w.fake.Requests() {
		if !strings.HasPrefix(request, "GET ") {
			t.Errorf("the same again writes: %s", request)
		}
	}
}

// TestForeignSecret: what nobody can read is not lost.
func TestForeignSecret(t *testing.T) {
	t.Parallel()
	for _, note := range []string{"", "no note", `{"regkeeper":2,"logins":{}}`, `{"regkeeper":1}`, "null"} {
		w := newWorld(t)
		w.fake.SetSecret("repos/acme/app", name, `{"auths":{"theirs":{"auth":"eDp5"}}}`, "")
		if note != "" {
			w.fake.SetVariable("repos/acme/app", noteName, note)
		}
		asked := candidates{"h": {login("u", "p")}, "theirs": {login("x", "y")}}
		w.recognizes(w.target(), at, asked, nil, "h", "theirs")
		failsAs(t, w.target().Deliver(t.Context(), at, logins{"h": login("u", "p")}), problem.Refused, "there already", "adopt: true")
		if diff := cmp.Diff(map[string]string{"theirs": "x:y"}, w.secret()); diff != "" {
			t.Errorf("the secret (-want +got):\n%s", diff)
		}
		w.config.Adopt = true
		must(t, w.target().Deliver(t.Context(), at, logins{"h": login("u", "p")}))
		w.recognizes(w.target(), at, asked, logins{"h": login("u", "p")})
		w.config.Adopt = false
		must(t, w.target().Deliver(t.Context(), at, logins{"h": login("u", "p2")}))
	}
}

// TestSomebodyElseWrote: a login that others wrote is not taken for ours, and is
// replaced.
func TestSomebodyElseWrote(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(w *world){
		"through the API": func(w *world) { w.fake.SetSecret("repos/acme/app", name, `{"auths":{}}`, "") },
		"made anew": func(w *world) {
			w.fake.DeleteSecret("repos/acme/app", name)
			w.fake.SetSecret("repos/acme/app", name, `{"auths":{}}`, "")
		},
	} {
		w := newWorld(t, func(f *fakegitea.Config, _ *giteasecret.Config) { f.NoDescriptions = name == "made anew" })
		target := w.target()
		all := logins{"a": login("u", "p"), "b": login("v", "q")}
		must(t, target.Deliver(t.Context(), at, all))
		change(w)
		asked := candidates{"a": {all["a"]}, "b": {all["b"]}}
		w.recognizes(target, at, asked, nil, "a", "b")
		must(t, target.Deliver(t.Context(), at, logins{"a": all["a"]}))
		w.recognizes(w.target(), at, asked, all)
		if diff := cmp.Diff(map[string]string{"a": "u:p", "b": "v:q"}, w.secret()); diff != "" {
			t.Errorf("%s: the secret (-want +got):\n%s", name, diff)
		}
	}
}

// TestNoteWithoutSecret: a note counts for nothing then.
func TestNoteWithoutSecret(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	target := w.target()
	must(t, target.Deliver(t.Context(), at, logins{"a": login("u", "p"), "b": login("v", "q")}))
	w.fake.DeleteSecret("repos/acme/app", name)
	asked := candidates{"a": {login("u", "p")}, "b": {login("v", "q")}}
	w.recognizes(target, at, asked, nil)
	must(t, w.target().Deliver(t.Context(), at, logins{"a": login("u", "p")}))
	w.recognizes(target, at, asked, logins{"a": login("u", "p")})
}

// TestHalfAPair: of two secrets one is gone.
func TestHalfAPair(t *testing.T) {
	t.Parallel()
	const place credential.Place = "repos/acme/app/secrets/REGISTRY_*"
	w := newWorld(t, func(_ *fakegitea.Config, c *giteasecret.Config) { c.Name, c.Prefix, c.Host = "", "registry", "h" })
	target, asked := w.target(), candidates{"h": {login("u", "p")}, "other": {login("u", "p")}}
	must(t, target.Deliver(t.Context(), place, logins{"h": login("u", "p")}))
	w.recognizes(target, place, asked, logins{"h": login("u", "p")})
	w.fake.DeleteSecret("repos/acme/app", "REGISTRY_USERNAME")
	w.recognizes(target, place, asked, nil, "h")
	must(t, target.Deliver(t.Context(), place, logins{"h": login("u", "p")}))
	w.recognizes(target, place, asked, logins{"h": login("u", "p")})
	failsAs(t, target.Deliver(t.Context(), place, logins{"other": login("u", "p")}), problem.Config, "none of other", "name:")
}

// TestPasswordChanges: logins are unknown then, and delivered anew.
func TestPasswordChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	target, all := w.target(), logins{"a": login("u", "p"), "b": login("v", "q")}
	must(t, target.Deliver(t.Context(), at, all))
	w.password("another-password")
	asked := candidates{"a": {all["a"]}, "b": {all["b"]}}
	w.recognizes(target, at, asked, nil, "a", "b")
	must(t, target.Deliver(t.Context(), at, all))
	w.recognizes(w.target(), at, asked, all)
}

// TestUnknownLoginIsNotLost: a login of the secret that nobody knows any more
// stays, unless it is to go on purpose.
func TestUnknownLoginIsNotLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	must(t, w.target().Deliver(t.Context(), at, logins{"a": login("u", "p"), "gone": login("v", "q")}))
	target := w.target()
	w.recognizes(target, at, candidates{"a": {login("u", "p")}}, logins{"a": login("u", "p")})
	failsAs(t, target.Deliver(t.Context(), at, logins{"a": login("u", "p2")}), problem.Refused, "holds a login for gone", "adopt: true")
	if w.secret()["a"] != "u:p" {
		t.Errorf("the secret holds %v", w.secret())
	}
	w.config.Adopt = true
	target = w.target()
	must(t, target.Deliver(t.Context(), at, logins{"a": login("u", "p2")}))
	if diff := cmp.Diff(map[string]string{"a": "u:p2"}, w.secret()); diff != "" {
		t.Errorf("the secret (-want +got):\n%s", diff)
	}
	w.recognizes(target, at, candidates{"a": {login("u", "p2")}, "gone": {login("v", "q")}}, logins{"a": login("u", "p2")})
}

// TestCutOff fails each request of a delivery in turn, and then looks as another
// process does: what is said to be held is held, and the next delivery puts all
// right.
func TestCutOff(t *testing.T) {
	t.Parallel()
	before, after := logins{"a": login("u", "p"), "b": login("v", "q")}, logins{"a": login("u", "p2")}
	for _, start := range []string{"nothing", "ours", "foreign"} {
		for n := 1; ; n++ {
			w := newWorld(t)
			first := w.target()
			switch start {
			case "ours":
				must(t, first.Deliver(t.Context(), at, before))
			case "foreign":
				w.config.Adopt = true
				first = w.target()
				w.fake.SetSecret("repos/acme/app", name, `{"auths":{"a":{"auth":"dTpw"},"b":{"auth":"djpx"}}}`, "")
			}
			requests := 0
			w.after = func(string) {
				if requests++; requests == n-1 {
					w.refuse = "/"
				}
			}
			if n == 1 {
				w.refuse = "/"
			}
			err := first.Deliver(t.Context(), at, after)
			w.mu.Lock()
			w.after, w.refuse = nil, ""
			w.mu.Unlock()
			if err == nil {
				if n < 6 {
					t.Errorf("a delivery takes %d requests", n-1)
				}
				break
			}
			second := w.target()
			asked := candidates{"a": {before["a"], after["a"]}, "b": {before["b"]}}
			held, unknown, err := second.Recognize(t.Context(), at, asked)
			must(t, err)
			truth := w.secret()
			said := map[string]string{}
			for host, login := range held {
				said[string(host)] = login.Username + ":" + login.Secret.Reveal()
			}
			for _, host := range unknown {
				said[string(host)] = truth[string(host)]
			}
			for host, login := range truth {
				if said[host] != login {
					t.Errorf("from %s, cut off before request %d: %s is said to hold %q, but it is %q", start, n, host, said[host], login)
				}
			}
			for host, login := range said {
				if login != "" && truth[host] != login {
					t.Errorf("from %s, cut off before request %d: %q is said to be held for %s, but it is %q", start, n, login, host, truth[host])
				}
			}
			all := logins{"a": after["a"], "b": before["b"]}
			must(t, second.Deliver(t.Context(), at, all))
			w.recognizes(w.target(), at, asked, all)
		}
	}
}

// TestOwn is about the secrets of the account, which the server does not list.
func TestOwn(t *testing.T) {
	t.Parallel()
	const place credential.Place = "user/secrets/DOCKER_AUTH_CONFIG"
	w := newWorld(t, func(_ *fakegitea.Config, c *giteasecret.Config) { c.Repositories, c.Own = nil, true })
	target, asked := w.target(), candidates{"h": {login("u", "p")}}
	w.recognizes(target, place, asked, nil, "h")
	failsAs(t, target.Deliver(t.Context(), place, logins{"h": login("u", "p")}), problem.Refused, "does not tell whether", "adopt: true")
	w.config.Adopt = true
	must(t, w.target().Deliver(t.Context(), place, logins{"h": login("u", "p")}))
	w.config.Adopt = false
	w.recognizes(w.target(), place, asked, logins{"h": login("u", "p")})
	must(t, w.target().Deliver(t.Context(), place, logins{"h": login("u", "p2")}))
	w.recognizes(w.target(), place, asked, nil, "h")
}

func TestServerSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	target := w.target()
	must(t, os.WriteFile(w.passwordFile, []byte("wrong-password"), 0o600))
	_, _, err := target.Recognize(t.Context(), at, candidates{"h": nil})
	failsAs(t, err, problem.Denied, "list secrets of repos/acme/app", "password")
	w.password(password)

	_, err = target.Held(t.Context(), at, nil)
	must(t, err)
	if err := target.Deliver(t.Context(), "repos/acme/other/secrets/X", logins{"h": login("u", "p")}); !errors.Is(err, credential.ErrGone) {
		t.Errorf("a place that is not configured: %v", err)
	}
	w.config.Repositories = []string{"acme/none"}
	err = w.target().Deliver(t.Context(), "repos/acme/none/secrets/DOCKER_AUTH_CONFIG", logins{"h": login("u", "p")})
	failsAs(t, err, problem.NotFound, "repos/acme/none", "may see it")
	if errors.Is(err, credential.ErrGone) {
		t.Error("a repository that the account cannot see is taken for gone")
	}
	w.config.Repositories = []string{"acme/app"}
	failsAs(t, w.target().Deliver(t.Context(), at, logins{"h": login("u", strings.Repeat("x", 60000))}), problem.Config, "data too long", "64 KiB")

	for status, kind := range map[int]problem.Kind{403: problem.Denied, 409: problem.Busy, 500: problem.Unreachable} {
		w := newWorld(t, func(f *fakegitea.Config, _ *giteasecret.Config) {
			f.Before = func(answer http.ResponseWriter, r *http.Request) bool {
				answer.WriteHeader(status)
				_, _ = fmt.Fprintf(answer, `{"message":"no %s"}`, r.Header.Get("Authorization"))
				return true
			}
		})
		err := w.target().Deliver(t.Context(), at, logins{"h": login("u", "p")})
		failsAs(t, err, kind, "list secrets of repos/acme/app", "")
		if strings.Contains(fmt.Sprint(err), "Y2ktYm90") {
			t.Errorf("the error tells the login: %v", err)
		}
	}
	w.config.URL = "http://127.0.0.1:1"
	failsAs(t, w.target().Deliver(t.Context(), at, logins{"h": login("u", "p")}), problem.Unreachable, "127.0.0.1:1", "server is up")
}

// TestHidden sees that where the server says 404 of all, as of a repository that the
// account may not see, nothing is said of what is held.
func TestHidden(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		where func(*giteasecret.Config)
		path  string
	}{
		{"repository", func(c *giteasecret.Config) { c.Repositories = []string{"acme/none"} }, "repos/acme/none"},
		{"organisation", func(c *giteasecret.Config) { c.Repositories, c.Organizations = nil, []string{"none"} }, "orgs/none"},
		{"account", func(c *giteasecret.Config) { c.Repositories, c.Own = nil, true }, "user"},
	} {
		w := newWorld(t, func(f *fakegitea.Config, config *giteasecret.Config) {
			c.where(config)
			if c.path == "user" {
				f.Before = func(answer http.ResponseWriter, r *http.Request) bool { http.NotFound(answer, r); return true }
			}
		})
		held, err := giteasecret.NewVariables(w.config).Held(t.Context(), credential.Place(c.path+"/variables/"+name), []credential.Host{"h"})
		if err == nil {
			t.Errorf("%s: the variable is said to hold %d logins", c.name, len(held))
		}
		failsAs(t, err, problem.NotFound, "read the variable "+name+" of "+c.path, "may see it")
		_, _, err = w.target().Recognize(t.Context(), credential.Place(c.path+"/secrets/"+name), candidates{"h": nil})
		failsAs(t, err, problem.NotFound, " of "+c.path, "may see it")
	}
	// What is only not there yet holds nothing.
	w := newWorld(t)
	held, err := giteasecret.NewVariables(w.config).Held(t.Context(), "repos/acme/app/variables/"+name, []credential.Host{"h"})
	if err != nil || len(held) > 0 {
		t.Errorf("without a variable: %d, %v", len(held), err)
	}
}

// TestRedirect sees that no login is delivered to where the server redirects.
func TestRedirect(t *testing.T) {
	t.Parallel()
	var came atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		came.Add(1)
		w.WriteHeader(http.StatusNoContent)
	}))
	defer other.Close()
	for _, of := range []string{"/actions/secrets/", "/actions/variables/"} {
		w := newWorld(t, func(f *fakegitea.Config, _ *giteasecret.Config) {
			f.Before = func(answer http.ResponseWriter, r *http.Request) bool {
				if r.Method == http.MethodGet || !strings.Contains(r.URL.Path, of) {
					return false
				}
				http.Redirect(answer, r, other.URL+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
		})
		err := w.target().Deliver(t.Context(), at, logins{"h": login("u", "hunter2-of-h")})
		failsAs(t, err, problem.Unreachable, "redirects to "+other.URL, "url")
		err = giteasecret.NewVariables(w.config).Deliver(t.Context(), "repos/acme/app/variables/"+name, logins{"h": login("u", "p")})
		if redirected := strings.Contains(of, "variables"); redirected != (err != nil) {
			t.Errorf("variables, redirected %v: %v", redirected, err)
		}
	}
	if n := came.Load(); n > 0 {
		t.Errorf("%d requests came to the other host", n)
	}
}

// TestPageIsIgnored sees that a list without an end is an error.
func TestPageIsIgnored(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	w := newWorld(t, func(f *fakegitea.Config, _ *giteasecret.Config) {
		f.Before = func(answer http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, "/actions/secrets") {
				return false
			}
			page := `[{"name":"ONE"},{"name":"TWO"}]`
			if asked.Add(1) > 20 {
				page = "[]"
			}
			_, _ = fmt.Fprint(answer, page)
			return true
		}
	})
	_, _, err := w.target().Recognize(t.Context(), at, candidates{"h": nil})
	failsAs(t, err, problem.Unreachable, "goes in circles", "page")
	if n := asked.Load(); n != 2 {
		t.Errorf("it was asked for %d pages", n)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*giteasecret.Config){
		"neither a name nor a prefix": func(c *giteasecret.Config) { c.Name = "" },
		"both":                        func(c *giteasecret.Config) { c.Prefix, c.Host = "X", "h" },
		"prefix without a host":       func(c *giteasecret.Config) { c.Name, c.Prefix = "", "X" },
		"no place":                    func(c *giteasecret.Config) { c.Repositories = nil },
		"the server's name":           func(c *giteasecret.Config) { c.Name = "gitea_login" },
		"the other server's name":     func(c *giteasecret.Config) { c.Name = "GITHUB_X" },
		"CI":                          func(c *giteasecret.Config) { c.Name = "ci" },
		"a path":                      func(c *giteasecret.Config) { c.Name = "../x" },
		"a repository without owner":  func(c *giteasecret.Config) { c.Repositories = []string{"app"} },
		"a path in a repository":      func(c *giteasecret.Config) { c.Repositories = []string{"a/b/c"} },
		"dots":                        func(c *giteasecret.Config) { c.Repositories = []string{"a/.."} },
		"an odd organisation":         func(c *giteasecret.Config) { c.Organizations = []string{"a/b"} },
		"a repository twice":          func(c *giteasecret.Config) { c.Repositories = []string{"acme/app", "Acme/App"} },
		"every registry's login":      func(c *giteasecret.Config) { c.Name, c.Prefix, c.Host = "", "docker", "h" },
		"half of it":                  func(c *giteasecret.Config) { c.Name, c.AnyRegistry = "DOCKER_PASSWORD", true },
	} {
		w := newWorld(t, func(_ *fakegitea.Config, c *giteasecret.Config) { change(c) })
		_, err := w.target().Places(t.Context())
		if problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if err := w.target().Deliver(t.Context(), at, logins{"h": login("u", "p")}); err == nil {
			t.Errorf("%s is delivered to", name)
		}
		if asked := w.fake.Requests(); len(asked) > 0 {
			t.Errorf("%s: the server was asked %v", name, asked)
		}
	}
	w := newWorld(t, func(_ *fakegitea.Config, c *giteasecret.Config) {
		c.Name, c.Prefix, c.Host, c.AnyRegistry = "", "docker", "h", true
	})
	places, err := w.target().Places(t.Context())
	must(t, err)
	if diff := cmp.Diff([]credential.Place{"repos/acme/app/secrets/DOCKER_*"}, places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
}

// FuzzNote has somebody write anything into the note: nothing is said to be held
// that nobody delivered, and nothing fails.
func FuzzNote(f *testing.F) {
	for _, text := range []string{
		"", "null", "[]", `{"regkeeper":1,"logins":{"h":[]}}`, `{"regkeeper":1,"logins":{"h":[""]}}`, `{"regkeeper":1,"logins":{"h":null}}`,
		`{"regkeeper":1,"logins":{"h":["x","y"]},"listed":{"DOCKER_AUTH_CONFIG":"x"},"open":true}`,
	} {
		f.Add(text)
	}
	w := newWorld(f)
	w.fake.SetSecret("repos/acme/app", name, `{"auths":{}}`, "")
	target := w.target()
	f.Fuzz(func(t *testing.T, text string) {
		w.fake.SetVariable("repos/acme/app", noteName, text)
		held, unknown, err := target.Recognize(t.Context(), at, candidates{"h": {login("u", "p"), login("", "")}})
		if err != nil || len(held) > 0 || len(unknown) > 1 {
			t.Errorf("%q: held %d, unknown %v, %v", text, len(held), unknown, err)
		}
	})
}
