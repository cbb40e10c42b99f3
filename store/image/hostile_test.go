package image_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// The tests TestHostileNN are about one kind of hostile input each.

// TestHostile53ReservedNames lays down a tree full of names that this package and the store use themselves. They are ordinary
// names there: nothing of ours ever lies inside a tree.
func TestHostile53ReservedNames(t *testing.T) {
	b := newBlobs(t)
	tree := []entry{
		{path: "boot.0", mode: 0o644, data: "satchel boot 1\n"},
		{path: "boot.0.tmp", mode: 0o644, data: "a"},
		{path: "boot.1", link: "boot.0"},
		{path: "current", mode: 0o644, data: "b"},
		{path: "current.tmp/", mode: 0o755},
		{path: "deploy/", mode: 0o755},
		{path: "deploy/demo-1-1-aaaaaaaa.fix.tmp/", mode: 0o755},
		{path: "deploy/demo-1-1-aaaaaaaa.gone.tmp", mode: 0o644, data: "c"},
		{path: "deploy/demo-1-1-aaaaaaaa.tmp", mode: 0o644, data: "d"},
		{path: "deploy/demo-1-1-aaaaaaaa.toml", mode: 0o644, data: "manifest = 'no'\n"},
		{path: "0", mode: 0o644, data: "the name of a replacement"},
		{path: "1", mode: 0o644, data: "and another"},
		{path: ".tmp", mode: 0o644, data: "e"},
		{path: "identity", mode: 0o600, data: "f"},
		{path: "lock", mode: 0o644, data: "g"},
		{path: "partial/", mode: 0o755},
		{path: "state.db", mode: 0o644, data: "h"},
		{path: "x.part", mode: 0o644, data: "i"},
	}
	dir := tempDir(t)
	im := open(t, dir)
	r, m := release(t, b, 1, sorted(tree))
	must(t, m.Check(manifest.Policy{}))
	id := stage(t, im, r, m, b)
	must(t, im.Activate(id))
	checkTree(t, im.Tree(id), m, b)
	must(t, os.RemoveAll(filepath.Join(im.Tree(id), "deploy")))
	must(t, os.Remove(filepath.Join(im.Tree(id), "0")))
	must(t, os.WriteFile(filepath.Join(im.Tree(id), "2"), nil, 0o644))
	problems, err := im.Verify(context.Background(), id, b, nil)
	must(t, err)
	must(t, im.Repair(context.Background(), id, b, problems))
	checkTree(t, im.Tree(id), m, b)
	must(t, im.Close())
	im = open(t, dir)
	if live, _ := im.Live(); live.ID != id {
		t.Errorf("live is %q", live.ID)
	}
	checkTree(t, im.Tree(id), m, b)
}

// TestHostile46Links lays down links to everywhere, and damages and repairs what is beside them: none is followed.
func TestHostile46Links(t *testing.T) {
	b, victim := newBlobs(t), tempDir(t)
	must(t, os.WriteFile(filepath.Join(victim, "file"), []byte("precious"), 0o644))
	before := snapshot(t, victim)
	tree := []entry{
		{path: "absolute", link: victim},
		{path: "absolute-file", link: victim + "/file"},
		{path: "dir/", mode: 0o755},
		{path: "dir/file", mode: 0o644, data: "a"},
		{path: "dir/loop", link: "loop"},
		{path: "dir/out", link: "../../../../../../../../../../../.." + victim},
		{path: "through", link: "absolute/file"},
	}
	im := open(t, tempDir(t))
	r, m := release(t, b, 1, tree)
	if err := m.Check(manifest.Policy{LinkOut: true}); err == nil {
		t.Error("a loop is allowed")
	}
	id := stage(t, im, r, m, b)
	must(t, os.Remove(filepath.Join(im.Tree(id), "dir/file")))
	must(t, os.Symlink(victim+"/file", filepath.Join(im.Tree(id), "dir/file")))
	problems, err := im.Verify(context.Background(), id, b, nil)
	must(t, err)
	must(t, im.Repair(context.Background(), id, b, problems))
	checkTree(t, im.Tree(id), m, b)
	must(t, im.Destroy(id))
	if after := snapshot(t, victim); after != before {
		t.Errorf("a link was followed:\n%s", after)
	}
}

// TestHostile67DamagedBlob damages blobs in the store behind its back, in their size and in one bit, before and after a deployment shares
// them. None gets into a deployment: the store loses the blob, the error says that it must be fetched again, and then all is well.
func TestHostile67DamagedBlob(t *testing.T) {
	for what, linked := range map[string]bool{"links": true, "reflinks or copies": false} {
		t.Run(what, func(t *testing.T) { damagedBlobs(t, linked) })
	}
}

