package e2e_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	authorization "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	faults "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// installation is a regkeeper in a cluster: what `install kubernetes` printed is
// applied, and its commands run as the ServiceAccount of that.
type installation struct {
	*product
	c         *kubernetes.Cluster
	namespace string
}

// install applies what is printed for a configuration. The printed is returned
// too.
func install(t *testing.T, c *kubernetes.Cluster, namespace, config string, args ...string) (*installation, string) {
	t.Helper()
	p := newProduct(t, config)
	printed := p.must(append([]string{"install", "kubernetes", "--namespace=" + namespace, "--image=" + busyboxImage}, args...)...)
	c.Apply(t, printed)
	// A second time, and from the server's side, it is taken as it is.
	c.KubectlInput(t, printed, "apply", "--server-side", "--force-conflicts", "--filename=-")
	kubeconfig := c.KubeconfigFor(t, namespace, "regkeeper")
	c.Kubectl(t, "config", "--kubeconfig="+kubeconfig, "set-context", "--current", "--namespace="+namespace)
	p.env = append(p.env, "KUBECONFIG="+kubeconfig)
	return &installation{p, c, namespace}, printed
}

// user is who regkeeper is to the cluster.
func (i *installation) user() string {
	return "system:serviceaccount:" + i.namespace + ":regkeeper"
}

// may says whether regkeeper may do something.
func (i *installation) may(a authorization.ResourceAttributes) bool {
	i.t.Helper()
	review, err := i.c.Client().AuthorizationV1().SubjectAccessReviews().Create(i.t.Context(), &authorization.SubjectAccessReview{
		Spec: authorization.SubjectAccessReviewSpec{User: i.user(), Groups: []string{"system:serviceaccounts", "system:authenticated"}, ResourceAttributes: &a},
	}, metav1.CreateOptions{})
	if err != nil {
		i.t.Fatal(err)
	}
	return review.Status.Allowed
}

// refused lists the requests of regkeeper's that the cluster forbade.
func (i *installation) refused(since kubernetes.Mark) (list []string) {
	for _, r := range i.c.Requests(i.t, since) {
		if r.User == i.user() && r.Code == 403 {
			list = append(list, fmt.Sprintf("%s %s %q in %q", r.Verb, r.Resource, r.Name, r.Namespace))
		}
	}
	return list
}

// patience is how long one command may take.
const patience = 15 * time.Second

