package stick

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"satchel/store"
)

// Every file that satchel writes to a stick, trust roots apart, begins with one of these. Names say nothing: FAT changes them.
const (
	packMagic    = "satchel pack v1\n"
	catalogMagic = "satchel catalog v1\n"
)

// Limits of a pack. A pack beyond one of them is refused before anything is allocated for it.
const (
	maxPackPieces = 1 << 16
	entrySize     = 4 + sha256.Size
	packHead      = len(packMagic) + 4
)

// maxPiece is the longest piece: the chunk list of the largest blob. All others have at most store.MaxChunk bytes.
var maxPiece = uint32(store.MaxListSize(store.MaxBlob))

// entry is a piece as a pack's table lists it: content is found by its SHA-256 and by nothing else.
type entry struct {
	digest store.Digest
	size   uint32
}

// tableSize is how many bytes precede the contents of a pack of n pieces.
func tableSize(n int) int64 { return int64(packHead + n*entrySize + sha256.Size) }

// encodeTable prints what precedes the contents of a pack.
func encodeTable(entries []entry) []byte {
	b := make([]byte, 0, tableSize(len(entries)))
	b = append(b, packMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(entries)))
	for i := range entries {
		b = binary.BigEndian.AppendUint32(b, entries[i].size)
		b = append(b, entries[i].digest[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// errTable says that a table is not as it was written. What it lists is worth a try all the same: every piece is checked.
var errTable = errors.New("its table is damaged")

// packCount reads how many pieces a pack says it has.
func packCount(head []byte) (int, error) {
	if len(head) < packHead || string(head[:len(packMagic)]) != packMagic {
		return 0, errors.New("not a pack")
	}
	n := binary.BigEndian.Uint32(head[len(packMagic):])
	if n < 1 || n > maxPackPieces {
		return 0, fmt.Errorf("%d pieces, 1 to %d are allowed", n, maxPackPieces)
	}
	return int(n), nil
}

// parseTable reads what precedes the contents of a pack. With errTable in the error there are entries too.
func parseTable(b []byte) ([]entry, error) {
	n, err := packCount(b)
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != tableSize(n) {
		return nil, fmt.Errorf("a table of %d bytes for %d pieces", len(b), n)
	}
	entries := make([]entry, n)
	for i := range entries {
		at := b[packHead+i*entrySize:]
		entries[i] = entry{store.Digest(at[4:entrySize]), binary.BigEndian.Uint32(at)}
		if size := entries[i].size; size < 1 || size > maxPiece {
			return entries[:i], fmt.Errorf("%w: a piece of %d bytes", errTable, size)
		}
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return entries, errTable
	}
	return entries, nil
}
