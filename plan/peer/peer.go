// Package peer reads the retention policies of other registries: Gitea's cleanup
// rule, Harbor's retention policy, ECR's lifecycle policy and GitLab's cleanup
// policy. It says each in the rules of package plan as far as that can be said,
// tells what the peer itself would do to an inventory, and where the two differ.
//
// It refuses to do I/O, and to guess what a policy means: a field that it does
// not know is a fault. What it cannot say in rules it says in notes, and keeps.
package peer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/problem"
)

// Kind is whose policy it is.
type Kind string

// The kinds.
const (
	Gitea  Kind = "gitea"
	Harbor Kind = "harbor"
	ECR    Kind = "ecr"
	GitLab Kind = "gitlab"
)

// Kinds are all kinds, as they are named on a command line.
func Kinds() []Kind { return []Kind{Gitea, Harbor, ECR, GitLab} }

// Policy is a retention policy of a peer.
type Policy interface {
	// Kind is whose it is.
	Kind() Kind
	// Rules are the nearest rules for a repository, and notes on what they
	// cannot say. Where they cannot say a thing, they keep more than the peer:
	// without rules everything stays.
	Rules(repository image.Repository) (plan.Policy, []string)
	// Outcome is what the peer would do to a repository at the time of the
	// facts, after as many runs as it takes to come to rest.
	Outcome(inventory *image.Inventory, facts plan.Facts) Outcome
}

// Parse reads a policy of a kind. All that is wrong with it is told at once: the
// error joins [problem.Error]s of kind [problem.Config], with hints; for a kind
// that is none it is of kind [problem.Usage].
func Parse(kind Kind, raw []byte) (Policy, error) {
	parse, ok := map[Kind]func(*document, []byte) Policy{
		Gitea: parseGitea, Harbor: parseHarbor, ECR: parseECR, GitLab: parseGitLab,
	}[kind]
	if !ok {
		return nil, problem.New(problem.Usage, "use gitea, harbor, ecr or gitlab", "there is no import of %q", kind)
	}
	doc := &document{kind: kind}
	policy := parse(doc, raw)
	if err := doc.err(); err != nil {
		return nil, err
	}
	return policy, nil
}

// Entry is a tag, or a manifest without one, and what becomes of it.
type Entry struct {
	Tag    string        `json:"tag,omitempty"`
	Digest digest.Digest `json:"digest"`
	Reason string        `json:"reason"`
	// Shares is the tag that was meant, if this one goes only because it shares
	// a digest with it.
	Shares string `json:"shares,omitempty"`
}

// Outcome is what a peer would do to a repository.
type Outcome struct {
	Peer Kind `json:"peer"`
	// Keeps and Deletes have every tag, and every manifest that the peer knows
	// by its digest alone, once. They are sorted: tags first.
	Keeps   []Entry `json:"keeps"`
	Deletes []Entry `json:"deletes"`
	// Manifests are those that can no longer be pulled, sorted.
	Manifests []digest.Digest `json:"manifests"`
	// Notes say what was assumed.
	Notes []string `json:"notes,omitempty"`
}

func (o *Outcome) keep(tag string, d digest.Digest, format string, args ...any) {
	o.Keeps = append(o.Keeps, Entry{Tag: tag, Digest: d, Reason: fmt.Sprintf(format, args...)})
}

func (o *Outcome) delete(tag string, d digest.Digest, format string, args ...any) {
	o.Deletes = append(o.Deletes, Entry{Tag: tag, Digest: d, Reason: fmt.Sprintf(format, args...)})
}

