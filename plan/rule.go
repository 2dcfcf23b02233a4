package plan

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"github.com/prometheus/common/model"
)

// Rule says which images stay. An image must meet all its conditions; one that is
// zero is none. A rule without conditions keeps everything.
type Rule struct {
	// Last keeps the newest images, so many of those that meet the other
	// conditions. An image without a date stays and takes no place; what is part
	// of one that is as new, or belongs to one, takes none either.
	Last int
	// Pattern is a glob, as of [path.Match], that a tag has to match.
	Pattern string
	// Regex is a regular expression that a tag has to match from its first
	// character to its last.
	Regex *regexp.Regexp
	// Semver is the range that a tag has to lie in as a version.
	Semver *semver.Constraints
	// NewerThan keeps images that were pushed, or else built, within this time.
	NewerThan time.Duration
	// PulledWithin keeps images that were pulled within this time. Where the
	// registry does not tell, they stay.
	PulledWithin time.Duration
	// Deployed keeps images that something uses.
	Deployed bool
	// Branch keeps images with a tag that is the abbreviated name of a commit of
	// these branches or of their past.
	Branch *Branch
}

// Branch is some refs of a git repository.
type Branch struct {
	// Git is the folder of the repository.
	Git string
	// Refs are names as of git: "main", "release/*".
	Refs []string
}

// String is how the history of the branch is called in [Facts].
func (b Branch) String() string { return strings.Join(b.Refs, " ") + " of " + b.Git }

