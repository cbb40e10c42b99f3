package stick

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"satchel/announce"
)

// Documents is what a catalog file holds: signed documents that nobody has checked.
type Documents struct {
	Root          [20]byte // id of the newest trust root where it was written
	Announcements [][]byte // envelopes; two of one number are evidence
	Timestamps    [][]byte // envelopes
}

// Limits of a catalog file.
const (
	MaxAnnouncements = announce.MaxProducts + 2*announce.MaxEvidence
	MaxTimestamps    = 64
	maxCatalog       = MaxAnnouncements*(recordHead+announce.MaxEnvelope) + MaxTimestamps*(recordHead+announce.MaxTimestampEnvelope) + 1024
)

// Types of records, in the order in which they come.
const (
	recordRoot         byte = 1
	recordAnnouncement byte = 2
	recordTimestamp    byte = 3
	recordEnd          byte = 4
	recordHead              = 1 + 4 // type and length
)

// Encode prints a catalog file.
func (d *Documents) Encode() []byte {
	b := append([]byte(catalogMagic), record(recordRoot, d.Root[:])...)
	for _, a := range d.Announcements {
		b = append(b, record(recordAnnouncement, a)...)
	}
	for _, t := range d.Timestamps {
		b = append(b, record(recordTimestamp, t)...)
	}
	sum := sha256.Sum256(b)
	return append(b, record(recordEnd, sum[:])...)
}

func record(typ byte, data []byte) []byte {
	b := binary.BigEndian.AppendUint32([]byte{typ}, uint32(len(data)))
	return append(b, data...)
}

// parseDocuments reads a whole catalog file. It is taken as a whole or not at all. The documents are slices of b.
func parseDocuments(b []byte) (*Documents, error) {
	rest, ok := bytes.CutPrefix(b, []byte(catalogMagic))
	if !ok {
		return nil, errors.New("not a catalog")
	}
	d := &Documents{}
	for last := byte(0); ; {
		if len(rest) < recordHead {
			return nil, errors.New("it ends too early")
		}
		typ, size := rest[0], binary.BigEndian.Uint32(rest[1:])
		before := len(b) - len(rest)
		if rest = rest[recordHead:]; uint64(size) > uint64(len(rest)) {
			return nil, errors.New("it ends too early")
		}
		data := rest[:size:size]
		rest = rest[size:]
		if typ < last || last == 0 && typ != recordRoot {
			return nil, fmt.Errorf("record of type %d behind one of type %d", typ, last)
		}
		switch {
		case typ == recordRoot && size == uint32(len(d.Root)) && last == 0:
			copy(d.Root[:], data)
		case typ == recordAnnouncement && size <= announce.MaxEnvelope && len(d.Announcements) < MaxAnnouncements:
			d.Announcements = append(d.Announcements, data)
		case typ == recordTimestamp && size <= announce.MaxTimestampEnvelope && len(d.Timestamps) < MaxTimestamps:
			d.Timestamps = append(d.Timestamps, data)
		case typ == recordEnd:
			if sum := sha256.Sum256(b[:before]); !bytes.Equal(sum[:], data) || len(rest) > 0 {
				return nil, errors.New("its checksum is wrong")
			}
			return d, nil
		default:
			return nil, fmt.Errorf("record of type %d with %d bytes, behind %d announcements and %d timestamps",
				typ, size, len(d.Announcements), len(d.Timestamps))
		}
		last = typ
	}
}
