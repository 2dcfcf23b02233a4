package revision_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/release/revision"
)

// clone is a repository with one commit of app.go and a .gitignore.
func clone(t *testing.T) string {
	t.Helper()
	folder := t.TempDir()
	git(t, folder, "init", "--quiet", "--initial-branch=main")
	write(t, folder, "app.go", "package main\n")
	write(t, folder, ".gitignore", "*.env\n")
	git(t, folder, "add", ".")
	git(t, folder, "commit", "--quiet", "--message=one")
	return folder
}

func git(t *testing.T, folder string, args ...string) string {
	t.Helper()
	program := exec.Command("git", args...)
	program.Dir = folder
	program.Env = append(os.Environ(),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z", "GIT_CONFIG_GLOBAL=/dev/null")
	out, err := program.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func write(t *testing.T, folder, name, text string) {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, folder string) revision.Revision {
	t.Helper()
	r, err := revision.Git{}.Read(t.Context(), folder)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCleanTree(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	write(t, folder, "registry.env", "ignored\n")
	write(t, folder, "deploy/cluster.env", "ignored\n")
	r := read(t, filepath.Join(folder, "deploy"))
	if !r.Clean() || r.Commit != git(t, folder, "rev-parse", "HEAD") || r.Tag() != git(t, folder, "rev-parse", "--short", "HEAD") || r.Name() != r.Commit {
		t.Errorf("read %+v", r)
	}
	if want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC); !r.Committed.Equal(want) {
		t.Errorf("committed %s, want %s", r.Committed, want)
	}
}

func TestShortIsNeverShorterThanSeven(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	git(t, folder, "config", "core.abbrev", "4")
	if r := read(t, folder); len(r.Short) != 7 {
		t.Errorf("short commit %q", r.Short)
	}
	git(t, folder, "config", "core.abbrev", "12")
	if r := read(t, folder); len(r.Short) != 12 {
		t.Errorf("short commit %q, though core.abbrev asks for 12 digits", r.Short)
	}
}

func TestDirtyTree(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	write(t, folder, "app.go", "package other\n")
	write(t, folder, "sub/new file.txt", "one\n")
	write(t, folder, "staged.go", "package main\n")
	git(t, folder, "add", "staged.go")
	first := read(t, folder)
	if diff := cmp.Diff([]string{"app.go", "staged.go", "sub/new file.txt"}, first.Dirty); diff != "" {
		t.Errorf("dirty files (-want +got):\n%s", diff)
	}
	if !regexp.MustCompile(`^[0-9a-f]{7}-dirty-[0-9a-f]{8}$`).MatchString(first.Tag()) {
		t.Errorf("tag %q", first.Tag())
	}
	if again := read(t, folder); again.Tag() != first.Tag() {
		t.Errorf("the same tree has tags %s and %s", first.Tag(), again.Tag())
	}
	seen := map[string]string{first.Tag(): "first"}
	for _, change := range []struct{ name, file, text string }{
		{"untracked content", "sub/new file.txt", "two\n"},
		{"tracked content", "app.go", "package third\n"},
		{"another untracked file", "x", ""},
	} {
		write(t, folder, change.file, change.text)
		tag := read(t, folder).Tag()
		if other, ok := seen[tag]; ok {
			t.Errorf("%s and %s have the same tag", other, change.name)
		}
		seen[tag] = change.name
	}
}

func TestIndexIsNotWritten(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	index := filepath.Join(folder, ".git", "index")
	// A file that is as it was and looks younger has `git status` refresh the index.
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(folder, "app.go"), later, later); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if r := read(t, folder); !r.Clean() {
		t.Errorf("dirty: %v", r.Dirty)
	}
	after, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("the index was written")
	}
}

func TestAHooksRepositoryIsNotTaken(t *testing.T) {
	folder, other := clone(t), clone(t)
	write(t, other, "more", "x")
	git(t, other, "add", ".")
	git(t, other, "commit", "--quiet", "--message=two")
	want := git(t, folder, "rev-parse", "HEAD")
	t.Setenv("GIT_DIR", filepath.Join(other, ".git"))
	if r := read(t, folder); r.Commit != want {
		t.Error("GIT_DIR had another repository read")
	}
}

func TestNoCommit(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	git(t, empty, "init", "--quiet")
	for name, folder := range map[string]string{"no repository": t.TempDir(), "no commit": empty} {
		if _, err := (revision.Git{}).Read(t.Context(), folder); problem.KindOf(err) != problem.Config || problem.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err := revision.Git{Program: "/nowhere/git"}.Read(t.Context(), empty)
	if err == nil {
		t.Error("read without git")
	}
}

func TestTracked(t *testing.T) {
	t.Parallel()
	folder := clone(t)
	write(t, folder, "registry.env", "x")
	outside := filepath.Join(t.TempDir(), "x")
	for path, want := range map[string]bool{
		filepath.Join(folder, "app.go"):       true,
		filepath.Join(folder, "registry.env"): false,
		outside:                               false,
	} {
		if got, err := (revision.Git{}).Tracked(t.Context(), path); got != want || err != nil {
			t.Errorf("%s tracked: %v, %v", path, got, err)
		}
	}
}
