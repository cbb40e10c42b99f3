package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"
	"satchel/store"
	"satchel/store/manifest"
)

// write makes a file, and the directories above it.
func write(t testing.TB, tree, path string, data []byte) {
	t.Helper()
	full := filepath.Join(tree, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func publish(t testing.TB, s *store.Store, tree string) *store.PublishResult {
	t.Helper()
	r, err := s.Publish(context.Background(), tree, options())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// example is a tree with one of everything.
func example(t testing.TB) string {
	t.Helper()
	tree := t.TempDir()
	write(t, tree, "a/small", []byte("small"))
	write(t, tree, "a/same", []byte("small"))
	write(t, tree, "a/empty", nil)
	write(t, tree, "a!", []byte("sorts behind a/"))
	write(t, tree, "medium", stream("medium", 700_000))
	write(t, tree, "big", stream("big", 5<<20))
	write(t, tree, "big-again", stream("big", 5<<20))
	write(t, tree, "été/ü", []byte("names in UTF-8"))
	write(t, tree, "back\\slash", nil)
	for name, target := range map[string]string{"link": "a/small", "dangling": "/no/such/file", "loop": "loop"} {
		if err := os.Symlink(target, filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(tree, "zdir"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"a!": 0o755 | os.ModeSetuid, "medium": 0o600, "zdir": 0o777 | os.ModeSticky} {
		if err := os.Chmod(filepath.Join(tree, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestPublish(t *testing.T) {
	tree := example(t)
	s := open(t, t.TempDir())
	r := publish(t, s, tree)
	m, err := s.Manifest(r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range m.Entries {
		lines = append(lines, fmt.Sprintf("%s %v %o %d %s", e.Path, e.Type, e.Mode, e.Size, e.Link))
		if e.Type != manifest.File {
			continue
		}
		data := mustRead(t, filepath.Join(tree, e.Path))
		if c, _ := nameOf(data); c != e.Blob {
			t.Errorf("%s: blob %v, want %v", e.Path, e.Blob, c)
		}
		if string(read(t, s, e.Blob)) != string(data) {
			t.Errorf("%s: other content", e.Path)
		}
	}
	want := []string{
		"a dir 755 0 ", "a/empty file 644 0 ", "a/same file 644 5 ", "a/small file 644 5 ", "a! file 4755 15 ",
		"back\\slash file 644 0 ", "big file 644 5242880 ", "big-again file 644 5242880 ", "dangling symlink 777 0 /no/such/file",
		"link symlink 777 0 a/small", "loop symlink 777 0 loop", "medium file 600 700000 ", "zdir dir 1777 0 ",
		"été dir 755 0 ", "été/ü file 644 14 ",
	}
	if !reflect.DeepEqual(lines, want) {
		t.Errorf("entries:\n%s\nwant:\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
	if !reflect.DeepEqual(m.Header, options().Header) {
		t.Errorf("header %+v", m.Header)
	}
	distinct := uint64(5 + 15 + 700_000 + 5<<20 + 14)
	wantResult := store.PublishResult{
		Manifest: r.Manifest, ManifestSize: r.ManifestSize, TotalSize: m.TotalSize(), Files: 9, Dirs: 3, Links: 3,
		NewBlobs: 6, NewBytes: distinct, NewChunkBytes: distinct,
	}
	if *r != wantResult {
		t.Errorf("result %+v\nwant   %+v", *r, wantResult)
	}
	if f, size, err := s.OpenBlob(r.Manifest); err != nil || uint64(size) != r.ManifestSize {
		t.Errorf("manifest of %d bytes, %v", size, err)
	} else {
		f.Close()
	}

	again := publish(t, s, tree)
	wantResult.NewBlobs, wantResult.OldBlobs = 0, 6
	wantResult.NewBytes, wantResult.OldBytes, wantResult.NewChunkBytes = 0, distinct, 0
	if *again != wantResult {
		t.Errorf("second publish %+v\nwant           %+v", *again, wantResult)
	}
	all, err := s.Manifests()
	if err != nil || len(all) != 1 || all[0] != r.Manifest {
		t.Errorf("manifests: %v, %v", all, err)
	}
}

// TestPublishNextVersion changes a few bytes of a large file, and adds a copy of a part of it.
func TestPublishNextVersion(t *testing.T) {
	tree := t.TempDir()
	s := open(t, t.TempDir())
	data := stream("version", 8<<20)
	write(t, tree, "big", data)
	publish(t, s, tree)
	copy(data[4<<20:], "changed")
	write(t, tree, "big", data)
	write(t, tree, "part", data[:5<<20])
	r := publish(t, s, tree)
	if r.NewBlobs != 2 || r.NewBytes != 13<<20 {
		t.Errorf("%+v", *r)
	}
	if r.NewChunkBytes > 5*store.MaxChunk {
		t.Errorf("%d bytes of new chunks for a change of 7 bytes", r.NewChunkBytes)
	}
	for _, name := range []string{"big", "part"} {
		want := mustRead(t, filepath.Join(tree, name))
		if got := read(t, s, listOf(want).Blob); string(got) != string(want) {
			t.Errorf("%s: other content", name)
		}
	}
}

func TestPublishHoles(t *testing.T) {
	tree := t.TempDir()
	path := filepath.Join(tree, "disk.img")
	write(t, tree, "disk.img", []byte("begin"))
	if err := os.Truncate(path, 64<<20); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := open(t, dir)
	r := publish(t, s, tree)
	m, err := s.Manifest(r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, m.Entries[0].Blob); string(got) != string(mustRead(t, path)) {
		t.Error("other content")
	}
	var st syscall.Stat_t
	if err := syscall.Stat(blobFile(dir, m.Entries[0].Blob), &st); err != nil || st.Blocks*512 > 2<<20 {
		t.Errorf("a hole of 64 MiB takes %d bytes, %v", st.Blocks*512, err)
	}
	if bad, err := s.Verify(context.Background(), nil); err != nil || len(bad) != 0 {
		t.Errorf("Verify: %v, %v", bad, err)
	}
}

// refused publishes a tree that must be refused, and gives the error.
func refused(t *testing.T, tree string) *store.TreeError {
	t.Helper()
	s := open(t, t.TempDir())
	_, err := s.Publish(context.Background(), tree, options())
	var te *store.TreeError
	if !errors.As(err, &te) {
		t.Fatalf("Publish: %v", err)
	}
	if all, err := s.Manifests(); err != nil || len(all) != 0 {
		t.Errorf("a manifest was made: %v, %v", all, err)
	}
	return te
}

func TestPublishRefusals(t *testing.T) {
	tests := []struct {
		name  string
		plant func(path string) error
		want  string
	}{
		{"fifo", func(path string) error { return syscall.Mkfifo(path, 0o600) }, "named pipe"},
		{"socket", func(path string) error { return syscall.Mknod(path, syscall.S_IFSOCK|0o600, 0) }, "socket"},
		{"device", func(path string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|3) }, "character device"},
		{"block", func(path string) error { return syscall.Mknod(path, syscall.S_IFBLK|0o600, 7<<8) }, "block device"},
		{"caf\xe9", func(path string) error { return os.WriteFile(path, nil, 0o600) }, "UTF-8"},
		{"dir\xff", func(path string) error { return os.Mkdir(path, 0o700) }, "UTF-8"},
		{"badlink", func(path string) error { return os.Symlink("caf\xe9", path) }, "UTF-8"},
		{"huge", func(path string) error {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(path, store.MaxBlob+1)
		}, "limit"},
	}
	for _, tt := range tests {
		t.Run(strings.ToValidUTF8(tt.name, "?"), func(t *testing.T) {
			tree := t.TempDir()
			write(t, tree, "good", []byte("good"))
			if err := os.Mkdir(filepath.Join(tree, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			err := tt.plant(filepath.Join(tree, "sub", tt.name))
			if errors.Is(err, syscall.EPERM) {
				t.Skipf("SKIPPED: making a %s needs root", tt.name)
			}
			if err != nil {
				t.Fatal(err)
			}
			te := refused(t, tree)
			quoted := fmt.Sprintf("%q", "sub/"+tt.name)
			if te.Total != 1 || !strings.Contains(te.Error(), tt.want) || !strings.Contains(te.Error(), quoted) {
				t.Errorf("%v", te)
			}
		})
	}
}

func TestPublishManyProblems(t *testing.T) {
	tree := t.TempDir()
	for i := range 25 {
		if err := syscall.Mkfifo(filepath.Join(tree, fmt.Sprintf("pipe%02d", i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	te := refused(t, tree)
	if te.Total != 25 || len(te.Problems) != 10 || te.Problems[0].Path != "pipe00" || te.Problems[9].Path != "pipe09" {
		t.Errorf("%+v", te)
	}
	if text := te.Error(); !strings.Contains(text, "25 entries") || !strings.Contains(text, "and 15 more") {
		t.Error(text)
	}
}

func TestPublishUnreadable(t *testing.T) {
	tree := t.TempDir()
	write(t, tree, "file", []byte("x"))
	write(t, tree, "dir/inside", []byte("x"))
	for name, mode := range map[string]os.FileMode{"file": 0, "dir": 0} {
		if err := os.Chmod(filepath.Join(tree, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(tree, "dir"), 0o700) })
	if os.Getuid() == 0 {
		publish(t, open(t, t.TempDir()), tree) // root can read everything; see TestAsOrdinaryUser
		return
	}
	te := refused(t, tree)
	if te.Total != 2 || !strings.Contains(te.Error(), `"dir": permission denied; "file": permission denied`) {
		t.Error(te)
	}
}

func TestPublishTheStoreItself(t *testing.T) {
	tree := t.TempDir()
	s := open(t, filepath.Join(tree, "home", "store"))
	_, err := s.Publish(context.Background(), tree, options())
	if err == nil || !strings.Contains(err.Error(), `"home/store": it is the store itself`) {
		t.Error(err)
	}
}

func TestPublishNothing(t *testing.T) {
	s := open(t, t.TempDir())
	if r := publish(t, s, t.TempDir()); r.Files+r.Dirs+r.Links != 0 {
		t.Errorf("%+v", *r)
	}
	if _, err := s.Publish(context.Background(), filepath.Join(t.TempDir(), "none"), options()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, filepath.Dir(file), "file", nil)
	if _, err := s.Publish(context.Background(), file, options()); err == nil {
		t.Error("a file was published as a tree")
	}
	if _, err := s.Publish(context.Background(), t.TempDir(), store.PublishOptions{}); err == nil {
		t.Error("a release without a product was published")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Publish(ctx, example(t), options()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestPublishWhileItChanges has somebody write to the tree all the time. Whatever comes out, a release is never a lie: it
// succeeds with content that the files had, or it names what changed.
func TestPublishWhileItChanges(t *testing.T) {
	tree := t.TempDir()
	for i := range 20 {
		write(t, tree, fmt.Sprint("small", i), stream("x", 1000))
	}
	write(t, tree, "big", stream("x", 3<<20))
	big, err := os.OpenFile(filepath.Join(tree, "big"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer big.Close()
	var stop atomic.Bool
	written := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := int64(0); !stop.Load(); i++ {
			if _, err := big.WriteAt([]byte(fmt.Sprint(i)), i*4096%(3<<20)); err != nil {
				t.Error(err)
				return
			}
			if i == 0 {
				close(written)
			}
		}
	}()
	<-written
	s := open(t, t.TempDir())
	te := publishUntilRefused(t, s, tree)
	stop.Store(true)
	<-done
	if te.Total != 1 || te.Problems[0].Path != "big" || !strings.Contains(te.Error(), "changed while it was read") {
		t.Error(te)
	}
	if bad, err := s.Verify(context.Background(), nil); err != nil || len(bad) != 0 {
		t.Errorf("Verify: %v, %v", bad, err)
	}
	publish(t, s, tree) // when it is quiet again
}

// publishUntilRefused publishes a tree that somebody writes to. On a busy machine he may now and then be too slow to be noticed.
func publishUntilRefused(t *testing.T, s *store.Store, tree string) *store.TreeError {
	t.Helper()
	for range 100 {
		_, err := s.Publish(context.Background(), tree, options())
		var te *store.TreeError
		if errors.As(err, &te) {
			return te
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Fatal("it was never refused")
	return nil
}

func TestPublishWhileDirectoryChanges(t *testing.T) {
	tree := t.TempDir()
	write(t, tree, "dir/a", []byte("a"))
	write(t, tree, "dir/b", stream("b", 20<<20))
	var stop atomic.Bool
	started, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; !stop.Load(); i++ {
			path := filepath.Join(tree, "dir", fmt.Sprintf("c%d", i%2))
			if i%4 < 2 {
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Error(err)
				}
			} else if err := os.Remove(path); err != nil {
				t.Error(err)
			}
			if i == 0 {
				close(started)
			}
		}
	}()
	<-started
	te := publishUntilRefused(t, open(t, t.TempDir()), tree)
	stop.Store(true)
	<-done
	if !strings.Contains(te.Error(), "changed while it was read") {
		t.Error(te)
	}
}

func TestPublishProgress(t *testing.T) {
	tree := example(t)
	s := open(t, t.TempDir())
	var last store.PublishProgress
	o := options()
	o.Progress = func(p store.PublishProgress) { last = p }
	if _, err := s.Publish(context.Background(), tree, o); err != nil {
		t.Fatal(err)
	}
	if last.Files != 9 || last.Dirs != 3 || last.Links != 3 || !last.Walked || last.TotalFiles != 9 || last.Bytes < last.TotalBytes {
		t.Errorf("%+v", last)
	}
}

// TestPublishAnyTree draws trees and looks that the manifest says what is there.
func TestPublishAnyTree(t *testing.T) {
	base := t.TempDir()
	s := open(t, t.TempDir())
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		tree := filepath.Join(base, fmt.Sprint(n))
		if err := os.Mkdir(tree, 0o755); err != nil {
			rt.Fatal(err)
		}
		want := map[string]string{}
		for range rapid.IntRange(0, 12).Draw(rt, "files") {
			path := rapid.StringMatching(`([a-c]{1,2}/){0,3}[d-f -]{1,3}`).Draw(rt, "path")
			full := filepath.Join(tree, path)
			data := stream("any", rapid.SampledFrom([]int{0, 1, 5000, 20_000, 300_000, 1<<20 + 1}).Draw(rt, "size"))
			if os.MkdirAll(filepath.Dir(full), 0o755) != nil || os.WriteFile(full, data, 0o644) != nil {
				continue
			}
			want[path] = string(data)
		}
		r, err := s.Publish(context.Background(), tree, options())
		if err != nil {
			rt.Fatal(err)
		}
		m, err := s.Manifest(r.Manifest)
		if err != nil {
			rt.Fatal(err)
		}
		found := 0
		for _, e := range m.Entries {
			if e.Type == manifest.File {
				found++
				if got := read(t, s, e.Blob); string(got) != want[e.Path] {
					rt.Errorf("%s: other content", e.Path)
				}
			}
		}
		if found != len(want) || r.Files != found {
			rt.Errorf("%d files, want %d", found, len(want))
		}
	})
}

func TestPrune(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	tree := t.TempDir()
	write(t, tree, "old", stream("old", 2<<20))
	write(t, tree, "both", []byte("both"))
	old := publish(t, s, tree)
	if err := os.Remove(filepath.Join(tree, "old")); err != nil {
		t.Fatal(err)
	}
	write(t, tree, "new", stream("new", 2<<20))
	next := publish(t, s, tree)
	part := listOf(stream("part", 1<<20))
	p, err := s.Partial(part, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	waiting := put(t, s, "pending")

	ctx := context.Background()
	r, err := s.Prune(ctx, []cid.Cid{next.Manifest})
	if err != nil {
		t.Fatal(err)
	}
	if r.Blobs != 2 || r.Bytes < 2<<20 { // the old file and the old manifest
		t.Errorf("%+v", r)
	}
	if s.Has(old.Manifest) || s.Has(listOf(stream("old", 2<<20)).Blob) || !s.Has(next.Manifest) || !s.Has(waiting) {
		t.Error("the wrong blobs went")
	}
	if _, err := s.PutList(part.Blob, part.Size, part.Encode()); err != nil || p.Missing() == 0 {
		t.Errorf("the open partial blob: %v", err)
	}
	if bad, err := s.Verify(ctx, nil); err != nil || len(bad) != 0 {
		t.Errorf("Verify: %v, %v", bad, err)
	}
	if _, err := s.Prune(ctx, []cid.Cid{old.Manifest}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Prune for a manifest that is not here: %v", err)
	}
	if !s.Has(next.Manifest) {
		t.Error("it pruned all the same")
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if _, err := s.Prune(ctx, nil); err != nil {
		t.Error(err)
	}
	sync1(t, s)
	if _, err := s.Prune(ctx, nil); err != nil {
		t.Error(err)
	}
	if u, err := s.Usage(ctx); err != nil || u != (store.Usage{}) {
		t.Errorf("usage %+v, %v", u, err)
	}
}

// TestPruneWhilePublishing holds a publish in the middle by its progress function.
func TestPruneWhilePublishing(t *testing.T) {
	dir := t.TempDir()
	s, other := open(t, dir), open(t, dir)
	o := options()
	inside, goOn := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	o.Progress = func(store.PublishProgress) {
		if once.CompareAndSwap(false, true) {
			close(inside)
			<-goOn
		}
	}
	done := make(chan error)
	tree := example(t)
	go func() {
		_, err := s.Publish(context.Background(), tree, o)
		done <- err
	}()
	<-inside
	for _, s := range []*store.Store{s, other} {
		if _, err := s.Prune(context.Background(), nil); !errors.Is(err, store.ErrInUse) {
			t.Errorf("Prune: %v", err)
		}
	}
	close(goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := other.Prune(context.Background(), nil); err != nil {
		t.Errorf("Prune afterwards: %v", err)
	}
}

func TestPutManifest(t *testing.T) {
	s := open(t, t.TempDir())
	m := &manifest.Manifest{Header: options().Header}
	for i := range 10_000 {
		m.Entries = append(m.Entries, manifest.Entry{Path: fmt.Sprintf("directory %05d", i), Type: manifest.Dir, Mode: 0o755})
	}
	c, size, err := s.PutManifest(m)
	if err != nil {
		t.Fatal(err)
	}
	if data, err := m.Encode(); err != nil || uint64(len(data)) != size || store.IsRaw(c) {
		t.Errorf("%v of %d bytes, %v", c, size, err)
	}
	got, err := s.Manifest(c)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Errorf("not the same manifest, %v", err)
	}
	if _, err := s.Manifest(put(t, s, "not a manifest")); !errors.Is(err, manifest.ErrInvalid) {
		t.Error(err)
	}
	if _, err := s.Manifest(store.RawCID(store.Sum([]byte("none")))); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}
