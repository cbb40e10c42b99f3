package announce_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"satchel/announce"
)

var (
	noTime = announce.Clock{}
	clocks = []announce.Clock{{}, {Wall: 1_790_000_100}, {Wall: 4_070_908_800}, {Wall: 1_790_000_600}} // 1970, right, 2099, a little later
)

func change(a announce.Announcement, f func(*announce.Announcement)) announce.Announcement {
	f(&a)
	return a
}

func TestAddOne(t *testing.T) {
	wrongKey := sign(t, release(7, "a"), 9)
	flipped := sign(t, release(7, "a"), 4)
	flipped[len(flipped)-1] ^= 1
	for _, tt := range []struct {
		name     string
		envelope []byte
		want     announce.Verdict
		needRoot bool
	}{
		{"good", sign(t, release(7, "a"), 4), announce.Accept, false},
		{"last seq", sign(t, release(math.MaxUint64, "a"), 4), announce.Accept, false},
		{"at the floor", sign(t, release(3, "a"), 4), announce.Accept, false},
		{"expired long ago", sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Expires = 1 }), 4), announce.Accept, false},
		{"urgent without wake role", sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Urgent = true }), 4), announce.Accept, false},
		{"below the floor", sign(t, release(2, "a"), 4), announce.Ignore, false},
		{"other epoch", sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Epoch = 3 }), 4), announce.Ignore, false},
		{"no rule", sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Product = "other" }), 4), announce.Ignore, false},
		{"newer root", sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.RootVer = 2 }), 4), announce.Ignore, true},
		{"newer root and wrong key", sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.RootVer = 2 }), 9), announce.Ignore, true},
		{"wrong key", wrongKey, announce.Reject, false},
		{"flipped bit", flipped, announce.Reject, false},
		{"key of another product", sign(t, release(7, "a"), 5), announce.Reject, false},
		{"wake role alone", sign(t, release(7, "a"), 6), announce.Reject, false},
		{"empty", nil, announce.Reject, false},
		{"too long", make([]byte, 513), announce.Reject, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := trusting(t)
			before := c.Digest()
			got := c.Add(tt.envelope)
			if got.Verdict != tt.want || got.NeedRoot != tt.needRoot || got.Equivocation {
				t.Fatalf("got %+v", got)
			}
			if (got.Announcement != nil) != (tt.want == announce.Accept) || (got.Reason == "") != (tt.want == announce.Accept) {
				t.Errorf("announcement or reason is wrong: %+v", got)
			}
			if (c.Digest() != before) != (tt.want == announce.Accept) {
				t.Error("the digest must change with what is accepted, and only then")
			}
		})
	}
}

// TestBitFlips turns each bit of a good envelope: nothing of it may ever count.
func TestBitFlips(t *testing.T) {
	good := sign(t, release(7, "a"), 4)
	c := trusting(t)
	for i := range len(good) * 8 {
		bad := bytes.Clone(good)
		bad[i/8] ^= 1 << (i % 8)
		if res := c.Add(bad); res.Verdict == announce.Accept {
			t.Fatalf("bit %d flipped: %+v", i, res)
		}
	}
}

func TestTruncations(t *testing.T) {
	env, root := sign(t, release(7, "a"), 4, 6), signRoot(t, rootOne(), 1, 2)
	for i := range env {
		if _, err := announce.ParseAnnouncement(env[:i]); err == nil {
			t.Errorf("announcement cut at %d is taken", i)
		}
	}
	for i := range root {
		if _, err := announce.ParseRoot(root[:i]); err == nil {
			t.Errorf("trust root cut at %d is taken", i)
		}
	}
}

