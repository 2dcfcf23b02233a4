// Package kubernetes owns a real Kubernetes: etcd, the API server, the
// controller manager and the scheduler; and when a test asks for them a node
// with a kubelet and containerd, and the many fake nodes of kwok.
//
// It refuses the machine's own: no container runtime, kubeconfig, network or
// kernel setting of the machine is read or changed. Kubelet and containerd run
// in process and mount namespaces of their own, as the Docker daemon does, so
// that containers, shims and mounts end with them, however they end. What only
// this process can take away, the bridge of the pod network and the control
// groups, bears its process id, and a later cluster removes it when a killed
// test left it.
//
// It has no kube-proxy. The API server itself listens at the cluster address
// of the Service "kubernetes", so pods reach the API; other Services have a
// cluster address and nothing behind it.
package kubernetes

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Tool is the binary of the programs of Kubernetes, and of etcd.
var Tool = build.Tool{
	Name:       "kubernetes",
	Package:    "github.com/regkeeper/regkeeper/e2e/peers/kubernetes/build",
	Module:     "kubernetes/build",
	Of:         "k8s.io/kubernetes",
	VersionVar: "k8s.io/component-base/version.gitVersion",
	WithV:      true,
}

// Options says what a cluster has besides its control plane.
type Options struct {
	// Node adds one node, whose name is [NodeName]: a kubelet, containerd, and
	// a network on which pods reach each other, this machine and the API.
	Node bool
	// Fake adds that many nodes of kwok: their pods run nothing and are ready
	// at once. Only pods that tolerate the taint "kwok" are scheduled there.
	Fake int
	// Audit keeps a record of every request for [Cluster.Requests].
	Audit bool
	// APIServerArgs and KubeletArgs are added to the programs' arguments.
	APIServerArgs, KubeletArgs []string
}

// NodeName is the name of the node.
const NodeName = "node"

// ready is how long each part of a cluster has to become ready.
const ready = 2 * time.Minute

// Cluster is a running cluster. A method that is given a test ends that test
// on an error; the others end the test that the cluster was started with.
type Cluster struct {
	Version string // of Kubernetes, v1.2.3
	URL     string // https://address:port of the API, no slash at the end
	// Gateway is the address of this machine on the pod network. What listens
	// there is reached by pods, by the kubelet and by tests. Empty without a
	// node.
	Gateway string

	t       testing.TB
	o       Options
	bin     string
	name    string // unique on this machine, see names
	dir     string
	keys    *keys
	etcd    string // URL
	service string // cluster addresses of Services, a CIDR
	config  *rest.Config
	client  kubernetes.Interface
	node    *node

	apiserver *process.Process
	processes []*process.Process // every one there was, in the order of their starts
}

// count numbers the clusters of this process.
var count atomic.Int32

