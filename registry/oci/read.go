package oci

import (
	"context"
	"fmt"
	"mime"
	"net/http"
	"strconv"

	_ "crypto/sha512" // digests may be made by it

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

// manifestLimit bounds a manifest, in bytes: as registries do (OCI distribution
// specification, "Pushing Manifests").
const manifestLimit = 4 << 20

// manifestTypes are all kinds of manifests. What is not accepted, a registry may
// turn into something else, of another digest.
// They are on one line: not every registry reads another.
const manifestTypes = ocispec.MediaTypeImageIndex + ", " + ocispec.MediaTypeImageManifest + ", " +
	image.DockerIndex + ", " + image.DockerManifest + ", application/vnd.oci.artifact.manifest.v1+json"

func mediaType(header http.Header) string {
	kind, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return kind
}

// Resolve asks by HEAD. A registry that does not answer that, or without a
// digest, is asked by GET. See [image.Reader].
func (r *Registry) Resolve(ctx context.Context, path, of string) (image.Descriptor, error) {
	repo, err := r.in(path, transport.PullScope)
	if err != nil {
		return image.Descriptor{}, err
	}
	d, err := repo.resolve(ctx, of)
	return d, r.explain(err, "resolve %s", repo.reference(of))
}

// reference is a manifest of the repository, in errors.
func (p repository) reference(of string) string {
	if target(of) == nil && digest.Digest(of).Validate() == nil {
		return p.title() + "@" + of
	}
	return p.title() + ":" + of
}

func (p repository) manifest(method, of string, good ...int) ask {
	return ask{method: method, path: p.path + "/manifests/" + of, header: http.Header{"Accept": {manifestTypes}}, good: good}
}

func (p repository) resolve(ctx context.Context, of string) (image.Descriptor, error) {
	if err := target(of); err != nil {
		return image.Descriptor{}, err
	}
	header, err := p.do(ctx, p.manifest(http.MethodHead, of, http.StatusOK))
	if err != nil && status(err) != http.StatusMethodNotAllowed {
		return image.Descriptor{}, err
	}
	told := digest.Digest(header.Get("Docker-Content-Digest"))
	if err != nil || told.Validate() != nil {
		d, _, err := p.get(ctx, of)
		return d, err
	}
	if asked := digest.Digest(of); asked.Validate() == nil && asked != told {
		return image.Descriptor{}, mismatch(asked, told)
	}
	size, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil {
		size = 0
	}
	return image.Descriptor{MediaType: mediaType(header), Digest: told, Size: size}, nil
}

// get reads a manifest. By digest, what comes has that digest.
func (p repository) get(ctx context.Context, of string) (image.Descriptor, []byte, error) {
	if err := target(of); err != nil {
		return image.Descriptor{}, nil, err
	}
	header, raw, err := p.read(ctx, p.manifest(http.MethodGet, of, http.StatusOK), manifestLimit)
	if err != nil {
		return image.Descriptor{}, nil, err
	}
	d := digest.FromBytes(raw)
	if asked := digest.Digest(of); asked.Validate() == nil {
		if d = asked.Algorithm().FromBytes(raw); d != asked {
			return image.Descriptor{}, nil, mismatch(asked, d)
		}
	}
	return image.Descriptor{MediaType: mediaType(header), Digest: d, Size: int64(len(raw))}, raw, nil
}

// mismatch is content that is not what its digest says.
func mismatch(asked, got digest.Digest) error {
	return problem.New(problem.Damaged, "the registry's storage is damaged, or something between changes what it sends: do not use it",
		"what came for %s is %s", asked, got)
}

// Manifest reads by digest. See [image.Reader].
func (r *Registry) Manifest(ctx context.Context, path string, d digest.Digest) (string, []byte, error) {
	if err := checkDigest(d); err != nil {
		return "", nil, err
	}
	repo, err := r.in(path, transport.PullScope)
	if err != nil {
		return "", nil, err
	}
	found, raw, err := repo.get(ctx, d.String())
	if err != nil {
		return "", nil, r.explain(err, "read manifest %s", repo.reference(d.String()))
	}
	return found.MediaType, raw, nil
}

// lengthOf is the length that a Content-Range tells of the whole, and where the
// part begins (RFC 9110 section 14.4).
func lengthOf(text string) (start, whole int64, err error) {
	var end int64
	if _, err := fmt.Sscanf(text, "bytes %d-%d/%d", &start, &end, &whole); err == nil {
		return start, whole, nil
	}
	_, err = fmt.Sscanf(text, "bytes %d-%d/*", &start, &end)
	return start, -1, err
}
