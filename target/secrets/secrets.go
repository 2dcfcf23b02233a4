// Package secrets is the target of image pull Secrets in a cluster's
// namespaces, of the ServiceAccounts that name them, and of the workloads that
// must be restarted or evicted to use them.
//
// A Secret is applied in place and never deleted to be made anew: since
// Kubernetes 1.35 the kubelet lets a pod use a cached image by the UID of the
// Secret that it was pulled with (KEP-2535). It refuses Secrets that it did not
// make, unless they are given to it on purpose.
package secrets

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// Namespaces says which namespaces are chosen. One that is being deleted, or
// that opted out by the annotation [kube.Exclude], never is.
type Namespaces struct {
	// Names are names, or patterns as of [path.Match].
	Names []string
	// Selector is a label selector; a namespace is chosen by either. Nil
	// chooses none.
	Selector labels.Selector
}

// literal says whether all namespaces are given by name.
func (n Namespaces) literal() bool {
	return n.Selector == nil && !slices.ContainsFunc(n.Names, IsPattern)
}

// IsPattern says whether a namespace's name is a pattern.
func IsPattern(name string) bool {
	for _, c := range name {
		if c == '*' || c == '?' || c == '[' || c == '\\' {
			return true
		}
	}
	return false
}

func (n Namespaces) chooses(name string, set labels.Set) bool {
	for _, pattern := range n.Names {
		if ok, err := path.Match(pattern, name); ok && err == nil {
			return true
		}
	}
	return n.Selector != nil && n.Selector.Matches(set)
}

// Workload is a workload to restart after a rotation.
type Workload struct {
	// Kind is deployment, statefulset or daemonset.
	Kind string
	// Name is its name; "*" is every one of the kind.
	Name string
}

// Config says where the Secrets are, and what follows them.
type Config struct {
	Cluster *kube.Cluster
	// Instance is the id of this regkeeper: the label [kube.Owner] of what it
	// makes.
	Instance string
	// Name is the Secrets' name.
	Name       string
	Namespaces Namespaces
	// ServiceAccounts are given the Secret as an image pull secret, beside those
	// they have. "*" is every one.
	ServiceAccounts []string
	// Adopt takes over Secrets of that name that others made.
	Adopt bool
	// Restart are workloads that are restarted after a rotation.
	Restart []Workload
	// RestartAtOnce bounds how many of them roll at the same time; zero means 5.
	RestartAtOnce int
	// Evict evicts pods that wait for an image because they were made before
	// their ServiceAccount named the Secret.
	Evict bool
}

const restartAtOnce = 5

// Target delivers to Secrets. A place is the name of a namespace.
type Target struct {
	config     Config
	namespaces []*kube.Mirror[struct{}]
	secrets    *kube.Mirror[secret]
	accounts   []*kube.Mirror[account]
	workloads  []workloads
	pods       *kube.Mirror[pod]
	// watching is the watch under way; nil for none.
	watching atomic.Pointer[watching]
	// restarting is held while a workload is restarted: their bound is kept by
	// counting.
	restarting sync.Mutex
	// patience is how long Watch waits for its mirrors; zero means
	// watchPatience.
	patience time.Duration
}

var (
	_ credential.Watcher   = (*Target)(nil)
	_ credential.Confirmer = (*Target)(nil)
	_ credential.Follower  = (*Target)(nil)
)

// secret is what is kept of a Secret.
type secret struct {
	kind corev1.SecretType
	// config is the document of kind kubernetes.io/dockerconfigjson.
	config []byte
	// applied says that regkeeper has applied fields of it.
	applied bool
	// more says that it has data besides the document.
	more bool
}

// New makes the target. It sends no request.
func New(config Config) *Target {
	if config.RestartAtOnce <= 0 {
		config.RestartAtOnce = restartAtOnce
	}
	config.Namespaces.Names = once(config.Namespaces.Names)
	config.ServiceAccounts = once(config.ServiceAccounts)
	if slices.Contains(config.ServiceAccounts, "*") {
		config.ServiceAccounts = []string{"*"}
	}
	config.Restart = slices.DeleteFunc(once(config.Restart), func(w Workload) bool {
		return w.Name != "*" && slices.Contains(config.Restart, Workload{Kind: w.Kind, Name: "*"})
	})
	t := &Target{config: config}
	core := config.Cluster.Core
	var where []string
	if config.Namespaces.literal() {
		where = config.Namespaces.Names
		for _, name := range where {
			t.namespaces = append(t.namespaces, namespaceMirror(core, kube.Selection{Name: name}))
		}
	} else {
		t.namespaces = []*kube.Mirror[struct{}]{namespaceMirror(core, kube.Selection{KeepLabels: config.Namespaces.Selector != nil})}
	}
	t.secrets = kube.NewMirror(secretsAPI(core), kube.Selection{Namespaces: where, Name: config.Name}, thinSecret)
	for _, name := range config.ServiceAccounts {
		if name == "*" {
			name = ""
		}
		t.accounts = append(t.accounts, kube.NewMirror(accountsAPI(core), kube.Selection{Namespaces: where, Name: name, ByNamespace: true}, thinAccount))
	}
	for _, w := range config.Restart {
		t.workloads = append(t.workloads, newWorkloads(config.Cluster.Apps, w, where))
	}
	if config.Evict {
		t.pods = kube.NewMirror(podsAPI(core), kube.Selection{Namespaces: where, ByNamespace: true}, t.thinPod)
	}
	return t
}

