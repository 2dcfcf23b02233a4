package release

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
)

// built is an image as the registry has it.
type built struct {
	mediaType string
	raw       []byte
	manifest  *image.Manifest
	// revision is the commit that it says it is of; empty if it says none.
	revision string
}

func read(ctx context.Context, registry Registry, repository string, d digest.Digest) (*built, error) {
	mediaType, raw, err := registry.Manifest(ctx, repository, d)
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", d, repository, err)
	}
	b := &built{mediaType: mediaType, raw: raw, revision: revisionOf(raw)}
	if b.manifest, err = image.ParseManifest(d, mediaType, raw); err != nil {
		return nil, err
	}
	if b.revision != "" {
		return b, nil
	}
	for _, child := range b.parts() {
		_, raw, err := registry.Manifest(ctx, repository, child.Digest)
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", child.Digest, repository, err)
		}
		if b.revision = revisionOf(raw); b.revision != "" {
			break
		}
	}
	return b, nil
}

func revisionOf(raw []byte) string {
	var doc struct {
		Annotations map[string]string `json:"annotations"`
	}
	if json.Unmarshal(raw, &doc) != nil {
		return ""
	}
	return doc.Annotations[ocispec.AnnotationRevision]
}

// parts are the children that are images of a platform.
func (b *built) parts() (list []image.Child) {
	for _, child := range b.manifest.Children {
		if child.Platform != "" && child.Platform != "unknown/unknown" {
			list = append(list, child)
		}
	}
	return list
}

// images are the digests of the images themselves, sorted: the same for two
// builds that differ in their attestations alone.
func (b *built) images() []digest.Digest {
	if !b.manifest.IsIndex() {
		return []digest.Digest{b.manifest.Digest}
	}
	var list []digest.Digest
	for _, child := range b.parts() {
		list = append(list, child.Digest)
	}
	slices.Sort(list)
	return list
}

// lacks are the platforms that it is not for. Of one that is no index nobody
// knows without its config.
func (b *built) lacks(platforms []string) (list []string) {
	if !b.manifest.IsIndex() {
		return nil
	}
	for _, platform := range platforms {
		if !slices.ContainsFunc(b.parts(), func(c image.Child) bool { return same(c.Platform, platform) }) {
			list = append(list, platform)
		}
	}
	return list
}

// same says whether two platforms are one: arm64 is of variant v8 and arm of v7
// where none is named (containerd, package platforms, normalization).
func same(a, b string) bool { return platform(a) == platform(b) }

func platform(name string) string {
	switch name = strings.ToLower(name); {
	case strings.HasSuffix(name, "/arm64"):
		return name + "/v8"
	case strings.HasSuffix(name, "/arm"):
		return name + "/v7"
	}
	return name
}
