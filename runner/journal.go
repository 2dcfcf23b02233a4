package runner

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// journalName is the journal's file, beside that of the runners.
const journalName = ".regkeeper-runner.json"

// Entry is one change that a forge makes and that the runners' file must follow.
type Entry struct {
	// Verb is register or rotate.
	Verb string `json:"verb"`
	URL  string `json:"url"`
	Name string `json:"name"`
	// ID is the runner's before the change; zero if there is none yet.
	ID int64 `json:"id,omitempty"`
	// NewID, UUID, Token and Expires are what the forge answered; Token is empty
	// until it has. Token is secret.
	NewID   int64      `json:"newID,omitempty"`
	UUID    string     `json:"uuid,omitempty"`
	Token   string     `json:"token,omitempty"`
	Expires *time.Time `json:"expires,omitempty"`
	Started time.Time  `json:"started"`
}

// Unfinished is an error of kind [problem.Busy] if the journal alone has a token,
// which another entry would overwrite.
func (e *Entry) Unfinished(in Journal) error {
	if e.Token == "" {
		return nil
	}
	return problem.New(problem.Busy, "run regkeeper runner "+e.Verb+" for it again, with the same name", "runner %s: a change was cut off, and its token is in %s alone", e.Name, in.Path())
}

// Journal remembers one change at a time: written before the forge is asked, and
// again with what it answered, removed when the runners' file has it. Who is
// killed in between finds it there.
type Journal struct{ path string }

// JournalFor is the journal of a runners' file.
func JournalFor(file string) Journal {
	return Journal{filepath.Join(filepath.Dir(file), journalName)}
}

// Path is where the journal is.
func (j Journal) Path() string { return j.path }

// Load is the change that was not finished; nil for none. The error is of kind
// [problem.Storage] or [problem.Damaged].
func (j Journal) Load() (*Entry, error) {
	text, err := os.ReadFile(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // none is no error
	}
	if err != nil {
		return nil, disk.Problem(err, "read %s", j.path)
	}
	var entry Entry
	if json.Unmarshal(text, &entry) != nil {
		return nil, problem.New(problem.Damaged, "look into it for a token of a runner, and remove it", "%s cannot be read", j.path)
	}
	return &entry, nil
}

// Save writes the change. Its folder is made if it is not there.
func (j Journal) Save(entry Entry) error {
	if err := os.MkdirAll(filepath.Dir(j.path), disk.PrivateFolder); err != nil {
		return disk.Problem(err, "make folder %s", filepath.Dir(j.path))
	}
	text, err := json.MarshalIndent(entry, "", "  ")
	if err != nil {
		return err
	}
	return disk.WriteFile(j.path, append(text, '\n'), disk.PrivateFile)
}

// Clear removes it.
func (j Journal) Clear() error {
	err := os.Remove(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return disk.Problem(err, "remove %s", j.path)
}
