package announce_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"satchel/announce"
)

// The tests of this file stand at single checks of the verify path: each document is good but for one thing, so that
// no other check can stand in for the one that is meant.

// exactly is an envelope of size bytes, filled by an unknown key from 64 on.
func exactly(domain string, p []pair, size int, keys ...byte) []byte {
	fill := func(n int) []byte { return sealed(domain, mapOf(with(p, 64, byt(make([]byte, n)))...), keys...) }
	return fill(size/2 + size - len(fill(size/2)))
}

func timePairs() []pair {
	return []pair{{1, num(1)}, {2, num(issued)}, {3, arr(arr(txt("xo-os"), num(2), num(7)))}}
}

func parses(kind string, env []byte) error {
	var err error
	switch kind {
	case "announcement":
		_, err = announce.ParseAnnouncement(env)
	case "root":
		_, err = announce.ParseRoot(env)
	case "timestamp":
		_, err = announce.ParseTimestamp(env)
	}
	return err
}

func TestEnvelopeLimits(t *testing.T) {
	for _, tt := range []struct {
		kind, domain string
		p            []pair
		limit        int
	}{
		{"announcement", dAnnouncement, annPairs(), announce.MaxEnvelope},
		{"root", dRoot, rootPairs(), announce.MaxRootEnvelope},
		{"timestamp", dTimestamp, timePairs(), announce.MaxTimestampEnvelope},
	} {
		for size, want := range map[int]bool{tt.limit: true, tt.limit + 1: false} {
			env := exactly(tt.domain, tt.p, size, 4)
			if len(env) != size {
				t.Fatalf("the test made %d bytes, not %d", len(env), size)
			}
			if err := parses(tt.kind, env); (err == nil) != want {
				t.Errorf("%s of %d bytes: %v", tt.kind, size, err)
			}
		}
	}
}

func TestSignLimits(t *testing.T) {
	var fits, long bool
	for n := 1; n <= 64; n++ {
		a := change(release(7, "a"), func(a *announce.Announcement) { a.Version, a.TotalSize = strings.Repeat("v", n), 0 })
		p := with(with(with(annPairs(), 5, txt(a.Version)), 6, byt(cidBytes("a"))), 9, num(uint64(a.Issued)))
		size := len(sealed(dAnnouncement, mapOf(p...), 1, 2, 3, 4, 5))
		fits, long = fits || size == announce.MaxEnvelope, long || size == announce.MaxEnvelope+1
		if _, err := a.Sign(privates([]byte{1, 2, 3, 4, 5})...); (err == nil) != (size <= announce.MaxEnvelope) {
			t.Errorf("announcement of %d bytes: %v", size, err)
		}
	}
	if !fits || !long {
		t.Error("the test did not reach the limit")
	}
	r := rootOne()
	for i := range 800 {
		r.Products = append(r.Products, announce.ProductRule{Pattern: fmt.Sprintf("p%039d", i), Epoch: 1, Keys: kids(4), Threshold: 1, Class: announce.ClassContent})
	}
	room := announce.MaxRootEnvelope - len(signRoot(t, r, 1, 2))
	for i := range r.Products {
		if n := min(room, 64-len(r.Products[i].Pattern)); len(r.Products[i].Pattern) == 40 {
			r.Products[i].Pattern += strings.Repeat("x", n)
			room -= n
		}
	}
	if env := signRoot(t, r, 1, 2); len(env) != announce.MaxRootEnvelope {
		t.Fatalf("the test made %d bytes, %d to go", len(env), room)
	}
	r.Products[len(r.Products)-1].Pattern += "x"
	if _, err := r.Sign(private(1), private(2)); err == nil {
		t.Error("a root of 64 KiB and one byte is signed")
	}
}

func TestManySignatures(t *testing.T) {
	var keys []byte
	for n := byte(100); n < 165; n++ {
		keys = append(keys, n)
	}
	p := mapOf(rootPairs()...)
	for n, want := range map[int]bool{64: true, 65: false} {
		if err := parses("root", sealed(dRoot, p, keys[:n]...)); (err == nil) != want {
			t.Errorf("%d signatures: %v", n, err)
		}
		if _, err := rootOne().Sign(privates(keys[:n])...); (err == nil) != want {
			t.Errorf("signing with %d keys: %v", n, err)
		}
	}
}

