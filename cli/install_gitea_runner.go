package cli

import (
	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/manifests"
	"github.com/regkeeper/regkeeper/problem"
)

func newInstallGiteaRunner(e *env) *cobra.Command {
	var r manifests.Runner
	c := &cobra.Command{
		Use:   "gitea-runner",
		Short: "Print Gitea runners for a cluster, with Docker daemons that regkeeper keeps logged in",
		Long: `Install gitea-runner prints a StatefulSet of Gitea runners, each with a Docker daemon
of its own (Docker-in-Docker), for kubectl apply -f -, and above it the target by which
regkeeper keeps them logged in.

Runners that a Helm release made need none of this, nor a change of the release: a
target with their labels is enough. Everything here is for who has no runners yet.`,
		Example: example(
			"regkeeper install gitea-runner --instance https://gitea.example.com --registration-token-secret runner-token | kubectl apply -f -",
			"regkeeper install gitea-runner --instance https://gitea.example.com --registration-token-secret runner-token \\",
			"    --labels homelab-latest:docker://gitea.example.com/homelab/actions-runner:latest,host-docker:host --replicas 3"),
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if r.Replicas < 1 {
				return problem.New(problem.Usage, "give 1 or more", "%d replicas do nothing", r.Replicas)
			}
			set, err := manifests.GiteaRunner(r)
			if err != nil {
				return err
			}
			return e.printSet(set, r.RunnerComment(), true)
		},
	}
	flags := c.Flags()
	flags.StringVar(&r.Instance, "instance", "", "the URL of the Gitea server")
	flags.StringVar(&r.TokenSecret, "registration-token-secret", "", "the Secret with the registration token")
	flags.StringVar(&r.TokenKey, "registration-token-key", "token", "the key of that Secret")
	flags.StringSliceVar(&r.Labels, "labels", []string{manifests.RunnerLabel}, "which jobs they take: NAME:docker://IMAGE or NAME:host")
	flags.StringVarP(&r.Namespace, "namespace", "n", "gitea", "the runners' namespace")
	flags.StringVar(&r.Name, "name", "act-runner", "the name of the StatefulSet")
	flags.Int32Var(&r.Replicas, "replicas", 1, "how many runners")
	flags.StringVar(&r.Image, "image", manifests.RunnerImage, "the runner's image")
	flags.StringVar(&r.DindImage, "dind-image", manifests.RunnerDindImage, "the Docker daemon's image")
	flags.StringVar(&r.Storage, "storage", "1Gi", "the size of the volume that holds a runner's registration")
	flags.StringVar(&r.StorageClass, "storage-class", "", "its StorageClass (default the cluster's)")
	return c
}