// attempt runs a command that may take too long. It says whether it ended well,
// and what it wrote to both streams.
func (i *installation) attempt(args ...string) (ok bool, said string) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), patience)
	defer cancel()
	cmd := i.command(args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := process.Run(ctx, cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && ctx.Err() == nil {
		i.t.Fatalf("regkeeper %s: %v", strings.Join(args, " "), err)
	}
	return err == nil, out.String()
}

// right is one verb of one printed rule.
type right struct {
	namespace, role string // no namespace: a ClusterRole
	rule            rbacv1.PolicyRule
	verb            string
}

func (r right) String() string {
	return fmt.Sprintf("%s %s %v in %q", r.verb, r.rule.Resources[0], r.rule.ResourceNames, r.namespace)
}

// attributes are what the right is asked for by.
func (r right) attributes() authorization.ResourceAttributes {
	a := authorization.ResourceAttributes{Namespace: r.namespace, Verb: r.verb, Group: r.rule.APIGroups[0]}
	a.Resource, a.Subresource, _ = strings.Cut(r.rule.Resources[0], "/")
	if len(r.rule.ResourceNames) > 0 {
		a.Name = r.rule.ResourceNames[0]
	}
	return a
}

// rights are all that the ServiceAccount was given.
func (i *installation) rights() (list []right) {
	i.t.Helper()
	selector := metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=regkeeper"}
	roles, err := i.c.Client().RbacV1().Roles("").List(i.t.Context(), selector)
	if err != nil {
		i.t.Fatal(err)
	}
	clusterRoles, err := i.c.Client().RbacV1().ClusterRoles().List(i.t.Context(), selector)
	if err != nil {
		i.t.Fatal(err)
	}
	add := func(namespace, name string, labels map[string]string, rules []rbacv1.PolicyRule) {
		if instance := labels["app.kubernetes.io/instance"]; instance != i.namespace && instance != "regkeeper-"+i.namespace {
			return
		}
		for _, rule := range rules {
			for _, verb := range rule.Verbs {
				list = append(list, right{namespace, name, rule, verb})
			}
		}
	}
	for _, role := range roles.Items {
		add(role.Namespace, role.Name, role.Labels, role.Rules)
	}
	for _, role := range clusterRoles.Items {
		add("", role.Name, role.Labels, role.Rules)
	}
	return list
}

// change rewrites the rules of a right's role.
func (i *installation) change(r right, to func([]rbacv1.PolicyRule) []rbacv1.PolicyRule) {
	i.t.Helper()
	rbac := i.c.Client().RbacV1()
	var err error
	if r.namespace == "" {
		var role *rbacv1.ClusterRole
		if role, err = rbac.ClusterRoles().Get(i.t.Context(), r.role, metav1.GetOptions{}); err == nil {
			role.Rules = to(role.Rules)
			_, err = rbac.ClusterRoles().Update(i.t.Context(), role, metav1.UpdateOptions{})
		}
	} else {
		var role *rbacv1.Role
		if role, err = rbac.Roles(r.namespace).Get(i.t.Context(), r.role, metav1.GetOptions{}); err == nil {
			role.Rules = to(role.Rules)
			_, err = rbac.Roles(r.namespace).Update(i.t.Context(), role, metav1.UpdateOptions{})
		}
	}
	if err != nil {
		i.t.Fatal(err)
	}
}

// without calls do while a right is taken away.
func (i *installation) without(r right, do func()) {
	i.t.Helper()
	var before []rbacv1.PolicyRule
	i.change(r, func(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
		before = rules
		var after []rbacv1.PolicyRule
		for _, rule := range rules {
			if fmt.Sprint(rule) == fmt.Sprint(r.rule) {
				rule.Verbs = slices.DeleteFunc(slices.Clone(rule.Verbs), func(verb string) bool { return verb == r.verb })
			}
			if len(rule.Verbs) > 0 {
				after = append(after, rule)
			}
		}
		return after
	})
	settle := func(want bool) {
		i.t.Helper()
		eventually(i.t, 10*time.Second, "the role to count", func() error {
			if i.may(r.attributes()) != want {
				return fmt.Errorf("%s is allowed: %v", r, !want)
			}
			return nil
		})
	}
	settle(false)
	do()
	i.change(r, func([]rbacv1.PolicyRule) []rbacv1.PolicyRule { return before })
	settle(true)
}

// gone is an error other than that there is nothing.
func gone(t *testing.T, err error) {
	t.Helper()
	if err != nil && !faults.IsNotFound(err) {
		t.Fatal(err)
	}
}

// namedConfig has everything that a secrets target can be asked for, by name.
const namedConfig = `registries:
  - host: registry.example.test
    source: {static: {username: ci, password: {secret: vault/ci/password}}}
    verify: false
targets:
  - name: cluster
    secrets:
      name: pull
      namespaces: [honeydue, billing]
      serviceAccounts: [default]
      restart: [deployment/api]
      evict: true
state: {secret: {}}
`

// patternConfig asks for the same in namespaces that nobody knows before.
var patternConfig = strings.NewReplacer("[honeydue, billing]", `["honey*", billing]`, "[default]", `["*"]`, "deployment/api", "deployment/*").Replace(namedConfig)

// scene plays what takes each right, from the beginning: a first delivery, a
// rotation with a workload to restart and a pod that waits, and a namespace that
// opts out. It stops at the first command that does not end well.
func (i *installation) scene() (ok bool, said string) {
	i.t.Helper()
	i.reset()
	if ok, said = i.attempt("sync"); !ok {
		return ok, said
	}
	i.password("second")
	i.stuck()
	again := ""
	if ok, again = i.attempt("sync"); !ok {
		return ok, said + again
	}
	said += again
	i.c.Kubectl(i.t, "annotate", "namespace", "billing", "regkeeper.dev/exclude=true")
	ok, again = i.attempt("sync")
	return ok, said + again
}

func (i *installation) password(text string) {
	i.t.Helper()
	i.c.Apply(i.t, "apiVersion: v1\nkind: Secret\nmetadata: {namespace: vault, name: ci}\nstringData: {password: "+text+"}\n")
}

// reset has the cluster as it was before anything was delivered.
func (i *installation) reset() {
	t, client := i.t.(*testing.T), i.c.Client()
	t.Helper()
	i.password("first")
	i.c.Kubectl(t, "annotate", "namespace", "billing", "regkeeper.dev/exclude-")
	gone(t, client.CoreV1().Secrets(i.namespace).Delete(t.Context(), "regkeeper-state", metav1.DeleteOptions{}))
	gone(t, client.CoordinationV1().Leases(i.namespace).Delete(t.Context(), "regkeeper-state", metav1.DeleteOptions{}))
	for _, namespace := range []string{"honeydue", "billing"} {
		gone(t, client.CoreV1().Secrets(namespace).Delete(t.Context(), "pull", metav1.DeleteOptions{}))
		_, err := client.CoreV1().ServiceAccounts(namespace).Patch(t.Context(), "default", types.MergePatchType, []byte(`{"imagePullSecrets": null}`), metav1.PatchOptions{})
		gone(t, err)
		now := int64(0)
		gone(t, client.CoreV1().Pods(namespace).Delete(t.Context(), "stuck", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	}
	_, err := client.AppsV1().Deployments("honeydue").Patch(t.Context(), "api", types.MergePatchType, []byte(`{"metadata": {"annotations": {"regkeeper.dev/login": null}}}`), metav1.PatchOptions{})
	gone(t, err)
}

// stuck makes a pod that waits for an image of the registry, and was made
// before its ServiceAccount named the Secret. No node runs it.
func (i *installation) stuck() {
	t, pods := i.t, i.c.Client().CoreV1().Pods("honeydue")
	t.Helper()
	yes := true
	pod := kubernetes.Sleeper("honeydue", "stuck", "registry.example.test/team/app:1")
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "kube-root-ca.crt", UID: i.uid(), Controller: &yes}}
	pod.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "another"}}
	if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The scheduler writes the status too.
	waits := `{"status": {"containerStatuses": [{"name": "main", "image": "registry.example.test/team/app:1", "imageID": "", "ready": false, "restartCount": 0,
		"state": {"waiting": {"reason": "ImagePullBackOff"}}}]}}`
	if _, err := pods.Patch(t.Context(), "stuck", types.StrategicMergePatchType, []byte(waits), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
}

