package image

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of btrfs, all of the form of FICLONE, with a larger argument.
const (
	btrfsRequest = unix.FICLONE&0xe0000000 | uint(unsafe.Sizeof(btrfsArgs{}))<<16 | 0x94<<8
	snapCreate   = btrfsRequest | 1
	subvolCreate = btrfsRequest | 14
	snapDestroy  = btrfsRequest | 15
)

// btrfsArgs is struct btrfs_ioctl_vol_args.
type btrfsArgs struct {
	fd   int64
	name [4088]byte
}

func (d *dir) btrfs(op string, request uint, fd int, name string) error {
	return d.change(op, name, func() error {
		args := btrfsArgs{fd: int64(fd)}
		if len(name) >= len(args.name) {
			return unix.ENAMETOOLONG
		}
		copy(args.name[:], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(d.fd()), uintptr(request), uintptr(unsafe.Pointer(&args))); errno != 0 {
			return errno
		}
		return nil
	})
}

// subvolumeInode is that of the top of every subvolume.
const subvolumeInode = 256

// isSubvolume says whether a tree is a subvolume of btrfs.
func (im *Image) isSubvolume(name string) bool {
	st, err := im.deploy.lstat(name)
	return err == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Ino == subvolumeInode && im.deploy.isBtrfs()
}

func (d *dir) isBtrfs() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(d.fd(), &st) == nil && st.Type == unix.BTRFS_SUPER_MAGIC
}

// makeTree makes the directory of a new tree: a subvolume where there are any, since the next tree can then be a snapshot of it.
func (im *Image) makeTree(name string) (*dir, error) {
	if im.deploy.isBtrfs() && im.deploy.btrfs("making subvolume", subvolCreate, 0, name) == nil {
		d, err := im.deploy.sub(name)
		if err == nil {
			err = d.chmod(0o700)
		}
		return d, err
	}
	return im.deploy.mkdir(name)
}

// snapshot makes a tree that is at first the same as another, without a copy of anything. It is false when that does not work here.
func (im *Image) snapshot(from, name string) bool {
	if !im.isSubvolume(from) {
		return false
	}
	src, err := im.deploy.sub(from)
	if err != nil {
		return false
	}
	defer src.close()
	return im.deploy.btrfs("making snapshot", snapCreate, src.fd(), name) == nil
}

// removeSubvolume removes a subvolume with all that is in it, if this process may. Otherwise it is removed like any directory.
func (d *dir) removeSubvolume(name string, st *unix.Stat_t) bool {
	return st.Ino == subvolumeInode && d.isBtrfs() && d.btrfs("removing subvolume", snapDestroy, 0, name) == nil
}
