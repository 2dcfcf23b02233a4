package cli_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// apiserver answers for objects by their paths, and refuses what a test says.
type apiserver struct {
	mu      sync.Mutex
	objects map[string]any
	refused map[string]bool
	// asked has each request, with its method.
	asked []string
}

func (a *apiserver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, r.Method+" "+r.URL.Path)
	status := metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure}
	w.Header().Set("Content-Type", "application/json")
	object, ok := a.objects[r.URL.Path]
	switch {
	case a.refused[r.URL.Path]:
		status.Reason, status.Code, status.Message = metav1.StatusReasonForbidden, http.StatusForbidden, `configmaps "regkeeper" is forbidden: User "me" cannot get it`
		w.WriteHeader(http.StatusForbidden)
		object = status
	case !ok:
		status.Reason, status.Code, status.Message = metav1.StatusReasonNotFound, http.StatusNotFound, "not found"
		w.WriteHeader(http.StatusNotFound)
		object = status
	}
	_ = json.NewEncoder(w).Encode(object)
}

func configMapOf(data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"}, Data: data}
}

func namespaceOf(name string) *corev1.Namespace {
	return &corev1.Namespace{TypeMeta: metav1.TypeMeta{Kind: "Namespace", APIVersion: "v1"}, ObjectMeta: metav1.ObjectMeta{Name: name, UID: "uid-1"}}
}

const clusterConfig = `registries:
  - host: registry.invalid
    source: {static: {username: me, password: {env: REGKEEPER_TEST_SECRET}}}
    verify: false
state: {secret: {}}
`

// newAPIServer serves an API, and has a kubeconfig lead to it. Its context has
// another namespace than regkeeper's.
func newAPIServer(t *testing.T) *apiserver {
	t.Helper()
	t.Chdir(t.TempDir())
	t.Setenv("HOME", t.TempDir())
	t.Setenv("XDG_CONFIG_HOME", "")
	t.Setenv("REGKEEPER_TEST_SECRET", marker)
	a := &apiserver{refused: map[string]bool{}, objects: map[string]any{
		"/api/v1/namespaces/regkeeper/configmaps/regkeeper": configMapOf(map[string]string{"regkeeper.yaml": clusterConfig}),
		"/api/v1/namespaces/regkeeper":                      namespaceOf("regkeeper"),
	}}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	writeKubeconfig(t, server.URL)
	return a
}

