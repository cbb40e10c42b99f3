package stick

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"satchel/fetch"
)

// Neighbour makes a stick a neighbour of fetches: a slow one, whom nobody else can ask. It checks every piece before it delivers it,
// so a fetch never sees wrong bytes from it, and keeps what is good when much is bad. What is not there, or damaged, is Gone; the
// Stick's Problems say so.
//
//	Session ──Request──► queue ──Run: read, hash──► Data, Gone ──► Session
type Neighbour struct {
	stick *Stick
	name  string
	wake  chan struct{} // capacity 1

	mu     sync.Mutex // never held across I/O
	queue  []wanted   // guarded by mu
	served uint64     // guarded by mu
}

// wanted is a request of one fetch.
type wanted struct {
	fetch.Request
	s  *fetch.Session
	at place
}

// NewNeighbour makes a neighbour with this name, by which fetches know it. Run must be called, and owns the Stick until it returns.
func NewNeighbour(s *Stick, name string) *Neighbour {
	return &Neighbour{stick: s, name: name, wake: make(chan struct{}, 1)}
}

// Name is the name by which fetches know the neighbour.
func (n *Neighbour) Name() string { return n.name }

// Join has a fetch know the neighbour. It may wait for the fetch's goroutine.
func (n *Neighbour) Join(s *fetch.Session) {
	s.PeerUp(&link{n, s})
	// First as one that fetches, then as one that has all. So it is not taken for a seeder, which many share and nobody may ask for
	// more than a part: whatever it has not, it says when it is asked.
	s.HaveMap(n.name, fetch.HaveMap{Manifest: true})
	s.HaveMap(n.name, fetch.HaveMap{All: true})
}

// Leave has a fetch forget the neighbour.
func (n *Neighbour) Leave(s *fetch.Session) {
	n.drop(func(w wanted) bool { return w.s == s })
	s.PeerDown(n.name)
}

// Served is how many bytes of good pieces fetches have got.
func (n *Neighbour) Served() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.served
}

// link is the neighbour as one fetch sees it.
type link struct {
	n *Neighbour
	s *fetch.Session
}

var _ fetch.Peer = (*link)(nil)

// ID implements fetch.Peer.
func (l *link) ID() string { return l.n.name }

// Request implements fetch.Peer.
func (l *link) Request(reqs []fetch.Request) {
	l.n.mu.Lock()
	for _, r := range reqs {
		l.n.queue = append(l.n.queue, wanted{Request: r, s: l.s})
	}
	l.n.mu.Unlock()
	select {
	case l.n.wake <- struct{}{}:
	default:
	}
}

// Cancel implements fetch.Peer.
func (l *link) Cancel(ids []uint64) {
	l.n.drop(func(w wanted) bool { return w.s == l.s && slices.Contains(ids, w.ID) })
}

func (n *Neighbour) drop(which func(wanted) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.queue = slices.DeleteFunc(n.queue, which)
}

// Run answers requests until ctx ends.
func (n *Neighbour) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		n.mu.Lock()
		batch := n.queue
		n.queue = nil
		n.mu.Unlock()
		for i := range batch {
			if at := n.stick.places(batch[i].Digest); len(at) > 0 {
				batch[i].at = at[0]
			}
		}
		slices.SortFunc(batch, func(a, b wanted) int { // a stick that turns reads best in order
			return cmp.Or(cmp.Compare(a.at.pack, b.at.pack), cmp.Compare(a.at.offset, b.at.offset))
		})
		for _, w := range batch {
			if ctx.Err() != nil {
				return
			}
			n.answer(w)
		}
	}
}

// patience is how long a piece may take while a fetch, which gives up on who is silent, still waits for it.
const patience = 20 * time.Second

func (n *Neighbour) answer(w wanted) {
	began := time.Now()
	data, err := n.stick.Read(w.Digest, w.Length)
	if err != nil {
		w.s.Gone(n.name, w.ID)
	} else {
		n.mu.Lock()
		n.served += uint64(len(data))
		n.mu.Unlock()
		w.s.Data(n.name, w.ID, data)
	}
	if time.Since(began) > patience {
		n.Join(w.s) // it may have been given up, and answers again
	}
}
