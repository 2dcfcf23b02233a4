package gitlab_test

import (
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
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitlab"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/source/gitlab"
	"github.com/regkeeper/regkeeper/source/sourcetest"
)

const (
	project = "acme/sub/app"
	group   = "acme/sub"
	token   = "glpat-hunter2-of-the-api"
	host    = credential.Host("registry.gitlab.example.com")
)

// now is at noon, so that a day's end is not near.
var now = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

// secret is a reference to a secret.
func secret(t testing.TB, text string) secretref.Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return secretref.Ref{File: path}
}

// world is a fake and sources for it.
type world struct {
	fake *fakegitlab.Server
	url  string
	now  time.Time
}

func start(t testing.TB, config fakegitlab.Config) *world {
	t.Helper()
	w := &world{now: now}
	config.Token, config.Now = token, func() time.Time { return w.now }
	config.Projects, config.Groups = []string{"acme/other", project}, []string{"acme", group}
	w.fake = fakegitlab.New(config)
	server := httptest.NewServer(w.fake)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func (w *world) source(t testing.TB, config gitlab.Config) *gitlab.Source {
	t.Helper()
	if config.URL == "" {
		config.URL = w.url
	}
	if (config.Token.File) == "" {
		config.Token = secret(t, token)
	}
	if config.Project == "" && config.Group == "" {
		config.Project = project
	}
	config.Transport, config.Now = transport.New(transport.Config{}), func() time.Time { return w.now }
	return gitlab.New(config)
}

func request(scopes ...credential.Scope) credential.Request {
	return credential.Request{Host: host, Name: credential.MarkOf("i", host).Name("1"), Scopes: credential.ScopesOf(scopes...)}
}

// each runs a test for tokens of each kind, of a project and of a group.
func each(t *testing.T, run func(t *testing.T, config gitlab.Config)) {
	for _, config := range []gitlab.Config{
		{Project: project, Kind: gitlab.DeployToken},
		{Group: group, Kind: gitlab.DeployToken},
		{Project: "2", Kind: gitlab.AccessToken},
		{Group: group, Kind: gitlab.AccessToken},
	} {
		t.Run(fmt.Sprintf("%s of %s%s", config.Kind, config.Project, config.Group), func(t *testing.T) {
			t.Parallel()
			run(t, config)
		})
	}
}

func TestSource(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	each(t, func(t *testing.T, config gitlab.Config) {
		sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
			// Where access tokens must end, none is made that does not.
			w := start(t, fakegitlab.Config{Endless: true})
			refused, down := config, config
			refused.Token, down.URL = secret(t, "glpat-hunter2-wrong"), gone.URL
			kind, path := "projects", project
			if config.Group != "" {
				kind, path = "groups", group
			}
			return sourcetest.Fixture{
				Source: w.source(t, config), Refused: w.source(t, refused), Down: w.source(t, down),
				Host: host, Asked: credential.ScopesOf(credential.Pull, credential.Push), Many: 201, Remote: true, Secrets: []string{"hunter2"},
				Foreign: func(_ testing.TB, name string) { w.fake.AddToken(kind, path, config.Kind == gitlab.DeployToken, name) },
				Names:   func(testing.TB) []string { return w.fake.Tokens() },
				Accepts: func(t testing.TB, login credential.Credential) (credential.Scopes, bool) {
					return w.accepts(t, login, project+"/worker")
				},
			}
		})
	})
}

// accepts tries a login at the registry.
func (w *world) accepts(t testing.TB, login credential.Credential, repository string) (has credential.Scopes, ok bool) {
	t.Helper()
	for _, scope := range w.fake.Scopes(login.Username, login.Secret.Reveal(), repository) {
		switch scope {
		case "read_registry":
			has = append(has, credential.Pull)
		case "write_registry":
			has = append(has, credential.Push)
		default:
			t.Errorf("the token has the scope %s", scope)
		}
	}
	return has, len(has) > 0
}

