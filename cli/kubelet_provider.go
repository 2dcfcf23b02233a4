package cli

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/kubelet"
	"github.com/regkeeper/regkeeper/problem"
)

func newKubeletProvider(e *env) *cobra.Command {
	var (
		file  string
		cache time.Duration
		allow []string
	)
	c := &cobra.Command{
		Use:   kubelet.Command,
		Short: "Answer the kubelet, which asks for the login of an image (KEP-2133)",
		Long: `Kubelet-provider is an image credential provider of the kubelet: it reads one
CredentialProviderRequest (credentialprovider.kubelet.k8s.io/v1) from standard
input and writes the CredentialProviderResponse to standard output. The kubelet
runs it; regkeeper install kubelet has it do so.

The logins are those of a config.json that regkeeper keeps up to date on the node
(a file target). It opens no connection and reads no configuration.

Where the kubelet sends a token of the pod (KEP-4412), the pod's ServiceAccount
counts: one with the annotation regkeeper.dev/exclude: "true" gets no login, and
with --allow only those that are named get one. The token's signature is not
checked: the kubelet is the one that asks.`,
		Example: example(
			"regkeeper kubelet-provider --file /var/lib/regkeeper/kubelet/config.json",
			`echo '{"apiVersion": "credentialprovider.kubelet.k8s.io/v1", "kind": "CredentialProviderRequest", "image": "gitea.example.com/team/app"}' | regkeeper kubelet-provider`),
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := checkProvider(cache, allow); err != nil {
				return err
			}
			text, err := io.ReadAll(io.LimitReader(e.In, kubelet.MaxRequest+1))
			if err != nil {
				return disk.Problem(err, "read standard input")
			}
			request, err := kubelet.ParseRequest(text)
			if err != nil {
				return err
			}
			if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
				return problem.New(problem.NotFound, "have a file target of regkeeper keep it, or name another with --file", "%s does not exist", file)
			}
			doc, err := dockerconfig.File{Path: file}.Read()
			if err != nil {
				return err
			}
			answer, err := kubelet.Answer(request, allow, doc, cache)
			if err != nil {
				return err
			}
			_, err = e.Out.Write(answer)
			return err
		},
	}
	providerFlags(c, &file, &cache, &allow)
	return c
}

// providerFlags are those of the command, which the commands that install it
// hand on.
func providerFlags(c *cobra.Command, file *string, cache *time.Duration, allow *[]string) {
	flags := c.Flags()
	flags.StringVar(file, "file", kubelet.DefaultFile, "the config.json with the logins")
	flags.DurationVar(cache, "cache", kubelet.DefaultCache, "how long the kubelet uses an answer; at most 30m, and shorter than the overlap of a rotation; 0 for one pull")
	flags.StringArrayVar(allow, "allow", nil, "who gets logins: 'namespace/serviceaccount', with * and ?; may be repeated (default all; needs tokens)")
}

func checkProvider(cache time.Duration, allow kubelet.Allow) error {
	if cache < 0 || cache > kubelet.MaxCache {
		return problem.New(problem.Usage, "give a time from 0 to 30m: a rotated login must reach the node before the one before it ends", "--cache %s cannot be kept", cache)
	}
	return allow.Check()
}
