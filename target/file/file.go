// Package file is the target of files on this machine: config.json of the
// Docker clients, and registries.yaml of K3s and RKE2.
package file

import (
	"cmp"
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
		return doc.Merge(logins)
	})
	return cmp.Or(err, refusal)
}

func (t *Target) file(place credential.Place) dockerconfig.File {
	return dockerconfig.File{Path: string(place), Owner: t.config.Owner, Mode: t.config.Mode}
}

func (t *Target) registries(place credential.Place) disk.File[*k3sconfig.Document] {
	return k3sconfig.File(string(place), t.config.Mode, t.config.Owner)
}

// Watch tells of changes to the files: see [filewatch.Watch].
func (t *Target) Watch(ctx context.Context, changed func(...credential.Place)) error {
	return filewatch.Watch(ctx, func(ctx context.Context) ([]string, error) {
		places, err := t.Places(ctx)
		paths := make([]string, len(places))
		for i, place := range places {
			paths[i] = string(place)
		}
		return paths, err
	}, func() { changed() })
}
