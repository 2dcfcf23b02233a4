package gitlabvar_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitlab"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/gitlabvar"
	"github.com/regkeeper/regkeeper/target/targettest"
)

const (
	project = "acme/sub/app"
	group   = "acme/sub"
	token   = "glpat-hunter2-of-the-api"
	key     = credential.AuthVariable
	host    = credential.Host("gitea.example.com")

	inProject  = credential.Place("projects/acme/sub/app/variables/DOCKER_AUTH_CONFIG")
	inGroup    = credential.Place("groups/acme/sub/variables/DOCKER_AUTH_CONFIG")
	inInstance = credential.Place("admin/ci/variables/DOCKER_AUTH_CONFIG")
)

type logins = map[credential.Host]credential.Login

// ours is a login for our host; a value with it alone is oursAlone.
var ours = logins{host: {Username: "bot", Secret: credential.NewSecret("hunter2")}}

const oursAlone = `{"auths":{"gitea.example.com":{"auth":"Ym90Omh1bnRlcjI="}}}`

func secret(t testing.TB, text string) secretref.Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return secretref.Ref{File: path}
}

// world is a fake and targets for it.
type world struct {
	fake *fakegitlab.Server
	url  string
}

func start(t testing.TB, config fakegitlab.Config) *world {
	t.Helper()
	config.Token, config.Now, config.Admin = token, time.Now, true
	config.Projects, config.Groups = []string{"acme/other", project}, []string{"acme", group}
	w := &world{fake: fakegitlab.New(config)}
	server := httptest.NewServer(w.fake)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func (w *world) target(t testing.TB, config gitlabvar.Config) *gitlabvar.Target {
	t.Helper()
	config.URL, config.Token, config.Transport = w.url, secret(t, token), transport.New(transport.Config{})
	return gitlabvar.New(config)
}

// one has a target of one variable of the project.
func (w *world) one(t testing.TB) *gitlabvar.Target {
	t.Helper()
	return w.target(t, gitlabvar.Config{Projects: []string{project}})
}

// at is the variable at a place, and whether there is one.
func (w *world) at(place credential.Place) (fakegitlab.Variable, bool) {
	for _, v := range w.fake.Variables() {
		if name := strings.TrimSuffix(v.Kind+"/"+v.Path, "/"); strings.HasPrefix(string(place), name+"/variables/") ||
			v.Kind == "admin" && place == inInstance {
			return v, true
		}
	}
	return fakegitlab.Variable{}, false
}

func (w *world) empty(place credential.Place) fakegitlab.Variable {
	v := fakegitlab.Variable{Key: key, Scope: "*"}
	switch place {
	case inProject:
		v.Kind, v.Path = "projects", project
	case inGroup:
		v.Kind, v.Path = "groups", group
	default:
		v.Kind = "admin"
	}
	return v
}

func TestTarget(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]gitlabvar.Config{
		"masked": {}, "unmasked": {Unmasked: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var w *world
			targettest.Run(t, targettest.Harness{
				New: func(t testing.TB) credential.Target {
					w = start(t, fakegitlab.Config{})
					config.Projects, config.Groups, config.Instance = []string{project}, []string{group}, true
					return w.target(t, config)
				},
				Again: func(t testing.TB) credential.Target { return w.target(t, config) },
				Put: func(t testing.TB, place credential.Place, host credential.Host, login credential.Login) {
					v, ok := w.at(place)
					if !ok {
						v = w.empty(place)
					}
					doc, err := dockerconfig.Parse([]byte(v.Value))
					if err != nil {
						t.Fatal(err)
					}
					doc.Set(host, login)
					v.Value = string(doc.Bytes())
					w.fake.Put(v)
				},
				Raw: func(_ testing.TB, place credential.Place) []byte {
					v, ok := w.at(place)
					if !ok {
						return nil
					}
					return []byte(v.Value)
				},
				Whole: func(content []byte) error { return gitlabvar.Strict(string(content)) },
				Remove: func(_ testing.TB, place credential.Place) {
					v := w.empty(place)
					w.fake.Remove(v.Kind, v.Path, v.Key, v.Scope)
				},
			})
		})
	}
}

