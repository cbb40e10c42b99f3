package manifest_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"satchel/store/manifest"
)

// vector is a file in testdata: lines of "key: value", an empty line, the document in hexadecimal.
type vector struct {
	fields map[string]string
	data   []byte
}

// readVectors reads the vectors of a directory; having few is a failure, for the fuzz targets too.
func readVectors(t testing.TB, dir string, atLeast int) map[string]vector {
	t.Helper()
	files, err := filepath.Glob(dir + "/*.txt")
	if err != nil || len(files) < atLeast {
		t.Fatalf("only %d vectors in %s: %v", len(files), dir, err)
	}
	found := make(map[string]vector)
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		head, body, _ := strings.Cut(string(text), "\n\n")
		v := vector{fields: make(map[string]string)}
		for line := range strings.Lines(head) {
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				t.Fatalf("%s: bad line %q", name, line)
			}
			v.fields[key] = strings.TrimSpace(value)
		}
		if v.data, err = hex.DecodeString(strings.Join(strings.Fields(body), "")); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		found[strings.TrimSuffix(filepath.Base(name), ".txt")] = v
	}
	return found
}

func vectors(t testing.TB) map[string]vector       { return readVectors(t, "testdata", 60) }
func policyVectors(t testing.TB) map[string]vector { return readVectors(t, "testdata/policy", 40) }

func TestVectors(t *testing.T) {
	for name, v := range vectors(t) {
		t.Run(name, func(t *testing.T) {
			m, err := manifest.Parse(v.data)
			switch v.fields["expect"] {
			case "good":
				if err != nil {
					t.Fatal(err)
				}
				again, err := m.Encode()
				if err != nil || !bytes.Equal(again, v.data) {
					t.Errorf("printing again gives %x, %v", again, err)
				}
				if got := fmt.Sprint(len(m.Entries)); got != v.fields["entries"] {
					t.Errorf("%s entries, want %s", got, v.fields["entries"])
				}
				if got := fmt.Sprint(m.TotalSize()); got != v.fields["total"] {
					t.Errorf("total size %s, want %s", got, v.fields["total"])
				}
			case "refused":
				if err == nil {
					t.Errorf("accepted as %+v", m)
				}
			default:
				t.Errorf("expect: %q", v.fields["expect"])
			}
		})
	}
}

func TestPolicyVectors(t *testing.T) {
	for name, v := range policyVectors(t) {
		t.Run(name, func(t *testing.T) {
			m, err := manifest.Parse(v.data)
			if err != nil {
				t.Fatal(err)
			}
			refused, err := strconv.Atoi(v.fields["refused"])
			if err != nil {
				t.Fatal(err)
			}
			first := -1
			if refused > 0 {
				if first, err = strconv.Atoi(v.fields["first"]); err != nil {
					t.Fatal(err)
				}
			}
			checkNeeds(t, m, v.fields["needs"], refused, first)
		})
	}
}

// TestKeyVectors reads lines of a name and its key, both in hexadecimal.
func TestKeyVectors(t *testing.T) {
	text, err := os.ReadFile("testdata/text/keys.txt")
	if err != nil {
		t.Fatal(err)
	}
	f, n := new(manifest.Folder), 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		word := strings.Fields(line)
		name, err := hex.DecodeString(word[0])
		if err != nil {
			t.Fatal(err)
		}
		key := ""
		if len(word) > 1 {
			key = word[1]
		}
		if got := hex.EncodeToString(f.Key(string(name))); got != key {
			t.Errorf("key of %q is %s, want %s", name, got, key)
		}
		n++
	}
	if n < 30 {
		t.Errorf("only %d keys", n)
	}
}

// TestVectorsAsMade makes vectors again, from the specification and without the package, and compares. A difference is a
// failure and the file stays as it is: a published vector never changes. With SATCHEL_WRITE_VECTORS=1 missing files are
// written.
func TestVectorsAsMade(t *testing.T) {
	for path, text := range madeVectors(t) {
		got, err := os.ReadFile(path)
		if os.IsNotExist(err) && os.Getenv("SATCHEL_WRITE_VECTORS") == "1" {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			got, err = []byte(text), os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Error(err)
		} else if string(got) != text {
			t.Errorf("%s is not what it should be:\n%s", path, text)
		}
	}
}

