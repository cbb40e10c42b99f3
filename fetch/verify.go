package fetch

import (
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	"satchel/store"
)

// verify has a worker check and keep what a neighbour sent. Nothing is written before its hash is right.
func (s *Session) verify(id string, i int32, data []byte) {
	keep := s.keeper(s.pieces[i].ref)
	s.do(func() func() {
		list, err := keep(data)
		return func() { s.verified(id, i, len(data), list, err) }
	})
}

// keeper gives the job that checks and keeps the content of a place.
func (s *Session) keeper(r ref) func([]byte) (*store.ChunkList, error) {
	st := s.cfg.Store
	l := s.large(r.blob)
	switch {
	case r.chunk == listRef:
		return func(data []byte) (*store.ChunkList, error) { return keepList(st, l.cid, l.size, data) }
	case r.chunk == wholeRef && l != nil:
		return func(data []byte) (*store.ChunkList, error) { return nil, st.Put(l.cid, data, l.mode) }
	case r.chunk == wholeRef:
		b := s.shape.blobs[r.blob]
		return func(data []byte) (*store.ChunkList, error) { return nil, st.Put(b.CID, data, b.Mode) }
	}
	part := l.part
	return func(data []byte) (*store.ChunkList, error) { return nil, part.WriteChunk(int(r.chunk), data) }
}

// keepList tells a neighbour's fault from the publisher's: a list with the right hash that says nonsense is the publisher's.
func keepList(st *store.Store, c cid.Cid, size uint64, data []byte) (*store.ChunkList, error) {
	if _, err := store.ParseChunkList(c, size, data); err != nil {
		if !errors.Is(err, store.ErrMismatch) {
			err = fmt.Errorf("%w: %w", ErrRelease, err)
		}
		return nil, err
	}
	return st.PutList(c, size, data)
}

// verified goes on with a piece that was checked.
func (s *Session) verified(id string, i int32, size int, list *store.ChunkList, err error) {
	if errors.Is(err, store.ErrMismatch) {
		s.corrupt(id, i, size, "sent wrong bytes")
		return
	}
	if err != nil {
		s.fail(err)
		return
	}
	p := &s.pieces[i]
	p.done = true
	s.update(func(pr *Progress) {
		pr.BytesFetched[id] += uint64(size)
		pr.PiecesHere++
		s.meter.add(s.clock(), size)
	})
	s.plan(Verified{i})
	if p.ref.chunk == listRef {
		s.gotList(s.large(p.ref.blob), list)
		return
	}
	s.kept(p.ref, uint64(size))
	if s.pieces[i].more {
		s.copyMore(i)
	}
}

// placeOf is where the content of a place lies in the store.
func (s *Session) placeOf(r ref) (cid.Cid, uint64) {
	c := s.cfg.Release.Manifest
	if r.blob != ManifestBlob {
		c = s.shape.blobs[r.blob].CID
	}
	if r.chunk < 0 {
		return c, 0
	}
	return c, s.listOf(r.blob).Chunks[r.chunk].Offset
}
