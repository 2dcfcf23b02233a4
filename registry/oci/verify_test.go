package oci_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
	"github.com/regkeeper/regkeeper/registry/oci"
	"github.com/regkeeper/regkeeper/state"
)

const (
	user   = "bot"
	secret = "hunter2-secret"
	bearer = "hunter2-bearer-0123456789abcdef"
)

// front is a fake registry: logins in front of go-containerregistry's.
type front struct {
	// scheme is how it asks for logins: Basic, Bearer, or none.
	scheme string
	// scopes are what the login is good for.
	scopes credential.Scopes
	// before may answer in place of the registry; it returns whether it did.
	before func(http.ResponseWriter, *http.Request) bool
	// root lets anybody in at /v2/ who shows the login, also without scopes.
	gitea bool

	store http.Handler
	url   string
	host  credential.Host

	mu    sync.Mutex
	asked []string
	open  map[string]bool
}

func newFront(t *testing.T, scheme string, scopes ...credential.Scope) *front {
	t.Helper()
	f := &front{
		scheme: scheme, scopes: scopes, open: map[string]bool{},
		store: registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))),
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	f.url, f.host = server.URL, credential.Host(strings.TrimPrefix(server.URL, "http://"))
	return f
}

// push puts an image in behind the front.
func (f *front) push(t *testing.T, image string) string {
	t.Helper()
	server := httptest.NewServer(f.store)
	defer server.Close()
	reference, err := name.ParseReference(strings.TrimPrefix(server.URL, "http://") + "/" + image)
	if err != nil {
		t.Fatal(err)
	}
	content, err := random.Image(16, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, content); err != nil {
		t.Fatal(err)
	}
	return string(f.host) + "/" + image
}

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.Method+" "+r.URL.Path)
	f.mu.Unlock()
	if f.before != nil && f.before(w, r) {
		return
	}
	username, password, basic := r.BasicAuth()
	known := basic && username == user && password == secret
	if r.URL.Path == "/v2/token" && f.scheme == "Bearer" {
		if !known || f.gitea && len(f.scopes) == 0 {
			f.challenge(w)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"token": bearer})
		return
	}
	switch f.scheme {
	case "Bearer":
		known = known && f.gitea || r.Header.Get("Authorization") == "Bearer "+bearer
	case "none":
		known = true
	}
	if !known {
		f.challenge(w)
		return
	}
	if r.URL.Path == "/v2/" {
		w.WriteHeader(http.StatusOK)
		return
	}
	if !f.scopes.Has(needs(r.Method)) {
		if f.gitea {
			w.Header().Set("WWW-Authenticate", `Basic realm="Gitea Package API"`)
			http.Error(w, "reqPackageAccess", http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"errors":[{"code":"DENIED","message":"no right"}]}`)
		return
	}
	f.serve(w, r)
}

// serve lets the store answer, with uploads that are counted and can be
// cancelled, which the store's cannot.
func (f *front) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	path := r.URL.Path
	switch {
	case strings.HasSuffix(path, "/blobs/uploads/") && r.Method == http.MethodPost:
		id := fmt.Sprintf("%s%d", path, len(f.asked))
		f.open[id] = true
		w.Header().Set("Location", id+"?_state=hunter2-state")
		w.WriteHeader(http.StatusAccepted)
	case strings.Contains(path, "/blobs/uploads/") && r.Method == http.MethodDelete:
		if !f.open[path] || r.URL.Query().Get("_state") != "hunter2-state" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		delete(f.open, path)
		w.WriteHeader(http.StatusNoContent)
	default:
		f.store.ServeHTTP(w, r)
	}
}

func needs(method string) credential.Scope {
	switch method {
	case http.MethodGet, http.MethodHead:
		return credential.Pull
	case http.MethodDelete:
		return credential.Delete
	}
	return credential.Push
}

func (f *front) challenge(w http.ResponseWriter) {
	switch f.scheme {
	case "Bearer":
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+f.url+`/v2/token",service="front",scope="*"`)
	default:
		w.Header().Set("WWW-Authenticate", `Basic realm="front"`)
	}
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
}

// since are the requests since the last call.
func (f *front) since() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

func (f *front) login(scopes ...credential.Scope) credential.Credential {
	return credential.Credential{
		ID: "id", Host: f.host, Username: user, Secret: credential.NewSecret(secret), Scopes: credential.ScopesOf(scopes...),
	}
}

var verifier = &oci.Verifier{Transport: http.DefaultTransport}

