package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/kubelet"
)

// k3sFolder is where K3s and RKE2 look for a credential provider by themselves
// (k3s-io/k3s, pkg/cli/cmds/agent.go): config.yaml and bin in it.
const k3sFolder = "/var/lib/rancher/credentialprovider"

func newInstallK3s(e *env) *cobra.Command {
	n := nodeInstall{env: e, showTarget: true}
	m := mirrorInstall{env: e}
	c := &cobra.Command{
		Use:   "k3s",
		Short: "Have the kubelet of a K3s or RKE2 node ask regkeeper for logins",
		Long: `Install k3s prints the CredentialProviderConfig (kubelet.config.k8s.io/v1) with
which the kubelet of this K3s or RKE2 node asks regkeeper for logins, for exactly
the registries of the configuration, and the target that keeps the file it
answers from.

With --write, it writes the document and links this program where K3s looks for
them: no flag is needed then, and K3s is restarted once. Rotated logins reach the
node without a restart. Other providers of a document that is there stay as they
are. Running it again changes nothing.

With --mirror, it is about registries.yaml instead: K3s then asks a mirror before a
registry, such as the embedded registry with the registry among its upstreams.`,
		Example: example(
			"regkeeper install k3s",
			"regkeeper install k3s --write",
			"regkeeper install k3s --write --service-account-token --allow 'team-*/default'",
			"regkeeper install k3s --for gitea.example.com --mirror https://mirror.example.com --write"),
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if m.url != "" || m.host != "" {
				m.write = n.write
				return m.run(k3s())
			}
			return n.run(c.Context(), func(config, bin string) string {
				if n.dir == k3sFolder {
					return "K3s finds both when it starts:\n  systemctl restart k3s   # or k3s-agent"
				}
				return "Start K3s with:\n  " + strings.Join(kubelet.Flags(config, bin), "\n  ")
			})
		},
	}
	n.flags(c, k3sFolder)
	m.flags(c)
	return c
}
