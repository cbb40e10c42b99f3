package p2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/fetch"
)

// replyTimeout is how long a neighbour may take over one frame while something is asked of it. The planner
// asks others much sooner; this only ends a stream that is of no use.
const replyTimeout = 45 * time.Second

// maxHaveMaps is how many whole have-maps a neighbour may send for one manifest: its news comes in updates.
const maxHaveMaps = 250

// asker is one long-lived stream of requests to a neighbour, shared by all fetches. Requests are pipelined;
// each gets exactly one reply.
type asker struct {
	peer     peer.ID
	name     string
	stream   network.Stream
	received func(p peer.ID, n int)
	log      *slog.Logger
	wake     chan struct{} // capacity 1

	mu       sync.Mutex // never held across I/O
	out      []byte
	next     uint64
	pending  map[uint64]*asked
	wire     map[sessionRequest]uint64
	sessions map[cid.Cid]*attached
	closed   bool
}

// attached is a fetch that asks this neighbour what it holds. Only a neighbour that takes part, because it holds
// some of the release or fetches it too, is made known to the fetch: it would wait for the others.
type attached struct {
	*fetch.Session
	join   sync.Once // whoever comes second waits until the fetch knows the neighbour
	joined atomic.Bool
	maps   int // have-maps that came
}

type sessionRequest struct {
	s  *fetch.Session
	id uint64
}

type asked struct {
	sessionRequest
	kind   fetch.Kind
	length uint32
	part   []byte
}

// sessionPeer is an asker as one fetch sees it.
type sessionPeer struct {
	a *asker
	s *fetch.Session
}

var _ fetch.Peer = (*sessionPeer)(nil)

func newAsker(stream network.Stream, received func(peer.ID, int), log *slog.Logger) *asker {
	p := stream.Conn().RemotePeer()
	return &asker{peer: p, name: p.String(), stream: stream, received: received, log: log, wake: make(chan struct{}, 1),
		pending: map[uint64]*asked{}, wire: map[sessionRequest]uint64{}, sessions: map[cid.Cid]*attached{}}
}

// run moves frames both ways until the stream ends. It returns why; errProtocol is the peer's fault.
func (a *asker) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { a.stream.Reset() })
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); a.write() }()
	err := a.read()
	a.mu.Lock()
	a.closed = true
	sessions := a.sessions
	a.sessions = nil
	a.mu.Unlock()
	a.poke()
	a.stream.Reset()
	<-done
	for _, s := range sessions {
		if s.joined.Load() {
			s.PeerDown(a.name)
		}
	}
	return err
}

// attach asks the neighbour what it holds of a manifest, for a fetch.
func (a *asker) attach(manifest cid.Cid, s *fetch.Session) {
	a.mu.Lock()
	old := a.sessions[manifest]
	if a.closed || old != nil && old.Session == s {
		a.mu.Unlock()
		return
	}
	a.sessions[manifest] = &attached{Session: s}
	a.out = appendFrame(a.out, frameWatch, manifest.Bytes())
	a.mu.Unlock()
	a.poke()
}

// join makes the neighbour known to the fetch of manifest, once, and returns that fetch; nil when there is none.
// It may wait for the fetch's goroutine, so it is not for the node's.
func (a *asker) join(manifest cid.Cid) *attached {
	a.mu.Lock()
	s := a.sessions[manifest]
	a.mu.Unlock()
	if s == nil {
		return nil
	}
	s.join.Do(func() {
		s.joined.Store(true)
		s.PeerUp(&sessionPeer{a, s.Session})
	})
	return s
}

// detach ends what attach began.
func (a *asker) detach(manifest cid.Cid) {
	a.mu.Lock()
	if s := a.sessions[manifest]; s != nil {
		delete(a.sessions, manifest)
		a.out = appendFrame(a.out, frameUnwatch, manifest.Bytes())
		for key, id := range a.wire {
			if key.s == s.Session {
				a.out = appendFrame(a.out, frameCancel, binary.AppendUvarint(nil, id))
			}
		}
	}
	a.mu.Unlock()
	a.poke()
}

func (a *asker) idle() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.sessions) == 0 && len(a.pending) == 0
}

// ID implements fetch.Peer.
func (p *sessionPeer) ID() string { return p.a.name }

// Request implements fetch.Peer.
func (p *sessionPeer) Request(reqs []fetch.Request) {
	a := p.a
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return // PeerDown is on its way
	}
	var b []byte
	for _, q := range reqs {
		a.next++
		key := sessionRequest{p.s, q.ID}
		a.pending[a.next] = &asked{sessionRequest: key, kind: q.Kind, length: q.Length}
		a.wire[key] = a.next
		b = binary.AppendUvarint(b, a.next)
		b = append(b, byte(q.Kind))
		b = append(b, q.Blob.Bytes()...)
		b = binary.AppendUvarint(b, q.Offset)
		b = binary.AppendUvarint(b, uint64(q.Length))
		if len(b) > maxRequestFrame-256 {
			a.out = appendFrame(a.out, frameWant, b)
			b = b[:0]
		}
	}
	if len(b) > 0 {
		a.out = appendFrame(a.out, frameWant, b)
	}
	a.mu.Unlock()
	a.poke()
}

