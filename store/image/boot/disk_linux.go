package boot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// place is an open image directory. Its methods take names, never paths, and follow no symbolic link.
type place struct {
	f    *os.File
	hook hook
}

// hook is asked before each change, in tests; its error takes the place of the change. With errSkip the change is left out, and
// counts as done.
type hook func(op, name string) error

var errSkip = errors.New("skip")

func openPlace(dir string, h hook) (*place, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &place{f, h}, nil
}

// lock takes the lock of the image, which ends with the process or with closing the place.
func (p *place) lock() error {
	err := retry(func() error { return unix.Flock(int(p.f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err == unix.EWOULDBLOCK {
		return ErrLocked
	}
	return err
}

func (p *place) change(op, name string, call func() error) error {
	if p.hook != nil {
		if err := p.hook(op, name); err == errSkip {
			return nil
		} else if err != nil {
			return &fs.PathError{Op: op, Path: name, Err: err}
		}
	}
	if err := retry(call); err != nil {
		return &fs.PathError{Op: op, Path: name, Err: err}
	}
	return nil
}

func retry(call func() error) error {
	err := call()
	for err == unix.EINTR {
		err = call()
	}
	return err
}

func (p *place) openat(name string, flags int, mode uint32) (f *os.File, err error) {
	err = retry(func() error {
		fd, err := unix.Openat(int(p.f.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err == nil {
			f = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	return f, err
}

// ReadFile is of [Disk]. A pipe does not stop it, but is refused like everything that is not a file.
func (p *place) ReadFile(name string, limit int64) ([]byte, error) {
	f, err := p.openat(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "opening", Path: name, Err: err}
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file: %w", name, errors.Join(err, fs.ErrInvalid))
	}
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return text, err
}

// WriteFile is of [Disk].
func (p *place) WriteFile(name string, text []byte) error {
	var f *os.File
	err := p.change("creating", name, func() (err error) {
		f, err = p.openat(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = p.change("writing", name, func() error { _, err := f.Write(text); return err })
	if err == nil {
		err = p.change("setting mode of", name, func() error { return f.Chmod(0o644) }) // whatever the umask is
	}
	if err == nil {
		err = p.change("syncing", name, f.Sync)
	}
	return errors.Join(err, f.Close())
}

// Rename is of [Disk].
func (p *place) Rename(from, to string) error {
	at := int(p.f.Fd())
	return p.change("renaming", from, func() error { return unix.Renameat(at, from, at, to) })
}

// Remove is of [Disk].
func (p *place) Remove(name string) error {
	err := p.change("removing", name, func() error { return unix.Unlinkat(int(p.f.Fd()), name, 0) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Sync is of [Disk].
func (p *place) Sync() error {
	return p.change("syncing directory", ".", func() error { return unix.Fsync(int(p.f.Fd())) })
}

// has says whether the tree of a deployment is there.
func (p *place) has(id string) bool {
	deploy, err := p.openat(deployName, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil || !ValidID(id) {
		return false
	}
	defer deploy.Close()
	var st unix.Stat_t
	err = retry(func() error { return unix.Fstatat(int(deploy.Fd()), id, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// current is the deployment that the symbolic link names, or empty when it is not there.
func (p *place) current() string {
	buf := make([]byte, 4096)
	n, err := unix.Readlinkat(int(p.f.Fd()), currentName, buf)
	id, ok := strings.CutPrefix(string(buf[:max(n, 0)]), deployName+"/")
	if err != nil || !ok || !p.has(id) {
		return ""
	}
	return id
}
