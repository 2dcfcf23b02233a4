package image_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
)

const (
	oci      = ocispec.MediaTypeImageManifest
	ociIndex = ocispec.MediaTypeImageIndex
	artifact = "application/vnd.oci.artifact.manifest.v1+json"
)

// blob is a descriptor, as JSON.
func blob(mediaType, name string, size int) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, digest.FromString(name), size)
}

var built = time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)

// manifests are what the parser reads, as the tools write it that are named.
var manifests = []struct {
	name, mediaType, raw string
	want                 image.Manifest
}{
	{
		name: "an image of one platform", mediaType: oci,
		raw: `{"schemaVersion":2,"mediaType":"` + oci + `","config":` + blob(ocispec.MediaTypeImageConfig, "config", 7) + `,"layers":[` + blob(ocispec.MediaTypeImageLayerGzip, "layer", 9) + `],"annotations":{"org.opencontainers.image.created":"2031-02-03T04:05:06Z"}}`,
		want: image.Manifest{
			MediaType: oci, Created: built,
			Config: &image.Blob{Digest: digest.FromString("config"), Size: 7, MediaType: ocispec.MediaTypeImageConfig},
			Layers: []image.Blob{{Digest: digest.FromString("layer"), Size: 9, MediaType: ocispec.MediaTypeImageLayerGzip}},
		},
	},
	{
		name: "an index of buildx, with an attestation", mediaType: ociIndex,
		raw: `{"schemaVersion":2,"manifests":[
			{"mediaType":"` + oci + `","digest":"` + digest.FromString("arm").String() + `","size":5,"platform":{"os":"linux","architecture":"arm64","variant":"v8"}},
			{"mediaType":"` + oci + `","digest":"` + digest.FromString("att").String() + `","size":6,"platform":{"os":"unknown","architecture":"unknown"},
			 "annotations":{"vnd.docker.reference.type":"attestation-manifest","vnd.docker.reference.digest":"` + digest.FromString("arm").String() + `"}}]}`,
		want: image.Manifest{MediaType: ociIndex, Children: []image.Child{
			{Digest: digest.FromString("arm"), MediaType: oci, Size: 5, Platform: "linux/arm64/v8"},
			{Digest: digest.FromString("att"), MediaType: oci, Size: 6, Attests: digest.FromString("arm")},
		}},
	},
	{
		name: "an image of Docker's, with a foreign layer", mediaType: image.DockerManifest,
		raw: `{"schemaVersion":2,"mediaType":"` + image.DockerManifest + `","config":` + blob("application/vnd.docker.container.image.v1+json", "config", 7) +
			`,"layers":[{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"` + digest.FromString("windows").String() + `","size":99,"urls":["https://example.com/w"]}]}`,
		want: image.Manifest{
			MediaType: image.DockerManifest,
			Config:    &image.Blob{Digest: digest.FromString("config"), Size: 7, MediaType: "application/vnd.docker.container.image.v1+json"},
			Layers:    []image.Blob{{Digest: digest.FromString("windows"), Size: 99, MediaType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", URLs: []string{"https://example.com/w"}}},
		},
	},
	{
		name: "a list of Docker's", mediaType: image.DockerIndex,
		raw:  `{"schemaVersion":2,"mediaType":"` + image.DockerIndex + `","manifests":[` + blob(image.DockerManifest, "amd", 5) + `]}`,
		want: image.Manifest{MediaType: image.DockerIndex, Children: []image.Child{{Digest: digest.FromString("amd"), MediaType: image.DockerManifest, Size: 5}}},
	},
	{
		name: "an SBOM with a subject", mediaType: oci,
		raw: `{"schemaVersion":2,"mediaType":"` + oci + `","artifactType":"application/spdx+json","config":` + blob(ocispec.MediaTypeEmptyJSON, "{}", 2) + `,"layers":[` + blob("application/spdx+json", "sbom", 9) + `],"subject":` + blob(oci, "image", 3) + `}`,
		want: image.Manifest{
			MediaType: oci, ArtifactType: "application/spdx+json", Subject: digest.FromString("image"),
			Config: &image.Blob{Digest: digest.FromString("{}"), Size: 2, MediaType: ocispec.MediaTypeEmptyJSON},
			Layers: []image.Blob{{Digest: digest.FromString("sbom"), Size: 9, MediaType: "application/spdx+json"}},
		},
	},
	{
		name: "an artifact of the release candidate", mediaType: artifact,
		raw: `{"mediaType":"` + artifact + `","artifactType":"a/b","blobs":[` + blob("x/y", "sbom", 9) + `],"subject":` + blob(oci, "image", 3) + `}`,
		want: image.Manifest{
			MediaType: artifact, ArtifactType: "a/b", Subject: digest.FromString("image"),
			Layers: []image.Blob{{Digest: digest.FromString("sbom"), Size: 9, MediaType: "x/y"}},
		},
	},
	{
		name: "what the digest vouches for, not the header", mediaType: oci,
		raw:  `{"schemaVersion":2,"mediaType":"` + ociIndex + `","manifests":[]}`,
		want: image.Manifest{MediaType: ociIndex},
	},
	{
		name: "a sha512 child", mediaType: ociIndex,
		raw:  `{"manifests":[{"mediaType":"` + oci + `","digest":"` + digest.SHA512.FromString("a").String() + `","size":1}]}`,
		want: image.Manifest{MediaType: ociIndex, Children: []image.Child{{Digest: digest.SHA512.FromString("a"), MediaType: oci, Size: 1}}},
	},
}

func TestParseManifest(t *testing.T) {
	t.Parallel()
	for _, c := range manifests {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := image.ParseManifest(some, c.mediaType, []byte(c.raw))
			if err != nil {
				t.Fatal(err)
			}
			c.want.Digest, c.want.Size = some, int64(len(c.raw))
			if diff := cmp.Diff(&c.want, got); diff != "" {
				t.Errorf("manifest (-want +got):\n%s", diff)
			}
		})
	}
}

