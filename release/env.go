package release

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/joho/godotenv"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// Env is what a deploy folder's files of variables say (registry.env,
// cluster.env).
type Env struct {
	Registry  credential.Host
	Namespace string
	Username  string
	Token     credential.Secret
	// Latest is PUSH_LATEST_TAG; it is false where nothing says it.
	Latest bool
	// Notes are for people: what was not understood, and who else can read the
	// token. They hold no value of any variable.
	Notes []string
}

// The variables.
const (
	envRegistry  = "REGISTRY"
	envNamespace = "REGISTRY_NAMESPACE"
	envUsername  = "REGISTRY_USERNAME"
	envToken     = "REGISTRY_TOKEN"
	envLatest    = "PUSH_LATEST_TAG"
)

// Repository is that of an image's name: REGISTRY/REGISTRY_NAMESPACE/name.
func (e Env) Repository(name string) (image.Repository, error) {
	if e.Registry == "" {
		return image.Repository{}, problem.New(problem.Config, "set REGISTRY", "the registry of %s is not known", name)
	}
	parts := []string{string(e.Registry), e.Namespace, name}
	return image.ParseRepository(strings.Join(slices.DeleteFunc(parts, func(part string) bool { return part == "" }), "/"))
}

// Login is the login of the file; false if it has none.
func (e Env) Login() (credential.Login, bool) {
	return credential.Login{Username: e.Username, Secret: e.Token}, !e.Token.Empty()
}

// ReadEnv reads files of lines NAME=value, as a shell sources them. A variable of
// a later file counts. Of the files, tracked says which git keeps; nil is for none.
// Variables that it does not know are named in the notes, and else ignored.
//
// The error is a [problem.Error]. It holds nothing of what a file says: a line
// that cannot be read may be a token.
func ReadEnv(ctx context.Context, tracked func(ctx context.Context, path string) (bool, error), paths ...string) (Env, error) {
	var env Env
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			return Env{}, disk.Problem(err, "read %s", path)
		}
		values, err := godotenv.Parse(bytes.NewReader(raw))
		if err != nil {
			// Its text quotes the file.
			return Env{}, problem.New(problem.Config, "write one NAME=value a line, quoted as for a shell", "%s cannot be read", path)
		}
		if err := env.take(path, values); err != nil {
			return Env{}, err
		}
		if values[envToken] == "" {
			continue
		}
		if err := env.guard(ctx, tracked, path); err != nil {
			return Env{}, err
		}
	}
	return env, nil
}

func (e *Env) take(path string, values map[string]string) error {
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		value := values[name]
		switch name {
		case envRegistry:
			host, err := credential.ParseHost(value)
			if err != nil {
				return problem.Wrap(err, problem.Config, "write host or host:port", "%s of %s", name, path)
			}
			e.Registry = host
		case envNamespace:
			e.Namespace = strings.Trim(value, "/")
		case envUsername:
			e.Username = value
		case envToken:
			if value == "" {
				e.Notes = append(e.Notes, fmt.Sprintf("%s: %s is empty", path, name))
			}
			e.Token = credential.NewSecret(value)
		case envLatest:
			latest, err := strconv.ParseBool(strings.ToLower(value))
			if err != nil {
				return problem.New(problem.Config, "write true or false", "%s of %s is neither true nor false", name, path)
			}
			e.Latest = latest
		default:
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		e.Notes = append(e.Notes, fmt.Sprintf("%s: not used here: %s", path, strings.Join(unknown, ", ")))
	}
	return nil
}

// guard notes who else can read the token of a file.
func (e *Env) guard(ctx context.Context, tracked func(context.Context, string) (bool, error), path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return disk.Problem(err, "read %s", path)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		e.Notes = append(e.Notes, fmt.Sprintf("%s: others can read the token (mode %#o): chmod 600 %s", path, mode, path))
	}
	if tracked == nil {
		return nil
	}
	full, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	kept, err := tracked(ctx, full)
	if err != nil {
		return err
	}
	if kept {
		e.Notes = append(e.Notes, fmt.Sprintf("%s: git keeps the token in its history: revoke it, `git rm --cached` the file and ignore it", path))
	}
	return nil
}
