package rollout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
)

// ErrStuck is in the chain of an error when a rollout failed, or did not end in
// its time.
var ErrStuck = errors.New("the rollout is stuck")

// Patience says for how long a rollout is watched.
type Patience struct {
	// Timeout bounds it as a whole; zero means five minutes.
	Timeout time.Duration
	// Failing is how long a pod may fail to start before that is taken for the
	// end: some programs wait for others by crashing. Zero means 30 seconds.
	Failing time.Duration
	// Interval is between two looks; zero means one second.
	Interval time.Duration
}

func (p Patience) orDefault() Patience {
	if p.Timeout <= 0 {
		p.Timeout = 5 * time.Minute
	}
	if p.Failing <= 0 {
		p.Failing = 30 * time.Second
	}
	if p.Interval <= 0 {
		p.Interval = time.Second
	}
	return p
}

// waiting are the reasons for which a container does not start, and whether
// there is any sense in waiting (kubelet, pkg/kubelet/images/types.go and
// pkg/kubelet/container/sync_result.go).
var waiting = map[string]struct{ hopeless bool }{
	"ErrImagePull":               {},
	"ImagePullBackOff":           {},
	"RegistryUnavailable":        {},
	"ImageInspectError":          {},
	"SignatureValidationFailed":  {},
	"InvalidImageName":           {hopeless: true},
	"ErrImageNeverPull":          {hopeless: true},
	"CrashLoopBackOff":           {},
	"RunContainerError":          {},
	"CreateContainerError":       {},
	"CreateContainerConfigError": {},
}

// Watch waits until a workload has rolled out. Of Expect, images by container, it
// must keep having what is given. progress is told when something has changed.
//
// In the error's chain are [ErrStuck] when it failed or took too long, with the
// reason of the pod that does not start, and [ErrMoved] when somebody else has
// set an image of Expect meanwhile.
func (c *Cluster) Watch(ctx context.Context, w Workload, expect map[string]string, patience Patience, progress func(text string)) error {
	patience = patience.orDefault()
	seen := &watch{cluster: c, workload: w, expect: expect, patience: patience, failing: map[types.UID]*failure{}}
	deadline := time.Now().Add(patience.Timeout)
	ticker := time.NewTicker(patience.Interval)
	defer ticker.Stop()
	told := ""
	for {
		text, done, err := seen.look(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("watch %s: %w", w, ctx.Err())
		}
		if err != nil {
			return err
		}
		if text != told && progress != nil {
			progress(text)
		}
		told = text
		if done {
			return nil
		}
		if !time.Now().Before(deadline) {
			return seen.stuck("not done after %s: %s", patience.Timeout, text)
		}
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// watch is what one watch has seen.
type watch struct {
	cluster  *Cluster
	workload Workload
	expect   map[string]string
	patience Patience
	// failing are pods that do not start.
	failing map[types.UID]*failure
	// ailing is since when something has been wrong with the workload itself.
	ailing time.Time
}

// failure is a pod that does not start.
type failure struct {
	since time.Time
	// cause is what the first failed pull or the last crash told: the reasons
	// that follow, of having to wait, no longer do.
	cause string
}

func (s *watch) stuck(format string, args ...any) error {
	return problem.Wrap(ErrStuck, problem.Partial, "look at `kubectl -n "+s.workload.Namespace+" describe "+string(s.workload.Kind)+" "+s.workload.Name+"` and at its pods",
		"%s: "+format, append([]any{s.workload}, args...)...)
}

// look looks once. What the cluster fails to answer is asked again.
func (s *watch) look(ctx context.Context) (text string, done bool, err error) {
	o, err := s.cluster.get(ctx, s.workload)
	if err != nil {
		return again(err)
	}
	for name, want := range s.expect {
		if container := o.state.Container(name); container == nil || container.Image != want {
			return "", false, problem.Wrap(ErrMoved, problem.Busy, "see who else deploys there", "watch %s: container %s has not image %s any more", s.workload, name, want)
		}
	}
	if o.state.Paused {
		return "", false, s.stuck("it is paused")
	}
	now := o.status()
	if now.done {
		return now.text, true, nil
	}
	trouble, dead, err := s.pods(ctx, o)
	if err != nil {
		return again(err)
	}
	switch {
	case dead != "":
		return "", false, s.stuck("%s", dead)
	case now.ails == "":
		s.ailing = time.Time{}
	case s.ailing.IsZero():
		s.ailing = time.Now()
	case time.Since(s.ailing) >= s.patience.Failing:
		return "", false, s.stuck("%s", join(now.ails, trouble))
	}
	return join(now.text, now.ails, trouble), false, nil
}

// again has a look repeated, unless its error would be the same.
func again(err error) (string, bool, error) {
	switch problem.KindOf(err) {
	case problem.Unreachable, problem.Internal:
		return "the cluster does not answer: " + err.Error(), false, nil
	}
	return "", false, err
}

func join(texts ...string) string {
	texts = slices.DeleteFunc(texts, func(text string) bool { return text == "" })
	return strings.Join(texts, "; ")
}

// pods looks at the pods with the workload's images: what troubles them, and
// what will not pass.
func (s *watch) pods(ctx context.Context, o *object) (trouble, dead string, err error) {
	selector, err := metav1.LabelSelectorAsSelector(o.selector)
	if err != nil {
		return "", "", fmt.Errorf("read the selector of %s: %w", s.workload, err)
	}
	list, err := s.cluster.clients.Core.Pods(s.workload.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return "", "", kube.Problem(err, "list the pods of %s", s.workload)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.DeletionTimestamp != nil || !runs(pod, o.template) {
			continue
		}
		what, hopeless := s.pod(pod)
		if what == "" {
			continue
		}
		text := "pod " + pod.Name + ": " + what
		if trouble == "" {
			trouble = text
		}
		if f := s.failing[pod.UID]; hopeless || f != nil && time.Since(f.since) >= s.patience.Failing {
			return trouble, text, nil
		}
	}
	return trouble, "", nil
}

// runs says whether a pod has the images of the template: an older one does not
// tell of the rollout.
func runs(pod *corev1.Pod, template *corev1.PodTemplateSpec) bool {
	images := map[string]string{}
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		images[c.Name] = c.Image
	}
	for _, c := range slices.Concat(template.Spec.InitContainers, template.Spec.Containers) {
		if images[c.Name] != c.Image {
			return false
		}
	}
	return true
}

// pod says what troubles a pod, if anything does. A pod that has become ready is
// well again; one that runs between two crashes is not.
func (s *watch) pod(pod *corev1.Pod) (text string, hopeless bool) {
	if ready(pod) {
		delete(s.failing, pod.UID)
		return "", false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			// A node may come for it: only the time limit ends this.
			return c.Reason + ": " + c.Message, false
		}
	}
	for _, c := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		reason, message := "", ""
		switch state := c.State; {
		case state.Waiting != nil:
			rule, known := waiting[state.Waiting.Reason]
			if !known {
				continue
			}
			reason, message, hopeless = state.Waiting.Reason, state.Waiting.Message, rule.hopeless
		case state.Terminated != nil && state.Terminated.ExitCode != 0:
			reason, message = "ended", ended(state.Terminated)
		default:
			continue
		}
		f := s.failing[pod.UID]
		if f == nil {
			f = &failure{since: time.Now()}
			s.failing[pod.UID] = f
		}
		switch {
		case reason == "ErrImagePull":
			f.cause = message
		case c.LastTerminationState.Terminated != nil:
			f.cause = ended(c.LastTerminationState.Terminated)
		}
		text = fmt.Sprintf("container %s: %s", c.Name, join(reason, message))
		if f.cause != "" && !strings.Contains(message, f.cause) {
			text = join(text, f.cause)
		}
		return text, hopeless
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil && !c.Ready && s.failing[pod.UID] == nil {
			// It may still become so: only the time limit ends this.
			return fmt.Sprintf("container %s: runs, and is not ready", c.Name), false
		}
	}
	return "", false
}

