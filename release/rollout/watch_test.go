package rollout_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/release/rollout"
)

func pod(name, image string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("pod-" + name), Labels: map[string]string{"app": "api"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "api", Image: image}}},
	}
}

func isReady(p *corev1.Pod) *corev1.Pod {
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	return p
}

func waits(p *corev1.Pod, reason, message string) *corev1.Pod {
	p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "api", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}}}
	return p
}

func (w *world) put(p *corev1.Pod) {
	w.t.Helper()
	pods := w.api.CoreV1().Pods(namespace)
	_, err := pods.Update(context.Background(), p, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = pods.Create(context.Background(), p, metav1.CreateOptions{})
	}
	must(w.t, err)
}

// progress has the controller report.
func (w *world) progress(updated, available, all int32) {
	w.change("kube-controller-manager", func(d *appsv1.Deployment) {
		d.Status.ObservedGeneration = d.Generation
		d.Status.UpdatedReplicas, d.Status.AvailableReplicas, d.Status.Replicas = updated, available, all
	})
}

// at has something happen at a second of the watch.
func at(second float64, what func()) {
	go func() {
		time.Sleep(time.Duration(second * float64(time.Second)))
		what()
	}()
}

const denied = `failed to pull and unpack image "` + next + `": 401 Unauthorized`