func TestRefusedForms(t *testing.T) {
	yes := []byte{0xf5}
	ann := mapOf(annPairs()...)
	signed := func(sig []byte) []byte { return arr(byt(ann), arr(sig)) }
	document := func(key uint64, val []byte) []byte {
		return sealed(dAnnouncement, mapOf(with(annPairs(), key, val)...), 4)
	}
	root := func(key uint64, val []byte) []byte { return sealed(dRoot, mapOf(with(rootPairs(), key, val)...), 1, 2) }
	rule := func(at int, val []byte) []byte {
		v := [][]byte{txt("xo-os"), num(2), ids(4), num(1), num(3), txt("system"), num(3)}
		v[at] = val
		return root(6, arr(lessonsRule(), arr(v...)))
	}
	stamp := func(key uint64, val []byte) []byte {
		return sealed(dTimestamp, mapOf(with(timePairs(), key, val)...), 7)
	}
	heads := func(v ...[]byte) []byte { return stamp(3, arr(arr(v...))) }
	sorted := keyList(1, 2, 3, 4, 5, 6, 7) // one byte of head, then 34 of each key
	swapped := slices.Concat(sorted[:1], sorted[35:69], sorted[1:35], sorted[69:])
	low := slices.Concat(head(4, 8), byt(append([]byte{1}, make([]byte, 31)...)), sorted[1:])
	textRole := mapOf(rolesOf()...)
	textRole = slices.Concat([]byte{textRole[0] + 1}, textRole[1:], txt("a"), rolesOf()[0].val)
	for _, tt := range []struct {
		name, kind string
		env        []byte
	}{
		{"signature of 65 bytes", "announcement", signed(sigPair(keyID(4), make([]byte, 65)))},
		{"signature is a number", "announcement", signed(num(1))},
		{"signature of no value", "announcement", signed(arr())},
		{"signature of one value", "announcement", signed(arr(byt(keyID(4))))},
		{"identity of 32 bytes", "announcement", document(6, byt(append([]byte{1, 0x55, 0, 32}, make([]byte, 32)...)))},
		{"hash of 33 bytes", "announcement", document(6, byt(append([]byte{1, 0x55, 0x12, 33}, make([]byte, 33)...)))},
		{"codec 0x50", "announcement", document(6, byt(append([]byte{1, 0x50}, cidBytes("a")[2:]...)))},
		{"codec 0x52", "announcement", document(6, byt(append([]byte{1, 0x52}, cidBytes("a")[2:]...)))},
		{"boolean deep in an unknown key", "announcement", document(64, mapOf(pair{1, mapOf(pair{1, yes})}))},
		{"text as the key of a map", "announcement", document(64, slices.Concat([]byte{0xa1}, txt("a"), num(1)))},
		{"text as a role", "root", root(5, textRole)},
		{"first two keys swapped", "root", root(4, swapped)},
		{"key of low order that nobody uses", "root", root(4, low)},
		{"role of one value", "root", root(5, mapOf(with(rolesOf(), 2, arr(ids(6)))...))},
		{"role of three values", "root", root(5, mapOf(with(rolesOf(), 2, arr(ids(6), num(1), num(1)))...))},
		{"rule of eight values", "root", root(6, arr(slices.Concat(head(4, 8), osRule()[1:], num(0))))},
		{"floor as text", "root", rule(4, txt("3"))},
		{"flags as text", "root", rule(6, txt("3"))},
		{"key id of 9 bytes", "root", rule(2, arr(byt(append(keyID(4), 0))))},
		{"head of four values", "timestamp", heads(txt("xo-os"), num(2), num(7), num(1))},
		{"head of no product", "timestamp", heads(txt("XO"), num(2), num(7))},
		{"head of epoch 0", "timestamp", heads(txt("xo-os"), num(0), num(7))},
		{"timestamp under root version 0", "timestamp", stamp(1, num(0))},
		{"timestamp whose payload is none", "timestamp", sealed(dTimestamp, []byte{0xff}, 7)},
	} {
		if err := parses(tt.kind, tt.env); err == nil {
			t.Errorf("%s: taken", tt.name)
		}
	}
	for kind, env := range map[string][]byte{"announcement": document(64, mapOf(pair{1, mapOf(pair{1, num(1)})})), "root": rule(2, ids(4)),
		"timestamp": heads(txt("xo-os"), num(2), num(7))} {
		if err := parses(kind, env); err != nil {
			t.Errorf("the %s that the others differ from: %v", kind, err)
		}
	}
}

