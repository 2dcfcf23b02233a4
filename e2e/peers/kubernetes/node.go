package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	imagename "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Runtime are the binaries of containerd. What needs headers that a machine
// may lack is left out.
var Runtime = []build.Tool{
	containerdTool("containerd"),
	containerdTool("containerd-shim-runc-v2"),
	containerdTool("ctr"),
}

func containerdTool(name string) build.Tool {
	return build.Tool{
		Name:       name,
		Package:    "github.com/containerd/containerd/v2/cmd/" + name,
		Module:     "containerd/build",
		Tags:       "no_btrfs no_devmapper no_zfs",
		VersionVar: "github.com/containerd/containerd/v2/version.Version",
		WithV:      true,
	}
}

// plugins is the folder of the network plugins.
const plugins = "/usr/lib/cni"

// NeedNode ends the test unless this machine can have a node.
func NeedNode(t testing.TB) {
	t.Helper()
	peers.Need(t, peers.Root, "unshare", "nsenter", "ip", "runc", "busybox", filepath.Join(plugins, "bridge"))
}

// sandboxImage holds a pod's namespaces. Any program that sleeps will do.
const sandboxImage = "regkeeper.test/sandbox:1"

// node is a node's network and runtime.
type node struct {
	gateway net.IP // of pods, on the bridge
	api     net.IP // first address of services
	pods    net.IPNet
	address string // of the kubelet, with its port

	services net.IPNet
	space    *process.Process // holds the namespaces
	runtime  *process.Process
	kubelet  *process.Process
}

// network makes the bridge of the pod network. It must be there before the API
// server, which listens on it.
func (c *Cluster) network() *node {
	c.t.Helper()
	sweep()
	c.t.Cleanup(func() {
		if err := errors.Join(deleteBridge(c.name), deleteGroup(c.name)); err != nil {
			c.t.Errorf("clean up node: %v", err)
		}
	})
	for range 20 {
		n := newNode(byte(176 + rand.IntN(64)))
		if used, err := n.used(c.name); err != nil || used {
			continue
		}
		if err := n.createBridge(c.t.Context(), c.name); err != nil {
			c.t.Fatalf("create bridge: %v", err)
		}
		// Another process may have taken the same addresses meanwhile: then
		// both give way.
		if used, err := n.used(c.name); err == nil && !used {
			if err := createGroup(c.name); err != nil {
				c.t.Fatalf("create control group: %v", err)
			}
			n.address = net.JoinHostPort(n.gateway.String(), c.freePort(n.gateway.String()))
			return n
		}
		if err := deleteBridge(c.name); err != nil {
			c.t.Fatalf("delete bridge: %v", err)
		}
	}
	c.t.Fatal("create bridge: no free addresses")
	return nil
}

// newNode lays out the network 10.block.0.0/16: pods in its first part,
// Services in its second half.
func newNode(block byte) *node {
	return &node{
		gateway:  net.IPv4(10, block, 0, 1),
		pods:     net.IPNet{IP: net.IPv4(10, block, 0, 0), Mask: net.CIDRMask(20, 32)},
		api:      net.IPv4(10, block, 128, 1),
		services: net.IPNet{IP: net.IPv4(10, block, 128, 0), Mask: net.CIDRMask(20, 32)},
	}
}

// used says whether another interface than the bridge has an address in the
// node's network.
func (n *node) used(bridge string) (bool, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return false, err
	}
	whole := net.IPNet{IP: n.pods.IP, Mask: net.CIDRMask(16, 32)}
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil && i.Name != bridge {
			continue // it went away
		}
		for _, a := range addresses {
			if ip, ok := a.(*net.IPNet); ok && i.Name != bridge && whole.Contains(ip.IP) {
				return true, nil
			}
		}
	}
	return false, nil
}

func (n *node) createBridge(ctx context.Context, name string) error {
	for _, args := range [][]string{
		{"link", "add", name, "type", "bridge"},
		{"address", "add", (&net.IPNet{IP: n.gateway, Mask: n.pods.Mask}).String(), "dev", name},
		{"address", "add", n.api.String() + "/32", "dev", name},
		{"link", "set", name, "up"},
	} {
		if _, err := process.Output(ctx, exec.Command("ip", args...)); err != nil {
			return err
		}
	}
	return nil
}

func deleteBridge(name string) error {
	if _, err := net.InterfaceByName(name); err != nil {
		return nil //nolint:nilerr // there is none
	}
	_, err := process.Output(context.Background(), exec.Command("ip", "link", "delete", name))
	return err
}

