package manifest_test

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"satchel/store/manifest"
)

// entries makes a valid list of entries from lines such as "f 644 path", "d 755 path" and "l path -> target". Directories that
// are not named are added.
func entries(lines ...string) []manifest.Entry {
	found := map[string]manifest.Entry{}
	var paths []string
	add := func(e manifest.Entry) {
		if old, ok := found[e.Path]; !ok {
			paths = append(paths, e.Path)
		} else if old.Type != manifest.Dir || e.Type != manifest.Dir {
			return // the first one stays
		}
		found[e.Path] = e
	}
	for _, line := range lines {
		kind, rest, _ := strings.Cut(line, " ")
		var e manifest.Entry
		switch kind {
		case "l":
			path, target, _ := strings.Cut(rest, " -> ")
			e = link(path, target)
		case "f", "d":
			mode, path, _ := strings.Cut(rest, " ")
			bits, _ := strconv.ParseUint(mode, 8, 12)
			e = file(path, path)
			if kind == "d" {
				e = dir(path)
			}
			e.Mode = uint32(bits)
		default:
			continue
		}
		for i := range len(e.Path) {
			if e.Path[i] == '/' && found[e.Path[:i]].Path == "" {
				add(dir(e.Path[:i]))
			}
		}
		add(e)
	}
	slices.SortFunc(paths, manifest.Compare)
	list := make([]manifest.Entry, len(paths))
	for i, path := range paths {
		list[i] = found[path]
	}
	return list
}

// parsed makes a manifest that has been through Parse.
func parsed(t testing.TB, lines ...string) *manifest.Manifest {
	t.Helper()
	m := &manifest.Manifest{Header: header, Entries: entries(lines...)}
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if m, err = manifest.Parse(data); err != nil {
		t.Fatal(err)
	}
	return m
}

// policies are all that there are.
func policies() (all []manifest.Policy) {
	for i := range 16 {
		all = append(all, manifest.Policy{Setuid: i&1 != 0, Names: i&2 != 0, LinkOut: i&4 != 0, Run: i&8 != 0})
	}
	return all
}

// has says whether a policy gives all permissions of a list such as "names setuid"; nothing gives "never".
func has(p manifest.Policy, needs string) bool {
	for need := range strings.FieldsSeq(needs) {
		ok := map[string]bool{"setuid": p.Setuid, "names": p.Names, "link-out": p.LinkOut, "run": p.Run, "none": true}
		if !ok[need] {
			return false
		}
	}
	return true
}

// needed asks the package what a manifest needs beyond nothing.
func needed(t testing.TB, m *manifest.Manifest) (needs string, e *manifest.PolicyError) {
	t.Helper()
	err := m.Check(manifest.Policy{})
	if err == nil {
		return "none", nil
	}
	if !errors.As(err, &e) {
		t.Fatalf("%T: %v", err, err)
	}
	var words []string
	for _, may := range e.May {
		words = append(words, string(may))
	}
	if e.Never {
		words = append(words, "never")
	}
	return strings.Join(words, " "), e
}

