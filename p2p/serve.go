package p2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"satchel/fetch"
	"satchel/store"
)

// protoBlobs is the protocol by which content travels; PROTOCOL.md describes every frame.
const protoBlobs protocol.ID = "/satchel/blobs/1"

// Frame types of protoBlobs. A requester sends the first four, a server the others.
const (
	frameWant    byte = 1  // requests
	frameCancel  byte = 2  // requests no longer wanted
	frameWatch   byte = 3  // tell me what you hold of this manifest, now and as it grows
	frameUnwatch byte = 4  // no longer
	frameData    byte = 16 // the last or only part of a reply
	framePart    byte = 17 // a part of a reply, more follow
	frameGone    byte = 18 // requests that get no bytes
	frameHaveMap byte = 19 // everything held of a manifest
	frameHave    byte = 20 // what was added since
)

const (
	maxQueued    = 1024 // requests one peer may have waiting here
	maxWatches   = 64   // manifests one peer may watch
	maxPartials  = 4096 // blobs that one have-map may call partial
	maxNews      = 4096 // have-updates kept for a slow watcher before a whole map replaces them
	newsDelay    = 25 * time.Millisecond
	writeTimeout = 30 * time.Second // a reader slower than one buffer in this time is cut off
	replyBuffer  = 256 << 10
)

// server answers neighbours' requests for content. It reads the store and asks the node what it holds; it
// keeps no state of the node's.
type server struct {
	store    *store.Store
	holdings func(manifest cid.Cid) (m fetch.HaveMap, here bool) // here: a release that is whole here, or being fetched
	sent     func(p peer.ID, n int)
	offence  func(p peer.ID, err error)
	watched  func(p peer.ID, manifest cid.Cid) // p fetches this, too; called without a lock, may wait
	log      *slog.Logger
	bufs     sync.Pool

	reading chan struct{}         // capacity 1: whoever puts something in reads a manifest, and owns known
	known   map[cid.Cid]*contents // by manifest

	mu      sync.Mutex
	streams map[*served]struct{}
}

func newServer(st *store.Store, log *slog.Logger) *server {
	return &server{store: st, log: log, streams: map[*served]struct{}{}, watched: func(peer.ID, cid.Cid) {},
		reading: make(chan struct{}, 1), known: map[cid.Cid]*contents{},
		bufs: sync.Pool{New: func() any { b := make([]byte, 0, replyBuffer+64); return &b }}}
}

// served is one requester's stream. Its reader fills the queue, its writer empties it.
type served struct {
	srv    *server
	peer   peer.ID
	stream network.Stream
	wake   chan struct{} // capacity 1

	mu      sync.Mutex // never held across I/O
	queue   []request
	gone    []uint64
	watches map[cid.Cid]*watch
	closed  bool
}

type request struct {
	id     uint64
	kind   fetch.Kind
	blob   cid.Cid
	offset uint64
	length uint32
}

// watch is what one requester has yet to be told of one manifest, and what it is given.
type watch struct {
	whole bool // send the whole map
	news  []fetch.Have
	due   time.Time
	gives *contents // nil: not known yet, and the map comes first
}

// contents is what belongs to a release: all that is given to whoever watches it. Nothing belongs to the zero value.
type contents struct {
	manifest cid.Cid
	blobs    []uint64 // half of each digest, in order: 8 bytes a blob
}

func (c *contents) has(b cid.Cid) bool {
	_, ok := slices.BinarySearch(c.blobs, halfOf(b))
	return ok || b == c.manifest
}

func halfOf(c cid.Cid) uint64 {
	d := store.DigestOf(c)
	return binary.BigEndian.Uint64(d[:])
}

// handle serves one stream until the peer closes it or breaks the protocol.
func (s *server) handle(ctx context.Context, stream network.Stream) {
	v := &served{srv: s, peer: stream.Conn().RemotePeer(), stream: stream, wake: make(chan struct{}, 1),
		watches: map[cid.Cid]*watch{}}
	if !s.admit(v) {
		stream.Reset()
		return
	}
	stop := context.AfterFunc(ctx, func() { stream.Reset() })
	defer stop()
	done := make(chan struct{})
	go func() { defer close(done); v.write() }()
	err := v.read()
	v.mu.Lock()
	v.closed = true
	v.mu.Unlock()
	v.poke()
	stream.Reset() // also frees a writer that waits for a slow reader
	<-done
	s.mu.Lock()
	delete(s.streams, v)
	s.mu.Unlock()
	if errors.Is(err, errProtocol) {
		s.offence(v.peer, err)
	}
}

