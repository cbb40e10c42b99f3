package image

import (
	"errors"
	"fmt"
	"slices"
	"time"
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
	im.mu.Lock()
	source := im.source
	im.mu.Unlock()
	if id == source {
		return fmt.Errorf("%w: another is being made from it", ErrInUse)
	}
	if err := im.deploy.removeAll(id + goneSuffix); err != nil {
		return err
	}
	if err := im.deploy.rename(id, im.deploy, id+goneSuffix); err != nil {
		return err
	}
	return errors.Join(im.deploy.unlink(id+infoSuffix), im.deploy.sync())
}

// Keep says which deployments [Image.Prune] leaves besides those that are in use or pinned.
type Keep struct {
	Last int // that many, counted from the one staged last; with at least 1, what is staged and not yet live stays
	Days int // those staged in that many days, by this machine's clock
}

// Prune removes deployments; those that Destroy refuses and the pinned ones are always kept. It gives the ids of those
// that it removed, also when it stopped at an error. While a deployment is being made nothing is removed: the error is [ErrBusy].
func (im *Image) Prune(keep Keep) ([]string, error) {
	select {
	case im.building <- struct{}{}:
		defer func() { <-im.building }()
	default:
		return nil, fmt.Errorf("pruning image: %w", ErrBusy)
	}
	list, err := im.List()
	if err != nil {
		return nil, fmt.Errorf("pruning image: %w", err)
	}
	slices.Reverse(list)
	since := time.Now().AddDate(0, 0, -keep.Days)
	var removed []string
	for i, d := range list {
		if i < keep.Last || d.Pinned || keep.Days > 0 && d.Created.After(since) {
			continue
		}
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
