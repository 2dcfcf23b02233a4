package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/problem"
)

// Registry is a registry of which images can be deleted.
type Registry interface {
	image.Reader
	image.Deleter
}

// Limits bound what one run may delete of a repository. They count images, those
// without a tag among them.
type Limits struct {
	// Images is how many; 0 is none at all.
	Images int
	// Share is how much of all, from 0 to 1.
	Share float64
}

// Pruning is how a plan is carried out.
type Pruning struct {
	Limits Limits
	// Rate bounds the deletions per second; 0 does not.
	Rate float64
	// Uses asks anew what is in use, and tells what could not be asked; nil asks
	// nothing.
	Uses func(ctx context.Context) (uses []image.Use, unknown []string)
	// Ledger remembers what was deleted until a plan is done, and keeps others
	// from the repository meanwhile; nil does neither.
	Ledger Ledger
	// Reading is how the repository is read again before manifests go.
	Reading Reading
	// Report is called after each step; nil for none.
	Report func(Done)
}

// Ledger remembers which manifests regkeeper is deleting, so that what belonged
// to them is known for orphaned if the work is cut off in between.
type Ledger interface {
	// Hold keeps others from carrying out a plan for the repository until release,
	// and at the latest until the process ends. The error is a problem of
	// kind [problem.Busy] if another has it.
	Hold(ctx context.Context, repository image.Repository) (release func(), err error)
	// Deleting notes the digests, durably, before the first of them goes.
	Deleting(ctx context.Context, repository image.Repository, digests []digest.Digest) error
	// Deleted are all that were noted and not settled.
	Deleted(ctx context.Context, repository image.Repository) (map[digest.Digest]bool, error)
	// Settled forgets them: nothing that belonged to them is left.
	Settled(ctx context.Context, repository image.Repository) error
}

// Done is a step that was looked at.
type Done struct {
	Step plan.Step `json:"step"`
	// Skipped says why it was left out; empty if it was not.
	Skipped string `json:"skipped,omitempty"`
	// Failed says why it failed; empty if it did not.
	Failed string `json:"failed,omitempty"`
}

// Pruned is what became of a plan.
type Pruned struct {
	Repository image.Repository `json:"repository"`
	Deleted    int              `json:"deleted"` // steps
	Skipped    []Done           `json:"skipped"`
	Failed     []Done           `json:"failed"`
}

// Err is a problem of kind [problem.Partial] if steps failed, with what to do about
// it; nil if none did.
func (p Pruned) Err(hint string) error {
	if len(p.Failed) == 0 {
		return nil
	}
	return problem.New(problem.Partial, hint, "%d steps for %s failed, the first: %s: %s", len(p.Failed), p.Repository, p.Failed[0].Step, p.Failed[0].Failed)
}

// Check holds a plan against the limits. The error is a problem of kind
// [problem.Refused].
func (l Limits) Check(p *plan.Plan) error {
	all, gone := len(p.Images), p.Gone()
	for _, v := range p.Images {
		if v.CutOff { // it was allowed before
			all, gone = all-1, gone-1
		}
	}
	share := 0.0
	if all > 0 {
		share = float64(gone) / float64(all)
	}
	var allow []string
	if gone > l.Images {
		allow = append(allow, fmt.Sprintf("--max-deletes %d", gone))
	}
	if share > l.Share {
		allow = append(allow, fmt.Sprintf("--max-share %d", int(100*share+0.999)))
	}
	if len(allow) == 0 {
		return nil
	}
	return problem.New(problem.Refused, "look through the plan, then allow as much: "+strings.Join(allow, " "),
		"the plan for %s deletes %d of its %d images, and one run may delete %d, and %.0f %%", p.Repository, gone, all, l.Images, 100*l.Share)
}

// tooOld is when a plan is not carried out any more: what is deployed has changed.
const tooOld = 24 * time.Hour

