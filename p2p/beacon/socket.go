package beacon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

const (
	// Port is the UDP port beacons come from and go to.
	Port = 21827
	// Group4 is the IPv4 group: link-local (never forwarded by a router), and assigned to nobody.
	Group4 = "224.0.0.213"
	// Group6 is the IPv6 group: link-local scope, from the range for groups that nobody assigns.
	Group6 = "ff12::8073:6174"
)

// family is an address family; it indexes arrays.
type family int

const (
	inet4 family = iota
	inet6
	families
)

func (f family) String() string { return [...]string{"udp4", "udp6"}[f] }

func (f family) group() net.IP { return net.ParseIP([...]string{Group4, Group6}[f]) }

const (
	readBurst  = 256 // packets read from one socket at once
	readPeriod = time.Second / 2000
)

// packet is what a socket received, or the error that ended its reading.
type packet struct {
	socket *socket
	from   netip.AddrPort
	size   int // more than MaxSize: cut off
	data   [MaxSize + 1]byte
	err    error
}

// socket speaks one family on one interface. Each has its own, so that whatever befalls one link
// is that link's alone, and no limit on memberships of one socket counts.
type socket struct {
	family family
	index  int
	name   string
	to     *net.UDPAddr
	conn   net.PacketConn
	p4     *ipv4.PacketConn // one of the two
	p6     *ipv6.PacketConn
}

func openSocket(ctx context.Context, l *link, f family, port uint16) (*socket, error) {
	s := &socket{family: f, index: l.index, name: l.name, to: &net.UDPAddr{IP: f.group(), Port: int(port)}}
	if f == inet6 {
		s.to.Zone = strconv.Itoa(l.index) // a name would be looked up in a cache: see renewZones
		renewZones(l.index)
	}
	config := net.ListenConfig{Control: control(l.name, f)}
	conn, err := config.ListenPacket(ctx, f.String(), ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, fmt.Errorf("opening %s socket on %s: %w", f, l.name, err)
	}
	s.conn = conn
	if err := s.join(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("joining %s on %s: %w", f.group(), l.name, err)
	}
	return s, nil
}

func (s *socket) join() error {
	ifi := &net.Interface{Index: s.index, Name: s.name}
	if s.family == inet4 {
		s.p4 = ipv4.NewPacketConn(s.conn)
		// Some systems lack control messages; there the choices for the whole socket must do.
		_ = s.p4.SetControlMessage(ipv4.FlagDst|ipv4.FlagInterface, true)
		_ = s.p4.SetMulticastLoopback(true)
		_ = s.p4.SetMulticastTTL(1)
		return errors.Join(s.p4.SetMulticastInterface(ifi), s.p4.JoinGroup(ifi, s.to))
	}
	s.p6 = ipv6.NewPacketConn(s.conn)
	_ = s.p6.SetControlMessage(ipv6.FlagDst|ipv6.FlagInterface, true)
	_ = s.p6.SetMulticastLoopback(true)
	_ = s.p6.SetMulticastHopLimit(1)
	return errors.Join(s.p6.SetMulticastInterface(ifi), s.p6.JoinGroup(ifi, s.to))
}

// send sends data to the group. source is the address to send from; not valid: the system chooses.
func (s *socket) send(data []byte, source netip.Addr) error {
	var err error
	if s.family == inet4 {
		_, err = s.p4.WriteTo(data, &ipv4.ControlMessage{IfIndex: s.index, Src: source.AsSlice()}, s.to)
	} else {
		_, err = s.p6.WriteTo(data, &ipv6.ControlMessage{IfIndex: s.index}, s.to)
	}
	if err != nil {
		return fmt.Errorf("sending on %s: %w", s.name, err)
	}
	return nil
}

// read hands out what comes to the group on the socket's interface, until the socket is closed, ctx is done, or
// reading fails; the failure is the last packet. It rests when packets come faster than readPeriod,
// so that a flood costs the flooder's air and the kernel's buffer, but not our CPU.
func (s *socket) read(ctx context.Context, out chan<- *packet) {
	pace := newBucket(time.Now(), readBurst, readPeriod)
	for {
		p := &packet{socket: s}
		ours, err := s.receive(p)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if p.err = err; err != nil || ours {
			select {
			case out <- p:
			case <-ctx.Done():
				return
			}
		}
		if err != nil || !pace.take(time.Now()) && !wait(ctx, readBurst/4*readPeriod) {
			return
		}
	}
}

// receive fills p. It returns false for what was not sent to the group on this interface.
func (s *socket) receive(p *packet) (ours bool, err error) {
	var from net.Addr
	var to net.IP
	var index int
	if s.family == inet4 {
		var cm *ipv4.ControlMessage
		p.size, cm, from, err = s.p4.ReadFrom(p.data[:])
		if cm != nil {
			to, index = cm.Dst, cm.IfIndex
		}
	} else {
		var cm *ipv6.ControlMessage
		p.size, cm, from, err = s.p6.ReadFrom(p.data[:])
		if cm != nil {
			to, index = cm.Dst, cm.IfIndex
		}
	}
	if err != nil {
		return false, fmt.Errorf("receiving on %s: %w", s.name, err)
	}
	p.from = s.source(from)
	here := (to == nil || to.Equal(s.to.IP)) && (index == 0 || index == s.index)
	return here && p.from.IsValid(), nil
}

// source gives a link-local sender the zone it was heard in.
func (s *socket) source(from net.Addr) netip.AddrPort {
	u, ok := from.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	addr := u.AddrPort().Addr().Unmap().WithZone("")
	if addr.IsMulticast() || addr.IsUnspecified() {
		return netip.AddrPort{}
	}
	if addr.Is6() && addr.IsLinkLocalUnicast() {
		addr = addr.WithZone(s.name)
	}
	return netip.AddrPortFrom(addr, uint16(u.Port))
}

func (s *socket) close() { s.conn.Close() }

// renewZones makes package net look at the interfaces again. It remembers for a minute which index belongs to which name,
// so that dialing fe80::1%eth0 after eth0 was recreated would go to an interface that is gone. A zone it does
// not know, as a number is, makes it look at once. Connecting a UDP socket sends nothing.
func renewZones(index int) {
	conn, err := net.DialUDP("udp6", nil, &net.UDPAddr{IP: net.ParseIP("fe80::1"), Port: 9, Zone: strconv.Itoa(index)})
	if err == nil {
		conn.Close()
	}
}