// maxStreams is how many streams of requests one peer may have here: one, and one that is on its way out. Each
// can hold a buffer for as long as a slow reader is waited for.
const maxStreams = 2

func (s *server) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams)
}

func (s *server) admit(v *served) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for other := range s.streams {
		if other.peer == v.peer {
			n++
		}
	}
	if n >= maxStreams {
		return false
	}
	s.streams[v] = struct{}{}
	return true
}

// look says what is held here of a manifest, and what belongs to it. What belongs to releases that were watched is
// remembered as long as they are here, so that nobody can have a manifest read again and again.
func (s *server) look(m cid.Cid) (fetch.HaveMap, *contents) {
	have, here := s.holdings(m)
	if !here {
		return have, &contents{}
	}
	s.reading <- struct{}{}
	defer func() { <-s.reading }()
	if c := s.known[m]; c != nil {
		return have, c
	}
	c := &contents{manifest: m}
	list, err := s.store.Manifest(m)
	if err != nil {
		return have, c // it comes: then watchers are told anew
	}
	for _, b := range list.Blobs() {
		c.blobs = append(c.blobs, halfOf(b.CID))
	}
	slices.Sort(c.blobs)
	if len(s.known) >= maxWatches {
		for other := range s.known {
			if _, here := s.holdings(other); !here {
				delete(s.known, other)
			}
		}
	}
	s.known[m] = c
	return have, c
}

// news tells every watcher of manifest what became available here; whole replaces the list by the full map.
func (s *server) news(manifest cid.Cid, have []fetch.Have, whole bool) {
	s.mu.Lock()
	streams := make([]*served, 0, len(s.streams))
	for v := range s.streams {
		streams = append(streams, v)
	}
	s.mu.Unlock()
	for _, v := range streams {
		v.tell(manifest, have, whole)
	}
}

func (v *served) tell(manifest cid.Cid, have []fetch.Have, whole bool) {
	v.mu.Lock()
	w := v.watches[manifest]
	if w != nil {
		if w.due.IsZero() {
			w.due = time.Now().Add(newsDelay)
		}
		if whole || len(w.news)+len(have) > maxNews {
			w.whole, w.news = true, nil
		} else if !w.whole {
			w.news = append(w.news, have...)
		}
	}
	v.mu.Unlock()
	if w != nil {
		v.poke()
	}
}

func (v *served) poke() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

func (v *served) read() error {
	r := bufio.NewReaderSize(v.stream, 16<<10)
	for {
		typ, b, err := readFrame(r, maxRequestFrame)
		if err != nil {
			return err
		}
		if err := v.accept(typ, &body{b: b}); err != nil {
			return err
		}
		v.poke()
	}
}

func (v *served) accept(typ byte, b *body) error {
	switch typ {
	case frameWant:
		return v.acceptWant(b)
	case frameCancel:
		return v.acceptCancel(b)
	case frameWatch, frameUnwatch:
		c := b.cid("manifest")
		if b.err != nil {
			return b.err
		}
		return v.acceptWatch(c, typ == frameWatch)
	default:
		return protocolError("request frame of type %d", typ)
	}
}

func (v *served) acceptWatch(c cid.Cid, on bool) error {
	v.mu.Lock()
	n := len(v.watches)
	_, old := v.watches[c]
	switch {
	case !on:
		delete(v.watches, c)
	case old || n < maxWatches:
		v.watches[c] = &watch{whole: true, due: time.Now()} // also: what it gives must be looked up first
	}
	v.mu.Unlock()
	if on && !old && n >= maxWatches {
		return protocolError("more than %d manifests watched", maxWatches)
	}
	if on {
		v.srv.watched(v.peer, c)
	}
	return nil
}

// watches reports whether p has asked what is held here of manifest.
func (s *server) watches(p peer.ID, manifest cid.Cid) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for v := range s.streams {
		if v.peer == p && v.watching(manifest) {
			return true
		}
	}
	return false
}

func (v *served) watching(manifest cid.Cid) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.watches[manifest] != nil
}

