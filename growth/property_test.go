package growth_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/opencontainers/go-digest"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/growth"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// someRepositories share layers, manifests and images, and have parts that belong
// to no image; of their dates some are not told, and some are not true.
func someRepositories(t *rapid.T) []repository {
	date := rapid.Custom(func(t *rapid.T) time.Time {
		switch rapid.IntRange(0, 9).Draw(t, "kind of date") {
		case 0:
			return time.Time{}
		case 1:
			return time.Unix(0, 0)
		case 2:
			return noon.Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "ahead")) * time.Hour)
		}
		return noon.Add(-time.Duration(rapid.IntRange(0, 5000).Draw(t, "ago")) * time.Hour)
	})
	layers := func() []image.Blob {
		var all []image.Blob
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 12), 0, 4).Draw(t, "layers") {
			all = append(all, blob(fmt.Sprint(n), int64(n*n)*MB))
		}
		return all
	}
	var all []repository
	for i := range rapid.IntRange(1, 4).Draw(t, "repositories") {
		r := newRepository(rapid.SampledFrom([]credential.Host{"gitea.example.com", "docker.io"}).Draw(t, "host"), fmt.Sprintf("team/r%d", i))
		for n := range rapid.IntRange(0, 8).Draw(t, "manifests") {
			// The same name has the same content, also in other repositories.
			name := fmt.Sprintf("m%d", n)
			if rapid.Bool().Draw(t, "of its own") {
				name = fmt.Sprintf("%s in %d", name, i)
				r.manifest(name, "linux/amd64", date.Draw(t, "built"), layers()...)
			} else {
				r.manifest(name, "linux/amd64", noon.Add(-time.Duration(n)*day), blob(name, int64(n)*MB), blob("1", MB))
			}
		}
		digests := slices.Sorted(r.Manifests.Digests())
		if len(digests) == 0 {
			all = append(all, r)
			continue
		}
		pick := func() *image.Manifest { return r.Manifests.Get(rapid.SampledFrom(digests).Draw(t, "manifest")) }
		for n := range rapid.IntRange(0, 3).Draw(t, "indexes") {
			index := r.index(fmt.Sprintf("index %d in %d", n, i), pick(), pick())
			digests = append(digests, index.Digest)
		}
		for range rapid.IntRange(0, 2).Draw(t, "referrers") {
			if m, of := pick(), pick(); !m.IsIndex() {
				m.Subject = of.Digest
				r.Manifests.Put(m)
			}
		}
		for n := range rapid.IntRange(0, 8).Draw(t, "tags") {
			r.tag(fmt.Sprintf("t%d", n), pick(), date.Draw(t, "pushed"))
		}
		if rapid.Bool().Draw(t, "signed") {
			r.sign(pick())
		}
		if rapid.Bool().Draw(t, "untagged") {
			m := pick()
			r.Untagged[m.Digest] = image.Tag{Digest: m.Digest, Pushed: date.Draw(t, "pushed untagged")}
		}
		all = append(all, r)
	}
	return all
}

// took counts what repositories take in the plainest way.
func took(all []repository) int64 {
	seen := map[string]int64{}
	for _, r := range all {
		for _, m := range r.Manifests.All() {
			seen[fmt.Sprint(r.Repository.Host, m.Digest)] = m.Size
			for _, b := range m.Blobs() {
				seen[fmt.Sprint(r.Repository.Host, b.Digest)] = b.Size
			}
		}
	}
	var sum int64
	for _, size := range seen {
		sum += size
	}
	return sum
}

func add(t *rapid.T, all []repository) *growth.Usage {
	u := growth.NewUsage()
	for _, r := range all {
		if err := u.Add(r.Inventory); err != nil {
			t.Fatal(err)
		}
	}
	return u
}

func TestUsageProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := someRepositories(t)
		u := add(t, all)
		report := u.Report()
		if want := took(all); report.Total.Bytes != want {
			t.Fatalf("total is %d, want %d", report.Total.Bytes, want)
		}
		for _, row := range report.Repositories {
			i := slices.IndexFunc(all, func(r repository) bool { return r.Repository == row.Repository })
			others := slices.Delete(slices.Clone(all), i, i+1)
			if own := took(all) - took(others); row.Own != own || row.Own+row.Shared != row.Bytes || row.Shared < 0 {
				t.Fatalf("%s has %+v; %d go with it", row.Repository, row.Sizes, own)
			}
			if want := all[i].Size(all[i].Manifests.Digests()); row.Bytes != want {
				t.Fatalf("%s has %d bytes, want %d", row.Repository, row.Bytes, want)
			}
		}
		for _, r := range all {
			graph := r.Graph()
			alone := add(t, []repository{r})
			for n, i := range u.Images(r.Repository) {
				closure := graph.Closure(i.Digest)
				if want := r.Size(closure.All()); i.Bytes != want || i.Own+i.Shared != i.Bytes || i.Own < 0 || i.Shared < 0 {
					t.Fatalf("%v has %+v, want %d", i.Tags, i.Sizes, want)
				}
				if own := goesWith(r, graph, i.Digest); alone.Images(r.Repository)[n].Own != own {
					t.Fatalf("%v alone has %+v; %d go with it", i.Tags, alone.Images(r.Repository)[n].Sizes, own)
				}
				detail, ok := u.Detail(r.Inventory, i.Digest)
				sum := detail.Manifests
				for _, l := range detail.Layers {
					sum += l.Bytes
					if l.Images < 1 || len(l.With) > l.Images-1 || len(l.Of) == 0 {
						t.Fatalf("layer %+v", l)
					}
				}
				if !ok || sum != i.Bytes {
					t.Fatalf("%v has layers and manifests of %d bytes, and %d", i.Tags, sum, i.Bytes)
				}
			}
		}
	})
}

