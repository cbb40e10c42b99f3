// Command satchel is the program of package p2p: it publishes trees, runs a node, and asks the node that runs.
//
//	main ──run──► cobra ──► one file per verb ──► control.Client ──socket or pipe──► p2p.Node
//	                 │                 └────────► store.Publish (publish hashes in its own process)
//	                 └──► report: the one place where errors become words and exit codes
//
// A verb's file has its command (flags, help, examples) and what it does; words.go has sizes, times and tables, errors.go the
// exit codes. Every command is built by a function that returns it. JSON.md documents what --json prints.
//
// The private key of a publisher is read, used and forgotten by the process of "satchel publish"; it never reaches a node.
package main
