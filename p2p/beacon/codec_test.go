package beacon_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"satchel/p2p/beacon"
)

const wholeTag = 0x2a58862a // of the vector called whole

type vector struct {
	name, expect string
	data         []byte
}

// vectors reads testdata/vectors: lines "expect:" and "comment:", an empty line, hexadecimal bytes.
func vectors(t testing.TB) []vector {
	t.Helper()
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d vectors, %v: some are missing", len(files), err)
	}
	var all []vector
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		head, body, _ := strings.Cut(string(text), "\n\n")
		expect, ok := strings.CutPrefix(strings.Split(head, "\n")[0], "expect: ")
		data, err := hex.DecodeString(strings.ReplaceAll(body, "\n", ""))
		if !ok || err != nil {
			t.Fatalf("%s: not a vector: %v", file, err)
		}
		all = append(all, vector{strings.TrimSuffix(filepath.Base(file), ".txt"), expect, data})
	}
	return all
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.name, func(t *testing.T) {
			b, err := beacon.Parse(v.data)
			got := "ok"
			switch {
			case errors.Is(err, beacon.ErrForm):
				got = "form"
			case err != nil:
				got = "malformed"
			}
			if got != v.expect {
				t.Fatalf("got %s (%v), want %s", got, err, v.expect)
			}
			if again, err2 := b.Encode(); err == nil && (err2 != nil || !bytes.Equal(again, v.data)) {
				t.Errorf("encoded again: %x, %v", again, err2)
			}
		})
	}
}

func TestParseReadsTheFields(t *testing.T) {
	for _, v := range vectors(t) {
		if v.name != "whole" {
			continue
		}
		b, err := beacon.Parse(v.data)
		if err != nil {
			t.Fatal(err)
		}
		if len(b.Node) != 38 || b.TCP != 4001 || b.QUIC != 0 || b.Digest[0] != 0xa1 || b.Instance != 0x1122334455667788 {
			t.Errorf("parsed %+v", b)
		}
		if want := []beacon.Tag{0xa, 0x7fffffff, 0xdeadbeef}; !slices.Equal(b.Heard.Tags, want) {
			t.Errorf("heard %x, want %x", b.Heard.Tags, want)
		}
		if b.Tag() != wholeTag {
			t.Errorf("tag %x, want %x", b.Tag(), wholeTag)
		}
		return
	}
	t.Fatal("no vector called whole")
}

func TestHeardSays(t *testing.T) {
	h := beacon.Heard{From: 10, To: 20, Tags: []beacon.Tag{10, 15}}
	for tag, want := range map[beacon.Tag]beacon.Hearing{
		9: beacon.Unsaid, 10: beacon.Present, 11: beacon.Absent, 15: beacon.Present, 20: beacon.Absent, 21: beacon.Unsaid,
	} {
		if got := h.Says(tag); got != want {
			t.Errorf("of %d: %v, want %v", tag, got, want)
		}
	}
}

func drawBeacon(t *rapid.T) beacon.Beacon {
	tags := rapid.SliceOfNDistinct(rapid.Uint32(), 0, beacon.MaxHeard, rapid.ID[uint32]).Draw(t, "tags")
	slices.Sort(tags)
	b := beacon.Beacon{
		Node:     rapid.SliceOfN(rapid.Byte(), 1, beacon.MaxNode).Draw(t, "node"),
		TCP:      rapid.Uint16().Draw(t, "tcp"),
		QUIC:     rapid.Uint16().Draw(t, "quic"),
		Digest:   [8]byte(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "digest")),
		Instance: rapid.Uint64().Draw(t, "instance"),
		Heard:    beacon.Heard{To: ^beacon.Tag(0)},
	}
	for _, tag := range tags {
		b.Heard.Tags = append(b.Heard.Tags, beacon.Tag(tag))
	}
	return b
}

func TestEncodeParse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := drawBeacon(t)
		data, err := b.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > beacon.MaxSize-100 {
			t.Fatalf("%d bytes leave no room for what is to come", len(data))
		}
		c, err := beacon.Parse(data)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(c.Node, b.Node) || c.TCP != b.TCP || c.QUIC != b.QUIC || c.Digest != b.Digest ||
			c.Instance != b.Instance || !slices.Equal(c.Heard.Tags, b.Heard.Tags) || c.Tag() != b.Tag() {
			t.Fatalf("%+v came back as %+v", b, c)
		}
	})
}

// A beacon with any one byte changed parses to something else, or not at all.
func TestOneByteChanged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		data, err := drawBeacon(t).Encode()
		if err != nil {
			t.Fatal(err)
		}
		at := rapid.IntRange(0, len(data)-1).Draw(t, "at")
		data[at] ^= rapid.ByteRange(1, 255).Draw(t, "change")
		if b, err := beacon.Parse(data); err == nil {
			if again, err := b.Encode(); err != nil || !bytes.Equal(again, data) {
				t.Fatalf("%x came back as %x, %v", data, again, err)
			}
		}
	})
}

func TestEncodeRefuses(t *testing.T) {
	tags := func(n int) (tags []beacon.Tag) {
		for i := range n {
			tags = append(tags, beacon.Tag(i))
		}
		return tags
	}
	for name, b := range map[string]beacon.Beacon{
		"no node":       {},
		"long node":     {Node: make([]byte, beacon.MaxNode+1)},
		"many tags":     {Node: []byte("n"), Heard: beacon.Heard{To: 1000, Tags: tags(beacon.MaxHeard + 1)}},
		"outside range": {Node: []byte("n"), Heard: beacon.Heard{To: 1, Tags: tags(3)}},
		"unordered":     {Node: []byte("n"), Heard: beacon.Heard{To: 9, Tags: []beacon.Tag{2, 1}}},
	} {
		if data, err := b.Encode(); err == nil {
			t.Errorf("%s: encoded to %x", name, data)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := beacon.Parse(data)
		if err != nil {
			return
		}
		again, err := b.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x came back as %x, %v", data, again, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	data, err := beacon.Beacon{Node: make([]byte, 38), Heard: beacon.Heard{To: ^beacon.Tag(0), Tags: []beacon.Tag{1, 2, 3}}}.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := beacon.Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}
