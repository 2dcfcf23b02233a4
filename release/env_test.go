package release_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release"
)

const secret = "0123456789abcdef-token"

func envFile(t *testing.T, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	must(t, os.WriteFile(path, []byte(content), mode))
	return path
}

func TestReadEnv(t *testing.T) {
	t.Parallel()
	registryEnv := envFile(t, "registry.env", "# the login\nREGISTRY=Gitea.Example.com\nexport REGISTRY_NAMESPACE=admin\nREGISTRY_USERNAME='admin'\nREGISTRY_TOKEN=\""+secret+"\"\n", 0o600)
	clusterEnv := envFile(t, "cluster.env", "PUSH_LATEST_TAG=false\nNODES=3\nDOMAIN=example.com\n", 0o644)
	tracked := func(_ context.Context, path string) (bool, error) { return filepath.Base(path) == "cluster.env", nil }
	env, err := release.ReadEnv(t.Context(), tracked, registryEnv, clusterEnv)
	must(t, err)
	if env.Registry != host || env.Namespace != "admin" || env.Username != "admin" || env.Token.Reveal() != secret || env.Latest {
		t.Errorf("read %+v", env)
	}
	if diff := cmp.Diff([]string{clusterEnv + ": not used here: DOMAIN, NODES"}, env.Notes); diff != "" {
		t.Errorf("notes (-want +got):\n%s", diff)
	}
	repository, err := env.Repository("honeydue-api")
	if err != nil || repository.String() != "gitea.example.com/admin/honeydue-api" {
		t.Errorf("repository %s, %v", repository, err)
	}
	if login, ok := env.Login(); !ok || login.Username != "admin" || login.Secret.Reveal() != secret {
		t.Errorf("login %v, %v", login, ok)
	}
	if text := fmt.Sprintf("%+v %#v", env, env); strings.Contains(text, secret) {
		t.Error("the token is printed")
	}
	env, err = release.ReadEnv(t.Context(), nil, envFile(t, "cluster.env", "PUSH_LATEST_TAG=true\n", 0o644))
	if err != nil || !env.Latest {
		t.Errorf("latest %v, %v", env.Latest, err)
	}
	if _, err := env.Repository("x"); problem.KindOf(err) != problem.Config {
		t.Errorf("repository without a registry: %v", err)
	}
}

func TestWhoCanReadTheToken(t *testing.T) {
	t.Parallel()
	path := envFile(t, "registry.env", "REGISTRY_TOKEN="+secret+"\n", 0o600)
	must(t, os.Chmod(path, 0o644))
	env, err := release.ReadEnv(t.Context(), func(context.Context, string) (bool, error) { return true, nil }, path)
	must(t, err)
	if len(env.Notes) != 2 || !strings.Contains(env.Notes[0], "others can read the token (mode 0644)") || !strings.Contains(env.Notes[1], "git keeps the token") {
		t.Errorf("notes %q", env.Notes)
	}
	env, err = release.ReadEnv(t.Context(), nil, envFile(t, "registry.env", "REGISTRY_TOKEN=\n", 0o644))
	must(t, err)
	if _, ok := env.Login(); ok || len(env.Notes) != 1 || !strings.Contains(env.Notes[0], "is empty") {
		t.Errorf("read %+v", env)
	}
}

func TestBrokenEnvTellsNothingOfIt(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"no name":      "REGISTRY_TOKEN " + secret + "\n",
		"open quote":   "REGISTRY_TOKEN=\"" + secret + "\n",
		"no bool":      "PUSH_LATEST_TAG=" + secret + "\n",
		"binary":       "\x00\x01" + secret,
		"a bad host":   "REGISTRY=https://a b/" + "\nREGISTRY_TOKEN=" + secret + "\n",
		"a token only": secret + "\n",
	} {
		_, err := release.ReadEnv(t.Context(), nil, envFile(t, "registry.env", content, 0o600))
		if problem.KindOf(err) != problem.Config || strings.Contains(err.Error()+problem.HintOf(err), secret) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := release.ReadEnv(t.Context(), nil, "/nowhere/registry.env"); problem.KindOf(err) != problem.Storage {
		t.Errorf("no file: %v", err)
	}
}
