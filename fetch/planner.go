package fetch

import (
	"math/rand/v2"
	"time"
)

// Piece is what the planner plans with: anything that one request brings and one hash verifies.
type Piece struct {
	Size uint32 // bytes, or an upper bound
	Key  uint32 // taken from the piece's name, so the same on every node; it decides who asks a seeder for it
}

// Input is one event for [Planner.Step]. Pieces are numbered in the order in which they were added.
type Input interface{ step(*Planner) }

// The events of a planner. Peers that have not joined and pieces that were not added are ignored.
type (
	// Add makes pieces known, all of them missing. Nothing is asked in this step, so that Holds can follow before a Tick.
	Add struct{ Pieces []Piece }

	// Join introduces a neighbour that holds nothing we know of.
	Join struct{ Peer string }

	// Leave forgets a neighbour; what was asked of it goes elsewhere.
	Leave struct{ Peer string }

	// Fetches says that a neighbour fetches too and has not all yet. Holds implies it.
	Fetches struct{ Peer string }

	// Holds says what a neighbour has. Fresh marks what it has only just got: a sign that it is at work.
	Holds struct {
		Peer   string
		Pieces []int32
		Fresh  bool
	}

	// HoldsAll says that a neighbour has every piece, also those still to be added. One that never was a fetcher is a seeder.
	HoldsAll struct{ Peer string }

	// Arrived says that the reply to an Ask came, not yet verified.
	Arrived struct {
		Peer  string
		Piece int32
	}

	// Refused says that the neighbour does not have the piece after all.
	Refused struct {
		Peer  string
		Piece int32
	}

	// Verified says that a piece that arrived is good and kept.
	Verified struct{ Piece int32 }

	// Corrupt says that a piece that arrived from a neighbour is not what was asked for.
	Corrupt struct {
		Peer  string
		Piece int32
		What  string
	}

	// Here says that a piece was found without a neighbour.
	Here struct{ Piece int32 }

	// Tick says that time passed; see [Planner.Deadline].
	Tick struct{}
)

// Verb says what an Output wants done.
type Verb uint8

const (
	Ask    Verb = iota // ask Peer for Piece
	Cancel             // tell Peer that Piece is no longer wanted; its reply will not be Arrived
	Blame              // Peer is at fault, for Reason; the planner has forgotten it
)

// Output is one thing to do.
type Output struct {
	Verb   Verb
	Peer   string
	Piece  int32
	Reason string
	Lied   bool // Blame: it sent wrong bytes; otherwise it was only silent for too long, and may come again
}

// Limits of what is asked at a time.
const (
	firstWindow = 64 << 10  // bytes asked at a time of a neighbour just met: others may be about to divide the work
	minWindow   = 128 << 10 // bytes asked of one neighbour at a time: at least
	maxWindow   = 1 << 20   // and at most
	maxAsks     = 64        // requests outstanding at one neighbour
	maxBuffered = 12 << 20  // bytes asked for or arrived and not yet verified, of all neighbours
	windowSpan  = 300 * time.Millisecond
)

// state of a piece:
//
//	missing ──Ask──► asked ──Arrived──► checking ──Verified──► done
//	   ▲               │                    │
//	   └─Refused,Leave─┴──────Corrupt───────┘          any ──Here──► done
//
// A missing piece is open; an asked one has one ask outstanding, or more when it is hedged.
type state uint8

const (
	missing state = iota
	asked
	hedged
	checking
	done
)

// Planner decides which pieces to ask of whom. It is a pure state machine: it does no I/O, has no clock and starts no
// goroutine; the same inputs at the same times give the same outputs. It has one owner and no locks.
//
// Its work for one input does not grow with the number of pieces, except when a neighbour's whole holdings change.
type Planner struct {
	rng  *rand.Rand
	self uint64 // hash of our own name; 0: unknown
	now  time.Duration

	// About each piece, by number.
	size  []uint32
	key   []uint32
	avail []uint16 // how many counted neighbours hold it
	state []state

	open bitset // missing pieces
	lone bitset // open pieces that no counted neighbour holds: only seeders can have them

	opens     int   // how many pieces are open
	openBytes int64 // their size
	lones     int   // how many pieces are lone
	left      int   // pieces that are not done
	total     int64 // bytes of all pieces there ever were
	asked     int64 // bytes asked for and not arrived; a hedged piece counts twice
	checking  int64 // bytes that arrived and are not verified

	peers []*neighbour // in the order in which they joined
	byID  map[string]*neighbour

	tick     time.Duration // when the last Tick was
	waiting  bool          // something could be asked of a seeder later, if nobody else brings it
	shareEnd time.Duration // since when our own share of the lone pieces is exhausted; 0: it is not
	relieved int64         // bytes of held pieces that were asked of seeders

	fillAll bool
	fill    *neighbour
	out     []Output
}

