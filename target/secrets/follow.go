package secrets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// The remedies.
const (
	// attach has a ServiceAccount name the Secret, detach has it not.
	attach = "attach"
	detach = "detach"
	// remove deletes a Secret of ours, or takes our part out of one that is not
	// ours alone.
	remove = "remove"
	// label puts our labels back on a Secret of ours: by them alone it is
	// removed one day.
	label = "label"
	// note marks a workload as using the logins in force: it is seen for the
	// first time, and nothing says that it does not.
	note = "note"
	// restart rolls a workload.
	restart = "restart"
	// evict evicts a pod.
	evict = "evict"
)

// Behind lists what has not followed: ServiceAccounts, Secrets left in
// namespaces that are not chosen any more, workloads, pods.
func (t *Target) Behind(ctx context.Context, logins map[credential.Host]string, places ...credential.Place) ([]credential.Lag, error) {
	chosen := map[string]bool{}
	var err error
	if len(places) == 0 {
		if chosen, err = t.chosen(ctx); err != nil {
			return nil, err
		}
	}
	for _, place := range places {
		if chosen[string(place)], err = t.isChosen(ctx, string(place)); err != nil {
			return nil, err
		}
	}
	s := scope{places: places, chosen: chosen}
	lags, err := t.left(ctx, s)
	if err != nil {
		return lags, err
	}
	accounts, attached, err := t.detached(ctx, s)
	lags = append(lags, accounts...)
	if err != nil {
		return lags, err
	}
	rolling, err := t.rolling(ctx, s, logins)
	lags = append(lags, rolling...)
	if err != nil {
		return lags, err
	}
	stuck, err := t.stuck(ctx, s, logins, attached)
	return append(lags, stuck...), err
}

// scope is what Behind looks at.
type scope struct {
	// places are namespaces; none means all.
	places []credential.Place
	chosen map[string]bool
}