// TestMade sees what a variable is that is made, at each level.
func TestMade(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{})
	target := w.target(t, gitlabvar.Config{Projects: []string{project, project}, Groups: []string{group}, Instance: true, Protected: true})
	places, err := target.Places(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]credential.Place{inProject, inGroup, inInstance}, places); diff != "" {
		t.Fatalf("places (-want +got):\n%s", diff)
	}
	var want []fakegitlab.Variable
	for _, place := range places {
		if err := target.Deliver(t.Context(), place, ours); err != nil {
			t.Fatal(err)
		}
		v := w.empty(place)
		v.Value, v.Type, v.Masked, v.Protected, v.Raw, v.Description = oursAlone, "env_var", true, true, true, "Registry logins, kept by regkeeper"
		want = append(want, v)
	}
	if diff := cmp.Diff(want, w.fake.Variables()); diff != "" {
		t.Errorf("variables (-want +got):\n%s", diff)
	}
}

// TestKept sees what becomes of a variable that somebody else made.
func TestKept(t *testing.T) {
	t.Parallel()
	const theirs = `"z.example":{"auth":"dTpw"}`
	for _, test := range []struct {
		name      string
		config    gitlabvar.Config
		was, want fakegitlab.Variable
	}{
		{
			"bare", gitlabvar.Config{},
			fakegitlab.Variable{Value: `{"auths":{` + theirs + `}}`},
			fakegitlab.Variable{Value: `{"auths":{` + theirs + `,` + oursAlone[len(`{"auths":{`):], Masked: true, Raw: true},
		},
		{
			"empty", gitlabvar.Config{},
			fakegitlab.Variable{Value: ""},
			fakegitlab.Variable{Value: oursAlone, Masked: true, Raw: true},
		},
		{
			"an empty object", gitlabvar.Config{},
			fakegitlab.Variable{Value: " {\n} "},
			fakegitlab.Variable{Value: oursAlone, Masked: true, Raw: true},
		},
		{
			"laid out", gitlabvar.Config{},
			fakegitlab.Variable{Value: "{\n  \"auths\": {\n    " + theirs + "\n  }\n}\n"},
			fakegitlab.Variable{Value: `{"auths":{` + theirs + `,` + oursAlone[len(`{"auths":{`):], Masked: true, Raw: true},
		},
		{
			"our host with what is not accepted", gitlabvar.Config{},
			fakegitlab.Variable{Value: `{"auths":{"gitea.example.com":{"username":"u","password":"p","email":"e"}}}`},
			fakegitlab.Variable{Value: oursAlone, Masked: true, Raw: true},
		},
		{
			"stricter than configured", gitlabvar.Config{Unmasked: true},
			fakegitlab.Variable{Value: `{"auths":{}}`, Masked: true, Raw: true, Protected: true, Description: "theirs"},
			fakegitlab.Variable{Value: oursAlone, Masked: true, Raw: true, Protected: true, Description: "theirs"},
		},
		{
			"with what is put in", gitlabvar.Config{Unmasked: true},
			fakegitlab.Variable{Value: `{"auths":{"z.example":{"auth":"$Z_AUTH"}}}`},
			fakegitlab.Variable{Value: `{"auths":{"z.example":{"auth":"$Z_AUTH"},` + oursAlone[len(`{"auths":{`):]},
		},
		{
			"a file", gitlabvar.Config{},
			fakegitlab.Variable{Type: "file", Value: `{"credHelpers":{"z.example":"z"},"auths":{}}`},
			fakegitlab.Variable{Type: "file", Value: `{"credHelpers":{"z.example":"z"},` + oursAlone[1:], Masked: true, Raw: true},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, fakegitlab.Config{})
			for _, v := range []*fakegitlab.Variable{&test.was, &test.want} {
				v.Kind, v.Path, v.Key, v.Scope = "projects", project, key, "*"
				if v.Type == "" {
					v.Type = "env_var"
				}
			}
			w.fake.Put(test.was)
			test.config.Projects = []string{project}
			target := w.target(t, test.config)
			if err := target.Deliver(t.Context(), inProject, ours); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]fakegitlab.Variable{test.want}, w.fake.Variables()); diff != "" {
				t.Errorf("variables (-want +got):\n%s", diff)
			}
			held, err := target.Held(t.Context(), inProject, []credential.Host{host})
			if err != nil || !held[host].Equal(ours[host]) {
				t.Errorf("held: %v", err)
			}
		})
	}
}

