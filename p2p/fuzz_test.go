package p2p

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
)

func reader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }

// FuzzRequests: whatever a requester sends, the server answers with an error or keeps its limits.
func FuzzRequests(f *testing.F) {
	c := store.RawCID(store.Sum([]byte("x"))).Bytes()
	f.Add(appendFrame(nil, frameWant, []byte{1, 0}, c, []byte{0, 5}))
	f.Add(appendFrame(nil, frameCancel, []byte{1, 2, 3}))
	f.Add(append(appendFrame(nil, frameWatch, c), appendFrame(nil, frameUnwatch, c)...))
	f.Add(appendFrame(nil, frameWant, bytes.Repeat([]byte{0xff}, 50)))
	f.Fuzz(func(t *testing.T, data []byte) {
		v := &served{srv: newServer(nil, slog.New(slog.DiscardHandler)), wake: make(chan struct{}, 1), watches: map[cid.Cid]*watch{}}
		r := reader(data)
		for {
			typ, b, err := readFrame(r, maxRequestFrame)
			if err != nil || v.accept(typ, &body{b: b}) != nil {
				break
			}
		}
		if len(v.queue) > maxQueued || len(v.watches) > maxWatches {
			t.Fatalf("%d requests, %d watches", len(v.queue), len(v.watches))
		}
		for _, q := range v.queue {
			if q.kind == fetch.Bytes && q.length > store.MaxChunk {
				t.Fatalf("request of %d bytes was taken", q.length)
			}
		}
	})
}

// FuzzReplies: whatever a server sends, the asker takes only what answers a request, in the length asked for.
func FuzzReplies(f *testing.F) {
	m := store.RawCID(store.Sum([]byte("m")))
	f.Add(appendFrame(nil, frameData, []byte{1}, []byte("abcde")))
	f.Add(appendFrame(nil, framePart, []byte{2}, []byte("ab")))
	f.Add(appendFrame(nil, frameGone, []byte{1, 2}))
	f.Add(appendFrame(nil, frameHaveMap, m.Bytes(), encodeHaveMap(fetch.HaveMap{Manifest: true, Blobs: []byte{0x80}})))
	f.Add(appendFrame(nil, frameHave, m.Bytes(), encodeHaves([]fetch.Have{{Blob: 3, Chunk: -1}, {Blob: fetch.ManifestBlob, Chunk: 9}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := &asker{wake: make(chan struct{}, 1), pending: map[uint64]*asked{}, wire: map[sessionRequest]uint64{},
			sessions: map[cid.Cid]*attached{}, log: slog.New(slog.DiscardHandler), received: func(peer.ID, int) {}}
		r := reader(data)
		for {
			typ, b, err := readFrame(r, maxReplyFrame)
			if err != nil {
				return
			}
			if typ == frameData || typ == framePart || typ == frameGone {
				// Nothing was asked for: any reply is a lie.
				if err := a.accept(typ, &body{b: b}); err == nil && len(b) > 0 {
					t.Fatalf("reply of type %d was taken: %x", typ, b)
				}
				return
			}
			if a.accept(typ, &body{b: b}) != nil {
				return
			}
		}
	})
}

// FuzzHaves: what is read and written again is the same.
func FuzzHaves(f *testing.F) {
	f.Add(encodeHaves([]fetch.Have{{Blob: 3, Chunk: -1, List: true}, {Blob: 7, Chunk: 12}}))
	f.Add(encodeHaveMap(fetch.HaveMap{All: true}))
	f.Add(encodeHaveMap(fetch.HaveMap{Blobs: []byte{1, 2}, Partial: []fetch.PartialHave{{Blob: 1, Chunks: []byte{0x40}}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if hs, err := decodeHaves(&body{b: data}); err == nil {
			again, err := decodeHaves(&body{b: encodeHaves(hs)})
			if err != nil || len(again) != len(hs) {
				t.Fatalf("%v became %v, %v", hs, again, err)
			}
		}
		if m, err := decodeHaveMap(&body{b: data}); err == nil {
			again, err := decodeHaveMap(&body{b: encodeHaveMap(m)})
			if err != nil || !bytes.Equal(again.Blobs, m.Blobs) || len(again.Partial) != len(m.Partial) {
				t.Fatalf("%v became %v, %v", m, again, err)
			}
		}
	})
}

// FuzzExchange: no answer to a catalog question can hang or crash the asker's reading of it.
func FuzzExchange(f *testing.F) {
	h := encodeHead(announce.Head{Product: "lessons", Epoch: 1, Seq: 2})
	f.Add(append(appendFrame(nil, frameHead, h), appendFrame(nil, frameEnd)...))
	f.Add(append(appendFrame(nil, frameAnnouncement, []byte("x")), appendFrame(nil, frameEnd)...))
	f.Add(appendFrame(nil, frameAskProducts, []byte("\x07lessons")))
	f.Fuzz(func(t *testing.T, data []byte) {
		mine := &catalogView{envelopes: map[string][]byte{"lessons": {1}}}
		if want, err := readHeads(reader(data), mine); err == nil {
			encodeWants(rootName{}, rootName{version: 1}, want)
		}
		v := &visit{asked: 2}
		v.readDocuments(reader(data))
		answerWants(reader(data), bufio.NewWriter(io.Discard), mine)
	})
}
