package kube_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/internal/kube"
)

// TestExecRefused keeps the type of a refusal, which the client loses over SPDY.
func TestExecRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		status int
		reason string
		is     func(error) bool
	}{
		"forbidden": {http.StatusForbidden, "Forbidden", apierrors.IsForbidden},
		"not found": {http.StatusNotFound, "NotFound", apierrors.IsNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.status)
				fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"refused for a test","reason":%q,"code":%d}`, c.reason, c.status)
			}))
			t.Cleanup(server.Close)
			_, err := exec(t, server.URL)
			if !c.is(err) || !strings.Contains(err.Error(), "refused for a test") {
				t.Errorf("the error is %v", err)
			}
		})
	}
}

func TestExecErrorLeavesTheCommandOut(t *testing.T) {
	t.Parallel()
	// A proxy that takes neither WebSocket nor SPDY, and ends the connection.
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		connection, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_ = connection.Close()
	}))
	t.Cleanup(server.Close)
	_, err := exec(t, server.URL)
	if err == nil || strings.Contains(err.Error(), "a-command") || requests.Load() != 2 {
		t.Errorf("after %d requests the error is %v", requests.Load(), err)
	}
}

func exec(t *testing.T, url string) (kube.Output, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"x","contexts":[{"name":"x","context":{"cluster":"x","user":"x"}}],
		"users":[{"name":"x","user":{}}],"clusters":[{"name":"x","cluster":{"server":"` + url + `"}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cluster, err := kube.Open(kube.Config{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	return cluster.Executor.Exec(t.Context(), kube.Command{
		Pod: types.NamespacedName{Namespace: "ns", Name: "p"}, Container: "c", Argv: []string{"a-command"}, Stdin: []byte("x"),
	})
}

// TestBounded keeps the beginning of an output, be it that a copier that was
// given up still writes.
func TestBounded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		writes []string
		want   string
		more   bool
	}{
		{nil, "", false},
		{[]string{"abc", "de"}, "abcde", false},
		{[]string{"abcde", ""}, "abcde", false},
		{[]string{"abcd", "ef", "g"}, "abcde", true},
		{[]string{"abcdefgh"}, "abcde", true},
	} {
		b := kube.NewBounded(5)
		for _, text := range c.writes {
			if n, err := b.Write([]byte(text)); n != len(text) || err != nil {
				t.Errorf("a write of %q gives %d, %v", text, n, err)
			}
		}
		if got, more := b.Kept(); string(got) != c.want || more != c.more {
			t.Errorf("of %q are kept %q, %v", c.writes, got, more)
		}
	}
	b := kube.NewBounded(kube.MaxStdout)
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 1000 {
				_, _ = b.Write(make([]byte, 1000))
			}
		})
	}
	for range 100 {
		if got, _ := b.Kept(); len(got) > kube.MaxStdout {
			t.Errorf("%d bytes are kept", len(got))
		}
	}
	writers.Wait()
	if got, more := b.Kept(); len(got) != kube.MaxStdout || !more {
		t.Errorf("%d bytes are kept, %v", len(got), more)
	}
}
