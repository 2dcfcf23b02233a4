package cli

import (
	"time"

	"github.com/prometheus/common/model"
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/problem"
)

func newRunnerRotate(e *env) *cobra.Command {
	var f runnerFlags
	var within string
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Give runners another authentication token",
		Long: `Rotate has GitLab reset a runner's authentication token, which ends the one before
at once, and puts the new one into config.toml, which a GitLab Runner that is running
reads by itself. The new token is written to a journal beside the file first: after
an interruption, rotate finishes what it had begun. With --expires-within, tokens
that are good for longer are left alone: for a timer. Each entry of the file with the
token gets the new one. Other machines that have a glrt- token lose it too: give them
the new one.

A Gitea or Forgejo runner is registered anew, with its name and labels. The one
before is deleted when the runner was started again, a minute ago, and has no job
left: run rotate again then. This takes an access token (--access-token-file) and
--scope, which must be the runner's: an administrator's token sees every runner, and
the server does not tell whose it is.`,
		Example: example("regkeeper runner rotate --name docker-runner", "regkeeper runner rotate --all --expires-within 7d",
			"regkeeper runner rotate --forge gitea --access-token-file /run/secrets/gitea-token --scope org:acme"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			var left model.Duration
			if within != "" {
				var err error
				if left, err = model.ParseDuration(within); err != nil || left <= 0 {
					return problem.New(problem.Usage, "write it as 7d, 24h or 90m", "--expires-within %q cannot be read", within)
				}
			}
			fleet, err := f.fleet(c.Context(), e)
			if err != nil {
				return err
			}
			steps, err := fleet.Rotate(c.Context(), f.selection, time.Duration(left))
			return e.printSteps(steps, err)
		},
	}
	f.add(c)
	f.addSelection(c)
	c.Flags().StringVar(&within, "expires-within", "", "leave alone what is good for longer: 7d, 24h (default replace all that are meant)")
	return c
}
