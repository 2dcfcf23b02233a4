package growth

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
)

// Image is what an image takes with all its platforms and all that belongs to
// it. Own is what no other image has, of any repository, and no manifest without
// one.
type Image struct {
	Repository image.Repository `json:"repository"`
	Digest     digest.Digest    `json:"digest"`
	Tags       []string         `json:"tags"`
	// Date is when it was pushed, or else built; zero if nobody says.
	Date time.Time `json:"date,omitzero"`
	Sizes
}

// Images lists the images of a repository that was added, largest first.
func (u *Usage) Images(of image.Repository) []Image {
	images := []Image{}
	for _, r := range u.repositories {
		if r.name == of {
			for _, h := range r.images {
				images = append(images, u.image(r, h))
			}
		}
	}
	slices.SortFunc(images, func(a, b Image) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Digest, b.Digest))
	})
	return images
}

func (u *Usage) image(r repository, h holder) Image {
	i := Image{Repository: r.name, Digest: u.digest(h.root), Tags: slices.Clone(h.tags)}
	if h.at != 0 {
		i.Date = time.Unix(h.at, 0).UTC()
	}
	for _, id := range h.has {
		i.Sizes.add(u.contents[id].size, u.contents[id].holders == 1)
	}
	return i
}

// Layer is a layer or a config of an image.
type Layer struct {
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"mediaType,omitempty"`
	Bytes     int64         `json:"bytes"`
	Config    bool          `json:"config,omitempty"`
	// Foreign layers are not in the registry, and count nothing.
	Foreign bool `json:"foreign,omitempty"`
	// Of are the parts of the image that have it: platforms, "attestation" for
	// what BuildKit puts into an index, "attached" for signatures and the like.
	Of []string `json:"of"`
	// Images counts the images that have it, this one among them.
	Images int `json:"images"`
	// With are the names of some of the others, sorted; three at most.
	With []string `json:"with,omitempty"`
}

// Detail is an image with its layers. Its Bytes are those of the layers that are
// not foreign, and of the manifests.
type Detail struct {
	Image
	// Manifests are the bytes of the manifests.
	Manifests int64 `json:"manifests"`
	// Layers come in the order of the manifests; each once.
	Layers []Layer `json:"layers"`
}

// Detail tells what an image is made of. It is false for what is no tagged image
// of a repository that was added.
func (u *Usage) Detail(inventory *image.Inventory, d digest.Digest) (Detail, bool) {
	var detail Detail
	found := false
	for _, r := range u.repositories {
		if r.name != inventory.Repository {
			continue
		}
		for _, h := range r.images {
			if u.digest(h.root) == d {
				detail.Image, found = u.image(r, h), true
			}
		}
	}
	if !found {
		return Detail{}, false
	}
	detail.Layers = []Layer{}
	at := map[digest.Digest]int{}
	walk(inventory, d, func(m *image.Manifest, of string) {
		detail.Manifests = plus(detail.Manifests, u.contents[u.id(inventory, m.Digest, 0)].size)
		for n, b := range m.Blobs() {
			i, seen := at[b.Digest]
			if !seen {
				i = len(detail.Layers)
				at[b.Digest] = i
				l := Layer{Digest: b.Digest, MediaType: b.MediaType, Config: n == 0 && m.Config != nil, Foreign: len(b.URLs) > 0}
				if !l.Foreign {
					id := u.id(inventory, b.Digest, 0)
					l.Bytes = u.contents[id].size
					l.Images, l.With = u.holders(id, inventory.Repository, d)
				}
				detail.Layers = append(detail.Layers, l)
			}
			if l := &detail.Layers[i]; !slices.Contains(l.Of, of) {
				l.Of = append(l.Of, of)
			}
		}
	})
	return detail, true
}

// walk visits all manifests of an image, each once: the platforms in their order,
// then what belongs to it.
func walk(inventory *image.Inventory, root digest.Digest, visit func(m *image.Manifest, of string)) {
	graph := inventory.Graph()
	seen := map[digest.Digest]bool{}
	var down func(d digest.Digest, of string)
	down = func(d digest.Digest, of string) {
		m := inventory.Manifests.Get(d)
		if m == nil || seen[d] {
			return
		}
		seen[d] = true
		own := cmp.Or(of, m.Platform, "image")
		visit(m, own)
		for _, c := range m.Children {
			switch {
			case of == "attached":
				down(c.Digest, of)
			case c.Attests != "":
				down(c.Digest, "attestation")
			default:
				down(c.Digest, c.Platform)
			}
		}
	}
	down(root, "")
	for {
		before := len(seen)
		var attached []digest.Digest
		for d := range seen {
			attached = append(attached, graph.Attached(d)...)
		}
		slices.Sort(attached)
		for _, d := range attached {
			down(d, "attached")
		}
		if len(seen) == before {
			return
		}
	}
}

// mostNames is how many names of images are told.
const mostNames = 3

// holders counts the images that have a blob, and names some others than the one
// given.
func (u *Usage) holders(id uint32, but image.Repository, d digest.Digest) (count int, names []string) {
	for _, r := range u.repositories {
		for _, h := range r.images {
			if _, ok := slices.BinarySearch(h.has, id); !ok {
				continue
			}
			count++
			if r.name == but && u.digest(h.root) == d {
				continue
			}
			names = append(names, r.name.String()+":"+h.tags[0])
		}
	}
	slices.Sort(names)
	return count, slices.Clone(names[:min(len(names), mostNames)])
}
