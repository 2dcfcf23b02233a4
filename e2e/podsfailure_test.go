package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/keeper"
	"github.com/regkeeper/regkeeper/target/pods"
)

// loginFolder and loginPath are where containers have their logins.
const (
	loginFolder = "/root/.docker"
	loginPath   = loginFolder + "/config.json"
)

// podKeeper is a regkeeper that keeps the pods of a namespace logged in.
type podKeeper struct {
	*nodeRegistry
	namespace, ref string
}

// newPodKeeper reaches the cluster by a kubeconfig. The settings are of pods,
// more are lines of the target.
func newPodKeeper(t testing.TB, c *kubernetes.Cluster, kubeconfig, settings string, more ...string) *podKeeper {
	t.Helper()
	n := newNodeRegistry(t, "127.0.0.1", "KUBECONFIG="+kubeconfig)
	n.c = c
	k := &podKeeper{nodeRegistry: n, namespace: c.Namespace(t), ref: n.private("team/app")}
	k.target(settings, more...)
	return k
}

// target writes the configuration.
func (k *podKeeper) target(settings string, more ...string) {
	k.t.Helper()
	pods := fmt.Sprintf(`pods: {namespace: %s, selector: "!left-out", path: %s, %s}`, k.namespace, loginPath, settings)
	k.keep(k.ref, "1s", "  - name: pods\n    "+strings.Join(append([]string{pods}, more...), "\n    "))
}

// begins starts the daemon, and does not wait until all is well.
func (k *podKeeper) begins() *process.Process {
	k.t.Helper()
	daemon := process.Start(k.t, k.command("up"))
	daemon.Until(k.t, time.Minute, "regkeeper is up", func() bool { return strings.Contains(daemon.Log(), "regkeeper is up") })
	k.t.Cleanup(func() {
		if k.t.Failed() {
			k.t.Logf("end of the log of regkeeper:\n%s", daemon.Tail(40))
		}
	})
	return daemon
}

func (k *podKeeper) create(pod *corev1.Pod) {
	k.t.Helper()
	if _, err := k.c.Client().CoreV1().Pods(k.namespace).Create(k.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		k.t.Fatal(err)
	}
}

func (k *podKeeper) remove(pod string) error {
	now := int64(0)
	return k.c.Client().CoreV1().Pods(k.namespace).Delete(k.t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: &now})
}

// replace deletes a pod and makes another of its name.
func (k *podKeeper) replace(pod *corev1.Pod) {
	k.t.Helper()
	if err := k.remove(pod.Name); err != nil {
		k.t.Fatal(err)
	}
	eventually(k.t, time.Minute, "the pod's end", func() error {
		_, err := k.c.Client().CoreV1().Pods(k.namespace).Create(k.t.Context(), pod, metav1.CreateOptions{})
		return err
	})
}

// holds wants a container to hold the login in force.
func (k *podKeeper) holds(pod string) error {
	text, diag, err := k.c.Exec(k.t.Context(), k.namespace, pod, "main", nil, "sh", "-c", "cat "+loginPath+" && echo")
	if err != nil {
		return fmt.Errorf("%w: %s", err, diag)
	}
	return k.inForce(pod, []byte(text))
}

func (k *podKeeper) inForce(pod string, text []byte) error {
	doc, err := dockerconfig.Parse(text)
	if err != nil {
		return err
	}
	got, _ := doc.Login(credential.Host(k.host))
	if want := k.login(); got.Username != want.Username || got.Secret.Reveal() != want.Password {
		return fmt.Errorf("pod %s does not hold the login in force", pod)
	}
	return nil
}

// rows are how the places stand, by the names of their pods.
func (k *podKeeper) rows() map[string]keeper.PlaceStatus {
	k.t.Helper()
	rows := map[string]keeper.PlaceStatus{}
	for _, row := range k.status().Targets {
		name := strings.TrimSuffix(strings.TrimPrefix(row.Path, k.namespace+"/"), "/main")
		rows[name] = row
	}
	return rows
}

