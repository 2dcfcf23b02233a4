package lifecycle

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/problem"
)

// Copying is how images are copied.
type Copying struct {
	// Platforms are the only ones that are copied of an index, as
	// os/architecture[/variant]; none copies all. An index with less in it is
	// another one, with a digest of its own: signatures of the whole do not come.
	Platforms []string
	// Bare leaves out signatures, attestations, SBOMs and other referrers.
	Bare bool
	// Fixed says which tags must not be moved where they are; nil moves all.
	Fixed func(tag string) bool
	// Parallel bounds how many blobs are on their way at one time; 0 is 4.
	Parallel int
	// Cache keeps manifests; nil keeps none.
	Cache *imagecache.Cache
	// Report is called, by one at a time, with bytes of blobs; nil for none.
	Report func(Progress)
}

// Place is where an image is copied to.
type Place struct {
	Registry interface {
		image.Reader
		image.Writer
	}
	Repository image.Repository
	// Tag is the name it gets; empty for none but its digest.
	Tag string
}

// Copied is what a copy did at one place.
type Copied struct {
	To     image.Reference `json:"to"`
	Digest digest.Digest   `json:"digest"`
	// Manifests and Blobs count what was written; Present what was there, in
	// both. Mounted blobs were taken from another repository of the registry.
	Manifests int   `json:"manifests"`
	Blobs     int   `json:"blobs"`
	Mounted   int   `json:"mounted"`
	Present   int   `json:"present"`
	Bytes     int64 `json:"bytes"` // sent
}

const defaultBlobs = 4

// Copier copies images. What it brought to a registry once is mounted from there
// for other repositories.
type Copier struct {
	how   Copying
	slots chan struct{}

	flights singleflight.Group
	mu      sync.Mutex
	// brought are, by registry and digest, the repositories that have a blob.
	brought map[brought]string

	progress   sync.Mutex
	sent, size atomic.Int64
}

type brought struct {
	host   string
	digest digest.Digest
}

// NewCopier makes a copier. It begins nothing.
func NewCopier(how Copying) *Copier {
	how.Parallel = cmp.Or(how.Parallel, defaultBlobs)
	return &Copier{how: how, slots: make(chan struct{}, how.Parallel), brought: map[brought]string{}}
}

// Copy has an image at the places as it is at the source: all that it leads to and
// all that belongs to it, each with the digest that it has. At each place the tag
// comes last: who finds it finds all. What is there already is not sent again, so
// that a copy which was cut off goes on.
//
// A place that fails does not keep others: the error joins those of all.
func (c *Copier) Copy(ctx context.Context, from image.Reader, source image.Reference, places ...Place) ([]Copied, error) {
	inventory, root, err := ReadImage(ctx, from, source, Reading{Cache: c.how.Cache, Bare: c.how.Bare})
	if err != nil {
		return nil, err
	}
	if len(inventory.Unread) > 0 {
		u := inventory.Unread[0]
		return nil, problem.New(problem.Unreachable, "try again later", "image %s: %s could not be read: %s", source, u.What, u.Why)
	}
	return c.copy(ctx, from, source, inventory, inventory.Graph(), root, places)
}

// copy has an image of an inventory at the places.
func (c *Copier) copy(ctx context.Context, from image.Reader, source image.Reference, inventory *image.Inventory, graph *image.Graph, root digest.Digest, places []Place) ([]Copied, error) {
	all := make([]Copied, len(places))
	errs := make([]error, len(places))
	var group errgroup.Group
	for i, place := range places {
		group.Go(func() error {
			p := &placing{Copier: c, from: from, source: source.Repository, inventory: inventory, graph: graph, place: place, done: map[digest.Digest]bool{}}
			p.result.To = image.Reference{Repository: place.Repository, Tag: place.Tag}
			if err := p.image(ctx, root); err != nil {
				errs[i] = fmt.Errorf("copy %s to %s: %w", source, p.result.To, err)
			}
			all[i] = p.result
			return nil
		})
	}
	_ = group.Wait() // each error has its place
	return all, errors.Join(errs...)
}

