package image

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Graph answers what leads where in an inventory, as that was when the graph was
// made. Several may ask it at the same time.
type Graph struct {
	manifests *Manifests
	nodes     *Digests
	// Of the number of each node: what it names, what names it, what belongs to
	// it.
	children, parents, attached edges
	names                       map[uint32][]string
	// subjects are, by the numbers of manifests that say so themselves, what they
	// belong to; listed are those that the registry's lists tell of.
	subjects, listed map[uint32]uint32
	// short are, by the tags of their lists of referrers, the manifests whose
	// digests are too long for a tag.
	short map[string]digest.Digest
}

// edges are, from each node, the numbers of others: those of node n lie from
// starts[n] to starts[n+1].
type edges struct{ starts, to []uint32 }

func (e edges) of(n uint32) []uint32 { return e.to[e.starts[n]:e.starts[n+1]] }

// Graph indexes the inventory as it is now.
func (v *Inventory) Graph() *Graph {
	g := &Graph{manifests: v.Manifests, nodes: NewDigests(), names: map[uint32][]string{}, subjects: map[uint32]uint32{}, listed: map[uint32]uint32{}, short: map[string]digest.Digest{}}
	var children, parents, attached [][2]uint32
	s := v.Manifests
	for i := range s.rows.length {
		r := s.rows.at(i)
		n := g.nodes.addFrom(s.digests, r.digest)
		for c := range r.children {
			child := g.nodes.addFrom(s.digests, s.children.at(r.firstChild+c).digest)
			children, parents = append(children, [2]uint32{n, child}), append(parents, [2]uint32{child, n})
		}
		if r.subject != 0 {
			subject := g.nodes.addFrom(s.digests, r.subject-1)
			attached = append(attached, [2]uint32{subject, n})
			g.subjects[n] = subject
		}
		if d, ok := s.digests.others[r.digest]; ok && d.Algorithm() == digest.SHA512 {
			g.short[ReferrersTag(d)] = d
		}
	}
	for d, referrers := range v.Referrers {
		subject, _ := g.nodes.Add(d)
		for _, d := range referrers {
			n, _ := g.nodes.Add(d)
			attached = append(attached, [2]uint32{subject, n})
			if had, ok := g.listed[n]; !ok || g.nodes.Compare(subject, had) < 0 {
				g.listed[n] = subject
			}
		}
	}
	for name, tag := range v.Tags {
		n, _ := g.nodes.Add(tag.Digest)
		g.names[n] = append(g.names[n], name)
		if d, ok := g.subject(name); ok {
			subject, _ := g.nodes.Add(d)
			attached = append(attached, [2]uint32{subject, n})
		}
	}
	for _, names := range g.names {
		slices.Sort(names)
	}
	for d := range v.Untagged {
		g.nodes.Add(d)
	}
	for d := range v.Missing {
		g.nodes.Add(d)
	}
	g.children, g.parents, g.attached = g.edges(children), g.edges(parents), g.edges(attached)
	return g
}

// edges sorts pairs of from and to, by the texts of digests, each once.
func (g *Graph) edges(pairs [][2]uint32) edges {
	slices.SortFunc(pairs, func(a, b [2]uint32) int {
		if a[0] != b[0] {
			return cmp.Compare(a[0], b[0])
		}
		return g.nodes.Compare(a[1], b[1])
	})
	e := edges{starts: make([]uint32, 1, g.nodes.Len()+1)}
	for i, pair := range pairs {
		if i > 0 && pair == pairs[i-1] {
			continue
		}
		for len(e.starts) <= int(pair[0]) {
			e.starts = append(e.starts, count(e.to))
		}
		e.to = append(e.to, pair[1])
	}
	for len(e.starts) <= g.nodes.Len() {
		e.starts = append(e.starts, count(e.to))
	}
	return e
}

// Tags are the names of a manifest, sorted.
func (g *Graph) Tags(d digest.Digest) []string {
	n, ok := g.nodes.Find(d)
	if !ok {
		return nil
	}
	return g.names[n]
}

// Called is a manifest as people know it: by its first tag that is no attachment's,
// or else by another, or by its digest.
func (g *Graph) Called(d digest.Digest) string {
	tags := g.Tags(d)
	for _, tag := range tags {
		if _, attached := Attached(tag); !attached {
			return tag
		}
	}
	if len(tags) > 0 {
		return tags[0]
	}
	return Short(d)
}

