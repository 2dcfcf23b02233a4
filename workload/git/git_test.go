package git_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/workload/git"
)

// repo is a real repository.
type repo struct {
	t      testing.TB
	folder string
}

func newRepo(t testing.TB, options ...string) *repo {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("there is no git on this machine")
	}
	r := &repo{t, t.TempDir()}
	r.git(append([]string{"init", "--quiet", "--initial-branch=main"}, options...)...)
	return r
}

// git runs git with nobody's configuration.
func (r *repo) git(arguments ...string) string {
	r.t.Helper()
	c := exec.Command("git", append([]string{"-C", r.folder, "-c", "protocol.file.allow=always"}, arguments...)...)
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.com", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.com")
	out, err := c.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %q: %v\n%s", arguments, err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *repo) commit(text string) string {
	r.t.Helper()
	r.git("commit", "--quiet", "--allow-empty", "-m", text)
	return r.git("rev-parse", "HEAD")
}

func (r *repo) write(path, text string, mode os.FileMode) string {
	r.t.Helper()
	path = filepath.Join(r.folder, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// check asks for refs, and wants the commits.
func check(t *testing.T, folder string, refs []string, want ...string) {
	t.Helper()
	got, err := git.New(git.Config{}).Commits(t.Context(), folder, refs)
	if err != nil {
		t.Errorf("%q: %v", refs, err)
		return
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%q (-want +got):\n%s", refs, diff)
	}
}

func refused(t *testing.T, r *git.Reader, folder string, refs []string, kind problem.Kind, text string) {
	t.Helper()
	got, err := r.Commits(t.Context(), folder, refs)
	if err == nil || problem.KindOf(err) != kind || !strings.Contains(err.Error(), text) || problem.HintOf(err) == "" || got != nil {
		t.Errorf("%q: %q, error %v of kind %s, hint %q; want %s, %q", refs, got, err, problem.KindOf(err), problem.HintOf(err), kind, text)
	}
}

func TestCommits(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"sha1", "sha256"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			r := newRepo(t, "--object-format="+format)
			one, two := r.commit("1"), r.commit("2")
			r.git("checkout", "--quiet", "-b", "release/1", one)
			release := r.commit("release")
			r.git("tag", "-a", "-m", "x", "v1")
			r.git("checkout", "--quiet", "-b", "release/deep/2", one)
			deep := r.commit("deep")
			r.git("checkout", "--quiet", "main")
			r.git("merge", "--quiet", "--no-ff", "-m", "m", "release/1")
			merge := r.git("rev-parse", "HEAD")
			r.git("checkout", "--quiet", "--detach")
			detached := r.commit("detached")
			r.git("update-ref", "refs/remotes/origin/main", detached)
			r.git("update-ref", "refs/keep/x", deep)
			r.git("checkout", "--quiet", "-b", "other")
			other := r.commit("other")

			check(t, r.folder, []string{"refs/heads/main"}, one, two, release, merge)
			check(t, r.folder, []string{"main"}, one, two, release, merge, detached)
			check(t, r.folder, []string{"release/*"}, one, release)
			check(t, r.folder, []string{"release/**"}, one, release, deep)
			check(t, r.folder, []string{"v1"}, one, release)
			check(t, r.folder, []string{"v*", "refs/keep/x"}, one, release, deep)
			check(t, r.folder, []string{"HEAD"}, one, two, release, merge, detached, other)
			check(t, r.folder, []string{"origin/main"}, one, two, release, merge, detached)

			bare := &repo{t, filepath.Join(t.TempDir(), "bare.git")}
			r.git("clone", "--quiet", "--bare", r.folder, bare.folder)
			check(t, bare.folder, []string{"refs/heads/main"}, one, two, release, merge)

			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(r.folder, link); err != nil {
				t.Fatal(err)
			}
			check(t, link, []string{"release/1"}, one, release)
			tree := filepath.Join(t.TempDir(), "tree")
			r.git("worktree", "add", "--quiet", "--detach", tree, one)
			check(t, tree, []string{"release/1"}, one, release)
			check(t, tree, []string{"HEAD"}, one)
		})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	reader := git.New(git.Config{})
	refused(t, reader, r.folder, []string{"HEAD"}, problem.NotFound, `no ref matches "HEAD"`)
	r.commit("1")
	for _, ref := range []string{"mian", "main*x", "--all", "-h", "", "main\nHEAD", "refs/heads/none", "main~1"} {
		refused(t, reader, r.folder, []string{"main", ref}, problem.NotFound, fmt.Sprintf("no ref matches %q", ref))
	}
	refused(t, reader, r.folder, nil, problem.Config, "no ref to read")
	refused(t, reader, filepath.Join(r.folder, "none"), []string{"main"}, problem.Config, "no such file")
	refused(t, reader, t.TempDir(), []string{"main"}, problem.Config, "not a git repository")
	refused(t, git.New(git.Config{Program: "/no/git"}), r.folder, []string{"main"}, problem.Config, "/no/git")
	refused(t, git.New(git.Config{Program: "no-git"}), r.folder, []string{"main"}, problem.Config, "no-git")

	// Below another repository, no folder has that one's history.
	r.write("sub/x", "", 0o600)
	refused(t, reader, filepath.Join(r.folder, "sub"), []string{"main"}, problem.Config, "not a git repository")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := reader.Commits(ctx, r.folder, []string{"main"}); err == nil {
		t.Error("a history is read that nobody waits for")
	}
}

