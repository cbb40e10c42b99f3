package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"

	"satchel/store"
	"satchel/store/manifest"
)

// The tests of this file stand at single checks: what they offer is good but for one thing, or exactly at a limit.

// listWith is a chunk list as somebody hostile may publish it: digests and sizes need not belong together.
func listWith(t testing.TB, chunks ...store.Chunk) *store.ChunkList {
	t.Helper()
	l := &store.ChunkList{Chunks: chunks}
	for _, c := range chunks {
		l.Size += uint64(c.Size)
	}
	raw := l.Encode()
	l, err := store.ParseChunkList(store.ListCID(store.Sum(raw)), l.Size, raw)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func chunkOf(data []byte) store.Chunk {
	return store.Chunk{Size: uint32(len(data)), Digest: store.Sum(data)}
}

func TestNamesOfBlobs(t *testing.T) {
	sum := store.Sum([]byte("x"))
	for name, tt := range map[string]struct {
		hash, codec uint64
		digest      []byte
		want        bool
	}{
		"raw":                     {multihash.SHA2_256, cid.Raw, sum[:], true},
		"list":                    {multihash.SHA2_256, 0x51, sum[:], true},
		"codec 0x50":              {multihash.SHA2_256, 0x50, sum[:], false},
		"codec 0x52":              {multihash.SHA2_256, 0x52, sum[:], false},
		"codec 0x56":              {multihash.SHA2_256, 0x56, sum[:], false},
		"31 bytes of a digest":    {multihash.SHA2_256, cid.Raw, sum[:31], false},
		"33 bytes":                {multihash.SHA2_256, cid.Raw, append(sum[:], 0), false},
		"identity of 32 bytes":    {multihash.IDENTITY, cid.Raw, sum[:], false},
		"another hash of as many": {multihash.SHA3_256, cid.Raw, sum[:], false},
	} {
		mh, err := multihash.Encode(tt.digest, tt.hash)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := store.ParseCID(cid.NewCidV1(tt.codec, mh).Bytes()); (err == nil) != tt.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLargestList(t *testing.T) {
	full := store.Chunk{Size: store.MaxChunk}
	chunks := make([]store.Chunk, store.MaxBlob/store.MaxChunk, store.MaxBlob/store.MaxChunk+1)
	for i := range chunks {
		chunks[i] = full
	}
	l := listWith(t, chunks...)
	if _, err := store.ParseChunkList(l.Blob, l.Size-1, l.Encode()); err == nil {
		t.Error("a list for one byte more than was said")
	}
	l = &store.ChunkList{Size: store.MaxBlob + 1, Chunks: append(chunks, store.Chunk{Size: 1})}
	raw := l.Encode()
	if _, err := store.ParseChunkList(store.ListCID(store.Sum(raw)), l.Size, raw); err == nil {
		t.Error("a list for 64 GiB and one byte")
	}
}

// TestFullChunkIsNotAHole: only a chunk of zeros is here before it came.
func TestFullChunkIsNotAHole(t *testing.T) {
	s := open(t, t.TempDir())
	zeros, ones := make([]byte, store.MaxChunk), bytes.Repeat([]byte{1}, store.MaxChunk)
	p, err := s.Partial(listWith(t, chunkOf(ones), chunkOf(zeros), chunkOf([]byte("end"))), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if have := p.Have(); have[0] || !have[1] || have[2] || p.Missing() != 2 {
		t.Errorf("here: %v, %d missing", have, p.Missing())
	}
	if err := p.WriteChunk(0, ones); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err == nil || s.Has(p.List().Blob) {
		t.Errorf("finished with one chunk missing: %v", err)
	}
}

// TestChunkOfOtherSize: a list whose digest fits data of another size harms nobody's other chunks.
func TestChunkOfOtherSize(t *testing.T) {
	s := open(t, t.TempDir())
	data := stream("other size", store.MinChunk+2)
	for _, n := range []int{store.MinChunk, store.MinChunk + 2} {
		lie := store.Chunk{Size: store.MinChunk + 1, Digest: store.Sum(data[:n])}
		p, err := s.Partial(listWith(t, lie, chunkOf(data[:n])), 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.WriteChunk(0, data[:n]); !errors.Is(err, store.ErrMismatch) {
			t.Errorf("%d bytes for a chunk of %d: %v", n, lie.Size, err)
		}
		p.Close()
	}
}

// TestSizesOfFiles: a file whose size its name cannot have is no blob.
func TestSizesOfFiles(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	raw := store.RawCID(store.Sum([]byte("x")))
	list := store.ListCID(store.Sum([]byte("x")))
	empty := store.RawCID(store.Sum(nil))
	largest := put(t, s, string(stream("largest", store.MaxChunk)))
	sync1(t, s)
	if !s.Has(largest) {
		t.Error("the largest blob of one chunk is not here")
	}
	for _, tt := range []struct {
		c    cid.Cid
		size int64
		want bool
	}{
		{raw, 0, false}, {raw, 1, true}, {raw, store.MaxChunk, true}, {raw, store.MaxChunk + 1, false},
		{empty, 0, true}, {empty, 1, false},
		{list, store.MinChunk, false}, {list, store.MinChunk + 1, true},
	} {
		path := blobFile(dir, tt.c)
		if err := os.MkdirAll(path[:len(path)-len(tt.c.String())], 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, tt.size), 0o600); err != nil {
			t.Fatal(err)
		}
		f, _, err := s.OpenBlob(tt.c)
		if err == nil {
			f.Close()
		}
		if s.Has(tt.c) != tt.want || (err == nil) != tt.want {
			t.Errorf("%v of %d bytes: here %v, opening it: %v", tt.c, tt.size, s.Has(tt.c), err)
		}
	}
}

// TestVariantsAreLookedAt: a variant that is not one any more is made again.
func TestVariantsAreLookedAt(t *testing.T) {
	s := open(t, t.TempDir())
	c := put(t, s, "hello")
	variant := func() string {
		path, err := s.BlobFile(c, 0o777) // the mode of a link
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, spoil := range map[string]func(path string) error{
		"cut off":    func(path string) error { return os.Truncate(path, 4) },
		"other mode": func(path string) error { return os.Chmod(path, 0o700) },
		"a link": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return os.Symlink("other", path) // as long as the blob
		},
		"a pipe in its place": func(path string) error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return syscall.Mkfifo(path, 0o777)
		},
	} {
		if err := spoil(variant()); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Lstat(variant())
		if err != nil || fi.Mode() != 0o777 || fi.Size() != 5 {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
}

// TestDamagedManifest: a manifest that the disk changed into another good one is not taken.
func TestDamagedManifest(t *testing.T) {
	for name, entries := range map[string]int{"of one chunk": 1, "with a chunk list": 20_000} {
		dir := t.TempDir()
		s := open(t, dir)
		m := &manifest.Manifest{Header: manifest.Header{Product: "p", Notes: "before"}}
		for i := range entries {
			m.Entries = append(m.Entries, manifest.Entry{Path: fmt.Sprintf("directory %05d", i), Mode: 0o755})
		}
		c, _, err := s.PutManifest(m)
		if err != nil {
			t.Fatal(err)
		}
		sync1(t, s)
		if _, err := s.Manifest(c); err != nil || store.IsRaw(c) != (entries == 1) {
			t.Fatalf("%s: %v", name, err)
		}
		data := mustRead(t, blobFile(dir, c))
		for what, bad := range map[string][]byte{"changed": bytes.Replace(data, []byte("before"), []byte("behind"), 1), "longer": append(bytes.Clone(data), 0), "shorter": data[:len(data)-1]} {
			if err := os.Chmod(blobFile(dir, c), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(blobFile(dir, c), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Manifest(c); !errors.Is(err, store.ErrMismatch) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
}
