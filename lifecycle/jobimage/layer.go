package jobimage

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/regkeeper/regkeeper/problem"
)

// kind is what a layer has at a path.
type kind byte

const (
	none    kind = iota // nothing: at most a whiteout
	dir                 // a directory, or what something lies below
	file                // a regular file
	symlink             // a symbolic link
	lower               // a hard link to a file of the layers below
	other               // a device, a pipe
)

// node is what one layer says of one path. Its fields are exported for the cache.
type node struct {
	Kind kind
	// Exec says that somebody may execute the file.
	Exec bool
	// Own says that the archive has an entry for it. A directory that is there
	// only because something lies below has none.
	Own bool
	// Whiteout hides what the layers below have here, Opaque what they have below
	// here (OCI image specification, "layer.md", "Whiteouts").
	Whiteout, Opaque bool
	// Target is where a link leads to.
	Target string
	// Interpreter is what runs the file, if it begins with #!.
	Interpreter string
	Children    map[string]*node
}

func (n *node) child(name string) *node { return n.Children[name] }

func (n *node) put(name string, child *node) {
	if n.Children == nil {
		n.Children = map[string]*node{}
	}
	n.Children[name] = child
}

// What a node takes of memory besides its texts, in bytes, and the map of one that
// others are below: as Go has them on 64 bits, rounded up.
const (
	nodeCost = 120
	mapCost  = 280
)

// alone is what the node takes of memory in itself, under its name, in bytes.
func (n *node) alone(name string) int64 {
	return int64(nodeCost + len(name) + len(n.Target) + len(n.Interpreter))
}

// cost is what all below a node takes of memory, in bytes.
func (n *node) cost() int64 {
	if n.Children == nil {
		return 0
	}
	sum := int64(mapCost)
	for name, child := range n.Children {
		sum += child.alone(name) + child.cost()
	}
	return sum
}

// memory is what trees may still take of it, in bytes.
type memory struct{ left int64 }

var errTooMuch = errors.New("it takes more memory than an image has use for")

func (m *memory) take(bytes int64) error {
	if m.left -= bytes; m.left < 0 {
		return errTooMuch
	}
	return nil
}

// find returns what the layer has at a path, nil for nothing; and whether it
// hides what the layers below have there.
func (n *node) find(parts []string) (found *node, hidden bool) {
	for _, part := range parts {
		if n.Kind != dir && n.Kind != none {
			return nil, true // nothing lies below what is no directory
		}
		hidden = hidden || n.Opaque
		if n = n.child(part); n == nil {
			return nil, hidden
		}
		hidden = hidden || n.Whiteout
	}
	if n.Kind == none {
		return nil, hidden
	}
	return n, hidden
}

// final returns what a layer that was read in part has at a path, if that stays:
// the path and all before it have had their entry, and a layer has one entry for
// each path (OCI image specification, "layer.md": it "MUST NOT include duplicate
// entries"). Otherwise it returns how much of the path stays.
func (n *node) final(parts []string) (found *node, upTo int) {
	for i, part := range parts {
		if n.Kind != dir {
			return nil, i
		}
		if n = n.child(part); n == nil || !n.Own {
			return nil, i + 1
		}
	}
	return n, len(parts)
}

const (
	// longest bounds a name, in bytes, as Linux does (limits.h, PATH_MAX).
	longest = 4096
	// deepest bounds how many directories may lie in each other: as many as have
	// place in a name.
	deepest = longest / 2
	// mostLinks is through how many symbolic links a path may lead, as for Linux
	// (path_resolution(7)).
	mostLinks = 40
)

// builder makes the tree of a layer of the entries of its archive, in their order,
// as containerd unpacks them (pkg/archive/tar.go): what comes later replaces what
// came before, and a path leads through the links that this layer itself has.
// Whiteouts count for the layers below alone, wherever they stand.
type builder struct {
	root    *node
	windows bool
	nodes   int // that were made
	most    int
	memory  *memory
}

func newBuilder(windows bool, most int, memory *memory) *builder {
	return &builder{root: &node{Kind: dir, Own: true}, windows: windows, most: most, memory: memory}
}

// errTooMany is a layer of more entries than any honest one has.
var errTooMany = errors.New("it has more entries than an image has")

