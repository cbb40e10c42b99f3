package image_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"satchel/store/image"
	"satchel/store/manifest"
)

var withState = manifest.Terms{State: []string{"srv/data", "var"}}

// TestState: state lies beside the trees, is filled once, and is then left alone by everything.
func TestState(t *testing.T) {
	ctx, b := context.Background(), newBlobs(t)
	dir := tempDir(t)
	im := open(t, dir)
	tree := []entry{{path: "bin", mode: 0o755, data: "b"}, {path: "var/", mode: 0o750}, {path: "var/lib/", mode: 0o755}, {path: "var/lib/seed", mode: 0o600, data: "seed"}, {path: "var/run", link: "lib"}}
	one := stageParts(t, im, b, withTerms(t, b, 1, withState, tree))
	must(t, im.Activate(one.ID))
	want := []string{"srv/data", "var 0750", "var/lib/seed 0600: seed", "var/run -> lib"}
	if got := shape(t, dir+"/state"); !slices.Equal(got, want) {
		t.Errorf("state is %q, want %q", got, want)
	}
	if st := stat(t, dir+"/state/var/lib/seed"); st.Nlink != 1 {
		t.Error("state shares a file with the store")
	}
	top := im.Tree(one.ID)
	if got := shape(t, top); !slices.Equal(got, []string{"bin: b", "srv/data -> ../../../state/srv/data", "state", "var -> ../../state/var"}) {
		t.Errorf("tree is %q", got)
	}
	if read(top+"/var/lib/seed") != "seed" {
		t.Error("the link does not lead to the state")
	}
	if fi, err := os.Stat(top + "/srv/data"); err != nil || !fi.IsDir() {
		t.Error(fi, err)
	}
	inRoot(t, top, dir+"/state")

	write(t, dir+"/state/var/lib/seed", "grown")
	write(t, dir+"/state/var/more", "more")
	must(t, os.RemoveAll(dir+"/state/var/run"))
	before := snapshot(t, dir+"/state")
	tree[3].data, tree[0].data = "seed 2", "b2"
	two := stageParts(t, im, b, withTerms(t, b, 2, withState, tree))
	must(t, im.Activate(two.ID))
	if problems, err := im.Verify(ctx, two.ID, b, nil); err != nil || len(problems) > 0 {
		t.Errorf("problems %q, %v", problems, err)
	}
	must(t, os.Remove(im.Tree(two.ID)+"/var"))
	must(t, os.MkdirAll(im.Tree(two.ID)+"/var/wrong", 0o755))
	problems, err := im.Verify(ctx, two.ID, b, nil)
	if err != nil || len(problems) != 1 {
		t.Errorf("problems %q, %v", problems, err)
	}
	must(t, im.Repair(ctx, two.ID, b, problems))
	if got, _ := os.Readlink(im.Tree(two.ID) + "/var"); got != "../../state/var" {
		t.Errorf("repaired it is %q", got)
	}
	converged, err := im.Stage(ctx, image.Plan{Converge: true, Parts: []image.Part{withTerms(t, b, 3, withState, tree)}}, b)
	must(t, err)
	must(t, im.Activate(converged.ID))
	must(t, im.Destroy(one.ID))
	none := stageParts(t, im, b, withTerms(t, b, 4, manifest.Terms{}, tree))
	if read(im.Tree(none.ID)+"/var/lib/seed") != "seed 2" {
		t.Error("a release without state paths has no directory of its own")
	}
	must(t, im.Close())
	open(t, dir)
	if after := snapshot(t, dir+"/state"); after != before {
		t.Errorf("state was\n%sand is\n%s", before, after)
	}
}

// inRoot looks at the state from inside a tree, on whose directory state that of the image is mounted.
func inRoot(t *testing.T, tree, state string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Log("not root: no look from inside the tree")
		return
	}
	must(t, syscall.Mount(state, tree+"/state", "", syscall.MS_BIND, ""))
	defer syscall.Unmount(tree+"/state", syscall.MNT_DETACH)
	root, err := os.OpenRoot(tree)
	must(t, err)
	defer root.Close()
	// In a chroot ".." ends at the top: the same as the path without it.
	for _, path := range []string{"var", "srv/data"} {
		target, err := os.Readlink(tree + "/" + path)
		must(t, err)
		inside := strings.TrimLeft(filepath.Clean("/"+filepath.Dir(path)+"/"+target), "/")
		if fi, err := root.Stat(inside); err != nil || !fi.IsDir() {
			t.Errorf("%s leads to %s: %v", path, inside, err)
		}
	}
}

