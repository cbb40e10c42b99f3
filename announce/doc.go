// Package announce decides whether a signed document is true, new and for us: bytes in, verdict out. It does no
// I/O, reads no clock and starts no goroutine; the node runs it on real news, the simulator on invented news.
//
// The documents, each canonical CBOR inside a signed envelope (FORMAT.md has every byte):
//
//   - A trust root lists keys, roles with thresholds, and products with the keys that may publish them. Version
//     N+1 is signed by the thresholds of N and of N+1, so a chain of roots leads from the one that a person trusted
//     to the newest, and any stranger may deliver it.
//   - An announcement says that a release exists: product, (epoch, seq), display version, and the CID of the
//     manifest that pins its content. It fits in 512 bytes, for ever.
//   - A timestamp says "as of T these were the newest". It can show that a machine is out of date; it installs nothing.
//
// A Catalog is what one node has accepted: the chain of roots, the newest announcement of each product, and
// evidence of equivocation. Its rules:
//
//	newer (epoch, seq), good signatures      accepted, whatever any clock says
//	older or equal                           ignored
//	one (epoch, seq), two manifests          both kept as evidence, both refused, until a higher seq
//	signed under a newer root than ours      ignored without blame; ask that peer for the chain
//	signatures short under the root it names rejected: no honest node passes it on
//	signatures short since a key was taken   ignored: the sender may not know yet
//	expired                                  only takes "urgent" away
//
// The ideas are those of The Update Framework (TUF 1.0.33) without its server and without its clock.
//
// A Catalog has one owner. Everything else here is safe for concurrent use. No function panics on any input.
package announce
