package release

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release/rollout"
)

// rolling is a workload while it is set: once, with all its containers.
type rolling struct {
	cluster Cluster
	context string
	change  rollout.Change
	items   []*running
	applied rollout.Applied
}

func (g *rolling) String() string {
	if g.context == "" {
		return g.change.Workload.String()
	}
	return g.change.Workload.String() + " of context " + g.context
}

// names are those of the items.
func (g *rolling) names() string {
	var list []string
	for _, run := range g.items {
		list = append(list, run.Name)
	}
	return strings.Join(list, ", ")
}

// group puts together what is set of one workload.
func (r *Releaser) group(runs []*running) (list []*rolling, err error) {
	for _, run := range runs {
		if !run.does(Deploy) && !run.does(Watch) {
			continue
		}
		for _, s := range run.Sets {
			i := slices.IndexFunc(list, func(g *rolling) bool { return g.context == s.Context && g.change.Workload == s.Workload.Workload })
			if i < 0 {
				cluster, err := r.config.Cluster(s.Context)
				if err != nil {
					return nil, err
				}
				i = len(list)
				list = append(list, &rolling{cluster: cluster, context: s.Context, change: rollout.Change{
					Workload: s.Workload.Workload, Images: map[string]string{}, Annotations: map[string]string{}, TakeOver: r.config.TakeOver,
				}})
			}
			g := list[i]
			if other, ok := g.change.Images[s.Container]; ok {
				return nil, problem.New(problem.Config, "name the container of each", "container %s of %s is to have two images, %s and that of %s", s.Container, g, other, run.Name)
			}
			to := run.image(run.digest)
			g.items = append(g.items, run)
			g.change.Images[s.Container] = to
			g.change.Annotations[rollout.Cause] = "regkeeper release " + to
			g.change.Annotations[rollout.Commit] = run.Revision.Name()
			g.change.Annotations[rollout.Digest] = run.digest.String()
		}
	}
	return list, nil
}

// deploy sets the images, all or none, and watches.
func (r *Releaser) deploy(ctx context.Context, runs []*running) error {
	for _, run := range runs {
		if run.does(Deploy) && run.digest == "" {
			return fmt.Errorf("deploy %s: its digest is not known", run.Name)
		}
	}
	groups, err := r.group(runs)
	if err != nil || len(groups) == 0 {
		return err
	}
	if err := r.look(ctx, groups); err != nil {
		return err
	}
	waves := [][]*rolling{groups}
	if r.config.OneByOne {
		waves = slices.Collect(slices.Chunk(groups, 1))
	}
	var set []*rolling
	for _, wave := range waves {
		for _, g := range wave {
			if !slices.ContainsFunc(g.items, func(run *running) bool { return run.does(Deploy) }) {
				continue
			}
			if err := r.set(ctx, g, Deploy); err != nil {
				if r.landed(ctx, g) {
					set = append(set, g)
				}
				return r.back(ctx, set, err)
			}
			if g.applied.Changed {
				set = append(set, g)
			}
			g.record()
		}
		if err := r.watch(ctx, wave, Watch); err != nil {
			return r.back(ctx, set, err)
		}
	}
	return nil
}

// look sees to it that all workloads and containers are there, before any is
// changed.
func (r *Releaser) look(ctx context.Context, groups []*rolling) error {
	for _, g := range groups {
		state, err := g.cluster.Look(ctx, g.change.Workload)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(g.change.Images)) {
			if state.Container(name) == nil {
				return rollout.NoContainer(state, name)
			}
		}
	}
	return nil
}

func (r *Releaser) set(ctx context.Context, g *rolling, step Step) error {
	applied, err := g.cluster.Set(ctx, g.change)
	g.applied = applied
	if err != nil {
		return err
	}
	switch {
	case !applied.Changed:
		r.say(g.names(), step, "%s has the image", g)
	case len(applied.From) > 0:
		r.say(g.names(), step, "%s is set (the image was last set by %s)", g, strings.Join(applied.From, ", "))
	default:
		r.say(g.names(), step, "%s is set", g)
	}
	return nil
}