// want checks an error: its kind, whether it is a refusal, and that it holds no
// secret.
func want(t *testing.T, err error, kind problem.Kind, hint string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if got := problem.KindOf(err); got != kind {
		t.Errorf("error is of kind %q, want %q: %v", got, kind, err)
	}
	if refused := errors.Is(err, credential.ErrRefused); refused != (kind == problem.Denied) {
		t.Errorf("error counts as refusal: %t: %v", refused, err)
	}
	if !strings.Contains(problem.HintOf(err), hint) || problem.HintOf(err) == "" {
		t.Errorf("hint is %q, want %q in it", problem.HintOf(err), hint)
	}
	text := err.Error() + problem.HintOf(err)
	basic := base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))
	if strings.Contains(text, "hunter2") || strings.Contains(text, basic) {
		t.Errorf("the error holds a secret: %s", text)
	}
}

var schemes = []string{"Basic", "Bearer", "none"}

func each(t *testing.T, run func(t *testing.T, scheme string)) {
	for _, scheme := range schemes {
		t.Run(scheme, func(t *testing.T) { run(t, scheme) })
	}
}

var all = credential.ScopesOf(credential.Pull, credential.Push, credential.Delete)

func TestGoodLogin(t *testing.T) {
	each(t, func(t *testing.T, scheme string) {
		f := newFront(t, scheme, all...)
		for _, image := range []string{"", f.push(t, "team/app:1")} {
			f.since()
			proof, err := verifier.Verify(t.Context(), f.login(all...), image)
			if err != nil {
				t.Fatal(err)
			}
			if image != "" && proof.Image != image {
				t.Errorf("the proof is image %q, want %q", proof.Image, image)
			}
			if len(f.open) > 0 {
				t.Errorf("uploads were left behind: %v", f.open)
			}
			asked := f.since()
			if slices.ContainsFunc(asked, func(r string) bool { return strings.HasPrefix(r, "GET") && strings.Contains(r, "/manifests/") }) {
				t.Errorf("a manifest was got, which counts as a download: %v", asked)
			}
			if n := count(asked, "DELETE /v2/", "/blobs/uploads/"); n != 1 {
				t.Errorf("%d uploads were cancelled: %v", n, asked)
			}
			if n := count(asked, "DELETE /v2/", "/manifests/sha256:000000"); n != 1 {
				t.Errorf("%d deletions were tried: %v", n, asked)
			}
		}
	})
}

func count(asked []string, begin, within string) (n int) {
	for _, r := range asked {
		if strings.HasPrefix(r, begin) && strings.Contains(r, within) {
			n++
		}
	}
	return n
}

// TestImageIsFound sees that without a probe an image that can be pulled is
// looked for.
func TestImageIsFound(t *testing.T) {
	f := newFront(t, "Bearer", credential.Pull)
	image := f.push(t, "team/app:1")
	proof, err := verifier.Verify(t.Context(), f.login(credential.Pull), "")
	if err != nil || proof.Image != image {
		t.Errorf("found %q, %v; want %s", proof.Image, err, image)
	}
}

// TestOnlyWhatIsAskedFor sees that a login is tried for its scopes alone.
func TestOnlyWhatIsAskedFor(t *testing.T) {
	for _, scope := range all {
		f := newFront(t, "Basic", scope)
		if scope == credential.Delete || scope == credential.Push {
			// Cancelling an upload is part of pushing.
			f.scopes = credential.ScopesOf(scope, credential.Delete)
		}
		image := f.push(t, "team/app:1")
		if _, err := verifier.Verify(t.Context(), f.login(scope), image); err != nil {
			t.Errorf("%s: %v", scope, err)
		}
	}
}

func TestWrongPassword(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		f := newFront(t, scheme, all...)
		image := f.push(t, "team/app:1")
		good, err := verifier.Verify(t.Context(), f.login(credential.Pull), image)
		if err != nil {
			t.Fatal(err)
		}
		login := f.login(credential.Pull)
		login.Secret = credential.NewSecret("hunter2-wrong")
		for _, probe := range []string{"", image} {
			_, err := verifier.Verify(t.Context(), login, probe)
			want(t, err, problem.Denied, "wrong, revoked or expired")
		}
		want(t, verifier.Check(t.Context(), login, good), problem.Denied, "wrong, revoked or expired")
	}
}

