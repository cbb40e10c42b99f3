package beacon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// maxLinks bounds the interfaces in use.
const maxLinks = 32

// Addr is an address of this machine on a link in use.
type Addr struct {
	// Prefix is the address with the length of its network, without zone.
	Prefix netip.Prefix
	// Interface is the interface's name: also the zone of a link-local address.
	Interface string
	// Loopback tells that the interface is the loopback interface.
	Loopback bool
}

// link is an interface that can carry beacons, as a scan found it.
type link struct {
	index    int
	name     string
	loopback bool
	prefixes []netip.Prefix // of both families, in the system's order; no tentative ones
}

func (l *link) equal(o *link) bool {
	return l.index == o.index && l.name == o.name && l.loopback == o.loopback && slices.Equal(l.prefixes, o.prefixes)
}

// source returns the IPv4 address to send from, if there is one.
func (l *link) source() (netip.Addr, bool) {
	for _, p := range l.prefixes {
		if p.Addr().Is4() {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// has6 tells whether the link has an IPv6 address to send from. Beacons over IPv6 do not
// work on the loopback interface of Linux: it has no multicast route.
func (l *link) has6() bool {
	return !l.loopback && slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return p.Addr().Is6() })
}

// local tells whether a belongs to one of the link's networks.
func (l *link) local(a netip.Addr) bool {
	a = a.WithZone("")
	return slices.ContainsFunc(l.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// choose keeps the links to use: the loopback interface only when loopback is set
// or there is no other, and no more than maxLinks.
func choose(links []link, loopback bool) []link {
	links = slices.DeleteFunc(links, func(l link) bool { _, has4 := l.source(); return !has4 && !l.has6() })
	others := slices.ContainsFunc(links, func(l link) bool { return !l.loopback })
	if others && !loopback {
		links = slices.DeleteFunc(links, func(l link) bool { return l.loopback })
	}
	slices.SortFunc(links, func(a, b link) int { return a.index - b.index })
	return links[:min(len(links), maxLinks)]
}

// capable tells whether an interface that is up, or not, can carry multicast. The loopback interface
// can, whatever its flags say, when the socket is told to use it.
func capable(f net.Flags) bool {
	return f&net.FlagUp != 0 && f&net.FlagRunning != 0 && f&(net.FlagMulticast|net.FlagLoopback) != 0
}

// scanPortable lists the capable interfaces by the standard library alone.
func scanPortable() ([]link, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("listing interfaces: %w", err)
	}
	var links []link
	for _, i := range interfaces {
		if !capable(i.Flags) {
			continue
		}
		l := link{index: i.Index, name: i.Name, loopback: i.Flags&net.FlagLoopback != 0}
		addrs, err := i.Addrs()
		if err != nil { // it may be gone by now
			continue
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				l.prefixes = append(l.prefixes, p)
			}
		}
		links = append(links, l)
	}
	return links, nil
}
