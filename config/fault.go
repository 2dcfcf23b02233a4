package config

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
	"golang.org/x/text/language"
	"golang.org/x/text/message"

	"github.com/regkeeper/regkeeper/problem"
)

// Schema is the JSON Schema of the document (draft 2020-12).
//
//go:embed schema.json
var Schema string

// compiled is the schema ready for use. That it compiles is for the tests to
// see; it is part of the program.
var compiled = sync.OnceValue(func() *jsonschema.Schema {
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("regkeeper.json", parsed()); err != nil {
		panic(err)
	}
	return compiler.MustCompile("regkeeper.json")
})

// parsed is the schema as a document.
var parsed = sync.OnceValue(func() any {
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(Schema))
	if err != nil {
		panic(err)
	}
	return doc
})

// Fault is one thing wrong in a document.
type Fault struct {
	// Line and Column count from 1; zero if the fault is nowhere in
	// particular.
	Line   int    `json:"line"`
	Column int    `json:"column"`
	Text   string `json:"text"`
	Hint   string `json:"hint"`
	// Excerpt is the line, with what may be a secret taken out.
	Excerpt string `json:"excerpt"`
}

// faults gathers what is wrong in one document.
type faults struct {
	name string
	text []byte
	root ast.Node
	list []Fault
	// shaped says that the faults of shape have been noted.
	shaped bool
}

// decode reads the document, and says whether it has the right shape.
func (f *faults) decode() (doc document, ok bool) {
	file, err := parser.ParseBytes(f.text, 0)
	if err != nil {
		f.addYAML(err)
		return doc, false
	}
	if len(file.Docs) == 0 || file.Docs[0].Body == nil || file.Docs[0].Body.Type() == ast.NullType {
		f.list = append(f.list, Fault{Line: 1, Column: 1, Text: "the configuration is empty", Hint: "start from the example in the README"})
		return doc, false
	}
	if len(file.Docs) > 1 {
		f.list = append(f.list, Fault{Text: "there is more than one document", Hint: "take the others away, and their --- lines"})
		return doc, false
	}
	f.root = file.Docs[0].Body
	var value any
	if err := yaml.NodeToValue(f.root, &value); err != nil {
		f.addYAML(err)
		return doc, false
	}
	var invalid *jsonschema.ValidationError
	if err := compiled().Validate(value); errors.As(err, &invalid) {
		f.addSchema(invalid)
		// What can be read of it is looked through all the same, so that one
		// run shows every fault.
		value = blank(value, invalid)
		text, err := yaml.Marshal(value)
		if err != nil {
			return doc, false
		}
		err = yaml.Unmarshal(text, &doc)
		return doc, err == nil
	} else if err != nil {
		f.list = append(f.list, Fault{Text: err.Error()})
		return doc, false
	}
	if err := yaml.NodeToValue(f.root, &doc, yaml.Strict()); err != nil {
		f.addYAML(err)
		return doc, false
	}
	return doc, true
}

// blank puts an empty value wherever one of the wrong type stands.
func blank(value any, invalid *jsonschema.ValidationError) any {
	for _, cause := range invalid.Causes {
		value = blank(value, cause)
	}
	if wrong, ok := invalid.ErrorKind.(*kind.Type); ok {
		var empty any
		switch wrong.Want[0] {
		case "object":
			empty = map[string]any{}
		case "array":
			empty = []any{}
		case "string":
			empty = ""
		}
		return replace(value, invalid.InstanceLocation, empty)
	}
	return value
}

func replace(value any, at []string, by any) any {
	if len(at) == 0 {
		return by
	}
	switch v := value.(type) {
	case map[string]any:
		v[at[0]] = replace(v[at[0]], at[1:], by)
	case []any:
		if i, err := strconv.Atoi(at[0]); err == nil && i < len(v) {
			v[i] = replace(v[i], at[1:], by)
		}
	}
	return value
}