// ReadImage takes the inventory of one image: what the reference leads to, what
// that leads to, and what belongs to any of it.
func ReadImage(ctx context.Context, reader image.Reader, ref image.Reference, how Reading) (*image.Inventory, digest.Digest, error) {
	r := newReading(reader, ref.Repository, how)
	found, err := reader.Resolve(ctx, ref.Path, ref.Target())
	if err != nil {
		return nil, "", fmt.Errorf("find image %s: %w", ref, err)
	}
	if ref.Tag != "" && ref.Digest == "" {
		r.inventory.Tags[ref.Tag] = image.Tag{Name: ref.Tag, Digest: found.Digest}
	}
	if err := r.visit(ctx, found.Digest, true); err != nil {
		return nil, "", fmt.Errorf("read image %s: %w", ref, err)
	}
	if r.inventory.Missing[found.Digest] {
		return nil, "", fmt.Errorf("read image %s: %w", ref, image.ErrMissing)
	}
	if !how.Bare {
		if err := r.attachments(ctx); err != nil {
			return nil, "", fmt.Errorf("read what belongs to image %s: %w", ref, err)
		}
	}
	return r.inventory, found.Digest, nil
}

// attachments adds what is kept under tags made of digests.
func (r *reading) attachments(ctx context.Context) error {
	var tags []image.Tag
	for tag, err := range r.reader.Tags(ctx, r.inventory.Repository.Path) {
		if err != nil {
			return err
		}
		if _, ok := image.Attached(tag.Name); ok {
			tags = append(tags, tag)
		}
	}
	for more := true; more; {
		more = false
		for _, tag := range tags {
			subject, _ := image.Attached(tag.Name)
			_, had := r.inventory.Tags[tag.Name]
			if had || !r.inventory.Manifests.Has(subject) {
				continue
			}
			if err := r.tag(ctx, tag); err != nil {
				return err
			}
			if _, has := r.inventory.Tags[tag.Name]; has {
				more = true
			}
		}
	}
	return nil
}

// placing copies one image to one place.
type placing struct {
	*Copier
	from      image.Reader
	source    image.Repository
	inventory *image.Inventory
	graph     *image.Graph
	place     Place
	done      map[digest.Digest]bool
	// tagged is a manifest that is written once, with its tag: by digest some
	// registries would have it as another one beside.
	tagged digest.Digest
	result Copied
	mu     sync.Mutex
}

func (p *placing) image(ctx context.Context, root digest.Digest) error {
	mediaType, raw, whole, err := p.chosen(ctx, root)
	if err != nil {
		return err
	}
	p.result.Digest = digest.FromBytes(raw)
	if whole {
		p.result.Digest = root
	}
	tag := p.place.Tag
	if tag != "" {
		there, err := p.place.Registry.Resolve(ctx, p.place.Repository.Path, tag)
		switch {
		case errors.Is(err, image.ErrMissing):
		case err != nil:
			return err
		case there.Digest == p.result.Digest:
			tag = "" // all the rest is looked at still
		case p.how.Fixed != nil && p.how.Fixed(tag):
			return problem.Wrap(image.ErrMoved, problem.Refused, "choose another tag, or allow tags to be moved",
				"tag %s of %s is %s there, not %s", tag, p.place.Repository, image.Short(there.Digest), image.Short(p.result.Digest))
		}
	}
	if whole {
		if tag != "" && !p.isSubject(root) {
			p.tagged = root
		}
		if err := p.manifest(ctx, root); err != nil {
			return err
		}
	} else if err := p.part(ctx, root, mediaType, raw); err != nil {
		return err
	}
	if tag == "" {
		return nil
	}
	_, err = p.place.Registry.WriteManifest(ctx, p.place.Repository.Path, tag, mediaType, raw)
	return err
}

// chosen is the manifest that is written for the root: the root itself, or an
// index of the platforms that are wanted.
func (p *placing) chosen(ctx context.Context, root digest.Digest) (mediaType string, raw []byte, whole bool, err error) {
	mediaType, raw, err = p.raw(ctx, root)
	m := p.inventory.Manifests.Get(root)
	if err != nil || len(p.how.Platforms) == 0 || !m.IsIndex() {
		return mediaType, raw, true, err
	}
	keep := map[digest.Digest]bool{}
	for _, child := range m.Children {
		keep[child.Digest] = child.Attests == "" && slices.Contains(p.how.Platforms, child.Platform)
	}
	for _, child := range m.Children {
		keep[child.Digest] = keep[child.Digest] || keep[child.Attests]
	}
	filtered, kept, err := filterIndex(raw, func(i int) bool { return keep[m.Children[i].Digest] })
	if err == nil && kept == 0 {
		err = problem.New(problem.NotFound, "see its platforms with `regkeeper image inspect`", "the image has none of the platforms %v", p.how.Platforms)
	}
	return mediaType, filtered, kept == len(m.Children), err
}

