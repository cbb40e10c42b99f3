// Package control lets a program speak to the node of one home, whether that node runs in another process or not.
//
//	satchel status ──Dial──►  HOME/control.sock  ──►  handler ──► Node      a node runs: "satchel up"
//	satchel status ──Local─►  a pipe in memory   ──►  handler ──► Node      none runs: this process opened the home itself
//
// Both ways give the same [Client] and go through the same handler, so a verb is written once.
//
// # The protocol
//
// HTTP/1.1 over a Unix socket, requests and answers in JSON, paths below /v1/. Whoever may open the socket may do all: its
// mode is 0600, and there is no other authentication. An answer that goes on for a while (a watched status, a wait, a
// verification) is a stream of JSON values, one a line; the last line of a stream that has a result is that result or an error.
// An error is
//
//	{"error": "opening the image: permission denied", "hint": "choose another with --image", "code": "read-only"}
//
// with the codes of package p2p. The routes are in routes.go, the shapes in wire.go and in p2p/status.go. Fields and routes are
// added, never renamed; a request with a field that the node does not know is refused, so that a newer program never believes
// that an older node did what it did not.
//
// # What it promises
//
// Requests are bounded in size and garbage costs nothing but its connection. A client that goes away ends what it asked for,
// if that is a stream; applying and rolling back, once begun, end by themselves. When the node stops, every stream ends and the client
// says so. A socket left behind by a killed node is replaced; a path too long for a Unix socket (108 bytes) is reached through
// /proc/self/fd.
//
// It does not start nodes, and it keeps no state of its own.
package control