// uid is that of an object which is there, so that the pod's owner is no lie.
func (i *installation) uid() types.UID {
	owner, err := i.c.Client().CoreV1().ConfigMaps("honeydue").Get(i.t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
	if err != nil {
		i.t.Fatal(err)
	}
	return owner.UID
}

const stage = `apiVersion: v1
kind: Namespace
metadata: {name: honeydue}
---
apiVersion: v1
kind: Namespace
metadata: {name: billing}
---
apiVersion: v1
kind: Namespace
metadata: {name: vault}
---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: honeydue, name: api}
spec:
  replicas: 0
  selector: {matchLabels: {app: api}}
  template:
    metadata: {labels: {app: api}}
    spec: {containers: [{name: main, image: none.test/none:1}]}
`

// stages are clusters with the namespaces of the scene in it.
func setStage(t *testing.T) *kubernetes.Cluster {
	t.Helper()
	c := kubernetes.Start(t, kubernetes.Options{Audit: true})
	c.Apply(t, stage)
	for _, namespace := range []string{"honeydue", "billing"} {
		eventually(t, time.Minute, "the ServiceAccount and its ConfigMap", func() error {
			_, err := c.Client().CoreV1().ServiceAccounts(namespace).Get(t.Context(), "default", metav1.GetOptions{})
			_, other := c.Client().CoreV1().ConfigMaps(namespace).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
			return errors.Join(err, other)
		})
	}
	return c
}

// The printed rights are enough: nothing that regkeeper asks for is refused, and
// everything is delivered, restarted, evicted and taken away.
func TestInstallRightsAreEnough(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config string
		args   []string
	}{
		"names":           {namedConfig, nil},
		"names, cronjob":  {namedConfig, []string{"--mode=cronjob"}},
		"patterns":        {patternConfig, nil},
		"state elsewhere": {strings.Replace(namedConfig, "secret: {}", "secret: {namespace: vault}", 1), []string{"--replicas=1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster := setStage(t)
			i, _ := install(t, cluster, "regkeeper", c.config, c.args...)
			since := cluster.Mark(t)
			if ok, said := i.scene(); !ok || strings.Contains(said, "event not made") {
				t.Fatalf("the scene ended with %s", said)
			}
			if refused := i.refused(since); len(refused) > 0 {
				t.Errorf("refused: %s", strings.Join(refused, "\n"))
			}
			pull, err := cluster.Client().CoreV1().Secrets("honeydue").Get(t.Context(), "pull", metav1.GetOptions{})
			if err != nil || !bytes.Contains(pull.Data[corev1.DockerConfigJsonKey], []byte("registry.example.test")) {
				t.Errorf("the Secret is %v, %v", pull, err)
			}
			if _, err := cluster.Client().CoreV1().Secrets("billing").Get(t.Context(), "pull", metav1.GetOptions{}); !faults.IsNotFound(err) {
				t.Errorf("the Secret of a namespace that opted out: %v", err)
			}
			account, err := cluster.Client().CoreV1().ServiceAccounts("honeydue").Get(t.Context(), "default", metav1.GetOptions{})
			if err != nil || len(account.ImagePullSecrets) != 1 {
				t.Errorf("the ServiceAccount is %v, %v", account, err)
			}
			api, err := cluster.Client().AppsV1().Deployments("honeydue").Get(t.Context(), "api", metav1.GetOptions{})
			if err != nil || api.Spec.Template.Annotations["kubectl.kubernetes.io/restartedAt"] == "" {
				t.Errorf("the Deployment was not restarted: %v, %v", api, err)
			}
			pod, err := cluster.Client().CoreV1().Pods("honeydue").Get(t.Context(), "stuck", metav1.GetOptions{})
			if err == nil && pod.DeletionTimestamp == nil || err != nil && !faults.IsNotFound(err) {
				t.Errorf("the pod that waits is there still: %v", err)
			}
			i.mayNot(c.config == patternConfig)
		})
	}
}

