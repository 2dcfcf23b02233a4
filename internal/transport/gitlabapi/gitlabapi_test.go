package gitlabapi_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	sdk "gitlab.com/gitlab-org/api/client-go/v2"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/transport/gitlabapi"
	"github.com/regkeeper/regkeeper/problem"
)

const token = "glpat-hunter2"

var hints = gitlabapi.Hints{Denied: "denied", Missing: "missing", Invalid: "invalid"}

// ask asks a server that answers as told.
func ask(t *testing.T, answer http.HandlerFunc) error {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	client, err := gitlabapi.New(server.URL, credential.NewSecret(token), http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	_, response, err := client.ProjectVariables.ListVariables("acme/app", nil, sdk.WithContext(t.Context()))
	return client.Explain(response, err, "list variables", hints)
}

func says(status int, kind, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	const json, html = "application/json", "text/html"
	for _, test := range []struct {
		name    string
		answer  http.HandlerFunc
		kind    problem.Kind
		refused bool
		status  int
		text    string
	}{
		{"unauthorized", says(401, json, `{"message":"401 Unauthorized"}`), problem.Denied, true, 401, "401 Unauthorized"},
		{"forbidden", says(403, json, `{"message":"403 Forbidden"}`), problem.Denied, true, 403, "403 Forbidden"},
		{"missing", says(404, json, `{"message":"404 Project Not Found"}`), problem.NotFound, false, 404, ""},
		{"another server's 404", says(404, html, "nothing here"), problem.Unreachable, false, 404, ""},
		{"invalid", says(400, json, `{"message":{"value":["is invalid"]}}`), problem.Config, false, 400, "is invalid"},
		{"conflict", says(409, json, `{"message":"multiple variables"}`), problem.Config, false, 409, "multiple variables"},
		{"another server's 400", says(400, html, "<p>hunter2</p>"), problem.Unreachable, false, 400, ""},
		{"too many", says(429, html, "Retry later"), problem.Unreachable, false, 429, ""},
		{"broken", says(502, html, "<html>hunter2</html>"), problem.Unreachable, false, 502, ""},
		{"a web page", says(200, html, "<html>hunter2</html>"), problem.Unreachable, false, 0, "cannot be read"},
		{"the token", func(w http.ResponseWriter, r *http.Request) {
			says(401, json, fmt.Sprintf(`{"message":"who is %s\nhere"}`, r.Header.Get("PRIVATE-TOKEN")))(w, r)
		}, problem.Denied, true, 401, "who is [redacted] here"},
		{"a long message", says(400, json, `{"message":"`+strings.Repeat("long ", 500)+`"}`), problem.Config, false, 400, "long …"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := ask(t, test.answer)
			if problem.KindOf(err) != test.kind || errors.Is(err, credential.ErrRefused) != test.refused || gitlabapi.Status(err) != test.status {
				t.Errorf("kind %q, refused %t, status %d: %v", problem.KindOf(err), errors.Is(err, credential.ErrRefused), gitlabapi.Status(err), err)
			}
			if problem.HintOf(err) == "" || !strings.Contains(err.Error(), test.text) || len(err.Error()) > 600 {
				t.Errorf("text %q, hint %q", err, problem.HintOf(err))
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				if strings.Contains(fmt.Sprintf("%v %+v %#v", e, e, e), "hunter2") {
					t.Errorf("the error holds a secret: %#v", e)
				}
			}
		})
	}
	if err := ask(t, says(200, "application/json", "[]")); err != nil {
		t.Errorf("a good answer: %v", err)
	}
}

// TestOnce sees that requests are sent once, whatever a server says of its limits.
func TestOnce(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	_ = ask(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.Header().Set("RateLimit-Limit", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	if asked.Load() != 1 {
		t.Errorf("asked %d times", asked.Load())
	}
}

// TestRedirect sees that the token goes nowhere else.
func TestRedirect(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a redirect was followed") }))
	t.Cleanup(elsewhere.Close)
	err := ask(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, http.StatusFound) })
	if problem.KindOf(err) != problem.Unreachable {
		t.Errorf("a redirect: %v", err)
	}
}

// TestOddLinks sees that a header that the library cannot read breaks nothing.
func TestOddLinks(t *testing.T) {
	t.Parallel()
	for _, link := range []string{"<x>; rel", "<x>;", ";", ";;", "<a>; rel=next, <b>; x", "<y>; rel=\"next\"; x", ",", "<a;b>; rel=next"} {
		err := ask(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Link", link)
			says(200, "application/json", "[]")(w, r)
		})
		if err != nil {
			t.Errorf("link %q: %v", link, err)
		}
	}
}

func TestDown(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	client, err := gitlabapi.New(server.URL, credential.NewSecret(token), http.DefaultTransport)
	if err != nil {
		t.Fatal(err)
	}
	list := func(ctx context.Context) error {
		_, response, err := client.ProjectVariables.ListVariables("acme/app", nil, sdk.WithContext(ctx))
		return client.Explain(response, err, "list variables", hints)
	}
	if err := list(t.Context()); problem.KindOf(err) != problem.Unreachable || errors.Is(err, credential.ErrRefused) {
		t.Errorf("a server that is down: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := list(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that ended: %v", err)
	}
}

func TestBadURL(t *testing.T) {
	t.Parallel()
	_, err := gitlabapi.New("http://bot:hunter2@[::1", credential.NewSecret(token), http.DefaultTransport)
	if problem.KindOf(err) != problem.Config || strings.Contains(fmt.Sprint(err), "hunter2") {
		t.Errorf("a bad url: %v", err)
	}
}
