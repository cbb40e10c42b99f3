package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"satchel/store/image"
	"satchel/store/manifest"
)

func TestClone(t *testing.T) {
	ctx, b := context.Background(), newBlobs(t)
	dir := tempDir(t)
	im := open(t, dir)
	part := withTerms(t, b, 1, manifest.Terms{Config: []string{"etc"}, State: []string{"var"}}, everything())
	d := stageParts(t, im, b, part)
	must(t, im.Pin(d.ID, true))
	must(t, im.Activate(d.ID))
	must(t, os.Chmod(im.Tree(d.ID)+"/etc", 0o755))
	write(t, im.Tree(d.ID)+"/etc/mine", "mine")
	c, err := im.Clone(ctx, d.ID, "before-exam")
	must(t, err)
	if c.ID != "before-exam" || c.Pinned || !reflect.DeepEqual(c.Releases, d.Releases) {
		t.Errorf("cloned as %+v", c)
	}
	if list, err := im.Diff(ctx, d.ID, c.ID); err != nil || len(list) > 0 {
		t.Errorf("it differs: %q, %v", list, err)
	}
	for _, id := range []string{d.ID, c.ID} {
		if problems, err := im.Verify(ctx, id, b, nil); err != nil || len(problems) > 0 {
			t.Errorf("problems in %s: %q, %v", id, problems, err)
		}
		if changed, err := im.Changed(ctx, id, b); err != nil || len(changed) > 0 {
			t.Errorf("changed in %s: %q, %v", id, changed, err)
		}
	}
	if sameFile(t, im.Tree(c.ID)+"/etc/mine", im.Tree(d.ID)+"/etc/mine") {
		t.Error("configuration is shared")
	}
	write(t, im.Tree(c.ID)+"/etc/mine", "of the clone")
	must(t, im.Activate(c.ID))
	must(t, im.Close())
	im = open(t, dir)
	if live, _ := im.Live(); live.ID != c.ID || read(im.Tree(d.ID)+"/etc/mine") != "mine" {
		t.Errorf("live is %+v", live)
	}
	next := stageParts(t, im, b, withTerms(t, b, 2, etc, at("etc/f", "f")))
	if read(im.Tree(next.ID)+"/etc/mine") != "of the clone" {
		t.Error("the clone's configuration was not carried over")
	}
	for name, want := range map[string]error{"before-exam": image.ErrExist, next.ID: nil, "../x": nil, "a b": nil} {
		if _, err := im.Clone(ctx, d.ID, name); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("cloned as %q: %v", name, err)
		}
	}
	if _, err := im.Clone(ctx, "none", "other"); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := im.Clone(cancelled, d.ID, "other"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	must(t, os.Remove(im.Tree(d.ID)+".toml")) // without it nothing is shared, since it is not known what may be
	lost, err := im.Clone(ctx, d.ID, "lost")
	must(t, err)
	if sameFile(t, im.Tree(lost.ID)+"/bin/tool", im.Tree(d.ID)+"/bin/tool") {
		t.Error("a file is shared")
	}
	if err := im.Pin(d.ID, true); err == nil {
		t.Error("pinned what has no description")
	}
	want := []string{"before-exam", "before-exam.toml", d.ID, "lost", "lost.toml", next.ID, next.ID + ".toml"}
	slices.Sort(want)
	if got := ls(t, dir); !slices.Equal(got, want) {
		t.Errorf("deploy holds %q, want %q", got, want)
	}
}

func sameFile(t *testing.T, a, b string) bool {
	t.Helper()
	x, y := stat(t, a), stat(t, b)
	return x.Dev == y.Dev && x.Ino == y.Ino
}

