package manifests_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/manifests"
	"github.com/regkeeper/regkeeper/problem"
)

var update = flag.Bool("update", false, "rewrite the goldens, the kustomize base and the table of docs/kubernetes.md")

const image = "ghcr.io/regkeeper/regkeeper:v1.0.0"

// cases are configurations of every kind.
var cases = []struct {
	name, config string
	options      manifests.Options
}{
	{"runners", "runners.yaml", manifests.Options{}},
	{"runners-cronjob", "runners.yaml", manifests.Options{Mode: manifests.CronJob, Schedule: "*/15 * * * *"}},
	{"runners-in-gitea", "runners.yaml", manifests.Options{Namespace: "gitea", Replicas: 1, OpenNetwork: true}},
	{"names", "names.yaml", manifests.Options{EgressPorts: []int32{3128, 443}}},
	{"patterns", "patterns.yaml", manifests.Options{}},
	{"clusters", "clusters.yaml", manifests.Options{KubeconfigSecret: "clusters"}},
}

func load(t testing.TB, file string) (config.Config, []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(file, manifests.Folder, text)
	if err != nil {
		t.Fatal(err)
	}
	return c, text
}

// golden compares a text with a file.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s; run go test ./manifests -update if that is meant (-want +got)\n%s", path, diff)
	}
}

// notes are as a comment, for the goldens.
func notes(set manifests.Set) string {
	return strings.Join(set.Notes, "\n")
}

// TestCronJobSaysWhatItLeaves has something to be done at set times that a CronJob
// does not do.
func TestCronJobSaysWhatItLeaves(t *testing.T) {
	t.Parallel()
	_, text := load(t, "runners.yaml")
	for added, want := range map[string]bool{
		"": false,
		"images: [{match: gitea.example.com/a/*, keep: [{last: 3}]}]\n":                                        false,
		"images: [{match: gitea.example.com/a/*, keep: [{last: 3}], prune: {every: 1h}}]\n":                    true,
		"mirrors: [{name: b, from: gitea.example.com/a/*, to: [b.example.com/a], run: {cron: '0 3 * * *'}}]\n": true,
	} {
		whole := append(slices.Clone(text), added...)
		c, err := config.Parse("runners.yaml", manifests.Folder, whole)
		if err != nil {
			t.Fatal(err)
		}
		for mode, says := range map[manifests.Mode]bool{manifests.CronJob: want, manifests.Deployment: false} {
			set, err := manifests.Kubernetes(c, whole, manifests.Options{Mode: mode, Image: image})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Contains(notes(set), "neither prunes nor mirrors"); got != says {
				t.Errorf("%s with %q says it: %v", mode, added, got)
			}
		}
	}
}

func TestKubernetes(t *testing.T) {
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			cfg, text := load(t, c.config)
			o := c.options
			o.Image = image
			set, err := manifests.Kubernetes(cfg, text, o)
			if err != nil {
				t.Fatal(err)
			}
			written, err := set.YAML(notes(set))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", c.name+".golden"), written)
			again, err := manifests.Kubernetes(cfg, text, o)
			if err != nil {
				t.Fatal(err)
			}
			if other, err := again.YAML(notes(again)); err != nil || !bytes.Equal(written, other) {
				t.Errorf("a second time it is another text (%v):\n%s", err, cmp.Diff(written, other))
			}
			read := decode(t, written)
			if diff := cmp.Diff(set.Objects, read, cmp.Transformer("bare", untyped)); diff != "" {
				t.Errorf("what is read is not what was made (-made +read):\n%s", diff)
			}
			checkRights(t, cfg, o, read)
			checkPods(t, read)
			if got := find[*corev1.ConfigMap](t, read).Data["regkeeper.yaml"]; got != string(text) {
				t.Errorf("the configuration is another:\n%s", cmp.Diff(string(text), got))
			}
		})
	}
}

// untyped drops kind and version, which typed objects may have or not.
func untyped(object runtime.Object) string {
	object = object.DeepCopyObject()
	object.GetObjectKind().SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(""))
	text, err := json.Marshal(object)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%T %s", object, text)
}

