package builtin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// tokenVersion is the version of the token file's form.
const tokenVersion = 1

// lockWait is how long a change waits for its turn. Others hold the lock for
// milliseconds.
const lockWait = 10 * time.Second

// settled is the age from which a file's time of change tells it from every
// later version: twice the coarsest clock of a file system in use, FAT's. A
// file that was younger when it was read is read again at the next look, as git
// does with its index.
const settled = 4 * time.Second

const storageHint = "check the folder, its owner and the disk"

// tokenFile is the document that holds the tokens.
type tokenFile struct {
	Version int      `json:"version"`
	Tokens  []record `json:"tokens"`
}

// record is a token as it is stored: with the hash of its secret.
type record struct {
	Token
	Hash string `json:"hash"`
}

// snapshot is the token file as it was read last.
type snapshot struct {
	info   fs.FileInfo
	readAt time.Time
	sum    [sha256.Size]byte
	byHash map[hash]Token
	byID   map[string]Token
	err    error
}

// current returns the tokens as they are in the file now. The maps are not
// changed afterwards.
func (s *TokenStore) current() (snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	info, err := os.Stat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		s.seen = snapshot{}
		return s.seen, nil
	case err != nil:
		return snapshot{}, problem.Wrap(err, problem.Storage, storageHint, "look at token file")
	case s.seen.same(info):
		return s.seen, s.seen.err
	}
	s.seen, err = s.read()
	return s.seen, err
}

func (s snapshot) same(info fs.FileInfo) bool {
	return s.info != nil && os.SameFile(s.info, info) && s.info.Size() == info.Size() &&
		s.info.ModTime().Equal(info.ModTime()) && s.readAt.Sub(info.ModTime()) > settled
}

func (s *TokenStore) read() (snapshot, error) {
	began := time.Now()
	file, err := os.Open(s.path)
	if err != nil {
		return snapshot{}, problem.Wrap(err, problem.Storage, storageHint, "open token file")
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return snapshot{}, problem.Wrap(err, problem.Storage, storageHint, "look at token file")
	}
	data, err := io.ReadAll(file)
	if err != nil {
		return snapshot{}, problem.Wrap(err, problem.Storage, storageHint, "read token file")
	}
	next := snapshot{info: info, readAt: began, sum: sha256.Sum256(data)}
	if s.seen.info != nil && s.seen.sum == next.sum {
		next.byHash, next.byID, next.err = s.seen.byHash, s.seen.byID, s.seen.err
		return next, next.err
	}
	doc, err := parseTokens(s.path, data)
	if err != nil {
		next.err = err
		return next, err
	}
	next.byHash, next.byID = make(map[hash]Token, len(doc.Tokens)), make(map[string]Token, len(doc.Tokens))
	for _, r := range doc.Tokens {
		h, _ := parseHash(r.Hash)
		next.byHash[h], next.byID[r.ID] = r.Token, r.Token
	}
	return next, nil
}

// parseTokens reads the document strictly: a field that is not known could be
// a limit that is not kept.
func parseTokens(path string, data []byte) (*tokenFile, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var doc tokenFile
	if err := dec.Decode(&doc); err != nil {
		return nil, damaged(path, data, faultOffset(err, data), err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, damaged(path, data, dec.InputOffset(), errors.New("more text behind the document"))
	}
	if doc.Version != tokenVersion {
		return nil, damaged(path, data, -1, fmt.Errorf("version is %d, and this program reads %d", doc.Version, tokenVersion))
	}
	ids, hashes := map[string]bool{}, map[hash]bool{}
	for i, r := range doc.Tokens {
		h, err := parseHash(r.Hash)
		switch {
		case err != nil:
		case r.ID == "" || ids[r.ID]:
			err = fmt.Errorf("id %q is empty or taken", r.ID)
		case hashes[h]:
			err = errors.New("hash is taken")
		default:
			err = checkRights(r.Scopes, r.Repositories)
		}
		if err != nil {
			return nil, damaged(path, data, int64(bytes.LastIndex(data, []byte(`"`+r.ID+`"`))), fmt.Errorf("token %d: %w", i+1, err))
		}
		ids[r.ID], hashes[h] = true, true
	}
	return &doc, nil
}

// faultOffset is the offset of the byte that err is about, or -1.
func faultOffset(err error, data []byte) int64 {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return syntax.Offset - 1
	case errors.As(err, &kind):
		return kind.Offset - 1
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return int64(len(data))
	}
	return -1
}

