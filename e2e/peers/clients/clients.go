// Package clients owns the programs that pull and push images: one row each.
//
// It refuses a login that is not in the file it is given: no client here sees
// a home folder, another login file or a login in the environment. It refuses
// local copies too: each pull asks the registry.
package clients

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// CraneTool is the binary of go-containerregistry's client.
var CraneTool = build.Tool{
	Name:       "crane",
	Package:    "github.com/google/go-containerregistry/cmd/crane",
	Module:     "clients/build",
	VersionVar: "github.com/google/go-containerregistry/cmd/crane/cmd.Version",
}

// Client pulls and pushes images with the logins of one config.json file,
// which must have that name. The errors hold what the program said.
type Client struct {
	Name    string
	Version func() string
	// Pull fetches an image by tag or digest from its registry.
	Pull func(ctx context.Context, ref, configJSONPath string) error
	// Push writes a new small image to a tag.
	Push func(ctx context.Context, ref, configJSONPath string) error
}

// All returns every client; the test ends when one is not installed.
func All(t testing.TB, d *docker.Daemon) []Client {
	t.Helper()
	return []Client{Docker(t, d), Podman(t), Skopeo(t), Crane(t)}
}

// Docker is the docker command; its daemon pulls and pushes.
func Docker(t testing.TB, d *docker.Daemon) Client {
	t.Helper()
	return Client{
		Name:    "docker",
		Version: func() string { return d.Version },
		Pull: func(ctx context.Context, ref, config string) error {
			if err := forget(ctx, d, ref); err != nil {
				return err
			}
			_, err := d.Docker(ctx, filepath.Dir(config), "pull", ref)
			return err
		},
		Push: func(ctx context.Context, ref, config string) error {
			return withArchive(ref, func(archive string) error {
				if _, err := d.Docker(ctx, filepath.Dir(config), "load", "--input", archive); err != nil {
					return err
				}
				_, err := d.Docker(ctx, filepath.Dir(config), "push", ref)
				return err
			})
		},
	}
}

// forget removes the daemon's copy of an image, if it has one.
func forget(ctx context.Context, d *docker.Daemon, ref string) error {
	ids, err := d.Docker(ctx, "", "images", "--quiet", ref)
	if err != nil || strings.TrimSpace(ids) == "" {
		return err
	}
	_, err = d.Docker(ctx, "", append([]string{"rmi", "--force"}, strings.Fields(ids)...)...)
	return err
}

// Podman is the podman command with a private store that needs no mounts.
func Podman(t testing.TB) Client {
	t.Helper()
	peers.Need(t, "podman")
	dir := t.TempDir()
	podman := func(ctx context.Context, args ...string) (string, error) {
		return run(ctx, dir, nil, "podman", append([]string{
			"--root=" + filepath.Join(dir, "root"), "--runroot=" + filepath.Join(dir, "run"),
			"--storage-driver=vfs", "--cgroup-manager=cgroupfs", "--events-backend=none",
		}, args...)...)
	}
	return Client{
		Name:    "podman",
		Version: version(dir, "podman", "--version"),
		Pull: func(ctx context.Context, ref, config string) error {
			if _, err := podman(ctx, "rmi", "--all", "--force"); err != nil {
				return err
			}
			_, err := podman(ctx, "pull", "--tls-verify=false", "--authfile="+config, ref)
			return err
		},
		Push: func(ctx context.Context, ref, config string) error {
			return withArchive(ref, func(archive string) error {
				if _, err := podman(ctx, "load", "--input="+archive); err != nil {
					return err
				}
				_, err := podman(ctx, "push", "--tls-verify=false", "--authfile="+config, ref)
				return err
			})
		},
	}
}

// Skopeo is the skopeo command, which keeps no store.
func Skopeo(t testing.TB) Client {
	t.Helper()
	peers.Need(t, "skopeo")
	dir := t.TempDir()
	return Client{
		Name:    "skopeo",
		Version: version(dir, "skopeo", "--version"),
		Pull: func(ctx context.Context, ref, config string) error {
			return withFolder(func(to string) error {
				_, err := run(ctx, dir, nil, "skopeo", "copy", "--src-tls-verify=false", "--src-authfile="+config, "docker://"+ref, "dir:"+to)
				return err
			})
		},
		Push: func(ctx context.Context, ref, config string) error {
			return withArchive(ref, func(archive string) error {
				_, err := run(ctx, dir, nil, "skopeo", "copy", "--dest-tls-verify=false", "--dest-authfile="+config, "docker-archive:"+archive, "docker://"+ref)
				return err
			})
		},
	}
}

// Crane is go-containerregistry's command, which keeps no store.
func Crane(t testing.TB) Client {
	t.Helper()
	bin := build.Go(t, CraneTool)
	dir := t.TempDir()
	env := func(config string) []string { return []string{"DOCKER_CONFIG=" + filepath.Dir(config)} }
	return Client{
		Name:    "crane",
		Version: version(dir, bin.Path, "version"),
		Pull: func(ctx context.Context, ref, config string) error {
			return withFolder(func(to string) error {
				_, err := run(ctx, dir, env(config), bin.Path, "pull", ref, filepath.Join(to, "image.tar"))
				return err
			})
		},
		Push: func(ctx context.Context, ref, config string) error {
			return withArchive(ref, func(archive string) error {
				_, err := run(ctx, dir, env(config), bin.Path, "push", archive, ref)
				return err
			})
		},
	}
}

// run runs a program that sees home and env and nothing else of this process.
func run(ctx context.Context, home string, env []string, program string, args ...string) (string, error) {
	cmd := exec.Command(program, args...)
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+home, "XDG_RUNTIME_DIR="+home, "TMPDIR="+home)
	return process.Output(ctx, cmd)
}

func version(home, program string, args ...string) func() string {
	return func() string {
		out, err := run(context.Background(), home, nil, program, args...)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(out)
	}
}

// withArchive makes an image that no registry has seen, for a push to upload.
func withArchive(ref string, use func(archive string) error) error {
	tag, err := name.NewTag(ref)
	if err != nil {
		return fmt.Errorf("parse reference: %w", err)
	}
	img, err := random.Image(1<<10, 1)
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	return withFolder(func(dir string) error {
		archive := filepath.Join(dir, "image.tar")
		if err := tarball.WriteToFile(archive, tag, img); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
		return use(archive)
	})
}

func withFolder(use func(dir string) error) error {
	dir, err := os.MkdirTemp("", "image-")
	if err != nil {
		return fmt.Errorf("create folder: %w", err)
	}
	defer os.RemoveAll(dir)
	return use(dir)
}
