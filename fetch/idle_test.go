package fetch_test

import (
	"context"
	"testing"
	"time"

	"satchel/fetch"
)

// empty is a neighbour that has nothing of what it says it has.
type empty struct{ s *fetch.Session }

func (e empty) ID() string        { return "empty" }
func (e empty) Cancel(_ []uint64) {}
func (e empty) Request(reqs []fetch.Request) {
	go func() {
		for _, r := range reqs {
			e.s.Gone("empty", r.ID)
		}
	}()
}

// A session is idle when nobody has more to give, and not before everybody was asked, nor after its end.
func TestIdle(t *testing.T) {
	r, _ := publish(t, openStore(t, t.TempDir()), tree(t, 1, mixed(3, 2)...), 1)
	s := fetch.New(fetch.Config{Store: openStore(t, t.TempDir()), Release: r})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	s.PeerUp(empty{s})
	s.HaveMap("empty", fetch.HaveMap{All: true})
	go func() { ended <- s.Run(ctx) }()
	for !s.Idle() {
		if ctx.Err() != nil {
			t.Fatal("never idle")
		}
	}
	cancel()
	<-ended
	if s.Idle() {
		t.Error("idle after its end")
	}
}
