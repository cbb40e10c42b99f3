package image

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// Stage builds the deployment of a release beside the others, from blobs that must all be there. When it returns without an
// error the tree is complete and durable, but not yet live; when the deployment was there already, nothing is done. On
// an error, or when the context ends, the clone is removed and nothing else has changed.
//
// progress, when not nil, is called after each entry, by the goroutine that called Stage.
//
// What was written is not read again: that is for [Image.Verify].
func (im *Image) Stage(ctx context.Context, r Release, m *manifest.Manifest, b Blobs, progress func(done, total int)) (Deployment, error) {
	if m.Product != r.Product || m.Epoch != r.Epoch || m.Seq != r.Seq {
		return Deployment{}, otherManifest(r, m)
	}
	return im.stageAs(ctx, r, m, b, progress)
}

// StageRecall is Stage for a release with the content of an older one: its manifest is the older one's, of the same product
// and with a lower (epoch, seq). The tree becomes a deployment of its own, also beside that of the older release.
func (im *Image) StageRecall(ctx context.Context, r Release, m *manifest.Manifest, b Blobs, progress func(done, total int)) (Deployment, error) {
	if m.Product != r.Product || m.Epoch > r.Epoch || m.Epoch == r.Epoch && m.Seq >= r.Seq {
		return Deployment{}, otherManifest(r, m)
	}
	return im.stageAs(ctx, r, m, b, progress)
}

func otherManifest(r Release, m *manifest.Manifest) error {
	return fmt.Errorf("staging %s %s: manifest is of %s, epoch %d, seq %d", r.Product, r.Version, m.Product, m.Epoch, m.Seq)
}

func (im *Image) stageAs(ctx context.Context, r Release, m *manifest.Manifest, b Blobs, progress func(done, total int)) (Deployment, error) {
	d, err := im.stage(ctx, r, m, b, progress)
	if err != nil {
		return Deployment{}, fmt.Errorf("staging %s %s: %w", r.Product, r.Version, err)
	}
	return d, nil
}

func (im *Image) stage(ctx context.Context, r Release, m *manifest.Manifest, b Blobs, progress func(done, total int)) (Deployment, error) {
	if err := r.check(); err != nil {
		return Deployment{}, err
	}
	if err := acquire(ctx, im.building); err != nil {
		return Deployment{}, err
	}
	defer func() { <-im.building }()
	if d, ok, err := im.existing(ctx, r, m); ok || err != nil {
		return d, err
	}
	d, err := im.next(r)
	if err != nil {
		return d, err
	}
	clone := d.ID + tmpSuffix
	if err := im.deploy.removeAll(clone); err != nil {
		return d, err
	}
	err = im.build(ctx, clone, m, b, progress)
	if err == nil {
		err = im.settle(d)
	}
	if err != nil {
		return d, errors.Join(err, im.deploy.unlink(d.ID+infoSuffix), im.deploy.removeAll(clone))
	}
	return d, nil
}

// next describes the deployment that is to come.
func (im *Image) next(r Release) (Deployment, error) {
	list, err := im.List()
	if err != nil {
		return Deployment{}, err
	}
	d := Deployment{ID: r.ID(), Release: r, Created: time.Now().UTC().Truncate(time.Second), number: 1}
	if n := len(list); n > 0 {
		d.number = list[n-1].number + 1
	}
	return d, nil
}

// existing finds the release's deployment. One whose description was lost is trusted only after reading all of it.
func (im *Image) existing(ctx context.Context, r Release, m *manifest.Manifest) (Deployment, bool, error) {
	id := r.ID()
	kind, err := im.deploy.kind(id)
	if kind != 0 && kind != unix.S_IFDIR {
		err = fmt.Errorf("%s is %s, where a tree must be; move it away", im.deploy.at(id), kindName(kind))
	}
	if err != nil || kind == 0 {
		return Deployment{}, false, err
	}
	d, sound := im.load(id)
	if sound && d.Release.Manifest != r.Manifest {
		return d, false, fmt.Errorf("deployment %s is of another manifest, %v", id, d.Release.Manifest)
	}
	if sound {
		return d, true, nil
	}
	problems, err := im.Verify(ctx, id, m, nil)
	if err != nil {
		return d, false, err
	}
	if len(problems) == 0 {
		d, err := im.next(r)
		if err == nil {
			err = im.writeInfo(d)
		}
		if err == nil {
			err = im.deploy.sync()
		}
		return d, err == nil, err
	}
	return d, false, im.Destroy(id)
}

