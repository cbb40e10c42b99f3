package fetch

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"satchel/store"
	"satchel/store/manifest"
)

// blob is one that is being fetched by chunk, or the manifest.
//
//	no list ──list piece──► listed ──search──► ready ──open──► open ──all chunks──► whole
//	            └──────────from disk─────┘
type blob struct {
	index     uint32
	cid       cid.Cid
	size      uint64
	mode      uint32
	listPiece int32            // the piece that brings the list; -1: none
	whole     int32            // the piece that brings all of it, when it is a raw manifest; -1: none
	list      *store.ChunkList // nil: not here yet
	places    []place          // by chunk: where else in the store it lies; nil: nowhere
	part      *store.Partial   // nil: not open
	pieces    []int32          // by chunk: the piece that brings it; -1: it was here
	missing   int              // chunks that are not here
}

// piece is what one request brings. Two places in the release with the same content are one piece.
type piece struct {
	ref  ref // where it is written first
	done bool
	more bool // there are others, in todo.more
}

// ref is a place in the release.
type ref struct {
	blob  uint32
	chunk int32 // index of a chunk, or one of those below
}

const (
	wholeRef = -1 // all of a raw blob
	listRef  = -2 // the chunk list
)

const (
	maxOpen     = 384             // partial blobs open at a time: each takes a file descriptor
	maxOpening  = 2               // of them, being opened: what is in their files is hashed
	listsEnough = 2 * time.Second // without a list: go on with what is here
)

// todo is the way of all blobs from missing to whole.
type todo struct {
	scanned   bool                        // it is known what is here
	left      int                         // blobs that are not whole
	lists     int                         // lists that are missing
	lastList  time.Time                   // when one came, or was first missed
	searching bool                        // other blobs of the store are being searched
	searched  bool                        // once at least
	raws      []uint32                    // raw blobs to search for
	listed    []*blob                     // large blobs to search for
	ready     []*blob                     // searched for, waiting to be opened
	opening   int                         // being opened
	open      int                         // open or being opened
	more      map[int32][]ref             // further places of a piece
	wholes    map[uint32]*store.ChunkList // lists of what became whole meanwhile
	complete  bool
}

// begin looks whether the manifest is here, and else sets out to fetch it.
func (s *Session) begin() {
	s.blobs.more = make(map[int32][]ref)
	s.blobs.wholes = make(map[uint32]*store.ChunkList)
	r := s.cfg.Release
	if r.ManifestSize > manifest.MaxSize {
		s.inconsistent("a manifest of %d bytes, limit is %d", r.ManifestSize, manifest.MaxSize)
		return
	}
	l := &blob{index: ManifestBlob, cid: r.Manifest, size: r.ManifestSize, mode: 0o600, listPiece: -1, whole: -1}
	s.manifest = l
	s.slowly(func() func() {
		if s.cfg.Store.Has(l.cid) {
			return s.readManifest()
		}
		var list *store.ChunkList
		if !store.IsRaw(l.cid) {
			list = s.knownList(l.cid, l.size)
		}
		return func() { s.fetchManifest(list) }
	})
}

// knownList is a list that is on disk already, or nil.
func (s *Session) knownList(c cid.Cid, size uint64) *store.ChunkList {
	list, _, err := s.cfg.Store.List(c)
	if err != nil || list.Size != size {
		return nil
	}
	return list
}

func (s *Session) fetchManifest(list *store.ChunkList) {
	l := s.manifest
	switch {
	case store.IsRaw(l.cid) && l.size > store.MaxChunk:
		s.inconsistent("a manifest of one chunk with %d bytes", l.size)
	case !store.IsRaw(l.cid) && l.size <= store.MinChunk:
		s.inconsistent("a manifest of several chunks with %d bytes", l.size)
	case store.IsRaw(l.cid):
		l.whole = s.newPiece(ref{ManifestBlob, wholeRef})
		s.added(int(l.whole), []Piece{{Size: uint32(l.size), Key: keyOf(store.DigestOf(l.cid))}})
	case list != nil:
		s.gotList(l, list)
	default:
		s.wantLists([]*blob{l})
	}
}

