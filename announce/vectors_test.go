package announce_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"satchel/announce"
)

// vector is one file of testdata; FORMAT.md, "Test vectors", describes them.
type vector struct {
	name    string
	expect  string // accept, refuse form, refuse too-new, refuse trust
	kind    string // announcement, root, root-file, timestamp, public-key, private-key
	root    string // the vector with the trust root to verify under; for a root, the one that it follows
	comment string
	data    []byte
}

func (v vector) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "expect: %s\nkind: %s\n", v.expect, v.kind)
	if v.root != "" {
		fmt.Fprintf(&b, "root: %s\n", v.root)
	}
	fmt.Fprintf(&b, "comment: %s\n\n", v.comment)
	for s := hex.EncodeToString(v.data); s != ""; {
		n := min(len(s), 96)
		fmt.Fprintln(&b, s[:n])
		s = s[n:]
	}
	return b.String()
}

func parseVector(name, text string) (v vector, err error) {
	v.name = name
	headers, body, ok := strings.Cut(text, "\n\n")
	if !ok {
		return v, errors.New("no empty line after the headers")
	}
	for line := range strings.SplitSeq(headers, "\n") {
		key, val, _ := strings.Cut(line, ": ")
		switch key {
		case "expect":
			v.expect = val
		case "kind":
			v.kind = val
		case "root":
			v.root = val
		case "comment":
			v.comment = val
		default:
			return v, fmt.Errorf("unknown header %q", key)
		}
	}
	v.data, err = hex.DecodeString(strings.ReplaceAll(body, "\n", ""))
	return v, err
}

// loadVectors reads testdata; having none is a failure, for the fuzz targets too.
func loadVectors(t testing.TB) map[string]vector {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 100 {
		t.Fatalf("testdata has %d vectors (%v): they are part of the package", len(files), err)
	}
	out := map[string]vector{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".txt")
		if out[name], err = parseVector(name, string(text)); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
	}
	return out
}

// TestVectors judges every file of testdata, also those that a later format adds to it.
func TestVectors(t *testing.T) {
	all := loadVectors(t)
	for name, v := range all {
		t.Run(name, func(t *testing.T) {
			got, err := judge(t, v, all)
			if got != v.expect {
				t.Errorf("%s: got %q (%v), want %q", v.comment, got, err, v.expect)
			}
		})
	}
}

func judge(t *testing.T, v vector, all map[string]vector) (string, error) {
	form := func(err error) (string, error) {
		if errors.Is(err, announce.ErrTooNew) {
			return "refuse too-new", err
		}
		return "refuse form", err
	}
	trust := func(err error) (string, error) {
		if err != nil {
			return "refuse trust", err
		}
		return "accept", nil
	}
	var root *announce.SignedRoot
	if v.root != "" {
		var err error
		if root, err = announce.ParseRoot(all[v.root].data); err != nil {
			t.Fatalf("root %s: %v", v.root, err)
		}
	}
	switch v.kind {
	case "public-key":
		if _, err := announce.ParsePublicKey(v.data); err != nil {
			return form(err)
		}
		return "accept", nil
	case "private-key":
		if _, err := announce.ParsePrivateKey(v.data); err != nil {
			return form(err)
		}
		return "accept", nil
	case "root":
		sr, err := announce.ParseRoot(v.data)
		switch {
		case err != nil:
			return form(err)
		case root == nil:
			return trust(announce.VerifyGenesis(sr))
		}
		return trust(announce.VerifyRotation(&root.Root, sr))
	case "root-file":
		f, err := announce.ParseRootFile(v.data)
		if err != nil {
			return form(err)
		}
		return trust(f.Verify())
	case "announcement":
		sa, err := announce.ParseAnnouncement(v.data)
		if err != nil {
			return form(err)
		}
		return trust(root.Verify(sa))
	case "timestamp":
		st, err := announce.ParseTimestamp(v.data)
		if err != nil {
			return form(err)
		}
		return trust(root.VerifyTimestamp(st))
	}
	return "", fmt.Errorf("unknown kind %q", v.kind)
}

