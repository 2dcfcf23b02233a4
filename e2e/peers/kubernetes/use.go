package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authentication "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Kubectl runs kubectl as a user who may do everything and returns its
// standard output.
func (c *Cluster) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	return c.KubectlInput(t, "", args...)
}

// KubectlInput is Kubectl with something to read.
func (c *Cluster) KubectlInput(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	out, err := c.TryKubectl(t.Context(), stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Apply applies manifests.
func (c *Cluster) Apply(t testing.TB, manifests string) {
	t.Helper()
	c.KubectlInput(t, manifests, "apply", "--filename=-")
}

// TryKubectl runs kubectl and returns its standard output. The error holds
// what it wrote to the other stream; an [exec.ExitError] in its chain says how
// kubectl ended. A later --kubeconfig among the arguments wins.
func (c *Cluster) TryKubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.Command(c.bin, slices.Concat([]string{"kubectl", "--kubeconfig=" + c.Kubeconfig()}, args)...)
	cmd.Env = c.env()
	cmd.Stdin = strings.NewReader(stdin)
	var out, diag bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &diag
	if err := process.Run(ctx, cmd); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(diag.String()))
	}
	return out.String(), nil
}

// Namespace makes a namespace for a test, with labels such as "key=value", and
// waits for its default ServiceAccount. It is deleted when the test ends.
func (c *Cluster) Namespace(t testing.TB, labels ...string) string {
	t.Helper()
	all := map[string]string{}
	for _, label := range labels {
		key, value, _ := strings.Cut(label, "=")
		all[key] = value
	}
	namespaces := c.client.CoreV1().Namespaces()
	ns, err := namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: all}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create namespace: %v", err)
	}
	t.Cleanup(func() {
		if c.apiserver.Ended() {
			return // and so has the cluster
		}
		if err := namespaces.Delete(context.Background(), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete namespace: %v", err)
		}
	})
	until(t, ready, "default ServiceAccount", func() error {
		_, err := c.client.CoreV1().ServiceAccounts(ns.Name).Get(t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return ns.Name
}

// Run creates a pod and waits until it is ready.
func (c *Cluster) Run(t testing.TB, pod *corev1.Pod) *corev1.Pod {
	t.Helper()
	created, err := c.client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create pod: %v", err)
	}
	return c.AwaitPod(t, created.Namespace, created.Name)
}

// AwaitPod waits until a pod is ready and returns it.
func (c *Cluster) AwaitPod(t testing.TB, namespace, name string) (pod *corev1.Pod) {
	t.Helper()
	until(t, ready, "pod "+namespace+"/"+name, func() (err error) {
		if pod, err = c.client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{}); err != nil {
			return err
		}
		for _, condition := range pod.Status.Conditions {
			if condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue {
				return nil
			}
		}
		var states []string
		for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			states = append(states, fmt.Sprintf("%s: %s", s.Name, s.State.String()))
		}
		return fmt.Errorf("phase %s, %s", pod.Status.Phase, strings.Join(states, ", "))
	})
	return pod
}

// Sleeper is a pod of an image that does nothing until something is executed
// in it, and ends at once.
func Sleeper(namespace, name, image string) *corev1.Pod {
	now := int64(0)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &now,
			Containers:                    []corev1.Container{{Name: "main", Image: image, Command: []string{"sleep", "2147483647"}}},
		},
	}
}

// Exec runs a command in a container over WebSocket, as kubectl does, and
// returns what it wrote. Without a stdin there is none. An error that says
// ExitStatus is the command's own.
func (c *Cluster) Exec(ctx context.Context, namespace, pod, container string, stdin io.Reader, command ...string) (stdout, stderr string, err error) {
	request := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: command, Stdin: stdin != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String())
	if err != nil {
		return "", "", fmt.Errorf("make executor: %w", err)
	}
	var out, diag bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: stdin, Stdout: &out, Stderr: &diag})
	if err != nil {
		err = fmt.Errorf("exec in pod %s: %w", pod, err)
	}
	return out.String(), diag.String(), err
}

// KubeconfigFor writes a kubeconfig that signs in as a ServiceAccount, with a
// token of one hour, and returns its path. It lasts as long as the test.
func (c *Cluster) KubeconfigFor(t testing.TB, namespace, account string) string {
	t.Helper()
	seconds := int64(time.Hour / time.Second)
	got, err := c.client.CoreV1().ServiceAccounts(namespace).CreateToken(t.Context(), account,
		&authentication.TokenRequest{Spec: authentication.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("request token: %v", err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := c.keys.writeKubeconfig(path, c.URL, account, &api.AuthInfo{Token: got.Status.Token}); err != nil {
		t.Fatalf("write kubeconfig: %v", err)
	}
	return path
}
