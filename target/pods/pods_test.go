package pods_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/internal/testkit/fakekube"
	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/pods"
	"github.com/regkeeper/regkeeper/target/targettest"
)

type logins = map[credential.Host]credential.Login

func login(username, secret string) credential.Login {
	return credential.Login{Username: username, Secret: credential.NewSecret(secret)}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

var labels = map[string]string{"app": "runner"}

// runner is a pod in which the containers run.
func runner(namespace, name string, containers ...string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-of-" + name), Labels: labels},
		Spec:       corev1.PodSpec{NodeName: "node-7"},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
	for _, container := range containers {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: container})
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, running(container, "containerd://"+name+"-"+container+"-1"))
	}
	return pod
}

func running(container, id string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: container, ContainerID: id, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
}

func waiting(container string) corev1.ContainerStatus {
	return corev1.ContainerStatus{
		Name: container, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
		LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}},
	}
}

// world is a target with all around it.
type world struct {
	*pods.Target
	t        testing.TB
	api      *fakekube.API
	executor *fakekube.Executor
	recorder *kube.Recorder
}

func newWorld(t testing.TB, executor *fakekube.Executor, change func(*pods.Config), objects ...runtime.Object) *world {
	t.Helper()
	api := fakekube.NewAPI(t, objects...)
	w := &world{t: t, api: api, executor: executor, recorder: kube.NewRecorder(api.CoreV1(), slog.New(slog.DiscardHandler))}
	t.Cleanup(w.recorder.Close)
	config := pods.Config{
		Cluster:  &kube.Cluster{Core: api.Core, Executor: executor, Recorder: w.recorder},
		Selector: "app=runner",
	}
	if change != nil {
		change(&config)
	}
	w.Target = pods.New(config)
	return w
}

// one is a world of one container, with its home.
func one(t testing.TB, change func(*pods.Config), changes ...func(*fakekube.Container)) (w *world, home string) {
	t.Helper()
	executor := fakekube.NewExecutor(t)
	home = executor.Add(first, "act-runner", changes...)
	return newWorld(t, executor, change, runner("ci", "runner-0", "act-runner")), home
}

var first = types.NamespacedName{Namespace: "ci", Name: "runner-0"}

const at credential.Place = "ci/runner-0/act-runner"

func file(home string) string { return filepath.Join(home, ".docker", "config.json") }

func write(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path+"123", []byte(text), 0o600), os.Rename(path+"123", path))
}

func read(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	return string(text)
}

// put writes as the docker CLI does: a new file takes the place of the old.
func put(t testing.TB, path string, host credential.Host, l credential.Login) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	doc, err := dockerconfig.Parse(text)
	must(t, err)
	doc.Set(host, l)
	write(t, path, string(doc.Bytes()))
}

// holds looks at the file itself.
func holds(t testing.TB, path string, want logins) {
	t.Helper()
	doc, err := dockerconfig.Parse([]byte(read(t, path)))
	must(t, err)
	for host, login := range want {
		if got, ok := doc.Login(host); !ok || !got.Equal(login) {
			t.Errorf("%s holds another login for %s", path, host)
		}
	}
}

// events are the Events made so far, and the last that can be.
func (w *world) events() (list []string) {
	w.t.Helper()
	w.recorder.Close()
	found, err := w.api.CoreV1().Events("").List(context.Background(), metav1.ListOptions{})
	must(w.t, err)
	for _, event := range found.Items {
		list = append(list, event.Type+" "+event.Reason+" "+event.InvolvedObject.Kind+" "+event.InvolvedObject.Name+" "+event.InvolvedObject.FieldPath+": "+event.Message)
	}
	slices.Sort(list)
	return list
}

var shells = map[string][]string{"sh": {"sh"}, "dash": {"dash"}, "bash": {"bash", "--posix"}, "busybox": {"busybox", "sh"}}

func eachShell(t *testing.T, f func(t *testing.T, shell []string)) {
	t.Helper()
	for name, shell := range shells {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(shell[0]); err != nil {
				leaveout.Out(t, "the script in "+name, "no "+shell[0]+" on this machine")
			}
			f(t, shell)
		})
	}
}

