package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/helper"
	"github.com/regkeeper/regkeeper/state"
)

// asHelper has the test program be the helper.
const asHelper = "REGKEEPER_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(asHelper) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// program runs the helper as the docker CLI does, with its own package.
func program(t *testing.T, folder string) client.ProgramFunc {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return client.NewShellProgramFuncWithEnv(own, &map[string]string{asHelper: "1", helper.FolderVariable: folder})
}

func keyring(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	store, err := state.Open(folder)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	doc := state.New()
	for _, host := range []credential.Host{"h.example.com", credential.DockerHub} {
		doc.Registry(host).Current = &state.Credential{Credential: credential.Credential{
			ID: "id", Host: host, Username: "robot", Secret: credential.NewSecret("secret of " + string(host)),
		}}
	}
	doc.Registry("failed.example.com").Trouble = &state.Trouble{Text: "the token lacks read:package"}
	if err := store.Save(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
	return folder
}

func TestAsClientsRunIt(t *testing.T) {
	t.Parallel()
	run := program(t, keyring(t))
	for url, want := range map[string]string{
		"h.example.com": "secret of h.example.com", "https://h.example.com/v2/": "secret of h.example.com",
		"https://index.docker.io/v1/": "secret of docker.io", "docker.io": "secret of docker.io",
	} {
		got, err := client.Get(run, url)
		if err != nil {
			t.Errorf("get %s: %v", url, err)
			continue
		}
		if diff := cmp.Diff(&credentials.Credentials{ServerURL: url, Username: "robot", Secret: want}, got); diff != "" {
			t.Errorf("get %s: %s", url, diff)
		}
	}
	if _, err := client.Get(run, "other.example.com"); !credentials.IsErrCredentialsNotFound(err) {
		t.Errorf("get other.example.com: %v; want not found", err)
	}
	if _, err := client.Get(run, ""); !credentials.IsCredentialsMissingServerURLMessage(strings.TrimSuffix(after(err, "out: `"), "`")) {
		t.Errorf("get nothing: %v", err)
	}
	if _, err := client.Get(run, "failed.example.com"); err == nil || credentials.IsErrCredentialsNotFound(err) || !strings.Contains(err.Error(), "the token lacks read:package") {
		t.Errorf("get failed.example.com: %v", err)
	}
	if got, err := client.List(run); err != nil || !cmp.Equal(got, map[string]string{"h.example.com": "robot", "https://index.docker.io/v1/": "robot"}) {
		t.Errorf("list: %v, %v", got, err)
	}
	if err := client.Store(run, &credentials.Credentials{ServerURL: "h.example.com", Username: "robot", Secret: "secret of h.example.com"}); err != nil {
		t.Errorf("store the login in force: %v", err)
	}
	if err := client.Store(run, &credentials.Credentials{ServerURL: "h.example.com", Username: "me", Secret: "typed"}); err == nil || !strings.Contains(err.Error(), "nothing was stored") {
		t.Errorf("store: %v", err)
	}
	if err := client.Erase(run, "h.example.com"); err == nil || !strings.Contains(err.Error(), "nothing was erased") {
		t.Errorf("erase: %v", err)
	}
	if got, err := client.Get(run, "h.example.com"); err != nil || got.Secret != "secret of h.example.com" {
		t.Errorf("get afterwards: %v", err)
	}
}

func after(err error, mark string) string {
	if err == nil {
		return ""
	}
	_, text, _ := strings.Cut(err.Error(), mark)
	return text
}

// Clients pull several images at a time.
func TestAtTheSameTime(t *testing.T) {
	t.Parallel()
	run := program(t, keyring(t))
	var group sync.WaitGroup
	for range 16 {
		group.Go(func() {
			if got, err := client.Get(run, "h.example.com"); err != nil || got.Secret != "secret of h.example.com" {
				t.Errorf("get: %v", err)
			}
		})
	}
	group.Wait()
}

// An error says nothing on standard error, which some clients show and some do not,
// and the working folder has no say in which logins are told.
func TestWorkingFolderHasNoSay(t *testing.T) {
	t.Parallel()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	here := t.TempDir()
	if err := os.Rename(keyring(t), filepath.Join(here, "regkeeper-data")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(here, "regkeeper.yaml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), own, "get")
	cmd.Dir, cmd.Stdin = here, strings.NewReader("h.example.com")
	cmd.Env = []string{asHelper + "=1", "HOME=" + t.TempDir()}
	var diag strings.Builder
	cmd.Stderr = &diag
	out, err := cmd.Output()
	if err == nil || strings.Contains(string(out), "secret of") || diag.Len() > 0 {
		t.Errorf("%v: %s%s", err, out, diag.String())
	}
}
