package builtin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// startUpload begins an upload, or mounts a blob: OCI distribution
// specification 1.1, sections Pushing blobs and Mounting a blob from another
// repository.
//
// Mounting reads from another repository. For a caller who may not, or if there
// is no such repository, it becomes an ordinary upload, and the caller does not
// learn which it was.
func (g *Registry) startUpload(w http.ResponseWriter, r *http.Request, by caller, to route) error {
	query := r.URL.Query()
	from := query.Get("from")
	if from != "" && (!validName(from) || !by.can(from, pulling) || !g.exists(from)) {
		query.Del("from")
		query.Del("mount")
		r = r.Clone(r.Context())
		r.URL.RawQuery = query.Encode()
	}
	if err := g.create(r.Context(), to.repository); err != nil {
		return err
	}
	if digest := query.Get("digest"); digest != "" && !g.refresh(to.repository, digest) {
		return g.uploadAtOnce(w, r, to, digest)
	}
	if mount := query.Get("mount"); mount != "" {
		g.refresh(to.repository, mount)
	}
	g.forward(w, r, to)
	if statusOf(w) == http.StatusAccepted {
		if location, err := (&http.Response{Header: w.Header()}).Location(); err == nil {
			g.sessions.begin(location.Path)
			g.sessions.rest(location.Path)
		}
	}
	return nil
}

// uploadAtOnce takes a blob in one request (section Single POST) as an upload
// that begins and ends: olareg would keep open for good one that breaks off.
func (g *Registry) uploadAtOnce(w http.ResponseWriter, r *http.Request, to route, digest string) error {
	begun, err := g.ask(r.Context(), http.MethodPost, "/v2/"+to.repository+"/blobs/uploads/", nil, nil)
	if err != nil {
		return err
	}
	location, err := (&http.Response{Header: begun.header}).Location()
	if err != nil {
		return fmt.Errorf("begin upload to %s: storage answers %d", to.repository, begun.status)
	}
	upload, err := parseRoute(http.MethodPut, location.Path)
	if err != nil {
		return err
	}
	query := location.Query()
	query.Set("digest", digest)
	r = r.Clone(r.Context())
	r.Method, r.URL.RawQuery = http.MethodPut, query.Encode()
	g.sessions.begin(location.Path)
	g.forward(w, r, upload)
	if statusOf(w) != http.StatusCreated {
		// It may have ended already.
		_, _ = g.ask(context.WithoutCancel(r.Context()), http.MethodDelete, location.Path, nil, nil)
	}
	g.sessions.end(location.Path)
	return nil
}

// create makes a repository if there is none. olareg makes one for an upload,
// without a care for others who do the same at the time; so that an upload
// happens under a lock, and it is not the client's, who may be slow.
func (g *Registry) create(ctx context.Context, repository string) error {
	if g.begun(repository) {
		return nil
	}
	lock := g.locks.of(repository)
	lock.Lock()
	defer lock.Unlock()
	if g.stored(repository) {
		return nil
	}
	begun, err := g.ask(ctx, http.MethodPost, "/v2/"+repository+"/blobs/uploads/", nil, nil)
	if err != nil {
		return err
	}
	if begun.status != http.StatusAccepted {
		return fmt.Errorf("create repository %s: storage answers %d", repository, begun.status)
	}
	ended, err := g.askLocation(ctx, http.MethodDelete, begun)
	if err != nil {
		return err
	}
	if ended.status != http.StatusNoContent {
		return fmt.Errorf("create repository %s: storage answers %d", repository, ended.status)
	}
	return nil
}

func (g *Registry) askLocation(ctx context.Context, method string, begun *captured) (*captured, error) {
	location, err := (&http.Response{Header: begun.header}).Location()
	if err != nil {
		return nil, fmt.Errorf("read location of upload: %w", err)
	}
	return g.ask(ctx, method, location.Path, nil, nil)
}

// continueUpload passes on what belongs to an upload, and mends the answer: an
// upload that is not known is 404 in the table of endpoints of the OCI
// distribution specification 1.1, and "0--1" is no range.
func (g *Registry) continueUpload(w http.ResponseWriter, r *http.Request, to route) error {
	if !g.begun(to.repository) {
		return errNoUpload
	}
	var answer captured
	answer.header = http.Header{}
	g.sessions.begin(to.path)
	g.forward(&answer, r, to)
	ended := answer.status == http.StatusCreated ||
		answer.status == http.StatusNoContent && r.Method == http.MethodDelete ||
		answer.status == http.StatusBadRequest && answer.code() == codeUploadUnknown
	if ended {
		g.sessions.end(to.path)
	} else {
		g.sessions.rest(to.path)
	}
	if answer.status == http.StatusBadRequest && answer.code() == codeUploadUnknown {
		return errNoUpload
	}
	if answer.header.Get("Range") == "0--1" {
		answer.header.Set("Range", "0-0")
	}
	return answer.send(w)
}

// code is the first error code of the answer.
func (c *captured) code() string {
	var body ociErrors
	if json.Unmarshal(c.body.Bytes(), &body) != nil || len(body.Errors) == 0 {
		return ""
	}
	return body.Errors[0].Code
}

// sessions are the uploads that were begun and not ended, by path.
type sessions struct {
	mu   sync.Mutex
	open map[string]*uploadState
}

type uploadState struct {
	requests int // under way
	last     time.Time
}

// begin notes a request of an upload.
func (s *sessions) begin(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[string]*uploadState{}
	}
	if s.open[path] == nil {
		s.open[path] = &uploadState{}
	}
	s.open[path].requests++
}

// rest notes the end of a request of an upload that goes on.
func (s *sessions) rest(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.open[path]; state != nil {
		state.requests--
		state.last = time.Now()
	}
}

// end forgets an upload.
func (s *sessions) end(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, path)
}

// idle lists the uploads that nobody has continued for a time.
func (s *sessions) idle(age time.Duration) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for path, state := range s.open {
		if state.requests == 0 && time.Since(state.last) >= age {
			paths = append(paths, path)
		}
	}
	return paths
}

// endSessions ends the uploads that nobody has continued for a time.
func (g *Registry) endSessions(ctx context.Context, age time.Duration) {
	for _, path := range g.sessions.idle(age) {
		// One that olareg does not know has ended.
		_, _ = g.ask(ctx, http.MethodDelete, path, nil, nil)
		g.sessions.end(path)
	}
}
