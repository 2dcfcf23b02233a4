package disk_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

func TestWriteFile(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "file")
	for _, c := range []struct {
		content string
		mode    fs.FileMode
	}{{"one", 0o600}, {"", 0o600}, {"two\x00", 0o644}, {strings.Repeat("x", 1<<20), 0o600}} {
		if err := disk.WriteFile(path, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != c.content {
			t.Errorf("file holds %.20q, %v", got, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != c.mode {
			t.Errorf("mode is %v, %v", info.Mode(), err)
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("folder has %v, %v", left, err)
	}
}

func TestReadersSeeWholeFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	a, b := strings.Repeat("a", 10000), strings.Repeat("b", 20000)
	if err := disk.WriteFile(path, []byte(a), 0o600); err != nil {
		t.Fatal(err)
	}
	var reader sync.WaitGroup
	stop := make(chan struct{})
	reader.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != a && string(got) != b {
				t.Errorf("a reader finds %d bytes, %v", len(got), err)
				return
			}
		}
	})
	for i := range 40 {
		if err := disk.WriteFile(path, []byte([]string{b, a}[i%2]), 0o600); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	reader.Wait()
}

func TestWriteFileFails(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := disk.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{filepath.Join(folder, "none", "x"), filepath.Join(file, "x"), folder, ""} {
		err := disk.WriteFile(path, []byte("x"), 0o600)
		if problem.KindOf(err) != problem.Storage || problem.HintOf(err) == "" {
			t.Errorf("%q: error %v has kind %s and hint %q", path, err, problem.KindOf(err), problem.HintOf(err))
		}
	}
	if left, err := os.ReadDir(folder); err != nil || len(left) != 1 {
		t.Errorf("folder has %v, %v", left, err)
	}
}

func TestProblemNamesThePathOnce(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{&fs.PathError{Op: "open", Path: "/p", Err: fs.ErrPermission}, "write /p: permission denied"},
		{&os.LinkError{Op: "rename", Old: "/t", New: "/p", Err: fs.ErrPermission}, "write /p: permission denied"},
		{&fs.PathError{Op: "open", Path: "/other", Err: fs.ErrPermission}, "write /p: open /other: permission denied"},
		{fmt.Errorf("twice: %w", &fs.PathError{Op: "open", Path: "/p", Err: fs.ErrPermission}), "write /p: twice: open /p: permission denied"},
		{fs.ErrPermission, "write /p: permission denied"},
	} {
		if got := disk.Problem(c.err, "write %s", "/p"); got.Error() != c.want || !errors.Is(got, fs.ErrPermission) {
			t.Errorf("%v becomes %q, want %q", c.err, got, c.want)
		}
	}
}

func TestProblem(t *testing.T) {
	if err := disk.Problem(nil, "x"); err != nil {
		t.Errorf("of nil it makes %#v", err)
	}
	seen := map[string]error{}
	for _, cause := range []error{
		syscall.ENOSPC, syscall.EROFS, syscall.EISDIR, syscall.ELOOP, fs.ErrPermission, syscall.ENOTDIR, fs.ErrNotExist, errors.New("other"),
	} {
		err := disk.Problem(&fs.PathError{Op: "open", Path: "p", Err: cause}, "write %s", "p")
		if problem.KindOf(err) != problem.Storage || !errors.Is(err, cause) || err.Error() != "write p: "+cause.Error() {
			t.Errorf("%v becomes %v of kind %s", cause, err, problem.KindOf(err))
		}
		hint := problem.HintOf(err)
		if other, ok := seen[hint]; ok || hint == "" {
			t.Errorf("%v and %v have the same hint %q", cause, other, hint)
		}
		seen[hint] = cause
	}
	for one, other := range map[error]error{syscall.EACCES: fs.ErrPermission, syscall.EPERM: fs.ErrPermission, syscall.ENOENT: fs.ErrNotExist, syscall.EDQUOT: syscall.ENOSPC} {
		if a, b := problem.HintOf(disk.Problem(one, "x")), problem.HintOf(disk.Problem(other, "x")); a != b {
			t.Errorf("hints of %v and %v differ: %q and %q", one, other, a, b)
		}
	}
}
