package manifest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"pgregory.net/rapid"
	"satchel/store/manifest"
)

// rawCID is the CID of a blob of one chunk, largeCID one of a blob whose chunk list is data.
func rawCID(data string) cid.Cid   { return newCID(cid.Raw, data) }
func largeCID(data string) cid.Cid { return newCID(0x51, data) }

func newCID(codec uint64, data string) cid.Cid {
	sum := sha256.Sum256([]byte(data))
	mh, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil {
		panic(err)
	}
	return cid.NewCidV1(codec, mh)
}

func file(path, data string) manifest.Entry {
	return manifest.Entry{Path: path, Type: manifest.File, Mode: 0o644, Size: uint64(len(data)), Blob: rawCID(data)}
}

func dir(path string) manifest.Entry {
	return manifest.Entry{Path: path, Type: manifest.Dir, Mode: 0o755}
}

func link(path, target string) manifest.Entry {
	return manifest.Entry{Path: path, Type: manifest.Symlink, Mode: 0o777, Link: target}
}

var header = manifest.Header{Product: "lessons.maths", Epoch: 1, Seq: 7, Version: "2026.3", Notes: "New: fractions.\n"}

func lessons() *manifest.Manifest {
	return &manifest.Manifest{Header: header, Entries: []manifest.Entry{
		dir("fractions"),
		file("fractions/intro.html", "one half"),
		{Path: "fractions/movie", Type: manifest.File, Mode: 0o600, Size: 1 << 20, Blob: largeCID("list")},
		file("fractions-again", "one half"),
		file("fractions.txt", ""),
		link("start.html", "fractions/intro.html"),
	}}
}

func TestRoundTrip(t *testing.T) {
	m := lessons()
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := manifest.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, m) {
		t.Errorf("got %+v\nwant %+v", got, m)
	}
	if got, want := m.TotalSize(), uint64(8+1<<20+8); got != want {
		t.Errorf("TotalSize = %d, want %d", got, want)
	}
	blobs := m.Blobs()
	want := []manifest.Blob{{rawCID("one half"), 8, 0o644}, {largeCID("list"), 1 << 20, 0o600}, {rawCID(""), 0, 0o644}}
	if !slices.Equal(blobs, want) {
		t.Errorf("Blobs = %v, want %v", blobs, want)
	}
}