// String is the rule as people know it.
func (r Rule) String() string {
	var parts []string
	add := func(is bool, format string, args ...any) {
		if is {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(r.Last > 0, "last %d", r.Last)
	add(r.Pattern != "", "pattern %s", r.Pattern)
	if r.Regex != nil {
		add(true, "regex %s", r.Regex)
	}
	if r.Semver != nil {
		add(true, "semver %s", r.Semver)
	}
	add(r.NewerThan > 0, "newer than %s", age(r.NewerThan))
	add(r.PulledWithin > 0, "pulled within %s", age(r.PulledWithin))
	add(r.Deployed, "deployed")
	if r.Branch != nil {
		add(true, "branch %s", r.Branch)
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

const day = 24 * time.Hour

// age is a duration in the units that ages of images are told in.
func age(d time.Duration) string { return model.Duration(d).String() }

// said is what the rule says of an image.
func (r Rule) said(a answer) string {
	if a.why == "" {
		return r.String()
	}
	return r.String() + ": " + a.why
}

// answer is what a condition says of an image: that it meets it or not, with why;
// or, if unknown, that a fact is lacking.
type answer struct {
	met, unknown bool
	why          string
}

// judge asks all conditions but Last. The first that is not met decides; of
// several that are unknown the first is told.
func (r Rule) judge(c candidate, facts Facts) answer {
	result := answer{met: true}
	for _, ask := range []func(candidate, Facts) (answer, bool){r.byTag, r.byAge, r.byPulls, r.byUse} {
		a, asked := ask(c, facts)
		switch {
		case !asked:
		case !a.met && !a.unknown:
			return a
		case a.unknown:
			if !result.unknown {
				result = a
			}
		case !result.unknown && a.why != "":
			result.why = strings.TrimPrefix(result.why+", "+a.why, ", ")
		}
	}
	return result
}

// byTag looks for one tag that meets all that is asked of tags.
func (r Rule) byTag(c candidate, facts Facts) (answer, bool) {
	if r.Pattern == "" && r.Regex == nil && r.Semver == nil && r.Branch == nil {
		return answer{}, false
	}
	if _, err := path.Match(r.Pattern, ""); err != nil {
		return answer{unknown: true, why: "the pattern cannot be read"}, true
	}
	var history History
	if r.Branch != nil {
		var known bool
		if history, known = facts.Histories[r.Branch.String()]; !known || history.Unknown != "" {
			why := history.Unknown
			if why == "" {
				why = "it was not read"
			}
			history.Unknown = fmt.Sprintf("the history of %s is not known: %s", r.Branch, why)
		}
	}
	for _, tag := range c.tags {
		if !r.matches(tag) {
			continue
		}
		switch {
		case r.Branch == nil:
			return answer{met: true, why: "tag " + tag}, true
		case history.Unknown != "":
			return answer{unknown: true, why: history.Unknown}, true
		}
		if commit, ok := history.Find(tag); ok {
			return answer{met: true, why: "tag " + tag + " is commit " + commit[:min(len(commit), 12)]}, true
		}
	}
	return answer{why: "no tag matches"}, true
}

// whole is the rule with a Regex that finds a tag as a whole wherever it can:
// of "v1|v1.0" the first alternative is not preferred.
func (r Rule) whole() Rule {
	if r.Regex != nil {
		longest := *r.Regex
		longest.Longest()
		r.Regex = &longest
	}
	return r
}

// matches says whether the tag meets all that is asked of tags but Branch. The
// rule is a whole one.
func (r Rule) matches(tag string) bool {
	if r.Pattern != "" {
		if ok, err := path.Match(r.Pattern, tag); err != nil || !ok {
			return false
		}
	}
	if r.Regex != nil {
		if at := r.Regex.FindStringIndex(tag); at == nil || at[0] != 0 || at[1] != len(tag) {
			return false
		}
	}
	if r.Semver != nil {
		version, err := semver.NewVersion(tag)
		return err == nil && r.Semver.Check(version)
	}
	return true
}

func (r Rule) byAge(c candidate, facts Facts) (answer, bool) {
	switch {
	case r.NewerThan == 0:
		return answer{}, false
	case c.date.IsZero():
		return answer{unknown: true, why: "its age is not known"}, true
	case facts.Now.Sub(c.date) <= r.NewerThan:
		return answer{met: true, why: c.dated(facts.Now)}, true
	}
	return answer{why: c.dated(facts.Now)}, true
}

func (r Rule) byPulls(c candidate, facts Facts) (answer, bool) {
	switch {
	case r.PulledWithin == 0:
		return answer{}, false
	case c.pulled.IsZero():
		return answer{unknown: true, why: "when it was pulled is not known"}, true
	case facts.Now.Sub(c.pulled) <= r.PulledWithin:
		return answer{met: true, why: "pulled " + ago(facts.Now.Sub(c.pulled))}, true
	}
	return answer{why: "pulled " + ago(facts.Now.Sub(c.pulled))}, true
}

func (r Rule) byUse(c candidate, facts Facts) (answer, bool) {
	switch {
	case !r.Deployed:
		return answer{}, false
	case len(c.uses) > 0:
		why := c.uses[0]
		if more := len(c.uses) - 1; more > 0 {
			why += fmt.Sprintf(" and %d more", more)
		}
		return answer{met: true, why: why}, true
	case len(facts.UsesUnknown) > 0:
		return answer{unknown: true, why: "what is deployed is not known: " + facts.UsesUnknown[0]}, true
	}
	return answer{why: "not deployed"}, true
}

// History is the past of some branches.
type History struct {
	// Commits are full names of commits, in hexadecimal, sorted.
	Commits []string
	// Unknown says why it could not be read; empty if it was.
	Unknown string
}

// leastAbbreviation is how short git abbreviates a commit's name.
const leastAbbreviation = 7

var hexadecimal = regexp.MustCompile(`[0-9a-f]{7,64}`)

// Find looks for a commit that the tag, or a part of it, abbreviates: "237c6b8",
// "main-237c6b8".
func (h History) Find(tag string) (string, bool) {
	for _, part := range hexadecimal.FindAllString(strings.ToLower(tag), -1) {
		at, _ := slices.BinarySearch(h.Commits, part)
		if at < len(h.Commits) && len(part) >= leastAbbreviation && strings.HasPrefix(h.Commits[at], part) {
			return h.Commits[at], true
		}
	}
	return "", false
}

// ago is how long something is past, roughly, as people say it.
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "in the future"
	case d < time.Minute:
		return "less than a minute ago"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d minutes ago", int(d.Minutes()))
	case d < 2*day:
		return fmt.Sprintf("%d hours ago", int(d.Hours()))
	}
	return fmt.Sprintf("%d days ago", int(d/day))
}
