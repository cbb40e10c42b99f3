package fetch_test

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"pgregory.net/rapid"
	"satchel/fetch"
)

func TestField(t *testing.T) {
	tests := []struct {
		set  []int
		n    int
		want []byte
	}{
		{nil, 0, nil},
		{nil, 20, nil},
		{[]int{0}, 1, []byte{0x80}},
		{[]int{7, 8}, 9, []byte{0x01, 0x80}},
		{[]int{0, 9, 63, 64}, 65, []byte{0x80, 0x40, 0, 0, 0, 0, 0, 1, 0x80}},
	}
	for _, test := range tests {
		if got := fetch.Field(test.set, test.n); !bytes.Equal(got, test.want) {
			t.Errorf("%v of %d: got %x, want %x", test.set, test.n, got, test.want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 300).Draw(t, "n")
		set := rapid.SliceOfDistinct(rapid.IntRange(0, n-1), func(i int) int { return i }).Draw(t, "set")
		slices.Sort(set)
		if got := fetch.ParseField(fetch.Field(set, n), n); !slices.Equal(got, set) {
			t.Fatalf("got %v, want %v", got, set)
		}
	})
}

// sizes of the blobs in the tests below: raw, raw, 64 chunks at most, empty, raw, many chunks.
var sizes = []uint64{10, 20_000, 1 << 20, 0, 256 << 10, 10 << 20}

func TestClaims(t *testing.T) {
	tests := []struct {
		name string
		maps []fetch.HaveMap
		news []fetch.Have
		bad  bool
		want func(c *fetch.Claims) bool
	}{
		{"nothing", []fetch.HaveMap{{}}, nil, false, func(c *fetch.Claims) bool { return !c.HoldsBlob(0) && !c.HoldsList(2) }},
		{"all", []fetch.HaveMap{{All: true}}, nil, false, func(c *fetch.Claims) bool {
			return c.HoldsBlob(5) && c.HoldsBlob(fetch.ManifestBlob) && c.HoldsChunk(2, 3) && c.HoldsList(2)
		}},
		{"manifest", []fetch.HaveMap{{Manifest: true}}, nil, false, func(c *fetch.Claims) bool {
			return c.HoldsBlob(fetch.ManifestBlob) && c.HoldsList(fetch.ManifestBlob) && !c.HoldsBlob(0)
		}},
		{"some blobs", []fetch.HaveMap{{Blobs: []byte{0x84}}}, nil, false, func(c *fetch.Claims) bool {
			return c.HoldsBlob(0) && !c.HoldsBlob(1) && c.HoldsBlob(5) && c.HoldsChunk(5, 600) && c.HoldsList(5)
		}},
		{"bits behind the last", []fetch.HaveMap{{Blobs: []byte{0x87}}}, nil, false, func(c *fetch.Claims) bool {
			return c.HoldsBlob(0) && c.HoldsBlob(5) && !c.HoldsBlob(6) && !c.HoldsBlob(7)
		}},
		{"maps add up", []fetch.HaveMap{{Blobs: []byte{0x80}}, {Blobs: []byte{0x40}}}, nil, false, func(c *fetch.Claims) bool {
			return c.HoldsBlob(0) && c.HoldsBlob(1)
		}},
		{"a map too long", []fetch.HaveMap{{Blobs: []byte{0x80, 0}}}, nil, true, nil},
		{"some chunks", []fetch.HaveMap{{Partial: []fetch.PartialHave{{Blob: 2, Chunks: []byte{0x20}}}}}, nil, false, func(c *fetch.Claims) bool {
			return c.HoldsChunk(2, 2) && !c.HoldsChunk(2, 1) && c.HoldsList(2) && !c.HoldsBlob(2)
		}},
		{"the list alone", []fetch.HaveMap{{Partial: []fetch.PartialHave{{Blob: 2}}}}, nil, false, func(c *fetch.Claims) bool { return c.HoldsList(2) && !c.HoldsChunk(2, 0) }},
		{"chunks of a raw blob", []fetch.HaveMap{{Partial: []fetch.PartialHave{{Blob: 1, Chunks: []byte{0x80}}}}}, nil, true, nil},
		{"too many chunks", []fetch.HaveMap{{Partial: []fetch.PartialHave{{Blob: 2, Chunks: make([]byte, 10)}}}}, nil, true, nil},
		{"news of a blob", nil, []fetch.Have{{Blob: 1, Chunk: -1}}, false, func(c *fetch.Claims) bool { return c.HoldsBlob(1) }},
		{"news of a chunk", nil, []fetch.Have{{Blob: 2, Chunk: 7}}, false, func(c *fetch.Claims) bool { return c.HoldsChunk(2, 7) && c.HoldsList(2) }},
		{"news of a list", nil, []fetch.Have{{Blob: 2, Chunk: -1, List: true}}, false, func(c *fetch.Claims) bool { return c.HoldsList(2) && !c.HoldsBlob(2) }},
		{"news of the manifest", nil, []fetch.Have{{Blob: fetch.ManifestBlob, Chunk: -1}}, false, func(c *fetch.Claims) bool { return c.HoldsBlob(fetch.ManifestBlob) }},
		{"news of no blob", nil, []fetch.Have{{Blob: 6, Chunk: -1}}, true, nil},
		{"news of no chunk", nil, []fetch.Have{{Blob: 2, Chunk: 65}}, true, nil},
		{"news of a negative chunk", nil, []fetch.Have{{Blob: 2, Chunk: -2}}, true, nil},
	}
	for _, test := range tests {
		for _, early := range []bool{false, true} {
			c := fetch.NewClaims(100_000)
			var err error
			note := func(e error) {
				if err == nil {
					err = e
				}
			}
			if !early {
				note(c.Know(sizes))
			}
			for k, m := range test.maps {
				if !early || k == len(test.maps)-1 { // before the manifest is known the last map counts
					note(c.Apply(m))
				}
			}
			for _, v := range test.news {
				note(c.Add(v))
			}
			if early {
				note(c.Know(sizes))
			}
			if (err != nil) != test.bad {
				t.Errorf("%s, early %v: error %v", test.name, early, err)
			}
			if err == nil && !(early && len(test.maps) > 1) && !test.want(c) {
				t.Errorf("%s, early %v: not as wanted", test.name, early)
			}
		}
	}
}

