package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distribution/reference"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/registry/trial"
)

// inquiry is one decision with what is known of it.
type inquiry struct {
	consumer.Decision
	Facts
	// repository is the image's path, owner the first part of it, tag its tag or
	// digest.
	repository, owner, tag string
	// nobody is the answer to nobody, if that was asked.
	nobody *trial.Answer
}

func newCase(d consumer.Decision, f Facts) *inquiry {
	c := &inquiry{Decision: d, Facts: f}
	if named, err := reference.ParseNormalizedNamed(d.Image); err == nil {
		c.repository = reference.Path(named)
		c.owner, _, _ = strings.Cut(c.repository, "/")
		switch ref := named.(type) {
		case reference.Digested:
			c.tag = ref.Digest().String()
		case reference.Tagged:
			c.tag = ref.Tag()
		}
	}
	for i := range f.Trials {
		if f.Trials[i].Answer.Kind == trial.Nobody {
			c.nobody = &f.Trials[i].Answer
		}
	}
	return c
}

// finding is a cause that was found.
type finding struct {
	code     Code
	evidence []string
	// spared says that the client gets the image all the same.
	spared bool
	// words fill the places in the entry's texts beside those of the inquiry.
	words words
}

// words are what stands in a text's places, by the name in braces.
type words map[string]string

// fill fills a text's places.
func (c *inquiry) fill(text string, more words) string {
	all := []string{
		"{consumer}", c.Consumer, "{image}", c.Image, "{host}", string(c.Host), "{key}", c.Host.Key(), "{repository}", c.repository,
		"{owner}", c.owner, "{tag}", c.tag,
	}
	for name, word := range more {
		all = append(all, "{"+name+"}", word)
	}
	return strings.NewReplacer(all...).Replace(text)
}

// publicly says whether nobody may pull the image.
func (c *inquiry) publicly() bool { return c.nobody != nil && c.nobody.Pulls() }

// found says whether the client finds a login, whatever the map's order.
func (c *inquiry) found() bool {
	return len(c.Outcomes) > 0 && !slices.ContainsFunc(c.Outcomes, func(o consumer.Outcome) bool { return len(o.Tries) == 0 })
}

// says says whether the client has a rule, by its ID.
func (c *inquiry) says(id string) bool {
	return slices.ContainsFunc(c.Decision.Rules, func(r consumer.Rule) bool { return r.ID == id })
}

// step is a step as a line of evidence.
func step(s trial.Step) string {
	line := s.Asked
	if s.As != "" && s.As != string(trial.Nobody) {
		line += ", login shown by " + s.As
	}
	switch {
	case s.Fault != nil:
		line += ": " + s.Fault.Text
	case s.Status != 0:
		line += fmt.Sprintf(": %d", s.Status)
		for _, e := range s.Errors {
			line += strings.TrimRight(" "+e.Code+": "+e.Message, ": ")
		}
		if len(s.Errors) == 0 && s.Body != "" {
			line += " " + oneLine(s.Body)
		}
	case s.Got != "":
		line += ": " + s.Got
	}
	return line
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }

// shown is what a header said, as a line of evidence.
func shown(s trial.Step, names ...string) (lines []string) {
	for _, name := range names {
		if value := s.Header[name]; value != "" {
			lines = append(lines, name+": "+value)
		}
	}
	return lines
}

// look is something looked at as a line of evidence.
func look(l consumer.Look) string {
	line := l.Where
	if l.Key != "" {
		line += ", " + l.Key
	}
	line += ": " + string(l.Verdict)
	if l.Why != "" {
		line += ": " + l.Why
	}
	return line
}

// day is a time as people read it.
func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }

// of names a trial's login.
func of(t trial.Trial) string {
	switch {
	case t.Answer.Kind == trial.Nobody:
		return "no login"
	case t.Where == "":
		return "the login " + t.Answer.Username
	case t.Answer.Username == "":
		return "the token in " + t.Where
	}
	return "the login " + t.Answer.Username + " in " + t.Where
}
