package manifest

import (
	"errors"
	"fmt"
	"strings"
)

// Limits of [Terms]; like those above they are part of the format.
const (
	MaxPaths   = 64   // of config and of state paths, each
	MaxPatches = 4096 // patch ids
)

// Terms say how a machine keeps a release: what of its tree belongs to the person, what to the machine, which patches are in it, and
// which program in it lays it down. They are optional; the zero value says nothing.
type Terms struct {
	Config  []string // files and directories that a person may change: merged into the next deployment; sorted
	State   []string // directories whose content is the machine's own and shared by all deployments; sorted
	Patches []string // ids NNNNNN-RR of the patches that the release contains; sorted, each number once
	Helper  string   // path of a static program in the tree that activates it in place of an older satchel; empty: none
}

func (t *Terms) isZero() bool {
	return len(t.Config)+len(t.State)+len(t.Patches)+len(t.Helper) == 0
}

// check looks at everything that can be judged without the entries.
func (t *Terms) check() error {
	for _, list := range []struct {
		what  string
		paths []string
	}{{"config", t.Config}, {"state", t.State}} {
		if err := checkPaths(list.what, list.paths); err != nil {
			return err
		}
	}
	for _, s := range t.State {
		if s == StateDir || below(s, StateDir) {
			return fmt.Errorf("state path %q: %q is where state is found", s, StateDir)
		}
		for _, c := range t.Config {
			if c == s || below(c, s) || below(s, c) {
				return fmt.Errorf("path %q is config, and %q is state", c, s)
			}
		}
	}
	if err := checkPatches(t.Patches); err != nil {
		return err
	}
	if t.Helper == "" {
		return nil
	}
	if err := CheckPath(t.Helper); err != nil {
		return fmt.Errorf("helper %q: %w", t.Helper, err)
	}
	for _, p := range append(t.Config[:len(t.Config):len(t.Config)], t.State...) {
		if t.Helper == p || below(t.Helper, p) {
			return fmt.Errorf("helper %q lies in %q, which is not the release's", t.Helper, p)
		}
	}
	return nil
}

func checkPaths(what string, paths []string) error {
	if len(paths) > MaxPaths {
		return fmt.Errorf("%d %s paths, limit is %d", len(paths), what, MaxPaths)
	}
	for i, p := range paths {
		if err := CheckPath(p); err != nil {
			return fmt.Errorf("%s path %q: %w", what, p, err)
		}
		if i > 0 && (Compare(paths[i-1], p) >= 0 || below(p, paths[i-1])) {
			return fmt.Errorf("%s path %q: not after %q, or below it", what, p, paths[i-1])
		}
	}
	return nil
}

func checkPatches(ids []string) error {
	if len(ids) > MaxPatches {
		return fmt.Errorf("%d patches, limit is %d", len(ids), MaxPatches)
	}
	last := ""
	for _, id := range ids {
		if err := CheckPatch(id); err != nil {
			return err
		}
		if number := id[:patchDigits]; number <= last {
			return fmt.Errorf("patch %s: numbers must rise, and each comes once", id)
		}
		last = id[:patchDigits]
	}
	return nil
}

const patchDigits = 6

// CheckPatch says why id is not the id of a patch, six digits, a hyphen and the two digits of its revision, or nil when it is.
func CheckPatch(id string) error {
	if len(id) != patchDigits+3 || id[patchDigits] != '-' || strings.Trim(id[:patchDigits]+id[patchDigits+1:], "0123456789") != "" {
		return fmt.Errorf("patch %q: an id is NNNNNN-RR, as 124393-02", id)
	}
	return nil
}

// SpecialPatch reports whether a patch is of the range 8xxxxx: it exists for bookkeeping alone, no release may ship content under its
// number, and it does not count when inventories are compared.
func SpecialPatch(id string) bool { return strings.HasPrefix(id, "8") }

var errLoneSpecial = errors.New("patches 8xxxxx are for bookkeeping, and a release that names one has no files")

// terms finds what the terms and the entries say against each other.
func (c *checker) terms() {
	t := &c.m.Terms
	special := ""
	for _, id := range t.Patches {
		if SpecialPatch(id) {
			special = id
		}
	}
	found := t.Helper == ""
	for i := range c.m.Entries {
		e := &c.m.Entries[i]
		if special != "" && e.Type != Dir {
			c.add(i, "", "is content under patch %s: %v", special, errLoneSpecial)
		}
		if len(t.State) > 0 && (e.Path == StateDir || below(e.Path, StateDir)) {
			c.add(i, "", "is where the machine's own state is")
		}
		for _, p := range t.State {
			if e.Type != Dir && (e.Path == p || below(p, e.Path)) {
				c.add(i, "", "is a %v, where state path %q needs a directory", e.Type, p)
			}
		}
		for _, p := range t.Config {
			if e.Type != Dir && below(p, e.Path) {
				c.add(i, "", "is a %v, where config path %q needs a directory", e.Type, p)
			}
		}
		if e.Path != t.Helper {
			continue
		}
		found = true
		c.add(i, MayRun, "is run by the machines that take the release")
		if e.Type != File || e.Mode&0o100 == 0 {
			c.add(i, "", "is named as helper, and is not an executable file")
		}
	}
	if !found {
		c.lost = []Violation{{Path: t.Helper, What: "is named as helper, and is not in the tree"}}
	}
}

// StateDir is the name at the top of a tree below which its state paths are found, in releases that have any.
const StateDir = "state"
