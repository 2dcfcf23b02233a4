package runner

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// The journal and its lock are beside the runners' file, each with that file's name
// within its own.
const (
	journalSuffix = ".regkeeper-runner.json"
	lockSuffix    = ".regkeeper-runner.lock"
)

// Entry is one change that a forge makes and that the runners' file must follow.
type Entry struct {
	// Verb is register or rotate.
	Verb string `json:"verb"`
	URL  string `json:"url"`
	Name string `json:"name"`
	// ID is the runner's before the change; zero if there is none yet.
	ID int64 `json:"id,omitempty"`
	// Before is the [Fingerprint] of the token that the change ends.
	Before string `json:"before,omitempty"`
	// OldUUID and OldToken are of a runner that stays good until another has taken
	// its place. OldToken is secret.
	OldUUID  string `json:"oldUUID,omitempty"`
	OldToken string `json:"oldToken,omitempty"`
	// Scope, Labels and Ephemeral are what the runner is made with.
	Scope     string   `json:"scope,omitempty"`
	Labels    []string `json:"labels,omitempty"`
	Ephemeral bool     `json:"ephemeral,omitempty"`
	// NewID, UUID, Token and Expires are what the forge answered; Token is empty
	// until it has. Token is secret.
	NewID   int64      `json:"newID,omitempty"`
	UUID    string     `json:"uuid,omitempty"`
	Token   string     `json:"token,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Started time.Time  `json:"started"`
	// Asked is when the forge was asked with Token last, which it takes for a sign
	// of life; nil for never.
	Asked *time.Time `json:"asked,omitempty"`
}

// Fingerprint tells tokens apart without telling them: the SHA-256, in hex.
func Fingerprint(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// Unfinished is an error of kind [problem.Busy] if the journal alone has a token,
// which another entry would overwrite.
func (e *Entry) Unfinished(in Journal) error {
	if e.Token == "" {
		return nil
	}
	return problem.New(problem.Busy, "run regkeeper runner "+e.Verb+" for it again, with the same name", "runner %s: a change was cut off, and its token is in %s alone", e.Name, in.Path())
}

// Astray is an error of kind [problem.Busy] if the journal alone has a token, of a
// runner that the file does not have.
func (e *Entry) Astray(in Journal, file string) error {
	if e.Token == "" {
		return nil
	}
	return problem.New(problem.Busy,
		"put that token into "+file+" by hand if the runner is to stay, or delete the runner at "+e.URL+"; then remove the journal",
		"runner %s at %s: a change was cut off, its token is in %s alone, and %s has the runner no more", e.Name, e.URL, in.Path(), file)
}

// Journal remembers one change at a time: written before the forge is asked, and
// again with what it answered, removed when the runners' file has it. Who is
// killed in between finds it there.
type Journal struct{ file string }

// JournalFor is the journal of a runners' file. Each file of a folder has its own.
func JournalFor(file string) Journal { return Journal{file} }

// Path is where the journal is.
func (j Journal) Path() string { return j.beside(j.file, journalSuffix) }

func (j Journal) beside(file, suffix string) string {
	return filepath.Join(filepath.Dir(file), "."+filepath.Base(file)+suffix)
}

// Lock keeps other processes from the file's runners until unlock: from before the
// journal is read until it is cleared. Paths that lead to one file by symbolic links
// share a lock. Where there is no folder there is nothing to keep. The error is of
// kind [problem.Busy] if another has it, or [problem.Storage].
func (j Journal) Lock() (unlock func(), err error) {
	file := j.file
	if end, err := filepath.EvalSymlinks(file); err == nil {
		file = end
	}
	path := j.beside(file, lockSuffix)
	lock := flock.New(path, flock.SetPermissions(disk.PrivateFile))
	taken, err := lock.TryLock()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return func() {}, nil
	case err != nil:
		return nil, disk.Problem(err, "lock %s", path)
	case !taken:
		return nil, problem.New(problem.Busy, "wait until that one has ended, and try again", "the runners of %s are being changed by another regkeeper", j.file)
	}
	return func() { _ = lock.Unlock() }, nil
}

// Load is the change that was not finished; nil for none. The error is of kind
// [problem.Storage] or [problem.Damaged].
func (j Journal) Load() (*Entry, error) {
	text, err := os.ReadFile(j.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is no error
	}
	if err != nil {
		return nil, disk.Problem(err, "read %s", j.Path())
	}
	var entry Entry
	if json.Unmarshal(text, &entry) != nil {
		return nil, problem.New(problem.Damaged, "look into it for a token of a runner, and remove it", "%s cannot be read", j.Path())
	}
	return &entry, nil
}

// Save writes the change. Its folder is made if it is not there.
func (j Journal) Save(entry Entry) error {
	if err := os.MkdirAll(filepath.Dir(j.file), disk.PrivateFolder); err != nil {
		return disk.Problem(err, "make folder %s", filepath.Dir(j.file))
	}
	text, err := json.MarshalIndent(entry, "", "  ")
	if err != nil {
		return err
	}
	return disk.WriteFile(j.Path(), append(text, '\n'), disk.PrivateFile)
}

// Clear removes it.
func (j Journal) Clear() error {
	err := os.Remove(j.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return disk.Problem(err, "remove %s", j.Path())
}
