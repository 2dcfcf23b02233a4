// Package registrytest is the conformance suite of the ports [image.Reader],
// [image.Lister], [image.Deleter] and [image.Writer]. Every adapter runs it,
// against the real thing or a fake of it.
package registrytest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
)

// Setup is a registry, and what a test needs of the world around it. What an
// adapter cannot do is false or nil: the suite then checks that it says so, or
// leaves it out.
type Setup struct {
	// Reader is what is tested. It is tested as an [image.Lister], too, if it
	// is one.
	Reader image.Reader
	// Writer fills the registry, and is tested with it.
	Writer image.Writer
	// Deleter deletes. Without one, deleting is left out.
	Deleter image.Deleter

	// Repository is where the test writes. It is not there before, and no other
	// test writes to it.
	Repository string
	// Other is a second such repository, for mounts.
	Other string

	// Catalog, Referrers, Mounts and Deletes say that the registry has the
	// function. One that does not must be told by [image.ErrUnsupported], but
	// for mounts, which become uploads.
	Catalog, Referrers, Mounts, Deletes bool
	// Many is how many tags are listed at once: more than a page of the
	// registry. Zero means 30.
	Many int
	// Corrupt has the registry send other content for a digest of Repository. If
	// it is nil, that is left out.
	Corrupt func(t testing.TB, d digest.Digest)
	// Refused is the registry, with a login that it refuses.
	Refused image.Reader
	// Down is the registry when it cannot be reached.
	Down image.Reader
	// Secrets are the logins': none is ever part of an error.
	Secrets []string
}

const (
	defaultMany = 30
	// patience is how long one test may take.
	patience = 2 * time.Minute
	// promptly is how long a call may take to end after its context has.
	promptly = 5 * time.Second
	// blobSize is that of a layer, in bytes: more than any buffer.
	blobSize = 300_000
)

// Run runs the suite. setup is called for each test.
func Run(t *testing.T, setup func(t *testing.T) Setup) {
	for _, test := range []struct {
		name string
		run  func(*fixture)
	}{
		{"RoundTrip", (*fixture).roundTrip},
		{"Index", (*fixture).index},
		{"Missing", (*fixture).missing},
		{"Failures", (*fixture).failures},
		{"TagsAreListedOnce", (*fixture).tags},
		{"ATagMoves", (*fixture).moves},
		{"Repositories", (*fixture).repositories},
		{"Untagged", (*fixture).untagged},
		{"Referrers", (*fixture).referrers},
		{"DeletingATagLeavesItsSiblings", (*fixture).siblings},
		{"DeletingIsIdempotent", (*fixture).idempotent},
		{"DeleteManifest", (*fixture).deleteManifest},
		{"Mount", (*fixture).mount},
		{"OnlyTheBlobIsWritten", (*fixture).wrongContent},
		{"AFailedReadIsRepeated", (*fixture).repeated},
		{"CorruptContentIsRefused", (*fixture).corrupt},
		{"AtTheSameTime", (*fixture).concurrent},
		{"ACancelledContextEndsPromptly", (*fixture).cancelled},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			test.run(&fixture{T: t, Setup: setup(t), ctx: ctx})
		})
	}
}

type fixture struct {
	*testing.T
	Setup
	ctx context.Context
}

// no ends the test at an error.
func (f *fixture) no(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

// wants checks what an error is, and that it holds no secret.
func (f *fixture) wants(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: error is %v, want %v in its chain", what, err, want)
	}
	f.silent(err)
}

func (f *fixture) silent(err error) {
	f.Helper()
	for _, secret := range f.Secrets {
		if err != nil && strings.Contains(err.Error(), secret) {
			f.Errorf("an error holds a secret: %v", err)
		}
	}
}

// layer writes a layer of random content.
func (f *fixture) layer(size int) (image.Blob, []byte) {
	f.Helper()
	raw := make([]byte, size)
	_, _ = rand.Read(raw)
	return f.write(ocispec.MediaTypeImageLayerGzip, raw), raw
}

func (f *fixture) write(mediaType string, raw []byte) image.Blob {
	f.Helper()
	b := image.Blob{Digest: digest.FromBytes(raw), Size: int64(len(raw)), MediaType: mediaType}
	_, err := f.Writer.WriteBlob(f.ctx, f.Repository, b, "", from(raw))
	f.no(err)
	return b
}

