package oci

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
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
)

// WriteBlob asks for the blob, tries a mount, and sends it. It is sent as it is
// read. Where it is cut off, the rest follows if the registry says how much it
// has; else all is sent once more, read by another call of open. What is read
// must be the blob, or nothing is written. See [image.Writer].
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
	var place *url.URL
	if mount != "" && mount != p.path {
		if place, err = p.mount(ctx, b.Digest, mount); err != nil {
			return "", err
		}
		if place == nil {
			return image.Mounted, nil
		}
	}
	s := &sending{blob: b, open: open}
	for n := 1; ; n++ {
		refused, err := p.upload(ctx, place, s)
		if err == nil {
			return image.Uploaded, nil
		}
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		// What was to go on might have gone well in one piece.
		s.plain = s.plain || refused
		if n == mostUploads || !worthRepeating(err) && (!refused || errors.Is(err, errContent)) {
			return "", err
		}
		if err := pause(ctx, uploadPause<<(n-1)); err != nil {
			return "", err
		}
		// The answer alone may have been lost.
		if there, _ := p.has(ctx, b.Digest); there {
			return image.Uploaded, nil
		}
		place = nil
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
