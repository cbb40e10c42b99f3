package p2p

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
	"satchel/store/manifest"
)

const testPatience = time.Minute

// testNode is a node on loopback that trusts key.
func testNode(t *testing.T, key announce.PrivateKey, peers ...string) *Node {
	t.Helper()
	var log *slog.Logger
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", t.Name())
	}
	n, err := Open(Config{Home: t.TempDir(), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoDiscovery: true, Peers: peers, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ids := []announce.KeyID{key.Public().ID()}
	role := announce.RoleRule{Keys: ids, Threshold: 1}
	root, err := (&announce.Root{Version: 1, Keys: []announce.PublicKey{key.Public()}, Roles: map[announce.Role]announce.RoleRule{announce.RoleRoot: role},
		Products: []announce.ProductRule{{Pattern: "*", Epoch: 1, Keys: ids, Threshold: 1, Class: announce.ClassContent}}}).Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Trust(root, false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		n.Close()
	})
	await(t, n, func(s Status) bool { return s.Running && len(s.Node.Addrs) > 0 })
	return n
}

func await(t *testing.T, n *Node, cond func(Status) bool) Status {
	t.Helper()
	end := time.After(testPatience)
	for {
		changed := n.Changed()
		s := n.Status()
		if cond(s) {
			return s
		}
		select {
		case <-changed:
		case <-end:
			t.Fatalf("waited too long: %+v", s)
		}
	}
}

func publishTree(t *testing.T, n *Node, key announce.PrivateKey, seq uint64, files map[string][]byte) {
	t.Helper()
	publishProduct(t, n, key, "p", seq, files)
}

func publishProduct(t *testing.T, n *Node, key announce.PrivateKey, product string, seq uint64, files map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	res, err := n.Store().Publish(context.Background(), dir, store.PublishOptions{Header: manifest.Header{Product: product, Epoch: 1, Seq: seq, Version: "v"}})
	if err != nil {
		t.Fatal(err)
	}
	env, err := (&announce.Announcement{Product: product, RootVer: 1, Epoch: 1, Seq: seq, Version: "v", Manifest: res.Manifest,
		ManifestSize: res.ManifestSize, TotalSize: res.TotalSize}).Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Announce(env); err != nil {
		t.Fatal(err)
	}
}

