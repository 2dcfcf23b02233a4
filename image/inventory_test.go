package image_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
)

// named is an inventory in which everything is called by a name, and the digests
// are those of the names.
type named struct {
	*image.Inventory
	names map[digest.Digest]string
	// made are put in when the inventory is asked for: a test changes them first.
	made []*image.Manifest
}

func newNamed() *named {
	return &named{image.NewInventory(image.Repository{Host: "gitea.example.com", Path: "a"}), map[digest.Digest]string{}, nil}
}

func (n *named) whole() *image.Inventory {
	for _, m := range n.made {
		n.Manifests.Put(m)
	}
	return n.Inventory
}

func (n *named) d(name string) digest.Digest {
	d := digest.FromString(name)
	n.names[d] = name
	return d
}

// add adds a manifest of 10 bytes.
func (n *named) add(name, subject string, children ...string) *image.Manifest {
	m := &image.Manifest{Digest: n.d(name), MediaType: ocispec.MediaTypeImageManifest, Size: 10}
	if subject != "" {
		m.Subject = n.d(subject)
	}
	for _, c := range children {
		m.MediaType = ocispec.MediaTypeImageIndex
		m.Children = append(m.Children, image.Child{Digest: n.d(c)})
	}
	n.made = append(n.made, m)
	return m
}

func (n *named) tag(tag, of string) { n.Tags[tag] = image.Tag{Name: tag, Digest: n.d(of)} }

func (n *named) called(digests []digest.Digest) []string {
	list := []string{}
	for _, d := range digests {
		list = append(list, n.names[d])
	}
	slices.Sort(list)
	return list
}

func (n *named) closure(roots ...string) []string {
	var from []digest.Digest
	for _, r := range roots {
		from = append(from, n.d(r))
	}
	return n.called(slices.Collect(n.whole().Graph().Closure(from...).All()))
}

func TestClosure(t *testing.T) {
	t.Parallel()
	n := newNamed()
	n.add("outer", "", "index", "other")
	n.add("index", "", "amd", "arm", "missing")
	n.add("other", "", "amd")
	n.add("amd", "")
	n.add("arm", "")
	n.add("sbom", "amd")
	n.add("scan", "sbom")
	n.add("signature", "")
	n.add("listed", "")
	n.add("alone", "")
	n.add("of missing", "missing")
	n.tag(image.ReferrersTag(n.d("scan"))+".sig", "signature")
	n.Referrers[n.d("index")] = []digest.Digest{n.d("listed")}
	for root, want := range map[string][]string{
		"outer": {"amd", "arm", "index", "listed", "missing", "of missing", "other", "outer", "sbom", "scan", "signature"},
		"other": {"amd", "other", "sbom", "scan", "signature"},
		"arm":   {"arm"},
		"alone": {"alone"},
		"sbom":  {"sbom", "scan", "signature"}, // not what it belongs to
	} {
		if diff := cmp.Diff(want, n.closure(root)); diff != "" {
			t.Errorf("of %s (-want +got):\n%s", root, diff)
		}
	}
	if diff := cmp.Diff([]string{"alone", "arm"}, n.closure("arm", "alone", "arm")); diff != "" {
		t.Errorf("of several (-want +got):\n%s", diff)
	}
}

// TestClosureOfRings has tags that make manifests belong to each other, and to
// themselves.
func TestClosureOfRings(t *testing.T) {
	t.Parallel()
	n := newNamed()
	for _, name := range []string{"a", "b", "c", "self"} {
		n.add(name, "")
	}
	n.tag(image.ReferrersTag(n.d("a"))+".sig", "b")
	n.tag(image.ReferrersTag(n.d("b"))+".sig", "c")
	n.tag(image.ReferrersTag(n.d("c"))+".att", "a")
	n.tag(image.ReferrersTag(n.d("self")), "self")
	for root, want := range map[string][]string{"a": {"a", "b", "c"}, "b": {"a", "b", "c"}, "self": {"self"}} {
		if diff := cmp.Diff(want, n.closure(root)); diff != "" {
			t.Errorf("of %s (-want +got):\n%s", root, diff)
		}
	}
}

