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
	if old, ok, err := im.existing(ctx, &d, l, p.Converge); ok || err != nil {
		return old, err
	}
	s := &staging{Plan: p, im: im, layout: l, blobs: b}
	if s.from, err = im.start(&p); err != nil {
		return d, err
	}
	defer im.protect(s.from.ID)()
	if err := s.run(ctx, &d); err != nil {
		return d, errors.Join(err, im.deploy.unlink(d.ID+infoSuffix), im.deploy.removeAll(d.ID+tmpSuffix))
	}
	return d, nil
}

// start finds the deployment that a plan starts from. It has no id when there is none.
func (im *Image) start(p *Plan) (Deployment, error) {
	if p.From == "" {
		d, _ := im.Live()
		return d, nil
	}
	if err := im.need(p.From); err != nil {
		return Deployment{}, err
	}
	d, _ := im.load(p.From)
	return d, nil
}

// staging is one run of Stage.
type staging struct {
	Plan
	im     *Image
	layout *layout
	blobs  Blobs
	from   Deployment // has no id when there is none
	old    *layout    // of from; nil when that is not known
}

// run makes the clone, proves it, carries over what is the person's, and gives it its name.
func (s *staging) run(ctx context.Context, d *Deployment) error {
	clone := d.ID + tmpSuffix
	if err := s.im.deploy.removeAll(clone); err != nil {
		return err
	}
	if s.from.ID != "" {
		s.old, _ = s.im.layout(s.from.ID, s.blobs) // without it all is new
	}
	if err := s.build(ctx, clone); err != nil {
		return err
	}
	d.config = s.layout.config
	if s.from.ID != "" && !s.Converge {
		if err := s.im.merge(ctx, s.from, s.old, clone, d, s.layout, s.blobs); err != nil {
			return fmt.Errorf("carrying over the configuration of %s: %w", s.from.ID, err)
		}
	}
	use, done, err := s.im.fill(ctx, s.from.ID, s.layout, s.blobs)
	if err != nil {
		return err
	}
	err = s.im.settle(*d, use)
	_ = done() // Open removes what is left
	return err
}

// next describes the deployment that is to come.
func (im *Image) next(parts []Part) (Deployment, error) {
	number, err := im.nextNumber()
	if err != nil {
		return Deployment{}, err
	}
	d := Deployment{Created: time.Now().UTC().Truncate(time.Second), number: number}
	for _, p := range parts {
		d.Releases = append(d.Releases, p.Release)
		d.Patches = append(d.Patches, p.Manifest.Terms.Patches...)
	}
	slices.Sort(d.Patches)
	d.Patches = slices.Compact(d.Patches)
	d.ID = idOf(d.Releases)
	return d, nil
}

// nextNumber is one more than any deployment has.
func (im *Image) nextNumber() (int64, error) {
	list, err := im.List()
	if err != nil || len(list) == 0 {
		return 1, err
	}
	return list[len(list)-1].number + 1, nil
}

// existing finds the deployment of the same releases. One whose description was lost is trusted only after reading all of it, and so is
// one that must have no local changes. When such a deployment has some and is in use, the new one gets another id.
func (im *Image) existing(ctx context.Context, want *Deployment, l *layout, converge bool) (Deployment, bool, error) {
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
	if sound && !converge {
		return d, true, nil
	}
	strict := *l
	if converge {
		strict.config = nil
	}
	problems, err := im.compare(ctx, id, &strict, nil)
	switch {
	case err != nil:
		return d, false, err
	case len(problems) > 0:
		err := im.Destroy(id)
		if converge && errors.Is(err, ErrInUse) {
			want.ID, err = fmt.Sprintf("fresh-%d", want.number), nil
		}
		return d, false, err
	case sound:
		return d, true, nil
	}
	want.config = l.config
	err = im.writeInfo(*want)
	if err == nil {
		err = im.deploy.sync()
	}
	return *want, err == nil, err
}

// build makes the clone and proves it. Where a snapshot of the deployment before can be had, only what differs is laid down.
func (s *staging) build(ctx context.Context, clone string) error {
	lay := s.layDown
	if s.old != nil && !s.Converge && s.im.snapshot(s.from.ID, clone) {
		lay = s.layDifference
	}
	doubt, err := lay(ctx, clone)
	if err != nil {
		return err
	}
	s.progress(PhaseSync, 0, 0, 0)
	if err := s.im.deploy.syncFS(); err != nil {
		return err
	}
	return s.im.prove(ctx, clone, doubt, s.blobs, &s.Plan)
}

// placer makes files of the clone. Those that the person may change are their own.
func (s *staging) placer(files finder) placer {
	return placer{im: s.im, blobs: s.blobs, files: files, proved: s.proved(),
		apart: func(path string) bool { return covers(s.layout.config, path) }}
}

// layDown makes all of the tree, and gives the files that must be read again.
func (s *staging) layDown(ctx context.Context, clone string) ([]*manifest.Entry, error) {
	top, err := s.im.makeTree(clone)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	files := &lookahead{ctx: ctx, blobs: s.blobs, entries: s.layout.entries}
	defer files.wait()
	defer cancel()
	t := &tree{placer: s.placer(files), open: []level{{dir: top, mode: 0o755}}}
	defer t.close()
	var bytes uint64
	for i, e := range s.layout.entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := t.add(ctx, e); err != nil {
			return nil, err
		}
		bytes += e.Size
		s.progress(PhaseLay, i+1, len(s.layout.entries), bytes)
	}
	return t.doubt, t.finish()
}

// layDifference makes a snapshot of the deployment before the new tree, and gives the files that must be read again.
func (s *staging) layDifference(ctx context.Context, clone string) ([]*manifest.Entry, error) {
	strict := *s.layout
	strict.config = nil
	problems, err := s.im.glance(ctx, clone, &strict, func(e *manifest.Entry) bool {
		old := s.old.find(e.Path)
		return old != nil && old.Blob == e.Blob && !covers(s.from.config, e.Path)
	}, nil)
	if err != nil {
		return nil, err
	}
	if err := s.im.openUp(clone); err != nil {
		return nil, err
	}
	fix := &repairer{placer: s.placer(one{s.blobs}), name: clone}
	tasks := s.layout.plan(problems)
	err = fix.run(ctx, tasks, func(done int) { s.progress(PhaseLay, done, len(tasks), 0) })
	return fix.doubt, err
}

// openUp gives the directory of a tree the mode that it has in all deployments.
func (im *Image) openUp(name string) error {
	top, err := im.deploy.sub(name)
	if err != nil {
		return err
	}
	defer top.close()
	return top.chmod(0o755)
}

// settle gives a clone that is complete, durable and proved its name. It makes these system calls: the description is written and
// synced, new state is moved to its place and the file system synced when there is any, renameat, fsync of the deploy directory.
func (im *Image) settle(d Deployment, useState func() error) error {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	if err := im.writeInfo(d); err != nil {
		return err
	}
	if err := useState(); err != nil {
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
