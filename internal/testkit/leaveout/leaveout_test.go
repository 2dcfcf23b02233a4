package leaveout_test

import (
	"fmt"
	"testing"

	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
)

// recorder remembers how a test ended.
type recorder struct {
	testing.TB
	end string
}

func (*recorder) Helper()            {}
func (r *recorder) Fatal(all ...any) { r.end += "failed " + fmt.Sprint(all...) + "\n"; panic(r) }
func (r *recorder) Skip(all ...any)  { r.end += "skipped " + fmt.Sprint(all...) + "\n"; panic(r) }

func TestOut(t *testing.T) {
	for ci, want := range map[string]string{
		"":     "skipped LEFT OUT: mounts: needs root\n",
		"true": "failed LEFT OUT: mounts: needs root\n",
	} {
		t.Setenv("CI", ci)
		r := &recorder{TB: t}
		func() {
			defer func() { _ = recover() }()
			leaveout.Out(r, "mounts", "needs root")
		}()
		if r.end != want {
			t.Errorf("with CI=%q it %q, want %q", ci, r.end, want)
		}
	}
}
