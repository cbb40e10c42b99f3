package fetch

import (
	"math/bits"
	"time"
)

// How a piece is chosen.
//
// From a fetcher: of a sample of the open pieces that it holds, the rarest.
//
// From a seeder: only what no fetcher holds. The nodes that fetch together divide those pieces by rendezvous hashing: each
// ranks the names of all fetchers for a piece and asks the seeder only where it ranks itself first. Nobody needs to talk about
// it, and since every node announces what it has got, each soon finds the others' shares there. Who has exhausted its share
// waits a moment, then takes over from the others by rank, few at a time and from the end of their share, for they may be slow
// or gone. What fetchers do hold is asked of a seeder only within a small budget, when the fetchers are all busy.

const (
	minPiece   = 1                // least room worth a look
	sample     = 16               // pieces looked at for one choice from a fetcher
	shareLook  = 64               // pieces looked at for one choice from a seeder
	wordsLook  = 64               // words of the bitsets looked at once a candidate is found
	maxDue     = 15 * time.Second // after that a piece is overdue even at a slow neighbour
	maxSpared  = 1                // asks at one seeder that another node was expected to make, or a fetcher could answer
	reliefPart = 0.05             // of all bytes, divided among the fetchers: what they may ask of one seeder in excess
)

// askAll gives work to every neighbour that has room: to seeders last, for what the others cannot bring.
func (p *Planner) askAll() {
	p.waiting = false
	if p.lones == 0 {
		p.shareEnd = 0
	}
	if len(p.peers) == 0 || p.opens == 0 {
		return
	}
	start := p.rng.IntN(len(p.peers))
	for _, want := range [...]role{fetcher, seeder} {
		for k := range p.peers {
			if nb := p.peers[(start+k)%len(p.peers)]; nb.role == want {
				p.askOne(nb)
			}
		}
	}
}

// askOne gives one neighbour as much work as it has room for.
func (p *Planner) askOne(nb *neighbour) {
	if nb.rest > p.now {
		p.waiting = true
		return
	}
	for !nb.dry && p.opens > 0 && nb.room(minPiece) && p.asked+p.checking < maxBuffered {
		var i int
		spared := false
		switch nb.role {
		case fetcher:
			i = p.rarest(nb, p.open)
			nb.dry = i < 0
		case seeder:
			i, spared = p.fromSeeder(nb)
		default:
			return
		}
		if i < 0 || !nb.room(p.size[i]) {
			return
		}
		p.ask(nb, int32(i), spared)
	}
}

func (p *Planner) ask(nb *neighbour, piece int32, spared bool) {
	i := int(piece)
	size := int64(p.size[i])
	if p.state[i] == missing {
		p.setOpen(i, false)
		p.state[i] = asked
	} else {
		p.state[i] = hedged
	}
	if len(nb.asks) == 0 {
		nb.busy, nb.last = p.now, p.now
	}
	due := p.now + min(max(3*nb.expected(size), 500*time.Millisecond), maxDue)
	if nb.rate == 0 {
		due = p.now + stallAfter
	}
	nb.asks = append(nb.asks, ask{piece: piece, spared: spared, at: p.now, due: due})
	nb.bytes += size
	p.asked += size
	if spared {
		nb.spared++
	}
	p.out = append(p.out, Output{Verb: Ask, Peer: nb.id, Piece: piece})
}

// rarest is, of a sample of the pieces in want that nb holds, one that the fewest neighbours hold; -1 when there is none.
func (p *Planner) rarest(nb *neighbour, want bitset) int {
	best, bestAvail := -1, uint16(0)
	seen := 0
	p.scan(nb, want, func(i int) bool {
		seen++
		if best < 0 || p.avail[i] < bestAvail {
			best, bestAvail = i, p.avail[i]
		}
		return seen < sample
	})
	return best
}

// scan calls f with pieces of want that nb holds, from a random place on, until f returns false or it has looked far enough.
func (p *Planner) scan(nb *neighbour, want bitset, f func(i int) bool) {
	n := len(want)
	if n == 0 {
		return
	}
	start, found := p.rng.IntN(n), 0
	for k := range n {
		if found > 0 && k-found > wordsLook {
			return
		}
		w := start + k
		if w >= n {
			w -= n
		}
		word := want[w]
		if !nb.complete {
			word &= nb.have.word(w)
		}
		if word == 0 {
			continue
		}
		if found == 0 {
			found = k + 1
		}
		turn := 0
		if k == 0 {
			turn = p.rng.IntN(64)
		}
		for word = bits.RotateLeft64(word, -turn); word != 0; word &= word - 1 {
			if !f(w<<6 + (bits.TrailingZeros64(word)+turn)&63) {
				return
			}
		}
	}
}

