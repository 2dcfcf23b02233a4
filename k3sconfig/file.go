package k3sconfig

import (
	"io/fs"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// File is a registries.yaml on disk. The fields are as of [disk.File].
func File(path string, mode fs.FileMode, owner *disk.Owner) disk.File[*Document] {
	return disk.File[*Document]{Path: path, Mode: mode, Owner: owner, Format: disk.Format[*Document]{Parse: Parse}}
}
