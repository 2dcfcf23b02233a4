package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

const (
	// standstill is how long an upload may stand still.
	standstill = 5 * time.Minute
	// mostStandstills is how often the uploads of one blob go on after they
	// stood still.
	mostStandstills = 2
	// cancelPatience is how long the end of an upload may take, and how long
	// what is being read may hold up the next try: so long before it is told to
	// end, and as long after.
	cancelPatience = 10 * time.Second
	// leastResumed is how much must have arrived for an upload to go on, in
	// bytes. What is less is sent again as quickly as it is asked for.
	leastResumed = 1 << 20
)

// sending is what the uploads of one blob have in common.
type sending struct {
	blob  image.Blob
	open  func(context.Context) (io.ReadCloser, error)
	plain bool // no upload is to go on
	stood int  // how often one stood still where it could go on
}

// upload is a blob on its way into a repository.
type upload struct {
	repository
	*sending
	place   *url.URL // where it goes on
	content *content

	read    int64 // how much of the content was, at most
	arrived int64 // what the registry has, as it told last
	breaks  int   // without much coming in between
	resumed bool  // it went on from where the registry told
	refused bool  // the registry cannot go on, or told what cannot be
}

// upload sends a blob: POST, PATCH and PUT (OCI distribution specification 1.1,
// "Pushing a blob in chunks"), in one chunk. When the connection breaks, or the
// registry fails, the registry is asked how much has arrived, and the rest is sent
// as a further chunk, unless the upload is to be plain.
//
// Of the registries that were measured, distribution 3 and the embedded one go on
// in the midst of a chunk. Gitea 1.26 and distribution 2 lose the whole upload with
// a part of a chunk, so that smaller chunks would help with neither.
//
// With an error it returns whether the registry cannot go on: it refuses to tell
// where or what follows, tells what cannot be, or has something else in the end.
// A plain upload may then go well where this one failed. That nothing came, or
// that the upload is gone, as it is when a registry begins anew, is no such sign.
func (p repository) upload(ctx context.Context, place *url.URL, s *sending) (refused bool, err error) {
	if place == nil || place.Host == "" {
		response, err := p.send(ctx, p.begin())
		if err != nil {
			return false, err
		}
		drain(response)
		if place, err = located(response.Request.URL, response.Header); err != nil {
			return false, err
		}
	}
	reading, cancel := context.WithCancel(ctx)
	u := &upload{repository: p, sending: s, place: place, content: newContent(reading, s)}
	ended := false
	defer func() {
		cancel()
		u.content.close()
		if !ended {
			u.abandon(ctx)
		}
	}()
	for {
		err := u.rest(ctx)
		if err == nil {
			ended = true
			return false, nil
		}
		if u.plain || ctx.Err() != nil {
			return false, err
		}
		if !u.mayGoOn(err) {
			return u.resumed, err
		}
		if errors.Is(err, errSilence) {
			if u.stood++; u.stood > mostStandstills {
				return u.refused, err
			}
		}
		there, goesOn := u.ask(ctx, err)
		if there {
			return false, nil
		}
		if !goesOn {
			return u.refused, err
		}
	}
}

// rest sends what has not arrived, and ends the upload.
func (u *upload) rest(ctx context.Context) error {
	if u.arrived < u.blob.Size || u.blob.Size == 0 {
		if err := u.stream(ctx); err != nil {
			return err
		}
	} else if u.content.length() < u.blob.Size {
		if err := u.readOn(ctx); err != nil {
			return err
		}
	}
	if !u.content.right() {
		return notTheBlob(u.blob.Size)
	}
	last := *u.place
	query := last.Query()
	query.Set("digest", u.blob.Digest.String())
	last.RawQuery = query.Encode()
	header, err := u.do(ctx, ask{
		method: http.MethodPut, place: &last, header: http.Header{"Content-Type": {"application/octet-stream"}},
		good: []int{http.StatusCreated, http.StatusNoContent},
	})
	if err != nil {
		return err
	}
	if told := digest.Digest(header.Get("Docker-Content-Digest")); told.Validate() == nil && told.Algorithm() == u.blob.Digest.Algorithm() && told != u.blob.Digest {
		u.refused = u.resumed
		return mismatch(u.blob.Digest, told)
	}
	return nil
}

// watched is a context that ends when an upload stands still, unless the timer is
// reset. Who calls ends both by the function.
func (u *upload) watched(ctx context.Context) (context.Context, *time.Timer, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	watch := time.AfterFunc(standstill, func() {
		if ctx.Err() == nil {
			cancel(errSilence)
			u.content.unblock(ctx)
		}
	})
	return ctx, watch, func() {
		watch.Stop()
		cancel(nil)
	}
}

// readOn reads what was not since the content was opened anew, and has arrived.
func (u *upload) readOn(ctx context.Context) error {
	ctx, watch, end := u.watched(ctx)
	defer end()
	_, err := u.content.from(ctx, u.blob.Size, watch)
	return silenced(ctx, err)
}

// silenced is the error of what ran under a context, or that nothing came.
func silenced(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errSilence) {
		return cause
	}
	return err
}

