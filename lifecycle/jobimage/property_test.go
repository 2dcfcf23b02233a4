package jobimage_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/imagecache"
	"github.com/regkeeper/regkeeper/lifecycle/jobimage"
)

var (
	count = flag.Int("images", 1000, "how many images TestAsUnpacked checks, of each kind")
	seed  = flag.Uint64("seed", 1, "where TestAsUnpacked begins")
)

// draw returns a number from 0 to n-1; 0 is the simplest.
type draw func(n int) int

func pick[T any](d draw, from ...T) T { return from[d(len(from))] }

// thing is what is at a path of a file system that was unpacked.
type thing struct {
	kind   byte // of tar
	exec   bool
	target string
	by     string // the interpreter
	layer  int
}

// unpacked is a file system, by absolute paths; the root is "".
type unpacked map[string]thing

func under(p, folder string) bool { return strings.HasPrefix(p, folder+"/") }

func (u unpacked) remove(p string) {
	delete(u, p)
	u.empty(p)
}

func (u unpacked) empty(folder string) {
	for p := range u {
		if under(p, folder) {
			delete(u, p)
		}
	}
}

// changes is one layer, unpacked for itself.
type changes struct {
	own            unpacked
	gone, opaque   map[string]bool
	below          map[string]string // hard links to what lies below
	number, budget int
}

func above(p string) string { return p[:strings.LastIndex(p, "/")] }

// enter leads to a directory through links, and makes what is not there.
func (c *changes) enter(text string) (string, bool) {
	todo, at := strings.Split(text, "/"), ""
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at != "" {
				at = above(at)
			}
			continue
		}
		next := at + "/" + part
		there, ok := c.own[next]
		if ok && there.kind == tar.TypeSymlink {
			if c.budget++; c.budget > 40 {
				return "", false
			}
			todo = append(strings.Split(there.target, "/"), todo...)
			if strings.HasPrefix(there.target, "/") {
				at = ""
			}
			continue
		}
		if !ok || there.kind != tar.TypeDir {
			c.replace(next, thing{kind: tar.TypeDir, layer: c.number})
		}
		at = next
	}
	return at, true
}

func (c *changes) replace(p string, t thing) {
	delete(c.below, p)
	if old, ok := c.own[p]; ok && old.kind == tar.TypeDir && t.kind != tar.TypeDir {
		c.own.empty(p)
		for _, marks := range []map[string]bool{c.gone, c.opaque} {
			maps.DeleteFunc(marks, func(q string, _ bool) bool { return under(q, p) })
		}
		maps.DeleteFunc(c.below, func(q, _ string) bool { return under(q, p) })
		delete(c.opaque, p)
	}
	c.own[p] = t
}

// lookup finds a hard link's target through links to directories; it does not
// follow the last part. It returns the path too; none says that the layer has
// nothing there, and then the path is what is left to follow.
func (c *changes) lookup(text string) (t thing, at string, none bool) {
	todo := strings.Split(text, "/")
	for budget := 0; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at != "" {
				at = above(at)
			}
			continue
		}
		next := at + "/" + part
		there, ok := c.own[next]
		switch {
		case !ok:
			return t, strings.Join(append([]string{next}, todo...), "/"), true
		case there.kind == tar.TypeSymlink && len(todo) > 0:
			if budget++; budget > 40 {
				return thing{kind: tar.TypeDir}, at, false
			}
			todo = append(strings.Split(there.target, "/"), todo...)
			if strings.HasPrefix(there.target, "/") {
				at = ""
			}
		default:
			at = next
		}
	}
	if at == "" {
		return thing{kind: tar.TypeDir}, at, false
	}
	return c.own[at], at, false
}

