package plan_test

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
)

// set is a set of manifests of a fakeRegistry, by their numbers.
type set uint64

func one(i int) set             { return 1 << i }
func (s set) has(i int) bool    { return s>>i&1 != 0 }
func (s set) size() int         { return bits.OnesCount64(uint64(s)) }
func (s set) within(t set) bool { return s&^t == 0 }

// each lists the members in their order.
func (s set) each(yield func(int) bool) {
	for ; s != 0; s &= s - 1 {
		if !yield(bits.TrailingZeros64(uint64(s))) {
			return
		}
	}
}

// The digests of manifests and of blobs, by their numbers. The last few name
// manifests that no registry has.
const (
	absent = 56 // the first digest of what is not in the registry
	total  = 60
)

var (
	digests     = numbered("manifest", total)
	blobDigests = numbered("blob", 64)
	numbers     = func() map[digest.Digest]int {
		m := map[digest.Digest]int{}
		for i, d := range digests {
			m[d] = i
		}
		return m
	}()
	encoded = func() map[string]int {
		m := map[string]int{}
		for i, d := range digests {
			m[d.Encoded()] = i
		}
		return m
	}()
)

func numbered(what string, n int) []digest.Digest {
	list := make([]digest.Digest, n)
	for i := range list {
		list[i] = digest.FromString(fmt.Sprint(what, i))
	}
	return list
}

// node is a manifest of a fakeRegistry.
type node struct {
	index    bool
	children []int
	attests  set // of the children, those that attest another
	subject  int // -1 for none
	// listed says that only the registry's list tells of the subject: the
	// manifest is of a kind that has no such field.
	listed  bool
	blobs   set
	foreign set // of the blobs, those that registries do not keep
	created time.Time
	pushed  time.Time // as the registry tells of it while it has no tag
	pulled  time.Time
	gone    bool
}

// size is what the manifest itself takes. No two sums of sizes of manifests and
// blobs are equal by chance.
func (r *fakeRegistry) size(i int) int64 { return int64(i)*1_000_003 + 1 }

func blobSize(b int) int64 { return 1<<(b%40) + 7 }

type fakeTag struct {
	node           int
	pushed, pulled time.Time
}

// fakeRegistry is one repository in memory, by the OCI distribution
// specification: tags, manifests, what these name, and a list of referrers.
// Content is counted by small numbers; the model of what the safety rules mean
// is computed here, and not from an inventory.
type fakeRegistry struct {
	nodes []node
	tags  map[string]fakeTag
	// lists says whether it tells of manifests without a tag.
	lists bool
	// referrers says whether it keeps lists of referrers.
	referrers bool
	unread    []image.Unread
	// skipped is a manifest that a careless reader leaves out and does not tell
	// of; 0 for none.
	skipped int
}

func (r *fakeRegistry) exists(i int) bool { return i < len(r.nodes) && !r.nodes[i].gone }

// attachedTo reads a tag by cosign's scheme and by the referrers tag schema, by
// comparing with every digest there is.
func attachedTo(tag string) int {
	if !strings.HasPrefix(tag, "sha256-") {
		return -1
	}
	if i, ok := encoded[tag[7:min(len(tag), 71)]]; ok {
		return i
	}
	return -1
}

// edges are, by manifest, what it needs and what belongs to it, as far as the
// registry tells.
type edges struct {
	needs, belongs [total]set
	visible        set // what exists and can be found
	tagged         set // what a tag leads to
}

func (r *fakeRegistry) edges() *edges {
	e := &edges{}
	for i, n := range r.nodes {
		if n.gone {
			continue
		}
		for _, c := range n.children {
			e.needs[i] |= one(c)
		}
		if n.subject >= 0 && !n.listed {
			e.belongs[n.subject] |= one(i)
		}
	}
	for name, tag := range r.tags {
		e.tagged |= one(tag.node)
		if s := attachedTo(name); s >= 0 {
			e.belongs[s] |= one(tag.node)
		}
	}
	// Without the registry's lists a referrer is found only by a tag, by an
	// index, or as a manifest without a tag.
	found := e.tagged
	if r.lists {
		for i, n := range r.nodes {
			if !n.gone {
				found |= one(i)
			}
		}
	}
	for grown := set(0); grown != found; {
		grown = found
		for i := range grown.each {
			found |= e.needs[i]
			if r.referrers && r.exists(i) {
				for k, n := range r.nodes {
					if !n.gone && n.subject == i {
						found |= one(k)
					}
				}
			}
		}
	}
	for i := range found.each {
		if r.exists(i) {
			e.visible |= one(i)
		}
	}
	for i, n := range r.nodes { // nobody asks for the list of what is not there
		if n.listed && n.subject >= 0 && e.visible.has(n.subject) {
			e.belongs[n.subject] |= one(i)
		}
	}
	for i := range e.belongs {
		e.belongs[i] &= e.visible | e.tagged
	}
	return e
}

// closure is all that the roots need and all that belongs to them.
func (e *edges) closure(roots set) set {
	for all := roots; ; {
		grown := all
		for i := range all.each {
			grown |= e.needs[i] | e.belongs[i]
		}
		if grown == all {
			return all
		}
		all = grown
	}
}

