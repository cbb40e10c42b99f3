package store_test

import (
	"fmt"
	"testing"

	"satchel/store"
)

func BenchmarkHas(b *testing.B) {
	s := open(b, b.TempDir())
	c := put(b, s, "here")
	sync1(b, s)
	for b.Loop() {
		if !s.Has(c) {
			b.Fatal("not here")
		}
	}
}

func BenchmarkReadRange(b *testing.B) {
	s := open(b, b.TempDir())
	c := putLarge(b, s, stream("range", 4<<20))
	sync1(b, s)
	p := make([]byte, 64<<10)
	b.SetBytes(int64(len(p)))
	for i := 0; b.Loop(); i++ {
		if err := s.ReadRange(c, int64(i%64)<<16, p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	s := open(b, b.TempDir())
	data := stream("put", 25_000)
	b.SetBytes(int64(len(data)))
	for i := 0; b.Loop(); i++ {
		copy(data, fmt.Sprintf("%010d", i))
		if err := s.Put(store.RawCID(store.Sum(data)), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}