// sweep removes the bridges and control groups of processes that were killed.
// What it cannot remove is no fault of the cluster that is started.
func sweep() {
	if interfaces, err := net.Interfaces(); err == nil {
		for _, i := range interfaces {
			if names.orphan(i.Name) {
				_ = deleteBridge(i.Name)
			}
		}
	}
	for _, root := range hierarchies() {
		entries, err := os.ReadDir(root)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if names.orphan(e.Name()) {
				_ = deleteFolders(filepath.Join(root, e.Name()))
			}
		}
	}
}

// hierarchies are the folders below which control groups are made: one with
// version 2, one for each controller with version 1.
func hierarchies() []string {
	const top = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(top, "cgroup.controllers")); err == nil {
		return []string{top}
	}
	all, _ := filepath.Glob(filepath.Join(top, "*", "cgroup.procs")) // the pattern is good
	for i := range all {
		all[i] = filepath.Dir(all[i])
	}
	return all
}

// createGroup makes the control group that all pods of the node are in: a
// kubelet removes the groups of pods that it does not know, so no two can
// share one.
func createGroup(name string) error {
	for _, root := range hierarchies() {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

func deleteGroup(name string) error {
	var all []error
	for _, root := range hierarchies() {
		// The kernel may be busy yet with the end of the group's processes.
		deadline := time.Now().Add(10 * time.Second)
		err := deleteFolders(filepath.Join(root, name))
		for ; err != nil && time.Now().Before(deadline); err = deleteFolders(filepath.Join(root, name)) {
			<-time.After(20 * time.Millisecond)
		}
		all = append(all, err)
	}
	return errors.Join(all...)
}

// deleteFolders removes a folder and those in it. The files of a control group
// cannot be removed and go with their folder.
func deleteFolders(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, deleteFolders(filepath.Join(path, e.Name())))
		}
	}
	return errors.Join(err, os.Remove(path))
}

// settings are the kernel settings that a kubelet insists on changing. In its
// mount namespace they are files.
var settings = []string{
	"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
	"vm/overcommit_memory", "vm/panic_on_oom",
}

// enclose is run by the first process of the namespaces. Folders in which
// kubelet, containerd, runc and the network plugins write are hidden by empty
// ones. The shell stays, to collect the processes whose parents ended.
const enclose = `set -e
for folder in /run /var/log /var/lib; do mount -t tmpfs tmpfs $folder; done
folder=$1; shift
for setting; do mount --bind $folder/$setting /proc/sys/$setting; done
echo enclosed
sleep infinity & wait`

// startRuntime starts containerd with the sandbox's image.
func (n *node) startRuntime(c *Cluster) {
	c.t.Helper()
	for _, setting := range settings {
		value, err := os.ReadFile(filepath.Join("/proc/sys", setting))
		if err != nil {
			c.t.Fatalf("read kernel setting: %v", err)
		}
		c.write(filepath.Join("sys", setting), string(value))
	}
	n.space = c.start("namespaces", exec.Command("unshare", slices.Concat(
		[]string{"--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", enclose, "sh", filepath.Join(c.dir, "sys")}, settings)...))
	n.space.Until(c.t, ready, "namespaces", func() bool { return strings.Contains(n.space.Log(), "enclosed") })

	for _, tool := range Runtime {
		path := filepath.Join(c.dir, "bin", tool.Name) // containerd finds its shim by this name
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Symlink(build.Go(c.t, tool).Path, path))
		if err != nil {
			c.t.Fatalf("link %s: %v", tool.Name, err)
		}
	}
	c.write("cni/10-bridge.conflist", fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "bridge", "bridge": %q, "hairpinMode": true,
  "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}}]}
`, c.name, filepath.Join(c.dir, "ipam"), &n.pods))
	c.write("containerd.toml", fmt.Sprintf(`version = 3
root = "%[1]s/root"
state = "%[1]s/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp", "io.containerd.nri.v1.nri"]
[grpc]
  address = "%[1]s/containerd.sock"
[ttrpc]
  address = "%[1]s/containerd.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  stream_server_address = "127.0.0.1"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  pinned_images = {sandbox = "%[2]s"}
  registry = {config_path = "%[1]s/registries"}
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true # lowering it takes a capability that root may lack
  cni = {bin_dirs = ["%[3]s"], conf_dir = "%[1]s/cni"}
