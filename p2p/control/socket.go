package control

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// SocketName is the control socket's name in a home.
const SocketName = "control.sock"

// maxSocketPath is what fits into sockaddr_un, with the closing zero.
const maxSocketPath = len(unix.RawSockaddrUnix{}.Path) - 1

// shorten gives a path of HOME/control.sock that fits into a socket address. The directory that it may need open is closed by done.
func shorten(home string) (path string, done func(), err error) {
	path = filepath.Join(home, SocketName)
	if len(path) <= maxSocketPath {
		return path, func() {}, nil
	}
	dir, err := os.Open(home)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), SocketName), func() { dir.Close() }, nil
}

// Listener is the socket of a home. Closing it removes the socket.
type Listener struct {
	*net.UnixListener
	path string
}

// Listen makes HOME/control.sock, mode 0600. The caller holds the home's lock, so a socket that is there was left behind by a
// node that was killed, and is replaced; anything else of that name is an error.
func Listen(home string) (*Listener, error) {
	full := filepath.Join(home, SocketName)
	if err := removeSocket(full); err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	short, done, err := shorten(home)
	if err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	defer done()
	// The mode of the socket's inode is that of the descriptor at bind: it is never open to others, not even for a moment.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var chmod error
		if err := c.Control(func(fd uintptr) { chmod = unix.Fchmod(int(fd), 0o600) }); err != nil {
			return err
		}
		return chmod
	}}
	ln, err := lc.Listen(context.Background(), "unix", short)
	if err != nil {
		return nil, fmt.Errorf("opening the control socket: %w", err)
	}
	ul := ln.(*net.UnixListener)
	ul.SetUnlinkOnClose(false) // it would remove the short name, which is gone
	return &Listener{UnixListener: ul, path: full}, nil
}

// Close closes the socket and removes its name.
func (l *Listener) Close() error {
	rm := removeSocket(l.path)
	return errors.Join(l.UnixListener.Close(), rm)
}

func removeSocket(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s is not a socket", path)
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func connect(ctx context.Context, home string) (net.Conn, error) {
	short, done, err := shorten(home)
	if err != nil {
		return nil, err
	}
	defer done()
	var d net.Dialer
	return d.DialContext(ctx, "unix", short)
}

// nobodyListens tells the errors of a home without a node from those of a home that cannot be used.
func nobodyListens(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOTDIR)
}