// made collects vectors by file name.
type made map[string]string

func (v made) add(path string, data []byte, head ...string) {
	var b strings.Builder
	for _, line := range head {
		fmt.Fprintln(&b, line)
	}
	b.WriteByte('\n')
	for s := hex.EncodeToString(data); s != ""; {
		n := min(len(s), 96)
		fmt.Fprintln(&b, s[:n])
		s = s[n:]
	}
	v[path] = b.String()
}

func madeVectors(t *testing.T) made {
	v := made{}
	doc := func(list []manifest.Entry) []byte {
		return wireForm(t, &manifest.Manifest{Header: header, Entries: list})
	}
	refused := func(name, comment string, list ...manifest.Entry) {
		v.add("testdata/"+name+".txt", doc(list), "expect: refused", "comment: "+comment)
	}
	good := func(name, comment string, h manifest.Header, total int, list ...manifest.Entry) {
		v.add("testdata/"+name+".txt", wireForm(t, &manifest.Manifest{Header: h, Entries: list}), "expect: good", "comment: "+comment,
			fmt.Sprintf("entries: %d", len(list)), fmt.Sprintf("total: %d", total))
	}
	long := strings.Repeat("n", 255)
	withSize := func(e manifest.Entry, size uint64) manifest.Entry { e.Size = size; return e }
	withBlob := func(e manifest.Entry, list string) manifest.Entry { e.Blob = largeCID(list); return e }

	refused("dot", "a component that is a dot", dir("a"), file("a/.", "x"))
	refused("trailing-slash", "a path that ends with a slash", dir("a/"))
	refused("component-256", "a component of 256 bytes", file(long+"n", "x"))
	refused("path-4097", "a path of 4097 bytes", file(strings.Repeat(long+"/", 16)+"x", "x"))
	refused("depth-65", "65 components", deepTree(65)...)
	refused("link-4096", "a link target of 4096 bytes", link("a", strings.Repeat("x", 4096)))
	refused("link-empty", "a link without a target", link("a", ""))
	v.add("testdata/many-2-64.txt", append(bytes.TrimSuffix(doc(nil), []byte{0x80}), 0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"expect: refused", "comment: the head of an array of 2^64-1 entries, and nothing behind it")
	refused("size-2-63", "a size of 2^63", withSize(withBlob(file("a", ""), "x"), 1<<63))
	refused("size-64g", "a file of more than 64 GiB", withSize(withBlob(file("a", ""), "x"), 64<<30+1))
	refused("list-too-small", "a blob with a chunk list of 16 KiB", withSize(withBlob(file("a", ""), "x"), 16<<10))
	refused("file-and-directory", "a file and a directory of one name", file("a", "x"), dir("a"))
	refused("path-newline", "a line feed in a path", file("a\nb", "x"))
	refused("path-escape", "an escape in a path", file("a\x1b[2J", "x"))
	refused("path-del", "U+007F in a path", file("a\x7f", "x"))
	refused("path-c1", "U+0085, a control beyond ASCII, in a path", file("a\u0085", "x"))
	refused("path-soft-hyphen", "U+00AD in a path", file("so\u00adft", "x"))
	refused("path-mark", "U+200F in a path", file("a\u200f", "x"))
	refused("path-override", "U+202E in a path", file("a\u202egpj.exe", "x"))
	refused("path-isolate", "U+2067 in a path", file("\u2067a", "x"))
	refused("path-line-separator", "U+2028 in a path", file("a\u2028b", "x"))
	refused("path-paragraph", "U+2029 in the name of a directory", dir("a\u2029"))
	refused("path-word-joiner", "U+2060 in a path", file("a\u2060b", "x"))
	refused("path-byte-order-mark", "U+FEFF in a path", file("\ufeffa", "x"))
	refused("path-annotation", "U+FFF9 in a path", file("a\ufff9", "x"))
	refused("path-noncharacter", "U+1FFFF in a path", file("a\U0001ffff", "x"))
	refused("path-tag", "U+E0041 in a path", file("a\U000e0041", "x"))
	refused("link-newline", "a line feed in a link target", link("a", "b\nc"))
	refused("link-override", "U+202E in a link target", link("a", "\u202eb"))
	refused("link-nul", "a NUL in a link target", link("a", "b\x00"))
	head := func(version, notes string) manifest.Header {
		return manifest.Header{Product: "lessons.maths", Epoch: 1, Seq: 7, Version: version, Notes: notes}
	}
	for name, h := range map[string]manifest.Header{"version-newline": head("2026\n3", ""), "version-65": head(strings.Repeat("1", 65), ""),
		"notes-escape": head("1", "\x1b[2J"), "notes-4097": head("1", strings.Repeat("n", 4097)), "notes-return": head("1", "a\r\n")} {
		v.add("testdata/"+name+".txt", wireForm(t, &manifest.Manifest{Header: h}), "expect: refused", "comment: "+strings.ReplaceAll(name, "-", " "))
	}
	good("text-joiners", "joiners, zero-width spaces and variation selectors are allowed everywhere", head("\u2764\ufe0f", "می\u200cخواهم\n\tភាសា\u200bខ្មែរ"), 2,
		link("می\u200cخواهم", "葛\U000e0100"), file("श्री\u200dलंका", "x"), file("葛\U000e0100", "x"))
	good("text-unassigned", "code points that Unicode has not assigned, private ones, and spaces are allowed", head("\u0378", "\ue000 \u3000"), 1, file("\u0378\ue000\u3000\u00a0\ufffd", "x"))
	good("largest", "64 components, a component of 255 bytes, a target of 4095", header, 1, append(deepTree(64), file(long, "x"), link("o", strings.Repeat("x", 4095)))...)

	madeTerms(t, v)
	for _, p := range madePolicies() {
		list := entries(p.lines...)
		lines := []string{"needs: " + p.needs, "refused: " + p.refused, "comment: " + p.comment}
		if p.refused != "0" {
			lines = append(lines, "first: "+p.first)
		}
		v.add("testdata/policy/"+p.name+".txt", doc(list), lines...)
	}
	for _, p := range madeTermPolicies() {
		lines := []string{"needs: " + p.needs, "refused: " + p.refused, "comment: " + p.comment}
		if p.refused != "0" {
			lines = append(lines, "first: "+p.first)
		}
		h := header
		h.Terms = p.terms
		v.add("testdata/policy/terms-"+p.name+".txt", wireForm(t, &manifest.Manifest{Header: h, Entries: entries(p.lines...)}), lines...)
	}
	v["testdata/text/keys.txt"] = madeKeys()
	return v
}

// policyVector is a manifest with what it needs: permissions and "never", in alphabetical order, or "none". Refused counts the
// entries that a policy without permissions refuses; first is the index of the first.
type policyVector struct {
	name, needs, refused, first, comment string
	lines                                []string
}

func madePolicies() []policyVector {
	return []policyVector{
		{"ordinary", "none", "0", "", "modes, names and links that every policy allows", []string{"f 644 a", "d 775 d", "f 444 d/.b c", "l d/c -> .b c", "l e -> d/../a", "l f -> no/such", "d 0 g"}},
		{"empty", "none", "0", "", "no entry", nil},
		{"setuid", "setuid", "1", "1", "the setuid bit", []string{"f 4755 bin/su"}},
		{"setgid", "setuid", "2", "0", "the setgid bit, of a directory and of a file", []string{"d 2755 a", "f 2711 b", "f 755 c"}},
		{"sticky", "setuid", "1", "0", "the sticky bit", []string{"d 1755 tmp"}},
		{"world-writable", "setuid", "2", "0", "entries that everybody may write to; the mode of a link does not count", []string{"d 757 a", "f 646 b", "l c -> b"}},
		{"case", "names", "1", "1", "case", []string{"f 644 README", "f 644 Readme"}},
		{"case-three", "names", "2", "1", "three of one name: the first is not refused", []string{"f 644 A b", "f 644 a B", "f 644 a b"}},
		{"case-directories", "names", "1", "2", "case of directories; what is in them is not compared", []string{"f 644 Docs/a", "f 644 docs/A"}},
		{"case-parents", "none", "0", "", "one name in different directories", []string{"f 644 A", "f 644 x/a", "f 644 y/A"}},
		{"case-sharp-s", "names", "1", "1", "full case folding: sharp s is ss", []string{"f 644 STRASSE", "f 644 Straße"}},
		{"case-sigma", "names", "2", "1", "the three forms of sigma", []string{"f 644 Σ", "f 644 ς", "f 644 σ"}},
		{"case-turkish", "none", "0", "", "no Turkish folding: dotless i is another letter", []string{"f 644 I", "f 644 ı"}},
		{"case-cherokee", "names", "1", "1", "Cherokee, where the capital letters are older than the small ones", []string{"f 644 \u13a0", "f 644 \uab70"}},
		{"forms", "names", "2", "0", "two normal forms of one name: the first is not NFC, the second is taken for it", []string{"f 644 e\u0301", "f 644 é"}},
		{"not-nfc", "names", "1", "1", "a directory whose name is not NFC", []string{"f 644 a", "f 644 e\u0301/b"}},
		{"not-nfc-excluded", "names", "1", "0", "a letter that is excluded from composition", []string{"f 644 \u0958"}},
		{"not-nfc-order", "names", "1", "0", "combining characters out of order", []string{"f 644 a\u0301\u0323"}},
		{"nfc", "none", "0", "", "names in NFC of several scripts", []string{"f 644 é", "f 644 한", "f 644 नमस्ते", "f 644 \u1ea1\u0316"}},
		{"joiners", "none", "0", "", "joiners, zero-width spaces and selectors are allowed", []string{"f 644 می\u200cخواهم", "f 644 श्री\u200dलंका", "f 644 ភាសា\u200bខ្មែរ", "f 644 \u2764\ufe0f"}},
		{"joiner-apart", "names", "1", "1", "two names that differ in a joiner", []string{"f 644 ab", "f 644 a\u200db"}},
		{"invisible", "names", "1", "0", "a name of ignored characters only", []string{"f 644 \u3164\ufe0f"}},
		{"combining-16", "none", "0", "", "16 combining characters in a row", []string{"f 644 a" + marks(16), "f 644 \uac01" + marks(16), "f 644 \u1ea1" + marks(15)}},
		{"combining-17", "names", "1", "0", "17 combining characters in a row", []string{"f 644 a" + marks(17)}},
		{"combining-17-composed", "names", "1", "0", "17 of them when the first letter is decomposed", []string{"f 644 \u1ea1" + marks(16)}},
		{"combining-100", "names", "2", "0", "100 of them; the second name is also the first one's sibling", []string{"f 644 A" + marks(100), "f 644 a" + marks(100)}},
		{"backslash", "names", "1", "0", "a backslash in a name; in a target it is allowed", []string{`f 644 a\b`, `l c -> a\b`}},
		{"trailing", "names", "3", "0", "names that end with dots or spaces", []string{"f 644 a.", "d 755 b ", "f 644 ...", "f 644 .c"}},
		{"devices", "names", "10", "0", "names of devices", []string{"f 644 AUX.tar.gz", "f 644 COM1", "f 644 Con", "f 644 LPT9.x", "f 644 PRN", "f 644 com².c", "f 644 nul .x", "f 644 prn:x", "d 755 sub", "f 644 sub/nul", "d 755 lpt³"}},
		{"no-devices", "none", "0", "", "names that only look like devices", []string{"f 644 .nul", "f 644 auxv", "f 644 com", "f 644 com0", "f 644 com10", "f 644 com⁴", "f 644 lpt", "f 644 x.con"}},
		{"aliases", "names", "5", "0", "short names of FAT", []string{"f 644 A~1", "f 644 PROGRA~1", "f 644 a~99999.c", "f 644 longna~2.txt", "f 644 x~1.", "f 644 y"}},
		{"no-aliases", "none", "0", "", "names that only look like short names", []string{"f 644 1.2~3", "f 644 PROGRAM~1", "f 644 a b~1", "f 644 a~1.b.c", "f 644 a~1.html", "f 644 a~1b", "f 644 a~b", "f 644 backup~", "f 644 ~1", "f 644 é~1"}},
		{"names-that-fail", "none", "0", "", "characters that FAT cannot hold at all are allowed", []string{`f 644 "*<>|"`, "f 644 a:b", "f 644 what?"}},
		{"link-absolute", "link-out", "1", "0", "an absolute link", []string{"l a -> /etc/passwd", "l b -> etc/passwd"}},
		{"link-leaves", "link-out", "1", "1", "a link that leaves the tree", []string{"l d/a -> ../../x", "l d/b -> ../x"}},
		{"link-top", "none", "0", "", "links to the top of the tree", []string{"l a -> .", "l d/b -> ..", "l d/c -> .././/"}},
		{"link-above", "link-out", "1", "0", "a link to the directory above the tree", []string{"l a -> .."}},
		{"link-and-back", "link-out", "1", "0", "a link that leaves and comes back", []string{"l a -> ../tree/b", "f 644 b"}},
		{"link-missing", "link-out", "1", "1", "a missing name counts as a directory", []string{"l a -> no/../x", "l b -> no/../../x"}},
		{"link-missing-two", "link-out", "1", "2", "missing names below a missing name", []string{"d 755 d", "l d/a -> no/no/../../../x", "l d/b -> no/no/../../../../x"}},
		{"link-file", "link-out", "1", "0", "so does a file", []string{"l a -> b/../..", "f 644 b", "l c -> b/x/../../b"}},
		{"link-through-up", "link-out", "1", "3", "a link through another one, which shortens the way up", []string{"d 755 d/e", "l d/up -> .", "l d/x -> up/../../y", "l z -> d/up/../d"}},
		{"link-through-down", "none", "0", "", "a link through another one, which lengthens the way up", []string{"f 644 a/b/c/x", "l deep -> a/b/c", "l z -> deep/../../../a"}},
		{"link-through-absolute", "link-out", "3", "0", "links through one that is absolute", []string{"l a -> b", "l b -> c/../d", "l c -> /etc"}},
		{"link-itself", "never", "2", "0", "a link to itself, and one below itself", []string{"l a -> a", "l b -> b/c"}},
		{"link-loop", "never", "3", "0", "a loop of two, and a link to it", []string{"l a -> b", "l b -> d/../a", "l c -> a/x", "d 755 d"}},
		{"link-loop-directories", "never", "2", "1", "a loop through directories", []string{"l x/a -> ../y/b/c", "l y/b -> ../x/a"}},
		{"link-cycle", "none", "0", "", "a directory that contains a link to itself is no loop", []string{"l d/self -> .", "l d/up -> ..", "l x -> d/self/self/up/d/up/d"}},
		{"link-40", "none", "0", "", "a path through 40 links", chain(40)},
		{"link-41", "never", "1", "0", "a path through 41 links", chain(41)},
		{"link-40-times", "none", "0", "", "one link 39 times, and the link itself", []string{"l d/s -> .", "l x -> d" + strings.Repeat("/s", 39)}},
		{"link-41-times", "never", "1", "2", "one link 40 times, and the link itself", []string{"l d/s -> .", "l x -> d" + strings.Repeat("/s", 40)}},
		{"link-doubling", "never", "56", "5", "each link goes twice through the one before", doubling(60)},
		{"link-out-after-40", "link-out", "40", "0", "an absolute link at the end of 40 links", append(chain(39), "l l39 -> /")},
		{"link-out-after-41", "link-out never", "41", "0", "and of 41", append(chain(40), "l l40 -> /")},
		{"all", "link-out names setuid never", "3", "1", "one of each", []string{"f 4755 a", "f 644 A", "l b -> /", "l c -> c"}},
		{"twice", "names setuid", "1", "0", "an entry with two faults counts once", []string{"f 4757 nul"}},
	}
}

// madeKeys is a table of names and keys. The keys are written by hand.
func madeKeys() string {
	var b strings.Builder
	b.WriteString("# A name and its key, in the hexadecimal form of their UTF-8; a key may be empty.\n")
	for _, k := range [][2]string{
		{"a", "a"}, {"README.txt", "readme.txt"}, {"[\\]^_`{|}~", "[\\]^_`{|}~"}, {"AZaz09", "azaz09"},
		{"É", "e\u0301"}, {"é", "e\u0301"}, {"e\u0301", "e\u0301"}, {"E\u0301", "e\u0301"}, {"Å", "a\u030a"}, {"\u212b", "a\u030a"},
		{"ß", "ss"}, {"ẞ", "ss"}, {"ﬁ", "fi"}, {"ŉ", "ʼn"}, {"ǰ", "j\u030c"}, {"İ", "i\u0307"}, {"ı", "ı"}, {"I", "i"},
		{"Σ", "σ"}, {"ς", "σ"}, {"σ", "σ"}, {"\u0345", "ι"}, {"ᾳ", "αι"}, {"ᾼ", "αι"}, {"µ", "μ"}, {"\u212a", "k"}, {"ſ", "s"},
		{"Ж", "ж"}, {"\u1e9b\u0323", "s\u0323\u0307"}, {"a\u0301\u0323", "a\u0323\u0301"}, {"한", "\u1112\u1161\u11ab"}, {"\u0958", "\u0915\u093c"},
		{"\u13a0", "\u13a0"}, {"\uab70", "\u13a0"}, {"\u13f5", "\u13f5"}, {"\u13fd", "\u13f5"}, {"𐐀", "𐐨"}, {"Ａ", "ａ"}, {"①", "①"},
		{"a\u200cb\u200dc\u200bd", "abcd"}, {"\u2764\ufe0f", "\u2764"}, {"葛\U000e0100", "葛"}, {"\u3164\uffa0\u034f", ""},
	} {
		fmt.Fprintln(&b, strings.TrimSpace(fmt.Sprintf("%x %x", k[0], k[1])))
	}
	return b.String()
}

// madeTerms makes documents with terms, and what only looks like one.
func madeTerms(t *testing.T, v made) {
	tree := entries("f 755 bin/apply", "d 755 etc", "d 755 var")
	with := func(terms manifest.Terms) []byte {
		h := header
		h.Terms = terms
		return wireForm(t, &manifest.Manifest{Header: h, Entries: tree})
	}
	good := func(name, comment string, terms manifest.Terms) {
		v.add("testdata/terms-"+name+".txt", with(terms), "expect: good", "comment: "+comment, fmt.Sprintf("entries: %d", len(tree)), "total: 9")
	}
	refused := func(name, comment string, terms manifest.Terms) {
		v.add("testdata/terms-"+name+".txt", with(terms), "expect: refused", "comment: "+comment)
	}
	raw := func(name, comment, terms string) { // the value of key 0 in hexadecimal
		data, err := hex.DecodeString(terms)
		if err != nil {
			t.Fatal(err)
		}
		whole := with(manifest.Terms{})
		v.add("testdata/terms-"+name+".txt", append(append([]byte{0xa8, 0}, data...), whole[1:]...), "expect: refused", "comment: "+comment)
	}
	numbered := func(n int, format string) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf(format, i))
		}
		return list
	}
	type terms = manifest.Terms
	good("all", "all four terms", terms{Config: []string{"etc", "opt/conf"}, State: []string{"home", "var"}, Patches: []string{"124393-02", "800001-00", "912345-99"}, Helper: "bin/apply"})
	good("config", "a config path; it need not be in the tree", terms{Config: []string{"no/such"}})
	good("order", "the order of paths is that of entries, not of bytes: a slash comes first", terms{Config: []string{"a/b", "a!"}})
	good("siblings", "one path is the beginning of another, but not a directory above it", terms{Config: []string{"etc", "etc.d"}, State: []string{"etc.local"}})
	good("most", "64 config paths, 64 state paths, 4096 patches", terms{Config: numbered(64, "c%02d"), State: numbered(64, "s%02d"), Patches: numbered(4096, "%06d-01")})
	good("state-like", "names that only begin as the reserved one", terms{State: []string{"a/state", "state.d"}})
	good("config-state", "config below the reserved name is not state", terms{Config: []string{"state"}})
	refused("unsorted", "config paths out of order", terms{Config: []string{"b", "a"}})
	refused("twice", "a config path twice", terms{Config: []string{"a", "a"}})
	refused("nested", "a config path below another", terms{Config: []string{"a", "a/b"}})
	refused("nested-state", "a state path deep below another", terms{State: []string{"a", "a/b/c"}})
	refused("order-bytes", "in the order of bytes", terms{Config: []string{"a!", "a/b"}})
	refused("config-65", "65 config paths", terms{Config: numbered(65, "c%02d")})
	refused("state-65", "65 state paths", terms{State: numbered(65, "s%02d")})
	refused("config-dotdot", "a config path that leaves the tree", terms{Config: []string{"../etc"}})
	refused("state-absolute", "an absolute state path", terms{State: []string{"/var"}})
	refused("state-control", "a control character in a state path", terms{State: []string{"var\x07"}})
	refused("config-empty", "an empty config path", terms{Config: []string{""}})
	refused("both", "a path that is config and state", terms{Config: []string{"a"}, State: []string{"a"}})
	refused("config-in-state", "config in state", terms{Config: []string{"a/b"}, State: []string{"a"}})
	refused("state-in-config", "state in config", terms{Config: []string{"a"}, State: []string{"a/b"}})
	refused("state-state", "the reserved name as state", terms{State: []string{"state"}})
	refused("state-in-state", "state below the reserved name", terms{State: []string{"state/a"}})
	refused("patches-unsorted", "patches out of order", terms{Patches: []string{"200000-01", "100000-01"}})
	refused("patches-twice", "two revisions of one patch", terms{Patches: []string{"100000-01", "100000-02"}})
	refused("patches-4097", "4097 patches", terms{Patches: numbered(4097, "%06d-01")})
	for i, id := range []string{"", "12345-01", "1234567-01", "123456-1", "123456-012", "12345a-01", "123456-0a", "123456_01", "123456-01 ", "-12345-01", "１23456-1"} {
		refused(fmt.Sprintf("patch-%d", i), fmt.Sprintf("a patch %q", id), terms{Patches: []string{id}})
	}
	refused("helper-path", "a helper outside of the tree", terms{Helper: "../apply"})
	refused("helper-config", "a helper that is config", terms{Config: []string{"bin/apply"}, Helper: "bin/apply"})
	refused("helper-in-config", "a helper in config", terms{Config: []string{"bin"}, Helper: "bin/apply"})
	refused("helper-in-state", "a helper in state", terms{State: []string{"bin"}, Helper: "bin/apply"})
	raw("none", "terms that say nothing", "a0")
	raw("null", "null for terms", "f6")
	raw("array", "an array for terms", "80")
	raw("number", "a number for terms", "00")
	raw("empty-list", "an empty list of config paths", "a10180")
	raw("empty-helper", "an empty helper", "a10460")
	raw("null-helper", "null for a helper", "a104f6")
	raw("null-list", "null for a list", "a101f6")
	raw("unknown", "a term that is not known", "a1056161")
	raw("key-0", "a term of key 0", "a1006161")
	raw("text-key", "a term whose key is a text", "a161316161")
	raw("out-of-order", "terms out of order", "a204616201816161")
	raw("key-twice", "a term twice", "a20181616101816162")
	raw("bytes", "a config path that is a byte string", "a101814161")
	raw("not-utf8", "a config path that is not UTF-8", "a1018161ff")
	raw("nested-list", "a list in a list of paths", "a10181816161")
	raw("indefinite", "a list without a length", "a1019f6161ff")
	raw("long-length", "a length in a byte too many", "a10181780161")
	raw("many-2-64", "the head of a list of 2^64-1 paths", "a1019bffffffffffffffff")
	whole := with(terms{Config: []string{"etc"}})
	v.add("testdata/terms-at-the-end.txt", append(append([]byte{0xa8}, whole[1+8:]...), whole[1:1+8]...), "expect: refused", "comment: terms behind the entries")
	short := bytes.Clone(whole)
	short[0] = 0xa7
	v.add("testdata/terms-not-counted.txt", short, "expect: refused", "comment: a map of seven pairs with terms")
}

