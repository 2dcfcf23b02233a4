//go:build !linux

package cli_test

import "testing"

func readOnlyFolder(t *testing.T, _ string) string {
	t.Skip("LEFT OUT: mounts are tested on Linux")
	return ""
}

func smallDisk(t *testing.T, _ string) func() {
	t.Skip("LEFT OUT: mounts are tested on Linux")
	return nil
}
