package kubernetes

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/e2e/peers/build"
)

// Kwok is the binary of kwok.
var Kwok = build.Tool{
	Name:       "kwok",
	Package:    "sigs.k8s.io/kwok/cmd/kwok",
	Module:     "kwok/build",
	VersionVar: "sigs.k8s.io/kwok/pkg/consts.Version",
}

// FakeTaint is the key of the taint of the nodes of kwok, and FakeLabel the
// label that selects them.
const (
	FakeTaint = "kwok"
	FakeLabel = "type=kwok"
)

// startFakes starts kwok without a server: it would run an exec request as a
// command on this machine, so such requests are refused.
func (c *Cluster) startFakes(n int) {
	c.t.Helper()
	const annotation = "kwok.x-k8s.io/node"
	bin := build.Go(c.t, Kwok)
	args := []string{"--kubeconfig=" + c.Kubeconfig(),
		"--manage-nodes-with-annotation-selector=" + annotation + "=fake", "--node-lease-duration-seconds=40",
		"--node-ip=127.0.0.1", "--server-address=", "--cidr=10.250.0.0/15"}
	for _, behaviour := range []string{"node/fast", "node/heartbeat-with-lease", "pod/fast"} {
		stages, err := filepath.Glob(filepath.Join(bin.Source, "kustomize", "stage", behaviour, "[np]o*-*.yaml"))
		if err != nil || len(stages) == 0 {
			c.t.Fatalf("find what kwok does: nothing in %s: %v", behaviour, err)
		}
		for _, stage := range stages {
			args = append(args, "--config="+stage)
		}
	}
	kwok := c.start("kwok", exec.Command(bin.Path, args...))
	ctx, since := c.t.Context(), time.Now().Truncate(time.Second)

	names := make(chan string)
	var workers sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range 16 {
		workers.Go(func() {
			for name := range names {
				if err := c.createFake(ctx, name, annotation); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		names <- "fake-" + strconv.Itoa(i+1)
	}
	close(names)
	workers.Wait()
	if failed != nil {
		c.t.Fatalf("create node: %v", failed)
	}
	kwok.Until(c.t, ready, fmt.Sprintf("%d fake nodes", n), func() bool {
		nodes, err := c.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: FakeLabel})
		if err != nil {
			return false
		}
		up := 0
		for _, node := range nodes.Items {
			if readySince(&node, since) {
				up++
			}
		}
		return up == n
	})
}

func (c *Cluster) createFake(ctx context.Context, name, annotation string) error {
	_, err := c.client.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{
			Name:        name,
			Annotations: map[string]string{annotation: "fake"},
			Labels:      map[string]string{"type": "kwok", corev1.LabelHostname: name},
		},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: FakeTaint, Value: "1", Effect: corev1.TaintEffectNoSchedule}}},
	}, metav1.CreateOptions{})
	return err
}
