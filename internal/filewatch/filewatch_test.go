package filewatch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/internal/filewatch"
)

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// watch watches a path until the test ends. What it returns is told of each change.
func watch(t *testing.T, path string) <-chan struct{} {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	calls, ended := make(chan struct{}, 1000), make(chan error, 1)
	go func() {
		ended <- filewatch.Watch(ctx, func(context.Context) ([]string, error) { return []string{path}, nil }, func() { calls <- struct{}{} })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the watch ended with %v", err)
		}
	})
	return calls
}

// told repeats a change until it is told of: the watch begins some time after it was
// asked for.
func told(t *testing.T, calls <-chan struct{}, what string, change func(n int)) {
	t.Helper()
	for n := range 500 {
		change(n)
		select {
		case <-calls:
			for len(calls) > 0 {
				<-calls
			}
			return
		case <-time.After(50 * time.Millisecond):
		}
	}
	t.Fatalf("%s is not told of", what)
}

func TestWatch(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	path := filepath.Join(folder, "file")
	calls := watch(t, folder+"/./x/..//file")
	told(t, calls, "a file that is made", func(int) {
		must(t, os.RemoveAll(path), os.WriteFile(path, nil, 0o600))
	})
	told(t, calls, "a file that is replaced", func(n int) {
		must(t, os.WriteFile(path+".tmp", fmt.Append(nil, n), 0o600), os.Rename(path+".tmp", path))
	})
	told(t, calls, "a folder that is replaced", func(int) {
		must(t, os.RemoveAll(folder), os.Mkdir(folder, 0o700))
	})
	told(t, calls, "a file in that folder", func(n int) {
		must(t, os.WriteFile(path, fmt.Append(nil, n), 0o600))
	})
}

// A ConfigMap is mounted so: the file is a link through a link of its folder, which
// is replaced (Kubernetes, pkg/volume/util, AtomicWriter).
func TestWatchMountedConfigMap(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	put := func(n int) {
		to := fmt.Sprint("..", n)
		must(t, os.MkdirAll(filepath.Join(folder, to), 0o700), os.WriteFile(filepath.Join(folder, to, "file"), fmt.Append(nil, n), 0o600))
		_ = os.Remove(filepath.Join(folder, "..tmp"))
		must(t, os.Symlink(to, filepath.Join(folder, "..tmp")), os.Rename(filepath.Join(folder, "..tmp"), filepath.Join(folder, "..data")))
	}
	put(1000)
	path := filepath.Join(folder, "file")
	must(t, os.Symlink("..data/file", path))
	calls := watch(t, path)
	for range 3 {
		told(t, calls, "a ConfigMap that changed", put)
	}
}

func TestWatchEndsWithItsPaths(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	err := filewatch.Watch(t.Context(), func(context.Context) ([]string, error) { return nil, broken }, nil)
	if !errors.Is(err, broken) {
		t.Errorf("the watch ended with %v", err)
	}
}
