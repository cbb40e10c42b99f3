package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ipfs/go-cid"
	"satchel/store"
)

func open(t testing.TB, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func put(t testing.TB, s *store.Store, data string) cid.Cid {
	t.Helper()
	c := store.RawCID(store.Sum([]byte(data)))
	if err := s.Put(c, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
	return c
}

func sync1(t testing.TB, s *store.Store) {
	t.Helper()
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, s *store.Store, c cid.Cid) []byte {
	t.Helper()
	f, size, err := s.OpenBlob(c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil || int64(len(data)) != size {
		t.Fatalf("read %d of %d bytes, %v", len(data), size, err)
	}
	return data
}

// blobFile is where a blob must lie, by FORMAT.md.
func blobFile(dir string, c cid.Cid) string {
	return filepath.Join(dir, "blobs", store.DigestOf(c).String()[62:], c.String())
}

// files lists a tree's files and other entries that are not directories.
func files(t testing.TB, dir string) (list []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			list = append(list, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestPutAndRead(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	c := put(t, s, "hello")
	check := func(when string) {
		t.Helper()
		if !s.Has(c) {
			t.Errorf("%s: not here", when)
		}
		if got := read(t, s, c); string(got) != "hello" {
			t.Errorf("%s: %q", when, got)
		}
		p := make([]byte, 3)
		if err := s.ReadRange(c, 2, p); err != nil || string(p) != "llo" {
			t.Errorf("%s: range %q, %v", when, p, err)
		}
	}
	check("pending")
	if _, err := os.Stat(blobFile(dir, c)); err == nil {
		t.Error("it has its name before Sync")
	}
	sync1(t, s)
	check("after Sync")
	if fi, err := os.Stat(blobFile(dir, c)); err != nil || fi.Mode() != 0o644 {
		t.Errorf("file: %v, %v", fi, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	check("opened again")
	if left := files(t, filepath.Join(dir, "partial")); len(left) != 2 { // the gate and our session's lock
		t.Errorf("left in partial: %q", left)
	}
}

func TestPutRefusals(t *testing.T) {
	s := open(t, t.TempDir())
	big := make([]byte, store.MaxChunk+1)
	tests := []struct {
		name string
		c    cid.Cid
		data []byte
		want error
	}{
		{"other content", store.RawCID(store.Sum([]byte("a"))), []byte("b"), store.ErrMismatch},
		{"empty", store.RawCID(store.Sum([]byte("a"))), nil, store.ErrMismatch},
		{"too long", store.RawCID(store.Sum(big)), big, nil},
		{"large blob", store.ListCID(store.Sum([]byte("a"))), []byte("a"), nil},
		{"no CID", cid.Undef, nil, nil},
	}
	for _, tt := range tests {
		err := s.Put(tt.c, tt.data, 0o644)
		if err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if s.Has(tt.c) {
			t.Errorf("%s: it is here", tt.name)
		}
	}
	sync1(t, s)
	if u, err := s.Usage(context.Background()); err != nil || u.Blobs != 0 {
		t.Errorf("usage %+v, %v", u, err)
	}
}

func TestReadRangeErrors(t *testing.T) {
	s := open(t, t.TempDir())
	c := put(t, s, "hello")
	for _, r := range []struct {
		off  int64
		n    int
		want error
	}{{0, 5, nil}, {5, 0, nil}, {0, 6, store.ErrRange}, {5, 1, store.ErrRange}, {-1, 1, store.ErrRange}, {1 << 62, 1, store.ErrRange}} {
		if err := s.ReadRange(c, r.off, make([]byte, r.n)); !errors.Is(err, r.want) {
			t.Errorf("%d bytes at %d: %v, want %v", r.n, r.off, err, r.want)
		}
	}
	gone := store.RawCID(store.Sum([]byte("other")))
	if err := s.ReadRange(gone, 0, nil); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, _, err := s.OpenBlob(gone); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

func TestBlobFileModes(t *testing.T) {
	s := open(t, t.TempDir())
	c := store.RawCID(store.Sum([]byte("hello")))
	if err := s.Put(c, []byte("hello"), 0o4755); err != nil {
		t.Fatal(err)
	}
	paths := map[string]bool{}
	for _, mode := range []uint32{0o4755, 0o644, 0o000, 0o222, 0o644, 0o7777} {
		path, err := s.BlobFile(c, mode)
		if err != nil {
			t.Fatal(err)
		}
		paths[path] = true
		fi, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		want := os.FileMode(mode & 0o777)
		for bit, m := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
			if mode&bit != 0 {
				want |= m
			}
		}
		if fi.Mode() != want || fi.Size() != 5 || !filepath.IsAbs(path) {
			t.Errorf("mode %#o: %v of %d bytes at %s", mode, fi.Mode(), fi.Size(), path)
		}
	}
	if len(paths) != 5 {
		t.Errorf("%d files for 5 modes", len(paths))
	}
	if _, err := s.BlobFile(store.RawCID(store.Sum(nil)), 0o644); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

// TestUnreadableMode checks that a blob whose entry nobody may read can still be read by us.
func TestUnreadableMode(t *testing.T) {
	s := open(t, t.TempDir())
	c := store.RawCID(store.Sum([]byte("secret")))
	if err := s.Put(c, []byte("secret"), 0); err != nil {
		t.Fatal(err)
	}
	sync1(t, s)
	f, _, err := s.OpenBlob(c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if fi, err := f.Stat(); err != nil || fi.Mode() != 0o400 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
}

func TestPartial(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := stream("partial", 1<<20)
	l := listOf(data)
	chunk := func(i int) []byte { return data[l.Chunks[i].Offset:][:l.Chunks[i].Size] }
	p, err := s.Partial(l, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if p.Missing() != len(l.Chunks) || s.Has(l.Blob) {
		t.Fatalf("%d missing of %d", p.Missing(), len(l.Chunks))
	}
	if err := p.WriteChunk(1, chunk(0)); !errors.Is(err, store.ErrMismatch) {
		t.Errorf("wrong chunk: %v", err)
	}
	for _, i := range []int{-1, len(l.Chunks)} {
		if err := p.WriteChunk(i, chunk(0)); err == nil {
			t.Errorf("chunk %d of %d was accepted", i, len(l.Chunks))
		}
	}
	if err := p.WriteChunk(1, chunk(1)); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err == nil {
		t.Error("Commit with chunks missing")
	}
	// Verified chunks are served, and nothing else.
	got := make([]byte, l.Chunks[1].Size)
	if err := s.ReadRange(l.Blob, int64(l.Chunks[1].Offset), got); err != nil || !bytes.Equal(got, chunk(1)) {
		t.Errorf("reading the chunk that is here: %v", err)
	}
	for _, off := range []int64{0, int64(l.Chunks[1].Offset) - 1, int64(l.Chunks[1].Offset) + 1} {
		if err := s.ReadRange(l.Blob, off, got); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("reading at %d: %v", off, err)
		}
	}
	if err := s.ReadRange(l.Blob, 1<<20-1, make([]byte, 2)); !errors.Is(err, store.ErrRange) {
		t.Errorf("reading beyond the end: %v", err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = open(t, dir)
	if p, err = s.Partial(l, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, here := range p.Have() {
		if here != (i == 1) {
			t.Errorf("after opening again chunk %d: %v", i, here)
		}
	}
	for i := range l.Chunks {
		if err := p.WriteChunk(i, chunk(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	if !s.Has(l.Blob) || !bytes.Equal(read(t, s, l.Blob), data) {
		t.Error("not whole after Commit")
	}
	sync1(t, s)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, l.Blob), data) {
		t.Error("other content after Sync")
	}
	if fi, err := os.Stat(blobFile(dir, l.Blob)); err != nil || fi.Mode() != 0o755 {
		t.Errorf("%v, %v", fi, err)
	}
	got2, raw, err := s.List(l.Blob)
	if err != nil || !bytes.Equal(raw, l.Encode()) || len(got2.Chunks) != len(l.Chunks) {
		t.Errorf("List: %v", err)
	}
	// What is whole is whole in a Partial as well.
	if p, err = s.Partial(l, 0o755); err != nil || p.Missing() != 0 || p.Commit() != nil || p.Close() != nil {
		t.Errorf("Partial of a whole blob: %v", err)
	}
}

func TestPartialOfZeros(t *testing.T) {
	s := open(t, t.TempDir())
	data := append(make([]byte, 4<<20), stream("tail", 1000)...)
	l := listOf(data)
	p, err := s.Partial(l, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if p.Missing() > 2 {
		t.Errorf("%d chunks are missing; those of zeros need not be fetched", p.Missing())
	}
	for i, here := range p.Have() {
		if !here {
			if err := p.WriteChunk(i, data[l.Chunks[i].Offset:][:l.Chunks[i].Size]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, l.Blob), data) {
		t.Error("other content")
	}
}

func TestPartialIsShared(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := stream("shared", 1<<20)
	l := listOf(data)
	a, err := s.Partial(l, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Partial(l, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.WriteChunk(0, data[:l.Chunks[0].Size]); err != nil {
		t.Fatal(err)
	}
	if !b.Have()[0] {
		t.Error("the other does not see the chunk")
	}
	// Another process may not write to it.
	other := open(t, dir)
	if _, err := other.Partial(l, 0o644); !errors.Is(err, store.ErrInUse) {
		t.Errorf("another process: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.WriteChunk(1, data[l.Chunks[1].Offset:][:l.Chunks[1].Size]); err != nil {
		t.Errorf("after the other was closed: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	c, err := other.Partial(l, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if c.Missing() != len(l.Chunks)-2 {
		t.Errorf("%d missing", c.Missing())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestPutList(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	l := listOf(stream("list", 1<<20))
	if _, _, err := s.List(l.Blob); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("before: %v", err)
	}
	if _, err := s.PutList(l.Blob, l.Size+1, l.Encode()); err == nil {
		t.Error("wrong size accepted")
	}
	if _, err := s.PutList(l.Blob, l.Size, l.Encode()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	if _, raw, err := s.List(l.Blob); err != nil || !bytes.Equal(raw, l.Encode()) {
		t.Errorf("after opening again: %v", err)
	}
}

// putLarge stores a large blob as a fetch does.
func putLarge(t testing.TB, s *store.Store, data []byte) cid.Cid {
	t.Helper()
	l := listOf(data)
	p, err := s.Partial(l, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range l.Chunks {
		if err := p.WriteChunk(i, data[c.Offset:][:c.Size]); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return l.Blob
}

func TestListIsMadeAnew(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := stream("anew", 1<<20)
	c := putLarge(t, s, data)
	sync1(t, s)
	path := blobFile(dir, c) + ".list"
	for _, damage := range []func() error{
		func() error { return os.Remove(path) },
		func() error { return os.WriteFile(path, []byte("rubbish"), 0o600) },
		func() error { return os.Truncate(path, 0) },
	} {
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		if _, raw, err := s.List(c); err != nil || !bytes.Equal(raw, listOf(data).Encode()) {
			t.Fatalf("List: %v", err)
		}
		if raw, err := os.ReadFile(path); err != nil || !bytes.Equal(raw, listOf(data).Encode()) {
			t.Errorf("not written again: %v", err)
		}
	}
}

func TestFindChunks(t *testing.T) {
	s := open(t, t.TempDir())
	data := stream("find", 1<<20)
	c := putLarge(t, s, data)
	sync1(t, s)
	want := listOf(data).Chunks[3]
	var found []store.Source
	err := s.FindChunks(context.Background(), func(d store.Digest) bool { return d == want.Digest }, func(d store.Digest, src store.Source) bool {
		found = append(found, src)
		return true
	})
	if err != nil || len(found) != 1 || found[0] != (store.Source{Blob: c, Offset: want.Offset, Size: want.Size}) {
		t.Errorf("found %v, %v", found, err)
	}
	calls := 0
	err = s.FindChunks(context.Background(), func(store.Digest) bool { return true }, func(store.Digest, store.Source) bool {
		calls++
		return false
	})
	if err != nil || calls != 1 {
		t.Errorf("%d calls after the first said stop, %v", calls, err)
	}
}

// TestManyAtOnce puts, reads, writes parts and syncs from many goroutines. It is for the race detector.
func TestManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := stream("at once", 2<<20)
	l := listOf(data)
	p, err := s.Partial(l, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				text := []byte(fmt.Sprintf("blob %d", (g*100+i)%500))
				c := store.RawCID(store.Sum(text))
				if err := s.Put(c, text, 0o644); err != nil {
					t.Error(err)
				}
				got := make([]byte, len(text))
				if err := s.ReadRange(c, 0, got); err != nil || !bytes.Equal(got, text) {
					t.Errorf("reading back: %q, %v", got, err)
				}
				if i%50 == g {
					if err := s.Sync(); err != nil {
						t.Error(err)
					}
				}
				j := (g + i) % len(l.Chunks)
				chunk := data[l.Chunks[j].Offset:][:l.Chunks[j].Size]
				if err := p.WriteChunk(j, chunk); err != nil {
					t.Error(err)
				}
				back := make([]byte, len(chunk))
				if err := s.ReadRange(l.Blob, int64(l.Chunks[j].Offset), back); err != nil || !bytes.Equal(back, chunk) {
					t.Errorf("reading a chunk back: %v", err)
				}
				if p.Missing() == 0 {
					if err := p.Commit(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	sync1(t, s)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if bad, err := s.Verify(context.Background(), nil); err != nil || len(bad) != 0 {
		t.Errorf("Verify: %v, %v", bad, err)
	}
	if u, err := s.Usage(context.Background()); err != nil || u.Blobs != 501 {
		t.Errorf("usage %+v, %v", u, err)
	}
	for _, name := range files(t, filepath.Join(dir, "partial")) {
		if filepath.Base(name) != "lock" {
			t.Errorf("left in partial: %s", name)
		}
	}
}

// TestTwoStores checks that two processes may have the same directory open: what one stores the other sees, and neither
// takes the other's files for leftovers.
func TestTwoStores(t *testing.T) {
	dir := t.TempDir()
	a := open(t, dir)
	one := put(t, a, "one")
	b := open(t, dir)
	two := put(t, b, "two")
	if string(read(t, a, one)) != "one" || b.Has(one) {
		t.Error("what is pending was touched")
	}
	both := put(t, a, "both")
	put(t, b, "both")
	sync1(t, a)
	sync1(t, b)
	for _, c := range []cid.Cid{one, two, both} {
		if !a.Has(c) || !b.Has(c) {
			t.Errorf("%v is not seen by both", c)
		}
	}
}

func TestVerify(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	good, zeroed, cut := put(t, s, "good"), put(t, s, "zeroed"), put(t, s, "cut short")
	data := stream("verify", 1<<20)
	large := putLarge(t, s, data)
	linked := putLarge(t, s, stream("linked", 1<<20))
	sync1(t, s)
	variant, err := s.BlobFile(good, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	overwrite := func(path string, off int64, b []byte) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
	elsewhere := filepath.Join(dir, "deployed")
	if err := os.Link(blobFile(dir, linked), elsewhere); err != nil {
		t.Fatal(err)
	}
	overwrite(blobFile(dir, zeroed), 0, make([]byte, 6))
	overwrite(variant, 0, []byte("b"))
	overwrite(blobFile(dir, large), 500_000, []byte("bad"))
	overwrite(blobFile(dir, linked), 500_000, []byte("bad"))
	if err := os.Truncate(blobFile(dir, cut), 0); err != nil {
		t.Fatal(err)
	}
	if s.Has(cut) {
		t.Error("an emptied file is taken for a blob")
	}
	var last store.VerifyProgress
	bad, err := s.Verify(context.Background(), func(p store.VerifyProgress) { last = p })
	if err != nil {
		t.Fatal(err)
	}
	found := map[cid.Cid]bool{}
	for _, c := range bad {
		found[c] = true
		if s.Has(c) {
			t.Errorf("%v is still here", c)
		}
	}
	if len(bad) != 4 || !found[zeroed] || !found[cut] || !found[large] || !found[linked] {
		t.Errorf("bad: %v", bad)
	}
	if last.Bad != 5 || last.Blobs != 6 || last.TotalBlobs != 6 || !s.Has(good) {
		t.Errorf("progress at the end: %+v", last)
	}
	for _, c := range []cid.Cid{large, linked} {
		l, _, err := s.List(c)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Partial(l, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if p.Missing() != 1 {
			t.Errorf("%d chunks of %v are missing, want 1", p.Missing(), c)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	// Whoever has a link to the bad file must not see it change under his feet.
	part, err := os.Stat(filepath.Join(dir, "partial", linked.String()+".part"))
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(elsewhere); err != nil || os.SameFile(fi, part) {
		t.Errorf("the partial blob is the deployed file, %v", err)
	}
	if path, err := s.BlobFile(good, 0o600); err != nil || !bytes.Equal(mustRead(t, path), []byte("good")) {
		t.Errorf("variant: %v", err)
	}
	if bad, err := s.Verify(context.Background(), nil); err != nil || len(bad) != 0 {
		t.Errorf("second Verify: %v, %v", bad, err)
	}
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestReadOnlyHome(t *testing.T) {
	if os.Getuid() == 0 {
		dir := t.TempDir()
		mountTmpfs(t, dir, "size=1m,ro")
		_, err := store.Open(filepath.Join(dir, "store"))
		if err == nil || !strings.Contains(err.Error(), "read-only") {
			t.Errorf("Open: %v", err)
		}
		return
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(filepath.Join(dir, "store")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Open: %v", err)
	}
}

// TestReadWhileItBecomesWhole reads a chunk that is here from a blob that is finished at the same moment: it is always here.
func TestReadWhileItBecomesWhole(t *testing.T) {
	s := open(t, t.TempDir())
	for i := range 300 {
		data := stream(fmt.Sprint("becomes whole", i), 100_000)
		l := listOf(data)
		p, err := s.Partial(l, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		for k, c := range l.Chunks {
			if err := p.WriteChunk(k, data[c.Offset:][:c.Size]); err != nil {
				t.Fatal(err)
			}
		}
		var done atomic.Bool
		var reader sync.WaitGroup
		reader.Go(func() {
			buf := make([]byte, 10)
			for last := false; !last; {
				last = done.Load()
				if err := s.ReadRange(l.Blob, 5, buf); err != nil {
					t.Errorf("round %d: %v", i, err)
					return
				}
			}
		})
		if err := errors.Join(p.Commit(), p.Close()); err != nil {
			t.Error(err)
		}
		done.Store(true)
		reader.Wait()
		if t.Failed() {
			return
		}
	}
}