func damaged(path string, data []byte, offset int64, err error) error {
	where := path
	if offset >= 0 {
		before := data[:min(int(offset), len(data))]
		line := bytes.Count(before, []byte("\n")) + 1
		where = fmt.Sprintf("%s line %d column %d", path, line, len(before)-bytes.LastIndexByte(before, '\n'))
	}
	return problem.Wrap(err, problem.Damaged,
		"nobody can log in until the file is repaired; repair it or move it away and create tokens anew",
		"token file %s", where)
}

func parseHash(text string) (hash, error) {
	var h hash
	digits, ok := strings.CutPrefix(text, hashPrefix)
	if n, err := hex.Decode(h[:], []byte(digits[:min(len(digits), 2*len(h))])); !ok || err != nil || n != len(h) || len(digits) != 2*len(h) {
		return hash{}, errors.New("hash is not of the form sha256:<64 hex digits>")
	}
	return h, nil
}

// update changes the file under the lock, starting from what is in it then.
func (s *TokenStore) update(ctx context.Context, change func(*tokenFile) (changed bool, err error)) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	doc := &tokenFile{Version: tokenVersion}
	data, err := os.ReadFile(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return problem.Wrap(err, problem.Storage, storageHint, "read token file")
	default:
		if doc, err = parseTokens(s.path, data); err != nil {
			return err
		}
	}
	changed, err := change(doc)
	if err != nil || !changed {
		return err
	}
	if data, err = json.MarshalIndent(doc, "", "  "); err != nil {
		return fmt.Errorf("encode tokens: %w", err)
	}
	return disk.WriteFile(s.path, append(data, '\n'), disk.PrivateFile)
}

// lock waits for the lock between processes. The lock is a file of its own: the
// token file is replaced by each change, and a lock on it would be on a file
// that is no longer there.
func (s *TokenStore) lock(ctx context.Context) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	return s.takeLock(func(lock *flock.Flock) (bool, error) {
		ok, err := lock.TryLockContext(ctx, 2*time.Millisecond)
		if errors.Is(err, context.DeadlineExceeded) {
			return false, nil
		}
		return ok, err
	})
}

func (s *TokenStore) tryLock() (unlock func(), err error) {
	return s.takeLock((*flock.Flock).TryLock)
}

func (s *TokenStore) takeLock(take func(*flock.Flock) (bool, error)) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return nil, problem.Wrap(err, problem.Storage, storageHint, "make folder of token file")
	}
	lock := flock.New(s.path + ".lock")
	ok, err := take(lock)
	switch {
	case errors.Is(err, context.Canceled):
		return nil, err
	case err != nil:
		return nil, problem.Wrap(err, problem.Storage, storageHint, "lock token file")
	case !ok:
		return nil, problem.New(problem.Busy, "try again, and look for a process that hangs", "token file %s is locked", s.path)
	}
	return func() { _ = lock.Close() }, nil
}

// signingKey returns the key that bearer tokens are signed with, and makes one
// if there is none. It is kept so that a restart does not cut off a push.
func (s *TokenStore) signingKey() ([]byte, error) {
	path := s.path + ".key"
	unlock, err := s.lock(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		data = []byte(randomHex(sha256.Size) + "\n")
		if err := disk.WriteFile(path, data, disk.PrivateFile); err != nil {
			return nil, problem.Wrap(err, problem.Storage, storageHint, "write signing key")
		}
	case err != nil:
		return nil, problem.Wrap(err, problem.Storage, storageHint, "read signing key")
	}
	key, err := hex.DecodeString(strings.TrimSpace(string(data)))
	if err != nil || len(key) != sha256.Size {
		return nil, problem.New(problem.Damaged, "remove the file: a new one is made, and clients log in again by themselves",
			"signing key %s is not 64 hex digits", path)
	}
	return key, nil
}
