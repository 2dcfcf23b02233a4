package dockerconfig_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/testkit/leaveout"
	"github.com/regkeeper/regkeeper/problem"
)

func deliver(f dockerconfig.File) (changed bool, err error) {
	return f.Update(context.Background(), func(doc *dockerconfig.Document) bool {
		return doc.Set("h", login("robot", "s3cret"))
	})
}

func mustDeliver(t testing.TB, f dockerconfig.File) {
	t.Helper()
	if changed, err := deliver(f); err != nil || !changed {
		t.Fatalf("Update says %v, %v", changed, err)
	}
	doc, err := f.Read()
	if err != nil {
		t.Fatal(err)
	}
	checkEntry(t, doc, "h", "robot", "s3cret")
}

func stat(t testing.TB, path string) (fs.FileInfo, *syscall.Stat_t) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info, info.Sys().(*syscall.Stat_t)
}

func root(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		leaveout.Out(t, "disks and other users", "needs root")
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestUpdateMakesFileAndFolders(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "b", ".docker", "config.json")
	if changed, err := (dockerconfig.File{Path: path}).Update(t.Context(), func(*dockerconfig.Document) bool { return false }); changed || err != nil {
		t.Fatalf("Update without a change says %v, %v", changed, err)
	}
	if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Update without a change made the folder: %v", err)
	}
	mustDeliver(t, dockerconfig.File{Path: path})
	for at, want := range map[string]fs.FileMode{path: 0o600, filepath.Dir(path): 0o700, filepath.Dir(filepath.Dir(path)): 0o700} {
		if info, _ := stat(t, at); info.Mode().Perm() != want {
			t.Errorf("mode of %s is %v, want %v", filepath.Base(at), info.Mode().Perm(), want)
		}
	}
	noTemps(t, filepath.Dir(path), "config.json")
}

func TestUnchangedIsNotWritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	mustDeliver(t, dockerconfig.File{Path: path})
	long := time.Now().Add(-time.Hour).Truncate(time.Second)
	must(t, os.Chtimes(path, long, long), os.Chmod(path, 0o644))
	before, inode := stat(t, path)
	if changed, err := deliver(dockerconfig.File{Path: path}); changed || err != nil {
		t.Errorf("Update says %v, %v", changed, err)
	}
	after, same := stat(t, path)
	if inode.Ino != same.Ino || !after.ModTime().Equal(before.ModTime()) || after.Mode() != before.Mode() {
		t.Errorf("an unchanged file became %v %v, was %v %v", after.Mode(), after.ModTime(), before.Mode(), before.ModTime())
	}
}

func TestMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, start)
	must(t, os.Chmod(path, 0o644))
	mustDeliver(t, dockerconfig.File{Path: path})
	if info, _ := stat(t, path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode 0 leaves %v when the content changes, want 0600", info.Mode())
	}
	_, before := stat(t, path)
	if changed, err := deliver(dockerconfig.File{Path: path, Mode: 0o640}); changed || err != nil {
		t.Errorf("Update says %v, %v", changed, err)
	}
	info, after := stat(t, path)
	if info.Mode().Perm() != 0o640 || before.Ino != after.Ino {
		t.Errorf("mode of an unchanged file is %v, want 0640 in place", info.Mode())
	}
	must(t, os.Remove(path))
	old := syscall.Umask(0o077)
	mustDeliver(t, dockerconfig.File{Path: path, Mode: 0o644})
	syscall.Umask(old)
	if info, _ := stat(t, path); info.Mode().Perm() != 0o644 {
		t.Errorf("mode of a new file is %v, want 0644", info.Mode())
	}
}