// mayNot holds regkeeper to what it must not do.
func (i *installation) mayNot(wide bool) {
	i.t.Helper()
	forbidden := []authorization.ResourceAttributes{
		{Namespace: "honeydue", Verb: "list", Resource: "secrets"},
		{Namespace: "honeydue", Verb: "get", Resource: "secrets", Name: "pull"},
		{Namespace: "honeydue", Verb: "list", Resource: "secrets", Name: "another"},
		{Namespace: "honeydue", Verb: "create", Resource: "secrets", Name: "another"},
		{Namespace: "honeydue", Verb: "create", Resource: "secrets"},
		{Namespace: "honeydue", Verb: "create", Resource: "pods"},
		{Namespace: "honeydue", Verb: "delete", Resource: "pods"},
		{Namespace: "honeydue", Verb: "create", Resource: "pods", Subresource: "exec"},
		{Namespace: "honeydue", Verb: "get", Resource: "pods", Subresource: "exec"},
		{Namespace: "honeydue", Verb: "create", Resource: "serviceaccounts", Subresource: "token", Name: "default"},
		{Namespace: "honeydue", Verb: "create", Resource: "deployments", Group: "apps"},
		{Namespace: "honeydue", Verb: "update", Resource: "deployments", Group: "apps", Name: "api"},
		{Namespace: "vault", Verb: "list", Resource: "secrets"},
		{Namespace: "vault", Verb: "patch", Resource: "secrets", Name: "ci"},
		{Namespace: i.namespace, Verb: "list", Resource: "secrets"},
		{Namespace: i.namespace, Verb: "get", Resource: "secrets", Name: "regkeeper-env"},
		{Namespace: i.namespace, Verb: "delete", Resource: "secrets", Name: "regkeeper-state"},
		{Namespace: i.namespace, Verb: "update", Resource: "configmaps", Name: "regkeeper"},
		{Namespace: "kube-system", Verb: "list", Resource: "secrets"},
		{Verb: "list", Resource: "secrets"},
		{Verb: "create", Resource: "namespaces"},
		{Verb: "patch", Resource: "namespaces", Name: "honeydue"},
		{Verb: "list", Resource: "nodes"},
		{Verb: "create", Resource: "clusterrolebindings", Group: "rbac.authorization.k8s.io"},
		{Namespace: "honeydue", Verb: "escalate", Resource: "roles", Group: "rbac.authorization.k8s.io"},
		{Namespace: "honeydue", Verb: "bind", Resource: "roles", Group: "rbac.authorization.k8s.io"},
		{Verb: "impersonate", Resource: "users"},
	}
	if !wide {
		forbidden = append(forbidden,
			authorization.ResourceAttributes{Verb: "list", Resource: "namespaces"},
			authorization.ResourceAttributes{Namespace: "kube-system", Verb: "list", Resource: "secrets", Name: "pull"},
			authorization.ResourceAttributes{Namespace: "honeydue", Verb: "patch", Resource: "serviceaccounts", Name: "another"},
			authorization.ResourceAttributes{Namespace: "honeydue", Verb: "list", Resource: "serviceaccounts"},
			authorization.ResourceAttributes{Namespace: "honeydue", Verb: "patch", Resource: "deployments", Group: "apps", Name: "another"},
			authorization.ResourceAttributes{Namespace: "kube-system", Verb: "list", Resource: "pods"})
	}
	for _, a := range forbidden {
		if i.may(a) {
			i.t.Errorf("regkeeper may %v", a)
		}
	}
}

