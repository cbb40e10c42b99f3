package p2p

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
	"satchel/store"
)

// markerProduct is what a stranger announces, truly, after what is to be ignored: when that is known the other was looked at.
const markerProduct = "marker"

// desk is a node to which documents are brought. It follows lessons, of which it has applied seq 1 and 2 of epoch 2.
type desk struct {
	n      *Node
	image  string
	marked uint64  // seq of the last marker
	scored []score // of who gossiped

	seen *lowest

	// Who may sign what, under version 2 of the root. Under version 1 the key old could sign lessons too.
	root, lessons, old, games, wake, stamp, one, two, other pen

	current []byte        // the announcement of lessons that is here
	trusted announce.Root // version 2
}

// score is what a stranger's gossip score must be in the end.
type score struct {
	peer  peer.ID
	input string
	bad   bool
}

// lowest are the lowest scores that gossipsub ever told. It tells them four times a minute, and forgets who is gone within half of one.
type lowest struct {
	mu     sync.Mutex
	scores map[peer.ID]float64
	told   int
}

// watchScores begins to collect the scores of a node.
func watchScores(t *testing.T, n *Node) *lowest {
	l := &lowest{scores: map[peer.ID]float64{}}
	var g *gossip
	n.do(func() { g = n.net.gossip })
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for last := g.score.Load(); ctx.Err() == nil; <-tick.C {
			if now := g.score.Load(); now != last {
				last = now
				l.add(*now)
			}
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait() })
	return l
}

func (l *lowest) add(scores map[peer.ID]float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.told++
	for p, score := range scores {
		l.scores[p] = min(l.scores[p], score)
	}
}

// Times that are signed.
const (
	rootIssued = 1_700_000_000
	expired    = 1_750_000_000
	stampTime  = 1_800_000_000
)

func newDesk(t *testing.T) *desk {
	d := &desk{image: t.TempDir()}
	for _, p := range []*pen{&d.root, &d.lessons, &d.old, &d.games, &d.wake, &d.stamp, &d.one, &d.two, &d.other} {
		*p = newPen(t)
	}
	first, second := d.rootVersion(1), d.rootVersion(2)
	i := slices.IndexFunc(first.Products, func(r announce.ProductRule) bool { return r.Pattern == "lessons" })
	first.Products[i].Keys = append(first.Products[i].Keys, d.old.id())
	d.trusted = second
	v1, err := first.Sign(d.root.PrivateKey)
	check(t, err)
	v2, err := second.Sign(d.root.PrivateKey)
	check(t, err)
	d.n = openNode(t, Config{}, append(v1, v2...))
	check(t, d.n.Follow("lessons", d.image))
	for seq := uint64(1); seq <= 2; seq++ {
		publishHere(t, d.n, d.lessons.PrivateKey, announce.Announcement{Product: "lessons", RootVer: 2, Epoch: 2, Seq: seq, Version: "v", Floor: seq},
			map[string]string{"README": fmt.Sprint("lessons ", seq), "big": random(100_000)})
		_, err := d.n.Apply(t.Context(), "lessons")
		check(t, err)
	}
	_, d.current, _ = latest(d.n, "lessons")
	stamp, err := (&announce.Timestamp{RootVer: 2, Issued: stampTime, Heads: []announce.TimestampHead{{Product: "lessons", Epoch: 2, Seq: 2}}}).Sign(d.stamp.PrivateKey)
	check(t, err)
	check(t, d.n.AddTimestamp(stamp))
	runNode(t, d.n)
	d.seen = watchScores(t, d.n)
	return d
}

// rootVersion is a root of the desk's.
func (d *desk) rootVersion(version uint64) announce.Root {
	one := func(p pen) announce.RoleRule { return announce.RoleRule{Keys: []announce.KeyID{p.id()}, Threshold: 1} }
	rule := func(pattern string, p pen) announce.ProductRule {
		return announce.ProductRule{Pattern: pattern, Epoch: 1, Keys: []announce.KeyID{p.id()}, Threshold: 1, Class: announce.ClassContent, MayWake: true}
	}
	r := announce.Root{Version: version, Issued: rootIssued,
		Roles:    map[announce.Role]announce.RoleRule{announce.RoleRoot: one(d.root), announce.RoleTimestamp: one(d.stamp), announce.RoleWake: one(d.wake)},
		Products: []announce.ProductRule{rule("lessons", d.lessons), rule("games", d.games), rule("both", d.one), rule("floored", d.lessons), rule("quiet", d.lessons), rule(markerProduct, d.lessons), rule("x.*", d.lessons)}}
	for _, p := range []pen{d.root, d.lessons, d.old, d.games, d.wake, d.stamp, d.one, d.two} {
		r.Keys = append(r.Keys, p.Public())
	}
	for i := range r.Products {
		switch p := &r.Products[i]; p.Pattern {
		case "lessons":
			p.Epoch = 2
		case "both":
			p.Keys, p.Threshold = append(p.Keys, d.two.id()), 2
		case "floored":
			p.Floor = 5
		case "quiet":
			p.MayWake = false
		}
	}
	return r
}

// news are the fields of an announcement that would be taken, were it signed.
func news(product string, seq uint64) []pair {
	epoch := uint64(1)
	if product == "lessons" {
		epoch = 2
	}
	values := [][]byte{cborText(product), cborUint(2), cborUint(epoch), cborUint(seq), cborText("9"),
		cborBytes(store.RawCID(store.Sum(fmt.Append(nil, product, seq))).Bytes()), cborUint(1000), cborUint(1000)}
	var out []pair
	for i, v := range values {
		out = append(out, pair{cborUint(uint64(i + 1)), v})
	}
	return out
}

// Keys of an announcement's fields.
const (
	fieldProduct = iota + 1
	fieldRootVersion
	fieldEpoch
	fieldSeq
	fieldVersion
	fieldManifest
	fieldManifestSize
	fieldTotalSize
	fieldIssued
	fieldExpires
	fieldFloor
	fieldFlags
	fieldMinUpdater
	fieldVia
)

// announcement is one of lessons, well signed over whatever it says.
func (d *desk) announcement(fields []pair) document {
	return document{frameAnnouncement, signed(ofAnnouncement, cborMap(fields...), d.lessons)}
}

// document is what a stranger tells, and by which frame of an exchange. Announcements are also gossiped.
type document struct {
	frame byte
	data  []byte
}

// documentRow is a hostile input that is a document, or some of the same kind. What it must get is a letter (see row) and the name of the
// counter that rises with each; A says that it is taken.
type documentRow struct {
	number   int
	input    string
	docs     []document
	gossip   string // by gossip; many are tried one by one. Empty: not gossiped
	exchange string // by a catalog exchange; empty: not exchanged
	person   bool   // a person who says to trust it gets F
	changes  string // what may change on the disk
	check    func(t *testing.T)
}

func (d *desk) rows(t *testing.T) (out []row) {
	for _, r := range slices.Concat(d.forms(t), d.signatures(), d.order(), d.urgent(t), d.roots(t), d.stamps(t)) {
		out = append(out, row{r.number, r.input, func(t *testing.T) { d.run(t, r) }})
	}
	out = append(out, d.stories(t)...)
	slices.SortStableFunc(out, func(a, b row) int { return a.number - b.number })
	return out
}

