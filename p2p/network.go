package p2p

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"satchel/fetch"
	"satchel/p2p/beacon"
)

// running is the node's network while it runs: sockets and streams. What is decided is decided by the node's
// goroutine; this acts.
type running struct {
	ctx     context.Context
	host    host.Host
	gater   *gater
	gossip  *gossip
	server  *server
	beacon  *beacon.Service // nil with discovery off
	table   *table
	askers  map[peer.ID]*asker // owned by the node's goroutine
	opening map[peer.ID]bool
	digests map[peer.ID][8]byte
	began   map[peer.ID]time.Time
	wg      sync.WaitGroup // everything that was spawned while this network ran

	mu             sync.Mutex // counters only
	from, to       map[peer.ID]uint64
	oldFrom, oldTo uint64 // of neighbours that are not counted one by one any more
}

// maxCounted is how many neighbours are counted one by one.
const maxCounted = 1024

// count adds n to p's counter; identities cost nothing, so their number is bounded.
func count(m map[peer.ID]uint64, old *uint64, p peer.ID, n int) {
	if _, ok := m[p]; !ok && len(m) >= maxCounted {
		for q, v := range m {
			*old += v
			delete(m, q)
		}
	}
	m[p] += uint64(n)
}

func (r *running) sentTo(p peer.ID, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count(r.to, &r.oldTo, p, n)
}

func (r *running) receivedFrom(p peer.ID, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	count(r.from, &r.oldFrom, p, n)
}

func (r *running) counters(p peer.ID) (from, to uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.from[p], r.to[p]
}

func (r *running) totals() (from, to uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from, to = r.oldFrom, r.oldTo
	for _, n := range r.from {
		from += n
	}
	for _, n := range r.to {
		to += n
	}
	return from, to
}

// noteDigest remembers what p's catalog is, for others to see and for the next round.
func (n *Node) noteDigest(p peer.ID, d [8]byte) {
	old, known := n.net.digests[p]
	if n.linked(p) && (!known || old != d) {
		n.net.digests[p] = d
		n.touch()
	}
}

// visit asks p's catalog for what view lacks.
func (r *running) visit(ctx context.Context, p peer.ID, view *catalogView) (*visit, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	stream, err := r.host.NewStream(network.WithNoDial(ctx, "exchange"), p, protoCatalog)
	if err != nil {
		return nil, err
	}
	return askExchange(ctx, stream, view)
}

// listen opens the sockets: what the configuration names, or every interface. It prefers the port of the last
// run, so that neighbours who remember this node find it, and a firewall's rule stays right.
func (n *Node) listen(h host.Host) error {
	for _, s := range n.cfg.Listen {
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			return fail(CodeBadInput, "an address looks like /ip4/0.0.0.0/tcp/4001 or /ip6/::/tcp/0", fmt.Errorf("listening on %q: %w", s, err))
		}
		if err := h.Network().Listen(a); err != nil {
			return fail(CodeBadInput, "another program may use that port, or this machine has no such address; choose another with --listen",
				fmt.Errorf("listening on %s: %w", s, err))
		}
	}
	if len(n.cfg.Listen) > 0 {
		return nil
	}
	last, _ := n.db.get("meta", "port")
	port, _ := strconv.ParseUint(string(last), 10, 16)
	var err error
	for range 8 {
		if port == 0 {
			if port, err = freePort(); err != nil {
				return fmt.Errorf("looking for a free port: %w", err)
			}
		}
		if err = listenEverywhere(h, port, n.cfg.QUIC); err == nil {
			return n.db.put("meta", "port", strconv.AppendUint(nil, port, 10))
		}
		port = 0
	}
	return fmt.Errorf("listening: %w", err)
}

// freePort finds a TCP port that is free for both families.
func freePort() (uint64, error) {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return uint64(l.Addr().(*net.TCPAddr).Port), nil
}

