package announce_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"satchel/announce"
)

// addSeeds gives the fuzzer every vector of the kinds; no vectors, no fuzzing.
func addSeeds(f *testing.F, kinds ...string) {
	f.Helper()
	all, n := loadVectors(f), 0
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if v := all[name]; slices.Contains(kinds, v.kind) {
			f.Add(v.data)
			n++
		}
	}
	if n < 10 {
		f.Fatalf("%d seeds for %v", n, kinds)
	}
}

func payloadOf(t testing.TB, envelope []byte) []byte {
	t.Helper()
	var parts []cbor.RawMessage
	var payload []byte
	if err := cbor.Unmarshal(envelope, &parts); err != nil {
		t.Fatal(err)
	}
	if err := cbor.Unmarshal(parts[0], &payload); err != nil {
		t.Fatal(err)
	}
	return payload
}

// samePayload checks that what was parsed prints as it was. Keys that only a later program knows are not
// printed again; everything else must be there to the byte.
func samePayload(t *testing.T, data, again []byte) {
	t.Helper()
	want, got := payloadOf(t, data), payloadOf(t, again)
	var m map[uint64]cbor.RawMessage
	if err := cbor.Unmarshal(want, &m); err != nil {
		t.Fatal(err)
	}
	for k := range m {
		if k >= 64 {
			return
		}
	}
	if !bytes.Equal(want, got) {
		t.Fatalf("parsed and printed:\n%x\n%x", want, got)
	}
}

func FuzzAnnouncement(f *testing.F) {
	addSeeds(f, "announcement")
	f.Fuzz(func(t *testing.T, data []byte) {
		sa, err := announce.ParseAnnouncement(data)
		if err != nil {
			if sa != nil {
				t.Fatal("an error and a document")
			}
			return
		}
		if !bytes.Equal(sa.Envelope(), data) || len(data) > announce.MaxEnvelope {
			t.Fatal("the envelope is another")
		}
		again, err := sa.Announcement.Sign(private(4))
		if err != nil {
			t.Fatalf("parsed, but cannot be signed: %v", err)
		}
		samePayload(t, data, again)
	})
}

func FuzzRoot(f *testing.F) {
	addSeeds(f, "root")
	f.Fuzz(func(t *testing.T, data []byte) {
		sr, err := announce.ParseRoot(data)
		if err != nil {
			if sr != nil {
				t.Fatal("an error and a document")
			}
			return
		}
		if !bytes.Equal(sr.Envelope(), data) || len(data) > announce.MaxRootEnvelope {
			t.Fatal("the envelope is another")
		}
		again, err := sr.Root.Sign(private(1))
		if err != nil {
			if len(data) < announce.MaxRootEnvelope-200 { // there may be no room for another signature
				t.Fatalf("parsed, but cannot be signed: %v", err)
			}
			return
		}
		samePayload(t, data, again)
		_ = announce.VerifyGenesis(sr)
		_ = announce.VerifyRotation(rootOne(), sr)
	})
}

func FuzzTimestamp(f *testing.F) {
	addSeeds(f, "timestamp")
	f.Fuzz(func(t *testing.T, data []byte) {
		st, err := announce.ParseTimestamp(data)
		if err != nil {
			if st != nil {
				t.Fatal("an error and a document")
			}
			return
		}
		again, err := st.Timestamp.Sign(private(7))
		if err != nil {
			if len(data) < announce.MaxTimestampEnvelope-200 {
				t.Fatalf("parsed, but cannot be signed: %v", err)
			}
			return
		}
		samePayload(t, data, again)
		_ = rootOne().VerifyTimestamp(st)
	})
}

// FuzzKeyFiles: a key file holds exactly the one line that its key is printed as, and comments.
func FuzzKeyFiles(f *testing.F) {
	addSeeds(f, "public-key", "private-key")
	f.Fuzz(func(t *testing.T, data []byte) {
		var lines [][]byte
		for line := range bytes.SplitSeq(data, []byte("\n")) {
			line = bytes.Trim(line, " \t\r")
			if len(line) > 0 && line[0] != '#' {
				word, rest, _ := bytes.Cut(line, []byte(" "))
				lines = append(lines, slices.Concat(word, []byte(" "), bytes.TrimLeft(rest, " "), []byte("\n")))
			}
		}
		check := func(text []byte, err error) {
			if err != nil || len(lines) != 1 || !bytes.Equal(text, lines[0]) {
				t.Fatalf("%q is printed as %q, %v", data, text, err)
			}
		}
		p, err := announce.ParsePublicKey(data)
		if err == nil {
			check(p.MarshalText())
		} else if p != (announce.PublicKey{}) {
			t.Fatal("an error and a key")
		}
		k, err := announce.ParsePrivateKey(data)
		if err == nil {
			check(k.MarshalText())
		} else if k != (announce.PrivateKey{}) {
			t.Fatal("an error and a key")
		}
	})
}

// FuzzCatalog plays a script of well-signed documents, and one document of the fuzzer's own. Whatever comes,
// a verdict other than accept changes nothing, numbers do not fall, and a catalog that was kept is the same again.
func FuzzCatalog(f *testing.F) {
	pool := documents(f)
	all := loadVectors(f)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		v := all[name]
		if v.expect != "refuse form" && (v.kind == "announcement" || v.kind == "root") {
			f.Add([]byte{0, 9, 4, 200}, v.data)
		}
	}
	f.Fuzz(func(t *testing.T, script, doc []byte) {
		if len(script) > 16 {
			return // a signature costs far more than anything else here
		}
		c := trusting(t)
		for i, op := range script {
			offer(t, c, pool[int(op)%len(pool)])
			if i == len(script)/2 {
				offer(t, c, document{env: doc})
				offer(t, c, document{env: doc, root: true})
				offer(t, c, document{env: doc, other: pool[int(op)%len(pool)].env})
			}
		}
		if d := restored(t, c); d.Digest() != c.Digest() || !slices.Equal(d.Heads(), c.Heads()) {
			t.Fatal("kept and restored, the catalog is another")
		}
	})
}

// offer offers one document and checks what must always hold.
func offer(t interface {
	Helper()
	Fatalf(string, ...any)
}, c *announce.Catalog, d document) {
	t.Helper()
	before, heads, version := c.Digest(), c.Heads(), c.RootVersion()
	var res announce.Result
	switch {
	case d.root:
		res = c.AddRoot(d.env)
	case d.other != nil:
		res = c.AddEvidence(d.env, d.other)
	default:
		res = c.Add(d.env)
	}
	if res.Verdict == announce.Accept == (c.Digest() == before) && d.other == nil {
		t.Fatalf("%+v, but the digest says otherwise", res)
	}
	if c.RootVersion() < version || c.RootVersion() > version && !d.root {
		t.Fatalf("root version %d became %d", version, c.RootVersion())
	}
	after := map[string]announce.Head{}
	for _, h := range c.Heads() {
		after[h.Product] = h
	}
	for _, h := range heads {
		now, ok := after[h.Product]
		if !d.root && (!ok || now.Epoch < h.Epoch || now.Epoch == h.Epoch && now.Seq < h.Seq) {
			t.Fatalf("%+v became %+v", h, now)
		}
		if !d.root && h.Refused && now.Seq == h.Seq && !now.Refused {
			t.Fatalf("%+v is no longer refused", h)
		}
	}
}
