package manifest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// order checks entries one after the other: each by itself, and that each follows the one before it and lies in a directory
// that came before.
type order struct {
	last  string
	dirs  []string // the directories that the next entry may lie in, outermost first
	count int
	total uint64
}

func (o *order) add(e *Entry) error {
	if err := CheckEntry(e); err != nil {
		return err
	}
	if o.count >= MaxEntries {
		return fmt.Errorf("more than %d entries", MaxEntries)
	}
	if o.count > 0 && Compare(o.last, e.Path) >= 0 {
		return fmt.Errorf("not after %q", o.last)
	}
	if err := o.descend(e); err != nil {
		return err
	}
	// The limits together leave no room for an overflow: 10^6 entries of 2^36 bytes.
	o.total += e.Size
	o.last = e.Path
	o.count++
	return nil
}

// descend drops the directories that are finished. What is left last must be the parent, because everything below a
// directory follows it directly.
func (o *order) descend(e *Entry) error {
	parent, _, ok := cutLast(e.Path)
	for len(o.dirs) > 0 && !(ok && o.dirs[len(o.dirs)-1] == parent) && !below(parent, o.dirs[len(o.dirs)-1]) {
		o.dirs = o.dirs[:len(o.dirs)-1]
	}
	if ok && (len(o.dirs) == 0 || o.dirs[len(o.dirs)-1] != parent) {
		return fmt.Errorf("no directory %q before it", parent)
	}
	if e.Type == Dir {
		o.dirs = append(o.dirs, e.Path)
	}
	return nil
}

func below(path, dir string) bool {
	return len(path) > len(dir) && path[len(dir)] == '/' && strings.HasPrefix(path, dir)
}

// cutLast splits a path at its last slash; ok is false when there is none.
func cutLast(path string) (parent, name string, ok bool) {
	i := strings.LastIndexByte(path, '/')
	if i < 0 {
		return "", path, false
	}
	return path[:i], path[i+1:], true
}

// CheckPath says why a path cannot be in a manifest, or nil when it can.
func CheckPath(path string) error {
	switch {
	case path == "":
		return errors.New("empty path")
	case len(path) > MaxPath:
		return fmt.Errorf("path of %d bytes, limit is %d", len(path), MaxPath)
	case path[0] == '/':
		return errors.New("path is absolute")
	}
	if err := checkText("path", path, ""); err != nil {
		return err
	}
	depth := 0
	for name := range strings.SplitSeq(path, "/") {
		depth++
		switch {
		case name == "", name == ".", name == "..":
			return fmt.Errorf("path component %q", name)
		case len(name) > MaxComponent:
			return fmt.Errorf("path component of %d bytes, limit is %d", len(name), MaxComponent)
		case depth > MaxDepth:
			return fmt.Errorf("path deeper than %d components", MaxDepth)
		}
	}
	return nil
}

// CheckLink says why a link target cannot be in a manifest, or nil when it can.
func CheckLink(target string) error {
	switch {
	case target == "":
		return errors.New("empty link target")
	case len(target) > MaxLink:
		return fmt.Errorf("link target of %d bytes, limit is %d", len(target), MaxLink)
	}
	return checkText("link target", target, "")
}

// CheckEntry says why an entry, by itself, cannot be in a manifest, or nil when it can.
func CheckEntry(e *Entry) error {
	if err := CheckPath(e.Path); err != nil {
		return err
	}
	if e.Mode > 0o7777 {
		return fmt.Errorf("mode %#o has bits beyond 07777", e.Mode)
	}
	switch e.Type {
	case Dir:
		if e.Size != 0 || e.Blob.Defined() || e.Link != "" {
			return errors.New("directory with content")
		}
	case File:
		if e.Link != "" {
			return errors.New("file with a link target")
		}
		return checkBlob(e.Blob, e.Size)
	case Symlink:
		if e.Size != 0 || e.Blob.Defined() {
			return errors.New("link with content")
		}
		if e.Mode != 0o777 {
			return fmt.Errorf("link with mode %#o, must be 0777", e.Mode)
		}
		return CheckLink(e.Link)
	default:
		return fmt.Errorf("unknown %v", e.Type)
	}
	return nil
}

