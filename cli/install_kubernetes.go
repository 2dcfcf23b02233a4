package cli

import (
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/manifests"
	"github.com/regkeeper/regkeeper/problem"
)

// kubernetesInstall is the command that prints what a cluster needs to run
// regkeeper.
type kubernetesInstall struct {
	*env
	options             manifests.Options
	mode                string
	port                []int
	rbacOnly, helm      bool
	makeNamespace, lock bool
}

// manifested is the result, as -o json prints it.
type manifested struct {
	Objects []*unstructured.Unstructured `json:"objects"`
	Notes   []string                     `json:"notes"`
}

func newInstallKubernetes(e *env) *cobra.Command {
	k := kubernetesInstall{env: e}
	c := &cobra.Command{
		Use:   "kubernetes",
		Short: "Print what a cluster needs to run regkeeper",
		Long: `Install kubernetes prints the objects with which regkeeper runs in a cluster, for
kubectl apply -f -: a Namespace, a ServiceAccount, the configuration in a ConfigMap, the
least rights that this configuration takes, a NetworkPolicy, and a Deployment of two of
which one works, or a CronJob. What else is to be done goes to standard error.

Nothing is read but the configuration, and no cluster is asked. The configuration must
keep its state in the cluster: state: {secret: {}}.

With --rbac-only, it prints the ServiceAccount and its rights alone, and with
--for-context those that the targets in another cluster take, to be applied there.
With --helm-values, it prints the values for the Helm chart in charts/regkeeper.`,
		Example: example(
			"regkeeper install kubernetes | kubectl apply -f -",
			"regkeeper install kubernetes --mode cronjob --schedule '*/15 * * * *'",
			"regkeeper install kubernetes --rbac-only --for-context production | kubectl --context production apply -f -",
			"regkeeper install kubernetes --helm-values > values.yaml"),
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return k.run() },
	}
	flags := c.Flags()
	flags.StringVarP(&k.options.Namespace, "namespace", "n", manifests.Name, "regkeeper's namespace")
	flags.BoolVar(&k.makeNamespace, "create-namespace", true, "print the Namespace, unless others live there too")
	flags.StringVar(&k.options.Image, "image", "", "the image (default "+repository+":VERSION)")
	flags.StringVar(&k.mode, "mode", string(manifests.Deployment), "deployment or cronjob")
	flags.Int32Var(&k.options.Replicas, "replicas", 2, "how many pods a Deployment has; one works, the others take over")
	flags.StringVar(&k.options.Schedule, "schedule", "0 * * * *", "when a CronJob runs, as five cron fields")
	flags.StringVar(&k.options.KubeconfigSecret, "kubeconfig-secret", "", "a Secret with a kubeconfig under the key config, for targets in other clusters")
	flags.BoolVar(&k.lock, "network-policy", true, "print the NetworkPolicy")
	flags.IntSliceVar(&k.port, "egress-port", nil, "a port that the NetworkPolicy lets out too, such as a proxy's")
	flags.BoolVar(&k.rbacOnly, "rbac-only", false, "print the ServiceAccount and its rights alone")
	flags.StringVar(&k.options.Context, "for-context", "", "with --rbac-only, the context of the targets' clusters that it is for")
	flags.BoolVar(&k.helm, "helm-values", false, "print values for the Helm chart")
	_ = c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{string(manifests.Deployment), string(manifests.CronJob)}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// repository is where the images are published.
const repository = "ghcr.io/regkeeper/regkeeper"

// ownImage is the image of this version; ok says that one is published.
func ownImage() (image string, ok bool) {
	v := version().Version
	// A tag has no plus sign, and what was built with changes is not published.
	if v == "devel" || strings.Contains(v, "+") {
		return repository + ":devel", false
	}
	return repository + ":" + v, true
}

const devImage = "This regkeeper is no release, and no image of it is published. Build one and name it with --image:\n" +
	"  docker build -t REGISTRY/regkeeper:TAG . && docker push REGISTRY/regkeeper:TAG"

func (k *kubernetesInstall) run() error {
	o := k.options
	switch {
	case o.Context != "" && !k.rbacOnly:
		return problem.New(problem.Usage, "add --rbac-only", "--for-context is for the rights alone: regkeeper runs in one cluster")
	case k.helm && k.rbacOnly:
		return problem.New(problem.Usage, "leave one out", "--helm-values and --rbac-only exclude each other")
	case k.helm && k.json():
		return problem.New(problem.Usage, "leave -o json out", "--helm-values prints YAML")
	case o.Replicas < 1:
		return problem.New(problem.Usage, "give 1 or more", "%d replicas do nothing", o.Replicas)
	}
	o.Mode, o.KeepNamespace, o.OpenNetwork = manifests.Mode(k.mode), !k.makeNamespace, !k.lock
	for _, port := range k.port {
		if port < 1 || port > 65535 {
			return problem.New(problem.Usage, "give a number from 1 to 65535", "%d is no port", port)
		}
		o.EgressPorts = append(o.EgressPorts, int32(port))
	}
	published := true
	if o.Image == "" {
		o.Image, published = ownImage()
	}
	cfg, text, err := k.loadForPod()
	if err != nil {
		return err
	}
	if k.helm {
		values, notes, err := manifests.HelmValues(cfg, text, o)
		if err != nil {
			return err
		}
		k.warn(cfg.Warnings)
		k.printf("# Values for charts/regkeeper, as regkeeper install kubernetes --helm-values prints them.\n%s", values)
		k.tell(notes, published)
		return nil
	}
	set, err := manifests.Kubernetes(cfg, text, o)
	if k.rbacOnly {
		set, err = manifests.Access(cfg, o)
		published = true
	}
	if err != nil {
		return err
	}
	k.warn(cfg.Warnings)
	return k.printSet(set, "As `regkeeper install kubernetes` prints it.", published)
}

// printSet prints objects, and the notes beside them.
func (e *env) printSet(set manifests.Set, comment string, published bool) error {
	if e.json() {
		documents, err := set.Documents()
		if err != nil {
			return err
		}
		result := manifested{Objects: documents, Notes: append([]string{}, set.Notes...)}
		if !published {
			result.Notes = append(result.Notes, devImage)
		}
		return e.printJSON(result)
	}
	text, err := set.YAML(comment)
	if err != nil {
		return err
	}
	e.printf("%s", text)
	e.tell(set.Notes, published)
	return nil
}

// tell prints notes to standard error, so that what is printed can be piped.
func (e *env) tell(notes []string, published bool) {
	if !published {
		notes = append(notes, devImage)
	}
	for _, note := range notes {
		e.note("%s", note)
	}
}

// loadForPod reads the configuration as it will be read in the pod, and its
// text.
func (e *env) loadForPod() (c config.Config, text []byte, err error) {
	path, _, err := e.locate()
	if err != nil {
		return c, nil, err
	}
	// What is wrong with it here is reported as by every command.
	if _, _, err := e.load(); err != nil {
		return c, nil, err
	}
	if text, err = os.ReadFile(path); err != nil {
		return c, nil, disk.Problem(err, "read configuration")
	}
	c, err = config.Parse(path, manifests.Folder, text)
	return c, text, err
}