// spare are rights without which everything is done all the same, for a price
// that is said where they are given.
func spare(r right) bool {
	return r.verb == "patch" && r.rule.Resources[0] == "events" || // a repeated Event is made anew
		r.verb == "get" && r.rule.Resources[0] == "pods/exec" || // each exec is refused first
		r.verb == "get" && r.rule.Resources[0] == "pods" // a pod that went meanwhile is reported as trouble
}

// The printed rights are no more than is needed: with any one taken away,
// regkeeper fails or reports it.
func TestInstallRightsAreNeeded(t *testing.T) {
	t.Parallel()
	c := setStage(t)
	i, _ := install(t, c, "regkeeper", namedConfig)
	if ok, said := i.scene(); !ok {
		t.Fatalf("with all rights it ended with %s", said)
	}
	seen := 0
	for _, r := range i.rights() {
		if spare(r) || r.namespace == "billing" && r.verb != "delete" {
			continue // billing is as honeydue, and is where a Secret is deleted
		}
		if r.namespace == "honeydue" && r.verb == "delete" {
			continue
		}
		seen++
		i.without(r, func() {
			began := time.Now()
			// Who stays says so, and tries again for ever.
			if r.verb == "watch" || r.rule.Resources[0] == "leases" {
				i.reset()
				i.staysWithout(r)
				return
			}
			ok, said := i.scene()
			reported := strings.Contains(said, "forbidden") || strings.Contains(said, "event not made")
			if !reported {
				t.Errorf("without %s it ended well (%v), and said\n%s", r, ok, said)
			}
			if ok && r.rule.Resources[0] != "events" {
				t.Errorf("without %s it ended well, and said\n%s", r, said)
			}
			t.Logf("without %s: reported after %v", r, time.Since(began).Round(time.Millisecond))
		})
	}
	if seen < 25 {
		t.Errorf("only %d rights were taken away", seen)
	}
}

// staysWithout runs the daemon without a right, which it logs.
func (i *installation) staysWithout(r right) {
	i.t.Helper()
	daemon := process.Start(i.t, i.command("up", "--health=127.0.0.1:0"))
	defer daemon.Stop()
	word := fmt.Sprintf(`cannot %s resource \"%s`, r.verb, r.rule.Resources[0])
	eventually(i.t, patience, "word of "+r.String(), func() error {
		if log := daemon.Log(); !strings.Contains(log, word) {
			return errors.New(log)
		}
		return nil
	})
}

// podsConfig is of runners in pods.
const podsConfig = `registries:
  - host: registry.example.test
    source: {static: {username: ci, password: {env: PASSWORD}}}
    verify: false
targets:
  - name: runners
    pods: {namespace: %s, selector: app=runner, path: /tmp/config.json}
state: {secret: {}}
`

