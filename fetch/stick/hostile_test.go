package stick

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"satchel/announce"
	"satchel/store"
	"satchel/store/manifest"
)

// Hostile sticks, as a reader of files sees them; what a home makes of them is tested in p2p. Each either does not open, or gives what is
// good on it and names what is bad; never does a file have an effect that is not one of satchel's.
func TestHostileFiles(t *testing.T) {
	type outcome struct {
		err      error  // of Open
		problem  string // part of a problem's text
		complete bool   // the release can be fetched all the same
	}
	for name, c := range map[string]struct {
		do   func(t *testing.T, dir string)
		want outcome
	}{
		"71 fifo with a pack's name":        {func(t *testing.T, dir string) { add(t, dir, "0123456789abcdef.pack", unix.S_IFIFO) }, outcome{problem: "not a regular file", complete: true}},
		"71 fifo in place of the pack":      {func(t *testing.T, dir string) { replace(t, dir, "*.pack", unix.S_IFIFO) }, outcome{problem: "not a regular file"}},
		"71 device in place of the pack":    {func(t *testing.T, dir string) { replace(t, dir, "*.pack", unix.S_IFCHR) }, outcome{problem: "not a regular file"}},
		"71 socket in place of the catalog": {func(t *testing.T, dir string) { replace(t, dir, "*.catalog", unix.S_IFSOCK) }, outcome{problem: "not a regular file", complete: true}},
		"71 link to /etc/shadow":            {func(t *testing.T, dir string) { replaceLink(t, dir, "*.root", "/etc/shadow") }, outcome{problem: "not a regular file", complete: true}},
		"71 link to a good pack beside it": {func(t *testing.T, dir string) {
			pack := glob(t, dir, "*.pack")[0]
			must(t, os.Rename(pack, filepath.Join(dir, "elsewhere")))
			must(t, os.Symlink("../elsewhere", pack))
		}, outcome{problem: "not a regular file"}},
		"71 the directory is a link": {func(t *testing.T, dir string) {
			must(t, os.Rename(filepath.Join(dir, Dir), filepath.Join(dir, "real")))
			must(t, os.Symlink("real", filepath.Join(dir, Dir)))
		}, outcome{err: ErrNone}},
		"71 the directory is a file": {func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, Dir)))
			write(t, filepath.Join(dir, Dir), "x")
		}, outcome{err: ErrNone}},
		"71 a linked directory inside": {func(t *testing.T, dir string) {
			must(t, os.Symlink("/etc", filepath.Join(dir, Dir, "more")))
		}, outcome{problem: "not a regular file", complete: true}},
		"72 too many files": {func(t *testing.T, dir string) {
			for i := range maxFiles {
				f, err := os.Create(filepath.Join(dir, Dir, fmt.Sprint(i)))
				must(t, err)
				f.Close()
			}
		}, outcome{err: ErrLimit}},
		"72 deep directories": {func(t *testing.T, dir string) {
			deep := filepath.Join(dir, Dir) + strings.Repeat("/d", 1000)
			must(t, os.MkdirAll(deep, 0o755))
		}, outcome{complete: true}},
		"72 tables that claim all memory": {claims, outcome{problem: "4294967295 pieces", complete: true}},
		"73 cut off in a piece":           {func(t *testing.T, dir string) { cut(t, dir, "*.pack", -1000) }, outcome{problem: "are missing"}},
		"73 cut off in the table": {func(t *testing.T, dir string) { cut(t, dir, "*.pack", 100) },
			outcome{problem: "is cut off: nothing of it can be used"}},
		"73 emptied":                          {func(t *testing.T, dir string) { cut(t, dir, "*.pack", 0) }, outcome{}},
		"73 left over from an aborted export": {func(t *testing.T, dir string) { write(t, filepath.Join(dir, Dir, "0123456789abcdef.tmp"), "half") }, outcome{complete: true}},
		"77 a flipped bit in a piece":         {func(t *testing.T, dir string) { flip(t, glob(t, dir, "*.pack")[0], -1) }, outcome{problem: "damaged on the stick"}},
		"77 a flipped bit in a digest":        {func(t *testing.T, dir string) { flip(t, glob(t, dir, "*.pack")[0], 26) }, outcome{problem: "its table is damaged"}},
		"77 a flipped bit in a size":          {func(t *testing.T, dir string) { flip(t, glob(t, dir, "*.pack")[0], 20) }, outcome{problem: "its table is damaged"}},
		"77 a flipped bit in a checksum": {func(t *testing.T, dir string) {
			pack := glob(t, dir, "*.pack")[0]
			flip(t, pack, offsets(t, pack)[0]-1)
		}, outcome{problem: "its table is damaged", complete: true}},
		"77 a copy with a flipped bit beside the good one": {func(t *testing.T, dir string) {
			pack := glob(t, dir, "*.pack")[0]
			b, err := os.ReadFile(pack)
			must(t, err)
			b[len(b)-1] ^= 1
			write(t, filepath.Join(dir, Dir, "00000000.pac"), string(b))
		}, outcome{problem: "damaged on the stick", complete: true}},
		"78 scripts": {func(t *testing.T, dir string) {
			for _, f := range []string{"autorun.inf", "satchel/autorun.sh", "satchel/install", "satchel/0000000000000000.pack.sh"} {
				path := filepath.Join(dir, f)
				write(t, path, "#!/bin/sh\ntouch "+dir+"/ran\n")
				must(t, os.Chmod(path, 0o777))
			}
		}, outcome{complete: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			r := p.publish("lessons", map[string]string{"a": "small", "big": noise(1, 600_000)})
			dir := t.TempDir()
			p.export(dir, r)
			c.do(t, dir)
			st, err := Open(dir)
			if !errors.Is(err, c.want.err) || (err == nil) != (c.want.err == nil) {
				t.Fatalf("opened: %v, want %v", err, c.want.err)
			}
			if err != nil {
				return
			}
			defer st.Close()
			into := openStore(t)
			_, err = fetchFrom(t, into, r, st)
			if c.want.complete && err != nil || !c.want.complete && !errors.Is(err, context.Canceled) {
				t.Errorf("fetched: %v, want complete %v", err, c.want.complete)
			}
			if bad, err := into.Verify(context.Background(), nil); err != nil || len(bad) > 0 {
				t.Errorf("bad content in the store: %v %v", bad, err)
			}
			if got := strings.Join(st.Problems().Texts, "\n"); c.want.problem == "" && got != "" || !strings.Contains(got, c.want.problem) {
				t.Errorf("problems %q, want %q", got, c.want.problem)
			}
			if _, err := os.Lstat(filepath.Join(dir, "ran")); err == nil {
				t.Error("a script ran")
			}
		})
	}
}

