package dockerconfig

import (
	"context"
	"io/fs"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// File is a config.json on disk.
type File struct {
	// Path is where the file is. A symbolic link is followed, also one whose
	// end does not exist yet.
	Path string
	// Mode is the file's permission bits. Zero means 0600 whenever the content
	// changes, and leaves an unchanged file's bits alone.
	Mode fs.FileMode
	// Owner is whom a file made anew, and the folders made for it, are given
	// to. Nil means the owner of the nearest folder that exists. A file that
	// exists keeps its owner.
	Owner *Owner
}

// Owner is a user and group by number.
type Owner = disk.Owner

func (f File) document() disk.File[*Document] {
	return disk.File[*Document]{
		Path: f.Path, Mode: f.Mode, Owner: f.Owner,
		Format: disk.Format[*Document]{Parse: Parse, Rebase: Rebase},
	}
}

// Read parses the file, as [disk.File.Read] has it.
func (f File) Read() (*Document, error) { return f.document().Read() }

// Update lets edit change the document, as [disk.File.Update] has it.
func (f File) Update(ctx context.Context, edit func(*Document) (changed bool)) (changed bool, err error) {
	return f.document().Update(ctx, func(doc *Document) (bool, error) { return edit(doc), nil })
}
