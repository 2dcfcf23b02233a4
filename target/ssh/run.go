package ssh

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/internal/shellfile"
)

// Runner runs ssh.
type Runner interface {
	// Run runs ssh with the arguments, and gives it the input. An exit code other
	// than zero is no error. The error of a program that is not there has
	// [fs.ErrNotExist] in its chain.
	Run(ctx context.Context, stdin []byte, arguments ...string) (Result, error)
}

// Result is how a program ended, and what it said.
type Result struct {
	Code int
	// Stdout and Stderr are the beginnings of what it said, of at least a MiB and
	// of some KiB.
	Stdout, Stderr []byte
}

const (
	maxStdout = 1 << 20
	maxStderr = 4 << 10
	// drain is how long what ssh left behind may hold its output open.
	drain = 2 * time.Second
)

// Program is a program, by its name on PATH or its path, that is started for
// each run and killed when the context ends.
type Program string

var _ Runner = Program("")

// Run implements [Runner]. The program's words are those of the C locale.
func (p Program) Run(ctx context.Context, stdin []byte, arguments ...string) (Result, error) {
	cmd := exec.CommandContext(ctx, string(p), arguments...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = bytes.NewReader(stdin)
	stdout, stderr := &head{limit: maxStdout + 1}, &head{limit: maxStderr}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.WaitDelay = drain
	err := cmd.Run()
	result := Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.text, Stderr: stderr.text}
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return result, ctx.Err()
	case errors.Is(err, exec.ErrWaitDelay), errors.As(err, &exit):
		return result, nil
	case errors.Is(err, exec.ErrNotFound):
		return result, errors.Join(err, fs.ErrNotExist)
	}
	return result, err
}

// head keeps the beginning of what is written to it.
type head struct {
	text  []byte
	limit int
}

func (h *head) Write(p []byte) (int, error) {
	h.text = append(h.text, p[:min(len(p), h.limit-len(h.text))]...)
	return len(p), nil
}

// remote is run by the login shell of the user on the host, whichever that is:
// it holds no line break, and within single quotes nothing that a shell reads in
// another way. The script comes as the first line of standard input, which sh
// reads no further than it must.
const remote = `exec sh -c 'IFS= read -r s; eval "$(printf %b "$s")"'`

// line is the script with its arguments as that first line.
func line(arguments []string) []byte {
	var text strings.Builder
	text.WriteString("set --")
	for _, argument := range arguments {
		text.WriteString(" '" + strings.ReplaceAll(argument, "'", `'\''`) + "'")
	}
	text.WriteString("\n" + strings.TrimRight(shellfile.Script, "\n"))
	// printf %b undoes this (POSIX, printf).
	return []byte(strings.NewReplacer(`\`, `\\`, "\n", `\n`).Replace(text.String()) + "\n")
}

// options are the arguments of ssh for a host. None depends on a secret.
func (t *Target) options(host Host) []string {
	options := []string{
		"-T",
		"-o", "BatchMode=yes",
		"-o", "StrictHostKeyChecking=yes",
		"-o", "ConnectTimeout=" + strconv.Itoa(max(1, int(t.config.Timeout/time.Second/2))),
		"-o", "ServerAliveInterval=5",
		"-o", "ClearAllForwardings=yes",
		"-o", "ForwardAgent=no",
		"-o", "ForwardX11=no",
		"-o", "PermitLocalCommand=no",
		"-o", "LogLevel=ERROR",
	}
	if t.config.File != "" {
		options = append(options, "-F", t.config.File)
	}
	if t.config.Identity != "" {
		options = append(options, "-o", "IdentityFile="+quoted(t.config.Identity), "-o", "IdentitiesOnly=yes")
	}
	if t.config.KnownHosts != "" {
		options = append(options, "-o", "UserKnownHostsFile="+quoted(t.config.KnownHosts), "-o", "GlobalKnownHostsFile=/dev/null")
	}
	if t.config.Jump != "" {
		options = append(options, "-J", t.config.Jump)
	}
	if host.User != "" {
		options = append(options, "-l", host.User)
	}
	if host.Port != 0 {
		options = append(options, "-p", strconv.Itoa(host.Port))
	}
	return append(options, "--", host.Name, remote)
}

// quoted is a path as a value of ssh_config(5), whose tokens begin with a
// percent sign.
func quoted(path string) string { return `"` + strings.ReplaceAll(path, "%", "%%") + `"` }

// run runs the script on the host.
func (t *Target) run(ctx context.Context, host Host, stdin []byte, arguments []string) (shellfile.Output, error) {
	limited, cancel := context.WithTimeout(ctx, t.config.Timeout)
	defer cancel()
	result, err := t.config.Runner.Run(limited, append(line(arguments), stdin...), t.options(host)...)
	if err != nil {
		return shellfile.Output{}, t.failed(ctx, host, err)
	}
	said := shellfile.Output{Stdout: result.Stdout[:min(len(result.Stdout), maxStdout)], More: len(result.Stdout) > maxStdout}
	if result.Code != 0 {
		said.Silent = func() error { return t.silent(host, result) }
	}
	return said, nil
}
