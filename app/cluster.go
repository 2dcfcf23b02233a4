package app

import (
	"context"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/controller"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state/secret"
	"github.com/regkeeper/regkeeper/target/pods"
	"github.com/regkeeper/regkeeper/target/secrets"
)

// Options are what the command line says about clusters, and the log of what
// happens beside the work.
type Options struct {
	// Kubeconfig and Context say which cluster is meant where the configuration
	// names none; empty for the usual ones.
	Kubeconfig, Context string
	Version             string
	Log                 *slog.Logger
	// Quiet makes no Events.
	Quiet bool
}

// clusters are the ways to clusters, each made once.
type clusters struct {
	options Options

	mu   sync.Mutex
	open map[config.Cluster]*kube.Cluster
}

func newClusters(options Options) *clusters {
	return &clusters{options: options, open: map[config.Cluster]*kube.Cluster{}}
}

// own is the cluster that regkeeper runs in, or that the command line means.
func (c *clusters) own() (*kube.Cluster, error) { return c.get(config.Cluster{}) }

func (c *clusters) get(which config.Cluster) (*kube.Cluster, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cluster, ok := c.open[which]; ok {
		return cluster, nil
	}
	access := kube.Config{Kubeconfig: which.Kubeconfig, Context: which.Context, Version: c.options.Version}
	if access.Kubeconfig == "" {
		access.Kubeconfig = c.options.Kubeconfig
		if access.Context == "" {
			access.Context = c.options.Context
		}
	}
	cluster, err := kube.Open(access)
	if err != nil {
		return nil, err
	}
	if !c.options.Quiet {
		cluster.Recorder = kube.NewRecorder(cluster.Core, c.options.Log)
	}
	c.open[which] = cluster
	return cluster, nil
}

// close gives the clusters a moment to take the Events that wait.
func (c *clusters) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	var closing sync.WaitGroup
	for _, cluster := range c.open {
		closing.Go(cluster.Recorder.Close)
	}
	closing.Wait()
}

// stateKey is the Secret with the state, and the Lease beside it.
func (c *clusters) stateKey(s config.StateSecret) (*kube.Cluster, types.NamespacedName, error) {
	cluster, err := c.own()
	if err != nil {
		return nil, types.NamespacedName{}, err
	}
	key := types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
	if key.Namespace == "" {
		key.Namespace = cluster.Namespace
	}
	if key.Namespace == "" {
		return nil, key, problem.New(problem.Config, "set state.secret.namespace", "the state's namespace is not known")
	}
	return cluster, key, nil
}

// openState opens the state in a cluster.
func (c *clusters) openState(ctx context.Context, s config.StateSecret, looking bool) (store *secret.Store, instance string, err error) {
	cluster, key, err := c.stateKey(s)
	if err != nil {
		return nil, "", err
	}
	if instance, err = secret.Instance(ctx, cluster, key); err != nil {
		return nil, "", err
	}
	if looking {
		return secret.ReadOnly(cluster, key), instance, nil
	}
	return secret.Open(cluster, key), instance, nil
}

// Lead runs the work when no other regkeeper has the state: at once where it is
// in a data folder, which is ours, and under a Lease where it is in a cluster.
// Patience is as of [controller.Config].
func (d *Data) Lead(ctx context.Context, lead controller.Config, work func(context.Context) error) error {
	if d.state == nil {
		return work(ctx)
	}
	var err error
	if lead.Cluster, lead.Lease, err = d.clusters.stateKey(*d.state); err != nil {
		return err
	}
	lead.Log = d.clusters.options.Log
	return controller.Lead(ctx, lead, work)
}

// InCluster says whether the state is in a cluster.
func (d *Data) InCluster() bool { return d.state != nil }

// clusterTargets makes the targets of one entry of the configuration: one for
// each cluster, so that no cluster's failure is another's.
func clusterTargets(t config.Target, data *Data) ([]named, error) {
	var list []named
	for _, which := range t.Clusters {
		cluster, err := data.clusters.get(which)
		if err != nil {
			return nil, err
		}
		n := named{name: t.Name}
		if which.Context != "" {
			n.name += "@" + which.Context
		}
		if p := t.Pods; p != nil {
			n.kind, n.reread = "pods", p.Resync
			n.Target = pods.New(pods.Config{
				Cluster: cluster, Namespaces: p.Namespaces, Selector: p.Selector, Container: p.Container, Path: p.Path, Timeout: p.Timeout,
			})
		}
		if s := t.Secrets; s != nil {
			n.kind = "secrets"
			choice := secrets.Config{
				Cluster: cluster, Instance: data.Instance, Name: s.Name,
				Namespaces:      secrets.Namespaces{Names: s.Namespaces, Selector: s.Selector},
				ServiceAccounts: s.ServiceAccounts, Adopt: s.Adopt, RestartAtOnce: s.RestartAtOnce, Evict: s.Evict,
			}
			for _, w := range s.Restart {
				choice.Restart = append(choice.Restart, secrets.Workload(w))
			}
			n.Target = secrets.New(choice)
		}
		list = append(list, n)
	}
	return list, nil
}

