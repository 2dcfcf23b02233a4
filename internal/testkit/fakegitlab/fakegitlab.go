// Package fakegitlab is a fake of a GitLab server's registry and of parts of its
// API 4, in memory, written from the published API: repositories and tags
// (doc/api/container_registry.md), deploy tokens (deploy_tokens.md), access tokens
// of projects and groups (project_access_tokens.md, group_access_tokens.md) and
// CI/CD variables (project_level_variables.md, group_level_variables.md,
// instance_level_ci_variables.md). Projects and groups go by their number or
// escaped path, and links to the next page name the server as its users do.
//
// It refuses to be a registry in general: another one beneath it is. The
// registry's login is Basic alone. It has no users: the API's token is of one whose
// role is told in the configuration.
package fakegitlab

import (
	"encoding/json"
	"fmt"
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
)

// Config is what a fake is like.
type Config struct {
	// Username and Password are the login that the registry takes.
	Username, Password string
	// Token is the one that the API takes.
	Token string
	// Projects are the paths of those that there are. A project's number is
	// its place here, from one.
	Projects []string
	// Groups are the paths of those that there are, numbered in the same way.
	Groups []string
	// Off are projects without a registry.
	Off []string
	// Roles are those of the API token's owner, by the path of a project or
	// group: 0 for one that is hidden from them, 50 where nothing is said.
	Roles map[string]int
	// Admin says that the API token's owner is an administrator.
	Admin bool
	// Endless says that access tokens need not expire.
	Endless bool
	// MaxDays is how long an access token may live; 365 if zero.
	MaxDays int
	// Free says that variables of groups have no environment scopes.
	Free bool
	// OldMasking says that a variable that is not expanded is masked by the same
	// rule as others.
	OldMasking bool
	// Keyset says that lists are paged by a link alone, which tells where to go on.
	Keyset bool
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

	mu        sync.Mutex
	repos     []*repository // a number is the place, from one
	requests  []string
	serial    int64
	tokens    []*token
	variables []*Variable
}

type repository struct {
	id, project int
	path        string
	tags        map[string]tag
}

type tag struct {
	digest  string
	created time.Time
}

var _ http.Handler = (*Server)(nil)

// New makes a fake.
func New(config Config) *Server {
	return &Server{config: config}
}

// Requests are those to the API since the last call, as "METHOD /path?query",
// sorted by when they came.
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
	if strings.HasPrefix(r.URL.Path, "/api/") {
		s.requests = append(s.requests, r.Method+" "+r.URL.RequestURI())
	}
	s.mu.Unlock()
	if s.config.Before != nil && s.config.Before(w, r) {
		return
	}
	if path, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v4/"); ok {
		if r.Header.Get("PRIVATE-TOKEN") != s.config.Token {
			fail(w, http.StatusUnauthorized, "401 Unauthorized")
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.api(w, r, path)
		return
	}
	if !s.admits(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="fake gitlab"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	s.registry(w, r)
}

// registry serves the OCI API, without a catalog, and notes what has tags.
func (s *Server) registry(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/_catalog" {
		http.NotFound(w, r)
		return
	}
	path, of, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	if !ok || r.Method != http.MethodPut && r.Method != http.MethodDelete {
		s.config.Images.ServeHTTP(w, r)
		return
	}
	recorded := httptest.NewRecorder()
	s.config.Images.ServeHTTP(recorded, r)
	maps.Copy(w.Header(), recorded.Header())
	w.WriteHeader(recorded.Code)
	_, _ = w.Write(recorded.Body.Bytes())
	if recorded.Code != http.StatusCreated && recorded.Code != http.StatusAccepted {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	repo := s.open(path)
	switch isDigest := digest.Digest(of).Validate() == nil; {
	case repo == nil || isDigest && r.Method == http.MethodPut:
	case r.Method == http.MethodPut:
		repo.tags[of] = tag{recorded.Header().Get("Docker-Content-Digest"), s.config.Now()}
	default:
		maps.DeleteFunc(repo.tags, func(name string, t tag) bool { return name == of || t.digest == of })
	}
}

// open returns a repository, and makes it if its project is there.
func (s *Server) open(path string) *repository {
	for _, repo := range s.repos {
		if repo.path == path {
			return repo
		}
	}
	for i, project := range s.config.Projects {
		if path == project || strings.HasPrefix(path, project+"/") {
			repo := &repository{len(s.repos) + 1, i + 1, path, map[string]tag{}}
			s.repos = append(s.repos, repo)
			return repo
		}
	}
	return nil
}

