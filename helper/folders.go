package helper

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// FolderVariable names the data folder to answer from, in place of all others.
const FolderVariable = "REGKEEPER_DATA"

// noteName is the document in which the data folders are written down.
const noteName = "helper.json"

// Note is where the data folders are written down for the helpers that a user's
// clients run. The working folder has no say: clients are run in folders of others.
// It is empty for a user without a home.
func Note(getenv func(string) string) string {
	folder := getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(folder) {
		if folder = home(getenv); folder == "" {
			return ""
		}
		folder = filepath.Join(folder, ".config")
	}
	return filepath.Join(folder, "regkeeper", noteName)
}

// home is the user's home folder; empty if there is none.
func home(getenv func(string) string) string {
	for _, name := range []string{"HOME", "USERPROFILE"} {
		if folder := getenv(name); filepath.IsAbs(folder) {
			return folder
		}
	}
	return ""
}

// systemNote is the same for all users.
const systemNote = "/etc/regkeeper/" + noteName

// Folders are the data folders to answer from: $REGKEEPER_DATA alone if it is set;
// else those written down for the user, then those for all users; else those of the
// user's and the system's configuration (see package config, Find) that exist. The
// error is a problem if there is none.
func Folders(getenv func(string) string) ([]string, error) {
	if folder := getenv(FolderVariable); filepath.IsAbs(folder) {
		return []string{folder}, nil
	} else if folder != "" {
		return nil, problem.New(problem.Usage, "give the whole path: clients are run in folders of others", "%s=%s is no absolute path", FolderVariable, folder)
	}
	var folders []string
	for _, path := range []string{Note(getenv), systemNote} {
		if path == "" {
			continue
		}
		noted, err := ReadNote(path)
		if err != nil {
			return nil, err
		}
		folders = append(folders, noted...)
	}
	if len(folders) > 0 {
		return folders, nil
	}
	usual := Usual(getenv)
	for _, folder := range usual {
		// One that cannot be looked at exists, and reading it says what is wrong.
		if _, err := os.Stat(folder); err == nil || !errors.Is(err, fs.ErrNotExist) {
			folders = append(folders, folder)
		}
	}
	if len(folders) == 0 {
		return nil, problem.New(problem.NotFound, "run regkeeper install helper --write as this user, or set "+FolderVariable,
			"no data folder of regkeeper's was found")
	}
	return folders, nil
}

// Usual are the data folders that need not be written down.
func Usual(getenv func(string) string) (folders []string) {
	if home := home(getenv); home != "" {
		folders = append(folders, filepath.Join(home, ".local", "state", "regkeeper"))
	}
	return append(folders, "/var/lib/regkeeper")
}

// noteText is the document.
type noteText struct {
	// Data are absolute paths of data folders.
	Data []string `json:"data"`
}

// ReadNote reads the data folders that are written down; none if nothing is.
func ReadNote(path string) ([]string, error) {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, disk.Problem(err, "read %s", path)
	}
	return parseNote(path, content)
}

func parseNote(path string, content []byte) ([]string, error) {
	var note noteText
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&note)
	if err != nil || slices.ContainsFunc(note.Data, func(folder string) bool { return !filepath.IsAbs(folder) }) {
		return nil, problem.New(problem.Damaged, `write it as {"data": ["/var/lib/regkeeper"]}, or remove it and run regkeeper install helper --write`,
			"%s does not name data folders", path)
	}
	return note.Data, nil
}

// WriteNote writes data folders down, for whoever runs clients as this user.
func WriteNote(path string, folders []string) error {
	text, err := json.MarshalIndent(noteText{Data: folders}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), disk.PrivateFolder); err != nil {
		return disk.Problem(err, "make folder %s", filepath.Dir(path))
	}
	return disk.WriteFile(path, append(text, '\n'), disk.PrivateFile)
}