// heals wants all pods to hold the login in force, and status to say so and to
// list no other. It returns how long that took.
func (k *podKeeper) heals(what string, limit time.Duration, pods ...string) time.Duration {
	k.t.Helper()
	began := time.Now()
	eventually(k.t, limit, what+": the pods to be well", func() error {
		rows := k.rows()
		if len(rows) != len(pods) {
			return fmt.Errorf("%d rows for %d pods: %v", len(rows), len(pods), rows)
		}
		for _, pod := range pods {
			if row := rows[pod]; row.Phase != keeper.OK || row.Problem != "" {
				return fmt.Errorf("pod %s is %s: %s", pod, row.Phase, row.Problem)
			}
		}
		return nil
	})
	took := time.Since(began)
	for _, pod := range pods {
		if err := k.holds(pod); err != nil {
			k.t.Errorf("%s: %v", what, err)
		}
	}
	k.t.Logf("%s: all well after %v", what, took.Round(time.Millisecond))
	return took
}

// fails wants status to say why a pod has no login, and how to cure it.
func (k *podKeeper) fails(pod, problem, hint string) {
	k.t.Helper()
	eventually(k.t, time.Minute, "the failure of "+pod, func() error {
		row := k.rows()[pod]
		if row.Phase != keeper.Failed || !strings.Contains(row.Problem, problem) || !strings.Contains(row.Hint, hint) {
			return fmt.Errorf("%s: %s: %s", row.Phase, row.Problem, row.Hint)
		}
		return nil
	})
}

// events are those of a pod, of one reason.
func (k *podKeeper) events(pod, reason string) []corev1.Event {
	k.t.Helper()
	events, err := k.c.Client().CoreV1().Events(k.namespace).List(k.t.Context(), metav1.ListOptions{
		FieldSelector: "involvedObject.name=" + pod + ",reason=" + reason,
	})
	if err != nil {
		k.t.Fatal(err)
	}
	return events.Items
}

// tells wants an Event on a pod to say a reason and the words.
func (k *podKeeper) tells(pod, reason string, words ...string) {
	k.t.Helper()
	eventually(k.t, 20*time.Second, "the Event of "+pod, func() error {
		var said []string
		for _, event := range k.events(pod, reason) {
			if !slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(event.Message, word) }) {
				return nil
			}
			said = append(said, event.Message)
		}
		return fmt.Errorf("%q", said)
	})
}

// starts measure how long containers wait for their logins.
type starts struct {
	*podKeeper
	folder string // of this machine, with a folder for each pod

	mu   sync.Mutex
	told map[string]time.Time // when the cluster told that they run
}

// measures watches the namespace from now on.
func (k *podKeeper) measures() *starts {
	k.t.Helper()
	s := &starts{podKeeper: k, folder: k.t.TempDir(), told: map[string]time.Time{}}
	watch, err := k.c.Client().CoreV1().Pods(k.namespace).Watch(k.t.Context(), metav1.ListOptions{})
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(watch.Stop)
	go func() {
		for event := range watch.ResultChan() {
			pod, ok := event.Object.(*corev1.Pod)
			if !ok || len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Running == nil {
				continue
			}
			s.mu.Lock()
			if s.told[pod.Name].IsZero() {
				s.told[pod.Name] = time.Now()
			}
			s.mu.Unlock()
		}
	}()
	return s
}

// start creates a pod whose folder of logins is one of this machine: its files'
// times are those of the container's start and of the delivery.
func (s *starts) start(name string) {
	s.t.Helper()
	pod := kubernetes.Sleeper(s.namespace, name, busyboxImage)
	kind := corev1.HostPathDirectoryOrCreate
	pod.Spec.Volumes = []corev1.Volume{{Name: "login", VolumeSource: corev1.VolumeSource{
		HostPath: &corev1.HostPathVolumeSource{Path: filepath.Join(s.folder, name), Type: &kind},
	}}}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "login", MountPath: loginFolder}}
	pod.Spec.Containers[0].Command = []string{"sh", "-c", "touch " + loginFolder + "/started; exec sleep 1000000"}
	s.create(pod)
}

