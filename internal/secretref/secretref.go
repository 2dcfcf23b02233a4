// Package secretref owns references to secrets: where a secret is, in place of
// the secret. Configuration holds these and nothing else.
package secretref

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// Ref says where a secret is. Exactly one field is set.
type Ref struct {
	// Env is the name of an environment variable.
	Env string
	// File is the path of a file that holds the secret; one line break at its
	// end is not part of it. It is read anew each time.
	File string
	// Exec is a program with its arguments that prints the secret on standard
	// output; one line break at its end is not part of it.
	Exec []string
	// Secret is a key of a Kubernetes Secret, which Cluster reads; one line break
	// at its end is not part of it.
	Secret  ClusterKey
	Cluster ClusterReader
}

// ClusterKey is a key of a Kubernetes Secret.
type ClusterKey struct{ Namespace, Name, Key string }

// String is the key as configuration writes it.
func (k ClusterKey) String() string { return k.Namespace + "/" + k.Name + "/" + k.Key }

// ClusterReader reads Secrets of a cluster.
type ClusterReader interface {
	// Read returns a key's value. The error is a problem that holds nothing of
	// what was found.
	Read(ctx context.Context, key ClusterKey) (string, error)
}

// patience is how long output is awaited of a program that has ended.
const patience = time.Second

// maxSize bounds in bytes what is held in memory of a place that is none. The
// longest secrets, signed tokens, have a few KiB.
const maxSize = 64 << 10

// Resolve gets the secret. The error is a [problem.Error]; it holds nothing of
// what was found.
func (r Ref) Resolve(ctx context.Context) (credential.Secret, error) {
	text, err := r.read(ctx)
	if err != nil {
		return credential.Secret{}, err
	}
	text = strings.TrimSuffix(strings.TrimSuffix(text, "\n"), "\r")
	switch {
	case text == "":
		return credential.Secret{}, problem.New(problem.Config, "put the secret there", "%s is empty", r)
	case strings.ContainsAny(text, "\r\n\x00"):
		return credential.Secret{}, problem.New(problem.Config, "leave the secret alone there, on one line", "%s has more than one line", r)
	}
	return credential.NewSecret(text), nil
}

func (r Ref) read(ctx context.Context) (string, error) {
	switch {
	case r.Env != "":
		text, ok := os.LookupEnv(r.Env)
		if !ok {
			return "", problem.New(problem.Config, "set it in the environment regkeeper is started with", "%s is not set", r)
		}
		return text, nil
	case r.File != "":
		text, err := readFile(r.File)
		if errors.Is(err, errTooLong) {
			return "", r.tooLong()
		}
		return text, disk.Problem(err, "read secret")
	case len(r.Exec) > 0:
		var out limited
		command := exec.CommandContext(ctx, r.Exec[0], r.Exec[1:]...)
		command.Stdout = &out
		// What it starts may keep its standard output open.
		command.WaitDelay = patience
		// Its standard error may quote the secret; it goes nowhere.
		err := command.Run()
		if out.over {
			return "", r.tooLong()
		}
		if err != nil {
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				err = fmt.Errorf("exit code %d", exit.ExitCode())
			}
			return "", problem.Wrap(err, problem.Config, "run it by hand to see what it says", "run %s", r)
		}
		return out.text.String(), nil
	case r.Secret != ClusterKey{}:
		if r.Cluster == nil {
			return "", problem.New(problem.Config, "run regkeeper in a cluster, or with a kubeconfig", "%s: there is no cluster to read it from", r)
		}
		text, err := r.Cluster.Read(ctx, r.Secret)
		if len(text) > maxSize {
			return "", r.tooLong()
		}
		return text, err
	}
	return "", problem.New(problem.Config, "give one of env, file, secret or exec", "secret has no place to come from")
}

func (r Ref) tooLong() error {
	return problem.New(problem.Config, "leave the secret alone there", "%s holds more than %d KiB", r, maxSize>>10)
}

var errTooLong = errors.New("secret is too long")

func readFile(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	text, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if len(text) > maxSize {
		return "", errTooLong
	}
	return string(text), err
}

// limited keeps up to maxSize bytes, and refuses more: the program that writes
// them then finds its output closed.
type limited struct {
	text bytes.Buffer
	over bool
}

func (l *limited) Write(p []byte) (int, error) {
	if l.over = l.text.Len()+len(p) > maxSize; l.over {
		return 0, errTooLong
	}
	return l.text.Write(p)
}

// String names the place, never the secret. Of a program it gives the name
// alone, since arguments may be private.
func (r Ref) String() string {
	switch {
	case r.Env != "":
		return "environment variable " + r.Env
	case r.File != "":
		return "secret file " + r.File
	case len(r.Exec) > 0:
		return "secret program " + r.Exec[0]
	case r.Secret != ClusterKey{}:
		return "Kubernetes Secret " + r.Secret.String()
	}
	return "no secret"
}
