package image_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/image"
)

// someDigest draws digests of all kinds, few enough to come again, and texts that
// are none.
var someDigest = rapid.Custom(func(t *rapid.T) digest.Digest {
	text := fmt.Sprint(rapid.IntRange(0, 20).Draw(t, "content"))
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		return digest.SHA512.FromString(text)
	case 1: // the sum of another digest's text
		return digest.FromString(digest.SHA512.FromString(text).String())
	case 2:
		d := digest.FromString(text)
		return digest.Digest("sha256:" + strings.ToUpper(d.Encoded()))
	case 3:
		return digest.Digest(rapid.SampledFrom([]string{"", "sha256:", "sha256:12", "x", "sha256:" + strings.Repeat("g", 64)}).Draw(t, "none"))
	}
	return digest.FromString(text)
})

// TestDigests holds the set against a map.
func TestDigests(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		set, want := image.NewDigests(), map[digest.Digest]uint32{}
		var order []digest.Digest
		for _, d := range rapid.SliceOfN(someDigest, 0, 60).Draw(t, "digests") {
			n, added := set.Add(d)
			had, ok := want[d]
			if added == ok || ok && n != had || !ok && int(n) != len(order) {
				t.Fatalf("%s is number %d, added %v", d, n, added)
			}
			if !ok {
				want[d] = n
				order = append(order, d)
			}
		}
		for _, d := range rapid.SliceOfN(someDigest, 0, 20).Draw(t, "asked") {
			if n, ok := set.Find(d); ok != set.Has(d) || ok && set.At(n) != d || n != want[d] && ok {
				t.Fatalf("%s is number %d, %v", d, n, ok)
			} else if _, is := want[d]; is != ok {
				t.Fatalf("%s is there: %v", d, ok)
			}
		}
		if set.Len() != len(order) {
			t.Fatalf("%d digests, want %d", set.Len(), len(order))
		}
		numbers := slices.Sorted(maps.Values(want))
		slices.SortFunc(numbers, set.Compare)
		slices.Sort(order)
		for i, n := range numbers {
			if set.At(n) != order[i] {
				t.Fatalf("place %d has %s, want %s", i, set.At(n), order[i])
			}
		}
	})
}

// TestDigestsGrow has more than lie together.
func TestDigestsGrow(t *testing.T) {
	t.Parallel()
	set := image.NewDigests()
	for i := range 5000 {
		if n, added := set.Add(digest.FromString(fmt.Sprint(i))); !added || int(n) != i {
			t.Fatalf("%d is number %d, added %v", i, n, added)
		}
	}
	for i := range 5000 {
		d := digest.FromString(fmt.Sprint(i))
		if n, ok := set.Find(d); !ok || int(n) != i || set.At(n) != d {
			t.Fatalf("%d is number %d, %v: %s", i, n, ok, set.At(n))
		}
	}
}

