package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/regkeeper/regkeeper/problem"
)

// Document is what a [File] holds: a text that can be changed in places.
type Document interface {
	// Bytes is the document as text.
	Bytes() []byte
}

// Format is how the text of a kind of document becomes one.
type Format[D Document] struct {
	// Parse reads a text. Empty input is an empty document. Its error is a
	// [problem.Error] that does not quote the text, which may hold secrets.
	Parse func(text []byte) (D, error)
	// Rebase carries onto ours what another writer changed between base and
	// theirs. Where it is nil, the document of whoever wrote last counts.
	Rebase func(base, theirs, ours D) D
}

// File is a document on disk that others write too.
type File[D Document] struct {
	// Path is where the file is. A symbolic link is followed, also one whose
	// end does not exist yet.
	Path string
	// Mode is the file's permission bits. Zero means 0600 whenever the content
	// changes, and leaves an unchanged file's bits alone.
	Mode fs.FileMode
	// Owner is whom a file made anew, and the folders made for it, are given
	// to. Nil means the owner of the nearest folder that exists. A file that
	// exists keeps its owner.
	Owner  *Owner
	Format Format[D]
}

// Owner is a user and group by number.
type Owner struct{ UID, GID int }

// DamagedHint is what to do about a document that cannot be read.
const DamagedHint = "repair the document or move it away; it is left as it is until then"

const (
	// settle is how long a document that cannot be parsed is read again: a
	// writer that truncates in place shows half a document for a moment.
	settle      = 250 * time.Millisecond
	settlePause = 10 * time.Millisecond
	// maxSize bounds in bytes what is held in memory: a file may be another
	// user's. The largest real documents are far below.
	maxSize = 16 << 20
	// rounds bounds how often a change is carried over another writer's.
	rounds = 100
	// lockWait is how long a lock is waited for. The lock spares regkeeper's
	// own writers rounds; nothing is lost without it.
	lockWait = 5 * time.Second

	tempMark = ".regkeeper-"
)

// Read parses the file. A file that does not exist is an empty document. The
// errors are those of Format.Parse, naming the path, and problems of kind
// [problem.Storage].
func (f File[D]) Read() (doc D, err error) {
	path, err := f.resolve()
	if err != nil {
		return doc, err
	}
	_, doc, err = f.read(path)
	return doc, err
}

// Update lets edit change the document, and puts the result in the file's
// place if edit says that it changed something. edit may be called several
// times, each time on what is in the file by then, so it must depend on
// nothing but the document. An error of edit's ends it all, and nothing is
// written.
//
// Readers find the old or the new document, never a part of one. What other
// programs write in the meantime is kept: the new document changes places with
// the old one in one step (renameat2 with RENAME_EXCHANGE on Linux), and if
// the one that comes out is not the one that was read, they change back at
// once, and edit starts over. A program that read the file before and replaces
// it afterwards can still take our change out again, as docker login does; who
// must not lose a change watches the file. So can one that replaces it by what
// it read in the instant between the two steps.
//
// The errors are those of Format.Parse, naming the path, problems of kind
// [problem.Storage], one of kind [problem.Busy] when others never stop
// writing, that of edit and that of ctx; the file is then as it was.
func (f File[D]) Update(ctx context.Context, edit func(D) (changed bool, err error)) (changed bool, err error) {
	path, err := f.resolve()
	if err != nil {
		return false, err
	}
	_, doc, err := f.read(path)
	if err != nil {
		return false, err
	}
	if changed, err := edit(doc); err != nil {
		return false, err
	} else if !changed {
		return false, f.correctMode(path)
	}
	folder := filepath.Dir(path)
	if err := f.makeFolder(folder); err != nil {
		return false, err
	}
	unlock := lockFolder(ctx, folder, lockWait)
	defer unlock()
	sweepBeside(path)

	base, doc, err := f.read(path)
	if err != nil {
		return false, err
	}
	if changed, err := edit(doc); err != nil || !changed {
		return false, err
	}
	// merging says that doc holds what another program wrote and the file does
	// not have: from then on there is no turning back.
	merging := false
	for range rounds {
		if err := ctx.Err(); err != nil && !merging {
			return false, err
		}
		newer, err := f.swap(path, base, doc.Bytes())
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, errMoved) {
			return false, Problem(err, "write %s", path)
		}
		if path, err = f.resolve(); err != nil {
			return false, err
		}
		before := base
		var now D
		if base, now, err = f.read(path); err != nil {
			return false, err
		}
		switch {
		case newer != nil:
			// In the instant between the steps a third document came.
			merging = true
			doc = f.rebase(before, base, newer, now, newer)
		case merging:
			doc = f.rebase(before, base, doc.Bytes(), now, base)
		default:
			doc = now
		}
		if changed, err := edit(doc); err != nil || !changed && !merging {
			return false, err
		}
	}
	return false, problem.New(problem.Busy, "find the program that keeps rewriting the file", "write %s: other writers never paused", path)
}

