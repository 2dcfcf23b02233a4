// Package fakeregistry is a small registry in memory, written from the OCI
// distribution specification 1.1 and from the token specification of
// distribution (docs/content/spec/auth). It deletes as distribution does: with a
// manifest go all of its tags.
//
// It refuses to be fast, to keep anything, and to be nice: each of its faults is
// one that a registry in the field has.
package fakeregistry

import (
	"bytes"
	"cmp"
	"crypto/rand"
	_ "crypto/sha512" // digests may be made by it
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
)

// Config is what a fake is like. The zero Config is a registry without faults
// that lets anybody in.
type Config struct {
	// Scheme is how it asks for logins: Bearer, Basic, or not at all.
	Scheme string
	// Login is the username and password that it takes; see [Registry.SetLogin].
	Username, Password string
	// Lifetime is what it tells of its tokens, in seconds; none if zero.
	Lifetime int
	// Page is the length of a page that nobody asked for; no bound if zero.
	Page int
	// IgnorePaging lists all at once, as distribution 2.8 does with tags.
	IgnorePaging bool
	// NoTagDelete refuses to delete by tag, as distribution 2.8 does.
	NoTagDelete bool
	// NoDelete refuses to delete, as distribution does unless configured.
	NoDelete bool
	// NoReferrers has no referrers API, as Gitea has none.
	NoReferrers bool
	// NoCatalog has no catalog.
	NoCatalog bool
	// NoDigest sends no Docker-Content-Digest.
	NoDigest bool
	// NoHead refuses HEAD of manifests.
	NoHead bool
	// NoMount begins an upload instead of a mount.
	NoMount bool
	// Cut is after how many bytes of a request's body the connection breaks, if
	// ok, and how many of these are lost with it. The others have arrived.
	Cut func(*http.Request) (after, lost int64, ok bool)
	// NoResume forgets an upload of which a request broke, as distribution 2.8
	// and, in effect, Gitea do.
	NoResume bool
	// Standing is what is told of how many bytes of an upload have arrived; the
	// truth if nil.
	Standing func(arrived int) int
	// NoRanges adds what comes to an upload whichever range it says that it is.
	NoRanges bool
	// Before may answer in place of the registry; it returns whether it did.
	Before func(http.ResponseWriter, *http.Request) bool
}

// Registry is a fake registry. Its methods may be called at the same time.
type Registry struct {
	config Config

	mu       sync.Mutex
	username string
	password string
	tokens   map[string][]string // the scopes of each
	repos    map[string]*repo
	blobs    map[digest.Digest][]byte
	uploads  map[string][]byte
	requests []string
	received int64
}

type repo struct {
	manifests map[digest.Digest]stored
	tags      map[string]digest.Digest
	blobs     map[digest.Digest]bool
}

type stored struct {
	kind string
	raw  []byte
}

var (
	_ http.Handler      = (*Registry)(nil)
	_ http.RoundTripper = (*Registry)(nil)
)

// New makes a fake.
func New(config Config) *Registry {
	return &Registry{
		config: config, username: config.Username, password: config.Password,
		tokens: map[string][]string{}, repos: map[string]*repo{},
		blobs: map[digest.Digest][]byte{}, uploads: map[string][]byte{},
	}
}

// SetLogin changes the login. Tokens that were handed out end.
func (g *Registry) SetLogin(username, password string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.username, g.password = username, password
	clear(g.tokens)
}

// EndTokens ends all tokens.
func (g *Registry) EndTokens() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.tokens)
}

// Requests are those since the last call, as "METHOD /path?query", sorted by
// when they came.
func (g *Registry) Requests() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	requests := g.requests
	g.requests = nil
	return requests
}

// Count is how many requests begin so, among those that [Registry.Requests] has
// not returned.
func (g *Registry) Count(prefix string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, request := range g.requests {
		if strings.HasPrefix(request, prefix) {
			n++
		}
	}
	return n
}

// Corrupt has the registry send something else for a digest.
func (g *Registry) Corrupt(d digest.Digest) {
	g.mu.Lock()
	defer g.mu.Unlock()
	spoil := func(raw []byte) []byte { return bytes.Replace(raw, raw[len(raw)/2:len(raw)/2+1], []byte{'~'}, 1) }
	if raw, ok := g.blobs[d]; ok {
		g.blobs[d] = spoil(raw)
	}
	for _, repo := range g.repos {
		if m, ok := repo.manifests[d]; ok {
			repo.manifests[d] = stored{m.kind, spoil(m.raw)}
		}
	}
}

// Received is how many bytes have come of blobs.
func (g *Registry) Received() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.received
}

