package fetch_test

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"satchel/fetch"
	"satchel/fetch/fetchtest"
)

// mixedPieces is like a real tree: many small files and the chunks of a few large ones.
func mixedPieces(seed uint64, n int) []fetch.Piece {
	rng := rand.New(rand.NewPCG(seed, 2))
	pieces := make([]fetch.Piece, n)
	for i := range pieces {
		size := 200 + rng.Uint32N(16<<10)
		if rng.IntN(3) == 0 {
			size = 16<<10 + rng.Uint32N(100<<10)
		}
		if rng.IntN(50) == 0 {
			size = 256 << 10
		}
		pieces[i] = fetch.Piece{Size: size, Key: rng.Uint32()}
	}
	return pieces
}

func sum(pieces []fetch.Piece) int64 {
	var total int64
	for _, p := range pieces {
		total += int64(p.Size)
	}
	return total
}

const (
	lan      = 12e6 // bytes a second: 100 Mbit/s
	loopback = 400e6
	radio    = 1.5e6
	uplink   = 0.25e6 // 2 Mbit/s
)

// swarm is a network of a seeder and some nodes, twelve unless it says otherwise.
type swarm struct {
	name       string
	pieces     int
	up, seedUp float64 // bytes a second of a node, and of the seeder
	latency    time.Duration
	seeder     func(c *fetchtest.NodeConfig)
	node       func(k int, c *fetchtest.NodeConfig)
	nodes      int
	uploads    float64 // times the tree that the seeder may send; 1.5 unless it says otherwise
	blamed     string  // who must be blamed, and nobody else; separated by spaces
}

func swarms() []swarm {
	return []swarm{
		{name: "equal", pieces: 15000, up: lan, seedUp: lan, latency: time.Millisecond},
		{name: "loopback", pieces: 5000, up: loopback, seedUp: loopback, latency: 50 * time.Microsecond},
		{name: "loopback few", pieces: 200, up: loopback, seedUp: loopback, latency: 50 * time.Microsecond},
		{name: "few", pieces: 200, up: lan, seedUp: lan, latency: time.Millisecond},
		{name: "radio few", pieces: 200, up: radio, seedUp: radio, latency: 5 * time.Millisecond},
		{name: "slow seeder", pieces: 2000, up: lan, seedUp: radio, latency: 2 * time.Millisecond},
		{name: "uplink few", pieces: 200, up: lan, seedUp: uplink, latency: 20 * time.Millisecond},
		{name: "fast seeder", pieces: 2000, up: radio, seedUp: lan, latency: 2 * time.Millisecond},
		{name: "mixed speeds", pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, node: func(k int, c *fetchtest.NodeConfig) {
			c.Up /= float64(1 + k)
			c.Down /= float64(1 + k/2)
		}},
		{name: "stalling", pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, node: func(k int, c *fetchtest.NodeConfig) {
			if k == 3 {
				c.StallsAfter = 40
			}
		}},
		{name: "corrupting", pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, blamed: "n3", node: func(k int, c *fetchtest.NodeConfig) {
			if k == 3 {
				c.CorruptsNth = 20
			}
		}},
		{name: "dripping", pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, node: func(k int, c *fetchtest.NodeConfig) {
			if k == 3 {
				c.Up = 1000
			}
		}},
		{name: "dying", pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, node: func(k int, c *fetchtest.NodeConfig) {
			if k == 3 {
				c.Leaves = 2 * time.Second
			}
		}},
		{name: "all three bad", pieces: 5000, up: lan / 3, seedUp: lan / 3, latency: time.Millisecond, blamed: "n3 n4", node: func(k int, c *fetchtest.NodeConfig) {
			switch k {
			case 3:
				c.StallsAfter = 40
			case 4:
				c.CorruptsNth = 50
			case 5:
				c.Leaves = 5 * time.Second
			}
		}},
		{name: "seeder leaves", pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, seeder: func(c *fetchtest.NodeConfig) {
			c.LeaveWhenSpread = true
		}},
		{name: "late joiner", pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, node: func(k int, c *fetchtest.NodeConfig) {
			if k == 11 {
				c.Joins = 3 * time.Second
			}
		}},
		{name: "idle neighbours", pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, node: func(k int, c *fetchtest.NodeConfig) {
			c.Idle = k%3 == 0
		}},
		{name: "alone", nodes: 1, pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond, uploads: 1.001},
		{name: "two", nodes: 2, pieces: 2000, up: lan, seedUp: lan, latency: time.Millisecond},
	}
}

func TestSwarm(t *testing.T) {
	for _, s := range swarms() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			pieces := mixedPieces(1, s.pieces)
			net := fetchtest.NewNetwork(7, pieces)
			publisher, nodes := s.populate(net)
			took, err := net.Run(90 * time.Second)
			if err != nil {
				t.Error(err)
			}
			total := float64(sum(pieces))
			ratio, dups, blames := float64(publisher.Uploaded)/total, duplicates(nodes), blamed(nodes)
			t.Logf("the seeder sent %.3f of the tree, duplicates %.3f %%, took %v, %.2f of the least possible, blamed %v",
				ratio, 100*dups, took.Round(time.Millisecond), took.Seconds()*min(s.up, s.seedUp)/total, blames)
			if limit := cmp.Or(s.uploads, 1.5); ratio > limit {
				t.Errorf("the seeder sent %.3f of the tree, want at most %.3f", ratio, limit)
			}
			if dups > 0.02 {
				t.Errorf("duplicates are %.3f %%", 100*dups)
			}
			if want := strings.Fields(s.blamed); !slices.Equal(blames, want) {
				t.Errorf("blamed are %v, want %v", blames, want)
			}
		})
	}
}

// populate adds the seeder and the nodes.
func (s *swarm) populate(net *fetchtest.Network) (publisher *fetchtest.Node, nodes []*fetchtest.Node) {
	c := fetchtest.NodeConfig{Name: "seeder", Up: s.seedUp, Down: s.seedUp, Latency: s.latency, Seeder: true}
	if s.seeder != nil {
		s.seeder(&c)
	}
	publisher = net.Add(c)
	for k := range cmp.Or(s.nodes, 12) {
		c := fetchtest.NodeConfig{Name: fmt.Sprintf("n%d", k), Up: s.up, Down: s.up, Latency: s.latency}
		if s.node != nil {
			s.node(k, &c)
		}
		nodes = append(nodes, net.Add(c))
	}
	return publisher, nodes
}

// duplicates is the part of all bytes that came twice.
func duplicates(nodes []*fetchtest.Node) float64 {
	var got, twice int64
	for _, n := range nodes {
		got += n.Downloaded
		twice += n.Duplicate
	}
	return float64(twice) / float64(got)
}

// blamed lists who was blamed by anybody.
func blamed(nodes []*fetchtest.Node) []string {
	var all []string
	for _, n := range nodes {
		all = append(all, n.Blamed...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}