// decode reads documents as an apiserver does: what is not a field of the kind
// is a fault.
func decode(t *testing.T, text []byte) []runtime.Object {
	t.Helper()
	decoder := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for _, document := range strings.Split("\n"+string(text), "\n---\n")[1:] {
		object, _, err := decoder.Decode([]byte(document), nil, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		objects = append(objects, object)
	}
	if len(objects) == 0 {
		t.Fatal("there are no documents")
	}
	return objects
}

func find[T runtime.Object](t *testing.T, objects []runtime.Object) T {
	t.Helper()
	for _, object := range objects {
		if found, ok := object.(T); ok {
			return found
		}
	}
	t.Fatalf("there is no %T", *new(T))
	panic("unreachable")
}

// rulesOf are the rules of Roles by namespace, and of ClusterRoles under the
// empty one.
func rulesOf(objects []runtime.Object) map[string][]rbacv1.PolicyRule {
	rules := map[string][]rbacv1.PolicyRule{}
	for _, object := range objects {
		switch o := object.(type) {
		case *rbacv1.Role:
			rules[o.Namespace] = append(rules[o.Namespace], o.Rules...)
		case *rbacv1.ClusterRole:
			rules[""] = append(rules[""], o.Rules...)
		}
	}
	return rules
}

// checkRights holds rules to what must never be given.
func checkRights(t interface {
	Helper()
	Errorf(string, ...any)
}, c config.Config, o manifests.Options, objects []runtime.Object) {
	t.Helper()
	own := o.Namespace
	if own == "" {
		own = manifests.Name
	}
	if c.State != nil && c.State.Namespace != "" {
		own = c.State.Namespace
	}
	executes, everywhere := map[string]bool{}, false
	for _, target := range c.Targets {
		if target.Pods == nil || !slices.Contains(target.Clusters, config.Cluster{Context: o.Context}) {
			continue
		}
		everywhere = everywhere || len(target.Pods.Namespaces) == 0
		for _, namespace := range target.Pods.Namespaces {
			executes[namespace] = true
		}
	}
	for namespace, rules := range rulesOf(objects) {
		for _, rule := range rules {
			all := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs, rule.ResourceNames)
			if slices.Contains(all, "*") || slices.Contains(rule.Verbs, "deletecollection") || len(rule.NonResourceURLs) > 0 {
				t.Errorf("namespace %q: a rule for everything: %v", namespace, rule)
			}
			if len(rule.Verbs) == 0 || len(rule.Resources) != 1 || len(rule.APIGroups) != 1 {
				t.Errorf("namespace %q: a rule for nothing, or for several: %v", namespace, rule)
			}
			making := namespace == own && slices.Equal(rule.Verbs, []string{"create"})
			switch rule.Resources[0] {
			case "secrets":
				if len(rule.ResourceNames) == 0 && !making {
					t.Errorf("namespace %q: any Secret: %v", namespace, rule)
				}
			case "leases":
				if namespace != own || len(rule.ResourceNames) == 0 && !making {
					t.Errorf("namespace %q: any Lease: %v", namespace, rule)
				}
			case "pods/exec":
				if !executes[namespace] && (namespace != "" || !everywhere) {
					t.Errorf("namespace %q: exec where no target is: %v", namespace, rule)
				}
			case "namespaces":
				if slices.ContainsFunc(rule.Verbs, func(verb string) bool { return verb != "get" && verb != "list" && verb != "watch" }) {
					t.Errorf("namespace %q: a change of namespaces: %v", namespace, rule)
				}
			case "roles", "rolebindings", "clusterroles", "clusterrolebindings", "pods/attach", "nodes":
				t.Errorf("namespace %q: %v", namespace, rule)
			}
			if o.Mode == manifests.CronJob && slices.Contains(rule.Verbs, "watch") {
				t.Errorf("namespace %q: a CronJob watches nothing: %v", namespace, rule)
			}
		}
	}
}