// termPolicy is a policyVector with terms.
type termPolicy struct {
	policyVector
	terms manifest.Terms
}

func madeTermPolicies() []termPolicy {
	type terms = manifest.Terms
	return []termPolicy{
		{policyVector{"ordinary", "none", "0", "", "terms that every policy allows", []string{"f 644 etc/a", "d 755 var", "f 644 var/x", "f 644 z"}}, terms{Config: []string{"etc", "z"}, State: []string{"srv/data", "var"}, Patches: []string{"124393-02", "912345-01"}}},
		{policyVector{"helper", "run", "1", "1", "a helper", []string{"f 755 bin/apply"}}, terms{Helper: "bin/apply"}},
		{policyVector{"helper-mode", "run never", "1", "0", "a helper that its owner may not run", []string{"f 655 apply"}}, terms{Helper: "apply"}},
		{policyVector{"helper-link", "run never", "1", "0", "a helper that is a link", []string{"l apply -> b", "f 755 b"}}, terms{Helper: "apply"}},
		{policyVector{"helper-directory", "run never", "1", "0", "a helper that is a directory", []string{"d 755 apply"}}, terms{Helper: "apply"}},
		{policyVector{"helper-missing", "never", "1", "2", "a helper that is not in the tree", []string{"f 755 a", "f 755 b"}}, terms{Helper: "apply"}},
		{policyVector{"helper-setuid", "run setuid", "1", "0", "a helper that is setuid", []string{"f 4755 apply"}}, terms{Helper: "apply"}},
		{policyVector{"special", "never", "2", "1", "content under a patch of the range 8xxxxx", []string{"d 755 a", "f 644 a/b", "l c -> a"}}, terms{Patches: []string{"100000-01", "800000-01"}}},
		{policyVector{"special-last", "never", "1", "0", "the last patch of the range", []string{"f 644 a"}}, terms{Patches: []string{"899999-99", "900000-01"}}},
		{policyVector{"special-bookkeeping", "none", "0", "", "a patch of that range without content", []string{"d 755 a"}}, terms{Patches: []string{"812345-01"}}},
		{policyVector{"not-special", "none", "0", "", "patches beside the range", []string{"f 644 a"}}, terms{Patches: []string{"080000-08", "799999-88", "900000-01"}}},
		{policyVector{"state-file", "never", "1", "0", "a file in the place of state", []string{"f 644 var"}}, terms{State: []string{"var"}}},
		{policyVector{"state-link", "never", "1", "0", "a link in the place of state", []string{"l var -> x"}}, terms{State: []string{"var"}}},
		{policyVector{"state-below-file", "never", "1", "0", "state below a file", []string{"f 644 srv"}}, terms{State: []string{"srv/data"}}},
		{policyVector{"state-below-link", "never", "1", "0", "state below a link", []string{"l srv -> x"}}, terms{State: []string{"srv/a/data"}}},
		{policyVector{"state-name", "never", "2", "1", "entries at and below the reserved name, in a tree with state", []string{"f 644 a", "d 755 state", "f 644 state/x", "f 644 state.d"}}, terms{State: []string{"var"}}},
		{policyVector{"state-name-free", "none", "0", "", "the name is not reserved in a tree without state", []string{"f 644 state/x"}}, terms{Config: []string{"state"}}},
		{policyVector{"config-below-file", "never", "1", "0", "config below a file", []string{"f 644 etc"}}, terms{Config: []string{"etc/a"}}},
		{policyVector{"config-below-link", "never", "1", "0", "config below a link", []string{"l etc -> x"}}, terms{Config: []string{"etc/a"}}},
		{policyVector{"below-directories", "none", "0", "", "config and state below directories of the tree, and state that is one", []string{"d 755 etc", "d 755 srv", "d 755 srv/data", "d 755 var"}}, terms{Config: []string{"etc/a"}, State: []string{"srv/data/x", "var"}}},
		{policyVector{"config-file", "none", "0", "", "config that is a file, or a link", []string{"f 644 a", "l b -> a"}}, terms{Config: []string{"a", "b"}}},
	}
}
