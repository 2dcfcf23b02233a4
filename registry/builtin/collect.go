package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/problem"
)

const (
	// collectEvery is how often garbage is looked for.
	collectEvery = time.Hour
	// closingTime is how long Close looks for garbage.
	closingTime = 2 * time.Second
)

// discarded is what the name of a file begins with that is about to be deleted.
const discarded = ".discarded-"

// tidy collects garbage and writes the times down, until Close.
func (g *Registry) tidy() {
	collect, flush := time.NewTicker(collectEvery), time.NewTicker(flushEvery)
	defer collect.Stop()
	defer flush.Stop()
	for {
		var err error
		select {
		case <-g.running.Done():
			return
		case <-flush.C:
			err = g.history.flush()
		case <-collect.C:
			_, err = g.collect(g.running)
		}
		if err != nil && g.running.Err() == nil {
			g.config.Log.Error("registry not tidied", "error", err)
		}
	}
}

// Collect collects garbage now, while requests go on, and returns how many bytes
// of files it deleted. What is left of a repository for which it fails is whole;
// it goes on with the others.
//
// A blob is garbage if no manifest names it, and a manifest if the repository's
// index does not, no manifest does that is none itself, and it is no referrer of
// such a one. Garbage goes once it has not been written, and nobody with the
// right to push has asked whether it is there, for [Config.Grace]. Manifests
// without a tag are named by the index until they are deleted. Of an upstream's
// copies, those go first that nobody has used for [Upstream.MaxAge]; their blobs
// follow after the grace.
//
// If anything that is needed to tell cannot be read, nothing of the repository is
// deleted.
func (g *Registry) Collect(ctx context.Context) (freed int64, err error) {
	leave, err := g.enter()
	if err != nil {
		return 0, err
	}
	defer leave()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.running, cancel)()
	return g.collect(ctx)
}

func (g *Registry) collect(ctx context.Context) (freed int64, err error) {
	g.endSessions(ctx, g.config.Grace)
	var errs []error
	for repository, err := range g.allRepositories(ctx) {
		if err == nil && ctx.Err() == nil {
			var n int64
			n, err = g.collectIn(ctx, repository)
			freed += n
		}
		if err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	n, err := g.dropDownloads()
	return freed + n, errors.Join(append(errs, err, ctx.Err())...)
}

// allRepositories lists what there are folders for, of repositories that are
// served and hold something or not.
func (g *Registry) allRepositories(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, root := range []string{g.config.Dir, g.copiesDir()} {
			for name, err := range repositoriesIn(ctx, root) {
				if err == nil && g.rootOf(name) != root {
					continue
				}
				if !yield(name, err) {
					return
				}
			}
		}
	}
}

// collectIn collects the garbage of a repository. It reads the manifests while
// others may be pushed, and then looks at what has changed alone, while none may:
// so that pushes wait for as long as it takes to list the blobs.
func (g *Registry) collectIn(ctx context.Context, repository string) (freed int64, err error) {
	state := g.stateOf(repository)
	u := g.upstreamOf(repository)
	ages := u != nil && u.MaxAge > 0
	if !ages && g.clean.is(repository, state) {
		return 0, nil
	}
	m := &marker{folder: g.folderOf(repository), seen: map[string]*parts{}}
	if _, err := m.mark(ctx); err != nil {
		return 0, fmt.Errorf("collect garbage of %s: %w", repository, err)
	}
	lock := g.locks.of(repository)
	lock.Lock()
	defer lock.Unlock()
	state = g.stateOf(repository)
	if ages {
		if err := g.expire(ctx, repository, m.folder, u.MaxAge); err != nil {
			return 0, fmt.Errorf("collect garbage of %s: %w", repository, err)
		}
	}
	marked, err := m.mark(ctx)
	if err != nil {
		return 0, fmt.Errorf("collect garbage of %s: %w", repository, err)
	}
	marked, waits, err := g.dropOrphans(ctx, repository, m, marked)
	if err != nil {
		return 0, fmt.Errorf("collect garbage of %s: %w", repository, err)
	}
	freed, young, err := g.sweep(m.folder, marked.kept)
	if err != nil {
		return freed, fmt.Errorf("collect garbage of %s: %w", repository, err)
	}
	g.history.prune(repository, marked.kept)
	if !young && !waits && freed == 0 {
		g.clean.note(repository, state)
	}
	return freed, nil
}

// parts are what a manifest names.
type parts struct {
	blobs     []string
	manifests []part
}