// find reads what a mirror has in a scope.
func find[T any](ctx context.Context, s scope, mirror *kube.Mirror[T]) ([]*kube.Object[T], error) {
	if len(s.places) == 0 {
		return mirror.List(ctx)
	}
	var all []*kube.Object[T]
	for _, place := range s.places {
		found, err := mirror.In(ctx, string(place))
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	slices.SortFunc(all, kube.Compare[T])
	return all, nil
}

// left are Secrets of ours in namespaces that are not chosen any more, and those
// whose labels do not say so. What is in a namespace that is being deleted goes
// with it.
func (t *Target) left(ctx context.Context, s scope) ([]credential.Lag, error) {
	secrets, err := find(ctx, s, t.secrets)
	if err != nil {
		return nil, err
	}
	var lags []credential.Lag
	for _, o := range secrets {
		what := "secret " + o.Key().String()
		if s.chosen[o.Namespace] {
			if t.ours(o) && !t.labelled(o) {
				lags = append(lags, credential.Lag{
					What: what, Remedy: label, After: credential.Place(o.Namespace), Reason: "its labels do not say whose it is",
				})
			}
			continue
		}
		if !t.removes(o) {
			continue
		}
		namespace, err := t.namespace(ctx, o.Namespace)
		if err != nil {
			return lags, err
		}
		if namespace != nil && !namespace.Deleting {
			lags = append(lags, credential.Lag{
				What: what, Remedy: remove, Holds: true, Reason: "its namespace is not chosen any more",
			})
		}
	}
	return lags, nil
}

// detached are the ServiceAccounts that do not name the Secret and should, or
// the other way round. The ones that name it are attached.
func (t *Target) detached(ctx context.Context, s scope) (lags []credential.Lag, attached map[types.NamespacedName]bool, err error) {
	attached = map[types.NamespacedName]bool{}
	for _, mirror := range t.accounts {
		accounts, err := find(ctx, s, mirror)
		if err != nil {
			return lags, attached, err
		}
		for _, a := range accounts {
			attached[a.Key()] = slices.Contains(a.Value.pullSecrets, t.config.Name)
			lags = append(lags, t.account(a, s.chosen)...)
		}
	}
	return lags, attached, nil
}

func (t *Target) account(a *kube.Object[account], chosen map[string]bool) []credential.Lag {
	has := slices.Contains(a.Value.pullSecrets, t.config.Name)
	what := "serviceaccount " + a.Key().String()
	switch {
	case chosen[a.Namespace] && !a.Excluded() && !has && !a.Deleting:
		return []credential.Lag{{
			What: what, Remedy: attach, After: credential.Place(a.Namespace),
			Reason: "it does not name the Secret " + t.config.Name,
		}}
	case has && chosen[a.Namespace] && a.Excluded():
		return []credential.Lag{{What: what, Remedy: detach, Reason: "it opted out by " + kube.Exclude}}
	}
	return nil
}

// rolling are the workloads that have not been restarted since the logins came
// in force. A workload says by an annotation which ones it was restarted for. A
// registry that it does not tell of is new to it, and replaced nothing.
func (t *Target) rolling(ctx context.Context, s scope, logins map[credential.Host]string) ([]credential.Lag, error) {
	var lags []credential.Lag
	var failed error
	want, late := fingerprint(logins), false
	for _, w := range t.workloads {
		found, err := find(ctx, s, w.mirror)
		if err != nil {
			failed = err
			break
		}
		for _, o := range found {
			have, seen := o.Annotations[kube.Login]
			if have == want || !s.chosen[o.Namespace] || o.Excluded() || o.Deleting {
				continue
			}
			lag := credential.Lag{
				What: w.kind + " " + o.Key().String(), Remedy: note, After: credential.Place(o.Namespace),
				Reason: "it is seen for the first time",
			}
			switch {
			case replaced(have, logins):
				lag.Remedy, lag.Reason, late = restart, "it may use a login that was replaced", true
				if o.Value.paused {
					lag.Waits = "it is paused: kubectl rollout resume"
				}
			case seen:
				lag.Reason = "the registries are others"
			}
			lags = append(lags, lag)
		}
	}
	if !late {
		return lags, failed
	}
	under := 0
	if failed == nil {
		under, failed = t.under(ctx, want)
	}
	for i := range lags {
		if lags[i].Remedy != restart || lags[i].Waits != "" {
			continue
		}
		switch {
		case failed != nil:
			lags[i].Waits = "how many others are rolling is not known"
		case under >= t.config.RestartAtOnce:
			lags[i].Waits = t.enough()
		}
		under++
	}
	return lags, failed
}

func (t *Target) enough() string { return fmt.Sprintf("%d others are rolling", t.config.RestartAtOnce) }

// under is how many workloads, anywhere, are rolling for the logins.
func (t *Target) under(ctx context.Context, want string) (count int, err error) {
	for _, w := range t.workloads {
		found, err := w.mirror.List(ctx)
		if err != nil {
			return 0, err
		}
		for _, o := range found {
			if o.Value.rolling && o.Annotations[kube.Login] == want {
				count++
			}
		}
	}
	return count, nil
}

// fingerprint stands for the logins in force, in an annotation: a short digest
// for each registry.
func fingerprint(logins map[credential.Host]string) string {
	var list []string
	for host, id := range logins {
		list = append(list, string(host)+"="+digest(id))
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

func digest(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:6])
}

// replaced says whether one of the logins is another than the fingerprint's.
func replaced(have string, logins map[credential.Host]string) bool {
	for one := range strings.SplitSeq(have, ",") {
		host, was, _ := strings.Cut(one, "=")
		if id, ok := logins[credential.Host(host)]; ok && digest(id) != was {
			return true
		}
	}
	return false
}

// stuck are the pods that wait for an image of one of the registries and will
// do so for ever: they were made before their ServiceAccount named the Secret,
// which a pod takes over when it is made and never again. One that names it is
// tried again by the kubelet itself.
func (t *Target) stuck(ctx context.Context, s scope, logins map[credential.Host]string, attached map[types.NamespacedName]bool) ([]credential.Lag, error) {
	if t.pods == nil {
		return nil, nil
	}
	pods, err := find(ctx, s, t.pods)
	if err != nil {
		return nil, err
	}
	var lags []credential.Lag
	for _, p := range pods {
		i := slices.IndexFunc(p.Value.images, func(image string) bool {
			_, ours := logins[registryOf(image)]
			return ours
		})
		if i < 0 || !s.chosen[p.Namespace] || p.Excluded() || p.Deleting ||
			slices.Contains(p.Value.pullSecrets, t.config.Name) ||
			!attached[types.NamespacedName{Namespace: p.Namespace, Name: p.Value.account}] {
			continue
		}
		lag := credential.Lag{
			What: "pod " + p.Key().String(), Remedy: evict, After: credential.Place(p.Namespace),
			Reason: fmt.Sprintf("it waits for image %s, and was made before ServiceAccount %s named the Secret", p.Value.images[i], p.Value.account),
		}
		if !p.Value.controlled {
			lag.Waits = "nothing would make it again: delete and make it by hand"
		}
		lags = append(lags, lag)
	}
	return lags, nil
}

// Follow carries a remedy out.
func (t *Target) Follow(ctx context.Context, lag credential.Lag, logins map[credential.Host]string) error {
	kind, full, _ := strings.Cut(lag.What, " ")
	namespace, name, _ := strings.Cut(full, "/")
	key := types.NamespacedName{Namespace: namespace, Name: name}
	chosen, err := t.isChosen(ctx, namespace)
	switch lag.Remedy {
	case attach, note, restart, evict:
		// It may have ceased to be chosen since it was looked at.
		if err == nil && !chosen {
			return fmt.Errorf("%w: namespace %s is not there, or not chosen", credential.ErrGone, namespace)
		}
	case remove:
		if chosen {
			return nil
		}
	}
	if err != nil {
		return err
	}
	switch lag.Remedy {
	case attach, detach:
		err = t.setAccount(ctx, key, lag.Remedy == attach)
	case remove:
		err = t.removeSecret(ctx, key, logins)
	case label:
		return t.Deliver(ctx, credential.Place(namespace), nil)
	case note:
		err = t.rollWorkload(ctx, kind, key, fingerprint(logins), false)
	case restart:
		err = t.restart(ctx, kind, key, fingerprint(logins))
	case evict:
		err = t.evictPod(ctx, key)
	default:
		return fmt.Errorf("unknown remedy %q", lag.Remedy)
	}
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("%w: %w", credential.ErrGone, err)
	}
	if apierrors.IsTooManyRequests(err) && lag.Remedy == evict {
		return problem.Wrap(err, problem.Busy, "a PodDisruptionBudget forbids it for now; it is tried again", "evict %s", lag.What)
	}
	var explained *problem.Error
	if errors.As(err, &explained) {
		return err
	}
	return kube.Problem(err, "%s %s", lag.Remedy, lag.What)
}