// fromSeeder chooses a piece that a seeder should be asked for; -1 when none is, at the moment. Spared says that by rights
// it should come from elsewhere.
func (p *Planner) fromSeeder(nb *neighbour) (i int, spared bool) {
	if p.lones > 0 {
		if i, rank := p.share(nb); i >= 0 {
			if rank == 0 {
				p.shareEnd = 0
				return i, false
			}
			if p.shareEnd == 0 {
				p.shareEnd = p.now
			}
			p.waiting = true
			if nb.spared < maxSpared && p.now-p.shareEnd >= time.Duration(min(rank, 3))*p.grace(nb) {
				return i, true
			}
		}
	}
	if p.opens > p.lones {
		return p.relief(nb)
	}
	return -1, false
}

// share looks at some lone pieces of a seeder and gives the one that is the most ours, with our rank for it.
func (p *Planner) share(nb *neighbour) (best, rank int) {
	best, rank = -1, 0
	score, seen, ours := uint64(0), 0, 0
	active := p.active(nb)
	p.scan(nb, p.lone, func(i int) bool {
		seen++
		r, first, own := p.rank(i, active)
		s := own
		if r == 0 {
			ours++
		} else {
			s = ^first // the owner works upwards
		}
		if best < 0 || r < rank || r == rank && s < score {
			best, rank, score = i, r, s
		}
		return seen < shareLook && ours < 4
	})
	return best, rank
}

// active lists the hashes of the other nodes that are at work on the lone pieces.
func (p *Planner) active(nb *neighbour) []uint64 {
	if p.self == 0 {
		return nil
	}
	lively := min(max(6*nb.expected(minWindow), time.Second), 20*time.Second)
	active := make([]uint64, 0, 32)
	for _, other := range p.peers {
		if other.role == fetcher && !other.complete && p.now-other.fresh <= lively {
			active = append(active, other.hash)
		}
	}
	return active
}

// rank is how many active nodes come before us for a piece, the value of the first of all, and our own.
func (p *Planner) rank(i int, active []uint64) (rank int, first, own uint64) {
	key := uint64(p.key[i]) * 0x9e3779b97f4a7c15
	own = mix(key ^ p.self)
	first = own
	for _, h := range active {
		v := mix(key ^ h)
		if v < own {
			rank++
		}
		first = min(first, v)
	}
	return rank, first, own
}

// grace is how long those who rank before us may take.
func (p *Planner) grace(nb *neighbour) time.Duration {
	return min(max(3*nb.expected(minWindow), 500*time.Millisecond), 10*time.Second)
}

// relief chooses a piece that fetchers hold, when a seeder may help out with it.
func (p *Planner) relief(nb *neighbour) (i int, spared bool) {
	fetchers, seeders, rate := 1, 0, 0.0
	for _, other := range p.peers {
		switch other.role {
		case fetcher:
			fetchers++
			if !other.stalled {
				rate += other.rate
			}
		case seeder:
			seeders++
		}
	}
	if seeders >= fetchers {
		i := p.rarest(nb, p.open)
		nb.dry = i < 0
		return i, false
	}
	p.waiting = true
	budget := int64(reliefPart * float64(p.total) * float64(seeders) / float64(fetchers))
	slow := rate*16 < nb.rate && float64(p.openBytes) > rate*30
	if len(nb.asks) > nb.spared || nb.spared >= maxSpared {
		return -1, false
	}
	i = p.rarest(nb, p.open)
	if i < 0 || !nb.room(p.size[i]) || p.idleHolder(i) || p.relieved+int64(p.size[i]) > budget && !slow {
		return -1, false
	}
	p.relieved += int64(p.size[i])
	return i, true
}

// idleHolder says whether some fetcher with room holds the piece, so that no seeder need be asked.
func (p *Planner) idleHolder(i int) bool {
	for _, nb := range p.peers {
		if nb.role == fetcher && !nb.stalled && nb.holds(i) && nb.room(p.size[i]) {
			return true
		}
	}
	return false
}

// hedge asks a second neighbour for what a stalled one owes us, and for what is overdue when nothing else is left to ask.
// When all who owe it are stalled it asks another one each time: most neighbours may be liars.
func (p *Planner) hedge() {
	for _, nb := range p.peers {
		for _, a := range nb.asks {
			late := nb.stalled || p.opens == 0 && p.now > a.due
			if !late {
				continue
			}
			if _, lively := p.owing(a.piece); p.state[a.piece] == hedged && lively > 0 {
				continue
			}
			if other := p.second(int(a.piece)); other != nil {
				p.ask(other, a.piece, false)
			}
		}
	}
}

// owing is how many neighbours owe us a piece, and how many of them are not stalled.
func (p *Planner) owing(piece int32) (all, lively int) {
	for _, nb := range p.peers {
		if nb.owes(piece) {
			if all++; !nb.stalled {
				lively++
			}
		}
	}
	return all, lively
}

// second is the neighbour that would bring a piece soonest, other than those that owe it; a seeder only if nobody else.
func (p *Planner) second(i int) *neighbour {
	var best *neighbour
	for _, nb := range p.peers {
		if nb.role == unknown || nb.stalled || !nb.holds(i) || !nb.room(p.size[i]) || nb.owes(int32(i)) {
			continue
		}
		if best == nil || nb.role < best.role || nb.role == best.role && nb.expected(0) < best.expected(0) {
			best = nb
		}
	}
	return best
}