// TestRefused sees that a variable is left as it is where a login could not be
// written without breaking it.
func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		was     fakegitlab.Variable
		kind    problem.Kind
		says    string
		held    bool // reading it is no error
		atGroup bool
	}{
		{"a helper for all", fakegitlab.Variable{Value: `{"auths":{},"credsStore":"desktop"}`}, problem.Config, `"credsStore"`, false, false},
		{"helpers", fakegitlab.Variable{Value: `{"credHelpers":{"z.example":"z"}}`}, problem.Config, `"credHelpers"`, false, true},
		{"another key", fakegitlab.Variable{Value: `{"auths":{},"HttpHeaders":{"X":"hunter2"}}`}, problem.Config, `"HttpHeaders"`, false, false},
		{"another field", fakegitlab.Variable{Value: `{"auths":{"z.example":{"auth":"dTpw","email":"hunter2"}}}`}, problem.Config, `entry "z.example" has the key "email"`, false, false},
		{"an entry of nothing", fakegitlab.Variable{Value: `{"auths":{"z.example":{}}}`}, problem.Config, `entry "z.example" has no auth`, false, false},
		{"no base64", fakegitlab.Variable{Value: `{"auths":{"z.example":{"auth":"hunter2!"}}}`}, problem.Config, "no base64", false, false},
		{"no JSON", fakegitlab.Variable{Value: `hunter2`}, problem.Damaged, "broken JSON", false, false},
		{"a list", fakegitlab.Variable{Value: `["hunter2"]`}, problem.Damaged, "no object", false, false},
		{"hidden", fakegitlab.Variable{Value: `{"auths":{}}`, Hidden: true, Masked: true}, problem.Config, "hidden", false, true},
		{"masked, and what is put in", fakegitlab.Variable{Value: `{"auths":{"z.example":{"auth":"$Z"}}}`}, problem.Config, "put together", true, false},
		{"white space in a name", fakegitlab.Variable{Value: `{"auths":{"z example":{"auth":"dTpw"}}}`}, problem.Config, "white space", true, false},
		{"a helper in a file", fakegitlab.Variable{Type: "file", Value: `{"credsStore":"hunter"}`}, problem.Config, "helper", false, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, fakegitlab.Config{})
			config, place := gitlabvar.Config{Projects: []string{project}}, inProject
			if test.atGroup {
				config, place = gitlabvar.Config{Groups: []string{group}}, inGroup
			}
			was := w.empty(place)
			was.Value, was.Type, was.Hidden, was.Masked = test.was.Value, test.was.Type, test.was.Hidden, test.was.Masked
			w.fake.Put(was)
			before := w.fake.Variables()
			target := w.target(t, config)
			err := target.Deliver(t.Context(), place, ours)
			if problem.KindOf(err) != test.kind || problem.HintOf(err) == "" || !strings.Contains(err.Error(), test.says) {
				t.Errorf("kind %q, want %q, with %s: %v; hint %q", problem.KindOf(err), test.kind, test.says, err, problem.HintOf(err))
			}
			_, held := target.Held(t.Context(), place, []credential.Host{host})
			if (held == nil) != test.held {
				t.Errorf("held: %v", held)
			}
			if text := fmt.Sprint(err, held); strings.Contains(text, "hunter2") {
				t.Errorf("the error holds what was found: %s", text)
			}
			if diff := cmp.Diff(before, w.fake.Variables()); diff != "" {
				t.Errorf("variables (-before +after):\n%s", diff)
			}
			for _, request := range w.fake.Requests() {
				if !strings.HasPrefix(request, "GET ") {
					t.Errorf("asked %s", request)
				}
			}
		})
	}
}

// TestHiddenInstance sees that a hidden variable of the server, of which GitLab does
// not say so, is not taken for empty.
func TestHiddenInstance(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{})
	w.fake.Put(fakegitlab.Variable{Kind: "admin", Key: key, Value: oursAlone, Hidden: true, Masked: true})
	err := w.target(t, gitlabvar.Config{Instance: true}).Deliver(t.Context(), inInstance, ours)
	if problem.KindOf(err) != problem.Config || !strings.Contains(err.Error(), "hidden") {
		t.Error(err)
	}
}

