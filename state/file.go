package state

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/gofrs/flock"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// File keeps the document in a folder of its own, for one process at a time.
type File struct {
	folder string
	lock   *flock.Flock
	taken  fs.FileInfo // the lock's file
}

var _ Store = (*File)(nil)

const (
	documentName = "state.json"
	lockName     = "lock"
)

// Open takes the folder, making it if need be. The error is a problem of kind
// [problem.Busy] if another process has it.
func Open(folder string) (*File, error) {
	if err := os.MkdirAll(folder, disk.PrivateFolder); err != nil {
		return nil, disk.Problem(err, "make data folder %s", folder)
	}
	path := filepath.Join(folder, lockName)
	lock := flock.New(path, flock.SetPermissions(disk.PrivateFile))
	taken, err := lock.TryLock()
	if err != nil {
		return nil, disk.Problem(err, "lock data folder %s", folder)
	}
	if !taken {
		holder := "another process"
		if pid, err := os.ReadFile(path); err == nil && len(pid) > 0 {
			holder = "process " + strings.TrimSpace(string(pid))
		}
		return nil, problem.New(problem.Busy,
			"use that one, stop it, or give this one a folder of its own with --data",
			"data folder %s is in use by %s", folder, holder)
	}
	// The number only names the holder to people; the lock is what counts.
	_ = os.WriteFile(path, []byte(strconv.Itoa(os.Getpid())+"\n"), disk.PrivateFile)
	info, err := os.Stat(path)
	if err != nil {
		return nil, disk.Problem(err, "lock data folder %s", folder)
	}
	return &File{folder: folder, lock: lock, taken: info}, nil
}

// Held is an error if the folder is no longer this process's: someone removed
// the lock or the folder, and another process may have taken it since.
func (f *File) Held(context.Context) error {
	info, err := os.Stat(filepath.Join(f.folder, lockName))
	if err == nil && os.SameFile(info, f.taken) {
		return nil
	}
	return problem.New(problem.Busy, "stop this process, make sure that no other uses the folder, and start it again",
		"data folder %s was taken away: its lock is gone", f.folder)
}

// Close gives the folder up.
func (f *File) Close() error { return f.lock.Unlock() }

// Load reads the document; see [Store].
func (f *File) Load(context.Context) (*Document, error) { return Read(f.folder) }

// Save replaces the document; see [Store].
func (f *File) Save(ctx context.Context, doc *Document) error {
	if err := f.Held(ctx); err != nil {
		return err
	}
	text, err := Encode(doc)
	if err != nil {
		return err
	}
	return disk.WriteFile(filepath.Join(f.folder, documentName), text, disk.PrivateFile)
}

// Read returns the document in a folder without taking it: a look, for a
// process that changes nothing.
func Read(folder string) (*Document, error) {
	path := filepath.Join(folder, documentName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return New(), nil
	}
	if err != nil {
		return nil, disk.Problem(err, "read %s", path)
	}
	doc, err := Decode(text)
	if err != nil {
		return nil, problem.New(problem.Damaged,
			"put a copy back, or move the file away: regkeeper then mints anew, and revokes what it minted before once no target holds it",
			"state file %s cannot be read (%d bytes; it is left as it is)", path, len(text))
	}
	return doc, nil
}

// ReadOnly is the document in a folder that someone else may have: it can be
// loaded and not be saved.
func ReadOnly(folder string) Store { return readOnly(folder) }

type readOnly string

func (r readOnly) Load(context.Context) (*Document, error) { return Read(string(r)) }

func (r readOnly) Save(context.Context, *Document) error {
	return problem.New(problem.Busy, "", "data folder %s was opened for looking only", string(r))
}
