package image_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"satchel/store/image"
	"satchel/store/manifest"
)

var errCrash = errors.New("crash")

// world is an image with release 0 live, and what is needed to update it.
type world struct {
	dir string
	b   *blobs
	rs  []image.Release
	ms  map[string]*manifest.Manifest // by id
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: filepath.Join(tempDir(t), "image"), b: newBlobs(t), ms: make(map[string]*manifest.Manifest)}
	for seq := range uint64(3) {
		r, m := release(t, w.b, seq, small(fmt.Sprint(seq)))
		w.rs, w.ms[r.ID()] = append(w.rs, r), m
	}
	im, err := image.OpenHook(w.dir, noSync)
	must(t, err)
	must(t, w.stage(im, 0))
	must(t, im.Activate(w.rs[0].ID()))
	must(t, im.Close())
	return w
}

func (w *world) stage(im *image.Image, i int) error {
	_, err := im.Stage(context.Background(), plan(w.rs[i], w.ms[w.rs[i].ID()]), w.b)
	return err
}

// story is a sequence of steps, each with what may be live afterwards.
type story []struct {
	name string
	do   func(w *world, im *image.Image) error
	live int // release that is live when the step is done
}

func tale() story {
	return story{
		{"stage", func(w *world, im *image.Image) error { return w.stage(im, 1) }, 0},
		{"activate", func(w *world, im *image.Image) error { return im.Activate(w.rs[1].ID()) }, 1},
		{"roll back", func(w *world, im *image.Image) error { _, err := im.Rollback(); return err }, 0},
		{"stage more", func(w *world, im *image.Image) error { return w.stage(im, 2) }, 0},
		{"activate more", func(w *world, im *image.Image) error { return im.Activate(w.rs[2].ID()) }, 2},
		{"prune", func(w *world, im *image.Image) error { _, err := im.Prune(image.Keep{}); return err }, 2},
		{"damage", func(w *world, im *image.Image) error { return os.Remove(im.Tree(w.rs[2].ID()) + "/bin/tool") }, 2},
		{"repair", func(w *world, im *image.Image) error {
			id := w.rs[2].ID()
			problems, err := im.Verify(context.Background(), id, w.b, nil)
			return errors.Join(err, im.Repair(context.Background(), id, w.b, problems))
		}, 2},
	}
}

// check looks at an image that nobody has open: it is opened, and must be in order. broken is the tree that may have had
// problems before the crash.
func (w *world) check(t *testing.T, name string, broken string, live ...string) {
	t.Helper()
	if c := current(w.dir); w.ms[c] == nil {
		t.Errorf("%s: before recovery current is %q", name, c)
	}
	var first string
	for range 2 {
		im, err := image.Open(w.dir)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if first == "" {
			w.checkOpen(t, name, im, broken, live...)
		}
		must(t, im.Close())
		if now := snapshot(t, w.dir); first == "" {
			first = now
		} else if now != first {
			t.Errorf("%s: the second open changed\n%sto\n%s", name, first, now)
		}
	}
}

func (w *world) checkOpen(t *testing.T, name string, im *image.Image, broken string, live ...string) {
	t.Helper()
	l, ok := im.Live()
	if !ok || !slices.Contains(live, l.ID) || current(w.dir) != l.ID {
		t.Errorf("%s: live is %q, current %q, want one of %q", name, l.ID, current(w.dir), live)
	}
	list, err := im.List()
	must(t, err)
	known := 0
	for _, d := range list {
		if w.ms[d.ID] == nil || len(d.Releases) != 1 || d.Releases[0].Version == "" {
			t.Fatalf("%s: deployment %+v", name, d)
		}
		problems, err := im.Verify(context.Background(), d.ID, w.b, nil)
		if err != nil || len(problems) > 0 && d.ID != broken {
			t.Errorf("%s: %s has problems: %q %v", name, d.ID, problems, err)
		}
		known += 2
	}
	if names := ls(t, w.dir); len(names) != known {
		t.Errorf("%s: left %q", name, names)
	}
}

