package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
	"satchel/fetch"
	"satchel/p2p/beacon"
	"satchel/store"
)

// Config says what a Node is to be. Only Home must be set.
type Config struct {
	Home        string       // directory of everything the node keeps; made when missing
	Listen      []string     // multiaddrs; none: every interface, any port
	QUIC        bool         // also speak QUIC; TCP costs a third of its CPU and stays the first choice
	Peers       []string     // full multiaddrs of peers to keep a connection to
	NoDiscovery bool         // look for no neighbours on the link, and do not show up there
	Medium      Medium       // nil: this machine's network. For simulators: with it Listen must be set, and there is no discovery and no QUIC
	Version     string       // shown in status
	Log         *slog.Logger // nil: silent
	Clock       Clock        // nil: the machine's

	TimestampKeys  []announce.PrivateKey // sign timestamps with them; none: sign none
	TimestampEvery time.Duration         // how often; 0: once an hour
}

// Node is one satchel: a home, and while Run runs, a place in the mesh. All methods may be called from any
// goroutine. One goroutine owns the state; what takes time runs beside it and posts its result.
type Node struct {
	cfg   Config
	log   *slog.Logger
	id    peer.ID
	key   crypto.PrivKey
	lock  *os.File
	db    *state
	store *store.Store
	began time.Time

	queue mailbox
	stop  context.CancelFunc // ends what was spawned
	ctx   context.Context
	wg    sync.WaitGroup
	ended chan struct{}

	refusals tally

	// Owned by the node's goroutine.
	catalog   *announce.Catalog
	count     *counter
	nextStamp int64 // when the next timestamp is due, by count
	stampErr  error // why the last timestamp was not signed
	lines     map[string]*line
	places    map[string]*place // by directory
	hold      hold              // as in state.db
	holding   bool              // it was on when it was looked at last
	carries   map[string]bool
	sessions  map[cid.Cid]*fetch.Session
	net       *running
	ex        exchanges
	dialTimer *time.Timer
	looked    time.Time // when rounds were made last
	changed   chan struct{}
	dirty     bool
	pruning   bool
	prunes    int                 // how often Prune has begun
	sticks    map[string]*plugged // by name
	usage     StoreStatus
	usageAt   time.Time
	counting  bool

	firstCount sync.Once
}

// Open opens the home for this process alone, making it when it is missing. It opens no socket. A home that
// another process has gives an *Error with CodeInUse.
func Open(cfg Config) (n *Node, err error) {
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	lock, err := lockHome(cfg.Home)
	if err != nil {
		return nil, err
	}
	n = &Node{cfg: cfg, log: log, lock: lock, began: time.Now(), lines: map[string]*line{}, places: map[string]*place{}, carries: map[string]bool{},
		sessions: map[cid.Cid]*fetch.Session{}, changed: make(chan struct{}),
		sticks: map[string]*plugged{}, ended: make(chan struct{})}
	n.ex = newExchanges()
	defer func() {
		if err != nil {
			n.release()
			n = nil
		}
	}()
	if err := n.openHome(); err != nil {
		return n, homeError(cfg.Home, err)
	}
	n.queue.init()
	n.ctx, n.stop = context.WithCancel(context.Background())
	n.dialTimer = time.NewTimer(time.Hour)
	go n.loop()
	n.do(n.restoreLines)
	return n, nil
}

func (n *Node) openHome() (err error) {
	if n.key, err = loadIdentity(n.cfg.Home); err != nil {
		return err
	}
	if n.id, err = peer.IDFromPrivateKey(n.key); err != nil {
		return err
	}
	if n.db, err = openState(n.cfg.Home); err != nil {
		return err
	}
	n.count = openCounter(n.db, n.cfg.Clock)
	if n.store, err = store.Open(n.cfg.Home + "/store"); err != nil {
		return err
	}
	if n.catalog, err = n.db.loadCatalog(); err != nil {
		return fail(CodeCorrupt, "move state.db away and start again: neighbours tell the rest, only follows and trust must be set anew",
			fmt.Errorf("reading state.db: %w", err))
	}
	return nil
}

