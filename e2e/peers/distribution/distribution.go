// Package distribution owns real registries of the CNCF Distribution project:
// Debian's version 2 and the current version 3.
//
// It refuses the machine's registry: each server has a configuration and a
// storage folder of its own, and nothing of /etc/docker/registry.
package distribution

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Tool is the binary of version 3.
var Tool = build.Tool{
	Name:       "registry",
	Package:    "github.com/distribution/distribution/v3/cmd/registry",
	Module:     "distribution/build",
	VersionVar: "github.com/distribution/distribution/v3/version.version",
	WithV:      true,
}

// Options says how a server differs from one that anybody may write to and
// nobody may delete from.
type Options struct {
	// V3 starts version 3; default Debian's version 2.
	V3 bool
	// DeleteEnabled lets manifests and blobs be deleted.
	DeleteEnabled bool
	// Users are the passwords of those who may log in. Each may do everything.
	Users map[string]string
	// HTTP changes the section "http" of the configuration, for instance
	// {"relativeurls": true}. The address is the server's own.
	HTTP map[string]any
}

// Server is a registry on loopback that speaks plain HTTP. Its methods end the
// test on an error.
type Server struct {
	URL     string // http://127.0.0.1:port, no slash at the end
	Host    string // 127.0.0.1:port
	Version string // as the server says it
	Storage string // its folder

	t       testing.TB
	bin     string
	dir     string
	process *process.Process
}

// Start starts an empty registry that ends with the test.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{t: t, dir: t.TempDir()}
	if o.V3 {
		s.bin = build.Go(t, Tool).Path
	} else {
		peers.Need(t, "docker-registry")
		s.bin = "docker-registry"
	}
	version, err := s.run("--version")
	if err != nil || strings.TrimSpace(version) == "" {
		t.Fatalf("ask for the version of the registry: %q, %v", version, err)
	}
	fields := strings.Fields(version) // path, module, version
	s.Version = fields[len(fields)-1]
	if s.Host, err = peers.FreeAddress("127.0.0.1"); err != nil {
		t.Fatalf("find free port: %v", err)
	}
	s.URL, s.Storage = "http://"+s.Host, filepath.Join(s.dir, "storage")
	if err := s.configure(o); err != nil {
		t.Fatalf("configure registry: %v", err)
	}
	s.start()
	return s
}

// Stop ends the server as a planned outage does: its port refuses connections.
func (s *Server) Stop() {
	s.t.Helper()
	s.process.Stop()
}

// Restart starts the server again, on its port, with its data.
func (s *Server) Restart() {
	s.t.Helper()
	s.process.Stop()
	s.start()
}

// Log is what the server has written since it was started; it has a line for
// each request.
func (s *Server) Log() string { return s.process.Log() }

// CollectGarbage runs the registry's own removal of blobs that no manifest
// names, and returns what it printed. The server must be stopped: it keeps no
// writer out. With untagged it removes manifests without a tag too.
func (s *Server) CollectGarbage(untagged bool) string {
	s.t.Helper()
	if !s.process.Ended() {
		s.t.Fatal("collect garbage: the server runs")
	}
	args := []string{"garbage-collect", s.config()}
	if untagged {
		args = append(args, "--delete-untagged")
	}
	out, err := s.run(args...)
	if err != nil {
		s.t.Fatalf("collect garbage: %v", err)
	}
	return out
}

func (s *Server) start() {
	s.t.Helper()
	s.process = process.Start(s.t, s.command("serve", s.config()))
	client := &http.Client{Timeout: 5 * time.Second}
	s.process.Until(s.t, 30*time.Second, "registry", func() bool {
		resp, err := client.Get(s.URL + "/v2/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusUnauthorized
	})
}

func (s *Server) config() string { return filepath.Join(s.dir, "config.yml") }

// configure writes the configuration, which is YAML and so may be JSON.
func (s *Server) configure(o Options) error {
	web := map[string]any{"secret": rand.Text()}
	maps.Copy(web, o.HTTP)
	web["addr"] = s.Host
	config := map[string]any{
		"version": "0.1",
		"log":     map[string]any{"level": "info", "accesslog": map[string]any{"disabled": false}},
		"http":    web,
		"storage": map[string]any{
			"filesystem":  map[string]any{"rootdirectory": s.Storage},
			"delete":      map[string]any{"enabled": o.DeleteEnabled},
			"maintenance": map[string]any{"uploadpurging": map[string]any{"enabled": false}},
		},
	}
	if len(o.Users) > 0 {
		path := filepath.Join(s.dir, "htpasswd")
		text, err := htpasswd(o.Users)
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			return fmt.Errorf("write htpasswd: %w", err)
		}
		config["auth"] = map[string]any{"htpasswd": map[string]any{"realm": "registry", "path": path}}
	}
	text, err := json.Marshal(config)
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(s.config(), text, 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

// htpasswd is a file of logins. The registry knows no other hash than bcrypt,
// and computes one for each request.
func htpasswd(users map[string]string) ([]byte, error) {
	var text []byte
	for _, name := range slices.Sorted(maps.Keys(users)) {
		hash, err := bcrypt.GenerateFromPassword([]byte(users[name]), bcrypt.MinCost)
		if err != nil {
			return nil, fmt.Errorf("hash password of %s: %w", name, err)
		}
		text = fmt.Appendf(text, "%s:%s\n", name, hash)
	}
	return text, nil
}

func (s *Server) run(args ...string) (string, error) {
	return process.Output(s.t.Context(), s.command(args...))
}

// command is the registry with nothing of the caller's REGISTRY_* variables,
// which override the configuration. Version 3 would send traces otherwise.
func (s *Server) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.bin, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "OTEL_TRACES_EXPORTER=none"}
	return cmd
}
