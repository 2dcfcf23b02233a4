// Package growth tells what repositories take, what they share, how they grow and
// when the disk is full.
//
// It refuses to do I/O, but for writing a chart; to decide what goes, which
// package plan does; and to guess: bytes that nobody dates are told apart, and
// where the past is too short there is no number.
package growth

import (
	"cmp"
	"fmt"
	"iter"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
)

// Usage is what repositories take together. Nothing of an inventory is kept alive
// once it was added: about 90 bytes stay for each manifest and blob, and 8 for
// each time that an image or a repository holds one.
//
// A manifest or blob is counted once per registry: registries keep it once for
// all their repositories, and share nothing with each other. What the inventory
// does not know (Unread, Missing) and what registries do not keep (foreign
// layers) counts nothing.
type Usage struct {
	shelves      map[credential.Host]*shelf
	contents     []content
	repositories []repository
	added        map[image.Repository]bool
}

// shelf has the manifests and blobs of a registry, with their numbers in contents.
type shelf struct {
	digests  *image.Digests
	contents []uint32
}

type content struct {
	shelf *shelf
	// number is that of its digest on the shelf.
	number uint32
	size   int64
	// in counts the repositories that have it; last is the latest of these, by
	// its number from 1.
	in, last uint32
	// holders counts the images, and the manifests without one, that have it.
	holders uint32
}

// holder is an image, or what belongs to none: all that a tag or a loose manifest
// leads to.
type holder struct {
	root uint32
	tags []string // none if it is no image
	at   int64    // in Unix seconds; 0 if nobody says
	has  []uint32
}

type repository struct {
	name                      image.Repository
	images, loose             []holder
	has                       []uint32
	tags, attached, manifests int
	unread, missing           int
}

// NewUsage makes one without repositories.
func NewUsage() *Usage {
	return &Usage{
		shelves: map[credential.Host]*shelf{},
		added:   map[image.Repository]bool{},
	}
}

// Add counts a repository. It is an error to count one twice.
func (u *Usage) Add(inventory *image.Inventory) error {
	if u.added[inventory.Repository] {
		return fmt.Errorf("count %s: it is counted already", inventory.Repository)
	}
	u.added[inventory.Repository] = true
	u.repositories = append(u.repositories, repository{
		name: inventory.Repository, manifests: inventory.Manifests.Len(),
		unread: len(inventory.Unread), missing: len(inventory.Missing),
	})
	number := uint32(len(u.repositories)) //nolint:gosec // nobody has so many repositories
	r := &u.repositories[number-1]
	for d := range inventory.Manifests.Digests() {
		for id := range u.of(inventory, d) {
			if c := &u.contents[id]; c.last != number {
				c.last = number
				c.in++
				r.has = append(r.has, id)
			}
		}
	}
	for name := range inventory.Tags {
		if _, attached := image.Attached(name); attached {
			r.attached++
		} else {
			r.tags++
		}
	}
	graph := inventory.Graph()
	reached := graph.Marks()
	hold := func(d digest.Digest, tags []string, at time.Time) holder {
		h := holder{root: u.id(inventory, d, 0), at: seconds(at)}
		for _, tag := range tags {
			h.tags = append(h.tags, strings.Clone(tag))
		}
		closure := graph.Closure(d)
		reached.SetAll(closure)
		for part := range closure.All() {
			h.has = slices.AppendSeq(h.has, u.of(inventory, part))
		}
		slices.Sort(h.has)
		h.has = slices.Clip(slices.Compact(h.has))
		for _, id := range h.has {
			u.contents[id].holders++
		}
		return h
	}
	for _, i := range inventory.Images() {
		r.images = append(r.images, hold(i.Digest, i.Tags, dated(inventory, graph, i.Digest)))
	}
	for d := range loose(inventory, graph, reached) {
		r.loose = append(r.loose, hold(d, nil, dated(inventory, graph, d)))
	}
	return nil
}

// loose lists the manifests that are of no image, those that others of them hang
// on first. What the caller has reached is left out, also while it goes on.
func loose(inventory *image.Inventory, graph *image.Graph, reached image.Marks) iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		var roots, rest []digest.Digest
		for _, d := range slices.Sorted(inventory.Manifests.Digests()) {
			if reached.On(d) {
				continue
			}
			subject, attached := graph.Subject(d)
			if len(graph.Parents(d)) == 0 && (!attached || !inventory.Manifests.Has(subject)) {
				roots = append(roots, d)
			} else {
				rest = append(rest, d)
			}
		}
		for _, d := range append(roots, rest...) {
			if !reached.On(d) && !yield(d) {
				return
			}
		}
	}
}