// run brings the documents of a row by each way, each time by a new stranger.
func (d *desk) run(t *testing.T, r documentRow) {
	before := snapshot(t, d.n, d.image)
	if r.exchange != "" {
		docs := r.docs
		if r.exchange[0] == 'R' { // who is new may have two refused
			docs = first(docs, 2)
		}
		d.byExchange(t, docs, r.exchange)
		same(t, before, snapshot(t, d.n, d.image), d.may(r)...)
	}
	if r.gossip != "" {
		d.byGossip(t, first(r.docs, 4), r.gossip)
		d.judged(t, r)
		same(t, before, snapshot(t, d.n, d.image), d.may(r)...)
	}
	if r.person {
		for _, doc := range r.docs {
			refused(t, "trusting it", d.n.Trust(doc.data, false), CodeRefused)
		}
		same(t, before, snapshot(t, d.n, d.image), d.may(r)...)
	}
	if r.check != nil {
		r.check(t)
	}
}

// judged asks for a verdict on all documents that do not parse, where a stranger's would have been used up by a few.
func (d *desk) judged(t *testing.T, r documentRow) {
	for i, doc := range r.docs {
		if _, err := announce.ParseAnnouncement(doc.data); err != nil {
			if v := d.n.validate("nobody", doc.data).Verdict; strings.ToUpper(v.String())[:1] != r.gossip[:1] {
				t.Errorf("document %d (%x): verdict %v", i, doc.data, v)
			}
		}
	}
}

func (d *desk) may(r documentRow) []string {
	if r.changes == "" {
		return nil
	}
	return []string{r.changes}
}

// marker is a new, true announcement.
func (d *desk) marker() document {
	d.marked++
	return d.announcement(with(news(markerProduct, d.marked), fieldRootVersion, cborUint(1)))
}

// awaitMarker waits until the last marker is known.
func (d *desk) awaitMarker(t *testing.T) {
	t.Helper()
	until(t, "the marker", func() bool {
		a, _, _ := latest(d.n, markerProduct)
		return a.Seq == d.marked
	})
}

// byExchange lets a stranger answer the node's first question with documents.
func (d *desk) byExchange(t *testing.T, docs []document, want string) *outsider {
	t.Helper()
	o := newOutsider(t, d.n)
	for _, doc := range docs {
		o.answers = append(o.answers, appendFrame(nil, doc.frame, doc.data))
	}
	marked := want[0] == 'A' || want[0] == 'I'
	if marked {
		o.answers = append(o.answers, appendFrame(nil, frameAnnouncement, d.marker().data))
	}
	before := counts(d.n)
	o.meet(t)
	if marked {
		d.awaitMarker(t)
	}
	d.settled(t, o, before, want, len(docs))
	o.Close()
	return o
}

// byGossip lets a stranger gossip documents.
func (d *desk) byGossip(t *testing.T, docs []document, want string) *outsider {
	t.Helper()
	o := newOutsider(t, d.n)
	o.meet(t)
	before := counts(d.n)
	for _, doc := range docs {
		o.gossiped(t, doc.data)
	}
	if want[0] == 'A' || want[0] == 'I' {
		o.gossiped(t, d.marker().data)
		d.awaitMarker(t)
	}
	d.settled(t, o, before, want, len(docs))
	d.scored = append(d.scored, score{o.ID(), t.Name(), want[0] == 'R'})
	o.Close()
	return o
}

// settled checks the verdict on what a stranger brought: what was counted, and whether it may stay.
func (d *desk) settled(t *testing.T, o *outsider, before map[string]int, want string, docs int) {
	t.Helper()
	letter, counter, _ := strings.Cut(want, " ")
	if letter == "B" {
		counter, docs = "protocol", 1
		until(t, "the stranger to be shut out", func() bool { return shutOut(d.n, o.ID()) })
	}
	if letter == "R" {
		until(t, "it to be refused as "+counter, func() bool { return counts(d.n)[counter] >= before[counter]+docs })
	}
	after := counts(d.n)
	for _, name := range refusalNames {
		rise := 0
		if name == counter {
			rise = docs
		}
		if after[name]-before[name] != rise {
			t.Errorf("%d were refused as %s, want %d", after[name]-before[name], name, rise)
		}
	}
	if letter != "B" && shutOut(d.n, o.ID()) {
		t.Error("the stranger is shut out")
	}
}

// scores checks in the end what gossipsub thought of those who gossiped.
func (d *desk) scores(t *testing.T) {
	told := func() int { d.seen.mu.Lock(); defer d.seen.mu.Unlock(); return d.seen.told }
	before := told()
	until(t, "new scores", func() bool { return told() > before })
	d.seen.mu.Lock()
	defer d.seen.mu.Unlock()
	for _, s := range d.scored {
		if got := d.seen.scores[s.peer]; got < 0 != s.bad {
			t.Errorf("%s: the sender's score is %v; below zero: %v, want %v", s.input, got, got < 0, s.bad)
		}
	}
}

// announcements are well-signed announcements of lessons over payloads that are written here.
func (d *desk) announcements(payloads ...[]byte) (docs []document) {
	for _, p := range payloads {
		docs = append(docs, document{frameAnnouncement, signed(ofAnnouncement, p, d.lessons)})
	}
	return docs
}

func announcements(envelopes ...[]byte) (docs []document) {
	for _, e := range envelopes {
		docs = append(docs, document{frameAnnouncement, e})
	}
	return docs
}

// padded is an announcement of exactly size bytes, with a field that nobody knows and nobody needs.
func (d *desk) padded(product string, size int) document {
	for n := size; ; n-- {
		doc := d.announcement(with(news(product, 9), 64, cborBytes(make([]byte, n))))
		if len(doc.data) == size {
			return doc
		}
	}
}

