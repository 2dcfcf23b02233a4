package process_test

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/e2e/peers/process"
)

func TestProcessEndsWithItsTest(t *testing.T) {
	var p *process.Process
	t.Run("inner", func(t *testing.T) {
		p = process.Start(t, exec.Command("sh", "-c", "echo up; trap '' TERM; sleep 60 & wait"))
		p.Until(t, 10*time.Second, "output", func() bool { return strings.Contains(p.Log(), "up") })
	})
	select {
	case <-p.Done():
	default:
		t.Error("the program outlives its test")
	}
}

func TestStopAsksFirst(t *testing.T) {
	p := process.Start(t, exec.Command("sh", "-c", "trap 'echo asked; exit' TERM; echo up; while :; do sleep 0.01; done"))
	p.Until(t, 10*time.Second, "output", func() bool { return strings.Contains(p.Log(), "up") })
	p.Stop()
	if !strings.Contains(p.Log(), "asked") {
		t.Errorf("log is %q, want the trap's line", p.Log())
	}
}

func TestOutput(t *testing.T) {
	out, err := process.Output(t.Context(), exec.Command("sh", "-c", "echo one; echo two >&2; exit 3"))
	if err == nil || !strings.Contains(err.Error(), "two") || out != "one\ntwo\n" {
		t.Errorf("output %q, error %v", out, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := process.Output(ctx, exec.Command("sleep", "60")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want the deadline", err)
	}
}
