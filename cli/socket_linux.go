package cli

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/regkeeper/regkeeper/internal/disk"
)

// listenPrivately opens a socket that is its owner's alone from the first: its
// mode is set before it has a name.
func listenPrivately(ctx context.Context, path string) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		var err error
		if controlErr := conn.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(disk.PrivateFile)) }); controlErr != nil {
			return controlErr
		}
		return err
	}}
	return config.Listen(ctx, "unix", path)
}