func from(raw []byte) func(context.Context) (io.ReadCloser, error) {
	return func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(raw)), nil }
}

func of(b image.Blob) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: b.MediaType, Digest: b.Digest, Size: b.Size}
}

// manifest makes an image of one platform whose blobs are there.
func (f *fixture) manifest(subject *ocispec.Descriptor) (ocispec.Descriptor, []byte) {
	f.Helper()
	config, err := json.Marshal(ocispec.Image{
		Author: rand.Text(), Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"},
	})
	f.no(err)
	layer, _ := f.layer(100)
	raw, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: of(f.write(ocispec.MediaTypeImageConfig, config)), Layers: []ocispec.Descriptor{of(layer)}, Subject: subject,
	})
	f.no(err)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(raw), Size: int64(len(raw))}, raw
}

// push writes an image under tags, and under its digest if there are none.
func (f *fixture) push(subject *ocispec.Descriptor, tags ...string) ocispec.Descriptor {
	f.Helper()
	d, raw := f.manifest(subject)
	f.tag(d, raw, tags...)
	return d
}

func (f *fixture) tag(d ocispec.Descriptor, raw []byte, tags ...string) {
	f.Helper()
	if len(tags) == 0 {
		tags = []string{""}
	}
	for _, tag := range tags {
		got, err := f.Writer.WriteManifest(f.ctx, f.Repository, tag, d.MediaType, raw)
		f.no(err)
		if got != d.Digest {
			f.Fatalf("a manifest was written as %s, want %s", got, d.Digest)
		}
	}
}

// leads checks what a tag or digest leads to.
func (f *fixture) leads(of string, want ocispec.Descriptor) {
	f.Helper()
	got, err := f.Reader.Resolve(f.ctx, f.Repository, of)
	if err != nil || got.Digest != want.Digest || got.MediaType != want.MediaType || got.Size != want.Size {
		f.Errorf("%s leads to %+v, %v; want %s of %d bytes, %s", of, got, err, want.Digest, want.Size, want.MediaType)
	}
}

// gone checks that nothing is under a tag or digest.
func (f *fixture) gone(of string) {
	f.Helper()
	_, err := f.Reader.Resolve(f.ctx, f.Repository, of)
	f.wants("resolve "+of, err, image.ErrMissing)
}

func (f *fixture) tagNames() []string {
	f.Helper()
	return names(f, f.Reader.Tags(f.ctx, f.Repository))
}

func names(f *fixture, tags iter.Seq2[image.Tag, error]) []string {
	f.Helper()
	var all []string
	for tag, err := range tags {
		if errors.Is(err, image.ErrMissing) {
			return nil
		}
		f.no(err)
		all = append(all, tag.Name)
	}
	return all
}

func (f *fixture) readBlob(d digest.Digest) ([]byte, error) {
	body, err := f.Reader.Blob(f.ctx, f.Repository, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return io.ReadAll(body)
}

func (f *fixture) roundTrip() {
	raw := make([]byte, blobSize)
	_, _ = rand.Read(raw)
	b := image.Blob{Digest: digest.FromBytes(raw), Size: blobSize, MediaType: ocispec.MediaTypeImageLayerGzip}
	for _, want := range []image.Outcome{image.Uploaded, image.Present} {
		if got, err := f.Writer.WriteBlob(f.ctx, f.Repository, b, "", from(raw)); err != nil || got != want {
			f.Errorf("a blob was %q, %v; want %q", got, err, want)
		}
	}
	if got, err := f.readBlob(b.Digest); err != nil || !bytes.Equal(got, raw) {
		f.Errorf("a blob came back with %d bytes, %v", len(got), err)
	}
	// A blob that nobody reads to the end is given back.
	body, err := f.Reader.Blob(f.ctx, f.Repository, b.Digest)
	f.no(err)
	if err := body.Close(); err != nil {
		f.Errorf("close a blob: %v", err)
	}

	d, manifest := f.manifest(nil)
	f.tag(d, manifest, "one", "")
	f.leads("one", d)
	f.leads(d.Digest.String(), d)
	mediaType, got, err := f.Reader.Manifest(f.ctx, f.Repository, d.Digest)
	if err != nil || mediaType != d.MediaType || !bytes.Equal(got, manifest) {
		f.Errorf("a manifest came back as %s, %q, %v; want %q", mediaType, got, err, manifest)
	}
}

func (f *fixture) index() {
	child, other := f.push(nil), f.push(nil)
	raw, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{child, other},
	})
	f.no(err)
	index := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	f.tag(index, raw, "all")
	f.leads("all", index)
	mediaType, got, err := f.Reader.Manifest(f.ctx, f.Repository, index.Digest)
	f.no(err)
	m, err := image.ParseManifest(index.Digest, mediaType, got)
	f.no(err)
	if !m.IsIndex() || len(m.Children) != 2 {
		f.Fatalf("the index came back as %+v", m)
	}
	for i, want := range []ocispec.Descriptor{child, other} {
		if m.Children[i].Digest != want.Digest {
			f.Errorf("child %d is %s, want %s", i, m.Children[i].Digest, want.Digest)
		}
		f.leads(m.Children[i].Digest.String(), want)
	}
	if diff := cmp.Diff([]string{"all"}, f.tagNames()); diff != "" {
		f.Errorf("tags (-want +got):\n%s", diff)
	}
}

