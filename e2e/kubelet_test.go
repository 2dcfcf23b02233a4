package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/kubelet"
	"github.com/regkeeper/regkeeper/state"
)

// nodeRegistry is a regkeeper and the embedded registry, from which a node
// pulls.
type nodeRegistry struct {
	*product
	served *embedded
	host   string // as the node knows it
	resync string // how often all is looked at
	c      *kubernetes.Cluster
}

// newNodeRegistry serves the registry at an address of this machine.
func newNodeRegistry(t testing.TB, address string, env ...string) *nodeRegistry {
	t.Helper()
	p := newProduct(t, "", env...)
	served := serveEmbedded(t, p.data(), address)
	return &nodeRegistry{product: p, served: served, host: served.hosts[1], resync: "2s"}
}

// private pushes an image that no other test has, and returns its name.
func (n *nodeRegistry) private(repository string) string {
	n.t.Helper()
	ref := n.host + "/" + repository + ":1"
	tag, err := name.NewTag(n.served.host + "/" + repository + ":1")
	if err != nil {
		n.t.Fatal(err)
	}
	if err := remote.Write(tag, busybox.New(n.t, busybox.Spec{Mark: ref}), remote.WithAuth(n.served.pusher), remote.WithContext(n.t.Context())); err != nil {
		n.t.Fatalf("push %s: %v", ref, err)
	}
	return ref
}

// keep writes the configuration, with the targets that the text describes.
func (n *nodeRegistry) keep(probe, overlap, targets string) {
	n.t.Helper()
	n.configure(fmt.Sprintf(`
registries:
  - host: %q
    source: {builtin: {}}
    insecure: true
    probe: %q
    rotate: {every: 30d, overlap: %s}
targets:
%s
serve: {health: {listen: "127.0.0.1:0"}}
resync: %s
`, n.host, probe, overlap, targets, n.resync))
}

// login is the one in force.
func (n *nodeRegistry) login() *authn.Basic {
	n.t.Helper()
	doc, err := state.Read(n.data())
	if err != nil {
		n.t.Fatal(err)
	}
	login := doc.Registries[credential.Host(n.host)].Current.Login()
	return &authn.Basic{Username: login.Username, Password: login.Secret.Reveal()}
}

// rotates has the login replaced, and waits until the registry refuses the one
// before.
func (n *nodeRegistry) rotates(ref string) {
	n.t.Helper()
	before := n.login()
	if ok, err := accepted(n.t.Context(), ref, before, http.DefaultTransport); err != nil || !ok {
		n.t.Fatalf("the login in force is accepted: %v, %v", ok, err)
	}
	began := time.Now()
	n.must("rotate")
	eventually(n.t, time.Minute, "the end of the replaced login", func() error {
		ok, err := accepted(n.t.Context(), ref, before, http.DefaultTransport)
		if ok {
			err = errors.New("it is accepted still")
		}
		return err
	})
	n.t.Logf("rotated, and the one before revoked, after %v", time.Since(began).Round(time.Millisecond))
}

// makes creates a pod that does nothing.
func (n *nodeRegistry) makes(namespace, pod, account, image string) {
	n.t.Helper()
	p := kubernetes.Sleeper(namespace, pod, image)
	p.Spec.ServiceAccountName = account
	if _, err := n.c.Client().CoreV1().Pods(namespace).Create(n.t.Context(), p, metav1.CreateOptions{}); err != nil {
		n.t.Fatal(err)
	}
}

// runs wants a new pod to have its image, and to run.
func (n *nodeRegistry) runs(what, namespace, pod, image string) {
	n.t.Helper()
	began := time.Now()
	n.makes(namespace, pod, "default", image)
	n.c.AwaitPod(n.t, namespace, pod)
	n.t.Logf("%s: runs %v after it was made", what, time.Since(began).Round(time.Millisecond))
}

// refuses wants each of some pods to wait for its image, which the registry
// refuses.
func (n *nodeRegistry) refuses(what, namespace, selector string) {
	n.t.Helper()
	eventually(n.t, time.Minute, what+" to be refused", func() error {
		pods, err := n.c.Client().CoreV1().Pods(namespace).List(n.t.Context(), metav1.ListOptions{FieldSelector: selector})
		if err != nil {
			return err
		}
		if len(pods.Items) == 0 {
			return errors.New("no pod")
		}
		for _, pod := range pods.Items {
			if len(pod.Status.ContainerStatuses) == 0 {
				return fmt.Errorf("pod %s has no status", pod.Name)
			}
			state := pod.Status.ContainerStatuses[0].State
			if w := state.Waiting; w == nil || w.Reason != "ErrImagePull" && w.Reason != "ImagePullBackOff" || !strings.Contains(w.Message, "401 Unauthorized") {
				return fmt.Errorf("pod %s: %s", pod.Name, state.String())
			}
		}
		return nil
	})
}

