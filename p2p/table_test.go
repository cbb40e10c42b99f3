package p2p

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	ma "github.com/multiformats/go-multiaddr"
	bolt "go.etcd.io/bbolt"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
	"satchel/store/manifest"
)

// row is one hostile input, by its number in the list of 87. What it must get is one of
//
//	R  rejected, and the sender pays: with its gossip score, its budget or its place, and it is counted
//	I  ignored: the sender is as welcome as before
//	B  the sender is shut out
//	F  the operation is refused with an error that says what to do
//
// and whatever it gets, nothing on the disk is changed by it.
type row struct {
	number int
	input  string
	run    func(t *testing.T)
}

// lastInput is the last number that is tested here: what follows are attacks on the mesh as a whole, which package sim has.
const lastInput = 78

// TestHostileInputs is the table: a stranger, or a stick, or a publisher's stolen key, against a node with real sockets.
func TestHostileInputs(t *testing.T) {
	documents := newDesk(t)
	groups := [][]row{documents.rows(t), manifestRows(t), contentRows(t), stickRows(t)}
	covered := map[int]bool{}
	for _, r := range slices.Concat(groups...) {
		covered[r.number] = true
	}
	for number := 1; number <= lastInput; number++ {
		if !covered[number] {
			t.Errorf("no row tests input %d", number)
		}
	}
	var wg sync.WaitGroup // groups have nothing in common, and each mostly waits
	for _, rows := range groups {
		wg.Go(func() {
			for _, r := range rows {
				t.Run(fmt.Sprintf("%d %s", r.number, r.input), r.run)
			}
		})
	}
	wg.Wait()
	t.Run("scores", documents.scores)
}

// until waits for something that no status shows.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(testPatience); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited too long for %s", what)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// refused checks that an operation failed as it must: with this code, and with advice.
func refused(t *testing.T, what string, err error, codes ...string) {
	t.Helper()
	if !slices.Contains(codes, CodeOf(err)) || HintOf(err) == "" {
		t.Errorf("%s: error %v, code %q, hint %q; want code %q and a hint", what, err, CodeOf(err), HintOf(err), codes)
	}
}

// openNode opens a node that trusts a root file, and nothing of this machine's network but loopback.
func openNode(t *testing.T, cfg Config, root []byte) *Node {
	t.Helper()
	if cfg.Home == "" {
		cfg.Home = t.TempDir()
	}
	cfg.Listen, cfg.NoDiscovery = []string{"/ip4/127.0.0.1/tcp/0"}, true
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("home", filepath.Base(filepath.Dir(cfg.Home)))
	}
	n, err := Open(cfg)
	check(t, err)
	t.Cleanup(func() { n.Close() })
	if root != nil {
		check(t, n.Trust(root, false))
	}
	return n
}

// runNode runs a node until the test ends, or stop is called.
func runNode(t *testing.T, n *Node) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	until(t, "sockets", func() bool {
		up := false
		n.do(func() { up = n.net != nil && len(addresses(n.net.host)) > 0 })
		return up
	})
	return stop
}

// snapshot is what matters of a home and an image on the disk, by name: the records of state.db, every file of the store, and the image.
// Left out is what only says who was met, and what the marker changes.
func snapshot(t *testing.T, n *Node, image string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := n.db.db.View(func(tx *bolt.Tx) error { // what View sees is what was committed
		return tx.ForEach(func(bucket []byte, b *bolt.Bucket) error {
			if name := string(bucket); name == "peers" || name == "meta" {
				return nil
			}
			return b.ForEach(func(k, v []byte) error {
				if string(k) != markerProduct {
					out[fmt.Sprintf("%s/%s", bucket, k)] = fmt.Sprintf("%x", v)
				}
				return nil
			})
		})
	})
	check(t, err)
	files(t, out, "store", filepath.Join(n.cfg.Home, "store"))
	if image != "" {
		files(t, out, "image", image)
	}
	return out
}

// files adds every file below dir.
func files(t *testing.T, out map[string]string, name, dir string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		what := fi.Mode().String()
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			what += fmt.Sprintf(" %d bytes %v", len(b), store.Sum(b))
		case fi.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			what += " " + target
		}
		rel, _ := filepath.Rel(dir, path)
		out[filepath.Join(name, sessionName.ReplaceAllString(rel, "partial/session"))] = what
		return nil
	}))
}