// TestWhere sees that a token is good at its place alone.
func TestWhere(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, config gitlab.Config) {
		w := start(t, fakegitlab.Config{})
		login, err := w.source(t, config).Issue(t.Context(), request(credential.Pull))
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := w.accepts(t, login, project+"/worker"); !ok {
			t.Error("the login is not accepted at its place")
		}
		if _, ok := w.accepts(t, login, "acme/other"); ok {
			t.Error("the login is accepted at another place")
		}
	})
}

// TestExpiry sees that a token lives at least as long as it was asked to, and that
// the credential says what the server does.
func TestExpiry(t *testing.T) {
	t.Parallel()
	midnight := now.Truncate(24 * time.Hour)
	for _, test := range []struct {
		kind  gitlab.Kind
		asked time.Time
		want  time.Time
	}{
		{gitlab.DeployToken, time.Time{}, time.Time{}},
		{gitlab.DeployToken, now.Add(time.Hour), now.Add(time.Hour)},
		{gitlab.DeployToken, now.Add(time.Hour + time.Nanosecond), now.Add(time.Hour + time.Second)},
		{gitlab.DeployToken, now.AddDate(5, 0, 0), now.AddDate(5, 0, 0)},
		{gitlab.AccessToken, time.Time{}, midnight.AddDate(0, 0, 365)},
		{gitlab.AccessToken, now.Add(time.Second), midnight.AddDate(0, 0, 1)},
		{gitlab.AccessToken, midnight.AddDate(0, 0, 30), midnight.AddDate(0, 0, 30)},
		{gitlab.AccessToken, midnight.AddDate(0, 0, 30).Add(1), midnight.AddDate(0, 0, 31)},
		{gitlab.AccessToken, now.AddDate(0, 0, 30).In(time.FixedZone("", 14*3600)), midnight.AddDate(0, 0, 31)},
		{gitlab.AccessToken, midnight.AddDate(0, 0, 364), midnight.AddDate(0, 0, 364)},
		{gitlab.AccessToken, midnight.AddDate(0, 0, 365), midnight.AddDate(0, 0, 364)},
		{gitlab.AccessToken, now.AddDate(5, 0, 0), midnight.AddDate(0, 0, 364)},
	} {
		t.Run(fmt.Sprintf("%s %s", test.kind, test.asked.Format(time.RFC3339Nano)), func(t *testing.T) {
			t.Parallel()
			w := start(t, fakegitlab.Config{})
			req := request(credential.Pull)
			req.Expires = test.asked
			login, err := w.source(t, gitlab.Config{Kind: test.kind}).Issue(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if !login.Expires.Equal(test.want) {
				t.Errorf("ends at %s, want %s", login.Expires, test.want)
			}
			if test.want.IsZero() {
				return
			}
			for _, at := range []struct {
				time time.Time
				ok   bool
			}{{test.want.Add(-time.Second), true}, {test.want, false}} {
				w.now = at.time
				if _, ok := w.accepts(t, login, project); ok != at.ok {
					t.Errorf("accepted at %s: %t", at.time, ok)
				}
			}
			if list := list(t, w.source(t, gitlab.Config{Kind: test.kind})); len(list) != 0 {
				t.Errorf("listed after its end: %v", list)
			}
		})
	}
}

// TestNeverShorter sees for any time, within the limit, that a token does not end
// before it, nor more than a unit later.
func TestNeverShorter(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{})
	sources := map[gitlab.Kind]*gitlab.Source{}
	for _, kind := range []gitlab.Kind{gitlab.DeployToken, gitlab.AccessToken} {
		sources[kind] = w.source(t, gitlab.Config{Kind: kind})
	}
	rapid.Check(t, func(rt *rapid.T) {
		kind := rapid.SampledFrom([]gitlab.Kind{gitlab.DeployToken, gitlab.AccessToken}).Draw(rt, "kind")
		req := request(credential.Pull)
		req.Expires = now.Add(time.Duration(rapid.Int64Range(1, int64(363*24*time.Hour)).Draw(rt, "life"))).
			In(time.FixedZone("", rapid.IntRange(-12, 14).Draw(rt, "zone")*3600))
		login, err := sources[kind].Issue(t.Context(), req)
		if err != nil {
			rt.Fatal(err)
		}
		unit := map[gitlab.Kind]time.Duration{gitlab.DeployToken: time.Second, gitlab.AccessToken: 24 * time.Hour}[kind]
		if over := login.Expires.Sub(req.Expires); over < 0 || over >= unit {
			rt.Errorf("a %s asked to end at %s ends at %s", kind, req.Expires, login.Expires)
		}
	})
}

