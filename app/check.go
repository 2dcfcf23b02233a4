package app

import (
	"os"
	"path/filepath"

	"github.com/regkeeper/regkeeper/lifecycle/jobimage"
)

// LayerCache is where it is remembered what layers hold: beside what [Cache] has,
// in the data folder if there is one, or else in the user's cache; nil where
// neither can be had.
func LayerCache(folder string) *jobimage.Cache {
	path := filepath.Join(folder, cacheName)
	if _, err := os.Stat(folder); err != nil {
		user, err := os.UserCacheDir()
		if err != nil {
			return nil
		}
		path = filepath.Join(user, "regkeeper")
	}
	cache, err := jobimage.OpenCache(path)
	if err != nil {
		return nil // it costs requests, no more
	}
	return cache
}
