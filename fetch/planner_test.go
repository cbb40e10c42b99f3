package fetch_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"
	"satchel/fetch"
)

// script feeds a planner and writes down what it says.
type script struct {
	*fetch.Planner
	now time.Duration
	out []string
}

func (s *script) step(in fetch.Input) {
	for _, o := range s.Step(s.now, in) {
		line := fmt.Sprintf("%s %s %d", [...]string{"ask", "cancel", "blame"}[o.Verb], o.Peer, o.Piece)
		if o.Verb == fetch.Blame {
			line = "blame " + o.Peer
		}
		s.out = append(s.out, line)
	}
}

// wait lets time pass with a Tick whenever one is due.
func (s *script) wait(d time.Duration) {
	end := s.now + d
	for {
		at, ok := s.Deadline()
		if !ok || at > end {
			s.now = end
			return
		}
		s.now = max(at, s.now)
		s.step(fetch.Tick{})
	}
}

func same(n int, size uint32) []fetch.Piece {
	pieces := make([]fetch.Piece, n)
	for i := range pieces {
		pieces[i] = fetch.Piece{Size: size, Key: uint32(i) * 2654435761}
	}
	return pieces
}

// play is a short story and what the planner has to say to it.
type play struct {
	name string
	play func(s *script)
	want []string
}

func plays() []play {
	return []play{
		{"nobody to ask", func(s *script) {
			s.step(fetch.Add{Pieces: same(1, 1000)})
			s.step(fetch.Tick{})
		}, nil},
		{"a seeder is asked", func(s *script) {
			s.step(fetch.Add{Pieces: same(1, 1000)})
			s.step(fetch.Join{Peer: "a"})
			s.step(fetch.HoldsAll{Peer: "a"})
		}, []string{"ask a 0"}},
		{"what is here is not asked for", func(s *script) {
			s.step(fetch.Add{Pieces: same(2, 1000)})
			s.step(fetch.Here{Piece: 0})
			s.step(fetch.Join{Peer: "a"})
			s.step(fetch.HoldsAll{Peer: "a"})
		}, []string{"ask a 1"}},
		{"only the holder is asked", func(s *script) {
			s.step(fetch.Add{Pieces: same(2, 1000)})
			s.step(fetch.Join{Peer: "a"})
			s.step(fetch.Join{Peer: "b"})
			s.step(fetch.Holds{Peer: "b", Pieces: []int32{1, 7, -1}})
			s.step(fetch.Tick{})
		}, []string{"ask b 1"}},
		{"a fetcher spares the seeder", func(s *script) {
			s.step(fetch.Join{Peer: "seeder"})
			s.step(fetch.HoldsAll{Peer: "seeder"})
			s.step(fetch.Join{Peer: "b"})
			s.step(fetch.Add{Pieces: same(1, 1000)})
			s.step(fetch.Holds{Peer: "b", Pieces: []int32{0}})
			s.step(fetch.Tick{})
		}, []string{"ask b 0"}},
		{"refused goes elsewhere", func(s *script) {
			s.step(fetch.Join{Peer: "a"})
			s.step(fetch.HoldsAll{Peer: "a"})
			s.step(fetch.Add{Pieces: same(1, 1000)})
			s.step(fetch.Tick{})
			s.step(fetch.Refused{Peer: "a", Piece: 0})
			s.step(fetch.Join{Peer: "b"})
			s.step(fetch.HoldsAll{Peer: "b"})
		}, []string{"ask a 0", "ask b 0"}},
		{"corrupt is blamed and goes elsewhere", func(s *script) {
			s.step(fetch.Join{Peer: "a"})
			s.step(fetch.HoldsAll{Peer: "a"})
			s.step(fetch.Add{Pieces: same(1, 1000)})
			s.step(fetch.Tick{})
			s.step(fetch.Arrived{Peer: "a", Piece: 0})
			s.step(fetch.Join{Peer: "b"})
			s.step(fetch.HoldsAll{Peer: "b"})
			s.step(fetch.Corrupt{Peer: "a", Piece: 0, What: "wrong bytes"})
		}, []string{"ask a 0", "blame a", "ask b 0"}},
	}
}

