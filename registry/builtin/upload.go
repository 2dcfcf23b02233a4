package builtin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
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
	g.forward(w, r, to)
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
	g.forward(&answer, r, to)
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
