// Package gitlabrunner owns what can be had of the real GitLab Runner: how it reads
// its config.toml. The program does not build of modules alone, for want of some
// that are not published; its parser does, and the types that it reads into are made
// of its source.
package gitlabrunner

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// Tool reads a config.toml. Its version is that of the GitLab Runner whose types it
// reads into.
var Tool = build.Tool{Name: "gitlab-runner-config", Package: ".", Module: "gitlabrunner/build", Of: module}

const module = "gitlab.com/gitlab-org/gitlab-runner"

// Runner is what GitLab Runner knows of one.
type Runner struct {
	Name, URL, Token, Executor, Shell string
	ID                                int64
	TokenObtainedAt, TokenExpiresAt   time.Time
	Environment                       []string
	Docker                            *struct {
		Image      string
		Privileged bool
		Volumes    []string
		PullPolicy any
		Services   []struct{ Name string }
	}
}

// Read is what GitLab Runner reads of a config.toml. The error says what it does
// not take, or not know.
func Read(t testing.TB, text []byte) ([]Runner, error) {
	t.Helper()
	// Without this, the first run on a machine has no source to make types of.
	folder, err := process.Output(t.Context(), exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/regkeeper/regkeeper/e2e"))
	if err != nil {
		t.Fatalf("find module: %v", err)
	}
	download := exec.Command("go", "mod", "download", module)
	download.Dir = filepath.Join(string(bytes.TrimSpace([]byte(folder))), "peers", Tool.Module)
	if _, err := process.Output(t.Context(), download); err != nil {
		t.Fatalf("get the source: %v", err)
	}
	bin := build.Go(t, Tool)
	cmd := exec.Command(bin.Path, bin.Source)
	cmd.Stdin = bytes.NewReader(text)
	out, err := process.Output(t.Context(), cmd)
	if err != nil {
		return nil, err
	}
	var runners []Runner
	return runners, json.Unmarshal([]byte(out), &runners)
}
