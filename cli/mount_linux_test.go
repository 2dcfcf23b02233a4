package cli_test

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
)

// readOnlyFolder makes a folder read-only: by a mount where this user may, by
// its permissions otherwise. It returns the hint that goes with that.
func readOnlyFolder(t *testing.T, folder string) (hint string) {
	t.Helper()
	err := unix.Mount(folder, folder, "", unix.MS_BIND, "")
	if err == nil {
		t.Cleanup(func() { _ = unix.Unmount(folder, unix.MNT_DETACH) })
		err = unix.Mount("", folder, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	if err == nil {
		return "mounted read-only"
	}
	if os.Geteuid() == 0 {
		leaveout.Out(t, "a read-only folder", "root may not mount here ("+err.Error()+"), and permissions do not bind root")
	}
	if err := os.Chmod(folder, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(folder, 0o700) })
	return "run regkeeper as a user who may write there"
}

// smallDisk puts a disk of 64 KiB in a folder's place. It returns what fills
// the disk.
func smallDisk(t *testing.T, folder string) (fill func()) {
	t.Helper()
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", folder, "tmpfs", 0, "size=64k,mode=700"); err != nil {
		leaveout.Out(t, "a small disk", "cannot mount here: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(folder, unix.MNT_DETACH) })
	return func() {
		file, err := os.Create(folder + "/ballast")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = file.Close() }()
		for chunk := strings.Repeat("x", 512); err == nil; {
			_, err = file.WriteString(chunk)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("fill %s: %v", folder, err)
		}
	}
}
