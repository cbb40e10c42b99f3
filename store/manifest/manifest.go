package manifest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
)

// Limits of a manifest. They are part of the format: a document beyond one of them is refused by every implementation.
const (
	MaxSize      = 256 << 20 // bytes of the whole document
	MaxEntries   = 1_000_000 // entries
	MaxPath      = 4096      // bytes of a path
	MaxComponent = 255       // bytes between two slashes
	MaxDepth     = 64        // components of a path
	MaxLink      = 4095      // bytes of a link's target
	MaxProduct   = 64        // bytes of a product's name
	MaxVersion   = 64        // bytes of a display version
	MaxNotes     = 4096      // bytes of the notes
	MaxBlob      = 64 << 30  // bytes of one file
	maxRaw       = 256 << 10 // bytes of a blob of one chunk
	minLarge     = 16<<10 + 1
	version      = 1
)

// Type says what an entry is. The values are those of the format.
type Type uint8

// The three kinds of entry. There are no others: hard links become two files of one content, and devices, sockets and pipes
// cannot be in a release.
const (
	Dir     Type = 0
	File    Type = 1
	Symlink Type = 2
)

// String is "dir", "file" or "symlink".
func (t Type) String() string {
	switch t {
	case Dir:
		return "dir"
	case File:
		return "file"
	case Symlink:
		return "symlink"
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Entry is one line of a manifest.
type Entry struct {
	Path string  // relative, slash-separated, UTF-8, without "." and ".."
	Type Type    // what it is
	Mode uint32  // permission bits with setuid, setgid and sticky (at most 0o7777); 0o777 for a symbolic link
	Size uint64  // bytes of a file's content; 0 for others
	Blob cid.Cid // CID of a file's content; undefined for others
	Link string  // target of a symbolic link, verbatim; empty for others
}

// Header is what a manifest says about the release as a whole. It repeats what the announcement says, so that a manifest
// can be told from that of another release even alone on a disk.
type Header struct {
	Product string // [a-z0-9.-], 1 to 64 bytes
	Epoch   uint64
	Seq     uint64
	Version string // display version, printable, at most 64 bytes
	Notes   string // text for people, at most 4096 bytes; newlines and tabs are allowed
	Terms   Terms  // how a machine keeps the release
}

// Manifest is a release's whole list of entries, in the order of [Compare].
type Manifest struct {
	Header
	Entries []Entry
}

// Blob is one distinct content that a manifest names.
type Blob struct {
	CID  cid.Cid
	Size uint64
	Mode uint32 // of the first entry with this content
}

// Blobs gives the distinct blobs of the manifest in order of first appearance. The index of a blob in this list is its
// index in have-maps, the same on every node.
func (m *Manifest) Blobs() []Blob {
	seen := make(map[cid.Cid]struct{}, len(m.Entries))
	blobs := make([]Blob, 0, len(m.Entries))
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Type != File {
			continue
		}
		if _, ok := seen[e.Blob]; ok {
			continue
		}
		seen[e.Blob] = struct{}{}
		blobs = append(blobs, Blob{CID: e.Blob, Size: e.Size, Mode: e.Mode})
	}
	return blobs
}

// TotalSize is the sum of the sizes of all file entries, in bytes. A content that appears twice counts twice. It is the
// figure that an announcement calls total size.
func (m *Manifest) TotalSize() uint64 {
	var total uint64
	for i := range m.Entries {
		total += m.Entries[i].Size
	}
	return total
}

// Compare orders two paths as a manifest does: component by component, which is the order of their bytes when '/' is
// taken as the smallest byte. A directory is so directly followed by all that is below it. The result is -1, 0 or 1.
func Compare(a, b string) int {
	n := min(len(a), len(b))
	i := 0
	for i < n && a[i] == b[i] {
		i++
	}
	switch {
	case i < n && rank(a[i]) < rank(b[i]), i == n && len(a) < len(b):
		return -1
	case i == n && len(a) == len(b):
		return 0
	}
	return 1
}

// rank makes room for '/' below every byte that a name can hold; NUL cannot be in a name.
func rank(c byte) byte {
	if c == '/' {
		return 0
	}
	return c
}

// Encode prints the manifest. It refuses what [Parse] would refuse, naming the first offending entry.
func (m *Manifest) Encode() ([]byte, error) {
	if len(m.Entries) > MaxEntries {
		return nil, fmt.Errorf("encoding manifest: %d entries, limit is %d", len(m.Entries), MaxEntries)
	}
	var body bytes.Buffer
	w := NewWriter(&body)
	for i := range m.Entries {
		if err := w.Add(m.Entries[i]); err != nil {
			return nil, err
		}
	}
	if err := checkSizes(m.Entries); err != nil {
		return nil, fmt.Errorf("encoding manifest: %w", err)
	}
	head, err := w.Head(m.Header)
	if err != nil {
		return nil, err
	}
	return append(head, body.Bytes()...), nil
}

// checkSizes makes sure that each blob has one size. It sorts a list of indexes: a map of a million CIDs is more than
// a small machine can spare.
func checkSizes(entries []Entry) error {
	files := make([]int32, 0, len(entries))
	for i := range entries {
		if entries[i].Type == File {
			files = append(files, int32(i))
		}
	}
	slices.SortFunc(files, func(a, b int32) int {
		return strings.Compare(entries[a].Blob.KeyString(), entries[b].Blob.KeyString())
	})
	for i := 1; i < len(files); i++ {
		a, b := &entries[files[i-1]], &entries[files[i]]
		if a.Blob == b.Blob && a.Size != b.Size {
			return fmt.Errorf("entries %q and %q: one blob with two sizes", a.Path, b.Path)
		}
	}
	return nil
}
