package beacon

import (
	"errors"
	"syscall"
)

// control prepares a socket before it is bound: many processes share the port.
func control(string, family) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		cerr := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(syscall.Handle(fd), syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
		})
		return errors.Join(cerr, err)
	}
}
