package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// Change is one difference between two trees.
type Change struct {
	Path string
	What string // added, removed or changed
}

// What a [Change] can be.
const (
	ChangeAdded   = "added"   // only the second tree has it
	ChangeRemoved = "removed" // only the first tree has it
	ChangeChanged = "changed" // in type, mode, content or target
)

// Diff compares the trees of two deployments. Files that are not the same file are read, when their sizes are equal. Of a
// directory that only one tree has all entries are told. The changes come in a manifest's order.
func (im *Image) Diff(ctx context.Context, a, b string) ([]Change, error) {
	f := &differ{ctx: ctx, one: make([]byte, copyBuffer), two: make([]byte, copyBuffer)}
	var trees [2]*dir
	for i, id := range []string{a, b} {
		err := im.need(id)
		if err == nil {
			trees[i], err = im.deploy.sub(id)
		}
		if err != nil {
			return nil, fmt.Errorf("comparing %s with %s: %w", a, b, err)
		}
		defer trees[i].close()
	}
	if err := f.dirs(trees[0], trees[1], ""); err != nil {
		return nil, fmt.Errorf("comparing %s with %s: %w", a, b, err)
	}
	slices.SortFunc(f.changes, func(x, y Change) int { return manifest.Compare(x.Path, y.Path) })
	return f.changes, nil
}

type differ struct {
	ctx      context.Context
	changes  []Change
	one, two []byte
}

// dirs compares two directories, one of which may be nil; prefix is their path and a slash.
func (f *differ) dirs(a, b *dir, prefix string) error {
	var names []string
	for _, d := range []*dir{a, b} {
		if d == nil {
			continue
		}
		list, err := d.names(-1)
		if err != nil {
			return err
		}
		names = append(names, list...)
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		if err := f.entry(a, b, name, prefix+name); err != nil {
			return err
		}
	}
	return nil
}

func (f *differ) entry(a, b *dir, name, path string) error {
	one, err := statOrNone(a, name)
	if err != nil {
		return err
	}
	two, err := statOrNone(b, name)
	if err != nil {
		return err
	}
	what := ""
	switch {
	case one.Mode == 0:
		what = ChangeAdded
	case two.Mode == 0:
		what = ChangeRemoved
	case one.Mode != two.Mode:
		what = ChangeChanged
	default:
		same, err := f.same(a, b, name, &one, &two)
		if err != nil {
			return err
		}
		if !same {
			what = ChangeChanged
		}
	}
	if what != "" {
		f.changes = append(f.changes, Change{path, what})
	}
	return f.below(a, b, name, path, &one, &two)
}

// statOrNone gives mode 0 when there is nothing.
func statOrNone(d *dir, name string) (st unix.Stat_t, err error) {
	if d == nil {
		return st, nil
	}
	if st, err = d.lstat(name); isOneOf(err, unix.ENOENT) {
		return unix.Stat_t{}, nil
	}
	return st, err
}

// same compares two entries with the same type and mode.
func (f *differ) same(a, b *dir, name string, one, two *unix.Stat_t) (bool, error) {
	switch one.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		x, err := a.readlink(name)
		if err != nil {
			return false, err
		}
		y, err := b.readlink(name)
		return x == y, err
	case unix.S_IFREG:
		if one.Dev == two.Dev && one.Ino == two.Ino {
			return true, nil
		}
		if one.Size != two.Size {
			return false, nil
		}
		return f.content(a, b, name)
	}
	return true, nil
}

func (f *differ) content(a, b *dir, name string) (same bool, err error) {
	var files [2]*os.File
	for i, d := range []*dir{a, b} {
		if files[i], err = d.open(name); err != nil {
			return false, err
		}
		defer files[i].Close()
	}
	for {
		if err := f.ctx.Err(); err != nil {
			return false, err
		}
		n, err1 := io.ReadFull(files[0], f.one)
		m, err2 := io.ReadFull(files[1], f.two)
		if !bytes.Equal(f.one[:n], f.two[:m]) {
			return false, nil
		}
		if err1 == nil && err2 == nil {
			continue
		}
		for _, err := range []error{err1, err2} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		return true, nil
	}
}

func (f *differ) below(a, b *dir, name, path string, one, two *unix.Stat_t) (err error) {
	var subs [2]*dir
	for i, c := range []struct {
		in *dir
		st *unix.Stat_t
	}{{a, one}, {b, two}} {
		if c.st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if subs[i], err = c.in.sub(name); err != nil {
			return err
		}
		defer subs[i].close()
	}
	if subs[0] == nil && subs[1] == nil {
		return nil
	}
	return f.dirs(subs[0], subs[1], path+"/")
}
