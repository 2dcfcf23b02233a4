package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release"
)

func newRelease(e *env) *cobra.Command {
	var all, plan, dirty, rebuild, latest bool
	var steps []string
	c := &cobra.Command{
		Use:   "release [ITEM...]",
		Short: "Build images of a commit, push them, and roll them out",
		Long: `Release takes a git work tree to running pods, for items of the configuration's releases:
it names the image by the commit's short SHA, has it built and pushed by docker buildx or
BuildKit, sets the tag, waits until the registry serves it, sets the image in the
workloads, watches them roll out, and goes back to the images before if they do not.

A tree that is not as committed is refused unless asked for. A tag that is there already
with another image is never moved. What was built of the commit is not built again. The
login for the push is issued for it and ended after it; ~/.docker/config.json is not
touched.

With --plan it says what it would do, and exits with 2 if that is anything.`,
		Example: example(
			"regkeeper release --all",
			"regkeeper release api worker --plan",
			"regkeeper release api --step build,wait        # no rollout",
			"regkeeper release rollback api"),
		RunE: func(c *cobra.Command, args []string) (err error) {
			if all == (len(args) > 0) {
				return problem.New(problem.Usage, "name items, or give --all", "what is to be released is not said, or twice")
			}
			chosen, err := releaseSteps(steps)
			if err != nil {
				return err
			}
			ctx := c.Context()
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			releaser, notes, err := app.Releaser(ctx, r.config, r.data, r.registries, app.ReleaseOptions{
				AllowDirty: dirty, Rebuild: rebuild, Latest: latest, Progress: e.releaseProgress,
			})
			if err != nil {
				return err
			}
			e.warn(notes)
			made, err := releaser.Plan(ctx, chosen, args...)
			if err != nil {
				return err
			}
			if plan {
				return e.showRelease(made)
			}
			if err := made.Err(); err != nil {
				return err
			}
			records, err := releaser.Run(ctx, made)
			return e.released(records, err)
		},
	}
	flags := c.Flags()
	flags.BoolVar(&all, "all", false, "release all items")
	flags.BoolVar(&plan, "plan", false, "show what would be done; change nothing")
	flags.BoolVar(&dirty, "allow-dirty", false, "release a work tree that is not as committed")
	flags.BoolVar(&rebuild, "rebuild", false, "build what was built of the commit already, too")
	flags.BoolVar(&latest, "latest", false, "have the tag latest follow, too")
	flags.StringSliceVar(&steps, "step", nil, "do these steps alone: build, wait, deploy, watch")
	c.AddCommand(newReleaseRollback(e), newReleaseList(e))
	return c
}

func releaseSteps(names []string) ([]release.Step, error) {
	if len(names) == 0 {
		return release.All, nil
	}
	var steps []release.Step
	for _, step := range release.All {
		for _, name := range names {
			if string(step) == name {
				steps = append(steps, step)
			}
		}
	}
	if len(steps) != len(names) {
		return nil, problem.New(problem.Usage, "the steps are build, wait, deploy and watch", "steps %s are not known, or named twice", strings.Join(names, ","))
	}
	return steps, nil
}

// releaseProgress tells of a release as it goes on: on standard error where the
// result is JSON.
func (e *env) releaseProgress(event release.Event) {
	out := e.Out
	if e.json() {
		out = e.Err
	}
	line := event.Text
	if event.Output {
		line = "| " + line
	}
	if event.Item != "" {
		line = event.Item + ": " + line
	}
	_, _ = fmt.Fprintf(out, "%s %s\n", event.Step, line)
}

func (e *env) showRelease(made *release.Plan) error {
	if e.json() {
		if err := e.printJSON(made); err != nil {
			return err
		}
	} else {
		for _, item := range made.Items {
			e.printf("%s: %s\n", item.Name, item.Reference)
			for _, action := range item.Actions {
				e.printf("  %s\n", action)
			}
			for _, set := range item.Sets {
				e.printf("  %s %s: %s -> %s\n", set.Namespace, set.Workload, set.From, set.To)
			}
			for _, note := range item.Notes {
				e.printf("  note: %s\n", note)
			}
			for _, why := range item.Refused {
				e.printf("  refused: %s\n", why)
			}
		}
	}
	if err := made.Err(); err != nil {
		return err
	}
	if steps := made.Pending(); steps > 0 {
		return problem.New(problem.Pending, "", "%d steps are pending", steps)
	}
	return nil
}

// released prints what became of a release.
func (e *env) released(records []release.Record, err error) error {
	if e.json() {
		if records == nil {
			records = []release.Record{}
		}
		if printErr := e.printJSON(records); err == nil {
			err = printErr
		}
		return err
	}
	for _, record := range records {
		e.printf("%s: %s %s\n", record.Item, record.Outcome, record.Reference)
	}
	return err
}

func newReleaseRollback(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "rollback ITEM...",
		Short: "Take the last release of items back",
		Long: `Rollback sets the images that the workloads had before their last release, and watches
them roll out. A workload that has another image by now is left as it is, and then
nothing is changed.`,
		Example: example("regkeeper release rollback api"),
		Args:    cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) (err error) {
			ctx := c.Context()
			r, err := e.openImages(ctx)
			if err != nil {
				return err
			}
			defer r.close(ctx, &err)
			releaser, notes, err := app.Releaser(ctx, r.config, r.data, r.registries, app.ReleaseOptions{Progress: e.releaseProgress})
			if err != nil {
				return err
			}
			e.warn(notes)
			records, err := releaser.Rollback(ctx, args...)
			return e.released(records, err)
		},
	}
}

func newReleaseList(e *env) *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List what was released",
		Long:    `List shows the records of releases, the oldest first: image, commit, by whom, and how each ended.`,
		Example: example("regkeeper release list", "regkeeper release list -o json | jq '.[-1].reference'"),
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, folder, err := e.locate()
			if err != nil {
				return err
			}
			records := []release.Record{}
			for record, err := range app.Releases(folder).Records() {
				if err != nil {
					return err
				}
				records = append(records, record)
			}
			if e.json() {
				return e.printJSON(records)
			}
			rows := [][]string{}
			for _, r := range records {
				rows = append(rows, []string{r.Item, string(r.Outcome), r.Reference.Tag, r.Commit[:min(len(r.Commit), 12)], ago(&r.Ended), dash(r.By)})
			}
			return e.table("ITEM OUTCOME TAG COMMIT ENDED BY", rows)
		},
	}
}
