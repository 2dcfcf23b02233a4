package builtin_test

import (
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/regkeeper/regkeeper/registry/builtin"
)

func TestImmutableTags(t *testing.T) {
	f := start(t, func(c *builtin.Config) { c.Immutable = []string{"v*", "team/*:release-?"} })
	auth := f.admin().basic()
	first, manifest := f.pushImage(auth, "app", "v1", "first")
	config, layer := digestOf([]byte("{}")), digestOf([]byte("layer first"))
	other := imageOf(config, layer, `,"annotations":{"a":"b"}`)

	refused := f.putManifest(auth, "app", "v1", other).wantCode(t, 403, "DENIED")
	if text := string(refused.body); !strings.Contains(text, "tag v1 of app is immutable") || !strings.Contains(text, first) {
		t.Errorf("message = %s", text)
	}
	f.putManifest(auth, "app", "v1", manifest).want(t, 201)
	f.putManifest(auth, "app", "latest", manifest).want(t, 201)
	f.putManifest(auth, "app", "latest", other).want(t, 201)
	f.putManifest(auth, "app", "v2", other).want(t, 201)
	f.putManifest(auth, "app", digestOf(other)+"?tag=v1", other).wantCode(t, 403, "DENIED")
	f.putManifest(auth, "app", digestOf(other)+"?tag=fresh&tag=v1", other).wantCode(t, 403, "DENIED")
	f.putManifest(auth, "app", digestOf(manifest)+"?tag=v1", manifest).want(t, 201)
	sum := fmt.Sprintf("sha512:%x", sha512.Sum512(manifest))
	f.putManifest(auth, "app", sum+"?tag=v1", manifest).wantCode(t, 403, "DENIED")
	f.putManifest(auth, "app", "v1?digest="+sum, manifest).wantCode(t, 403, "DENIED")
	f.putManifest(auth, "app", "v1?digest="+first, other).wantCode(t, 400, "DIGEST_INVALID")

	f.pushImage(auth, "other", "release-1", "a")
	f.pushImage(auth, "other", "release-1", "b")
	f.pushImage(auth, "team/app", "release-1", "a")
	f.putManifest(auth, "team/app", "release-1", imageOf(digestOf([]byte("{}")), digestOf([]byte("layer a")), `,"annotations":{}`)).wantCode(t, 403, "DENIED")

	remove := func(path string) response {
		return f.do(request{method: "DELETE", path: "/v2/app/" + path, auth: auth})
	}
	remove("manifests/v1").wantCode(t, 403, "DENIED")
	remove("manifests/"+first).wantCode(t, 403, "DENIED")
	remove("blobs/"+first).wantCode(t, 403, "DENIED")
	remove("blobs/"+layer).wantCode(t, 403, "DENIED")
	remove("blobs/"+config).wantCode(t, 403, "DENIED")
	remove("manifests/v404").wantCode(t, 404, "MANIFEST_UNKNOWN")
	remove("manifests/latest").want(t, 202)
	loose := f.pushBlob(auth, "app", []byte("loose"))
	remove("blobs/"+loose).want(t, 202)
	f.do(request{method: "GET", path: "/v2/app/manifests/v1", auth: auth}).want(t, 200)
	f.do(request{method: "DELETE", path: "/v2/other/manifests/release-1", auth: auth}).want(t, 202)
}

// What an index is made of is as safe as its tag.
func TestImmutableIndex(t *testing.T) {
	f := start(t, func(c *builtin.Config) { c.Immutable = []string{"v*"} })
	auth := f.admin().basic()
	child, _ := f.pushImage(auth, "app", "", "child")
	stray, _ := f.pushImage(auth, "app", "", "stray")
	inner := indexOf(child)
	f.putIndex(auth, "app", digestOf(inner), inner)
	outer := indexOf(digestOf(inner))
	f.putIndex(auth, "app", "v1", outer)
	for _, digest := range []string{child, digestOf(inner), digestOf(outer)} {
		f.do(request{method: "DELETE", path: "/v2/app/manifests/" + digest, auth: auth}).wantCode(t, 403, "DENIED")
	}
	f.do(request{method: "DELETE", path: "/v2/app/blobs/" + digestOf([]byte("layer child")), auth: auth}).wantCode(t, 403, "DENIED")
	f.do(request{method: "DELETE", path: "/v2/app/manifests/" + stray, auth: auth}).want(t, 202)
}

// Of many who push one tag at once, one wins for good.
func TestImmutableRace(t *testing.T) {
	f := start(t, func(c *builtin.Config) { c.Immutable = []string{"*"} })
	auth := f.admin().basic()
	config, layer := f.pushBlob(auth, "app", []byte("{}")), f.pushBlob(auth, "app", []byte("layer"))
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			got := f.putManifest(auth, "app", "v1", imageOf(config, layer, fmt.Sprintf(`,"annotations":{"n":"%d"}`, i)))
			if got.status == 201 {
				won.Add(1)
			} else if got.status != 403 {
				t.Errorf("status %d: %s", got.status, got.body)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d pushes of one immutable tag succeeded, want 1", won.Load())
	}
}

const indexType = "application/vnd.oci.image.index.v1+json"

func indexOf(children ...string) []byte {
	index := map[string]any{"schemaVersion": 2, "mediaType": indexType}
	list := []map[string]any{}
	for _, child := range children {
		list = append(list, map[string]any{"mediaType": manifestType, "digest": child, "size": 1})
	}
	index["manifests"] = list
	data, err := json.Marshal(index)
	if err != nil {
		panic(err)
	}
	return data
}

func (f *fixture) putIndex(auth, repository, reference string, index []byte) response {
	f.t.Helper()
	return f.do(request{method: "PUT", path: "/v2/" + repository + "/manifests/" + reference, auth: auth,
		header: map[string]string{"Content-Type": indexType}, body: index}).want(f.t, 201)
}
