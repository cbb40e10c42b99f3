package p2p

import (
	"crypto/sha256"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// gater keeps banned peers out for a while. A peer is banned for what it alone did: bytes that fail their hash,
// more bytes than it was asked for, frames that break the protocol.
type gater struct {
	mu    sync.Mutex
	until map[peer.ID]time.Time
	count map[peer.ID]int
}

var _ connmgr.ConnectionGater = (*gater)(nil)

const (
	firstBan = time.Minute // doubled for each further offence
	longBan  = 24 * time.Hour
	maxBans  = 1024
)

func newGater() *gater {
	return &gater{until: map[peer.ID]time.Time{}, count: map[peer.ID]int{}}
}

// ban keeps p out for a time that doubles with each offence and returns that time.
func (g *gater) ban(p peer.ID, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.until[p]; !ok && len(g.until) >= maxBans { // identities cost nothing: remembering all of them would be the attack
		g.forget()
	}
	d := min(firstBan<<min(g.count[p], 12), longBan)
	g.count[p]++
	g.until[p] = now.Add(d)
	return d
}

// forget makes room: the ban that ends first.
func (g *gater) forget() {
	var first peer.ID
	for p, until := range g.until {
		if first == "" || until.Before(g.until[first]) {
			first = p
		}
	}
	delete(g.until, first)
	delete(g.count, first)
}

func (g *gater) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.until)
}

// list is who is kept out at now.
func (g *gater) list(now time.Time) (out []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p, until := range g.until {
		if now.Before(until) {
			out = append(out, p.String())
		}
	}
	return out
}

func (g *gater) banned(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return time.Now().Before(g.until[p])
}

// InterceptPeerDial implements connmgr.ConnectionGater.
func (g *gater) InterceptPeerDial(p peer.ID) bool { return !g.banned(p) }

// InterceptAddrDial implements connmgr.ConnectionGater.
func (g *gater) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return true }

// InterceptAccept implements connmgr.ConnectionGater.
func (g *gater) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured implements connmgr.ConnectionGater: the first moment at which an incoming peer is known.
func (g *gater) InterceptSecured(_ network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	return !g.banned(p)
}

// InterceptUpgraded implements connmgr.ConnectionGater.
func (g *gater) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

func deriveKey(secret []byte, use string) []byte {
	h := sha256.New()
	h.Write([]byte(use))
	h.Write([]byte{0})
	h.Write(secret)
	return h.Sum(nil)
}
