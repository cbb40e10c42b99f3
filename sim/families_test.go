package sim_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
)

var families = []family{
	{name: "censors", what: "take part, forward nothing, serve nothing"},
	{name: "sybils", what: "are four to one, and forward nothing", hosts: 48, bound: time.Minute},
	{name: "four of five", what: "are all but two of everyone's neighbours, and do what all the others do", hosts: 8, path: true, bound: 2 * time.Minute, setup: everything, attack: mayhem},
	{name: "cold boot", what: "are there first and flood from the beginning", shut: true,
		attack: every(500*time.Millisecond, func(e *hostile, i int) []byte {
			return join(message(random(e, i, 200)), graft(topic), ihave(randomIDs(e, i, 50)...))
		})},
	{name: "covert flash", what: "behave until they strike all at once", shut: true, setup: func(e *hostile) { e.h.SetStreamHandler(protoCatalog, e.later(sayNothing, e.junkHeads)) },
		attack: func(e *hostile) {
			if e.sleep(releaseTimes[len(releaseTimes)-1] - 10*time.Second) {
				e.struck.Store(true)
				mayhem(e)
			}
		}},
	{name: "newcomers", what: "come again and again under new names, each with a burst of forgeries", attack: newcomers},

	{name: "garbage", what: "gossip what does not parse", shut: true,
		attack: every(time.Second, func(e *hostile, i int) []byte { return message(random(e, i, 300)) })},
	{name: "forgeries", what: "gossip new releases that a stranger signed", shut: true,
		attack: every(time.Second, func(e *hostile, i int) []byte { return message(forged(e, i)) })},
	{name: "forged echoes", what: "gossip each true release before it comes, with false signatures: its id is theirs first",
		before: func(e *hostile, env []byte) {
			for i := range 3 {
				e.all(message(spoiled(env, i)))
			}
		}},
	{name: "signature games", what: "gossip each true release with signatures reordered, repeated, dropped and added, before it comes and after", shut: true,
		before: func(e *hostile, env []byte) {
			bad, _ := variants(env)
			for _, v := range bad {
				e.all(message(v))
			}
		},
		behind: func(e *hostile, env []byte) {
			_, good := variants(env)
			for _, v := range good {
				e.all(message(v))
			}
		}},
	{name: "replays", what: "gossip old releases again and again", before: func(e *hostile, env []byte) { e.mu.Lock(); e.old = append(e.old, env); e.mu.Unlock() },
		attack: every(2*time.Second, func(e *hostile, i int) (rpc []byte) {
			e.mu.Lock()
			defer e.mu.Unlock()
			if i%2 == 0 && len(e.old) > 0 {
				e.old = e.old[:len(e.old):len(e.old)]
				for _, env := range e.old[:len(e.old)-1] { // the newest is still news
					rpc = append(rpc, message(env)...)
				}
			}
			return rpc
		})},
	{name: "oversized", what: "gossip documents over their limit, frames over theirs, and bytes that are no frame",
		attack: every(5*time.Second, func(e *hostile, i int) []byte {
			switch i % 4 {
			case 0:
				return message(random(e, i, 513))
			case 1:
				return message(random(e, i, 15<<10))
			case 2:
				return message(random(e, i, 17<<10))
			}
			return random(e, i, 500)
		})},
	{name: "useless", what: "flood with well-formed announcements that nobody can check", shut: true,
		attack: flood(80*time.Millisecond, func(e *hostile, i int) []byte {
			a := announcement("lessons", 1)
			a.RootVer = 7
			return message(e.cheap(a, i))
		})},

	{name: "IHAVE flood", what: "promise what they do not send",
		attack: every(3*time.Second, func(e *hostile, i int) []byte { return ihave(randomIDs(e, i, 300)...) })},
	{name: "IWANT flood", what: "ask for the same messages for ever, and for unknown ones", shut: true,
		before: func(e *hostile, env []byte) { e.mu.Lock(); e.old = append(e.old, idOf(env)); e.mu.Unlock() },
		attack: flood(60*time.Millisecond, func(e *hostile, i int) []byte {
			e.mu.Lock()
			defer e.mu.Unlock()
			return join(iwant(e.old...), iwant(randomIDs(e, i, 10)...))
		})},
	{name: "IDONTWANT flood", what: "say what they do not want, as much as fits",
		before: func(e *hostile, env []byte) { e.all(idontwant(idOf(env))) },
		attack: every(3*time.Second, func(e *hostile, i int) []byte { return idontwant(randomIDs(e, i, 700)...) })},
	{name: "GRAFT flood", what: "graft topics that do not exist, thousands of them",
		attack: every(3*time.Second, func(e *hostile, i int) (rpc []byte) {
			for j := range 200 {
				rpc = append(rpc, graft(fmt.Sprintf("topic %d %d", i, j))...)
			}
			return rpc
		})},
	{name: "GRAFT in back-off", what: "graft, prune and graft again all the time", shut: true,
		attack: every(500*time.Millisecond, func(e *hostile, i int) []byte { return join(graft(topic), prune(topic, 60)) })},
	{name: "PRUNE", what: "prune with absurd back-offs and send peers to connect to",
		attack: every(5*time.Second, func(e *hostile, i int) []byte {
			backoff := []uint64{math.MaxUint64, math.MaxInt64 / uint64(time.Second), math.MaxInt64, 0, 1}[i%5]
			var junk [][]byte
			for j := range 20 {
				junk = append(junk, join(field(1, random(e, 100*i+j, 38)), field(2, random(e, i, 80))))
			}
			return join(graft(topic), prune(topic, backoff, junk...))
		})},
	{name: "topics", what: "subscribe to thousands of topics, and to ours and off it again",
		attack: every(2*time.Second, func(e *hostile, i int) (rpc []byte) {
			for j := range 15 {
				rpc = append(rpc, subscribe(fmt.Sprintf("topic %d %d", i, j), true)...)
			}
			if i%3 == 0 {
				for j := range 400 {
					rpc = append(rpc, subscribe(fmt.Sprintf("more %d %d", i, j), true)...)
				}
			}
			return append(rpc, subscribe(topic, i%2 == 0)...)
		})},

	{name: "endless roots", what: "answer an exchange with trust roots without end", shut: true, setup: func(e *hostile) {
		e.h.SetStreamHandler(protoCatalog, func(s network.Stream) { e.endlessRoots(s) })
	}},
	{name: "junk heads", what: "have 10,000 products that they then do not give, and say something else each time",
		setup: func(e *hostile) { e.h.SetStreamHandler(protoCatalog, e.junkHeads) }, attack: asks},
	{name: "slow loris", what: "answer an exchange with a byte now and then", setup: func(e *hostile) { e.h.SetStreamHandler(protoCatalog, e.loris) }},
	{name: "forged catalogs", what: "have news each time, all of it with false signatures", setup: func(e *hostile) { e.h.SetStreamHandler(protoCatalog, e.forgedCatalog) }, attack: asks},
	{name: "endless questions", what: "ask for the catalog all the time, and for the same products over and over", shut: true, attack: questions},

	{name: "wrong bytes", what: "claim to hold everything and give other bytes", shut: true,
		setup: func(e *hostile) { e.h.SetStreamHandler(protoBlobs, claims(wrongBytes)) }},
	{name: "slow retrieval", what: "claim to hold everything and give a byte a minute", bound: 90 * time.Second, setup: func(e *hostile) { e.h.SetStreamHandler(protoBlobs, claims(e.trickle)) }},
	{name: "stalls", what: "claim to hold everything and give nothing", bound: 90 * time.Second, setup: func(e *hostile) { e.h.SetStreamHandler(protoBlobs, claims(func(network.Stream, uint64, int) {})) }},
	{name: "huge have-maps", what: "claim to hold blobs and chunks that do not exist, as many as fit", shut: true, setup: func(e *hostile) { e.h.SetStreamHandler(protoBlobs, hugeMaps) }},
	{name: "watchers", what: "watch and unwatch, ask and cancel, as fast as they can", attack: watchers},
}

