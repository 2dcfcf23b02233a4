package builtin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/olareg/olareg"
	"github.com/olareg/olareg/config"

	"github.com/regkeeper/regkeeper/credential"
)

// maxManifest is the longest manifest in bytes. OCI distribution specification
// 1.1, section Pushing Manifests, wants at least four megabytes.
const maxManifest = 8 << 20

// never is a time that no process lives to see.
const never = 100 * 365 * 24 * time.Hour

// area is a folder of repositories and the olareg that serves it.
type area struct {
	root   string
	server *olareg.Server
	// sealed keeps olareg from writing.
	sealed bool
}

// openArea runs olareg on a folder. In an area of copies, manifests come before
// what they name.
//
// Each repository has blobs of its own (StoreDir): olareg v0.2.2 declares
// StoreShared and does not implement it, and a set of blobs per repository has
// the virtue that none can be read through another.
//
// olareg's own collection of garbage is never let run: it takes a manifest that
// it cannot read for one that names nothing, and forgets it and deletes its
// layers; so that a process out of file descriptors loses images that have a
// tag. See collect. olareg would collect at intervals, from what was not used
// for the grace, and when it is closed; the last of these is prevented by
// area.close. Uploads end with the same grace, so that they are ended by this
// package, too.
func (g *Registry) openArea(root string, copies bool) *area {
	yes, no := true, false
	a := &area{root: root}
	a.server = olareg.New(config.Config{
		Log:  slog.New(quiet{g.config.Log.Handler()}),
		Auth: config.ConfigAuth{Handler: admit},
		Storage: config.ConfigStorage{
			StoreType: config.StoreDir,
			RootDir:   root,
			ReadOnly:  &a.sealed,
			GC: config.ConfigGC{
				Frequency:         -1,
				GracePeriod:       never,
				RepoUploadMax:     -1,
				Untagged:          &no,
				EmptyRepo:         &no,
				ReferrersDangling: &no,
				ReferrersWithSubj: &no,
			},
		},
		API: config.ConfigAPI{
			PushEnabled:   &yes,
			DeleteEnabled: &yes,
			Manifest:      config.ConfigAPIManifest{Limit: maxManifest, SparseImage: &copies, SparseIndex: &copies},
			Blob:          config.ConfigAPIBlob{DeleteEnabled: &yes},
			Referrer:      config.ConfigAPIReferrer{Enabled: &yes},
		},
	})
	return a
}

// close ends olareg, which would collect garbage if it could still write. No
// request may be under way. What it complains of are uploads that nobody can
// continue: their files go with the next collection.
func (a *area) close() {
	a.sealed = true
	_ = a.server.Close()
}

// areaOf is where a repository is kept.
func (g *Registry) areaOf(repository string) *area {
	if g.upstreamOf(repository) != nil {
		return g.copies
	}
	return g.own
}

// rootOf is the folder of the area of a repository.
func (g *Registry) rootOf(repository string) string {
	if g.upstreamOf(repository) != nil {
		return g.copiesDir()
	}
	return g.config.Dir
}

// copiesFolder is where copies of other registries' images are, below the folder
// of repositories. It is no repository's name.
const copiesFolder = "_copies"

func (g *Registry) copiesDir() string { return filepath.Join(g.config.Dir, copiesFolder) }

// Names in an image layout: OCI image specification 1.1, image-layout.md.
const (
	indexFile   = "index.json"
	layoutFile  = "oci-layout"
	blobsFolder = "blobs"
)

// uploadsFolder is where olareg keeps what is being uploaded.
const uploadsFolder = "_uploads"

// admission is what a request was let in for.
type admission struct {
	repository string
	access     config.AuthAccess
}

type admissionKey struct{}

// accesses are olareg's words for the scopes.
var accesses = map[credential.Scope]config.AuthAccess{
	pulling:  config.AuthRead,
	pushing:  config.AuthWrite,
	deleting: config.AuthDelete,
}