func TestOrderOfReleases(t *testing.T) {
	c := trusting(t)
	for _, step := range []struct {
		seq     uint64
		content string
		want    announce.Verdict
		latest  uint64
	}{{5, "five", announce.Accept, 5}, {5, "five", announce.Ignore, 5}, {4, "four", announce.Ignore, 5},
		{9, "nine", announce.Accept, 9}, {6, "six", announce.Ignore, 9}, {math.MaxUint64, "last", announce.Accept, math.MaxUint64}} {
		if res := c.Add(sign(t, release(step.seq, step.content), 4)); res.Verdict != step.want {
			t.Fatalf("seq %d: %+v", step.seq, res)
		}
		if a, _, ok := c.Latest("xo-os"); !ok || a.Seq != step.latest {
			t.Fatalf("after seq %d the latest is %d", step.seq, a.Seq)
		}
	}
}

func TestEquivocation(t *testing.T) {
	c := trusting(t)
	a, b := sign(t, release(7, "a"), 4), sign(t, release(7, "b"), 4)
	c.Add(a)
	res := c.Add(b)
	if res.Verdict != announce.Accept || !res.Equivocation || res.Announcement != nil {
		t.Fatalf("second release of one number: %+v", res)
	}
	if _, _, ok := c.Latest("xo-os"); ok {
		t.Error("a refused release is the latest")
	}
	if h := c.Heads(); len(h) != 1 || !h[0].Refused || h[0].Seq != 7 {
		t.Errorf("heads: %+v", h)
	}
	ev := c.Evidence()
	if len(ev) != 1 {
		t.Fatalf("%d pieces of evidence", len(ev))
	}
	for _, again := range [][]byte{a, b} {
		if res := c.Add(again); res.Verdict != announce.Ignore {
			t.Errorf("known contender: %+v", res)
		}
	}
	other := trusting(t)
	if res := other.AddEvidence(ev[0].B, ev[0].A); res.Verdict != announce.Accept || !res.Equivocation || res.Announcement != nil {
		t.Errorf("evidence: %+v", res)
	}
	if other.Digest() != c.Digest() {
		t.Error("evidence in another order gives another digest")
	}
	if res := c.Add(sign(t, release(8, "c"), 4)); res.Verdict != announce.Accept || res.Equivocation {
		t.Errorf("a higher seq must heal it: %+v", res)
	}
	if _, _, ok := c.Latest("xo-os"); !ok || len(c.Evidence()) != 0 {
		t.Error("not healed")
	}
}

// TestEquivocatorCannotWake: a wake signature on one of two contenders must not bring it back.
func TestEquivocatorCannotWake(t *testing.T) {
	urgent := change(release(7, "a"), func(a *announce.Announcement) { a.Urgent = true })
	c := trusting(t)
	c.Add(sign(t, urgent, 4))
	c.Add(sign(t, release(7, "b"), 4))
	if res := c.Add(sign(t, urgent, 4, 6)); res.Verdict != announce.Ignore || res.Announcement != nil {
		t.Errorf("wake upgrade of a refused release: %+v", res)
	}
	if c.Urgent(clocks[1], "xo-os") {
		t.Error("a refused release may wake")
	}
}

func TestNoEvidence(t *testing.T) {
	a, b := sign(t, release(7, "a"), 4), sign(t, release(7, "b"), 4)
	wordy := sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Version = "other words" }), 4)
	forged := sign(t, release(7, "b"), 9)
	for name, e := range map[string]announce.Evidence{
		"one document twice": {A: a, B: a}, "one manifest": {A: a, B: wordy}, "two numbers": {A: a, B: sign(t, release(8, "b"), 4)},
		"garbage": {A: a, B: []byte{1}}, "forged second": {A: a, B: forged}, "forged first": {A: forged, B: a},
	} {
		if res := trusting(t).AddEvidence(e.A, e.B); res.Verdict != announce.Reject || res.Equivocation {
			t.Errorf("%s: %+v", name, res)
		}
	}
	c := trusting(t)
	c.AddEvidence(a, b)
	if res := c.AddEvidence(a, b); res.Verdict != announce.Ignore {
		t.Errorf("known evidence: %+v", res)
	}
}