// addYAML notes what the YAML parser says.
func (f *faults) addYAML(err error) {
	fault := Fault{Text: "this is no YAML", Hint: "look at the indentation, quotes and colons there"}
	var detail yaml.Error
	if errors.As(err, &detail) {
		if token := detail.GetToken(); token != nil {
			fault.Line, fault.Column = token.Position.Line, token.Position.Column
		}
		fault.Excerpt = f.excerpt(fault.Line)
		fault.Text = quotation.ReplaceAllStringFunc(detail.GetMessage(), func(quote string) string {
			if inner := quote[1 : len(quote)-1]; familiar(inner) || strings.Contains(fault.Excerpt, inner) {
				return quote
			}
			return redacted
		})
	}
	f.list = append(f.list, fault)
}

// secretHint is what to write in a secret's place.
const secretHint = "a secret is never written here: say where it is, as {env: NAME}, {file: PATH}, {secret: NAMESPACE/NAME/KEY} or {exec: [PROGRAM, ARGUMENT]}"

// addSchema notes each fault at the leaves of a validation error.
func (f *faults) addSchema(invalid *jsonschema.ValidationError) {
	at := invalid.InstanceLocation
	if _, ok := invalid.ErrorKind.(*kind.AnyOf); ok {
		f.add("give namespaces, or a namespaceSelector", at, "it names no namespaces")
		return
	}
	if len(invalid.Causes) > 0 {
		for _, cause := range invalid.Causes {
			f.addSchema(cause)
		}
		return
	}
	last := ""
	if len(at) > 0 {
		last = at[len(at)-1]
	}
	// inSecret says that the value of a reference's key stands there.
	inSecret := len(at) > 1 && at[len(at)-2] == "password"
	switch k := invalid.ErrorKind.(type) {
	case *kind.AdditionalProperties:
		known := f.keys(invalid.SchemaURL)
		for _, key := range k.Properties {
			if last == "password" {
				// What stands there may be the secret itself.
				f.add(secretHint, at, "unknown key")
				continue
			}
			hint := "known are: " + strings.Join(known, ", ")
			if near := nearest(key, known); near != "" {
				hint = fmt.Sprintf("did you mean %q? Known are: %s", near, strings.Join(known, ", "))
			}
			where := append(at[:len(at):len(at)], key)
			if f.doubtful(where) {
				f.addKey(hint, where, "unknown key, not shown since it may be a secret")
				continue
			}
			f.addKey(hint, where, "unknown key %q", key)
		}
	case *kind.Type:
		if last == "password" || inSecret && last == "secret" {
			f.add(secretHint, at, "a secret stands in the document")
			return
		}
		f.add(f.typeHint(k, invalid.SchemaURL), at, "%s belongs here, not %s", strings.Join(k.Want, " or "), k.Got)
	case *kind.Required:
		f.add("the keys here are: "+strings.Join(f.keys(invalid.SchemaURL), ", "), at, "missing: %s", strings.Join(k.Missing, ", "))
	case *kind.Enum:
		f.add(fmt.Sprintf("one of %v", k.Want), at, "%v is not known here", k.Got)
	case *kind.Pattern:
		if inSecret && last == "secret" {
			f.add(secretHint, at, "it is no key of a Secret, and may be a secret itself")
			return
		}
		if last == "url" || last == "cert" || last == "key" {
			f.add(examples(invalid.SchemaURL), at, "it cannot be read")
			return
		}
		f.add(examples(invalid.SchemaURL), at, "%q cannot be read", k.Got)
	case *kind.MinLength:
		f.add(examples(invalid.SchemaURL), at, "it is empty")
	case *kind.MaxLength:
		f.add(fmt.Sprintf("at most %d characters are allowed", k.Want), at, "it has %d characters", k.Got)
	case *kind.Minimum:
		f.add("give "+k.Want.RatString()+" or more", at, "%s is too few", k.Got.RatString())
	case *kind.MinItems:
		f.add("add at least one", at, "the list is empty")
	case *kind.MinProperties:
		if len(at) == 2 && at[0] == "targets" {
			return // the builder says it better
		}
		f.add(choice(f.keys(invalid.SchemaURL)), at, "one of these is missing")
	case *kind.MaxProperties:
		f.add(choice(f.keys(invalid.SchemaURL)), at, "there are %d where one belongs", k.Got)
	case *kind.UniqueItems:
		f.add("take one away", at, "items %d and %d are the same", k.Duplicates[0], k.Duplicates[1])
	default:
		f.add("", at, "%s", k.LocalizedString(message.NewPrinter(language.English)))
	}
}

