package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/plan"
	"github.com/regkeeper/regkeeper/problem"
)

// pruneFlags are the flags of image prune.
type pruneFlags struct {
	apply bool
	from  string
	all   bool
	// imported is another registry's policy, as KIND=FILE.
	imported string

	last     int
	patterns []string
	newer    string
	deployed bool
	inUse    []string

	maxDeletes, maxShare, rate int
}

func newImagePrune(e *env) *cobra.Command {
	var f pruneFlags
	c := &cobra.Command{
		Use:   "prune [PATTERN...]",
		Short: "Show which images would go, and why; with --apply, delete them",
		Long: `Prune reads repositories and decides by rules which of their images stay. It prints a
plan with the reason for each image, and changes nothing unless told to.

The rules are those of the configuration's images, or those given as flags. An image
stays if one rule keeps it; what no rule keeps goes; without rules nothing goes. With
an image stays all that it needs and all that belongs to it: platforms, signatures,
attestations, SBOMs. What could not be found out keeps: a date that nobody tells, a
cluster that does not answer. If a part of a repository cannot be read, nothing of that
repository goes.

--apply carries out exactly the plan: each step is looked at just before, and left out
if its tag leads elsewhere by then or something else needs what it deletes. One run
deletes at most so many images; --max-deletes and --max-share allow more.

With --import, it reads the retention policy of another registry (Gitea's cleanup rule,
Harbor's, ECR's or GitLab's policy) and shows what that would do to the repositories,
what it would break, and where the rules' outcome differs. Without rules, the nearest to
the policy are taken, and what they cannot say is noted. Nothing is deleted then.

It exits with 2 when there is something to delete and --apply was not given.`,
		Example: example(
			"regkeeper image prune",
			"regkeeper image prune gitea.example.com/admin/* --keep-last 30 --keep-deployed",
			"regkeeper image prune -o json > plan.json && regkeeper image prune --from plan.json --apply",
			"regkeeper image prune --apply --max-deletes 500",
			"regkeeper image prune gitea.example.com/admin/* --import gitea=rule.yaml"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			ctx := c.Context()
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			p := &pruneRun{imageRun: r, pruneFlags: f, changed: c.Flags().Changed}
			return p.run(ctx, args)
		},
	}
	flags := c.Flags()
	flags.BoolVar(&f.apply, "apply", false, "carry out the plan")
	flags.StringVar(&f.from, "from", "", "a plan that was printed with -o json, instead of making one")
	flags.BoolVar(&f.all, "all", false, "show what stays, too, in text")
	flags.StringVar(&f.imported, "import", "", "compare with another registry's policy, as gitea=FILE, harbor=FILE, ecr=FILE or gitlab=FILE")
	flags.IntVar(&f.last, "keep-last", 0, "rule: keep the newest images, so many")
	flags.StringSliceVar(&f.patterns, "keep-pattern", nil, "rule: keep images with a tag that matches, such as v*")
	flags.StringVar(&f.newer, "keep-newer-than", "", "rule: keep images that are newer, such as 14d")
	flags.BoolVar(&f.deployed, "keep-deployed", false, "rule: keep images that the cluster, or a file of --in-use-file, uses")
	flags.StringSliceVar(&f.inUse, "in-use-file", nil, "files that name images in use: CI, workflow and compose files, manifests, lists")
	flags.IntVar(&f.maxDeletes, "max-deletes", config.DefaultMaxDeletes, "images of a repository that one run may delete")
	flags.IntVar(&f.maxShare, "max-share", config.DefaultMaxShare, "share of a repository's images that one run may delete, in percent")
	flags.IntVar(&f.rate, "rate", config.DefaultRate, "deletions per second; 0 for no limit")
	return c
}

type pruneRun struct {
	*imageRun
	pruneFlags
	changed func(flag string) bool
}

// planned is a plan with what it takes to carry it out.
type planned struct {
	plan   *plan.Plan
	limits lifecycle.Limits
	rate   float64
	images config.Images
}

func (p *pruneRun) run(ctx context.Context, args []string) error {
	if p.maxDeletes < 0 || p.maxShare < 0 || p.maxShare > 100 || p.rate < 0 {
		return problem.New(problem.Usage, "--max-deletes and --rate are 0 or more, --max-share is from 0 to 100", "a limit is out of its range")
	}
	if p.imported != "" {
		return p.compare(ctx, args)
	}
	plans, err := p.plans(ctx, args)
	if !p.apply {
		if err != nil {
			return err
		}
		return p.show(plans)
	}
	// What could not be planned keeps no other repository from being pruned.
	return joined([]error{p.carryOut(ctx, plans), err})
}

