// Package runner has the words of CI runners: what is registered on this
// machine, what a verb would do and why, and what it refuses.
//
// It owns the plan, the port Fleet, and the journal that keeps a secret from
// being lost between a forge's answer and the file. It refuses to know a forge.
package runner

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Info is a runner as its file has it, without its token.
type Info struct {
	Name string `json:"name"`
	// URL is the forge's root, without a slash at its end.
	URL string `json:"url"`
	// ID is the forge's number for it; zero where the file does not say.
	ID       int64    `json:"id"`
	Executor string   `json:"executor,omitempty"`
	Labels   []string `json:"labels,omitempty"`
	// File is where it is registered.
	File string `json:"file"`
	// Obtained and Expires are the token's; nil where nobody says.
	Obtained *time.Time `json:"obtained,omitempty"`
	Expires  *time.Time `json:"expires,omitempty"`
}

// Same says whether a runner is that one: the same at the same forge.
func (i Info) Same(other Info) bool { return i.URL == other.URL && i.ID != 0 && i.ID == other.ID }

// Health is what a forge says of a runner.
type Health string

// The healths.
const (
	// Alive is a runner whose token the forge takes.
	Alive Health = "alive"
	// Removed is one whose token it does not take: removed there, or expired.
	Removed Health = "removed"
	// Unknown is one that the forge could not be asked of.
	Unknown Health = "unknown"
)

// Verdict is a runner and how it is.
type Verdict struct {
	Info
	Health Health `json:"health"`
	Reason string `json:"reason"`
}

// Action is what a step does.
type Action string

// The actions.
const (
	Keep       Action = "keep"
	Create     Action = "create"
	Verify     Action = "verify"
	Write      Action = "write"
	Replace    Action = "replace"
	Deliver    Action = "deliver"
	Reset      Action = "reset"
	Unregister Action = "unregister"
	Delete     Action = "delete"
)

// Step is one thing that is done, or was.
type Step struct {
	Action Action `json:"action"`
	What   string `json:"what"`
	Reason string `json:"reason"`
}

// Refusal is something that was asked for and is not done.
type Refusal struct {
	What   string `json:"what"`
	Reason string `json:"reason"`
}

// Plan is what a verb would do, in its order.
type Plan struct {
	Steps    []Step    `json:"steps"`
	Refused  []Refusal `json:"refused,omitempty"`
	Warnings []string  `json:"warnings,omitempty"`
}

// Add puts a step behind the others.
func (p *Plan) Add(action Action, what, format string, args ...any) {
	p.Steps = append(p.Steps, Step{Action: action, What: what, Reason: fmt.Sprintf(format, args...)})
}

// Refuse notes what is not done.
func (p *Plan) Refuse(what, format string, args ...any) {
	p.Refused = append(p.Refused, Refusal{What: what, Reason: fmt.Sprintf(format, args...)})
}

// Warn notes what works and should be known.
func (p *Plan) Warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// Does says whether the plan has such a step.
func (p *Plan) Does(action Action) bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Action == action })
}

// Err is an error of kind [problem.Usage] that names what is refused; nil if
// nothing is.
func (p *Plan) Err(hint string) error {
	if len(p.Refused) == 0 {
		return nil
	}
	texts := make([]string, len(p.Refused))
	for i, r := range p.Refused {
		texts[i] = r.What + ": " + r.Reason
	}
	return problem.New(problem.Usage, hint, "%s", strings.Join(texts, "; "))
}

// Way is how a login reaches a runner's pulls.
type Way string

// The ways.
const (
	// ConfigFile is a config.json of the Docker clients that the runner reads
	// before each pull.
	ConfigFile Way = "config-file"
	// Environment is DOCKER_AUTH_CONFIG in the runner's own file.
	Environment Way = "environment"
)

// Delivery is where logins for job, service and helper images go.
type Delivery struct {
	Way Way `json:"way"`
	// Path is the config.json, or the runner's file.
	Path string `json:"path"`
	// Runner is the runner's name, for [Environment].
	Runner     string            `json:"runner,omitempty"`
	Registries []credential.Host `json:"registries"`
}

// Deliverer puts the logins in force where a delivery says, and keeps them
// there from then on.
type Deliverer interface {
	// Deliver returns when the place holds them.
	Deliver(ctx context.Context, delivery Delivery) error
}

// Selection is which of the runners of a file are meant.
type Selection struct {
	// Names are of runners; with none and without All, the only one is meant.
	Names []string
	All   bool
}

// Pick is the places of the runners that are meant. The error is of kind
// [problem.NotFound] for a name that is none, and [problem.Usage] if it is not
// clear which are meant.
func (s Selection) Pick(file string, runners []Info) ([]int, error) {
	var picked []int
	if len(s.Names) == 0 && !s.All && len(runners) > 1 {
		return nil, problem.New(problem.Usage, "add --name NAME, or --all; there are "+names(runners), "%s has %d runners", file, len(runners))
	}
	if len(runners) == 0 {
		return nil, problem.New(problem.NotFound, "register one first: regkeeper runner register", "%s has no runner", file)
	}
	for i, r := range runners {
		if len(s.Names) == 0 || slices.Contains(s.Names, r.Name) {
			picked = append(picked, i)
		}
	}
	for _, name := range s.Names {
		if !slices.ContainsFunc(runners, func(r Info) bool { return r.Name == name }) {
			return nil, problem.New(problem.NotFound, "the runners there are: "+names(runners), "%s has no runner %q", file, name)
		}
	}
	return picked, nil
}

func names(runners []Info) string {
	list := make([]string, len(runners))
	for i, r := range runners {
		list[i] = r.Name
	}
	return strings.Join(list, ", ")
}

// Fleet is the runners that one file on this machine registers.
type Fleet interface {
	// List reads the file. One that does not exist registers none.
	List(ctx context.Context) ([]Info, error)
	// Verify asks the forge of each, and leaves the file as it is.
	Verify(ctx context.Context, of Selection) ([]Verdict, error)
	// Rotate gives runners another token, and ends the one before. Of within, a
	// runner is left alone whose token ends later than that, or never; zero
	// leaves none alone. The steps that were done are returned with an error.
	Rotate(ctx context.Context, of Selection, within time.Duration) ([]Step, error)
	// Unregister takes runners from the forge, and then out of the file. The
	// steps that were done are returned with an error.
	Unregister(ctx context.Context, of Selection) ([]Step, error)
}
