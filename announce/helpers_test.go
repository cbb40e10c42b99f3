package announce_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/ipfs/go-cid"

	"satchel/announce"
)

// A second, independent writer of the formats: bytes are put together by hand, so that it can also write what
// the package never would.

func head(major byte, n uint64) []byte {
	switch {
	case n < 24:
		return []byte{major<<5 | byte(n)}
	case n < 1<<8:
		return []byte{major<<5 | 24, byte(n)}
	case n < 1<<16:
		return binary.BigEndian.AppendUint16([]byte{major<<5 | 25}, uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32([]byte{major<<5 | 26}, uint32(n))
	}
	return binary.BigEndian.AppendUint64([]byte{major<<5 | 27}, n)
}

func num(n uint64) []byte    { return head(0, n) }
func byt(b []byte) []byte    { return append(head(2, uint64(len(b))), b...) }
func txt(s string) []byte    { return append(head(3, uint64(len(s))), s...) }
func arr(v ...[]byte) []byte { return append(head(4, uint64(len(v))), bytes.Join(v, nil)...) }

// pair is one entry of a map; map order is the order given.
type pair struct {
	key uint64
	val []byte
}

func mapOf(p ...pair) []byte {
	out := head(5, uint64(len(p)))
	for _, e := range p {
		out = append(append(out, num(e.key)...), e.val...)
	}
	return out
}

// with returns p with the value of key replaced, added in order, or, when val is nil, taken out.
func with(p []pair, key uint64, val []byte) []pair {
	p = slices.Clone(p)
	p = slices.DeleteFunc(p, func(e pair) bool { return e.key == key })
	if val != nil {
		p = append(p, pair{key, val})
		slices.SortStableFunc(p, func(a, b pair) int { return int(a.key) - int(b.key) })
	}
	return p
}

const (
	dAnnouncement = "satchel/announcement/v1\x00"
	dRoot         = "satchel/root/v1\x00"
	dTimestamp    = "satchel/timestamp/v1\x00"
)

// seed makes the test keys: key n has 32 bytes n as its seed.
func seed(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

func pub(n byte) []byte { return ed25519.NewKeyFromSeed(seed(n)).Public().(ed25519.PublicKey) }

func keyID(n byte) []byte {
	sum := sha256.Sum256(append([]byte("satchel/key/v1\x00"), pub(n)...))
	return sum[:8]
}

func rawSig(domain string, payload []byte, n byte) []byte {
	return ed25519.Sign(ed25519.NewKeyFromSeed(seed(n)), append([]byte(domain), payload...))
}

func sigPair(id, sig []byte) []byte { return arr(byt(id), byt(sig)) }

// sealed is an envelope signed by keys, sorted by key id.
func sealed(domain string, payload []byte, keys ...byte) []byte {
	slices.SortFunc(keys, func(a, b byte) int { return bytes.Compare(keyID(a), keyID(b)) })
	var sigs [][]byte
	for _, n := range keys {
		sigs = append(sigs, sigPair(keyID(n), rawSig(domain, payload, n)))
	}
	return arr(byt(payload), arr(sigs...))
}

// ids is an array of the key ids, sorted.
func ids(keys ...byte) []byte {
	slices.SortFunc(keys, func(a, b byte) int { return bytes.Compare(keyID(a), keyID(b)) })
	var out [][]byte
	for _, n := range keys {
		out = append(out, byt(keyID(n)))
	}
	return arr(out...)
}

// cidBytes is the CID of a raw blob that holds s.
func cidBytes(s string) []byte {
	sum := sha256.Sum256([]byte(s))
	return append([]byte{1, 0x55, 0x12, 0x20}, sum[:]...)
}

// The cast: keys 1, 2, 3 are the root's (two must sign), 4 publishes xo-os, 5 publishes lessons.*, 6 may wake,
// 7 makes timestamps, 8 comes with root version 2 in place of 4, 9 is a stranger.

func private(n byte) announce.PrivateKey {
	k, err := announce.GenerateKey(bytes.NewReader(seed(n)))
	if err != nil {
		panic(err)
	}
	return k
}

func public(keys ...byte) (out []announce.PublicKey) {
	for _, n := range keys {
		out = append(out, private(n).Public())
	}
	return out
}

func kids(keys ...byte) (out []announce.KeyID) {
	for _, k := range public(keys...) {
		out = append(out, k.ID())
	}
	return out
}

func rootOne() *announce.Root {
	return &announce.Root{Version: 1, Issued: 1_790_000_000, Keys: public(1, 2, 3, 4, 5, 6, 7),
		Roles: map[announce.Role]announce.RoleRule{
			announce.RoleRoot:      {Keys: kids(1, 2, 3), Threshold: 2},
			announce.RoleTimestamp: {Keys: kids(7), Threshold: 1},
			announce.RoleWake:      {Keys: kids(6), Threshold: 1},
		},
		Products: []announce.ProductRule{
			{Pattern: "xo-os", Epoch: 2, Keys: kids(4), Threshold: 1, Floor: 3, Class: announce.ClassSystem, MayWake: true, MaySetuid: true},
			{Pattern: "lessons.*", Epoch: 1, Keys: kids(5), Threshold: 1, Class: announce.ClassContent},
		}}
}

// rootTwo takes key 4 away and puts key 8 in its place.
func rootTwo() *announce.Root {
	r := rootOne()
	r.Version, r.Keys = 2, public(1, 2, 3, 5, 6, 7, 8)
	r.Products[0].Keys = kids(8)
	return r
}

func release(seq uint64, content string) announce.Announcement {
	c, err := cid.Cast(cidBytes(content))
	if err != nil {
		panic(err)
	}
	return announce.Announcement{Product: "xo-os", RootVer: 1, Epoch: 2, Seq: seq, Version: "26.1", Manifest: c,
		ManifestSize: 1000, TotalSize: 5_000_000, Issued: 1_790_000_100}
}

func signRoot(t testing.TB, r *announce.Root, keys ...byte) []byte {
	t.Helper()
	env, err := r.Sign(privates(keys)...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func sign(t testing.TB, a announce.Announcement, keys ...byte) []byte {
	t.Helper()
	env, err := a.Sign(privates(keys)...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func privates(keys []byte) (out []announce.PrivateKey) {
	for _, n := range keys {
		out = append(out, private(n))
	}
	return out
}

// rootOneSigned is the envelope of root version 1, made once: fuzzing and properties need it often.
var rootOneSigned = sealed(dRoot, mapOf(rootPairs()...), 1, 2)

// trusting is a catalog that trusts root version 1.
func trusting(t testing.TB) *announce.Catalog {
	t.Helper()
	c := announce.NewCatalog()
	if err := c.Trust(rootOneSigned); err != nil {
		t.Fatal(err)
	}
	return c
}