// plans reads the plans that are given, or makes them.
func (p *pruneRun) plans(ctx context.Context, args []string) ([]planned, error) {
	if p.from != "" {
		if len(args) > 0 {
			return nil, problem.New(problem.Usage, "leave the patterns away", "a plan has its repositories in it")
		}
		return p.read(p.from)
	}
	patterns, err := p.imageRun.patterns(args)
	if err != nil {
		return nil, err
	}
	entry, err := p.rules()
	if err != nil {
		return nil, err
	}
	facts := map[*config.Images]plan.Facts{}
	var plans []planned
	var errs []error
	for repository, err := range p.repositories(ctx, patterns) {
		if err != nil {
			return nil, err
		}
		images := entry
		if images == nil {
			if images = p.config.Covering(repository); images == nil {
				return nil, problem.New(problem.Usage, "give rules as flags, such as --keep-last 30, or add an entry to images in the configuration", "no rules are set for %s", repository)
			}
		}
		if _, ok := facts[images]; !ok {
			facts[images] = app.Facts(ctx, images.Policy.Rules, images.Clusters, images.InUse, p.data)
		}
		made, err := p.plan(ctx, repository, *images, facts[images])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		plans = append(plans, made)
	}
	return plans, errors.Join(errs...)
}

// rules are those of the flags; nil if there are none.
func (p *pruneRun) rules() (*config.Images, error) {
	images := config.Images{InUse: p.inUse}
	add := func(rule plan.Rule) { images.Policy.Rules = append(images.Policy.Rules, rule) }
	if p.last < 0 {
		return nil, problem.New(problem.Usage, "", "--keep-last %d is less than 0", p.last)
	}
	if p.last > 0 {
		add(plan.Rule{Last: p.last})
	}
	for _, pattern := range p.pruneFlags.patterns {
		add(plan.Rule{Pattern: pattern})
	}
	if p.newer != "" {
		age, err := model.ParseDuration(p.newer)
		if err != nil || age <= 0 {
			return nil, problem.New(problem.Usage, "write it as 14d or 12h", "--keep-newer-than %q is no time", p.newer)
		}
		add(plan.Rule{NewerThan: time.Duration(age)})
	}
	if p.deployed {
		add(plan.Rule{Deployed: true})
		images.Clusters = []config.Cluster{{}}
	} else if len(p.inUse) > 0 {
		add(plan.Rule{Deployed: true})
	}
	if len(images.Policy.Rules) == 0 {
		return nil, nil
	}
	images.Policy.Grace = config.DefaultGrace
	images.MaxDeletes, images.MaxShare, images.Rate = p.maxDeletes, float64(p.maxShare)/100, float64(p.rate)
	return &images, nil
}

func (p *pruneRun) plan(ctx context.Context, repository image.Repository, images config.Images, facts plan.Facts) (planned, error) {
	reader, err := p.registries.Reader(repository.Host)
	if err != nil {
		return planned{}, err
	}
	bar := p.progress()
	defer bar.done()
	made, err := app.PlanPrune(ctx, reader, repository, images.Policy, facts, app.Ledger(p.folder), lifecycle.Reading{Cache: p.cache, Report: bar.far})
	return p.bounded(made, images), err
}

// bounded adds the limits, of which flags count before the configuration.
func (p *pruneRun) bounded(made *plan.Plan, images config.Images) planned {
	bounds := planned{plan: made, limits: lifecycle.Limits{Images: images.MaxDeletes, Share: images.MaxShare}, rate: images.Rate, images: images}
	if p.changed("max-deletes") {
		bounds.limits.Images = p.maxDeletes
	}
	if p.changed("max-share") {
		bounds.limits.Share = float64(p.maxShare) / 100
	}
	if p.changed("rate") {
		bounds.rate = float64(p.rate)
	}
	return bounds
}

