package builtin_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/registry/builtin"
)

// age makes the blobs of all repositories older than every grace.
func (f *fixture) age() {
	f.t.Helper()
	old := time.Now().Add(-48 * time.Hour)
	err := filepath.WalkDir(f.config.Dir, func(path string, file fs.DirEntry, err error) error {
		if err == nil && file.Type().IsRegular() && strings.Contains(path, "/blobs/") {
			err = os.Chtimes(path, old, old)
		}
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) collect() int64 {
	f.t.Helper()
	freed, err := f.registry.Collect(f.t.Context())
	if err != nil {
		f.t.Error(err)
	}
	return freed
}

func (f *fixture) blobFile(repository, digest string) string {
	return filepath.Join(f.config.Dir, repository, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:"))
}

// pull reads an image or an index with all it is made of, as a client would.
func (f *fixture) pull(auth, repository, reference string) error {
	got, err := f.send(request{method: "GET", path: "/v2/" + repository + "/manifests/" + reference, auth: auth})
	if err != nil || got.status != 200 {
		return fmt.Errorf("manifest %s: %d %s %w", reference, got.status, got.body, err)
	}
	if strings.HasPrefix(reference, "sha256:") && digestOf(got.body) != reference {
		return fmt.Errorf("manifest %s is another", reference)
	}
	var doc struct {
		Config            *struct{ Digest string }
		Layers, Manifests []struct{ Digest string }
	}
	if err := json.Unmarshal(got.body, &doc); err != nil {
		return err
	}
	for _, child := range doc.Manifests {
		if err := f.pull(auth, repository, child.Digest); err != nil {
			return fmt.Errorf("of %s: %w", reference, err)
		}
	}
	parts := doc.Layers
	if doc.Config != nil {
		parts = append(parts, *doc.Config)
	}
	for _, blob := range parts {
		got, err := f.send(request{method: "GET", path: "/v2/" + repository + "/blobs/" + blob.Digest, auth: auth})
		if err != nil || got.status != 200 || digestOf(got.body) != blob.Digest {
			return fmt.Errorf("blob %s of %s: %d %w", blob.Digest, reference, got.status, err)
		}
	}
	return nil
}

func TestCollect(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	kept, _ := f.pushImage(auth, "app", "v1", "one")
	gone, manifest := f.pushImage(auth, "app", "v2", "two")
	loose := f.pushBlob(auth, "app", []byte("loose"))
	f.do(request{method: "DELETE", path: "/v2/app/manifests/" + gone, auth: auth}).want(t, 202)
	if freed := f.collect(); freed != 0 {
		t.Errorf("within the grace %d bytes were collected", freed)
	}
	f.age()
	// Who pushes and is told that a blob is there must find it there.
	f.do(request{method: "HEAD", path: "/v2/app/blobs/" + loose, auth: auth}).want(t, 200)
	before := f.usage("app")
	want := int64(len("layer two") + len(manifest))
	if freed := f.collect(); freed != want {
		t.Errorf("collected %d bytes, want %d", freed, want)
	}
	if after := f.usage("app"); before.Bytes-after.Bytes != want || before.Blobs-after.Blobs != 2 {
		t.Errorf("usage went from %+v to %+v", before, after)
	}
	if freed := f.collect(); freed != 0 {
		t.Errorf("the second time %d bytes were collected", freed)
	}
	f.do(request{method: "HEAD", path: "/v2/app/blobs/" + loose, auth: auth}).want(t, 200)
	f.do(request{method: "HEAD", path: "/v2/app/manifests/" + gone, auth: auth}).want(t, 404)
	if err := f.pull(auth, "app", kept); err != nil {
		t.Error(err)
	}
	// A reader's look is no push to come.
	reader := f.login("reader", "pull", "*").basic()
	f.age()
	f.do(request{method: "HEAD", path: "/v2/app/blobs/" + loose, auth: reader}).want(t, 200)
	if freed := f.collect(); freed != int64(len("loose")) {
		t.Errorf("collected %d bytes, want the loose blob", freed)
	}
	f.pushImage(auth, "app", "v2", "two")
	if err := f.pull(auth, "app", "v2"); err != nil {
		t.Error(err)
	}
}

func (f *fixture) usage(repository string) builtin.Usage {
	f.t.Helper()
	all, err := f.registry.Usage(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	for _, use := range all {
		if use.Repository == repository {
			return use
		}
	}
	f.t.Fatalf("no usage of %s in %v", repository, all)
	return builtin.Usage{}
}

// What an index calls its children by, and what else a manifest's digest stands
// for, does not matter to whether they are needed.
func TestCollectFollowsEveryName(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	child, _ := f.pushImage(auth, "app", "", "odd")
	index := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"manifests":[{"mediaType":"application/x-odd","digest":%q,"size":1}]}`, indexType, child)
	f.putIndex(auth, "app", "odd", index)
	// A manifest that another names as a layer, and an index names too.
	inner, _ := f.pushImage(auth, "app", "", "inner")
	config := f.pushBlob(auth, "app", []byte("{}"))
	outer := imageOf(config, inner, "")
	f.putManifest(auth, "app", digestOf(outer), outer).want(t, 201)
	both := indexOf(digestOf(outer), inner)
	f.putIndex(auth, "app", "both", both)
	// A child that is no manifest at all.
	text := f.pushBlob(auth, "app", []byte("text"))
	f.putIndex(auth, "app", "text", indexOf(text))
	f.age()
	f.collect()
	for _, tag := range []string{"odd", "both"} {
		if err := f.pull(auth, "app", tag); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
	}
	f.do(request{method: "HEAD", path: "/v2/app/blobs/" + text, auth: auth}).want(t, 200)
}

// attach pushes what refers to a manifest, and returns its digest.
func (f *fixture) attach(auth, repository, subject, seed string) string {
	f.t.Helper()
	config, layer := f.pushBlob(auth, repository, []byte("{}")), f.pushBlob(auth, repository, []byte("layer "+seed))
	m := imageOf(config, layer, fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":1}`, manifestType, subject))
	f.putManifest(auth, repository, digestOf(m), m).want(f.t, 201)
	return digestOf(m)
}

func TestCollectKeepsReferrers(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	image, _ := f.pushImage(auth, "app", "v1", "image")
	signature := f.attach(auth, "app", image, "signature")
	second := f.attach(auth, "app", signature, "signature of the signature")
	early := f.attach(auth, "app", digestOf([]byte("to come")), "early")
	deleted, _ := f.pushImage(auth, "app", "v2", "deleted")
	orphan := f.attach(auth, "app", deleted, "orphan")
	f.do(request{method: "DELETE", path: "/v2/app/manifests/" + deleted, auth: auth}).want(t, 202)
	f.collect()
	if err := f.pull(auth, "app", orphan); err != nil {
		t.Errorf("orphan within the grace: %v", err)
	}
	f.age()
	for range 2 {
		f.collect()
		for _, digest := range []string{image, signature, second, early} {
			if err := f.pull(auth, "app", digest); err != nil {
				t.Error(err)
			}
		}
		f.do(request{method: "HEAD", path: "/v2/app/manifests/" + orphan, auth: auth}).want(t, 404)
		f.do(request{method: "HEAD", path: "/v2/app/blobs/" + digestOf([]byte("layer orphan")), auth: auth}).want(t, 404)
		f.restart()
	}
	if got := f.referrers(auth, "app", image, ""); len(got) != 1 {
		t.Errorf("referrers of the image: %v", got)
	}
}

// What is attached to an orphan that waits, waits with it; and both go with no other
// list of referrers in the repository.
func TestCollectOrphansTogether(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	image, _ := f.pushImage(auth, "app", "v1", "image")
	sbom := f.attach(auth, "app", image, "sbom")
	signature := f.attach(auth, "app", sbom, "signature")
	f.do(request{method: "DELETE", path: "/v2/app/manifests/" + image, auth: auth}).want(t, 202)
	f.age()
	now := time.Now()
	if err := os.Chtimes(f.blobFile("app", digestOf([]byte("layer sbom"))), now, now); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		f.collect()
		for _, digest := range []string{sbom, signature} {
			if err := f.pull(auth, "app", digest); err != nil {
				t.Errorf("within the grace: %v", err)
			}
		}
		f.age()
		if err := os.Chtimes(f.blobFile("app", digestOf([]byte("layer sbom"))), now, now); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 { // an orphan, then what was attached to it, then their files
		f.age()
		f.collect()
	}
	for _, digest := range []string{sbom, signature} {
		f.do(request{method: "HEAD", path: "/v2/app/manifests/" + digest, auth: auth}).want(t, 404)
	}
	if freed := f.collect(); freed != 0 {
		t.Errorf("collected %d bytes of what was collected", freed)
	}
}

// A manifest that cannot be read may name anything.
func TestCollectNothingWithoutKnowing(t *testing.T) {
	f := start(t)
	auth := f.admin().basic()
	image, manifest := f.pushImage(auth, "app", "v1", "one")
	loose := f.pushBlob(auth, "app", []byte("loose"))
	f.pushImage(auth, "other", "v1", "other")
	garbage := f.pushBlob(auth, "other", []byte("garbage"))
	overwrite(t, f.blobFile("app", image), string(manifest[:len(manifest)/2]))
	f.age()
	freed, err := f.registry.Collect(t.Context())
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(fmt.Sprint(err), "app") {
		t.Errorf("Collect = %v, want damaged", err)
	}
	if freed != int64(len("garbage")) {
		t.Errorf("freed %d bytes, want those of the other repository", freed)
	}
	f.do(request{method: "HEAD", path: "/v2/app/blobs/" + loose, auth: auth}).want(t, 200)
	f.do(request{method: "HEAD", path: "/v2/other/blobs/" + garbage, auth: auth}).want(t, 404)
	// One that is away for a while is not forgotten.
	if err := os.Remove(f.blobFile("app", image)); err != nil {
		t.Fatal(err)
	}
	f.do(request{method: "GET", path: "/v2/app/tags/list", auth: auth}).want(t, 200)
	f.restart()
	f.restart()
	overwrite(t, f.blobFile("app", image), string(manifest))
	f.do(request{method: "GET", path: "/v2/app/manifests/v1", auth: auth}).want(t, 200)
}

func TestUploadsEnd(t *testing.T) {
	f := start(t, func(c *builtin.Config) { c.Grace = time.Nanosecond })
	auth := f.admin().basic()
	begun := f.do(request{method: "POST", path: "/v2/app/blobs/uploads/", auth: auth}).want(t, 202)
	next := f.do(request{method: "PATCH", path: begun.header.Get("Location"), auth: auth, body: []byte("half")}).want(t, 202)
	left := filepath.Join(f.config.Dir, "app", "_uploads", "upload.1")
	overwrite(t, left, "of a process that was killed")
	if err := os.Chtimes(left, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	f.collect()
	f.do(request{method: "GET", path: next.header.Get("Location"), auth: auth}).want(t, 404)
	if files, err := filepath.Glob(filepath.Join(filepath.Dir(left), "*")); err != nil || len(files) > 0 {
		t.Errorf("left are %v, %v", files, err)
	}
}

// Pushes of images that share layers, deletions and collections, all at once and
// with next to no grace. A push may fail for a layer that has gone, and is made
// again, as clients do; one that succeeded stays.
func TestCollectWhilePushing(t *testing.T) {
	f := start(t, func(c *builtin.Config) { c.Grace = time.Microsecond })
	auth := f.admin().basic()
	layers := make([][]byte, 6)
	for i := range layers {
		layers[i] = fmt.Appendf(nil, "shared layer %d", i)
	}
	const repository, pushers, rounds = "team/app", 4, 12
	push := func(random *rand.Rand, tag string) (string, error) {
		var digests []string
		for try := range 200 {
			digests = digests[:0]
			for _, i := range random.Perm(len(layers))[:3] {
				digests = append(digests, digestOf(layers[i]))
				head, err := f.send(request{method: "HEAD", path: "/v2/" + repository + "/blobs/" + digestOf(layers[i]), auth: auth})
				if err != nil {
					return "", err
				}
				if head.status == 200 {
					continue
				}
				put, err := f.send(request{method: "POST", path: "/v2/" + repository + "/blobs/uploads/?digest=" + digestOf(layers[i]), auth: auth, body: layers[i]})
				if err != nil || put.status != 201 {
					return "", fmt.Errorf("blob: %d %s %w", put.status, put.body, err)
				}
			}
			manifest := imageOf(digests[0], digests[1], fmt.Sprintf(`,"annotations":{"of":"%s %d"}`, tag, try))
			digest := digestOf(manifest)
			reference := tag
			if random.IntN(2) == 0 {
				reference = digest
			}
			put, err := f.send(request{method: "PUT", path: "/v2/" + repository + "/manifests/" + reference, auth: auth,
				header: map[string]string{"Content-Type": manifestType}, body: manifest})
			switch {
			case err != nil:
				return "", err
			case put.status == 400:
				continue // a layer has gone
			case put.status != 201:
				return "", fmt.Errorf("manifest: %d %s", put.status, put.body)
			case reference == tag:
				return digest, nil
			}
			index := indexOf(digest)
			put, err = f.send(request{method: "PUT", path: "/v2/" + repository + "/manifests/" + tag, auth: auth,
				header: map[string]string{"Content-Type": indexType}, body: index})
			if err != nil || put.status != 201 {
				return "", fmt.Errorf("index: %d %s %w", put.status, put.body, err)
			}
			return digestOf(index), nil
		}
		return "", fmt.Errorf("%s could not be pushed", tag)
	}
	done := make(chan struct{})
	var collector, pushing sync.WaitGroup
	collector.Go(func() {
		for {
			if _, err := f.registry.Collect(t.Context()); err != nil {
				t.Error(err)
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	for i := range pushers {
		pushing.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(i)))
			for round := range rounds {
				if _, err := push(random, fmt.Sprintf("keep-%d-%d", i, round)); err != nil {
					t.Error(err)
					return
				}
				digest, err := push(random, fmt.Sprintf("drop-%d-%d", i, round))
				if err == nil {
					_, err = f.send(request{method: "DELETE", path: "/v2/" + repository + "/manifests/" + digest, auth: auth})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	pushing.Wait()
	close(done)
	collector.Wait()
	f.collect()
	f.restart()
	for i := range pushers {
		for round := range rounds {
			if err := f.pull(auth, repository, fmt.Sprintf("keep-%d-%d", i, round)); err != nil {
				t.Error(err)
			}
		}
	}
}

// Whatever was pushed, tagged, attached and deleted in whatever order: what has a
// tag or was left without one pulls wholly after a collection, with what is attached
// to it, and a second collection finds nothing.
func TestCollectAnyGraph(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := start(t)
		defer f.server.Close()
		auth := f.admin().basic()
		// Each time anew: when nothing needs it, it is collected.
		body := func(layer []byte, more string) []byte {
			return imageOf(f.pushBlob(auth, "app", []byte("{}")), f.pushBlob(auth, "app", layer), more)
		}
		var manifests []string
		children, attached := map[string]bool{}, map[string]string{}
		gone := map[string]bool{}
		alive := func() []string {
			var all []string
			for _, d := range manifests {
				if !gone[d] {
					all = append(all, d)
				}
			}
			return all
		}
		put := func(body []byte, index bool) {
			digest := digestOf(body)
			reference := digest
			if rapid.Bool().Draw(rt, "tagged") {
				reference = fmt.Sprintf("t%d", rapid.IntRange(0, 4).Draw(rt, "tag"))
			}
			if index {
				f.putIndex(auth, "app", reference, body)
			} else {
				f.putManifest(auth, "app", reference, body).want(t, 201)
			}
			if !slices.Contains(manifests, digest) {
				manifests = append(manifests, digest)
			}
			delete(gone, digest)
		}
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			layer := fmt.Appendf(nil, "layer %d", rapid.IntRange(0, 3).Draw(rt, "layer"))
			all := alive()
			switch step := rapid.IntRange(0, 5).Draw(rt, "step"); {
			case step == 0 || len(all) == 0:
				put(body(layer, ""), false)
			case step == 1:
				some := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, min(3, len(all)), rapid.ID).Draw(rt, "children")
				for _, child := range some {
					children[child] = true
				}
				put(indexOf(some...), true)
			case step == 2:
				subject := rapid.SampledFrom(all).Draw(rt, "subject")
				body := body(layer, fmt.Sprintf(`,"subject":{"mediaType":%q,"digest":%q,"size":1}`, manifestType, subject))
				put(body, false)
				attached[digestOf(body)] = subject
			case step == 3:
				f.do(request{method: "DELETE", path: fmt.Sprintf("/v2/app/manifests/t%d", rapid.IntRange(0, 4).Draw(rt, "tag")), auth: auth})
			case step == 4:
				digest := rapid.SampledFrom(all).Draw(rt, "deleted")
				if children[digest] {
					continue // an index without its child pulls no more
				}
				f.do(request{method: "DELETE", path: "/v2/app/manifests/" + digest, auth: auth})
				gone[digest] = true
			default:
				f.age()
				f.collect()
				// What was attached to what is gone may be gone, and what was in it.
				for changed := true; changed; {
					changed = false
					for _, d := range alive() {
						if f.do(request{method: "HEAD", path: "/v2/app/manifests/" + d, auth: auth}).status != 200 {
							if !gone[attached[d]] && !children[d] {
								rt.Fatalf("%s is gone", d)
							}
							gone[d], changed = true, true
						}
					}
				}
			}
		}
		for range 3 {
			f.age()
			f.collect()
		}
		if freed := f.collect(); freed != 0 {
			rt.Errorf("collected %d bytes of what was collected", freed)
		}
		for _, list := range []iter.Seq2[image.Tag, error]{f.registry.Tags(t.Context(), "app"), f.registry.Untagged(t.Context(), "app")} {
			tags, err := listed(list)
			if err != nil && !errors.Is(err, image.ErrMissing) {
				rt.Fatal(err)
			}
			for _, tag := range tags {
				if err := f.pull(auth, "app", tag.Digest.String()); err != nil {
					rt.Errorf("%s: %v", tag.Name, err)
				}
				for _, one := range f.referrers(auth, "app", tag.Digest.String(), "") {
					if err := f.pull(auth, "app", one.Digest); err != nil {
						rt.Errorf("attached to %s: %v", tag.Digest, err)
					}
				}
			}
		}
	})
}
