package jobimage

import (
	"fmt"
	"path"
	"strings"

	"github.com/regkeeper/regkeeper/image"
)

// state is how much is known of a path.
type state int

const (
	absent  state = iota // it is not there
	found                // it is there
	blocked              // it depends on what was not read yet
	closed               // it depends on what cannot be read
)

// layer is one layer of a view.
type layer struct {
	blob image.Blob
	// number counts from the base, which is 1.
	number int
	// tree is nil until the layer was read; part says that it was not to its end.
	tree *node
	part bool
	// closed says why the layer cannot be read.
	closed string
}

// view is the file system that layers make together, as overlayfs shows it, as
// far as it is known.
type view struct {
	layers  []layer // the newest first
	windows bool
	// waiting are the paths in the layer that is being read that would tell more.
	waiting map[string]bool
	// hops counts the hard links to layers below that a path led through.
	hops int
}

type spot struct {
	state state
	node  *node
	layer *layer
	why   string
}

// at is what is at a path below directories, in the layers from one on.
//
//	the layer            | what it says of the path
//	---------------------|--------------------------------------------
//	has it               | it is that, whatever lies below
//	hides it             | it is absent
//	says nothing         | the next one counts
//	was not read         | not known yet
//	was read in part     | it is that, if that stays; else not known yet
func (v *view) at(parts []string, from int) spot {
	for i := from; i < len(v.layers); i++ {
		l := &v.layers[i]
		switch {
		case l.closed != "":
			return spot{state: closed, why: l.closed}
		case l.tree == nil:
			return spot{state: blocked}
		}
		var n *node
		var hidden bool
		if l.part {
			var upTo int
			if n, upTo = l.tree.final(parts); n == nil {
				v.waiting[join(parts[:upTo])] = true
				return spot{state: blocked}
			}
		} else {
			n, hidden = l.tree.find(parts)
		}
		switch {
		case n != nil && n.Kind == lower:
			return v.lower(n.Target, i)
		case n != nil:
			return spot{state: found, node: n, layer: l}
		case hidden:
			return spot{}
		}
	}
	return spot{}
}

// mostHops is through how many hard links to layers below a path may lead: links in
// a circle, which may be such, must come to their own limit first.
const mostHops = 10 * mostLinks

// lower is what a hard link of a layer to the layers below is another name of. That
// it was made before or after something else of its layer, the layer does not tell.
func (v *view) lower(target string, of int) spot {
	if v.hops++; v.hops > mostHops {
		return spot{state: closed, why: fmt.Sprintf("layer %d has hard links to hard links, and so on, more than %d", v.layers[of].number, mostHops)}
	}
	end, _, _ := v.follow(target, split(target), way{from: of + 1, over: &v.layers[of]})
	switch {
	case end.state == found && end.node.Kind == dir, end.state == absent:
		return spot{} // a directory cannot have another name
	}
	return end
}

// walk follows a path to its end, through links.
func (v *view) walk(name string) (spot, []Link, string) {
	v.hops = 0
	return v.follow(name, split(name), way{last: true})
}

// way is how a path is followed.
type way struct {
	// from is the newest of the layers that count.
	from int
	// over is the layer of a hard link, above those; nil for none. Where links lead
	// to what it changes itself, the end is not known.
	over *layer
	// last says that a link at the end is followed, too.
	last bool
}

// changes says whether the layer above has a say in what is at a path.
func (w way) changes(here []string, below spot) bool {
	if w.over == nil {
		return false
	}
	n, hidden := w.over.tree.find(here)
	return hidden || n != nil && (n.Kind != dir || below.state != found || below.node.Kind != dir)
}

