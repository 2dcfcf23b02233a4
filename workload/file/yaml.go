package file

import (
	"errors"
	"io"
	"iter"
	"strings"
	"unicode/utf8"

	// Of the parsers at hand, this one reads every document of a file: goccy's ends
	// without an error at the first that is empty, as charts have many.
	"go.yaml.in/yaml/v3"

	"github.com/regkeeper/regkeeper/problem"
)

const (
	// maxDepth bounds how deep a document nests.
	maxDepth = 200
	// maxSteps bounds what aliases may repeat; it is more than a document of
	// [maxSize] has without.
	maxSteps = 1 << 23
	// manyFields is from where on fields are indexed.
	manyFields = 16
)

// node is a part of a document, with aliases and merge keys resolved. The nil
// node is one that is not there.
type node struct {
	line   int
	tag    string
	scalar string
	// fields are those of a mapping, items those of a sequence.
	fields []entry
	// index is of fields, where these are many.
	index   map[string]*node
	items   []*node
	mapping bool
	list    bool
}

type entry struct {
	key   string
	line  int
	value *node
}

func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	if n.index != nil {
		return n.index[key]
	}
	for _, e := range n.fields {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

func (n *node) entries() []entry {
	if n == nil {
		return nil
	}
	return n.fields
}

func (n *node) elements() []*node {
	if n == nil {
		return nil
	}
	return n.items
}

// text is a scalar's, as it is written: 1.10 is a tag. It is empty for any other.
func (n *node) text() string {
	if n == nil {
		return ""
	}
	return n.scalar
}

func (n *node) isMapping() bool { return n != nil && n.mapping }
func (n *node) isList() bool    { return n != nil && n.list }

// parse reads the documents of a text, one after the other; those without
// content are left out. An error ends it.
func parse(name, text string) iter.Seq2[*node, error] {
	return func(yield func(*node, error) bool) {
		if !utf8.ValidString(text) {
			good := len(text) - len(strings.TrimLeftFunc(text, func(r rune) bool { return r != utf8.RuneError }))
			yield(nil, damaged(name, 1+strings.Count(text[:good], "\n"), "it is no UTF-8"))
			return
		}
		decoder := yaml.NewDecoder(strings.NewReader(text))
		for {
			var doc yaml.Node
			err := decoder.Decode(&doc)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(nil, problem.Wrap(err, problem.Damaged, "look at the indentation, quotes and colons there", "%s", name))
				return
			}
			b := &builder{name: name, built: map[*yaml.Node]*node{}, building: map[*yaml.Node]bool{}}
			n := b.build(&doc, 0)
			if b.err != nil {
				yield(nil, b.err)
				return
			}
			if n != nil && !yield(n, nil) {
				return
			}
		}
	}
}

// builder makes nodes of what the parser made, one for each.
type builder struct {
	name     string
	built    map[*yaml.Node]*node
	building map[*yaml.Node]bool
	steps    int
	err      error
}

func (b *builder) fail(line int, what string) *node {
	if b.err == nil {
		b.err = damaged(b.name, line, what)
	}
	return nil
}

func (b *builder) build(from *yaml.Node, depth int) *node {
	if n, ok := b.built[from]; ok || b.err != nil {
		return n
	}
	if b.steps++; depth > maxDepth || b.steps > maxSteps {
		return b.fail(from.Line, "it nests too deep")
	}
	if b.building[from] {
		return b.fail(from.Line, "what an anchor names contains itself")
	}
	b.building[from] = true
	n := b.make(from, depth)
	delete(b.building, from)
	b.built[from] = n
	return n
}

func (b *builder) make(from *yaml.Node, depth int) *node {
	n := &node{line: from.Line, tag: from.Tag}
	switch from.Kind {
	case yaml.DocumentNode:
		if len(from.Content) == 0 {
			return nil
		}
		return b.build(from.Content[0], depth+1)
	case yaml.AliasNode:
		return b.build(from.Alias, depth+1)
	case yaml.SequenceNode:
		n.list = true
		for _, item := range from.Content {
			n.items = append(n.items, b.build(item, depth+1))
		}
	case yaml.MappingNode:
		n.mapping = true
		b.fields(n, from.Content, depth)
	case yaml.ScalarNode:
		if from.ShortTag() == "!!null" {
			return nil
		}
		n.scalar = from.Value
	default:
		return nil
	}
	return n
}

// fields are a mapping's own before those that it merges, of which the first
// that has a field counts (YAML language-independent types, "Merge Key").
func (b *builder) fields(n *node, content []*yaml.Node, depth int) {
	var merged []*node
	have := make(map[string]bool, len(content)/2)
	for i := 0; i+1 < len(content); i += 2 {
		key, value := b.build(content[i], depth+1), b.build(content[i+1], depth+1)
		switch {
		case content[i].ShortTag() == "!!merge" && value.isMapping():
			merged = append(merged, value)
		case content[i].ShortTag() == "!!merge":
			merged = append(merged, value.elements()...)
		case key == nil || key.mapping || key.list: // nothing here has such keys
		case have[key.scalar]:
			b.fail(key.line, "key "+key.scalar+" is there twice")
		default:
			have[key.scalar] = true
			n.fields = append(n.fields, entry{key.scalar, key.line, value})
		}
	}
	for _, source := range merged {
		for _, e := range source.entries() {
			if b.steps++; b.steps > maxSteps {
				b.fail(n.line, "its aliases repeat too much")
				return
			}
			if !have[e.key] {
				have[e.key] = true
				n.fields = append(n.fields, e)
			}
		}
	}
	if len(n.fields) > manyFields {
		n.index = make(map[string]*node, len(n.fields))
		for _, e := range n.fields {
			n.index[e.key] = e.value
		}
	}
}