// once is the list without what stands in it before: nothing is looked at twice.
func once[T comparable](list []T) []T {
	var kept []T
	for _, one := range list {
		if !slices.Contains(kept, one) {
			kept = append(kept, one)
		}
	}
	return kept
}

// Places lists the namespaces that are chosen.
func (t *Target) Places(ctx context.Context) ([]credential.Place, error) {
	chosen, err := t.chosen(ctx)
	if err != nil {
		return nil, err
	}
	// What is read next is answered from one look at all there is.
	if _, err := t.secrets.List(ctx); err != nil {
		return nil, err
	}
	var places []credential.Place
	for name := range chosen {
		places = append(places, credential.Place(name))
	}
	slices.Sort(places)
	return places, nil
}

// chosen are the names of the namespaces that are chosen.
func (t *Target) chosen(ctx context.Context) (map[string]bool, error) {
	names := map[string]bool{}
	for _, mirror := range t.namespaces {
		found, err := mirror.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, namespace := range found {
			if t.chooses(namespace) {
				names[namespace.Name] = true
			}
		}
	}
	return names, nil
}

// isChosen says whether one namespace is chosen.
func (t *Target) isChosen(ctx context.Context, name string) (bool, error) {
	namespace, err := t.namespace(ctx, name)
	return err == nil && t.chooses(namespace), err
}

// namespace reads one namespace; nil if it is not there, or not looked at.
func (t *Target) namespace(ctx context.Context, name string) (*kube.Object[struct{}], error) {
	for i, mirror := range t.namespaces {
		if !t.config.Namespaces.literal() || t.config.Namespaces.Names[i] == name {
			return mirror.Get(ctx, types.NamespacedName{Name: name})
		}
	}
	return nil, nil
}

func (t *Target) chooses(namespace *kube.Object[struct{}]) bool {
	return namespace != nil && !namespace.Deleting && !namespace.Excluded() &&
		t.config.Namespaces.chooses(namespace.Name, namespace.Labels)
}

func (t *Target) key(place credential.Place) types.NamespacedName {
	return types.NamespacedName{Namespace: string(place), Name: t.config.Name}
}

// ours says whether regkeeper may change a Secret.
func (t *Target) ours(s *kube.Object[secret]) bool {
	owner, labelled := s.Labels[kube.Owner]
	return owner == t.config.Instance || !labelled && s.Value.applied
}

// removes says whether a Secret of a namespace that is not chosen is ours to
// remove. A copy that somebody made has our labels too, but was not applied.
func (t *Target) removes(s *kube.Object[secret]) bool {
	return s.Labels[kube.Owner] == t.config.Instance && s.Value.applied
}

// notMade says whether a Secret that we keep was made by others.
func notMade(s *kube.Object[secret]) bool {
	return s.Annotations[kube.NotMade] == "true" || s.Annotations[kube.Adopt] == "true"
}

// labelled says whether a Secret has the labels of one of ours.
func (t *Target) labelled(s *kube.Object[secret]) bool {
	return s.Labels[kube.Owner] == t.config.Instance && s.Labels[kube.ManagedBy] == kube.Manager
}

// given says whether a Secret that is not ours is to become ours. One of another
// regkeeper is not, unless it says so itself: the two would take it from each
// other for ever.
func (t *Target) given(s *kube.Object[secret]) bool {
	_, others := s.Labels[kube.Owner]
	return (t.config.Adopt && !others || s.Annotations[kube.Adopt] == "true") && s.Value.kind == corev1.SecretTypeDockerConfigJson
}

// Held reads the namespace's Secret, whoever made it.
func (t *Target) Held(ctx context.Context, place credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	found, err := t.secrets.Get(ctx, t.key(place))
	if err != nil {
		return nil, err
	}
	return held(found, hosts), nil
}

func held(s *kube.Object[secret], hosts []credential.Host) map[credential.Host]credential.Login {
	none := map[credential.Host]credential.Login{}
	if s == nil {
		return none
	}
	doc, err := dockerconfig.Parse(s.Value.config)
	if err != nil {
		// Nobody reads a login out of a broken document.
		return none
	}
	return doc.LoginsFor(hosts)
}

// Deliver applies the namespace's Secret.
func (t *Target) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	_, err := t.deliver(ctx, place, logins)
	return err
}

// DeliverConfirmed applies the namespace's Secret, and reads what the cluster
// answers that it holds then.
func (t *Target) DeliverConfirmed(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	s, err := t.deliver(ctx, place, logins)
	if err != nil {
		return nil, err
	}
	return held(s, hosts), nil
}