func TestOwner(t *testing.T) {
	root(t)
	for _, c := range []struct {
		name  string
		setup func(folder, path string) error
		owner *dockerconfig.Owner
		want  dockerconfig.Owner
	}{
		{"kept", func(_, p string) error {
			return errors.Join(os.WriteFile(p, []byte(start), 0o600), os.Chown(p, 12345, 12346))
		},
			nil, dockerconfig.Owner{UID: 12345, GID: 12346}},
		{"kept against Owner", func(_, p string) error {
			return errors.Join(os.WriteFile(p, []byte(start), 0o600), os.Chown(p, 12345, 12346))
		},
			&dockerconfig.Owner{UID: 7, GID: 7}, dockerconfig.Owner{UID: 12345, GID: 12346}},
		{"of the folder", func(folder, _ string) error { return os.Chown(folder, 12345, 12346) },
			nil, dockerconfig.Owner{UID: 12345, GID: 12346}},
		{"asked for", func(folder, _ string) error { return os.Chown(folder, 12345, 12346) },
			&dockerconfig.Owner{UID: 7, GID: 8}, dockerconfig.Owner{UID: 7, GID: 8}},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			path := filepath.Join(folder, "config.json")
			must(t, c.setup(folder, path))
			mustDeliver(t, dockerconfig.File{Path: path, Owner: c.owner})
			_, got := stat(t, path)
			if diff := cmp.Diff(c.want, dockerconfig.Owner{UID: int(got.Uid), GID: int(got.Gid)}); diff != "" {
				t.Errorf("owner (-want +got):\n%s", diff)
			}
			if c.name == "of the folder" {
				deep := filepath.Join(folder, "x", "y", "config.json")
				mustDeliver(t, dockerconfig.File{Path: deep})
				for _, at := range []string{deep, filepath.Dir(deep), filepath.Join(folder, "x")} {
					if _, got := stat(t, at); got.Uid != 12345 || got.Gid != 12346 {
						t.Errorf("%s belongs to %d:%d", filepath.Base(at), got.Uid, got.Gid)
					}
				}
			}
		})
	}
}

func TestLinksAreFollowed(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(folder string) error
		end   string
	}{
		{"link", func(f string) error {
			return errors.Join(os.WriteFile(filepath.Join(f, "real.json"), []byte(start), 0o600), os.Symlink("real.json", filepath.Join(f, "config.json")))
		}, "real.json"},
		{"absolute link", func(f string) error {
			return os.Symlink(filepath.Join(f, "real.json"), filepath.Join(f, "config.json"))
		}, "real.json"},
		{"link to nothing", func(f string) error { return os.Symlink("real.json", filepath.Join(f, "config.json")) }, "real.json"},
		{"link to nothing in no folder", func(f string) error { return os.Symlink("no/folder/real.json", filepath.Join(f, "config.json")) }, "no/folder/real.json"},
		{"chain", func(f string) error {
			return errors.Join(os.Symlink("b", filepath.Join(f, "config.json")), os.Symlink("./c", filepath.Join(f, "b")), os.Symlink("real.json", filepath.Join(f, "c")))
		}, "real.json"},
		{"link upward in a linked folder, to nothing", func(f string) error {
			return errors.Join(os.MkdirAll(filepath.Join(f, "deep/er"), 0o700), os.Symlink("deep/er", filepath.Join(f, "linked")),
				os.Symlink("../real.json", filepath.Join(f, "deep/er/config.json")))
		}, "deep/real.json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			must(t, c.setup(folder))
			path := filepath.Join(folder, "config.json")
			if _, err := os.Lstat(path); err != nil {
				path = filepath.Join(folder, "linked", "config.json")
			}
			mustDeliver(t, dockerconfig.File{Path: path})
			if info, _ := stat(t, path); info.Mode()&fs.ModeSymlink == 0 {
				t.Error("the link became a file")
			}
			if info, _ := stat(t, filepath.Join(folder, c.end)); !info.Mode().IsRegular() {
				t.Errorf("%s is %v", c.end, info.Mode())
			}
		})
	}
}

// checkStorage holds an error to kind, hint and silence.
func checkStorage(t testing.TB, err error, hint string) {
	t.Helper()
	if problem.KindOf(err) != problem.Storage || !strings.Contains(problem.HintOf(err), hint) {
		t.Errorf("error %v has kind %s and hint %q, want storage and %q", err, problem.KindOf(err), problem.HintOf(err), hint)
	}
	if err != nil && strings.Contains(err.Error(), marker) {
		t.Errorf("error %v quotes the document", err)
	}
}

func TestPlacesThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		name, hint string
		setup      func(folder string) error
	}{
		{"circle", "circle", func(f string) error {
			return errors.Join(os.Symlink("b", filepath.Join(f, "config.json")), os.Symlink("config.json", filepath.Join(f, "b")))
		}},
		{"link to itself", "circle", func(f string) error { return os.Symlink("config.json", filepath.Join(f, "config.json")) }},
		{"folder", "bind mount whose source is missing", func(f string) error { return os.Mkdir(filepath.Join(f, "config.json"), 0o700) }},
		{"link to a folder", "bind mount whose source is missing", func(f string) error {
			return errors.Join(os.Mkdir(filepath.Join(f, "d"), 0o700), os.Symlink("d", filepath.Join(f, "config.json")))
		}},
		{"named pipe", "", func(f string) error { return syscall.Mkfifo(filepath.Join(f, "config.json"), 0o600) }},
		{"device", "", func(f string) error { return os.Symlink("/dev/null", filepath.Join(f, "config.json")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := t.TempDir()
			must(t, c.setup(folder))
			before, err := os.ReadDir(folder)
			must(t, err)
			path := filepath.Join(folder, "config.json")
			_, err = deliver(dockerconfig.File{Path: path})
			checkStorage(t, err, c.hint)
			_, err = dockerconfig.File{Path: path}.Read()
			checkStorage(t, err, c.hint)
			after, err := os.ReadDir(folder)
			must(t, err)
			if len(after) != len(before) {
				t.Errorf("folder has %v, had %v", after, before)
			}
		})
	}
	t.Run("parent is a file", func(t *testing.T) {
		folder := t.TempDir()
		write(t, filepath.Join(folder, ".docker"), "x")
		for _, path := range []string{"config.json", "deeper/config.json"} {
			_, err := deliver(dockerconfig.File{Path: filepath.Join(folder, ".docker", path)})
			checkStorage(t, err, "a file stands where a folder is needed")
		}
		noTemps(t, folder, ".docker")
	})
}

func TestBrokenFileIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	broken := "{\n  \"auths\": {\"h\": {\"auth\": \"" + marker + "\"}},\n}"
	write(t, path, broken)
	before, inode := stat(t, path)
	_, err := deliver(dockerconfig.File{Path: path})
	checkDamaged(t, err)
	if !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "line 3, column 1") {
		t.Errorf("error is %v, want path and place", err)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	after, same := stat(t, path)
	if string(text) != broken || inode.Ino != same.Ino || !before.ModTime().Equal(after.ModTime()) {
		t.Error("the broken file was touched")
	}
	noTemps(t, filepath.Dir(path), "config.json")
}

// TestHugeFile: the file may be another user's, and the memory is not.
func TestHugeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, start)
	must(t, os.Truncate(path, 1<<30))
	before, inode := stat(t, path)
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	allocated, began := memory.TotalAlloc, time.Now()
	_, updateErr := deliver(dockerconfig.File{Path: path})
	_, readErr := dockerconfig.File{Path: path}.Read()
	for _, err := range []error{updateErr, readErr} {
		if problem.KindOf(err) != problem.Damaged || problem.HintOf(err) == "" || err.Error() != path+" is larger than 16 MiB" {
			t.Errorf("error is %v of kind %s, hint %q", err, problem.KindOf(err), problem.HintOf(err))
		}
	}
	if took := time.Since(began); took > 450*time.Millisecond {
		t.Errorf("it took %v: it was read again", took)
	}
	runtime.ReadMemStats(&memory)
	if used := memory.TotalAlloc - allocated; used > 128<<20 {
		t.Errorf("reading took %d MiB of memory", used>>20)
	}
	after, same := stat(t, path)
	if before.Size() != after.Size() || inode.Ino != same.Ino || !before.ModTime().Equal(after.ModTime()) {
		t.Error("the file was touched")
	}
	noTemps(t, filepath.Dir(path), "config.json")

	// The largest that is read.
	must(t, os.Truncate(path, 0), os.WriteFile(path, append([]byte(start), bytes.Repeat([]byte(" "), 16<<20-len(start))...), 0o600))
	if _, err := (dockerconfig.File{Path: path}).Read(); err != nil {
		t.Errorf("a file of 16 MiB: %v", err)
	}
}