func TestTarget(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		t.Parallel()
		var w *world
		homes := map[credential.Place]string{}
		targettest.Run(t, targettest.Harness{
			New: func(t testing.TB) credential.Target {
				executor := fakekube.NewExecutor(t, shell...)
				var objects []runtime.Object
				for i := range 3 {
					pod := runner("ci", fmt.Sprint("runner-", i), "act-runner")
					home := executor.Add(types.NamespacedName{Namespace: "ci", Name: pod.Name}, "act-runner")
					homes[credential.Place("ci/"+pod.Name+"/act-runner")] = home
					objects = append(objects, pod)
				}
				w = newWorld(t, executor, nil, objects...)
				return w
			},
			Put: func(t testing.TB, place credential.Place, host credential.Host, l credential.Login) {
				put(t, file(homes[place]), host, l)
			},
			Raw: func(t testing.TB, place credential.Place) []byte {
				text, err := os.ReadFile(file(homes[place]))
				if err != nil {
					t.Error(err)
				}
				return text
			},
			Whole: func(text []byte) error {
				_, err := dockerconfig.Parse(text)
				return err
			},
			Remove: func(t testing.TB, place credential.Place) {
				name := strings.Split(string(place), "/")[1]
				must(t, w.api.CoreV1().Pods("ci").Delete(t.Context(), name, metav1.DeleteOptions{}))
				w.executor.Remove(types.NamespacedName{Namespace: "ci", Name: name}, "act-runner")
			},
		})
	})
}

func with(pod *corev1.Pod, changes ...func(*corev1.Pod)) *corev1.Pod {
	for _, change := range changes {
		change(pod)
	}
	return pod
}

func annotated(name, value string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Annotations = map[string]string{name: value} }
}

func terminating(pod *corev1.Pod) {
	now := metav1.Now()
	pod.DeletionTimestamp, pod.Finalizers = &now, []string{"x/y"}
}

// sidecar adds an init container that keeps running.
func sidecar(name string) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		always := corev1.ContainerRestartPolicyAlways
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: name, RestartPolicy: &always})
		pod.Status.InitContainerStatuses = append(pod.Status.InitContainerStatuses, running(name, "containerd://"+name))
	}
}

func phase(phase corev1.PodPhase) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Status.Phase = phase }
}

