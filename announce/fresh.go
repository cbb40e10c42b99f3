package announce

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
)

// Clock is what a machine can say of time. Neither part has a voice in what is installed: the catalog takes
// documents without one.
type Clock struct {
	Wall int64 // unix seconds, as wrong as they may be
	Up   int64 // seconds that this home has counted; they never go back, nor start again with the program
}

// Freshness says whether what is here is known to be the newest.
type Freshness int

// What is known of a product's newest release.
const (
	Unknown Freshness = iota // no timestamp, or none young enough, vouches for what is here
	Fresh                    // a young timestamp knows nothing newer
	Stale                    // something newer exists, or what is here has expired
)

// String is the state's name.
func (f Freshness) String() string {
	if f < Unknown || f > Stale {
		return "unknown"
	}
	return [...]string{"unknown", "fresh", "stale"}[f]
}

// FreshFor is how long a timestamp vouches, in seconds: a week, so that a weekend and a holiday without the school's
// server alarm nobody.
const FreshFor = 7 * 24 * 3600

// Standing is what is known of one product's newest release.
type Standing struct {
	State   Freshness
	AsOf    int64          // unix seconds of the youngest timestamp that knows nothing newer; 0: none
	Newer   *TimestampHead // the newest number that a timestamp names, when that is newer than what is here
	Expired bool
}

// maxTimes is how many timestamps are kept. One is enough while those who sign them hear of each other.
const maxTimes = 8

// MaxDrift is how far, in seconds, a wall clock may be ahead of what is proved and still be believed: two years.
const MaxDrift = 2 * 365 * 24 * 3600

// heldTime is a timestamp and when it came.
type heldTime struct {
	*SignedTimestamp
	up int64 // what the home had counted
}

// order of what is kept: the youngest first.
func (a heldTime) compare(b heldTime) int {
	x, y := a.ID(), b.ID()
	return cmp.Or(-cmp.Compare(a.Issued, b.Issued), bytes.Compare(x[:], y[:]))
}

// covers reports whether b says nothing that a, which is as young, does not say better.
func (a heldTime) covers(b heldTime) bool {
	for _, h := range b.Heads {
		if mine, ok := a.head(h.Product); !ok || h.newer(mine.Epoch, mine.Seq) {
			return false
		}
	}
	return true
}

func (h TimestampHead) newer(epoch, seq uint64) bool {
	return h.Epoch > epoch || (h.Epoch == epoch && h.Seq > seq)
}

// AddTimestamp offers a timestamp, from anybody. up is the home's count of seconds. What is kept is a function of the
// set of timestamps seen: of those that hold, the eight youngest that say something no younger one says.
func (c *Catalog) AddTimestamp(up int64, data []byte) Result {
	st, err := ParseTimestamp(data)
	if err != nil {
		return malformed(err)
	}
	ignore := func(reason string) Result { return Result{Verdict: Ignore, Reason: reason} }
	root := c.Root()
	switch {
	case root == nil:
		return ignore("no trust root here yet")
	case st.RootVer > root.Version:
		return Result{Verdict: Ignore, NeedRoot: true,
			Reason: fmt.Sprintf("timestamp signed under trust root version %d, ours is %d", st.RootVer, root.Version)}
	}
	t := heldTime{st, up}
	for _, old := range c.times {
		if old.ID() == st.ID() || old.compare(t) < 0 && old.covers(t) {
			return ignore("a younger timestamp that says as much is here")
		}
	}
	if len(c.times) == maxTimes && t.compare(c.times[maxTimes-1]) > 0 {
		return ignore("enough younger timestamps are here")
	}
	if err := root.VerifyTimestamp(st); err != nil {
		res := Result{Verdict: Reject, Reason: err.Error(), Checked: len(st.env.sigs)}
		if st.RootVer != root.Version { // the role has changed hands since, and the sender may not know
			res.Verdict = Ignore
		}
		return res
	}
	t.up -= c.age(st.Issued, up)
	c.setTimes(append(c.times, t))
	return Result{Verdict: Accept}
}

// age is how many seconds old a timestamp issued at that time is proved to be when it comes: one that was held back is
// not young because it is new here. Timestamps that are dated later prove nothing: they may be dated wrongly.
func (c *Catalog) age(issued, up int64) int64 {
	var age int64
	for _, old := range c.times {
		if old.Issued <= issued {
			age = max(age, old.Issued+(up-old.up)-issued)
		}
	}
	return age
}

func (c *Catalog) setTimes(all []heldTime) {
	all = slices.Clone(all)
	slices.SortFunc(all, heldTime.compare)
	c.times = c.times[:0:0]
	for _, t := range all {
		if !slices.ContainsFunc(c.times, func(y heldTime) bool { return y.covers(t) }) && len(c.times) < maxTimes {
			c.times = append(c.times, t)
		}
	}
	c.digest = nil
}

// recheckTimes drops the timestamps whose signers have lost the role: also one that was dated far ahead.
func (c *Catalog) recheckTimes() {
	kept := slices.DeleteFunc(slices.Clone(c.times), func(t heldTime) bool { return c.Root().VerifyTimestamp(t.SignedTimestamp) != nil })
	c.setTimes(kept)
}

// KeptTimestamp is a timestamp as a home keeps it.
type KeptTimestamp struct {
	Up       int64 // what the home had counted when it came
	Envelope []byte
}

// Timestamps lists those that are kept, the youngest first.
func (c *Catalog) Timestamps() []KeptTimestamp {
	out := make([]KeptTimestamp, len(c.times))
	for i, t := range c.times {
		out[i] = KeptTimestamp{t.up, t.raw}
	}
	return out
}

// Earliest is a time, in unix seconds, before which it cannot be: what the newest trust root and the timestamps are
// dated, and what was counted since each came. 0: nothing says.
func (c *Catalog) Earliest(up int64) int64 {
	var earliest int64
	if root := c.Root(); root != nil {
		earliest = root.Issued
	}
	for _, t := range c.times {
		earliest = max(earliest, t.Issued+max(0, up-t.up))
	}
	return earliest
}

// Now is the best guess at the time, in unix seconds: the wall clock when it is between what is proved and two years
// more, else what is proved. 0: nothing says.
func (c *Catalog) Now(clock Clock) int64 {
	earliest := c.Earliest(clock.Up)
	if earliest > 0 && clock.Wall >= earliest && clock.Wall < earliest+MaxDrift {
		return clock.Wall
	}
	return earliest
}

// Standing says whether what is here of product is known to be the newest. Only a signed timestamp makes it fresh; a
// clock can only take that away.
func (c *Catalog) Standing(clock Clock, product string) (s Standing) {
	now := c.Now(clock)
	var epoch, seq uint64
	if e := c.entries[product]; e != nil {
		epoch, seq = e.first.Epoch, e.first.Seq
		s.Expired = e.first.Expires != 0 && e.first.Expires < now
	}
	for _, t := range c.times {
		h, ok := t.head(product)
		switch {
		case !ok:
		case !h.newer(epoch, seq):
			s.AsOf = max(s.AsOf, t.Issued)
		case s.Newer == nil || h.newer(s.Newer.Epoch, s.Newer.Seq):
			s.Newer = &h
		}
	}
	switch {
	case s.Newer != nil || s.Expired:
		s.State = Stale
	case s.AsOf > 0 && now-s.AsOf <= FreshFor:
		s.State = Fresh
	}
	return s
}
