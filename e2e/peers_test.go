// Package e2e_test runs regkeeper against real peers. This file tests the
// peers themselves: that each accepts a good login and refuses a bad one, so
// that a test that passes against them has proved something.
package e2e_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/e2e/peers/busybox"
	"github.com/regkeeper/regkeeper/e2e/peers/clients"
	"github.com/regkeeper/regkeeper/e2e/peers/docker"
	"github.com/regkeeper/regkeeper/e2e/peers/gitea"
	"github.com/regkeeper/regkeeper/e2e/peers/runner"
)

// wrong is a token in the right form that no server gave out.
const wrong = "0123456789abcdef0123456789abcdef01234567"

// writeConfig writes a config.json with one login, or none for an empty token.
func writeConfig(t *testing.T, host, username, token string) string {
	t.Helper()
	type auth struct {
		Auth []byte `json:"auth"`
	}
	auths := map[string]auth{}
	if token != "" {
		auths[host] = auth{[]byte(username + ":" + token)}
	}
	text, err := json.Marshal(map[string]any{"auths": auths})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestClients(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	table := clients.All(t, docker.Start(t))

	password := server.CreateUser(owner)
	id, good := server.CreateToken(owner, password, "ci-good", "write:package")
	_, narrow := server.CreateToken(owner, password, "ci-narrow", "read:user")
	_, reader := server.CreateToken(owner, password, "ci-reader", "read:package")
	ref := server.Host + "/" + owner + "/app:v1"
	busybox.Push(t, ref, owner, good)

	for _, client := range table {
		t.Run(client.Name, func(t *testing.T) {
			t.Logf("%s %s", client.Name, client.Version())
			config := writeConfig(t, server.Host, owner, good)
			for range 2 { // the second pull must not be served by the first's copy
				if err := client.Pull(t.Context(), ref, config); err != nil {
					t.Fatal(err)
				}
			}
			pushed := server.Host + "/" + owner + "/" + client.Name + ":v1"
			if err := client.Push(t.Context(), pushed, config); err != nil {
				t.Fatal(err)
			}
			if err := client.Pull(t.Context(), pushed, writeConfig(t, server.Host, owner, reader)); err != nil {
				t.Fatalf("pull what was pushed: %v", err)
			}
			if err := client.Push(t.Context(), pushed, writeConfig(t, server.Host, owner, reader)); err == nil {
				t.Error("a push with a login that may only read passed")
			}
			for name, token := range map[string]string{"none": "", "wrong": wrong, "narrow": narrow} {
				err := client.Pull(t.Context(), ref, writeConfig(t, server.Host, owner, token))
				refused(t, name, err)
			}
		})
	}

	server.DeleteToken(owner, password, id)
	for _, client := range table {
		refused(t, "revoked", client.Pull(t.Context(), ref, writeConfig(t, server.Host, owner, good)))
	}
}

// refused wants an error in which the registry says no, not one of the network.
func refused(t *testing.T, login string, err error) {
	t.Helper()
	if err == nil {
		t.Errorf("a pull with the login %q passed", login)
		return
	}
	t.Logf("%s: %v", login, err)
	text := strings.ToLower(err.Error())
	for _, word := range []string{"unauthorized", "401", "access denied", "reqpackageaccess"} {
		if strings.Contains(text, word) {
			return
		}
	}
	t.Errorf("a pull with the login %q fails for another reason: %v", login, err)
}

func TestGiteaTokensOutliveARestart(t *testing.T) {
	t.Parallel()
	server := gitea.Start(t)
	password := server.CreateUser("acme")
	id, _ := server.CreateToken("acme", password, "ci-1", "read:package")
	server.CreateToken("acme", password, "ci-2", "read:package", "write:package")

	names := func() (all []string) {
		for _, token := range server.ListTokens("acme", password) {
			all = append(all, token.Name)
		}
		slices.Sort(all) // Gitea lists the latest first, by the second
		return all
	}
	if diff := cmp.Diff([]string{"ci-1", "ci-2"}, names()); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
	server.Stop()
	config := writeConfig(t, server.Host, "acme", "x")
	if err := clients.Crane(t).Pull(t.Context(), server.Host+"/acme/app:v1", config); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("pull during an outage: %v, want connection refused", err)
	}
	server.Restart()
	server.DeleteToken("acme", password, id)
	if diff := cmp.Diff([]string{"ci-2"}, names()); diff != "" {
		t.Errorf("tokens after a restart (-want +got):\n%s", diff)
	}
}

func TestRunner(t *testing.T) {
	t.Parallel()
	server, daemon := gitea.Start(t), docker.Start(t)
	password := server.CreateUser(owner)
	_, token := server.CreateToken(owner, password, "ci-runner", "write:package")
	ref := server.Host + "/" + owner + "/private/job:latest"
	busybox.Push(t, ref, owner, token)

	t.Run("login", func(t *testing.T) {
		result := runner.PullJobImage(t, server, daemon, writeConfig(t, server.Host, owner, token), ref)
		if !result.Passed() || !strings.Contains(result.Log, runner.Mark+"42") {
			t.Errorf("job ended with %q:\n%s", result.Conclusion, result.Log)
		}
	})
	for name, token := range map[string]string{"no login": "", "wrong login": wrong} {
		t.Run(name, func(t *testing.T) {
			result := runner.PullJobImage(t, server, daemon, writeConfig(t, server.Host, owner, token), ref)
			if result.Passed() || !strings.Contains(result.Log, "unauthorized") {
				t.Errorf("job ended with %q:\n%s", result.Conclusion, result.Log)
			}
			t.Log(result.Log)
		})
	}
	t.Run("a login that arrives later", func(t *testing.T) {
		config := writeConfig(t, server.Host, owner, "")
		r := runner.Start(t, server, daemon, config)
		if result := r.Run(ref); result.Passed() {
			t.Error("a job passed without a login")
		}
		if err := os.Rename(writeConfig(t, server.Host, owner, token), config); err != nil {
			t.Fatal(err)
		}
		if result := r.Run(ref); !result.Passed() {
			t.Errorf("job ended with %q:\n%s", result.Conclusion, result.Log)
		}
	})
}
