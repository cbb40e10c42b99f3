package image_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// withTerms is release for a release with terms.
func withTerms(t testing.TB, b *blobs, seq uint64, terms manifest.Terms, tree []entry) image.Part {
	t.Helper()
	_, m := release(t, b, seq, sorted(tree))
	m.Terms = terms
	r := releaseOf(t, m)
	b.docs[r.Manifest] = m
	return image.Part{Release: r, Manifest: m}
}

var etc = manifest.Terms{Config: []string{"etc"}}

// at is a tree with a directory etc and one file in it; no file without content.
func at(path, data string) []entry {
	tree := []entry{{path: "bin", mode: 0o755, data: "the same"}, {path: "etc/", mode: 0o755}}
	if data != "" {
		tree = append(tree, entry{path: path, mode: 0o644, data: data})
	}
	return tree
}

func write(t testing.TB, path, data string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(data), 0o644))
}

func read(path string) string {
	data, _ := os.ReadFile(path)
	return string(data)
}

func stageParts(t testing.TB, im *image.Image, b image.Blobs, parts ...image.Part) image.Deployment {
	t.Helper()
	d, err := im.Stage(context.Background(), image.Plan{Parts: parts}, b)
	must(t, err)
	return d
}

// TestMerge goes through what the release before, the person and the new release can have in one place.
func TestMerge(t *testing.T) {
	for what, c := range map[string]struct{ base, mine, next, want, beside, local string }{
		"nobody changed it":        {"a", "a", "a", "a", "", ""},
		"the release did":          {"a", "a", "b", "b", "", ""},
		"the release removed it":   {"a", "a", "", "", "", ""},
		"the release added it":     {"", "", "b", "b", "", ""},
		"the person did":           {"a", "x", "a", "x", "", "kept"},
		"the person removed it":    {"a", "", "a", "", "", "removed"},
		"the person added it":      {"", "x", "", "x", "", "added"},
		"both did":                 {"a", "x", "b", "x", "b", "conflict"},
		"both did the same":        {"a", "b", "b", "b", "", ""},
		"both added it":            {"", "x", "b", "x", "b", "conflict"},
		"both added the same":      {"", "b", "b", "b", "", ""},
		"both removed it":          {"a", "", "", "", "", ""},
		"changed, removed by them": {"a", "x", "", "x", "", "kept"},
		"removed, changed by them": {"a", "", "b", "", "b", "conflict"},
	} {
		t.Run(what, func(t *testing.T) {
			dir, b := tempDir(t), newBlobs(t)
			im := open(t, dir)
			one := withTerms(t, b, 1, etc, at("etc/f", c.base))
			two := withTerms(t, b, 2, etc, at("etc/f", c.next))
			d := stageParts(t, im, b, one)
			must(t, im.Activate(d.ID))
			live := im.Tree(d.ID)
			if c.mine == "" {
				os.Remove(live + "/etc/f")
			} else if c.mine != c.base {
				write(t, live+"/etc/f", c.mine)
			}
			before := snapshot(t, live+"/etc")
			check := func(d image.Deployment) {
				t.Helper()
				tree := im.Tree(d.ID)
				if got, beside := read(tree+"/etc/f"), read(tree+"/etc/f.satchel-new"); got != c.want || beside != c.beside {
					t.Errorf("it is %q, beside it %q", got, beside)
				}
				var local []image.Local
				if c.local != "" {
					local = []image.Local{{Path: "etc/f", What: c.local}}
				}
				list, err := im.List()
				if err != nil || !reflect.DeepEqual(d.Local, local) || !reflect.DeepEqual(list[len(list)-1].Local, local) {
					t.Errorf("local changes are %v and %v, want %v", d.Local, list[len(list)-1].Local, local)
				}
				if names, _ := os.ReadDir(tree + "/etc"); len(names) > 2 || len(names) == 2 && c.beside == "" {
					t.Errorf("left %v", names)
				}
				if problems, err := im.Verify(context.Background(), d.ID, b, nil); err != nil || len(problems) > 0 {
					t.Errorf("problems %q, %v", problems, err)
				}
			}
			d2 := stageParts(t, im, b, two)
			check(d2)
			if snapshot(t, live+"/etc") != before {
				t.Error("the live tree changed")
			}
			write(t, live+"/etc/other", "to refresh changes nothing else")
			d2, err := im.Refresh(context.Background(), d2.ID, b)
			must(t, err)
			must(t, os.Remove(live+"/etc/other"))
			d2, err = im.Refresh(context.Background(), d2.ID, b)
			must(t, err)
			check(d2)

			fresh, err := im.Stage(context.Background(), image.Plan{Parts: []image.Part{two}, Converge: true}, b)
			must(t, err)
			if len(fresh.Local) > 0 || read(im.Tree(fresh.ID)+"/etc/f") != c.next {
				t.Errorf("converged it is %+v", fresh)
			}
			if fresh.ID != d2.ID {
				t.Errorf("converged as %s", fresh.ID)
			}
		})
	}
}

