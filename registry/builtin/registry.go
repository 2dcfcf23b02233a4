// Package builtin is the embedded container registry: an OCI registry that
// needs nothing but a folder, private from its first request.
//
// It owns the tokens that open the registry, the Docker token protocol, the
// decision who may do what in which repository, and tags that never move. What
// is stored, and how, is olareg's part; where olareg departs from the OCI
// distribution specification 1.1, this package makes up for it.
//
// It refuses to listen, to speak TLS, to serve anything without a login, and to
// share its folder with a second process.
package builtin

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/olareg/olareg"

	"github.com/regkeeper/regkeeper/problem"
)

// defaultService is the name of a registry that was given none.
const defaultService = "regkeeper"

// defaultGrace is long enough for the slowest push to get from its first blob
// to its manifest.
const defaultGrace = 24 * time.Hour

// Config says what a [Registry] serves, and to whom.
type Config struct {
	// Dir holds the repositories, each an OCI image layout with blobs of its
	// own. It is created when missing and must not hold the token file.
	Dir string
	// Tokens are the logins the registry accepts. The caller closes nothing:
	// [Registry.Close] writes down when they were last used.
	Tokens *TokenStore
	// Service names the registry in its challenges and in the tokens it signs.
	// Registries with the same Service and the same token file accept each
	// other's. Empty means "regkeeper".
	Service string
	// URL is how clients reach the registry, for example
	// https://registry.example.com, without a path. Behind a proxy that ends
	// TLS it must be set. Empty takes the Host of each request, and https if
	// the request came in over TLS; forwarding headers are never believed,
	// since any client can send them.
	URL string
	// Immutable lists the tags that never move once they are pushed: a tag
	// pattern ("v*"), or a repository pattern and a tag pattern
	// ("team/*:v*"). Tag patterns are those of [path.Match]; repository
	// patterns are those of [TokenRequest].
	Immutable []string
	// Grace is how long blobs that no manifest refers to, and uploads that
	// nobody continues, are kept. Zero means 24 hours. Manifests without a tag
	// are never collected: clients push and deploy by digest.
	Grace time.Duration
	// Log gets changes of content at info, failures of the storage at error
	// and everything else at debug. Nil discards.
	Log *slog.Logger
	// Now is the clock that logins expire by. Nil means [time.Now].
	Now func() time.Time
}

// Registry is the embedded registry's [http.Handler]. It answers below /v2/.
type Registry struct {
	config    Config
	url       *url.URL
	immutable []immutableTags
	bearer    *bearer
	folder    *flock.Flock
	locks     repositoryLocks

	start sync.Once
	store *olareg.Server

	serving sync.RWMutex
	closed  bool
}

var _ http.Handler = (*Registry)(nil)

// New makes a registry of a config and takes its folder for this process. It
// starts nothing: the collection of garbage begins with the first request.
//
// Its errors are of kind [problem.Config], [problem.Storage], [problem.Damaged]
// and, when another process serves the folder, [problem.Busy].
func New(config Config) (*Registry, error) {
	if config.Service == "" {
		config.Service = defaultService
	}
	if config.Grace == 0 {
		config.Grace = defaultGrace
	}
	if config.Log == nil {
		config.Log = slog.New(slog.DiscardHandler)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	base, err := parseBase(config.URL)
	immutable, immutableErr := parseImmutable(config.Immutable)
	if err := errors.Join(checkFolder(config), err, immutableErr); err != nil {
		return nil, problem.Wrap(err, problem.Config, problem.HintOf(err), "embedded registry")
	}
	key, err := config.Tokens.signingKey()
	if err != nil {
		return nil, err
	}
	folder, err := takeFolder(config.Dir)
	if err != nil {
		return nil, err
	}
	return &Registry{
		config:    config,
		url:       base,
		immutable: immutable,
		bearer:    newBearer(key, config.Service, config.Now),
		folder:    folder,
	}, nil
}

// Close waits for the requests under way, writes down when the tokens were
// last used and gives the folder back. Requests that come later are answered
// 503. Closing twice is no error.
func (g *Registry) Close() error {
	g.serving.Lock()
	defer g.serving.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	var err error
	if g.store != nil {
		if err = g.store.Close(); err != nil {
			err = fmt.Errorf("close blob storage: %w", err)
		}
	}
	return errors.Join(err, g.config.Tokens.FlushUsed(), g.folder.Close())
}

// ServeHTTP answers one request.
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.serving.RLock()
	defer g.serving.RUnlock()
	began := time.Now()
	out := &answer{ResponseWriter: w}
	out.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	var by caller
	err := error(errClosed)
	if !g.closed {
		g.start.Do(func() { g.store = olareg.New(g.storage()) })
		by, err = g.serve(out, r)
	}
	out.finish(err)
	g.logRequest(r, out, by, time.Since(began), err)
}

var errClosed = &refusal{status: http.StatusServiceUnavailable, code: codeUnavailable, message: "the registry is shutting down"}

