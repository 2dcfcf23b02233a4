package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"
	typedcore "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	"k8s.io/klog/v2"
	"k8s.io/streaming/pkg/httpstream"
)

// Command is a program to run in a container.
type Command struct {
	Pod       types.NamespacedName
	Container string
	// Argv is seen by whoever may list processes: it never holds a secret.
	Argv []string
	// Stdin is what the program reads.
	Stdin []byte
}

// Output is what a program said.
type Output struct {
	// Stdout and Stderr hold the first [MaxStdout] and [MaxStderr] bytes.
	Stdout, Stderr []byte
	// More says that Stdout went on.
	More bool
	// Code is the exit code.
	Code int
}

// How much in bytes is kept of the outputs of a program: many run at the same
// time, and any of them may print without end.
const (
	MaxStdout = 1 << 20
	MaxStderr = 16 << 10
)

// Executor runs programs in containers.
type Executor interface {
	// Exec runs a program to its end. A program that ends with an exit code
	// other than 0 is no error; one that could not be started may be either,
	// by what the container runtime makes of it.
	//
	// That an exec ended well does not prove that the program read all of
	// Stdin: container runtimes have been measured to lose it.
	Exec(ctx context.Context, command Command) (Output, error)
}

// remote runs programs by the subresource pods/exec: over WebSocket as of
// Kubernetes 1.30, and over SPDY with an older apiserver, or with a proxy that
// does not let WebSocket through.
type remote struct {
	access *rest.Config
	core   typedcore.CoreV1Interface
}

var _ Executor = (*remote)(nil)

func (r *remote) Exec(ctx context.Context, command Command) (Output, error) {
	url := r.core.RESTClient().Post().Resource("pods").
		Namespace(command.Pod.Namespace).Name(command.Pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{
			Container: command.Container, Command: command.Argv,
			Stdin: command.Stdin != nil, Stdout: true, Stderr: true,
		}, scheme.ParameterCodec).URL()
	socket, err := remotecommand.NewWebSocketExecutor(r.access, "GET", url.String())
	if err != nil {
		return Output{}, fmt.Errorf("exec: %w", err)
	}
	spdy, err := remotecommand.NewSPDYExecutor(r.access, "POST", url)
	if err != nil {
		return Output{}, fmt.Errorf("exec: %w", err)
	}
	var refused *apierrors.StatusError
	executor, err := remotecommand.NewFallbackExecutor(socket, spdy, func(err error) bool {
		var upgrade *httpstream.UpgradeFailureError
		if errors.As(err, &upgrade) {
			_ = errors.As(upgrade.Cause, &refused)
		}
		return upgrade != nil || httpstream.IsHTTPSProxyError(err)
	})
	if err != nil {
		return Output{}, fmt.Errorf("exec: %w", err)
	}
	stdout, stderr := &bounded{max: MaxStdout}, &bounded{max: MaxStderr}
	options := remotecommand.StreamOptions{Stdout: stdout, Stderr: stderr}
	if command.Stdin != nil {
		options.Stdin = bytes.NewReader(command.Stdin)
	}
	err = stream(ctx, executor, options)
	var output Output
	output.Stdout, output.More = stdout.kept()
	output.Stderr, _ = stderr.kept()
	var exit exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		output.Code = exit.ExitStatus()
		return output, nil
	}
	if err != nil {
		return Output{}, fmt.Errorf("exec: %w", &execError{err: err, refused: refused, query: url.RawQuery})
	}
	return output, nil
}

// execError is an exec that failed. Over SPDY the client tells of a refusal in
// words alone, so that the typed one, over WebSocket before, is kept with it.
type execError struct {
	err     error
	refused *apierrors.StatusError // nil if none
	// query is left out of the text: it has the command, at length.
	query string
}

var _ error = (*execError)(nil)

func (e *execError) Error() string {
	text := e.err.Error()
	if e.query != "" {
		text = strings.ReplaceAll(text, "?"+e.query, "")
	}
	return text
}

func (e *execError) Unwrap() []error {
	if e.refused == nil {
		return []error{e.err}
	}
	return []error{e.err, e.refused}
}

// stream returns when the context ends, also where the connection does not
// notice: the other side may have gone without a word.
func stream(ctx context.Context, executor remotecommand.Executor, options remotecommand.StreamOptions) error {
	// The client logs each stream that is cut off, past every log: the error that
	// is returned says all of it.
	ctx = klog.NewContext(ctx, klog.Logger{})
	ended := make(chan error, 1)
	go func() { ended <- executor.StreamWithContext(ctx, options) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-ended:
		return err
	case <-time.After(streamPatience):
		return ctx.Err()
	}
}

// streamPatience is how long a stream is awaited that was told to end.
const streamPatience = time.Second

// bounded keeps the beginning of what is written to it. A stream that was given
// up may still write.
type bounded struct {
	max int

	mu   sync.Mutex
	text []byte
	more bool
}

var _ io.Writer = (*bounded)(nil)

func (b *bounded) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fits := min(len(p), b.max-len(b.text))
	b.text = append(b.text, p[:fits]...)
	b.more = b.more || fits < len(p)
	return len(p), nil
}

// kept is what was written up to now, and whether it went on.
func (b *bounded) kept() (text []byte, more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.text), b.more
}
