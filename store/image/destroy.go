package image

import (
	"errors"
	"fmt"
	"slices"
)

// Destroy removes a deployment. It refuses, with [ErrInUse], the live and the previous one, the one on trial and the one that
// the machine runs. A crash in the middle leaves
// the deployment whole or gone; [Open] removes the rest.
func (im *Image) Destroy(id string) error {
	err := im.detach(id)
	if err == nil {
		err = im.deploy.removeAll(id + goneSuffix)
	}
	if err != nil {
		return fmt.Errorf("destroying %s: %w", id, err)
	}
	return nil
}

// detach takes the name away, in one step, before anything inside is removed.
func (im *Image) detach(id string) error {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	if err := im.need(id); err != nil {
		return err
	}
	if r := im.record(); id == r.Live || id == r.Previous || id == r.Trial || id == r.Booted {
		return fmt.Errorf("%w: it is live, the previous one, on trial, or running", ErrInUse)
	}
	if err := im.deploy.removeAll(id + goneSuffix); err != nil {
		return err
	}
	if err := im.deploy.rename(id, im.deploy, id+goneSuffix); err != nil {
		return err
	}
	return errors.Join(im.deploy.unlink(id+infoSuffix), im.deploy.sync())
}

// Prune removes all but the keep deployments that were staged last; those that Destroy refuses are always kept. It gives
// the ids of those that it removed, also when it stopped at an error. With keep at least 1, what was staged last
// and is not yet live stays.
func (im *Image) Prune(keep int) ([]string, error) {
	list, err := im.List()
	if err != nil {
		return nil, fmt.Errorf("pruning image: %w", err)
	}
	slices.Reverse(list)
	var removed []string
	for _, d := range list[min(max(keep, 0), len(list)):] {
		err := im.Destroy(d.ID)
		if errors.Is(err, ErrInUse) || errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return removed, fmt.Errorf("pruning image: %w", err)
		}
		removed = append(removed, d.ID)
	}
	return removed, nil
}
