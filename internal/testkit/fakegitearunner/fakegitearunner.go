// Package fakegitearunner is a fake of the part of a Gitea or Forgejo server that
// runners and their makers use, in memory, written from the published protocol
// (actions-proto-def) and API (swagger.v1.json): registration tokens, runners
// registered with them for a scope, looked at and deleted. As with a real Gitea, the
// instance's scope shows the runners of all.
//
// It refuses to hand out jobs. What it says of an unknown runner is what a real
// Gitea 1.26 does: an error without a code of its own.
package fakegitearunner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"

	runnerv1 "code.gitea.io/actions-proto-go/runner/v1"
	"code.gitea.io/actions-proto-go/runner/v1/runnerv1connect"
	"connectrpc.com/connect"
)

// Config is what a fake is like.
type Config struct {
	// AccessToken is the one that the API takes, RegistrationToken the one for
	// runners.
	AccessToken, RegistrationToken string
	// Forgejo tells the registration token as Forgejo does.
	Forgejo bool
	// Fault has a method of the runners' protocol fail for a runner and token that are
	// known; nil for none.
	Fault func(method string) error
	// After may answer in place of the server when that has done its part; it
	// returns whether it did.
	After func(http.ResponseWriter, *http.Request) bool
}

// Runner is what the server knows of one.
type Runner struct {
	ID        int64
	UUID      string
	Token     string
	Name      string
	Labels    []string
	Ephemeral bool
	// Scope is whose jobs it takes, as in the API's paths: admin, user, orgs/NAME or
	// repos/OWNER/NAME.
	Scope string
	// Online is set by what is sent in the runner's name, and by the test; Busy by the
	// test.
	Online, Busy bool
}

// Server is a fake server. Its methods may be called at the same time.
type Server struct {
	runnerv1connect.UnimplementedRunnerServiceHandler

	config   Config
	protocol http.Handler

	mu       sync.Mutex
	runners  map[int64]*Runner
	last     int64
	requests []string
}

var _ http.Handler = (*Server)(nil)

// New makes a fake.
func New(config Config) *Server {
	s := &Server{config: config, runners: map[int64]*Runner{}}
	_, s.protocol = runnerv1connect.NewRunnerServiceHandler(s)
	return s
}

// Runners lists what the server has, by number.
func (s *Server) Runners() []Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Runner
	for _, id := range slices.Sorted(maps.Keys(s.runners)) {
		list = append(list, *s.runners[id])
	}
	return list
}

// Change changes a runner, as its being started does.
func (s *Server) Change(id int64, change func(*Runner)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.runners[id])
}

// Remove takes a runner away, as its owner does at the server.
func (s *Server) Remove(id int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.runners, id)
}

// Requests are those since the last call, as "METHOD /path".
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
	s.requests = append(s.requests, r.Method+" "+r.URL.Path)
	s.mu.Unlock()
	serve := http.HandlerFunc(s.api)
	if rest, ok := strings.CutPrefix(r.URL.Path, "/api/actions"); ok {
		r.URL.Path = rest
		serve = s.protocol.ServeHTTP
	}
	if s.config.After == nil {
		serve(w, r)
		return
	}
	held := &recorder{header: http.Header{}}
	serve(held, r)
	if s.config.After(w, r) {
		return
	}
	maps.Copy(w.Header(), held.header)
	w.WriteHeader(max(held.status, http.StatusOK))
	_, _ = w.Write(held.body)
}

// recorder holds an answer back.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (r *recorder) Header() http.Header    { return r.header }
func (r *recorder) WriteHeader(status int) { r.status = status }
func (r *recorder) Write(p []byte) (int, error) {
	r.body = append(r.body, p...)
	return len(p), nil
}

// Register implements the protocol.
func (s *Server) Register(_ context.Context, request *connect.Request[runnerv1.RegisterRequest]) (*connect.Response[runnerv1.RegisterResponse], error) {
	token, scope, scoped := strings.Cut(request.Msg.GetToken(), "@")
	if s.config.RegistrationToken == "" || token != s.config.RegistrationToken {
		return nil, errors.New("runner registration token not found")
	}
	if !scoped {
		scope = "admin"
	}
	if s.config.Fault != nil {
		if err := s.config.Fault("Register"); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	r := &Runner{
		ID: s.last, UUID: fmt.Sprintf("uuid-%d", s.last), Token: fmt.Sprintf("token-%d", s.last), Name: request.Msg.GetName(),
		Labels: request.Msg.GetLabels(), Ephemeral: request.Msg.GetEphemeral(), Scope: scope,
	}
	s.runners[r.ID] = r
	return connect.NewResponse(&runnerv1.RegisterResponse{Runner: &runnerv1.Runner{
		Id: r.ID, Uuid: r.UUID, Token: r.Token, Name: r.Name, Labels: r.Labels, Ephemeral: r.Ephemeral,
	}}), nil
}

// UpdateLog implements the protocol.
func (s *Server) UpdateLog(_ context.Context, request *connect.Request[runnerv1.UpdateLogRequest]) (*connect.Response[runnerv1.UpdateLogResponse], error) {
	if s.config.Fault != nil {
		if err := s.config.Fault("UpdateLog"); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.runners {
		if r.UUID == request.Header().Get("x-runner-uuid") && r.Token == request.Header().Get("x-runner-token") {
			r.Online = true
			return nil, errors.New("rpc error: code = Internal desc = get task: task with id " + strconv.FormatInt(request.Msg.GetTaskId(), 10) + ": resource does not exist")
		}
	}
	return nil, errors.New("rpc error: code = Unauthenticated desc = unregistered runner")
}

func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	if s.config.AccessToken == "" || r.Header.Get("Authorization") != "token "+s.config.AccessToken {
		answer(w, http.StatusUnauthorized, map[string]string{"message": "user does not exist or token is not valid"})
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/api/v1/")
	scope, rest, ok := strings.Cut(path, "/actions/runners/")
	if !ok {
		scope, rest, ok = strings.Cut(path, "/runners/")
		ok = ok && s.config.Forgejo && scope == "admin"
	}
	known := scope == "admin" || scope == "user" || strings.HasPrefix(scope, "orgs/") || strings.HasPrefix(scope, "repos/")
	if !ok || !known {
		answer(w, http.StatusNotFound, map[string]string{"message": "not found"})
		return
	}
	method := http.MethodPost
	if s.config.Forgejo {
		method = http.MethodGet
	}
	if rest == "registration-token" {
		if r.Method != method {
			w.WriteHeader(http.StatusMethodNotAllowed)
			return
		}
		token := s.config.RegistrationToken
		if scope != "admin" {
			token += "@" + scope
		}
		answer(w, http.StatusOK, map[string]string{"token": token})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, _ := strconv.ParseInt(rest, 10, 64)
	has := s.runners[id]
	switch {
	case has == nil || scope != "admin" && scope != has.Scope:
		answer(w, http.StatusNotFound, map[string]string{"message": "runner not found"})
	case r.Method == http.MethodGet:
		status := "offline"
		if has.Online {
			status = "idle"
		}
		answer(w, http.StatusOK, map[string]any{"id": has.ID, "name": has.Name, "status": status, "busy": has.Busy})
	case r.Method == http.MethodDelete:
		delete(s.runners, id)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value)
}
