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

// watchConfig reloads when the content of a watched file changes. The folders
// are watched, since editors and Kubernetes replace a file as a whole.
func (d *Daemon) watchConfig(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		d.config.Log.Warn("configuration is not watched: send SIGHUP to reload", "error", err)
		return nil
	}
	defer func() { _ = watcher.Close() }()
	seen := map[string][]byte{}
	for _, path := range d.config.Watched {
		seen[path], _ = os.ReadFile(path)
		if err := watcher.Add(filepath.Dir(path)); err != nil {
			d.config.Log.Warn("configuration is not watched: send SIGHUP to reload", "file", path, "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watcher.Errors:
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
