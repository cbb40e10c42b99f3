package crash

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// FileSystem is a way to make and mount a file system.
type FileSystem struct {
	Name    string   // for people
	Size    int64    // of the disk, in bytes
	Make    []string // program and arguments; the device comes last
	Kind    string   // as mount knows it
	Options string   // of mount
}

// FileSystems are those that everything should be tested on. With its defaults, ext4 writes out the bytes of a file that replaces another
// before the rename, which hides that a program forgot to sync them; with noauto_da_alloc it does not.
func FileSystems() []FileSystem {
	ext4 := []string{"mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"}
	return []FileSystem{
		{"ext4, noauto_da_alloc", 64 << 20, ext4, "ext4", "noauto_da_alloc,nodiscard"},
		{"ext4, defaults", 64 << 20, ext4, "ext4", "nodiscard"},
		{"XFS", 300 << 20, []string{"mkfs.xfs", "-q", "-f", "-K"}, "xfs", "nouuid,nodiscard"},
		{"btrfs", 128 << 20, []string{"mkfs.btrfs", "-q", "-f", "-K"}, "btrfs", "nodiscard"},
	}
}

// Missing says why the file system cannot be used here; it is empty when it can.
func (f FileSystem) Missing() string {
	if os.Getuid() != 0 {
		return "mounting needs root"
	}
	for _, dev := range []string{"/dev/fuse", "/dev/loop-control"} {
		d, err := os.OpenFile(dev, os.O_RDWR, 0)
		if err != nil {
			return err.Error()
		}
		d.Close()
	}
	if !f.known() && exec.Command("modprobe", f.Kind).Run() != nil && !f.known() {
		return "the kernel does not have it"
	}
	if _, err := exec.LookPath(f.Make[0]); err != nil {
		return err.Error()
	}
	return ""
}

// known says whether the kernel has the file system.
func (f FileSystem) known() bool {
	list, err := os.ReadFile("/proc/filesystems")
	return err == nil && slices.Contains(strings.Fields(string(list)), f.Kind)
}

func (f FileSystem) mkfs(device string) error {
	if out, err := exec.Command(f.Make[0], append(f.Make[1:], device)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", f.Make[0], err, out)
	}
	return nil
}

func (f FileSystem) mount(device, dir string) error {
	if f.Kind == "btrfs" {
		// btrfs remembers devices, and would take the disk for what it was before.
		if out, err := exec.Command("btrfs", "device", "scan", "--forget").CombinedOutput(); err != nil {
			return fmt.Errorf("making btrfs forget devices: %w: %s", err, out)
		}
	}
	if err := unix.Mount(device, dir, f.Kind, unix.MS_NOATIME, f.Options); err != nil {
		return fmt.Errorf("mounting %s: %w", f.Name, err)
	}
	return nil
}

// unmount ends a mount. It waits for whoever is still on its way out.
func unmount(dir string) error {
	if err := unix.Unmount(dir, 0); err != nil {
		return fmt.Errorf("unmounting %s: %w", dir, err)
	}
	return nil
}