func TestGraph(t *testing.T) {
	t.Parallel()
	n := newNamed()
	n.add("index", "", "amd", "amd", "arm")
	n.add("second", "", "amd")
	n.add("amd", "")
	n.add("arm", "")
	n.add("sbom", "index")
	n.add("listed", "")
	n.add("signature", "")
	long := digest.SHA512.FromString("long")
	n.names[long] = "long"
	n.made = append(n.made, &image.Manifest{Digest: long})
	n.add("list of long", "")
	n.Referrers[n.d("index")] = []digest.Digest{n.d("sbom"), n.d("listed")}
	n.tag("v1", "index")
	n.tag("latest", "index")
	n.tag("v1-amd64", "amd")
	n.tag(image.ReferrersTag(n.d("index"))+".sig", "signature")
	n.tag(image.ReferrersTag(long), "list of long")
	g := n.whole().Graph()

	if diff := cmp.Diff([]string{"latest", "v1"}, g.Tags(n.d("index"))); diff != "" {
		t.Errorf("tags (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"index", "second"}, n.called(g.Parents(n.d("amd")))); diff != "" {
		t.Errorf("parents (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"listed", "sbom", "signature"}, n.called(g.Attached(n.d("index")))); diff != "" {
		t.Errorf("attached (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"list of long"}, n.called(g.Attached(long))); diff != "" {
		t.Errorf("attached to what has a long digest (-want +got):\n%s", diff)
	}
	for of, want := range map[string]string{"sbom": "index", "listed": "index", "signature": "index", "list of long": "long", "amd": "", "index": ""} {
		subject, ok := g.Subject(n.d(of))
		if got := n.names[subject]; got != want || ok != (want != "") {
			t.Errorf("%s belongs to %q (%v), want %q", of, got, ok, want)
		}
	}
	var images []string
	for _, i := range n.whole().Images() {
		images = append(images, n.names[i.Digest])
	}
	slices.Sort(images)
	if diff := cmp.Diff([]string{"amd", "index"}, images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	n := newNamed()
	layer := func(name string, size int64, urls ...string) image.Blob {
		return image.Blob{Digest: digest.FromString(name), Size: size, URLs: urls}
	}
	config := layer("config", 7)
	amd, arm := n.add("amd", ""), n.add("arm", "")
	amd.Config, amd.Layers = &config, []image.Blob{layer("base", 100), layer("a", 1), layer("base", 100)}
	arm.Config, arm.Layers = &config, []image.Blob{layer("base", 100), layer("b", 2), layer("foreign", 1000, "https://example.com/x")}
	n.add("index", "", "amd", "arm")
	for _, c := range []struct {
		of   []string
		want int64
	}{
		{nil, 0},
		{[]string{"amd"}, 10 + 7 + 100 + 1},
		{[]string{"amd", "amd"}, 10 + 7 + 100 + 1},
		{[]string{"amd", "arm"}, 10 + 10 + 7 + 100 + 1 + 2},
		{[]string{"index", "amd", "arm", "missing"}, 30 + 7 + 100 + 1 + 2},
	} {
		var list []digest.Digest
		for _, name := range c.of {
			list = append(list, n.d(name))
		}
		if got := n.whole().Size(slices.Values(list)); got != c.want {
			t.Errorf("%v take %d bytes, want %d", c.of, got, c.want)
		}
	}
}

func TestBuiltOfIndex(t *testing.T) {
	t.Parallel()
	n := newNamed()
	day := func(i int) time.Time { return time.Date(2031, 1, i, 0, 0, 0, 0, time.UTC) }
	n.add("amd", "").Created = day(1)
	n.add("arm", "").Created = day(5)
	n.add("epoch", "").Created = time.Unix(0, 0)
	n.add("provenance", "", "arm").Created = day(20)
	n.add("index", "", "amd", "provenance", "arm").Children[1].Attests = n.d("amd")
	n.add("wraps", "", "amd", "index", "missing")
	n.add("says", "", "arm").Created = day(3)
	n.add("made up", "", "epoch").Created = time.Unix(0, 0)
	// What an attestation names is a platform's image as well.
	n.add("list", "", "amd")
	n.add("attested by a list", "", "list", "amd").Children[0].Attests = n.d("amd")
	n.add("ring", "", "ring", "amd")
	for name, want := range map[string]time.Time{
		"amd": day(1), "index": day(5), "wraps": day(5), "says": day(3), "epoch": {}, "made up": {}, "missing": {}, "attested by a list": day(1), "ring": day(1),
	} {
		if got := n.whole().Built(n.d(name)); !got.Equal(want) {
			t.Errorf("%s was built %v, want %v", name, got, want)
		}
	}
}
