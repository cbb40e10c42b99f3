package fetch_test

import (
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

func TestSwarm(t *testing.T) {
	type bad func(k int, c *fetchtest.NodeConfig)
	tests := []struct {
		name       string
		pieces     int
		up, seedUp float64
		latency    time.Duration
		seeder     func(c *fetchtest.NodeConfig)
		node       bad
		nodes      int
		uploads    float64 // times the tree that the seeder may send
		blamed     string  // who must be blamed, and nobody else; separated by spaces
	}{
		{name: "equal", pieces: 15000, up: lan, seedUp: lan, latency: time.Millisecond},
		{name: "loopback", pieces: 15000, up: loopback, seedUp: loopback, latency: 50 * time.Microsecond},
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
		{name: "all three bad", pieces: 15000, up: lan, seedUp: lan, latency: time.Millisecond, blamed: "n3 n4", node: func(k int, c *fetchtest.NodeConfig) {
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
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			pieces := mixedPieces(1, test.pieces)
			total := sum(pieces)
			net := fetchtest.NewNetwork(7, pieces)
			c := fetchtest.NodeConfig{Name: "seeder", Up: test.seedUp, Down: test.seedUp, Latency: test.latency, Seeder: true}
			if test.seeder != nil {
				test.seeder(&c)
			}
			publisher := net.Add(c)
			var nodes []*fetchtest.Node
			count := 12
			if test.nodes > 0 {
				count = test.nodes
			}
			for k := range count {
				c := fetchtest.NodeConfig{Name: fmt.Sprintf("n%d", k), Up: test.up, Down: test.up, Latency: test.latency}
				if test.node != nil {
					test.node(k, &c)
				}
				nodes = append(nodes, net.Add(c))
			}
			took, err := net.Run(90 * time.Second)
			if err != nil {
				t.Error(err)
			}
			var got, dup, corrupt int64
			steps := 0
			blames := map[string]int{}
			for _, node := range nodes {
				got += node.Downloaded
				dup += node.Duplicate
				corrupt += node.Corrupt
				steps += node.Steps
				for _, b := range node.Blamed {
					blames[b]++
				}
			}
			ratio, dups := float64(publisher.Uploaded)/float64(total), float64(dup)/float64(got)
			t.Logf("seeder sent %.3f of the tree, duplicates %.3f %%, corrupt %d, took %v (%.2f of tree/slowest link), %d steps, blamed %v",
				ratio, 100*dups, corrupt, took.Round(time.Millisecond), took.Seconds()*min(test.up, test.seedUp)/float64(total), steps, blames)
			limit := 1.5
			if test.uploads > 0 {
				limit = test.uploads
			}
			if ratio > limit {
				t.Errorf("seeder sent %.3f of the tree, want at most %.3f", ratio, limit)
			}
			if dups > 0.02 {
				t.Errorf("duplicates are %.3f %%", 100*dups)
			}
			for b, n := range blames {
				if !slices.Contains(strings.Fields(test.blamed), b) {
					t.Errorf("%s was blamed by %d", b, n)
				}
			}
			for _, b := range strings.Fields(test.blamed) {
				if blames[b] == 0 {
					t.Errorf("%s was not blamed", b)
				}
			}
		})
	}
}
