// Package manifest reads and writes the document that says what a release consists of.
//
// A manifest is the sorted, closed list of a release's entries: directories, files and symbolic links, each with its
// path, its permission bits and, for a file, the size and the CID of its content. The announcement of a release pins the
// manifest by CID, so a manifest needs no signature of its own: whoever has the announcement can check every byte below it.
//
//	announcement ──CID──► manifest ──CID──► blob, blob, blob ...
//
// The document is canonical CBOR, and there is exactly one encoding of one list of entries:
//
//	{1: 1, 2: "lessons.maths", 3: 1, 4: 7, 5: "2026.3", 6: "", 7: [
//	  ["fractions",            0, 0o755, 0,  h'',          ""],
//	  ["fractions/intro.html", 1, 0o644, 12, h'01551220…', ""],
//	  ["start.html",           2, 0o777, 0,  h'',          "fractions/intro.html"]]}
//
// FORMAT.md is the specification, testdata holds vectors for it.
//
// # Two questions
//
// [Parse] asks whether this is a manifest. [Manifest.Check] asks whether this product may have what is in it: set-user-id
// programs, names that trick some file systems, links that lead out of the tree. What a product may have, its [Policy], is said by
// the trust root of the node that asks, so the answer may differ from node to node and from day to day; Parse's never does.
//
// # What is promised
//
// [Parse] accepts a document only when every rule of the specification holds and printing it again gives the same bytes.
// What it returns is therefore safe to lay down on a disk below a directory: every path is relative, has no "." or "..", and
// lies below a directory that the manifest itself lists before it; nothing in it can steer a terminal. It never panics, and the
// memory it takes is a small multiple of the bytes it is given.
//
// After Check with the zero Policy, besides: no mode gives anybody the rights of another or lets everybody write; every path is
// one file of its own on any file system that folds case or Unicode forms, and none is another one's name there; every symbolic
// link, followed through whatever other links of the manifest it meets, ends inside the tree.
//
// # What is not promised
//
// Under a Policy that allows links to lead out of the tree they may lead anywhere. Whoever lays a tree down creates links
// and never follows one. Whether the sum of the sizes is what the announcement said is for the caller to compare, with
// [Manifest.TotalSize].
//
// The package does no I/O of its own and keeps no state; values may be shared between goroutines as long as nobody changes them.
package manifest