func (f *fixture) missing() {
	nothing := digest.FromString(rand.Text())
	check := func() {
		f.Helper()
		f.gone("nothing")
		f.gone(nothing.String())
		_, _, err := f.Reader.Manifest(f.ctx, f.Repository, nothing)
		f.wants("read a manifest", err, image.ErrMissing)
		_, err = f.readBlob(nothing)
		f.wants("read a blob", err, image.ErrMissing)
	}
	check() // no such repository
	for tag, err := range f.Reader.Tags(f.ctx, f.Repository) {
		if tag.Name != "" {
			f.Errorf("tag %s is listed of a repository that is not there", tag.Name)
		}
		f.wants("list tags", err, image.ErrMissing)
	}
	f.push(nil, "something")
	check()
}

// failures checks that what is not known is never taken for missing.
func (f *fixture) failures() {
	nothing := digest.FromString("nothing")
	for name, reader := range map[string]image.Reader{"refused": f.Refused, "down": f.Down} {
		if reader == nil {
			continue
		}
		_, resolve := reader.Resolve(f.ctx, f.Repository, "nothing")
		_, _, manifest := reader.Manifest(f.ctx, f.Repository, nothing)
		_, blob := reader.Blob(f.ctx, f.Repository, nothing)
		_, referrers := reader.Referrers(f.ctx, f.Repository, nothing)
		var tags, repositories error
		for _, tags = range reader.Tags(f.ctx, f.Repository) {
		}
		for _, repositories = range reader.Repositories(f.ctx) {
		}
		for call, err := range map[string]error{
			"resolve": resolve, "manifest": manifest, "blob": blob, "referrers": referrers, "tags": tags, "repositories": repositories,
		} {
			unsupported := errors.Is(err, image.ErrUnsupported) && (call == "referrers" && !f.Referrers || call == "repositories" && !f.Catalog)
			if err == nil || errors.Is(err, image.ErrMissing) || errors.Is(err, image.ErrUnsupported) && !unsupported {
				f.Errorf("%s, %s: error is %v", name, call, err)
			}
			if name == "refused" && !unsupported {
				f.wants(name+", "+call, err, credential.ErrRefused)
			}
			f.silent(err)
		}
	}
}

func (f *fixture) tags() {
	many := f.Many
	if many == 0 {
		many = defaultMany
	}
	d, raw := f.manifest(nil)
	var want []string
	for n := range many {
		want = append(want, fmt.Sprintf("v%05d", n))
	}
	f.tag(d, raw, want...)
	got := f.tagNames()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("tags (-want +got):\n%s", diff)
	}
	// Whoever stops early is not called again.
	n := 0
	for _, err := range f.Reader.Tags(f.ctx, f.Repository) {
		f.no(err)
		if n++; n == 2 {
			break
		}
	}
	if n != 2 {
		f.Errorf("%d tags came, want 2", n)
	}
	for tag, err := range f.Reader.Tags(f.ctx, f.Repository) {
		f.no(err)
		if tag.Digest != "" && tag.Digest != d.Digest {
			f.Errorf("tag %s leads to %s by the list, want %s", tag.Name, tag.Digest, d.Digest)
		}
	}
}

