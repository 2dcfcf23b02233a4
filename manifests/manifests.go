// Package manifests owns the objects by which regkeeper, and runners that it
// keeps logged in, run in a Kubernetes cluster.
//
// Its functions are pure: from a configuration to objects in the order in which
// they are applied. They refuse to talk to a cluster, and to print what a
// configuration cannot do in one.
package manifests

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/robfig/cron/v3"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/problem"
)

// Name is the name of all objects in regkeeper's own namespace.
const Name = "regkeeper"

// Mode is how regkeeper runs.
type Mode string

// The modes.
const (
	// Deployment stays: it rotates on time and delivers to what is new at once.
	Deployment Mode = "deployment"
	// CronJob makes one pass at each time of a schedule.
	CronJob Mode = "cronjob"
)

// Folder is where the configuration is in the container; relative paths in it
// start there.
const Folder = "/etc/regkeeper"

const (
	fileName   = "regkeeper.yaml"
	dataFolder = "/var/lib/regkeeper"
	// kubeconfigFolder holds the kubeconfig for other clusters, under the key
	// kubeconfigKey of its Secret.
	kubeconfigFolder = "/var/run/regkeeper"
	kubeconfigKey    = "config"
	// envSecret holds environment variables for the pods.
	envSecret = "regkeeper-env" //nolint:gosec // a Secret's name
)

// Kubeconfig is where the container finds the kubeconfig for other clusters.
const Kubeconfig = kubeconfigFolder + "/" + kubeconfigKey

// Options say how regkeeper runs.
type Options struct {
	// Namespace is regkeeper's own; regkeeper if empty.
	Namespace string
	// Image is the container image.
	Image string
	// Mode is Deployment if empty.
	Mode Mode
	// Schedule is when a CronJob runs, as five cron fields; hourly if empty.
	Schedule string
	// Replicas is how many pods a Deployment has; 2 if zero. One works, the others
	// take over.
	Replicas int32
	// KubeconfigSecret is a Secret in the namespace with a kubeconfig under the
	// key config, for targets in other clusters; empty for none.
	KubeconfigSecret string
	// EgressPorts are ports that may be connected to besides those that the
	// configuration names: of proxies, and of other clusters.
	EgressPorts []int32
	// OpenNetwork leaves the NetworkPolicy out.
	OpenNetwork bool
	// KeepNamespace leaves the Namespace out.
	KeepNamespace bool
	// Context is the cluster that [Access] is for, as the targets' contexts name
	// it; empty for the one that regkeeper runs in.
	Context string
}

const (
	defaultReplicas = 2
	defaultSchedule = "0 * * * *"
)

func (o Options) defaults() Options {
	o.Namespace = cmp.Or(o.Namespace, Name)
	o.Mode = cmp.Or(o.Mode, Deployment)
	o.Schedule = cmp.Or(o.Schedule, defaultSchedule)
	o.Replicas = cmp.Or(o.Replicas, defaultReplicas)
	return o
}

// instance tells several regkeepers of one cluster apart: their Roles may stand
// in one namespace, and their ClusterRoles always do.
func (o Options) instance() string {
	if o.Namespace == Name {
		return Name
	}
	return Name + "-" + o.Namespace
}

// check refuses options that make no objects.
func (o Options) check() error {
	if faults := validation.IsDNS1123Label(o.Namespace); len(faults) > 0 {
		return problem.New(problem.Usage, "write lower-case letters, digits and -", "namespace %q is none", o.Namespace)
	}
	if o.KubeconfigSecret != "" && len(validation.IsDNS1123Subdomain(o.KubeconfigSecret)) > 0 {
		return problem.New(problem.Usage, "write lower-case letters, digits, - and .", "%q is no name of a Secret", o.KubeconfigSecret)
	}
	if o.Mode != Deployment && o.Mode != CronJob {
		return problem.New(problem.Usage, "it is deployment or cronjob", "mode %q is not known", o.Mode)
	}
	if o.Replicas < 1 {
		return problem.New(problem.Usage, "give 1 or more", "%d replicas do nothing", o.Replicas)
	}
	if _, err := cron.ParseStandard(o.Schedule); err != nil || strings.HasPrefix(o.Schedule, "TZ=") || strings.HasPrefix(o.Schedule, "CRON_TZ=") {
		return problem.New(problem.Usage, `write five fields: minute, hour, day of month, month, day of week, for example "0 * * * *"`,
			"schedule %q cannot be read", o.Schedule)
	}
	for _, port := range o.EgressPorts {
		if len(validation.IsValidPortNum(int(port))) > 0 {
			return problem.New(problem.Usage, "give a number from 1 to 65535", "%d is no port", port)
		}
	}
	return nil
}

