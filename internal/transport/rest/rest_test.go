package rest_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/internal/transport/rest"
)

func TestDo(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a redirect was followed")
	}))
	t.Cleanup(elsewhere.Close)
	for _, test := range []struct {
		name, kind, body string
		status           int
		wantErr          string
		missing          bool
	}{
		{"good", "application/json; charset=utf-8", `{"a":1}`, 200, "", false},
		{"a kind of JSON", "application/problem+json", `{"a":1}`, 200, "", false},
		{"a page", "text/html", "<html>", 200, "no JSON", false},
		{"broken", "application/json", `{"a":`, 200, "parse answer", false},
		{"missing", "application/json", `{"message":"none"}`, 404, `404 Not Found: {"message":"none"}`, true},
		{"another server's 404", "text/html", "<html>", 404, "answered 404 Not Found", false},
		{"a long error", "application/json", `"` + strings.Repeat("x", 9000) + `"`, 500, "xxx", false},
		{"redirect", "text/html", "", 302, "answered 302 Found", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if got := r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("X-Token"); got != "GET /api/a%252Fb?n=1 secret" {
					t.Errorf("asked for %s", got)
				}
				w.Header().Set("Content-Type", test.kind)
				w.Header().Set("Location", elsewhere.URL)
				w.WriteHeader(test.status)
				_, _ = w.Write([]byte(test.body))
			}))
			t.Cleanup(server.Close)
			var out struct{ A int }
			client := rest.Client{URL: server.URL + "/api", Transport: http.DefaultTransport}
			_, err := client.Do(t.Context(), http.MethodGet, "/a%252Fb", url.Values{"n": {"1"}}, func(r *http.Request) { r.Header.Set("X-Token", "secret") }, &out)
			if test.wantErr == "" {
				if err != nil || out.A != 1 {
					t.Errorf("got %+v, %v", out, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.wantErr) || len(err.Error()) > 1000 {
				t.Errorf("error is %v, want %q in it", err, test.wantErr)
			}
			if rest.Missing(err) != test.missing {
				t.Errorf("missing is %v", !test.missing)
			}
			if told := (*rest.Error)(nil); errors.As(err, &told) != (test.status != 200) || rest.Status(err) != 0 && rest.Status(err) != test.status {
				t.Errorf("status is %d", rest.Status(err))
			}
		})
	}
}
