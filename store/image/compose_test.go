package image_test

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"satchel/store/image"
	"satchel/store/manifest"
)

// product is release for another product than demo.
func product(t testing.TB, b *blobs, name string, seq uint64, tree []entry) image.Part {
	t.Helper()
	_, m := release(t, b, seq, sorted(tree))
	m.Product = name
	r := releaseOf(t, m)
	b.docs[r.Manifest] = m
	return image.Part{Release: r, Manifest: m}
}

func TestComposed(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im := open(t, dir)
	parts := []image.Part{
		product(t, b, "zeta", 3, []entry{{path: "share/", mode: 0o755}, {path: "share/zeta/", mode: 0o700}, {path: "share/zeta/a", mode: 0o644, data: "z"},
			{path: "share.txt", mode: 0o644, data: "between"}, {path: "shared", link: "share"}}),
		product(t, b, "demo", 1, small("one")[:9]),
		product(t, b, "alpha", 2, []entry{{path: "etc/", mode: 0o555}, {path: "etc/deep/", mode: 0o500}, {path: "etc/deep/alpha", mode: 0o400, data: "a"},
			{path: "share/", mode: 0o755}, {path: "share/alpha", mode: 0o644, data: "same in all"}}),
	}
	d, err := im.Stage(context.Background(), image.Plan{Parts: parts}, b)
	must(t, err)
	want := []image.Release{parts[2].Release, parts[1].Release, parts[0].Release}
	if !strings.HasPrefix(d.ID, "set-3-") || !reflect.DeepEqual(d.Releases, want) {
		t.Errorf("staged as %+v", d)
	}
	if r, ok := d.Release("demo"); !ok || r != want[1] {
		t.Errorf("release of demo is %+v, %v", r, ok)
	}
	if _, ok := d.Release("other"); ok {
		t.Error("it has a release of a product that is not in it")
	}
	all := &manifest.Manifest{}
	seen := map[string]bool{}
	for _, p := range parts {
		for _, e := range p.Manifest.Entries {
			if !seen[e.Path] {
				all.Entries, seen[e.Path] = append(all.Entries, e), true
			}
		}
	}
	checkTree(t, im.Tree(d.ID), all, b)
	parts[0], parts[1] = parts[1], parts[0]
	if again, err := im.Stage(context.Background(), image.Plan{Parts: parts}, b); err != nil || !reflect.DeepEqual(again, d) {
		t.Errorf("in another order it is %+v, %v", again, err)
	}
	must(t, os.Remove(filepath.Join(im.Tree(d.ID), "share/zeta/a")))
	must(t, os.Remove(filepath.Join(im.Tree(d.ID), "bin/su")))
	problems, err := im.Verify(context.Background(), d.ID, b, nil)
	if err != nil || len(problems) != 2 {
		t.Errorf("problems %q, %v", problems, err)
	}
	must(t, im.Repair(context.Background(), d.ID, b, problems))
	checkTree(t, im.Tree(d.ID), all, b)

	must(t, im.Activate(d.ID))
	must(t, im.Close())
	im = open(t, dir)
	if live, _ := im.Live(); !reflect.DeepEqual(live, d) {
		t.Errorf("after opening again live is %+v", live)
	}
	must(t, os.Remove(im.Tree(d.ID)+".toml"))
	if live, ok := im.Live(); !ok || live.ID != d.ID || len(live.Releases) > 0 {
		t.Errorf("without its description live is %+v", live)
	}
}

// TestComposedRefused: each is an error with the names of both products, and leaves nothing.
func TestComposedRefused(t *testing.T) {
	file := func(path string) entry { return entry{path: path, mode: 0o644, data: path} }
	dir := func(path string) entry { return entry{path: path + "/", mode: 0o755} }
	for what, c := range map[string]struct {
		one, two []entry
		want     string
	}{
		"two files":              {[]entry{file("a")}, []entry{file("a")}, `"a" is in one and in two`},
		"file and directory":     {[]entry{file("a")}, []entry{dir("a"), file("a/b")}, `"a" is in one and in two`},
		"link and directory":     {[]entry{dir("a"), file("a/b")}, []entry{{path: "a", link: "b"}}, `"a" is in one and in two`},
		"deep":                   {[]entry{dir("a"), dir("a/b"), file("a/b/c")}, []entry{dir("a"), dir("a/b"), file("a/b/c")}, `"a/b/c" is in one and in two`},
		"modes of a directory":   {[]entry{dir("a")}, []entry{{path: "a/", mode: 0o700}}, `"a" has mode 0755 in one and 0700 in two`},
		"names differ in case":   {[]entry{file("README")}, []entry{file("readme")}, `"readme" in two has the same name as "README" in one`},
		"directories in case":    {[]entry{dir("Lib"), file("Lib/a")}, []entry{dir("lib"), file("lib/b")}, `"lib" in two has the same name as "Lib" in one`},
		"deep, differ in case":   {[]entry{dir("x"), file("x/A")}, []entry{dir("x"), file("x/a")}, `"x/a" in two has the same name as "A" in one`},
		"differ in Unicode form": {[]entry{file("\u00e9")}, []entry{file("e\u0301")}, "one"},
	} {
		t.Run(what, func(t *testing.T) {
			where, b := tempDir(t), newBlobs(t)
			im := open(t, where)
			_, err := im.Stage(context.Background(), image.Plan{Parts: []image.Part{product(t, b, "one", 1, c.one), product(t, b, "two", 1, c.two)}}, b)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "two") {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
			if left := ls(t, where); len(left) > 0 {
				t.Errorf("left %q", left)
			}
		})
	}
	b := newBlobs(t)
	im := open(t, tempDir(t))
	one := product(t, b, "one", 1, []entry{file("a")})
	for what, parts := range map[string][]image.Part{"no release": nil, "twice": {one, one}} {
		if _, err := im.Stage(context.Background(), image.Plan{Parts: parts}, b); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("error is %v, want %q in it", err, what)
		}
	}
	// What one product does alone was judged before.
	alone := product(t, b, "alone", 1, []entry{file("README"), file("readme"), dir("x"), file("x/a"), file("x/A")})
	if _, err := im.Stage(context.Background(), image.Plan{Parts: []image.Part{alone, one}}, b); err != nil {
		t.Errorf("names within one product: %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for name, good := range map[string]bool{
		"before-exam": true, "0": true, "a.b_c-d": true, "set-two-abcdefgh": true, "my-2-backups": true, strings.Repeat("x", 64): true,
		"": false, ".x": false, "-x": false, "_x": false, "X": false, "a b": false, "a/b": false, "a\n": false, "é": false, strings.Repeat("x", 65): false,
		"x.tmp": false, "x.toml": false, "demo-1-2-abcdefgh": false, "demo-1-02-abcdefgh": false, "demo-1-2-short": false, "set-2-abcdefgh": false, "set-1-abcdefgh": false,
	} {
		if err := image.CheckName(name); (err == nil) != good {
			t.Errorf("%q: %v", name, err)
		}
	}
}
