// Package process owns the programs that a test starts.
//
// It refuses to leave one behind: a program ends with its test, and the kernel
// kills it when the test process itself is killed. It never looks a process up
// by name.
package process

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// grace is how long Stop waits between SIGTERM and SIGKILL.
const grace = 10 * time.Second

// Process is a running program.
type Process struct {
	cmd  *exec.Cmd
	name string
	log  string
	done chan struct{}
	err  error // how it ended; read after done
}

// Start starts cmd as the leader of its own process group, with its output in
// a log, and kills the group when the test ends. The log's end is shown when
// the test fails.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	return StartAs(t, filepath.Base(cmd.Path), cmd)
}

// StartAs is Start for a program whose file does not say what it is.
func StartAs(t testing.TB, name string, cmd *exec.Cmd) *Process {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), name+".log"))
	if err != nil {
		t.Fatalf("create log of %s: %v", name, err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log

	p := &Process{cmd: cmd, name: name, log: log.Name(), done: make(chan struct{})}
	started := make(chan error)
	go func() {
		defer close(p.done)
		defer tie(cmd)()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("end of the log of %s:\n%s", name, p.Tail(40))
		}
	})
	return p
}

// Output runs cmd to its end, or until ctx is done, and returns what it wrote
// to both streams. The error holds that text too.
func Output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := Run(ctx, cmd); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(out.String()))
	}
	return out.String(), nil
}

// Run runs cmd to its end, or kills it and what it started when ctx is done.
// An [exec.ExitError] in the error's chain says how it ended by itself.
func Run(ctx context.Context, cmd *exec.Cmd) error {
	defer tie(cmd)()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return fmt.Errorf("run %s: %w", filepath.Base(cmd.Path), err)
	}
	return nil
}

// tie gives cmd a process group and binds its life to this process. The kernel
// sends the death signal when the starting thread ends, not the process (see
// PR_SET_PDEATHSIG in prctl(2)), so the goroutine keeps its thread until the
// returned function is called, after Wait.
func tie(cmd *exec.Cmd) (untie func()) {
	runtime.LockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	return runtime.UnlockOSThread
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Name says what the program is.
func (p *Process) Name() string { return p.name }

// Ended says whether the program has ended.
func (p *Process) Ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// PID is its process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log returns what the program has written so far.
func (p *Process) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Tail returns the last lines of the log.
func (p *Process) Tail(lines int) string { return tail(p.Log(), lines) }

// Stop asks the program's group to end, kills it when it does not, and returns
// when the program has ended.
func (p *Process) Stop() {
	p.signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(grace):
	}
	p.Kill()
}

// Kill kills the program's whole group and returns when the program has ended.
func (p *Process) Kill() {
	p.signal(syscall.SIGKILL)
	<-p.done
}

// signal sends s to the group while the program runs; its number may be
// another's later.
func (p *Process) signal(s syscall.Signal) {
	if !p.Ended() {
		syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// Until polls ready, ever more slowly, until it returns true. The test fails
// when p ends first or the time runs out; what says what was waited for.
func (p *Process) Until(t testing.TB, limit time.Duration, what string, ready func() bool) {
	t.Helper()
	deadline := time.After(limit)
	for wait := 10 * time.Millisecond; !ready(); wait = min(wait*3/2, 250*time.Millisecond) {
		select {
		case <-p.done:
			t.Fatalf("wait for %s: %s ended: %v", what, p.name, p.err)
		case <-deadline:
			t.Fatalf("wait for %s: not within %v", what, limit)
		case <-time.After(wait):
		}
	}
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
