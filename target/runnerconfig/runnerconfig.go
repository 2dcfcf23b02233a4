// Package runnerconfig is the target of GitLab runners: the variable
// DOCKER_AUTH_CONFIG in the environment of the [[runners]] of a config.toml.
//
// A running GitLab Runner reads the file again by itself when it has changed.
// With this variable it pulls job, service and helper images. The variable is
// also set inside the jobs, where docker from 28.3 on prefers it to docker login.
package runnerconfig

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/internal/filewatch"
	"github.com/regkeeper/regkeeper/problem"
	document "github.com/regkeeper/regkeeper/runnerconfig"
)

// strict is the one form that docker's parser of the variable takes, without a
// login: "auths" alone (docker/cli, cli/config/configfile, getEnvConfig).
const strict = `{"auths":{}}`

// Config says which runners.
type Config struct {
	// Path is the absolute path of the config.toml.
	Path string
	// Runners are names, as under "name" of each [[runners]]; none means all.
	Runners []string
	// Mode are the file's permission bits; zero means 0600.
	Mode fs.FileMode
	// Owner is given a file made anew. Nil means the folder's owner.
	Owner *disk.Owner
}

// Target delivers to runners. A place is a runner's name in its file. Runners
// with one name are one place: they hold what all of them hold.
type Target struct{ config Config }

var _ credential.Watcher = (*Target)(nil)

// New makes the target. It touches nothing yet.
func New(config Config) *Target { return &Target{config: config} }

func (t *Target) file() disk.File[*document.Document] {
	return document.File(t.config.Path, t.config.Mode, t.config.Owner)
}

// place is the name of the place of a runner.
func (t *Target) place(name string) credential.Place {
	return credential.Place(t.config.Path + "#" + name)
}

// Places lists the runners in the order of their names. The error is of kind
// [problem.NotFound] if one that was named is not in the file: what a place that
// nobody finds holds is not known.
func (t *Target) Places(context.Context) ([]credential.Place, error) {
	doc, err := t.file().Read()
	if err != nil {
		return nil, err
	}
	there := map[string]bool{}
	for _, r := range doc.Runners() {
		there[r.Name] = true
	}
	names := slices.Sorted(maps.Keys(there))
	if len(t.config.Runners) > 0 {
		for _, name := range t.config.Runners {
			if !there[name] {
				return nil, problem.New(problem.NotFound, "the runners there are: "+strings.Join(names, ", "), "%s has no runner %q", t.config.Path, name)
			}
		}
		names = slices.Compact(slices.Sorted(slices.Values(t.config.Runners)))
	}
	places := make([]credential.Place, len(names))
	for i, name := range names {
		places[i] = t.place(name)
	}
	return places, nil
}

// runners are those of a place, by their number in the file.
func (t *Target) runners(doc *document.Document, place credential.Place) ([]int, error) {
	var found []int
	for i, r := range doc.Runners() {
		if t.place(r.Name) == place {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("runner %s: %w", place, credential.ErrGone)
	}
	return found, nil
}

// auths is the document in a runner's variable. The error is a problem of kind
// [problem.Damaged] that does not quote it.
func auths(doc *document.Document, runner int, place credential.Place) (*dockerconfig.Document, error) {
	text, _ := doc.Runners()[runner].Variable(credential.AuthVariable)
	if strings.TrimSpace(text) == "" {
		text = strict
	}
	config, err := dockerconfig.Parse([]byte(text))
	if err != nil {
		return nil, problem.Wrap(err, problem.Damaged, "repair the variable there, or take it out", "%s of runner %s", credential.AuthVariable, place)
	}
	return config, nil
}

// Held reads the variable. It fails if a credential helper answers for one of
// the hosts there: the runner then never looks at what is delivered.
func (t *Target) Held(_ context.Context, place credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	doc, err := t.file().Read()
	if err != nil {
		return nil, err
	}
	runners, err := t.runners(doc, place)
	if err != nil {
		return nil, err
	}
	held := map[credential.Host]credential.Login{}
	for n, i := range runners {
		config, err := auths(doc, i, place)
		if err != nil {
			return nil, err
		}
		if err := config.Hidden(string(place), hosts); err != nil {
			return nil, err
		}
		for _, host := range hosts {
			login, ok := config.Login(host)
			switch {
			case n == 0 && ok:
				held[host] = login
			case n > 0 && (!ok || !held[host].Equal(login)):
				delete(held, host)
			}
		}
	}
	return held, nil
}

// Deliver merges the logins into the variable. It fails, and writes nothing, if
// a credential helper answers for one of the hosts there.
func (t *Target) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	hosts := slices.Sorted(maps.Keys(logins))
	_, err := t.file().Update(ctx, func(doc *document.Document) (changed bool, err error) {
		runners, err := t.runners(doc, place)
		if err != nil {
			return false, err
		}
		for _, i := range runners {
			config, err := auths(doc, i, place)
			if err != nil {
				return false, err
			}
			if err := config.Hidden(string(place), hosts); err != nil {
				return false, err
			}
			if !config.Merge(logins) {
				continue
			}
			one, err := doc.SetVariable(i, credential.AuthVariable, string(config.Bytes()))
			if err != nil {
				return false, fmt.Errorf("%s: %w", t.config.Path, err)
			}
			changed = changed || one
		}
		return changed, nil
	})
	return err
}

// Watch tells of changes to the file: see [filewatch.Watch]. It fails if there is no
// folder for the file.
func (t *Target) Watch(ctx context.Context, changed func(...credential.Place)) error {
	folder := filepath.Dir(t.config.Path)
	if _, err := os.Stat(folder); err != nil {
		return disk.Problem(err, "watch folder %s", folder)
	}
	paths := func(context.Context) ([]string, error) { return []string{t.config.Path}, nil }
	return filewatch.Watch(ctx, paths, func() { changed() })
}