// TestMergeShapes: links, modes, directories, and what changes its kind.
func TestMergeShapes(t *testing.T) {
	dirs := []entry{{path: "etc/", mode: 0o755}, {path: "etc/d/", mode: 0o755}, {path: "etc/d/f", mode: 0o644, data: "f"}, {path: "etc/l", link: "d/f"}, {path: "etc/m", mode: 0o644, data: "m"}}
	without := func(drop ...string) (tree []entry) {
		for _, e := range dirs {
			if !slices.Contains(drop, e.path) {
				tree = append(tree, e)
			}
		}
		return tree
	}
	for what, c := range map[string]struct {
		mine func(etc string) error
		next []entry
		want []string // "path: content", links as "path -> target", modes of what is not 0644 or 0755 as "path 0600: content"
		also []image.Local
	}{
		"nothing":                {func(string) error { return nil }, dirs, []string{"d/f: f", "l -> d/f", "m: m"}, nil},
		"link changed":           {func(e string) error { return errors.Join(os.Remove(e+"/l"), os.Symlink("x", e+"/l")) }, dirs, []string{"d/f: f", "l -> x", "m: m"}, []image.Local{{"etc/l", "kept"}}},
		"mode of a file changed": {func(e string) error { return os.Chmod(e+"/m", 0o600) }, dirs, []string{"d/f: f", "l -> d/f", "m 0600: m"}, []image.Local{{"etc/m", "kept"}}},
		"mode of a directory":    {func(e string) error { return os.Chmod(e+"/d", 0o700) }, dirs, []string{"d 0700", "d/f: f", "l -> d/f", "m: m"}, nil},
		"directory removed":      {func(e string) error { return os.RemoveAll(e + "/d") }, dirs, []string{"d", "l -> d/f", "m: m"}, []image.Local{{"etc/d/f", "removed"}}},
		"directory added": {func(e string) error {
			return errors.Join(os.MkdirAll(e+"/new/deep", 0o750), os.WriteFile(e+"/new/deep/x", []byte("x"), 0o600), os.Mkdir(e+"/new/empty", 0o700))
		}, dirs,
			[]string{"d/f: f", "l -> d/f", "m: m", "new 0750", "new/deep 0750", "new/deep/x 0600: x", "new/empty 0700"}, []image.Local{{"etc/new/deep/x", "added"}}},
		"added in what goes": {func(e string) error { return os.WriteFile(e+"/d/x", []byte("x"), 0o644) }, without("etc/d/", "etc/d/f"), []string{"d/x: x", "l -> d/f", "m: m"}, []image.Local{{"etc/d/x", "added"}}},
		"directory becomes a file, with one of the person's": {func(e string) error { return os.WriteFile(e+"/d/x", []byte("x"), 0o644) },
			append(without("etc/d/", "etc/d/f"), entry{path: "etc/d", mode: 0o644, data: "new d"}), []string{"d/x: x", "d.satchel-new: new d", "l -> d/f", "m: m"}, []image.Local{{"etc/d", "conflict"}, {"etc/d/x", "added"}}},
		"directory becomes a file": {func(string) error { return nil }, append(without("etc/d/", "etc/d/f"), entry{path: "etc/d", mode: 0o644, data: "new d"}), []string{"d: new d", "l -> d/f", "m: m"}, nil},
		"file becomes a directory": {func(e string) error { return os.WriteFile(e+"/m", []byte("mine"), 0o644) }, append(without("etc/m"), entry{path: "etc/m/", mode: 0o755}, entry{path: "etc/m/y", mode: 0o644, data: "y"}),
			[]string{"d/f: f", "l -> d/f", "m/y: y", "m.satchel-old: mine"}, []image.Local{{"etc/m", "conflict"}}},
		"person's file where a directory was": {func(e string) error {
			return errors.Join(os.RemoveAll(e+"/d"), os.WriteFile(e+"/d", []byte("mine"), 0o644))
		}, dirs,
			[]string{"d", "d.satchel-old: mine", "l -> d/f", "m: m"}, []image.Local{{"etc/d", "conflict"}, {"etc/d/f", "removed"}}},
		"person's directory where a file was": {func(e string) error {
			return errors.Join(os.Remove(e+"/m"), os.Mkdir(e+"/m", 0o755), os.WriteFile(e+"/m/x", []byte("x"), 0o644))
		}, dirs,
			[]string{"d/f: f", "l -> d/f", "m/x: x", "m.satchel-new: m"}, []image.Local{{"etc/m", "conflict"}, {"etc/m/x", "added"}}},
		"pipe": {func(e string) error { return syscall.Mkfifo(e+"/p", 0o644) }, dirs, []string{"d/f: f", "l -> d/f", "m: m"}, nil},
		"an older conflict": {func(e string) error {
			return errors.Join(os.WriteFile(e+"/m", []byte("mine"), 0o644), os.WriteFile(e+"/m.satchel-new", []byte("old"), 0o644))
		}, append(without("etc/m"), entry{path: "etc/m", mode: 0o644, data: "m2"}), []string{"d/f: f", "l -> d/f", "m: mine", "m.satchel-new: m2"}, []image.Local{{"etc/m", "conflict"}}},
		"not text":               {func(e string) error { return os.WriteFile(e+"/\xff\n", []byte("x"), 0o644) }, dirs, []string{"d/f: f", "l -> d/f", "m: m", "\xff\n: x"}, []image.Local{{"etc/\uFFFD\n", "added"}}},
		"read-only directory":    {func(e string) error { return os.WriteFile(e+"/d/x", []byte("x"), 0o644) }, append(without("etc/d/"), entry{path: "etc/d/", mode: 0o555}), []string{"d 0555", "d/f: f", "d/x: x", "l -> d/f", "m: m"}, []image.Local{{"etc/d/x", "added"}}},
		"no configuration left":  {func(e string) error { return os.WriteFile(e+"/m", []byte("mine"), 0o644) }, []entry{{path: "bin", mode: 0o755, data: "b"}}, []string{"m: mine"}, []image.Local{{"etc/m", "kept"}}},
		"a whole directory gone": {func(e string) error { return os.RemoveAll(e) }, dirs, []string{"d"}, []image.Local{{"etc/d/f", "removed"}, {"etc/l", "removed"}, {"etc/m", "removed"}}},
	} {
		t.Run(what, func(t *testing.T) {
			dir, b := tempDir(t), newBlobs(t)
			im := open(t, dir)
			d := stageParts(t, im, b, withTerms(t, b, 1, etc, slices.Clone(dirs)))
			must(t, im.Activate(d.ID))
			must(t, c.mine(im.Tree(d.ID)+"/etc"))
			next := stageParts(t, im, b, withTerms(t, b, 2, etc, slices.Clone(c.next)))
			check := func(next image.Deployment) {
				t.Helper()
				if got := shape(t, im.Tree(next.ID)+"/etc"); !slices.Equal(got, c.want) {
					t.Errorf("got  %q\nwant %q", got, c.want)
				}
				if all, _ := im.List(); !slices.Equal(all[1].Local, c.also) {
					t.Errorf("local changes are %q, want %q", all[1].Local, c.also)
				}
				if problems, err := im.Verify(context.Background(), next.ID, b, nil); err != nil || len(problems) > 0 {
					t.Errorf("problems %q, %v", problems, err)
				}
				for _, name := range ls(t, dir) {
					if strings.HasSuffix(name, ".tmp") {
						t.Errorf("left %s", name)
					}
				}
			}
			check(next)
			// A change that is taken back again leaves all as it was.
			write(t, im.Tree(d.ID)+"/etc/zz/y", "y")
			refreshed, err := im.Refresh(context.Background(), next.ID, b)
			if err != nil || !slices.Contains(refreshed.Local, image.Local{Path: "etc/zz/y", What: "added"}) {
				t.Errorf("refreshed: %+v, %v", refreshed, err)
			}
			must(t, os.RemoveAll(im.Tree(d.ID)+"/etc/zz"))
			refreshed, err = im.Refresh(context.Background(), next.ID, b)
			must(t, err)
			check(refreshed)
		})
	}
}