// forms are the inputs that are wrong before any signature is looked at. All bear a good one.
func (d *desk) forms(t *testing.T) []documentRow {
	base := news("lessons", 9)
	good := d.announcement(base).data
	sa, err := announce.ParseAnnouncement(good)
	check(t, err)
	check(t, d.trusted.Verify(sa)) // unchanged it would be taken
	payload := cborMap(base...)
	odd := func(value ...byte) []byte { return cborMap(with(base, 64, value)...) } // in a field that may be skipped
	replaced := func(key uint64, value []byte) []byte { return cborMap(with(base, key, value)...) }
	swapped := slices.Clone(base)
	swapped[3], swapped[4] = swapped[4], swapped[3]
	longKey := slices.Clone(base)
	longKey[0].key = []byte{0x18, 0x01}

	var halves [][]byte
	for _, n := range []int{0, 1, len(good) / 2, len(good) - 1} {
		halves = append(halves, good[:n])
	}
	cut := announcements(halves...)
	for n := 2; n < len(good)-1; n++ {
		cut = append(cut, document{frameAnnouncement, good[:n]})
	}
	text := func(key uint64, texts ...string) (docs []document) {
		for _, s := range texts {
			docs = append(docs, d.announcement(with(base, key, cborText(s))))
		}
		return docs
	}
	kept, limit := d.padded("x.kept", 300), d.padded("x.limit", announce.MaxEnvelope)
	keeps := func(doc document, product string) func(t *testing.T) {
		return func(t *testing.T) {
			if _, env, _ := latest(d.n, product); !bytes.Equal(env, doc.data) {
				t.Errorf("kept is %x, want %x", env, doc.data)
			}
		}
	}
	return []documentRow{
		{number: 1, input: "an announcement of 513 bytes", docs: []document{d.padded("lessons", announce.MaxEnvelope+1)}, gossip: "R size", exchange: "B"},
		{number: 1, input: "one of 16 kB", docs: []document{d.padded("lessons", 16_000)}, gossip: "R size", exchange: "B"},
		{number: 1, input: "one of 512 bytes is taken", docs: []document{limit}, exchange: "A", changes: "announced/x.limit", check: keeps(limit, "x.limit")},
		{number: 2, input: "empty, or truncated at each byte", docs: cut, gossip: "R form", exchange: "R form"},
		{number: 3, input: "trailing bytes", docs: append(d.announcements(append(bytes.Clone(payload), 0), append(bytes.Clone(payload), payload...)),
			announcements(append(bytes.Clone(good), 0), append(bytes.Clone(good), good...))...), gossip: "R form", exchange: "R form"},
		{number: 4, input: "an over-long integer, an over-long key, unsorted keys", docs: d.announcements(replaced(fieldRootVersion, []byte{0x18, 2}),
			cborMap(longKey...), cborMap(swapped...), append([]byte{0xb8, byte(len(base))}, joined(base)...)), gossip: "R form", exchange: "R form"},
		{number: 5, input: "a duplicate map key", docs: d.announcements(cborMap(append(slices.Clone(base), base[7])...), cborMap(slices.Insert(slices.Clone(base), 4, base[3])...)),
			gossip: "R form", exchange: "R form"},
		{number: 6, input: "indefinite length", docs: append(d.announcements(append(append([]byte{0xbf}, joined(base)...), 0xff),
			replaced(fieldVersion, []byte{0x7f, 0x61, '9', 0xff}), odd(0x9f, 0xff)),
			announcements(append(append([]byte{0x9f}, good[1:]...), 0xff))...), gossip: "R form", exchange: "R form"},
		{number: 7, input: "tags, negative and simple values", docs: d.announcements(odd(0xc1, 0), odd(0xf7), odd(0xf6), odd(0x20), odd(0xf4), odd(0xf5), odd(0xe0), odd(0xf8, 0xff)),
			gossip: "R form", exchange: "R form"},
		{number: 7, input: "floats", docs: d.announcements(odd(0xf9, 0x7e, 0), odd(0xf9, 0x3c, 0), odd(0xfa, 0x3f, 0x80, 0, 0), odd(0xfb, 0x7f, 0xf0, 0, 0, 0, 0, 0, 0)),
			gossip: "R form", exchange: "R form"},
		// The format allows eight levels, where the list says four: an announcement is 512 bytes anyway.
		{number: 8, input: "deep nesting", docs: d.announcements(odd(append(bytes.Repeat([]byte{0x81}, 8), 0)...), odd(append(bytes.Repeat([]byte{0x81}, 200), 0)...),
			odd(append(bytes.Repeat([]byte{0xa1, 0}, 100), 0)...)), gossip: "R form", exchange: "R form"},
		{number: 8, input: "arrays, maps and texts that claim all memory", docs: d.announcements(odd(0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
			odd(0xbb, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff), odd(0x5b, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff), odd(0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)),
			gossip: "R form", exchange: "R form"},
		{number: 9, input: "an unknown critical key or flag", docs: d.announcements(replaced(15, cborUint(1)), replaced(63, cborUint(1)), replaced(fieldFlags, cborUint(4))),
			gossip: "I newer", exchange: "I newer"},
		{number: 9, input: "an unknown key that is not critical, exchanged", docs: []document{kept}, exchange: "A", changes: "announced/x.kept", check: keeps(kept, "x.kept")},
		{number: 9, input: "an unknown key that is not critical, gossiped", docs: []document{d.padded("x.heard", 301)}, gossip: "A", changes: "announced/x.heard"},
		{number: 10, input: "invalid UTF-8 and characters that are not shown", docs: text(fieldVersion, "\xff", "1\x07", "1\u202e", "\u2066x", "1\n", "\x7f", "\u200b", "a\xc3", "\xed\xa0\x80"),
			gossip: "R form", exchange: "R form"},
		{number: 10, input: "the same in a product", docs: text(fieldProduct, "\xff", "lessons\x07", "lessons\u202e", "le\u0301ssons"), gossip: "R form", exchange: "R form"},
		{number: 11, input: "a product of 65 bytes or with strange characters", docs: text(fieldProduct, strings.Repeat("x", 65), "Lessons", "../lessons", "", "les sons", "les/sons",
			".lessons", "lessons.", "a..b", "-a", "l\u0435ssons", "*", "x.*"), gossip: "R form", exchange: "R form"},
	}
}

// flipped is data with one bit changed.
func flipped(data []byte, at int) []byte {
	data = bytes.Clone(data)
	data[at] ^= 1
	return data
}

// groupOrder is L, the number that S of a signature must be below.
var groupOrder, _ = new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)

// malleable adds L to S, which without a check for it is as good.
func malleable(s signature) signature {
	sig := bytes.Clone(s.sig)
	slices.Reverse(sig[32:])
	new(big.Int).Add(new(big.Int).SetBytes(sig[32:]), groupOrder).FillBytes(sig[32:])
	slices.Reverse(sig[32:])
	return signature{s.id, sig}
}

// signatures are the inputs that are well formed. What fails a check costs its sender, and who is new may have two. Each has a payload of
// its own, or gossip would take it for one that it has seen.
func (d *desk) signatures() []documentRow {
	seq := uint64(100)
	next := func(product string) []byte {
		seq++
		return cborMap(news(product, seq)...)
	}
	flip := func(at func(env, payload []byte) int) []byte {
		payload := next("lessons")
		env := signed(ofAnnouncement, payload, d.lessons)
		return flipped(env, at(env, payload))
	}
	inPayload := func(mark ...byte) func(env, _ []byte) int {
		return func(env, _ []byte) int { return bytes.Index(env, mark) + len(mark) }
	}
	fromEnd := func(n int) func(env, _ []byte) int { return func(env, _ []byte) int { return len(env) - n } }
	borrowed := func(p pen, id announce.KeyID, payload []byte) signature {
		return signature{id, p.sign(ofAnnouncement, payload).sig}
	}
	R := func(number int, input string, envelope []byte) documentRow {
		return documentRow{number: number, input: input, docs: announcements(envelope), gossip: "R signature", exchange: "R signature"}
	}
	by := func(p pen) []byte { return signed(ofAnnouncement, next("lessons"), p) }
	as := func(domain string) []byte { return signed(domain, next("lessons"), d.lessons) }
	two := func(id announce.KeyID) []byte {
		payload := next("both")
		return sortSignatures(payload, d.one.sign(ofAnnouncement, payload), borrowed(d.one, id, payload))
	}
	ones := func(s signature) signature {
		return signature{s.id, append(bytes.Clone(s.sig[:32]), bytes.Repeat([]byte{0xff}, 32)...)}
	}
	bent := func(f func(signature) signature) []byte {
		payload := next("lessons")
		return envelope(payload, f(d.lessons.sign(ofAnnouncement, payload)))
	}
	id := d.lessons.id()
	oneOf, before := next("both"), next("lessons")
	stamp := cborMap(stampFields(2, stampTime+9, "lessons", 2, 9)...)
	return []documentRow{
		R(12, "a flipped bit in the signature", flip(fromEnd(40))),
		R(12, "a flipped bit in the last byte", flip(fromEnd(1))),
		R(12, "a flipped bit in the signature of what another stranger sent before", flipped(signed(ofAnnouncement, before, d.lessons), 120)),
		R(12, "and another flipped bit in it", flipped(signed(ofAnnouncement, before, d.lessons), 121)),
		R(12, "a flipped bit in the key id", flip(inPayload(append([]byte{0x48}, id[:3]...)...))),
		R(12, "a flipped bit in the manifest", flip(inPayload(0x55, 0x12, 0x20))),
		R(12, "a flipped bit in the seq", flip(inPayload(4, 0x18))),
		R(12, "a flipped bit in the version", flip(inPayload(5, 0x61))),
		R(12, "a flipped bit in the size", flip(inPayload(7, 0x19, 3))),
		R(13, "signed by a key of another product", by(d.games)),
		R(13, "signed by the wake role alone", by(d.wake)),
		R(13, "signed by the root role alone", by(d.root)),
		R(13, "signed by a key that the root does not list", by(d.other)),
		R(14, "signed by a revoked key under the present root", by(d.old)),
		// Who still has version 1 of the root takes it, and must be able to pass it on.
		{number: 14, input: "signed by a revoked key under the root that had it", gossip: "I", exchange: "I",
			docs: announcements(signed(ofAnnouncement, cborMap(with(news("lessons", 9), fieldRootVersion, cborUint(1))...), d.old))},
		{number: 15, input: "one signature twice", gossip: "R form", exchange: "R form",
			docs: announcements(envelope(oneOf, d.one.sign(ofAnnouncement, oneOf), d.one.sign(ofAnnouncement, oneOf)))},
		R(15, "one key under two ids", two(d.two.id())),
		R(15, "one key under an id that nobody has", two(d.other.id())),
		R(15, "one signature of two", signed(ofAnnouncement, next("both"), d.one)),
		{number: 15, input: "two signatures of two are taken", docs: announcements(signed(ofAnnouncement, next("both"), d.one, d.two)), exchange: "A", changes: "announced/both"},
		R(18, "S is above L", bent(malleable)),
		R(18, "S is all ones", bent(ones)),
		{number: 19, input: "a timestamp for an announcement", docs: announcements(signed(ofTimestamp, stamp, d.stamp)), gossip: "R form", exchange: "R form"},
		R(19, "an announcement that is signed as a timestamp", as(ofTimestamp)),
		R(19, "an announcement that is signed as a root", as(ofRoot)),
		R(19, "an announcement that is signed as nothing", as("")),
		{number: 19, input: "an announcement for a timestamp", docs: []document{{frameTimestamp, by(d.lessons)}}, exchange: "R form"},
		{number: 19, input: "a timestamp that is signed as an announcement", docs: []document{{frameTimestamp, signed(ofAnnouncement, stamp, d.stamp)}}, exchange: "R signature"},
		{number: 19, input: "an announcement for a root", docs: []document{{frameRoot, by(d.lessons)}}, exchange: "B", person: true},
		{number: 19, input: "a timestamp for a root", docs: []document{{frameRoot, signed(ofTimestamp, stamp, d.stamp)}}, exchange: "B", person: true},
	}
}

