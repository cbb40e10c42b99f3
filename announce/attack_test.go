package announce_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"satchel/announce"
)

// The rows of the attack list in section 1.5 of the TUF specification (and two of Uptane's) that documents defend
// against. Those that content and neighbours are about have tests of the same names in fetch, store and p2p.

func TestAttackArbitraryInstallation(t *testing.T) {
	c := trusting(t)
	for name, env := range map[string][]byte{
		"unknown key": sign(t, release(7, "evil"), 9), "key of another product": sign(t, release(7, "evil"), 5),
		"root keys": sign(t, release(7, "evil"), 1, 2, 3), "wake role": sign(t, release(7, "evil"), 6), "timestamp role": sign(t, release(7, "evil"), 7),
		"another document's signature": sealed(dTimestamp, mapOf(annPairs()...), 4),
	} {
		if res := c.Add(env); res.Verdict == announce.Accept {
			t.Errorf("%s: accepted", name)
		}
	}
	if len(c.Heads()) != 0 {
		t.Errorf("%+v", c.Heads())
	}
}

func TestAttackFastForward(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, release(math.MaxUint64, "stolen"), 4))
	if res := c.Add(sign(t, release(8, "good"), 4)); res.Verdict == announce.Accept {
		t.Fatal("the test proves nothing")
	}
	second := rootTwo() // the stolen key gone, the epoch raised
	second.Products[0].Epoch, second.Products[0].Floor = 3, 0
	c.AddRoot(signRoot(t, second, 1, 2))
	if _, _, ok := c.Latest("xo-os"); ok {
		t.Error("the stolen release is still the newest")
	}
	next := change(release(1, "good"), func(a *announce.Announcement) { a.RootVer, a.Epoch = 2, 3 })
	if res := c.Add(sign(t, next, 8)); res.Verdict != announce.Accept {
		t.Errorf("the first of the new epoch: %+v", res)
	}
	thief := change(release(math.MaxUint64, "stolen"), func(a *announce.Announcement) { a.RootVer, a.Epoch = 2, 3 })
	for _, env := range [][]byte{sign(t, thief, 4), sign(t, release(math.MaxUint64, "stolen"), 4)} {
		if res := c.Add(env); res.Verdict == announce.Accept {
			t.Error("the thief goes on")
		}
	}
}

func TestAttackRollback(t *testing.T) {
	c := trusting(t)
	old, now := sign(t, release(7, "a"), 4), sign(t, release(8, "b"), 4)
	c.Add(old)
	c.Add(now)
	c = restored(t, c) // also after a restart
	for _, env := range [][]byte{old, now} {
		if res := c.Add(env); res.Verdict != announce.Ignore {
			t.Errorf("an older or equal release: %+v", res)
		}
	}
	second := rootOne() // the root raises the floor
	second.Version, second.Products[0].Floor = 2, 9
	c.AddRoot(signRoot(t, second, 1, 2))
	if res := c.Add(now); res.Verdict == announce.Accept || len(c.Heads()) != 0 {
		t.Errorf("below the floor: %+v", res)
	}
	if res := c.AddRoot(rootOneSigned); res.Verdict == announce.Accept || c.RootVersion() != 2 {
		t.Error("the root went back")
	}
	if c.Trust(rootOneSigned) == nil || c.RootVersion() != 2 {
		t.Error("a person took the root back by mistake")
	}
}

func TestAttackWrongProduct(t *testing.T) {
	c := trusting(t)
	lessons := sign(t, change(release(1, "lessons"), func(a *announce.Announcement) { a.Product, a.Epoch = "lessons.5b", 1 }), 5)
	if res := c.Add(lessons); res.Verdict != announce.Accept {
		t.Fatal(res)
	}
	// A key that may publish lessons signs for the operating system, and for products that no rule covers.
	for _, product := range []string{"xo-os", "lessons", "lessonsx", "xo-os.lessons.5b"} {
		env := sign(t, change(release(9, "evil"), func(a *announce.Announcement) { a.Product, a.Epoch = product, 2 }), 5)
		if res := c.Add(env); res.Verdict == announce.Accept {
			t.Errorf("%s: accepted", product)
		}
	}
	if a, _, ok := c.Latest("xo-os"); ok {
		t.Errorf("%+v", a)
	}
}

