package lifecycle_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/problem"
)

func (k *kit) place(path, tag string) lifecycle.Place {
	return lifecycle.Place{Registry: k.Registry, Repository: repository(path), Tag: tag}
}

func ref(path, tag string) image.Reference {
	return image.Reference{Repository: repository(path), Tag: tag}
}

func TestCopyBringsEverything(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]fakeregistry.Config{"referrers": {}, "no referrers API": {NoReferrers: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to, second := newKit(t, fakeregistry.Config{}), newKit(t, config), newKit(t, config)
			root := from.index("app", "v1", "one", epoch)
			signature := from.sign("app", root)
			sbom := from.artifact("app", "", "sbom", &root)
			seal := from.artifact("app", "", "signature of the sbom", &sbom)
			copied, err := lifecycle.NewCopier(lifecycle.Copying{}).Copy(t.Context(), from.Registry, ref("app", "v1"),
				to.place("backup/app", "v1"), second.place("app", "v1"))
			if err != nil {
				t.Fatal(err)
			}
			for i, k := range []*kit{to, second} {
				path := []string{"backup/app", "app"}[i]
				if copied[i].Digest != root.Digest {
					t.Errorf("the copy is %s, want %s", copied[i].Digest, root.Digest)
				}
				for _, target := range []string{"v1", image.ReferrersTag(root.Digest) + ".sig", sbom.Digest.String(), seal.Digest.String()} {
					k.whole(path, target)
				}
				if found, err := k.Resolve(t.Context(), path, image.ReferrersTag(root.Digest)+".sig"); err != nil || found.Digest != signature.Digest {
					t.Errorf("the signature is %v %v", found, err)
				}
			}
		})
	}
}

// An image to which nothing belongs is written once, by its tag, and what one copy
// brought the next does not ask for. What something belongs to must be there first,
// without the tag.
func TestCopyCosts(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{NoReferrers: true}), newKit(t, fakeregistry.Config{NoReferrers: true})
	from.platform("app", "plain", "amd64", "plain", epoch)
	from.platform("app", "next", "amd64", "next", epoch)
	from.sign("app", from.platform("app", "signed", "amd64", "signed", epoch))
	c := lifecycle.NewCopier(lifecycle.Copying{})
	for _, test := range []struct {
		tag             string
		manifests, head int
	}{{"plain", 1, 3}, {"next", 1, 2}, {"signed", 4, 4}} {
		to.fake.Requests()
		if _, err := c.Copy(t.Context(), from.Registry, ref("app", test.tag), to.place("app", test.tag)); err != nil {
			t.Fatal(err)
		}
		to.whole("app", test.tag)
		if got := to.fake.Count("PUT /v2/app/manifests/"); got != test.manifests {
			t.Errorf("%s: %d manifests were written, want %d", test.tag, got, test.manifests)
		}
		if got := to.fake.Count("HEAD /v2/app/blobs/"); got != test.head {
			t.Errorf("%s: %d blobs were asked for, want %d", test.tag, got, test.head)
		}
	}
}

// The tag comes last: a copy that is cut off anywhere is no image yet, and goes on
// where it was.
func TestCopyCutOffAnywhere(t *testing.T) {
	t.Parallel()
	from := newKit(t, fakeregistry.Config{})
	root := from.index("app", "v1", "one", epoch)
	from.sign("app", root)
	sent := 0
	for at := int64(1); ; at++ {
		var writes atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		to := newKit(t, fakeregistry.Config{Before: func(w http.ResponseWriter, r *http.Request) bool {
			if (r.Method == http.MethodPut || r.Method == http.MethodPatch) && writes.Add(1) == at {
				cancel()
				w.WriteHeader(http.StatusBadGateway)
				return true
			}
			return false
		}})
		_, err := lifecycle.NewCopier(lifecycle.Copying{}).Copy(ctx, from.Registry, ref("app", "v1"), to.place("app", "v1"))
		cancel()
		if writes.Load() < at {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d writes, cut off at each", at-1)
			break
		}
		if _, found := to.Resolve(t.Context(), "app", "v1"); err == nil && found != nil || err != nil && found == nil {
			t.Fatalf("cut off at write %d: the copy says %v, the tag %v", at, err, found)
		}
		copied, err := lifecycle.NewCopier(lifecycle.Copying{}).Copy(t.Context(), from.Registry, ref("app", "v1"), to.place("app", "v1"))
		if err != nil {
			t.Fatal(err)
		}
		sent += copied[0].Blobs
		to.whole("app", "v1")
		to.whole("app", image.ReferrersTag(root.Digest)+".sig")
	}
	if sent == 0 {
		t.Error("no copy had to go on")
	}
}

func TestCopyAgainSendsNothing(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{}), newKit(t, fakeregistry.Config{})
	from.sign("app", from.index("app", "v1", "one", epoch))
	for range 2 {
		to.fake.Requests()
		copied, err := lifecycle.NewCopier(lifecycle.Copying{}).Copy(t.Context(), from.Registry, ref("app", "v1"), to.place("app", "v1"))
		if err != nil {
			t.Fatal(err)
		}
		if copied[0].Present > 0 && copied[0].Blobs == 0 && (to.fake.Count("PUT") > 0 || to.fake.Count("POST") > 0) {
			t.Errorf("what was there was written: %v", to.fake.Requests())
		}
	}
	if got := to.fake.Count("POST"); got > 0 {
		t.Errorf("the second copy began %d uploads", got)
	}
}