// NewPlanner makes a planner without pieces and neighbours. Self is our own name as neighbours know it, or empty.
func NewPlanner(seed uint64, self string) *Planner {
	p := &Planner{rng: rand.New(rand.NewPCG(seed, 0x736174636865_6c)), byID: make(map[string]*neighbour)}
	if self != "" {
		p.self = hashName(self)
	}
	return p
}

// Step takes one event at a time now, which is a duration since any fixed moment and never goes back, and says what to
// do. The result is valid until the next Step.
func (p *Planner) Step(now time.Duration, in Input) []Output {
	p.now = max(p.now, now)
	p.out = p.out[:0]
	p.fill, p.fillAll = nil, false
	in.step(p)
	switch {
	case p.fillAll:
		p.askAll()
	case p.fill != nil:
		p.askOne(p.fill)
	}
	return p.out
}

// Left is how many pieces are not verified and kept.
func (p *Planner) Left() int { return p.left }

// Idle says that nothing is asked for and nothing is being verified.
func (p *Planner) Idle() bool { return p.asked == 0 && p.checking == 0 }

// Deadline is when the next Tick should come, or false when time alone changes nothing.
func (p *Planner) Deadline() (time.Duration, bool) {
	if p.asked == 0 && !p.waiting {
		return 0, false
	}
	return p.tick + tickEvery, true
}

func (in Add) step(p *Planner) {
	first := len(p.size)
	n := first + len(in.Pieces)
	p.open, p.lone = p.open.grown(n), p.lone.grown(n)
	everywhere := uint16(0)
	for _, nb := range p.peers {
		if nb.counted && nb.complete {
			everywhere++
		}
		nb.dry = false
	}
	for i, piece := range in.Pieces {
		p.size = append(p.size, piece.Size)
		p.key = append(p.key, piece.Key)
		p.avail = append(p.avail, everywhere)
		p.state = append(p.state, missing)
		p.total += int64(piece.Size)
		p.setOpen(first+i, true)
	}
	p.left += len(in.Pieces)
}

func (in Join) step(p *Planner) {
	if p.byID[in.Peer] != nil {
		return
	}
	nb := &neighbour{id: in.Peer, hash: hashName(in.Peer), window: firstWindow}
	p.byID[in.Peer] = nb
	p.peers = append(p.peers, nb)
}

func (in Leave) step(p *Planner) {
	if nb := p.byID[in.Peer]; nb != nil {
		p.drop(nb)
	}
}

func (in Fetches) step(p *Planner) {
	if nb := p.byID[in.Peer]; nb != nil && nb.role == unknown {
		nb.role, nb.fresh, nb.counted = fetcher, p.now, true
	}
}

func (in Holds) step(p *Planner) {
	nb := p.byID[in.Peer]
	if nb == nil {
		return
	}
	Fetches{in.Peer}.step(p)
	if in.Fresh {
		nb.speaks(p.now)
	}
	for _, i := range in.Pieces {
		if i < 0 || int(i) >= len(p.size) || nb.holds(int(i)) {
			continue
		}
		if in.Fresh && p.lone.has(int(i)) {
			nb.fresh = p.now
		}
		nb.have = nb.have.grown(len(p.size))
		nb.have.set(int(i))
		nb.dry = false
		if nb.counted {
			p.gain(int(i))
		}
	}
	p.fill = nb
}

func (in HoldsAll) step(p *Planner) {
	nb := p.byID[in.Peer]
	if nb == nil || nb.complete {
		return
	}
	if nb.role == unknown {
		nb.role = seeder
	}
	if nb.counted {
		for i := range p.size {
			if !nb.holds(i) {
				p.gain(i)
			}
		}
	}
	nb.complete, nb.have, nb.dry = true, nil, false
	p.fill = nb
}

func (in Arrived) step(p *Planner) {
	nb, i := p.byID[in.Peer], int(in.Piece)
	if nb == nil || !p.take(nb, in.Piece) {
		return
	}
	p.alive(nb)
	nb.measure(p.now, int64(p.size[i]))
	if p.state[i] == hedged {
		p.cancel(in.Piece)
	}
	p.state[i] = checking
	p.checking += int64(p.size[i])
	if p.fill == nil {
		p.fill = nb
	}
}

func (in Refused) step(p *Planner) {
	nb := p.byID[in.Peer]
	if nb == nil || !p.take(nb, in.Piece) {
		return
	}
	p.alive(nb)
	p.lacks(nb, int(in.Piece))
	p.release(in.Piece)
	p.fillAll = true
}

