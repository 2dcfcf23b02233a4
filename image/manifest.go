package image

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's image manifest, version 2, schema 2.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// attests is the annotation by which BuildKit tells of a child of an index that
// it attests another child (BuildKit's docs/attestations/attestation-storage.md).
const attests = "vnd.docker.reference.digest"

// DeletingAnnotation marks a manifest that a tag is led to so that the tag can be
// deleted with it, where a registry deletes by digest alone. Nobody wants it.
const DeletingAnnotation = "dev.regkeeper.deleting"

// Blob is content that a manifest names: a layer, or a config.
type Blob struct {
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"` // in bytes
	MediaType string        `json:"mediaType,omitempty"`
	// URLs are where content is that registries do not keep (foreign layers).
	URLs []string `json:"urls,omitempty"`
}

// Child is a manifest that an index names.
type Child struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType,omitempty"`
	Size      int64         `json:"size"` // of the manifest, in bytes
	// Platform is os/architecture[/variant]; empty where none is named.
	Platform string `json:"platform,omitempty"`
	// Attests is the child that this one tells of; empty for an image.
	Attests digest.Digest `json:"attests,omitempty"`
}

// Manifest is what a registry has under one digest: an image of one platform, an
// index of several, or an artifact.
type Manifest struct {
	Digest       digest.Digest `json:"digest"`
	MediaType    string        `json:"mediaType"`
	ArtifactType string        `json:"artifactType,omitempty"`
	Size         int64         `json:"size"` // of the manifest itself, in bytes
	// Subject is what the manifest refers to; empty if nothing.
	Subject  digest.Digest `json:"subject,omitempty"`
	Children []Child       `json:"children,omitempty"`
	Config   *Blob         `json:"config,omitempty"`
	Layers   []Blob        `json:"layers,omitempty"`
	// Deleting says that the manifest stands under a tag only so that the tag can
	// be deleted: see [DeletingAnnotation].
	Deleting bool `json:"deleting,omitempty"`
	// Created is when the image was built by its annotation or, once that was
	// read, by its config; zero where neither says.
	Created time.Time `json:"created,omitzero"`
	// Platform is os/architecture[/variant] by the config, once that was read.
	Platform string `json:"platform,omitempty"`
}

// Blobs are the config and the layers.
func (m *Manifest) Blobs() []Blob {
	if m.Config == nil {
		return m.Layers
	}
	return append([]Blob{*m.Config}, m.Layers...)
}

// IsIndex says whether the manifest is a list of manifests.
func (m *Manifest) IsIndex() bool {
	return m.MediaType == ocispec.MediaTypeImageIndex || m.MediaType == DockerIndex
}

// IsImage says whether a container can be made of the manifest.
func (m *Manifest) IsImage() bool {
	if m.Config == nil || m.ArtifactType != "" && m.ArtifactType != m.Config.MediaType {
		return false
	}
	return m.Config.MediaType == ocispec.MediaTypeImageConfig || m.Config.MediaType == "application/vnd.docker.container.image.v1+json"
}