var someManifest = rapid.Custom(func(t *rapid.T) *image.Manifest {
	mediaType := rapid.SampledFrom([]string{"", "application/vnd.oci.image.manifest.v1+json", "x"})
	size := rapid.SampledFrom([]int64{0, 1, 7, 1 << 40})
	blob := rapid.Custom(func(t *rapid.T) image.Blob {
		b := image.Blob{Digest: someDigest.Draw(t, "blob"), Size: size.Draw(t, "size"), MediaType: mediaType.Draw(t, "type")}
		if rapid.IntRange(0, 9).Draw(t, "foreign") == 0 {
			b.URLs = []string{rapid.SampledFrom([]string{"https://a.example.com", "https://b.example.com"}).Draw(t, "url")}
		}
		return b
	})
	m := &image.Manifest{
		Digest: someDigest.Draw(t, "digest"), MediaType: mediaType.Draw(t, "type"), ArtifactType: mediaType.Draw(t, "artifact"), Size: size.Draw(t, "size"),
		Platform: rapid.SampledFrom([]string{"", "linux/amd64"}).Draw(t, "platform"), Deleting: rapid.Bool().Draw(t, "deleting"),
		Created: rapid.SampledFrom([]time.Time{
			{}, time.Unix(0, 0).UTC(), time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		}).Draw(t, "created"),
	}
	if rapid.Bool().Draw(t, "refers") {
		m.Subject = someDigest.Draw(t, "subject")
	}
	for range rapid.IntRange(0, 3).Draw(t, "children") {
		child := image.Child{Digest: someDigest.Draw(t, "child"), Size: size.Draw(t, "size"), MediaType: mediaType.Draw(t, "type")}
		if rapid.Bool().Draw(t, "attests") {
			child.Attests = someDigest.Draw(t, "attested")
		} else {
			child.Platform = "linux/arm64/v8"
		}
		m.Children = append(m.Children, child)
	}
	if rapid.Bool().Draw(t, "has a config") {
		config := blob.Draw(t, "config")
		m.Config = &config
	}
	if n := rapid.IntRange(0, 12).Draw(t, "layers"); n > 0 {
		m.Layers = rapid.SliceOfN(blob, n, n).Draw(t, "layers")
	}
	return m
})

// TestManifests holds packed manifests against a map of them.
func TestManifests(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		packed, want := image.NewManifests(), map[digest.Digest]*image.Manifest{}
		for _, m := range rapid.SliceOfN(someManifest, 0, 20).Draw(t, "manifests") {
			packed.Put(m)
			want[m.Digest] = m
		}
		if diff := cmp.Diff(want, maps.Collect(packed.All())); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
		if packed.Len() != len(want) || len(slices.Collect(packed.Digests())) != len(want) {
			t.Fatalf("%d manifests, want %d", packed.Len(), len(want))
		}
		for _, d := range append(slices.Collect(maps.Keys(want)), rapid.SliceOfN(someDigest, 0, 9).Draw(t, "asked")...) {
			m := want[d]
			if diff := cmp.Diff(m, packed.Get(d)); diff != "" || packed.Has(d) != (m != nil) {
				t.Fatalf("%s, there: %v (-want +got):\n%s", d, packed.Has(d), diff)
			}
			if m != nil && packed.Subject(d) != m.Subject || m == nil && packed.Subject(d) != "" {
				t.Fatalf("the subject of %s is %s", d, packed.Subject(d))
			}
		}
	})
}

// TestManifestsAreCopies changes what was put in and what came out.
func TestManifestsAreCopies(t *testing.T) {
	t.Parallel()
	packed := image.NewManifests()
	d := digest.FromString("image")
	m := &image.Manifest{Digest: d, Layers: []image.Blob{{Digest: digest.FromString("layer"), Size: 3, URLs: []string{"https://example.com"}}}}
	want := *m
	want.Layers = []image.Blob{{Digest: digest.FromString("layer"), Size: 3, URLs: []string{"https://example.com"}}}
	packed.Put(m)
	m.Layers[0].URLs[0], m.Layers[0].Size = "changed", 4
	got := packed.Get(d)
	got.Layers[0].URLs[0], got.Platform = "changed", "changed"
	if diff := cmp.Diff(&want, packed.Get(d)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestSizeOfWhatIsClaimed has manifests say many sizes of one blob.
func TestSizeOfWhatIsClaimed(t *testing.T) {
	t.Parallel()
	packed := image.NewManifests()
	m := &image.Manifest{Digest: digest.FromString("liar"), Size: 1}
	for i := range int64(3000) {
		m.Layers = append(m.Layers, image.Blob{Digest: digest.FromString("one"), Size: i + 10})
	}
	packed.Put(m)
	if diff := cmp.Diff(m, packed.Get(m.Digest)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := packed.Size(packed.Digests()); got != 11 {
		t.Errorf("%d bytes, want 11", got)
	}
}
