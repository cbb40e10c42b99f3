//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package beacon

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// control prepares a socket before it is bound: many processes share the port.
func control(string, family) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = errors.Join(
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
				unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		})
		return errors.Join(cerr, err)
	}
}