func state(statuses ...corev1.ContainerStatus) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Status.ContainerStatuses = statuses }
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	plainInit := func(pod *corev1.Pod) {
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, corev1.Container{Name: "prepare"})
		pod.Status.InitContainerStatuses = append(pod.Status.InitContainerStatuses, running("prepare", "x"))
	}
	for _, c := range []struct {
		name      string
		container string
		pod       *corev1.Pod
		want      []credential.Place
		err       string
	}{
		{"the only one", "", runner("ci", "r", "a"), []credential.Place{"ci/r/a"}, ""},
		{"one of several", "b", runner("ci", "r", "a", "b"), []credential.Place{"ci/r/b"}, ""},
		{"annotated", "", with(runner("ci", "r", "a", "b"), annotated("kubectl.kubernetes.io/default-container", "b")), []credential.Place{"ci/r/b"}, ""},
		{"annotated, and set", "a", with(runner("ci", "r", "a", "b"), annotated("kubectl.kubernetes.io/default-container", "b")), []credential.Place{"ci/r/a"}, ""},
		{"annotated with what is not there", "", with(runner("ci", "r", "a"), annotated("kubectl.kubernetes.io/default-container", "x")), []credential.Place{"ci/r/a"}, ""},
		{"several", "", runner("ci", "r", "a", "b"), []credential.Place{"ci/r"}, "pod ci/r has several containers: a, b"},
		{"several, none started", "", with(runner("ci", "r", "a", "b"), phase(corev1.PodPending)), nil, ""},
		{"another one", "c", with(runner("ci", "r", "a", "b"), sidecar("s")), []credential.Place{"ci/r/c"}, "pod ci/r has no container c, but a, b, s"},
		{"sidecar beside the only one", "", with(runner("ci", "r", "a"), sidecar("s")), []credential.Place{"ci/r/a"}, ""},
		{"sidecar", "s", with(runner("ci", "r", "a"), sidecar("s")), []credential.Place{"ci/r/s"}, ""},
		{"sidecar of a pod that starts", "s", with(runner("ci", "r", "a"), sidecar("s"), phase(corev1.PodPending)), []credential.Place{"ci/r/s"}, ""},
		{"init container", "prepare", with(runner("ci", "r", "a"), plainInit), []credential.Place{"ci/r/prepare"}, "pod ci/r has no container prepare, but a"},
		{"not started yet", "", with(runner("ci", "r", "a"), state(creating("a"))), nil, ""},
		{"stuck on its first image", "", with(runner("ci", "r", "a"), state(stuck("a", 0))), nil, ""},
		{"ended, and never again", "", with(runner("ci", "r", "a"), policy(corev1.RestartPolicyNever), state(ended("a", 1))), nil, ""},
		{"ended well", "", with(runner("ci", "r", "a"), policy(corev1.RestartPolicyOnFailure), state(ended("a", 0))), nil, ""},
		{"ended, and never again by itself", "", with(runner("ci", "r", "a"), own("Never"), state(ended("a", 1))), nil, ""},
		{"crashed on its way out", "", with(runner("ci", "r", "a"), state(waiting("a")), terminating), nil, ""},
		{"crashed and left out", "", with(runner("ci", "r", "a"), state(waiting("a")), annotated(kube.Exclude, "true")), nil, ""},
		{"crashed in a failed pod", "", with(runner("ci", "r", "a"), state(waiting("a")), phase(corev1.PodFailed)), nil, ""},
		{"no status", "", with(runner("ci", "r", "a"), state()), nil, ""},
		{"terminating", "", with(runner("ci", "r", "a"), terminating), nil, ""},
		{"failed", "", with(runner("ci", "r", "a"), phase(corev1.PodFailed)), nil, ""},
		{"left out", "", with(runner("ci", "r", "a"), annotated(kube.Exclude, "true")), nil, ""},
		{"not left out", "", with(runner("ci", "r", "a"), annotated(kube.Exclude, "false")), []credential.Place{"ci/r/a"}, ""},
		{"not selected", "", with(runner("ci", "r", "a"), func(pod *corev1.Pod) { pod.Labels = nil }), nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			executor := fakekube.NewExecutor(t)
			w := newWorld(t, executor, func(config *pods.Config) { config.Container = c.container }, c.pod)
			places, err := w.Places(t.Context())
			must(t, err)
			if diff := cmp.Diff(c.want, places); diff != "" {
				t.Errorf("places (-want +got):\n%s", diff)
			}
			if c.err == "" {
				return
			}
			_, err = w.Held(t.Context(), places[0], nil)
			if fmt.Sprint(err) != c.err || problem.KindOf(err) != problem.Config || !strings.Contains(problem.HintOf(err), "container:") {
				t.Errorf("Held says %v of kind %s with hint %q, want %s", err, problem.KindOf(err), problem.HintOf(err), c.err)
			}
			if err := w.Deliver(t.Context(), places[0], logins{"h": login("u", "p")}); fmt.Sprint(err) != c.err {
				t.Errorf("Deliver says %v", err)
			}
			if executor.Count() != 0 {
				t.Error("something was executed")
			}
		})
	}
}

func creating(container string) corev1.ContainerStatus {
	return corev1.ContainerStatus{Name: container, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}}
}

// stuck waits for its image after that many restarts.
func stuck(container string, restarts int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{
		Name: container, RestartCount: restarts, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff"}},
	}
}

func ended(container string, code int32) corev1.ContainerStatus {
	return corev1.ContainerStatus{
		Name: container, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: "OOMKilled"}},
	}
}

func policy(policy corev1.RestartPolicy) func(*corev1.Pod) {
	return func(pod *corev1.Pod) { pod.Spec.RestartPolicy = policy }
}

// own gives a pod's containers a restart policy of their own.
func own(policy corev1.ContainerRestartPolicy) func(*corev1.Pod) {
	return func(pod *corev1.Pod) {
		for i := range pod.Spec.Containers {
			pod.Spec.Containers[i].RestartPolicy = &policy
		}
	}
}

