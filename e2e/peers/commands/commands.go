// Package commands owns the programs with which people look after a registry:
// they list, copy, inspect and delete.
//
// It refuses a login that is not in the file it is given: no command here sees
// a home folder, another login file or a login in the environment. It refuses
// a table of what each can do: their commands are theirs.
package commands

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/clients"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// RegctlTool is the binary of regclient's command.
var RegctlTool = build.Tool{
	Name:    "regctl",
	Package: "github.com/regclient/regclient/cmd/regctl",
	Module:  "regclient/build",
}

// RegsyncTool is the binary of regclient's mirror.
var RegsyncTool = build.Tool{
	Name:    "regsync",
	Package: "github.com/regclient/regclient/cmd/regsync",
	Module:  "regclient/build",
}

// OrasTool is the binary of the ORAS project's command.
var OrasTool = build.Tool{
	Name:    "oras",
	Package: "oras.land/oras/cmd/oras",
	Module:  "oras/build",
}

// Command is a program.
type Command struct {
	Name    string
	Path    string // of the executable
	Version string

	home string
	env  []string
}

// Run runs the program with the logins of one config.json, which must have
// that name, or with none. It returns what the program wrote to both streams;
// the error holds that too.
func (c *Command) Run(ctx context.Context, configJSONPath string, args ...string) (string, error) {
	cmd := exec.Command(c.Path, args...)
	cmd.Dir = c.home
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.home, "XDG_RUNTIME_DIR=" + c.home, "TMPDIR=" + c.home}, c.env...)
	if configJSONPath == "" {
		configJSONPath = filepath.Join(c.home, "config.json") // there is none
	}
	cmd.Env = append(cmd.Env, "DOCKER_CONFIG="+filepath.Dir(configJSONPath), "REGISTRY_AUTH_FILE="+configJSONPath)
	return process.Output(ctx, cmd)
}

// Crane is go-containerregistry's command. On loopback it speaks plain HTTP.
func Crane(t testing.TB) *Command {
	t.Helper()
	return command(t, build.Go(t, clients.CraneTool))
}

// Skopeo is Debian's skopeo. For plain HTTP its commands want
// --tls-verify=false, and copy --src-tls-verify=false or
// --dest-tls-verify=false.
func Skopeo(t testing.TB) *Command {
	t.Helper()
	peers.Need(t, "skopeo")
	c := &Command{Name: "skopeo", Path: "skopeo", home: t.TempDir()}
	out, err := c.Run(t.Context(), "", "--version")
	if err != nil {
		t.Fatalf("ask for the version of skopeo: %v", err)
	}
	c.Version = strings.TrimPrefix(strings.TrimSpace(out), "skopeo version ")
	return c
}

// Oras is the ORAS project's command. For plain HTTP its commands want
// --plain-http, and copy --from-plain-http or --to-plain-http.
func Oras(t testing.TB) *Command {
	t.Helper()
	return command(t, build.Go(t, OrasTool))
}

// Regctl is regclient's command. It speaks plain HTTP to the hosts named.
func Regctl(t testing.TB, hosts ...string) *Command {
	t.Helper()
	c := command(t, build.Go(t, RegctlTool))
	insecure := map[string]any{} // regctl takes no such default for a host it has a login for
	for _, host := range hosts {
		insecure[host] = map[string]string{"tls": "disabled"}
	}
	text, err := json.Marshal(map[string]any{"hosts": insecure})
	if err != nil {
		t.Fatalf("write configuration of regctl: %v", err)
	}
	config := filepath.Join(c.home, "regctl.json")
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatalf("write configuration of regctl: %v", err)
	}
	c.env = []string{"REGCTL_CONFIG=" + config}
	return c
}

// Regsync is regclient's mirror. Its configuration names each registry of
// plain HTTP, with {registry: HOST, tls: disabled} below "creds".
func Regsync(t testing.TB) *Command {
	t.Helper()
	return command(t, build.Go(t, RegsyncTool))
}

func command(t testing.TB, bin build.Binary) *Command {
	name, _, _ := strings.Cut(filepath.Base(bin.Path), "-")
	return &Command{Name: name, Path: bin.Path, Version: bin.Version, home: t.TempDir()}
}
