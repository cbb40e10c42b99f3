// Package beacon finds the other satchel nodes on every link of this machine, without configuration, router or
// default route, and says "I have something else than you" for about one packet a minute and class.
//
//	rtnetlink ──► watch ──► scan ──links──┐
//	                                      ▼            one for each link
//	Config.Beacon, Poke ──────────────► Service ──► Cell ──► Trickle: when to speak
//	                                      │   ▲
//	                        beacons out   ▼   │  Parse ◄── limiter ◄── sockets
//	                                    sockets                └──► Config.Seen
//
// # Words
//
// A beacon is one UDP packet of at most 512 bytes to a link-local multicast group: who sends it, where it listens, the
// digest of its catalog, and whom it hears. A link is a network interface that is up, has a usable address
// and can carry multicast. A cell is what one node knows of one link: whom it hears and who hears it. A run is
// one start of a node; it has a random instance number. PROTOCOL.md in this directory is the specification.
//
// # What it promises
//
//   - Links come and go: started before any is up, unplugged, recreated, with another address, with IPv4 only, with IPv6
//     link-local addresses only. Changes are noticed by rtnetlink, elsewhere by looking every 5 s. Trouble on
//     one link is that link's alone, is logged once, and tried again after 4 s, later each minute.
//   - A link that comes into use is greeted within 0.3 s, and neighbours answer within another second.
//   - Nodes on one machine find each other, too: on its links, or, when it has none, on the loopback interface.
//   - An idle class of thirty sends about one packet a minute all together, and never more than three.
//   - Suppression hides nobody: a node that one of its hearers does not know will send within
//     Imax (256 s) of that hearer's next beacon. PROTOCOL.md, "Who hears whom", says how.
//   - Whatever is received, no link sends more than 20 beacons a minute, no more than 250 packets a second
//     are looked at (20 of one source; a beacon costs about 15 µs), and memory is bounded: 256 nodes for each link.
//
// # What it does not
//
// Nothing in a beacon is authenticated. A beacon is a hint whom to dial; who answers proves itself there. A stranger can
// make us look, dial in vain, and send a bounded number of beacons, and nothing else. A beacon says nothing about
// who has left: silence is normal here.
//
// IPv6 beacons are not used on the loopback interface: Linux has no multicast route there.
//
// Trickle, Cell, Parse and Encode are pure: no I/O, no clock, no goroutine. Simulations use them as they are.
package beacon
