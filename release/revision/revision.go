// Package revision reads from a git work tree what a build is made of: the
// commit, and what differs from it.
//
// It asks the git program, so that ignore rules, attributes and submodules mean
// what they mean to people. It refuses to change a repository, its index
// included.
package revision

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/problem"
)

// shortest is the least number of digits of a short commit: git's own default
// in a small repository.
const shortest = 7

// Revision is the state of a work tree.
type Revision struct {
	// Root is the work tree's top folder.
	Root string `json:"-"`
	// Commit is the full name of HEAD, Short the beginning of it that git gives,
	// of seven digits or more.
	Commit string `json:"commit"`
	Short  string `json:"short"`
	// Committed is when the commit was made.
	Committed time.Time `json:"committed"`
	// Dirty are the files that differ from the commit, sorted, by their paths
	// from Root: changed, staged, deleted, and those that git does not know and
	// does not ignore. None is a clean tree.
	Dirty []string `json:"dirty,omitempty"`
	// Content stands for what is in the files of Dirty, in eight hex digits. It
	// is empty for a clean tree.
	Content string `json:"content,omitempty"`
}

// Clean says whether the tree is as the commit has it.
func (r Revision) Clean() bool { return len(r.Dirty) == 0 }

// Tag is the tag of an image that is built of the tree: the short commit. Of a
// dirty tree it says so, and what is in it: two different states of one commit
// have two tags, and neither that of the commit.
func (r Revision) Tag() string {
	if r.Clean() {
		return r.Short
	}
	return r.Short + "-dirty-" + r.Content
}

// Name is what an image's annotation org.opencontainers.image.revision says.
func (r Revision) Name() string {
	if r.Clean() {
		return r.Commit
	}
	return r.Commit + "-dirty-" + r.Content
}

// Git asks the git program.
type Git struct {
	// Program is its path; empty is git of PATH.
	Program string
}

// Read reads the work tree that the folder is in. The error is a
// [problem.Error] of kind [problem.Config] if it is in none, or if there is no
// commit.
func (g Git) Read(ctx context.Context, folder string) (Revision, error) {
	explain := func(err error) error {
		if err == nil || ctx.Err() != nil {
			return err
		}
		return problem.Wrap(err, problem.Config, "release from a git clone with a commit in it, as a user whom git takes for its owner", "read the commit of %s", folder)
	}
	root, err := g.line(ctx, folder, "rev-parse", "--show-toplevel")
	if err != nil {
		return Revision{}, explain(err)
	}
	r := Revision{Root: root}
	if r.Commit, err = g.line(ctx, root, "rev-parse", "--verify", "HEAD^{commit}"); err != nil {
		return Revision{}, explain(err)
	}
	if r.Short, err = g.line(ctx, root, "rev-parse", "--short", r.Commit); err != nil {
		return Revision{}, explain(err)
	}
	if len(r.Short) < shortest {
		// core.abbrev may ask for less.
		if r.Short, err = g.line(ctx, root, "rev-parse", "--short="+strconv.Itoa(shortest), r.Commit); err != nil {
			return Revision{}, explain(err)
		}
	}
	stamp, err := g.line(ctx, root, "show", "--no-patch", "--no-show-signature", "--format=%ct", r.Commit)
	if err != nil {
		return Revision{}, explain(err)
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil {
		return Revision{}, explain(fmt.Errorf("read the time of commit %s: %w", r.Commit, err))
	}
	r.Committed = time.Unix(seconds, 0).UTC()
	if err := g.differences(ctx, &r); err != nil {
		return Revision{}, explain(err)
	}
	return r, nil
}

// differences adds what differs from the commit.
func (g Git) differences(ctx context.Context, r *Revision) error {
	out, err := g.run(ctx, r.Root, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--ignore-submodules=none")
	if err != nil {
		return err
	}
	var unknown []string
	for entry := range strings.SplitSeq(string(out), "\x00") {
		// Two letters of state, a space, the path (git-status, "Short Format").
		if len(entry) < 4 {
			continue
		}
		r.Dirty = append(r.Dirty, entry[3:])
		if entry[:2] == "??" {
			unknown = append(unknown, entry[3:])
		}
	}
	if r.Clean() {
		return nil
	}
	slices.Sort(r.Dirty)
	slices.Sort(unknown)
	sum := sha256.New()
	diff, err := g.run(ctx, r.Root, "diff", "--binary", "--full-index", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--submodule=diff", "HEAD")
	if err != nil {
		return err
	}
	_, _ = sum.Write(diff)
	for _, name := range unknown {
		if err := add(sum, r.Root, name); err != nil {
			return err
		}
	}
	r.Content = hex.EncodeToString(sum.Sum(nil)[:4])
	return nil
}

// add adds a file that git does not know: its name, its kind and its content.
func add(sum io.Writer, root, name string) error {
	path := filepath.Join(root, filepath.FromSlash(name))
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("read untracked file: %w", err)
	}
	_, _ = fmt.Fprintf(sum, "%q %s ", name, info.Mode())
	switch {
	case info.Mode()&os.ModeSymlink != 0:
		to, err := os.Readlink(path)
		if err != nil {
			return fmt.Errorf("read untracked file: %w", err)
		}
		_, _ = fmt.Fprintf(sum, "%q", to)
	case info.Mode().IsRegular():
		file, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("read untracked file: %w", err)
		}
		defer func() { _ = file.Close() }()
		_, _ = fmt.Fprintf(sum, "%d ", info.Size())
		if _, err := io.Copy(sum, file); err != nil {
			return fmt.Errorf("read untracked file: %w", err)
		}
	}
	return nil
}

// Tracked says whether git keeps a file in its history. A file outside every
// work tree is not.
func (g Git) Tracked(ctx context.Context, path string) (bool, error) {
	_, err := g.run(ctx, filepath.Dir(path), "ls-files", "--error-unmatch", "--", filepath.Base(path))
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		// 1: not known. 128: no work tree.
		return false, nil
	}
	return err == nil, err
}

func (g Git) line(ctx context.Context, folder string, args ...string) (string, error) {
	out, err := g.run(ctx, folder, args...)
	return strings.TrimSpace(string(out)), err
}

// local are the variables by which git takes another repository than that of
// its folder, or another state of it: set in hooks, for one.
var local = []string{"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_NAMESPACE"}

func (g Git) run(ctx context.Context, folder string, args ...string) ([]byte, error) {
	name := g.Program
	if name == "" {
		name = "git"
	}
	program := exec.CommandContext(ctx, name, args...)
	program.Dir = folder
	for _, variable := range os.Environ() {
		if key, _, _ := strings.Cut(variable, "="); !slices.Contains(local, key) {
			program.Env = append(program.Env, variable)
		}
	}
	// Without optional locks `git status` does not write the index.
	program.Env = append(program.Env, "LC_ALL=C", "GIT_OPTIONAL_LOCKS=0")
	var stdout, stderr bytes.Buffer
	program.Stdout, program.Stderr = &stdout, &stderr
	err := program.Run()
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return nil, problem.Wrap(err, problem.Config, "install git", "run git")
	case err != nil:
		text, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return nil, fmt.Errorf("run git %s: %w: %s", args[0], err, text)
	}
	return stdout.Bytes(), nil
}