// rebase is Format.Rebase of texts; instead, if one is no document. Without it
// the result is the document of the text that was written last.
func (f File[D]) rebase(base, theirs, ours []byte, instead D, last []byte) D {
	if f.Format.Rebase == nil {
		if doc, err := f.Format.Parse(last); err == nil {
			return doc
		}
		return instead
	}
	var docs [3]D
	for i, text := range [][]byte{base, theirs, ours} {
		var err error
		if docs[i], err = f.Format.Parse(text); err != nil {
			return instead
		}
	}
	return f.Format.Rebase(docs[0], docs[1], docs[2])
}

// errMoved says that the file is not what was read.
var errMoved = errors.New("file was changed by another program")

// swap puts content in the file's place if it still holds base, nil for no
// file, and fails with errMoved if it does not. If two others wrote in the
// same instant, the file holds what the first wrote, and newer is what the
// second did.
func (f File[D]) swap(path string, base, content []byte) (newer []byte, err error) {
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
		return nil, SyncFolder(path)
	}
	// What is seen here moves nothing; what comes after this does.
	if !holds(path, base) {
		return nil, errMoved
	}
	before, err := os.Lstat(path)
	if err != nil {
		return nil, errMoved // it went since
	}
	exchanged, err := exchange(temp, path, base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errMoved
	}
	if err != nil {
		return nil, err
	}
	// Whose place it was shows sooner than what they wrote.
	if out, err := os.Lstat(temp); !exchanged || err == nil && os.SameFile(before, out) && holds(temp, base) {
		return nil, SyncFolder(path)
	}
	if _, err := exchange(temp, path, content); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errMoved) {
			return nil, errMoved // removed since, which is later than what was put in its place
		}
		return nil, err
	}
	if !holds(temp, content) {
		if newer, _, err = f.read(temp); err != nil {
			newer = nil
		}
	}
	return newer, errMoved
}

// holds says whether a regular file has that content.
func holds(path string, content []byte) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	now, err := readAll(path)
	return err == nil && bytes.Equal(now, content)
}