// Set is what is applied, in this order, and what its reader must know.
type Set struct {
	Objects []runtime.Object
	Notes   []string
}

// Kubernetes is all that regkeeper needs in the cluster that it runs in. The
// text is the configuration's, as it stands. The error is a problem of kind
// [problem.Config] that lists everything in it that cannot work in a pod.
func Kubernetes(c config.Config, text []byte, o Options) (Set, error) {
	o = o.defaults()
	if err := o.ready(c, text); err != nil {
		return Set{}, err
	}
	rights := Rights(c, o)
	var set Set
	if o.own(c) {
		set.Objects = append(set.Objects, o.namespace())
	}
	set.Objects = append(set.Objects, o.serviceAccount(), o.configMap(text))
	set.Objects = append(set.Objects, o.access(Rules(rights))...)
	if !o.OpenNetwork {
		set.Objects = append(set.Objects, o.networkPolicy(c))
	}
	if o.Mode == CronJob {
		set.Objects = append(set.Objects, o.cronJob(text))
	} else {
		if o.Replicas > 1 {
			set.Objects = append(set.Objects, o.disruptionBudget())
		}
		set.Objects = append(set.Objects, o.deployment(text))
	}
	set.Notes = slices.Concat(o.notes(c, text), noteRights(rights))
	return set, nil
}

// Access is the ServiceAccount and its rights alone: in the cluster of
// [Options.Context], or in the one that regkeeper runs in.
func Access(c config.Config, o Options) (Set, error) {
	o = o.defaults()
	if err := o.check(); err != nil {
		return Set{}, err
	}
	rights := Rights(c, o)
	if len(rights) == 0 {
		hint := "name one of the contexts of its targets"
		if known := contexts(c); len(known) > 0 {
			hint += ": " + strings.Join(known, ", ")
		}
		return Set{}, problem.New(problem.Config, hint, "the configuration has no target in context %q", o.Context)
	}
	set := Set{Notes: noteRights(rights)}
	if o.Context != "" {
		if o.own(c) {
			set.Objects = append(set.Objects, o.namespace())
		}
		set.Notes = append(set.Notes, fmt.Sprintf("Apply this to the cluster of context %[1]s, then put a login of its ServiceAccount into the kubeconfig:\n"+
			"  kubectl --context %[1]s -n %[2]s create token %[3]s --duration=8760h", o.Context, o.Namespace, Name))
	}
	set.Objects = append(set.Objects, o.serviceAccount())
	set.Objects = append(set.Objects, o.access(Rules(rights))...)
	return set, nil
}

// ready refuses options and configurations that would not work.
func (o Options) ready(c config.Config, text []byte) error {
	if err := o.check(); err != nil {
		return err
	}
	faults := o.faults(c)
	if !utf8.Valid(text) || bytes.ContainsRune(text, nextLine) {
		faults = append(faults, fault{"the configuration has a character that a YAML document does not carry unchanged", "take out U+0085, and what is no UTF-8"})
	}
	switch len(faults) {
	case 0:
		return nil
	case 1:
		return problem.New(problem.Config, faults[0].hint, "%s", faults[0].text)
	}
	var lines []string
	for _, f := range faults {
		lines = append(lines, f.text+"\n    "+f.hint)
	}
	return problem.New(problem.Config, "", "the configuration does not work in a pod:\n  %s", strings.Join(lines, "\n  "))
}

// nextLine is a line break to YAML 1.1, and none to YAML 1.2: written in one and
// read in the other, it is a space.
const nextLine = '\u0085'

