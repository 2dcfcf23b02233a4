package image

import (
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Manifests are many manifests, each under its digest. A repository can have very
// many, so that they are kept packed: one with some layers of its own takes about
// 250 bytes, and less than a tenth of what [Manifest] takes if it has none. What
// is asked for is unpacked each time: changing it changes nothing here.
//
// Several may read them at the same time.
type Manifests struct {
	digests *Digests // of the manifests, and of all that they name
	texts   []string // media types, platforms; the first is empty
	numbers map[string]uint32

	rows list[row]
	// at are, by the numbers of digests, numbers of rows plus one; blobAt numbers
	// of blobs plus one.
	at, blobAt list[uint32]
	children   list[packedChild]
	parts      list[uint32] // numbers of blobs, of all rows
	blobs      list[packedBlob]
	urls       map[uint32][]string // by numbers of blobs
}

// row is a manifest. Digests and texts are numbers; those of optional digests are
// plus one.
type row struct {
	size, seconds                                      int64
	nanos                                              int32
	digest, subject, mediaType, artifactType, platform uint32
	firstChild, children, firstPart, parts             uint32
	config, deleting, undated                          bool
}

type packedChild struct {
	size                                 int64
	digest, attests, mediaType, platform uint32
}

type packedBlob struct {
	size              int64
	digest, mediaType uint32
	// next is the number plus one of another blob of the digest: what manifests
	// say of one need not be the same.
	next uint32
}

// mostVariants is among how many of one digest a blob is looked for: a manifest
// that says as many different things of it wants to cost time.
const mostVariants = 8

// NewManifests makes an empty collection.
func NewManifests() *Manifests {
	return &Manifests{digests: NewDigests(), texts: []string{""}, numbers: map[string]uint32{"": 0}, urls: map[uint32][]string{}}
}

// Len is how many there are.
func (s *Manifests) Len() int { return int(s.rows.length) }

// Has says whether there is one of the digest.
func (s *Manifests) Has(d digest.Digest) bool {
	_, ok := s.row(d)
	return ok
}

// Get is the manifest of a digest; nil if there is none.
func (s *Manifests) Get(d digest.Digest) *Manifest {
	if r, ok := s.row(d); ok {
		return s.unpack(d, r)
	}
	return nil
}

// Subject is what the manifest of a digest refers to; empty if there is none, or
// it refers to nothing.
func (s *Manifests) Subject(d digest.Digest) digest.Digest {
	if r, ok := s.row(d); ok {
		return s.digest(r.subject)
	}
	return ""
}

// All are all of them, in the order in which they came.
func (s *Manifests) All() iter.Seq2[digest.Digest, *Manifest] {
	return func(yield func(digest.Digest, *Manifest) bool) {
		for n := range s.rows.length {
			r := s.rows.at(n)
			d := s.digests.At(r.digest)
			if !yield(d, s.unpack(d, r)) {
				return
			}
		}
	}
}

// Digests are those of all, in the order in which they came.
func (s *Manifests) Digests() iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		for n := range s.rows.length {
			if !yield(s.digests.At(s.rows.at(n).digest)) {
				return
			}
		}
	}
}

// Put adds a manifest, or replaces the one of its digest.
func (s *Manifests) Put(m *Manifest) {
	r := row{
		digest: s.number(m.Digest), subject: s.optional(m.Subject), size: m.Size,
		mediaType: s.text(m.MediaType), artifactType: s.text(m.ArtifactType), platform: s.text(m.Platform),
		firstChild: s.children.length, children: count(m.Children), firstPart: s.parts.length,
		config: m.Config != nil, deleting: m.Deleting, undated: m.Created.IsZero(),
	}
	if !r.undated {
		r.seconds, r.nanos = m.Created.Unix(), int32(m.Created.Nanosecond()) //nolint:gosec // less than a billion
	}
	for _, c := range m.Children {
		s.children.add(packedChild{
			digest: s.number(c.Digest), attests: s.optional(c.Attests), size: c.Size, mediaType: s.text(c.MediaType), platform: s.text(c.Platform),
		})
	}
	for _, b := range m.Blobs() {
		s.parts.add(s.blob(b))
	}
	r.parts = s.parts.length - r.firstPart
	at := s.at.at(r.digest)
	if *at != 0 {
		*s.rows.at(*at - 1) = r
		return
	}
	*at = s.rows.add(r) + 1
}

// Size is what manifests take together, in bytes: each of them and each blob
// counted once. What is not here counts nothing, nor what registries do not keep.
func (s *Manifests) Size(manifests iter.Seq[digest.Digest]) int64 {
	var sum total
	for d := range manifests {
		if r, ok := s.row(d); ok {
			sum.add(s, r)
		}
	}
	return sum.bytes
}