// TestLargestTaken: what is exactly at a limit is good.
func TestLargestTaken(t *testing.T) {
	var keys []byte
	for n := byte(100); n < 164; n++ {
		keys = append(keys, n)
	}
	r := rootOne()
	r.Keys = public(keys...)
	r.Roles = map[announce.Role]announce.RoleRule{announce.RoleRoot: {Keys: kids(keys...), Threshold: 64}}
	r.Products = nil
	for i := range 1024 {
		r.Products = append(r.Products, announce.ProductRule{Pattern: fmt.Sprintf("p%d", i), Epoch: 1, Keys: kids(100), Threshold: 1, Class: announce.ClassContent})
	}
	sr, err := announce.ParseRoot(signRoot(t, r, keys...))
	if err != nil {
		t.Fatal(err)
	}
	if err := announce.VerifyGenesis(sr); err != nil {
		t.Error(err)
	}
	heads := make([]announce.TimestampHead, announce.MaxTimestampHeads)
	for i := range heads {
		heads[i] = announce.TimestampHead{Product: fmt.Sprintf("p%03d", i), Epoch: 1, Seq: 1}
	}
	if err := parses("timestamp", timestamp(t, 1, 1, heads, 7)); err != nil {
		t.Error(err)
	}
	for name, f := range map[string]func(){
		"65 keys": func() { r.Keys = append(r.Keys, public(99)...) },
		"1025 rules": func() {
			r.Products = append(r.Products, announce.ProductRule{Pattern: "q", Epoch: 1, Keys: kids(100), Threshold: 1, Class: announce.ClassContent})
		},
	} {
		was := *r
		f()
		if _, err := r.Sign(private(100)); err == nil {
			t.Errorf("a root of %s is signed", name)
		}
		*r = was
	}
}

