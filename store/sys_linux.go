package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// largeFile goes with every open: on 32-bit machines os.Root does not ask by itself for files of more than 2 GiB.
const largeFile = unix.O_LARGEFILE

// syncFS writes out everything that was written to the file system of dir before the call. Since Linux 5.8 it reports
// writeback errors that happened since the last call on the same open file.
func syncFS(dir *os.File) error {
	return os.NewSyscallError("syncfs", retry(func() error { return unix.Syncfs(int(dir.Fd())) }))
}

func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// flock takes a lock on an open file: unix.LOCK_EX or LOCK_SH, with LOCK_NB the error is [ErrInUse] when another has it.
func flock(f *os.File, how int) error {
	err := retry(func() error { return unix.Flock(int(f.Fd()), how) })
	if err == unix.EWOULDBLOCK {
		return ErrInUse
	}
	return os.NewSyscallError("flock", err)
}

// clone makes dst share the blocks of src, where the file system can do that.
func clone(dst, src *os.File) error {
	return os.NewSyscallError("ioctl FICLONE", retry(func() error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }))
}

// FixedTime is the modification time of every file of a blob, in seconds since 1970, without a fraction. A file that shows another
// one was written to after it was verified, or is not ours.
const FixedTime = 1

// seal gives a file that will not be written to again its twelve permission bits, whatever the umask, and the fixed time.
func seal(f *os.File, mode uint32) error {
	err := retry(func() error { return unix.Fchmod(int(f.Fd()), mode&0o7777) })
	if err != nil {
		return os.NewSyscallError("fchmod", err)
	}
	times := [2]unix.Timespec{{Sec: FixedTime}, {Sec: FixedTime}}
	err = retry(func() error {
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, f.Fd(), 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	})
	return os.NewSyscallError("utimensat", err)
}

// extent finds the next stretch of a file at or after off that holds data. It gives io.EOF when only a hole is left.
func extent(f *os.File, off int64) (start, end int64, err error) {
	start, err = f.Seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return 0, 0, io.EOF
	}
	if err != nil {
		return 0, 0, err
	}
	end, err = f.Seek(start, unix.SEEK_HOLE)
	return start, end, err
}

// freeSpace is what an ordinary process may still write to the file system of dir, in bytes.
func freeSpace(dir *os.File) (uint64, error) {
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(int(dir.Fd()), &st) }); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// noSpace makes the several ways to say that a disk is full into one error.
func noSpace(err error) error {
	if (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT)) && !errors.Is(err, ErrNoSpace) {
		return fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return err
}

// stamp is what tells whether a file was changed or replaced between two looks at it.
type stamp struct {
	dev, ino     uint64
	mode         uint32
	size         int64
	mtime, ctime syscall.Timespec
}

// blocks gives the space that a file takes on disk, in bytes.
func blocks(fi os.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Blocks) * 512
	}
	return 0
}

func stampOf(fi os.FileInfo) stamp {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}
	}
	return stamp{dev: uint64(st.Dev), ino: st.Ino, mode: st.Mode, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// permissions gives the twelve permission bits of a file.
func permissions(fi os.FileInfo) uint32 { return stampOf(fi).mode & 0o7777 }

// links gives the number of names of a file.
func links(fi os.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return uint64(st.Nlink)
	}
	return 1
}