// TestWaitsToRunAgain: a login may lie where a container ran before.
func TestWaitsToRunAgain(t *testing.T) {
	t.Parallel()
	again := func(reason string) failure {
		return failure{problem.Unreachable, "container act-runner of pod ci/runner-0 waits to run again: " + reason, "when the container runs", false}
	}
	const c = "act-runner"
	for name, change := range map[string]struct {
		changes []func(*corev1.Pod)
		reason  string
	}{
		"crashed":                     {[]func(*corev1.Pod){state(waiting(c))}, "CrashLoopBackOff"},
		"crashed, of a pod that asks": {[]func(*corev1.Pod){state(waiting(c)), policy(corev1.RestartPolicyOnFailure)}, "CrashLoopBackOff"},
		"stuck on an image":           {[]func(*corev1.Pod){state(stuck(c, 1))}, "ImagePullBackOff"},
		"just ended":                  {[]func(*corev1.Pod){state(ended(c, 0))}, "OOMKilled"},
		"just ended, and is to":       {[]func(*corev1.Pod){state(ended(c, 1)), policy(corev1.RestartPolicyOnFailure)}, "OOMKilled"},
		"just ended, its own policy":  {[]func(*corev1.Pod){state(ended(c, 1)), policy(corev1.RestartPolicyNever), own("OnFailure")}, "OOMKilled"},
		"just ended, rules": {[]func(*corev1.Pod){state(ended(c, 1)), policy(corev1.RestartPolicyNever), func(pod *corev1.Pod) {
			pod.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart}}
		}}, "OOMKilled"},
		"no reason": {[]func(*corev1.Pod){state(corev1.ContainerStatus{Name: c, RestartCount: 3})}, "not started yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, home := one(t, nil)
			must(t, w.Deliver(t.Context(), at, logins{"h": login("u", "p")}))
			before := w.executor.Count()
			w.update(change.changes...)
			places, err := w.Places(t.Context())
			if must(t, err); !slices.Equal(places, []credential.Place{at}) {
				t.Errorf("places: %v", places)
			}
			w.fails(again(change.reason))
			_, err = w.Held(t.Context(), at, []credential.Host{"h"})
			w.failed(err, again(change.reason))
			if w.executor.Count() != before {
				t.Error("there was an exec in what does not run")
			}
			w.update(state(running(c, "containerd://2")))
			_, err = w.Places(t.Context())
			must(t, err, w.Deliver(t.Context(), at, logins{"h": login("u", "p2")}))
			holds(t, file(home), logins{"h": login("u", "p2")})

			// It stops while it is looked at.
			w.executor.SetFaults(fakekube.Faults{During: func(kube.Command) {
				w.update(change.changes...)
				w.executor.Remove(first, c)
			}})
			w.fails(again(change.reason))
		})
	}
}

func TestPlacesOfNamespaces(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fakekube.NewExecutor(t), func(config *pods.Config) { config.Namespaces = []string{"ci", "build"} },
		runner("ci", "b", "x"), runner("ci", "a", "x"), runner("build", "c", "x"), runner("other", "d", "x"))
	places, err := w.Places(t.Context())
	must(t, err)
	if diff := cmp.Diff([]credential.Place{"build/c/x", "ci/a/x", "ci/b/x"}, places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
}

// TestExecs counts: each exec costs the cluster about 150 ms.
func TestExecs(t *testing.T) {
	t.Parallel()
	w, home := one(t, nil)
	hosts := []credential.Host{"h"}
	step := func(what string, want int, f func() error) {
		t.Helper()
		before := w.executor.Count()
		must(t, f())
		if got := w.executor.Count() - before; got != want {
			t.Errorf("%s takes %d execs, want %d", what, got, want)
		}
	}
	held := func() error { _, err := w.Held(t.Context(), at, hosts); return err }
	confirmed := func(secret string) func() error {
		return func() error {
			held, err := w.DeliverConfirmed(t.Context(), at, logins{"h": login("u", secret)}, hosts)
			if err == nil && !held["h"].Equal(login("u", secret)) {
				t.Errorf("what was delivered is not what is confirmed")
			}
			return err
		}
	}
	step("a look", 1, held)
	step("a delivery after a look", 1, confirmed("a"))
	step("a delivery without a look", 2, confirmed("b"))
	step("a delivery of what is there", 1, confirmed("b"))
	step("a look", 1, held)
	step("a delivery of what is there, after a look", 1, confirmed("b"))
	step("a look", 1, held)
	put(t, file(home), "other", login("docker", "own"))
	step("a delivery after a look that is past", 2, confirmed("c"))
	step("a look", 1, held)
	write(t, file(home), "{}")
	step("a delivery of what was there at a look that is past", 2, confirmed("c"))
	put(t, file(home), "other", login("docker", "own"))
	step("a look", 1, held)
	must(t, os.Remove(file(home)))
	step("a delivery to what went after a look", 2, confirmed("d"))
	holds(t, file(home), logins{"h": login("u", "d")})
}

