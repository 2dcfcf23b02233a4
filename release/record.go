package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/internal/disk"
)

// Outcome is how the release of an item ended.
type Outcome string

// The outcomes.
const (
	// Released: the workloads run it. Built: it is in the registry.
	Released Outcome = "released"
	Built    Outcome = "built"
	// Unchanged: there was nothing to do.
	Unchanged Outcome = "unchanged"
	// RolledBack: the workloads run again what they ran before.
	RolledBack Outcome = "rolled-back"
	// Failed: it is told in the record's error how far it came.
	Failed Outcome = "failed"
)

// Record is what was released, for later.
type Record struct {
	Item    string  `json:"item"`
	Outcome Outcome `json:"outcome"`
	// Reference is the image, with tag and digest; Commit is what it was built of.
	Reference image.Reference `json:"reference"`
	Commit    string          `json:"commit"`
	// Previous is the digest that its workloads had before, if that was a release
	// too.
	Previous  string    `json:"previous,omitempty"`
	Began     time.Time `json:"began"`
	Ended     time.Time `json:"ended"`
	By        string    `json:"by,omitempty"`
	Workloads []Rolled  `json:"workloads,omitempty"`
	Error     string    `json:"error,omitempty"`
}

// Rolled is a workload that was set.
type Rolled struct {
	Workload
	From string `json:"from"`
	To   string `json:"to"`
	// Annotations are those of the release before.
	Annotations map[string]string `json:"annotations,omitempty"`
}

// File keeps records in a file, one JSON document a line, the youngest last.
type File struct {
	// Path is the file's. It is made where there is none, its folder too.
	Path string
}

var _ Journal = File{}

// Append adds a record, and returns when it has reached the disk. A line that a
// crash has cut off is ended first. The error is a [problem.Error] of kind
// [problem.Storage].
func (f File) Append(_ context.Context, record Record) (err error) {
	raw, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), disk.PrivateFolder); err != nil {
		return disk.Problem(err, "write %s", f.Path)
	}
	file, err := os.OpenFile(f.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE, disk.PrivateFile)
	if err != nil {
		return disk.Problem(err, "write %s", f.Path)
	}
	defer func() {
		if closed := file.Close(); err == nil {
			err = disk.Problem(closed, "write %s", f.Path)
		}
	}()
	cut, err := endsAmidst(file)
	if err == nil {
		text := append(raw, '\n')
		if cut {
			text = append([]byte{'\n'}, text...)
		}
		_, err = file.Write(text)
	}
	if err == nil {
		err = errors.Join(file.Sync(), disk.SyncFolder(f.Path))
	}
	return disk.Problem(err, "write %s", f.Path)
}

// endsAmidst says whether a file does not end with a line's end.
func endsAmidst(file *os.File) (bool, error) {
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return false, err
	}
	last := make([]byte, 1)
	if _, err := file.ReadAt(last, info.Size()-1); err != nil && !errors.Is(err, io.EOF) {
		return false, err
	}
	return last[0] != '\n', nil
}

// Records lists the records, the oldest first. What is no record, as a line that
// a crash has cut off, is left out. It stops after the first error.
func (f File) Records() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		raw, err := os.ReadFile(f.Path)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				yield(Record{}, disk.Problem(err, "read %s", f.Path))
			}
			return
		}
		for line := range bytes.Lines(raw) {
			var record Record
			if json.Unmarshal(line, &record) == nil && record.Item != "" && !yield(record, nil) {
				return
			}
		}
	}
}

// Released is the last record of an item with the outcome [Released].
func (f File) Released(_ context.Context, item string) (last *Record, err error) {
	for record, err := range f.Records() {
		if err != nil {
			return nil, err
		}
		if record.Item == item && record.Outcome == Released {
			last = &record
		}
	}
	return last, nil
}