// filterIndex takes manifests out of an index and leaves all else as it is.
func filterIndex(raw []byte, keep func(i int) bool) (filtered []byte, kept int, err error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, 0, err
	}
	var manifests, some []json.RawMessage
	if err := json.Unmarshal(doc["manifests"], &manifests); err != nil {
		return nil, 0, err
	}
	for i, manifest := range manifests {
		if keep(i) {
			some = append(some, manifest)
		}
	}
	if doc["manifests"], err = json.Marshal(some); err != nil {
		return nil, 0, err
	}
	filtered, err = json.Marshal(doc)
	return filtered, len(some), err
}

// part writes an index of some platforms of the root, and these.
func (p *placing) part(ctx context.Context, root digest.Digest, mediaType string, raw []byte) error {
	m, err := image.ParseManifest(digest.FromBytes(raw), mediaType, raw)
	if err != nil {
		return err
	}
	for _, child := range m.Children {
		if err := p.manifest(ctx, child.Digest); err != nil {
			return err
		}
	}
	p.done[root] = true
	_, err = p.place.Registry.WriteManifest(ctx, p.place.Repository.Path, "", mediaType, raw)
	p.result.Manifests++
	return err
}

// manifest has a manifest at the place: what it leads to first, what belongs to it
// after.
func (p *placing) manifest(ctx context.Context, d digest.Digest) error {
	if p.done[d] {
		return nil
	}
	p.done[d] = true
	m := p.inventory.Manifests.Get(d)
	if m == nil {
		return problem.New(problem.Damaged, "push the image anew", "the image is not whole: its registry does not have %s", d)
	}
	for _, child := range m.Children {
		if err := p.manifest(ctx, child.Digest); err != nil {
			return err
		}
	}
	if m.Subject != "" && p.inventory.Manifests.Has(m.Subject) {
		if err := p.manifest(ctx, m.Subject); err != nil {
			return err
		}
	}
	if err := p.write(ctx, m); err != nil {
		return err
	}
	for _, attached := range p.graph.Attached(d) {
		if err := p.manifest(ctx, attached); err != nil {
			return err
		}
	}
	for _, tag := range p.graph.Tags(d) {
		if _, ok := image.Attached(tag); ok {
			if err := p.attach(ctx, tag, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// write has a manifest at the place whose parts are there, with its blobs.
func (p *placing) write(ctx context.Context, m *image.Manifest) error {
	_, err := p.place.Registry.Resolve(ctx, p.place.Repository.Path, m.Digest.String())
	if err == nil {
		p.result.Present++
		return nil
	}
	if !errors.Is(err, image.ErrMissing) {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	for _, blob := range m.Blobs() {
		if len(blob.URLs) > 0 {
			continue // of other origin: registries do not keep it
		}
		group.Go(func() error { return p.blob(gctx, blob) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if m.Digest == p.tagged {
		p.result.Manifests++
		return nil
	}
	mediaType, raw, err := p.raw(ctx, m.Digest)
	if err != nil {
		return err
	}
	_, err = p.place.Registry.WriteManifest(ctx, p.place.Repository.Path, "", mediaType, raw)
	p.result.Manifests++
	return err
}

// isSubject says whether something belongs to a manifest, which must be there
// before that.
func (p *placing) isSubject(d digest.Digest) bool {
	return len(p.graph.Attached(d)) > 0 || slices.ContainsFunc(p.graph.Tags(d), func(tag string) bool {
		_, attached := image.Attached(tag)
		return attached
	})
}

// attach has a tag made of a digest at the place. A list of referrers that is there
// already may know others: what it has is kept.
func (p *placing) attach(ctx context.Context, tag string, m *image.Manifest) error {
	there, err := p.place.Registry.Resolve(ctx, p.place.Repository.Path, tag)
	if err != nil && !errors.Is(err, image.ErrMissing) {
		return err
	}
	if there.Digest == m.Digest {
		return nil
	}
	mediaType, raw, err := p.raw(ctx, m.Digest)
	if err != nil {
		return err
	}
	if there.Digest != "" {
		if !m.IsIndex() {
			return nil // signed there as well: that stays
		}
		if raw, err = p.joined(ctx, there.Digest, raw); err != nil || raw == nil {
			return err
		}
	}
	_, err = p.place.Registry.WriteManifest(ctx, p.place.Repository.Path, tag, mediaType, raw)
	return err
}

// joined is an index with the manifests of the one at the place, and those that
// only another has; nil if it has all.
func (p *placing) joined(ctx context.Context, there digest.Digest, raw []byte) ([]byte, error) {
	mediaType, old, err := p.place.Registry.Manifest(ctx, p.place.Repository.Path, there)
	if err != nil {
		return nil, err
	}
	had, err := image.ParseManifest(there, mediaType, old)
	if err != nil {
		return nil, err
	}
	has := map[digest.Digest]bool{}
	for _, child := range had.Children {
		has[child.Digest] = true
	}
	var ours struct {
		Manifests []json.RawMessage `json:"manifests"`
	}
	var doc map[string]json.RawMessage
	var manifests []json.RawMessage
	more := false
	if err := errors.Join(json.Unmarshal(raw, &ours), json.Unmarshal(old, &doc), json.Unmarshal(doc["manifests"], &manifests)); err != nil {
		return nil, err
	}
	for _, manifest := range ours.Manifests {
		var one struct {
			Digest digest.Digest `json:"digest"`
		}
		if err := json.Unmarshal(manifest, &one); err != nil {
			return nil, err
		}
		if !has[one.Digest] {
			manifests, more = append(manifests, manifest), true
		}
	}
	if !more {
		return nil, nil
	}
	if doc["manifests"], err = json.Marshal(manifests); err != nil {
		return nil, err
	}
	return json.Marshal(doc)
}

func (p *placing) raw(ctx context.Context, d digest.Digest) (mediaType string, raw []byte, err error) {
	return p.how.Cache.Manifest(d, func() (string, []byte, error) { return p.from.Manifest(ctx, p.source.Path, d) })
}

// blob has a blob at the place. The same blob for the same repository is on its way
// once.
func (p *placing) blob(ctx context.Context, blob image.Blob) error {
	to := p.place.Repository
	p.Copier.mu.Lock()
	had := p.brought[brought{string(to.Host), blob.Digest}] == to.Path
	p.Copier.mu.Unlock()
	if had {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.result.Present++
		return nil
	}
	outcome, err, _ := p.flights.Do(to.String()+"@"+blob.Digest.String(), func() (any, error) {
		select {
		case p.slots <- struct{}{}:
			defer func() { <-p.slots }()
		case <-ctx.Done():
			return image.Outcome(""), context.Cause(ctx)
		}
		p.size.Add(blob.Size)
		var most int64
		return p.place.Registry.WriteBlob(ctx, to.Path, blob, p.mount(blob.Digest), func(ctx context.Context) (io.ReadCloser, error) {
			content, err := p.from.Blob(ctx, p.source.Path, blob.Digest)
			if err != nil {
				return nil, err
			}
			return &metered{ReadCloser: content, most: &most, count: p.progressed}, nil
		})
	})
	if err != nil {
		return fmt.Errorf("blob %s: %w", blob.Digest, err)
	}
	p.Copier.mu.Lock()
	p.brought[brought{string(to.Host), blob.Digest}] = to.Path
	p.Copier.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch outcome.(image.Outcome) {
	case image.Present:
		p.result.Present++
	case image.Mounted:
		p.result.Mounted++
	case image.Uploaded:
		p.result.Blobs++
		p.result.Bytes += blob.Size
	}
	return nil
}

// mount is a repository of the place's registry that has a blob; empty if none is
// known.
func (p *placing) mount(d digest.Digest) string {
	if p.source.Host == p.place.Repository.Host && p.source.Path != p.place.Repository.Path {
		return p.source.Path
	}
	p.Copier.mu.Lock()
	defer p.Copier.mu.Unlock()
	if path := p.brought[brought{string(p.place.Repository.Host), d}]; path != p.place.Repository.Path {
		return path
	}
	return ""
}

func (c *Copier) progressed(n int) {
	sent := c.sent.Add(int64(n))
	if c.how.Report == nil {
		return
	}
	c.progress.Lock()
	defer c.progress.Unlock()
	c.how.Report(Progress{What: "bytes", Done: int(sent), Of: int(c.size.Load())})
}

// metered tells how much was read. What is read again, by this one or by another
// that shares most, is counted once.
type metered struct {
	io.ReadCloser
	at    int64
	most  *int64 // what was read at most
	count func(n int)
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	m.at += int64(n)
	if more := m.at - *m.most; more > 0 {
		*m.most = m.at
		m.count(int(more))
	}
	return n, err
}

// Seek goes back where the content can.
func (m *metered) Seek(offset int64, whence int) (int64, error) {
	seeker, ok := m.ReadCloser.(io.Seeker)
	if !ok {
		return m.at, errors.ErrUnsupported
	}
	at, err := seeker.Seek(offset, whence)
	if err == nil {
		m.at = at
	}
	return at, err
}