func (f *fixture) moves() {
	first := f.push(nil, "latest")
	f.leads("latest", first)
	second := f.push(nil, "latest")
	f.leads("latest", second)
	if diff := cmp.Diff([]string{"latest"}, f.tagNames()); diff != "" {
		f.Errorf("tags (-want +got):\n%s", diff)
	}
}

func (f *fixture) repositories() {
	f.push(nil, "one")
	seen := map[string]int{}
	for path, err := range f.Reader.Repositories(f.ctx) {
		if !f.Catalog {
			f.wants("list repositories", err, image.ErrUnsupported)
			return
		}
		f.no(err)
		seen[path]++
	}
	if !f.Catalog {
		f.Error("a registry without a catalog lists its repositories")
	}
	if seen[f.Repository] != 1 {
		f.Errorf("%s is listed %d times, want once, among %d", f.Repository, seen[f.Repository], len(seen))
	}
}

func (f *fixture) untagged() {
	lister, ok := f.Reader.(image.Lister)
	if !ok {
		f.Skip("the registry tells of no manifests without tags")
	}
	tagged, without := f.push(nil, "one"), f.push(nil)
	seen := map[digest.Digest]int{}
	for tag, err := range lister.Untagged(f.ctx, f.Repository) {
		f.no(err)
		if tag.Name != "" {
			f.Errorf("%s is listed with the tag %s", tag.Digest, tag.Name)
		}
		seen[tag.Digest]++
	}
	if diff := cmp.Diff(map[digest.Digest]int{without.Digest: 1}, seen); diff != "" {
		f.Errorf("untagged, where %s is tagged (-want +got):\n%s", tagged.Digest, diff)
	}
}

func (f *fixture) referrers() {
	subject := f.push(nil, "signed")
	first, second := f.push(&subject), f.push(&subject)
	got, err := f.Reader.Referrers(f.ctx, f.Repository, subject.Digest)
	if !f.Referrers {
		f.wants("list referrers", err, image.ErrUnsupported)
		return
	}
	f.no(err)
	want := []digest.Digest{first.Digest, second.Digest}
	var digests []digest.Digest
	for _, d := range got {
		digests = append(digests, d.Digest)
		if d.MediaType != ocispec.MediaTypeImageManifest || d.Size != first.Size && d.Size != second.Size {
			f.Errorf("a referrer is told of as %+v", d)
		}
	}
	slices.Sort(want)
	slices.Sort(digests)
	if diff := cmp.Diff(want, digests); diff != "" {
		f.Errorf("referrers (-want +got):\n%s", diff)
	}
	if none, err := f.Reader.Referrers(f.ctx, f.Repository, first.Digest); err != nil || len(none) != 0 {
		f.Errorf("referrers of a referrer are %+v, %v; want none", none, err)
	}
}

func (f *fixture) siblings() {
	if f.Deleter == nil {
		f.Skip("nothing deletes")
	}
	d := f.push(nil, "goes", "stays", "stays-too")
	err := f.Deleter.DeleteTag(f.ctx, f.Repository, "goes")
	want := []string{"stays", "stays-too"}
	if f.Deletes {
		f.no(err)
		f.gone("goes")
	} else {
		f.wants("delete a tag", err, image.ErrUnsupported)
		f.leads("goes", d)
		want = append([]string{"goes"}, want...)
	}
	got := f.tagNames()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		f.Errorf("tags (-want +got):\n%s", diff)
	}
	for _, of := range []string{"stays", "stays-too", d.Digest.String()} {
		f.leads(of, d)
	}
	mediaType, raw, err := f.Reader.Manifest(f.ctx, f.Repository, d.Digest)
	f.no(err)
	m, err := image.ParseManifest(d.Digest, mediaType, raw)
	f.no(err)
	for _, b := range m.Blobs() {
		_, err := f.readBlob(b.Digest)
		f.no(err)
	}
}

