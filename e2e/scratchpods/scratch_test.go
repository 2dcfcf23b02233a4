package scratchpods

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/internal/kube"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/target/pods"
)

func TestReal(t *testing.T) {
	c := kubernetes.Start(t, kubernetes.Options{Node: true})
	c.Load(t, "test/busybox:1", busybox.New(t, busybox.Spec{Cmd: []string{"sleep", "2147483647"}}))
	ns := c.Namespace(t)
	mk := func(name string, change func(*corev1.Pod)) {
		p := kubernetes.Sleeper(ns, name, "test/busybox:1")
		p.Labels = map[string]string{"app": "r"}
		if change != nil {
			change(p)
		}
		c.Run(t, p)
	}
	cluster, err := kube.Open(kube.Config{Kubeconfig: c.Kubeconfig()})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Recorder = kube.NewRecorder(cluster.Core, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	target := pods.New(pods.Config{Cluster: cluster, Namespaces: []string{ns}, Selector: "app=r"})
	go target.Watch(t.Context(), func(places ...credential.Place) { t.Log("told", places) })
	mk("a", nil)
	mk("b", nil)
	mk("noshell", func(p *corev1.Pod) {
		p.Spec.Containers[0].Command = []string{"/bin/busybox", "sleep", "1000000"}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "PATH", Value: "/none"}}
	})
	mk("ro", func(p *corev1.Pod) {
		yes := true
		p.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{ReadOnlyRootFilesystem: &yes}
	})
	mk("user", func(p *corev1.Pod) {
		uid := int64(12345)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &uid}
	})
	if _, err := c.Client().CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"config.json": "{}"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	volume := func(sub string, path string) func(p *corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}})
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "v", MountPath: path, SubPath: sub})
		}
	}
	mk("secret", volume("", "/root/.docker"))
	mk("subpath", volume("config.json", "/root/.docker/config.json"))
	places, err := target.Places(t.Context())
	t.Log(places, err)
	login := func(s string) map[credential.Host]credential.Login {
		return map[credential.Host]credential.Login{"h.example": {Username: "u", Secret: credential.NewSecret(s)}}
	}
	for _, place := range places {
		began := time.Now()
		held, err := target.DeliverConfirmed(t.Context(), place, login("x"), []credential.Host{"h.example"})
		t.Logf("%s: %d held in %s; %s; %v; HINT %s", place, len(held), time.Since(began).Round(time.Millisecond), problem.KindOf(err), err, problem.HintOf(err))
	}
	// lost?
	var all sync.WaitGroup
	began := time.Now()
	for _, name := range []string{"a", "b"} {
		for range 1 {
			all.Go(func() {
				for n := range 60 {
					place := credential.Place(ns + "/" + name + "/main")
					want := login(fmt.Sprint(n))
					held, err := target.DeliverConfirmed(t.Context(), place, want, []credential.Host{"h.example"})
					if err != nil || !held["h.example"].Equal(want["h.example"]) {
						t.Errorf("%s %d: %v", name, n, err)
					}
				}
			})
		}
	}
	all.Wait()
	t.Logf("120 deliveries in %s", time.Since(began))
	// pod away
	zero := int64(0)
	if err := c.Client().CoreV1().Pods(ns).Delete(context.Background(), "b", metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil {
		t.Error(err)
	}
	err = target.Deliver(t.Context(), credential.Place(ns+"/b/main"), login("y"))
	t.Logf("gone: %s %v", problem.KindOf(err), err)
	// forbidden
	c.Apply(t, fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: sa, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: %[1]s}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: r, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects: [{kind: ServiceAccount, name: sa, namespace: %[1]s}]
`, ns))
	for _, verbs := range []string{"", "get", "create", "get, create"} {
		if verbs != "" {
			c.Apply(t, fmt.Sprintf(`
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: %s}
rules: [{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}, {apiGroups: [""], resources: [pods/exec], verbs: [%s]}]
`, ns, verbs))
			time.Sleep(time.Second)
		}
		weak, err := kube.Open(kube.Config{Kubeconfig: c.KubeconfigFor(t, ns, "sa")})
		if err != nil {
			t.Fatal(err)
		}
		err = pods.New(pods.Config{Cluster: weak, Namespaces: []string{ns}, Selector: "app=r"}).Deliver(t.Context(), credential.Place(ns+"/a/main"), login("y"))
		t.Logf("verbs %q: %s; %v; HINT %s", verbs, problem.KindOf(err), err, problem.HintOf(err))
	}
	cluster.Recorder.Close()
	t.Log(c.Kubectl(t, "get", "events", "-n", ns, "-o", `custom-columns=T:.type,R:.reason,O:.involvedObject.name,C:.count,M:.message`))
}
