package stick

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"satchel/announce"
	"satchel/store"
)

// vector is one file of testdata; FORMAT.md, "Vectors", describes them.
type vector struct {
	name, expect, kind, comment string
	data                        []byte
}

func vectors(t testing.TB) (all []vector) {
	t.Helper()
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		head, body, _ := strings.Cut(string(text), "\n\n")
		v := vector{name: filepath.Base(file)}
		for _, line := range strings.Split(head, "\n") {
			switch key, val, _ := strings.Cut(line, ": "); key {
			case "expect":
				v.expect = val
			case "kind":
				v.kind = val
			case "comment":
				v.comment = val
			default:
				t.Fatalf("%s: header %q", file, key)
			}
		}
		if v.data, err = hex.DecodeString(strings.Join(strings.Fields(body), "")); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		all = append(all, v)
	}
	if len(all) < 20 {
		t.Fatalf("%d vectors", len(all))
	}
	return all
}

// print parses a file and prints what was understood.
func (v vector) print() ([]byte, error) {
	if v.kind == "pack" {
		e, err := parseTable(v.data)
		if err != nil {
			return nil, err
		}
		return encodeTable(e), nil
	}
	d, err := parseDocuments(v.data)
	if err != nil {
		return nil, err
	}
	return d.Encode(), nil
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		again, err := v.print()
		switch {
		case v.comment == "" || v.kind != "pack" && v.kind != "catalog":
			t.Errorf("%s: a header is missing", v.name)
		case v.expect == "ok" && (err != nil || !bytes.Equal(again, v.data)):
			t.Errorf("%s: %v", v.name, err)
		case v.expect != "ok" && (err == nil || v.expect != "refuse"):
			t.Errorf("%s (%s) was accepted", v.name, v.comment)
		}
	}
}

// What the document says of sizes.
func TestLimits(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want int
	}{
		{"largest piece", int(maxPiece), 155_189_317},
		{"announcements", MaxAnnouncements, 10_128},
		{"pieces of a pack", maxPackPieces, 65_536},
		{"where pieces begin", int(tableSize(10)), 52 + 360},
		{"envelope", announce.MaxEnvelope, 512},
		{"timestamp", announce.MaxTimestampEnvelope, 65_536},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d, the document says %d", c.name, c.got, c.want)
		}
	}
}

// FuzzPackTable: parse then print gives the same bytes, or an error.
func FuzzPackTable(f *testing.F) { fuzz(f, "pack") }

// FuzzCatalogFile: parse then print gives the same bytes, or an error and no documents.
func FuzzCatalogFile(f *testing.F) { fuzz(f, "catalog") }

func fuzz(f *testing.F, kind string) {
	n := 0
	for _, v := range vectors(f) {
		if v.kind == kind {
			f.Add(v.data)
			n++
		}
	}
	if n < 8 {
		f.Fatalf("%d seeds", n)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		check(t, kind, data)
		check(t, kind, resum(kind, data)) // a fuzzer does not find checksums
	})
}

func check(t *testing.T, kind string, data []byte) {
	t.Helper()
	again, err := vector{kind: kind, data: data}.print()
	if err == nil && !bytes.Equal(again, data) {
		t.Fatalf("parsed and printed:\n%x\n%x", data, again)
	}
	d, derr := parseDocuments(data)
	if (d == nil) == (derr == nil) {
		t.Fatalf("%v and %v", d, derr)
	}
	if e, err := parseTable(data); len(e)*entrySize > len(data) {
		t.Fatalf("%d entries of %d bytes, %v", len(e), len(data), err)
	}
}

// resum gives a file the checksum that it should have.
func resum(kind string, data []byte) []byte {
	end := max(0, len(data)-len(store.Digest{}))
	if kind == "catalog" {
		end = max(0, end-recordHead)
	}
	sum := store.Sum(data[:end])
	if kind == "catalog" {
		return append(bytes.Clone(data[:end]), record(recordEnd, sum[:])...)
	}
	return append(bytes.Clone(data[:end]), sum[:]...)
}