// checkPods holds pods to the Pod Security Standard "restricted", and to what
// is promised beyond.
func checkPods(t *testing.T, objects []runtime.Object) {
	t.Helper()
	var pod corev1.PodTemplateSpec
	for _, object := range objects {
		switch o := object.(type) {
		case *appsv1.Deployment:
			pod = o.Spec.Template
			if selector, err := metav1.LabelSelectorAsSelector(o.Spec.Selector); err != nil || selector.Empty() {
				t.Errorf("the Deployment selects %v, %v", selector, err)
			}
		case *batchv1.CronJob:
			pod = o.Spec.JobTemplate.Spec.Template
		}
	}
	security, container := pod.Spec.SecurityContext, pod.Spec.Containers[0]
	if !*security.RunAsNonRoot || *security.RunAsUser == 0 || security.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault ||
		pod.Spec.HostNetwork || pod.Spec.HostPID {
		t.Errorf("the pod is not restricted: %v", pod.Spec)
	}
	if c := container.SecurityContext; *c.AllowPrivilegeEscalation || !*c.ReadOnlyRootFilesystem || !slices.Equal(c.Capabilities.Drop, []corev1.Capability{"ALL"}) {
		t.Errorf("the container is not restricted: %v", c)
	}
	if _, ok := container.Resources.Limits[corev1.ResourceCPU]; ok {
		t.Error("the CPU has a limit")
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.HostPath != nil {
			t.Errorf("volume %s is of the node", volume.Name)
		}
	}
}

func TestAccessElsewhere(t *testing.T) {
	c, _ := load(t, "clusters.yaml")
	set, err := manifests.Access(c, manifests.Options{Context: "staging"})
	if err != nil {
		t.Fatal(err)
	}
	written, err := set.YAML(notes(set))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/clusters-staging.golden", written)
	checkRights(t, c, manifests.Options{Context: "staging"}, decode(t, written))
	_, err = manifests.Access(c, manifests.Options{Context: "other"})
	if problem.KindOf(err) != problem.Config || !strings.Contains(problem.HintOf(err), "production, staging") {
		t.Errorf("a context of no target: %v: %s", err, problem.HintOf(err))
	}
}

func TestHelmValues(t *testing.T) {
	for _, c := range cases {
		cfg, text := load(t, c.config)
		o := c.options
		o.Image = image
		values, _, err := manifests.HelmValues(cfg, text, o)
		if err != nil {
			t.Fatal(err)
		}
		golden(t, filepath.Join("testdata", c.name+".values.golden"), values)
	}
}

const good = `registries:
  - host: gitea.example.com
    source: {static: {username: ci, password: {env: P}}}
targets:
  - name: cluster
    secrets: {name: s, namespaces: [a]}
`