func TestAttackMixAndMatch(t *testing.T) {
	c := trusting(t)
	a := release(7, "a")
	c.Add(sign(t, a, 4))
	// The content is bound by the signature: none of these is the same document.
	for name, f := range map[string]func(*announce.Announcement){
		"another manifest": func(a *announce.Announcement) { a.Manifest = release(7, "b").Manifest },
		"another size":     func(a *announce.Announcement) { a.TotalSize++ },
		"manifest size":    func(a *announce.Announcement) { a.ManifestSize++ },
	} {
		env := moveSignatures(t, sign(t, a, 4), sign(t, change(a, f), 9))
		if sa, err := announce.ParseAnnouncement(env); err != nil || sa.Signers()[0] != kids(4)[0] {
			t.Fatalf("the test proves nothing: %v", err)
		}
		if res := c.Add(env); res.Verdict != announce.Reject {
			t.Errorf("%s: %+v", name, res)
		}
	}
}

// moveSignatures puts the signature of one envelope on the payload of another.
func moveSignatures(t *testing.T, from, to []byte) []byte {
	t.Helper()
	const signature = 1 + 1 + 1 + 8 + 2 + 64 // [[8 bytes, 64 bytes]]
	return append(slices.Clone(to[:len(to)-signature]), from[len(from)-signature:]...)
}

func TestAttackKeyCompromise(t *testing.T) {
	one, two := rootOne(), rootTwo()
	for _, tt := range []struct {
		name string
		keys []byte
		want announce.Verdict
	}{
		{"one of three root keys", []byte{1}, announce.Ignore},
		{"the same one twice", []byte{1, 1}, announce.Ignore},
		{"one root key and every other key", []byte{1, 4, 5, 6, 7, 8}, announce.Ignore},
		{"two of three root keys", []byte{1, 3}, announce.Accept},
	} {
		c := trusting(t)
		if res := c.AddRoot(signRoot(t, two, tt.keys...)); res.Verdict != tt.want {
			t.Errorf("%s: %+v", tt.name, res)
		}
	}
	// A product that needs two keys is not published by one.
	one.Version, one.Products[0].Keys, one.Products[0].Threshold = 2, kids(4, 5), 2
	c := trusting(t)
	c.AddRoot(signRoot(t, one, 1, 2))
	a := change(release(7, "a"), func(a *announce.Announcement) { a.RootVer = 2 })
	if res := c.Add(sign(t, a, 4)); res.Verdict != announce.Reject {
		t.Errorf("one of two: %+v", res)
	}
	if res := c.Add(sign(t, a, 4, 5)); res.Verdict != announce.Accept {
		t.Errorf("two of two: %+v", res)
	}
}

