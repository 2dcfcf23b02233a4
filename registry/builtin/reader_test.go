package builtin_test

import (
	"errors"
	"io"
	"iter"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
)

func listed[T any](seq iter.Seq2[T, error]) (all []T, err error) {
	for one, err := range seq {
		if err != nil {
			return all, err
		}
		all = append(all, one)
	}
	return all, nil
}

func TestReader(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	ctx := t.Context()
	g := f.registry
	d, manifest := f.pushImage(auth, "team/app", "v1", "one")
	signature := imageOf(digestOf([]byte("{}")), digestOf([]byte("layer one")), `,"artifactType":"a/b","subject":{"mediaType":"`+manifestType+`","digest":"`+d+`","size":1}`)
	f.putManifest(auth, "team/app", digestOf(signature), signature).want(t, 201)
	if all, err := listed(g.Repositories(ctx)); err != nil || len(all) != 1 || all[0] != "team/app" {
		t.Errorf("Repositories = %v, %v", all, err)
	}
	want := image.Descriptor{MediaType: manifestType, Digest: digest.Digest(d), Size: int64(len(manifest))}
	for _, target := range []string{"v1", d} {
		if got, err := g.Resolve(ctx, "team/app", target); err != nil || got != want {
			t.Errorf("Resolve %s = %+v, %v", target, got, err)
		}
	}
	if kind, raw, err := g.Manifest(ctx, "team/app", want.Digest); err != nil || kind != manifestType || string(raw) != string(manifest) {
		t.Errorf("Manifest = %s %s, %v", kind, raw, err)
	}
	if all, err := g.Referrers(ctx, "team/app", want.Digest); err != nil || len(all) != 1 || all[0].Digest != digest.FromBytes(signature) || all[0].ArtifactType != "a/b" {
		t.Errorf("Referrers = %v, %v", all, err)
	}
	layer := digest.FromString("layer one")
	read := func() (string, error) {
		body, err := g.Blob(ctx, "team/app", layer)
		if err != nil {
			return "", err
		}
		defer func() { _ = body.Close() }()
		var text strings.Builder
		_, err = io.Copy(&text, body)
		return text.String(), err
	}
	if got, err := read(); err != nil || got != "layer one" {
		t.Errorf("Blob = %q, %v", got, err)
	}
	overwrite(t, f.blobFile("team/app", layer.String()), "layer two")
	if got, err := read(); err == nil {
		t.Errorf("a damaged blob was read: %q", got)
	}
	if tags, err := listed(g.Tags(ctx, "team/app")); err != nil || len(tags) != 1 || !tags[0].Pulled.IsZero() {
		t.Errorf("after reading, the tags are %+v, %v", tags, err)
	}
	none := digest.FromString("none")
	for _, name := range []string{"team/app", "none", "../team/app", "team/app/manifests/x", ""} {
		_, resolve := g.Resolve(ctx, name, "none")
		_, _, read := g.Manifest(ctx, name, none)
		_, blob := g.Blob(ctx, name, none)
		for _, err := range []error{resolve, read, blob} {
			if !errors.Is(err, image.ErrMissing) {
				t.Errorf("of %q: %v", name, err)
			}
		}
	}
	f.server.Close()
	if err := g.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Resolve(ctx, "team/app", "v1"); err == nil {
		t.Error("a closed registry is read")
	}
	if _, err := g.Collect(ctx); err == nil {
		t.Error("a closed registry collects")
	}
}
