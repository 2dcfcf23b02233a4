package gitlab

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// systemName is the file beside the config.toml by which a server tells machines
// with one runner apart (gitlab-runner, commands/internal/configfile,
// system_id_state.go).
const systemName = ".runner_system_id"

const systemLength = 12

var systemPattern = regexp.MustCompile(`^[sr]_[0-9a-zA-Z]{12}$`)

// systemID is this machine's, and whether the file has it: where it does not, the
// one that GitLab Runner would make, of the machine's own ID or else at random.
func (f *Fleet) systemID() (id string, stored bool, err error) {
	path := filepath.Join(filepath.Dir(f.config.Path), systemName)
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", false, disk.Problem(err, "read %s", path)
	}
	if id := strings.TrimSpace(string(text)); systemPattern.MatchString(id) {
		return id, true, nil
	}
	for _, path := range []string{"/var/lib/dbus/machine-id", "/etc/machine-id"} {
		if text, err := os.ReadFile(path); err == nil && len(strings.TrimSpace(string(text))) > 0 {
			mac := hmac.New(sha256.New, []byte(strings.TrimSpace(string(text))))
			mac.Write([]byte("gitlab-runner"))
			return "s_" + hex.EncodeToString(mac.Sum(nil))[:systemLength], false, nil
		}
	}
	random := make([]byte, systemLength/2)
	if _, err := io.ReadFull(f.config.Random, random); err != nil {
		return "", false, err
	}
	return "r_" + hex.EncodeToString(random), false, nil
}

// machineID is this machine's ID for good: one that was made at random is stored.
func (f *Fleet) machineID() (string, error) {
	id, stored, err := f.systemID()
	if err == nil && !stored && strings.HasPrefix(id, "r_") {
		err = f.storeSystemID(id)
	}
	return id, err
}

// storeSystemID writes it where GitLab Runner looks for it.
func (f *Fleet) storeSystemID(id string) error {
	folder := filepath.Dir(f.config.Path)
	if err := os.MkdirAll(folder, disk.PrivateFolder); err != nil {
		return disk.Problem(err, "make folder %s", folder)
	}
	return disk.WriteFile(filepath.Join(folder, systemName), []byte(id), disk.PrivateFile)
}