// readManifest is a job.
func (s *Session) readManifest() func() {
	// Before anything it names: without it on the disk, what follows looks like content that nobody wants.
	if err := s.cfg.Store.Sync(); err != nil {
		return func() { s.fail(err) }
	}
	m, err := s.cfg.Store.Manifest(s.cfg.Release.Manifest)
	if err != nil {
		if !errors.Is(err, store.ErrMismatch) && !errors.Is(err, store.ErrNotFound) {
			err = fmt.Errorf("%w: %w", ErrRelease, err)
		}
		return func() { s.fail(err) }
	}
	if err := s.check(m); err != nil {
		return func() { s.fail(err) }
	}
	blobs := m.Blobs()
	return func() { s.knowManifest(blobs) }
}

// knowManifest goes on when the manifest is here.
func (s *Session) knowManifest(blobs []manifest.Blob) {
	s.manifest = nil
	s.blobs.searched = false
	s.shape.blobs, s.shape.known = blobs, true
	s.much = true
	s.holding(func(h *ours) { h.manifest, h.n, h.blobs = true, len(blobs), newBitset(len(blobs)) })
	s.update(func(p *Progress) { p.Phase = PhaseLists })
	for _, p := range s.everybody() {
		delete(p.holds.parts, ManifestBlob)
		if err := p.holds.settle(&s.shape); err != nil {
			s.lied(p, err.Error())
		}
	}
	s.slowly(func() func() {
		here := newBitset(len(blobs))
		lists := make(map[uint32]*store.ChunkList)
		for i, b := range blobs {
			if s.ctx.Err() != nil {
				break
			}
			whole, err := s.holdsWhole(b)
			if err != nil {
				return func() { s.fail(err) }
			}
			if whole {
				here.set(i)
			} else if !store.IsRaw(b.CID) {
				if list := s.knownList(b.CID, b.Size); list != nil {
					lists[uint32(i)] = list
				}
			}
		}
		return func() { s.scanned(here, lists) }
	})
}

// holdsWhole says whether a blob is here. When it has another size than the manifest says, the publisher or our disk is at fault:
// the error is [ErrRelease], or the blob is taken away, to be fetched again.
func (s *Session) holdsWhole(b manifest.Blob) (bool, error) {
	st := s.cfg.Store
	size, ok := st.Size(b.CID)
	if !ok || size == b.Size {
		return ok, nil
	}
	lied := false
	if store.IsRaw(b.CID) {
		data := make([]byte, min(size, store.MaxChunk))
		lied = st.ReadRange(b.CID, 0, data) == nil && store.Sum(data) == store.DigestOf(b.CID)
	} else {
		list, _, err := st.List(b.CID)
		lied = err == nil && list.Size != b.Size
	}
	if lied {
		return false, fmt.Errorf("%w: the manifest says %d bytes of blob %v, which has %d", ErrRelease, b.Size, b.CID, size)
	}
	return false, st.Discard(b.CID)
}

func (s *Session) everybody() []*peer {
	all := make([]*peer, 0, len(s.peers))
	for _, p := range s.peers {
		all = append(all, p)
	}
	return all
}