// sessionName is a directory that each process has for itself in a store.
var sessionName = regexp.MustCompile(`^partial/[0-9a-f]+\.tmp`)

// same checks that nothing changed but what begins with one of allowed. With an announcement goes the mark that it leaves.
func same(t *testing.T, before, after map[string]string, allowed ...string) {
	t.Helper()
	for _, prefix := range allowed {
		if product, ok := strings.CutPrefix(prefix, "announced/"); ok {
			allowed = append(allowed, "marks/"+product)
		}
	}
	for _, name := range changes(before, after) {
		if !slices.ContainsFunc(allowed, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			t.Errorf("on the disk %s was %q and is %q", name, before[name], after[name])
		}
	}
}

// changes lists what differs.
func changes(before, after map[string]string) (names []string) {
	all := maps.Clone(before)
	maps.Copy(all, after)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if before[name] != after[name] {
			names = append(names, name)
		}
	}
	return names
}

// publishHere publishes a tree of files as a release that this home announces.
func publishHere(t *testing.T, n *Node, key announce.PrivateKey, a announce.Announcement, files map[string]string) {
	t.Helper()
	signInto(t, n.Store(), &a, files)
	env, err := a.Sign(key)
	check(t, err)
	check(t, n.Announce(env))
}

// signInto puts a tree of files into a store, and what there is to say of it into a.
func signInto(t *testing.T, st *store.Store, a *announce.Announcement, files map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	res, err := st.Publish(context.Background(), dir, store.PublishOptions{Header: headerOf(a)})
	check(t, err)
	a.Manifest, a.ManifestSize, a.TotalSize = res.Manifest, res.ManifestSize, res.TotalSize
}

// random is a text of n bytes that no chunk of anything else has.
func random(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return string(b)
}

// pen is a key with which anything can be signed.
type pen struct {
	announce.PrivateKey
	raw ed25519.PrivateKey
}

func newPen(t *testing.T) pen {
	t.Helper()
	seed := make([]byte, ed25519.SeedSize)
	rand.Read(seed)
	k, err := announce.GenerateKey(bytes.NewReader(seed))
	check(t, err)
	return pen{k, ed25519.NewKeyFromSeed(seed)}
}

func (p pen) id() announce.KeyID { return p.Public().ID() }

// signature is one of an envelope.
type signature struct {
	id  announce.KeyID
	sig []byte
}

// The domains of the three documents.
const (
	ofAnnouncement = "satchel/announcement/v1\x00"
	ofRoot         = "satchel/root/v1\x00"
	ofTimestamp    = "satchel/timestamp/v1\x00"
)

func (p pen) sign(domain string, payload []byte) signature {
	return signature{p.id(), ed25519.Sign(p.raw, append([]byte(domain), payload...))}
}

// envelope writes one with any signatures in any order.
func envelope(payload []byte, sigs ...signature) []byte {
	b := append(cborHead(4, 2), cborBytes(payload)...)
	b = append(b, cborHead(4, uint64(len(sigs)))...)
	for _, s := range sigs {
		b = append(b, cborArray(cborBytes(s.id[:]), cborBytes(s.sig))...)
	}
	return b
}

// signed is an envelope with good signatures, in order.
func signed(domain string, payload []byte, pens ...pen) []byte {
	var sigs []signature
	for _, p := range pens {
		sigs = append(sigs, p.sign(domain, payload))
	}
	slices.SortFunc(sigs, func(a, b signature) int { return bytes.Compare(a.id[:], b.id[:]) })
	return envelope(payload, sigs...)
}

// CBOR by hand, so that it can be wrong.

func cborHead(major byte, n uint64) []byte {
	switch b := major << 5; {
	case n < 24:
		return []byte{b | byte(n)}
	case n < 1<<8:
		return []byte{b | 24, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{b | 25}, uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{b | 26}, uint32(n))
	default:
		return binary.BigEndian.AppendUint64([]byte{b | 27}, n)
	}
}

func cborUint(n uint64) []byte  { return cborHead(0, n) }
func cborBytes(b []byte) []byte { return append(cborHead(2, uint64(len(b))), b...) }
func cborText(s string) []byte  { return append(cborHead(3, uint64(len(s))), s...) }
func cborArray(items ...[]byte) []byte {
	return append(cborHead(4, uint64(len(items))), bytes.Join(items, nil)...)
}