// TestServersLimit sees what is said when a server lets tokens live shorter than
// others do.
func TestServersLimit(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{MaxDays: 30})
	req := request(credential.Pull)
	req.Expires = now.AddDate(0, 0, 60)
	_, err := w.source(t, gitlab.Config{Kind: gitlab.AccessToken}).Issue(t.Context(), req)
	if problem.KindOf(err) != problem.Config || !strings.Contains(problem.HintOf(err), "rotate more often") || !strings.Contains(err.Error(), "2031-03-31") {
		t.Errorf("%v, hint %q", err, problem.HintOf(err))
	}
}

// TestLeastRole sees which role an access token is given, and that one without the
// role for its scopes is no surprise of the registry's.
func TestLeastRole(t *testing.T) {
	t.Parallel()
	pull, push := request(credential.Pull), request(credential.Pull, credential.Push)
	for _, test := range []struct {
		name  string
		level int
		owner int
		req   credential.Request
		want  credential.Scopes
		kind  problem.Kind
	}{
		{"pull", 0, 40, pull, pull.Scopes, ""},
		{"push", 0, 40, push, push.Scopes, ""},
		{"given", 40, 40, push, push.Scopes, ""},
		{"above the owner's", 50, 40, pull, nil, problem.Config},
		{"no maintainer", 0, 30, pull, nil, problem.Config},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			w := start(t, fakegitlab.Config{Roles: map[string]int{project: test.owner}})
			login, err := w.source(t, gitlab.Config{Kind: gitlab.AccessToken, AccessLevel: test.level}).Issue(t.Context(), test.req)
			if problem.KindOf(err) != test.kind {
				t.Fatal(err)
			}
			if has, _ := w.accepts(t, login, project); err == nil && !has.Equal(test.want) {
				t.Errorf("the login is good for %s, want %s", has, test.want)
			}
		})
	}
}

// TestDelete sees that a scope that GitLab has not is refused, and nothing made.
func TestDelete(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{})
	_, err := w.source(t, gitlab.Config{}).Issue(t.Context(), request(credential.Pull, credential.Delete))
	if !errors.Is(err, credential.ErrUnsupported) || problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
		t.Errorf("delete: %v", err)
	}
	if asked := w.fake.Requests(); len(asked) > 0 {
		t.Errorf("asked %v", asked)
	}
}

// TestHidden sees that a login at a place that is hidden is not taken for gone.
func TestHidden(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, config gitlab.Config) {
		roles := map[string]int{}
		w := start(t, fakegitlab.Config{Roles: roles})
		source := w.source(t, config)
		login, err := source.Issue(t.Context(), request(credential.Pull))
		if err != nil {
			t.Fatal(err)
		}
		for role, want := range map[int]problem.Kind{0: problem.NotFound, 30: problem.Denied} {
			roles[project], roles[group] = role, role
			err := source.Revoke(t.Context(), login.ID)
			if role == 30 && config.Kind == gitlab.AccessToken {
				want = problem.Config // GitLab says 400 then
			}
			if problem.KindOf(err) != want || problem.HintOf(err) == "" {
				t.Errorf("revoke with role %d: kind %q, want %q: %v", role, problem.KindOf(err), want, err)
			}
			for _, err := range source.Issued(t.Context(), credential.MarkOf("i", host)) {
				if err == nil {
					t.Errorf("listed with role %d", role)
				}
			}
		}
		if _, ok := w.accepts(t, login, project); !ok {
			t.Error("the login is gone")
		}
	})
}