// sound refuses a plan that is not what it says: one that was edited, or is old.
func sound(p *plan.Plan, now time.Time) error {
	wrong := func(format string, args ...any) error {
		return problem.New(problem.Damaged, "make the plan anew", "the plan for %s %s", p.Repository, fmt.Sprintf(format, args...))
	}
	if len(p.Unread) > 0 && len(p.Steps) > 0 {
		return wrong("deletes although parts of the repository could not be read")
	}
	goes := map[digest.Digest]bool{}
	tags := map[string]bool{}
	for _, v := range p.Images {
		goes[v.Digest] = !v.Keep
		for _, tag := range v.Tags {
			tags[tag] = !v.Keep
		}
	}
	for _, step := range p.Steps {
		if gone, judged := goes[step.Digest]; judged && !gone {
			return wrong("deletes %s, which it keeps", image.Short(step.Digest))
		}
		if _, attached := image.Attached(step.Tag); step.Tag != "" && !attached && !tags[step.Tag] {
			return wrong("deletes tag %s, which it does not say to go", step.Tag)
		}
	}
	if age := now.Sub(p.Made); len(p.Steps) > 0 && age > tooOld {
		return problem.New(problem.Refused, "make the plan anew: what is deployed may have changed", "the plan for %s is %d hours old", p.Repository, int(age.Hours()))
	}
	return nil
}

// Apply carries out a plan, and nothing else. Each step is checked just before it:
//
//	a tag that leads elsewhere by now              is left
//	what another tag or manifest needs by now      is left, with all that belongs to it
//	what is gone                                   is done
//
// A step that fails is told of; what its tag leads to is left. Carried out again,
// a plan that was cut off goes on where it was.
//
// The error is that of a plan which was not begun or could not be gone on with.
func Apply(ctx context.Context, registry Registry, p *plan.Plan, how Pruning) (Pruned, error) {
	a := &applying{registry: registry, plan: p, Pruning: how, stays: map[string]digest.Digest{}, result: Pruned{Repository: p.Repository, Skipped: []Done{}, Failed: []Done{}}}
	if err := sound(p, time.Now()); err != nil {
		return a.result, err
	}
	if err := how.Limits.Check(p); err != nil {
		return a.result, err
	}
	if len(p.Steps) == 0 {
		return a.result, nil
	}
	if how.Rate > 0 {
		a.limiter = rate.NewLimiter(rate.Limit(how.Rate), 1)
	}
	if how.Ledger != nil {
		release, err := how.Ledger.Hold(ctx, p.Repository)
		if err != nil {
			return a.result, err
		}
		defer release()
		if err := how.Ledger.Deleting(ctx, p.Repository, p.Digests()); err != nil {
			return a.result, err
		}
	}
	for _, tags := range []bool{true, false} {
		if err := a.steps(ctx, tags); err != nil {
			return a.result, err
		}
	}
	if how.Ledger != nil && len(a.result.Failed) == 0 {
		return a.result, how.Ledger.Settled(ctx, p.Repository)
	}
	return a.result, nil
}

type applying struct {
	Pruning
	registry Registry
	plan     *plan.Plan
	limiter  *rate.Limiter
	result   Pruned

	// stays are the tags of steps that were not done, with their digests.
	stays map[string]digest.Digest
	// needed is what the repository needed when it was last read, at read, which
	// took took.
	needed map[digest.Digest]string
	read   time.Time
	took   time.Duration
}

// The repository is read again when the last reading is older than this, and than
// what it took.
const stale = time.Minute

// steps does the steps that delete tags, or those that delete manifests. Manifests
// go last: what is under way to be tagged anew shows by then.
func (a *applying) steps(ctx context.Context, tags bool) error {
	a.read = time.Time{}
	for _, step := range a.plan.Steps {
		if (step.Tag != "") != tags {
			continue
		}
		if age := time.Since(a.read); age > stale && age > a.took {
			if err := a.look(ctx); err != nil {
				return err
			}
		}
		skipped, err := a.step(ctx, step)
		if stop := a.done(step, skipped, err); stop != nil {
			return stop
		}
	}
	return nil
}

// step does a step, or says why not.
func (a *applying) step(ctx context.Context, step plan.Step) (skipped string, err error) {
	path := a.plan.Repository.Path
	if why := a.needed[step.Digest]; why != "" {
		return why, nil
	}
	// Nothing may come between the look and the deletion.
	if err := a.wait(ctx); err != nil {
		return "", err
	}
	if step.Tag == "" {
		err := a.registry.DeleteManifest(ctx, path, step.Digest)
		if errors.Is(err, image.ErrUnsupported) {
			return "the registry deletes no manifests itself: its own collection does", nil
		}
		return "", err
	}
	found, err := a.registry.Resolve(ctx, path, step.Tag)
	switch {
	case errors.Is(err, image.ErrMissing):
		return "", nil
	case err != nil:
		return "", err
	case found.Digest != step.Digest && !a.deleting(ctx, found.Digest):
		return "the tag leads to " + image.Short(found.Digest) + " by now", nil
	}
	return "", a.registry.DeleteTag(ctx, path, step.Tag)
}