// every sends a frame to all targets again and again, in waves; nil is none.
func every(d time.Duration, f func(e *hostile, i int) []byte) func(e *hostile) {
	return func(e *hostile) {
		for i := 0; e.wave(d); i++ {
			if !e.heard() {
				continue
			}
			if rpc := f(e, i); rpc != nil {
				e.all(rpc)
			}
		}
	}
}

// flood is every for so many frames that four targets are enough for one test.
func flood(d time.Duration, f func(e *hostile, i int) []byte) func(e *hostile) {
	return func(e *hostile) {
		e.targets = e.targets[:4]
		every(d, f)(e)
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// announcement is of content that nobody has.
func announcement(product string, seq uint64) *announce.Announcement {
	return &announce.Announcement{Product: product, RootVer: 1, Epoch: 1, Seq: seq, Version: "9",
		Manifest: rawCID(fmt.Sprint(product, seq)), ManifestSize: 100, TotalSize: 100}
}

// forged is an announcement that only its signature gives away.
func forged(e *hostile, i int) []byte {
	env, err := announcement("lessons", uint64(100+i)).Sign(e.signer)
	if err != nil {
		panic(err) // its form is constant
	}
	return env
}

// cheap is like a, with a signature and a manifest of noise: forgers need not sign. It is for one a of each host.
func (e *hostile) cheap(a *announce.Announcement, i int) []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.form == nil {
		env, err := a.Sign(e.signer)
		if err != nil {
			panic(err) // its form is constant
		}
		e.form = env
	}
	b := bytes.Clone(e.form)
	noise := random(e, i, 96)
	copy(b[len(b)-64:], noise)
	copy(b[bytes.Index(b, a.Manifest.Bytes())+4:], noise[64:]) // another manifest, another payload
	return b
}

func random(e *hostile, i, n int) []byte { return noise(fmt.Sprintf("random %d %d", e.n, i), n) }

func randomIDs(e *hostile, i, n int) (ids [][]byte) {
	b := random(e, i, 20*n)
	for j := range n {
		ids = append(ids, b[20*j:20*j+20])
	}
	return ids
}

func idOf(env []byte) []byte {
	sa, err := announce.ParseAnnouncement(env)
	if err != nil {
		panic(err) // it is true
	}
	id := sa.ID()
	return id[:]
}

// spoiled is env with a false signature: the id of the true one.
func spoiled(env []byte, i int) []byte {
	b := bytes.Clone(env)
	b[len(b)-1-i%32] ^= 1 << (i % 8)
	return b
}

// variants are envelopes of env's payload with its one signature dropped, repeated and moved, and good ones in which
// others join it.
func variants(env []byte) (bad, good [][]byte) {
	// [payload, [[id, sig]]] ends in an array of one: 81 82 48 id 58 40 sig
	const one = 1 + 1 + 8 + 2 + 64
	at := len(env) - one - 1
	payload, sig := env[:at], env[at+1:]
	list := func(sigs ...[]byte) []byte {
		return append(append(bytes.Clone(payload), 0x80|byte(len(sigs))), join(sigs...)...)
	}
	other := func(first byte) []byte {
		b := bytes.Clone(sig)
		b[2] = first
		return b
	}
	bad = [][]byte{list(), list(sig, sig), list(other(0xff), sig), list(sig, other(0)), list(other(0)), list(other(0), other(0xff))}
	return bad, [][]byte{list(other(0), sig), list(sig, other(0xff)), list(other(0), sig, other(0xff))}
}

// newcomers: each name says its piece and goes.
func newcomers(e *hostile) {
	for i := 0; e.wave(40 * time.Second); i++ {
		key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(noise(fmt.Sprint("newcomer", e.n, i), 64)))
		if err != nil {
			panic(err)
		}
		n := e.w.stranger(key, 2000+10*i+e.n, e.n)
		n.haunt(e.targets)
		e.sleep(3 * time.Second)
		for j := range 40 {
			n.all(message(n.cheap(announcement("lessons", 1_000_000), j)), graft(topic))
		}
		e.sleep(5 * time.Second)
		n.close()
	}
}