// TestWatchDeployment watches a rollout of which a script tells the course.
func TestWatchDeployment(t *testing.T) {
	converter() // outside of the bubbles
	for _, c := range []struct {
		name   string
		play   func(w *world)
		want   []string // in the error's text; none is success
		is     error
		within time.Duration
	}{
		{name: "rolls out", within: 4 * time.Second, play: func(w *world) {
			at(1.5, func() { w.progress(1, 1, 3) })
			at(2.5, func() { w.progress(2, 1, 2) })
			at(3.5, func() { w.progress(2, 2, 2) })
		}},
		{name: "old pods are left", want: []string{"1 old pods are left", "not done after 2m0s"}, is: rollout.ErrStuck, within: 2 * time.Minute, play: func(w *world) {
			at(1.5, func() { w.progress(2, 2, 3) })
		}},
		{name: "never ready", want: []string{"0 of 2 updated pods are available", "pod api-new: container api: runs, and is not ready", "not done after 2m0s"}, is: rollout.ErrStuck, within: 2 * time.Minute, play: func(w *world) {
			p := pod("api-new", next)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "api", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
			at(1.5, func() { w.progress(2, 0, 2); w.put(p) })
		}},
		{name: "never observed", want: []string{"waiting for the cluster to see the change"}, is: rollout.ErrStuck, within: 2 * time.Minute, play: func(*world) {}},
		{name: "the pull is refused", want: []string{"pod api-new", "ImagePullBackOff", "401 Unauthorized"}, is: rollout.ErrStuck, within: 33 * time.Second, play: func(w *world) {
			at(0.5, func() { w.progress(1, 1, 3); w.put(waits(pod("api-new", next), "ContainerCreating", "")) })
			at(1.5, func() { w.put(waits(pod("api-new", next), "ErrImagePull", denied)) })
			at(4.5, func() { w.put(waits(pod("api-new", next), "ImagePullBackOff", "Back-off pulling image")) })
		}},
		{name: "a name that is none", want: []string{"InvalidImageName"}, is: rollout.ErrStuck, within: 2 * time.Second, play: func(w *world) {
			at(0.5, func() { w.progress(1, 1, 3); w.put(waits(pod("api-new", next), "InvalidImageName", "couldn't parse")) })
		}},
		{name: "crashes", want: []string{"CrashLoopBackOff", "exit code 2", "no database"}, is: rollout.ErrStuck, within: 45 * time.Second, play: func(w *world) {
			crash := &corev1.ContainerStateTerminated{ExitCode: 2, Reason: "Error", Message: "no database\n"}
			at(0.5, func() { w.progress(1, 1, 3) })
			// It crashes, runs again for a while, and crashes again: running does not count as well.
			for _, second := range []float64{1.5, 21.5, 41.5} {
				at(second, func() {
					p := waits(pod("api-new", next), "CrashLoopBackOff", "back-off 10s restarting")
					p.Status.ContainerStatuses[0].LastTerminationState.Terminated = crash
					w.put(p)
				})
				at(second+10, func() {
					p := pod("api-new", next)
					p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "api", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
					w.put(p)
				})
			}
		}},
		{name: "crashes once and recovers", within: 71 * time.Second, play: func(w *world) {
			at(0.5, func() { w.progress(1, 1, 3); w.put(waits(pod("api-new", next), "CrashLoopBackOff", "")) })
			at(20.5, func() { w.put(isReady(pod("api-new", next))) })
			at(40.5, func() { w.put(waits(pod("api-new", next), "CrashLoopBackOff", "")) })
			at(60.5, func() { w.put(isReady(pod("api-new", next))) })
			at(70.5, func() { w.progress(2, 2, 2) })
		}},
		{name: "an old pod crashes", within: 61 * time.Second, play: func(w *world) {
			at(0.5, func() { w.progress(1, 1, 3); w.put(waits(pod("api-old", old), "CrashLoopBackOff", "")) })
			at(60.5, func() { w.progress(2, 2, 2) })
		}},
		{name: "no node has room", want: []string{"Unschedulable: 0/3 nodes"}, is: rollout.ErrStuck, within: 2 * time.Minute, play: func(w *world) {
			at(0.5, func() {
				w.progress(1, 1, 3)
				p := pod("api-new", next)
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes"}}
				w.put(p)
			})
		}},
		{name: "no quota", want: []string{"FailedCreate: exceeded quota"}, is: rollout.ErrStuck, within: 32 * time.Second, play: func(w *world) {
			at(0.5, func() {
				w.progress(0, 2, 2)
				w.change("kube-controller-manager", func(d *appsv1.Deployment) {
					d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate", Message: "exceeded quota"}}
				})
			})
		}},
		{name: "the deadline of the rollout before", within: 11 * time.Second, play: func(w *world) {
			at(0.5, func() {
				w.progress(1, 1, 3)
				w.change("kube-controller-manager", func(d *appsv1.Deployment) {
					d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: "has timed out"}}
				})
			})
			at(10.5, func() { w.progress(2, 2, 2) })
		}},
		{name: "the deadline", want: []string{"has timed out"}, is: rollout.ErrStuck, within: 32 * time.Second, play: func(w *world) {
			at(0.5, func() {
				w.progress(1, 1, 3)
				w.change("kube-controller-manager", func(d *appsv1.Deployment) {
					d.Status.Conditions = []appsv1.DeploymentCondition{{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded", Message: "has timed out"}}
				})
			})
		}},
		{name: "somebody else deploys", want: []string{"container api has not image"}, is: rollout.ErrMoved, within: 3 * time.Second, play: func(w *world) {
			at(1.5, func() {
				w.change("kubectl-set", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "another:3" })
			})
		}},
		{name: "paused", want: []string{"it is paused"}, is: rollout.ErrStuck, within: 3 * time.Second, play: func(w *world) {
			at(1.5, func() { w.change("kubectl", func(d *appsv1.Deployment) { d.Spec.Paused = true }) })
		}},
		{name: "the apiserver is away for a while", within: 21 * time.Second, play: func(w *world) {
			var away atomic.Bool
			w.api.PrependReactor("get", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
				return away.Load(), nil, apierrors.NewServiceUnavailable("restarting")
			})
			at(1.5, func() { away.Store(true) })
			at(15.5, func() { away.Store(false) })
			at(20.5, func() { w.progress(2, 2, 2) })
		}},
		{name: "no right to list pods", want: []string{"list the pods"}, within: time.Second, play: func(w *world) {
			w.api.PrependReactor("list", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, "", errors.New("no"))
			})
		}},
		{name: "deleted", want: []string{"not found"}, within: 3 * time.Second, play: func(w *world) {
			at(1.5, func() {
				must(w.t, w.api.AppsV1().Deployments(namespace).Delete(context.Background(), "api", metav1.DeleteOptions{}))
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				workload := w.create(rollout.Deployment, "kubectl-create", template("api", old))
				w.progress(2, 2, 2)
				_, err := w.Set(t.Context(), rollout.Change{Workload: workload, Images: map[string]string{"api": next}})
				must(t, err)
				began := time.Now()
				c.play(w)
				err = w.Watch(t.Context(), workload, map[string]string{"api": next}, rollout.Patience{Timeout: 2 * time.Minute}, nil)
				took := time.Since(began)
				time.Sleep(time.Hour) // the script ends
				if (err == nil) != (len(c.want) == 0) || c.is != nil && !errors.Is(err, c.is) {
					t.Fatalf("watched for %s: %v", took, err)
				}
				for _, text := range c.want {
					if !strings.Contains(err.Error(), text) {
						t.Errorf("the error lacks %q: %v", text, err)
					}
				}
				if took > c.within {
					t.Errorf("it took %s, not %s", took, c.within)
				}
			})
		})
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	converter()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		workload := w.create(rollout.Deployment, "kubectl-create", template("api", old))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := w.Watch(ctx, workload, nil, rollout.Patience{}, nil); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, rollout.ErrStuck) {
			t.Errorf("ends with %v", err)
		}
	})
}

