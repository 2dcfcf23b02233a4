package config_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/problem"
)

var update = flag.Bool("update", false, "rewrite the goldens in testdata")

// TestFaults compares all faults of each document in testdata with the golden
// beside it.
func TestFaults(t *testing.T) {
	t.Parallel()
	documents, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(documents) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	for _, path := range documents {
		t.Run(filepath.Base(path), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Parse(filepath.Base(path), "/base", text)
			if problem.KindOf(err) != problem.Config {
				t.Fatalf("error is of kind %q: %v", problem.KindOf(err), err)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Error("the secret is quoted")
			}
			golden := strings.TrimSuffix(path, ".yaml") + ".golden"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("faults differ (-want +got):\n%s", diff)
			}
		})
	}
}

// TestFaultsStandWhereTheyAre holds each fault to a line, and its excerpt to
// that line.
func TestFaultsStandWhereTheyAre(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"testdata/faults.yaml", "testdata/types.yaml", "testdata/clusters.yaml", "testdata/forges.yaml"} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(text), "\n")
		_, err = config.Parse("x", "/", text)
		var all *config.Error
		if !errors.As(err, &all) {
			t.Fatal(err)
		}
		for _, fault := range all.Faults {
			if fault.Line < 1 || fault.Line > len(lines) || fault.Column < 1 {
				t.Errorf("%s: %+v is nowhere", path, fault)
				continue
			}
			shown, _, _ := strings.Cut(fault.Excerpt, "[redacted]")
			if fault.Excerpt == "" || !strings.HasPrefix(lines[fault.Line-1], shown) {
				t.Errorf("%s: %+v: the line is %q", path, fault, lines[fault.Line-1])
			}
			if fault.Hint == "" {
				t.Errorf("%s: %+v has no hint", path, fault)
			}
		}
	}
}

// schemaNode is a part of the schema, references followed.
func schemaNode(t *testing.T, root, node map[string]any) map[string]any {
	t.Helper()
	for {
		ref, ok := node["$ref"].(string)
		if !ok {
			return node
		}
		name := strings.TrimPrefix(ref, "#/$defs/")
		next, ok := root["$defs"].(map[string]any)[name].(map[string]any)
		if !ok {
			t.Fatalf("schema refers to %s, which is not there", ref)
		}
		node = next
	}
}

func schemaRoot(t *testing.T) map[string]any {
	t.Helper()
	var root map[string]any
	if err := json.Unmarshal([]byte(config.Schema), &root); err != nil {
		t.Fatal(err)
	}
	return root
}

// TestSchemaMatchesDocument holds the schema and the document's types together:
// each property has a field of the right kind, and each field a property.
func TestSchemaMatchesDocument(t *testing.T) {
	t.Parallel()
	root := schemaRoot(t)
	kinds := map[string][]reflect.Kind{
		"object": {reflect.Struct, reflect.Map}, "array": {reflect.Slice}, "string": {reflect.String}, "boolean": {reflect.Bool},
		"integer": {reflect.Int},
	}
	visited := 0
	var walk func(path string, node map[string]any, typ reflect.Type)
	walk = func(path string, node map[string]any, typ reflect.Type) {
		node = schemaNode(t, root, node)
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		visited++
		want, _ := node["type"].(string)
		if _, enum := node["enum"]; enum {
			want = "string"
		}
		if !slices.Contains(kinds[want], typ.Kind()) {
			t.Errorf("%s: the schema has %q, the document %s", path, want, typ)
			return
		}
		switch typ.Kind() {
		case reflect.Slice:
			items, _ := node["items"].(map[string]any)
			walk(path+"[]", items, typ.Elem())
		case reflect.Struct:
			if node["additionalProperties"] != false {
				t.Errorf("%s: the schema lets unknown keys pass", path)
			}
			properties, _ := node["properties"].(map[string]any)
			fields := map[string]reflect.Type{}
			for i := range typ.NumField() {
				name, _, _ := strings.Cut(typ.Field(i).Tag.Get("yaml"), ",")
				fields[name] = typ.Field(i).Type
			}
			for name, field := range fields {
				property, ok := properties[name].(map[string]any)
				if !ok {
					t.Errorf("%s.%s is a field, and no property", path, name)
					continue
				}
				walk(path+"."+name, property, field)
			}
			for name := range properties {
				if _, ok := fields[name]; !ok {
					t.Errorf("%s.%s is a property, and no field", path, name)
				}
			}
		}
	}
	walk("", root, reflect.TypeFor[config.Document]())
	if visited < 50 {
		t.Errorf("only %d parts were looked at", visited)
	}
}

