package fakegitea

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// kept is a secret or a variable of Actions.
type kept struct {
	data, description string
	created           time.Time
}

// maxKept is how long a secret (in bytes) and a variable (in characters) may be.
const maxKept = 65536

// Secret is what a secret holds, which the server tells nobody but jobs. where is
// "repos/owner/name", "orgs/name" or "user".
func (s *Server) Secret(where, name string) (data string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	secret, ok := s.secrets[where][name]
	return secret.data, ok
}

// SetSecret makes or changes a secret, as a person may.
func (s *Server) SetSecret(where, name, data, description string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(s.secrets, where, name, data, description)
}

// DeleteSecret takes a secret away, if it is there.
func (s *Server) DeleteSecret(where, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.secrets[where], name)
}

// Variable is what a variable holds.
func (s *Server) Variable(where, name string) (data string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	variable, ok := s.variables[where][name]
	return variable.data, ok
}

// SetVariable makes or changes a variable.
func (s *Server) SetVariable(where, name, data string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(s.variables, where, name, data, "")
}

// DeleteVariable takes a variable away, if it is there.
func (s *Server) DeleteVariable(where, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.variables[where], name)
}

// set keeps when a thing was made as it is changed. The caller holds mu.
func (s *Server) set(things map[string]map[string]kept, where, name, data, description string) (made bool) {
	if things[where] == nil {
		things[where] = map[string]kept{}
	}
	thing, known := things[where][name]
	if !known {
		thing.created = s.config.Now().Truncate(time.Second)
	}
	thing.data, thing.description = data, description
	things[where][name] = thing
	return !known
}

var (
	keptNames      = regexp.MustCompile(`(?i)^[A-Z_][A-Z0-9_]*$`)
	forbiddenNames = regexp.MustCompile(`(?i)^(GIT(EA|HUB)_.*|CI)$`)
)

// actions serves .../actions/secrets and .../actions/variables of a repository,
// an organisation and the user. The user's secrets are not listed.
func (s *Server) actions(w http.ResponseWriter, r *http.Request) {
	if !s.basic(r) {
		apiError(w, http.StatusUnauthorized, "invalid username, password or token")
		return
	}
	where, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/api/v1/"), "/actions/")
	kind, name, named := strings.Cut(rest, "/")
	name = strings.ToUpper(name)
	repository, isRepository := strings.CutPrefix(where, "repos/")
	organization, isOrganization := strings.CutPrefix(where, "orgs/")
	known := where == "user" || isRepository && slices.Contains(s.config.Repositories, repository) ||
		isOrganization && slices.Contains(s.config.Organizations, organization)
	if !known {
		apiError(w, http.StatusNotFound, "The target couldn't be found.")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case kind == "secrets" && !named && r.Method == http.MethodGet && where != "user":
		s.listed(w, r, s.secrets[where], func(name string, secret kept) map[string]any {
			row := map[string]any{"name": name, "created_at": secret.created.Format(time.RFC3339)}
			if !s.config.NoDescriptions {
				row["description"] = secret.description
			}
			return row
		})
	case kind == "secrets" && named && r.Method == http.MethodPut:
		s.write(w, r, s.secrets, where, name)
	case kind == "secrets" && named && r.Method == http.MethodDelete:
		remove(w, s.secrets[where], name)
	case kind == "variables" && !named && r.Method == http.MethodGet:
		s.listed(w, r, s.variables[where], shownVariable)
	case kind == "variables" && named && r.Method == http.MethodGet:
		variable, ok := s.variables[where][name]
		if !ok {
			apiError(w, http.StatusNotFound, "variable not found")
			return
		}
		answer(w, http.StatusOK, shownVariable(name, variable))
	case kind == "variables" && named && (r.Method == http.MethodPost || r.Method == http.MethodPut):
		_, ok := s.variables[where][name]
		switch {
		case ok && r.Method == http.MethodPost:
			apiError(w, http.StatusConflict, "variable name "+name+" already exists")
		case !ok && r.Method == http.MethodPut:
			apiError(w, http.StatusNotFound, "variable not found")
		default:
			s.write(w, r, s.variables, where, name)
		}
	case kind == "variables" && named && r.Method == http.MethodDelete:
		remove(w, s.variables[where], name)
	default:
		http.NotFound(w, r)
	}
}

func shownVariable(name string, variable kept) map[string]any {
	return map[string]any{"owner_id": 1, "repo_id": 0, "name": name, "data": variable.data, "description": variable.description}
}

func (s *Server) write(w http.ResponseWriter, r *http.Request, things map[string]map[string]kept, where, name string) {
	var body struct{ Data, Value, Description string }
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		apiError(w, http.StatusUnprocessableEntity, "[]: Required")
		return
	}
	data, length := body.Data, len(body.Data)
	if r.Method == http.MethodPost || strings.Contains(r.URL.Path, "/actions/variables/") {
		data = strings.ReplaceAll(strings.ReplaceAll(body.Value, "\r\n", "\n"), "\r", "\n")
		length = utf8.RuneCountInString(data)
	}
	switch {
	case data == "":
		apiError(w, http.StatusUnprocessableEntity, "[Data]: Required")
	case !keptNames.MatchString(name) || forbiddenNames.MatchString(name):
		apiError(w, http.StatusBadRequest, "invalid variable or secret name")
	case length > maxKept:
		apiError(w, http.StatusBadRequest, "data too long")
	case s.set(things, where, name, data, body.Description):
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func remove(w http.ResponseWriter, things map[string]kept, name string) {
	if _, ok := things[name]; !ok {
		apiError(w, http.StatusNotFound, "not found")
		return
	}
	delete(things, name)
	w.WriteHeader(http.StatusNoContent)
}

// listed answers with a page of the things.
func (s *Server) listed(w http.ResponseWriter, r *http.Request, things map[string]kept, show func(string, kept) map[string]any) {
	names := []string{}
	for name := range things {
		names = append(names, name)
	}
	slices.Sort(names)
	page, _ := strconv.Atoi(r.URL.Query().Get("page"))
	limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
	if limit <= 0 || limit > s.config.Page {
		limit = s.config.Page
	}
	begin := min((max(page, 1)-1)*limit, len(names))
	rows := []map[string]any{}
	for _, name := range names[begin:min(begin+limit, len(names))] {
		rows = append(rows, show(name, things[name]))
	}
	w.Header().Set("X-Total-Count", strconv.Itoa(len(names)))
	answer(w, http.StatusOK, rows)
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}