// troubles are plays with neighbours that go or keep silent.
func troubles() []play {
	return []play{
		{"who leaves is replaced", func(s *script) {
			s.step(fetch.Join{Peer: "a"})
			s.step(fetch.HoldsAll{Peer: "a"})
			s.step(fetch.Add{Pieces: same(1, 1000)})
			s.step(fetch.Tick{})
			s.step(fetch.Join{Peer: "b"})
			s.step(fetch.HoldsAll{Peer: "b"})
			s.step(fetch.Leave{Peer: "a"})
		}, []string{"ask a 0", "ask b 0"}},
		{"who stalls is hedged once, canceled when the other delivers", func(s *script) {
			s.step(fetch.Join{Peer: "a"})
			s.step(fetch.HoldsAll{Peer: "a"})
			s.step(fetch.Add{Pieces: same(1, 1000)})
			s.step(fetch.Tick{})
			s.step(fetch.Join{Peer: "b"})
			s.step(fetch.HoldsAll{Peer: "b"})
			s.wait(3 * time.Second)
			s.step(fetch.Arrived{Peer: "b", Piece: 0})
			s.step(fetch.Verified{Piece: 0})
			s.wait(60 * time.Second)
		}, []string{"ask a 0", "ask b 0", "cancel a 0"}},
		{"when all who are asked stall, one after the other is asked", func(s *script) {
			for _, peer := range []string{"a", "b", "c", "d"} {
				s.step(fetch.Join{Peer: peer})
				s.step(fetch.HoldsAll{Peer: peer})
				if peer == "a" {
					s.step(fetch.Add{Pieces: same(1, 1000)})
					s.step(fetch.Tick{})
				}
			}
			s.wait(9 * time.Second)
			s.step(fetch.Arrived{Peer: "d", Piece: 0})
			s.step(fetch.Verified{Piece: 0})
		}, []string{"ask a 0", "ask b 0", "ask c 0", "ask d 0", "cancel a 0", "cancel b 0", "cancel c 0"}},
		{"who stalls for long is blamed", func(s *script) {
			s.step(fetch.Join{Peer: "a"})
			s.step(fetch.HoldsAll{Peer: "a"})
			s.step(fetch.Add{Pieces: same(1, 1000)})
			s.step(fetch.Tick{})
			s.wait(60 * time.Second)
		}, []string{"ask a 0", "blame a"}},
	}
}

func TestPlanner(t *testing.T) {
	for _, test := range append(plays(), troubles()...) {
		t.Run(test.name, func(t *testing.T) {
			s := &script{Planner: fetch.NewPlanner(1, "me")}
			test.play(s)
			if fmt.Sprint(s.out) != fmt.Sprint(test.want) {
				t.Errorf("got %q, want %q", s.out, test.want)
			}
		})
	}
}

func TestWindow(t *testing.T) {
	s := &script{Planner: fetch.NewPlanner(1, "me")}
	s.step(fetch.Join{Peer: "a"})
	s.step(fetch.HoldsAll{Peer: "a"})
	s.step(fetch.Add{Pieces: same(1000, 1000)})
	s.step(fetch.Tick{})
	if n := len(s.out); n > 65 {
		t.Errorf("%d requests outstanding at a neighbour just met", n)
	}
	// A quick neighbour is asked for more at a time, up to the limit of requests.
	for k := range 100 {
		var piece int32
		fmt.Sscanf(s.out[k], "ask a %d", &piece)
		s.now += time.Millisecond
		s.step(fetch.Arrived{Peer: "a", Piece: piece})
		s.step(fetch.Verified{Piece: piece})
	}
	if n := len(s.out); n != 164 {
		t.Errorf("%d requests for 100 answers", n)
	}
}

// model is a world of honest and other peers around one planner, driven at random. It checks what must always hold.
type model struct {
	t       *rapid.T
	s       *script
	n       int
	here    map[int32]bool            // verified
	check   map[int32]string          // arrived: from whom
	out     map[int32]map[string]bool // asked of whom
	peers   map[string]map[int32]bool // what each holds
	stalled map[string]bool
}

func (m *model) step(in fetch.Input) {
	from := len(m.s.out)
	m.s.step(in)
	for _, line := range m.s.out[from:] {
		var verb, peer string
		var piece int32
		fmt.Sscan(line, &verb, &peer, &piece)
		switch verb {
		case "ask":
			m.asked(peer, piece)
		case "cancel":
			if !m.out[piece][peer] {
				m.t.Fatalf("%s, which was not asked", line)
			}
			delete(m.out[piece], peer)
		case "blame":
			m.gone(peer)
		}
	}
}

