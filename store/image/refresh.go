package image

import (
	"context"
	"fmt"
)

// Refresh carries local changes over once more, into a deployment that was never live, when the configuration in the live tree changed
// since it was staged: to be called before the deployment is activated. Where the live tree is another one than that whose changes
// the deployment has, and in every other case, nothing is done. On an error, and after a crash, each file is the old one or the new one,
// and to refresh again does the rest.
func (im *Image) Refresh(ctx context.Context, id string, b Blobs) (Deployment, error) {
	d, err := im.refresh(ctx, id, b)
	if err != nil {
		return Deployment{}, fmt.Errorf("carrying local changes over to %s: %w", id, err)
	}
	return d, nil
}

func (im *Image) refresh(ctx context.Context, id string, b Blobs) (Deployment, error) {
	if err := acquire(ctx, im.building); err != nil {
		return Deployment{}, err
	}
	defer func() { <-im.building }()
	if err := im.need(id); err != nil {
		return Deployment{}, err
	}
	d, _ := im.load(id)
	live, ok := im.Live()
	if !ok || d.lived || d.From == "" || d.From != live.ID {
		return d, nil
	}
	top, err := im.deploy.sub(live.ID)
	if err != nil {
		return d, err
	}
	defer top.close()
	if _, seen, err := im.nodes(top, d.config); err != nil || seen == d.seen {
		return d, err
	}
	l, err := im.layout(id, b)
	if err != nil {
		return d, err
	}
	base, _ := im.layout(live.ID, b)
	if err := im.merge(ctx, live, base, id, &d, l, b); err != nil {
		return d, err
	}
	return d, im.describe(d)
}

// describe replaces the file beside a tree.
func (im *Image) describe(d Deployment) error {
	text, err := d.encode()
	if err != nil {
		return err
	}
	name := d.ID + infoSuffix
	if err := im.deploy.unlink(name + tmpSuffix); err != nil {
		return err
	}
	err = im.deploy.writeFile(name+tmpSuffix, text, 0o644)
	if err == nil {
		err = im.deploy.rename(name+tmpSuffix, im.deploy, name)
	}
	if err != nil {
		im.deploy.unlink(name + tmpSuffix)
		return err
	}
	return im.deploy.sync()
}

// markLived notes that a deployment is live or was, which makes its configuration its own.
func (im *Image) markLived(id string) error {
	if id == "" {
		return nil
	}
	d, sound := im.load(id)
	if !sound || d.lived || d.From == "" {
		return nil
	}
	d.lived = true
	return im.describe(d)
}