// part is a manifest that an index names.
type part struct {
	Digest    string `json:"digest"`
	MediaType string `json:"mediaType"`
}

// marker finds out what a repository needs. What it has read it need not read
// again: a manifest never changes.
type marker struct {
	folder string
	seen   map[string]*parts
}

// marks are the digests that are needed, and the lists of referrers whose subject
// is there still and is not.
type marks struct {
	kept    map[string]bool
	orphans []entry
}

// mark goes through everything that the index leads to. A list of referrers is
// needed if its subject is, and also if that is not there: referrers may be pushed
// first.
func (m *marker) mark(ctx context.Context) (marks, error) {
	index, err := readLayout(m.folder)
	if err != nil {
		return marks{}, err
	}
	done := marks{kept: map[string]bool{}}
	gone := map[string]bool{}
	var roots []part
	for _, e := range index.Manifests {
		if e.subject() == "" || e.tag() != "" {
			roots = append(roots, e.part())
		} else {
			done.orphans = append(done.orphans, e)
		}
	}
	for {
		if err := m.reach(ctx, roots, done.kept, gone); err != nil {
			return marks{}, err
		}
		roots = nil
		var left []entry
		for _, e := range done.orphans {
			there, err := exists(blobFileIn(m.folder, e.subject()))
			if err != nil {
				return marks{}, err
			}
			if done.kept[e.subject()] || !there {
				roots = append(roots, e.part())
			} else {
				left = append(left, e)
			}
		}
		done.orphans = left
		if len(roots) == 0 {
			return done, nil
		}
	}
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// reach keeps what manifests lead to. Those that it has gone through are another
// set: what one manifest calls a layer may be a manifest to another.
func (m *marker) reach(ctx context.Context, roots []part, kept, through map[string]bool) error {
	queue := slices.Clone(roots)
	for len(queue) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		if through[e.Digest] {
			continue
		}
		p, err := m.read(e)
		if err != nil {
			return err
		}
		through[e.Digest], kept[e.Digest] = true, true
		for _, blob := range p.blobs {
			kept[blob] = true
		}
		queue = append(queue, p.manifests...)
	}
	return nil
}

// read reads what a manifest names. What an index names need be no manifest,
// whatever it is called there, and then names nothing. But one that is damaged
// may have named anything.
func (m *marker) read(e part) (*parts, error) {
	if p := m.seen[e.Digest]; p != nil {
		return p, nil
	}
	if !digestForm.MatchString(e.Digest) {
		return &parts{}, nil
	}
	path := blobFileIn(m.folder, e.Digest)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &parts{}, nil // it may still come
	}
	if err != nil {
		return nil, err
	}
	p := &parts{}
	if info.Size() <= maxManifest {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var doc struct {
			Config    part   `json:"config"`
			Layers    []part `json:"layers"`
			Blobs     []part `json:"blobs"`
			Manifests []part `json:"manifests"`
		}
		want := digest.Digest(e.Digest)
		if err := json.Unmarshal(text, &doc); err != nil && want.Algorithm().FromBytes(text) != want {
			return nil, problem.Wrap(err, problem.Damaged, "delete the manifest and push it again", "read manifest %s", e.Digest)
		}
		p.manifests = doc.Manifests
		for _, blob := range append(append(doc.Layers, doc.Blobs...), doc.Config) {
			if digestForm.MatchString(blob.Digest) { // an index has no config
				p.blobs = append(p.blobs, blob.Digest)
			}
		}
	}
	m.seen[e.Digest] = p
	return p, nil
}

// dropOrphans deletes the referrers of manifests that were deleted, if all that
// belongs to them is old enough to go. Until then, the subject's file stays, by
// which they are known for orphans. A referrer that has a tag, or that something
// else needs, is none. Waits says that some are too young.
func (g *Registry) dropOrphans(ctx context.Context, repository string, m *marker, marked marks) (left marks, waits bool, err error) {
	waiting, ready, err := g.waiting(ctx, m, marked)
	if err != nil {
		return marked, false, err
	}
	maps.Copy(marked.kept, waiting)
	dropped := false
	for _, list := range ready {
		p, err := m.read(list.part())
		if err != nil {
			return marked, false, err
		}
		for _, referrer := range p.manifests {
			if marked.kept[referrer.Digest] {
				continue
			}
			if err := g.drop(ctx, repository, referrer.Digest); err != nil {
				return marked, false, err
			}
			dropped = true
		}
	}
	held := marked.kept
	if dropped {
		again, err := m.mark(ctx)
		if err != nil {
			return marked, false, err
		}
		marked = again
		maps.Copy(marked.kept, held)
	}
	// Lists that are empty, or wait, stay in the index, and so must their files.
	for _, list := range marked.orphans {
		if err := m.reach(ctx, []part{list.part()}, marked.kept, map[string]bool{}); err != nil {
			return marked, false, err
		}
	}
	return marked, len(waiting) > 0, nil
}