// TestWakeUpgrade: the wake role's signature may arrive after the release, and nodes must see who lacks it.
func TestWakeUpgrade(t *testing.T) {
	a := change(release(7, "a"), func(a *announce.Announcement) { a.Urgent, a.Expires = true, 1_790_000_500 })
	plain, wake := sign(t, a, 4), sign(t, a, 4, 6)
	c, d := trusting(t), trusting(t)
	c.Add(plain)
	if c.Urgent(clocks[0], "xo-os") {
		t.Error("urgent without the wake role")
	}
	d.Add(wake)
	if c.Digest() == d.Digest() {
		t.Error("equal digests: the signature would never spread")
	}
	if res := c.Add(wake); res.Verdict != announce.Accept || res.Announcement == nil {
		t.Errorf("upgrade: %+v", res)
	}
	if c.Digest() != d.Digest() {
		t.Error("digests differ after the upgrade")
	}
	if _, env, _ := c.Latest("xo-os"); !bytes.Equal(env, wake) {
		t.Error("the better envelope was not kept")
	}
	for _, worse := range [][]byte{plain, wake, sign(t, a, 4, 6, 9), falseWakeOf(t, a)} {
		if len(worse) > 0 && c.Add(worse).Verdict == announce.Accept {
			t.Error("an envelope that adds nothing is news")
		}
	}
	for i, want := range []bool{true, true, true, false} {
		if got := c.Urgent(clocks[i], "xo-os"); got != want {
			t.Errorf("urgent at %v: %v", clocks[i], got)
		}
	}
	if c.Urgent(clocks[0], "nothing") || announce.NewCatalog().Urgent(clocks[0], "xo-os") {
		t.Error("what is not here is urgent")
	}
}

func falseWakeOf(t *testing.T, a announce.Announcement) []byte {
	env := sign(t, a, 4, 6)
	return bytes.Replace(env, rawSig(dAnnouncement, payloadOf(t, env), 6), make([]byte, 64), 1)
}

// TestFalseSignatureIsNoBlame: a relay adds a false signature by a wake key; the release counts all the same.
func TestFalseSignatureIsNoBlame(t *testing.T) {
	a := change(release(7, "a"), func(a *announce.Announcement) { a.Urgent = true })
	c := trusting(t)
	if res := c.Add(falseWakeOf(t, a)); res.Verdict != announce.Accept {
		t.Fatalf("%+v", res)
	}
	if c.Urgent(noTime, "xo-os") {
		t.Error("a false signature wakes")
	}
	if res := c.Add(sign(t, a, 4, 6)); res.Verdict != announce.Accept || !c.Urgent(noTime, "xo-os") {
		t.Errorf("the good signature comes too late: %+v", res)
	}
}

func TestWakeNeedsTheProduct(t *testing.T) {
	a := change(release(7, "a"), func(a *announce.Announcement) { a.Product, a.Epoch, a.Urgent = "lessons.5b", 1, true })
	c := trusting(t)
	c.Add(sign(t, a, 5, 6))
	if _, _, ok := c.Latest("lessons.5b"); !ok || c.Urgent(noTime, "lessons.5b") {
		t.Error("a product without mayWake wakes")
	}
}

func TestRuleIsTheMostSpecific(t *testing.T) {
	r := rootOne()
	r.Products = nil
	for _, p := range []string{"*", "a.*", "a.b", "a.b.*", "a.b.c"} {
		r.Products = append(r.Products, announce.ProductRule{Pattern: p, Epoch: 1, Keys: kids(4), Threshold: 1, Class: announce.ClassContent})
	}
	for product, want := range map[string]string{"x": "*", "a": "*", "ab": "*", "a.b": "a.b", "a.x": "a.*", "a.b.c": "a.b.c",
		"a.b.x": "a.b.*", "a.bb": "a.*", "a.b.c.d": "a.b.*"} {
		for range 2 {
			if got, ok := r.Rule(product); !ok || got.Pattern != want {
				t.Errorf("%s is under %q, want %q", product, got.Pattern, want)
			}
			slices.Reverse(r.Products)
		}
	}
	if _, ok := rootOne().Rule("other"); ok {
		t.Error("a rule for what no pattern covers")
	}
}

