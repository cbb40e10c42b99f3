package beacon

import (
	"context"
	"time"
)

const (
	// settle is how long after a first event others are waited for: interfaces and addresses come in flocks.
	settle = 50 * time.Millisecond
	// slowPoll is the safety net where the system tells us of changes, fastPoll takes its place where it does not.
	slowPoll = time.Minute
	fastPoll = 5 * time.Second
)

// watch calls look after an event, and every slowPoll or fastPoll. Events come from the system when interfaces or
// addresses change; others may put theirs into the channel, which has room for one.
// It returns when ctx is done and everything it started has ended.
func watch(ctx context.Context, events chan struct{}, look func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		subscribe(ctx, events)
	}()
	follow(ctx, events, ended, look)
	<-ended
}

func follow(ctx context.Context, events, ended <-chan struct{}, look func()) {
	period := slowPoll
	poll := time.NewTimer(period)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ended: // no subscription here, or it broke
			ended, period = nil, fastPoll
		case <-poll.C:
		case <-events:
			if !wait(ctx, settle) {
				return
			}
		}
		select { // what came while we waited is covered by this look
		case <-events:
		default:
		}
		look()
		poll.Reset(period)
	}
}

// wait waits for d. It returns false when ctx is done before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