// claims makes a thousand packs that say they have four billion pieces.
func claims(t *testing.T, dir string) {
	for i := range 1000 {
		write(t, filepath.Join(dir, Dir, fmt.Sprintf("%04d.pack", i)), packMagic+"\xff\xff\xff\xff")
	}
}

// fillTables makes more pieces than a stick may have. The files have holes: they take no space.
func fillTables(t *testing.T, dir string, size uint32) {
	table := string(encodeTable(slices.Repeat([]entry{{store.Sum(nil), size}}, maxPackPieces)))
	for i := range maxPieces/maxPackPieces + 1 {
		f := filepath.Join(dir, Dir, fmt.Sprintf("%04d.pack", i))
		write(t, f, table)
		must(t, os.Truncate(f, int64(len(table))+int64(size)*maxPackPieces))
	}
}

// 72: what a stick claims costs no memory.
func TestLimitsBeforeAllocation(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*testing.T, string)
		want error
	}{
		"claims":       {claims, nil},
		"large pieces": {func(t *testing.T, dir string) { fillTables(t, dir, maxPiece) }, nil}, // nearly all lie beyond 4 GiB
		"small pieces": {func(t *testing.T, dir string) { fillTables(t, dir, 1) }, ErrLimit},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, os.Mkdir(filepath.Join(dir, Dir), 0o755))
			c.do(t, dir)
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			st, err := Open(dir)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, c.want) || (err == nil) != (c.want == nil) {
				t.Fatalf("opened: %v, want %v", err, c.want)
			}
			if err == nil {
				defer st.Close()
				if st.Problems().Count == 0 {
					t.Error("nothing is reported")
				}
			}
			// 24 bytes a piece, what append leaves behind, and the tables one after the other.
			if used := after.TotalAlloc - before.TotalAlloc; used > 400<<20 {
				t.Errorf("allocated %d bytes", used)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func add(t *testing.T, dir, name string, kind uint32) {
	t.Helper()
	err := syscall.Mknod(filepath.Join(dir, Dir, name), kind|0o666, int(unix.Mkdev(1, 5)))
	if errors.Is(err, syscall.EPERM) {
		t.Skip("SKIPPED: making a device needs root")
	}
	must(t, err)
}

func replace(t *testing.T, dir, pattern string, kind uint32) {
	t.Helper()
	name := glob(t, dir, pattern)[0]
	must(t, os.Remove(name))
	add(t, dir, filepath.Base(name), kind)
}

func replaceLink(t *testing.T, dir, pattern, target string) {
	t.Helper()
	name := glob(t, dir, pattern)[0]
	must(t, os.Remove(name))
	must(t, os.Symlink(target, name))
}

// cut shortens a file to size, or by as much when size is negative.
func cut(t *testing.T, dir, pattern string, size int64) {
	t.Helper()
	name := glob(t, dir, pattern)[0]
	fi, err := os.Stat(name)
	must(t, err)
	if size < 0 {
		size += fi.Size()
	}
	must(t, os.Truncate(name, size))
}

// 70: what a file becomes after it was listed, or between two readings, does not matter: bytes are hashed where they are used from.
func TestChangesInBetween(t *testing.T) {
	evil := bytes.Repeat([]byte("evil"), 1<<20)
	for name, change := range map[string]func(t *testing.T, pack string){
		"overwritten": func(t *testing.T, pack string) {
			f, err := os.OpenFile(pack, os.O_WRONLY, 0)
			must(t, err)
			defer f.Close()
			_, err = f.WriteAt(evil[:600_000], 2000)
			must(t, err)
		},
		"replaced": func(t *testing.T, pack string) {
			write(t, pack+".new", string(evil))
			must(t, os.Rename(pack+".new", pack))
		},
		"replaced by a fifo": func(t *testing.T, pack string) {
			must(t, os.Remove(pack))
			must(t, syscall.Mkfifo(pack, 0o666))
		},
		"replaced by a link": func(t *testing.T, pack string) {
			must(t, os.Rename(pack, pack+".moved"))
			must(t, os.Symlink(filepath.Base(pack)+".moved", pack))
		},
		"removed": func(t *testing.T, pack string) { must(t, os.Remove(pack)) },
		"emptied": func(t *testing.T, pack string) { must(t, os.Truncate(pack, 0)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPublisher(t)
			r := p.publish("lessons", lessons(1))
			dir := t.TempDir()
			p.export(dir, r)
			st := open(t, dir)
			st.read = onceRead(20, func() { change(t, glob(t, dir, "*.pack")[0]) }, func() {
				for i, f := range st.open {
					f.Close()
					delete(st.open, i)
				}
			})
			into := openStore(t)
			if _, err := fetchFrom(t, into, r, st); !errors.Is(err, context.Canceled) {
				t.Errorf("fetched: %v", err)
			}
			if bad, err := into.Verify(context.Background(), nil); err != nil || len(bad) > 0 {
				t.Errorf("bad content in the store: %v %v", bad, err)
			}
			if st.Problems().Count == 0 {
				t.Error("nothing is reported")
			}
		})
	}
}

// onceRead reads as os.File does, and does something after the n-th time.
func onceRead(n int, do ...func()) func(*os.File, []byte, int64) (int, error) {
	return func(f *os.File, p []byte, off int64) (int, error) {
		k, err := f.ReadAt(p, off)
		if n--; n == 0 {
			for _, d := range do {
				d()
			}
		}
		return k, err
	}
}

// 73: a stick that is pulled out while it is read gives errors, and what came before is good.
func TestPulledOut(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", lessons(1))
	dir := t.TempDir()
	p.export(dir, r)
	st := open(t, dir)
	n := 0
	st.read = func(f *os.File, b []byte, off int64) (int, error) {
		if n++; n > 20 {
			return 0, &os.PathError{Op: "read", Path: f.Name(), Err: syscall.EIO}
		}
		return f.ReadAt(b, off)
	}
	into := openStore(t)
	got, err := fetchFrom(t, into, r, st)
	if !errors.Is(err, context.Canceled) || got.BytesFetched["stick 0"] == 0 {
		t.Errorf("fetched %v, %v", got.BytesFetched, err)
	}
	if p := st.Problems(); !errors.Is(p.Last, syscall.EIO) {
		t.Errorf("%+v", p)
	}
	again := open(t, dir)
	rest, err := fetchFrom(t, into, r, again)
	if err != nil || rest.BytesHere == 0 {
		t.Errorf("plugged in again: %+v, %v", rest, err)
	}
}

// 76, 77 and 78 for documents: a catalog is read as a whole or not at all, whatever it claims.
func TestHostileCatalogs(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", map[string]string{"a": "small"})
	end := func(b []byte) []byte { s := store.Sum(b); return append(b, record(recordEnd, s[:])...) }
	head := append([]byte(catalogMagic), record(recordRoot, make([]byte, 20))...)
	for name, bad := range map[string][]byte{
		"a million documents": end(append(slices.Clone(head), bytes.Repeat(record(recordAnnouncement, nil), 1_000_000)...)),
		"one too many":        end(append(slices.Clone(head), bytes.Repeat(record(recordAnnouncement, nil), MaxAnnouncements+1)...)),
		"65 timestamps":       end(append(slices.Clone(head), bytes.Repeat(record(recordTimestamp, nil), MaxTimestamps+1)...)),
		"a long file":         append(slices.Clone(head), make([]byte, maxCatalog)...),
		"cut off":             p.documents()[:100],
		"noise":               append([]byte(catalogMagic), noise(1, 1000)...),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p.export(dir, r)
			write(t, glob(t, dir, "*.catalog")[0], string(bad))
			st := open(t, dir)
			if n := len(st.Catalogs()); n != 1 {
				t.Fatalf("%d catalogs", n)
			}
			if d, err := st.Documents(st.Catalogs()[0]); !errors.Is(err, ErrDamaged) || d != nil {
				t.Errorf("%v", err)
			}
			st.Close()
			p.export(dir, r) // it is only replaced when it says that it is ours
			st = open(t, dir)
			good := 0
			for _, c := range st.Catalogs() {
				if d, err := st.Documents(c); err == nil && len(d.Announcements) == 1 {
					good++
				}
			}
			if good != 1 {
				t.Errorf("%d good catalogs afterwards", good)
			}
		})
	}
}

