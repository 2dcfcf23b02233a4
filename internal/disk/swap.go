package disk

import (
	"bytes"
	"os"
)

// linkNew gives temp the name path unless that exists, by way of a hard link.
func linkNew(temp, path string) error {
	if err := os.Link(temp, path); err != nil {
		return err
	}
	return os.Remove(temp)
}

// replace is the exchange for file systems without one. It refuses if the file
// is not what was read, and cannot see a change in the instant after that.
func replace(temp, path string, base []byte) error {
	now, err := readAll(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(now, base) {
		return errMoved
	}
	return os.Rename(temp, path)
}
