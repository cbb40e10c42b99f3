package announce_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"satchel/announce"
)

// Versions 1 to 3 of the vectors' chain, as payloads: 2 replaces a publisher, 3 hands the root role to keys 8 and 9.
func chainPayloads() (one, two, three []byte) {
	roles := slices.Clone(rolesOf())
	roles[0].val = arr(ids(8, 9), num(2))
	three = mapOf(with(with(with(rootTwoPairs(), 1, num(3)), 4, keyList(5, 6, 7, 8, 9)), 5, mapOf(roles...))...)
	return mapOf(rootPairs()...), mapOf(rootTwoPairs()...), three
}

func rootFileVectors() []vector {
	v := func(name, expect, comment string, parts ...[]byte) vector {
		return vector{"rootfile-" + name, expect, "root-file", "", comment, bytes.Join(parts, nil)}
	}
	p1, p2, p3 := chainPayloads()
	one, two, three := sealed(dRoot, p1, 1, 2), sealed(dRoot, p2, 1, 3), sealed(dRoot, p3, 1, 2, 8, 9)
	const form = "refuse form"
	return []vector{
		v("one", "accept", "one version", one),
		v("chain", "accept", "versions 1 to 3, the root role changes hands in 3", one, two, three),
		v("later", "accept", "versions 2 and 3: what 2 follows is not said", two, three),
		v("draft", "refuse trust", "version 2 without a signature", one, sealed(dRoot, p2)),
		v("draft-first", "refuse trust", "version 1 without a signature", sealed(dRoot, p1)),
		v("draft-half", "refuse trust", "version 2 signed by one of two", one, sealed(dRoot, p2, 3)),
		v("draft-old-only", "refuse trust", "version 3 signed by the keys of version 2 alone", one, two, sealed(dRoot, p3, 1, 2)),
		v("draft-new-only", "refuse trust", "version 3 signed by its own keys alone", one, two, sealed(dRoot, p3, 8, 9)),
		v("too-new", "refuse too-new", "version 2 has an unknown flag", one,
			sealed(dRoot, mapOf(with(rootTwoPairs(), 6, arr(ruleOf("xo-os", 2, ids(8), 1, 3, "system", 32)))...), 1, 3)),
		v("bad-empty", form, "no bytes at all"),
		v("bad-gap", form, "version 3 after version 1", one, three),
		v("bad-order", form, "version 1 after version 2", two, one),
		v("bad-twice", form, "version 1 twice", one, one),
		v("bad-half", form, "version 2 lacks a signature, and version 3 follows", one, sealed(dRoot, p2, 1), three),
		v("bad-unsigned", form, "version 2 has no signature, and version 3 follows", one, sealed(dRoot, p2), three),
		v("bad-first", form, "version 1 lacks a signature, and version 2 follows", sealed(dRoot, p1, 1), two),
		v("bad-trailing", form, "a line end after the last version", one, []byte("\n")),
		v("bad-truncated", form, "the last byte is missing", one, two[:len(two)-1]),
		v("bad-array", form, "an array of the versions", arr(one, two)),
		v("bad-announcement", form, "an announcement after version 1", one, sealed(dAnnouncement, mapOf(annPairs()...), 4)),
		v("bad-key", form, "a key file", []byte("satchel-public-key-v1 iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=\n")),
	}
}

// FuzzRootFile: a root file parses and prints as it was, or is an error; and what follows a draft is never taken.
func FuzzRootFile(f *testing.F) {
	addSeeds(f, "root-file", "root")
	if seeds, err := filepath.Glob("testdata/fuzz/FuzzRootFile/*"); err != nil || len(seeds) < 3 {
		f.Fatalf("%d seeds in testdata/fuzz (%v)", len(seeds), err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := announce.ParseRootFile(data)
		if err != nil {
			if file != nil {
				t.Fatal("an error and a file")
			}
			return
		}
		if !bytes.Equal(file.Encode(), data) {
			t.Fatal("printed, it is another")
		}
		complete, c := file.Verify() == nil, announce.NewCatalog()
		if err := c.TrustFile(data, false); (err == nil) != complete || complete != (c.RootVersion() == file.Last().Version) {
			t.Fatalf("complete %v, trusting: %v", complete, err)
		}
		res, err := file.Edit(time.Unix(1, 0), func(r *announce.Root) error { r.RenewBy++; return nil })
		if err != nil {
			return // it may know more than this program, or be too large
		}
		again, err := announce.ParseRootFile(file.Encode())
		if err != nil || !res.Changed || res.Begun != complete || again.Verify() == nil {
			t.Fatalf("edited: %+v, %v", res, err)
		}
	})
}

