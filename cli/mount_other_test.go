//go:build !linux

package cli_test

import (
	"testing"

	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
)

func readOnlyFolder(t *testing.T, _ string) string {
	leaveout.Out(t, "a read-only folder", "mounts are tested on Linux")
	return ""
}

func smallDisk(t *testing.T, _ string) func() {
	leaveout.Out(t, "a small disk", "mounts are tested on Linux")
	return nil
}
