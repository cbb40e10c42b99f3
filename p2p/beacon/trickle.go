package beacon

import (
	"math/rand/v2"
	"time"
)

// Defaults of TrickleConfig.
const (
	DefaultImin = time.Second
	DefaultImax = 256 * time.Second
	DefaultK    = 2
)

const (
	resetBurst  = 6                // resets at once
	resetPeriod = 16 * time.Second // one more reset each
	sendBurst   = 10               // transmissions at once
	sendPeriod  = 6 * time.Second  // one more transmission each: at most 20 in any minute
)

// Event is an input of Trickle.
type Event int

const (
	Tick         Event = iota // time has passed
	Consistent                // heard somebody who says what we would say
	Inconsistent              // heard, or have ourselves, something new
)

// TrickleConfig sets up a Trickle.
type TrickleConfig struct {
	Imin, Imax time.Duration // shortest and longest interval; zero: DefaultImin, DefaultImax
	K          int           // transmissions heard in an interval that make ours needless; zero: DefaultK
	Rand       *rand.Rand    // for choosing moments; nil: seeded by the system
}

// Trickle is the timer of RFC 6206: in each interval it transmits at a random moment of the second
// half, unless K consistent transmissions were heard before; each interval is twice as long as the
// one before, up to Imax; news makes it Imin again.
//
//	   Inconsistent                      Inconsistent, and a token for it
//	        ┌──────────────────────────────────────────┐
//	        ▼                                          │
//	interval = Imin ──ends──► 2 Imin ──ends──► ... ──► Imax ─┐
//	                                                    ▲    │ ends
//	                                                    └────┘
//
// Two things are added. Resets and transmissions are paid with tokens, so that nobody can make a node
// send more than 20 packets in a minute; a reset that finds no token happens when there is one. And a
// transmission can be owed (Owe): then it is made whether or not others were heard.
//
// Trickle is pure: no clock, no goroutine, no lock. It has one owner.
type Trickle struct {
	cfg           TrickleConfig
	interval      time.Duration
	fire, end     time.Time
	fired         bool      // this interval's moment is over
	heard         int       // RFC 6206's c
	owed          time.Time // zero: nothing is owed
	resetPending  bool
	resets, sends bucket
}

// NewTrickle returns a Trickle at the begin of an interval of Imin.
func NewTrickle(now time.Time, cfg TrickleConfig) *Trickle {
	if cfg.Imin == 0 {
		cfg.Imin = DefaultImin
	}
	if cfg.Imax == 0 {
		cfg.Imax = DefaultImax
	}
	cfg.Imax = max(cfg.Imax, cfg.Imin)
	if cfg.K == 0 {
		cfg.K = DefaultK
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	t := &Trickle{cfg: cfg, resets: newBucket(now, resetBurst, resetPeriod), sends: newBucket(now, sendBurst, sendPeriod)}
	t.begin(now, cfg.Imin)
	return t
}

// Step takes one event. It says whether to transmit now, and when to call again (with Tick) at the latest.
// Times before an earlier one are taken as that one's.
func (t *Trickle) Step(now time.Time, e Event) (transmit bool, next time.Time) {
	transmit = t.advance(now)
	switch e {
	case Consistent:
		t.heard++
	case Inconsistent:
		t.resetPending = t.interval > t.cfg.Imin
	}
	if t.resetPending && t.resets.take(now) {
		t.resetPending = false
		t.begin(now, t.cfg.Imin)
	}
	return transmit, t.next(now)
}

// Owe makes sure of a transmission within d, at a random moment, whatever is heard until then.
// What is already owed is not put off. Call Step afterwards for the new deadline.
func (t *Trickle) Owe(now time.Time, d time.Duration) {
	if at := now.Add(t.upTo(d)); t.owed.IsZero() || at.After(now.Add(d)) {
		t.owed = at
	}
}

// Interval returns the length of the current interval.
func (t *Trickle) Interval() time.Duration { return t.interval }

// advance lets the time until now pass, and says whether a transmission fell due in it.
func (t *Trickle) advance(now time.Time) bool {
	due := false
	for {
		if !t.fired && !now.Before(t.fire) {
			t.fired = true
			due = due || t.heard < t.cfg.K
		}
		if now.Before(t.end) {
			break
		}
		begin := t.end
		if now.Sub(begin) > t.cfg.Imax { // the machine slept: go on from here, do not replay the night
			begin = now
		}
		t.begin(begin, min(2*t.interval, t.cfg.Imax))
	}
	if !t.owed.IsZero() && !now.Before(t.owed) {
		due = true
	}
	if !due || !t.sends.take(now) {
		return false
	}
	t.owed = time.Time{}
	// What was owed stands in for this interval's transmission, except in the shortest:
	// right after a start a first packet is most often lost.
	t.fired = t.fired || t.interval > t.cfg.Imin
	return true
}

func (t *Trickle) begin(now time.Time, interval time.Duration) {
	half := interval / 2
	t.interval = interval
	t.fire = now.Add(half + t.upTo(interval-half))
	t.end = now.Add(interval)
	t.heard, t.fired = 0, false
}

// upTo returns a random duration from 0 to less than d.
func (t *Trickle) upTo(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(t.cfg.Rand.Int64N(int64(d)))
}

func (t *Trickle) next(now time.Time) time.Time {
	next := t.end
	if !t.fired {
		next = t.fire
	}
	if !t.owed.IsZero() {
		next = earlier(next, later(t.owed, t.sends.ready(now)))
	}
	if t.resetPending {
		next = earlier(next, t.resets.ready(now))
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
