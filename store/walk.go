package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"satchel/store/manifest"
)

// walker goes through a tree in the order of a manifest and gives out one job for each entry.
type walker struct {
	*publisher
	ordered chan<- *job        // every entry, in order
	files   chan<- *job        // those that must be read
	survey  *manifest.Manifest // when it is set, entries go there, as far as they are known without reading
}

// job is one entry of the tree on its way into the manifest.
type job struct {
	entry  manifest.Entry
	skip   bool          // it has a problem, and no entry is made
	closed bool          // its mode is not that of the tree; see publisher.mode
	dir    *treeDir      // of a file
	name   string        // of a file in dir
	info   fs.FileInfo   // of a file, as the walk saw it
	done   chan struct{} // closed when entry is complete; nil when it was from the beginning
}

// treeDir is an open directory of the tree. Files are opened in it by their name alone; it is closed when the walk has
// left it and all its files are read.
type treeDir struct {
	root   *os.Root
	path   string // in the tree
	before stamp  // when it was opened
	refs   atomic.Int32
}

func openTree(tree string) (*treeDir, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	return newTreeDir(root, "")
}

func newTreeDir(root *os.Root, path string) (*treeDir, error) {
	fi, err := root.Stat(".")
	if err != nil {
		root.Close()
		return nil, err
	}
	d := &treeDir{root: root, path: path, before: stampOf(fi)}
	d.refs.Store(1)
	return d, nil
}

func (d *treeDir) hold() *treeDir {
	d.refs.Add(1)
	return d
}

// drop gives a directory up. The last one to do so looks whether it is as it was: names that came or went while the
// files were read would make a release of something that never existed.
func (p *publisher) drop(d *treeDir) {
	if d.refs.Add(-1) > 0 {
		return
	}
	if fi, err := d.root.Stat("."); err != nil || stampOf(fi) != d.before {
		p.problem(d.path, errChanged)
	}
	d.root.Close()
}

// dir visits what is in a directory. It returns only errors that end the walk.
func (w *walker) dir(ctx context.Context, d *treeDir) error {
	list, err := names(&disk{Root: d.root}, ".")
	if err != nil {
		w.problem(d.path, err)
		return nil
	}
	for _, name := range list {
		path := name
		if d.path != "" {
			path = d.path + "/" + name
		}
		if err := w.entry(ctx, d, name, path); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(ctx context.Context, d *treeDir, name, path string) error {
	if err := manifest.CheckPath(path); err != nil {
		w.problem(path, err)
		return nil
	}
	fi, err := d.root.Lstat(name)
	if isGone(err) {
		err = errChanged
	}
	if err != nil {
		w.problem(path, err)
		return nil
	}
	switch fi.Mode().Type() {
	case 0:
		j := &job{name: name, info: fi, done: make(chan struct{})}
		j.entry = manifest.Entry{Path: path, Type: manifest.File}
		if w.survey != nil {
			j.entry.Mode, _ = w.mode(fi)
			return w.send(ctx, j)
		}
		j.dir = d.hold()
		return w.sendFile(ctx, j)
	case fs.ModeDir:
		return w.subdir(ctx, d, name, path, fi)
	case fs.ModeSymlink:
		return w.link(ctx, d, name, path)
	}
	w.problem(path, fmt.Errorf("%s; only files, directories and symbolic links can be in a release", kind(fi)))
	return nil
}

func kind(fi fs.FileInfo) string {
	switch fi.Mode().Type() {
	case fs.ModeNamedPipe:
		return "a named pipe (FIFO)"
	case fs.ModeSocket:
		return "a socket"
	case fs.ModeDevice:
		return "a block device"
	case fs.ModeDevice | fs.ModeCharDevice:
		return "a character device"
	}
	return "of an unknown type"
}

func (w *walker) subdir(ctx context.Context, d *treeDir, name, path string, fi fs.FileInfo) error {
	if os.SameFile(fi, w.storeInfo) {
		w.problem(path, errors.New("it is the store itself"))
		return nil
	}
	j := &job{entry: manifest.Entry{Path: path, Type: manifest.Dir}}
	j.entry.Mode, j.closed = w.mode(fi)
	if err := w.send(ctx, j); err != nil {
		return err
	}
	root, err := d.root.OpenRoot(name)
	if err != nil {
		w.problem(path, err)
		return nil
	}
	sub, err := newTreeDir(root, path)
	if err != nil {
		w.problem(path, err)
		return nil
	}
	defer w.drop(sub)
	if sub.before != stampOf(fi) {
		w.problem(path, errChanged) // or a link was put in its place
		return nil
	}
	return w.dir(ctx, sub)
}

func (w *walker) link(ctx context.Context, d *treeDir, name, path string) error {
	target, err := d.root.Readlink(name)
	if err == nil {
		err = manifest.CheckLink(target)
	}
	if err != nil {
		w.problem(path, err)
		return nil
	}
	return w.send(ctx, &job{entry: manifest.Entry{Path: path, Type: manifest.Symlink, Mode: 0o777, Link: target}})
}

// sendFile gives a file to the readers first: what is in ordered is waited for.
func (w *walker) sendFile(ctx context.Context, j *job) error {
	select {
	case w.files <- j:
		return w.send(ctx, j)
	case <-ctx.Done():
		w.drop(j.dir)
		return context.Cause(ctx)
	}
}

func (w *walker) send(ctx context.Context, j *job) error {
	if w.survey != nil {
		w.survey.Entries = append(w.survey.Entries, j.entry)
		return ctx.Err()
	}
	select {
	case w.ordered <- j:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// open opens a file of the tree for reading, without waiting for anybody at the other end. If a link was put in its place since
// the walk saw it, it is another file.
func (d *treeDir) open(name string, was fs.FileInfo) (*os.File, fs.FileInfo, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|largeFile, 0)
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err == nil && !os.SameFile(was, fi) {
		err = errChanged
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, fi, nil
}
