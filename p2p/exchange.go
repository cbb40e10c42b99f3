package p2p

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"satchel/announce"
)

// protoCatalog is the exchange by which news reaches everyone: whoever connects, resumes or hears a digest
// that differs asks for what it lacks. Gossip is only faster.
//
//	asker                          answerer
//	HELLO digest, root       ──►
//	                           ◄── SAME                      nothing to tell
//	                           ◄── HELLO HEAD* END           what there is
//	ROOTS from, WANT product*  ──►
//	                           ◄── ROOT* ANNOUNCEMENT* EVIDENCE* TIMESTAMP* END
//
// Every document is verified by the asker's catalog; the exchange itself promises nothing.
const protoCatalog protocol.ID = "/satchel/catalog/1"

const (
	frameHello        byte = 1
	frameAskRoots     byte = 2
	frameAskProducts  byte = 3
	frameSame         byte = 16
	frameHead         byte = 17
	frameRoot         byte = 18
	frameAnnouncement byte = 19
	frameEvidence     byte = 20
	frameEnd          byte = 21
	frameTimestamp    byte = 22
)

const (
	exchangeTimeout  = 30 * time.Second
	maxHeads         = 10_000
	maxRootsPerVisit = 64
	maxCatalogFrame  = 80 << 10  // a root envelope is the largest
	maxTimestamps    = 8         // that one visit brings
	maxAsked         = 1000      // products asked for in one visit
	maxVisitBytes    = 256 << 10 // of documents that one visit brings; with as many neighbours as there may be, 32 MB
	vainHeads        = 100       // heads that led to nothing cost one more visit
	againAfterError  = 5 * time.Second
	againAnyway      = 30 * time.Second
)

// catalogView is what an answerer tells; the node makes it from its catalog.
type catalogView struct {
	digest     [8]byte
	root       rootName
	heads      []announce.Head
	roots      []announce.RootStep
	envelopes  map[string][]byte
	claims     map[string][][]byte // of what is refused
	prefer     preferences
	timestamps []announce.KeptTimestamp
	rival      []byte // nil: none
}

// rootName says which trust root is somebody's newest; version 0: none.
type rootName struct {
	version uint64
	id      [8]byte
}

func (v *catalogView) hello() []byte {
	return appendFrame(nil, frameHello, v.digest[:], binary.AppendUvarint(nil, v.root.version), v.root.id[:])
}

func (b *body) rootName() (r rootName) {
	r.version = b.uvarint("root version")
	copy(r.id[:], b.bytes(8, "root id"))
	return r
}

// answerExchange answers one asker. It returns the asker's digest, so that the node can ask back.
func answerExchange(stream network.Stream, view *catalogView) (theirs [8]byte, err error) {
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(exchangeTimeout))
	r := bufio.NewReaderSize(stream, 4<<10)
	typ, b, err := readFrame(r, maxRequestFrame)
	if err != nil {
		return theirs, err
	}
	hello := &body{b: b}
	copy(theirs[:], hello.bytes(8, "digest"))
	hello.rootName()
	if typ != frameHello || hello.err != nil {
		return theirs, protocolError("catalog exchange begins with frame %d", typ)
	}
	w := bufio.NewWriterSize(stream, 32<<10)
	if theirs == view.digest {
		w.Write(appendFrame(nil, frameSame, view.digest[:]))
		return theirs, w.Flush()
	}
	w.Write(view.hello())
	for _, h := range view.heads {
		w.Write(appendFrame(nil, frameHead, encodeHead(h)))
	}
	w.Write(appendFrame(nil, frameEnd))
	if err := w.Flush(); err != nil {
		return theirs, err
	}
	return theirs, answerWants(r, w, view)
}