// scanned goes on when it is known which blobs are here.
func (s *Session) scanned(here bitset, lists map[uint32]*store.ChunkList) {
	t := &s.blobs
	s.raws = make([]int32, len(s.shape.blobs))
	var total, had uint64
	var unlisted []*blob
	for i, b := range s.shape.blobs {
		s.raws[i] = -1
		total += b.Size
		switch index := uint32(i); {
		case here.has(i):
			had += b.Size
		case store.IsRaw(b.CID):
			t.raws = append(t.raws, index)
		default:
			l := &blob{index: index, cid: b.CID, size: b.Size, mode: b.Mode, listPiece: -1, whole: -1}
			s.larges[index] = l
			if l.list = lists[index]; l.list != nil {
				t.listed = append(t.listed, l)
			} else {
				unlisted = append(unlisted, l)
			}
		}
	}
	t.scanned = true
	count := here.count()
	t.left = len(s.shape.blobs) - count
	s.much = true
	s.holding(func(h *ours) {
		h.blobs = merge(h.blobs, here)
		for _, l := range t.listed {
			h.parts[l.index] = partial{}
		}
	})
	s.update(func(p *Progress) {
		p.BytesTotal, p.BytesHere, p.BytesNeeded = total, had, total-had
		p.Blobs, p.BlobsHere = len(s.shape.blobs), count
	})
	for _, p := range s.peers {
		for index := range p.holds.parts {
			if !s.wanted(index) {
				delete(p.holds.parts, index)
			}
		}
	}
	if t.left == 0 {
		s.completed()
		return
	}
	s.wantLists(unlisted)
	s.search()
}

// large is a blob that is being fetched by chunk, or the manifest; else nil.
func (s *Session) large(index uint32) *blob {
	if index == ManifestBlob {
		return s.manifest
	}
	return s.larges[index]
}

// wanted says whether it matters which chunks of a blob others have.
func (s *Session) wanted(index uint32) bool {
	return s.large(index) != nil || index != ManifestBlob && !s.blobs.scanned
}

func (s *Session) listOf(index uint32) *store.ChunkList {
	if l := s.large(index); l != nil {
		return l.list
	}
	return s.blobs.wholes[index]
}

// newPiece gives a new piece its number. The planner must be told with added.
func (s *Session) newPiece(r ref) int32 {
	s.pieces = append(s.pieces, piece{ref: r})
	return int32(len(s.pieces) - 1)
}

// added tells the planner of all pieces from first on, and who has them.
func (s *Session) added(first int, sizes []Piece) {
	if len(sizes) > 0 {
		s.plan(Add{sizes})
		s.update(func(p *Progress) { p.Pieces += len(sizes) })
		for _, p := range s.everybody() {
			s.tellPlanner(p, first)
		}
	}
	s.plan(Tick{})
}

// keyOf is the planner's key for a content.
func keyOf(d store.Digest) uint32 { return binary.BigEndian.Uint32(d[8:]) }

// half is enough of a digest to find its piece; whoever finds one compares the whole.
func half(d store.Digest) uint64 { return binary.BigEndian.Uint64(d[:]) }

func (s *Session) wantLists(unlisted []*blob) {
	t := &s.blobs
	first := len(s.pieces)
	var sizes []Piece
	for _, l := range unlisted {
		l.listPiece = s.newPiece(ref{l.index, listRef})
		d := store.DigestOf(l.cid)
		sizes = append(sizes, Piece{Size: uint32(min(expectedList(l.size), 8<<20)), Key: keyOf(d)})
	}
	t.lists += len(sizes)
	t.lastList = time.Now()
	s.added(first, sizes)
}

// expectedList is how long a list probably is, in bytes; its limit is several times that.
func expectedList(size uint64) uint64 { return size/(64<<10)*37 + 256 }

// gotList goes on with a blob whose list is here.
func (s *Session) gotList(l *blob, list *store.ChunkList) {
	t := &s.blobs
	l.list = list
	if l.listPiece >= 0 {
		t.lists--
		t.lastList = time.Now()
	}
	s.holding(func(h *ours) { h.parts[l.index] = partial{} })
	s.news = append(s.news, Have{Blob: l.index, Chunk: -1, List: true})
	t.listed = append(t.listed, l)
	s.search()
}

// lateLists goes on without the lists that do not come; deadline is when that is.
func (s *Session) lateLists() {
	if d, ok := s.blobs.deadline(s); ok && !time.Now().Before(d) {
		s.search()
	}
}

func (t *todo) deadline(s *Session) (time.Time, bool) {
	if t.lists == 0 || t.searching || len(t.listed)+len(t.raws) == 0 {
		return time.Time{}, false
	}
	return t.lastList.Add(listsEnough), true
}

