package builtin_test

import (
	"bytes"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// The OCI distribution specification 1.1, section by section: what it says a
// registry MUST do, and what it SHOULD where this registry does. The subtests
// have the names of the sections.
func TestConformance(t *testing.T) {
	t.Run("Pull", func(t *testing.T) {
		t.Run("Pulling manifests", testPullManifests)
		t.Run("Pulling blobs", testPullBlobs)
		t.Run("Checking if content exists in the registry", testExistence)
	})
	t.Run("Push", func(t *testing.T) {
		t.Run("POST then PUT", testPostPut)
		t.Run("Single POST", testSinglePost)
		t.Run("Pushing a blob in chunks", testChunks)
		t.Run("Cancelling an upload", testCancel)
		t.Run("Mounting a blob from another repository", testMount)
		t.Run("Pushing Manifests", testPushManifests)
		t.Run("Pushing Manifests with Subject", testSubject)
	})
	t.Run("Content Discovery", func(t *testing.T) {
		t.Run("Listing Tags", testListTags)
		t.Run("Listing Referrers", testListReferrers)
		t.Run("Listing Referrers in pages", testReferrerPages)
	})
	t.Run("Content Management", func(t *testing.T) {
		t.Run("Deleting tags", testDeleteTags)
		t.Run("Deleting Manifests", testDeleteManifests)
		t.Run("Deleting Blobs", testDeleteBlobs)
	})
	t.Run("API", func(t *testing.T) {
		t.Run("Determining Support", testSupport)
		t.Run("Error Codes", testErrorCodes)
	})
}

func wantHeader(t *testing.T, r response, key, want string) {
	t.Helper()
	if got := r.header.Get(key); got != want {
		t.Errorf("%s = %q, want %q", key, got, want)
	}
}

func wantBody(t *testing.T, r response, want []byte) {
	t.Helper()
	if !bytes.Equal(r.body, want) {
		t.Errorf("body = %q, want %q", r.body, want)
	}
}

// conforming is a registry with a caller who may do everything.
type conforming struct {
	*fixture
	auth string
}

func conform(t *testing.T) conforming {
	f := start(t)
	return conforming{f, f.admin().basic()}
}

// ask sends a request below /v2/, or to a Location.
func (c conforming) ask(method, path string, body []byte, header ...string) response {
	c.t.Helper()
	if !strings.HasPrefix(path, "/") {
		path = "/v2/" + path
	}
	r := request{method: method, path: path, auth: c.auth, body: body, header: map[string]string{}}
	for i := 0; i+1 < len(header); i += 2 {
		r.header[header[i]] = header[i+1]
	}
	return c.do(r)
}

func (c conforming) put(reference string, manifest []byte, mediaType string) response {
	c.t.Helper()
	return c.ask("PUT", "app/manifests/"+reference, manifest, "Content-Type", mediaType)
}

func testPullManifests(t *testing.T) {
	c := conform(t)
	digest, manifest := c.pushImage(c.auth, "app", "v1", "one")
	for _, reference := range []string{"v1", digest} {
		got := c.ask("GET", "app/manifests/"+reference, nil, "Accept", manifestType).want(t, 200)
		wantBody(t, got, manifest)
		wantHeader(t, got, "Content-Type", manifestType)
		wantHeader(t, got, "Docker-Content-Digest", digest)
	}
	for _, path := range []string{"app/manifests/v2", "app/manifests/" + noDigest, "app/manifests/.INVALID", "gone/manifests/v1", "gone/manifests/" + digest} {
		c.ask("GET", path, nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	}
	// A blob is no manifest, whatever it holds.
	blob := c.pushBlob(c.auth, "app", append([]byte(" "), manifest...))
	c.ask("GET", "app/manifests/"+blob, nil).want(t, 404)
	for _, name := range []string{"a", "a.b", "a_b", "a__b", "a-b", "a---b", "a0/b1/c2"} {
		c.pushImage(c.auth, name, "v1", "one")
		c.ask("GET", name+"/manifests/v1", nil).want(t, 200)
	}
	for _, name := range []string{"a..b", "a___b", "a_-b", "-a", "a-", "A", "a/_b"} {
		c.ask("GET", name+"/manifests/v1", nil).wantCode(t, 400, "NAME_INVALID")
	}
	tag := strings.Repeat("T", 128)
	c.put(tag, manifest, manifestType).want(t, 201)
	c.put(tag+"T", manifest, manifestType).want(t, 400)
}

func testPullBlobs(t *testing.T) {
	c := conform(t)
	data := []byte("0123456789")
	digest := c.pushBlob(c.auth, "app", data)
	got := c.ask("GET", "app/blobs/"+digest, nil).want(t, 200)
	wantBody(t, got, data)
	wantHeader(t, got, "Docker-Content-Digest", digest)
	wantHeader(t, got, "Content-Length", "10")
	for _, row := range []struct{ ask, content, want string }{
		{"bytes=0-3", "bytes 0-3/10", "0123"},
		{"bytes=4-", "bytes 4-9/10", "456789"},
		{"bytes=-2", "bytes 8-9/10", "89"},
		{"bytes=5-99", "bytes 5-9/10", "56789"},
	} {
		got := c.ask("GET", "app/blobs/"+digest, nil, "Range", row.ask).want(t, 206)
		wantBody(t, got, []byte(row.want))
		wantHeader(t, got, "Content-Range", row.content)
	}
	c.ask("GET", "app/blobs/"+digest, nil, "Range", "bytes=10-").want(t, 416)
	c.ask("GET", "app/blobs/"+noDigest, nil).wantCode(t, 404, "BLOB_UNKNOWN")
	c.ask("GET", "gone/blobs/"+digest, nil).wantCode(t, 404, "BLOB_UNKNOWN")
}

func testExistence(t *testing.T) {
	c := conform(t)
	digest, manifest := c.pushImage(c.auth, "app", "v1", "one")
	layer := digestOf([]byte("layer one"))
	for path, want := range map[string]struct{ digest, length string }{
		"app/manifests/v1":        {digest, fmt.Sprint(len(manifest))},
		"app/manifests/" + digest: {digest, fmt.Sprint(len(manifest))},
		"app/blobs/" + layer:      {layer, "9"},
	} {
		got := c.ask("HEAD", path, nil).want(t, 200)
		wantHeader(t, got, "Docker-Content-Digest", want.digest)
		wantHeader(t, got, "Content-Length", want.length)
		wantBody(t, got, nil)
	}
	for _, path := range []string{"app/manifests/v2", "app/manifests/" + noDigest, "app/blobs/" + noDigest, "gone/manifests/v1", "gone/blobs/" + layer} {
		c.ask("HEAD", path, nil).want(t, 404)
	}
}

// begin obtains a session.
func (c conforming) begin() (location string) {
	c.t.Helper()
	got := c.ask("POST", "app/blobs/uploads/", nil).want(c.t, 202)
	location = got.header.Get("Location")
	if location == "" {
		c.t.Fatal("no Location")
	}
	return location
}

// with adds a parameter to a Location, which may have some.
func with(location, key, value string) string {
	if strings.Contains(location, "?") {
		return location + "&" + key + "=" + url.QueryEscape(value)
	}
	return location + "?" + key + "=" + url.QueryEscape(value)
}

func (c conforming) wantBlob(t *testing.T, r response, data []byte) {
	t.Helper()
	r.want(t, 201)
	wantBody(t, c.ask("GET", r.header.Get("Location"), nil).want(t, 200), data)
}

func testPostPut(t *testing.T) {
	c := conform(t)
	data := []byte("some data")
	digest := digestOf(data)
	got := c.ask("PUT", with(c.begin(), "digest", digest), data, "Content-Type", "application/octet-stream")
	c.wantBlob(t, got, data)
	wantHeader(t, got, "Docker-Content-Digest", digest)

	if a, b := c.begin(), c.begin(); a == b {
		t.Error("two sessions have one location")
	}
	sum := fmt.Sprintf("sha512:%x", sha512.Sum512(data))
	c.wantBlob(t, c.ask("PUT", with(c.begin(), "digest", sum), data), data)

	c.ask("PUT", with(c.begin(), "digest", digest), []byte("other data")).want(t, 400)
	c.ask("PUT", c.begin(), data).wantCode(t, 400, "BLOB_UPLOAD_INVALID")
	c.ask("PUT", with(c.begin(), "digest", "sha256:short"), data).wantCode(t, 400, "DIGEST_INVALID")
	c.ask("PUT", with(c.begin(), "digest", "md5:d41d8cd98f00b204e9800998ecf8427e"), data).wantCode(t, 400, "DIGEST_INVALID")
	c.wantBlob(t, c.ask("PUT", with(c.begin(), "digest", digestOf(nil)), nil), nil)

	used := c.begin()
	c.ask("PUT", with(used, "digest", digest), data).want(t, 201)
	c.ask("PUT", with(used, "digest", digest), data).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
	for _, method := range []string{"GET", "PATCH", "PUT", "DELETE"} {
		for _, repository := range []string{"app", "gone"} {
			c.ask(method, repository+"/blobs/uploads/unknown", nil).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
		}
	}
}

func testSinglePost(t *testing.T) {
	c := conform(t)
	data := []byte("single post")
	got := c.ask("POST", "app/blobs/uploads/?digest="+digestOf(data), data, "Content-Type", "application/octet-stream")
	c.wantBlob(t, got, data)
	c.wantBlob(t, c.ask("POST", "app/blobs/uploads/?digest="+digestOf(data), data), data)
	sum := fmt.Sprintf("sha512:%x", sha512.Sum512(data))
	c.wantBlob(t, c.ask("POST", "app/blobs/uploads/?digest="+sum, data), data)
	c.ask("POST", "app/blobs/uploads/?digest="+digestOf([]byte("another")), data).want(t, 400)
	c.ask("POST", "app/blobs/uploads/?digest=nonsense", data).wantCode(t, 400, "DIGEST_INVALID")
}

func testChunks(t *testing.T) {
	c := conform(t)
	first, second, last := []byte("first,"), []byte("second,"), []byte("last")
	whole := append(append(append([]byte{}, first...), second...), last...)
	patch := func(location string, from int, chunk []byte) response {
		return c.ask("PATCH", location, chunk, "Content-Type", "application/octet-stream",
			"Content-Range", fmt.Sprintf("%d-%d", from, from+len(chunk)-1))
	}
	status := func(location, want string) string {
		t.Helper()
		got := c.ask("GET", location, nil).want(t, 204)
		wantHeader(t, got, "Range", want)
		return got.header.Get("Location")
	}
	for name, closing := range map[string][]byte{"last by PATCH": nil, "last by PUT": last} {
		t.Run(name, func(t *testing.T) {
			location := status(c.begin(), "0-0")
			out := patch(location, 3, first).want(t, 416)
			wantHeader(t, out, "Range", "0-0")
			got := patch(location, 0, first).want(t, 202)
			wantHeader(t, got, "Range", "0-5")
			location = got.header.Get("Location")
			for _, from := range []int{0, 5, 7, 100} {
				patch(location, from, second).want(t, 416)
			}
			location = status(location, "0-5")
			got = patch(location, 6, second).want(t, 202)
			wantHeader(t, got, "Range", "0-12")
			location = got.header.Get("Location")
			header := []string{"Content-Range", "13-16"}
			if closing == nil {
				got = patch(location, 13, last).want(t, 202)
				location, header = got.header.Get("Location"), nil
			} else {
				c.ask("PUT", with(location, "digest", digestOf(whole)), last, "Content-Range", "12-15").want(t, 416)
			}
			status(location, map[bool]string{true: "0-16", false: "0-12"}[closing == nil])
			c.wantBlob(t, c.ask("PUT", with(location, "digest", digestOf(whole)), closing, header...), whole)
			c.ask("DELETE", "app/blobs/"+digestOf(whole), nil).want(t, 202)
		})
	}
	// A stream has no range: Docker sends the whole blob in one PATCH.
	got := c.ask("PATCH", c.begin(), whole).want(t, 202)
	c.wantBlob(t, c.ask("PUT", with(got.header.Get("Location"), "digest", digestOf(whole)), nil), whole)
}

func testCancel(t *testing.T) {
	c := conform(t)
	location := c.begin()
	c.ask("DELETE", location, nil).want(t, 204)
	c.ask("GET", location, nil).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
	c.ask("DELETE", location, nil).wantCode(t, 404, "BLOB_UPLOAD_UNKNOWN")
}

func testMount(t *testing.T) {
	c := conform(t)
	data := []byte("to be mounted")
	digest := c.pushBlob(c.auth, "base", data)
	got := c.ask("POST", "app/blobs/uploads/?mount="+digest+"&from=base", nil)
	c.wantBlob(t, got, data)
	wantHeader(t, got, "Location", "/v2/app/blobs/"+digest)
	c.wantBlob(t, c.ask("POST", "app/blobs/uploads/?mount="+digest+"&from=base", nil), data)
	for _, query := range []string{"mount=" + noDigest + "&from=base", "mount=" + digest + "&from=gone", "mount=" + noDigest} {
		location := c.ask("POST", "other/blobs/uploads/?"+query, nil).want(t, 202).header.Get("Location")
		if strings.Contains(query, noDigest) {
			continue
		}
		c.wantBlob(t, c.ask("PUT", with(location, "digest", digest), data), data)
	}
}

func testPushManifests(t *testing.T) {
	c := conform(t)
	digest, manifest := c.pushImage(c.auth, "app", "v1", "one")
	for _, reference := range []string{"v2", digest} {
		got := c.put(reference, manifest, manifestType).want(t, 201)
		wantHeader(t, got, "Docker-Content-Digest", digest)
		wantBody(t, c.ask("GET", got.header.Get("Location"), nil).want(t, 200), manifest)
	}
	spaced := append([]byte("\n  "), append(manifest, " \n"...)...)
	got := c.put("spaced", spaced, manifestType+"; charset=utf-8").want(t, 201)
	stored := c.ask("GET", got.header.Get("Location"), nil)
	wantBody(t, stored, spaced)
	wantHeader(t, stored, "Content-Type", manifestType)

	sum := fmt.Sprintf("sha512:%x", sha512.Sum512(manifest))
	got = c.put(sum, manifest, manifestType).want(t, 201)
	wantHeader(t, got, "Docker-Content-Digest", sum)
	wantBody(t, c.ask("GET", "app/manifests/"+sum, nil).want(t, 200), manifest)

	c.put(noDigest, manifest, manifestType).wantCode(t, 400, "DIGEST_INVALID")
	c.put("v3", []byte("{"), manifestType).wantCode(t, 400, "MANIFEST_INVALID")
	c.put("v3", manifest, "text/plain").wantCode(t, 400, "MANIFEST_INVALID")
	c.put("v3", imageOf(noDigest, digestOf([]byte("layer one")), ""), manifestType).wantCode(t, 400, "MANIFEST_BLOB_UNKNOWN")
	c.put("v3", imageOf(digestOf([]byte("{}")), noDigest, ""), manifestType).wantCode(t, 400, "MANIFEST_BLOB_UNKNOWN")
	c.put("v3", indexOf(noDigest), indexType).wantCode(t, 400, "MANIFEST_BLOB_UNKNOWN")
	c.ask("GET", "app/manifests/v3", nil).want(t, 404)

	// A layer of another repository is not a layer of this one.
	c.pushBlob(c.auth, "other", []byte("{}"))
	c.ask("PUT", "other/manifests/v1", manifest, "Content-Type", manifestType).wantCode(t, 400, "MANIFEST_BLOB_UNKNOWN")
	c.ask("PUT", "fresh/manifests/v1", manifest, "Content-Type", manifestType).wantCode(t, 400, "MANIFEST_BLOB_UNKNOWN")

	pad := func(size int) []byte {
		m := imageOf(digestOf([]byte("{}")), digestOf([]byte("layer one")), "")
		return append(m, bytes.Repeat([]byte(" "), size-len(m))...)
	}
	c.put("big", pad(4<<20), manifestType).want(t, 201)
	c.put("bigger", pad(8<<20+1), manifestType).wantCode(t, 413, "MANIFEST_INVALID")

	index := indexOf(digest)
	c.putIndex(c.auth, "app", "index", index)
	got = c.ask("GET", "app/manifests/index", nil, "Accept", indexType+", "+manifestType).want(t, 200)
	wantHeader(t, got, "Content-Type", indexType)
	wantBody(t, got, index)
	empty := []byte(`{"schemaVersion":2,"mediaType":"` + indexType + `","manifests":[]}`)
	c.ask("PUT", "first/manifests/empty", empty, "Content-Type", indexType).want(t, 201)
	wantBody(t, c.ask("GET", "first/manifests/empty", nil).want(t, 200), empty)
	noLayers := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":%q,"size":2},"layers":[]}`, manifestType, digestOf([]byte("{}")))
	c.put("no-layers", noLayers, manifestType).want(t, 201)
}

// referrer is a descriptor in a list of referrers.
type referrer struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int               `json:"size"`
	ArtifactType string            `json:"artifactType"`
	Annotations  map[string]string `json:"annotations"`
}

func (f *fixture) referrers(auth, repository, digest, query string) []referrer {
	f.t.Helper()
	got := f.do(request{method: "GET", path: "/v2/" + repository + "/referrers/" + digest + query, auth: auth}).want(f.t, 200)
	if kind := got.header.Get("Content-Type"); kind != indexType {
		f.t.Errorf("content type of referrers = %q", kind)
	}
	var list struct {
		SchemaVersion int        `json:"schemaVersion"`
		MediaType     string     `json:"mediaType"`
		Manifests     []referrer `json:"manifests"`
	}
	if err := json.Unmarshal(got.body, &list); err != nil || list.SchemaVersion != 2 || list.MediaType != indexType || list.Manifests == nil {
		f.t.Errorf("referrers = %s, %v", got.body, err)
	}
	filters := got.header.Values("OCI-Filters-Applied")
	if want := strings.Contains(query, "artifactType"); want != (len(filters) == 1 && filters[0] == "artifactType") {
		f.t.Errorf("OCI-Filters-Applied = %q", filters)
	}
	return list.Manifests
}

func testSubject(t *testing.T) {
	c := conform(t)
	image, _ := c.pushImage(c.auth, "app", "v1", "one")
	config, layer := digestOf([]byte("{}")), digestOf([]byte("layer one"))
	for _, subject := range []string{image, noDigest} {
		m := imageOf(config, layer, fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":1}`, manifestType, subject))
		got := c.put(digestOf(m), m, manifestType).want(t, 201)
		wantHeader(t, got, "OCI-Subject", subject)
		if list := c.referrers(c.auth, "app", subject, ""); len(list) != 1 || list[0].Digest != digestOf(m) {
			t.Errorf("referrers of %s = %+v", subject, list)
		}
	}
	wantHeader(t, c.put("plain", imageOf(config, layer, ""), manifestType).want(t, 201), "OCI-Subject", "")
}

func testListTags(t *testing.T) {
	c := conform(t)
	_, manifest := c.pushImage(c.auth, "app", "v1", "one")
	for _, tag := range []string{"alpha", "Beta", "gamma", "Alpha", "v10", "v2", "_x"} {
		c.put(tag, manifest, manifestType).want(t, 201)
	}
	all := []string{"_x", "Alpha", "alpha", "Beta", "gamma", "v1", "v10", "v2"}
	list := func(query string) ([]string, string) {
		t.Helper()
		got := c.ask("GET", "app/tags/list"+query, nil).want(t, 200)
		wantHeader(t, got, "Content-Type", "application/json")
		var body struct {
			Name string
			Tags []string
		}
		if err := json.Unmarshal(got.body, &body); err != nil || body.Name != "app" || body.Tags == nil {
			t.Fatalf("tags = %s, %v", got.body, err)
		}
		return body.Tags, got.header.Get("Link")
	}
	for _, row := range []struct {
		query string
		want  []string
		link  string
	}{
		{"", all, ""},
		{"?n=3", all[:3], `</v2/app/tags/list?last=alpha&n=3>; rel="next"`},
		{"?n=8", all, ""},
		{"?n=100", all, ""},
		{"?n=0", nil, ""},
		{"?n=0&last=Beta", nil, ""},
		{"?last=Beta", all[4:], ""},
		{"?n=2&last=Beta", all[4:6], `</v2/app/tags/list?last=v1&n=2>; rel="next"`},
		{"?n=2&last=between", all[4:6], `</v2/app/tags/list?last=v1&n=2>; rel="next"`},
		{"?last=zz", nil, ""},
	} {
		got, link := list(row.query)
		if diff := cmp.Diff(append([]string{}, row.want...), got); diff != "" || link != row.link {
			t.Errorf("tags%s: link %s (-want +got):\n%s", row.query, link, diff)
		}
	}
	var walked []string
	for query := "?n=3"; query != ""; {
		page, link := list(query)
		walked = append(walked, page...)
		_, query, _ = strings.Cut(link, "?")
		if query, _, _ = strings.Cut(query, ">"); query != "" {
			query = "?" + query
		}
	}
	if diff := cmp.Diff(all, walked); diff != "" {
		t.Errorf("tags by Link (-want +got):\n%s", diff)
	}
	c.ask("GET", "app/tags/list?n=-1", nil).wantCode(t, 400, "UNSUPPORTED")
	c.ask("GET", "gone/tags/list", nil).wantCode(t, 404, "NAME_UNKNOWN")
	c.pushBlob(c.auth, "untagged", []byte("x"))
	wantBody(t, c.ask("GET", "untagged/tags/list", nil).want(t, 200), []byte(`{"name":"untagged","tags":[]}`))
}

func testListReferrers(t *testing.T) {
	c := conform(t)
	image, _ := c.pushImage(c.auth, "app", "v1", "one")
	config, layer := digestOf([]byte("{}")), digestOf([]byte("layer one"))
	subject := fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":1}`, manifestType, image)
	if got := c.referrers(c.auth, "app", image, ""); len(got) != 0 {
		t.Errorf("referrers of none = %+v", got)
	}
	sbom := imageOf(config, layer, subject+`,"artifactType":"application/vnd.example.sbom","annotations":{"format":"json"}`)
	plain := imageOf(config, layer, subject)
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[]%s,"annotations":{"a":"b"}}`, indexType, subject)
	c.put(digestOf(sbom), sbom, manifestType).want(t, 201)
	c.put("plain", plain, manifestType).want(t, 201)
	c.put(digestOf(index), index, indexType).want(t, 201)
	want := map[string]referrer{
		digestOf(sbom):  {manifestType, digestOf(sbom), len(sbom), "application/vnd.example.sbom", map[string]string{"format": "json"}},
		digestOf(plain): {manifestType, digestOf(plain), len(plain), "application/vnd.oci.image.config.v1+json", nil},
		digestOf(index): {indexType, digestOf(index), len(index), "", map[string]string{"a": "b"}},
	}
	byDigest := func(list []referrer) map[string]referrer {
		m := map[string]referrer{}
		for _, r := range list {
			m[r.Digest] = r
		}
		return m
	}
	// The second time the list comes from olareg's memory.
	for range 2 {
		if diff := cmp.Diff(want, byDigest(c.referrers(c.auth, "app", image, ""))); diff != "" {
			t.Errorf("referrers (-want +got):\n%s", diff)
		}
		got := c.referrers(c.auth, "app", image, "?artifactType=application/vnd.example.sbom")
		if diff := cmp.Diff([]referrer{want[digestOf(sbom)]}, got); diff != "" {
			t.Errorf("filtered (-want +got):\n%s", diff)
		}
		if got := c.referrers(c.auth, "app", image, "?artifactType=application/vnd.example.none"); len(got) != 0 {
			t.Errorf("filtered for none = %+v", got)
		}
	}
	for _, repository := range []string{"app", "gone"} {
		for _, query := range []string{"", "?artifactType=x"} {
			if got := c.referrers(c.auth, repository, noDigest, query); len(got) != 0 {
				t.Errorf("referrers of nothing in %s = %+v", repository, got)
			}
		}
	}
	c.pushBlob(c.auth, "other", []byte("x"))
	if got := c.referrers(c.auth, "other", image, "?cache="+digestOf(sbom)+"&page=1"); len(got) != 0 {
		t.Errorf("referrers of another repository = %+v", got)
	}
	c.ask("GET", "app/referrers/nonsense", nil).wantCode(t, 400, "DIGEST_INVALID")
	c.ask("GET", "app/referrers/v1", nil).wantCode(t, 400, "DIGEST_INVALID")

	// A tag is not the manifest: without it, the manifest refers all the same.
	c.ask("DELETE", "app/manifests/plain", nil).want(t, 202)
	if diff := cmp.Diff(want, byDigest(c.referrers(c.auth, "app", image, ""))); diff != "" {
		t.Errorf("referrers after a tag was deleted (-want +got):\n%s", diff)
	}
	c.ask("DELETE", "app/manifests/"+digestOf(plain), nil).want(t, 202)
	delete(want, digestOf(plain))
	if diff := cmp.Diff(want, byDigest(c.referrers(c.auth, "app", image, ""))); diff != "" {
		t.Errorf("referrers after one was deleted (-want +got):\n%s", diff)
	}
	c.restart()
	if diff := cmp.Diff(want, byDigest(c.referrers(c.auth, "app", image, ""))); diff != "" {
		t.Errorf("referrers after a restart (-want +got):\n%s", diff)
	}
}

func testDeleteTags(t *testing.T) {
	c := conform(t)
	digest, manifest := c.pushImage(c.auth, "app", "v1", "one")
	c.put("v2", manifest, manifestType).want(t, 201)
	c.ask("DELETE", "app/manifests/v1", nil).want(t, 202)
	c.ask("GET", "app/manifests/v1", nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	c.ask("GET", "app/manifests/v2", nil).want(t, 200)
	c.ask("GET", "app/manifests/"+digest, nil).want(t, 200)
	c.ask("DELETE", "app/manifests/v1", nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	c.ask("DELETE", "app/manifests/v2", nil).want(t, 202)
	c.ask("GET", "app/manifests/"+digest, nil).want(t, 200)
}

func testDeleteManifests(t *testing.T) {
	c := conform(t)
	digest, manifest := c.pushImage(c.auth, "app", "v1", "one")
	c.put("v2", manifest, manifestType).want(t, 201)
	c.ask("DELETE", "app/manifests/"+digest, nil).want(t, 202)
	for _, reference := range []string{digest, "v1", "v2"} {
		c.ask("GET", "app/manifests/"+reference, nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	}
	c.ask("DELETE", "app/manifests/"+digest, nil).wantCode(t, 404, "MANIFEST_UNKNOWN")
	c.ask("DELETE", "gone/manifests/"+digest, nil).want(t, 404)
	c.put("v1", manifest, manifestType).want(t, 201)
	c.ask("GET", "app/manifests/v1", nil).want(t, 200)
}

func testDeleteBlobs(t *testing.T) {
	c := conform(t)
	digest := c.pushBlob(c.auth, "app", []byte("blob"))
	c.pushBlob(c.auth, "other", []byte("blob"))
	c.ask("DELETE", "app/blobs/"+digest, nil).want(t, 202)
	c.ask("GET", "app/blobs/"+digest, nil).wantCode(t, 404, "BLOB_UNKNOWN")
	c.ask("DELETE", "app/blobs/"+digest, nil).wantCode(t, 404, "BLOB_UNKNOWN")
	c.ask("DELETE", "gone/blobs/"+digest, nil).want(t, 404)
	c.ask("GET", "other/blobs/"+digest, nil).want(t, 200)
}

func testSupport(t *testing.T) {
	c := conform(t)
	for _, path := range []string{"/v2/", "/v2"} {
		wantBody(t, c.ask("GET", path, nil).want(t, 200), []byte("{}"))
		c.ask("HEAD", path, nil).want(t, 200)
	}
}

// Each JSON body of an error has the form and one of the codes of the section.
func testErrorCodes(t *testing.T) {
	c := conform(t)
	c.pushImage(c.auth, "app", "v1", "one")
	known := " BLOB_UNKNOWN BLOB_UPLOAD_INVALID BLOB_UPLOAD_UNKNOWN DIGEST_INVALID MANIFEST_BLOB_UNKNOWN MANIFEST_INVALID MANIFEST_UNKNOWN " +
		"NAME_INVALID NAME_UNKNOWN SIZE_INVALID UNAUTHORIZED DENIED UNSUPPORTED TOOMANYREQUESTS "
	for _, r := range []request{
		{method: "GET", path: "/v2/nothing"}, {method: "GET", path: "/v2/app/manifests/x"}, {method: "GET", path: "/v2/App/tags/list"},
		{method: "GET", path: "/v2/gone/tags/list"}, {method: "PUT", path: "/v2/app/blobs/" + noDigest}, {method: "POST", path: "/v2/"},
		{method: "PUT", path: "/v2/app/manifests/v2", body: []byte("?")}, {method: "GET", path: "/v2/app/blobs/uploads/x"},
		{method: "POST", path: "/v2/app/blobs/uploads/?digest=x"}, {method: "GET", path: "/v2/app/referrers/x"}, {method: "GET", path: "/v2/_catalog?n=x"},
		{method: "PATCH", path: c.begin(), header: map[string]string{"Content-Range": "9-10"}}, {method: "PATCH", path: c.begin() + "x"},
		{method: "GET", path: "/v2/app/manifests/v1", header: map[string]string{"Accept": "text/plain"}},
	} {
		r.auth = c.auth
		got := c.do(r)
		if got.status < 400 || got.status >= 500 || !strings.Contains(known, " "+got.code()+" ") {
			t.Errorf("%s %s: %d %s", r.method, r.path, got.status, got.body)
		}
		wantHeader(t, got, "Content-Type", "application/json")
	}
}

// A list that is too long comes in pages, and no page is handed out through
// another repository.
func testReferrerPages(t *testing.T) {
	c := conform(t)
	image, _ := c.pushImage(c.auth, "theirs/app", "v1", "one")
	c.pushBlob(c.auth, "mine/app", []byte("x"))
	config, layer := digestOf([]byte("{}")), digestOf([]byte("layer one"))
	const count = 5
	for i := range count {
		m := imageOf(config, layer, fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":1},"annotations":{"n":"%d%s"}`,
			manifestType, image, i, strings.Repeat("x", 1<<20)))
		c.putManifest(c.auth, "theirs/app", digestOf(m), m).want(t, 201)
	}
	seen := map[string]bool{}
	next := "/v2/theirs/app/referrers/" + image
	for next != "" {
		got := c.ask("GET", next, nil).want(t, 200)
		if strings.Contains(next, "page=") {
			_, query, _ := strings.Cut(next, "?")
			if stolen := c.referrers(c.auth, "mine/app", image, "?"+query); len(stolen) != 0 {
				t.Errorf("page of another repository has %d referrers", len(stolen))
			}
		}
		var page struct{ Manifests []referrer }
		if err := json.Unmarshal(got.body, &page); err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Manifests {
			seen[r.Digest] = true
		}
		_, next, _ = strings.Cut(got.header.Get("Link"), "<")
		next, _, _ = strings.Cut(next, ">")
	}
	if len(seen) != count {
		t.Errorf("%d referrers in all pages, want %d", len(seen), count)
	}
}
