package fetch

import (
	"fmt"
	"log/slog"

	"satchel/store"
)

// maxNews is how many single news are told before the whole holdings are told instead.
const maxNews = 4096

// peer is a neighbour as the session sees it.
type peer struct {
	Peer
	id       string
	holds    holdings
	heard    bool             // it has told what it holds
	asked    map[int32]uint64 // request id by piece
	canceled int              // requests taken back that it may still answer
	requests []Request        // to be sent
	cancels  []uint64         // likewise
	queued   bool             // it is in Session.batches
}

// request is one question outstanding.
type request struct {
	peer     string
	piece    int32
	length   uint32
	kind     Kind
	canceled bool
}

// PeerUp introduces a neighbour. One with the same ID is replaced.
func (s *Session) PeerUp(p Peer) { s.post(func() { s.peerUp(p) }) }

// PeerDown says that a neighbour is gone.
func (s *Session) PeerDown(id string) { s.post(func() { s.peerDown(id) }) }

// HaveMap says what a neighbour holds. A later one adds to an earlier one.
func (s *Session) HaveMap(id string, m HaveMap) { s.post(func() { s.haveMap(id, m) }) }

// Have says what became available at a neighbour.
func (s *Session) Have(id string, h []Have) { s.post(func() { s.have(id, h) }) }

// Data is the answer to a request. The slice is the session's from now on.
func (s *Session) Data(id string, reqID uint64, data []byte) {
	s.post(func() { s.data(id, reqID, data) })
}

// Gone is the other answer to a request: the neighbour does not have it.
func (s *Session) Gone(id string, reqID uint64) { s.post(func() { s.gone(id, reqID) }) }

// post hands an event to the session's goroutine. It waits when very many are queued, which is before Run at most: the
// goroutine never waits for anything but events. After Run events vanish.
func (s *Session) post(event func()) {
	select {
	case <-s.ended:
	case s.events <- event:
	}
}

func (s *Session) peerUp(p Peer) {
	id := p.ID()
	if s.banned[id] {
		return
	}
	s.peerDown(id)
	np := &peer{Peer: p, id: id, asked: make(map[int32]uint64)}
	np.holds.wanted = s.wanted
	np.holds.list = s.listOf
	s.peers[id] = np
	s.plan(Join{id})
	s.update(func(p *Progress) { p.Peers = len(s.peers) })
}

func (s *Session) peerDown(id string) {
	p := s.peers[id]
	if p == nil {
		return
	}
	s.forget(p)
	s.plan(Leave{id})
}

// forget drops all we know of a neighbour.
func (s *Session) forget(p *peer) {
	delete(s.peers, p.id)
	p.requests, p.cancels = nil, nil
	for id, r := range s.asks {
		if r.peer == p.id {
			delete(s.asks, id)
		}
	}
	s.update(func(pr *Progress) { pr.Peers = len(s.peers) })
}

// blame drops a neighbour, one that lied for good. The planner must have forgotten it or be told.
func (s *Session) blame(p *peer, reason string, lied bool) {
	s.cancelAll(p)
	s.forget(p)
	if lied {
		s.banned[p.id] = true
	}
	s.log.Warn("neighbour dropped", slog.String("peer", p.id), slog.String("reason", reason))
	if s.cfg.OnBlame != nil {
		s.cfg.OnBlame(p.id, reason)
	}
}

// lied blames a neighbour for what it said, not for what it sent.
func (s *Session) lied(p *peer, reason string) {
	s.blame(p, reason, true)
	s.plan(Leave{p.id})
}

// cancelAll takes back what is asked of a neighbour.
func (s *Session) cancelAll(p *peer) {
	ids := p.cancels
	for _, id := range p.asked {
		ids = append(ids, id)
	}
	p.requests, p.cancels, p.asked = nil, nil, make(map[int32]uint64)
	if len(ids) > 0 {
		p.Cancel(ids)
	}
}

func (s *Session) haveMap(id string, m HaveMap) {
	p := s.peers[id]
	if p == nil {
		return
	}
	if err := p.holds.apply(&s.shape, m); err != nil {
		s.lied(p, err.Error())
		return
	}
	first := !p.heard
	p.heard = true
	if p.holds.all {
		s.plan(HoldsAll{id})
		return
	}
	if first {
		s.plan(Fetches{id})
	}
	s.tellPlanner(p, 0)
}

// tellPlanner tells which pieces from first on a neighbour holds.
func (s *Session) tellPlanner(p *peer, first int) {
	var held []int32
	for i := first; i < len(s.pieces); i++ {
		if _, ok := s.refAt(p, int32(i)); ok {
			held = append(held, int32(i))
		}
	}
	if len(held) > 0 {
		s.plan(Holds{Peer: p.id, Pieces: held})
	}
}

func (s *Session) have(id string, news []Have) {
	p := s.peers[id]
	if p == nil {
		return
	}
	var held []int32
	for _, v := range news {
		if err := p.holds.add(&s.shape, v); err != nil {
			s.lied(p, err.Error())
			return
		}
		held = s.piecesOf(v, held)
	}
	p.heard = true
	s.plan(Holds{Peer: id, Pieces: held, Fresh: true})
}

