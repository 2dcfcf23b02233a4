package peer

import (
	"fmt"
	"maps"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/plan"
)

// expression is a regular expression of a peer that puts it between \A and \z
// without parentheses: of "a|b" the a is then held at its beginning only, and the
// b at its end.
type expression struct {
	*regexp.Regexp
	// whole matches the same tags, each from its first character to its last.
	whole  *regexp.Regexp
	source string
	fold   bool // capitals do not count
}

// compile reads an expression as the peer does, and on its own as its form does.
func compile(source string, fold bool) (*expression, error) {
	if _, err := regexp.Compile(source); err != nil {
		return nil, err
	}
	flags := ""
	if fold {
		flags = "(?i)"
	}
	re, err := regexp.Compile(flags + `\A` + source + `\z`)
	if err != nil {
		return nil, err
	}
	e := &expression{Regexp: re, source: source, fold: fold}
	whole := source
	switch {
	case e.loose():
		whole = `(?s:.*)(?:` + e.String() + `)(?s:.*)`
	case fold:
		whole = `(?i:` + source + `)`
	}
	e.whole, err = regexp.Compile(whole)
	return e, err
}

// branches are the alternatives of the expression with its anchors.
func (e *expression) branches() []*syntax.Regexp {
	tree, err := syntax.Parse(`\A`+e.source+`\z`, syntax.Perl)
	if err != nil {
		return nil
	}
	if tree.Op == syntax.OpAlternate {
		return tree.Sub
	}
	return []*syntax.Regexp{tree}
}

// loose says whether something else than a whole tag can match.
func (e *expression) loose() bool {
	branches := e.branches()
	if len(branches) != 1 {
		return true
	}
	_, from, to := inner(branches[0])
	return !from || !to
}

// looseNote is for people who did not expect it.
func (e *expression) looseNote(what string) []string {
	if !e.loose() {
		return nil
	}
	return []string{fmt.Sprintf("%s %s is anchored only at its first and last character, so that its alternatives match parts of tags: (?:%s) would be whole tags", what, e.source, e.source)}
}

// inner takes the anchors off a branch.
func inner(re *syntax.Regexp) (parts []*syntax.Regexp, from, to bool) {
	parts = []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	if len(parts) > 0 && parts[0].Op == syntax.OpBeginText {
		parts, from = parts[1:], true
	}
	if last := len(parts) - 1; last >= 0 && parts[last].Op == syntax.OpEndText {
		parts, to = parts[:last], true
	}
	return parts, from, to
}

// word is a set of tags: a text, and all that begin with it and are longer.
type word struct {
	text         string
	self, longer bool
}

const (
	// mostWords is how many words an expression is taken apart into.
	mostWords = 64
	// mostOfTag is how long a tag may be (OCI distribution specification,
	// "Pulling manifests").
	mostOfTag = 128
)

// words are tags that the expression matches; exact says that there are no
// others.
func (e *expression) words() (list []word, exact bool) {
	exact = true
	for _, branch := range e.branches() {
		parts, from, to := inner(branch)
		if !from {
			exact = false
			continue
		}
		of, all := wordsOf(&syntax.Regexp{Op: syntax.OpConcat, Sub: parts}, true, to, e.fold)
		exact = exact && all
		for _, w := range of {
			if len(w.text) <= mostOfTag {
				list = append(list, word{w.text, w.self, w.longer || !to})
			}
		}
	}
	return list, exact
}

// wordsOf takes an expression apart. First and last say whether it begins and
// ends a tag, so that anchors in it hold.
func wordsOf(re *syntax.Regexp, first, last, fold bool) (list []word, exact bool) {
	nothing := []word{{self: true}}
	anything := func() bool {
		return len(re.Sub) == 1 && (re.Sub[0].Op == syntax.OpAnyChar || re.Sub[0].Op == syntax.OpAnyCharNotNL)
	}
	switch re.Op {
	case syntax.OpEmptyMatch:
		return nothing, true
	case syntax.OpBeginText:
		if first {
			return nothing, true
		}
	case syntax.OpEndText:
		if last {
			return nothing, true
		}
	case syntax.OpLiteral:
		text := string(re.Rune)
		if fold {
			text = strings.ToLower(text)
		}
		return []word{{text: text, self: true}}, fold || re.Flags&syntax.FoldCase == 0
	case syntax.OpCharClass:
		for i := 0; i < len(re.Rune); i += 2 {
			for r := re.Rune[i]; r <= re.Rune[i+1]; r++ {
				if len(list) == mostWords {
					return nil, false
				}
				list = append(list, word{text: string(r), self: true})
			}
		}
		return list, !fold
	case syntax.OpCapture:
		return wordsOf(re.Sub[0], first, last, fold)
	case syntax.OpStar:
		if anything() {
			return []word{{self: true, longer: true}}, true
		}
	case syntax.OpPlus:
		if anything() {
			return []word{{longer: true}}, true
		}
	case syntax.OpQuest:
		list, exact = wordsOf(re.Sub[0], first, last, fold)
		return append(nothing, list...), exact
	case syntax.OpAlternate:
		exact = true
		for _, sub := range re.Sub {
			of, all := wordsOf(sub, first, last, fold)
			list, exact = append(list, of...), exact && all
		}
		if len(list) <= mostWords {
			return list, exact
		}
	case syntax.OpConcat:
		list, exact = nothing, true
		for i, sub := range re.Sub {
			of, all := wordsOf(sub, first && i == 0, last && i == len(re.Sub)-1, fold)
			exact = exact && all
			var longer []word
			for _, a := range list {
				for _, b := range of {
					switch {
					case !a.longer:
						longer = append(longer, word{a.text + b.text, b.self, b.longer})
					case b.text == "" && b.self:
						// What goes on for ever goes on.
						longer = append(longer, a)
					default:
						exact = false
					}
				}
			}
			if list = longer; len(list) > mostWords {
				return nil, false
			}
		}
		return list, exact
	}
	return nil, false
}

