package jobimage

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/problem"
)

// stream is one layer that is being read.
type stream struct {
	*run
	view    *view
	layer   *layer
	needs   []Need
	folders []string
	what    string
	owner   digest.Digest // of the manifest

	body io.Reader
	done int64
	err  error // of the registry, as opposed to the content
}

// Read counts what comes, and ends with what is more than the layer has by the
// image's manifest.
func (s *stream) Read(p []byte) (int, error) {
	if more := s.layer.blob.Size + 1 - s.done; int64(len(p)) > more {
		p = p[:max(more, 0)]
	}
	n, err := s.body.Read(p)
	s.done += int64(n)
	s.spend(s.owner, 0, int64(n))
	if s.done > s.layer.blob.Size {
		err = problem.New(problem.Damaged, "no runtime pulls it: push the image anew", "it is larger than the %d bytes that the manifest says", s.layer.blob.Size)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	if s.Config.Report != nil {
		s.Config.Report(Progress{What: s.what, Done: s.done, Of: s.layer.blob.Size})
	}
	return n, err
}

// read reads to where all needs are settled, and returns them; or to the end.
func (s *stream) read(ctx context.Context) ([]Need, error) {
	s.spend(s.owner, 1, 0)
	body, err := s.Reader.Blob(ctx, s.repository.Path, s.layer.blob.Digest)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	s.body = body
	raw := bufio.NewReaderSize(s, 8<<10)
	settled, err := s.entries(ctx, raw)
	if err != nil || settled != nil {
		if s.err != nil {
			return nil, s.err
		}
		if err != nil && problem.KindOf(err) != problem.Refused && ctx.Err() == nil {
			// What has another digest is not the layer's fault.
			if _, rest := io.Copy(io.Discard, raw); rest != nil {
				return nil, rest
			}
			err = problem.Wrap(err, problem.Damaged, "no runtime unpacks it: build the image anew", "it is no archive of a layer")
		}
		return settled, err
	}
	// What follows the archive is of no use but to the digest.
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return nil, err
	}
	s.layer.part = false
	return nil, nil
}

// tooMuch is the error of layers that take more memory than they may.
func (r *run) tooMuch(err error) error {
	return problem.Wrap(err, problem.Refused, "an archive like this may be made to fill memory: look at how the image was built", "its layers take more than %d bytes", r.MaxMemory)
}

func (s *stream) entries(ctx context.Context, raw *bufio.Reader) ([]Need, error) {
	content, end, err := unpack(raw)
	if err != nil {
		return nil, err
	}
	defer end()
	unpacked := &bounded{ctx: ctx, from: content, left: s.MaxUnpacked}
	archive := tar.NewReader(unpacked)
	made := newBuilder(s.view.windows, s.MaxEntries, s.memory)
	s.layer.tree, s.layer.part = made.root, true
	settle := func() []Need {
		if needs := slices.Clone(s.needs); s.view.decide(needs, s.folders) {
			return needs
		}
		return nil
	}
	settle() // for what to wait
	for n := 0; ; n++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		var at string
		if err == nil && n >= s.MaxEntries {
			err = errTooMany
		}
		if err == nil {
			at, err = made.add(header, archive)
		}
		switch {
		case unpacked.err != nil:
			return nil, unpacked.err
		case errors.Is(err, errTooMuch):
			return nil, s.tooMuch(err)
		case errors.Is(err, errTooMany):
			return nil, problem.Wrap(err, problem.Refused, "an archive like this may be made to fill memory: look at how the image was built", "it holds more than %d", s.MaxEntries)
		case err != nil:
			return nil, err
		}
		if !s.Whole && s.view.waiting[at] && s.layer.blob.Size-s.done > s.rest {
			if settled := settle(); settled != nil {
				return settled, nil
			}
		}
	}
}
