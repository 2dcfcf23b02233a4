//go:build !linux

package cli

import (
	"context"
	"net"
	"os"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// listenPrivately opens a socket for its owner alone. For the moment until its
// mode is set, the data folder's mode has to do.
func listenPrivately(ctx context.Context, path string) (net.Listener, error) {
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return listener, os.Chmod(path, disk.PrivateFile)
}