// admit is called by olareg with the repository and the access that it has read
// from a request. It lets in only what was decided upon before: should the two
// ever read one path in two ways, nobody gets anywhere.
func admit(repository string, access config.AuthAccess, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(admissionKey{}) != (admission{repository, access}) {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// forward has olareg answer a request that was decided upon.
func (g *Registry) forward(w http.ResponseWriter, r *http.Request, to route) {
	ctx := context.WithValue(r.Context(), admissionKey{}, admission{to.repository, accesses[to.scope]})
	inner := r.Clone(ctx)
	inner.URL.Path, inner.URL.RawPath = to.path, ""
	inner.Header.Del("Authorization")
	g.areaOf(to.repository).server.ServeHTTP(w, inner)
}

// ask puts a request of the registry's own to olareg.
func (g *Registry) ask(ctx context.Context, method, path string, header http.Header, body []byte) (*captured, error) {
	return g.askQuery(ctx, method, path, "", header, body)
}

func (g *Registry) askQuery(ctx context.Context, method, path, query string, header http.Header, body []byte) (*captured, error) {
	to, err := parseRoute(method, path)
	if err != nil {
		return nil, err
	}
	if header == nil {
		header = http.Header{}
	}
	r := (&http.Request{
		Method:        method,
		URL:           &url.URL{RawQuery: query},
		Header:        header,
		Body:          io.NopCloser(bytes.NewReader(body)),
		ContentLength: int64(len(body)),
	}).WithContext(ctx)
	w := &captured{header: http.Header{}}
	g.forward(w, r, to)
	return w, nil
}

// captured is an answer that is kept to be looked at.
type captured struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (c *captured) Header() http.Header { return c.header }

func (c *captured) WriteHeader(status int) {
	if c.status == 0 {
		c.status = status
	}
}

func (c *captured) Write(p []byte) (int, error) {
	c.WriteHeader(http.StatusOK)
	return c.body.Write(p)
}

// send passes the answer on.
func (c *captured) send(w http.ResponseWriter) error {
	for key, values := range c.header {
		w.Header()[key] = values
	}
	w.WriteHeader(c.status)
	if c.body.Len() == 0 {
		return nil
	}
	_, err := w.Write(c.body.Bytes()) //nolint:gosec // the answer has a content type, and none that is HTML
	return err
}

// repositoryLocks put the changes of a repository in order. Repositories share
// a fixed number of locks.
type repositoryLocks [64]sync.RWMutex

var lockSeed = maphash.MakeSeed()

func (l *repositoryLocks) of(repository string) *sync.RWMutex {
	return &l[maphash.String(lockSeed, repository)%uint64(len(l))]
}

// exists says whether there is such a repository for those who read. It is
// asked before olareg is: olareg keeps every name it has ever been asked for,
// answers a list of tags for a repository that is not there, and cannot look
// for garbage in one.
func (g *Registry) exists(repository string) bool {
	lock := g.locks.of(repository)
	lock.RLock()
	defer lock.RUnlock()
	return g.stored(repository) && g.filled(repository)
}

// begun says whether there is such a repository for those who push. One that
// was begun and holds nothing stays on the disk, unseen: olareg remembers that
// it made the index and would store without one.
func (g *Registry) begun(repository string) bool {
	lock := g.locks.of(repository)
	lock.RLock()
	defer lock.RUnlock()
	return g.stored(repository)
}

// folderOf is where a repository is. parseRoute lets no name through that leaves
// the folder.
func (g *Registry) folderOf(repository string) string {
	return filepath.Join(g.rootOf(repository), filepath.FromSlash(repository))
}

func (g *Registry) stored(repository string) bool {
	info, err := os.Stat(filepath.Join(g.folderOf(repository), indexFile))
	return err == nil && info.Mode().IsRegular()
}

// filled says whether a repository has a blob or a manifest. What cannot be
// read counts as one: reading it shall fail, not hide it.
func (g *Registry) filled(repository string) bool {
	folder := g.folderOf(repository)
	algorithms, err := os.ReadDir(filepath.Join(folder, blobsFolder))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	for _, algorithm := range algorithms {
		if !isEmpty(filepath.Join(folder, blobsFolder, algorithm.Name())) {
			return true
		}
	}
	// A tag whose manifest is lost can still be deleted.
	text, err := os.ReadFile(filepath.Join(folder, indexFile))
	var index struct{ Manifests []descriptor }
	return err != nil || json.Unmarshal(text, &index) != nil || len(index.Manifests) > 0
}

func isEmpty(folder string) bool {
	file, err := os.Open(folder)
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }()
	_, err = file.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// quiet has olareg log at debug: what it calls an error is, for the most part,
// a client's mistake. What is not is answered with a 5xx, and logged for that.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, record slog.Record) error {
	record.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, record)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
