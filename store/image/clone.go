package image

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// ErrExist is in the error of [Image.Clone] when a deployment has the name already.
var ErrExist = errors.New("there is a deployment of that name")

// Clone makes a deployment with a name of its own that is the same as another one, local changes included; see [CheckName] for names.
// It shares the other's files where it can, but not those that the person may change. Nothing is compared with the release: that is for
// [Image.Verify].
func (im *Image) Clone(ctx context.Context, id, name string) (Deployment, error) {
	d, err := im.clone(ctx, id, name)
	if err != nil {
		return Deployment{}, fmt.Errorf("cloning %s: %w", id, err)
	}
	return d, nil
}

func (im *Image) clone(ctx context.Context, id, name string) (Deployment, error) {
	if err := CheckName(name); err != nil {
		return Deployment{}, err
	}
	if err := acquire(ctx, im.building); err != nil {
		return Deployment{}, err
	}
	defer func() { <-im.building }()
	if err := im.need(id); err != nil {
		return Deployment{}, err
	}
	defer im.protect(id)()
	if kind, err := im.deploy.kind(name); err != nil || kind != 0 {
		return Deployment{}, errors.Join(err, fmt.Errorf("%s: %w", name, ErrExist))
	}
	d, sound := im.load(id)
	clone := name + tmpSuffix
	err := im.deploy.removeAll(clone)
	if err == nil {
		err = im.copyTree(ctx, id, clone, func(path string) bool { return sound && !covers(d.config, path) })
	}
	if err == nil {
		d.ID, d.Pinned, d.From, d.lived = name, false, "", false
		d.Created = time.Now().UTC().Truncate(time.Second)
		d.number, err = im.nextNumber()
	}
	if err == nil {
		err = im.settle(d, func() error { return nil })
	}
	if err != nil {
		return Deployment{}, errors.Join(err, im.deploy.unlink(name+infoSuffix), im.deploy.removeAll(clone))
	}
	return d, nil
}

// copyTree makes a tree that is the same as another, and durable.
func (im *Image) copyTree(ctx context.Context, from, to string, link func(path string) bool) error {
	if im.snapshot(from, to) {
		return im.deploy.syncFS()
	}
	src, err := im.deploy.sub(from)
	if err != nil {
		return err
	}
	defer src.close()
	dst, err := im.makeTree(to)
	if err != nil {
		return err
	}
	defer dst.close()
	c := &copier{ctx: ctx, im: im, link: link}
	if err := c.dir(src, dst, ""); err != nil {
		return err
	}
	if err := dst.chmod(0o755); err != nil {
		return err
	}
	return im.deploy.syncFS()
}

// protect keeps a deployment from being destroyed until the function that it gives is called. There is one at a time.
func (im *Image) protect(id string) (release func()) {
	im.mu.Lock()
	defer im.mu.Unlock()
	im.source = id
	return func() { im.protect("") }
}

// Pin says whether [Image.Prune] must keep a deployment.
func (im *Image) Pin(id string, on bool) error {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	err := im.need(id)
	if err == nil {
		d, sound := im.load(id)
		if !sound {
			err = errors.New("the file beside it, which would say so, is lost; stage it again")
		} else if d.Pinned != on {
			d.Pinned = on
			err = im.describe(d)
		}
	}
	if err != nil {
		return fmt.Errorf("pinning %s: %w", id, err)
	}
	return nil
}
