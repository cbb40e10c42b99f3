package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	"satchel/store"
)

// The tests TestHostileNN are about one kind of hostile input each. Each looks that nothing on the disk has changed.

// TestHostile57WrongBytes offers what does not have the hash that its name says.
func TestHostile57WrongBytes(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := stream("large", 1<<20)
	l := listOf(data)
	p, err := s.Partial(l, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	before := state(t, dir)
	wrong := bytes.Clone(data[:l.Chunks[0].Size])
	wrong[0] ^= 1
	list := l.Encode()
	list[len(list)-1] ^= 1
	raw := store.RawCID(store.Sum([]byte("right")))
	for name, try := range map[string]func() error{
		"a small blob":            func() error { return s.Put(raw, []byte("wrong"), 0o644) },
		"a longer one":            func() error { return s.Put(raw, []byte("right and more"), 0o644) },
		"a shorter one":           func() error { return s.Put(raw, []byte("righ"), 0o644) },
		"a chunk":                 func() error { return p.WriteChunk(0, wrong) },
		"another chunk's bytes":   func() error { return p.WriteChunk(0, data[l.Chunks[1].Offset:][:l.Chunks[1].Size]) },
		"a chunk and more":        func() error { return p.WriteChunk(0, data[:l.Chunks[0].Size+1]) },
		"a part of a chunk":       func() error { return p.WriteChunk(0, data[:l.Chunks[0].Size-1]) },
		"a list":                  func() error { _, err := s.PutList(l.Blob, l.Size, list); return err },
		"the list of another one": func() error { _, err := s.PutList(listOf(data[1:]).Blob, l.Size-1, l.Encode()); return err },
	} {
		if err := try(); !errors.Is(err, store.ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s.Has(raw) || p.Missing() != len(l.Chunks) || p.Commit() == nil {
		t.Error("something was accepted")
	}
	if after := state(t, dir); after != before {
		t.Errorf("the disk was %s\nand is %s", before, after)
	}
}

// state describes every file below a directory: name, kind, size and content's hash.
func state(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	for _, name := range files(t, dir) {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s %v %d", name, fi.Mode(), fi.Size())
		if fi.Mode().IsRegular() {
			fmt.Fprintf(&b, " %v", store.Sum(mustRead(t, filepath.Join(dir, name))))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// TestHostile66CompressedForm offers a compressed form of what was asked for: hashes are of the plain bytes, always.
func TestHostile66CompressedForm(t *testing.T) {
	s := open(t, t.TempDir())
	c := store.RawCID(store.Sum([]byte("hello\n")))
	gzip := []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xcbH\xcd\xc9\xc9\xe7\x02\x00 0:6\x06\x00\x00\x00")
	zstd := []byte("\x28\xb5\x2f\xfd\x20\x06\x31\x00\x00hello\n")
	for _, data := range [][]byte{gzip, zstd} {
		if err := s.Put(c, data, 0o644); !errors.Is(err, store.ErrMismatch) || s.Has(c) {
			t.Errorf("%x: %v", data, err)
		}
	}
}

// TestHostile67DamagedOnDisk damages blobs behind the store's back. Verify takes them away, what is good of a large one is
// kept, and they can be stored again.
func TestHostile67DamagedOnDisk(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := stream("large", 1<<20)
	large, small := putLarge(t, s, data), put(t, s, "small")
	sync1(t, s)
	for _, c := range []cid.Cid{large, small} {
		flip(t, blobFile(dir, c))
	}
	bad, err := s.Verify(context.Background(), nil)
	if err != nil || len(bad) != 2 || s.Has(large) || s.Has(small) {
		t.Fatalf("bad blobs: %v, %v", bad, err)
	}
	put(t, s, "small")
	p, err := s.Partial(listOf(data), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if p.Missing() != 1 {
		t.Errorf("%d chunks are missing after one byte was damaged", p.Missing())
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	putLarge(t, s, data)
	sync1(t, s)
	if !bytes.Equal(read(t, s, large), data) || string(read(t, s, small)) != "small" {
		t.Error("other content")
	}
}

// flip changes a bit of a file in place.
func flip(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 3); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, 3); err != nil {
		t.Fatal(err)
	}
}

// TestHostile68PlantedTemps puts links and pipes where the store is about to make files. They are neither followed nor waited for.
func TestHostile68PlantedTemps(t *testing.T) {
	data := stream("large", 1<<20)
	l := listOf(data)
	raw := store.RawCID(store.Sum([]byte("right")))
	for kind, plant := range map[string]func(path, victim string) error{
		"link":         func(path, victim string) error { return os.Symlink(victim, path) },
		"link inside":  func(path, _ string) error { return os.Symlink("../../lock", path) },
		"dangling":     func(path, _ string) error { return os.Symlink("none", path) },
		"pipe":         func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
		"open to all":  func(path, _ string) error { return os.WriteFile(path, nil, 0o666) },
		"link to file": func(path, victim string) error { return os.Link(victim, path) },
	} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			s := open(t, dir)
			victim := filepath.Join(t.TempDir(), "victim")
			for _, name := range []string{victim, filepath.Join(dir, "lock")} {
				if err := os.WriteFile(name, []byte("precious"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			sessions, err := filepath.Glob(filepath.Join(dir, "partial", "*.tmp"))
			if err != nil || len(sessions) != 1 {
				t.Fatal(sessions, err)
			}
			for i := range 50 {
				for _, prefix := range []string{raw.String(), "large", "list", "entries", "manifest", "variant"} {
					if err := plant(filepath.Join(sessions[0], fmt.Sprintf("%s.%d", prefix, i)), victim); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := s.Put(raw, []byte("right"), 0o644); !errors.Is(err, os.ErrExist) || s.Has(raw) {
				t.Errorf("Put: %v", err)
			}
			if _, err := s.PutList(l.Blob, l.Size, l.Encode()); !errors.Is(err, os.ErrExist) {
				t.Errorf("PutList: %v", err)
			}
			if _, err := s.Partial(l, 0o644); !errors.Is(err, os.ErrExist) {
				t.Errorf("Partial: %v", err)
			}
			if _, err := s.Publish(context.Background(), example(t), options()); !errors.Is(err, os.ErrExist) {
				t.Errorf("Publish: %v", err)
			}
			for _, name := range []string{victim, filepath.Join(dir, "lock")} {
				if got := mustRead(t, name); string(got) != "precious" {
					t.Errorf("%s is %q", name, got)
				}
			}
		})
	}
}

// TestHostile68PlantedNames puts things where files of a store must be that are opened again and again: locks and partial blobs.
func TestHostile68PlantedNames(t *testing.T) {
	l := listOf(stream("plant", 1<<20))
	for kind, plant := range map[string]func(path, victim string) error{
		"link":        func(path, victim string) error { return os.Symlink(victim, path) },
		"link inside": func(path, victim string) error { return os.Symlink("../victim", path) },
		"pipe":        func(path, _ string) error { return syscall.Mkfifo(path, 0o666) },
		"directory":   func(path, _ string) error { return os.MkdirAll(path+"/deep", 0o700) },
	} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			outside := filepath.Join(t.TempDir(), "victim")
			for _, name := range []string{outside, filepath.Join(dir, "victim")} {
				if err := os.WriteFile(name, []byte("precious"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			s := open(t, dir)
			if err := plant(filepath.Join(dir, "partial", l.Blob.String()+".part"), outside); err != nil {
				t.Fatal(err)
			}
			p, err := s.Partial(l, 0o644)
			if err != nil {
				t.Fatalf("Partial: %v", err)
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if err := plant(filepath.Join(dir, "lock"), outside); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Prune(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
				t.Errorf("Prune: %v", err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(filepath.Join(dir, "partial", "lock")); err != nil {
				t.Fatal(err)
			}
			if err := plant(filepath.Join(dir, "partial", "lock"), outside); err != nil {
				t.Fatal(err)
			}
			if s, err := store.Open(dir); err == nil || !strings.Contains(err.Error(), "partial/lock: not a regular file") {
				t.Errorf("Open: %v", err)
				s.Close()
			}
			for _, name := range []string{outside, filepath.Join(dir, "victim")} {
				if got := mustRead(t, name); string(got) != "precious" {
					t.Errorf("%s is %q", name, got)
				}
			}
		})
	}
}

// TestHostileStore opens a store in which something else is where its directories and files must be. Open refuses with a clear
// error, or everything works as if nothing had been there.
func TestHostileStore(t *testing.T) {
	small := store.RawCID(store.Sum([]byte("small")))
	data := stream("large", 1<<20)
	l := listOf(data)
	shard := func(c cid.Cid) string { return "blobs/" + store.DigestOf(c).String()[62:] }
	name := func(c cid.Cid) string { return shard(c) + "/" + c.String() }
	link := func(target string) func(string) error {
		return func(path string) error { return os.Symlink(target, path) }
	}
	pipe := func(path string) error { return syscall.Mkfifo(path, 0o666) }
	full := func(path string) error { return os.MkdirAll(path+"/deep/er", 0o700) }
	for what, c := range map[string]struct {
		path  string
		plant func(path string) error
		want  string // in Open's error; empty: it works
	}{
		"blobs is a link":                   {"blobs", link("OUTSIDE"), "blobs is not a directory"},
		"blobs is a link inside":            {"blobs", link("manifests"), "blobs is not a directory"},
		"partial is a pipe":                 {"partial", pipe, "partial is not a directory"},
		"manifests is a file":               {"manifests", func(path string) error { return os.WriteFile(path, nil, 0o600) }, "manifests is not a directory"},
		"a shard is a link outside":         {shard(small), link("OUTSIDE"), "is not a directory"},
		"a shard is a link inside":          {shard(small), link("../partial"), "is not a directory"},
		"a shard is a link to another":      {shard(small), link("00"), "is not a directory"},
		"a shard is a pipe":                 {shard(small), pipe, "is not a directory"},
		"a blob is a link outside":          {name(small), link("OUTSIDE/small"), ""},
		"a blob is a link inside":           {name(small), link("../../victim"), ""},
		"a blob is a pipe":                  {name(small), pipe, ""},
		"a blob is a directory":             {name(small), full, ""},
		"a large blob is a pipe":            {name(l.Blob), pipe, ""},
		"a large blob is a directory":       {name(l.Blob), full, ""},
		"a list is a directory":             {name(l.Blob) + ".list", full, ""},
		"a list is a pipe":                  {name(l.Blob) + ".list", pipe, ""},
		"a list is a link":                  {name(l.Blob) + ".list", link("OUTSIDE/small"), ""},
		"a variant is a directory":          {name(small) + ".0755", full, ""},
		"a variant is a link":               {name(small) + ".0755", link("OUTSIDE/small"), ""},
		"a part is a directory":             {"partial/" + l.Blob.String() + ".part", full, ""},
		"a part's list is a pipe":           {"partial/" + l.Blob.String() + ".list", pipe, ""},
		"a session is a link":               {"partial/0123456789abcdef.tmp", link("OUTSIDE"), ""},
		"a session's lock is a pipe":        {"partial/0123456789abcdef.tmp/lock", pipe, ""},
		"a session's blob is a pipe":        {"partial/0123456789abcdef.tmp/" + small.String() + ".1", pipe, ""},
		"a session's blob is a link":        {"partial/0123456789abcdef.tmp/" + small.String() + ".1", link("OUTSIDE/small"), ""},
		"a mark is a pipe":                  {"manifests/" + small.String(), pipe, ""},
		"a mark is a directory":             {"manifests/" + small.String(), full, ""},
		"something else is among the blobs": {"blobs/zz", link("OUTSIDE"), ""},
	} {
		t.Run(what, func(t *testing.T) {
			dir, outside := t.TempDir(), t.TempDir()
			for _, path := range []string{filepath.Join(outside, "small"), filepath.Join(dir, "victim")} {
				if err := os.WriteFile(path, []byte("small"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before := state(t, outside)
			path := filepath.Join(dir, c.path)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := c.plant(path); err != nil {
				t.Fatal(err)
			}
			if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, "OUTSIDE") {
				if err := errors.Join(os.Remove(path), os.Symlink(outside+target[len("OUTSIDE"):], path)); err != nil {
					t.Fatal(err)
				}
			}
			s, err := store.Open(dir)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("Open: %v, want %q", err, c.want)
				}
			} else if err != nil {
				t.Errorf("Open: %v", err)
			} else {
				exercise(t, s, small, data)
			}
			if after := state(t, outside); after != before {
				t.Errorf("outside was %s\nand is %s", before, after)
			}
			if got := mustRead(t, filepath.Join(dir, "victim")); string(got) != "small" {
				t.Errorf("the file inside is %q", got)
			}
		})
	}
}

// exercise does everything with a store that should be as good as an empty one.
func exercise(t *testing.T, s *store.Store, small cid.Cid, data []byte) {
	t.Helper()
	l := listOf(data)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	for _, c := range []cid.Cid{small, l.Blob} {
		if s.Has(c) {
			t.Errorf("%v is taken for a blob", c)
		}
		if f, _, err := s.OpenBlob(c); err == nil {
			f.Close()
			t.Errorf("%v was opened", c)
		}
	}
	if _, _, err := s.List(l.Blob); err == nil {
		t.Error("there is a list")
	}
	if all, err := s.Manifests(); err != nil || len(all) != 0 {
		t.Errorf("manifests %v, %v", all, err)
	}
	put(t, s, "small")
	sync1(t, s)
	putLarge(t, s, data)
	sync1(t, s)
	if string(read(t, s, small)) != "small" || !bytes.Equal(read(t, s, l.Blob), data) {
		t.Error("other content")
	}
	if path, err := s.BlobFile(small, 0o755); err != nil {
		t.Error(err)
	} else if fi, err := os.Lstat(path); err != nil || fi.Mode() != 0o755 {
		t.Errorf("variant: %v, %v", fi, err)
	}
	if _, raw, err := s.List(l.Blob); err != nil || !bytes.Equal(raw, l.Encode()) {
		t.Errorf("list: %v", err)
	}
	if _, err := s.Usage(context.Background()); err != nil {
		t.Error(err)
	}
	if bad, err := s.Verify(context.Background(), nil); err != nil || len(bad) != 0 {
		t.Errorf("Verify: %v, %v", bad, err)
	}
	if _, err := s.Prune(context.Background(), nil); err != nil {
		t.Error(err)
	}
	if s.Has(small) || s.Has(l.Blob) {
		t.Error("not pruned")
	}
}

// TestHostileStoreVerify: Verify and Prune of a store take away what is no file.
func TestHostileStoreVerify(t *testing.T) {
	small := store.RawCID(store.Sum([]byte("small")))
	l := listOf(stream("large", 1<<20))
	for _, clean := range []string{"verify", "prune"} {
		dir := t.TempDir()
		s := open(t, dir)
		for _, path := range []string{blobFile(dir, small), blobFile(dir, l.Blob), blobFile(dir, small) + ".0755"} {
			if err := os.MkdirAll(path+"/deep", 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := syscall.Mkfifo(blobFile(dir, l.Blob)+".list", 0o600); err != nil {
			t.Fatal(err)
		}
		if clean == "verify" {
			if bad, err := s.Verify(context.Background(), nil); err != nil || len(bad) != 2 {
				t.Errorf("Verify: %v, %v", bad, err)
			}
		} else if _, err := s.Prune(context.Background(), nil); err != nil {
			t.Errorf("Prune: %v", err)
		}
		for _, path := range []string{blobFile(dir, small), blobFile(dir, l.Blob), blobFile(dir, small) + ".0755"} {
			if _, err := os.Lstat(path); err == nil {
				t.Errorf("%s: %s is still there", clean, path)
			}
		}
	}
}

// TestHostile69DiskFullAtEachWrite publishes and fetches on a disk with a little more room each time: room for bytes, and for
// files. Until it is enough each error says so, what was there stays whole, and all space comes back.
func TestHostile69DiskFullAtEachWrite(t *testing.T) {
	t.Run("bytes", func(t *testing.T) {
		untilItFits(t, "size=8m", 16<<10, func(path string, free syscall.Statfs_t, room uint64) error {
			return os.WriteFile(path, make([]byte, free.Bavail*uint64(free.Bsize)-room), 0o600)
		})
	})
	t.Run("files", func(t *testing.T) {
		untilItFits(t, "size=8m,nr_inodes=200", 1, func(path string, free syscall.Statfs_t, room uint64) error {
			err := os.Mkdir(path, 0o700)
			for i := range free.Ffree - room - 1 {
				err = errors.Join(err, os.WriteFile(filepath.Join(path, fmt.Sprint(i)), nil, 0o600))
			}
			return err
		})
	})
}

// untilItFits does each job with more room each time, by the given step, until it succeeds. Ballast takes all but so much room.
func untilItFits(t *testing.T, options string, step uint64, ballast func(path string, free syscall.Statfs_t, room uint64) error) {
	dir := t.TempDir()
	mountTmpfs(t, dir, options)
	home, weight := filepath.Join(dir, "store"), filepath.Join(dir, "ballast")
	s := open(t, home)
	tree := t.TempDir()
	write(t, tree, "big", stream("old", 300_000))
	write(t, tree, "small", []byte("old"))
	old := publish(t, s, tree)
	measure := func() (st syscall.Statfs_t) {
		if err := syscall.Statfs(home, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	for name, job := range hungryJobs(t, s, tree) {
		failed := 0
		for room := uint64(0); ; room += step {
			if room > 300*step {
				t.Fatalf("%s never succeeds", name)
			}
			before := measure()
			if err := ballast(weight, before, room); err != nil {
				t.Fatal(err)
			}
			err := job()
			if rerr := os.RemoveAll(weight); rerr != nil {
				t.Fatal(rerr)
			}
			if err != nil && !errors.Is(err, store.ErrNoSpace) {
				t.Errorf("%s with room %d: %v", name, room, err)
			}
			_ = s.Sync() // tells once more of what was lost
			if bad, err := s.Verify(context.Background(), nil); err != nil || len(bad) > 0 {
				t.Fatalf("%s with room %d: bad blobs %v, %v", name, room, bad, err)
			}
			if _, err := s.Prune(context.Background(), []cid.Cid{old.Manifest}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Manifest(old.Manifest); err != nil || string(read(t, s, store.RawCID(store.Sum([]byte("old"))))) != "old" {
				t.Fatalf("%s with room %d: the old release is damaged: %v", name, room, err)
			}
			if left := files(t, filepath.Join(home, "partial")); len(left) != 2 { // the gate, our session's lock
				t.Errorf("%s with room %d: left %q", name, room, left)
			}
			if err == nil {
				break
			}
			failed++
			if now := measure(); now.Bavail != before.Bavail {
				t.Errorf("%s with room %d: %d blocks are free, %d before", name, room, now.Bavail, before.Bavail)
			}
		}
		if failed == 0 {
			t.Errorf("%s never failed", name)
		}
	}
}

// hungryJobs are what takes room in a store.
func hungryJobs(t *testing.T, s *store.Store, tree string) map[string]func() error {
	write(t, tree, "big", stream("new", 400_000))
	for i := range 20 {
		write(t, tree, fmt.Sprint("small", i), stream(fmt.Sprint(i), 100*i))
	}
	data := stream("fetched", 300_000)
	return map[string]func() error{
		"publish": func() error { _, err := s.Publish(context.Background(), tree, options()); return err },
		"fetch": func() error {
			err := fetchLarge(s, data)
			for i := range 10 {
				small := stream(fmt.Sprint("fetched", i), 3000)
				err = errors.Join(err, s.Put(store.RawCID(store.Sum(small)), small, 0o644))
			}
			return errors.Join(err, s.Sync()) // also of what was accepted before the disk was full
		},
		"variant": func() error {
			_, err := s.BlobFile(listOf(stream("old", 300_000)).Blob, 0o711)
			return err
		},
	}
}

// fetchLarge stores a large blob chunk by chunk.
func fetchLarge(s *store.Store, data []byte) error {
	l := listOf(data)
	p, err := s.Partial(l, 0o644)
	if err != nil {
		return err
	}
	for i := range l.Chunks {
		if err = p.WriteChunk(i, data[l.Chunks[i].Offset:][:l.Chunks[i].Size]); err != nil {
			break
		}
	}
	if err == nil {
		err = p.Commit()
	}
	return errors.Join(err, p.Close())
}
