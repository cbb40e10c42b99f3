package store

import (
	"errors"
	"io/fs"
	"os"
	"path"
)

// disk is a directory of the store. What it embeds is for reading; the methods here are the only ones that change what is on
// the disk, with those of files that are called through change.
type disk struct {
	*os.Root
	at   string // path from the store's directory; "." is that itself
	hook Hook
}

// Hook is asked before each change of the disk; its error takes the place of the change. With [ErrSkip] the change is left out,
// and counts as done. It may be called by several goroutines at once.
type Hook func(op, path string) error

// ErrSkip is what a [Hook] gives for a change that is to be left out.
var ErrSkip = errors.New("skip")

// OpenHook is [Open] for crash tests, here and in other packages.
func OpenHook(dir string, h Hook) (*Store, error) { return open(dir, h) }

// change makes one change of what has the name.
func (d *disk) change(op, name string, call func() error) error {
	if d.hook != nil {
		if err := d.hook(op, path.Join(d.at, name)); err == ErrSkip {
			return nil
		} else if err != nil {
			return &fs.PathError{Op: op, Path: path.Join(d.at, name), Err: err}
		}
	}
	return call()
}

// OpenRoot opens a directory.
func (d *disk) OpenRoot(name string) (*disk, error) {
	root, err := d.Root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	return &disk{root, path.Join(d.at, name), d.hook}, nil
}

// OpenFile opens a file. To make one changes the disk.
func (d *disk) OpenFile(name string, how int, mode os.FileMode) (f *os.File, err error) {
	if how&os.O_CREATE == 0 {
		return d.Root.OpenFile(name, how, mode)
	}
	err = d.change("creating", name, func() (err error) {
		f, err = d.Root.OpenFile(name, how, mode)
		return err
	})
	return f, err
}

// Mkdir makes a directory.
func (d *disk) Mkdir(name string, mode os.FileMode) error {
	return d.change("making directory", name, func() error { return d.Root.Mkdir(name, mode) })
}

// Chmod sets the permission bits of what has the name.
func (d *disk) Chmod(name string, mode os.FileMode) error {
	return d.change("setting mode of", name, func() error { return d.Root.Chmod(name, mode) })
}

// Rename gives what has a name another one; what had that is gone.
func (d *disk) Rename(from, to string) error {
	return d.change("renaming", from, func() error { return d.Root.Rename(from, to) })
}

// Remove removes a file or an empty directory.
func (d *disk) Remove(name string) error {
	return d.change("removing", name, func() error { return d.Root.Remove(name) })
}

// RemoveAll removes what has the name and all that is in it. That there is nothing is no error.
func (d *disk) RemoveAll(name string) error {
	return d.change("removing", name, func() error { return d.Root.RemoveAll(name) })
}

// write appends data to a file.
func (d *disk) write(f *os.File, name string, data []byte) error {
	return d.change("writing", name, func() error { _, err := f.Write(data); return err })
}

// writeAt writes data into a file.
func (d *disk) writeAt(f *os.File, name string, data []byte, off int64) error {
	return d.change("writing", name, func() error { _, err := f.WriteAt(data, off); return err })
}

// truncate gives a file its length.
func (d *disk) truncate(f *os.File, name string, size int64) error {
	return d.change("truncating", name, func() error { return f.Truncate(size) })
}

// seal gives a file that will not be written to again its permission bits and the fixed time.
func (d *disk) seal(f *os.File, name string, mode uint32) error {
	return d.change("setting mode of", name, func() error { return seal(f, mode) })
}

// sync makes the content of a file durable.
func (d *disk) sync(f *os.File, name string) error { return d.change("syncing", name, f.Sync) }

// fill gives dst, an empty file, the content of src.
func (d *disk) fill(dst *os.File, name string, src *os.File) error {
	return d.change("copying", name, func() error { return fill(dst, src) })
}

// syncFS makes everything durable that was written to the file system before; file is the directory, open.
func (d *disk) syncFS(file *os.File) error {
	return d.change("syncing file system of", "", func() error { return syncFS(file) })
}