// TestVectorFiles makes every vector of version 1 anew and compares it with its file. A file that differs is a
// failure and stays as it is: a published vector never changes. With SATCHEL_WRITE_VECTORS=1 missing files are
// written, and only those.
func TestVectorFiles(t *testing.T) {
	write := os.Getenv("SATCHEL_WRITE_VECTORS") == "1"
	seen := map[string]bool{}
	for _, v := range vectors() {
		if seen[v.name] {
			t.Fatalf("two vectors are called %s", v.name)
		}
		seen[v.name] = true
		path := filepath.Join("testdata", v.name+".txt")
		got, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) && write {
			if err := os.WriteFile(path, []byte(v.String()), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != v.String() {
			t.Errorf("%s is not what the generator makes:\n%s", path, v)
		}
	}
}

// TestFormatExample: the examples of FORMAT.md are vectors.
func TestFormatExample(t *testing.T) {
	page, err := os.ReadFile("FORMAT.md")
	if err != nil {
		t.Fatal(err)
	}
	all := loadVectors(t)
	sa, err := announce.ParseAnnouncement(all["ann-minimal"].data)
	if err != nil {
		t.Fatal(err)
	}
	id := sa.ID()
	for _, want := range []string{string(all["key-public"].data), hex.EncodeToString(id[:])} {
		if !strings.Contains(string(page), want) {
			t.Errorf("FORMAT.md lacks %s", want)
		}
	}
	// Hexadecimal words at the beginning of each line of the example, up to the words that explain them.
	_, example, _ := strings.Cut(string(page), "ann-minimal.txt`):\n\n```\n")
	example, _, _ = strings.Cut(example, "```")
	var digits strings.Builder
	for line := range strings.SplitSeq(example, "\n") {
		line, _, _ = strings.Cut(strings.TrimLeft(line, " "), "   ")
		if first, _, _ := strings.Cut(line, " "); !isHex(first) {
			continue
		}
		for word := range strings.FieldsSeq(line) {
			if isHex(word) {
				digits.WriteString(word)
			}
		}
	}
	if want := hex.EncodeToString(all["ann-minimal"].data); digits.String() != want {
		t.Errorf("FORMAT.md shows %s, the vector is %s", &digits, want)
	}
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && s != ""
}

// vectors is the deterministic generator. It writes bytes by hand and never asks the package.
func vectors() []vector {
	return slices.Concat(keyVectors(), rootVectors(), badRootVectors(), announcementVectors(), badEnvelopeVectors(),
		badCBORVectors(), badAnnouncementVectors(), untrustedVectors(), timestampVectors(), rootFileVectors())
}

func keyVectors() []vector {
	b64 := base64.StdEncoding.EncodeToString
	line := func(word string, key []byte) []byte { return []byte(word + " " + b64(key) + "\n") }
	const pubWord, privWord = "satchel-public-key-v1", "satchel-private-key-v1"
	unhex := func(s string) []byte {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic(err)
		}
		return b
	}
	key := func(name, kind, expect, comment string, data []byte) vector {
		return vector{"key-" + name, expect, kind, "", comment, data}
	}
	const P, S = "public-key", "private-key"
	good := line(pubWord, pub(1))
	loose := b64(pub(1))
	loose = loose[:len(loose)-2] + string(loose[len(loose)-2]+1) + "=" // the last character carries two bits that count for nothing
	return []vector{
		key("public", P, "accept", "the public half of the key with seed 01 repeated", good),
		key("public-comments", P, "accept", "comments, empty lines, CR before LF, no last LF", slices.Concat([]byte("# made by hand\r\n\r\n  # indented\r\n"), bytes.TrimRight(good, "\n"))),
		key("private", S, "accept", "seed 01 repeated", line(privWord, seed(1))),
		key("empty", P, "refuse form", "no bytes at all", nil),
		key("only-comment", P, "refuse form", "nothing but a comment", []byte("# nothing\n")),
		key("wrong-word", P, "refuse form", "a word of a later version", line("satchel-public-key-v2", pub(1))),
		key("private-as-public", P, "refuse form", "a private key file where a public one belongs", line(privWord, seed(1))),
		key("public-as-private", S, "refuse form", "a public key file where a private one belongs", good),
		key("two", P, "refuse form", "two keys in one file", slices.Concat(good, line(pubWord, pub(2)))),
		key("short", P, "refuse form", "31 bytes", line(pubWord, pub(1)[:31])),
		key("long", P, "refuse form", "33 bytes", line(pubWord, append(slices.Clone(pub(1)), 0))),
		key("private-short", S, "refuse form", "31 bytes", line(privWord, seed(1)[:31])),
		key("base64-unpadded", P, "refuse form", "the padding is missing", bytes.ReplaceAll(good, []byte("="), nil)),
		key("base64-loose", P, "refuse form", "unused bits of the last character are not zero", []byte(pubWord+" "+loose+"\n")),
		key("base64-cr", P, "refuse form", "a CR within the base64", bytes.Replace(good, []byte(b64(pub(1))[:8]), []byte(b64(pub(1))[:7]+"\r"+b64(pub(1))[7:8]), 1)),
		key("trailing-word", P, "refuse form", "another word after the base64", slices.Concat(bytes.TrimRight(good, "\n"), []byte(" teacher\n"))),
		key("long-file", P, "refuse form", "4097 bytes", slices.Concat(good, bytes.Repeat([]byte("\n"), 4097-len(good)))),
		key("identity", P, "refuse form", "the neutral element: one signature would fit every message", line(pubWord, append([]byte{1}, make([]byte, 31)...))),
		key("order-2", P, "refuse form", "a point of order 2", line(pubWord, unhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"))),
		key("order-4", P, "refuse form", "a point of order 4", line(pubWord, make([]byte, 32))),
		key("order-8", P, "refuse form", "a point of order 8", line(pubWord, unhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"))),
		key("noncanonical", P, "refuse form", "y = p + 3, which names the point with y = 3 a second time", line(pubWord, unhex("f0ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"))),
		key("no-point", P, "refuse form", "y = 2 is on no point of the curve", line(pubWord, append([]byte{2}, make([]byte, 31)...))),
	}
}

// ruleOf is a product rule.
func ruleOf(pattern string, epoch uint64, keys []byte, threshold, floor uint64, class string, flags uint64) []byte {
	return arr(txt(pattern), num(epoch), keys, num(threshold), num(floor), txt(class), num(flags))
}

func keyList(keys ...byte) []byte {
	slices.SortFunc(keys, func(a, b byte) int { return bytes.Compare(pub(a), pub(b)) })
	var out [][]byte
	for _, n := range keys {
		out = append(out, byt(pub(n)))
	}
	return arr(out...)
}

func rolesOf() []pair {
	return []pair{{0, arr(ids(1, 2, 3), num(2))}, {1, arr(ids(7), num(1))}, {2, arr(ids(6), num(1))}}
}

func lessonsRule() []byte { return ruleOf("lessons.*", 1, ids(5), 1, 0, "content", 0) }
func osRule() []byte      { return ruleOf("xo-os", 2, ids(4), 1, 3, "system", 3) }

func rootPairs() []pair {
	return []pair{{1, num(1)}, {2, num(1_790_000_000)}, {4, keyList(1, 2, 3, 4, 5, 6, 7)}, {5, mapOf(rolesOf()...)},
		{6, arr(lessonsRule(), osRule())}}
}

func rootTwoPairs() []pair {
	p := with(rootPairs(), 1, num(2))
	p = with(p, 4, keyList(1, 2, 3, 5, 6, 7, 8))
	return with(p, 6, arr(lessonsRule(), ruleOf("xo-os", 2, ids(8), 1, 3, "system", 3)))
}

func rootVectors() []vector {
	v := func(name, root, expect, comment string, data []byte) vector {
		return vector{"root-" + name, expect, "root", root, comment, data}
	}
	one, two := mapOf(rootPairs()...), mapOf(rootTwoPairs()...)
	// Root 3 hands the root role to keys 8 and 9.
	three := with(with(rootTwoPairs(), 1, num(3)), 4, keyList(5, 6, 7, 8, 9))
	roles := slices.Clone(rolesOf())
	roles[0].val = arr(ids(8, 9), num(2))
	hand := mapOf(with(three, 5, mapOf(roles...))...)
	return []vector{
		v("one", "", "accept", "version 1: keys 1, 2 and 3 are the root's, two must sign; 4 publishes xo-os, 5 lessons.*, 6 wakes, 7 timestamps", sealed(dRoot, one, 1, 2)),
		v("one-renew-by", "", "accept", "the same with renew by", sealed(dRoot, mapOf(with(rootPairs(), 3, num(1_890_000_000))...), 2, 3)),
		v("one-extension", "", "accept", "an unknown key from 64 on is kept and skipped", sealed(dRoot, mapOf(with(rootPairs(), 64, arr(txt("later"), num(1)))...), 1, 2)),
		v("one-may-all", "", "accept", "a rule that may everything: flags 1, 2, 4 and 8", sealed(dRoot, mapOf(with(rootPairs(), 6, arr(ruleOf("xo-os", 2, ids(4), 1, 3, "system", 15)))...), 1, 2)),
		v("one-strangers", "", "accept", "a signature by a key that the root does not list says nothing", sealed(dRoot, one, 1, 2, 9)),
		v("two", "root-one", "accept", "version 2: key 8 in place of 4, signed by keys that both versions have", sealed(dRoot, two, 1, 3)),
		v("three", "root-two", "accept", "version 3: the root role goes to keys 8 and 9; old and new sign", sealed(dRoot, hand, 1, 2, 8, 9)),
		v("three-old-only", "root-two", "refuse trust", "signed by the old root's keys alone", sealed(dRoot, hand, 1, 2)),
		v("three-new-only", "root-two", "refuse trust", "signed by the new root's keys alone", sealed(dRoot, hand, 8, 9)),
		v("three-half", "root-two", "refuse trust", "one of the two old signatures that are needed", sealed(dRoot, hand, 1, 8, 9)),
		v("skips", "root-one", "refuse trust", "version 3 does not follow version 1", sealed(dRoot, mapOf(with(rootPairs(), 1, num(3))...), 1, 2)),
		v("repeats", "root-one", "refuse trust", "version 1 does not follow version 1", sealed(dRoot, one, 1, 2)),
		v("last-version", "", "accept", "version 2^64-1 parses; nothing can follow it", sealed(dRoot, mapOf(with(rootPairs(), 1, num(1<<64-1))...), 1, 2)),
		v("under-threshold", "", "refuse trust", "one signature, two are needed", sealed(dRoot, one, 1)),
		v("other-role", "", "refuse trust", "signed by product keys", sealed(dRoot, one, 4, 5)),
		v("other-domain", "", "refuse trust", "signed as an announcement", sealed(dAnnouncement, one, 1, 2)),
	}
}

func badRootVectors() []vector {
	v := func(name, expect, comment string, p []pair) vector {
		return vector{"root-bad-" + name, expect, "root", "", comment, sealed(dRoot, mapOf(p...), 1, 2)}
	}
	base := rootPairs()
	rules := func(r ...[]byte) []pair { return with(base, 6, arr(r...)) }
	roles := func(p ...pair) []pair { return with(base, 5, mapOf(p...)) }
	identity := append([]byte{1}, make([]byte, 31)...)
	const form, tooNew = "refuse form", "refuse too-new"
	many := make([][]byte, 1025)
	for i := range many {
		many[i] = ruleOf(fmt.Sprintf("p%04d", i), 1, ids(4), 1, 0, "content", 0)
	}
	keys := make([][]byte, 65)
	for i := range keys {
		keys[i] = byt(pub(byte(100 + i)))
	}
	slices.SortFunc(keys, bytes.Compare)
	return []vector{
		v("version-0", form, "versions begin at 1", with(base, 1, num(0))),
		v("issued-range", form, "2^63 seconds", with(base, 2, num(1<<63))),
		v("no-keys", form, "an empty key list", with(base, 4, arr())),
		v("65-keys", form, "at most 64 keys", with(base, 4, arr(keys...))),
		v("keys-unsorted", form, "keys not sorted", with(base, 4, arr(byt(pub(1)), byt(pub(2)), byt(pub(3)), byt(pub(4)), byt(pub(5)), byt(pub(6)), byt(pub(7))))),
		v("key-twice", form, "one key listed twice", with(base, 4, append(head(4, 8), keyList(1, 1, 2, 3, 4, 5, 6, 7)[1:]...))),
		v("key-31", form, "a key of 31 bytes", with(base, 4, arr(byt(pub(1)[:31])))),
		v("key-33", form, "a key of 33 bytes", with(base, 4, arr(byt(append(slices.Clone(pub(1)), 0))))),
		v("key-low-order", form, "the neutral element as a key", with(base, 4, arr(byt(identity)))),
		v("key-text", form, "a key as text", with(base, 4, arr(txt("key")))),
		v("no-root-role", form, "nobody may sign the next root", roles(rolesOf()[1:]...)),
		v("threshold-0", form, "threshold 0", roles(with(rolesOf(), 0, arr(ids(1, 2, 3), num(0)))...)),
		v("threshold-high", form, "threshold above the number of keys", roles(with(rolesOf(), 0, arr(ids(1, 2, 3), num(4)))...)),
		v("threshold-negative", form, "threshold -1", roles(with(rolesOf(), 0, arr(ids(1, 2, 3), []byte{0x20}))...)),
		v("role-key-unknown", form, "a role with a key that is not listed", roles(with(rolesOf(), 0, arr(ids(1, 2, 9), num(2)))...)),
		v("role-key-twice", form, "one key counted twice", roles(with(rolesOf(), 0, arr(ids(1, 1), num(2)))...)),
		v("role-no-pair", form, "a role that is a number", roles(with(rolesOf(), 2, num(1))...)),
		v("role-unknown", tooNew, "role 3 is not known", roles(with(rolesOf(), 3, arr(ids(7), num(1)))...)),
		v("key-unknown", tooNew, "key 7 of the payload is not known and below 64", with(base, 7, num(1))),
		v("class-unknown", tooNew, "a class that is not known", rules(ruleOf("xo-os", 2, ids(4), 1, 3, "firmware", 0))),
		v("flag-unknown", tooNew, "flag 32 is not known", rules(ruleOf("xo-os", 2, ids(4), 1, 3, "system", 32))),
		v("rules-unsorted", form, "product rules not sorted", rules(osRule(), lessonsRule())),
		v("rule-twice", form, "one pattern twice", rules(osRule(), osRule())),
		v("rule-short", form, "a rule of six values", rules(append(head(4, 6), osRule()[1:len(osRule())-1]...))),
		v("rule-threshold-0", form, "product threshold 0", rules(ruleOf("xo-os", 2, ids(4), 0, 3, "system", 0))),
		v("rule-epoch-0", form, "epochs begin at 1", rules(ruleOf("xo-os", 0, ids(4), 1, 3, "system", 0))),
		v("rule-pattern", form, "a star inside the pattern", rules(ruleOf("xo*os", 2, ids(4), 1, 3, "system", 0))),
		v("rule-pattern-prefix", form, "a star after half a name", rules(ruleOf("xo-*", 2, ids(4), 1, 3, "system", 0))),
		v("rule-key-unknown", form, "a rule with a key that is not listed", rules(ruleOf("xo-os", 2, ids(9), 1, 3, "system", 0))),
		v("1025-rules", form, "at most 1,024 rules", rules(many...)),
		{"root-bad-long", form, "root", "", "64 KiB and one byte", make([]byte, 64<<10+1)},
	}
}

func annPairs() []pair {
	return []pair{{1, txt("xo-os")}, {2, num(1)}, {3, num(2)}, {4, num(7)}, {5, txt("26.1")}, {6, byt(cidBytes("manifest"))}, {7, num(1000)}}
}

func fullPairs() []pair {
	p := annPairs()
	for _, e := range []pair{{8, num(5_000_000)}, {9, num(1_790_000_100)}, {10, num(1_790_604_900)}, {11, num(5)}, {12, num(1)}, {13, num(1)}, {14, num(6)}} {
		p = with(p, e.key, e.val)
	}
	return p
}

func announcementVectors() []vector {
	v := func(name, comment string, data []byte) vector {
		return vector{"ann-" + name, "accept", "announcement", "root-one", comment, data}
	}
	last := with(with(annPairs(), 4, num(1<<64-1)), 11, num(1<<64-1))
	long := with(with(fullPairs(), 1, txt("lessons."+strings.Repeat("x", 56))), 3, num(1))
	long = with(long, 5, txt(strings.Repeat("v", 64)))
	for k, n := range map[uint64]uint64{4: 1<<64 - 1, 7: 1 << 50, 8: 1 << 50, 9: 1<<63 - 1, 10: 1<<63 - 1, 11: 1<<64 - 1, 13: 1<<64 - 1, 14: 1<<64 - 2} {
		long = with(long, k, num(n))
	}
	pad := with(annPairs(), 64, byt(make([]byte, 512-len(sealed(dAnnouncement, mapOf(with(annPairs(), 64, byt(make([]byte, 256)))...), 4))+256)))
	return []vector{
		v("minimal", "only what must be there", sealed(dAnnouncement, mapOf(annPairs()...), 4)),
		v("full", "everything, urgent, signed by the product's key and by the wake role", sealed(dAnnouncement, mapOf(fullPairs()...), 4, 6)),
		v("wildcard", "a product that only lessons.* covers", sealed(dAnnouncement, mapOf(with(with(annPairs(), 1, txt("lessons.5b.maths")), 3, num(1))...), 5)),
		v("large-manifest", "a manifest that is named by its chunk list", sealed(dAnnouncement, mapOf(with(annPairs(), 6, byt(append([]byte{1, 0x51}, cidBytes("manifest")[2:]...)))...), 4)),
		v("recall", "a newer number with older content", sealed(dAnnouncement, mapOf(with(annPairs(), 12, num(2))...), 4)),
		v("urgent-recall", "urgent and a recall", sealed(dAnnouncement, mapOf(with(annPairs(), 12, num(3))...), 4, 6)),
		v("last-seq", "seq and floor 2^64-1", sealed(dAnnouncement, mapOf(last...), 4)),
		v("longest", "every field at its largest, two signatures: still below 512 bytes", sealed(dAnnouncement, mapOf(long...), 5, 6)),
		v("512", "exactly 512 bytes, filled by an unknown key from 64 on", sealed(dAnnouncement, mapOf(pad...), 4)),
		v("extension", "unknown keys from 64 on are kept and skipped", sealed(dAnnouncement, mapOf(with(with(annPairs(), 64, txt("later")), 1000, mapOf(pair{1, arr(num(2))}))...), 4)),
		v("stranger-signs-too", "a signature by a stranger says nothing", sealed(dAnnouncement, mapOf(annPairs()...), 4, 9)),
		v("false-wake", "the wake role's signature is false: not urgent, but a release all the same", falseWake()),
		v("version-unicode", "a display version with letters beyond ASCII", sealed(dAnnouncement, mapOf(with(annPairs(), 5, txt("ñandú 1.0 – β"))...), 4)),
	}
}

func falseWake() []byte {
	p := mapOf(with(annPairs(), 12, num(1))...)
	good, bad := sigPair(keyID(4), rawSig(dAnnouncement, p, 4)), sigPair(keyID(6), make([]byte, 64))
	if bytes.Compare(keyID(6), keyID(4)) < 0 {
		good, bad = bad, good
	}
	return arr(byt(p), arr(good, bad))
}

func badEnvelopeVectors() []vector {
	v := func(name, comment string, data []byte) vector {
		return vector{"env-" + name, "refuse form", "announcement", "", comment, data}
	}
	p := mapOf(annPairs()...)
	good := sealed(dAnnouncement, p, 4)
	sig := sigPair(keyID(4), rawSig(dAnnouncement, p, 4))
	both := []byte{4, 6}
	slices.SortFunc(both, func(a, b byte) int { return bytes.Compare(keyID(b), keyID(a)) })
	swapped := arr(byt(p), arr(sigPair(keyID(both[0]), rawSig(dAnnouncement, p, both[0])), sigPair(keyID(both[1]), rawSig(dAnnouncement, p, both[1]))))
	return []vector{
		v("empty", "no bytes at all", nil),
		v("long", "513 bytes", make([]byte, 513)),
		v("truncated", "the last byte is missing", good[:len(good)-1]),
		v("half", "cut in the middle", good[:len(good)/2]),
		v("trailing", "one byte too many", append(slices.Clone(good), 0)),
		v("null", "null", []byte{0xf6}),
		v("map", "a map", []byte{0xa0}),
		v("one-part", "no list of signatures", arr(byt(p))),
		v("three-parts", "three parts", arr(byt(p), arr(sig), num(1))),
		v("payload-text", "the payload is text", arr(txt("hello"), arr(sig))),
		v("no-signature", "an empty list of signatures", arr(byt(p), arr())),
		v("unsorted", "signatures not sorted by key id", swapped),
		v("repeated", "one signature twice", arr(byt(p), arr(sig, sig))),
		v("sig-63", "a signature of 63 bytes", arr(byt(p), arr(sigPair(keyID(4), make([]byte, 63))))),
		v("key-id-7", "a key id of 7 bytes", arr(byt(p), arr(sigPair(keyID(4)[:7], make([]byte, 64))))),
		v("sig-triple", "a signature of three values", arr(byt(p), arr(arr(byt(keyID(4)), byt(make([]byte, 64)), num(1))))),
		v("overlong-array", "the outer array's length in two bytes", append([]byte{0x98, 2}, good[1:]...)),
		v("overlong-bytes", "the payload's length in three bytes", slices.Concat([]byte{0x82, 0x59, 0, byte(len(p))}, p, arr(sig))),
		v("indefinite-array", "the outer array of indefinite length", append(append([]byte{0x9f}, good[1:]...), 0xff)),
		v("tagged", "a tag before the array", append([]byte{0xd8, 55, 0x9f}[:2:2], good...)),
		v("huge-claim", "an array that claims 2^32 values", []byte{0x9a, 0xff, 0xff, 0xff, 0xff}),
		v("deep", "arrays in arrays, 300 deep", bytes.Repeat([]byte{0x81}, 300)),
	}
}

// badCBORVectors hold payloads that are signed well, but not in the one form that counts.
func badCBORVectors() []vector {
	v := func(name, comment string, payload []byte) vector {
		return vector{"cbor-" + name, "refuse form", "announcement", "", comment, sealed(dAnnouncement, payload, 4)}
	}
	base := annPairs()
	value := func(key uint64, val ...byte) []byte { return mapOf(with(base, key, val)...) }
	swapped := slices.Clone(base)
	swapped[0], swapped[1] = swapped[1], swapped[0]
	canon := mapOf(base...)
	return []vector{
		v("empty", "an empty payload", nil),
		v("array", "an array instead of a map", arr(num(1))),
		v("null", "null instead of a map", []byte{0xf6}),
		v("trailing", "a byte after the map", append(slices.Clone(canon), 0)),
		v("truncated", "the map's last byte is missing", canon[:len(canon)-1]),
		v("unsorted", "keys 2 and 1 swapped", mapOf(swapped...)),
		v("duplicate", "key 4 twice", append(head(5, 8), mapOf(slices.Insert(slices.Clone(base), 4, pair{4, num(8)})...)[1:]...)),
		v("overlong-value", "seq 7 in two bytes", value(4, 0x18, 7)),
		v("overlong-key", "key 1 in two bytes", slices.Concat(head(5, 7), []byte{0x18, 1}, canon[2:])),
		v("overlong-text", "a text's length in two bytes", value(5, append([]byte{0x78, 4}, "26.1"...)...)),
		v("indefinite-map", "a map of indefinite length", append(append([]byte{0xbf}, canon[1:]...), 0xff)),
		v("indefinite-text", "a text of indefinite length", value(5, append(append([]byte{0x7f, 0x64}, "26.1"...), 0xff)...)),
		v("tag", "a tag before seq", value(4, 0xc1, 7)),
		v("bignum", "seq as a bignum", value(4, 0xc2, 0x41, 7)),
		v("float", "seq as a float", value(4, 0xf9, 0x47, 0)),
		v("nan", "seq is not a number", value(4, 0xf9, 0x7e, 0)),
		v("true", "true for seq", value(4, 0xf5)),
		v("undefined", "undefined for seq", value(4, 0xf7)),
		v("simple", "simple value 16 for seq", value(4, 0xf0)),
		v("negative", "seq -1", value(4, 0x20)),
		v("text-key", "a text as a key", slices.Concat(head(5, 8), canon[1:], txt("x"), num(1))),
		v("negative-key", "key -1", slices.Concat(head(5, 8), canon[1:], []byte{0x20, 1})),
		v("bad-utf8", "a version that is not UTF-8", value(5, 0x62, 0xc3, 0x28)),
		v("extension-float", "a float below a key that may be skipped", mapOf(with(base, 64, arr([]byte{0xf9, 0x3c, 0}))...)),
		v("extension-unsorted", "an unsorted map below a key that may be skipped", mapOf(with(base, 64, mapOf(pair{2, num(1)}, pair{1, num(1)}))...)),
		v("extension-deep", "nine levels", mapOf(with(base, 64, append(bytes.Repeat([]byte{0x81}, 9), 0))...)),
	}
}

func badAnnouncementVectors() []vector {
	v := func(name, expect, comment string, p []pair) vector {
		return vector{"ann-bad-" + name, expect, "announcement", "", comment, sealed(dAnnouncement, mapOf(p...), 4)}
	}
	base := annPairs()
	const form, tooNew = "refuse form", "refuse too-new"
	c := cidBytes("manifest")
	cidOf := func(b ...byte) []pair { return with(base, 6, byt(b)) }
	version := func(s string) []pair { return with(base, 5, txt(s)) }
	out := []vector{
		v("key-unknown", tooNew, "key 15 is not known and below 64", with(base, 15, num(1))),
		v("key-63", tooNew, "key 63 is not known and below 64", with(base, 63, num(1))),
		v("flag-unknown", tooNew, "flag 4 is not known", with(base, 12, num(4))),
		v("flags-zero", form, "flags 0 must be left out", with(base, 12, num(0))),
		v("floor-zero", form, "floor 0 must be left out", with(base, 11, num(0))),
		v("floor-high", form, "a floor above the release's own seq", with(base, 11, num(8))),
		v("via-high", form, "via is the release itself", with(base, 14, num(7))),
		v("root-version-0", form, "root versions begin at 1", with(base, 2, num(0))),
		v("epoch-0", form, "epochs begin at 1", with(base, 3, num(0))),
		v("seq-0", form, "seqs begin at 1", with(base, 4, num(0))),
		v("seq-text", form, "seq as text", with(base, 4, txt("7"))),
		v("manifest-size-0", form, "an empty manifest", with(base, 7, num(0))),
		v("manifest-size", form, "2^50+1 bytes", with(base, 7, num(1<<50+1))),
		v("total-size", form, "2^50+1 bytes", with(base, 8, num(1<<50+1))),
		v("issued", form, "2^63 seconds", with(base, 9, num(1<<63))),
		v("expires-zero", form, "expires 0 must be left out", with(base, 10, num(0))),
		v("product-empty", form, "no name", with(base, 1, txt(""))),
		v("product-65", form, "65 bytes of name", with(base, 1, txt(strings.Repeat("x", 65)))),
		v("product-case", form, "an upper case letter", with(base, 1, txt("XO-os"))),
		v("product-slash", form, "a slash", with(base, 1, txt("xo/os"))),
		v("product-star", form, "a pattern is no name", with(base, 1, txt("xo.*"))),
		v("product-dots", form, "two dots in a row", with(base, 1, txt("xo..os"))),
		v("product-dot-first", form, "a dot at the beginning", with(base, 1, txt(".xo"))),
		v("product-bytes", form, "the name as a byte string", with(base, 1, byt([]byte("xo-os")))),
		v("version-empty", form, "no version", version("")),
		v("version-65", form, "65 bytes of version", version(strings.Repeat("1", 65))),
		v("version-control", form, "a line feed", version("26\n1")),
		v("version-escape", form, "a terminal's escape character", version("\x1b[31m26.1")),
		v("version-bidi", form, "right-to-left override U+202E", version("26\u202e.1")),
		v("version-isolate", form, "bidirectional isolate U+2066", version("26\u2066.1")),
		v("version-zero-width", form, "zero width space U+200B", version("26\u200b.1")),
		v("version-nbsp", form, "no-break space U+00A0", version("26\u00a01")),
		v("version-bom", form, "byte order mark U+FEFF", version("\ufeff26.1")),
		v("version-tag", form, "tag character U+E0031", version("26\U000e0031")),
		v("version-space-last", form, "a space at the end", version("26.1 ")),
		v("cid-empty", form, "no CID", with(base, 6, byt(nil))),
		v("cid-text", form, "the CID as text", with(base, 6, txt("bafkrei"))),
		v("cid-v0", form, "CID version 0", cidOf(c[2:]...)),
		v("cid-v2", form, "CID version 2", cidOf(append([]byte{2}, c[1:]...)...)),
		v("cid-codec", form, "codec dag-pb", cidOf(append([]byte{1, 0x70}, c[2:]...)...)),
		v("cid-hash", form, "hash sha3-256", cidOf(append([]byte{1, 0x55, 0x16}, c[3:]...)...)),
		v("cid-identity", form, "identity hash", cidOf(1, 0x55, 0, 2, 'h', 'i')),
		v("cid-short", form, "a digest of 31 bytes", cidOf(append([]byte{1, 0x55, 0x12, 0x1f}, c[4:35]...)...)),
		v("cid-trailing", form, "a byte after the CID", cidOf(append(slices.Clone(c), 0)...)),
		v("cid-overlong", form, "the codec in two bytes", cidOf(append([]byte{1, 0xd5, 0}, c[2:]...)...)),
	}
	for key := uint64(1); key <= 7; key++ {
		out = append(out, v(fmt.Sprintf("missing-%d", key), form, fmt.Sprintf("key %d is missing", key), with(base, key, nil)))
	}
	return out
}

// addL adds the order of the group to the S of a signature: the same S by its value, in another form.
func addL(sig []byte) []byte {
	l, err := hex.DecodeString("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010")
	if err != nil {
		panic(err)
	}
	out, carry := slices.Clone(sig), 0
	for i := range l {
		n := int(out[32+i]) + int(l[i]) + carry
		out[32+i], carry = byte(n), n>>8
	}
	return out
}

// untrustedVectors are well formed; only the trust root can refuse them.
func untrustedVectors() []vector {
	v := func(name, root, comment string, data []byte) vector {
		return vector{"untrusted-" + name, "refuse trust", "announcement", root, comment, data}
	}
	p := mapOf(annPairs()...)
	sig := rawSig(dAnnouncement, p, 4)
	signed := func(payload, sig []byte) []byte { return arr(byt(payload), arr(sigPair(keyID(4), sig))) }
	flip := func(b []byte, i int) []byte { b = slices.Clone(b); b[i] ^= 1; return b }
	other := mapOf(with(annPairs(), 4, num(8))...)
	product := func(name string, epoch uint64) []byte {
		return mapOf(with(with(annPairs(), 1, txt(name)), 3, num(epoch))...)
	}
	return []vector{
		v("flipped-r", "root-one", "a bit of R flipped", signed(p, flip(sig, 0))),
		v("flipped-s", "root-one", "a bit of S flipped", signed(p, flip(sig, 40))),
		v("flipped-key-id", "root-one", "a bit of the key id flipped", arr(byt(p), arr(sigPair(flip(keyID(4), 3), sig)))),
		v("moved", "root-one", "the signature of another seq", signed(other, sig)),
		v("high-s", "root-one", "S + L instead of S", signed(p, addL(sig))),
		v("zero", "root-one", "a signature of zeros", signed(p, make([]byte, 64))),
		v("stranger", "root-one", "signed by a key that the root does not list", sealed(dAnnouncement, p, 9)),
		v("other-product", "root-one", "signed by the key of lessons.*", sealed(dAnnouncement, p, 5)),
		v("wake-only", "root-one", "signed by the wake role alone", sealed(dAnnouncement, mapOf(with(annPairs(), 12, num(1))...), 6)),
		v("root-keys", "root-one", "signed by the root's keys: they publish nothing", sealed(dAnnouncement, p, 1, 2, 3)),
		v("revoked", "root-two", "signed by a key that root version 2 took away", sealed(dAnnouncement, mapOf(with(annPairs(), 2, num(2))...), 4)),
		v("domain-timestamp", "root-one", "signed as a timestamp", sealed(dTimestamp, p, 4)),
		v("domain-root", "root-one", "signed as a trust root", sealed(dRoot, p, 4)),
		v("domain-none", "root-one", "signed without a domain", sealed("", p, 4)),
		v("no-rule", "root-one", "a product that no rule covers", sealed(dAnnouncement, product("yo-os", 2), 4)),
		v("wildcard-itself", "root-one", "lessons.* does not cover lessons", sealed(dAnnouncement, product("lessons", 1), 5)),
		v("wildcard-near", "root-one", "lessons.* does not cover lessonsx", sealed(dAnnouncement, product("lessonsx", 1), 5)),
		v("epoch-low", "root-one", "an epoch before the trust root's", sealed(dAnnouncement, mapOf(with(annPairs(), 3, num(1))...), 4)),
		v("epoch-high", "root-one", "an epoch after the trust root's", sealed(dAnnouncement, mapOf(with(annPairs(), 3, num(3))...), 4)),
		v("newer-root", "root-one", "signed under root version 2", sealed(dAnnouncement, mapOf(with(annPairs(), 2, num(2))...), 4)),
		v("below-floor", "root-one", "seq 2, the floor is 3", sealed(dAnnouncement, mapOf(with(annPairs(), 4, num(2))...), 4)),
	}
}

func timestampVectors() []vector {
	v := func(name, expect, comment string, data []byte) vector {
		return vector{"time-" + name, expect, "timestamp", "root-one", comment, data}
	}
	one := arr(txt("lessons.5b"), num(1), num(3))
	two := arr(txt("xo-os"), num(2), num(7))
	base := []pair{{1, num(1)}, {2, num(1_790_000_200)}, {3, arr(one, two)}}
	bad := func(name, comment string, p []pair) vector {
		return v("bad-"+name, "refuse form", comment, sealed(dTimestamp, mapOf(p...), 7))
	}
	many := make([][]byte, 513)
	for i := range many {
		many[i] = arr(txt(fmt.Sprintf("p%03d", i)), num(1), num(1))
	}
	return []vector{
		v("two", "accept", "two products", sealed(dTimestamp, mapOf(base...), 7)),
		v("none", "accept", "no products", sealed(dTimestamp, mapOf(with(base, 3, arr())...), 7)),
		v("newer-root", "refuse trust", "signed under root version 2", sealed(dTimestamp, mapOf(with(base, 1, num(2))...), 7)),
		v("2099", "accept", "a timestamp may be wrong; it installs nothing", sealed(dTimestamp, mapOf(with(base, 2, num(4_070_908_800))...), 7)),
		v("other-role", "refuse trust", "signed by a product's key", sealed(dTimestamp, mapOf(base...), 4)),
		v("other-domain", "refuse trust", "signed as an announcement", sealed(dAnnouncement, mapOf(base...), 7)),
		v("announcement", "refuse form", "an announcement", sealed(dAnnouncement, mapOf(annPairs()...), 7)),
		v("too-new", "refuse too-new", "key 4 is not known and below 64", sealed(dTimestamp, mapOf(with(base, 4, num(1))...), 7)),
		bad("issued", "issued must be there", with(base, 2, nil)),
		bad("heads", "heads must be there", with(base, 3, nil)),
		bad("unsorted", "products not sorted", with(base, 3, arr(two, one))),
		bad("twice", "one product twice", with(base, 3, arr(one, one))),
		bad("head-pair", "a head of two values", with(base, 3, arr(arr(txt("xo-os"), num(2))))),
		bad("head-type", "a head with text for seq", with(base, 3, arr(arr(txt("xo-os"), num(2), txt("7"))))),
		bad("seq-0", "seq 0", with(base, 3, arr(arr(txt("xo-os"), num(2), num(0))))),
		bad("513-heads", "at most 512 heads", with(base, 3, arr(many...))),
	}
}
