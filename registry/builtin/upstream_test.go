package builtin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

// fakeUpstream is a registry in memory with one repository, team/app, and an
// [image.Reader] of it, by the documentation of that interface. It can be broken.
type fakeUpstream struct {
	mu        sync.Mutex
	err       error // of everything
	tags      map[string]digest.Digest
	manifests map[digest.Digest]fakeManifest
	blobs     map[digest.Digest][]byte
	referrers map[digest.Digest][]image.Descriptor
	calls     map[string]int
	// open, where set, reads a blob instead.
	open func(d digest.Digest) io.ReadCloser
}

type fakeManifest struct {
	mediaType string
	raw       []byte
}

var _ image.Reader = (*fakeUpstream)(nil)

func newUpstream() *fakeUpstream {
	return &fakeUpstream{
		tags: map[string]digest.Digest{}, manifests: map[digest.Digest]fakeManifest{}, blobs: map[digest.Digest][]byte{},
		referrers: map[digest.Digest][]image.Descriptor{}, calls: map[string]int{},
	}
}

func (u *fakeUpstream) call(name, repository string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calls[name]++
	if u.err != nil {
		return u.err
	}
	if repository != "team/app" {
		return fmt.Errorf("repository %s: %w", repository, image.ErrMissing)
	}
	return nil
}

func (u *fakeUpstream) count(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.calls[name]
}

func (u *fakeUpstream) fail(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.err = err
}

// push adds an image, and returns its digest.
func (u *fakeUpstream) push(tag, seed string) digest.Digest {
	u.mu.Lock()
	defer u.mu.Unlock()
	config, layer := []byte("{}"), []byte("layer "+seed)
	u.blobs[digest.FromBytes(config)], u.blobs[digest.FromBytes(layer)] = config, layer
	raw := imageOf(digestOf(config), digestOf(layer), "")
	return u.add(tag, manifestType, raw)
}

func (u *fakeUpstream) add(tag, mediaType string, raw []byte) digest.Digest {
	d := digest.FromBytes(raw)
	u.manifests[d] = fakeManifest{mediaType, raw}
	if tag != "" {
		u.tags[tag] = d
	}
	return d
}

func (u *fakeUpstream) Repositories(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) { yield("team/app", u.call("repositories", "team/app")) }
}

func (u *fakeUpstream) Tags(_ context.Context, repository string) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		if err := u.call("tags", repository); err != nil {
			yield(image.Tag{}, err)
			return
		}
		for name, d := range u.tags {
			if !yield(image.Tag{Name: name, Digest: d}, nil) {
				return
			}
		}
	}
}