// TestInstanceLimit sees that a value that GitLab has no room for is not sent.
func TestInstanceLimit(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{})
	target := w.target(t, gitlabvar.Config{Instance: true, Groups: []string{group}})
	long := logins{host: {Username: "bot", Secret: credential.NewSecret(strings.Repeat("x", 8000))}}
	if err := target.Deliver(t.Context(), inInstance, long); problem.KindOf(err) != problem.Config || !strings.Contains(err.Error(), "10000") {
		t.Error(err)
	}
	for _, request := range w.fake.Requests() {
		if !strings.HasPrefix(request, "GET ") {
			t.Errorf("asked %s", request)
		}
	}
	if err := target.Deliver(t.Context(), inGroup, long); err != nil {
		t.Errorf("a group: %v", err)
	}
}

// TestOldServer sees what is said when a server masks no JSON, and that nothing is
// left there.
func TestOldServer(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{OldMasking: true})
	err := w.one(t).Deliver(t.Context(), inProject, ours)
	if problem.KindOf(err) != problem.Config || !strings.Contains(problem.HintOf(err), "unmasked: true") || !strings.Contains(err.Error(), "is invalid") {
		t.Errorf("%v; hint %q", err, problem.HintOf(err))
	}
	if left := w.fake.Variables(); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if err := w.target(t, gitlabvar.Config{Projects: []string{project}, Unmasked: true}).Deliver(t.Context(), inProject, ours); err != nil {
		t.Errorf("unmasked: %v", err)
	}
}

// TestScopes sees that of several variables of one name the one with the scope is
// changed, and that another is not taken for it.
func TestScopes(t *testing.T) {
	t.Parallel()
	for kind, config := range map[string]gitlabvar.Config{
		"projects/" + project: {Projects: []string{project}}, "groups/" + group: {Groups: []string{group}},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := start(t, fakegitlab.Config{})
			level, path, _ := strings.Cut(kind, "/")
			for _, scope := range []string{"*", "staging"} {
				w.fake.Put(fakegitlab.Variable{Kind: level, Path: path, Key: key, Scope: scope, Value: `{"auths":{"z.example":{"auth":"dTpw"}}}`})
			}
			for _, scope := range []string{"production/*", "staging", "*"} {
				config.Scope = scope
				target := w.target(t, config)
				places, err := target.Places(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				want := credential.Place(kind + "/variables/DOCKER_AUTH_CONFIG")
				if scope != "*" {
					want += credential.Place("?environment_scope=" + scope)
				}
				if len(places) != 1 || places[0] != want {
					t.Fatalf("places are %v, want %s", places, want)
				}
				if err := target.Deliver(t.Context(), want, ours); err != nil {
					t.Fatal(err)
				}
				touched := map[string]bool{}
				for _, v := range w.fake.Variables() {
					touched[v.Scope] = strings.Contains(v.Value, string(host))
				}
				if !touched[scope] {
					t.Errorf("%s: touched are %v", scope, touched)
				}
				if scope == "production/*" && (touched["*"] || touched["staging"]) {
					t.Errorf("%s: touched are %v", scope, touched)
				}
				held, err := target.Held(t.Context(), want, []credential.Host{host})
				if err != nil || !held[host].Equal(ours[host]) {
					t.Errorf("held in %s: %v, %v", scope, held, err)
				}
			}
		})
	}
}

// TestNoScopesOfGroups sees that a login for one environment is never given to all
// by a server that ignores the scope, not even for a moment.
func TestNoScopesOfGroups(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	w := start(t, fakegitlab.Config{Free: true, Before: func(_ http.ResponseWriter, r *http.Request) bool {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		if strings.Contains(string(body), string(host)) {
			sent.Add(1)
		}
		return false
	}})
	target := w.target(t, gitlabvar.Config{Groups: []string{group}, Scope: "production"})
	place := inGroup + "?environment_scope=production"
	for _, there := range []bool{false, true} {
		if there {
			v := w.empty(inGroup)
			v.Value = `{"auths":{}}`
			w.fake.Put(v)
		}
		before := w.fake.Variables()
		if err := target.Deliver(t.Context(), place, ours); problem.KindOf(err) != problem.Config || !strings.Contains(err.Error(), "no environment scopes") {
			t.Error(err)
		}
		if diff := cmp.Diff(before, w.fake.Variables()); diff != "" {
			t.Errorf("variables (-before +after):\n%s", diff)
		}
	}
	if sent.Load() > 0 {
		t.Error("the login was sent")
	}
}

