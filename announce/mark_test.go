package announce_test

import (
	"testing"

	"satchel/announce"
)

// TestMarkOutlivesItsKey: what a key signed goes with the key, and nothing older comes back in its place, also not
// after a restart, and not until the epoch is over.
func TestMarkOutlivesItsKey(t *testing.T) {
	both, one := rootOne(), rootOne()
	both.Products[0].Keys = kids(4, 5)
	one.Version = 2 // key 5 leaves
	c := announce.NewCatalog()
	if err := c.Trust(signRoot(t, both, 1, 2)); err != nil {
		t.Fatal(err)
	}
	old := sign(t, release(4, "old"), 4)
	c.Add(old)
	c.Add(sign(t, change(release(7, "new"), func(a *announce.Announcement) { a.Floor = 6 }), 5))
	c.AddRoot(signRoot(t, one, 1, 2))
	if len(c.Heads()) != 0 {
		t.Fatal("the test proves nothing")
	}
	for range 2 {
		if res := c.Add(old); res.Verdict != announce.Ignore {
			t.Errorf("an older release: %+v", res)
		}
		if m := c.Mark("xo-os"); m.Seq != 7 || m.Floor != 6 || m.Epoch != 2 {
			t.Errorf("%+v", m)
		}
		c = restored(t, c)
	}
	if res := c.Add(sign(t, release(8, "next"), 4)); res.Verdict != announce.Accept {
		t.Errorf("%+v", res)
	}
	if m := c.Mark("xo-os"); m.Floor != 6 {
		t.Errorf("the floor is forgotten: %+v", m)
	}
	bumped := rootOne()
	bumped.Version, bumped.Products[0].Epoch, bumped.Products[0].Floor = 3, 3, 0
	c.AddRoot(signRoot(t, bumped, 1, 2))
	if m := c.Mark("xo-os"); m.Seq != 0 || len(c.Marks()) != 0 {
		t.Errorf("the epoch is over: %+v", m)
	}
}

// TestWithheldTimestamp: a timestamp that was held back is as old as what was counted says.
func TestWithheldTimestamp(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, release(7, "a"), 4))
	c.AddTimestamp(0, timestamp(t, issued, 1, headOf(7), 7))
	const up = 10 * day
	early := c.Earliest(up)
	c.AddTimestamp(up, timestamp(t, issued+3600, 1, headOf(7), 7))
	if s := c.Standing(announce.Clock{Up: up}, "xo-os"); s.State != announce.Unknown {
		t.Errorf("%+v", s)
	}
	if again := c.Earliest(up); again < early {
		t.Errorf("time went back by %d s", early-again)
	}
	c = restored(t, c)
	if again := c.Earliest(up); again < early {
		t.Errorf("time went back by %d s with a restart", early-again)
	}
}

// TestManyEquivocations: all of them are kept over a restart, whatever is told to others.
func TestManyEquivocations(t *testing.T) {
	c := trusting(t)
	for i := range announce.MaxEvidence + 10 {
		for _, content := range []string{"a", "b"} {
			c.Add(sign(t, change(release(9, content), func(a *announce.Announcement) {
				a.Product, a.Epoch = "lessons.n"+string(rune('a'+i/26))+string(rune('a'+i%26)), 1
			}), 5))
		}
	}
	d := restored(t, c)
	if d.Digest() != c.Digest() || len(d.Heads()) != announce.MaxEvidence+10 {
		t.Errorf("%d of %d are left", len(d.Heads()), announce.MaxEvidence+10)
	}
}

// TestNoBlameBetweenRivals: the two halves of a mesh that rival roots split do not punish each other.
func TestNoBlameBetweenRivals(t *testing.T) {
	two, other := rootTwo(), rootTwo()
	other.Keys, other.Products[0].Keys = public(1, 2, 3, 5, 6, 7, 9), kids(9)
	c := trusting(t)
	c.AddRoot(signRoot(t, two, 1, 2))
	c.AddRoot(signRoot(t, other, 1, 2))
	theirs := sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.RootVer = 2 }), 9)
	if res := c.Add(theirs); res.Verdict != announce.Ignore {
		t.Errorf("%+v", res)
	}
}
