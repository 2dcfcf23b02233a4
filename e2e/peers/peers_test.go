package peers_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/regkeeper/regkeeper/e2e/peers"
)

// ended is a test that notes how it was ended, in place of ending.
type ended struct {
	testing.TB
	how string
}

func (e *ended) Helper()           {}
func (e *ended) Skip(args ...any)  { e.how = "skipped: " + fmt.Sprint(args...) }
func (e *ended) Fatal(args ...any) { e.how = "failed: " + fmt.Sprint(args...) }

func TestNeed(t *testing.T) {
	for ci, want := range map[string]string{"": "skipped: ", "true": "failed: "} {
		t.Run("CI="+ci, func(t *testing.T) {
			t.Setenv("CI", ci)
			t.Setenv("PATH", t.TempDir())
			test := &ended{TB: t}
			peers.Need(test, "skopeo")
			if !strings.HasPrefix(test.how, want) || !strings.Contains(test.how, "apt-get install skopeo") {
				t.Errorf("a test without its tool was %q, want %q and what to install", test.how, want)
			}
		})
	}
}
