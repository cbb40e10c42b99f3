package manifest

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
)

// Policy is what a trust root allows a product's releases beyond what [Parse] accepts. The zero value allows least.
type Policy struct {
	Setuid  bool // modes with setuid, setgid or sticky bits, and entries that everybody may write to
	Names   bool // names that some file systems change, or take for another name
	LinkOut bool // symbolic links that are absolute or lead out of the tree
	Run     bool // a helper that the machine runs
}

// Permission is the word for one thing that a [Policy] may allow.
type Permission string

// The permissions, as people write them.
const (
	MaySetuid  Permission = "setuid"
	MayNames   Permission = "names"
	MayLinkOut Permission = "link-out"
	MayRun     Permission = "run"
)

func (p Policy) allows(x Permission) bool {
	return x == MaySetuid && p.Setuid || x == MayNames && p.Names || x == MayLinkOut && p.LinkOut || x == MayRun && p.Run
}

// Violation is one reason why an entry is not allowed.
type Violation struct {
	Path string
	What string     // for people, follows the path: "is setuid"
	May  Permission // that would allow it; empty when none does
}

// PolicyError says what a [Policy] does not allow of a manifest.
type PolicyError struct {
	Violations []Violation  // those of the first entries, at least one and at most ten
	Entries    int          // how many entries are not allowed; a helper that is not in the tree counts as one, behind the last
	May        []Permission // that would allow them, sorted
	Never      bool         // some entries no permission allows
}

// Error names the first entry, the number of others, and the permissions that are missing.
func (e *PolicyError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %s", e.Violations[0].Path, e.Violations[0].What)
	if e.Entries > 1 {
		fmt.Fprintf(&b, "; %d more entries are not allowed", e.Entries-1)
	}
	if len(e.May) > 0 {
		fmt.Fprintf(&b, "; the trust root does not allow this product: %s", joined(e.May))
	}
	if e.Never {
		b.WriteString("; some of it no permission allows")
	}
	return b.String()
}

func joined(list []Permission) string {
	words := make([]string, len(list))
	for i, p := range list {
		words[i] = string(p)
	}
	return strings.Join(words, ", ")
}

const maxViolations = 10

// Check says whether the policy allows the manifest, which must be one that [Parse] or [Manifest.Encode] accepts. The
// error is a [*PolicyError]. Every node judges for itself, with its own trust root. It takes about 40 bytes of memory for
// each entry, and the time of a few sorts.
func (m *Manifest) Check(p Policy) error {
	c := &checker{m: m, policy: p, broken: make([]uint8, len(m.Entries))}
	c.findParents()
	for i := range m.Entries {
		c.mode(i)
		c.name(i)
	}
	if !p.Names {
		c.siblings()
	}
	c.links()
	c.terms()
	return c.result()
}

// checker collects what is wrong with a manifest.
type checker struct {
	m       *Manifest
	policy  Policy
	parents []int32 // by entry: the directory that it is in; -1 for the top
	ends    []int32 // by entry: the first one behind it that is not below it

	broken []uint8 // by entry: bits of what is wrong with it
	found  []finding
	lost   []Violation // about what is not an entry
}

type finding struct {
	entry int
	Violation
}

// brokenBit numbers the permissions, and the lack of one.
func brokenBit(may Permission) uint8 {
	switch may {
	case MaySetuid:
		return 1
	case MayNames:
		return 2
	case MayLinkOut:
		return 4
	case MayRun:
		return 8
	}
	return 16
}

// add notes that an entry would need a permission, unless the policy gives it. Only the first few are put into words.
func (c *checker) add(entry int, may Permission, format string, args ...any) {
	if c.policy.allows(may) || c.broken[entry]&brokenBit(may) != 0 {
		return
	}
	c.broken[entry] |= brokenBit(may)
	at, _ := slices.BinarySearchFunc(c.found, entry+1, func(f finding, i int) int { return cmp.Compare(f.entry, i) })
	if at == maxViolations {
		return
	}
	v := Violation{Path: c.m.Entries[entry].Path, What: fmt.Sprintf(format, args...), May: may}
	c.found = slices.Insert(c.found, at, finding{entry, v})
	c.found = c.found[:min(len(c.found), maxViolations)]
}

