package rollout_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	applyapps "k8s.io/client-go/applyconfigurations/apps/v1"
	applycore "k8s.io/client-go/applyconfigurations/core/v1"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release/rollout"
)

const (
	old  = "gitea.example.com/admin/api:1111111"
	next = "gitea.example.com/admin/api:2222222"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]rollout.Kind{
		"deployment/api": rollout.Deployment, "deploy/api": rollout.Deployment, "Deployment/api": rollout.Deployment,
		"statefulset/api": rollout.StatefulSet, "sts/api": rollout.StatefulSet, "ds/api": rollout.DaemonSet, "cronjob/api": rollout.CronJob,
	} {
		if w, err := rollout.Parse(text, namespace); err != nil || w != (rollout.Workload{Kind: want, Namespace: namespace, Name: "api"}) {
			t.Errorf("%s: %+v, %v", text, w, err)
		}
	}
	for _, text := range []string{"", "api", "pod/api", "deployment/", "deployment/a/b"} {
		if _, err := rollout.Parse(text, namespace); problem.KindOf(err) != problem.Config {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSetTouchesNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	workload := w.create(rollout.Deployment, "kubectl-client-side-apply", template("api", old, "sidecar", "envoy:1"))
	before := w.deployment().Spec
	applied, err := w.Set(t.Context(), rollout.Change{
		Workload: workload, Images: map[string]string{"api": next},
		Annotations: map[string]string{rollout.Cause: "release", rollout.Commit: "abc"},
	})
	must(t, err)
	if !applied.Changed || applied.Before.Container("api").Image != old {
		t.Errorf("applied %+v", applied)
	}
	if diff := cmp.Diff([]string{"kubectl-client-side-apply"}, applied.From); diff != "" {
		t.Errorf("taken over from (-want +got):\n%s", diff)
	}
	after := w.deployment()
	before.Template.Spec.Containers[0].Image = next
	if diff := cmp.Diff(before, after.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{rollout.Cause: "release", rollout.Commit: "abc"}, after.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	want := `{"f:metadata":{"f:annotations":{"f:kubernetes.io/change-cause":{},"f:regkeeper.dev/commit":{}}},"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"api\"}":{".":{},"f:image":{},"f:name":{}}}}}}}`
	if diff := cmp.Diff(want, owned(after)); diff != "" {
		t.Errorf("fields that are ours (-want +got):\n%s", diff)
	}

	applied, err = w.Set(t.Context(), rollout.Change{Workload: workload, Images: map[string]string{"api": next}})
	must(t, err)
	if applied.Changed || w.writes() != 1 {
		t.Errorf("what was so already was written: %+v, %d writes", applied, w.writes())
	}
}

// owned are the fields that a release owns.
func owned(d *appsv1.Deployment) string {
	for _, entry := range d.ManagedFields {
		if entry.Manager == rollout.Manager {
			return string(entry.FieldsV1.GetRawBytes())
		}
	}
	return ""
}

// TestSetKeepsWhatItSetBefore: what is left out of an apply is given up, and a
// container whose only manager gives it up is removed.
func TestSetKeepsWhatItSetBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	workload := w.create(rollout.Deployment, "kubectl-create", template("api", old, "worker", "worker:1"))
	for _, change := range []rollout.Change{
		{Images: map[string]string{"api": next}, Annotations: map[string]string{rollout.Commit: "one", rollout.Digest: "d"}},
		{Images: map[string]string{"worker": "worker:2"}, Annotations: map[string]string{rollout.Commit: "two", rollout.Digest: ""}},
	} {
		change.Workload = workload
		_, err := w.Set(t.Context(), change)
		must(t, err)
	}
	if diff := cmp.Diff(map[string]string{"api": next, "worker": "worker:2"}, w.images(workload)); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
	d := w.deployment()
	if diff := cmp.Diff(map[string]string{rollout.Commit: "two"}, d.Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	if fields := owned(d); strings.Count(fields, "f:image") != 2 {
		t.Errorf("owned: %s", fields)
	}
}

func TestEveryKind(t *testing.T) {
	t.Parallel()
	for _, kind := range []rollout.Kind{rollout.Deployment, rollout.StatefulSet, rollout.DaemonSet, rollout.CronJob} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			pods := template("api", old)
			pods.Spec.InitContainers = []corev1.Container{{Name: "migrate", Image: old}}
			workload := w.create(kind, "kubectl-create", pods)
			applied, err := w.Set(t.Context(), rollout.Change{Workload: workload, Images: map[string]string{"api": next, "migrate": next}})
			must(t, err)
			if diff := cmp.Diff([]rollout.Container{{Name: "migrate", Image: old, Init: true}, {Name: "api", Image: old}}, applied.Before.Containers); diff != "" {
				t.Errorf("before (-want +got):\n%s", diff)
			}
			state, err := w.Look(t.Context(), workload)
			must(t, err)
			if diff := cmp.Diff([]rollout.Container{{Name: "migrate", Image: next, Init: true}, {Name: "api", Image: next}}, state.Containers); diff != "" {
				t.Errorf("after (-want +got):\n%s", diff)
			}
			if _, err := w.Look(t.Context(), rollout.Workload{Kind: kind, Namespace: namespace, Name: "none"}); problem.KindOf(err) != problem.NotFound {
				t.Errorf("look at none: %v", err)
			}
		})
	}
}

