// Package credhelpers owns credential helpers that others use: programs that tell
// Docker's clients a login.
//
// It refuses a keychain of the machine's: each helper here has folders of its own,
// and what it started ends with the test. It refuses networks too: nothing here asks
// a cloud.
package credhelpers

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers"
	"github.com/regkeeper/regkeeper/e2e/peers/build"
	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

// PassTool is Docker's helper for the password manager pass.
var PassTool = build.Tool{
	Name:       "docker-credential-pass",
	Package:    "github.com/docker/docker-credential-helpers/pass/cmd",
	Module:     "credhelpers/build",
	VersionVar: "github.com/docker/docker-credential-helpers/credentials.Version",
	WithV:      true,
}

// ECRTool is the helper for Amazon's registry.
var ECRTool = build.Tool{
	Name:    "docker-credential-ecr-login",
	Package: "github.com/awslabs/amazon-ecr-credential-helper/ecr-login/cli/docker-credential-ecr-login",
	Module:  "credhelpers/build",
}

// Helper is a helper that has a login.
type Helper struct {
	Path, Version string
	Env           []string // all that it sees
	Server        string   // for which it has a login
}

// Pass is docker-credential-pass with one login, in a store whose key has no
// passphrase and whose agent runs already.
func Pass(t testing.TB, server, username, secret string) Helper {
	t.Helper()
	peers.Need(t, "pass", "gpg")
	bin := build.Go(t, PassTool)
	// The path of the agent's socket must be short.
	home, err := os.MkdirTemp("", "gpg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	h := Helper{Path: bin.Path, Version: bin.Version, Server: server, Env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "GNUPGHOME=" + home, "PASSWORD_STORE_DIR=" + filepath.Join(home, "store"),
	}}
	t.Cleanup(func() {
		// The test's own context has ended by then.
		if err := h.run(context.Background(), "", "gpgconf", "--kill", "all"); err != nil {
			t.Errorf("end gpg-agent: %v", err)
		}
	})
	login, err := json.Marshal(map[string]string{"ServerURL": server, "Username": username, "Secret": secret})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		in   string
		args []string
	}{
		{"", []string{"gpg", "--batch", "--quiet", "--passphrase", "", "--quick-generate-key", "test@example.com", "default", "default", "never"}},
		{"", []string{"pass", "init", "test@example.com"}},
		{string(login), []string{h.Path, "store"}},
	} {
		if err := h.run(t.Context(), step.in, step.args...); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func (h Helper) run(ctx context.Context, in string, args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Stdin = h.Env, strings.NewReader(in)
	_, err := process.Output(ctx, cmd)
	return err
}

// ECR is docker-credential-ecr-login with one login in its cache, in the form of
// ecr-login/cache, so that it asks nobody.
func ECR(t testing.TB, secret string) Helper {
	t.Helper()
	const account, region, key = "123456789012", "eu-central-1", "AKIDEXAMPLE"
	bin := build.Go(t, ECRTool)
	home := t.TempDir()
	h := Helper{Path: bin.Path, Version: bin.Version, Server: account + ".dkr.ecr." + region + ".amazonaws.com", Env: []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "AWS_ECR_CACHE_DIR=" + home,
		"AWS_ACCESS_KEY_ID=" + key, "AWS_SECRET_ACCESS_KEY=none", "AWS_REGION=" + region, "AWS_EC2_METADATA_DISABLED=true",
	}}
	sum := sha256.Sum256([]byte(key))
	text, err := json.Marshal(map[string]any{"Version": "1.0", "Registries": map[string]any{
		fmt.Sprintf("%s-%s-%s", region, base64.StdEncoding.EncodeToString(sum[:]), account): map[string]any{
			"AuthorizationToken": base64.StdEncoding.EncodeToString([]byte("AWS:" + secret)),
			"RequestedAt":        time.Now(), "ExpiresAt": time.Now().Add(12 * time.Hour),
			"ProxyEndpoint": "https://" + h.Server, "Service": "ecr",
		},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "cache.json"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}