func TestWriterGivesTheSameBytes(t *testing.T) {
	m := lessons()
	want, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	var body bytes.Buffer
	w := manifest.NewWriter(&body)
	for _, e := range m.Entries {
		if err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	head, err := w.Head(m.Header)
	if err != nil {
		t.Fatal(err)
	}
	if got := append(head, body.Bytes()...); !bytes.Equal(got, want) {
		t.Errorf("got %x\nwant %x", got, want)
	}
	if w.Count() != len(m.Entries) || w.TotalSize() != m.TotalSize() {
		t.Errorf("Count %d, TotalSize %d", w.Count(), w.TotalSize())
	}
}

func TestWriterStaysBroken(t *testing.T) {
	w := manifest.NewWriter(new(bytes.Buffer))
	first := w.Add(dir("/"))
	if first == nil {
		t.Fatal("absolute path accepted")
	}
	if err := w.Add(dir("a")); !errors.Is(err, first) {
		t.Errorf("second Add: %v", err)
	}
	if _, err := w.Head(header); !errors.Is(err, first) {
		t.Errorf("Head: %v", err)
	}
}

// deep is a path of n components.
func deep(n int) string { return strings.TrimSuffix(strings.Repeat("d/", n), "/") }

func deepTree(n int) (entries []manifest.Entry) {
	for i := 1; i <= n; i++ {
		entries = append(entries, dir(deep(i)))
	}
	return entries
}

func TestRefusedEntries(t *testing.T) {
	long := strings.Repeat("n", manifest.MaxComponent)
	withMode := func(e manifest.Entry, mode uint32) manifest.Entry { e.Mode = mode; return e }
	withSize := func(e manifest.Entry, size uint64) manifest.Entry { e.Size = size; return e }
	withBlob := func(e manifest.Entry, c cid.Cid) manifest.Entry { e.Blob = c; return e }
	sum := sha256.Sum256(nil)
	sha1, err := multihash.Sum(nil, multihash.SHA1, -1)
	if err != nil {
		t.Fatal(err)
	}
	mh, err := multihash.Encode(sum[:], multihash.SHA2_256)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		entries []manifest.Entry
		want    string
	}{
		{"empty path", []manifest.Entry{dir("")}, "empty path"},
		{"dot", []manifest.Entry{dir(".")}, `component "."`},
		{"dot dot", []manifest.Entry{dir("..")}, `component ".."`},
		{"escape", []manifest.Entry{file("../x", "x")}, `component ".."`},
		{"inner escape", []manifest.Entry{dir("a"), file("a/../../x", "x")}, `component ".."`},
		{"absolute", []manifest.Entry{file("/etc/passwd", "x")}, "absolute"},
		{"double slash", []manifest.Entry{dir("a"), file("a//b", "x")}, `component ""`},
		{"trailing slash", []manifest.Entry{dir("a/")}, `component ""`},
		{"NUL", []manifest.Entry{file("a\x00b", "x")}, "U+0000"},
		{"newline", []manifest.Entry{file("a\nb", "x")}, "U+000A"},
		{"escape sequence", []manifest.Entry{file("a\x1b[2J", "x")}, "U+001B"},
		{"DEL", []manifest.Entry{file("a\x7f", "x")}, "U+007F"},
		{"C1", []manifest.Entry{file("a\u0085", "x")}, "U+0085"},
		{"direction of text", []manifest.Entry{file("a\u202egpj.exe", "x")}, "U+202E"},
		{"isolate", []manifest.Entry{dir("a\u2066")}, "U+2066"},
		{"line separator", []manifest.Entry{link("a\u2028", "b")}, "U+2028"},
		{"byte order mark", []manifest.Entry{file("\ufeffa", "x")}, "U+FEFF"},
		{"no character", []manifest.Entry{file("\U0001ffffa", "x")}, "U+1FFFF"},
		{"link with a newline", []manifest.Entry{link("a", "b\n")}, "U+000A"},
		{"link with a direction", []manifest.Entry{link("a", "\u202eb")}, "U+202E"},
		{"not UTF-8", []manifest.Entry{file("caf\xe9", "x")}, "UTF-8"},
		{"long component", []manifest.Entry{file(long+"n", "x")}, "component of 256 bytes"},
		{"long path", []manifest.Entry{file(strings.Repeat(long+"/", 16)+"x", "x")}, "path of 4097 bytes"},
		{"deep", deepTree(65), "deeper than 64"},
		{"duplicate", []manifest.Entry{file("a", "x"), file("a", "x")}, "not after"},
		{"file and directory", []manifest.Entry{file("a", "x"), dir("a")}, "not after"},
		{"unsorted", []manifest.Entry{file("b", "x"), file("a", "x")}, "not after"},
		{"sorted by bytes only", []manifest.Entry{dir("a"), file("a-", "x"), file("a/b", "x")}, "not after"},
		{"below a file", []manifest.Entry{file("a", "x"), file("a/b", "x")}, "no directory"},
		{"below a link", []manifest.Entry{link("a", "/etc"), file("a/passwd", "x")}, "no directory"},
		{"no parent", []manifest.Entry{file("a/b", "x")}, "no directory"},
		{"no grandparent", []manifest.Entry{dir("a"), file("a/b/c", "x")}, "no directory"},
		{"mode", []manifest.Entry{withMode(file("a", "x"), 0o10644)}, "mode"},
		{"mode of a link", []manifest.Entry{withMode(link("a", "b"), 0o755)}, "mode"},
		{"type", []manifest.Entry{{Path: "a", Type: 3}}, "type 3"},
		{"directory with a size", []manifest.Entry{withSize(dir("a"), 1)}, "with content"},
		{"directory with a blob", []manifest.Entry{withBlob(dir("a"), rawCID("x"))}, "with content"},
		{"directory with a link", []manifest.Entry{{Path: "a", Type: manifest.Dir, Link: "b"}}, "with content"},
		{"link with a size", []manifest.Entry{withSize(link("a", "b"), 1)}, "with content"},
		{"link without a target", []manifest.Entry{link("a", "")}, "empty link"},
		{"long link", []manifest.Entry{link("a", strings.Repeat("x", 4096))}, "4096 bytes"},
		{"link with NUL", []manifest.Entry{link("a", "b\x00")}, "U+0000"},
		{"link not UTF-8", []manifest.Entry{link("a", "caf\xe9")}, "UTF-8"},
		{"file without a blob", []manifest.Entry{{Path: "a", Type: manifest.File}}, "without a blob"},
		{"file with a link", []manifest.Entry{{Path: "a", Type: manifest.File, Blob: rawCID(""), Link: "x"}}, "link target"},
		{"size 0", []manifest.Entry{withSize(file("a", "x"), 0)}, "empty blob"},
		{"empty blob with a size", []manifest.Entry{withSize(file("a", ""), 1)}, "empty blob"},
		{"raw too large", []manifest.Entry{withSize(file("a", "x"), 256<<10+1)}, "raw blob"},
		{"large too small", []manifest.Entry{withBlob(withSize(file("a", "x"), 16<<10), largeCID("x"))}, "chunk list"},
		{"too large", []manifest.Entry{withBlob(withSize(file("a", "x"), manifest.MaxBlob+1), largeCID("x"))}, "limit"},
		{"size 2^63", []manifest.Entry{withBlob(withSize(file("a", "x"), 1<<63), largeCID("x"))}, "limit"},
		{"version 0 CID", []manifest.Entry{withBlob(file("a", "x"), cid.NewCidV0(mh))}, "version 1"},
		{"sha1", []manifest.Entry{withBlob(file("a", "x"), cid.NewCidV1(cid.Raw, sha1))}, "sha2-256"},
		{"codec", []manifest.Entry{withBlob(file("a", "x"), cid.NewCidV1(cid.DagCBOR, mh))}, "codec"},
		{"two sizes", []manifest.Entry{file("a", "x"), withSize(file("b", "x"), 2)}, "two sizes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &manifest.Manifest{Header: header, Entries: tt.entries}
			if _, err := m.Encode(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Encode: %v, want %q", err, tt.want)
			}
			if _, err := manifest.Parse(wireForm(t, m)); err == nil || !errors.Is(err, manifest.ErrInvalid) {
				t.Errorf("Parse: %v, want ErrInvalid", err)
			}
		})
	}
}

