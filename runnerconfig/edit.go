package runnerconfig

import (
	"bytes"
	"reflect"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/problem"
)

// fresh is what GitLab Runner writes above the first runner (common/config.go,
// NewConfig).
const fresh = `concurrent = 1
check_interval = 0
shutdown_timeout = 0

[session_server]
  session_timeout = 1800
`

// splice is a change of the text.
type splice struct {
	span
	text string
}

// Add puts a runner behind the others. An empty document gets the settings that
// GitLab Runner begins one with. The error is of kind [problem.Damaged]; the
// document is then as it was.
func (d *Document) Add(s Section) error {
	if d.inline {
		return d.entangled()
	}
	text := s.render(d.eol())
	lead := d.eol()
	switch n := len(d.text); {
	case len(bytes.TrimSpace(d.text)) == 0:
		lead = strings.ReplaceAll(fresh, "\n", d.eol()) + d.eol()
	case d.text[n-1] != '\n':
		lead += d.eol()
	}
	return d.change(func(root map[string]any) error {
		if len(bytes.TrimSpace(d.text)) == 0 {
			defaults, err := decode([]byte(fresh))
			if err != nil {
				return err
			}
			for key, value := range defaults {
				root[key] = value
			}
		}
		return withRunners(root, func(runners []any) ([]any, error) {
			table, err := s.read()
			return append(runners, table), err
		})
	}, splice{span{len(d.text), len(d.text)}, lead + text})
}

// Replace puts another section in a runner's place, counted from zero. What
// comments stand within the old one go with it.
func (d *Document) Replace(runner int, s Section) error {
	cuts, err := d.cuts(runner)
	if err != nil {
		return err
	}
	cuts[0].text = strings.TrimSuffix(s.render(d.eol()), d.eol())
	if cuts[0].end > cuts[0].start && d.text[cuts[0].end-1] == '\n' {
		cuts[0].text += d.eol()
	}
	return d.change(func(root map[string]any) error {
		return withRunners(root, func(runners []any) ([]any, error) {
			table, err := s.read()
			runners[runner] = table
			return runners, err
		})
	}, cuts...)
}

// Remove takes a runner away, counted from zero, with the comments within its
// section.
func (d *Document) Remove(runner int) error {
	cuts, err := d.cuts(runner)
	if err != nil {
		return err
	}
	return d.change(func(root map[string]any) error {
		return withRunners(root, func(runners []any) ([]any, error) {
			return slices.Delete(runners, runner, runner+1), nil
		})
	}, cuts...)
}

// cuts are the whole lines of a runner.
func (d *Document) cuts(runner int) (cuts []splice, err error) {
	if d.inline || runner < 0 || runner >= len(d.runners) {
		return nil, d.entangled()
	}
	running := false
	for _, e := range d.expressions {
		if e.owner != runner {
			running = false
			continue
		}
		if !running {
			cuts = append(cuts, splice{span: span{start: d.lineStart(e.whole.start)}})
		}
		running = true
		cuts[len(cuts)-1].end = d.lineEnd(e.whole.end)
	}
	return cuts, nil
}

func (d *Document) lineStart(at int) int { return bytes.LastIndexByte(d.text[:at], '\n') + 1 }

// lineEnd is behind the line break.
func (d *Document) lineEnd(at int) int {
	if n := bytes.IndexByte(d.text[at:], '\n'); n >= 0 {
		return at + n + 1
	}
	return len(d.text)
}

