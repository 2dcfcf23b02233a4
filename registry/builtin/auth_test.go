package builtin_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

const noDigest = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// Distribution's docs/spec/auth/token.md, from the challenge to the answer.
func TestTokenProtocol(t *testing.T) {
	f := start(t)
	admin := f.admin()
	f.pushImage(admin.basic(), "team/app", "v1", "one")
	ci := f.login("ci", "pull,push", "team/*")

	challenge := f.do(request{method: "GET", path: "/v2/"}).wantCode(t, 401, "UNAUTHORIZED")
	want := fmt.Sprintf(`Bearer realm="http://%s/v2/token",service="test registry"`, f.host)
	if got := challenge.header.Get("WWW-Authenticate"); got != want {
		t.Errorf("challenge = %s, want %s", got, want)
	}
	if got := challenge.header.Get("Docker-Distribution-API-Version"); got != "registry/2.0" {
		t.Errorf("API version = %q", got)
	}
	challenge = f.do(request{method: "PUT", path: "/v2/team/app/manifests/v2"}).wantCode(t, 401, "UNAUTHORIZED")
	if got := challenge.header.Get("WWW-Authenticate"); got != want+`,scope="repository:team/app:pull,push"` {
		t.Errorf("challenge for pushing = %s", got)
	}

	type answer struct {
		Token       string    `json:"token"`
		AccessToken string    `json:"access_token"`
		ExpiresIn   int       `json:"expires_in"`
		IssuedAt    time.Time `json:"issued_at"`
		Scope       string    `json:"scope"`
	}
	read := func(r response) answer {
		t.Helper()
		var a answer
		if err := json.Unmarshal(r.want(t, 200).body, &a); err != nil {
			t.Fatal(err)
		}
		if a.Token == "" || a.Token != a.AccessToken || a.ExpiresIn != 300 || !a.IssuedAt.Equal(f.clock.Now()) {
			t.Errorf("answer = %+v", a)
		}
		if r.header.Get("Cache-Control") != "no-store" {
			t.Errorf("answer may be kept by a cache")
		}
		return a
	}
	got := read(f.do(request{method: "GET", auth: ci.basic(),
		path: "/v2/token?account=ci&client_id=docker&offline_token=true&service=test&scope=repository:team/app:pull"}))
	f.do(request{method: "GET", path: "/v2/", auth: "Bearer " + got.Token}).want(t, 200)
	f.do(request{method: "GET", path: "/v2/", auth: "bearer " + got.Token}).want(t, 200)
	f.do(request{method: "GET", path: "/v2/team/app/manifests/v1", auth: "Bearer " + got.Token}).want(t, 200)
	short := f.do(request{method: "POST", path: "/v2/team/app/blobs/uploads/", auth: "Bearer " + got.Token}).wantCode(t, 401, "UNAUTHORIZED")
	if got := short.header.Get("WWW-Authenticate"); got != want+`,scope="repository:team/app:pull,push",error="insufficient_scope"` {
		t.Errorf("challenge for more = %s", got)
	}

	form := url.Values{"grant_type": {"password"}, "service": {"test"}, "client_id": {"containerd"}, "username": {"ci"},
		"password": {ci.secret.Reveal()}, "scope": {"repository:team/app:pull,push repository:other:pull"}}
	post := func(form url.Values) response {
		return f.do(request{method: "POST", path: "/v2/token", body: []byte(form.Encode()),
			header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}})
	}
	got = read(post(form))
	if got.Scope != "repository:team/app:pull,push" {
		t.Errorf("granted %q", got.Scope)
	}
	f.do(request{method: "POST", path: "/v2/team/app/blobs/uploads/", auth: "Bearer " + got.Token}).want(t, 202)

	form.Set("password", "wrong")
	post(form).wantCode(t, 401, "UNAUTHORIZED")
	post(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x"}}).wantCode(t, 400, "UNSUPPORTED")
	post(url.Values{"grant_type": {"password"}, "password": {strings.Repeat("x", 1<<17)}}).wantCode(t, 400, "UNSUPPORTED")
	f.do(request{method: "POST", path: "/v2/token?grant_type=password&username=ci&password=" + ci.secret.Reveal()}).wantCode(t, 400, "UNSUPPORTED")
	for _, auth := range []string{"", login{user: "ci"}.basic(), login{user: "ci", secret: credential.NewSecret("rkp_" + strings.Repeat("0", 64))}.basic(), "Basic !", "Bearer " + got.Token} {
		refused := f.do(request{method: "GET", path: "/v2/token", auth: auth}).wantCode(t, 401, "UNAUTHORIZED")
		if got := refused.header.Get("WWW-Authenticate"); got != `Basic realm="test registry"` {
			t.Errorf("challenge of the token endpoint = %s", got)
		}
	}
}