// asNobody runs Update in another process, without rights.
func asNobody(t testing.TB, path string) (out string) {
	t.Helper()
	command := self(t, envUpdate+"=1", envPath+"="+path)
	if os.Geteuid() == 0 {
		// The binary may lie where nobody else may look.
		binary, err := os.Open(os.Args[0])
		must(t, err)
		t.Cleanup(func() { _ = binary.Close() })
		command.Path = "/proc/self/fd/3"
		command.ExtraFiles = []*os.File{binary}
		command.Dir = "/"
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	text, err := command.Output()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		leaveout.Out(t, "another user", "cannot run as one: "+err.Error())
	}
	return string(text)
}

// openFolder is a folder that every user can reach.
func openFolder(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	for at := folder; at != os.TempDir() && at != "/"; at = filepath.Dir(at) {
		must(t, os.Chmod(at, 0o755))
	}
	return folder
}

func TestWithoutRights(t *testing.T) {
	root(t)
	const hint = "storage|run regkeeper as a user who may write there, or as root|"
	t.Run("folder of another user", func(t *testing.T) {
		folder := openFolder(t)
		path := filepath.Join(folder, "config.json")
		if out := asNobody(t, path); !strings.HasPrefix(out, hint) {
			t.Errorf("it says %q", out)
		}
		write(t, path, start)
		must(t, os.Chmod(path, 0o666))
		if out := asNobody(t, path); !strings.HasPrefix(out, hint) {
			t.Errorf("with a file there it says %q", out)
		}
		text, err := os.ReadFile(path)
		must(t, err)
		if string(text) != start {
			t.Errorf("file became %q", text)
		}
		noTemps(t, folder, "config.json")
	})
	t.Run("file of another user", func(t *testing.T) {
		folder := openFolder(t)
		must(t, os.Chmod(folder, 0o777))
		path := filepath.Join(folder, "config.json")
		write(t, path, start)
		must(t, os.Chmod(path, 0o644))
		if out := asNobody(t, path); !strings.HasPrefix(out, hint) {
			t.Errorf("it says %q", out)
		}
		must(t, os.Chmod(path, 0o600))
		if out := asNobody(t, path); !strings.HasPrefix(out, hint) {
			t.Errorf("of a file it may not read it says %q", out)
		}
		noTemps(t, folder, "config.json")
	})
	t.Run("own folder", func(t *testing.T) {
		folder := openFolder(t)
		must(t, os.Chown(folder, 65534, 65534))
		if out := asNobody(t, filepath.Join(folder, "x", "config.json")); out != "" {
			t.Errorf("it says %q", out)
		}
	})
}

