// Package buildx owns a real BuildKit daemon and the buildx command that
// builds multi-architecture images with it and pushes them, as CI jobs do.
//
// It refuses what would need the internet: base images, frontends named by a
// "# syntax" line, and SBOM attestations, whose scanner is an image. It refuses
// to run anything for another architecture: images hold files only.
package buildx

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Tool is the binary of buildx, DaemonTool that of BuildKit's daemon and
// ClientTool that of its own command.
var (
	Tool = build.Tool{
		Name:       "buildx",
		Package:    "github.com/docker/buildx/cmd/buildx",
		Module:     "buildx/build",
		VersionVar: "github.com/docker/buildx/version.Version",
		WithV:      true,
	}
	DaemonTool = build.Tool{
		Name:       "buildkitd",
		Package:    "github.com/moby/buildkit/cmd/buildkitd",
		Module:     "buildx/build",
		VersionVar: "github.com/moby/buildkit/version.Version",
		WithV:      true,
	}
	ClientTool = build.Tool{
		Name:       "buildctl",
		Package:    "github.com/moby/buildkit/cmd/buildctl",
		Module:     "buildx/build",
		VersionVar: "github.com/moby/buildkit/version.Version",
		WithV:      true,
	}
)

// Platforms are those an image has if it does not say.
var Platforms = []string{"linux/amd64", "linux/arm64"}

// builder is the name that buildx knows the daemon by.
const builder = "e2e"

// Builder is a running daemon, with a buildx that builds with it.
type Builder struct {
	Version       string // of buildx
	DaemonVersion string // of BuildKit
	Address       string // unix://..., of the daemon

	bin, dir string
}

// Image is an image to build: FROM scratch, a layer that all images of a
// builder have, and one that each platform of the image has for itself.
type Image struct {
	Ref  string   // to push to, with a tag
	Tags []string // more references to push to
	// Content tells the image from others. The same content gives the same
	// manifests for the platforms.
	Content string
	// Platforms are those of the image; default [Platforms].
	Platforms []string
	// Created is the time that the image says it was created; default now.
	// It has whole seconds.
	Created time.Time
	// Bare leaves out the attestations of provenance, one for each platform,
	// which the index names as manifests of the platform unknown/unknown.
	Bare bool
}

// Start starts a daemon that ends with the test. Beside registries on loopback
// it speaks plain HTTP to the ones named.
func Start(t testing.TB, insecure ...string) *Builder {
	t.Helper()
	peers.Need(t, peers.Root, "unshare", "runc")
	bin, daemon := build.Go(t, Tool), build.Go(t, DaemonTool)
	// Not t.TempDir: a socket's path has at most 107 bytes (unix(7)).
	dir, err := os.MkdirTemp("", "buildkit-")
	if err != nil {
		t.Fatalf("create folder: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove folder of buildkitd: %v", err)
		}
	})
	b := &Builder{
		Version: bin.Version, DaemonVersion: daemon.Version,
		Address: "unix://" + filepath.Join(dir, "sock"),
		bin:     bin.Path, dir: dir,
	}
	config := filepath.Join(dir, "buildkitd.toml") // not the system's
	var text strings.Builder
	for _, host := range insecure {
		fmt.Fprintf(&text, "[registry.%q]\nhttp = true\n", host)
	}
	if err := os.WriteFile(config, []byte(text.String()), 0o600); err != nil {
		t.Fatalf("write buildkitd.toml: %v", err)
	}
	// The daemon's mounts end with its namespace, however it ends.
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		daemon.Path,
		"--config="+config,
		"--addr="+b.Address,
		"--root="+filepath.Join(dir, "data"),
		"--otel-socket-path="+filepath.Join(dir, "otel"), // its default is one for the machine
		"--oci-worker=true", "--containerd-worker=false",
		"--oci-worker-net=host", // no network plugin, no firewall rule
		"--cdi-disabled",
	)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TMPDIR=" + dir, "XDG_RUNTIME_DIR=" + dir}
	p := process.StartAs(t, "buildkitd", cmd)
	t.Cleanup(p.Stop)
	p.Until(t, time.Minute, "buildkitd", func() bool {
		_, err := os.Stat(filepath.Join(dir, "sock"))
		return err == nil
	})
	if _, err := b.Buildx(t.Context(), "", "create", "--name="+builder, "--driver=remote", "--use", "--bootstrap", b.Address); err != nil {
		t.Fatalf("make builder: %v", err)
	}
	return b
}

// Buildx runs buildx with the logins of one config.json, which must have that
// name, or with none. It returns what the command printed; the error holds
// that too.
func (b *Builder) Buildx(ctx context.Context, configJSONPath string, args ...string) (string, error) {
	return b.buildx(ctx, b.dir, configJSONPath, args...)
}

