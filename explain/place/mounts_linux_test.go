package place_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/explain/place"
	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
)

func TestMounts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "with space")
	file := filepath.Join(dir, "config.json")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link.json")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(file, file, "", unix.MS_BIND, ""); err != nil {
		leaveout.Out(t, "a file that is a mount", "this user may not mount here: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(file, unix.MNT_DETACH) })
	want := func(w place.Place) {
		t.Helper()
		got, err := place.At(w.Path)
		if diff := cmp.Diff(w, got); diff != "" || err != nil {
			t.Errorf("%v, (-want +got):\n%s", err, diff)
		}
	}
	want(place.Place{Path: file, Mounted: true})
	want(place.Place{Path: link, Mounted: true})
	if err := unix.Mount("", file, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	want(place.Place{Path: file, Mounted: true, ReadOnly: true})
}
