// Package bus tells the desktop about updates: the D-Bus service org.satchel.Updates1 on the system bus.
//
//	p2p.Node ──Changed, Status──►  Serve  ──properties, PropertiesChanged──►  system bus ──► desktop, gdbus, busctl
//	         ◄──Check, Apply, …──         ──ReleaseFound … RolledBack──────►
//
// The interface is documented in org.satchel.Updates1.xml, which is also what the service answers to Introspect.
//
// # What it promises
//
// Signals are the difference between two pictures of the node ([News]): what changed while the bus was away is told when
// it is back, and nothing is told twice. What happened before [Serve] began is no news; the properties show it. Pictures are taken
// at most twice a second, and once more before the answer to a method, so that who asked reads what is true after it.
//
// A node needs no bus. Without one, or when it goes away, Serve says so once in the log and tries again, less and less often.
//
// # What a client can cost
//
// Everybody on the machine may speak to the service. A property is read from the last picture, never from the node. A message
// longer than 16 KB is skipped unanswered, and no message carries file descriptors; at most 64 calls are in work, further ones
// wait in the bus; of these at most 32 are Check, which asks the neighbours at most every 10 seconds, and 8 the methods
// that change something: one more gets Error.Busy at once. Texts are at most 512 bytes without control characters, the list of
// products has at most 128. Peers' names and addresses are not shown, also not in texts of errors.
//
// # Who may do what
//
// org.satchel.Updates1.conf says it and the bus enforces it; it belongs in /usr/share/dbus-1/system.d. Only root can be the service.
// Everybody may read, hear signals, and call Check. Apply, Confirm, Rollback and Hold are for root and the group satchel. They are not for
// whoever sits at the machine (at_console): on a shared laptop that is every pupil, the word is deprecated, and dbus-broker
// ignores it.
//
// There is no file for D-Bus activation: a node runs all the time, for its neighbours, and who stopped it does not want
// it back because a window was opened.
package bus
