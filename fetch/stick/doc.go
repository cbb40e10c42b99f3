// Package stick keeps releases on a USB stick, and takes them from one: a stick is a slow neighbour.
//
//	export: store ──pieces that are missing there──► packs ──read back──► root file, catalog
//
//	import: catalog ──► announce.Catalog: is it true, new, and for us?
//	        packs ──Neighbour──► fetch.Session ──► store, as from any neighbour
//
// # Words
//
// A piece is what one request of a fetch brings: a small blob, a chunk of a large one, or a chunk list. Its SHA-256 is its name.
// A pack is a file of pieces with a table of their names and sizes. A catalog is a file of signed documents. FORMAT.md says all of it
// exactly.
//
// # What is promised
//
// A stick that is pulled out while it is written is at least as good as it was: files are complete and read back from the medium
// before they get their names, and what the stick says it has comes last. Only what is missing is written, by the chunk; what is
// there is read again, and written again where it is damaged. What other homes have put on a stick stays.
//
// Nothing that is read is believed. A file is opened only if it is a regular one, never through a link, and never waited for. Names
// say nothing. Documents are for announce to verify; a piece is hashed in the memory from which it is then used, so it does
// not matter what becomes of the file in between. Good pieces are delivered whatever is wrong with others. What is looked
// at is bounded in number and size before it is read. Nothing is ever run.
//
// Memory: 24 bytes for each piece on a stick, at most 48 MB; a few megabytes besides.
//
// # What is not promised
//
// Whoever can write to a stick can take away from it. A stick that lies about its size is found out while it is written,
// one that loses its content later when it is read. Content that nothing on the stick announces any more stays until a third of it is of
// no use.
//
// BUG(stick): the file systems of real sticks (FAT, exFAT) are not in the kernel that the tests run on. Their rules are
// kept (one directory, no links, no modes, no file near 4 GiB, no two names that differ in case only) and their effects on names are
// imitated; a rename that a power cut tears apart on them is not.
package stick
