package beacon

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// control prepares a socket before it is bound: many processes share the port.
func control(ifname string, f family) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if cerr := c.Control(func(fd uintptr) { err = prepare(int(fd), ifname, f) }); cerr != nil {
			return cerr
		}
		return err
	}
}

func prepare(fd int, ifname string, f family) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	// The rest only keeps packets of other interfaces and groups away early. An old kernel may refuse it.
	_ = unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, ifname)
	if f == inet4 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 0)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL, 0)
	}
	return nil
}
