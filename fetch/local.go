package fetch

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"satchel/store"
)

// place is where in the store a chunk's content already lies.
type place struct {
	blob   cid.Cid // undefined: nowhere
	offset uint64
}

// hunted is a content that is looked for.
type hunted struct {
	half  uint64
	blob  int32 // index in the hunt's raws, or in its larges behind them
	chunk int32
}

// hunt looks for wanted contents in the blobs of the store. It is a job's state: nobody else touches it meanwhile.
type hunt struct {
	raws   []uint32
	larges []*blob
	wanted []hunted // sorted by half
	places [][]place
	found  []uint32 // raws that are here now
	copied uint64   // their bytes

	mu sync.Mutex // the store may find from several goroutines
}

// search starts looking for what lies in other blobs of the store, once all lists are here or no more seem to come.
func (s *Session) search() {
	t := &s.blobs
	d, waiting := t.deadline(s)
	if t.searching || len(t.listed)+len(t.raws) == 0 || waiting && time.Now().Before(d) {
		s.phase()
		return
	}
	t.searching = true
	h := &hunt{raws: t.raws, larges: t.listed}
	t.raws, t.listed = nil, nil
	s.phase()
	s.slowly(func() func() {
		err := s.hunt(h)
		return func() { s.hunted(h, err) }
	})
}

// hunt is a job: it finds places and copies the small blobs at once.
func (s *Session) hunt(h *hunt) error {
	h.prepare(s)
	if err := s.cfg.Store.FindChunks(s.ctx, h.want, func(d store.Digest, src store.Source) bool {
		h.note(s, d, place{src.Blob, src.Offset})
		return true
	}); err != nil {
		return err
	}
	for k, l := range h.larges {
		for i, c := range l.list.Chunks {
			if h.at(len(h.raws)+k, i).blob.Defined() {
				continue
			}
			if raw := store.RawCID(c.Digest); s.cfg.Store.Has(raw) {
				h.put(len(h.raws)+k, i, place{blob: raw})
			}
		}
	}
	return s.copyRaws(h)
}

// prepare lists what is wanted.
func (h *hunt) prepare(s *Session) {
	n := len(h.raws)
	for _, l := range h.larges {
		n += len(l.list.Chunks)
	}
	h.wanted = make([]hunted, 0, n)
	h.places = make([][]place, len(h.raws)+len(h.larges))
	for k, index := range h.raws {
		h.wanted = append(h.wanted, hunted{half(store.DigestOf(s.shape.blobs[index].CID)), int32(k), 0})
	}
	for k, l := range h.larges {
		for i, c := range l.list.Chunks {
			h.wanted = append(h.wanted, hunted{half(c.Digest), int32(len(h.raws) + k), int32(i)})
		}
	}
	slices.SortFunc(h.wanted, func(a, b hunted) int { return cmp.Compare(a.half, b.half) })
}

func (h *hunt) first(d store.Digest) int {
	at, _ := slices.BinarySearchFunc(h.wanted, half(d), func(w hunted, x uint64) int { return cmp.Compare(w.half, x) })
	return at
}

func (h *hunt) want(d store.Digest) bool {
	at := h.first(d)
	return at < len(h.wanted) && h.wanted[at].half == half(d)
}

// note remembers a place for every wanted content with this digest.
func (h *hunt) note(s *Session, d store.Digest, p place) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for at := h.first(d); at < len(h.wanted) && h.wanted[at].half == half(d); at++ {
		w := h.wanted[at]
		if !h.at(int(w.blob), int(w.chunk)).blob.Defined() && h.digest(s, w) == d {
			h.put(int(w.blob), int(w.chunk), p)
		}
	}
}

func (h *hunt) digest(s *Session, w hunted) store.Digest {
	if k := int(w.blob) - len(h.raws); k >= 0 {
		return h.larges[k].list.Chunks[w.chunk].Digest
	}
	return store.DigestOf(s.shape.blobs[h.raws[w.blob]].CID)
}

func (h *hunt) at(blob, chunk int) place {
	if h.places[blob] == nil {
		return place{}
	}
	return h.places[blob][chunk]
}

func (h *hunt) put(blob, chunk int, p place) {
	if h.places[blob] == nil {
		n := 1
		if k := blob - len(h.raws); k >= 0 {
			n = len(h.larges[k].list.Chunks)
		}
		h.places[blob] = make([]place, n)
	}
	h.places[blob][chunk] = p
}

