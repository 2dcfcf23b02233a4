// Package fakeharbor is a fake of a Harbor server's registry and of the parts of
// its API 2.0 that tell of artifacts and delete them, and that mint robot
// accounts, in memory, written from the published API (api/v2.0/swagger.yaml):
// names with slashes escaped twice, times of pushes and pulls, children and
// accessories left out of lists and deleted with what they belong to, deletion
// by digest with every tag, immutable tags, no deletion by tag through the OCI
// API, robot accounts with the rights they were given and until they expire.
//
// It refuses to be a registry in general: another one beneath it is. Logins are
// Basic alone.
package fakeharbor

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
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
	// Username and Password are the login that may do everything. Those of the
	// robot accounts are taken, too.
	Username, Password string
	// Project is the one that there is.
	Project string
	// CutFirst cuts pages before accessories are left out of them, as older
	// servers do.
	CutFirst bool
	// Immutable says which tags cannot be deleted.
	Immutable func(tag string) bool
	// Images is a registry without logins that keeps the images.
	Images http.Handler
	// Now is the clock.
	Now func() time.Time
	// Before may answer in place of the server; it returns whether it did.
	Before func(http.ResponseWriter, *http.Request) bool
}

// Server is a fake server. Its methods may be called at the same time.
type Server struct {
	config Config

	mu       sync.Mutex
	repos    map[string]map[digest.Digest]*artifact // by the whole path
	requests []string
	robots   []*Robot
	serial   int64
}

type artifact struct {
	serial         int
	digest         digest.Digest
	size           int64
	pushed, pulled time.Time
	tags           map[string]*tag
	children       []digest.Digest
	subject        digest.Digest
}

type tag struct{ pushed, pulled time.Time }

var _ http.Handler = (*Server)(nil)

