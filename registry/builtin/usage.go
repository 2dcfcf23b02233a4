package builtin

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// flushEvery is how often, at most, times of use are written down.
const flushEvery = time.Minute

// usage remembers when tokens were last used. The times have a file of their
// own, so that a pull changes neither the token file nor, most of the time,
// any other. They are for people: a file that cannot be read counts as empty.
type usage struct {
	path string
	now  func() time.Time

	mu      sync.Mutex
	times   map[string]time.Time
	dirty   bool
	flushed time.Time
}

func (u *usage) init(tokens string, now func() time.Time) {
	u.path, u.now = tokens+".used", now
	u.times, u.flushed = map[string]time.Time{}, now()
}

// note remembers a use, and says whether it is time to write.
func (u *usage) note(id string) (due bool) {
	now := u.now().UTC().Round(0)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.times[id], u.dirty = now, true
	if due = now.Sub(u.flushed) >= flushEvery; due {
		u.flushed = now
	}
	return due
}

// all returns the times known to this process and those in the file.
func (u *usage) all() map[string]time.Time {
	times := map[string]time.Time{}
	if data, err := os.ReadFile(u.path); err == nil && json.Unmarshal(data, &times) != nil || times == nil {
		times = map[string]time.Time{}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for id, at := range u.times {
		if at.After(times[id]) {
			times[id] = at
		}
	}
	return times
}

// FlushUsed writes down when tokens were last used, if that has changed. Its
// errors are of kind [problem.Damaged], [problem.Storage] and [problem.Busy].
func (s *TokenStore) FlushUsed() error {
	return s.flush(func() (func(), error) { return s.lock(context.Background()) })
}

func (s *TokenStore) flush(lock func() (unlock func(), err error)) error {
	u := &s.usage
	u.mu.Lock()
	dirty := u.dirty
	u.mu.Unlock()
	if !dirty {
		return nil
	}
	known, err := s.current()
	if err != nil {
		return err
	}
	unlock, err := lock()
	if err != nil {
		return err
	}
	defer unlock()
	u.mu.Lock()
	u.dirty = false
	u.mu.Unlock()
	times := u.all()
	maps.DeleteFunc(times, func(id string, _ time.Time) bool { _, ok := known.byID[id]; return !ok })
	data, err := json.MarshalIndent(times, "", "  ")
	if err == nil {
		err = disk.WriteFile(u.path, append(data, '\n'), disk.PrivateFile)
	}
	if err != nil {
		u.mu.Lock()
		u.dirty = true
		u.mu.Unlock()
	}
	return problem.Wrap(err, problem.Storage, storageHint, "write times of use")
}
