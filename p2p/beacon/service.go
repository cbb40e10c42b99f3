package beacon

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Config is what a Service needs. Its functions are called one at a time from
// the goroutine of Run, must return quickly, and must not call Run.
type Config struct {
	// Beacon returns what to say now; its Heard is ignored. It is asked before each transmission and for each beacon
	// heard. Required. A zero Instance is replaced by a random one for the life of the Service.
	Beacon func() Beacon
	// Seen is told each valid beacon of others: from whom (with zone when the address is link-local, the port
	// is the beacon's own, not one to dial) and on which interface. It may carry our own Node with another Instance: a copy
	// of our identity, or a packet of our former run. Nothing in it is authenticated. Nil: nobody is told.
	Seen func(b Beacon, from netip.AddrPort, ifname string)
	// Changed is told that Addrs gives something new. Nil: nobody is told.
	Changed func()
	// Log gets problems with interfaces, each once. Nil: none.
	Log *slog.Logger
	// Loopback uses the loopback interface always. Otherwise it is used only while no other link is usable;
	// nodes on one machine hear each other on its other links, too.
	Loopback bool
	// Port is the UDP port; 0 means Port. Nodes find only those with the same.
	Port uint16
}

// Service sends and receives beacons on every link of this machine, as they come and go.
type Service struct {
	cfg      Config
	instance uint64
	poke     chan struct{}
	addrs    atomic.Pointer[[]Addr]
	started  atomic.Bool
	count    counters
}

// Stats counts packets since New.
type Stats struct {
	Sent       uint64 // over either family
	Heard      uint64 // valid, of others
	New        uint64 // of Heard: from a run of a node not known on that link
	Own        uint64 // our own, come back
	Malformed  uint64 // refused by Parse, or of a later form
	Limited    uint64 // not looked at, because too many came at once
	SendErrors uint64
	OpenErrors uint64 // sockets that could not be opened, or broke
}

type counters struct {
	sent, heard, fresh, own, malformed, limited, sendErrors, openErrors atomic.Uint64
}

// New returns a Service that does nothing until Run. Poke, Addrs and Stats may be called at any time, from any goroutine.
func New(cfg Config) *Service {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Port == 0 {
		cfg.Port = Port
	}
	s := &Service{cfg: cfg, instance: rand.Uint64(), poke: make(chan struct{}, 1)}
	s.addrs.Store(new([]Addr))
	return s
}

// Poke says that what Config.Beacon returns has changed, or that neighbours should be found soon: beacons come quickly
// for a while. It never blocks, and calling it often costs little: the timer resets at most 6 times at once, then every 16 s.
func (s *Service) Poke() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}

// Addrs returns the addresses of the links in use, in order of interface; tentative ones are left out.
// The slice is the caller's to read, not to write. Before Run, and with no link, it is empty.
func (s *Service) Addrs() []Addr { return *s.addrs.Load() }

// Stats returns the counts so far.
func (s *Service) Stats() Stats {
	c := &s.count
	return Stats{
		Sent: c.sent.Load(), Heard: c.heard.Load(), New: c.fresh.Load(), Own: c.own.Load(), Malformed: c.malformed.Load(),
		Limited: c.limited.Load(), SendErrors: c.sendErrors.Load(), OpenErrors: c.openErrors.Load(),
	}
}

// Run works until ctx is done, and then returns nil when every goroutine and socket of its own is gone. Trouble with
// the network is no reason to return: it is logged and tried again. It is an error to run a Service twice, or without Config.Beacon.
func (s *Service) Run(ctx context.Context) error {
	if s.cfg.Beacon == nil {
		return errors.New("running beacon: no Config.Beacon")
	}
	if s.started.Swap(true) {
		return errors.New("running beacon: already run")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &runner{
		Service: s, ctx: ctx, stations: make(map[int]*station), limiter: newLimiter(time.Now()),
		packets: make(chan *packet, 16), scans: make(chan []link), rescan: make(chan struct{}, 1),
	}
	var watching sync.WaitGroup
	watching.Go(func() { watch(ctx, r.rescan, r.scan) })
	r.loop()
	cancel()
	for _, st := range r.stations {
		st.close()
	}
	r.readers.Wait()
	watching.Wait()
	s.addrs.Store(new([]Addr))
	return nil
}

// runner is the state of one Run. All but scan belongs to the goroutine of loop.
type runner struct {
	*Service
	ctx      context.Context
	stations map[int]*station // by interface index
	limiter  *limiter
	packets  chan *packet
	scans    chan []link
	rescan   chan struct{} // asks watch for a look
	readers  sync.WaitGroup
	scanErr  string // owned by scan
}

func (r *runner) loop() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case links := <-r.scans:
			r.update(time.Now(), links)
		case p := <-r.packets:
			r.receive(time.Now(), p)
		case <-r.poke:
			for _, st := range r.stations {
				st.cell.News(time.Now())
			}
		case <-timer.C:
		}
		if next, ok := r.tick(time.Now()); ok {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
	}
}