func TestSignRefusesMore(t *testing.T) {
	for name, f := range map[string]func(*announce.Announcement){
		"no manifest": func(a *announce.Announcement) {
			*a = announce.Announcement{Product: "xo-os", RootVer: 1, Epoch: 2, Seq: 7, Version: "1", ManifestSize: 1}
		},
		"not UTF-8": func(a *announce.Announcement) { a.Version = "1\xff" },
	} {
		a := change(release(7, "a"), f)
		if _, err := a.Sign(private(4)); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	for _, role := range []announce.Role{-1, announce.RoleWake + 1} {
		r := rootOne()
		r.Roles[role] = r.Roles[announce.RoleWake]
		if _, err := r.Sign(private(1), private(2)); err == nil {
			t.Errorf("a root with role %d is signed", int(role))
		}
		if role.String() != "unknown" {
			t.Errorf("role %d is called %s", int(role), role)
		}
	}
	if _, err := (&announce.Timestamp{RootVer: 1}).Sign(private(7)); err == nil {
		t.Error("a timestamp without a time is signed")
	}
}

func TestProductNames(t *testing.T) {
	for c := range 256 {
		want := strings.Contains("abcdefghijklmnopqrstuvwxyz0123456789.-", string([]byte{byte(c)}))
		if err := announce.ValidProduct(string([]byte{'a', byte(c), 'z'})); (err == nil) != want {
			t.Errorf("%q inside a name: %v", rune(c), err)
		}
	}
	for name, want := range map[string]bool{"a": true, "-a": false, "a-": false, ".a": false, "a.": false, "a--b": true, "a..b": false} {
		if err := announce.ValidProduct(name); (err == nil) != want {
			t.Errorf("product %q: %v", name, err)
		}
	}
	for pattern, want := range map[string]bool{"*": true, "a": true, "a.*": true, ".*": false, "**": false, "a*": false, "": false, ".": false} {
		if err := announce.ValidPattern(pattern); (err == nil) != want {
			t.Errorf("pattern %q: %v", pattern, err)
		}
	}
	for _, tt := range []struct {
		pattern, product string
		want             bool
	}{{"*", "a", true}, {"a", "a", true}, {"a", "b", false}, {"a.*", "a.b", true}, {"a.*", "ab", false}, {"a.*", "a", false}} {
		if announce.Covers(tt.pattern, tt.product) != tt.want {
			t.Errorf("%s covers %s: not %v", tt.pattern, tt.product, tt.want)
		}
	}
	for version, want := range map[string]bool{" 1": false, "1 ": false, "1 2": true, "\xff": false, "\U0001fffe": false, "\U0001fffd": true} {
		if err := announce.ValidVersion(version); (err == nil) != want {
			t.Errorf("version %q: %v", version, err)
		}
	}
}

func TestKeyFilesMore(t *testing.T) {
	if _, err := announce.GenerateKey(strings.NewReader("too short")); err == nil {
		t.Error("a key of 9 random bytes")
	}
	good, err := private(1).MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	long := base64.StdEncoding.EncodeToString(make([]byte, 33))
	for name, tt := range map[string]struct {
		text []byte
		want bool
	}{
		"4096 bytes":               {append(bytes.Repeat([]byte("\n"), 4096-len(good)), good...), true},
		"4097 bytes":               {append(bytes.Repeat([]byte("\n"), 4097-len(good)), good...), false},
		"33 bytes":                 {[]byte("satchel-private-key-v1 " + long + "\n"), false},
		"rubbish before the key":   {append([]byte("rubbish\n"), good...), false},
		"bad base64, then the key": {append([]byte("satchel-private-key-v1 x\n"), good...), false},
	} {
		if _, err := announce.ParsePrivateKey(tt.text); (err == nil) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNobodyMaySign: a rule that asks for no signature is no rule, wherever the root came from.
func TestNobodyMaySign(t *testing.T) {
	sa, err := announce.ParseAnnouncement(sign(t, release(7, "a"), 9))
	if err != nil {
		t.Fatal(err)
	}
	r := &announce.Root{Version: 1, Products: []announce.ProductRule{{Pattern: "*", Epoch: 2}}}
	if err := r.Verify(sa); err == nil {
		t.Error("good without a signature")
	}
}

// TestTooNewIsNoBlame: what a later version sends is ignored; nobody is punished for being newer.
func TestTooNewIsNoBlame(t *testing.T) {
	unknown := pair{63, num(1)}
	ann := sealed(dAnnouncement, mapOf(append(annPairs(), unknown)...), 4)
	for name, add := range map[string]func(c *announce.Catalog) announce.Result{
		"announcement": func(c *announce.Catalog) announce.Result { return c.Add(ann) },
		"evidence":     func(c *announce.Catalog) announce.Result { return c.AddEvidence(sign(t, release(7, "a"), 4), ann) },
		"root": func(c *announce.Catalog) announce.Result {
			return c.AddRoot(sealed(dRoot, mapOf(append(rootTwoPairs(), unknown)...), 1, 2))
		},
		"timestamp": func(c *announce.Catalog) announce.Result {
			return c.AddTimestamp(0, sealed(dTimestamp, mapOf(append(timePairs(), unknown)...), 7))
		},
	} {
		if res := add(trusting(t)); res.Verdict != announce.Ignore {
			t.Errorf("%s: %+v", name, res)
		}
	}
}

func TestTrustNeedsTheOldRoot(t *testing.T) {
	next := func(version uint64) *announce.Root {
		r := rootTwo()
		r.Version = version
		return r
	}
	stranger := next(2)
	stranger.Keys = append(stranger.Keys, public(9)...)
	stranger.Roles[announce.RoleRoot] = announce.RoleRule{Keys: kids(9), Threshold: 1}
	c := trusting(t)
	for name, env := range map[string][]byte{"of a stranger": signRoot(t, stranger, 9), "that skips a version": signRoot(t, next(3), 1, 2)} {
		if err := c.Trust(env); err == nil || c.RootVersion() != 1 {
			t.Errorf("a root %s is trusted: %v", name, err)
		}
	}
	for name, env := range map[string][]byte{"garbage": []byte("rot"), "signed by one": signRoot(t, rootTwo(), 1)} {
		if err := c.ForceTrust(env); err == nil || c.RootVersion() != 1 {
			t.Errorf("%s is trusted by force: %v", name, err)
		}
	}
}

func TestForceTrustKeepsWhatHolds(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, release(7, "a"), 4))
	c.AddTimestamp(0, timestamp(t, issued, 1, headOf(7), 7))
	other := rootOne()
	other.RenewBy = issued
	if err := c.ForceTrust(signRoot(t, other, 1, 2)); err != nil {
		t.Fatal(err)
	}
	if len(c.Heads()) != 1 || len(c.Timestamps()) != 1 {
		t.Errorf("what the other root bears out is gone: %v, %d timestamps", c.Heads(), len(c.Timestamps()))
	}
}

// TestNamesAnUnknownRoot: an announcement may name a root from before the one that a person trusted here.
func TestNamesAnUnknownRoot(t *testing.T) {
	c := announce.NewCatalog()
	if err := c.Trust(signRoot(t, rootTwo(), 1, 2)); err != nil {
		t.Fatal(err)
	}
	if res := c.Add(sign(t, release(7, "a"), 9)); res.Verdict != announce.Ignore {
		t.Errorf("by a stranger, who may have had the right then: %+v", res)
	}
	if res := c.Add(sign(t, release(7, "a"), 8)); res.Verdict != announce.Accept {
		t.Errorf("by the key that has the right now: %+v", res)
	}
}

// TestHigherThresholdIsNoBlame: what was enough under the root it names is no lie when more must sign now.
func TestHigherThresholdIsNoBlame(t *testing.T) {
	one, two := rootOne(), rootOne()
	for _, r := range []*announce.Root{one, two} {
		r.Products[0].Keys = kids(4, 5)
	}
	two.Version, two.Products[0].Threshold = 2, 2
	c := announce.NewCatalog()
	for _, r := range []*announce.Root{one, two} {
		if err := c.Trust(signRoot(t, r, 1, 2)); err != nil {
			t.Fatal(err)
		}
	}
	if res := c.Add(sign(t, release(7, "a"), 4)); res.Verdict != announce.Ignore {
		t.Errorf("%+v", res)
	}
}

func TestOnlyUrgentWakes(t *testing.T) {
	c, d := trusting(t), trusting(t)
	c.Add(sign(t, release(7, "a"), 4, 6))
	d.Add(sign(t, release(7, "a"), 4))
	if c.Urgent(announce.Clock{}, "xo-os") || c.Digest() != d.Digest() {
		t.Error("a release that is not urgent may wake")
	}
	urgent := func(content string, expires int64) []byte {
		return sign(t, change(release(7, content), func(a *announce.Announcement) { a.Urgent, a.Expires = true, expires }), 4, 6)
	}
	e := trusting(t)
	e.AddTimestamp(0, timestamp(t, issued, 1, nil, 7))
	e.Add(urgent("a", issued+10))
	for wall, want := range map[int64]bool{issued + 9: true, issued + 10: false} {
		if e.Urgent(announce.Clock{Wall: wall}, "xo-os") != want {
			t.Errorf("urgent at %d: not %v", wall, want)
		}
	}
	if e.Claims("xo-os") != nil || e.Claims("nothing") != nil {
		t.Error("claims without equivocation")
	}
	e.Add(urgent("b", issued+10))
	if len(e.Claims("xo-os")) != 2 || e.Urgent(announce.Clock{Wall: issued}, "xo-os") {
		t.Error("two releases that claim one number may wake, as both are signed by the wake role")
	}
	if k := e.Kept(); len(k.Announcements) != 0 || len(k.Evidence) != 1 {
		t.Errorf("kept: %+v", k)
	}
}

// TestGlance: what is known already costs no signature.
func TestGlance(t *testing.T) {
	c := trusting(t)
	urgent := change(release(7, "u"), func(a *announce.Announcement) { a.Product, a.Epoch, a.Urgent = "lessons.5b", 1, true })
	wakes := change(release(8, "w"), func(a *announce.Announcement) { a.Urgent = true })
	for _, env := range [][]byte{sign(t, wakes, 4, 6), sign(t, urgent, 5)} {
		if res := c.Add(env); res.Verdict != announce.Accept {
			t.Fatal(res)
		}
	}
	plain := trusting(t)
	plain.Add(sign(t, release(7, "a"), 4))
	for _, tt := range []struct {
		name string
		c    *announce.Catalog
		env  []byte
		done bool
	}{
		{"no rule", c, sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Product = "other" }), 4), true},
		{"old", c, sign(t, release(7, "a"), 4), true},
		{"here already", plain, sign(t, release(7, "a"), 4), true},
		{"here already and wakes", c, sign(t, wakes, 4, 6), true},
		{"here already, and may not wake", c, sign(t, urgent, 5), true},
		{"here already, might wake now", c, sign(t, urgent, 5, 6), false},
		{"new", plain, sign(t, release(8, "a"), 4), false},
	} {
		sa, err := announce.ParseAnnouncement(tt.env)
		if err != nil {
			t.Fatal(err)
		}
		if res, done := tt.c.Glance(sa); done != tt.done || done && res.Verdict != announce.Ignore {
			t.Errorf("%s: %v %+v", tt.name, done, res)
		}
	}
}

