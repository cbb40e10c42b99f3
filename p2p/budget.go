package p2p

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// What strangers may cost. An Ed25519 check takes 50 µs on a desktop of 2020; a 433 MHz laptop does 1 to 2 % of that,
// so one takes it up to 5 ms. An announcement of 512 bytes bears at most five signatures, usually one, and a check is
// counted for each of them. Only what a check refuses is paid for: good news is work that has to be done anyway, so
// an honest neighbour's purse stays full.
//
//	gossip    10 checks a second for all together, 5 % of that laptop, and a burst of one second of it
//	          1 in 10 seconds for each: a hundred liars are needed to starve the others, twice the neighbours there can be
//	exchange  as much again, so that what gossip is starved of arrives all the same
//
// A newcomer may have two documents refused and then waits like the others: new identities cost nothing. Over budget
// nothing is checked: gossip ignores the document without blame, an exchange leaves the rest for a later one.
var (
	checksOfEach = allowance{rate: 0.1, burst: 8, start: 2}
	checksOfAll  = allowance{rate: 10, burst: 200, start: 200}
)

// Gossip frames before anything in them is looked at, 2 ms each for that laptop. An honest neighbour sends one a
// heartbeat while there is news and one for each announcement; a publisher may announce two hundred releases at once.
var (
	framesOfEach = allowance{rate: 5, burst: 256, start: 256}
	framesOfAll  = allowance{rate: 50, burst: 4096, start: 4096}
)

// Catalog exchanges, asked and answered, with one peer: four a minute are normal, and more when there is news.
var visitsOfEach = allowance{rate: 0.2, burst: 32, start: 32}

// maxPayers is how many peers a budget tells apart: more than there can be connections.
const maxPayers = 256

// allowance is what may be spent: rate a second, burst at once after a rest, start at the very beginning. The zero
// value is no limit.
type allowance struct{ rate, burst, start float64 }

// purse is what is left of an allowance.
type purse struct {
	left   float64
	at     time.Time
	denied int // how often it was empty since it was full
}

// fill adds what time brought.
func (w *purse) fill(a allowance, now time.Time) {
	if d := now.Sub(w.at); d > 0 {
		w.left, w.at = min(a.burst, w.left+a.rate*d.Seconds()), now
		if w.left == a.burst {
			w.denied = 0
		}
	}
}

// budget limits what peers may cost, each and all together. It is a pure machine with one owner.
type budget struct {
	each, all allowance
	total     purse
	peers     map[peer.ID]*purse
}

func newBudget(each, all allowance) *budget {
	return &budget{each: each, all: all, total: purse{left: all.start}, peers: map[peer.ID]*purse{}}
}

// may reports whether p has anything left to spend, and all together have.
func (b *budget) may(now time.Time, p peer.ID) bool {
	w := b.purse(now, p)
	if w.left < 1 {
		w.denied++
		return false
	}
	b.total.fill(b.all, now)
	return b.all == allowance{} || b.total.left >= 1
}

// spend takes n from p, and from all. It may leave debts.
func (b *budget) spend(now time.Time, p peer.ID, n int) {
	b.purse(now, p).left -= float64(n)
	b.total.left -= float64(n)
}

// take spends n if p may spend anything.
func (b *budget) take(now time.Time, p peer.ID, n int) bool {
	if !b.may(now, p) {
		return false
	}
	b.spend(now, p, n)
	return true
}

// denied is how often p had nothing left since it last had all.
func (b *budget) denied(p peer.ID) int {
	if w := b.peers[p]; w != nil {
		return w.denied
	}
	return 0
}

func (b *budget) purse(now time.Time, p peer.ID) *purse {
	w := b.peers[p]
	if w == nil {
		if len(b.peers) >= maxPayers {
			b.forget(now)
		}
		w = &purse{left: b.each.start, at: now}
		b.peers[p] = w
	}
	w.fill(b.each, now)
	return w
}

// forget makes room: whoever has most left goes, for whom it makes the least difference.
func (b *budget) forget(now time.Time) {
	var best peer.ID
	for p, w := range b.peers {
		if w.fill(b.each, now); best == "" || w.left > b.peers[best].left {
			best = p
		}
	}
	delete(b.peers, best)
}