func alone(number int, entries []entry) *changes {
	c := &changes{own: unpacked{}, gone: map[string]bool{}, opaque: map[string]bool{}, below: map[string]string{}, number: number}
	for _, e := range entries {
		name := strings.TrimSuffix("/"+e.name, "/")
		c.budget = 0
		folder, ok := c.enter(above(name))
		if !ok {
			continue
		}
		base := name[strings.LastIndex(name, "/")+1:]
		p := folder + "/" + base
		if base == ".wh..wh..opq" {
			c.opaque[folder] = true
			continue
		}
		if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
			c.gone[folder+"/"+hidden] = true
			continue
		}
		t := thing{kind: e.kind, exec: e.mode&0o111 != 0, target: e.link, layer: number}
		switch e.kind {
		case tar.TypeDir:
			if old, ok := c.own[p]; ok && old.kind == tar.TypeDir {
				continue
			}
		case tar.TypeReg:
			if line, ok := strings.CutPrefix(string(e.body), "#!"); ok && t.exec {
				t.by, _, _ = strings.Cut(line, "\n")
			}
		case tar.TypeLink:
			twin, of, none := c.lookup(e.link)
			if none || twin.kind == tar.TypeLink {
				target := of
				if !none {
					target = c.below[of]
				}
				c.replace(p, thing{kind: tar.TypeLink, layer: number})
				c.below[p] = target
				continue
			}
			if twin.kind == tar.TypeDir {
				continue
			}
			t = twin
		}
		c.replace(p, t)
	}
	return c
}

// twin finds a hard link's target in the layers below, through links to directories;
// passed says that there were such.
func (u unpacked) twin(target string) (t thing, passed, ok bool) {
	parent, base := above(target), target[strings.LastIndex(target, "/")+1:]
	if base == "" || base == "." || base == ".." {
		return t, false, false
	}
	place, folder, links, ok := u.resolve(parent)
	if !ok || folder.kind != tar.TypeDir {
		return t, true, false
	}
	t, ok = u[place+"/"+base]
	return t, links > 0, ok && t.kind != tar.TypeDir
}

// unpack makes the whole file system, one layer after the other. It is vague if a
// hard link leads through links of the layers below, perhaps to what its own layer
// changes.
func unpack(layers [][]entry) (u unpacked, vague bool) {
	u = unpacked{}
	for i, entries := range layers {
		c := alone(i+1, entries)
		linked := map[string]thing{}
		for p, target := range c.below {
			t, passed, ok := u.twin("/" + strings.Trim(target, "/"))
			vague = vague || passed
			if ok {
				linked[p] = t
			}
		}
		for p := range c.gone {
			u.remove(p)
		}
		for p := range c.opaque {
			u.empty(p)
		}
		for _, p := range slices.Sorted(maps.Keys(c.own)) { // directories come first
			t := c.own[p]
			old, ok := u[p]
			if ok && old.kind == tar.TypeDir && t.kind == tar.TypeDir {
				continue
			}
			u.remove(p)
			if t.kind == tar.TypeLink {
				if t, ok = linked[p]; !ok {
					continue
				}
			}
			u[p] = t
		}
	}
	return u, vague
}

// resolve follows a path as the kernel does.
func (u unpacked) resolve(text string) (place string, t thing, links int, ok bool) {
	todo, at := strings.Split(text, "/"), ""
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if at != "" {
				at = above(at)
			}
			continue
		}
		next := at + "/" + part
		t, ok := u[next]
		switch {
		case !ok:
			return "", t, 0, false
		case t.kind == tar.TypeDir:
			at = next
		case t.kind == tar.TypeSymlink:
			if links++; links > 40 {
				return "", t, 0, false
			}
			todo = append(strings.Split(t.target, "/"), todo...)
			if strings.HasPrefix(t.target, "/") {
				at = ""
			}
		default:
			return next, t, links, strings.Trim(strings.Join(todo, ""), "/") == ""
		}
	}
	return at, thing{kind: tar.TypeDir}, links, true
}

func (u unpacked) runs(p string, depth int) bool {
	_, t, _, ok := u.resolve(p)
	return ok && t.kind == tar.TypeReg && t.exec && (t.by == "" || depth < 4 && u.runs(t.by, depth+1))
}

// memory is a registry of one image.
type memory struct {
	image.Reader
	manifest []byte
	blobs    map[digest.Digest][]byte
	asked    int64
}

func (m *memory) Manifest(context.Context, string, digest.Digest) (string, []byte, error) {
	return ocispec.MediaTypeImageManifest, m.manifest, nil
}

