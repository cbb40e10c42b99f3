package image_test

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"satchel/store/image"
)

// trialSteps is a story of trials, of an image in which release 0 is live and 1 and 2 are staged.
func trialSteps() []func(w *world, im *image.Image) error {
	id := func(w *world, i int) string { return w.rs[i].ID() }
	enter := func(_ *world, im *image.Image) error { return im.Enter() }
	return []func(w *world, im *image.Image) error{
		func(w *world, im *image.Image) error { return im.Arm(id(w, 1), 2) },
		enter,
		enter,
		func(w *world, im *image.Image) error { return im.Fail("it does not work") },
		func(w *world, im *image.Image) error { return im.Forgive(id(w, 1)) },
		func(w *world, im *image.Image) error { return im.Arm(id(w, 1), 1) },
		func(w *world, im *image.Image) error { return im.Unarm() },
		func(w *world, im *image.Image) error { return im.Arm(id(w, 2), 3) },
		enter,
		func(w *world, im *image.Image) error { _, err := im.Confirm(); return err },
		func(w *world, im *image.Image) error { return im.SetFloor("demo", 1, 1) },
		func(w *world, im *image.Image) error { _, err := im.RollbackAtBoot(2); return err },
		enter,
		func(w *world, im *image.Image) error { _, err := im.RollbackAtBoot(2); return err },
		func(w *world, im *image.Image) error { return im.Activate(id(w, 1)) },
	}
}

// trialWorld is where the story begins.
func trialWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	im, err := image.OpenHook(w.dir, noSync)
	must(t, err)
	must(t, errors.Join(w.stage(im, 1), w.stage(im, 2), im.Close()))
	return w
}

// told is all that the boot record says.
func told(im *image.Image, dir string) string {
	live, _ := im.Live()
	previous, _ := im.Previous()
	trial, _ := im.Trial()
	booted, _ := im.Booted()
	return fmt.Sprintf("live %s previous %s trial %s %d booted %s failed %q floors %v current %s",
		live.ID, previous.ID, trial.ID, im.Tries(), booted.ID, im.Failed(), im.Floors(), current(dir))
}

// toldByTrials is what the record says before each step of the story, and at its end. No two that follow each other are the same.
func toldByTrials(t *testing.T) []string {
	w := trialWorld(t)
	im, err := image.OpenHook(w.dir, noSync)
	must(t, err)
	defer im.Close()
	all := []string{told(im, w.dir)}
	for i, do := range trialSteps() {
		must(t, do(w, im))
		all = append(all, told(im, w.dir))
		if all[i] == all[i+1] {
			t.Fatalf("step %d changes nothing: %s", i, all[i])
		}
	}
	return all
}

// TestCrashInTrials stops the story before each change of the disk, or has that one change fail. After opening again, the record says what it
// said before the step or after it, and after the step only if that ended without an error; a second opening changes nothing.
func TestCrashInTrials(t *testing.T) {
	want := toldByTrials(t)
	for _, crash := range []bool{true, false} {
		for n := 0; ; n++ {
			w := trialWorld(t)
			count, failed := 0, ""
			im, err := image.OpenHook(w.dir, func(op, path string) error {
				if count++; count == n+1 || crash && count > n {
					failed += op + " " + path + " "
					return syscall.EIO
				}
				return noSync(op, path)
			})
			must(t, err)
			at, err := 0, error(nil)
			for ; at < len(trialSteps()) && failed == ""; at++ {
				if err = trialSteps()[at](w, im); err != nil {
					break
				}
			}
			name := fmt.Sprintf("%s, step %d", failed, at)
			allowed := want[at : at+1]
			if crash && err != nil {
				allowed = want[at : at+2]
			}
			if !crash && told(im, w.dir) != want[at] {
				t.Errorf("%s: %v, and then\n%s\nwant\n%s", name, err, told(im, w.dir), want[at])
			}
			must(t, im.Close())
			if failed == "" {
				t.Logf("%d places", n)
				break
			}
			w.reopen(t, name, allowed)
			if t.Failed() {
				return
			}
		}
	}
}

// reopen opens an image twice.
func (w *world) reopen(t *testing.T, name string, allowed []string) {
	t.Helper()
	var first string
	for i := range 2 {
		im, err := image.Open(w.dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := told(im, w.dir); !slices.Contains(allowed, got) {
			t.Errorf("%s: it says\n%s\nwant one of\n%q", name, got, allowed)
		}
		must(t, im.Close())
		if now := snapshot(t, w.dir); i == 0 {
			first = now
		} else if now != first {
			t.Errorf("%s: the second open changed\n%sto\n%s", name, first, now)
		}
	}
}