// ID is the node's name in the mesh.
func (n *Node) ID() string { return n.id.String() }

// Store is the node's store; it may be used from any goroutine.
func (n *Node) Store() *store.Store { return n.store }

// loop is the node's goroutine.
func (n *Node) loop() {
	defer close(n.ended)
	rounds := time.NewTicker(2 * time.Second)
	defer rounds.Stop()
	var shown <-chan time.Time // runs while there is something to show: an idle node sleeps
	for {
		if shown == nil && (n.dirty || len(n.sessions) > 0) {
			shown = time.After(100 * time.Millisecond)
		}
		select {
		case <-n.queue.ready:
			for _, f := range n.queue.take() {
				f()
			}
		case <-n.dialTimer.C:
			n.dial()
		case <-rounds.C:
			n.rounds()
			n.retryLines()
			n.endHold()
			n.keepCount()
		case <-shown:
			shown, n.dirty = nil, false
			close(n.changed)
			n.changed = make(chan struct{})
		case <-n.ctx.Done():
			for _, f := range n.queue.close() { // nobody may wait for ever
				f()
			}
			return
		}
	}
}

// mailbox is an unbounded queue: whoever posts to the owner never waits for it, so the owner may wait for them.
type mailbox struct {
	mu     sync.Mutex
	items  []func()
	most   int // of items, ever
	closed bool
	ready  chan struct{}
}

// peak is the most that was ever waiting.
func (m *mailbox) peak() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.most
}

func (m *mailbox) init() { m.ready = make(chan struct{}, 1) }

func (m *mailbox) put(f func()) bool {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return false
	}
	m.items = append(m.items, f)
	m.most = max(m.most, len(m.items))
	m.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default:
	}
	return true
}

func (m *mailbox) take() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	items := m.items
	m.items = nil
	return items
}

func (m *mailbox) close() []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	items := m.items
	m.items = nil
	return items
}

// post has f run by the node's goroutine, some time.
func (n *Node) post(f func()) { n.queue.put(f) }

// do has f run by the node's goroutine and waits for it. After Close it does nothing. It must not be called by
// that goroutine.
func (n *Node) do(f func()) {
	done := make(chan struct{})
	if n.queue.put(func() { defer close(done); f() }) {
		<-done
	}
}

// spawn runs f beside the node's goroutine until the network, or without one the node, is closed.
func (n *Node) spawn(f func(ctx context.Context)) {
	ctx, wg := n.owner()
	wg.Add(1)
	go func() {
		defer wg.Done()
		f(ctx)
	}()
}

// owner is who waits for what begins now. It is for the node's goroutine.
func (n *Node) owner() (context.Context, *sync.WaitGroup) {
	if n.net != nil {
		return n.net.ctx, &n.net.wg
	}
	return n.ctx, &n.wg
}

// touch says that Status has changed.
func (n *Node) touch() { n.dirty = true }

// Changed is closed at the next change of Status; changes within 100 ms are one.
func (n *Node) Changed() (c <-chan struct{}) {
	n.do(func() { c = n.changed })
	return c
}

// Close stops the node and releases its home. Progress stays on disk.
func (n *Node) Close() error {
	n.stop()
	<-n.ended
	n.wg.Wait()
	return n.release()
}

func (n *Node) release() error {
	var errs []error
	for _, p := range n.places {
		if p.img != nil {
			errs = append(errs, p.img.Close())
		}
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.db != nil {
		if n.count != nil {
			errs = append(errs, n.count.save(n.db, 60)) // a verb that takes a moment writes nothing
		}
		errs = append(errs, n.db.close())
	}
	errs = append(errs, n.lock.Close())
	return errors.Join(errs...)
}

// Run takes part in the mesh until ctx ends. HOME/addrs names the node's addresses from the moment it listens.
// It returns nil after a clean stop. A node may run again after Run has returned.
func (n *Node) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var peers []peer.AddrInfo
	for _, s := range n.cfg.Peers {
		info, err := parsePeer(s)
		if err != nil {
			return err
		}
		peers = append(peers, info)
	}
	if err := signLock(n.lock, "node"); err != nil {
		return homeError(n.cfg.Home, err)
	}
	defer signLock(n.lock, "")
	r, err := n.startNetwork(ctx)
	if err != nil {
		return err
	}
	defer os.Remove(n.cfg.Home + "/addrs")
	n.do(func() { err = n.join(r, peers) })
	if err == nil {
		select {
		case <-ctx.Done():
		case <-n.ctx.Done():
		}
	}
	cancel() // first: what ends must not begin anew
	n.do(n.leave)
	r.host.Close()
	r.wg.Wait()
	return err
}