// CheckHeader says why a header cannot be in a manifest, or nil when it can.
func CheckHeader(h *Header) error {
	if len(h.Product) < 1 || len(h.Product) > MaxProduct {
		return fmt.Errorf("product name of %d bytes, must be 1 to %d", len(h.Product), MaxProduct)
	}
	for _, c := range []byte(h.Product) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '.' && c != '-' {
			return fmt.Errorf("product name %q: only a-z, 0-9, '.' and '-' are allowed", h.Product)
		}
	}
	for _, t := range []struct {
		what, text string
		limit      int
		also       string
	}{{"version", h.Version, MaxVersion, ""}, {"notes", h.Notes, MaxNotes, "\n\t"}} {
		if len(t.text) > t.limit {
			return fmt.Errorf("%s of %d bytes, limit is %d", t.what, len(t.text), t.limit)
		}
		if err := checkText(t.what, t.text, t.also); err != nil {
			return err
		}
	}
	return h.Terms.check()
}

// hidden lists, as pairs of first and last, what no text of a manifest may hold: controls, separators of lines and
// paragraphs, what turns the direction of text, and characters without a shape that no script needs. Joiners,
// zero-width spaces and variation selectors are not among them: names in Persian, Nepali, Khmer or Japanese have them.
// The list is part of the format: Unicode tables change with the compiler, and nodes must agree for ever.
var hidden = [...][2]rune{
	{0, 0x1f}, {0x7f, 0x9f}, {0xad, 0xad}, {0x61c, 0x61c}, {0x200e, 0x200f}, {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfdd0, 0xfdef},
	{0xfeff, 0xfeff}, {0xfff0, 0xfffb}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0000, 0xe00ff}, {0xe01f0, 0xe0fff},
}

func isHidden(r rune) bool { return within(hidden[:], r) || r&0xfffe == 0xfffe } // the last two of a plane are no characters

func within(list [][2]rune, r rune) bool {
	for _, p := range list {
		if r <= p[1] {
			return r >= p[0]
		}
	}
	return false
}

// checkText refuses hidden characters, other than those in also.
func checkText(what, s, also string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not UTF-8", what)
	}
	for _, r := range s {
		if isHidden(r) && !strings.ContainsRune(also, r) {
			return fmt.Errorf("%s holds the control or invisible character %U", what, r)
		}
	}
	return nil
}

// checkBlob makes sure that CID and size can belong together.
func checkBlob(c cid.Cid, size uint64) error {
	if !c.Defined() {
		return errors.New("file without a blob")
	}
	p := c.Prefix()
	if p.Version != 1 || p.MhType != multihash.SHA2_256 || p.MhLength != sha256.Size {
		return fmt.Errorf("blob %v: not a version 1 CID with sha2-256", c)
	}
	switch {
	case size > MaxBlob:
		return fmt.Errorf("size %d, limit is %d", size, uint64(MaxBlob))
	case p.Codec == cid.Raw && size > maxRaw:
		return fmt.Errorf("raw blob of %d bytes, limit is %d", size, maxRaw)
	case p.Codec == codecCBOR && size < minLarge:
		return fmt.Errorf("blob with a chunk list, but only %d bytes", size)
	case p.Codec != cid.Raw && p.Codec != codecCBOR:
		return fmt.Errorf("blob %v: unknown codec %#x", c, p.Codec)
	}
	if isEmpty := p.Codec == cid.Raw && string(c.Hash()[2:]) == string(emptyDigest[:]); isEmpty != (size == 0) {
		return errors.New("size 0 and the empty blob must go together")
	}
	return nil
}

// emptyDigest is that of the empty blob.
var emptyDigest = sha256.Sum256(nil)

// codecCBOR is the multicodec of CBOR. go-cid names only dag-cbor, which is another.
const codecCBOR = 0x51
