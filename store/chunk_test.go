package store_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"
	"satchel/store"
)

// stream gives n bytes that look random, the same for ever: SHA-256 of the seed and a counter of eight bytes, block after block.
func stream(seed string, n int) []byte {
	out := make([]byte, 0, n+sha256.Size)
	for i := uint64(0); len(out) < n; i++ {
		block := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(seed), i))
		out = append(out, block[:]...)
	}
	return out[:n]
}

// referenceCut follows FORMAT.md word by word.
func referenceCut(data []byte) int {
	var hash uint64
	for i := range data {
		length := i + 1
		if i >= 16384 {
			sum := sha256.Sum256(append([]byte("satchel gear v1\x00"), data[i]))
			hash = hash*2 + binary.BigEndian.Uint64(sum[:8])
			if i < 65536 && hash>>46 == 0 || i >= 65536 && hash>>50 == 0 {
				return length
			}
		}
		if length == 262144 {
			return length
		}
	}
	return len(data)
}

func cuts(data []byte) (sizes []int) {
	for len(data) > 0 {
		n := store.Cut(data)
		sizes = append(sizes, n)
		data = data[n:]
	}
	return sizes
}

func TestCutIsTheReference(t *testing.T) {
	data := stream("reference", 3<<20)
	for len(data) > 0 {
		got, want := store.Cut(data), referenceCut(data)
		if got != want {
			t.Fatalf("Cut of %d bytes = %d, want %d", len(data), got, want)
		}
		data = data[got:]
	}
}

func TestCutBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 1<<20).Draw(t, "length")
		data := stream(rapid.StringN(0, 4, 4).Draw(t, "seed"), n)
		sizes, total := cuts(data), 0
		for i, size := range sizes {
			total += size
			if size > store.MaxChunk || size < store.MinChunk && i < len(sizes)-1 {
				t.Errorf("chunk %d of %d has %d bytes", i, len(sizes), size)
			}
		}
		if total != n {
			t.Errorf("chunks of %d bytes in all, want %d", total, n)
		}
	})
}

// TestCutsComeBack checks what content-defined cutting is for: after an insertion the chunks are soon the same again.
func TestCutsComeBack(t *testing.T) {
	data := stream("insertion", 8<<20)
	old := map[store.Digest]bool{}
	for d := data; len(d) > 0; d = d[store.Cut(d):] {
		old[store.Sum(d[:store.Cut(d)])] = true
	}
	changed := append([]byte("inserted"), data...)
	fresh := 0
	for d := changed; len(d) > 0; d = d[store.Cut(d):] {
		if n := store.Cut(d); !old[store.Sum(d[:n])] {
			fresh += n
		}
	}
	if fresh > 4*store.MaxChunk {
		t.Errorf("%d bytes of new chunks after inserting 8 bytes", fresh)
	}
}

// vector is a file in testdata: lines of "key: value", an empty line, bytes in hexadecimal.
type vector struct {
	fields map[string]string
	data   []byte
}

func vectors(t testing.TB, dir string, atLeast int) map[string]vector {
	files, err := filepath.Glob("testdata/" + dir + "/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < atLeast {
		t.Fatalf("only %d vectors in testdata/%s", len(files), dir)
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

// content makes what a vector's "content" line describes: "stream SEED LENGTH", "zeros LENGTH" or "hex BYTES".
func content(t testing.TB, line string) []byte {
	word := strings.Fields(line + " ")
	number := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	switch {
	case word[0] == "stream" && len(word) == 3:
		return stream(word[1], number(word[2]))
	case word[0] == "zeros" && len(word) == 2:
		return make([]byte, number(word[1]))
	case word[0] == "hex" && len(word) <= 2:
		data, err := hex.DecodeString(strings.Join(word[1:], ""))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	t.Fatalf("bad content %q", line)
	return nil
}

func TestChunkVectors(t *testing.T) {
	for name, v := range vectors(t, "chunk", 6) {
		t.Run(name, func(t *testing.T) {
			data := content(t, v.fields["content"])
			sizes := strings.Trim(fmt.Sprint(cuts(data)), "[]")
			if sizes != v.fields["sizes"] {
				t.Errorf("sizes %s, want %s", sizes, v.fields["sizes"])
			}
			c, raw := nameOf(data)
			if c.String() != v.fields["cid"] {
				t.Errorf("CID %v, want %s", c, v.fields["cid"])
			}
			if !bytes.Equal(raw, v.data) {
				t.Errorf("chunk list %x, want %x", raw, v.data)
			}
		})
	}
}

// nameOf names a blob, with the exported parts of the package only.
func nameOf(data []byte) (cid.Cid, []byte) {
	sizes := cuts(data)
	if len(sizes) < 2 {
		return store.RawCID(store.Sum(data)), nil
	}
	l := listOf(data)
	return l.Blob, l.Encode()
}

// listOf is the chunk list of a large blob.
func listOf(data []byte) *store.ChunkList {
	l := &store.ChunkList{}
	for _, n := range cuts(data) {
		chunk := data[l.Size:][:n]
		l.Chunks = append(l.Chunks, store.Chunk{Offset: l.Size, Size: uint32(n), Digest: store.Sum(chunk)})
		l.Size += uint64(n)
	}
	l.Blob = store.ListCID(store.Sum(l.Encode()))
	return l
}

func TestGearTable(t *testing.T) {
	text, err := os.ReadFile("testdata/gear.txt")
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for b := range 256 {
		sum := sha256.Sum256(append([]byte("satchel gear v1\x00"), byte(b)))
		fmt.Fprintf(&want, "%x\n", sum[:8])
	}
	if string(text) != want.String() {
		t.Error("testdata/gear.txt does not follow the rule")
	}
	spec := mustRead(t, "FORMAT.md")
	if sum := fmt.Sprintf("%x", sha256.Sum256(text)); !bytes.Contains(spec, []byte(sum)) {
		t.Errorf("FORMAT.md does not give the table's hash %s", sum)
	}
	if c := store.RawCID(store.Sum([]byte("one half is 1/2"))); !bytes.Contains(spec, []byte(c.String())) {
		t.Errorf("FORMAT.md does not name the example's blob %v", c)
	}
}

func BenchmarkChunk(b *testing.B) {
	data := stream("benchmark", 16<<20)
	b.Run("cut", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			for d := data; len(d) > 0; {
				d = d[store.Cut(d):]
			}
		}
	})
	b.Run("cut and hash", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			for d := data; len(d) > 0; {
				n := store.Cut(d)
				store.Sum(d[:n])
				d = d[n:]
			}
		}
	})
}
