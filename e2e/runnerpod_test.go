package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
)

// dockerImage is an image with a real Docker client.
const dockerImage = "regkeeper.test/docker:1"

// withDocker puts this machine's Docker client, and the libraries that it
// loads, into an image.
func withDocker(t testing.TB) busybox.Spec {
	t.Helper()
	path, err := exec.LookPath("docker")
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	add := func(path, as string) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(as, "/")] = string(content)
	}
	add(path, "/bin/docker")
	// A static program has no libraries, and ldd says so by its exit code.
	libraries, _ := exec.Command("ldd", path).Output()
	for _, library := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(string(libraries), -1) {
		add(library[1], library[1])
	}
	return busybox.Spec{Programs: files, Users: []string{"root:x:0:0:root:/root:/bin/sh"}}
}

// runnerPods is the first case of the product: a StatefulSet of runners in a
// cluster, each with a Docker client that talks to a daemon, whose jobs run in
// an image that is private at a Gitea.
type runnerPods struct {
	*kubernetes.Cluster
	t         *testing.T
	namespace string
	gitea     account
	daemon    *docker.Daemon
}

const runnerLabel = "app.kubernetes.io/name=actions-act-runner"

func newRunnerPods(t *testing.T, replicas int32) *runnerPods {
	t.Helper()
	c := sharedCluster(t)
	server := gitea.StartAt(t, c.Gateway)
	r := &runnerPods{
		Cluster: c, t: t, namespace: c.Namespace(t), gitea: newAccount(t, server, owner),
		daemon: docker.Start(t, server.Host),
	}
	c.Load(t, dockerImage, busybox.New(t, withDocker(t)))
	socket, err := url.Parse(r.daemon.Host)
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{"app.kubernetes.io/name": "actions-act-runner"}
	grace := int64(0)
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.namespace, Name: "gitea-actions-act-runner"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, PodManagementPolicy: appsv1.ParallelPodManagement,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					TerminationGracePeriodSeconds: &grace,
					Volumes: []corev1.Volume{{Name: "docker", VolumeSource: corev1.VolumeSource{
						HostPath: &corev1.HostPathVolumeSource{Path: filepath.Dir(socket.Path)},
					}}},
					Containers: []corev1.Container{{
						Name: "act-runner", Image: dockerImage, ImagePullPolicy: corev1.PullNever,
						// It ends when it is told to, as a runner that crashes does.
						Command:      []string{"sh", "-c", "while ! test -e /tmp/crash; do sleep 0.1; done"},
						Env:          []corev1.EnvVar{{Name: "DOCKER_HOST", Value: "unix:///docker/" + filepath.Base(socket.Path)}},
						VolumeMounts: []corev1.VolumeMount{{Name: "docker", MountPath: "/docker"}},
					}, {
						Name: "dind", Image: busyboxImage, ImagePullPolicy: corev1.PullNever, Command: []string{"sleep", "1000000"},
					}},
				},
			},
		},
	}
	if _, err := c.Client().AppsV1().StatefulSets(r.namespace).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range replicas {
		c.AwaitPod(t, r.namespace, r.pod(int(i)))
	}
	return r
}

func (r *runnerPods) pod(i int) string { return fmt.Sprintf("gitea-actions-act-runner-%d", i) }

// config is the configuration that serves the runners.
func (r *runnerPods) config(state string) string {
	return fmt.Sprintf(`
registries:
  - host: %q
    source: {gitea: {url: %q, user: %s, password: {secret: %s/ci-bot/password}}}
    insecure: true
    probe: %q
    rotate: {every: 30d, overlap: 1s}
targets:
  - name: runners
    pods: {namespace: %s, selector: %q, container: act-runner, path: /root/.docker/config.json, resync: 3s}
serve: {health: {listen: "127.0.0.1:0"}}
resync: 2s
%s`, r.gitea.Host, r.gitea.URL, owner, r.namespace, r.gitea.ref, r.namespace, runnerLabel, state)
}

