package image_test

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"satchel/store/image"
)

// TestRecall lays an older release's manifest down under a newer number, beside the older release: another deployment with the same
// content, which lives as any other.
func TestRecall(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im := open(t, dir)
	ctx := context.Background()
	one, m := release(t, b, 1, small("good"))
	two, m2 := release(t, b, 2, small("bad"))
	must(t, im.Activate(stage(t, im, one, m, b)))
	must(t, im.Activate(stage(t, im, two, m2, b)))
	recall := one
	recall.Seq, recall.Version = 3, "v1 again"
	again := plan(recall, m)
	again.Parts[0].Recall = true

	d, err := im.Stage(ctx, again, b)
	must(t, err)
	if d.ID == one.ID() || !slices.Equal(d.Releases, []image.Release{recall}) {
		t.Errorf("staged as %+v", d)
	}
	checkTree(t, im.Tree(d.ID), m, b)
	twice, err := im.Stage(ctx, again, b)
	if err != nil || !reflect.DeepEqual(twice, d) {
		t.Errorf("staged again as %+v, %v", twice, err)
	}
	must(t, os.Remove(filepath.Join(im.Tree(d.ID), "bin/tool")))
	problems, err := im.Verify(ctx, d.ID, b, nil)
	if err != nil || len(problems) != 1 {
		t.Errorf("problems %q, %v", problems, err)
	}
	must(t, im.Repair(ctx, d.ID, b, problems))
	checkTree(t, im.Tree(d.ID), m, b)
	checkTree(t, im.Tree(one.ID()), m, b)
	must(t, im.Activate(d.ID))
	if removed, err := im.Prune(image.Keep{}); err != nil || !slices.Equal(removed, []string{one.ID()}) {
		t.Errorf("pruned %q, %v", removed, err)
	}
	must(t, im.Close())
	im = open(t, dir)
	if live, _ := im.Live(); !reflect.DeepEqual(live, d) {
		t.Errorf("after opening again live is %+v", live)
	}
	if back, err := im.Rollback(); err != nil || back.ID != two.ID() {
		t.Errorf("rolled back to %+v, %v", back, err)
	}

	// Without its description it is found by reading all of it.
	must(t, os.Remove(im.Tree(d.ID)+".toml"))
	if d, err := im.Stage(ctx, again, b); err != nil || !slices.Equal(d.Releases, []image.Release{recall}) {
		t.Errorf("staged without a description as %+v, %v", d, err)
	}
}

// TestRecallRefuses: a part takes only the release's own manifest, and a recall only that of an older one.
func TestRecallRefuses(t *testing.T) {
	b := newBlobs(t)
	im := open(t, tempDir(t))
	own, m := release(t, b, 5, small("x"))
	at := func(product string, epoch, seq uint64) image.Release {
		r := own
		r.Product, r.Epoch, r.Seq = product, epoch, seq
		return r
	}
	for _, c := range []struct {
		r             image.Release
		stage, recall bool
	}{
		{at("demo", 1, 5), true, false},
		{at("demo", 1, 4), false, false},
		{at("demo", 0, 9), false, false},
		{at("other", 1, 6), false, false},
		{at("demo", 1, 6), false, true},
		{at("demo", 2, 1), false, true},
	} {
		_, err := im.Stage(context.Background(), plan(c.r, m), b)
		if (err == nil) != c.stage || err != nil && !strings.Contains(err.Error(), "manifest is of demo, epoch 1, seq 5") {
			t.Errorf("Stage as %s: %v", c.r.ID(), err)
		}
		recall := plan(c.r, m)
		recall.Parts[0].Recall = true
		_, err = im.Stage(context.Background(), recall, b)
		if (err == nil) != c.recall || err != nil && !strings.Contains(err.Error(), "manifest is of demo, epoch 1, seq 5") {
			t.Errorf("recall as %s: %v", c.r.ID(), err)
		}
	}
}
