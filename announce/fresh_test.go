package announce_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"satchel/announce"
)

const (
	day    = 24 * 3600
	issued = 1_790_000_200 // of the timestamps below
)

func timestamp(t testing.TB, at int64, root uint64, heads []announce.TimestampHead, keys ...byte) []byte {
	t.Helper()
	env, err := (&announce.Timestamp{RootVer: root, Issued: at, Heads: heads}).Sign(privates(keys)...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func headOf(seq uint64) []announce.TimestampHead {
	return []announce.TimestampHead{{Product: "xo-os", Epoch: 2, Seq: seq}}
}

// TestFreeze: whoever keeps news from a node cannot keep it from noticing that it hears none.
func TestFreeze(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, release(7, "a"), 4))
	standing := func(wall, up int64) announce.Standing { return c.Standing(announce.Clock{Wall: wall, Up: up}, "xo-os") }
	if s := standing(issued, 0); s.State != announce.Unknown || s.AsOf != 0 {
		t.Errorf("without a timestamp: %+v", s)
	}
	if res := c.AddTimestamp(1000, timestamp(t, issued, 1, headOf(7), 7)); res.Verdict != announce.Accept {
		t.Fatal(res)
	}
	for _, tt := range []struct {
		name     string
		wall, up int64
		want     announce.Freshness
	}{
		{"right clock", issued + 60, 1060, announce.Fresh},
		{"clock at 1970", 0, 1060, announce.Fresh},
		{"clock at 2099", 4_070_908_800, 1060, announce.Fresh},
		{"clock before the timestamp", issued - 1, 1060, announce.Fresh},
		{"a week counted", 0, 1000 + 7*day, announce.Fresh},
		{"more than a week counted", 0, 1000 + 7*day + 1, announce.Unknown},
		{"more than a week counted, clock stands still", issued, 1000 + 8*day, announce.Unknown},
		{"off for a month, the clock knows", issued + 30*day, 1060, announce.Unknown},
		{"the count went back", issued, 0, announce.Fresh},
	} {
		if s := standing(tt.wall, tt.up); s.State != tt.want || s.AsOf != issued {
			t.Errorf("%s: %+v, want %v", tt.name, s, tt.want)
		}
	}
	// One contact with somebody honest.
	c.AddTimestamp(1000+9*day, timestamp(t, issued+9*day, 1, headOf(7), 7))
	if s := standing(0, 1000+9*day); s.State != announce.Fresh {
		t.Errorf("after contact: %+v", s)
	}
	c.AddTimestamp(1000+9*day, timestamp(t, issued+10*day, 1, headOf(8), 7))
	s := standing(0, 1000+9*day)
	if s.State != announce.Stale || s.Newer == nil || s.Newer.Seq != 8 {
		t.Errorf("a timestamp names a newer release: %+v", s)
	}
	c.Add(sign(t, release(8, "b"), 4))
	if s := standing(0, 1000+9*day); s.State != announce.Fresh || s.AsOf != issued+10*day {
		t.Errorf("caught up: %+v", s)
	}
	if s := c.Standing(announce.Clock{}, "lessons.5b"); s.State != announce.Unknown {
		t.Errorf("a product that no timestamp names: %+v", s)
	}
}

// TestExpiredIsStale: expiry shows, and takes nothing away but the right to wake.
func TestExpiredIsStale(t *testing.T) {
	c := trusting(t)
	c.AddTimestamp(0, timestamp(t, issued, 1, headOf(7), 7))
	if res := c.Add(sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Expires = issued - 1 }), 4)); res.Verdict != announce.Accept {
		t.Fatal(res)
	}
	if s := c.Standing(announce.Clock{}, "xo-os"); s.State != announce.Stale || !s.Expired {
		t.Errorf("%+v", s)
	}
}