func TestNoRight(t *testing.T) {
	each(t, func(t *testing.T, scheme string) {
		f := newFront(t, scheme)
		image := f.push(t, "team/app:1")
		_, err := verifier.Verify(t.Context(), f.login(credential.Pull), image)
		want(t, err, problem.Denied, "lacks a right among: pull")
		_, err = verifier.Verify(t.Context(), f.login(credential.Push), image)
		want(t, err, problem.Denied, "lacks a right among: push")
		_, err = verifier.Verify(t.Context(), f.login(credential.Delete), image)
		want(t, err, problem.Denied, "lacks a right among: delete")
		if len(f.open) > 0 {
			t.Errorf("uploads were left behind: %v", f.open)
		}
	})
}

func TestProbeMissing(t *testing.T) {
	each(t, func(t *testing.T, scheme string) {
		f := newFront(t, scheme, all...)
		_, err := verifier.Verify(t.Context(), f.login(credential.Pull), string(f.host)+"/team/none:1")
		want(t, err, problem.NotFound, "check the name of the image")
	})
}

// TestProbeElsewhere sees that a login is never shown to another registry.
func TestProbeElsewhere(t *testing.T) {
	f, other := newFront(t, "Basic", all...), newFront(t, "Basic", all...)
	image := other.push(t, "team/app:1")
	other.since()
	_, err := verifier.Verify(t.Context(), f.login(credential.Pull), image)
	want(t, err, problem.Config, "image of this registry")
	if asked := other.since(); len(asked) > 0 {
		t.Errorf("another registry was asked: %v", asked)
	}
}

func TestDown(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	host := credential.Host(strings.TrimPrefix(server.URL, "http://"))
	server.Close()
	login := credential.Credential{Host: host, Username: user, Secret: credential.NewSecret(secret), Scopes: all}
	_, err := verifier.Verify(t.Context(), login, "")
	want(t, err, problem.Unreachable, "check that the registry is up")
	for _, proof := range []credential.Proof{
		{}, {Scheme: "Basic", Realm: "http://" + string(host) + "/v2/"}, {Scheme: "Bearer", Realm: "http://" + string(host) + "/v2/token"},
	} {
		want(t, verifier.Check(t.Context(), login, proof), problem.Unreachable, "check that the registry is up")
	}
}

func TestServerError(t *testing.T) {
	for _, status := range []int{http.StatusInternalServerError, http.StatusTooManyRequests, http.StatusBadGateway} {
		f := newFront(t, "Basic", all...)
		f.before = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(status); return true }
		_, err := verifier.Verify(t.Context(), f.login(credential.Pull), "")
		want(t, err, problem.Unreachable, "look at its log")
	}
}

func TestCancelled(t *testing.T) {
	f := newFront(t, "Basic", all...)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := verifier.Verify(ctx, f.login(credential.Pull), "")
	if !errors.Is(err, context.Canceled) || errors.Is(err, credential.ErrRefused) {
		t.Errorf("got %v", err)
	}
}

// TestCheckIsOneRequest sees what a check costs, with the proof as it was made
// and as the state holds it.
func TestCheckIsOneRequest(t *testing.T) {
	each(t, func(t *testing.T, scheme string) {
		f := newFront(t, scheme, all...)
		f.push(t, "team/app:1")
		login := f.login(all...)
		proof, err := verifier.Verify(t.Context(), login, "")
		if err != nil {
			t.Fatal(err)
		}
		doc := state.New()
		doc.Registry(f.host).Proof = proof
		text, err := state.Encode(doc)
		if err != nil {
			t.Fatal(err)
		}
		stored, err := state.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		path := map[string]string{"Bearer": "GET /v2/token"}[scheme]
		if path == "" {
			path = "GET /v2/"
		}
		for _, p := range []credential.Proof{proof, stored.Registry(f.host).Proof} {
			f.since()
			if err := verifier.Check(t.Context(), login, p); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{path}, f.since()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		}
	})
}

// TestCheckWithoutProof checks a login that was never verified.
func TestCheckWithoutProof(t *testing.T) {
	f := newFront(t, "Bearer", all...)
	// As states of earlier versions hold it.
	for _, proof := range []credential.Proof{{}, {Scheme: "Basic", Realm: "Gitea Package API"}} {
		if err := verifier.Check(t.Context(), f.login(credential.Pull), proof); err != nil {
			t.Errorf("%+v: %v", proof, err)
		}
	}
}

// TestTokenServerMoved sees that a check finds the token server at its new
// place.
func TestTokenServerMoved(t *testing.T) {
	f := newFront(t, "Bearer", all...)
	old := credential.Proof{Scheme: "Bearer", Realm: f.url + "/old/token", Service: "front"}
	f.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/old/token" {
			return false
		}
		http.NotFound(w, r)
		return true
	}
	if err := verifier.Check(t.Context(), f.login(credential.Pull), old); err != nil {
		t.Error(err)
	}
}