// applyTries bounds how often a Secret is looked at anew that was not as the
// watch had told.
const applyTries = 3

func (t *Target) deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) (*kube.Object[secret], error) {
	began := time.Now()
	key := t.key(place)
	if chosen, err := t.isChosen(ctx, key.Namespace); err != nil {
		return nil, err
	} else if !chosen {
		return nil, fmt.Errorf("%w: namespace %s is not there, or not chosen", credential.ErrGone, place)
	}
	before, err := t.secrets.Get(ctx, key)
	for try := 1; err == nil; try++ {
		var after *kube.Object[secret]
		if after, err = t.apply(ctx, key, before, logins); err == nil {
			t.tell(before, after, logins, time.Since(began))
			return after, nil
		}
		if apierrors.IsConflict(err) && try < applyTries {
			before, err = t.secrets.Fresh(ctx, key)
		}
	}
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause),
		apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%w: namespace %s: %w", credential.ErrGone, place, err)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	var explained *problem.Error
	if !errors.As(err, &explained) {
		err = kube.Problem(err, "apply Secret %s", key)
	}
	if before != nil {
		t.config.Cluster.Recorder.Event(reference(before), true, kube.NotDelivered, "%v", err)
	}
	return nil, err
}

// apply has the cluster hold the logins in the Secret, which is as in before.
// What is as it should be is not written.
func (t *Target) apply(ctx context.Context, key types.NamespacedName, before *kube.Object[secret], logins map[credential.Host]credential.Login) (*kube.Object[secret], error) {
	doc, _ := dockerconfig.Parse(nil)
	if before != nil {
		if !t.ours(before) && !t.given(before) {
			return nil, foreign(key, before)
		}
		if kept, err := dockerconfig.Parse(before.Value.config); err == nil {
			doc = kept
		}
	}
	changed := before == nil || len(before.Value.config) == 0 || !t.labelled(before)
	changed = doc.Merge(logins) || changed
	if !changed {
		return before, nil
	}
	patch := applycore.Secret(key.Name, key.Namespace).
		WithLabels(map[string]string{kube.ManagedBy: kube.Manager, kube.Owner: t.config.Instance}).
		WithType(corev1.SecretTypeDockerConfigJson).
		WithData(map[string][]byte{corev1.DockerConfigJsonKey: doc.Bytes()})
	if before != nil {
		// One that was made anew by someone else meanwhile is not ours, and what
		// others added to it meanwhile is kept.
		patch = patch.WithUID(before.UID).WithResourceVersion(before.ResourceVersion)
		if notMade(before) || !t.ours(before) || !before.Value.applied {
			patch = patch.WithAnnotations(map[string]string{kube.NotMade: "true"})
		}
	}
	applied, err := t.config.Cluster.Core.Secrets(key.Namespace).Apply(ctx, patch,
		metav1.ApplyOptions{FieldManager: kube.Manager, Force: before != nil})
	if err != nil {
		return nil, err
	}
	return t.secrets.Wrote(applied)
}

func foreign(key types.NamespacedName, s *kube.Object[secret]) error {
	if s.Value.kind != corev1.SecretTypeDockerConfigJson {
		return problem.New(problem.Busy, "choose another name for the target, or delete that Secret",
			"Secret %s is of type %s and not regkeeper's: left as it is", key, s.Value.kind)
	}
	if owner := s.Labels[kube.Owner]; owner != "" {
		return problem.New(problem.Busy,
			fmt.Sprintf("have one regkeeper deliver it; or, if the other is gone for good: kubectl -n %s label secret %s %s-", key.Namespace, key.Name, kube.Owner),
			"Secret %s belongs to another regkeeper (%s): left as it is", key, owner)
	}
	return problem.New(problem.Busy,
		fmt.Sprintf("choose another name for the target, delete that Secret, or give it to regkeeper: kubectl -n %s annotate secret %s %s=true", key.Namespace, key.Name, kube.Adopt),
		"Secret %s is not regkeeper's: left as it is", key)
}

// tell makes the Event of a Secret that was written.
func (t *Target) tell(before, after *kube.Object[secret], logins map[credential.Host]credential.Login, took time.Duration) {
	reason := kube.Updated
	switch {
	case before == after:
		return
	case before == nil:
		reason = kube.Created
	case !t.ours(before):
		reason = kube.Adopted
	}
	if len(logins) == 0 {
		t.config.Cluster.Recorder.Event(reference(after), false, reason, "labels put back")
		return
	}
	t.config.Cluster.Recorder.Event(reference(after), false, reason, "logins for %v in force after %s", hostsOf(logins), took.Round(time.Millisecond))
}

func reference(s *kube.Object[secret]) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: s.Namespace, Name: s.Name, UID: s.UID}
}

func hostsOf(logins map[credential.Host]credential.Login) []credential.Host {
	hosts := make([]credential.Host, 0, len(logins))
	for host := range logins {
		hosts = append(hosts, host)
	}
	slices.Sort(hosts)
	return hosts
}
