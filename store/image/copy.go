package image

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// copier copies trees with what belongs to their files: modes, times, extended attributes, and owners where that is allowed.
// Pipes, sockets and devices are left out, and so is what vanishes meanwhile.
type copier struct {
	ctx  context.Context
	im   *Image
	link func(path string) bool // files that may be linked instead, where blocks cannot be shared; nil: none
}

// dir copies what is in a directory; path is that of the directory in the tree, empty for the tree itself.
func (c *copier) dir(src, dst *dir, path string) error {
	names, err := src.names(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := c.any(src, name, dst, name, strings.TrimPrefix(path+"/"+name, "/")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// any copies name in src, whatever it is, to a new name in dst.
func (c *copier) any(src *dir, name string, dst *dir, to, path string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	st, err := src.lstat(name)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if c.link != nil && c.link(path) {
			return c.linkFile(src, name, dst, to, &st)
		}
		return c.file(src, name, dst, to, &st)
	case unix.S_IFLNK:
		return c.symlink(src, name, dst, to, &st)
	case unix.S_IFDIR:
		return c.subdir(src, name, dst, to, path, &st)
	}
	return nil
}

func (c *copier) subdir(src *dir, name string, dst *dir, to, path string, st *unix.Stat_t) error {
	from, err := src.sub(name)
	if err != nil {
		return err
	}
	defer from.close()
	made, err := dst.mkdir(to)
	if err != nil {
		return err
	}
	defer made.close()
	if err := c.dir(from, made, path); err != nil {
		return err
	}
	return finishCopy(made.f, from.f, st, func(mode uint32) error { return made.chmod(mode) })
}

func (c *copier) symlink(src *dir, name string, dst *dir, to string, st *unix.Stat_t) error {
	target, err := src.readlink(name)
	if err != nil {
		return err
	}
	if err := dst.symlink(target, to); err != nil {
		return err
	}
	err = dst.do("setting owner of", to, func() error {
		return unix.Fchownat(dst.fd(), to, int(st.Uid), int(st.Gid), unix.AT_SYMLINK_NOFOLLOW)
	})
	return ignore(err, unix.EPERM)
}

// linkFile shares blocks, makes a hard link, or copies, what works first.
func (c *copier) linkFile(src *dir, name string, dst *dir, to string, st *unix.Stat_t) error {
	if st.Size == 0 || c.im.sharing.Load() == sharingWorks {
		return c.file(src, name, dst, to, st)
	}
	err := dst.change("linking", to, func() error { return unix.Linkat(src.fd(), name, dst.fd(), to, 0) })
	if isOneOf(err, unix.EMLINK, unix.EXDEV, unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS) {
		return c.file(src, name, dst, to, st)
	}
	return err
}

func (c *copier) file(src *dir, name string, dst *dir, to string, st *unix.Stat_t) error {
	from, err := src.open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	f, err := dst.create(to)
	if err != nil {
		return err
	}
	err = dst.change("copying", to, func() error {
		if c.im.sharing.Load() != sharingFails && clone(f, from) == nil {
			return nil
		}
		return copyRest(c.ctx, f, from)
	})
	if err == nil {
		err = finishCopy(f, from, st, func(mode uint32) error {
			return dst.change("setting mode of", to, func() error { return setMode(f, mode) })
		})
	}
	if err == nil {
		err = dst.change("setting time of", to, func() error {
			return unix.UtimesNanoAt(dst.fd(), to, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
		})
	}
	return errors.Join(err, f.Close())
}

// copyRest copies to the end, however long the file is by now.
func copyRest(ctx context.Context, dst, src *os.File) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, onlyReader{ctx, src}, make([]byte, copyBuffer))
	return err
}

const copyBuffer = 256 << 10

// finishCopy gives a copy owner, extended attributes and mode, in this order: a new owner takes the setuid bit away.
func finishCopy(dst, src *os.File, st *unix.Stat_t, chmod func(mode uint32) error) error {
	if err := ignore(unix.Fchown(int(dst.Fd()), int(st.Uid), int(st.Gid)), unix.EPERM); err != nil {
		return err
	}
	if err := copyAttributes(dst, src); err != nil {
		return err
	}
	return chmod(st.Mode & 0o7777)
}

// maxAttributes is the kernel's limit for the names, and for each value.
const maxAttributes = 64 << 10

// copyAttributes copies the extended attributes that this process may set.
func copyAttributes(dst, src *os.File) error {
	buf := make([]byte, maxAttributes)
	n, err := unix.Flistxattr(int(src.Fd()), buf)
	if err != nil || n == 0 {
		return ignore(err, unix.EOPNOTSUPP, unix.ENOSYS)
	}
	value := make([]byte, maxAttributes)
	for _, name := range strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 }) {
		n, err := unix.Fgetxattr(int(src.Fd()), name, value)
		if err != nil {
			continue // gone meanwhile, or not for us to read
		}
		err = unix.Fsetxattr(int(dst.Fd()), name, value[:n], 0)
		if err := ignore(err, unix.EPERM, unix.EACCES, unix.EOPNOTSUPP); err != nil {
			return &fs.PathError{Op: "setting attribute " + name + " of", Path: dst.Name(), Err: err}
		}
	}
	return nil
}

// ignore makes some errors none.
func ignore(err error, numbers ...unix.Errno) error {
	if isOneOf(err, numbers...) {
		return nil
	}
	return err
}