// TestGitea has answers as Gitea gives them: the API's root lets in a token
// that has nothing to do with packages, the token server does not.
func TestGitea(t *testing.T) {
	f := newFront(t, "Bearer")
	f.gitea = true
	image := f.push(t, "team/app:1")
	for _, probe := range []string{"", image} {
		_, err := verifier.Verify(t.Context(), f.login(credential.Pull), probe)
		want(t, err, problem.Denied, "wrong, revoked or expired")
	}
	proof := credential.Proof{Scheme: "Bearer", Realm: f.url + "/v2/token", Service: "front"}
	want(t, verifier.Check(t.Context(), f.login(credential.Pull), proof), problem.Denied, "")
	// A token that may read, and is asked to write.
	f.scopes = credential.ScopesOf(credential.Pull)
	_, err := verifier.Verify(t.Context(), f.login(credential.Pull, credential.Push), image)
	want(t, err, problem.Denied, "reqPackageAccess")
	_, err = verifier.Verify(t.Context(), f.login(credential.Pull, credential.Push), "")
	want(t, err, problem.Denied, "write:package")
}

// TestUploadPlaces has registries that answer an upload with odd places.
func TestUploadPlaces(t *testing.T) {
	elsewhere := newFront(t, "none", all...)
	var shown []string
	elsewhere.before = func(w http.ResponseWriter, r *http.Request) bool {
		shown = append(shown, r.Header.Get("Authorization"))
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	for _, test := range []struct {
		place string
		kind  problem.Kind
	}{
		{"http://%zz/?token=hunter2-place", problem.Unreachable},
		{elsewhere.url + "/upload?token=hunter2-place", problem.Unreachable},
		{"http://127.0.0.1:1/upload?token=hunter2-place", problem.Unreachable},
		{"gopher://x/?token=hunter2-place", problem.Unreachable},
		{"", ""},
	} {
		for _, scheme := range []string{"Basic", "Bearer"} {
			f := newFront(t, scheme, all...)
			f.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodPost {
					return false
				}
				w.Header().Set("Location", test.place)
				w.WriteHeader(http.StatusAccepted)
				return true
			}
			_, err := verifier.Verify(t.Context(), f.login(credential.Push), "")
			if test.kind != "" {
				want(t, err, test.kind, "")
			} else if err != nil {
				t.Errorf("%q: %v", test.place, err)
			}
		}
	}
	for _, header := range shown {
		if header != "" {
			t.Errorf("another server was shown %q", header)
		}
	}
}

// TestErrorsHoldNoSecret has registries that repeat what they were sent, and
// that redirect to places with keys in them.
func TestErrorsHoldNoSecret(t *testing.T) {
	for _, scheme := range []string{"Basic", "Bearer"} {
		f := newFront(t, scheme, all...)
		image := f.push(t, "team/app:1")
		for name, before := range map[string]http.HandlerFunc{
			"repeats the login": func(w http.ResponseWriter, r *http.Request) {
				u, p, _ := r.BasicAuth()
				http.Error(w, u+":"+p+" "+r.Header.Get("Authorization"), http.StatusUnauthorized)
			},
			"redirects to nowhere": func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://127.0.0.1:1/x?token=hunter2-redirect", http.StatusTemporaryRedirect)
			},
			"redirects to what is no URL": func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "http://%zz/?token=hunter2-redirect")
				w.WriteHeader(http.StatusTemporaryRedirect)
			},
			"redirects without end": func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, r.URL.Path+"?token=hunter2-redirect", http.StatusTemporaryRedirect)
			},
			"has a login in a redirect": func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://u:hunter2-user@127.0.0.1:1/x", http.StatusTemporaryRedirect)
			},
		} {
			for what, where := range map[string]func(*http.Request) bool{
				"everywhere": func(r *http.Request) bool { return r.Header.Get("Authorization") != "" },
				"manifests":  func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") },
				"uploads":    func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/uploads/") },
				"token":      func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/token") },
			} {
				f.before = func(w http.ResponseWriter, r *http.Request) bool {
					if where(r) {
						before(w, r)
					}
					return where(r)
				}
				_, err := verifier.Verify(t.Context(), f.login(all...), image)
				if err == nil && what != "token" {
					t.Errorf("%s, %s at %s: no error", scheme, name, what)
				}
				if err != nil && strings.Contains(err.Error()+problem.HintOf(err), "hunter2") {
					t.Errorf("%s, %s at %s: the error holds a secret: %v", scheme, name, what, err)
				}
			}
		}
	}
}

