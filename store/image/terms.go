package image

import (
	"fmt"
	"slices"
	"strings"

	"satchel/store/manifest"
)

// isBelow says whether path lies in the directory dir.
func isBelow(path, dir string) bool {
	return len(path) > len(dir) && path[len(dir)] == '/' && strings.HasPrefix(path, dir)
}

// covers says whether path is one of the list or below one.
func covers(list []string, path string) bool {
	return slices.ContainsFunc(list, func(p string) bool { return path == p || isBelow(path, p) })
}

// union merges lists of paths. Those below others are left out.
func union(lists ...[]string) []string {
	all := slices.Concat(lists...)
	slices.SortFunc(all, manifest.Compare)
	var out []string
	for _, p := range all {
		if len(out) == 0 || !covers(out[len(out)-1:], p) {
			out = append(out, p)
		}
	}
	return out
}

// terms makes the terms of all parts those of the layout, and lays links where the state is.
func (c *composer) terms() error {
	for i := range c.parts {
		t := &c.parts[i].Manifest.Terms
		c.out.config, c.out.state = union(c.out.config, t.Config), append(c.out.state, t.State...)
		for j := range c.parts {
			if err := c.termsOf(i, j); err != nil {
				return err
			}
		}
	}
	slices.SortFunc(c.out.state, manifest.Compare)
	c.out.state = slices.Compact(c.out.state)
	if len(c.out.state) == 0 {
		return nil
	}
	return c.out.moveState()
}

// termsOf finds what the terms of product i say against product j.
func (c *composer) termsOf(i, j int) error {
	one, two := &c.parts[i].Manifest.Terms, &c.parts[j].Manifest.Terms
	for _, s := range one.State {
		for _, o := range two.State {
			if isBelow(o, s) {
				return fmt.Errorf("state path %q of %s lies in state path %q of %s", o, c.product(j), s, c.product(i))
			}
		}
		for _, o := range two.Config {
			if o == s || isBelow(o, s) || isBelow(s, o) {
				return fmt.Errorf("%q is state in %s, and %q is config in %s", s, c.product(i), o, c.product(j))
			}
		}
		if e := firstWithin(c.parts[j].Manifest.Entries, s); e != nil && !slices.Contains(two.State, s) {
			return fmt.Errorf("%q in %s lies in state path %q of %s", e.Path, c.product(j), s, c.product(i))
		}
		if e := firstWithin(c.parts[j].Manifest.Entries, manifest.StateDir); e != nil {
			return fmt.Errorf("%q in %s is where the state of %s is", e.Path, c.product(j), c.product(i))
		}
	}
	if h := one.Helper; h != "" && (covers(two.Config, h) || covers(two.State, h)) {
		return fmt.Errorf("helper %q of %s lies in config or state of %s", h, c.product(i), c.product(j))
	}
	return nil
}

// firstWithin is the first entry below path, or at path when that is no directory; nil when there is none.
func firstWithin(entries []manifest.Entry, path string) *manifest.Entry {
	i, found := slices.BinarySearchFunc(entries, path, func(e manifest.Entry, path string) int { return manifest.Compare(e.Path, path) })
	if found && entries[i].Type == manifest.Dir && path != manifest.StateDir {
		i++
	}
	if i < len(entries) && (entries[i].Path == path || isBelow(entries[i].Path, path)) {
		return &entries[i]
	}
	return nil
}

// moveState puts a link in the place of each state path, the directories on the way to it, and the directory that the links of a tree
// lead to for whoever has the tree as root.
func (l *layout) moveState() error {
	entries := l.entries
	l.entries = nil
	for _, e := range entries {
		if !covers(l.state, e.Path) {
			l.entries = append(l.entries, e)
			continue
		}
		if e.Type != manifest.Dir && slices.Contains(l.state, e.Path) {
			return fmt.Errorf("%q is a %v, where state needs a directory", e.Path, e.Type)
		}
		l.seeds = append(l.seeds, e)
	}
	there := make(map[string]bool)
	for _, s := range l.state {
		up := "../../" + strings.Repeat("../", strings.Count(s, "/"))
		l.entries = append(l.entries, &manifest.Entry{Path: s, Type: manifest.Symlink, Mode: 0o777, Link: up + manifest.StateDir + "/" + s})
		for parent, _ := splitPath(s); parent != "" && !there[parent]; parent, _ = splitPath(parent) {
			there[parent] = true
			if !slices.ContainsFunc(l.entries, func(e *manifest.Entry) bool { return e.Path == parent }) {
				l.entries = append(l.entries, &manifest.Entry{Path: parent, Type: manifest.Dir, Mode: 0o755})
			}
		}
	}
	l.entries = append(l.entries, &manifest.Entry{Path: manifest.StateDir, Type: manifest.Dir, Mode: 0o755})
	slices.SortFunc(l.entries, func(a, b *manifest.Entry) int { return manifest.Compare(a.Path, b.Path) })
	return nil
}

// isMount says whether an entry is the directory on which IMAGE/state may be mounted: what is in it is not the tree's.
func (l *layout) isMount(e *manifest.Entry) bool {
	return len(l.state) > 0 && e.Path == manifest.StateDir
}