// TestIDs sees that a login is revoked where it was made, by a source that is
// configured anew, and that no other is touched.
func TestIDs(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{})
	var sources []*gitlab.Source
	var logins []credential.Credential
	for _, config := range []gitlab.Config{
		{Project: project}, {Project: "acme/other"}, {Group: group}, {Group: "acme"}, {Group: "1"},
		{Project: project, Kind: gitlab.AccessToken}, {Project: "1", Kind: gitlab.AccessToken}, {Group: group, Kind: gitlab.AccessToken},
	} {
		source := w.source(t, config)
		login, err := source.Issue(t.Context(), request(credential.Pull))
		if err != nil {
			t.Fatal(err)
		}
		sources, logins = append(sources, source), append(logins, login)
	}
	for i, login := range logins {
		if err := sources[(i+3)%len(sources)].Revoke(t.Context(), login.ID); err != nil {
			t.Errorf("revoke %s: %v", login.ID, err)
		}
		if left := len(w.fake.Tokens()); left != len(logins)-i-1 {
			t.Fatalf("%d logins are left after %s", left, login.ID)
		}
	}
	id := strings.ReplaceAll(logins[0].ID, project, "")
	for _, foreign := range []string{
		"", "1", "17", "regkeeper-1-2-3", "deploy-token/projects/1", "deploy-token/users/acme/1", "token/projects/acme/app/1", id,
		"deploy-token/projects/acme/app/01", "deploy-token/projects/acme/app/0", "deploy-token/projects/acme/app/-1", "deploy-token/projects/acme/app/1/",
	} {
		if err := sources[0].Revoke(t.Context(), foreign); problem.KindOf(err) != problem.Config {
			t.Errorf("revoke %q: %v", foreign, err)
		}
	}
}

func list(t *testing.T, source *gitlab.Source) (names []string) {
	t.Helper()
	for issued, err := range source.Issued(t.Context(), credential.MarkOf("i", host)) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, issued.Name)
	}
	return names
}

// TestPaging counts the requests of a listing, by both ways in which GitLab pages.
func TestPaging(t *testing.T) {
	t.Parallel()
	for _, keyset := range []bool{false, true} {
		each(t, func(t *testing.T, config gitlab.Config) {
			w := start(t, fakegitlab.Config{Keyset: keyset})
			kind, path := "projects", project
			if config.Group != "" {
				kind, path = "groups", group
			}
			for n := range 250 {
				w.fake.AddToken(kind, path, config.Kind == gitlab.DeployToken, credential.MarkOf("i", host).Name(fmt.Sprint(n)))
			}
			if names := list(t, w.source(t, config)); len(names) != 250 {
				t.Errorf("%d are listed", len(names))
			}
			if asked := w.fake.Requests(); len(asked) != 3 || !strings.Contains(asked[0], "per_page=100") {
				t.Errorf("asked %v", asked)
			}
		})
	}
}

// TestMadeDuringTheList sees that a login that moves to the next page, since another
// is made meanwhile, is listed once.
func TestMadeDuringTheList(t *testing.T) {
	t.Parallel()
	var w *world
	name := credential.MarkOf("i", host).Name("x")
	w = start(t, fakegitlab.Config{Before: func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("page") == "2" {
			w.fake.AddToken("projects", project, true, name)
		}
		return false
	}})
	for range 150 {
		w.fake.AddToken("projects", project, true, name)
	}
	seen := map[string]bool{}
	for issued, err := range w.source(t, gitlab.Config{}).Issued(t.Context(), credential.MarkOf("i", host)) {
		if err != nil {
			t.Fatal(err)
		}
		if seen[issued.ID] {
			t.Errorf("%s is listed twice", issued.ID)
		}
		seen[issued.ID] = true
	}
	if len(seen) != 150 {
		t.Errorf("%d are listed", len(seen))
	}
}

// TestRevokedOnesAreNotListed sees that what GitLab keeps of revoked tokens is no
// login, also where a server does not know how to leave it out.
func TestRevokedOnesAreNotListed(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{Before: func(_ http.ResponseWriter, r *http.Request) bool {
		query := r.URL.Query()
		query.Del("state")
		r.URL.RawQuery = query.Encode()
		return false
	}})
	source := w.source(t, gitlab.Config{Kind: gitlab.AccessToken})
	login, err := source.Issue(t.Context(), request(credential.Pull))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{login.Name}, list(t, source)); diff != "" {
		t.Errorf("listed (-want +got):\n%s", diff)
	}
	if err := source.Revoke(t.Context(), login.ID); err != nil {
		t.Fatal(err)
	}
	if names := list(t, source); len(names) > 0 {
		t.Errorf("listed after it was revoked: %v", names)
	}
}

