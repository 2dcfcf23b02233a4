package release

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/problem"
)

// running is an item while it is released.
type running struct {
	*Planned
	digest digest.Digest
	record Record
}

// Run carries a plan of this releaser's out, and returns a record of each item,
// also when it fails. A plan of which anything is refused changes nothing.
//
// When a workload does not roll out, all workloads of the run go back to the
// images that they had, and [rollout.ErrStuck] is in the error's chain. When ctx
// ends in the midst of it they go back too, and it is not waited for them.
func (r *Releaser) Run(ctx context.Context, plan *Plan) ([]Record, error) {
	if err := plan.Err(); err != nil {
		return nil, err
	}
	runs := make([]*running, len(plan.Items))
	for i := range plan.Items {
		p := &plan.Items[i]
		if p.item == nil {
			return nil, fmt.Errorf("run the plan of %s: it was not made here", p.Name)
		}
		runs[i] = &running{Planned: p, digest: p.Reference.Digest, record: Record{
			Item: p.Name, Reference: p.Reference, Commit: p.Revision.Name(), Began: r.config.Now(), By: r.config.By,
		}}
	}
	lent := &logins{r: r, held: map[credential.Host]credential.Login{}}
	defer func() { _ = lent.end(ctx) }() // nothing, unless something below panics
	err := r.images(ctx, runs, lent)
	// They are needed no longer, and a rollout may take its time. One that does not
	// end is told of, and is no reason to stop between push and deploy.
	ended := lent.end(ctx)
	if err == nil {
		err = r.deploy(ctx, runs)
	}
	records, err := r.finish(ctx, runs, err)
	return records, errors.Join(err, ended)
}

// finish writes the records down.
func (r *Releaser) finish(ctx context.Context, runs []*running, err error) ([]Record, error) {
	// What was done must be written down, also of a run that was interrupted.
	detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), ending)
	defer cancel()
	records := make([]Record, 0, len(runs))
	for _, run := range runs {
		record := &run.record
		record.Reference.Digest, record.Ended = run.digest, r.config.Now()
		if err != nil {
			record.Error = err.Error()
		}
		switch {
		case record.Outcome != "":
		case err != nil:
			record.Outcome = Failed
		case len(record.Workloads) > 0:
			record.Outcome = Released
		case run.does(Build):
			record.Outcome = Built
		default:
			record.Outcome = Unchanged
		}
		records = append(records, *record)
		if r.config.Journal != nil && record.Outcome != Unchanged {
			err = errors.Join(err, r.config.Journal.Append(detached, *record))
		}
	}
	return records, err
}

