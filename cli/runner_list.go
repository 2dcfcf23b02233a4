package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/runner"
)

func newRunnerList(e *env) *cobra.Command {
	var f runnerFlags
	c := &cobra.Command{
		Use:   "list",
		Short: "List the runners that are registered on this machine",
		Long:  `List reads the runners' file. It asks no server; verify does.`,
		Example: example("regkeeper runner list", "regkeeper runner list --runner-config /srv/gitlab-runner/config/config.toml -o json",
			"regkeeper runner list --forge gitea --runner-config /var/lib/gitea-runner/.runner"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			fleet, err := f.fleet(c.Context(), e)
			if err != nil {
				return err
			}
			infos, err := fleet.List(c.Context())
			if err != nil {
				return err
			}
			if e.json() {
				return e.printJSON(struct {
					Runners []runner.Info `json:"runners"`
				}{infos})
			}
			if len(infos) == 0 {
				e.printf("no runner is registered\n")
				return nil
			}
			var rows [][]string
			for _, i := range infos {
				rows = append(rows, []string{i.Name, fmt.Sprint(i.ID), i.URL, dash(i.Executor), ago(i.Expires)})
			}
			return e.table("NAME ID URL EXECUTOR EXPIRES", rows)
		},
	}
	f.add(c)
	return c
}
