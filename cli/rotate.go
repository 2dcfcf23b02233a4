package cli

import (
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
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
			if len(hosts) == 0 {
				cfg, _, err := e.loadOrDefault()
				if err != nil {
					return err
				}
				for _, r := range cfg.Registries {
					if r.Source.Static == nil {
						hosts = append(hosts, r.Host)
					}
				}
			}
			return e.sync(c.Context(), hosts)
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

// kept says whether a registry is kept and its login can be replaced.
func kept(c config.Config, host credential.Host) error {
	for _, r := range c.Registries {
		if r.Host != host {
			continue
		}
		if r.Source.Static != nil {
			return problem.New(problem.Usage, "change the secret where it is kept; it is delivered at the next pass",
				"the login for %s is static: regkeeper does not make it", host)
		}
		return nil
	}
	return problem.New(problem.NotFound, "regkeeper status lists the registries", "registry %s is not in the configuration", host)
}
