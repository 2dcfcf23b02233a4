package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

const (
	// mostUploads is how often one blob is sent.
	mostUploads = 3
	// uploadPause is how long to wait before it is sent again; it doubles.
	uploadPause = time.Second
	// standstill is how long an upload may stand still.
	standstill = 5 * time.Minute
	// cancelPatience is how long the end of a failed upload may take.
	cancelPatience = 10 * time.Second
)

// WriteBlob asks for the blob, tries a mount, and sends it. It is sent as it is
// read: once more from the beginning, read by another call of open, when that
// fails. What is read must be the blob, or nothing is written. See
// [image.Writer].
func (r *Registry) WriteBlob(ctx context.Context, path string, b image.Blob, mount string, open func(context.Context) (io.ReadCloser, error)) (image.Outcome, error) {
	if err := checkDigest(b.Digest); err != nil {
		return "", err
	}
	repo, err := r.in(path, transport.PushScope)
	if err != nil {
		return "", err
	}
	outcome, err := repo.write(ctx, b, mount, open)
	return outcome, r.explain(err, "write blob %s@%s", repo.title(), b.Digest)
}

func (p repository) write(ctx context.Context, b image.Blob, mount string, open func(context.Context) (io.ReadCloser, error)) (image.Outcome, error) {
	there, err := p.has(ctx, b.Digest)
	if err != nil {
		return "", err
	}
	if there {
		return image.Present, nil
	}
	var upload *url.URL
	if mount != "" && mount != p.path {
		if upload, err = p.mount(ctx, b.Digest, mount); err != nil {
			return "", err
		}
		if upload == nil {
			return image.Mounted, nil
		}
	}
	for n := 1; ; n++ {
		err := p.upload(ctx, upload, b, open)
		if err == nil {
			return image.Uploaded, nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if n == mostUploads || !worthRepeating(err) {
			return "", err
		}
		if err := pause(ctx, uploadPause<<(n-1)); err != nil {
			return "", err
		}
		// The answer alone may have been lost.
		if there, _ := p.has(ctx, b.Digest); there {
			return image.Uploaded, nil
		}
		upload = nil
	}
}

// has says whether the repository has a blob.
func (p repository) has(ctx context.Context, d digest.Digest) (bool, error) {
	_, err := p.do(ctx, ask{method: http.MethodHead, path: p.path + "/blobs/" + d.String(), good: []int{http.StatusOK}})
	if isMissing(err) {
		return false, nil
	}
	return err == nil, err
}

// mount has the registry take a blob over from another repository, for which a
// token must let both be reached. Where it does not, an upload has begun: its
// place is returned, or an empty one where none has.
func (p repository) mount(ctx context.Context, d digest.Digest, from string) (*url.URL, error) {
	source, err := p.registry.in(from, transport.PullScope)
	if err != nil {
		return nil, err
	}
	both := repository{session: p.registry.session(append(append([]string{}, p.scopes...), source.scopes...)...), path: p.path}
	a := both.begin()
	a.query = url.Values{"mount": {d.String()}, "from": {source.path}}
	a.good = append(a.good, http.StatusCreated)
	response, err := both.send(ctx, a)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		// It was a try. What stands in the way of sending shows then.
		return &url.URL{}, nil
	}
	drain(response)
	if response.StatusCode == http.StatusCreated {
		return nil, nil
	}
	place, err := located(response.Request.URL, response.Header)
	if err != nil {
		return &url.URL{}, nil //nolint:nilerr // as above
	}
	return place, nil
}

func (p repository) begin() ask {
	return ask{method: http.MethodPost, path: p.path + "/blobs/uploads/", header: http.Header{"Content-Length": {"0"}}, good: []int{http.StatusAccepted}}
}

// located is where an answer says that an upload goes on.
func located(from *url.URL, header http.Header) (*url.URL, error) {
	text := header.Get("Location")
	place, err := from.Parse(text)
	if text == "" || err != nil {
		// The error repeats the place, which may have a key in it.
		return nil, problem.New(problem.Unreachable, "the registry answers as no registry does: look at its log, and at proxies before it",
			"the place of an upload cannot be read")
	}
	return place, nil
}

// errContent says that what was read is not the blob.
var errContent = errors.New("what was read is not the blob")

// worthRepeating says whether sending may go well another time.
func worthRepeating(err error) bool {
	if errors.Is(err, errContent) || errors.Is(err, image.ErrMissing) || errors.Is(err, errSame) {
		return false
	}
	switch code := status(err); code {
	case 0, http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusRequestedRangeNotSatisfiable, http.StatusTooManyRequests:
		return problem.KindOf(err) != problem.Denied
	default:
		return code >= http.StatusInternalServerError
	}
}