// TestCatLosesInput shows that the fake has the fault that the script is made
// for.
func TestCatLosesInput(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		t.Parallel()
		executor := fakekube.NewExecutor(t, shell...)
		home := executor.Add(first, "c")
		executor.SetFaults(fakekube.Faults{LateStdin: 2 * time.Second})
		for script, want := range map[string]string{"exec cat > f": "", "cat > f; echo ok": "text"} {
			output, err := executor.Exec(t.Context(), kube.Command{Pod: first, Container: "c", Argv: []string{"sh", "-c", script}, Stdin: []byte("text")})
			must(t, err)
			if got := read(t, filepath.Join(home, "f")); output.Code != 0 || got != want {
				t.Errorf("%s leaves %q with exit code %d, want %q", script, got, output.Code, want)
			}
		}
	})
}

var deliveries = flag.Int("deliveries", 400, "how often TestNothingIsLost delivers")

// TestNothingIsLost delivers through an executor that loses what it can.
func TestNothingIsLost(t *testing.T) {
	t.Parallel()
	const places = 8
	shell := []string{"sh"}
	if _, err := exec.LookPath("busybox"); err == nil {
		shell = []string{"busybox", "sh"} // takes a third of the time
	}
	executor := fakekube.NewExecutor(t, shell...)
	var objects []runtime.Object
	var homes []string
	for i := range places {
		pod := runner("ci", fmt.Sprint("runner-", i), "c")
		objects = append(objects, pod)
		homes = append(homes, executor.Add(types.NamespacedName{Namespace: "ci", Name: pod.Name}, "c"))
	}
	w := newWorld(t, executor, nil, objects...)
	executor.SetFaults(fakekube.Faults{LoseStdin: 0.15, CutStdout: 0.05})
	var all sync.WaitGroup
	for i, home := range homes {
		all.Go(func() {
			place := credential.Place(fmt.Sprint("ci/runner-", i, "/c"))
			for n := range *deliveries / places {
				want := login("u", fmt.Sprint("secret-", n))
				held, err := w.DeliverConfirmed(t.Context(), place, logins{"h": want}, []credential.Host{"h"})
				if err != nil || !held["h"].Equal(want) {
					t.Errorf("delivery %d to %s: confirmed is another login, %v", n, place, err)
				}
				holds(t, file(home), logins{"h": want})
			}
		})
	}
	all.Wait()
	t.Logf("%d deliveries by %d execs", *deliveries, executor.Count())
}

// TestLateInput has standard input arrive late, as long as there is an output.
func TestLateInput(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		executor := fakekube.NewExecutor(t, shell...)
		home := executor.Add(first, "act-runner")
		w := newWorld(t, executor, nil, runner("ci", "runner-0", "act-runner"))
		executor.SetFaults(fakekube.Faults{LateStdin: 50 * time.Millisecond})
		for n := range 5 {
			want := logins{"h": login("u", fmt.Sprint("secret-", n))}
			must(t, w.Deliver(t.Context(), at, want))
			holds(t, file(home), want)
		}
		if got := executor.Count(); got != 10 {
			t.Errorf("5 deliveries took %d execs", got)
		}
	})
}

