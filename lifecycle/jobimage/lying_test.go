package jobimage_test

import (
	"bytes"
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

// lying is a registry that sends something else for one blob, which shows at its
// end, as the port has it.
type lying struct {
	image.Reader
	of, send []byte
}

func (l lying) Blob(ctx context.Context, repository string, d digest.Digest) (io.ReadCloser, error) {
	if d != digest.FromBytes(l.of) {
		return l.Reader.Blob(ctx, repository, d)
	}
	return io.NopCloser(&unverified{bytes.NewReader(l.send)}), nil
}

type unverified struct{ io.Reader }

func (u *unverified) Read(p []byte) (int, error) {
	n, err := u.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = problem.New(problem.Damaged, "", "what came has another digest")
	}
	return n, err
}