// copyRaws stores the small blobs that were found, and the empty one.
func (s *Session) copyRaws(h *hunt) error {
	for k, index := range h.raws {
		b := s.shape.blobs[index]
		p := h.at(k, 0)
		if !p.blob.Defined() && b.Size > 0 {
			continue
		}
		if err := s.ctx.Err(); err != nil {
			return err
		}
		data := make([]byte, b.Size)
		if b.Size > 0 && s.cfg.Store.ReadRange(p.blob, int64(p.offset), data) != nil {
			continue
		}
		err := s.cfg.Store.Put(b.CID, data, b.Mode)
		if errors.Is(err, store.ErrMismatch) {
			continue // damaged where it lies; somebody else will have it
		}
		if err != nil {
			return err
		}
		h.found = append(h.found, index)
		h.copied += b.Size
	}
	return nil
}

// hunted goes on after a search.
func (s *Session) hunted(h *hunt, err error) {
	t := &s.blobs
	t.searching, t.searched = false, true
	if err != nil {
		s.fail(fmt.Errorf("searching the store: %w", err))
		return
	}
	s.update(func(p *Progress) { p.BytesLocal += h.copied })
	found := make(map[uint32]bool, len(h.found))
	for _, index := range h.found {
		found[index] = true
		s.kept(ref{index, wholeRef}, s.shape.blobs[index].Size)
	}
	first := len(s.pieces)
	var sizes []Piece
	for _, index := range h.raws {
		if found[index] {
			continue
		}
		b := s.shape.blobs[index]
		d := store.DigestOf(b.CID)
		i := s.newPiece(ref{index, wholeRef})
		s.byHash[half(d)] = i
		s.raws[index] = i
		sizes = append(sizes, Piece{Size: uint32(b.Size), Key: keyOf(d)})
	}
	for k, l := range h.larges {
		l.places = h.places[len(h.raws)+k]
		t.ready = append(t.ready, l)
	}
	s.added(first, sizes)
	s.admit()
	s.phase()
	s.search()
}

// openPartial is a job: it opens a large blob's file and copies what lies elsewhere in the store.
func (s *Session) openPartial(l *blob) func() {
	part, err := s.cfg.Store.Partial(l.list, l.mode)
	if err != nil {
		return func() { s.fail(err) }
	}
	had := part.Have()
	if l.places != nil {
		err = s.copyChunks(l, part, had)
	}
	if err != nil {
		part.Close()
		return func() { s.fail(err) }
	}
	have := part.Have()
	return func() { s.opened(l, part, had, have) }
}

func (s *Session) copyChunks(l *blob, part *store.Partial, had []bool) error {
	buf := make([]byte, store.MaxChunk)
	for k, p := range l.places {
		if had[k] || !p.blob.Defined() {
			continue
		}
		if err := s.ctx.Err(); err != nil {
			return err
		}
		data := buf[:l.list.Chunks[k].Size]
		if s.cfg.Store.ReadRange(p.blob, int64(p.offset), data) != nil {
			continue
		}
		if err := part.WriteChunk(k, data); err != nil && !errors.Is(err, store.ErrMismatch) {
			return err
		}
	}
	return nil
}

// copyMore copies a piece that is here to its other places.
func (s *Session) copyMore(i int32) {
	from := s.pieces[i].ref
	refs := s.blobs.more[i]
	delete(s.blobs.more, i)
	s.pieces[i].more = false
	for _, to := range refs {
		s.copyTo(from, to)
	}
}

func (s *Session) copyTo(from, to ref) {
	l := s.large(to.blob)
	size, part := l.list.Chunks[to.chunk].Size, l.part
	src, offset := s.placeOf(from)
	s.do(func() func() {
		data := make([]byte, size)
		err := s.cfg.Store.ReadRange(src, int64(offset), data)
		if err == nil {
			err = part.WriteChunk(int(to.chunk), data)
		}
		return func() {
			if err != nil {
				s.fail(fmt.Errorf("copying a chunk from blob %v: %w", src, err))
				return
			}
			s.update(func(p *Progress) { p.BytesLocal += uint64(size) })
			s.kept(to, uint64(size))
		}
	})
}