func TestAddTimestamp(t *testing.T) {
	second := rootOne() // version 2: key 8 makes timestamps in place of 7
	second.Version, second.Keys = 2, public(1, 2, 3, 4, 5, 6, 8)
	second.Roles[announce.RoleTimestamp] = announce.RoleRule{Keys: kids(8), Threshold: 1}
	both := rootOne() // version 2: two must sign
	both.Version, both.Keys = 2, public(1, 2, 3, 4, 5, 6, 7, 8)
	both.Roles[announce.RoleTimestamp] = announce.RoleRule{Keys: kids(7, 8), Threshold: 2}
	good := timestamp(t, issued, 1, headOf(7), 7)
	for _, tt := range []struct {
		name     string
		root     *announce.Root // nil: stay at version 1
		env      []byte
		want     announce.Verdict
		needRoot bool
	}{
		{"good", nil, good, announce.Accept, false},
		{"garbage", nil, []byte{1}, announce.Reject, false},
		{"announcement", nil, sign(t, release(7, "a"), 7), announce.Reject, false},
		{"product key", nil, timestamp(t, issued, 1, headOf(7), 4), announce.Reject, false},
		{"root keys", nil, timestamp(t, issued, 1, headOf(7), 1, 2, 3), announce.Reject, false},
		{"newer root", nil, timestamp(t, issued, 2, headOf(7), 7), announce.Ignore, true},
		{"key that lost the role", second, good, announce.Ignore, false},
		{"key that lost the role, dated after", second, timestamp(t, issued, 2, headOf(7), 7), announce.Reject, false},
		{"key that got the role", second, timestamp(t, issued, 2, headOf(7), 8), announce.Accept, false},
		{"one of two", both, timestamp(t, issued, 2, headOf(7), 8), announce.Reject, false},
		{"two of two", both, timestamp(t, issued, 2, headOf(7), 7, 8), announce.Accept, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := trusting(t)
			if tt.root != nil {
				if res := c.AddRoot(signRoot(t, tt.root, 1, 2)); res.Verdict != announce.Accept {
					t.Fatal(res)
				}
			}
			before := c.Digest()
			got := c.AddTimestamp(0, tt.env)
			if got.Verdict != tt.want || got.NeedRoot != tt.needRoot || (got.Reason == "") != (tt.want == announce.Accept) {
				t.Errorf("%+v", got)
			}
			if (c.Digest() != before) != (tt.want == announce.Accept) || len(c.Timestamps()) != b2i(tt.want == announce.Accept) {
				t.Error("what is kept, and the digest, must change with what is accepted, and only then")
			}
			if again := c.AddTimestamp(0, tt.env); again.Verdict == announce.Accept {
				t.Error("accepted twice")
			}
		})
	}
	if res := announce.NewCatalog().AddTimestamp(0, good); res.Verdict != announce.Ignore {
		t.Errorf("without a root: %+v", res)
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestTimestampDatedFarAhead: a thief of the timestamp key can confuse what is shown, until the key is taken away.
func TestTimestampDatedFarAhead(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Urgent, a.Expires = true, issued+day }), 4, 6))
	clock := announce.Clock{Wall: issued}
	c.AddTimestamp(0, timestamp(t, 4_070_908_800, 1, headOf(math.MaxUint64), 7))
	if s := c.Standing(clock, "xo-os"); s.State != announce.Stale || c.Urgent(clock, "xo-os") || c.Now(clock) != 4_070_908_800 {
		t.Fatalf("the test proves nothing: %+v at %d", s, c.Now(clock))
	}
	if res := c.Add(sign(t, release(8, "b"), 4)); res.Verdict != announce.Accept {
		t.Errorf("a timestamp keeps a release out: %+v", res)
	}
	second := rootOne()
	second.Version, second.Issued, second.Keys = 2, issued+100, public(1, 2, 3, 4, 5, 6, 8)
	second.Roles[announce.RoleTimestamp] = announce.RoleRule{Keys: kids(8), Threshold: 1}
	c.AddRoot(signRoot(t, second, 1, 2))
	if now := c.Now(clock); now != issued+100 || len(c.Timestamps()) != 0 {
		t.Errorf("still at %d after the key was taken away", now)
	}
	c.AddTimestamp(0, timestamp(t, issued+200, 2, headOf(8), 8))
	if s := c.Standing(clock, "xo-os"); s.State != announce.Fresh {
		t.Errorf("%+v", s)
	}
}

