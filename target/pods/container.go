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
	"github.com/regkeeper/regkeeper/internal/shellfile"
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
	// waits is why the container, which ran before, does not run now and will run
	// again; empty otherwise. What it held may be on a volume.
	waits string
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
			if statuses[i].Name != c.name {
				continue
			}
			if statuses[i].State.Running == nil {
				c.waits = waits(full, &statuses[i])
				continue
			}
			c.id = statuses[i].ContainerID
			if c.id == "" {
				// A runtime that gives no id still tells when a run began.
				c.id = statuses[i].State.Running.StartedAt.String()
			}
		}
	}
	return c, nil
}

// waits is why a container that does not run now will run again; empty if it has
// not run before, or has ended for good.
func waits(full *corev1.Pod, status *corev1.ContainerStatus) string {
	ended := status.State.Terminated
	switch {
	case ended != nil && !restarts(full, status.Name, ended.ExitCode),
		ended == nil && status.RestartCount == 0 && status.LastTerminationState.Terminated == nil:
		return ""
	case ended != nil && ended.Reason != "":
		return ended.Reason
	case status.State.Waiting != nil && status.State.Waiting.Reason != "":
		return status.State.Waiting.Reason
	}
	return "not started yet"
}

// restarts says whether a container that ended is started again (Kubernetes
// documentation, "Pod Lifecycle", container restarts).
func restarts(full *corev1.Pod, name string, code int32) bool {
	for _, containers := range [][]corev1.Container{full.Spec.Containers, full.Spec.InitContainers} {
		for i := range containers {
			if containers[i].Name != name {
				continue
			}
			if len(containers[i].RestartPolicyRules) > 0 {
				return true // it may be
			}
			if own := containers[i].RestartPolicy; own != nil {
				return *own == corev1.ContainerRestartPolicyAlways || *own == corev1.ContainerRestartPolicyOnFailure && code != 0
			}
		}
	}
	switch full.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return code != 0
	}
	return true
}

// gone says whether the pod is none of ours, or on its way out.
func gone(p *pod) bool {
	return p == nil || p.Excluded() || p.Deleting || p.Value.over
}

// listed says whether the pod has a place: that of a container that ran before
// stays, since a login may lie there.
func listed(p *pod) bool { return ready(p) || !gone(p) && p.Value.waits != "" }

// ready says whether the pod's container runs, or, where there is no telling
// which one is meant, one of them.
func ready(p *pod) bool {
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

// waiting is the error of a container that cannot be executed in for now.
func (c container) waiting(at credential.Place) error {
	return problem.New(problem.Unreachable, "it is tried again when the container runs", "%s waits to run again: %s", named(at), shellfile.Shown(c.waits))
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