func (r *runnerPods) putPassword() {
	r.t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.namespace, Name: "ci-bot"},
		StringData: map[string]string{"password": r.gitea.password},
	}
	if _, err := r.Client().CoreV1().Secrets(r.namespace).Create(r.t.Context(), secret, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// pull pulls the private image as a job of a runner does.
func (r *runnerPods) pull(ctx context.Context, pod string) error {
	out, diag, err := r.Exec(ctx, r.namespace, pod, "act-runner", nil, "docker", "pull", r.gitea.ref)
	if err != nil {
		return fmt.Errorf("%w: %s%s", err, out, diag)
	}
	return nil
}

// refuses wants the pull to be refused, for want of a login alone: a client of
// today prints Gitea's own words, older ones say it their way.
func (r *runnerPods) refuses() {
	r.t.Helper()
	err := r.pull(r.t.Context(), r.pod(0))
	if err == nil || !strings.Contains(err.Error(), "unauthorized") {
		r.t.Fatalf("before: %v, want unauthorized", err)
	}
	tag, err := name.NewTag(r.gitea.ref, name.Insecure)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err = remote.Head(tag, remote.WithContext(r.t.Context())); err == nil {
		r.t.Fatal("before: the image is public")
	}
	_, err = remote.Get(tag, remote.WithContext(r.t.Context()))
	if err == nil || !strings.Contains(err.Error(), "reqPackageAccess") {
		r.t.Fatalf("before: %v, want reqPackageAccess", err)
	}
}

// pulls wants the image to be pulled within the limit, and logs how long the
// login took since an event.
func (r *runnerPods) pulls(what, pod string, since time.Time, limit time.Duration) {
	r.t.Helper()
	eventually(r.t, limit, what, func() error {
		_, _, err := r.Exec(r.t.Context(), r.namespace, pod, "act-runner", nil, "grep", "-q", r.gitea.Host, "/root/.docker/config.json")
		return err
	})
	took := time.Since(since)
	eventually(r.t, limit, what, func() error { return r.pull(r.t.Context(), pod) })
	r.t.Logf("%s: logged in after %v, pulled after %v", what, took.Round(time.Millisecond), time.Since(since).Round(time.Millisecond))
}

// containerStart is when the container in the pod began to run, and its id.
func (r *runnerPods) container(pod string) (id string, start time.Time, err error) {
	found, err := r.Client().CoreV1().Pods(r.namespace).Get(r.t.Context(), pod, metav1.GetOptions{})
	if err != nil {
		return "", time.Time{}, err
	}
	for _, status := range found.Status.ContainerStatuses {
		if status.Name == "act-runner" && status.State.Running != nil {
			return status.ContainerID, status.State.Running.StartedAt.Time, nil
		}
	}
	return "", time.Time{}, errors.New("act-runner does not run")
}

// another waits for another container than the one with the id.
func (r *runnerPods) another(pod, id string) {
	r.t.Helper()
	eventually(r.t, time.Minute, "another container", func() error {
		now, _, err := r.container(pod)
		if err == nil && now == id {
			err = errors.New("it is the same still")
		}
		return err
	})
}

// incidents are all that befalls a runner's login, each of which is to end with
// a pull that works.
func (r *runnerPods) incidents() {
	r.t.Helper()
	pod := r.pod(0)
	pods := r.Client().CoreV1().Pods(r.namespace)

	id, _, err := r.container(pod)
	if err != nil {
		r.t.Fatal(err)
	}
	zero := int64(0)
	if err := pods.Delete(r.t.Context(), pod, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		r.t.Fatal(err)
	}
	r.another(pod, id)
	r.pulls("pod deleted", pod, time.Now(), 30*time.Second)

	id, _, err = r.container(pod)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, _, err := r.Exec(r.t.Context(), r.namespace, pod, "act-runner", nil, "touch", "/tmp/crash"); err != nil {
		r.t.Fatal(err)
	}
	r.another(pod, id)
	r.pulls("container restarted", pod, time.Now(), time.Minute)

	since := time.Now()
	if _, _, err := r.Exec(r.t.Context(), r.namespace, pod, "act-runner", nil, "rm", "/root/.docker/config.json"); err != nil {
		r.t.Fatal(err)
	}
	// Nothing tells of it: the next look finds it, every 3 s here.
	r.pulls("config.json removed", pod, since, time.Minute)

	since = time.Now()
	r.gitea.forgetAll()
	r.pulls("token revoked behind our back", pod, since, 2*time.Minute)
}

// forgetAll deletes all of the account's tokens that regkeeper minted.
func (a account) forgetAll() {
	a.t.Helper()
	for _, token := range a.ListTokens(a.name, a.password) {
		if strings.HasPrefix(token.Name, "regkeeper-") {
			a.DeleteToken(a.name, a.password, token.ID)
		}
	}
}

// The daemon beside the cluster: what the manifests run inside it.
func TestRunnerPods(t *testing.T) {
	t.Parallel()
	r := newRunnerPods(t, 2)
	r.refuses()
	r.putPassword()
	p := newProduct(t, r.config(""), "KUBECONFIG="+r.Kubeconfig())
	daemon := p.up()
	for i := range 2 {
		if err := r.pull(t.Context(), r.pod(i)); err != nil {
			t.Fatalf("after: %v", err)
		}
	}
	r.incidents()
	t.Log(daemon.Log())
	daemon.Stop()
}

// The same inside the cluster, as the printed manifests run it: nothing is
// patched, and nothing of the runners is changed.
func TestRunnerPodsInCluster(t *testing.T) {
	t.Parallel()
	r := newRunnerPods(t, 1)
	r.refuses()
	r.putPassword()
	own := r.Namespace(t)
	image := "regkeeper.test/regkeeper:runners"
	r.Load(t, image, ownImage(t))
	since := time.Now()
	_, printed := install(t, r.Cluster, own, r.config("state: {secret: {}}\n"), "--image="+image)
	t.Cleanup(func() {
		r.Client().RbacV1().Roles(r.namespace).Delete(context.Background(), "regkeeper-"+own, metav1.DeleteOptions{})
	})
	if strings.Contains(printed, r.gitea.password) {
		t.Error("the manifests hold the password")
	}
	r.pulls("manifests applied", r.pod(0), since, 2*time.Minute)
	r.incidents()
}