func ended(t *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("exit code %d", t.ExitCode)
	if t.Signal != 0 {
		text = fmt.Sprintf("signal %d", t.Signal)
	}
	return join(text, t.Reason, strings.TrimSpace(t.Message))
}

// freeing bounds how long a controller may take to see a change, before pods are
// deleted for it.
const freeing = 30 * time.Second

// Free deletes the pods of a StatefulSet that run the images, by container, and
// are not ready: its controller waits for such a pod before it makes an older
// one of it (Kubernetes documentation, "StatefulSets", forced rollback). It does
// so when the controller has seen the last change, since it would make the same
// pod again before. Of any other kind it deletes nothing.
func (c *Cluster) Free(ctx context.Context, w Workload, images map[string]string) error {
	if w.Kind != StatefulSet {
		return nil
	}
	o, err := c.seen(ctx, w)
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(o.selector)
	if err != nil {
		return fmt.Errorf("read the selector of %s: %w", w, err)
	}
	pods := c.clients.Core.Pods(w.Namespace)
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return kube.Problem(err, "list the pods of %s", w)
	}
	for i := range list.Items {
		pod := &list.Items[i]
		if !metav1.IsControlledBy(pod, o.meta) || pod.DeletionTimestamp != nil || ready(pod) || !slices.ContainsFunc(pod.Spec.Containers, func(c corev1.Container) bool { return images[c.Name] == c.Image }) {
			continue
		}
		err := pods.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return kube.Problem(err, "delete pod %s of %s", pod.Name, w)
		}
	}
	return nil
}

// seen reads a workload when its controller has seen the last change, or has taken
// too long.
func (c *Cluster) seen(ctx context.Context, w Workload) (*object, error) {
	ticker := time.NewTicker(freeing / 100)
	defer ticker.Stop()
	for deadline := time.Now().Add(freeing); ; {
		o, err := c.get(ctx, w)
		if err != nil || o.status().seen || time.Now().After(deadline) {
			return o, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the controller of %s: %w", w, ctx.Err())
		case <-ticker.C:
		}
	}
}

func ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