// TestLinksOfOthers has another user lead root astray.
func TestLinksOfOthers(t *testing.T) {
	root(t)
	const mallory = 12345
	setup := func(t *testing.T) (home, secret string) {
		folder := t.TempDir()
		home, secret = filepath.Join(folder, "home"), filepath.Join(folder, "root")
		must(t, os.Mkdir(home, 0o755), os.Mkdir(secret, 0o700), os.Chown(home, mallory, mallory))
		write(t, filepath.Join(secret, "config.json"), start)
		return home, secret
	}
	link := func(t *testing.T, to, at string) {
		must(t, os.Symlink(to, at), os.Lchown(at, mallory, mallory))
	}
	for name, c := range map[string]struct {
		lead func(t *testing.T, home, secret string)
		path string
	}{
		"file": {func(t *testing.T, h, s string) {
			link(t, filepath.Join(s, "config.json"), filepath.Join(h, "config.json"))
		}, "config.json"},
		"no file yet": {func(t *testing.T, h, s string) {
			link(t, filepath.Join(s, "new.json"), filepath.Join(h, "config.json"))
		}, "config.json"},
		"no folder yet": {func(t *testing.T, h, s string) {
			link(t, filepath.Join(s, "x/new.json"), filepath.Join(h, "config.json"))
		}, "config.json"},
		"folder":          {func(t *testing.T, h, s string) { link(t, s, filepath.Join(h, ".docker")) }, ".docker/config.json"},
		"folder, no file": {func(t *testing.T, h, s string) { link(t, s, filepath.Join(h, ".docker")) }, ".docker/new.json"},
		"behind root's link": {func(t *testing.T, h, s string) {
			must(t, os.Symlink("x.json", filepath.Join(h, "config.json")))
			link(t, filepath.Join(s, "config.json"), filepath.Join(h, "x.json"))
		}, "config.json"},
	} {
		t.Run(name, func(t *testing.T) {
			home, secret := setup(t)
			c.lead(t, home, secret)
			_, err := deliver(dockerconfig.File{Path: filepath.Join(home, c.path)})
			checkStorage(t, err, "link")
			_, err = dockerconfig.File{Path: filepath.Join(home, c.path)}.Read()
			checkStorage(t, err, "link")
			text, err := os.ReadFile(filepath.Join(secret, "config.json"))
			must(t, err)
			if string(text) != start {
				t.Errorf("root's file became %q", text)
			}
			noTemps(t, secret, "config.json")
		})
	}
	t.Run("to what is theirs", func(t *testing.T) {
		home, _ := setup(t)
		write(t, filepath.Join(home, "real.json"), start)
		must(t, os.Chown(filepath.Join(home, "real.json"), mallory, mallory))
		link(t, "real.json", filepath.Join(home, "config.json"))
		mustDeliver(t, dockerconfig.File{Path: filepath.Join(home, "config.json")})
		if _, got := stat(t, filepath.Join(home, "real.json")); got.Uid != mallory {
			t.Errorf("owner is %d", got.Uid)
		}
	})
}

// small mounts a file system of 64 KiB for the length of the test.
func small(t testing.TB, options string) string {
	t.Helper()
	root(t)
	folder := t.TempDir()
	if err := syscall.Mount("none", folder, "tmpfs", 0, options); err != nil {
		leaveout.Out(t, "a small disk", "cannot mount here: "+err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(folder, syscall.MNT_DETACH) })
	return folder
}

// fill uses up the file system.
func fill(t testing.TB, folder string) {
	t.Helper()
	file, err := os.Create(filepath.Join(folder, "fill"))
	must(t, err)
	defer func() { _ = file.Close() }()
	for {
		if _, err := file.Write(make([]byte, 4096)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			return
		}
	}
}

func TestFullDisk(t *testing.T) {
	folder := small(t, "size=64k")
	path := filepath.Join(folder, "config.json")
	write(t, path, start)
	fill(t, folder)
	_, err := deliver(dockerconfig.File{Path: path})
	checkStorage(t, err, "free some space")
	text, err := os.ReadFile(path)
	must(t, err)
	if string(text) != start {
		t.Errorf("file became %q", text)
	}
	noTemps(t, folder, "config.json", "fill")
}

// TestFullDiskBetween fills the disk at each call of edit, after another
// program wrote.
func TestFullDiskBetween(t *testing.T) {
	folder := small(t, "size=64k")
	path := filepath.Join(folder, "config.json")
	for at := 2; at <= 4; at++ {
		write(t, path, start)
		calls := 0
		_, err := dockerconfig.File{Path: path}.Update(t.Context(), func(doc *dockerconfig.Document) bool {
			calls++
			if calls == 2 {
				write(t, path, `{"auths":{"new":{}}}`)
			}
			if calls == at {
				fill(t, folder)
			}
			return doc.Set("h", login("robot", "s3cret"))
		})
		if calls < at {
			break
		}
		if err == nil {
			t.Errorf("full at edit %d, Update succeeds", at)
		}
		if got := hosts(t, path); !got["new"] || got["old"] {
			t.Errorf("full at edit %d, error %v: what another program wrote is lost: %v", at, err, got)
		}
		noTemps(t, folder, "config.json", "fill")
		must(t, os.Remove(filepath.Join(folder, "fill")))
	}
}