// TestTimestampsInAnyOrder: nodes that met the same timestamps keep the same ones.
func TestTimestampsInAnyOrder(t *testing.T) {
	var all [][]byte
	for i := range 40 { // of several servers that do not hear each other
		heads := []announce.TimestampHead{{Product: fmt.Sprintf("lessons.%d", i%12), Epoch: 1, Seq: uint64(1 + i%3)}, {Product: "xo-os", Epoch: 2, Seq: uint64(1 + i%5)}}
		all = append(all, timestamp(t, issued+int64(i/2), 1, heads, 7))
	}
	var want [8]byte
	for try := range 30 {
		c := trusting(t)
		rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for _, env := range all {
			c.AddTimestamp(0, env)
		}
		if n := len(c.Timestamps()); n < 2 || n > 8 {
			t.Fatalf("%d timestamps are kept", n)
		}
		if d := c.Digest(); try == 0 {
			want = d
		} else if d != want {
			t.Fatal("what is kept depends on the order")
		}
		if d := restored(t, c).Digest(); d != want {
			t.Fatal("restored to something else")
		}
	}
}

// TestRivalRoots: root keys that sign two roots of one version split a mesh. It shows, and the next root heals it.
func TestRivalRoots(t *testing.T) {
	two, other := rootTwo(), rootTwo()
	other.RenewBy = 1_800_000_000
	one, rival := signRoot(t, two, 1, 2), signRoot(t, other, 2, 3)
	c, d := trusting(t), trusting(t)
	c.AddRoot(one)
	d.AddRoot(rival)
	if _, ok := c.Rival(); ok || c.RootID() == d.RootID() {
		t.Fatal("the test proves nothing")
	}
	for _, res := range []announce.Result{c.AddRoot(rival), d.AddRoot(one)} {
		if res.Verdict != announce.Accept || !res.Equivocation {
			t.Errorf("%+v", res)
		}
	}
	if step, ok := c.Rival(); !ok || step.Version != 2 || c.RootVersion() != 2 {
		t.Errorf("rival: %v %v", step, ok)
	}
	if res := c.AddRoot(rival); res.Verdict != announce.Ignore {
		t.Errorf("a rival twice: %+v", res)
	}
	if _, ok := restored(t, c).Rival(); !ok {
		t.Error("forgotten")
	}
	three := rootTwo()
	three.Version = 3
	for _, cat := range []*announce.Catalog{c, d} {
		if res := cat.AddRoot(signRoot(t, three, 1, 3)); res.Verdict != announce.Accept {
			t.Error(res)
		}
	}
	if _, ok := c.Rival(); ok || c.RootID() != d.RootID() || c.Digest() != d.Digest() {
		t.Error("not healed")
	}
	if res := c.AddRoot(rival); res.Verdict != announce.Ignore {
		t.Errorf("a rival of a version that is over: %+v", res)
	}
	for name, env := range map[string][]byte{"our own version 2": one, "version 1": rootOneSigned, "signed by one": signRoot(t, other, 2),
		"another chain": signRoot(t, other, 4, 5)} {
		if e := trusting(t); e.AddRoot(one).Verdict != announce.Accept || e.AddRoot(env).Verdict != announce.Ignore {
			t.Errorf("%s is taken for a rival", name)
		}
	}
}

// TestRecall: a newer number with older content is a release like any other.
func TestRecall(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, release(7, "good"), 4))
	c.Add(sign(t, release(8, "bad"), 4))
	recall := change(release(9, "good"), func(a *announce.Announcement) { a.Recall = true })
	if res := c.Add(sign(t, recall, 4)); res.Verdict != announce.Accept || !res.Announcement.Recall {
		t.Fatalf("%+v", res)
	}
	if a, _, ok := c.Latest("xo-os"); !ok || a.Seq != 9 || a.Manifest != release(7, "good").Manifest {
		t.Errorf("%+v", a)
	}
	if res := c.Add(sign(t, release(7, "good"), 4)); res.Verdict != announce.Ignore {
		t.Errorf("what was recalled to is no newer for that: %+v", res)
	}
}
