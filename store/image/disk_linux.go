package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"satchel/store"
)

// dir is an open directory below an image. Its methods take names, never paths, and follow no symbolic link. They are the only
// place where this package changes the disk.
type dir struct {
	f    *os.File
	path string // from the image directory, for messages; "." is that itself
	hook hook
}

// hook is asked before each change, in tests; its error takes the place of the change. With errSkip the change is left
// out, and counts as done.
type hook = store.Hook

var errSkip = store.ErrSkip

// openTop opens the image directory itself, the only one that is named by a path.
func openTop(name string, h hook) (*dir, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &dir{f: f, path: ".", hook: h}, nil
}

func (d *dir) fd() int               { return int(d.f.Fd()) }
func (d *dir) close()                { d.f.Close() }
func (d *dir) at(name string) string { return path.Join(d.path, name) }

// change runs one system call that changes the disk.
func (d *dir) change(op, name string, call func() error) error {
	if d.hook != nil {
		if err := d.hook(op, d.at(name)); err == errSkip {
			return nil
		} else if err != nil {
			return &fs.PathError{Op: op, Path: d.at(name), Err: err}
		}
	}
	return d.do(op, name, call)
}

func (d *dir) do(op, name string, call func() error) error {
	if name != "" && (name == "." || name == ".." || strings.ContainsAny(name, "/\x00")) {
		return &fs.PathError{Op: op, Path: d.at(name), Err: errors.New("unsafe name")}
	}
	err := call()
	for err == unix.EINTR {
		err = call()
	}
	if err != nil {
		return &fs.PathError{Op: op, Path: d.at(name), Err: err}
	}
	return nil
}

// sub opens a directory.
func (d *dir) sub(name string) (*dir, error) {
	f, err := d.openat("opening", name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return &dir{f: f, path: d.at(name), hook: d.hook}, nil
}

// again opens the directory itself once more.
func (d *dir) again() (*dir, error) {
	fd, err := unix.Openat(d.fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "opening", Path: d.path, Err: err}
	}
	return &dir{f: os.NewFile(uintptr(fd), d.path), path: d.path, hook: d.hook}, nil
}

// open opens a file for reading. A pipe does not stop it, but is refused like everything that is not a file.
func (d *dir) open(name string) (*os.File, error) {
	f, err := d.openat("opening", name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if fi, err := f.Stat(); err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return nil, &fs.PathError{Op: "opening", Path: d.at(name), Err: errors.Join(errors.New("not a regular file"), err)}
	}
	return f, nil
}