func (m *memory) Blob(_ context.Context, _ string, d digest.Digest) (io.ReadCloser, error) {
	return io.NopCloser(&metered{bytes.NewReader(m.blobs[d]), &m.asked}), nil
}

type metered struct {
	io.Reader
	n *int64
}

func (m *metered) Read(p []byte) (int, error) {
	n, err := m.Reader.Read(p)
	*m.n += int64(n)
	return n, err
}

func inMemory(t testing.TB, layers [][]entry) (*memory, image.Reference) {
	t.Helper()
	m := &memory{blobs: map[digest.Digest][]byte{}}
	add := func(mediaType string, raw []byte) ocispec.Descriptor {
		d := digest.FromBytes(raw)
		m.blobs[d] = raw
		return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
	}
	doc := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: add(ocispec.MediaTypeImageConfig, []byte(`{"os": "linux", "architecture": "amd64", "config": {"Env": ["PATH=/usr/bin:/bin"]}}`)),
	}
	for _, entries := range layers {
		doc.Layers = append(doc.Layers, add(ocispec.MediaTypeImageLayer, archive(t, entries...)))
	}
	var err error
	if m.manifest, err = json.Marshal(doc); err != nil {
		t.Fatal(err)
	}
	ref := reference("")
	ref.Digest = digest.FromBytes(m.manifest)
	return m, ref
}

// someEntry is one of few paths, so that many meet.
func someEntry(d draw) entry {
	var parts []string
	for range 1 + d(3) {
		parts = append(parts, pick(d, "bin", "usr", "sh", "grep", "busybox", "tool"))
	}
	name := strings.Join(parts, "/")
	switch d(10) {
	case 0, 1, 2:
		return program(name)
	case 3:
		return plain(name)
	case 4:
		return folder(name)
	case 5, 6:
		return soft(name, pick(d, "busybox", "/bin/busybox", "/usr/bin", "usr/bin", "../bin", "..", "/", "sh", "/bin", "nowhere", "../../usr/bin/sh", ".", "/bin/../usr/./bin/grep", "/tool", "tool/sh"))
	case 7:
		return hard(name, pick(d, "bin/busybox", "usr/bin/sh", "bin/sh", "bin", "tool", "usr/busybox", "usr/bin/busybox", "tool/sh"))
	case 8:
		return script(name, pick(d, "/bin/sh", "/bin/busybox", "/usr/bin/grep", "/tool"))
	}
	parts[len(parts)-1] = ".wh." + pick(d, parts[len(parts)-1], ".wh..opq", "bin", "sh", "grep")
	return entry{name: strings.Join(parts, "/"), kind: tar.TypeReg}
}

// wild is a layer in which anything may come, in any order and more than once.
func wild(d draw) (entries []entry) {
	for range d(12) {
		entries = append(entries, someEntry(d))
	}
	return entries
}

// proper is a layer as the specification has them: of a file system, with one
// entry for each path, directories before what is in them.
func proper(d draw) (entries []entry) {
	is := map[string]byte{}
	for range d(12) {
		e := someEntry(d)
		name := strings.TrimSuffix(e.name, "/")
		white := strings.Contains(name, ".wh.")
		fits := is[name] == 0
		var folders []string
		for i, r := range name {
			if r == '/' {
				fits = fits && (is[name[:i]] == 0 || is[name[:i]] == tar.TypeDir)
				folders = append(folders, name[:i])
			}
		}
		if !fits {
			continue
		}
		if e.kind == tar.TypeLink && is[e.link] != tar.TypeReg {
			continue
		}
		for _, f := range folders {
			if is[f] == 0 && d(4) > 0 {
				entries = append(entries, folder(f))
			}
			is[f] = tar.TypeDir
		}
		if is[name] = e.kind; white {
			is[name] = 'w'
		}
		entries = append(entries, e)
	}
	// What is large comes last.
	return append(entries, entry{name: "large", kind: tar.TypeReg, body: make([]byte, 12<<10)})
}

