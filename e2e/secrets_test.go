package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	faults "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apis "k8s.io/client-go/kubernetes"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
	"github.com/regkeeper/regkeeper/problem"
)

// delivery is a regkeeper that keeps a login in the namespaces of a cluster
// whose names begin with a prefix. What it keeps is changed at its source, a
// Secret of the cluster.
type delivery struct {
	*product
	t       testing.TB
	cluster *kubernetes.Cluster
	client  apis.Interface
	prefix  string
	secret  string // the delivered Secrets' name
	config  string
}

const deliveredHost credential.Host = "registry.example.test"

// newDelivery makes a regkeeper with its state in the cluster. The settings are
// added to those of its target.
func newDelivery(t testing.TB, c *kubernetes.Cluster, prefix string, settings ...string) *delivery {
	t.Helper()
	d := &delivery{t: t, cluster: c, client: c.Client(), prefix: prefix, secret: "pull-" + prefix}
	system := "regkeeper-" + prefix
	d.must(d.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: system}}, metav1.CreateOptions{}))
	d.must(d.client.CoreV1().Secrets(system).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "login"}, StringData: map[string]string{"password": "secret-0"},
	}, metav1.CreateOptions{}))
	d.config = fmt.Sprintf(`
state: {secret: {namespace: %[1]s}}
registries:
  - host: %[2]s
    source: {static: {username: robot, password: {secret: %[1]s/login/password}}}
    verify: false
targets:
  - name: pull
    secrets:
      name: %[3]s
      namespaces: ["%[4]s-*"]
      %[5]s
serve: {health: {listen: "127.0.0.1:0"}}
`, system, deliveredHost, d.secret, prefix, strings.Join(settings, "\n      "))
	d.product = newProduct(t, d.config, "KUBECONFIG="+c.Kubeconfig())
	return d
}

func (d *delivery) must(_ any, err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// namespace makes a namespace, and returns its name.
func (d *delivery) namespace(name string, annotations map[string]string) string {
	d.t.Helper()
	name = d.prefix + "-" + name
	d.must(d.client.CoreV1().Namespaces().Create(d.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: annotations}}, metav1.CreateOptions{}))
	eventually(d.t, time.Minute, "default ServiceAccount", func() error {
		_, err := d.client.CoreV1().ServiceAccounts(name).Get(d.t.Context(), "default", metav1.GetOptions{})
		return err
	})
	return name
}

// rotate changes the login at its source.
func (d *delivery) rotate(password string) {
	d.t.Helper()
	patch := fmt.Sprintf(`{"stringData": {"password": %q}}`, password)
	d.must(d.client.CoreV1().Secrets("regkeeper-"+d.prefix).Patch(d.t.Context(), "login", types.MergePatchType, []byte(patch), metav1.PatchOptions{}))
}

// get reads a delivered Secret.
func (d *delivery) get(namespace string) (*corev1.Secret, error) {
	return d.client.CoreV1().Secrets(namespace).Get(d.t.Context(), d.secret, metav1.GetOptions{})
}

// holds is an error unless the namespace's Secret has the login.
func (d *delivery) holds(namespace, password string) error {
	s, err := d.get(namespace)
	if err != nil {
		return err
	}
	doc, err := dockerconfig.Parse(s.Data[corev1.DockerConfigJsonKey])
	if err != nil {
		return err
	}
	if login, ok := doc.Login(deliveredHost); !ok || login.Username != "robot" || login.Secret.Reveal() != password {
		return fmt.Errorf("Secret of %s has another login", namespace)
	}
	return nil
}

// all is an error unless each of the namespaces passes the check.
func all(namespaces []string, check func(namespace string) error) func() error {
	left := slices.Clone(namespaces)
	return func() error {
		for len(left) > 0 {
			if err := check(left[0]); err != nil {
				return err
			}
			left = left[1:]
		}
		return nil
	}
}

