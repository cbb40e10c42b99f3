package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"satchel/store/manifest"
)

// Part is one product's share of a deployment.
type Part struct {
	Release  Release
	Manifest *manifest.Manifest
	Recall   bool // the manifest is that of an older release, whose content comes again under a newer number
}

// check refuses a release without a proper id, and a manifest that is not its own.
func (p *Part) check() error {
	r, m := &p.Release, p.Manifest
	if err := r.check(); err != nil {
		return err
	}
	own := m.Epoch == r.Epoch && m.Seq == r.Seq
	if p.Recall {
		own = m.Epoch < r.Epoch || m.Epoch == r.Epoch && m.Seq < r.Seq
	}
	if m.Product != r.Product || !own {
		return fmt.Errorf("manifest is of %s, epoch %d, seq %d", m.Product, m.Epoch, m.Seq)
	}
	return nil
}

// sortParts checks the parts by themselves and gives them in the order of their products.
func sortParts(parts []Part) ([]Part, error) {
	if len(parts) == 0 {
		return nil, errors.New("no release")
	}
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b Part) int { return strings.Compare(a.Release.Product, b.Release.Product) })
	for i := range parts {
		if err := parts[i].check(); err != nil {
			return nil, fmt.Errorf("%s: %w", parts[i].Release.Product, err)
		}
		if i > 0 && parts[i].Release.Product == parts[i-1].Release.Product {
			return nil, fmt.Errorf("product %s twice", parts[i].Release.Product)
		}
	}
	return parts, nil
}

// layout is what the releases of a deployment say about its tree: the entries of all of them, in a manifest's order.
type layout struct {
	entries []*manifest.Entry
	config  []string          // paths at and below which the person may change things; sorted, none below another
	state   []string          // paths that lie in IMAGE/state; sorted, none below another
	seeds   []*manifest.Entry // what the releases have at and below state paths
}

// find gives the entry of a path, or nil.
func (l *layout) find(path string) *manifest.Entry {
	i, ok := slices.BinarySearchFunc(l.entries, path, func(e *manifest.Entry, path string) int { return manifest.Compare(e.Path, path) })
	if !ok {
		return nil
	}
	return l.entries[i]
}

// compose puts the parts together. A path belongs to one product, but for directories to which all give the same mode.
func compose(parts []Part) (*layout, error) {
	c := &composer{parts: parts, next: make([]int, len(parts))}
	if len(parts) > 1 {
		c.shared, c.names = map[string]bool{"": true}, map[string]named{}
	}
	total := 0
	for _, p := range parts {
		total += len(p.Manifest.Entries)
	}
	c.out.entries = make([]*manifest.Entry, 0, total)
	for {
		if ok, err := c.step(); err != nil {
			return nil, err
		} else if !ok {
			return &c.out, c.terms()
		}
	}
}

type composer struct {
	parts []Part
	next  []int // by part: its first entry that is not in out
	out   layout

	shared map[string]bool  // directories of several products
	names  map[string]named // what is in shared directories, by directory and key of the name
}

type named struct {
	name string
	part int
}

func (c *composer) product(part int) string { return c.parts[part].Release.Product }

// entry is the next one of a part, or nil.
func (c *composer) entry(part int) *manifest.Entry {
	if list := c.parts[part].Manifest.Entries; c.next[part] < len(list) {
		return &list[c.next[part]]
	}
	return nil
}

// step takes the smallest of the paths that come next.
func (c *composer) step() (ok bool, err error) {
	owner := -1
	var first *manifest.Entry
	for i := range c.parts {
		if e := c.entry(i); e != nil && (first == nil || manifest.Compare(e.Path, first.Path) < 0) {
			owner, first = i, e
		}
	}
	if first == nil {
		return false, nil
	}
	for i := owner; i < len(c.parts); i++ {
		e := c.entry(i)
		if e == nil || e.Path != first.Path {
			continue
		}
		if i > owner {
			if err := c.share(first, e, owner, i); err != nil {
				return false, err
			}
		}
		c.next[i]++
	}
	if first.Path == spareName {
		return false, fmt.Errorf("%q in %s: the name is reserved", first.Path, c.product(owner))
	}
	c.out.entries = append(c.out.entries, first)
	return true, c.name(first.Path, owner)
}

// share says why two products cannot both have a path.
func (c *composer) share(a, b *manifest.Entry, of, by int) error {
	switch {
	case a.Type != manifest.Dir || b.Type != manifest.Dir:
		return fmt.Errorf("%q is in %s and in %s", a.Path, c.product(of), c.product(by))
	case a.Mode != b.Mode:
		return fmt.Errorf("directory %q has mode %04o in %s and %04o in %s", a.Path, a.Mode, c.product(of), b.Mode, c.product(by))
	}
	c.shared[a.Path] = true
	return nil
}

// name refuses names of two products that some file systems take for one.
func (c *composer) name(path string, part int) error {
	parent, name := splitPath(path)
	if !c.shared[parent] {
		return nil
	}
	key := parent + "/" + manifest.NameKey(name)
	if old, ok := c.names[key]; ok && old.part != part {
		return fmt.Errorf("%q in %s has the same name as %q in %s where case and Unicode form do not count",
			path, c.product(part), old.name, c.product(old.part))
	}
	c.names[key] = named{name, part}
	return nil
}
