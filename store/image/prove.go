package image

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// proved gives the blobs of the deployment that this one starts from: their files were read from the medium when it was staged.
func (s *staging) proved() map[cid.Cid]struct{} {
	if s.old == nil || s.Converge {
		return nil
	}
	blobs := make(map[cid.Cid]struct{})
	for _, e := range s.old.entries {
		if e.Type == manifest.File {
			blobs[e.Blob] = struct{}{}
		}
	}
	return blobs
}

// prove reads files of a clone, which were written out before, from the medium and compares them with their blobs. Damaged blobs are
// discarded. What its mode forbids this process to read is not read.
func (im *Image) prove(ctx context.Context, clone string, files []*manifest.Entry, b Blobs, p *Plan) error {
	top, err := im.deploy.sub(clone)
	if err != nil {
		return err
	}
	workers, ctx := errgroup.WithContext(ctx)
	workers.SetLimit(runtime.GOMAXPROCS(0))
	v := &verifier{ctx: ctx, workers: workers, total: len(files), progress: func(done, total int) { p.progress(PhaseVerify, done, total, 0) }}
	c := &cursor{open: []level{{dir: top}}}
	defer c.close()
	written, err := v.files(c, files)
	if werr := workers.Wait(); err == nil {
		err = werr
	}
	if err == nil {
		err = v.discard(files, b)
	}
	if err == nil {
		err = c.fixTimes(written)
	}
	return err
}

// files reads each file once, whatever the number of its names, and gives those that show a write.
func (v *verifier) files(c *cursor, files []*manifest.Entry) (written []*manifest.Entry, err error) {
	seen := make(map[uint64]struct{}) // inodes
	for _, e := range files {
		if err := v.ctx.Err(); err != nil {
			return nil, err
		}
		d, name, err := c.at(e.Path)
		if isOneOf(err, unix.EACCES) {
			v.checked(e, "")
			continue
		}
		if err != nil {
			return nil, err
		}
		st, err := d.lstat(name)
		if err != nil {
			return nil, err
		}
		if !isFixed(st.Mtim) {
			written = append(written, e)
		}
		if _, ok := seen[st.Ino]; ok {
			v.checked(e, "")
			continue
		}
		seen[st.Ino] = struct{}{}
		v.content(d, name, e)
	}
	return written, nil
}

// discard takes the blobs of files with problems away. Its error names the first of them.
func (v *verifier) discard(files []*manifest.Entry, b Blobs) (err error) {
	for _, bad := range v.problems {
		i := slices.IndexFunc(files, func(e *manifest.Entry) bool { return e.Path == bad.Path })
		if derr := discard(b, files[i], bad.What); err == nil {
			err = derr
		}
	}
	if n := len(v.problems); n > 1 {
		err = fmt.Errorf("%d files: %w", n, err)
	}
	return err
}

// fixTimes notes of files that were found to be good although they showed a write that they are. Where that is not
// allowed, they are read again next time.
func (c *cursor) fixTimes(files []*manifest.Entry) error {
	for _, e := range files {
		d, name, err := c.at(e.Path)
		if err == nil {
			err = d.fixTime(name)
		}
		if err != nil && !isOneOf(err, unix.EACCES, unix.EPERM, unix.EROFS) {
			return err
		}
	}
	return nil
}

// cursor opens the directories of a tree on the way to one path after the other; those on the way to the last one stay open.
type cursor struct {
	open []level // outermost first, the tree's own at least
	keep bool    // the first one is somebody else's, and stays open
}

// at opens the directory that holds a path, and splits the name off.
func (c *cursor) at(path string) (d *dir, name string, err error) {
	parent, name := splitPath(path)
	for last := c.open[len(c.open)-1]; len(c.open) > 1 && last.path != parent && !strings.HasPrefix(parent, last.path+"/"); last = c.open[len(c.open)-1] {
		last.dir.close()
		c.open = c.open[:len(c.open)-1]
	}
	for {
		last := c.open[len(c.open)-1]
		if last.path == parent {
			return last.dir, name, nil
		}
		rest := strings.TrimPrefix(parent[len(last.path):], "/")
		next, _, _ := strings.Cut(rest, "/")
		sub, err := last.dir.sub(next)
		if err != nil {
			return nil, "", err
		}
		c.open = append(c.open, level{dir: sub, path: parent[:len(parent)-len(rest)+len(next)]})
	}
}

func (c *cursor) close() {
	for i, l := range c.open {
		if i > 0 || !c.keep {
			l.dir.close()
		}
	}
}
