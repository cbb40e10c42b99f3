package p2p

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"satchel/announce"
)

// slot is where sticks are put in: a home without a network that follows lessons, of which it has applied seq 2. Sticks are made
// hostile from good ones.
type slot struct {
	n     *Node
	image string
	usb   map[string]string // good sticks: with seq 1, 2 and 3 of lessons, with another product, and of another publisher
}

func newSlot(t *testing.T) *slot {
	s := &slot{image: t.TempDir(), usb: map[string]string{}}
	key := newPen(t)
	root := rootOf(t, key, announce.ProductRule{Pattern: "*"})
	publisher := openNode(t, Config{}, root)
	export := func(n *Node, name, product string) {
		s.usb[name] = t.TempDir()
		_, err := n.Export(t.Context(), ExportOptions{Dir: s.usb[name], Products: []string{product}}, nil)
		check(t, err)
	}
	big := random(1 << 20)
	for seq := uint64(1); seq <= 3; seq++ {
		publishHere(t, publisher, key.PrivateKey, announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: seq, Version: "v"},
			map[string]string{"README": fmt.Sprint(seq), "big": big, "new": random(300_000)})
		export(publisher, fmt.Sprint(seq), "lessons")
	}
	artist := openNode(t, Config{}, root)
	publishHere(t, artist, key.PrivateKey, announce.Announcement{Product: "art", RootVer: 1, Epoch: 1, Seq: 1, Version: "v"}, map[string]string{"a": "picture"})
	export(artist, "art", "art")
	thief := newPen(t)
	other := openNode(t, Config{}, rootOf(t, thief, announce.ProductRule{Pattern: "*"}))
	publishHere(t, other, thief.PrivateKey, announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: 9, Version: "evil"}, map[string]string{"README": "evil"})
	export(other, "forged", "lessons")

	s.n = openNode(t, Config{}, root)
	check(t, s.n.Follow("lessons", s.image))
	for _, name := range []string{"1", "2"} {
		_, err := s.n.Import(t.Context(), s.usb[name], nil)
		check(t, err)
		_, err = s.n.Apply(t.Context(), "lessons")
		check(t, err)
	}
	return s
}

// stickRow is a hostile stick.
type stickRow struct {
	number  int
	input   string
	from    string                         // the good stick it is made of
	spoil   func(t *testing.T, usb string) // nil: it is as it was
	code    string                         // of the error; empty: none
	outcome string                         // of lessons; empty: the stick says nothing of it
	problem string                         // in what is reported as wrong
	knows   bool                           // it tells truly of a release that is not wanted here
	parts   bool                           // it has good parts, which may be kept: not more than that
}

// stickRows: those that leave something here come last.
func stickRows(t *testing.T) (out []row) {
	s := newSlot(t)
	for _, r := range stickInputs {
		out = append(out, row{r.number, r.input, func(t *testing.T) { s.run(t, r) }})
	}
	return append(out, row{76, "names in upper case and 8.3", s.renamed})
}

// on are the files of a stick that match a pattern.
func on(t *testing.T, usb, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(usb + "/satchel/" + pattern)
	check(t, err)
	if len(found) == 0 {
		t.Fatalf("no %s on the stick", pattern)
	}
	return found
}

// overwrite changes bytes near the end of each pack, in place.
func overwrite(t *testing.T, usb string) {
	for _, pack := range on(t, usb, "*.pack") {
		f, err := os.OpenFile(pack, os.O_RDWR, 0)
		check(t, err)
		fi, err := f.Stat()
		check(t, err)
		_, err = f.WriteAt([]byte(random(100)), fi.Size()-1000)
		check(t, err)
		check(t, f.Close())
	}
}

