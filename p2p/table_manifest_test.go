package p2p

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"

	"satchel/announce"
	"satchel/store"
	"satchel/store/manifest"
)

// press is a node that follows lessons, and a publisher whose key is stolen: whatever manifest is made here is well announced, and served
// by a stranger.
type press struct {
	n      *Node
	image  string
	key    pen
	seq    uint64             // of the newest release
	live   uint64             // of what is live
	taken  cid.Cid            // a manifest made by hand that was taken
	sheets map[cid.Cid][]byte // what the stranger serves besides what is in the store
	by     *outsider
	honest *store.Store
}

func newPress(t *testing.T) *press {
	p := &press{key: newPen(t), image: t.TempDir(), sheets: map[cid.Cid][]byte{}}
	p.n = openNode(t, Config{}, rootOf(t, p.key, announce.ProductRule{Pattern: "*"}))
	var err error
	p.honest, err = store.Open(t.TempDir())
	check(t, err)
	t.Cleanup(func() { p.honest.Close() })
	check(t, p.n.Follow("lessons", p.image))
	p.seq, p.live = 1, 1
	publishHere(t, p.n, p.key.PrivateKey, announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: 1, Version: "v"}, map[string]string{"README": "one", "big": random(300_000)})
	_, err = p.n.Apply(t.Context(), "lessons")
	check(t, err)
	runNode(t, p.n)
	p.by = newOutsider(t, p.n)
	store := honestly(p.honest)
	p.by.serve = func(q ask) []byte {
		if b, ok := p.sheets[q.blob]; ok && q.offset+q.length <= uint64(len(b)) {
			return dataFrame(q.id, b[q.offset:][:q.length])
		}
		return store(q)
	}
	p.by.meet(t)
	p.by.gossiped(t) // who stays must join the topic
	return p
}

// rootOf is a root with one key and one rule, what may be allowed is in the rule.
func rootOf(t *testing.T, key pen, rules ...announce.ProductRule) []byte {
	t.Helper()
	ids := []announce.KeyID{key.id()}
	role := announce.RoleRule{Keys: ids, Threshold: 1}
	r := announce.Root{Version: 1, Keys: []announce.PublicKey{key.Public()},
		Roles: map[announce.Role]announce.RoleRule{announce.RoleRoot: role, announce.RoleTimestamp: role, announce.RoleWake: role}}
	for _, p := range rules {
		p.Epoch, p.Keys, p.Threshold, p.Class = 1, ids, 1, announce.ClassContent
		r.Products = append(r.Products, p)
	}
	env, err := r.Sign(key.PrivateKey)
	check(t, err)
	return env
}

// leaf is an entry of a manifest.
func leaf(path string, kind uint64, mode uint64, size uint64, blob []byte, link string) []byte {
	return cborArray(cborText(path), cborUint(kind), cborUint(mode), cborUint(size), cborBytes(blob), cborText(link))
}

func emptyFile(path string) []byte { return leaf(path, 1, 0o644, 0, emptyBlob(), "") }
func emptyBlob() []byte            { return store.RawCID(store.Sum(nil)).Bytes() }
func folder(path string) []byte    { return leaf(path, 0, 0o755, 0, nil, "") }
func linkTo(path, to string) []byte {
	return leaf(path, 2, 0o777, 0, nil, to)
}

// sized is a file of a blob that nobody has.
func sized(path string, size uint64) []byte {
	return leaf(path, 1, 0o644, size, store.RawCID(store.Sum([]byte("blob"))).Bytes(), "")
}

// sheetOf is the manifest of a release of lessons.
func sheetOf(seq uint64, entries ...[]byte) []byte {
	return sheetWith("lessons", 1, seq, cborArray(entries...))
}

func sheetWith(product string, epoch, seq uint64, entries []byte) []byte {
	var fields []pair
	for i, v := range [][]byte{cborUint(1), cborText(product), cborUint(epoch), cborUint(seq), cborText("v"), cborText(""), entries} {
		fields = append(fields, pair{cborUint(uint64(i + 1)), v})
	}
	return cborMap(fields...)
}

// entries makes a manifest for the release of a number.
type entries func(seq uint64) []byte

