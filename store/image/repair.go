package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// Repair makes the entries with problems what the manifests of its releases say, and removes those that are in none. Each entry is
// replaced by rename, so that whoever uses a live tree sees the old file or the new one, and a file that others
// have open stays as it is for them. Each blob is read again before it takes its place; one that is damaged is discarded, and
// the error, with [store.ErrMismatch] in its chain, names it. Nothing outside the tree is touched, whatever symbolic links are in it. On an error the
// entries that were replaced stay so; to repair again does the rest.
func (im *Image) Repair(ctx context.Context, id string, b Blobs, problems []Problem) error {
	if err := im.repair(ctx, id, b, problems); err != nil {
		return fmt.Errorf("repairing %s: %w", id, err)
	}
	return nil
}

func (im *Image) repair(ctx context.Context, id string, b Blobs, problems []Problem) (err error) {
	if err := acquire(ctx, im.building); err != nil {
		return err
	}
	defer func() { <-im.building }()
	l, err := im.layout(id, b)
	if err != nil {
		return err
	}
	fix := &repairer{placer: placer{im: im, blobs: b, files: one{b}, apart: func(path string) bool { return covers(l.config, path) }},
		name: id, buf: make([]byte, contentBuffer)}
	return fix.run(ctx, l.plan(problems), func(int) {})
}

// task is one path to put right; entry is nil when there should be nothing.
type task struct {
	path  string
	entry *manifest.Entry
}

// plan brings the problems into the manifest's order, so that a directory comes before what is in it.
func (l *layout) plan(problems []Problem) []task {
	var tasks []task
	for _, p := range problems {
		t := task{path: p.Path}
		t.entry = l.find(p.Path)
		tasks = append(tasks, t)
	}
	slices.SortFunc(tasks, func(a, b task) int { return manifest.Compare(a.path, b.path) })
	return slices.CompactFunc(tasks, func(a, b task) bool { return a.path == b.path })
}

type repairer struct {
	placer
	name  string // of the tree below deploy
	tree  *dir
	spare *dir   // holds the replacement of task i under the name i
	buf   []byte // for reading replacements again before they are used; nil: that is not done
}

// one finds the file of one entry.
type one struct{ blobs Blobs }

func (o one) find(e *manifest.Entry) (string, error) { return o.blobs.BlobFile(e.Blob, e.Mode) }

func (r *repairer) run(ctx context.Context, tasks []task, progress func(done int)) (err error) {
	if r.tree, err = r.im.deploy.sub(r.name); err != nil {
		return err
	}
	defer r.tree.close()
	return r.im.withSpare(r.name, func(spare *dir) error {
		r.spare = spare
		return r.replaceAll(ctx, tasks, progress)
	})
}

// replaceAll makes all replacements durable before the first of them is used. The modes of directories come last, from the inside out.
func (r *repairer) replaceAll(ctx context.Context, tasks []task, progress func(done int)) error {
	for i, t := range tasks {
		if err := r.prepare(ctx, strconv.Itoa(i), t.entry); err != nil {
			return err
		}
		progress(i + 1)
	}
	if err := r.spare.syncFS(); err != nil {
		return err
	}
	for i, t := range tasks {
		if err := r.check(ctx, strconv.Itoa(i), t.entry); err != nil {
			return err
		}
	}
	for i, t := range tasks {
		if err := r.replace(strconv.Itoa(i), t); err != nil {
			return err
		}
	}
	for _, t := range slices.Backward(tasks) {
		if err := r.setDirMode(t); err != nil {
			return err
		}
	}
	return r.tree.syncFS()
}

// prepare makes a replacement.
func (r *repairer) prepare(ctx context.Context, name string, e *manifest.Entry) error {
	if err := ctx.Err(); err != nil || e == nil {
		return err
	}
	switch e.Type {
	case manifest.Symlink:
		return r.spare.symlink(e.Link, name)
	case manifest.File:
		return r.place(ctx, r.spare, name, e)
	}
	return nil
}

// check reads a replacement from the medium.
func (r *repairer) check(ctx context.Context, name string, e *manifest.Entry) error {
	if r.buf == nil || e == nil || e.Type != manifest.File {
		return nil
	}
	f, err := r.spare.open(name)
	if forbidden(err, e) {
		f, _, err = r.blobs.OpenBlob(e.Blob)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	forget(f)
	good, err := hasContent(ctx, f, e.Blob, r.buf)
	if err == nil && !good {
		err = discard(r.blobs, e, "has other content too")
	}
	return err
}

func (r *repairer) replace(name string, t task) error {
	in, last, err := r.parent(t.path)
	if err != nil {
		return err
	}
	defer in.close()
	return in.writable(func() error { return r.replaceIn(in, last, name, t.entry) })
}

func (r *repairer) replaceIn(in *dir, last, name string, e *manifest.Entry) error {
	kind, err := in.kind(last)
	switch {
	case err != nil:
		return err
	case e == nil:
		return in.removeAll(last)
	case e.Type == manifest.Dir && kind == unix.S_IFDIR:
		return nil
	case kind == unix.S_IFDIR || e.Type == manifest.Dir:
		if err := in.removeAll(last); err != nil {
			return err
		}
	}
	if e.Type == manifest.Dir {
		made, err := in.mkdir(last)
		if err == nil {
			made.close()
		}
		return err
	}
	return r.spare.rename(name, in, last)
}

func (r *repairer) setDirMode(t task) error {
	if t.entry == nil || t.entry.Type != manifest.Dir {
		return nil
	}
	in, last, err := r.parent(t.path)
	if err != nil {
		return err
	}
	defer in.close()
	d, err := in.subAnyway(last)
	if err != nil {
		return err
	}
	defer d.close()
	return d.chmod(t.entry.Mode)
}

// parent opens the directory that holds a path, one component after the other.
func (r *repairer) parent(path string) (in *dir, last string, err error) {
	parts := strings.Split(path, "/")
	in, err = r.tree.again()
	for _, name := range parts[:len(parts)-1] {
		if err != nil {
			return nil, "", err
		}
		next, nextErr := in.sub(name)
		in.close()
		in, err = next, nextErr
	}
	return in, parts[len(parts)-1], err
}

// writable runs do while the owner may change the directory, and gives the directory its mode back.
func (d *dir) writable(do func() error) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd(), &st); err != nil {
		return err
	}
	if st.Mode&0o700 == 0o700 {
		return do()
	}
	if err := d.chmod(st.Mode&0o7777 | 0o700); err != nil {
		return err
	}
	return errors.Join(do(), d.chmod(st.Mode&0o7777))
}

// subAnyway opens a directory that its mode may forbid to open.
func (d *dir) subAnyway(name string) (*dir, error) {
	sub, err := d.sub(name)
	if isOneOf(err, unix.EACCES) {
		if err := d.permit(name); err != nil {
			return nil, err
		}
		sub, err = d.sub(name)
	}
	return sub, err
}