func fail(w http.ResponseWriter, status int, text string) {
	answer(w, status, map[string]string{"message": text})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// api serves what is below /api/v4/.
func (s *Server) api(w http.ResponseWriter, r *http.Request, path string) {
	parts := strings.Split(path, "/")
	for i, part := range parts {
		parts[i], _ = url.PathUnescape(part)
	}
	if s.settings(w, r, parts) {
		return
	}
	if path == "projects" && r.Method == http.MethodGet {
		var rows []any
		for i, project := range s.config.Projects {
			rows = append(rows, map[string]any{"id": i + 1, "path_with_namespace": project})
		}
		s.page(w, r, rows)
		return
	}
	if len(parts) < 4 || parts[0] != "projects" || parts[2] != "registry" || parts[3] != "repositories" {
		fail(w, http.StatusNotFound, "404 Not Found")
		return
	}
	project := slices.Index(s.config.Projects, parts[1]) + 1
	if n, err := strconv.Atoi(parts[1]); err == nil && n <= len(s.config.Projects) {
		project = n
	}
	if project == 0 {
		fail(w, http.StatusNotFound, "404 Project Not Found")
		return
	}
	if slices.Contains(s.config.Off, s.config.Projects[project-1]) {
		fail(w, http.StatusForbidden, "403 Forbidden")
		return
	}
	if len(parts) == 4 && r.Method == http.MethodGet {
		var rows []any
		for _, repo := range s.repos {
			if repo.project == project {
				rows = append(rows, map[string]any{"id": repo.id, "path": repo.path, "project_id": project})
			}
		}
		s.page(w, r, rows)
		return
	}
	n, _ := strconv.Atoi(parts[min(4, len(parts)-1)])
	if n < 1 || n > len(s.repos) || s.repos[n-1].project != project || len(parts) < 6 || parts[5] != "tags" {
		fail(w, http.StatusNotFound, "404 Repository Not Found")
		return
	}
	s.tags(w, r, s.repos[n-1], parts[6:])
}

func (s *Server) tags(w http.ResponseWriter, r *http.Request, repo *repository, which []string) {
	if len(which) == 0 && r.Method == http.MethodGet {
		var rows []any
		for _, name := range slices.Sorted(maps.Keys(repo.tags)) {
			rows = append(rows, map[string]any{"name": name, "path": repo.path + ":" + name})
		}
		s.page(w, r, rows)
		return
	}
	if len(which) != 1 {
		fail(w, http.StatusMethodNotAllowed, "405 Method Not Allowed")
		return
	}
	t, ok := repo.tags[which[0]]
	switch {
	case !ok:
		fail(w, http.StatusNotFound, "404 Tag Not Found")
	case r.Method == http.MethodDelete:
		delete(repo.tags, which[0])
		request := &http.Request{Method: http.MethodDelete, URL: &url.URL{Path: "/v2/" + repo.path + "/manifests/" + which[0]}, Body: http.NoBody}
		s.config.Images.ServeHTTP(httptest.NewRecorder(), request)
		w.WriteHeader(http.StatusOK)
	default:
		answer(w, http.StatusOK, map[string]any{"name": which[0], "digest": t.digest, "created_at": t.created, "total_size": 1})
	}
}

// page sends the part of the rows that was asked for. Rows are in an order of
// their own that a later page keeps to.
func (s *Server) page(w http.ResponseWriter, r *http.Request, rows []any) {
	query := r.URL.Query()
	number, _ := strconv.Atoi(query.Get("page"))
	size, _ := strconv.Atoi(query.Get("per_page"))
	if size < 1 || size > 100 {
		size = 20
	}
	number = max(number, 1)
	begin := (number - 1) * size
	if s.config.Keyset {
		begin, _ = strconv.Atoi(strings.TrimPrefix(query.Get("cursor"), "after-"))
	}
	begin = min(begin, len(rows))
	end := min(begin+size, len(rows))
	if end < len(rows) {
		if s.config.Keyset {
			query.Set("cursor", fmt.Sprint("after-", end))
		} else {
			query.Set("page", strconv.Itoa(number+1))
			w.Header().Set("X-Next-Page", strconv.Itoa(number+1))
		}
		w.Header().Set("Link", fmt.Sprintf(`<https://gitlab.example.com%s?page=1>; rel="first", <https://gitlab.example.com%s?%s>; rel="next"`,
			r.URL.EscapedPath(), r.URL.EscapedPath(), query.Encode()))
	}
	answer(w, http.StatusOK, append([]any{}, rows[begin:end]...))
}
