package p2p

import (
	"net"
	"net/netip"

	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// ownAddrs is every address of this machine, without zones.
func ownAddrs() map[netip.Addr]bool {
	mine := map[netip.Addr]bool{}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			mine[p.Addr().Unmap().WithZone("")] = true
		}
	}
	return mine
}

// connIP is the IP address that a connection's end has, without its zone.
func connIP(a ma.Multiaddr) (netip.Addr, bool) {
	na, err := manet.ToNetAddr(a)
	if err != nil {
		return netip.Addr{}, false
	}
	switch t := na.(type) {
	case *net.TCPAddr:
		ip, ok := netip.AddrFromSlice(t.IP)
		return ip.Unmap(), ok
	case *net.UDPAddr: // QUIC sockets are unbound: the local address says nothing
		return netip.Addr{}, false
	}
	return netip.Addr{}, false
}