// build makes the clone.
func (im *Image) build(ctx context.Context, clone string, m *manifest.Manifest, b Blobs, progress func(done, total int)) error {
	top, err := im.deploy.mkdir(clone)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	files := &lookahead{ctx: ctx, blobs: b, entries: m.Entries}
	defer files.wait()
	defer cancel()
	t := &tree{placer: placer{im, b, files}, open: []level{{dir: top, mode: 0o755}}}
	defer t.close()
	for i := range m.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.add(ctx, &m.Entries[i]); err != nil {
			return err
		}
		if progress != nil {
			progress(i+1, len(m.Entries))
		}
	}
	return t.finish()
}

// settle gives a complete clone its name. It makes these system calls: the description is written and synced, syncfs, renameat,
// fsync of the deploy directory.
func (im *Image) settle(d Deployment) error {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	if err := im.writeInfo(d); err != nil {
		return err
	}
	if err := im.deploy.syncFS(); err != nil {
		return err
	}
	if err := im.deploy.rename(d.ID+tmpSuffix, im.deploy, d.ID); err != nil {
		return err
	}
	if err := im.deploy.sync(); err != nil { // the rename may not last
		return errors.Join(err, im.deploy.rename(d.ID, im.deploy, d.ID+tmpSuffix))
	}
	return nil
}

// tree is a clone while it is built. Entries come in the manifest's order, so that only the directories on the way to the last
// one are open.
type tree struct {
	placer
	open []level // outermost first
}

type level struct {
	dir  *dir
	path string // in the tree
	mode uint32 // set when the directory is complete: it may forbid to write
}

func (t *tree) add(ctx context.Context, e *manifest.Entry) error {
	parent, name := splitPath(e.Path)
	if err := t.leaveTo(parent); err != nil {
		return err
	}
	in := t.open[len(t.open)-1].dir
	if e.Mode&^0o7777 != 0 {
		return fmt.Errorf("%s: mode %#o", e.Path, e.Mode)
	}
	switch e.Type {
	case manifest.Dir:
		sub, err := in.mkdir(name)
		if err != nil {
			return err
		}
		t.open = append(t.open, level{dir: sub, path: e.Path, mode: e.Mode})
		return nil
	case manifest.File:
		return t.place(ctx, in, name, e)
	case manifest.Symlink:
		return in.symlink(e.Link, name)
	}
	return fmt.Errorf("%s: unknown %v", e.Path, e.Type)
}

// splitPath splits a path into the directory, empty for the tree itself, and the name in it.
func splitPath(path string) (parent, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// leaveTo completes the directories that the next entry is not in.
func (t *tree) leaveTo(parent string) error {
	for len(t.open) > 1 && t.open[len(t.open)-1].path != parent {
		if err := t.leave(); err != nil {
			return err
		}
	}
	if t.open[len(t.open)-1].path != parent {
		return fmt.Errorf("manifest out of order: no directory %q", parent)
	}
	return nil
}

func (t *tree) leave() error {
	l := t.open[len(t.open)-1]
	t.open = t.open[:len(t.open)-1]
	defer l.dir.close()
	return l.dir.chmod(l.mode)
}

func (t *tree) finish() error {
	for len(t.open) > 0 {
		if err := t.leave(); err != nil {
			return err
		}
	}
	return nil
}

func (t *tree) close() {
	for _, l := range t.open {
		l.dir.close()
	}
}
