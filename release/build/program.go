package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/problem"
)

const (
	// lastLines is how many lines an error quotes.
	lastLines = 15
	// lineLimit bounds a line in bytes.
	lineLimit = 8 << 10
	// patience is how long an interrupted program may take to clean up.
	patience = 10 * time.Second
)

// Failure is a program that ended with an error. Its text are the last lines
// that the program wrote.
type Failure struct {
	Program string
	Code    int // its exit code; -1 if a signal ended it
	Lines   []string
}

func (f *Failure) Error() string {
	text := fmt.Sprintf("%s ended with code %d", f.Program, f.Code)
	if len(f.Lines) > 0 {
		text += ":\n  " + strings.Join(f.Lines, "\n  ")
	}
	return text
}

// program is a program to run.
type program struct {
	path   string
	env    []string
	logins Logins
	// progress is told each line of both outputs, if it is not nil.
	progress func(string)
	// answers has standard output returned in place of told.
	answers bool
}

// run runs the program until it ends. When ctx ends it is interrupted, and
// killed if that does not help. The error is a [Failure], or a [problem.Error].
func (p program) run(ctx context.Context, argv ...string) (stdout []byte, err error) {
	said := &lines{program: p}
	var answer bytes.Buffer
	c := exec.CommandContext(ctx, p.path, argv...)
	c.Env, c.Stdout, c.Stderr = p.env, said, said
	if p.answers {
		c.Stdout = &answer
	}
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = patience
	err = c.Run()
	said.flush()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("run %s: %w", p.path, ctx.Err())
	case errors.As(err, &exit):
		return nil, &Failure{Program: p.path, Code: exit.ExitCode(), Lines: said.last}
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return nil, problem.Wrap(err, problem.Config, "install it, or name its path", "run %s", p.path)
	case err != nil:
		return nil, fmt.Errorf("run %s: %w", p.path, err)
	}
	return answer.Bytes(), nil
}

// lines tells what is written line by line, and keeps the last.
type lines struct {
	program program
	part    []byte
	last    []string
}

func (l *lines) Write(text []byte) (int, error) {
	written := len(text)
	for {
		head, rest, ended := bytes.Cut(text, []byte("\n"))
		l.part = append(l.part, head[:min(len(head), max(0, lineLimit-len(l.part)))]...)
		if !ended {
			return written, nil
		}
		l.flush()
		text = rest
	}
}

func (l *lines) flush() {
	text := strings.TrimRight(string(l.part), "\r ")
	l.part = l.part[:0]
	if text == "" {
		return
	}
	for _, login := range l.program.logins {
		if secret := login.Secret.Reveal(); secret != "" {
			text = strings.ReplaceAll(text, secret, login.Secret.String())
		}
	}
	l.last = append(l.last, text)
	if len(l.last) > lastLines {
		l.last = l.last[1:]
	}
	if l.program.progress != nil {
		l.program.progress(text)
	}
}
