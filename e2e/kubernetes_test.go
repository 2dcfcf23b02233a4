package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	faults "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apis "k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

func TestKubernetesRunsPods(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	ns := c.Namespace(t)
	began := time.Now()
	c.Run(t, kubernetes.Sleeper(ns, "pod", busyboxImage))
	t.Logf("%s; a pod was ready after %v", c.Version, time.Since(began).Round(time.Millisecond))

	text := strings.Repeat("a login\n", 10_000)
	if got := c.KubectlInput(t, text, "exec", "--stdin", "--namespace="+ns, "pod", "--", "cat"); got != text {
		t.Errorf("kubectl exec gave %d bytes back, want %d", len(got), len(text))
	}
	out, diag, err := c.Exec(t.Context(), ns, "pod", "main", strings.NewReader("to the other stream"), "sh", "-c", "cat >&2; echo done")
	if out != "done\n" || diag != "to the other stream" || err != nil {
		t.Errorf("exec wrote %q and %q, error %v", out, diag, err)
	}
	if _, _, err := c.Exec(t.Context(), ns, "pod", "main", nil, "sh", "-c", "exit 7"); exitStatus(err) != 7 {
		t.Errorf("exec ended with %v, want exit status 7", err)
	}
}

func TestKubernetesCountsRequests(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	ns := c.Namespace(t)
	since := c.Mark(t)
	c.Kubectl(t, "get", "secrets", "--namespace="+ns)
	c.Kubectl(t, "create", "secret", "generic", "one", "--namespace="+ns)
	if _, err := c.TryKubectl(t.Context(), "", "get", "secret", "none", "--namespace="+ns); err == nil {
		t.Error("a secret that nobody made is there")
	}
	eventually(t, 10*time.Second, "the record", func() error {
		requests := c.Requests(t, since)
		got := map[string]int{}
		for what, pattern := range map[string]kubernetes.Request{
			"lists":   {Verb: "list", Resource: "secrets", UserAgent: "kubectl"},
			"creates": {Verb: "create", Resource: "secrets", Code: http.StatusCreated, User: "admin"},
			"missed":  {Verb: "get", Resource: "secrets", Name: "none", Code: http.StatusNotFound},
			"updates": {Verb: "update", Resource: "secrets"},
		} {
			pattern.Namespace = ns
			got[what] = kubernetes.Count(requests, pattern)
		}
		if diff := cmp.Diff(map[string]int{"lists": 1, "creates": 1, "missed": 1, "updates": 0}, got); diff != "" {
			return fmt.Errorf("(-want +got):\n%s", diff)
		}
		return nil
	})
}

// restricted is what the Pod Security Standard of that name asks of a pod.
func restricted(pod *corev1.Pod) *corev1.Pod {
	yes, no, user := true, false, int64(65532)
	pod.Spec.SecurityContext = &corev1.PodSecurityContext{
		RunAsNonRoot: &yes, RunAsUser: &user, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].SecurityContext = &corev1.SecurityContext{
			AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		}
	}
	return pod
}

// A restricted pod on the pod network reaches the API where every pod looks
// for it.
func TestKubernetesPodReachesAPI(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	ns := c.Namespace(t, "pod-security.kubernetes.io/enforce=restricted")
	pods := c.Client().CoreV1().Pods(ns)
	if _, err := pods.Create(t.Context(), kubernetes.Sleeper(ns, "free", busyboxImage), metav1.CreateOptions{}); err == nil {
		t.Error("a pod without restrictions was let in")
	}
	c.Run(t, restricted(kubernetes.Sleeper(ns, "pod", busyboxImage)))
	inPod := func(script string) string {
		t.Helper()
		out, diag, err := c.Exec(t.Context(), ns, "pod", "main", nil, "sh", "-c", script)
		if err != nil {
			t.Fatalf("%s: %v: %s%s", script, err, out, diag)
		}
		return out
	}
	// The image has no client that speaks today's TLS: that the server hears
	// one which speaks none is enough.
	if out := inPod("wget -O - http://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT 2>&1 || true"); !strings.Contains(out, "400 Bad Request") {
		t.Errorf("the API answered %q", out)
	}
	const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
	client, err := apis.NewForConfig(&rest.Config{
		Host:            inPod("echo -n https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT"),
		BearerToken:     inPod("cat " + account + "token"),
		TLSClientConfig: rest.TLSClientConfig{CAData: []byte(inPod("cat " + account + "ca.crt"))},
	})
	if err != nil {
		t.Fatal(err)
	}
	list := func() error {
		_, err := client.CoreV1().Secrets(ns).List(t.Context(), metav1.ListOptions{})
		return err
	}
	if err := list(); !faults.IsForbidden(err) {
		t.Errorf("without a role: %v", err)
	}
	c.Kubectl(t, "create", "role", "reader", "--verb=list", "--resource=secrets", "--namespace="+ns)
	c.Kubectl(t, "create", "rolebinding", "reader", "--role=reader", "--serviceaccount="+ns+":default", "--namespace="+ns)
	eventually(t, 10*time.Second, "the role", list)
}