func TestRealm(t *testing.T) {
	f := start(t, func(c *builtin.Config) { c.URL = "https://registry.example.com/" })
	got := f.do(request{method: "GET", path: "/v2/"}).header.Get("WWW-Authenticate")
	if !strings.HasPrefix(got, `Bearer realm="https://registry.example.com/v2/token",`) {
		t.Errorf("challenge = %s", got)
	}
	f = start(t)
	got = f.do(request{method: "GET", path: "/v2/", header: map[string]string{"X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example.com"}}).header.Get("WWW-Authenticate")
	if !strings.HasPrefix(got, `Bearer realm="http://`+f.host+`/v2/token",`) {
		t.Errorf("challenge believes forwarding headers: %s", got)
	}
}

// What is granted is asked for and allowed, by either.
func TestGrants(t *testing.T) {
	f := start(t)
	ci := f.login("ci", "pull,push", "team/*", "base")
	for _, row := range []struct {
		ask  []string
		want string
	}{
		{nil, ""},
		{[]string{"repository:team/app:pull"}, "repository:team/app:pull"},
		{[]string{"repository:team/app:pull,push,delete"}, "repository:team/app:pull,push"},
		{[]string{"repository:team/app:*"}, "repository:team/app:pull,push"},
		{[]string{"repository:team/app:push,push,pull"}, "repository:team/app:pull,push"},
		{[]string{"repository:team:pull"}, ""},
		{[]string{"repository:other:pull"}, ""},
		{[]string{"repository:base:pull repository:team/app:push"}, "repository:base:pull repository:team/app:push"},
		{[]string{"repository:base:pull", "repository:other:pull", "repository:base:push"}, "repository:base:pull,push"},
		{[]string{"registry:catalog:*"}, "registry:catalog:*"},
		{[]string{"registry:catalog:pull", "registry:other:*"}, ""},
		{[]string{"repository:team/*:pull"}, ""},
		{[]string{"repository:*:pull", "repository::pull", "repository:team/app", "repository:team/app:", "team/app:pull", ":", "::", "::::", ",", "repository(plugin):team/app:pull"}, ""},
	} {
		form := url.Values{"grant_type": {"password"}, "username": {"ci"}, "password": {ci.secret.Reveal()}, "scope": row.ask}
		got := f.do(request{method: "POST", path: "/v2/token", body: []byte(form.Encode()),
			header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}}).want(t, 200)
		var answer struct{ Scope string }
		if err := json.Unmarshal(got.body, &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Scope != row.want {
			t.Errorf("asked for %q, granted %q, want %q", row.ask, answer.Scope, row.want)
		}
	}
}

// A change of the token counts for the next request, also for a bearer token
// that was signed before.
func TestChangesCountAtOnce(t *testing.T) {
	f := start(t)
	f.pushImage(f.admin().basic(), "team/app", "v1", "one")
	elsewhere := openTokens(t, f.file, f.clock)
	get := func(auth string) response {
		return f.do(request{method: "GET", path: "/v2/team/app/manifests/v1", auth: auth})
	}

	ci := f.login("ci", "pull,push", "team/*")
	bearer := f.bearer(ci, "repository:team/app:pull,push")
	get(bearer).want(t, 200)
	get(ci.basic()).want(t, 200)

	text, err := os.ReadFile(f.file)
	if err != nil {
		t.Fatal(err)
	}
	overwrite(t, f.file, strings.Replace(string(text), `"team/*"`, `"else/*"`, 1))
	get(bearer).wantCode(t, 401, "UNAUTHORIZED")
	get(ci.basic()).wantCode(t, 403, "DENIED")
	overwrite(t, f.file, string(text))
	get(bearer).want(t, 200)

	overwrite(t, f.file, string(text)[:100])
	for _, auth := range []string{bearer, ci.basic()} {
		get(auth).wantCode(t, 503, "UNAVAILABLE")
	}
	f.do(request{method: "GET", path: "/v2/token", auth: ci.basic()}).wantCode(t, 503, "UNAVAILABLE")
	get("").wantCode(t, 401, "UNAUTHORIZED")
	overwrite(t, f.file, string(text))

	f.clock.Advance(4 * time.Minute)
	get(bearer).want(t, 200)
	f.clock.Advance(time.Minute + time.Second)
	get(bearer).wantCode(t, 401, "UNAUTHORIZED")

	bearer = f.bearer(ci, "repository:team/app:pull")
	f.restart()
	get(bearer).want(t, 200)
	if err := elsewhere.Revoke(context.Background(), ci.token.ID); err != nil {
		t.Fatal(err)
	}
	get(bearer).wantCode(t, 401, "UNAUTHORIZED")
	get(ci.basic()).wantCode(t, 401, "UNAUTHORIZED")
}

