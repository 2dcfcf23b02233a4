// Package runnerconfig owns the config.toml document of GitLab Runner: reading
// its [[runners]], adding, replacing and removing one, and changing values of
// one, with everything else in it as it was.
//
// It refuses to overwrite a document that it cannot read, or that it cannot
// change without changing anything else, and to know what a login is.
package runnerconfig

import (
	"bytes"
	"errors"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// The keys of a [[runners]] that regkeeper reads (gitlab-runner,
// common/config.go, RunnerConfig and RunnerCredentials).
const (
	KeyName        = "name"
	KeyURL         = "url"
	KeyID          = "id"
	KeyToken       = "token"
	KeyObtained    = "token_obtained_at"
	KeyExpires     = "token_expires_at"
	KeyExecutor    = "executor"
	KeyEnvironment = "environment"
	KeyCA          = "tls-ca-file"

	keyRunners = "runners"
)

// What is held in memory is bounded: a file may be another user's. The largest
// real documents are far below.
const (
	maxSize = 1 << 20
	// maxDepth bounds how deep brackets nest.
	maxDepth = 10_000
)

// Document is one config.toml, held as the exact text that was read. A change
// replaces the bytes of a value or a section; all others come out as they went
// in: order, white space, comments, quotes and unknown keys included.
type Document struct {
	text        []byte
	expressions []expression
	runners     []Runner
	// inline says that the runners are not written as sections, in which they
	// cannot be changed.
	inline bool
}

var _ disk.Document = (*Document)(nil)

// Runner is what a [[runners]] says.
type Runner struct {
	Name, URL string
	// ID is zero in documents of old runners.
	ID int64
	// Token is the runner authentication token. It is secret.
	Token string
	// Obtained and Expires are zero where the document does not say.
	Obtained, Expires time.Time
	Executor          string
	// CA is the path of certificates to trust for the server; empty for none of
	// its own.
	CA string
	// Environment are variables as NAME=VALUE. They may hold secrets.
	Environment []string
}

// Variable is the value of a variable of the environment. Of several with one
// name the last counts (gitlab-runner, common/spec/variables.go, Get).
func (r Runner) Variable(name string) (value string, ok bool) {
	for _, entry := range slices.Backward(r.Environment) {
		if value, ok := strings.CutPrefix(entry, name+"="); ok {
			return value, true
		}
	}
	return "", false
}

// expression is one line, or for a value over several lines all of them.
type expression struct {
	// owner is the runner that it belongs to, counted from zero; -1 for none.
	owner int
	// header says that it is the [[runners]] of its owner, top that it is a key
	// of the runner itself, rather than of one of its tables.
	header, top bool
	key         string
	// from the first byte of the key or bracket up to the last of the value.
	whole, value span
	// elements are the strings of an array.
	elements []span
}

// span are the bytes from start up to end.
type span struct{ start, end int }

// Parse reads a document. Input without content is an empty document.
//
// The error is a [problem.Error] of kind [problem.Damaged] that names line and
// column. It never quotes the document, which holds secrets.
func Parse(text []byte) (d *Document, err error) {
	defer func() {
		// The file may be anyone's, and a text that the parser was not made
		// for must not end the program.
		if recover() != nil {
			d, err = nil, damaged("broken TOML")
		}
	}()
	if len(text) > maxSize {
		return nil, damaged("document is larger than %d KiB", maxSize>>10)
	}
	if !utf8.Valid(text) {
		return nil, damaged("document is no UTF-8")
	}
	if err := checkDepth(text); err != nil {
		return nil, err
	}
	root, err := decode(text)
	if err != nil {
		return nil, err
	}
	d = &Document{text: bytes.Clone(text)}
	if d.runners, err = readRunners(root); err != nil {
		return nil, err
	}
	if err := d.locate(); err != nil {
		return nil, err
	}
	sections := 0
	for _, e := range d.expressions {
		if e.header {
			sections++
		}
	}
	d.inline = sections != len(d.runners)
	return d, nil
}

func damaged(format string, args ...any) error {
	return problem.New(problem.Damaged, disk.DamagedHint, format, args...)
}

// checkDepth refuses what would have the parser call itself too often.
func checkDepth(text []byte) error {
	depth, line := 0, 1
	for _, c := range text {
		switch c {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(depth-1, 0)
		case '\n':
			line++
		}
		if depth > maxDepth {
			return damaged("document nests too deep at line %d", line)
		}
	}
	return nil
}

// decode is what the text says.
func decode(text []byte) (map[string]any, error) {
	root := map[string]any{}
	err := toml.Unmarshal(text, &root)
	if err == nil {
		return root, nil
	}
	var broken *toml.DecodeError
	if errors.As(err, &broken) {
		line, column := broken.Position()
		return nil, damaged("broken TOML at line %d, column %d: look at the quotes, brackets and keys there", line, column)
	}
	return nil, damaged("broken TOML: a key or table is there twice, or is no key")
}

// member finds a key as the runner does, whose parser ignores case.
func member(table map[string]any, name string) (key string, value any, err error) {
	for k, v := range table {
		if !strings.EqualFold(k, name) {
			continue
		}
		if key != "" {
			return "", nil, damaged("%q is there in two spellings", name)
		}
		key, value = k, v
	}
	return key, value, nil
}

// readRunners reads the runners, and refuses what GitLab Runner cannot read.
func readRunners(root map[string]any) ([]Runner, error) {
	_, value, err := member(root, keyRunners)
	if err != nil || value == nil {
		return nil, err
	}
	list, ok := value.([]any)
	if !ok {
		return nil, damaged(`"runners" is no list of sections: write [[runners]]`)
	}
	runners := make([]Runner, len(list))
	for i, item := range list {
		table, ok := item.(map[string]any)
		if !ok {
			return nil, damaged(`"runners" is no list of sections: write [[runners]]`)
		}
		r := &runners[i]
		var environment []any
		for name, into := range map[string]any{
			KeyName: &r.Name, KeyURL: &r.URL, KeyID: &r.ID, KeyToken: &r.Token, KeyObtained: &r.Obtained, KeyExpires: &r.Expires,
			KeyExecutor: &r.Executor, KeyCA: &r.CA, KeyEnvironment: &environment,
		} {
			_, value, err := member(table, name)
			if err != nil {
				return nil, err
			}
			if value == nil {
				continue
			}
			target := reflect.ValueOf(into).Elem()
			if reflect.TypeOf(value) != target.Type() {
				return nil, damaged("%q of runner %d is of a type that the runner cannot read", name, i+1)
			}
			target.Set(reflect.ValueOf(value))
		}
		for _, entry := range environment {
			text, ok := entry.(string)
			if !ok {
				return nil, damaged("%q of runner %d holds something other than text", KeyEnvironment, i+1)
			}
			r.Environment = append(r.Environment, text)
		}
	}
	return runners, nil
}

// locate finds where everything stands.
func (d *Document) locate() error {
	var parser unstable.Parser
	parser.Reset(d.text)
	owner, top, count := -1, false, 0
	for parser.NextExpression() {
		node := parser.Expression()
		keys := node.Key()
		var path []string
		var first, last span
		for keys.Next() {
			key := keys.Node()
			last = span{int(key.Raw.Offset), int(key.Raw.Offset + key.Raw.Length)}
			if path == nil {
				first = last
			}
			path = append(path, string(key.Data))
		}
		if len(path) == 0 {
			return damaged("document cannot be taken apart")
		}
		e := expression{owner: owner, key: strings.Join(path, ".")}
		switch node.Kind {
		case unstable.Table, unstable.ArrayTable:
			e.whole.start = bytes.LastIndexByte(d.text[:first.start], '[')
			e.whole.end = last.end + bytes.IndexByte(d.text[last.end:], ']') + 1
			top = false
			if !strings.EqualFold(path[0], keyRunners) {
				owner = -1
			} else {
				if len(path) == 1 && node.Kind == unstable.ArrayTable {
					count, top, e.header = count+1, true, true
				}
				owner = count - 1
			}
			if node.Kind == unstable.ArrayTable {
				e.whole.start = bytes.LastIndexByte(d.text[:e.whole.start], '[')
				e.whole.end += bytes.IndexByte(d.text[e.whole.end:], ']') + 1
			}
			e.owner = owner
		case unstable.KeyValue:
			e.top = top && len(path) == 1
			from := behind(d.text, last.end, " \t=")
			end, ok := end(d.text, from, node.Value())
			if !ok {
				return damaged("document cannot be taken apart")
			}
			e.value, e.whole = span{from, end}, span{first.start, end}
			if node.Value().Kind == unstable.Array {
				for elements := node.Value().Children(); elements.Next(); {
					if raw := elements.Node().Raw; elements.Node().Kind == unstable.String {
						e.elements = append(e.elements, span{int(raw.Offset), int(raw.Offset + raw.Length)})
					}
				}
			}
		default:
			return damaged("document cannot be taken apart")
		}
		d.expressions = append(d.expressions, e)
	}
	return nil
}

// behind is the first place from at on that holds none of the characters.
func behind(text []byte, at int, characters string) int {
	for at < len(text) && strings.IndexByte(characters, text[at]) >= 0 {
		at++
	}
	return at
}

// end is where a value ends that starts at a place. The parser tells of strings
// alone.
func end(text []byte, from int, value *unstable.Node) (at int, ok bool) {
	switch value.Kind {
	case unstable.String:
		return int(value.Raw.Offset + value.Raw.Length), int(value.Raw.Offset) == from
	case unstable.Array, unstable.InlineTable:
		at = from + 1
		for children := value.Children(); children.Next(); {
			child := children.Node()
			at = filler(text, at)
			if child.Kind == unstable.KeyValue {
				for keys := child.Key(); keys.Next(); {
					raw := keys.Node().Raw
					at = int(raw.Offset + raw.Length)
				}
				at, child = behind(text, at, " \t="), child.Value()
			}
			if at, ok = end(text, at, child); !ok {
				return 0, false
			}
		}
		at = filler(text, at)
		return at + 1, at < len(text) && (text[at] == ']' || text[at] == '}')
	}
	at = from
	for at < len(text) && strings.IndexByte(",]}#\r\n", text[at]) < 0 {
		at++
	}
	return from + len(bytes.TrimRight(text[from:at], " \t")), true
}

// filler is what may stand between values: white space, commas and comments.
func filler(text []byte, at int) int {
	for {
		at = behind(text, at, " \t\r\n,")
		if at >= len(text) || text[at] != '#' {
			return at
		}
		for at < len(text) && text[at] != '\n' {
			at++
		}
	}
}

// Bytes is the document as text.
func (d *Document) Bytes() []byte { return d.text }

// Runners lists the runners in their order.
func (d *Document) Runners() []Runner { return slices.Clone(d.runners) }

// File is a config.toml on disk. The fields are as of [disk.File].
func File(path string, mode fs.FileMode, owner *disk.Owner) disk.File[*Document] {
	return disk.File[*Document]{Path: path, Mode: mode, Owner: owner, Format: disk.Format[*Document]{Parse: Parse}}
}
