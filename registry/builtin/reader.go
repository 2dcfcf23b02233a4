package builtin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
)

// Within the process the registry is read without a login, and without a pull
// being noted. What is read of an upstream's repositories is what there are copies
// of.
var _ image.Lister = (*Registry)(nil)

// enter begins a call from within the process.
func (g *Registry) enter() (leave func(), err error) {
	g.serving.RLock()
	if g.closed {
		g.serving.RUnlock()
		return nil, errClosed
	}
	g.open()
	return g.serving.RUnlock, nil
}

// Repositories implements [image.Reader]: those that hold something, in no order.
func (g *Registry) Repositories(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for name, err := range g.repositories(ctx) {
			if !yield(name, err) {
				return
			}
		}
	}
}

// Tags implements [image.Reader]: in the order of [DatedTags], with their times.
func (g *Registry) Tags(_ context.Context, repository string) iter.Seq2[image.Tag, error] {
	return g.each(repository, true)
}

// Untagged implements [image.Lister]: see [DatedTags].
func (g *Registry) Untagged(_ context.Context, repository string) iter.Seq2[image.Tag, error] {
	return g.each(repository, false)
}

func (g *Registry) each(repository string, tagged bool) iter.Seq2[image.Tag, error] {
	return func(yield func(image.Tag, error) bool) {
		all, err := g.dated(repository, tagged)
		if err != nil {
			yield(image.Tag{}, err)
			return
		}
		for _, one := range all {
			if !yield(one, nil) {
				return
			}
		}
	}
}

// read asks for a manifest or a list, where there is such a repository.
func (g *Registry) read(ctx context.Context, method, repository, kind, reference string) (*captured, error) {
	leave, err := g.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	path := "/v2/" + repository + "/" + kind + "/" + reference
	if _, err := parseRoute(method, path); err != nil || !validName(repository) || !g.exists(repository) {
		return nil, fmt.Errorf("read %s of %s: %w", reference, repository, image.ErrMissing)
	}
	got, err := g.ask(ctx, method, path, nil, nil)
	switch {
	case err != nil:
		return nil, err
	case got.status == http.StatusNotFound:
		return nil, fmt.Errorf("read %s of %s: %w", reference, repository, image.ErrMissing)
	case got.status != http.StatusOK:
		return nil, fmt.Errorf("read %s of %s: storage answers %d", reference, repository, got.status)
	}
	return got, nil
}

// Resolve implements [image.Reader].
func (g *Registry) Resolve(ctx context.Context, repository, target string) (image.Descriptor, error) {
	got, err := g.read(ctx, http.MethodGet, repository, "manifests", target)
	if err != nil {
		return image.Descriptor{}, err
	}
	return image.Descriptor{
		MediaType: got.header.Get("Content-Type"),
		Digest:    digest.Digest(got.header.Get("Docker-Content-Digest")),
		Size:      int64(got.body.Len()),
	}, nil
}

// Manifest implements [image.Reader].
func (g *Registry) Manifest(ctx context.Context, repository string, d digest.Digest) (mediaType string, raw []byte, err error) {
	if err := d.Validate(); err != nil {
		return "", nil, fmt.Errorf("read manifest %q of %s: %w", d, repository, err)
	}
	got, err := g.read(ctx, http.MethodGet, repository, "manifests", d.String())
	if err != nil {
		return "", nil, err
	}
	if d.Algorithm().FromBytes(got.body.Bytes()) != d {
		return "", nil, fmt.Errorf("read manifest %s of %s: what is stored has another digest", d, repository)
	}
	return got.header.Get("Content-Type"), got.body.Bytes(), nil
}

// Referrers implements [image.Reader].
func (g *Registry) Referrers(ctx context.Context, repository string, d digest.Digest) ([]image.Descriptor, error) {
	got, err := g.read(ctx, http.MethodGet, repository, "referrers", d.String())
	if errors.Is(err, image.ErrMissing) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list struct {
		Manifests []struct {
			MediaType    string        `json:"mediaType"`
			ArtifactType string        `json:"artifactType"`
			Digest       digest.Digest `json:"digest"`
			Size         int64         `json:"size"`
		} `json:"manifests"`
	}
	if err := json.Unmarshal(got.body.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("read referrers of %s: %w", d, err)
	}
	if got.header.Get("Link") != "" {
		return nil, fmt.Errorf("read referrers of %s: there are more than one page", d)
	}
	all := make([]image.Descriptor, len(list.Manifests))
	for i, m := range list.Manifests {
		all[i] = image.Descriptor{MediaType: m.MediaType, ArtifactType: m.ArtifactType, Digest: m.Digest, Size: m.Size}
	}
	return all, nil
}

// Blob implements [image.Reader].
func (g *Registry) Blob(_ context.Context, repository string, d digest.Digest) (io.ReadCloser, error) {
	leave, err := g.enter()
	if err != nil {
		return nil, err
	}
	defer leave()
	if !validName(repository) || !digestForm.MatchString(d.String()) || !g.holdsFile(repository, d.String()) {
		return nil, fmt.Errorf("read blob %s of %s: %w", d, repository, image.ErrMissing)
	}
	file, err := os.Open(g.blobFile(repository, d.String()))
	if err != nil {
		return nil, fmt.Errorf("read blob %s of %s: %w", d, repository, err)
	}
	return &verified{File: file, want: d, sum: d.Verifier()}, nil
}

// verified is a file that is read to its end only if it has the digest.
type verified struct {
	*os.File
	want digest.Digest
	sum  digest.Verifier
}

// Read implements [io.Reader].
func (v *verified) Read(p []byte) (int, error) {
	n, err := v.File.Read(p)
	_, _ = v.sum.Write(p[:n]) // a hash takes everything
	if errors.Is(err, io.EOF) && !v.sum.Verified() {
		return n, fmt.Errorf("read blob %s: what is stored has another digest", v.want)
	}
	return n, err
}

// WriteTo keeps the file's own from being used, which would not look.
func (v *verified) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{v})
}