func TestForgedBearers(t *testing.T) {
	f := start(t)
	ci := f.admin()
	f.pushImage(ci.basic(), "app", "v1", "one")
	good := strings.TrimPrefix(f.bearer(ci, "repository:app:pull"), "Bearer ")
	parts := strings.Split(good, ".")
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	sign := func(method jwt.SigningMethod, key any, change map[string]any) string {
		t.Helper()
		claims := jwt.MapClaims{}
		if err := json.Unmarshal(raw, &claims); err != nil {
			t.Fatal(err)
		}
		for k, v := range change {
			if claims[k] = v; v == nil {
				delete(claims, k)
			}
		}
		signed, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	text, err := os.ReadFile(f.file + ".key")
	if err != nil {
		t.Fatal(err)
	}
	var key []byte
	if _, err := fmt.Sscanf(string(text), "%x", &key); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(f.file + ".key"); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of the key = %v, %v", info.Mode(), err)
	}
	get := func(bearer string) response {
		return f.do(request{method: "GET", path: "/v2/app/manifests/v1", auth: "Bearer " + bearer})
	}
	get(sign(jwt.SigningMethodHS256, key, nil)).want(t, 200)
	for name, bearer := range map[string]string{
		"nothing":         "",
		"no signature":    parts[0] + "." + parts[1] + ".",
		"none":            sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nil),
		"other method":    sign(jwt.SigningMethodHS512, key, nil),
		"other key":       sign(jwt.SigningMethodHS256, make([]byte, 32), nil),
		"other service":   sign(jwt.SigningMethodHS256, key, map[string]any{"aud": "other"}),
		"other issuer":    sign(jwt.SigningMethodHS256, key, map[string]any{"iss": "other"}),
		"no expiry":       sign(jwt.SigningMethodHS256, key, map[string]any{"exp": nil}),
		"not yet":         sign(jwt.SigningMethodHS256, key, map[string]any{"nbf": f.clock.Now().Add(time.Hour).Unix()}),
		"no token":        sign(jwt.SigningMethodHS256, key, map[string]any{"token_id": nil}),
		"unknown token":   sign(jwt.SigningMethodHS256, key, map[string]any{"token_id": "rkt0"}),
		"no access":       sign(jwt.SigningMethodHS256, key, map[string]any{"access": nil}),
		"the raw secret":  ci.secret.Reveal(),
		"changed payload": parts[0] + "." + base64.RawURLEncoding.EncodeToString(append(raw, ' ')) + "." + parts[2],
	} {
		if got := get(bearer); got.status != 401 {
			t.Errorf("%s: status %d, want 401", name, got.status)
		}
	}
	f.do(request{method: "GET", path: "/v2/app/manifests/v1", auth: "Digest x"}).wantCode(t, 401, "UNAUTHORIZED")
}

// matrixRequests is a request of each kind that needs a right in a repository.
// %s is the repository.
var matrixRequests = []struct {
	scope, method, path string
}{
	{"pull", "GET", "/v2/%s/manifests/v1"},
	{"pull", "HEAD", "/v2/%s/manifests/v1"},
	{"pull", "GET", "/v2/%s/manifests/" + noDigest},
	{"pull", "GET", "/v2/%s/blobs/{layer}"},
	{"pull", "HEAD", "/v2/%s/blobs/{layer}"},
	{"pull", "GET", "/v2/%s/tags/list"},
	{"pull", "HEAD", "/v2/%s/tags/list"},
	{"pull", "GET", "/v2/%s/referrers/{image}"},
	{"push", "POST", "/v2/%s/blobs/uploads/"},
	{"push", "POST", "/v2/%s/blobs/uploads/?digest={layer}"},
	{"push", "GET", "/v2/%s/blobs/uploads/abc"},
	{"push", "PATCH", "/v2/%s/blobs/uploads/abc"},
	{"push", "PUT", "/v2/%s/blobs/uploads/abc?digest={layer}"},
	{"push", "DELETE", "/v2/%s/blobs/uploads/abc"},
	{"push", "PUT", "/v2/%s/manifests/v1"},
	{"push", "PUT", "/v2/%s/manifests/{image}?tag=v1"},
	{"delete", "DELETE", "/v2/%s/manifests/v1"},
	{"delete", "DELETE", "/v2/%s/manifests/{image}"},
	{"delete", "DELETE", "/v2/%s/blobs/{layer}"},
}

