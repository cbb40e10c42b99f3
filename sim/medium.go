package sim

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Air says what a medium is like. The zero value is a medium without delay.
type Air struct {
	Seed      uint64        // of the jitter: equal seeds give equal delays, in the order in which they are drawn
	Latency   time.Duration // from one station to another
	Jitter    time.Duration // up to this much more, for each connection and direction
	Bandwidth int           // bytes a second that all stations share, as on one radio channel; 0: no limit
}

// Medium is what all stations hear each other on. Its methods may be called from any goroutine.
type Medium struct {
	air Air

	mu        sync.Mutex // never held across a wait
	rnd       *rand.Rand
	listeners map[netip.AddrPort]*listener
	conns     map[*conn]struct{}
	side      map[netip.Addr]int // with a partition: who is on which side, others on side 0
	both      map[netip.Addr]bool
	busy      time.Time // until when the channel is taken
	ports     uint16
	bytes     uint64
}

// NewMedium makes a medium with nobody on it.
func NewMedium(air Air) *Medium {
	return &Medium{air: air, rnd: rand.New(rand.NewPCG(air.Seed, 1)), listeners: map[netip.AddrPort]*listener{},
		conns: map[*conn]struct{}{}, side: map[netip.Addr]int{}, both: map[netip.Addr]bool{}}
}

// Station is one machine's place on a medium: a p2p.Medium.
func (m *Medium) Station(ip netip.Addr) *Station { return &Station{m, ip} }

// Split parts the groups from each other and from everyone else. What is under way stays under way, as TCP sends
// it again and again; connections end when their owners lose patience.
func (m *Medium) Split(groups ...[]netip.Addr) {
	m.mu.Lock()
	clear(m.side)
	for i, group := range groups {
		for _, ip := range group {
			m.side[ip] = i + 1
		}
	}
	conns := slices.Collect(maps.Keys(m.conns))
	m.mu.Unlock()
	for _, c := range conns {
		c.in.signal()
	}
}

// Both lets a station be on every side of each Split: it reaches everyone, as somebody may who stands in between.
func (m *Medium) Both(ip netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.both[ip] = true
}

// Heal ends every Split.
func (m *Medium) Heal() { m.Split() }

// Bytes is how many have been sent so far, by all.
func (m *Medium) Bytes() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}

func (m *Medium) parted(a, b netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.side[a] != m.side[b] && !m.both[a] && !m.both[b]
}

// delay draws the delay of one direction of a new connection.
func (m *Medium) delay() time.Duration {
	if m.air.Jitter <= 0 {
		return m.air.Latency
	}
	return m.air.Latency + time.Duration(m.rnd.Int64N(int64(m.air.Jitter)))
}

// send takes the channel for n bytes and returns when they have left.
func (m *Medium) send(n int) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bytes += uint64(n)
	now := time.Now()
	if m.air.Bandwidth <= 0 {
		return now
	}
	if m.busy.Before(now) {
		m.busy = now
	}
	m.busy = m.busy.Add(time.Duration(n) * time.Second / time.Duration(m.air.Bandwidth))
	return m.busy
}

// Station implements p2p.Medium.
type Station struct {
	medium *Medium
	ip     netip.Addr
}

// DialContext connects to a listening station. To one that does not listen it fails after a round trip, to one
// behind a partition with ctx.
func (s *Station) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	m := s.medium
	m.mu.Lock()
	there, back := m.delay(), m.delay()
	m.ports++
	from := netip.AddrPortFrom(s.ip, 32768+m.ports%28000)
	m.mu.Unlock()
	if err := wait(ctx, there+back); err != nil {
		return nil, err
	}
	for m.parted(s.ip, to.Addr()) {
		if err := wait(ctx, time.Second); err != nil { // the first packet is sent again
			return nil, err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.listeners[to]
	if l == nil {
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: syscall.ECONNREFUSED}
	}
	near, far := m.pair(from, to, there, back)
	select {
	case l.accept <- far:
	default: // its backlog is full
		delete(m.conns, near)
		delete(m.conns, far)
		return nil, &net.OpError{Op: "dial", Net: network, Addr: net.TCPAddrFromAddrPort(to), Err: syscall.ECONNREFUSED}
	}
	return near, nil
}

// Listen takes connections at one of the station's ports.
func (s *Station) Listen(network, address string) (net.Listener, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	if at.Addr() != s.ip || at.Port() == 0 {
		return nil, fmt.Errorf("listening at %s: the station's address is %s, and it has no port 0", at, s.ip)
	}
	m := s.medium
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.listeners[at] != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Addr: net.TCPAddrFromAddrPort(at), Err: syscall.EADDRINUSE}
	}
	l := &listener{medium: m, at: at, accept: make(chan *conn, 128), closed: make(chan struct{})}
	m.listeners[at] = l
	return l, nil
}

type listener struct {
	medium *Medium
	at     netip.AddrPort
	accept chan *conn
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accept:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections that nobody has accepted are closed.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.medium.mu.Lock()
		delete(l.medium.listeners, l.at)
		l.medium.mu.Unlock()
		close(l.closed)
		for {
			select {
			case c := <-l.accept:
				c.Close()
			default:
				return
			}
		}
	})
	return nil
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.at) }

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
