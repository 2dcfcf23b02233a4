package peers_test

import (
	"testing"

	"github.com/regkeeper/regkeeper/e2e/peers"
)

func TestNeedSkipsWithoutTheTool(t *testing.T) {
	t.Setenv("CI", "")
	t.Setenv("PATH", t.TempDir())
	var skipped bool
	t.Run("missing", func(t *testing.T) {
		defer func() { skipped = t.Skipped() }()
		peers.Need(t, "skopeo")
	})
	if !skipped {
		t.Error("a test without its tool was not skipped")
	}
}
