package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/regkeeper/regkeeper/internal/disk"
	"github.com/regkeeper/regkeeper/problem"
)

// FileName is what the document is called where it is looked for.
const FileName = "regkeeper.yaml"

// ErrNone says that there is no document in any of the places.
var ErrNone = errors.New("no configuration")

// Find is the document to use: the one named, or else the first that exists of
// this folder's, the user's and the system's. The data folder is the one that
// goes with its place, also if that is where the named one is. ErrNone is returned if none was named and none exists.
func Find(named string) (path, data string, err error) {
	here := candidate{FileName, "regkeeper-data"}
	places := []candidate{here}
	if folder, err := os.UserConfigDir(); err == nil {
		if home, err := os.UserHomeDir(); err == nil {
			places = append(places, candidate{
				filepath.Join(folder, "regkeeper", FileName), filepath.Join(home, ".local", "state", "regkeeper"),
			})
		}
	}
	places = append(places, candidate{"/etc/regkeeper/" + FileName, "/var/lib/regkeeper"})
	if named != "" {
		for _, place := range places {
			if same(named, place.path) {
				return named, place.data, nil
			}
		}
		return named, here.data, nil
	}
	for _, place := range places {
		if _, err := os.Stat(place.path); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return place.path, place.data, nil
		}
	}
	return "", here.data, ErrNone
}

type candidate struct{ path, data string }

func same(a, b string) bool {
	a, aErr := filepath.Abs(a)
	b, bErr := filepath.Abs(b)
	return aErr == nil && bErr == nil && a == b
}

// Load reads the document at a path.
func Load(path string) (Config, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Config{}, problem.New(problem.NotFound, "check the path, or leave --config away to have the usual places looked at",
			"configuration %s does not exist", path)
	}
	if err != nil {
		return Config{}, disk.Problem(err, "read configuration")
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return Config{}, err
	}
	return Parse(path, filepath.Dir(absolute), text)
}
