// Package file is the target of files on this machine: config.json of the
// Docker clients, and registries.yaml of K3s and RKE2.
package file

import (
	"cmp"
	"context"
	"errors"
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
	"github.com/regkeeper/regkeeper/k3sconfig"
	"github.com/regkeeper/regkeeper/problem"
)

// Format is what the files are.
type Format int

// The formats.
const (
	// Docker is config.json of the Docker clients.
	Docker Format = iota
	// K3s is registries.yaml of K3s and RKE2.
	K3s
)

// Config says which files.
type Config struct {
	Format Format
	// Paths are absolute paths of the files. A folder's name in one
	// may be a pattern as of [filepath.Match]: /home/*/.docker/config.json is
	// a file in every folder of /home, made where it does not exist.
	Paths []string
	// Literal takes the paths as they are written: none is a pattern.
	Literal bool
	// Owner is given the files and folders that are made. Nil means the owner
	// of the nearest folder that exists.
	Owner *disk.Owner
	// Mode are the files' permission bits; zero means 0600.
	Mode fs.FileMode
}

// Target delivers to files. A place is a path.
type Target struct{ config Config }

var _ credential.Watcher = (*Target)(nil)

// New makes the target. It touches nothing yet.
func New(config Config) *Target { return &Target{config: config} }

// Places lists the paths, patterns replaced by what matches.
func (t *Target) Places(context.Context) ([]credential.Place, error) {
	var places []credential.Place
	for _, path := range t.config.Paths {
		if t.config.Literal {
			places = append(places, credential.Place(filepath.Clean(path)))
			continue
		}
		paths, err := expand(path)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			places = append(places, credential.Place(p))
		}
	}
	slices.Sort(places)
	return slices.Compact(places), nil
}

// expand matches the part of a path up to its last pattern; what is behind
// that need not exist.
func expand(path string) ([]string, error) {
	parts := strings.Split(path, string(filepath.Separator))
	last := -1
	for i, part := range parts {
		if strings.ContainsAny(part, `*?[`) {
			last = i
		}
	}
	if last < 0 {
		return []string{filepath.Clean(path)}, nil
	}
	pattern := strings.Join(parts[:last+1], string(filepath.Separator))
	rest := filepath.Join(parts[last+1:]...)
	matches, err := filepath.Glob(pattern)
	if err != nil {
		return nil, problem.Wrap(err, problem.Config, "see the documentation of the file target for patterns", "path %s", path)
	}
	var paths []string
	for _, match := range matches {
		if rest == "" {
			paths = append(paths, match)
			continue
		}
		if info, err := os.Stat(match); err == nil && info.IsDir() {
			paths = append(paths, filepath.Join(match, rest))
		}
	}
	return paths, nil
}

// Held reads a file. It fails if a credential helper answers for one of the
// hosts: clients then never look at what is delivered.
func (t *Target) Held(_ context.Context, place credential.Place, hosts []credential.Host) (map[credential.Host]credential.Login, error) {
	var doc interface {
		Login(host credential.Host) (credential.Login, bool)
	}
	if t.config.Format == K3s {
		registries, err := t.registries(place).Read()
		if err != nil {
			return nil, err
		}
		doc = registries
	} else {
		config, err := t.file(place).Read()
		if err != nil {
			return nil, err
		}
		if err := config.Hidden(string(place), hosts); err != nil {
			return nil, err
		}
		doc = config
	}
	held := map[credential.Host]credential.Login{}
	for _, host := range hosts {
		if login, ok := doc.Login(host); ok {
			held[host] = login
		}
	}
	return held, nil
}

// Deliver merges the logins into a file. It fails, and writes nothing, if a
// credential helper answers for one of the hosts: a secret that nobody reads
// is better not there.
func (t *Target) Deliver(ctx context.Context, place credential.Place, logins map[credential.Host]credential.Login) error {
	hosts := slices.Sorted(maps.Keys(logins))
	if t.config.Format == K3s {
		_, err := t.registries(place).Update(ctx, func(doc *k3sconfig.Document) (changed bool, err error) {
			for _, host := range hosts {
				one, err := doc.Set(host, logins[host])
				if err != nil {
					return false, fmt.Errorf("%s: %w", place, err)
				}
				changed = changed || one
			}
			return changed, nil
		})
		return err
	}
	var refusal error
	_, err := t.file(place).Update(ctx, func(doc *dockerconfig.Document) (changed bool) {
		if refusal = doc.Hidden(string(place), hosts); refusal != nil {
			return false
		}
		for _, host := range hosts {
			changed = doc.Set(host, logins[host]) || changed
		}
		return changed
	})
	return cmp.Or(err, refusal)
}