// RoundTrip answers without a network, so that time can be a test's own.
func (g *Registry) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	got := r.Clone(r.Context())
	got.Host = cmp.Or(r.Host, r.URL.Host)
	sent := &body{Reader: http.NoBody}
	if r.Body != nil {
		defer func() { _ = r.Body.Close() }()
		sent.Reader = r.Body
	}
	got.Body = io.NopCloser(sent)
	w := httptest.NewRecorder()
	if broke := g.answer(w, got); broke != nil {
		return nil, broke
	}
	// A client's transport reads to the end, and finds its errors there.
	if _, err := io.Copy(io.Discard, sent); err != nil {
		return nil, err
	}
	if r.ContentLength > 0 && sent.n != r.ContentLength {
		return nil, fmt.Errorf("http: ContentLength=%d with Body length %d", r.ContentLength, sent.n)
	}
	response := w.Result()
	response.Request = r
	if text := response.Header.Get("Content-Length"); text != "" {
		response.ContentLength, _ = strconv.ParseInt(text, 10, 64)
	}
	return response, nil
}

// body is what a client sends.
type body struct {
	io.Reader
	n int64
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.n += int64(n)
	return n, err
}

// ServeHTTP implements [http.Handler].
func (g *Registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if g.answer(w, r) != nil {
		panic(http.ErrAbortHandler) // which is how a handler ends a connection
	}
}

// errCut is a connection that was cut.
var errCut = errors.New("the connection was cut")

// answer answers a request, unless its connection breaks.
func (g *Registry) answer(w http.ResponseWriter, r *http.Request) error {
	g.mu.Lock()
	g.requests = append(g.requests, r.Method+" "+r.URL.RequestURI())
	g.mu.Unlock()
	if g.config.Before != nil && g.config.Before(w, r) {
		return nil
	}
	var comes io.Reader = r.Body
	cut, lost := false, int64(0)
	if g.config.Cut != nil {
		var after int64
		if after, lost, cut = g.config.Cut(r); cut {
			comes = io.LimitReader(r.Body, after)
		}
	}
	body, err := io.ReadAll(comes)
	if cut && err == nil {
		err = errCut
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	_, id, uploads := strings.Cut(r.URL.Path, "/blobs/uploads/")
	if uploads {
		g.received += int64(len(body))
	}
	if err != nil {
		if have, ok := g.uploads[id]; ok && r.Method == http.MethodPatch && g.follows(r, have) {
			g.uploads[id] = append(have, body[:max(int64(len(body))-lost, 0)]...)
			if g.config.NoResume {
				delete(g.uploads, id)
			}
		}
		return err
	}
	g.serve(w, r, body)
	return nil
}

// follows says whether what a request brings is what follows in its upload.
func (g *Registry) follows(r *http.Request, have []byte) bool {
	text, _, ok := strings.Cut(r.Header.Get("Content-Range"), "-")
	return !ok || g.config.NoRanges || text == strconv.Itoa(len(have))
}

func (g *Registry) serve(w http.ResponseWriter, r *http.Request, body []byte) {
	if r.URL.Path == "/token" {
		g.token(w, r)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	if path == "" || path == "_catalog" {
		if !g.allowed(r, "registry", "catalog", "*") && (path != "" || !g.known(r)) {
			g.challenge(w, r)
			return
		}
		if path == "" {
			w.WriteHeader(http.StatusOK)
			return
		}
		g.catalog(w, r)
		return
	}
	for _, part := range []struct {
		separator string
		serve     func(w http.ResponseWriter, r *http.Request, name, rest string, body []byte)
	}{
		{"/blobs/uploads/", g.upload}, {"/blobs/", g.blob}, {"/manifests/", g.manifest}, {"/tags/", g.tagList}, {"/referrers/", g.referrers},
	} {
		name, rest, ok := strings.Cut(path, part.separator)
		if !ok {
			continue
		}
		if !g.allowed(r, "repository", name, action(r.Method)) {
			g.challenge(w, r)
			return
		}
		part.serve(w, r, name, rest, body)
		return
	}
	fail(w, http.StatusNotFound, "NOT_FOUND")
}

func action(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		return "pull"
	case http.MethodDelete:
		return "delete"
	}
	return "push"
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"fake"}]}`, code)
}

// known says whether the request shows a login or a token.
func (g *Registry) known(r *http.Request) bool {
	switch g.config.Scheme {
	case "Bearer":
		_, ok := g.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		return ok
	case "Basic":
		username, password, _ := r.BasicAuth()
		return username == g.username && password == g.password
	}
	return true
}

// allowed says whether the request may do this.
func (g *Registry) allowed(r *http.Request, kind, name, action string) bool {
	if g.config.Scheme != "Bearer" {
		return g.known(r)
	}
	scopes := g.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	may := func(kind, name, action string) bool {
		return slices.ContainsFunc(scopes, func(scope string) bool {
			actions, ok := strings.CutPrefix(scope, kind+":"+name+":")
			return ok && slices.Contains(strings.Split(actions, ","), action)
		})
	}
	if strings.Contains(r.URL.Path, "/blobs/uploads/") && action == "delete" {
		action = "push" // the end of an upload
	}
	from := r.URL.Query().Get("from")
	return may(kind, name, action) && (from == "" || may(kind, from, "pull"))
}

func (g *Registry) challenge(w http.ResponseWriter, r *http.Request) {
	scheme := "http"
	if r.TLS != nil || r.URL.Scheme == "https" {
		scheme = "https"
	}
	switch g.config.Scheme {
	case "Bearer":
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+scheme+"://"+r.Host+`/token",service="fake"`)
	default:
		w.Header().Set("WWW-Authenticate", `Basic realm="fake"`)
	}
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
}

