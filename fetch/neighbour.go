package fetch

import (
	"fmt"
	"slices"
	"time"
)

const (
	tickEvery  = 50 * time.Millisecond
	stallAfter = 2 * time.Second  // silence with requests outstanding that makes a neighbour stalled
	blameAfter = 30 * time.Second // and that makes it blamed
	restTime   = 5 * time.Second  // between attempts to ask a stalled neighbour, when others could help
	blameRate  = 32 << 10         // bytes a second: a large piece may take longer than blameAfter
)

// Stalled begins the reason when a neighbour is blamed for silence. It did not lie, and is welcome when it comes again.
const Stalled = "stalled"

// role says how a neighbour takes part.
//
//	unknown ──Fetches, Holds──► fetcher      has or had a part; completes like us
//	        ──HoldsAll────────► seeder       had everything when we met it, perhaps the publisher: spared
type role uint8

const (
	unknown role = iota
	fetcher
	seeder
)

// neighbour is what the planner knows of one peer.
type neighbour struct {
	id       string
	hash     uint64
	role     role
	complete bool          // holds everything, also what is still to be added
	have     bitset        // else: the pieces that it holds
	counted  bool          // its holdings are part of the planner's avail: a fetcher that does not stall
	dry      bool          // nothing open was found with it, and nothing has changed since
	fresh    time.Duration // when it last told of something that no other neighbour had, or began to tell
	spoke    time.Duration // when it last told of anything

	asks   []ask
	bytes  int64         // asked and not arrived
	spared int           // asks at a seeder that somebody else was expected to make
	window int64         // bytes that may be asked at a time
	last   time.Duration // last sign of life, or when the first ask after an idle time was made
	owed   time.Duration // silence with something to do before last, since the last sign of life
	rest   time.Duration // a stalled neighbour is left alone until then

	stalled bool
	rate    float64       // bytes a second while busy, smoothed; 0: not known yet
	busy    time.Duration // since when it has something to do
	worked  time.Duration // busy time since the last measurement
	brought int64         // bytes since the last measurement
}

// ask is one request outstanding.
type ask struct {
	piece  int32
	spared bool
	at     time.Duration
	due    time.Duration // three times the expected time has passed
}

// speaks notes that a neighbour tells what it got. After a silence that is a sign that it sets to work; later only what
// nobody else has is one, for it may have got the rest from us.
func (nb *neighbour) speaks(now time.Duration) {
	if now-nb.spoke > time.Second {
		nb.fresh = now
	}
	nb.spoke = now
}

func (nb *neighbour) holds(i int) bool { return nb.complete || nb.have.has(i) }

// room says whether a piece of this size may be asked now.
func (nb *neighbour) room(size uint32) bool {
	if len(nb.asks) == 0 {
		return true
	}
	return !nb.stalled && len(nb.asks) < maxAsks && nb.bytes+int64(size) <= nb.window
}

// expected is how long more bytes would take, behind those already asked.
func (nb *neighbour) expected(more int64) time.Duration {
	if nb.rate == 0 {
		return 200 * time.Millisecond
	}
	return time.Duration(float64(nb.bytes+more) / nb.rate * float64(time.Second))
}

func (nb *neighbour) owes(piece int32) bool {
	return slices.ContainsFunc(nb.asks, func(a ask) bool { return a.piece == piece })
}

func (nb *neighbour) take(piece int32, now time.Duration) (ask, bool) {
	for k, a := range nb.asks {
		if a.piece != piece {
			continue
		}
		nb.asks = append(nb.asks[:k], nb.asks[k+1:]...)
		if len(nb.asks) == 0 {
			nb.worked += now - nb.busy
			nb.owed += now - nb.last
			if nb.stalled {
				nb.rest = now + restTime
				nb.owed += restTime
			}
		}
		return a, true
	}
	return ask{}, false
}

// measure takes note of bytes that arrived. The rate counts busy time only, so that a neighbour that has nothing for us
// most of the time is not thought slow.
func (nb *neighbour) measure(now time.Duration, size int64) {
	const every = 50 * time.Millisecond
	nb.brought += size
	worked := nb.worked
	if len(nb.asks) > 0 {
		worked += now - nb.busy
	}
	if worked < every && (nb.rate != 0 || worked < time.Millisecond) {
		return
	}
	rate := float64(nb.brought) / worked.Seconds()
	if nb.rate == 0 {
		nb.rate = rate
	} else {
		nb.rate += 0.3 * (rate - nb.rate)
	}
	nb.brought, nb.worked, nb.busy = 0, 0, now
	nb.window = min(max(int64(nb.rate*windowSpan.Seconds()), minWindow), maxWindow)
}

// alive notes a sign of life.
func (p *Planner) alive(nb *neighbour) {
	nb.last, nb.owed, nb.rest = p.now, 0, 0
	if nb.stalled {
		nb.stalled = false
		p.count(nb)
	}
}

// count makes a fetcher's holdings part of avail, uncount takes them out again.
func (p *Planner) count(nb *neighbour) {
	if nb.role == fetcher && !nb.counted {
		nb.counted = true
		p.eachHeld(nb, p.gain)
	}
}

func (p *Planner) uncount(nb *neighbour) {
	if nb.counted {
		nb.counted = false
		p.eachHeld(nb, p.lose)
	}
}

func (p *Planner) eachHeld(nb *neighbour, f func(i int)) {
	if !nb.complete {
		nb.have.each(f)
		return
	}
	for i := range p.size {
		f(i)
	}
}

// checkStalls finds the neighbours that owe us something and say nothing.
func (p *Planner) checkStalls() {
	for k := len(p.peers) - 1; k >= 0; k-- {
		nb := p.peers[k]
		if len(nb.asks) == 0 {
			continue
		}
		silent := nb.owed + p.now - nb.last
		size := float64(p.size[nb.asks[0].piece])
		if silent >= max(blameAfter, seconds(size/blameRate)) {
			p.blame(nb, fmt.Sprintf("%s: nothing for %v with %d requests outstanding", Stalled, silent.Round(time.Second), len(nb.asks)), false)
			continue
		}
		if nb.stalled || silent < nb.patience(size) {
			continue
		}
		nb.stalled = true
		p.uncount(nb)
	}
}

// patience is the silence after which a neighbour counts as stalled: longer when it is known to be slow.
func (nb *neighbour) patience(size float64) time.Duration {
	if nb.rate == 0 {
		return stallAfter
	}
	return max(stallAfter, min(3*seconds(size/nb.rate), blameAfter/2))
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// hashName spreads names evenly (FNV-1a, then mixed).
func hashName(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h) | 1
}

// mix is the finisher of splitmix64.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}
