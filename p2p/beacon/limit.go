package beacon

import (
	"net/netip"
	"time"
)

// bucket lets burst things happen at once and one more in each period.
// It counts in time, not in tokens: full is the moment at which it will be full again.
type bucket struct {
	full   time.Time
	period time.Duration
	burst  int
}

func newBucket(now time.Time, burst int, period time.Duration) bucket {
	return bucket{full: now, period: period, burst: burst}
}

// take takes one token if there is one.
func (b *bucket) take(now time.Time) bool {
	if now.Before(b.ready(now)) {
		return false
	}
	b.full = later(b.full, now).Add(b.period)
	return true
}

// ready returns when the next token is there: now, or later.
func (b *bucket) ready(now time.Time) time.Time {
	return later(now, b.full.Add(-time.Duration(b.burst-1)*b.period))
}

const (
	allBurst     = 250 // packets looked at, of all sources together
	allPeriod    = 4 * time.Millisecond
	sourceBurst  = 50 // packets looked at, of one source, which can be many nodes on one machine
	sourcePeriod = 50 * time.Millisecond
	maxSources   = 1024
)

// limiter bounds the packets looked at: 20 a second of one source, 250 a second in all.
type limiter struct {
	all     bucket
	sources map[netip.Addr]*bucket
}

func newLimiter(now time.Time) *limiter {
	return &limiter{all: newBucket(now, allBurst, allPeriod), sources: make(map[netip.Addr]*bucket)}
}

// allow says whether to look at a packet. A source's own limit comes first, so that
// one loud source does not use up what belongs to all.
func (l *limiter) allow(now time.Time, source netip.Addr) bool {
	b := l.sources[source]
	if b == nil {
		b = l.add(now, source)
	}
	return b.take(now) && l.all.take(now)
}

func (l *limiter) add(now time.Time, source netip.Addr) *bucket {
	if len(l.sources) >= maxSources {
		for s, b := range l.sources {
			if !b.full.After(now) {
				delete(l.sources, s)
			}
		}
	}
	if len(l.sources) >= maxSources { // so many at once are no class; the limit for all still holds
		clear(l.sources)
	}
	b := newBucket(now, sourceBurst, sourcePeriod)
	l.sources[source] = &b
	return &b
}