// TestAnotherWriter has another program write at each time that can be told
// apart: between the execs, and while one runs.
func TestAnotherWriter(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		executor := fakekube.NewExecutor(t, shell...)
		home := executor.Add(first, "act-runner")
		w := newWorld(t, executor, nil, runner("ci", "runner-0", "act-runner"))
		want := logins{}
		n := 0
		docker := func() {
			host := credential.Host(fmt.Sprintf("h%d.example", n))
			want[host] = login("docker", fmt.Sprint("own-", n))
			put(t, file(home), host, want[host])
			n++
		}
		for round := range 5 {
			meanwhile := 2
			executor.SetFaults(fakekube.Faults{During: func(command kube.Command) {
				if command.Stdin != nil && meanwhile > 0 {
					meanwhile--
					docker()
				}
			}})
			if _, err := w.Held(t.Context(), at, nil); err != nil {
				t.Fatal(err)
			}
			docker()
			want["ours"] = login("u", fmt.Sprint("secret-", round))
			held, err := w.DeliverConfirmed(t.Context(), at, logins{"ours": want["ours"]}, []credential.Host{"ours", "h0.example"})
			if err != nil || !held["ours"].Equal(want["ours"]) || !held["h0.example"].Equal(want["h0.example"]) {
				t.Fatalf("confirmed is another login, %v", err)
			}
			holds(t, file(home), want)
		}
		// One that never stops is told of.
		executor.SetFaults(fakekube.Faults{During: func(kube.Command) { docker() }})
		err := w.Deliver(t.Context(), at, logins{"ours": login("u", "last")})
		if problem.KindOf(err) != problem.Busy || problem.HintOf(err) == "" {
			t.Errorf("against a writer that never stops: %v of kind %s", err, problem.KindOf(err))
		}
		holds(t, file(home), want)
		left, err := filepath.Glob(filepath.Join(filepath.Dir(file(home)), ".*"))
		if must(t, err); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

func TestPath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		path string // of the configuration; $H is the home folder
		env  string
		have func(t *testing.T, home string)
		want string // below the home folder
	}{
		{name: "home", want: ".docker/config.json"},
		{name: "DOCKER_CONFIG", env: "DOCKER_CONFIG=$H/x y/cfg", want: "x y/cfg/config.json"},
		{name: "DOCKER_CONFIG with a slash", env: "DOCKER_CONFIG=$H/cfg/", want: "cfg/config.json"},
		{name: "empty DOCKER_CONFIG", env: "DOCKER_CONFIG=", want: ".docker/config.json"},
		{name: "set", path: "$H/a b/*/auth.json", env: "DOCKER_CONFIG=$H/cfg", want: "a b/*/auth.json"},
		{name: "set below home", path: "~/a/auth.json", want: "a/auth.json"},
		{name: "relative to the working folder", env: "DOCKER_CONFIG=cfg", want: "cfg/config.json"},
		{name: "link", want: "real/there.json", have: func(t *testing.T, home string) {
			write(t, home+"/real/there.json", `{"x":1}`)
			must(t, os.Mkdir(home+"/.docker", 0o700), os.Symlink("../real/link.json", home+"/.docker/config.json"),
				os.Symlink(home+"/real/there.json", home+"/real/link.json"))
		}},
		{name: "link to nowhere", want: "real/there.json", have: func(t *testing.T, home string) {
			must(t, os.Mkdir(home+"/.docker", 0o700), os.Symlink("../real/there.json", home+"/.docker/config.json"))
		}},
		{name: "folder is a link", want: "real/config.json", have: func(t *testing.T, home string) {
			must(t, os.Mkdir(home+"/real", 0o700), os.Symlink("real", home+"/.docker"))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachShell(t, func(t *testing.T, shell []string) {
				executor := fakekube.NewExecutor(t, shell...)
				home := executor.Add(first, "act-runner", func(container *fakekube.Container) {
					container.Env = append(container.Env, strings.ReplaceAll(c.env, "$H", container.Home))
				})
				if c.have != nil {
					c.have(t, home)
				}
				w := newWorld(t, executor, func(config *pods.Config) { config.Path = strings.ReplaceAll(c.path, "$H", home) }, runner("ci", "runner-0", "act-runner"))
				want := logins{"h": login("u", "p")}
				must(t, w.Deliver(t.Context(), at, want))
				must(t, w.Deliver(t.Context(), at, logins{"h2": login("u", "p")}))
				want["h2"] = login("u", "p")
				holds(t, filepath.Join(home, c.want), want)
				if link := file(home); strings.HasPrefix(c.name, "link") {
					if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
						t.Errorf("the link is none any more: %v", err)
					}
				}
			})
		})
	}
}