// upload sends a blob: POST, PATCH and PUT (OCI distribution specification,
// "Pushing a blob in chunks"), in one chunk.
func (p repository) upload(ctx context.Context, place *url.URL, b image.Blob, open func(context.Context) (io.ReadCloser, error)) (err error) {
	if place == nil || place.Host == "" {
		response, err := p.send(ctx, p.begin())
		if err != nil {
			return err
		}
		drain(response)
		if place, err = located(response.Request.URL, response.Header); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil {
			p.abandon(ctx, place)
		}
	}()
	next, err := p.stream(ctx, place, b, open)
	if err != nil {
		return err
	}
	place = next
	last := *place
	query := last.Query()
	query.Set("digest", b.Digest.String())
	last.RawQuery = query.Encode()
	header, err := p.do(ctx, ask{
		method: http.MethodPut, place: &last, header: http.Header{"Content-Type": {"application/octet-stream"}},
		good: []int{http.StatusCreated, http.StatusNoContent},
	})
	if err != nil {
		return err
	}
	if told := digest.Digest(header.Get("Docker-Content-Digest")); told.Validate() == nil && told.Algorithm() == b.Digest.Algorithm() && told != b.Digest {
		return mismatch(b.Digest, told)
	}
	return nil
}

// stream sends the content, and returns where the upload goes on.
func (p repository) stream(ctx context.Context, place *url.URL, b image.Blob, open func(context.Context) (io.ReadCloser, error)) (*url.URL, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watch := time.AfterFunc(standstill, func() { cancel(errSilence) })
	defer watch.Stop()
	var last atomic.Pointer[content]
	reopen := func() (io.ReadCloser, error) {
		opened, err := open(ctx)
		if err != nil {
			return nil, fmt.Errorf("open what is to be sent: %w", err)
		}
		c := &content{ReadCloser: opened, verifier: b.Digest.Verifier(), watch: watch}
		last.Store(c)
		return c, nil
	}
	body, err := reopen()
	if err != nil {
		return nil, err
	}
	response, err := p.send(ctx, ask{
		method: http.MethodPatch, place: place, body: body,
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		prepare: func(request *http.Request) {
			request.ContentLength = b.Size
			request.GetBody = reopen
			if b.Size == 0 {
				request.Body, request.GetBody = http.NoBody, nil
				_ = body.Close()
			}
		},
		good: []int{http.StatusAccepted, http.StatusCreated, http.StatusNoContent},
	})
	sent := last.Load()
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errSilence) {
			return nil, cause
		}
		if wrong := sent.wrong(b.Size); wrong != nil {
			return nil, wrong
		}
		return nil, err
	}
	drain(response)
	if !sent.is(b.Size) {
		return nil, notTheBlob(b.Size)
	}
	return located(response.Request.URL, response.Header)
}

func notTheBlob(size int64) error {
	return problem.Wrap(errContent, problem.Damaged, "the place that it was read from is damaged, or the manifest names another size", "send %d bytes", size)
}

// content is what is being sent. A transport may still read it when the answer
// is there.
type content struct {
	io.ReadCloser
	watch *time.Timer // of a standstill

	mu       sync.Mutex
	verifier digest.Verifier
	n        int64
	err      error // how it ended
}

func (c *content) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil && err == nil {
		c.watch.Reset(standstill)
	}
	_, _ = c.verifier.Write(p[:n]) // which never fails
	c.n += int64(n)
	if err != nil {
		c.err = err
	}
	return n, err
}

// is says whether what was read is the blob.
func (c *content) is(size int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n == size && c.verifier.Verified()
}

// wrong is what is wrong with what was read, if anything is.
func (c *content) wrong(size int64) error {
	right := c.is(size)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.n > size, errors.Is(c.err, io.EOF) && !right:
		return notTheBlob(size)
	case c.err != nil && !errors.Is(c.err, io.EOF):
		return fmt.Errorf("read what is to be sent: %w", c.err)
	}
	return nil
}

// abandon ends an upload that failed, so that the registry need not keep it.
func (p repository) abandon(ctx context.Context, place *url.URL) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelPatience)
	defer cancel()
	_, _ = p.do(ctx, ask{method: http.MethodDelete, place: place, good: []int{http.StatusNoContent}})
}

// WriteManifest sends a manifest, and makes sure that the registry has it under
// the digest that it has. See [image.Writer].
func (r *Registry) WriteManifest(ctx context.Context, path, tag, mediaType string, raw []byte) (digest.Digest, error) {
	repo, err := r.in(path, transport.PushScope)
	if err != nil {
		return "", err
	}
	d := digest.FromBytes(raw)
	of := tag
	if of == "" {
		of = d.String()
	}
	if len(raw) > manifestLimit {
		return "", problem.New(problem.Usage, "", "manifest %s has %d bytes, and registries take %d", repo.reference(of), len(raw), manifestLimit)
	}
	if err := repo.put(ctx, of, mediaType, raw); err != nil {
		return "", r.explain(err, "write manifest %s", repo.reference(of))
	}
	return d, nil
}

func (p repository) put(ctx context.Context, of, mediaType string, raw []byte) error {
	if err := target(of); err != nil {
		return err
	}
	d := digest.FromBytes(raw)
	a := p.manifest(http.MethodPut, of, http.StatusCreated, http.StatusOK, http.StatusAccepted, http.StatusNoContent)
	a.header = http.Header{"Content-Type": {mediaType}}
	a.body = bytes.NewReader(raw)
	header, err := p.do(ctx, a)
	if err != nil {
		return err
	}
	told := digest.Digest(header.Get("Docker-Content-Digest"))
	if told.Validate() != nil {
		found, err := p.resolve(ctx, of)
		if err != nil {
			return err
		}
		told = found.Digest
	}
	if told.Algorithm().FromBytes(raw) != told {
		return mismatch(d, told)
	}
	return nil
}
