package fetchtest

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"satchel/fetch"
)

// NodeConfig describes one node of a [Network].
type NodeConfig struct {
	Name    string
	Up      float64       // bytes a second that it can send
	Down    float64       // bytes a second that it can receive
	Latency time.Duration // one way, to anybody

	Seeder bool             // has everything from the start
	Has    func(i int) bool // which pieces it has from the start; nil: none

	Joins           time.Duration // when it meets the others
	Leaves          time.Duration // when it is gone; 0: it stays
	LeaveWhenSpread bool          // it is gone as soon as the others together hold everything

	StallsAfter int  // serves so many pieces, then answers nothing; 0: it never stalls
	CorruptsNth int  // each n-th piece that it serves is wrong; 0: none
	Idle        bool // it never asks for anything
}

// Network is a set of nodes that all know each other. It has one owner.
type Network struct {
	Batch  time.Duration // how long what became available waits to be told; a few milliseconds
	Verify time.Duration // how long verifying and keeping a piece takes

	pieces []fetch.Piece
	rng    *rand.Rand
	now    time.Duration
	events events
	serial int
	nodes  []*Node
	byName map[string]*Node
	copies []int // of each piece, at nodes that are not seeders
	spread int   // pieces with copies
}

// Node is one node of a Network. Its counters may be read when Run has returned.
type Node struct {
	NodeConfig
	Uploaded   int64         // bytes sent
	Downloaded int64         // bytes received that were wanted
	Duplicate  int64         // bytes received that were not
	Corrupt    int64         // bytes received that were wrong
	Finished   time.Duration // when it had everything; 0: never, or from the start
	Blamed     []string      // whom it blamed
	Steps      int           // planner steps

	planner *fetch.Planner
	have    []bool
	missing int
	here    bool
	asked   map[ticket]bool
	pending []int32 // became available, not told yet
	served  int

	queues   map[*Node][]int32 // requests by requester
	turn     []*Node
	sending  bool
	downFree time.Duration
	wake     time.Duration
}

type ticket struct {
	peer  string
	piece int32
}

// NewNetwork makes a network without nodes, over the given pieces.
func NewNetwork(seed uint64, pieces []fetch.Piece) *Network {
	return &Network{
		Batch: 5 * time.Millisecond, Verify: 200 * time.Microsecond,
		pieces: pieces, rng: rand.New(rand.NewPCG(seed, 1)), byName: make(map[string]*Node), copies: make([]int, len(pieces)),
	}
}

// Add adds a node. All nodes must be added before Run.
func (n *Network) Add(cfg NodeConfig) *Node {
	node := &Node{
		NodeConfig: cfg, planner: fetch.NewPlanner(n.rng.Uint64(), cfg.Name),
		have: make([]bool, len(n.pieces)), asked: make(map[ticket]bool), queues: make(map[*Node][]int32),
	}
	for i := range n.pieces {
		node.have[i] = cfg.Seeder || cfg.Has != nil && cfg.Has(i)
		if !node.have[i] {
			node.missing++
		} else if !cfg.Seeder {
			n.copied(i)
		}
	}
	n.nodes = append(n.nodes, node)
	n.byName[cfg.Name] = node
	return node
}

// Run lets everything happen until every node that stays has everything, nothing more can happen, or the limit is reached.
// It gives the virtual time that passed, and an error when somebody was left without.
func (n *Network) Run(limit time.Duration) (time.Duration, error) {
	for _, node := range n.nodes {
		n.after(node.Joins, func() { n.join(node) })
		if node.Leaves > 0 {
			n.after(node.Leaves, func() { n.leave(node) })
		}
	}
	for n.events.Len() > 0 && n.now < limit && !n.allDone() {
		e := heap.Pop(&n.events).(event)
		n.now = e.at
		e.do()
	}
	for _, node := range n.nodes {
		if !node.done() {
			return n.now, fmt.Errorf("%s lacks %d of %d pieces at %v", node.Name, node.missing, len(n.pieces), n.now)
		}
	}
	return n.now, nil
}

func (node *Node) done() bool {
	return node.missing == 0 || node.Idle || node.Leaves > 0 || node.LeaveWhenSpread
}

func (n *Network) allDone() bool {
	for _, node := range n.nodes {
		if !node.done() {
			return false
		}
	}
	return true
}

func (n *Network) after(d time.Duration, do func()) {
	n.serial++
	heap.Push(&n.events, event{n.now + d, n.serial, do})
}

func (n *Network) join(node *Node) {
	node.here = true
	if !node.Idle {
		n.step(node, fetch.Add{Pieces: n.pieces})
		for i, have := range node.have {
			if have {
				n.step(node, fetch.Here{Piece: int32(i)})
			}
		}
	}
	for _, other := range n.nodes {
		if other != node && other.here {
			n.meet(node, other)
			n.meet(other, node)
		}
	}
}

// meet makes other known to node, a moment from now.
func (n *Network) meet(node, other *Node) {
	n.after(node.Latency+other.Latency, func() {
		if !node.here || !other.here {
			return
		}
		n.step(node, fetch.Join{Peer: other.Name})
		if other.missing == 0 {
			n.step(node, fetch.HoldsAll{Peer: other.Name})
		} else {
			n.step(node, fetch.Fetches{Peer: other.Name})
			n.step(node, fetch.Holds{Peer: other.Name, Pieces: other.held()})
		}
		n.step(node, fetch.Tick{})
	})
}

func (node *Node) held() []int32 {
	var held []int32
	for i, have := range node.have {
		if have {
			held = append(held, int32(i))
		}
	}
	return held
}