// least is the shortest document that has everything with a default in it.
const least = `
registries:
  - host: a.example.com
    source: {builtin: {}}
  - host: b.example.com
    source: {gitlab: {url: "https://gitlab.example.com", project: a/b, password: {env: TOKEN}}}
  - host: c.example.com
    source: {helper: {program: pass}}
targets:
  - name: t
    file: {path: x}
  - name: runners
    pods: {selector: app=runner}
  - name: cluster
    secrets: {name: pull, namespaces: [web]}
  - name: variables
    gitlabVariable: {url: "https://gitlab.example.com", projects: [a/b], password: {env: TOKEN}}
  - name: forge
    giteaSecret: {url: "https://gitea.example.com", repositories: [a/b], password: {env: TOKEN}}
  - name: toml
    runnerConfig: {}
  - name: hosts
    ssh: {hosts: [one.example.com]}
images:
  - match: a.example.com/*
    keep: [{last: 1}]
releases:
  items: [{name: api, repository: a.example.com/api}]
mirrors:
  - {name: m, from: a.example.com/*, to: [b.example.com/x]}
serve: {registry: {upstreams: [{host: a.example.com}]}}
state: {secret: {}}
`

// TestDefaults holds the defaults that the schema names to what Parse fills in.
func TestDefaults(t *testing.T) {
	t.Parallel()
	got, err := config.Parse("least", "/base", []byte(least))
	if err != nil {
		t.Fatal(err)
	}
	registry, target := got.Registries[0], got.Targets[0]
	pods, secrets := got.Targets[1].Pods, got.Targets[2].Secrets
	variable, forge, runners := got.Targets[3].GitLabVariable, got.Targets[4].GiteaSecret, got.Targets[5].RunnerConfig
	private := func(mode fs.FileMode) fs.FileMode {
		if mode == 0 {
			return 0o600 // the fields say so
		}
		return mode
	}
	filled := map[string]any{
		".resync":                                   got.Resync,
		".serve.health.listen":                      got.Health,
		".serve.registry.listen":                    got.Embedded.Listen,
		".registries[].scopes":                      registry.Scopes,
		".registries[].verify":                      !registry.Unverified,
		".registries[].insecure":                    registry.Insecure,
		".registries[].rotate.every":                registry.Rotate.Every,
		".registries[].rotate.overlap":              registry.Rotate.Overlap,
		".registries[].rotate.limit":                registry.Rotate.Limit,
		".registries[].source.builtin.user":         registry.Source.Builtin.User,
		".registries[].source.builtin.repositories": registry.Source.Builtin.Repositories,
		".targets[].file.format":                    target.File.Format,
		".targets[].file.mode":                      private(target.File.Mode),
		".targets[].gitlabVariable.instance":        variable.Instance,
		".targets[].gitlabVariable.name":            variable.Name,
		".targets[].gitlabVariable.environment":     variable.Scope,
		".targets[].gitlabVariable.unmasked":        variable.Unmasked,
		".targets[].gitlabVariable.protected":       variable.Protected,
		".targets[].giteaSecret.own":                forge.Own,
		".targets[].giteaSecret.anyRegistry":        forge.AnyRegistry,
		".targets[].giteaSecret.adopt":              forge.Adopt,
		".targets[].giteaSecret.readable":           forge.Readable,
		".targets[].runnerConfig.path":              runners.Path,
		".targets[].runnerConfig.mode":              private(runners.Mode),
		".targets[].ssh.timeout":                    got.Targets[6].SSH.Timeout,
		".registries[].source.gitlab.kind":          got.Registries[1].Source.GitLab.Kind,
		".registries[].source.helper.timeout":       got.Registries[2].Source.Helper.Timeout,
		".targets[].pods.timeout":                   pods.Timeout,
		".targets[].pods.resync":                    pods.Resync,
		".targets[].secrets.adopt":                  secrets.Adopt,
		".targets[].secrets.evict":                  secrets.Evict,
		".targets[].secrets.restartAtOnce":          secrets.RestartAtOnce,
		".state.secret.name":                        got.State.Name,
		".releases.builder.name":                    got.Releases.Builder.Name,
		".releases.builder.driver":                  got.Releases.Builder.Driver,
		".releases.latest":                          got.Releases.Latest,
		".releases.timeout":                         got.Releases.Timeout,
		".releases.failing":                         got.Releases.Failing,
		".releases.oneByOne":                        got.Releases.OneByOne,
		".releases.takeOver":                        got.Releases.TakeOver,
		".releases.items[].folder":                  ".",
		".releases.items[].dockerfile":              got.Releases.Items[0].Dockerfile,
		".releases.items[].pin":                     got.Releases.Items[0].Pin,
		".releases.items[].reproducible":            got.Releases.Items[0].Reproducible,
		".serve.registry.upstreams[].fresh":         got.Embedded.Upstreams[0].Fresh,
		".mirrors[].bare":                           got.Mirrors[0].Bare,
		".images[].grace":                           got.Images[0].Policy.Grace,
		".images[].maxDeletes":                      got.Images[0].MaxDeletes,
		".images[].maxShare":                        100 * got.Images[0].MaxShare,
		".images[].rate":                            got.Images[0].Rate,
	}
	root := schemaRoot(t)
	var walk func(path string, node map[string]any)
	walk = func(path string, node map[string]any) {
		if want, ok := node["default"]; ok {
			have, known := filled[path]
			delete(filled, path)
			if !known {
				t.Errorf("%s has a default that this test does not know", path)
			} else if diff := cmp.Diff(want, plain(t, want, have)); diff != "" {
				t.Errorf("%s: the schema's default differs from what is filled in (-schema +parsed):\n%s", path, diff)
			}
		}
		node = schemaNode(t, root, node)
		if items, ok := node["items"].(map[string]any); ok {
			walk(path+"[]", items)
		}
		properties, _ := node["properties"].(map[string]any)
		for name, property := range properties {
			walk(path+"."+name, property.(map[string]any))
		}
	}
	walk("", root)
	for path := range filled {
		t.Errorf("%s is filled in, and the schema names no default", path)
	}
	// The schema says it in words: by default a tenth of every.
	if want := registry.Rotate.Every / 10; registry.Rotate.Jitter != want {
		t.Errorf("jitter is %s, want %s", registry.Rotate.Jitter, want)
	}
}