func (g *Registry) token(w http.ResponseWriter, r *http.Request) {
	username, password, _ := r.BasicAuth()
	if username != g.username || password != g.password {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	token := rand.Text()
	g.tokens[token] = r.URL.Query()["scope"]
	answer := map[string]any{"token": token}
	if g.config.Lifetime > 0 {
		answer["expires_in"] = g.config.Lifetime
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// page writes the part of a sorted list that was asked for (OCI distribution
// specification, "Listing Tags").
func (g *Registry) page(w http.ResponseWriter, r *http.Request, key string, all []string, more map[string]any) {
	query := r.URL.Query()
	length := g.config.Page
	if n, err := strconv.Atoi(query.Get("n")); err == nil && (length == 0 || n < length) {
		length = n
	}
	if !g.config.IgnorePaging {
		if last := query.Get("last"); last != "" {
			all = slices.DeleteFunc(all, func(name string) bool { return name <= last })
		}
		if length > 0 && len(all) > length {
			all = all[:length]
			next := url.Values{"n": {strconv.Itoa(length)}, "last": {all[length-1]}}
			w.Header().Set("Link", "<"+r.URL.Path+"?"+next.Encode()+`>; rel="next"`)
		}
	}
	doc := map[string]any{key: all}
	maps.Copy(doc, more)
	_ = json.NewEncoder(w).Encode(doc)
}

func (g *Registry) catalog(w http.ResponseWriter, r *http.Request) {
	if g.config.NoCatalog {
		fail(w, http.StatusNotFound, "UNSUPPORTED")
		return
	}
	g.page(w, r, "repositories", slices.Sorted(maps.Keys(g.repos)), nil)
}

func (g *Registry) tagList(w http.ResponseWriter, r *http.Request, name, _ string, _ []byte) {
	repo := g.repos[name]
	if repo == nil {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	g.page(w, r, "tags", slices.Sorted(maps.Keys(repo.tags)), map[string]any{"name": name})
}

func (g *Registry) open(name string) *repo {
	if g.repos[name] == nil {
		g.repos[name] = &repo{map[digest.Digest]stored{}, map[string]digest.Digest{}, map[digest.Digest]bool{}}
	}
	return g.repos[name]
}

func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, name, of string, body []byte) {
	if r.Method == http.MethodPut {
		g.putManifest(w, r, name, of, body)
		return
	}
	d := digest.Digest(of)
	byTag := d.Validate() != nil
	if r.Method == http.MethodDelete && (g.config.NoDelete || byTag && g.config.NoTagDelete) {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
		return
	}
	repo := g.repos[name]
	if repo == nil {
		fail(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	if byTag {
		d = repo.tags[of]
	}
	m, ok := repo.manifests[d]
	switch {
	case r.Method == http.MethodHead && g.config.NoHead:
		w.WriteHeader(http.StatusMethodNotAllowed)
	case !ok:
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
	case r.Method == http.MethodDelete && byTag:
		delete(repo.tags, of)
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodDelete:
		delete(repo.manifests, d)
		maps.DeleteFunc(repo.tags, func(_ string, leads digest.Digest) bool { return leads == d })
		w.WriteHeader(http.StatusAccepted)
	default:
		g.send(w, r, m.kind, d, m.raw)
	}
}

func (g *Registry) send(w http.ResponseWriter, r *http.Request, kind string, d digest.Digest, raw []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	if !g.config.NoDigest {
		w.Header().Set("Docker-Content-Digest", d.String())
	}
	if r.Method != http.MethodHead {
		_, _ = w.Write(raw)
	}
}

func (g *Registry) putManifest(w http.ResponseWriter, r *http.Request, name, of string, body []byte) {
	kind := r.Header.Get("Content-Type")
	d := digest.FromBytes(body)
	asked := digest.Digest(of)
	if asked.Validate() == nil && asked != asked.Algorithm().FromBytes(body) {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID")
		return
	}
	m, err := image.ParseManifest(d, kind, body)
	if err != nil {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID")
		return
	}
	repo := g.open(name)
	for _, b := range m.Blobs() {
		if !repo.blobs[b.Digest] && len(b.URLs) == 0 {
			fail(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
			return
		}
	}
	for _, c := range m.Children {
		if _, ok := repo.manifests[c.Digest]; !ok {
			fail(w, http.StatusBadRequest, "MANIFEST_BLOB_UNKNOWN")
			return
		}
	}
	if asked.Validate() == nil {
		d = asked
	} else {
		repo.tags[of] = d
	}
	repo.manifests[d] = stored{kind, body}
	if m.Subject != "" && !g.config.NoReferrers {
		w.Header().Set("OCI-Subject", m.Subject.String())
	}
	if !g.config.NoDigest {
		w.Header().Set("Docker-Content-Digest", d.String())
	}
	w.WriteHeader(http.StatusCreated)
}

func (g *Registry) referrers(w http.ResponseWriter, r *http.Request, name, of string, _ []byte) {
	if g.config.NoReferrers {
		http.NotFound(w, r)
		return
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	if repo := g.repos[name]; repo != nil {
		for _, d := range slices.Sorted(maps.Keys(repo.manifests)) {
			stored := repo.manifests[d]
			m, err := image.ParseManifest(d, stored.kind, stored.raw)
			if err != nil || m.Subject != digest.Digest(of) {
				continue
			}
			kind := m.ArtifactType
			if kind == "" && m.Config != nil {
				kind = m.Config.MediaType
			}
			index.Manifests = append(index.Manifests, ocispec.Descriptor{MediaType: m.MediaType, ArtifactType: kind, Digest: d, Size: m.Size})
		}
	}
	// Pages are by place: there is no name to begin behind.
	from, _ := strconv.Atoi(r.URL.Query().Get("from"))
	index.Manifests = index.Manifests[min(from, len(index.Manifests)):]
	if page := g.config.Page; page > 0 && len(index.Manifests) > page {
		index.Manifests = index.Manifests[:page]
		w.Header().Set("Link", fmt.Sprintf(`<%s?from=%d>; rel="next"`, r.URL.Path, from+page))
	}
	w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
	_ = json.NewEncoder(w).Encode(index)
}

func (g *Registry) blob(w http.ResponseWriter, r *http.Request, name, of string, _ []byte) {
	d := digest.Digest(of)
	repo := g.repos[name]
	if repo == nil || !repo.blobs[d] {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN")
		return
	}
	raw := g.blobs[d]
	var from int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && from < len(raw) {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(raw)-1, len(raw)))
		w.Header().Set("Content-Length", strconv.Itoa(len(raw)-from))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(raw[from:])
		return
	}
	g.send(w, r, "application/octet-stream", d, raw)
}

func (g *Registry) upload(w http.ResponseWriter, r *http.Request, name, id string, body []byte) {
	query := r.URL.Query()
	if r.Method == http.MethodPost {
		mounted := digest.Digest(query.Get("mount"))
		if from := g.repos[query.Get("from")]; from != nil && from.blobs[mounted] && !g.config.NoMount {
			g.open(name).blobs[mounted] = true
			w.Header().Set("Docker-Content-Digest", mounted.String())
			w.WriteHeader(http.StatusCreated)
			return
		}
		id = rand.Text()
		g.uploads[id] = nil
		g.stands(w, name, id, http.StatusAccepted)
		return
	}
	have, ok := g.uploads[id]
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN")
		return
	}
	switch r.Method {
	case http.MethodGet:
		g.stands(w, name, id, http.StatusNoContent)
	case http.MethodPatch:
		if !g.follows(r, have) {
			g.stands(w, name, id, http.StatusRequestedRangeNotSatisfiable)
			return
		}
		g.uploads[id] = append(have, body...)
		g.stands(w, name, id, http.StatusAccepted)
	case http.MethodPut:
		d := digest.Digest(query.Get("digest"))
		raw := append(have, body...)
		if d.Validate() != nil || d.Algorithm().FromBytes(raw) != d {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID")
			return
		}
		delete(g.uploads, id)
		g.blobs[d] = raw
		g.open(name).blobs[d] = true
		w.Header().Set("Docker-Content-Digest", d.String())
		w.WriteHeader(http.StatusCreated)
	case http.MethodDelete:
		delete(g.uploads, id)
		w.WriteHeader(http.StatusNoContent)
	default:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED")
	}
}

// stands tells where an upload goes on, and how much has arrived.
func (g *Registry) stands(w http.ResponseWriter, name, id string, status int) {
	arrived := len(g.uploads[id])
	if g.config.Standing != nil {
		arrived = g.config.Standing(arrived)
	}
	w.Header().Set("Location", "/v2/"+name+"/blobs/uploads/"+id)
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(arrived-1, 0)))
	w.WriteHeader(status)
}

// Uploads is how many uploads have begun and not ended.
func (g *Registry) Uploads() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.uploads)
}