// admit opens some of the blobs that are ready.
func (s *Session) admit() {
	t := &s.blobs
	for len(t.ready) > 0 && t.open < maxOpen && t.opening < maxOpening {
		l := t.ready[0]
		t.ready = t.ready[1:]
		t.open++
		t.opening++
		s.slowly(func() func() { return s.openPartial(l) })
	}
}

// opened goes on with a blob whose file is open.
func (s *Session) opened(l *blob, part *store.Partial, had, have []bool) {
	s.blobs.opening--
	l.part, l.places = part, nil
	l.pieces = make([]int32, len(have))
	l.missing = 0
	bits := newBitset(len(have))
	var was, copied uint64
	for k, c := range l.list.Chunks {
		l.pieces[k] = -1
		switch {
		case !have[k]:
			l.missing++
			continue
		case had[k]:
			was += uint64(c.Size)
		default:
			copied += uint64(c.Size)
		}
		bits.set(k)
		s.news = append(s.news, Have{Blob: l.index, Chunk: int32(k)})
	}
	s.holding(func(h *ours) { h.parts[l.index] = partial{bits, len(have)} })
	if l.index != ManifestBlob {
		s.update(func(p *Progress) {
			p.BytesHere += was
			p.BytesLocal += copied
			p.BytesNeeded -= was + copied
		})
	}
	s.dirty = s.dirty || copied > 0
	s.wantChunks(l, have)
	if l.missing == 0 {
		s.commit(l)
	}
	s.admit()
	s.phase()
}

// wantChunks makes pieces of the chunks that are missing.
func (s *Session) wantChunks(l *blob, have []bool) {
	first := len(s.pieces)
	var sizes []Piece
	var shared []int32
	for k, c := range l.list.Chunks {
		if have[k] {
			continue
		}
		r := ref{l.index, int32(k)}
		i, ok := s.sharedPiece(c.Digest, r)
		if ok {
			shared = append(shared, i)
		} else {
			i = s.newPiece(r)
			s.byHash[half(c.Digest)] = i
			sizes = append(sizes, Piece{Size: c.Size, Key: keyOf(c.Digest)})
		}
		l.pieces[k] = i
	}
	s.added(first, sizes)
	for _, i := range shared {
		s.share(i)
	}
}

// sharedPiece finds the piece that has the same content, and makes r one of its places.
func (s *Session) sharedPiece(d store.Digest, r ref) (int32, bool) {
	i, ok := s.byHash[half(d)]
	if !ok || s.digestOf(s.pieces[i].ref) != d {
		return 0, false
	}
	s.blobs.more[i] = append(s.blobs.more[i], r)
	s.pieces[i].more = true
	return i, true
}

// share goes on with a piece that has got one more place: it is copied there, or more neighbours can bring it.
func (s *Session) share(i int32) {
	if s.pieces[i].done {
		s.copyMore(i)
		return
	}
	for _, p := range s.everybody() {
		if _, ok := s.refAt(p, i); ok {
			s.plan(Holds{Peer: p.id, Pieces: []int32{i}})
		}
	}
}

// digestOf is the digest of the content at a place.
func (s *Session) digestOf(r ref) store.Digest {
	if r.chunk >= 0 {
		if list := s.listOf(r.blob); list != nil {
			return list.Chunks[r.chunk].Digest
		}
		return store.Digest{} // it was the manifest
	}
	return store.DigestOf(s.shape.blobs[r.blob].CID)
}

// refAt is a place of a piece where a neighbour has it.
func (s *Session) refAt(p *peer, i int32) (ref, bool) {
	r := s.pieces[i].ref
	if s.pieces[i].done {
		return r, false
	}
	if s.holdsRef(p, r) {
		return r, true
	}
	if s.pieces[i].more {
		for _, r := range s.blobs.more[i] {
			if s.holdsRef(p, r) {
				return r, true
			}
		}
	}
	return r, false
}