// images has the images built, tagged and served.
func (r *Releaser) images(ctx context.Context, runs []*running, lent *logins) error {
	prepared := false
	for _, run := range runs {
		if !run.does(Build) {
			continue
		}
		if !prepared {
			r.say("", Build, "%s", r.config.Builder)
			if err := r.config.Builder.Prepare(ctx, r.output("")); err != nil {
				return err
			}
			prepared = true
		}
		if err := r.build(ctx, run, lent); err != nil {
			return err
		}
	}
	for _, run := range runs {
		if run.does(Wait) {
			if err := r.wait(ctx, run, lent); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Releaser) output(item string) func(string) {
	return func(line string) { r.tell(Event{Item: item, Step: Build, Text: line, Output: true}) }
}

// registry is the way to an item's registry, with the login of the run if it has
// one.
func (r *Releaser) registry(run *running, lent *logins) (Registry, error) {
	host := run.Reference.Host
	if login, ok := lent.held[host]; ok {
		return r.config.Registry(host, &login)
	}
	return r.config.Registry(host, nil)
}

func (r *Releaser) build(ctx context.Context, run *running, lent *logins) error {
	host := run.Reference.Host
	if err := lent.borrow(ctx, host, credential.ScopesOf(credential.Pull, credential.Push)); err != nil {
		return err
	}
	for _, base := range r.config.Bases {
		if err := lent.borrow(ctx, base, credential.ScopesOf(credential.Pull)); err != nil {
			return err
		}
	}
	job := run.item.Job
	job.Name = run.Name
	job.Labels, job.Annotations = maps.Clone(job.Labels), maps.Clone(job.Annotations)
	for _, set := range []*map[string]string{&job.Labels, &job.Annotations} {
		if *set == nil {
			*set = map[string]string{}
		}
		(*set)[ocispec.AnnotationRevision] = run.Revision.Name()
	}
	if run.item.Reproducible {
		job.Epoch = run.Revision.Committed
	}
	r.say(run.Name, Build, "%s", run.Reference.Repository)
	made, err := r.config.Builder.Build(ctx, job, lent.of(append(slices.Clone(r.config.Bases), host)...), r.output(run.Name))
	if err != nil {
		return err
	}
	registry, err := r.registry(run, lent)
	if err != nil {
		return err
	}
	return r.tag(ctx, run, registry, made.Digest)
}

// tag has the tag lead to what was built, unless it leads elsewhere.
func (r *Releaser) tag(ctx context.Context, run *running, registry Registry, d digest.Digest) error {
	ref := run.Reference
	repository := ref.Path
	ref.Digest = ""
	made, err := read(ctx, registry, repository, d)
	if err != nil {
		return err
	}
	now, err := registry.Resolve(ctx, repository, ref.Tag)
	if err != nil && !errors.Is(err, image.ErrMissing) {
		return fmt.Errorf("look for %s: %w", ref, err)
	}
	run.digest = d
	switch {
	case err == nil && now.Digest == d:
		r.say(run.Name, Build, "%s is %s already", ref.Tag, d)
		return r.latest(ctx, run, registry, made)
	case err == nil && run.Revision.Clean():
		there, err := read(ctx, registry, repository, now.Digest)
		if err != nil {
			return err
		}
		if !slices.Equal(there.images(), made.images()) {
			run.digest = ""
			return problem.Wrap(image.ErrMoved, problem.Refused, "commit a change, which makes another tag; the build is there as "+run.Reference.Repository.String()+"@"+d.String(),
				"%s is %s, and this build is another image: the tag was left as it is", ref, now.Digest)
		}
		run.digest = now.Digest
		r.say(run.Name, Build, "%s stays: the build gave the same image", ref.Tag)
		return r.latest(ctx, run, registry, there)
	}
	if err := set(ctx, registry, repository, ref.Tag, made); err != nil {
		return err
	}
	r.say(run.Name, Build, "%s is %s", ref, d)
	return r.latest(ctx, run, registry, made)
}

func set(ctx context.Context, registry Registry, repository, tag string, b *built) error {
	d, err := registry.WriteManifest(ctx, repository, tag, b.mediaType, b.raw)
	if err != nil {
		return fmt.Errorf("set tag %s of %s: %w", tag, repository, err)
	}
	if d != "" && d != b.manifest.Digest {
		return fmt.Errorf("set tag %s of %s: the registry made %s of %s", tag, repository, d, b.manifest.Digest)
	}
	return nil
}

func (r *Releaser) latest(ctx context.Context, run *running, registry Registry, b *built) error {
	if !r.config.Latest || !run.Revision.Clean() {
		return nil
	}
	r.say(run.Name, Build, "latest is %s", b.manifest.Digest)
	return set(ctx, registry, run.Reference.Path, "latest", b)
}

// wait waits until the registry serves the tag, and every manifest that it leads
// to.
func (r *Releaser) wait(ctx context.Context, run *running, lent *logins) error {
	registry, err := r.registry(run, lent)
	if err != nil {
		return err
	}
	var missing []digest.Digest
	var known *built
	look := func() (struct{}, error) {
		done := struct{}{}
		found, err := registry.Resolve(ctx, run.Reference.Path, run.Reference.Tag)
		switch {
		case errors.Is(err, credential.ErrRefused):
			return done, backoff.Permanent(err)
		case err != nil:
			return done, err
		case found.Digest != run.digest:
			return done, fmt.Errorf("%w: to %s", image.ErrMoved, found.Digest)
		}
		if known == nil {
			// Read once: registries count it as a download.
			if known, err = read(ctx, registry, run.Reference.Path, run.digest); err != nil {
				return done, err
			}
			if lacks := known.lacks(run.Platforms); len(lacks) > 0 {
				return done, backoff.Permanent(problem.New(problem.Config, "see what the build makes", "%s lacks %v", run.digest, lacks))
			}
			for _, child := range known.manifest.Children {
				missing = append(missing, child.Digest)
			}
		}
		for len(missing) > 0 {
			if _, err := registry.Resolve(ctx, run.Reference.Path, missing[0].String()); err != nil {
				return done, fmt.Errorf("part %s: %w", missing[0], err)
			}
			missing = missing[1:]
		}
		return done, nil
	}
	pace := backoff.NewExponentialBackOff()
	pace.InitialInterval, pace.MaxInterval = 200*time.Millisecond, 10*time.Second
	_, err = backoff.Retry(ctx, look, backoff.WithBackOff(pace), backoff.WithMaxElapsedTime(r.config.Serve))
	if err != nil {
		return problem.Wrap(err, problem.Unreachable, "see whether the registry has taken the push: its storage, its replicas", "%s is not served", run.Reference)
	}
	r.say(run.Name, Wait, "served")
	return nil
}
