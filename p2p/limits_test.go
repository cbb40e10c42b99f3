package p2p

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// What one frame, one visit, one stream may bring. The tests are about functions, without a network below them.

// wire is one end of a stream.
type wire struct {
	network.Stream
	end net.Conn
}

func (w wire) Read(p []byte) (int, error)         { return w.end.Read(p) }
func (w wire) Write(p []byte) (int, error)        { return w.end.Write(p) }
func (w wire) Close() error                       { return w.end.Close() }
func (w wire) Reset() error                       { return w.end.Close() }
func (w wire) SetDeadline(t time.Time) error      { return w.end.SetDeadline(t) }
func (w wire) SetReadDeadline(t time.Time) error  { return w.end.SetReadDeadline(t) }
func (w wire) SetWriteDeadline(t time.Time) error { return w.end.SetWriteDeadline(t) }

// told runs f on a stream on which the other side writes frames, and reads what comes.
func told(t *testing.T, frames []byte, f func(s network.Stream) error) error {
	t.Helper()
	ours, theirs := net.Pipe()
	go theirs.Write(frames)
	drained := make(chan struct{})
	go func() { defer close(drained); io.Copy(io.Discard, theirs) }()
	err := f(wire{end: ours})
	ours.Close()
	<-drained
	return err
}

func TestExchangeBeginsWithHello(t *testing.T) {
	view := &catalogView{digest: [8]byte{1}}
	hello := (&catalogView{digest: [8]byte{2}}).hello()
	for name, frames := range map[string][]byte{
		"another frame":    appendFrame(nil, frameAskProducts, make([]byte, 17)),
		"a short hello":    appendFrame(nil, frameHello, make([]byte, 7)),
		"a hello, cut off": appendFrame(nil, frameHello, make([]byte, 10)),
	} {
		answer := func(s network.Stream) error { _, err := answerExchange(s, view); return err }
		if err := told(t, frames, answer); !errors.Is(err, errProtocol) {
			t.Errorf("answering %s: %v", name, err)
		}
		ask := func(s network.Stream) error { _, err := askExchange(context.Background(), s, view); return err }
		if err := told(t, frames, ask); !errors.Is(err, errProtocol) {
			t.Errorf("asking, and told %s: %v", name, err)
		}
	}
	ask := func(s network.Stream) error {
		v, err := askExchange(context.Background(), s, view)
		if err == nil && (v.theirs != [8]byte{2} || v.same) {
			t.Errorf("%+v", v)
		}
		return err
	}
	if err := told(t, append(append(hello, appendFrame(nil, frameEnd)...), appendFrame(nil, frameEnd)...), ask); err != nil {
		t.Error(err)
	}
}