func of(list ...[]byte) entries { return func(seq uint64) []byte { return sheetOf(seq, list...) } }

// manifestRow is a manifest that is refused as a whole: the release fails with an error that has text in it.
type manifestRow struct {
	number int
	input  string
	text   string
	sheets []entries
}

func manifestRows(t *testing.T) (out []row) {
	p := newPress(t)
	for _, r := range p.rows() {
		out = append(out, row{r.number, r.input, func(t *testing.T) { p.run(t, r) }})
	}
	out = append(out, p.stories()...)
	slices.SortStableFunc(out, func(a, b row) int { return a.number - b.number })
	return out
}

// announced lets the stranger gossip the release that a describes, with a manifest that it serves.
func (p *press) announced(t *testing.T, a announce.Announcement, data []byte) cid.Cid {
	t.Helper()
	if !a.Manifest.Defined() {
		a.Manifest = store.RawCID(store.Sum(data))
		a.ManifestSize = uint64(len(data))
	}
	a.Product, a.RootVer, a.Epoch, a.Version = "lessons", 1, 1, "v"
	env, err := a.Sign(p.key.PrivateKey)
	check(t, err)
	if data != nil {
		p.sheets[a.Manifest] = data
	}
	p.by.has(a.Manifest)
	p.by.gossiped(t, env)
	return a.Manifest
}

// run brings each manifest of a row as the next release.
func (p *press) run(t *testing.T, r manifestRow) {
	for i, make := range r.sheets {
		before := snapshot(t, p.n, p.image)
		p.seq++
		m := p.announced(t, announce.Announcement{Seq: p.seq}, make(p.seq))
		p.failed(t, fmt.Sprint("manifest ", i), r.text)
		p.nothingElse(t, before, m)
	}
}

// failed waits until the newest release has failed, with a clear error.
func (p *press) failed(t *testing.T, what, text string) {
	t.Helper()
	var s ProductStatus
	until(t, what+" to be refused", func() bool {
		s = p.n.productStatus("lessons")
		return s.Newest != nil && s.Newest.Seq == p.seq && s.State == StateFailed
	})
	if !strings.Contains(s.Error, text) || s.Hint == "" || s.Ready != nil || s.Live == nil || s.Live.Seq != p.live {
		t.Errorf("%s: error %q, hint %q, want %q and a hint; ready %v, live %v", what, s.Error, s.Hint, text, s.Ready, s.Live)
	}
	if shutOut(p.n, p.by.ID()) {
		t.Fatal("who served it is shut out, and it was the publisher's fault")
	}
}

// nothingElse checks that besides the announcement nothing came but the manifest, which is what it was announced to be.
func (p *press) nothingElse(t *testing.T, before map[string]string, m cid.Cid) {
	t.Helper()
	after := snapshot(t, p.n, p.image)
	for name, what := range after {
		switch dir, file := filepath.Split(name); {
		case file != m.String():
		case strings.HasPrefix(name, "store/blobs/") && !strings.HasSuffix(what, store.DigestOf(m).String()):
			t.Errorf("%s is %s", name, what)
		default: // a mark that it is a manifest, or the directory it is in
			delete(after, name)
			if dir = strings.TrimSuffix(dir, "/"); before[dir] == "" {
				delete(after, dir)
			}
		}
	}
	same(t, before, after, "announced/lessons")
}