func (s *Session) holdsRef(p *peer, r ref) bool {
	switch r.chunk {
	case listRef:
		return p.holds.holdsList(r.blob)
	case wholeRef:
		return p.holds.holdsBlob(r.blob)
	}
	return p.holds.holdsChunk(r.blob, int(r.chunk))
}

// kept goes on when the content of a place is here.
func (s *Session) kept(r ref, size uint64) {
	if r.blob != ManifestBlob {
		s.update(func(p *Progress) { p.BytesNeeded -= size })
	}
	s.dirty = true
	if r.chunk == wholeRef {
		s.whole(r.blob)
		return
	}
	l := s.large(r.blob)
	s.holding(func(h *ours) { h.parts[r.blob].bits.set(int(r.chunk)) })
	s.news = append(s.news, Have{Blob: r.blob, Chunk: r.chunk})
	if l.missing--; l.missing == 0 {
		s.commit(l)
	}
}

// commit finishes a blob that has all its chunks.
func (s *Session) commit(l *blob) {
	part := l.part
	s.do(func() func() {
		err := part.Commit()
		return func() {
			if err != nil {
				s.fail(err)
				return
			}
			s.closePartial(l)
			s.blobs.open--
			if l.index != ManifestBlob {
				delete(s.larges, l.index)
				s.blobs.wholes[l.index] = l.list
			}
			s.dirty = true
			s.whole(l.index)
			s.admit()
		}
	})
}

func (s *Session) closePartial(l *blob) {
	if l.part == nil {
		return
	}
	if err := l.part.Close(); err != nil {
		s.fail(err)
	}
	l.part = nil
}

// whole goes on when a blob is whole.
func (s *Session) whole(index uint32) {
	if index == ManifestBlob {
		s.holding(func(h *ours) { delete(h.parts, index) })
		s.slowly(s.readManifest)
		return
	}
	s.holding(func(h *ours) {
		h.blobs.set(int(index))
		delete(h.parts, index)
	})
	s.news = append(s.news, Have{Blob: index, Chunk: -1})
	for _, p := range s.peers {
		delete(p.holds.parts, index)
	}
	s.update(func(p *Progress) { p.BlobsHere++ })
	if s.blobs.left--; s.blobs.left == 0 {
		s.completed()
	}
}

// completed goes on when everything is here, and not yet durable.
func (s *Session) completed() {
	s.blobs.complete, s.much = true, true
	s.holding(func(h *ours) { h.all = true })
	s.finishIfDone()
}

// phase updates what the progress says.
func (s *Session) phase() {
	t := &s.blobs
	if !s.shape.known || t.complete {
		return
	}
	phase := PhaseChunks
	switch {
	case !t.searched && !t.searching:
		phase = PhaseLists
	case t.searching, t.opening > 0 && len(t.ready) > 0:
		phase = PhaseLocal
	}
	s.update(func(p *Progress) { p.Phase = phase })
}

// ours is what we hold, for neighbours to know.
type ours struct {
	all      bool
	manifest bool
	n        int                // blobs of the manifest
	blobs    bitset             // whole ones
	parts    map[uint32]partial // chunks of those that are not; an entry says that the list is here
}

type partial struct {
	bits bitset
	n    int
}

func (s *Session) holding(f func(*ours)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold.parts == nil {
		s.hold.parts = make(map[uint32]partial)
	}
	f(&s.hold)
}

// Holdings says what is here of the release, for neighbours who ask.
func (s *Session) Holdings() HaveMap {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.hold
	if h.all {
		return HaveMap{All: true}
	}
	m := HaveMap{Manifest: h.manifest, Blobs: h.blobs.field(h.n)}
	for index, part := range h.parts {
		m.Partial = append(m.Partial, PartialHave{Blob: index, Chunks: part.bits.field(part.n)})
	}
	slices.SortFunc(m.Partial, func(a, b PartialHave) int { return cmp.Compare(a.Blob, b.Blob) })
	return m
}