// pullSecrets are those that a ServiceAccount names.
func (d *delivery) pullSecrets(namespace, account string) []string {
	d.t.Helper()
	a, err := d.client.CoreV1().ServiceAccounts(namespace).Get(d.t.Context(), account, metav1.GetOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	names := []string{}
	for _, r := range a.ImagePullSecrets {
		names = append(names, r.Name)
	}
	return names
}

func (d *delivery) attached(namespace string) error {
	if names := d.pullSecrets(namespace, "default"); !slices.Contains(names, d.secret) {
		return fmt.Errorf("the ServiceAccount of %s names %v", namespace, names)
	}
	return nil
}

// annotate changes an annotation; an empty value takes it away.
func (d *delivery) annotate(kind, namespace, name, annotation, value string) {
	d.t.Helper()
	change := annotation + "=" + value
	if value == "" {
		change = annotation + "-"
	}
	args := []string{"annotate", "--overwrite", kind, name, change}
	if namespace != "" {
		args = append(args, "--namespace="+namespace)
	}
	d.cluster.Kubectl(d.t, args...)
}

// events lists the reasons of regkeeper's Events on an object.
func (d *delivery) events(namespace, name string) []string {
	d.t.Helper()
	list, err := d.client.CoreV1().Events(namespace).List(d.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		d.t.Fatal(err)
	}
	reasons := map[string]bool{}
	for _, event := range list.Items {
		if event.Source.Component == "regkeeper" {
			reasons[event.Type+" "+event.Reason] = true
		}
	}
	return slices.Sorted(maps.Keys(reasons))
}

// requests are regkeeper's since a mark.
func (d *delivery) requests(since kubernetes.Mark) []kubernetes.Request {
	d.t.Helper()
	return slices.DeleteFunc(d.cluster.Requests(d.t, since), func(r kubernetes.Request) bool { return !strings.HasPrefix(r.UserAgent, "regkeeper/") })
}

// renewals waits until the Lease was renewed so often since a mark.
func (d *delivery) renewals(since kubernetes.Mark, n int) {
	d.t.Helper()
	eventually(d.t, time.Duration(n)*40*time.Second, "renewals of the Lease", func() error {
		if got := kubernetes.Count(d.requests(since), kubernetes.Request{Verb: "update", Resource: "leases"}); got < n {
			return fmt.Errorf("%d of %d", got, n)
		}
		return nil
	})
}

// measure is the median and the longest of the times that something takes.
func measure(t testing.TB, what string, times int, once func(i int)) {
	t.Helper()
	var took []time.Duration
	for i := range times {
		began := time.Now()
		once(i)
		took = append(took, time.Since(began).Round(time.Millisecond))
	}
	slices.Sort(took)
	t.Logf("%s: median %v, longest %v, of %d", what, took[len(took)/2], took[len(took)-1], len(took))
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	c := kubernetes.Start(t, kubernetes.Options{Audit: true, Fake: 2})
	t.Run("InPlace", func(t *testing.T) { secretsInPlace(t, c) })
	t.Run("Foreign", func(t *testing.T) { secretsForeign(t, c) })
	t.Run("OptOuts", func(t *testing.T) { secretsOptOuts(t, c) })
	t.Run("Restarts", func(t *testing.T) { secretsRestarts(t, c) })
	t.Run("Evictions", func(t *testing.T) { secretsEvictions(t, c) })
}

// secretsInPlace: delivered at once, healed at once, rotated in place by one
// write each, and left alone else.
func secretsInPlace(t *testing.T, c *kubernetes.Cluster) {
	const namespaces = 20
	d := newDelivery(t, c, "team", "serviceAccounts: [default]")
	var names []string
	for i := range namespaces {
		names = append(names, d.namespace(fmt.Sprint("n", i), nil))
	}
	began := time.Now()
	d.product.up("--kubeconfig", c.Kubeconfig())
	eventually(t, time.Minute, "the Secrets", all(names, func(ns string) error { return d.holds(ns, "secret-0") }))
	eventually(t, time.Minute, "the ServiceAccounts", all(names, d.attached))
	t.Logf("%d namespaces have it %v after the start", namespaces, time.Since(began).Round(time.Millisecond))

	measure(t, "a new namespace", 5, func(i int) {
		name := fmt.Sprint(d.prefix, "-new", i)
		d.must(d.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))
		polled(t, "the Secret", func() error { return d.holds(name, "secret-0") })
		names = append(names, name)
	})
	eventually(t, time.Minute, "the ServiceAccounts", all(names, d.attached))
	uids := map[string]types.UID{}
	for _, ns := range names {
		s, err := d.get(ns)
		d.must(s, err)
		uids[ns] = s.UID
	}
	measure(t, "an edit healed", 5, func(i int) {
		patch := []byte(`{"stringData": {".dockerconfigjson": "{\"auths\": {}}"}}`)
		d.must(d.client.CoreV1().Secrets(names[i]).Patch(t.Context(), d.secret, types.MergePatchType, patch, metav1.PatchOptions{}))
		polled(t, "the login", func() error { return d.holds(names[i], "secret-0") })
	})
	measure(t, "a deletion healed", 5, func(i int) {
		if err := d.client.CoreV1().Secrets(names[i]).Delete(t.Context(), d.secret, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		polled(t, "the login", func() error { return d.holds(names[i], "secret-0") })
		s, err := d.get(names[i])
		d.must(s, err)
		uids[names[i]] = s.UID
	})
	measure(t, "a ServiceAccount healed", 3, func(i int) {
		d.must(d.client.CoreV1().ServiceAccounts(names[i]).Patch(t.Context(), "default", types.MergePatchType, []byte(`{"imagePullSecrets": [{"name": "theirs"}]}`), metav1.PatchOptions{}))
		polled(t, "the ServiceAccount", func() error { return d.attached(names[i]) })
		if diff := cmp.Diff([]string{"theirs", d.secret}, d.pullSecrets(names[i], "default")); diff != "" {
			t.Errorf("pull secrets (-want +got):\n%s", diff)
		}
	})

	since := c.Mark(t)
	for round := 1; round <= 3; round++ {
		password := fmt.Sprint("secret-", round)
		began := time.Now()
		d.rotate(password)
		eventually(t, time.Minute, "the rotation", all(names, func(ns string) error { return d.holds(ns, password) }))
		t.Logf("rotated in %d namespaces within %v", len(names), time.Since(began).Round(time.Millisecond))
	}
	for _, ns := range names {
		if s, err := d.get(ns); err != nil || s.UID != uids[ns] {
			t.Errorf("the Secret of %s is another: %v", ns, err)
		}
	}
	eventually(t, 10*time.Second, "the record", func() error {
		requests := d.requests(since)
		for _, ns := range names {
			if n := kubernetes.Count(requests, kubernetes.Request{Verb: "patch", Resource: "secrets", Namespace: ns, Name: d.secret, Code: 200}); n != 3 {
				return fmt.Errorf("%d writes in %s of 3 rotations", n, ns)
			}
		}
		return nil
	})
	requests := d.requests(since)
	if n := kubernetes.Count(requests, kubernetes.Request{Resource: "secrets", Verb: "patch"}); n != 3*len(names) {
		t.Errorf("%d writes of Secrets for 3 rotations of %d", n, len(names))
	}
	for _, verb := range []string{"delete", "deletecollection", "create"} {
		if n := kubernetes.Count(requests, kubernetes.Request{Resource: "secrets", Verb: verb}); n > 0 {
			t.Errorf("%d times %s", n, verb)
		}
	}
	if n := kubernetes.Count(requests, kubernetes.Request{Resource: "serviceaccounts", Verb: "patch"}); n > 0 {
		t.Errorf("%d writes of ServiceAccounts", n)
	}

	// What was done is saved, and its Events are made, before the Lease is
	// renewed.
	d.renewals(c.Mark(t), 1)
	since = c.Mark(t)
	d.renewals(since, 2)
	for _, r := range d.requests(since) {
		if r.Verb != "watch" && r.Resource != "leases" {
			t.Errorf("while nothing changes: %s %s %s/%s", r.Verb, r.Resource, r.Namespace, r.Name)
		}
	}
}

// polled waits closely, for what is measured.
func polled(t testing.TB, what string, check func() error) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait for %s: %v", what, err)
		}
	}
}

