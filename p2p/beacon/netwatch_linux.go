package beacon

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// subscribe puts something into events, which has room for one, whenever rtnetlink tells of a link or an address.
// It returns when ctx is done, or when there is no rtnetlink here.
func subscribe(ctx context.Context, events chan<- struct{}) {
	f, err := openNetlink()
	if err != nil {
		return
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		f.Close()
		close(closed)
	})
	defer func() {
		if stop() {
			f.Close()
		} else {
			<-closed
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		// Also before the first read: there may have been a change since the last look.
		select {
		case events <- struct{}{}:
		default:
		}
		// What changed does not matter: the scan finds out. ENOBUFS says that messages were lost, thus there were some.
		if _, err := f.Read(buf); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return
		}
	}
}

func openNetlink() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening rtnetlink: %w", err)
	}
	groups := uint32(unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("subscribing to rtnetlink: %w", err)
	}
	return os.NewFile(uintptr(fd), "rtnetlink"), nil
}
