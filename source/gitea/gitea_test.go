package gitea_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/source/gitea"
	"github.com/regkeeper/regkeeper/source/sourcetest"
)

const (
	user     = "ci-bot"
	password = "hunter2-of-the-bot"
)

// fakeGitea is a fake of the part of Gitea's API that tokens are minted by,
// written from the API's published description: POST, GET and DELETE of
// /api/v1/users/{username}/tokens.
type fakeGitea struct {
	// answer, if it is set, answers in place of the API.
	answer http.HandlerFunc

	mu     sync.Mutex
	serial int64
	tokens []giteaToken
	asked  []string
}

type giteaToken struct {
	ID      int64     `json:"id"`
	Name    string    `json:"name"`
	SHA1    string    `json:"sha1"`
	Last    string    `json:"token_last_eight"`
	Scopes  []string  `json:"scopes"`
	Created time.Time `json:"created_at"`
}

// giteaPage is MAX_RESPONSE_ITEMS.
const giteaPage = 50

func (g *fakeGitea) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, r.Method+" "+r.URL.RequestURI())
	if g.answer != nil {
		g.answer(w, r)
		return
	}
	if name, secret, ok := r.BasicAuth(); !ok || name != user || secret != password {
		refuse(w, http.StatusUnauthorized, "invalid username, password or token")
		return
	}
	rest, ok := strings.CutPrefix(r.URL.Path, "/api/v1/users/"+user+"/tokens")
	if !ok {
		refuse(w, http.StatusNotFound, "The target couldn't be found.")
		return
	}
	switch {
	case rest == "" && r.Method == http.MethodPost:
		g.create(w, r)
	case rest == "" && r.Method == http.MethodGet:
		g.list(w, r)
	case rest != "" && r.Method == http.MethodDelete:
		g.remove(w, strings.TrimPrefix(rest, "/"))
	default:
		refuse(w, http.StatusMethodNotAllowed, "no such method")
	}
}

func (g *fakeGitea) create(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Name   string   `json:"name"`
		Scopes []string `json:"scopes"`
	}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Name == "" || len(body.Scopes) == 0 {
		refuse(w, http.StatusBadRequest, "access token must have a name and a scope")
		return
	}
	if slices.ContainsFunc(g.tokens, func(t giteaToken) bool { return t.Name == body.Name }) {
		refuse(w, http.StatusBadRequest, "access token name has been used already")
		return
	}
	answer(w, http.StatusCreated, g.add(body.Name, body.Scopes))
}

// add makes a token. Writing includes reading, and is all that is kept of both.
func (g *fakeGitea) add(name string, scopes []string) giteaToken {
	g.serial++
	scopes = slices.DeleteFunc(slices.Clone(scopes), func(scope string) bool {
		area, read := strings.CutPrefix(scope, "read:")
		return read && slices.Contains(scopes, "write:"+area)
	})
	token := giteaToken{
		ID: g.serial, Name: name, SHA1: fmt.Sprintf("%040x", g.serial+1<<40), Scopes: scopes, Created: time.Now(),
	}
	token.Last = token.SHA1[32:]
	g.tokens = append(g.tokens, token)
	return token
}

func (g *fakeGitea) list(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	if limit <= 0 || limit > giteaPage {
		limit = giteaPage
	}
	begin := min((max(page, 1)-1)*limit, len(g.tokens))
	shown := []giteaToken{}
	for _, token := range g.tokens[begin:min(begin+limit, len(g.tokens))] {
		token.SHA1 = ""
		shown = append(shown, token)
	}
	answer(w, http.StatusOK, shown)
}

func (g *fakeGitea) remove(w http.ResponseWriter, which string) {
	// What parses as a number is an ID, also if a token is called so.
	id, notNumber := strconv.ParseInt(which, 0, 64)
	i := slices.IndexFunc(g.tokens, func(t giteaToken) bool {
		if notNumber == nil {
			return t.ID == id
		}
		return t.Name == which
	})
	if i < 0 {
		refuse(w, http.StatusNotFound, "The target couldn't be found.")
		return
	}
	g.tokens = slices.Delete(g.tokens, i, i+1)
	w.WriteHeader(http.StatusNoContent)
}

