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
//
// # What strangers may cost
//
// Three defences stand one behind the other, each for what the one before it lets through. The first is a look at each gossip
// frame before pubsub has it: frames beyond a neighbour's allowance are dropped, lists are cut to what honest nodes send,
// back-offs to ten minutes, peer exchange and IDONTWANT taken out. The second is a purse for signature checks (see
// checksOfEach): what fails a check is paid for by whoever sent it. The third is the gossip score, and a ban for whoever
// has sunk to the gray list. None of them decides what is true: the catalog does that alone.
//
// # Gossip scores
//
// Scores are zero or below. A score above zero is one that can be saved up for an attack (CVE-2022-47547), and with a
// few messages a week nobody can tell who forwards well; so nothing earns one, and time in the mesh, first deliveries and missing
// deliveries have no weight. Silence is no fault, an address is no fault: laptops behind one address are a classroom.
//
//	-20 n²        n invalid messages, less 1 % every 4 s (half in 5 minutes, nothing in 30): form or signature that no honest
//	              node passes on. 2 are -80, 5 are -500
//	-10 (n-6)²    n breaches of gossipsub: grafting in a back-off, promising by IHAVE what does not come. Nothing is left after
//	              10 minutes. Up to 6 are bad luck, when a frame is lost or a queue is full; 13 are -490
//	below -50     its promises and questions are not heard: costs it little, spares us much
//	below -100    our own announcements are not sent to it directly
//	below -400    nothing of it is read, and the node shuts it out for a minute, twice as long each time: after 5 lies or 13
//	              breaches at once. One broken laptop gets there and comes back
//	above 0       needed to send us other peers to connect to: nobody can
//
// A message's id is its payload's, and pubsub blames all who bring a rejected id. So a false signature over a true payload is
// not rejected there: the one who brought it is blamed by itself, and each copy gets a look of ours, where pubsub would drop it
// unseen. Or else liars could silence true news, and make honest nodes punish each other for it, by being first.
//
// Scores of who left are kept for half a minute: less than the first ban, so that nobody is shut out twice for one thing, and
// little, since names cost nothing.
package p2p
