package jobimage_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle/jobimage"
	"github.com/regkeeper/regkeeper/registry/oci"
)

const (
	host = "registry.example.com"
	path = "team/ci"
)

// entry is one entry of a layer's archive.
type entry struct {
	name string
	kind byte
	mode int64
	link string
	body []byte
}

func program(name string) entry {
	return entry{name: name, kind: tar.TypeReg, mode: 0o755, body: []byte("\x7fELF")}
}

func script(name, interpreter string) entry {
	return entry{name: name, kind: tar.TypeReg, mode: 0o755, body: []byte("#!" + interpreter + "\nexit 0\n")}
}

func plain(name string) entry  { return entry{name: name, kind: tar.TypeReg, mode: 0o644} }
func folder(name string) entry { return entry{name: name + "/", kind: tar.TypeDir, mode: 0o755} }
func soft(name, to string) entry {
	return entry{name: name, kind: tar.TypeSymlink, mode: 0o777, link: to}
}
func hard(name, to string) entry  { return entry{name: name, kind: tar.TypeLink, mode: 0o755, link: to} }
func gone(dir, name string) entry { return entry{name: dir + "/.wh." + name, kind: tar.TypeReg} }
func opaque(dir string) entry     { return gone(dir, ".wh..opq") }

// bulk is a file that does not compress, of so many KiB.
func bulk(name string, kib int) entry {
	body := make([]byte, kib<<10)
	seed := [32]byte{}
	copy(seed[:], name)
	_, _ = rand.NewChaCha8(seed).Read(body) // which never fails
	return entry{name: name, kind: tar.TypeReg, mode: 0o644, body: body}
}

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Typeflag: e.kind, Mode: e.mode, Linkname: e.link, Size: int64(len(e.body))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// blob is a layer as it is in a registry.
type blob struct {
	mediaType string
	raw       []byte
	urls      []string
	lost      bool
}

func layer(t testing.TB, entries ...entry) blob {
	t.Helper()
	var out bytes.Buffer
	w, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	_, _ = w.Write(archive(t, entries...))
	_ = w.Close()
	return blob{mediaType: ocispec.MediaTypeImageLayerGzip, raw: out.Bytes()}
}

func bare(t testing.TB, entries ...entry) blob {
	t.Helper()
	return blob{mediaType: ocispec.MediaTypeImageLayer, raw: archive(t, entries...)}
}

func zstandard(t testing.TB, entries ...entry) blob {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return blob{mediaType: ocispec.MediaTypeImageLayerZstd, raw: w.EncodeAll(archive(t, entries...), nil)}
}

// kit is a registry that images are pushed to.
type kit struct {
	testing.TB
	fake *fakeregistry.Registry
	*oci.Registry
	lost map[digest.Digest]bool // blobs that were there once
}

func newKit(t testing.TB) *kit {
	t.Helper()
	lost := map[digest.Digest]bool{}
	fake := fakeregistry.New(fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
		_, of, _ := strings.Cut(r.URL.Path, "/blobs/")
		if r.Method != http.MethodGet || !lost[digest.Digest(of)] {
			return false
		}
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors": [{"code": "BLOB_UNKNOWN"}]}`)
		return true
	}})
	return &kit{TB: t, fake: fake, Registry: oci.New(oci.Config{Host: host, Transport: fake}), lost: lost}
}

func (k *kit) blob(mediaType string, raw []byte) ocispec.Descriptor {
	k.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	_, err := k.WriteBlob(k.Context(), path, image.Blob{Digest: d.Digest, Size: d.Size}, "", func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(raw)), nil
	})
	if err != nil {
		k.Fatal(err)
	}
	return d
}

func (k *kit) put(tag, mediaType string, doc any) ocispec.Descriptor {
	k.Helper()
	raw, err := json.Marshal(doc)
	if err != nil {
		k.Fatal(err)
	}
	d, err := k.WriteManifest(k.Context(), path, tag, mediaType, raw)
	if err != nil {
		k.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
}

// image pushes an image of one platform under a tag, if one is given.
func (k *kit) image(tag, platform string, env []string, layers ...blob) ocispec.Descriptor {
	k.Helper()
	parts := strings.SplitN(platform+"//", "/", 4)
	of := ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	config, err := json.Marshal(ocispec.Image{Platform: of, Config: ocispec.ImageConfig{Env: env}})
	if err != nil {
		k.Fatal(err)
	}
	doc := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: k.blob(ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{},
	}
	for _, l := range layers {
		d := k.blob(l.mediaType, l.raw)
		d.URLs = l.urls
		k.lost[d.Digest] = l.lost
		doc.Layers = append(doc.Layers, d)
	}
	d := k.put(tag, doc.MediaType, doc)
	d.Platform = &of
	return d
}

// linux pushes an image for linux/amd64 with the PATH that is usual.
func (k *kit) linux(tag string, layers ...blob) {
	k.Helper()
	k.image(tag, "linux/amd64", nil, layers...)
}

func (k *kit) index(tag string, children ...ocispec.Descriptor) ocispec.Descriptor {
	k.Helper()
	return k.put(tag, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: children,
	})
}

func reference(tag string) image.Reference {
	return image.Reference{Repository: image.Repository{Host: host, Path: path}, Tag: tag}
}

func (k *kit) check(tag string, change ...func(*jobimage.Config)) jobimage.Report {
	k.Helper()
	report, err := k.try(tag, change...)
	if err != nil {
		k.Fatal(err)
	}
	return report
}

func (k *kit) try(tag string, change ...func(*jobimage.Config)) (jobimage.Report, error) {
	config := jobimage.Config{Reader: k.Registry, Default: "linux/amd64"}
	for _, c := range change {
		c(&config)
	}
	return jobimage.New(config).Check(k.Context(), reference(tag))
}

func needs(names ...string) func(*jobimage.Config) {
	return func(c *jobimage.Config) { c.Needs = names }
}

func platforms(names ...string) func(*jobimage.Config) {
	return func(c *jobimage.Config) { c.Platforms = names }
}
