// Package fakekube is a fake of what Kubernetes has below its API: containers
// to run programs in. The programs are real: they run on this machine, each
// container having a folder of its own as its home.
package fakekube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/regkeeper/regkeeper/internal/kube"
)

// Faults are what goes wrong. The zero Faults are none.
type Faults struct {
	// LateStdin is how much later than the program its standard input arrives;
	// it ends without a byte if standard output ends before that, which
	// containerd has been measured to do.
	LateStdin time.Duration
	// LoseStdin is the share of programs whose standard input is cut off.
	LoseStdin float64
	// CutStdout is the share of programs whose standard output is cut off.
	CutStdout float64
	// Delay is how long each program takes longer.
	Delay time.Duration
	// Hang has programs run until their context ends.
	Hang bool
	// Error is the answer in place of running a program.
	Error error
	// Output is the answer in place of running a program.
	Output *kube.Output
	// During is called while a program runs, before its standard input ends.
	During func(command kube.Command)
}

// Executor is a fake executor.
type Executor struct {
	t     testing.TB
	shell []string
	count atomic.Int64

	mu         sync.Mutex
	containers map[string]Container
	faults     Faults
	commands   []kube.Command
}

var _ kube.Executor = (*Executor)(nil)

// Container is where programs run.
type Container struct {
	// Home is the folder of HOME.
	Home string
	// Env is the environment, HOME and PATH included.
	Env []string
	// UID is the user's number; zero is that of this process. Programs of another
	// user start in the root folder, since they may not enter the home.
	UID uint32
	// Prefix is put before each program.
	Prefix []string
}

// NewExecutor makes an executor whose containers have the shell, sh if none is
// named.
func NewExecutor(t testing.TB, shell ...string) *Executor {
	if len(shell) == 0 {
		shell = []string{"sh"}
	}
	return &Executor{t: t, shell: shell, containers: map[string]Container{}}
}

func id(pod types.NamespacedName, container string) string { return pod.String() + "/" + container }

// Add makes a container, with an empty home, and says where that is. The
// changes are made to it before it can be seen.
func (e *Executor) Add(pod types.NamespacedName, container string, changes ...func(*Container)) (home string) {
	c := Container{Home: filepath.Join(e.t.TempDir(), "home")}
	if err := os.Mkdir(c.Home, 0o700); err != nil {
		e.t.Fatal(err)
	}
	c.Env = []string{"HOME=" + c.Home, "PATH=" + os.Getenv("PATH")}
	for _, change := range changes {
		change(&c)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.containers[id(pod, container)] = c
	return c.Home
}

// Remove ends a container.
func (e *Executor) Remove(pod types.NamespacedName, container string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.containers, id(pod, container))
}

// SetFaults has things go wrong from now on.
func (e *Executor) SetFaults(faults Faults) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.faults = faults
}

// Count is how many programs were asked for.
func (e *Executor) Count() int { return int(e.count.Load()) }

// Keep has Commands list what is asked for from now on.
func (e *Executor) Keep() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.commands = []kube.Command{}
}

// Commands are what was asked for since Keep.
func (e *Executor) Commands() []kube.Command {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.commands)
}

// Exec runs a program; see [kube.Executor].
func (e *Executor) Exec(ctx context.Context, command kube.Command) (kube.Output, error) {
	e.count.Add(1)
	e.mu.Lock()
	c, ok := e.containers[id(command.Pod, command.Container)]
	faults := e.faults
	if e.commands != nil {
		e.commands = append(e.commands, command)
	}
	e.mu.Unlock()
	switch {
	case ctx.Err() != nil:
		return kube.Output{}, fmt.Errorf("exec: %w", ctx.Err())
	case !ok:
		return kube.Output{}, fmt.Errorf("exec: %w", apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, command.Pod.Name))
	case faults.Error != nil:
		return kube.Output{}, fmt.Errorf("exec: %w", faults.Error)
	case faults.Output != nil:
		return *faults.Output, nil
	case faults.Hang:
		<-ctx.Done()
		return kube.Output{}, fmt.Errorf("exec: %w", ctx.Err())
	}
	if faults.Delay > 0 {
		select {
		case <-time.After(faults.Delay):
		case <-ctx.Done():
			return kube.Output{}, fmt.Errorf("exec: %w", ctx.Err())
		}
	}
	return e.start(ctx, c, command, faults)
}

func (e *Executor) start(ctx context.Context, c Container, command kube.Command, faults Faults) (kube.Output, error) {
	argv := command.Argv
	if argv[0] == "sh" {
		argv = slices.Concat(e.shell, argv[1:])
	}
	argv = slices.Concat(c.Prefix, argv)
	program := exec.CommandContext(ctx, argv[0], argv[1:]...)
	program.Env, program.Dir = c.Env, c.Home
	if c.UID != 0 {
		program.Dir = "/"
		program.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.UID, Gid: c.UID}}
	}
	var stderr bytes.Buffer
	program.Stderr = &stderr
	reads, writes, err := os.Pipe()
	if err != nil {
		return kube.Output{}, err
	}
	program.Stdout = writes
	stdin, err := program.StdinPipe()
	if err != nil {
		return kube.Output{}, errors.Join(err, reads.Close(), writes.Close())
	}
	err = program.Start()
	_ = writes.Close()
	if err != nil {
		_ = reads.Close()
		return kube.Output{}, err
	}
	var stdout []byte
	ended := make(chan struct{})
	go func() {
		stdout, _ = io.ReadAll(reads)
		_ = reads.Close()
		close(ended)
	}()
	feed(stdin, ended, command, faults)
	err = program.Wait()
	<-ended
	if ctx.Err() != nil {
		return kube.Output{}, fmt.Errorf("exec: %w", ctx.Err())
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return kube.Output{}, err
	}
	return kube.Output{
		Stdout: cut(stdout[:min(len(stdout), kube.MaxStdout)], faults.CutStdout), More: len(stdout) > kube.MaxStdout,
		Stderr: stderr.Bytes()[:min(stderr.Len(), kube.MaxStderr)], Code: program.ProcessState.ExitCode(),
	}, nil
}

func feed(stdin io.WriteCloser, ended <-chan struct{}, command kube.Command, faults Faults) {
	defer func() { _ = stdin.Close() }()
	if faults.LateStdin > 0 && command.Stdin != nil {
		select {
		case <-ended:
			return
		case <-time.After(faults.LateStdin):
		}
	}
	text := cut(command.Stdin, faults.LoseStdin)
	if half := len(text) / 2; faults.During != nil {
		_, _ = stdin.Write(text[:half])
		faults.During(command)
		text = text[half:]
	}
	_, _ = stdin.Write(text)
}

// cut cuts a share of texts off at any byte, the end excepted.
func cut(text []byte, share float64) []byte {
	if len(text) == 0 || rand.Float64() >= share { //nolint:gosec // no secret is made of it
		return text
	}
	return text[:rand.IntN(len(text))] //nolint:gosec // no secret is made of it
}