// scan runs in the goroutine of watch.
func (r *runner) scan() {
	links, err := scan()
	if err != nil {
		if r.scanErr != err.Error() {
			r.scanErr = err.Error()
			r.cfg.Log.WarnContext(r.ctx, "cannot look for links", slog.Any("error", err))
		}
		return
	}
	r.scanErr = ""
	select {
	case r.scans <- choose(links, r.cfg.Loopback):
	case <-r.ctx.Done():
	}
}

// update makes the stations those of links.
func (r *runner) update(now time.Time, links []link) {
	changed := false
	for index, st := range r.stations {
		if !slices.ContainsFunc(links, func(l link) bool { return l.index == index && l.name == st.link.name }) {
			st.close()
			delete(r.stations, index)
			changed = true
			r.cfg.Log.InfoContext(r.ctx, "link gone", slog.String("interface", st.link.name))
		}
	}
	for _, l := range links {
		st := r.stations[l.index]
		if st != nil && st.link.equal(&l) {
			continue
		}
		if st == nil {
			st = &station{cell: NewCell(now, TrickleConfig{})}
			r.stations[l.index] = st
		} else {
			st.cell.Hello(now)
			st.cell.News(now)
		}
		st.link = l
		st.retry = [families]backoff{}
		changed = true
		r.cfg.Log.InfoContext(r.ctx, "link in use", slog.String("interface", l.name), slog.Any("addresses", l.prefixes))
	}
	if changed {
		r.publish(links)
	}
}

func (r *runner) publish(links []link) {
	addrs := []Addr{}
	for _, l := range links {
		for _, p := range l.prefixes {
			addrs = append(addrs, Addr{Prefix: p, Interface: l.name, Loopback: l.loopback})
		}
	}
	r.addrs.Store(&addrs)
	if r.cfg.Changed != nil {
		r.cfg.Changed()
	}
}

// tick does what is due, and returns when something will be; ok is false when nothing will.
func (r *runner) tick(now time.Time) (next time.Time, ok bool) {
	for _, st := range r.stations {
		at := r.open(now, st)
		transmit, due := st.cell.Tick(now)
		for transmit { // seldom twice: each costs a token
			r.transmit(now, st)
			transmit, due = st.cell.Tick(now)
		}
		if at.IsZero() || due.Before(at) {
			at = due
		}
		if !ok || at.Before(next) {
			next, ok = at, true
		}
	}
	return next, ok
}

func (r *runner) self() Beacon {
	b := r.cfg.Beacon()
	if b.Instance == 0 {
		b.Instance = r.instance
	}
	return b
}

// receive looks at one packet.
func (r *runner) receive(now time.Time, p *packet) {
	st := r.stations[p.socket.index]
	if st == nil || st.sockets[p.socket.family] != p.socket { // closed meanwhile
		return
	}
	if p.err != nil {
		r.broken(now, st, p.socket.family, p.err)
		return
	}
	if !r.limiter.allow(now, p.from.Addr()) {
		r.count.limited.Add(1)
		return
	}
	b, err := Parse(p.data[:p.size])
	if err != nil {
		r.count.malformed.Add(1)
		return
	}
	self := r.self()
	switch st.cell.Hear(now, &self, &b, st.near(p)) {
	case FromSelf:
		r.count.own.Add(1)
		return
	case FromNew:
		r.count.fresh.Add(1)
	}
	r.count.heard.Add(1)
	if r.cfg.Seen != nil {
		r.cfg.Seen(b, p.from, st.link.name)
	}
}

// transmit sends one beacon: over IPv4 if it can, else over IPv6; over both when the cell asks for it.
func (r *runner) transmit(now time.Time, st *station) {
	both := st.cell.BothFamilies(now)
	data, err := st.cell.Compose(now, r.self()).Encode()
	if err != nil {
		r.complain(st, families, err)
		return
	}
	sent := false
	for f, s := range st.sockets {
		if s == nil || sent && !both {
			continue
		}
		source, _ := st.link.source()
		if err := s.send(data, source); err != nil {
			r.count.sendErrors.Add(1)
			r.complain(st, family(f), err)
			r.look()
			continue
		}
		st.complaint[f] = ""
		r.count.sent.Add(1)
		sent = true
	}
	if sent {
		st.silent = backoff{}
	} else if st.silent.try(now, maxSilent) { // nothing got out: soon again
		st.cell.Hello(now)
	}
}

// look asks for a scan.
func (r *runner) look() {
	select {
	case r.rescan <- struct{}{}:
	default:
	}
}

// complain logs a problem of a link, unless it is the same as the last.
func (r *runner) complain(st *station, f family, err error) {
	if text := err.Error(); st.complaint[f] != text {
		st.complaint[f] = text
		r.cfg.Log.WarnContext(r.ctx, "link trouble", slog.String("interface", st.link.name), slog.Any("error", err))
	}
}
