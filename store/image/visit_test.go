package image_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/image/boot"
	"satchel/store/manifest"
)

// visit is a look at what a power cut left.
type visit struct {
	*play
	name         string
	store, image string // directories
	now, next    state
	problems     []error
}

func (v *visit) wrong(format string, args ...any) {
	v.problems = append(v.problems, fmt.Errorf(v.name+": "+format, args...))
}

// check notes an error.
func (v *visit) check(err error) bool {
	if err != nil {
		v.wrong("%w", err)
	}
	return err == nil
}

// look recovers, and says what is wrong. Step n is the last one that is known to be done; -1 when none is.
func (p *play) look(top string, n int) error {
	v := &visit{play: p, name: "at the end", store: filepath.Join(top, "store"), image: filepath.Join(top, "image")}
	if n+1 < len(p.steps) {
		v.name = "in " + p.steps[n+1].name
	}
	v.now, v.next = p.promised(n)
	v.lookBefore()
	if v.recover(v.lookAfter) {
		first := v.remember()
		v.recover(func(*store.Store, *image.Image) {})
		if second := v.remember(); second != first {
			v.wrong("a second recovery changed\n%sto\n%s", first, second)
		}
	}
	return errors.Join(v.problems...)
}

// lookBefore looks with the eyes of a boot script, which recovers nothing.
func (v *visit) lookBefore() {
	if v.now.live == 0 {
		return
	}
	if live := bootRecord(v.image)["live"]; live != v.id(v.now.live) && live != v.id(v.next.live) {
		v.wrong("before recovery the boot record says %q", live)
	}
	if c := current(v.image); c != v.id(v.now.live) && c != v.id(v.next.live) {
		v.wrong("before recovery current is %q", c)
	}
}

func (v *visit) id(n int) string {
	if n == 0 {
		return ""
	}
	return v.rs[n].ID()
}

// bootRecord reads the record in force by the rules of FORMAT.md.
func bootRecord(dir string) map[string]string {
	var best map[string]string
	for _, name := range []string{"boot.0", "boot.1"} {
		text, _ := os.ReadFile(filepath.Join(dir, name))
		if _, err := boot.Parse(text); err != nil {
			continue
		}
		r := make(map[string]string)
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
			r[key] = value
		}
		// The longer number is the higher one.
		if g, h := r["generation"], best["generation"]; len(g) > len(h) || len(g) == len(h) && g > h {
			best = r
		}
	}
	return best
}

// recover opens what is there.
func (v *visit) recover(look func(*store.Store, *image.Image)) bool {
	st, err := store.Open(v.store)
	if !v.check(err) {
		return false
	}
	im, err := image.Open(v.image)
	if v.check(err) {
		look(st, im)
		v.check(im.Close())
	}
	v.check(st.Close())
	return err == nil
}

func (v *visit) lookAfter(st *store.Store, im *image.Image) {
	live, _ := im.Live()
	previous, _ := im.Previous()
	is := [2]string{live.ID, previous.ID}
	now, next := [2]string{v.id(v.now.live), v.id(v.now.previous)}, [2]string{v.id(v.next.live), v.id(v.next.previous)}
	if is != now && is != next {
		v.wrong("live and previous are %q, want %q or %q", is, now, next)
	}
	if current(v.image) != live.ID {
		v.wrong("current is %q, live %q", current(v.image), live.ID)
	}
	v.deployments(im, st)
	v.blobs(st)
}

// deployments looks that those that are promised are there, that all that are there are whole, and that there is nothing else.
func (v *visit) deployments(im *image.Image, st *store.Store) {
	list, err := im.List()
	v.check(err)
	names := []string{"boot.0", "boot.1", "current", "deploy"}
	found := uint(0)
	for _, d := range list {
		n := slices.IndexFunc(v.rs, func(r image.Release) bool { return r.ID() == d.ID })
		if n < 1 || len(d.Releases) != 1 || d.Releases[0].Version == "" {
			v.wrong("deployment %+v", d)
			continue
		}
		found |= bit(n)
		names = append(names, "deploy/"+d.ID, "deploy/"+d.ID+".toml")
		problems, err := im.Verify(context.Background(), d.ID, st, nil)
		if v.check(err) && len(problems) > 0 && n != v.now.damaged && n != v.next.damaged {
			v.wrong("%s has %d problems, first %+v", d.ID, len(problems), problems[0])
		}
	}
	v.within("deployments", found, v.now.deployed, v.next.deployed)
	v.onlyNames(v.image, names)
}

func (v *visit) within(what string, found, now, next uint) {
	if lost, extra := now&next&^found, found&^(now|next); lost|extra != 0 {
		v.wrong("%s are %b, want %b or %b", what, found, now, next)
	}
}

// onlyNames looks at a directory and those in it.
func (v *visit) onlyNames(top string, want []string) {
	for _, pattern := range []string{"*", "*/*"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		v.check(err)
		for _, path := range found {
			name, _ := filepath.Rel(top, path)
			if dir, _, deep := strings.Cut(name, "/"); deep && dir != "deploy" { // current leads into a tree
				continue
			}
			if !slices.Contains(want, name) {
				v.wrong("left is %s", name)
			}
		}
	}
}

// blobs looks that the releases that are promised are whole, that every blob is what its name says, and that there is nothing else.
func (v *visit) blobs(st *store.Store) {
	bad, err := st.Verify(context.Background(), nil)
	if v.check(err) && len(bad) > 0 {
		v.wrong("%d blobs are bad, first %v", len(bad), bad[0])
	}
	manifests, err := st.Manifests()
	v.check(err)
	for n := 1; n < len(v.rs); n++ {
		if v.now.stored&v.next.stored&bit(n) == 0 {
			continue
		}
		if c := v.rs[n].Manifest; !slices.Contains(manifests, c) {
			v.wrong("the manifest of %d is not listed", n)
		}
		m, err := st.Manifest(v.rs[n].Manifest)
		if !v.check(err) {
			continue
		}
		for _, e := range m.Entries {
			if e.Type == manifest.File && !st.Has(e.Blob) {
				v.wrong("%s of %d is not in the store", e.Path, n)
				break
			}
		}
	}
	left, err := os.ReadDir(filepath.Join(v.store, "partial"))
	v.check(err)
	sessions := 0
	for _, e := range left {
		switch {
		case e.Name() == "lock":
		case e.IsDir():
			sessions++ // the one that is open
		case v.now.stored == v.next.stored:
			v.wrong("left is partial/%s", e.Name())
		}
	}
	if sessions != 1 {
		v.wrong("there are %d sessions", sessions)
	}
}

// remember describes all there is, so that every change shows. Opening a store makes a directory in it for a while,
// so the times of its directories tell nothing.
func (v *visit) remember() string {
	var out strings.Builder
	for _, top := range []string{v.store, v.image} {
		v.check(filepath.Walk(top, func(path string, fi fs.FileInfo, err error) error {
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(filepath.Dir(top), path)
			st := fi.Sys().(*syscall.Stat_t)
			target, _ := os.Readlink(path)
			if fi.IsDir() && top == v.store {
				st = &syscall.Stat_t{Ino: st.Ino, Mode: st.Mode}
			}
			fmt.Fprintln(&out, name, st.Ino, st.Mode, st.Size, st.Mtim, st.Ctim, target)
			return nil
		}))
	}
	return out.String()
}
