package cli

import (
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/advise"
)

func newAdvise(e *env) *cobra.Command {
	var c advise.Case
	var pulls []string
	command := &cobra.Command{
		Use:   "advise",
		Short: "Say which way of handing a login to CI jobs fits, and why",
		Long: `Advise compares the ways of handing a registry's login to CI jobs: login in
before_script, a mounted config.json, the variable DOCKER_AUTH_CONFIG, a credential helper, and
delivery by regkeeper into the file that the runner reads. For the case that the flags describe
it says which of them fit, which do not, why, and how regkeeper does it.

What is pulled matters most: the image that a job runs in is pulled by the runner before any
script runs; a docker command within a job reads what the job has.`,
		Example: example(
			"regkeeper advise --runner gitea --executor kubernetes --dind --host-access",
			"regkeeper advise --runner gitlab --pulls job-image --cloud --short-lived --host-access",
			"regkeeper advise --runner gitlab --per-project -o json",
		),
		RunE: func(*cobra.Command, []string) error {
			for _, p := range pulls {
				c.Pulls = append(c.Pulls, advise.Pull(p))
			}
			if err := c.Check(); err != nil {
				return err
			}
			all := advise.For(c)
			if e.json() {
				return e.printJSON(all)
			}
			for i, a := range all {
				if i > 0 {
					e.printf("\n")
				}
				e.printf("%s: %s\n", a.Method, a.Fit)
				for _, why := range a.Why {
					e.printf("  - %s\n", why)
				}
				if a.How != "" && a.Fit != advise.Fails {
					e.printf("  with %s\n", a.How)
				}
			}
			return nil
		},
	}
	flags := command.Flags()
	flags.StringVar((*string)(&c.Runner), "runner", string(advise.Gitea), "gitea, forgejo or gitlab")
	flags.StringVar((*string)(&c.Executor), "executor", string(advise.Docker), "docker, kubernetes or shell")
	flags.StringSliceVar(&pulls, "pulls", nil, "who pulls: job-image, in-job (default both)")
	flags.BoolVar(&c.DinD, "dind", false, "jobs have a Docker daemon of their own")
	flags.BoolVar(&c.HostAccess, "host-access", false, "files can be put on the runner's host or into its pod")
	flags.BoolVar(&c.ShortLived, "short-lived", false, "the login ends within hours, as ECR's do")
	flags.BoolVar(&c.Cloud, "cloud", false, "the registry's cloud has a credential helper")
	flags.BoolVar(&c.PerProject, "per-project", false, "projects must not use each other's logins")
	flags.BoolVar(&c.OldClient, "old-client", false, "the docker CLI in jobs is older than 28.3")
	mustComplete(command, "runner", func() []string { return []string{"gitea", "forgejo", "gitlab"} })
	mustComplete(command, "executor", func() []string { return []string{"docker", "kubernetes", "shell"} })
	mustComplete(command, "pulls", func() []string { return []string{"job-image", "in-job"} })
	return command
}