func TestEvidenceOneByOne(t *testing.T) {
	a := sign(t, release(7, "a"), 4)
	later := sign(t, change(release(7, "b"), func(a *announce.Announcement) { a.RootVer = 2 }), 4)
	for _, e := range []announce.Evidence{{A: a, B: later}, {A: later, B: a}} {
		res := trusting(t).AddEvidence(e.A, e.B)
		if res.Verdict != announce.Accept || res.Announcement == nil || !res.NeedRoot {
			t.Errorf("a release, and one signed under a newer root: %+v", res)
		}
	}
	if res := trusting(t).AddEvidence(a, sign(t, release(7, "b"), 4)); res.NeedRoot {
		t.Error("asks for a root without need")
	}
	c := trusting(t)
	c.Add(a)
	if res := c.AddEvidence(sign(t, release(7, "x"), 9), sign(t, release(7, "b"), 4)); res.Verdict != announce.Reject {
		t.Errorf("a forgery beside a second claim: %+v", res)
	}
	for name, f := range map[string]func(*announce.Announcement){
		"product": func(a *announce.Announcement) { a.Product = "xo-ot" }, "epoch": func(a *announce.Announcement) { a.Epoch++ },
		"seq": func(a *announce.Announcement) { a.Seq++ },
	} {
		b := sign(t, change(release(7, "b"), f), 4)
		for _, e := range []announce.Evidence{{A: a, B: b}, {A: b, B: a}} {
			if res := trusting(t).AddEvidence(e.A, e.B); res.Verdict != announce.Reject {
				t.Errorf("another %s: %+v", name, res)
			}
		}
	}
}