// TestHiddenPlaces sees that what cannot be seen is an error, and neither gone nor
// empty: a login may be there.
func TestHiddenPlaces(t *testing.T) {
	t.Parallel()
	roles := map[string]int{}
	w := start(t, fakegitlab.Config{Roles: roles})
	target := w.target(t, gitlabvar.Config{Projects: []string{project, "acme/none"}, Groups: []string{group}})
	none := credential.Place("projects/acme/none/variables/DOCKER_AUTH_CONFIG")
	for role, want := range map[int]problem.Kind{0: problem.NotFound, 30: problem.Denied} {
		roles[project], roles[group] = role, role
		for _, place := range []credential.Place{inProject, inGroup, none, "projects/acme/gone/variables/X"} {
			want := want
			if place != inProject && place != inGroup {
				want = problem.NotFound
			}
			held, err := target.Held(t.Context(), place, []credential.Host{host})
			for what, err := range map[string]error{"held": err, "deliver": target.Deliver(t.Context(), place, ours)} {
				if problem.KindOf(err) != want || problem.HintOf(err) == "" || errors.Is(err, credential.ErrGone) || errors.Is(err, credential.ErrRefused) != (want == problem.Denied) {
					t.Errorf("%s of %s with role %d: %v", what, place, role, err)
				}
			}
			if len(held) > 0 {
				t.Errorf("%s holds %v", place, held)
			}
		}
	}
	if left := w.fake.Variables(); len(left) > 0 {
		t.Errorf("made %v", left)
	}
}

// TestMeanwhile sees that a variable that comes or goes between reading and writing
// is read anew.
func TestMeanwhile(t *testing.T) {
	t.Parallel()
	var w *world
	var done atomic.Bool
	w = start(t, fakegitlab.Config{Before: func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet || !done.CompareAndSwap(false, true) {
			return false
		}
		v := w.empty(inProject)
		if r.Method == http.MethodPost {
			v.Value = `{"auths":{"z.example":{"auth":"dTpw"}}}`
			w.fake.Put(v)
		} else {
			w.fake.Remove(v.Kind, v.Path, v.Key, v.Scope)
		}
		return false
	}})
	target := w.one(t)
	if err := target.Deliver(t.Context(), inProject, ours); err != nil {
		t.Fatal(err)
	}
	if v, _ := w.at(inProject); !strings.Contains(v.Value, "z.example") || !strings.Contains(v.Value, string(host)) {
		t.Errorf("it came: %s", v.Value)
	}
	done.Store(false)
	if err := target.Deliver(t.Context(), inProject, logins{"b.example": ours[host]}); err != nil {
		t.Fatal(err)
	}
	if v, _ := w.at(inProject); !strings.Contains(v.Value, "b.example") {
		t.Errorf("it went: %s", v.Value)
	}
}

// TestEndless sees that a variable that always comes and goes ends in an error.
func TestEndless(t *testing.T) {
	t.Parallel()
	var w *world
	w = start(t, fakegitlab.Config{Before: func(_ http.ResponseWriter, r *http.Request) bool {
		v := w.empty(inProject)
		if r.Method == http.MethodPut {
			w.fake.Remove(v.Kind, v.Path, v.Key, v.Scope)
		} else {
			v.Value = `{"auths":{}}`
			w.fake.Put(v)
		}
		return false
	}})
	if err := w.one(t).Deliver(t.Context(), inProject, ours); problem.KindOf(err) != problem.Busy {
		t.Error(err)
	}
}

