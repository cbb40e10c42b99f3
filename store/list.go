package store

import (
	"bytes"
	"fmt"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
)

// Chunk is one piece of a large blob.
type Chunk struct {
	Offset uint64 // of its first byte in the blob
	Size   uint32 // in bytes, 1 to [MaxChunk]
	Digest Digest // SHA-256 of its bytes
}

// ChunkList says what chunks a large blob consists of. The CID of such a blob is that of its chunk list, so whoever has the
// list, checked against the CID, can check every chunk by itself.
type ChunkList struct {
	Blob   cid.Cid // the blob
	Size   uint64  // of the blob in bytes
	Chunks []Chunk // at least two, in order, without gaps
}

// wireList is a chunk list as CBOR sees it.
type wireList struct {
	_       struct{} `cbor:",toarray"`
	Ver     uint64
	Size    uint64
	Sizes   []uint32
	Digests []byte
}

const listVersion = 1

// MaxListSize is how long the chunk list of a blob of this size can be, in bytes.
func MaxListSize(size uint64) int {
	chunks := min(size, MaxBlob)/MinChunk + 1
	return int(chunks)*(5+len(Digest{})) + 32
}

// ParseChunkList checks that raw is the canonical chunk list of the blob and that it describes size bytes.
func ParseChunkList(blob cid.Cid, size uint64, raw []byte) (*ChunkList, error) {
	l, err := parseChunkList(blob, raw, MaxListSize(size))
	if err != nil {
		return nil, fmt.Errorf("reading chunk list of %v: %w", blob, err)
	}
	if l.Size != size {
		return nil, fmt.Errorf("reading chunk list of %v: it is for %d bytes, not %d", blob, l.Size, size)
	}
	return l, nil
}

func parseChunkList(blob cid.Cid, raw []byte, limit int) (*ChunkList, error) {
	if err := checkCID(blob); err != nil {
		return nil, err
	}
	if IsRaw(blob) {
		return nil, fmt.Errorf("a raw blob has no chunk list")
	}
	if len(raw) > limit {
		return nil, fmt.Errorf("%d bytes, limit is %d", len(raw), limit)
	}
	if Sum(raw) != DigestOf(blob) {
		return nil, ErrMismatch
	}
	l, err := decodeChunkList(raw)
	if err != nil {
		return nil, err
	}
	l.Blob = blob
	return l, nil
}

// decodeChunkList reads the bytes without knowing what they should be called.
func decodeChunkList(raw []byte) (*ChunkList, error) {
	dec, err := cbor.DecOptions{
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		MaxNestedLevels:  4,
		MaxArrayElements: MaxBlob/MinChunk + 1,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	var w wireList
	if err := dec.Unmarshal(raw, &w); err != nil {
		return nil, fmt.Errorf("decoding: %w", err)
	}
	if w.Ver != listVersion {
		return nil, fmt.Errorf("format version %d, only %d is known", w.Ver, listVersion)
	}
	l, err := newChunkList(w.Size, w.Sizes, w.Digests)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(l.Encode(), raw) {
		return nil, fmt.Errorf("not in canonical form")
	}
	return l, nil
}

// newChunkList checks the rules that hold between the parts of a list.
func newChunkList(size uint64, sizes []uint32, digests []byte) (*ChunkList, error) {
	n := len(sizes)
	if n < 2 {
		return nil, fmt.Errorf("%d chunks, at least 2 are needed", n)
	}
	if len(digests) != n*len(Digest{}) {
		return nil, fmt.Errorf("%d bytes of digests for %d chunks", len(digests), n)
	}
	l := &ChunkList{Chunks: make([]Chunk, n)}
	for i, s := range sizes {
		if s < 1 || s > MaxChunk || (s < MinChunk && i < n-1) {
			return nil, fmt.Errorf("chunk %d of %d bytes", i, s)
		}
		l.Chunks[i] = Chunk{Offset: l.Size, Size: s, Digest: Digest(digests[i*len(Digest{}):])}
		l.Size += uint64(s)
	}
	if l.Size != size {
		return nil, fmt.Errorf("chunks of %d bytes in all, the list says %d", l.Size, size)
	}
	if size > MaxBlob {
		return nil, fmt.Errorf("%d bytes, limit is %d", size, uint64(MaxBlob))
	}
	return l, nil
}

// Encode prints the list.
func (l *ChunkList) Encode() []byte {
	w := wireList{Ver: listVersion, Size: l.Size, Sizes: make([]uint32, len(l.Chunks))}
	w.Digests = make([]byte, 0, len(l.Chunks)*len(Digest{}))
	for i := range l.Chunks {
		w.Sizes[i] = l.Chunks[i].Size
		w.Digests = append(w.Digests, l.Chunks[i].Digest[:]...)
	}
	enc, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // the options are constant
	}
	raw, err := enc.Marshal(&w)
	if err != nil {
		panic(err) // numbers and bytes can always be printed
	}
	return raw
}

// find is the index of the chunk that holds the byte at off, which must be inside the blob.
func (l *ChunkList) find(off uint64) int {
	lo, hi := 0, len(l.Chunks)
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; l.Chunks[mid].Offset <= off {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}
