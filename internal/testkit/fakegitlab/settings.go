package fakegitlab

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
)

// Roles of members (GitLab's API, "Roles").
const (
	reporter   = 20
	developer  = 30
	maintainer = 40
	owner      = 50
)

// place is a project or group, or the server itself.
type place struct {
	kind string // projects, groups or admin
	path string
	role int
}

// settings serves what belongs to projects, groups and the server other than
// images, and returns whether it did. The lock is held.
func (s *Server) settings(w http.ResponseWriter, r *http.Request, parts []string) bool {
	switch {
	case len(parts) >= 3 && parts[0] == "admin" && parts[1] == "ci" && parts[2] == "variables":
		if !s.config.Admin {
			fail(w, http.StatusForbidden, "403 Forbidden")
			return true
		}
		s.serveVariables(w, r, place{kind: "admin", role: owner}, parts[3:])
		return true
	case len(parts) < 3 || parts[0] != "projects" && parts[0] != "groups":
		return false
	}
	serve := map[string]func(http.ResponseWriter, *http.Request, place, []string){
		"variables": s.serveVariables, "deploy_tokens": s.serveDeployTokens, "access_tokens": s.serveAccessTokens,
	}[parts[2]]
	if serve == nil {
		return false
	}
	paths, called := s.config.Projects, "Project"
	if parts[0] == "groups" {
		paths, called = s.config.Groups, "Group"
	}
	path := parts[1]
	if n, err := strconv.Atoi(path); err == nil && n >= 1 && n <= len(paths) {
		path = paths[n-1]
	}
	role, said := s.config.Roles[path]
	if !said {
		role = owner
	}
	if !slices.Contains(paths, path) || role == 0 {
		fail(w, http.StatusNotFound, "404 "+called+" Not Found")
		return true
	}
	serve(w, r, place{parts[0], path, role}, parts[3:])
	return true
}

// read reads a body, and fails if it is none.
func read(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(r.Body).Decode(into); err != nil {
		answer(w, http.StatusBadRequest, map[string]string{"error": "the body is no JSON"})
		return false
	}
	return true
}

// allow fails if the role is not enough.
func allow(w http.ResponseWriter, at place, least int) bool {
	if at.role < least {
		fail(w, http.StatusForbidden, "403 Forbidden")
		return false
	}
	return true
}
