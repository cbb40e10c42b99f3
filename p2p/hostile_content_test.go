package p2p

import (
	"bytes"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
	"satchel/store/manifest"
)

// The tests TestHostileNN are about one kind of hostile input each.

// contentServer serves a store with one small blob, one large one, and one large one of which the second chunk is missing.
func contentServer(t *testing.T) (v *served, small, large, part *store.ChunkList) {
	t.Helper()
	st, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	put := func(data []byte, chunks int) *store.ChunkList {
		l := &store.ChunkList{}
		for len(data) > int(l.Size) {
			n := store.Cut(data[l.Size:])
			l.Chunks = append(l.Chunks, store.Chunk{Offset: l.Size, Size: uint32(n), Digest: store.Sum(data[l.Size:][:n])})
			l.Size += uint64(n)
		}
		if len(l.Chunks) == 1 {
			l.Blob = store.RawCID(l.Chunks[0].Digest)
			if err := st.Put(l.Blob, data, 0o644); err != nil {
				t.Fatal(err)
			}
			return l
		}
		l.Blob = store.ListCID(store.Sum(l.Encode()))
		p, err := st.Partial(l, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		for i, c := range l.Chunks[:min(chunks, len(l.Chunks))] {
			if err := p.WriteChunk(i, data[c.Offset:][:c.Size]); err != nil {
				t.Fatal(err)
			}
		}
		if p.Missing() == 0 {
			if err := p.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		return l
	}
	small = put([]byte("small"), 1)
	large = put(bytes.Repeat([]byte("large"), 100_000), 100)
	part = put(bytes.Repeat([]byte("part!"), 100_000), 1)
	srv := newServer(st, slog.New(slog.DiscardHandler))
	srv.sent = func(peer.ID, int) {}
	gives := &contents{blobs: []uint64{halfOf(small.Blob), halfOf(large.Blob), halfOf(part.Blob)}}
	slices.Sort(gives.blobs)
	watches := map[cid.Cid]*watch{store.RawCID(store.Sum([]byte("manifest"))): {gives: gives}}
	return &served{srv: srv, wake: make(chan struct{}, 1), watches: watches}, small, large, part
}

// wantFrame is the body of a frame with one request.
func wantFrame(id uint64, kind fetch.Kind, c cid.Cid, offset, length uint64) *body {
	b := append(binary.AppendUvarint(nil, id), byte(kind))
	b = append(b, c.Bytes()...)
	return &body{b: binary.AppendUvarint(binary.AppendUvarint(b, offset), length)}
}

// TestHostile58MoreThanAskedFor: of a reply no byte beyond the length that was asked for is kept, in however many parts it comes.
func TestHostile58MoreThanAskedFor(t *testing.T) {
	reply := func(kind fetch.Kind, frames ...[]byte) error {
		a := &asker{received: func(peer.ID, int) {}, wire: map[sessionRequest]uint64{}, pending: map[uint64]*asked{7: {kind: kind, length: 10}}}
		var err error
		for i, data := range frames {
			typ := framePart
			if i == len(frames)-1 {
				typ = frameData
			}
			if err = a.accept(typ, &body{b: append([]byte{7}, data...)}); err != nil {
				if n := len(a.pending[7].part); n > 10 {
					t.Errorf("%d bytes are kept", n)
				}
				return err
			}
		}
		return err
	}
	for name, c := range map[string]struct {
		kind   fetch.Kind
		frames [][]byte
	}{
		"bytes, one more":       {fetch.Bytes, [][]byte{make([]byte, 11)}},
		"bytes, one fewer":      {fetch.Bytes, [][]byte{make([]byte, 9)}},
		"bytes, none":           {fetch.Bytes, [][]byte{nil}},
		"bytes in parts":        {fetch.Bytes, [][]byte{make([]byte, 5), make([]byte, 5)}},
		"list, one more":        {fetch.List, [][]byte{make([]byte, 11)}},
		"list in parts, more":   {fetch.List, [][]byte{make([]byte, 5), make([]byte, 6)}},
		"list of empty parts":   {fetch.List, [][]byte{nil, nil, make([]byte, 5)}},
		"list without end":      {fetch.List, [][]byte{make([]byte, 10), make([]byte, 10), make([]byte, 10)}},
		"list, more at the end": {fetch.List, [][]byte{make([]byte, 10), make([]byte, 1)}},
	} {
		if err := reply(c.kind, c.frames...); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := &asker{received: func(peer.ID, int) {}, pending: map[uint64]*asked{}}
	for _, typ := range []byte{frameData, framePart, frameGone} {
		if err := a.accept(typ, &body{b: []byte{7}}); !errors.Is(err, errProtocol) {
			t.Errorf("a reply that nobody asked for, frame %d: %v", typ, err)
		}
	}
}

// TestHostile62ManyRequests: what one peer may have waiting here is bounded, whatever it sends.
func TestHostile62ManyRequests(t *testing.T) {
	v, small, _, _ := contentServer(t)
	var err error
	n := 0
	for ; err == nil && n < 10_000; n++ {
		err = v.accept(frameWant, wantFrame(uint64(n), fetch.Bytes, small.Blob, 0, 5))
	}
	if !errors.Is(err, errProtocol) || n != maxQueued+1 || len(v.queue) != maxQueued {
		t.Errorf("%d requests, %d are waiting: %v", n, len(v.queue), err)
	}

	// Requests that are taken back get an answer each; who does not read them may not go on for ever.
	v, small, _, _ = contentServer(t)
	err = nil
	for n = 0; err == nil && n < 100_000; n++ {
		if err = v.accept(frameWant, wantFrame(uint64(n), fetch.Bytes, small.Blob, 0, 5)); err == nil {
			err = v.accept(frameCancel, &body{b: binary.AppendUvarint(nil, uint64(n))})
		}
	}
	if !errors.Is(err, errProtocol) || len(v.gone) > 4*maxQueued+1 {
		t.Errorf("%d requests taken back, %d answers are waiting: %v", n, len(v.gone), err)
	}

	srv := v.srv
	for i := range maxStreams + 1 {
		if got := srv.admit(&served{srv: srv, peer: "one"}); got != (i < maxStreams) {
			t.Errorf("stream %d of one peer: admitted %v", i, got)
		}
	}
	if !srv.admit(&served{srv: srv, peer: "another"}) {
		t.Error("another peer pays for it")
	}
}

// TestHostile63Ranges: a range that no request can have ends the stream; one outside the content is only not there.
func TestHostile63Ranges(t *testing.T) {
	v, small, large, part := contentServer(t)
	for name, q := range map[string]*body{
		"longer than a chunk":    wantFrame(1, fetch.Bytes, large.Blob, 0, store.MaxChunk+1),
		"negative offset":        wantFrame(1, fetch.Bytes, large.Blob, 1<<63, 1),
		"negative length":        wantFrame(1, fetch.Bytes, large.Blob, 0, 1<<63),
		"list of 2 GiB":          wantFrame(1, fetch.List, large.Blob, 0, 1<<31+1),
		"unknown kind":           wantFrame(1, 2, large.Blob, 0, 1),
		"number of eleven bytes": {b: append([]byte{1, 0}, append(large.Blob.Bytes(), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 1)...)},
	} {
		if err := v.accept(frameWant, q); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	gone := appendFrame(nil, frameGone, []byte{1})
	for name, q := range map[string]request{
		"behind the end":                 {blob: large.Blob, offset: large.Size, length: 1},
		"across the end":                 {blob: large.Blob, offset: large.Size - 1, length: 2},
		"far behind the end":             {blob: large.Blob, offset: 1 << 62, length: 1},
		"a part of a small blob":         {blob: small.Blob, offset: 0, length: 4},
		"the end of a small blob":        {blob: small.Blob, offset: 1, length: 4},
		"more than a small blob":         {blob: small.Blob, offset: 0, length: 6},
		"a chunk that is not here":       {blob: part.Blob, offset: part.Chunks[1].Offset, length: 1},
		"across into such a chunk":       {blob: part.Blob, offset: part.Chunks[1].Offset - 1, length: 2},
		"a list longer than asked for":   {kind: fetch.List, blob: large.Blob, length: uint32(len(large.Encode()) - 1)},
		"the list of a blob without":     {kind: fetch.List, blob: small.Blob, length: 1000},
		"behind the end of a part":       {blob: part.Blob, offset: part.Size, length: 1},
		"nothing, far behind the end":    {blob: large.Blob, offset: large.Size + 1, length: 0},
		"a blob that nobody has":         {blob: store.RawCID(store.Sum([]byte("none"))), length: 1},
		"a large blob that nobody has":   {blob: store.ListCID(store.Sum([]byte("none"))), length: 1},
		"the list of a blob of nobody's": {kind: fetch.List, blob: store.ListCID(store.Sum([]byte("none"))), length: 1 << 20},
	} {
		q.id = 1
		if out, err := v.reply(nil, q); err != nil || !bytes.Equal(out, gone) {
			t.Errorf("%s: %x, %v", name, out[:min(len(out), 40)], err)
		}
	}
	for range 3 { // overlapping and repeated ranges are served
		for _, q := range []request{{id: 1, blob: large.Blob, offset: 7, length: 10}, {id: 1, blob: large.Blob, offset: 12, length: 10}, {id: 1, blob: part.Blob, offset: 0, length: 10}, {id: 1, blob: small.Blob, length: 5}} {
			out, err := v.reply(nil, q)
			if err != nil || len(out) != int(q.length)+3 || out[1] != frameData {
				t.Errorf("%d bytes at %d: %x, %v", q.length, q.offset, out[:min(len(out), 40)], err)
			}
		}
	}
}

// TestHostile64NotForYou: what is not given, for whatever reason, looks like what was never heard of. What belongs to no release that
// the requester has named is not even looked for, so an answer takes no more or less time when it is here.
func TestHostile64NotForYou(t *testing.T) {
	v, small, _, part := contentServer(t)
	unknown, err := v.reply(nil, request{id: 9, blob: store.RawCID(store.Sum([]byte("unknown"))), length: 5})
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range []request{
		{id: 9, blob: small.Blob, offset: 1, length: 4},
		{id: 9, blob: part.Blob, offset: part.Chunks[1].Offset, length: part.Chunks[1].Size},
		{id: 9, kind: fetch.List, blob: store.ListCID(store.Sum([]byte("unknown"))), length: 1000},
	} {
		if out, err := v.reply(nil, q); err != nil || !bytes.Equal(out, unknown) {
			t.Errorf("answer %x to %+v, %x to an unknown blob, %v", out, q, unknown, err)
		}
	}
	v.queue = []request{{id: 9, blob: small.Blob, length: 5}}
	if err := v.accept(frameCancel, &body{b: []byte{9}}); err != nil {
		t.Fatal(err)
	}
	if out, _ := v.control(nil); !bytes.Equal(out, unknown) {
		t.Errorf("answer %x to what was taken back", out)
	}
	v.srv.store = nil // whoever looks panics
	clear(v.watches)
	v.watches[part.Blob] = &watch{} // not looked at yet
	v.watches[store.RawCID(store.Sum([]byte("other")))] = &watch{gives: &contents{manifest: store.RawCID(store.Sum([]byte("other"))), blobs: []uint64{1}}}
	for _, q := range []request{{id: 9, blob: small.Blob, length: 5}, {id: 9, kind: fetch.List, blob: part.Blob, length: 1000}} {
		if out, err := v.reply(nil, q); err != nil || !bytes.Equal(out, unknown) {
			t.Errorf("answer %x to %+v, of no release that was named, %x to an unknown blob, %v", out, q, unknown, err)
		}
	}
}

// TestContentsAreReadOnce: a manifest is read at the first watch, not at every; what is no release any more is forgotten
// when there is much to remember; before its manifest is here, only that is given of a release.
func TestContentsAreReadOnce(t *testing.T) {
	st, err := store.Open(t.TempDir())
	check(t, err)
	t.Cleanup(func() { st.Close() })
	srv := newServer(st, slog.New(slog.DiscardHandler))
	gone := map[cid.Cid]bool{}
	srv.holdings = func(m cid.Cid) (fetch.HaveMap, bool) { return fetch.HaveMap{}, !gone[m] }
	put := func(seq uint64) (cid.Cid, []manifest.Blob) {
		a := announce.Announcement{Product: "lessons", Epoch: 1, Seq: seq, Version: "v"}
		signInto(t, st, &a, map[string]string{"x": random(100)})
		list, err := st.Manifest(a.Manifest)
		check(t, err)
		return a.Manifest, list.Blobs()
	}
	first, blobs := put(1)
	_, c := srv.look(first)
	if _, again := srv.look(first); c != again {
		t.Error("read twice")
	}
	_, others := put(2)
	if !c.has(first) || !c.has(blobs[0].CID) || c.has(others[0].CID) {
		t.Errorf("%v gives its manifest %v, its blob %v, another's %v", c, c.has(first), c.has(blobs[0].CID), c.has(others[0].CID))
	}
	coming := store.RawCID(store.Sum([]byte("coming")))
	if _, c := srv.look(coming); !c.has(coming) || c.has(blobs[0].CID) || srv.known[coming] != nil {
		t.Error("before its manifest is here, only that belongs to a release, and only for now")
	}
	gone[first] = true
	if _, c := srv.look(first); c.has(first) || c.has(blobs[0].CID) {
		t.Error("what is no release here is given to whoever names it")
	}
	for seq := uint64(3); len(srv.known) < maxWatches; seq++ {
		m, _ := put(seq)
		srv.look(m)
	}
	last, _ := put(1000)
	if srv.look(last); srv.known[first] != nil || srv.known[last] == nil || len(srv.known) != maxWatches {
		t.Errorf("%d manifests are remembered, among them one that is no release here: %v", len(srv.known), srv.known[first] != nil)
	}
}

// TestMapBeforeContent: requests that come on the heels of a watch wait until it is known what belongs to it.
func TestMapBeforeContent(t *testing.T) {
	v, small, _, _ := contentServer(t)
	v.srv.holdings = func(cid.Cid) (fetch.HaveMap, bool) { return fetch.HaveMap{}, false }
	check(t, v.accept(frameWant, wantFrame(1, fetch.Bytes, small.Blob, 0, 5)))
	check(t, v.accept(frameWatch, &body{b: small.Blob.Bytes()}))
	if got := v.take(); len(got) != 0 {
		t.Fatalf("%d requests are answered before the map is sent", len(got))
	}
	if out, _ := v.control(nil); len(out) == 0 {
		t.Error("no map")
	}
	if got := v.take(); len(got) != 1 {
		t.Errorf("%d requests are answered after the map, want 1", len(got))
	}
}
