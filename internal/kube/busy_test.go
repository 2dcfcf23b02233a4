package kube_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/regkeeper/regkeeper/internal/kube"
)

// TestBusyAPIServer: who is told to come back later does, after as long as it
// was told, and nobody hears of it.
func TestBusyAPIServer(t *testing.T) {
	t.Parallel()
	var asked []time.Time
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, time.Now())
		w.Header().Set("Content-Type", "application/json")
		if len(asked) < 3 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		fmt.Fprint(w, `{"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
			"items": [{"metadata": {"namespace": "a", "name": "pull", "resourceVersion": "5"}}]}`)
	}))
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
		"users": [{"name": "x", "user": {}}], "clusters": [{"name": "x", "cluster": {"server": %q}}]}`, server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster, err := kube.Open(kube.Config{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	m := kube.NewMirror(kube.API{
		Kind: "secrets", Example: &corev1.Secret{}, Client: cluster.Core,
		List: func(ctx context.Context, namespace string, options metav1.ListOptions) (runtime.Object, error) {
			return cluster.Core.Secrets(namespace).List(ctx, options)
		},
		Watch: func(ctx context.Context, namespace string, options metav1.ListOptions) (watch.Interface, error) {
			return cluster.Core.Secrets(namespace).Watch(ctx, options)
		},
	}, kube.Selection{Name: "pull"}, func(runtime.Object) (string, error) { return "", nil })
	found, err := m.List(t.Context())
	if err != nil || len(found) != 1 || found[0].Key() != key("a", "pull") {
		t.Errorf("found %v, %v", found, err)
	}
	if len(asked) != 3 || asked[2].Sub(asked[0]) < 2*time.Second {
		t.Errorf("asked at %v", asked)
	}
}