func (f *fixture) idempotent() {
	if f.Deleter == nil || !f.Deletes {
		f.Skip("nothing deletes")
	}
	nothing := digest.FromString(rand.Text())
	check := func() {
		f.Helper()
		f.no(f.Deleter.DeleteTag(f.ctx, f.Repository, "nothing"))
		f.no(f.Deleter.DeleteManifest(f.ctx, f.Repository, nothing))
	}
	check() // no such repository
	d := f.push(nil, "goes", "stays")
	check()
	for range 2 {
		f.no(f.Deleter.DeleteTag(f.ctx, f.Repository, "goes"))
	}
	f.leads("stays", d)
}

func (f *fixture) deleteManifest() {
	if f.Deleter == nil {
		f.Skip("nothing deletes")
	}
	goes, stays := f.push(nil), f.push(nil, "stays")
	if !f.Deletes {
		f.wants("delete a manifest", f.Deleter.DeleteManifest(f.ctx, f.Repository, goes.Digest), image.ErrUnsupported)
		f.leads(goes.Digest.String(), goes)
		return
	}
	for range 2 {
		f.no(f.Deleter.DeleteManifest(f.ctx, f.Repository, goes.Digest))
	}
	f.gone(goes.Digest.String())
	f.leads("stays", stays)
	// A manifest with tags goes with all of them, or not at all.
	if err := f.Deleter.DeleteManifest(f.ctx, f.Repository, stays.Digest); err != nil {
		f.leads("stays", stays)
	}
}

