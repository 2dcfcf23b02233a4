package growth_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/growth"
	"github.com/regkeeper/regkeeper/image"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

const day = 24 * time.Hour

var noon = time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	kB = int64(1000)
	MB = 1000 * kB
	GB = 1000 * MB
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

func blob(name string, size int64) image.Blob {
	return image.Blob{Digest: digest.FromString("blob " + name), Size: size, MediaType: ocispec.MediaTypeImageLayerGzip}
}

// repository is an inventory in the making.
type repository struct{ *image.Inventory }

func newRepository(host credential.Host, path string) repository {
	return repository{image.NewInventory(image.Repository{Host: host, Path: path})}
}

// manifest puts an image of one platform; its config is of 1 kB, itself of 500
// bytes.
func (r repository) manifest(name, platform string, built time.Time, layers ...image.Blob) *image.Manifest {
	config := image.Blob{Digest: digest.FromString("config of " + name), Size: kB, MediaType: ocispec.MediaTypeImageConfig}
	m := &image.Manifest{
		Digest: digest.FromString(name), MediaType: ocispec.MediaTypeImageManifest, Size: 500, Config: &config,
		Layers: layers, Created: built, Platform: platform,
	}
	r.Manifests.Put(m)
	return m
}

// index puts an image of several platforms, of 800 bytes.
func (r repository) index(name string, of ...*image.Manifest) *image.Manifest {
	m := &image.Manifest{Digest: digest.FromString(name), MediaType: ocispec.MediaTypeImageIndex, Size: 800}
	for _, c := range of {
		child := image.Child{Digest: c.Digest, Size: c.Size, MediaType: c.MediaType, Platform: c.Platform}
		if c.Platform == "" {
			child.Attests = of[0].Digest
		}
		m.Children = append(m.Children, child)
	}
	r.Manifests.Put(m)
	return m
}

func (r repository) tag(name string, m *image.Manifest, pushed time.Time) {
	r.Tags[name] = image.Tag{Name: name, Digest: m.Digest, Pushed: pushed}
}

// push puts what a multi-platform build makes: two platforms with a base each that
// all share, and an attestation. Of its size, in bytes, most is in two layers.
func (r repository) push(tag string, pushed time.Time, size int64) *image.Manifest {
	name := r.Repository.String() + ":" + tag
	index := r.index(name,
		r.manifest(name+" amd64", "linux/amd64", pushed, blob("base amd64", 30*MB), blob(name+" app amd64", size/2)),
		r.manifest(name+" arm64", "linux/arm64", pushed, blob("base arm64", 28*MB), blob(name+" app arm64", size-size/2)),
		r.manifest(name+" attestation", "", time.Time{}, blob(name+" provenance", 9*kB)))
	r.tag(tag, index, pushed)
	return index
}

// sign puts a signature under cosign's tag.
func (r repository) sign(m *image.Manifest) {
	name := "signature of " + m.Digest.String()
	r.tag(image.ReferrersTag(m.Digest)+".sig", r.manifest(name, "", time.Time{}, blob(name, 250)), time.Time{})
}

