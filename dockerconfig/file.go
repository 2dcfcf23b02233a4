package dockerconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// File is a config.json on disk.
type File struct {
	// Path is where the file is. A symbolic link is followed, also one whose
	// end does not exist yet.
	Path string
	// Mode is the file's permission bits. Zero means 0600 whenever the content
	// changes, and leaves an unchanged file's bits alone.
	Mode fs.FileMode
	// Owner is whom a file made anew, and the folders made for it, are given
	// to. Nil means the owner of the nearest folder that exists. A file that
	// exists keeps its owner.
	Owner *Owner
}

// Owner is a user and group by number.
type Owner struct{ UID, GID int }

const (
	// settle is how long a document that cannot be parsed is read again: a
	// writer that truncates in place shows half a document for a moment.
	settle      = 250 * time.Millisecond
	settlePause = 10 * time.Millisecond
	// rounds bounds how often a change is carried over another writer's.
	rounds = 100
	// lockWait is how long a lock is waited for. The lock spares regkeeper's
	// own writers rounds; nothing is lost without it.
	lockWait = 5 * time.Second

	tempMark = ".regkeeper-"
	// tempAge is when a temporary file counts as left behind by a crash.
	tempAge = time.Minute

	privateMode fs.FileMode = 0o600
	folderMode  fs.FileMode = 0o700
)

// Read parses the file. A file that does not exist is an empty document. The
// errors are those of [Parse], naming the path, and problems of kind
// [problem.Storage].
func (f File) Read() (*Document, error) {
	path, err := f.resolve()
	if err != nil {
		return nil, err
	}
	_, doc, err := read(path)
	return doc, err
}

// Update lets edit change the document, and puts the result in the file's
// place if edit says that it changed something. edit may be called several
// times, each time on what is in the file by then, so it must depend on
// nothing but the document.
//
// Readers find the old or the new document, never a part of one. What other
// programs write in the meantime is kept: the new document changes places with
// the old one in one step (renameat2 with RENAME_EXCHANGE on Linux), and if
// the one that comes out is not the one that was read, its changes are carried
// over. A program that read the file before and replaces it afterwards can
// still take our change out again, as docker login does; who must not lose a
// change watches the file.
//
// The errors are those of [Parse], naming the path, and problems of kind
// [problem.Storage]; the file is then as it was.
func (f File) Update(ctx context.Context, edit func(*Document) (changed bool)) (changed bool, err error) {
	path, err := f.resolve()
	if err != nil {
		return false, err
	}
	base, doc, err := read(path)
	if err != nil {
		return false, err
	}
	if !edit(doc) {
		return false, f.correctMode(path)
	}
	folder := filepath.Dir(path)
	if err := f.makeFolder(folder); err != nil {
		return false, err
	}
	unlock := lockFolder(ctx, folder, lockWait)
	defer unlock()
	sweep(path)

	base, doc, err = read(path)
	if err != nil {
		return false, err
	}
	if !edit(doc) {
		return false, nil
	}
	for range rounds {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		was, err := f.swap(path, base, doc.Bytes())
		if errors.Is(err, errMoved) {
			if base, doc, err = read(path); err != nil {
				return false, err
			}
			edit(doc)
			continue
		}
		if err != nil {
			return false, disk.Problem(err, "write %s", path)
		}
		if was == nil || bytes.Equal(was, base) {
			return true, nil
		}
		theirs, err := Parse(was)
		if err != nil {
			// Not a document, and not one that was there before us: nothing
			// in it can be carried over.
			return true, nil //nolint:nilerror // see above
		}
		from, err := Parse(base)
		if err != nil {
			return false, fmt.Errorf("parse %s: %w", path, err)
		}
		base = doc.Bytes()
		doc = Rebase(from, theirs, doc)
		edit(doc)
	}
	return false, problem.New(problem.Busy, "find the program that keeps rewriting the file", "write %s: other writers never paused", path)
}

// errMoved says that the file came or went between reading and swapping.
var errMoved = errors.New("file appeared or vanished")

// swap puts content in the file's place and returns what was there. base is
// what is thought to be there, nil for no file.
func (f File) swap(path string, base, content []byte) (was []byte, err error) {
	temp, err := f.writeTemp(path, content)
	if err != nil {
		return nil, err
	}
	defer func() {
		if temp != "" {
			_ = os.Remove(temp)
		}
	}()
	if base == nil {
		err := renameNew(temp, path)
		if errors.Is(err, fs.ErrExist) {
			return nil, errMoved
		}
		if err != nil {
			return nil, err
		}
		temp = ""
		return nil, disk.SyncFolder(path)
	}
	err = exchange(temp, path, base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMoved
	}
	if err != nil {
		return nil, err
	}
	if err := disk.SyncFolder(path); err != nil {
		return nil, err
	}
	was, _, err = read(temp)
	if problem.KindOf(err) == problem.Damaged {
		return was, nil
	}
	return was, err
}

func (f File) writeTemp(path string, content []byte) (name string, err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+tempMark)
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = temp.Close()
			_ = os.Remove(temp.Name())
		}
	}()
	if _, err := temp.Write(content); err != nil {
		return "", err
	}
	mode := f.Mode
	if mode == 0 {
		mode = privateMode
	}
	if err := temp.Chmod(mode); err != nil {
		return "", err
	}
	if err := f.giveTo(temp, path); err != nil {
		return "", err
	}
	if err := temp.Sync(); err != nil {
		return "", err
	}
	return temp.Name(), temp.Close()
}