// order are the inputs whose number or root is not ours.
func (d *desk) order() []documentRow {
	change := func(key uint64, values ...uint64) (docs []document) {
		for _, v := range values {
			docs = append(docs, d.announcement(with(news("lessons", 9), key, cborUint(v))))
		}
		return docs
	}
	again := d.announcement(with(news("lessons", 9), fieldSeq, cborUint(1)))
	return []documentRow{
		{number: 25, input: "an older release, and the same", docs: append([]document{again}, announcements(d.current)...), gossip: "I", exchange: "I"},
		{number: 28, input: "another epoch than the root's", docs: change(fieldEpoch, 1, 3, math.MaxUint64), gossip: "I", exchange: "I"},
		{number: 28, input: "a product that the root does not have", docs: []document{d.announcement(news("unheard.of", 9))}, gossip: "I", exchange: "I"},
		{number: 36, input: "below the floor of the root", docs: []document{d.announcement(news("floored", 4))}, gossip: "I", exchange: "I", check: d.belowFloor},
	}
}

// belowFloor: neither may a person announce it here, nor go back below the floor of what is live.
func (d *desk) belowFloor(t *testing.T) {
	a := announce.Announcement{Product: "floored", RootVer: 2, Epoch: 1, Seq: 4, Version: "4"}
	signInto(t, d.n.Store(), &a, map[string]string{"a": "below the floor"})
	env, err := a.Sign(d.lessons.PrivateKey)
	check(t, err)
	before := snapshot(t, d.n, d.image)
	refused(t, "announcing it here", d.n.Announce(env), CodeOlder)
	_, err = d.n.Rollback(t.Context(), "lessons")
	refused(t, "going back to lessons 1", err, CodeRefused)
	same(t, before, snapshot(t, d.n, d.image))
}

// urgent are the inputs that would like to wake.
func (d *desk) urgent(t *testing.T) []documentRow {
	loud := func(product string, seq uint64, fields ...uint64) []byte {
		p := with(news(product, seq), fieldFlags, cborUint(1))
		for i := 0; i < len(fields); i += 2 {
			p = with(p, fields[i], cborUint(fields[i+1]))
		}
		slices.SortFunc(p, func(a, b pair) int { return bytes.Compare(a.key, b.key) })
		return cborMap(p...)
	}
	sign := func(payload []byte, pens ...pen) []document {
		return announcements(signed(ofAnnouncement, payload, pens...))
	}
	wakes := func(product string, seq uint64, want bool) func(t *testing.T) {
		return func(t *testing.T) {
			t.Helper()
			if got := d.n.productStatus(product).Newest; got == nil || got.Seq != seq || got.Urgent != want {
				t.Errorf("%s is %+v, want seq %d, urgent: %v", product, got, seq, want)
			}
		}
	}
	calm := cborMap(news("lessons", 120)...) // what was signed
	flippedByRelay := announcements(sortSignatures(loud("lessons", 120), d.lessons.sign(ofAnnouncement, calm), d.wake.sign(ofAnnouncement, calm)))
	var many []document
	for seq := uint64(1); seq <= 1000; seq++ {
		many = append(many, document{frameAnnouncement, signed(ofAnnouncement, loud("x.flood", seq), d.lessons, d.wake)})
	}
	return []documentRow{
		{number: 20, input: "urgent with the wake role's signature is urgent", docs: sign(loud("x.loud", 1), d.lessons, d.wake), exchange: "A", changes: "announced/x.loud", check: wakes("x.loud", 1, true)},
		{number: 20, input: "urgent without it, exchanged", docs: sign(loud("x.silent", 1), d.lessons), exchange: "A", changes: "announced/x.silent", check: wakes("x.silent", 1, false)},
		{number: 20, input: "urgent without it, gossiped", docs: sign(loud("x.silent", 2), d.lessons), gossip: "A", changes: "announced/x.silent", check: wakes("x.silent", 2, false)},
		{number: 20, input: "urgent with a stranger's signature", docs: sign(loud("x.silent", 3), d.lessons, d.other), exchange: "A", changes: "announced/x.silent", check: wakes("x.silent", 3, false)},
		{number: 20, input: "urgent with the publisher's signature for the wake role's", docs: announcements(sortSignatures(loud("x.silent", 4), d.lessons.sign(ofAnnouncement, loud("x.silent", 4)),
			signature{d.wake.id(), d.lessons.sign(ofAnnouncement, loud("x.silent", 4)).sig})), exchange: "A", changes: "announced/x.silent", check: wakes("x.silent", 4, false)},
		{number: 20, input: "urgent for a product that may not wake", docs: sign(loud("quiet", 1), d.lessons, d.wake), exchange: "A", changes: "announced/quiet", check: wakes("quiet", 1, false)},
		{number: 21, input: "the urgent bit flipped by a relay", docs: flippedByRelay, gossip: "R signature", exchange: "R signature"},
		{number: 22, input: "an urgent release again", docs: sign(loud("x.loud", 1), d.lessons, d.wake), gossip: "I", exchange: "I", check: wakes("x.loud", 1, true)},
		{number: 22, input: "a calm one after it", docs: sign(cborMap(news("x.loud", 2)...), d.lessons), exchange: "A", changes: "announced/x.loud", check: wakes("x.loud", 2, false)},
		{number: 22, input: "the urgent one once more", docs: sign(loud("x.loud", 1), d.lessons, d.wake), gossip: "I", exchange: "I", check: wakes("x.loud", 2, false)},
		{number: 23, input: "a thousand urgent releases", docs: many[:500], exchange: "A", changes: "announced/x.flood", check: func(t *testing.T) {
			d.byExchange(t, many[500:], "A")
			wakes("x.flood", 1000, true)(t)
			t.Log("they are one urgent release; no node wakes anybody yet, so two a day is not for this test")
		}},
		{number: 24, input: "urgent and expired, exchanged", docs: sign(loud("x.stale", 1, fieldExpires, expired), d.lessons, d.wake), exchange: "A", changes: "announced/x.stale", check: func(t *testing.T) {
			wakes("x.stale", 1, false)(t)
			if f := d.n.productStatus("x.stale").Freshness; f.State != "stale" || !f.Expired {
				t.Errorf("shown as %+v", f)
			}
		}},
		{number: 24, input: "urgent and expired, gossiped", docs: sign(loud("x.stale", 2, fieldExpires, expired), d.lessons, d.wake), gossip: "A", changes: "announced/x.stale", check: wakes("x.stale", 2, false)},
	}
}