func TestShallow(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.commit("1")
	r.commit("2")
	clone := filepath.Join(t.TempDir(), "clone")
	r.git("clone", "--quiet", "--depth=1", "file://"+r.folder, clone)
	refused(t, git.New(git.Config{}), clone, []string{"main"}, problem.Config, "the clone is shallow")
}

// TestDamaged: what is not whole is no history, nor one that somebody made look
// otherwise.
func TestDamaged(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	one, two, three := r.commit("1"), r.commit("2"), r.commit("3")
	r.git("replace", "--graft", three)
	check(t, r.folder, []string{"main"}, one, two, three)
	r.git("replace", "-d", three)
	r.write(".git/info/grafts", three+"\n", 0o600)
	check(t, r.folder, []string{"main"}, one, two, three)

	r.git("update-ref", "refs/remotes/origin/main", one)
	r.write(".git/refs/heads/main", "no object\n", 0o600)
	refused(t, git.New(git.Config{}), r.folder, []string{"main"}, problem.Config, "refs/heads/main")
	r.write(".git/refs/heads/main", three+"\n", 0o600)

	// A clone that leaves objects out would ask its origin for them, by a program
	// that its configuration names.
	ran := filepath.Join(t.TempDir(), "ran")
	script := r.write("script", "#!/bin/sh\ntouch "+ran+"\nexit 1\n", 0o700)
	for _, setting := range []string{
		"core.repositoryFormatVersion=1", "extensions.partialClone=origin", "remote.origin.promisor=true", "remote.origin.url=file://" + r.folder,
		"remote.origin.uploadpack=" + script, "core.fsmonitor=" + script, "core.sshCommand=" + script, "core.pager=" + script,
		"protocol.allow=always", "protocol.file.allow=always", "core.alternateRefsCommand=" + script, "gpg.program=" + script, "log.showSignature=true",
	} {
		key, value, _ := strings.Cut(setting, "=")
		r.git("config", key, value)
	}
	check(t, r.folder, []string{"main"}, one, two, three)
	if err := os.Remove(filepath.Join(r.folder, ".git/objects", two[:2], two[2:])); err != nil {
		t.Fatal(err)
	}
	refused(t, git.New(git.Config{}), r.folder, []string{"main"}, problem.Config, "read the history of")
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program that the repository names was run")
	}
}

// program makes a program that stands for git.
func program(t *testing.T, text string) *git.Reader {
	t.Helper()
	r := &repo{t, t.TempDir()}
	return git.New(git.Config{Program: r.write("git", "#!/bin/sh\n"+text, 0o700), Patience: 2 * time.Second})
}

// TestOwner has git take the folder for another user's, as git's own tests do
// (git, t/t0033-safe-directory.sh).
func TestOwner(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	one := r.commit("1")
	refused(t, program(t, "GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec git \"$@\"\n"), r.folder, []string{"main"}, problem.Denied, "dubious ownership")
	// Who is trusted is for the operator's own configuration to say.
	own := r.write("own", "[safe]\n\tdirectory = "+r.folder+"\n", 0o600)
	trusting := program(t, "GIT_CONFIG_GLOBAL="+own+" GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec git \"$@\"\n")
	if got, err := trusting.Commits(t.Context(), r.folder, []string{"main"}); err != nil || !slices.Equal(got, []string{one}) {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestPrograms has a git that hangs, that ends in the middle, and that prints
// what git does not.
func TestPrograms(t *testing.T) {
	t.Parallel()
	r := newRepo(t)
	r.commit("1")
	refused(t, program(t, "exec sleep 60\n"), r.folder, []string{"main"}, problem.Unreachable, "git takes too long")
	refused(t, program(t, `case "$*" in *rev-list*) echo 1111111111111111111111111111111111111111; echo died >&2; exit 1;; esac
exec git "$@"
`), r.folder, []string{"main"}, problem.Config, "died")
	refused(t, program(t, `case "$*" in *rev-list*) head -c 1000000 /dev/zero;; esac
exec git "$@"
`), r.folder, []string{"main"}, problem.Config, "read the history of")
}

// TestEnvironment is as in a hook, where git says which repository is meant.
func TestEnvironment(t *testing.T) {
	r, other := newRepo(t), newRepo(t)
	one := r.commit("1")
	other.commit("2")
	t.Setenv("GIT_DIR", filepath.Join(other.folder, ".git"))
	t.Setenv("GIT_OBJECT_DIRECTORY", filepath.Join(other.folder, ".git/objects"))
	t.Setenv("GIT_TRACE", "1")
	check(t, r.folder, []string{"main"}, one)
}
