package builtin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/regkeeper/regkeeper/internal/testkit/fake"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

func TestNewChecksConfig(t *testing.T) {
	dir := t.TempDir()
	store := openTokens(t, filepath.Join(dir, "tokens.json"), fake.NewClock())
	inside := openTokens(t, filepath.Join(dir, "images", "team", "tokens.json"), fake.NewClock())
	for name, config := range map[string]builtin.Config{
		"no folder":             {Tokens: store},
		"no tokens":             {Dir: filepath.Join(dir, "images")},
		"tokens in the folder":  {Dir: filepath.Join(dir, "images"), Tokens: inside},
		"url with a path":       {Dir: filepath.Join(dir, "images"), Tokens: store, URL: "https://example.com/registry"},
		"url without a scheme":  {Dir: filepath.Join(dir, "images"), Tokens: store, URL: "example.com"},
		"url with a password":   {Dir: filepath.Join(dir, "images"), Tokens: store, URL: "https://user:hunter2@example.com"},
		"url that is none":      {Dir: filepath.Join(dir, "images"), Tokens: store, URL: "https://user:hunter2@exa mple.com"},
		"broken tag pattern":    {Dir: filepath.Join(dir, "images"), Tokens: store, Immutable: []string{"v["}},
		"no tag pattern":        {Dir: filepath.Join(dir, "images"), Tokens: store, Immutable: []string{"team/*:"}},
		"repository, no tag":    {Dir: filepath.Join(dir, "images"), Tokens: store, Immutable: []string{"team/*"}},
		"no repository pattern": {Dir: filepath.Join(dir, "images"), Tokens: store, Immutable: []string{":v*"}},
	} {
		registry, err := builtin.New(config)
		if problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" || strings.Contains(fmt.Sprint(err), "hunter2") {
			t.Errorf("%s: New = %v, %v, want a config problem with a hint", name, registry, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "images")); err == nil {
		t.Error("a folder was made for a config with faults")
	}
	overwrite(t, filepath.Join(dir, "tokens.json.key"), "short")
	if _, err := builtin.New(builtin.Config{Dir: filepath.Join(dir, "images"), Tokens: store}); problem.KindOf(err) != problem.Damaged {
		t.Errorf("New with a damaged key = %v", err)
	}
}

