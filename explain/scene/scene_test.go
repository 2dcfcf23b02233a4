package scene_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/consumer"
	"github.com/regkeeper/regkeeper/explain/scene"
)

func TestParseJob(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want map[string]string
		ok   bool
	}{
		"lines":              {"A=1\nB=two words # no comment\n", map[string]string{"A": "1", "B": "two words # no comment"}, true},
		"a value of lines":   {"A=1\nB=one\n  two\n\nC=$A\n", map[string]string{"A": "1", "B": "one\n  two\n", "C": "$A"}, true},
		"with zeros between": {"A=1\x00B=one\ntwo=2\x00", map[string]string{"A": "1", "B": "one\ntwo=2"}, true},
		"of Windows":         {"A=1\r\nB=2\r\n", map[string]string{"A": "1", "B": "2"}, true},
		"a comment before":   {"# the job\nA='1'\n", map[string]string{"A": "'1'"}, true},
		"nothing":            {"", map[string]string{}, true},
		"something else":     {"{\"A\": 1}\n", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := scene.ParseJob(c.text)
			if ok != c.ok {
				t.Fatalf("it is what env prints: %v", ok)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseJob(f *testing.F) {
	for _, seed := range []string{"A=1\nB=2\n", "A=1\x00B=2\x00", "x", "A=\n\n", "=\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		variables, ok := scene.ParseJob(text)
		if !ok && variables != nil {
			t.Error("variables of a text that is none")
		}
		for name := range variables {
			if name == "" || strings.ContainsAny(name, "=\n\x00") {
				t.Errorf("a variable %q", name)
			}
		}
	})
}

// A job's variables are the environment of what runs in it, and of nothing else.
func TestWithJob(t *testing.T) {
	around := consumer.Surroundings{Home: "/root", Env: map[string]string{"A": "runner"}}
	variables := map[string]string{"A": "job", "HOME": "/home/job", "CI_REGISTRY": "r.example.com", "CI_REGISTRY_USER": "u", "CI_REGISTRY_PASSWORD": "p"}
	within, outside := scene.WithJob(around, variables, true), scene.WithJob(around, variables, false)
	if within.Home != "/home/job" || within.Env["A"] != "job" || around.Env["A"] != "runner" {
		t.Errorf("within: %s, %v; before: %v", within.Home, within.Env, around.Env)
	}
	if outside.Home != "/root" || outside.Env["A"] != "runner" || outside.Job.Variables["A"] != "job" || len(outside.Job.Payload) != 1 {
		t.Errorf("outside: %+v", outside)
	}
}

// What a helper says when it fails may hold what it keeps.
func TestHelpers(t *testing.T) {
	bin := t.TempDir()
	for name, script := range map[string]string{
		"good":  `echo '{"Username":"bot","Secret":"hunter2"}'`,
		"none":  `echo 'credentials not found in native keychain'; exit 1`,
		"tells": `echo '{"username":"bot","secret":"hunter2"}'; exit 3`,
		"odd":   `echo hunter2`,
		"hangs": `sleep 60`,
	} {
		if err := os.WriteFile(filepath.Join(bin, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	helpers := scene.Here(t.Context(), false).Helpers
	if user, secret, err := helpers.Get("good", "r.example.com"); user != "bot" || secret != "hunter2" || err != nil {
		t.Errorf("good: %s, %v", user, err)
	}
	if _, _, err := helpers.Get("none", "r.example.com"); !errors.Is(err, consumer.ErrNoLogin) {
		t.Errorf("none: %v", err)
	}
	for name, want := range map[string]string{"tells": "exit code 3", "odd": "no login", "nosuch": "not found"} {
		_, _, err := helpers.Get(name, "r.example.com")
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := scene.Here(ctx, false).Helpers.Get("hangs", "r.example.com"); err == nil {
		t.Error("a helper goes on when nobody waits for it")
	}
	if scene.Here(t.Context(), true).Helpers != nil {
		t.Error("offline there are helpers to ask")
	}
}
