package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/kubelet"
)

func newInstallKubelet(e *env) *cobra.Command {
	n := nodeInstall{env: e}
	c := &cobra.Command{
		Use:   "kubelet",
		Short: "Have a node's kubelet ask regkeeper for logins",
		Long: `Install kubelet prints the CredentialProviderConfig (kubelet.config.k8s.io/v1) with
which the kubelet of this node asks regkeeper for logins, for exactly the
registries of the configuration, and the two flags that the kubelet needs.

With --write, it writes the document to config.yaml of the folder, and links this
program as bin/regkeeper there. Other providers of a document that is there stay
as they are. Running it again changes nothing.`,
		Example: example(
			"regkeeper install kubelet",
			"regkeeper install kubelet --write",
			"regkeeper install kubelet --write --service-account-token --allow 'team-*/default'"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return n.run(c.Context(), func(config, bin string) string {
				return "Start the kubelet with:\n  " + strings.Join(kubelet.Flags(config, bin), "\n  ")
			})
		},
	}
	n.flags(c, "/etc/kubernetes/credential-provider")
	return c
}
