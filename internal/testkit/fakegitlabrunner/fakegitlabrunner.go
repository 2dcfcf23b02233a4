// Package fakegitlabrunner is a fake of the part of a GitLab server's API 4 that
// runners and their makers use, in memory, written from the published API
// (doc/api/runners.md, doc/api/users.md): runners of users, registration tokens
// and their being turned off, verification with the machines that make it, tokens
// that are reset, and the removal of runners and machines.
//
// It refuses to hand out jobs.
package fakegitlabrunner

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Config is what a fake is like.
type Config struct {
	// AccessToken is a user's with the scope create_runner. RegistrationToken is
	// the one for POST /runners; empty has registration tokens turned off.
	AccessToken, RegistrationToken string
	// Lifetime is how long tokens live; zero is for ever.
	Lifetime time.Duration
	// Now is the clock.
	Now func() time.Time
	// Before may answer in place of the server, before or after the real answer
	// was made; it returns whether it did.
	Before, After func(http.ResponseWriter, *http.Request) bool
}

// Runner is what the server knows of one.
type Runner struct {
	ID      int64
	Token   string
	Expires *time.Time
	// Settings are what it was made with, as it was sent.
	Settings map[string]any
	// Machines are the system IDs that were verified with its token.
	Machines []string
}

// Server is a fake server. Its methods may be called at the same time.
type Server struct {
	config Config

	mu       sync.Mutex
	runners  map[int64]*Runner
	last     int64
	minted   int
	requests []string
}

var _ http.Handler = (*Server)(nil)

// New makes a fake.
func New(config Config) *Server {
	return &Server{config: config, runners: map[int64]*Runner{}}
}

// Runners lists what the server has, by number.
func (s *Server) Runners() []Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Runner
	for _, id := range slices.Sorted(maps.Keys(s.runners)) {
		r := *s.runners[id]
		r.Machines = slices.Clone(r.Machines)
		list = append(list, r)
	}
	return list
}

// Put makes a runner, as its owner does at the server, and tells its token.
func (s *Server) Put() Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.add("glrt-", nil)
}

// Remove takes a runner away, as its owner does at the server.
func (s *Server) Remove(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.runners, id)
}

// Requests are those since the last call, as "METHOD /path?query".
func (s *Server) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	requests := s.requests
	s.requests = nil
	return requests
}

// add makes a runner. The caller holds the lock.
func (s *Server) add(prefix string, settings map[string]any) *Runner {
	s.last++
	r := &Runner{ID: s.last, Settings: settings}
	s.mint(r, prefix)
	s.runners[r.ID] = r
	return r
}

func (s *Server) mint(r *Runner, prefix string) {
	s.minted++
	r.Token = fmt.Sprintf("%sfake-%d-%d", prefix, r.ID, s.minted)
	if s.config.Lifetime > 0 {
		expires := s.config.Now().Add(s.config.Lifetime).UTC()
		r.Expires = &expires
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
	body := map[string]any{}
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		answer(w, http.StatusBadRequest, map[string]any{"error": "the body is no JSON"})
		return
	}
	status, value := s.serve(r, body)
	if s.config.After != nil && s.config.After(w, r) {
		return
	}
	answer(w, status, value)
}

func answer(w http.ResponseWriter, status int, value any) {
	if value == nil {
		w.WriteHeader(status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}

func message(text string) any { return map[string]any{"message": text} }

func (s *Server) serve(r *http.Request, body map[string]any) (status int, value any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	path, ok := strings.CutPrefix(r.URL.Path, "/api/v4/")
	if !ok {
		return http.StatusNotFound, nil
	}
	token, _ := body["token"].(string)
	switch r.Method + " " + path {
	case "POST user/runners":
		return s.create(r, body)
	case "POST runners":
		switch {
		case s.config.RegistrationToken == "":
			return http.StatusGone, message("410 Gone")
		case token != s.config.RegistrationToken:
			return http.StatusForbidden, message("403 Forbidden")
		}
		delete(body, "token")
		return http.StatusCreated, tell(s.add("", body))
	}
	has := s.byToken(token)
	if has == nil {
		return http.StatusForbidden, message("403 Forbidden")
	}
	switch r.Method + " " + path {
	case "POST runners/verify":
		if system, ok := body["system_id"].(string); ok && !slices.Contains(has.Machines, system) {
			has.Machines = append(has.Machines, system)
		}
		return http.StatusOK, tell(has)
	case "POST runners/reset_authentication_token":
		prefix := ""
		if strings.HasPrefix(has.Token, "glrt-") {
			prefix = "glrt-"
		}
		s.mint(has, prefix)
		return http.StatusCreated, map[string]any{"token": has.Token, "token_expires_at": has.Expires}
	case "DELETE runners":
		delete(s.runners, has.ID)
		return http.StatusNoContent, nil
	case "DELETE runners/managers":
		system, _ := body["system_id"].(string)
		i := slices.Index(has.Machines, system)
		if i < 0 {
			return http.StatusNotFound, message("404 Not found")
		}
		has.Machines = slices.Delete(has.Machines, i, i+1)
		return http.StatusNoContent, nil
	}
	return http.StatusNotFound, message("404 Not found")
}

func (s *Server) create(r *http.Request, body map[string]any) (status int, value any) {
	if s.config.AccessToken == "" || r.Header.Get("PRIVATE-TOKEN") != s.config.AccessToken {
		return http.StatusUnauthorized, message("401 Unauthorized")
	}
	switch body["runner_type"] {
	case "instance_type":
	case "group_type":
		if body["group_id"] == nil {
			return http.StatusBadRequest, message(`400 Bad request - Missing group_id`)
		}
	case "project_type":
		if body["project_id"] == nil {
			return http.StatusBadRequest, message(`400 Bad request - Missing project_id`)
		}
	default:
		return http.StatusBadRequest, map[string]any{"error": "runner_type does not have a valid value"}
	}
	if untagged, ok := body["run_untagged"].(bool); ok && !untagged && body["tag_list"] == nil {
		return http.StatusBadRequest, message("400 Bad request - Tags list can not be empty when runner is not allowed to pick untagged jobs")
	}
	return http.StatusCreated, tell(s.add("glrt-", body))
}

func tell(r *Runner) any {
	return map[string]any{"id": r.ID, "token": r.Token, "token_expires_at": r.Expires}
}

func (s *Server) byToken(token string) *Runner {
	for _, r := range s.runners {
		if token != "" && r.Token == token && (r.Expires == nil || s.config.Now().Before(*r.Expires)) {
			return r
		}
	}
	return nil
}
