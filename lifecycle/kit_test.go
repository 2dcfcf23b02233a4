package lifecycle_test

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/registry/oci"
)

const host = "registry.example.com"

var epoch = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

// kit is a registry that images are pushed to.
type kit struct {
	*testing.T
	fake *fakeregistry.Registry
	*oci.Registry
}

func newKit(t *testing.T, config fakeregistry.Config) *kit {
	t.Helper()
	fake := fakeregistry.New(config)
	return &kit{T: t, fake: fake, Registry: oci.New(oci.Config{Host: host, Transport: fake})}
}

func repository(path string) image.Repository { return image.Repository{Host: host, Path: path} }

func (k *kit) blob(path, mediaType, content string) ocispec.Descriptor {
	k.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	_, err := k.WriteBlob(k.Context(), path, image.Blob{Digest: d.Digest, Size: d.Size}, "", func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(content)), nil
	})
	if err != nil {
		k.Fatal(err)
	}
	return d
}

// put writes a manifest, under a tag if one is given.
func (k *kit) put(path, tag, mediaType string, doc any) ocispec.Descriptor {
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

// platform writes an image of one platform, of a layer of its own and one that all
// share.
func (k *kit) platform(path, tag, architecture, content string, built time.Time) ocispec.Descriptor {
	k.Helper()
	config, err := json.Marshal(ocispec.Image{Created: &built, Platform: ocispec.Platform{OS: "linux", Architecture: architecture}, Author: content})
	if err != nil {
		k.Fatal(err)
	}
	d := k.put(path, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: k.blob(path, ocispec.MediaTypeImageConfig, string(config)),
		Layers: []ocispec.Descriptor{
			k.blob(path, ocispec.MediaTypeImageLayerGzip, "base"),
			k.blob(path, ocispec.MediaTypeImageLayerGzip, content+architecture),
		},
	})
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
	return d
}

// index writes an image of two platforms.
func (k *kit) index(path, tag, content string, built time.Time) ocispec.Descriptor {
	k.Helper()
	return k.put(path, tag, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{
			k.platform(path, "", "amd64", content, built), k.platform(path, "", "arm64", content, built),
		},
	})
}

// artifact writes something that belongs to a subject; under a tag if one is given.
func (k *kit) artifact(path, tag, content string, subject *ocispec.Descriptor) ocispec.Descriptor {
	k.Helper()
	return k.put(path, tag, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/example",
		Config: k.blob(path, ocispec.MediaTypeEmptyJSON, "{}"),
		Layers: []ocispec.Descriptor{k.blob(path, "application/example", content)}, Subject: subject,
	})
}

// sign writes a signature as cosign did before version 3.
func (k *kit) sign(path string, of ocispec.Descriptor) ocispec.Descriptor {
	k.Helper()
	return k.artifact(path, image.ReferrersTag(of.Digest)+".sig", "signature of "+of.Digest.String(), nil)
}

func (k *kit) inventory(path string) *image.Inventory {
	k.Helper()
	inventory, err := lifecycle.Read(k.Context(), k.Registry, repository(path), lifecycle.Reading{Dates: true})
	if err != nil {
		k.Fatal(err)
	}
	return inventory
}

// whole fails unless the image pulls: all manifests and all blobs of it come, each
// with its digest.
func (k *kit) whole(path, target string) {
	k.Helper()
	found, err := k.Resolve(k.Context(), path, target)
	if err != nil {
		k.Errorf("%s:%s does not pull: %v", path, target, err)
		return
	}
	mediaType, raw, err := k.Manifest(k.Context(), path, found.Digest)
	if err != nil {
		k.Errorf("%s:%s does not pull: %v", path, target, err)
		return
	}
	m, err := image.ParseManifest(found.Digest, mediaType, raw)
	if err != nil {
		k.Fatal(err)
	}
	for _, child := range m.Children {
		k.whole(path, child.Digest.String())
	}
	for _, blob := range m.Blobs() {
		content, err := k.Blob(k.Context(), path, blob.Digest)
		if err != nil {
			k.Errorf("%s:%s does not pull: %v", path, target, err)
			continue
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			k.Errorf("%s:%s: blob: %v", path, target, err)
		}
		content.Close()
	}
}

func (k *kit) gone(path, target string) {
	k.Helper()
	if _, err := k.Resolve(k.Context(), path, target); err == nil {
		k.Errorf("%s:%s is there still", path, target)
	}
}
