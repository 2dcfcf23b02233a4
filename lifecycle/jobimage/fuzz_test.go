package jobimage_test

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/lifecycle/jobimage"
	"github.com/regkeeper/regkeeper/problem"
)

// FuzzLayer has any bytes be a layer: what comes of it is a result, or an error of
// the layer; and read once more, the same.
func FuzzLayer(f *testing.F) {
	for _, entries := range [][]entry{
		{folder("bin"), program("bin/sh"), soft("bin/grep", "sh"), hard("bin/bash", "bin/sh"), gone("bin", "x"), opaque("usr")},
		{script("usr/bin/grep", "/bin/sh"), soft("bin", "usr/bin"), program("bin/sh"), plain("../../x"), soft("a/b", "/../.."), program("a/b/c")},
	} {
		f.Add(layer(f, entries...).raw, false)
		f.Add(zstandard(f, entries...).raw, false)
		f.Add(bare(f, entries...).raw, true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, windows bool) {
		registry, ref := inMemory(t, [][]entry{{program("bin/sh"), program("usr/bin/grep")}})
		m, err := image.ParseManifest(ref.Digest, ocispec.MediaTypeImageManifest, registry.manifest)
		if err != nil {
			t.Fatal(err)
		}
		d := digest.FromBytes(raw)
		registry.manifest = bytes.ReplaceAll(registry.manifest, fmt.Appendf(nil, `%q,"size":%d`, m.Layers[0].Digest, m.Layers[0].Size), fmt.Appendf(nil, `%q,"size":%d`, d, len(raw)))
		if !bytes.Contains(registry.manifest, []byte(d)) {
			t.Fatalf("the layer is not in %s", registry.manifest)
		}
		registry.blobs[d] = raw
		if windows {
			config := bytes.Replace(registry.blobs[m.Config.Digest], []byte("linux"), []byte("windows"), 1)
			registry.blobs[m.Config.Digest] = config
		}
		check := func() (jobimage.Report, error) {
			return jobimage.New(jobimage.Config{Reader: registry, MaxUnpacked: 1 << 20, MaxEntries: 1000}).ReadOn(0).Check(t.Context(), ref)
		}
		report, err := check()
		if err != nil {
			if kind := problem.KindOf(err); kind != problem.Damaged && kind != problem.Refused {
				t.Fatalf("%s: %v", kind, err)
			}
			return
		}
		again, err := check()
		if err != nil || again.Verdict != report.Verdict || again.Fetched != report.Fetched {
			t.Fatalf("once more: %v, %v; it was %v", again, err, report)
		}
	})
}
