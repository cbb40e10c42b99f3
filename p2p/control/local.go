package control

import (
	"context"
	"log/slog"
	"net"
	"sync"
)

// Local gives a client of a node that this process has opened and that does not run. Closing the client ends what serves it and
// leaves the node open.
func Local(node Node) *Client {
	ctx, cancel := context.WithCancel(context.Background())
	ln := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	served := make(chan error, 1)
	s := &server{node: node, log: slog.New(slog.DiscardHandler)}
	go func() { served <- s.serve(ctx, ln) }()
	c := newClient(ln.dial)
	idle := c.close
	c.close = sync.OnceValue(func() error {
		idle()
		cancel()
		return <-served
	})
	return c
}

// pipeListener is a listener whose connections are pipes in memory.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	mine, theirs := net.Pipe()
	select {
	case l.conns <- theirs:
		return mine, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "local" }
