// Package charts_test renders the Helm chart and the kustomize base, and holds
// both to what regkeeper prints itself.
package charts_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"helm.sh/helm/v3/pkg/chart"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/manifests"
)

var root = filepath.Join("..", "..")

func load(t *testing.T, file string) (config.Config, []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "manifests", "testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Parse(file, manifests.Folder, text)
	if err != nil {
		t.Fatal(err)
	}
	return c, text
}

// objects reads documents, by kind, namespace and name.
func objects(t *testing.T, text string) map[string]any {
	t.Helper()
	all := map[string]any{}
	for _, document := range strings.Split("\n"+text, "\n---\n") {
		var object map[string]any
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatalf("%v\n%s", err, document)
		}
		if object == nil {
			continue
		}
		meta, ok := object["metadata"].(map[string]any)
		if !ok {
			t.Fatalf("no object:\n%s", document)
		}
		key := fmt.Sprint(object["kind"], " ", meta["namespace"], "/", meta["name"])
		if all[key] != nil {
			t.Errorf("%s is there twice", key)
		}
		all[key] = object
	}
	return all
}

func chartOf(t *testing.T) *chart.Chart {
	t.Helper()
	c, err := loader.Load(filepath.Join(root, "charts", "regkeeper"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// render renders the chart as `helm template` does.
func render(t *testing.T, namespace string, values map[string]any) (string, error) {
	t.Helper()
	c := chartOf(t)
	all, err := chartutil.ToRenderValues(c, values, chartutil.ReleaseOptions{Name: "regkeeper", Namespace: namespace}, chartutil.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	files, err := engine.Render(c, all)
	if err != nil {
		return "", err
	}
	var text strings.Builder
	for name, content := range files {
		if strings.HasSuffix(name, ".yaml") {
			text.WriteString("---\n" + content + "\n")
		}
	}
	return text.String(), nil
}

func TestChart(t *testing.T) {
	for name, c := range map[string]struct {
		config  string
		options manifests.Options
	}{
		"runners":         {"runners.yaml", manifests.Options{}},
		"runners-cronjob": {"runners.yaml", manifests.Options{Mode: manifests.CronJob, Schedule: "*/15 * * * *"}},
		"in gitea, open":  {"runners.yaml", manifests.Options{Namespace: "gitea", Replicas: 1, OpenNetwork: true}},
		"names":           {"names.yaml", manifests.Options{EgressPorts: []int32{3128}}},
		"patterns":        {"patterns.yaml", manifests.Options{Namespace: "keeper"}},
		"clusters":        {"clusters.yaml", manifests.Options{KubeconfigSecret: "clusters"}},
	} {
		t.Run(name, func(t *testing.T) {
			cfg, text := load(t, c.config)
			o := c.options
			o.Image, o.KeepNamespace = "ghcr.io/regkeeper/regkeeper:v1.0.0", true
			set, err := manifests.Kubernetes(cfg, text, o)
			if err != nil {
				t.Fatal(err)
			}
			printed, err := set.YAML("")
			if err != nil {
				t.Fatal(err)
			}
			given, _, err := manifests.HelmValues(cfg, text, o)
			if err != nil {
				t.Fatal(err)
			}
			values, err := chartutil.ReadValues(given)
			if err != nil {
				t.Fatal(err)
			}
			namespace := o.Namespace
			if namespace == "" {
				namespace = manifests.Name
			}
			rendered, err := render(t, namespace, values)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(objects(t, string(printed)), objects(t, rendered)); diff != "" {
				t.Errorf("the chart makes other objects than regkeeper prints (-printed +rendered):\n%s", diff)
			}
		})
	}
}

func TestChartRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		values map[string]any
		word   string
	}{
		"no values":         {nil, "regkeeper install kubernetes --helm-values"},
		"another namespace": {map[string]any{"config": "x", "image": "x", "rbac": map[string]any{"a": []any{}}, "namespace": "keeper"}, "--namespace regkeeper"},
		"mode": {map[string]any{"config": "x", "image": "x", "rbac": map[string]any{"a": []any{}}, "namespace": "regkeeper", "mode": "daemonset"},
			"deployment or cronjob"},
	} {
		if _, err := render(t, "regkeeper", c.values); err == nil || !strings.Contains(err.Error(), c.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKustomize(t *testing.T) {
	made, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, "deploy", "kustomize"))
	if err != nil {
		t.Fatal(err)
	}
	rendered, err := made.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	checkedIn, err := os.ReadFile(filepath.Join(root, "deploy", "kustomize", "regkeeper.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(objects(t, string(checkedIn)), objects(t, string(rendered))); diff != "" {
		t.Errorf("kustomize makes other objects than are checked in (-checked in +rendered):\n%s", diff)
	}
}
