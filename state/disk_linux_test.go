package state_test

import (
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
	"github.com/regkeeper/regkeeper/problem"
	"github.com/regkeeper/regkeeper/state"
	"github.com/regkeeper/regkeeper/state/statetest"
)

func TestFullDiskKeepsTheOldDocument(t *testing.T) {
	folder := t.TempDir()
	if err := syscall.Mount("none", folder, "tmpfs", 0, "size=64k"); err != nil {
		leaveout.Out(t, "a full disk", "cannot mount here: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(folder, syscall.MNT_DETACH) })
	file := open(t, folder)
	want := statetest.Full()
	if err := file.Save(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	big := state.New()
	big.Registry("h").Intent = &state.Intent{Name: strings.Repeat("x", 1<<17)}
	err := file.Save(t.Context(), big)
	if problem.KindOf(err) != problem.Storage || !strings.Contains(problem.HintOf(err), "free some space") {
		t.Errorf("Save says %v of kind %s, hint %q", err, problem.KindOf(err), problem.HintOf(err))
	}
	got, err := file.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	left, err := os.ReadDir(folder)
	if err != nil || len(left) > 2 {
		t.Errorf("folder has %v, %v", left, err)
	}
}