// accountTries bounds how often a ServiceAccount is read anew that others
// change at the same time.
const accountTries = 5

// setAccount puts the Secret among a ServiceAccount's image pull secrets, or
// takes it out. The list is one value to the cluster (listType=atomic), so it is
// changed only as it was read.
func (t *Target) setAccount(ctx context.Context, key types.NamespacedName, wanted bool) error {
	mirror, now, err := t.findAccount(ctx, key)
	for try := 1; err == nil; try++ {
		if now == nil {
			return apierrors.NewNotFound(corev1.Resource("serviceaccounts"), key.Name)
		}
		if slices.Contains(now.Value.pullSecrets, t.config.Name) == wanted {
			return nil
		}
		list := slices.DeleteFunc(slices.Clone(now.Value.pullSecrets), func(name string) bool { return name == t.config.Name })
		if wanted {
			list = append(list, t.config.Name)
		}
		references := make([]corev1.LocalObjectReference, len(list))
		for i, name := range list {
			references[i].Name = name
		}
		var changed *corev1.ServiceAccount
		changed, err = t.patchAccount(ctx, now, references)
		if err == nil {
			return t.accountSet(mirror, changed, wanted)
		}
		if apierrors.IsConflict(err) && try < accountTries {
			now, err = mirror.Fresh(ctx, key)
		}
	}
	return err
}

// accountSet notes a ServiceAccount that was changed.
func (t *Target) accountSet(mirror *kube.Mirror[account], changed *corev1.ServiceAccount, wanted bool) error {
	if _, err := mirror.Wrote(changed); err != nil || !wanted {
		return err
	}
	t.config.Cluster.Recorder.Event(
		corev1.ObjectReference{APIVersion: "v1", Kind: "ServiceAccount", Namespace: changed.Namespace, Name: changed.Name, UID: changed.UID},
		false, kube.Attached, "image pull secret %s added", t.config.Name)
	if w := t.watching.Load(); w != nil && t.pods != nil {
		// Pods may wait for ever by now that were made before.
		w.changed(credential.Place(changed.Namespace))
	}
	return nil
}