// secretsForeign: a Secret that someone else made is left as it is, people are
// told, and it is taken over when it is given away.
func secretsForeign(t *testing.T, c *kubernetes.Cluster) {
	d := newDelivery(t, c, "foreign", "serviceAccounts: [default]")
	theirs := d.namespace("theirs", nil)
	opaque := d.namespace("opaque", nil)
	ours := d.namespace("ours", nil)
	doc, _ := dockerconfig.Parse(nil)
	doc.Set("theirs.example", credential.Login{Username: "someone", Secret: credential.NewSecret("else")})
	before := map[string]*corev1.Secret{}
	for ns, s := range map[string]*corev1.Secret{
		theirs: {Type: corev1.SecretTypeDockerConfigJson, Data: map[string][]byte{corev1.DockerConfigJsonKey: doc.Bytes()}},
		opaque: {Type: corev1.SecretTypeOpaque, Data: map[string][]byte{"a": []byte("b")}},
	} {
		s.Name = d.secret
		made, err := d.client.CoreV1().Secrets(ns).Create(t.Context(), s, metav1.CreateOptions{})
		d.must(made, err)
		before[ns] = made
	}
	process.Start(t, d.command("up", "--kubeconfig", c.Kubeconfig()))
	eventually(t, time.Minute, "the other namespace", func() error { return d.holds(ours, "secret-0") })
	for ns, says := range map[string]string{theirs: "is not regkeeper's", opaque: "is of type Opaque"} {
		eventually(t, 20*time.Second, "the status", func() error {
			got := d.run("status", "-o", "json")
			if !strings.Contains(got.out, ns) || !strings.Contains(got.out, says) {
				return fmt.Errorf("status: %s%s", got.out, got.err)
			}
			return nil
		})
		eventually(t, 20*time.Second, "the Event", func() error {
			if got := d.events(ns, d.secret); !slices.Equal(got, []string{"Warning LoginNotDelivered"}) {
				return fmt.Errorf("events: %v", got)
			}
			return nil
		})
		now, err := d.get(ns)
		d.must(now, err)
		if diff := cmp.Diff(before[ns], now); diff != "" {
			t.Errorf("it was changed (-before +after):\n%s", diff)
		}
		if names := d.pullSecrets(ns, "default"); len(names) > 0 {
			t.Errorf("the ServiceAccount names %v", names)
		}
	}
	began := time.Now()
	d.annotate("secret", theirs, d.secret, "regkeeper.dev/adopt", "true")
	eventually(t, 30*time.Second, "the adoption", func() error { return d.holds(theirs, "secret-0") })
	t.Logf("adopted %v after the annotation, kubectl included", time.Since(began).Round(time.Millisecond))
	now, err := d.get(theirs)
	d.must(now, err)
	kept, _ := dockerconfig.Parse(now.Data[corev1.DockerConfigJsonKey])
	if _, ok := kept.Login("theirs.example"); !ok || now.UID != before[theirs].UID {
		t.Error("what was in it is lost")
	}
	eventually(t, 20*time.Second, "the Event", func() error {
		if got := d.events(theirs, d.secret); !slices.Contains(got, "Normal LoginAdopted") {
			return fmt.Errorf("events: %v", got)
		}
		return nil
	})
	eventually(t, 20*time.Second, "the ServiceAccount", func() error { return d.attached(theirs) })
}

