package image

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Inventory is what is known of one repository at one moment.
type Inventory struct {
	Repository Repository
	// Tags are all tags, by name, those that [Attached] knows among them.
	Tags map[string]Tag
	// Untagged are manifests without a tag, where the registry tells of them.
	Untagged map[digest.Digest]Tag
	// Manifests are all that the tags, the untagged and the referrers lead to.
	Manifests *Manifests
	// Referrers are, by subject, the manifests that the registry's own list
	// tells of. Those that name a subject themselves are known from Manifests.
	Referrers map[digest.Digest][]digest.Digest
	// Missing are manifests that something leads to and the registry does not
	// have.
	Missing map[digest.Digest]bool
	// Unread says what could not be read, and why: what it leads to is not known.
	Unread []Unread
}

// Unread is a part of a repository of which nothing is known.
type Unread struct {
	// What is a tag, a digest, or a list.
	What string `json:"what"`
	Why  string `json:"why"`
}

// NewInventory makes an inventory of an empty repository.
func NewInventory(repository Repository) *Inventory {
	return &Inventory{
		Repository: repository,
		Tags:       map[string]Tag{},
		Untagged:   map[digest.Digest]Tag{},
		Manifests:  NewManifests(),
		Referrers:  map[digest.Digest][]digest.Digest{},
		Missing:    map[digest.Digest]bool{},
	}
}

// Image is what people call one: a manifest that is no part of another, with its
// tags. A signature or attestation is none.
type Image struct {
	Digest digest.Digest
	// Tags are its names, sorted; none for one without.
	Tags []string
}

// Images lists the images that have a tag, sorted by digest.
func (v *Inventory) Images() []Image {
	tags := map[digest.Digest][]string{}
	for _, name := range slices.Sorted(maps.Keys(v.Tags)) {
		if _, attached := Attached(name); !attached {
			d := v.Tags[name].Digest
			tags[d] = append(tags[d], name)
		}
	}
	images := make([]Image, 0, len(tags))
	for _, d := range slices.Sorted(maps.Keys(tags)) {
		images = append(images, Image{Digest: d, Tags: tags[d]})
	}
	return images
}

// Size is what manifests take together, in bytes: see [Manifests.Size].
func (v *Inventory) Size(manifests iter.Seq[digest.Digest]) int64 { return v.Manifests.Size(manifests) }

// Short is a digest as people are shown it: the first twelve digits.
func Short(d digest.Digest) string {
	_, hex, _ := strings.Cut(d.String(), ":")
	return hex[:min(len(hex), 12)]
}

// Built is when an image was built: as it says itself or, of an index, as the
// latest of its platforms says. It is zero where nobody says.
func (v *Inventory) Built(d digest.Digest) time.Time {
	return v.built(d, map[digest.Digest]bool{})
}

func (v *Inventory) built(d digest.Digest, seen map[digest.Digest]bool) time.Time {
	m := v.Manifests.Get(d)
	if m == nil || seen[d] {
		return time.Time{}
	}
	seen[d] = true
	latest := m.Built()
	if !latest.IsZero() {
		return latest
	}
	for _, c := range m.Children {
		if c.Attests != "" {
			continue
		}
		if at := v.built(c.Digest, seen); at.After(latest) {
			latest = at
		}
	}
	return latest
}
