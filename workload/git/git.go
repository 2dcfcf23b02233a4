// Package git owns the past of branches: which commits an image's tag may be
// the abbreviated name of.
//
// It runs the git program, and has nothing of a repository run a program or ask
// a network: the configuration of a repository may be anyone's. It refuses to
// answer in part. A history that is cut off, or a ref that is not there, is an
// error, so that the caller keeps everything.
package git

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/problem"
)

// Config says how git is run.
type Config struct {
	// Program is the path of git; empty for the one in PATH.
	Program string
	// Patience bounds how long reading one history may take; zero for 5 minutes.
	Patience time.Duration
}

// Reader reads histories. It may be used at the same time.
type Reader struct{ config Config }

// New makes a reader. It runs nothing.
func New(config Config) *Reader {
	config.Program = cmp.Or(config.Program, "git")
	config.Patience = cmp.Or(config.Patience, 5*time.Minute)
	return &Reader{config}
}

// Commits are the full names of all commits of some refs and of their past, in
// hexadecimal, sorted.
//
// The folder is a repository's own: a work tree's top, or a bare repository. A
// ref is a name without what stands before it, or a full one: "main" is every
// branch, tag and remote branch of that name. It may be a glob, in which "*"
// stops at a slash and "**" does not (git-for-each-ref(1)); and HEAD.
//
// The error is a [problem.Error]: of kind [problem.Config] if git or the
// repository is not there, or its history is cut off; [problem.NotFound] if a ref
// matches nothing; [problem.Denied] if git does not trust the folder's owner; and
// [problem.Unreachable] if it takes too long.
func (r *Reader) Commits(ctx context.Context, folder string, refs []string) ([]string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.config.Patience, errTooLong)
	defer cancel()
	w, err := r.open(ctx, folder)
	if err != nil {
		return nil, err
	}
	if err := w.whole(ctx); err != nil {
		return nil, err
	}
	if len(refs) == 0 {
		return nil, problem.New(problem.Config, "name the branches that count", "%s: there is no ref to read", folder)
	}
	var heads []string
	for _, ref := range refs {
		found, err := w.resolve(ctx, ref)
		if err != nil {
			return nil, err
		}
		heads = append(heads, found...)
	}
	var commits []string
	err = w.run(ctx, strings.NewReader(strings.Join(heads, "\n")+"\n"), func(line string) { commits = append(commits, line) }, "rev-list", "--stdin")
	if err != nil {
		return nil, w.explain(ctx, err)
	}
	slices.Sort(commits)
	return slices.Compact(commits), nil
}

var errTooLong = errors.New("git takes too long")

// repository is one that git is run on.
type repository struct {
	config Config
	// folder is as it was named, path as it is.
	folder, path string
}

// open checks that the folder is a repository's own: git would look for one in
// the folders above it, and the history of another keeps nothing of this one.
func (r *Reader) open(ctx context.Context, folder string) (*repository, error) {
	path, err := filepath.Abs(folder)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return nil, problem.Wrap(err, problem.Config, "check the path of the git repository", "read the history of %s", folder)
	}
	w := &repository{r.config, folder, path}
	if err := w.run(ctx, nil, func(string) {}, "rev-parse", "--git-dir"); err != nil {
		return nil, w.explain(ctx, err)
	}
	return w, nil
}

// whole refuses a clone that was made with --depth: a commit that a branch has
// may be beyond its end.
func (w *repository) whole(ctx context.Context) error {
	answer := ""
	if err := w.run(ctx, nil, func(line string) { answer = line }, "rev-parse", "--is-shallow-repository"); err != nil {
		return w.explain(ctx, err)
	}
	if answer != "false" {
		return problem.New(problem.Config, "fetch the rest: git fetch --unshallow; in a pipeline, check out with depth 0",
			"%s: the clone is shallow: its history is cut off", w.folder)
	}
	return nil
}