// dated is when a manifest came: when its first tag was pushed, or else when it
// was built. It is zero where nobody says.
func dated(inventory *image.Inventory, graph *image.Graph, d digest.Digest) time.Time {
	var first time.Time
	see := func(at time.Time) {
		if image.Told(at) && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	for _, name := range graph.Tags(d) {
		see(inventory.Tags[name].Pushed)
	}
	if row, ok := inventory.Untagged[d]; ok {
		see(row.Pushed)
	}
	if first.IsZero() {
		see(inventory.Built(d))
	}
	return first
}

func seconds(at time.Time) int64 {
	if at.IsZero() {
		return 0
	}
	return at.Unix()
}

// of lists a manifest and its blobs: none if it could not be read.
func (u *Usage) of(inventory *image.Inventory, d digest.Digest) iter.Seq[uint32] {
	return func(yield func(uint32) bool) {
		m := inventory.Manifests.Get(d)
		if m == nil || !yield(u.id(inventory, d, m.Size)) {
			return
		}
		for _, b := range m.Blobs() {
			if len(b.URLs) == 0 && !yield(u.id(inventory, b.Digest, b.Size)) {
				return
			}
		}
	}
}

// id numbers a manifest or blob. Of several sizes that are told the largest
// counts: what a manifest says of a blob need not be true.
func (u *Usage) id(inventory *image.Inventory, d digest.Digest, size int64) uint32 {
	on := u.shelves[inventory.Repository.Host]
	if on == nil {
		on = &shelf{digests: image.NewDigests()}
		u.shelves[inventory.Repository.Host] = on
	}
	number, added := on.digests.Add(d)
	if added {
		on.contents = append(on.contents, uint32(len(u.contents))) //nolint:gosec // memory ends before
		u.contents = append(u.contents, content{shelf: on, number: number})
	}
	id := on.contents[number]
	u.contents[id].size = max(u.contents[id].size, size)
	return id
}

// digest is what a number stands for.
func (u *Usage) digest(id uint32) digest.Digest {
	return u.contents[id].shelf.digests.At(u.contents[id].number)
}

// plus adds sizes. Manifests can claim any: the sum ends at the largest number.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// Sizes of one thing, in bytes.
type Sizes struct {
	Bytes int64 `json:"bytes"` // Own and Shared
	// Own is what nothing else has: what deleting it would free.
	Own    int64 `json:"own"`
	Shared int64 `json:"shared"`
}

func (s *Sizes) add(size int64, own bool) {
	s.Bytes = plus(s.Bytes, size)
	if own {
		s.Own = plus(s.Own, size)
	} else {
		s.Shared = plus(s.Shared, size)
	}
}

// Counts of what repositories have.
type Counts struct {
	Images int `json:"images"` // those that have a tag
	Tags   int `json:"tags"`   // names of images
	// Attached are tags of signatures, attestations and lists of referrers.
	Attached  int `json:"attached"`
	Manifests int `json:"manifests"`
	// Unread and Missing count what could not be read, and what is not there
	// though something leads to it. With any, the sizes are the least.
	Unread  int `json:"unread"`
	Missing int `json:"missing"`
}

func (c *Counts) add(o Counts) {
	c.Images += o.Images
	c.Tags += o.Tags
	c.Attached += o.Attached
	c.Manifests += o.Manifests
	c.Unread += o.Unread
	c.Missing += o.Missing
}

// Repository is what a repository takes. Own is what no other that was added has.
type Repository struct {
	Repository image.Repository `json:"repository"`
	Counts
	Sizes
}

// Report is what repositories take.
type Report struct {
	// Repositories come largest first.
	Repositories []Repository `json:"repositories"`
	Total        Total        `json:"total"`
}

// Total is what all take together. What several share is counted once.
type Total struct {
	Counts
	Bytes int64 `json:"bytes"`
}

// Report tells what was added takes.
func (u *Usage) Report() Report {
	report := Report{Repositories: []Repository{}}
	for _, r := range u.repositories {
		row := Repository{Repository: r.name, Counts: Counts{
			Images: len(r.images), Tags: r.tags, Attached: r.attached, Manifests: r.manifests,
			Unread: r.unread, Missing: r.missing,
		}}
		for _, id := range r.has {
			row.Sizes.add(u.contents[id].size, u.contents[id].in == 1)
		}
		report.Repositories = append(report.Repositories, row)
		report.Total.Counts.add(row.Counts)
	}
	for _, c := range u.contents {
		report.Total.Bytes = plus(report.Total.Bytes, c.size)
	}
	slices.SortFunc(report.Repositories, func(a, b Repository) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Repository.String(), b.Repository.String()))
	})
	return report
}

// Bytes is a size as people know it from registries: 1 kB is 1000 bytes.
func Bytes(n int64) string {
	return humanize.Bytes(uint64(max(n, 0)))
}