// Each right, each request, in a repository that exists and in one that does
// not: who has the right gets past the gate, and who has not gets the same
// answer for both.
func TestRightsMatrix(t *testing.T) {
	f := start(t)
	admin := f.admin()
	const there, absent = "team/here", "team/gone"
	image, _ := f.pushImage(admin.basic(), there, "v1", "one")
	layer := digestOf([]byte("layer one"))
	fill := strings.NewReplacer("{image}", image, "{layer}", layer)

	logins := map[string]login{"other": f.login("ci", "pull,push,delete", "teams/*", "team", "team/here/below")}
	for _, scope := range []string{"pull", "push", "delete"} {
		for _, pattern := range []string{"*", "team/*"} {
			logins[scope+" "+pattern] = f.login("ci", scope, pattern)
		}
	}
	for name, login := range logins {
		bearers := map[string]string{}
		for _, repository := range []string{there, absent} {
			bearers[repository] = f.bearer(login, "repository:"+repository+":pull,push,delete")
		}
		for _, row := range matrixRequests {
			allowed := strings.HasPrefix(name, row.scope+" ")
			// What is allowed and changes something would change the matrix.
			if allowed && row.scope != "pull" {
				continue
			}
			t.Run(fmt.Sprintf("%s %s %s", name, row.method, row.path), func(t *testing.T) {
				ask := func(repository, auth string) response {
					return f.do(request{method: row.method, path: fill.Replace(fmt.Sprintf(row.path, repository)), auth: auth})
				}
				for _, how := range []string{"basic", "bearer"} {
					auth := func(repository string) string {
						if how == "basic" {
							return login.basic()
						}
						return bearers[repository]
					}
					here, gone := ask(there, auth(there)), ask(absent, auth(absent))
					if allowed {
						if here.status == 401 || here.status == 403 {
							t.Errorf("%s: status %d, and the right is there", how, here.status)
						}
						continue
					}
					if want := map[string]int{"basic": 403, "bearer": 401}[how]; here.status != want {
						t.Errorf("%s: status %d, want %d", how, here.status, want)
					}
					if diff := cmp.Diff(here.dump(), strings.ReplaceAll(gone.dump(), absent, there)); diff != "" {
						t.Errorf("%s: answers tell which repository exists (-there +absent):\n%s", how, diff)
					}
				}
			})
		}
	}
	f.do(request{method: "GET", path: "/v2/team/here/manifests/v1", auth: admin.basic()}).want(t, 200)
}

// The other half of the matrix: who has the right can use it.
func TestRightsSuffice(t *testing.T) {
	f := start(t)
	admin := f.admin()
	image, manifest := f.pushImage(admin.basic(), "team/app", "v1", "one")
	layer := digestOf([]byte("layer one"))
	push, del := f.login("ci", "push", "team/*"), f.login("ci", "delete", "team/*")
	for _, how := range []string{"basic", "bearer"} {
		auth, delAuth := push.basic(), del.basic()
		if how == "bearer" {
			auth, delAuth = f.bearer(push, "repository:team/app:push"), f.bearer(del, "repository:team/app:delete")
		}
		f.do(request{method: "POST", path: "/v2/team/app/blobs/uploads/?digest=" + layer, auth: auth, body: []byte("layer one")}).want(t, 201)
		f.putManifest(auth, "team/app", "v1", manifest).want(t, 201)
		location := f.do(request{method: "POST", path: "/v2/team/app/blobs/uploads/", auth: auth}).want(t, 202).header.Get("Location")
		f.do(request{method: "DELETE", path: location, auth: delAuth}).want(t, map[string]int{"basic": 403, "bearer": 401}[how])
		f.do(request{method: "DELETE", path: location, auth: auth}).want(t, 204)
		f.do(request{method: "DELETE", path: "/v2/team/app/manifests/v1", auth: delAuth}).want(t, 202)
		f.do(request{method: "DELETE", path: "/v2/team/app/manifests/" + image, auth: delAuth}).want(t, 202)
		f.do(request{method: "DELETE", path: "/v2/team/app/blobs/" + layer, auth: delAuth}).want(t, 202)
	}
}

