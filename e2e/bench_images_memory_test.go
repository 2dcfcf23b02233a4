package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/testkit/fakeregistry"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/registry/oci"
)

// buildxImages writes images as buildx does: an index of two platforms, each with
// an attestation. Four layers are in all images, two are each platform's own.
func buildxImages(b *testing.B, to image.Writer, path string, n int) {
	b.Helper()
	ctx := b.Context()
	blob := func(mediaType, content string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
		if _, err := to.WriteBlob(ctx, path, image.Blob{Digest: d.Digest, Size: d.Size}, "", func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(strings.NewReader(content)), nil
		}); err != nil {
			b.Fatal(err)
		}
		return d
	}
	put := func(tag, mediaType string, doc any) ocispec.Descriptor {
		raw, err := json.Marshal(doc)
		if err != nil {
			b.Fatal(err)
		}
		d, err := to.WriteManifest(ctx, path, tag, mediaType, raw)
		if err != nil {
			b.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
	}
	encoded := func(doc any) string {
		raw, err := json.Marshal(doc)
		if err != nil {
			b.Fatal(err)
		}
		return string(raw)
	}
	manifest := func(config ocispec.Descriptor, layers ...ocispec.Descriptor) ocispec.Descriptor {
		return put("", ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers,
		})
	}
	var base []ocispec.Descriptor
	for i := range 4 {
		base = append(base, blob(ocispec.MediaTypeImageLayerGzip, fmt.Sprint("base ", i)))
	}
	newest := time.Now().Truncate(time.Second).Add(-48 * time.Hour)
	for i := range n {
		created := newest.Add(time.Duration(i-n) * time.Hour)
		var images, attestations []ocispec.Descriptor
		for _, architecture := range []string{"amd64", "arm64"} {
			mark := fmt.Sprint(architecture, " ", i)
			m := manifest(
				blob(ocispec.MediaTypeImageConfig, encoded(ocispec.Image{Created: &created, Author: mark, Platform: ocispec.Platform{OS: "linux", Architecture: architecture}})),
				append(base[:4:4], blob(ocispec.MediaTypeImageLayerGzip, mark), blob(ocispec.MediaTypeImageLayerGzip, "more of "+mark))...)
			m.Platform = &ocispec.Platform{OS: "linux", Architecture: architecture}
			a := manifest(blob(ocispec.MediaTypeImageConfig, encoded(ocispec.Image{Author: "attests " + mark})), blob("application/vnd.in-toto+json", "provenance of "+mark))
			a.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
			a.Annotations = map[string]string{"vnd.docker.reference.digest": m.Digest.String(), "vnd.docker.reference.type": "attestation-manifest"}
			images, attestations = append(images, m), append(attestations, a)
		}
		put(fmt.Sprintf("build-%05d", i), ocispec.MediaTypeImageIndex, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: append(images, attestations...),
		})
	}
}

// heap is what is in use, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkInventoryMemory measures what planning and listing hold in memory of
// repositories of so many multi-platform images, five manifests each: what is held
// of each tag, in this process, and the most that regkeeper holds resident.
func BenchmarkInventoryMemory(b *testing.B) {
	for _, n := range []int{1000, 4000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			fake := fakeregistry.New(fakeregistry.Config{NoReferrers: true})
			buildxImages(b, oci.New(oci.Config{Host: "127.0.0.1", Transport: fake}), "app", n)
			server := httptest.NewServer(fake)
			defer server.Close()
			host := strings.TrimPrefix(server.URL, "http://")

			fake.Requests()
			registry := clientOf(host, "", "")
			before := heap()
			began := time.Now()
			inventory, err := lifecycle.Read(b.Context(), registry, image.Repository{Host: credential.Host(host), Path: "app"}, lifecycle.Reading{Dates: true})
			if err != nil || inventory.Manifests.Len() != 5*n {
				b.Fatalf("%d manifests: %v", inventory.Manifests.Len(), err)
			}
			read := time.Since(began)
			fake.Requests()
			held := heap()
			began = time.Now()
			made := plan.Decide(plan.Policy{Rules: []plan.Rule{{Last: keptByPlan}}}, inventory, plan.Facts{Now: time.Now()})
			decided := time.Since(began)
			if made.Gone() != n-keptByPlan {
				b.Fatalf("%d images go", made.Gone())
			}
			planned := heap()
			text, err := json.Marshal(made)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(held-before)/float64(n), "B-inventory/tag")
			b.ReportMetric(float64(planned-held)/float64(n), "B-plan/tag")
			b.ReportMetric(float64(len(text))/float64(n), "B-json/tag")
			b.ReportMetric(read.Seconds()*1000, "ms-read")
			b.ReportMetric(decided.Seconds()*1000, "ms-decide")
			runtime.KeepAlive(inventory)
			runtime.KeepAlive(made)
			inventory, made = nil, nil

			p := newProduct(b, "")
			for _, run := range []struct {
				name string
				code int
				args []string
			}{
				{"prune-cold", 2, []string{"prune", "--keep-last=30"}},
				{"prune-warm", 2, []string{"prune", "--keep-last=30"}},
				{"prune-json", 2, []string{"prune", "--keep-last=30", "-o=json"}},
				{"ls", 0, []string{"ls"}},
				{"ls-json", 0, []string{"ls", "-o=json"}},
				{"ls-names", 0, []string{"ls", "--names"}},
			} {
				got := p.meter(append([]string{"image", run.args[0], host + "/app"}, run.args[1:]...)...)
				if got.code != run.code || !bytes.Contains([]byte(got.out), []byte("build-00000")) {
					b.Fatalf("%s: exit code %d: %s", run.name, got.code, got.err)
				}
				fake.Requests()
				b.ReportMetric(got.peak, "MiB-"+run.name)
				b.ReportMetric(got.took.Seconds(), "s-"+run.name)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