// everything is the setup of a host that lies wherever it is asked.
func everything(e *hostile) {
	lies := []func(network.Stream){e.junkHeads, e.loris, e.forgedCatalog, e.endlessRoots, sayNothing}
	e.h.SetStreamHandler(protoCatalog, lies[e.n%len(lies)])
	holds := []func(network.Stream){claims(wrongBytes), claims(e.trickle), claims(func(network.Stream, uint64, int) {}), hugeMaps}
	e.h.SetStreamHandler(protoBlobs, holds[e.n%len(holds)])
}

// mayhem does all of it.
var mayhem = every(time.Second, func(e *hostile, i int) []byte {
	switch (e.n + i) % 5 {
	case 0:
		return join(message(random(e, i, 200)), ihave(randomIDs(e, i, 100)...))
	case 1:
		return message(forged(e, i))
	case 2:
		return join(graft(topic), prune(topic, math.MaxUint64), graft(topic))
	case 3:
		return join(idontwant(randomIDs(e, i, 100)...), iwant(randomIDs(e, i, 100)...))
	}
	return message(e.cheap(announcement("lessons", 1_000_000), i))
})

// Liars in the catalog exchange.

// hello reads an asker's HELLO and answers with a digest that is always another, and the asker's own root.
func (e *hostile) hello(s network.Stream) (*bufio.Reader, bool) {
	s.SetDeadline(time.Now().Add(time.Hour))
	r := bufio.NewReader(s)
	_, body, err := readFrame(r)
	if err != nil || len(body) < 9 {
		s.Reset()
		return nil, false
	}
	s.Write(frame(frameHello, random(e, int(e.lies.Add(1)), 8), body[8:]))
	return r, true
}