// waiting are the digests of the orphans that are too young to go, or belong to such
// a one, with their subjects; and the lists of the others.
func (g *Registry) waiting(ctx context.Context, m *marker, marked marks) (waiting map[string]bool, ready []entry, err error) {
	waiting, ready = map[string]bool{}, marked.orphans
	for more := true; more; {
		more = false
		var left []entry
		for _, list := range ready {
			all := map[string]bool{}
			if err := m.reach(ctx, []part{list.part()}, all, map[string]bool{}); err != nil {
				return nil, nil, err
			}
			waits := waiting[list.subject()]
			for name := range all {
				if marked.kept[name] || !digestForm.MatchString(name) {
					continue
				}
				info, err := os.Stat(blobFileIn(m.folder, name))
				waits = waits || err == nil && g.young(info)
			}
			if !waits {
				left = append(left, list)
				continue
			}
			waiting[list.subject()], more = true, true
			maps.Copy(waiting, all)
		}
		ready = left
	}
	return waiting, ready, nil
}

// drop deletes a tag, or a manifest with its tags. The caller holds the repository's lock.
func (g *Registry) drop(ctx context.Context, repository, reference string) error {
	gone, err := g.ask(ctx, http.MethodDelete, "/v2/"+repository+"/manifests/"+reference, nil, nil)
	if err != nil {
		return err
	}
	if gone.status != http.StatusAccepted && gone.status != http.StatusNotFound {
		return fmt.Errorf("drop %s of %s: storage answers %d", reference, repository, gone.status)
	}
	g.history.deleted(repository, reference)
	return nil
}

// expire deletes the copies that nobody has used for a time. The caller holds the
// repository's lock.
func (g *Registry) expire(ctx context.Context, repository, folder string, age time.Duration) error {
	index, err := readLayout(folder)
	if err != nil {
		return err
	}
	used := g.history.used(repository)
	seen := map[string]bool{}
	for _, e := range index.Manifests {
		if seen[e.Digest] || e.subject() != "" {
			continue
		}
		seen[e.Digest] = true
		if at := used[e.Digest]; at.IsZero() || g.config.Now().Sub(at) <= age {
			continue
		}
		if err := g.drop(ctx, repository, e.Digest); err != nil {
			return err
		}
	}
	return nil
}

// young says whether a file was written, or asked for, within the grace. Files
// have the time of the machine's clock, whatever clock logins expire by.
func (g *Registry) young(info fs.FileInfo) bool { return time.Since(info.ModTime()) < g.config.Grace }

// sweep deletes the blobs that are not kept and are old enough, and uploads that
// nobody can continue. The caller holds the repository's lock.
func (g *Registry) sweep(folder string, kept map[string]bool) (freed int64, young bool, err error) {
	algorithms, err := os.ReadDir(filepath.Join(folder, blobsFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, false, err
	}
	for _, algorithm := range algorithms {
		within := filepath.Join(folder, blobsFolder, algorithm.Name())
		files, err := os.ReadDir(within)
		if err != nil {
			return freed, young, err
		}
		for _, file := range files {
			name := algorithm.Name() + ":" + file.Name()
			left := strings.HasPrefix(file.Name(), discarded)
			if !left && (kept[name] || !digestForm.MatchString(name)) {
				continue
			}
			n, waits, err := g.discard(within, file.Name(), left)
			freed, young = freed+n, young || waits
			if err != nil {
				return freed, young, err
			}
		}
	}
	within := filepath.Join(folder, uploadsFolder)
	uploads, err := os.ReadDir(within)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return freed, young, err
	}
	for _, file := range uploads {
		// Those that this process began are ended by endSessions.
		if info, err := file.Info(); err != nil || !info.ModTime().Before(g.began) {
			continue
		}
		n, waits, err := g.discard(within, file.Name(), true)
		freed, young = freed+n, young || waits
		if err != nil {
			return freed, young, err
		}
	}
	return freed, young, nil
}