func TestRootIsInTheDigest(t *testing.T) {
	empty, c, d := announce.NewCatalog(), trusting(t), announce.NewCatalog()
	other := rootOne()
	other.RenewBy = issued
	if err := d.Trust(signRoot(t, other, 1, 2)); err != nil {
		t.Fatal(err)
	}
	if empty.Digest() == c.Digest() || c.Digest() == d.Digest() {
		t.Error("two roots, one digest")
	}
	if empty.RootID() != [8]byte{} || c.RootID() == [8]byte{} || c.RootID() == d.RootID() {
		t.Error("root ids")
	}
	two, rival := rootTwo(), rootTwo()
	rival.RenewBy = issued
	c.AddRoot(signRoot(t, two, 1, 2))
	before := c.Digest()
	if res := c.AddRoot(signRoot(t, rival, 1, 2)); !res.Equivocation || c.Digest() == before {
		t.Errorf("a rival leaves the digest as it is: %+v", res)
	}
}

func TestForeign(t *testing.T) {
	c := announce.NewCatalog()
	if c.Foreign(1, [8]byte{1}) {
		t.Error("foreign to whom trusts nobody yet")
	}
	var was [][8]byte
	for version := uint64(2); version <= 3; version++ {
		r := rootTwo()
		r.Version = version
		if err := c.Trust(signRoot(t, r, 1, 2)); err != nil {
			t.Fatal(err)
		}
		was = append(was, c.RootID())
	}
	for _, tt := range []struct {
		version uint64
		id      [8]byte
		want    bool
	}{
		{1, [8]byte{1}, false}, // from before what is known here
		{2, was[0], false}, {2, was[1], true}, {2, [8]byte{1}, true},
		{3, was[1], false}, {3, was[0], true},
		{4, [8]byte{1}, true},
	} {
		if c.Foreign(tt.version, tt.id) != tt.want {
			t.Errorf("version %d, id %x: not %v", tt.version, tt.id, tt.want)
		}
	}
	rival := rootTwo()
	rival.Version, rival.RenewBy = 3, issued
	d := announce.NewCatalog()
	if err := d.Trust(signRoot(t, rival, 1, 2)); err != nil {
		t.Fatal(err)
	}
	if !c.Foreign(3, d.RootID()) || c.AddRoot(signRoot(t, rival, 1, 2)).Verdict != announce.Accept || c.Foreign(3, d.RootID()) {
		t.Error("the nodes of a rival root are of this mesh once it is known")
	}
}

// TestFullCatalog: a catalog without room for news still takes the next release of what it has.
func TestFullCatalog(t *testing.T) {
	t.Parallel()
	rule := func(name string) announce.ProductRule {
		return announce.ProductRule{Pattern: name, Epoch: 1, Keys: kids(5), Threshold: 1, Class: announce.ClassContent}
	}
	r := rootOne()
	r.Products = []announce.ProductRule{rule("lessons.*"), rule("here"), rule("named")}
	c := announce.NewCatalog()
	if err := c.Trust(signRoot(t, r, 1, 2)); err != nil {
		t.Fatal(err)
	}
	key, id := ed25519.NewKeyFromSeed(seed(5)), keyID(5) // by hand: 10,000 signatures take long enough
	add := func(name string, seq uint64) announce.Verdict {
		p := mapOf(with(with(with(with(annPairs(), 1, txt(name)), 2, num(c.RootVersion())), 3, num(1)), 4, num(seq))...)
		return c.Add(arr(byt(p), arr(sigPair(id, ed25519.Sign(key, append([]byte(dAnnouncement), p...)))))).Verdict
	}
	if add("here", 7) != announce.Accept {
		t.Fatal("the first product")
	}
	for i := range announce.MaxProducts - 2 {
		if add(fmt.Sprintf("lessons.%d", i), 7) != announce.Accept {
			t.Fatalf("product %d finds no room", i)
		}
	}
	for _, step := range []struct {
		name string
		seq  uint64
		want announce.Verdict
	}{
		{"lessons.new", 7, announce.Ignore}, // the last place is kept
		{"named", 7, announce.Accept},
		{"lessons.new", 7, announce.Ignore},
		{"lessons.0", 8, announce.Accept},
		{"here", 8, announce.Accept},
	} {
		if got := add(step.name, step.seq); got != step.want {
			t.Errorf("%s seq %d: %v", step.name, step.seq, got)
		}
	}
	r.Version, r.Products = 2, append(r.Products, rule("late"))
	if res := c.AddRoot(signRoot(t, r, 1, 2)); res.Verdict != announce.Accept {
		t.Fatal(res)
	}
	if got := add("late", 7); got != announce.Ignore || len(c.Heads()) != announce.MaxProducts {
		t.Errorf("a product that the root names since: %v, %d products", got, len(c.Heads()))
	}
}