// ConfigMap reads a key of a ConfigMap of the cluster that the command line
// means.
func ConfigMap(ctx context.Context, where types.NamespacedName, key string, options Options) (string, error) {
	options.Quiet = true
	cluster, err := newClusters(options).own()
	if err != nil {
		return "", err
	}
	found, err := cluster.Core.ConfigMaps(where.Namespace).Get(ctx, where.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return "", problem.New(problem.NotFound, "name regkeeper's namespace with --namespace; `kubectl get configmaps -A` lists all, and --context names another cluster",
			"ConfigMap %s does not exist", where)
	case apierrors.IsForbidden(err):
		return "", problem.Wrap(err, problem.Denied, "have yourself given the right to get it: kubectl auth can-i get configmap/"+where.Name+" -n "+where.Namespace,
			"read ConfigMap %s", where)
	case err != nil:
		return "", kube.Problem(err, "read ConfigMap %s", where)
	}
	text, ok := found.Data[key]
	if !ok {
		return "", problem.New(problem.Config, "name regkeeper's own with --config configmap:NAMESPACE/NAME", "ConfigMap %s has no key %q", where, key)
	}
	return text, nil
}

// secretReader reads keys of Secrets, from a mirror where one watches.
type secretReader struct {
	clusters *clusters
	mirrors  map[types.NamespacedName]*kube.Mirror[map[string][]byte]
}

var _ secretref.ClusterReader = (*secretReader)(nil)

func newSecretReader(clusters *clusters) *secretReader {
	return &secretReader{clusters: clusters, mirrors: map[types.NamespacedName]*kube.Mirror[map[string][]byte]{}}
}

// reach has a reference to a Secret read from the cluster; others stay as they are.
func (r *secretReader) reach(ref secretref.Ref) (secretref.Ref, error) {
	if ref.Secret == (secretref.ClusterKey{}) {
		return ref, nil
	}
	ref.Cluster = r
	return ref, r.watch(ref.Secret)
}

// watch has the reader know of a key.
func (r *secretReader) watch(key secretref.ClusterKey) error {
	cluster, err := r.clusters.own()
	if err != nil {
		return err
	}
	where := types.NamespacedName{Namespace: key.Namespace, Name: key.Name}
	if r.mirrors[where] != nil {
		return nil
	}
	api := kube.APIOf("secrets", &corev1.Secret{}, cluster.Core, cluster.Core.Secrets)
	selection := kube.Selection{Namespaces: []string{key.Namespace}, Name: key.Name}
	r.mirrors[where] = kube.NewMirror(api, selection, func(object runtime.Object) (map[string][]byte, error) {
		return object.(*corev1.Secret).Data, nil //nolint:forcetypeassert // the API lists nothing else
	})
	return nil
}

// Read returns a key's value.
func (r *secretReader) Read(ctx context.Context, key secretref.ClusterKey) (string, error) {
	where := types.NamespacedName{Namespace: key.Namespace, Name: key.Name}
	found, err := r.mirrors[where].Get(ctx, where)
	if err != nil {
		return "", err
	}
	if found == nil {
		return "", problem.New(problem.Config, "create it: kubectl -n "+key.Namespace+" create secret generic "+key.Name+" --from-file="+key.Key+"=FILE",
			"Kubernetes Secret %s does not exist", where)
	}
	value, ok := found.Value[key.Key]
	if !ok {
		return "", problem.New(problem.Config, "correct the key, or add it to the Secret", "Kubernetes Secret %s has no key %q", where, key.Key)
	}
	return string(value), nil
}

// origins tell of changes.
func (r *secretReader) origins() map[string]func(context.Context, func()) error {
	origins := map[string]func(context.Context, func()) error{}
	for where, mirror := range r.mirrors {
		origins["secret "+where.String()] = func(ctx context.Context, changed func()) error {
			return mirror.Run(ctx, func(_, _ *kube.Object[map[string][]byte]) { changed() })
		}
	}
	return origins
}
