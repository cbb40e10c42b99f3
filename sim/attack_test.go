package sim_test

import (
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/sim"
)

// family is one way to attack a mesh. Each of its hosts keeps a connection to every laptop. What it leaves out it
// does as a good neighbour would, who has never anything to tell; that alone is censorship.
type family struct {
	name   string
	what   string
	hosts  int                          // 0: five
	setup  func(e *hostile)             // before it connects
	attack func(e *hostile)             // until e.ctx ends
	before func(e *hostile, env []byte) // just before the publisher announces env: they know it already
	behind func(e *hostile, env []byte) // just after
	bound  time.Duration                // in which a release reaches everyone; 0: quick
	shut   bool                         // they must have been shut out
	path   bool                         // laptops know one another in a row only
}

const honest = 12

// releases of a run; the last of them come only when there is time.
var releases = []struct {
	product string
	seq     uint64
}{{"lessons", 1}, {"fix", 1}, {"lessons", 2}, {"fix", 2}}[:len(releaseTimes)]

const (
	quick  = 5 * time.Second // gossip does it; an exchange that nothing hastens takes half a minute for each hop
	settle = time.Minute     // after the last release
)

// outcome is what a run left behind.
type outcome struct {
	states []string
	worst  time.Duration // until everyone held a release
	bytes  uint64        // that all sent, hostile hosts too
}

// school makes the twelve. Each knows the one before it and one further away; on a path only the one before it.
func (w *world) school(path bool) (all []*sim.Laptop) {
	for i := range honest {
		var peers []string
		if i > 0 {
			peers = append(peers, all[i-1].Addr())
		}
		if i > 1 && !path {
			peers = append(peers, all[(i-1)/2].Addr())
		}
		all = append(all, w.laptop(i+1, w.root, peers...))
	}
	return all
}

func targets(all []*sim.Laptop) (out []peer.AddrInfo) {
	for _, l := range all {
		out = append(out, target(l.Addr()))
	}
	return out
}

// run lets the twelve live through a family's attack. The fifth publishes.
func run(t *testing.T, f *family) (out outcome) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, air)
		all := w.school(f.path)
		began := time.Now()
		var enemies []*hostile
		for i := range f.hosts { // they are there first
			e := w.hostile(i)
			if f.setup != nil {
				f.setup(e)
			}
			e.haunt(targets(all))
			if f.attack != nil {
				e.wg.Go(func() { f.attack(e) })
			}
			enemies = append(enemies, e)
		}
		time.Sleep(time.Second)
		for _, l := range all {
			l.Start()
		}
		for i, r := range releases {
			time.Sleep(time.Until(began.Add(releaseTimes[i])))
			env := w.sign(all[4], w.key, r.product, r.seq, false)
			for _, e := range enemies {
				if f.before != nil {
					f.before(e, env)
				}
			}
			if f.before != nil {
				time.Sleep(200 * time.Millisecond) // their word is there first
			}
			if err := all[4].Announce(env); err != nil {
				t.Fatal(err)
			}
			for _, e := range enemies {
				if f.behind != nil {
					f.behind(e, env)
				}
			}
			took := w.converged(all, r.product, r.seq, f.bound)
			out.worst = max(out.worst, took)
		}
		time.Sleep(settle)
		w.inspect(f, all, enemies, time.Since(began))
		for _, l := range all {
			out.states = append(out.states, w.state(l))
		}
		out.bytes = w.medium.Bytes()
		for _, e := range enemies {
			e.close()
		}
		closeAll(t, all)
	})
	return out
}

// usual is what a laptop may hold of strangers, whatever they do.
var usual = map[string]int{"mailbox": 256, "known": 512, "bans": 128, "exchange": 128, "digests": 4 * 128, "checks": 256, "gossip": 256 + 13_000, "streams": 2 * 128}

// checks is how many documents with false signatures a laptop may have checked in a run: for each host a full purse and then
// one in ten seconds, of gossip and of exchanges, as p2p/PROTOCOL.md says.
func checks(hosts int, lasted time.Duration) int {
	return 2 * hosts * (8 + int(lasted/(10*time.Second)))
}

// inspect looks for injustice and for what grew.
func (w *world) inspect(f *family, all []*sim.Laptop, enemies []*hostile, lasted time.Duration) {
	w.t.Helper()
	w.shut.mu.Lock()
	shut := slices.Clone(w.shut.peers)
	w.shut.mu.Unlock()
	for _, id := range w.ids {
		if slices.Contains(shut, id) {
			w.t.Errorf("an honest laptop was shut out: %s", id)
		}
	}
	for _, e := range enemies {
		if f.shut && !slices.Contains(shut, e.h.ID().String()) {
			w.t.Errorf("nobody shut out hostile host %d", e.n)
		}
	}
	for i, l := range all {
		g := l.Guard()
		for _, id := range w.ids {
			if s, ok := g.Scores[id]; ok {
				w.t.Errorf("laptop %d gives an honest one the score %v", i, s)
			}
		}
		for id, s := range g.Scores {
			if s > 0 {
				w.t.Errorf("laptop %d gives %s the score %v: a score above zero could be bought", i, id, s)
			}
		}
		if n, most := int(g.Refused["signature"]), checks(len(enemies), lasted); n > most {
			w.t.Errorf("laptop %d checked signatures of %d lies, at most %d are allowed", i, n, most)
		}
		for name, n := range g.Held {
			if limit, ok := usual[name]; !ok || n > limit {
				w.t.Errorf("laptop %d holds %d entries in %q, at most %d are allowed", i, n, name, limit)
			}
		}
		if i == 0 {
			w.t.Logf("laptop 0: refused %v, held %v, scores %v, shut out in all %d", some(g.Refused), some(g.Held), g.Scores, len(shut))
		}
	}
}

// TestAttacks compares what laptops end up with under each attack with what they end up with in peace.
func TestAttacks(t *testing.T) {
	var want outcome
	if !t.Run("peace", func(t *testing.T) { want = run(t, &family{bound: quick}) }) {
		return
	}
	for _, f := range families {
		if f.hosts == 0 {
			f.hosts = 5
		}
		if f.bound == 0 {
			f.bound = quick
		}
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			got := run(t, &f)
			t.Logf("%d hosts that %s; slowest release %v, without them %v; %.1f MB on the air, without them %.1f",
				f.hosts, f.what, got.worst, want.worst, float64(got.bytes)/1e6, float64(want.bytes)/1e6)
			for i := range got.states {
				if got.states[i] != want.states[i] {
					t.Errorf("laptop %d ended up with\n%swithout attackers it would be\n%s", i, got.states[i], want.states[i])
				}
			}
		})
	}
}

// some is m without what is zero.
func some[V int | uint64](m map[string]V) map[string]V {
	m = maps.Clone(m)
	maps.DeleteFunc(m, func(_ string, v V) bool { return v == 0 })
	return m
}
