package beacon_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"satchel/p2p/beacon"
)

// These tests run real nodes in network namespaces: this test binary, started again with
// nodeEnv set, is one node, and prints what it sees as lines of JSON.

const (
	nodeEnv   = "SATCHEL_TEST_BEACON_NODE"
	hogPrefix = "hog:"           // not a node, but a program that keeps the port of a device for itself
	patience  = 30 * time.Second // for anything that must happen at all
)

func TestMain(m *testing.M) {
	flag.Parse()
	if name := os.Getenv(nodeEnv); name != "" {
		run := nodeMain
		if device, ok := strings.CutPrefix(name, hogPrefix); ok {
			name, run = device, hogMain
		}
		if err := run(name); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// line is what a node prints.
type line struct {
	Event   string        // ready, seen, changed, addrs, reached, goroutines, stopped
	Node    string        `json:",omitempty"`
	From    string        `json:",omitempty"`
	Ifname  string        `json:",omitempty"`
	Addrs   []beacon.Addr `json:",omitempty"`
	Reached string        `json:",omitempty"`
	Stats   beacon.Stats
	Leaked  int `json:",omitempty"`
	at      time.Time
}

// nodeMain runs a node until standard input ends.
func nodeMain(name string) error {
	before := runtime.NumGoroutine()
	lines := make(chan line, 1000)
	printed := make(chan struct{})
	go func() {
		defer close(printed)
		out := json.NewEncoder(os.Stdout)
		for l := range lines {
			if l.Event == "seen" { // over the network by the address given, as a dialer would
				l.Reached = reach(l.From)
			}
			out.Encode(l)
		}
	}()
	var s *beacon.Service
	s = beacon.New(beacon.Config{
		Beacon: func() beacon.Beacon { return beacon.Beacon{Node: []byte(name), TCP: 4001} },
		Seen: func(b beacon.Beacon, from netip.AddrPort, ifname string) {
			lines <- line{Event: "seen", Node: string(b.Node), From: from.String(), Ifname: ifname}
		},
		Changed: func() { lines <- line{Event: "changed", Addrs: s.Addrs()} },
		Log:     slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", name),
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	err := s.Run(ctx)
	cancel()
	// Two goroutines are our own: the printer and the reader of standard input. Others may need a moment to be gone.
	leaked := runtime.NumGoroutine() - before - 2
	for deadline := time.Now().Add(patience / 2); leaked > 0 && time.Now().Before(deadline); runtime.Gosched() {
		leaked = runtime.NumGoroutine() - before - 2
	}
	lines <- line{Event: "stopped", Stats: s.Stats(), Leaked: leaked}
	close(lines)
	<-printed
	return err
}

// hogMain holds the beacon port on one device until standard input ends.
func hogMain(device string) error {
	var config net.ListenConfig
	config.Control = func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE, device) })
	}
	conn, err := config.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", beacon.Port))
	if err != nil {
		return err
	}
	defer conn.Close()
	json.NewEncoder(os.Stdout).Encode(line{Event: "ready"})
	io.Copy(io.Discard, os.Stdin)
	return json.NewEncoder(os.Stdout).Encode(line{Event: "stopped"})
}

// reach connects a UDP socket, which sends nothing but needs a route and a right zone.
func reach(to string) string {
	conn, err := net.Dial("udp", to)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	return "ok"
}

type node struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	stdin io.Closer
	lines chan line
	seen  []line
}

// startNode runs a node in a namespace.
func startNode(t *testing.T, ns, name string) *node {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, name: name, lines: make(chan line, 1000)}
	n.cmd = exec.Command("ip", "netns", "exec", ns, exe)
	n.cmd.Env = append(os.Environ(), nodeEnv+"="+name)
	n.cmd.Stderr = testWriter{t}
	stdin, err := n.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	n.stdin = stdin
	stdout, err := n.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go n.scan(stdout)
	t.Cleanup(func() { n.stop() })
	return n
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (n *node) scan(r io.Reader) {
	defer close(n.lines)
	in := bufio.NewScanner(r)
	for in.Scan() {
		var l line
		if json.Unmarshal(in.Bytes(), &l) == nil {
			l.at = time.Now()
			n.lines <- l
		}
	}
}