func (c *checker) result() error {
	if len(c.found)+len(c.lost) == 0 {
		return nil
	}
	e := &PolicyError{Entries: len(c.lost)}
	for _, f := range c.found {
		e.Violations = append(e.Violations, f.Violation)
	}
	e.Violations = append(e.Violations, c.lost...)
	e.Violations = e.Violations[:min(len(e.Violations), maxViolations)]
	var all uint8
	for _, bits := range c.broken {
		if bits != 0 {
			e.Entries++
		}
		all |= bits
	}
	for _, may := range []Permission{MayLinkOut, MayNames, MayRun, MaySetuid} {
		if all&brokenBit(may) != 0 {
			e.May = append(e.May, may)
		}
	}
	e.Never = all&brokenBit("") != 0 || len(c.lost) > 0
	return e
}

// findParents makes use of the order: what is below a directory follows it directly.
func (c *checker) findParents() {
	n := len(c.m.Entries)
	c.parents, c.ends = make([]int32, n), make([]int32, n)
	var open []int32
	leave := func(next int) {
		c.ends[open[len(open)-1]] = int32(next)
		open = open[:len(open)-1]
	}
	for i := range c.m.Entries {
		for len(open) > 0 && !below(c.m.Entries[i].Path, c.m.Entries[open[len(open)-1]].Path) {
			leave(i)
		}
		c.parents[i] = -1
		if len(open) > 0 {
			c.parents[i] = open[len(open)-1]
		}
		open = append(open, int32(i))
	}
	for len(open) > 0 {
		leave(n)
	}
}

// baseName is the last component of an entry's path.
func (c *checker) baseName(entry int32) string {
	_, name, _ := cutLast(c.m.Entries[entry].Path)
	return name
}

const (
	modeSetuid = 0o4000
	modeSetgid = 0o2000
	modeSticky = 0o1000
	modeAnyone = 0o0002
)

func (c *checker) mode(i int) {
	e := &c.m.Entries[i]
	if e.Type == Symlink {
		return // its mode says nothing
	}
	for _, bit := range []struct {
		mode uint32
		what string
	}{{modeSetuid, "is setuid"}, {modeSetgid, "is setgid"}, {modeSticky, "is sticky"}, {modeAnyone, "can be written by anybody"}} {
		if e.Mode&bit.mode != 0 {
			c.add(i, MaySetuid, "%s (mode %04o)", bit.what, e.Mode)
		}
	}
}

func (c *checker) name(i int) {
	if c.policy.Names {
		return
	}
	if err := checkName(c.baseName(int32(i))); err != nil {
		c.add(i, MayNames, "%v", err)
	}
}

// keyed is an entry with the hash of where it is and what its name is folded to.
type keyed struct {
	hash  uint64
	entry int32
}

// siblings finds entries of one directory whose names have the same key. It sorts hashes: a map of a million names is more
// than a small machine can spare. The hash has a seed of chance, so that nobody can prepare names that share it.
func (c *checker) siblings() {
	list := make([]keyed, len(c.m.Entries))
	var f folder
	var h maphash.Hash
	for i := range list {
		key := f.key(c.baseName(int32(i)))
		if len(key) == 0 {
			c.add(i, MayNames, "has no visible character")
		}
		h.Reset()
		maphash.WriteComparable(&h, c.parents[i])
		h.Write(key)
		list[i] = keyed{h.Sum64(), int32(i)}
	}
	slices.SortFunc(list, func(a, b keyed) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.entry, b.entry)) })
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n].hash == list[0].hash {
			n++
		}
		if n > 1 {
			c.compare(list[:n], &f)
		}
		list = list[n:]
	}
}

// compare looks which entries of one hash really are siblings with one key. All but the first of each are wrong.
func (c *checker) compare(list []keyed, f *folder) {
	type first struct {
		entry int32
		key   string
	}
	var firsts []first
	for _, k := range list {
		key := string(f.key(c.baseName(k.entry)))
		i := slices.IndexFunc(firsts, func(o first) bool { return o.key == key && c.parents[o.entry] == c.parents[k.entry] })
		if i < 0 {
			firsts = append(firsts, first{k.entry, key})
			continue
		}
		c.add(int(k.entry), MayNames, "is the same name as %q where case and Unicode form do not count", c.baseName(firsts[i].entry))
	}
}