func TestPinAndPrune(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im := open(t, dir)
	var ids []string
	for seq := range uint64(5) {
		r, m := release(t, b, seq, small("x"))
		ids = append(ids, stage(t, im, r, m, b))
	}
	must(t, im.Pin(ids[1], true))
	must(t, im.Pin(ids[2], true))
	must(t, im.Pin(ids[2], false))
	must(t, im.Close())
	im = open(t, dir)
	if removed, err := im.Prune(image.Keep{Days: 1}); err != nil || len(removed) > 0 {
		t.Errorf("removed what was staged today: %q, %v", removed, err)
	}
	// While a deployment is being made nothing is pruned, and the one that it is made from is not destroyed.
	must(t, im.Activate(ids[0]))
	asked := false
	r, m := release(t, b, 9, small("y"))
	p := plan(r, m)
	p.From, p.Progress = ids[4], func(image.StageProgress) {
		if !asked {
			asked = true
			if _, err := im.Prune(image.Keep{}); !errors.Is(err, image.ErrBusy) {
				t.Errorf("pruned while staging: %v", err)
			}
			if err := im.Destroy(ids[4]); !errors.Is(err, image.ErrInUse) {
				t.Errorf("destroyed while staging from it: %v", err)
			}
		}
	}
	d, err := im.Stage(context.Background(), p, b)
	if err != nil || !asked {
		t.Fatal(err)
	}
	if removed, err := im.Prune(image.Keep{Last: 1}); err != nil || !slices.Equal(removed, []string{ids[4], ids[3], ids[2]}) {
		t.Errorf("removed %q, %v", removed, err)
	}
	list, err := im.List()
	if err != nil || len(list) != 3 || !list[1].Pinned || list[0].Pinned || list[2].ID != d.ID {
		t.Errorf("left %+v, %v", list, err)
	}
	if err := im.Pin("none", true); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

func TestDiff(t *testing.T) {
	b := newBlobs(t)
	im := open(t, tempDir(t))
	one := stageParts(t, im, b, withTerms(t, b, 1, manifest.Terms{}, []entry{{path: "a", mode: 0o644, data: "a"}, {path: "d/", mode: 0o755}, {path: "d/e/", mode: 0o755},
		{path: "d/e/f", mode: 0o644, data: "f"}, {path: "l", link: "a"}, {path: "m", mode: 0o644, data: "m"}, {path: "s", mode: 0o644, data: "same"}, {path: "t", mode: 0o644, data: "t"}, {path: "z", mode: 0o644, data: "long"}}))
	two := stageParts(t, im, b, withTerms(t, b, 2, manifest.Terms{}, []entry{{path: "a", mode: 0o644, data: "b"}, {path: "g/", mode: 0o755}, {path: "g/h", mode: 0o644, data: "h"},
		{path: "l", link: "b"}, {path: "m", mode: 0o600, data: "m"}, {path: "s", mode: 0o644, data: "same"}, {path: "t/", mode: 0o755}, {path: "t/u", mode: 0o644, data: "u"}, {path: "z", mode: 0o644, data: "longer"}}))
	want := []image.Change{{"a", "changed"}, {"d", "removed"}, {"d/e", "removed"}, {"d/e/f", "removed"}, {"g", "added"}, {"g/h", "added"}, {"l", "changed"}, {"m", "changed"},
		{"t", "changed"}, {"t/u", "added"}, {"z", "changed"}}
	if got, err := im.Diff(context.Background(), one.ID, two.ID); err != nil || !slices.Equal(got, want) {
		t.Errorf("got  %q, %v\nwant %q", got, err, want)
	}
	if got, err := im.Diff(context.Background(), one.ID, one.ID); err != nil || len(got) > 0 {
		t.Errorf("with itself %q, %v", got, err)
	}
	if _, err := im.Diff(context.Background(), one.ID, "none"); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

func TestPatches(t *testing.T) {
	b := newBlobs(t)
	im := open(t, tempDir(t))
	one, two := product(t, b, "one", 1, nil), product(t, b, "two", 1, nil)
	one.Manifest.Terms.Patches = []string{"100000-01", "800001-01"}
	two.Manifest.Terms.Patches = []string{"100000-01", "912345-02"}
	d := stageParts(t, im, b, one, two)
	want := []string{"100000-01", "800001-01", "912345-02"}
	if !slices.Equal(d.Patches, want) {
		t.Errorf("patches %q", d.Patches)
	}
	if list, err := im.List(); err != nil || len(list) != 1 || !slices.Equal(list[0].Patches, want) {
		t.Errorf("read again they are %+v, %v", list, err)
	}
}

// TestNeed compares what staging is said to take with what it takes, on a file system where that is known exactly.
func TestNeed(t *testing.T) {
	for what, c := range map[string]struct {
		other bool // the image is on another file system than the blobs
		terms manifest.Terms
	}{"links": {false, etc}, "copies": {true, etc}, "no terms": {false, manifest.Terms{}}} {
		t.Run(what, func(t *testing.T) {
			dir, b := onLoop(t, "ext4"), newBlobs(t)
			if !c.other {
				b = blobsIn(filepath.Join(dir, "blobs"))
				must(t, os.Mkdir(b.dir, 0o755))
			}
			im := open(t, filepath.Join(dir, "image"))
			part := withTerms(t, b, 1, c.terms, append(wide(900), entry{path: "etc/", mode: 0o755},
				entry{path: "etc/big", mode: 0o644, data: string(make([]byte, 900_000))}, entry{path: "zero", mode: 0o644}))
			fetch, stage := im.Need([]image.Part{part}, b)
			if fetch.Bytes != 0 || fetch.Inodes != 0 {
				t.Errorf("to fetch: %+v", fetch)
			}
			for _, e := range part.Manifest.Entries {
				if e.Type == manifest.File {
					_, err := b.BlobFile(e.Blob, e.Mode)
					must(t, err)
				}
			}
			syncFS(t, dir)
			before, err := im.Free()
			must(t, err)
			stageParts(t, im, b, part)
			syncFS(t, dir)
			after, err := im.Free()
			must(t, err)
			took := image.Space{Bytes: before.Bytes - after.Bytes, Inodes: before.Inodes - after.Inodes}
			t.Logf("said %+v, took %+v", stage, took)
			if stage.Bytes < took.Bytes || stage.Bytes > took.Bytes+(1<<20) || stage.Inodes < took.Inodes || stage.Inodes > took.Inodes+10 {
				t.Errorf("said %+v, took %+v", stage, took)
			}
			b.content = nil
			if fetch, _ := im.Need([]image.Part{part}, b); fetch.Bytes < part.Manifest.TotalSize() || fetch.Inodes != 902 {
				t.Errorf("to fetch: %+v", fetch)
			}
		})
	}
}

// Prove sees what Verify leaves to the person.
func TestProve(t *testing.T) {
	b := newBlobs(t)
	im := open(t, tempDir(t))
	p := product(t, b, "one", 1, []entry{{path: "etc/", mode: 0o755}, {path: "etc/conf", mode: 0o644, data: "default"}, {path: "file", mode: 0o644, data: "content"}})
	p.Manifest.Terms.Config = []string{"etc"}
	d := stageParts(t, im, b, p)
	prove := func() []image.Problem {
		t.Helper()
		problems, err := im.Prove(context.Background(), d.ID, b)
		must(t, err)
		return problems
	}
	if problems := prove(); len(problems) != 0 {
		t.Errorf("a fresh one has problems %v", problems)
	}
	must(t, os.WriteFile(im.Tree(d.ID)+"/etc/conf", []byte("changed"), 0o644))
	must(t, os.WriteFile(im.Tree(d.ID)+"/etc/own", nil, 0o644))
	if problems, err := im.Verify(context.Background(), d.ID, b, nil); err != nil || len(problems) != 0 {
		t.Errorf("Verify gives %v, %v", problems, err)
	}
	if problems := prove(); len(problems) != 2 || problems[0].Path != "etc/conf" || problems[1].Path != "etc/own" {
		t.Errorf("Prove gives %v", problems)
	}
	if _, err := im.Prove(context.Background(), "none", b); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}
