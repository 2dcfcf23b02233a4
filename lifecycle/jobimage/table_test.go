package jobimage_test

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/lifecycle/jobimage"
)

var update = flag.Bool("update", false, "rewrite testdata/table.txt")

const table = "testdata/table.txt"

// TestTable prints what a check fetches beside what a pull would, for images whose
// bulk does not compress. KiB are rounded.
func TestTable(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	// As base images have it: programs in the first part of the archive.
	system := layer(t, folder("bin"), program("bin/bash"), program("bin/grep"), program("bin/sh"), folder("usr"), folder("usr/bin"), program("usr/bin/env"), bulk("usr/rest", 4096))
	// As most builders have it: the file system in alphabetical order.
	late := layer(t, soft("bin", "usr/bin"), folder("etc"), plain("etc/passwd"), folder("usr"), folder("usr/bin"), bulk("usr/bin/a", 1024),
		program("usr/bin/bash"), bulk("usr/bin/c", 1024), program("usr/bin/grep"), program("usr/bin/sh"), bulk("usr/lib", 2048))
	busybox := layer(t, folder("bin"), program("bin/busybox"), soft("bin/grep", "busybox"), soft("bin/sh", "/bin/busybox"), bulk("lib", 2048))
	app := func(name string, kib int) blob { return layer(t, folder("opt"), bulk("opt/"+name, kib)) }

	k.linux("one-layer", system)
	k.linux("one-layer-late", late)
	k.linux("many-layers", system, app("git", 1024), app("node", 2048), app("cache", 512), layer(t, plain("etc/motd")))
	k.linux("many-layers-tools-on-top", late, app("node", 2048), layer(t, folder("usr"), folder("usr/bin"), program("usr/bin/bash"), program("usr/bin/grep"), program("usr/bin/sh"), bulk("usr/lib", 512)))
	k.linux("missing-grep", layer(t, folder("bin"), program("bin/sh"), bulk("lib", 2048)), app("app", 1024))
	k.linux("grep-whited-out", system, layer(t, gone("bin", "grep")))
	k.linux("distroless", layer(t, folder("etc"), plain("etc/passwd"), bulk("lib", 1024)), app("app", 1024))
	k.linux("busybox-symlinks", busybox)
	k.index("multi-arch", k.image("", "linux/amd64", nil, system, app("app", 256)), k.image("", "linux/arm64", nil, late, app("app", 256)), k.image("", "linux/s390x", nil, app("app", 256)))

	cache, err := imagecache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cached := func(c *jobimage.Config) { c.Cache = cache }
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "image\tplatforms\tlayers\tverdict\tpull KiB\tfetched KiB\tshare\trequests\tagain KiB\tagain requests")
	for _, c := range []struct{ tag, platform string }{
		{"one-layer", ""}, {"one-layer-late", ""}, {"many-layers", ""}, {"many-layers-tools-on-top", ""}, {"missing-grep", ""}, {"grep-whited-out", ""},
		{"distroless", ""}, {"busybox-symlinks", ""}, {"multi-arch", ""}, {"multi-arch", "all"},
	} {
		var on []string
		if c.platform != "" {
			on = []string{c.platform}
		}
		plain := k.check(c.tag, platforms(on...))
		k.check(c.tag, platforms(on...), cached)
		again := k.check(c.tag, platforms(on...), cached)
		var size, layers, came int64
		for _, p := range plain.Platforms {
			size += p.Size
			layers += int64(len(p.Layers))
			came += p.Fetched
		}
		if came > plain.Fetched || plain.Fetched > size+4096 {
			t.Errorf("%s: %d bytes came for platforms, %d in all, of %d", c.tag, came, plain.Fetched, size)
		}
		kib := func(n int64) int64 { return (n + 512) >> 10 }
		_, _ = fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%d\t%d\t%.1f%%\t%d\t%d\t%d\n", c.tag, cmp.Or(c.platform, "default"), layers, plain.Verdict,
			kib(size), kib(plain.Fetched), 100*float64(plain.Fetched)/float64(size), plain.Requests, kib(again.Fetched), again.Requests)
	}
	_ = w.Flush()
	if *update {
		if err := os.WriteFile(table, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(table)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
	t.Logf("\n%s", out.String())
}