// startNetwork opens sockets and registers protocols; the node's goroutine does not know of it yet.
func (n *Node) startNetwork(ctx context.Context) (*running, error) {
	r := &running{ctx: ctx, gater: newGater(), table: newTable(n.id), askers: map[peer.ID]*asker{},
		opening: map[peer.ID]bool{}, digests: map[peer.ID][8]byte{}, began: map[peer.ID]time.Time{},
		from: map[peer.ID]uint64{}, to: map[peer.ID]uint64{}}
	h, err := newHost(n.key, n.cfg.Medium, n.cfg.QUIC, r.gater, "satchel/"+n.cfg.Version)
	if err != nil {
		return nil, fmt.Errorf("starting the network: %w", err)
	}
	r.host = h
	r.server = newServer(n.store, n.log)
	r.server.holdings, r.server.sent = n.holdings, r.sentTo
	r.server.offence = func(p peer.ID, err error) { n.post(func() { n.offence(p, err) }) }
	r.server.watched = func(p peer.ID, m cid.Cid) {
		n.do(func() { // not post: who watches again and again waits each time
			if a := r.askers[p]; a != nil && n.net == r {
				n.spawn(func(context.Context) { a.join(m) })
			}
		})
	}
	h.SetStreamHandler(protoBlobs, func(s network.Stream) { r.server.handle(ctx, s) })
	h.SetStreamHandler(protoCatalog, n.answer)
	h.Network().Notify(n.notifee())
	if r.gossip, err = newGossip(ctx, h, n.judge()); err != nil {
		h.Close()
		return nil, fmt.Errorf("joining the topic: %w", err)
	}
	return r, nil
}

// join makes r the node's network and opens it for others.
func (n *Node) join(r *running, peers []peer.AddrInfo) error {
	n.net = r
	if err := n.listen(r.host); err != nil {
		return err
	}
	n.nextStamp = n.count.now().Up + stampPatience
	now := time.Now()
	var stale []string
	n.db.all("peers", func(id string, text []byte) {
		if !r.table.recall(id, text, now) {
			stale = append(stale, id)
		}
	})
	for _, id := range stale {
		n.db.delete("peers", id)
	}
	for _, info := range peers {
		r.table.configure(info, now)
	}
	if !n.cfg.NoDiscovery && n.cfg.Medium == nil {
		r.beacon = beacon.New(n.beaconConfig())
		n.spawn(func(ctx context.Context) {
			if err := r.beacon.Run(ctx); err != nil && ctx.Err() == nil {
				n.log.Error("looking for neighbours ended", slog.Any("err", err))
			}
		})
	}
	n.spawn(r.gossip.drain)
	if err := n.writeAddrs(); err != nil {
		return homeError(n.cfg.Home, err)
	}
	n.log.Info("listening", slog.Any("addrs", addresses(r.host)))
	n.dial()
	n.advanceAll()
	n.touch()
	return nil
}

// leave ends the network's hold on the state; what was spawned ends with its context.
func (n *Node) leave() {
	if n.net != nil {
		if err := n.db.savePeers(n.net.table); err != nil {
			n.log.Warn("remembering peers", slog.Any("err", err))
		}
	}
	n.net = nil
	n.ex = newExchanges()
	n.touch()
}

