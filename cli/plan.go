package cli

import (
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/app"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/problem"
)

func newPlan(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "plan",
		Short: "Show what sync would do, and why; change nothing",
		Long: `Plan looks at the registries and the targets and prints each step that sync would
begin with, what it would leave as it is included, with the reason.

It exits with 2 when there is something to change.`,
		Example: example("regkeeper plan", "regkeeper plan -o json | jq '.steps[] | select(.action != \"keep\")'"),
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, folder, err := e.loadToLook(c.Context())
			if err != nil {
				return err
			}
			e.warn(cfg.Warnings)
			data, err := app.Look(c.Context(), cfg, folder, e.options())
			if err != nil {
				return err
			}
			k, err := app.Keeper(cfg, data, nil)
			if err != nil {
				return err
			}
			bar := e.progress()
			plan, err := k.Plan(c.Context(), keeper.Options{})
			bar.done()
			if err != nil {
				return err
			}
			if e.json() {
				if plan.Steps == nil {
					plan.Steps = []keeper.Step{}
				}
				if err := e.printJSON(plan); err != nil {
					return err
				}
			} else {
				for _, step := range plan.Steps {
					e.printf("%s\n", step)
				}
			}
			if n := len(plan.Changes()); n > 0 {
				return problem.New(problem.Pending, "", "%d changes are pending", n)
			}
			return nil
		},
	}
}
