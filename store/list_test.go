package store_test

import (
	"bytes"
	"fmt"
	"reflect"
	"strconv"
	"testing"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
	"pgregory.net/rapid"
	"satchel/store"
)

func TestListVectors(t *testing.T) {
	for name, v := range vectors(t, "list", 20) {
		t.Run(name, func(t *testing.T) {
			size, err := strconv.ParseUint(v.fields["size"], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			c, err := cid.Decode(v.fields["cid"])
			if err != nil {
				t.Fatal(err)
			}
			l, err := store.ParseChunkList(c, size, v.data)
			switch v.fields["expect"] {
			case "good":
				if err != nil {
					t.Fatal(err)
				}
				if again := l.Encode(); !bytes.Equal(again, v.data) {
					t.Errorf("printing again gives %x", again)
				}
				if l.Blob != c || l.Size != size {
					t.Errorf("list of %v with %d bytes", l.Blob, l.Size)
				}
			case "refused":
				if err == nil {
					t.Errorf("accepted as %+v", l)
				}
			default:
				t.Errorf("expect: %q", v.fields["expect"])
			}
		})
	}
}

func FuzzChunkList(f *testing.F) {
	for _, v := range vectors(f, "list", 20) {
		size, err := strconv.ParseUint(v.fields["size"], 10, 64)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(size, v.data)
	}
	f.Fuzz(func(t *testing.T, size uint64, data []byte) {
		l, err := store.ParseChunkList(store.ListCID(store.Sum(data)), size, data)
		if err != nil {
			if l != nil {
				t.Fatal("an error and a list")
			}
			return
		}
		if again := l.Encode(); !bytes.Equal(again, data) {
			t.Fatalf("printing again gives %x", again)
		}
		if len(data) > store.MaxListSize(size) {
			t.Fatalf("%d bytes are more than MaxListSize(%d)", len(data), size)
		}
		var sum uint64
		for _, c := range l.Chunks {
			if c.Offset != sum {
				t.Fatalf("chunk at %d, want %d", c.Offset, sum)
			}
			sum += uint64(c.Size)
		}
		if sum != size {
			t.Fatalf("chunks of %d bytes, want %d", sum, size)
		}
	})
}

func TestAnyListRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := &store.ChunkList{}
		for range rapid.IntRange(2, 40).Draw(t, "chunks") {
			size := rapid.Uint32Range(store.MinChunk, store.MaxChunk).Draw(t, "size")
			l.Chunks = append(l.Chunks, store.Chunk{Offset: l.Size, Size: size, Digest: store.Sum([]byte(fmt.Sprint(l.Size)))})
			l.Size += uint64(size)
		}
		raw := l.Encode()
		l.Blob = store.ListCID(store.Sum(raw))
		got, err := store.ParseChunkList(l.Blob, l.Size, raw)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, l) {
			t.Errorf("got %+v\nwant %+v", got, l)
		}
	})
}

func TestCIDs(t *testing.T) {
	d := store.Sum([]byte("content"))
	for _, c := range []cid.Cid{store.RawCID(d), store.ListCID(d)} {
		got, err := store.ParseCID(c.Bytes())
		if err != nil || got != c || store.DigestOf(got) != d {
			t.Errorf("ParseCID of %v = %v, %v", c, got, err)
		}
	}
	if !store.IsRaw(store.RawCID(d)) || store.IsRaw(store.ListCID(d)) || store.IsRaw(cid.Undef) {
		t.Error("IsRaw is wrong")
	}
	if got, want := store.RawCID(store.Sum(nil)).String(), "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"; got != want {
		t.Errorf("the empty blob is %s, want %s", got, want)
	}
	sha1, err := multihash.Sum([]byte("content"), multihash.SHA1, -1)
	if err != nil {
		t.Fatal(err)
	}
	short, err := multihash.Sum([]byte("content"), multihash.SHA2_256, 20)
	if err != nil {
		t.Fatal(err)
	}
	good := store.RawCID(d).Bytes()
	bad := map[string][]byte{
		"empty":       nil,
		"truncated":   good[:len(good)-1],
		"trailing":    append(store.RawCID(d).Bytes(), 0),
		"version 0":   good[2:],
		"version 2":   append([]byte{2}, good[1:]...),
		"dag-pb":      cid.NewCidV1(cid.DagProtobuf, cid.Cid(store.RawCID(d)).Hash()).Bytes(),
		"dag-cbor":    cid.NewCidV1(cid.DagCBOR, store.RawCID(d).Hash()).Bytes(),
		"sha1":        cid.NewCidV1(cid.Raw, sha1).Bytes(),
		"short hash":  cid.NewCidV1(cid.Raw, short).Bytes(),
		"long varint": append([]byte{0x81, 0x00}, good[1:]...),
	}
	for name, b := range bad {
		if c, err := store.ParseCID(b); err == nil {
			t.Errorf("%s: accepted as %v", name, c)
		}
	}
}

func TestMaxListSize(t *testing.T) {
	// The worst case: as many chunks as the limits allow.
	for _, size := range []uint64{0, 1, store.MinChunk + 1, 1 << 20, 100 * store.MinChunk} {
		l := &store.ChunkList{}
		for l.Size < size {
			n := min(size-l.Size, store.MinChunk)
			l.Chunks = append(l.Chunks, store.Chunk{Offset: l.Size, Size: uint32(n)})
			l.Size += n
		}
		if got, limit := len(l.Encode()), store.MaxListSize(size); got > limit {
			t.Errorf("a list of %d bytes for a blob of %d, MaxListSize says %d", got, size, limit)
		}
	}
}