// settle sorts, and leaves no list nil.
func (o *Outcome) settle(gone map[digest.Digest]bool) Outcome {
	for _, list := range []*[]Entry{&o.Keeps, &o.Deletes} {
		slices.SortFunc(*list, func(a, b Entry) int {
			return cmp.Or(compareBool(a.Tag == "", b.Tag == ""), strings.Compare(a.Tag, b.Tag), cmp.Compare(a.Digest, b.Digest))
		})
		*list = append([]Entry{}, *list...)
	}
	o.Manifests = []digest.Digest{}
	for d, is := range gone {
		if is {
			o.Manifests = append(o.Manifests, d)
		}
	}
	slices.Sort(o.Manifests)
	return *o
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

const (
	day = 24 * time.Hour
	// leastGrace is how long manifests without a tag stay under any imported
	// policy: they may be part of a push that is under way.
	leastGrace = day
	// forGood is a grace that does not end.
	forGood = 100 * 365 * day
)

// uncounted is what becomes of images without a tag where a peer counts them.
const uncounted = ": they all stay, unless a shorter grace is set"

// days is so many days, of which there may be too many for a duration.
func days(n int) time.Duration {
	return time.Duration(min(n, int(forGood/day))) * day
}

// shelf is an inventory as registries keep it: who leads where, and when each was
// pushed.
type shelf struct {
	*image.Inventory
	graph *image.Graph
	now   time.Time
	// guessed counts the tags and manifests whose date is that of their build,
	// undated those without any.
	guessed, undated int
}

func newShelf(inventory *image.Inventory, facts plan.Facts) *shelf {
	return &shelf{Inventory: inventory, graph: inventory.Graph(), now: facts.Now}
}

// pushed is when a tag was written, or a manifest without one. What is not told
// of a child is told of what holds it, which was pushed after it. It is zero if
// nothing is known.
func (s *shelf) pushed(tag string, d digest.Digest) time.Time {
	if at := s.Tags[tag].Pushed; tag != "" && image.Told(at) {
		return at
	}
	if at := s.Untagged[d].Pushed; tag == "" && image.Told(at) {
		return at
	}
	if tag == "" {
		var first time.Time
		for _, parent := range s.graph.Parents(d) {
			for _, name := range s.graph.Tags(parent) {
				if at := s.Tags[name].Pushed; image.Told(at) && (first.IsZero() || at.Before(first)) {
					first = at
				}
			}
		}
		if !first.IsZero() {
			return first
		}
	}
	if built := s.Built(d); !built.IsZero() {
		s.guessed++
		return built
	}
	s.undated++
	return time.Time{}
}

// pushedLast is when a manifest or one of its tags was pushed last.
func (s *shelf) pushedLast(d digest.Digest) time.Time {
	names := s.graph.Tags(d)
	if len(names) == 0 {
		return s.pushed("", d)
	}
	var last time.Time
	for _, name := range names {
		if at := s.pushed(name, d); at.After(last) {
			last = at
		}
	}
	return last
}

// dates are notes on what dates are missing.
func (s *shelf) dates(without string) []string {
	var notes []string
	if s.guessed > 0 {
		notes = append(notes, fmt.Sprintf("when %d of the tags and manifests were pushed is not told: when they were built stands for it", s.guessed))
	}
	if s.undated > 0 {
		notes = append(notes, fmt.Sprintf("of %d of the tags and manifests no date is known: %s", s.undated, without))
	}
	return notes
}

// all are the manifests that the registry has, sorted.
func (s *shelf) all() []digest.Digest {
	var list []digest.Digest
	for d := range s.Manifests.Digests() {
		list = append(list, d)
	}
	for d := range s.Untagged {
		list = append(list, d)
	}
	for _, tag := range s.Tags {
		list = append(list, tag.Digest)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// holds is an index of those that are left that names the manifest.
func (s *shelf) holds(d digest.Digest, gone map[digest.Digest]bool) (digest.Digest, bool) {
	for _, parent := range s.graph.Parents(d) {
		if !gone[parent] && parent != d {
			return parent, true
		}
	}
	return "", false
}

// subject is what the manifest belongs to, if that is in the repository.
func (s *shelf) subject(d digest.Digest) (digest.Digest, bool) {
	subject, ok := s.graph.Subject(d)
	return subject, ok && s.Manifests.Has(subject) && subject != d
}

// newest puts the newer first; what has no date is taken for new.
func newest(a, b time.Time) int {
	return cmp.Or(compareBool(b.IsZero(), a.IsZero()), b.Compare(a))
}