// fileOf is the root file of the steps.
func fileOf(t testing.TB, steps ...[]byte) *announce.RootFile {
	t.Helper()
	f, err := announce.ParseRootFile(bytes.Join(steps, nil))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// passedOn is the file as the next person reads it.
func passedOn(t testing.TB, f *announce.RootFile) *announce.RootFile {
	t.Helper()
	return fileOf(t, f.Encode())
}

func mustSign(t testing.TB, f *announce.RootFile, keys ...byte) {
	t.Helper()
	if err := f.Sign(privates(keys)...); err != nil {
		t.Fatal(err)
	}
}

var someday = time.Unix(1_790_000_500, 0)

func edit(t testing.TB, f *announce.RootFile, change func(*announce.Root)) announce.Edited {
	t.Helper()
	res, err := f.Edit(someday, func(r *announce.Root) error { change(r); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// toNewKeys hands the root role to keys 8 and 9.
func toNewKeys(r *announce.Root) {
	root := announce.Seat{Role: announce.RoleRoot}
	for _, k := range public(8, 9) {
		r.AddKey(k, root)
	}
	for _, id := range kids(1, 2, 3) {
		r.RemoveKey(id, root)
	}
}

func TestCeremony(t *testing.T) {
	f, err := announce.NewRootFile(rootOne())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := announce.ParseRoot(f.Encode()); err == nil {
		t.Error("a draft without signatures is a trust root")
	}
	for _, key := range []byte{1, 3} {
		f = passedOn(t, f)
		if f.Verify() == nil || announce.NewCatalog().TrustFile(f.Encode(), true) == nil {
			t.Fatalf("complete before key %d has signed", key)
		}
		mustSign(t, f, key)
	}
	c := announce.NewCatalog()
	if err := c.TrustFile(f.Encode(), false); err != nil {
		t.Fatal(err)
	}
	if res := edit(t, f, toNewKeys); !res.Begun || !res.Changed || res.Version != 2 || res.Dropped != nil {
		t.Errorf("%+v", res)
	}
	if r := f.Last(); r.Issued != someday.Unix() || len(r.Signers()) != 0 {
		t.Errorf("the draft is issued %d and signed by %v", r.Issued, r.Signers())
	}
	// Two pairs of people sign two copies at once.
	a, b := passedOn(t, f), passedOn(t, f)
	mustSign(t, a, 1, 8)
	mustSign(t, b, 2, 9)
	if a.Verify() == nil || b.Verify() == nil {
		t.Fatal("half is enough")
	}
	added, err := a.Merge(passedOn(t, b))
	if err != nil || !slices.Equal(added, sortedKids(2, 9)) {
		t.Errorf("merged %v, %v", added, err)
	}
	if err := a.Verify(); err != nil {
		t.Fatal(err)
	}
	if err := c.TrustFile(a.Encode(), false); err != nil || c.RootVersion() != 2 || len(c.RootChain()) != 2 {
		t.Errorf("version %d: %v", c.RootVersion(), err)
	}
}

func sortedKids(keys ...byte) []announce.KeyID {
	out := kids(keys...)
	slices.SortFunc(out, func(a, b announce.KeyID) int { return bytes.Compare(a[:], b[:]) })
	return out
}

func TestQuorums(t *testing.T) {
	one := signRoot(t, rootOne(), 1, 2)
	f := fileOf(t, one)
	edit(t, f, toNewKeys)
	mustSign(t, f, 1, 9)
	id := func(n byte) string { return kids(n)[0].String() }
	idList := func(keys ...byte) string {
		var out []string
		for _, k := range sortedKids(keys...) {
			out = append(out, k.String())
		}
		return strings.Join(out, ", ")
	}
	q := f.Quorums()
	if len(q) != 2 || q[0].Version != 1 || q[1].Version != 2 || q[0].Missing() != 1 || q[1].Missing() != 1 ||
		!slices.Equal(q[0].Signed, kids(1)) || !slices.Equal(q[1].Signed, kids(9)) ||
		!slices.Equal(q[0].CanSign(), sortedKids(2, 3)) || !slices.Equal(q[1].CanSign(), kids(8)) {
		t.Errorf("%+v", q)
	}
	want := "trust root version 2 lacks signatures: root role of version 1: 2 of 3 must sign, 1 has; 1 more of " + idList(2, 3) +
		" must; root role of version 2: 2 of 2 must sign, 1 has; 1 more of " + id(8) + " must"
	if err := f.Verify(); err == nil || err.Error() != want {
		t.Errorf("%v", err)
	}
	mustSign(t, f, 8, 2)
	if err := f.Verify(); err != nil {
		t.Error(err)
	}
	// A false signature of a key that should sign is named, and is replaced by a good one.
	_, p2, _ := chainPayloads()
	sigs := [][]byte{sigPair(keyID(1), make([]byte, 64)), sigPair(keyID(2), rawSig(dRoot, p2, 2))}
	slices.SortFunc(sigs, bytes.Compare)
	f = fileOf(t, one, arr(byt(p2), arr(sigs...)))
	if q := f.Quorums()[0]; !slices.Equal(q.False, kids(1)) || !slices.Equal(q.Signed, kids(2)) || !strings.Contains(q.String(), "the signature of "+id(1)+" is false") {
		t.Errorf("%v", q)
	}
	mustSign(t, f, 1)
	if err := f.Verify(); err != nil || f.Quorums()[0].False != nil {
		t.Error(err)
	}
}

func TestRootFileSignRefuses(t *testing.T) {
	f := fileOf(t, signRoot(t, rootOne(), 1, 2))
	edit(t, f, func(r *announce.Root) { r.RenewBy = 5 })
	before := f.Encode()
	for _, keys := range [][]byte{{9}, {4}, {1, 9}} { // a stranger, a publisher, one of each
		err := f.Sign(privates(keys)...)
		if last := kids(keys[len(keys)-1])[0].String(); err == nil || !strings.Contains(err.Error(), last) {
			t.Errorf("%v: %v", keys, err)
		}
		if !bytes.Equal(f.Encode(), before) {
			t.Fatal("a refused key changed the file")
		}
	}
	mustSign(t, f, 1)
	signed := f.Encode()
	mustSign(t, f, 1)
	if !bytes.Equal(f.Encode(), signed) {
		t.Error("signing again changed the file")
	}
}

func TestRootFileMergeRefuses(t *testing.T) {
	one := signRoot(t, rootOne(), 1, 2)
	begin := func(by int64) *announce.RootFile {
		f := fileOf(t, one)
		edit(t, f, func(r *announce.Root) { r.RenewBy = by })
		return f
	}
	f := begin(5)
	mustSign(t, f, 1)
	if _, err := f.Merge(begin(6)); err == nil || !strings.Contains(err.Error(), "do not say the same") {
		t.Errorf("another draft: %v", err)
	}
	if _, err := f.Merge(fileOf(t, one)); err == nil || !strings.Contains(err.Error(), "ends with version") {
		t.Errorf("another version: %v", err)
	}
	if added, err := f.Merge(passedOn(t, f)); err != nil || added != nil {
		t.Errorf("itself: %v, %v", added, err)
	}
	// Neither false signatures nor those of strangers come over, and a false one does not displace a good one.
	p := payloadOf(t, f.Last().Envelope())
	sigs := [][]byte{sigPair(keyID(1), make([]byte, 64)), sigPair(keyID(2), make([]byte, 64)), sigPair(keyID(9), rawSig(dRoot, p, 9))}
	slices.SortFunc(sigs, bytes.Compare)
	before := f.Encode()
	if added, err := f.Merge(fileOf(t, one, arr(byt(p), arr(sigs...)))); err != nil || added != nil || !bytes.Equal(f.Encode(), before) {
		t.Errorf("false ones: %v, %v", added, err)
	}
}

func TestEdit(t *testing.T) {
	one := signRoot(t, rootOne(), 1, 2)
	lessons, wide := announce.Seat{Pattern: "lessons.*"}, announce.Seat{Pattern: "*"}
	f := fileOf(t, one)
	if res := edit(t, f, func(r *announce.Root) { r.AddKey(public(5)[0], lessons) }); res.Changed || res.Version != 1 || !bytes.Equal(f.Encode(), one) {
		t.Errorf("an edit that changes nothing: %+v", res)
	}
	if res := edit(t, f, func(r *announce.Root) { r.AddKey(public(8)[0], lessons) }); !res.Begun || res.Version != 2 {
		t.Errorf("%+v", res)
	}
	mustSign(t, f, 1)
	signed := f.Encode()
	if res := edit(t, f, func(r *announce.Root) { r.AddKey(public(8)[0], lessons) }); res.Changed || !bytes.Equal(f.Encode(), signed) {
		t.Errorf("changes nothing in a draft: %+v", res)
	}
	if res := edit(t, f, func(r *announce.Root) { r.Products[0].Threshold = 2 }); res.Begun || res.Version != 2 || !slices.Equal(res.Dropped, kids(1)) {
		t.Errorf("a draft changed: %+v", res)
	}
	if f.Last().Signers() == nil || len(f.Last().Signers()) != 0 {
		t.Error("signatures of what was before are still there")
	}
	res := edit(t, f, func(r *announce.Root) { r.RemoveKey(kids(8)[0], lessons); r.Products[0].Threshold = 1 })
	if !res.Undone || res.Version != 1 || !bytes.Equal(f.Encode(), one) {
		t.Errorf("undone: %+v", res)
	}
	failed := errors.New("no")
	if _, err := f.Edit(someday, func(r *announce.Root) error { r.RenewBy = 9; return failed }); err != failed || !bytes.Equal(f.Encode(), one) {
		t.Errorf("%v", err)
	}
	if _, err := f.Edit(someday, func(r *announce.Root) error { r.Products[0].Threshold = 7; return nil }); err == nil || !bytes.Equal(f.Encode(), one) {
		t.Error("a threshold that nobody can meet")
	}
	// A new rule goes on with the epoch and the floor that counted for its products, and may do nothing more.
	edit(t, f, func(r *announce.Root) {
		r.Products[1].Epoch, r.Products[1].Floor = 5, 7 // xo-os
		r.AddKey(public(8)[0], wide)
		r.AddKey(public(8)[0], announce.Seat{Pattern: "lessons.5b.*"})
	})
	mustSign(t, f, 1, 2)
	for pattern, want := range map[string]announce.ProductRule{"lessons.5b.*": {Epoch: 1, Threshold: 1}, "*": {Epoch: 1, Threshold: 1}} {
		want.Pattern, want.Keys, want.Class = pattern, kids(8), announce.ClassContent
		if got := f.Last().Product(pattern); fmt.Sprint(*got) != fmt.Sprint(want) {
			t.Errorf("%+v", got)
		}
	}
	edit(t, f, func(r *announce.Root) { r.AddKey(public(8)[0], announce.Seat{Pattern: "xo-os.*"}) }) // covered by * alone
	if p := f.Last().Product("xo-os.*"); p.Epoch != 1 || p.Floor != 0 {
		t.Errorf("%+v", p)
	}
}

// A time before 1970 must not make a root that nobody can read.
func TestEditWithoutClock(t *testing.T) {
	f := fileOf(t, signRoot(t, rootOne(), 1, 2))
	if _, err := f.Edit(time.Unix(-5, 0), func(r *announce.Root) error { r.RenewBy = 9; return nil }); err != nil || f.Last().Issued != 0 {
		t.Error(err)
	}
	passedOn(t, f)
}

func TestEditNeverLeadsBack(t *testing.T) {
	first := rootOne()
	first.Products = append(first.Products, announce.ProductRule{Pattern: "lessons.5b.*", Epoch: 4, Floor: 9, Keys: kids(4), Threshold: 1, Class: announce.ClassContent})
	one := signRoot(t, first, 1, 2)
	rule := func(pattern string, change func(*announce.ProductRule)) func(*announce.Root) {
		return func(r *announce.Root) { change(r.Product(pattern)) }
	}
	for name, tt := range map[string]struct {
		change func(*announce.Root)
		ok     bool
	}{
		"epoch down":              {rule("xo-os", func(p *announce.ProductRule) { p.Epoch = 1 }), false},
		"epoch up, floor down":    {rule("xo-os", func(p *announce.ProductRule) { p.Epoch, p.Floor = 3, 0 }), true},
		"floor down":              {rule("xo-os", func(p *announce.ProductRule) { p.Floor = 2 }), false},
		"floor up":                {rule("xo-os", func(p *announce.ProductRule) { p.Floor = 4 }), true},
		"rule gone, none wider":   {func(r *announce.Root) { r.DropSeat(announce.Seat{Pattern: "xo-os"}) }, true},
		"rule gone, wider behind": {func(r *announce.Root) { r.DropSeat(announce.Seat{Pattern: "lessons.5b.*"}) }, false},
		"rule gone, wider raised": {func(r *announce.Root) {
			r.DropSeat(announce.Seat{Pattern: "lessons.5b.*"})
			r.Product("lessons.*").Epoch = 5
		}, true},
		"narrower behind": {func(r *announce.Root) {
			r.Products = append(r.Products, announce.ProductRule{Pattern: "lessons.5b.maths", Epoch: 3, Floor: 10, Keys: kids(4), Threshold: 1, Class: announce.ClassContent})
		}, false},
	} {
		f := fileOf(t, one)
		res, err := f.Edit(someday, func(r *announce.Root) error { tt.change(r); return nil })
		var back *announce.BackwardError
		if tt.ok != (err == nil) || tt.ok != res.Changed || !tt.ok && (!errors.As(err, &back) || !bytes.Equal(f.Encode(), one)) {
			t.Errorf("%s: %+v, %v", name, res, err)
		}
	}
	// A rule that was gone for a version comes back where it was.
	f := fileOf(t, one)
	edit(t, f, func(r *announce.Root) { r.DropSeat(announce.Seat{Pattern: "xo-os"}) })
	mustSign(t, f, 1, 2)
	edit(t, f, func(r *announce.Root) { r.AddKey(public(8)[0], announce.Seat{Pattern: "xo-os"}) })
	if p := f.Last().Product("xo-os"); p.Epoch != 2 || p.Floor != 3 {
		t.Errorf("%+v", p)
	}
	if _, err := f.Edit(someday, func(r *announce.Root) error { r.Product("xo-os").Epoch = 1; return nil }); err == nil {
		t.Error("below an epoch of two versions ago")
	}
}

func TestEditRefuses(t *testing.T) {
	later := func(r *announce.Root) error { r.RenewBy = 9; return nil }
	p1, _, p3 := chainPayloads()
	f := fileOf(t, sealed(dRoot, mapOf(with(rootPairs(), 64, num(1))...), 1, 2))
	if _, err := f.Edit(someday, later); !errors.Is(err, announce.ErrTooNew) {
		t.Errorf("what this program does not know would be lost: %v", err)
	}
	f = fileOf(t, sealed(dRoot, p3))
	if _, err := f.Edit(someday, later); err == nil || !strings.Contains(err.Error(), "without version 2") {
		t.Errorf("a draft without what it follows: %v", err)
	}
	f = fileOf(t, sealed(dRoot, mapOf(with(rootPairs(), 1, num(math.MaxUint64))...), 1, 2))
	if _, err := f.Edit(someday, later); err == nil || !strings.Contains(err.Error(), "is the last one") {
		t.Errorf("after the last version: %v", err)
	}
	many := func(r *announce.Root) error {
		for i := range 900 {
			r.Products = append(r.Products, announce.ProductRule{Pattern: fmt.Sprintf("%s.%03d", strings.Repeat("a", 44), i), Epoch: 1,
				Keys: kids(4), Threshold: 1, Class: announce.ClassContent})
		}
		return nil
	}
	f = fileOf(t, sealed(dRoot, p1, 1, 2))
	if _, err := f.Edit(someday, many); err == nil || !strings.Contains(err.Error(), "no room for signatures") {
		t.Errorf("a root that cannot be signed: %v", err)
	}
	two := rootTwo()
	if _, err := announce.NewRootFile(two); err == nil {
		t.Error("a chain that begins with version 2")
	}
}

func TestRootFileLimits(t *testing.T) {
	step := func(v uint64) []byte {
		r := &announce.Root{Version: v, Keys: public(1), Roles: map[announce.Role]announce.RoleRule{announce.RoleRoot: {Keys: kids(1), Threshold: 1}}}
		return signRoot(t, r, 1)
	}
	var data []byte
	for v := range uint64(announce.MaxRootSteps) {
		data = append(data, step(v+1)...)
	}
	f := fileOf(t, data)
	if _, err := announce.ParseRootFile(append(data, step(65)...)); err == nil || !strings.Contains(err.Error(), "more than 64") {
		t.Errorf("65 versions: %v", err)
	}
	res := edit(t, f, func(r *announce.Root) { r.RenewBy = 9 })
	if !res.Cut || len(f.Steps()) != announce.MaxRootSteps || f.Steps()[0].Version != 2 || f.Last().Version != 65 {
		t.Errorf("%+v, from version %d", res, f.Steps()[0].Version)
	}
	passedOn(t, f)
	if _, err := announce.ParseRootFile(make([]byte, announce.MaxRootFile+1)); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("a file above the limit: %v", err)
	}
	long := arr(byt(make([]byte, announce.MaxRootEnvelope)), arr())
	if _, err := announce.ParseRootFile(append(long, step(1)...)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a version above the limit: %v", err)
	}
	// A draft that somebody made so large that nobody can sign it.
	p1, _, _ := chainPayloads()
	large := mapOf(with(rootPairs(), 64, byt(make([]byte, announce.MaxRootEnvelope-len(p1)-20)))...)
	f = fileOf(t, sealed(dRoot, large))
	if err := f.Sign(private(1)); err == nil || !strings.Contains(err.Error(), "limit 65536") {
		t.Errorf("%v", err)
	}
	// 64 strangers' signatures leave no room for a good one.
	var strangers []byte
	for n := range byte(64) {
		strangers = append(strangers, 100+n)
	}
	f = fileOf(t, sealed(dRoot, p1, strangers...))
	if err := f.Sign(private(1)); err == nil || !strings.Contains(err.Error(), "65 signatures") {
		t.Errorf("%v", err)
	}
}

// TestOvertake: what a thief announced, up to the last number, is older than the first release of the new epoch; it
// does not matter how he numbered it, nor under which of the rules that the key could sign.
func TestOvertake(t *testing.T) {
	first := rootOne()
	first.Products[0].Keys = kids(4, 8) // xo-os
	first.Keys = public(1, 2, 3, 4, 5, 6, 7, 8)
	f := fileOf(t, signRoot(t, first, 1, 2))
	c := announce.NewCatalog()
	if err := c.TrustFile(f.Encode(), false); err != nil {
		t.Fatal(err)
	}
	if res := c.Add(sign(t, release(math.MaxUint64, "thief"), 4)); res.Verdict != announce.Accept {
		t.Fatal(res)
	}
	stolen, old := kids(4)[0], f.Complete()
	for range 2 { // once more changes nothing
		edit(t, f, func(r *announce.Root) {
			r.AddKey(public(8)[0], announce.Seat{Pattern: "xo-os"})
			for _, s := range r.Seats() {
				r.RemoveKey(stolen, s)
			}
			if patterns, err := old.Overtake(r, stolen); err != nil || !slices.Equal(patterns, []string{"xo-os"}) {
				t.Errorf("%v, %v", patterns, err)
			}
		})
	}
	r := f.Last()
	if p := r.Product("xo-os"); p.Epoch != 3 || p.Floor != 0 || r.Product("lessons.*").Epoch != 1 || slices.Contains(r.Keys, public(4)[0]) {
		t.Errorf("%+v", r.Root)
	}
	mustSign(t, f, 1, 3)
	if err := c.TrustFile(f.Encode(), false); err != nil {
		t.Fatal(err)
	}
	good := change(release(1, "good"), func(a *announce.Announcement) { a.RootVer, a.Epoch = 2, 3 })
	if res := c.Add(sign(t, good, 8)); res.Verdict != announce.Accept {
		t.Errorf("%+v", res)
	}
	if a, _, ok := c.Latest("xo-os"); !ok || a.Seq != 1 || a.Epoch != 3 {
		t.Errorf("%+v", a)
	}
	// A rule that goes leaves its products to a wider one, which must be above them; so must a narrower one that comes.
	first.Products = append(first.Products, announce.ProductRule{Pattern: "*", Epoch: 1, Keys: kids(5), Threshold: 1, Class: announce.ClassContent})
	f = fileOf(t, signRoot(t, first, 1, 2))
	edit(t, f, func(r *announce.Root) {
		r.DropSeat(announce.Seat{Pattern: "xo-os"})
		if patterns, err := first.Overtake(r, stolen); err != nil || !slices.Equal(patterns, []string{"*"}) {
			t.Errorf("%v, %v", patterns, err)
		}
		r.AddKey(public(8)[0], announce.Seat{Pattern: "xo-os.kernel"})
	})
	if r := f.Last(); r.Product("*").Epoch != 3 || r.Product("xo-os.kernel").Epoch != 3 || r.Product("lessons.*").Epoch != 1 {
		t.Errorf("%+v", r.Products)
	}
	// A rule that is new in this version, and one that has a greater epoch already.
	first.Product("*").Keys = kids(4)
	next := rootOne()
	next.AddKey(public(8)[0], announce.Seat{Pattern: "new"})
	next.Product("xo-os").Epoch, next.Product("xo-os").Floor = 9, 5
	if patterns, err := first.Overtake(next, stolen); err != nil || !slices.Equal(patterns, []string{"xo-os", "new"}) {
		t.Errorf("%v, %v", patterns, err)
	}
	if p, q := next.Product("new"), next.Product("xo-os"); p.Epoch != 2 || q.Epoch != 9 || q.Floor != 5 {
		t.Errorf("%+v, %+v", p, q)
	}
	last := rootOne()
	last.Products[0].Epoch = math.MaxUint64
	if _, err := last.Overtake(rootOne(), stolen); err == nil {
		t.Error("beyond the last epoch")
	}
}

func TestTrustFile(t *testing.T) {
	p1, p2, p3 := chainPayloads()
	one, two, three := sealed(dRoot, p1, 1, 2), sealed(dRoot, p2, 1, 3), sealed(dRoot, p3, 1, 2, 8, 9)
	fork := sealed(dRoot, mapOf(with(rootTwoPairs(), 2, num(1_790_000_001))...), 1, 3) // another version 2, as well signed
	var forkThree []byte
	{
		f := fileOf(t, one, fork)
		edit(t, f, toNewKeys)
		mustSign(t, f, 1, 2, 8, 9)
		forkThree = f.Last().Envelope()
	}
	foreign := rootOne()
	foreign.Keys = public(4, 5, 6, 7, 9)
	foreign.Roles[announce.RoleRoot] = announce.RoleRule{Keys: kids(9), Threshold: 1}
	other := signRoot(t, foreign, 9)
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	const another, rewritten, older = "this is another trust root", "history of this trust root was rewritten", "which is trusted already"
	for name, tt := range map[string]struct {
		have  []byte // a root file that is trusted before, nil: nothing
		file  []byte
		force bool
		want  uint64 // version afterwards
		chain int    // length afterwards
		err   string // "": taken
	}{
		"first":                    {nil, one, false, 1, 1, ""},
		"first, a chain":           {nil, join(one, two, three), false, 3, 3, ""},
		"first, a later chain":     {nil, join(two, three), false, 3, 2, ""},
		"first, a draft":           {nil, join(one, sealed(dRoot, p2, 1)), false, 0, 0, "version 2 lacks signatures: root role of version 1: 2 of 3 must sign, 1 has"},
		"first, unsigned":          {nil, sealed(dRoot, p1), false, 0, 0, "lacks signatures"},
		"first, broken":            {nil, join(one, three), false, 0, 0, "version 3 stands after version 1"},
		"the same":                 {one, one, false, 1, 1, ""},
		"the same chain":           {join(one, two), join(one, two), false, 2, 2, ""},
		"the newest alone":         {join(one, two), two, false, 2, 2, ""},
		"on from the first":        {one, join(one, two, three), false, 3, 3, ""},
		"on from the middle":       {join(one, two), join(one, two, three), false, 3, 3, ""},
		"the next alone":           {one, two, false, 2, 2, ""},
		"the next two":             {one, join(two, three), false, 3, 3, ""},
		"a gap":                    {one, three, false, 1, 1, "trust root version 3 does not follow version 1"},
		"older, alone":             {join(one, two), one, false, 2, 2, older},
		"older, a chain":           {join(one, two, three), join(one, two), false, 3, 3, older},
		"before ours":              {two, one, false, 2, 1, another},
		"from before ours":         {two, join(one, two, three), false, 3, 2, ""},
		"another":                  {one, other, false, 1, 1, another},
		"another, ours is newer":   {join(one, two), other, false, 2, 2, another},
		"rewritten":                {join(one, two), join(one, fork), false, 2, 2, rewritten},
		"rewritten, and newer":     {join(one, two), join(one, fork, forkThree), false, 2, 2, rewritten},
		"rewritten, alone":         {join(one, two), fork, false, 2, 2, another},
		"draft of what comes next": {one, join(one, sealed(dRoot, p2)), false, 1, 1, "lacks signatures"},
		"good, then not following": {one, join(fork, forkThree, sealed(dRoot, p3)), false, 1, 1, "version 3 stands after version 3"},
		"by force":                 {join(one, two), other, true, 1, 1, ""},
		"by force, a chain":        {other, join(one, two), true, 2, 2, ""},
		"by force, rewritten":      {join(one, two), join(one, fork), true, 2, 2, ""},
		"by force, a draft":        {one, join(one, sealed(dRoot, p2)), true, 1, 1, "lacks signatures"},
		"empty":                    {one, nil, false, 1, 1, "empty"},
	} {
		t.Run(name, func(t *testing.T) {
			c := announce.NewCatalog()
			if tt.have != nil {
				if err := c.TrustFile(tt.have, false); err != nil {
					t.Fatal(err)
				}
				c.Add(sign(t, change(release(2, "l"), func(a *announce.Announcement) { a.Product, a.Epoch, a.RootVer = "lessons.5b", 1, c.RootVersion() }), 5))
			}
			before, heads := c.Digest(), len(c.Heads())
			err := c.TrustFile(tt.file, tt.force)
			if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Fatalf("%v", err)
			}
			if c.RootVersion() != tt.want || len(c.RootChain()) != tt.chain {
				t.Errorf("version %d, a chain of %d", c.RootVersion(), len(c.RootChain()))
			}
			if err != nil && (c.Digest() != before || len(c.Heads()) != heads) {
				t.Error("an error changed the catalog")
			}
			if k, err := announce.Restore(c.Kept()); err != nil || k.Digest() != c.Digest() {
				t.Errorf("kept and restored: %v", err)
			}
		})
	}
}

// TestTrustFileDrops: what the newest root of the file no longer covers goes, also when several versions come at once.
func TestTrustFileDrops(t *testing.T) {
	c := trusting(t)
	c.Add(sign(t, release(7, "a"), 4))
	p1, p2, p3 := chainPayloads()
	file := bytes.Join([][]byte{sealed(dRoot, p1, 1, 2), sealed(dRoot, p2, 1, 3), sealed(dRoot, p3, 1, 2, 8, 9)}, nil)
	if err := c.TrustFile(file, false); err != nil {
		t.Fatal(err)
	}
	if _, _, ok := c.Latest("xo-os"); ok {
		t.Error("the release of a revoked key is still here")
	}
	step := c.RootChain()[2]
	if res := trusting(t).AddRoot(step.Envelope); res.Verdict != announce.Ignore || !res.NeedRoot {
		t.Errorf("what the file gave is not what the mesh carries: %+v", res)
	}
}