// secretsOptOuts: what leaves the choice is cleaned, and keeps what others gave
// it.
func secretsOptOuts(t *testing.T, c *kubernetes.Cluster) {
	d := newDelivery(t, c, "opt", `serviceAccounts: ["*"]`, "namespaceSelector: opt=in")
	glob, label, out := d.namespace("glob", nil), "labelled", d.namespace("out", map[string]string{"regkeeper.dev/exclude": "true"})
	d.must(d.client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: label, Labels: map[string]string{"opt": "in"}}}, metav1.CreateOptions{}))
	for _, name := range []string{"one", "two"} {
		d.must(d.client.CoreV1().ServiceAccounts(glob).Create(t.Context(), &corev1.ServiceAccount{
			ObjectMeta: metav1.ObjectMeta{Name: name}, ImagePullSecrets: []corev1.LocalObjectReference{{Name: "theirs"}},
		}, metav1.CreateOptions{}))
	}
	d.product.up("--kubeconfig", c.Kubeconfig())
	both := []string{glob, label}
	eventually(t, time.Minute, "the Secrets", all(both, func(ns string) error { return d.holds(ns, "secret-0") }))
	eventually(t, time.Minute, "the ServiceAccounts", all(both, d.attached))
	if _, err := d.get(out); !faults.IsNotFound(err) {
		t.Errorf("a namespace that opted out: %v", err)
	}
	names := func(ns, account string, want ...string) {
		t.Helper()
		eventually(t, 20*time.Second, "pull secrets of "+ns+"/"+account, func() error {
			if got := d.pullSecrets(ns, account); !slices.Equal(got, want) {
				return fmt.Errorf("%v, want %v", got, want)
			}
			return nil
		})
	}
	gone := func(ns string) {
		t.Helper()
		eventually(t, 20*time.Second, "the Secret to go", func() error {
			if _, err := d.get(ns); !faults.IsNotFound(err) {
				return errors.Join(errors.New("it is there"), err)
			}
			return nil
		})
	}
	names(glob, "one", "theirs", d.secret)
	d.annotate("serviceaccount", glob, "one", "regkeeper.dev/exclude", "true")
	names(glob, "one", "theirs")
	names(glob, "two", "theirs", d.secret)
	d.annotate("serviceaccount", glob, "one", "regkeeper.dev/exclude", "")
	names(glob, "one", "theirs", d.secret)

	began := time.Now()
	d.cluster.Kubectl(t, "label", "namespace", label, "opt-")
	gone(label)
	t.Logf("cleaned %v after the label went, kubectl included", time.Since(began).Round(time.Millisecond))
	names(label, "default")
	d.annotate("namespace", "", glob, "regkeeper.dev/exclude", "true")
	gone(glob)
	names(glob, "one", "theirs")
	names(glob, "two", "theirs")
	d.annotate("namespace", "", glob, "regkeeper.dev/exclude", "")
	eventually(t, 20*time.Second, "the Secret", func() error { return d.holds(glob, "secret-0") })
	names(glob, "two", "theirs", d.secret)
	d.annotate("namespace", "", out, "regkeeper.dev/exclude", "")
	eventually(t, 20*time.Second, "the Secret", func() error { return d.holds(out, "secret-0") })

	// A label that was taken away is put back: by it the Secret is removed.
	d.cluster.Kubectl(t, "label", "secret", d.secret, "--namespace="+glob, "regkeeper.dev/owner-")
	eventually(t, 20*time.Second, "the label", func() error {
		if s, err := d.get(glob); err != nil || s.Labels["regkeeper.dev/owner"] == "" {
			return errors.Join(errors.New("no label"), err)
		}
		return nil
	})
	// A namespace that is deleted goes, and nobody writes into it.
	since := c.Mark(t)
	if err := d.client.CoreV1().Namespaces().Delete(t.Context(), glob, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the namespace to go", func() error {
		if _, err := d.client.CoreV1().Namespaces().Get(t.Context(), glob, metav1.GetOptions{}); !faults.IsNotFound(err) {
			return errors.Join(errors.New("it is there"), err)
		}
		return nil
	})
	for _, r := range d.requests(since) {
		// Events of what was done before come when they come.
		if r.Namespace == glob && r.Verb != "watch" && r.Resource != "events" {
			t.Errorf("in a namespace that was being deleted: %s %s %s: %d", r.Verb, r.Resource, r.Name, r.Code)
		}
	}
}