func TestTimestampsThatAreKept(t *testing.T) {
	headIn := func(epoch, seq uint64, more ...string) (heads []announce.TimestampHead) {
		heads = []announce.TimestampHead{{Product: "xo-os", Epoch: epoch, Seq: seq}}
		for _, name := range more {
			heads = append(heads, announce.TimestampHead{Product: name, Epoch: 1, Seq: 1})
		}
		return heads
	}
	with := func(t *testing.T, heads ...[]announce.TimestampHead) *announce.Catalog { // each a second younger than the next
		c := trusting(t)
		c.Add(sign(t, release(7, "a"), 4))
		for i, h := range heads {
			if res := c.AddTimestamp(0, timestamp(t, issued-int64(i), 1, h, 7)); res.Verdict != announce.Accept {
				t.Fatalf("timestamp %d: %+v", i, res)
			}
		}
		return c
	}
	c := with(t, headIn(2, 8), headIn(2, 10), headIn(2, 9, "zz"))
	if s := c.Standing(announce.Clock{}, "xo-os"); len(c.Timestamps()) != 3 || s.Newer == nil || s.Newer.Seq != 10 {
		t.Errorf("an older timestamp names the newest number: %+v, %d kept", s, len(c.Timestamps()))
	}
	if s := c.Standing(announce.Clock{}, "zzz"); s.State != announce.Unknown {
		t.Errorf("a product after the last that is named: %+v", s)
	}
	if c.AddTimestamp(0, timestamp(t, issued+1, 1, headIn(2, 10, "zz"), 7)); len(c.Timestamps()) != 1 {
		t.Errorf("%d kept, when the youngest says it all", len(c.Timestamps()))
	}
	if s := with(t, headIn(3, 1)).Standing(announce.Clock{}, "xo-os"); s.State != announce.Stale {
		t.Errorf("a newer epoch: %+v", s)
	}
	if s := with(t, headIn(1, 99)).Standing(announce.Clock{}, "xo-os"); s.State != announce.Fresh {
		t.Errorf("an older epoch: %+v", s)
	}
	full := with(t, headIn(2, 7, "z1"), headIn(2, 7, "z2"), headIn(2, 7, "z3"), headIn(2, 7, "z4"), headIn(2, 7, "z5"), headIn(2, 7, "z6"), headIn(2, 7, "z7"), headIn(2, 7, "z8"))
	if len(full.Timestamps()) != 8 {
		t.Errorf("%d of eight kept", len(full.Timestamps()))
	}
	if res := full.AddTimestamp(0, timestamp(t, issued-9, 1, headIn(2, 7, "z9"), 7)); res.Verdict != announce.Ignore {
		t.Errorf("a ninth, older one: %+v", res)
	}
	if res := full.AddTimestamp(0, timestamp(t, issued+9, 1, headIn(2, 7, "z9"), 7)); res.Verdict != announce.Accept || len(full.Timestamps()) != 8 {
		t.Errorf("a ninth, younger one: %+v, %d kept", res, len(full.Timestamps()))
	}
	if full.AddRoot(signRoot(t, rootTwo(), 1, 2)); full.RootVersion() != 2 || len(full.Timestamps()) != 8 {
		t.Errorf("%d kept under a root with the same timestamp role", len(full.Timestamps()))
	}
}

func TestNowAtItsEdges(t *testing.T) {
	empty := announce.NewCatalog()
	if now := empty.Now(announce.Clock{Wall: 5}); now != 0 || empty.Earliest(0) != 0 {
		t.Errorf("without anything that is dated it is %d", now)
	}
	if s := empty.Standing(announce.Clock{}, "xo-os"); s.State != announce.Unknown {
		t.Errorf("without anything: %+v", s)
	}
	c := trusting(t)
	c.AddTimestamp(0, timestamp(t, issued, 1, headOf(7), 7))
	for wall, want := range map[int64]int64{issued - 1: issued, issued: issued, issued + 1: issued + 1,
		issued + announce.MaxDrift - 1: issued + announce.MaxDrift - 1, issued + announce.MaxDrift: issued} {
		if now := c.Now(announce.Clock{Wall: wall}); now != want {
			t.Errorf("a clock at %d: it is %d, want %d", wall, now, want)
		}
	}
	c.Add(sign(t, change(release(7, "a"), func(a *announce.Announcement) { a.Expires = issued + 10 }), 4))
	for wall, want := range map[int64]bool{issued: false, issued + 10: false, issued + 11: true} {
		if s := c.Standing(announce.Clock{Wall: wall}, "xo-os"); s.Expired != want || (s.State == announce.Fresh) == want {
			t.Errorf("at %d: %+v", wall, s)
		}
	}
}

