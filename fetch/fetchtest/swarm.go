package fetchtest

import (
	"context"
	"sync"

	"satchel/fetch"
	"satchel/store"
)

// Host is a node in memory: a real store and, unless it only serves, a real session. Hosts are connected with [Connect].
type Host struct {
	Name    string
	Store   *store.Store
	Session *fetch.Session // nil: it serves everything and fetches nothing

	// Answer may change what the host answers; nil: the truth. It gets the request and the true answer, nil when it does
	// not have it. What it returns is sent; nothing at all when it says so.
	Answer func(r fetch.Request, data []byte) (answer []byte, silent bool)

	// Claims, when set, is what the host says it holds.
	Claims *fetch.HaveMap

	// Configure, when set, may change the configuration of the session that Fetch makes.
	Configure func(*fetch.Config)

	mu       sync.Mutex
	watchers []*Link           // guarded by mu
	uploaded int64             // guarded by mu; bytes sent
	blamed   map[string]string // guarded by mu; whom the session blamed, and why
	done     chan struct{}
	err      error // of Run; to be read when done is closed
}

// NewHost makes a host that serves what is in its store and fetches nothing.
func NewHost(name string, s *store.Store) *Host {
	return &Host{Name: name, Store: s, blamed: make(map[string]string)}
}

// Fetch gives the host a session for a release. Run it with Start.
func (h *Host) Fetch(r fetch.Release, seed uint64) {
	cfg := fetch.Config{
		Store: h.Store, Release: r, Self: h.Name, Seed: seed,
		OnHave: h.tell,
		OnBlame: func(peer, reason string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.blamed[peer] = reason
		},
	}
	if h.Configure != nil {
		h.Configure(&cfg)
	}
	h.Session = fetch.New(cfg)
	h.done = make(chan struct{})
}

// Start runs the session.
func (h *Host) Start(ctx context.Context) {
	go func() {
		defer close(h.done)
		h.err = h.Session.Run(ctx)
	}()
}

// Wait waits for the end of the session and gives Run's error.
func (h *Host) Wait() error {
	<-h.done
	return h.err
}

// Uploaded is how many bytes the host has sent.
func (h *Host) Uploaded() int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.uploaded
}

// Blamed says whom the host's session has blamed, and why.
func (h *Host) Blamed() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	blamed := make(map[string]string, len(h.blamed))
	for id, reason := range h.blamed {
		blamed[id] = reason
	}
	return blamed
}

func (h *Host) holdings() fetch.HaveMap {
	switch {
	case h.Claims != nil:
		return *h.Claims
	case h.Session == nil:
		return fetch.HaveMap{All: true}
	}
	return h.Session.Holdings()
}

// tell passes on what became available.
func (h *Host) tell(news []fetch.Have) {
	h.mu.Lock()
	watchers := append([]*Link(nil), h.watchers...)
	h.mu.Unlock()
	for _, l := range watchers {
		l.post(func() {
			if len(news) == 0 {
				l.to.Session.HaveMap(h.Name, h.holdings())
			} else {
				l.to.Session.Have(h.Name, news)
			}
		})
	}
}

// Link is a host as another one's session sees it. It is a [fetch.Peer].
type Link struct {
	from, to *Host

	mu       sync.Mutex
	queue    []func()        // guarded by mu
	canceled map[uint64]bool // guarded by mu
	closed   bool            // guarded by mu
	wake     chan struct{}
	ended    chan struct{}
}

// Connect makes two hosts neighbours. The result disconnects them.
func Connect(a, b *Host) (disconnect func()) {
	var links []*Link
	for _, pair := range [...][2]*Host{{a, b}, {b, a}} {
		if pair[1].Session != nil {
			links = append(links, newLink(pair[0], pair[1]))
		}
	}
	return func() {
		for _, l := range links {
			l.close()
		}
	}
}

func newLink(from, to *Host) *Link {
	l := &Link{from: from, to: to, canceled: make(map[uint64]bool), wake: make(chan struct{}, 1), ended: make(chan struct{})}
	go l.serve()
	to.Session.PeerUp(l)
	from.mu.Lock()
	from.watchers = append(from.watchers, l)
	from.mu.Unlock()
	l.post(func() { to.Session.HaveMap(from.Name, from.holdings()) })
	return l
}

func (l *Link) close() {
	l.from.mu.Lock()
	for i, w := range l.from.watchers {
		if w == l {
			l.from.watchers = append(l.from.watchers[:i:i], l.from.watchers[i+1:]...)
			break
		}
	}
	l.from.mu.Unlock()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.poke()
	<-l.ended
	l.to.Session.PeerDown(l.from.Name)
}

func (l *Link) post(f func()) {
	l.mu.Lock()
	l.queue = append(l.queue, f)
	l.mu.Unlock()
	l.poke()
}

func (l *Link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// serve does what was posted, in order.
func (l *Link) serve() {
	defer close(l.ended)
	for {
		l.mu.Lock()
		queue, closed := l.queue, l.closed
		l.queue = nil
		l.mu.Unlock()
		for _, f := range queue {
			if !closed {
				f()
			}
		}
		if closed {
			return
		}
		<-l.wake
	}
}

// ID implements fetch.Peer.
func (l *Link) ID() string { return l.from.Name }

// Request implements fetch.Peer.
func (l *Link) Request(reqs []fetch.Request) {
	for _, r := range reqs {
		l.post(func() { l.answer(r) })
	}
}

// Cancel implements fetch.Peer.
func (l *Link) Cancel(ids []uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		l.canceled[id] = true
	}
}

func (l *Link) answer(r fetch.Request) {
	l.mu.Lock()
	canceled := l.canceled[r.ID]
	l.mu.Unlock()
	if canceled {
		return
	}
	data := l.from.read(r)
	if l.from.Answer != nil {
		var silent bool
		if data, silent = l.from.Answer(r, data); silent {
			return
		}
	}
	if data == nil {
		l.to.Session.Gone(l.from.Name, r.ID)
		return
	}
	l.from.mu.Lock()
	l.from.uploaded += int64(len(data))
	l.from.mu.Unlock()
	l.to.Session.Data(l.from.Name, r.ID, data)
}

// read is the true answer to a request, nil when there is none: as a server gives it, so a list not longer than asked for, and a
// blob of one chunk only whole.
func (h *Host) read(r fetch.Request) []byte {
	if r.Kind == fetch.List {
		_, raw, err := h.Store.List(r.Blob)
		if err != nil || len(raw) > int(r.Length) {
			return nil
		}
		return raw
	}
	if size, ok := h.Store.Size(r.Blob); ok && store.IsRaw(r.Blob) && (r.Offset > 0 || size != uint64(r.Length)) {
		return nil
	}
	data := make([]byte, r.Length)
	if h.Store.ReadRange(r.Blob, int64(r.Offset), data) != nil {
		return nil
	}
	return data
}
