// Package docker owns a private Docker daemon.
//
// It refuses the machine's daemon: nothing here reads or writes the system's
// socket, images or containers. The daemon runs in process and mount
// namespaces of its own, so that its containerd, its shims, its containers and
// its mounts end with it, however it ends. It has no bridge and changes no
// firewall rule: containers get the network "host" or "none".
package docker

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Daemon is a running Docker daemon.
type Daemon struct {
	Host    string // unix://..., as in DOCKER_HOST
	Version string // of the client and the daemon, for logs

	dir string
}

// Start starts a daemon that ends with the test. Beside registries on loopback
// it speaks plain HTTP to the ones named.
func Start(t testing.TB, insecure ...string) *Daemon {
	t.Helper()
	peers.Need(t, peers.Root, "unshare", "dockerd", "docker")
	// Not t.TempDir: a socket's path has at most 107 bytes (unix(7)), and
	// containerd puts its own below this one.
	dir, err := os.MkdirTemp("", "docker-")
	if err != nil {
		t.Fatalf("create folder: %v", err)
	}
	d := &Daemon{Host: "unix://" + filepath.Join(dir, "sock"), dir: dir}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove folder of dockerd: %v", err)
		}
	})
	config := filepath.Join(dir, "daemon.json") // not the system's
	settings, err := json.Marshal(map[string]any{"insecure-registries": insecure})
	if err != nil {
		t.Fatalf("write daemon.json: %v", err)
	}
	if err := os.WriteFile(config, settings, 0o600); err != nil {
		t.Fatalf("write daemon.json: %v", err)
	}
	p := process.Start(t, exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"dockerd",
		"--host="+d.Host,
		"--data-root="+filepath.Join(dir, "data"),
		"--exec-root="+filepath.Join(dir, "exec"),
		"--pidfile="+filepath.Join(dir, "pid"),
		"--config-file="+config,
		"--bridge=none", "--iptables=false", "--ip6tables=false",
		"--log-level=warn",
	))
	p.Until(t, time.Minute, "docker daemon", func() bool {
		out, err := d.Docker(t.Context(), "", "version", "--format", "client {{.Client.Version}}, daemon {{.Server.Version}}")
		d.Version = strings.TrimSpace(out)
		return err == nil
	})
	// The kernel ends the containers with the daemon, but only a daemon that
	// is asked to end removes their control groups, and it waits for each.
	t.Cleanup(func() {
		ctx := context.Background()
		if ids, err := d.Docker(ctx, "", "ps", "--all", "--quiet"); err == nil && ids != "" {
			d.Docker(ctx, "", append([]string{"rm", "--force", "--volumes"}, strings.Fields(ids)...)...)
		}
		p.Stop()
	})
	return d
}

// Env is the environment that points a Docker client at the daemon.
func (d *Daemon) Env() []string { return []string{"DOCKER_HOST=" + d.Host} }

// Docker runs the docker command with the config.json of configDir and no
// other login: neither the home folder's nor the environment's. Without a
// configDir it has no login at all. It returns what the command printed; the
// error holds that too.
func (d *Daemon) Docker(ctx context.Context, configDir string, args ...string) (string, error) {
	if configDir == "" {
		configDir = d.dir // holds no config.json
	}
	cmd := exec.Command("docker", args...)
	cmd.Env = append(d.Env(), "PATH="+os.Getenv("PATH"), "HOME="+configDir, "DOCKER_CONFIG="+configDir)
	return process.Output(ctx, cmd)
}