// piecesOf appends the pieces that come with a piece of news.
func (s *Session) piecesOf(v Have, to []int32) []int32 {
	l := s.large(v.Blob)
	switch {
	case l == nil:
		if int64(v.Blob) < int64(len(s.raws)) && s.raws[v.Blob] >= 0 && v.Chunk < 0 && !v.List {
			to = append(to, s.raws[v.Blob])
		}
	case l.list == nil:
		for _, i := range [...]int32{l.listPiece, l.whole} {
			if i >= 0 {
				to = append(to, i)
			}
		}
	case v.List:
	case v.Chunk < 0:
		for _, i := range l.pieces {
			if i >= 0 {
				to = append(to, i)
			}
		}
	case int(v.Chunk) < len(l.pieces) && l.pieces[v.Chunk] >= 0:
		to = append(to, l.pieces[v.Chunk])
	}
	return to
}

// plan has the planner handle an event, and does what it says.
func (s *Session) plan(in Input) {
	for _, out := range s.planner.Step(s.clock(), in) {
		p := s.peers[out.Peer]
		if p == nil {
			continue
		}
		switch out.Verb {
		case Ask:
			s.ask(p, out.Piece)
		case Cancel:
			s.takeBack(p, out.Piece)
		case Blame:
			s.blame(p, out.Reason, out.Lied)
		}
	}
}

func (s *Session) ask(p *peer, i int32) {
	r, ok := s.refAt(p, i)
	if !ok {
		r = s.pieces[i].ref // it was told of all, and then took something back
	}
	s.nextID++
	req := s.requestFor(r)
	req.ID = s.nextID
	s.asks[req.ID] = request{peer: p.id, piece: i, length: req.Length, kind: req.Kind}
	p.asked[i] = req.ID
	p.requests = append(p.requests, req)
	s.queue(p)
}

func (s *Session) takeBack(p *peer, i int32) {
	id, ok := p.asked[i]
	if !ok {
		return
	}
	delete(p.asked, i)
	if r, ok := s.asks[id]; ok {
		r.canceled = true
		s.asks[id] = r
	}
	if p.canceled++; p.canceled > 1024 {
		s.purge(p)
	}
	p.cancels = append(p.cancels, id)
	s.queue(p)
}

// purge forgets requests that were taken back long ago and never answered.
func (s *Session) purge(p *peer) {
	for id, r := range s.asks {
		if r.canceled && r.peer == p.id {
			delete(s.asks, id)
		}
	}
	p.canceled = 0
}

func (s *Session) queue(p *peer) {
	if !p.queued {
		p.queued = true
		s.batches = append(s.batches, p)
	}
}

// flush sends what has collected: requests and cancellations to neighbours, news to whoever watches.
func (s *Session) flush() {
	for _, p := range s.batches {
		p.queued = false
		requests, cancels := p.requests, p.cancels
		p.requests, p.cancels = nil, nil
		if len(cancels) > 0 {
			p.Cancel(cancels)
		}
		if len(requests) > 0 {
			p.Request(requests)
		}
	}
	s.batches = s.batches[:0]
	news, much := s.news, s.much || len(s.news) > maxNews
	s.news, s.much = nil, false
	if much {
		news = nil
	}
	if s.cfg.OnHave != nil && (much || len(news) > 0) {
		s.cfg.OnHave(news)
	}
}

func (s *Session) gone(id string, reqID uint64) {
	r, ok := s.answer(id, reqID)
	if ok && !r.canceled {
		s.plan(Refused{Peer: id, Piece: r.piece})
	}
}

// answer finds the request that an answer belongs to.
func (s *Session) answer(id string, reqID uint64) (request, bool) {
	p, r := s.peers[id], s.asks[reqID]
	if p == nil || r.peer != id {
		return request{}, false
	}
	delete(s.asks, reqID)
	if r.canceled {
		p.canceled--
	} else {
		delete(p.asked, r.piece)
	}
	return r, true
}

func (s *Session) data(id string, reqID uint64, data []byte) {
	r, ok := s.answer(id, reqID)
	if s.peers[id] == nil {
		return
	}
	if !ok || r.canceled {
		s.update(func(p *Progress) { p.BytesDuplicate += uint64(len(data)) })
		return
	}
	s.plan(Arrived{Peer: id, Piece: r.piece})
	if r.kind == Bytes && len(data) != int(r.length) || len(data) > int(r.length) {
		s.corrupt(id, r.piece, len(data), fmt.Sprintf("%d bytes where %d were asked for", len(data), r.length))
		return
	}
	s.verify(id, r.piece, data)
}

// corrupt takes note that a neighbour sent something else than was asked for.
func (s *Session) corrupt(id string, i int32, size int, what string) {
	s.update(func(p *Progress) { p.BytesCorrupt += uint64(size) })
	p := s.peers[id]
	s.plan(Corrupt{Peer: id, Piece: i, What: what})
	if p == nil && s.cfg.OnBlame != nil && !s.banned[id] {
		// It was quick to leave.
		s.banned[id] = true
		s.cfg.OnBlame(id, what)
	}
}

// requestFor is how a piece is asked for.
func (s *Session) requestFor(r ref) Request {
	l := s.large(r.blob)
	switch {
	case r.chunk == listRef:
		return Request{Kind: List, Blob: l.cid, Length: uint32(store.MaxListSize(l.size)), Digest: store.DigestOf(l.cid)}
	case r.chunk == wholeRef && l != nil:
		return Request{Kind: Bytes, Blob: l.cid, Length: uint32(l.size), Digest: store.DigestOf(l.cid)}
	case r.chunk == wholeRef:
		b := s.shape.blobs[r.blob]
		return Request{Kind: Bytes, Blob: b.CID, Length: uint32(b.Size), Digest: store.DigestOf(b.CID)}
	}
	c := l.list.Chunks[r.chunk]
	return Request{Kind: Bytes, Blob: l.cid, Offset: c.Offset, Length: c.Size, Digest: c.Digest}
}
