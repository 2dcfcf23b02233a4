package secrets_test

import (
	"context"
	"errors"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/target/secrets"
)

// TestWatchTells of what matters, and of nothing else: each change that is told
// of has all that follows looked at.
func TestWatchTells(t *testing.T) {
	t.Parallel()
	const all, nothing = "all", ""
	type fixture struct {
		*world
		t *testing.T
	}
	update := func(f fixture, object runtime.Object) {
		f.t.Helper()
		var err error
		switch o := object.(type) {
		case *corev1.Namespace:
			_, err = f.api.CoreV1().Namespaces().Update(f.t.Context(), o, metav1.UpdateOptions{})
		case *corev1.ServiceAccount:
			_, err = f.api.CoreV1().ServiceAccounts(o.Namespace).Update(f.t.Context(), o, metav1.UpdateOptions{})
		case *corev1.Pod:
			_, err = f.api.CoreV1().Pods(o.Namespace).Update(f.t.Context(), o, metav1.UpdateOptions{})
		case *appsv1.Deployment:
			_, err = f.api.AppsV1().Deployments(o.Namespace).Update(f.t.Context(), o, metav1.UpdateOptions{})
		}
		must(f.t, err)
	}
	ours := func() *corev1.Secret { return owned(pullSecret("team-a", host, login("u", "p")), instance) }
	image := string(host) + "/app"
	for what, c := range map[string]struct {
		change func(fixture)
		want   string
	}{
		"Secret edited": {func(f fixture) {
			f.world.change("team-a", func(s *corev1.Secret) { s.Data[corev1.DockerConfigJsonKey] = []byte("{}") })
		}, "team-a"},
		"Secret deleted": {func(f fixture) {
			must(f.t, f.api.CoreV1().Secrets("team-a").Delete(f.t.Context(), name, metav1.DeleteOptions{}))
		}, "team-a"},
		"Secret labelled otherwise": {func(f fixture) {
			f.world.change("team-a", func(s *corev1.Secret) { s.Labels[kube.Owner] = "another-one" })
		}, "team-a"},
		"Secret given away": {func(f fixture) {
			f.world.change("team-a", func(s *corev1.Secret) { s.Annotations = map[string]string{kube.Adopt: "true"} })
		}, "team-a"},
		"Secret annotated": {func(f fixture) {
			f.world.change("team-a", func(s *corev1.Secret) { s.Annotations = map[string]string{"theirs": "x"} })
		}, nothing},
		"Secret elsewhere": {func(f fixture) {
			_, err := f.api.CoreV1().Secrets("other").Create(f.t.Context(), pullSecret("other", host, login("u", "p")), metav1.CreateOptions{})
			must(f.t, err)
		}, nothing},
		"namespace comes": {func(f fixture) {
			_, err := f.api.CoreV1().Namespaces().Create(f.t.Context(), namespace("team-new"), metav1.CreateOptions{})
			must(f.t, err)
		}, "team-new"},
		"namespace elsewhere comes": {func(f fixture) {
			_, err := f.api.CoreV1().Namespaces().Create(f.t.Context(), namespace("new"), metav1.CreateOptions{})
			must(f.t, err)
		}, nothing},
		"namespace opts out": {func(f fixture) {
			update(f, namespace("team-a", func(n *corev1.Namespace) { n.Annotations[kube.Exclude] = "true" }))
		}, all},
		"namespace opts in": {func(f fixture) { update(f, namespace("team-out")) }, "team-out"},
		"namespace goes": {func(f fixture) {
			must(f.t, f.api.CoreV1().Namespaces().Delete(f.t.Context(), "team-a", metav1.DeleteOptions{}))
		}, all},
		"namespace labelled": {func(f fixture) {
			update(f, namespace("team-a", func(n *corev1.Namespace) { n.Labels["x"] = "y" }))
		}, nothing},
		"account comes": {func(f fixture) {
			_, err := f.api.CoreV1().ServiceAccounts("team-a").Create(f.t.Context(), account("team-a", "new"), metav1.CreateOptions{})
			must(f.t, err)
		}, "team-a"},
		"account loses it": {func(f fixture) { update(f, account("team-a", "default")) }, "team-a"},
		"account opts out": {func(f fixture) {
			a := account("team-a", "default", name)
			a.Annotations[kube.Exclude] = "true"
			update(f, a)
		}, "team-a"},
		"account annotated": {func(f fixture) {
			a := account("team-a", "default", name)
			a.Annotations["theirs"] = "x"
			update(f, a)
		}, nothing},
		"account goes": {func(f fixture) {
			must(f.t, f.api.CoreV1().ServiceAccounts("team-a").Delete(f.t.Context(), "default", metav1.DeleteOptions{}))
		}, nothing},
		"workload has rolled": {func(f fixture) {
			d := f.deployment("team-a", "rolling")
			ended(d)
			update(f, d)
		}, all},
		"workload is resumed": {func(f fixture) {
			d := f.deployment("team-a", "paused")
			d.Spec.Paused = false
			update(f, d)
		}, "team-a"},
		"workload opts in": {func(f fixture) {
			d := f.deployment("team-a", "out")
			d.Annotations = nil
			update(f, d)
		}, "team-a"},
		"workload is scaled": {func(f fixture) {
			d := f.deployment("team-a", "out")
			d.Status.Replicas = 7
			update(f, d)
		}, nothing},
		"pod waits": {func(f fixture) { update(f, stuckPod("well", "default", image)) }, "team-a"},
		"pod waits on": {func(f fixture) {
			update(f, stuckPod("stuck", "default", image, func(p *corev1.Pod) { wait(p, "main", "ErrImagePull") }))
		}, nothing},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			change := func(c *secrets.Config) {
				c.Evict, c.ServiceAccounts = true, []string{"*"}
				restarting(1, "deployment/*")(c)
			}
			w := newWorld(t, change, namespace("team-a"), namespace("team-z"), namespace("other"), ours(), account("team-a", "default", name),
				namespace("team-out", func(n *corev1.Namespace) { n.Annotations[kube.Exclude] = "true" }),
				deployment("team-a", "rolling", func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 0 }),
				deployment("team-a", "paused", func(d *appsv1.Deployment) { d.Spec.Paused = true }),
				deployment("team-a", "out", func(d *appsv1.Deployment) { d.Annotations[kube.Exclude], d.Status.UpdatedReplicas = "true", 0 }),
				stuckPod("well", "default", image, func(p *corev1.Pod) { p.Status = corev1.PodStatus{} }), stuckPod("stuck", "default", image))
			calls := w.watch()
			c.change(fixture{w, t})
			if c.want != nothing {
				w.told(calls, c.want)
			}
			// Each mirror has come past the change when it tells of this.
			_, err := w.api.CoreV1().Secrets("team-z").Create(t.Context(), pullSecret("team-z", host, login("u", "p")), metav1.CreateOptions{})
			must(t, err)
			w.told(calls, "team-z")
			_, err = w.api.CoreV1().ServiceAccounts("team-z").Create(t.Context(), account("team-z", "last"), metav1.CreateOptions{})
			must(t, err)
			w.told(calls, "team-z")
			_, err = w.api.CoreV1().Pods("team-z").Create(t.Context(), stuckPod("last", "last", image, func(p *corev1.Pod) { p.Namespace = "team-z" }), metav1.CreateOptions{})
			must(t, err)
			w.told(calls, "team-z")
			_, err = w.api.AppsV1().Deployments("team-z").Create(t.Context(), deployment("team-z", "last"), metav1.CreateOptions{})
			must(t, err)
			w.told(calls, "team-z")
			_, err = w.api.CoreV1().Namespaces().Create(t.Context(), namespace("team-last"), metav1.CreateOptions{})
			must(t, err)
			w.told(calls, "team-last")
		})
	}
}

// TestWatchTellsInDoubt whether a namespace is chosen: it may not be had by
// watching, nor by asking.
func TestWatchTellsInDoubt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil, namespace("team-a"))
	w.api.PrependReactor("list", "namespaces", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(corev1.Resource("namespaces"), "", errors.New("no"))
	})
	w.SetPatience(10 * time.Millisecond)
	calls := w.watch()
	_, err := w.api.CoreV1().Secrets("team-a").Create(context.Background(), pullSecret("team-a", host, login("u", "p")), metav1.CreateOptions{})
	must(t, err)
	w.told(calls, "team-a")
}
