package beacon_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"satchel/p2p/beacon"
)

var epoch = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC)

func seeded(seed uint64) beacon.TrickleConfig {
	return beacon.TrickleConfig{Rand: rand.New(rand.NewPCG(seed, 0))}
}

// run ticks a Trickle at its own deadlines for d and returns when it transmitted.
func run(t *beacon.Trickle, from time.Time, d time.Duration) (sent []time.Duration) {
	for now := from; now.Sub(from) <= d; {
		transmit, next := t.Step(now, beacon.Tick)
		if transmit {
			sent = append(sent, now.Sub(from))
		}
		if !next.After(now) {
			next = now.Add(1)
		}
		now = next
	}
	return sent
}

func TestTrickleAlone(t *testing.T) {
	trickle := beacon.NewTrickle(epoch, seeded(1))
	sent := run(trickle, epoch, 30*time.Minute)
	begin, interval := time.Duration(0), time.Second
	for i, at := range sent {
		if at < begin+interval/2 || at >= begin+interval {
			t.Errorf("transmission %d at %v, not in the second half of the interval of %v from %v", i, at, interval, begin)
		}
		begin, interval = begin+interval, min(2*interval, beacon.DefaultImax)
	}
	if len(sent) < 13 {
		t.Errorf("%d transmissions in 30 minutes", len(sent))
	}
}

func TestTrickleSuppressed(t *testing.T) {
	for _, test := range []struct {
		heard int
		want  bool
	}{{0, true}, {1, true}, {2, false}, {3, false}} {
		trickle := beacon.NewTrickle(epoch, seeded(2))
		for range test.heard {
			trickle.Step(epoch, beacon.Consistent)
		}
		if sent := run(trickle, epoch, 999*time.Millisecond); (len(sent) == 1) != test.want {
			t.Errorf("after %d consistent ones: sent %v", test.heard, sent)
		}
	}
}

func TestTrickleOweIsNotSuppressed(t *testing.T) {
	trickle := beacon.NewTrickle(epoch, seeded(3))
	run(trickle, epoch, 20*time.Minute)
	now := epoch.Add(21 * time.Minute)
	for range 5 {
		trickle.Step(now, beacon.Consistent)
	}
	trickle.Owe(now, time.Second)
	if sent := run(trickle, now, time.Second); len(sent) != 1 {
		t.Errorf("sent %v, want one within a second", sent)
	}
}

func TestTrickleResetSpeedsUp(t *testing.T) {
	trickle := beacon.NewTrickle(epoch, seeded(4))
	run(trickle, epoch, 20*time.Minute)
	now := epoch.Add(20*time.Minute + time.Second)
	trickle.Step(now, beacon.Inconsistent)
	if trickle.Interval() != beacon.DefaultImin {
		t.Errorf("interval %v after news", trickle.Interval())
	}
	if sent := run(trickle, now, time.Second); len(sent) != 1 {
		t.Errorf("sent %v, want one within Imin", sent)
	}
}

func TestTrickleResetWithoutTokenComesLater(t *testing.T) {
	trickle := beacon.NewTrickle(epoch, seeded(5))
	now := epoch
	for range 20 { // one token comes back each 16 s, two are spent
		now = now.Add(8 * time.Second)
		trickle.Step(now, beacon.Inconsistent)
	}
	trickle.Step(now.Add(time.Second), beacon.Inconsistent)
	run(trickle, now.Add(time.Second), 16*time.Second)
	if trickle.Interval() > 16*time.Second {
		t.Errorf("interval %v: the last news never reset it", trickle.Interval())
	}
}

func TestTrickleAfterLongSleep(t *testing.T) {
	trickle := beacon.NewTrickle(epoch, seeded(6))
	sent := 0
	for _, at := range []time.Duration{0, 100 * 24 * time.Hour} {
		if transmit, _ := trickle.Step(epoch.Add(at), beacon.Tick); transmit {
			sent++
		}
	}
	if sent > 1 {
		t.Errorf("sent %d at once after a long sleep", sent)
	}
}

// Whatever comes in, no more than 20 transmissions fall into any minute, deadlines lie
// ahead, and what is owed is sent.
func TestTrickleBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trickle := beacon.NewTrickle(epoch, seeded(rapid.Uint64().Draw(t, "seed")))
		now := epoch
		var sent []time.Time
		for range rapid.IntRange(1, 400).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "pause")))
			if rapid.IntRange(0, 3).Draw(t, "owe") == 0 {
				trickle.Owe(now, time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "within")))
			}
			transmit, next := trickle.Step(now, beacon.Event(rapid.IntRange(0, 2).Draw(t, "event")))
			if transmit {
				sent = append(sent, now)
			}
			if next.Before(now) {
				t.Fatalf("deadline %v before now", now.Sub(next))
			}
			if trickle.Interval() < beacon.DefaultImin || trickle.Interval() > beacon.DefaultImax {
				t.Fatalf("interval %v", trickle.Interval())
			}
		}
		for i := 20; i < len(sent); i++ {
			if d := sent[i].Sub(sent[i-20]); d < time.Minute {
				t.Fatalf("21 transmissions within %v", d)
			}
		}
	})
}
