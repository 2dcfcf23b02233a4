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
	Manifests map[digest.Digest]*Manifest
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
		Manifests:  map[digest.Digest]*Manifest{},
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
	// Manifest is nil if it could not be read.
	Manifest *Manifest
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
		images = append(images, Image{Digest: d, Tags: tags[d], Manifest: v.Manifests[d]})
	}
	return images
}

// Graph answers what leads where in an inventory.
type Graph struct {
	inventory *Inventory
	parents   map[digest.Digest][]digest.Digest
	attached  map[digest.Digest][]digest.Digest
	tags      map[digest.Digest][]string
	// listed are, by referrer, the subjects that the registry's lists tell of.
	listed map[digest.Digest]digest.Digest
	// short are, by the tags of their lists of referrers, the manifests whose
	// digests are too long for a tag.
	short map[string]digest.Digest
}

// Graph indexes the inventory as it is now.
func (v *Inventory) Graph() *Graph {
	g := &Graph{
		inventory: v,
		parents:   map[digest.Digest][]digest.Digest{},
		attached:  map[digest.Digest][]digest.Digest{},
		tags:      map[digest.Digest][]string{},
		listed:    map[digest.Digest]digest.Digest{},
	}
	for d, m := range v.Manifests {
		for _, c := range m.Children {
			g.parents[c.Digest] = append(g.parents[c.Digest], d)
		}
		if m.Subject != "" {
			g.attached[m.Subject] = append(g.attached[m.Subject], d)
		}
	}
	for subject, referrers := range v.Referrers {
		g.attached[subject] = append(g.attached[subject], referrers...)
		for _, d := range referrers {
			if g.listed[d] == "" || subject < g.listed[d] {
				g.listed[d] = subject
			}
		}
	}
	g.short = map[string]digest.Digest{}
	for d := range v.Manifests {
		if d.Algorithm() == digest.SHA512 {
			g.short[ReferrersTag(d)] = d
		}
	}
	for name, tag := range v.Tags {
		g.tags[tag.Digest] = append(g.tags[tag.Digest], name)
		if subject, ok := g.subject(name); ok {
			g.attached[subject] = append(g.attached[subject], tag.Digest)
		}
	}
	for _, lists := range []map[digest.Digest][]digest.Digest{g.parents, g.attached} {
		for d, list := range lists {
			slices.Sort(list)
			lists[d] = slices.Compact(list)
		}
	}
	for _, names := range g.tags {
		slices.Sort(names)
	}
	return g
}

// Tags are the names of a manifest, sorted.
func (g *Graph) Tags(d digest.Digest) []string { return g.tags[d] }

// Parents are the indexes that name a manifest.
func (g *Graph) Parents(d digest.Digest) []digest.Digest { return g.parents[d] }

// Attached are the manifests that belong to another: its referrers, and what is
// kept under a tag made of its digest.
func (g *Graph) Attached(d digest.Digest) []digest.Digest { return g.attached[d] }

// Subject is what a manifest belongs to, if it is known to belong to one.
func (g *Graph) Subject(d digest.Digest) (digest.Digest, bool) {
	if m := g.inventory.Manifests[d]; m != nil && m.Subject != "" {
		return m.Subject, true
	}
	if subject, ok := g.listed[d]; ok {
		return subject, true
	}
	for _, name := range g.tags[d] {
		if subject, ok := g.subject(name); ok {
			return subject, true
		}
	}
	return "", false
}

// subject is what a tag is attached to by its name.
func (g *Graph) subject(tag string) (digest.Digest, bool) {
	subject, ok := Attached(tag)
	if ok && subject == "" {
		tag, _, _ = strings.Cut(tag, ".")
		subject, ok = g.short[tag]
	}
	return subject, ok
}

// Closure is all that manifests need and all that belongs to them: children,
// attachments, and these ones' own, to the end. The roots are in it.
func (g *Graph) Closure(roots iter.Seq[digest.Digest]) map[digest.Digest]bool {
	closure := map[digest.Digest]bool{}
	queue := slices.Collect(roots)
	for len(queue) > 0 {
		d := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if closure[d] {
			continue
		}
		closure[d] = true
		if m := g.inventory.Manifests[d]; m != nil {
			for _, c := range m.Children {
				queue = append(queue, c.Digest)
			}
		}
		queue = append(queue, g.attached[d]...)
	}
	return closure
}

// Size is what manifests take together, in bytes: each manifest and each blob
// counted once. What could not be read counts nothing.
func (v *Inventory) Size(manifests iter.Seq[digest.Digest]) int64 {
	seen := map[digest.Digest]bool{}
	var sum int64
	count := func(d digest.Digest, size int64) {
		if !seen[d] {
			seen[d] = true
			sum += size
		}
	}
	for d := range manifests {
		m := v.Manifests[d]
		if m == nil {
			continue
		}
		count(d, m.Size)
		for _, b := range m.Blobs() {
			if len(b.URLs) == 0 {
				count(b.Digest, b.Size)
			}
		}
	}
	return sum
}

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
	m := v.Manifests[d]
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