func TestSetNeverMakesAContainer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	workload := w.create(rollout.Deployment, "kubectl-create", template("api", old, "old", old))
	_, err := w.Set(t.Context(), rollout.Change{Workload: workload, Images: map[string]string{"api": next, "apl": next}})
	if problem.KindOf(err) != problem.NotFound || problem.HintOf(err) != "it has: api, old" {
		t.Errorf("set: %v", err)
	}
	// One that goes between the look and the write is not made again.
	gone := false
	w.api.PrependReactor("patch", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
		if !gone {
			gone = true
			w.change("kubectl-edit", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers = d.Spec.Template.Spec.Containers[:1] })
		}
		return false, nil, nil
	})
	_, err = w.Set(t.Context(), rollout.Change{Workload: workload, Images: map[string]string{"old": next}})
	if problem.KindOf(err) != problem.NotFound || !gone {
		t.Errorf("set: %v", err)
	}
	if diff := cmp.Diff(map[string]string{"api": old}, w.images(workload)); diff != "" {
		t.Errorf("images (-want +got):\n%s", diff)
	}
}

func TestSetTriesAgainWhenTheStatusChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	workload := w.create(rollout.Deployment, "kubectl-create", template("api", old))
	times := 0
	w.api.PrependReactor("patch", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
		if times++; times < 4 {
			w.change("kube-controller-manager", func(d *appsv1.Deployment) { d.Status.Replicas++ })
		}
		return false, nil, nil
	})
	_, err := w.Set(t.Context(), rollout.Change{Workload: workload, Images: map[string]string{"api": next}})
	must(t, err)
	if got := w.images(workload)["api"]; got != next || times != 4 {
		t.Errorf("image %s after %d tries", got, times)
	}
}

func TestADeclaredImageIsTakenOverOnPurpose(t *testing.T) {
	t.Parallel()
	for manager, refused := range map[string]bool{"argocd-controller": true, "kustomize-controller": true, "kubectl": false} {
		w := newWorld(t)
		workload := w.create(rollout.Deployment, "kubectl-create", template("api", "first:1", "other", "other:1"))
		_, err := w.api.AppsV1().Deployments(namespace).Apply(t.Context(), applyapps.Deployment("api", namespace).WithSpec(applyapps.DeploymentSpec().WithTemplate(
			applycore.PodTemplateSpec().WithSpec(applycore.PodSpec().WithContainers(applycore.Container().WithName("api").WithImage(old))))),
			metav1.ApplyOptions{FieldManager: manager, Force: true})
		must(t, err)
		change := rollout.Change{Workload: workload, Images: map[string]string{"api": next}}
		_, err = w.Set(t.Context(), change)
		if got := problem.KindOf(err) == problem.Busy; got != refused || refused && !strings.Contains(err.Error(), manager) {
			t.Errorf("%s: %v", manager, err)
		}
		// What it does not declare is nobody's business.
		_, err = w.Set(t.Context(), rollout.Change{Workload: workload, Images: map[string]string{"other": "other:2"}})
		must(t, err)
		change.TakeOver = true
		_, err = w.Set(t.Context(), change)
		must(t, err)
		if diff := cmp.Diff(map[string]string{"api": next, "other": "other:2"}, w.images(workload)); diff != "" {
			t.Errorf("%s: images (-want +got):\n%s", manager, diff)
		}
	}
}

func TestSetExpects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	workload := w.create(rollout.Deployment, "kubectl-create", template("api", "another:3"))
	_, err := w.Set(t.Context(), rollout.Change{Workload: workload, Images: map[string]string{"api": old}, Expect: map[string]string{"api": next}})
	if !errors.Is(err, rollout.ErrMoved) || w.images(workload)["api"] != "another:3" {
		t.Errorf("set: %v", err)
	}
}

func TestFreeDeletesOnlyBrokenPodsOfTheSet(t *testing.T) {
	converter()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		workload := w.create(rollout.StatefulSet, "kubectl-create", template("api", old))
		sets := w.api.AppsV1().StatefulSets(namespace)
		set, err := sets.Get(t.Context(), "api", metav1.GetOptions{})
		must(t, err)
		pods := w.api.CoreV1().Pods(namespace)
		add := func(name, image string, change func(*corev1.Pod)) {
			p := pod(name, image)
			p.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, appsv1.SchemeGroupVersion.WithKind("StatefulSet"))}
			change(p)
			_, err := pods.Create(context.Background(), p, metav1.CreateOptions{})
			must(t, err)
		}
		keep := func(*corev1.Pod) {}
		add("api-1", next, keep)
		add("api-0", old, keep)
		add("api-2", next, func(p *corev1.Pod) { isReady(p) })
		add("api-3", next, func(p *corev1.Pod) { p.OwnerReferences = nil })
		names := func() (list []string) {
			found, err := pods.List(context.Background(), metav1.ListOptions{})
			must(t, err)
			for _, p := range found.Items {
				list = append(list, p.Name)
			}
			return list
		}
		at(5, func() {
			if n := len(names()); n != 4 {
				t.Errorf("%d of 4 pods are left before the controller has seen the change", n)
			}
			set.Status.ObservedGeneration = set.Generation
			_, err := sets.Update(context.Background(), set, metav1.UpdateOptions{})
			must(t, err)
		})
		must(t, w.Free(t.Context(), workload, map[string]string{"api": next}))
		if diff := cmp.Diff([]string{"api-0", "api-2", "api-3"}, names()); diff != "" {
			t.Errorf("pods left (-want +got):\n%s", diff)
		}
	})
}