func answerWants(r *bufio.Reader, w *bufio.Writer, view *catalogView) error {
	products, roots := 0, false
	for {
		typ, raw, err := readFrame(r, maxRequestFrame)
		if err != nil {
			return err
		}
		b := &body{b: raw}
		switch typ {
		case frameAskRoots:
			if from := b.uvarint("from"); !roots {
				answerRoots(w, view, from)
			} else {
				return protocolError("trust roots asked for twice")
			}
			roots = true
		case frameAskProducts:
			for b.more() {
				if products++; products > maxAsked {
					return protocolError("more than %d products asked for", maxAsked)
				}
				product := b.counted("product")
				if env := view.envelopes[string(product)]; env != nil {
					w.Write(appendFrame(nil, frameAnnouncement, env))
				}
				if c := view.claims[string(product)]; c != nil {
					w.Write(appendFrame(nil, frameEvidence, binary.AppendUvarint(nil, uint64(len(c[0]))), c[0], c[1]))
				}
			}
		case frameEnd:
			if view.rival != nil {
				w.Write(appendFrame(nil, frameRoot, view.rival))
			}
			for _, t := range view.timestamps {
				w.Write(appendFrame(nil, frameTimestamp, t.Envelope))
			}
			w.Write(appendFrame(nil, frameEnd))
			return w.Flush()
		default:
			return protocolError("catalog request of type %d", typ)
		}
		if b.err != nil {
			return b.err
		}
	}
}

func answerRoots(w *bufio.Writer, view *catalogView, from uint64) {
	n := 0
	for _, step := range view.roots {
		if step.Version >= from && n < maxRootsPerVisit {
			w.Write(appendFrame(nil, frameRoot, step.Envelope))
			n++
		}
	}
}

func encodeHead(h announce.Head) []byte {
	b := binary.AppendUvarint(nil, uint64(len(h.Product)))
	b = append(b, h.Product...)
	b = binary.AppendUvarint(b, h.Epoch)
	b = binary.AppendUvarint(b, h.Seq)
	return append(b, h.ID[:]...)
}

func decodeHead(b *body) (h announce.Head, err error) {
	h.Product = string(b.counted("product"))
	h.Epoch, h.Seq = b.uvarint("epoch"), b.uvarint("seq")
	copy(h.ID[:], b.bytes(uint64(len(h.ID)), "id"))
	if b.err == nil && announce.ValidProduct(h.Product) != nil {
		return h, protocolError("head of a product with a bad name")
	}
	return h, b.err
}

// visit is what an exchange brought home, unverified.
type visit struct {
	same          bool
	theirs        [8]byte
	root          rootName // not told with same
	roots         [][]byte
	announcements [][]byte
	evidence      []announce.Evidence
	timestamps    [][]byte
	asked         int  // for products
	more          bool // there is more to bring than one visit takes
}

// askExchange asks the neighbour at the other end of stream for everything that mine lacks. Roots come first:
// the caller verifies documents in the order they are in.
func askExchange(ctx context.Context, stream network.Stream, mine *catalogView) (*visit, error) {
	stop := context.AfterFunc(ctx, func() { stream.Reset() })
	defer stop()
	defer stream.Close()
	stream.SetDeadline(time.Now().Add(exchangeTimeout))
	if _, err := stream.Write(mine.hello()); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(stream, 16<<10)
	v := &visit{}
	typ, raw, err := readFrame(r, maxCatalogFrame)
	if err != nil {
		return nil, err
	}
	b := &body{b: raw}
	copy(v.theirs[:], b.bytes(8, "digest"))
	if typ == frameSame {
		v.same = true
		return v, b.err
	}
	v.root = b.rootName()
	if typ != frameHello || b.err != nil {
		return nil, protocolError("catalog answer begins with frame %d", typ)
	}
	want, err := readHeads(r, mine)
	if err != nil {
		return nil, err
	}
	v.more = len(want) > maxAsked
	want = first(mine.prefer.order(want), maxAsked)
	v.asked = len(want)
	if _, err := stream.Write(encodeWants(mine.root, v.root, want)); err != nil {
		return nil, err
	}
	err = v.readDocuments(r)
	if v.more {
		stream.Reset() // it may still be writing
	}
	return v, err
}

