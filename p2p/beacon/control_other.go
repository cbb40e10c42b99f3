//go:build !(linux || darwin || dragonfly || freebsd || netbsd || openbsd || windows)

package beacon

import "syscall"

// control does nothing: here one node has the port.
func control(string, family) func(network, address string, c syscall.RawConn) error { return nil }
