package image_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"

	"satchel/store/image"
	"satchel/store/manifest"
)

// moving is an image whose next deployment carries configuration over and makes state of a directory.
type moving struct {
	dir      string
	b        *blobs
	one, two image.Part
}

func newMoving(t *testing.T) *moving {
	t.Helper()
	w := &moving{dir: tempDir(t), b: newBlobs(t)}
	tree := func(salt string) []entry {
		return []entry{{path: "bin", mode: 0o755, data: salt}, {path: "etc/", mode: 0o755}, {path: "etc/both", mode: 0o644, data: salt}, {path: "etc/gone", mode: 0o644, data: "g"},
			{path: "etc/mine", mode: 0o644, data: "default"}, {path: "etc/theirs", mode: 0o644, data: salt}, {path: "var/", mode: 0o755}, {path: "var/log", mode: 0o644, data: "log"}}
	}
	w.one = withTerms(t, w.b, 1, etc, tree("one"))
	w.two = withTerms(t, w.b, 2, manifest.Terms{Config: []string{"etc"}, State: []string{"var"}}, tree("two"))
	im := open(t, w.dir)
	d := stageParts(t, im, w.b, w.one)
	must(t, im.Activate(d.ID))
	w.edit(t, im, "mine")
	must(t, os.Remove(im.Tree(d.ID)+"/etc/gone"))
	must(t, os.WriteFile(im.Tree(d.ID)+"/var/log", []byte("grown"), 0o644))
	must(t, im.Close())
	return w
}

// edit changes two files of the configuration of release one.
func (w *moving) edit(t *testing.T, im *image.Image, what string) {
	t.Helper()
	for _, name := range []string{"mine", "both"} {
		must(t, os.WriteFile(im.Tree(w.one.Release.ID())+"/etc/"+name, []byte(what), 0o644))
	}
}

// move stages, refreshes after another change, and activates.
func (w *moving) move(t *testing.T, im *image.Image) error {
	ctx, id := context.Background(), w.two.Release.ID()
	if _, err := im.Stage(ctx, image.Plan{Parts: []image.Part{w.two}}, w.b); err != nil {
		return err
	}
	w.edit(t, im, "mine 2")
	if _, err := im.Refresh(ctx, id, w.b); err != nil {
		return err
	}
	return im.Activate(id)
}

// check looks at what must be true wherever it ended: each file is the old one or a new one, and none is half.
func (w *moving) check(t *testing.T, name string) {
	t.Helper()
	before := ""
	for range 2 {
		im, err := image.Open(w.dir)
		must(t, err)
		must(t, im.Close())
		if now := snapshot(t, w.dir); before != "" && now != before {
			t.Errorf("%s: the second open changed\n%sto\n%s", name, before, now)
		} else {
			before = now
		}
	}
	im := open(t, w.dir)
	defer im.Close()
	live, ok := im.Live()
	if !ok {
		t.Fatalf("%s: nothing is live", name)
	}
	list, err := im.List()
	must(t, err)
	for _, d := range list {
		tree := im.Tree(d.ID)
		for _, file := range []string{"mine", "both"} {
			if got := read(tree + "/etc/" + file); got != "mine" && got != "mine 2" {
				t.Errorf("%s: %s in %s is %q", name, file, d.ID, got)
			}
		}
		if _, err := os.Lstat(tree + "/etc/gone"); err == nil {
			t.Errorf("%s: what was removed is there in %s", name, d.ID)
		}
		if got := read(tree + "/var/log"); got != "grown" {
			t.Errorf("%s: var in %s has %q", name, d.ID, got)
		}
		if problems, err := im.Verify(context.Background(), d.ID, w.b, nil); err != nil || len(problems) > 0 && d.ID != w.one.Release.ID() {
			t.Errorf("%s: problems in %s: %q, %v", name, d.ID, problems, err)
		}
	}
	if names, _ := os.ReadDir(w.dir + "/state"); slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() != "var" }) {
		t.Errorf("%s: state holds %v", name, names)
	}

	// To do it again ends as if nothing had been.
	if live.ID == w.one.Release.ID() {
		must(t, w.move(t, im))
	}
	want := []string{"both: mine 2", "both.satchel-new: two", "mine: mine 2", "theirs: two"}
	if got := shape(t, im.Tree(w.two.Release.ID())+"/etc"); !slices.Equal(got, want) {
		t.Errorf("%s: at the end it is %q, want %q", name, got, want)
	}
}

// TestCrashInMerge stops before each change of the disk, once by one; TestErrorInMerge has each fail.
func TestCrashInMerge(t *testing.T) { interruptMerge(t, errCrash, true) }
func TestErrorInMerge(t *testing.T) { interruptMerge(t, syscall.ENOSPC, false) }

func interruptMerge(t *testing.T, with error, forGood bool) {
	for n := 0; ; n++ {
		w := newMoving(t)
		count, at := 0, ""
		im, err := image.OpenHook(w.dir, func(op, path string) error {
			if count++; count == n+1 {
				at = op + " " + path
			}
			if count == n+1 || forGood && count > n {
				return with
			}
			return noSync(op, path)
		})
		must(t, err)
		if err := w.move(t, im); err != nil && !errors.Is(err, with) {
			t.Errorf("%s: %v", at, err)
		}
		must(t, im.Close())
		w.check(t, fmt.Sprintf("%d, %s", n, at))
		if at == "" || t.Failed() {
			t.Logf("%d places", n)
			return
		}
	}
}
