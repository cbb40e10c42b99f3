package image

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// Activate makes a deployment the live one; the one that was live becomes the previous one. It takes effect at once for
// whoever opens current anew, and is durable when Activate returns. On an error what was live stays live. To activate what is
// live changes nothing.
func (im *Image) Activate(id string) error {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	if err := im.activate(id); err != nil {
		return fmt.Errorf("activating %s: %w", id, err)
	}
	return nil
}

// Rollback makes the previous deployment live again, and the live one the previous: a second Rollback undoes the first. It
// needs no network. The error has [ErrNoPrevious] in its chain when there is none.
func (im *Image) Rollback() (Deployment, error) {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	id := im.record().previous
	if id == "" {
		return Deployment{}, fmt.Errorf("rolling back: %w", ErrNoPrevious)
	}
	if err := im.activate(id); err != nil {
		return Deployment{}, fmt.Errorf("rolling back to %s: %w", id, err)
	}
	d, _ := im.load(id)
	return d, nil
}

func (im *Image) activate(id string) error {
	if err := im.need(id); err != nil {
		return err
	}
	old := im.record()
	if old.live == id {
		return im.repairCurrent()
	}
	// The link is made first: when the disk is full, this fails before anything counts.
	if err := im.prepareCurrent(id); err != nil {
		return err
	}
	next := old
	next.live, next.previous = id, old.live
	err := im.commit(next)
	if err == nil {
		err = im.switchCurrent()
	}
	if err != nil {
		return errors.Join(err, im.revert(old))
	}
	_ = im.markLived(id) // Open does it otherwise
	return nil
}

// revert puts an older record in force again, after an error.
func (im *Image) revert(old record) error {
	im.root.unlink(currentName + tmpSuffix)
	if now := im.record(); now.live == old.live && now.previous == old.previous {
		return nil
	}
	if err := im.commit(old); err != nil {
		return fmt.Errorf("putting the boot record back: %w", err)
	}
	return im.repairCurrent()
}

// commit writes a record into the slot that is not in force, by rename: from then on it is. The generation is set here.
func (im *Image) commit(r record) error {
	im.mu.Lock()
	r.generation = im.boot.generation + 1
	slot := 1 - im.slot
	im.mu.Unlock()
	err := im.writeSlot(slotName(slot), r.encode())
	if err != nil {
		im.readSlots() // it may or may not have got there
		return fmt.Errorf("writing boot record: %w", err)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.boot, im.slot = r, slot
	return nil
}

// writeSlot makes these system calls: openat O_EXCL, write, fsync, close, renameat, fsync of the image directory. After an
// fsync that gave an error the file is discarded, never synced again: the second call would lie.
func (im *Image) writeSlot(name string, text []byte) error {
	tmp := name + tmpSuffix
	if err := im.root.unlink(tmp); err != nil {
		return err
	}
	if err := im.root.writeFile(tmp, text, 0o644); err != nil {
		im.root.unlink(tmp)
		return err
	}
	if err := im.root.rename(tmp, im.root, name); err != nil {
		im.root.unlink(tmp)
		return err
	}
	return im.root.sync()
}

// readSlots puts the sound record with the highest generation in force. A slot that cannot be read counts as empty.
func (im *Image) readSlots() {
	var best record
	in := 1
	for slot := range 2 {
		text, err := im.root.readFile(slotName(slot), maxRecord)
		if err != nil {
			continue
		}
		if r, err := parseRecord(text); err == nil && r.generation > best.generation {
			best, in = r, slot
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.boot, im.slot = best, in
}

// reconcile makes the record name only deployments that are there.
func (im *Image) reconcile() error {
	old := im.record()
	next := old
	if next.generation == 0 {
		next.live = im.adopt()
	}
	for _, id := range []*string{&next.live, &next.previous} {
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
	if next.live == "" {
		next.live, next.previous = next.previous, ""
	}
	if next == old {
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
	live, now := im.record().live, ""
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