func TestRotation(t *testing.T) {
	two := signRoot(t, rootTwo(), 1, 3)
	skip := rootTwo()
	skip.Version = 3
	c := trusting(t)
	c.Add(sign(t, release(7, "a"), 4))
	lesson := change(release(2, "l"), func(a *announce.Announcement) { a.Product, a.Epoch = "lessons.5b", 1 })
	c.Add(sign(t, lesson, 5))
	before := c.Digest()
	for name, tt := range map[string]struct {
		env      []byte
		want     announce.Verdict
		needRoot bool
	}{
		"garbage": {[]byte{1, 2}, announce.Reject, false}, "same": {signRoot(t, rootOne(), 1, 2), announce.Ignore, false},
		"skips": {signRoot(t, skip, 1, 2), announce.Ignore, true}, "too few": {signRoot(t, rootTwo(), 1), announce.Ignore, false},
		"strangers": {signRoot(t, rootTwo(), 8, 9), announce.Ignore, false},
	} {
		if res := c.AddRoot(tt.env); res.Verdict != tt.want || res.NeedRoot != tt.needRoot || res.Reason == "" {
			t.Errorf("%s: %+v", name, res)
		}
	}
	if c.Digest() != before || c.RootVersion() != 1 {
		t.Fatal("a refused root changed something")
	}
	if res := c.AddRoot(two); res.Verdict != announce.Accept {
		t.Fatalf("rotation: %+v", res)
	}
	if _, _, ok := c.Latest("xo-os"); ok {
		t.Error("the release of a revoked key is still here")
	}
	if _, _, ok := c.Latest("lessons.5b"); !ok {
		t.Error("the rotation took a release that it does not touch")
	}
	if res := c.Add(sign(t, release(8, "b"), 4)); res.Verdict != announce.Ignore {
		t.Errorf("signed before the key was taken away: %+v", res)
	}
	late := change(release(8, "b"), func(a *announce.Announcement) { a.RootVer = 2 })
	if res := c.Add(sign(t, late, 4)); res.Verdict != announce.Reject {
		t.Errorf("revoked key under the newest root: %+v", res)
	}
	if res := c.Add(sign(t, late, 8)); res.Verdict != announce.Accept {
		t.Errorf("new key: %+v", res)
	}
	if n := len(c.RootChain()); n != 2 {
		t.Errorf("chain of %d", n)
	}
}

// TestKeyBeforeItsTime: a key that came with root 2 signs under the name of root 1. A node at root 1 rejects
// that, so a node at root 2 must not take it and pass it on; but one whose chain begins with root 2 may, and is not to blame.
func TestKeyBeforeItsTime(t *testing.T) {
	early := sign(t, release(7, "a"), 8)
	at1, at2 := trusting(t), trusting(t)
	at2.AddRoot(signRoot(t, rootTwo(), 1, 3))
	for c, want := range map[*announce.Catalog]announce.Verdict{at1: announce.Reject, at2: announce.Ignore} {
		if res := c.Add(early); res.Verdict != want {
			t.Errorf("at root %d: %+v", c.RootVersion(), res)
		}
	}
}

func TestEpochOvertakesTheLastSeq(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, release(math.MaxUint64, "stolen"), 4))
	r := rootTwo()
	r.Products[0].Epoch = 3
	if res := c.AddRoot(signRoot(t, r, 1, 2)); res.Verdict != announce.Accept {
		t.Fatal(res)
	}
	good := change(release(3, "good"), func(a *announce.Announcement) { a.RootVer, a.Epoch = 2, 3 })
	if res := c.Add(sign(t, good, 8)); res.Verdict != announce.Accept {
		t.Errorf("%+v", res)
	}
	if a, _, ok := c.Latest("xo-os"); !ok || a.Seq != 3 {
		t.Errorf("latest: %+v", a)
	}
}