// shape lists what is below a directory; directories only where they are empty or have another mode than 0755.
func shape(t testing.TB, top string) (list []string) {
	t.Helper()
	must(t, filepath.Walk(top, func(path string, fi os.FileInfo, err error) error {
		name := strings.TrimPrefix(path, top+"/")
		perm := ""
		if p := fi.Mode().Perm(); p != 0o644 && p != 0o755 && p != 0o777 {
			perm = fmt.Sprintf(" %04o", p)
		}
		switch {
		case path == top:
		case fi.Mode()&os.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			list = append(list, name+" -> "+target)
		case fi.IsDir():
			if in, _ := os.ReadDir(path); len(in) == 0 || perm != "" {
				list = append(list, name+perm)
			}
		default:
			list = append(list, name+perm+": "+read(path))
		}
		return err
	}))
	return list
}

// TestRefresh carries over what changed between staging and activation, once and not after the deployment was live.
func TestRefresh(t *testing.T) {
	ctx, b := context.Background(), newBlobs(t)
	dir := tempDir(t)
	im := open(t, dir)
	one := stageParts(t, im, b, withTerms(t, b, 1, etc, at("etc/f", "a")))
	must(t, im.Activate(one.ID))
	two := stageParts(t, im, b, withTerms(t, b, 2, etc, at("etc/f", "b")))
	before := snapshot(t, im.Tree(two.ID))
	if d, err := im.Refresh(ctx, two.ID, b); err != nil || !reflect.DeepEqual(d, two) || snapshot(t, im.Tree(two.ID)) != before {
		t.Errorf("without a change: %+v, %v", d, err)
	}
	write(t, im.Tree(one.ID)+"/etc/f", "mine")
	d, err := im.Refresh(ctx, two.ID, b)
	if err != nil || !slices.Equal(d.Local, []image.Local{{Path: "etc/f", What: "conflict"}}) || read(im.Tree(two.ID)+"/etc/f") != "mine" {
		t.Errorf("after a change: %+v, %v", d, err)
	}
	must(t, im.Activate(two.ID))
	write(t, im.Tree(two.ID)+"/etc/f", "of two")
	_, err = im.Rollback()
	must(t, err)
	write(t, im.Tree(one.ID)+"/etc/f", "of one")
	must(t, im.Close())
	im = open(t, dir)
	for _, id := range []string{one.ID, two.ID} {
		if _, err := im.Refresh(ctx, id, b); err != nil {
			t.Error(err)
		}
	}
	if read(im.Tree(one.ID)+"/etc/f") != "of one" || read(im.Tree(two.ID)+"/etc/f") != "of two" {
		t.Error("a deployment that was live did not keep its own")
	}
	if _, err := im.Refresh(ctx, "demo-1-7-aaaaaaaa", b); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}

	// From a deployment that is not the live one.
	from, err := im.Stage(ctx, image.Plan{From: two.ID, Parts: []image.Part{withTerms(t, b, 3, etc, at("etc/f", "c"))}}, b)
	if err != nil || from.From != two.ID || read(im.Tree(from.ID)+"/etc/f") != "of two" {
		t.Errorf("%+v, %v", from, err)
	}
	if _, err := im.Stage(ctx, image.Plan{From: "demo-1-9-aaaaaaaa", Parts: []image.Part{withTerms(t, b, 4, etc, nil)}}, b); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
}

