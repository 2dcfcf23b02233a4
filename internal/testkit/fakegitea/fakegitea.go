// Package fakegitea is a fake of a Gitea server's container registry, of its
// package API, and of the secrets and variables of its Actions, in memory, written from Gitea's published API and from what a
// real one was seen to do: a row for each tag and for each manifest pushed by
// digest, tags in lower case, deletion by digest with every tag of it, the
// children of a deleted index left behind, a next page named until one is
// empty, counters that a GET raises, no referrers.
//
// It refuses to be a registry in general: blobs are kept by another one beneath.
package fakegitea

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
)

// Config is what a fake is like.
type Config struct {
	// Username and Password are the login that it takes. The user is the owner
	// of all there is, and no other owner exists.
	Username, Password string
	// NoVersions has no list of one package's versions, as servers before 1.26.
	NoVersions bool
	// Page is MAX_RESPONSE_ITEMS; 50 if zero.
	Page int
	// Repositories (owner/name) and Organizations are those whose Actions secrets
	// and variables the login may manage, beside its own.
	Repositories, Organizations []string
	// NoDescriptions has secrets without descriptions, as older servers.
	NoDescriptions bool
	// Blobs is a registry without logins that keeps the blobs.
	Blobs http.Handler
	// Now is the clock.
	Now func() time.Time
	// Before may answer in place of the server; it returns whether it did.
	Before func(http.ResponseWriter, *http.Request) bool
}

// Server is a fake server. Its methods may be called at the same time.
type Server struct {
	config Config

	mu       sync.Mutex
	password string
	token    string
	serial   int64
	rows     []row // the latest first
	requests []string
	// secrets and variables are by where they are, and their names.
	secrets, variables map[string]map[string]kept
}

// row is a version of a package.
type row struct {
	id        int64
	name      string // without the owner
	version   string
	digest    digest.Digest
	mediaType string
	raw       []byte
	created   time.Time
	downloads int
}

var _ http.Handler = (*Server)(nil)

// New makes a fake.
func New(config Config) *Server {
	if config.Page == 0 {
		config.Page = 50
	}
	return &Server{
		config: config, password: config.Password, token: rand.Text(),
		secrets: map[string]map[string]kept{}, variables: map[string]map[string]kept{},
	}
}

// SetPassword changes the password, and ends what it handed out for the last.
func (s *Server) SetPassword(password string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.password, s.token = password, rand.Text()
}

// Requests are those since the last call, as "METHOD /path?query", sorted by
// when they came.
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.requests
	s.requests = nil
	return requests
}

// Versions are the versions of a repository's package, the latest first.
func (s *Server) Versions(repository string) (versions []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if s.config.Username+"/"+r.name == repository {
			versions = append(versions, r.version)
		}
	}
	return versions
}

// Downloads is how often the manifests of a repository were read by GET.
func (s *Server) Downloads(repository string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if s.config.Username+"/"+r.name == repository {
			n += r.downloads
		}
	}
	return n
}

// Corrupt has the registry send another manifest for a digest.
func (s *Server) Corrupt(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.rows {
		if r.digest == d {
			s.rows[i].raw = append(bytes.Clone(r.raw[:len(r.raw)-1]), '~')
		}
	}
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
	s.mu.Unlock()
	if s.config.Before != nil && s.config.Before(w, r) {
		return
	}
	switch path := r.URL.EscapedPath(); {
	case path == "/v2/token":
		s.bearer(w, r)
	case strings.HasPrefix(path, "/v2/"):
		s.registry(w, r)
	case strings.HasPrefix(path, "/api/v1/packages/"):
		s.packages(w, r)
	case strings.Contains(path, "/actions/"):
		s.actions(w, r)
	default:
		http.NotFound(w, r)
	}
}

// basic says whether the request shows the login, or the password alone as a
// token.
func (s *Server) basic(r *http.Request) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	username, password, ok := r.BasicAuth()
	return ok && username == s.config.Username && password == s.password ||
		r.Header.Get("Authorization") == "token "+s.password
}

