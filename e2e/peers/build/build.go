// Package build owns the binaries of the peers that are Go programs.
//
// Each is pinned by a Go module of its own beside its peer, so that neither
// this module nor regkeeper's takes on its dependencies. It refuses versions
// that such a module does not pin: there is no "latest".
package build

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Tool is a Go command to build.
type Tool struct {
	Name       string // of the binary
	Package    string // import path of the command
	Module     string // folder of the module that pins it, below peers/
	Of         string // module whose version it has; default the command's own
	Tags       string // build tags
	VersionVar string // string variable to set to the version, without the v
	WithV      bool   // set it to the version with the v
}

// Binary is a built tool.
type Binary struct {
	Path    string // of the executable
	Version string // as the module pins it, with the v
	Source  string // folder of the tool's own module, for its data files
}

var (
	mu    sync.Mutex
	built = map[Tool]Binary{}
)

// Go returns the binary of a tool. It is built once, into $REGKEEPER_PEERS or
// else the user's cache folder, under a file lock, so test processes that run
// at the same time build it once between them.
func Go(t testing.TB, tool Tool) Binary {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	if b, ok := built[tool]; ok {
		return b
	}
	b, took, err := build(t.Context(), tool)
	if err != nil {
		t.Fatalf("build %s: %v", tool.Name, err)
	}
	if took > 0 {
		t.Logf("built %s %s in %v", tool.Name, b.Version, took.Round(time.Millisecond))
	}
	built[tool] = b
	return b
}

// build returns a zero time when the binary was there already.
func build(ctx context.Context, tool Tool) (Binary, time.Duration, error) {
	dir, err := command(ctx, "list", "-m", "-f", "{{.Dir}}", "github.com/regkeeper/regkeeper/e2e")
	if err != nil {
		return Binary{}, 0, fmt.Errorf("find module: %w", err)
	}
	dir = filepath.Join(dir, "peers", tool.Module)
	list := []string{"list", "-C", dir, "-tags", tool.Tags, "-f", "{{.Module.Version}} {{.Module.Dir}}", tool.Package}
	if tool.Of != "" {
		list = []string{"list", "-C", dir, "-m", "-f", "{{.Version}} {{.Dir}}", tool.Of}
	}
	module, err := command(ctx, list...)
	if err != nil {
		return Binary{}, 0, fmt.Errorf("find version: %w", err)
	}
	version, source, _ := strings.Cut(module, " ")

	flags := []string{"-tags", tool.Tags, "-ldflags", "-s -w"}
	switch {
	case tool.VersionVar != "" && tool.WithV:
		flags[3] += " -X " + tool.VersionVar + "=" + version
	case tool.VersionVar != "":
		flags[3] += " -X " + tool.VersionVar + "=" + strings.TrimPrefix(version, "v")
	}
	key, err := key(dir, flags)
	if err != nil {
		return Binary{}, 0, err
	}
	cache, err := cache()
	if err != nil {
		return Binary{}, 0, err
	}
	b := Binary{Path: filepath.Join(cache, fmt.Sprintf("%s-%s-%s", tool.Name, version, key)), Version: version, Source: source}

	unlock, err := lock(filepath.Join(cache, tool.Name+".lock"))
	if err != nil {
		return Binary{}, 0, err
	}
	defer unlock()
	if _, err := os.Stat(b.Path); err == nil {
		return b, 0, nil
	}
	start := time.Now()
	args := append([]string{"build", "-C", dir, "-o", b.Path + ".new"}, flags...)
	if _, err := command(ctx, append(args, tool.Package)...); err != nil {
		return Binary{}, 0, err
	}
	if err := os.Rename(b.Path+".new", b.Path); err != nil {
		return Binary{}, 0, fmt.Errorf("keep binary: %w", err)
	}
	return b, time.Since(start), nil
}

// key tells apart binaries of one version that were built in another way.
func key(dir string, flags []string) (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%s %q\n", runtime.Version(), flags)
	pins := []string{filepath.Join(dir, "go.mod"), filepath.Join(dir, "go.sum")}
	sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", fmt.Errorf("list sources: %w", err)
	}
	for _, path := range append(pins, sources...) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read pins: %w", err)
		}
		h.Write(text)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:4]), nil
}

func cache() (string, error) {
	dir := os.Getenv("REGKEEPER_PEERS")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("find cache folder: %w", err)
		}
		dir = filepath.Join(user, "regkeeper", "peers")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create cache folder: %w", err)
	}
	return dir, nil
}

// lock waits for the lock of path. The kernel drops it with the process.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("take lock: %w", err)
	}
	return f.Close, nil
}

// command runs the go command; a workspace must not change what is pinned.
func command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "GOWORK=off")
	out, err := process.Output(ctx, cmd)
	return strings.TrimSpace(out), err
}
