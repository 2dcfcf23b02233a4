package pods_test

import (
	"context"
	"fmt"
	goruntime "runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/testkit/fakekube"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/pods"
)

// watched starts a watch of the world, and returns its calls once it knows all.
func (w *world) watched() (calls <-chan string) {
	w.t.Helper()
	told := make(chan string, 100)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- w.Watch(ctx, func(places ...credential.Place) {
			text := "all"
			if len(places) > 0 {
				text = strings.Trim(fmt.Sprint(places), "[]")
			}
			told <- text
		})
	}()
	w.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("Watch ends with %v", err)
			}
		case <-time.After(10 * time.Second):
			w.t.Error("Watch does not end with its context")
		}
	})
	w.api.Watched("pods", 1)
	w.tells(told, "all")
	return told
}

// tells waits for calls, and fails if there are others before the last.
func (w *world) tells(calls <-chan string, want ...string) {
	w.t.Helper()
	var got []string
	for range want {
		select {
		case call := <-calls:
			got = append(got, call)
		case <-time.After(10 * time.Second):
			w.t.Fatalf("told %v, want %v", got, want)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fakekube.NewExecutor(t), nil, runner("ci", "runner-0", "c"), runner("ci", "runner-9", "c"))
	calls := w.watched()
	create := func(pod *corev1.Pod) {
		t.Helper()
		_, err := w.api.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
		must(t, err)
	}
	remove := func(name string) {
		t.Helper()
		must(t, w.api.CoreV1().Pods("ci").Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
	// marker is a pod that comes and is told of: all before it has been told.
	markers := 0
	marker := func() {
		t.Helper()
		markers++
		create(runner("ci", fmt.Sprint("marker-", markers), "c"))
		w.tells(calls, fmt.Sprintf("ci/marker-%d/c", markers))
	}

	for _, step := range []struct {
		name   string
		change func(*corev1.Pod)
		want   []string
	}{
		{"readiness", func(pod *corev1.Pod) { pod.Status.ContainerStatuses[0].Ready = true }, nil},
		{"conditions", func(pod *corev1.Pod) { pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady}} }, nil},
		{"an annotation", annotated("x", "y"), nil},
		{"a label", func(pod *corev1.Pod) { pod.Labels = map[string]string{"app": "runner", "x": "y"} }, nil},
		{"another run", state(running("c", "containerd://2")), []string{"ci/runner-0/c"}},
		{"a crash", state(waiting("c")), nil},
		{"stuck on an image then", state(stuck("c", 1)), nil},
		{"another crash", func(pod *corev1.Pod) { pod.Status.ContainerStatuses[0].RestartCount++ }, nil},
		{"a run after a crash", state(running("c", "containerd://3")), []string{"ci/runner-0/c"}},
		{"left out", annotated(kube.Exclude, "true"), []string{"all"}},
		{"a restart while left out", state(running("c", "containerd://4")), nil},
		{"let in", annotated(kube.Exclude, "false"), []string{"ci/runner-0/c"}},
		{"a crash before the end", state(waiting("c")), nil},
		{"the end of it", terminating, []string{"all"}},
	} {
		w.update(step.change)
		w.tells(calls, step.want...)
		marker()
		if t.Failed() {
			t.Fatalf("at %s", step.name)
		}
	}
	remove("runner-0")
	marker() // its end was told of before
	remove("runner-9")
	w.tells(calls, "all")
	create(with(runner("ci", "runner-0", "c"), state(creating("c")), phase(corev1.PodPending)))
	marker()
	w.update(state(running("c", "containerd://5")), phase(corev1.PodRunning))
	w.tells(calls, "ci/runner-0/c")
	create(runner("ci", "unclear", "a", "b"))
	w.tells(calls, "ci/unclear")
}

// TestWatchedIsCheap counts requests: what is watched is not asked for.
func TestWatchedIsCheap(t *testing.T) {
	t.Parallel()
	w, _ := one(t, nil)
	calls := w.watched()
	w.api.ClearActions()
	for range 10 {
		if _, err := w.Places(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Held(t.Context(), at, nil); err != nil {
			t.Fatal(err)
		}
		must(t, w.Deliver(t.Context(), at, logins{"h": login("u", time.Now().String())}))
	}
	for _, action := range w.api.Actions() {
		if action.GetResource().Resource != "events" {
			t.Errorf("there was a request: %s %s", action.GetVerb(), action.GetResource().Resource)
		}
	}
	select {
	case call := <-calls:
		t.Errorf("a delivery is told of as a change of %s", call)
	default:
	}
	// What the watch knows to be gone is not executed in.
	must(t, w.api.CoreV1().Pods("ci").Delete(t.Context(), "runner-0", metav1.DeleteOptions{}))
	w.tells(calls, "all")
	before := w.executor.Count()
	w.fails(failure{problem.NotFound, "place is gone", "", true})
	if w.executor.Count() != before {
		t.Error("there was an exec in what is gone")
	}
}

// TestReadingIsToldOfWhileWatching makes an Event of what is only read, when
// someone keeps at it.
func TestReadingIsToldOfWhileWatching(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil)
	write(t, file(home), "{")
	w.watched()
	if _, err := w.Held(t.Context(), at, nil); err == nil {
		t.Error("Held does not fail")
	}
	events := w.events()
	if len(events) != 1 || !strings.Contains(events[0], "Warning LoginNotDelivered Pod runner-0 spec.containers{act-runner}: "+file(home)) || !strings.Contains(events[0], "broken JSON at line 1") {
		t.Errorf("events are %q", events)
	}
}

// BenchmarkMirror tells what 5,000 pods cost in memory.
func BenchmarkMirror(b *testing.B) {
	const count = 5000
	var objects []runtime.Object
	for i := range count {
		objects = append(objects, with(runner("ci", fmt.Sprint("runner-", i), "c"), annotated("last-applied", strings.Repeat("x", 2000))))
	}
	for range b.N {
		w := newWorld(b, fakekube.NewExecutor(b), func(*pods.Config) {}, objects...)
		before := heap()
		w.watched()
		b.ReportMetric(float64(heap()-before)/count, "B/pod")
	}
}

func heap() uint64 {
	var stats goruntime.MemStats
	goruntime.GC()
	goruntime.GC()
	goruntime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
