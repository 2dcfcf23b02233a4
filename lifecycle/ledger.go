package lifecycle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// FileLedger is a ledger in a folder: a file for each repository that a plan was
// begun for and not ended, and one beside it that is locked meanwhile. It keeps
// apart what uses one folder.
type FileLedger struct {
	Folder string
}

var _ Ledger = FileLedger{}

// entry is the content of a file.
type entry struct {
	Repository image.Repository `json:"repository"`
	Deleting   []digest.Digest  `json:"deleting"`
}

func (l FileLedger) path(repository image.Repository) string {
	sum := sha256.Sum256([]byte(repository.String()))
	return filepath.Join(l.Folder, hex.EncodeToString(sum[:8])+".json")
}

// Hold implements [Ledger]. The file that it locks stays: were it removed, two could
// have a lock each, of a file and of the one that came after it.
func (l FileLedger) Hold(_ context.Context, repository image.Repository) (release func(), err error) {
	if err := os.MkdirAll(l.Folder, disk.PrivateFolder); err != nil {
		return nil, disk.Problem(err, "make folder %s", l.Folder)
	}
	path := l.path(repository) + ".lock"
	lock := flock.New(path, flock.SetPermissions(disk.PrivateFile))
	taken, err := lock.TryLock()
	if err != nil {
		return nil, disk.Problem(err, "lock %s", path)
	}
	if !taken {
		return nil, problem.New(problem.Busy, "wait until that one has ended, and try again",
			"images of %s are being deleted by another regkeeper", repository)
	}
	return func() { _ = lock.Close() }, nil
}

// Deleting implements [Ledger].
func (l FileLedger) Deleting(ctx context.Context, repository image.Repository, digests []digest.Digest) error {
	before, err := l.Deleted(ctx, repository)
	if err != nil {
		return err
	}
	all := slices.Clone(digests)
	for d := range before {
		all = append(all, d)
	}
	slices.Sort(all)
	raw, err := json.MarshalIndent(entry{Repository: repository, Deleting: slices.Compact(all)}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(l.Folder, disk.PrivateFolder); err != nil {
		return disk.Problem(err, "make folder %s", l.Folder)
	}
	return disk.WriteFile(l.path(repository), append(raw, '\n'), disk.PrivateFile)
}

// Deleted implements [Ledger].
func (l FileLedger) Deleted(_ context.Context, repository image.Repository) (map[digest.Digest]bool, error) {
	raw, err := os.ReadFile(l.path(repository))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, disk.Problem(err, "read %s", l.path(repository))
	}
	var e entry
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, problem.Wrap(err, problem.Damaged, "remove the file: what belonged to images that were being deleted may then stay", "read %s", l.path(repository))
	}
	deleted := map[digest.Digest]bool{}
	for _, d := range e.Deleting {
		deleted[d] = true
	}
	return deleted, nil
}

// Settled implements [Ledger].
func (l FileLedger) Settled(_ context.Context, repository image.Repository) error {
	err := os.Remove(l.path(repository))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return disk.Problem(err, "remove %s", l.path(repository))
	}
	return nil
}
