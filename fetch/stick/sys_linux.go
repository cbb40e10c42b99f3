package stick

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"satchel/store"
)

// Flags of files that a stranger may have made: no link is followed, and nothing is waited for. On 32-bit machines os.Root does not
// ask by itself for files of more than 2 GiB.
const (
	readFlags   = os.O_RDONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_LARGEFILE
	createFlags = os.O_RDWR | os.O_CREATE | os.O_EXCL | unix.O_NOFOLLOW | unix.O_LARGEFILE
)

// How a directory is locked.
const (
	lockShared = unix.LOCK_SH | unix.LOCK_NB
	lockAlone  = unix.LOCK_EX | unix.LOCK_NB
)

// lock takes a lock on an open directory, which ends when it is closed. On a file system without locks it does nothing.
func lock(dir *os.File, how int) error {
	if err := unix.Flock(int(dir.Fd()), how); err == unix.EWOULDBLOCK {
		return ErrInUse
	}
	return nil
}

// push has bytes written out now, so that it can be told how far that is, and no more waits in memory than was pushed last.
func push(f *os.File, off, n int64) error {
	err := unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ESPIPE) {
		return nil // fsync comes anyway
	}
	return os.NewSyscallError("sync_file_range", err)
}

// flush makes a file durable and has the next reading come from the medium.
func flush(f *os.File) error {
	if err := f.Sync(); err != nil {
		return err
	}
	unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED) // a hint; where it is not taken the reading only proves less
	return nil
}

// syncDir makes the names in a directory durable.
func syncDir(dir *os.File) error {
	err := dir.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil // a file system that has no such thing
	}
	return err
}

// freeSpace is what an ordinary process may still write to the file system of dir, in bytes.
func freeSpace(dir *os.File) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(dir.Fd()), &st); err != nil {
		return 0, os.NewSyscallError("fstatfs", err)
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// noSpace makes the several ways to say that a stick is full into one error.
func noSpace(err error) error {
	if (errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG)) && !errors.Is(err, store.ErrNoSpace) {
		return fmt.Errorf("%w: %w", store.ErrNoSpace, err)
	}
	return err
}