// stream sends the content that has not arrived.
func (u *upload) stream(ctx context.Context) error {
	ctx, watch, end := u.watched(ctx)
	defer end()
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if u.arrived > 0 {
		// The form of the specification, which is not that of RFC 9110.
		header.Set("Content-Range", fmt.Sprintf("%d-%d", u.arrived, u.blob.Size-1))
	}
	from := func() (io.ReadCloser, error) { return u.content.from(ctx, u.arrived, watch) }
	body, err := from()
	if err != nil {
		return silenced(ctx, err)
	}
	response, err := u.send(ctx, ask{
		method: http.MethodPatch, place: u.place, body: body, header: header,
		prepare: func(request *http.Request) {
			request.ContentLength = u.blob.Size - u.arrived
			request.GetBody = from
			if u.blob.Size == 0 {
				request.Body, request.GetBody = http.NoBody, nil
			}
		},
		good: []int{http.StatusAccepted, http.StatusCreated, http.StatusNoContent},
	})
	if err != nil {
		if wrong := u.content.wrong(); wrong != nil {
			err = wrong
		}
		return silenced(ctx, err)
	}
	drain(response)
	if !u.content.right() {
		return notTheBlob(u.blob.Size)
	}
	place, err := located(response.Request.URL, response.Header)
	if err != nil {
		return err
	}
	u.place, u.arrived = place, u.blob.Size
	return nil
}

// mayGoOn says whether it is worth asking how much has arrived.
func (u *upload) mayGoOn(err error) bool {
	u.read = max(u.read, u.content.length())
	return u.read >= leastResumed && worthRepeating(err) && isBreak(err)
}

// isBreak says whether an error tells nothing of an upload but that something
// was in its way. That a range is not the one that follows is one: more may have
// arrived since the registry was asked.
func isBreak(err error) bool {
	switch code := status(err); code {
	case 0, http.StatusRequestTimeout, http.StatusRequestedRangeNotSatisfiable, http.StatusTooManyRequests:
		return true
	default:
		return code >= http.StatusInternalServerError
	}
}

// ask waits, and asks the registry what it has: the blob, or how much of it has
// arrived, from where the upload then goes on. What it tells must be possible, and
// not what it has just refused.
func (u *upload) ask(ctx context.Context, broke error) (there, goesOn bool) {
	for {
		if u.breaks++; u.breaks > mostBreaks || pause(ctx, uploadPause<<(u.breaks-1)) != nil {
			return false, false
		}
		if u.read == u.blob.Size {
			// The answer alone may have been lost.
			if there, _ := u.has(ctx, u.blob.Digest); there {
				return true, false
			}
		}
		header, err := u.do(ctx, ask{method: http.MethodGet, place: u.place, good: []int{http.StatusNoContent}})
		if err != nil {
			if isBreak(err) {
				continue
			}
			// One that is gone says nothing of the next.
			u.refused = u.refused || status(err) != http.StatusNotFound
			return false, false
		}
		if place, err := located(u.place, header); err == nil {
			u.place = place
		}
		arrived, ok := arrivedOf(header)
		switch {
		case !ok, arrived < u.arrived, arrived > u.read, arrived > u.blob.Size,
			arrived == u.arrived && status(broke) == http.StatusRequestedRangeNotSatisfiable:
			u.refused = true
			return false, false
		case arrived < leastResumed:
			return false, false
		}
		if arrived-u.arrived >= muchBetween {
			u.breaks = 0
		}
		u.arrived, u.resumed = arrived, true
		return false, true
	}
}

// arrivedOf reads how many bytes have arrived: "0-9" is ten, in the form of the
// specification or, as Docker's had it, with a unit.
func arrivedOf(header http.Header) (int64, bool) {
	text, ok := strings.CutPrefix(strings.TrimPrefix(header.Get("Range"), "bytes="), "0-")
	if !ok {
		return 0, false
	}
	last, err := strconv.ParseUint(text, 10, 62)
	return int64(last) + 1, err == nil
}

// abandon ends an upload from which no blob came, so that the registry need not
// keep it.
func (u *upload) abandon(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelPatience)
	defer cancel()
	_, _ = u.do(ctx, ask{method: http.MethodDelete, place: u.place, good: []int{http.StatusNoContent}})
}

func notTheBlob(size int64) error {
	return problem.Wrap(errContent, problem.Damaged, "the place that it was read from is damaged, or the manifest names another size", "send %d bytes", size)
}

// content is what is sent, and hashed in order. What was on its way when a
// connection broke, some MiB in the buffers of sockets and proxies, is read again:
// by an [io.Seeker] from there, of others from the beginning.
type content struct {
	ctx  context.Context
	open func(context.Context) (io.ReadCloser, error)
	blob image.Blob

	turn   chan struct{} // held by who reads, or changes what follows
	source io.ReadCloser
	opened context.Context // of the source
	at     int64           // where reading is
	lap    *lap            // the one that may read
	closed atomic.Bool

	mu       sync.Mutex // with the turn to change, alone to look
	verifier digest.Verifier
	n        int64              // what was hashed
	err      error              // how it ended
	cancel   context.CancelFunc // of what was opened
	under    context.Context    // of who reads
}