// goesWith is what of a repository no other image, and nothing that is of no
// image, needs.
func goesWith(r repository, graph *image.Graph, d digest.Digest) int64 {
	var others []digest.Digest
	images := map[digest.Digest]bool{}
	for _, i := range r.Images() {
		images[i.Digest] = true
		if i.Digest != d {
			others = append(others, i.Digest)
		}
	}
	reached := graph.Closure(slices.Collect(maps.Keys(images))...)
	for m := range r.Manifests.Digests() {
		if !reached.Has(m) {
			others = append(others, m)
		}
	}
	rest := graph.Closure(others...)
	with := graph.Closure(append(others, d)...)
	return r.Size(with.All()) - r.Size(rest.All())
}

func TestHistoryProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := someRepositories(t)
		question := growth.Question{
			Days:     rapid.IntRange(0, 400).Draw(t, "days"),
			Capacity: rapid.Int64Range(0, 2*GB).Draw(t, "capacity"),
			Others:   rapid.Int64Range(0, GB).Draw(t, "others"),
		}
		u := add(t, all)
		h := u.History(noon)
		other := add(t, rapid.Permutation(all).Draw(t, "order"))
		if diff := cmp.Diff(u.Report(), other.Report()); diff != "" {
			t.Fatalf("the report changes with the order:\n%s", diff)
		}
		if diff := cmp.Diff(h, other.History(noon), cmpopts.IgnoreUnexported(growth.History{})); diff != "" {
			t.Fatalf("the history changes with the order:\n%s", diff)
		}
		f := h.Forecast(question)
		if diff := cmp.Diff(f, other.History(noon).Forecast(question)); diff != "" {
			t.Fatalf("the forecast changes with the order:\n%s", diff)
		}
		var last growth.Point
		for _, p := range h.Points {
			if !p.Day.After(last.Day) || p.Bytes < last.Bytes || p.Day.After(noon) {
				t.Fatalf("%v comes after %v", p, last)
			}
			last = p
		}
		if h.Undated < 0 || last.Bytes+h.Undated != h.Bytes || h.Bytes != u.Report().Total.Bytes {
			t.Fatalf("history %+v", h)
		}
		if h.Images+h.UndatedImages != u.Report().Total.Images {
			t.Fatalf("%d images with and %d without a date of %d", h.Images, h.UndatedImages, u.Report().Total.Images)
		}
		p := f.PerYear
		if p.Low < 0 || p.Middle < p.Low || p.High < p.Middle || f.Grown < 0 || f.Images > h.Images {
			t.Fatalf("forecast %+v", f)
		}
		if f.TooLittle != "" && (p != growth.Range{} || f.Full != growth.Full{}) {
			t.Fatalf("forecast of too little: %+v", f)
		}
		never := noon.AddDate(1000, 0, 0)
		at := []time.Time{noon}
		for _, when := range []time.Time{f.Full.Early, f.Full.At, f.Full.Late} {
			if when.IsZero() {
				when = never
			}
			at = append(at, when)
		}
		if f.Full != (growth.Full{}) && !slices.IsSortedFunc(at, time.Time.Compare) {
			t.Fatalf("full %+v", f.Full)
		}

		rules := decide(plan.Policy{Rules: []plan.Rule{{Last: rapid.IntRange(1, 4).Draw(t, "last")}}}, plan.Facts{})
		r := u.Rehearse(noon, question.Days)
		for _, v := range all {
			before := maps.Collect(v.Manifests.All())
			if err := r.Add(v.Inventory, rules); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(before, maps.Collect(v.Manifests.All())); diff != "" {
				t.Fatalf("the inventory was changed:\n%s", diff)
			}
		}
		o := r.Outcome(question)
		if o.Keeps+o.Frees != h.Bytes || o.Keeps < 0 || o.Frees < 0 || o.Least > o.Most {
			t.Fatalf("outcome %+v of %d bytes", o, h.Bytes)
		}
		_, _ = f.String(), o.String()
	})
}