// TestConformance is the case list of TUF's public conformance suite, as far as it applies to documents.
func TestConformance(t *testing.T) {
	rotate := func(f func(*announce.Root), keys ...byte) func(*testing.T, *announce.Catalog) announce.Result {
		return func(t *testing.T, c *announce.Catalog) announce.Result {
			next := rootOne()
			next.Version = 2
			f(next)
			return c.AddRoot(signRoot(t, next, keys...))
		}
	}
	role := func(threshold int, keys ...byte) func(*announce.Root) {
		return func(r *announce.Root) {
			r.Keys = public(append([]byte{4, 5, 6, 7}, keys...)...)
			r.Roles[announce.RoleRoot] = announce.RoleRule{Keys: kids(keys...), Threshold: threshold}
		}
	}
	add := func(env []byte) func(*testing.T, *announce.Catalog) announce.Result {
		return func(_ *testing.T, c *announce.Catalog) announce.Result { return c.Add(env) }
	}
	addRoot := func(env []byte) func(*testing.T, *announce.Catalog) announce.Result {
		return func(_ *testing.T, c *announce.Catalog) announce.Result { return c.AddRoot(env) }
	}
	good := release(7, "a")
	with := func(f func(*announce.Announcement)) announce.Announcement { return change(good, f) }
	for _, tt := range []struct {
		name string
		do   func(*testing.T, *announce.Catalog) announce.Result
		want announce.Verdict
	}{
		{"root: add a key", rotate(role(2, 1, 2, 3, 8), 1, 2), announce.Accept},
		{"root: remove a key", rotate(role(2, 1, 2), 1, 2), announce.Accept},
		{"root: remove a key that does not sign any more", rotate(role(2, 2, 3), 1, 2, 3), announce.Accept},
		{"root: replace all keys, old and new sign", rotate(role(2, 8, 9), 1, 2, 8, 9), announce.Accept},
		{"root: replace all keys, old only", rotate(role(2, 8, 9), 1, 2), announce.Ignore},
		{"root: replace all keys, new only", rotate(role(2, 8, 9), 8, 9), announce.Ignore},
		{"root: threshold up, enough", rotate(role(3, 1, 2, 3), 1, 2, 3), announce.Accept},
		{"root: threshold up, too few for the new", rotate(role(3, 1, 2, 3), 1, 2), announce.Ignore},
		{"root: threshold down, enough for the old", rotate(role(1, 1, 2, 3), 1, 2), announce.Accept},
		{"root: threshold down, too few for the old", rotate(role(1, 1, 2, 3), 1), announce.Ignore},
		{"root: version skipped", rotate(func(r *announce.Root) { r.Version = 3 }, 1, 2), announce.Ignore},
		{"root: version repeated", rotate(func(r *announce.Root) { r.Version = 1 }, 1, 2), announce.Ignore},
		{"root: unsigned", addRoot(sealed(dRoot, mapOf(rootTwoPairs()...))), announce.Reject},
		{"root: signed by strangers", rotate(func(*announce.Root) {}, 8, 9), announce.Ignore},
		{"root: wrong type", addRoot(sign(t, good, 4)), announce.Reject},
		{"root: long over (renew by)", rotate(func(r *announce.Root) { r.RenewBy = 1 }, 1, 2), announce.Accept},
		{"root: a key twice", addRoot(sealed(dRoot, mapOf(with2(rootTwoPairs(), keyList(1, 1, 2, 3, 4, 5, 6, 7))...), 1, 2)), announce.Reject},
		{"targets: good", add(sign(t, good, 4)), announce.Accept},
		{"targets: unsigned", add(arr(byt(mapOf(annPairs()...)), arr())), announce.Reject},
		{"targets: threshold not met", add(sign(t, good, 9)), announce.Reject},
		{"targets: an invalid signature among valid ones", add(falseWake()), announce.Accept},
		{"targets: expired", add(sign(t, with(func(a *announce.Announcement) { a.Expires = 1 }), 4)), announce.Accept},
		{"targets: version rollback", func(t *testing.T, c *announce.Catalog) announce.Result {
			c.Add(sign(t, release(8, "b"), 4))
			return c.Add(sign(t, good, 4))
		}, announce.Ignore},
		{"targets: wrong type", add(signRoot(t, rootTwo(), 1, 2)), announce.Reject},
		{"targets: unusual name", add(sealed(dAnnouncement, mapOf(pairWith(1, txt("../xo-os"))...), 4)), announce.Reject},
		{"targets: cached, and its key revoked since", func(t *testing.T, c *announce.Catalog) announce.Result {
			c.Add(sign(t, good, 4))
			c.AddRoot(signRoot(t, rootTwo(), 1, 2))
			if _, _, ok := c.Latest("xo-os"); ok {
				t.Error("what a revoked key signed is still the newest")
			}
			return c.Add(sign(t, good, 4))
		}, announce.Ignore},
		{"timestamp: rollback", func(t *testing.T, c *announce.Catalog) announce.Result {
			c.AddTimestamp(0, timestamp(t, issued+1, 1, headOf(7), 7))
			return c.AddTimestamp(0, timestamp(t, issued, 1, headOf(7), 7))
		}, announce.Ignore},
		{"timestamp: threshold not met", func(t *testing.T, c *announce.Catalog) announce.Result {
			return c.AddTimestamp(0, timestamp(t, issued, 1, headOf(7), 9))
		}, announce.Reject},
		{"timestamp: fast-forward, recovered by rotation", func(t *testing.T, c *announce.Catalog) announce.Result {
			c.AddTimestamp(0, timestamp(t, math.MaxInt64, 1, headOf(math.MaxUint64), 7))
			second := rootOne()
			second.Version, second.Keys = 2, public(1, 2, 3, 4, 5, 6, 8)
			second.Roles[announce.RoleTimestamp] = announce.RoleRule{Keys: kids(8), Threshold: 1}
			c.AddRoot(signRoot(t, second, 1, 2))
			return c.AddTimestamp(0, timestamp(t, issued, 2, headOf(7), 8))
		}, announce.Accept},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := trusting(t)
			res := tt.do(t, c)
			if res.Verdict != tt.want {
				t.Fatalf("%+v, want %v", res, tt.want)
			}
			if d := restored(t, c); d.Digest() != c.Digest() {
				t.Error("after a restart it is another catalog")
			}
			if tt.want != announce.Accept && strings.HasPrefix(tt.name, "root") && c.RootVersion() != 1 {
				t.Errorf("root version %d", c.RootVersion())
			}
		})
	}
}

func pairWith(key uint64, val []byte) []pair { return with(annPairs(), key, val) }

// with2 replaces the keys of a root's payload.
func with2(p []pair, keys []byte) []pair { return with(p, 4, keys) }
