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
	v := &visit{play: p, name: "at the end", store: p.storeDir(top), image: filepath.Join(top, "image")}
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
	v.record("before recovery")
	if c := current(v.image); v.now.live != 0 && c != v.id(v.now.live) && c != v.id(v.next.live) {
		v.wrong("before recovery current is %q", c)
	}
}

func (v *visit) id(n int) string {
	switch n {
	case 0:
		return ""
	case copyNumber:
		return copyName
	}
	return v.rs[n].ID()
}

// number of a deployment, 0 for none, and -1 for one that there is not.
func (v *visit) number(id string) int {
	switch id {
	case "":
		return 0
	case copyName:
		return copyNumber
	}
	if n := slices.IndexFunc(v.rs, func(r image.Release) bool { return r.ID() == id }); n > 0 {
		return n
	}
	return -1
}

// record looks at the boot record on the disk.
func (v *visit) record(when string) {
	r, _ := boot.Read(slots(v.image))
	is := boots{live: v.number(r.Live), previous: v.number(r.Previous), trial: v.number(r.Trial), tries: r.Tries, booted: v.number(r.Booted)}
	for _, f := range r.Failed {
		is.failed |= bit(max(0, v.number(f.ID)))
	}
	for _, f := range r.Floors {
		is.floor = f.Seq
	}
	if is != v.now.boots && is != v.next.boots {
		v.wrong("%s the boot record says %+v, want %+v or %+v", when, is, v.now.boots, v.next.boots)
	}
}

// slots is the image directory for somebody who only reads.
type slots string

func (dir slots) ReadFile(name string, _ int64) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(dir), name))
}
func (slots) WriteFile(string, []byte) error { return fs.ErrPermission }
func (slots) Rename(string, string) error    { return fs.ErrPermission }
func (slots) Remove(string) error            { return fs.ErrPermission }
func (slots) Sync() error                    { return fs.ErrPermission }

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
	v.record("after recovery")
	live, _ := im.Live()
	previous, _ := im.Previous()
	if r, _ := boot.Read(slots(v.image)); live.ID != r.Live || previous.ID != r.Previous || current(v.image) != live.ID {
		v.wrong("live is %q, previous %q, current %q, and the record says %q and %q", live.ID, previous.ID, current(v.image), r.Live, r.Previous)
	}
	v.deployments(im, st)
	v.blobs(st)
}

// deployments looks that those that are promised are there, that all that are there are whole, and that there is nothing else.
func (v *visit) deployments(im *image.Image, st *store.Store) {
	list, err := im.List()
	v.check(err)
	names := []string{"boot.0", "boot.1", "current", "deploy", "state"}
	found := uint(0)
	for _, d := range list {
		n := v.number(d.ID)
		if n < 1 || len(d.Releases) != 1 || d.Releases[0].Version == "" {
			v.wrong("deployment %+v", d)
			continue
		}
		found |= bit(n)
		if text := read(filepath.Join(im.Tree(d.ID), "conf/app")); n > 1 && v.now.edited && text != mine {
			v.wrong("the configuration of %s is %q", d.ID, text)
		}
		names = append(names, "deploy/"+d.ID, "deploy/"+d.ID+".toml")
		problems, err := im.Verify(context.Background(), d.ID, st, nil)
		if v.check(err) && len(problems) > 0 && n != v.now.damaged && n != v.next.damaged {
			v.wrong("%s has %d problems, first %+v", d.ID, len(problems), problems[0])
		}
	}
	if text := read(filepath.Join(v.image, "state/data/notes")); v.now.noted && text != notes {
		v.wrong("the notes are %q", text)
	}
	left, err := filepath.Glob(filepath.Join(v.image, "state", "*.tmp"))
	if v.check(err) && len(left) > 0 {
		v.wrong("left is %q", left)
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
	if v.apart != "" {
		return
	}
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
