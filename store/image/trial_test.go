package image_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"satchel/store/image"
	"satchel/store/image/boot"
)

// three is an image with three releases: 1 live, 0 before it, 2 staged.
func three(t *testing.T) (dir string, im *image.Image, ids []string) {
	t.Helper()
	dir, b := tempDir(t), newBlobs(t)
	im = open(t, dir)
	for i := range uint64(3) {
		r, m := release(t, b, i, small(fmt.Sprint(i)))
		ids = append(ids, stage(t, im, r, m, b))
	}
	must(t, im.Activate(ids[0]))
	must(t, im.Activate(ids[1]))
	return dir, im, ids
}

func TestTrial(t *testing.T) {
	dir, im, ids := three(t)
	must(t, im.Arm(ids[2], 2))
	check := func(live, trial string, tries int) {
		t.Helper()
		l, _ := im.Live()
		tr, _ := im.Trial()
		if l.ID != live || tr.ID != trial || im.Tries() != tries || current(dir) != live {
			t.Errorf("live %q, trial %q with %d tries, current %q; want %q, %q with %d", l.ID, tr.ID, im.Tries(), current(dir), live, trial, tries)
		}
	}
	check(ids[1], ids[2], 2)
	if _, err := im.Confirm(); !errors.Is(err, boot.ErrNotBooted) {
		t.Error(err)
	}
	for _, id := range ids {
		if err := im.Destroy(id); !errors.Is(err, image.ErrInUse) {
			t.Errorf("destroying %s: %v", id, err)
		}
	}
	must(t, im.Unarm())
	check(ids[1], "", 0)
	must(t, im.Arm(ids[2], 2))
	must(t, im.Fail("it\nwould not start"))
	check(ids[1], "", 0)
	if got := im.Failed(); !slices.Equal(got, ids[2:]) || im.WhyFailed(ids[2]) != "it would not start" {
		t.Error(got, im.WhyFailed(ids[2]))
	}
	if err := im.Fail(""); !errors.Is(err, boot.ErrNoTrial) {
		t.Error(err)
	}
	if err := im.Arm(ids[2], 2); !errors.Is(err, boot.ErrFailed) {
		t.Error(err)
	}
	must(t, im.Forgive(ids[2]))
	must(t, im.Arm(ids[2], 2))
	check(ids[1], ids[2], 2)
	if err := im.Arm("demo-1-7-aaaaaaaa", 2); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

// TestLostTrial: a trial whose tree somebody removed is not on trial any more.
func TestLostTrial(t *testing.T) {
	dir, im, ids := three(t)
	must(t, im.Arm(ids[2], 2))
	must(t, im.Close())
	permit(im.Tree(ids[2]))
	must(t, os.RemoveAll(im.Tree(ids[2])))
	im = open(t, dir)
	if d, ok := im.Trial(); ok || im.Tries() != 0 {
		t.Errorf("on trial is %s, %d tries", d.ID, im.Tries())
	}
}

func TestRollbackAtBoot(t *testing.T) {
	_, im, ids := three(t)
	d, err := im.RollbackAtBoot(2)
	must(t, err)
	if tr, _ := im.Trial(); d.ID != ids[0] || tr.ID != ids[0] || im.Tries() != 2 {
		t.Errorf("goes to %s, on trial is %s", d.ID, tr.ID)
	}
	d, err = im.RollbackAtBoot(2) // gives it up
	must(t, err)
	if tr, ok := im.Trial(); ok || d.ID != ids[1] {
		t.Errorf("goes to %s, on trial is %s", d.ID, tr.ID)
	}
	must(t, im.Arm(ids[0], 1))
	must(t, im.Fail("x"))
	if _, err := im.RollbackAtBoot(2); !errors.Is(err, boot.ErrFailed) {
		t.Error(err)
	}
}

func TestImageFloors(t *testing.T) {
	dir, im, _ := three(t)
	must(t, im.SetFloor("demo", 1, 2))
	must(t, im.SetFloor("demo", 1, 1))
	must(t, im.Close())
	im = open(t, dir)
	if got := im.Floors(); !slices.Equal(got, []boot.Floor{{Product: "demo", Epoch: 1, Seq: 2}}) {
		t.Error(got)
	}
}