func (b *Builder) buildx(ctx context.Context, folder, configJSONPath string, args ...string) (string, error) {
	if configJSONPath == "" {
		configJSONPath = filepath.Join(b.dir, "config.json") // there is none
	}
	cmd := exec.Command(b.bin, args...)
	cmd.Dir = folder
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "TMPDIR=" + b.dir,
		"DOCKER_CONFIG=" + filepath.Dir(configJSONPath), "BUILDX_CONFIG=" + filepath.Join(b.dir, "buildx"),
	}
	return process.Output(ctx, cmd)
}

// Buildctl runs BuildKit's own command, as in "debug workers" or "prune". It
// returns what the command printed; the error holds that too.
func (b *Builder) Buildctl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(build.Go(t, ClientTool).Path, append([]string{"--addr=" + b.Address}, args...)...)
	cmd.Dir = b.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + b.dir, "TMPDIR=" + b.dir}
	return process.Output(t.Context(), cmd)
}

// Push builds the images with one command and pushes them with the logins of
// one config.json. It returns the digests of their indexes, in the order of the
// images; they are pushed at the same time, so in no order.
func (b *Builder) Push(ctx context.Context, configJSONPath string, images ...Image) ([]string, error) {
	dir, err := os.MkdirTemp(b.dir, "bake-")
	if err != nil {
		return nil, fmt.Errorf("create folder: %w", err)
	}
	defer os.RemoveAll(dir)
	targets := map[string]any{}
	for i, image := range images {
		if targets[target(i)], err = image.target(dir, target(i)); err != nil {
			return nil, fmt.Errorf("write %s: %w", image.Ref, err)
		}
	}
	text, err := json.Marshal(map[string]any{"target": targets})
	if err != nil {
		return nil, fmt.Errorf("write bake file: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bake.json"), text, 0o600); err != nil {
		return nil, fmt.Errorf("write bake file: %w", err)
	}
	args := []string{"bake", "--progress=quiet", "--file=bake.json", "--metadata-file=metadata.json"}
	for i := range images {
		args = append(args, target(i))
	}
	if _, err := b.buildx(ctx, dir, configJSONPath, args...); err != nil {
		return nil, err
	}
	return digests(filepath.Join(dir, "metadata.json"), len(images))
}

// Multiarch builds an image for two architectures with an attestation for
// each, pushes it to ref and returns the digest of its index. Content tells it
// from other images.
func (b *Builder) Multiarch(t testing.TB, configJSONPath, ref string, content ...string) (digest string) {
	t.Helper()
	digests, err := b.Push(t.Context(), configJSONPath, Image{Ref: ref, Content: strings.Join(content, "\n")})
	if err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	return digests[0]
}

func target(i int) string { return "image-" + strconv.Itoa(i) }

const dockerfile = `FROM scratch
ARG TARGETARCH
COPY common /
COPY $TARGETARCH /
`

// target writes the image's context to a folder below dir, and says how buildx
// is to build it, in the form of a bake file.
func (m Image) target(dir, name string) (map[string]any, error) {
	platforms := m.Platforms
	if platforms == nil {
		platforms = Platforms
	}
	files := map[string]string{"common/common": "in all images\n"}
	for _, platform := range platforms {
		_, rest, _ := strings.Cut(platform, "/")
		arch, _, _ := strings.Cut(rest, "/")
		files[arch+"/content"] = arch + "\n" + m.Content
	}
	for path, text := range files {
		path = filepath.Join(dir, name, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, err
		}
		// A layer holds its files' times.
		if err := os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0)); err != nil {
			return nil, err
		}
	}
	target := map[string]any{
		"context":           name,
		"dockerfile-inline": dockerfile,
		"tags":              append([]string{m.Ref}, m.Tags...),
		"platforms":         platforms,
		"output":            []string{"type=image,push=true"},
		"attest":            []string{"type=provenance,mode=max"},
	}
	if m.Bare {
		target["attest"] = []string{"type=provenance,disabled=true"}
	}
	if !m.Created.IsZero() {
		target["args"] = map[string]string{"SOURCE_DATE_EPOCH": strconv.FormatInt(m.Created.Unix(), 10)}
	}
	return target, nil
}

// digests reads what buildx says it has pushed.
func digests(path string, n int) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	var metadata map[string]json.RawMessage // beside the targets it has warnings
	if err := json.Unmarshal(text, &metadata); err != nil {
		return nil, fmt.Errorf("read metadata: %w", err)
	}
	all := make([]string, n)
	for i := range n {
		var pushed struct {
			Digest string `json:"containerimage.digest"`
		}
		if err := json.Unmarshal(metadata[target(i)], &pushed); err != nil {
			return nil, fmt.Errorf("read metadata of image %d: %w", i, err)
		}
		if pushed.Digest == "" {
			return nil, fmt.Errorf("read metadata of image %d: no digest", i)
		}
		all[i] = pushed.Digest
	}
	return all, nil
}