// Start starts a cluster that ends with the test. The first call of a machine
// compiles it, for minutes.
func Start(t testing.TB, o Options) *Cluster {
	t.Helper()
	if o.Node {
		NeedNode(t)
	}
	bin := build.Go(t, Tool)
	// Not t.TempDir: a socket's path has at most 107 bytes (unix(7)).
	dir, err := os.MkdirTemp("", "kube-")
	if err != nil {
		t.Fatalf("create folder: %v", err)
	}
	c := &Cluster{Version: bin.Version, t: t, o: o, bin: bin.Path, dir: dir,
		name: names.make(int(count.Add(1)))}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove folder of kubernetes: %v", err)
		}
	})
	// The apiserver is the slowest: everything that it does not need starts
	// after it, or while it starts.
	host := "127.0.0.1"
	var port string
	addresses := []net.IP{net.IPv4(127, 0, 0, 1)}
	if o.Node {
		c.node = c.network()
		c.Gateway, c.service = c.node.gateway.String(), c.node.services.String()
		host, port = c.node.api.String(), "443"
		addresses = append(addresses, c.node.gateway, c.node.api)
	} else {
		c.service = "10.96.0.0/16"
		port = c.freePort(host)
	}
	c.URL = "https://" + net.JoinHostPort(host, port)
	if c.keys, err = newKeys(filepath.Join(dir, "keys"), addresses); err != nil {
		t.Fatalf("make keys: %v", err)
	}
	for user, groups := range map[string][]string{
		"admin":                          {"system:masters"},
		"system:kube-controller-manager": nil,
		"system:kube-scheduler":          nil,
		"system:node:" + NodeName:        {"system:nodes"},
	} {
		if err := c.keys.kubeconfig(c.kubeconfig(user), c.URL, user, groups...); err != nil {
			t.Fatalf("write kubeconfig of %s: %v", user, err)
		}
	}
	if c.config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig()); err != nil {
		t.Fatalf("read kubeconfig: %v", err)
	}
	c.config.QPS = -1 // no limit
	if c.client, err = kubernetes.NewForConfig(c.config); err != nil {
		t.Fatalf("make client: %v", err)
	}

	c.startEtcd()
	apiserver := c.launchAPIServer()
	if o.Node {
		c.node.startRuntime(c)
	}
	c.awaitAPIServer(apiserver)
	manager := c.run("kube-controller-manager",
		"--kubeconfig="+c.kubeconfig("system:kube-controller-manager"),
		"--leader-elect=false", "--secure-port=0", "--use-service-account-credentials=true",
		"--root-ca-file="+c.keys.ca(), "--service-account-private-key-file="+c.keys.key("accounts"),
		"--kube-api-qps=1000", "--kube-api-burst=2000", "--concurrent-deployment-syncs=10", "--concurrent-replicaset-syncs=10",
	)
	c.run("kube-scheduler",
		"--kubeconfig="+c.kubeconfig("system:kube-scheduler"),
		"--leader-elect=false", "--secure-port=0", "--kube-api-qps=1000", "--kube-api-burst=2000",
	)
	if o.Node {
		c.StartKubelet()
	}
	if o.Fake > 0 {
		c.startFakes(o.Fake)
	}
	manager.Until(t, ready, "default ServiceAccount", func() bool {
		_, err := c.client.CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	return c
}

// Kubeconfig is the path of a kubeconfig that may do everything.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig("admin") }

func (c *Cluster) kubeconfig(user string) string {
	return filepath.Join(c.dir, strings.ReplaceAll(user, ":", "-")+".kubeconfig")
}

// Config returns a copy of the configuration of a client that may do
// everything, as fast as it likes.
func (c *Cluster) Config() *rest.Config { return rest.CopyConfig(c.config) }

// Client is a client that may do everything.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// StopAPIServer ends the API server at once, as an outage does: what it was
// asked gets no answer, and then its port refuses connections. Pods go on. Asked
// to end, it would wait for its clients, which need not be in a hurry.
func (c *Cluster) StopAPIServer() { c.apiserver.Kill() }

// StartAPIServer starts a stopped API server again, on its port, with its data.
func (c *Cluster) StartAPIServer() {
	c.t.Helper()
	c.awaitAPIServer(c.launchAPIServer())
}

func (c *Cluster) launchAPIServer() *process.Process {
	c.t.Helper()
	host, port, err := net.SplitHostPort(strings.TrimPrefix(c.URL, "https://"))
	if err != nil {
		c.t.Fatalf("parse address: %v", err)
	}
	args := []string{
		"--etcd-servers=" + c.etcd, "--bind-address=" + host, "--secure-port=" + port,
		"--service-cluster-ip-range=" + c.service, "--endpoint-reconciler-type=none",
		"--allow-privileged=true", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--cert-dir=" + c.dir, "--tls-cert-file=" + c.keys.cert("apiserver"), "--tls-private-key-file=" + c.keys.key("apiserver"),
		"--client-ca-file=" + c.keys.ca(),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + c.keys.key("accounts"), "--service-account-signing-key-file=" + c.keys.key("accounts"),
		"--kubelet-certificate-authority=" + c.keys.ca(), "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + c.keys.cert("apiserver"), "--kubelet-client-key=" + c.keys.key("apiserver"),
		"--max-requests-inflight=1000", "--max-mutating-requests-inflight=500",
	}
	if c.Gateway != "" {
		args = append(args, "--advertise-address="+c.Gateway)
	}
	if c.o.Audit {
		args = append(args, c.audit()...)
	}
	c.apiserver = c.run("kube-apiserver", append(args, c.o.APIServerArgs...)...)
	return c.apiserver
}

func (c *Cluster) awaitAPIServer(p *process.Process) {
	c.t.Helper()
	p.Until(c.t, ready, "kube-apiserver", func() bool {
		_, err := c.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(c.t.Context())
		return err == nil
	})
}

func (c *Cluster) startEtcd() {
	c.t.Helper()
	c.etcd = "http://" + net.JoinHostPort("127.0.0.1", c.freePort("127.0.0.1"))
	peer := "http://" + net.JoinHostPort("127.0.0.1", c.freePort("127.0.0.1"))
	c.run("etcd", "--data-dir="+filepath.Join(c.dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+c.etcd, "--advertise-client-urls="+c.etcd,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=default="+peer)
}

// Logs is what the programs of the cluster wrote last, for a test that failed.
func (c *Cluster) Logs(lines int) string {
	var b strings.Builder
	for _, p := range c.processes {
		fmt.Fprintf(&b, "== %s\n%s\n", p.Name(), p.Tail(lines))
	}
	return b.String()
}

// run starts a program of Kubernetes.
func (c *Cluster) run(program string, args ...string) *process.Process {
	c.t.Helper()
	return c.start(program, exec.Command(c.bin, slices.Concat([]string{program}, args)...))
}

// start starts a program that sees nothing of the caller's configuration.
func (c *Cluster) start(name string, cmd *exec.Cmd) *process.Process {
	c.t.Helper()
	cmd.Dir, cmd.Env = c.dir, c.env()
	p := process.StartAs(c.t, name, cmd)
	c.processes = append(c.processes, p)
	return p
}

func (c *Cluster) env() []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir}
}

func (c *Cluster) freePort(host string) string {
	c.t.Helper()
	address, err := peers.FreeAddress(host)
	if err != nil {
		c.t.Fatalf("find free port: %v", err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		c.t.Fatalf("find free port: %v", err)
	}
	return port
}

// write puts a file into the cluster's folder and returns its path.
func (c *Cluster) write(name, text string) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
	if err != nil {
		c.t.Fatalf("write file: %v", err)
	}
	return path
}

// until waits for a state of the cluster.
func until(t testing.TB, limit time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for wait := 10 * time.Millisecond; ; wait = min(wait*3/2, 250*time.Millisecond) {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("wait for %s: not within %v: %v", what, limit, err)
		}
		<-time.After(wait)
	}
}

// readySince says whether a kubelet has said since then that its node is ready.
func readySince(n *corev1.Node, since time.Time) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(condition corev1.NodeCondition) bool {
		return condition.Type == corev1.NodeReady && condition.Status == corev1.ConditionTrue && !condition.LastHeartbeatTime.Time.Before(since)
	})
}

// naming makes and reads names that say which process they belong to.
type naming struct{ prefix string }

// names are those of bridges, which have at most 15 bytes, and control groups.
var names = naming{"rk"}

func (s naming) make(n int) string { return fmt.Sprintf("%s%dx%d", s.prefix, os.Getpid(), n) }

// orphan says whether a name is one of these and its process is gone.
func (s naming) orphan(name string) bool {
	rest, ok := strings.CutPrefix(name, s.prefix)
	text, number, found := strings.Cut(rest, "x")
	pid, err := strconv.Atoi(text)
	if _, bad := strconv.Atoi(number); !ok || !found || err != nil || bad != nil {
		return false
	}
	_, err = os.Stat(fmt.Sprintf("/proc/%d", pid))
	return errors.Is(err, os.ErrNotExist)
}