func (v *served) acceptWant(b *body) error {
	var reqs []request
	for b.more() {
		q := request{id: b.uvarint("id"), kind: fetch.Kind(b.byte("kind")), blob: b.cid("blob"), offset: b.uvarint("offset")}
		n := b.uvarint("length")
		if b.err != nil {
			return b.err
		}
		if (q.kind == fetch.Bytes && n > store.MaxChunk) || q.kind > fetch.List || n > 1<<31 || q.offset > 1<<62 {
			return protocolError("request for %d bytes at %d, kind %d", n, q.offset, q.kind)
		}
		q.length = uint32(n)
		reqs = append(reqs, q)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.queue)+len(reqs) > maxQueued || len(v.gone) > 4*maxQueued {
		return protocolError("more than %d requests at once", maxQueued)
	}
	v.queue = append(v.queue, reqs...)
	return b.err
}

// acceptCancel takes requests out of the queue; each gets its one reply, "gone".
func (v *served) acceptCancel(b *body) error {
	ids := map[uint64]bool{}
	for b.more() {
		ids[b.uvarint("id")] = true
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	kept := v.queue[:0]
	for _, q := range v.queue {
		if ids[q.id] {
			v.gone = append(v.gone, q.id)
		} else {
			kept = append(kept, q)
		}
	}
	v.queue = kept
	return b.err
}

// write sends news first, then replies in the order of the requests.
func (v *served) write() {
	for {
		wait, ok := v.writeReady()
		if !ok {
			v.stream.Reset()
			return
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-v.wake:
		case <-timer:
		}
		v.mu.Lock()
		closed := v.closed
		v.mu.Unlock()
		if closed {
			return
		}
	}
}

// writeReady writes until nothing is left to write; wait is the time until held-back news is due.
func (v *served) writeReady() (wait time.Duration, ok bool) {
	buf := v.srv.bufs.Get().(*[]byte)
	defer func() { *buf = (*buf)[:0]; v.srv.bufs.Put(buf) }()
	for {
		out, next := v.control((*buf)[:0])
		reqs := v.take()
		if len(reqs) == 0 && len(out) == 0 {
			return next, true
		}
		for _, q := range reqs {
			var err error
			if out, err = v.reply(out, q); err != nil {
				return 0, false
			}
		}
		if err := v.flush(out); err != nil {
			return 0, false
		}
		if cap(out) <= replyBuffer+64 { // a grown buffer is not kept
			*buf = out
		}
	}
}

// take removes requests for about one buffer from the queue. None while a map is to be sent first: it is not known then
// what is given.
func (v *served) take() []request {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, w := range v.watches {
		if w.gives == nil {
			return nil
		}
	}
	n, bytes := 0, 0
	for n < len(v.queue) && bytes < replyBuffer/2 {
		bytes += int(v.queue[n].length)
		n++
	}
	reqs := append([]request(nil), v.queue[:n]...)
	v.queue = append(v.queue[:0], v.queue[n:]...)
	return reqs
}

// control appends the frames that are not replies with bytes.
func (v *served) control(out []byte) ([]byte, time.Duration) {
	now := time.Now()
	var wait time.Duration
	var whole []cid.Cid
	v.mu.Lock()
	if len(v.gone) > 0 {
		out = appendFrame(out, frameGone, appendIDs(nil, v.gone))
		v.gone = v.gone[:0]
	}
	for m, w := range v.watches {
		if w.due.IsZero() {
			continue
		}
		if d := w.due.Sub(now); d > 0 {
			if wait == 0 || d < wait {
				wait = d
			}
			continue
		}
		if w.whole {
			whole = append(whole, m)
		} else if len(w.news) > 0 {
			out = appendFrame(out, frameHave, m.Bytes(), encodeHaves(w.news))
		}
		w.whole, w.news, w.due = false, nil, time.Time{}
	}
	v.mu.Unlock()
	for _, m := range whole {
		have, gives := v.srv.look(m)
		v.mu.Lock()
		if w := v.watches[m]; w != nil {
			w.gives = gives
		}
		v.mu.Unlock()
		out = appendFrame(out, frameHaveMap, m.Bytes(), encodeHaveMap(have))
	}
	return out, wait
}

// gives reports whether the requester gets anything of a blob: it has to name a release to which it belongs. So nobody can
// find out what else lies in the store, not even by the time that an answer takes.
func (v *served) gives(c cid.Cid) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, w := range v.watches {
		if w.gives != nil && w.gives.has(c) {
			return true
		}
	}
	return false
}