// resolve lists the objects that a ref means.
func (w *repository) resolve(ctx context.Context, ref string) (objects []string, err error) {
	take := func(line string) { objects = append(objects, line) }
	switch ref {
	case "": // every ref begins with it
	case "HEAD":
		err = w.run(ctx, nil, take, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == 1 {
			err = nil // there is none yet
		}
	default:
		patterns := []string{ref}
		if !strings.HasPrefix(ref, "refs/") {
			patterns = []string{"refs/heads/" + ref, "refs/tags/" + ref, "refs/remotes/" + ref, "refs/remotes/*/" + ref}
		}
		err = w.run(ctx, nil, take, append([]string{"for-each-ref", "--format=%(objectname)", "--"}, patterns...)...)
	}
	switch {
	case err != nil:
		return nil, w.explain(ctx, err)
	case len(objects) == 0:
		return nil, problem.New(problem.NotFound, "`git for-each-ref` lists the refs; fetch the ones that are missing", "%s: no ref matches %q", w.folder, ref)
	}
	return objects, nil
}

// failed is how a run of git ended.
type failed struct {
	err    error
	stderr string
}

func (f *failed) Error() string {
	if f.stderr == "" {
		return f.err.Error()
	}
	return f.stderr
}

func (f *failed) Unwrap() error { return f.err }

// explain makes a problem of it.
func (w *repository) explain(ctx context.Context, err error) error {
	kind, hint := problem.Config, "name the top folder of a work tree, or a bare repository"
	switch {
	case errors.Is(context.Cause(ctx), errTooLong):
		kind, hint, err = problem.Unreachable, "it may be a very large repository, or a slow disk", errTooLong
	case ctx.Err() != nil:
		kind, hint, err = problem.Internal, "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		hint = "install git"
	case w.distrusted(ctx):
		kind, hint = problem.Denied, "git does not trust a repository of another user; trust this one: git config --global --add safe.directory "+w.path
	}
	return problem.Wrap(err, kind, hint, "read the history of %s", w.folder)
}

// distrusted says whether the folder is a repository that git reads once it is told
// to trust the owner, and not before.
func (w *repository) distrusted(ctx context.Context) bool {
	none := func(string) {}
	return w.run(ctx, nil, none, "rev-parse", "--git-dir") != nil &&
		w.run(ctx, nil, none, "-c", "safe.directory=*", "rev-parse", "--git-dir") == nil
}

const (
	// maxStderr bounds in bytes what is kept of git's words.
	maxStderr = 4 << 10
	// maxLine bounds in bytes a line of output: a name of an object, or a path.
	maxLine = 64 << 10
	// killPatience is how long outputs stay open once git was ended.
	killPatience = 2 * time.Second
)

// run runs git, and gives each line of what it prints. Lines that came before
// an error are part of nothing.
func (w *repository) run(ctx context.Context, stdin io.Reader, line func(string), arguments ...string) error {
	// No hook, no monitor of files, no pager: none of these programs is run.
	fixed := []string{"--no-pager", "-C", w.path, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=" + os.DevNull, "-c", "advice.graftFileDeprecated=false"}
	command := exec.CommandContext(ctx, w.config.Program, append(fixed, arguments...)...)
	command.Env = w.environment()
	command.Stdin = stdin
	command.WaitDelay = killPatience
	stderr := &bounded{}
	command.Stderr = stderr
	reads, writes := io.Pipe()
	command.Stdout = writes
	scanned := make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(reads)
		lines.Buffer(nil, maxLine)
		for lines.Scan() {
			line(lines.Text())
		}
		scanned <- lines.Err()
		_ = reads.CloseWithError(lines.Err())
	}()
	err := command.Run()
	_ = writes.Close()
	if read := <-scanned; err == nil && read != nil {
		err = fmt.Errorf("read what git prints: %w", read)
	}
	warning := strings.TrimSpace(strings.ToValidUTF8(stderr.String(), "?"))
	if err == nil && warning != "" {
		// A ref that it cannot read, it warns of and leaves out.
		err = errors.New("git warns")
	}
	if err != nil {
		return &failed{err, warning}
	}
	return nil
}

// kept are the variables of git that the operator may have set on purpose:
// where git is, and configuration of their own, which may say whom to trust.
// Others say which repository is meant, as they do in hooks, or have git print.
var kept = []string{"GIT_EXEC_PATH", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM", "GIT_CONFIG_COUNT"}

func (w *repository) environment() []string {
	list := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		own := strings.HasPrefix(name, "GIT_CONFIG_KEY_") || strings.HasPrefix(name, "GIT_CONFIG_VALUE_") || slices.Contains(kept, name)
		return strings.HasPrefix(name, "GIT_") && !own
	})
	return append(list,
		"LC_ALL=C",
		"GIT_CEILING_DIRECTORIES="+filepath.Dir(w.path),
		"GIT_NO_REPLACE_OBJECTS=1", "GIT_GRAFT_FILE="+os.DevNull, // the history as it is
		"GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", "GIT_TERMINAL_PROMPT=0", // a partial clone would fetch
		"GIT_OPTIONAL_LOCKS=0",
	)
}

// bounded keeps the beginning of what is written.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(text []byte) (int, error) {
	b.Buffer.Write(text[:min(len(text), max(0, maxStderr-b.Len()))])
	return len(text), nil
}