// 72: what is longer than it may be is not read: a catalog, a piece.
func TestTooLongIsNotRead(t *testing.T) {
	p := newPublisher(t)
	dir := t.TempDir()
	p.export(dir, p.publish("lessons", map[string]string{"a": "small"}))
	must(t, os.Truncate(glob(t, dir, "*.catalog")[0], 1<<40))
	d := store.Sum([]byte("wanted"))
	table := encodeTable([]entry{{d, 1 << 20}})
	write(t, filepath.Join(dir, Dir, "long"), string(table)+strings.Repeat("x", 1<<20))
	st := open(t, dir)
	if _, err := st.Documents(st.Catalogs()[0]); !errors.Is(err, ErrDamaged) {
		t.Errorf("the catalog: %v", err)
	}
	reads := 0
	st.read = func(f *os.File, b []byte, off int64) (int, error) { reads++; return f.ReadAt(b, off) }
	if _, err := st.Read(d, 1000); !errors.Is(err, ErrAbsent) || reads > 0 || st.Problems().Count > 0 {
		t.Errorf("the piece: %v after %d reads, %v", err, reads, st.Problems())
	}
	if _, err := st.Read(d, 1<<20); !errors.Is(err, ErrDamaged) || reads == 0 {
		t.Errorf("the piece: %v after %d reads", err, reads)
	}
}