// crawl makes an inventory in the way a reader of the registry does.
func (r *fakeRegistry) crawl(repository image.Repository) *image.Inventory {
	v := image.NewInventory(repository)
	v.Unread = r.unread
	var queue []int
	tagged := set(0)
	for name, tag := range r.tags {
		v.Tags[name] = image.Tag{Name: name, Digest: digests[tag.node], Pushed: tag.pushed, Pulled: tag.pulled}
		queue = append(queue, tag.node)
		tagged |= one(tag.node)
	}
	if r.lists {
		for i, n := range r.nodes {
			if !n.gone && !tagged.has(i) {
				v.Untagged[digests[i]] = image.Tag{Digest: digests[i], Pushed: n.pushed, Pulled: n.pulled}
				queue = append(queue, i)
			}
		}
	}
	var seen set
	for len(queue) > 0 {
		i := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if seen.has(i) {
			continue
		}
		seen |= one(i)
		if !r.exists(i) {
			v.Missing[digests[i]] = true
			continue
		}
		if r.skipped > 0 && i == r.skipped {
			continue
		}
		v.Manifests.Put(r.manifest(i))
		queue = append(queue, r.nodes[i].children...)
		if !r.referrers {
			continue
		}
		for k, n := range r.nodes {
			if !n.gone && n.subject == i {
				v.Referrers[digests[i]] = append(v.Referrers[digests[i]], digests[k])
				queue = append(queue, k)
			}
		}
	}
	return v
}

func (r *fakeRegistry) manifest(i int) *image.Manifest {
	n := r.nodes[i]
	m := &image.Manifest{Digest: digests[i], MediaType: ocispec.MediaTypeImageManifest, Size: r.size(i), Created: n.created}
	if n.index {
		m.MediaType = ocispec.MediaTypeImageIndex
	}
	for _, c := range n.children {
		child := image.Child{Digest: digests[c], MediaType: ocispec.MediaTypeImageManifest, Size: r.size(c), Platform: "linux/amd64"}
		if n.attests.has(c) {
			child.Platform, child.Attests = "", digests[n.children[0]]
		}
		m.Children = append(m.Children, child)
	}
	if n.subject >= 0 && !n.listed {
		m.Subject = digests[n.subject]
	}
	for b := range n.blobs.each {
		blob := image.Blob{Digest: blobDigests[b], Size: blobSize(b), MediaType: ocispec.MediaTypeImageLayerGzip}
		if n.foreign.has(b) {
			blob.URLs = []string{"https://example.com/layer"}
		}
		if m.Config == nil && !n.index && len(blob.URLs) == 0 {
			blob.MediaType = ocispec.MediaTypeImageConfig
			m.Config = &blob
			continue
		}
		m.Layers = append(m.Layers, blob)
	}
	return m
}

// bytes are what manifests take together, each blob once.
func (r *fakeRegistry) bytes(nodes set) int64 {
	var blobs set
	var sum int64
	for i := range nodes.each {
		if i < len(r.nodes) {
			blobs |= r.nodes[i].blobs &^ r.nodes[i].foreign
			sum += r.size(i)
		}
	}
	for b := range blobs.each {
		sum += blobSize(b)
	}
	return sum
}

// deleteTag is DELETE /v2/<name>/manifests/<tag>.
func (r *fakeRegistry) deleteTag(name string, d digest.Digest) error {
	tag, ok := r.tags[name]
	if !ok || digests[tag.node] != d {
		return fmt.Errorf("tag %s does not lead to %s", name, image.Short(d))
	}
	delete(r.tags, name)
	return nil
}

// deleteManifest is DELETE /v2/<name>/manifests/<digest>, of a registry that is
// as strict as any: one that refuses a manifest with a tag, a child of an index
// that can be found, and what is not there.
func (r *fakeRegistry) deleteManifest(d digest.Digest, found set) error {
	i, ok := numbers[d]
	if !ok || !r.exists(i) {
		return fmt.Errorf("manifest %s does not exist", image.Short(d))
	}
	for name, tag := range r.tags {
		if tag.node == i {
			return fmt.Errorf("manifest %s has the tag %s still", image.Short(d), name)
		}
	}
	for k, n := range r.nodes {
		if !n.gone && found.has(k) && slices.Contains(n.children, i) {
			return fmt.Errorf("manifest %s is a child of %d still", image.Short(d), k)
		}
	}
	r.nodes[i].gone = true
	return nil
}

func (r *fakeRegistry) clone() *fakeRegistry {
	c := *r
	c.nodes = slices.Clone(r.nodes)
	c.tags = map[string]fakeTag{}
	for name, tag := range r.tags {
		c.tags[name] = tag
	}
	return &c
}

// String is the registry as a person reads it.
func (r *fakeRegistry) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "lists untagged: %v, keeps referrers: %v, unread: %v, skipped: %d\n", r.lists, r.referrers, r.unread, r.skipped)
	for i, n := range r.nodes {
		if n.gone {
			continue
		}
		fmt.Fprintf(&b, "  %d (%s): children %v attests %b subject %d (listed only: %v) blobs %b created %s pushed %s pulled %s\n",
			i, image.Short(digests[i]), n.children, n.attests, n.subject, n.listed, n.blobs, day(n.created), day(n.pushed), day(n.pulled))
	}
	names := make([]string, 0, len(r.tags))
	for name := range r.tags {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		tag := r.tags[name]
		shown := name
		if s := attachedTo(name); s >= 0 {
			shown = fmt.Sprintf("<of %d>%s", s, name[71:])
		}
		fmt.Fprintf(&b, "  tag %s -> %d pushed %s pulled %s\n", shown, tag.node, day(tag.pushed), day(tag.pulled))
	}
	return b.String()
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02T15")
}