// serve decides in a fixed order, so that a caller learns nothing before the
// caller may: who is it, is this a request at all, may they, and only then
// does the storage get to see it.
func (g *Registry) serve(w http.ResponseWriter, r *http.Request) (caller, error) {
	to, wrong := parseRoute(r.Method, r.URL.Path)
	switch to.endpoint {
	case outside:
		return caller{}, wrong
	case tokens:
		return g.issue(w, r)
	}
	by, err := g.identify(r)
	if err != nil {
		return by, g.challenge(r, to, err)
	}
	if wrong != nil {
		return by, wrong
	}
	if !by.may(to) {
		return by, g.deny(r, by, to)
	}
	return by, g.dispatch(w, r, by, to)
}

func (g *Registry) dispatch(w http.ResponseWriter, r *http.Request, by caller, to route) error {
	switch to.endpoint {
	case base:
		return writeJSON(w, http.StatusOK, struct{}{})
	case catalog:
		return g.listRepositories(w, r, by)
	case uploads:
		return g.startUpload(w, r, by, to)
	}
	if !g.exists(to.repository) && to.scope != pushing {
		return missing(w, r, to)
	}
	switch {
	case to.endpoint == tags:
		return g.listTags(w, r, to)
	case to.endpoint == referrers:
		return g.listReferrers(w, r, to)
	case to.endpoint == session:
		return g.continueUpload(w, r, to)
	case to.endpoint == manifests && r.Method == http.MethodPut:
		return g.putManifest(w, r, to)
	case to.endpoint == manifests && r.Method == http.MethodDelete:
		return g.deleteManifest(w, r, to)
	case to.endpoint == blobs && r.Method == http.MethodDelete:
		return g.deleteBlob(w, r, to)
	}
	g.forward(w, r, to)
	return nil
}

// logRequest writes down what was asked and answered. Headers and queries hold
// secrets and are left out.
func (g *Registry) logRequest(r *http.Request, out *answer, by caller, took time.Duration, err error) {
	level := slog.LevelDebug
	to, _ := parseRoute(r.Method, r.URL.Path)
	changes := to.endpoint == manifests || to.endpoint == blobs
	if changes && out.status < http.StatusBadRequest && (r.Method == http.MethodPut || r.Method == http.MethodDelete) {
		level = slog.LevelInfo
	}
	attrs := []slog.Attr{
		slog.String("method", r.Method),
		slog.String("path", r.URL.Path),
		slog.Int("status", out.status),
		slog.Duration("took", took),
	}
	if by.token.ID != "" {
		attrs = append(attrs, slog.String("user", by.token.User), slog.String("token", by.token.ID))
	}
	if out.status >= http.StatusInternalServerError {
		level = slog.LevelError
		if err != nil {
			attrs = append(attrs, slog.Any("error", err))
		}
	}
	g.config.Log.LogAttrs(r.Context(), level, "registry request", attrs...)
}

func parseBase(text string) (*url.URL, error) {
	if text == "" {
		return nil, nil
	}
	const hint = "write it as https://registry.example.com: clients ask below /v2/ of the host only"
	base, err := url.Parse(text)
	switch {
	case err != nil:
		// The text may hold a password, and url.Error repeats it.
		return nil, problem.New(problem.Config, hint, "url of the registry cannot be read")
	case base.Scheme != "https" && base.Scheme != "http", base.Host == "", base.User != nil,
		strings.Trim(base.Path, "/") != "", base.RawQuery != "", base.Fragment != "":
		return nil, problem.New(problem.Config, hint, "url %q is more or less than a scheme and a host", base.Redacted())
	}
	return base, nil
}

// checkFolder keeps the token file out of the folder of repositories, where a
// repository could be named after it.
func checkFolder(config Config) error {
	switch {
	case config.Dir == "":
		return problem.New(problem.Config, "name a folder for the images", "no folder is set")
	case config.Tokens == nil:
		return problem.New(problem.Config, "open a token file first", "no tokens are set")
	}
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return fmt.Errorf("resolve folder: %w", err)
	}
	file, err := filepath.Abs(config.Tokens.path)
	if err != nil {
		return fmt.Errorf("resolve token file: %w", err)
	}
	if inside, err := filepath.Rel(dir, file); err == nil && filepath.IsLocal(inside) {
		return problem.New(problem.Config, "keep the token file beside the folder of images, not in it",
			"token file %s is inside %s", config.Tokens.path, config.Dir)
	}
	return nil
}

// takeFolder keeps other processes out of the folder: olareg holds the indexes
// of repositories in memory and would not see another's changes in time. The
// lock's name is no repository's name.
func takeFolder(dir string) (*flock.Flock, error) {
	const hint = "check the folder, its owner and the disk"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, problem.Wrap(err, problem.Storage, hint, "make folder of images")
	}
	lock := flock.New(filepath.Join(dir, ".lock"))
	taken, err := lock.TryLock()
	if err != nil {
		return nil, problem.Wrap(err, problem.Storage, hint, "lock folder of images")
	}
	if !taken {
		return nil, problem.New(problem.Busy, "stop the other process, or use another folder",
			"folder %s is served by another process", dir)
	}
	return lock, nil
}
