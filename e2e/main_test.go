package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// TestMain also runs the children of the crash test, which are this program.
func TestMain(m *testing.M) {
	if point := os.Getenv(crashVar); point != "" {
		crash(point, os.Args[1], os.Args[2])
		return
	}
	code := m.Run()
	if !shared.end() {
		code = max(code, 1)
	}
	if binFolder != "" {
		os.RemoveAll(binFolder)
	}
	os.Exit(code)
}

// binFolder holds the binary under test until the test process ends.
var binFolder string

// binary is regkeeper as its users build it, built once for the test process.
var binary = sync.OnceValues(func() (string, error) {
	var err error
	if binFolder, err = os.MkdirTemp("", "regkeeper-"); err != nil {
		return "", fmt.Errorf("create folder: %w", err)
	}
	path := filepath.Join(binFolder, "regkeeper")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/regkeeper")
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build regkeeper: %w: %s", err, out)
	}
	return path, nil
})