// unreadable is what must not be taken for a manifest: what it names would not
// be known, and could be deleted.
var unreadable = []struct{ name, mediaType, raw string }{
	{"nothing", oci, ``},
	{"no object", oci, `[]`},
	{"null", ociIndex, `"x"`},
	{"an image with manifests (CVE-2021-41190)", oci, `{"config":` + blob("c/c", "c", 1) + `,"layers":[],"manifests":[` + blob(oci, "x", 1) + `]}`},
	{"an index with layers (CVE-2021-41190)", ociIndex, `{"manifests":[],"layers":[` + blob("c/c", "c", 1) + `]}`},
	{"an index with a config (CVE-2021-41190)", ociIndex, `{"manifests":[],"config":` + blob("c/c", "c", 1) + `}`},
	{"an index that says that it is an image (CVE-2021-41190)", ociIndex, `{"mediaType":"` + oci + `","manifests":[` + blob(oci, "x", 1) + `]}`},
	{"an artifact with manifests", artifact, `{"blobs":[],"manifests":[` + blob(oci, "x", 1) + `]}`},
	{"an artifact with layers", artifact, `{"blobs":[],"layers":[` + blob("c/c", "x", 1) + `]}`},
	{"schema 1", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`},
	{"no media type at all", "", `{"layers":[]}`},
	{"an unknown media type", "text/html", `{}`},
	{"a child without a digest", ociIndex, `{"manifests":[{"size":1}]}`},
	{"a child of a digest that is none", ociIndex, `{"manifests":[{"digest":"sha256:12","size":1}]}`},
	{"a child that leads out", ociIndex, `{"manifests":[{"digest":"../../other","size":1}]}`},
	{"a layer without a digest", oci, `{"layers":[{"size":1}]}`},
	{"a config without a digest", oci, `{"config":{}}`},
	{"a subject without a digest", oci, `{"config":` + blob("c/c", "c", 1) + `,"subject":{"size":1}}`},
	{"a subject of a digest that is none", oci, `{"subject":{"digest":"sha256:zz"}}`},
	{"a negative size of a layer", oci, `{"layers":[` + blob("c/c", "c", -1) + `]}`},
	{"a negative size of a child", ociIndex, `{"manifests":[` + blob(oci, "c", -1) + `]}`},
	{"a size that is no whole number", oci, `{"layers":[{"digest":"` + some.String() + `","size":1.5}]}`},
}

func TestParseManifestRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range unreadable {
		got, err := image.ParseManifest(some, c.mediaType, []byte(c.raw))
		if err == nil {
			t.Errorf("%s is read as %+v", c.name, got)
		} else if !strings.Contains(err.Error(), some.String()) {
			t.Errorf("%s: the error does not name the manifest: %v", c.name, err)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, c := range manifests {
		f.Add(c.mediaType, []byte(c.raw))
	}
	for _, c := range unreadable {
		f.Add(c.mediaType, []byte(c.raw))
	}
	f.Fuzz(func(t *testing.T, mediaType string, raw []byte) {
		m, err := image.ParseManifest(some, mediaType, raw)
		if err != nil {
			return
		}
		if m.Size != int64(len(raw)) || m.Digest != some {
			t.Errorf("it is %s of %d bytes", m.Digest, m.Size)
		}
		if m.IsIndex() && len(m.Blobs()) > 0 || !m.IsIndex() && len(m.Children) > 0 {
			t.Errorf("two kinds of content: %+v", m)
		}
		for _, c := range m.Children {
			if c.Digest.Validate() != nil || c.Size < 0 {
				t.Errorf("child %+v", c)
			}
		}
		for _, b := range m.Blobs() {
			if b.Digest.Validate() != nil || b.Size < 0 {
				t.Errorf("blob %+v", b)
			}
		}
		if m.Subject != "" && m.Subject.Validate() != nil {
			t.Errorf("subject %q", m.Subject)
		}
	})
}

func TestReadConfig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, raw string
		before    time.Time
		want      image.Manifest
	}{
		{"all", `{"created":"2031-02-03T04:05:06Z","os":"linux","architecture":"arm","variant":"v7"}`, time.Time{}, image.Manifest{Created: built, Platform: "linux/arm/v7"}},
		{"the annotation comes first", `{"created":"2030-01-01T00:00:00Z","os":"linux","architecture":"amd64"}`, built, image.Manifest{Created: built, Platform: "linux/amd64"}},
		{"nothing", `{}`, time.Time{}, image.Manifest{}},
		{"another zone", `{"created":"2031-02-03T06:05:06+02:00"}`, time.Time{}, image.Manifest{Created: built}},
		{"a year that UTC cannot say", `{"created":"9999-12-31T23:59:59-01:00"}`, time.Time{}, image.Manifest{}},
		{"null", `{"created":null}`, time.Time{}, image.Manifest{}},
	} {
		m := image.Manifest{Created: c.before}
		if err := m.ReadConfig([]byte(c.raw)); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if diff := cmp.Diff(c.want, m); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	for _, raw := range []string{``, `[]`, `{"created":"yesterday"}`} {
		if err := new(image.Manifest).ReadConfig([]byte(raw)); err == nil {
			t.Errorf("%q is read", raw)
		}
	}
}

func TestBuilt(t *testing.T) {
	t.Parallel()
	for at, want := range map[time.Time]time.Time{
		built:                 built,
		time.Unix(0, 0).UTC(): {}, // SOURCE_DATE_EPOCH=0
		time.Unix(1, 0).UTC(): {},
		time.Date(1979, 12, 31, 23, 59, 59, 0, time.UTC): {},
		{}: {},
		time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC): time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC),
	} {
		if got := (&image.Manifest{Created: at}).Built(); !got.Equal(want) {
			t.Errorf("created %v is built %v, want %v", at, got, want)
		}
	}
}

func TestIsImage(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"an image of one platform": true, "an image of Docker's, with a foreign layer": true,
		"an index of buildx, with an attestation": false, "an SBOM with a subject": false, "an artifact of the release candidate": false,
	} {
		for _, c := range manifests {
			if c.name == name && c.want.IsImage() != want {
				t.Errorf("%s is an image: %v", name, !want)
			}
		}
	}
}