func (t *Target) file(place credential.Place) dockerconfig.File {
	return dockerconfig.File{Path: string(place), Owner: t.config.Owner, Mode: t.config.Mode}
}

func (t *Target) registries(place credential.Place) disk.File[*k3sconfig.Document] {
	return k3sconfig.File(string(place), t.config.Mode, t.config.Owner)
}

// settle is how long a burst of changes is gathered.
const settle = 20 * time.Millisecond

// Watch tells of changes to the files: the folders are watched, since clients
// replace a file as a whole. A folder that does not exist yet is awaited in the
// nearest one that does.
func (t *Target) Watch(ctx context.Context, changed func(...credential.Place)) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return disk.Problem(err, "watch files")
	}
	defer func() { _ = watcher.Close() }()
	names, err := t.watchFolders(ctx, watcher)
	if err != nil {
		return err
	}
	for {
		for heard := false; !heard; {
			select {
			case <-ctx.Done():
				return nil
			case err := <-watcher.Errors:
				return disk.Problem(err, "watch files")
			case event := <-watcher.Events:
				heard = names[event.Name] && event.Op != fsnotify.Chmod
			}
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
		// Folders that came are watched before anyone looks into them, or what
		// comes after the look would be missed.
		if names, err = t.watchFolders(ctx, watcher); err != nil {
			return err
		}
		changed()
	}
}

// watchFolders watches what the places need, and nothing else. It returns the
// names whose changes matter: the files, the links that lead to them, the first
// missing folder on the way to each, and the watched folders themselves.
func (t *Target) watchFolders(ctx context.Context, watcher *fsnotify.Watcher) (names map[string]bool, err error) {
	for range watchRounds {
		var folders map[string]bool
		if names, folders, err = t.watched(ctx); err != nil {
			return nil, err
		}
		have := map[string]bool{}
		for _, folder := range watcher.WatchList() {
			have[folder] = true
			if !folders[folder] {
				_ = watcher.Remove(folder)
			}
		}
		added := false
		for folder := range folders {
			if have[folder] {
				continue
			}
			added = true
			if err := watcher.Add(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, disk.Problem(err, "watch folder %s", folder)
			}
		}
		if !added {
			return names, nil
		}
		// What came or went before the watch began is seen by looking again.
	}
	return names, nil
}

// watchRounds bounds how often folders that come and go are looked at again.
const watchRounds = 100

// watched lists the names whose changes matter, and the folders they are in.
func (t *Target) watched(ctx context.Context) (names, folders map[string]bool, err error) {
	places, err := t.Places(ctx)
	if err != nil {
		return nil, nil, err
	}
	names, folders = map[string]bool{}, map[string]bool{}
	for _, place := range places {
		for _, path := range links(string(place)) {
			folder := filepath.Dir(path)
			for folder != filepath.Dir(folder) {
				if info, err := os.Stat(folder); err == nil && info.IsDir() {
					break
				}
				path, folder = folder, filepath.Dir(folder)
			}
			folders[folder] = true
			names[path], names[folder] = true, true
		}
	}
	return names, folders, nil
}

// links lists a path and what it leads to, link by link.
func links(path string) []string {
	const limit = 40 // as for Linux
	list := []string{path}
	for range limit {
		link, err := os.Readlink(path)
		if err != nil {
			break
		}
		if !filepath.IsAbs(link) {
			folder := filepath.Dir(path)
			if real, err := filepath.EvalSymlinks(folder); err == nil {
				folder = real
			}
			link = filepath.Join(folder, link)
		}
		path = link
		list = append(list, path)
	}
	return list
}