// wireForm prints a manifest without asking whether it is one. It is written for this test alone, from the specification.
func wireForm(t testing.TB, m *manifest.Manifest) []byte {
	entries := make([]any, len(m.Entries))
	for i, e := range m.Entries {
		blob := e.Blob.Bytes()
		if blob == nil {
			blob = []byte{}
		}
		entries[i] = []any{e.Path, uint8(e.Type), e.Mode, e.Size, blob, e.Link}
	}
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	doc := map[int]any{1: 1, 2: m.Product, 3: m.Epoch, 4: m.Seq, 5: m.Version, 6: m.Notes, 7: entries}
	if terms := wireTerms(&m.Terms); len(terms) > 0 {
		doc[0] = terms
	}
	data, err := enc.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// wireTerms has a key for each term that says something.
func wireTerms(t *manifest.Terms) map[int]any {
	terms := map[int]any{}
	for key, list := range map[int][]string{1: t.Config, 2: t.State, 3: t.Patches} {
		if len(list) > 0 {
			terms[key] = list
		}
	}
	if t.Helper != "" {
		terms[4] = t.Helper
	}
	return terms
}

func TestWireFormIsEncode(t *testing.T) {
	m := lessons()
	got, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if want := wireForm(t, m); !bytes.Equal(got, want) {
		t.Errorf("got %x\nwant %x", got, want)
	}
}

func TestLargestAllowed(t *testing.T) {
	long := strings.Repeat("n", manifest.MaxComponent)
	entries := deepTree(manifest.MaxDepth)
	entries = append(entries, file(long, "x"), link("o", strings.Repeat("x", manifest.MaxLink)))
	m := &manifest.Manifest{Header: header, Entries: entries}
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := manifest.Parse(data); err != nil {
		t.Error(err)
	}
}

func TestRefusedHeaders(t *testing.T) {
	tests := []struct {
		name   string
		header manifest.Header
	}{
		{"no product", manifest.Header{}},
		{"product too long", manifest.Header{Product: strings.Repeat("p", 65)}},
		{"upper case", manifest.Header{Product: "Lessons"}},
		{"slash", manifest.Header{Product: "a/b"}},
		{"version too long", manifest.Header{Product: "p", Version: strings.Repeat("1", 65)}},
		{"control character", manifest.Header{Product: "p", Version: "1\x1b[2J"}},
		{"right-to-left override", manifest.Header{Product: "p", Version: "1\u202e2"}},
		{"newline in version", manifest.Header{Product: "p", Version: "1\n2"}},
		{"notes too long", manifest.Header{Product: "p", Notes: strings.Repeat("n", 4097)}},
		{"escape in notes", manifest.Header{Product: "p", Notes: "\x1b[2J"}},
		{"notes not UTF-8", manifest.Header{Product: "p", Notes: "\xff"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &manifest.Manifest{Header: tt.header}
			if _, err := m.Encode(); err == nil {
				t.Error("Encode accepts it")
			}
			if _, err := manifest.Parse(wireForm(t, m)); err == nil {
				t.Error("Parse accepts it")
			}
		})
	}
}

// TestRefusedEncodings changes a good document in ways that a lenient reader would not mind.
func TestRefusedEncodings(t *testing.T) {
	good := wireForm(t, &manifest.Manifest{Header: manifest.Header{Product: "p"}, Entries: []manifest.Entry{dir("a")}})
	if _, err := manifest.Parse(good); err != nil {
		t.Fatal(err)
	}
	hexGood := hex.EncodeToString(good)
	tests := []struct{ name, old, new string }{
		{"trailing byte", hexGood, hexGood + "00"},
		{"another document behind", hexGood, hexGood + hexGood},
		{"indefinite map", "a7", "bf"},
		{"tagged", hexGood, "d9d9f7" + hexGood},
		{"version 2", "a70101", "a70102"},
		{"long integer", "a70101", "a7011801"},
		{"long key", "a70101", "a7180101"},
		{"float", "a70101", "a701f93c00"},
		{"duplicate key", "a70101", "a801010101"},
		{"unknown key", "a70101026170", "a8010102617007"},
		{"long text length", "026170", "02780170"},
		{"text as bytes", "026170", "024170"},
		{"null for the entries", "0781", "07f6"},
		{"keys swapped", "03000400", "04000300"},
		{"long array head", "0781", "079801"},
		{"too many entries said", "0781", "079affffffff"},
		{"2^64-1 entries said", "0781", "079bffffffffffffffff"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bad, err := hex.DecodeString(strings.Replace(hexGood, tt.old, tt.new, 1))
			if err != nil || bytes.Equal(bad, good) {
				t.Fatalf("bad test: %v, %x", err, bad)
			}
			if m, err := manifest.Parse(bad); err == nil {
				t.Errorf("accepted %x as %+v", bad, m)
			}
		})
	}
	for n := range good {
		if _, err := manifest.Parse(good[:n]); err == nil {
			t.Errorf("accepted the first %d of %d bytes", n, len(good))
		}
	}
}

