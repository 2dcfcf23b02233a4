package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

func newSync(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "sync",
		Short: "Make one pass: mint, verify, deliver and revoke what is due",
		Long: `Sync makes one pass and ends: for cron, and for looking at what happens. When a
daemon has the data folder, sync has it make the pass.`,
		Example: example("regkeeper sync", "regkeeper sync --config /etc/regkeeper/regkeeper.yaml -o json"),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return e.sync(c.Context(), keeper.Rotate{})
		},
	}
}

// sync makes a pass: in the daemon that has the data folder, or here. The
// daemon is asked first, since it may be at work by a configuration that was
// changed for the worse since.
func (e *env) sync(ctx context.Context, rotate keeper.Rotate) error {
	_, folder, err := e.locate()
	if err != nil {
		return err
	}
	if result, ok, err := order(ctx, folder, rotate); ok {
		return e.printResult(result, err)
	}
	c, folder, err := e.loadOrDefault()
	if err != nil {
		return err
	}
	e.warn(c.Warnings)
	data, err := app.Open(folder)
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	bar := e.progress()
	k, err := app.Keeper(c, data, bar.step)
	if err != nil {
		return err
	}
	hosts, err := k.Hosts(rotate)
	if err != nil {
		return err
	}
	result, err := k.Sync(ctx, keeper.Options{Rotate: hosts, Impatient: true})
	bar.done()
	if c.Embedded != nil && problem.KindOf(err) == problem.Unreachable {
		err = problem.Wrap(err, problem.Unreachable,
			"the embedded registry is served by regkeeper up: start that, then try again", "no daemon runs")
	}
	return e.printResult(result, err)
}

func (e *env) printResult(result keeper.Result, err error) error {
	if e.json() {
		if result.Done == nil {
			result.Done = []keeper.Step{}
		}
		if result.Failed == nil {
			result.Failed = []keeper.Failure{}
		}
		if jerr := e.printJSON(result); jerr != nil {
			return jerr
		}
		return err
	}
	for _, step := range result.Done {
		e.printf("done    %s\n", step)
	}
	for _, failure := range result.Failed {
		e.printf("failed  %s: %s\n", failure.Step, strings.ReplaceAll(failure.Problem, "\n", "\n        "))
		if failure.Hint != "" {
			e.printf("        hint: %s\n", failure.Hint)
		}
	}
	for _, step := range result.Plan.Steps {
		if step.Action == keeper.Wait || !step.Until.IsZero() && step.Action == keeper.Keep {
			e.printf("later   %s\n", step)
		}
	}
	if len(result.Done)+len(result.Failed) == 0 && err == nil {
		e.printf("nothing to do: every target holds the login in force\n")
	}
	return err
}
