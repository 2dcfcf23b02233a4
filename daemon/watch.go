package daemon

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// configSettle is how long a burst of changes to the configuration is
// gathered: editors write a file in several steps.
const configSettle = 100 * time.Millisecond

// watchConfig begins to watch the configuration's files. The watch it returns
// reloads when the content of one changes, and is nil where there is nothing to
// watch. The folders are watched, since editors and Kubernetes replace a file
// as a whole.
func (d *Daemon) watchConfig() (watch func(context.Context) error, stop func()) {
	if len(d.config.Watched) == 0 {
		return nil, func() {}
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		d.config.Log.Warn("configuration is not watched: send SIGHUP to reload", "error", err)
		return nil, func() {}
	}
	seen := map[string][]byte{}
	for _, path := range d.config.Watched {
		if err := watcher.Add(filepath.Dir(path)); err != nil {
			d.config.Log.Warn("configuration is not watched: send SIGHUP to reload", "file", path, "error", err)
		}
		seen[path], _ = os.ReadFile(path)
	}
	return func(ctx context.Context) error { return d.watchFiles(ctx, watcher, seen) },
		func() { _ = watcher.Close() }
}

func (d *Daemon) watchFiles(ctx context.Context, watcher *fsnotify.Watcher, seen map[string][]byte) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-watcher.Errors:
			d.config.Log.Warn("watch of the configuration", "error", err)
			continue
		case <-watcher.Events:
		}
		settled := time.NewTimer(configSettle)
		for waiting := true; waiting; {
			select {
			case <-watcher.Events:
			case <-settled.C:
				waiting = false
			case <-ctx.Done():
				settled.Stop()
				return nil
			}
		}
		for path, before := range seen {
			// A file that is gone for a moment is about to be replaced.
			if now, err := os.ReadFile(path); err == nil && !bytes.Equal(now, before) {
				seen[path] = now
				d.Reload()
			}
		}
	}
}
