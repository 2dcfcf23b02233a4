// Package filewatch owns hearing of changes to files that others replace as a whole,
// and that need not exist yet.
//
// It refuses to say what has changed: it has its caller look again.
package filewatch

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// settle is how long a burst of changes is gathered.
const settle = 20 * time.Millisecond

// Paths are the absolute paths of the files that count; they are asked for anew after
// each change. An error ends the watch.
type Paths func(ctx context.Context) ([]string, error)

// Watch calls changed after each burst of changes to the files: the folders are
// watched, since programs replace a file as a whole. A folder that does not exist yet
// is awaited in the nearest one that does. Of permissions alone it tells nothing.
//
// It returns nil when ctx ends, the error of paths, or a problem of kind
// [problem.Storage].
func Watch(ctx context.Context, paths Paths, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return disk.Problem(err, "watch files")
	}
	defer func() { _ = watcher.Close() }()
	names, err := watchFolders(ctx, watcher, paths)
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
		if names, err = watchFolders(ctx, watcher, paths); err != nil {
			return err
		}
		changed()
	}
}

// watchFolders watches what the paths need, and nothing else. It returns the
// names whose changes matter: the files, the links that lead to them, the first
// missing folder on the way to each, and the watched folders themselves.
func watchFolders(ctx context.Context, watcher *fsnotify.Watcher, paths Paths) (names map[string]bool, err error) {
	for range watchRounds {
		var folders map[string]bool
		if names, folders, err = watched(ctx, paths); err != nil {
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
func watched(ctx context.Context, paths Paths) (names, folders map[string]bool, err error) {
	files, err := paths(ctx)
	if err != nil {
		return nil, nil, err
	}
	names, folders = map[string]bool{}, map[string]bool{}
	for _, file := range files {
		for _, path := range links(filepath.Clean(file)) {
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