func (m *model) asked(peer string, piece int32) {
	switch {
	case piece < 0 || int(piece) >= m.n:
		m.t.Fatalf("asked for piece %d of %d", piece, m.n)
	case m.here[piece] || m.check[piece] != "":
		m.t.Fatalf("asked for piece %d, which is here", piece)
	case !m.peers[peer][piece]:
		m.t.Fatalf("asked %s for piece %d, which it does not have", peer, piece)
	case m.out[piece][peer]:
		m.t.Fatalf("asked %s twice for piece %d", peer, piece)
	case len(m.out[piece]) >= 2 && m.s.now < 2*time.Second: // nobody has stalled yet
		m.t.Fatalf("asked three for piece %d at %v", piece, m.s.now)
	case len(m.out[piece]) == 1 && m.s.now < 500*time.Millisecond:
		m.t.Fatalf("asked two for piece %d at %v", piece, m.s.now)
	}
	if m.out[piece] == nil {
		m.out[piece] = make(map[string]bool)
	}
	m.out[piece][peer] = true
	outstanding := 0
	for _, of := range m.out {
		if of[peer] {
			outstanding++
		}
	}
	if outstanding > 64 {
		m.t.Fatalf("%d requests outstanding at %s", outstanding, peer)
	}
}

func (m *model) gone(peer string) {
	delete(m.peers, peer)
	for _, of := range m.out {
		delete(of, peer)
	}
}

func (m *model) add(sizes []uint32) {
	pieces := make([]fetch.Piece, len(sizes))
	for i, size := range sizes {
		pieces[i] = fetch.Piece{Size: size, Key: uint32(m.n+i) * 2654435761}
	}
	m.n += len(sizes)
	m.step(fetch.Add{Pieces: pieces})
}

// answerAll has every honest peer answer, round after round, until nothing is asked for any more.
func (m *model) answerAll() {
	for range 20_000 {
		progress := false
		for piece := range int32(m.n) {
			for peer := range m.out[piece] {
				if m.stalled[peer] {
					continue
				}
				delete(m.out[piece], peer)
				m.check[piece] = peer
				m.step(fetch.Arrived{Peer: peer, Piece: piece})
				delete(m.check, piece)
				m.here[piece] = true
				m.step(fetch.Verified{Piece: piece})
				progress = true
				break
			}
		}
		if m.s.Left() == 0 {
			return
		}
		if _, ok := m.s.Deadline(); !ok && !progress {
			return
		}
		m.s.now += 60 * time.Millisecond
		m.step(fetch.Tick{})
	}
	m.t.Fatalf("no end: %d pieces left at %v", m.s.Left(), m.s.now)
}

func TestPlannerAlways(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			t: t, s: &script{Planner: fetch.NewPlanner(rapid.Uint64().Draw(t, "seed"), "me")},
			here: map[int32]bool{}, check: map[int32]string{}, out: map[int32]map[string]bool{},
			peers: map[string]map[int32]bool{}, stalled: map[string]bool{},
		}
		m.add(rapid.SliceOfN(rapid.Uint32Range(1, 300_000), 1, 60).Draw(t, "sizes"))
		actions := m.neighbours()
		maps.Copy(actions, m.pieces())
		t.Repeat(actions)
		m.finish()
		if m.s.Left() > 0 {
			t.Fatalf("%d pieces were never asked for", m.s.Left())
		}
	})
}

func (m *model) name() string {
	return rapid.SampledFrom([]string{"p0", "p1", "p2", "p3", "p4"}).Draw(m.t, "peer")
}

func (m *model) piece() int32 { return int32(rapid.IntRange(0, m.n-1).Draw(m.t, "piece")) }

// pick is a neighbour and a piece, and whether it was asked for it.
func (m *model) pick() (string, int32, bool) {
	peer, i := m.name(), m.piece()
	return peer, i, m.out[i][peer]
}

// neighbours are the things that neighbours may do at any time.
func (m *model) neighbours() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){

		"join": func(*rapid.T) {
			peer := m.name()
			if m.peers[peer] == nil {
				m.peers[peer] = map[int32]bool{}
			}
			m.step(fetch.Join{Peer: peer})
		},
		"leave": func(*rapid.T) {
			peer := m.name()
			m.gone(peer)
			m.step(fetch.Leave{Peer: peer})
		},
		"holds": func(*rapid.T) {
			peer, i := m.name(), m.piece()
			if m.peers[peer] != nil {
				m.peers[peer][i] = true
			}
			m.step(fetch.Holds{Peer: peer, Pieces: []int32{i}, Fresh: true})
		},
		"holds all": func(*rapid.T) {
			peer := m.name()
			if m.peers[peer] != nil {
				for i := range int32(1000) {
					m.peers[peer][i] = true
				}
			}
			m.step(fetch.HoldsAll{Peer: peer})
		},
		"add": func(t *rapid.T) {
			if m.n < 900 {
				m.add(rapid.SliceOfN(rapid.Uint32Range(1, 300_000), 1, 5).Draw(t, "more"))
				m.step(fetch.Tick{})
			}
		},
	}
}

