package sim

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxInFlight is how many bytes a direction holds before its writer waits: a slow reader slows its writer down.
const maxInFlight = 256 << 10

// conn is one end of a connection. No lock is held while it waits, so it may be used in a testing/synctest
// bubble, where such a lock would stop the clock.
type conn struct {
	medium     *Medium
	near, far  netip.AddrPort
	in, out    *flow
	read, send deadline
	once       sync.Once
}

var _ net.Conn = (*conn)(nil)

// flow is one direction of a connection: bytes, and when they arrive.
type flow struct {
	delay time.Duration

	mu      sync.Mutex
	queue   []segment
	held    int           // bytes in queue
	ended   bool          // the writer has closed: after the queue comes the end
	deaf    bool          // the reader has closed: what is written is lost
	changed chan struct{} // closed when something above has changed
}

type segment struct {
	at   time.Time
	data []byte // none: the end
}

// pair makes both ends of a connection. m.mu is held.
func (m *Medium) pair(from, to netip.AddrPort, there, back time.Duration) (near, far *conn) {
	a, b := newFlow(there), newFlow(back)
	near = &conn{medium: m, near: from, far: to, in: b, out: a, read: newDeadline(), send: newDeadline()}
	far = &conn{medium: m, near: to, far: from, in: a, out: b, read: newDeadline(), send: newDeadline()}
	m.conns[near], m.conns[far] = struct{}{}, struct{}{}
	return near, far
}

func newFlow(delay time.Duration) *flow { return &flow{delay: delay, changed: make(chan struct{})} }

func (f *flow) signal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.signalLocked()
}

func (f *flow) signalLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	f := c.in
	for {
		expired := c.read.wait()
		if over(expired) {
			return 0, os.ErrDeadlineExceeded
		}
		parted := c.medium.parted(c.near.Addr(), c.far.Addr())
		f.mu.Lock()
		n, due, err := f.take(b, parted)
		changed := f.changed
		f.mu.Unlock()
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
		if err := c.pause(expired, changed, due); err != nil {
			return 0, err
		}
	}
}

// take returns what has arrived, or when the next bytes will: zero when something else must happen first.
func (f *flow) take(b []byte, parted bool) (n int, due time.Time, err error) {
	switch {
	case f.deaf:
		return 0, due, net.ErrClosed
	case parted || len(f.queue) == 0:
		return 0, due, nil
	case time.Now().Before(f.queue[0].at):
		return 0, f.queue[0].at, nil
	case f.queue[0].data == nil:
		return 0, due, io.EOF
	}
	s := &f.queue[0]
	n = copy(b, s.data)
	s.data = s.data[n:]
	if len(s.data) == 0 {
		f.queue = f.queue[1:]
	}
	f.held -= n
	f.signalLocked()
	return n, due, nil
}

// pause waits until something may have changed.
func (c *conn) pause(expired, changed <-chan struct{}, due time.Time) error {
	var timer <-chan time.Time
	if !due.IsZero() {
		t := time.NewTimer(time.Until(due))
		defer t.Stop()
		timer = t.C
	}
	select {
	case <-expired:
		return os.ErrDeadlineExceeded
	case <-changed:
	case <-timer:
	}
	return nil
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	f, done := c.out, 0
	for done < len(b) {
		expired := c.send.wait()
		if over(expired) {
			return done, os.ErrDeadlineExceeded
		}
		parted := c.medium.parted(c.near.Addr(), c.far.Addr())
		f.mu.Lock()
		var n int
		var err error
		switch {
		case f.ended:
			err = net.ErrClosed
		case f.deaf && !parted:
			err = syscall.ECONNRESET
		default:
			n = min(len(b)-done, maxInFlight-f.held)
		}
		if n > 0 {
			f.put(append([]byte(nil), b[done:done+n]...), c.medium.send(n))
			done += n
		}
		changed := f.changed
		f.mu.Unlock()
		if err != nil {
			return done, err
		}
		if n == 0 {
			if err := c.pause(expired, changed, time.Time{}); err != nil {
				return done, err
			}
		}
	}
	return done, nil
}

// put queues bytes that leave at a time; nil is the end.
func (f *flow) put(data []byte, leaves time.Time) {
	at := leaves.Add(f.delay)
	if n := len(f.queue); n > 0 && f.queue[n-1].at.After(at) {
		at = f.queue[n-1].at
	}
	f.queue = append(f.queue, segment{at, data})
	f.held += len(data)
	f.signalLocked()
}

// Close implements net.Conn. The other end reads what is under way, and then the end.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.out.mu.Lock()
		c.out.ended = true
		c.out.put(nil, time.Now())
		c.out.mu.Unlock()
		c.in.mu.Lock()
		c.in.deaf, c.in.queue, c.in.held = true, nil, 0
		c.in.signalLocked()
		c.in.mu.Unlock()
		c.medium.mu.Lock()
		delete(c.medium.conns, c)
		c.medium.mu.Unlock()
		c.read.set(time.Time{})
		c.send.set(time.Time{})
	})
	return nil
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.near) }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.far) }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.send.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { c.read.set(t); return nil }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { c.send.set(t); return nil }

// deadline is a channel that is closed when a deadline has passed.
type deadline struct {
	mu      *sync.Mutex
	timer   *time.Timer
	expired chan struct{}
}

func newDeadline() deadline { return deadline{mu: &sync.Mutex{}, expired: make(chan struct{})} }

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.expired
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.expired // it is just being closed
	}
	d.timer = nil
	passed := over(d.expired)
	if t.IsZero() || time.Until(t) > 0 {
		if passed {
			d.expired = make(chan struct{})
		}
		if !t.IsZero() {
			expired := d.expired
			d.timer = time.AfterFunc(time.Until(t), func() { close(expired) })
		}
		return
	}
	if !passed {
		close(d.expired)
	}
}

func over(expired <-chan struct{}) bool {
	select {
	case <-expired:
		return true
	default:
		return false
	}
}
