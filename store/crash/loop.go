package crash

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// loop is a block device that is a file.
type loop struct {
	*os.File
	path string
}

// attach makes a loop device of a file. It goes away when it is closed and nothing is mounted from it.
func attach(file *os.File) (*loop, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("finding a free loop device: %w", err)
		}
		path := fmt.Sprintf("/dev/loop%d", n)
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		switch err = unix.IoctlLoopConfigure(int(f.Fd()), &config); err {
		case nil:
			return &loop{f, path}, nil
		case unix.EBUSY: // another was quicker
			f.Close()
		default:
			f.Close()
			return nil, fmt.Errorf("setting up %s: %w", path, err)
		}
	}
}

// forget drops what the kernel remembers of the device's content: the file below has changed.
func (l *loop) forget() error {
	if err := unix.IoctlSetInt(int(l.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return fmt.Errorf("flushing %s: %w", l.path, err)
	}
	return nil
}