// Without a login there is one answer to all that is asked of one path,
// whatever is stored there, down to the last byte.
func TestAnonymousLearnsNothing(t *testing.T) {
	f := start(t)
	admin := f.admin()
	image, _ := f.pushImage(admin.basic(), "team/here", "v1", "one")
	layer := digestOf([]byte("layer one"))
	wrong := []string{"", "Basic " + base64.StdEncoding.EncodeToString([]byte("admin:wrong")), "Bearer x", "Basic", "nonsense"}
	paths := []string{
		"/v2/{repo}/manifests/v1", "/v2/{repo}/manifests/" + image, "/v2/{repo}/blobs/" + layer, "/v2/{repo}/tags/list",
		"/v2/{repo}/tags/list?n=0", "/v2/{repo}/referrers/" + image, "/v2/{repo}/blobs/uploads/", "/v2/{repo}/blobs/uploads/abc",
		"/v2/{repo}/blobs/uploads/?mount=" + layer + "&from=team/here",
		"/v2/{repo}", "/v2/{repo}/", "/v2/{repo}/index.json", "/v2/{repo}/blobs/sha256/" + layer[7:], "/v2/{repo}/manifests/v1/", "/v2//{repo}/manifests/v1",
		"/v2/x/../{repo}/manifests/v1", "/v2/x/%2e%2e/{repo}/manifests/v1", "/v2/{repo}%2Fmanifests%2Fv1", "/v2/{repo}/manifests/..",
	}
	methods := []string{"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "TRACE"}
	for _, path := range paths {
		for _, method := range methods {
			var first string
			for _, auth := range wrong {
				ask := func(repository string) string {
					got := f.do(request{method: method, path: strings.ReplaceAll(path, "{repo}", repository), auth: auth}).want(t, 401)
					return strings.ReplaceAll(got.dump(), repository, "{repo}")
				}
				here := ask("team/here")
				if first == "" {
					first = here
				}
				for name, dump := range map[string]string{"absent": ask("team/gone"), "first": first} {
					if diff := cmp.Diff(here, dump); diff != "" {
						t.Errorf("%s %s with %q (-here +%s):\n%s", method, path, auth, name, diff)
					}
				}
			}
		}
	}
	for _, path := range []string{"/v2", "/v2/", "/v2/_catalog", "/v2/_catalog?n=1", "/v2/nothing", "/v2/token/x", "/v2/..", "/v2/%00"} {
		for _, method := range methods {
			f.do(request{method: method, path: path}).want(t, 401)
		}
	}
	f.do(request{method: "PUT", path: "/v2/token"}).want(t, 401)
	f.do(request{method: "GET", path: "/"}).wantCode(t, 404, "UNSUPPORTED")
	f.do(request{method: "GET", path: "/v1/_ping"}).wantCode(t, 404, "UNSUPPORTED")
}

// Paths that could be read in two ways.
func TestTrickyPaths(t *testing.T) {
	f := start(t)
	admin := f.admin()
	image, _ := f.pushImage(admin.basic(), "theirs/app", "v1", "secret")
	f.pushImage(admin.basic(), "mine/app", "v1", "own")
	mine := f.login("ci", "pull,push,delete", "mine/*")
	for _, path := range []string{
		"/v2/mine/../theirs/app/manifests/v1", "/v2/mine/app/../../theirs/app/manifests/v1", "/v2/mine/%2e%2e/theirs/app/manifests/v1",
		"/v2/mine/..%2ftheirs/app/manifests/v1", "/v2/mine/..%2Ftheirs%2Fapp/manifests/v1", "/v2/mine//../theirs/app/manifests/v1",
		"/v2/./theirs/app/manifests/v1", "/v2//theirs/app/manifests/v1", "/v2/theirs//app/manifests/v1", "//v2/theirs/app/manifests/v1",
		"/v2/theirs/app/manifests/v1/", "/v2/theirs/app/manifests//v1", "/v2/Theirs/app/manifests/v1", "/V2/theirs/app/manifests/v1",
		"/v2/theirs%2Fapp/manifests/v1", "/v2/%74heirs/app/manifests/v1", "/v2/mine/app/manifests/../../../theirs/app/manifests/v1",
		"/v2/mine/app/blobs/../../../theirs/app/blobs/" + image, "/v2/mine/app/blobs/uploads/../../../../theirs/app/manifests/v1",
		"/v2/mine%00/../theirs/app/manifests/v1", "/v2/mine/app/blobs/..%2f..%2ftheirs%2findex.json", `/v2/mine\..\theirs/app/manifests/v1`,
		"/v2/mine/app/blobs/" + image, "/v2/mine/app/manifests/" + image, "/v2/theirs/app/blobs/" + image, "/v2/mine/blobs/index.json/manifests/v1",
	} {
		for _, method := range []string{"GET", "HEAD", "DELETE"} {
			got := f.do(request{method: method, path: path, auth: mine.basic()})
			if got.status < 400 || got.status >= 500 {
				t.Errorf("%s %s: status %d: %s", method, path, got.status, got.body)
			}
		}
	}
	// An encoded path is the same path: the same right, the same answer.
	f.do(request{method: "GET", path: "/v2/%6dine%2fapp/manifests/v1", auth: mine.basic()}).want(t, 200)
	f.do(request{method: "GET", path: "/v2/mine/app/blobs/" + strings.Replace(digestOf([]byte("{}")), ":", "%3A", 1), auth: mine.basic()}).want(t, 200)

	wellFormed := f.login("ci2", "pull", "*").basic()
	f.do(request{method: "GET", path: "/v2/mine//app/manifests/v1", auth: wellFormed}).wantCode(t, 404, "UNSUPPORTED")
	f.do(request{method: "GET", path: "/v2/Mine/app/manifests/v1", auth: wellFormed}).wantCode(t, 400, "NAME_INVALID")
	f.do(request{method: "GET", path: "/v2/" + strings.Repeat("a", 256) + "/manifests/v1", auth: wellFormed}).wantCode(t, 400, "NAME_INVALID")
	f.do(request{method: "GET", path: "/v2/mine/blobs/manifests/v1", auth: wellFormed}).wantCode(t, 400, "NAME_INVALID")
	f.do(request{method: "GET", path: "/v2/mine/app/blobs/sha256:abc", auth: wellFormed}).wantCode(t, 400, "DIGEST_INVALID")
	f.do(request{method: "GET", path: "/v2/mine/app/manifests/.v1", auth: wellFormed}).wantCode(t, 404, "MANIFEST_UNKNOWN")
	f.do(request{method: "PUT", path: "/v2/mine/app/manifests/.v1", auth: admin.basic()}).wantCode(t, 400, "MANIFEST_INVALID")
	refused := f.do(request{method: "POST", path: "/v2/mine/app/tags/list", auth: wellFormed}).wantCode(t, 405, "UNSUPPORTED")
	if got := refused.header.Get("Allow"); got != "GET, HEAD" {
		t.Errorf("Allow = %q", got)
	}
}

// Whoever has no right to pull from a repository learns nothing by mounting
// from it.
func TestMountRights(t *testing.T) {
	f := start(t)
	admin := f.admin()
	secret := f.pushBlob(admin.basic(), "theirs/app", []byte("secret layer"))
	shared := f.pushBlob(admin.basic(), "base", []byte("shared layer"))
	mine := f.login("ci", "pull,push", "mine/*", "base")
	pushBase := f.login("pusher", "push", "*")
	mount := func(auth, digest, from string) response {
		return f.do(request{method: "POST", path: "/v2/mine/app/blobs/uploads/?mount=" + digest + "&from=" + from, auth: auth})
	}
	for name, r := range map[string]response{
		"no right":         mount(mine.basic(), secret, "theirs/app"),
		"absent":           mount(mine.basic(), secret, "theirs/gone"),
		"unknown blob":     mount(mine.basic(), noDigest, "theirs/app"),
		"no name":          mount(mine.basic(), secret, "../theirs/app"),
		"no path":          mount(mine.basic(), secret, "mine/../theirs/app"),
		"upper case":       mount(mine.basic(), secret, "Theirs/app"),
		"no digest":        mount(mine.basic(), "nonsense", "theirs/app"),
		"push only":        mount(pushBase.basic(), secret, "theirs/app"),
		"bearer, not from": mount(f.bearer(mine, "repository:mine/app:pull,push"), shared, "base"),
		"not there":        mount(mine.basic(), secret, "base"),
	} {
		if location := r.header.Get("Location"); r.status != 202 || !strings.HasPrefix(location, "/v2/mine/app/blobs/uploads/") {
			t.Errorf("%s: status %d, location %q, want an upload", name, r.status, location)
		}
	}
	f.do(request{method: "HEAD", path: "/v2/mine/app/blobs/" + secret, auth: mine.basic()}).want(t, 404)
	f.do(request{method: "GET", path: "/v2/theirs/gone/tags/list", auth: admin.basic()}).wantCode(t, 404, "NAME_UNKNOWN")

	for name, auth := range map[string]string{
		"basic":  mine.basic(),
		"bearer": f.bearer(mine, "repository:mine/app:pull,push", "repository:base:pull"),
	} {
		got := mount(auth, shared, "base").want(t, 201)
		if location := got.header.Get("Location"); location != "/v2/mine/app/blobs/"+shared {
			t.Errorf("%s: location %q", name, location)
		}
		blob := f.do(request{method: "GET", path: "/v2/mine/app/blobs/" + shared, auth: mine.basic()}).want(t, 200)
		if string(blob.body) != "shared layer" {
			t.Errorf("%s: mounted %q", name, blob.body)
		}
		f.do(request{method: "DELETE", path: "/v2/mine/app/blobs/" + shared, auth: admin.basic()}).want(t, 202)
	}
}

// No secret is in a log, whatever was asked.
func TestLogHoldsNoSecret(t *testing.T) {
	f := start(t)
	admin := f.admin()
	f.pushImage(admin.basic(), "team/app", "v1", "one")
	bearer := f.bearer(admin, "repository:team/app:pull,push,delete")
	form := url.Values{"grant_type": {"password"}, "username": {"admin"}, "password": {admin.secret.Reveal()}}
	secrets := []string{admin.secret.Reveal(), strings.TrimPrefix(admin.basic(), "Basic "), strings.TrimPrefix(bearer, "Bearer "), "wr0ng-passw0rd", "qu3ry-s3cret"}
	for _, r := range []request{
		{method: "GET", path: "/v2/team/app/manifests/v1?access_token=qu3ry-s3cret", auth: bearer},
		{method: "GET", path: "/v2/team/app/manifests/v1", auth: login{user: "admin", secret: credential.NewSecret("wr0ng-passw0rd")}.basic()},
		{method: "GET", path: "/v2/token", auth: login{user: "admin", secret: credential.NewSecret("wr0ng-passw0rd")}.basic()},
		{method: "POST", path: "/v2/token", body: []byte(form.Encode()), header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}},
		{method: "GET", path: "/v2/token?password=qu3ry-s3cret", auth: admin.basic()},
		{method: "PUT", path: "/v2/team/app/blobs/uploads/abc?state=qu3ry-s3cret", auth: bearer},
		{method: "DELETE", path: "/v2/team/app/manifests/v1", auth: bearer},
		{method: "GET", path: "/v2/team/app/manifests/v1", auth: bearer + "x"},
	} {
		f.do(r)
	}
	overwrite(t, f.file, `{"version": 1, "tokens": [{"hash": "`+admin.secret.Reveal()+`"}]}`)
	f.do(request{method: "GET", path: "/v2/", auth: admin.basic()}).want(t, 503)
	if err := os.Remove(f.file); err != nil {
		t.Fatal(err)
	}
	log := f.log.String()
	for i, secret := range secrets {
		if strings.Contains(log, secret) {
			t.Errorf("secret %d is in the log", i)
		}
	}
	for _, line := range strings.Split(log, "\n") {
		reading := strings.Contains(line, "method=GET") || strings.Contains(line, "method=HEAD")
		if reading && !strings.Contains(line, "level=DEBUG") && !strings.Contains(line, "status=503") {
			t.Errorf("reading is logged above debug: %s", line)
		}
	}
	if !slices.ContainsFunc(strings.Split(log, "\n"), func(line string) bool {
		return strings.Contains(line, "level=INFO") && strings.Contains(line, "method=DELETE") && strings.Contains(line, "user=admin") &&
			strings.Contains(line, "token="+admin.token.ID)
	}) {
		t.Error("deletion is not logged with who did it")
	}
}