// pair is a key of a map and its value, both encoded.
type pair struct{ key, value []byte }

// cborMap writes pairs in the order they are in.
func cborMap(pairs ...pair) []byte { return append(cborHead(5, uint64(len(pairs))), joined(pairs)...) }

func joined(pairs []pair) (b []byte) {
	for _, p := range pairs {
		b = append(append(b, p.key...), p.value...)
	}
	return b
}

// with gives the pair of a key another value, or adds it at the end.
func with(pairs []pair, key uint64, value []byte) []pair {
	pairs = slices.Clone(pairs)
	i := slices.IndexFunc(pairs, func(p pair) bool { return bytes.Equal(p.key, cborUint(key)) })
	if i < 0 {
		return append(pairs, pair{cborUint(key), value})
	}
	pairs[i].value = value
	return pairs
}

// gossipProtocol is a version of gossipsub that every node speaks.
const gossipProtocol protocol.ID = "/meshsub/1.2.0"

// outsider is a stranger's host that speaks all protocols of a node, as badly as a test wants. Unless told otherwise it knows nothing
// and has nothing.
type outsider struct {
	host.Host
	of    *Node
	hello chan struct{} // closed when the node has greeted it as one of the topic

	mu      sync.Mutex
	answers [][]byte // frames that the next exchange brings, if there are any
	visits  int      // exchanges that it was asked for
	gossip  network.Stream
	holds   map[cid.Cid]bool // manifests of which it says that it has everything
	serve   func(r ask) []byte
	watched map[cid.Cid]map[network.Stream]bool
}

// ask is one request for content.
type ask struct {
	id             uint64
	kind           fetch.Kind
	blob           cid.Cid
	offset, length uint64
	stream         network.Stream
}

// newOutsider makes a host that is not connected yet.
func newOutsider(t *testing.T, of *Node) *outsider {
	t.Helper()
	key, _, err := crypto.GenerateKeyPair(crypto.Ed25519, -1)
	check(t, err)
	h, err := newHost(key, nil, false, newGater(), "outsider")
	check(t, err)
	t.Cleanup(func() { h.Close() })
	o := &outsider{Host: h, of: of, hello: make(chan struct{}), holds: map[cid.Cid]bool{}, watched: map[cid.Cid]map[network.Stream]bool{}}
	greeted := sync.OnceFunc(func() { close(o.hello) })
	h.SetStreamHandler(protoCatalog, o.exchange)
	h.SetStreamHandler(protoBlobs, o.content)
	h.SetStreamHandler(gossipProtocol, func(s network.Stream) {
		if _, err := s.Read(make([]byte, 1)); err == nil {
			greeted()
		}
		io.Copy(io.Discard, s)
		s.Reset()
	})
	return o
}

// meet connects, and joins the topic.
func (o *outsider) meet(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	a, err := ma.NewMultiaddr(o.of.Status().Node.Addrs[0])
	check(t, err)
	info, err := peer.AddrInfoFromP2pAddr(a)
	check(t, err)
	check(t, o.Connect(ctx, *info))
}

// gossiped sends documents to the topic, each in a frame of its own.
func (o *outsider) gossiped(t *testing.T, documents ...[]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	if o.gossip == nil {
		select {
		case <-o.hello: // from now on it has a score
		case <-ctx.Done():
			t.Fatal("the node does not gossip")
		}
		s, err := o.NewStream(ctx, o.of.id, gossipProtocol)
		check(t, err)
		o.gossip = s
		o.rpc(t, protoField(1, append([]byte{1 << 3, 1}, protoField(2, []byte(topicName))...)))
	}
	for _, d := range documents {
		o.rpc(t, protoField(2, append(protoField(2, d), protoField(4, []byte(topicName))...)))
	}
}

func (o *outsider) rpc(t *testing.T, body []byte) {
	t.Helper()
	_, err := o.gossip.Write(append(binary.AppendUvarint(nil, uint64(len(body))), body...))
	check(t, err)
}