// plain is a value as JSON has it, in the unit that the schema writes.
func plain(t *testing.T, like, value any) any {
	t.Helper()
	switch v := value.(type) {
	case time.Duration:
		d, err := model.ParseDuration(like.(string))
		if err != nil {
			t.Fatal(err)
		}
		if time.Duration(d) == v {
			return like
		}
		return v.String()
	case fs.FileMode:
		return fmt.Sprintf("%04o", v)
	}
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestExample parses the example of the design, and looks at all of it.
func TestExample(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	got, err := config.Parse("example", "/base", []byte(`registries:
  - host: gitea.example.com
    source:
      gitea: {url: https://gitea.example.com/, user: ci-bot, password: {env: CI_BOT_PASSWORD}}
    scopes: [pull]
    rotate: {every: 30d, overlap: 1h}
  - host: index.docker.io
    source: {static: {username: acme, password: {file: secrets/hub}}}
    probe: docker.io/acme/app:latest
targets:
  - name: build-host
    file: {path: ~/.docker/config.json}
  - name: runners
    registries: [https://gitea.example.com]
    file: {paths: [/home/*/.docker/config.json], owner: "1000:1000", mode: "0640"}
`))
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	want := config.Config{
		Registries: []config.Registry{{
			Host: "gitea.example.com",
			Source: config.Source{Gitea: &config.Gitea{
				URL: "https://gitea.example.com", User: "ci-bot", Password: secretref.Ref{Env: "CI_BOT_PASSWORD"},
			}},
			API:    config.API{Gitea: "https://gitea.example.com"},
			Scopes: credential.ScopesOf(credential.Pull),
			Rotate: config.Rotate{Every: 30 * day, Jitter: 3 * day, Overlap: time.Hour, Limit: 7 * day},
		}, {
			Host: "docker.io",
			Source: config.Source{Static: &config.Static{
				Username: "acme", Password: secretref.Ref{File: "/base/secrets/hub"},
			}},
			Scopes: credential.ScopesOf(credential.Pull),
			Rotate: config.Rotate{Every: 30 * day, Jitter: 3 * day, Overlap: time.Hour, Limit: 7 * day},
			Probe:  "docker.io/acme/app:latest",
		}},
		Targets: []config.Target{
			{Name: "build-host", File: &config.File{Paths: []string{"/home/me/.docker/config.json"}, Format: config.FormatDocker, UID: -1, GID: -1}},
			{
				Name: "runners", Registries: []credential.Host{"gitea.example.com"},
				File: &config.File{Paths: []string{"/home/*/.docker/config.json"}, Format: config.FormatDocker, UID: 1000, GID: 1000, Mode: 0o640},
			},
		},
		Health: "127.0.0.1:9470",
		Resync: time.Minute,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the example is read otherwise (-want +got):\n%s", diff)
	}
}

// TestClusterExample parses a configuration in which every key about clusters
// is set, and looks at all that comes of it.
func TestClusterExample(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	got, err := config.Parse("clusters", "/base", []byte(`registries:
  - host: gitea.example.com
    source:
      gitea: {url: https://gitea.example.com, user: ci-bot, password: {secret: gitea/ci-bot/password.txt}}
    scopes: [pull, push]
targets:
  - name: runners
    registries: [gitea.example.com]
    kubeconfig: ~/.kube/build
    contexts: [one, two]
    pods:
      namespace: gitea
      namespaces: [builds]
      selector: app in (runner, builder)
      container: act-runner
      path: ~/.docker/config.json
      timeout: 5s
      resync: 2h
  - name: pull
    kubeconfig: kube/config
    secrets:
      name: gitea-credentials
      namespaces: [honeydue, "team-*"]
      namespaceSelector: registry=private
      serviceAccounts: [default, "*"]
      adopt: true
      restart: [deployment/api, "statefulset/*", daemonset/agent]
      restartAtOnce: 2
      evict: true
  - name: here
    pods: {selector: app=runner}
resync: 5m
state: {secret: {namespace: keeper, name: its-state}}
`))
	if err != nil {
		t.Fatal(err)
	}
	const day = 24 * time.Hour
	selector, err := labels.Parse("registry=private")
	if err != nil {
		t.Fatal(err)
	}
	want := config.Config{
		Registries: []config.Registry{{
			Host: "gitea.example.com",
			Source: config.Source{Gitea: &config.Gitea{
				URL: "https://gitea.example.com", User: "ci-bot",
				Password: secretref.Ref{Secret: secretref.ClusterKey{Namespace: "gitea", Name: "ci-bot", Key: "password.txt"}},
			}},
			API:    config.API{Gitea: "https://gitea.example.com"},
			Scopes: credential.ScopesOf(credential.Pull, credential.Push),
			Rotate: config.Rotate{Every: 30 * day, Jitter: 3 * day, Overlap: time.Hour, Limit: 7 * day},
		}},
		Targets: []config.Target{{
			Name: "runners", Registries: []credential.Host{"gitea.example.com"},
			Clusters: []config.Cluster{{Kubeconfig: "/home/me/.kube/build", Context: "one"}, {Kubeconfig: "/home/me/.kube/build", Context: "two"}},
			Pods: &config.Pods{
				Namespaces: []string{"gitea", "builds"}, Selector: "app in (runner, builder)", Container: "act-runner",
				Path: "~/.docker/config.json", Timeout: 5 * time.Second, Resync: 2 * time.Hour,
			},
		}, {
			Name: "pull", Clusters: []config.Cluster{{Kubeconfig: "/base/kube/config"}},
			Secrets: &config.Secrets{
				Name: "gitea-credentials", Namespaces: []string{"honeydue", "team-*"}, Selector: selector, SelectorText: "registry=private",
				ServiceAccounts: []string{"default", "*"}, Adopt: true,
				Restart:       []config.Workload{{Kind: "deployment", Name: "api"}, {Kind: "statefulset", Name: "*"}, {Kind: "daemonset", Name: "agent"}},
				RestartAtOnce: 2, Evict: true,
			},
		}, {
			Name: "here", Clusters: []config.Cluster{{}},
			Pods: &config.Pods{Selector: "app=runner", Timeout: 10 * time.Second, Resync: time.Hour},
		}},
		Health: "127.0.0.1:9470",
		Resync: 5 * time.Minute,
		State:  &config.StateSecret{Namespace: "keeper", Name: "its-state"},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b labels.Selector) bool {
		return (a == nil) == (b == nil) && (a == nil || a.String() == b.String())
	})); diff != "" {
		t.Errorf("it is read otherwise (-want +got):\n%s", diff)
	}
	// So that a field added later is not forgotten above.
	for _, full := range []any{*got.Targets[0].Pods, *got.Targets[1].Secrets, got.Targets[0].Clusters[0], *got.State} {
		for i := range reflect.ValueOf(full).NumField() {
			if reflect.ValueOf(full).Field(i).IsZero() {
				t.Errorf("%T.%s is set by no key above", full, reflect.TypeOf(full).Field(i).Name)
			}
		}
	}
}

// TestFind holds the order of the places.
func TestFind(t *testing.T) {
	home := t.TempDir()
	t.Chdir(t.TempDir())
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(home, "config"))
	if path, data, err := config.Find(""); !errors.Is(err, config.ErrNone) || path != "" || data != "regkeeper-data" {
		t.Errorf("with none there: %q, %q, %v", path, data, err)
	}
	users := filepath.Join(home, "config", "regkeeper", config.FileName)
	place := func(path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	place(users)
	if path, data, err := config.Find(""); err != nil || path != users || data != filepath.Join(home, ".local/state/regkeeper") {
		t.Errorf("with the user's there: %q, %q, %v", path, data, err)
	}
	place(config.FileName)
	if path, data, err := config.Find(""); err != nil || path != config.FileName || data != "regkeeper-data" {
		t.Errorf("with this folder's there: %q, %q, %v", path, data, err)
	}
	if path, data, err := config.Find(users); err != nil || path != users || data != filepath.Join(home, ".local/state/regkeeper") {
		t.Errorf("with the user's named: %q, %q, %v", path, data, err)
	}
	if path, _, err := config.Find("nosuch"); err != nil || path != "nosuch" {
		t.Errorf("with one named: %q, %v", path, err)
	}
}
