// Package busybox owns the images that jobs and pods run: one static binary,
// and the names it is called by.
package busybox

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/regkeeper/regkeeper/e2e/peers"
)

// applets are the names a runner and a small script use.
var applets = []string{
	"cat", "chmod", "cp", "echo", "env", "false", "grep", "id", "ln", "ls", "mkdir", "mv", "rm",
	"sh", "sha256sum", "sleep", "stat", "sync", "tail", "test", "touch", "true", "uname", "wc", "wget",
}

// Spec says how an image differs from the one of jobs.
type Spec struct {
	// Applets are the only programs; default those of a small job script.
	// Without "sh" the image has no shell.
	Applets []string
	// Users are lines of /etc/passwd; without one there is no such file.
	Users []string
	// Files are more files, by their paths without the slash at the beginning;
	// Programs are files that may be run.
	Files, Programs map[string]string
	// User is whom the image runs as, by name or number; default root.
	User string
	// Cmd is what the image runs; default a shell.
	Cmd []string
	// Mark tells apart images that are else the same.
	Mark string
}

// Image assembles the image of jobs from this machine's busybox, which must be
// static.
func Image(t testing.TB) v1.Image {
	t.Helper()
	return New(t, Spec{})
}

// New assembles an image.
func New(t testing.TB, s Spec) v1.Image {
	t.Helper()
	peers.Need(t, "busybox")
	img, err := s.image()
	if err != nil {
		t.Fatalf("assemble image: %v", err)
	}
	return img
}

// Push assembles the image and pushes it to ref with a login.
func Push(t testing.TB, ref, username, password string) {
	t.Helper()
	tag, err := name.NewTag(ref)
	if err != nil {
		t.Fatalf("parse reference: %v", err)
	}
	auth := remote.WithAuth(&authn.Basic{Username: username, Password: password})
	if err := remote.Write(tag, Image(t), auth, remote.WithContext(t.Context())); err != nil {
		t.Fatalf("push image: %v", err)
	}
}

func (s Spec) image() (v1.Image, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("find busybox: %w", err)
	}
	binary, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read busybox: %w", err)
	}
	files, err := s.archive(binary)
	if err != nil {
		return nil, fmt.Errorf("write layer: %w", err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("read image config: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Env = []string{"PATH=/bin"}
	config.Config.User, config.Config.Cmd = s.User, []string{"sh"}
	if s.Cmd != nil {
		config.Config.Cmd = s.Cmd
	}
	if s.Mark != "" {
		config.Config.Labels = map[string]string{"mark": s.Mark}
	}
	return mutate.ConfigFile(img, config)
}

func (s Spec) archive(busybox []byte) ([]byte, error) {
	names := applets
	if s.Applets != nil {
		names = s.Applets
	}
	files := map[string]string{}
	maps.Copy(files, s.Files)
	if len(s.Users) > 0 {
		files["etc/passwd"] = strings.Join(s.Users, "\n") + "\n"
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []*tar.Header{
		{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777},
	} {
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	write := func(name string, mode int64, text []byte) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(text))}); err != nil {
			return err
		}
		_, err := w.Write(text)
		return err
	}
	if err := write("bin/busybox", 0o755, busybox); err != nil {
		return nil, err
	}
	for _, applet := range names {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + applet, Typeflag: tar.TypeSymlink, Linkname: "busybox", Mode: 0o777}); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := write(name, 0o644, []byte(files[name])); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Programs)) {
		if err := write(name, 0o755, []byte(s.Programs[name])); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), w.Close()
}
