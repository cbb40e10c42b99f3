package fetch

import "math/bits"

// bitset is a set of small numbers. The zero value is empty; it grows when asked to.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) has(i int) bool {
	w := i >> 6
	return w < len(b) && b[w]&(1<<(i&63)) != 0
}

// set needs i to be within the set's length.
func (b bitset) set(i int)   { b[i>>6] |= 1 << (i & 63) }
func (b bitset) clear(i int) { b[i>>6] &^= 1 << (i & 63) }

// grown has room for the numbers below n.
func (b bitset) grown(n int) bitset {
	if need := (n + 63) / 64; need > len(b) {
		return append(b, make(bitset, need-len(b))...)
	}
	return b
}

// word is the w-th word, zero beyond the end.
func (b bitset) word(w int) uint64 {
	if w < len(b) {
		return b[w]
	}
	return 0
}

func (b bitset) count() int {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	return n
}

// trim removes the numbers from n on.
func (b bitset) trim(n int) bitset {
	if need := (n + 63) / 64; need < len(b) {
		b = b[:need]
	}
	if n&63 != 0 && len(b) == n/64+1 {
		b[n/64] &= 1<<(n&63) - 1
	}
	return b
}

// each calls f with every number of the set, in ascending order.
func (b bitset) each(f func(i int)) {
	for w, word := range b {
		for ; word != 0; word &= word - 1 {
			f(w<<6 + bits.TrailingZeros64(word))
		}
	}
}

// field prints the set as a wire bitfield over n bits: most significant bit first; empty when no bit is set.
func (b bitset) field(n int) []byte {
	out := make([]byte, (n+7)/8)
	any := byte(0)
	for i := range out {
		out[i] = bits.Reverse8(byte(b.word(i>>3) >> (i & 7 * 8)))
		any |= out[i]
	}
	if any == 0 {
		return nil
	}
	return out
}

// parseField reads a wire bitfield. Whether it has the right length is the caller's question.
func parseField(field []byte) bitset {
	b := newBitset(len(field) * 8)
	for i, octet := range field {
		b[i>>3] |= uint64(bits.Reverse8(octet)) << (i & 7 * 8)
	}
	return b
}