func TestReadOnlyFileSystem(t *testing.T) {
	folder := small(t, "size=64k")
	path := filepath.Join(folder, "config.json")
	mustDeliver(t, dockerconfig.File{Path: path})
	if err := syscall.Mount("none", folder, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		leaveout.Out(t, "a read-only disk", "cannot mount here: "+err.Error())
	}
	if changed, err := deliver(dockerconfig.File{Path: path}); changed || err != nil {
		t.Errorf("with nothing to write, Update says %v, %v", changed, err)
	}
	for _, p := range []string{path, filepath.Join(folder, "x", "config.json"), filepath.Join(folder, "new.json")} {
		_, err := dockerconfig.File{Path: p}.Update(t.Context(), func(doc *dockerconfig.Document) bool {
			return doc.Set("h", login("robot", "other"))
		})
		checkStorage(t, err, "mounted read-only")
	}
	noTemps(t, folder, "config.json")
}

// TestSizeLimit needs no mount: the process may not write files that long.
func TestSizeLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, start)
	shell, err := exec.LookPath("sh")
	if err != nil {
		leaveout.Out(t, "a limit of file sizes", "no shell")
	}
	command := self(t, envUpdate+"=1", envPath+"="+path)
	command.Args = []string{shell, "-c", `trap "" XFSZ; ulimit -f 8; exec "$0"`, os.Args[0]}
	command.Path = shell
	out, err := command.Output()
	if err == nil || !bytes.HasPrefix(out, []byte("storage|")) {
		t.Errorf("it says %q, %v", out, err)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	if string(text) != start {
		t.Errorf("file became %q", text)
	}
	noTemps(t, filepath.Dir(path), "config.json")
}

// TestCrashLeavesNothingForEver kills a writer again and again, ages what it
// left, and expects the next Update to clean up.
func TestLeftoversAreSwept(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "config.json")
	write(t, path, start)
	// A temporary file's name says when it was made, in seconds.
	write(t, filepath.Join(folder, ".config.json.regkeeper-1700000000-123"), "{}")
	write(t, filepath.Join(folder, ".config.json.regkeeper-9999999999-123"), "{}")
	write(t, filepath.Join(folder, ".config.json.bak"), "{}")
	write(t, filepath.Join(folder, ".other.json.regkeeper-1700000000-123"), "{}")
	mustDeliver(t, dockerconfig.File{Path: path})
	noTemps(t, folder, "config.json", ".config.json.bak", ".config.json.regkeeper-9999999999-123", ".other.json.regkeeper-1700000000-123")
}

// TestKilledWriter kills a process that writes all the time: the file is whole
// each time.
func TestKilledWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, start)
	for range 5 {
		command := self(t, envWriter+"=killed", envPath+"="+path)
		stdin, err := command.StdinPipe()
		must(t, err)
		before, _ := stat(t, path)
		must(t, command.Start())
		waitFor(t, func() bool {
			now, _ := stat(t, path)
			return !os.SameFile(before, now)
		})
		must(t, command.Process.Kill())
		_ = command.Wait()
		_ = stdin.Close()
		if got := hosts(t, path); !got["old"] || !got["out"] {
			t.Fatalf("logins are %v", got)
		}
	}
}

func TestRelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	mustDeliver(t, dockerconfig.File{Path: "config.json"})
	mustDeliver(t, dockerconfig.File{Path: "./a/../b/config.json"})
	noTemps(t, ".", "config.json", "b")
}

func TestContextEnds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	write(t, path, start)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := dockerconfig.File{Path: path}.Update(ctx, func(doc *dockerconfig.Document) bool {
		return doc.Set("h", login("robot", "s3cret"))
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	text, err := os.ReadFile(path)
	must(t, err)
	if string(text) != start {
		t.Errorf("file became %q", text)
	}
	noTemps(t, filepath.Dir(path), "config.json")
}