// landed says whether a write whose answer was an error was carried out all the
// same, as when the connection is lost.
func (r *Releaser) landed(ctx context.Context, g *rolling) bool {
	if g.applied.Before.Containers == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ending)
	defer cancel()
	state, err := g.cluster.Look(ctx, g.change.Workload)
	if err != nil {
		return false
	}
	changed := false
	for name, want := range g.change.Images {
		c, before := state.Container(name), g.applied.Before.Container(name)
		if c == nil || before == nil || c.Image != want {
			return false
		}
		changed = changed || before.Image != want
	}
	return changed
}

// record notes what was set.
func (g *rolling) record() {
	if !g.applied.Changed {
		return
	}
	for _, run := range g.items {
		for _, s := range run.Sets {
			if s.Context != g.context || s.Workload.Workload != g.change.Workload {
				continue
			}
			run.record.Workloads = append(run.record.Workloads, Rolled{
				Workload: s.Workload, From: g.applied.Before.Container(s.Container).Image, To: g.change.Images[s.Container], Annotations: g.applied.Before.Annotations,
			})
			if previous := g.applied.Before.Annotations[rollout.Digest]; previous != "" {
				run.record.Previous = previous
			}
		}
	}
}

// watch watches those workloads of which that is asked, until all have rolled out
// or one has failed.
func (r *Releaser) watch(ctx context.Context, groups []*rolling, step Step) error {
	all, ctx := errgroup.WithContext(ctx)
	for _, g := range groups {
		if step == Watch && !slices.ContainsFunc(g.items, func(run *running) bool { return run.does(Watch) }) {
			continue
		}
		all.Go(func() error {
			expect := g.change.Images
			if step == Watch && !slices.ContainsFunc(g.items, func(run *running) bool { return run.does(Deploy) }) && g.applied.Before.Containers == nil {
				expect = nil // whatever it has
			}
			return g.cluster.Watch(ctx, g.change.Workload, expect, r.config.Rollout, func(text string) {
				r.say(g.names(), step, "%s: %s", g, text)
			})
		})
	}
	return all.Wait()
}

// backtrack bounds how long setting the former images may take, when the run
// itself was interrupted.
const backtrack = time.Minute