// until reads lines up to the first that is wanted.
func (n *node) until(what string, want func(line) bool) line {
	n.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for {
		select {
		case l, ok := <-n.lines:
			if !ok {
				n.t.Fatalf("%s ended while waiting for %s", n.name, what)
			}
			n.seen = append(n.seen, l)
			if want(l) {
				return l
			}
		case <-deadline.C:
			n.t.Fatalf("%s: no %s within %v; so far: %+v", n.name, what, patience, n.seen)
		}
	}
}

// sees waits for a beacon of other from an address in network (zone ignored) that can be dialed.
func (n *node) sees(other *node, network string) line {
	n.t.Helper()
	prefix := netip.MustParsePrefix(network)
	return n.until(fmt.Sprintf("%s from %s", other.name, network), func(l line) bool {
		if l.Event != "seen" || l.Node != other.name {
			return false
		}
		from := netip.MustParseAddrPort(l.From)
		if from.Addr().IsLinkLocalUnicast() && from.Addr().Is6() && from.Addr().Zone() != l.Ifname {
			n.t.Errorf("%s: link-local source %s heard on %s", n.name, l.From, l.Ifname)
		}
		return prefix.Contains(from.Addr().WithZone("")) && l.Reached == "ok"
	})
}

// hasAddr waits until the node uses an address of network; an empty network: until it uses none.
func (n *node) hasAddr(network string) line {
	n.t.Helper()
	return n.until("address in "+network, func(l line) bool {
		if l.Event != "changed" {
			return false
		}
		for _, a := range l.Addrs {
			if network != "" && netip.MustParsePrefix(network).Contains(a.Prefix.Addr()) {
				return true
			}
		}
		return network == "" && len(l.Addrs) == 0
	})
}

// stop ends the node, and complains when it does not end cleanly. Safe to call again.
func (n *node) stop() beacon.Stats {
	if n.cmd == nil {
		return beacon.Stats{}
	}
	n.stdin.Close()
	kill := time.AfterFunc(patience, func() { n.cmd.Process.Kill() })
	defer kill.Stop()
	last := line{}
	for l := range n.lines {
		last = l
	}
	if err := n.cmd.Wait(); err != nil {
		n.t.Errorf("%s: %v", n.name, err)
	}
	n.cmd = nil
	if last.Event != "stopped" || last.Leaked > 0 {
		n.t.Errorf("%s: unclean end: %+v", n.name, last)
	}
	n.t.Logf("%s: %+v", n.name, last.Stats)
	return last.Stats
}

// lab is a few namespaces, named for this process and test; they vanish with the test.
type lab struct {
	t      *testing.T
	prefix string
}

func newLab(t *testing.T, names ...string) *lab {
	t.Helper()
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("SKIPPED: ip (Debian: iproute2) is not installed")
	}
	l := &lab{t: t, prefix: fmt.Sprintf("sb%d-%x-", os.Getpid(), time.Now().UnixNano()&0xffffff)}
	for i, name := range names {
		if out, err := exec.Command("ip", "netns", "add", l.ns(name)).CombinedOutput(); err != nil {
			if i == 0 {
				t.Skipf("SKIPPED: cannot make network namespaces here: %s", out)
			}
			t.Fatalf("making namespace: %s", out)
		}
		t.Cleanup(func() { exec.Command("ip", "netns", "del", l.ns(name)).Run() })
	}
	return l
}

func (l *lab) ns(name string) string { return l.prefix + name }

// ip runs the ip command in a namespace. @name in it stands for the namespace of that name.
func (l *lab) ip(ns, command string) {
	l.t.Helper()
	args := []string{"-n", l.ns(ns)}
	for _, word := range strings.Fields(command) {
		if name, ok := strings.CutPrefix(word, "@"); ok {
			word = l.ns(name)
		}
		args = append(args, word)
	}
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s in %s: %v: %s", command, ns, err, out)
	}
}

