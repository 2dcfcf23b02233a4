package disk

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// exchange makes two files change places in one step. Where the file system
// cannot (NFS, some FUSE), it replaces path if that still holds base; nothing
// is under temp's name then.
func exchange(temp, path string, base []byte) (exchanged bool, err error) {
	err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return false, replace(temp, path, base)
	}
	if err != nil {
		return false, &os.LinkError{Op: "exchange", Old: temp, New: path, Err: err}
	}
	return true, nil
}

// renameNew gives temp the name path unless that exists.
func renameNew(temp, path string) error {
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return linkNew(temp, path)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: temp, New: path, Err: err}
	}
	return nil
}

// lockFolder takes an advisory lock on the folder itself, which leaves nothing
// behind. It gives up after wait, or where the file system has no locks.
func lockFolder(ctx context.Context, folder string, wait time.Duration) (unlock func()) {
	file, err := os.Open(folder)
	if err != nil {
		return func() {}
	}
	release := func() { _ = file.Close() }
	deadline := time.Now().Add(wait)
	for {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(deadline) {
			return release
		}
		select {
		case <-ctx.Done():
			return release
		case <-time.After(settlePause / 10):
		}
	}
}