// discard deletes a file that is old enough. An upload that ends meanwhile may put
// a blob in the place of an old one; so that a blob is looked at again when nothing
// can take its place any more.
func (g *Registry) discard(folder, name string, final bool) (freed int64, young bool, err error) {
	path := filepath.Join(folder, name)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil || !info.Mode().IsRegular() {
		return 0, false, err
	}
	if g.young(info) {
		return 0, true, nil
	}
	if !final {
		aside := filepath.Join(folder, discarded+name)
		if err := os.Rename(path, aside); err != nil {
			return 0, false, err
		}
		now, err := os.Lstat(aside)
		if err != nil {
			return 0, false, err
		}
		if g.young(now) {
			return 0, true, os.Rename(aside, path)
		}
		path, info = aside, now
	}
	err = os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return info.Size(), false, nil
}

// dropDownloads deletes the files of downloads that a crash left.
func (g *Registry) dropDownloads() (freed int64, err error) {
	folder := filepath.Join(g.copiesDir(), downloadsFolder)
	files, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("list downloads: %w", err)
	}
	for _, file := range files {
		if info, err := file.Info(); err != nil || !info.ModTime().Before(g.began) {
			continue
		}
		n, _, err := g.discard(folder, file.Name(), true)
		freed += n
		if err != nil {
			return freed, fmt.Errorf("delete download: %w", err)
		}
	}
	return freed, nil
}

// refresh begins the grace of a blob or manifest anew, and says whether it is
// there: who was told that it is will not push it again, and must still find it
// when the manifest that names it is pushed.
func (g *Registry) refresh(repository, reference string) bool {
	if !digestForm.MatchString(reference) {
		return false
	}
	lock := g.locks.of(repository)
	lock.RLock()
	defer lock.RUnlock()
	path := g.blobFile(repository, reference)
	now := time.Now()
	return os.Chtimes(path, now, now) == nil
}

// cleanliness remembers which repositories had no garbage, old or young.
type cleanliness struct {
	mu    sync.Mutex
	known map[string]state
}

// state is what changes when anything in a repository does.
type state struct{ index, blobs256, blobs512, uploads time.Time }

func (g *Registry) stateOf(repository string) state {
	folder := g.folderOf(repository)
	at := func(parts ...string) time.Time {
		info, err := os.Stat(filepath.Join(append([]string{folder}, parts...)...))
		if err != nil {
			return time.Time{}
		}
		return info.ModTime()
	}
	return state{at(indexFile), at(blobsFolder, "sha256"), at(blobsFolder, "sha512"), at(uploadsFolder)}
}

// is says whether a repository is as it was when it had no garbage. Copies grow
// old by themselves.
func (c *cleanliness) is(repository string, now state) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.known[repository]
	return ok && known == now
}

func (c *cleanliness) note(repository string, now state) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil {
		c.known = map[string]state{}
	}
	c.known[repository] = now
}

// Usage is what a repository takes on the disk.
type Usage struct {
	Repository string `json:"repository"`
	// Bytes are those of all its files, of uploads and garbage too.
	Bytes int64 `json:"bytes"`
	Blobs int   `json:"blobs"`
}

// Usage tells what each repository takes, copies of other registries' included, in
// no order. Blobs that two repositories have count in both: each has its own.
func (g *Registry) Usage(ctx context.Context) ([]Usage, error) {
	var all []Usage
	for repository, err := range g.allRepositories(ctx) {
		if err != nil {
			return nil, fmt.Errorf("measure repositories: %w", err)
		}
		folder := g.folderOf(repository)
		use := Usage{Repository: repository}
		for _, file := range []string{indexFile, layoutFile, historyFile} {
			if info, err := os.Stat(filepath.Join(folder, file)); err == nil {
				use.Bytes += info.Size()
			}
		}
		for _, part := range []string{blobsFolder, uploadsFolder} {
			err := filepath.WalkDir(filepath.Join(folder, part), func(_ string, file fs.DirEntry, err error) error {
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				if err != nil {
					return err
				}
				info, err := file.Info()
				switch {
				case errors.Is(err, fs.ErrNotExist):
					return nil
				case err != nil:
					return err
				case info.Mode().IsRegular():
					use.Bytes += info.Size()
					if part == blobsFolder {
						use.Blobs++
					}
				}
				return ctx.Err()
			})
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", repository, err)
			}
		}
		all = append(all, use)
	}
	return all, nil
}