func testKey(t *testing.T) announce.PrivateKey {
	t.Helper()
	key, err := announce.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// stranger is a bare host that speaks the content protocol as serve says.
func stranger(t *testing.T, target string, serve func(network.Stream)) host.Host {
	t.Helper()
	key, _, err := crypto.GenerateKeyPair(crypto.Ed25519, -1)
	if err != nil {
		t.Fatal(err)
	}
	h, err := newHost(key, nil, false, newGater(), "stranger")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	h.SetStreamHandler(protoBlobs, serve)
	h.SetStreamHandler(protoCatalog, func(s network.Stream) { s.Reset() })
	a, err := ma.NewMultiaddr(target)
	if err != nil {
		t.Fatal(err)
	}
	info, err := peer.AddrInfoFromP2pAddr(a)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	if err := h.Connect(ctx, *info); err != nil {
		t.Fatal(err)
	}
	return h
}

// claims serves as a holder of everything would, and answers each request with lie.
func claims(lie func(s network.Stream, id uint64, kind fetch.Kind, length int)) func(network.Stream) {
	return func(s network.Stream) {
		r := bufio.NewReader(s)
		for {
			typ, raw, err := readFrame(r, maxRequestFrame)
			if err != nil {
				return
			}
			b := &body{b: raw}
			switch typ {
			case frameWatch:
				s.Write(appendFrame(nil, frameHaveMap, b.cid("manifest").Bytes(), encodeHaveMap(fetch.HaveMap{All: true, Manifest: true})))
			case frameWant:
				for b.more() {
					id, kind := b.uvarint("id"), fetch.Kind(b.byte("kind"))
					b.cid("blob")
					b.uvarint("offset")
					lie(s, id, kind, int(b.uvarint("length")))
				}
			}
		}
	}
}

func dataFrame(id uint64, data []byte) []byte {
	return appendFrame(nil, frameData, binary.AppendUvarint(nil, id), data)
}

// A neighbour that lies costs only itself: the fetch ends with the right content, the liar is shut out, the
// honest one is not.
func TestLiars(t *testing.T) {
	content := make([]byte, 3<<20)
	rand.Read(content)
	small := make([]byte, 1000)
	rand.Read(small)
	for name, lie := range map[string]func(s network.Stream, id uint64, kind fetch.Kind, length int){
		"wrong bytes": func(s network.Stream, id uint64, _ fetch.Kind, length int) {
			s.Write(dataFrame(id, make([]byte, min(length, 4096))))
		},
		"wrong bytes of the right length": func(s network.Stream, id uint64, kind fetch.Kind, length int) {
			s.Write(dataFrame(id, make([]byte, min(length, store.MaxChunk))))
		},
		"more bytes than asked for": func(s network.Stream, id uint64, _ fetch.Kind, length int) {
			s.Write(dataFrame(id, make([]byte, min(length+1, store.MaxChunk+1))))
		},
		"endless parts": func(s network.Stream, id uint64, _ fetch.Kind, _ int) {
			for range 1000 {
				if _, err := s.Write(appendFrame(nil, framePart, binary.AppendUvarint(nil, id), make([]byte, 64<<10))); err != nil {
					return
				}
			}
		},
		"a frame that never ends": func(s network.Stream, _ uint64, _ fetch.Kind, _ int) {
			s.Write([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 16})
		},
		"unknown frame": func(s network.Stream, _ uint64, _ fetch.Kind, _ int) { s.Write(appendFrame(nil, 99)) },
		"unasked reply": func(s network.Stream, id uint64, _ fetch.Kind, _ int) { s.Write(dataFrame(id+1_000_000, []byte("x"))) },
		"have-map out of range": func(s network.Stream, _ uint64, _ fetch.Kind, _ int) {
			s.Write(appendFrame(nil, frameHaveMap, []byte{1}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			key := testKey(t)
			pub := testNode(t, key)
			publishTree(t, pub, key, 1, map[string][]byte{"big": content, "small": small})
			victim := testNode(t, key)
			var lied atomic.Int64
			told := make(chan struct{}, 1)
			liar := stranger(t, victim.Status().Node.Addrs[0], claims(func(s network.Stream, id uint64, kind fetch.Kind, length int) {
				lied.Add(1)
				lie(s, id, kind, length)
				select {
				case told <- struct{}{}:
				default:
				}
			}))
			await(t, victim, func(s Status) bool { return len(s.Neighbours) == 1 })
			if err := victim.Carry("p"); err != nil {
				t.Fatal(err)
			}
			_, env, _ := latest(pub, "p")
			var res announce.Result
			victim.do(func() { // the news reaches it while the liar is all it has
				res = victim.learn(env, "")
				victim.catalogChanged(false)
			})
			if res.Verdict != announce.Accept {
				t.Fatal(res.Reason)
			}
			<-told
			await(t, victim, func(Status) bool {
				bad := false
				victim.do(func() { bad = victim.net.gater.banned(liar.ID()) })
				return bad
			})
			connectNodes(t, victim, pub)
			s := await(t, victim, func(s Status) bool { return s.Products[0].State == StateHeld })
			if from := s.Products[0].Fetch.BytesBySource; from[liar.ID().String()] != 0 || from[pub.ID()] == 0 {
				t.Errorf("bytes by source: %v", from)
			}
			victim.do(func() {
				if victim.net.gater.banned(pub.id) {
					t.Error("the honest neighbour is blamed too")
				}
			})
			if lied.Load() == 0 {
				t.Error("the liar was never asked")
			}
		})
	}
}

func latest(n *Node, product string) (a announce.Announcement, env []byte, ok bool) {
	n.do(func() { a, env, ok = n.catalog.Latest(product) })
	return
}

func connectNodes(t *testing.T, a, b *Node) {
	t.Helper()
	info, err := parsePeer(b.Status().Node.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	a.do(func() { a.net.table.configure(info, time.Now()); a.dial() })
	await(t, a, func(s Status) bool {
		for _, n := range s.Neighbours {
			if n.ID == b.ID() {
				return true
			}
		}
		return false
	})
}

// A neighbour that gives one byte at a time holds nobody up while another has the content.
func TestSlowNeighbour(t *testing.T) {
	key := testKey(t)
	content := make([]byte, 2<<20)
	rand.Read(content)
	pub := testNode(t, key)
	publishTree(t, pub, key, 1, map[string][]byte{"big": content})
	victim := testNode(t, key, pub.Status().Node.Addrs[0])
	stop := make(chan struct{})
	defer close(stop)
	slow := stranger(t, victim.Status().Node.Addrs[0], claims(func(s network.Stream, id uint64, _ fetch.Kind, length int) {
		s.Write(binary.AppendUvarint(nil, uint64(length)+2)) // a beginning, and then nothing
		<-stop
	}))
	await(t, victim, func(s Status) bool { return len(s.Neighbours) == 2 })
	if err := victim.Carry("p"); err != nil {
		t.Fatal(err)
	}
	s := await(t, victim, func(s Status) bool { return len(s.Products) == 1 && s.Products[0].State == StateHeld })
	if n := s.Products[0].Fetch.BytesBySource[slow.ID().String()]; n != 0 {
		t.Errorf("%d bytes came from the neighbour that gives none", n)
	}
}

// Requesters that break the protocol lose their connection, and the node lives on.
func TestHostileRequesters(t *testing.T) {
	key := testKey(t)
	n := testNode(t, key)
	publishTree(t, n, key, 1, map[string][]byte{"a": []byte("abc")})
	c := store.RawCID(store.Sum([]byte("abc"))).Bytes()
	want := func(id, offset, length uint64) []byte {
		b := append(binary.AppendUvarint(nil, id), 0)
		b = append(b, c...)
		return binary.AppendUvarint(binary.AppendUvarint(b, offset), length)
	}
	var flood []byte
	for i := range uint64(600) {
		flood = append(flood, want(i, 0, 3)...)
	}
	for name, frames := range map[string][]byte{
		"endless frame":      {0xff, 0xff, 0xff, 0xff, 0x7f},
		"unknown type":       appendFrame(nil, 77, []byte("x")),
		"truncated request":  appendFrame(nil, frameWant, want(1, 0, 3)[:20]),
		"oversized range":    appendFrame(nil, frameWant, want(1, 0, store.MaxChunk+1)),
		"too many at once":   appendFrame(appendFrame(nil, frameWant, flood), frameWant, flood),
		"not a CID of ours":  appendFrame(nil, frameWatch, make([]byte, 36)),
		"65 manifests":       manyWatches(),
		"bytes, not a frame": []byte("GET / HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-Padding: x\r\n", 20) + "\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			h := stranger(t, n.Status().Node.Addrs[0], func(s network.Stream) { s.Reset() })
			ctx, cancel := context.WithTimeout(context.Background(), testPatience)
			defer cancel()
			s, err := h.NewStream(ctx, n.id, protoBlobs)
			if err != nil {
				t.Fatal(err)
			}
			s.Write(frames)
			s.SetReadDeadline(time.Now().Add(testPatience))
			buf := make([]byte, 1<<16)
			for err == nil {
				_, err = s.Read(buf)
			}
			if os.IsTimeout(err) || strings.Contains(err.Error(), "deadline") {
				t.Errorf("the stream is still open: %v", err)
			}
			if name == "too many at once" {
				return // depends on how quickly they are answered
			}
			await(t, n, func(Status) bool {
				bad := false
				n.do(func() { bad = n.net.gater.banned(h.ID()) })
				return bad
			})
		})
	}
	// A range outside the blob is no crime, it is only not there.
	h := stranger(t, n.Status().Node.Addrs[0], func(s network.Stream) { s.Reset() })
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	s, err := h.NewStream(ctx, n.id, protoBlobs)
	if err != nil {
		t.Fatal(err)
	}
	m, err := cid.Decode(n.Status().Products[0].Newest.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	s.Write(appendFrame(nil, frameWatch, m.Bytes()))
	s.Write(appendFrame(nil, frameWant, want(7, 2, 5)))
	s.Write(appendFrame(nil, frameWant, want(8, 0, 3)))
	r := bufio.NewReader(s)
	if typ, _, err := readFrame(r, maxReplyFrame); err != nil || typ != frameHaveMap {
		t.Errorf("watching: frame %d, %v", typ, err)
	}
	if typ, b, err := readFrame(r, maxReplyFrame); err != nil || typ != frameGone || b[0] != 7 {
		t.Errorf("range outside: frame %d %x, %v", typ, b, err)
	}
	if typ, b, err := readFrame(r, maxReplyFrame); err != nil || typ != frameData || string(b[1:]) != "abc" {
		t.Errorf("range inside: frame %d %x, %v", typ, b, err)
	}
}

func manyWatches() (b []byte) {
	for i := range maxWatches + 1 {
		b = appendFrame(b, frameWatch, store.RawCID(store.Sum([]byte{byte(i)})).Bytes())
	}
	return b
}

// A whole class behind one IPv6 prefix may connect: libp2p's own limit is eight.
func TestClassBehindOnePrefix(t *testing.T) {
	for _, form := range []string{"/ip6/fd00::", "/ip6/fe80::", "/ip6/2001:db8::", "/ip4/10.0.0."} {
		rm, err := newResourceManager()
		if err != nil {
			t.Fatal(err)
		}
		defer rm.Close()
		for i := 1; i <= 30; i++ {
			a := addr(t, form+strings.TrimLeft(string(rune('0'+i/10)), "0")+string(rune('0'+i%10))+"/tcp/4001")
			scope, err := rm.OpenConnection(network.DirInbound, true, a)
			if err != nil {
				t.Fatalf("connection %d from %s: %v", i, form, err)
			}
			defer scope.Done()
			if i%8 == 0 { // a connection leaves the transient scope when its peer is known
				runtime.Gosched()
			}
			p := peer.ID(form + string(rune('0'+i)))
			if err := scope.SetPeer(p); err != nil {
				t.Fatalf("connection %d from %s: %v", i, form, err)
			}
		}
	}
}

// With no author on messages libp2p's own ids are all empty, and all but the first message would be lost.
func TestMessageIDs(t *testing.T) {
	key := testKey(t)
	sign := func(seq uint64, keys ...announce.PrivateKey) []byte {
		env, err := (&announce.Announcement{Product: "p", RootVer: 1, Epoch: 1, Seq: seq, Version: "v",
			Manifest: store.RawCID(store.Sum(nil)), ManifestSize: 1}).Sign(keys...)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	id := func(b []byte) string { return messageID(&pb.Message{Data: b}) }
	one, two, more := sign(1, key), sign(2, key), sign(1, key, testKey(t))
	if id(one) == id(two) || id(one) != id(more) || len(id(nil)) == 0 {
		t.Error("ids do not name payloads, and payloads only")
	}
	g := &gossip{}
	if err := g.publish(context.Background(), make([]byte, announce.MaxEnvelope+1)); err == nil {
		t.Error("an oversized message was published")
	}
}

func TestSleepIsNoticed(t *testing.T) {
	now := time.Now()
	if slept(time.Time{}, now) || slept(now, now.Add(20*time.Second)) {
		t.Error("time that passed is taken for sleep")
	}
	if back := now.Add(-time.Hour); slept(now, back) {
		t.Error("a clock that was set back is taken for sleep")
	}
}

// Starting and stopping leaves nothing behind.
func TestNoGoroutineIsLeft(t *testing.T) {
	run := func() {
		n, err := Open(Config{Home: t.TempDir(), Listen: []string{"/ip4/127.0.0.1/tcp/0"}, NoDiscovery: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		await(t, n, func(s Status) bool { return s.Running })
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		n.Close()
	}
	run() // libraries start some of their own once
	before := runtime.NumGoroutine()
	for range 5 {
		run()
	}
	end := time.Now().Add(testPatience)
	for runtime.NumGoroutine() > before+5 {
		if time.Now().After(end) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), buf[:runtime.Stack(buf, true)])
		}
		runtime.Gosched()
	}
}

// A watcher that asks about a manifest that nobody has yet is told when it comes.
func TestWatchBeforeItIsThere(t *testing.T) {
	srv := newServer(nil, slog.New(slog.DiscardHandler))
	m := store.RawCID(store.Sum([]byte("m")))
	v := &served{srv: srv, wake: make(chan struct{}, 1), watches: map[cid.Cid]*watch{}}
	srv.streams[v] = struct{}{}
	srv.holdings = func(cid.Cid) (fetch.HaveMap, bool) { return fetch.HaveMap{}, false }
	if err := v.accept(frameWatch, &body{b: m.Bytes()}); err != nil {
		t.Fatal(err)
	}
	out, _ := v.control(nil)
	if typ, _, err := readFrame(reader(out), maxReplyFrame); err != nil || typ != frameHaveMap {
		t.Fatalf("first answer is frame %d, %v", typ, err)
	}
	srv.news(m, []fetch.Have{{Blob: 3, Chunk: -1}}, false)
	v.watches[m].due = time.Now()
	out, _ = v.control(nil)
	typ, b, err := readFrame(reader(out), maxReplyFrame)
	if err != nil || typ != frameHave {
		t.Fatalf("news is frame %d, %v", typ, err)
	}
	if hs, err := decodeHaves(&body{b: b[cidLen:]}); err != nil || len(hs) != 1 || hs[0].Blob != 3 {
		t.Errorf("news is %v, %v", hs, err)
	}
	srv.news(m, make([]fetch.Have, maxNews+1), false)
	if w := v.watches[m]; !w.whole || w.news != nil {
		t.Error("too much news is kept one by one")
	}
}

// Two nodes that dial each other at once end as neighbours, and news goes both ways.
func TestBothDialAtOnce(t *testing.T) {
	key := testKey(t)
	for range 5 {
		a, b := testNode(t, key), testNode(t, key)
		infoA, err := parsePeer(a.Status().Node.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		infoB, err := parsePeer(b.Status().Node.Addrs[0])
		if err != nil {
			t.Fatal(err)
		}
		a.do(func() { a.net.table.configure(infoB, time.Now()) })
		b.do(func() { b.net.table.configure(infoA, time.Now()) })
		a.post(a.dial)
		b.post(b.dial)
		met := func(s Status) bool { return len(s.Neighbours) == 1 }
		await(t, a, met)
		await(t, b, met)
		publishTree(t, a, key, 1, map[string][]byte{"x": []byte("a")})
		await(t, b, func(s Status) bool { return len(s.Products) == 1 && s.Products[0].Newest.Seq == 1 })
		publishTree(t, b, key, 2, map[string][]byte{"x": []byte("b")})
		await(t, a, func(s Status) bool { return s.Products[0].Newest.Seq == 2 })
	}
}

// To the dialler a refusal looks like a connection for a moment; it must not count as one, nor be tried in a hurry.
func TestRefusedDialIsAFailure(t *testing.T) {
	key := testKey(t)
	a, b := testNode(t, key), testNode(t, key)
	a.do(func() { a.net.gater.ban(b.id, time.Now()) })
	info, err := parsePeer(a.Status().Node.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	b.do(func() { b.net.table.configure(info, time.Now()) })
	b.post(b.dial)
	await(t, b, func(Status) bool {
		patient := false
		b.do(func() {
			k := b.net.table.known[a.id]
			patient = !k.connected && k.patience >= 4*time.Second
			if !k.connected && k.patience > 0 && k.due.After(time.Now()) { // not to wait for it
				k.due = time.Now()
				b.dial()
			}
		})
		return patient
	})
}

// A document that names a newer root makes a node ask for it, once in a while, not in a loop.
func TestNewerRootIsAskedForOnce(t *testing.T) {
	key := testKey(t)
	a, b := testNode(t, key), testNode(t, key)
	connectNodes(t, a, b)
	await(t, a, func(s Status) bool { return len(s.Neighbours) == 1 && s.Neighbours[0].Catalog == "same" })
	env, err := (&announce.Announcement{Product: "p", RootVer: 9, Epoch: 1, Seq: 1, Version: "v",
		Manifest: store.RawCID(store.Sum(nil)), ManifestSize: 1}).Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	before := 0
	a.do(func() { before = a.ex.begun })
	for range 100 {
		if v := a.validate(b.id, env).Verdict; v != announce.Ignore {
			t.Fatalf("verdict %v", v)
		}
	}
	// What an exchange brings does not begin another one either.
	a.do(func() {
		a.ex.running[b.id] = true
		a.visited(b.id, a.view(), &visit{announcements: [][]byte{env}}, nil)
		if n := a.ex.begun - before; n > 1 {
			t.Errorf("%d exchanges for one newer root", n)
		}
	})
}

// An exchange that failed is repeated while the connection lasts.
func TestLostExchangeIsRepeated(t *testing.T) {
	key := testKey(t)
	pub, l := testNode(t, key), testNode(t, key)
	publishTree(t, pub, key, 1, map[string][]byte{"a": []byte("a")})
	var lost atomic.Int64
	pub.net.host.SetStreamHandler(protoCatalog, func(s network.Stream) {
		if lost.Add(1) == 1 {
			s.Reset()
			return
		}
		pub.answer(s)
	})
	// Also what the publisher asks is lost, or its question would bring the answer.
	l.net.host.SetStreamHandler(protoCatalog, func(s network.Stream) { s.Reset() })
	connectNodes(t, l, pub)
	until(t, "the loss", func() bool {
		failed := false
		l.do(func() { failed = lost.Load() == 1 && !l.ex.running[pub.id] })
		return failed
	})
	l.do(func() {
		if next := time.Until(l.ex.next[pub.id]); next <= 0 || next > againAfterError {
			t.Errorf("it is repeated in %v", next)
		}
		l.repeatExchange(pub.id, time.Now().Add(againAfterError))
	})
	await(t, l, func(s Status) bool { return len(s.Products) == 1 })
}

// Many products are fetched a few at a time, and nobody is blamed for their number.
func TestManyProducts(t *testing.T) {
	const many = 80
	key := testKey(t)
	pub, l := testNode(t, key), testNode(t, key)
	for i := range many {
		publishProduct(t, pub, key, "p"+string(rune('a'+i/26))+string(rune('a'+i%26)), 1, map[string][]byte{"a": {byte(i)}})
	}
	if err := l.Carry("*"); err != nil {
		t.Fatal(err)
	}
	connectNodes(t, l, pub)
	await(t, l, func(s Status) bool {
		held := 0
		for _, p := range s.Products {
			if p.State == StateHeld {
				held++
			}
		}
		l.do(func() {
			if len(l.sessions) > maxFetches {
				t.Errorf("%d fetches at once", len(l.sessions))
			}
			if l.net.gater.banned(pub.id) {
				t.Error("publisher blamed")
			}
		})
		return held == many
	})
}

// A store that lost files behind the node's back gets them again, and an image directory that went away is
// made anew.
func TestThingsGoMissing(t *testing.T) {
	key := testKey(t)
	pub, l := testNode(t, key), testNode(t, key)
	publishTree(t, pub, key, 1, map[string][]byte{"a": []byte("a"), "b": make([]byte, 400_000)})
	img := filepath.Join(t.TempDir(), "img")
	if err := l.Follow("p", img); err != nil {
		t.Fatal(err)
	}
	connectNodes(t, l, pub)
	await(t, l, func(s Status) bool { return len(s.Products) == 1 && s.Products[0].State == StateReady })
	shards, err := filepath.Glob(filepath.Join(l.cfg.Home, "store", "blobs", "*"))
	if err != nil || len(shards) == 0 {
		t.Fatalf("no blobs: %v", err)
	}
	for _, dir := range shards {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
	}
	if res, err := l.Verify(context.Background(), nil); err != nil || res.Damaged == 0 || res.Repaired != res.Damaged {
		t.Errorf("verify: %+v, %v", res, err)
	}
	if err := os.RemoveAll(img); err != nil {
		t.Fatal(err)
	}
	publishTree(t, pub, key, 2, map[string][]byte{"a": []byte("c"), "b": make([]byte, 400_000)})
	await(t, l, func(s Status) bool {
		l.do(func() { // not to wait for its next attempt
			for _, line := range l.lines {
				if !line.retryAt.IsZero() {
					line.retryAt = time.Now()
				}
			}
			l.retryLines()
		})
		return s.Products[0].State == StateReady && s.Products[0].Ready.Seq == 2
	})
}

// Pruning does not wait for content that nobody has.
func TestPruneWhileAFetchWaits(t *testing.T) {
	key := testKey(t)
	pub, l := testNode(t, key), testNode(t, key)
	publishTree(t, pub, key, 1, map[string][]byte{"a": []byte("a")})
	_, env, _ := latest(pub, "p")
	if err := l.Carry("p"); err != nil {
		t.Fatal(err)
	}
	l.do(func() { l.learn(env, ""); l.catalogChanged(false) })
	await(t, l, func(s Status) bool { return s.Products[0].State == StateFetching })
	if _, err := l.Prune(context.Background(), UsualPrune); err != nil {
		t.Fatal(err)
	}
	connectNodes(t, l, pub)
	await(t, l, func(s Status) bool { return s.Products[0].State == StateHeld })
	if _, err := l.Prune(context.Background(), UsualPrune); err != nil {
		t.Fatal(err)
	}
	if err := l.checkWhole(mustLatest(t, l, "p").Manifest); err != nil {
		t.Errorf("pruning took what is carried: %v", err)
	}
	if err := l.Uncarry("p"); err != nil {
		t.Fatal(err)
	}
	if res, err := l.Prune(context.Background(), UsualPrune); err != nil || res.Blobs == 0 {
		t.Errorf("what nobody wants any more is not given back: %+v, %v", res, err)
	}
	if _, err := pub.Prune(context.Background(), UsualPrune); err != nil {
		t.Fatal(err)
	}
	if err := pub.checkWhole(mustLatest(t, pub, "p").Manifest); err != nil {
		t.Errorf("pruning took what was published here: %v", err)
	}
}

func mustLatest(t *testing.T, n *Node, product string) announce.Announcement {
	t.Helper()
	a, _, ok := latest(n, product)
	if !ok {
		t.Fatalf("%s is not known", product)
	}
	return a
}
