package sim_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"satchel/announce"
	"satchel/sim"
)

// eclipsed is a school in which only hostile hosts can reach one laptop, from the start until Heal.
func eclipsed(w *world, victim int) (all []*sim.Laptop, enemies []*hostile) {
	all = w.school(false)
	w.medium.Split([]netip.Addr{all[victim].IP})
	for i := range 5 {
		e := w.hostile(i)
		w.medium.Both(ip(1000 + i))
		e.haunt(targets(all))
		enemies = append(enemies, e)
	}
	for _, l := range all {
		l.Start()
	}
	time.Sleep(30 * time.Second)
	return all, enemies
}

func freshness(t *testing.T, l *sim.Laptop, product string) string {
	t.Helper()
	for _, p := range l.Status().Products {
		if p.Product == product && p.Freshness != nil {
			return p.Freshness.State
		}
	}
	return ""
}

// A laptop that meets none but liars for ten days learns nothing, believes nothing, and knows that it does not know.
// One honest contact, and it is as fresh as the others.
func TestEclipseOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, air)
		const victim = 7
		all, enemies := eclipsed(w, victim)
		others := append(append([]*sim.Laptop{}, all[:victim]...), all[victim+1:]...)
		w.publish(all[0], "lessons", 1)
		w.converged(others, "lessons", 1, quick)
		stamp(t, w, all[0], 1)
		time.Sleep(10 * time.Second)
		// The last that the victim hears before the eclipse is this.
		w.medium.Heal()
		w.converged(all, "lessons", 1, 2*time.Minute)
		until(t, "fresh", func() bool { return freshness(t, all[victim], "lessons") == announce.Fresh.String() })

		w.medium.Split([]netip.Addr{all[victim].IP})
		time.Sleep(20 * time.Minute)
		w.slept.Add(int64(announce.FreshFor*time.Second + 3*24*time.Hour))
		if s := freshness(t, all[victim], "lessons"); s != announce.Unknown.String() {
			t.Errorf("after ten days among liars lessons is %q", s)
		}
		w.publish(all[0], "lessons", 2)
		w.converged(others, "lessons", 2, quick)
		stamp(t, w, all[0], 2)
		for _, e := range enemies {
			e.all(message(forged(e, 1)))
		}
		time.Sleep(20 * time.Minute)
		if p := all[victim].Status().Products[0]; p.Newest.Seq != 1 {
			t.Errorf("among liars it came to believe %+v", p.Newest)
		}
		if n := len(all[victim].Status().Neighbours); n == 0 {
			t.Error("it has no neighbour, hostile or not: this was no eclipse")
		}

		w.medium.Heal()
		began := time.Now()
		w.converged(all, "lessons", 2, time.Minute)
		until(t, "fresh again", func() bool { return freshness(t, all[victim], "lessons") == announce.Fresh.String() })
		t.Logf("fresh %v after the eclipse", time.Since(began))
		for _, e := range enemies {
			e.close()
		}
		closeAll(t, all)
	})
}

// A publisher that reaches none but liars says its piece to the first honest contact.
func TestEclipseOfThePublisher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, air)
		all, enemies := eclipsed(w, 4)
		w.publish(all[4], "lessons", 1)
		time.Sleep(20 * time.Minute)
		for i, l := range all {
			if n := len(l.Status().Products); i != 4 && n != 0 {
				t.Errorf("laptop %d knows %d products, and nobody can have told it", i, n)
			}
		}
		w.medium.Heal()
		took := w.converged(all, "lessons", 1, time.Minute)
		t.Logf("everyone has it %v after the eclipse", took)
		w.inspect(&family{}, all, enemies, 20*time.Minute)
		for _, e := range enemies {
			e.close()
		}
		closeAll(t, all)
	})
}

// Two schools on one link, each with a root of its own, leave each other alone.
func TestTwoSchools(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, air)
		theirs := key(t, "the other publisher")
		var one, two []*sim.Laptop
		var peers []string
		for i := range 4 {
			l := w.laptop(i+1, w.root, peers...)
			peers = append(peers, l.Addr())
			m := w.laptop(i+101, rootOf(t, theirs), peers...)
			peers = append(peers, m.Addr())
			one, two = append(one, l), append(two, m)
		}
		all := append(append([]*sim.Laptop{}, one...), two...)
		for _, l := range all {
			l.Start()
		}
		for i := range uint64(20) {
			time.Sleep(50 * time.Second)
			w.publish(one[0], "lessons", i+1)
			if err := two[0].Announce(w.sign(two[0], theirs, "games", i+1, false)); err != nil {
				t.Fatal(err)
			}
			w.converged(one, "lessons", i+1, quick)
			w.converged(two, "games", i+1, quick)
		}
		w.inspect(&family{}, all, nil, 0)
		for _, l := range all {
			if n := len(l.Status().Neighbours); n != len(all)-1 {
				t.Errorf("%v has %d neighbours, want %d", l.IP, n, len(all)-1)
			}
			if n := len(l.Status().Products); n != 1 {
				t.Errorf("%v knows %d products, want 1", l.IP, n)
			}
			if n := l.Guard().Refused["signature"]; n > 8*4 {
				t.Errorf("%v has checked %d signatures of the other school", l.IP, n)
			}
		}
		closeAll(t, all)
	})
}

func stamp(t *testing.T, w *world, l *sim.Laptop, seq uint64) {
	t.Helper()
	env, err := (&announce.Timestamp{RootVer: 1, Issued: time.Now().Add(time.Duration(w.slept.Load())).Unix(),
		Heads: []announce.TimestampHead{{Product: "lessons", Epoch: 1, Seq: seq}}}).Sign(w.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.AddTimestamp(env); err != nil {
		t.Fatal(err)
	}
}

// until waits for what must be so within two minutes.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for range 120 {
		if cond() {
			return
		}
		time.Sleep(time.Second)
	}
	t.Errorf("not %s after two minutes", what)
}