// TestHostile51Allocation: what a document says of itself allocates nothing.
func TestHostile51Allocation(t *testing.T) {
	data := wireForm(t, &manifest.Manifest{Header: header, Entries: []manifest.Entry{dir("a")}})
	i := bytes.LastIndexByte(data, 0x81) // the array of one entry
	for _, said := range [][]byte{{0x9a, 0, 0x0f, 0x42, 0x40}, {0x9a, 0, 0x98, 0x96, 0x80}, {0x9a, 0xff, 0xff, 0xff, 0xff}, {0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}} {
		lying := slices.Concat(data[:i], said, data[i+1:])
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := manifest.Parse(lying)
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; err == nil || got > 1<<20 {
			t.Errorf("%x entries: %d bytes were allocated, %v", said, got, err)
		}
	}
}

func TestTooManyEntries(t *testing.T) {
	w := manifest.NewWriter(discard{})
	for i := range manifest.MaxEntries {
		if err := w.Add(dir(fmt.Sprintf("%07d", i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Add(dir("9999999")); err == nil {
		t.Error("one more was accepted")
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

func TestCompareIsByComponents(t *testing.T) {
	byParts := func(a, b string) int { return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/")) }
	path := rapid.StringMatching(`[a-c \-.0/]{1,8}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b := path.Draw(t, "a"), path.Draw(t, "b")
		if got, want := manifest.Compare(a, b), byParts(a, b); got != want {
			t.Errorf("Compare(%q, %q) = %d, want %d", a, b, got, want)
		}
	})
}

// tree draws a set of entries that follow the rules.
func tree(t *rapid.T) []manifest.Entry {
	var entries []manifest.Entry
	dirs := []string{""}
	seen := map[string]bool{}
	for range rapid.IntRange(0, 30).Draw(t, "entries") {
		path := rapid.StringMatching(`[a-cé \-.!]{1,4}`).Draw(t, "name")
		if path == "." || path == ".." {
			continue
		}
		if d := rapid.SampledFrom(dirs).Draw(t, "in"); d != "" {
			path = d + "/" + path
		}
		if seen[path] {
			continue
		}
		seen[path] = true
		switch rapid.IntRange(0, 2).Draw(t, "type") {
		case 0:
			dirs = append(dirs, path)
			entries = append(entries, dir(path))
		case 1:
			e := file(path, rapid.StringN(0, 5, 10).Draw(t, "content"))
			e.Mode = rapid.Uint32Range(0, 0o7777).Draw(t, "mode")
			entries = append(entries, e)
		case 2:
			entries = append(entries, link(path, rapid.StringMatching(`[./a-z]{1,9}`).Draw(t, "target")))
		}
	}
	sort.Slice(entries, func(i, j int) bool { return manifest.Compare(entries[i].Path, entries[j].Path) < 0 })
	return entries
}

func TestAnyTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &manifest.Manifest{Header: header, Entries: tree(t)}
		data, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := manifest.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got.Header, m.Header) || !slices.Equal(got.Entries, m.Entries) {
			t.Errorf("got %+v\nwant %+v", got, m)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	m := &manifest.Manifest{Header: header, Entries: []manifest.Entry{dir("d")}}
	for i := range 15_000 {
		m.Entries = append(m.Entries, file(fmt.Sprintf("d/some-file-with-a-name-%06d.go", i), fmt.Sprint(i)))
	}
	data, err := m.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := manifest.Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}