// sysctl writes a file below /proc/sys/net in a namespace.
func (l *lab) sysctl(ns, file, value string) {
	l.t.Helper()
	shell := fmt.Sprintf("echo %s > /proc/sys/net/%s", value, file)
	if out, err := exec.Command("ip", "netns", "exec", l.ns(ns), "sh", "-c", shell).CombinedOutput(); err != nil {
		l.t.Fatalf("setting %s: %v: %s", file, err, out)
	}
}

// cable joins eth0 of a and of b, still down.
func (l *lab) cable(a, b string) {
	l.t.Helper()
	l.ip(a, "link add eth0 type veth peer name eth0 netns @"+b)
}

// quick lets IPv6 addresses be used at once; duplicate address detection takes up to 2 s.
func (l *lab) quick(names ...string) {
	l.t.Helper()
	for _, n := range names {
		l.sysctl(n, "ipv6/conf/default/accept_dad", "0")
	}
}

func (l *lab) only4(names ...string) {
	l.t.Helper()
	for _, n := range names {
		l.sysctl(n, "ipv6/conf/all/disable_ipv6", "1")
		l.sysctl(n, "ipv6/conf/default/disable_ipv6", "1")
	}
}

const anyLinkLocal6 = "fe80::/10"

func TestIPv4Only(t *testing.T) {
	l := newLab(t, "a", "b")
	l.only4("a", "b")
	l.cable("a", "b")
	l.ip("a", "addr add 10.9.0.1/24 dev eth0")
	l.ip("b", "addr add 10.9.0.2/24 dev eth0")
	l.ip("a", "link set eth0 up")
	l.ip("b", "link set eth0 up")
	a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
	a.sees(b, "10.9.0.2/32")
	b.sees(a, "10.9.0.1/32")
}

func TestIPv6LinkLocalOnly(t *testing.T) {
	l := newLab(t, "a", "b")
	l.cable("a", "b")
	l.ip("a", "link set eth0 up")
	l.ip("b", "link set eth0 up")
	a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
	a.sees(b, anyLinkLocal6)
	b.sees(a, anyLinkLocal6)
}

func TestOneSideWithoutIPv4(t *testing.T) {
	l := newLab(t, "a", "b")
	l.quick("a", "b")
	l.cable("a", "b")
	l.ip("a", "addr add 10.9.0.1/24 dev eth0")
	l.ip("a", "link set eth0 up")
	l.ip("b", "link set eth0 up")
	a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
	a.sees(b, anyLinkLocal6)
	b.sees(a, anyLinkLocal6)
}

// Two networks that cannot reach each other over IPv4 meet over IPv6.
func TestDifferentIPv4Networks(t *testing.T) {
	l := newLab(t, "a", "b")
	l.quick("a", "b")
	l.cable("a", "b")
	l.ip("a", "addr add 10.9.0.1/24 dev eth0")
	l.ip("b", "addr add 169.254.7.7/16 dev eth0")
	for _, n := range []string{"a", "b"} {
		l.sysctl(n, "ipv4/conf/all/rp_filter", "1")
		l.ip(n, "link set eth0 up")
	}
	a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
	a.sees(b, anyLinkLocal6)
	b.sees(a, anyLinkLocal6)
}

func TestLoopbackOnly(t *testing.T) {
	l := newLab(t, "a")
	first, second, third := startNode(t, l.ns("a"), "first"), startNode(t, l.ns("a"), "second"), startNode(t, l.ns("a"), "third")
	l.ip("a", "link set lo up")
	first.sees(second, "127.0.0.1/32")
	second.sees(third, "127.0.0.1/32")
	third.sees(first, "127.0.0.1/32")
}

func TestLoopbackWithoutIPv6(t *testing.T) {
	l := newLab(t, "a")
	l.only4("a")
	l.ip("a", "link set lo up")
	first, second := startNode(t, l.ns("a"), "first"), startNode(t, l.ns("a"), "second")
	first.sees(second, "127.0.0.1/32")
	second.sees(first, "127.0.0.1/32")
}

