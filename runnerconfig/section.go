package runnerconfig

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/problem"
)

// Section is what a [[runners]] says, by key: strings, numbers, bools, times,
// lists of these as []any, tables as map[string]any, and lists of tables.
type Section map[string]any

// order is that in which GitLab Runner writes the keys of a runner; others
// follow by name.
var order = []string{
	KeyName, "limit", "output_limit", "request_concurrency", KeyURL, KeyID, KeyToken, KeyObtained, KeyExpires, KeyCA, "tls-cert-file",
	"tls-key-file", KeyExecutor, "builds_dir", "cache_dir", "shell", KeyEnvironment,
}

// Template reads a file for --template-config: a config.toml with exactly one
// runner. Its token counts for nothing, and neither does what stands outside
// the runner (gitlab-runner, commands/register.go, MergeTo).
//
// The error is of kind [problem.Config], or [problem.Damaged] if it is no TOML.
func Template(text []byte) (Section, error) {
	d, err := Parse(text)
	if err != nil {
		return nil, err
	}
	if len(d.runners) != 1 {
		return nil, problem.New(problem.Config, "leave one [[runners]] in it", "the template has %d [[runners]], and must have exactly one", len(d.runners))
	}
	table, err := d.table(0)
	if err != nil {
		return nil, err
	}
	key, _, err := member(table, KeyToken)
	if err != nil {
		return nil, err
	}
	delete(table, key)
	return table, nil
}

// Fill takes from a template what the section does not say: zero values alone
// are filled, tables are gone into, lists are not merged (mergo.Merge, by which
// gitlab-runner does it).
func (s Section) Fill(template Section) { fill(s, template) }

func fill(table, template map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(template)) {
		name, has := key, any(nil)
		for k, v := range table {
			if strings.EqualFold(k, key) {
				name, has = k, v
			}
		}
		inner, ok := has.(map[string]any)
		other, both := template[key].(map[string]any)
		switch {
		case ok && both:
			fill(inner, other)
		case zero(has):
			table[name] = template[key]
		}
	}
}

func zero(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case time.Time:
		return v.IsZero()
	case []any:
		return len(v) == 0
	case map[string]any:
		return len(v) == 0
	}
	return reflect.ValueOf(value).IsZero()
}

// read is the section as a document would say it.
func (s Section) read() (map[string]any, error) {
	root, err := decode([]byte(s.render("\n")))
	if err != nil {
		return nil, err
	}
	var table map[string]any
	err = withRunners(root, func(runners []any) ([]any, error) {
		table, _ = runners[0].(map[string]any)
		return runners, nil
	})
	return table, err
}

// render writes the section with two spaces for each level, as GitLab Runner
// does.
func (s Section) render(eol string) string {
	var text strings.Builder
	write(&text, "[[", []string{keyRunners}, s)
	return strings.ReplaceAll(text.String(), "\n", eol)
}

func write(into *strings.Builder, brackets string, path []string, table map[string]any) {
	indent := strings.Repeat("  ", len(path)-1)
	keys := make([]string, len(path))
	for i, key := range path {
		keys[i] = bare(key)
	}
	fmt.Fprintf(into, "%s%s%s%s\n", indent, brackets, strings.Join(keys, "."), strings.ReplaceAll(brackets, "[", "]"))
	names := slices.SortedFunc(maps.Keys(table), func(a, b string) int {
		if x, y := rank(a), rank(b); x != y {
			return x - y
		}
		return strings.Compare(a, b)
	})
	for _, name := range names {
		if !isTable(table[name]) {
			fmt.Fprintf(into, "%s  %s = %s\n", indent, bare(name), render(table[name]))
		}
	}
	for _, name := range names {
		below := append(slices.Clone(path), name)
		switch value := table[name].(type) {
		case map[string]any:
			write(into, "[", below, value)
		case []any:
			if isTable(value) {
				for _, item := range value {
					write(into, "[[", below, item.(map[string]any))
				}
			}
		}
	}
}

func rank(key string) int {
	if i := slices.Index(order, key); i >= 0 {
		return i
	}
	return len(order)
}

// isTable says whether a value is written under a heading of its own.
func isTable(value any) bool {
	switch v := value.(type) {
	case map[string]any:
		return true
	case []any:
		return len(v) > 0 && !slices.ContainsFunc(v, func(item any) bool { _, ok := item.(map[string]any); return !ok })
	}
	return false
}

// render writes a value on one line.
func render(value any) string {
	switch v := value.(type) {
	case string:
		return quote(v)
	case time.Time:
		return v.Format(time.RFC3339Nano)
	case float64:
		text := strconv.FormatFloat(v, 'f', -1, 64)
		if strings.ContainsAny(text, "NI") {
			return strings.ToLower(strings.TrimPrefix(text, "+"))[:min(len(text), 4)]
		}
		if !strings.Contains(text, ".") {
			text += ".0"
		}
		return text
	case []string:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = quote(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			items[i] = render(item)
		}
		return "[" + strings.Join(items, ", ") + "]"
	case map[string]any:
		var items []string
		for _, key := range slices.Sorted(maps.Keys(v)) {
			items = append(items, bare(key)+" = "+render(v[key]))
		}
		return "{" + strings.Join(items, ", ") + "}"
	}
	return fmt.Sprint(value)
}

// bare writes a key.
func bare(key string) string {
	plain := func(r rune) bool {
		return r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
	}
	if key != "" && !strings.ContainsFunc(key, func(r rune) bool { return !plain(r) }) {
		return key
	}
	return basic(key)
}

// quote writes a string: between single quotes where it holds double ones and
// can be written so (TOML 1.0, literal strings).
func quote(text string) string {
	if strings.ContainsAny(text, `"\`) && !strings.ContainsFunc(text, func(r rune) bool { return r == '\'' || r < ' ' || r == 0x7f }) {
		return "'" + text + "'"
	}
	return basic(text)
}

func basic(text string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range text {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r == '\n':
			out.WriteString(`\n`)
		case r == '\t':
			out.WriteString(`\t`)
		case r == '\r':
			out.WriteString(`\r`)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&out, `\u%04X`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}