func head(product string, seq uint64) []byte {
	return frame(frameHead, counted([]byte(product)), binary.AppendUvarint(nil, 1), binary.AppendUvarint(nil, seq), make([]byte, 20))
}

// junk is the heads of 10,000 products.
var junk = sync.OnceValue(func() (b []byte) {
	for i := range 10_000 {
		b = append(b, head(fmt.Sprintf("junk.%d", i), 1)...)
	}
	return append(b, frame(frameEnd)...)
})

func (e *hostile) junkHeads(s network.Stream) {
	r, ok := e.hello(s)
	if !ok {
		return
	}
	if _, err := s.Write(junk()); err != nil {
		s.Reset()
		return
	}
	for {
		if typ, _, err := readFrame(r); err != nil || typ == frameEnd {
			break
		}
	}
	s.Write(frame(frameEnd))
	s.Close()
}

func (e *hostile) loris(s network.Stream) {
	if _, ok := e.hello(s); !ok {
		return
	}
	for _, b := range head("slow", 1) {
		if !e.sleep(5 * time.Second) {
			break
		}
		if _, err := s.Write([]byte{b}); err != nil {
			break
		}
	}
	s.Reset()
}

func (e *hostile) forgedCatalog(s network.Stream) {
	r, ok := e.hello(s)
	if !ok {
		return
	}
	i := 1000 * int(e.lies.Load())
	a := announcement("lessons", 1_000_000)
	b := head("lessons", a.Seq)
	for j := range 64 {
		b = append(b, head(fmt.Sprintf("more.%d.%d", i, j), 1)...)
	}
	s.Write(append(b, frame(frameEnd)...))
	for {
		if typ, _, err := readFrame(r); err != nil || typ == frameEnd {
			break
		}
	}
	b = frame(frameAnnouncement, e.cheap(a, i))
	for j := range 32 {
		b = append(b, frame(frameEvidence, counted(e.cheap(a, i+j)), e.cheap(a, i+j+1))...)
	}
	s.Write(append(b, frame(frameEnd)...))
	s.Close()
}

func (e *hostile) endlessRoots(s network.Stream) {
	s.SetDeadline(time.Now().Add(time.Minute))
	r := bufio.NewReader(s)
	_, body, err := readFrame(r)
	if err != nil || len(body) < 9 {
		s.Reset()
		return
	}
	s.Write(frame(frameHello, random(e, int(e.lies.Add(1)), 8), binary.AppendUvarint(nil, math.MaxUint64), make([]byte, 8)))
	s.Write(frame(frameEnd))
	root := e.root()
	for {
		if _, err := s.Write(frame(frameRoot, root)); err != nil {
			s.Reset()
			return
		}
	}
}

