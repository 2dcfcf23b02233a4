package k3sconfig

import (
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

const (
	keyMirrors  = "mirrors"
	keyEndpoint = "endpoint"
	keyRewrite  = "rewrite"
)

// Mirror is a place that K3s asks before a registry (K3s's documentation, "Private
// Registry Configuration").
type Mirror struct {
	// Endpoint is its address, for example https://registry.example.com.
	Endpoint string
	// Prefix is put before the names of repositories there; empty for none. K3s
	// does so at every endpoint of the registry, so that it must be the only one.
	Prefix string
}

func (m Mirror) rewrite() map[string]any {
	return map[string]any{"^(.*)$": m.Prefix + "/$1"}
}

// SetMirror has K3s ask a mirror of a registry, before those that it asks already.
// It says whether that changed the document. The error is a [problem.Error] of kind
// [problem.Damaged] if the document is written in a way in which that cannot be
// done by changing nothing else, and of kind [problem.Config] for a mirror with a
// prefix of a registry that has others; the document is then as it was.
func (d *Document) SetMirror(host credential.Host, m Mirror) (changed bool, err error) {
	before, err := d.value()
	if err != nil {
		return false, err
	}
	entry := mapping(mapping(before[keyMirrors])[string(host)])
	endpoints, _ := entry[keyEndpoint].([]any)
	has := slices.Contains(endpoints, any(m.Endpoint))
	others := len(endpoints) > 1 || len(endpoints) == 1 && !has
	rewrite := entry[keyRewrite]
	switch {
	case m.Prefix != "" && (others || rewrite != nil && !reflect.DeepEqual(rewrite, any(m.rewrite()))):
		return false, problem.New(problem.Config, "take the other endpoints and rewrites of the registry away, or use no prefix",
			"K3s has other mirrors of %s, whose names a prefix would change too", host)
	case has && (m.Prefix == "" || rewrite != nil):
		return false, nil
	}
	want := maps.Clone(before)
	wantEntry := maps.Clone(entry)
	if !has {
		wantEntry[keyEndpoint] = append([]any{m.Endpoint}, endpoints...)
	}
	if m.Prefix != "" {
		wantEntry[keyRewrite] = m.rewrite()
	}
	wantMirrors := maps.Clone(mapping(before[keyMirrors]))
	wantMirrors[string(host)] = wantEntry
	want[keyMirrors] = wantMirrors
	e := &editor{Document: d}
	e.mirror(string(host), m, has)
	return d.become(host, e, want)
}

// RemoveMirror undoes [Document.SetMirror].
func (d *Document) RemoveMirror(host credential.Host, m Mirror) (changed bool, err error) {
	before, err := d.value()
	if err != nil {
		return false, err
	}
	entry := mapping(mapping(before[keyMirrors])[string(host)])
	endpoints, _ := entry[keyEndpoint].([]any)
	at := slices.Index(endpoints, any(m.Endpoint))
	if at < 0 {
		return false, nil
	}
	want := maps.Clone(before)
	wantMirrors := maps.Clone(mapping(before[keyMirrors]))
	e := &editor{Document: d}
	mirrors := e.own(d.root, keyMirrors)
	if mirrors == nil || e.blocked {
		return false, d.tangled(host)
	}
	registry := e.own(mirrors.Value, string(host))
	if registry == nil || e.blocked {
		return false, d.tangled(host)
	}
	ours := len(endpoints) == 1
	for key, value := range entry {
		ours = ours && (key == keyEndpoint || key == keyRewrite && m.Prefix != "" && reflect.DeepEqual(value, any(m.rewrite())))
	}
	switch {
	case ours && len(wantMirrors) == 1:
		delete(want, keyMirrors)
		e.cut(mirrors)
	case ours:
		delete(wantMirrors, string(host))
		want[keyMirrors] = wantMirrors
		e.cut(registry)
	default:
		wantEntry := maps.Clone(entry)
		wantEntry[keyEndpoint] = slices.Delete(slices.Clone(endpoints), at, at+1)
		wantMirrors[string(host)] = wantEntry
		want[keyMirrors] = wantMirrors
		list := e.own(registry.Value, keyEndpoint)
		if list == nil || e.blocked {
			return false, d.tangled(host)
		}
		if len(endpoints) == 1 {
			delete(wantEntry, keyEndpoint)
			e.cut(list)
			break
		}
		sequence, ok := list.Value.(*ast.SequenceNode)
		if !ok || sequence.IsFlowStyle {
			return false, d.tangled(host)
		}
		within, _ := e.extent(sequence.Values[at])
		e.lines(within)
	}
	return d.become(host, e, want)
}

// become takes the changes over if they come to what is wanted.
func (d *Document) become(host credential.Host, e *editor, want map[string]any) (bool, error) {
	if e.blocked {
		return false, d.tangled(host)
	}
	next, err := Parse(e.apply())
	if err != nil {
		return false, d.tangled(host)
	}
	got, err := next.value()
	if err != nil || !reflect.DeepEqual(got, want) {
		return false, d.tangled(host)
	}
	*d = *next
	return true, nil
}

// tangled says that the host's mirrors cannot be changed alone.
func (d *Document) tangled(host credential.Host) error {
	return problem.New(problem.Damaged,
		`write it there as plain lines, without brackets, anchors or aliases: mirrors: then "`+string(host)+`": then endpoint: then "- " and the address`,
		"the mirrors of %s cannot be changed without changing something else", host)
}

// value is all that the document says.
func (d *Document) value() (map[string]any, error) {
	all := map[string]any{}
	if d.root == nil {
		return all, nil
	}
	if err := yaml.NodeToValue(d.root, &all); err != nil {
		return nil, damaged("the document is no mapping of names")
	}
	return all, nil
}

// mapping is an empty one for what is none.
func mapping(value any) map[string]any {
	if m, ok := value.(map[string]any); ok {
		return m
	}
	return map[string]any{}
}

// mirror adds what is missing, by the first of these that holds:
//
//	there is no            added
//	mirrors, or no value   behind the last key of the document
//	registry, or no value  behind the last registry
//	endpoint               behind the registry's last key
//	such endpoint          before the first
//	rewrite                behind the registry's last key
func (e *editor) mirror(host string, m Mirror, has bool) {
	quoted := func(text string) string { return `"` + text + `"` }
	endpoint := func(indent string) string {
		return e.eol() + indent + keyEndpoint + ":" + e.eol() + indent + e.unit() + "- " + quoted(m.Endpoint)
	}
	rewrite := func(indent string) string {
		if m.Prefix == "" {
			return ""
		}
		return e.eol() + indent + keyRewrite + ":" + e.eol() + indent + e.unit() + `"^(.*)$": ` + quoted(m.Prefix+"/$1")
	}
	registry := func(indent string) string {
		return e.eol() + indent + quoted(host) + ":" + endpoint(indent+e.unit()) + rewrite(indent+e.unit())
	}
	if e.root == nil {
		end := len(e.text)
		for t, at := range e.spans {
			if t.Type == token.DocumentEndType {
				end = min(end, at.start)
			}
		}
		text := keyMirrors + ":" + registry(e.unit()) + e.eol()
		if end > 0 && e.text[end-1] != '\n' {
			text = e.eol() + text
		}
		e.put(span{end, end}, text)
		return
	}
	mirrors := e.own(e.root, keyMirrors)
	switch {
	case e.blocked:
	case mirrors == nil:
		e.behind(e.root, func(indent string) string { return e.eol() + indent + keyMirrors + ":" + registry(indent+e.unit()) })
		return
	case null(mirrors.Value):
		e.under(mirrors, registry)
		return
	}
	if e.blocked {
		return
	}
	entry := e.own(mirrors.Value, host)
	switch {
	case e.blocked:
		return
	case entry == nil:
		e.behind(mirrors.Value, registry)
		return
	case null(entry.Value):
		e.under(entry, func(indent string) string { return endpoint(indent) + rewrite(indent) })
		return
	}
	if !has {
		list := e.own(entry.Value, keyEndpoint)
		if e.blocked {
			return
		}
		if list == nil {
			e.behind(entry.Value, endpoint)
		} else {
			e.first(list, quoted(m.Endpoint))
		}
	}
	if m.Prefix != "" {
		e.behind(entry.Value, rewrite)
	}
}

// behind adds lines behind the last key of a mapping without brackets.
func (e *editor) behind(node ast.Node, lines func(indent string) string) {
	entries, ok := direct(node)
	if !ok || len(entries) == 0 || isFlow(node) {
		e.blocked = true
		return
	}
	indent := e.indent(entries[0])
	end := e.lineEnd(e.entry(entries[len(entries)-1]).end)
	e.put(span{end, end}, lines(indent))
}

// under adds lines under a key that has no value.
func (e *editor) under(entry *ast.MappingValueNode, lines func(indent string) string) {
	if _, ok := e.extent(entry.Value); ok {
		e.blocked = true // a null that is written
		return
	}
	end := e.lineEnd(e.spans[entry.Start].end)
	e.put(span{end, end}, lines(e.indent(entry)+e.unit()))
}

// first adds an item before the others of a list.
func (e *editor) first(list *ast.MappingValueNode, item string) {
	sequence, ok := list.Value.(*ast.SequenceNode)
	if !ok {
		e.blocked = true
		return
	}
	at, known := e.spans[sequence.Start]
	e.blocked = e.blocked || !known
	if sequence.IsFlowStyle {
		if len(sequence.Values) > 0 {
			item += ", "
		}
		e.put(span{at.end, at.end}, item)
		return
	}
	indent := string(e.text[e.lineStart(at.start):at.start])
	e.put(span{at.start, at.start}, "- "+item+e.eol()+indent)
}

// cut takes the lines of an entry away.
func (e *editor) cut(entry *ast.MappingValueNode) { e.lines(e.entry(entry)) }

// lines takes lines away.
func (e *editor) lines(within span) {
	from, to := e.lineStart(within.start), e.lineEnd(within.end)
	if rest := string(e.text[to:]); strings.HasPrefix(rest, e.eol()) {
		to += len(e.eol())
	}
	e.put(span{from, to}, "")
}
