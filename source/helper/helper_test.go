package helper_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/source/helper"
	"github.com/regkeeper/regkeeper/source/sourcetest"
)

const host credential.Host = "registry.example.com"

// TestMain lets the test's own program be a helper: see [install].
func TestMain(m *testing.M) {
	if folder := os.Getenv("HELPER_TEST_FOLDER"); folder != "" && len(os.Args) == 2 {
		os.Exit(fakeHelper(folder, os.Args[1]))
	}
	os.Exit(m.Run())
}

// fakeHelper is a credential helper, written from the protocol's description
// (README of docker-credential-helpers): get reads the server's URL and prints
// the login. What it prints is in a file of that name, escaped, in a folder.
func fakeHelper(folder, verb string) int {
	asked, err := io.ReadAll(os.Stdin)
	if verb != "get" || err != nil {
		fmt.Println("Unknown credential action `" + verb + "`")
		return 1
	}
	told, err := os.ReadFile(filepath.Join(folder, escape(strings.TrimSpace(string(asked)))))
	if err != nil {
		fmt.Println("credentials not found in native keychain")
		return 1
	}
	fmt.Println(string(told))
	return 0
}

func escape(key string) string { return strings.NewReplacer("/", "_", ":", "_").Replace(key) }

// install puts a helper called fake on PATH.
func install(t *testing.T, script string) (path string) {
	t.Helper()
	bin := t.TempDir()
	path = filepath.Join(bin, "docker-credential-fake")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	return path
}

// installReal puts the test's own program on PATH as the helper called fake. It
// has the logins that the returned function gives it.
func installReal(t *testing.T) (path string, login func(t testing.TB, key, username, secret string)) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	// The race detector waits for a second at the end of a program.
	path = install(t, fmt.Sprintf("GORACE=atexit_sleep_ms=0 HELPER_TEST_FOLDER='%s' exec '%s' \"$@\"", folder, self))
	return path, func(t testing.TB, key, username, secret string) {
		t.Helper()
		told, err := json.Marshal(map[string]string{"ServerURL": key, "Username": username, "Secret": secret})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, escape(key)), told, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func issue(t *testing.T, config helper.Config, host credential.Host) (credential.Credential, error) {
	t.Helper()
	return helper.New(config).Issue(t.Context(), credential.Request{Host: host, Scopes: credential.ScopesOf(credential.Pull)})
}

func TestSource(t *testing.T) {
	sourcetest.Run(t, func(t *testing.T) sourcetest.Fixture {
		_, login := installReal(t)
		login(t, string(host), "acme", "hunter2-first")
		return sourcetest.Fixture{
			Source: helper.New(helper.Config{Program: "fake"}), Host: host, Secrets: []string{"hunter2"},
			Down:   helper.New(helper.Config{Program: "fake-that-is-not-there"}),
			Change: func(t testing.TB) { login(t, string(host), "acme", "hunter2-second") },
		}
	})
}

// TestKeys sees what a helper is asked for: what the docker CLI asks it for,
// unless something else is set.
func TestKeys(t *testing.T) {
	path, login := installReal(t)
	for key, username := range map[string]string{
		"registry.example.com":         "plain",
		"registry.example.com:5000":    "with-port",
		"https://index.docker.io/v1/":  "hub",
		"https://registry.example.com": "with-scheme",
	} {
		login(t, key, username, "hunter2")
	}
	for _, test := range []struct {
		config helper.Config
		host   credential.Host
		want   string
	}{
		{helper.Config{Program: "fake"}, host, "plain"},
		{helper.Config{Program: "docker-credential-fake"}, host, "plain"},
		{helper.Config{Program: path}, host, "plain"},
		{helper.Config{Program: "fake"}, host + ":5000", "with-port"},
		{helper.Config{Program: "fake"}, credential.DockerHub, "hub"},
		{helper.Config{Program: "fake", ServerURL: "https://registry.example.com"}, host, "with-scheme"},
	} {
		got, err := issue(t, test.config, test.host)
		if err != nil || got.Username != test.want || got.Secret.Reveal() != "hunter2" || got.Host != test.host {
			t.Errorf("%+v for %s: got %q (%v), want %q", test.config, test.host, got.Username, err, test.want)
		}
	}
}