func (n *Network) leave(node *Node) {
	if !node.here {
		return
	}
	node.here = false
	for _, other := range n.nodes {
		n.after(other.Latency, func() {
			other.part(node.Name)
			n.step(other, fetch.Leave{Peer: node.Name})
		})
	}
}

// step feeds a planner and does what it says.
func (n *Network) step(node *Node, in fetch.Input) {
	if node.Idle || !node.here {
		return
	}
	node.Steps++
	for _, out := range node.planner.Step(n.now, in) {
		peer := n.byName[out.Peer]
		switch out.Verb {
		case fetch.Ask:
			node.asked[ticket{out.Peer, out.Piece}] = true
			n.after(node.Latency+peer.Latency, func() { n.request(peer, node, out.Piece) })
		case fetch.Cancel:
			delete(node.asked, ticket{out.Peer, out.Piece})
			n.after(node.Latency+peer.Latency, func() { peer.forget(node, out.Piece) })
		case fetch.Blame:
			node.Blamed = append(node.Blamed, out.Peer)
			node.part(out.Peer)
		}
	}
	if at, ok := node.planner.Deadline(); ok && node.wake <= n.now && node.missing > 0 {
		node.wake = max(at, n.now+time.Millisecond)
		n.after(node.wake-n.now, func() { n.step(node, fetch.Tick{}) })
	}
}

func (n *Network) request(node, from *Node, piece int32) {
	if !node.here {
		return
	}
	if !node.have[piece] {
		n.after(node.Latency+from.Latency, func() {
			if from.asked[ticket{node.Name, piece}] {
				delete(from.asked, ticket{node.Name, piece})
				n.step(from, fetch.Refused{Peer: node.Name, Piece: piece})
			}
		})
		return
	}
	if len(node.queues[from]) == 0 {
		node.turn = append(node.turn, from)
	}
	node.queues[from] = append(node.queues[from], piece)
	n.send(node)
}

// part forgets what was asked of a node that is gone.
func (node *Node) part(name string) {
	for t := range node.asked {
		if t.peer == name {
			delete(node.asked, t)
		}
	}
}

// forget drops a request that has not been served yet.
func (node *Node) forget(from *Node, piece int32) {
	queue := node.queues[from]
	for k, p := range queue {
		if p == piece {
			node.queues[from] = append(queue[:k], queue[k+1:]...)
			return
		}
	}
}

// send serves the requesters in turn, one piece at a time.
func (n *Network) send(node *Node) {
	if node.sending || !node.here || node.StallsAfter > 0 && node.served >= node.StallsAfter {
		return
	}
	var to *Node
	for to == nil {
		if len(node.turn) == 0 {
			return
		}
		to = node.turn[0]
		node.turn = node.turn[1:]
		if len(node.queues[to]) == 0 {
			to = nil
		}
	}
	piece := node.queues[to][0]
	node.queues[to] = node.queues[to][1:]
	if len(node.queues[to]) > 0 {
		node.turn = append(node.turn, to)
	}
	size := n.pieces[piece].Size
	node.sending = true
	n.after(transmit(size, node.Up), func() {
		node.sending = false
		if !node.here {
			return
		}
		node.served++
		node.Uploaded += int64(size)
		corrupt := node.CorruptsNth > 0 && node.served%node.CorruptsNth == 0
		arrives := max(n.now+node.Latency+to.Latency, to.downFree) + transmit(size, to.Down)
		to.downFree = arrives
		n.after(arrives-n.now, func() { n.arrive(to, node, piece, corrupt) })
		n.send(node)
	})
}

func transmit(size uint32, rate float64) time.Duration {
	return time.Duration(float64(size) / rate * float64(time.Second))
}

func (n *Network) arrive(node, from *Node, piece int32, corrupt bool) {
	if !node.here {
		return
	}
	size := int64(n.pieces[piece].Size)
	t := ticket{from.Name, piece}
	if !node.asked[t] {
		node.Duplicate += size
		return
	}
	delete(node.asked, t)
	n.step(node, fetch.Arrived{Peer: from.Name, Piece: piece})
	n.after(n.Verify, func() {
		switch {
		case corrupt:
			node.Corrupt += size
			n.step(node, fetch.Corrupt{Peer: from.Name, Piece: piece, What: "wrong bytes"})
		default:
			node.Downloaded += size
			n.keep(node, piece)
		}
	})
}

func (n *Network) keep(node *Node, piece int32) {
	if node.have[piece] {
		panic(fmt.Sprintf("%s got piece %d twice", node.Name, piece))
	}
	node.have[piece] = true
	node.missing--
	if node.missing == 0 {
		node.Finished = n.now
	}
	n.step(node, fetch.Verified{Piece: piece})
	n.copied(int(piece))
	node.pending = append(node.pending, piece)
	if len(node.pending) == 1 {
		n.after(n.Batch, func() { n.tell(node) })
	}
}

// tell tells the others what became available here.
func (n *Network) tell(node *Node) {
	news := node.pending
	node.pending = nil
	for _, other := range n.nodes {
		if other == node || !other.here || other.missing == 0 {
			continue
		}
		n.after(node.Latency+other.Latency, func() {
			n.step(other, fetch.Holds{Peer: node.Name, Pieces: news, Fresh: true})
		})
	}
}

// copied counts what is no longer only at the seeders.
func (n *Network) copied(piece int) {
	n.copies[piece]++
	if n.copies[piece] > 1 {
		return
	}
	n.spread++
	if n.spread < len(n.pieces) {
		return
	}
	for _, node := range n.nodes {
		if node.LeaveWhenSpread {
			n.after(0, func() { n.leave(node) })
		}
	}
}

type event struct {
	at     time.Duration
	serial int
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	old := *e
	x := old[len(old)-1]
	*e = old[:len(old)-1]
	return x
}
