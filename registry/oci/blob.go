package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/problem"
)

const (
	// mostBreaks is how often a blob's connection may break without much coming
	// in between.
	mostBreaks = 5
	// muchBetween is what must come for the count to begin anew, in bytes.
	muchBetween = 8 << 20
	// silence is how long nothing may come that is waited for.
	silence = time.Minute
	// firstPause is how long to wait after a break; it doubles.
	firstPause = 100 * time.Millisecond
)

// Blob reads a blob from where the registry sends one to. When the connection
// breaks, reading goes on where it was. What is returned is an [io.Seeker], of what
// was read before. See [image.Reader].
func (r *Registry) Blob(ctx context.Context, path string, d digest.Digest) (io.ReadCloser, error) {
	if err := checkDigest(d); err != nil {
		return nil, err
	}
	repo, err := r.in(path, transport.PullScope)
	if err != nil {
		return nil, err
	}
	b := &blob{ctx: ctx, repository: repo, digest: d, verifier: d.Verifier(), size: -1}
	if err := b.open(); err != nil {
		return nil, r.explain(err, "read blob %s@%s", repo.title(), d)
	}
	return b, nil
}

// blob is one that is being read.
type blob struct {
	ctx        context.Context
	repository repository
	digest     digest.Digest
	verifier   digest.Verifier

	size   int64 // of the whole; -1 while it is not told
	read   int64 // up to where reading is
	hashed int64 // what was read, at most
	breaks int
	since  int64 // what was read before the breaks that are counted

	body   io.ReadCloser
	cancel context.CancelCauseFunc
	watch  *time.Timer
	err    error // what every further Read returns
}

// errSilence ends what stands still.
var errSilence = errors.New("nothing came or went for too long")

// open asks for the blob from where reading is.
func (b *blob) open() error {
	ctx, cancel := context.WithCancelCause(b.ctx)
	watch := time.AfterFunc(askPatience, func() { cancel(errSilence) })
	a := ask{
		method: http.MethodGet, path: b.repository.path + "/blobs/" + b.digest.String(),
		// What is sent compressed once more would not be what was asked for.
		header: http.Header{"Accept-Encoding": {"identity"}},
		good:   []int{http.StatusOK, http.StatusPartialContent},
	}
	if b.read > 0 {
		a.header.Set("Range", fmt.Sprintf("bytes=%d-", b.read))
	}
	response, err := b.repository.send(ctx, a)
	if err != nil {
		watch.Stop()
		cancel(nil)
		return err
	}
	start, whole := int64(0), response.ContentLength
	if response.StatusCode == http.StatusPartialContent {
		start, whole, err = lengthOf(response.Header.Get("Content-Range"))
	}
	if err == nil && (start > b.read || whole >= 0 && b.size >= 0 && whole != b.size) {
		err = problem.New(problem.Damaged, "the registry's storage is damaged: do not use it", "what comes from byte %d on is not the rest of it", b.read)
	}
	if err == nil {
		watch.Reset(silence)
		err = b.skip(response.Body, b.read-start, watch)
	}
	watch.Stop()
	if err != nil {
		cancel(nil)
		_ = response.Body.Close()
		return err
	}
	if whole >= 0 {
		b.size = whole
	}
	b.body, b.cancel, b.watch = response.Body, cancel, watch
	return nil
}

// skip reads over what was read before, of a server that sends all again.
func (b *blob) skip(body io.Reader, n int64, watch *time.Timer) error {
	for n > 0 {
		skipped, err := io.CopyN(io.Discard, body, min(n, errorLimit))
		if err != nil {
			return err
		}
		n -= skipped
		watch.Reset(silence)
	}
	return nil
}

// Read reads on, over breaks of the connection. The end is one only if all that
// came has the digest.
func (b *blob) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		var n int
		var err error
		if b.body != nil {
			b.watch.Reset(silence)
			n, err = b.body.Read(p)
			b.watch.Stop()
		} else if err = b.open(); err == nil {
			continue
		}
		b.read += int64(n)
		if fresh := b.read - b.hashed; fresh > 0 {
			_, _ = b.verifier.Write(p[int64(n)-fresh : n]) // which never fails
			b.hashed = b.read
		}
		if errors.Is(err, io.EOF) && b.body != nil && (b.size < 0 || b.read >= b.size) {
			b.close()
			if b.err = io.EOF; !b.verifier.Verified() {
				b.err = b.explain(problem.New(problem.Damaged, "the registry's storage is damaged, or something between changes what it sends: do not use it",
					"what came in %d bytes has another digest", b.read))
			}
			return n, b.err
		}
		if b.size >= 0 && b.read > b.size {
			b.close()
			b.err = b.explain(problem.New(problem.Damaged, "the registry's storage is damaged: do not use it", "more came than the %d bytes that it has", b.size))
			return n, b.err
		}
		if err == nil && n == 0 {
			continue
		}
		if err == nil {
			return n, nil
		}
		b.close()
		if err := b.mend(err); err != nil {
			b.err = b.explain(err)
			return n, b.err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// mend waits after a break, or returns why reading does not go on.
func (b *blob) mend(err error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	// What the registry answers stays its answer, but for its own failures.
	if code := status(err); code != 0 && code < http.StatusInternalServerError {
		return err
	}
	if problem.KindOf(err) == problem.Damaged {
		return err
	}
	if b.read-b.since >= muchBetween {
		b.breaks = 0
	}
	b.since = b.read
	b.breaks++
	if b.breaks > mostBreaks {
		return fmt.Errorf("the connection broke %d times: %w", b.breaks, err)
	}
	return pause(b.ctx, firstPause<<(b.breaks-1))
}

// Seek goes back to a byte of what was read, which is asked for with the next Read.
// What is read again is not verified again.
func (b *blob) Seek(offset int64, whence int) (int64, error) {
	if b.err != nil && !errors.Is(b.err, io.EOF) {
		return b.read, b.err
	}
	if whence != io.SeekStart || offset < 0 || offset > b.hashed {
		return b.read, errors.ErrUnsupported
	}
	b.close()
	b.read, b.since, b.err = offset, offset, nil
	return offset, nil
}

var _ io.Seeker = (*blob)(nil)

func (b *blob) explain(err error) error {
	return b.repository.registry.explain(err, "read blob %s@%s", b.repository.title(), b.digest)
}

func (b *blob) close() {
	if b.body == nil {
		return
	}
	b.watch.Stop()
	b.cancel(nil)
	_ = b.body.Close()
	b.body = nil
}

// Close ends reading; what was not read to the end is not verified.
func (b *blob) Close() error {
	b.close()
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	return nil
}
