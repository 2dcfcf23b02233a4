// Package lifecycle is the second flow: it reads what a registry holds, carries
// out plans, and copies images. What of an inventory goes is decided by package
// plan.
//
// It refuses to guess: what could not be read is told as not known, and a step of
// a plan whose ground has changed is left out.
package lifecycle

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
)

// Reading is how a repository is read.
type Reading struct {
	// Parallel bounds the requests at one time; 0 is 8.
	Parallel int
	// Cache keeps manifests and configs, which never change; nil keeps none.
	Cache *imagecache.Cache
	// Tags says which tags are wanted; nil is all. An inventory of some tags is
	// good for looking at, not for deleting.
	Tags func(tag string) bool
	// Also are manifests that something uses. Those that are there are read as
	// ones without a tag, unless a tag leads to them: most registries do not
	// list them.
	Also []digest.Digest
	// Bare leaves out what only belongs to images (referrers), Flat what is
	// below them.
	Bare, Flat bool
	// Dates has the configs of images read that do not say otherwise when they
	// were built, Configs those of all.
	Dates, Configs bool
	// Report is called, by one at a time, after each manifest; nil for none.
	Report func(Progress)
}

// Progress is how far a long work has come.
type Progress struct {
	// What is the repository or image.
	What string
	Done int
	// Of is how many there are in all, as far as is known yet.
	Of int
}

const (
	defaultParallel = 8
	// mostUnread is after how many errors a registry is given up.
	mostUnread = 16
	// mostConfig bounds an image's config, in bytes. BuildKit's and Docker's
	// have some kilobytes.
	mostConfig = 4 << 20
)

// reading is one run of Read.
type reading struct {
	Reading
	reader    image.Reader
	inventory *image.Inventory

	group *errgroup.Group
	slots chan struct{}

	mu sync.Mutex
	// asked are the manifests that were begun.
	asked      *image.Digests
	done       int
	noReferrer bool
	// vanished are tags that were listed, and then not there.
	vanished []string
}