// reply appends the answer to q, writing early when the buffer is full.
func (v *served) reply(out []byte, q request) ([]byte, error) {
	switch {
	case !v.gives(q.blob):
		return appendFrame(out, frameGone, binary.AppendUvarint(nil, q.id)), nil
	case q.kind == fetch.List:
		return v.replyList(out, q)
	}
	if len(out)+int(q.length)+32 > replyBuffer+64 {
		if err := v.flush(out); err != nil {
			return out, err
		}
		out = out[:0]
	}
	id := binary.AppendUvarint(nil, q.id)
	head := len(out)
	out = binary.AppendUvarint(out, uint64(1+len(id))+uint64(q.length))
	out = append(append(out, frameData), id...)
	at := len(out)
	out = append(out, make([]byte, q.length)...)
	if err := v.srv.read(q, out[at:]); err != nil {
		return appendFrame(out[:head], frameGone, id), nil
	}
	v.srv.sent(v.peer, int(q.length))
	return out, nil
}

// read fills p with what q asks for. A blob of one chunk is given whole or not at all: to somebody whom a publisher told a
// wrong size, a part of it would be wrong bytes, and ours the fault.
func (s *server) read(q request, p []byte) error {
	if size, _ := s.store.Size(q.blob); store.IsRaw(q.blob) && size != uint64(len(p)) {
		return store.ErrRange
	}
	return s.store.ReadRange(q.blob, int64(q.offset), p)
}

func (v *served) replyList(out []byte, q request) ([]byte, error) {
	id := binary.AppendUvarint(nil, q.id)
	_, raw, err := v.srv.store.List(q.blob)
	if err != nil || len(raw) > int(q.length) {
		return appendFrame(out, frameGone, id), nil
	}
	v.srv.sent(v.peer, len(raw))
	for len(raw) > replyBuffer/2 {
		out = appendFrame(out, framePart, id, raw[:replyBuffer/2])
		raw = raw[replyBuffer/2:]
		if err := v.flush(out); err != nil {
			return out, err
		}
		out = out[:0]
	}
	return appendFrame(out, frameData, id, raw), nil
}

func (v *served) flush(out []byte) error {
	if len(out) == 0 {
		return nil
	}
	v.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	_, err := v.stream.Write(out)
	if err != nil && !errors.Is(err, io.EOF) {
		v.srv.log.Debug("serving ended", slog.String("peer", v.peer.String()), slog.Any("err", err))
	}
	return err
}

func appendIDs(b []byte, ids []uint64) []byte {
	for _, id := range ids {
		b = binary.AppendUvarint(b, id)
	}
	return b
}

func encodeHaves(hs []fetch.Have) []byte {
	var b []byte
	for _, h := range hs {
		b = binary.AppendUvarint(b, uint64(h.Blob))
		kind := uint64(h.Chunk + 1) // 0: the whole blob
		b = binary.AppendUvarint(b, kind<<1|b2u(h.List))
	}
	return b
}

func decodeHaves(b *body) ([]fetch.Have, error) {
	var hs []fetch.Have
	for b.more() {
		blob, kind := b.uvarint("blob"), b.uvarint("chunk")
		if blob > math.MaxUint32 || kind > 1<<32 {
			return nil, protocolError("have-update out of range")
		}
		hs = append(hs, fetch.Have{Blob: uint32(blob), Chunk: int32(int64(kind>>1) - 1), List: kind&1 == 1})
	}
	return hs, b.err
}

func encodeHaveMap(m fetch.HaveMap) []byte {
	b := []byte{byte(b2u(m.All) | b2u(m.Manifest)<<1)}
	b = binary.AppendUvarint(b, uint64(len(m.Blobs)))
	b = append(b, m.Blobs...)
	for i, p := range m.Partial {
		if i >= maxPartials || len(b)+len(p.Chunks)+64 > maxReplyFrame {
			break // a map is a hint: what does not fit arrives as updates or is asked for later
		}
		b = binary.AppendUvarint(b, uint64(p.Blob))
		b = binary.AppendUvarint(b, uint64(len(p.Chunks)))
		b = append(b, p.Chunks...)
	}
	return b
}

func decodeHaveMap(b *body) (fetch.HaveMap, error) {
	flags := b.byte("flags")
	m := fetch.HaveMap{All: flags&1 != 0, Manifest: flags&2 != 0, Blobs: b.counted("blobs")}
	for b.more() {
		blob := b.uvarint("blob")
		chunks := b.counted("chunks")
		if blob > math.MaxUint32 {
			return m, protocolError("have-map out of range")
		}
		if len(m.Partial) >= maxPartials {
			return m, protocolError("have-map of more than %d partial blobs", maxPartials)
		}
		m.Partial = append(m.Partial, fetch.PartialHave{Blob: uint32(blob), Chunks: chunks})
	}
	return m, b.err
}

func b2u(v bool) uint64 {
	if v {
		return 1
	}
	return 0
}
