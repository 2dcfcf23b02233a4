package secrets

import (
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	typedapps "k8s.io/client-go/kubernetes/typed/apps/v1"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
)

func namespaceMirror(core typedcore.CoreV1Interface, selection kube.Selection) *kube.Mirror[struct{}] {
	namespaces := kube.APIOf("namespaces", &corev1.Namespace{}, core, func(string) typedcore.NamespaceInterface { return core.Namespaces() })
	return kube.NewMirror(namespaces, selection, func(runtime.Object) (struct{}, error) { return struct{}{}, nil })
}

func secretsAPI(core typedcore.CoreV1Interface) kube.API {
	return kube.APIOf("secrets", &corev1.Secret{}, core, core.Secrets)
}

func thinSecret(object runtime.Object) (secret, error) {
	full := object.(*corev1.Secret) //nolint:forcetypeassert // the API lists nothing else
	s := secret{kind: full.Type, more: len(full.Data) > 1}
	if full.Type == corev1.SecretTypeDockerConfigJson {
		s.config = full.Data[corev1.DockerConfigJsonKey]
	}
	s.applied = slices.ContainsFunc(full.ManagedFields, func(f metav1.ManagedFieldsEntry) bool {
		return f.Manager == kube.Manager && f.Operation == metav1.ManagedFieldsOperationApply
	})
	return s, nil
}

// account is what is kept of a ServiceAccount.
type account struct{ pullSecrets []string }

func accountsAPI(core typedcore.CoreV1Interface) kube.API {
	return kube.APIOf("serviceaccounts", &corev1.ServiceAccount{}, core, core.ServiceAccounts)
}

func thinAccount(object runtime.Object) (account, error) {
	full := object.(*corev1.ServiceAccount) //nolint:forcetypeassert // the API lists nothing else
	return account{pullSecrets: names(full.ImagePullSecrets)}, nil
}

func names(references []corev1.LocalObjectReference) []string {
	var list []string
	for _, r := range references {
		list = append(list, r.Name)
	}
	return list
}

// pod is what is kept of a pod that waits for an image; of others it is zero.
type pod struct {
	// images are those that it waits for.
	images      []string
	account     string
	pullSecrets []string
	// controlled says that a controller will make another in its place.
	controlled bool
}

func podsAPI(core typedcore.CoreV1Interface) kube.API {
	return kube.APIOf("pods", &corev1.Pod{}, core, core.Pods)
}

// thinPod keeps of a pod why it waits for an image. The kubelet's reasons are
// ErrImagePull after a try and ImagePullBackOff before the next.
func (t *Target) thinPod(object runtime.Object) (pod, error) {
	full := object.(*corev1.Pod) //nolint:forcetypeassert // the API lists nothing else
	var images []string
	for _, statuses := range [][]corev1.ContainerStatus{full.Status.InitContainerStatuses, full.Status.ContainerStatuses} {
		for _, status := range statuses {
			if w := status.State.Waiting; w != nil && (w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff") {
				images = append(images, imageOf(full, status.Name, status.Image))
			}
		}
	}
	if len(images) == 0 {
		return pod{}, nil
	}
	return pod{
		images: images, account: full.Spec.ServiceAccountName,
		pullSecrets: names(full.Spec.ImagePullSecrets), controlled: metav1.GetControllerOf(full) != nil,
	}, nil
}

// imageOf is the image that a container's specification names: its status may
// have another name of it, or none yet.
func imageOf(full *corev1.Pod, container, otherwise string) string {
	for _, containers := range [][]corev1.Container{full.Spec.InitContainers, full.Spec.Containers} {
		for _, c := range containers {
			if c.Name == container {
				return c.Image
			}
		}
	}
	return otherwise
}

// workload is what is kept of a workload.
type workload struct {
	rolling bool
	// paused says that nothing would roll it now.
	paused bool
}

// workloads are those of one line of the configuration.
type workloads struct {
	kind   string
	mirror *kube.Mirror[workload]
}

func newWorkloads(apps typedapps.AppsV1Interface, w Workload, where []string) workloads {
	selection := kube.Selection{Namespaces: where, Name: w.Name, ByNamespace: true}
	if w.Name == "*" {
		selection.Name = ""
	}
	switch w.Kind {
	case "statefulset":
		return workloads{w.Kind, kube.NewMirror(kube.APIOf("statefulsets", &appsv1.StatefulSet{}, apps, apps.StatefulSets), selection, thinWorkload)}
	case "daemonset":
		return workloads{w.Kind, kube.NewMirror(kube.APIOf("daemonsets", &appsv1.DaemonSet{}, apps, apps.DaemonSets), selection, thinWorkload)}
	}
	return workloads{w.Kind, kube.NewMirror(kube.APIOf("deployments", &appsv1.Deployment{}, apps, apps.Deployments), selection, thinWorkload)}
}

// thinWorkload says whether a workload is rolling, as `kubectl rollout status`
// does (kubectl, pkg/polymorphichelpers/rollout_status.go). One whose pods are
// made anew only when someone deletes them never is.
func thinWorkload(object runtime.Object) (workload, error) {
	var w workload
	switch full := object.(type) {
	case *appsv1.Deployment:
		want := replicas(full.Spec.Replicas)
		w.paused = full.Spec.Paused
		w.rolling = !w.paused && (full.Status.ObservedGeneration < full.Generation || full.Status.UpdatedReplicas < want ||
			full.Status.Replicas > full.Status.UpdatedReplicas || full.Status.AvailableReplicas < full.Status.UpdatedReplicas)
	case *appsv1.StatefulSet:
		want, updated := replicas(full.Spec.Replicas), replicas(full.Spec.Replicas)
		if rolling := full.Spec.UpdateStrategy.RollingUpdate; rolling != nil && rolling.Partition != nil {
			updated = max(0, want-*rolling.Partition)
		}
		w.rolling = full.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType &&
			(full.Status.ObservedGeneration < full.Generation || full.Status.UpdatedReplicas < updated || full.Status.ReadyReplicas < want)
	case *appsv1.DaemonSet:
		w.rolling = full.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType &&
			(full.Status.ObservedGeneration < full.Generation || full.Status.UpdatedNumberScheduled < full.Status.DesiredNumberScheduled ||
				full.Status.NumberAvailable < full.Status.DesiredNumberScheduled)
	}
	return w, nil
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// registryOf is the registry of an image's name; empty if it is none.
func registryOf(image string) credential.Host {
	reference, err := name.ParseReference(image, name.WeakValidation)
	if err != nil {
		return ""
	}
	host, err := credential.ParseHost(reference.Context().RegistryStr())
	if err != nil {
		return ""
	}
	return host
}