func (p *press) rows() []manifestRow {
	long := strings.Repeat("x", 255)
	deep := func(n int) (list [][]byte) {
		for i := 1; i <= n; i++ {
			list = append(list, folder(strings.TrimSuffix(strings.Repeat("d/", i), "/")))
		}
		return list
	}
	one := func(path string) entries { return of(emptyFile(path)) }
	return []manifestRow{
		{40, "paths out of the tree", "path component", []entries{one("../x"), one("a/../../x"), one(".."), one("."), one("./a"), one("a//b"), one("a/")}},
		{40, "an absolute path, an empty one", "path", []entries{one("/etc/passwd"), one(""), one("/")}},
		{40, "a path with NUL", "control", []entries{one("a\x00b")}},
		{40, "a backslash", "backslash", []entries{one(`a\b`), one(`..\x`)}},
		{41, "long components and paths", "limit", []entries{one(long + "x"), one(strings.Repeat(long+"/", 16) + "x")}},
		{41, "a deep path", "deeper", []entries{of(deep(65)...)}},
		{42, "equal paths", "not after", []entries{of(emptyFile("a"), emptyFile("a")), of(emptyFile("a"), folder("a")), of(folder("a"), linkTo("a", "b"))}},
		{42, "below a file or a link", "no directory", []entries{of(emptyFile("a"), emptyFile("a/b")), of(linkTo("l", "/etc"), emptyFile("l/passwd")), one("gone/b")}},
		{43, "names that only case or Unicode form tells apart", "same name", []entries{of(emptyFile("README"), emptyFile("Readme")), of(folder("Stra\u00dfe"), emptyFile("Stra\u00dfe/x"), emptyFile("strasse")),
			of(emptyFile("s"), emptyFile("\u017f"))}},
		{43, "NFC and NFD of one name", "normal form", []entries{of(emptyFile("e\u0301"), emptyFile("\u00e9"))}},
		{44, "not sorted", "not after", []entries{of(emptyFile("b"), emptyFile("a"))}},
		{45, "not NFC", "normal form", []entries{one("e\u0301")}},
		{45, "control and bidirectional characters", "control", []entries{one("a\nb"), one("a\x1b[2J"), one("a\u202egpj.exe"), one("\u2066a"), one("a\x7f"), one("a\u2028b")}},
		{45, "no UTF-8", "", []entries{one("a\xff")}},
		{46, "links out of the tree", "leaves the tree", []entries{of(linkTo("l", "/etc/passwd")), of(linkTo("l", "..")), of(folder("d"), linkTo("d/l", "../../x")),
			of(folder("d"), folder("d/e"), linkTo("d/e/up", ".."), linkTo("l", "d/e/up/../../x"))}},
		{46, "links in a loop", "loop", []entries{of(linkTo("l", "l")), of(linkTo("a", "b"), linkTo("b", "a")), of(folder("d"), linkTo("d/l", "../d/l/x"))}},
		{46, "a long link target", "limit", []entries{of(linkTo("l", strings.Repeat("x", 4096)))}},
		{47, "hard links", "unknown type", []entries{of(leaf("h", 3, 0o644, 0, nil, "/etc/passwd")), of(leaf("h", 3, 0o644, 0, nil, "later"), emptyFile("later"))}},
		{48, "devices, pipes, sockets and whiteouts", "unknown type", []entries{of(leaf("n", 4, 0o666, 0, nil, "")), of(leaf("n", 5, 0o666, 0, nil, "")), of(leaf("n", 6, 0o666, 0, nil, "")),
			of(leaf("n", 7, 0o666, 0, nil, "")), of(leaf("n", 255, 0o666, 0, nil, ""))}},
		{48, "device bits in a mode", "mode", []entries{of(leaf("n", 1, 0o20644, 0, emptyBlob(), "")), of(leaf("n", 1, 0o10644, 0, emptyBlob(), "")), of(leaf("n", 1, 1<<31, 0, emptyBlob(), ""))}},
		{49, "setuid, setgid, sticky, and writable by everybody", "setuid", []entries{of(leaf("n", 1, 0o4755, 0, emptyBlob(), "")), of(leaf("n", 1, 0o2755, 0, emptyBlob(), "")),
			of(leaf("n", 0, 0o1755, 0, nil, "")), of(leaf("n", 1, 0o666, 0, emptyBlob(), "")), of(leaf("n", 0, 0o777, 0, nil, ""))}},
		{50, "owners, capabilities and attributes", "", []entries{
			of(cborArray(cborText("a"), cborUint(1), cborUint(0o644), cborUint(0), cborBytes(emptyBlob()), cborText(""), cborUint(0), cborUint(0))),
			of(cborArray(cborText("a"), cborUint(1), cborUint(0o644), cborUint(0), cborBytes(emptyBlob()), cborText(""), cborMap(pair{cborText("security.capability"), cborBytes([]byte{1})}))),
			func(seq uint64) []byte {
				return append(append([]byte{0xa8}, sheetOf(seq, emptyFile("a"))[1:]...), 8, 0)
			}}},
		{51, "more entries than there can be", "limit", []entries{
			func(seq uint64) []byte { return sheetWith("lessons", 1, seq, cborHead(4, 10_000_000)) },
			func(seq uint64) []byte { return sheetWith("lessons", 1, seq, cborHead(4, math.MaxUint64)) }}},
		{51, "more bytes than announced", "announced", []entries{of(sized("a", 1000)), of(emptyFile("a"), sized("b", 1<<17), sized("c", 1<<17))}},
		{51, "a sum above 2^64", "limit", []entries{of(sized("a", 1<<63), sized("b", 1<<63))}},
		{52, "a file of 2^63 bytes and more", "limit", []entries{of(sized("a", 1<<63)), of(sized("a", math.MaxUint64)), of(sized("a", 64<<30+1))}},
		{53, "names of devices and short names", "", []entries{one("CON"), one("aux"), one("nul.txt"), one("COM1"), one("PROGRA~1"), one("LONGNA~2.TXT"), one("a."), one("a ")}},
		{54, "one blob with two sizes", "", []entries{of(sized("a", 4), sized("b", 5))}},
		{55, "the manifest of something else", "the manifest is for", []entries{
			func(seq uint64) []byte { return sheetWith("lesson", 1, seq, cborArray(emptyFile("a"))) },
			func(seq uint64) []byte { return sheetWith("lessons", 2, seq, cborArray(emptyFile("a"))) },
			func(seq uint64) []byte { return sheetOf(seq+1, emptyFile("a")) },
			func(seq uint64) []byte { return sheetOf(seq-1, emptyFile("a")) },
			func(seq uint64) []byte { return sheetOf(0, emptyFile("a")) }}},
	}
}