func (f File[D]) writeTemp(path string, content []byte) (name string, err error) {
	temp, err := os.CreateTemp(filepath.Dir(path), tempPrefix(path)+strconv.FormatInt(time.Now().Unix(), 10)+"-")
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
		mode = PrivateFile
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
func (f File[D]) giveTo(temp *os.File, path string) error {
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
func (f File[D]) correctMode(path string) error {
	if f.Mode == 0 {
		return nil
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Mode().Perm() == f.Mode {
		return nil
	}
	if err != nil {
		return Problem(err, "inspect %s", path)
	}
	return Problem(os.Chmod(path, f.Mode), "set the mode of %s", path)
}

func (f File[D]) makeFolder(folder string) error {
	var missing []string
	at := folder
	for {
		_, err := os.Stat(at)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return Problem(err, "open folder %s", at)
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
			return Problem(err, "open folder %s", at)
		}
		have := ownerOf(info)
		owner = &have
	}
	for i := len(missing) - 1; i >= 0; i-- {
		err := os.Mkdir(missing[i], PrivateFolder)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return Problem(err, "make folder %s", missing[i])
		}
		if os.Geteuid() == 0 {
			// Not through a link that someone put there since.
			if err := os.Lchown(missing[i], owner.UID, owner.GID); err != nil {
				return Problem(err, "give away folder %s", missing[i])
			}
		}
	}
	return nil
}

// resolve follows symbolic links to the path that is read and replaced, whose
// last parts need not exist.
func (f File[D]) resolve() (string, error) {
	end, owners, err := follow(f.Path)
	if err != nil {
		return "", Problem(err, "follow %s", f.Path)
	}
	return end, f.mayFollow(end, owners)
}

// maxLinks is where a chain of links counts as a circle, as for Linux.
const maxLinks = 40

// follow returns where a path leads, and who owns the links on the way.
func follow(path string) (end string, owners []Owner, err error) {
	separator := string(filepath.Separator)
	root := func(path string) string {
		volume := filepath.VolumeName(path)
		if filepath.IsAbs(path) {
			volume += separator
		}
		return volume
	}
	at := root(path)
	todo := strings.Split(strings.TrimPrefix(path, at), separator)
	for len(todo) > 0 {
		part := todo[0]
		todo = todo[1:]
		if part == "" {
			continue
		}
		next := filepath.Join(at, part)
		info, err := os.Lstat(next)
		if errors.Is(err, fs.ErrNotExist) {
			return filepath.Join(append([]string{next}, todo...)...), owners, nil
		}
		if err != nil {
			return "", nil, err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if owners = append(owners, ownerOf(info)); len(owners) > maxLinks {
			return "", nil, &fs.PathError{Op: "follow", Path: next, Err: syscall.ELOOP}
		}
		link, err := os.Readlink(next)
		if err != nil {
			return "", nil, err
		}
		if filepath.IsAbs(link) {
			at = root(link)
		}
		todo = append(strings.Split(strings.TrimPrefix(link, root(link)), separator), todo...)
	}
	return at, owners, nil
}

// mayFollow keeps root from writing where a link of someone else's points,
// unless that is theirs too.
func (f File[D]) mayFollow(end string, owners []Owner) error {
	if os.Geteuid() != 0 {
		return nil
	}
	for _, owner := range owners {
		if owner.UID == 0 {
			continue
		}
		at := end
		info, err := os.Lstat(at)
		for errors.Is(err, fs.ErrNotExist) && at != filepath.Dir(at) {
			at = filepath.Dir(at)
			info, err = os.Lstat(at)
		}
		if err != nil {
			return Problem(err, "follow %s", f.Path)
		}
		if ownerOf(info).UID != owner.UID {
			return problem.New(problem.Storage, "replace the link by a file, or give link and file to the same user",
				"%s leads by a link of another user's to %s, which is not theirs", f.Path, end)
		}
	}
	return nil
}

// read returns the text and the document. The text is nil if there is no file.
func (f File[D]) read(path string) (content []byte, doc D, err error) {
	deadline := time.Now().Add(settle)
	for {
		content, err := readAll(path)
		if errors.Is(err, fs.ErrNotExist) {
			doc, err := f.Format.Parse(nil)
			return nil, doc, err
		}
		if err != nil {
			return nil, doc, cannotRead(err, path)
		}
		parsed, err := f.Format.Parse(content)
		if err == nil && (len(bytes.TrimSpace(content)) > 0 || !fresh(path)) {
			return content, parsed, nil
		}
		if err == nil && time.Now().After(deadline) {
			return content, parsed, nil
		}
		if time.Now().After(deadline) {
			var p *problem.Error
			if errors.As(err, &p) {
				p.Text = path + ": " + p.Text
			}
			return content, doc, err
		}
		time.Sleep(settlePause) //nolint:forbidigo // the writer is another program: nothing tells when it is done
	}
}

// errTooLarge says that a file is larger than maxSize.
var errTooLarge = fmt.Errorf("is larger than %d MiB", maxSize>>20)

func cannotRead(err error, path string) error {
	switch {
	case errors.Is(err, errTooLarge):
		return problem.New(problem.Damaged, DamagedHint, "%s %v", path, err)
	case errors.Is(err, syscall.EISDIR):
		return problem.Wrap(syscall.EISDIR, problem.Storage,
			"a folder stands where a file belongs: a container engine makes one for a bind mount whose source is missing; move it away and put a file there", "read %s", path)
	}
	return Problem(err, "read %s", path)
}

// fresh says whether the file was just written: an empty one may then be one
// that another program truncated and has not written yet.
func fresh(path string) bool {
	info, err := os.Stat(path)
	return err == nil && time.Since(info.ModTime()).Abs() < settle
}

// readAll reads a regular file, or fails with errTooLarge. The content is never
// nil without an error.
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
	if info.Size() > maxSize {
		return nil, errTooLarge
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	// What Stat says may be outdated by now.
	content, err = io.ReadAll(io.LimitReader(file, maxSize+1))
	if len(content) > maxSize {
		return nil, errTooLarge
	}
	if content == nil {
		content = []byte{}
	}
	return content, err
}

// tempPrefix begins the names of temporary files for the path; behind it stand
// the time in seconds, a dash and a random number. The time is in the name
// since an exchange gives the temporary file another's time stamps.
func tempPrefix(path string) string { return "." + filepath.Base(path) + tempMark }

// sweepBeside removes temporary files that a crash left beside the file.
func sweepBeside(path string) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return
	}
	for _, entry := range entries {
		rest, ok := strings.CutPrefix(entry.Name(), tempPrefix(path))
		if !ok {
			continue
		}
		seconds, _, _ := strings.Cut(rest, "-")
		made, err := strconv.ParseInt(seconds, 10, 64)
		if err == nil && time.Since(time.Unix(made, 0)) > tempAge {
			_ = os.Remove(filepath.Join(filepath.Dir(path), entry.Name()))
		}
	}
}