// branch is a place in the tree of some words.
type branch struct {
	self, longer bool
	next         map[rune]*branch
}

// otherThan is a rule that keeps the tags that are none of the words; none if
// there are no other tags. It keeps no image without a tag.
func otherThan(words []word) (rule plan.Rule, some bool) {
	if len(words) == 0 {
		return plan.Rule{Pattern: "*"}, true
	}
	root := &branch{next: map[rune]*branch{}}
	for _, w := range words {
		at := root
		for _, r := range w.text {
			if at.next[r] == nil {
				at.next[r] = &branch{next: map[rune]*branch{}}
			}
			at = at.next[r]
		}
		at.self, at.longer = at.self || w.self, at.longer || w.longer
	}
	root.self = true // no tag is empty
	text, some := root.others()
	if !some {
		return plan.Rule{}, false
	}
	return plan.Rule{Regex: regexp.MustCompile(text)}, true
}

// others is an expression for what can follow here and makes none of the words.
func (b *branch) others() (text string, some bool) {
	var ways []string
	if !b.longer {
		class := ""
		for _, r := range slices.Sorted(maps.Keys(b.next)) {
			class += inClass(r)
			if rest, some := b.next[r].others(); some {
				ways = append(ways, regexp.QuoteMeta(string(r))+rest)
			}
		}
		if class == "" {
			ways = append(ways, ".+")
		} else {
			ways = append(ways, "[^"+class+"].*")
		}
	}
	switch {
	case len(ways) == 0:
		return "", !b.self
	case !b.self:
		return "(?:" + strings.Join(ways, "|") + ")?", true
	case len(ways) == 1:
		return ways[0], true
	}
	return "(?:" + strings.Join(ways, "|") + ")", true
}

func inClass(r rune) string {
	if strings.ContainsRune(`-^]\[&`, r) {
		return `\` + string(r)
	}
	return string(r)
}

// globbed is a glob of a tag as a rule: of stars, question marks, [classes] and
// {alternatives}. A tag has no slashes, so that ** is *.
func globbed(glob string) (plan.Rule, bool) {
	if !strings.ContainsAny(glob, `[]{}\`) {
		for strings.Contains(glob, "**") {
			glob = strings.ReplaceAll(glob, "**", "*")
		}
		if glob == "*" || glob == "" {
			return plan.Rule{}, true
		}
		return plan.Rule{Pattern: glob}, true
	}
	re, err := regexp.Compile(globText(glob))
	return plan.Rule{Regex: re}, err == nil
}

// globText is a glob of a tag as a regular expression.
func globText(glob string) string {
	var b strings.Builder
	runes := []rune(glob)
	depth := 0
	for i := 0; i < len(runes); i++ {
		switch r := runes[i]; {
		case r == '\\' && i+1 < len(runes):
			i++
			b.WriteString(regexp.QuoteMeta(string(runes[i])))
		case r == '*':
			for i+1 < len(runes) && runes[i+1] == '*' {
				i++
			}
			b.WriteString(".*")
		case r == '?':
			b.WriteByte('.')
		case r == '[':
			b.WriteByte('[')
			if i+1 < len(runes) && (runes[i+1] == '!' || runes[i+1] == '^') {
				i++
				b.WriteByte('^')
			}
			for i++; i < len(runes) && runes[i] != ']'; i++ {
				switch {
				case runes[i] == '\\' && i+1 < len(runes):
					i++
					b.WriteString(`\` + string(runes[i]))
				case runes[i] == '[' || runes[i] == '&':
					b.WriteString(`\` + string(runes[i]))
				default:
					b.WriteRune(runes[i])
				}
			}
			b.WriteByte(']')
		case r == '{':
			depth++
			b.WriteString("(?:")
		case r == '}' && depth > 0:
			depth--
			b.WriteByte(')')
		case r == ',' && depth > 0:
			b.WriteByte('|')
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	return b.String()
}