// New makes a fake.
func New(config Config) *Server {
	return &Server{config: config, repos: map[string]map[digest.Digest]*artifact{}}
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

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
	s.mu.Unlock()
	if s.config.Before != nil && s.config.Before(w, r) {
		return
	}
	if username, password, _ := r.BasicAuth(); username != s.config.Username || password != s.config.Password {
		robot, ok := s.robotOf(username, password)
		if !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="fake harbor"`)
			fail(w, http.StatusUnauthorized, "UNAUTHORIZED")
			return
		}
		if !s.allows(robot, r) {
			fail(w, http.StatusForbidden, "FORBIDDEN")
			return
		}
	}
	if path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v2.0/"); ok {
		s.api(w, r, path)
		return
	}
	name, of, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	if !ok {
		s.config.Images.ServeHTTP(w, r)
		return
	}
	s.manifest(w, r, name, of)
}

func fail(w http.ResponseWriter, status int, code string) {
	answer(w, status, map[string]any{"errors": []map[string]string{{"code": code, "message": "fake"}}})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// manifest serves what changes artifacts, or their times.
func (s *Server) manifest(w http.ResponseWriter, r *http.Request, name, of string) {
	isDigest := digest.Digest(of).Validate() == nil
	if r.Method == http.MethodDelete && !isDigest {
		fail(w, http.StatusBadRequest, "UNSUPPORTED")
		return
	}
	if r.Method == http.MethodDelete {
		s.mu.Lock()
		defer s.mu.Unlock()
		status, code := s.deleteArtifact(name, digest.Digest(of))
		if code != "" {
			fail(w, status, code)
			return
		}
		w.WriteHeader(http.StatusAccepted)
		return
	}
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	s.mu.Lock()
	defer s.mu.Unlock()
	if !isDigest && r.Method == http.MethodPut && s.config.Immutable != nil && s.config.Immutable(of) && s.tagged(name, of) != nil && s.tagged(name, of).digest != digest.FromBytes(raw) {
		fail(w, http.StatusPreconditionFailed, "PRECONDITION")
		return
	}
	recorded := httptest.NewRecorder()
	s.config.Images.ServeHTTP(recorded, r)
	maps.Copy(w.Header(), recorded.Header())
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes())
	switch {
	case r.Method == http.MethodPut && recorded.Code == http.StatusCreated:
		s.pushed(name, of, r.Header.Get("Content-Type"), raw)
	case r.Method == http.MethodGet && recorded.Code == http.StatusOK:
		if isDigest {
			s.repos[name][digest.Digest(of)].pulled = s.config.Now()
		} else if a := s.tagged(name, of); a != nil {
			a.pulled, a.tags[of].pulled = s.config.Now(), s.config.Now()
		}
	}
}

func (s *Server) tagged(name, tag string) *artifact {
	for _, a := range s.repos[name] {
		if a.tags[tag] != nil {
			return a
		}
	}
	return nil
}

func (s *Server) pushed(name, of, mediaType string, raw []byte) {
	d := digest.FromBytes(raw)
	m, err := image.ParseManifest(d, mediaType, raw)
	if err != nil {
		return
	}
	if s.repos[name] == nil {
		s.repos[name] = map[digest.Digest]*artifact{}
	}
	a := s.repos[name][d]
	if a == nil {
		a = &artifact{serial: len(s.repos[name]), digest: d, size: m.Size, pushed: s.config.Now(), tags: map[string]*tag{}, subject: m.Subject}
		for _, c := range m.Children {
			a.children = append(a.children, c.Digest)
		}
		s.repos[name][d] = a
	}
	if digest.Digest(of).Validate() == nil {
		return
	}
	if subject, ok := image.Attached(of); ok {
		a.subject = subject
	}
	if before := s.tagged(name, of); before != nil && before != a {
		delete(before.tags, of)
	}
	if a.tags[of] == nil {
		a.tags[of] = &tag{pushed: s.config.Now()}
	}
}

// parents says whether an artifact is part of an index.
func (s *Server) parents(name string, d digest.Digest) bool {
	for _, a := range s.repos[name] {
		if slices.Contains(a.children, d) {
			return true
		}
	}
	return false
}

// deleteArtifact deletes as Harbor does: with all tags, children and
// accessories.
func (s *Server) deleteArtifact(name string, d digest.Digest) (status int, code string) {
	a := s.repos[name][d]
	if a == nil {
		return http.StatusNotFound, "NOT_FOUND"
	}
	if s.parents(name, d) {
		return http.StatusPreconditionFailed, "VIOLATE_FOREIGN_KEY_CONSTRAINT"
	}
	for tag := range a.tags {
		if s.config.Immutable != nil && s.config.Immutable(tag) {
			return http.StatusPreconditionFailed, "PRECONDITION"
		}
	}
	delete(s.repos[name], d)
	s.forget(name, d.String())
	for _, other := range s.repos[name] {
		if other.subject == d {
			_, _ = s.deleteArtifact(name, other.digest)
		}
	}
	for _, c := range a.children {
		if child := s.repos[name][c]; child != nil && len(child.tags) == 0 && !s.parents(name, c) {
			_, _ = s.deleteArtifact(name, c)
		}
	}
	return 0, ""
}

// forget deletes a manifest or a tag from the registry beneath.
func (s *Server) forget(name, of string) {
	request := &http.Request{Method: http.MethodDelete, URL: &url.URL{Path: "/v2/" + name + "/manifests/" + of}, Body: http.NoBody}
	s.config.Images.ServeHTTP(httptest.NewRecorder(), request)
}

// api serves what is below /api/v2.0/.
func (s *Server) api(w http.ResponseWriter, r *http.Request, path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i], _ = url.PathUnescape(part)
	}
	if path == "repositories" && r.Method == http.MethodGet {
		var rows []any
		for _, name := range slices.Sorted(maps.Keys(s.repos)) {
			rows = append(rows, map[string]any{"name": name, "artifact_count": len(s.repos[name])})
		}
		page(w, r, rows, len(rows))
		return
	}
	if s.minting(w, r, parts) {
		return
	}
	if len(parts) < 5 || parts[0] != "projects" || parts[2] != "repositories" || parts[4] != "artifacts" {
		http.NotFound(w, r)
		return
	}
	if parts[1] != s.config.Project {
		fail(w, http.StatusNotFound, "NOT_FOUND")
		return
	}
	// The second escape is Harbor's own. A name that was escaped once has come
	// apart, and finds nothing.
	repo, err := url.PathUnescape(parts[3])
	if err != nil || strings.Contains(parts[3], "/") {
		http.NotFound(w, r)
		return
	}
	name := parts[1] + "/" + repo
	if len(parts) == 5 && r.Method == http.MethodGet {
		s.list(w, r, name)
		return
	}
	a := s.repos[name][digest.Digest(parts[5])]
	if a == nil {
		a = s.tagged(name, parts[5])
	}
	if a == nil {
		fail(w, http.StatusNotFound, "NOT_FOUND")
		return
	}
	switch {
	case len(parts) == 6 && r.Method == http.MethodGet:
		answer(w, http.StatusOK, a.row())
	case len(parts) == 6 && r.Method == http.MethodDelete:
		if status, code := s.deleteArtifact(name, a.digest); code != "" {
			fail(w, status, code)
			return
		}
		w.WriteHeader(http.StatusOK)
	case len(parts) == 7 && parts[6] == "accessories" && r.Method == http.MethodGet:
		var rows []any
		for _, other := range s.sorted(name) {
			if other.subject == a.digest {
				rows = append(rows, map[string]any{"digest": other.digest, "size": other.size, "type": "subject.accessory", "subject_artifact_digest": a.digest})
			}
		}
		page(w, r, rows, len(rows))
	case len(parts) == 8 && parts[6] == "tags" && r.Method == http.MethodDelete:
		switch {
		case a.tags[parts[7]] == nil:
			fail(w, http.StatusNotFound, "NOT_FOUND")
		case s.config.Immutable != nil && s.config.Immutable(parts[7]):
			fail(w, http.StatusPreconditionFailed, "PRECONDITION")
		default:
			delete(a.tags, parts[7])
			s.forget(name, parts[7])
			w.WriteHeader(http.StatusOK)
		}
	default:
		http.NotFound(w, r)
	}
}

// sorted are a repository's artifacts, the latest first.
func (s *Server) sorted(name string) []*artifact {
	return slices.SortedFunc(maps.Values(s.repos[name]), func(a, b *artifact) int { return b.serial - a.serial })
}

func (a *artifact) row() map[string]any {
	tags := []map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(a.tags)) {
		tags = append(tags, map[string]any{"name": name, "push_time": a.tags[name].pushed, "pull_time": a.tags[name].pulled})
	}
	return map[string]any{"digest": a.digest, "size": a.size, "push_time": a.pushed, "pull_time": a.pulled, "tags": tags}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, name string) {
	var rows []any
	total := 0
	for _, a := range s.sorted(name) {
		shown := len(a.tags) > 0 || !s.parents(name, a.digest)
		switch r.URL.Query().Get("q") {
		case "tags=*":
			shown = len(a.tags) > 0
		case "tags=nil":
			shown = shown && len(a.tags) == 0
		}
		accessory := a.subject != ""
		switch {
		case !shown:
		case !accessory:
			rows = append(rows, a.row())
			total++
		case s.config.CutFirst:
			rows = append(rows, nil) // left out of its page below
		}
	}
	page(w, r, rows, total)
}

// page writes the part of a list that was asked for, but for what is nil.
func page(w http.ResponseWriter, r *http.Request, rows []any, total int) {
	number, _ := strconv.Atoi(r.URL.Query().Get("page"))
	size, _ := strconv.Atoi(r.URL.Query().Get("page_size"))
	if size < 1 || size > 100 {
		size = 10
	}
	begin := min((max(number, 1)-1)*size, len(rows))
	shown := []any{}
	for _, row := range rows[begin:min(begin+size, len(rows))] {
		if row != nil {
			shown = append(shown, row)
		}
	}
	w.Header().Set("X-Total-Count", strconv.Itoa(total))
	answer(w, http.StatusOK, shown)
}
