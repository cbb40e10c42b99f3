package main

import (
	"context"
	"log/slog"

	"satchel/p2p"
	"satchel/p2p/bus"
)

// serveBus speaks for the node on the system bus until ctx ends or stop is called, which waits for the calls in work.
func serveBus(ctx context.Context, node *p2p.Node, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		bus.Serve(ctx, node, bus.Config{Log: log})
	}()
	return func() {
		cancel()
		<-ended
	}
}
