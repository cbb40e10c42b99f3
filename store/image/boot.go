package image

import (
	"errors"
	"fmt"

	"satchel/store/image/boot"
)

// bootDisk is the image directory as the package boot wants it.
type bootDisk struct{ d *dir }

func (b bootDisk) ReadFile(name string, limit int64) ([]byte, error) {
	return b.d.readFile(name, limit)
}
func (b bootDisk) WriteFile(name string, text []byte) error { return b.d.writeFile(name, text, 0o644) }
func (b bootDisk) Rename(from, to string) error             { return b.d.rename(from, b.d, to) }
func (b bootDisk) Remove(name string) error                 { return b.d.unlink(name) }
func (b bootDisk) Sync() error                              { return b.d.sync() }

// DefaultTries is how often a trial is entered when nobody says otherwise.
const DefaultTries = 3

// Arm puts a deployment on trial: whatever starts the machine enters it at the next boots, at most tries times, 1 to
// [boot.MaxTries], until [Image.Confirm] or [Image.Fail]. What is live stays live, and another trial is given up. It refuses, with
// [boot.ErrFailed], what failed before; see [Image.Forgive]. To arm what is live only gives up the trial.
func (im *Image) Arm(id string, tries int) error {
	return im.step("arming "+id, func(r boot.Record) (boot.Record, error) {
		if err := im.need(id); err != nil {
			return r, err
		}
		return r.Arm(id, tries)
	})
}

// Unarm gives up the trial without calling it failed. When nothing is on trial, there is nothing to do.
func (im *Image) Unarm() error {
	return im.step("giving up the trial", func(r boot.Record) (boot.Record, error) { return r.Unarm(), nil })
}

// Confirm makes the trial live, when the machine runs it; otherwise the error has [boot.ErrNotBooted] in its chain. It gives what is
// live afterwards. When nothing is on trial, nothing changes.
func (im *Image) Confirm() (Deployment, error) {
	err := im.step("confirming the trial", func(r boot.Record) (boot.Record, error) { return r.Confirm(im.bootID()) })
	if err != nil {
		return Deployment{}, err
	}
	d, _ := im.Live()
	return d, nil
}

// Fail ends the trial: the live deployment is used at the next boot, and the trial is remembered as failed, with a reason for people.
// The error has [boot.ErrNoTrial] in its chain when nothing is on trial.
func (im *Image) Fail(why string) error {
	return im.step("ending the trial", func(r boot.Record) (boot.Record, error) { return r.Fail(why) })
}

// Forgive forgets that a deployment failed, so that it may be armed again.
func (im *Image) Forgive(id string) error {
	return im.step("forgiving "+id, func(r boot.Record) (boot.Record, error) { return r.Forgive(id), nil })
}

// SetFloor raises the oldest release of a product that may be installed here; a lower floor than there is changes nothing. Floors are
// in the boot record so that they outlive everything else. The error has [boot.ErrFull] in its chain beyond [boot.MaxFloors] products.
func (im *Image) SetFloor(product string, epoch, seq uint64) error {
	return im.step("setting the floor of "+product, func(r boot.Record) (boot.Record, error) {
		return r.SetFloor(boot.Floor{Product: product, Epoch: epoch, Seq: seq})
	})
}

// Floors gives the floors, sorted by product.
func (im *Image) Floors() []boot.Floor { return im.record().Floors }

// RollbackAtBoot has the next boot use another deployment than this one: when there is a trial, it is given up, and called failed when
// the machine runs it; otherwise the previous deployment is put on trial. It gives what the next boot uses. The error has
// [ErrNoPrevious] in its chain when there is none, and [boot.ErrFailed] when that failed before.
func (im *Image) RollbackAtBoot(tries int) (Deployment, error) {
	var next string
	err := im.step("rolling back at the next boot", func(r boot.Record) (boot.Record, error) {
		next = r.Live
		switch {
		case r.InTrial(im.bootID()):
			return r.Fail("rolled back by hand")
		case r.Trial != "":
			return r.Unarm(), nil
		case r.Previous == "":
			return r, ErrNoPrevious
		}
		next = r.Previous
		return r.Arm(next, tries)
	})
	if err != nil {
		return Deployment{}, err
	}
	d, _ := im.named(next)
	return d, nil
}

// Trial is the deployment that is on trial, armed or entered already. It is false when there is none.
func (im *Image) Trial() (Deployment, bool) { return im.named(im.record().Trial) }

// Tries is how often the trial may still be entered.
func (im *Image) Tries() int { return im.record().Tries }

// InTrial says whether this machine runs the trial, so that [Image.Confirm] may make it live.
func (im *Image) InTrial() bool { return im.record().InTrial(im.bootID()) }

// Booted is the deployment that this machine was started with. It is false when it was started without asking this image's record, or when the record is
// of an earlier boot.
func (im *Image) Booted() (Deployment, bool) {
	r := im.record()
	if !r.ThisBoot(im.bootID()) {
		return Deployment{}, false
	}
	return im.named(r.Booted)
}

// Failed gives the ids of the deployments that were tried and failed, newest last. They may be gone.
func (im *Image) Failed() []string {
	var ids []string
	for _, f := range im.record().Failed {
		ids = append(ids, f.ID)
	}
	return ids
}

// WhyFailed is why a deployment failed, for people; empty when it did not, or nobody said.
func (im *Image) WhyFailed(id string) string {
	for _, f := range im.record().Failed {
		if f.ID == id {
			return f.Why
		}
	}
	return ""
}

// step takes the boot record one step further. On an error what was in force stays so.
func (im *Image) step(what string, next func(boot.Record) (boot.Record, error)) error {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	r, err := next(im.record())
	if err == nil {
		err = im.put(r)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// put makes a record the one in force, and has current follow it.
func (im *Image) put(next boot.Record) error {
	old := im.record()
	if next.Same(old) {
		// What we read may have been renamed, but not synced, before a crash.
		return errors.Join(im.repairCurrent(), im.root.sync())
	}
	if next.Live == old.Live {
		if err := im.commit(next); err != nil {
			return errors.Join(err, im.revert(old))
		}
		return nil
	}
	// The link is made first: when the disk is full, this fails before anything counts.
	if err := im.prepareCurrent(next.Live); err != nil {
		return err
	}
	err := im.commit(next)
	if err == nil {
		err = im.switchCurrent()
	}
	if err != nil {
		return errors.Join(err, im.revert(old))
	}
	_ = im.markLived(next.Live) // Open does it otherwise
	return nil
}
