package manifest

import (
	"slices"
	"strings"
)

// maxHops is how many symbolic links lead from a path to its end at most. It is Linux's limit: a path with more does not open.
const maxHops = 40

// place is where a path ends: at an entry that is no link, or below it.
type place struct {
	entry   int32
	missing int32 // names below the entry that are not in the manifest
}

// top is the top of the tree.
var top = place{entry: -1}

// end says how the search for a link's end went.
type end uint8

const (
	unknown end = iota
	searching
	inside  // at a place
	outside // an absolute path, or one that leaves the tree
	endless // through itself, or through too many others
)

// link is what is known of one symbolic link.
type link struct {
	end   end
	hops  uint8 // links on the way, this one too; when it is not endless
	place place
}

// walk is a link whose target is being followed.
type walk struct {
	entry int32
	rest  string // of the target
	at    place
	hops  int
}

// links follows every link of the manifest to its end, through the other links. Each is followed once, so the time
// grows with the bytes of the manifest, not with what the links multiply to.
func (c *checker) links() {
	if !slices.ContainsFunc(c.m.Entries, func(e Entry) bool { return e.Type == Symlink }) {
		return
	}
	links := make([]link, len(c.m.Entries))
	for i := range c.m.Entries {
		if e := &c.m.Entries[i]; e.Type == Symlink && strings.HasPrefix(e.Link, "/") {
			links[i] = link{end: outside, hops: 1}
		}
	}
	for i := range c.m.Entries {
		e := &c.m.Entries[i]
		if e.Type != Symlink {
			continue
		}
		if links[i].end == unknown {
			c.follow(links, int32(i))
		}
		switch links[i].end {
		case endless:
			c.add(i, "", "is a link that goes in a loop, or through more than %d links: %q", maxHops, e.Link)
		case outside:
			c.add(i, MayLinkOut, "is a link that leaves the tree: %q", e.Link)
		}
	}
}

// follow finds the ends of a link and of those on its way.
func (c *checker) follow(links []link, entry int32) {
	stack := []walk{c.start(links, entry)}
	for len(stack) > 0 {
		w := &stack[len(stack)-1]
		result, via := c.step(links, w)
		switch {
		case via >= 0:
			stack = append(stack, c.start(links, via))
		case result != unknown:
			links[w.entry] = link{result, uint8(w.hops), w.at}
			stack = stack[:len(stack)-1]
		}
	}
}

func (c *checker) start(links []link, entry int32) walk {
	links[entry].end = searching
	return walk{entry: entry, rest: c.m.Entries[entry].Link, at: place{entry: c.parents[entry]}, hops: 1}
}

// step goes on by one name. The result is unknown as long as there is more of the path. When the name is a link whose end is
// not known, via is that link, and the step is to be taken again afterwards; else via is -1.
func (c *checker) step(links []link, w *walk) (result end, via int32) {
	name, rest, more := strings.Cut(w.rest, "/")
	switch name {
	case "", ".":
	case "..":
		if w.at == top {
			return outside, -1
		}
		w.at = c.up(w.at)
	default:
		next := c.down(w.at, name)
		if next.missing == 0 && c.m.Entries[next.entry].Type == Symlink {
			l := &links[next.entry]
			if l.end == unknown {
				return unknown, next.entry
			}
			if w.hops += int(l.hops); l.end == searching || l.end == endless || w.hops > maxHops {
				return endless, -1
			}
			if l.end == outside {
				return outside, -1
			}
			next = l.place
		}
		w.at = next
	}
	w.rest = rest
	if more {
		return unknown, -1
	}
	return inside, -1
}

func (c *checker) up(p place) place {
	if p.missing > 0 {
		return place{p.entry, p.missing - 1}
	}
	return place{entry: c.parents[p.entry]}
}

// down finds a name in a directory. A name that is not there is taken for an empty directory.
func (c *checker) down(p place, name string) place {
	from, to, prefix := 0, len(c.m.Entries), 0
	if p.entry >= 0 {
		from, to, prefix = int(p.entry)+1, int(c.ends[p.entry]), len(c.m.Entries[p.entry].Path)+1
	}
	if p.missing == 0 {
		i, ok := slices.BinarySearchFunc(c.m.Entries[from:to], name, func(e Entry, name string) int { return Compare(e.Path[prefix:], name) })
		if ok {
			return place{entry: int32(from + i)}
		}
	}
	return place{p.entry, p.missing + 1}
}
