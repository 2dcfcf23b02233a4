package k3sconfig

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// editor gathers the changes that put a login into a document. What it comes
// to is compared with what was asked for before it counts, so that its rules
// need not cover all of YAML: where they do not hold, nothing is written.
//
//	the value there         becomes
//	auth is a mapping       its username and password replaced or added, auth and identity_token taken away
//	auth is anything else   {username: …, password: …}
//	host without auth       auth added behind its last key
//	no such host            host added behind the last
//	no configs              configs added behind the last key of the document
type editor struct {
	*Document
	username, password string // as they are written
	changes            []change
	// inBrackets says that what is looked at stands in a mapping in brackets.
	inBrackets bool
	// blocked says that there is no rule for the document.
	blocked bool
}

// change puts text in the place of bytes.
type change struct {
	span
	text string
}

func (e *editor) put(at span, text string) { e.changes = append(e.changes, change{at, text}) }

// apply is the text with the changes made.
func (e *editor) apply() []byte {
	slices.SortStableFunc(e.changes, func(a, b change) int { return a.start - b.start })
	var out bytes.Buffer
	from := 0
	for _, c := range e.changes {
		if c.start < from {
			return nil // they overlap; the result is not what was asked for
		}
		out.Write(e.text[from:c.start])
		out.WriteString(c.text)
		from = c.end
	}
	out.Write(e.text[from:])
	return out.Bytes()
}

// set puts the login below the keys, the last of which is "auth".
func (e *editor) set(keys ...string) {
	if e.root == nil {
		text := written(keys[0]) + ":" + e.below("", keys[1:]...) + e.eol()
		end := len(e.text)
		for t, at := range e.spans {
			if t.Type == token.DocumentEndType {
				end = min(end, at.start)
			}
		}
		if end > 0 && e.text[end-1] != '\n' {
			text = e.eol() + text
		}
		e.put(span{end, end}, text)
		return
	}
	node := e.root
	for i, key := range keys {
		e.inBrackets = e.inBrackets || isFlow(node)
		entry := e.own(node, key)
		switch {
		case entry == nil:
			e.add(node, keys[i:]...)
			return
		case null(entry.Value):
			e.fill(entry, keys[i+1:]...)
			return
		}
		if node = entry.Value; i == len(keys)-1 {
			e.login(entry)
		}
	}
}

// below are the lines that stand below a key: further keys and the login. The
// indent is that of the key.
func (e *editor) below(indent string, keys ...string) string {
	indent += e.unit()
	if len(keys) == 0 {
		return e.eol() + indent + keyUsername + ": " + e.username + e.eol() + indent + keyPassword + ": " + e.password
	}
	return e.eol() + indent + written(keys[0]) + ":" + e.below(indent, keys[1:]...)
}

// flow is what below is, in brackets.
func (e *editor) flow(keys ...string) string {
	if len(keys) == 0 {
		return fmt.Sprintf("{%s: %s, %s: %s}", keyUsername, e.username, keyPassword, e.password)
	}
	return "{" + written(keys[0]) + ": " + e.flow(keys[1:]...) + "}"
}

// written is a key as it is written: a host in quotes, as K3s documents it.
func written(key string) string {
	if key == keyConfigs || key == keyAuth {
		return key
	}
	return `"` + key + `"`
}

