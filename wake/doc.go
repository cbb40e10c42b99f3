// Package wake decides who sleeps, who wakes whom, and whether they may. Nothing wakes a sleeping radio but an
// announcement that its publisher signed as urgent, that the wake role signed too, and that the sleeper does not
// have; everything else waits for the sleeper's next listening window.
//
//	SLEEP notice ──► roster ──► urgent news? may it wake? ──► one waker elected ──► magic packet
//
// What is decided here will be pure state machines, run by p2p on real radios and by sim in virtual time. The
// parts of the rule that concern documents are in package announce already: an announcement's urgent bit counts
// only with the product's permission, the wake role's signature and before it expires (announce.Catalog.Urgent).
// Nothing here sends or arms anything yet: the present node wakes nobody.
package wake