func (in Verified) step(p *Planner) {
	i := int(in.Piece)
	if i < 0 || i >= len(p.size) || p.state[i] != checking {
		return
	}
	full := p.asked+p.checking > maxBuffered-maxWindow
	p.checking -= int64(p.size[i])
	p.state[i] = done
	p.left--
	p.fillAll = full
}

func (in Corrupt) step(p *Planner) {
	i := int(in.Piece)
	if i < 0 || i >= len(p.size) || p.state[i] != checking {
		return
	}
	p.checking -= int64(p.size[i])
	p.state[i] = missing
	p.setOpen(i, true)
	p.wet(i)
	p.fillAll = true
	if nb := p.byID[in.Peer]; nb != nil {
		p.blame(nb, in.What, true)
	}
}

func (in Here) step(p *Planner) {
	i := int(in.Piece)
	if i < 0 || i >= len(p.size) || p.state[i] == done || p.state[i] == checking {
		return
	}
	if p.state[i] == missing {
		p.setOpen(i, false)
	} else {
		p.cancel(in.Piece)
	}
	p.state[i] = done
	p.left--
}

func (Tick) step(p *Planner) {
	p.tick = p.now
	p.checkStalls()
	p.hedge()
	p.fillAll = true
}

// setOpen keeps the sets and sums of open pieces.
func (p *Planner) setOpen(i int, open bool) {
	if open {
		p.open.set(i)
		p.opens++
		p.openBytes += int64(p.size[i])
	} else {
		p.open.clear(i)
		p.opens--
		p.openBytes -= int64(p.size[i])
	}
	p.setLone(i)
}

func (p *Planner) setLone(i int) {
	lone := p.avail[i] == 0 && p.open.has(i)
	if lone == p.lone.has(i) {
		return
	}
	if lone {
		p.lone.set(i)
		p.lones++
	} else {
		p.lone.clear(i)
		p.lones--
	}
}

// gain and lose count one more or one less holder of a piece.
func (p *Planner) gain(i int) { p.avail[i]++; p.setLone(i) }
func (p *Planner) lose(i int) { p.avail[i]--; p.setLone(i) }

// wet makes the holders of a piece that is open again look for work again.
func (p *Planner) wet(i int) {
	for _, nb := range p.peers {
		if nb.dry && nb.holds(i) {
			nb.dry = false
		}
	}
}

// take removes the ask of a piece from a neighbour, or says that there is none.
func (p *Planner) take(nb *neighbour, piece int32) bool {
	a, ok := nb.take(piece, p.now)
	if ok {
		p.asked -= int64(p.size[piece])
		nb.bytes -= int64(p.size[piece])
		if a.spared {
			nb.spared--
		}
	}
	return ok
}

// release follows a take that brought nothing: the other asks of a hedged piece stand, otherwise the piece is open again.
func (p *Planner) release(piece int32) {
	i := int(piece)
	if p.state[i] == hedged {
		if all, _ := p.owing(piece); all == 1 {
			p.state[i] = asked
		}
		return
	}
	p.state[i] = missing
	p.setOpen(i, true)
	p.wet(i)
}

// cancel takes back all asks of a piece.
func (p *Planner) cancel(piece int32) {
	for _, nb := range p.peers {
		if p.take(nb, piece) {
			p.out = append(p.out, Output{Verb: Cancel, Peer: nb.id, Piece: piece})
			p.fillAll = true
		}
	}
}

// drop forgets a neighbour.
func (p *Planner) drop(nb *neighbour) {
	p.uncount(nb)
	delete(p.byID, nb.id)
	for i := range p.peers {
		if p.peers[i] == nb {
			p.peers = append(p.peers[:i], p.peers[i+1:]...)
			break
		}
	}
	for len(nb.asks) > 0 {
		piece := nb.asks[0].piece
		p.take(nb, piece)
		p.release(piece)
	}
	p.fillAll = true
}

func (p *Planner) blame(nb *neighbour, reason string, lied bool) {
	p.out = append(p.out, Output{Verb: Blame, Peer: nb.id, Reason: reason, Lied: lied})
	p.drop(nb)
}

// lacks corrects what we believe a neighbour holds.
func (p *Planner) lacks(nb *neighbour, i int) {
	if !nb.holds(i) {
		return
	}
	if nb.complete {
		nb.complete = false
		nb.have = newBitset(len(p.size))
		for j := range p.size {
			nb.have.set(j)
		}
	}
	nb.have.clear(i)
	if nb.counted {
		p.lose(i)
	}
}
