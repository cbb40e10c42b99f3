package beacon_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"satchel/p2p/beacon"
)

func TestRunRefuses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := beacon.New(beacon.Config{}).Run(ctx); err == nil {
		t.Error("ran without Config.Beacon")
	}
	s := beacon.New(beacon.Config{Beacon: func() beacon.Beacon { return beacon.Beacon{Node: []byte("n")} }})
	if err := s.Run(ctx); err != nil {
		t.Errorf("running with an ended context: %v", err)
	}
	if err := s.Run(ctx); err == nil {
		t.Error("ran twice")
	}
	s.Poke()
	if len(s.Addrs()) != 0 {
		t.Error("addresses after the end")
	}
}

// looks runs Follow in virtual time for d, and returns how often it looked.
func looks(t *testing.T, d time.Duration, events, ended chan struct{}) int {
	n := 0
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	beacon.Follow(ctx, events, ended, func() { n++ })
	return n
}

func TestFollowPolls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events, ended := make(chan struct{}, 1), make(chan struct{})
		if n := looks(t, 10*time.Minute+time.Second, events, ended); n != 10 {
			t.Errorf("%d looks in ten minutes with a silent subscription", n)
		}
		close(ended)
		if n := looks(t, time.Minute+time.Second, events, ended); n < 12 || n > 13 {
			t.Errorf("%d looks in a minute without subscription", n)
		}
	})
}

func TestFollowDebounces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events, ended := make(chan struct{}, 1), make(chan struct{})
		go func() { // a second of events, one each millisecond
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for range 1000 {
				<-tick.C
				select {
				case events <- struct{}{}:
				default:
				}
			}
		}()
		if n := looks(t, 10*time.Second, events, ended); n < 1 || n > 21 {
			t.Errorf("%d looks at a thousand events in a second", n)
		}
	})
}