// eol is the document's line break.
func (d *Document) eol() string {
	if n := bytes.IndexByte(d.text, '\n'); n > 0 && d.text[n-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// Set changes one key of a runner, counted from zero: to a string, a number, a
// bool, a time or a list of these. It says whether that changed the document.
func (d *Document) Set(runner int, key string, value any) (changed bool, err error) {
	if d.inline || runner < 0 || runner >= len(d.runners) {
		return false, d.entangled()
	}
	want, err := decode([]byte("it = " + render(value)))
	if err != nil {
		return false, err
	}
	before, err := d.table(runner)
	if err != nil {
		return false, err
	}
	name, has, err := member(before, key)
	if err != nil {
		return false, err
	}
	if name != "" && reflect.DeepEqual(has, want["it"]) {
		return false, nil
	}
	edit, ok := d.put(runner, key, render(value))
	if !ok {
		return false, d.entangled()
	}
	if name == "" {
		name = key
	}
	return true, d.change(setMember(runner, name, want["it"]), edit)
}

// SetVariable changes one variable of a runner's environment, and leaves the
// others alone. It says whether that changed the document.
func (d *Document) SetVariable(runner int, name, value string) (changed bool, err error) {
	if d.inline || runner < 0 || runner >= len(d.runners) {
		return false, d.entangled()
	}
	entry := name + "=" + value
	is := func(other string) bool { return strings.HasPrefix(other, name+"=") }
	next, found := slices.Clone(d.runners[runner].Environment), false
	for i, other := range next {
		if is(other) {
			found = true
			changed = changed || other != entry
			next[i] = entry
		}
	}
	if found && !changed {
		return false, nil
	}
	list := d.find(runner, KeyEnvironment)
	if !found {
		next = slices.Insert(next, 0, entry)
	}
	var edits []splice
	switch {
	case list == nil:
		edit, ok := d.put(runner, KeyEnvironment, render([]any{entry}))
		if !ok {
			return false, d.entangled()
		}
		edits = append(edits, edit)
	case len(list.elements) != len(d.runners[runner].Environment):
		return false, d.entangled()
	case found:
		// All with that name: a secret that was replaced is not left beside.
		for i, other := range d.runners[runner].Environment {
			if is(other) {
				edits = append(edits, splice{list.elements[i], quote(entry)})
			}
		}
	case len(list.elements) > 0:
		// In front, where no comment is that is about an entry before it.
		at := list.elements[0].start
		space := string(d.text[at-len(d.text[:at])+len(bytes.TrimRight(d.text[:at], " \t\r\n")) : at])
		if space == "" {
			space = " "
		}
		edits = append(edits, splice{span{at, at}, quote(entry) + "," + space})
	default:
		at := list.value.start + 1
		edits = append(edits, splice{span{at, at}, quote(entry)})
	}
	all := make([]any, len(next))
	for i, text := range next {
		all[i] = text
	}
	key := KeyEnvironment
	if list != nil {
		key = list.key
	}
	return true, d.change(setMember(runner, key, all), edits...)
}

// find is the expression with a key of the runner itself.
func (d *Document) find(runner int, key string) *expression {
	for i := range d.expressions {
		if e := &d.expressions[i]; e.owner == runner && e.top && strings.EqualFold(e.key, key) {
			return e
		}
	}
	return nil
}

// put is the change that gives a key of the runner itself a value: in its place,
// or as a line behind those that there are.
func (d *Document) put(runner int, key, value string) (splice, bool) {
	if e := d.find(runner, key); e != nil {
		return splice{e.value, value}, true
	}
	at, indent, found := 0, "  ", false
	for _, e := range d.expressions {
		if e.owner != runner || !e.header && !e.top {
			continue
		}
		at, found = d.lineEnd(e.whole.end), true
		if !e.header {
			indent = string(d.text[d.lineStart(e.whole.start):e.whole.start])
		}
	}
	line := indent + key + " = " + value + d.eol()
	if found && at > 0 && d.text[at-1] != '\n' {
		line = d.eol() + strings.TrimSuffix(line, d.eol())
	}
	return splice{span{at, at}, line}, found
}

// table is what a runner says.
func (d *Document) table(runner int) (table map[string]any, err error) {
	root, err := decode(d.text)
	if err != nil {
		return nil, err
	}
	err = withRunners(root, func(runners []any) ([]any, error) {
		table, _ = runners[runner].(map[string]any)
		return runners, nil
	})
	return table, err
}

func withRunners(root map[string]any, edit func([]any) ([]any, error)) error {
	key, value, err := member(root, keyRunners)
	if err != nil {
		return err
	}
	if key == "" {
		key = keyRunners
	}
	runners, _ := value.([]any)
	if runners, err = edit(runners); err != nil {
		return err
	}
	root[key] = runners
	if len(runners) == 0 {
		delete(root, key)
	}
	return nil
}

func setMember(runner int, key string, value any) func(map[string]any) error {
	return func(root map[string]any) error {
		return withRunners(root, func(runners []any) ([]any, error) {
			if table, ok := runners[runner].(map[string]any); ok {
				table[key] = value
			}
			return runners, nil
		})
	}
}

// change makes the splices, if the text says then exactly what is wanted: what
// it said before, edited.
func (d *Document) change(edit func(root map[string]any) error, splices ...splice) error {
	want, err := decode(d.text)
	if err != nil {
		return err
	}
	if err := edit(want); err != nil {
		return err
	}
	var text []byte
	at := 0
	for _, s := range splices {
		text = append(append(text, d.text[at:s.start]...), s.text...)
		at = s.end
	}
	text = append(text, d.text[at:]...)
	next, err := Parse(text)
	if err != nil {
		return d.entangled()
	}
	got, err := decode(text)
	if err != nil || !reflect.DeepEqual(want, got) {
		return d.entangled()
	}
	*d = *next
	return nil
}

// entangled says that the runner cannot be changed alone.
func (d *Document) entangled() error {
	return problem.New(problem.Damaged,
		"write each runner there as a section of its own: [[runners]], with its keys on lines below it",
		"the document cannot be changed without changing something else")
}