`, c.dir, sandboxImage, plugins))
	n.runtime = c.startOnNode("containerd", filepath.Join(c.dir, "bin", "containerd"), "--config="+filepath.Join(c.dir, "containerd.toml"))
	n.runtime.Until(c.t, ready, "containerd", func() bool {
		_, err := c.ctr(c.t.Context(), "version")
		return err == nil
	})
	c.Load(c.t, sandboxImage, busybox.New(c.t, busybox.Spec{Cmd: []string{"sleep", "2147483647"}}))
}

// onNode is run to start a program on the node. The process that stands for it
// outside is not to end before it: it ignores what asks both of them to.
const onNode = `trap "" TERM; exec nsenter --target=$0 --mount --pid "$@"`

// startOnNode starts a program in the node's namespaces.
func (c *Cluster) startOnNode(name, path string, args ...string) *process.Process {
	c.t.Helper()
	// The first process of the namespaces is the child of the one that we know.
	child, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", c.node.space.PID()))
	if err != nil {
		c.t.Fatalf("find namespaces: %v", err)
	}
	env := "PATH=" + filepath.Join(c.dir, "bin") + ":" + os.Getenv("PATH")
	p := c.start(name, exec.Command("sh", slices.Concat([]string{"-c", onNode, strings.TrimSpace(string(child)), "env", env, path}, args)...))
	c.t.Cleanup(p.Stop)
	return p
}

func (c *Cluster) ctr(ctx context.Context, args ...string) (string, error) {
	return process.Output(ctx, exec.Command(filepath.Join(c.dir, "bin", "ctr"),
		append([]string{"--address=" + filepath.Join(c.dir, "containerd.sock"), "--namespace=k8s.io"}, args...)...))
}

// Load gives the node an image, under a reference with a tag. Pods that are to
// run it must not pull always.
func (c *Cluster) Load(t testing.TB, ref string, image v1.Image) {
	t.Helper()
	tag, err := imagename.NewTag(ref)
	if err != nil {
		t.Fatalf("parse reference: %v", err)
	}
	file := filepath.Join(t.TempDir(), "image.tar")
	if err := tarball.WriteToFile(file, tag, image); err != nil {
		t.Fatalf("write archive: %v", err)
	}
	if _, err := c.ctr(t.Context(), "images", "import", file); err != nil {
		t.Fatalf("load image: %v", err)
	}
	os.Remove(file)
}

// AllowHTTP has the node pull from a registry over HTTP, when it has to. A
// registry at 127.0.0.1 or localhost needs no leave: containerd tries both.
func (c *Cluster) AllowHTTP(t testing.TB, host string) {
	t.Helper()
	path := c.HostsFile(host)
	text := fmt.Sprintf("server = \"http://%s\"\n[host.\"http://%[1]s\"]\n", host)
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600))
	if err != nil {
		t.Fatalf("allow http: %v", err)
	}
}

// HostsFile is where the node's containerd looks for what it should know of a
// registry.
func (c *Cluster) HostsFile(host string) string {
	return filepath.Join(c.dir, "registries", host, "hosts.toml")
}

// StopKubelet ends the kubelet. Its pods go on.
func (c *Cluster) StopKubelet() { c.node.kubelet.Stop() }

// StartKubelet starts a stopped kubelet again and waits until its node is ready.
func (c *Cluster) StartKubelet() {
	c.t.Helper()
	host, port, err := net.SplitHostPort(c.node.address)
	if err != nil {
		c.t.Fatalf("parse address: %v", err)
	}
	config := c.write("kubelet.yaml", fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %[1]s
port: %[2]s
healthzPort: 0
tlsCertFile: %[3]s
tlsPrivateKeyFile: %[4]s
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %[5]s}}
authorization: {mode: Webhook}
containerRuntimeEndpoint: unix://%[6]s/containerd.sock
podLogsDir: %[6]s/logs
volumePluginDir: %[6]s/volumes
resolvConf: %[7]s
cgroupDriver: cgroupfs
cgroupRoot: /%[8]s
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0 # lowering it takes a capability that root may lack
makeIPTablesUtilChains: false
evictionHard: {memory.available: 100Mi, nodefs.available: 1%%, imagefs.available: 1%%, nodefs.inodesFree: 1%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 500
registryPullQPS: 0
serializeImagePulls: false
kubeAPIQPS: 200
kubeAPIBurst: 400
eventRecordQPS: 0
nodeStatusUpdateFrequency: 5s
`, host, port, c.keys.cert("kubelet"), c.keys.key("kubelet"), c.keys.ca(), c.dir, c.write("resolv.conf", "nameserver 127.0.0.1\n"), c.name))
	args := []string{"kubelet", "--config=" + config, "--kubeconfig=" + c.kubeconfig("system:node:"+NodeName),
		"--hostname-override=" + NodeName, "--node-ip=" + c.Gateway,
		"--root-dir=" + filepath.Join(c.dir, "kubelet"), "--cert-dir=" + filepath.Join(c.dir, "kubelet", "pki")}
	// The API may remember that the node was ready: its record must be new.
	since := time.Now().Truncate(time.Second)
	c.node.kubelet = c.startOnNode("kubelet", c.bin, append(args, c.o.KubeletArgs...)...)
	c.node.kubelet.Until(c.t, ready, "node", func() bool {
		n, err := c.client.CoreV1().Nodes().Get(c.t.Context(), NodeName, metav1.GetOptions{})
		return err == nil && readySince(n, since)
	})
}
