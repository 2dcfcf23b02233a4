package cli

import (
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/keeper"
)

func newRotate(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "rotate [HOST...]",
		Short: "Replace logins now",
		Long: `Rotate mints a new login for each of the registries, or for all, verifies and
delivers it. The login before it is revoked when every target has left it and the
overlap has passed: by the daemon, or by a later sync.`,
		Example: example("regkeeper rotate", "regkeeper rotate gitea.example.com"),
		RunE: func(c *cobra.Command, args []string) error {
			var hosts []credential.Host
			for _, arg := range args {
				host, err := credential.ParseHost(arg)
				if err != nil {
					return err
				}
				hosts = append(hosts, host)
			}
			return e.sync(c.Context(), keeper.Rotate{All: len(hosts) == 0, Hosts: hosts})
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			cfg, _, err := e.loadOrDefault()
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var words []string
			for _, r := range cfg.Registries {
				words = append(words, string(r.Host))
			}
			return words, cobra.ShellCompDirectiveNoFileComp
		},
	}
}
