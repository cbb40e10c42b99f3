package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
)

// Sizes of the format, in bytes.
const (
	MinChunk    = 16 << 10  // no chunk but a blob's last is smaller
	normalChunk = 64 << 10  // from here on a cut is made sixteen times as readily
	MaxChunk    = 256 << 10 // no chunk is larger
	MaxBlob     = 64 << 30  // no blob is larger
)

// Digest is the SHA-256 of a chunk or of a chunk list.
type Digest [sha256.Size]byte

// Sum is the digest of data.
func Sum(data []byte) Digest { return sha256.Sum256(data) }

// String is the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// gear holds one number for each value of a byte, from a rule that any language can repeat. It never changes.
var gear = makeGear()

func makeGear() (table [256]uint64) {
	for i := range table {
		sum := sha256.Sum256(append([]byte("satchel gear v1\x00"), byte(i)))
		table[i] = binary.BigEndian.Uint64(sum[:])
	}
	return table
}

// A cut is made behind the byte that brings the hash below a limit: with a chance of 2^-18 for each byte of a small chunk,
// and of 2^-14 for each byte of a large one, so that sizes gather around the normal size.
const (
	limitSmall = 1 << (64 - 18)
	limitLarge = 1 << (64 - 14)
)

// Cut gives the length of the first chunk of data, which must be the rest of a blob or at least [MaxChunk] bytes of it.
// It is a fixed function of the content, for ever: a blob's CID hangs on it.
func Cut(data []byte) int {
	n := min(len(data), MaxChunk)
	if n <= MinChunk {
		return n
	}
	normal := min(n, normalChunk)
	// A byte leaves the hash, shifted out, 64 bytes later: where to cut depends on 64 bytes only, so that after an
	// insertion the old cuts are soon found again.
	var hash uint64
	for i, b := range data[MinChunk:normal] {
		hash = hash<<1 + gear[b]
		if hash < limitSmall {
			return MinChunk + i + 1
		}
	}
	for i, b := range data[normal:n] {
		hash = hash<<1 + gear[b]
		if hash < limitLarge {
			return normal + i + 1
		}
	}
	return n
}

// splitter cuts what it reads into chunks.
type splitter struct {
	r          io.Reader
	buf        []byte
	start, end int // of what is read and not yet returned
	eof        bool
}

// splitBuffer is a good size for a splitter's buffer, which must hold more than one chunk.
const splitBuffer = 4 * MaxChunk

// next returns the next chunk, valid until the following call, and io.EOF after the last one.
func (s *splitter) next() ([]byte, error) {
	if !s.eof && s.end-s.start < MaxChunk {
		if err := s.fill(); err != nil {
			return nil, err
		}
	}
	if s.start == s.end {
		return nil, io.EOF
	}
	n := Cut(s.buf[s.start:s.end])
	chunk := s.buf[s.start : s.start+n]
	s.start += n
	return chunk, nil
}

func (s *splitter) fill() error {
	copy(s.buf, s.buf[s.start:s.end])
	s.start, s.end = 0, s.end-s.start
	n, err := io.ReadFull(s.r, s.buf[s.end:])
	s.end += n
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		s.eof = true
		return nil
	}
	return err
}