// Cancel implements fetch.Peer. A reply may still come; the session knows it as a duplicate.
func (p *sessionPeer) Cancel(ids []uint64) {
	a := p.a
	var b []byte
	a.mu.Lock()
	for _, id := range ids {
		if w, ok := a.wire[sessionRequest{p.s, id}]; ok {
			b = binary.AppendUvarint(b, w)
		}
	}
	if len(b) > 0 && !a.closed {
		a.out = appendFrame(a.out, frameCancel, b)
	}
	a.mu.Unlock()
	a.poke()
}

func (a *asker) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

func (a *asker) write() {
	var spare []byte
	for range a.wake {
		a.mu.Lock()
		out, closed := a.out, a.closed
		a.out = spare[:0]
		a.mu.Unlock()
		if closed {
			return
		}
		if len(out) > 0 {
			now := time.Now()
			a.stream.SetReadDeadline(now.Add(replyTimeout))
			a.stream.SetWriteDeadline(now.Add(writeTimeout))
			if _, err := a.stream.Write(out); err != nil {
				a.stream.Reset()
				return
			}
		}
		if cap(out) <= maxRequestFrame {
			spare = out
		} else {
			spare = nil
		}
	}
}

func (a *asker) read() error {
	r := bufio.NewReaderSize(a.stream, 64<<10)
	for {
		a.mu.Lock()
		waiting := len(a.pending) > 0
		a.mu.Unlock()
		if waiting {
			a.stream.SetReadDeadline(time.Now().Add(replyTimeout))
		} else {
			a.stream.SetReadDeadline(time.Time{})
		}
		typ, b, err := readFrame(r, maxReplyFrame)
		if err != nil {
			return err
		}
		if err := a.accept(typ, &body{b: b}); err != nil {
			return err
		}
	}
}

func (a *asker) accept(typ byte, b *body) error {
	switch typ {
	case frameData, framePart:
		return a.acceptData(b, typ == framePart)
	case frameGone:
		return a.acceptGone(b)
	case frameHaveMap:
		m := b.cid("manifest")
		hm, err := decodeHaveMap(b)
		if err != nil {
			return err
		}
		if !hm.All && !hm.Manifest && len(hm.Blobs) == 0 && len(hm.Partial) == 0 {
			return nil
		}
		if s := a.join(m); s != nil {
			if s.maps++; s.maps > maxHaveMaps {
				return protocolError("more than %d have-maps", maxHaveMaps)
			}
			s.HaveMap(a.name, hm)
		}
	case frameHave:
		m := b.cid("manifest")
		hs, err := decodeHaves(b)
		if err != nil {
			return err
		}
		if s := a.join(m); s != nil {
			s.Have(a.name, hs)
		}
	default:
		return protocolError("reply frame of type %d", typ)
	}
	return nil
}

func (a *asker) acceptData(b *body, more bool) error {
	id := b.uvarint("id")
	if b.err != nil {
		return b.err
	}
	data := b.b
	a.received(a.peer, len(data))
	a.mu.Lock()
	q := a.pending[id]
	if q == nil {
		a.mu.Unlock()
		return protocolError("reply to a request that was never made, or is answered")
	}
	if uint64(len(q.part))+uint64(len(data)) > uint64(q.length) || (more && len(data) == 0) ||
		(q.kind == fetch.Bytes && (more || len(data) != int(q.length))) {
		a.mu.Unlock()
		return protocolError("reply of %d bytes where %d were asked for", len(q.part)+len(data), q.length)
	}
	if more || q.part != nil {
		q.part = append(q.part, data...)
		data = q.part
	}
	if !more {
		delete(a.pending, id)
		delete(a.wire, q.sessionRequest)
	}
	a.mu.Unlock()
	if !more {
		q.s.Data(a.name, q.id, data)
	}
	return nil
}

func (a *asker) acceptGone(b *body) error {
	for b.more() {
		id := b.uvarint("id")
		if b.err != nil {
			break
		}
		a.mu.Lock()
		q := a.pending[id]
		if q != nil {
			delete(a.pending, id)
			delete(a.wire, q.sessionRequest)
		}
		a.mu.Unlock()
		if q == nil {
			return protocolError("reply to a request that was never made, or is answered")
		}
		q.s.Gone(a.name, q.id)
	}
	return b.err
}