// fault is what cannot work in a pod.
type fault struct{ text, hint string }

func (o Options) faults(c config.Config) []fault {
	var list []fault
	add := func(hint, format string, args ...any) { list = append(list, fault{fmt.Sprintf(format, args...), hint}) }
	if c.State == nil {
		add("add to the configuration: state: {secret: {}}", "the state is kept in a folder, which a pod loses when it ends")
	}
	if c.Embedded != nil {
		add("run it where its disk is, and take serve.registry out of this configuration", "serve.registry keeps its images in a folder, which a pod loses when it ends")
	}
	for _, r := range c.Registries {
		if r.Source.Builtin != nil {
			add("have the regkeeper that serves that registry keep its logins", "registry %s: the tokens of source builtin are in the folder of the embedded registry", r.Host)
		}
		if h := r.Source.Helper; h != nil {
			add("have a regkeeper on a machine that has it keep these logins", "registry %s: the helper %s is not in the image, which has no other programs", r.Host, h.Program)
		}
	}
	for _, ref := range c.Secrets() {
		switch {
		case ref.File != "":
			add("put it into a Secret and write {secret: namespace/name/key}, or {env: NAME}", "%s is not in the pod", ref)
		case len(ref.Exec) > 0:
			add("put what it prints into a Secret and write {secret: namespace/name/key}", "%s is not in the image, which has no other programs", ref)
		}
	}
	elsewhere := false
	for _, t := range c.Targets {
		if t.File != nil {
			add("have a regkeeper on that machine keep it; for the kubelets of a cluster, see regkeeper install kubelet", "target %s writes files of the pod, which nobody else reads", t.Name)
		}
		if r := t.RunnerConfig; r != nil {
			add("have a regkeeper on the runner's machine keep it", "target %s: %s is not in the pod", t.Name, r.Path)
		}
		if t.SSH != nil {
			add("have a regkeeper on a machine with OpenSSH keep it", "target %s: ssh is not in the image, which has no other programs", t.Name)
		}
		for _, which := range t.Clusters {
			elsewhere = elsewhere || which != config.Cluster{}
			const hint = "take kubeconfig: out and name contexts:, which are looked for in the Secret's kubeconfig"
			switch {
			case which.Kubeconfig != "" && which.Kubeconfig != Kubeconfig:
				add(hint, "target %s: kubeconfig %s is not in the pod", t.Name, which.Kubeconfig)
			case which.Kubeconfig != "" && which.Context == "":
				add(hint, "target %s: the current context in the pod is the cluster that it runs in", t.Name)
			default:
				continue
			}
			break
		}
	}
	if elsewhere && o.KubeconfigSecret == "" {
		add("add --kubeconfig-secret NAME, the name of a Secret in namespace "+o.Namespace+" with a kubeconfig under the key "+kubeconfigKey,
			"targets are in other clusters: the pod needs a kubeconfig")
	}
	return list
}