// stories are the rows in which something is taken, too.
func (p *press) stories() []row {
	return []row{
		{40, "what is here and not refused is taken", p.control},
		{39, "other bytes than announced", p.otherBytes},
		{39, "another size than announced", p.otherSize},
		{53, "names that satchel itself has are ordinary ones", p.ordinary},
		{55, "the manifest of an older release that is here", p.olderUnsaid},
		{56, "a part of a release that goes back", func(t *testing.T) {
			t.Log("updates of an image from an image do not exist yet; that an older release must be said to be a recall is row 55")
			p.olderUnsaid(t)
		}},
	}
}

// release is the next honest one.
func (p *press) release(t *testing.T, files map[string]string) announce.Announcement {
	t.Helper()
	p.seq++
	a := announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: p.seq, Version: "v"}
	signInto(t, p.honest, &a, files)
	return a
}

// control: a manifest that is made like those that are refused, and is as it should be, is taken.
func (p *press) control(t *testing.T) {
	p.seq++
	p.taken = p.announced(t, announce.Announcement{Seq: p.seq}, sheetOf(p.seq, emptyFile("-a"), folder("d"), linkTo("d/l", "../z/m"),
		emptyFile("d/"+strings.Repeat("x", 255)), leaf("e", 1, 0o755, 0, emptyBlob(), ""), folder("z"), linkTo("z/m", "../\u00e9"), emptyFile("\u00e9")))
	p.ready(t)
}

// otherBytes: who sends something else than the manifest that was announced is shut out before it is read, and others bring it.
func (p *press) otherBytes(t *testing.T) {
	a := p.release(t, map[string]string{"README": "two"})
	size := int(a.ManifestSize)
	evil := sheetOf(p.seq, emptyFile("../x")) // a manifest that would be refused for what it says
	evil = append(evil, make([]byte, size-len(evil))...)
	before := snapshot(t, p.n, p.image)
	for i, bytes := range [][]byte{evil, make([]byte, size), append(evil, 0), evil[:size-1], nil} {
		liar := newOutsider(t, p.n)
		liar.serve = func(q ask) []byte { return dataFrame(q.id, bytes) }
		liar.has(a.Manifest)
		liar.meet(t)
		if i == 0 {
			env, err := a.Sign(p.key.PrivateKey)
			check(t, err)
			liar.gossiped(t, env)
		}
		until(t, "the liar to be shut out", func() bool { return shutOut(p.n, liar.ID()) })
		liar.Close()
		same(t, before, snapshot(t, p.n, p.image), "announced/lessons")
		if s := p.n.productStatus("lessons"); s.State != StateFetching {
			t.Errorf("bytes %d: %+v", i, s)
		}
	}
	p.by.has(a.Manifest)
	p.ready(t)
}