// protoField is a field of a protocol buffer.
func protoField(n int, b []byte) []byte {
	return append(binary.AppendUvarint(binary.AppendUvarint(nil, uint64(n)<<3|2), uint64(len(b))), b...)
}

// exchange answers one with what is to be told: a neighbour of the same mesh that knows as many products as it is going to bring
// announcements. With nothing to tell it knows just what the other side knows.
func (o *outsider) exchange(s network.Stream) {
	defer s.Close()
	s.SetDeadline(time.Now().Add(testPatience))
	r := bufio.NewReader(s)
	_, hello, err := readFrame(r, maxCatalogFrame)
	if err != nil || len(hello) < 17 {
		s.Reset()
		return
	}
	o.mu.Lock()
	answers := o.answers
	o.visits++
	o.mu.Unlock()
	if answers == nil {
		s.Write(appendFrame(nil, frameSame, hello[:8]))
		return
	}
	out := appendFrame(nil, frameHello, []byte(random(8)), hello[8:])
	for i := range answers {
		out = append(out, appendFrame(nil, frameHead, encodeHead(announce.Head{Product: fmt.Sprintf("not-here.%d", i), Epoch: 1, Seq: 1}))...)
	}
	s.Write(append(out, appendFrame(nil, frameEnd)...))
	for typ := byte(0); typ != frameEnd; {
		if typ, _, err = readFrame(r, maxCatalogFrame); err != nil {
			s.Reset()
			return
		}
	}
	o.mu.Lock()
	o.answers = nil
	o.mu.Unlock()
	s.Write(append(bytes.Join(answers, nil), appendFrame(nil, frameEnd)...))
	io.Copy(io.Discard, r)
}

// content answers requests as serve says; without it nothing is here.
func (o *outsider) content(s network.Stream) {
	r := bufio.NewReader(s)
	for {
		typ, raw, err := readFrame(r, maxRequestFrame)
		if err != nil {
			s.Reset()
			return
		}
		b := &body{b: raw}
		switch typ {
		case frameWatch:
			m := b.cid("manifest")
			o.mu.Lock()
			if o.watched[m] == nil {
				o.watched[m] = map[network.Stream]bool{}
			}
			o.watched[m][s] = true
			if o.holds[m] {
				s.Write(haveAll(m))
			}
			o.mu.Unlock()
		case frameWant:
			for b.more() {
				q := ask{id: b.uvarint("id"), kind: fetch.Kind(b.byte("kind")), blob: b.cid("blob"), offset: b.uvarint("offset"), length: b.uvarint("length"), stream: s}
				answer := appendFrame(nil, frameGone, binary.AppendUvarint(nil, q.id))
				if o.serve != nil {
					answer = o.serve(q)
				}
				s.Write(answer)
			}
		}
	}
}

func haveAll(m cid.Cid) []byte {
	return appendFrame(nil, frameHaveMap, m.Bytes(), encodeHaveMap(fetch.HaveMap{All: true, Manifest: true}))
}

// has tells everybody who asks, or has asked, that all of a release is here.
func (o *outsider) has(m cid.Cid) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.holds[m] = true
	for s := range o.watched[m] {
		s.Write(haveAll(m))
	}
}

// honestly serves what is in a store.
func honestly(st *store.Store) func(ask) []byte {
	return func(q ask) []byte {
		var data []byte
		var err error
		if q.kind == fetch.List {
			_, data, err = st.List(q.blob)
		} else {
			data = make([]byte, q.length)
			err = st.ReadRange(q.blob, int64(q.offset), data)
		}
		if err != nil {
			return appendFrame(nil, frameGone, binary.AppendUvarint(nil, q.id))
		}
		return dataFrame(q.id, data)
	}
}

func shutOut(n *Node, p peer.ID) bool {
	bad := false
	n.do(func() { bad = n.net != nil && n.net.gater.banned(p) })
	return bad
}

// counts are what a node has refused until now, by reason.
func counts(n *Node) map[string]int {
	out := map[string]int{}
	for i := range n.refusals {
		if c := n.refusals[i].Load(); c > 0 {
			out[refusalNames[i]] = int(c)
		}
	}
	return out
}

func headerOf(a *announce.Announcement) manifest.Header {
	return manifest.Header{Product: a.Product, Epoch: a.Epoch, Seq: a.Seq, Version: a.Version}
}
