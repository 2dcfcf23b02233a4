package release

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release/build"
	"github.com/regkeeper/regkeeper/release/revision"
	"github.com/regkeeper/regkeeper/release/rollout"
)

// Plan is what a run would do. It is complete: what is left out has a reason too.
type Plan struct {
	Items []Planned `json:"items"`
}

// Planned is one item of a plan.
type Planned struct {
	Name     string            `json:"name"`
	Revision revision.Revision `json:"revision"`
	// Reference is the image with its tag; with its digest if it is there.
	Reference image.Reference `json:"reference"`
	Target    string          `json:"target,omitempty"`
	Platforms []string        `json:"platforms,omitempty"`
	Actions   []Action        `json:"actions"`
	Sets      []Set           `json:"sets,omitempty"`
	// Refused says why the item cannot be released. While there is any, in any
	// item, nothing of the plan is carried out.
	Refused []string `json:"refused,omitempty"`
	// Notes are for people.
	Notes []string `json:"notes,omitempty"`

	item *Item
}

// Action is a step of an item.
type Action struct {
	Step Step `json:"step"`
	// Do says whether it is carried out, Why for what reason or for which not.
	Do  bool   `json:"do"`
	Why string `json:"why"`
}

// String is the action as a line.
func (a Action) String() string {
	if a.Do {
		return string(a.Step) + ": " + a.Why
	}
	return "no " + string(a.Step) + ": " + a.Why
}

// Set is a workload whose image is set.
type Set struct {
	Workload
	From string `json:"from"`
	// To is the image; its digest is left out if it is not known before the build.
	To string `json:"to"`
	// Pinned says that To gets the digest of the build.
	Pinned bool `json:"pinned,omitempty"`
}

// does says whether a step is carried out.
func (p *Planned) does(step Step) bool {
	return slices.ContainsFunc(p.Actions, func(a Action) bool { return a.Step == step && a.Do })
}

func (p *Planned) act(step Step, do bool, format string, args ...any) {
	p.Actions = append(p.Actions, Action{Step: step, Do: do, Why: fmt.Sprintf(format, args...)})
}

func (p *Planned) refuse(format string, args ...any) {
	p.Refused = append(p.Refused, fmt.Sprintf(format, args...))
}

func (p *Planned) note(format string, args ...any) {
	p.Notes = append(p.Notes, fmt.Sprintf(format, args...))
}

// pinned says whether workloads run the item by digest.
func (p *Planned) pinned() bool { return p.item.Pin || !p.Revision.Clean() }

// image is what workloads are given.
func (p *Planned) image(d digest.Digest) string {
	ref := image.Reference{Repository: p.Reference.Repository, Tag: p.Reference.Tag}
	if p.pinned() {
		ref.Digest = d
	}
	return ref.String()
}

