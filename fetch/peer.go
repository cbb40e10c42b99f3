package fetch

import (
	"github.com/ipfs/go-cid"

	"satchel/store"
)

// Peer is what a fetch needs of a neighbour. The wire below it is somebody else's.
//
// No method may block, and none may call back into the Session from the same goroutine: they are called by the goroutine
// that owns the Session's state. Replies come through [Session.Data] and [Session.Gone]; each request gets at most one.
type Peer interface {
	// ID is a stable, printable name, the same as the one that this neighbour would put into its own Config.Self.
	ID() string

	// Request asks for pieces, in the order in which they are wanted. The slice is the callee's.
	Request(reqs []Request)

	// Cancel says that the replies to these requests are no longer wanted. They may still come. The slice is the callee's.
	Cancel(ids []uint64)
}

// Kind says what a Request asks for.
type Kind uint8

const (
	Bytes Kind = iota // Length bytes of the blob's content from Offset on
	List              // the blob's chunk list, whole, in its encoded form
)

// String is "bytes" or "list".
func (k Kind) String() string {
	if k == List {
		return "list"
	}
	return "bytes"
}

// Request is one question to one neighbour; its answer is one piece.
type Request struct {
	ID     uint64  // unique within the Session
	Kind   Kind    // what is asked for
	Blob   cid.Cid // of which blob
	Offset uint64  // Bytes: where the range starts; List: 0
	Length uint32  // Bytes: exact length, 0 to store.MaxChunk; List: an upper bound for the list's length

	// Digest is the SHA-256 that the right answer has, for a Peer that looks content up by it or checks before it answers.
	Digest store.Digest
}
