package builtin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// stallTime is how long nothing may arrive of a blob before it is given up.
const stallTime = time.Minute

// downloadsFolder is where blobs are until they are whole. It is no repository's
// name.
const downloadsFolder = "_downloads"

// downloads are the blobs that arrive now, by repository and digest.
type downloads struct {
	mu  sync.Mutex
	all map[string]*download
}

// download is a blob that arrives and is stored, and that any number of clients
// are sent meanwhile. It goes on when they leave.
type download struct {
	mu sync.Mutex
	// changed is closed and replaced when something below has changed.
	changed chan struct{}
	file    *os.File
	// size is how much is in the file and may be sent. The last part is kept
	// back until the whole was found to be right.
	size   int64
	ended  bool
	err    error
	leaves int // who holds the file: the clients, and the one that writes
}

// download joins the download of a blob, or begins it. The caller leaves it when
// done. It is nil if the blob has come.
func (g *Registry) download(u *upstream, repository, reference string) *download {
	key := repository + "@" + reference
	g.downloads.mu.Lock()
	defer g.downloads.mu.Unlock()
	if d := g.downloads.all[key]; d != nil {
		d.mu.Lock()
		d.leaves++
		d.mu.Unlock()
		return d
	}
	if g.holdsFile(repository, reference) {
		return nil
	}
	d := &download{changed: make(chan struct{}), leaves: 2}
	if g.downloads.all == nil {
		g.downloads.all = map[string]*download{}
	}
	g.downloads.all[key] = d
	g.work.Go(func() {
		defer d.leave()
		err := g.receive(u, repository, digest.Digest(reference), d)
		g.downloads.mu.Lock()
		delete(g.downloads.all, key)
		g.downloads.mu.Unlock()
		d.change(func() { d.ended, d.err = true, err })
	})
	return d
}

// receive stores a blob.
func (g *Registry) receive(u *upstream, repository string, want digest.Digest, d *download) error {
	ctx, cancel := context.WithCancelCause(g.running)
	defer cancel(nil)
	stalled := time.AfterFunc(stallTime, func() { cancel(errors.New("nothing arrives any more")) })
	defer stalled.Stop()
	fail := func(err error) error {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		u.answered(err, g.config.Now())
		return fmt.Errorf("fetch %s of %s from %s: %w", want, repository, u.Host, err)
	}
	body, err := u.Reader.Blob(ctx, u.path(repository), want)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = body.Close() }()
	defer context.AfterFunc(ctx, func() { _ = body.Close() })()
	folder := filepath.Join(g.copiesDir(), downloadsFolder)
	if err := os.MkdirAll(folder, disk.PrivateFolder); err != nil {
		return fmt.Errorf("make folder of downloads: %w", err)
	}
	file, err := os.CreateTemp(folder, "blob-*")
	if err != nil {
		return fmt.Errorf("make file of download: %w", err)
	}
	defer func() { _ = os.Remove(file.Name()) }()
	d.change(func() { d.file = file })
	verify := want.Verifier()
	buffer := make([]byte, 256<<10)
	var written int64
	for {
		n, err := body.Read(buffer)
		if n > 0 {
			stalled.Reset(stallTime)
			if _, err := file.Write(buffer[:n]); err != nil {
				return fmt.Errorf("store %s of %s: %w", want, repository, err)
			}
			_, _ = verify.Write(buffer[:n]) // a hash takes everything
			before := written
			written += int64(n)
			d.change(func() { d.size = before })
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fail(err)
		}
	}
	if !verify.Verified() {
		return fail(errors.New("what arrived has another digest"))
	}
	u.answered(nil, g.config.Now())
	if err := g.create(ctx, repository); err != nil {
		return err
	}
	target := g.blobFile(repository, want.String())
	if err := os.MkdirAll(filepath.Dir(target), disk.PrivateFolder); err != nil {
		return fmt.Errorf("store %s of %s: %w", want, repository, err)
	}
	if err := os.Rename(file.Name(), target); err != nil {
		return fmt.Errorf("store %s of %s: %w", want, repository, err)
	}
	d.change(func() { d.size = written })
	return nil
}

// change changes the state and wakes up who waits for it.
func (d *download) change(what func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	what()
	close(d.changed)
	d.changed = make(chan struct{})
}

// leave gives the file back.
func (d *download) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leaves--; d.leaves == 0 && d.file != nil {
		_ = d.file.Close()
	}
}

// until waits for a state.
func (d *download) until(ctx context.Context, state func() bool) error {
	for {
		d.mu.Lock()
		reached, changed := state(), d.changed
		d.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// wait waits for the end.
func (d *download) wait(ctx context.Context) error {
	if err := d.until(ctx, func() bool { return d.ended }); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// begun waits until there is something to send. Its error is why there is not.
func (d *download) begun(ctx context.Context) error {
	if err := d.until(ctx, func() bool { return d.ended || d.size > 0 }); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.size > 0 {
		return nil
	}
	return d.err
}

// copyTo sends the blob as it arrives.
func (d *download) copyTo(ctx context.Context, w http.ResponseWriter) error {
	var sent int64
	for {
		if err := d.until(ctx, func() bool { return d.ended || d.size > sent }); err != nil {
			return err
		}
		d.mu.Lock()
		size, ended, err, file := d.size, d.ended, d.err, d.file
		d.mu.Unlock()
		switch {
		case size > sent:
			n, err := io.Copy(w, io.NewSectionReader(file, sent, size-sent))
			sent += n
			if err == nil {
				err = http.NewResponseController(w).Flush()
			}
			if err != nil {
				return err
			}
		case ended:
			return err
		}
	}
}