// back sets the images that the workloads had, because of what has happened, and
// watches that too. It returns an error always.
func (r *Releaser) back(ctx context.Context, groups []*rolling, cause error) error {
	if len(groups) == 0 {
		return cause
	}
	interrupted := ctx.Err() != nil
	r.say("", Rollback, "%v", cause)
	limit := r.config.Rollout.Timeout + backtrack
	if interrupted {
		limit = backtrack
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	var failed error
	var set []*rolling
	for _, g := range slices.Backward(groups) {
		released := g.change.Images
		former := &rolling{cluster: g.cluster, context: g.context, items: g.items, change: rollout.Change{
			Workload: g.change.Workload, Images: map[string]string{}, Expect: released, TakeOver: true,
			Annotations: before(g.applied.Before.Annotations),
		}}
		for name := range released {
			former.change.Images[name] = g.applied.Before.Container(name).Image
		}
		if err := r.goBack(ctx, former, released); err != nil {
			failed = errors.Join(failed, fmt.Errorf("roll %s back: %w", g, err))
			continue
		}
		set = append(set, former)
	}
	if !interrupted {
		if err := r.watch(ctx, set, Rollback); err != nil {
			failed = errors.Join(failed, fmt.Errorf("watch the way back: %w", err))
		}
	}
	for _, g := range groups {
		for _, run := range g.items {
			run.record.Outcome = RolledBack
			if failed != nil {
				run.record.Outcome = Failed
			}
		}
	}
	switch {
	case failed != nil:
		return problem.Wrap(errors.Join(cause, failed), problem.Partial, "see the workloads with kubectl: they may run either image", "the release failed, and so did the way back")
	case interrupted:
		return problem.Wrap(cause, problem.Partial, "the former images are set again; whether they have rolled out was not waited for", "the release was interrupted and taken back")
	}
	return problem.Wrap(cause, problem.Partial, problem.HintOf(cause), "the release failed, and the workloads run the images that they had before")
}

// before are the annotations that a workload had: those that it had not are taken
// away.
func before(had map[string]string) map[string]string {
	set := map[string]string{}
	for _, key := range []string{rollout.Cause, rollout.Commit, rollout.Digest} {
		set[key] = had[key]
	}
	return set
}

// goBack sets former images, and frees what waits for pods of the others.
func (r *Releaser) goBack(ctx context.Context, g *rolling, released map[string]string) error {
	if err := r.set(ctx, g, Rollback); err != nil {
		return err
	}
	return g.cluster.Free(ctx, g.change.Workload, released)
}

// Rollback takes the last release of the items back: of those that the journal
// knows as released last, the workloads get the images that they had before. A
// workload that has another image than that release gave it is left as it is, and
// nothing is changed then: [rollout.ErrMoved] is in the error's chain.
func (r *Releaser) Rollback(ctx context.Context, names ...string) ([]Record, error) {
	if r.config.Journal == nil {
		return nil, problem.New(problem.Config, "give it a data folder, in which releases are written down", "nothing is known of earlier releases")
	}
	items, err := r.items(names)
	if err != nil {
		return nil, err
	}
	var runs []*running
	var groups []*rolling
	for _, item := range items {
		last, err := r.config.Journal.Released(ctx, item.Name)
		if err != nil {
			return nil, err
		}
		if last == nil || len(last.Workloads) == 0 {
			if len(names) > 0 {
				return nil, problem.New(problem.NotFound, "set an older image with `kubectl set image`, or release an older commit", "no release of %s is known", item.Name)
			}
			continue
		}
		run := &running{Planned: &Planned{Name: item.Name, item: item}, digest: last.Reference.Digest, record: Record{
			Item: item.Name, Reference: last.Reference, Commit: last.Commit, Began: r.config.Now(), By: r.config.By,
		}}
		runs = append(runs, run)
		if groups, err = r.groupBack(groups, run, last); err != nil {
			return nil, err
		}
	}
	if len(groups) == 0 {
		return nil, problem.New(problem.NotFound, "", "no release is known that could be taken back")
	}
	if err := r.expect(ctx, groups); err != nil {
		return nil, err
	}
	for _, g := range groups {
		if err = r.goBack(ctx, g, g.change.Expect); err != nil {
			break
		}
	}
	if err == nil {
		err = r.watch(ctx, groups, Rollback)
	}
	if err == nil {
		for _, run := range runs {
			run.record.Outcome = RolledBack
		}
	}
	return r.finish(ctx, runs, err)
}

func (r *Releaser) groupBack(groups []*rolling, run *running, last *Record) ([]*rolling, error) {
	for _, w := range last.Workloads {
		i := slices.IndexFunc(groups, func(g *rolling) bool { return g.context == w.Context && g.change.Workload == w.Workload.Workload })
		if i < 0 {
			cluster, err := r.config.Cluster(w.Context)
			if err != nil {
				return nil, err
			}
			i = len(groups)
			groups = append(groups, &rolling{cluster: cluster, context: w.Context, change: rollout.Change{
				Workload: w.Workload.Workload, Images: map[string]string{}, Expect: map[string]string{}, TakeOver: r.config.TakeOver, Annotations: before(w.Annotations),
			}})
		}
		g := groups[i]
		g.items = append(g.items, run)
		g.change.Images[w.Container], g.change.Expect[w.Container] = w.From, w.To
		run.record.Workloads = append(run.record.Workloads, Rolled{Workload: w.Workload, From: w.To, To: w.From})
	}
	return groups, nil
}

// expect sees to it that all workloads are as expected, before any is changed.
func (r *Releaser) expect(ctx context.Context, groups []*rolling) error {
	for _, g := range groups {
		state, err := g.cluster.Look(ctx, g.change.Workload)
		if err != nil {
			return err
		}
		for name, want := range g.change.Expect {
			c := state.Container(name)
			if c == nil {
				return rollout.NoContainer(state, name)
			}
			if c.Image != want {
				return problem.Wrap(rollout.ErrMoved, problem.Busy, "it was deployed or taken back since: nothing was changed", "%s: container %s has image %s, not %s", g, name, c.Image, want)
			}
		}
	}
	return nil
}
