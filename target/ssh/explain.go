package ssh

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/regkeeper/regkeeper/internal/shellfile"
	"github.com/regkeeper/regkeeper/problem"
)

// The exit codes of ssh: its own errors (ssh(1), "Exit status"), and those of a
// shell for a program that cannot be run (POSIX, Shell Command Language, 2.8.2).
const (
	codeSSH      = 255
	codeNotRun   = 126
	codeNotFound = 127
)

// hints say what to do about a file of a host that fails.
func hints(host Host) shellfile.Hints {
	return shellfile.Hints{
		Subject:  "the host",
		Home:     "set path: of the target to an absolute path",
		Tools:    "install it there: the host needs sh, cat, wc, mv, rm, mkdir, chmod, and sha256sum or cksum, as busybox and coreutils have them",
		ReadOnly: "the file system is mounted read-only there: set path: to a writable folder, and DOCKER_CONFIG of whoever reads it to the folder",
		Mounted:  "the file is a mount of its own, which nothing can replace: mount its folder instead, or set path:",
		Denied: func(uid string) string {
			return "on the host regkeeper is user " + uid + ": connect as the file's owner, or set path: to a file of that user"
		},
		Space: "free some space there; the former content is still there",
		Lost:  "it is tried again; see whether the login shell of the user prints or reads something by itself: ssh " + host.command() + " true",
	}
}

// command is the host as arguments of ssh for a person to type.
func (h Host) command() string {
	text := h.Name
	if h.User != "" {
		text = h.User + "@" + text
	}
	if h.Port != 0 {
		text = "-p " + strings.TrimPrefix(Host{Name: "x", Port: h.Port}.String(), "x:") + " " + text
	}
	return text
}

// failed explains why ssh did not run to its end.
func (t *Target) failed(ctx context.Context, host Host, err error) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, context.DeadlineExceeded):
		return problem.Wrap(err, problem.Unreachable, "see whether it ends: ssh -o BatchMode=yes "+host.command()+" true",
			"%s did not answer within %s", host, t.config.Timeout)
	case errors.Is(err, fs.ErrNotExist):
		return problem.Wrap(err, problem.Config, "install the OpenSSH client (Debian: openssh-client), or have ssh on PATH", "connect to %s", host)
	}
	return problem.Wrap(err, problem.Internal, "see whether ssh can be started: ssh -V", "connect to %s", host)
}

// causes tell the errors of ssh itself apart. All have one exit code: its words
// are all there is. They are those of the C locale, in which it has no others;
// what they do not name is unreachable.
var causes = []struct {
	words, text, hint string
	kind              problem.Kind
}{
	{"REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is another than the known one",
		"someone may be in between: ask who runs the host; if its key was changed on purpose, put the new one into known_hosts", problem.Denied},
	{"has been revoked", "its host key is marked as revoked", "ask who runs the host; then put its key in force into known_hosts", problem.Denied},
	{"Host key verification failed", "its host key is not known",
		"ask for the key's fingerprint where the host is run, compare it with that of `ssh-keyscan HOST | ssh-keygen -lf -`, and put the key into known_hosts", problem.Denied},
	{"Permission denied", "it does not let us in",
		"put the public key into ~/.ssh/authorized_keys there, and set identity: to the private key, which only its owner may read; a key with a passphrase needs an agent", problem.Denied},
	{"Too many authentication failures", "it does not let us in", "the agent offers too many keys: set identity: to the right one", problem.Denied},
	{"Could not resolve hostname", "its name is not known", "check the name in the configuration, and the DNS of this machine", problem.Unreachable},
	{"Bad configuration option", "ssh_config is at fault", "look at the line that ssh names", problem.Config},
	{"bad configuration options", "ssh_config is at fault", "look at the line that ssh names", problem.Config},
	{"Can't open user config file", "the file with the ssh configuration cannot be read", "check config: of the target", problem.Config},
	{"Bad owner or permissions", "ssh_config is at fault", "nobody but its owner may write to the file: chmod 600", problem.Config},
}

// silent explains why there is no answer of the script.
func (t *Target) silent(host Host, result Result) error {
	text := string(result.Stderr)
	said := shellfile.Shown(text)
	if result.Code == codeSSH {
		for _, cause := range causes {
			if strings.Contains(text, cause.words) {
				return problem.New(cause.kind, cause.hint, "connect to %s: %s: %s", host, cause.text, last(text))
			}
		}
		return problem.New(problem.Unreachable, "it is tried again; see what ssh says: ssh -v -o BatchMode=yes "+host.command()+" true", "connect to %s: %s", host, said)
	}
	if result.Code == codeNotRun || result.Code == codeNotFound {
		return problem.New(problem.Config, "the user needs a login shell that runs sh: ssh "+host.command()+" 'exec sh -c true' must end with 0",
			"%s has no sh to run: exit code %d: %s", host, result.Code, said)
	}
	return problem.New(problem.Config, "the user's login shell, or command= in authorized_keys, may not let other programs run: ssh "+host.command()+" 'exec sh -c true' must end with 0",
		"%s ran no script: exit code %d: %s", host, result.Code, said)
}

// last is the last line of a text, for people.
func last(text string) string {
	text = strings.TrimSpace(text)
	return shellfile.Shown(text[strings.LastIndexByte(text, '\n')+1:])
}