func TestRotationSettlesEquivocation(t *testing.T) {
	r := rootOne()
	r.Products[0].Keys = kids(4, 5)
	c := announce.NewCatalog()
	if err := c.Trust(signRoot(t, r, 1, 2)); err != nil {
		t.Fatal(err)
	}
	c.Add(sign(t, release(7, "a"), 4))
	c.Add(sign(t, release(7, "b"), 5))
	next := rootOne()
	next.Version = 2
	if res := c.AddRoot(signRoot(t, next, 1, 2)); res.Verdict != announce.Accept {
		t.Fatal(res)
	}
	if a, _, ok := c.Latest("xo-os"); !ok || a.Manifest != release(7, "a").Manifest {
		t.Error("the release of the key that stayed must count again")
	}
}

func TestTrust(t *testing.T) {
	one, two := signRoot(t, rootOne(), 1, 2), signRoot(t, rootTwo(), 1, 2)
	foreign := rootOne()
	foreign.Keys = public(4, 5, 6, 7, 9)
	foreign.Roles[announce.RoleRoot] = announce.RoleRule{Keys: kids(9), Threshold: 1}
	c := announce.NewCatalog()
	if res := c.AddRoot(one); res.Verdict != announce.Ignore {
		t.Errorf("a peer's word for the first root: %+v", res)
	}
	if res := c.Add(sign(t, release(7, "a"), 4)); res.Verdict != announce.Ignore || c.Root() != nil || c.RootVersion() != 0 {
		t.Errorf("without a root: %+v", res)
	}
	if err := c.Trust(signRoot(t, rootOne(), 1)); err == nil {
		t.Error("a root below its own threshold is trusted")
	}
	for _, env := range [][]byte{one, one, two, two} {
		if err := c.Trust(env); err != nil {
			t.Fatal(err)
		}
	}
	for _, env := range [][]byte{one, signRoot(t, foreign, 9), nil} {
		if err := c.Trust(env); err == nil {
			t.Error("an older or unrelated root is trusted")
		}
	}
	late := change(release(7, "a"), func(a *announce.Announcement) { a.RootVer = 2 })
	c.Add(sign(t, late, 8))
	r := rootOne()
	r.Products[0].Keys = kids(4)
	if err := c.ForceTrust(signRoot(t, foreign, 9)); err != nil {
		t.Fatal(err)
	}
	if n := len(c.RootChain()); n != 1 || len(c.Heads()) != 0 {
		t.Errorf("after ForceTrust: chain of %d, heads %v", n, c.Heads())
	}
}

// TestForceTrustLowerVersion: what names a root version above the forced one would be ignored when it came
// anew, so it must not stay either.
func TestForceTrustLowerVersion(t *testing.T) {
	c := trusting(t)
	c.AddRoot(signRoot(t, rootTwo(), 1, 2))
	lesson := change(release(2, "l"), func(a *announce.Announcement) { a.Product, a.Epoch, a.RootVer = "lessons.5b", 1, 2 })
	c.Add(sign(t, lesson, 5))
	if err := c.ForceTrust(signRoot(t, rootOne(), 1, 2)); err != nil {
		t.Fatal(err)
	}
	if c.Digest() != trusting(t).Digest() {
		t.Errorf("left over: %+v", c.Heads())
	}
}