func newContent(ctx context.Context, s *sending) *content {
	return &content{ctx: ctx, open: s.open, blob: s.blob, turn: make(chan struct{}, 1), verifier: s.blob.Digest.Verifier(), cancel: func() {}}
}

// wait takes the turn. A source that holds it up for long is told to end.
func (c *content) wait(ctx context.Context) error {
	for told := false; ; told = true {
		waiting, cancel := context.WithTimeout(ctx, cancelPatience)
		err := take(waiting, c.turn)
		cancel()
		if err == nil || told || ctx.Err() != nil {
			return err
		}
		c.mu.Lock()
		c.cancel()
		c.mu.Unlock()
	}
}

// from makes a body of what begins at a byte, and ends the one before.
func (c *content) from(ctx context.Context, at int64, watch *time.Timer) (io.ReadCloser, error) {
	if err := c.wait(ctx); err != nil {
		return nil, fmt.Errorf("read what is to be sent: %w", err)
	}
	defer c.release()
	c.lap = &lap{content: c, watch: watch}
	c.mu.Lock()
	c.under = ctx
	c.mu.Unlock()
	if !c.back(at) {
		if err := c.reopen(); err != nil {
			return nil, err
		}
	}
	for skipped := make([]byte, min(at-c.at, errorLimit)); c.at < at; {
		_, err := c.read(skipped[:min(at-c.at, int64(len(skipped)))], watch)
		if errors.Is(err, io.EOF) && c.at < at {
			return nil, notTheBlob(c.blob.Size)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("read what is to be sent: %w", err)
		}
	}
	return c.lap, nil
}

// back has reading go back to a byte of what is open, or says that the byte
// follows. From the beginning all is read, and hashed, anew.
func (c *content) back(to int64) bool {
	if c.source == nil || c.opened.Err() != nil || c.err != nil && !errors.Is(c.err, io.EOF) {
		return false
	}
	if to == c.at || to > c.n {
		return true
	}
	seeker, ok := c.source.(io.Seeker)
	if !ok || to == 0 {
		return to > c.at
	}
	if _, err := seeker.Seek(to, io.SeekStart); err != nil {
		return false
	}
	c.at = to
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = nil
	return true
}

// reopen reads from the beginning.
func (c *content) reopen() error {
	if c.source != nil {
		_ = c.source.Close()
		c.source = nil
	}
	opened, cancel := context.WithCancel(c.ctx)
	c.mu.Lock()
	c.cancel()
	c.cancel = cancel
	c.mu.Unlock()
	source, err := c.open(opened)
	if err != nil {
		return fmt.Errorf("open what is to be sent: %w", err)
	}
	c.source, c.opened, c.at = source, opened, 0
	c.mu.Lock()
	defer c.mu.Unlock()
	c.verifier, c.n, c.err = c.blob.Digest.Verifier(), 0, nil
	return nil
}

// read reads on; who calls has the turn.
func (c *content) read(p []byte, watch *time.Timer) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.source.Read(p)
	if err == nil {
		watch.Reset(standstill)
	}
	c.at += int64(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	if fresh := c.at - c.n; fresh > 0 {
		_, _ = c.verifier.Write(p[int64(n)-fresh : n]) // which never fails
		c.n = c.at
	}
	c.err = err
	return n, err
}

// release gives the turn back.
func (c *content) release() {
	<-c.turn
	if c.closed.Load() {
		c.close()
	}
}

// close closes what was opened, as soon as nobody reads it.
func (c *content) close() {
	c.closed.Store(true)
	select {
	case c.turn <- struct{}{}:
		if c.source != nil {
			_ = c.source.Close()
			c.source = nil
		}
		<-c.turn
	default:
	}
}

// unblock ends what was opened if that is what is waited for, by who reads under
// a context.
func (c *content) unblock(of context.Context) {
	select {
	case c.turn <- struct{}{}:
		c.release()
	default:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.under == of {
			c.cancel()
		}
	}
}

// length is how much was read, from the beginning on.
func (c *content) length() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// right says whether what was read is the blob.
func (c *content) right() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n == c.blob.Size && c.verifier.Verified()
}

// wrong is what is wrong with what was read, if anything is.
func (c *content) wrong() error {
	right := c.right()
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.n > c.blob.Size, errors.Is(c.err, io.EOF) && !right:
		return notTheBlob(c.blob.Size)
	case c.err != nil && !errors.Is(c.err, io.EOF):
		return fmt.Errorf("read what is to be sent: %w", c.err)
	}
	return nil
}

// lap is the body of one request. A transport may still read it when the answer is
// there: what it then gets is an error.
type lap struct {
	content *content
	watch   *time.Timer
}

var errOver = errors.New("the request is over")

func (l *lap) Read(p []byte) (int, error) {
	c := l.content
	c.turn <- struct{}{}
	defer c.release()
	if c.lap != l || c.source == nil {
		return 0, errOver
	}
	return c.read(p, l.watch)
}

// Close leaves open what is read: another request may go on with it.
func (l *lap) Close() error { return nil }
