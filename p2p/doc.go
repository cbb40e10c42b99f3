// Package p2p is the node: it wires announce, fetch and store together and speaks to neighbours.
//
//	            beacon: who is on this link?          gossip: a new announcement
//	                      │                                     │
//	table ──dial──► connection ──on connect, on another digest──► exchange /satchel/catalog/1
//	                      │                                     │ verified by announce.Catalog
//	                      │                                     ▼
//	                      └── /satchel/blobs/1 ◄──asks── fetch.Session ──► store ──► image ──► ready
//
// One goroutine owns the state of a Node: catalog, products, table of neighbours. What waits for a disk or a
// neighbour runs beside it and posts its result; it never waits for others, others may wait for it. PROTOCOL.md
// has every frame.
//
// What reaches everybody is the catalog exchange: whoever connects, wakes, or hears a digest that differs from
// its own asks for what it lacks. Gossip only makes it quick, and a beacon only makes it possible.
//
// A USB stick is a neighbour too, a slow one that only this machine can ask: Import has it take part in fetches (see fetch/stick),
// with or without a network beside it.
//
// A neighbour is trusted with nothing. Announcements are believed for their signatures, content for its hash; a
// neighbour that sends wrong bytes, more bytes than it was asked for, or frames that break the protocol is cut
// off for a time that doubles, and it alone.
//
// Files of a home: identity (the node's key), state.db (see state), store/, addrs (where the node listens, while
// it runs), lock, control.sock (see package control).
package p2p