// TestConfirmed sees what a delivery costs, and that it takes no further look.
func TestConfirmed(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{})
	target := w.one(t)
	const path = "/api/v4/projects/acme%2Fsub%2Fapp/variables"
	get := "GET " + path + "/DOCKER_AUTH_CONFIG?filter%5Benvironment_scope%5D=%2A"
	for _, test := range []struct {
		name   string
		logins logins
		want   []string
	}{
		{"nothing", nil, []string{get, "GET " + path + "?per_page=1"}},
		{"made", ours, []string{get, "GET " + path + "?per_page=1", "POST " + path}},
		{"the same", ours, []string{get}},
		{"changed", logins{host: {Username: "bot", Secret: credential.NewSecret("next")}}, []string{get, "PUT " + path + "/DOCKER_AUTH_CONFIG"}},
	} {
		held, err := target.DeliverConfirmed(t.Context(), inProject, test.logins, []credential.Host{host, "none.example"})
		if err != nil {
			t.Fatal(err)
		}
		if len(held) != len(test.logins) || !held[host].Equal(test.logins[host]) {
			t.Errorf("%s: held are %v", test.name, held)
		}
		if diff := cmp.Diff(test.want, w.fake.Requests()); diff != "" {
			t.Errorf("%s: requests (-want +got):\n%s", test.name, diff)
		}
	}
}

// TestOddAnswers sees that what is no answer of GitLab's is an error, and that a
// server that keeps something else is noticed.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	says := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	variable := func(name, value string, masked bool) string {
		text, _ := json.Marshal(map[string]any{"key": name, "value": value, "variable_type": "env_var", "masked": masked, "raw": true, "environment_scope": "*"})
		return string(text)
	}
	written := func(answer http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				says(200, variable(key, `{"auths":{}}`, true))(w, r)
				return
			}
			answer(w, r)
		}
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   problem.Kind
	}{
		{"server error", says(500, `{"message":"500 Internal Server Error"}`), problem.Unreachable},
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>hunter2</html>")) }, problem.Unreachable},
		{"another server's 404", http.NotFound, problem.Unreachable},
		{"nothing", says(200, "null"), problem.Unreachable},
		{"another name", says(200, variable("OTHER", oursAlone, true)), problem.Unreachable},
		{"several", says(409, `{"message":"There are multiple variables with provided parameters. Please use 'filter[environment_scope]'"}`), problem.Config},
		{"the token", func(w http.ResponseWriter, r *http.Request) {
			says(401, `{"message":"no `+r.Header.Get("PRIVATE-TOKEN")+`"}`)(w, r)
		}, problem.Denied},
		{"another value", written(says(200, variable(key, `{"auths":{}}`, true))), problem.Unreachable},
		{"not masked", written(says(200, variable(key, oursAlone, false))), problem.Unreachable},
		{"nothing written", written(says(200, "null")), problem.Unreachable},
		{"forbidden to write", written(says(403, `{"message":"403 Forbidden"}`)), problem.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, fakegitlab.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
				test.answer(w, r)
				return true
			}})
			target := w.target(t, gitlabvar.Config{Projects: []string{project}, Groups: []string{group}, Instance: true})
			for _, place := range []credential.Place{inProject, inGroup, inInstance} {
				err := target.Deliver(t.Context(), place, ours)
				if problem.KindOf(err) != test.want {
					t.Errorf("%s: error of kind %q, want %q: %v", place, problem.KindOf(err), test.want, err)
				}
				if err != nil && strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%s: the error holds a secret: %v", place, err)
				}
			}
		})
	}
}

func TestPlacesThatCannotBe(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]gitlabvar.Config{
		"none":                {},
		"a scope of a server": {Instance: true, Scope: "production"},
		"a name of no kind":   {Projects: []string{project}, Key: "DOCKER-AUTH"},
	} {
		if places, err := gitlabvar.New(config).Places(t.Context()); problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" || len(places) > 0 {
			t.Errorf("%s: %v, %v", name, places, err)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		config gitlabvar.Config
		want   []string
	}{
		{gitlabvar.Config{}, []string{"docker login", "masking hides the value as a whole"}},
		{gitlabvar.Config{Key: key, Protected: true, Unmasked: true}, []string{"docker login", "not masked", "not protected"}},
		{gitlabvar.Config{Key: "OTHER"}, []string{"masking hides"}},
	} {
		got := gitlabvar.Warnings(test.config)
		if len(got) != len(test.want) {
			t.Errorf("%+v: %q", test.config, got)
			continue
		}
		for i, part := range test.want {
			if !strings.Contains(got[i], part) {
				t.Errorf("%q does not tell of %q", got[i], part)
			}
		}
	}
}