// waited is how long each container waited, sorted: from its start, and from
// when the cluster told of that.
func (s *starts) waited(limit time.Duration, pods ...string) (sinceStart, sinceTold []time.Duration) {
	s.t.Helper()
	for _, pod := range pods {
		path := filepath.Join(s.folder, pod, "config.json")
		eventually(s.t, limit, "the login of "+pod, func() error {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			return s.inForce(pod, text)
		})
		delivered := changed(s.t, path)
		sinceStart = append(sinceStart, delivered.Sub(changed(s.t, filepath.Join(s.folder, pod, "started"))))
		s.mu.Lock()
		sinceTold = append(sinceTold, delivered.Sub(s.told[pod]))
		s.mu.Unlock()
	}
	slices.Sort(sinceStart)
	slices.Sort(sinceTold)
	return sinceStart, sinceTold
}

// changed is when a file, or its name, was last changed.
func changed(t testing.TB, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(info.Sys().(*syscall.Stat_t).Ctim.Unix())
}

// figures are the median and the worst of a sorted list.
func figures(list []time.Duration) string {
	return fmt.Sprintf("median %v, worst %v of %d", list[len(list)/2].Round(time.Millisecond), list[len(list)-1].Round(time.Millisecond), len(list))
}

// numbered are the names of some pods.
func numbered(prefix string, n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("%s-%d", prefix, i))
	}
	return names
}

// Where TestPlainExecLosesWrites shows that a plain write is lost now and then,
// none of these is.
func TestNothingIsLostOnTheRealKubelet(t *testing.T) {
	t.Parallel()
	const atOnce, each, look = 8, 250, 10
	c := sharedCluster(t)
	namespace := c.Namespace(t)
	names := numbered("pod", atOnce)
	for _, name := range names {
		c.Run(t, kubernetes.Sleeper(namespace, name, busyboxImage))
	}
	cluster, err := kube.Open(kube.Config{Kubeconfig: c.Kubeconfig(), Version: "e2e"})
	if err != nil {
		t.Fatal(err)
	}
	target := pods.New(pods.Config{Cluster: cluster, Namespaces: []string{namespace}, Path: loginPath})
	places, err := target.Places(t.Context())
	if err != nil || len(places) != atOnce {
		t.Fatalf("places: %v, %v", places, err)
	}
	hosts := []credential.Host{"registry.example.test"}
	// Two logins of different sizes: each delivery writes.
	logins := []credential.Login{
		{Username: "one", Secret: credential.NewSecret(strings.Repeat("1", 40))},
		{Username: "another", Secret: credential.NewSecret(strings.Repeat("2", 1200))},
	}
	var lost, failed atomic.Int64
	var workers sync.WaitGroup
	began := time.Now()
	for i, place := range places {
		workers.Go(func() {
			for n := range each {
				want := logins[n%len(logins)]
				held, err := target.DeliverConfirmed(t.Context(), place, map[credential.Host]credential.Login{hosts[0]: want}, hosts)
				if err != nil {
					failed.Add(1)
					t.Errorf("delivery %d to %s: %v", n, place, err)
					continue
				}
				if !held[hosts[0]].Equal(want) {
					lost.Add(1)
				}
				if n%look != 0 {
					continue
				}
				text, _, err := c.Exec(t.Context(), namespace, names[i], "main", nil, "sh", "-c", "cat "+loginPath+" && echo")
				doc, broken := dockerconfig.Parse([]byte(text))
				if err != nil || broken != nil {
					t.Errorf("look at %s: %v, %v", place, err, broken)
				} else if got, _ := doc.Login(hosts[0]); !got.Equal(want) {
					lost.Add(1)
				}
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	t.Logf("%d deliveries, a read and a write each, to %d containers at once in %v, %.0f a second: %d lost, %d failed",
		atOnce*each, atOnce, took.Round(time.Millisecond), float64(atOnce*each)/took.Seconds(), lost.Load(), failed.Load())
	if lost.Load() > 0 {
		t.Errorf("%d of %d deliveries were lost", lost.Load(), atOnce*each)
	}
}

// home has a pod's logins in an emptyDir.
func home(pod *corev1.Pod) *corev1.Pod {
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "home", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}})
	pod.Spec.Containers[0].VolumeMounts = append(pod.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "home", MountPath: loginFolder})
	return pod
}