func (t *Target) findAccount(ctx context.Context, key types.NamespacedName) (mirror *kube.Mirror[account], found *kube.Object[account], err error) {
	for _, mirror = range t.accounts {
		if found, err = mirror.Get(ctx, key); err != nil || found != nil {
			return mirror, found, err
		}
	}
	return nil, nil, nil
}

func (t *Target) patchAccount(ctx context.Context, now *kube.Object[account], references []corev1.LocalObjectReference) (*corev1.ServiceAccount, error) {
	patch, err := json.Marshal(map[string]any{
		"metadata":         map[string]any{"uid": now.UID, "resourceVersion": now.ResourceVersion},
		"imagePullSecrets": references,
	})
	if err != nil {
		return nil, err
	}
	return t.config.Cluster.Core.ServiceAccounts(now.Namespace).
		Patch(ctx, now.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.Manager})
}

// removeSecret ends our part in a Secret: the entries of our registries go, and
// our labels. One that we made and that holds nothing else then is taken out of
// the ServiceAccounts and deleted.
func (t *Target) removeSecret(ctx context.Context, key types.NamespacedName, logins map[credential.Host]string) error {
	if len(logins) == 0 {
		return problem.Wrap(credential.ErrNotYet, problem.Busy, "it is removed when a login is in force",
			"Secret %s: which of its entries are regkeeper's is not known", key)
	}
	// What others added last must be seen before a ServiceAccount loses it.
	now, err := t.secrets.Fresh(ctx, key)
	for try := 1; err == nil; try++ {
		if now == nil || !t.removes(now) {
			return nil
		}
		if rest, stays := remainder(now, logins); stays {
			err = t.leaveSecret(ctx, now, rest)
		} else {
			err = t.deleteSecret(ctx, now)
		}
		if !apierrors.IsConflict(err) || try == applyTries {
			return err
		}
		now, err = t.secrets.Fresh(ctx, key)
	}
	return err
}

// remainder is the document of a Secret without the logins; nil if nobody can
// read it. The Secret stays if it is not ours to delete, or holds anything else.
func remainder(s *kube.Object[secret], logins map[credential.Host]string) (rest []byte, stays bool) {
	stays = s.Value.more || notMade(s)
	doc, err := dockerconfig.Parse(s.Value.config)
	if err != nil {
		return nil, stays
	}
	for host := range logins {
		doc.Remove(host)
	}
	rest = doc.Bytes()
	if len(bytes.TrimSpace(rest)) == 0 {
		rest = []byte("{}")
	}
	var entries struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	var settings map[string]json.RawMessage
	if json.Unmarshal(rest, &entries) != nil || json.Unmarshal(rest, &settings) != nil {
		return rest, true
	}
	delete(settings, "auths")
	return rest, stays || len(entries.Auths) > 0 || len(settings) > 0
}

// leaveSecret leaves a Secret to the others that it belongs to.
func (t *Target) leaveSecret(ctx context.Context, now *kube.Object[secret], rest []byte) error {
	change := map[string]any{"metadata": map[string]any{
		"uid": now.UID, "resourceVersion": now.ResourceVersion,
		"labels": map[string]any{kube.Owner: nil, kube.ManagedBy: nil},
	}}
	if rest != nil {
		change["data"] = map[string][]byte{corev1.DockerConfigJsonKey: rest}
	}
	patch, err := json.Marshal(change)
	if err != nil {
		return err
	}
	changed, err := t.config.Cluster.Core.Secrets(now.Namespace).
		Patch(ctx, now.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.Manager})
	if apierrors.IsNotFound(err) {
		t.secrets.Deleted(now)
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := t.secrets.Wrote(changed); err != nil {
		return err
	}
	t.config.Cluster.Recorder.Event(reference(now), false, kube.Removed, "logins taken out: its namespace is not chosen any more")
	return nil
}