func TestTwoNodesOnOneMachine(t *testing.T) {
	for _, test := range []struct{ name, addr, network string }{
		{"IPv4", "10.9.0.1/24", "10.9.0.1/32"},
		{"IPv6", "", anyLinkLocal6},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLab(t, "a", "b")
			l.quick("a", "b")
			l.cable("a", "b")
			l.ip("a", "link set lo up")
			if test.addr != "" {
				l.ip("a", "addr add "+test.addr+" dev eth0")
			}
			l.ip("a", "link set eth0 up")
			l.ip("b", "link set eth0 up")
			first, second := startNode(t, l.ns("a"), "first"), startNode(t, l.ns("a"), "second")
			other := startNode(t, l.ns("b"), "other")
			first.sees(second, test.network)
			second.sees(first, test.network)
			other.until("both", both("first", "second"))
		})
	}
}

// both is true once two nodes have been seen.
func both(x, y string) func(line) bool {
	seen := make(map[string]bool)
	return func(l line) bool {
		seen[l.Node] = seen[l.Node] || l.Event == "seen"
		return seen[x] && seen[y]
	}
}

func TestStartedBeforeAnyInterface(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			l := newLab(t, "a", "b")
			a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
			l.ip("a", "link set lo up") // tells us that a runs
			a.hasAddr("127.0.0.0/8")
			l.cable("a", "b")
			if !v6 {
				l.ip("a", "addr add 10.9.0.1/24 dev eth0")
				l.ip("b", "addr add 10.9.0.2/24 dev eth0")
			}
			l.ip("a", "link set eth0 up")
			l.ip("b", "link set eth0 up")
			network := map[bool]string{false: "10.9.0.0/24", true: anyLinkLocal6}[v6]
			a.sees(b, network)
			b.sees(a, network)
		})
	}
}

func TestInterfaceRecreated(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("v6=%v", v6), func(t *testing.T) {
			l := newLab(t, "a", "b")
			l.quick("a", "b")
			plug := func(addrA, addrB string) {
				l.cable("a", "b")
				if !v6 {
					l.ip("a", "addr add "+addrA+" dev eth0")
					l.ip("b", "addr add "+addrB+" dev eth0")
				}
				l.ip("a", "link set eth0 up")
				l.ip("b", "link set eth0 up")
			}
			plug("10.9.0.1/24", "10.9.0.2/24")
			a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
			network := func(v4 string) string { return map[bool]string{false: v4, true: anyLinkLocal6}[v6] }
			a.sees(b, network("10.9.0.2/32"))
			b.sees(a, network("10.9.0.1/32"))
			l.ip("a", "link del eth0")
			a.hasAddr("")
			b.hasAddr("")
			plug("10.77.0.1/24", "10.77.0.2/24")
			a.sees(b, network("10.77.0.2/32"))
			b.sees(a, network("10.77.0.1/32"))
		})
	}
}

func TestLinkDownAndUp(t *testing.T) {
	l := newLab(t, "a", "b")
	l.quick("a", "b")
	l.cable("a", "b")
	l.ip("a", "addr add 10.9.0.1/24 dev eth0")
	l.ip("b", "addr add 10.9.0.2/24 dev eth0")
	l.ip("a", "link set eth0 up")
	l.ip("b", "link set eth0 up")
	a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
	a.sees(b, "10.9.0.2/32")
	b.sees(a, "10.9.0.1/32")
	for range 3 {
		l.ip("a", "link set eth0 down")
		a.hasAddr("")
		b.hasAddr("")
		l.ip("a", "link set eth0 up")
		a.sees(b, "10.9.0.2/32")
		b.sees(a, "10.9.0.1/32")
	}
}