func TestEarlyHavesAreBounded(t *testing.T) {
	c := fetch.NewClaims(100_000)
	for i := range 1_000_000 {
		if err := c.Add(fetch.Have{Blob: uint32(i), Chunk: int32(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if c.Size() > 2<<20 {
		t.Errorf("%d bytes", c.Size())
	}
}

// FuzzClaims lets a neighbour say anything, before and after the manifest is known. What is believed stays within the release and
// within bounds.
func FuzzClaims(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12})
	f.Add([]byte{1, 0x84, 2, 0, 0, 0, 2, 8, 1, 255, 255, 255, 255, 255, 255, 255, 255, 3, 0, 0, 0, 2, 0, 0, 0, 9, 4})
	f.Add(bytes.Repeat([]byte{2, 255, 255, 255, 255, 3, 1, 2, 3}, 20))
	f.Fuzz(func(t *testing.T, in []byte) {
		c := fetch.NewClaims(100_000)
		known := false
		take := func(n int) []byte {
			n = min(n, len(in))
			out := in[:n]
			in = in[n:]
			return out
		}
		number := func() uint32 {
			var b [4]byte
			copy(b[:], take(4))
			return binary.BigEndian.Uint32(b[:])
		}
		for len(in) > 0 {
			var err error
			switch op := take(1)[0]; op % 5 {
			case 0:
				err = c.Apply(fetch.HaveMap{Manifest: op > 100, Blobs: take(int(op) / 16)})
			case 1:
				err = c.Apply(fetch.HaveMap{Blobs: take(1)})
			case 2:
				p := fetch.PartialHave{Blob: number()}
				p.Chunks = take(int(op) / 8)
				err = c.Apply(fetch.HaveMap{Partial: []fetch.PartialHave{p}})
			case 3:
				err = c.Add(fetch.Have{Blob: number(), Chunk: int32(number()), List: op > 128})
			case 4:
				if !known {
					known = true
					err = c.Know(sizes)
				}
			}
			if err != nil {
				break // the neighbour is dropped
			}
		}
		if c.Size() > 4<<20 {
			t.Errorf("%d bytes", c.Size())
		}
		for blob := uint32(len(sizes)); blob < 100; blob++ {
			if c.HoldsBlob(blob) || known && c.HoldsList(blob) {
				t.Errorf("holds blob %d of %d", blob, len(sizes))
			}
		}
		if c.HoldsChunk(2, 65) && !c.HoldsBlob(2) || c.HoldsChunk(fetch.ManifestBlob, 7) && !c.HoldsBlob(fetch.ManifestBlob) {
			t.Error("holds a chunk behind the last")
		}
	})
}