func TestThreshold(t *testing.T) {
	r := rootOne()
	r.Products[0].Keys, r.Products[0].Threshold = kids(4, 5, 6), 2
	for name, tt := range map[string]struct {
		keys []byte
		ok   bool
	}{"two": {[]byte{4, 6}, true}, "one": {[]byte{4}, false}, "one twice": {[]byte{4, 4}, false}, "one and a stranger": {[]byte{4, 9}, false}} {
		sa, err := announce.ParseAnnouncement(sign(t, release(7, "a"), tt.keys...))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(sa); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBounded(t *testing.T) {
	t.Parallel()
	r := rootOne()
	r.Products = append(r.Products, announce.ProductRule{Pattern: "named", Epoch: 1, Keys: kids(4), Threshold: 1, Class: announce.ClassContent})
	c := announce.NewCatalog()
	if err := c.Trust(signRoot(t, r, 1, 2)); err != nil {
		t.Fatal(err)
	}
	key, id := ed25519.NewKeyFromSeed(seed(5)), keyID(5) // by hand: 10,000 signatures take long enough
	lesson := func(i int) []byte {
		p := mapOf(with(with(annPairs(), 1, txt(fmt.Sprintf("lessons.%d", i))), 3, num(1))...)
		return arr(byt(p), arr(sigPair(id, ed25519.Sign(key, append([]byte(dAnnouncement), p...)))))
	}
	// xo-os and named keep their two places.
	for i := range announce.MaxProducts - 2 {
		if res := c.Add(lesson(i)); res.Verdict != announce.Accept {
			t.Fatalf("product %d: %+v", i, res)
		}
	}
	if res := c.Add(lesson(announce.MaxProducts)); res.Verdict != announce.Ignore {
		t.Errorf("one too many: %+v", res)
	}
	named := change(release(1, "n"), func(a *announce.Announcement) { a.Product, a.Epoch = "named", 1 })
	for _, env := range [][]byte{sign(t, named, 4), sign(t, release(7, "a"), 4)} {
		if res := c.Add(env); res.Verdict != announce.Accept {
			t.Errorf("a product that the root names finds no room: %+v", res)
		}
	}
	if n := len(c.Heads()); n != announce.MaxProducts {
		t.Errorf("%d products", n)
	}
}

// TestMuchEvidence: one key that equivocates a lot must not make other equivocations count.
func TestMuchEvidence(t *testing.T) {
	c := trusting(t)
	for i := range announce.MaxEvidence + 5 {
		a := change(release(1, "l"), func(a *announce.Announcement) { a.Product, a.Epoch = fmt.Sprintf("lessons.%d", i), 1 })
		c.Add(sign(t, a, 5))
		a.Manifest = release(1, "m").Manifest
		c.Add(sign(t, a, 5))
	}
	c.Add(sign(t, release(7, "a"), 4))
	c.Add(sign(t, release(7, "b"), 4))
	if _, _, ok := c.Latest("xo-os"); ok {
		t.Error("an equivocation was taken because there are many others")
	}
	if n := len(c.Evidence()); n != announce.MaxEvidence {
		t.Errorf("%d pieces of evidence", n)
	}
}

func TestRestore(t *testing.T) {
	c := trusting(t)
	c.AddRoot(signRoot(t, rootTwo(), 1, 2))
	c.Add(sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.RootVer = 2 }), 8))
	for _, content := range []string{"a", "b"} {
		c.Add(sign(t, change(release(2, content), func(a *announce.Announcement) { a.Product, a.Epoch = "lessons.5b", 1 }), 5))
	}
	d := restored(t, c)
	if d.Digest() != c.Digest() || d.RootVersion() != 2 || len(d.Evidence()) != 1 {
		t.Errorf("restored: %+v", d.Heads())
	}
	rot := c.Kept()
	rot.Announcements = append(rot.Announcements, sign(t, release(9, "forged"), 9), []byte("rot"), nil)
	rot.Evidence = append(rot.Evidence, announce.Evidence{A: []byte("x")})
	rot.Timestamps = append(rot.Timestamps, announce.KeptTimestamp{Envelope: []byte("rot")})
	rot.Rival = []byte("rot")
	e, err := announce.Restore(rot)
	if err != nil || e.Digest() != c.Digest() {
		t.Errorf("rot among what was kept: %v", err)
	}
	if _, err := announce.Restore(announce.Kept{Chain: [][]byte{[]byte("rot")}}); err == nil {
		t.Error("a broken chain is no error")
	}
}