// listenEverywhere listens with one port for both families, because a beacon has room for one. A machine
// without one of the families is a machine.
func listenEverywhere(h host.Host, port uint64, withQUIC bool) error {
	forms := []string{"/ip4/0.0.0.0/tcp/%d", "/ip6/::/tcp/%d"}
	if withQUIC {
		forms = append(forms, "/ip4/0.0.0.0/udp/%d/quic-v1", "/ip6/::/udp/%d/quic-v1")
	}
	var errs []error
	for _, form := range forms {
		a, err := ma.NewMultiaddr(fmt.Sprintf(form, port))
		if err == nil {
			err = h.Network().Listen(a)
		}
		if errors.Is(err, syscall.EADDRINUSE) {
			for _, l := range h.Network().ListenAddresses() {
				h.Network().(*swarm.Swarm).ListenClose(l)
			}
			return err
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == len(forms) {
		return errors.Join(errs...)
	}
	return nil
}

// listenPorts returns what a beacon tells: the TCP port, IPv4's where the families differ, and the QUIC one; 0
// is none.
func listenPorts(h host.Host) (tcpPort, quicPort uint16) {
	for _, a := range h.Network().ListenAddresses() {
		na, err := manet.ToNetAddr(a)
		if err != nil {
			continue
		}
		switch t := na.(type) {
		case *net.TCPAddr:
			if tcpPort == 0 || t.IP.To4() != nil {
				tcpPort = uint16(t.Port)
			}
		case *net.UDPAddr:
			quicPort = uint16(t.Port)
		}
	}
	return tcpPort, quicPort
}

// addresses lists the node's full addresses, the most useful first: global and private, then link-local, then
// loopback.
func addresses(h host.Host) []string {
	type ranked struct {
		rank int
		text string
	}
	var all []ranked
	seen := map[string]bool{}
	add := func(rank int, a ma.Multiaddr) {
		if s := a.String() + "/p2p/" + h.ID().String(); !seen[s] {
			seen[s] = true
			all = append(all, ranked{rank, s})
		}
	}
	for _, l := range h.Network().ListenAddresses() {
		for _, a := range expand(l) {
			switch {
			case manet.IsIPLoopback(a):
				add(3, a)
			case manet.IsIP6LinkLocal(a):
				add(2, a)
			case a[0].Code() == ma.P_IP4:
				add(0, a)
			default:
				add(1, a)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b ranked) int { return a.rank - b.rank })
	out := make([]string, len(all))
	for i, a := range all {
		out[i] = a.text
	}
	return out
}

// expand replaces an unspecified listening address by the machine's own, as they are now: libp2p's list is up
// to a minute old and leaves link-local addresses out.
func expand(l ma.Multiaddr) []ma.Multiaddr {
	if !manet.IsIPUnspecified(l) {
		return []ma.Multiaddr{l}
	}
	v4 := l[0].Code() == ma.P_IP4
	rest := l[1:]
	var out []ma.Multiaddr
	ifs, _ := net.Interfaces()
	for _, i := range ifs {
		if i.Flags&net.FlagUp == 0 {
			continue
		}
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			p, err := netip.ParsePrefix(a.String())
			if err != nil || p.Addr().Unmap().Is4() != v4 || p.Addr().IsMulticast() {
				continue
			}
			ip := p.Addr().Unmap()
			text := "/ip4/" + ip.String()
			if !v4 {
				text = "/ip6/" + ip.WithZone("").String()
				if ip.IsLinkLocalUnicast() {
					text = "/ip6zone/" + i.Name + text
				}
			}
			if m, err := ma.NewMultiaddr(text); err == nil {
				out = append(out, ma.Join(m, rest))
			}
		}
	}
	return out
}

// writeAddrs keeps HOME/addrs true: one full address a line.
func (n *Node) writeAddrs() error {
	list := addresses(n.net.host)
	text := strings.Join(list, "\n") + "\n"
	if len(list) == 0 {
		text = ""
	}
	old, err := os.ReadFile(n.cfg.Home + "/addrs")
	if err == nil && string(old) == text {
		return nil
	}
	return writeFile(n.cfg.Home, "addrs", []byte(text), false)
}

// slept reports whether the machine was suspended between two looks: the wall clock went on, the monotonic one
// did not. A clock that somebody sets looks the same, and costs one round of dialling.
func slept(last, now time.Time) bool {
	return !last.IsZero() && now.Round(0).Sub(last.Round(0))-now.Sub(last) > 15*time.Second
}

// resume drops every connection, which would take half a minute to be found dead, and looks around anew.
func (n *Node) resume() {
	n.log.Info("back from sleep")
	r := n.net
	n.spawn(func(context.Context) {
		for _, c := range r.host.Network().Conns() {
			c.Close()
		}
	})
	r.table.hurry(time.Now())
	if r.beacon != nil {
		r.beacon.Poke()
	}
	n.dial()
}

func (n *Node) redialDeaf(deaf []peer.ID) {
	r := n.net
	if r == nil {
		return
	}
	for _, p := range deaf {
		n.log.Info("neighbour is deaf to gossip, dialling again", slog.String("peer", p.String()))
		n.spawn(func(context.Context) { r.host.Network().ClosePeer(p) })
	}
}

// parsePeer reads a configured peer: a full address with /p2p/ID.
func parsePeer(s string) (peer.AddrInfo, error) {
	hint := `copy a line of the other node's HOME/addrs; it looks like /ip4/192.168.1.7/tcp/4001/p2p/12D3Koo…`
	a, err := ma.NewMultiaddr(strings.TrimSpace(s))
	if err != nil {
		return peer.AddrInfo{}, fail(CodeBadInput, hint, fmt.Errorf("reading peer address %q: %w", s, err))
	}
	info, err := peer.AddrInfoFromP2pAddr(a)
	if err != nil || len(info.Addrs) == 0 {
		return peer.AddrInfo{}, fail(CodeBadInput, hint, fmt.Errorf("peer address %q has no address and /p2p/ id", s))
	}
	return *info, nil
}

// notifee turns connection events into the node's.
func (n *Node) notifee() *network.NotifyBundle {
	return &network.NotifyBundle{
		ConnectedF: func(_ network.Network, c network.Conn) {
			p, addr, out := c.RemotePeer(), readable(c.RemoteMultiaddr()), c.Stat().Direction == network.DirOutbound
			n.post(func() { n.connected(p, addr, out) })
		},
		DisconnectedF: func(nw network.Network, c network.Conn) {
			p := c.RemotePeer()
			n.post(func() {
				if nw.Connectedness(p) != network.Connected {
					n.disconnected(p)
				}
			})
		},
	}
}

func (n *Node) connected(p peer.ID, addr ma.Multiaddr, outbound bool) {
	r := n.net
	if r == nil {
		return
	}
	now := time.Now()
	first := r.table.known[p] == nil || !r.table.known[p].connected
	r.table.up(p, addr, outbound, now)
	if !first {
		return
	}
	r.began[p] = now
	if k := r.table.known[p]; k.chosen || k.configured { // strangers must not crowd it out
		r.host.ConnManager().Protect(p, "chosen")
	}
	n.log.Info("neighbour connected", slog.String("peer", p.String()), slog.String("addr", addr.String()))
	delete(n.ex.seen, p)
	n.exchange(p, nil)
	n.openAsker(p)
	n.touch()
}

func (n *Node) disconnected(p peer.ID) {
	r := n.net
	if r == nil || r.table.known[p] == nil || !r.table.known[p].connected {
		return
	}
	r.table.down(p, time.Now())
	n.ex.forget(p)
	delete(r.digests, p)
	delete(r.began, p)
	r.host.ConnManager().Unprotect(p, "chosen")
	n.log.Info("neighbour gone", slog.String("peer", p.String()))
	n.touch()
	n.dial()
}

// dial starts what is due and sets the timer for what is due next.
func (n *Node) dial() {
	r := n.net
	if r == nil {
		return
	}
	now := time.Now()
	due, next := r.table.dials(now)
	for _, info := range due {
		n.spawn(func(ctx context.Context) {
			ctx, cancel := context.WithTimeout(ctx, dialTimeout)
			defer cancel()
			err := r.connect(ctx, info)
			n.post(func() {
				if err != nil {
					n.log.Debug("dialling failed", slog.String("peer", info.ID.String()), slog.Any("err", err))
					r.table.failed(info.ID, time.Now())
				} else if k := r.table.known[info.ID]; k != nil {
					k.dialling = false
					// A refused dial may look like success: only a live connection counts.
					if r.host.Network().Connectedness(info.ID) != network.Connected {
						r.table.failed(info.ID, time.Now())
					}
				}
				n.dial()
			})
		})
	}
	n.dialTimer.Reset(max(next.Sub(now), 10*time.Millisecond))
}

func (r *running) connect(ctx context.Context, info peer.AddrInfo) error {
	if r.host.Network().Connectedness(info.ID) == network.Connected {
		return nil
	}
	r.host.Peerstore().ClearAddrs(info.ID)
	return connect(ctx, r.host, info)
}

// seen takes a beacon. It may be anybody's: all it can do is to make us look at an address, or ask for a
// catalog that we verify.
func (n *Node) seen(b beacon.Beacon, from netip.AddrPort, _ string) {
	p, err := peer.IDFromBytes(b.Node)
	if err != nil || p == n.id {
		return
	}
	port := b.TCP
	if port == 0 {
		return
	}
	addr, err := tcpAddr(from.Addr(), port)
	if err != nil {
		return
	}
	n.post(func() {
		r := n.net
		if r == nil {
			return
		}
		r.table.heard(p, addr, "beacon", time.Now())
		if r.table.known[p].connected {
			d := b.Digest
			n.exchange(p, &d)
			return
		}
		n.dial()
	})
}

// openAsker opens the stream of requests to p, when a fetch is under way and there is none.
func (n *Node) openAsker(p peer.ID) {
	r := n.net
	if r == nil || len(n.sessions) == 0 || r.opening[p] || r.gater.banned(p) {
		return
	}
	if a := r.askers[p]; a != nil {
		n.attachAll(r, a)
		return
	}
	r.opening[p] = true
	n.spawn(func(ctx context.Context) {
		sctx, cancel := context.WithTimeout(ctx, dialTimeout)
		stream, err := r.host.NewStream(network.WithNoDial(sctx, "fetch"), p, protoBlobs)
		cancel()
		if err != nil {
			n.post(func() { delete(r.opening, p) }) // the next rounds try again
			return
		}
		a := newAsker(stream, r.receivedFrom, n.log)
		n.post(func() {
			delete(r.opening, p)
			if n.net == r {
				r.askers[p] = a
				n.attachAll(r, a)
			}
		})
		err = a.run(ctx)
		n.post(func() {
			if r.askers[p] == a {
				delete(r.askers, p)
			}
			n.offenceOf(p, err)
		})
	})
}

// attachAll lets every fetch know of a stream to a neighbour.
func (n *Node) attachAll(r *running, a *asker) {
	for m, s := range n.sessions {
		a.attach(m, s)
		if r.server.watches(a.peer, m) {
			n.spawn(func(context.Context) { a.join(m) })
		}
	}
}

// offenceOf bans p when err is its fault.
func (n *Node) offenceOf(p peer.ID, err error) {
	if errors.Is(err, errProtocol) {
		n.offence(p, err)
	}
}

// offence cuts p off for a while: it did what no honest node does.
func (n *Node) offence(p peer.ID, why error) {
	r := n.net
	if r == nil {
		return
	}
	n.refusals.add(refusedProtocol)
	d := r.gater.ban(p, time.Now())
	n.log.Warn("neighbour shut out", slog.String("peer", p.String()), slog.Duration("for", d), slog.Any("err", why))
	n.spawn(func(context.Context) { r.host.Network().ClosePeer(p) })
	n.touch()
}

// holdings answers a watcher: what is held here of a manifest, and whether it is that of a release that is here or comes.
func (n *Node) holdings(m cid.Cid) (hm fetch.HaveMap, here bool) {
	n.do(func() {
		if s := n.sessions[m]; s != nil {
			hm, here = s.Holdings(), true
		} else if n.db.complete(m) {
			hm, here = fetch.HaveMap{All: true, Manifest: true}, true
		}
	})
	return hm, here
}

// rounds is what has to be looked at now and then: deaf neighbours, connections that libp2p dropped silently.
func (n *Node) rounds() {
	r := n.net
	if r == nil {
		return
	}
	now := time.Now()
	if slept(n.looked, now) {
		n.resume()
	}
	n.looked = now
	n.stamp()
	var peers []peer.ID
	for p, k := range r.table.known {
		if !k.connected {
			continue
		}
		if r.host.Network().Connectedness(p) != network.Connected {
			n.disconnected(p)
			continue
		}
		peers = append(peers, p)
		n.openAsker(p)
		n.repeatExchange(p, now)
	}
	n.spawn(func(context.Context) { // pubsub's goroutine may be waiting for ours
		in := r.gossip.topic.ListPeers()
		n.post(func() { n.redialDeaf(r.gossip.deaf(now, peers, in)) })
	})
	for p, a := range r.askers {
		if a.idle() && len(n.sessions) == 0 {
			delete(r.askers, p)
			a.stream.Reset()
		}
	}
	n.shutLiars()
	if err := n.writeAddrs(); err != nil {
		n.log.Warn("writing HOME/addrs", slog.Any("err", err))
	}
}
