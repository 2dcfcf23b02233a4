package file

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// instruction is one of a Dockerfile: its lines joined, without comments.
type instruction struct {
	line  int
	name  string
	words []string
}

var (
	directive = regexp.MustCompile(`^#\s*([A-Za-z]+)\s*=\s*(\S+)\s*$`)
	heredoc   = regexp.MustCompile(`^\d*<<(-?)([^<\s]+)$`)
)

// dockerfile takes the images that a build begins with, copies from or mounts,
// and that of its frontend. Variables are those of ARG before the first FROM
// (Docker documentation, "Understand how ARG and FROM interact").
func (c *collector) dockerfile(text string) {
	instructions, syntax := c.instructions(text)
	if syntax.name != "" {
		c.take(syntax.name, syntax.line, nil)
	}
	args := map[string]string{}
	values := func(name string) []string {
		if value, ok := args[name]; ok {
			return []string{value}
		}
		return nil
	}
	var stages []string
	begun := 0
	for _, i := range instructions {
		switch i.name {
		case "ARG":
			for _, word := range i.words {
				name, value, ok := strings.Cut(word, "=")
				if ok && begun == 0 {
					// A value may name the variable that it replaces.
					meant := newExpander(c.known(values)).expand(unquote(value))
					if args[name] = meant[0]; len(meant) > 1 {
						args[name] = hole
					}
				}
			}
		case "FROM":
			words := slices.DeleteFunc(slices.Clone(i.words), func(word string) bool { return strings.HasPrefix(word, "--") })
			if len(words) > 0 {
				c.stage(unquote(words[0]), i.line, stages, begun, values)
			}
			begun++
			if len(words) >= 3 && strings.EqualFold(words[1], "AS") {
				stages = append(stages, strings.ToLower(words[2]))
			}
		case "COPY", "RUN":
			for _, word := range i.words {
				if !strings.HasPrefix(word, "--") {
					break
				}
				if from, ok := strings.CutPrefix(word, "--from="); ok && i.name == "COPY" {
					c.stage(unquote(from), i.line, stages, begun, values)
				}
				if mount, ok := strings.CutPrefix(word, "--mount="); ok && i.name == "RUN" {
					for _, option := range strings.Split(unquote(mount), ",") {
						if from, ok := strings.CutPrefix(option, "from="); ok {
							c.stage(from, i.line, stages, begun, values)
						}
					}
				}
			}
		}
	}
}

// stage takes an image, unless it is a stage of the build.
func (c *collector) stage(text string, line int, stages []string, begun int, values lookup) {
	for _, meant := range newExpander(c.known(values)).expand(text) {
		if n, err := strconv.Atoi(meant); err == nil && n >= 0 && n < begun {
			continue
		}
		if meant == "scratch" || slices.ContainsFunc(stages, func(stage string) bool { return matches(strings.ToLower(meant), stage) }) {
			continue
		}
		c.resolved(text, meant, line)
	}
}

// matches says whether a text may be the name of a stage: each hole stands for
// anything, as in "build-$TARGETARCH". A hole alone may as well be an image.
func matches(text, stage string) bool {
	if text == stage {
		return true
	}
	parts := strings.Split(text, hole)
	if len(parts) == 1 || strings.Join(parts, "") == "" || strings.ContainsAny(text, "/:@") {
		return false
	}
	pattern := make([]string, len(parts))
	for i, part := range parts {
		pattern[i] = regexp.QuoteMeta(part)
	}
	ok, err := regexp.MatchString("^"+strings.Join(pattern, ".*")+"$", stage)
	return err == nil && ok
}

func unquote(text string) string {
	for _, quote := range []string{`"`, `'`} {
		if len(text) >= 2 && strings.HasPrefix(text, quote) && strings.HasSuffix(text, quote) {
			return text[1 : len(text)-1]
		}
	}
	return text
}

// instructions takes a text apart, and tells its frontend.
func (c *collector) instructions(text string) (list []instruction, syntax instruction) {
	lines := strings.Split(text, "\n")
	escape := `\`
	i := 0
	for ; i < len(lines); i++ {
		m := directive.FindStringSubmatch(strings.TrimSpace(lines[i]))
		if m == nil {
			break
		}
		switch strings.ToLower(m[1]) {
		case "syntax":
			syntax = instruction{line: i + 1, name: m[2]}
		case "escape":
			escape = m[2]
		}
	}
	for i < len(lines) {
		begins := i + 1
		var joined strings.Builder
		for more := true; more && i < len(lines); i++ {
			line := strings.TrimSpace(lines[i])
			if strings.HasPrefix(line, "#") || line == "" && joined.Len() > 0 {
				if joined.Len() == 0 {
					begins = i + 2
				}
				continue
			}
			line, more = strings.CutSuffix(line, escape)
			joined.WriteString(line + " ")
		}
		words := strings.Fields(joined.String())
		if len(words) > 1 && strings.EqualFold(words[0], "ONBUILD") {
			words = words[1:]
		}
		if len(words) == 0 {
			continue
		}
		in := instruction{begins, strings.ToUpper(words[0]), words[1:]}
		list = append(list, in)
		if in.name == "RUN" || in.name == "COPY" || in.name == "ADD" {
			i = afterHeredocs(lines, i, in.words)
		}
	}
	return list, syntax
}

// afterHeredocs is the line behind the texts that an instruction has below it.
// One that never ends is none: what follows is read.
func afterHeredocs(lines []string, from int, words []string) int {
	for _, word := range words {
		m := heredoc.FindStringSubmatch(word)
		if m == nil {
			continue
		}
		end := slices.IndexFunc(lines[min(from, len(lines)):], func(line string) bool {
			if m[1] != "" {
				line = strings.TrimLeft(line, "\t")
			}
			return line == unquote(m[2])
		})
		if end >= 0 {
			from += end + 1
		}
	}
	return from
}
