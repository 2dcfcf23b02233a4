// Package runnerconfig is the target of GitLab runners: the variable
// DOCKER_AUTH_CONFIG in the environment of the [[runners]] of a config.toml.
//
// A running GitLab Runner reads the file again by itself when it has changed.
// With this variable it pulls job, service and helper images. The variable is
// also set inside the jobs, where docker from 28.3 on prefers it to docker login.
package runnerconfig

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
	document "github.com/regkeeper/regkeeper/runnerconfig"
)

// Variable is what GitLab Runner looks at first for a login, and what docker
// from 28.3 on does.
const Variable = "DOCKER_AUTH_CONFIG"

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
	text, _ := doc.Runners()[runner].Variable(Variable)
	if strings.TrimSpace(text) == "" {
		text = strict
	}
	config, err := dockerconfig.Parse([]byte(text))
	if err != nil {
		return nil, problem.Wrap(err, problem.Damaged, "repair the variable there, or take it out", "%s of runner %s", Variable, place)
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
			differs := false
			for _, host := range hosts {
				differs = config.Set(host, logins[host]) || differs
			}
			if !differs {
				continue
			}
			one, err := doc.SetVariable(i, Variable, string(config.Bytes()))
			if err != nil {
				return false, fmt.Errorf("%s: %w", t.config.Path, err)
			}
			changed = changed || one
		}
		return changed, nil
	})
	return err
}

// settle is how long a burst of changes is gathered.
const settle = 20 * time.Millisecond

// Watch tells of changes to the file's content. Its folder is watched, since
// GitLab Runner and editors replace the file; it fails if there is none. See
// [credential.Watcher].
func (t *Target) Watch(ctx context.Context, changed func(...credential.Place)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return disk.Problem(err, "watch files")
	}
	defer func() { _ = watcher.Close() }()
	folders := []string{filepath.Dir(t.config.Path)}
	if end, err := filepath.EvalSymlinks(t.config.Path); err == nil && filepath.Dir(end) != folders[0] {
		folders = append(folders, filepath.Dir(end))
	}
	for _, folder := range folders {
		if err := watcher.Add(folder); err != nil {
			return disk.Problem(err, "watch folder %s", folder)
		}
	}
	// What came before the watch began is not told of: a daemon looks then.
	before, _ := os.ReadFile(t.config.Path)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			return disk.Problem(err, "watch files")
		case <-watcher.Events:
		}
		burst := time.NewTimer(settle)
		for waiting := true; waiting; {
			select {
			case <-watcher.Events:
			case <-burst.C:
				waiting = false
			case <-ctx.Done():
				burst.Stop()
				return nil
			}
		}
		if now, _ := os.ReadFile(t.config.Path); !bytes.Equal(now, before) {
			before = now
			changed()
		}
	}
}