// readHeads returns the products of which the neighbour has something that we have not.
func readHeads(r *bufio.Reader, mine *catalogView) ([]string, error) {
	have := make(map[string]announce.Head, len(mine.heads))
	for _, h := range mine.heads {
		have[h.Product] = h
	}
	var want []string
	for n := 0; ; n++ {
		typ, raw, err := readFrame(r, maxCatalogFrame)
		if err != nil {
			return nil, err
		}
		if typ == frameEnd {
			return want, nil
		}
		if typ != frameHead || n >= maxHeads {
			return nil, protocolError("catalog frame %d among %d heads", typ, n)
		}
		h, err := decodeHead(&body{b: raw})
		if err != nil {
			return nil, err
		}
		m := have[h.Product] // zero is older than all
		if h.Epoch > m.Epoch || (h.Epoch == m.Epoch && h.Seq >= m.Seq && h.ID != m.ID) {
			want = append(want, h.Product)
		}
	}
}

// preferences say which products an asker wants first when a neighbour offers more than one visit brings.
type preferences struct {
	here    map[string]bool // followed here
	carried []string        // patterns
	named   map[string]bool // by the trust root, without a star
}

func (n *Node) preferences() preferences {
	p := preferences{here: map[string]bool{}, named: map[string]bool{}}
	for name, l := range n.lines {
		if l.place != nil {
			p.here[name] = true
		}
	}
	for pattern := range n.carries {
		p.carried = append(p.carried, pattern)
	}
	if root := n.catalog.Root(); root != nil {
		for _, rule := range root.Products {
			p.named[rule.Pattern] = true
		}
	}
	return p
}

