// Package builtin is the embedded container registry: an OCI registry that
// needs nothing but a folder, private from its first request.
//
// It owns the tokens that open the registry, the Docker token protocol, the
// decision who may do what in which repository, tags that never move, copies of
// what other registries hold, the collection of garbage, and the times at which
// tags were pushed and pulled. What is stored, and how, is olareg's part; where
// olareg departs from the OCI distribution specification 1.1, this package makes
// up for it.
//
// It refuses to listen, to speak TLS, to serve anything without a login, and to
// share its folder with a second process. It speaks to no other registry itself:
// it is given readers.
package builtin

import (
	"context"
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
	"golang.org/x/sync/singleflight"

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
	// Upstreams are the registries of which this one keeps copies: see
	// [Upstream].
	Upstreams []Upstream
	// Events is told of each manifest that was pushed or deleted, after it
	// happened and before the client is answered. It must return at once. Nil
	// is told nothing.
	Events func(Event)
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
	upstreams []*upstream
	history   *history
	sessions  sessions
	downloads downloads

	start sync.Once
	// What follows is not set before the first request.
	own, copies *area
	began       time.Time
	// running ends with Close; work is what goes on until then.
	running context.Context
	stop    context.CancelFunc
	work    sync.WaitGroup
	flights singleflight.Group
	clean   cleanliness

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
	upstreams, upstreamErr := parseUpstreams(config.Upstreams)
	if err := errors.Join(checkFolder(config), err, immutableErr, upstreamErr); err != nil {
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
	g := &Registry{
		config:    config,
		url:       base,
		immutable: immutable,
		bearer:    newBearer(key, config.Service, config.Now),
		folder:    folder,
		upstreams: upstreams,
	}
	g.history = &history{folder: g.folderOf, now: config.Now, log: config.Log}
	g.running, g.stop = context.WithCancel(context.Background())
	return g, nil
}

// Close waits for the requests under way, collects garbage for a short while,
// writes down when the tokens and the tags were last used, and gives the folder
// back. Requests that come later are answered 503. Closing twice is no error.
func (g *Registry) Close() error {
	g.stop()
	g.serving.Lock()
	defer g.serving.Unlock()
	if g.closed {
		return nil
	}
	g.closed = true
	g.work.Wait()
	var errs []error
	if g.own != nil {
		ctx, cancel := context.WithTimeout(context.Background(), closingTime)
		if _, err := g.collect(ctx); err != nil && ctx.Err() == nil {
			g.config.Log.Error("garbage not collected", "error", err)
		}
		g.endSessions(ctx, 0)
		cancel()
		g.own.close()
		g.copies.close()
	}
	errs = append(errs, g.history.flush(), g.config.Tokens.FlushUsed(), g.folder.Close())
	return errors.Join(errs...)
}

// open starts the storage, once.
func (g *Registry) open() {
	g.start.Do(func() {
		g.began = time.Now()
		g.own = g.openArea(g.config.Dir, false)
		g.copies = g.openArea(g.copiesDir(), true)
		g.work.Go(g.tidy)
	})
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
		g.open()
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
	if wrong == nil {
		to, wrong = g.named(r, to)
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
	}
	if up := g.upstreamOf(to.repository); up != nil {
		switch {
		case to.scope == pushing:
			return up.refusePush()
		case to.scope == pulling && to.endpoint != extension:
			return g.serveCopy(w, r, up, to)
		}
	}
	if to.endpoint == uploads {
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
	case to.endpoint == extension:
		return g.listDated(w, r, to)
	case to.endpoint == session:
		return g.continueUpload(w, r, to)
	case to.endpoint == manifests && r.Method == http.MethodPut:
		return g.putManifest(w, r, by, to)
	case to.endpoint == manifests && r.Method == http.MethodDelete:
		return g.deleteManifest(w, r, by, to)
	case to.endpoint == blobs && r.Method == http.MethodDelete:
		return g.deleteBlob(w, r, to)
	case r.Method == http.MethodHead && by.can(to.repository, pushing):
		// Who pushes will leave out what is there already.
		g.refresh(to.repository, to.reference)
	}
	g.forward(w, r, to)
	if to.endpoint == manifests {
		g.notePull(w, r, to)
	}
	return nil
}

// statusOf is what was answered, and zero if nothing was yet.
func statusOf(w http.ResponseWriter) int {
	if a, ok := w.(*answer); ok {
		return a.status
	}
	return 0
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
	if err := os.MkdirAll(filepath.Join(dir, copiesFolder), 0o700); err != nil {
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
