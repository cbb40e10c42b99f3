package p2p

import (
	"slices"
	"sync/atomic"
	"time"
)

// refusal is why something that a neighbour sent was not taken.
type refusal int

// Reasons. What is older, or here already, is no refusal.
const (
	refusedSize      refusal = iota // over the limit of its kind
	refusedForm                     // does not parse
	refusedSignature                // signatures by too few of the right keys
	refusedNewer                    // needs a newer satchel
	refusedRoot                     // a trust root that is no next one of ours, or signed under one that we lack
	refusedForeign                  // a document of a mesh with another trust root
	refusedBudget                   // not looked at: the sender, or all together, cost enough already
	refusedFlood                    // gossip frames over budget
	refusedProtocol                 // broke a protocol, sent wrong bytes: shut out
	refusals
)

var refusalNames = [refusals]string{"size", "form", "signature", "newer", "root", "foreign", "budget", "flood", "protocol"}

// tally counts refusals. It may be used from any goroutine.
type tally [refusals]atomic.Uint64

func (t *tally) add(r refusal) { t[r].Add(1) }

// Guard is what a node's defences have refused since it was opened, and what they hold of strangers: numbers that
// stay small whatever strangers do.
type Guard struct {
	Refused map[string]uint64  // by reason: size, form, signature, newer, root, foreign, budget, flood, protocol
	Banned  []string           // peers that are shut out now, by id
	Scores  map[string]float64 // neighbours' gossip scores that are not zero, at most a quarter of a minute old; none is above
	Held    map[string]int     // entries that are kept of strangers, by table
}

// Guard says how the node's defences stand.
func (n *Node) Guard() Guard {
	g := Guard{Refused: map[string]uint64{}, Banned: []string{}, Scores: map[string]float64{}, Held: map[string]int{"mailbox": n.queue.peak()}}
	for i := range n.refusals {
		g.Refused[refusalNames[i]] = n.refusals[i].Load()
	}
	n.do(func() {
		r := n.net
		if r == nil {
			return
		}
		g.Banned = append(g.Banned, r.gater.list(time.Now())...)
		for p, score := range r.gossip.scores() {
			if score != 0 {
				g.Scores[p.String()] = score
			}
		}
		g.Held["known"], g.Held["bans"] = len(r.table.known), r.gater.size()
		g.Held["exchange"] = n.ex.size()
		g.Held["digests"] = len(r.digests) + len(r.began) + len(r.opening) + len(r.askers)
		g.Held["checks"] = max(len(n.ex.gossiped.peers), len(n.ex.fetched.peers), len(n.ex.visits.peers))
		g.Held["gossip"] = r.gossip.held()
		g.Held["streams"] = r.server.size()
	})
	slices.Sort(g.Banned)
	return g
}
