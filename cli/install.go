package cli

import "github.com/spf13/cobra"

func newInstall(e *env) *cobra.Command {
	group := &cobra.Command{Use: "install", Short: "Print or write what another program needs to work with regkeeper"}
	group.AddCommand(newInstallKubelet(e), newInstallK3s(e), newInstallContainerd(e), newInstallDocker(e), newInstallKubernetes(e), newInstallGiteaRunner(e), newInstallHelper(e))
	return group
}