// TestCrashAtEveryStep stops the story before each change of the disk that it makes, once by one, and opens the image again.
func TestCrashAtEveryStep(t *testing.T) {
	for n := 0; ; n++ {
		w := newWorld(t)
		count, crashed := 0, ""
		im, err := image.OpenHook(w.dir, func(op, path string) error {
			if count++; count > n && crashed == "" {
				crashed = op + " " + path
			}
			if crashed != "" {
				return errCrash
			}
			return noSync(op, path)
		})
		must(t, err)
		live, allowed, broken := 0, []string{}, ""
		for _, s := range tale() {
			allowed = []string{w.rs[live].ID(), w.rs[s.live].ID()}
			if s.name == "damage" {
				broken = w.rs[2].ID()
			}
			if err := s.do(w, im); err != nil {
				break
			}
			live = s.live
		}
		must(t, im.Close())
		if crashed == "" {
			t.Logf("%d places to crash", n)
			return
		}
		w.check(t, fmt.Sprintf("crash %d, %s", n, crashed), broken, allowed...)
		if t.Failed() {
			return
		}
	}
}

// TestErrorAtEveryStep has one change after the other fail. The method that was called reports it or makes do, and what was live
// stays live, at once and after opening again.
func TestErrorAtEveryStep(t *testing.T) { errorAtEveryStep(t, syscall.EIO) }

func errorAtEveryStep(t *testing.T, errno syscall.Errno) {
	for n := 0; ; n++ {
		w := newWorld(t)
		count, failed := 0, ""
		im, err := image.OpenHook(w.dir, func(op, path string) error {
			if count++; count == n+1 {
				failed = op + " " + path
				return errno
			}
			return noSync(op, path)
		})
		must(t, err)
		w.tell(t, im, &failed, errno)
		if failed == "" || t.Failed() {
			t.Logf("%d places to fail", n)
			return
		}
	}
}

// tell goes through the story until something fails, and closes the image.
func (w *world) tell(t *testing.T, im *image.Image, failed *string, errno error) {
	t.Helper()
	live, broken := 0, ""
	for _, s := range tale() {
		if s.name == "damage" {
			broken = w.rs[2].ID()
		}
		if err := s.do(w, im); err == nil {
			live = s.live
			if *failed == "" {
				continue
			}
		} else if !errors.Is(err, errno) {
			t.Errorf("%s: %v", s.name, err)
		}
		name := fmt.Sprintf("%v in %q, %s", errno, s.name, *failed)
		l, _ := im.Live()
		if l.ID != w.rs[live].ID() || current(w.dir) != l.ID {
			t.Errorf("%s: live is %q, current %q, want %q", name, l.ID, current(w.dir), w.rs[live].ID())
		}
		must(t, im.Close())
		w.check(t, name, broken, w.rs[live].ID())
		return
	}
	must(t, im.Close())
}

// TestOrderOfWrites looks at the order of the changes that a power cut must not see in another one.
func TestOrderOfWrites(t *testing.T) {
	w := newWorld(t)
	var ops []string
	im, err := image.OpenHook(w.dir, func(op, path string) error {
		path = strings.ReplaceAll(path, w.rs[1].ID(), "ID")
		ops = append(ops, op+" "+path)
		return noSync(op, path)
	})
	must(t, err)
	defer im.Close()
	must(t, w.stage(im, 1))
	wantEnd(t, ops, []string{
		"setting mode of deploy/ID.tmp",
		"syncing file system of deploy",
		"removing deploy/ID.toml",
		"creating deploy/ID.toml",
		"writing deploy/ID.toml",
		"setting mode of deploy/ID.toml",
		"syncing deploy/ID.toml",
		"renaming deploy/ID.tmp",
		"syncing directory deploy",
	})
	must(t, im.Activate(w.rs[1].ID()))
	wantEnd(t, ops, []string{
		"removing current.tmp",
		"making symbolic link current.tmp",
		"removing boot.1.tmp",
		"creating boot.1.tmp",
		"writing boot.1.tmp",
		"setting mode of boot.1.tmp",
		"syncing boot.1.tmp",
		"renaming boot.1.tmp",
		"syncing directory .",
		"renaming current.tmp",
		"syncing directory .",
	})
}

func wantEnd(t *testing.T, got, want []string) {
	t.Helper()
	if end := got[max(0, len(got)-len(want)):]; !slices.Equal(end, want) {
		t.Errorf("order is\n%s\nwant\n%s", strings.Join(end, "\n"), strings.Join(want, "\n"))
	}
}