// Parents are the indexes that name a manifest, sorted.
func (g *Graph) Parents(d digest.Digest) []digest.Digest { return g.digests(g.parents, d) }

// Attached are the manifests that belong to another: its referrers, and what is
// kept under a tag made of its digest. They are sorted.
func (g *Graph) Attached(d digest.Digest) []digest.Digest { return g.digests(g.attached, d) }

func (g *Graph) digests(of edges, d digest.Digest) []digest.Digest {
	n, ok := g.nodes.Find(d)
	if !ok {
		return nil
	}
	var list []digest.Digest
	for _, to := range of.of(n) {
		list = append(list, g.nodes.At(to))
	}
	return list
}

// Subject is what a manifest belongs to, if it is known to belong to one.
func (g *Graph) Subject(d digest.Digest) (digest.Digest, bool) {
	n, ok := g.nodes.Find(d)
	if !ok {
		return "", false
	}
	if subject, ok := g.subjects[n]; ok {
		return g.nodes.At(subject), true
	}
	if subject, ok := g.listed[n]; ok {
		return g.nodes.At(subject), true
	}
	for _, name := range g.names[n] {
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
func (g *Graph) Closure(roots ...digest.Digest) Set {
	c := Set{graph: g}
	seen := map[uint32]bool{}
	var queue []uint32
	for _, root := range roots {
		if n, ok := g.nodes.Find(root); ok {
			queue = append(queue, n)
		} else if !slices.Contains(c.alone, root) {
			c.alone = append(c.alone, root)
		}
	}
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if seen[n] {
			continue
		}
		seen[n] = true
		c.numbers = append(c.numbers, n)
		queue = append(queue, g.children.of(n)...)
		queue = append(queue, g.attached.of(n)...)
	}
	slices.Sort(c.numbers)
	c.numbers = slices.Clip(c.numbers)
	return c
}

// Marks are on some of the manifests of a graph.
type Marks struct {
	graph *Graph
	on    []bool
}

// Marks makes marks that are on none.
func (g *Graph) Marks() Marks { return Marks{g, make([]bool, g.nodes.Len())} }

// Set marks manifests. What is not of the graph cannot be marked.
func (m Marks) Set(manifests ...digest.Digest) {
	for _, d := range manifests {
		if n, ok := m.graph.nodes.Find(d); ok {
			m.on[n] = true
		}
	}
}

// SetAll marks all of a set of the same graph.
func (m Marks) SetAll(set Set) {
	for _, n := range set.numbers {
		m.on[n] = true
	}
}

// On says whether a manifest is marked.
func (m Marks) On(d digest.Digest) bool {
	n, ok := m.graph.nodes.Find(d)
	return ok && m.on[n]
}

// Set is some manifests of a graph. The zero Set is empty.
type Set struct {
	graph   *Graph
	numbers []uint32 // sorted
	// alone are roots that the graph does not know.
	alone []digest.Digest
}

// Len is how many there are.
func (s Set) Len() int { return len(s.numbers) + len(s.alone) }

// Has says whether a manifest is in it.
func (s Set) Has(d digest.Digest) bool {
	if s.graph == nil {
		return false
	}
	n, ok := s.graph.nodes.Find(d)
	if !ok {
		return slices.Contains(s.alone, d)
	}
	_, ok = slices.BinarySearch(s.numbers, n)
	return ok
}

// Size is what they take together, in bytes: see [Manifests.Size].
func (s Set) Size() int64 {
	var sum total
	for _, n := range s.numbers {
		if r, ok := s.graph.manifests.rowFrom(s.graph.nodes, n); ok {
			sum.add(s.graph.manifests, r)
		}
	}
	return sum.bytes
}

// All are the manifests in it, in no order that means anything.
func (s Set) All() iter.Seq[digest.Digest] {
	return func(yield func(digest.Digest) bool) {
		for _, n := range s.numbers {
			if !yield(s.graph.nodes.At(n)) {
				return
			}
		}
		for _, d := range s.alone {
			if !yield(d) {
				return
			}
		}
	}
}
