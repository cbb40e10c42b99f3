package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// Plan says what deployment is to be built.
type Plan struct {
	Parts    []Part              // at least one, one for each product
	From     string              // id of the deployment whose local changes are carried over; empty: the live one
	Converge bool                // carry nothing over: the tree is exactly what a fresh machine would have
	Progress func(StageProgress) // called by one goroutine at a time; may be nil
}

// StageProgress says how far [Image.Stage] has come.
type StageProgress struct {
	Phase       string // one of the Phase constants
	Done, Total int    // entries
	Bytes       uint64 // of the files among them
}

// Phases of [Image.Stage], in words for people.
const (
	PhaseLay    = "laying down"
	PhaseSync   = "syncing"
	PhaseVerify = "verifying"
)

func (p *Plan) progress(phase string, done, total int, bytes uint64) {
	if p.Progress != nil {
		p.Progress(StageProgress{phase, done, total, bytes})
	}
}

// Stage builds the deployment of some releases beside the others, from blobs that must all be there. When it returns without an
// error the tree is complete and durable, but not yet live; when the deployment was there already, nothing is done. On
// an error, or when the context ends, the clone is removed and nothing else has changed. A path of two products is an error
// that names both, and so are names of two products that some file systems take for one.
//
// Before the tree gets its name, all that it did not share with the deployment of p.From already is read from the medium, and so is
// every file whose modification time says that somebody wrote to it. A blob whose file turns out to have other content is
// discarded; the error then has [store.ErrMismatch] in its chain, and to fetch what is missing and to stage again helps.
func (im *Image) Stage(ctx context.Context, p Plan, b Blobs) (Deployment, error) {
	d, err := im.stage(ctx, p, b)
	if err != nil {
		return Deployment{}, fmt.Errorf("staging%s: %w", p.names(), err)
	}
	return d, nil
}

// names tells the releases, for people, each with a space before.
func (p *Plan) names() (s string) {
	for _, part := range p.Parts {
		s += " " + part.Release.Product + " " + part.Release.Version
	}
	return s
}

func (im *Image) stage(ctx context.Context, p Plan, b Blobs) (Deployment, error) {
	parts, err := sortParts(p.Parts)
	if err != nil {
		return Deployment{}, err
	}
	l, err := compose(parts)
	if err != nil {
		return Deployment{}, err
	}
	if err := acquire(ctx, im.building); err != nil {
		return Deployment{}, err
	}
	defer func() { <-im.building }()
	d, err := im.next(parts)
	if err != nil {
		return d, err
	}
	if old, ok, err := im.existing(ctx, d, l); ok || err != nil {
		return old, err
	}
	clone := d.ID + tmpSuffix
	if err := im.deploy.removeAll(clone); err != nil {
		return d, err
	}
	if err = im.build(ctx, clone, l, b, &p); err == nil {
		err = im.settle(d)
	}
	if err != nil {
		return d, errors.Join(err, im.deploy.unlink(d.ID+infoSuffix), im.deploy.removeAll(clone))
	}
	return d, nil
}

// next describes the deployment that is to come.
func (im *Image) next(parts []Part) (Deployment, error) {
	list, err := im.List()
	if err != nil {
		return Deployment{}, err
	}
	d := Deployment{Created: time.Now().UTC().Truncate(time.Second), number: 1}
	for _, p := range parts {
		d.Releases = append(d.Releases, p.Release)
		d.Patches = append(d.Patches, p.Manifest.Terms.Patches...)
	}
	slices.Sort(d.Patches)
	d.Patches = slices.Compact(d.Patches)
	d.ID = idOf(d.Releases)
	if n := len(list); n > 0 {
		d.number = list[n-1].number + 1
	}
	return d, nil
}

// existing finds the deployment of the same releases. One whose description was lost is trusted only after reading all of it.
func (im *Image) existing(ctx context.Context, want Deployment, l *layout) (Deployment, bool, error) {
	id := want.ID
	kind, err := im.deploy.kind(id)
	if kind != 0 && kind != unix.S_IFDIR {
		err = fmt.Errorf("%s is %s, where a tree must be; move it away", im.deploy.at(id), kindName(kind))
	}
	if err != nil || kind == 0 {
		return Deployment{}, false, err
	}
	d, sound := im.load(id)
	for i := range d.Releases {
		if sound && d.Releases[i].Manifest != want.Releases[i].Manifest {
			return d, false, fmt.Errorf("deployment %s is of another manifest, %v", id, d.Releases[i].Manifest)
		}
	}
	if sound {
		return d, true, nil
	}
	problems, err := im.compare(ctx, id, l, nil)
	if err != nil {
		return d, false, err
	}
	if len(problems) == 0 {
		err := im.writeInfo(want)
		if err == nil {
			err = im.deploy.sync()
		}
		return want, err == nil, err
	}
	return d, false, im.Destroy(id)
}

// build makes the clone and proves it.
func (im *Image) build(ctx context.Context, clone string, l *layout, b Blobs, p *Plan) error {
	top, err := im.deploy.mkdir(clone)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	files := &lookahead{ctx: ctx, blobs: b, entries: l.entries}
	defer files.wait()
	defer cancel()
	t := &tree{placer: placer{im: im, blobs: b, files: files, proved: im.provedBlobs(p, b)}, open: []level{{dir: top, mode: 0o755}}}
	defer t.close()
	var bytes uint64
	for i, e := range l.entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.add(ctx, e); err != nil {
			return err
		}
		bytes += e.Size
		p.progress(PhaseLay, i+1, len(l.entries), bytes)
	}
	if err := t.finish(); err != nil {
		return err
	}
	p.progress(PhaseSync, 0, 0, 0)
	if err := im.deploy.syncFS(); err != nil {
		return err
	}
	return im.prove(ctx, clone, t.doubt, b, p)
}

// settle gives a clone that is complete, durable and proved its name. It makes these system calls: the description is written and
// synced, renameat, fsync of the deploy directory.
func (im *Image) settle(d Deployment) error {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	if err := im.writeInfo(d); err != nil {
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