// giveTo gives the temporary file to the owner of the file whose place it
// takes, or of the folder if there is none yet.
func (f File) giveTo(temp *os.File, path string) error {
	var want Owner
	info, err := os.Stat(path)
	switch {
	case err == nil:
		want = ownerOf(info)
	case f.Owner != nil:
		want = *f.Owner
	default:
		if info, err = os.Stat(filepath.Dir(path)); err != nil {
			return err
		}
		want = ownerOf(info)
	}
	if info, err = temp.Stat(); err != nil {
		return err
	}
	have := ownerOf(info)
	if have == want {
		return nil
	}
	err = temp.Chown(want.UID, want.GID)
	if errors.Is(err, fs.ErrPermission) && have.UID == want.UID {
		return nil
	}
	return err
}

// correctMode sets the bits asked for on a file whose content is right.
func (f File) correctMode(path string) error {
	if f.Mode == 0 {
		return nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().Perm() == f.Mode {
		return nil
	}
	if err != nil {
		return disk.Problem(err, "inspect %s", path)
	}
	return disk.Problem(os.Chmod(path, f.Mode), "set the mode of %s", path)
}

func (f File) makeFolder(folder string) error {
	var missing []string
	at := folder
	for {
		_, err := os.Stat(at)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return disk.Problem(err, "open folder %s", at)
		}
		missing = append(missing, at)
		at = filepath.Dir(at)
	}
	if len(missing) == 0 {
		return nil
	}
	owner := f.Owner
	if owner == nil {
		info, err := os.Stat(at)
		if err != nil {
			return disk.Problem(err, "open folder %s", at)
		}
		have := ownerOf(info)
		owner = &have
	}
	for i := len(missing) - 1; i >= 0; i-- {
		if err := os.Mkdir(missing[i], folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
			return disk.Problem(err, "make folder %s", missing[i])
		}
		if os.Geteuid() == 0 {
			if err := os.Chown(missing[i], owner.UID, owner.GID); err != nil {
				return disk.Problem(err, "give away folder %s", missing[i])
			}
		}
	}
	return nil
}

// resolve follows symbolic links to the path that is read and replaced.
func (f File) resolve() (string, error) {
	path, err := filepath.EvalSymlinks(f.Path)
	if err == nil {
		return path, f.mayFollow(path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		// EvalSymlinks names a circle in words only; the system has a code.
		if _, serr := os.Stat(f.Path); serr != nil {
			err = serr
		}
		return "", disk.Problem(err, "follow %s", f.Path)
	}
	link, lerr := os.Readlink(f.Path)
	if lerr != nil {
		return f.Path, nil //nolint:nilerror // no link: a file or folder that is yet to be made
	}
	if !filepath.IsAbs(link) {
		link = filepath.Join(filepath.Dir(f.Path), link)
	}
	path, err = File{Path: link}.resolve()
	if err != nil {
		return "", err
	}
	return path, f.mayFollow(path)
}

// mayFollow keeps root from writing where a link of someone else's points,
// unless that is theirs too.
func (f File) mayFollow(end string) error {
	if os.Geteuid() != 0 || end == f.Path {
		return nil
	}
	link, err := os.Lstat(f.Path)
	if err != nil || link.Mode()&fs.ModeSymlink == 0 || ownerOf(link).UID == 0 {
		return nil //nolint:nilerror // no link of someone else's
	}
	at := end
	info, err := os.Lstat(at)
	for errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
		at = filepath.Dir(at)
		info, err = os.Lstat(at)
	}
	if err != nil {
		return disk.Problem(err, "follow %s", f.Path)
	}
	if ownerOf(info).UID != ownerOf(link).UID {
		return problem.New(problem.Storage, "replace the link by a file, or give link and file to the same user",
			"%s is a link of another user's to %s, which is not theirs", f.Path, end)
	}
	return nil
}

// read returns the text and the document. The text is nil if there is no file.
func read(path string) ([]byte, *Document, error) {
	deadline := time.Now().Add(settle)
	for {
		content, err := readAll(path)
		if errors.Is(err, fs.ErrNotExist) {
			doc, err := Parse(nil)
			return nil, doc, err
		}
		if err != nil {
			return nil, nil, disk.Problem(err, "read %s", path)
		}
		doc, err := Parse(content)
		if err == nil {
			return content, doc, nil
		}
		if time.Now().After(deadline) {
			var p *problem.Error
			if errors.As(err, &p) {
				p.Text = path + ": " + p.Text
			}
			return content, nil, err
		}
		time.Sleep(settlePause)
	}
}

// readAll reads a regular file. The content is never nil without an error.
func readAll(path string) (content []byte, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: syscall.EISDIR}
	}
	if !info.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: path, Err: errors.New("no regular file")}
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	content, err = io.ReadAll(file)
	if content == nil {
		content = []byte{}
	}
	return content, err
}

// sweep removes temporary files that a crash left beside the file.
func sweep(path string) {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+tempMark+"*"))
	if err != nil {
		return
	}
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > tempAge {
			_ = os.Remove(name)
		}
	}
}
