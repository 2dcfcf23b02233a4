package peer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/regkeeper/regkeeper/problem"
)

const (
	// mostBytes is how long a policy may be, and mostDeep how deep.
	mostBytes = 1 << 20
	mostDeep  = 32
)

// document is a policy as it is read. Its faults are gathered.
type document struct {
	kind   Kind
	faults []error
}

// fault notes what is wrong at a place, as "rules[0].selection".
func (d *document) fault(at, hint, format string, args ...any) {
	text := string(d.kind) + " policy: "
	if at != "" {
		text += at + ": "
	}
	d.faults = append(d.faults, problem.New(problem.Config, hint, "%s", text+fmt.Sprintf(format, args...)))
}

func (d *document) err() error { return errors.Join(d.faults...) }

// json reads a JSON document (RFC 8259). A key that comes twice is a fault: of
// two values one would be dropped.
func (d *document) json(raw []byte, hint string) (any, bool) {
	if len(raw) > mostBytes {
		d.fault("", hint, "it is longer than %d bytes", mostBytes)
		return nil, false
	}
	before := len(d.faults)
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	value, err := d.value(decoder, "", 0)
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return value, len(d.faults) == before
		} else if err == nil {
			err = errors.New("there is more behind its end")
		}
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	line := 1 + bytes.Count(raw[:min(int(decoder.InputOffset()), len(raw))], []byte("\n"))
	d.fault("", hint, "it is no JSON: line %d: %v", line, err)
	return nil, false
}

func (d *document) value(decoder *json.Decoder, at string, depth int) (any, error) {
	token, err := decoder.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := token.(json.Delim)
	if !ok {
		return token, nil
	}
	if depth++; depth > mostDeep {
		return nil, errors.New("it is nested too deep")
	}
	if delim == '[' {
		list := []any{}
		for decoder.More() {
			value, err := d.value(decoder, fmt.Sprintf("%s[%d]", at, len(list)), depth)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		_, err = decoder.Token()
		return list, err
	}
	fields := map[string]any{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		key, _ := token.(string)
		if _, twice := fields[key]; twice {
			d.fault(at, "take one of them away", "%q comes twice", key)
		}
		if fields[key], err = d.value(decoder, join(at, key), depth); err != nil {
			return nil, err
		}
	}
	_, err = decoder.Token()
	return fields, err
}

func join(at, key string) string { return strings.TrimPrefix(at+"."+key, ".") }

// object is a part of a document whose fields are read one by one.
type object struct {
	doc    *document
	at     string
	fields map[string]any
	known  map[string]bool
}

// object takes a value for one; of any other an empty object is made, so that
// reading goes on.
func (d *document) object(value any, at string) *object {
	fields, ok := value.(map[string]any)
	if !ok {
		d.fault(at, "write {...}", "it is %s, and has to be an object", kindOf(value))
	}
	return &object{doc: d, at: at, fields: fields, known: map[string]bool{}}
}

// kindOf is a value of JSON as people know it.
func kindOf(value any) string {
	switch value.(type) {
	case nil:
		return "null"
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a text"
	case bool:
		return "true or false"
	}
	return "a number"
}

// has says whether there is such a field, and not null.
func (o *object) has(key string) bool { return o.get(key) != nil }

func (o *object) get(key string) any {
	o.known[key] = true
	return o.fields[key]
}

func (o *object) fault(key, hint, format string, args ...any) {
	o.doc.fault(join(o.at, key), hint, format, args...)
}

// text reads a text; empty if there is none.
func (o *object) text(key string) string {
	value := o.get(key)
	if value == nil {
		return ""
	}
	text, ok := value.(string)
	if !ok {
		o.fault(key, `write it as "..."`, "it is %s, and has to be a text", kindOf(value))
	}
	return text
}

// oneOf reads a text that has to be one of some.
func (o *object) oneOf(key string, allowed ...string) string {
	if !o.has(key) {
		o.fault(key, "write "+strings.Join(allowed, " or "), "it is missing")
		return ""
	}
	text := o.text(key)
	if text != "" && !slices.Contains(allowed, text) {
		o.fault(key, "write "+strings.Join(allowed, " or "), "%q is not known", text)
	}
	return text
}

// count reads a whole number that is not below least; least if there is none.
func (o *object) count(key string, least int) int {
	value := o.get(key)
	if value == nil {
		return least
	}
	n, err := 0, error(nil)
	switch v := value.(type) {
	case json.Number:
		n, err = strconv.Atoi(v.String())
	case uint64, int64:
		n, err = strconv.Atoi(fmt.Sprint(v))
	default:
		err = errors.New("no number")
	}
	switch {
	case err != nil:
		o.fault(key, "write it as 30", "it is no whole number")
		return least
	case n < least:
		o.fault(key, fmt.Sprintf("write %d or more", least), "%d is too few", n)
		return least
	}
	return n
}

// flag reads true or false; false if there is neither.
func (o *object) flag(key string) bool {
	value := o.get(key)
	is, ok := value.(bool)
	if !ok && value != nil {
		o.fault(key, "write true or false", "it is %s", kindOf(value))
	}
	return is
}

func (o *object) list(key string) []any {
	value := o.get(key)
	list, ok := value.([]any)
	if !ok && value != nil {
		o.fault(key, "write [...]", "it is %s, and has to be a list", kindOf(value))
	}
	return list
}

func (o *object) objects(key string) []*object {
	var all []*object
	for i, value := range o.list(key) {
		all = append(all, o.doc.object(value, fmt.Sprintf("%s[%d]", join(o.at, key), i)))
	}
	return all
}

func (o *object) texts(key string) []string {
	var all []string
	for i, value := range o.list(key) {
		text, ok := value.(string)
		if !ok || text == "" {
			o.fault(fmt.Sprintf("%s[%d]", key, i), `write it as "..."`, "it has to be a text, and not an empty one")
			continue
		}
		all = append(all, text)
	}
	return all
}

// ignore names fields that say nothing of what stays.
func (o *object) ignore(keys ...string) {
	for _, key := range keys {
		o.known[key] = true
	}
}

// done refuses the fields that nobody asked for.
func (o *object) done() {
	for _, key := range slices.Sorted(maps.Keys(o.fields)) {
		if !o.known[key] {
			o.fault(key, "take it away, or write one of "+strings.Join(slices.Sorted(maps.Keys(o.known)), ", "), "it is not known")
		}
	}
}