// Who reaches whom: README.md says it under its limits.
func TestKubernetesNetworks(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	ns := c.Namespace(t)
	urls := map[string]string{}
	for what, address := range map[string]string{"loopback": "127.0.0.1", "gateway": c.Gateway} {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "here") })}
		go server.Serve(listener)
		t.Cleanup(func() { server.Close() })
		urls[what] = "http://" + listener.Addr().String()
	}
	web := kubernetes.Sleeper(ns, "web", busyboxImage)
	web.Spec.Containers[0].Command = []string{"sh", "-c", "echo here > /tmp/index.html && exec busybox httpd -f -p 8080 -h /tmp"}
	urls["pod"] = "http://" + net.JoinHostPort(c.Run(t, web).Status.PodIP, "8080")
	host := kubernetes.Sleeper(ns, "host", busyboxImage)
	host.Spec.HostNetwork = true
	c.Run(t, host)
	c.Run(t, kubernetes.Sleeper(ns, "pod", busyboxImage))

	got := map[string]bool{}
	for _, pod := range []string{"pod", "host"} {
		for what, url := range urls {
			within(5*time.Second, func() error {
				out, _, err := c.Exec(t.Context(), ns, pod, "main", nil, "wget", "-q", "-O", "-", url)
				got[pod+" to "+what] = strings.TrimSpace(out) == "here"
				return err
			})
		}
	}
	if diff := cmp.Diff(map[string]bool{
		"pod to pod": true, "pod to gateway": true, "pod to loopback": false,
		"host to pod": true, "host to gateway": true, "host to loopback": true,
	}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestKubernetesKubeconfigOfAccount(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	ns := c.Namespace(t)
	config := "--kubeconfig=" + c.KubeconfigFor(t, ns, "default")
	if _, err := c.TryKubectl(t.Context(), "", config, "get", "pods", "--namespace="+ns); err == nil || !strings.Contains(err.Error(), "system:serviceaccount:"+ns+":default") {
		t.Errorf("an account without a role ended with %v", err)
	}
	c.Kubectl(t, "create", "rolebinding", "viewer", "--clusterrole=view", "--serviceaccount="+ns+":default", "--namespace="+ns)
	eventually(t, 10*time.Second, "the role", func() error {
		_, err := c.TryKubectl(t.Context(), "", config, "get", "pods", "--namespace="+ns)
		return err
	})
}

// The node pulls over HTTP from loopback, and with leave from the gateway.
func TestKubernetesPullsOverHTTP(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	ns := c.Namespace(t)
	images := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	for i, address := range []string{"127.0.0.1", c.Gateway} {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: images}
		go server.Serve(listener)
		t.Cleanup(func() { server.Close() })
		host := listener.Addr().String()
		if address == c.Gateway {
			c.AllowHTTP(t, host)
		}
		ref, err := name.NewTag(host+"/team/app:1", name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(ref, busybox.New(t, busybox.Spec{Mark: ref.String()})); err != nil {
			t.Fatal(err)
		}
		c.Run(t, kubernetes.Sleeper(ns, fmt.Sprintf("pod-%d", i), ref.String()))
	}
}

func TestKubernetesOutage(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := kubernetes.Start(t, kubernetes.Options{})
	started := time.Since(began)
	ns := c.Namespace(t)
	began = time.Now()
	c.StopAPIServer()
	stopped := time.Since(began)
	if _, err := c.Client().CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err == nil {
		t.Error("a stopped API server answers")
	}
	began = time.Now()
	c.StartAPIServer()
	t.Logf("control plane: %v to start; API server: %v to stop, %v to start again",
		started.Round(time.Millisecond), stopped.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	if _, err := c.Client().CoreV1().Namespaces().Get(t.Context(), ns, metav1.GetOptions{}); err != nil {
		t.Errorf("the namespace is gone: %v", err)
	}
}

func TestKubernetesKubeletOutage(t *testing.T) {
	t.Parallel()
	began := time.Now()
	c := kubernetes.Start(t, kubernetes.Options{Node: true, KubeletArgs: []string{"--v=1"}})
	t.Logf("%v to start", time.Since(began).Round(time.Millisecond))
	c.Load(t, busyboxImage, busybox.Image(t))
	pod := c.Run(t, kubernetes.Sleeper("default", "pod", busyboxImage))
	c.StopKubelet()
	if _, _, err := c.Exec(t.Context(), "default", "pod", "main", nil, "true"); err == nil {
		t.Error("a stopped kubelet executes")
	}
	c.StartKubelet()
	eventually(t, 30*time.Second, "exec", func() error {
		_, _, err := c.Exec(t.Context(), "default", "pod", "main", nil, "true")
		return err
	})
	if again := c.AwaitPod(t, "default", "pod"); again.Status.ContainerStatuses[0].ContainerID != pod.Status.ContainerStatuses[0].ContainerID {
		t.Error("the pod's container is another one")
	}
}

func TestKubernetesFakeNodes(t *testing.T) {
	t.Parallel()
	const nodes, replicas = 10, 500
	c := kubernetes.Start(t, kubernetes.Options{Fake: nodes})
	began := time.Now()
	c.Apply(t, fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: many}
spec:
  replicas: %d
  selector: {matchLabels: {app: many}}
  template:
    metadata: {labels: {app: many}}
    spec:
      tolerations: [{key: kwok, operator: Exists}]
      containers: [{name: main, image: none.test/none:1}]
`, replicas))
	eventually(t, 2*time.Minute, "the pods", func() error {
		d, err := c.Client().AppsV1().Deployments("default").Get(t.Context(), "many", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != replicas {
			err = fmt.Errorf("%d of %d", d.Status.AvailableReplicas, replicas)
		}
		return err
	})
	t.Logf("%d pods on %d nodes were ready after %v", replicas, nodes, time.Since(began).Round(time.Millisecond))
}

// clusterVar names the file in which the child of the next test says where its
// cluster is.
const clusterVar = "REGKEEPER_E2E_CLUSTER"

// A test that is killed leaves no process and no mount behind, and what it
// does leave the next cluster removes. No cluster changes a kernel setting.
func TestKubernetesDiesWithItsTest(t *testing.T) {
	if file := os.Getenv(clusterVar); file != "" {
		c := kubernetes.Start(t, kubernetes.Options{Node: true})
		c.Load(t, busyboxImage, busybox.Image(t))
		c.Run(t, kubernetes.Sleeper("default", "pod", busyboxImage))
		writeText(t, file+".new", filepath.Dir(c.Kubeconfig()))
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		<-t.Context().Done()
	}
	t.Parallel()
	kubernetes.NeedNode(t)
	before := settings(t)
	file := filepath.Join(t.TempDir(), "cluster")
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), clusterVar+"="+file)
	child := process.Start(t, cmd)
	child.Until(t, 2*time.Minute, "the child's cluster", func() bool { _, err := os.Stat(file); return err == nil })
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := string(text)
	t.Cleanup(func() { os.RemoveAll(dir) })
	if n := len(processesOf(dir)); n < 7 {
		t.Errorf("%d processes know the cluster's folder: that is no way to tell", n)
	}
	child.Kill()
	eventually(t, 10*time.Second, "its processes to end", func() error {
		if left := processesOf(dir); len(left) > 0 {
			return fmt.Errorf("left: %s", strings.Join(left, ", "))
		}
		return nil
	})
	bridge := fmt.Sprintf("rk%dx1", child.PID())
	if _, err := net.InterfaceByName(bridge); err != nil {
		t.Errorf("the child's bridge had another name: %v", err)
	}
	kubernetes.Start(t, kubernetes.Options{Node: true})
	if _, err := net.InterfaceByName(bridge); err == nil {
		t.Error("the child's bridge is there still")
	}
	if diff := cmp.Diff(before, settings(t)); diff != "" {
		t.Errorf("kernel settings (-want +got):\n%s", diff)
	}
}

// processesOf lists the processes with a word in their arguments.
func processesOf(word string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && bytes.Contains(text, []byte(word)) {
			found = append(found, filepath.Dir(file)+" "+string(bytes.ReplaceAll(text, []byte{0}, []byte{' '})))
		}
	}
	return found
}

func settings(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, file := range []string{"kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom", "net/ipv4/ip_forward"} {
		text, err := os.ReadFile(filepath.Join("/proc/sys", file))
		if err != nil {
			t.Fatal(err)
		}
		all[file] = string(text)
	}
	return all
}

// A write by a plain exec is lost now and then, and nobody is told: the shell
// becomes cat, which holds no stdout, and containerd closes the input of a
// process whose output has ended. A shell that stays loses nothing.
func TestPlainExecLosesWrites(t *testing.T) {
	t.Parallel()
	const pods, batch, least, most = 4, 25, 200, 1000
	c := sharedCluster(t)
	ns := c.Namespace(t)
	for i := range pods {
		c.Run(t, kubernetes.Sleeper(ns, fmt.Sprintf("pod-%d", i), busyboxImage))
	}
	document := fmt.Sprintf(`{"auths": {"registry.example.test": {"auth": %q}}}`, strings.Repeat("x", 2000))
	// write has each pod write files and returns how many of them arrived
	// otherwise, though every command ended well.
	write := func(round int, command string) (lost int) {
		var workers sync.WaitGroup
		var mu sync.Mutex
		for i := range pods {
			workers.Go(func() {
				pod := fmt.Sprintf("pod-%d", i)
				for n := range batch {
					folder := fmt.Sprintf("/tmp/%d-%d", round, n)
					script := fmt.Sprintf(command, folder)
					if _, diag, err := c.Exec(t.Context(), ns, pod, "main", strings.NewReader(document), "sh", "-c", script); err != nil {
						t.Errorf("%s: %v: %s", script, err, diag)
					}
				}
				out, _, err := c.Exec(t.Context(), ns, pod, "main", nil, "sh", "-c", fmt.Sprintf("stat -c %%s /tmp/%d-*/config.json", round))
				sizes := strings.Fields(out)
				if err != nil || len(sizes) != batch {
					t.Errorf("list files: %v: %s", err, out)
				}
				mu.Lock()
				defer mu.Unlock()
				for _, size := range sizes {
					if size != fmt.Sprint(len(document)) {
						lost++
					}
				}
			})
		}
		workers.Wait()
		return lost
	}
	lost, runs := 0, 0
	began := time.Now()
	for round := 0; runs < least || lost == 0 && runs < most; round++ {
		lost += write(round, "mkdir -p %[1]s && cat > %[1]s/config.json")
		runs += pods * batch
	}
	t.Logf("plain writes: %d of %d lost in %v", lost, runs, time.Since(began).Round(time.Millisecond))
	if lost == 0 {
		t.Errorf("none of %d plain writes was lost: there is no need any more to do it in another way", runs)
	}
	if lost := write(most, "mkdir -p %[1]s && cat > %[1]s/config.json && echo done"); lost > 0 {
		t.Errorf("%d of %d writes were lost by a shell that stayed", lost, pods*batch)
	}
}

// exitStatus is the exit status of a command that was executed in a pod, and
// -1 of any other error.
func exitStatus(err error) int {
	var exit interface{ ExitStatus() int }
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return exit.ExitStatus()
	}
	return -1
}
