package fakegitlab

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// token is a deploy token or an access token.
type token struct {
	id       int64
	deploy   bool
	at       place
	name     string
	username string // an access token takes any
	secret   string
	scopes   []string
	level    int
	created  time.Time
	expires  time.Time
	revoked  bool
}

const maxDays = 365

// live says whether a token is accepted: deploy tokens end at their time, access
// tokens at the beginning of their day.
func (t *token) live(now time.Time) bool {
	return !t.revoked && (t.expires.IsZero() || now.Before(t.expires))
}

// admits says whether the registry lets a request pass. Only what names a
// repository has rights to hold it to.
func (s *Server) admits(r *http.Request) bool {
	username, password, _ := r.BasicAuth()
	if username == s.config.Username && password == s.config.Password {
		return true
	}
	path, _, named := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/manifests/")
	if !named {
		path, _, named = strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
	}
	scopes := s.Scopes(username, password, path)
	switch {
	case !named:
		return len(scopes) > 0
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		return slices.Contains(scopes, "read_registry")
	case r.Method == http.MethodDelete:
		return false // takes the scope api
	}
	return slices.Contains(scopes, "write_registry")
}

// Scopes are those that a login has at a repository, or at any if path is empty:
// none if it is not accepted. A role that is too low for a scope takes it away.
func (s *Server) Scopes(username, secret, path string) (scopes []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		inside := path == "" || path == t.at.path || strings.HasPrefix(path, t.at.path+"/")
		if t.secret != secret || username == "" || t.deploy && t.username != username || !inside || !t.live(s.config.Now()) {
			continue
		}
		for _, scope := range t.scopes {
			least := map[string]int{"read_registry": reporter, "write_registry": developer}[scope]
			if t.deploy || t.level >= least {
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes
}

// AddToken makes a token as somebody else would: a deploy token or an access token
// of the project or group. It returns its number.
func (s *Server) AddToken(kind, path string, deploy bool, name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.addToken(&token{deploy: deploy, at: place{kind: kind, path: path}, name: name, scopes: []string{"read_registry"}, level: owner}).id
}

// Tokens are the names of those that can be used, in the order of their making.
func (s *Server) Tokens() (names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.live(s.config.Now()) {
			names = append(names, t.name)
		}
	}
	return names
}

func (s *Server) addToken(t *token) *token {
	s.serial++
	prefix := "glpat-"
	if t.deploy {
		prefix = "gldt-"
	}
	t.id, t.secret, t.created = s.serial, fmt.Sprintf("%shunter2-%08d", prefix, s.serial), s.config.Now()
	if t.deploy && t.username == "" {
		t.username = fmt.Sprint("gitlab+deploy-token-", t.id)
	}
	s.tokens = append(s.tokens, t)
	return t
}

// own lists what belongs to a place, the latest first.
func (s *Server) own(at place, deploy bool) (own []*token) {
	for _, t := range s.tokens {
		if t.deploy == deploy && t.at.kind == at.kind && t.at.path == at.path {
			own = append(own, t)
		}
	}
	slices.Reverse(own)
	return own
}

// find returns a place's token, and fails if there is none.
func (s *Server) find(w http.ResponseWriter, at place, deploy bool, which []string) *token {
	id, err := strconv.ParseInt(which[0], 10, 64)
	own := s.own(at, deploy)
	i := slices.IndexFunc(own, func(t *token) bool { return t.id == id })
	if err != nil || i < 0 || len(which) > 1 {
		fail(w, http.StatusNotFound, "404 Not found")
		return nil
	}
	return own[i]
}

func (s *Server) serveDeployTokens(w http.ResponseWriter, r *http.Request, at place, which []string) {
	least := maintainer
	if at.kind == "groups" && r.Method != http.MethodGet {
		least = owner
	}
	if !allow(w, at, least) {
		return
	}
	switch {
	case len(which) == 0 && r.Method == http.MethodGet:
		var rows []any
		for _, t := range s.own(at, true) {
			rows = append(rows, s.deployToken(t, false))
		}
		s.page(w, r, rows)
	case len(which) == 0 && r.Method == http.MethodPost:
		var body struct {
			Name, Username string
			Scopes         []string
			ExpiresAt      time.Time `json:"expires_at"`
		}
		if !read(w, r, &body) {
			return
		}
		if body.Name == "" || len(body.Scopes) == 0 || len(body.Name) > 255 {
			answer(w, http.StatusBadRequest, map[string]string{"error": "name is missing, scopes does not have a valid value"})
			return
		}
		t := s.addToken(&token{deploy: true, at: at, name: body.Name, username: body.Username, scopes: body.Scopes, expires: body.ExpiresAt})
		answer(w, http.StatusCreated, s.deployToken(t, true))
	case len(which) > 0 && r.Method == http.MethodDelete:
		if t := s.find(w, at, true, which); t != nil {
			s.tokens = slices.DeleteFunc(s.tokens, func(other *token) bool { return other == t })
			w.WriteHeader(http.StatusNoContent)
		}
	default:
		fail(w, http.StatusMethodNotAllowed, "405 Method Not Allowed")
	}
}

func (s *Server) deployToken(t *token, whole bool) map[string]any {
	row := map[string]any{
		"id": t.id, "name": t.name, "username": t.username, "expires_at": nil, "revoked": t.revoked,
		"expired": !t.revoked && !t.live(s.config.Now()), "scopes": t.scopes,
	}
	if !t.expires.IsZero() {
		row["expires_at"] = t.expires.UTC().Format("2006-01-02T15:04:05.000Z")
	}
	if whole {
		row["token"] = t.secret
	}
	return row
}

func (s *Server) serveAccessTokens(w http.ResponseWriter, r *http.Request, at place, which []string) {
	least := maintainer
	if at.kind == "groups" {
		least = owner
	}
	if at.role < least {
		status, text := http.StatusBadRequest, "400 Bad request - User does not have permission to create an access token"
		if r.Method == http.MethodGet {
			status, text = http.StatusUnauthorized, "401 Unauthorized"
		}
		fail(w, status, text)
		return
	}
	switch {
	case len(which) == 0 && r.Method == http.MethodGet:
		var rows []any
		for _, t := range s.own(at, false) {
			active := t.live(s.config.Now())
			if state := r.URL.Query().Get("state"); state == "" || (state == "active") == active {
				rows = append(rows, s.accessToken(t, false))
			}
		}
		s.page(w, r, rows)
	case len(which) == 0 && r.Method == http.MethodPost:
		s.makeAccessToken(w, r, at)
	case len(which) > 0 && r.Method == http.MethodDelete:
		// It stays in the list, as revoked.
		if t := s.find(w, at, false, which); t != nil {
			t.revoked = true
			w.WriteHeader(http.StatusNoContent)
		}
	default:
		fail(w, http.StatusMethodNotAllowed, "405 Method Not Allowed")
	}
}

func (s *Server) makeAccessToken(w http.ResponseWriter, r *http.Request, at place) {
	var body struct {
		Name      string
		Scopes    []string
		Level     int    `json:"access_level"`
		ExpiresAt string `json:"expires_at"`
	}
	if !read(w, r, &body) {
		return
	}
	if body.Level == 0 {
		body.Level = maintainer
	}
	today := s.config.Now().UTC().Truncate(24 * time.Hour)
	days := s.config.MaxDays
	if days == 0 {
		days = maxDays
	}
	last := today.AddDate(0, 0, days)
	expires, err := time.Parse(time.DateOnly, body.ExpiresAt)
	if body.ExpiresAt == "" {
		expires, err = last, nil
		if s.config.Endless {
			expires = time.Time{}
		}
	}
	switch {
	case body.Name == "" || len(body.Scopes) == 0 || err != nil:
		answer(w, http.StatusBadRequest, map[string]string{"error": "name is missing, scopes does not have a valid value, expires_at is invalid"})
	case body.Level > at.role:
		fail(w, http.StatusBadRequest, "400 Bad request - Access level of the token contains permissions not held by the creating user")
	case !s.config.Endless && expires.After(last):
		fail(w, http.StatusBadRequest, "400 Bad request - Expiration date must be before "+last.Format(time.DateOnly))
	default:
		t := s.addToken(&token{at: at, name: body.Name, scopes: body.Scopes, level: body.Level, expires: expires})
		answer(w, http.StatusCreated, s.accessToken(t, true))
	}
}

func (s *Server) accessToken(t *token, whole bool) map[string]any {
	row := map[string]any{
		"id": t.id, "name": t.name, "revoked": t.revoked, "created_at": t.created.UTC(), "description": nil, "scopes": t.scopes,
		"user_id": 1000 + t.id, "last_used_at": nil, "active": t.live(s.config.Now()), "expires_at": nil, "access_level": t.level,
	}
	if !t.expires.IsZero() {
		row["expires_at"] = t.expires.Format(time.DateOnly)
	}
	if whole {
		row["token"] = t.secret
	}
	return row
}