// TestHomeOfUser has no HOME, as it may be with a container's user.
func TestHomeOfUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		leaveout.Out(t, "users of containers", "needs root")
	}
	eachShell(t, func(t *testing.T, shell []string) {
		executor := fakekube.NewExecutor(t, shell...)
		w := newWorld(t, executor, nil, runner("ci", "runner-0", "act-runner"))
		for _, c := range []struct {
			uid  uint32
			want string
			kind problem.Kind
		}{
			{1, "/usr/sbin/.docker/config.json of container act-runner of pod ci/runner-0", problem.Storage}, // daemon
			{54321, "its user 54321 is not in /etc/passwd", problem.Config},
		} {
			executor.Add(first, "act-runner", func(container *fakekube.Container) {
				container.Env, container.UID = []string{"PATH=" + os.Getenv("PATH")}, c.uid
			})
			err := w.Deliver(t.Context(), at, logins{"h": login("u", "p")})
			if !strings.Contains(fmt.Sprint(err), c.want) || problem.KindOf(err) != c.kind {
				t.Errorf("user %d: %v of kind %s, want %s", c.uid, err, problem.KindOf(err), c.want)
			}
		}
	})
}

func TestOwnerAndMode(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		leaveout.Out(t, "owners of files in containers", "needs root")
	}
	// The user's number is found out without id, too.
	stubs := t.TempDir()
	must(t, os.WriteFile(filepath.Join(stubs, "id"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	eachShell(t, func(t *testing.T, shell []string) {
		executor := fakekube.NewExecutor(t, shell...)
		home := executor.Add(first, "act-runner", func(c *fakekube.Container) {
			c.Env = []string{"HOME=" + c.Home, "PATH=" + stubs + ":" + os.Getenv("PATH")}
		})
		w := newWorld(t, executor, func(c *pods.Config) { c.Path = "~/a/b/config.json" }, runner("ci", "runner-0", "act-runner"))
		must(t, os.Chown(home, 1234, 1235))
		path := filepath.Join(home, "a/b/config.json")
		check := func(path string, uid, gid int, mode fs.FileMode) {
			t.Helper()
			info, err := os.Stat(path)
			must(t, err)
			if gotUID, gotGID := owner(info); gotUID != uid || gotGID != gid || info.Mode().Perm() != mode {
				t.Errorf("%s is of %d:%d, mode %v, want %d:%d, %v", path, gotUID, gotGID, info.Mode(), uid, gid, mode)
			}
		}
		must(t, w.Deliver(t.Context(), at, logins{"h": login("u", "p")}))
		check(path, 1234, 1235, 0o600)
		check(filepath.Dir(path), 1234, 1235, 0o700)
		check(filepath.Dir(filepath.Dir(path)), 1234, 1235, 0o700)
		must(t, os.Chown(path, 2345, 2346), os.Chmod(path, 0o644))
		must(t, w.Deliver(t.Context(), at, logins{"h": login("u", "p2")}))
		check(path, 2345, 2346, 0o600)
	})
}

func TestLeftoversAreRemoved(t *testing.T) {
	t.Parallel()
	eachShell(t, func(t *testing.T, shell []string) {
		executor := fakekube.NewExecutor(t, shell...)
		home := executor.Add(first, "act-runner")
		w := newWorld(t, executor, nil, runner("ci", "runner-0", "act-runner"))
		folder := filepath.Dir(file(home))
		dead, alive := folder+"/.config.json.regkeeper-4194305-abc", fmt.Sprintf("%s/.config.json.regkeeper-%d-abc", folder, os.Getpid())
		other := folder + "/.config.json.other-4194305-abc"
		for _, path := range []string{dead, alive, other} {
			write(t, path, "secret")
		}
		must(t, w.Deliver(t.Context(), at, logins{"h": login("u", "p")}))
		left, err := filepath.Glob(folder + "/.*")
		must(t, err)
		want := []string{alive, other}
		slices.Sort(want)
		if diff := cmp.Diff(want, left); diff != "" {
			t.Errorf("left (-want +got):\n%s", diff)
		}
	})
}

// TestChecksums has the container lack sha256sum.
func TestChecksums(t *testing.T) {
	t.Parallel()
	stubs := t.TempDir()
	must(t, os.WriteFile(filepath.Join(stubs, "sha256sum"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	w, home := one(t, nil, func(c *fakekube.Container) {
		c.Env = []string{"HOME=" + c.Home, "PATH=" + stubs + ":" + os.Getenv("PATH")}
	})
	want := logins{}
	for _, n := range []int{0, 1, 255, 300, 70000} {
		want["h"] = login("u", strings.Repeat("p", n))
		want["h2"] = login("u2", "\xff\x00x")
		must(t, w.Deliver(t.Context(), at, want))
		holds(t, file(home), want)
	}
	must(t, os.WriteFile(filepath.Join(stubs, "cksum"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
	err := w.Deliver(t.Context(), at, logins{"h": login("u", "p")})
	if problem.KindOf(err) != problem.Config || !strings.Contains(fmt.Sprint(err), "lacks sha256sum") {
		t.Errorf("with no tool for checksums: %v", err)
	}
}

// TestMinimalImage has a container with busybox and nothing else: no /proc, no
// /etc/passwd, no /tmp.
func TestMinimalImage(t *testing.T) {
	t.Parallel()
	busybox, err := exec.LookPath("busybox")
	if err != nil || os.Geteuid() != 0 {
		leaveout.Out(t, "the script in a minimal image", "needs busybox, and root for chroot")
	}
	root := t.TempDir()
	paths := []string{busybox}
	if list, err := exec.CommandContext(t.Context(), "ldd", busybox).Output(); err == nil {
		for _, word := range strings.Fields(string(list)) {
			if strings.HasPrefix(word, "/") {
				paths = append(paths, word)
			}
		}
	}
	for _, path := range paths {
		to := filepath.Join(root, path)
		must(t, os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, []byte(read(t, path)), 0o755))
	}
	must(t, os.MkdirAll(root+"/bin", 0o755), os.Mkdir(root+"/dev", 0o755), os.WriteFile(root+"/dev/null", nil, 0o600))
	for _, tool := range []string{"sh", "cat", "wc", "mv", "rm", "mkdir", "chmod", "chown", "ls", "id", "readlink", "sha256sum"} {
		if to := root + "/bin/" + tool; to != filepath.Join(root, busybox) {
			must(t, os.Symlink(busybox, to))
		}
	}
	w, _ := one(t, nil, func(c *fakekube.Container) {
		c.Env, c.Prefix = []string{"HOME=/root"}, []string{"chroot", root}
	})
	for n := range 3 {
		want := logins{"h": login("u", fmt.Sprint("p", n))}
		must(t, w.Deliver(t.Context(), at, want))
		holds(t, root+"/root/.docker/config.json", want)
	}
}

// TestScriptIsShort keeps the request's address, which has the script, below
// what proxies take: 8 KiB with many.
func TestScriptIsShort(t *testing.T) {
	t.Parallel()
	w, _ := one(t, nil)
	w.executor.Keep()
	must(t, w.Deliver(t.Context(), at, logins{"h": login("u", "p")}))
	for _, command := range w.executor.Commands() {
		if n := len(url.Values{"command": command.Argv}.Encode()); n > 6500 {
			t.Errorf("the command takes %d bytes of the address", n)
		}
	}
}

// TestDifferentPlacesAtOnce has each exec take its time.
func TestDifferentPlacesAtOnce(t *testing.T) {
	t.Parallel()
	const places = 20
	executor := fakekube.NewExecutor(t)
	var objects []runtime.Object
	for i := range places {
		pod := runner("ci", fmt.Sprint("runner-", i), "c")
		objects = append(objects, pod)
		executor.Add(types.NamespacedName{Namespace: "ci", Name: pod.Name}, "c")
	}
	w := newWorld(t, executor, nil, objects...)
	executor.SetFaults(fakekube.Faults{Delay: 500 * time.Millisecond})
	began := time.Now()
	var all sync.WaitGroup
	for i := range places {
		all.Go(func() {
			if err := w.Deliver(t.Context(), credential.Place(fmt.Sprint("ci/runner-", i, "/c")), logins{"h": login("u", "p")}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if took := time.Since(began); took > places*500*time.Millisecond {
		t.Errorf("%d deliveries took %s: one waits for the other", places, took)
	}
}