// contexts are those that the targets name.
func contexts(c config.Config) []string {
	var names []string
	for _, t := range c.Targets {
		for _, which := range t.Clusters {
			if which.Context != "" {
				names = append(names, which.Context)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// own says whether the namespace is regkeeper's alone, so that it may be held to
// what regkeeper's own pods keep to.
func (o Options) own(c config.Config) bool {
	if o.KeepNamespace || o.Namespace == "default" || strings.HasPrefix(o.Namespace, "kube-") {
		return false
	}
	for _, t := range c.Targets {
		if !slices.ContainsFunc(t.Clusters, o.means) {
			continue
		}
		if t.Pods != nil && slices.Contains(t.Pods.Namespaces, o.Namespace) || t.Secrets != nil && slices.Contains(t.Secrets.Namespaces, o.Namespace) {
			return false
		}
	}
	return true
}

// lastApplied is how much in bytes kubectl may put into annotations: without
// --server-side it keeps there what it applied.
const lastApplied = 200 << 10

// notes are what applying the objects does not do.
func (o Options) notes(c config.Config, text []byte) []string {
	var notes []string
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	if !o.own(c) {
		add("Namespace %s is not made, nor its Pod Security set, since it is not regkeeper's alone.", o.Namespace)
	}
	if names := env(c); len(names) > 0 {
		lines := strings.Join(names, "=…\n  ") + "=…"
		add("The configuration reads environment variables. Put them into a file, one a line:\n  %s\nand the file into the Secret that the pods read, once the namespace is there:\n"+
			"  kubectl -n %s create secret generic %s --from-env-file=FILE", lines, o.Namespace, envSecret)
		if o.Mode == Deployment {
			add("Pods read it when they start. When it has changed: kubectl -n %s rollout restart deployment/%s", o.Namespace, Name)
		}
	}
	for _, ref := range c.Secrets() {
		if key := ref.Secret; key != (secretref.ClusterKey{}) {
			add("The configuration reads Secret %s/%s. If it is not there:\n  kubectl -n %[1]s create secret generic %[2]s --from-file=%[3]s=FILE", key.Namespace, key.Name, key.Key)
		}
	}
	if o.KubeconfigSecret != "" {
		add("The pods read Secret %[2]s with the kubeconfig for other clusters:\n"+
			"  kubectl -n %[1]s create secret generic %[2]s --from-file=%[3]s=KUBECONFIG\n"+
			"Leave its current-context empty (kubectl --kubeconfig KUBECONFIG config unset current-context): then the cluster that the pods run in is reached by their ServiceAccount. Without --egress-port, those clusters' APIs must listen on port 443 or 6443.",
			o.Namespace, o.KubeconfigSecret, kubeconfigKey)
	}
	for _, name := range contexts(c) {
		add("What regkeeper needs in the cluster of context %[1]s: regkeeper install kubernetes --rbac-only --for-context %[1]s", name)
	}
	if !o.OpenNetwork {
		add("The NetworkPolicy lets out ports, to any address: %s. A NetworkPolicy knows no names. A registry that sends clients to another port, or a proxy, takes --egress-port.", join(o.egress(c)))
	}
	if o.Mode == CronJob {
		add("A CronJob looks at its times only: what is new waits for the next one. At once: kubectl -n %s create job --from=cronjob/%s now", o.Namespace, Name)
		if scheduled(c) {
			add("A CronJob neither prunes nor mirrors, whatever times the configuration has for it: run regkeeper image prune --apply and regkeeper mirror run at times of their own, or take --mode deployment.")
		}
	}
	if len(text) > lastApplied {
		add("The configuration is too long for kubectl to keep a copy: use kubectl apply --server-side.")
	}
	return notes
}

// scheduled says whether something is to be done to images at set times.
func scheduled(c config.Config) bool {
	return slices.ContainsFunc(c.Images, func(i config.Images) bool { return i.Prune != config.Schedule{} }) ||
		slices.ContainsFunc(c.Mirrors, func(m config.Mirror) bool { return m.Run != config.Schedule{} })
}

// noteRights says where rights are given that are wide, or that take a
// namespace which must be there.
func noteRights(rights []Right) []string {
	where, wide := map[string]bool{}, map[string]bool{}
	for _, r := range rights {
		if r.Namespace != "" {
			where[r.Namespace] = true
		} else if r.Resource != "namespaces" {
			wide[r.Resource] = true
		}
	}
	var notes []string
	if len(wide) > 0 {
		notes = append(notes, fmt.Sprintf("Patterns, selectors, and pods targets without namespaces take rights in all namespaces: to %s.",
			strings.Join(slices.Sorted(maps.Keys(wide)), ", ")))
	}
	if len(where) > 0 {
		notes = append(notes, "Rights are given in these namespaces, which must be there: "+strings.Join(slices.Sorted(maps.Keys(where)), ", ")+".")
	}
	return notes
}

// env are the environment variables that a configuration names.
func env(c config.Config) []string {
	var names []string
	for _, ref := range c.Secrets() {
		if ref.Env != "" {
			names = append(names, ref.Env)
		}
	}
	return union(names, nil)
}

func join(ports []int32) string {
	texts := make([]string, len(ports))
	for i, port := range ports {
		texts[i] = fmt.Sprint(port)
	}
	return strings.Join(texts, ", ")
}
