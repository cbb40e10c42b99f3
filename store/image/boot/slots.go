package boot

import (
	"fmt"
	"os"
	"strings"
)

// Disk is the image directory, as far as the record needs it. Names are single components; no symbolic link is followed.
type Disk interface {
	// ReadFile reads a regular file of at most limit bytes.
	ReadFile(name string, limit int64) ([]byte, error)
	// WriteFile makes a new file; what is in it is durable when it returns without an error, its name is not.
	WriteFile(name string, text []byte) error
	Rename(from, to string) error
	// Remove removes a file. That there is none is no error.
	Remove(name string) error
	// Sync makes the names in the directory durable.
	Sync() error
}

// SlotName is the name of a slot, 0 or 1.
func SlotName(slot int) string { return fmt.Sprintf("boot.%d", slot) }

const tmpSuffix = ".tmp"

// Read gives the record in force and the slot that holds it. A slot that cannot be read counts as empty. When there is no sound one,
// the record is empty, and slot is 1, so that the first one is written to slot 0.
func Read(d Disk) (r Record, slot int) {
	slot = 1
	for i := range 2 {
		text, err := d.ReadFile(SlotName(i), MaxRecord)
		if err != nil {
			continue
		}
		if found, err := Parse(text); err == nil && found.Generation > r.Generation {
			r, slot = found, i
		}
	}
	return r, slot
}

// Write writes a record, whose generation must be above the one in force, into the slot that is not in force. The rename is the
// moment of the change; when Write returns without an error, it is durable. After an error it may or may not have happened: read again.
//
// These system calls are made: openat O_EXCL, write, fsync, close, renameat, fsync of the directory. After an fsync that gave an
// error the file is discarded, never synced again: the second call would lie.
func Write(d Disk, slot int, r Record) error {
	text := r.Encode()
	if _, err := Parse(text); err != nil { // too long, or more failures than fit
		return fmt.Errorf("writing boot record: %w", err)
	}
	if err := write(d, SlotName(slot), text); err != nil {
		return fmt.Errorf("writing boot record: %w", err)
	}
	return nil
}

func write(d Disk, name string, text []byte) error {
	tmp := name + tmpSuffix
	if err := d.Remove(tmp); err != nil {
		return err
	}
	if err := d.WriteFile(tmp, text); err != nil {
		d.Remove(tmp)
		return err
	}
	if err := d.Rename(tmp, name); err != nil {
		d.Remove(tmp)
		return err
	}
	return d.Sync()
}

// ID is the kernel's name for this boot, or empty when it cannot be had: /proc must be mounted.
func ID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	id := strings.TrimSpace(string(text))
	if err != nil || !validBootID(id) {
		return ""
	}
	return id
}
