package build

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/regkeeper/regkeeper/dockerconfig"
	"github.com/regkeeper/regkeeper/internal/disk"
)

// session is the folder that a program takes for its user's docker folder: with
// the logins of one build and no other, and with the user's own builders,
// contexts and plugins.
type session struct {
	folder string
	buildx string
	lock   *flock.Flock
}

const (
	sessionPrefix = "regkeeper-build-"
	lockName      = "lock"
	// sessionAge is when a folder without a lock counts as left behind.
	sessionAge = time.Minute
)

// userFolder is the docker folder of the user (docker CLI, "Configuration
// files").
func userFolder() string {
	if folder := os.Getenv("DOCKER_CONFIG"); folder != "" {
		return folder
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".docker")
}

// begin makes the folder, and removes those that killed processes left behind.
func (t Tools) begin(logins Logins) (_ *session, err error) {
	parent := t.Folder
	if parent == "" {
		parent = os.TempDir()
	}
	sweep(parent)
	folder, err := os.MkdirTemp(parent, sessionPrefix) // 0700
	if err != nil {
		return nil, disk.Problem(err, "make a folder for logins in %s", parent)
	}
	user := userFolder()
	s := &session{folder: folder, buildx: os.Getenv("BUILDX_CONFIG"), lock: flock.New(filepath.Join(folder, lockName))}
	if s.buildx == "" {
		s.buildx = filepath.Join(user, "buildx")
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.end())
		}
	}()
	if _, err := s.lock.TryLock(); err != nil {
		return nil, disk.Problem(err, "lock %s", folder)
	}
	for _, name := range []string{"contexts", "cli-plugins"} {
		target, err := filepath.Abs(filepath.Join(user, name))
		if err == nil {
			_, err = os.Stat(target)
		}
		if err != nil {
			continue // there are none
		}
		if err := os.Symlink(target, filepath.Join(folder, name)); err != nil {
			return nil, disk.Problem(err, "link %s", target)
		}
	}
	doc, err := dockerconfig.Parse(settings(user))
	if err != nil {
		return nil, err
	}
	for host, login := range logins {
		doc.Set(host, login)
	}
	if err := os.WriteFile(filepath.Join(folder, "config.json"), doc.Bytes(), disk.PrivateFile); err != nil {
		return nil, disk.Problem(err, "write the logins of a build")
	}
	return s, nil
}

// kept are the settings of a user's config.json that say how docker is reached,
// and what it runs. Logins and the programs that keep them are not among them.
var kept = []string{"currentContext", "cliPluginsExtraDirs", "proxies"}

// settings are the kept ones of the user's config.json; those of a file that
// cannot be read are none.
func settings(user string) []byte {
	raw, err := os.ReadFile(filepath.Join(user, "config.json"))
	if err != nil {
		return nil
	}
	var all map[string]json.RawMessage
	if json.Unmarshal(raw, &all) != nil {
		return nil
	}
	some := map[string]json.RawMessage{}
	for _, name := range kept {
		if value, ok := all[name]; ok {
			some[name] = value
		}
	}
	raw, err = json.Marshal(some)
	if err != nil {
		return nil
	}
	return raw
}

// env has a program use the folder.
func (s *session) env() []string {
	return []string{"DOCKER_CONFIG=" + s.folder, "BUILDX_CONFIG=" + s.buildx}
}

// end removes the folder. What it links to stays.
func (s *session) end() error {
	err := s.lock.Close()
	return disk.Problem(errors.Join(os.RemoveAll(s.folder), err), "remove the logins of a build in %s", s.folder)
}

// sweep removes the folders of processes that are gone: a lock ends with its
// process.
func sweep(parent string) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, entry := range entries {
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), sessionPrefix) {
			continue
		}
		info, err := entry.Info()
		if err != nil || time.Since(info.ModTime()) < sessionAge {
			continue
		}
		folder := filepath.Join(parent, entry.Name())
		path := filepath.Join(folder, lockName)
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			_ = os.RemoveAll(folder)
			continue
		}
		lock := flock.New(path)
		if locked, err := lock.TryLock(); err == nil && locked {
			_ = os.RemoveAll(folder)
			_ = lock.Close()
		}
	}
}