func damagedBlobs(t *testing.T, linked bool) {
	tree, home := tempDir(t), tempDir(t)
	data := map[string][]byte{"small": []byte("small content"), "large": bytes.Repeat([]byte("large content, again and again. "), 30_000)}
	for name, b := range data {
		must(t, os.WriteFile(filepath.Join(tree, name), b, 0o644))
	}
	s, err := store.Open(home)
	must(t, err)
	defer s.Close()
	publish := func(seq uint64) image.Plan {
		h := manifest.Header{Product: "demo", Epoch: 1, Seq: seq, Version: "v1"}
		p, err := s.Publish(context.Background(), tree, store.PublishOptions{Header: h})
		must(t, err)
		m, err := s.Manifest(p.Manifest)
		must(t, err)
		return plan(image.Release{Product: "demo", Epoch: 1, Seq: seq, Version: "v1", Manifest: p.Manifest}, m)
	}
	im, err := image.OpenHook(tempDir(t), func(op, path string) error {
		if op == "cloning" && linked || op == "linking" && !linked || op == "making subvolume" {
			return syscall.EOPNOTSUPP
		}
		return noSync(op, path)
	})
	must(t, err)
	defer im.Close()
	for _, seq := range []uint64{1, 2} { // the second time the files are those of the live deployment too
		for i, e := range publish(seq).Parts[0].Manifest.Entries {
			for how, damage := range map[string]func(path string) error{
				"shorter": func(path string) error { return os.Truncate(path, int64(e.Size)-1) },
				"longer":  func(path string) error { return os.Truncate(path, int64(e.Size)+1) },
				"a bit":   func(path string) error { return flip(path, int64(e.Size)/2) },
			} {
				p := publish(seq)
				path, err := s.BlobFile(e.Blob, e.Mode)
				must(t, err)
				must(t, damage(path))
				_, err = im.Stage(context.Background(), p, s)
				if !errors.Is(err, store.ErrMismatch) || !strings.Contains(err.Error(), e.Path) || !strings.Contains(err.Error(), e.Blob.String()) {
					t.Errorf("seq %d, %s, %s: staged from a damaged blob: %v", seq, e.Path, how, err)
				}
				if s.Has(e.Blob) || !s.Has(p.Parts[0].Manifest.Entries[1-i].Blob) {
					t.Errorf("seq %d, %s, %s: the store has the wrong blobs", seq, e.Path, how)
				}
				if list, err := im.List(); err != nil || len(list) != int(seq)-1 {
					t.Errorf("seq %d, %s, %s: left %v, %v", seq, e.Path, how, list, err)
				}
			}
		}
		d, err := im.Stage(context.Background(), publish(seq), s)
		must(t, err)
		if problems, err := im.Verify(context.Background(), d.ID, s, nil); err != nil || len(problems) > 0 {
			t.Errorf("problems %q, %v", problems, err)
		}
		must(t, im.Activate(d.ID))
	}

	// The live tree is written to in place. Repair does not take the damaged blob for good, and takes the new one.
	live, _ := im.Live()
	must(t, flip(filepath.Join(im.Tree(live.ID), "large"), 77))
	problems, err := im.Verify(context.Background(), live.ID, s, nil)
	if err != nil || len(problems) != 1 {
		t.Fatalf("problems %q, %v", problems, err)
	}
	if err := im.Repair(context.Background(), live.ID, s, problems); linked != errors.Is(err, store.ErrMismatch) {
		t.Errorf("repaired from a blob that shares the file: %v", err)
	}
	publish(2)
	must(t, im.Repair(context.Background(), live.ID, s, problems))
	if problems, err := im.Verify(context.Background(), live.ID, s, nil); err != nil || len(problems) > 0 {
		t.Errorf("after repair: %q, %v", problems, err)
	}
}

// flip changes one bit of a file in place.
func flip(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		return err
	}
	b[0] ^= 1
	_, err = f.WriteAt(b, at)
	return err
}

// TestHostile69DiskFullAtEachWrite: whatever change of the disk finds it full, the live tree stays, and nothing is left over.
func TestHostile69DiskFullAtEachWrite(t *testing.T) { errorAtEveryStep(t, syscall.ENOSPC) }

