package e2e_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/kubernetes"
)

// busyboxImage is an image that the node of the shared cluster has.
const busyboxImage = "regkeeper.test/busybox:1"

// shared lasts as long as the test process.
var shared lifetime

// sharedCluster is one cluster with a node and a record of requests, for all
// tests that leave it running. Each keeps to its own namespaces.
func sharedCluster(t *testing.T) *kubernetes.Cluster {
	t.Helper()
	kubernetes.NeedNode(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if !shared.started {
		shared.started, shared.TB = true, t
		shared.cluster = kubernetes.Start(&shared, kubernetes.Options{Node: true, Audit: true})
		shared.cluster.Load(t, busyboxImage, busybox.Image(t))
	}
	if shared.cluster == nil {
		t.Fatal("the shared cluster did not start, see the first test that needed it")
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("ends of the logs of the shared cluster:\n%s", shared.cluster.Logs(15))
		}
	})
	return shared.cluster
}

// lifetime is a test to peers that outlives the tests which use them: it ends
// with end. Until they have started it speaks through the first such test.
type lifetime struct {
	testing.TB
	mu      sync.Mutex
	started bool
	cluster *kubernetes.Cluster

	cleanups []func()
	faults   int
}

func (l *lifetime) Cleanup(f func())         { l.cleanups = append(l.cleanups, f) }
func (l *lifetime) Context() context.Context { return context.Background() }
func (l *lifetime) Failed() bool             { return false }
func (l *lifetime) Helper()                  {}

func (l *lifetime) TempDir() string {
	dir, err := os.MkdirTemp("", "shared-")
	if err != nil {
		l.Fatalf("create folder: %v", err)
	}
	l.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Errorf is for faults at the end, when no test is there to tell.
func (l *lifetime) Errorf(format string, args ...any) {
	l.faults++
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}

// end ends the peers and says whether they ended well.
func (l *lifetime) end() bool {
	for _, f := range slices.Backward(l.cleanups) {
		f()
	}
	return l.faults == 0
}
