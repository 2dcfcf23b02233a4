package cli

import (
	"context"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/lifecycle"
	"github.com/regkeeper/regkeeper/problem"
)

func newMirror(e *env) *cobra.Command {
	c := &cobra.Command{
		Use:   "mirror",
		Short: "Keep copies of repositories at other registries",
		Long: `A mirror of the configuration says which repositories have copies, where, and which of
their images. The daemon runs the mirrors that have a time; these commands run them now.

An image is copied with all that belongs to it, its tag last. What is there costs one
request and is not sent again. Nothing is ever deleted at the copies: image prune does
that, by rules of its own.`,
		Example: example("regkeeper mirror plan", "regkeeper mirror run backup"),
		Args:    cobra.NoArgs,
	}
	c.AddCommand(newMirrorPlan(e), newMirrorRun(e))
	return c
}

func newMirrorPlan(e *env) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   "plan [NAME...]",
		Short: "Show what the copies lack; change nothing",
		Long: `Plan shows what run would copy, and why. It exits with 2 when there is something to
copy.`,
		Example: example("regkeeper mirror plan", "regkeeper mirror plan backup --all -o json"),
		RunE: func(c *cobra.Command, args []string) error {
			plans := []*lifecycle.MirrorPlan{}
			err := e.mirrors(c.Context(), args, func(m *app.Mirror) {
				m.Planned = func(p *lifecycle.MirrorPlan) bool {
					plans = append(plans, p)
					return false
				}
			})
			if err != nil {
				return err
			}
			changes := 0
			for _, p := range plans {
				changes += p.Changes()
				if !e.json() {
					e.mirrorText(p, all)
				}
			}
			if e.json() {
				if err := e.printJSON(plans); err != nil {
					return err
				}
			}
			if changes > 0 {
				return problem.New(problem.Pending, "", "%d images are to be copied", changes)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&all, "all", false, "show what is there, too, in text")
	return c
}

func (e *env) mirrorText(p *lifecycle.MirrorPlan, all bool) {
	e.printf("%s to %s: %d of %d tags are to be copied\n", p.From, p.To, p.Changes(), len(p.Steps))
	for _, step := range p.Steps {
		if all || step.Deed != lifecycle.Keep {
			e.printf("  %s %s (%s): %s\n", step.Deed, step.Tag, image.Short(step.Digest), step.Reason)
		}
	}
}

// mirrored is what run prints of an image.
type mirrored struct {
	From   image.Reference  `json:"from"`
	Copied lifecycle.Copied `json:"copied"`
	Error  string           `json:"error,omitempty"`
}

func newMirrorRun(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "run [NAME...]",
		Short: "Copy what the copies lack",
		Long: `Run copies what mirror plan shows. Cut off, it goes on where it was when it is run
again.`,
		Example: example("regkeeper mirror run", "regkeeper mirror run backup -o json"),
		RunE: func(c *cobra.Command, args []string) error {
			results := []mirrored{}
			var mu sync.Mutex
			bar := e.progress()
			err := e.mirrors(c.Context(), args, func(m *app.Mirror) {
				m.Planned = func(p *lifecycle.MirrorPlan) bool {
					mu.Lock()
					defer mu.Unlock()
					if !e.json() {
						e.printf("%s to %s: %d of %d tags are to be copied\n", p.From, p.To, p.Changes(), len(p.Steps))
					}
					return true
				}
				m.Far = bar.far
				m.Done = func(p *lifecycle.MirrorPlan, step lifecycle.MirrorStep, copied lifecycle.Copied, err error) {
					mu.Lock()
					defer mu.Unlock()
					result := mirrored{From: image.Reference{Repository: p.From, Tag: step.Tag}, Copied: copied}
					if err != nil {
						result.Error = err.Error()
					}
					results = append(results, result)
					if !e.json() && err == nil {
						e.printf("  %s %s: %s sent\n", step.Tag, image.Short(step.Digest), size(copied.Bytes))
					}
				}
			})
			bar.done()
			if e.json() {
				if printErr := e.printJSON(results); err == nil {
					err = printErr
				}
			}
			return err
		},
	}
}

// mirrors runs the mirrors that are named, or all.
func (e *env) mirrors(ctx context.Context, names []string, prepare func(*app.Mirror)) (err error) {
	r, err := e.openImages(ctx)
	if err != nil {
		return err
	}
	defer r.close(ctx, &err)
	chosen, err := r.chosen(names)
	if err != nil {
		return err
	}
	var errs []error
	for _, mirror := range chosen {
		run := &app.Mirror{Mirror: mirror, Data: r.data, Registries: r.registries, Cache: r.cache}
		prepare(run)
		errs = append(errs, run.Run(ctx))
	}
	return joined(errs)
}

func (r *imageRun) chosen(names []string) ([]config.Mirror, error) {
	if len(r.config.Mirrors) == 0 {
		return nil, problem.New(problem.Usage, "add mirrors: to the configuration, or copy single images with `regkeeper image copy`", "the configuration has no mirrors")
	}
	if len(names) == 0 {
		return r.config.Mirrors, nil
	}
	var chosen []config.Mirror
	for _, name := range names {
		found := false
		for _, mirror := range r.config.Mirrors {
			if mirror.Name == name {
				chosen, found = append(chosen, mirror), true
			}
		}
		if !found {
			var known []string
			for _, mirror := range r.config.Mirrors {
				known = append(known, mirror.Name)
			}
			return nil, problem.New(problem.NotFound, "there are "+strings.Join(known, ", "), "there is no mirror %q", name)
		}
	}
	return chosen, nil
}
