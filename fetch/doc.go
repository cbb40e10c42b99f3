// Package fetch brings a release into a store: which pieces, from whom, verified as they arrive.
//
//	            p2p: streams, neighbours
//	PeerUp HaveMap Have Data Gone │ ▲ Request Cancel   OnHave OnBlame
//	                              ▼ │
//	        ┌──────────────────────────────────────┐
//	        │ Session: one goroutine owns the state │──► Planner: pure, whom to ask for what
//	        └──────────────────────────────────────┘
//	              jobs │ ▲ continuations
//	                   ▼ │
//	         workers: hash, compare, write ──► store
//
// # Words
//
// A release is a manifest and the blobs that it names. A blob of one chunk is raw; a large one has a chunk list, and its CID is that
// of the list. A piece is what one request brings and one hash verifies: a raw blob, a chunk, or a chunk list. Content that
// occurs at several places of a release is one piece.
//
// A neighbour that fetches the same release is a fetcher; one that had everything when we met it is a seeder, perhaps the
// publisher. A [HaveMap] says what a node holds, a [Have] what it has just got. Blobs are named by their index in the
// manifest's Blobs, and the manifest by [ManifestBlob].
//
// # Phases
//
//	manifest ──► lists ──► local ──► chunks ──► done
//	             of large  contents  what is    whole
//	             missing   that lie  missing    and
//	             blobs     in other  then       durable
//	                       blobs
//
// The manifest is fetched like any other blob, in chunks when it is large, and compared with the announcement. Then the
// store is asked which blobs are here. For the large ones that are not the chunk lists are fetched, and all wanted contents
// are looked for in the other blobs of the store, so that from the second release on only what has changed comes over the
// air. A list that does not come holds nothing else up for long. What is left becomes pieces.
//
// # Promises
//
// Nothing is written before its hash is right. Wrong bytes cost the neighbour that sent them, and nobody else: it is
// blamed and dropped, the piece comes from another. A neighbour that is silent loses its work to others after two seconds
// and is blamed after thirty.
//
// Every piece that is here is told and can be served at once, long before its release is whole. The chunk list is
// told before the chunks.
//
// A piece is asked of one neighbour at a time. Only when that one stalls, or is late at the very end, is it asked of a
// second, of a third only when both stall, and so on, so that four of five neighbours may be liars. It is taken back from the
// others when one delivers. Bytes that come twice are counted.
//
// Nodes that fetch together take from a seeder about one copy between them: they divide what only seeders have, see
// choose.go. Twelve planners and a seeder, simulated with stalling, lying and dying nodes, take 1.0 to 1.25 copies, and less than
// 1 % of the bytes come twice; the tests hold this at 1.5 and 2 %.
//
// Whatever ends a session, what it has verified stays: small blobs are whole in the store, large ones partial there, and
// another session goes on from them. Only what was under way is asked for again.
//
// Memory is bounded: about 50 bytes for each missing piece, one bit for each piece and neighbour, and at most 12 MiB of
// content that is asked for or not yet verified, whatever neighbours say or send.
//
// # Not promised
//
// The package opens no connection and checks no signature: the caller has verified the announcement, and p2p speaks to
// neighbours. It does not choose among releases, and it does not remove anything from the store.
package fetch