func TestFolderIsServedOnce(t *testing.T) {
	f := start(t)
	if _, err := builtin.New(f.config); problem.KindOf(err) != problem.Busy {
		t.Errorf("New on a folder that is served = %v, want busy", err)
	}
	f.server.Close()
	for range 2 {
		if err := f.registry.Close(); err != nil {
			t.Errorf("Close = %v", err)
		}
	}
	w := httptest.NewRecorder()
	f.registry.ServeHTTP(w, httptest.NewRequest("GET", "/v2/", nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("after Close: %d %s", w.Code, w.Body)
	}
	f.open()
}

func TestCloseWritesUse(t *testing.T) {
	f := start(t)
	ci := f.admin()
	f.do(request{method: "GET", path: "/v2/", auth: ci.basic()}).want(t, 200)
	f.restart()
	data, err := os.ReadFile(f.file + ".used")
	if err != nil || !strings.Contains(string(data), ci.token.ID) {
		t.Errorf("times of use = %s, %v", data, err)
	}
}

// A real client does what people do: push, pull, list, mount, refer, delete.
func TestClient(t *testing.T) {
	f := start(t)
	ci := f.login("ci", "pull,push,delete", "team/*", "base")
	options := []remote.Option{remote.WithAuth(&authn.Basic{Username: ci.user, Password: ci.secret.Reveal()})}
	ref := func(text string) name.Reference {
		t.Helper()
		ref, err := name.ParseReference(f.host + "/" + text)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	image, err := random.Image(1024, 3)
	check(err)
	check(remote.Write(ref("team/app:v1"), image, options...))
	pulled, err := remote.Image(ref("team/app:v1"), options...)
	check(err)
	wantDigest(t, image, pulled)
	layers, err := pulled.Layers()
	check(err)
	for _, layer := range layers {
		if _, err := partial.UncompressedSize(layer); err != nil {
			t.Error(err)
		}
	}

	index, err := random.Index(256, 2, 2)
	check(err)
	check(remote.WriteIndex(ref("team/app:multi"), index, options...))
	gotIndex, err := remote.Index(ref("team/app:multi"), options...)
	check(err)
	wantDigest(t, index, gotIndex)

	check(remote.Write(ref("base:v1"), image, options...))
	layer, err := random.Layer(512, "application/vnd.oci.image.layer.v1.tar+gzip")
	check(err)
	based, err := mutate.AppendLayers(image, layer)
	check(err)
	mountable, err := remote.Image(ref("base:v1"), options...)
	check(err)
	onBase, err := mutate.AppendLayers(mountable, layer)
	check(err)
	check(remote.Write(ref("team/child:v1"), onBase, options...))
	wantDigest(t, based, onBase)

	desc, err := partial.Descriptor(image)
	check(err)
	sbom, err := random.Image(64, 1)
	check(err)
	signed := mutate.Subject(sbom, *desc).(v1.Image)
	check(remote.Write(ref("team/app:sbom"), signed, options...))
	subject := ref("team/app@" + desc.Digest.String()).(name.Digest)
	list, err := remote.Referrers(subject, options...)
	check(err)
	manifest, err := list.IndexManifest()
	check(err)
	if len(manifest.Manifests) != 1 {
		t.Errorf("referrers = %+v, want one", manifest.Manifests)
	}

	tags, err := remote.List(ref("team/app").Context(), options...)
	check(err)
	if diff := cmp.Diff([]string{"multi", "sbom", "v1"}, tags); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	registry, err := name.NewRegistry(f.host)
	check(err)
	repositories, err := remote.Catalog(t.Context(), registry, options...)
	check(err)
	if diff := cmp.Diff([]string{"base", "team/app", "team/child"}, repositories); diff != "" {
		t.Errorf("repositories (-want +got):\n%s", diff)
	}

	check(remote.Delete(ref("team/app:v1"), options...))
	if _, err := remote.Head(ref("team/app:v1"), options...); err == nil {
		t.Error("tag is there after it was deleted")
	}
	if _, err := remote.Head(subject, options...); err != nil {
		t.Errorf("deleting a tag deleted the image: %v", err)
	}
	check(remote.Delete(subject, options...))
	if _, err := remote.Head(subject, options...); err == nil {
		t.Error("image is there after it was deleted")
	}
	if err := remote.Write(ref("other/app:v1"), image, options...); err == nil {
		t.Error("pushed without a right")
	}
	if _, err := remote.Image(ref("team/app:multi")); err == nil {
		t.Error("pulled without a login")
	}
}

func wantDigest(t *testing.T, want, got interface{ Digest() (v1.Hash, error) }) {
	t.Helper()
	w, err := want.Digest()
	if err != nil {
		t.Fatal(err)
	}
	g, err := got.Digest()
	if err != nil || w != g {
		t.Errorf("digest = %v, %v, want %v", g, err, w)
	}
}

func TestCatalog(t *testing.T) {
	f := start(t)
	admin := f.admin()
	for _, repository := range []string{"b", "a/b/c", "a", "a-b", "team/app", "team/app/web"} {
		f.pushBlob(admin.basic(), repository, []byte("x"))
	}
	ci := f.login("ci", "pull", "team/*")
	pusher := f.login("pusher", "push", "*")
	list := func(auth, query string) ([]string, string) {
		t.Helper()
		got := f.do(request{method: "GET", path: "/v2/_catalog" + query, auth: auth}).want(t, 200)
		var body struct{ Repositories []string }
		if err := json.Unmarshal(got.body, &body); err != nil || body.Repositories == nil {
			t.Fatalf("catalog = %s, %v", got.body, err)
		}
		return body.Repositories, got.header.Get("Link")
	}
	all := []string{"a", "a-b", "a/b/c", "b", "team/app", "team/app/web"}
	for _, row := range []struct {
		auth, query string
		want        []string
		link        string
	}{
		{admin.basic(), "", all, ""},
		{admin.basic(), "?n=6", all, ""},
		{admin.basic(), "?n=2", all[:2], `</v2/_catalog?last=a-b&n=2>; rel="next"`},
		{admin.basic(), "?last=a-b&n=2", all[2:4], `</v2/_catalog?last=b&n=2>; rel="next"`},
		{admin.basic(), "?last=nothing", all[4:], ""},
		{admin.basic(), "?n=0", nil, ""},
		{f.bearer(admin, "registry:catalog:*"), "", all, ""},
		{ci.basic(), "", all[4:], ""},
		{f.bearer(ci, "registry:catalog:*"), "", all[4:], ""},
		{pusher.basic(), "", nil, ""},
	} {
		got, link := list(row.auth, row.query)
		if diff := cmp.Diff(append([]string{}, row.want...), got); diff != "" || link != row.link {
			t.Errorf("catalog%s: link %s (-want +got):\n%s", row.query, link, diff)
		}
	}
	for _, query := range []string{"?n=-1", "?n=x", "?n=99999999999999999999"} {
		f.do(request{method: "GET", path: "/v2/_catalog" + query, auth: admin.basic()}).wantCode(t, 400, "UNSUPPORTED")
	}
	short := f.do(request{method: "GET", path: "/v2/_catalog", auth: f.bearer(admin)}).wantCode(t, 401, "UNAUTHORIZED")
	if got := short.header.Get("WWW-Authenticate"); !strings.Contains(got, `scope="registry:catalog:*",error="insufficient_scope"`) {
		t.Errorf("challenge = %s", got)
	}
}

// Who tries whether a push would be allowed leaves nothing to be seen.
func TestPushProbe(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	f.pushBlob(auth, "there", []byte("x"))
	look := func() []string {
		var seen []string
		for _, path := range []string{"_catalog", "probed/app/tags/list", "probed/app/manifests/v1", "probed/app/referrers/" + digestOf(nil), "probed/app/blobs/" + digestOf(nil)} {
			seen = append(seen, path+" "+f.do(request{method: "GET", path: "/v2/" + path, auth: auth}).dump())
		}
		return seen
	}
	before := look()
	for range 2 {
		begun := f.do(request{method: "POST", path: "/v2/probed/app/blobs/uploads/", auth: auth}).want(t, 202)
		if diff := cmp.Diff(before, look()); diff != "" {
			t.Errorf("during the probe (-before +now):\n%s", diff)
		}
		f.do(request{method: "GET", path: begun.header.Get("Location"), auth: auth}).want(t, 204)
		f.do(request{method: "DELETE", path: begun.header.Get("Location"), auth: auth}).want(t, 204)
		if diff := cmp.Diff(before, look()); diff != "" {
			t.Errorf("after the probe (-before +now):\n%s", diff)
		}
		f.restart()
		if diff := cmp.Diff(before, look()); diff != "" {
			t.Errorf("after a restart (-before +now):\n%s", diff)
		}
	}
	f.do(request{method: "GET", path: "/v2/probed/app/tags/list", auth: auth}).wantCode(t, 404, "NAME_UNKNOWN")

	f.pushImage(auth, "probed/app", "v1", "one")
	f.do(request{method: "GET", path: "/v2/probed/app/tags/list", auth: auth}).want(t, 200)
	if got := f.do(request{method: "GET", path: "/v2/_catalog", auth: auth}); !strings.Contains(string(got.body), "probed/app") {
		t.Errorf("after a push the catalog is %s", got.body)
	}
}

// Clients push and deploy by digest: a manifest without a tag is content.
func TestGarbage(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	untagged, _ := f.pushImage(auth, "app", "", "untagged")
	moved, _ := f.pushImage(auth, "app", "latest", "old")
	f.pushImage(auth, "app", "latest", "new")
	child, _ := f.pushImage(auth, "app", "", "child")
	index := indexOf(child)
	f.putIndex(auth, "app", "index", index)
	loose := f.pushBlob(auth, "app", []byte("loose"))
	f.pushBlob(auth, "empty", []byte("loose"))
	has := func(path string) int {
		return f.do(request{method: "HEAD", path: "/v2/app/" + path, auth: auth}).status
	}
	f.restart()
	if got := has("blobs/" + loose); got != 200 {
		t.Errorf("blob was collected within the grace: %d", got)
	}
	f.config.Grace = time.Millisecond
	f.restart()
	has("manifests/latest")
	f.do(request{method: "GET", path: "/v2/empty/tags/list", auth: auth}).want(t, 200)
	f.config.Grace = 0
	f.restart()
	if got := has("blobs/" + loose); got != 404 {
		t.Errorf("loose blob after the grace: status %d, want 404", got)
	}
	for _, digest := range []string{untagged, moved, child, digestOf(index)} {
		if got := has("manifests/" + digest); got != 200 {
			t.Errorf("manifest %s: status %d, want 200", digest, got)
		}
	}
	if got := has("blobs/" + digestOf([]byte("layer untagged"))); got != 200 {
		t.Errorf("layer of an untagged manifest: status %d, want 200", got)
	}
	// One that was emptied is not seen, and can be pushed to again.
	f.do(request{method: "GET", path: "/v2/empty/tags/list", auth: auth}).wantCode(t, 404, "NAME_UNKNOWN")
	f.pushImage(auth, "empty", "v1", "again")
	f.restart()
	f.do(request{method: "GET", path: "/v2/empty/manifests/v1", auth: auth}).want(t, 200)
}

// Signer and scanner attach to an image at the same time; neither is forgotten.
func TestReferrersAtOnce(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	image, _ := f.pushImage(auth, "app", "v1", "one")
	const count = 16
	f.referrersAtOnce(auth, image, count)
	if got := f.referrers(auth, "app", image, ""); len(got) != count {
		t.Errorf("%d referrers, want %d", len(got), count)
	}
}

func (f *fixture) referrersAtOnce(auth, image string, count int) {
	f.t.Helper()
	config, layer := digestOf([]byte("{}")), f.pushBlob(auth, "app", []byte("layer"))
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() {
			m := imageOf(config, layer, fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"%d"}`, manifestType, image, i))
			f.putManifest(auth, "app", digestOf(m), m).want(f.t, 201)
		})
	}
	wg.Wait()
}

// Many who push to a repository that is not there yet all succeed.
func TestFirstPushesAtOnce(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			data := fmt.Appendf(nil, "blob %d", i)
			digest := digestOf(data)
			f.do(request{method: "HEAD", path: "/v2/new/app/blobs/" + digest, auth: auth}).want(t, 404)
			f.do(request{method: "POST", path: "/v2/new/app/blobs/uploads/?digest=" + digest, auth: auth, body: data}).want(t, 201)
			f.do(request{method: "HEAD", path: "/v2/new/app/blobs/" + digest, auth: auth}).want(t, 200)
		})
	}
	wg.Wait()
}
