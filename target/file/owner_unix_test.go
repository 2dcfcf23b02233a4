//go:build unix

package file_test

import (
	"os"
	"syscall"
	"testing"

	"github.com/regkeeper/regkeeper/dockerconfig"
)

func checkOwner(t *testing.T, want *dockerconfig.Owner, paths ...string) {
	t.Helper()
	if want == nil {
		return // only root can give files away
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); int(stat.Uid) != want.UID || int(stat.Gid) != want.GID {
			t.Errorf("%s belongs to %d:%d", path, stat.Uid, stat.Gid)
		}
	}
}