// TestPasswordStaysEncrypted has a registry on this machine, where plain HTTP
// is allowed, that speaks HTTPS: the password is never sent in the clear.
func TestPasswordStaysEncrypted(t *testing.T) {
	f := newFront(t, "Basic", all...)
	server := httptest.NewTLSServer(f)
	t.Cleanup(server.Close)
	f.host = credential.Host(strings.TrimPrefix(server.URL, "https://"))
	watch := &watched{inner: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	v := &oci.Verifier{Transport: watch, Insecure: map[credential.Host]bool{f.host: true}}
	proof, err := v.Verify(t.Context(), f.login(all...), "")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Check(t.Context(), f.login(all...), proof); err != nil {
		t.Fatal(err)
	}
	if len(watch.clear) > 0 {
		t.Errorf("sent in the clear with a login: %v", watch.clear)
	}
}

// watched notes the requests that show a login without TLS.
type watched struct {
	inner http.RoundTripper
	mu    sync.Mutex
	clear []string
}

func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" && r.Header.Get("Authorization") != "" {
		w.mu.Lock()
		w.clear = append(w.clear, r.Method+" "+r.URL.Path)
		w.mu.Unlock()
	}
	return w.inner.RoundTrip(r)
}

// TestEmbedded verifies logins at the embedded registry.
func TestEmbedded(t *testing.T) {
	dir := t.TempDir()
	tokens, err := builtin.OpenTokens(filepath.Join(dir, "tokens.json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := builtin.New(builtin.Config{Dir: filepath.Join(dir, "images"), Tokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(embedded)
	t.Cleanup(func() {
		server.Close()
		if err := embedded.Close(); err != nil {
			t.Error(err)
		}
	})
	host := strings.TrimPrefix(server.URL, "http://")
	token := func(scopes credential.Scopes, repositories ...string) credential.Credential {
		made, secret, err := tokens.Create(t.Context(), builtin.TokenRequest{
			User: user, Name: fmt.Sprintf("t-%s-%d", strings.ReplaceAll(scopes.String(), ",", "-"), time.Now().UnixNano()),
			Scopes: scopes, Repositories: repositories,
		})
		if err != nil {
			t.Fatal(err)
		}
		return credential.Credential{ID: made.ID, Host: credential.Host(host), Username: user, Secret: secret, Scopes: scopes}
	}
	admin := token(all, "*")
	image, err := name.ParseReference(host + "/team/app:1")
	if err != nil {
		t.Fatal(err)
	}
	content, err := random.Image(16, 1)
	if err != nil {
		t.Fatal(err)
	}
	login := &authn.Basic{Username: user, Password: admin.Secret.Reveal()}
	if err := remote.Write(image, content, remote.WithAuth(login)); err != nil {
		t.Fatal(err)
	}
	for _, scopes := range []credential.Scopes{
		{credential.Pull}, {credential.Push}, {credential.Delete}, credential.ScopesOf(credential.Pull, credential.Push), all,
	} {
		good := token(scopes, "team/*")
		proof, err := verifier.Verify(t.Context(), good, image.Name())
		if err != nil {
			t.Errorf("%s: %v", scopes, err)
			continue
		}
		if err := verifier.Check(t.Context(), good, proof); err != nil {
			t.Errorf("%s: %v", scopes, err)
		}
		for _, more := range all {
			if scopes.Has(more) {
				continue
			}
			wider := good
			wider.Scopes = append(slices.Clone(scopes), more)
			_, err := verifier.Verify(t.Context(), wider, image.Name())
			want(t, err, problem.Denied, "lacks a right")
		}
		_, err = verifier.Verify(t.Context(), token(scopes, "elsewhere/*"), image.Name())
		want(t, err, problem.Denied, "lacks a right")
		if err := tokens.Revoke(t.Context(), good.ID); err != nil {
			t.Fatal(err)
		}
		want(t, verifier.Check(t.Context(), good, proof), problem.Denied, "revoked")
	}
	// What was tried has changed nothing.
	if _, err := remote.Head(image, remote.WithAuth(login)); err != nil {
		t.Error(err)
	}
	repositories, err := remote.Catalog(t.Context(), image.Context().Registry, remote.WithAuth(login))
	if err != nil || !slices.Equal(repositories, []string{"team/app"}) {
		t.Errorf("repositories are %v, %v", repositories, err)
	}
}
