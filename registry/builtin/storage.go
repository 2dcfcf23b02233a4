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

	"github.com/olareg/olareg/config"

	"github.com/regkeeper/regkeeper/credential"
)

// maxManifest is the longest manifest in bytes. OCI distribution specification
// 1.1, section Pushing Manifests, wants at least four megabytes.
const maxManifest = 8 << 20

// collectEvery is how often garbage is looked for. While a repository is looked
// through it answers nothing.
const collectEvery = time.Hour

// storage is how olareg is run.
//
// Each repository has blobs of its own (StoreDir): olareg v0.2.2 declares
// StoreShared and does not implement it, and a set of blobs per repository has
// the virtue that none can be read through another.
//
// Repositories that are empty are kept, since olareg takes the index away
// before it knows that the folder can go. Uploads are not limited in number,
// since the limit locks in an order that can block a repository for good.
func (g *Registry) storage() config.Config {
	yes, no := true, false
	return config.Config{
		Log:  slog.New(quiet{g.config.Log.Handler()}),
		Auth: config.ConfigAuth{Handler: admit},
		Storage: config.ConfigStorage{
			StoreType: config.StoreDir,
			RootDir:   g.config.Dir,
			GC: config.ConfigGC{
				Frequency:         collectEvery,
				GracePeriod:       g.config.Grace,
				RepoUploadMax:     -1,
				Untagged:          &no,
				EmptyRepo:         &no,
				ReferrersDangling: &no,
				ReferrersWithSubj: &yes,
			},
		},
		API: config.ConfigAPI{
			PushEnabled:   &yes,
			DeleteEnabled: &yes,
			Manifest:      config.ConfigAPIManifest{Limit: maxManifest},
			Blob:          config.ConfigAPIBlob{DeleteEnabled: &yes},
			Referrer:      config.ConfigAPIReferrer{Enabled: &yes},
		},
	}
}

// Names in an image layout: OCI image specification 1.1, image-layout.md.
const (
	indexFile   = "index.json"
	blobsFolder = "blobs"
)

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
	g.store.ServeHTTP(w, inner)
}

// ask puts a request of the registry's own to olareg.
func (g *Registry) ask(ctx context.Context, method, path string, header http.Header, body []byte) (*captured, error) {
	to, err := parseRoute(method, path)
	if err != nil {
		return nil, err
	}
	if header == nil {
		header = http.Header{}
	}
	r := (&http.Request{
		Method:        method,
		URL:           &url.URL{},
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
	_, err := w.Write(c.body.Bytes())
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
	return filepath.Join(g.config.Dir, filepath.FromSlash(repository))
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