// total counts digests by their numbers, each once.
type total struct {
	seen  map[uint32]bool
	bytes int64
}

func (t *total) add(s *Manifests, r *row) {
	t.count(r.digest, r.size)
	for i := range r.parts {
		number := *s.parts.at(r.firstPart + i)
		if b := s.blobs.at(number); len(s.urls[number]) == 0 {
			t.count(b.digest, b.size)
		}
	}
}

func (t *total) count(number uint32, size int64) {
	if t.seen == nil {
		t.seen = map[uint32]bool{}
	}
	if !t.seen[number] {
		t.seen[number] = true
		t.bytes += size
	}
}

func (s *Manifests) row(d digest.Digest) (*row, bool) {
	n, ok := s.digests.Find(d)
	return s.rowOf(n, ok)
}

// rowFrom is the row of a digest that another set has.
func (s *Manifests) rowFrom(of *Digests, number uint32) (*row, bool) {
	n, ok := s.digests.findFrom(of, number)
	return s.rowOf(n, ok)
}

func (s *Manifests) rowOf(n uint32, ok bool) (*row, bool) {
	if !ok || *s.at.at(n) == 0 {
		return nil, false
	}
	return s.rows.at(*s.at.at(n) - 1), true
}

func (s *Manifests) unpack(d digest.Digest, r *row) *Manifest {
	m := &Manifest{
		Digest: d, Subject: s.digest(r.subject), Size: r.size, Deleting: r.deleting,
		MediaType: s.texts[r.mediaType], ArtifactType: s.texts[r.artifactType], Platform: s.texts[r.platform],
	}
	if !r.undated {
		m.Created = time.Unix(r.seconds, int64(r.nanos)).UTC()
	}
	if r.children > 0 {
		m.Children = make([]Child, r.children)
	}
	for i := range r.children {
		c := s.children.at(r.firstChild + i)
		m.Children[i] = Child{Digest: s.digests.At(c.digest), Attests: s.digest(c.attests), Size: c.size, MediaType: s.texts[c.mediaType], Platform: s.texts[c.platform]}
	}
	layers := make([]Blob, r.parts)
	for i := range r.parts {
		layers[i] = s.unpackBlob(*s.parts.at(r.firstPart + i))
	}
	if r.config {
		m.Config, layers = &layers[0], layers[1:]
	}
	if len(layers) > 0 {
		m.Layers = layers
	}
	return m
}

func (s *Manifests) unpackBlob(number uint32) Blob {
	b := s.blobs.at(number)
	return Blob{Digest: s.digests.At(b.digest), Size: b.size, MediaType: s.texts[b.mediaType], URLs: slices.Clone(s.urls[number])}
}

// blob numbers a blob. What several manifests say of one is kept once.
func (s *Manifests) blob(b Blob) uint32 {
	packed := packedBlob{digest: s.number(b.Digest), size: b.Size, mediaType: s.text(b.MediaType)}
	for n, next := 0, *s.blobAt.at(packed.digest); next != 0 && n < mostVariants; n, next = n+1, s.blobs.at(next-1).next {
		if has := s.blobs.at(next - 1); has.size == packed.size && has.mediaType == packed.mediaType && slices.Equal(s.urls[next-1], b.URLs) {
			return next - 1
		}
	}
	first := s.blobAt.at(packed.digest)
	packed.next = *first
	number := s.blobs.add(packed)
	*first = number + 1
	if len(b.URLs) > 0 {
		s.urls[number] = slices.Clone(b.URLs)
	}
	return number
}

func (s *Manifests) number(d digest.Digest) uint32 {
	n, added := s.digests.Add(d)
	if added {
		s.at.add(0)
		s.blobAt.add(0)
	}
	return n
}

func (s *Manifests) optional(d digest.Digest) uint32 {
	if d == "" {
		return 0
	}
	return s.number(d) + 1
}

func (s *Manifests) digest(optional uint32) digest.Digest {
	if optional == 0 {
		return ""
	}
	return s.digests.At(optional - 1)
}

func (s *Manifests) text(text string) uint32 {
	n, ok := s.numbers[text]
	if !ok {
		n = count(s.texts)
		text = strings.Clone(text)
		s.texts = append(s.texts, text)
		s.numbers[text] = n
	}
	return n
}

// count is a length as these numbers are kept.
func count[T any](list []T) uint32 {
	return uint32(len(list)) //nolint:gosec // memory ends before
}
