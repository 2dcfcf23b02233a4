package oci

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

const enableHint = "have the registry delete: distribution's needs REGISTRY_STORAGE_DELETE_ENABLED=true"

// restorePatience is how long it may take to put a tag back.
const restorePatience = time.Minute

var deleted = []int{http.StatusAccepted, http.StatusOK, http.StatusNoContent}

// DeleteTag deletes by tag. At a registry that deletes by digest only, the tag
// is moved to a manifest of its own, and that is deleted, with which the tag
// goes; what the tag led to stays with all its other tags. See [image.Deleter].
func (r *Registry) DeleteTag(ctx context.Context, path, tag string) error {
	repo, err := r.in(path, transport.DeleteScope)
	if err != nil {
		return err
	}
	if digest.Digest(tag).Validate() == nil {
		return problem.New(problem.Usage, "", "%q is no tag", tag)
	}
	return r.explain(repo.deleteTag(ctx, tag), "delete tag %s", repo.reference(tag))
}

// DeleteManifest deletes by digest. See [image.Deleter].
func (r *Registry) DeleteManifest(ctx context.Context, path string, d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	repo, err := r.in(path, transport.DeleteScope)
	if err != nil {
		return err
	}
	return r.explain(repo.deleteDigest(ctx, d.String()), "delete manifest %s", repo.reference(d.String()))
}

func (p repository) deleteDigest(ctx context.Context, d string) error {
	_, err := p.do(ctx, p.manifest(http.MethodDelete, d, deleted...))
	if a, ok := answered(err); ok {
		switch {
		case a.missing():
			return nil
		case a.unsupported():
			return problem.Wrap(fmt.Errorf("%w: %w", image.ErrUnsupported, err), problem.Usage, enableHint, "the registry deletes nothing")
		}
	}
	return err
}

func (p repository) deleteTag(ctx context.Context, tag string) error {
	if err := target(tag); err != nil {
		return err
	}
	_, err := p.do(ctx, p.manifest(http.MethodDelete, tag, deleted...))
	if err == nil {
		return nil
	}
	a, ok := answered(err)
	if !ok || !a.missing() && !a.unsupported() && a.status() != http.StatusBadRequest {
		return err
	}
	// A registry without this function may take the tag for a digest that it
	// does not have.
	was, raw, got := p.get(ctx, tag)
	if isMissing(got) {
		return nil
	}
	if got != nil {
		return got
	}
	// Nothing may change where nothing can be deleted.
	if err := p.deleteDigest(ctx, nowhere); err != nil {
		return err
	}
	return p.deleteMoved(ctx, tag, was, raw)
}

// deleteMoved deletes a tag by moving it to a manifest of its own.
func (p repository) deleteMoved(ctx context.Context, tag string, was image.Descriptor, raw []byte) error {
	own, err := p.own(ctx)
	if err != nil {
		return err
	}
	d := digest.FromBytes(own)
	err = p.put(ctx, tag, ocispec.MediaTypeImageManifest, own)
	if err == nil {
		err = p.deleteDigest(ctx, d.String())
	}
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), restorePatience)
		defer cancel()
		return errors.Join(err, p.restore(ctx, tag, d, was, raw))
	}
	if found, err := p.resolve(ctx, tag); err == nil && found.Digest == d {
		return problem.New(problem.Unreachable, "delete the tag at the registry itself", "the tag is still there, and leads to an empty manifest")
	}
	// What its other tags lead to must still be there.
	if _, err := p.resolve(ctx, was.Digest.String()); err != nil {
		return fmt.Errorf("look for what the tag led to, %s: %w", was.Digest, err)
	}
	return nil
}

// restore puts a tag back to what it led to, if it still leads to the manifest
// that it was moved to.
func (p repository) restore(ctx context.Context, tag string, moved digest.Digest, was image.Descriptor, raw []byte) error {
	found, err := p.resolve(ctx, tag)
	if err == nil && found.Digest != moved {
		return nil
	}
	if err == nil || isMissing(err) {
		err = p.put(ctx, tag, was.MediaType, raw)
	}
	if err != nil {
		return fmt.Errorf("put the tag back to %s: %w", was.Digest, err)
	}
	return nil
}

// own makes a manifest that no other tag leads to, and writes the config that
// makes it so.
func (p repository) own(ctx context.Context) ([]byte, error) {
	config, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{}},
		"config": map[string]any{"Labels": map[string]string{"regkeeper.delete": rand.Text()}},
	})
	if err != nil {
		return nil, err
	}
	b := image.Blob{Digest: digest.FromBytes(config), Size: int64(len(config)), MediaType: ocispec.MediaTypeImageConfig}
	open := func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(config)), nil }
	if _, err := p.write(ctx, b, "", open); err != nil {
		return nil, err
	}
	return json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size},
		Layers:    []ocispec.Descriptor{},
		// What is cut off before the manifest goes can be told by it.
		Annotations: map[string]string{image.DeletingAnnotation: "true"},
	})
}
