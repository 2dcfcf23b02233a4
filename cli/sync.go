package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/credential"
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
			return e.sync(c.Context(), nil)
		},
	}
}

// sync makes a pass, here or in the daemon that has the data folder.
func (e *env) sync(ctx context.Context, rotate []credential.Host) error {
	c, folder, err := e.loadOrDefault()
	if err != nil {
		return err
	}
	e.warn(c.Warnings)
	for _, host := range rotate {
		if err := kept(c, host); err != nil {
			return err
		}
	}
	data, err := app.Open(folder)
	if problem.KindOf(err) == problem.Busy {
		if result, ok, orderErr := order(ctx, folder, rotate); ok {
			return e.printResult(result, orderErr)
		}
	}
	if err != nil {
		return err
	}
	defer func() { _ = data.Close() }()
	bar := e.progress()
	k, err := app.Keeper(c, data, bar.step)
	if err != nil {
		return err
	}
	result, err := k.Sync(ctx, keeper.Options{Rotate: rotate, Impatient: true})
	bar.done()
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
		e.printf("failed  %s: %s\n", failure.Step, failure.Problem)
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