func (d *dir) openat(op, name string, flags int) (f *os.File, err error) {
	err = d.do(op, name, func() error {
		fd, err := unix.Openat(d.fd(), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err == nil {
			f = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	return f, err
}

// create makes a new file that nobody else can read yet.
func (d *dir) create(name string) (f *os.File, err error) {
	err = d.change("creating", name, func() error {
		fd, err := unix.Openat(d.fd(), name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			f = os.NewFile(uintptr(fd), name)
		}
		return err
	})
	return f, err
}

// mkdir makes a directory that nobody else can enter yet, and opens it.
func (d *dir) mkdir(name string) (*dir, error) {
	if err := d.change("making directory", name, func() error { return unix.Mkdirat(d.fd(), name, 0o700) }); err != nil {
		return nil, err
	}
	return d.sub(name)
}

// link makes name a hard link to the file at a path outside, which itself must not be a symbolic link.
func (d *dir) link(file, name string) error {
	return d.change("linking", name, func() error { return unix.Linkat(unix.AT_FDCWD, file, d.fd(), name, 0) })
}

func (d *dir) symlink(target, name string) error {
	return d.change("making symbolic link", name, func() error { return unix.Symlinkat(target, d.fd(), name) })
}

func (d *dir) rename(name string, to *dir, newName string) error {
	return d.change("renaming", name, func() error { return unix.Renameat(d.fd(), name, to.fd(), newName) })
}

// unlink removes anything but a directory. That there is nothing is no error.
func (d *dir) unlink(name string) error {
	err := d.change("removing", name, func() error { return unix.Unlinkat(d.fd(), name, 0) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// chmod sets all twelve permission bits of the directory itself.
func (d *dir) chmod(mode uint32) error {
	return d.change("setting mode of", "", func() error { return setMode(d.f, mode) })
}

// setMode sets all twelve permission bits, whatever the umask. The system drops the setgid bit without a word when a file's
// group is not one of ours, so look.
func setMode(f *os.File, mode uint32) error {
	if err := unix.Fchmod(int(f.Fd()), mode); err != nil {
		return err
	}
	if mode&0o7000 == 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&0o7777 != mode {
		return fmt.Errorf("mode became %04o, not %04o: %w", st.Mode&0o7777, mode, fs.ErrPermission)
	}
	return nil
}

// fixTime gives a file the time that says that nobody wrote to it.
func (d *dir) fixTime(name string) error {
	return d.change("setting time of", name, func() error {
		t := unix.Timespec{Sec: store.FixedTime}
		return unix.UtimesNanoAt(d.fd(), name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// sync makes the names in the directory durable.
func (d *dir) sync() error {
	return d.change("syncing directory", "", func() error { return unix.Fsync(d.fd()) })
}

// syncFS makes everything durable that was written to the file system before. It reports the errors of writing that came up
// since d was opened, or since the last call.
func (d *dir) syncFS() error {
	return d.change("syncing file system of", "", func() error { return unix.Syncfs(d.fd()) })
}

func (d *dir) lstat(name string) (st unix.Stat_t, err error) {
	err = d.do("looking at", name, func() error { return unix.Fstatat(d.fd(), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return st, err
}

// kind is the file type of a name, an S_IF constant, and 0 when there is nothing.
func (d *dir) kind(name string) (uint32, error) {
	st, err := d.lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return st.Mode & unix.S_IFMT, err
}

func (d *dir) readlink(name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n := 0
	err := d.do("reading link", name, func() (err error) {
		n, err = unix.Readlinkat(d.fd(), name, buf)
		return err
	})
	return string(buf[:max(n, 0)]), err
}

// names lists the directory, at most limit names of it when limit is positive.
func (d *dir) names(limit int) ([]string, error) {
	if _, err := d.f.Seek(0, io.SeekStart); err != nil {
		return nil, &fs.PathError{Op: "listing", Path: d.path, Err: err}
	}
	names, err := d.f.Readdirnames(limit)
	if err != nil && err != io.EOF {
		return nil, &fs.PathError{Op: "listing", Path: d.path, Err: err}
	}
	return names, nil
}

// removeAll removes whatever has the name, read-only directories included. That there is nothing is no error.
func (d *dir) removeAll(name string) error {
	st, err := d.lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return d.unlink(name)
	}
	if d.removeSubvolume(name, &st) {
		return nil
	}
	if err := d.empty(name); err != nil {
		return err
	}
	return d.change("removing directory", name, func() error { return unix.Unlinkat(d.fd(), name, unix.AT_REMOVEDIR) })
}

// empty removes what is in a directory. An ordinary user must be allowed to write to a directory for that.
func (d *dir) empty(name string) error {
	sub, err := d.sub(name)
	if errors.Is(err, fs.ErrPermission) {
		if err := d.permit(name); err != nil {
			return err
		}
		sub, err = d.sub(name)
	}
	if err != nil {
		return err
	}
	defer sub.close()
	var st unix.Stat_t
	if err := unix.Fstat(sub.fd(), &st); err == nil && st.Mode&0o700 != 0o700 {
		if err := sub.chmod(0o700); err != nil {
			return err
		}
	}
	for {
		names, err := sub.names(1024)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, n := range names {
			if err := sub.removeAll(n); err != nil {
				return err
			}
		}
	}
}

// permit lets the owner into a directory that cannot even be opened.
func (d *dir) permit(name string) error {
	return d.change("setting mode of", name, func() error {
		err := unix.Fchmodat(d.fd(), name, 0o700, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.EOPNOTSUPP { // before Linux 6.6
			err = unix.Fchmodat(d.fd(), name, 0o700, 0)
		}
		return err
	})
}

// clone makes dst share the blocks of src, where the file system can do that.
func clone(dst, src *os.File) error {
	err := unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	for err == unix.EINTR {
		err = unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	}
	return err
}

// forget drops a file's pages from memory, so that what is read comes from the medium. It is advice; errors do not matter.
func forget(f *os.File) { unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) }

// lock takes the lock of the image, which ends with the process or with closing d.
func (d *dir) lock() error {
	return d.do("locking", "", func() error { return unix.Flock(d.fd(), unix.LOCK_EX|unix.LOCK_NB) })
}

// holder is the process that has the lock of d, or 0 when that cannot be found out.
func (d *dir) holder() (pid int) {
	var st unix.Stat_t
	if unix.Fstat(d.fd(), &st) != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	want := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		var n, typ, mode, access, file string
		var p int
		if k, _ := fmt.Sscan(line, &n, &typ, &mode, &access, &p, &file); k == 6 && typ == "FLOCK" && file == want {
			return p
		}
	}
	return 0
}