func TestRefusals(t *testing.T) {
	const state = "state: {secret: {}}\n"
	for _, c := range []struct {
		name, config string
		options      manifests.Options
		kind         problem.Kind
		text, hint   string
	}{
		{"state in a folder", good, manifests.Options{}, problem.Config, "a pod loses", "state: {secret: {}}"},
		{"embedded registry", good + state + "serve: {registry: {}}\n", manifests.Options{}, problem.Config, "serve.registry", "take serve.registry out"},
		{"builtin", strings.Replace(good, "static: {username: ci, password: {env: P}}", "builtin: {}", 1) + state, manifests.Options{}, problem.Config, "source builtin", "that serves that registry"},
		{"secret file", strings.Replace(good, "{env: P}", "{file: p}", 1) + state, manifests.Options{}, problem.Config, "/etc/regkeeper/p is not in the pod", "{secret: namespace/name/key}"},
		{"secret program", strings.Replace(good, "{env: P}", "{exec: [pass, s3cret]}", 1) + state, manifests.Options{}, problem.Config, "program pass is not in the image", "put what it prints into a Secret"},
		{"file target", strings.Replace(good, "secrets: {name: s, namespaces: [a]}", "file: {path: /x/config.json}", 1) + state, manifests.Options{}, problem.Config, "target cluster writes files", "on that machine"},
		{"context without kubeconfig", strings.Replace(good, "secrets:", "contexts: [x]\n    secrets:", 1) + state, manifests.Options{}, problem.Config, "other clusters", "--kubeconfig-secret"},
		{"kubeconfig elsewhere", strings.Replace(good, "secrets:", "kubeconfig: k\n    secrets:", 1) + state, manifests.Options{KubeconfigSecret: "k"}, problem.Config, "/etc/regkeeper/k is not in the pod", "take kubeconfig: out"},
		{"kubeconfig without contexts", strings.Replace(good, "secrets:", "kubeconfig: "+manifests.Kubeconfig+"\n    secrets:", 1) + state, manifests.Options{KubeconfigSecret: "k"}, problem.Config, "current context", "name contexts:"},
		{"several", good + "serve: {registry: {}}\n", manifests.Options{}, problem.Config, "take serve.registry out of this configuration", ""},
		{"character", good + state + "# \u0085", manifests.Options{}, problem.Config, "does not carry", "U+0085"},
		{"mode", good + state, manifests.Options{Mode: "daemonset"}, problem.Usage, `mode "daemonset"`, "deployment or cronjob"},
		{"schedule", good + state, manifests.Options{Schedule: "hourly"}, problem.Usage, `schedule "hourly"`, "five fields"},
		{"schedule with a zone", good + state, manifests.Options{Schedule: "TZ=UTC 0 * * * *"}, problem.Usage, "cannot be read", "five fields"},
		{"namespace", good + state, manifests.Options{Namespace: "A b"}, problem.Usage, `namespace "A b"`, "lower-case"},
		{"kubeconfig secret", good + state, manifests.Options{KubeconfigSecret: "A b"}, problem.Usage, `"A b" is no name`, "lower-case"},
		{"replicas", good + state, manifests.Options{Replicas: -1}, problem.Usage, "-1 replicas", "1 or more"},
		{"port", good + state, manifests.Options{EgressPorts: []int32{70000}}, problem.Usage, "70000 is no port", "65535"},
	} {
		cfg, err := config.Parse("x", manifests.Folder, []byte(c.config))
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		_, err = manifests.Kubernetes(cfg, []byte(c.config), c.options)
		if problem.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.text) || !strings.Contains(problem.HintOf(err), c.hint) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v of kind %s, hint %q", c.name, err, problem.KindOf(err), problem.HintOf(err))
		}
		if _, _, other := manifests.HelmValues(cfg, []byte(c.config), c.options); other == nil || other.Error() != err.Error() {
			t.Errorf("%s: for Helm it is %v", c.name, other)
		}
	}
}