// as has a pod run as a user, who may write to its volumes.
func as(user int64, pod *corev1.Pod) *corev1.Pod {
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user, RunAsGroup: &user, FSGroup: &user}
	return pod
}

func readOnlyRoot(pod *corev1.Pod) *corev1.Pod {
	yes := true
	pod.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes}
	return pod
}

// What cannot be written is told, with the cure, on the pod and in status; the
// cure cures it, and the others are served meanwhile.
func TestPodsThatCannotBeWritten(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	k := newPodKeeper(t, c, c.Kubeconfig(), "resync: 2s")
	bare := "regkeeper.test/" + k.namespace + "/bare:1"
	c.Load(t, bare, busybox.New(t, busybox.Spec{Applets: []string{"sleep"}, Mark: bare}))
	sleeper := func(name string) *corev1.Pod { return kubernetes.Sleeper(k.namespace, name, busyboxImage) }

	c.Kubectl(t, "create", "secret", "generic", "login", "--namespace="+k.namespace, "--from-literal=config.json={}")
	mounted := sleeper("mounted")
	mounted.Spec.Volumes = []corev1.Volume{{Name: "login", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "login"}}}}
	mounted.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "login", MountPath: loginFolder, ReadOnly: true}}
	several := sleeper("several")
	several.Spec.Containers = append(several.Spec.Containers, corev1.Container{Name: "beside", Image: busyboxImage, Command: []string{"sleep", "1000000"}})
	bad := []*corev1.Pod{mounted, readOnlyRoot(sleeper("frozen")), as(65532, sleeper("stranger")), kubernetes.Sleeper(k.namespace, "bare", bare), several}
	for _, pod := range bad {
		c.Run(t, pod)
	}
	daemon := k.begins()
	good := []*corev1.Pod{sleeper("plain"), as(65532, home(sleeper("user"))), readOnlyRoot(home(sleeper("thawed")))}
	for _, pod := range good {
		c.Run(t, pod)
		eventually(t, 10*time.Second, "the login of "+pod.Name, func() error { return k.holds(pod.Name) })
	}
	for _, want := range []struct{ pod, problem, hint string }{
		{"mounted", "Read-only file system", "mounted read-only, for example from a Secret"},
		{"frozen", "Read-only file system", "mount an emptyDir at its folder"},
		{"stranger", "Permission denied", "runs as user 65532"},
		{"bare", "has no shell", "docs/targets/pods.md"},
		{"several", "has several containers: main, beside", "set container:"},
	} {
		k.fails(want.pod, want.problem, want.hint)
		k.tells(want.pod, kube.NotDelivered, want.problem, want.hint)
		t.Logf("%s: %s: %s", want.pod, k.rows()[want.pod].Problem, k.rows()[want.pod].Hint)
	}
	for _, pod := range good {
		k.tells(pod.Name, kube.Delivered, k.host)
	}
	// What repeats counts up in one Event.
	eventually(t, time.Minute, "another try", func() error {
		if events := k.events("mounted", kube.NotDelivered); len(events) != 1 || events[0].Count < 2 {
			return fmt.Errorf("%d Events: %v", len(events), events)
		}
		return nil
	})

	for _, cured := range []*corev1.Pod{readOnlyRoot(home(sleeper("frozen"))), as(65532, home(sleeper("stranger"))), home(sleeper("mounted"))} {
		k.replace(cured)
	}
	c.Kubectl(t, "annotate", "pod", "several", "--namespace="+k.namespace, "kubectl.kubernetes.io/default-container=main")
	c.Kubectl(t, "annotate", "pod", "bare", "--namespace="+k.namespace, "regkeeper.dev/exclude=true")
	k.heals("cured", time.Minute, "mounted", "frozen", "stranger", "several", "plain", "user", "thawed")
	daemon.Stop()
}

