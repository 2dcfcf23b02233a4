package file

import (
	"slices"
	"strings"
)

// hole stands where it is not known what a variable is. No name has it.
const hole = "\x00"

// lookup is all that a variable may be; none if that is not known. The values
// may have variables themselves.
type lookup func(name string) []string

const (
	// maxMeanings bounds what a name of several variables of several values
	// each may mean; beyond, the variables are not known.
	maxMeanings = 256
	// maxNesting bounds how deep values lie in values.
	maxNesting = 10
	// maxLookups bounds how many variables one name comes to, those in values
	// included, and maxLength in bytes what it comes to.
	maxLookups = 4096
	maxLength  = 4096
)

// expander puts values where variables are.
type expander struct {
	values lookup
	active []string
	// lookups counts variables; shared by all that work on one name.
	lookups *int
}

func newExpander(values lookup) *expander { return &expander{values: values, lookups: new(int)} }

// piece is a part of a text: as it is, or a variable.
type piece struct {
	text     string
	variable bool
	name     string
	// operator is what stands behind the name in braces, and operand what is
	// behind that: ":-" and a default.
	operator, operand string
}

// expand is all that a text may mean, holes where that is not known.
func (x *expander) expand(text string) []string {
	meanings := []string{""}
	for _, p := range cut(text) {
		options := []string{p.text}
		if p.variable {
			options = x.meant(p)
		}
		if len(meanings)*len(options) > maxMeanings {
			options = []string{hole}
		}
		next := make([]string, 0, len(meanings)*len(options))
		for _, m := range meanings {
			for _, o := range options {
				if len(m)+len(o) > maxLength {
					return []string{hole}
				}
				next = append(next, m+o)
			}
		}
		meanings = next
	}
	slices.Sort(meanings)
	return slices.Compact(meanings)
}

// meant is all that a variable may mean.
//
//	written     unset   set and empty   set
//	${X}        hole    empty           its value
//	${X:-y}     hole    y               its value
//	${X-y}      hole    empty           its value
//	${X:+y}     hole    empty           y
//	${X+y}      hole    y               y
//	others      hole    hole            hole
//
// One that the file does not set may be set from outside, so that what is
// written for its being unset says nothing.
func (x *expander) meant(p piece) []string {
	if *x.lookups++; *x.lookups > maxLookups {
		return []string{hole}
	}
	values := x.values(p.name)
	if p.name == "" || len(values) == 0 || len(x.active) >= maxNesting || slices.Contains(x.active, p.name) {
		return []string{hole}
	}
	inner := &expander{x.values, append(slices.Clone(x.active), p.name), x.lookups}
	var all []string
	for _, value := range values {
		for _, v := range inner.expand(value) {
			empty := v == ""
			switch p.operator {
			case "", "-", ":?", "?":
				all = append(all, v)
			case ":-":
				if empty {
					all = append(all, inner.expand(p.operand)...)
				} else {
					all = append(all, v)
				}
			case ":+", "+":
				if empty && p.operator == ":+" {
					all = append(all, "")
				} else {
					all = append(all, inner.expand(p.operand)...)
				}
			default:
				return []string{hole}
			}
		}
		if len(all) > maxMeanings {
			return []string{hole}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// brackets are what expressions stand between, the longer before the shorter.
var brackets = []struct{ begin, end string }{{"${{", "}}"}, {"$[[", "]]"}, {"{{", "}}"}, {"$(", ")"}}

// cut cuts a text at its variables.
func cut(text string) (pieces []piece) {
	from := 0
	for i := 0; i < len(text); {
		p, length := variable(text[i:])
		if length == 0 {
			i++
			continue
		}
		pieces = append(pieces, piece{text: text[from:i]}, p)
		i += length
		from = i
	}
	return append(pieces, piece{text: text[from:]})
}

// variable is the variable at the beginning of a text, and how long it is there;
// 0 if there is none.
func variable(text string) (piece, int) {
	if strings.HasPrefix(text, "$$") {
		return piece{text: "$"}, 2
	}
	for _, b := range brackets {
		if strings.HasPrefix(text, b.begin) {
			end := strings.Index(text, b.end)
			if end < 0 {
				return piece{variable: true}, len(text)
			}
			name := strings.TrimSpace(text[len(b.begin):max(end, len(b.begin))])
			if length := nameLength(name, true); length != len(name) || b.begin == "$(" {
				name = ""
			}
			return piece{variable: true, name: name}, end + len(b.end)
		}
	}
	if strings.HasPrefix(text, "${") {
		end := closing(text)
		if end < 0 {
			return piece{variable: true}, len(text)
		}
		inner := text[2:end]
		length := nameLength(inner, false)
		p := piece{variable: true, name: inner[:length]}
		rest := inner[length:]
		switch {
		case rest == "":
		case len(rest) > 1 && rest[0] == ':' && strings.IndexByte("-+?", rest[1]) >= 0:
			p.operator, p.operand = rest[:2], rest[2:]
		default:
			p.operator, p.operand = rest[:1], rest[1:]
		}
		return p, end + 1
	}
	if strings.HasPrefix(text, "$") {
		if length := nameLength(text[1:], false); length > 0 {
			return piece{variable: true, name: text[1 : 1+length]}, 1 + length
		}
	}
	return piece{}, 0
}

// closing is where the brace that a text begins with is closed; -1 if nowhere.
func closing(text string) int {
	depth := 0
	for i, r := range text {
		switch r {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// nameLength is how long the name at the beginning of a text is. One with dots
// is an expression's: "matrix.image".
func nameLength(text string, dots bool) int {
	for i := range len(text) {
		b := text[i]
		switch {
		case b == '_', 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z':
		case '0' <= b && b <= '9' && i > 0:
		case (b == '.' || b == '-') && dots && i > 0:
		default:
			return i
		}
	}
	return len(text)
}
