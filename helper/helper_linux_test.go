package helper_test

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/docker/docker-credential-helpers/credentials"

	"github.com/regkeeper/regkeeper/problem"
)

// A data folder of another user says so: to "not found" the client would pull without
// a login, and tell of that.
func TestFolderOfAnotherUser(t *testing.T) {
	folder := written(t, keyring())
	if err := os.Chmod(folder, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(folder, 0o700) })
	if os.Geteuid() == 0 {
		// Root may read all: this thread becomes nobody to the file system, and ends
		// with the test.
		runtime.LockOSThread()
		if err := syscall.Setfsuid(65534); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = syscall.Setfsuid(0); runtime.UnlockOSThread() }()
	}
	_, _, err := newHelper(folder).Get("h.example.com")
	if credentials.IsErrCredentialsNotFound(err) || problem.KindOf(err) != problem.Storage ||
		!strings.Contains(err.Error(), "the logins in "+folder+" are not this user's to read: permission denied") || problem.HintOf(err) == "" {
		t.Errorf("error %v, hint %q", err, problem.HintOf(err))
	}
}