func count(t testing.TB, inventories ...repository) *growth.Usage {
	t.Helper()
	u := growth.NewUsage()
	for _, v := range inventories {
		if err := u.Add(v.Inventory); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

// steady is a repository to which so many bytes came each day.
func steady(path string, days int, perDay int64) repository {
	r := newRepository("gitea.example.com", path)
	for i := range days {
		r.push(fmt.Sprintf("t%d", i), noon.Add(-time.Duration(days-1-i)*day), perDay)
	}
	return r
}

func TestReport(t *testing.T) {
	t.Parallel()
	api, worker := newRepository("gitea.example.com", "team/api"), newRepository("gitea.example.com", "team/worker")
	one := api.push("one", noon, 10*MB)
	api.tag("latest", one, noon)
	api.sign(one)
	api.push("two", noon, 20*MB)
	// Of an earlier push, without a tag.
	api.manifest("left over", "linux/amd64", noon, blob("base amd64", 30*MB), blob("left over", 4*MB))
	worker.push("one", noon, 5*MB)
	worker.Unread = []image.Unread{{What: "tag two", Why: "timeout"}}
	far := newRepository("docker.io", "team/api")
	far.push("one", noon, MB)
	m := far.manifest("windows", "windows/amd64", noon, image.Blob{Digest: digest.FromString("windows"), Size: 5 * GB, URLs: []string{"https://mcr.example.com"}})
	far.tag("windows", m, noon)

	const base, rest = 58 * MB, 800 + 3*500 + 3*kB + 9*kB // shared layers; manifests, configs and provenance of one push
	signature, left := 500+kB+250, 4*MB+500+kB
	sizes := func(own, shared int64) growth.Sizes {
		return growth.Sizes{Bytes: own + shared, Own: own, Shared: shared}
	}
	want := growth.Report{Repositories: []growth.Repository{
		{
			Repository: api.Repository, Counts: growth.Counts{Images: 2, Tags: 3, Attached: 1, Manifests: 10},
			Sizes: sizes(30*MB+2*rest+signature+left, base),
		},
		{
			Repository: worker.Repository, Counts: growth.Counts{Images: 1, Tags: 1, Manifests: 4, Unread: 1},
			Sizes: sizes(5*MB+rest, base),
		},
		{
			Repository: far.Repository, Counts: growth.Counts{Images: 2, Tags: 2, Manifests: 5},
			Sizes: sizes(MB+rest+base+500+kB, 0),
		},
	}}
	want.Total.Counts = growth.Counts{Images: 5, Tags: 6, Attached: 1, Manifests: 19, Unread: 1}
	want.Total.Bytes = 2*base + 36*MB + 4*rest + signature + left + 500 + kB
	u := count(t, api, worker, far)
	if diff := cmp.Diff(want.Total, u.Report().Total); diff != "" {
		t.Errorf("total (-want +got):\n%s", diff)
	}
	slices.SortFunc(want.Repositories, func(a, b growth.Repository) int { return int(b.Bytes - a.Bytes) })
	if diff := cmp.Diff(want, u.Report()); diff != "" {
		t.Errorf("report (-want +got):\n%s", diff)
	}

	images := u.Images(api.Repository)
	wantImages := []growth.Image{
		{Repository: api.Repository, Digest: api.Tags["two"].Digest, Tags: []string{"two"}, Date: noon, Sizes: sizes(20*MB+rest, base)},
		{Repository: api.Repository, Digest: one.Digest, Tags: []string{"latest", "one"}, Date: noon, Sizes: sizes(10*MB+rest+signature, base)},
	}
	if diff := cmp.Diff(wantImages, images); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}

	if err := u.Add(api.Inventory); err == nil {
		t.Error("a repository was counted twice")
	}
}

func TestDetail(t *testing.T) {
	t.Parallel()
	api, worker := newRepository("gitea.example.com", "team/api"), newRepository("gitea.example.com", "team/worker")
	one := api.push("one", noon, 10*MB)
	api.sign(one)
	for i := range 5 {
		worker.push(fmt.Sprintf("t%d", i), noon, MB)
	}
	u := count(t, api, worker)
	detail, ok := u.Detail(api.Inventory, one.Digest)
	if !ok {
		t.Fatal("the image is not known")
	}
	var b strings.Builder
	sum := detail.Manifests
	fmt.Fprintf(&b, "%v %d = %d own + %d shared, manifests %d\n", detail.Tags, detail.Bytes, detail.Own, detail.Shared, detail.Manifests)
	for _, l := range detail.Layers {
		sum += l.Bytes
		fmt.Fprintf(&b, "%s %d config=%v of %s, in %d, with %s\n", image.Short(l.Digest), l.Bytes, l.Config, strings.Join(l.Of, " "), l.Images, strings.Join(l.With, " "))
	}
	golden(t, "detail.txt", b.String())
	if sum != detail.Bytes {
		t.Errorf("layers and manifests are %d bytes, the image %d", sum, detail.Bytes)
	}
	if _, ok := u.Detail(api.Inventory, digest.FromString("nothing")); ok {
		t.Error("an image that is none is known")
	}
	if _, ok := growth.NewUsage().Detail(api.Inventory, one.Digest); ok {
		t.Error("an image of a repository that was not added is known")
	}
}

// Sizes that a manifest makes up may be anything, and digests of any algorithm.
func TestHostileSizes(t *testing.T) {
	t.Parallel()
	r := newRepository("gitea.example.com", "team/api")
	large := blob("large", 1<<62)
	m := r.manifest("one", "linux/amd64", noon, large, blob("larger", 1<<62), blob("more", 1<<62),
		image.Blob{Digest: digest.SHA512.FromString("minus"), Size: -5}, image.Blob{Digest: "sha256:short", Size: 7})
	r.tag("one", m, noon)
	u := count(t, r)
	i := u.Images(r.Repository)[0]
	if i.Bytes < 1<<62 || i.Own < 0 || i.Shared != 0 {
		t.Errorf("the image has %+v", i.Sizes)
	}
	if f := u.History(noon).Forecast(growth.Question{Capacity: GB}); f.Full.At.After(noon) || f.Bytes < 0 {
		t.Errorf("forecast %+v", f)
	}
	d, _ := u.Detail(r.Inventory, m.Digest)
	if got := d.Layers[4].Digest; got != digest.SHA512.FromString("minus") {
		t.Errorf("layer is %s", got)
	}
}

func BenchmarkUsage(b *testing.B) {
	r := newRepository("gitea.example.com", "team/api")
	for i := range 10_000 {
		r.push(fmt.Sprintf("t%d", i), noon.Add(-time.Duration(i)*time.Hour), MB)
	}
	b.ReportAllocs()
	for b.Loop() {
		u := count(b, r)
		u.Report()
		u.Images(r.Repository)
		_ = u.History(noon).Forecast(growth.Question{Capacity: 80 * GB}).String()
	}
}
