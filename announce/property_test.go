package announce_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"satchel/announce"
)

// document is something that a peer may send; with other it is evidence.
type document struct {
	env, other []byte
	root       bool
}

// documents is a pool in which much collides: two products, few seqs, few manifests, two wordings, keys that
// root version 2 takes away or brings, urgent ones with and without the wake role, and root version 2 itself.
func documents(t testing.TB) (pool []document) {
	add := func(a announce.Announcement, keys ...byte) {
		pool = append(pool, document{env: sign(t, a, keys...)})
	}
	for seq := uint64(3); seq < 6; seq++ {
		for _, content := range []string{"a", "b", "c"} {
			for _, version := range []string{"1", "one", "uno"} {
				a := release(seq, content)
				a.Version = version
				add(a, 4)
				a.Product, a.Epoch = "lessons.5b", 1
				add(a, 5)
			}
		}
		a := change(release(seq, "a"), func(a *announce.Announcement) { a.Urgent = true })
		add(a, 4)
		add(a, 4, 6)
		add(a, 4, 6, 9)
		a.RootVer = 2
		add(a, 8)
		add(a, 8, 6)
		add(a, 4, 8)
		add(a, 9)
		pool = append(pool, document{env: sign(t, release(seq, "a"), 4), other: sign(t, release(seq, "b"), 4)})
	}
	return append(pool, document{env: signRoot(t, rootTwo(), 1, 2), root: true})
}

// TestParsePrint: what is signed parses to the same, and signing that again gives the same bytes.
func TestParsePrint(t *testing.T) {
	product := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z0-9-]{1,20}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		seq := rapid.Uint64Min(1).Draw(t, "seq")
		c, err := cid.Cast(cidBytes(rapid.String().Draw(t, "content")))
		if err != nil {
			t.Fatal(err)
		}
		a := announce.Announcement{Product: product.Draw(t, "product"), RootVer: rapid.Uint64Min(1).Draw(t, "root"),
			Epoch: rapid.Uint64Min(1).Draw(t, "epoch"), Seq: seq, Version: rapid.StringMatching(`[!-~]{1,64}`).Draw(t, "version"),
			Manifest: c, ManifestSize: rapid.Uint64Range(1, 1<<50).Draw(t, "size"), TotalSize: rapid.Uint64Max(1<<50).Draw(t, "total"),
			Issued: rapid.Int64Min(0).Draw(t, "issued"), Expires: rapid.Int64Min(0).Draw(t, "expires"),
			Floor: rapid.Uint64Max(seq).Draw(t, "floor"), Urgent: rapid.Bool().Draw(t, "urgent"),
			MinUpdater: rapid.Uint64().Draw(t, "min updater"), Via: rapid.Uint64Max(seq-1).Draw(t, "via")}
		keys := privates([]byte{4, 6}[:rapid.IntRange(1, 2).Draw(t, "keys")])
		env, err := a.Sign(keys...)
		if err != nil {
			t.Fatal(err)
		}
		sa, err := announce.ParseAnnouncement(env)
		if err != nil || sa.Announcement != a {
			t.Fatalf("%+v came back as %+v, %v", a, sa, err)
		}
		slices.Reverse(keys)
		if again, err := sa.Announcement.Sign(keys...); err != nil || !bytes.Equal(again, env) {
			t.Fatalf("signed again: %v", err)
		}
	})
}

// TestRootParsePrint is the same for trust roots, from lists in any order.
func TestRootParsePrint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rootOne()
		r.Version, r.RenewBy = rapid.Uint64Min(1).Draw(t, "version"), rapid.Int64Min(0).Draw(t, "renew by")
		for i := range rapid.IntRange(0, 20).Draw(t, "products") {
			r.Products = append(r.Products, announce.ProductRule{Pattern: fmt.Sprintf("p%d.*", i), Epoch: rapid.Uint64Min(1).Draw(t, "epoch"),
				Keys: rapid.Permutation(kids(4, 5, 6)).Draw(t, "keys"), Threshold: rapid.IntRange(1, 3).Draw(t, "threshold"),
				Floor: rapid.Uint64().Draw(t, "floor"), Class: announce.ClassBookkeeping, MaySetuid: rapid.Bool().Draw(t, "setuid")})
		}
		env, err := r.Sign(private(1), private(2))
		if err != nil {
			t.Fatal(err)
		}
		r.Keys = rapid.Permutation(r.Keys).Draw(t, "key order")
		r.Products = rapid.Permutation(r.Products).Draw(t, "product order")
		if again, err := r.Sign(private(2), private(1)); err != nil || !bytes.Equal(again, env) {
			t.Fatalf("in another order: %v", err)
		}
		sr, err := announce.ParseRoot(env)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := sr.Root.Sign(private(1), private(2)); err != nil || !bytes.Equal(again, env) {
			t.Fatalf("parsed and signed again: %v", err)
		}
	})
}

// TestOrderDoesNotMatter: two catalogs that were told the same announcements, in whatever order and however
// often, are the same.
func TestOrderDoesNotMatter(t *testing.T) {
	pool := documents(t)
	pool = pool[:len(pool)-1] // without the root
	rapid.Check(t, func(rt *rapid.T) {
		told := rapid.SliceOfN(rapid.SampledFrom(pool), 1, 24).Draw(rt, "told")
		again := rapid.Permutation(told).Draw(rt, "in another order")
		c, d := trusting(t), trusting(t)
		for i := range told {
			offer(rt, c, told[i])
			offer(rt, d, again[i])
		}
		if c.Digest() != d.Digest() || !slices.Equal(c.Heads(), d.Heads()) {
			rt.Fatalf("two catalogs:\n%+v\n%+v", c.Heads(), d.Heads())
		}
		for _, h := range c.Heads() {
			if c.Urgent(noTime, h.Product) != d.Urgent(noTime, h.Product) {
				rt.Fatalf("%s is urgent for one only", h.Product)
			}
		}
	})
}

// TestExchangeConverges: with a rotation among the news one pass is not enough, for a release may have displaced
// an older one and then lost its key. Two nodes that go on telling each other what they hold end up equal, but for
// what one of them has had something newer of: that one does not go back, and waits for a newer number.
func TestExchangeConverges(t *testing.T) {
	pool := documents(t)
	root := pool[len(pool)-1]
	rapid.Check(t, func(rt *rapid.T) {
		c, d := trusting(t), trusting(t)
		for _, x := range []*announce.Catalog{c, d} {
			for _, doc := range rapid.SliceOfN(rapid.SampledFrom(pool), 0, 24).Draw(rt, "told") {
				offer(rt, x, doc)
			}
		}
		offer(rt, c, root)
		for range 3 {
			tell(rt, c, d)
			tell(rt, d, c)
		}
		beyond := func(h announce.Head) bool { // one of the two has seen more than this
			return c.Mark(h.Product).Seq > h.Seq || d.Mark(h.Product).Seq > h.Seq
		}
		left, right := slices.DeleteFunc(c.Heads(), beyond), slices.DeleteFunc(d.Heads(), beyond)
		if !slices.Equal(left, right) || len(c.Kept().Chain) != len(d.Kept().Chain) {
			rt.Fatalf("two catalogs:\n%+v\n%+v", c.Heads(), d.Heads())
		}
	})
}

// tell is a catalog exchange.
func tell(t *rapid.T, from, to *announce.Catalog) {
	for _, env := range from.Kept().Chain {
		offer(t, to, document{env: env, root: true})
	}
	for _, env := range from.Kept().Announcements {
		offer(t, to, document{env: env})
	}
	for _, e := range from.Evidence() {
		offer(t, to, document{env: e.A, other: e.B})
	}
}
