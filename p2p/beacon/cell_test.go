package beacon_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"satchel/p2p/beacon"
)

// ether is a shared link in virtual time: many cells, each beacon encoded, parsed, and lost to each hearer by chance.
type ether struct {
	t     *testing.T
	now   time.Time
	rand  *rand.Rand
	loss  float64
	nodes []*etherNode
	sent  []time.Time // all transmissions
	// deaf tells that a does not hear b. Nil: all hear all.
	deaf func(a, b *etherNode) bool
}

type etherNode struct {
	id    int
	cell  *beacon.Cell
	self  beacon.Beacon
	next  time.Time
	known map[int]time.Time // by id: when first heard
	sent  int
}

func newEther(t *testing.T, seed uint64, loss float64) *ether {
	return &ether{t: t, now: epoch, rand: rand.New(rand.NewPCG(seed, 1)), loss: loss}
}

func (e *ether) join() *etherNode {
	n := &etherNode{id: len(e.nodes), next: e.now, known: make(map[int]time.Time)}
	n.self = beacon.Beacon{Node: binary.BigEndian.AppendUint32([]byte("node"), uint32(n.id)), TCP: 4001, Instance: e.rand.Uint64()}
	n.cell = beacon.NewCell(e.now, beacon.TrickleConfig{Rand: rand.New(rand.NewPCG(e.rand.Uint64(), 2))})
	e.nodes = append(e.nodes, n)
	return n
}

// run lets d pass.
func (e *ether) run(d time.Duration) {
	for end := e.now.Add(d); ; {
		first := slices.MinFunc(e.nodes, func(a, b *etherNode) int { return a.next.Compare(b.next) })
		if first.next.After(end) {
			e.now = end
			return
		}
		e.now = first.next
		var transmit bool
		if transmit, first.next = first.cell.Tick(e.now); transmit {
			e.transmit(first)
		}
		if !first.next.After(e.now) {
			first.next = e.now.Add(1)
		}
	}
}

func (e *ether) transmit(from *etherNode) {
	from.sent++
	e.sent = append(e.sent, e.now)
	data, err := from.cell.Compose(e.now, from.self).Encode()
	if err != nil {
		e.t.Fatal(err)
	}
	b, err := beacon.Parse(data)
	if err != nil {
		e.t.Fatal(err)
	}
	for _, n := range e.nodes {
		if n == from || e.deaf != nil && e.deaf(n, from) || e.rand.Float64() < e.loss {
			continue
		}
		n.cell.Hear(e.now, &n.self, &b, true)
		n.next = e.now
		if _, ok := n.known[from.id]; !ok {
			n.known[from.id] = e.now
		}
	}
}

// perMinute is the rate of transmissions since from.
func (e *ether) perMinute(from time.Time) float64 {
	n := 0
	for _, at := range e.sent {
		if at.After(from) {
			n++
		}
	}
	return float64(n) / e.now.Sub(from).Minutes()
}

func (e *ether) unknownPairs() int {
	n := 0
	for _, x := range e.nodes {
		n += len(e.nodes) - 1 - len(x.known)
	}
	return n
}

func TestClassIsQuietAndComplete(t *testing.T) {
	for _, test := range []struct {
		nodes int
		loss  float64
	}{{2, 0}, {5, 0.05}, {30, 0}, {30, 0.05}, {30, 0.3}, {100, 0.05}} {
		t.Run(fmt.Sprintf("%d nodes loss %v", test.nodes, test.loss), func(t *testing.T) {
			e := newEther(t, 7, test.loss)
			for range test.nodes {
				e.join()
			}
			e.run(2 * time.Second)
			t.Logf("2 s: %d packets, %d pairs unknown", len(e.sent), e.unknownPairs())
			e.run(15 * time.Minute)
			t.Logf("15 min: %d packets, %d pairs unknown", len(e.sent), e.unknownPairs())
			if n := e.unknownPairs(); n > 0 && test.nodes <= 30 {
				t.Errorf("after a quarter of an hour %d pairs do not know each other", n)
			}
			from := e.now
			e.run(12 * time.Hour) // longer than anybody is remembered
			if rate := e.perMinute(from); rate > 3 {
				t.Errorf("idle: %.2f packets a minute", rate)
			} else {
				t.Logf("idle: %.2f packets a minute", rate)
			}
		})
	}
}

