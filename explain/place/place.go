// Package place looks at the files that hold logins as they lie there: can a
// client replace them, as docker login does?
//
// It reads no file, and refuses to try by writing.
package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/regkeeper/regkeeper/consumer"
)

// Place is a file as it lies there.
type Place struct {
	Path string `json:"path"`
	// ReadOnly says that its file system is mounted to be read only.
	ReadOnly bool `json:"read_only,omitempty"`
	// Mounted says that the file itself is a mount, and so cannot be replaced by
	// another file, which is how clients save.
	Mounted bool `json:"mounted,omitempty"`
}

// At looks at a file, or where there is none at the folder that it would lie in.
// The error says that neither can be looked at; [fs.ErrNotExist] is in its chain if
// neither is there.
func At(path string) (Place, error) {
	p := Place{Path: path}
	resolved, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		resolved, err = filepath.EvalSymlinks(filepath.Dir(path))
	}
	if err != nil {
		return p, fmt.Errorf("look at %s: %w", path, err)
	}
	if p.ReadOnly, err = readOnly(resolved); err != nil {
		return p, fmt.Errorf("look at the file system of %s: %w", path, err)
	}
	info, err := os.Lstat(resolved)
	if err != nil {
		return p, fmt.Errorf("look at %s: %w", path, err)
	}
	mounts, err := mountPoints()
	if err != nil {
		return p, fmt.Errorf("read mounts: %w", err)
	}
	p.Mounted = info.Mode().IsRegular() && slices.Contains(mounts, resolved)
	return p, nil
}

// Of looks at the files that a client looked at. Those that cannot be looked at are
// left out: the client has said what it makes of them.
func Of(d consumer.Decision) (all []Place) {
	var seen []string
	for _, l := range d.Looked {
		if l.Verdict == consumer.Absent || !filepath.IsAbs(l.Where) || slices.Contains(seen, l.Where) {
			continue
		}
		seen = append(seen, l.Where)
		if p, err := At(l.Where); err == nil {
			all = append(all, p)
		}
	}
	return all
}

// parseMounts reads the mount points of mountinfo (proc_pid_mountinfo(5)), in which
// spaces and backslashes are written in octal.
func parseMounts(text string) (points []string) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 4 {
			points = append(points, unescape.Replace(fields[4]))
		}
	}
	return points
}