// TestFailures sees that what a helper does wrong is told, and nothing that it
// printed.
func TestFailures(t *testing.T) {
	for _, test := range []struct {
		name, script string
		kind         problem.Kind
		cause        error
		text         string
	}{
		{"no login", `echo "credentials not found in native keychain"; exit 1`, problem.NotFound, helper.ErrNotFound, "no login"},
		{"an empty login", `echo '{"Username":"","Secret":""}'`, problem.NotFound, helper.ErrNotFound, "no login"},
		{"an empty object", `echo '{}'`, problem.NotFound, helper.ErrNotFound, "no login"},
		{"half a login", `echo '{"Username":"","Secret":"hunter2"}'`, problem.Config, nil, "half a login"},
		{"an identity token", `echo '{"Username":"<token>","Secret":"hunter2"}'`, problem.Config, credential.ErrUnsupported, "identity token"},
		{"a failure", `echo "no agent for hunter2"; echo hunter2 >&2; exit 3`, problem.Config, nil, "exit code 3"},
		{"no server", `echo "no credentials server URL"; exit 1`, problem.Config, nil, "exit code 1"},
		{"no JSON", `echo hunter2`, problem.Config, nil, "no login"},
		{"other JSON", `echo '{"Username":{"hunter2":1}}'`, problem.Config, nil, "no login"},
		{"half of JSON", `echo '{"Username":"a","Secret":"hunter2'`, problem.Config, nil, "no login"},
		{"nothing", `:`, problem.Config, nil, "no login"},
		{"too much", `trap '' PIPE; while :; do echo hunter2hunter2hunter2hunter2hunter2; done`, problem.Config, nil, "too much"},
	} {
		t.Run(test.name, func(t *testing.T) {
			install(t, test.script)
			began := time.Now()
			got, err := issue(t, helper.Config{Program: "fake"}, host)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it was left to its time limit: %s", took)
			}
			if err == nil {
				t.Fatalf("gave the login %+v", got)
			}
			if problem.KindOf(err) != test.kind || problem.HintOf(err) == "" || !strings.Contains(err.Error(), test.text) {
				t.Errorf("want kind %s and %q, got %s: %v (hint: %s)", test.kind, test.text, problem.KindOf(err), err, problem.HintOf(err))
			}
			if test.cause != nil && !errors.Is(err, test.cause) {
				t.Errorf("want %q in the chain: %v", test.cause, err)
			}
			for e := err; e != nil; e = errors.Unwrap(e) {
				if text := fmt.Sprintf("%v %#v %s", e, e, problem.HintOf(e)); strings.Contains(text, "hunter2") {
					t.Errorf("the error holds what was printed: %s", text)
				}
			}
		})
	}
}

// TestNames sees which programs are run.
func TestNames(t *testing.T) {
	path := install(t, `echo '{"Username":"acme","Secret":"hunter2"}'`)
	t.Chdir(filepath.Dir(path))
	for _, name := range []string{
		"", "other", "../docker-credential-fake", "./docker-credential-fake", filepath.Dir(path) + "/docker-credential-other", filepath.Dir(path),
	} {
		if _, err := issue(t, helper.Config{Program: name}, host); problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
			t.Errorf("helper %q: want a fault of the configuration with a hint, got %v", name, err)
		}
	}
	t.Setenv("PATH", ".")
	if _, err := issue(t, helper.Config{Program: "fake"}, host); problem.KindOf(err) != problem.Config {
		t.Errorf("a program of the working folder: %v", err)
	}
	if _, err := issue(t, helper.Config{Program: path}, host); err != nil {
		t.Errorf("an absolute path: %v", err)
	}
}

// TestHangs sees that a helper which waits for somebody is ended, and so is one
// whose children keep its output open.
func TestHangs(t *testing.T) {
	for name, script := range map[string]string{"itself": "exec sleep 60", "a child": "sleep 60 & exit 0"} {
		t.Run(name, func(t *testing.T) {
			install(t, script)
			began := time.Now()
			_, err := issue(t, helper.Config{Program: "fake", Timeout: 100 * time.Millisecond}, host)
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("ended after %s", took)
			}
			if err == nil || problem.HintOf(err) == "" {
				t.Errorf("want a problem, got %v", err)
			}
			if name == "itself" && problem.KindOf(err) != problem.Unreachable {
				t.Errorf("kind %s: %v", problem.KindOf(err), err)
			}
		})
	}
}

// TestCancelled sees that a helper ends with what it is run for.
func TestCancelled(t *testing.T) {
	started := filepath.Join(t.TempDir(), "started")
	if err := exec.CommandContext(t.Context(), "mkfifo", started).Run(); err != nil {
		t.Fatal(err)
	}
	install(t, fmt.Sprintf("exec cat '%s'", started))
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		// The pipe opens when the helper reads it.
		pipe, err := os.OpenFile(started, os.O_WRONLY, 0)
		if err == nil {
			defer func() { _ = pipe.Close() }()
		}
		cancel()
		<-t.Context().Done()
	}()
	_, err := helper.New(helper.Config{Program: "fake"}).Issue(ctx, credential.Request{Host: host})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("want the context's error, got %v", err)
	}
}

// TestIDIsSalted sees that the ID, which is in the state and the log, is another
// one with another salt, username or secret.
func TestIDIsSalted(t *testing.T) {
	_, login := installReal(t)
	seen := map[string]string{}
	for _, salt := range []string{"", "one"} {
		for _, username := range []string{"acme", "other"} {
			for _, secret := range []string{"hunter2", "hunter3"} {
				login(t, string(host), username, secret)
				var ids [2]string
				for i := range ids {
					got, err := issue(t, helper.Config{Program: "fake", Salt: salt}, host)
					if err != nil {
						t.Fatal(err)
					}
					ids[i] = got.ID
				}
				what := fmt.Sprintf("%q %q %q", salt, username, secret)
				if ids[0] != ids[1] || seen[ids[0]] != "" {
					t.Errorf("%s has the IDs %q, and so has %s", what, ids, seen[ids[0]])
				}
				seen[ids[0]] = what
			}
		}
	}
}