// kind is a kind of layers; where the specification does not hold for them, whole
// says that they must be read to their ends.
type kind struct {
	name  string
	layer func(draw) []entry
	whole bool
}

// checkAsUnpacked checks one image against one that is unpacked whole, and returns
// whether something of it was not read.
func checkAsUnpacked(t testing.TB, d draw, k kind, cache *imagecache.Cache) (spared bool, err error) {
	var layers [][]entry
	for range 1 + d(4) {
		layers = append(layers, k.layer(d))
	}
	u, vague := unpack(layers)
	registry, ref := inMemory(t, layers)
	check := func() (jobimage.Result, error) {
		checker := jobimage.New(jobimage.Config{Reader: registry, Needs: []string{"busybox", "/tool"}, Cache: cache, Whole: k.whole}).ReadOn(0)
		report, err := checker.Check(context.Background(), ref)
		if err != nil {
			return jobimage.Result{}, err
		}
		return report.Platforms[0], nil
	}
	got, err := check()
	if err != nil {
		return false, err
	}
	verdict := jobimage.Fits
	for _, n := range got.Needs {
		want := jobimage.Missing
		for _, name := range n.AnyOf {
			paths := []string{"/usr/bin/" + name, "/bin/" + name}
			if strings.HasPrefix(name, "/") {
				paths = []string{name}
			}
			for _, p := range paths {
				if u.runs(p, 0) {
					want = jobimage.Present
				}
			}
		}
		if n.State == jobimage.Untold && vague {
			return false, nil
		}
		if n.State != want {
			return false, fmt.Errorf("%s is %s, want %s, in %+v", n.Name, n.State, want, layers)
		}
		if want == jobimage.Missing {
			verdict = jobimage.Unfit
			continue
		}
		place, at, links, ok := u.resolve(n.Path)
		if !ok || !u.runs(n.Path, 0) || place != n.File || at.layer != n.Layer || links != len(n.Links) {
			return false, fmt.Errorf("%s is said to be %+v, want %s in layer %d through %d links, in %+v", n.Name, n.Found, place, at.layer, links, layers)
		}
	}
	if got.Verdict != verdict {
		return false, fmt.Errorf("the verdict is %s, want %s", got.Verdict, verdict)
	}
	var whole int64
	for _, raw := range registry.blobs {
		whole += int64(len(raw))
	}
	// What images have in common may be in the cache.
	if came := got.Fetched - int64(len(registry.manifest)); cache == nil && came != registry.asked || came > whole {
		return false, fmt.Errorf("%d bytes are said to have come, it was %d of %d", came, registry.asked, whole)
	}
	if cache != nil {
		before := registry.asked
		again, err := check()
		if err != nil || registry.asked != before || again.Verdict != verdict || again.Requests != 0 {
			return false, fmt.Errorf("again it is %s, with %d bytes: %w", again.Verdict, registry.asked-before, err)
		}
	}
	return registry.asked < whole, nil
}

// TestAsUnpacked holds the verdict, and where things are found, to what an image is
// when it is unpacked whole.
func TestAsUnpacked(t *testing.T) {
	t.Parallel()
	for _, k := range []kind{{"wild", wild, true}, {"proper", proper, false}} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			cache, err := imagecache.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			spared := 0
			for i := range *count {
				random := rand.New(rand.NewPCG(*seed, uint64(i)))
				var with *imagecache.Cache
				if i%100 == 0 {
					with = cache
				}
				less, err := checkAsUnpacked(t, random.IntN, k, with)
				if err != nil {
					t.Fatalf("seed %d, image %d: %v", *seed, i, err)
				}
				if less {
					spared++
				}
			}
			if spared < *count/20 {
				t.Errorf("only %d of %d images were not read whole", spared, *count)
			}
			t.Logf("%d of %d images were not read whole", spared, *count)
			rapid.Check(t, func(rt *rapid.T) {
				if _, err := checkAsUnpacked(t, func(n int) int { return rapid.IntRange(0, n-1).Draw(rt, "drawn") }, k, nil); err != nil {
					rt.Fatal(err)
				}
			})
		})
	}
}