func (p *publisher) documents() []byte {
	full := p.cat.RootChain()
	sr, err := announce.ParseRoot(full[len(full)-1].Envelope)
	if err != nil {
		p.t.Fatal(err)
	}
	return documents(p.cat, sr.ID()).Encode()
}

// What is false on a stick does not push out what is true, and what is newer there stays.
func TestExportDoesNotBelieveTheStick(t *testing.T) {
	p := newPublisher(t)
	one := p.publish("lessons", map[string]string{"a": "1"})
	old := p.cat.Kept()
	two := p.publish("lessons", map[string]string{"a": "2"})
	dir := t.TempDir()
	p.export(dir, two)

	// A home that is behind adds to the stick: the newer announcement stays.
	c := p.config(dir, one)
	c.Kept = old
	if _, err := Export(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if seqs := p.announcedOn(dir); !slices.Equal(seqs, []uint64{2}) {
		t.Errorf("announced: %v", seqs)
	}

	// A forger with the highest number of all does not.
	stranger, err := announce.GenerateKey(bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	must(t, err)
	forged, err := (&announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: 1<<64 - 1, Version: "evil", Manifest: two.Manifest,
		ManifestSize: two.ManifestSize, TotalSize: two.TotalSize}).Sign(stranger)
	must(t, err)
	st := open(t, dir)
	d := &Documents{Root: st.Catalogs()[0].Root, Announcements: [][]byte{forged}}
	name := glob(t, dir, "*.catalog")[0]
	st.Close()
	write(t, name, string(d.Encode()))
	p.export(dir, two)
	if seqs := p.announcedOn(dir); !slices.Equal(seqs, []uint64{2}) {
		t.Errorf("announced: %v", seqs)
	}

	// So many false documents are not read to the end.
	p.publish("lessons", map[string]string{"a": "3"})
	_, newest, _ := p.cat.Latest("lessons")
	st = open(t, dir)
	d = &Documents{Root: st.Catalogs()[0].Root, Announcements: append(slices.Repeat([][]byte{forged}, maxRefused), newest)}
	name = st.join(st.Catalogs()[0].Name)
	st.Close()
	write(t, name, string(d.Encode()))
	if _, err := Export(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	if seqs := p.announcedOn(dir); !slices.Equal(seqs, []uint64{1}) {
		t.Errorf("announced: %v", seqs)
	}
}

func (p *publisher) announcedOn(dir string) (seqs []uint64) {
	st := open(p.t, dir)
	defer st.Close()
	for _, c := range st.Catalogs() {
		d, err := st.Documents(c)
		must(p.t, err)
		for _, env := range d.Announcements {
			sa, err := announce.ParseAnnouncement(env)
			must(p.t, err)
			seqs = append(seqs, sa.Seq)
		}
	}
	return seqs
}

// A newer trust root on the stick is kept, and one that does not follow is left alone.
func TestExportMergesRoots(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", map[string]string{"a": "1"})
	old := p.cat.Kept()
	dir := t.TempDir()
	p.export(dir, r)
	if res := p.cat.AddRoot(p.root(2)); res.Verdict != announce.Accept {
		t.Fatal(res.Reason)
	}
	r = p.publish("lessons", map[string]string{"a": "2"})
	p.export(dir, r)
	c := p.config(dir, r)
	c.Kept = old
	if _, err := Export(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	st := open(t, dir)
	if len(st.RootFiles()) != 1 || len(st.Catalogs()) != 1 {
		t.Fatalf("%v %v", st.RootFiles(), st.Catalogs())
	}
	b, err := st.RootFile(st.RootFiles()[0])
	must(t, err)
	f, err := announce.ParseRootFile(b)
	must(t, err)
	if len(f.Steps()) != 2 || f.Last().Version != 2 {
		t.Errorf("%d versions, the last is %d", len(f.Steps()), f.Last().Version)
	}
}

// A stick is written by one at a time, and not while it is read.
func TestInUse(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", map[string]string{"a": "1"})
	dir := t.TempDir()
	p.export(dir, r)
	st := open(t, dir)
	open(t, dir)
	if _, err := Export(context.Background(), p.config(dir, r)); !errors.Is(err, ErrInUse) {
		t.Errorf("exported while it is read: %v", err)
	}
	st.Close()
}

func TestExportErrors(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", lessons(1))
	if _, err := Export(context.Background(), p.config(filepath.Join(t.TempDir(), "gone"), r)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no stick: %v", err)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	if _, err := Export(context.Background(), p.config(file, r)); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a file: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	if _, err := Export(ctx, p.config(dir, r)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// What is damaged here is not passed on.
	m, err := p.store.Manifest(r.Manifest)
	must(t, err)
	i := slices.IndexFunc(m.Blobs(), func(b manifest.Blob) bool { return b.Size > 1<<20 })
	path, err := p.store.BlobFile(m.Blobs()[i].CID, m.Blobs()[i].Mode)
	must(t, err)
	must(t, os.Chmod(path, 0o644))
	flip(t, path, 1000)
	if _, err := Export(context.Background(), p.config(dir, r)); !errors.Is(err, ErrStore) {
		t.Errorf("with a damaged store: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, Dir, "*.*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// A stick that says yes and keeps something else is found out before anything relies on it.
func TestStickThatDoesNotKeep(t *testing.T) {
	p := newPublisher(t)
	r := p.publish("lessons", lessons(1))
	for name, keeps := range map[string]func(p []byte, n int, err error) (int, error){
		"other bytes": func(b []byte, n int, err error) (int, error) {
			if len(b) > 1000 {
				b[500] ^= 1
			}
			return n, err
		},
		"zeros":   func(b []byte, n int, err error) (int, error) { clear(b); return n, err },
		"nothing": func([]byte, int, error) (int, error) { return 0, io.EOF },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			x := newExporter(context.Background(), p.config(dir, r))
			x.read = func(f *os.File, b []byte, off int64) (int, error) {
				n, err := f.ReadAt(b, off)
				return keeps(b, n, err)
			}
			if _, err := x.run(); !errors.Is(err, ErrMedium) {
				t.Errorf("%v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, Dir, "*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}

			// It keeps what is first written, and nothing after that.
			x = newExporter(context.Background(), p.config(dir, r))
			first := ""
			x.read = func(f *os.File, b []byte, off int64) (int, error) {
				n, err := f.ReadAt(b, off)
				if first == "" {
					first = f.Name()
				}
				if f.Name() == first {
					return n, err
				}
				clear(b)
				return n, err
			}
			if _, err := x.run(); !errors.Is(err, ErrMedium) {
				t.Errorf("%v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(dir, Dir, "*")); len(left) != 1 || !strings.HasSuffix(left[0], ".pack") {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A full stick says so at once, or when it happens; what is on it still works.
func TestStickFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Skip("SKIPPED: mounting a small tmpfs needs root")
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	p := newPublisher(t)
	small := p.publish("small", map[string]string{"a": noise(1, 2<<20)})
	p.export(dir, small)
	before := listing(t, dir)
	large := p.publish("large", map[string]string{"a": noise(2, 12<<20)})
	c := p.config(dir, small, large)
	c.Progress = func(p Progress) { t.Errorf("it sets to work: %+v", p) }
	if _, err := Export(context.Background(), c); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("too much: %v", err)
	}
	if listing(t, dir) != before {
		t.Errorf("before and after:\n%s\n%s", before, listing(t, dir))
	}
	c.Progress = func(Progress) { // somebody else fills it meanwhile
		os.WriteFile(filepath.Join(dir, "film"), []byte(noise(3, 5<<20)), 0o644)
	}
	medium := p.publish("medium", map[string]string{"a": noise(4, 4_700_000)})
	c.Releases = p.config(dir, medium).Releases
	if _, err := Export(context.Background(), c); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("filled meanwhile: %v", err)
	}
	if listing(t, dir) != before {
		t.Errorf("before and after:\n%s\n%s", before, listing(t, dir))
	}
	if _, err := fetchFrom(t, openStore(t), small, open(t, dir)); err != nil {
		t.Error(err)
	}
}

// 73: an export that ends anywhere leaves a stick that is at least as good as before, and the next one goes on.
func TestExportEndsAnywhere(t *testing.T) {
	p := newPublisher(t)
	one := p.publish("lessons", map[string]string{"a": noise(1, 200_000), "b": noise(2, 50_000)})
	dir := t.TempDir()
	p.export(dir, one)
	two := p.publish("lessons", map[string]string{"a": noise(3, 400_000), "b": noise(4, 50_000), "c": noise(2, 50_000)})
	ends := 0
	for whole := false; !whole; ends++ {
		ctx, cancel := context.WithCancel(context.Background())
		c := p.config(dir, two)
		left := ends
		c.Progress = func(Progress) {
			if left--; left < 0 {
				cancel()
			}
		}
		x := newExporter(ctx, c)
		x.most = 100_000
		_, err := x.run()
		cancel()
		if whole = err == nil; !whole && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if ends%3 == 0 && !whole { // as if it were killed: the end of a file is missing, and its name is not the last one
			write(t, filepath.Join(dir, Dir, "0123456789abcdef.tmp"), packMagic)
		}
		want, seq := one, uint64(1)
		if whole {
			want, seq = two, 2
		}
		if seqs := p.announcedOn(dir); !slices.Equal(seqs, []uint64{seq}) { // what is announced is there
			t.Errorf("after %d steps: announced %v", ends, seqs)
		}
		st := open(t, dir)
		if _, err := fetchFrom(t, openStore(t), want, st); err != nil {
			t.Fatalf("after %d steps: %v", ends, err)
		}
		if st.Problems().Count > 0 && !whole {
			t.Errorf("after %d steps: %v", ends, st.Problems().Texts)
		}
		st.Close()
	}
	if seqs := p.announcedOn(dir); ends < 5 || !slices.Equal(seqs, []uint64{2}) {
		t.Errorf("%d ends, announced %v", ends, seqs)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, Dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