// ready waits until the newest release is staged.
func (p *press) ready(t *testing.T) {
	t.Helper()
	until(t, "the release", func() bool {
		s := p.n.productStatus("lessons")
		return s.Newest.Seq == p.seq && s.State == StateReady
	})
}

// otherSize: a manifest that has another size than announced is its publisher's fault.
func (p *press) otherSize(t *testing.T) {
	files := map[string]string{}
	for i := range 3000 {
		files[fmt.Sprintf("a long name, so that there is more than one chunk of them %05d", i)] = ""
	}
	a := p.release(t, files)
	for _, size := range []uint64{a.ManifestSize + 1, a.ManifestSize - 1, 1, manifest.MaxSize + 1} {
		before := snapshot(t, p.n, p.image)
		a.Seq, a.ManifestSize = p.seq, size
		p.announced(t, a, nil)
		p.failed(t, fmt.Sprint("size ", size), "bytes,")
		same(t, before, snapshot(t, p.n, p.image), "announced/lessons")
		p.seq++
	}
	// One of one chunk nobody can have: nobody is to blame, and nothing comes.
	a = p.release(t, map[string]string{"README": "small"})
	a.ManifestSize++
	before := snapshot(t, p.n, p.image)
	asked := make(chan bool, 100)
	serve := p.by.serve
	p.by.serve = func(q ask) []byte { asked <- q.blob == a.Manifest; return serve(q) }
	p.announced(t, a, nil)
	for !<-asked {
	}
	if shutOut(p.n, p.by.ID()) {
		t.Error("who has not got it is shut out")
	}
	same(t, before, snapshot(t, p.n, p.image), "announced/lessons")
}

// ordinary: what satchel calls its own files may be in a tree, which has a directory of its own; and after all that was refused a true
// release is taken, and the rest can be given back.
func (p *press) ordinary(t *testing.T) {
	boot, err := os.ReadFile(filepath.Join(p.image, "boot.0"))
	check(t, err)
	files := map[string]string{"README": "three"}
	for _, name := range []string{"boot.0", "boot.1", "current", "deploy", "state", "state.db", ".tmp", "lock", "-rf", "x.tmp", "$(reboot)", "a b"} {
		files[name] = "mine"
	}
	a := p.release(t, files)
	p.announced(t, a, nil)
	p.ready(t)
	if now, err := os.ReadFile(filepath.Join(p.image, "boot.0")); err != nil || !bytes.Equal(now, boot) {
		t.Errorf("the boot record changed: %v", err)
	}
	_, err = p.n.Apply(t.Context(), "lessons")
	check(t, err)
	p.live = p.seq
	for name, text := range files {
		if b, err := os.ReadFile(filepath.Join(p.image, "current", name)); err != nil || string(b) != text {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	_, err = p.n.Prune(t.Context(), UsualPrune)
	check(t, err)
	for m := range p.sheets {
		if m != a.Manifest && m != p.taken && p.n.Store().Has(m) {
			t.Errorf("%v is not given back", m)
		}
	}
	if bad, err := p.n.Store().Verify(t.Context(), nil); err != nil || len(bad) > 0 {
		t.Errorf("the store has %v, %v", bad, err)
	}
}

// olderUnsaid: older content under a newer number is taken only if it is said to be that, also where the content is here.
func (p *press) olderUnsaid(t *testing.T) {
	one, _ := p.n.Past("lessons", 0, 1)
	m, err := cid.Decode(one.Manifest)
	check(t, err)
	before := snapshot(t, p.n, p.image)
	p.seq++
	p.announced(t, announce.Announcement{Seq: p.seq, Manifest: m, ManifestSize: one.ManifestSize, TotalSize: one.TotalSize}, nil)
	p.failed(t, "it", "the manifest is")
	same(t, before, snapshot(t, p.n, p.image), "announced/lessons")
}