func (v *view) follow(name string, rest []string, w way) (spot, []Link, string) {
	var links []Link
	var at []string
	end := spot{state: found, node: &node{Kind: dir}}
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case ".":
			continue
		case "..":
			if len(at) > 0 {
				at = at[:len(at)-1]
			}
			// Where this leads is a directory that was passed on the way.
			end = spot{state: found, node: &node{Kind: dir}}
			continue
		}
		here := append(at[:len(at):len(at)], part)
		end = v.at(here, w.from)
		if len(links) > 0 && w.changes(here, end) {
			return spot{state: closed, why: fmt.Sprintf("layer %d has a hard link to %s, and changes %s, where that leads to", w.over.number, name, join(here))}, links, ""
		}
		if end.state == absent && len(links) > 0 {
			end.why = fmt.Sprintf("%s leads to nothing: there is no %s", links[0].Path, join(here))
		}
		if end.state != found {
			return end, links, ""
		}
		switch {
		case end.node.Kind == dir:
			at = here
		case end.node.Kind == symlink && (w.last || len(rest) > 0):
			if len(links) == mostLinks {
				return spot{why: fmt.Sprintf("%s leads through more than %d links, or in a circle", name, mostLinks)}, links, ""
			}
			links = append(links, Link{Path: join(here), Target: end.node.Target, Layer: end.layer.number})
			if strings.HasPrefix(end.node.Target, "/") {
				at = nil
			}
			rest = append(split(end.node.Target), rest...)
			end = spot{state: found, node: &node{Kind: dir}}
		default:
			if len(rest) > 0 {
				return spot{why: fmt.Sprintf("%s is no directory", join(here))}, links, ""
			}
			at = here
		}
	}
	return end, links, join(at)
}

// mostInterpreters is how many scripts may run each other, as for Linux
// (execve(2), "Interpreter scripts").
const mostInterpreters = 4

// program looks whether a path can be executed.
func (v *view) program(name string, depth int) (spot, Found) {
	end, links, place := v.walk(name)
	if end.state != found {
		return end, Found{}
	}
	switch {
	case end.node.Kind == dir:
		return spot{why: name + " is a directory"}, Found{}
	case end.node.Kind != file:
		return spot{why: name + " is no file that can be run"}, Found{}
	case !end.node.Exec:
		return spot{why: name + " is not executable"}, Found{}
	}
	if by := end.node.Interpreter; by != "" {
		if depth == mostInterpreters {
			return spot{why: name + " is a script of a script of a script"}, Found{}
		}
		runs, _ := v.program(by, depth+1)
		if runs.state == absent {
			runs.why = fmt.Sprintf("%s is a script for %s, which is not there", name, by)
		}
		if runs.state != found {
			return runs, Found{}
		}
	}
	return end, Found{Path: name, Links: links, File: place, Layer: end.layer.number, Digest: end.layer.blob.Digest}
}

// search looks for the first of names that can be executed in one of the folders.
func (v *view) search(name string, folders []string) (state, Found, string) {
	worst, why := absent, ""
	for _, candidate := range v.candidates(name, folders) {
		end, where := v.program(candidate, 0)
		if end.state == found {
			return found, where, ""
		}
		if end.state > worst || end.state == worst && why == "" {
			worst, why = end.state, end.why
		}
	}
	return worst, Found{}, why
}

// candidates are the paths at which a program may be. A path is one itself.
func (v *view) candidates(name string, folders []string) (paths []string) {
	if v.windows {
		name = strings.ToLower(name)
		if windowsAbsolute(name) {
			name, folders = path.Base("/"+windowsPath(name)), []string{"/" + path.Dir(windowsPath(name))}
		}
		names := []string{name}
		if path.Ext(name) == "" {
			names = []string{name + ".exe", name + ".cmd", name + ".bat", name + ".com"}
		}
		for _, folder := range folders {
			for _, n := range names {
				paths = append(paths, path.Join(folder, n))
			}
		}
		return paths
	}
	if strings.HasPrefix(name, "/") {
		return []string{name}
	}
	for _, folder := range folders {
		paths = append(paths, path.Join(folder, name))
	}
	return paths
}

// decide looks at all needs, and says whether nothing that is not read yet would
// tell more of them.
func (v *view) decide(needs []Need, folders []string) bool {
	v.waiting = map[string]bool{}
	all := true
	for i := range needs {
		if n := &needs[i]; n.State == Open {
			v.look(n, folders)
			all = all && n.State != Open
		}
	}
	return all
}

// look settles one need if it can. Of programs of which one is enough the first
// is preferred where more than one is known.
func (v *view) look(n *Need, folders []string) {
	worst, reason := absent, ""
	for _, program := range n.AnyOf {
		at, where, why := v.search(program, folders)
		if at == found {
			n.State, n.Program, n.Found, n.Why = Present, program, &where, ""
			return
		}
		if at > worst || at == worst && reason == "" {
			worst, reason = at, why
		}
	}
	switch worst {
	case absent:
		n.State, n.Why = Missing, reason
	case closed:
		n.State, n.Why = Untold, reason
	}
}
