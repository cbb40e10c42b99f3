package crash

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// someLog is 3 writes, a flush, a mark, 4 writes, a mark, a flush.
func someLog() *Log {
	write := func(block int64, size int) event {
		return event{off: block * blockSize, data: bytes.Repeat([]byte{byte(block) + 1}, size)}
	}
	return &Log{events: []event{
		write(0, blockSize), write(1, blockSize), write(0, 2*blockSize), {}, {mark: 1},
		write(3, blockSize), write(4, 3*blockSize), write(3, 512), write(9, blockSize), {mark: 2}, {},
	}}
}

// TestStates checks every state for what a power cut can do, and that the same ones come for one seed.
func TestStates(t *testing.T) {
	l := someLog()
	states := l.States(1000, 1)
	if len(states) < 40 || len(states) != len(l.States(1000, 1)) {
		t.Errorf("%d states", len(states))
	}
	keys := make(map[string]bool)
	for i, s := range states {
		keys[l.key(s)] = true
		if i > 0 && s.durable < states[i-1].durable {
			t.Errorf("%v comes after %v", s, states[i-1])
		}
		flush := slices.IndexFunc(l.events, func(e event) bool { return e.isFlush() })
		if s.end > flush && s.durable <= flush {
			t.Errorf("%v forgets a flush", s)
		}
		for at, kept := range s.lost {
			if e := l.events[at]; at < s.durable || at >= s.end || kept >= len(e.data) || kept%blockSize != 0 {
				t.Errorf("%v: of event %d there are %d bytes", s, at, kept)
			}
		}
		if marked := s.end > 4; marked != (s.Marked >= 0) || s.end > 9 && s.Marked != 1 {
			t.Errorf("%v: wrong mark", s)
		}
	}
	if len(keys) != len(states) {
		t.Errorf("%d different states of %d", len(keys), len(states))
	}
	for _, s := range l.moments() {
		if !keys[l.key(s)] || !keys[l.key(l.without(s, func(int) int { return 0 }))] {
			t.Errorf("%v is not there, with all writes or with those that were flushed", s)
		}
	}
	if some := l.States(10, 1); len(some) != 10 {
		t.Errorf("%d states, asked for 10", len(some))
	}
}

// TestBlocks compares with a plain slice.
func TestBlocks(t *testing.T) {
	chance := rand.New(rand.NewPCG(1, 0))
	b, plain := make(blocks), make([]byte, 20*blockSize)
	for range 300 {
		off := chance.IntN(len(plain))
		data := make([]byte, chance.IntN(min(3*blockSize, len(plain)-off)+1))
		if chance.IntN(3) > 0 {
			for i := range data {
				data[i] = byte(chance.Uint32())
			}
		}
		b.write(int64(off), data)
		copy(plain[off:], data)
		got := make([]byte, len(plain))
		b.read(0, got)
		if !bytes.Equal(got, plain) {
			t.Fatal("they differ")
		}
	}
	for n, block := range b {
		if isZero(block[:]) {
			t.Errorf("block %d is kept, and empty", n)
		}
	}
}