// add takes one entry over, and returns the path at which it is now; "" for an
// entry that changes nothing but what the layers below have.
func (b *builder) add(h *tar.Header, content io.Reader) (string, error) {
	if len(h.Name) > longest || len(h.Linkname) > longest {
		return "", fmt.Errorf("a name in it has more than %d bytes", longest)
	}
	name, ok := b.inside(h.Name)
	if !ok || len(name) == 0 {
		return "", nil
	}
	parent, at, err := b.parent(name[:len(name)-1], 0)
	if err != nil || parent == nil {
		return "", err
	}
	base := name[len(name)-1]
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		return "", b.whiteout(parent, hidden)
	}
	made := &node{Own: true}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		made.Kind, made.Exec = file, b.windows || h.Mode&0o111 != 0
		if made.Exec && !b.windows {
			made.Interpreter = interpreter(content)
		}
	case tar.TypeDir:
		made.Kind = dir
	case tar.TypeSymlink:
		made.Kind, made.Target = symlink, strings.Clone(h.Linkname) // which is part of a longer text
		if b.windows {
			made.Target = "/" + windowsPath(h.Linkname)
			if !windowsAbsolute(h.Linkname) {
				made.Target = made.Target[1:]
			}
		}
	case tar.TypeLink:
		target, ok := b.inside(h.Linkname)
		if !ok {
			return "", nil
		}
		if made = b.linked(target); made == nil {
			return "", nil
		}
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		made.Kind = other
	default:
		return "", nil // runtimes leave it out, too
	}
	if there := parent.child(base); there != nil {
		if there.Kind == dir && made.Kind == dir {
			there.Own = true
			return join(append(at, base)), nil
		}
		made.Whiteout = there.Whiteout
	}
	if err := b.put(parent, base, made); err != nil {
		return "", err
	}
	return join(append(at, base)), nil
}

// put puts a node that was made in its place, if there may be one more.
func (b *builder) put(parent *node, name string, made *node) error {
	if b.nodes++; b.nodes > b.most {
		return errTooMany
	}
	takes := made.alone(name)
	if parent.Children == nil {
		takes += mapCost
	}
	if err := b.memory.take(takes); err != nil {
		return err
	}
	parent.put(strings.Clone(name), made) // which is part of a longer text
	return nil
}

