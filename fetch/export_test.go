package fetch

import (
	"satchel/store"
	"satchel/store/manifest"
)

// Claims is what a neighbour is believed to hold, for tests: a release with the given sizes of blobs, of which the large ones
// have no known list.
type Claims struct {
	h  holdings
	sh shape
}

// NewClaims makes claims about a release whose manifest is not known yet.
func NewClaims(manifestSize uint64) *Claims {
	c := &Claims{sh: shape{manifestSize: manifestSize}}
	c.h.wanted = func(uint32) bool { return true }
	c.h.list = func(uint32) *store.ChunkList { return nil }
	return c
}

// Know makes the manifest known.
func (c *Claims) Know(sizes []uint64) error {
	for i, size := range sizes {
		var d store.Digest
		d[0], d[1] = byte(i), byte(i>>8)
		name := store.RawCID(d)
		if size > store.MaxChunk {
			name = store.ListCID(d)
		}
		c.sh.blobs = append(c.sh.blobs, manifest.Blob{CID: name, Size: size})
	}
	c.sh.known = true
	return c.h.settle(&c.sh)
}

func (c *Claims) Apply(m HaveMap) error                  { return c.h.apply(&c.sh, m) }
func (c *Claims) Add(v Have) error                       { return c.h.add(&c.sh, v) }
func (c *Claims) HoldsBlob(blob uint32) bool             { return c.h.holdsBlob(blob) }
func (c *Claims) HoldsChunk(blob uint32, chunk int) bool { return c.h.holdsChunk(blob, chunk) }
func (c *Claims) HoldsList(blob uint32) bool             { return c.h.holdsList(blob) }

// Size is about how many bytes the claims take.
func (c *Claims) Size() int {
	n := len(c.h.blobs)*8 + len(c.h.haves)*12
	for _, part := range c.h.parts {
		n += len(part)*8 + 64
	}
	if c.h.early != nil {
		n += len(c.h.early.Blobs)
		for _, p := range c.h.early.Partial {
			n += len(p.Chunks) + 32
		}
	}
	return n
}

// Field prints and parses a bitfield.
func Field(set []int, n int) []byte {
	b := newBitset(n)
	for _, i := range set {
		b.set(i)
	}
	return b.field(n)
}

func ParseField(field []byte, n int) (set []int) {
	parseField(field).trim(n).each(func(i int) { set = append(set, i) })
	return set
}