// Containers whose exec hangs hold up nobody, and are asked ever more seldom.
func TestPodsThatHang(t *testing.T) {
	t.Parallel()
	// More than a pass looks at at the same time.
	const hang, served = 20, 5
	c := sharedCluster(t)
	k := newPodKeeper(t, c, c.Kubeconfig(), "resync: 1m")
	// Passes are seldom: they would try as well.
	k.resync = "1m"
	k.target("timeout: 2s, resync: 1m")
	image := func(name, shell string) string {
		ref := "regkeeper.test/" + k.namespace + "/" + name + ":1"
		c.Load(t, ref, busybox.New(t, busybox.Spec{Applets: []string{"sleep", "cat", "wc", "rm", "mv", "mkdir", "chmod", "sha256sum"},
			Programs: map[string]string{"bin/sh": "#!/bin/busybox sh\n" + shell + "\n"}}))
		return ref
	}
	hanging, slow := image("hanging", "exec sleep 1000000"), image("slow", `sleep 0.7; exec busybox sh "$@"`)
	for _, name := range numbered("hang", hang) {
		k.create(kubernetes.Sleeper(k.namespace, name, hanging))
	}
	for _, name := range numbered("hang", hang) {
		c.AwaitPod(t, k.namespace, name)
	}
	c.Run(t, kubernetes.Sleeper(k.namespace, "first", busyboxImage))
	began := time.Now()
	daemon := k.begins()
	eventually(t, time.Minute, "the first login", func() error { return k.holds("first") })
	t.Logf("the first login, beside %d containers that hang for 2s: %v after regkeeper's start", hang, time.Since(began).Round(time.Millisecond))
	s := k.measures()
	k.create(kubernetes.Sleeper(k.namespace, "slow", slow))
	for _, name := range numbered("served", served) {
		s.start(name)
	}
	sinceStart, sinceTold := s.waited(time.Minute, numbered("served", served)...)
	t.Logf("beside %d containers that hang: since the start %s; since the cluster told of it %s", hang, figures(sinceStart), figures(sinceTold))
	// On a machine that has nothing else to do it is a fraction of a second; behind
	// the others it would be 40 s.
	if worst := sinceTold[len(sinceTold)-1]; worst > 8*time.Second {
		t.Errorf("a login came %v after its container's start was told", worst)
	}
	eventually(t, 30*time.Second, "the slow one", func() error {
		if row := k.rows()["slow"]; row.Phase != keeper.OK || row.Delivered == nil {
			return fmt.Errorf("%s: %s", row.Phase, row.Problem)
		}
		return nil
	})
	for _, name := range numbered("hang", hang) {
		k.fails(name, "did not answer within 2s", "kubectl exec")
	}

	// The time between tries is 2, 4, 8, 16 s, give or take a half. Beside the 4 s
	// that a try may take, the first is never as long as this one.
	const long = 12 * time.Second
	eventually(t, 2*time.Minute, "tries to become seldom", func() error {
		tries := k.tries(daemon, "hang-0")
		var gaps []time.Duration
		for i := 1; i < len(tries); i++ {
			gaps = append(gaps, tries[i].Sub(tries[i-1]))
		}
		if len(gaps) < 2 || slices.Max(gaps) < long {
			return fmt.Errorf("tried again after %v", gaps)
		}
		t.Logf("one that hangs is tried again after %v", gaps)
		return nil
	})
	for _, name := range numbered("hang", hang)[1:] {
		if err := k.remove(name); err != nil {
			t.Fatal(err)
		}
	}
	k.replace(kubernetes.Sleeper(k.namespace, "hang-0", busyboxImage))
	k.heals("replaced by a good one", time.Minute, slices.Concat([]string{"hang-0", "slow", "first"}, numbered("served", served))...)
	daemon.Stop()
}