// look finds out what the repository needs now: all that a tag leads to, or that
// stands on its own, and that the plan does not delete.
func (a *applying) look(ctx context.Context) error {
	how := a.Reading
	how.Tags, how.Flat, how.Bare, how.Dates, how.Report = nil, false, false, false, nil
	for _, v := range a.plan.Images {
		if v.Keep && len(v.Tags) == 0 {
			how.Also = append(how.Also, v.Digest)
		}
	}
	var uses []image.Use
	if a.Uses != nil {
		var unknown []string
		if uses, unknown = a.Uses(ctx); len(unknown) > 0 {
			return problem.New(problem.Unreachable, "run the same again later: what is deleted already stays so",
				"what is in use is not known before deleting: %s", unknown[0])
		}
	}
	began := time.Now()
	inventory, err := Read(ctx, a.registry, a.plan.Repository, how)
	if err != nil {
		return err
	}
	if len(inventory.Unread) > 0 {
		u := inventory.Unread[0]
		return problem.New(problem.Unreachable, "run the same again later: what is deleted already stays so",
			"%s of %s could not be read before deleting: %s", u.What, a.plan.Repository, u.Why)
	}
	a.read, a.took = time.Now(), time.Since(began)
	goes := map[digest.Digest]bool{}
	tagGoes := map[string]digest.Digest{}
	for _, step := range a.plan.Steps {
		goes[step.Digest] = true
		if step.Tag != "" && a.stays[step.Tag] == "" {
			tagGoes[step.Tag] = step.Digest
		}
	}
	graph := inventory.Graph()
	a.needed = map[digest.Digest]string{}
	need := func(root digest.Digest, why string) {
		for d := range graph.Closure(root).All() {
			if a.needed[d] == "" {
				a.needed[d] = why
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(inventory.Tags)) {
		if d := inventory.Tags[name].Digest; tagGoes[name] != d {
			need(d, "tag "+name+" needs it")
		}
	}
	for _, d := range plan.Used(inventory, uses) {
		need(d, image.Short(d)+" is in use by now")
	}
	for d := range inventory.Manifests.Digests() {
		subject, attached := graph.Subject(d)
		alone := len(graph.Parents(d)) == 0 && (!attached || !inventory.Manifests.Has(subject))
		if alone && !goes[d] {
			need(d, image.Short(d)+" needs it")
		}
	}
	return nil
}

// deleting says whether a tag was led to a manifest only so that it can be deleted.
func (a *applying) deleting(ctx context.Context, d digest.Digest) bool {
	mediaType, raw, err := a.registry.Manifest(ctx, a.plan.Repository.Path, d)
	if err != nil {
		return false
	}
	m, err := image.ParseManifest(d, mediaType, raw)
	return err == nil && m.Deleting
}

func (a *applying) wait(ctx context.Context) error {
	if a.limiter == nil {
		return ctx.Err()
	}
	return a.limiter.Wait(ctx)
}

// done tells of a step. It returns an error that no other step would be spared.
func (a *applying) done(step plan.Step, skipped string, err error) error {
	done := Done{Step: step, Skipped: skipped}
	if step.Tag != "" && (err != nil || skipped != "") {
		a.stays[step.Tag] = step.Digest
	}
	switch {
	case err != nil:
		done.Failed = err.Error()
		a.result.Failed = append(a.result.Failed, done)
	case skipped != "":
		a.result.Skipped = append(a.result.Skipped, done)
	default:
		a.result.Deleted++
	}
	if a.Report != nil {
		a.Report(done)
	}
	if err != nil && hopeless(err) {
		return fmt.Errorf("%s of %s: %w", step, a.plan.Repository, err)
	}
	return nil
}

// hopeless says whether an error would be that of every other step, too.
func hopeless(err error) bool {
	return errors.Is(err, credential.ErrRefused) || errors.Is(err, image.ErrUnsupported) ||
		errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