// read reads plans that were printed.
func (p *pruneRun) read(path string) ([]planned, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, disk.Problem(err, "read plan %s", path)
	}
	var plans []*plan.Plan
	if err := json.Unmarshal(raw, &plans); err != nil {
		return nil, problem.Wrap(err, problem.Damaged, "print one anew with `regkeeper image prune -o json`", "read plan %s", path)
	}
	var all []planned
	for i, made := range plans {
		if made == nil {
			return nil, problem.New(problem.Damaged, "print one anew with `regkeeper image prune -o json`", "plan %d of %s is none", i+1, path)
		}
		images := p.config.Covering(made.Repository)
		if images == nil {
			images = &config.Images{MaxDeletes: p.maxDeletes, MaxShare: float64(p.maxShare) / 100, Rate: float64(p.rate)}
		}
		all = append(all, p.bounded(made, *images))
	}
	return all, nil
}

// show prints the plans.
func (p *pruneRun) show(plans []planned) error {
	pending := 0
	printed := []*plan.Plan{}
	for _, made := range plans {
		pending += len(made.plan.Steps)
		printed = append(printed, made.plan)
		if !p.json() {
			p.text(made.plan)
		}
	}
	if p.json() {
		if err := p.printJSON(printed); err != nil {
			return err
		}
	}
	if pending > 0 {
		return problem.New(problem.Pending, "", "%d deletions are pending", pending)
	}
	return nil
}

// text prints a plan for people. Its lines compare well: they hold no ages that
// change from one minute to the next but in reasons.
func (p *pruneRun) text(made *plan.Plan) {
	all, gone := made.Tagged()
	p.printf("%s: %d of %d images go, %s are freed; keep: %s\n", made.Repository, gone, all, size(made.Frees), dash(strings.Join(made.Rules, " | ")))
	for _, v := range made.Images {
		if v.Keep && !p.all {
			continue
		}
		verb := "delete"
		if v.Keep {
			verb = "keep"
		}
		name := strings.Join(v.Tags, ",")
		if name == "" {
			name = image.Short(v.Digest)
		}
		p.printf("  %s %s (%s): %s\n", verb, name, size(v.Size), strings.Join(v.Reasons, "; "))
	}
	for _, note := range made.Notes {
		p.printf("  note: %s\n", note)
	}
	for _, u := range made.Unread {
		p.printf("  not read: %s: %s\n", u.What, u.Why)
	}
}

// carryOut applies the plans, each for itself.
func (p *pruneRun) carryOut(ctx context.Context, plans []planned) error {
	results := []lifecycle.Pruned{}
	var errs []error
	for _, made := range plans {
		if !p.json() {
			p.text(made.plan)
		}
		registry, err := p.registries.Changer(made.plan.Repository.Host)
		if err != nil {
			return err
		}
		bar := p.progress()
		done := 0
		result, err := lifecycle.Apply(ctx, registry, made.plan, lifecycle.Pruning{
			Limits: made.limits, Rate: made.rate, Ledger: app.Ledger(p.folder), Reading: lifecycle.Reading{Cache: p.cache},
			Uses: app.Uses(made.images, p.data),
			Report: func(lifecycle.Done) {
				done++
				bar.far(lifecycle.Progress{What: made.plan.Repository.String(), Done: done, Of: len(made.plan.Steps)})
			},
		})
		bar.done()
		results = append(results, result)
		if !p.json() {
			p.applied(result)
		}
		if err == nil {
			err = result.Err("run it again: what is done stays done")
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if p.json() {
		errs = append(errs, p.printJSON(results))
	}
	return joined(errs)
}

func (p *pruneRun) applied(result lifecycle.Pruned) {
	for _, done := range result.Skipped {
		p.printf("  left: %s: %s\n", done.Step, done.Skipped)
	}
	for _, done := range result.Failed {
		p.printf("  failed: %s: %s\n", done.Step, done.Failed)
	}
	p.printf("%s: %d deletions done, %d left out, %d failed\n", result.Repository, result.Deleted, len(result.Skipped), len(result.Failed))
}

// joined is one error of several: the only one as it is.
func joined(errs []error) error {
	var list []error
	for _, err := range errs {
		if err != nil {
			list = append(list, err)
		}
	}
	if len(list) == 1 {
		return list[0]
	}
	if err := errors.Join(list...); err != nil {
		return problem.Wrap(err, problem.KindOf(list[0]), problem.HintOf(list[0]), "%d parts of the work failed", len(list))
	}
	return nil
}