func (s *Server) bearer(w http.ResponseWriter, r *http.Request) {
	if !s.basic(r) {
		registryError(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = json.NewEncoder(w).Encode(map[string]string{"token": s.token})
}

func registryError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"fake"}]}`, code)
}

func (s *Server) registry(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	known := r.Header.Get("Authorization") == "Bearer "+s.token
	s.mu.Unlock()
	if !known {
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/v2/token",service="container_registry",scope="*"`)
		registryError(w, http.StatusUnauthorized, "UNAUTHORIZED")
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	switch {
	case path == "":
		return
	case path == "_catalog":
		s.catalog(w)
		return
	case strings.Contains(path, "/blobs/"):
		s.config.Blobs.ServeHTTP(w, r)
		return
	}
	name, isOurs := strings.CutPrefix(path, s.config.Username+"/")
	if !isOurs {
		http.Error(w, "Not found.", http.StatusNotFound)
		return
	}
	if name, of, ok := strings.Cut(name, "/manifests/"); ok {
		s.manifest(w, r, name, of)
	} else if name, ok := strings.CutSuffix(name, "/tags/list"); ok {
		s.tags(w, r, name)
	} else {
		http.NotFound(w, r)
	}
}

func (s *Server) catalog(w http.ResponseWriter) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := []string{}
	for _, r := range s.rows {
		names = append(names, s.config.Username+"/"+r.name)
	}
	slices.Sort(names)
	_ = json.NewEncoder(w).Encode(map[string]any{"repositories": slices.Compact(names)})
}

func (s *Server) tags(w http.ResponseWriter, r *http.Request, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	names, known := []string{}, false
	for _, row := range s.rows {
		if row.name != name {
			continue
		}
		known = true
		if digest.Digest(row.version).Validate() != nil && row.version > r.URL.Query().Get("last") {
			names = append(names, row.version)
		}
	}
	if !known {
		registryError(w, http.StatusNotFound, "NAME_UNKNOWN")
		return
	}
	slices.Sort(names)
	if n, err := strconv.Atoi(r.URL.Query().Get("n")); err == nil && n < len(names) {
		names = names[:n]
	}
	if len(names) > 0 {
		next := url.Values{"last": {names[len(names)-1]}, "n": {cmp.Or(r.URL.Query().Get("n"), "50")}}
		w.Header().Set("Link", "<"+r.URL.Path+"?"+next.Encode()+`>; rel="next"`)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"name": name, "tags": names})
}

// leads says whether a row is under the tag, or has the digest.
func (row row) leads(name, of string) bool {
	if row.name != name {
		return false
	}
	if d := digest.Digest(of); d.Validate() == nil {
		return row.digest == d
	}
	return row.version == strings.ToLower(of)
}