func TestNewcomerIsHeardAndHears(t *testing.T) {
	for seed := range uint64(20) {
		e := newEther(t, seed, 0)
		for range 29 {
			e.join()
		}
		e.run(time.Hour)
		joined, before := e.now, len(e.sent)
		n := e.join()
		e.run(beacon.DefaultImax)
		for _, other := range e.nodes[:29] {
			if at, ok := other.known[n.id]; !ok || at.Sub(joined) > 500*time.Millisecond {
				t.Fatalf("seed %d: the newcomer was not heard at once", seed)
			}
		}
		first := joined.Add(time.Hour)
		for _, at := range n.known {
			if at.Before(first) {
				first = at
			}
		}
		if first.Sub(joined) > 1500*time.Millisecond {
			t.Errorf("seed %d: the newcomer heard the first only after %v", seed, first.Sub(joined))
		}
		if len(n.known) != 29 {
			t.Errorf("seed %d: within Imax the newcomer heard %d of 29", seed, len(n.known))
		}
		if seed == 0 {
			t.Logf("packets in the first %v: %d", beacon.DefaultImax, len(e.sent)-before)
		}
	}
}

// A node whom all others know, and who is kept quiet by them, still reaches one that never heard it.
func TestSuppressionHidesNobody(t *testing.T) {
	e := newEther(t, 3, 0)
	for range 10 {
		e.join()
	}
	a, b := e.nodes[0], e.nodes[1]
	begin := e.now
	e.deaf = func(x, y *etherNode) bool { // the two miss each other's beacons of the first ten minutes
		return e.now.Sub(begin) < 10*time.Minute && (x == a && y == b || x == b && y == a)
	}
	e.run(10 * time.Minute)
	if len(a.known) != 8 || len(b.known) != 8 {
		t.Fatalf("they know %d and %d", len(a.known), len(b.known))
	}
	e.run(3 * beacon.DefaultImax)
	if len(a.known) != 9 || len(b.known) != 9 {
		t.Errorf("they know %d and %d", len(a.known), len(b.known))
	}
}

func TestRestartedNodeIsNew(t *testing.T) {
	e := newEther(t, 4, 0)
	a, b := e.join(), e.join()
	e.run(time.Hour)
	b.self.Instance++
	b.cell = beacon.NewCell(e.now, seeded(9))
	b.next, b.known = e.now, make(map[int]time.Time)
	e.run(1500 * time.Millisecond)
	if _, ok := b.known[a.id]; !ok {
		t.Error("the neighbour did not answer the restarted node")
	}
}

func TestDigestDifference(t *testing.T) {
	e := newEther(t, 5, 0.05)
	for range 30 {
		e.join()
	}
	e.run(time.Hour)
	// A difference is told quickly ...
	n, before := e.nodes[0], len(e.sent)
	n.self.Digest[0] = 1
	n.cell.News(e.now)
	n.next = e.now
	e.run(time.Second)
	if len(e.sent) == before {
		t.Error("news was not told within a second")
	}
	// ... and one that stays does not keep the class talking.
	e.run(2 * time.Hour)
	from := e.now
	e.run(6 * time.Hour)
	if rate := e.perMinute(from); rate > 3 {
		t.Errorf("with a lasting difference: %.2f packets a minute", rate)
	} else {
		t.Logf("with a lasting difference: %.2f packets a minute", rate)
	}
}

func TestAllDigestsDiffer(t *testing.T) {
	e := newEther(t, 6, 0.05)
	for i := range 30 {
		e.join().self.Digest[0] = byte(i)
	}
	e.run(4 * time.Hour)
	from := e.now
	e.run(6 * time.Hour)
	if rate := e.perMinute(from); rate > 3 {
		t.Errorf("%.2f packets a minute", rate)
	} else {
		t.Logf("%.2f packets a minute", rate)
	}
}