// asks opens exchanges all the time: whoever answers learns of another digest, and asks back.
func asks(e *hostile) {
	for i := 0; e.wave(20 * time.Second); i++ {
		for _, t := range e.targets {
			s, err := e.h.NewStream(network.WithNoDial(e.ctx, ""), t.ID, protoCatalog)
			if err != nil {
				continue
			}
			s.SetDeadline(time.Now().Add(time.Minute))
			s.Write(frame(frameHello, random(e, i, 8), []byte{1}, make([]byte, 8)))
			s.Write(frame(frameEnd))
			s.CloseWrite()
			go drain(s)
		}
	}
}

func questions(e *hostile) {
	var b []byte
	for range 1500 {
		b = append(b, counted([]byte("lessons"))...)
	}
	ask := bytes.Repeat(frame(frameAskProducts, b), 20)
	for e.wave(20 * time.Second) {
		for _, t := range e.targets {
			s, err := e.h.NewStream(network.WithNoDial(e.ctx, ""), t.ID, protoCatalog)
			if err != nil {
				continue
			}
			s.SetDeadline(time.Now().Add(time.Minute))
			s.Write(frame(frameHello, make([]byte, 8), []byte{1}, make([]byte, 8)))
			go drain(s)
			s.Write(ask)
		}
	}
}

func drain(s network.Stream) {
	b := make([]byte, 16<<10)
	for {
		if _, err := s.Read(b); err != nil {
			s.Reset()
			return
		}
	}
}

// Liars about content.

// claims holds everything, it says, and gives what lie gives.
func claims(lie func(s network.Stream, id uint64, length int)) func(network.Stream) {
	return func(s network.Stream) {
		r := bufio.NewReader(s)
		for {
			typ, b, err := readFrame(r)
			if err != nil {
				s.Reset()
				return
			}
			switch typ {
			case frameWatch:
				s.Write(frame(frameHaveMap, b, []byte{3, 0}))
			case frameWant:
				for len(b) > 0 {
					id, n := binary.Uvarint(b)
					b = b[n+1+36:]
					_, n = binary.Uvarint(b)
					b = b[n:]
					length, n := binary.Uvarint(b)
					b = b[n:]
					lie(s, id, int(length))
				}
			}
		}
	}
}

func wrongBytes(s network.Stream, id uint64, length int) {
	s.Write(frame(frameData, binary.AppendUvarint(nil, id), make([]byte, min(length, 200<<10))))
}

// trickle begins an answer and gives a byte of it a minute.
func (e *hostile) trickle(s network.Stream, id uint64, length int) {
	whole := frame(frameData, binary.AppendUvarint(nil, id), make([]byte, min(length, 200<<10)))
	for i := 0; i < len(whole) && i < 30; i++ {
		if _, err := s.Write(whole[i : i+1]); err != nil || !e.sleep(time.Minute) {
			return
		}
	}
}

func hugeMaps(s network.Stream) {
	r := bufio.NewReader(s)
	for {
		typ, b, err := readFrame(r)
		if err != nil {
			s.Reset()
			return
		}
		if typ != frameWatch {
			continue
		}
		var parts []byte
		for i := range 4000 {
			parts = append(parts, join(binary.AppendUvarint(nil, uint64(i)), counted(make([]byte, 100)))...)
		}
		for range 2 {
			s.Write(frame(frameHaveMap, b, []byte{0}, counted(bytes.Repeat([]byte{0xff}, 10_000)), parts))
		}
		var haves []byte
		for i := range 10_000 {
			haves = append(haves, join(binary.AppendUvarint(nil, uint64(i)), binary.AppendUvarint(nil, uint64(2*i)))...)
		}
		s.Write(frame(frameHave, b, haves))
	}
}

// watchers ask as much as one stream carries.
func watchers(e *hostile) {
	manifest := rawCID("nothing").Bytes()
	var b []byte
	for range 200 {
		b = append(append(b, frame(frameWatch, manifest)...), frame(frameUnwatch, manifest)...)
	}
	for e.wave(20 * time.Second) {
		for _, t := range e.targets {
			go e.watch(t.ID, b)
		}
	}
}

func (e *hostile) watch(p peer.ID, b []byte) {
	s, err := e.h.NewStream(network.WithNoDial(e.ctx, ""), p, protoBlobs)
	if err != nil {
		return
	}
	go drain(s)
	for range 5 {
		s.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := s.Write(b); err != nil {
			break
		}
	}
	s.Reset()
}