// deploy makes a deployment whose pods fake nodes run.
func (d *delivery) deploy(namespace, name string) {
	d.t.Helper()
	two := int32(2)
	labels := map[string]string{"app": name}
	d.must(d.client.AppsV1().Deployments(namespace).Create(d.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &two, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec: corev1.PodSpec{
					Tolerations: []corev1.Toleration{{Key: kubernetes.FakeTaint, Operator: corev1.TolerationOpExists}},
					Containers:  []corev1.Container{{Name: "main", Image: string(deliveredHost) + "/app:1"}},
				},
			},
		},
	}, metav1.CreateOptions{}))
}

const restartedAt = "kubectl.kubernetes.io/restartedAt"

// secretsRestarts: after a rotation and only then, a few at a time, each after
// its own Secret has the new login.
func secretsRestarts(t *testing.T, c *kubernetes.Cluster) {
	const namespaces, each, atOnce = 3, 3, 2
	d := newDelivery(t, c, "roll", `restart: ["deployment/*"]`, fmt.Sprint("restartAtOnce: ", atOnce))
	var names []string
	for i := range namespaces {
		names = append(names, d.namespace(fmt.Sprint("n", i), nil))
		for j := range each {
			d.deploy(names[i], fmt.Sprint("app-", j))
		}
	}
	deployments := func() (list []appsv1.Deployment) {
		for _, ns := range names {
			found, err := d.client.AppsV1().Deployments(ns).List(t.Context(), metav1.ListOptions{})
			d.must(found, err)
			list = append(list, found.Items...)
		}
		return list
	}
	every := func(what string, check func(appsv1.Deployment) bool) {
		t.Helper()
		eventually(t, 2*time.Minute, what, func() error {
			n := 0
			for _, one := range deployments() {
				if check(one) {
					n++
				}
			}
			if n != namespaces*each {
				return fmt.Errorf("%d of %d", n, namespaces*each)
			}
			return nil
		})
	}
	ready := func(one appsv1.Deployment) bool {
		return one.Status.ObservedGeneration == one.Generation && one.Status.UpdatedReplicas == 2 && one.Status.AvailableReplicas == 2 && one.Status.Replicas == 2
	}
	every("the deployments", ready)
	d.product.up("--kubeconfig", c.Kubeconfig())
	every("the notes", func(one appsv1.Deployment) bool { return one.Annotations["regkeeper.dev/login"] != "" })
	// Healing restarts nothing.
	if err := d.client.CoreV1().Secrets(names[0]).Delete(t.Context(), d.secret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "the Secret", func() error { return d.holds(names[0], "secret-0") })
	for _, one := range deployments() {
		if one.Spec.Template.Annotations[restartedAt] != "" || one.Annotations["deployment.kubernetes.io/revision"] != "1" {
			t.Fatalf("%s was restarted without a rotation", one.Name)
		}
	}
	since := c.Mark(t)
	most := d.mostRolling(names)
	began := time.Now()
	d.rotate("secret-1")
	every("the restarts", func(one appsv1.Deployment) bool {
		return one.Spec.Template.Annotations[restartedAt] != "" && ready(one)
	})
	t.Logf("%d deployments restarted within %v, at most %d at a time", namespaces*each, time.Since(began).Round(time.Millisecond), most())
	if n := most(); n > atOnce || n == 0 {
		t.Errorf("%d were rolling at the same time, want at most %d", n, atOnce)
	}
	eventually(t, 10*time.Second, "the record", func() error {
		requests := d.requests(since)
		if n := kubernetes.Count(requests, kubernetes.Request{Verb: "patch", Resource: "deployments"}); n != namespaces*each {
			return fmt.Errorf("%d writes of %d deployments", n, namespaces*each)
		}
		for _, ns := range names {
			fits := func(resource string) func(kubernetes.Request) bool {
				return func(r kubernetes.Request) bool {
					return r.Verb == "patch" && r.Resource == resource && r.Namespace == ns
				}
			}
			if slices.IndexFunc(requests, fits("deployments")) < slices.IndexFunc(requests, fits("secrets")) {
				t.Errorf("in %s a deployment was restarted before the Secret had the login", ns)
			}
		}
		return nil
	})
	if got := d.events(names[0], "app-0"); !slices.Equal(got, []string{"Normal RolloutRestartTriggered"}) {
		t.Errorf("events: %v", got)
	}
}