func refuse(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]string{"message": text, "url": "https://gitea.example.com/api/swagger"})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// start runs a fake, and makes sources for it.
func start(t *testing.T) (fake *fakeGitea, source func(password string) *gitea.Source, url string) {
	t.Helper()
	fake = &fakeGitea{}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	return fake, func(password string) *gitea.Source { return sourceAt(t, server.URL, password) }, server.URL
}

func sourceAt(t *testing.T, url, password string) *gitea.Source {
	t.Helper()
	name := "GITEA_PASSWORD_" + strconv.Itoa(len(password))
	t.Setenv(name, password)
	return gitea.New(gitea.Config{
		URL: url, User: user, Password: secretref.Ref{Env: name}, Transport: transport.New(transport.Config{}), Now: time.Now,
	})
}

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
		fake, source, _ := start(t)
		gone := httptest.NewServer(http.NotFoundHandler())
		gone.Close()
		return sourcetest.Fixture{
			Source: source(password), Refused: source("hunter2-wrong"), Down: sourceAt(t, gone.URL, password+"-2"),
			Host: "gitea.example.com", Asked: credential.ScopesOf(credential.Pull, credential.Push),
			Many: 2*giteaPage + 1, Remote: true, Secrets: []string{"hunter2"},
			Foreign: func(_ testing.TB, name string) {
				fake.mu.Lock()
				defer fake.mu.Unlock()
				fake.add(name, []string{"write:user"})
			},
			Names: func(testing.TB) (names []string) {
				fake.mu.Lock()
				defer fake.mu.Unlock()
				for _, token := range fake.tokens {
					names = append(names, token.Name)
				}
				return names
			},
			Accepts: func(t testing.TB, login credential.Credential) (credential.Scopes, bool) {
				fake.mu.Lock()
				defer fake.mu.Unlock()
				i := slices.IndexFunc(fake.tokens, func(t giteaToken) bool { return t.SHA1 == login.Secret.Reveal() })
				if i < 0 || login.Username != user {
					return nil, false
				}
				var has credential.Scopes
				for _, scope := range fake.tokens[i].Scopes {
					switch scope {
					case "read:package":
						has = append(has, credential.Pull)
					case "write:package":
						has = append(has, credential.Pull, credential.Push)
					default:
						t.Errorf("the token has the scope %s", scope)
					}
				}
				return has, true
			},
		}
	})
}

// TestNumericNames sees that a token whose ID is our token's name, read as a
// number, is not touched: our names never are one.
func TestNumericNames(t *testing.T) {
	fake, source, _ := start(t)
	mark := credential.MarkOf("instance", "gitea.example.com")
	fake.add("first", []string{"write:user"})
	for _, serial := range []string{"1", "0x1", "20310301t120000-1"} {
		login, err := source(password).Issue(t.Context(), credential.Request{
			Name: mark.Name(serial), Scopes: credential.ScopesOf(credential.Pull),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := source(password).Revoke(t.Context(), login.ID); err != nil {
			t.Fatal(err)
		}
	}
	if len(fake.tokens) != 1 || fake.tokens[0].Name != "first" {
		t.Errorf("left are %v", fake.tokens)
	}
}

// TestOddAnswers sees that what is no answer of Gitea's is an error, and no
// login.
func TestOddAnswers(t *testing.T) {
	page := strings.Repeat("<html>hello</html>", 3)
	for _, test := range []struct {
		name   string
		answer http.HandlerFunc
		want   problem.Kind
	}{
		{"server error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }, problem.Unreachable},
		{"overloaded", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) }, problem.Unreachable},
		{"forbidden", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusForbidden, "no") }, problem.Denied},
		{"no such user", func(w http.ResponseWriter, _ *http.Request) { refuse(w, http.StatusNotFound, "no") }, problem.NotFound},
		{"a web page", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(page)) }, problem.Unreachable},
		{"no secret", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusCreated, giteaToken{ID: 1, Name: "x"})
		}, problem.Unreachable},
		{"another name", func(w http.ResponseWriter, _ *http.Request) {
			answer(w, http.StatusCreated, giteaToken{ID: 1, Name: "laptop", SHA1: "hunter2"})
		}, problem.Unreachable},
		{"the password in the answer", func(w http.ResponseWriter, r *http.Request) {
			_, secret, _ := r.BasicAuth()
			refuse(w, http.StatusUnauthorized, "no user "+user+" with the password "+secret+" and header "+r.Header.Get("Authorization"))
		}, problem.Denied},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake, source, _ := start(t)
			fake.answer = test.answer
			login, err := source(password).Issue(t.Context(), credential.Request{
				Name: "regkeeper-1-2-3", Scopes: credential.ScopesOf(credential.Pull),
			})
			if err == nil {
				t.Fatalf("the answer made a login: %+v", login)
			}
			if got := problem.KindOf(err); got != test.want {
				t.Errorf("error is of kind %q, want %q: %v", got, test.want, err)
			}
			basic := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
			if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), basic) {
				t.Error("the error holds a secret")
			}
		})
	}
}