// pieces are the things that may happen to pieces at any time.
func (m *model) pieces() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"arrived": func(*rapid.T) {
			peer, i, ok := m.pick()
			if ok {
				delete(m.out[i], peer)
				m.check[i] = peer
			}
			m.step(fetch.Arrived{Peer: peer, Piece: i})
			if ok && len(m.out[i]) > 0 {
				m.t.Fatalf("piece %d arrived and is still asked for", i)
			}
		},
		"verified": func(*rapid.T) {
			i := m.piece()
			if m.check[i] != "" {
				delete(m.check, i)
				m.here[i] = true
			}
			m.step(fetch.Verified{Piece: i})
		},
		"corrupt": func(*rapid.T) {
			i := m.piece()
			peer := m.check[i]
			delete(m.check, i)
			m.step(fetch.Corrupt{Peer: peer, Piece: i, What: "wrong"})
		},
		"refused": func(*rapid.T) {
			peer, i, ok := m.pick()
			if ok {
				delete(m.out[i], peer)
				delete(m.peers[peer], i)
			}
			m.step(fetch.Refused{Peer: peer, Piece: i})
		},
		"here": func(*rapid.T) {
			i := m.piece()
			if m.check[i] == "" {
				m.here[i] = true
			}
			m.step(fetch.Here{Piece: i})
		},
		"time": func(t *rapid.T) {
			m.s.now += time.Duration(rapid.IntRange(0, 5000).Draw(t, "ms")) * time.Millisecond
			m.step(fetch.Tick{})
		},
	}
}

// finish has one honest neighbour come that has everything and stays, while the others say nothing any more: all must come.
func (m *model) finish() {
	for peer := range m.peers {
		m.stalled[peer] = true
	}
	for i := range m.check {
		delete(m.check, i)
		m.here[i] = true
		m.step(fetch.Verified{Piece: i})
	}
	m.peers["honest"] = map[int32]bool{}
	for i := range int32(m.n) {
		m.peers["honest"][i] = true
	}
	m.step(fetch.Join{Peer: "honest"})
	m.step(fetch.HoldsAll{Peer: "honest"})
	m.answerAll()
}

// BenchmarkPlanner measures one piece's way through a planner with 300,000 pieces and twelve neighbours, of which most hold
// about half.
func BenchmarkPlanner(b *testing.B) {
	const n = 300_000
	rng := rand.New(rand.NewPCG(1, 1))
	pieces := make([]fetch.Piece, n)
	for i := range pieces {
		pieces[i] = fetch.Piece{Size: 20_000, Key: rng.Uint32()}
	}
	type request struct {
		peer  string
		piece int32
	}
	var p *fetch.Planner
	var queue []request
	var now time.Duration
	step := func(in fetch.Input) {
		for _, o := range p.Step(now, in) {
			if o.Verb == fetch.Ask {
				queue = append(queue, request{o.Peer, o.Piece})
			}
		}
	}
	start := func() {
		p, queue, now = fetch.NewPlanner(1, "me"), nil, 0
		step(fetch.Add{Pieces: pieces})
		step(fetch.Join{Peer: "seeder"})
		for k := range 11 {
			name := fmt.Sprint("n", k)
			var held []int32
			for i := range int32(n) {
				if rng.IntN(2) == 0 {
					held = append(held, i)
				}
			}
			step(fetch.Join{Peer: name})
			step(fetch.Holds{Peer: name, Pieces: held})
		}
		step(fetch.HoldsAll{Peer: "seeder"})
		step(fetch.Tick{})
	}
	b.ReportAllocs()
	for b.Loop() {
		if len(queue) == 0 {
			b.StopTimer()
			start()
			b.StartTimer()
		}
		r := queue[0]
		queue = queue[1:]
		now += 50 * time.Microsecond
		step(fetch.Arrived{Peer: r.peer, Piece: r.piece})
		step(fetch.Verified{Piece: r.piece})
		step(fetch.Holds{Peer: fmt.Sprint("n", r.piece%11), Pieces: []int32{(r.piece * 7) % n}, Fresh: true})
		if at, ok := p.Deadline(); ok && at <= now {
			step(fetch.Tick{})
		}
	}
}