// mostRolling watches how many deployments were told to restart and have not
// ended doing so, and tells the most there were at the same time.
func (d *delivery) mostRolling(namespaces []string) func() int {
	var mu sync.Mutex
	rolling, most := map[string]bool{}, 0
	ctx, cancel := context.WithCancel(d.t.Context())
	d.t.Cleanup(cancel)
	w, err := d.client.AppsV1().Deployments("").Watch(ctx, metav1.ListOptions{})
	d.must(w, err)
	go func() {
		for event := range w.ResultChan() {
			one, ok := event.Object.(*appsv1.Deployment)
			if !ok || !slices.Contains(namespaces, one.Namespace) {
				continue
			}
			ended := one.Status.ObservedGeneration >= one.Generation && one.Status.UpdatedReplicas == 2 &&
				one.Status.Replicas == 2 && one.Status.AvailableReplicas == 2
			mu.Lock()
			if key := one.Namespace + "/" + one.Name; one.Spec.Template.Annotations[restartedAt] != "" && !ended {
				rolling[key] = true
			} else {
				delete(rolling, key)
			}
			most = max(most, len(rolling))
			mu.Unlock()
		}
	}()
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return most
	}
}

// secretsEvictions: pods that were made before their ServiceAccount named the
// Secret are made again, init containers' images counted; others are not.
func secretsEvictions(t *testing.T, c *kubernetes.Cluster) {
	d := newDelivery(t, c, "evict", "serviceAccounts: [default]", "evict: true")
	ns := d.namespace("n", nil)
	d.annotate("serviceaccount", ns, "default", "regkeeper.dev/exclude", "true")
	one := int32(1)
	for _, name := range []string{"main", "init", "other"} {
		image := string(deliveredHost) + "/app:1"
		if name == "other" {
			image = "elsewhere.example.test/app:1"
		}
		labels := map[string]string{"app": name}
		d.must(d.client.AppsV1().ReplicaSets(ns).Create(t.Context(), &appsv1.ReplicaSet{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: appsv1.ReplicaSetSpec{
				Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: labels},
				Template: corev1.PodTemplateSpec{
					ObjectMeta: metav1.ObjectMeta{Labels: labels},
					Spec: corev1.PodSpec{
						NodeSelector:   map[string]string{"none": "has-this"},
						InitContainers: []corev1.Container{{Name: "init", Image: image}},
						Containers:     []corev1.Container{{Name: "main", Image: image}},
					},
				},
			},
		}, metav1.CreateOptions{}))
	}
	pod := func(name string) (*corev1.Pod, error) {
		list, err := d.client.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
		if err != nil {
			return nil, err
		}
		for i := range list.Items {
			if list.Items[i].DeletionTimestamp == nil {
				return &list.Items[i], nil
			}
		}
		return nil, fmt.Errorf("no pod %s", name)
	}
	before := map[string]types.UID{}
	for name, container := range map[string]string{"main": "containerStatuses", "init": "initContainerStatuses", "other": "containerStatuses"} {
		var stuck *corev1.Pod
		eventually(t, time.Minute, "the pod", func() (err error) { stuck, err = pod(name); return err })
		before[name] = stuck.UID
		what := map[string]string{"containerStatuses": "main", "initContainerStatuses": "init"}[container]
		patch, err := json.Marshal(map[string]any{"status": map[string]any{container: []any{map[string]any{
			"name": what, "image": "", "imageID": "", "ready": false, "restartCount": 0,
			"state": map[string]any{"waiting": map[string]any{"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
		}}}})
		d.must(patch, err)
		d.must(d.client.CoreV1().Pods(ns).Patch(t.Context(), stuck.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"))
	}
	d.product.up("--kubeconfig", c.Kubeconfig())
	eventually(t, time.Minute, "the Secret", func() error { return d.holds(ns, "secret-0") })
	since := c.Mark(t)
	if n := kubernetes.Count(d.requests(0), kubernetes.Request{Resource: "pods/eviction"}); n > 0 {
		t.Errorf("%d evictions of pods whose ServiceAccount does not name the Secret", n)
	}
	began := time.Now()
	d.annotate("serviceaccount", ns, "default", "regkeeper.dev/exclude", "")
	for _, name := range []string{"main", "init"} {
		eventually(t, 30*time.Second, "another pod "+name, func() error {
			now, err := pod(name)
			if err != nil {
				return err
			}
			if now.UID == before[name] {
				return fmt.Errorf("pod %s is the same", name)
			}
			if !slices.Contains(now.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: d.secret}) {
				return fmt.Errorf("pod %s names %v", name, now.Spec.ImagePullSecrets)
			}
			return nil
		})
	}
	t.Logf("the pods were made again within %v of the ServiceAccount's annotation, kubectl included", time.Since(began).Round(time.Millisecond))
	if now, err := pod("other"); err != nil || now.UID != before["other"] {
		t.Errorf("a pod of another registry's image was evicted: %v", err)
	}
	if n := kubernetes.Count(d.requests(since), kubernetes.Request{Verb: "create", Resource: "pods/eviction"}); n != 2 {
		t.Errorf("%d evictions, want 2", n)
	}
}

// TestSecretsOutage: what is changed while the watches are broken is healed when
// they are taken up again, be it too late for that (410): then by a new look.
func TestSecretsOutage(t *testing.T) {
	t.Parallel()
	c := kubernetes.Start(t, kubernetes.Options{Audit: true})
	d := newDelivery(t, c, "team", "serviceAccounts: [default]")
	var names []string
	for i := range 10 {
		names = append(names, d.namespace(fmt.Sprint("n", i), nil))
	}
	daemon := d.product.up("--kubeconfig", c.Kubeconfig())
	eventually(t, time.Minute, "the Secrets", all(names, func(ns string) error { return d.holds(ns, "secret-0") }))
	for round := 1; round <= 3; round++ {
		late := round > 1 // the watches are taken up too late
		before, err := d.client.CoreV1().Secrets("").List(t.Context(), metav1.ListOptions{})
		d.must(before, err)
		if late {
			signal(t, daemon, syscall.SIGSTOP)
		}
		c.StopAPIServer()
		c.StartAPIServer()
		password := fmt.Sprint("secret-", round)
		d.rotate(password)
		for i, ns := range names {
			switch i % 3 {
			case 0:
				if err := d.client.CoreV1().Secrets(ns).Delete(t.Context(), d.secret, metav1.DeleteOptions{}); err != nil {
					t.Fatal(err)
				}
			case 1:
				d.must(d.client.CoreV1().Secrets(ns).Patch(t.Context(), d.secret, types.MergePatchType, []byte(`{"stringData": {".dockerconfigjson": "{}"}}`), metav1.PatchOptions{}))
			}
		}
		if late {
			// An API server that starts remembers no change from before.
			c.StopAPIServer()
			c.StartAPIServer()
			eventually(t, 20*time.Second, "the changes to be forgotten", func() error {
				if got := d.watchFrom(before.ResourceVersion); !strings.HasPrefix(got, "410 ") {
					return fmt.Errorf("a watch from before answers %s", got)
				}
				return nil
			})
			signal(t, daemon, syscall.SIGCONT)
		}
		began := time.Now()
		eventually(t, 2*time.Minute, "the Secrets", all(names, func(ns string) error { return d.holds(ns, password) }))
		eventually(t, time.Minute, "the ServiceAccounts", all(names, d.attached))
		t.Logf("healed and rotated after %v; too late to go on watching: %v", time.Since(began).Round(time.Millisecond), late)
	}
	if daemon.Ended() {
		t.Error("regkeeper has ended")
	}
}

func signal(t testing.TB, p *process.Process, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(p.PID(), s); err != nil {
		t.Fatal(err)
	}
}

// watchFrom is how the API server answers to a watch from a version.
func (d *delivery) watchFrom(version string) string {
	d.t.Helper()
	w, err := d.client.CoreV1().Secrets("").Watch(d.t.Context(), metav1.ListOptions{ResourceVersion: version})
	if err != nil {
		return err.Error()
	}
	defer w.Stop()
	event := <-w.ResultChan()
	if status, ok := event.Object.(*metav1.Status); ok {
		return fmt.Sprintf("%d %s", status.Code, status.Reason)
	}
	return string(event.Type)
}

// TestSecretsLeader: of two with one state, one works; the other takes over
// when it is killed; and sync does not come between.
func TestSecretsLeader(t *testing.T) {
	t.Parallel()
	c := kubernetes.Start(t, kubernetes.Options{Audit: true})
	d := newDelivery(t, c, "team")
	ns := d.namespace("n", nil)
	folder := t.TempDir()
	first := process.Start(t, d.command("up", "--kubeconfig", c.Kubeconfig(), "--data", filepath.Join(folder, "first")))
	eventually(t, time.Minute, "the Secret", func() error { return d.holds(ns, "secret-0") })
	second := process.Start(t, d.command("up", "--kubeconfig", c.Kubeconfig(), "--data", filepath.Join(folder, "second")))
	second.Until(t, time.Minute, "the second to wait", func() bool { return strings.Contains(second.Log(), "another leads") })

	began := time.Now()
	got := d.run("sync", "--kubeconfig", c.Kubeconfig(), "--data", filepath.Join(folder, "third"))
	host, err := os.Hostname()
	d.must(host, err)
	holder := host + "_"
	if got.code != problem.Busy.ExitCode() || !strings.Contains(got.err, "is held by "+holder) {
		t.Errorf("sync beside up: exit code %d: %s%s", got.code, got.out, got.err)
	}
	t.Logf("sync gave up after %v with exit code %d", time.Since(began).Round(time.Second), got.code)

	first.Kill()
	began = time.Now()
	if err := d.client.CoreV1().Secrets(ns).Delete(t.Context(), d.secret, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	second.Until(t, 3*time.Minute, "the second to lead", func() bool {
		return strings.Contains(second.Log(), "msg=leading") || strings.Contains(second.Log(), `"leading"`)
	})
	took := time.Since(began)
	eventually(t, 30*time.Second, "the Secret", func() error { return d.holds(ns, "secret-0") })
	t.Logf("the second leads %v after the first was killed, and has healed after %v", took.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	// The Lease lasts 60 s from when the second saw it renewed last, and it looks
	// every 15 s to 33 s (client-go, tools/leaderelection, JitterFactor).
	if limit := (60 + 2*33 + 5) * time.Second; took > limit {
		t.Errorf("it took %v, want at most %v", took, limit)
	}
}
