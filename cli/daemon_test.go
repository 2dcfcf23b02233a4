package cli_test

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/cli"
)

// buffer is a buffer that several goroutines write to.
type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// running is a daemon in this process.
type running struct {
	out, errs buffer
	hangup    chan os.Signal
	// stop ends it, once, and returns the exit code.
	stop func() int
}

// daemon starts a command that stays, and returns when it says that it is up.
// The test's end stops it.
func daemon(t *testing.T, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d := &running{hangup: make(chan os.Signal, 1)}
	done := make(chan int, 1)
	go func() {
		done <- cli.Run(ctx, cli.Streams{In: strings.NewReader(""), Out: &d.out, Err: &d.errs}, d.hangup, args...)
	}()
	d.stop = sync.OnceValue(func() int {
		cancel()
		select {
		case code := <-done:
			return code
		case <-time.After(patience):
			t.Error("it does not stop")
			return -1
		}
	})
	t.Cleanup(func() { d.stop() })
	eventually(t, "the daemon is up", func() bool {
		select {
		case code := <-done:
			t.Fatalf("%v ended with exit code %d\n%s%s", args, code, d.out.String(), d.errs.String())
		default:
		}
		return strings.Contains(d.out.String(), "is up") || strings.Contains(d.out.String(), `"event":"up"`)
	})
	return d
}

// eventually waits for something that another goroutine or process brings about.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}
