package builtin

import (
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// historyFile holds a repository's times, beside its index. It is no
// repository's name.
const historyFile = ".history.json"

// history knows when tags and manifests were pushed and pulled. It is held in
// memory and written down at intervals and at the end: a pull writes nothing.
//
// What a crash forgets is made up for at the next start, never with too early a
// time of a push, by which an image might be taken for an old one:
//
//	found at the start                       time of push
//	tag with its digest in the file          that in the file
//	tag that is not, and there is a file     when the index was written last
//	tag, and no file                         when its manifest was stored
//
// A pull of the last minute before a crash is forgotten.
type history struct {
	folder func(repository string) string
	now    func() time.Time
	log    *slog.Logger

	mu    sync.Mutex
	known map[string]*times
}

// times are a repository's.
type times struct {
	Version   int                      `json:"version"`
	Tags      map[string]tagTimes      `json:"tags"`
	Manifests map[string]manifestTimes `json:"manifests"`

	dirty bool
}

type tagTimes struct {
	Digest string    `json:"digest"`
	Pushed time.Time `json:"pushed,omitzero"`
	Pulled time.Time `json:"pulled,omitzero"`
	// Checked is when an upstream last said that the tag is current.
	Checked time.Time `json:"checked,omitzero"`
}

type manifestTimes struct {
	Pushed time.Time `json:"pushed,omitzero"`
	Pulled time.Time `json:"pulled,omitzero"`
}

const historyVersion = 1

// layout is a repository's index: OCI image specification 1.1, image-layout.md.
type layout struct {
	Manifests []entry `json:"manifests"`

	written time.Time
}

// entry is a manifest of the index. Its tag is an annotation, and so is, of a
// list of referrers that olareg keeps, the subject.
type entry struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations"`
}

const (
	annotationTag     = "org.opencontainers.image.ref.name"
	annotationSubject = "org.olareg.referrer.subject"
)

func (e entry) tag() string     { return e.Annotations[annotationTag] }
func (e entry) subject() string { return e.Annotations[annotationSubject] }
func (e entry) part() part      { return part{e.Digest, e.MediaType} }

// readLayout reads the index in a folder. [fs.ErrNotExist] is in the error's chain
// if there is none.
func readLayout(folder string) (layout, error) {
	var doc layout
	path := filepath.Join(folder, indexFile)
	file, err := os.Open(path)
	if err != nil {
		return doc, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return doc, err
	}
	doc.written = info.ModTime()
	if err := json.NewDecoder(file).Decode(&doc); err != nil {
		return doc, &fs.PathError{Op: "parse", Path: path, Err: err}
	}
	return doc, nil
}

// of returns the times of a repository. The caller holds the lock.
func (h *history) of(repository string) *times {
	if t := h.known[repository]; t != nil {
		return t
	}
	t := h.load(repository)
	if h.known == nil {
		h.known = map[string]*times{}
	}
	h.known[repository] = t
	return t
}

func (h *history) load(repository string) *times {
	folder := h.folder(repository)
	t := &times{}
	text, err := os.ReadFile(filepath.Join(folder, historyFile))
	kept := err == nil
	if kept && (json.Unmarshal(text, t) != nil || t.Version != historyVersion) {
		h.log.Warn("times of a repository cannot be read and are made anew", "repository", repository)
		t = &times{}
	}
	t.Version = historyVersion
	if t.Tags == nil {
		t.Tags = map[string]tagTimes{}
	}
	if t.Manifests == nil {
		t.Manifests = map[string]manifestTimes{}
	}
	index, err := readLayout(folder)
	if err != nil {
		return t
	}
	for _, e := range index.Manifests {
		at := index.written
		if info, err := os.Stat(blobFileIn(folder, e.Digest)); err == nil && !kept {
			at = info.ModTime()
		}
		at = at.UTC()
		if tag := e.tag(); tag != "" && t.Tags[tag].Digest != e.Digest {
			t.Tags[tag] = tagTimes{Digest: e.Digest, Pushed: at}
			t.dirty = true
		}
		if one, ok := t.Manifests[e.Digest]; !ok {
			one.Pushed = at
			t.Manifests[e.Digest] = one
			t.dirty = true
		}
	}
	return t
}