// login puts the login into a value under "auth".
func (e *editor) login(auth *ast.MappingValueNode) {
	entries, isMapping := direct(auth.Value)
	if !isMapping || len(entries) == 0 {
		at, ok := e.extent(auth.Value)
		e.blocked = e.blocked || !ok
		e.put(at, e.flow())
		return
	}
	var missing []string
	for _, field := range []struct{ key, text string }{{keyUsername, e.username}, {keyPassword, e.password}} {
		entry := e.own(auth.Value, field.key)
		if entry == nil {
			missing = append(missing, field.key+": "+field.text)
			continue
		}
		at, ok := e.extent(entry.Value)
		if !ok { // nothing stands there
			colon := e.spans[entry.Start]
			at = span{colon.end, colon.end}
			e.put(at, " "+field.text)
			continue
		}
		e.put(at, field.text)
	}
	var surplus []*ast.MappingValueNode
	for _, entry := range entries {
		if key := keyText(entry); key == keyAuth || key == keyToken {
			surplus = append(surplus, entry)
		}
	}
	if len(missing) == 0 && len(surplus) == 0 {
		return
	}
	if e.inBrackets || isFlow(auth.Value) {
		e.changes = nil
		at, _ := e.extent(auth.Value)
		parts := []string{keyUsername + ": " + e.username, keyPassword + ": " + e.password}
		for _, entry := range entries {
			if key := keyText(entry); slices.Contains([]string{keyUsername, keyPassword, keyAuth, keyToken}, key) {
				continue
			}
			within := e.entry(entry)
			parts = append(parts, string(e.text[within.start:within.end]))
		}
		e.put(at, "{"+strings.Join(parts, ", ")+"}")
		return
	}
	indent := e.indent(entries[0])
	if len(missing) > 0 && len(surplus) > 0 {
		e.put(e.entry(surplus[0]), strings.Join(missing, e.eol()+indent))
		missing, surplus = nil, surplus[1:]
	}
	for _, entry := range surplus {
		within := e.entry(entry)
		start, end := e.lineStart(within.start), e.lineEnd(within.end)
		if end < len(e.text) {
			end += len(e.eol())
		}
		e.put(span{start, min(end, len(e.text))}, "")
	}
	if len(missing) > 0 {
		end := e.lineEnd(e.entry(entries[len(entries)-1]).end)
		e.put(span{end, end}, e.eol()+indent+strings.Join(missing, e.eol()+indent))
	}
}

// add puts keys and the login behind the last key of a mapping.
func (e *editor) add(node ast.Node, keys ...string) {
	entries, ok := direct(node)
	if open := mappingStart(node); open != nil {
		at := e.spans[open].end
		text := written(keys[0]) + ": " + e.flow(keys[1:]...)
		if len(entries) > 0 {
			text += ", "
		}
		e.put(span{at, at}, text)
		return
	}
	if !ok || len(entries) == 0 {
		e.blocked = true
		return
	}
	indent := e.indent(entries[0])
	end := e.lineEnd(e.entry(entries[len(entries)-1]).end)
	e.put(span{end, end}, e.eol()+indent+written(keys[0])+":"+e.below(indent, keys[1:]...))
}

// fill puts keys and the login under a key that has null, or nothing.
func (e *editor) fill(entry *ast.MappingValueNode, keys ...string) {
	if at, ok := e.extent(entry.Value); ok {
		e.put(at, e.flow(keys...))
		return
	}
	colon := e.spans[entry.Start].end
	key := e.entry(entry).start
	indent := string(e.text[e.lineStart(key):key])
	if e.inBrackets || strings.Trim(indent, " ") != "" {
		e.put(span{colon, colon}, " "+e.flow(keys...))
		return
	}
	end := e.lineEnd(colon)
	e.put(span{end, end}, e.below(indent, keys...))
}

// own is the entry with the key that stands in the mapping itself.
func (e *editor) own(node ast.Node, key string) *ast.MappingValueNode {
	entries, ok := direct(node)
	if !ok {
		e.blocked = true // an alias, or no mapping
		return nil
	}
	for _, entry := range entries {
		if keyText(entry) == key {
			return entry
		}
	}
	return nil
}

