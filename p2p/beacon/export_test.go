package beacon

import (
	"context"
	"net/netip"
	"time"
)

// Limiter gives tests the limiter.
type Limiter struct{ l *limiter }

func NewLimiter(now time.Time) Limiter                   { return Limiter{newLimiter(now)} }
func (l Limiter) Allow(now time.Time, a netip.Addr) bool { return l.l.allow(now, a) }
func (l Limiter) Sources() int                           { return len(l.l.sources) }

// Follow gives tests the part of watch that has no sockets.
func Follow(ctx context.Context, events, ended <-chan struct{}, look func()) {
	follow(ctx, events, ended, look)
}