func (u *fakeUpstream) Resolve(_ context.Context, repository, target string) (image.Descriptor, error) {
	if err := u.call("resolve", repository); err != nil {
		return image.Descriptor{}, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	d, ok := u.tags[target]
	if !ok {
		d = digest.Digest(target)
	}
	m, ok := u.manifests[d]
	if !ok {
		return image.Descriptor{}, image.ErrMissing
	}
	return image.Descriptor{MediaType: m.mediaType, Digest: d, Size: int64(len(m.raw))}, nil
}

func (u *fakeUpstream) Manifest(_ context.Context, repository string, d digest.Digest) (string, []byte, error) {
	if err := u.call("manifest", repository); err != nil {
		return "", nil, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	m, ok := u.manifests[d]
	if !ok {
		return "", nil, image.ErrMissing
	}
	return m.mediaType, m.raw, nil
}

func (u *fakeUpstream) Referrers(_ context.Context, repository string, d digest.Digest) ([]image.Descriptor, error) {
	if err := u.call("referrers", repository); err != nil {
		return nil, err
	}
	if u.referrers == nil {
		return nil, image.ErrUnsupported
	}
	return u.referrers[d], nil
}

func (u *fakeUpstream) Blob(_ context.Context, repository string, d digest.Digest) (io.ReadCloser, error) {
	if err := u.call("blob", repository); err != nil {
		return nil, err
	}
	if u.open != nil {
		return u.open(d), nil
	}
	data, ok := u.blobs[d]
	if !ok {
		return nil, image.ErrMissing
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// mirror starts a registry that keeps copies of an upstream's images.
func mirror(t *testing.T, change ...func(*builtin.Upstream)) (*fixture, *fakeUpstream) {
	up := newUpstream()
	config := builtin.Upstream{Host: "gitea.example.com", Prefix: "mirror/gitea", Reader: up}
	for _, c := range change {
		c(&config)
	}
	return start(t, func(c *builtin.Config) { c.Upstreams = []builtin.Upstream{config} }), up
}

const (
	copied = "mirror/gitea/team/app"
	asNS   = "?ns=gitea.example.com"
)

var errDown = errors.New("connection refused")

func (f *fixture) use() builtin.UpstreamUse { return f.registry.UpstreamUses()[0] }

func wantWarning(t *testing.T, r response, code string) {
	t.Helper()
	all := strings.Join(r.header.Values("Warning"), "\n")
	if code == "" && all != "" || code != "" && (!strings.HasPrefix(all, code+" ") || !strings.Contains(all, `299 - "gitea.example.com `)) {
		t.Errorf("warnings are %q, want %q", all, code)
	}
}

func TestCopies(t *testing.T) {
	f, up := mirror(t)
	auth := f.login("node", "pull", "mirror/gitea/*").basic()
	d := up.push("v1", "one")
	up.mu.Lock()
	index := up.add("multi", indexType, indexOf(d.String()))
	up.mu.Unlock()
	if err := f.pull(auth, copied, "multi"); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v2/team/app/manifests/multi" + asNS, "/v2/" + copied + "/manifests/multi", "/v2/team/app/manifests/" + index.String() + asNS, "/v2/" + copied + "/manifests/multi" + asNS} {
		head := f.do(request{method: "HEAD", path: path, auth: auth}).want(t, 200)
		got := f.do(request{method: "GET", path: path, auth: auth}).want(t, 200)
		for _, r := range []response{head, got} {
			wantHeader(t, r, "Docker-Content-Digest", index.String())
			wantHeader(t, r, "Content-Type", indexType)
			wantHeader(t, r, "Content-Length", fmt.Sprint(len(got.body)))
			wantWarning(t, r, "")
		}
	}
	layer := digestOf([]byte("layer one"))
	if got := f.do(request{method: "GET", path: "/v2/team/app/blobs/" + layer + asNS, auth: auth}).want(t, 200); string(got.body) != "layer one" {
		t.Errorf("layer = %q", got.body)
	}
	// With the upstream gone, and by another process.
	up.fail(errDown)
	f.restart()
	if err := f.pull(auth, copied, "multi"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]int{"manifest": 2, "blob": 2} {
		if got := up.count(name); got != want {
			t.Errorf("upstream was asked for a %s %d times, want %d", name, got, want)
		}
	}
	if got := f.do(request{method: "GET", path: "/v2/_catalog", auth: auth}); !strings.Contains(string(got.body), copied) {
		t.Errorf("catalog is %s", got.body)
	}
}

func TestCopyOfTagFollows(t *testing.T) {
	f, up := mirror(t, func(u *builtin.Upstream) { u.Fresh = time.Minute })
	auth := f.login("node", "pull", "*").basic()
	get := func() response {
		return f.do(request{method: "GET", path: "/v2/" + copied + "/manifests/latest", auth: auth})
	}
	first := up.push("latest", "one")
	wantHeader(t, get().want(t, 200), "Docker-Content-Digest", first.String())
	second := up.push("latest", "two")
	wantHeader(t, get().want(t, 200), "Docker-Content-Digest", first.String())
	if got := up.count("resolve"); got != 1 {
		t.Errorf("upstream was asked %d times within the time", got)
	}
	f.clock.Advance(time.Minute)
	wantHeader(t, get().want(t, 200), "Docker-Content-Digest", second.String())
	// Back to what is here.
	up.mu.Lock()
	up.tags["latest"] = first
	up.mu.Unlock()
	f.clock.Advance(time.Minute)
	wantHeader(t, get().want(t, 200), "Docker-Content-Digest", first.String())
	if got := up.count("manifest"); got != 2 {
		t.Errorf("%d manifests were fetched, want 2", got)
	}
	// The upstream's word counts.
	up.mu.Lock()
	delete(up.tags, "latest")
	up.mu.Unlock()
	f.clock.Advance(time.Minute)
	get().wantCode(t, 404, "MANIFEST_UNKNOWN")
	up.fail(errDown)
	get().wantCode(t, 502, "UNAVAILABLE")
	f.do(request{method: "GET", path: "/v2/" + copied + "/manifests/" + first.String(), auth: auth}).want(t, 200)
}

func TestCopyWhenUpstreamIsDown(t *testing.T) {
	f, up := mirror(t)
	auth := f.login("node", "pull", "*").basic()
	get := func(path string) response {
		return f.do(request{method: "GET", path: "/v2/" + copied + path, auth: auth})
	}
	d := up.push("v1", "one")
	if err := f.pull(auth, copied, "v1"); err != nil {
		t.Fatal(err)
	}
	up.fail(errDown)
	asked := up.count("resolve")
	wantWarning(t, get("/manifests/v1").want(t, 200), "111")
	wantWarning(t, get("/manifests/v1").want(t, 200), "110")
	wantWarning(t, get("/tags/list").want(t, 200), "110")
	wantWarning(t, get("/referrers/"+d.String()).want(t, 200), "110")
	if got := up.count("resolve") - asked; got != 1 {
		t.Errorf("an upstream that is down was asked %d times, want once", got)
	}
	f.clock.Advance(time.Minute)
	wantWarning(t, get("/manifests/v1").want(t, 200), "111")
	wantWarning(t, get("/manifests/"+d.String()).want(t, 200), "")
	if got := get("/manifests/v2"); got.status != 502 || !strings.Contains(string(got.body), "gitea.example.com does not answer") || strings.Contains(string(got.body), "connection refused") {
		t.Errorf("of what is not here: %d %s", got.status, got.body)
	}
	get("/blobs/"+digestOf([]byte("other"))).wantCode(t, 502, "UNAVAILABLE")
	if use := f.use(); use.Stale != 5 || use.Failed != 2 || use.Fallen.IsZero() {
		t.Errorf("uses are %+v", use)
	}
	up.fail(fmt.Errorf("login: %w", credential.ErrRefused))
	f.clock.Advance(time.Minute)
	got := get("/manifests/v1").want(t, 200)
	wantWarning(t, got, "111")
	if all := fmt.Sprint(got.header.Values("Warning")); !strings.Contains(all, "refuses the login of this registry") {
		t.Errorf("warnings are %s", all)
	}
	if got := get("/manifests/v2").want(t, 502); !strings.Contains(string(got.body), "refuses the login of this registry") {
		t.Errorf("body is %s", got.body)
	}
	up.fail(nil)
	wantWarning(t, get("/manifests/v1").want(t, 200), "")
	if use := f.use(); !use.Fallen.IsZero() {
		t.Errorf("uses are %+v", use)
	}
}

func TestCopiesAreReadOnlyAndGuarded(t *testing.T) {
	f, up := mirror(t)
	up.push("v1", "one")
	admin := f.admin().basic()
	for _, path := range []string{"/v2/" + copied + "/blobs/uploads/", "/v2/team/app/blobs/uploads/" + asNS} {
		got := f.do(request{method: "POST", path: path, auth: admin}).wantCode(t, 405, "UNSUPPORTED")
		if !strings.Contains(string(got.body), "holds copies of gitea.example.com: push there") {
			t.Errorf("body is %s", got.body)
		}
	}
	f.putManifest(admin, copied, "v1", []byte("{}")).wantCode(t, 405, "UNSUPPORTED")
	other := f.login("other", "pull", "team/*").basic()
	for _, path := range []string{"/v2/" + copied + "/manifests/v1", "/v2/team/app/manifests/v1" + asNS} {
		f.do(request{method: "GET", path: path, auth: other}).wantCode(t, 403, "DENIED")
		got := f.do(request{method: "GET", path: path}).wantCode(t, 401, "UNAUTHORIZED")
		if header := got.header.Get("WWW-Authenticate"); !strings.Contains(header, `scope="repository:`+copied+`:pull"`) {
			t.Errorf("challenge is %s", header)
		}
	}
	node := f.login("node", "pull", "mirror/*")
	bearer := f.bearer(node, "repository:"+copied+":pull")
	f.do(request{method: "GET", path: "/v2/team/app/manifests/v1" + asNS, auth: bearer}).want(t, 200)
	if up.count("resolve") != 1 {
		t.Error("the upstream was asked for somebody without rights")
	}
	// Another registry's image is none of this registry's own.
	f.pushImage(admin, "team/app", "v1", "own")
	f.do(request{method: "GET", path: "/v2/team/app/manifests/v1?ns=other.example.com", auth: admin}).wantCode(t, 404, "NAME_UNKNOWN")
	f.do(request{method: "GET", path: "/v2/team/app/manifests/v1?ns=" + f.host, auth: admin}).want(t, 200)
	// The copy can be thrown away.
	f.do(request{method: "DELETE", path: "/v2/" + copied + "/manifests/v1", auth: admin}).want(t, 202)
	f.do(request{method: "GET", path: "/v2/mirror/gitea/no/such/manifests/v1", auth: admin}).wantCode(t, 404, "MANIFEST_UNKNOWN")
	f.do(request{method: "GET", path: "/v2/mirror/gitea/no/such/blobs/" + digestOf(nil), auth: admin}).wantCode(t, 404, "BLOB_UNKNOWN")
	f.do(request{method: "GET", path: "/v2/mirror/gitea/no/such/tags/list", auth: admin}).wantCode(t, 404, "NAME_UNKNOWN")
	if left, err := filepath.Glob(filepath.Join(f.config.Dir, "_copies", "mirror", "gitea", "no*")); err != nil || len(left) > 0 {
		t.Errorf("for a repository that is not there: %v, %v", left, err)
	}
}

// dockerd says by the host alone of which registry it wants something.
func TestMirrorUnderANameOfItsOwn(t *testing.T) {
	f, up := mirror(t, func(u *builtin.Upstream) { u.Names = []string{"hub.registry.example.com"} })
	up.push("v1", "one")
	auth := f.login("node", "pull", "mirror/*").basic()
	for host, want := range map[string]int{"hub.registry.example.com": 200, "other.example.com": 403} {
		r := httptest.NewRequest("GET", "/v2/team/app/manifests/v1", nil)
		r.Host = host
		r.Header.Set("Authorization", auth)
		w := httptest.NewRecorder()
		f.registry.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("under %s: %d %s", host, w.Code, w.Body)
		}
	}
}

func TestCopyOfLists(t *testing.T) {
	f, up := mirror(t)
	auth := f.login("node", "pull", "*").basic()
	d := up.push("v1", "one")
	up.push("v2", "two")
	up.referrers[d] = []image.Descriptor{
		{MediaType: manifestType, ArtifactType: "a/b", Digest: digest.FromString("x"), Size: 1},
		{MediaType: manifestType, ArtifactType: "c/d", Digest: digest.FromString("y"), Size: 2},
	}
	got := f.do(request{method: "GET", path: "/v2/" + copied + "/tags/list?n=1", auth: auth}).want(t, 200)
	if !strings.Contains(string(got.body), `["v1"]`) || !strings.Contains(got.header.Get("Link"), "last=v1") {
		t.Errorf("tags are %s, %v", got.body, got.header)
	}
	if got := f.referrers(auth, copied, d.String(), ""); len(got) != 2 {
		t.Errorf("referrers are %v", got)
	}
	if got := f.referrers(auth, copied, d.String(), "?artifactType=c/d"); len(got) != 1 {
		t.Errorf("filtered referrers are %v", got)
	}
	up.referrers = nil
	f.do(request{method: "GET", path: "/v2/" + copied + "/referrers/" + d.String(), auth: auth}).want(t, 404)
}

// slow is a blob that comes in two parts.
type slow struct {
	parts []string
	next  chan struct{}
}

func (s *slow) Read(p []byte) (int, error) {
	if len(s.parts) == 0 {
		return 0, io.EOF
	}
	if len(s.parts) == 1 {
		<-s.next
	}
	n := copy(p, s.parts[0])
	s.parts[0] = s.parts[0][n:]
	if s.parts[0] == "" {
		s.parts = s.parts[1:]
	}
	return n, nil
}

func (s *slow) Close() error { return nil }

// A client gets what has arrived while the rest is on its way, many cause one
// download, and one that leaves does not end it.
func TestBlobIsSentAsItArrives(t *testing.T) {
	f, up := mirror(t)
	auth := f.login("node", "pull", "*").basic()
	data := strings.Repeat("a", 1000) + strings.Repeat("b", 1000) + "end"
	next := make(chan struct{})
	up.open = func(digest.Digest) io.ReadCloser {
		return &slow{parts: []string{data[:1000], data[1000:2000], "end"}, next: next}
	}
	path := "/v2/" + copied + "/blobs/" + digestOf([]byte(data))
	get := func() *http.Response {
		req, err := http.NewRequest("GET", f.server.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", auth)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != 200 {
			t.Fatalf("status %d", resp.StatusCode)
		}
		return resp
	}
	first := get()
	if begin := make([]byte, 1000); true {
		if _, err := io.ReadFull(first.Body, begin); err != nil || string(begin) != data[:1000] {
			t.Fatalf("the beginning is %d bytes, %v", len(begin), err)
		}
	}
	_ = first.Body.Close()
	var wg sync.WaitGroup
	for range 4 {
		resp := get()
		wg.Go(func() {
			defer func() { _ = resp.Body.Close() }()
			if all, err := io.ReadAll(resp.Body); err != nil || string(all) != data {
				t.Errorf("got %d bytes, %v", len(all), err)
			}
		})
	}
	close(next)
	wg.Wait()
	if got := f.do(request{method: "GET", path: path, auth: auth, header: map[string]string{"Range": "bytes=2000-"}}).want(t, 206); string(got.body) != "end" {
		t.Errorf("a part of the copy is %q", got.body)
	}
	if got := up.count("blob"); got != 1 {
		t.Errorf("fetched %d times, want once", got)
	}
}

func TestWrongBlobIsNotKept(t *testing.T) {
	f, up := mirror(t)
	auth := f.login("node", "pull", "*").basic()
	up.open = func(digest.Digest) io.ReadCloser { return io.NopCloser(strings.NewReader("something else")) }
	path := "/v2/" + copied + "/blobs/" + digestOf([]byte("right"))
	for _, method := range []string{"GET", "HEAD"} {
		if got, err := f.send(request{method: method, path: path, auth: auth}); err == nil && got.status < 500 {
			t.Errorf("%s of a wrong blob: %d %s", method, got.status, got.body)
		}
	}
	long := strings.Repeat("x", 1<<20)
	up.open = func(digest.Digest) io.ReadCloser { return io.NopCloser(strings.NewReader(long)) }
	if got, err := f.send(request{method: "GET", path: path, auth: auth}); err == nil && got.status < 500 {
		t.Errorf("a long wrong blob looks whole: %d, %d bytes", got.status, len(got.body))
	}
	up.open = func(digest.Digest) io.ReadCloser { return io.NopCloser(strings.NewReader("right")) }
	f.do(request{method: "GET", path: path, auth: auth}).want(t, 200)
	if left, err := filepath.Glob(filepath.Join(f.config.Dir, "_copies", "_downloads", "*")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func TestManyPullsFetchOnce(t *testing.T) {
	f, up := mirror(t)
	auth := f.login("node", "pull", "*").basic()
	up.push("v1", "one")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if err := f.pull(auth, copied, "v1"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for name, want := range map[string]int{"manifest": 1, "blob": 2} {
		if got := up.count(name); got != want {
			t.Errorf("upstream was asked for a %s %d times, want %d", name, got, want)
		}
	}
}

func TestUnusedCopiesGo(t *testing.T) {
	f, up := mirror(t, func(u *builtin.Upstream) { u.MaxAge = 24 * time.Hour })
	auth := f.login("node", "pull", "*").basic()
	used, unused := up.push("used", "used"), up.push("unused", "unused")
	for _, tag := range []string{"used", "unused"} {
		if err := f.pull(auth, copied, tag); err != nil {
			t.Fatal(err)
		}
	}
	f.clock.Advance(20 * time.Hour)
	f.restart()
	f.do(request{method: "GET", path: "/v2/" + copied + "/manifests/" + used.String(), auth: auth}).want(t, 200)
	f.clock.Advance(5 * time.Hour)
	f.age()
	if freed := f.collect(); freed < int64(len("layer unused")) {
		t.Errorf("freed %d bytes", freed)
	}
	up.fail(errDown)
	if err := f.pull(auth, copied, "used"); err != nil {
		t.Error(err)
	}
	f.do(request{method: "GET", path: "/v2/" + copied + "/manifests/" + unused.String(), auth: auth}).want(t, 502)
	f.do(request{method: "GET", path: "/v2/" + copied + "/blobs/" + digestOf([]byte("layer unused")), auth: auth}).want(t, 502)
}

func TestUpstreamsAreChecked(t *testing.T) {
	f := start(t)
	reader := newUpstream()
	for name, upstreams := range map[string][]builtin.Upstream{
		"no host":          {{Reader: reader}},
		"no reader":        {{Host: "a.example.com"}},
		"prefix":           {{Host: "a.example.com", Reader: reader, Prefix: "Upper"}},
		"address":          {{Host: "[::1]:5000", Reader: reader}},
		"twice":            {{Host: "a.example.com", Reader: reader}, {Host: "a.example.com", Prefix: "other", Reader: reader}},
		"one in the other": {{Host: "a.example.com", Prefix: "m", Reader: reader}, {Host: "b.example.com", Prefix: "m/b", Reader: reader}},
	} {
		config := f.config
		config.Dir = filepath.Join(t.TempDir(), "images")
		config.Upstreams = upstreams
		if _, err := builtin.New(config); problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
			t.Errorf("%s: New = %v, want a config problem with a hint", name, err)
		}
	}
	config := f.config
	config.Dir = filepath.Join(t.TempDir(), "images")
	config.Upstreams = []builtin.Upstream{{Host: "a.example.com:5000", Reader: reader}, {Host: "b.example.com", Reader: reader}}
	registry, err := builtin.New(config)
	if err != nil {
		t.Fatal(err)
	}
	hosts := []credential.Host{}
	for _, use := range registry.UpstreamUses() {
		hosts = append(hosts, use.Host)
	}
	if !slices.Equal(hosts, []credential.Host{"a.example.com:5000", "b.example.com"}) {
		t.Errorf("upstreams are %v", hosts)
	}
	if err := registry.Close(); err != nil {
		t.Error(err)
	}
}