func (f *fixture) mount() {
	if f.Other == "" {
		f.Skip("there is no other repository")
	}
	b, raw := f.layer(blobSize)
	opened := 0
	open := func(ctx context.Context) (io.ReadCloser, error) {
		opened++
		return from(raw)(ctx)
	}
	want, opens := image.Uploaded, 1
	if f.Mounts {
		want, opens = image.Mounted, 0
	}
	if got, err := f.Writer.WriteBlob(f.ctx, f.Other, b, f.Repository, open); err != nil || got != want || opened != opens {
		f.Errorf("a blob was %q, read %d times, %v; want %q, read %d times", got, opened, err, want, opens)
	}
	body, err := f.Reader.Blob(f.ctx, f.Other, b.Digest)
	f.no(err)
	defer func() { _ = body.Close() }()
	if got, err := io.ReadAll(body); err != nil || !bytes.Equal(got, raw) {
		f.Errorf("the blob came back with %d bytes, %v", len(got), err)
	}
	// What cannot be mounted is sent.
	raw = []byte(rand.Text())
	b = image.Blob{Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if got, err := f.Writer.WriteBlob(f.ctx, f.Other, b, f.Repository, from(raw)); err != nil || got != image.Uploaded {
		f.Errorf("a blob that is nowhere was %q, %v; want %q", got, err, image.Uploaded)
	}
}

func (f *fixture) wrongContent() {
	raw := []byte(rand.Text())
	b := image.Blob{Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	other := bytes.Clone(raw)
	other[len(other)-1]++
	for name, sent := range map[string][]byte{"other": other, "short": raw[:len(raw)-1], "long": append(bytes.Clone(raw), 'x')} {
		if got, err := f.Writer.WriteBlob(f.ctx, f.Repository, b, "", from(sent)); err == nil {
			f.Errorf("%s content was %q", name, got)
		}
		_, err := f.readBlob(b.Digest)
		f.wants("read what was not written", err, image.ErrMissing)
	}
	if got, err := f.Writer.WriteBlob(f.ctx, f.Repository, b, "", from(raw)); err != nil || got != image.Uploaded {
		f.Errorf("the right content was %q, %v", got, err)
	}
}

func (f *fixture) repeated() {
	raw := make([]byte, blobSize)
	_, _ = rand.Read(raw)
	b := image.Blob{Digest: digest.FromBytes(raw), Size: blobSize}
	opened := 0
	open := func(ctx context.Context) (io.ReadCloser, error) {
		if opened++; opened == 1 {
			return io.NopCloser(io.MultiReader(bytes.NewReader(raw[:blobSize/2]), broken{})), nil
		}
		return from(raw)(ctx)
	}
	if got, err := f.Writer.WriteBlob(f.ctx, f.Repository, b, "", open); err != nil || got != image.Uploaded || opened != 2 {
		f.Errorf("a blob was %q, read %d times, %v; want %q, read twice", got, opened, err, image.Uploaded)
	}
	if got, err := f.readBlob(b.Digest); err != nil || !bytes.Equal(got, raw) {
		f.Errorf("the blob came back with %d bytes, %v", len(got), err)
	}
}

// broken is a connection that broke.
type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func (f *fixture) corrupt() {
	if f.Corrupt == nil {
		f.Skip("the content cannot be changed")
	}
	d := f.push(nil, "one")
	b, _ := f.layer(blobSize)
	f.Corrupt(f, d.Digest)
	f.Corrupt(f, b.Digest)
	if _, raw, err := f.Reader.Manifest(f.ctx, f.Repository, d.Digest); err == nil || errors.Is(err, image.ErrMissing) {
		f.Errorf("a corrupt manifest was read: %q, %v", raw, err)
	}
	if raw, err := f.readBlob(b.Digest); err == nil || errors.Is(err, image.ErrMissing) {
		f.Errorf("a corrupt blob of %d bytes was read: %v", len(raw), err)
	}
}

func (f *fixture) concurrent() {
	var all []ocispec.Descriptor
	for n := range 4 {
		all = append(all, f.push(nil, fmt.Sprint("v", n)))
	}
	var group sync.WaitGroup
	for n := range 32 {
		group.Go(func() {
			d := all[n%len(all)]
			tag := fmt.Sprint("v", n%len(all))
			if got, err := f.Reader.Resolve(f.ctx, f.Repository, tag); err != nil || got.Digest != d.Digest {
				f.Errorf("%s leads to %s, %v; want %s", tag, got.Digest, err, d.Digest)
			}
			if _, _, err := f.Reader.Manifest(f.ctx, f.Repository, d.Digest); err != nil {
				f.Error(err)
			}
		})
	}
	group.Wait()
}

func (f *fixture) cancelled() {
	d := f.push(nil, "one")
	ctx, cancel := context.WithCancel(f.ctx)
	cancel()
	began := time.Now()
	ended := func(what string, err error) {
		f.Helper()
		f.wants(what, err, context.Canceled)
		if took := time.Since(began); took > promptly {
			f.Errorf("%s ended after %s", what, took)
		}
		began = time.Now()
	}
	_, err := f.Reader.Resolve(ctx, f.Repository, "one")
	ended("resolve", err)
	_, _, err = f.Reader.Manifest(ctx, f.Repository, d.Digest)
	ended("manifest", err)
	_, err = f.Reader.Blob(ctx, f.Repository, d.Digest)
	ended("blob", err)
	err = nil
	for _, err = range f.Reader.Tags(ctx, f.Repository) {
	}
	ended("tags", err)
	raw := []byte(rand.Text())
	_, err = f.Writer.WriteBlob(ctx, f.Repository, image.Blob{Digest: digest.FromBytes(raw), Size: int64(len(raw))}, "", from(raw))
	ended("write blob", err)
	_, err = f.Writer.WriteManifest(ctx, f.Repository, "two", ocispec.MediaTypeImageManifest, raw)
	ended("write manifest", err)
	if f.Deleter != nil && f.Deletes {
		ended("delete tag", f.Deleter.DeleteTag(ctx, f.Repository, "one"))
		ended("delete manifest", f.Deleter.DeleteManifest(ctx, f.Repository, d.Digest))
	}
	f.leads("one", d)

	// A context that ends while a blob is read, or written.
	b, _ := f.layer(blobSize)
	ctx, cancel = context.WithCancel(f.ctx)
	defer cancel()
	body, err := f.Reader.Blob(ctx, f.Repository, b.Digest)
	f.no(err)
	defer func() { _ = body.Close() }()
	if _, err := io.ReadFull(body, make([]byte, 10)); err != nil {
		f.Error(err)
	}
	cancel()
	began = time.Now()
	if _, err := io.Copy(io.Discard, body); err != nil { // all of it may have been on its way
		ended("a blob that is being read", err)
	}
	ctx, cancel = context.WithCancel(f.ctx)
	defer cancel()
	b.Digest = digest.FromString(rand.Text())
	_, err = f.Writer.WriteBlob(ctx, f.Repository, b, "", func(ctx context.Context) (io.ReadCloser, error) {
		cancel()
		return io.NopCloser(stuck{ctx}), nil
	})
	ended("a blob that is being written", err)
}

// stuck is a source from which nothing comes until the context ends.
type stuck struct{ ctx context.Context }

func (s stuck) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}