// inside are the parts of an entry's name. Of a Windows layer only what is below
// Files is of the file system, and names are the same in all cases.
func (b *builder) inside(name string) ([]string, bool) {
	if b.windows {
		name = strings.ToLower(strings.ReplaceAll(name, `\`, "/"))
	}
	parts := split(path.Clean("/" + name))
	if !b.windows {
		return parts, true
	}
	if len(parts) == 0 || parts[0] != "files" {
		return nil, false
	}
	return parts[1:], true
}

// whiteout hides what the layers below have. Other names with the prefix are what
// AUFS kept for itself.
func (b *builder) whiteout(parent *node, name string) error {
	switch {
	case name == ".wh..opq":
		parent.Opaque = true
		return nil
	case name == "" || name == "." || name == ".." || strings.HasPrefix(name, ".wh."):
		return nil
	}
	child := parent.child(name)
	if child == nil {
		child = &node{}
		if err := b.put(parent, name, child); err != nil {
			return err
		}
	}
	child.Whiteout = true
	return nil
}

// parent returns the directory that parts lead to, through the layer's own links,
// and its path. What is not there is made. It is nil if the links have no end.
func (b *builder) parent(parts []string, links int) (*node, []string, error) {
	at := b.root
	var nodes []*node // from the root to at
	var real []string
	for i, part := range parts {
		switch part {
		case "", ".":
			continue
		case "..":
			if len(real) > 0 {
				at, nodes, real = nodes[len(nodes)-1], nodes[:len(nodes)-1], real[:len(real)-1]
			}
			continue
		}
		child := at.child(part)
		if child != nil && child.Kind == symlink {
			if links++; links > mostLinks {
				return nil, nil, nil
			}
			rest := append(strings.Split(child.Target, "/"), parts[i+1:]...)
			if !strings.HasPrefix(child.Target, "/") {
				rest = append(append([]string(nil), real...), rest...)
			}
			if len(rest) > longest {
				return nil, nil, errDeep
			}
			return b.parent(rest, links)
		}
		if child == nil || child.Kind != dir {
			made := &node{Kind: dir}
			if child != nil {
				made.Whiteout = child.Whiteout
			}
			if err := b.put(at, part, made); err != nil {
				return nil, nil, err
			}
			child = made
		}
		nodes, real, at = append(nodes, at), append(real, part), child
		if len(real) > deepest {
			return nil, nil, errDeep
		}
	}
	return at, real, nil
}

var errDeep = fmt.Errorf("its directories lie more than %d deep in each other", deepest)

// linked is another name of what is at the target as it is now, found through the
// layer's own links to directories; or else of what the layers below have there.
// It is nil for what cannot have another name.
func (b *builder) linked(target []string) *node {
	at, nodes, links := b.root, []*node(nil), 0
	var real []string // the path of at
	for rest := target; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(nodes) > 0 {
				at, nodes, real = nodes[len(nodes)-1], nodes[:len(nodes)-1], real[:len(real)-1]
			}
			continue
		}
		child := at.child(part)
		switch {
		case child == nil || child.Kind == none:
			return &node{Own: true, Kind: lower, Target: join(append(append(real, part), rest...))}
		case child.Kind == symlink && len(rest) > 0:
			if links++; links > mostLinks {
				return nil
			}
			rest = append(strings.Split(child.Target, "/"), rest...)
			if strings.HasPrefix(child.Target, "/") {
				at, nodes, real = b.root, nil, nil
			}
		default:
			nodes, at, real = append(nodes, at), child, append(real, part)
		}
	}
	if at.Kind == dir {
		return nil
	}
	return &node{Own: true, Kind: at.Kind, Exec: at.Exec, Target: at.Target, Interpreter: at.Interpreter}
}

// interpreter reads what a script names after #!: an absolute path, without
// arguments (execve(2), "Interpreter scripts"). It is "" for what is no script.
func interpreter(content io.Reader) string {
	if content == nil {
		return ""
	}
	line := make([]byte, 256) // as much as Linux reads
	if _, err := io.ReadFull(content, line[:2]); err != nil || string(line[:2]) != "#!" {
		return ""
	}
	n, _ := io.ReadFull(content, line[2:]) // what is wrong with it shows at the next entry
	first, _, _ := bytes.Cut(line[2:2+n], []byte("\n"))
	words := strings.Fields(string(first))
	if len(words) == 0 || !strings.HasPrefix(words[0], "/") {
		return ""
	}
	return words[0]
}

func split(p string) []string {
	return strings.FieldsFunc(p, func(r rune) bool { return r == '/' })
}

func join(parts []string) string { return "/" + strings.Join(parts, "/") }

// windowsPath is a path of Windows as a layer's tree has it, without its drive.
func windowsPath(text string) string {
	text = strings.ToLower(strings.ReplaceAll(text, `\`, "/"))
	text = strings.TrimPrefix(text, "//?/")
	if len(text) >= 2 && text[1] == ':' {
		text = text[2:]
	}
	return strings.TrimPrefix(text, "/")
}

func windowsAbsolute(text string) bool {
	return strings.HasPrefix(text, `\`) || strings.HasPrefix(text, "/") || len(text) >= 2 && text[1] == ':'
}

// unpack is the content of a layer, whose first bytes tell how it is compressed:
// media types do not always (containerd goes by them, too, pkg/archive/compression).
func unpack(raw *bufio.Reader) (content io.Reader, end func(), err error) {
	magic, _ := raw.Peek(4) // less is no compression
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		content, err = gzip.NewReader(raw)
		return content, func() {}, err
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]>>4 == 5 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		decoder, err := zstd.NewReader(raw, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, nil, err
		}
		return decoder, decoder.Close, nil
	}
	return raw, func() {}, nil
}

// zstdWindow bounds the memory that unpacking takes, in bytes: what zstd itself
// takes without being asked for more (RFC 8878 section 3.1.1.1.2 recommends 8 MiB).
const zstdWindow = 128 << 20

// bounded ends what unpacks to more than it may, or is not wanted any more.
type bounded struct {
	ctx  context.Context
	from io.Reader
	left int64
	err  error
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.err == nil {
		b.err = context.Cause(b.ctx)
	}
	if b.err == nil && b.left <= 0 {
		b.err = problem.New(problem.Refused, "an archive that grows like this may be made to fill disks: look at how the image was built", "it unpacks to more than any layer that is looked into")
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.from.Read(p)
	b.left -= int64(n)
	return n, err
}
