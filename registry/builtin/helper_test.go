package builtin_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

// buffer collects a log.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// fixture is a registry that listens, and its parts.
type fixture struct {
	t        testing.TB
	config   builtin.Config
	registry *builtin.Registry
	tokens   *builtin.TokenStore
	file     string
	clock    *fake.Clock
	log      *buffer
	server   *httptest.Server
	host     string
	logins   int // made
}

// login is a user with a token.
type login struct {
	user   string
	secret credential.Secret
	token  builtin.Token
}

func start(t testing.TB, change ...func(*builtin.Config)) *fixture {
	t.Helper()
	dir := t.TempDir()
	f := &fixture{t: t, file: filepath.Join(dir, "tokens.json"), clock: fake.NewClock(), log: &buffer{}}
	var err error
	if f.tokens, err = builtin.OpenTokens(f.file, f.clock.Now); err != nil {
		t.Fatal(err)
	}
	f.config = builtin.Config{
		Dir:     filepath.Join(dir, "images"),
		Tokens:  f.tokens,
		Service: "test registry",
		Log:     slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Now:     f.clock.Now,
	}
	for _, c := range change {
		c(&f.config)
	}
	f.open()
	return f
}

func (f *fixture) open() {
	f.t.Helper()
	registry, err := builtin.New(f.config)
	if err != nil {
		f.t.Fatal(err)
	}
	server := httptest.NewServer(registry)
	f.registry, f.server, f.host = registry, server, strings.TrimPrefix(server.URL, "http://")
	f.t.Cleanup(func() {
		server.Close()
		if err := registry.Close(); err != nil {
			f.t.Errorf("close registry: %v", err)
		}
	})
}

// restart closes the registry and opens it again on the same folder.
func (f *fixture) restart() {
	f.t.Helper()
	f.server.Close()
	if err := f.registry.Close(); err != nil {
		f.t.Fatal(err)
	}
	f.open()
}

// login makes a token: scopes are written as "pull,push".
func (f *fixture) login(user, scopes string, repositories ...string) login {
	f.t.Helper()
	f.logins++
	req := builtin.TokenRequest{User: user, Name: fmt.Sprintf("token-%d", f.logins), Repositories: repositories}
	for _, scope := range strings.Split(scopes, ",") {
		req.Scopes = append(req.Scopes, credential.Scope(scope))
	}
	token, secret, err := f.tokens.Create(context.Background(), req)
	if err != nil {
		f.t.Fatal(err)
	}
	return login{user: user, secret: secret, token: token}
}

// admin may do everything.
func (f *fixture) admin() login { return f.login("admin", "pull,push,delete", "*") }

// basic is the Authorization header of a login.
func (l login) basic() string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(l.user+":"+l.secret.Reveal()))
}

// response is an answer, read to its end.
type response struct {
	status int
	header http.Header
	body   []byte
}

// request is sent as it stands: the path may be one that net/url would mend.
type request struct {
	method, path, auth string
	header             map[string]string
	body               []byte
}

func (f *fixture) do(r request) response {
	f.t.Helper()
	out, err := f.send(r)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *fixture) send(r request) (response, error) {
	target := r.path
	if strings.HasPrefix(target, "/") {
		target = f.server.URL + target
	}
	req, err := http.NewRequest(r.method, target, bytes.NewReader(r.body))
	if err != nil {
		return response{}, err
	}
	if r.auth != "" {
		req.Header.Set("Authorization", r.auth)
	}
	for key, value := range r.header {
		req.Header.Set(key, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return response{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return response{resp.StatusCode, resp.Header, body}, err
}

// code is the first error code of an answer in the OCI form.
func (r response) code() string {
	var body struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(r.body, &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Code
}

func (r response) want(t testing.TB, status int) response {
	t.Helper()
	if r.status != status {
		t.Errorf("status = %d, want %d; body %s", r.status, status, r.body)
	}
	return r
}

func (r response) wantCode(t testing.TB, status int, code string) response {
	t.Helper()
	if r.status != status || r.code() != code {
		t.Errorf("answer = %d %s, want %d %s; body %s", r.status, r.code(), status, code, r.body)
	}
	if got := r.header.Get("Content-Type"); got != "application/json" {
		t.Errorf("content type of error = %q", got)
	}
	return r
}

// dump is all of an answer but its date.
func (r response) dump() string {
	var b strings.Builder
	header := r.header.Clone()
	header.Del("Date")
	fmt.Fprintf(&b, "%d\n", r.status)
	_ = header.Write(&b)
	return b.String() + "\n" + string(r.body)
}

// bearer asks for a bearer token.
func (f *fixture) bearer(l login, scopes ...string) string {
	f.t.Helper()
	query := ""
	for _, scope := range scopes {
		query += "&scope=" + scope
	}
	got := f.do(request{method: "GET", path: "/v2/token?service=test" + query, auth: l.basic()})
	var answer struct{ Token string }
	if err := json.Unmarshal(got.body, &answer); err != nil || got.status != http.StatusOK {
		f.t.Fatalf("ask for bearer token: %d %s", got.status, got.body)
	}
	return "Bearer " + answer.Token
}

func digestOf(data []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(data)) }

func (f *fixture) pushBlob(auth, repository string, data []byte) string {
	f.t.Helper()
	digest := digestOf(data)
	f.do(request{method: "POST", path: "/v2/" + repository + "/blobs/uploads/?digest=" + digest, auth: auth, body: data}).want(f.t, http.StatusCreated)
	return digest
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// imageOf writes a manifest of a config and a layer.
func imageOf(config, layer, extra string) []byte {
	return fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":2},`+
		`"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":1}]%s}`, manifestType, config, layer, extra)
}

// pushImage pushes an image that differs from others by its seed.
func (f *fixture) pushImage(auth, repository, reference, seed string) (digest string, manifest []byte) {
	f.t.Helper()
	config := f.pushBlob(auth, repository, []byte("{}"))
	layer := f.pushBlob(auth, repository, []byte("layer "+seed))
	manifest = imageOf(config, layer, "")
	if reference == "" {
		reference = digestOf(manifest)
	}
	f.putManifest(auth, repository, reference, manifest).want(f.t, http.StatusCreated)
	return digestOf(manifest), manifest
}

func (f *fixture) putManifest(auth, repository, reference string, manifest []byte) response {
	f.t.Helper()
	return f.do(request{method: "PUT", path: "/v2/" + repository + "/manifests/" + reference, auth: auth,
		header: map[string]string{"Content-Type": manifestType}, body: manifest})
}
