package image

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"satchel/store/image/boot"
)

// Activate makes a deployment the live one; the one that was live becomes the previous one, and nothing is on trial any more. It takes
// effect at once for whoever opens current anew, and is durable when Activate returns. On an error what was live stays live. To
// activate what is live changes nothing else.
func (im *Image) Activate(id string) error {
	return im.step("activating "+id, func(r boot.Record) (boot.Record, error) {
		if err := im.need(id); err != nil {
			return r, err
		}
		return r.Activate(id), nil
	})
}

// Rollback makes the previous deployment live again, and the live one the previous: a second Rollback undoes the first. It
// needs no network. The error has [ErrNoPrevious] in its chain when there is none.
func (im *Image) Rollback() (Deployment, error) {
	err := im.step("rolling back", func(r boot.Record) (boot.Record, error) {
		if r.Previous != "" {
			if err := im.need(r.Previous); err != nil {
				return r, err
			}
		}
		return r.Rollback()
	})
	if err != nil {
		return Deployment{}, err
	}
	d, _ := im.Live()
	return d, nil
}

// Reject goes back from the live deployment, which was activated a moment ago and turned out bad: what was live before is live again,
// with before, an id or empty, as the previous one, and the bad one is in [Image.Failed]. The error has [ErrNoPrevious] in its
// chain when there is nothing to go back to.
func (im *Image) Reject(before, why string) error {
	return im.step("going back", func(r boot.Record) (boot.Record, error) {
		if r.Previous != "" {
			if err := im.need(r.Previous); err != nil {
				return r, err
			}
		}
		if there, err := im.has(before); err != nil || !there {
			before = ""
		}
		return r.Reject(before, why)
	})
}

// revert puts an older record in force again, after an error.
func (im *Image) revert(old boot.Record) error {
	im.root.unlink(currentName + tmpSuffix)
	if im.record().Same(old) {
		return nil
	}
	if err := im.commit(old); err != nil {
		return fmt.Errorf("putting the boot record back: %w", err)
	}
	return im.repairCurrent()
}

// commit writes a record into the slot that is not in force: from then on it is. The generation is set here.
func (im *Image) commit(r boot.Record) error {
	im.mu.Lock()
	r.Generation = im.boot.Generation + 1
	slot := 1 - im.slot
	im.mu.Unlock()
	if err := boot.Write(bootDisk{im.root}, slot, r); err != nil {
		im.readSlots() // it may or may not have got there
		return err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.boot, im.slot = r, slot
	return nil
}

func (im *Image) readSlots() {
	r, slot := boot.Read(bootDisk{im.root})
	im.mu.Lock()
	defer im.mu.Unlock()
	im.boot, im.slot = r, slot
}

// reconcile makes the record name only deployments that are there.
func (im *Image) reconcile() error {
	old := im.record()
	next := old
	if next.Generation == 0 {
		next.Live = im.adopt()
	}
	for _, id := range []*string{&next.Live, &next.Previous, &next.Trial, &next.Booted} {
		if *id == "" {
			continue
		}
		there, err := im.has(*id)
		if err != nil {
			return err
		}
		if !there {
			*id = ""
		}
	}
	if next.Live == "" {
		next.Live, next.Previous = next.Previous, ""
	}
	if next.Trial == "" {
		next = next.Unarm()
	}
	if next.Booted == "" {
		next.BootID = ""
	}
	if next.Same(old) {
		return nil
	}
	return im.commit(next)
}

// adopt is the deployment that current points at, for when both slots are lost.
func (im *Image) adopt() string {
	target, err := im.root.readlink(currentName)
	id, ok := strings.CutPrefix(target, deployName+"/")
	if err != nil || !ok {
		return ""
	}
	if _, err := parseID(id); err != nil {
		return ""
	}
	return id
}

// repairCurrent points current at the live deployment, if it does not already.
func (im *Image) repairCurrent() error {
	kind, err := im.root.kind(currentName)
	if err != nil {
		return err
	}
	live, now := im.record().Live, ""
	if kind == unix.S_IFLNK {
		if now, err = im.root.readlink(currentName); err != nil {
			return err
		}
	}
	switch {
	case live == "" && im.adopt() == "": // nothing, or a link of somebody else
		return nil
	case live == "":
		if err := im.root.unlink(currentName); err != nil {
			return err
		}
		return im.root.sync()
	case now == deployName+"/"+live:
		return nil
	}
	// The record that we read may have been renamed, but not synced, before a crash.
	if err := im.root.sync(); err != nil {
		return err
	}
	if err := im.prepareCurrent(live); err != nil {
		return err
	}
	return im.switchCurrent()
}

func (im *Image) prepareCurrent(id string) error {
	if err := im.root.unlink(currentName + tmpSuffix); err != nil {
		return err
	}
	return im.root.symlink(deployName+"/"+id, currentName+tmpSuffix)
}

func (im *Image) switchCurrent() error {
	if err := im.root.rename(currentName+tmpSuffix, im.root, currentName); err != nil {
		return err
	}
	return im.root.sync()
}