func TestWords(t *testing.T) {
	for _, got := range [][2]string{
		{announce.Accept.String(), "accept"}, {announce.Reject.String(), "reject"}, {announce.Verdict(-1).String(), "unknown"}, {announce.Verdict(3).String(), "unknown"},
		{announce.Unknown.String(), "unknown"}, {announce.Stale.String(), "stale"}, {announce.Freshness(-1).String(), "unknown"}, {announce.Freshness(3).String(), "unknown"},
		{announce.RoleRoot.String(), "root"}, {announce.RoleWake.String(), "wake"},
	} {
		if got[0] != got[1] {
			t.Errorf("%s, want %s", got[0], got[1])
		}
	}
}

// TestStrangersAreBlamed: what neither our root nor the one that is named bears out is a lie, also when the two differ.
func TestStrangersAreBlamed(t *testing.T) {
	c := trusting(t)
	c.AddRoot(signRoot(t, rootTwo(), 1, 2))
	if res := c.Add(sign(t, release(7, "a"), 9)); res.Verdict != announce.Reject {
		t.Errorf("under the root before: %+v", res)
	}
	rival := rootTwo()
	rival.RenewBy = issued
	if res := c.AddRoot(signRoot(t, rival, 1, 2)); !res.Equivocation {
		t.Fatal(res)
	}
	if res := c.Add(sign(t, release(7, "a"), 9)); res.Verdict != announce.Reject {
		t.Errorf("under the root before two rivals: %+v", res)
	}
}

func TestMarksComeBack(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, release(7, "a"), 4))
	for name, tt := range map[string]struct {
		kept, want announce.Mark
	}{
		"higher":        {announce.Mark{Product: "xo-os", Epoch: 2, Seq: 9, Floor: 4}, announce.Mark{Product: "xo-os", Epoch: 2, Seq: 9, Floor: 4}},
		"lower":         {announce.Mark{Product: "xo-os", Epoch: 2, Seq: 5}, announce.Mark{Product: "xo-os", Epoch: 2, Seq: 7}},
		"epoch before":  {announce.Mark{Product: "xo-os", Epoch: 1, Seq: 99}, announce.Mark{Product: "xo-os", Epoch: 2, Seq: 7}},
		"not a product": {announce.Mark{Product: "XO", Epoch: 2, Seq: 9}, announce.Mark{Product: "xo-os", Epoch: 2, Seq: 7}},
	} {
		k := c.Kept()
		k.Marks = []announce.Mark{tt.kept}
		d, err := announce.Restore(k)
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Marks(); len(got) != 1 || got[0] != tt.want {
			t.Errorf("%s: %+v, want %+v", name, got, tt.want)
		}
	}
	// A root may go back to a lower epoch; the mark of the higher one says nothing there.
	k := c.Kept()
	k.Announcements, k.Marks = nil, []announce.Mark{{Product: "xo-os", Epoch: 9, Seq: 99}}
	d, err := announce.Restore(k)
	if err != nil {
		t.Fatal(err)
	}
	if res := d.Add(sign(t, release(7, "a"), 4)); res.Verdict != announce.Accept || d.Mark("xo-os") != (announce.Mark{Product: "xo-os", Epoch: 2, Seq: 7}) {
		t.Errorf("%+v, mark %+v", res, d.Mark("xo-os"))
	}
}

// TestOnlyOlderTimestampsAge: a timestamp is as old as one that is not dated later proves it to be.
func TestOnlyOlderTimestampsAge(t *testing.T) {
	heads := func(name string) []announce.TimestampHead {
		return []announce.TimestampHead{{Product: name, Epoch: 1, Seq: 1}}
	}
	for first, want := range map[int64]int64{-10: 60, 0: 50, 1: 100, 100: 100} { // how much later it is dated; when the other is taken to have come
		c := trusting(t)
		c.AddTimestamp(50, timestamp(t, issued+first, 1, heads("a"), 7))
		env := timestamp(t, issued, 1, heads("b"), 7)
		c.AddTimestamp(100, env)
		var got []int64
		for _, k := range c.Timestamps() {
			if bytes.Equal(k.Envelope, env) {
				got = append(got, k.Up)
			}
		}
		if len(got) != 1 || got[0] != want {
			t.Errorf("behind one that is dated %d seconds later: came at %v, want %d", first, got, want)
		}
	}
}