// checkNeeds tries all policies.
func checkNeeds(t *testing.T, m *manifest.Manifest, want string, refused, first int) {
	t.Helper()
	got, e := needed(t, m)
	if got != want {
		t.Errorf("needs %q, want %q: %v", got, want, e)
	}
	if e != nil {
		i := slices.IndexFunc(m.Entries, func(x manifest.Entry) bool { return x.Path == e.Violations[0].Path })
		if i < 0 { // a helper that is not in the tree
			i = len(m.Entries)
		}
		if e.Entries != refused || i != first {
			t.Errorf("%d entries are refused, first is %d; want %d and %d: %v", e.Entries, i, refused, first, e)
		}
	} else if refused != 0 {
		t.Errorf("nothing is refused, want %d", refused)
	}
	for _, p := range policies() {
		if err := m.Check(p); (err == nil) != has(p, want) {
			t.Errorf("with %+v: %v, and %q is needed", p, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	tests := []struct {
		name  string
		lines []string
		needs string
		path  string // of the first entry that is refused
	}{
		{"ordinary", []string{"f 644 a", "d 755 d", "f 444 d/b", "l d/c -> b", "l e -> d/../a", "d 0 closed"}, "none", ""},
		{"nothing", nil, "none", ""},

		{"setuid", []string{"f 644 a", "f 4755 bin/su"}, "setuid", "bin/su"},
		{"setgid", []string{"f 2755 wall"}, "setuid", "wall"},
		{"setgid directory", []string{"d 2755 d"}, "setuid", "d"},
		{"sticky", []string{"d 1777 tmp"}, "setuid", "tmp"},
		{"sticky file", []string{"f 1644 a"}, "setuid", "a"},
		{"world-writable", []string{"f 646 a"}, "setuid", "a"},
		{"world-writable directory", []string{"d 777 d"}, "setuid", "d"},
		{"group-writable", []string{"f 664 a", "d 775 d"}, "none", ""},
		{"the mode of a link says nothing", []string{"l a -> b"}, "none", ""},

		{"case", []string{"f 644 README", "f 644 Readme"}, "names", "Readme"},
		{"case of directories", []string{"f 644 Docs/a", "f 644 docs/b"}, "names", "docs"},
		{"case of file and link", []string{"f 644 A", "l a -> A"}, "names", "a"},
		{"case in two directories", []string{"f 644 x/A", "f 644 y/a", "f 644 A"}, "none", ""},
		{"case and depth", []string{"f 644 a/b/C", "f 644 a/c", "f 644 a/b/b/c"}, "none", ""},
		{"case of Greek", []string{"f 644 ΣΟΦΟΣ", "f 644 σοφος", "f 644 σοφός"}, "names", "σοφος"},
		{"sharp s", []string{"f 644 Straße", "f 644 STRASSE"}, "names", "Straße"},
		{"ligature", []string{"f 644 ﬁnd", "f 644 find"}, "names", "ﬁnd"},
		{"Kelvin", []string{"f 644 \u212a", "f 644 k"}, "names", "\u212a"},
		{"Cherokee", []string{"f 644 \u13a0", "f 644 \uab70"}, "names", "\uab70"},
		{"Cherokee, the small ones of Unicode 8", []string{"f 644 \u13f0", "f 644 \u13f8"}, "names", "\u13f8"},
		{"two letters", []string{"f 644 Σ", "f 644 σ2", "f 644 ß", "f 644 s", "f 644 Å", "f 644 A"}, "none", ""},
		{"normal forms", []string{"f 644 \u00e9", "f 644 e\u0301"}, "names", "e\u0301"},
		{"not NFC", []string{"f 644 e\u0301t\u00e9"}, "names", "e\u0301t\u00e9"},
		{"not NFC, a directory", []string{"f 644 e\u0301/a", "f 644 e\u0301/b"}, "names", "e\u0301"},
		{"not NFC, a letter excluded from composition", []string{"f 644 \u0958"}, "names", "\u0958"},
		{"Hangul jamo", []string{"f 644 \u1112\u1161\u11ab"}, "names", "\u1112\u1161\u11ab"},
		{"NFC", []string{"f 644 \u00e9", "f 644 \ud55c", "f 644 नमस्ते", "f 644 भूगोल"}, "none", ""},
		{"joiner", []string{"f 644 می\u200cخواهم", "f 644 श्री\u200dलंका", "f 644 ភាសា\u200bខ្មែរ", "f 644 \u2764\ufe0f"}, "none", ""},
		{"only a joiner apart", []string{"f 644 ab", "f 644 a\u200db"}, "names", "a\u200db"},
		{"only a selector apart", []string{"f 644 \u2764", "f 644 \u2764\ufe0f"}, "names", "\u2764\ufe0f"},
		{"invisible", []string{"f 644 \u3164"}, "names", "\u3164"},
		{"16 combining characters", []string{"f 644 a" + marks(16), "f 644 \uac01" + marks(16), "f 644 \u1ea1" + marks(15)}, "none", ""},
		{"17 combining characters", []string{"f 644 a" + marks(17)}, "names", "a" + marks(17)},
		{"17 with one that is composed", []string{"f 644 \u1ea1" + marks(16)}, "names", "\u1ea1" + marks(16)},
		{"backslash", []string{`f 644 a\b`}, "names", `a\b`},
		{"backslash in a target", []string{`l a -> x\b`}, "none", ""},
		{"trailing dot", []string{"f 644 a."}, "names", "a."},
		{"trailing space", []string{"d 755 a "}, "names", "a "},
		{"dots", []string{"f 644 ..."}, "names", "..."},
		{"dots and spaces inside", []string{"f 644 .a. b", "f 644  c"}, "none", ""},
		{"device", []string{"f 644 NUL"}, "names", "NUL"},
		{"devices", []string{"f 644 con", "f 644 PRN.txt", "f 644 aux.tar.gz", "f 644 nUl", "f 644 com1", "f 644 Lpt9.x", "f 644 com².c", "f 644 nul .x", "f 644 con:x"}, "names", "Lpt9.x"},
		{"a directory that is a device", []string{"f 644 aux/a.c"}, "names", "aux"},
		{"no devices", []string{"f 644 console", "f 644 com", "f 644 com0", "f 644 com10", "f 644 lpt", "f 644 .nul", "f 644 x.con", "f 644 nullable.go", "f 644 auxv"}, "none", ""},
		{"short name", []string{"f 644 PROGRA~1", "f 644 progra~1.txt", "f 644 A~1", "f 644 a~99999.c"}, "names", "A~1"},
		{"no short name", []string{"f 644 backup~", "f 644 ~1", "f 644 PROGRAM~1", "f 644 a~b", "f 644 a~1b", "f 644 a~1.html", "f 644 a~1.b.c", "f 644 1.2~3", "f 644 a~123456x"}, "none", ""},
		{"names that only fail", []string{"f 644 a:b", "f 644 what?", `f 644 "*<>|"`}, "none", ""},

		{"absolute link", []string{"l etc -> /etc"}, "link-out", "etc"},
		{"link out", []string{"l d/a -> ../../x"}, "link-out", "d/a"},
		{"link to the top", []string{"l d/a -> ..", "l here -> .", "l d/b -> ../"}, "none", ""},
		{"link above the top", []string{"l a -> .."}, "link-out", "a"},
		{"link out and in again", []string{"l a -> ../tree/b", "f 644 b"}, "link-out", "a"},
		{"link that dangles", []string{"l a -> no/such/file", "l b -> a/more"}, "none", ""},
		{"link out through what is missing", []string{"l a -> no/../../x"}, "link-out", "a"},
		{"link through what is missing", []string{"l d/a -> no/../../x"}, "none", ""},
		{"link through two that are missing", []string{"l d/a -> no/no/../../../x"}, "none", ""},
		{"link out through a file", []string{"f 644 f", "l a -> f/../.."}, "link-out", "a"},
		{"link out through a link", []string{"f 644 d/e/f", "l short -> d/e", "l a -> short/../../x"}, "none", ""},
		{"link out through a link that shortens", []string{"d 755 d/e", "l d/e/up -> ..", "l d/e/x -> up/../../y"}, "link-out", "d/e/x"},
		{"link that looks as if it left", []string{"f 644 a/b/c/x", "l deep -> a/b/c", "l top -> deep/../../../x"}, "none", ""},
		{"link to a link that leaves", []string{"l a -> b", "l b -> c/d", "l c -> /etc"}, "link-out", "a"},
		{"link into itself", []string{"l a -> a"}, "never", "a"},
		{"link below itself", []string{"l a -> a/b"}, "never", "a"},
		{"loop of two", []string{"f 644 0", "l a -> b", "l b -> a"}, "never", "a"},
		{"loop through directories", []string{"l x/a -> ../y/b/c", "l y/b -> ../x/a"}, "never", "x/a"},
		{"link to a loop", []string{"l a -> loop", "l loop -> loop"}, "never", "a"},
		{"a tree that contains itself", []string{"l d/self -> .", "l d/up -> ..", "l x -> d/self/self/up/d/up/d"}, "none", ""},
		{"39 links", chain(39), "none", ""},
		{"40 links", chain(40), "none", ""},
		{"41 links", chain(41), "never", "l00"},
		{"many links in one path", []string{"l d/s -> .", "l x -> d" + strings.Repeat("/s", 39)}, "none", ""},
		{"too many links in one path", []string{"l d/s -> .", "l x -> d" + strings.Repeat("/s", 40)}, "never", "x"},
		{"links that double", doubling(4), "none", ""},
		{"links that double too often", doubling(60), "never", "l05"},
		{"out after 40", append(chain(39), "l l39 -> /"), "link-out", "l00"},
		{"out after 41", append(chain(40), "l l40 -> /"), "link-out never", "l00"},

		{"everything", []string{"f 4755 a", "f 644 A", "l b -> /", "l c -> c"}, "link-out names setuid never", "a"},
		{"a device that is setuid", []string{"f 4755 nul"}, "names setuid", "nul"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := parsed(t, tt.lines...)
			got, e := needed(t, m)
			if got != tt.needs {
				t.Errorf("needs %q, want %q: %v", got, tt.needs, e)
			}
			if e != nil && e.Violations[0].Path != tt.path {
				t.Errorf("%v; want %q first", e, tt.path)
			}
			for _, p := range policies() {
				if err := m.Check(p); (err == nil) != has(p, tt.needs) {
					t.Errorf("with %+v: %v, and %q is needed", p, err, tt.needs)
				}
			}
		})
	}
}

// marks are n combining characters.
func marks(n int) string { return strings.Repeat("\u0316", n) }

// chain is a path through n links.
func chain(n int) (lines []string) {
	for i := range n {
		lines = append(lines, fmt.Sprintf("l l%02d -> l%02d", i, i+1))
	}
	return lines
}

// doubling is n links, each of which goes twice through the one before.
func doubling(n int) []string {
	lines := []string{"l l00 -> ."}
	for i := 1; i <= n; i++ {
		lines = append(lines, fmt.Sprintf("l l%02d -> l%02d/l%02d", i, i-1, i-1))
	}
	return lines
}

// TestCheckWords looks at what people read.
func TestCheckWords(t *testing.T) {
	var lines []string
	for i := range 25 {
		lines = append(lines, fmt.Sprintf("f 4755 bin/su%02d", i))
	}
	lines = append(lines, "l etc -> /etc")
	err := parsed(t, lines...).Check(manifest.Policy{})
	want := `"bin/su00" is setuid (mode 4755); 25 more entries are not allowed; the trust root does not allow this product: link-out, setuid`
	var e *manifest.PolicyError
	if !errors.As(err, &e) || err.Error() != want || e.Entries != 26 || len(e.Violations) != 10 || e.Violations[9].Path != "bin/su09" {
		t.Errorf("%v\nwant %s", err, want)
	}
	for line, want := range map[string]string{
		"l a -> a":   `"a" is a link that goes in a loop, or through more than 40 links: "a"; some of it no permission allows`,
		"f 644 nul":  `"nul" is the name of a device on Windows; the trust root does not allow this product: names`,
		"d 1777 tmp": `"tmp" is sticky (mode 1777); the trust root does not allow this product: setuid`,
	} {
		if err := parsed(t, line).Check(manifest.Policy{}); err == nil || err.Error() != want {
			t.Errorf("%v\nwant %s", err, want)
		}
	}
}

// TestSimpleFold: whatever Go's own tables call one letter in two cases is one name.
func TestSimpleFold(t *testing.T) {
	f := new(manifest.Folder)
	n := 0
	for r := rune(0x80); r <= unicode.MaxRune; r++ {
		if o := unicode.SimpleFold(r); o != r {
			n++
			if a, b := string(f.Key(string(r))), string(f.Key(string(o))); a != b {
				t.Errorf("%U and %U: keys %q and %q", r, o, a, b)
			}
		}
	}
	if n < 2000 {
		t.Errorf("only %d letters", n)
	}
}

// TestMillionEntries looks that the memory of Check is no multiple of the manifest's.
func TestMillionEntries(t *testing.T) {
	m := &manifest.Manifest{Header: header}
	for i := range 1000 {
		m.Entries = append(m.Entries, dir(fmt.Sprintf("directory %03d", i)))
		for j := range 998 {
			m.Entries = append(m.Entries, file(fmt.Sprintf("directory %03d/Lesson %04d.html", i, j), "x"))
		}
		m.Entries = append(m.Entries, link(fmt.Sprintf("directory %03d/index", i), "../directory 000/Lesson 0000.html"))
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := m.Check(manifest.Policy{})
	runtime.ReadMemStats(&after)
	if err != nil {
		t.Error(err)
	}
	if got := after.TotalAlloc - before.TotalAlloc; got > 60<<20 {
		t.Errorf("Check of %d entries took %d MiB", len(m.Entries), got>>20)
	}
}

// TestCheckOfMany has manifests that would take for ever if links or equal names multiplied.
func TestCheckOfMany(t *testing.T) {
	t.Run("equal names", func(t *testing.T) {
		var lines []string
		for i := range 1 << 14 {
			name := []byte("aaaaaaaaaaaaaaaa")
			for bit := range name {
				name[bit] -= byte(i >> bit & 1 * 32)
			}
			lines = append(lines, "f 644 "+string(name))
		}
		_, e := needed(t, parsed(t, lines...))
		if e == nil || e.Entries != 1<<14-1 {
			t.Error(e)
		}
	})
	t.Run("a long chain", func(t *testing.T) {
		var lines []string
		for i := range 50_000 {
			lines = append(lines, fmt.Sprintf("l %05d -> %s%05d", i, strings.Repeat("./", 100), i+1))
		}
		_, e := needed(t, parsed(t, lines...))
		if e == nil || e.Entries != 50_000-40 {
			t.Error(e)
		}
	})
}

// hiddenRanges reads the list: two code points on a line, in hexadecimal.
func hiddenRanges(t testing.TB) (list [][2]rune) {
	text, err := os.ReadFile("testdata/text/hidden.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var first, last rune
		if strings.HasPrefix(line, "#") {
			continue
		}
		if _, err := fmt.Sscanf(line, "%X %X", &first, &last); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, [2]rune{first, last})
	}
	return list
}

// TestHidden compares every code point with the list in testdata.
func TestHidden(t *testing.T) {
	list := hiddenRanges(t)
	for r := rune(0); r <= unicode.MaxRune; r++ {
		if r == '/' || r >= 0xd800 && r < 0xe000 {
			continue
		}
		want := slices.ContainsFunc(list, func(p [2]rune) bool { return r >= p[0] && r <= p[1] })
		s := "a" + string(r)
		got := []bool{
			manifest.CheckPath(s) != nil, manifest.CheckLink(s) != nil,
			manifest.CheckHeader(&manifest.Header{Product: "p", Version: s}) != nil,
			manifest.CheckHeader(&manifest.Header{Product: "p", Notes: s}) != nil,
		}
		if r == '\n' || r == '\t' {
			got[3] = true
		}
		if !reflect.DeepEqual(got, []bool{want, want, want, want}) {
			t.Errorf("%U: path, link, version, notes refused %v, want %v", r, got, want)
		}
	}
}
