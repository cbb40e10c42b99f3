package image_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"satchel/store/image"
	"satchel/store/image/boot"
	"satchel/store/manifest"
)

func TestActivateAndRollback(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im := open(t, dir)
	var ids []string
	for i := range uint64(3) {
		r, m := release(t, b, i, small(fmt.Sprint(i)))
		ids = append(ids, stage(t, im, r, m, b))
	}
	check := func(live, previous string) {
		t.Helper()
		l, _ := im.Live()
		p, _ := im.Previous()
		if l.ID != live || p.ID != previous || current(dir) != live {
			t.Errorf("live %q, previous %q, current %q; want %q and %q", l.ID, p.ID, current(dir), live, previous)
		}
	}
	check("", "")
	must(t, im.Activate(ids[0]))
	check(ids[0], "")
	must(t, im.Activate(ids[0]))
	check(ids[0], "")
	must(t, im.Activate(ids[1]))
	check(ids[1], ids[0])
	if d, err := im.Rollback(); err != nil || d.ID != ids[0] || d.Releases[0].Version != "v0" {
		t.Error(d, err)
	}
	check(ids[0], ids[1])
	_, err := im.Rollback()
	must(t, err)
	check(ids[1], ids[0])
	must(t, im.Activate(ids[2]))
	check(ids[2], ids[1])
	for _, id := range []string{"demo-1-7-aaaaaaaa", "../../etc", ids[0] + ".tmp", ""} {
		if err := im.Activate(id); err == nil {
			t.Errorf("activated %q", id)
		}
		if err := im.Destroy(id); err == nil {
			t.Errorf("destroyed %q", id)
		}
	}
	check(ids[2], ids[1])
	must(t, im.Close())
	im = open(t, dir)
	check(ids[2], ids[1])
}

// TestKeepsUnknownLines: what a later version wrote into the record stays there.
func TestKeepsUnknownLines(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	r, m := release(t, b, 1, small("x"))
	must(t, os.WriteFile(dir+"/boot.1", boot.Record{Generation: 41, More: "floor 7\n"}.Encode(), 0o644))
	im := open(t, dir)
	must(t, im.Activate(stage(t, im, r, m, b)))
	text, err := os.ReadFile(dir + "/boot.0")
	must(t, err)
	if want := (boot.Record{Generation: 42, Live: r.ID(), More: "floor 7\n"}).Encode(); string(text) != string(want) {
		t.Errorf("record is\n%s", text)
	}
}

func TestDestroyAndPrune(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im := open(t, dir)
	var ids []string
	for _, seq := range []uint64{5, 9, 7, 8, 6} { // in this order they are staged
		r, m := release(t, b, seq, small(fmt.Sprint(seq)))
		ids = append(ids, stage(t, im, r, m, b))
	}
	must(t, im.Activate(ids[0]))
	must(t, im.Activate(ids[2]))
	for _, id := range []string{ids[0], ids[2]} {
		if err := im.Destroy(id); !errors.Is(err, image.ErrInUse) {
			t.Errorf("destroying %s: %v", id, err)
		}
	}
	if removed, err := im.Prune(image.Keep{Last: 2}); err != nil || !slices.Equal(removed, []string{ids[1]}) {
		t.Error(removed, err)
	}
	must(t, im.Destroy(ids[3]))
	if err := im.Destroy(ids[3]); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
	if removed, err := im.Prune(image.Keep{Last: -1}); err != nil || !slices.Equal(removed, []string{ids[4]}) {
		t.Error(removed, err)
	}
	want := []string{ids[0], ids[0] + ".toml", ids[2], ids[2] + ".toml"}
	slices.Sort(want)
	if got := ls(t, dir); !slices.Equal(got, want) {
		t.Errorf("left %q", got)
	}
}

func TestTree(t *testing.T) {
	im := open(t, tempDir(t))
	for _, id := range []string{"", ".", "..", "X", "a/../b-1-2-aaaaaaaa", "a-1-2-aaaaaaaa/..", "a-1-2-aaaaaaaa.tmp"} {
		if got := im.Tree(id); got != "" {
			t.Errorf("tree of %q is %q", id, got)
		}
	}
	if got := im.Tree("a-b-1-2-aaaaaaaa"); !strings.HasSuffix(got, "/deploy/a-b-1-2-aaaaaaaa") {
		t.Error(got)
	}
}

// model is what an image should hold.
type model struct {
	staged         []string // in order
	live, previous string
}

// TestModel does random things to an image and to a model of it.
func TestModel(t *testing.T) {
	top, b := tempDir(t), newBlobs(t)
	var rs []image.Release
	var ms []*manifest.Manifest
	for seq := range uint64(4) {
		r, m := release(t, b, seq, []entry{{path: "a", mode: 0o644, data: fmt.Sprint(seq)}})
		rs, ms = append(rs, r), append(ms, m)
	}
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		dir := fmt.Sprintf("%s/%d", top, n)
		im, err := image.OpenHook(dir, noSync)
		must(t, err)
		defer func() { im.Close() }()
		var w model
		rt.Repeat(map[string]func(*rapid.T){
			"stage": func(rt *rapid.T) {
				i := rapid.IntRange(0, 3).Draw(rt, "release")
				w.stage(stage(t, im, rs[i], ms[i], b))
			},
			"activate": func(rt *rapid.T) {
				id := rs[rapid.IntRange(0, 3).Draw(rt, "release")].ID()
				if ok := w.activate(id); ok != (im.Activate(id) == nil) {
					rt.Fatalf("activating %s: should work: %v", id, ok)
				}
			},
			"rollback": func(rt *rapid.T) {
				ok := w.previous != "" && w.activate(w.previous)
				if _, err := im.Rollback(); ok != (err == nil) {
					rt.Fatalf("rolling back: %v", err)
				}
			},
			"destroy": func(rt *rapid.T) {
				id := rs[rapid.IntRange(0, 3).Draw(rt, "release")].ID()
				if ok := w.destroy(id); ok != (im.Destroy(id) == nil) {
					rt.Fatalf("destroying %s: should work: %v", id, ok)
				}
			},
			"reopen": func(*rapid.T) {
				must(t, im.Close())
				im, err = image.OpenHook(dir, noSync)
				must(t, err)
			},
			"": func(rt *rapid.T) { w.check(rt, im, dir) },
		})
	})
}

func (w *model) stage(id string) {
	if !slices.Contains(w.staged, id) {
		w.staged = append(w.staged, id)
	}
}

func (w *model) activate(id string) bool {
	if !slices.Contains(w.staged, id) {
		return false
	}
	if id != w.live {
		w.live, w.previous = id, w.live
	}
	return true
}

func (w *model) destroy(id string) bool {
	i := slices.Index(w.staged, id)
	if i < 0 || id == w.live || id == w.previous {
		return false
	}
	w.staged = slices.Delete(w.staged, i, i+1)
	return true
}

func (w *model) check(t *rapid.T, im *image.Image, dir string) {
	live, _ := im.Live()
	previous, _ := im.Previous()
	list, err := im.List()
	var ids []string
	for _, d := range list {
		ids = append(ids, d.ID)
	}
	if err != nil || live.ID != w.live || previous.ID != w.previous || !slices.Equal(ids, w.staged) || current(dir) != w.live {
		t.Fatalf("live %q, previous %q, current %q, all %q; want %+v (%v)", live.ID, previous.ID, current(dir), ids, w, err)
	}
}
