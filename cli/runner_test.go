package cli_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/regkeeper/regkeeper/cli"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitearunner"
	"github.com/regkeeper/regkeeper/internal/testkit/fakegitlabrunner"
)

// scriptRunners starts a fake server of runners until the script ends: runners
// gitlab|gitea VARIABLE. The variable is its URL; VARIABLE_RUNNER is the token of a
// runner that was created there.
func scriptRunners(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: runners gitlab|gitea VARIABLE")
	}
	var fake http.Handler
	if args[0] == "gitlab" {
		gitlab := fakegitlabrunner.New(fakegitlabrunner.Config{
			AccessToken: "glpat-access", RegistrationToken: "GR-registration", Lifetime: 30 * 24 * time.Hour, Now: time.Now,
		})
		ts.Setenv(args[1]+"_RUNNER", gitlab.Put().Token)
		fake = gitlab
	} else {
		fake = fakegitearunner.New(fakegitearunner.Config{AccessToken: "access", RegistrationToken: "registration"})
	}
	server := httptest.NewServer(fake)
	ts.Defer(server.Close)
	ts.Setenv(args[1], server.URL)
}

// TestRunnerHome is about where the login of a runner goes that this user starts:
// with sudo -E, $HOME is another's.
func TestRunnerHome(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	t.Setenv("HOME", folder)
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("TOKEN", "t")
	const text = "registries:\n  - {host: r.example, source: {static: {username: u, password: {env: TOKEN}}}}\n"
	if err := os.WriteFile("regkeeper.yaml", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want, root := folder, os.Getuid() == 0
	if root {
		is, err := user.LookupId("0")
		if err != nil {
			t.Skip(err)
		}
		want = is.HomeDir
	}
	var out, told strings.Builder
	if code := cli.Run(t.Context(), cli.Streams{In: strings.NewReader("glrt-x"), Out: &out, Err: &told}, nil, "runner", "register", "--plan", "--non-interactive",
		"--runner-config", "config.toml", "--url", "http://127.0.0.1:1", "--token-file", "-", "--executor", "shell"); code != 0 {
		t.Fatalf("it ends with %d: %s", code, told.String())
	}
	if path := filepath.Join(want, ".docker", "config.json"); !strings.Contains(out.String(), "deliver     "+path+":") {
		t.Errorf("it does not go to %s:\n%s", path, out.String())
	}
	if warned := strings.Contains(told.String(), "$HOME ("+folder+")"); warned != root {
		t.Errorf("it is told: %s", told.String())
	}
}
