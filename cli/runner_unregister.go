package cli

import "github.com/spf13/cobra"

func newRunnerUnregister(e *env) *cobra.Command {
	var f runnerFlags
	c := &cobra.Command{
		Use:   "unregister",
		Short: "Take runners from their server, and out of the file",
		Long: `Unregister takes runners from their server, and then out of the file. Of a GitLab
runner that was created at the server (its token begins with glrt-), this machine's
part goes; the runner stays there for other machines with its token.

A runner whose server does not answer stays in the file. A Gitea or Forgejo runner
takes an access token (--access-token-file) and --scope. One that the server does not
show there goes only if the server does not take its token any more either.`,
		Example: example("regkeeper runner unregister --name docker-runner", "regkeeper runner unregister --all",
			"regkeeper runner unregister --forge gitea --access-token-file /run/secrets/gitea-token --scope repo:acme/app"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fleet, err := f.fleet(c.Context(), e)
			if err != nil {
				return err
			}
			steps, err := fleet.Unregister(c.Context(), f.selection)
			return e.printSteps(steps, err)
		},
	}
	f.add(c)
	f.addSelection(c)
	return c
}
