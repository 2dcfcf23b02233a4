//go:build unix

package disk

import (
	"io/fs"
	"syscall"
)

func ownerOf(info fs.FileInfo) Owner {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return Owner{UID: int(stat.Uid), GID: int(stat.Gid)}
	}
	return Owner{}
}
