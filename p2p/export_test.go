package p2p

import (
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
)

// Look does at once what a node does every two seconds.
func (n *Node) Look() { n.do(func() { n.rounds(); n.retryLines() }) }

// learn offers an envelope to the catalog, whatever it costs and whoever brings it.
func (n *Node) learn(envelope []byte, _ peer.ID) announce.Result { return n.catalog.Add(envelope) }

// NextStamp is the count of seconds at which the node signs its next timestamp.
func (n *Node) NextStamp() (at int64) {
	n.do(func() { at = n.nextStamp })
	return at
}
