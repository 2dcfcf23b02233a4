package runner_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/runner"
)

func TestPick(t *testing.T) {
	t.Parallel()
	a, b := runner.Info{Name: "a"}, runner.Info{Name: "b"}
	for _, c := range []struct {
		name    string
		of      runner.Selection
		runners []runner.Info
		want    []int
		kind    problem.Kind
	}{
		{"the only one", runner.Selection{}, []runner.Info{a}, []int{0}, ""},
		{"not clear", runner.Selection{}, []runner.Info{a, b}, nil, problem.Usage},
		{"all", runner.Selection{All: true}, []runner.Info{a, b}, []int{0, 1}, ""},
		{"named", runner.Selection{Names: []string{"b"}}, []runner.Info{a, b, b}, []int{1, 2}, ""},
		{"one that is none", runner.Selection{Names: []string{"b", "c"}}, []runner.Info{a, b}, nil, problem.NotFound},
		{"none there", runner.Selection{All: true}, nil, nil, problem.NotFound},
	} {
		got, err := c.of.Pick("f", c.runners)
		if diff := cmp.Diff(c.want, got); diff != "" || problem.KindOf(err) != c.kind {
			t.Errorf("%s: error %v (-want +got):\n%s", c.name, err, diff)
		}
	}
}

func TestPlan(t *testing.T) {
	t.Parallel()
	var p runner.Plan
	p.Add(runner.Create, "a runner", "for %s", "them")
	if !p.Does(runner.Create) || p.Does(runner.Write) || p.Err("h") != nil {
		t.Errorf("plan is %+v", p)
	}
	p.Refuse("--a", "no")
	p.Refuse("--b", "neither")
	if err := p.Err("h"); problem.KindOf(err) != problem.Usage || err.Error() != "--a: no; --b: neither" || problem.HintOf(err) != "h" {
		t.Errorf("error is %v", err)
	}
}

func TestJournalIsHeldByOne(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	file, link := filepath.Join(folder, "config.toml"), filepath.Join(t.TempDir(), "link.toml")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	unlock, err := runner.JournalFor(file).Lock()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if _, err := runner.JournalFor(path).Lock(); problem.KindOf(err) != problem.Busy || problem.HintOf(err) == "" {
			t.Errorf("%s: taken twice: %v", path, err)
		}
	}
	other, err := runner.JournalFor(filepath.Join(folder, "other.toml")).Lock()
	if err != nil {
		t.Fatalf("another file of the folder: %v", err)
	}
	other()
	unlock()
	if unlock, err = runner.JournalFor(link).Lock(); err != nil {
		t.Fatalf("afterwards: %v", err)
	}
	unlock()
	if unlock, err = runner.JournalFor(filepath.Join(folder, "none", "config.toml")).Lock(); err != nil {
		t.Fatalf("no folder: %v", err)
	}
	unlock()
	if _, err := os.Stat(filepath.Join(folder, "none")); !os.IsNotExist(err) {
		t.Errorf("a folder was made: %v", err)
	}
}

func TestJournalOfEachFile(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	a, b := runner.JournalFor(filepath.Join(folder, "a.toml")), runner.JournalFor(filepath.Join(folder, "b.toml"))
	if err := a.Save(runner.Entry{Verb: "rotate", Token: "a"}); err != nil {
		t.Fatal(err)
	}
	if entry, err := b.Load(); entry != nil || err != nil {
		t.Errorf("the other file has %v, %v", entry, err)
	}
}

func TestJournal(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "folder", "config.toml")
	j := runner.JournalFor(file)
	if entry, err := j.Load(); entry != nil || err != nil {
		t.Errorf("none is %v, %v", entry, err)
	}
	want := runner.Entry{Verb: "rotate", URL: "u", Name: "n", ID: 3, Token: "t", Started: time.Unix(1, 0).UTC()}
	if err := j.Save(want); err != nil {
		t.Fatal(err)
	}
	got, err := j.Load()
	if diff := cmp.Diff(&want, got); err != nil || diff != "" {
		t.Errorf("entry, %v (-want +got):\n%s", err, diff)
	}
	if info, err := os.Stat(j.Path()); err != nil || info.Mode().Perm() != 0o600 || filepath.Dir(j.Path()) != filepath.Dir(file) {
		t.Errorf("%s has mode %v, %v", j.Path(), info.Mode(), err)
	}
	if err := os.WriteFile(j.Path(), []byte(`{"token":"s3cret"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Load(); problem.KindOf(err) != problem.Damaged || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a damaged one: %v", err)
	}
	for range 2 {
		if err := j.Clear(); err != nil {
			t.Error(err)
		}
	}
}