// order puts first what is used here, then what the root names; the rest by chance, so that whoever owns a thousand names
// cannot keep all others out for ever.
func (p *preferences) order(want []string) []string {
	rand.Shuffle(len(want), func(i, j int) { want[i], want[j] = want[j], want[i] })
	rank := func(product string) int {
		switch {
		case p.here[product], slices.ContainsFunc(p.carried, func(c string) bool { return announce.Covers(c, product) }):
			return 0
		case p.named[product]:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(want, func(a, b string) int { return rank(a) - rank(b) })
	return want
}

// encodeWants asks for the roots after ours; also for theirs of our version when that is another one, since then root
// keys have signed two, or this is another mesh.
func encodeWants(mine, theirs rootName, products []string) []byte {
	var out []byte
	switch {
	case theirs.version > mine.version:
		out = appendFrame(out, frameAskRoots, binary.AppendUvarint(nil, mine.version+1))
	case theirs.version == mine.version && theirs.id != mine.id:
		out = appendFrame(out, frameAskRoots, binary.AppendUvarint(nil, mine.version))
	}
	var b []byte
	for _, p := range products { // maxAsked names fit into one frame
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	if len(b) > 0 {
		out = appendFrame(out, frameAskProducts, b)
	}
	return appendFrame(out, frameEnd)
}

// readDocuments reads the answers.
func (v *visit) readDocuments(r *bufio.Reader) error {
	for bytes := 0; ; {
		typ, raw, err := readFrame(r, maxCatalogFrame)
		if err != nil {
			return err
		}
		if bytes += len(raw); bytes > maxVisitBytes {
			v.more = true
			return nil
		}
		switch {
		case typ == frameEnd:
			return nil
		case typ == frameRoot && len(v.roots) <= maxRootsPerVisit: // and a rival
			v.roots = append(v.roots, raw)
		case typ == frameAnnouncement && len(v.announcements)+len(v.evidence) < v.asked && len(raw) <= announce.MaxEnvelope:
			v.announcements = append(v.announcements, raw)
		case typ == frameEvidence && len(v.announcements)+len(v.evidence) < v.asked:
			b := &body{b: raw}
			a := b.counted("evidence")
			if b.err != nil {
				return b.err
			}
			v.evidence = append(v.evidence, announce.Evidence{A: a, B: b.b})
		case typ == frameTimestamp && len(v.timestamps) < maxTimestamps:
			v.timestamps = append(v.timestamps, raw)
		default:
			return protocolError("catalog frame of type %d, %d bytes", typ, len(raw))
		}
	}
}

// exchanges decides with whom to exchange, and when. It is owned by the node's goroutine.
type exchanges struct {
	running map[peer.ID]bool
	again   map[peer.ID]bool
	seen    map[peer.ID][2][8]byte // the two digests of the last exchange: nothing to gain while both hold
	next    map[peer.ID]time.Time  // when to look at the neighbour again
	asked   map[peer.ID]time.Time  // when it was last asked for a newer trust root
	refused map[peer.ID]bool       // it has sent something that was refused: said once
	foreign map[peer.ID]bool       // it trusts a root that is not of our chain
	view    *catalogView           // of the present digest
	begun   int                    // how many

	visits   *budget // exchanges, asked and answered
	gossiped *budget // signature checks of what was gossiped
	fetched  *budget // and of what exchanges brought
}

func newExchanges() exchanges {
	return exchanges{running: map[peer.ID]bool{}, again: map[peer.ID]bool{}, seen: map[peer.ID][2][8]byte{},
		next: map[peer.ID]time.Time{}, asked: map[peer.ID]time.Time{}, refused: map[peer.ID]bool{}, foreign: map[peer.ID]bool{},
		visits: newBudget(visitsOfEach, allowance{}), gossiped: newBudget(checksOfEach, checksOfAll), fetched: newBudget(checksOfEach, checksOfAll)}
}

// size is how many peers something is remembered of.
func (ex *exchanges) size() int {
	return max(len(ex.running), len(ex.again), len(ex.seen), len(ex.next), len(ex.asked), len(ex.refused), len(ex.foreign))
}

// forget drops what is known of a peer that left.
func (ex *exchanges) forget(p peer.ID) {
	delete(ex.again, p)
	delete(ex.seen, p)
	delete(ex.next, p)
	delete(ex.asked, p)
	delete(ex.refused, p)
	delete(ex.foreign, p)
}

// repeatExchange makes up for an exchange that failed, and for news that gossip did not carry.
func (n *Node) repeatExchange(p peer.ID, now time.Time) {
	if now.Before(n.ex.next[p]) || n.ex.running[p] {
		return
	}
	n.ex.next[p] = now.Add(againAnyway)
	theirs, known := n.net.digests[p]
	if !known {
		n.exchange(p, nil)
	} else {
		n.exchange(p, &theirs)
	}
}

// exchange asks p for what this node lacks, unless nothing has changed on either side since the last time.
// theirs is p's digest when it is known. Runs on the node's goroutine.
func (n *Node) exchange(p peer.ID, theirs *[8]byte) {
	net := n.net
	if net == nil {
		return
	}
	mine := n.catalog.Digest()
	if theirs != nil {
		n.noteDigest(p, *theirs)
		if *theirs == mine || n.ex.seen[p] == [2][8]byte{mine, *theirs} {
			return
		}
	}
	switch {
	case !n.linked(p):
		return
	case n.ex.running[p]:
		n.ex.again[p] = true
		return
	case !n.ex.visits.take(time.Now(), p, 1):
		n.ex.next[p] = time.Now().Add(againAfterError)
		return
	}
	n.ex.running[p] = true
	n.ex.begun++
	asking := *n.view()
	asking.prefer = n.preferences()
	view := &asking
	n.spawn(func(ctx context.Context) {
		v, err := net.visit(ctx, p, view)
		n.do(func() { n.visited(p, view, v, err) })
	})
}

// visited verifies what an exchange brought and tells others when it was news.
func (n *Node) visited(p peer.ID, view *catalogView, v *visit, err error) {
	delete(n.ex.running, p)
	again := n.ex.again[p]
	delete(n.ex.again, p)
	if n.net == nil {
		return
	}
	defer func() {
		if !n.linked(p) { // gone meanwhile
			n.ex.forget(p)
		}
	}()
	if err != nil {
		n.log.Debug("catalog exchange failed", slog.String("peer", p.String()), slog.Any("err", err))
		n.ex.next[p] = time.Now().Add(againAfterError)
		delete(n.net.digests, p)
		n.offenceOf(p, err)
		return
	}
	if n.net.table.prove(p) { // worth remembering, also after a power cut
		if err := n.db.savePeers(n.net.table); err != nil {
			n.log.Debug("remembering peers", slog.Any("err", err))
		}
	}
	n.noteDigest(p, v.theirs)
	before, left := n.catalog.Digest(), n.refusals[refusedBudget].Load()
	shut := false // what was good of it is kept all the same
	for _, env := range v.roots {
		if shut {
			break
		}
		if !n.ex.fetched.may(time.Now(), p) {
			n.refusals.add(refusedBudget)
			break
		}
		r := n.catalog.AddRoot(env)
		if r.Checked > 0 {
			n.ex.fetched.spend(time.Now(), p, r.Checked)
			n.refusals.add(refusedRoot)
		}
		switch {
		case r.Verdict == announce.Reject:
			n.offence(p, fmt.Errorf("sending a trust root: %s", r.Reason))
			shut = true
		case r.Equivocation:
			n.log.Warn("two trust roots of one version", slog.String("reason", r.Reason), slog.String("peer", p.String()))
		}
	}
	n.ex.foreign[p] = n.catalog.Foreign(v.root.version, v.root.id)
	// A mesh with another root on the same link sends what we refuse, and is not to blame.
	if !n.ex.foreign[p] && !shut {
		n.takeIn(p, v)
	}
	news := n.catalog.Digest() != before
	if (!v.more || n.ex.foreign[p]) && n.refusals[refusedBudget].Load() == left { // nothing was left for a later one
		n.ex.seen[p] = [2][8]byte{n.catalog.Digest(), v.theirs}
	}
	if news {
		n.catalogChanged(true) // that asks p again, who may have more
	} else {
		n.ex.visits.spend(time.Now(), p, (v.asked+vainHeads-1)/vainHeads) // it told of news and had none
	}
	if again {
		n.exchange(p, nil)
	}
}

// takeIn offers the catalog what a visit brought besides roots, as far as the neighbour's purse goes.
func (n *Node) takeIn(p peer.ID, v *visit) {
	for _, env := range v.announcements {
		if !n.ex.fetched.may(time.Now(), p) { // also what does not parse: it would make all others wait
			n.refusals.add(refusedBudget)
			break
		}
		if sa, err := announce.ParseAnnouncement(env); err != nil {
			if n.malformed(env, err) == announce.Reject { // what is too new for us is nobody's fault
				n.ex.fetched.spend(time.Now(), p, 1)
			}
		} else {
			n.offer(sa, p, n.ex.fetched)
		}
	}
	add := func(add func() announce.Result) {
		if !n.ex.fetched.may(time.Now(), p) {
			n.refusals.add(refusedBudget)
			return
		}
		r := add()
		switch {
		case r.Verdict == announce.Reject && r.Checked == 0:
			n.refusals.add(refusedForm)
			r.Checked = 1
		case r.Verdict == announce.Reject:
			n.refusals.add(refusedSignature)
		}
		if r.Verdict != announce.Accept {
			n.ex.fetched.spend(time.Now(), p, r.Checked)
		}
	}
	for _, e := range v.evidence {
		add(func() announce.Result { return n.catalog.AddEvidence(e.A, e.B) })
	}
	for _, env := range v.timestamps {
		add(func() announce.Result { return n.catalog.AddTimestamp(n.count.now().Up, env) })
	}
}