// TestRedirect sees that no request goes to where the server redirects.
func TestRedirect(t *testing.T) {
	came := 0
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		came++
		w.WriteHeader(http.StatusNoContent)
	}))
	defer other.Close()
	fake, source, _ := start(t)
	fake.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusPermanentRedirect)
	}
	_, issued := source(password).Issue(t.Context(), credential.Request{Name: "regkeeper-1-2-3", Scopes: credential.ScopesOf(credential.Pull)})
	revoked := source(password).Revoke(t.Context(), "regkeeper-1-2-3")
	for _, err := range []error{issued, revoked} {
		if problem.KindOf(err) != problem.Unreachable || !strings.Contains(fmt.Sprint(err), "redirects to "+other.URL) {
			t.Errorf("redirected: %v", err)
		}
	}
	if came > 0 {
		t.Errorf("%d requests came to the other host", came)
	}
}

// TestPageIsIgnored sees that a list without an end is an error, and tells of no
// token twice.
func TestPageIsIgnored(t *testing.T) {
	fake, source, _ := start(t)
	asked := 0
	fake.answer = func(w http.ResponseWriter, _ *http.Request) {
		tokens := []giteaToken{{ID: 1, Name: "regkeeper-a-b-c"}, {ID: 2, Name: "laptop"}}
		if asked++; asked > 20 {
			tokens = []giteaToken{}
		}
		answer(w, http.StatusOK, tokens)
	}
	told := 0
	var failed error
	for _, err := range source(password).Issued(t.Context(), "regkeeper") {
		if failed = err; err == nil {
			told++
		}
	}
	if problem.KindOf(failed) != problem.Unreachable || told != 1 || asked != 2 {
		t.Errorf("%d tokens of %d pages, and %v", told, asked, failed)
	}
}

// TestPasswordIsReadAnew sees that a password changed at its origin is used.
func TestPasswordIsReadAnew(t *testing.T) {
	_, source, url := start(t)
	_ = source
	wrong := "hunter2-wrong"
	name := "GITEA_PASSWORD_CHANGING"
	t.Setenv(name, wrong)
	changing := gitea.New(gitea.Config{
		URL: url, User: user, Password: secretref.Ref{Env: name}, Transport: http.DefaultTransport, Now: time.Now,
	})
	request := credential.Request{Name: "regkeeper-1-2-3", Scopes: credential.ScopesOf(credential.Pull)}
	if _, err := changing.Issue(t.Context(), request); err == nil {
		t.Fatal("a wrong password minted")
	}
	t.Setenv(name, password)
	if _, err := changing.Issue(t.Context(), request); err != nil {
		t.Fatal(err)
	}
}
