package boot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

var (
	// ErrNoPrevious is in the error of [Record.Rollback] when there is nothing to go back to.
	ErrNoPrevious = errors.New("no previous deployment")
	// ErrNoTrial is in the errors of steps that end a trial when there is none.
	ErrNoTrial = errors.New("nothing is on trial")
	// ErrNotBooted is in the error of [Record.Confirm] when the trial is not what this machine was started with.
	ErrNotBooted = errors.New("the trial was not booted")
	// ErrFailed is in the error of [Record.Arm] for a deployment that was tried before and failed.
	ErrFailed = errors.New("it was tried before and failed")
	// ErrFull is in the error of [Record.SetFloor] when the record has no room for one more product.
	ErrFull = errors.New("the boot record has no room")
)

// Each step below takes a record and gives the one that follows; on an error, the record as it was. Generations are set by who
// writes. Slices are never shared with the record before.

// Arm puts a deployment on trial: it is entered at the next boots, at most tries times (1 to MaxTries), until it is confirmed or
// fails. It takes the place of another trial. To arm what is live means that nothing is on trial.
func (r Record) Arm(id string, tries int) (Record, error) {
	switch {
	case !ValidID(id):
		return r, fmt.Errorf("%q is not the id of a deployment", id)
	case tries < 1 || tries > MaxTries:
		return r, fmt.Errorf("%d tries, must be 1 to %d", tries, MaxTries)
	case r.HasFailed(id):
		return r, ErrFailed
	case id == r.Live:
		return r.Unarm(), nil
	}
	r.Trial, r.Tries = id, tries
	return r, nil
}

// Unarm takes the trial away, without calling it failed.
func (r Record) Unarm() Record {
	r.Trial, r.Tries = "", 0
	return r
}

// Select is what a boot does: use is the deployment to enter, and may be entered only when next is durable; when that cannot be
// had, Fallback is. A trial with tries left is entered, with one try less; one without any has failed. What is not there is never said;
// use is empty when nothing is. boot is the kernel's name for this boot, or empty.
func (r Record) Select(there func(id string) bool, boot string) (next Record, use string) {
	next = r
	switch {
	case r.Trial == "":
	case !there(r.Trial):
		next = r.fail("its tree is gone")
	case r.Tries == 0:
		next = r.fail("it was never confirmed")
	default:
		next.Tries--
		use = r.Trial
	}
	if use == "" {
		use = r.Fallback(there)
	}
	next.Booted, next.BootID = use, boot
	if use == "" || !validBootID(boot) {
		next.BootID = ""
	}
	return next, use
}

// Fallback is the deployment to enter when nothing can be written: the live one, or else the previous one, and never the trial.
func (r Record) Fallback(there func(id string) bool) string {
	for _, id := range []string{r.Live, r.Previous} {
		if id != "" && there(id) {
			return id
		}
	}
	return ""
}

// InTrial says whether the machine runs the trial: it is what the last Select said, in this very boot as far as that is known.
func (r Record) InTrial(boot string) bool {
	return r.Trial != "" && r.Booted == r.Trial && r.ThisBoot(boot)
}

// ThisBoot says whether Booted is of the boot that the kernel calls boot. It is believed when the record does not tell.
func (r Record) ThisBoot(boot string) bool {
	return r.Booted != "" && (r.BootID == "" || r.BootID == boot)
}

// Confirm makes the trial live, and what was live the previous one. The machine must run the trial, else the error is
// [ErrNotBooted]. When nothing is on trial, there is nothing to do.
func (r Record) Confirm(boot string) (Record, error) {
	switch {
	case r.Trial == "" && r.Live == "":
		return r, ErrNoTrial
	case r.Trial == "":
		return r, nil
	case !r.InTrial(boot):
		return r, ErrNotBooted
	}
	return r.Activate(r.Trial), nil
}

// Fail ends the trial: it is remembered as failed, with a reason for people, and the live deployment is used again.
func (r Record) Fail(why string) (Record, error) {
	if r.Trial == "" {
		return r, ErrNoTrial
	}
	return r.fail(why), nil
}

// Reject goes back from a live deployment that was activated without a trial and turned out bad: what was live before it is live
// again, before is the previous one again, and the bad one is remembered as failed.
func (r Record) Reject(before, why string) (Record, error) {
	if r.Previous == "" {
		return r, ErrNoPrevious
	}
	bad := r.Live
	r.Live, r.Previous = r.Previous, before
	return r.remember(bad, why), nil
}

func (r Record) fail(why string) Record { return r.remember(r.Trial, why).Unarm() }

func (r Record) remember(id, why string) Record {
	f := Failure{ID: id, Why: cleanWhy(why)}
	r = r.Forgive(f.ID)
	r.Failed = append(r.Failed, f)
	r.Failed = r.Failed[max(0, len(r.Failed)-MaxFailed):]
	return r
}

// HasFailed says whether a deployment was tried and failed.
func (r Record) HasFailed(id string) bool {
	return slices.ContainsFunc(r.Failed, func(f Failure) bool { return f.ID == id })
}

// Forgive forgets that a deployment failed.
func (r Record) Forgive(id string) Record {
	r.Failed = slices.DeleteFunc(slices.Clone(r.Failed), func(f Failure) bool { return f.ID == id })
	return r
}

// Activate makes a deployment live at once, without a trial, and what was live the previous one. It is not failed any more, and
// nothing is on trial.
func (r Record) Activate(id string) Record {
	r = r.Unarm().Forgive(id)
	if id != r.Live {
		r.Live, r.Previous = id, r.Live
	}
	return r
}

// Rollback makes the previous deployment live, and the live one the previous: a second Rollback undoes the first.
func (r Record) Rollback() (Record, error) {
	if r.Previous == "" {
		return r, ErrNoPrevious
	}
	return r.Activate(r.Previous), nil
}

// SetFloor raises the floor of a product; a lower one than there is changes nothing.
func (r Record) SetFloor(f Floor) (Record, error) {
	if !validProduct(f.Product) {
		return r, fmt.Errorf("%q is not a product", f.Product)
	}
	r.Floors = slices.Clone(r.Floors)
	at, found := slices.BinarySearchFunc(r.Floors, f, func(a, b Floor) int { return cmp.Compare(a.Product, b.Product) })
	switch {
	case found && cmp.Or(cmp.Compare(r.Floors[at].Epoch, f.Epoch), cmp.Compare(r.Floors[at].Seq, f.Seq)) < 0:
		r.Floors[at] = f
	case !found && len(r.Floors) >= MaxFloors:
		return r, fmt.Errorf("%w for more than %d floors", ErrFull, MaxFloors)
	case !found:
		r.Floors = slices.Insert(r.Floors, at, f)
	}
	return r, nil
}