// TestStateFromTree: what was a directory of the tree before becomes state with all that is in it.
func TestStateFromTree(t *testing.T) {
	b := newBlobs(t)
	dir := tempDir(t)
	im := open(t, dir)
	tree := []entry{{path: "var/", mode: 0o755}, {path: "var/log/", mode: 0o755}, {path: "var/log/first", mode: 0o644, data: "of the release"}}
	one := stageParts(t, im, b, withTerms(t, b, 1, manifest.Terms{}, tree))
	must(t, im.Activate(one.ID))
	write(t, im.Tree(one.ID)+"/var/log/mine", "mine")
	must(t, os.Chmod(im.Tree(one.ID)+"/var/log", 0o700))
	must(t, os.Symlink("log/mine", im.Tree(one.ID)+"/var/link"))
	must(t, syscall.Mkfifo(im.Tree(one.ID)+"/var/pipe", 0o644))
	before := snapshot(t, im.Tree(one.ID))
	stageParts(t, im, b, withTerms(t, b, 2, manifest.Terms{State: []string{"var"}}, tree))
	want := []string{"var/link -> log/mine", "var/log 0700", "var/log/first: of the release", "var/log/mine: mine"}
	if got := shape(t, dir+"/state"); !slices.Equal(got, want) {
		t.Errorf("state is %q, want %q", got, want)
	}
	if stat(t, dir+"/state/var/log/first").Ino == stat(t, im.Tree(one.ID)+"/var/log/first").Ino {
		t.Error("state shares a file with a tree")
	}
	if !sameTree(t, im.Tree(one.ID), before) {
		t.Error("the tree before changed")
	}
}

// TestStateRefused: what cannot be laid down is refused with a reason, and leaves nothing.
func TestStateRefused(t *testing.T) {
	outside := tempDir(t)
	file := entry{path: "var/x", mode: 0o644, data: "x"}
	for what, c := range map[string]struct {
		plant    func(dir string) error
		one, two manifest.Terms
		of, by   []entry
		want     string
	}{
		"state is a file": {func(d string) error { return os.WriteFile(d+"/state", nil, 0o644) }, withState, etc, nil, nil, "state is a file"},
		"state is a link": {func(d string) error { return os.Symlink(outside, d+"/state") }, withState, etc, nil, nil, "state is a symbolic link"},
		"a link on the way": {func(d string) error {
			return errors.Join(os.Mkdir(d+"/state", 0o755), os.Symlink(outside, d+"/state/srv"))
		}, withState, etc, nil, nil, "srv"},
		"a file on the way":         {nil, manifest.Terms{State: []string{"var/x/y"}}, etc, []entry{{path: "var/", mode: 0o755}, file}, nil, "var/x"},
		"a file in its place":       {nil, manifest.Terms{State: []string{"var/x"}}, etc, []entry{{path: "var/", mode: 0o755}, file}, nil, "needs a directory"},
		"files of another product":  {nil, withState, etc, nil, []entry{{path: "var/", mode: 0o755}, file}, `"var/x" in two lies in state path "var" of one`},
		"a file of another product": {nil, withState, etc, nil, []entry{{path: "var", mode: 0o755, data: "x"}}, `"var" in two lies in state path "var" of one`},
		"name of the state":         {nil, withState, etc, []entry{{path: "state", mode: 0o755, data: "x"}}, nil, `"state" in one is where the state of one is`},
		"directory of the state":    {nil, withState, etc, nil, []entry{{path: "state/", mode: 0o755}}, `"state" in two is where the state of one is`},
		"state in state":            {nil, withState, manifest.Terms{State: []string{"var/lib"}}, nil, nil, `state path "var/lib" of two lies in state path "var" of one`},
		"config in state":           {nil, withState, manifest.Terms{Config: []string{"var/lib"}}, nil, nil, `"var" is state in one, and "var/lib" is config in two`},
		"state in config":           {nil, withState, manifest.Terms{Config: []string{"srv"}}, nil, nil, `"srv/data" is state in one, and "srv" is config in two`},
		"helper in config":          {nil, manifest.Terms{Helper: "bin"}, manifest.Terms{Config: []string{"bin"}}, nil, nil, `helper "bin" of one lies in config or state of two`},
		"a reserved name":           {nil, etc, etc, []entry{{path: ".satchel-fix.tmp", mode: 0o644, data: "x"}}, nil, "reserved"},
	} {
		t.Run(what, func(t *testing.T) {
			dir, b := tempDir(t), newBlobs(t)
			im := open(t, dir)
			if c.plant != nil {
				must(t, c.plant(dir))
			}
			one, two := product(t, b, "one", 1, c.of), product(t, b, "two", 1, c.by)
			one.Manifest.Terms, two.Manifest.Terms = c.one, c.two
			_, err := im.Stage(context.Background(), image.Plan{Parts: []image.Part{one, two}}, b)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
			if left := ls(t, dir); len(left) > 0 {
				t.Errorf("left %q", left)
			}
			if names, _ := os.ReadDir(dir + "/state"); len(names) > 1 {
				t.Errorf("left %q", names)
			}
		})
	}
	// Two products may share a state path, and what both say below it.
	b := newBlobs(t)
	im := open(t, tempDir(t))
	one := product(t, b, "one", 1, []entry{{path: "var/", mode: 0o755}, {path: "var/one", mode: 0o644, data: "1"}})
	two := product(t, b, "two", 1, []entry{{path: "var/", mode: 0o755}, {path: "var/two", mode: 0o644, data: "2"}})
	one.Manifest.Terms, two.Manifest.Terms = withState, withState
	d := stageParts(t, im, b, one, two)
	if read(im.Tree(d.ID)+"/var/one")+read(im.Tree(d.ID)+"/var/two") != "12" {
		t.Error("shared state was not filled by both")
	}
}
