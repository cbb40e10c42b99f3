package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"satchel/p2p"
	"satchel/p2p/bus"
)

// serveBus speaks for the node on the system bus until ctx ends or stop is called, which waits for the calls in work.
func serveBus(ctx context.Context, node *p2p.Node, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		bus.Serve(ctx, busNode{node}, bus.Config{Log: log})
	}()
	return func() {
		cancel()
		<-ended
	}
}

// busNode is the node as package bus wants it: what the node cannot do yet is refused.
type busNode struct{ *p2p.Node }

func notYet(what string) error {
	return advise(p2p.CodeTooNew, "update satchel", errors.New("this satchel cannot "+what))
}

func (busNode) Held() (until time.Time, why string) { return time.Time{}, "" }

func (busNode) Check(context.Context) error { return notYet("check when asked to") }

func (busNode) Hold(context.Context, time.Time, string) error { return notYet("hold updates") }

func (busNode) Confirm(context.Context, string) (p2p.ReleaseStatus, error) {
	return p2p.ReleaseStatus{}, notYet("try releases")
}
