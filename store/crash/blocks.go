package crash

import "bytes"

// blockSize is what a disk writes whole or not at all, in bytes, and the unit in which disks are kept here.
const blockSize = 4096

var zeros [blockSize]byte

// blocks is the content of a disk, by the number of the block. What is not there is zero.
type blocks map[int64]*[blockSize]byte

// write puts data at an offset, block by block. Blocks are replaced, never changed, so that copies of the map can share them.
func (b blocks) write(off int64, data []byte) {
	for len(data) > 0 {
		n, at := off/blockSize, off%blockSize
		next := new([blockSize]byte)
		if old := b[n]; old != nil {
			*next = *old
		}
		k := copy(next[at:], data)
		if *next == zeros {
			delete(b, n)
		} else {
			b[n] = next
		}
		off, data = off+int64(k), data[k:]
	}
}

// read fills data from an offset.
func (b blocks) read(off int64, data []byte) {
	for len(data) > 0 {
		n, at := off/blockSize, off%blockSize
		from := &zeros
		if block := b[n]; block != nil {
			from = block
		}
		k := copy(data, from[at:])
		off, data = off+int64(k), data[k:]
	}
}

// isZero says whether there is nothing but zeros.
func isZero(data []byte) bool {
	for len(data) > blockSize {
		if !bytes.Equal(data[:blockSize], zeros[:]) {
			return false
		}
		data = data[blockSize:]
	}
	return bytes.Equal(data, zeros[:len(data)])
}
