package p2p

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ipfs/go-cid"

	"satchel/store"
)

// A frame is what both of our stream protocols speak:
//
//	uvarint length of what follows | 1 byte type | body
//
// The length is checked against the receiver's limit before anything is allocated. PROTOCOL.md has the types.
const (
	maxRequestFrame = 64 << 10  // from a requester
	maxReplyFrame   = 512 << 10 // from a server: one chunk, or a have-map of a million blobs
	cidLen          = 36        // CIDv1, a one-byte codec, sha2-256
)

// errProtocol marks what only a broken or hostile peer sends.
var errProtocol = errors.New("peer broke the protocol")

func protocolError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errProtocol, fmt.Sprintf(format, args...))
}

// readFrame reads one frame of at most limit bytes. The body is fresh memory.
func readFrame(r *bufio.Reader, limit int) (typ byte, body []byte, err error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return 0, nil, err
	}
	if n == 0 || n > uint64(limit) {
		return 0, nil, protocolError("frame of %d bytes, limit %d", n, limit)
	}
	typ, err = r.ReadByte()
	if err != nil {
		return 0, nil, unexpected(err)
	}
	body = make([]byte, n-1)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, unexpected(err)
	}
	return typ, body, nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// appendFrame appends a frame to b.
func appendFrame(b []byte, typ byte, body ...[]byte) []byte {
	n := 1
	for _, p := range body {
		n += len(p)
	}
	b = binary.AppendUvarint(b, uint64(n))
	b = append(b, typ)
	for _, p := range body {
		b = append(b, p...)
	}
	return b
}

// body reads the fields of a frame; the first bad one makes err stick.
type body struct {
	b   []byte
	err error
}

func (r *body) fail(what string) {
	if r.err == nil {
		r.err = protocolError("truncated or oversized %s", what)
	}
	r.b = nil
}

func (r *body) more() bool { return len(r.b) > 0 } // nothing is left after an error

func (r *body) uvarint(what string) uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail(what)
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *body) byte(what string) byte {
	p := r.bytes(1, what)
	if len(p) == 0 {
		return 0
	}
	return p[0]
}

func (r *body) bytes(n uint64, what string) []byte {
	if uint64(len(r.b)) < n {
		r.fail(what)
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

// counted reads a uvarint length and that many bytes.
func (r *body) counted(what string) []byte { return r.bytes(r.uvarint(what), what) }

func (r *body) cid(what string) cid.Cid {
	p := r.bytes(cidLen, what)
	if r.err != nil {
		return cid.Undef
	}
	c, err := store.ParseCID(p)
	if err != nil {
		r.err, r.b = protocolError("%s: %v", what, err), nil
	}
	return c
}