// TestMergeWithoutManifest: when it is not known what the release before had, what was not written to counts as its own.
func TestMergeWithoutManifest(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im := open(t, dir)
	one := withTerms(t, b, 1, etc, append(at("etc/f", "a"), entry{path: "etc/g", mode: 0o644, data: "g"}))
	d := stageParts(t, im, b, one)
	must(t, im.Activate(d.ID))
	write(t, im.Tree(d.ID)+"/etc/g", "mine")
	delete(b.docs, one.Release.Manifest)
	two := stageParts(t, im, b, withTerms(t, b, 2, etc, append(at("etc/f", "b"), entry{path: "etc/g", mode: 0o644, data: "g"})))
	want := []string{"f: b", "g: mine", "g.satchel-new: g"}
	if got := shape(t, im.Tree(two.ID)+"/etc"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestConfigIsApart: to write into a configuration file damages nothing else, and what belongs to it is carried over.
func TestConfigIsApart(t *testing.T) {
	b := newBlobs(t)
	im := open(t, tempDir(t))
	d := stageParts(t, im, b, withTerms(t, b, 1, etc, at("etc/f", "default")))
	must(t, im.Activate(d.ID))
	path := im.Tree(d.ID) + "/etc/f"
	if st := stat(t, path); st.Nlink != 1 || st.Mtim.Sec != store.FixedTime {
		t.Errorf("laid down with %d links, time %v", st.Nlink, st.Mtim)
	}
	must(t, os.WriteFile(path, []byte("changed"), 0o644))
	when := time.Unix(1_000_000_000, 5)
	must(t, os.Chtimes(path, when, when))
	root := os.Getuid() == 0
	if root {
		must(t, os.Chown(path, 12, 34))
		must(t, syscall.Chmod(path, 0o4750))
	}
	two := stageParts(t, im, b, withTerms(t, b, 2, etc, at("etc/f", "default")))
	st := stat(t, im.Tree(two.ID)+"/etc/f")
	if st.Ino == stat(t, path).Ino || st.Mtim.Sec != when.Unix() || root && (st.Uid != 12 || st.Gid != 34 || st.Mode&0o7777 != 0o4750) {
		t.Errorf("carried over as %+v", st)
	}
	if list, err := im.Changed(context.Background(), two.ID, b); err != nil || len(list) > 0 {
		t.Errorf("changed: %q, %v", list, err)
	}
}

func stat(t testing.TB, path string) *syscall.Stat_t {
	t.Helper()
	fi, err := os.Lstat(path)
	must(t, err)
	return fi.Sys().(*syscall.Stat_t)
}

// TestChanged finds writes in place without reading.
func TestChanged(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im := open(t, dir)
	d := stageParts(t, im, b, withTerms(t, b, 1, etc, small("x")))
	tree := im.Tree(d.ID)
	must(t, os.Chmod(tree+"/etc", 0o755))
	write(t, tree+"/etc/mine", "x")
	must(t, flip(tree+"/large", 99))
	must(t, os.WriteFile(tree+"/more", nil, 0o644))
	want := []image.Problem{{Path: "large", What: "was written to"}, {Path: "more", What: "is not in the release"}}
	if list, err := im.Changed(context.Background(), d.ID, b); err != nil || !slices.Equal(list, want) {
		t.Errorf("changed: %q, %v", list, err)
	}
}

// TestTouchedBlob: a blob that only looks as if somebody wrote to it is read, found to be good, and looks good from then on.
func TestTouchedBlob(t *testing.T) {
	b := newBlobs(t)
	im := open(t, tempDir(t))
	r, m := release(t, b, 1, small("x"))
	for _, e := range m.Entries {
		if e.Type == manifest.File {
			path, err := b.BlobFile(e.Blob, e.Mode)
			must(t, err)
			must(t, os.Chtimes(path, time.Now(), time.Now()))
		}
	}
	id := stage(t, im, r, m, b)
	if changed, err := im.Changed(context.Background(), id, b); err != nil || len(changed) > 0 {
		t.Errorf("changed: %q, %v", changed, err)
	}
	for _, e := range m.Entries {
		if e.Type == manifest.File && e.Size > 0 && stat(t, filepath.Join(im.Tree(id), e.Path)).Mtim != (syscall.Timespec{Sec: store.FixedTime}) {
			t.Errorf("%s has another time", e.Path)
		}
	}
}
