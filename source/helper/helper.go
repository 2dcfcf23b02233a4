// Package helper is the source of logins that a credential helper gives: any
// docker-credential-* program, by the protocol of docker-credential-helpers. It
// mints nothing; when the helper gives another login, the login is another one.
//
// It refuses identity tokens, which no consumer but the docker CLI takes, and to
// show anything that a helper printed: it may hold the secret.
package helper

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/problem"
)

// Config says which program is asked, and for what.
type Config struct {
	// Program is the helper as config.json names it, without the
	// docker-credential- before it (pass, ecr-login), which is then looked for
	// on PATH; or the absolute path of a program.
	Program string
	// ServerURL is what the helper is asked for. Empty stands for the key of the
	// registry in a config.json, by which the docker CLI asks too.
	ServerURL string
	// Timeout bounds one run of the program; zero stands for 30 seconds.
	Timeout time.Duration
	// Salt makes the login's ID useless for guessing the secret; the instance
	// id.
	Salt string
}

// Source gives the login that a helper has.
type Source struct{ config Config }

var _ credential.Source = (*Source)(nil)

// ErrNotFound is in the chain of an error when the helper works, and has no
// login for the registry.
var ErrNotFound = errors.New("the helper has no login for the registry")

const (
	// prefix is what the names of helpers begin with: credentials.go of the
	// docker CLI's native store.
	prefix = "docker-credential-"
	// tokenUsername stands for a secret that is an identity token: README of
	// docker-credential-helpers.
	tokenUsername  = "<token>"
	defaultTimeout = 30 * time.Second
	// patience is how long output is awaited of a program that has ended.
	patience = time.Second
	// maxSize bounds in bytes what is read of an answer. The longest secrets,
	// signed tokens, have a few KiB.
	maxSize = 64 << 10
)

// New makes the source. It runs nothing yet.
func New(config Config) *Source {
	config.Timeout = cmp.Or(config.Timeout, defaultTimeout)
	return &Source{config: config}
}

// Issue returns the login as the helper gives it now; see [credential.Source].
// [ErrNotFound] may be in the error's chain. Which scopes it has is for
// verification to find out.
func (s *Source) Issue(ctx context.Context, req credential.Request) (credential.Credential, error) {
	path, err := s.find()
	if err != nil {
		return credential.Credential{}, err
	}
	key := cmp.Or(s.config.ServerURL, req.Host.Key())
	limited, cancel := context.WithTimeout(ctx, s.config.Timeout)
	defer cancel()
	run := &program{ctx: limited, path: path, out: output{full: cancel}}
	got, err := client.Get(func(args ...string) client.Program { run.args = args; return run }, key)
	if err != nil {
		// The client's error quotes what the helper printed.
		return credential.Credential{}, s.explain(ctx, run, credentials.IsErrCredentialsNotFound(err), key)
	}
	switch {
	case got.Username == tokenUsername:
		return credential.Credential{}, problem.Wrap(credential.ErrUnsupported, problem.Config,
			"log in with a user name and a password or an access token, so that the helper has these",
			"helper %s has an identity token for %s", s.config.Program, key)
	case got.Username == "" && got.Secret == "":
		return credential.Credential{}, s.notFound(key)
	case got.Username == "" || got.Secret == "":
		return credential.Credential{}, problem.New(problem.Config, "log in again with that helper", "helper %s has half a login for %s", s.config.Program, key)
	}
	secret := credential.NewSecret(got.Secret)
	id := "helper-" + got.Username + "-" + s.mark(got.Username, secret)
	return credential.Credential{ID: id, Name: id, Host: req.Host, Username: got.Username, Secret: secret, Scopes: req.Scopes}, nil
}

// find looks for the program. One in the working folder is not found by name.
func (s *Source) find() (string, error) {
	name := s.config.Program
	if name == "" {
		return "", problem.New(problem.Config, "name the helper, for example pass", "no credential helper is named")
	}
	if filepath.IsAbs(name) {
		path, err := exec.LookPath(name)
		return path, problem.Wrap(err, problem.Config, "check the path, and that the file may be run", "find helper %s", name)
	}
	if strings.ContainsAny(name, `/\`) {
		return "", problem.New(problem.Config, "give the helper's name or an absolute path", "helper %s", name)
	}
	name = prefix + strings.TrimPrefix(name, prefix)
	path, err := exec.LookPath(name)
	return path, problem.Wrap(err, problem.Config, "install it, or put it on the PATH that regkeeper is started with", "find helper %s", name)
}

// mark is a name for the login: the first eight hex digits of HMAC-SHA-256 (RFC
// 2104) with the salt as its key. 32 bits tell logins apart.
func (s *Source) mark(username string, secret credential.Secret) string {
	sum := hmac.New(sha256.New, []byte(s.config.Salt))
	_, _ = fmt.Fprintf(sum, "%q", username)
	_, _ = io.WriteString(sum, secret.Reveal())
	return hex.EncodeToString(sum.Sum(nil)[:4])
}

var (
	errTimeout  = errors.New("it took too long")
	errTooLong  = errors.New("it printed too much")
	errNoAnswer = errors.New("it printed no login")
)

func (s *Source) notFound(key string) error {
	return problem.Wrap(ErrNotFound, problem.NotFound,
		"log in there with the docker CLI, or set the server URL under which the helper has the login (its list command tells)",
		"ask helper %s for %s", s.config.Program, key)
}

// explain makes a problem of a run that gave no login, without what was printed.
func (s *Source) explain(ctx context.Context, run *program, missing bool, key string) error {
	what := fmt.Sprintf("ask helper %s for %s", s.config.Program, key)
	hint := fmt.Sprintf("run it by hand to see what it says: echo %s | %s get", key, run.path)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case run.out.over:
		return problem.Wrap(errTooLong, problem.Config, hint, "%s", what)
	case run.ctx.Err() != nil:
		return problem.Wrap(errTimeout, problem.Unreachable, "it may wait for somebody to unlock it; "+hint, "%s: ended after %s", what, s.config.Timeout)
	case missing:
		return s.notFound(key)
	case errors.As(run.err, &exit):
		return problem.Wrap(fmt.Errorf("exit code %d", exit.ExitCode()), problem.Config, hint, "%s", what)
	case run.err != nil:
		return problem.Wrap(run.err, problem.Config, hint, "%s", what)
	}
	return problem.Wrap(errNoAnswer, problem.Config, hint, "%s", what)
}

// program is one run of a helper.
type program struct {
	ctx  context.Context
	path string
	args []string
	in   io.Reader
	out  output
	err  error
}

var _ client.Program = (*program)(nil)

// Input sets what the program reads.
func (p *program) Input(in io.Reader) { p.in = in }

// Output runs the program, and returns what it printed on standard output. Its
// standard error may quote a secret; it goes nowhere.
func (p *program) Output() ([]byte, error) {
	command := exec.CommandContext(p.ctx, p.path, p.args...)
	command.Stdin, command.Stdout = p.in, &p.out
	// What it starts may keep its standard output open.
	command.WaitDelay = patience
	p.err = command.Run()
	return p.out.text.Bytes(), p.err
}

// output keeps up to maxSize bytes. At more it calls full: a program that does
// not mind that its output is closed has to be ended.
type output struct {
	text bytes.Buffer
	over bool
	full func()
}

func (o *output) Write(b []byte) (int, error) {
	if o.over = o.over || o.text.Len()+len(b) > maxSize; o.over {
		o.full()
		return 0, errTooLong
	}
	return o.text.Write(b)
}
