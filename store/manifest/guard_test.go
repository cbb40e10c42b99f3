package manifest_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"satchel/store/manifest"
)

// The tests of this file stand at single checks: what they offer is good but for one thing, or exactly at a limit.

func TestLargestOfEach(t *testing.T) {
	long := strings.Repeat("n", manifest.MaxComponent)
	var entries []manifest.Entry
	for n := 1; n <= 15; n++ {
		entries = append(entries, dir(strings.TrimSuffix(strings.Repeat(long+"/", n), "/")))
	}
	last := entries[14].Path + "/" + long[:100]
	path := last + "/" + long[:manifest.MaxPath-len(last)-1]
	raw := file("raw", "y")
	raw.Size = 256 << 10
	large := manifest.Entry{Path: "smallest", Type: manifest.File, Mode: 0o7777, Size: 16<<10 + 1, Blob: largeCID("x")}
	entries = append(entries, dir(last), file(path, "x"), raw, large)
	h := manifest.Header{Product: strings.Repeat("p", 64), Version: strings.Repeat("v", 64), Notes: strings.Repeat("n", 4096)}
	if _, err := manifest.Parse(wireForm(t, &manifest.Manifest{Header: h, Entries: entries})); err != nil {
		t.Error(err)
	}
}

func TestRefusedMore(t *testing.T) {
	sum := sha256.Sum256([]byte("x"))
	blob := func(hash, codec uint64, digest []byte) manifest.Entry {
		mh, err := multihash.Encode(digest, hash)
		if err != nil {
			t.Fatal(err)
		}
		return manifest.Entry{Path: "a", Type: manifest.File, Size: 20 << 10, Blob: cid.NewCidV1(codec, mh)}
	}
	l := link("a", "b")
	l.Blob = rawCID("x")
	loose := link("a", "b")
	loose.Mode = 0o1777
	extra := dir("a")
	extra.Mode = 0o10000
	for name, e := range map[string]manifest.Entry{
		"link with a blob": l, "sticky link": loose, "mode 010000": extra,
		"identity of 32 bytes": blob(multihash.IDENTITY, cid.Raw, sum[:]), "sha3 of 32 bytes": blob(multihash.SHA3_256, cid.Raw, sum[:]),
		"hash of 31 bytes": blob(multihash.SHA2_256, cid.Raw, sum[:31]), "hash of 33 bytes": blob(multihash.SHA2_256, cid.Raw, append(sum[:], 0)),
		"codec 0x50": blob(multihash.SHA2_256, 0x50, sum[:]), "codec 0x52": blob(multihash.SHA2_256, 0x52, sum[:]),
	} {
		if _, err := manifest.Parse(wireForm(t, &manifest.Manifest{Header: header, Entries: []manifest.Entry{e}})); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := manifest.Parse(wireForm(t, &manifest.Manifest{Header: header, Entries: []manifest.Entry{blob(multihash.SHA2_256, cid.Raw, sum[:])}})); err != nil {
		t.Errorf("the one that the others differ from: %v", err)
	}
}

func TestProductCharacters(t *testing.T) {
	for c := range 128 {
		want := strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789.-", rune(c))
		if err := manifest.CheckHeader(&manifest.Header{Product: string(rune(c))}); (err == nil) != want {
			t.Errorf("%q: %v", rune(c), err)
		}
	}
}

// TestNullIsNotEmpty: null reads as empty and is as long as what it should be.
func TestNullIsNotEmpty(t *testing.T) {
	good := wireForm(t, &manifest.Manifest{Header: manifest.Header{Product: "p"}, Entries: []manifest.Entry{dir("a")}})
	for i, b := range good {
		if b != 0x40 && b != 0x60 { // an empty byte string, an empty text
			continue
		}
		bad := bytes.Clone(good)
		bad[i] = 0xf6
		if _, err := manifest.Parse(bad); err == nil {
			t.Errorf("null at %d: taken", i)
		}
	}
	if bytes.Count(good, []byte{0x40}) != 1 || bytes.Count(good, []byte{0x60}) != 3 {
		t.Errorf("the test does not know its document %x", good)
	}
}

// TestLimitsComeFirst: what is beyond a limit is refused for that, before the rest is read.
func TestLimitsComeFirst(t *testing.T) {
	head := wireForm(t, &manifest.Manifest{Header: manifest.Header{Product: "p"}})
	said := func(n uint32) []byte {
		return append(head[:len(head)-1:len(head)-1], 0x9a, byte(n>>24), byte(n>>16), byte(n>>8), byte(n))
	}
	for name, tt := range map[string]struct {
		data  []byte
		limit bool
	}{
		"256 MiB":            {make([]byte, manifest.MaxSize), false},
		"256 MiB and a byte": {make([]byte, manifest.MaxSize+1), true},
		"a million":          {said(manifest.MaxEntries), false},
		"a million and one":  {said(manifest.MaxEntries + 1), true},
	} {
		if _, err := manifest.Parse(tt.data); err == nil || strings.Contains(err.Error(), "limit") != tt.limit {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestWriterEndsAtTheLimit: nobody publishes what nobody reads.
func TestWriterEndsAtTheLimit(t *testing.T) {
	t.Parallel()
	var body counter
	w := manifest.NewWriter(&body)
	for i := range manifest.MaxSize/4124 - 1 {
		if err := w.Add(link(fmt.Sprintf("%017d", i), strings.Repeat("x", 4095))); err != nil {
			t.Fatal(err)
		}
	}
	h := manifest.Header{Product: "p", Notes: strings.Repeat("n", 300)}
	first, err := w.Head(h)
	if err != nil {
		t.Fatal(err)
	}
	for room := manifest.MaxSize - int(body) - len(first); room > 4096-300; room = manifest.MaxSize - int(body) - len(first) {
		if err := w.Add(link(fmt.Sprintf("%017d", 1_000_000-room), strings.Repeat("x", 1000))); err != nil {
			t.Fatal(err)
		}
	}
	h.Notes += strings.Repeat("n", manifest.MaxSize-int(body)-len(first))
	if b, err := w.Head(h); err != nil || len(b)+int(body) != manifest.MaxSize {
		t.Errorf("exactly at the limit: %d bytes, %v", len(b)+int(body), err)
	}
	h.Notes += "n"
	if _, err := w.Head(h); err == nil {
		t.Error("one byte beyond the limit")
	}
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

func TestNamesOfWindows(t *testing.T) {
	for name, want := range map[string]string{`\a`: "names", `a\`: "names", "com¹": "names", "LPT².txt": "names", "com;": "none", "com0": "none", "com": "none",
		"com9": "names", "~1": "none", "A~1": "names"} {
		checkNeeds(t, parsed(t, "f 644 "+name), want, map[string]int{"names": 1}[want], 0)
	}
	checkNeeds(t, parsed(t, "f 644 @", "f 644 `", "f 644 [", "f 644 {"), "none", 0, 0)
}

// TestViolationsAreFew: each entry is named once for each permission, and the first ten are.
func TestViolationsAreFew(t *testing.T) {
	lines := []string{"l ! -> /etc"} // the first entry, and the last to be looked at
	for i := range 12 {
		lines = append(lines, fmt.Sprintf("f 7777 %02d", i))
	}
	var e *manifest.PolicyError
	if err := parsed(t, lines...).Check(manifest.Policy{}); !errors.As(err, &e) {
		t.Fatal(err)
	}
	if e.Entries != 13 || len(e.Violations) != 10 || e.Violations[0].Path != "!" || e.Violations[9].Path != "08" {
		t.Errorf("%d entries, %d violations: %v", e.Entries, len(e.Violations), e)
	}
}
