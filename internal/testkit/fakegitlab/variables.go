package fakegitlab

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
)

// Variable is a CI/CD variable.
type Variable struct {
	// Kind is projects, groups or admin; Path is the project's or group's.
	Kind, Path string
	Key, Value string
	// Type is env_var or file; env_var if empty.
	Type string
	// Scope is the environment scope; * if empty.
	Scope                          string
	Protected, Masked, Hidden, Raw bool
	Description                    string
}

// instanceLimit bounds in characters the value of an instance's variable.
const instanceLimit = 10_000

var (
	keys = regexp.MustCompile(`\A[A-Za-z0-9_]{1,255}\z`)
	// maskable is what can be masked of a variable that is expanded, and
	// maskableRaw of one that is not (app/models/concerns/ci/maskable.rb tells the
	// rules of doc/ci/variables in full).
	maskable    = regexp.MustCompile(`\A[a-zA-Z0-9_+=/@:.~-]{8,}\z`)
	maskableRaw = regexp.MustCompile(`\A[^ \t\r\n\f\v]{8,}\z`)
)

// Put sets a variable as somebody else would, by no rule.
func (s *Server) Put(v Variable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v.Type == "" {
		v.Type = "env_var"
	}
	if v.Scope == "" {
		v.Scope = "*"
	}
	s.variables = slices.DeleteFunc(s.variables, func(other *Variable) bool { return same(other, &v) })
	s.variables = append(s.variables, &v)
}

// Remove takes a variable away.
func (s *Server) Remove(kind, path, key, scope string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.variables = slices.DeleteFunc(s.variables, func(other *Variable) bool {
		return same(other, &Variable{Kind: kind, Path: path, Key: key, Scope: scope})
	})
}

// Variables are copies of all that there are.
func (s *Server) Variables() (all []Variable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, v := range s.variables {
		all = append(all, *v)
	}
	return all
}

func same(a, b *Variable) bool {
	return a.Kind == b.Kind && a.Path == b.Path && a.Key == b.Key && a.Scope == b.Scope
}

// scoped says whether variables of a place have environment scopes.
func (s *Server) scoped(at place) bool {
	return at.kind == "projects" || at.kind == "groups" && !s.config.Free
}

// body is what a variable is made of and changed by. What is absent stays.
type body struct {
	Key         string
	Value       *string
	Type        *string `json:"variable_type"`
	Scope       *string `json:"environment_scope"`
	Protected   *bool
	Masked      *bool
	Hidden      *bool `json:"masked_and_hidden"`
	Raw         *bool
	Description *string
	Filter      struct {
		Scope string `json:"environment_scope"`
	}
}

func (b *body) onto(v *Variable, scoped bool) {
	set(&v.Value, b.Value)
	set(&v.Type, b.Type)
	if scoped {
		set(&v.Scope, b.Scope)
	}
	set(&v.Protected, b.Protected)
	set(&v.Masked, b.Masked)
	set(&v.Raw, b.Raw)
	set(&v.Description, b.Description)
}

func set[T any](to, from *T) {
	if from != nil {
		*to = *from
	}
}

func (s *Server) serveVariables(w http.ResponseWriter, r *http.Request, at place, which []string) {
	least := maintainer
	if at.kind == "groups" {
		least = owner
	}
	if !allow(w, at, least) {
		return
	}
	var b body
	if (r.Method == http.MethodPost || r.Method == http.MethodPut) && !read(w, r, &b) {
		return
	}
	var own []*Variable
	for _, v := range s.variables {
		if v.Kind == at.kind && v.Path == at.path && (len(which) == 0 || v.Key == which[0]) {
			own = append(own, v)
		}
	}
	switch {
	case len(which) == 0 && r.Method == http.MethodGet:
		var rows []any
		for _, v := range own {
			rows = append(rows, v.row())
		}
		s.page(w, r, rows)
		return
	case len(which) == 0 && r.Method == http.MethodPost:
		v := Variable{Kind: at.kind, Path: at.path, Key: b.Key, Type: "env_var", Scope: "*"}
		b.onto(&v, s.scoped(at))
		if b.Hidden != nil && *b.Hidden {
			v.Hidden, v.Masked = true, true
		}
		taken := slices.ContainsFunc(own, func(other *Variable) bool { return same(other, &v) })
		if s.valid(w, &v, taken) {
			s.variables = append(s.variables, &v)
			answer(w, http.StatusCreated, v.row())
		}
		return
	case len(which) != 1:
		fail(w, http.StatusMethodNotAllowed, "405 Method Not Allowed")
		return
	}
	filter := r.URL.Query().Get("filter[environment_scope]")
	if r.Method == http.MethodPut {
		filter = b.Filter.Scope
	}
	if filter != "" && s.scoped(at) {
		own = slices.DeleteFunc(own, func(v *Variable) bool { return v.Scope != filter })
	}
	switch {
	case len(own) == 0:
		fail(w, http.StatusNotFound, "404 Variable Not Found")
	case len(own) > 1:
		fail(w, http.StatusConflict, "There are multiple variables with provided parameters. Please use 'filter[environment_scope]'")
	case r.Method == http.MethodGet:
		answer(w, http.StatusOK, own[0].row())
	case r.Method == http.MethodDelete:
		s.variables = slices.DeleteFunc(s.variables, func(v *Variable) bool { return v == own[0] })
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		changed := *own[0]
		b.onto(&changed, s.scoped(at))
		if s.valid(w, &changed, false) {
			*own[0] = changed
			answer(w, http.StatusOK, changed.row())
		}
	default:
		fail(w, http.StatusMethodNotAllowed, "405 Method Not Allowed")
	}
}

// valid fails if a variable is against the rules, in the shape of the errors of a
// model.
func (s *Server) valid(w http.ResponseWriter, v *Variable, taken bool) bool {
	problems := map[string][]string{}
	if !keys.MatchString(v.Key) {
		problems["key"] = append(problems["key"], "can contain only letters, digits and '_'.")
	}
	if taken {
		problems["key"] = append(problems["key"], fmt.Sprintf("(%s) has already been taken", v.Key))
	}
	rule := maskable
	if v.Raw && !s.config.OldMasking {
		rule = maskableRaw
	}
	if v.Masked && !rule.MatchString(v.Value) {
		problems["value"] = append(problems["value"], "is invalid")
	}
	if v.Kind == "admin" && len([]rune(v.Value)) > instanceLimit {
		problems["value"] = append(problems["value"], "The value of the provided variable exceeds the 10000 character limit")
	}
	if len(problems) > 0 {
		answer(w, http.StatusBadRequest, map[string]any{"message": problems})
		return false
	}
	return true
}

func (v *Variable) row() map[string]any {
	row := map[string]any{
		"key": v.Key, "value": v.Value, "variable_type": v.Type, "protected": v.Protected, "masked": v.Masked, "raw": v.Raw, "description": nil,
	}
	if v.Description != "" {
		row["description"] = v.Description
	}
	if v.Hidden {
		row["value"] = nil
	}
	if v.Kind != "admin" {
		row["hidden"], row["environment_scope"] = v.Hidden, v.Scope
	}
	return row
}
