package p2p

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// A link with no router has only IPv6 link-local addresses, and libp2p's swarm drops those before dialling.
// It looks behind one leading zone only, so an address that is to be dialled carries its zone twice:
//
//	/ip6zone/eth0/ip6/fe80::1/tcp/4001              as people write it
//	/ip6zone/eth0/ip6zone/eth0/ip6/fe80::1/tcp/4001 as the swarm gets it
//
// and this transport takes the second zone off again.
type linkLocalTransport struct {
	*tcp.TcpTransport
}

var _ transport.Transport = (*linkLocalTransport)(nil)

// CanDial reports whether addr is a TCP address, plain or with a doubled zone.
func (t *linkLocalTransport) CanDial(addr ma.Multiaddr) bool {
	if _, ok := undouble(addr); ok {
		return true
	}
	return t.TcpTransport.CanDial(addr)
}

// Dial connects to p at addr.
func (t *linkLocalTransport) Dial(ctx context.Context, addr ma.Multiaddr, p peer.ID) (transport.CapableConn, error) {
	if plain, ok := undouble(addr); ok {
		addr = plain
	}
	return t.TcpTransport.Dial(ctx, addr, p)
}

// DialWithUpdates is Dial that tells of its progress.
func (t *linkLocalTransport) DialWithUpdates(ctx context.Context, addr ma.Multiaddr, p peer.ID, ch chan<- transport.DialUpdate) (transport.CapableConn, error) {
	if plain, ok := undouble(addr); ok { // updates would name the plain address, which the swarm did not dial
		return t.TcpTransport.Dial(ctx, plain, p)
	}
	return t.TcpTransport.DialWithUpdates(ctx, addr, p, ch)
}

// undouble takes the second zone off a doubled address.
func undouble(addr ma.Multiaddr) (ma.Multiaddr, bool) {
	if len(addr) < 4 || addr[0].Code() != ma.P_IP6ZONE || addr[1].Code() != ma.P_IP6ZONE ||
		addr[2].Code() != ma.P_IP6 || addr[3].Code() != ma.P_TCP {
		return nil, false
	}
	return addr[1:], true
}

// dialable gives addr the form in which the swarm will dial it.
func dialable(addr ma.Multiaddr) ma.Multiaddr {
	if len(addr) >= 2 && addr[0].Code() == ma.P_IP6ZONE && addr[1].Code() == ma.P_IP6 && manet.IsIP6LinkLocal(addr) {
		return ma.Join(addr[0].Multiaddr(), addr)
	}
	return addr
}

// readable is the inverse of dialable, for people.
func readable(addr ma.Multiaddr) ma.Multiaddr {
	if plain, ok := undouble(addr); ok {
		return plain
	}
	return addr
}

// tcpAddr is the address of a TCP port of ip, which may carry a zone.
func tcpAddr(ip netip.Addr, port uint16) (ma.Multiaddr, error) {
	ip = ip.Unmap()
	switch {
	case ip.Is4():
		return ma.NewMultiaddr(fmt.Sprintf("/ip4/%s/tcp/%d", ip, port))
	case ip.Zone() != "":
		return ma.NewMultiaddr(fmt.Sprintf("/ip6zone/%s/ip6/%s/tcp/%d", ip.Zone(), ip.WithZone(""), port))
	default:
		return ma.NewMultiaddr(fmt.Sprintf("/ip6/%s/tcp/%d", ip, port))
	}
}
