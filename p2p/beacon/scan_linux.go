package beacon

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// scan lists the capable interfaces by rtnetlink, which tells two things the standard library does not: which
// addresses are not usable yet (duplicate address detection), and which interfaces are only ports of a bridge or bond.
func scan() ([]link, error) {
	links, err := scanNetlink()
	if err != nil {
		return scanPortable() // some systems deny netlink to ordinary programs
	}
	return links, nil
}

func scanNetlink() ([]link, error) {
	links, err := dump(unix.RTM_GETLINK)
	if err != nil {
		return nil, err
	}
	addrs, err := dump(unix.RTM_GETADDR)
	if err != nil {
		return nil, err
	}
	var found []link
	byIndex := make(map[int]int)
	for i := range links {
		if l, ok := parseLink(&links[i]); ok {
			byIndex[l.index] = len(found)
			found = append(found, l)
		}
	}
	for i := range addrs {
		index, prefix, ok := parseAddr(&addrs[i])
		if at, known := byIndex[index]; ok && known {
			found[at].prefixes = append(found[at].prefixes, prefix)
		}
	}
	return found, nil
}

func dump(request int) ([]syscall.NetlinkMessage, error) {
	rib, err := syscall.NetlinkRIB(request, syscall.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("asking rtnetlink: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(rib)
	if err != nil {
		return nil, fmt.Errorf("reading rtnetlink: %w", err)
	}
	return messages, nil
}

func parseLink(m *syscall.NetlinkMessage) (link, bool) {
	if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg {
		return link{}, false
	}
	flags := binary.NativeEndian.Uint32(m.Data[8:])
	l := link{index: int(binary.NativeEndian.Uint32(m.Data[4:])), loopback: flags&unix.IFF_LOOPBACK != 0}
	if !capable(netFlags(flags)) {
		return link{}, false
	}
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return link{}, false
	}
	port := false
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.IFLA_IFNAME:
			l.name = cString(a.Value)
		case unix.IFLA_LINKINFO:
			kind := slaveKind(a.Value)
			port = kind != "" && kind != "vrf" // a port of a VRF speaks IP for itself, a port of a bridge does not
		}
	}
	return l, l.name != "" && !port
}

func netFlags(f uint32) net.Flags {
	var n net.Flags
	for _, x := range []struct {
		from uint32
		to   net.Flags
	}{
		{unix.IFF_UP, net.FlagUp}, {unix.IFF_RUNNING, net.FlagRunning},
		{unix.IFF_MULTICAST, net.FlagMulticast}, {unix.IFF_LOOPBACK, net.FlagLoopback},
	} {
		if f&x.from != 0 {
			n |= x.to
		}
	}
	return n
}

// slaveKind finds IFLA_INFO_SLAVE_KIND in the attributes nested in IFLA_LINKINFO.
func slaveKind(b []byte) string {
	for len(b) >= unix.SizeofNlAttr {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < unix.SizeofNlAttr || size > len(b) {
			return ""
		}
		if kind == unix.IFLA_INFO_SLAVE_KIND {
			return cString(b[unix.SizeofNlAttr:size])
		}
		b = b[min(len(b), (size+3)&^3):]
	}
	return ""
}

func cString(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return s
}

func parseAddr(m *syscall.NetlinkMessage) (index int, prefix netip.Prefix, ok bool) {
	if m.Header.Type != unix.RTM_NEWADDR || len(m.Data) < unix.SizeofIfAddrmsg {
		return 0, prefix, false
	}
	bits, flags := int(m.Data[1]), m.Data[2]
	index = int(binary.NativeEndian.Uint32(m.Data[4:]))
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil || flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED) != 0 {
		return 0, prefix, false
	}
	var addr netip.Addr
	for _, a := range attrs {
		// On a point-to-point link IFA_ADDRESS is the other end, and IFA_LOCAL ours.
		if a.Attr.Type == unix.IFA_LOCAL || a.Attr.Type == unix.IFA_ADDRESS && !addr.IsValid() {
			addr, _ = netip.AddrFromSlice(a.Value)
		}
	}
	if !addr.IsValid() || addr.IsUnspecified() {
		return 0, prefix, false
	}
	return index, netip.PrefixFrom(addr, bits), true
}