// typeHint says what a value of the right type looks like.
func (f *faults) typeHint(k *kind.Type, url string) string {
	hint := examples(url)
	switch {
	case hint != "" && k.Got == "number":
		return hint + ", in quotes"
	case hint != "":
		return hint
	}
	switch k.Want[0] {
	case "string":
		if k.Got == "number" {
			return "put it in quotes"
		}
		return "give one text"
	case "object":
		return "the keys here are: " + strings.Join(f.keys(url), ", ")
	case "array":
		return "write a list: a line for each, with - before it"
	case "boolean":
		return "write true or false, without quotes"
	case "integer":
		return "write a whole number, without quotes"
	}
	return ""
}

func choice(keys []string) string { return "give one of: " + strings.Join(keys, ", ") }

// lookup is the part of the schema that a schema URL points at.
func lookup(url string) map[string]any {
	_, pointer, _ := strings.Cut(url, "#/")
	doc := parsed()
	for _, step := range strings.Split(pointer, "/") {
		object, ok := doc.(map[string]any)
		if !ok {
			return nil
		}
		if step != "" {
			doc = object[step]
		}
	}
	object, _ := doc.(map[string]any)
	return object
}

func (f *faults) keys(url string) []string {
	properties, _ := lookup(url)["properties"].(map[string]any)
	var keys []string
	for key := range properties {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func examples(url string) string {
	list, _ := lookup(url)["examples"].([]any)
	var words []string
	for _, example := range list {
		words = append(words, fmt.Sprint(example))
	}
	if len(words) == 0 {
		return ""
	}
	return "write it as: " + strings.Join(words, ", ")
}

// add notes a fault at a place in the document.
func (f *faults) add(hint string, at []string, format string, args ...any) {
	node, _ := locate(f.root, at)
	f.addAt(node, hint, at, format, args...)
}

// addKey notes a fault at a key rather than at its value.
func (f *faults) addKey(hint string, at []string, format string, args ...any) {
	node, key := locate(f.root, at)
	if key != nil {
		node = key
	}
	f.addAt(node, hint, at[:len(at)-1], format, args...)
}

func (f *faults) addErr(at []string, err error) {
	f.add(problem.HintOf(err), at, "%v", err)
}

func (f *faults) addAt(node ast.Node, hint string, at []string, format string, args ...any) {
	fault := Fault{Text: fmt.Sprintf(format, args...), Hint: hint}
	if where := pathText(at); where != "" {
		fault.Text = where + ": " + fault.Text
	}
	if node != nil && node.GetToken() != nil {
		position := node.GetToken().Position
		if first := firstToken(node); first != nil {
			position = first.GetToken().Position
		}
		fault.Line, fault.Column = position.Line, position.Column
	}
	fault.Excerpt = f.excerpt(fault.Line)
	if fault.Line > 0 {
		fault.Text = discreet(fault.Text, fault.Excerpt)
	}
	// One mistake can be a fault of shape and of meaning; the first says it.
	if f.shaped && slices.ContainsFunc(f.list, func(g Fault) bool { return g.Line == fault.Line && g.Column == fault.Column }) {
		return
	}
	f.list = append(f.list, fault)
}

// firstToken is where a mapping begins: its own token is its first colon.
func firstToken(node ast.Node) ast.Node {
	switch n := node.(type) {
	case *ast.MappingNode:
		if len(n.Values) > 0 {
			return n.Values[0].Key
		}
	case *ast.MappingValueNode:
		return n.Key
	}
	return nil
}

// locate finds the node at a path, or the nearest above it that exists, and
// the key it stands under.
func locate(node ast.Node, at []string) (value, key ast.Node) {
	for _, step := range at {
		if anchor, ok := node.(*ast.AnchorNode); ok {
			node = anchor.Value
		}
		switch n := node.(type) {
		case *ast.MappingNode:
			i := slices.IndexFunc(n.Values, func(v *ast.MappingValueNode) bool { return v.Key.String() == step })
			if i < 0 {
				return node, nil
			}
			node, key = n.Values[i].Value, n.Values[i].Key
		case *ast.MappingValueNode:
			if n.Key.String() != step {
				return node, nil
			}
			node, key = n.Value, n.Key
		case *ast.SequenceNode:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(n.Values) {
				return node, nil
			}
			node, key = n.Values[i], nil
		default:
			return node, key
		}
	}
	return node, key
}

func pathText(at []string) string {
	var b strings.Builder
	for _, step := range at {
		if _, err := strconv.Atoi(step); err == nil {
			fmt.Fprintf(&b, "[%s]", step)
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(step)
	}
	return b.String()
}

const redacted = "[redacted]"

var (
	// keyForm matches a key of a mapping, in block or in flow style, and what
	// is behind its colon.
	keyForm = regexp.MustCompile(`(?:^|[^\w])["']?([^\s:,{}\[\]"']*)["']?\s*(:)(?:\s|$|["'{\[])`)
	// glued matches what looks like a secret's key and is none in YAML.
	glued = regexp.MustCompile(`(?i)((?:pass|secret|token|auth|key)[\w-]*["']?[:=])[^\s{].*`)
	// reference matches a secret's reference, whole.
	reference = regexp.MustCompile(`^\s*\{\s*(?:(?:env|file)\s*:\s*[^\s,{}]+|secret\s*:\s*[a-z0-9.-]+/[a-z0-9.-]+/[\w.-]+|exec\s*:\s*\[[^\]]*\])\s*\}\s*(?:[,}\]#].*)?$`)
	// clusterKey matches what may be shown behind a key "secret": a key of a
	// Secret, or an object, whose own keys tell.
	clusterKey = regexp.MustCompile(`^\s*(?:[a-z0-9.-]+/[a-z0-9.-]+/[\w.-]+\s*(?:[,}\]#].*)?$|\{)`)
	// userinfo matches a login in a URL.
	userinfo = regexp.MustCompile(`://[^/\s@]+@`)
)

// pasted are the keys of the schema that secrets get pasted behind.
var pasted = []string{"password", "key", "secret"}

// shown are the keys whose values may be quoted: those of the schema, without
// the ones that secrets get pasted into. Anybody's own key may be one.
var shown = sync.OnceValue(func() map[string]bool {
	keys := map[string]bool{}
	var walk func(any)
	walk = func(node any) {
		switch n := node.(type) {
		case map[string]any:
			properties, _ := n["properties"].(map[string]any)
			for key := range properties {
				keys[key] = true
			}
			for _, child := range n {
				walk(child)
			}
		case []any:
			for _, child := range n {
				walk(child)
			}
		}
	}
	walk(lookup("#/"))
	for _, key := range pasted {
		delete(keys, key)
	}
	return keys
})

// quoted matches what a fault's text quotes, by %q.
var quoted = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)

// discreet takes out of a text what it quotes of the document and the excerpt
// does not show.
func discreet(text, excerpt string) string {
	return quoted.ReplaceAllStringFunc(text, func(quote string) string {
		value, err := strconv.Unquote(quote)
		if err == nil && (familiar(value) || strings.Contains(excerpt, value)) {
			return quote
		}
		return redacted
	})
}

// quotation matches what a message of the YAML parser quotes of the document.
var quotation = regexp.MustCompile("[\"'`].*[\"'`]")

// excerpt is a line of the document, with what may be a secret taken out. The
// document may be no YAML at all, so that this goes by the line's looks: a
// value is shown behind a key of the schema's, and a line without a key is
// shown if the last key before it was.
func (f *faults) excerpt(line int) string {
	lines := strings.Split(string(f.text), "\n")
	if line < 1 || line > len(lines) {
		return ""
	}
	text, closed := "", open
	for _, l := range lines[:line] {
		text, closed = redact(strings.TrimRight(l, "\r "), closed)
	}
	return userinfo.ReplaceAllString(text, "://"+redacted+"@")
}

// open says that no key before a line has a value that is not shown.
const open = -1

// redact takes out of a line what may be a secret. closed is the indentation of
// the last key whose value is not shown, or open: what follows may be its value,
// also by a slip, until a key that stands less deep.
func redact(line string, closed int) (text string, stillClosed int) {
	indent := len(line) - len(strings.TrimLeft(line, " \t"))
	at := keyForm.FindStringSubmatchIndex(line)
	if indent < closed && at != nil && at[0] <= indent {
		closed = open
	}
	if closed != open && line[indent:] != "" && (at == nil || at[0] > indent || !familiar(line[at[2]:at[3]])) {
		return line[:indent] + redacted, closed
	}
	for from := 0; ; at = keyForm.FindStringSubmatchIndex(line[from:]) {
		if at == nil {
			return glued.ReplaceAllString(line, "${1}"+redacted), closed
		}
		name, behind := line[from+at[2]:from+at[3]], line[from+at[5]:]
		from += at[5]
		switch {
		case shown()[name]:
			closed = open
		case name == "password" && reference.MatchString(behind), name == "secret" && clusterKey.MatchString(behind):
			closed = open
		case strings.TrimSpace(behind) == "":
			return line, indent
		default:
			return line[:from] + " " + redacted, indent
		}
	}
}

// familiar says whether a key is one of the schema's, or a slip of one.
func familiar(key string) bool {
	return slices.Contains(pasted, key) || shown()[key] || nearest(key, slices.Collect(maps.Keys(shown()))) != ""
}

// doubtful says whether a key may be a secret that slipped out of its place: the
// excerpt of its line does not show it.
func (f *faults) doubtful(at []string) bool {
	_, key := locate(f.root, at)
	name := at[len(at)-1]
	return key == nil || !familiar(name) && !strings.Contains(f.excerpt(key.GetToken().Position.Line), name)
}

// err is all faults as one problem; nil if there are none.
func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	slices.SortStableFunc(f.list, func(a, b Fault) int { return cmp.Or(a.Line-b.Line, a.Column-b.Column) })
	var b strings.Builder
	count := "1 fault"
	if len(f.list) > 1 {
		count = fmt.Sprintf("%d faults", len(f.list))
	}
	fmt.Fprintf(&b, "%s in %s", count, f.name)
	for _, fault := range f.list {
		fmt.Fprintf(&b, "\n  %s", f.name)
		if fault.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", fault.Line, fault.Column)
		}
		fmt.Fprintf(&b, ": %s", fault.Text)
		if fault.Excerpt != "" {
			fmt.Fprintf(&b, "\n    %4d | %s", fault.Line, fault.Excerpt)
		}
		if fault.Hint != "" {
			fmt.Fprintf(&b, "\n         = %s", fault.Hint)
		}
	}
	return &Error{Faults: f.list, problem: problem.New(problem.Config, "regkeeper config schema prints what may stand where", "%s", b.String())}
}

// Error is all that is wrong in a document.
type Error struct {
	Faults  []Fault
	problem *problem.Error
}

// Error lists the faults, one below the other.
func (e *Error) Error() string { return e.problem.Error() }

// Unwrap returns the problem.
func (e *Error) Unwrap() error { return e.problem }

// nearest is the known word that is at most two changes away.
func nearest(word string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := changes(strings.ToLower(word), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// changes is the Levenshtein distance.
func changes(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		previous := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := previous
			if a[i] != b[j] {
				cost++
			}
			previous = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