// sortSignatures is an envelope with whatever signatures, in order.
func sortSignatures(payload []byte, sigs ...signature) []byte {
	slices.SortFunc(sigs, func(a, b signature) int { return bytes.Compare(a.id[:], b.id[:]) })
	return envelope(payload, sigs...)
}

// rootFields are the fields of a root that could follow the desk's.
func (d *desk) rootFields(version uint64, keys [][]byte, ids []announce.KeyID, threshold []byte) []pair {
	slices.SortFunc(keys, bytes.Compare)
	var keyList, idList [][]byte
	for _, k := range keys {
		keyList = append(keyList, cborBytes(k))
	}
	slices.SortFunc(ids, func(a, b announce.KeyID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids {
		idList = append(idList, cborBytes(id[:]))
	}
	role := cborArray(cborArray(idList...), threshold)
	return []pair{{cborUint(1), cborUint(version)}, {cborUint(2), cborUint(rootIssued)}, {cborUint(4), cborArray(keyList...)},
		{cborUint(5), cborMap(pair{cborUint(0), role})},
		{cborUint(6), cborArray(cborArray(cborText("*"), cborUint(2), cborArray(idList...), threshold, cborUint(0), cborText("content"), cborUint(0)))}}
}

// lowOrder are public keys for which a signature of zeros verifies for some or all messages, and one that is no canonical point.
var lowOrder = []string{
	"\x01" + zeros(31), zeros(32), "\xec" + strings.Repeat("\xff", 30) + "\x7f", zeros(31) + "\x80", "\x01" + zeros(30) + "\x80",
	"\x26\xe8\x95\x8f\xc2\xb2\x27\xb0\x45\xc3\xf4\x89\xf2\xef\x98\xf0\xd5\xdf\xac\x05\xd3\xc6\x33\x39\xb1\x38\x02\x88\x6d\x53\xfc\x05",
	"\xc7\x17\x6a\x70\x3d\x4d\xd8\x4f\xba\x3c\x0b\x76\x0d\x10\x67\x0f\x2a\x20\x53\xfa\x2c\x39\xcc\xc6\x4e\xc7\xfd\x77\x92\xac\x03\x7a",
	"\xee" + strings.Repeat("\xff", 30) + "\x7f",
}

func zeros(n int) string { return strings.Repeat("\x00", n) }

// roots are the inputs that want to be the next trust root.
func (d *desk) roots(t *testing.T) []documentRow {
	ours := [][]byte{d.root.Public().Bytes(), d.two.Public().Bytes()}
	ids := []announce.KeyID{d.root.id(), d.two.id()}
	next := func(threshold []byte, more ...[]byte) []pair {
		return d.rootFields(3, append(slices.Clone(ours), more...), slices.Clone(ids), threshold)
	}
	one := cborUint(1)
	sign := func(fields []pair, pens ...pen) []document {
		return []document{{frameRoot, signed(ofRoot, cborMap(fields...), append(pens, d.root)...)}}
	}
	B := func(number int, input string, docs []document) documentRow {
		return documentRow{number: number, input: input, docs: docs, exchange: "B", person: true}
	}
	good := sign(next(one))[0].data
	sr, err := announce.ParseRoot(good)
	check(t, err)
	check(t, announce.VerifyRotation(&d.trusted, sr)) // unchanged it would be taken
	var many [][]byte
	for len(many) < 63 {
		many = append(many, newPen(t).Public().Bytes())
	}
	rows := []documentRow{
		B(1, "a root of 65537 bytes", sign(with(next(one), 64, cborBytes(make([]byte, announce.MaxRootEnvelope))))),
		B(2, "a truncated root", []document{{frameRoot, good[:len(good)-1]}}),
		B(2, "an empty root", []document{{frameRoot, nil}}),
		B(3, "bytes behind a root", []document{{frameRoot, append(bytes.Clone(good), 0)}}),
		B(5, "a duplicate key in a root", sign(append(slices.Clone(next(one)), next(one)[4]))),
		B(8, "65 keys", sign(next(one, many...))),
		B(8, "an array of 4097", sign(with(next(one), 64, cborArray(slices.Repeat([][]byte{one}, 4097)...)))),
		{number: 9, input: "a root with an unknown critical key, role or class", exchange: "I", person: true, docs: slices.Concat(sign(with(next(one), 7, one)),
			sign(with(next(one), 5, cborMap(pair{cborUint(0), cborArray(cborArray(cborBytes(ids[0][:])), one)}, pair{cborUint(3), cborArray(cborArray(cborBytes(ids[0][:])), one)}))))},
		{number: 12, input: "a flipped bit in a root", docs: []document{{frameRoot, flipped(good, len(good)-1)}}, exchange: "R root", person: true},
		B(15, "a key listed twice in a root", sign(next(one, ours[0]))),
		B(16, "threshold 0", sign(next(cborUint(0)))),
		B(16, "threshold above the number of keys", sign(next(cborUint(3)))),
		B(16, "threshold 2^64-1", sign(next(cborUint(math.MaxUint64)))),
		B(16, "a negative threshold", sign(next([]byte{0x20}))),
		B(17, "a key of 31 bytes", sign(next(one, make([]byte, 31)))),
		B(17, "a key of 33 bytes", sign(next(one, append(bytes.Clone(ours[0]), 0)))),
		B(17, "a key of no bytes", sign(next(one, nil))),
		{number: 18, input: "S is above L in a root", docs: []document{{frameRoot, envelope(cborMap(next(one)...), malleable(d.root.sign(ofRoot, cborMap(next(one)...))))}}, exchange: "R root", person: true},
		{number: 30, input: "a root that skips a version", docs: sign(with(next(one), 1, cborUint(4))), exchange: "I", person: true},
		{number: 30, input: "the last possible version", docs: sign(with(next(one), 1, cborUint(math.MaxUint64))), exchange: "I", person: true},
	}
	for i, k := range lowOrder {
		rows = append(rows, B(17, fmt.Sprintf("low-order key %d", i), sign(next(one, []byte(k)))))
	}
	theirs := d.rootFields(3, [][]byte{d.other.Public().Bytes(), d.two.Public().Bytes()}, []announce.KeyID{d.other.id(), d.two.id()}, one)
	by := func(input string, p pen) documentRow {
		return documentRow{number: 31, input: input, docs: []document{{frameRoot, signed(ofRoot, cborMap(theirs...), p)}}, exchange: "R root", person: true}
	}
	rows = append(rows, by("a root signed by old keys alone", d.root), by("a root signed by new keys alone", d.other))
	var endless []document
	var file []byte
	for v := uint64(3); v < 3+70; v++ {
		endless = append(endless, d.rootDocument(t, d.rootVersion(v)))
		file = append(file, endless[len(endless)-1].data...)
	}
	rows = append(rows, documentRow{number: 32, input: "an endless root chain", docs: endless, exchange: "B", check: func(t *testing.T) {
		before := snapshot(t, d.n, d.image)
		refused(t, "trusting a file of 70 roots", d.n.Trust(file, false), CodeRefused)
		same(t, before, snapshot(t, d.n, d.image))
	}})
	return rows
}

// stampFields are the fields of a timestamp with one head.
func stampFields(rootVersion, issued uint64, product string, epoch, seq uint64) []pair {
	return []pair{{cborUint(1), cborUint(rootVersion)}, {cborUint(2), cborUint(issued)},
		{cborUint(3), cborArray(cborArray(cborText(product), cborUint(epoch), cborUint(seq)))}}
}

// stamps are the inputs that are timestamps.
func (d *desk) stamps(t *testing.T) []documentRow {
	young := stampFields(2, stampTime+9, "lessons", 2, 9)
	good := signed(ofTimestamp, cborMap(young...), d.stamp)
	st, err := announce.ParseTimestamp(good)
	check(t, err)
	check(t, d.trusted.VerifyTimestamp(st))
	stamps := func(envelopes ...[]byte) (docs []document) {
		for _, e := range envelopes {
			docs = append(docs, document{frameTimestamp, e})
		}
		return docs
	}
	sign := func(fields []pair) []byte { return signed(ofTimestamp, cborMap(fields...), d.stamp) }
	R := func(number int, input, counter string, envelope []byte) documentRow {
		return documentRow{number: number, input: input, docs: stamps(envelope), exchange: "R " + counter}
	}
	return []documentRow{
		R(1, "a timestamp of 65537 bytes", "form", sign(with(young, 64, cborBytes(make([]byte, announce.MaxTimestampEnvelope))))),
		R(2, "a truncated timestamp", "form", good[:len(good)-1]),
		R(3, "bytes behind a timestamp", "form", append(bytes.Clone(good), 0)),
		{number: 9, input: "a timestamp with an unknown critical key", docs: stamps(sign(with(young, 4, cborUint(1)))), exchange: "I"},
		R(12, "a flipped bit in a timestamp", "signature", flipped(good, len(good)-1)),
		R(13, "a timestamp signed by a publisher", "signature", signed(ofTimestamp, cborMap(young...), d.lessons)),
		R(18, "S is above L in a timestamp", "signature", envelope(cborMap(young...), malleable(d.stamp.sign(ofTimestamp, cborMap(young...))))),
		{number: 25, input: "an older timestamp", docs: stamps(sign(stampFields(2, stampTime-9, "lessons", 2, 1))), exchange: "I"},
		{number: 29, input: "a timestamp under a newer root", docs: stamps(sign(stampFields(3, stampTime+9, "lessons", 2, 9))), exchange: "I"},
	}
}

// stories are the inputs that take more than one document, or more than one node.
func (d *desk) stories(t *testing.T) []row {
	r := &rotating{d}
	return []row{
		{2, "so many that others would have to wait", d.flood},
		{26, "two manifests of one number, exchanged", func(t *testing.T) { d.equivocation(t, "x.two", d.byExchange) }},
		{26, "two manifests of one number, gossiped", func(t *testing.T) { d.equivocation(t, "x.three", d.byGossip) }},
		{26, "two manifests of one number, as evidence", d.evidence},
		{27, "seq 2^64-1", r.fastForward},
		{29, "under a newer root", d.newerRoot},
		{33, "a root that failed does not poison", r.poison},
		{34, "a timestamp of 2099", r.farFuture},
		{35, "a clock at 1970 or 2099", d.clocks},
		{36, "below the floor when two releases claim the newest number, and after it", d.floorStays},
		{37, "for a newer program", d.newerProgram},
		{38, "signatures that a relay reorders, repeats, drops or adds", d.relay},
	}
}

// flood: a stranger who brings a thousand documents that do not parse uses up what is his, and no more; and what was left undone because
// too much was asked at once is done later.
func (d *desk) flood(t *testing.T) {
	before, had := snapshot(t, d.n, d.image), counts(d.n)
	o := newOutsider(t, d.n)
	for range maxAsked {
		o.answers = append(o.answers, appendFrame(nil, frameAnnouncement, []byte{0x82}))
	}
	o.meet(t)
	until(t, "the rest to be left alone", func() bool { return counts(d.n)["budget"] > had["budget"] })
	if now := counts(d.n); now["form"] != had["form"]+int(checksOfEach.start) {
		t.Errorf("%d documents were looked at", now["form"]-had["form"])
	}
	o.Close()
	d.byExchange(t, nil, "A")

	o = newOutsider(t, d.n)
	defer o.Close()
	o.answers = [][]byte{appendFrame(nil, frameAnnouncement, d.marker().data)}
	again := o.answers
	d.n.do(func() { d.n.ex.fetched.total.left = -1000 })
	o.meet(t)
	until(t, "the marker to be left for later", func() bool { return counts(d.n)["budget"] == had["budget"]+2 })
	o.mu.Lock()
	o.answers = again
	o.mu.Unlock()
	d.n.do(func() {
		d.n.ex.fetched.total.left = checksOfAll.start
		d.n.repeatExchange(o.ID(), time.Now().Add(againAnyway))
	})
	d.awaitMarker(t)
	same(t, before, snapshot(t, d.n, d.image))
}

// equivocation: two releases of one number are kept as evidence, and neither is taken; the next number heals it.
func (d *desk) equivocation(t *testing.T, product string, by func(*testing.T, []document, string) *outsider) {
	before := snapshot(t, d.n, d.image)
	one := d.announcement(news(product, 1))
	two := d.announcement(with(news(product, 1), fieldManifest, cborBytes(store.RawCID(store.Sum([]byte("other"))).Bytes())))
	by(t, []document{one, two}, "A")
	s := d.n.productStatus(product)
	if s.State != StateRefused || s.Newest != nil || len(s.Claims) != 2 || s.Hint == "" {
		t.Errorf("%+v", s)
	}
	after := snapshot(t, d.n, d.image)
	same(t, before, after, "evidence/", "marks/"+product)
	if changed := changes(before, after); len(changed) == 0 {
		t.Error("no evidence is kept")
	}
	by(t, []document{d.announcement(news(product, 2))}, "A")
	if s := d.n.productStatus(product); s.Newest == nil || s.Newest.Seq != 2 {
		t.Errorf("the next seq: %+v", s)
	}
}

func (d *desk) evidence(t *testing.T) {
	pack := func(a, b []byte) document {
		return document{frameEvidence, append(binary.AppendUvarint(nil, uint64(len(a))), append(bytes.Clone(a), b...)...)}
	}
	sign := func(product string, seq uint64, version string, p pen) []byte {
		return signed(ofAnnouncement, cborMap(with(with(news(product, seq), fieldVersion, cborText(version)), fieldManifest, cborBytes(store.RawCID(store.Sum([]byte(version))).Bytes()))...), p)
	}
	true1, true2 := sign("x.four", 1, "a", d.lessons), sign("x.four", 1, "b", d.lessons)
	before := snapshot(t, d.n, d.image)
	for _, c := range []struct {
		what string
		doc  document
		want string
	}{
		{"with a false signature", pack(sign("x.six", 2, "a", d.other), sign("x.six", 2, "b", d.other)), "R signature"},
		{"of what is here, with a false signature", pack(d.current, sign("lessons", 2, "b", d.other)), "R signature"},
		{"of two products", pack(true1, sign("x.five", 1, "b", d.lessons)), "R form"},
		{"of two numbers", pack(true1, sign("x.four", 2, "b", d.lessons)), "R form"},
		{"of one release", pack(true1, true1), "R form"},
		{"cut off", pack(true1, true2[:len(true2)-1]), "R form"},
		{"that claims to be long", document{frameEvidence, append([]byte{0xff, 0xff, 0xff, 0x7f}, true1...)}, "B"},
		{"under a newer root", pack(signed(ofAnnouncement, cborMap(with(news("lessons", 2), fieldRootVersion, cborUint(3))...), d.lessons),
			signed(ofAnnouncement, cborMap(with(with(news("lessons", 2), fieldRootVersion, cborUint(3)), fieldManifest, cborBytes(store.RawCID(store.Sum(nil)).Bytes()))...), d.lessons)), "I"},
	} {
		t.Log(c.what)
		d.byExchange(t, []document{c.doc}, c.want)
		same(t, before, snapshot(t, d.n, d.image))
	}
	d.byExchange(t, []document{pack(true1, true2)}, "A")
	if s := d.n.productStatus("x.four"); s.State != StateRefused {
		t.Errorf("true evidence: %+v", s)
	}
}

// newerRoot: who speaks of a root that is not here is asked for it, once a minute.
func (d *desk) newerRoot(t *testing.T) {
	before := snapshot(t, d.n, d.image)
	under := func(version, seq uint64) document {
		return d.announcement(with(news("lessons", seq), fieldRootVersion, cborUint(version)))
	}
	o := newOutsider(t, d.n)
	o.meet(t)
	asked := func() (at time.Time) {
		d.n.do(func() { at = d.n.ex.asked[o.ID()] })
		return at
	}
	bring := func(docs ...document) {
		had, visits := counts(d.n)["root"], 0
		o.mu.Lock()
		visits = o.visits
		o.mu.Unlock()
		for _, doc := range docs {
			o.gossiped(t, doc.data)
		}
		until(t, "the documents to be ignored", func() bool { return counts(d.n)["root"] == had+len(docs) })
		if had == 0 {
			until(t, "the question", func() bool { o.mu.Lock(); defer o.mu.Unlock(); return o.visits > visits })
		}
	}
	had := counts(d.n)
	bring(under(3, 201))
	first := asked()
	if first.IsZero() {
		t.Error("it is not asked for its roots")
	}
	bring(under(4, 202), under(math.MaxUint64, 203), under(3, 204))
	if at := asked(); at != first {
		t.Errorf("it is asked again, %v later", at.Sub(first))
	}
	o.gossiped(t, d.marker().data)
	d.awaitMarker(t)
	d.settled(t, o, had, "I root", 4)
	d.scored = append(d.scored, score{o.ID(), t.Name(), false})
	same(t, before, snapshot(t, d.n, d.image))
	o.Close()
	d.byExchange(t, []document{under(3, 205)}, "I root")
	same(t, before, snapshot(t, d.n, d.image))
}

// newerProgram: what this program cannot install it does not fetch, and says what to do.
func (d *desk) newerProgram(t *testing.T) {
	check(t, d.n.Carry("x.program"))
	defer d.n.Uncarry("x.program")
	before := snapshot(t, d.n, d.image)
	for i, by := range []func(*testing.T, []document, string) *outsider{d.byExchange, d.byGossip} {
		seq := uint64(i + 1)
		fields := with(news("x.program", seq), fieldMinUpdater, cborUint(2))
		if seq == 2 {
			fields = with(fields, fieldVia, cborUint(1))
		}
		by(t, []document{d.announcement(fields)}, "A")
		s := d.n.productStatus("x.program")
		if s.Newest == nil || s.Newest.Seq != seq || s.State != StateFailed || !strings.Contains(s.Error, "format 2") || s.Hint == "" || s.Fetch != nil {
			t.Errorf("seq %d: %+v", seq, s)
		}
		d.n.do(func() {
			if code := CodeOf(d.n.lines["x.program"].err); code != CodeTooNew {
				t.Errorf("seq %d: code %q", seq, code)
			}
		})
		same(t, before, snapshot(t, d.n, d.image), "announced/x.program")
	}
	t.Log("via is shown to nobody yet: an older program only says what it needs")
}

// relay: what a relay does to signatures makes no new message.
func (d *desk) relay(t *testing.T) {
	payload := cborMap(with(news("x.relayed", 1), fieldFlags, cborUint(1))...)
	sigs := []signature{d.lessons.sign(ofAnnouncement, payload), d.wake.sign(ofAnnouncement, payload)}
	slices.SortFunc(sigs, func(a, b signature) int { return bytes.Compare(a.id[:], b.id[:]) })
	gossip := func(what, want string, envelopes ...[]byte) {
		t.Helper()
		t.Log(what)
		d.byGossip(t, announcements(envelopes...), want)
	}
	gossip("the true one", "A", envelope(payload, sigs...))
	before := snapshot(t, d.n, d.image)
	own, false1 := d.lessons.sign(ofAnnouncement, payload), d.other.sign(ofAnnouncement, payload)
	gossip("one dropped", "I", envelope(payload, own))
	gossip("false ones added", "I", sortSignatures(payload, append(slices.Clone(sigs), false1)...), sortSignatures(payload, own, false1))
	gossip("reordered", "R form", envelope(payload, sigs[1], sigs[0]))
	gossip("repeated", "R form", envelope(payload, sigs[0], sigs[0], sigs[1]), envelope(payload, sigs[0], sigs[1], sigs[1]))
	same(t, before, snapshot(t, d.n, d.image))
	d.byExchange(t, announcements(envelope(payload, own), sortSignatures(payload, append(slices.Clone(sigs), false1)...)), "I")
	d.byExchange(t, announcements(envelope(payload, sigs[1], sigs[0])), "R form")
	same(t, before, snapshot(t, d.n, d.image))
}

// floorStays: what a publisher once said of a floor is not forgotten for what is announced later, be it true or one of two.
func (d *desk) floorStays(t *testing.T) {
	other := *d
	other.marked, other.image = 0, t.TempDir()
	root := d.rootVersion(1)
	env, err := root.Sign(d.root.PrivateKey)
	check(t, err)
	other.n = openNode(t, Config{}, env)
	check(t, other.n.Follow("x.floor", other.image))
	for seq := uint64(1); seq <= 2; seq++ {
		publishHere(t, other.n, d.lessons.PrivateKey, announce.Announcement{Product: "x.floor", RootVer: 1, Epoch: 1, Seq: seq, Version: "v", Floor: seq},
			map[string]string{"README": fmt.Sprint(seq)})
		_, err := other.n.Apply(t.Context(), "x.floor")
		check(t, err)
	}
	runNode(t, other.n)
	back := func(when string) {
		t.Helper()
		before := snapshot(t, other.n, other.image)
		_, err := other.n.Rollback(t.Context(), "x.floor")
		refused(t, when, err, CodeRefused)
		same(t, before, snapshot(t, other.n, other.image))
	}
	back("at once")
	under := func(seq uint64) document {
		return d.announcement(with(news("x.floor", seq), fieldRootVersion, cborUint(1)))
	}
	other.byExchange(t, []document{under(2)}, "A") // another manifest, no floor
	if s := other.n.productStatus("x.floor"); s.State != StateRefused {
		t.Errorf("%+v", s)
	}
	back("when two claim it")
	other.byExchange(t, []document{under(3)}, "A")
	back("when a newer one has no floor")
}

// clocks: whatever the clock says, the same is taken.
func (d *desk) clocks(t *testing.T) {
	v1, v2 := d.rootVersion(1), d.rootVersion(2)
	var root []byte
	for _, v := range []announce.Root{v1, v2} {
		env, err := v.Sign(d.root.PrivateKey)
		check(t, err)
		root = append(root, env...)
	}
	dated := func(product string, seq uint64, key, value uint64) document {
		return d.announcement(with(news(product, seq), key, cborUint(value)))
	}
	docs := []document{
		dated("x.past", 1, fieldIssued, 1), dated("x.past", 2, fieldExpires, 1), dated("x.past", 1, fieldIssued, rootIssued),
		dated("x.future", 1, fieldIssued, 4_070_908_800), dated("x.future", 2, fieldIssued, math.MaxInt64),
		dated("lessons", 9, fieldExpires, expired), {frameTimestamp, signed(ofTimestamp, cborMap(stampFields(2, stampTime, "lessons", 2, 9)...), d.stamp)},
	}
	var ends []string
	for _, wall := range []int64{time.Now().Unix(), 0, 4_070_908_800} {
		other := *d
		other.n = openNode(t, Config{Clock: func() (time.Time, string, time.Duration) { return time.Unix(wall, 0), "boot", time.Hour }}, root)
		stop := runNode(t, other.n)
		other.marked = 0
		other.byExchange(t, docs, "A")
		end := other.n.Status().Node.Catalog
		for _, p := range other.n.Status().Products {
			end += fmt.Sprintf(" %s %d %v", p.Product, p.Newest.Seq, p.Newest.Urgent)
		}
		ends = append(ends, end)
		stop()
	}
	if ends[1] != ends[0] || ends[2] != ends[0] {
		t.Errorf("with the right time, 1970 and 2099:\n%s", strings.Join(ends, "\n"))
	}
}

// rotating makes nodes whose root changes, one for each row.
type rotating struct{ *desk }

// begin opens a node at version 1 of a root.
func (r *rotating) begin(t *testing.T) *desk {
	d := *r.desk
	first := r.root1(1)
	env, err := first.Sign(d.root.PrivateKey)
	check(t, err)
	d.image, d.marked = "", 0
	d.n = openNode(t, Config{}, env)
	return &d
}

// root1 is a version of the root of these rows.
func (r *rotating) root1(version uint64) announce.Root {
	v := r.rootVersion(version)
	v.Products = slices.DeleteFunc(v.Products, func(p announce.ProductRule) bool { return p.Pattern != "x.*" && p.Pattern != markerProduct })
	return v
}

// under is an announcement under another version of the root.
func (d *desk) under(version, epoch, seq uint64) document {
	return d.announcement(with(with(news("x.rotated", seq), fieldRootVersion, cborUint(version)), fieldEpoch, cborUint(epoch)))
}

func (d *desk) rootDocument(t *testing.T, v announce.Root, pens ...announce.PrivateKey) document {
	t.Helper()
	env, err := v.Sign(append(pens, d.root.PrivateKey)...)
	check(t, err)
	return document{frameRoot, env}
}

// fastForward: the last number there is counts within its epoch, and the next epoch overtakes it.
func (r *rotating) fastForward(t *testing.T) {
	d := r.begin(t)
	defer runNode(t, d.n)()
	newest := func(epoch, seq uint64) {
		t.Helper()
		if a, _, _ := latest(d.n, "x.rotated"); a.Epoch != epoch || a.Seq != seq {
			t.Errorf("newest is %d/%d, want %d/%d", a.Epoch, a.Seq, epoch, seq)
		}
	}
	d.byExchange(t, []document{d.under(1, 1, math.MaxUint64)}, "A")
	newest(1, math.MaxUint64)
	before := snapshot(t, d.n, "")
	d.byExchange(t, []document{d.under(1, 1, 5), d.under(1, 2, 1)}, "I") // no more in this epoch, and the next one has not begun
	same(t, before, snapshot(t, d.n, ""))
	next := r.root1(2)
	for i := range next.Products {
		if next.Products[i].Pattern == "x.*" {
			next.Products[i].Epoch = 2
		}
	}
	d.byExchange(t, []document{d.rootDocument(t, next), d.under(2, 2, 1)}, "A")
	newest(2, 1)
}

// poison: neither what is kept nor what is in memory remembers a root that failed.
func (r *rotating) poison(t *testing.T) {
	d := r.begin(t)
	stop := runNode(t, d.n)
	before := snapshot(t, d.n, "")
	next := r.root1(2)
	good := d.rootDocument(t, next)
	bad := []document{{frameRoot, flipped(good.data, len(good.data)-1)}}
	d.byExchange(t, bad, "R root")
	thief := r.root1(2)
	thief.Keys = append(thief.Keys, d.other.Public())
	thief.Roles[announce.RoleRoot] = announce.RoleRule{Keys: []announce.KeyID{d.other.id()}, Threshold: 1}
	stolen, err := thief.Sign(d.other.PrivateKey)
	check(t, err)
	d.byExchange(t, []document{{frameRoot, stolen}}, "R root")
	same(t, before, snapshot(t, d.n, ""))
	stop()
	home := d.n.cfg.Home
	check(t, d.n.Close())
	d.n = openNode(t, Config{Home: home}, nil)
	same(t, before, snapshot(t, d.n, ""))
	if v := d.n.Status().Root.Version; v != 1 {
		t.Errorf("after a restart the root has version %d", v)
	}
	runNode(t, d.n)
	d.byExchange(t, []document{{frameRoot, stolen}}, "R root")
	d.byExchange(t, []document{good}, "A")
	if v := d.n.Status().Root.Version; v != 2 {
		t.Errorf("the true root is not taken after it: version %d", v)
	}
}

// farFuture: a timestamp that is dated wrongly stops nothing, and is gone when its key is.
func (r *rotating) farFuture(t *testing.T) {
	d := r.begin(t)
	runNode(t, d.n)
	const future = 4_070_908_800
	d.byExchange(t, []document{document{frameTimestamp, signed(ofTimestamp, cborMap(stampFields(1, future, "x.rotated", 1, 1)...), d.stamp)}}, "A")
	if c := d.n.Status().Clock; c.Earliest < future || c.State != ClockWrong {
		t.Errorf("%+v", c)
	}
	d.byExchange(t, []document{d.under(1, 1, 2)}, "A")
	if a, _, _ := latest(d.n, "x.rotated"); a.Seq != 2 {
		t.Errorf("the newest release is %d", a.Seq)
	}
	next := r.root1(2)
	next.Keys = append(next.Keys, d.other.Public())
	next.Roles[announce.RoleTimestamp] = announce.RoleRule{Keys: []announce.KeyID{d.other.id()}, Threshold: 1}
	d.byExchange(t, []document{d.rootDocument(t, next)}, "A")
	if c := d.n.Status().Clock; c.Earliest != rootIssued {
		t.Errorf("after the key is gone: %+v", c)
	}
	if a, _, _ := latest(d.n, "x.rotated"); a.Seq != 2 {
		t.Errorf("the newest release is %d", a.Seq)
	}
}
