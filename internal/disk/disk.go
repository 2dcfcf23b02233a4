// Package disk has what documents need of a file system: replacing a file so
// that a crash leaves the old or the new content, changing one that others
// write too without losing what they write, and telling people what a disk
// error means.
package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/atomicwriter"

	"github.com/regkeeper/regkeeper/problem"
)

// Private are the permission bits of what may hold secrets.
const (
	PrivateFile   fs.FileMode = 0o600
	PrivateFolder fs.FileMode = 0o700
)

// tempAge is when a temporary file counts as left behind by a crash.
const tempAge = time.Minute

// WriteFile replaces the file's content in one step and returns when it has
// reached the disk. What writers that were killed left beside the file is
// removed: it may hold secrets. The error is a [problem.Error] of kind
// [problem.Storage].
func WriteFile(path string, content []byte, mode fs.FileMode) error {
	sweep(path)
	if err := atomicwriter.WriteFile(path, content, mode); err != nil {
		return Problem(err, "write %s", path)
	}
	return Problem(SyncFolder(path), "write %s", path)
}

// sweep removes the temporary files of package atomicwriter for the path.
func sweep(path string) {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".tmp-"+filepath.Base(path)+"*"))
	if err != nil {
		return
	}
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > tempAge {
			_ = os.Remove(name)
		}
	}
}

// SyncFolder makes a rename of the path durable.
func SyncFolder(path string) error {
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer func() { _ = folder.Close() }()
	if err := folder.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return err
	}
	return nil
}

// Problem makes a problem of kind [problem.Storage] of what the operating
// system said, with the hint that goes with it. Of an error that tells the path
// which the text names already, the cause alone is shown. It returns nil for
// nil.
func Problem(err error, format string, args ...any) error {
	hint := "look at the folder's owner, permissions and mount"
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		hint = "free some space on that disk; the former content is still there"
	case errors.Is(err, syscall.EROFS):
		hint = "the file system is mounted read-only: mount it writable, or choose another path"
	case errors.Is(err, syscall.EISDIR):
		hint = "a folder stands where a file belongs: name the file, or move the folder away"
	case errors.Is(err, syscall.ELOOP):
		hint = "the symbolic links lead in a circle: point them at a file"
	case errors.Is(err, fs.ErrPermission):
		hint = "run regkeeper as a user who may write there, or as root"
	case errors.Is(err, syscall.ENOTDIR):
		hint = "a file stands where a folder is needed"
	case errors.Is(err, fs.ErrNotExist):
		hint = "check the path, and that the disk it is on is mounted"
	}
	text := fmt.Sprintf(format, args...)
	return problem.Wrap(cause(err, text), problem.Storage, hint, "%s", text)
}

// cause is what the operating system said of a path, if the text names it.
func cause(err error, text string) error {
	switch e := err.(type) { //nolint:errorlint // what others put around it is theirs to say
	case *fs.PathError:
		if e.Path != "" && strings.Contains(text, e.Path) {
			return e.Err
		}
	case *os.LinkError:
		if e.New != "" && strings.Contains(text, e.New) {
			return e.Err
		}
	}
	return err
}