func TestAddressChanged(t *testing.T) {
	l := newLab(t, "a", "b")
	l.only4("a", "b")
	l.cable("a", "b")
	l.ip("a", "addr add 10.9.0.1/24 dev eth0")
	l.ip("b", "addr add 10.9.0.2/24 dev eth0")
	l.ip("a", "link set eth0 up")
	l.ip("b", "link set eth0 up")
	a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
	a.sees(b, "10.9.0.2/32")
	b.sees(a, "10.9.0.1/32")
	l.ip("a", "addr add 10.9.0.55/24 dev eth0")
	l.ip("a", "addr del 10.9.0.1/24 dev eth0")
	l.ip("a", "addr replace 10.9.0.55/24 dev eth0")
	b.sees(a, "10.9.0.55/32")
}

func TestIPv4Removed(t *testing.T) {
	l := newLab(t, "a", "b")
	l.quick("a", "b")
	l.cable("a", "b")
	l.ip("a", "addr add 10.9.0.1/24 dev eth0")
	l.ip("b", "addr add 10.9.0.2/24 dev eth0")
	l.ip("a", "link set eth0 up")
	l.ip("b", "link set eth0 up")
	a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
	a.sees(b, "10.9.0.2/32")
	b.sees(a, "10.9.0.1/32")
	l.ip("a", "addr flush dev eth0 scope global")
	b.sees(a, anyLinkLocal6)
}

// An interface on which no socket can be opened does not hinder another, and is used once it can be.
func TestOneBrokenInterface(t *testing.T) {
	l := newLab(t, "a", "b", "c")
	l.only4("a", "b", "c")
	l.cable("a", "b")
	l.ip("a", "link add bad0 type veth peer name eth0 netns @c")
	l.ip("a", "addr add 10.8.0.1/24 dev bad0")
	l.ip("c", "addr add 10.8.0.2/24 dev eth0")
	l.ip("a", "addr add 10.9.0.1/24 dev eth0")
	l.ip("b", "addr add 10.9.0.2/24 dev eth0")
	for _, end := range [][2]string{{"a", "bad0"}, {"a", "eth0"}, {"b", "eth0"}, {"c", "eth0"}} {
		l.ip(end[0], "link set "+end[1]+" up")
	}
	hog := startNode(t, l.ns("a"), hogPrefix+"bad0")
	hog.until("ready", func(l line) bool { return l.Event == "ready" })
	a, b := startNode(t, l.ns("a"), "a"), startNode(t, l.ns("b"), "b")
	a.sees(b, "10.9.0.2/32")
	b.sees(a, "10.9.0.1/32")
	hog.stop()
	c := startNode(t, l.ns("c"), "c")
	c.sees(a, "10.8.0.1/32")
	a.sees(c, "10.8.0.2/32")
	if stats := a.stop(); stats.OpenErrors == 0 {
		t.Error("the broken interface was not broken")
	}
}

// Nodes on one bridge find each other quickly.
func TestSeveralNodesQuickly(t *testing.T) {
	const n = 8
	names := []string{"switch"}
	for i := range n {
		names = append(names, fmt.Sprintf("n%d", i))
	}
	l := newLab(t, names...)
	l.only4(names...)
	l.ip("switch", "link add br0 type bridge")
	l.ip("switch", "link set br0 up")
	for i, name := range names[1:] {
		l.ip(name, fmt.Sprintf("link add eth0 type veth peer name p%d netns @switch", i))
		l.ip("switch", fmt.Sprintf("link set p%d master br0 up", i))
		l.ip(name, fmt.Sprintf("addr add 10.9.0.%d/24 dev eth0", i+1))
		l.ip(name, "link set eth0 up")
	}
	var nodes []*node
	for _, name := range names[1:] {
		nodes = append(nodes, startNode(t, l.ns(name), name))
	}
	for _, x := range nodes {
		seen := make(map[string]time.Time)
		var up time.Time
		x.until("all others", func(l line) bool {
			if l.Event == "changed" && up.IsZero() {
				up = l.at
			}
			if _, ok := seen[l.Node]; l.Event == "seen" && !ok {
				seen[l.Node] = l.at
			}
			return len(seen) == n-1
		})
		var first, last time.Duration
		for _, at := range seen {
			first, last = min(first, at.Sub(up)), max(last, at.Sub(up))
		}
		t.Logf("%s: first neighbour after %v, all after %v", x.name, first, last)
	}
}
