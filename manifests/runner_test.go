package manifests_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/manifests"
	"github.com/regkeeper/regkeeper/problem"
)

var homelab = manifests.Runner{
	Instance: "https://gitea.home.example", TokenSecret: "runner-token", Replicas: 2,
	Labels: []string{"homelab-latest:docker://gitea.home.example/homelab/actions-runner:latest", "host-docker:host"},
}

func TestGiteaRunner(t *testing.T) {
	set, err := manifests.GiteaRunner(homelab)
	if err != nil {
		t.Fatal(err)
	}
	written, err := set.YAML(homelab.RunnerComment() + "\n" + notes(set))
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/gitea-runner.golden", written)

	// The target that stands above them finds them, and what the source's own
	// Helm release is found by finds them too.
	text := "registries:\n  - {host: gitea.home.example, source: {static: {username: u, password: {env: P}}}}\nstate: {secret: {}}\n" + homelab.Target()
	c, err := config.Parse("x", "/", []byte(text))
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	runners := find[*appsv1.StatefulSet](t, decode(t, written))
	for _, selector := range []string{c.Targets[0].Pods.Selector, "app.kubernetes.io/name=actions-act-runner"} {
		chosen, err := labels.Parse(selector)
		if err != nil {
			t.Fatal(err)
		}
		if !chosen.Matches(labels.Set(runners.Spec.Template.Labels)) {
			t.Errorf("%s does not choose %v", selector, runners.Spec.Template.Labels)
		}
	}
	if got := runners.Spec.Template.Spec.Containers[0].Name; got != c.Targets[0].Pods.Container || runners.Namespace != c.Targets[0].Pods.Namespaces[0] {
		t.Errorf("the runner's container is %s in %s", got, runners.Namespace)
	}
	if _, err := manifests.Kubernetes(c, []byte(text), manifests.Options{Image: image}); err != nil {
		t.Error(err)
	}
}

func TestGiteaRunnerRefusals(t *testing.T) {
	for name, change := range map[string]func(*manifests.Runner){
		"is no URL":              func(r *manifests.Runner) { r.Instance = "gitea.example.com" },
		"has a login in it":      func(r *manifests.Runner) { r.Instance = "https://ci:s3cret@gitea.example.com" },
		`namespace "A" is none`:  func(r *manifests.Runner) { r.Namespace = "A" },
		`name "a.b" is none`:     func(r *manifests.Runner) { r.Name = "a.b" },
		`"" is no name`:          func(r *manifests.Runner) { r.TokenSecret = "" },
		`"a b" is no key`:        func(r *manifests.Runner) { r.TokenKey = "a b" },
		`label "x" is none`:      func(r *manifests.Runner) { r.Labels = []string{"x"} },
		`label "x:docker://" is`: func(r *manifests.Runner) { r.Labels = []string{"x:docker://"} },
		`label "a b:host" is`:    func(r *manifests.Runner) { r.Labels = []string{"a b:host"} },
		"-1 replicas":            func(r *manifests.Runner) { r.Replicas = -1 },
		`storage "big" is`:       func(r *manifests.Runner) { r.Storage = "big" },
	} {
		r := homelab
		change(&r)
		_, err := manifests.GiteaRunner(r)
		if problem.KindOf(err) != problem.Usage || !strings.Contains(err.Error(), name) || problem.HintOf(err) == "" || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v of kind %s", name, err, problem.KindOf(err))
		}
	}
}