// What is printed for runners in pods is enough and no more, and runs: the
// Deployment as it is printed, in a namespace of the Pod Security Standard
// "restricted".
func TestInstallForPods(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	runners, own := c.Namespace(t), c.Namespace(t)
	runner := kubernetes.Sleeper(runners, "runner", busyboxImage)
	runner.Labels = map[string]string{"app": "runner"}
	c.Run(t, runner)
	image := "regkeeper.test/regkeeper:1"
	c.Load(t, image, ownImage(t))
	i, printed := install(t, c, own, fmt.Sprintf(podsConfig, runners), "--image="+image)
	i.env = append(i.env, "PASSWORD=s3cret")
	c.Kubectl(t, "delete", "clusterrole,clusterrolebinding", "--selector=app.kubernetes.io/instance=regkeeper-"+own)
	if strings.Contains(printed, "kind: ClusterRole\n") {
		t.Error("a target with a namespace takes a ClusterRole")
	}
	t.Cleanup(func() {
		c.Client().RbacV1().Roles(runners).Delete(context.Background(), "regkeeper-"+own, metav1.DeleteOptions{})
	})

	// The Deployment runs, and does its work, once it has the password.
	c.KubectlInput(t, "PASSWORD=first\n", "create", "secret", "generic", "regkeeper-env", "--namespace="+own, "--from-env-file=/dev/stdin")
	c.Kubectl(t, "rollout", "restart", "deployment/regkeeper", "--namespace="+own)
	c.Kubectl(t, "rollout", "status", "deployment/regkeeper", "--namespace="+own, "--timeout=90s")
	delivered := func() error {
		out, diag, err := c.Exec(t.Context(), runners, "runner", "main", nil, "cat", "/tmp/config.json")
		if err == nil && !strings.Contains(out, "registry.example.test") {
			err = errors.New(out + diag)
		}
		return err
	}
	eventually(t, time.Minute, "the login in the runner", delivered)
	c.Kubectl(t, "scale", "deployment/regkeeper", "--namespace="+own, "--replicas=0")
	eventually(t, time.Minute, "the pods to end", func() error {
		pods, err := c.Client().CoreV1().Pods(own).List(t.Context(), metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("%d are there", len(pods.Items))
		}
		return err
	})

	fresh := func() {
		if _, _, err := c.Exec(t.Context(), runners, "runner", "main", nil, "rm", "-f", "/tmp/config.json"); err != nil {
			t.Fatal(err)
		}
	}
	// A pod that was killed leaves its Lease, which runs out.
	eventually(t, time.Minute, "the pods' Lease to end", func() error {
		if ok, said := i.attempt("sync"); !ok {
			return errors.New(said)
		}
		return nil
	})
	since := c.Mark(t)
	fresh()
	if ok, said := i.attempt("sync"); !ok || strings.Contains(said, "event not made") {
		t.Fatalf("with all rights it ended with %s", said)
	}
	if refused := i.refused(since); len(refused) > 0 {
		t.Errorf("refused: %s", strings.Join(refused, "\n"))
	}
	for _, r := range i.rights() {
		if r.namespace != runners {
			continue // the state's are as of every configuration
		}
		fresh()
		i.without(r, func() {
			if r.verb == "watch" {
				i.staysWithout(r)
				return
			}
			since := c.Mark(t)
			ok, said := i.attempt("sync")
			switch {
			case r.verb == "get" && r.rule.Resources[0] == "pods/exec":
				if err := delivered(); !ok || err != nil {
					t.Errorf("without %s it ended with %v: %s", r, err, said)
				}
				eventually(t, 5*time.Second, "the refused request", func() error {
					if len(i.refused(since)) == 0 {
						return errors.New("there is none: the right is not needed at all")
					}
					return nil
				})
			case spare(r):
				if !ok {
					t.Errorf("without %s it ended with %s", r, said)
				}
			case r.rule.Resources[0] == "events":
				if !strings.Contains(said, "event not made") {
					t.Errorf("without %s it said %s", r, said)
				}
			case ok || !strings.Contains(said, "forbidden"):
				t.Errorf("without %s it ended well (%v), and said %s", r, ok, said)
			}
		})
	}

	// The CronJob does its work when it is told to.
	cron := i.must("install", "kubernetes", "--namespace="+own, "--image="+image, "--mode=cronjob")
	c.Apply(t, cron)
	fresh()
	c.Kubectl(t, "create", "job", "now", "--from=cronjob/regkeeper", "--namespace="+own)
	c.Kubectl(t, "wait", "job/now", "--for=condition=complete", "--timeout=90s", "--namespace="+own)
	if err := delivered(); err != nil {
		t.Errorf("after the job the runner has %v", err)
	}
}