// direct is the entries of a mapping that stands there itself.
func direct(node ast.Node) ([]*ast.MappingValueNode, bool) {
	switch n := node.(type) {
	case *ast.AnchorNode:
		return direct(n.Value)
	case *ast.TagNode:
		return direct(n.Value)
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

func isFlow(node ast.Node) bool { return mappingStart(node) != nil }

// mappingStart is the opening bracket of a mapping; nil if it has none.
func mappingStart(node ast.Node) *token.Token {
	switch n := node.(type) {
	case *ast.AnchorNode:
		return mappingStart(n.Value)
	case *ast.TagNode:
		return mappingStart(n.Value)
	case *ast.MappingNode:
		if n.IsFlowStyle {
			return n.Start
		}
	}
	return nil
}

// entry is where a key and its value stand.
func (e *editor) entry(entry *ast.MappingValueNode) span {
	key, ok := e.extent(entry.Key)
	colon, known := e.spans[entry.Start]
	e.blocked = e.blocked || !ok || !known
	within := span{key.start, max(key.end, colon.end)}
	if value, ok := e.extent(entry.Value); ok {
		within.end = max(within.end, value.end)
	}
	return within
}

// extent is where a node stands; not ok for one that has no text.
func (d *Document) extent(node ast.Node) (within span, ok bool) {
	if node == nil {
		return span{}, false
	}
	note := func(t *token.Token) {
		at, known := d.spans[t]
		switch {
		case t == nil || !known:
		case !ok:
			within, ok = at, true
		default:
			within.start, within.end = min(within.start, at.start), max(within.end, at.end)
		}
	}
	ast.Walk(visit(func(node ast.Node) {
		note(node.GetToken())
		switch n := node.(type) {
		case *ast.MappingNode:
			if n.IsFlowStyle {
				note(n.Start)
				note(n.End)
			}
		case *ast.SequenceNode:
			note(n.Start)
			if n.IsFlowStyle {
				note(n.End)
			}
		case *ast.MappingValueNode:
			note(n.Start)
		case *ast.LiteralNode:
			note(n.Start)
			if n.Value != nil {
				note(n.Value.GetToken())
			}
		case *ast.AnchorNode:
			note(n.Start)
		case *ast.AliasNode:
			note(n.Start)
		case *ast.TagNode:
			note(n.Start)
		}
	}), node)
	return within, ok
}

// indent is the white space before a key that begins its line.
func (e *editor) indent(entry *ast.MappingValueNode) string {
	start := e.entry(entry).start
	text := string(e.text[e.lineStart(start):start])
	if strings.Trim(text, " ") != "" {
		e.blocked = true
	}
	return text
}

func (e *editor) lineStart(offset int) int { return 1 + bytes.LastIndexByte(e.text[:offset], '\n') }

// lineEnd is the end of the line without its line break.
func (e *editor) lineEnd(offset int) int {
	end := bytes.IndexByte(e.text[offset:], '\n')
	if end < 0 {
		return len(e.text)
	}
	end += offset
	if end > offset && e.text[end-1] == '\r' {
		end--
	}
	return end
}

// eol is the document's line break.
func (e *editor) eol() string {
	if i := bytes.IndexByte(e.text, '\n'); i > 0 && e.text[i-1] == '\r' {
		return "\r\n"
	}
	return "\n"
}

// unit is by how much the document indents: as its first nested key does, or
// two spaces.
func (e *editor) unit() string {
	entries, _ := direct(e.root)
	for _, entry := range entries {
		inner, ok := direct(entry.Value)
		if !ok || len(inner) == 0 || isFlow(entry.Value) {
			continue
		}
		key, known := e.extent(inner[0].Key)
		if !known {
			continue
		}
		indent := string(e.text[e.lineStart(key.start):key.start])
		if n := len(indent); n > 0 && n <= 8 && strings.Trim(indent, " ") == "" {
			return indent
		}
	}
	return "  "
}

// quote writes a string so that every version of YAML reads a string, on one
// line.
func quote(s string) string {
	plain := !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
	if plain {
		return "'" + strings.ReplaceAll(s, "'", "''") + "'"
	}
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteRune('\\')
			b.WriteRune(r)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r == '\t':
			b.WriteString(`\t`)
		case r <= 0xff:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r <= 0xffff:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