func TestWatchOtherKinds(t *testing.T) {
	converter()
	ctx := context.Background()
	for _, c := range []struct {
		kind rollout.Kind
		play func(w *world)
		want string
	}{
		{rollout.CronJob, func(*world) {}, "its next job takes the image (@daily)"},
		{rollout.StatefulSet, func(w *world) {
			set := func(change func(*appsv1.StatefulSet)) {
				s, err := w.api.AppsV1().StatefulSets(namespace).Get(ctx, "api", metav1.GetOptions{})
				must(w.t, err)
				s.Status.ObservedGeneration = s.Generation
				change(s)
				_, err = w.api.AppsV1().StatefulSets(namespace).Update(ctx, s, metav1.UpdateOptions{})
				must(w.t, err)
			}
			at(1.5, func() {
				set(func(s *appsv1.StatefulSet) { s.Status.ReadyReplicas, s.Status.UpdateRevision = 1, "b" })
			})
			at(2.5, func() { set(func(s *appsv1.StatefulSet) { s.Status.ReadyReplicas, s.Status.UpdatedReplicas = 2, 1 }) })
			at(3.5, func() {
				set(func(s *appsv1.StatefulSet) { s.Status.CurrentRevision, s.Status.CurrentReplicas = "b", 2 })
			})
		}, "waiting for the cluster to see the change|1 of 2 pods are ready|1 of 2 pods are updated|2 pods are updated and ready"},
		{rollout.DaemonSet, func(w *world) {
			set := func(updated, available int32) {
				d, err := w.api.AppsV1().DaemonSets(namespace).Get(ctx, "api", metav1.GetOptions{})
				must(w.t, err)
				d.Status.ObservedGeneration = d.Generation
				d.Status.DesiredNumberScheduled, d.Status.UpdatedNumberScheduled, d.Status.NumberAvailable = 3, updated, available
				_, err = w.api.AppsV1().DaemonSets(namespace).Update(ctx, d, metav1.UpdateOptions{})
				must(w.t, err)
			}
			at(1.5, func() { set(1, 3) })
			at(2.5, func() { set(3, 2) })
			at(3.5, func() { set(3, 3) })
		}, "waiting for the cluster to see the change|1 of 3 pods are updated|2 of 3 updated pods are available|3 pods are updated and available"},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				workload := w.create(c.kind, "kubectl-create", template("api", old))
				c.play(w)
				var told []string
				must(t, w.Watch(t.Context(), workload, nil, rollout.Patience{Timeout: 10 * time.Second}, func(text string) { told = append(told, text) }))
				if got := strings.Join(told, "|"); got != c.want {
					t.Errorf("told\n%s, want\n%s", got, c.want)
				}
			})
		})
	}
}
