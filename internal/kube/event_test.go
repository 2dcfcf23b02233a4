package kube_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/regkeeper/regkeeper/internal/kube"
)

var regarding = corev1.ObjectReference{APIVersion: "v1", Kind: "Secret", Namespace: "a", Name: "pull", UID: "uid"}

func newRecorder(t *testing.T, api *fake.Clientset) *kube.Recorder {
	t.Helper()
	r := kube.NewRecorder(api.CoreV1(), slog.New(slog.DiscardHandler))
	t.Cleanup(r.Close)
	return r
}

// made lists the Events that the cluster has.
func made(t *testing.T, api *fake.Clientset) (list []string) {
	t.Helper()
	found, err := api.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range found.Items {
		list = append(list, fmt.Sprintf("%d %s %s %s %s/%s: %s", e.Count, e.Type, e.Reason, e.InvolvedObject.Kind, e.Namespace, e.InvolvedObject.Name, e.Message))
	}
	slices.Sort(list)
	return list
}

func TestRecorderCountsRepeatsUp(t *testing.T) {
	t.Parallel()
	api := fake.NewClientset()
	r := newRecorder(t, api)
	for range 5 {
		r.Event(regarding, true, kube.NotDelivered, "it is %s", "not ours")
	}
	r.Event(regarding, false, kube.Adopted, "it is ours")
	r.Event(corev1.ObjectReference{Kind: "Node", Name: "n"}, false, kube.Delivered, "of no namespace")
	r.Close()
	want := []string{
		"1 Normal LoginAdopted Secret a/pull: it is ours",
		"1 Normal LoginDelivered Node default/n: of no namespace",
		"5 Warning LoginNotDelivered Secret a/pull: it is not ours",
	}
	if diff := cmp.Diff(want, made(t, api)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestRecorderEventGone: the cluster drops Events after an hour; one that
// repeats later is made anew.
func TestRecorderEventGone(t *testing.T) {
	t.Parallel()
	api := fake.NewClientset()
	r := newRecorder(t, api)
	r.Event(regarding, false, kube.Updated, "again")
	eventually(t, "the first", func() error {
		if len(made(t, api)) == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	found, err := api.CoreV1().Events("a").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := api.CoreV1().Events("a").Delete(t.Context(), found.Items[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	r.Event(regarding, false, kube.Updated, "again")
	r.Close()
	if diff := cmp.Diff([]string{"2 Normal LoginUpdated Secret a/pull: again"}, made(t, api)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// TestRecorderNeverBlocks, be the cluster as slow as it likes.
func TestRecorderNeverBlocks(t *testing.T) {
	t.Parallel()
	api := fake.NewClientset()
	release := make(chan struct{})
	var sent atomic.Int32
	api.PrependReactor("create", "events", func(action clienttesting.Action) (bool, runtime.Object, error) {
		<-release
		sent.Add(1)
		return true, action.(clienttesting.CreateAction).GetObject(), nil
	})
	r := newRecorder(t, api)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 5000 {
			r.Event(corev1.ObjectReference{Kind: "Secret", Namespace: "a", Name: fmt.Sprint("s", i)}, false, kube.Created, "made")
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("who tells of something waits for the cluster")
	}
	close(release)
	r.Close()
	// What waited was sent; what there was no room for is gone.
	if n := sent.Load(); n < 1000 || n > 1001 {
		t.Errorf("%d events, want 1000 that waited, and one on its way", n)
	}
}

func TestRecorderClose(t *testing.T) {
	t.Parallel()
	api := fake.NewClientset()
	r := newRecorder(t, api)
	for i := range 20 {
		r.Event(corev1.ObjectReference{Kind: "Secret", Namespace: "a", Name: fmt.Sprint("s", i)}, false, kube.Created, "made")
	}
	r.Close()
	if n := len(made(t, api)); n != 20 {
		t.Errorf("%d of 20 events after Close", n)
	}
	actions := len(api.Actions())
	for range 3000 {
		r.Event(regarding, false, kube.Created, "late")
	}
	r.Close()
	if n := len(api.Actions()); n != actions {
		t.Errorf("%d requests after Close", n-actions)
	}
	if slices.ContainsFunc(made(t, api), func(e string) bool { return strings.Contains(e, "late") }) {
		t.Error("an event was made after Close")
	}
	var none *kube.Recorder
	none.Event(regarding, false, kube.Created, "nobody hears")
	none.Close()
}

// TestRecorderRefused: an Event that is refused is asked for once, and those
// after it are made.
func TestRecorderRefused(t *testing.T) {
	t.Parallel()
	api := fake.NewClientset()
	var asked atomic.Int32
	api.PrependReactor("create", "events", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetNamespace() != "refused" {
			return false, nil, nil
		}
		asked.Add(1)
		return true, nil, apierrors.NewForbidden(corev1.Resource("events"), "", context.Canceled)
	})
	r := newRecorder(t, api)
	r.Event(corev1.ObjectReference{Kind: "Secret", Namespace: "refused", Name: "s"}, false, kube.Created, "no")
	r.Event(regarding, false, kube.Created, "yes")
	r.Close()
	if got := made(t, api); len(got) != 1 || asked.Load() != 1 {
		t.Errorf("%v, and %d tries", got, asked.Load())
	}
}