func writeKubeconfig(t *testing.T, url string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: elsewhere}}]
current-context: x
`, url, marker)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", path)
}

// underKubectl has the commands of a test run as kubectl runs them.
func underKubectl(t *testing.T) {
	t.Helper()
	name := os.Args[0]
	os.Args[0] = "/usr/local/bin/kubectl-regkeeper"
	t.Cleanup(func() { os.Args[0] = name })
}

// TestConfigurationInACluster reads it there, and looks for the state in the
// same namespace; nothing is written.
func TestConfigurationInACluster(t *testing.T) {
	for name, row := range map[string]struct {
		kubectl   bool
		args      []string
		namespace string
	}{
		"kubectl":                    {kubectl: true, namespace: "regkeeper"},
		"kubectl, another namespace": {kubectl: true, args: []string{"-n", "keeper"}, namespace: "keeper"},
		"named":                      {args: []string{"--config", "configmap:keeper/regkeeper"}, namespace: "keeper"},
		"named by the name alone":    {args: []string{"--config", "configmap:regkeeper"}, namespace: "regkeeper"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIServer(t)
			if row.kubectl {
				underKubectl(t)
			}
			base := "/api/v1/namespaces/" + row.namespace
			a.objects = map[string]any{
				base + "/configmaps/regkeeper": configMapOf(map[string]string{"regkeeper.yaml": clusterConfig}),
				base:                           namespaceOf(row.namespace),
			}
			out, errs, code := run(t, append([]string{"status", "-o", "json"}, row.args...)...)
			if code != 0 || !strings.Contains(out, `"host": "registry.invalid"`) || !strings.Contains(out, `"phase": "pending"`) {
				t.Errorf("status: exit code %d\n%s%s", code, out, errs)
			}
			out, errs, code = run(t, append([]string{"plan"}, row.args...)...)
			if code != 2 || !strings.Contains(out, "registry.invalid") {
				t.Errorf("plan: exit code %d\n%s%s", code, out, errs)
			}
			asked := strings.Join(a.asked, "\n")
			for _, want := range []string{"GET " + base + "/configmaps/regkeeper", "GET " + base + "/secrets/regkeeper-state"} {
				if !strings.Contains(asked, want) {
					t.Errorf("%s was not asked for; asked was:\n%s", want, asked)
				}
			}
			for _, request := range a.asked {
				if !strings.HasPrefix(request, "GET ") {
					t.Errorf("%s was sent", request)
				}
			}
			if files, err := os.ReadDir("."); err != nil || len(files) != 0 {
				t.Errorf("left behind: %v, %v", files, err)
			}
		})
	}
}

// TestConfigurationInAClusterBadInput is the table of what is wrong with it.
func TestConfigurationInAClusterBadInput(t *testing.T) {
	const path = "/api/v1/namespaces/regkeeper/configmaps/regkeeper"
	hold := func(text string) func(*testing.T, *apiserver) {
		return func(_ *testing.T, a *apiserver) {
			a.objects[path] = configMapOf(map[string]string{"regkeeper.yaml": text})
		}
	}
	for name, row := range map[string]struct {
		change     func(*testing.T, *apiserver)
		code       int
		text, hint string
	}{
		"no ConfigMap": {func(_ *testing.T, a *apiserver) { delete(a.objects, path) }, 8, "ConfigMap regkeeper/regkeeper does not exist", "--namespace"},
		"no key": {
			func(_ *testing.T, a *apiserver) { a.objects[path] = configMapOf(map[string]string{"other": marker}) },
			4, `ConfigMap regkeeper/regkeeper has no key "regkeeper.yaml"`, "--config configmap:NAMESPACE/NAME",
		},
		"no right": {func(_ *testing.T, a *apiserver) { a.refused[path] = true }, 5, "read ConfigMap regkeeper/regkeeper: ", "kubectl auth can-i get configmap/regkeeper -n regkeeper"},
		"no right to the state": {
			func(_ *testing.T, a *apiserver) {
				a.refused["/api/v1/namespaces/regkeeper/secrets/regkeeper-state"] = true
			},
			5, "read state Secret regkeeper/regkeeper-state", "right",
		},
		"nobody answers": {func(t *testing.T, _ *apiserver) { writeKubeconfig(t, "http://127.0.0.1:"+freePort()) }, 6, "read ConfigMap regkeeper/regkeeper", "kubectl get --raw /readyz"},
		"a fault in it":  {hold(clusterConfig + "resink: 1m\n"), 4, `ConfigMap regkeeper/regkeeper:6:1: unknown key "resink"`, "config schema"},
		"a secret in it": {hold(strings.Replace(clusterConfig, "{env: REGKEEPER_TEST_SECRET}", marker, 1)), 4, "a secret stands in the document", "config schema"},
		"empty":          {hold(""), 4, "the configuration is empty", "config schema"},
		"state in a pod": {hold(strings.Replace(clusterConfig, "state: {secret: {}}", "", 1)), 4, "the state is in a folder, which cannot be seen from here", "kubectl exec"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAPIServer(t)
			row.change(t, a)
			underKubectl(t)
			for _, command := range []string{"status", "plan"} {
				out, errs, code := run(t, command)
				if code != row.code || !strings.Contains(errs, row.text) || !strings.Contains(errs, "hint: ") || !strings.Contains(errs, row.hint) {
					t.Errorf("%s: exit code %d, want %d, %q and hint %q in:\n%s%s", command, code, row.code, row.text, row.hint, out, errs)
				}
				if strings.Contains(out+errs, marker) {
					t.Errorf("%s: a secret was printed:\n%s%s", command, out, errs)
				}
			}
		})
	}
}
