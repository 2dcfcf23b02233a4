package image

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"hash/maphash"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Digests is a set of digests, numbered from 0 in the order in which they came. One
// of SHA-256 takes about 45 bytes in it: as text it takes twice as much, and in a
// map thrice. Several may read one at the same time.
type Digests struct {
	seed maphash.Seed
	sums list[sum]
	// index has numbers plus one at the places of their hashes, or after; it is
	// never full, and a power of two long.
	index []uint32
	// others are those of other algorithms; their sums say nothing.
	others  map[uint32]digest.Digest
	numbers map[digest.Digest]uint32
}

type sum [sha256.Size]byte

const sha256Prefix = string(digest.SHA256) + ":"

// NewDigests makes an empty set.
func NewDigests() *Digests {
	return &Digests{seed: maphash.MakeSeed(), others: map[uint32]digest.Digest{}, numbers: map[digest.Digest]uint32{}}
}

// Len is how many there are.
func (s *Digests) Len() int { return int(s.sums.length) }

// At is the digest of a number.
func (s *Digests) At(n uint32) digest.Digest {
	if d, ok := s.others[n]; ok {
		return d
	}
	text := make([]byte, 0, len(sha256Prefix)+2*sha256.Size)
	return digest.Digest(hex.AppendEncode(append(text, sha256Prefix...), s.sums.at(n)[:]))
}

// Find is the number of a digest, if it is in the set.
func (s *Digests) Find(d digest.Digest) (uint32, bool) {
	b, ok := sha256Of(d)
	if !ok {
		n, ok := s.numbers[d]
		return n, ok
	}
	return s.find(&b)
}

func (s *Digests) find(b *sum) (uint32, bool) {
	if len(s.index) == 0 {
		return 0, false
	}
	n := s.index[s.place(b)]
	return n - 1, n != 0
}

// Has says whether a digest is in the set.
func (s *Digests) Has(d digest.Digest) bool {
	_, ok := s.Find(d)
	return ok
}

// Add has a digest in the set, and says whether it was not.
func (s *Digests) Add(d digest.Digest) (n uint32, added bool) {
	if b, ok := sha256Of(d); ok {
		return s.add(&b)
	}
	if n, ok := s.numbers[d]; ok {
		return n, false
	}
	n = s.sums.add(sum{})
	d = digest.Digest(strings.Clone(d.String()))
	s.others[n], s.numbers[d] = d, n
	return n, true
}

// findFrom is the number of a digest of another set, without the way over its text.
func (s *Digests) findFrom(from *Digests, number uint32) (uint32, bool) {
	if d, ok := from.others[number]; ok {
		return s.Find(d)
	}
	return s.find(from.sums.at(number))
}

// addFrom has a digest of another set in this one.
func (s *Digests) addFrom(from *Digests, number uint32) uint32 {
	if d, ok := from.others[number]; ok {
		n, _ := s.Add(d)
		return n
	}
	n, _ := s.add(from.sums.at(number))
	return n
}

func (s *Digests) add(b *sum) (n uint32, added bool) {
	if n, ok := s.find(b); ok {
		return n, false
	}
	n = s.sums.add(*b)
	if 4*s.Len() >= 3*len(s.index) {
		s.grow()
	}
	s.index[s.place(b)] = n + 1
	return n, true
}

// Compare orders by the digests of two numbers as texts are ordered.
func (s *Digests) Compare(a, b uint32) int {
	if len(s.others) > 0 {
		return cmp.Compare(s.At(a), s.At(b))
	}
	return bytes.Compare(s.sums.at(a)[:], s.sums.at(b)[:])
}

// place is where the number of a sum is in the index, or would be.
func (s *Digests) place(b *sum) int {
	mask := len(s.index) - 1
	at := int(maphash.Bytes(s.seed, b[:])) & mask //nolint:gosec // any number will do
	for s.index[at] != 0 && *s.sums.at(s.index[at] - 1) != *b {
		at = (at + 1) & mask
	}
	return at
}

func (s *Digests) grow() {
	s.index = make([]uint32, max(16, 2*len(s.index)))
	for n := range s.sums.length {
		if _, other := s.others[n]; !other {
			s.index[s.place(s.sums.at(n))] = n + 1
		}
	}
}

// sha256Of are the bytes of a digest of SHA-256; false of any other.
func sha256Of(d digest.Digest) (b sum, ok bool) {
	digits, ok := strings.CutPrefix(d.String(), sha256Prefix)
	if !ok || len(digits) != 2*sha256.Size || strings.ContainsAny(digits, "ABCDEF") {
		return b, false
	}
	if _, err := hex.Decode(b[:], []byte(digits)); err != nil {
		return sum{}, false
	}
	return b, true
}