// tries are when deliveries to a pod failed.
func (k *podKeeper) tries(daemon *process.Process, pod string) (tries []time.Time) {
	k.t.Helper()
	for line := range strings.Lines(daemon.Log()) {
		text, rest, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
		if !strings.Contains(rest, "step failed") || !strings.Contains(rest, "place="+k.namespace+"/"+pod+"/") {
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			k.t.Fatal(err)
		}
		// A pass may be at it as well: that is the same try.
		if n := len(tries); n == 0 || at.Sub(tries[n-1]) > 3*time.Second {
			tries = append(tries, at)
		}
	}
	return tries
}

// Pods that vanish while they are delivered to leave no failure behind.
func TestPodsThatVanish(t *testing.T) {
	t.Parallel()
	const replicas, rounds = 3, 24
	c := sharedCluster(t)
	k := newPodKeeper(t, c, c.Kubeconfig(), "resync: 2s")
	c.Apply(t, fmt.Sprintf(`apiVersion: apps/v1
kind: StatefulSet
metadata: {name: runner, namespace: %s}
spec:
  replicas: %d
  podManagementPolicy: Parallel
  selector: {matchLabels: {app: runner}}
  template:
    metadata: {labels: {app: runner}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: main, image: %q, command: [sleep, "1000000"]}]
`, k.namespace, replicas, busyboxImage))
	names := numbered("runner", replicas)
	for _, name := range names {
		c.AwaitPod(t, k.namespace, name)
	}
	daemon := k.up()
	uids := func() map[string]types.UID {
		found, err := c.Client().CoreV1().Pods(k.namespace).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		uids := map[string]types.UID{}
		for _, pod := range found.Items {
			uids[pod.Name] = pod.UID
		}
		return uids
	}
	ctx, cancel := context.WithCancel(t.Context())
	var rotating sync.WaitGroup
	rotated := 0
	rotating.Go(func() {
		for ctx.Err() == nil {
			if got := k.run("rotate"); got.code == 0 {
				rotated++
			} else if ctx.Err() == nil && !strings.Contains(got.err+got.out, "target pods") {
				t.Errorf("rotate: %d: %s%s", got.code, got.out, got.err)
			}
		}
	})
	for range rounds {
		name, before := names[rand.IntN(replicas)], uids()
		if err := k.remove(name); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, "another pod", func() error {
			if now := uids()[name]; now == "" || now == before[name] {
				return errors.New("not yet")
			}
			return nil
		})
		// One that is about to start, or starts, is deleted as well as one that
		// runs.
		limit := time.Duration(rand.IntN(1500)) * time.Millisecond
		_ = within(limit, func() error { return k.holds(name) })
	}
	cancel()
	rotating.Wait()
	k.heals(fmt.Sprintf("%d deletions, %d rotations", rounds, rotated), time.Minute, names...)
	failures := 0
	for line := range strings.Lines(daemon.Log()) {
		if strings.Contains(line, "step failed") {
			failures++
			t.Log(strings.TrimSpace(line))
		}
	}
	t.Logf("%d steps failed meanwhile", failures)
	daemon.Stop()
}

// How long runners wait for their logins.
func TestPodStartToLogin(t *testing.T) {
	t.Parallel()
	const n = 20
	c := sharedCluster(t)
	k := newPodKeeper(t, c, c.Kubeconfig(), "resync: 2s")
	daemon := k.begins()
	s := k.measures()
	names := numbered("pod", n)
	// One after the other, as runners come.
	for _, name := range names {
		s.start(name)
		s.waited(time.Minute, name)
	}
	sinceStart, sinceTold := s.waited(time.Minute, names...)
	t.Logf("login after the container's start: %s; after the cluster told of it: %s", figures(sinceStart), figures(sinceTold))
	if median := sinceTold[n/2]; median > 3*time.Second {
		t.Errorf("half of the logins came more than %v after the cluster told of the start", median)
	}
	daemon.Stop()
}