func (n *Node) beaconConfig() beacon.Config {
	instance := uint64(time.Now().UnixNano())
	r := n.net
	content := func() (b beacon.Beacon) {
		b = beacon.Beacon{Node: []byte(n.id), Instance: instance}
		n.do(func() { b.Digest = n.catalog.Digest() })
		b.TCP, b.QUIC = listenPorts(r.host)
		return b
	}
	return beacon.Config{Beacon: content, Seen: n.seen, Changed: func() { n.post(n.networkChanged) }, Log: n.log}
}

// networkChanged: an interface or an address came or went. Old connections may be dead without knowing it, and
// everyone may be elsewhere.
func (n *Node) networkChanged() {
	r := n.net
	if r == nil {
		return
	}
	n.log.Info("network changed")
	if err := n.writeAddrs(); err != nil {
		n.log.Warn("writing HOME/addrs", slog.Any("err", err))
	}
	r.table.hurry(time.Now())
	n.closeOrphans()
	n.dial()
	n.touch()
}

// answer serves one catalog exchange.
func (n *Node) answer(stream network.Stream) {
	var view *catalogView
	p := stream.Conn().RemotePeer()
	n.do(func() {
		if n.net != nil && n.ex.visits.take(time.Now(), p, 1) {
			view = n.view()
		}
	})
	if view == nil {
		stream.Reset()
		return
	}
	theirs, err := answerExchange(stream, view)
	if err != nil {
		stream.Reset()
	}
	n.post(func() {
		n.offenceOf(p, err)
		if err == nil {
			n.exchange(p, &theirs)
		}
	})
}

// view is the catalog as an exchange needs it: read by many, changed by nobody.
func (n *Node) view() *catalogView {
	c := n.catalog
	if n.ex.view != nil && n.ex.view.digest == c.Digest() {
		return n.ex.view
	}
	v := &catalogView{digest: c.Digest(), root: rootName{c.RootVersion(), c.RootID()}, heads: c.Heads(), roots: c.RootChain(),
		timestamps: c.Timestamps(), envelopes: map[string][]byte{}, claims: map[string][][]byte{}}
	if rival, ok := c.Rival(); ok {
		v.rival = rival.Envelope
	}
	for _, h := range v.heads {
		if _, env, ok := c.Latest(h.Product); ok {
			v.envelopes[h.Product] = env
		} else {
			v.claims[h.Product] = c.Claims(h.Product)
		}
	}
	n.ex.view = v
	return v
}

// catalogChanged keeps what is new, and tells the neighbours when they may not know it yet.
func (n *Node) catalogChanged(tell bool) {
	if err := n.db.saveCatalog(n.catalog); err != nil {
		n.log.Error("keeping the catalog", slog.Any("err", err)) // neighbours tell it again
	}
	n.spread(tell)
}

// keepCatalog is for what only this node knows yet. What cannot be kept is forgotten again: to sign its number a
// second time after a restart would be equivocation.
func (n *Node) keepCatalog() error {
	err := n.db.saveCatalog(n.catalog)
	if err == nil {
		n.spread(true)
		return nil
	}
	if c, lerr := n.db.loadCatalog(); lerr == nil {
		n.catalog, n.ex.view = c, nil
	}
	return homeError(n.cfg.Home, fmt.Errorf("keeping the catalog: %w", err))
}

// spread acts on a catalog that has changed.
func (n *Node) spread(tell bool) {
	if r := n.net; r != nil {
		if r.beacon != nil {
			r.beacon.Poke()
		}
		for p, k := range r.table.known {
			if tell && k.connected {
				n.exchange(p, nil)
			}
		}
	}
	n.advanceAll()
	n.touch()
}

// closeOrphans closes connections whose own address this machine no longer has: they would only be found dead
// half a minute later.
func (n *Node) closeOrphans() {
	if n.net == nil {
		return
	}
	h := n.net.host
	mine := ownAddrs()
	n.spawn(func(context.Context) {
		for _, c := range h.Network().Conns() {
			if ip, ok := connIP(c.LocalMultiaddr()); ok && !ip.IsLoopback() && !mine[ip] {
				c.Close()
			}
		}
	})
}
