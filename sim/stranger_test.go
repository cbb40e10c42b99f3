package sim_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"

	"satchel/announce"
	"satchel/store"
)

// What a stranger must know of the protocols to abuse them: see p2p/PROTOCOL.md and the gossipsub specification.
const (
	protoGossip  protocol.ID = "/meshsub/1.2.0"
	protoCatalog protocol.ID = "/satchel/catalog/1"
	protoBlobs   protocol.ID = "/satchel/blobs/1"
	topic                    = "satchel/announce/1"

	frameHello        = 1
	frameAskRoots     = 2
	frameAskProducts  = 3
	frameSame         = 16
	frameHead         = 17
	frameRoot         = 18
	frameAnnouncement = 19
	frameEvidence     = 20
	frameEnd          = 21

	frameWant    = 1
	frameWatch   = 3
	frameUnwatch = 4
	frameData    = 16
	frameHaveMap = 19
	frameHave    = 20
)

// hostile is a host of an attacker. Unless it is told otherwise it seems to be a good neighbour: it takes part in the
// topic, says in every exchange that it has nothing new, and holds nothing.
type hostile struct {
	w    *world
	n    int // which of its family
	h    host.Host
	ctx  context.Context
	stop context.CancelFunc

	signer   announce.PrivateKey
	lies     atomic.Int64 // told so far
	struck   atomic.Bool  // no more good neighbour
	wg       sync.WaitGroup
	patience time.Duration // before it dials again whoever hung up
	targets  []peer.AddrInfo

	mu     sync.Mutex
	gossip map[peer.ID]network.Stream // to each victim
	old    [][]byte                   // what it knows of earlier releases
	form   []byte                     // see cheap
}

// hostile makes the n-th host of a family, at an address of its own.
func (w *world) hostile(n int) *hostile {
	w.t.Helper()
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(noise(fmt.Sprint("hostile", n), 64)))
	if err != nil {
		w.t.Fatal(err)
	}
	return w.stranger(key, 1000+n, n)
}

func (w *world) stranger(key crypto.PrivKey, at, n int) *hostile {
	h, err := w.medium.Stranger(ip(at), key)
	if err != nil {
		panic(err) // every address is used once
	}
	e := &hostile{w: w, n: n, h: h, gossip: map[peer.ID]network.Stream{}, patience: 5 * time.Minute}
	e.signer, err = announce.GenerateKey(bytes.NewReader(noise(fmt.Sprint("forger", n), 64)))
	if err != nil {
		panic(err)
	}
	e.ctx, e.stop = context.WithCancel(context.Background())
	h.SetStreamHandler(protoCatalog, sayNothing)
	h.SetStreamHandler(protoBlobs, holdNothing)
	h.SetStreamHandler(protoGossip, hear)
	return e
}

func (e *hostile) close() {
	e.stop()
	e.wg.Wait()
	e.h.Close()
}

// later is calm until the host strikes, and then wild.
func (e *hostile) later(calm, wild func(network.Stream)) func(network.Stream) {
	return func(s network.Stream) {
		if e.struck.Load() {
			wild(s)
		} else {
			calm(s)
		}
	}
}

// root is a well-formed next root that the laptops' root keys did not sign.
func (e *hostile) root() []byte {
	ids := []announce.KeyID{e.signer.Public().ID()}
	r := &announce.Root{Version: 2, Keys: []announce.PublicKey{e.signer.Public()},
		Roles: map[announce.Role]announce.RoleRule{announce.RoleRoot: {Keys: ids, Threshold: 1}}}
	for i := range 3 {
		r.Products = append(r.Products, announce.ProductRule{Pattern: fmt.Sprintf("product.%03d.%d", i, e.n), Epoch: 1, Keys: ids, Threshold: 1, Class: announce.ClassContent})
	}
	env, err := r.Sign(e.signer)
	if err != nil {
		panic(err)
	}
	return env
}

func target(addr string) peer.AddrInfo {
	a, err := ma.NewMultiaddr(addr)
	if err != nil {
		panic(err) // a Laptop's own address
	}
	info, err := peer.AddrInfoFromP2pAddr(a)
	if err != nil {
		panic(err)
	}
	return *info
}

// haunt keeps a connection to each target and a place in its topic until the hostile host is closed.
func (e *hostile) haunt(targets []peer.AddrInfo) {
	e.targets = targets
	for _, t := range targets {
		e.h.Peerstore().AddAddrs(t.ID, t.Addrs, peerstore.PermanentAddrTTL)
		e.wg.Go(func() {
			for patience := time.Second; e.sleep(patience); {
				switch {
				case e.stream(t.ID) != nil:
				case e.join(t.ID) != nil:
					patience = min(2*patience, e.patience)
				default:
					e.send(t.ID, subscribe(topic, true), graft(topic))
					patience = e.patience
				}
			}
		})
	}
}

