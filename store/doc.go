// Package store keeps verified blobs and the manifests that name them in a directory.
//
//	fetch ──Put, WriteChunk──► verify ──► temp file ──► syncfs ──► rename ──► blobs/3f/bafkrei...
//	publish ──tree──► cut, hash ──────────────┘                                   │
//	                                             image ◄──hard link, reflink── BlobFile
//	                                             p2p   ◄──────── ReadRange, List ──┘
//
// # Words
//
// A blob is the content of one file, whatever the file's name; its CID is its name. A chunk is a piece of a blob, cut where the
// content says, so that two versions of a file share most chunks. A blob that the cut leaves in one piece is named by the
// SHA-256 of its bytes, a larger one by the SHA-256 of its chunk list. A partial blob is a large one of which some chunks are
// here. A pending blob is whole and verified but not yet durable. A variant is a copy of a blob whose file has
// another mode. FORMAT.md says all of it exactly, with vectors in testdata.
//
// Blobs are whole plain files, so a deployment is made of links to them, and whoever has installed a release can serve it without
// a second copy. Their files are therefore never written to again.
//
// # What is promised
//
// Bytes are verified before they are visible. After a power cut a blob is absent or whole; after the end of a
// process, small blobs that it had finished are still here, and of large ones every chunk that it had written. What [Store.Sync] has
// returned for stays. A failed sync is never tried again: what it was for is thrown away and an error says so.
//
// A full disk gives one clear error, [ErrNoSpace], and leaves nothing behind that takes space.
//
// Several processes may have a store open, say a node and somebody who publishes. Each writes to a directory of its own below
// partial, held by a lock; what a dead one left is put right by the next [Open]. A partial large blob belongs to one process
// at a time, and nothing is pruned while anybody publishes.
//
// Nothing in the directory is followed or opened that is not what it should be: everything goes through [os.Root], and links, pipes
// and devices in place of files are refused or replaced.
//
// # What is not promised
//
// The disk may damage a blob later. [Store.ReadRange] does not notice, since those who get the bytes check them;
// [Store.Verify] does. Whoever can write to the directory can put anything there, and Verify is what finds it.
//
// Losing the whole directory loses nothing but time: neighbours have it all.
//
// BUG(store): before Linux 5.8 syncfs does not report bytes that could not be written. On such a kernel a failing disk
// may leave a damaged blob, which only Verify or whoever fetches it notices.
package store
