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

// KnowList makes the chunk list of a blob known, with that many chunks.
func (c *Claims) KnowList(blob uint32, chunks int) {
	c.h.list = func(b uint32) *store.ChunkList {
		if b != blob {
			return nil
		}
		return &store.ChunkList{Chunks: make([]store.Chunk, chunks)}
	}
}

// Want says of which blobs parts are worth remembering.
func (c *Claims) Want(wanted func(blob uint32) bool) { c.h.wanted = wanted }

// TakeBack asks each of two neighbours for one thing, takes n requests back from the first, and gives the requests that are
// still remembered of the two.
func TakeBack(n int) (first, second int) {
	s := New(Config{})
	for _, id := range []string{"first", "second"} {
		p := &peer{id: id, asked: map[int32]uint64{}}
		s.peers[id] = p
		for range n + 1 {
			s.nextID++
			p.asked[int32(len(p.asked))] = s.nextID
			s.asks[s.nextID] = request{peer: id}
		}
	}
	s.takeBack(s.peers["second"], 0)
	for i := range n {
		s.takeBack(s.peers["first"], int32(i))
	}
	for _, r := range s.asks {
		if r.peer == "first" {
			first++
		} else {
			second++
		}
	}
	return first, second
}

// LeaveThenLie has a neighbour leave before it is known that it has sent wrong bytes, twice.
func LeaveThenLie(cfg Config) {
	s := New(cfg)
	s.corrupt("gone", 0, 10, "sent wrong bytes")
	s.corrupt("gone", 0, 10, "sent wrong bytes")
}

// MuchNews makes that much news, and has it told.
func MuchNews(cfg Config, n int) {
	s := New(cfg)
	s.news = make([]Have, n)
	s.flush()
	s.flush()
}

// LateAnswers takes requests back that are then answered all the same, and gives how many bytes were counted as not needed, and
// how many requests are remembered.
func LateAnswers(cfg Config) (bytes uint64, asks int) {
	s := New(cfg)
	p := &peer{id: "late", asked: map[int32]uint64{0: 7, 1: 8}}
	s.peers[p.id] = p
	s.asks[7], s.asks[8] = request{peer: p.id, length: 10}, request{peer: p.id, piece: 1, length: 10}
	s.takeBack(p, 0)
	s.takeBack(p, 1)
	s.data(p.id, 7, []byte("12345"))
	s.gone(p.id, 8)
	return s.progress.BytesDuplicate, len(s.asks) + p.canceled
}