// Targets in another cluster are reached by the kubeconfig of a Secret, with the
// rights that are printed for it, while the state stays in the cluster that the
// pods run in.
func TestInstallOtherClusters(t *testing.T) {
	t.Parallel()
	c := sharedCluster(t)
	team, own, there := c.Namespace(t), c.Namespace(t), c.Namespace(t)
	config := fmt.Sprintf(`registries:
  - host: registry.example.test
    source: {static: {username: ci, password: {secret: %s/ci/password}}}
    verify: false
targets:
  - name: elsewhere
    contexts: [other]
    secrets: {name: pull, namespaces: [%s], serviceAccounts: [default]}
state: {secret: {}}
`, own, team)
	image := "regkeeper.test/regkeeper:2"
	c.Load(t, image, ownImage(t))
	p := newProduct(t, config)
	// One cluster is both; what tells them apart is who asks.
	c.Apply(t, p.must("install", "kubernetes", "--namespace="+there, "--rbac-only", "--for-context=other"))
	kubeconfig := c.KubeconfigFor(t, there, "regkeeper")
	current := strings.TrimSpace(c.Kubectl(t, "config", "--kubeconfig="+kubeconfig, "current-context"))
	c.Kubectl(t, "config", "--kubeconfig="+kubeconfig, "rename-context", current, "other")
	c.Kubectl(t, "config", "--kubeconfig="+kubeconfig, "unset", "current-context")
	c.Kubectl(t, "create", "secret", "generic", "clusters", "--namespace="+own, "--from-file=config="+kubeconfig)
	c.Kubectl(t, "create", "secret", "generic", "ci", "--namespace="+own, "--from-literal=password=first")
	c.Apply(t, p.must("install", "kubernetes", "--namespace="+own, "--image="+image, "--kubeconfig-secret=clusters"))
	t.Cleanup(func() {
		for _, namespace := range []string{own, there} {
			rbac := c.Client().RbacV1()
			rbac.ClusterRoles().Delete(context.Background(), "regkeeper-"+namespace, metav1.DeleteOptions{})
			rbac.ClusterRoleBindings().Delete(context.Background(), "regkeeper-"+namespace, metav1.DeleteOptions{})
		}
	})
	c.Kubectl(t, "rollout", "status", "deployment/regkeeper", "--namespace="+own, "--timeout=90s")
	eventually(t, time.Minute, "the Secret", func() error {
		_, err := c.Client().CoreV1().Secrets(team).Get(t.Context(), "pull", metav1.GetOptions{})
		return err
	})
	if _, err := c.Client().CoreV1().Secrets(own).Get(t.Context(), "regkeeper-state", metav1.GetOptions{}); err != nil {
		t.Errorf("the state is not where the pods run: %v", err)
	}
}

// What is printed for runners is taken by a real API server, and by one that
// holds the namespace to a standard only where that lets Docker in.
func TestInstallGiteaRunner(t *testing.T) {
	t.Parallel()
	c := setStage(t)
	p := newProduct(t, "")
	printed := p.must("install", "gitea-runner", "--namespace=vault", "--instance=https://gitea.example.test", "--registration-token-secret=token",
		"--labels=homelab:docker://gitea.example.test/homelab/runner:1,host-docker:host", "--replicas=2", "--image="+busyboxImage, "--dind-image="+busyboxImage)
	c.Apply(t, printed)
	c.KubectlInput(t, printed, "apply", "--server-side", "--force-conflicts", "--filename=-")
	pods := func(n int) {
		t.Helper()
		eventually(t, time.Minute, "the runners", func() error {
			found, err := c.Client().CoreV1().Pods("vault").List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=actions-act-runner"})
			if err == nil && len(found.Items) != n {
				err = fmt.Errorf("there are %d", len(found.Items))
			}
			return err
		})
	}
	pods(2)
	c.KubectlInput(t, printed, "delete", "--filename=-")
	pods(0)
	// As the notes say: privileged it must be.
	c.Kubectl(t, "label", "namespace", "vault", "pod-security.kubernetes.io/enforce=baseline")
	c.Apply(t, printed)
	eventually(t, time.Minute, "word of the refusal", func() error {
		events, err := c.Client().CoreV1().Events("vault").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, event := range events.Items {
			if strings.Contains(event.Message, "violates PodSecurity") {
				return nil
			}
		}
		return errors.New("there is none")
	})
	c.Kubectl(t, "label", "--overwrite", "namespace", "vault", "pod-security.kubernetes.io/enforce=privileged")
	pods(2)
}

// ownImage is an image such as the Dockerfile makes: the program, and nothing
// else.
func ownImage(t *testing.T) v1.Image {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var files bytes.Buffer
	archive := tar.NewWriter(&files)
	if err := errors.Join(
		archive.WriteHeader(&tar.Header{Name: "regkeeper", Mode: 0o755, Size: int64(len(program))}),
		second(archive.Write(program)), archive.Close(),
	); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.User, config.Config.Entrypoint = "65532:65532", []string{"/regkeeper"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

func second[T any](_ T, err error) error { return err }