func (s *Server) manifest(w http.ResponseWriter, r *http.Request, name, of string) {
	if r.Method == http.MethodPut {
		s.put(w, r, name, of)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.rows, func(row row) bool { return row.leads(name, of) })
	if i < 0 {
		registryError(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
		return
	}
	switch r.Method {
	case http.MethodDelete:
		s.rows = slices.DeleteFunc(s.rows, func(row row) bool { return row.leads(name, of) })
		w.WriteHeader(http.StatusAccepted)
	default:
		w.Header().Set("Content-Type", s.rows[i].mediaType)
		w.Header().Set("Docker-Content-Digest", s.rows[i].digest.String())
		w.Header().Set("Content-Length", strconv.Itoa(len(s.rows[i].raw)))
		if r.Method == http.MethodGet {
			s.rows[i].downloads++
			_, _ = w.Write(s.rows[i].raw)
		}
	}
}

// tagged is what Gitea takes for a tag.
var tagged = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`)

func (s *Server) put(w http.ResponseWriter, r *http.Request, name, of string) {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	d := digest.FromBytes(raw)
	m, err := image.ParseManifest(d, r.Header.Get("Content-Type"), raw)
	if err != nil || digest.Digest(of).Validate() != nil && !tagged.MatchString(of) {
		registryError(w, http.StatusBadRequest, "MANIFEST_INVALID")
		return
	}
	for _, b := range m.Blobs() {
		ask := r.Clone(r.Context())
		ask.Method, ask.Body = http.MethodHead, http.NoBody
		ask.URL = &url.URL{Path: "/v2/" + s.config.Username + "/" + name + "/blobs/" + b.Digest.String()}
		answer := httptest.NewRecorder()
		s.config.Blobs.ServeHTTP(answer, ask)
		if answer.Code != http.StatusOK {
			registryError(w, http.StatusBadRequest, "BLOB_UNKNOWN")
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range m.Children {
		if !slices.ContainsFunc(s.rows, func(row row) bool { return row.leads(name, c.Digest.String()) }) {
			registryError(w, http.StatusNotFound, "MANIFEST_UNKNOWN")
			return
		}
	}
	version := strings.ToLower(of)
	s.rows = slices.DeleteFunc(s.rows, func(row row) bool { return row.name == name && row.version == version })
	s.serial++
	s.rows = slices.Insert(s.rows, 0, row{
		id: s.serial, name: name, version: version, digest: d, mediaType: m.MediaType, raw: raw, created: s.config.Now().Truncate(time.Second),
	})
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func apiError(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"message": text, "url": "https://gitea.example.com/api/swagger"})
}

// packages serves GET /packages/{owner}, GET /packages/{owner}/{type}/{name} and
// DELETE /packages/{owner}/{type}/{name}/{version}.
func (s *Server) packages(w http.ResponseWriter, r *http.Request) {
	if !s.basic(r) {
		apiError(w, http.StatusUnauthorized, "invalid username, password or token")
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/api/v1/packages/"), "/")
	for i, part := range parts {
		parts[i], _ = url.PathUnescape(part)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	query := r.URL.Query()
	var is func(row) bool
	switch {
	case parts[0] != s.config.Username:
		apiError(w, http.StatusNotFound, "user redirect does not exist [name: "+parts[0]+"]")
		return
	case len(parts) == 1 && r.Method == http.MethodGet:
		kind, part := query.Get("type"), strings.ToLower(query.Get("q"))
		is = func(row row) bool { return (kind == "" || kind == "container") && strings.Contains(row.name, part) }
	case len(parts) == 3 && r.Method == http.MethodGet && !s.config.NoVersions:
		is = func(row row) bool { return parts[1] == "container" && row.name == strings.ToLower(parts[2]) }
		if !slices.ContainsFunc(s.rows, is) {
			apiError(w, http.StatusNotFound, "GetPackageByName: package does not exist")
			return
		}
	case len(parts) == 4 && r.Method == http.MethodDelete:
		before := len(s.rows)
		s.rows = slices.DeleteFunc(s.rows, func(row row) bool {
			return parts[1] == "container" && row.name == strings.ToLower(parts[2]) && row.version == strings.ToLower(parts[3])
		})
		if len(s.rows) == before {
			apiError(w, http.StatusNotFound, "GetVersionByNameAndVersion: package does not exist")
			return
		}
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		http.NotFound(w, r)
		return
	}
	s.page(w, query, slices.DeleteFunc(slices.Clone(s.rows), func(row row) bool { return !is(row) }))
}

func (s *Server) page(w http.ResponseWriter, query url.Values, rows []row) {
	total := len(rows)
	page, _ := strconv.Atoi(query.Get("page"))
	limit, _ := strconv.Atoi(query.Get("limit"))
	if limit <= 0 || limit > s.config.Page {
		limit = s.config.Page
	}
	begin := min((max(page, 1)-1)*limit, total)
	shown := []map[string]any{}
	for _, row := range rows[begin:min(begin+limit, total)] {
		shown = append(shown, map[string]any{
			"id": row.id, "owner": map[string]any{"login": s.config.Username}, "type": "container",
			"name": row.name, "version": row.version, "created_at": row.created.Format(time.RFC3339),
		})
	}
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.Header().Set("X-Total-Count", strconv.Itoa(total))
	_ = json.NewEncoder(w).Encode(shown)
}
