package image

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// State of the machine lies in IMAGE/state, once for all deployments: in a tree its paths are links to there. What is there is never
// touched. A path that is not there yet is filled with what the tree before has, or with what the release has.

// stateSpare is where state is made ready, in IMAGE/state, which may be a file system of its own.
const stateSpare = ".satchel-fill.tmp"

// fill makes the state paths of a layout ready that are not there. use gives them their names and is called at most once; done
// removes what was not used.
func (im *Image) fill(ctx context.Context, from string, l *layout, b Blobs) (use func() error, done func() error, err error) {
	none := func() error { return nil }
	if len(l.state) == 0 {
		return none, none, nil
	}
	top, err := im.openState()
	if err != nil {
		return nil, nil, err
	}
	f := &filler{im: im, ctx: ctx, top: top, layout: l, blobs: b}
	done = func() error {
		defer top.close()
		return top.removeAll(stateSpare)
	}
	if err := f.run(from); err != nil {
		return nil, nil, errors.Join(err, done())
	}
	if len(f.ready) == 0 {
		return none, done, nil
	}
	return f.use, done, nil
}

// removeStateSpare removes what an interrupted staging left.
func (im *Image) removeStateSpare() error {
	kind, err := im.root.kind(manifest.StateDir)
	if err != nil || kind != unix.S_IFDIR {
		return err
	}
	top, err := im.root.sub(manifest.StateDir)
	if err != nil {
		return err
	}
	defer top.close()
	return top.removeAll(stateSpare)
}

// openState opens IMAGE/state, and makes it when it is not there.
func (im *Image) openState() (*dir, error) {
	kind, err := im.root.kind(manifest.StateDir)
	if err != nil || kind != 0 {
		if err == nil && kind != unix.S_IFDIR {
			err = fmt.Errorf("%s is %s, where an image has a directory; move it away", manifest.StateDir, kindName(kind))
		}
		if err != nil {
			return nil, err
		}
		return im.root.sub(manifest.StateDir)
	}
	d, err := im.root.mkdir(manifest.StateDir)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.chmod(0o755), im.root.sync()); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

type filler struct {
	im     *Image
	ctx    context.Context
	top    *dir // IMAGE/state
	spare  *dir
	layout *layout
	blobs  Blobs
	ready  []string // state paths, in the order of their names in the spare
}

func (f *filler) run(from string) (err error) {
	if err := f.top.removeAll(stateSpare); err != nil {
		return err
	}
	var missing []string
	for _, path := range f.layout.state {
		there, err := f.has(path)
		if err != nil {
			return err
		}
		if !there {
			missing = append(missing, path)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if f.spare, err = f.top.mkdir(stateSpare); err != nil {
		return err
	}
	defer f.spare.close()
	for i, path := range missing {
		if err := f.one(from, path, strconv.Itoa(i)); err != nil {
			return fmt.Errorf("filling state %s: %w", path, err)
		}
	}
	if err := f.top.syncFS(); err != nil {
		return err
	}
	f.ready = missing
	return nil
}

// has says whether there is anything at a path of the state.
func (f *filler) has(path string) (bool, error) {
	c := &cursor{open: []level{{dir: f.top}}, keep: true}
	defer c.close()
	d, name, err := c.at(path)
	if isOneOf(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	kind, err := d.kind(name)
	return kind != 0, err
}

// one makes the content of a path ready, under a name in the spare.
func (f *filler) one(from, path, name string) error {
	if from != "" {
		if done, err := f.copyFrom(from, path, name); done || err != nil {
			return err
		}
	}
	top, err := f.spare.mkdir(name)
	if err != nil {
		return err
	}
	t := &tree{placer: placer{im: f.im, blobs: f.blobs, files: one{f.blobs}, apart: always}, open: []level{{dir: top, path: path, mode: 0o755}}}
	defer t.close()
	for _, e := range f.layout.seeds {
		if e.Path == path {
			t.open[0].mode = e.Mode
		}
		if !isBelow(e.Path, path) {
			continue
		}
		if err := f.ctx.Err(); err != nil {
			return err
		}
		if err := t.add(f.ctx, e); err != nil {
			return err
		}
	}
	if err := t.finish(); err != nil {
		return err
	}
	return f.check(path, name, t.doubt)
}

// copyFrom copies the directory that a tree has at a state path.
func (f *filler) copyFrom(from, path, name string) (done bool, err error) {
	tree, err := f.im.deploy.sub(from)
	if err != nil {
		return false, err
	}
	c := &cursor{open: []level{{dir: tree}}}
	defer c.close()
	d, last, err := c.at(path)
	if err != nil {
		return false, ignoreGone(err)
	}
	if kind, err := d.kind(last); err != nil || kind != unix.S_IFDIR {
		return false, err
	}
	copier := &copier{ctx: f.ctx, im: f.im}
	return true, copier.any(d, last, f.spare, name, path)
}

// check reads what came from blobs again.
func (f *filler) check(path, name string, files []*manifest.Entry) error {
	top, err := f.spare.sub(name)
	if isOneOf(err, unix.EACCES) || len(files) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	c := &cursor{open: []level{{dir: top, path: path}}}
	defer c.close()
	workers, ctx := errgroup.WithContext(f.ctx)
	v := &verifier{ctx: ctx, workers: workers}
	_, err = v.files(c, files)
	if werr := workers.Wait(); err == nil {
		err = werr
	}
	if err == nil {
		err = v.discard(files, f.blobs)
	}
	return err
}

// use moves what is ready to its place. Should something be there by now, that stays.
func (f *filler) use() error {
	spare, err := f.top.sub(stateSpare)
	if err != nil {
		return err
	}
	defer spare.close()
	for i, path := range f.ready {
		if err := f.move(spare, strconv.Itoa(i), path); err != nil {
			return err
		}
	}
	return f.top.syncFS()
}

func (f *filler) move(spare *dir, name, path string) error {
	in, err := f.top.again()
	if err != nil {
		return err
	}
	defer func() { in.close() }()
	for {
		first, rest, more := strings.Cut(path, "/")
		if !more {
			break
		}
		next, err := in.sub(first)
		if isOneOf(err, unix.ENOENT) {
			if next, err = in.mkdir(first); err == nil {
				err = next.chmod(0o755)
			}
		}
		if err != nil {
			return err
		}
		in.close()
		in, path = next, rest
	}
	if kind, err := in.kind(path); err != nil || kind != 0 {
		return err
	}
	return spare.rename(name, in, path)
}