// TestHostileImage opens an image in which something else is where its files must be. Open refuses with a clear error, or
// everything works, and what is outside stays as it was.
func TestHostileImage(t *testing.T) {
	link := func(target string) func(string) error {
		return func(path string) error { return os.Symlink(target, path) }
	}
	pipe := func(path string) error { return syscall.Mkfifo(path, 0o666) }
	full := func(path string) error { return os.MkdirAll(path+"/deep/er", 0o755) }
	file := func(path string) error { return os.WriteFile(path, []byte("x"), 0o644) }
	for what, c := range map[string]struct {
		path  string // ID stands for the id of the release that is to come
		plant func(path string) error
		want  string // in Open's error; empty: it works
	}{
		"deploy is a link":               {"deploy", link("OUTSIDE"), "deploy is a symbolic link"},
		"deploy is a pipe":               {"deploy", pipe, "deploy is a special file"},
		"a slot is a link":               {"boot.0", link("OUTSIDE/file"), "boot.0 is a symbolic link"},
		"a slot is a pipe":               {"boot.1", pipe, "boot.1 is a special file"},
		"a slot is a directory":          {"boot.1", full, "boot.1 is a directory"},
		"current is a directory":         {"current", full, "current is a directory"},
		"current is a pipe":              {"current", pipe, "current is a special file"},
		"current leads out":              {"current", link("OUTSIDE"), ""},
		"current leads to itself":        {"current", link("current"), ""},
		"a temporary slot is a link":     {"boot.1.tmp", link("OUTSIDE/file"), ""},
		"a temporary slot is a pipe":     {"boot.1.tmp", pipe, ""},
		"current.tmp is a file":          {"current.tmp", file, ""},
		"the tree is a link":             {"deploy/ID", link("OUTSIDE"), "is a symbolic link"},
		"the tree is a file":             {"deploy/ID", file, "is a file"},
		"the clone is a link":            {"deploy/ID.tmp", link("OUTSIDE"), ""},
		"the clone is a pipe":            {"deploy/ID.tmp", pipe, ""},
		"the clone is full of links":     {"deploy/ID.tmp/a/b", link("OUTSIDE"), ""},
		"what is removed is a link":      {"deploy/ID.gone.tmp", link("OUTSIDE"), ""},
		"the spare is a link":            {"deploy/ID.fix.tmp", link("OUTSIDE"), ""},
		"the spare is a file":            {"deploy/ID.fix.tmp", file, ""},
		"the description is a link":      {"deploy/ID.toml", link("OUTSIDE/file"), ""},
		"the description is a pipe":      {"deploy/ID.toml", pipe, ""},
		"the description is a directory": {"deploy/ID.toml", full, ""},
		"the description of a tree is a pipe": {"deploy/ID.toml", func(path string) error {
			return errors.Join(os.Mkdir(strings.TrimSuffix(path, ".toml"), 0o755), pipe(path))
		}, ""},
		"somebody else's name, a link":    {"deploy/other", link("OUTSIDE"), ""},
		"somebody else's name, temporary": {"deploy/other.tmp", link("OUTSIDE"), ""},
	} {
		t.Run(what, func(t *testing.T) {
			dir, outside, b := tempDir(t), tempDir(t), newBlobs(t)
			must(t, os.WriteFile(filepath.Join(outside, "file"), []byte("precious"), 0o644))
			before := snapshot(t, outside)
			r, m := release(t, b, 1, small("x"))
			path := filepath.Join(dir, strings.ReplaceAll(c.path, "ID", r.ID()))
			must(t, os.MkdirAll(filepath.Dir(path), 0o755))
			must(t, c.plant(path))
			if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, "OUTSIDE") {
				must(t, os.Remove(path))
				must(t, os.Symlink(outside+target[len("OUTSIDE"):], path))
			}
			if err := live(dir, r, m, b); c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if c.want == "" {
				checkTree(t, filepath.Join(dir, "deploy", r.ID()), m, b)
				if current(dir) != r.ID() {
					t.Errorf("current is %q", current(dir))
				}
			}
			if after := snapshot(t, outside); after != before {
				t.Errorf("outside was\n%sand is\n%s", before, after)
			}
		})
	}
}

// live opens an image and makes a release live in it, with everything that belongs to that.
func live(dir string, r image.Release, m *manifest.Manifest, b image.Blobs) error {
	im, err := image.OpenHook(dir, noSync)
	if err != nil {
		return err
	}
	defer im.Close()
	if _, err := im.List(); err != nil {
		return err
	}
	d, err := im.Stage(context.Background(), plan(r, m), b)
	if err != nil {
		return err
	}
	problems, err := im.Verify(context.Background(), d.ID, b, nil)
	if err == nil {
		problems = append(problems, image.Problem{Path: m.Entries[1].Path, What: "is put anew"})
		err = im.Repair(context.Background(), d.ID, b, problems)
	}
	if err == nil {
		err = im.Activate(d.ID)
	}
	if err == nil {
		_, err = im.Prune(image.Keep{})
	}
	return err
}