// sleep reports whether the hostile host still lives after d.
func (e *hostile) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.ctx.Done():
		return false
	}
}

// wave is sleep that ends at the beginning of a period: attacks come in waves, and each release comes in one.
func (e *hostile) wave(d time.Duration) bool {
	if !e.sleep(d) {
		return false
	}
	if at := time.Duration(time.Now().UnixNano()) % wavePeriod; at > waveTime {
		return e.sleep(wavePeriod - at)
	}
	return true
}

func (e *hostile) stream(p peer.ID) network.Stream {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gossip[p]
}

func (e *hostile) join(p peer.ID) error {
	ctx, cancel := context.WithTimeout(e.ctx, 10*time.Second)
	defer cancel()
	s, err := e.h.NewStream(ctx, p, protoGossip)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.gossip[p] = s
	e.mu.Unlock()
	go func() { // notices when the victim hangs up
		io.Copy(io.Discard, s)
		s.Reset()
		e.mu.Lock()
		if e.gossip[p] == s {
			delete(e.gossip, p)
		}
		e.mu.Unlock()
	}()
	return nil
}

// heard reports whether anybody listens.
func (e *hostile) heard() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.gossip) > 0
}

// send sends one RPC of these parts; false when there is no stream or it is stuck.
func (e *hostile) send(p peer.ID, parts ...[]byte) bool {
	s := e.stream(p)
	if s == nil {
		return false
	}
	body := bytes.Join(parts, nil)
	s.SetWriteDeadline(time.Now().Add(5 * time.Second))
	if _, err := s.Write(append(binary.AppendUvarint(nil, uint64(len(body))), body...)); err != nil {
		s.Reset()
		return false
	}
	return true
}

// all sends one RPC to every target.
func (e *hostile) all(parts ...[]byte) {
	for _, t := range e.targets {
		e.send(t.ID, parts...)
	}
}

// hear takes what a victim gossips, and does nothing with it.
func hear(s network.Stream) {
	io.Copy(io.Discard, s)
	s.Reset()
}

// sayNothing answers an exchange with "I know just what you know".
func sayNothing(s network.Stream) {
	defer s.Close()
	s.SetDeadline(time.Now().Add(time.Minute))
	_, body, err := readFrame(bufio.NewReader(s))
	if err != nil || len(body) < 8 {
		s.Reset()
		return
	}
	s.Write(frame(frameSame, body[:8]))
}

func holdNothing(s network.Stream) {
	io.Copy(io.Discard, s)
	s.Reset()
}

// Protocol Buffers, as far as gossipsub's RPC needs them.

func field(n int, b []byte) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(n)<<3|2), uint64(len(b))), b...)
}

func number(n int, v uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, uint64(n)<<3), v)
}

func subscribe(topic string, on bool) []byte {
	v := uint64(0)
	if on {
		v = 1
	}
	return field(1, append(number(1, v), field(2, []byte(topic))...))
}

func message(data []byte) []byte {
	return field(2, append(field(2, data), field(4, []byte(topic))...))
}

func control(parts ...[]byte) []byte { return field(3, bytes.Join(parts, nil)) }

func graft(topic string) []byte { return control(field(3, field(1, []byte(topic)))) }

func prune(topic string, backoff uint64, peers ...[]byte) []byte {
	b := field(1, []byte(topic))
	for _, p := range peers {
		b = append(b, field(2, p)...)
	}
	return control(field(4, append(b, number(3, backoff)...)))
}

func ihave(ids ...[]byte) []byte {
	b := field(1, []byte(topic))
	for _, id := range ids {
		b = append(b, field(2, id)...)
	}
	return control(field(1, b))
}

func iwant(ids ...[]byte) []byte { return control(field(2, repeated(1, ids))) }

func idontwant(ids ...[]byte) []byte { return control(field(5, repeated(1, ids))) }

func repeated(n int, all [][]byte) (b []byte) {
	for _, x := range all {
		b = append(b, field(n, x)...)
	}
	return b
}

// Frames of satchel's own stream protocols.

func frame(typ byte, body ...[]byte) []byte {
	b := bytes.Join(body, nil)
	return append(append(binary.AppendUvarint(nil, uint64(len(b)+1)), typ), b...)
}

func readFrame(r *bufio.Reader) (typ byte, body []byte, err error) {
	n, err := binary.ReadUvarint(r)
	if err != nil || n == 0 || n > 1<<20 {
		return 0, nil, io.ErrUnexpectedEOF
	}
	body = make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return body[0], body[1:], nil
}

func counted(b []byte) []byte { return append(binary.AppendUvarint(nil, uint64(len(b))), b...) }

func rawCID(s string) cid.Cid { return store.RawCID(store.Sum([]byte(s))) }
