package state

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

const instanceName = "instance"

// Instance is the id by which this regkeeper knows the logins that it minted.
// It is made once for a folder, and lies beside the document: whoever loses
// the document still finds the logins at their sources.
func Instance(folder string) (string, error) {
	id, err := KnownInstance(folder)
	if id != "" || err != nil {
		return id, err
	}
	id = rand.Text()
	if err := disk.WriteFile(filepath.Join(folder, instanceName), []byte(id+"\n"), disk.PrivateFile); err != nil {
		return "", err
	}
	return id, nil
}

// KnownInstance is the folder's id if one was made, and empty otherwise.
func KnownInstance(folder string) (string, error) {
	path := filepath.Join(folder, instanceName)
	text, err := os.ReadFile(path)
	id := strings.TrimSpace(string(text))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", disk.Problem(err, "read %s", path)
	case id == "":
		return "", problem.New(problem.Damaged,
			"put a copy back; a new id would leave the logins minted so far to be revoked by hand",
			"instance file %s is empty", path)
	}
	return id, nil
}