// Within a registry blobs are mounted, and what one repository got is not sent for
// the next.
func TestCopyMounts(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{}), newKit(t, fakeregistry.Config{})
	from.index("app", "v1", "one", epoch)
	copier := lifecycle.NewCopier(lifecycle.Copying{})
	inside, err := copier.Copy(t.Context(), from.Registry, ref("app", "v1"), from.place("other", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	if inside[0].Blobs != 0 || inside[0].Mounted == 0 {
		t.Errorf("within a registry: %+v", inside[0])
	}
	for i, path := range []string{"first", "second"} {
		copied, err := copier.Copy(t.Context(), from.Registry, ref("app", "v1"), lifecycle.Place{Registry: to.Registry, Repository: image.Repository{Host: "other.example.com", Path: path}, Tag: "v1"})
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 && (copied[0].Blobs != 0 || copied[0].Mounted == 0) {
			t.Errorf("to the second repository: %+v", copied[0])
		}
	}
}

func TestCopyOfSomePlatforms(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{}), newKit(t, fakeregistry.Config{})
	root := from.index("app", "v1", "one", epoch)
	copied, err := lifecycle.NewCopier(lifecycle.Copying{Platforms: []string{"linux/arm64"}}).Copy(t.Context(), from.Registry, ref("app", "v1"), to.place("app", "v1"))
	if err != nil {
		t.Fatal(err)
	}
	if copied[0].Digest == root.Digest {
		t.Error("an index with less in it has the digest of the whole")
	}
	to.whole("app", "v1")
	v := to.inventory("app")
	if children := v.Manifests.Get(v.Tags["v1"].Digest).Children; len(children) != 1 || children[0].Platform != "linux/arm64" {
		t.Errorf("the copy has %+v", children)
	}
	_, err = lifecycle.NewCopier(lifecycle.Copying{Platforms: []string{"plan9/mips"}}).Copy(t.Context(), from.Registry, ref("app", "v1"), to.place("app", "v2"))
	if problem.KindOf(err) != problem.NotFound {
		t.Errorf("a platform that is not there: %v", err)
	}
}

func TestCopyMovesNoFixedTag(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{}), newKit(t, fakeregistry.Config{})
	from.index("app", "v1", "one", epoch)
	there := to.index("app", "v1", "another", epoch)
	fixed := lifecycle.Copying{Fixed: func(tag string) bool { return strings.HasPrefix(tag, "v") }}
	_, err := lifecycle.NewCopier(fixed).Copy(t.Context(), from.Registry, ref("app", "v1"), to.place("app", "v1"))
	if !errors.Is(err, image.ErrMoved) {
		t.Errorf("the error is %v", err)
	}
	if found, err := to.Resolve(t.Context(), "app", "v1"); err != nil || found.Digest != there.Digest {
		t.Errorf("the tag is %v %v", found, err)
	}
}

// A place that fails keeps no other from its copy.
func TestCopyToADeadPlace(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{}), newKit(t, fakeregistry.Config{})
	dead := newKit(t, fakeregistry.Config{Before: func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}})
	from.index("app", "v1", "one", epoch)
	if _, err := lifecycle.NewCopier(lifecycle.Copying{}).Copy(t.Context(), from.Registry, ref("app", "v1"), dead.place("app", "v1"), to.place("app", "v1")); err == nil {
		t.Error("no error for the dead place")
	}
	to.whole("app", "v1")
}

// What is not whole at its source is not copied.
func TestCopyOfADamagedImage(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{}), newKit(t, fakeregistry.Config{})
	root := from.index("app", "v1", "one", epoch)
	_, raw, err := from.Manifest(t.Context(), "app", root.Digest)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.ParseManifest(root.Digest, ocispec.MediaTypeImageIndex, raw)
	if err != nil {
		t.Fatal(err)
	}
	layer := digest.FromString("oneamd64")
	from.fake.Corrupt(layer)
	if _, err := lifecycle.NewCopier(lifecycle.Copying{}).Copy(t.Context(), from.Registry, ref("app", "v1"), to.place("app", "v1")); err == nil {
		t.Error("a layer that is not what its digest says was copied")
	}
	to.gone("app", "v1")
	if err := from.DeleteManifest(t.Context(), "app", m.Children[1].Digest); err != nil {
		t.Fatal(err)
	}
	if _, err := lifecycle.NewCopier(lifecycle.Copying{}).Copy(t.Context(), from.Registry, ref("app", "v1"), to.place("app", "v1")); problem.KindOf(err) != problem.Damaged {
		t.Errorf("an index without a child: %v", err)
	}
}

// Lists of referrers of both sides are joined.
func TestCopyJoinsReferrersLists(t *testing.T) {
	t.Parallel()
	from, to := newKit(t, fakeregistry.Config{NoReferrers: true}), newKit(t, fakeregistry.Config{NoReferrers: true})
	list := func(k *kit, content string) (root, artifact ocispec.Descriptor) {
		root = k.index("app", "v1", "one", epoch)
		artifact = k.artifact("app", "", content, &root)
		k.put("app", image.ReferrersTag(root.Digest), ocispec.MediaTypeImageIndex, ocispec.Index{
			MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{artifact},
		})
		return root, artifact
	}
	_, theirs := list(from, "theirs")
	root, ours := list(to, "ours")
	if _, err := lifecycle.NewCopier(lifecycle.Copying{}).Copy(t.Context(), from.Registry, ref("app", "v1"), to.place("app", "v1")); err != nil {
		t.Fatal(err)
	}
	v := to.inventory("app")
	has := map[digest.Digest]bool{}
	for _, child := range v.Manifests.Get(v.Tags[image.ReferrersTag(root.Digest)].Digest).Children {
		has[child.Digest] = true
	}
	if !has[ours.Digest] || !has[theirs.Digest] || len(has) != 2 {
		t.Errorf("the list has %v, want %s and %s", has, ours.Digest, theirs.Digest)
	}
}