// Err is nil if nothing of the plan is refused.
func (p *Plan) Err() error {
	var all []string
	for _, item := range p.Items {
		for _, why := range item.Refused {
			all = append(all, item.Name+": "+why)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return problem.New(problem.Refused, "nothing was changed", "the release is refused: %s", strings.Join(all, "; "))
}

// Pending counts the steps that would change anything: to wait and to watch do
// not.
func (p *Plan) Pending() (count int) {
	for _, item := range p.Items {
		for _, step := range []Step{Build, Deploy} {
			if item.does(step) {
				count++
			}
		}
	}
	return count
}

// mostFiles bounds how many files a refusal lists.
const mostFiles = 10

// Plan says what a run of the steps would do with the items of those names; with
// all, if no name is given. Without a step it asks git alone: what the tag is.
// Nothing is changed, and no login is made. What cannot
// be read is an error, what must not be done is in the plan.
func (r *Releaser) Plan(ctx context.Context, steps []Step, names ...string) (*Plan, error) {
	items, err := r.items(names)
	if err != nil {
		return nil, err
	}
	for _, step := range steps {
		if !slices.Contains(All, step) {
			return nil, problem.New(problem.Usage, fmt.Sprintf("the steps are %v", All), "step %q is no step of a release", step)
		}
	}
	plan := &Plan{}
	revisions := map[string]revision.Revision{}
	for _, item := range items {
		rev, ok := revisions[item.Folder]
		if !ok {
			if rev, err = r.config.Source.Read(ctx, item.Folder); err != nil {
				return nil, err
			}
			revisions[item.Folder] = rev
		}
		p := Planned{
			Name: item.Name, Revision: rev, Target: item.Job.Target, Platforms: item.Job.Platforms, item: item,
			Reference: image.Reference{Repository: item.Job.Repository, Tag: rev.Tag()},
		}
		if err := r.planImage(ctx, &p, steps); err != nil {
			return nil, err
		}
		if err := r.planWorkloads(ctx, &p, steps); err != nil {
			return nil, err
		}
		plan.Items = append(plan.Items, p)
	}
	return plan, nil
}

// items are those of the names, in the order of the configuration.
func (r *Releaser) items(names []string) (list []*Item, err error) {
	known, images, places := map[string]bool{}, map[image.Repository]string{}, map[Workload]string{}
	for i := range r.config.Items {
		item := &r.config.Items[i]
		if known[item.Name] {
			return nil, problem.New(problem.Config, "give each item its own name", "two items are called %q", item.Name)
		}
		known[item.Name] = true
		if other := images[item.Job.Repository]; other != "" {
			return nil, problem.New(problem.Config, "give each its own repository: their tags are the same", "items %s and %s are both pushed to %s", other, item.Name, item.Job.Repository)
		}
		images[item.Job.Repository] = item.Name
		for _, w := range item.Workloads {
			if other := places[w]; other != "" {
				return nil, problem.New(problem.Config, "name the container of each", "items %s and %s are both for %s", other, item.Name, w.Workload)
			}
			places[w] = item.Name
		}
		if len(names) == 0 || slices.Contains(names, item.Name) {
			list = append(list, item)
		}
	}
	for _, name := range names {
		if !known[name] {
			return nil, problem.New(problem.NotFound, "see the names under releases: in the configuration", "no item is called %q", name)
		}
	}
	if len(list) == 0 {
		return nil, problem.New(problem.Config, "name what to release under releases: in the configuration", "there is nothing to release")
	}
	return list, nil
}

// planImage decides whether the image is built:
//
//	tree   the tag             decision
//	clean  is not there        build
//	clean  is of this commit   do not build, unless asked to
//	clean  is of another       refuse
//	clean  tells no commit     build, and refuse if the result is another
//	dirty  any                 refuse; if allowed: build, the tag may move
func (r *Releaser) planImage(ctx context.Context, p *Planned, steps []Step) error {
	if !p.Revision.Clean() {
		if !r.config.AllowDirty {
			files := p.Revision.Dirty
			more := ""
			if len(files) > mostFiles {
				more = fmt.Sprintf(" and %d more", len(files)-mostFiles)
				files = files[:mostFiles]
			}
			p.refuse("the tree is not as committed: %s%s (commit, ignore or stash them, or allow a dirty release)", strings.Join(files, ", "), more)
		} else {
			p.note("the tree is not as committed in %d files: the tag tells, and workloads run it by digest", len(p.Revision.Dirty))
		}
	}
	if len(steps) == 0 {
		return nil
	}
	registry, err := r.config.Registry(p.Reference.Host, nil)
	if err != nil {
		return err
	}
	found, err := registry.Resolve(ctx, p.Reference.Path, p.Reference.Tag)
	if err != nil && !errors.Is(err, image.ErrMissing) {
		return fmt.Errorf("look for %s: %w", p.Reference, err)
	}
	var now *built
	if found.Digest != "" {
		p.Reference.Digest = found.Digest
		if now, err = read(ctx, registry, p.Reference.Path, found.Digest); err != nil {
			return err
		}
	}
	r.decideBuild(p, slices.Contains(steps, Build), now)
	switch {
	case !slices.Contains(steps, Wait):
		p.act(Wait, false, "not asked for")
	case now == nil && !p.does(Build):
		p.act(Wait, false, "there is nothing to wait for")
		p.refuse("%s is not in the registry: build it first", p.Reference)
	default:
		p.act(Wait, true, "until the registry serves %s and all its parts", p.Reference.Tag)
	}
	if now == nil && !p.does(Build) && slices.Contains(steps, Deploy) && !slices.Contains(steps, Wait) {
		p.refuse("%s is not in the registry: build it first", p.Reference)
	}
	return nil
}

func (r *Releaser) decideBuild(p *Planned, asked bool, now *built) {
	var lacks []string
	if now != nil {
		lacks = now.lacks(p.Platforms)
	}
	dirty := !p.Revision.Clean()
	switch {
	case !asked:
		p.act(Build, false, "not asked for")
	case dirty:
		p.act(Build, true, "the tree is not as committed")
	case now == nil:
		p.act(Build, true, "tag %s is not in the registry", p.Reference.Tag)
	case now.revision != "" && now.revision != p.Revision.Name():
		p.act(Build, false, "tag %s is taken", p.Reference.Tag)
		p.refuse("tag %s is of commit %s, not of %s: a tag does not move", p.Reference.Tag, now.revision, p.Revision.Commit)
	case now.revision != "" && len(lacks) > 0:
		p.act(Build, false, "tag %s is taken", p.Reference.Tag)
		p.refuse("tag %s is built already, without %s: a tag does not move; commit the change of platforms", p.Reference.Tag, strings.Join(lacks, ", "))
	case now.revision == "":
		p.act(Build, true, "tag %s does not tell its commit: it stays if the build gives the same image", p.Reference.Tag)
	case r.config.Rebuild:
		p.act(Build, true, "asked to build again: the tag stays if that gives the same image")
	default:
		p.act(Build, false, "already built of this commit")
	}
	if p.does(Build) {
		p.note("built by %s", r.config.Builder)
		if r.config.Latest && !dirty {
			p.note("tag latest follows")
		}
	}
}

// planWorkloads looks at the workloads.
func (r *Releaser) planWorkloads(ctx context.Context, p *Planned, steps []Step) error {
	deploy, watch := slices.Contains(steps, Deploy), slices.Contains(steps, Watch)
	switch {
	case len(steps) == 0:
		return nil
	case !deploy && !watch:
		p.act(Deploy, false, "not asked for")
		p.act(Watch, false, "not asked for")
		return nil
	case len(p.item.Workloads) == 0:
		p.act(Deploy, false, "no workload runs it")
		p.act(Watch, false, "no workload runs it")
		return nil
	}
	changes := 0
	for _, w := range p.item.Workloads {
		set, err := r.planWorkload(ctx, p, w)
		if err != nil {
			return err
		}
		if set == nil {
			continue
		}
		if set.From != set.To {
			changes++
		}
		p.Sets = append(p.Sets, *set)
	}
	switch {
	case !deploy:
		p.act(Deploy, false, "not asked for")
	case changes == 0 && (!p.pinned() || !p.does(Build)):
		p.act(Deploy, false, "the workloads have the image")
	default:
		p.act(Deploy, true, "%d of %d workloads have another image", changes, len(p.item.Workloads))
	}
	switch {
	case !watch:
		p.act(Watch, false, "not asked for")
	case p.does(Deploy):
		p.act(Watch, true, "back to the images before if they do not roll out in %s", r.config.Rollout.Timeout)
	default:
		p.act(Watch, true, "as they roll")
	}
	return nil
}

// planWorkload looks at one workload; nil if it is refused.
func (r *Releaser) planWorkload(ctx context.Context, p *Planned, w Workload) (*Set, error) {
	cluster, err := r.config.Cluster(w.Context)
	if err != nil {
		return nil, err
	}
	state, err := cluster.Look(ctx, w.Workload)
	if problem.KindOf(err) == problem.NotFound {
		p.refuse("%s is not there", w.Workload)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	container, why := choose(state, w.Container, p.Reference.Repository)
	if container == nil {
		p.refuse("%s", why)
		return nil, nil
	}
	if state.Paused {
		p.refuse("%s is paused: kubectl -n %s rollout resume %s/%s", w.Workload, w.Namespace, w.Kind, w.Name)
	}
	if state.Manual {
		p.note("pods of %s take the image when somebody deletes them (OnDelete)", w.Workload)
	}
	if state.Replicas == 0 {
		p.note("%s has no pods: nothing shows that the image runs", w.Workload)
	}
	w.Container = container.Name
	to := p.image(p.Reference.Digest)
	if p.does(Build) {
		to = p.image("")
	}
	return &Set{Workload: w, From: container.Image, To: to, Pinned: p.pinned()}, nil
}

// choose finds the container that runs the repository.
func choose(state rollout.State, name string, repository image.Repository) (*rollout.Container, string) {
	if name != "" {
		if c := state.Container(name); c != nil {
			return c, ""
		}
		return nil, fmt.Sprintf("%s has no container %s: it has %s", state.Workload, name, strings.Join(state.Names(), ", "))
	}
	var of []*rollout.Container
	for i := range state.Containers {
		c := &state.Containers[i]
		if ref, err := image.ParseReference(c.Image); err == nil && ref.Repository == repository {
			of = append(of, c)
		}
	}
	switch {
	case len(of) == 1:
		return of[0], ""
	case len(state.Containers) == 1:
		return &state.Containers[0], ""
	}
	return nil, fmt.Sprintf("%s has %d containers of %s: name the one (%s)", state.Workload, len(of), repository, strings.Join(state.Names(), ", "))
}

// logins are the logins of one run.
type logins struct {
	r    *Releaser
	held map[credential.Host]credential.Login
	ends []func(context.Context) error
}

// borrow gets a login for a registry, once. A login to push is good for pulling
// too.
func (l *logins) borrow(ctx context.Context, host credential.Host, scopes credential.Scopes) error {
	if _, ok := l.held[host]; ok {
		return nil
	}
	lent, end, err := l.r.config.Login(ctx, host, scopes)
	if end != nil {
		l.ends = append(l.ends, end)
	}
	if err != nil {
		return fmt.Errorf("get a login for %s: %w", host, err)
	}
	l.held[host] = lent.Login()
	return nil
}

// end ends the logins, also when ctx has ended.
func (l *logins) end(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ending)
	defer cancel()
	for _, end := range l.ends {
		err = errors.Join(err, end(ctx))
	}
	l.ends, l.held = nil, nil
	return err
}

// of are the logins that a build gets.
func (l *logins) of(hosts ...credential.Host) build.Logins {
	some := build.Logins{}
	for _, host := range hosts {
		if login, ok := l.held[host]; ok {
			some[host] = login
		}
	}
	return some
}