// deploys makes a Deployment of one pod.
func (n *nodeRegistry) deploys(namespace, deployment, image string) {
	n.t.Helper()
	labels := map[string]string{"app": deployment}
	_, err := n.c.Client().AppsV1().Deployments(namespace).Create(n.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: deployment},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       kubernetes.Sleeper(namespace, deployment, image).Spec,
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *nodeRegistry) pod(namespace, pod string) *corev1.Pod {
	n.t.Helper()
	found, err := n.c.Client().CoreV1().Pods(namespace).Get(n.t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

func (n *nodeRegistry) secret(namespace string) *corev1.Secret {
	n.t.Helper()
	found, err := n.c.Client().CoreV1().Secrets(namespace).Get(n.t.Context(), "registry-login", metav1.GetOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	return found
}

// The kubelet pulls with the Secret that is delivered: what waited is evicted
// and made anew, and a rotation stops nobody. The Secret stays the same object:
// by its UID the kubelet knows who may use an image that it has (KEP-2535).
func TestKubeletPullsWithDeliveredSecret(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	namespace, other := c.Namespace(t), c.Namespace(t)
	n := newNodeRegistry(t, c.Gateway, "KUBECONFIG="+c.Kubeconfig())
	n.c = c
	c.AllowHTTP(t, n.host)
	alone, deployed, fresh, rotated := n.private("team/alone"), n.private("team/deployed"), n.private("team/fresh"), n.private("team/rotated")

	n.makes(namespace, "alone", "default", alone)
	n.deploys(namespace, "deployed", deployed)
	n.refuses("what has no login", namespace, "")
	waited := n.pod(namespace, "alone").UID

	n.keep(fresh, "1s", fmt.Sprintf(`  - name: pulls
    secrets: {name: registry-login, namespaces: [%s], serviceAccounts: [default], evict: true}`, namespace))
	began := time.Now()
	daemon := n.up()
	ready := time.Since(began)
	eventually(t, time.Minute, "the Deployment", func() error {
		found, err := c.Client().AppsV1().Deployments(namespace).Get(t.Context(), "deployed", metav1.GetOptions{})
		if err == nil && found.Status.AvailableReplicas != 1 {
			err = fmt.Errorf("not available:\n%s", daemon.Log())
		}
		return err
	})
	t.Logf("regkeeper was ready %v after its start, the Deployment %v", ready.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	// Nobody would make it anew: it is left to whoever made it.
	if got := n.pod(namespace, "alone"); got.UID != waited || len(got.Spec.ImagePullSecrets) > 0 {
		t.Errorf("the pod without a controller was made anew with %v", got.Spec.ImagePullSecrets)
	}
	n.runs("a pod made after the login", namespace, "fresh", fresh)

	before := n.secret(namespace)
	n.rotates(fresh)
	after := n.secret(namespace)
	if after.UID != before.UID {
		t.Errorf("the Secret is another object: %s, %s before", after.UID, before.UID)
	}
	if string(after.Data[corev1.DockerConfigJsonKey]) == string(before.Data[corev1.DockerConfigJsonKey]) {
		t.Error("the Secret holds what it held before the rotation")
	}
	n.runs("a pod made after the rotation", namespace, "rotated", rotated)
	n.runs("an image that the node has, after the rotation", namespace, "again", fresh)
	n.makes(other, "other", "default", fresh)
	n.refuses("the same image in another namespace", other, "")
	daemon.Stop()
}

// The kubelet asks regkeeper for logins: no namespace has a Secret.
func TestKubeletCredentialProvider(t *testing.T) {
	t.Parallel()
	kubernetes.NeedNode(t)
	n := newNodeRegistry(t, "127.0.0.1")
	images := map[string]string{}
	for _, repository := range []string{"early", "first", "second", "allowed", "excluded", "elsewhere"} {
		images[repository] = n.private("team/" + repository)
	}
	file := filepath.Join(n.dir, "kubelet", "config.json")
	n.keep(images["first"], "3s", fmt.Sprintf("  - name: kubelet\n    file: {path: %q}", file))
	install := func(args ...string) []string {
		t.Helper()
		out := n.must(append([]string{"install", "kubelet", "--write", "--output=json", "--dir=" + filepath.Join(n.dir, "provider"),
			"--file=" + file, "--cache=1s"}, args...)...)
		return decode[struct{ Flags []string }](t, out).Flags
	}
	n.c = kubernetes.Start(t, kubernetes.Options{Node: true, KubeletArgs: install()})

	// Before the file is there, the command fails, and the kubelet goes on.
	n.makes("default", "early", "default", images["early"])
	n.refuses("what has no login", "default", "")
	began := time.Now()
	daemon := n.up()
	n.runs("a pod without imagePullSecrets", "default", "first", images["first"])
	n.rotates(images["first"])
	n.runs("a pod without imagePullSecrets, after the rotation", "default", "second", images["second"])
	n.c.AwaitPod(t, "default", "early")
	t.Logf("the pod that waited: runs %v after regkeeper was started", time.Since(began).Round(time.Millisecond))

	namespace, elsewhere := n.c.Namespace(t), n.c.Namespace(t)
	n.c.Apply(t, kubelet.TokenRights(kubelet.DefaultAudience))
	install("--service-account-token", "--allow="+namespace+"/*")
	n.c.StopKubelet()
	n.c.StartKubelet()
	n.c.Kubectl(t, "create", "serviceaccount", "left-out", "--namespace="+namespace)
	n.c.Kubectl(t, "annotate", "serviceaccount", "left-out", "--namespace="+namespace, "regkeeper.dev/exclude=true")
	n.makes(namespace, "excluded", "left-out", images["excluded"])
	n.makes(elsewhere, "elsewhere", "default", images["elsewhere"])
	n.runs("a pod of a ServiceAccount that is allowed", namespace, "allowed", images["allowed"])
	n.refuses("a ServiceAccount that is left out", namespace, "metadata.name=excluded")
	n.refuses("a namespace that is not allowed", elsewhere, "")
	daemon.Stop()
}
