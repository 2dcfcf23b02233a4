package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distribution/reference"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	client "github.com/regkeeper/regkeeper/internal/transport"
	"github.com/regkeeper/regkeeper/problem"
)

// Config is how one registry is spoken to.
type Config struct {
	Host credential.Host
	// Transport sends the requests.
	Transport http.RoundTripper
	// Insecure says that plain HTTP is allowed. A registry on this machine
	// always may be spoken to so.
	Insecure bool
	// Login is asked for the login when one is needed, and again when the
	// registry refuses the last one. Without it, or for a zero login, the
	// registry is spoken to as anybody.
	Login func(ctx context.Context) (credential.Login, error)
}

// Registry is one registry, as a client sees it. It asks for one bearer token
// for each repository and each set of rights (pull, push, delete), and uses it
// for all requests until the registry refuses it. Its methods may be called at
// the same time.
type Registry struct {
	config Config

	turn      chan struct{} // held while the registry is asked how it wants logins
	challenge *transport.Challenge
	base      atomic.Pointer[url.URL] // nil until the registry was reached

	mu       sync.Mutex
	sessions map[string]*session
	shown    credential.Login // the last one, to keep it out of errors

	// noReferrers is set once the registry said that it has no list of them.
	noReferrers atomic.Bool
}

var (
	_ image.Reader  = (*Registry)(nil)
	_ image.Deleter = (*Registry)(nil)
	_ image.Writer  = (*Registry)(nil)
)

// New makes a client. It sends nothing.
func New(config Config) *Registry {
	return &Registry{config: config, turn: make(chan struct{}, 1), sessions: map[string]*session{}}
}

// askPatience is how long a registry may take for one request and its answer
// where the answer is small, waiting for its rate limit included.
const askPatience = 5 * time.Minute

// registryName is the registry as go-containerregistry names it.
func (r *Registry) registryName() (name.Registry, error) {
	var options []name.Option
	if r.config.Insecure || r.config.Host.Loopback() {
		options = append(options, name.Insecure)
	}
	registry, err := name.NewRegistry(string(r.config.Host), options...)
	return registry, problem.Wrap(err, problem.Config, "", "registry %s", r.config.Host)
}

// repository is one repository with a session in it.
type repository struct {
	*session
	path string
}

// in opens a repository for the actions, which are those of
// go-containerregistry's scopes.
func (r *Registry) in(path, actions string) (repository, error) {
	if _, err := reference.WithName(path); err != nil {
		return repository{}, problem.Wrap(err, problem.Usage, "write it as path/name, in lower case", "repository %q", path)
	}
	registry, err := r.registryName()
	if err != nil {
		return repository{}, err
	}
	repo := registry.Repo(strings.Split(path, "/")...)
	return repository{session: r.session(repo.Scope(actions)), path: repo.RepositoryStr()}, nil
}

// title is the repository in errors.
func (p repository) title() string { return string(p.registry.config.Host) + "/" + p.path }

// target checks what a manifest is asked for by: a digest or a tag.
func target(text string) error {
	if strings.Contains(text, ":") {
		return checkDigest(digest.Digest(text))
	}
	if reference.TagRegexp.FindString(text) != text || text == "" {
		return problem.New(problem.Usage, "", "tag %q is no tag", text)
	}
	return nil
}

// checkDigest refuses what would not be verified.
func checkDigest(d digest.Digest) error {
	return problem.Wrap(d.Validate(), problem.Usage, "", "digest %q", d)
}

// ask is one request.
type ask struct {
	method string
	// path is of the API, below /v2/; or place is a whole address.
	path  string
	query url.Values
	place *url.URL

	header http.Header
	body   io.Reader
	// prepare may change the request before it is sent.
	prepare func(*http.Request)
	// good are the statuses that are no error.
	good []int
}