// pushed notes that a manifest was written, under tags.
func (h *history) pushed(repository, digest string, tags []string) {
	now := h.now().UTC().Round(0)
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.of(repository)
	one := t.Manifests[digest]
	one.Pushed = now
	t.Manifests[digest] = one
	for _, tag := range tags {
		old := t.Tags[tag]
		next := tagTimes{Digest: digest, Pushed: now}
		if old.Digest == digest {
			next.Pulled, next.Checked = old.Pulled, old.Checked
		}
		t.Tags[tag] = next
	}
	t.dirty = true
}

// pulled notes that a manifest was read, by a tag if one is given.
func (h *history) pulled(repository, digest, tag string) {
	now := h.now().UTC().Round(0)
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.of(repository)
	one := t.Manifests[digest]
	one.Pulled = now
	t.Manifests[digest] = one
	if known, ok := t.Tags[tag]; ok {
		known.Pulled = now
		t.Tags[tag] = known
	}
	t.dirty = true
}

// check notes that an upstream says that a tag leads to a manifest.
func (h *history) check(repository, tag, digest string) {
	now := h.now().UTC().Round(0)
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.of(repository)
	known := t.Tags[tag]
	if known.Digest != digest {
		known = tagTimes{Digest: digest, Pushed: now}
	}
	known.Checked = now
	t.Tags[tag] = known
	t.dirty = true
}

// checked is when an upstream last said that a tag is current.
func (h *history) checked(repository, tag string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.of(repository).Tags[tag].Checked
}

// deleted forgets a tag, or a manifest with its tags.
func (h *history) deleted(repository, reference string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.of(repository)
	t.dirty = true
	if tagForm.MatchString(reference) {
		delete(t.Tags, reference)
		return
	}
	delete(t.Manifests, reference)
	maps.DeleteFunc(t.Tags, func(_ string, known tagTimes) bool { return known.Digest == reference })
}

// prune forgets what is not in the repository.
func (h *history) prune(repository string, kept map[string]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.of(repository)
	before := len(t.Manifests) + len(t.Tags)
	maps.DeleteFunc(t.Manifests, func(digest string, _ manifestTimes) bool { return !kept[digest] })
	maps.DeleteFunc(t.Tags, func(_ string, known tagTimes) bool { return !kept[known.Digest] })
	t.dirty = t.dirty || before != len(t.Manifests)+len(t.Tags)
}

// used is when a manifest was last pushed, pulled or checked; zero if nobody
// knows.
func (h *history) used(repository string) map[string]time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.of(repository)
	last := make(map[string]time.Time, len(t.Manifests))
	later := func(digest string, at time.Time) {
		if at.After(last[digest]) {
			last[digest] = at
		}
	}
	for digest, one := range t.Manifests {
		later(digest, one.Pushed)
		later(digest, one.Pulled)
	}
	for _, one := range t.Tags {
		for _, at := range []time.Time{one.Pushed, one.Pulled, one.Checked} {
			later(one.Digest, at)
		}
	}
	return last
}

// look returns what is known of tags and manifests, to read from.
func (h *history) look(repository string) (map[string]tagTimes, map[string]manifestTimes) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.of(repository)
	return maps.Clone(t.Tags), maps.Clone(t.Manifests)
}

// flush writes down what has changed.
func (h *history) flush() error {
	h.mu.Lock()
	dirty := map[string][]byte{}
	var errs []error
	for repository, t := range h.known {
		if !t.dirty {
			continue
		}
		text, err := json.Marshal(t)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		dirty[repository], t.dirty = text, false
	}
	h.mu.Unlock()
	for _, repository := range slices.Sorted(maps.Keys(dirty)) {
		path := filepath.Join(h.folder(repository), historyFile)
		if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := disk.WriteFile(path, dirty[repository], disk.PrivateFile); err != nil {
			errs = append(errs, err)
			h.mu.Lock()
			h.known[repository].dirty = true
			h.mu.Unlock()
		}
	}
	return errors.Join(errs...)
}