// TestRightsProperties makes configurations of all sorts and holds what they
// take to what must never be given; and a configuration with a target more
// never takes less.
func TestRightsProperties(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "b", "team-x", manifests.Name})
	word := rapid.SampledFrom([]string{"api", "worker", "default"})
	target := rapid.Custom(func(t *rapid.T) config.Target {
		target := config.Target{Name: word.Draw(t, "target"), Clusters: []config.Cluster{{}}}
		if rapid.Bool().Draw(t, "pods") {
			target.Pods = &config.Pods{Namespaces: rapid.SliceOfNDistinct(name, 0, 3, rapid.ID).Draw(t, "namespaces"), Selector: "a=b"}
			return target
		}
		s := &config.Secrets{Name: word.Draw(t, "secret"), Evict: rapid.Bool().Draw(t, "evict")}
		s.Namespaces = rapid.SliceOfNDistinct(rapid.OneOf(name, rapid.Just("team-*")), 1, 3, rapid.ID).Draw(t, "namespaces")
		s.ServiceAccounts = rapid.SliceOfN(rapid.OneOf(word, rapid.Just("*")), 0, 2).Draw(t, "accounts")
		for range rapid.IntRange(0, 2).Draw(t, "workloads") {
			s.Restart = append(s.Restart, config.Workload{
				Kind: rapid.SampledFrom([]string{"deployment", "statefulset", "daemonset"}).Draw(t, "kind"), Name: rapid.OneOf(word, rapid.Just("*")).Draw(t, "workload"),
			})
		}
		target.Secrets = s
		return target
	})
	rapid.Check(t, func(t *rapid.T) {
		c, err := config.Parse("x", manifests.Folder, []byte(good+"state: {secret: {}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		c.State.Namespace = rapid.SampledFrom([]string{"", "keeper"}).Draw(t, "state")
		c.Targets = rapid.SliceOfN(target, 0, 4).Draw(t, "targets")
		o := manifests.Options{Image: image, Mode: rapid.SampledFrom([]manifests.Mode{manifests.Deployment, manifests.CronJob}).Draw(t, "mode")}
		set, err := manifests.Kubernetes(c, nil, o)
		if err != nil {
			t.Fatal(err)
		}
		checkRights(t, c, o, set.Objects)
		rules := rulesOf(set.Objects)
		more := c
		more.Targets = append(slices.Clone(c.Targets), target.Draw(t, "more"))
		wider := manifests.Rules(manifests.Rights(more, o))
		for _, right := range manifests.Rights(c, o) {
			for _, verb := range right.Verbs {
				for _, object := range append(slices.Clone(right.Names), "") {
					if object == "" && len(right.Names) > 0 {
						continue
					}
					if !allows(rules[right.Namespace], right, verb, object) || !allows(wider[right.Namespace], right, verb, object) {
						t.Errorf("%s %s %q in %q is not given", verb, right.Resource, object, right.Namespace)
					}
				}
			}
		}
		given := 0
		for _, rules := range rules {
			for _, rule := range rules {
				given += len(rule.Verbs) * max(1, len(rule.ResourceNames))
			}
		}
		asked := map[string]bool{}
		for _, right := range manifests.Rights(c, o) {
			for _, verb := range right.Verbs {
				for _, object := range append(slices.Clone(right.Names), "") {
					if (object == "") == (len(right.Names) == 0) {
						asked[right.Namespace+" "+right.Resource+" "+verb+" "+object] = true
					}
				}
			}
		}
		if given > len(asked) {
			t.Errorf("%d things are given, and %d were asked for", given, len(asked))
		}
	})
}

// allows says whether rules allow something, as RBAC reads them.
func allows(rules []rbacv1.PolicyRule, right manifests.Right, verb, name string) bool {
	return slices.ContainsFunc(rules, func(rule rbacv1.PolicyRule) bool {
		return slices.Contains(rule.APIGroups, right.Group) && slices.Contains(rule.Resources, right.Resource) && slices.Contains(rule.Verbs, verb) &&
			(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, name))
	})
}

// TestConfigurationIsKept puts any text into the ConfigMap and has it back.
func TestConfigurationIsKept(t *testing.T) {
	c, _ := load(t, "runners.yaml")
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("a: #'\"|>-\t\r\n{}é\u2028\ufeff")), 0, 60, -1).Draw(rt, "text")
		set, err := manifests.Kubernetes(c, []byte(text), manifests.Options{Image: image})
		if err != nil {
			rt.Fatal(err)
		}
		for _, object := range set.Objects {
			if _, ok := object.(*corev1.ConfigMap); !ok {
				continue
			}
			written, err := manifests.Set{Objects: []runtime.Object{object}}.YAML("x")
			if err != nil {
				rt.Fatal(err)
			}
			if got := find[*corev1.ConfigMap](t, decode(t, written)).Data["regkeeper.yaml"]; got != text {
				rt.Fatalf("%q came back as %q", text, got)
			}
		}
	})
}

func TestEgress(t *testing.T) {
	c, text := load(t, "names.yaml")
	set, err := manifests.Kubernetes(c, text, manifests.Options{Image: image, EgressPorts: []int32{3128}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, port := range find[*networkingv1.NetworkPolicy](t, set.Objects).Spec.Egress[0].Ports {
		got = append(got, fmt.Sprintf("%s %s", *port.Protocol, port.Port))
	}
	if diff := cmp.Diff([]string{"UDP 53", "TCP 53", "TCP 443", "TCP 3000", "TCP 3001", "TCP 3128", "TCP 6443"}, got); diff != "" {
		t.Errorf("ports (-want +got):\n%s", diff)
	}
}