var stickInputs = []stickRow{
	{number: 71, input: "a pipe, a link and a directory for files", from: "3", spoil: func(t *testing.T, usb string) {
		for i, name := range on(t, usb, "*.*") {
			check(t, os.Remove(name))
			switch i % 3 {
			case 0:
				check(t, syscall.Mkfifo(name, 0o666))
			case 1:
				check(t, os.Symlink("/etc/passwd", name))
			default:
				check(t, os.Mkdir(name, 0o777))
			}
		}
	}, code: CodeCorrupt, problem: "not a regular file"},
	{number: 71, input: "a link for the directory", from: "3", spoil: func(t *testing.T, usb string) {
		check(t, os.Rename(usb+"/satchel", usb+"/real"))
		check(t, os.Symlink("real", usb+"/satchel"))
	}, code: CodeNotFound},
	{number: 72, input: "more files than a stick has", from: "3", spoil: func(t *testing.T, usb string) {
		for i := range 17_000 {
			check(t, os.WriteFile(fmt.Sprintf("%s/satchel/%d", usb, i), nil, 0o644))
		}
	}, code: CodeRefused},
	{number: 72, input: "directories a thousand deep", from: "2", spoil: func(t *testing.T, usb string) {
		check(t, os.MkdirAll(usb+"/satchel"+strings.Repeat("/d", 1000), 0o755))
	}, outcome: StickHere},
	{number: 72, input: "tables that claim all memory", from: "2", spoil: func(t *testing.T, usb string) {
		for i := range 100 {
			check(t, os.WriteFile(fmt.Sprintf("%s/satchel/%d.pack", usb, i), []byte("satchel pack v1\n\xff\xff\xff\xff"), 0o644))
		}
	}, outcome: StickHere, problem: "4294967295 pieces"},
	{number: 73, input: "pulled out before the catalog was written", from: "3", spoil: func(t *testing.T, usb string) {
		check(t, os.Remove(on(t, usb, "*.catalog")[0]))
	}, code: CodeNotFound},
	{number: 74, input: "an older release", from: "1", code: CodeOlder, outcome: StickOlder},
	{number: 75, input: "another product", from: "art", code: CodeNotFound, knows: true},
	{number: 75, input: "a self-made root", from: "forged", code: CodeRefused},
	{number: 77, input: "a bad byte in the catalog", from: "3", spoil: func(t *testing.T, usb string) {
		name := on(t, usb, "*.catalog")[0]
		b, err := os.ReadFile(name)
		check(t, err)
		check(t, os.WriteFile(name, flipped(b, 100), 0o644))
	}, code: CodeCorrupt, problem: "checksum"},
	{number: 78, input: "scripts", from: "2", spoil: func(t *testing.T, usb string) {
		for _, name := range []string{"autorun.inf", "satchel/autorun.sh", "satchel/install", "satchel/0000000000000000.pack.sh"} {
			check(t, os.WriteFile(filepath.Join(usb, name), []byte("#!/bin/sh\ntouch "+usb+"/ran\n"), 0o777))
		}
	}, outcome: StickHere},
	{number: 77, input: "good and bad pieces", from: "3", spoil: overwrite, code: CodeCorrupt, outcome: StickIncomplete, problem: "damaged on the stick", parts: true},
	{number: 70, input: "a pack that changes while it is read", from: "3", spoil: overwrite, code: CodeCorrupt, outcome: StickIncomplete, problem: "damaged on the stick", parts: true},
	{number: 73, input: "pulled out when only a part was written", from: "3", spoil: func(t *testing.T, usb string) {
		for _, pack := range on(t, usb, "*.pack") {
			fi, err := os.Stat(pack)
			check(t, err)
			check(t, os.Truncate(pack, fi.Size()-50_000))
		}
	}, code: CodeCorrupt, outcome: StickIncomplete, problem: "is cut off", parts: true},
}

// run imports a hostile stick.
func (s *slot) run(t *testing.T, r stickRow) {
	usb := filepath.Join(t.TempDir(), "usb")
	check(t, os.CopyFS(usb, os.DirFS(s.usb[r.from])))
	if r.spoil != nil {
		r.spoil(t, usb)
	}
	before := snapshot(t, s.n, s.image)
	res, err := s.insert(t, usb, func() {
		if r.number == 70 {
			overwrite(t, usb)
		}
	})
	if r.code == "" {
		check(t, err)
	} else {
		refused(t, "importing", err, r.code)
	}
	if got := lessonsOn(res).Outcome; got != r.outcome {
		t.Errorf("outcome %q, want %q", got, r.outcome)
	}
	if got := strings.Join(res.Problems, "\n"); r.problem == "" && got != "" || !strings.Contains(got, r.problem) {
		t.Errorf("problems %q, want %q", got, r.problem)
	}
	after := snapshot(t, s.n, s.image)
	switch {
	case r.parts:
		same(t, before, after, "announced/lessons", "store/")
	case r.knows:
		same(t, before, after, "announced/art")
	default:
		same(t, before, after)
	}
	if r.number == 77 && r.parts && res.BytesFetched == 0 {
		t.Error("what was good is not kept")
	}
	if p := s.n.productStatus("lessons"); p.Ready != nil || p.Live.Seq != 2 {
		t.Errorf("%+v", p)
	}
	if bad, err := s.n.Store().Verify(t.Context(), nil); err != nil || len(bad) > 0 {
		t.Errorf("bad content in the store: %v, %v", bad, err)
	}
	if _, err := os.Lstat(usb + "/ran"); err == nil {
		t.Error("a script ran")
	}
}

// insert imports a stick; while is called when it is read for the first time.
func (s *slot) insert(t *testing.T, usb string, while func()) (ImportResult, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	once := sync.OnceFunc(while)
	return s.n.Import(ctx, usb, func(StickProgress) { once() })
}

func lessonsOn(res ImportResult) (p ImportedProduct) {
	for _, p := range res.Products {
		if p.Product == "lessons" {
			return p
		}
	}
	return p
}

// renamed: a file system that knows short names only takes nothing away; and with a good stick everything is well again.
func (s *slot) renamed(t *testing.T) {
	usb := filepath.Join(t.TempDir(), "usb")
	check(t, os.CopyFS(usb, os.DirFS(s.usb["3"])))
	for i, name := range on(t, usb, "*") {
		check(t, os.Rename(name, fmt.Sprintf("%s/satchel/%c1B2C3~1.%s", usb, 'A'+i, strings.ToUpper(filepath.Ext(name)[1:]))))
	}
	check(t, os.Rename(usb+"/satchel", usb+"/SATCHEL"))
	before := snapshot(t, s.n, s.image)
	res, err := s.insert(t, usb, func() {})
	if err != nil || lessonsOn(res).Outcome != StickReady || len(res.Problems) > 0 {
		t.Fatalf("%v, %+v", err, res)
	}
	same(t, before, snapshot(t, s.n, s.image), "announced/lessons", "complete/", "fetches/lessons", "store/", "image/deploy")
	_, err = s.n.Apply(t.Context(), "lessons")
	check(t, err)
	hasFiles(t, s.image, map[string]string{"README": "3"})
}