// ParseManifest reads a manifest: an OCI image manifest, image index or artifact
// (OCI image specification, "manifest.md" and "image-index.md"), or one of
// Docker's. Any other is an error: what it names would not be known.
func ParseManifest(d digest.Digest, mediaType string, raw []byte) (*Manifest, error) {
	var doc struct {
		SchemaVersion int                  `json:"schemaVersion"`
		MediaType     string               `json:"mediaType"`
		ArtifactType  string               `json:"artifactType"`
		Config        *ocispec.Descriptor  `json:"config"`
		Layers        []ocispec.Descriptor `json:"layers"`
		Blobs         []ocispec.Descriptor `json:"blobs"`
		Manifests     []ocispec.Descriptor `json:"manifests"`
		Subject       *ocispec.Descriptor  `json:"subject"`
		Annotations   map[string]string    `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("parse manifest %s: %w", d, err)
	}
	if doc.MediaType != "" {
		mediaType = doc.MediaType // what its digest vouches for
	}
	m := &Manifest{Digest: d, MediaType: mediaType, ArtifactType: doc.ArtifactType, Size: int64(len(raw))}
	// Both kinds of content in one document are an attack (CVE-2021-41190).
	indexed, layered := doc.Manifests != nil, doc.Config != nil || doc.Layers != nil || doc.Blobs != nil
	switch mediaType {
	case ocispec.MediaTypeImageIndex, DockerIndex:
		if layered {
			return nil, fmt.Errorf("parse manifest %s: an index with layers", d)
		}
	case ocispec.MediaTypeImageManifest, DockerManifest:
		if indexed {
			return nil, fmt.Errorf("parse manifest %s: an image with manifests", d)
		}
	case "application/vnd.oci.artifact.manifest.v1+json":
		if indexed || doc.Config != nil || doc.Layers != nil {
			return nil, fmt.Errorf("parse manifest %s: an artifact with layers or manifests", d)
		}
		// Of a release candidate of the specification; some still hold it.
		doc.Layers = doc.Blobs
	default:
		return nil, fmt.Errorf("parse manifest %s: media type %q is not known", d, mediaType)
	}
	for _, c := range doc.Manifests {
		child := Child{Digest: c.Digest, MediaType: c.MediaType, Size: c.Size, Attests: digest.Digest(c.Annotations[attests])}
		if c.Platform != nil && child.Attests == "" {
			child.Platform = platform(c.Platform.OS, c.Platform.Architecture, c.Platform.Variant)
		}
		m.Children = append(m.Children, child)
	}
	if doc.Config != nil {
		m.Config = &Blob{Digest: doc.Config.Digest, Size: doc.Config.Size, MediaType: doc.Config.MediaType}
	}
	for _, l := range doc.Layers {
		m.Layers = append(m.Layers, Blob{Digest: l.Digest, Size: l.Size, MediaType: l.MediaType, URLs: l.URLs})
	}
	if doc.Subject != nil {
		m.Subject = doc.Subject.Digest
	}
	named := slices.Concat(doc.Manifests, doc.Layers)
	for _, part := range []*ocispec.Descriptor{doc.Config, doc.Subject} {
		if part != nil {
			named = append(named, *part)
		}
	}
	for _, part := range named {
		if err := part.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("parse manifest %s: it names %q: %w", d, part.Digest, err)
		}
		if part.Size < 0 {
			return nil, fmt.Errorf("parse manifest %s: it names %s with a size of %d", d, part.Digest, part.Size)
		}
	}
	_, m.Deleting = doc.Annotations[DeletingAnnotation]
	created, _ := time.Parse(time.RFC3339, doc.Annotations[ocispec.AnnotationCreated])
	m.Created = sayable(created)
	return m, nil
}

// ReadConfig adds what an image's config says (OCI image specification,
// "config.md"). Where it says nothing, nothing is added.
func (m *Manifest) ReadConfig(raw []byte) error {
	var doc struct {
		Created      *time.Time `json:"created"`
		OS           string     `json:"os"`
		Architecture string     `json:"architecture"`
		Variant      string     `json:"variant"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("parse the config of %s: %w", m.Digest, err)
	}
	if m.Created.IsZero() && doc.Created != nil {
		m.Created = sayable(*doc.Created)
	}
	if doc.Architecture != "" {
		m.Platform = platform(doc.OS, doc.Architecture, doc.Variant)
	}
	return nil
}

// sayable is a time in UTC, or zero if it cannot be said in RFC 3339 there: the
// last hours of the year 9999 in zones behind UTC.
func sayable(at time.Time) time.Time {
	if at = at.UTC(); at.Year() < 0 || at.Year() > 9999 {
		return time.Time{}
	}
	return at
}

// Told says whether a time that a registry tells is one. Some say 1970, or the year
// 1, for what they do not know; no registry is so old.
func Told(at time.Time) bool {
	return at.Year() >= 1980 && !sayable(at).IsZero()
}

// Built returns when the image was built, of a time that a builder that makes the
// same of the same (SOURCE_DATE_EPOCH) did not make up: before 1980 is zero.
func (m *Manifest) Built() time.Time {
	if m.Created.Year() < 1980 {
		return time.Time{}
	}
	return m.Created
}

func platform(os, architecture, variant string) string {
	text := os + "/" + architecture
	if variant != "" {
		text += "/" + variant
	}
	return text
}