// send sends a request and returns the answer, whose body the caller closes. A
// status that is not good is an error, with an [answer] in its chain.
func (s *session) send(ctx context.Context, a ask) (*http.Response, error) {
	place := a.place
	if place == nil {
		base, err := s.registry.reach(ctx)
		if err != nil {
			return nil, err
		}
		place = base.JoinPath(a.path)
		if strings.HasSuffix(a.path, "/") && !strings.HasSuffix(place.Path, "/") {
			place.Path += "/"
		}
		place.RawQuery = a.query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, a.method, place.String(), a.body)
	if err != nil {
		return nil, err
	}
	for key, values := range a.header {
		request.Header[key] = values
	}
	if a.prepare != nil {
		a.prepare(request)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	if said := check(response, a.good...); said != nil {
		_ = response.Body.Close()
		base := s.registry.base.Load()
		said.elsewhere = base == nil || response.Request.URL.Host != base.Host
		return nil, said
	}
	return response, nil
}

// read sends a request and reads the answer, of at most limit bytes.
func (s *session) read(ctx context.Context, a ask, limit int64) (http.Header, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	response, err := s.send(ctx, a)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(io.LimitReader(response.Body, limit+1))
	if err != nil {
		return nil, nil, err
	}
	if int64(len(raw)) > limit {
		return nil, nil, &tooLarge{limit}
	}
	if response.ContentLength >= 0 {
		response.Header.Set("Content-Length", fmt.Sprint(response.ContentLength))
	}
	return response.Header, raw, nil
}

// tooLarge is an answer of more bytes than any honest one has.
type tooLarge struct{ limit int64 }

func (e *tooLarge) Error() string { return fmt.Sprintf("the answer is larger than %d bytes", e.limit) }

// do sends a request whose answer has nothing to read.
func (s *session) do(ctx context.Context, a ask) (http.Header, error) {
	header, _, err := s.read(ctx, a, errorLimit)
	return header, err
}

// errorLimit bounds the bodies of answers that nobody reads.
const errorLimit = 64 << 10

// answer is an answer that is an error.
type answer struct {
	said      *transport.Error
	header    http.Header
	empty     bool // without a body
	elsewhere bool // not the registry's, but of where it redirected to
}

func (a *answer) Error() string { return a.said.Error() }

func (a *answer) Unwrap() error { return a.said }

func (a *answer) status() int { return a.said.StatusCode }

func check(response *http.Response, good ...int) *answer {
	if slices.Contains(good, response.StatusCode) {
		return nil
	}
	body := &counted{ReadCloser: response.Body}
	response.Body = body
	err := transport.CheckError(response)
	var said *transport.Error
	if !errors.As(err, &said) {
		// The body could not be read, which changes nothing.
		said = &transport.Error{StatusCode: response.StatusCode, Request: response.Request}
	}
	return &answer{said: said, header: response.Header, empty: body.n == 0}
}

type counted struct {
	io.ReadCloser
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	return n, err
}

// answered returns the answer in the chain, if the registry gave one.
func answered(err error) (*answer, bool) {
	var a *answer
	return a, errors.As(err, &a)
}

// status is the status that the registry answered, or zero.
func status(err error) int {
	var said *transport.Error
	if errors.As(err, &said) {
		return said.StatusCode
	}
	return 0
}

// has says whether one of the codes is in the answer (OCI distribution
// specification, "Error Codes").
func (a *answer) has(codes ...transport.ErrorCode) bool {
	return slices.ContainsFunc(a.said.Errors, func(d transport.Diagnostic) bool { return slices.Contains(codes, d.Code) })
}

// missing says whether the registry itself said that it does not have what it
// was asked for. A 404 of another server, before it or behind it, says nothing
// of the registry: it has no code, or is a page for people.
func (a *answer) missing() bool {
	if a.status() != http.StatusNotFound || a.elsewhere {
		return false
	}
	if len(a.said.Errors) > 0 {
		return a.has(transport.ManifestUnknownErrorCode, transport.NameUnknownErrorCode, transport.BlobUnknownErrorCode, "NOT_FOUND")
	}
	return a.empty && !strings.HasPrefix(a.header.Get("Content-Type"), "text/html")
}

// unsupported says whether the registry said that it has no such function.
func (a *answer) unsupported() bool {
	switch a.status() {
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return true
	case http.StatusBadRequest, http.StatusForbidden, http.StatusNotFound:
		return a.has(transport.UnsupportedErrorCode)
	}
	return false
}

// isMissing says whether the registry said so.
func isMissing(err error) bool {
	a, ok := answered(err)
	return ok && a.missing()
}

// explain makes a problem of what went wrong. What is said of the login, of
// what is missing and of what is not supported is in its chain. It returns nil
// for nil.
func (r *Registry) explain(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	what := fmt.Sprintf(format, args...)
	r.mu.Lock()
	shown := r.shown
	r.mu.Unlock()
	err = client.Conceal(err, shown.Username, shown.Secret.Reveal())
	var known *problem.Error
	if errors.As(err, &known) || errors.Is(err, context.Canceled) || errors.Is(err, image.ErrMissing) || errors.Is(err, image.ErrUnsupported) {
		return fmt.Errorf("%s: %w", what, err)
	}
	var large *tooLarge
	if errors.As(err, &large) {
		return problem.Wrap(err, problem.Damaged, "the registry answers with more than any registry should: look at it, and at proxies before it", "%s", what)
	}
	a, ok := answered(err)
	if !ok { // of the ping or of the token server, if it is an answer
		a = &answer{said: &transport.Error{}, elsewhere: true}
		_ = errors.As(err, &a.said)
	}
	switch {
	case a.status() == 0:
		return problem.Wrap(err, problem.Unreachable,
			"check that the registry is up, its name and port, and whether it speaks HTTPS", "%s", what)
	case ok && a.unsupported():
		return problem.Wrap(fmt.Errorf("%w: %w", image.ErrUnsupported, err), problem.Usage, "", "%s", what)
	case a.status() == http.StatusUnauthorized || a.status() == http.StatusForbidden:
		return problem.Wrap(fmt.Errorf("%w: %w", credential.ErrRefused, err), problem.Denied, r.refusedHint(a, shown), "%s", what)
	case a.missing():
		return problem.Wrap(fmt.Errorf("%w: %w", image.ErrMissing, err), problem.NotFound,
			"check the name of the image, and that its owner exists", "%s", what)
	case a.status() == http.StatusNotFound:
		return problem.Wrap(err, problem.Unreachable,
			"the answer is not a registry's: check the name and port, and proxies before the registry", "%s", what)
	case a.status() == http.StatusConflict || a.status() == http.StatusPreconditionFailed:
		return problem.Wrap(err, problem.Denied,
			"the registry does not let this tag or manifest be changed: look for a rule of immutable tags, or for an index that it is part of", "%s", what)
	case a.status() == http.StatusTooManyRequests:
		return problem.Wrap(err, problem.Unreachable, "the registry limits how often it may be asked: try again later, or with fewer requests at a time", "%s", what)
	}
	return problem.Wrap(err, problem.Unreachable, "the registry answered with an error of its own: look at its log", "%s", what)
}

func (r *Registry) refusedHint(a *answer, shown credential.Login) string {
	switch {
	case anybody(shown):
		return fmt.Sprintf("no login for %s is at hand, and the registry asks for one", r.config.Host)
	case giteaTokenServer(a.said.Request):
		return giteaTokenHint
	case strings.Contains(a.Error(), "reqPackageAccess"):
		return giteaAccessHint
	}
	return fmt.Sprintf("the login %s for %s is wrong, revoked or expired, or lacks the right to do this", shown.Username, r.config.Host)
}
