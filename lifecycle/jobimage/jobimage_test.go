package jobimage_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/lifecycle/jobimage"
	"github.com/regkeeper/regkeeper/problem"
)

// told is a result in a few words: each need, and where it was found.
func told(r jobimage.Result) []string {
	lines := []string{string(r.Verdict)}
	for _, n := range r.Needs {
		line := n.Name + ": " + string(n.State)
		if n.Found != nil {
			line = fmt.Sprintf("%s: %s", n.Name, n.Path)
			for _, l := range n.Links {
				line += fmt.Sprintf(" [%s -> %s, %d]", l.Path, l.Target, l.Layer)
			}
			line += fmt.Sprintf(" = %s, %d", n.File, n.Layer)
		}
		if n.Why != "" {
			line += ": " + n.Why
		}
		lines = append(lines, line)
	}
	return append(lines, r.Notes...)
}

func TestWhatIsFound(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		needs []string
		env   []string
		// layers from the base on
		layers [][]entry
		want   []string
	}{
		{
			name:   "one layer",
			layers: [][]entry{{folder("bin"), program("bin/bash"), program("bin/sh"), program("bin/grep")}},
			want:   []string{"fits", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/bash = /bin/bash, 1", "grep: /bin/grep = /bin/grep, 1"},
		},
		{
			name:   "bash alone",
			layers: [][]entry{{program("bin/bash"), program("bin/grep")}},
			want: []string{
				"unfit", "sh: missing", "shell: /bin/bash = /bin/bash, 1", "grep: /bin/grep = /bin/grep, 1",
				"there is /bin/bash and no sh in PATH: GitLab Runner begins with `sh -c`, and fails before it comes to that",
			},
		},
		{
			name:   "sh in PATH, and no shell where the runner looks for one",
			env:    []string{"PATH=/opt/tools:/bin"},
			layers: [][]entry{{program("opt/tools/sh"), program("opt/tools/bash"), program("bin/grep")}},
			want: []string{
				"unfit", "sh: /opt/tools/sh = /opt/tools/sh, 1", "shell: missing", "grep: /bin/grep = /bin/grep, 1",
				"there is /opt/tools/sh, and no shell where GitLab Runner looks for one: /usr/local/bin/bash, /usr/bin/bash, /bin/bash, /usr/local/bin/sh, /usr/bin/sh, /bin/sh, /busybox/sh",
			},
		},
		{
			name:   "busybox in its own folder",
			env:    []string{"PATH=/usr/bin:/busybox"},
			layers: [][]entry{{program("busybox/sh"), program("busybox/grep")}},
			want:   []string{"fits", "sh: /busybox/sh = /busybox/sh, 1", "shell: /busybox/sh = /busybox/sh, 1", "grep: /busybox/grep = /busybox/grep, 1"},
		},
		{
			name:   "bash where the runner looks for it, sh elsewhere",
			env:    []string{"PATH=/opt/tools"},
			layers: [][]entry{{program("opt/tools/sh"), program("usr/local/bin/bash"), program("opt/tools/grep")}},
			want:   []string{"fits", "sh: /opt/tools/sh = /opt/tools/sh, 1", "shell: /usr/local/bin/bash = /usr/local/bin/bash, 1", "grep: /opt/tools/grep = /opt/tools/grep, 1"},
		},
		{
			name: "no layer at all",
			want: []string{"unfit", "sh: missing", "shell: missing", "grep: missing"},
		},
		{
			name:   "distroless",
			layers: [][]entry{{folder("etc"), plain("etc/passwd")}, {program("app")}},
			want:   []string{"unfit", "sh: missing", "shell: missing", "grep: missing"},
		},
		{
			name:   "many layers, each with its part",
			needs:  []string{"git"},
			layers: [][]entry{{program("bin/sh")}, {program("usr/bin/git")}, {program("usr/local/bin/grep")}, {plain("etc/motd")}},
			want:   []string{"fits", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: /usr/local/bin/grep = /usr/local/bin/grep, 3", "git: /usr/bin/git = /usr/bin/git, 2"},
		},
		{
			name:   "busybox by symlinks",
			layers: [][]entry{{program("bin/busybox"), soft("bin/sh", "/bin/busybox"), soft("bin/grep", "busybox")}},
			want: []string{
				"fits", "sh: /bin/sh [/bin/sh -> /bin/busybox, 1] = /bin/busybox, 1", "shell: /bin/sh [/bin/sh -> /bin/busybox, 1] = /bin/busybox, 1", "grep: /bin/grep [/bin/grep -> busybox, 1] = /bin/busybox, 1",
			},
		},
		{
			name:   "busybox by hard links, one to a link",
			layers: [][]entry{{program("bin/busybox"), hard("bin/sh", "bin/busybox"), soft("bin/egrep", "busybox"), hard("bin/grep", "./bin/egrep")}},
			want:   []string{"fits", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: /bin/grep [/bin/grep -> busybox, 1] = /bin/busybox, 1"},
		},
		{
			name:   "merged usr, over layers",
			layers: [][]entry{{soft("bin", "usr/bin"), program("usr/bin/dash")}, {soft("usr/bin/sh", "dash"), program("usr/bin/grep")}},
			env:    []string{"PATH=/bin"},
			want: []string{
				"fits", "sh: /bin/sh [/bin -> usr/bin, 1] [/usr/bin/sh -> dash, 2] = /usr/bin/dash, 1", "shell: /usr/bin/sh [/usr/bin/sh -> dash, 2] = /usr/bin/dash, 1",
				"grep: /bin/grep [/bin -> usr/bin, 1] = /usr/bin/grep, 2",
			},
		},
		{
			// The layer has a directory where the base has a link: that is gone
			// with all it led to.
			name:   "a directory over the link of merged usr",
			layers: [][]entry{{soft("bin", "usr/bin"), program("usr/bin/sh"), program("usr/bin/grep")}, {program("bin/tool")}},
			env:    []string{"PATH=/bin"},
			want: []string{
				"unfit", "sh: missing", "shell: /usr/bin/sh = /usr/bin/sh, 1", "grep: missing",
				"there is /usr/bin/sh and no sh in PATH: GitLab Runner begins with `sh -c`, and fails before it comes to that",
			},
		},
		{
			name:   "written through the layer's own link",
			layers: [][]entry{{soft("bin", "usr/bin"), program("bin/sh"), program("bin/grep")}},
			env:    []string{"PATH=/usr/bin"},
			want:   []string{"fits", "sh: /usr/bin/sh = /usr/bin/sh, 1", "shell: /usr/bin/sh = /usr/bin/sh, 1", "grep: /usr/bin/grep = /usr/bin/grep, 1"},
		},
		{
			name:   "a hard link to the layers below",
			layers: [][]entry{{program("bin/busybox"), program("bin/grep")}, {hard("bin/sh", "bin/busybox")}},
			want:   []string{"fits", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: /bin/grep = /bin/grep, 1"},
		},
		{
			name:   "a hard link through a link of the layers below",
			env:    []string{"PATH=/usr/bin"},
			layers: [][]entry{{soft("bin", "usr/bin"), program("usr/bin/busybox")}, {hard("usr/bin/sh", "bin/busybox"), hard("usr/bin/grep", "usr/bin/../../bin/busybox")}},
			want:   []string{"fits", "sh: /usr/bin/sh = /usr/bin/sh, 1", "shell: /usr/bin/sh = /usr/bin/sh, 1", "grep: /usr/bin/grep = /usr/bin/grep, 1"},
		},
		{
			name:   "a hard link through a link of its own layer to the layers below",
			env:    []string{"PATH=/usr/bin"},
			layers: [][]entry{{program("usr/bin/busybox")}, {soft("bin", "usr/bin"), hard("usr/bin/sh", "bin/busybox"), hard("usr/bin/grep", "bin/busybox")}},
			want:   []string{"fits", "sh: /usr/bin/sh = /usr/bin/sh, 1", "shell: /usr/bin/sh = /usr/bin/sh, 1", "grep: /usr/bin/grep = /usr/bin/grep, 1"},
		},
		{
			name:   "a hard link to a link of the layers below",
			layers: [][]entry{{soft("bin", "usr/bin"), program("usr/bin/busybox"), soft("usr/bin/ash", "busybox")}, {hard("usr/bin/sh", "bin/ash"), hard("usr/bin/grep", "bin/none")}},
			want: []string{
				"unfit", "sh: /usr/bin/sh [/usr/bin/sh -> busybox, 1] = /usr/bin/busybox, 1", "shell: /usr/bin/sh [/usr/bin/sh -> busybox, 1] = /usr/bin/busybox, 1",
				"grep: missing: /bin leads to nothing: there is no /usr/bin/grep",
			},
		},
		{
			name:   "a hard link that a link of the layers below leads back to its own layer",
			env:    []string{"PATH=/usr/bin"},
			layers: [][]entry{{soft("bin", "usr/bin"), program("usr/bin/grep")}, {program("usr/bin/busybox"), hard("usr/bin/sh", "bin/busybox")}},
			want: []string{
				"unknown", "sh: unknown: layer 2 has a hard link to /bin/busybox, and changes /usr/bin/busybox, where that leads to",
				"shell: unknown: layer 2 has a hard link to /bin/busybox, and changes /usr/bin/busybox, where that leads to", "grep: /usr/bin/grep = /usr/bin/grep, 1",
			},
		},
		{
			name: "hard links through hard links, which grow with each layer",
			layers: [][]entry{
				{soft("d", "."), program("bin/real"), program("bin/grep")}, {hard("e", "d")},
				{hard("f", strings.Repeat("e/", 39)+"d")}, {hard("bin/sh", strings.Repeat("f/", 11)+"bin/real")},
			},
			want: []string{
				"unknown", "sh: unknown: layer 2 has hard links to hard links, and so on, more than 400",
				"shell: unknown: layer 2 has hard links to hard links, and so on, more than 400", "grep: /bin/grep = /bin/grep, 1",
			},
		},
		{
			name:   "links in a circle, by a hard link",
			layers: [][]entry{{soft("bin/sh", "/bin/sh"), program("bin/grep")}, {hard("bin/sh", "bin/sh")}},
			want: []string{
				"unfit", "sh: missing: /bin/sh leads through more than 40 links, or in a circle", "shell: missing: /bin/sh leads through more than 40 links, or in a circle",
				"grep: /bin/grep = /bin/grep, 1",
			},
		},
		{
			name:   "whiteouts",
			layers: [][]entry{{program("bin/sh"), program("bin/grep")}, {gone("bin", "grep")}},
			want:   []string{"unfit", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: missing"},
		},
		{
			name:   "a whiteout and the same file in its layer, in both orders",
			layers: [][]entry{{plain("bin/sh"), plain("bin/grep")}, {gone("bin", "grep"), program("bin/grep"), program("bin/sh"), gone("bin", "sh")}},
			want:   []string{"fits", "sh: /bin/sh = /bin/sh, 2", "shell: /bin/sh = /bin/sh, 2", "grep: /bin/grep = /bin/grep, 2"},
		},
		{
			name:   "a directory that is gone",
			layers: [][]entry{{program("bin/sh"), program("bin/grep")}, {gone("", "bin")}, {program("bin/grep")}},
			want:   []string{"unfit", "sh: missing", "shell: missing", "grep: /bin/grep = /bin/grep, 3"},
		},
		{
			name:   "a directory that is gone and made anew in one layer",
			layers: [][]entry{{program("bin/sh"), program("bin/grep")}, {gone("", "bin"), folder("bin"), program("bin/sh")}},
			want:   []string{"unfit", "sh: /bin/sh = /bin/sh, 2", "shell: /bin/sh = /bin/sh, 2", "grep: missing"},
		},
		{
			name:   "a hard link to a directory, which there is none of",
			layers: [][]entry{{program("usr/sh"), program("bin/sh")}, {hard("d", "usr"), soft("bin/grep", "/d/../usr/sh")}},
			want:   []string{"unfit", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: missing: /bin/grep leads to nothing: there is no /d"},
		},
		{
			name:   "an opaque directory, told last",
			layers: [][]entry{{program("bin/sh"), program("bin/grep")}, {program("bin/grep"), opaque("bin")}},
			want:   []string{"unfit", "sh: missing", "shell: missing", "grep: /bin/grep = /bin/grep, 2"},
		},
		{
			name:   "all is gone",
			layers: [][]entry{{program("bin/sh"), program("bin/grep")}, {opaque("."), program("usr/bin/grep")}},
			want:   []string{"unfit", "sh: missing", "shell: missing", "grep: /usr/bin/grep = /usr/bin/grep, 2"},
		},
		{
			name:   "links in a circle, to nothing, and out of the image",
			needs:  []string{"a", "b", "c"},
			layers: [][]entry{{soft("bin/a", "b"), soft("bin/b", "/bin/a"), soft("bin/c", "../../../../bin/sh"), program("bin/sh"), soft("bin/grep", "/opt/grep")}},
			want: []string{
				"unfit", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: missing: /bin/grep leads to nothing: there is no /opt",
				"a: missing: /bin/a leads through more than 40 links, or in a circle", "b: missing: /bin/b leads through more than 40 links, or in a circle",
				"c: /bin/c [/bin/c -> ../../../../bin/sh, 1] = /bin/sh, 1",
			},
		},
		{
			name:   "what is there and does not run",
			needs:  []string{"make", "git", "tool", "/opt/x", "/opt/y"},
			layers: [][]entry{{program("bin/sh"), plain("bin/grep"), folder("bin/make"), script("bin/git", "/opt/git"), script("bin/tool", " /bin/sh -e"), {name: "opt/x", kind: tar.TypeFifo, mode: 0o777}, program("opt/y/z")}},
			want: []string{
				"unfit", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: missing: /bin/grep is not executable", "make: missing: /bin/make is a directory",
				"git: missing: /bin/git is a script for /opt/git, which is not there", "tool: /bin/tool = /bin/tool, 1",
				"/opt/x: missing: /opt/x is no file that can be run", "/opt/y: missing: /opt/y is a directory",
			},
		},
		{
			name:   "a file becomes a directory, and a directory a file",
			layers: [][]entry{{program("bin/sh"), program("bin/grep/grep")}, {program("bin/sh/sh"), program("bin/grep")}},
			want:   []string{"unfit", "sh: missing: /bin/sh is a directory", "shell: missing: /bin/sh is a directory", "grep: /bin/grep = /bin/grep, 2"},
		},
		{
			name:   "what does not run comes before what does",
			layers: [][]entry{{plain("usr/local/bin/grep"), program("bin/grep"), program("bin/sh")}},
			want:   []string{"fits", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: /bin/grep = /bin/grep, 1"},
		},
		{
			name:   "a PATH of its own",
			env:    []string{"PATH=/nowhere", "LANG=C", "PATH=tools::/busybox/"},
			layers: [][]entry{{program("busybox/sh"), program("bin/grep")}},
			want: []string{
				"unfit", "sh: /busybox/sh = /busybox/sh, 1", "shell: /busybox/sh = /busybox/sh, 1", "grep: missing",
				`PATH has "tools" in it, which depends on where a command is run: nothing is looked for there`,
				`PATH has "" in it, which depends on where a command is run: nothing is looked for there`,
			},
		},
		{
			name:   "an empty PATH",
			env:    []string{"PATH="},
			needs:  []string{"/bin/sh"},
			layers: [][]entry{{program("bin/sh"), program("bin/grep")}},
			want: []string{
				"unfit", "sh: missing", "shell: /bin/sh = /bin/sh, 1", "grep: missing", "/bin/sh: /bin/sh = /bin/sh, 1", "PATH is empty: no program is found by its name",
				"there is /bin/sh and no sh in PATH: GitLab Runner begins with `sh -c`, and fails before it comes to that",
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, pack := range []func(testing.TB, ...entry) blob{layer, zstandard, bare} {
				k := newKit(t)
				var layers []blob
				for _, entries := range c.layers {
					layers = append(layers, pack(t, entries...))
				}
				k.image("it", "linux/amd64", c.env, layers...)
				report := k.check("it", needs(c.needs...))
				if diff := cmp.Diff(c.want, told(report.Platforms[0])); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
				if report.Verdict != report.Platforms[0].Verdict {
					t.Errorf("the image's verdict is %s", report.Verdict)
				}
			}
		})
	}
}

// base is a layer that has what a job needs in it before what is large.
func base(t testing.TB) blob {
	return layer(t, folder("bin"), program("bin/sh"), program("bin/grep"), folder("usr"), bulk("usr/base", 1024))
}

func TestReadsAsLittleAsDecides(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	k.linux("it", base(t), layer(t, folder("opt"), bulk("opt/app", 512)), layer(t, folder("bin"), program("bin/grep")))
	report := k.check("it")
	got := report.Platforms[0]
	if diff := cmp.Diff([]string{"fits", "sh: /bin/sh = /bin/sh, 1", "shell: /bin/sh = /bin/sh, 1", "grep: /bin/grep = /bin/grep, 3"}, told(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var readings []jobimage.Reading
	for _, l := range got.Layers {
		readings = append(readings, l.Reading)
	}
	if diff := cmp.Diff([]jobimage.Reading{jobimage.Part, jobimage.Whole, jobimage.Whole}, readings); diff != "" {
		t.Errorf("readings (-want +got):\n%s", diff)
	}
	if most := int64(48 << 10); got.Layers[0].Fetched > most || got.Layers[0].Fetched == 0 {
		t.Errorf("of the base came %d bytes, want at most %d", got.Layers[0].Fetched, most)
	}
	if got.Layers[1].Fetched != got.Layers[1].Size {
		t.Errorf("of layer 2 came %d of %d bytes", got.Layers[1].Fetched, got.Layers[1].Size)
	}
	// HEAD of the tag, manifest, config, three layers.
	if report.Requests != 6 || got.Requests != 5 || k.fake.Count("GET /v2/"+path+"/blobs/") != 4 {
		t.Errorf("requests: %d and %d, %v", report.Requests, got.Requests, k.fake.Requests())
	}
	if report.Fetched != got.Fetched || got.Fetched >= got.Size/2 {
		t.Errorf("fetched %d and %d of %d", report.Fetched, got.Fetched, got.Size)
	}

	// A little more is read to the end: then all of the layer is known.
	k.linux("little", layer(t, folder("bin"), program("bin/sh"), program("bin/grep"), bulk("lib", 200)))
	if got := k.check("little").Platforms[0].Layers[0]; got.Reading != jobimage.Whole || got.Fetched != got.Size {
		t.Errorf("a small layer: %+v", got)
	}

	// What decides it is in the newest layer: no other is asked for.
	k.linux("top", base(t), layer(t, program("bin/grep"), program("bin/sh")))
	k.fake.Requests()
	got = k.check("top").Platforms[0]
	if got.Verdict != jobimage.Fits || got.Layers[0].Reading != jobimage.Unread || k.fake.Count("GET /v2/"+path+"/blobs/") != 2 {
		t.Errorf("%v, %v", told(got), k.fake.Requests())
	}

	// An opaque root hides all that is below: that is not asked for.
	k.linux("opaque", base(t), layer(t, opaque("."), program("bin/grep")))
	got = k.check("opaque").Platforms[0]
	if got.Verdict != jobimage.Unfit || got.Layers[0].Reading != jobimage.Unread {
		t.Errorf("%v, layer 1 is %s", told(got), got.Layers[0].Reading)
	}
}

func TestWhole(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	// Against the specification, the layer has a second entry for bin/grep.
	broken := layer(t, folder("bin"), program("bin/sh"), program("bin/grep"), bulk("large", 1024), plain("bin/grep"))
	k.linux("it", broken)
	if got := k.check("it").Platforms[0]; got.Verdict != jobimage.Fits || got.Layers[0].Reading != jobimage.Part {
		t.Errorf("read in part: %v, %s", told(got), got.Layers[0].Reading)
	}
	got := k.check("it", func(c *jobimage.Config) { c.Whole = true }).Platforms[0]
	if got.Verdict != jobimage.Unfit || got.Layers[0].Reading != jobimage.Whole {
		t.Errorf("read whole: %v, %s", told(got), got.Layers[0].Reading)
	}
	// What has no entry of its own for bin/ may still turn out to be something
	// else: nothing of it is believed before the end.
	k.linux("implicit", layer(t, program("bin/sh"), program("bin/grep"), folder("usr"), bulk("large", 1024), soft("bin", "nowhere")))
	got = k.check("implicit").Platforms[0]
	if got.Verdict != jobimage.Unfit || got.Layers[0].Reading != jobimage.Whole {
		t.Errorf("without bin/: %v, %s", told(got), got.Layers[0].Reading)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	shared := base(t)
	k.linux("one", shared, layer(t, plain("etc/one")))
	k.linux("two", shared, layer(t, plain("etc/two")))
	whole := layer(t, plain("etc/x"), bulk("large", 700))
	k.linux("three", whole)
	folder := t.TempDir()
	cached := func(c *jobimage.Config) {
		cache, err := imagecache.Open(folder)
		if err != nil {
			t.Fatal(err)
		}
		c.Cache = cache
	}
	first := k.check("one", cached)
	k.fake.Requests()
	second := k.check("one", cached)
	if got := k.fake.Requests(); len(got) != 1 || second.Fetched != 0 || second.Requests != 1 { // HEAD of the tag
		t.Errorf("again: %d bytes in %d requests: %v", second.Fetched, second.Requests, got)
	}
	if diff := cmp.Diff(told(first.Platforms[0]), told(second.Platforms[0])); diff != "" {
		t.Errorf("again (-first +second):\n%s", diff)
	}
	// The base is shared, though it was read in part.
	other := k.check("two", cached)
	if l := other.Platforms[0].Layers[0]; l.Reading != jobimage.Remembered || l.Fetched != 0 || other.Verdict != jobimage.Fits {
		t.Errorf("the base for another image: %+v, %v", l, told(other.Platforms[0]))
	}
	// A part is no whole: what is not in it is looked for in the layer.
	asks := k.check("one", cached, needs("git"))
	if l := asks.Platforms[0].Layers[0]; l.Reading != jobimage.Whole || l.Fetched != l.Size || asks.Verdict != jobimage.Unfit {
		t.Errorf("for more than the part has: %+v, %v", l, told(asks.Platforms[0]))
	}
	// And then all of it is known.
	asks = k.check("one", cached, needs("curl"))
	if asks.Fetched != 0 || asks.Verdict != jobimage.Unfit {
		t.Errorf("once all is known: %d bytes, %v", asks.Fetched, told(asks.Platforms[0]))
	}
	k.check("three", cached)
	if again := k.check("three", cached); again.Fetched != 0 {
		t.Errorf("of a layer read whole %d bytes came again", again.Fetched)
	}
}

// TestPartStaysInItsRepository holds a part, for which no digest vouches, to the
// repository that it came from.
func TestPartStaysInItsRepository(t *testing.T) {
	t.Parallel()
	honest, liar := newKit(t), newKit(t)
	good, bad := layer(t, bulk("large", 600), folder("bin"), plain("bin/sh")), layer(t, folder("bin"), program("bin/sh"), program("bin/grep"), bulk("large", 600))
	honest.linux("it", good)
	liar.linux("it", good)
	cache, err := imagecache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	lies := lying{Reader: liar.Registry, of: good.raw, send: bad.raw}
	check := func(reader image.Reader, at string) jobimage.Report {
		t.Helper()
		ref := reference("it")
		ref.Path = path
		if at != "" {
			ref.Host = "other.example.com"
		}
		report, err := jobimage.New(jobimage.Config{Reader: reader, Cache: cache}).Check(t.Context(), ref)
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	if got := check(lies, "other"); got.Verdict != jobimage.Fits {
		t.Errorf("the lie is %s", got.Verdict)
	}
	if got := check(honest.Registry, ""); got.Verdict != jobimage.Unfit {
		t.Errorf("believed elsewhere: %v", told(got.Platforms[0]))
	}
}

func TestPlatforms(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	full, empty := layer(t, program("bin/sh"), program("bin/grep")), layer(t, plain("etc/motd"))
	attestation := k.image("", "unknown/unknown", nil, blob{mediaType: "application/vnd.in-toto+json", raw: []byte("{}")})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	nested := k.index("", k.image("", "linux/riscv64", nil, full))
	unnamed := k.image("", "linux/s390x", nil, full)
	unnamed.Platform = nil
	k.index("it", k.image("", "linux/amd64", nil, full), k.image("", "linux/arm64/v8", nil, empty), k.image("", "linux/arm/v6", nil, full), k.image("", "linux/arm/v7", nil, full), attestation, nested, unnamed)
	names := func(r jobimage.Report) (names []string) {
		for _, p := range r.Platforms {
			names = append(names, p.Platform+" "+string(p.Verdict))
		}
		return names
	}
	for _, c := range []struct {
		wanted  []string
		verdict jobimage.Verdict
		want    []string
	}{
		{nil, jobimage.Fits, []string{"linux/amd64 fits"}},
		{[]string{"linux/arm64"}, jobimage.Unfit, []string{"linux/arm64/v8 unfit"}},
		{[]string{"linux/arm"}, jobimage.Fits, []string{"linux/arm/v6 fits", "linux/arm/v7 fits"}},
		{[]string{"linux/arm/v7", "linux/riscv64", "linux/arm/v7"}, jobimage.Fits, []string{"linux/arm/v7 fits", "linux/riscv64 fits"}},
		{[]string{"all"}, jobimage.Unfit, []string{"linux/amd64 fits", "linux/arm64/v8 unfit", "linux/arm/v6 fits", "linux/arm/v7 fits", "linux/riscv64 fits", "linux/s390x fits"}},
	} {
		report := k.check("it", platforms(c.wanted...))
		if diff := cmp.Diff(c.want, names(report)); diff != "" || report.Verdict != c.verdict {
			t.Errorf("%v: %s (-want +got):\n%s", c.wanted, report.Verdict, diff)
		}
	}
	// A layer that platforms share comes once.
	report := k.check("it", platforms("linux/amd64", "linux/arm/v7"))
	if l := report.Platforms[1].Layers[0]; l.Reading != jobimage.Remembered || l.Fetched != 0 {
		t.Errorf("the layer of both: %+v", l)
	}
	// Without the default platform all are checked.
	got := k.check("it", func(c *jobimage.Config) { c.Default = "windows/amd64" })
	if len(got.Platforms) != 6 {
		t.Errorf("without the default: %v", names(got))
	}
	k.image("single", "linux/arm64", nil, full)
	if got := names(k.check("single")); !slices.Equal(got, []string{"linux/arm64 fits"}) {
		t.Errorf("an image of one platform: %v", got)
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	system := "Files/Windows/System32/"
	server := layer(t, program("Hives/DefaultUser_Delta"), program(system+"cmd.exe"), program(system+"WindowsPowerShell/v1.0/powershell.exe"))
	nano := layer(t, program(system+"cmd.exe"), program("UtilityVM/Files/Windows/System32/WindowsPowerShell/v1.0/powershell.exe"))
	foreign := server
	foreign.mediaType, foreign.urls, foreign.lost = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", []string{"https://mcr.example.com/x"}, true
	tools := layer(t, program("Files/Program Files/PowerShell/pwsh.exe"), program("Files/Git/cmd/git.EXE"))
	path := `Path=C:\Windows\system32;%SystemRoot%;C:\Program Files\PowerShell;c:/git/CMD\`
	for _, c := range []struct {
		name   string
		env    []string
		needs  []string
		layers []blob
		want   []string
	}{
		{"server core", nil, nil, []blob{server}, []string{"fits", "shell: /windows/system32/windowspowershell/v1.0/powershell.exe = /windows/system32/windowspowershell/v1.0/powershell.exe, 1"}},
		{"nano server", nil, nil, []blob{nano}, []string{"unfit", "shell: missing", "/windows/system32/cmd.exe is there: GitLab Runner has no use for it, it writes scripts for PowerShell alone"}},
		{"nano server with tools", []string{path}, []string{"git", `C:\Git\cmd\git.exe`}, []blob{nano, tools}, []string{
			"fits", "shell: /program files/powershell/pwsh.exe = /program files/powershell/pwsh.exe, 2", "git: /git/cmd/git.exe = /git/cmd/git.exe, 2", `C:\Git\cmd\git.exe: /git/cmd/git.exe = /git/cmd/git.exe, 2`,
		}},
		{"a base that is kept elsewhere", nil, nil, []blob{foreign, layer(t, plain("Files/app.txt"))}, []string{"unknown", "shell: unknown: layer 1 is kept elsewhere, and is not in the registry"}},
		{"a base that is not needed", []string{path}, nil, []blob{foreign, tools}, []string{"fits", "shell: /program files/powershell/pwsh.exe = /program files/powershell/pwsh.exe, 2"}},
		{"gone", nil, nil, []blob{server, layer(t, gone(system+"WindowsPowerShell/v1.0", "PowerShell.exe"), gone("Files/windows/system32", "CMD.exe"))}, []string{"unfit", "shell: missing"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k.image("it", "windows/amd64", c.env, c.layers...)
			if diff := cmp.Diff(c.want, told(k.check("it", needs(c.needs...)).Platforms[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	full := layer(t, program("bin/sh"), program("bin/grep"))
	secret := blob{mediaType: ocispec.MediaTypeImageLayerGzip + "+encrypted", raw: []byte("secret")}
	lost := layer(t, plain("etc/lost"))
	lost.lost = true
	module := blob{mediaType: "application/wasm", raw: []byte("wasm")}
	for _, c := range []struct {
		name   string
		layers []blob
		want   []string
	}{
		{"encrypted", []blob{full, secret}, []string{"unknown", "sh: unknown: layer 2 is encrypted", "shell: unknown: layer 2 is encrypted", "grep: unknown: layer 2 is encrypted"}},
		{"encrypted, and not needed", []blob{secret, full}, []string{"fits", "sh: /bin/sh = /bin/sh, 2", "shell: /bin/sh = /bin/sh, 2", "grep: /bin/grep = /bin/grep, 2"}},
		{"lost", []blob{full, lost}, []string{"unknown", "sh: unknown: layer 2 is not in the registry", "shell: unknown: layer 2 is not in the registry", "grep: unknown: layer 2 is not in the registry"}},
		{"in part", []blob{lost, layer(t, program("bin/sh"))}, []string{"unknown", "sh: /bin/sh = /bin/sh, 2", "shell: /bin/sh = /bin/sh, 2", "grep: unknown: layer 1 is not in the registry"}},
		{"missing whatever is below", []blob{lost, layer(t, opaque("bin"), opaque("usr"), opaque("sbin"), program("bin/sh"))}, []string{"unfit", "sh: /bin/sh = /bin/sh, 2", "shell: /bin/sh = /bin/sh, 2", "grep: missing"}},
		{"no archive", []blob{module}, []string{"unknown", `sh: unknown: layer 1 is no archive but "application/wasm"`, `shell: unknown: layer 1 is no archive but "application/wasm"`, `grep: unknown: layer 1 is no archive but "application/wasm"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			k.linux("it", c.layers...)
			if diff := cmp.Diff(c.want, told(k.check("it").Platforms[0])); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	child := k.image("", "linux/amd64", nil, full)
	k.index("sparse", child)
	if err := k.DeleteManifest(t.Context(), path, child.Digest); err != nil {
		t.Fatal(err)
	}
	got := k.check("sparse")
	if got.Verdict != jobimage.Unknown || len(got.Platforms[0].Notes) != 1 {
		t.Errorf("a platform that is not there: %+v", got)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	full := layer(t, program("bin/sh"), program("bin/grep"))
	k.linux("good", full)
	k.put("chart", ocispec.MediaTypeImageManifest, map[string]any{
		"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest,
		"config": k.blob("application/vnd.cncf.helm.config.v1+json", []byte("{}")), "layers": []any{k.blob("application/vnd.cncf.helm.chart.content.v1.tar+gzip", []byte("x"))},
	})
	k.index("nothing")
	torn := full
	torn.raw = torn.raw[:len(torn.raw)/2]
	k.linux("torn", torn)
	k.linux("garbage", blob{mediaType: ocispec.MediaTypeImageLayer, raw: bytes.Repeat([]byte("garbage"), 1000)})
	k.linux("long", layer(t, plain(strings.Repeat("x/", 3000)+"x")))
	deep := []entry{soft("a", strings.Repeat("x/", 2000)), soft("b", "a/"+strings.Repeat("y/", 2000)), program("b/z")}
	k.linux("deep", layer(t, deep...))
	k.linux("bomb", layer(t, entry{name: "zeros", kind: tar.TypeReg, body: make([]byte, 1<<20)}))
	var many []entry
	for i := range 50 {
		many = append(many, plain(fmt.Sprintf("etc/%d", i)))
	}
	k.linux("many", layer(t, many...))
	var names []entry
	for i := range 200 {
		names = append(names, soft(fmt.Sprintf("etc/%d", i), strings.Repeat("x", 4000)))
	}
	k.linux("names", layer(t, names...))
	var nested []entry
	for i := range 10 {
		nested = append(nested, plain(fmt.Sprintf("%d/%s", i, strings.Repeat("x/", 1000)+"y")))
	}
	k.linux("nested", layer(t, nested...))
	k.linux("halves", layer(t, names[:100]...), layer(t, names[100:]...))
	k.linux("spoilt", full)
	for _, c := range []struct {
		tag    string
		change func(*jobimage.Config)
		kind   problem.Kind
		text   string
	}{
		{"chart", nil, problem.Usage, `is no image but "application/vnd.cncf.helm.config.v1+json"`},
		{"nothing", nil, problem.Usage, "leads to no image"},
		{"torn", nil, problem.Damaged, "layer 1"},
		{"garbage", nil, problem.Damaged, "no archive of a layer"},
		{"long", nil, problem.Damaged, "more than 4096 bytes"},
		{"deep", nil, problem.Damaged, "deep in each other"},
		{"bomb", func(c *jobimage.Config) { c.MaxUnpacked = 1 << 19 }, problem.Refused, "unpacks to more"},
		{"many", func(c *jobimage.Config) { c.MaxEntries = 49 }, problem.Refused, "more than 49"},
		{"names", func(c *jobimage.Config) { c.MaxMemory = 800_000 }, problem.Refused, "more than 800000 bytes"},
		{"nested", func(c *jobimage.Config) { c.MaxMemory = 3_000_000 }, problem.Refused, "more than 3000000 bytes"},
		{"halves", func(c *jobimage.Config) { c.MaxMemory = 800_000 }, problem.Refused, "more than 800000 bytes"},
		{"good", platforms("linux/arm64"), problem.NotFound, "not there for linux/arm64"},
		{"good", platforms("arm64"), problem.Usage, "platform"},
		{"good", needs("bin/x"), problem.Usage, "is no program"},
		{"good", needs(""), problem.Usage, "is no program"},
	} {
		if c.change == nil {
			c.change = func(*jobimage.Config) {}
		}
		_, err := k.try(c.tag, c.change)
		if problem.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.text) {
			t.Errorf("%s: %v (%s), want %s with %q", c.tag, err, problem.KindOf(err), c.kind, c.text)
		}
	}
	if _, err := k.try("nope"); !errors.Is(err, image.ErrMissing) {
		t.Errorf("an image that is not there: %v", err)
	}
	if got := k.check("many", func(c *jobimage.Config) { c.MaxEntries = 51 }); got.Verdict != jobimage.Unfit { // with etc itself
		t.Errorf("as many as allowed: %s", got.Verdict)
	}
	for _, tag := range []string{"names", "halves"} {
		if got := k.check(tag, func(c *jobimage.Config) { c.MaxMemory = 1 << 20 }); got.Verdict != jobimage.Unfit {
			t.Errorf("%s, as large as allowed: %s", tag, got.Verdict)
		}
	}
	cache, err := imagecache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // what is remembered counts, too
		if _, err := k.try("halves", func(c *jobimage.Config) { c.Cache, c.MaxMemory = cache, 800_000 }); problem.KindOf(err) != problem.Refused {
			t.Errorf("larger than allowed, of which a part is remembered: %v", err)
		}
	}
	// What has another digest is told, and not remembered.
	good := reference("spoilt")
	lies := lying{Reader: k.Registry, of: full.raw, send: layer(t, program("bin/sh"), program("bin/grep"), plain("more")).raw}
	if _, err := jobimage.New(jobimage.Config{Reader: lies, Cache: cache}).Check(t.Context(), good); problem.KindOf(err) != problem.Damaged {
		t.Errorf("another digest: %v", err)
	}
	report, err := jobimage.New(jobimage.Config{Reader: k.Registry, Cache: cache}).Check(t.Context(), good)
	if err != nil || report.Platforms[0].Layers[0].Reading != jobimage.Whole {
		t.Errorf("after it: %v, %v", report, err)
	}
}

// endless sends a layer, and does not end it.
type endless struct {
	image.Reader
	of   []byte
	sent int64
}

func (e *endless) Blob(ctx context.Context, repository string, d digest.Digest) (io.ReadCloser, error) {
	if d != digest.FromBytes(e.of) {
		return e.Reader.Blob(ctx, repository, d)
	}
	return io.NopCloser(io.MultiReader(bytes.NewReader(e.of), e)), nil
}

func (e *endless) Read(p []byte) (int, error) {
	if e.sent += int64(len(p)); e.sent > 64<<20 {
		return 0, io.EOF
	}
	return len(p), nil
}

// TestEndless sees that what follows a layer is not read without end.
func TestEndless(t *testing.T) {
	t.Parallel()
	k := newKit(t)
	full := layer(t, program("bin/sh"), program("bin/grep"))
	k.linux("it", full)
	registry := &endless{Reader: k.Registry, of: full.raw}
	_, err := k.try("it", func(c *jobimage.Config) { c.Reader = registry })
	if problem.KindOf(err) != problem.Damaged || !strings.Contains(fmt.Sprint(err), "larger than") {
		t.Errorf("a layer without an end: %v", err)
	}
	if registry.sent > 64<<10 {
		t.Errorf("%d bytes more than the layer has were read", registry.sent)
	}
}