// deleteSecret takes a Secret out of the ServiceAccounts that name it, and
// deletes it.
func (t *Target) deleteSecret(ctx context.Context, now *kube.Object[secret]) error {
	for _, mirror := range t.accounts {
		accounts, err := mirror.In(ctx, now.Namespace)
		if err != nil {
			return err
		}
		for _, a := range accounts {
			if !slices.Contains(a.Value.pullSecrets, t.config.Name) {
				continue
			}
			if err := t.setAccount(ctx, a.Key(), false); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	err := t.config.Cluster.Core.Secrets(now.Namespace).Delete(ctx, now.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &now.UID, ResourceVersion: &now.ResourceVersion},
	})
	if err == nil || apierrors.IsNotFound(err) {
		t.secrets.Deleted(now)
		t.config.Cluster.Recorder.Event(reference(now), false, kube.Removed, "its namespace is not chosen any more")
		return nil
	}
	return err
}

// restartedAt is the annotation by which `kubectl rollout restart` rolls a
// workload (kubectl, pkg/polymorphichelpers/objectrestarter.go).
const restartedAt = "kubectl.kubernetes.io/restartedAt"

// restart rolls a workload, if not enough are rolling by now: the looks that it
// was planned from may have been several, at the same time.
func (t *Target) restart(ctx context.Context, kind string, key types.NamespacedName, want string) error {
	t.restarting.Lock()
	defer t.restarting.Unlock()
	under, err := t.under(ctx, want)
	if err != nil {
		return err
	}
	if under >= t.config.RestartAtOnce {
		return problem.Wrap(credential.ErrNotYet, problem.Busy, "it is restarted when one of them has ended", "%s", t.enough())
	}
	return t.rollWorkload(ctx, kind, key, want, true)
}

func (t *Target) rollWorkload(ctx context.Context, kind string, key types.NamespacedName, want string, roll bool) error {
	change := map[string]any{"metadata": map[string]any{"annotations": map[string]string{kube.Login: want}}}
	if roll {
		change["spec"] = map[string]any{"template": map[string]any{"metadata": map[string]any{
			"annotations": map[string]string{restartedAt: time.Now().UTC().Format(time.RFC3339)},
		}}}
	}
	patch, err := json.Marshal(change)
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: kube.Manager}
	apps := t.config.Cluster.Apps
	var changed runtime.Object
	switch kind {
	case "statefulset":
		changed, err = apps.StatefulSets(key.Namespace).Patch(ctx, key.Name, types.StrategicMergePatchType, patch, options)
	case "daemonset":
		changed, err = apps.DaemonSets(key.Namespace).Patch(ctx, key.Name, types.StrategicMergePatchType, patch, options)
	default:
		changed, err = apps.Deployments(key.Namespace).Patch(ctx, key.Name, types.StrategicMergePatchType, patch, options)
	}
	if err != nil {
		return err
	}
	for _, w := range t.workloads {
		if w.kind != kind {
			continue
		}
		if _, err := w.mirror.Wrote(changed); err != nil {
			return err
		}
	}
	if roll {
		t.config.Cluster.Recorder.Event(workloadReference(kind, key, changed), false, kube.RestartTriggered, "the login in Secret %s was rotated", t.config.Name)
	}
	return nil
}

func workloadReference(kind string, key types.NamespacedName, changed runtime.Object) corev1.ObjectReference {
	kinds := map[string]string{"deployment": "Deployment", "statefulset": "StatefulSet", "daemonset": "DaemonSet"}
	r := corev1.ObjectReference{APIVersion: "apps/v1", Kind: kinds[kind], Namespace: key.Namespace, Name: key.Name}
	if meta, ok := changed.(metav1.Object); ok {
		r.UID = meta.GetUID()
	}
	return r
}

func (t *Target) evictPod(ctx context.Context, key types.NamespacedName) error {
	now, err := t.pods.Get(ctx, key)
	if err != nil || now == nil {
		return err
	}
	err = t.config.Cluster.Policy.Evictions(key.Namespace).Evict(ctx, &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Namespace: key.Namespace, Name: key.Name},
		DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &now.UID}},
	})
	if err == nil {
		t.pods.Deleted(now)
		t.config.Cluster.Recorder.Event(
			corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: key.Namespace, Name: key.Name, UID: now.UID},
			false, kube.Evicted, "made again with image pull secret %s", t.config.Name)
	}
	return err
}