// Several cells in a row, each hearing only its neighbours, and one that is deaf for ever.
func TestPartialHearing(t *testing.T) {
	e := newEther(t, 8, 0.05)
	for range 30 {
		e.join()
	}
	e.deaf = func(a, b *etherNode) bool { return max(a.id-b.id, b.id-a.id) > 4 || a.id == 0 }
	e.run(4 * time.Hour)
	for _, n := range e.nodes[5:25] {
		if len(n.known) != 8 {
			t.Errorf("node %d knows %d of 8", n.id, len(n.known))
		}
	}
	from := e.now
	e.run(6 * time.Hour)
	t.Logf("%.2f packets a minute over 30 nodes in a row", e.perMinute(from))
	if rate := e.perMinute(from); rate > 12 { // about four cells' worth
		t.Errorf("%.2f packets a minute", rate)
	}
}

// Strangers with ever new names cost a bounded number of answers and bounded memory.
func TestStrangersCostLittle(t *testing.T) {
	cell := beacon.NewCell(epoch, seeded(1))
	self := beacon.Beacon{Node: []byte("self"), Instance: 1}
	sent, now := 0, epoch
	const minutes = 30
	for i := range minutes * 60 * 20 {
		now = now.Add(50 * time.Millisecond)
		b := beacon.Beacon{Node: fmt.Appendf(nil, "stranger %d", i), Digest: [8]byte{byte(i)}, Heard: beacon.Heard{To: ^beacon.Tag(0)}}
		b.Heard.Tags = []beacon.Tag{beacon.Tag(i + 1)}
		cell.Hear(now, &self, &b, false)
		if transmit, _ := cell.Tick(now); transmit {
			sent++
			if _, err := cell.Compose(now, self).Encode(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if sent > 10*(minutes+1) {
		t.Errorf("%d beacons sent in %d minutes of nonsense", sent, minutes)
	}
	if cell.Len() > 256 {
		t.Errorf("%d nodes remembered", cell.Len())
	}
}

func TestCellIgnoresItself(t *testing.T) {
	cell := beacon.NewCell(epoch, seeded(1))
	self := beacon.Beacon{Node: []byte("self"), Instance: 1}
	if v := cell.Hear(epoch, &self, &self, true); v != beacon.FromSelf {
		t.Errorf("own beacon: verdict %v", v)
	}
	other := self
	other.Instance = 2
	for _, want := range []beacon.Verdict{beacon.FromNew, beacon.FromKnown} {
		if v := cell.Hear(epoch, &self, &other, true); v != want {
			t.Errorf("another instance: verdict %v, want %v", v, want)
		}
	}
}

func TestBothFamilies(t *testing.T) {
	self, other := beacon.Beacon{Node: []byte("self")}, beacon.Beacon{Node: []byte("other")}
	for _, test := range []struct {
		name string
		near []bool // how the other is heard, a second apart
		want bool
	}{
		{"nobody", nil, false},
		{"by our family", []bool{true}, false},
		{"by the other only", []bool{false}, true},
		{"by both at once", []bool{true, false}, false},
		{"by the other since long", []bool{true, false, false, false, false}, true},
		{"again by ours", []bool{false, false, false, false, true}, false},
	} {
		now := epoch
		cell := beacon.NewCell(now, seeded(1))
		if !cell.BothFamilies(now) {
			t.Errorf("%s: the first beacon goes by one family", test.name)
		}
		cell.Compose(now, self)
		for _, near := range test.near {
			now = now.Add(time.Second)
			cell.Hear(now, &self, &other, near)
		}
		if got := cell.BothFamilies(now); got != test.want {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
		if later := now.Add(time.Hour); cell.BothFamilies(later) {
			t.Errorf("%s: still both after an hour", test.name)
		}
	}
}