func restored(t testing.TB, c *announce.Catalog) *announce.Catalog {
	t.Helper()
	d, err := announce.Restore(c.Kept())
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestCallerKeepsItsBuffer: a node reads the next frame into the same buffer.
func TestCallerKeepsItsBuffer(t *testing.T) {
	c := trusting(t)
	good := sign(t, release(7, "a"), 4)
	buf := bytes.Clone(good)
	c.Add(buf)
	clear(buf)
	if _, env, _ := c.Latest("xo-os"); !bytes.Equal(env, good) {
		t.Error("the catalog holds the caller's buffer")
	}
}

func TestSignRefuses(t *testing.T) {
	for name, f := range map[string]func(*announce.Announcement){
		"product": func(a *announce.Announcement) { a.Product = "XO" }, "version": func(a *announce.Announcement) { a.Version = "" },
		"seq": func(a *announce.Announcement) { a.Seq = 0 }, "issued": func(a *announce.Announcement) { a.Issued = -1 },
		"expires": func(a *announce.Announcement) { a.Expires = -1 }, "floor": func(a *announce.Announcement) { a.Floor = 8 },
		"via": func(a *announce.Announcement) { a.Via = 7 },
	} {
		a := change(release(7, "a"), f)
		if _, err := a.Sign(private(4)); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	a := release(7, "a")
	if _, err := a.Sign(); err == nil {
		t.Error("signed by nobody")
	}
	for name, f := range map[string]func(*announce.Root){
		"issued": func(r *announce.Root) { r.Issued = -1 }, "renew by": func(r *announce.Root) { r.RenewBy = -1 },
		"no key": func(r *announce.Root) { r.Keys = append(r.Keys, announce.PublicKey{}) },
		"twice":  func(r *announce.Root) { r.Keys = append(r.Keys, public(1)...) },
		"role":   func(r *announce.Root) { r.Roles[9] = r.Roles[announce.RoleWake] },
	} {
		r := rootOne()
		f(r)
		if _, err := r.Sign(private(1), private(2)); err == nil {
			t.Errorf("root with bad %s: signed", name)
		}
	}
}

// TestPrivateKeyStaysPrivate prints a key in every way that a log might.
func TestPrivateKeyStaysPrivate(t *testing.T) {
	k := private(1)
	text, _ := k.MarshalText()
	secret := strings.Fields(string(text))[1]
	for _, s := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %#v %s", k, k, k, k), k.LogValue().String()} {
		if strings.Contains(s, secret) || strings.Contains(s, "1 1 1") || strings.Contains(s, "0x1, 0x1") {
			t.Errorf("the seed shows: %s", s)
		}
	}
	if _, err := announce.ParsePublicKey([]byte(secret)); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("parsing quotes the secret: %v", err)
	}
}

func BenchmarkAdd(b *testing.B) {
	b.Run("new", func(b *testing.B) {
		c := trusting(b)
		envs := make([][]byte, 1000)
		for i := range envs {
			envs[i] = sign(b, release(uint64(i+3), "a"), 4)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if i%len(envs) == 0 {
				c = trusting(b)
			}
			if c.Add(envs[i%len(envs)]).Verdict != announce.Accept {
				b.Fatal("not accepted")
			}
		}
	})
	b.Run("known", func(b *testing.B) {
		c, env := trusting(b), sign(b, release(7, "a"), 4)
		c.Add(env)
		b.ReportAllocs()
		for b.Loop() {
			c.Add(env)
		}
	})
	b.Run("forged", func(b *testing.B) {
		c, env := trusting(b), sign(b, release(7, "a"), 4)
		env[len(env)-1] ^= 1
		b.ReportAllocs()
		for b.Loop() {
			c.Add(env)
		}
	})
}