// Read takes the inventory of a repository: its tags, all that these lead to,
// and, where the registry tells of them, the manifests without a tag and the
// referrers. What could not be read stands in [image.Inventory.Unread]; the error
// is for a repository of which nothing is known, or that too much of is not.
func Read(ctx context.Context, reader image.Reader, repository image.Repository, how Reading) (*image.Inventory, error) {
	if f, ok := reader.(image.Forgetter); ok {
		f.Forget(repository.Path)
	}
	r := newReading(reader, repository, how)
	group, all := errgroup.WithContext(ctx)
	r.group = group
	group.Go(func() error { return r.tags(all) })
	if lister, ok := reader.(image.Lister); ok && !how.Bare && how.Tags == nil {
		group.Go(func() error { return r.untagged(all, lister) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	if err := r.recount(ctx); err != nil {
		return nil, err
	}
	for _, d := range how.Also {
		if err := r.also(ctx, d); err != nil {
			return nil, err
		}
	}
	return r.inventory, nil
}

func newReading(reader image.Reader, repository image.Repository, how Reading) *reading {
	how.Parallel = cmp.Or(how.Parallel, defaultParallel)
	return &reading{
		Reading: how, reader: reader, inventory: image.NewInventory(repository),
		slots: make(chan struct{}, how.Parallel), asked: image.NewDigests(),
	}
}

// start begins a part of the work once there is room for it: a listing waits for
// what it led to, so that little is held of a long one.
func (r *reading) start(ctx context.Context, work func() error) error {
	select {
	case r.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	r.group.Go(func() error {
		defer func() { <-r.slots }()
		return work()
	})
	return nil
}

func (r *reading) tags(ctx context.Context) error {
	for tag, err := range r.reader.Tags(ctx, r.inventory.Repository.Path) {
		if err != nil {
			return err
		}
		if r.Tags != nil && !r.Tags(tag.Name) {
			continue
		}
		if err := r.start(ctx, func() error { return r.tag(ctx, tag) }); err != nil {
			return err
		}
	}
	return nil
}

// tag finds out where a tag leads.
func (r *reading) tag(ctx context.Context, tag image.Tag) error {
	if tag.Digest == "" {
		found, err := r.reader.Resolve(ctx, r.inventory.Repository.Path, tag.Name)
		if errors.Is(err, image.ErrMissing) {
			r.mu.Lock()
			r.vanished = append(r.vanished, tag.Name)
			r.mu.Unlock()
			return nil
		}
		if err != nil {
			return r.unread(ctx, "tag "+tag.Name, err)
		}
		tag.Digest = found.Digest
	}
	r.mu.Lock()
	r.inventory.Tags[tag.Name] = tag
	r.mu.Unlock()
	if r.Flat {
		return nil
	}
	// Registries tell of pushes to the second: of two in one second it counts
	// when they were built.
	return r.visit(ctx, tag.Digest, true)
}

func (r *reading) untagged(ctx context.Context, lister image.Lister) error {
	for row, err := range lister.Untagged(ctx, r.inventory.Repository.Path) {
		if err != nil {
			return r.unread(ctx, "the list of manifests without a tag", err)
		}
		r.mu.Lock()
		r.inventory.Untagged[row.Digest] = row
		r.mu.Unlock()
		// It may be a platform of an image whose date is asked for.
		if err := r.start(ctx, func() error { return r.visit(ctx, row.Digest, true) }); err != nil {
			return err
		}
	}
	return nil
}

// recount lists again where a tag was listed and then not there. One that was
// deleted meanwhile is gone; of one that is listed still, nothing is known: what
// stands before a registry may answer for it.
func (r *reading) recount(ctx context.Context) error {
	if len(r.vanished) == 0 {
		return nil
	}
	listed := map[string]bool{}
	for tag, err := range r.reader.Tags(ctx, r.inventory.Repository.Path) {
		if err != nil {
			return err
		}
		listed[tag.Name] = true
	}
	for _, name := range r.vanished {
		if !listed[name] {
			continue
		}
		if err := r.unread(ctx, "tag "+name, errListed); err != nil {
			return err
		}
	}
	return nil
}

// errListed is why nothing is known of a tag.
var errListed = errors.New("the registry lists it, and says that it does not have it")

// also adds a manifest that nothing led to so far.
func (r *reading) also(ctx context.Context, d digest.Digest) error {
	if valid := d.Validate() == nil; !valid || r.asked.Has(d) {
		return nil
	}
	if err := r.visit(ctx, d, false); err != nil {
		return err
	}
	if _, listed := r.inventory.Untagged[d]; r.inventory.Manifests.Has(d) && !listed {
		r.inventory.Untagged[d] = image.Tag{Digest: d}
	}
	// It may be no manifest of this repository.
	delete(r.inventory.Missing, d)
	return nil
}

// visit reads a manifest and all that it leads to, each once.
func (r *reading) visit(ctx context.Context, d digest.Digest, dates bool) error {
	r.mu.Lock()
	_, first := r.asked.Add(d)
	r.mu.Unlock()
	if !first {
		return nil
	}
	defer r.report()
	m, err := r.load(ctx, d, dates)
	if errors.Is(err, image.ErrMissing) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.inventory.Missing[d] = true
		return nil
	}
	if err != nil {
		return r.unread(ctx, d.String(), err)
	}
	r.mu.Lock()
	r.inventory.Manifests.Put(m)
	r.mu.Unlock()
	for _, c := range m.Children {
		if err := r.visit(ctx, c.Digest, dates && m.Built().IsZero() && c.Attests == ""); err != nil {
			return err
		}
	}
	return r.referrers(ctx, m)
}

func (r *reading) report() {
	if r.Report == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	r.Report(Progress{What: r.inventory.Repository.String(), Done: r.done, Of: r.asked.Len()})
}

// load reads a manifest, and the config of an image that has no date without.
func (r *reading) load(ctx context.Context, d digest.Digest, dates bool) (*image.Manifest, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d, err)
	}
	path := r.inventory.Repository.Path
	mediaType, raw, err := r.Cache.Manifest(d, func() (string, []byte, error) { return r.reader.Manifest(ctx, path, d) })
	if err != nil {
		return nil, err
	}
	m, err := image.ParseManifest(d, mediaType, raw)
	if err != nil {
		return nil, err
	}
	if m.IsImage() && (r.Configs || r.Dates && dates && m.Created.IsZero()) {
		config, err := r.Cache.Config(m.Config.Digest, func() ([]byte, error) { return readSmall(ctx, r.reader, path, m.Config.Digest) })
		switch {
		case errors.Is(err, image.ErrMissing):
		case err != nil:
			return nil, err
		default:
			_ = m.ReadConfig(config) // what is no config says no date
		}
	}
	return m, nil
}

// readSmall reads a blob that is held in memory.
func readSmall(ctx context.Context, reader image.Reader, path string, d digest.Digest) ([]byte, error) {
	blob, err := reader.Blob(ctx, path, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = blob.Close() }()
	raw, err := io.ReadAll(io.LimitReader(blob, mostConfig+1))
	if err != nil {
		return nil, err
	}
	if len(raw) > mostConfig {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", d, mostConfig)
	}
	return raw, nil
}

// referrers asks what refers to a manifest, until the registry says that it keeps
// no such list.
func (r *reading) referrers(ctx context.Context, m *image.Manifest) error {
	r.mu.Lock()
	skip := r.Bare || r.noReferrer
	r.mu.Unlock()
	if skip {
		return nil
	}
	found, err := r.reader.Referrers(ctx, r.inventory.Repository.Path, m.Digest)
	if errors.Is(err, image.ErrUnsupported) {
		r.mu.Lock()
		r.noReferrer = true
		r.mu.Unlock()
		return nil
	}
	if err != nil {
		return r.unread(ctx, "the referrers of "+m.Digest.String(), err)
	}
	for _, referrer := range found {
		r.mu.Lock()
		r.inventory.Referrers[m.Digest] = append(r.inventory.Referrers[m.Digest], referrer.Digest)
		r.mu.Unlock()
		if err := r.visit(ctx, referrer.Digest, false); err != nil {
			return err
		}
	}
	return nil
}

// unread notes what is not known. The error ends the reading: the login was
// refused, or too much is not known.
func (r *reading) unread(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.inventory.Unread = append(r.inventory.Unread, image.Unread{What: what, Why: err.Error()})
	if len(r.inventory.Unread) >= mostUnread || errors.Is(err, credential.ErrRefused) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// Repositories lists the repositories of a registry that a pattern covers. A
// pattern without wildcards is its own list: no registry is asked, since many
// refuse to list.
func Repositories(ctx context.Context, reader image.Reader, host credential.Host, patterns ...string) iter.Seq2[image.Repository, error] {
	return func(yield func(image.Repository, error) bool) {
		var wild []string
		seen := map[image.Repository]bool{}
		for _, pattern := range patterns {
			if image.Wild(pattern) {
				wild = append(wild, pattern)
				continue
			}
			repository, err := image.ParseRepository(pattern)
			if seen[repository] || repository.Host != host && err == nil {
				continue
			}
			seen[repository] = true
			if !yield(repository, err) || err != nil {
				return
			}
		}
		if len(wild) == 0 {
			return
		}
		for path, err := range reader.Repositories(ctx) {
			repository := image.Repository{Host: host, Path: path}
			if err != nil {
				yield(repository, err)
				return
			}
			for _, pattern := range wild {
				if repository.Matches(pattern) && !seen[repository] {
					seen[repository] = true
					if !yield(repository, nil) {
						return
					}
				}
			}
		}
	}
}
