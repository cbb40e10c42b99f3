package p2p

import (
	"context"
	"net"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// Medium carries the connections of a node instead of this machine's sockets: a simulator's. Everything above a TCP
// connection stays as it is. Addresses are an IP address and a port, as package net writes them; connections have a
// net.TCPAddr at both ends.
type Medium interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
	Listen(network, address string) (net.Listener, error)
}

// mediumTransport is libp2p's TCP on a Medium.
type mediumTransport struct {
	medium Medium
	up     transport.Upgrader
	rm     network.ResourceManager
}

var _ transport.Transport = (*mediumTransport)(nil)

// Dial implements transport.Transport.
func (t *mediumTransport) Dial(ctx context.Context, addr ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	scope, err := t.rm.OpenConnection(network.DirOutbound, true, addr)
	if err != nil {
		return nil, err
	}
	c, err := t.dial(ctx, addr, p, scope)
	if err != nil {
		scope.Done()
		return nil, err
	}
	return c, nil
}

func (t *mediumTransport) dial(ctx context.Context, addr ma.Multiaddr, p peer.ID, scope network.ConnManagementScope) (transport.CapableConn, error) {
	if err := scope.SetPeer(p); err != nil {
		return nil, err
	}
	kind, address, err := manet.DialArgs(addr)
	if err != nil {
		return nil, err
	}
	raw, err := t.medium.DialContext(ctx, kind, address)
	if err != nil {
		return nil, err
	}
	c, err := manet.WrapNetConn(raw)
	if err != nil {
		raw.Close()
		return nil, err
	}
	return t.up.Upgrade(ctx, t, c, network.DirOutbound, p, scope)
}

// Listen implements transport.Transport.
func (t *mediumTransport) Listen(at ma.Multiaddr) (transport.Listener, error) {
	kind, address, err := manet.DialArgs(at)
	if err != nil {
		return nil, err
	}
	raw, err := t.medium.Listen(kind, address)
	if err != nil {
		return nil, err
	}
	l, err := manet.WrapNetListener(raw)
	if err != nil {
		raw.Close()
		return nil, err
	}
	return t.up.UpgradeGatedMaListener(t, t.up.GateMaListener(l)), nil
}

// CanDial implements transport.Transport.
func (t *mediumTransport) CanDial(addr ma.Multiaddr) bool {
	return len(addr) == 2 && addr[1].Code() == ma.P_TCP
}

// Protocols implements transport.Transport.
func (t *mediumTransport) Protocols() []int { return []int{ma.P_TCP} }

// Proxy implements transport.Transport.
func (t *mediumTransport) Proxy() bool { return false }

// NewHost is a bare host on a medium, with the transport that a node has and none of its protocols: a stranger for a
// simulator to play with. It listens nowhere yet.
func NewHost(key crypto.PrivKey, m Medium, userAgent string) (host.Host, error) {
	return newHost(key, m, false, newGater(), userAgent)
}