// TestVisitOfManyProducts: who is offered more than one visit brings asks for some, and knows that there are others.
func TestVisitOfManyProducts(t *testing.T) {
	for n, more := range map[int]bool{maxAsked: false, maxAsked + 1: true} {
		frames := (&catalogView{digest: [8]byte{2}}).hello()
		for i := range n {
			frames = append(frames, appendFrame(nil, frameHead, encodeHead(announce.Head{Product: fmt.Sprint("p", i), Epoch: 1, Seq: 1}))...)
		}
		frames = append(frames, appendFrame(nil, frameEnd)...)
		frames = append(frames, appendFrame(nil, frameEnd)...)
		err := told(t, frames, func(s network.Stream) error {
			v, err := askExchange(context.Background(), s, &catalogView{})
			if err == nil && (v.more != more || v.asked != maxAsked) {
				t.Errorf("of %d products %d are asked for, there are more: %v", n, v.asked, v.more)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
}

func TestAnswers(t *testing.T) {
	view := &catalogView{envelopes: map[string][]byte{"here": []byte("envelope")}, claims: map[string][][]byte{"two": {[]byte("one"), []byte("other")}}}
	for i := range uint64(100) {
		view.roots = append(view.roots, announce.RootStep{Version: i + 1, Envelope: []byte{byte(i + 1)}})
	}
	names := func(n int) (b []byte) {
		for range n {
			b = append(b, "\x01p"...)
		}
		return b
	}
	end := appendFrame(nil, frameEnd)
	var out bytes.Buffer
	answer := func(frames ...[]byte) error {
		out.Reset()
		return answerWants(reader(slices.Concat(frames...)), bufio.NewWriter(&out), view)
	}
	if err := answer(appendFrame(nil, frameAskProducts, names(maxAsked)), end); err != nil {
		t.Errorf("%d products: %v", maxAsked, err)
	}
	for name, frames := range map[string][][]byte{
		"too many products":           {appendFrame(nil, frameAskProducts, names(maxAsked+1)), end},
		"too many in several frames":  {appendFrame(nil, frameAskProducts, names(maxAsked)), appendFrame(nil, frameAskProducts, names(1)), end},
		"roots twice":                 {appendFrame(nil, frameAskRoots, []byte{1}), appendFrame(nil, frameAskRoots, []byte{1}), end},
		"a frame of the other side's": {appendFrame(nil, frameSame, make([]byte, 8)), end},
		"a product, cut off":          {appendFrame(nil, frameAskProducts, []byte{5, 'a'}), end},
		"roots from nowhere":          {appendFrame(nil, frameAskRoots), end},
	} {
		if err := answer(frames...); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check(t, answer(appendFrame(nil, frameAskRoots, []byte{11}), end))
	r := bufio.NewReader(&out)
	for want := byte(11); want < 11+maxRootsPerVisit; want++ {
		if typ, raw, err := readFrame(r, maxCatalogFrame); err != nil || typ != frameRoot || raw[0] != want {
			t.Fatalf("root %d: frame %d %x, %v", want, typ, raw, err)
		}
	}
	if typ, _, err := readFrame(r, maxCatalogFrame); err != nil || typ != frameEnd {
		t.Errorf("after %d roots: frame %d, %v", maxRootsPerVisit, typ, err)
	}
	view.rival = []byte("rival")
	check(t, answer(appendFrame(nil, frameAskProducts, []byte("\x04here\x03two\x04none")), end))
	want := slices.Concat(appendFrame(nil, frameAnnouncement, []byte("envelope")), appendFrame(nil, frameEvidence, []byte("\x03oneother")),
		appendFrame(nil, frameRoot, []byte("rival")), end)
	if !bytes.Equal(out.Bytes(), want) {
		t.Errorf("answered %q", out.Bytes())
	}
}

func TestHeadsThatAreWanted(t *testing.T) {
	mine := &catalogView{heads: []announce.Head{{Product: "a", Epoch: 2, Seq: 5, ID: [20]byte{1}}}}
	offered := func(heads ...announce.Head) ([]string, error) {
		var b []byte
		for _, h := range heads {
			b = append(b, appendFrame(nil, frameHead, encodeHead(h))...)
		}
		return readHeads(reader(append(b, appendFrame(nil, frameEnd)...)), mine)
	}
	for _, c := range []struct {
		head announce.Head
		want bool
	}{
		{announce.Head{Product: "b", Epoch: 1, Seq: 1}, true},
		{announce.Head{Product: "a", Epoch: 2, Seq: 5, ID: [20]byte{1}}, false},
		{announce.Head{Product: "a", Epoch: 2, Seq: 5, ID: [20]byte{2}}, true}, // which of the two is not known
		{announce.Head{Product: "a", Epoch: 2, Seq: 6, ID: [20]byte{2}}, true},
		{announce.Head{Product: "a", Epoch: 2, Seq: 4, ID: [20]byte{2}}, false},
		{announce.Head{Product: "a", Epoch: 3, Seq: 1, ID: [20]byte{2}}, true},
		{announce.Head{Product: "a", Epoch: 3, Seq: 1, ID: [20]byte{1}}, true},
		{announce.Head{Product: "a", Epoch: 1, Seq: 9, ID: [20]byte{2}}, false},
	} {
		if want, err := offered(c.head); err != nil || (len(want) == 1) != c.want {
			t.Errorf("%+v: asked for %v, %v", c.head, want, err)
		}
	}
	many := make([]announce.Head, maxHeads+1)
	for i := range many {
		many[i] = announce.Head{Product: "a", Epoch: 1, Seq: 1}
	}
	if _, err := offered(many[1:]...); err != nil {
		t.Errorf("%d heads: %v", maxHeads, err)
	}
	if _, err := offered(many...); !errors.Is(err, errProtocol) {
		t.Errorf("%d heads: %v", len(many), err)
	}
	if _, err := offered(announce.Head{Product: "A B"}); !errors.Is(err, errProtocol) {
		t.Errorf("a head with a bad name: %v", err)
	}
	if _, err := readHeads(reader(append(appendFrame(nil, frameRoot, encodeHead(mine.heads[0])), appendFrame(nil, frameEnd)...)), mine); !errors.Is(err, errProtocol) {
		t.Errorf("another frame among heads: %v", err)
	}
}

func TestPreferences(t *testing.T) {
	p := preferences{here: map[string]bool{"z.followed": true}, carried: []string{"y.*"}, named: map[string]bool{"x.named": true}}
	for range 20 {
		got := p.order([]string{"a", "b", "x.named", "y.carried", "z.followed", "c"})
		if slices.Sort(got[:2]); got[0] != "y.carried" || got[1] != "z.followed" || got[2] != "x.named" {
			t.Fatalf("asked for in the order %v", got)
		}
	}
}

// TestWhichRootsAreAskedFor: those after ours; ours, when the other side has another one of that version.
func TestWhichRootsAreAskedFor(t *testing.T) {
	ours := rootName{5, [8]byte{1}}
	for theirs, from := range map[rootName]int{
		{6, [8]byte{2}}: 6, {9, [8]byte{1}}: 6, {5, [8]byte{1}}: 0, {5, [8]byte{2}}: 5, {4, [8]byte{2}}: 0, {0, [8]byte{}}: 0,
	} {
		var want []byte
		if from > 0 {
			want = appendFrame(nil, frameAskRoots, []byte{byte(from)})
		}
		if got := encodeWants(ours, theirs, nil); !bytes.Equal(got, appendFrame(want, frameEnd)) {
			t.Errorf("of %+v asked %x", theirs, got)
		}
	}
}

// TestManyWants: however many products are asked for, no frame is longer than the answerer takes.
func TestManyWants(t *testing.T) {
	var names []string
	for i := range maxAsked {
		names = append(names, fmt.Sprintf("%064d", i))
	}
	r := reader(encodeWants(rootName{}, rootName{}, names))
	n := 0
	for {
		typ, raw, err := readFrame(r, maxRequestFrame)
		check(t, err)
		if typ == frameEnd {
			break
		}
		for b := (&body{b: raw}); b.more(); n++ {
			if got := string(b.counted("product")); n >= len(names) || got != names[n] {
				t.Fatalf("product %d is %q", n, got)
			}
		}
	}
	if n != len(names) {
		t.Errorf("%d products were asked for", n)
	}
}

func TestDocumentsOfAVisit(t *testing.T) {
	read := func(asked int, frames ...[]byte) (*visit, error) {
		v := &visit{asked: asked}
		return v, v.readDocuments(reader(append(slices.Concat(frames...), appendFrame(nil, frameEnd)...)))
	}
	root, news := appendFrame(nil, frameRoot, []byte("r")), appendFrame(nil, frameAnnouncement, []byte("a"))
	evidence, stamp := appendFrame(nil, frameEvidence, []byte("\x01ab")), appendFrame(nil, frameTimestamp, []byte("t"))
	longest := appendFrame(nil, frameAnnouncement, make([]byte, announce.MaxEnvelope))
	v, err := read(2, bytes.Repeat(root, maxRootsPerVisit), longest, evidence, root, bytes.Repeat(stamp, maxTimestamps))
	if err != nil || len(v.roots) != maxRootsPerVisit+1 || len(v.announcements) != 1 || len(v.evidence) != 1 || len(v.timestamps) != maxTimestamps || v.more {
		t.Errorf("%d roots, %d announcements, %d pieces of evidence, %d timestamps, more: %v, %v", len(v.roots), len(v.announcements), len(v.evidence), len(v.timestamps), v.more, err)
	}
	if err == nil && (string(v.evidence[0].A) != "a" || string(v.evidence[0].B) != "b") {
		t.Errorf("evidence %+v", v.evidence[0])
	}
	for name, frames := range map[string][][]byte{
		"a root too many":           {bytes.Repeat(root, maxRootsPerVisit+2)},
		"an announcement too many":  {bytes.Repeat(news, 3)},
		"evidence too much":         {bytes.Repeat(evidence, 3)},
		"both together":             {news, evidence, news},
		"both, the other way round": {evidence, news, evidence},
		"a timestamp too many":      {bytes.Repeat(stamp, maxTimestamps+1)},
		"an announcement too long":  {appendFrame(nil, frameAnnouncement, make([]byte, announce.MaxEnvelope+1))},
		"evidence that is cut off":  {appendFrame(nil, frameEvidence, []byte("\x09ab"))},
		"a frame of an asker's":     {appendFrame(nil, frameHello, make([]byte, 17))},
	} {
		if _, err := read(2, frames...); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
	large := appendFrame(nil, frameRoot, make([]byte, 64<<10))
	if v, err := read(0, bytes.Repeat(large, 4)); err != nil || v.more || len(v.roots) != 4 {
		t.Errorf("%d roots of 64 KiB, more: %v, %v", len(v.roots), v.more, err)
	}
	if v, err := read(0, bytes.Repeat(large, 10)); err != nil || !v.more || len(v.roots) != maxVisitBytes/(64<<10) {
		t.Errorf("of ten roots of 64 KiB %d are taken, more: %v, %v", len(v.roots), v.more, err)
	}
}

// TestVisited: what a visit brings is looked at as far as the neighbour's purse goes, and nothing after what breaks the protocol.
func TestVisited(t *testing.T) {
	key := newPen(t)
	n := openNode(t, Config{}, rootOf(t, key, announce.ProductRule{Pattern: "*"}))
	runNode(t, n)
	visited := func(p peer.ID, v visit) map[string]int {
		had := counts(n)
		n.do(func() { n.visited(p, n.view(), &v, nil) })
		now := counts(n)
		for name, c := range had {
			if now[name] -= c; now[name] == 0 {
				delete(now, name)
			}
		}
		return now
	}
	repeat := func(b []byte) (out [][]byte) {
		for range 8 {
			out = append(out, b)
		}
		return out
	}
	forger := newPen(t)
	forged := rootOf(t, forger)
	next, err := (&announce.Root{Version: 2, Keys: []announce.PublicKey{forger.Public()},
		Roles: map[announce.Role]announce.RoleRule{announce.RoleRoot: {Keys: []announce.KeyID{forger.id()}, Threshold: 1}}}).Sign(forger.PrivateKey)
	check(t, err)
	stamp, err := (&announce.Timestamp{RootVer: 1, Issued: 1}).Sign(forger.PrivateKey)
	check(t, err)
	newer, err := (&announce.Timestamp{RootVer: 2, Issued: 1}).Sign(key.PrivateKey)
	check(t, err)
	one, other := announcedAs(t, 7, forger.PrivateKey), announcedAs(t, 8, forger.PrivateKey)
	var evidence []announce.Evidence
	for range 8 {
		evidence = append(evidence, announce.Evidence{A: one, B: other}) // of two numbers: none
	}
	for i, c := range []struct {
		what string
		v    visit
		want map[string]int
	}{
		{"roots that do not parse", visit{roots: repeat([]byte{0x82}), announcements: [][]byte{announcedAs(t, 1, key.PrivateKey)}}, map[string]int{"protocol": 1}},
		{"roots that do not follow", visit{roots: repeat(next)}, map[string]int{"root": 2, "budget": 1}},
		{"roots of another mesh", visit{roots: repeat(forged)}, nil},
		{"timestamps of a stranger", visit{timestamps: repeat(stamp)}, map[string]int{"signature": 2, "budget": 6}},
		{"timestamps under a newer root", visit{timestamps: repeat(newer)}, nil},
		{"timestamps that do not parse", visit{timestamps: repeat([]byte{0x82})}, map[string]int{"form": 2, "budget": 6}},
		{"evidence that is none", visit{evidence: evidence}, map[string]int{"form": 2, "budget": 6}},
		{"announcements that do not parse", visit{announcements: repeat([]byte{0x82})}, map[string]int{"form": 2, "budget": 1}},
		{"announcements of a stranger", visit{announcements: repeat(one)}, map[string]int{"signature": 2, "budget": 1}},
	} {
		c.v.same = true // nothing is said of its root
		if got := visited(peer.ID(fmt.Sprint("peer", i)), c.v); fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("%s: refused %v, want %v", c.what, got, c.want)
		}
	}
	n.do(func() {
		if _, _, ok := n.catalog.Latest("p"); ok {
			t.Error("after a trust root that does not parse more was taken in")
		}
		if n.ex.size() > 0 {
			t.Errorf("%d are remembered who are not here", n.ex.size())
		}
		n.net.table.known["known"] = &known{}
		if n.linked("nobody") || n.linked("known") {
			t.Error("who is not here is linked")
		}
		delete(n.net.table.known, "known")
		begun := n.ex.begun
		if n.exchange("nobody", nil); n.ex.begun != begun {
			t.Error("asked somebody who is not here")
		}
	})
}

// TestExchangesAreRationed: whoever makes us ask again and again is left alone for a while.
func TestExchangesAreRationed(t *testing.T) {
	key := testKey(t)
	n := testNode(t, key)
	o := newOutsider(t, n)
	o.meet(t)
	until(t, "the first exchange", func() bool {
		done := false
		n.do(func() { done = n.linked(o.ID()) && n.ex.begun > 0 && !n.ex.running[o.ID()] })
		return done
	})
	n.do(func() {
		begun, mine, p, now := n.ex.begun, n.catalog.Digest(), o.ID(), time.Now()
		other := [8]byte{9}
		delete(n.ex.seen, p)
		n.exchange(p, &mine)
		n.ex.seen[p] = [2][8]byte{mine, other}
		n.exchange(p, &other)
		n.ex.next[p] = now.Add(time.Second)
		delete(n.net.digests, p)
		n.repeatExchange(p, now)
		if n.ex.begun != begun {
			t.Error("asked where there is nothing to gain, or too early")
		}
		delete(n.ex.seen, p)
		n.ex.running[p] = true
		n.repeatExchange(p, now.Add(time.Minute))
		if n.ex.again[p] {
			t.Error("a round asks a second time while the first goes on")
		}
		if n.exchange(p, &other); n.ex.begun != begun || !n.ex.again[p] {
			t.Error("asked twice at once, or the second time is forgotten")
		}
		delete(n.ex.running, p)
		delete(n.ex.again, p)
		n.ex.visits.spend(time.Now(), o.ID(), 100)
		n.exchange(o.ID(), nil)
		if wait := time.Until(n.ex.next[o.ID()]); n.ex.begun != begun || wait <= 0 || wait > againAfterError {
			t.Errorf("%d exchanges over budget, the next in %v", n.ex.begun-begun, wait)
		}
	})
}

// TestDigestsShow: who waits for a change hears when a neighbour's catalog turns out to be another than thought.
func TestDigestsShow(t *testing.T) {
	n := testNode(t, testKey(t))
	o := newOutsider(t, n)
	o.meet(t)
	until(t, "the first exchange", func() bool {
		known := false
		n.do(func() { _, known = n.net.digests[o.ID()] })
		return known
	})
	n.do(func() {
		for _, c := range []struct {
			p       peer.ID
			digest  [8]byte
			changed bool
		}{{o.ID(), [8]byte{1}, true}, {o.ID(), [8]byte{1}, false}, {o.ID(), [8]byte{2}, true}, {"nobody", [8]byte{1}, false}} {
			n.dirty = false
			if n.noteDigest(c.p, c.digest); n.dirty != c.changed {
				t.Errorf("%v %x: changed %v", c.p, c.digest, n.dirty)
			}
		}
		delete(n.net.digests, o.ID())
		n.dirty = false
		if n.noteDigest(o.ID(), [8]byte{}); !n.dirty {
			t.Error("the first digest is no change")
		}
		if _, ok := n.net.digests["nobody"]; ok {
			t.Error("a digest of who is not here is remembered")
		}
	})
}

// TestMoreIsAskedFor: a visit that brought news is followed by another, for there may be more; one that brought none is not, and
// both are remembered so.
func TestMoreIsAskedFor(t *testing.T) {
	key := newPen(t)
	n := openNode(t, Config{}, rootOf(t, key, announce.ProductRule{Pattern: "*"}))
	runNode(t, n)
	o := newOutsider(t, n)
	o.meet(t)
	for seq, news := range []bool{false, true, false, true} {
		for _, more := range []bool{false, true} {
			until(t, "the exchange to end", func() bool {
				done := false
				n.do(func() { done = n.linked(o.ID()) && n.ex.begun > 0 && !n.ex.running[o.ID()] })
				return done
			})
			v := visit{more: more, same: true}
			if news {
				v.announcements = [][]byte{announcedAs(t, uint64(2*seq+1), key.PrivateKey)}
				if more {
					v.announcements = [][]byte{announcedAs(t, uint64(2*seq+2), key.PrivateKey)}
				}
			}
			n.do(func() {
				begun := n.ex.begun
				delete(n.ex.seen, o.ID())
				n.visited(o.ID(), n.view(), &v, nil)
				if _, seen := n.ex.seen[o.ID()]; n.ex.begun > begun != news || seen == more {
					t.Errorf("more %v, news %v: asked again %v, nothing left to gain %v", more, news, n.ex.begun > begun, seen)
				}
			})
		}
	}
}

// TestWhatIsRememberedOfAVisit: what was left for later is asked for again; a neighbour of another mesh, with whom nothing is to be
// gained, is not, and nothing of his is looked at.
func TestWhatIsRememberedOfAVisit(t *testing.T) {
	key := newPen(t)
	n := openNode(t, Config{}, rootOf(t, key, announce.ProductRule{Pattern: "*"}))
	runNode(t, n)
	o := newOutsider(t, n)
	o.meet(t)
	until(t, "the exchange to end", func() bool {
		done := false
		n.do(func() { done = n.linked(o.ID()) && n.ex.begun > 0 && !n.ex.running[o.ID()] })
		return done
	})
	n.do(func() {
		env := announcedAs(t, 1, key.PrivateKey)
		visited := func(v visit) (seen bool) {
			delete(n.ex.seen, o.ID())
			n.visited(o.ID(), n.view(), &v, nil)
			_, seen = n.ex.seen[o.ID()]
			return seen
		}
		if seen := visited(visit{more: true, root: rootName{1, [8]byte{9}}, announcements: [][]byte{env}}); !seen || !n.ex.foreign[o.ID()] {
			t.Error("somebody of another mesh is asked again and again")
		}
		if _, _, ok := n.catalog.Latest("p"); ok {
			t.Error("what somebody of another mesh brought is looked at")
		}
		n.ex.fetched.spend(time.Now(), o.ID(), 100)
		if visited(visit{same: true, announcements: [][]byte{env}}) || n.ex.foreign[o.ID()] {
			t.Error("what was left for later is not asked for again")
		}
	})
}

// TestSame: who knows the same is told so, and nothing else.
func TestSame(t *testing.T) {
	view := &catalogView{digest: [8]byte{1}, heads: []announce.Head{{Product: "a", Epoch: 1, Seq: 1}}}
	ours, theirs := net.Pipe()
	go func() {
		theirs.Write(view.hello())
		theirs.SetWriteDeadline(time.Now())
	}()
	go answerExchange(wire{end: ours}, view)
	all, err := io.ReadAll(theirs)
	if err != nil || !bytes.Equal(all, appendFrame(nil, frameSame, view.digest[:])) {
		t.Errorf("answered %x, %v", all, err)
	}
}

// TestLiarsAreShutOut: who is below what pubsub reads is shut out, once, and only if he is here.
func TestLiarsAreShutOut(t *testing.T) {
	n := testNode(t, testKey(t))
	o, low := newOutsider(t, n), newOutsider(t, n)
	o.meet(t)
	low.meet(t)
	n.do(func() {
		n.net.gossip.score.Store(&map[peer.ID]float64{o.ID(): graylisted, low.ID(): graylisted - 1, "gone": graylisted - 1, "silent": 0})
		n.shutLiars()
		n.shutLiars()
		g := n.net.gater
		if g.banned(o.ID()) || !g.banned(low.ID()) || g.banned("gone") {
			t.Errorf("at the limit %v, below %v, not here %v", g.banned(o.ID()), g.banned(low.ID()), g.banned("gone"))
		}
	})
	if c := counts(n)["protocol"]; c != 1 {
		t.Errorf("shut out %d times", c)
	}
	if g := n.Guard(); len(g.Scores) != 3 || len(g.Banned) != 1 || g.Banned[0] != low.ID().String() {
		t.Errorf("%+v", g)
	}
}

func TestWatches(t *testing.T) {
	v := &served{srv: newServer(nil, slog.New(slog.DiscardHandler)), wake: make(chan struct{}, 1), watches: map[cid.Cid]*watch{}}
	name := func(i int) cid.Cid { return store.RawCID(store.Sum([]byte{byte(i)})) }
	for i := range maxWatches {
		check(t, v.acceptWatch(name(i), true))
	}
	v.watches[name(0)].whole = false
	if err := v.acceptWatch(name(0), true); err != nil || v.watches[name(0)].gives != nil || !v.watches[name(0)].whole {
		t.Errorf("watching again: %v, %+v", err, v.watches[name(0)])
	}
	check(t, v.acceptWatch(name(maxWatches), false))
	if err := v.acceptWatch(name(maxWatches), true); !errors.Is(err, errProtocol) {
		t.Errorf("one too many: %v", err)
	}
	check(t, v.acceptWatch(name(0), false))
	check(t, v.acceptWatch(name(maxWatches), true))
	if v.watching(name(0)) || !v.watching(name(maxWatches)) {
		t.Error("what is watched is not what was asked for")
	}
}

// TestRepliesAreWrittenEarly: however many requests wait, no more than about one buffer of answers does.
func TestRepliesAreWrittenEarly(t *testing.T) {
	v, _, large, _ := contentServer(t)
	ours, theirs := net.Pipe()
	v.stream = wire{end: ours}
	written := make(chan int64)
	go func() { n, _ := io.Copy(io.Discard, theirs); written <- n }()
	var out []byte
	total := 0
	for i := range 20 {
		var err error
		if out, err = v.reply(out, request{id: uint64(i), blob: large.Blob, length: 100_000}); err != nil {
			t.Fatal(err)
		}
		if total += 100_000; len(out) > replyBuffer+64 {
			t.Fatalf("%d bytes wait", len(out))
		}
	}
	ours.Close()
	if n := int(<-written) + len(out); n < total || n > total+20*8 {
		t.Errorf("%d bytes of answers, %d of content", n, total)
	}
	if _, err := v.reply(out, request{blob: large.Blob, length: 200_000}); err == nil {
		t.Error("the stream is closed, and nobody noticed")
	}
}

func TestHaveMapsAreBounded(t *testing.T) {
	var m fetch.HaveMap
	for i := range uint32(maxPartials + 100) {
		m.Partial = append(m.Partial, fetch.PartialHave{Blob: i, Chunks: []byte{1}})
	}
	got, err := decodeHaveMap(&body{b: encodeHaveMap(m)})
	if err != nil || len(got.Partial) != maxPartials {
		t.Errorf("%d partial blobs, %v", len(got.Partial), err)
	}
	for i := range m.Partial {
		m.Partial[i].Chunks = make([]byte, 1000)
	}
	b := encodeHaveMap(m)
	if got, err := decodeHaveMap(&body{b: b}); err != nil || len(got.Partial) < 400 || len(b)+100 > maxReplyFrame {
		t.Errorf("%d bytes, %d partial blobs, %v", len(b), len(got.Partial), err)
	}
	long := []byte{0, 0}
	for i := range uint64(maxPartials + 1) {
		long = append(binary.AppendUvarint(long, i), 0)
	}
	if _, err := decodeHaveMap(&body{b: long}); !errors.Is(err, errProtocol) {
		t.Errorf("%d partial blobs: %v", maxPartials+1, err)
	}
	for name, b := range map[string][]byte{
		"a blob that no manifest has": append(binary.AppendUvarint([]byte{0, 0}, 1<<32), 0),
		"a bitfield that is cut off":  {0, 9, 1},
		"no flags":                    {},
	} {
		if _, err := decodeHaveMap(&body{b: b}); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// listening is an asker without a stream.
func listening() *asker {
	return &asker{name: "server", wake: make(chan struct{}, 1), received: func(peer.ID, int) {}, log: slog.New(slog.DiscardHandler),
		pending: map[uint64]*asked{}, wire: map[sessionRequest]uint64{}, sessions: map[cid.Cid]*attached{}}
}

func newSession(t *testing.T) *fetch.Session {
	st, err := store.Open(t.TempDir())
	check(t, err)
	t.Cleanup(func() { st.Close() })
	return fetch.New(fetch.Config{Store: st})
}

// TestAskerAttaches: a fetch asks once what the neighbour holds, and knows the neighbour as soon as it holds something.
func TestAskerAttaches(t *testing.T) {
	m := store.RawCID(store.Sum([]byte("m")))
	for name, c := range map[string]struct {
		m    fetch.HaveMap
		join bool
	}{
		"nothing":         {fetch.HaveMap{}, false},
		"all":             {fetch.HaveMap{All: true}, true},
		"the manifest":    {fetch.HaveMap{Manifest: true}, true},
		"some blobs":      {fetch.HaveMap{Blobs: []byte{0x80}}, true},
		"a part of a one": {fetch.HaveMap{Partial: []fetch.PartialHave{{Blob: 1}}}, true},
	} {
		a, s := listening(), newSession(t)
		a.attach(m, s)
		a.attach(m, s)
		if want := appendFrame(nil, frameWatch, m.Bytes()); !bytes.Equal(a.out, want) {
			t.Errorf("attaching twice writes %x", a.out)
		}
		check(t, a.accept(frameHaveMap, &body{b: append(m.Bytes(), encodeHaveMap(c.m)...)}))
		if joined := a.sessions[m].joined.Load(); joined != c.join {
			t.Errorf("%s: joined %v", name, joined)
		}
	}
	a := listening()
	a.closed = true
	if a.attach(m, newSession(t)); len(a.sessions)+len(a.out) != 0 {
		t.Error("a stream that has ended takes part in another fetch")
	}
	a = listening()
	if a.attach(m, newSession(t)); len(a.sessions) != 1 || a.idle() {
		t.Error("not attached")
	}
	another := newSession(t)
	if a.attach(m, another); a.sessions[m].Session != another {
		t.Error("a new fetch of the same release is not attached")
	}
}

func TestHaveMapsAreCounted(t *testing.T) {
	m := store.RawCID(store.Sum([]byte("m")))
	a := listening()
	a.attach(m, newSession(t))
	frame := append(m.Bytes(), encodeHaveMap(fetch.HaveMap{Manifest: true})...)
	for i := range maxHaveMaps {
		if err := a.accept(frameHaveMap, &body{b: frame}); err != nil {
			t.Fatalf("map %d: %v", i, err)
		}
	}
	if err := a.accept(frameHaveMap, &body{b: frame}); !errors.Is(err, errProtocol) {
		t.Errorf("map %d: %v", maxHaveMaps, err)
	}
}

// TestAskerRequests: requests go out in frames that the server takes, none on a stream that has ended, and each is answered once.
func TestAskerRequests(t *testing.T) {
	a, s := listening(), newSession(t)
	p := &sessionPeer{a, s}
	reqs := make([]fetch.Request, 3000)
	for i := range reqs {
		reqs[i] = fetch.Request{ID: uint64(i), Blob: store.RawCID(store.Sum(nil)), Length: 10}
	}
	p.Request(reqs)
	r, n := reader(a.out), 0
	for {
		typ, raw, err := readFrame(r, maxRequestFrame)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || typ != frameWant {
			t.Fatalf("frame %d, %v", typ, err)
		}
		for b := (&body{b: raw}); b.more(); n++ {
			b.uvarint("id")
			b.byte("kind")
			b.cid("blob")
			b.uvarint("offset")
			if b.uvarint("length"); b.err != nil {
				t.Fatal(b.err)
			}
		}
	}
	if n != len(reqs) || len(a.pending) != len(reqs) || a.idle() {
		t.Errorf("%d requests were written, %d are waiting", n, len(a.pending))
	}
	a.out, a.closed = nil, true
	p.Request(reqs[:1])
	if p.Cancel([]uint64{1}); len(a.out) != 0 || len(a.pending) != len(reqs) {
		t.Error("something is asked on a stream that has ended")
	}
	a = listening()
	p = &sessionPeer{a, s}
	p.Request([]fetch.Request{{ID: 1, Kind: fetch.List, Blob: store.RawCID(store.Sum(nil)), Length: 10}})
	q := a.pending[1]
	check(t, a.accept(framePart, &body{b: []byte("\x01abc")}))
	check(t, a.accept(framePart, &body{b: []byte("\x01de")}))
	check(t, a.accept(frameData, &body{b: []byte("\x01f")}))
	if string(q.part) != "abcdef" || !a.idle() {
		t.Errorf("a list in parts: %q, idle %v", q.part, a.idle())
	}
	if n := a.next; n != 1 {
		t.Fatalf("%d requests were made", n)
	}
	for what, b := range map[string][]byte{"an empty answer": {}, "a number that is cut off": {0x80}} {
		for _, typ := range []byte{frameData, framePart} {
			if err := a.accept(typ, &body{b: b}); !errors.Is(err, errProtocol) {
				t.Errorf("%s, frame %d: %v", what, typ, err)
			}
		}
	}
	another := &sessionPeer{a, newSession(t)}
	a.sessions[store.RawCID(store.Sum(nil))] = &attached{Session: s}
	p.Request([]fetch.Request{{ID: 2, Blob: store.RawCID(store.Sum(nil)), Length: 10}, {ID: 4, Blob: store.RawCID(store.Sum(nil)), Length: 10}})
	another.Request([]fetch.Request{{ID: 2, Blob: store.RawCID(store.Sum(nil)), Length: 10}})
	a.out = nil
	if p.Cancel([]uint64{99}); len(a.out) != 0 {
		t.Errorf("what was never asked is taken back: %x", a.out)
	}
	p.Cancel([]uint64{4})
	if want := appendFrame(nil, frameCancel, []byte{3}); !bytes.Equal(a.out, want) {
		t.Errorf("taking one back writes %x", a.out)
	}
	check(t, a.accept(frameGone, &body{b: []byte{3}}))
	if err := a.accept(frameGone, &body{b: []byte{3}}); !errors.Is(err, errProtocol) {
		t.Errorf("gone twice: %v", err)
	}
	a.out = nil
	a.detach(store.RawCID(store.Sum(nil)))
	want := append(appendFrame(nil, frameUnwatch, store.RawCID(store.Sum(nil)).Bytes()), appendFrame(nil, frameCancel, []byte{2})...)
	if !bytes.Equal(a.out, want) || len(a.sessions) != 0 {
		t.Errorf("detaching writes %x", a.out)
	}
	m := store.RawCID(store.Sum(nil)).Bytes()
	for what, b := range map[string][]byte{
		"a have-map without flags": m, "a have-map of another manifest": make([]byte, cidLen),
		"news that is cut off": append(bytes.Clone(m), 0x80),
	} {
		typ := frameHaveMap
		if strings.HasPrefix(what, "news") {
			typ = frameHave
		}
		if err := a.accept(typ, &body{b: b}); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := a.accept(frameGone, &body{b: []byte{2, 0x80}}); !errors.Is(err, errProtocol) || !strings.Contains(err.Error(), "truncated") {
		t.Errorf("gone, cut off: %v", err)
	}
}

func TestNewsOutOfRange(t *testing.T) {
	for _, v := range [][2]uint64{{1 << 32, 0}, {0, 1<<32 + 1}} {
		b := binary.AppendUvarint(binary.AppendUvarint(nil, v[0]), v[1])
		if _, err := decodeHaves(&body{b: b}); !errors.Is(err, errProtocol) {
			t.Errorf("%v: %v", v, err)
		}
	}
}

func TestFrames(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"nothing at all":     {nil, io.EOF},
		"of no length":       {[]byte{0}, errProtocol},
		"over the limit":     {appendFrame(nil, 1, make([]byte, 10)), errProtocol},
		"without end":        {bytes.Repeat([]byte{0xff}, 9), io.ErrUnexpectedEOF},
		"without a type":     {[]byte{5}, io.ErrUnexpectedEOF},
		"without a body":     {[]byte{5, 1}, io.ErrUnexpectedEOF},
		"with half its body": {[]byte{5, 1, 2}, io.ErrUnexpectedEOF},
		"as long as allowed": {appendFrame(nil, 1, make([]byte, 9)), nil},
	} {
		if _, _, err := readFrame(reader(c.b), 10); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBodyStopsAtAnError(t *testing.T) {
	b := &body{b: append(make([]byte, cidLen), 1, 2, 3)}
	if b.cid("blob"); !errors.Is(b.err, errProtocol) || b.more() {
		t.Errorf("%v, more: %v", b.err, b.more())
	}
}

// TestBelongs: a manifest is that of its announcement; a recall has the manifest of an older release.
func TestBelongs(t *testing.T) {
	for _, c := range []struct {
		product    string
		epoch, seq uint64
		recall     bool
		good       bool
	}{
		{"p", 2, 5, false, true}, {"q", 2, 5, false, false}, {"p", 2, 4, false, false}, {"p", 2, 6, false, false},
		{"p", 1, 5, false, false}, {"p", 3, 5, false, false},
		{"p", 2, 4, true, true}, {"p", 1, 9, true, true}, {"p", 2, 5, true, false}, {"p", 2, 6, true, false}, {"p", 3, 1, true, false},
		{"q", 2, 4, true, false},
	} {
		err := belongs(&manifest.Header{Product: c.product, Epoch: c.epoch, Seq: c.seq}, &announce.Announcement{Product: "p", Epoch: 2, Seq: 5, Recall: c.recall})
		if (err == nil) != c.good {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestFloors: a person may go back to nothing below what the trust root or an announcement says.
func TestFloors(t *testing.T) {
	key := newPen(t)
	n := openNode(t, Config{}, rootOf(t, key, announce.ProductRule{Pattern: "marked"}, announce.ProductRule{Pattern: "ruled", Floor: 4}))
	env, err := (&announce.Announcement{Product: "marked", RootVer: 1, Epoch: 1, Seq: 9, Version: "v", Floor: 6,
		Manifest: store.RawCID(store.Sum(nil)), ManifestSize: 1}).Sign(key.PrivateKey)
	check(t, err)
	n.do(func() {
		n.learn(env, "")
		for _, c := range []struct {
			product    string
			epoch, seq uint64
			good       bool
		}{
			{"marked", 1, 6, true}, {"marked", 1, 5, false}, {"marked", 2, 1, true},
			{"ruled", 1, 4, true}, {"ruled", 1, 3, false}, {"ruled", 0, 9, false}, {"ruled", 2, 1, true}, {"unknown", 0, 1, true},
		} {
			if err := n.belowFloor(image.Release{Product: c.product, Epoch: c.epoch, Seq: c.seq}); (err == nil) != c.good || err != nil && CodeOf(err) != CodeRefused {
				t.Errorf("%+v: %v", c, err)
			}
		}
	})
}

// TestPast: a recall finds the content of the very release that was named, also when it was never announced from here.
func TestPast(t *testing.T) {
	key := newPen(t)
	n := openNode(t, Config{}, rootOf(t, key, announce.ProductRule{Pattern: "*"}))
	want := map[[2]uint64]string{}
	for _, product := range []string{"a", "b", "c", "d", "e", "f", "g", "p"} {
		for _, number := range [][2]uint64{{1, 1}, {1, 2}, {2, 1}} {
			a := announce.Announcement{Product: product, Epoch: number[0], Seq: number[1], Version: "v"}
			signInto(t, n.Store(), &a, map[string]string{"x": random(100)})
			want[number] = a.Manifest.String()
		}
	}
	for number, m := range want {
		if past, err := n.Past("p", number[0], number[1]); err != nil || past.Manifest != m {
			t.Errorf("%v: %+v, %v", number, past, err)
		}
	}
	if _, err := n.Past("p", 2, 2); CodeOf(err) != CodeNotFound {
		t.Errorf("a release that never was: %v", err)
	}
	if past, err := n.Past("p", 0, 2); err != nil || past.Epoch != 1 {
		t.Errorf("in the trust root's epoch: %+v, %v", past, err)
	}
}

// TestTimestampsAreRefused: what AddTimestamp and NextTimestamp say of what cannot be.
func TestTimestampsAreRefused(t *testing.T) {
	key, forger := newPen(t), newPen(t)
	sign := func(version uint64, at int64, by pen) []byte {
		env, err := (&announce.Timestamp{RootVer: version, Issued: at}).Sign(by.PrivateKey)
		check(t, err)
		return env
	}
	fresh := openNode(t, Config{}, nil)
	if err := fresh.AddTimestamp(sign(1, 10, key)); CodeOf(err) != CodeNoRoot {
		t.Errorf("without a trust root: %v", err)
	}
	if _, err := fresh.NextTimestamp(); CodeOf(err) != CodeNoRoot {
		t.Errorf("without a trust root: %v", err)
	}
	n := openNode(t, Config{}, rootOf(t, key, announce.ProductRule{Pattern: "*"}))
	check(t, n.AddTimestamp(sign(1, 10, key)))
	refused(t, "by a stranger", n.AddTimestamp(sign(1, 20, forger)), CodeRefused)
	refused(t, "under a newer root", n.AddTimestamp(sign(2, 20, key)), CodeRefused)
	refused(t, "an older one", n.AddTimestamp(sign(1, 5, key)), CodeOlder)
	nobody := offline(t, key.PrivateKey) // its root gives the role to nobody
	_, err := nobody.NextTimestamp()
	refused(t, "without the role", err, CodeRefused)
	n.do(func() { // two releases of one number: neither is called the newest
		for _, text := range []string{"a", "b"} {
			env, err := (&announce.Announcement{Product: "p", RootVer: 1, Epoch: 1, Seq: 1, Version: "v",
				Manifest: store.RawCID(store.Sum([]byte(text))), ManifestSize: 1}).Sign(key.PrivateKey)
			check(t, err)
			n.learn(env, "")
		}
		n.learn(announcedIn(t, "q", key), "")
	})
	next, err := n.NextTimestamp()
	if err != nil || len(next.Heads) != 1 || next.Heads[0].Product != "q" {
		t.Errorf("%+v, %v", next, err)
	}
	heads := []announce.TimestampHead{{Product: "q", Epoch: 1, Seq: 9}}
	env, err := (&announce.Timestamp{RootVer: 1, Issued: 30, Heads: heads}).Sign(key.PrivateKey)
	check(t, err)
	check(t, n.AddTimestamp(env))
	n.do(func() {
		if f := n.freshness("q"); f.State != "stale" || f.NewerSeq != 9 || f.NewerEpoch != 1 {
			t.Errorf("%+v", f)
		}
	})
}

func announcedIn(t *testing.T, product string, key pen) []byte {
	env, err := (&announce.Announcement{Product: product, RootVer: 1, Epoch: 1, Seq: 1, Version: "v",
		Manifest: store.RawCID(store.Sum([]byte(product))), ManifestSize: 1}).Sign(key.PrivateKey)
	check(t, err)
	return env
}
