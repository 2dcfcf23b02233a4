// Package explain owns the translation of what happened into cause and cure: from
// the decision of a client, the registry's answers and the surroundings to
// diagnoses, each with a code, its evidence and a page in docs/diagnoses.
//
// It is pure, and refuses to guess: a diagnosis stands on what was seen, which it
// shows; where causes look the same from outside, it names them all.
package explain

import (
	"cmp"
	"slices"
	"time"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/explain/place"
	"github.com/regkeeper/regkeeper/registry/trial"
)

// Code names a diagnosis. It is stable.
type Code string

// Severity says what a diagnosis means for a pull.
type Severity string

// The severities, the worst first.
const (
	// Error keeps the image from being pulled.
	Error Severity = "error"
	// Warning does not, or not always, or not yet.
	Warning Severity = "warning"
	// Info is good to know.
	Info Severity = "info"
)

// rank orders them.
var rank = map[Severity]int{Error: 0, Warning: 1, Info: 2}

// Diagnosis is a cause that was found. It holds no secret.
type Diagnosis struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	// Title is the same for every diagnosis of the code.
	Title string `json:"title"`
	// Cause says what is wrong here, Cure what to do about it.
	Cause string `json:"cause"`
	Cure  string `json:"cure,omitempty"`
	// Evidence is what it stands on, a line each.
	Evidence []string `json:"evidence,omitempty"`
	// Doc is its page, from the top of the repository.
	Doc string `json:"doc"`
}

// Entry is a row of the table of codes.
type Entry struct {
	Code     Code     `json:"code"`
	Severity Severity `json:"severity"`
	Title    string   `json:"title"`
	Doc      string   `json:"doc"`
}

// Entries are all codes, in the order of the table.
func Entries() []Entry {
	var all []Entry
	for _, e := range entries {
		all = append(all, Entry{e.code, e.severity, e.title, page(e.code)})
	}
	return all
}

func page(code Code) string { return "docs/diagnoses/" + string(code) + ".md" }

// Facts are what a diagnosis may stand on, beside the decision. What is not known
// is left zero.
type Facts struct {
	// Trials are the registry's answers; none if it was not asked.
	Trials []trial.Trial
	// Places are the files that the client reads, as they lie there.
	Places []Place
	// DockerHost is the daemon that the client speaks to, if not this machine's:
	// its DOCKER_HOST, or the endpoint of its context.
	DockerHost string
	// DaemonLogin is a place beside the daemon, out of the client's sight, in
	// which there is a login: /root/.docker/config.json of the dind container.
	DaemonLogin string
	// PullSecrets are the imagePullSecrets of the pod that the client itself runs
	// in.
	PullSecrets []string
	// Present says that the image is where it would be pulled to, so that
	// clients may use it without asking.
	Present bool
	// PullPolicy is the client's, as it names it: "always", "if-not-present",
	// "IfNotPresent"; empty if it is not known.
	PullPolicy string
	// Now is when logins are asked whether they have ended; zero is the time of
	// each trial.
	Now time.Time
}

// Place is a file as it lies there; [place.At] looks at one.
type Place = place.Place

// Diagnose says what is wrong, the worst first; and where nothing is, that the
// login works. It never returns nothing if there was a trial.
func Diagnose(d consumer.Decision, f Facts) []Diagnosis {
	c := newCase(d, f)
	var all []Diagnosis
	for _, rule := range rules() {
		for _, found := range rule(c) {
			e := entryOf(found.code)
			next := Diagnosis{
				Code: e.code, Severity: e.severity, Title: e.title, Doc: page(e.code), Evidence: found.evidence,
				Cause: c.fill(e.cause, found.words), Cure: c.fill(e.cure, found.words),
			}
			switch {
			case next.Code == "key-never-matches" && c.found():
				next.Severity = Info
			case next.Severity == Error && found.spared:
				next.Severity = Warning
			}
			if !slices.ContainsFunc(all, next.same) {
				all = append(all, next)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b Diagnosis) int { return cmp.Compare(rank[a.Severity], rank[b.Severity]) })
	return all
}

func (d Diagnosis) same(other Diagnosis) bool {
	return d.Code == other.Code && d.Cause == other.Cause && slices.Equal(d.Evidence, other.Evidence)
}