// TestOddAnswers sees that what is no answer of GitLab's is an error, and no login.
func TestOddAnswers(t *testing.T) {
	t.Parallel()
	says := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	circle := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "<https://gitlab.example.com/x?"+r.URL.RawQuery+`>; rel="next"`)
		says(200, `[{"id":1,"name":"x","active":true}]`)(w, r)
	}
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		issue  problem.Kind
		list   problem.Kind
	}{
		{"server error", says(500, `{"message":"500 Internal Server Error"}`), problem.Unreachable, problem.Unreachable},
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }, problem.Unreachable, problem.Unreachable},
		{"nothing", says(200, "null"), problem.Unreachable, ""},
		{"nothing in a list", says(200, "[null]"), problem.Unreachable, ""},
		{"no secret", says(201, `{"id":1,"name":"`+request().Name+`","username":"u"}`), problem.Unreachable, problem.Unreachable},
		{"another name", says(201, `{"id":1,"name":"laptop","username":"u","token":"hunter2"}`), problem.Unreachable, problem.Unreachable},
		{"no number", says(201, `{"name":"`+request().Name+`","username":"u","token":"hunter2"}`), problem.Unreachable, problem.Unreachable},
		{"a circle", circle, problem.Unreachable, problem.Unreachable},
		{"the token", func(w http.ResponseWriter, r *http.Request) {
			says(403, `{"message":"no `+r.Header.Get("PRIVATE-TOKEN")+`"}`)(w, r)
		}, problem.Denied, problem.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *testing.T, config gitlab.Config) {
				w := start(t, fakegitlab.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
					test.answer(w, r)
					return true
				}})
				source := w.source(t, config)
				login, err := source.Issue(t.Context(), request(credential.Pull))
				if err == nil {
					t.Fatalf("the answer made a login: %+v", login)
				}
				var listed error
				for _, err := range source.Issued(t.Context(), credential.MarkOf("i", host)) {
					listed = errors.Join(listed, err)
				}
				if problem.KindOf(err) != test.issue || problem.KindOf(listed) != test.list {
					t.Errorf("issue is of kind %q, want %q: %v\nlist is of kind %q, want %q: %v",
						problem.KindOf(err), test.issue, err, problem.KindOf(listed), test.list, listed)
				}
				if text := fmt.Sprint(err, listed); strings.Contains(text, "hunter2") {
					t.Errorf("the error holds a secret: %s", text)
				}
			})
		})
	}
}

// TestBadConfig sees what is said of a configuration that names no one place.
func TestBadConfig(t *testing.T) {
	t.Parallel()
	for _, config := range []gitlab.Config{{Group: "acme", Project: "acme/app"}, {}, {Project: "acme/app", Kind: "password"}} {
		config.Token, config.URL = secret(t, token), "http://gitlab.invalid"
		source := gitlab.New(config)
		_, err := source.Issue(t.Context(), request(credential.Pull))
		for what, err := range map[string]error{"issue": err, "revoke": source.Revoke(t.Context(), "x")} {
			if problem.KindOf(err) != problem.Config {
				t.Errorf("%+v: %s: %v", config, what, err)
			}
		}
	}
}

// TestMadeAgain sees that a request that may have been carried out is not repeated.
func TestMadeAgain(t *testing.T) {
	t.Parallel()
	w := start(t, fakegitlab.Config{Before: func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	}})
	source := gitlab.New(gitlab.Config{
		URL: w.url, Project: project, Token: secret(t, token), Transport: transport.New(transport.Config{Retries: 2}), Now: time.Now,
	})
	if _, err := source.Issue(t.Context(), request(credential.Pull)); problem.KindOf(err) != problem.Unreachable {
		t.Error(err)
	}
	if asked := w.fake.Requests(); !slices.Equal(asked, []string{"POST /api/v4/projects/acme%2Fsub%2Fapp/deploy_tokens"}) {
		t.Errorf("asked %v", asked)
	}
}
