package bus

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/godbus/dbus/v5"

	"satchel/p2p"
	"satchel/p2p/control/controltest"
)

// quiet is a node in memory that does nothing.
type quiet struct{ controltest.Node }

func (*quiet) Check(context.Context) error                   { return nil }
func (*quiet) Hold(context.Context, time.Time, string) error { return nil }
func (*quiet) Confirm(context.Context, string) (p2p.ReleaseStatus, error) {
	return p2p.ReleaseStatus{}, nil
}

// Many changes are few signals: the last one is told, and a node at rest is silent.
func TestCoalesced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		conn, err := dbus.NewConn(&wire{Conn: ours, begun: true})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		n := &quiet{}
		s := &session{service: &service{node: n, ctx: ctx, shown: &shown{}}, conn: conn, refreshes: make(chan chan struct{})}
		told := make(chan uint32, 1000)
		go func() {
			defer close(told)
			for {
				m, err := dbus.DecodeMessage(theirs)
				if err != nil {
					return
				}
				told <- m.Body[1].(map[string]dbus.Variant)["ProductCount"].Value().(uint32)
			}
		}()
		ended := make(chan error)
		go func() { ended <- s.tellAll() }()
		synctest.Wait()

		const changes = 1000 // in ten seconds
		for range changes {
			n.Set(func(st *p2p.Status) { st.Products = append(st.Products, p2p.ProductStatus{}) })
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(tellEvery)
		if got := len(told); got < 15 || got > 22 {
			t.Errorf("%d signals in ten seconds", got)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		cancel()
		<-ended
		conn.Close()
		var last uint32
		for last = range told {
		}
		if last != changes {
			t.Errorf("the last one says %d", last)
		}
	})
}
