package kubelet_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	kubeletconfig "k8s.io/kubelet/config/v1"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/kubelet"
	"github.com/regkeeper/regkeeper/problem"
)

var provider = kubelet.Provider{
	Hosts: []credential.Host{"gitea.example.com", "registry.example.com:5000", credential.DockerHub},
	File:  kubelet.DefaultFile, Cache: kubelet.DefaultCache,
}

const made = `apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: regkeeper
    matchImages:
      - gitea.example.com
      - registry.example.com:5000
      - docker.io
    defaultCacheDuration: 5m0s
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    args:
      - kubelet-provider
      - --file=/var/lib/regkeeper/kubelet/config.json
      - --cache=5m0s
`

const others = `# of the cloud
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  # asks for ECR
  - name: ecr-credential-provider
    matchImages: ["*.dkr.ecr.*.amazonaws.com"] # theirs
    defaultCacheDuration: "12h"
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    later: {than: this, version: 1}
    env:
      - name: AWS_PROFILE
        value: "0123"
`

func set(t *testing.T, text string, p kubelet.Provider) (string, bool) {
	t.Helper()
	doc, err := kubelet.ParseConfig([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	changed, err := doc.Set(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc.Bytes()), changed
}

// asKubelet is the document as the kubelet's types have it.
func asKubelet(t *testing.T, text string) kubeletconfig.CredentialProviderConfig {
	t.Helper()
	var document kubeletconfig.CredentialProviderConfig
	plain, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(plain, &document); err != nil {
		t.Fatal(err)
	}
	return document
}

func TestSetMakesTheDocument(t *testing.T) {
	for _, empty := range []string{"", "\n", "# mine\n", "---\n"} {
		got, changed := set(t, empty, provider)
		if diff := cmp.Diff(made, got); diff != "" || !changed {
			t.Errorf("from %q (-want +got):\n%s", empty, diff)
		}
	}
	document := asKubelet(t, made)
	if len(document.Providers) != 1 || document.Providers[0].DefaultCacheDuration.Duration != 5*time.Minute || document.Providers[0].TokenAttributes != nil {
		t.Errorf("the kubelet reads %+v", document)
	}
}

func TestSetWithTokens(t *testing.T) {
	p := provider
	p.Audience, p.Allow = kubelet.DefaultAudience, kubelet.Allow{"team-*/default", "ci/*"}
	text, _ := set(t, "", p)
	got := asKubelet(t, text).Providers[0]
	no := false
	want := &kubeletconfig.ServiceAccountTokenAttributes{
		ServiceAccountTokenAudience: "regkeeper", CacheType: "ServiceAccount", RequireServiceAccount: &no,
		OptionalServiceAccountAnnotationKeys: []string{"regkeeper.dev/exclude"},
	}
	if diff := cmp.Diff(want, got.TokenAttributes); diff != "" {
		t.Errorf("tokenAttributes (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"kubelet-provider", "--file=/var/lib/regkeeper/kubelet/config.json", "--cache=5m0s", "--allow=team-*/default", "--allow=ci/*"}, got.Args); diff != "" {
		t.Errorf("args (-want +got):\n%s", diff)
	}
}

func TestSetKeepsOthers(t *testing.T) {
	text, changed := set(t, others, provider)
	if !changed {
		t.Error("nothing has changed")
	}
	for _, kept := range []string{"# of the cloud", "# asks for ECR", "# theirs", "later", `"0123"`} {
		if !strings.Contains(text, kept) {
			t.Errorf("%s is lost:\n%s", kept, text)
		}
	}
	document := asKubelet(t, text)
	want := append(asKubelet(t, others).Providers, asKubelet(t, made).Providers...)
	if diff := cmp.Diff(want, document.Providers); diff != "" {
		t.Errorf("providers (-want +got):\n%s", diff)
	}
	// Again is no change, and another is made in the place of the first.
	if again, changed := set(t, text, provider); changed || again != text {
		t.Errorf("setting the same again changes it (%v):\n%s", changed, cmp.Diff(text, again))
	}
	p := provider
	p.Cache = time.Minute
	other, changed := set(t, text+"  - name: last\n    matchImages: [x]\n    defaultCacheDuration: 0s\n    apiVersion: credentialprovider.kubelet.k8s.io/v1\n", p)
	names := ""
	for _, one := range asKubelet(t, other).Providers {
		names += one.Name + " "
	}
	if names != "ecr-credential-provider regkeeper last " || !changed || !strings.Contains(other, "--cache=1m0s") {
		t.Errorf("providers are %s(%v):\n%s", names, changed, other)
	}
}

// TestSetKeepsLayout leaves a document that says the same as it is.
func TestSetKeepsLayout(t *testing.T) {
	text, err := yaml.YAMLToJSON([]byte(made))
	if err != nil {
		t.Fatal(err)
	}
	if got, changed := set(t, string(text), provider); changed || got != string(text) {
		t.Errorf("changed %v: %s", changed, got)
	}
}

func TestConfigsThatAreNone(t *testing.T) {
	for _, text := range []string{
		"- s3cret", "s3cret", "a: [s3cret", "kind: s3cret\napiVersion: kubelet.config.k8s.io/v1",
		"kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1beta1\nx: s3cret",
		"kind: CredentialProviderConfig\napiVersion: kubelet.config.k8s.io/v1\nproviders: s3cret",
	} {
		_, err := kubelet.ParseConfig([]byte(text))
		if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%q: %v of kind %s", text, err, problem.KindOf(err))
		}
	}
}

func TestTargetIsConfiguration(t *testing.T) {
	text := "registries:\n  - {host: h, source: {builtin: {}}}\n  - {host: '[::1]:5000', source: {builtin: {}}}\nserve: {registry: {}}\n" +
		kubelet.Target(kubelet.DefaultFile, []credential.Host{"h", "[::1]:5000"}) + "\n"
	c, err := config.Parse("x", "/", []byte(text))
	if err != nil {
		t.Fatalf("%s\n%v", text, err)
	}
	if len(c.Targets) != 1 || c.Targets[0].File.Paths[0] != kubelet.DefaultFile || len(c.Targets[0].Registries) != 2 {
		t.Errorf("targets are %+v", c.Targets)
	}
}

// FuzzParseConfig feeds ParseConfig with anything, and puts a provider into
// what it takes: the others are as before, and again is no change.
func FuzzParseConfig(f *testing.F) {
	for _, seed := range []string{"", made, others, "{kind: CredentialProviderConfig, apiVersion: kubelet.config.k8s.io/v1, providers: []}"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		doc, err := kubelet.ParseConfig(text)
		if err == nil {
			_, err = doc.Set(provider)
		}
		if err != nil {
			if problem.KindOf(err) != problem.Damaged {
				t.Errorf("%q: %v of kind %s", text, err, problem.KindOf(err))
			}
			return
		}
		if changed, err := doc.Set(provider); changed || err != nil {
			t.Errorf("%q: again says %v, %v", doc.Bytes(), changed, err)
		}
	})
}
