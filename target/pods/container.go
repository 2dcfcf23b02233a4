package pods

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// defaultContainer is the annotation that names the container which kubectl
// takes (Kubernetes documentation, "Well-Known Labels, Annotations and Taints").
const defaultContainer = "kubectl.kubernetes.io/default-container"

// container is what is kept of a pod: the container that is delivered to.
type container struct {
	// name is empty if there is no telling which container is meant.
	name string
	// choices are the names to choose from where the name is empty, or is not of
	// the pod.
	choices string
	// id is of the container's present run; empty unless it runs.
	id string
	// node is where the pod runs.
	node string
	// over says that the pod runs nothing any more.
	over bool
	// runs says that one of the pod's containers may be executed in.
	runs bool
}

type pod = kube.Object[container]

// thin keeps of a pod the one container.
func (t *Target) thin(object runtime.Object) (container, error) {
	full, ok := object.(*corev1.Pod)
	if !ok {
		return container{}, fmt.Errorf("unexpected %T", object)
	}
	c := container{
		node: full.Spec.NodeName, runs: full.Status.Phase == corev1.PodRunning,
		over: full.Status.Phase == corev1.PodSucceeded || full.Status.Phase == corev1.PodFailed,
	}
	var names, sidecars []string
	for i := range full.Spec.Containers {
		names = append(names, full.Spec.Containers[i].Name)
	}
	for i := range full.Spec.InitContainers {
		if policy := full.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			sidecars = append(sidecars, full.Spec.InitContainers[i].Name)
		}
	}
	all := slices.Concat(names, sidecars)
	switch marked := full.Annotations[defaultContainer]; {
	case t.config.Container != "":
		c.name = t.config.Container
	case slices.Contains(all, marked):
		c.name = marked
	case len(names) == 1:
		c.name = names[0]
	}
	if !slices.Contains(all, c.name) {
		c.choices = strings.Join(all, ", ")
		return c, nil
	}
	for _, statuses := range [][]corev1.ContainerStatus{full.Status.ContainerStatuses, full.Status.InitContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == c.name && statuses[i].State.Running != nil {
				c.id = statuses[i].ContainerID
				if c.id == "" {
					// A runtime that gives no id still tells when a run began.
					c.id = statuses[i].State.Running.StartedAt.String()
				}
			}
		}
	}
	return c, nil
}

// gone says whether the pod is none of ours, or on its way out.
func gone(p *pod) bool {
	return p == nil || p.Excluded() || p.Deleting || p.Value.over
}

// listed says whether the pod has a place.
func listed(p *pod) bool {
	return !gone(p) && (p.Value.id != "" || p.Value.choices != "" && p.Value.runs)
}

// place is namespace/pod/container, and namespace/pod where there is no telling
// which container is meant.
func place(p *pod) credential.Place {
	text := p.Namespace + "/" + p.Name
	if p.Value.name != "" {
		text += "/" + p.Value.name
	}
	return credential.Place(text)
}

// parts takes a place apart.
func parts(at credential.Place) (key types.NamespacedName, container string) {
	namespace, rest, _ := strings.Cut(string(at), "/")
	name, container, _ := strings.Cut(rest, "/")
	return types.NamespacedName{Namespace: namespace, Name: name}, container
}

// named is a place for people.
func named(at credential.Place) string {
	key, container := parts(at)
	if container == "" {
		return "pod " + key.String()
	}
	return "container " + container + " of pod " + key.String()
}

// unclear is the error of a pod with no container to deliver to.
func (c container) unclear(at credential.Place) error {
	key, _ := parts(at)
	if c.name != "" {
		return problem.New(problem.Config, "set container: of the target to one of them, or narrow its selector",
			"pod %s has no container %s, but %s", key, c.name, c.choices)
	}
	return problem.New(problem.Config, "set container: of the target to one of them, or the pod's annotation "+defaultContainer,
		"pod %s has several containers: %s", key, c.choices)
}

// reference is the pod, and its container, as Events have it.
func reference(p *pod) corev1.ObjectReference {
	r := corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}
	if p.Value.choices == "" {
		r.FieldPath = "spec.containers{" + p.Value.name + "}"
	}
	return r
}
