package bus_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"satchel/p2p"
	"satchel/p2p/bus"
)

// memberGroup is the group daemon, which stands for the group satchel, which this machine need not have.
const memberGroup = 1

func TestIntrospect(t *testing.T) {
	d := runningDaemon(t)
	d.serving(&node{})
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"gdbus", "introspect", "--dest", bus.Name, "--object-path", string(bus.Path)},
			[]string{"interface org.satchel.Updates1 {", "Apply(in s product,", "readonly aa{sv} Products = [];", "ReleaseReady(s product,",
				"interface org.freedesktop.DBus.Peer {"}},
		{[]string{"gdbus", "introspect", "--dest", bus.Name, "--object-path", "/", "--recurse"},
			[]string{"node /org/satchel/Updates1 {", "Hold(in x until,"}},
		{[]string{"busctl", "introspect", bus.Name, string(bus.Path)},
			[]string{".Apply method s stts", ".RolledBack signal sss", `.State property s "idle" emits-change`, `.Version property s "" const`}},
		{[]string{"busctl", "tree", bus.Name}, []string{"/org/satchel/Updates1"}},
	} {
		got := strings.Join(strings.Fields(d.run(c.args...)), " ")
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("%v: no %q in\n%s", c.args, want, got)
			}
		}
	}
}

func TestProperties(t *testing.T) {
	d, n := runningDaemon(t), &node{}
	n.Set(func(st *p2p.Status) { st.Home, st.Node.Version, st.Node.ID = "/secret", "1.2", "12D3KooWsecret" })
	n.announce("lessons", 7)
	n.SetProduct("lessons", func(p *p2p.ProductStatus) {
		p.Error, p.Hint = "fetching from 10.0.0.7:4242: it \xff\x00 stalls", "wait"
		p.Live = &p2p.ReleaseStatus{Version: "v6"}
	})
	d.serving(n)
	get := func(name string) string {
		return d.run("busctl", "get-property", bus.Name, string(bus.Path), bus.Name, name)
	}
	for name, want := range map[string]string{
		"State": `s "fetching"`, "ProductCount": "u 1", "HoldUntil": "x 0", "HoldReason": `s ""`, "Version": `s "1.2"`,
		"Nothing": "no such property: Nothing", "Products": `aa{sv} 1 15 `,
	} {
		if got := get(name); !strings.Contains(got, want) {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	all := d.run("gdbus", "call", "--dest", bus.Name, "--object-path", string(bus.Path), "--method", "org.freedesktop.DBus.Properties.GetAll", bus.Name)
	for _, want := range []string{"'Product': <'lessons'>", "'NewestVersion': <'v7'>", "'LiveVersion': <'v6'>", "'ReadyVersion': <''>", "'Epoch': <uint64 1>",
		"'Seq': <uint64 7>", "'Urgent': <true>", "'BytesTotal': <uint64 5000>", "'BytesNeeded': <uint64 1000>", "'BytesFetched': <uint64 4000>",
		"'Error': <'fetching from (a peer): it \ufffd\ufffd stalls'>", "'Hint': <'wait'>"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in %s", want, all)
		}
	}
	if strings.Contains(all, "secret") {
		t.Errorf("it says too much: %s", all)
	}
	if got := d.run("busctl", "set-property", bus.Name, string(bus.Path), bus.Name, "State", "s", "ready"); !strings.Contains(got, "read-only") {
		t.Errorf("set: %s", got)
	}
	set := d.run("gdbus", "call", "--dest", bus.Name, "--object-path", string(bus.Path), "--method", "org.freedesktop.DBus.Properties.Set", bus.Name, "State", "<'ready'>")
	if !strings.Contains(set, "org.freedesktop.DBus.Error.PropertyReadOnly") {
		t.Errorf("set: %s", set)
	}
}

func TestMethods(t *testing.T) {
	d, n := runningDaemon(t), &node{}
	n.announce("lessons", 2)
	n.stage("lessons")
	n.SetProduct("lessons", func(p *p2p.ProductStatus) {
		p.Live = &p2p.ReleaseStatus{Version: "v1", Epoch: 1, Seq: 1, Deployment: "dv1"}
	})
	d.serving(n)
	gdbus := func(method string, args ...string) []string {
		return append([]string{"gdbus", "call", "--dest", bus.Name, "--object-path", string(bus.Path), "--method", bus.Name + "." + method}, args...)
	}
	lessons := func(key string) []string { return []string{"shows", key} }
	for _, c := range []struct {
		args []string
		want string
	}{
		{call("Check"), ""},
		{gdbus("Check"), "()"},
		{call("Apply", "s", "lessons"), `stts "v2" 1 2 "dv2"`},
		{lessons("LiveVersion"), "v2"}, // a method's caller reads what is true after it
		{call("Rollback", "s", "lessons"), `stts "v1" 1 1 "dv1"`},
		{lessons("LiveVersion"), "v1"},
		{gdbus("Rollback", "lessons"), "('v2', uint64 1, uint64 2, 'dv2')"},
		{gdbus("Apply", "lessons"), "org.satchel.Updates1.Error.NotReady: applying: nothing is ready (wait for it)"},
		{gdbus("Confirm", "lessons"), "org.satchel.Updates1.Error.NotReady: lessons is not on trial, says (a peer) (apply something)"},
		{call("Hold", "xs", "4000000000", "a lesson"), ""},
		{[]string{"busctl", "get-property", bus.Name, string(bus.Path), bus.Name, "HoldUntil", "HoldReason"}, "x 4000000000\ns \"a lesson\""},
		{gdbus("Hold", "0", ""), "()"},
		{[]string{"busctl", "get-property", bus.Name, string(bus.Path), bus.Name, "HoldUntil"}, "x 0"},

		{append([]string{"busctl", "--"}, call("Hold", "xs", "-1", "")[1:]...), "-1 is no time to hold until (give it"},
		{gdbus("Hold", "253402300800", ""), "Error.BadInput"},
		{call("Hold", "xs", "5", strings.Repeat("r", 513)), "the reason is longer than 512 bytes"},
		{gdbus("Apply", ""), "Error.BadInput"},
		{gdbus("Apply", "Not A Name"), "Error.BadInput"},
		{gdbus("Apply", strings.Repeat("a", 5000)), "Error.BadInput"},
		{gdbus("Apply", "../../etc"), "Error.BadInput"},
		{call("Apply"), "Invalid type / number of args"},
		{call("Apply", "ss", "lessons", "more"), "Invalid type / number of args"},
		{call("Apply", "t", "7"), "Invalid type / number of args"},
		{call("Apply", "as", "1", "lessons"), "Invalid type / number of args"},
		{call("Apply", "v", "s", "lessons"), "Invalid type / number of args"},
		{call("Check", "s", "x"), "Invalid type / number of args"},
		{call("Hold", "ss", "5", "x"), "Invalid type / number of args"},
		{call("Destroy"), "Unknown / invalid method"},
		{[]string{"busctl", "call", bus.Name, "/org/satchel", bus.Name, "Check"}, "Object does not implement the interface"},
		{[]string{"busctl", "call", bus.Name, "/", bus.Name, "Check"}, "Object does not implement the interface"},
		{[]string{"busctl", "call", bus.Name, string(bus.Path), "org.freedesktop.DBus.Properties", "GetAll", "s", "org.other"}, "no such interface: org.other"},
	} {
		got := ""
		if c.args[0] == "shows" {
			all := d.run("gdbus", "call", "--dest", bus.Name, "--object-path", string(bus.Path), "--method", "org.freedesktop.DBus.Properties.Get", bus.Name, "Products")
			_, rest, _ := strings.Cut(all, "'"+c.args[1]+"': <'")
			got, _, _ = strings.Cut(rest, "'")
		} else {
			got = d.run(c.args...)
		}
		if !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%v: got %s, want %s", c.args, got, c.want)
		}
	}
	if n.checks != 1 {
		t.Errorf("two Check in a row asked the neighbours %d times", n.checks)
	}
}

// monitor is a gdbus monitor that hears the service of n, for whoever is named.
func (d *daemon) monitor(n *node, who ...string) *lines {
	d.t.Helper()
	l := d.watch(append(who, "gdbus", "monitor", "--dest", bus.Name)...)
	l.until("is owned by") // it asks for the signals after it said this
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	deadline := time.After(late)
	for seq := uint64(1); ; seq++ {
		n.announce("listening", seq)
		select {
		case <-l.ch:
			return l
		case <-again.C:
		case <-deadline:
			d.t.Fatal("gdbus monitor hears nothing")
		}
	}
}

// signals are the names in what gdbus monitor prints, but for those that monitor provoked.
func signals(printed []string) (out []string) {
	for _, line := range printed {
		if _, rest, ok := strings.Cut(line, bus.Name+"."); ok && !strings.Contains(line, "PropertiesChanged") && !strings.Contains(line, "('listening'") {
			out = append(out, strings.Fields(rest)[0])
		}
	}
	return out
}

func TestSignals(t *testing.T) {
	d, n := runningDaemon(t), &node{}
	n.announce("before", 1) // no news
	d.serving(n)
	heard := d.monitor(n)
	wire := d.watch("busctl", "--json=short", "monitor", bus.Name)
	wire.until("Monitoring bus message stream")

	n.announce("lessons", 1)
	heard.until("PropertiesChanged ('org.satchel.Updates1', {")
	heard.until(`ReleaseFound ('lessons', 'v1', uint64 1, uint64 1, false)`)
	n.stage("lessons")
	heard.until(`'State': <'ready'>`)
	heard.until(`Staged ('lessons', 'v1', uint64 1, uint64 1, 'dv1')`)
	heard.until(`ReleaseReady ('lessons', 'v1', uint64 1, uint64 1, false)`)
	d.run(call("Apply", "s", "lessons")...)
	heard.until(`Activated ('lessons', 'v1', uint64 1, uint64 1)`)
	n.announce("lessons", 7)
	n.stage("lessons")
	heard.until(`ReleaseReady ('lessons', 'v7', uint64 1, uint64 7, true)`)
	d.run(call("Apply", "s", "lessons")...)
	d.run(call("Rollback", "s", "lessons")...)
	printed := heard.until(`RolledBack ('lessons', 'v7', 'v1')`)
	if got := signals(printed); !slices.Equal(got, []string{"Activated", "RolledBack"}) {
		t.Errorf("heard %v", printed)
	}
	n.announce("last", 1)
	if got := signals(heard.until("'last', 'v1'")); !slices.Equal(got, []string{"ReleaseFound"}) {
		t.Errorf("heard again: %v", got)
	}
	if got, want := onWire(wire.until(`"data":["last","v1"`)), "ReleaseFound Staged ReleaseReady Activated ReleaseFound Staged ReleaseReady Activated RolledBack ReleaseFound"; got != want {
		t.Errorf("busctl heard\n%s, want\n%s", got, want)
	}
}

// onWire are the names of the signals of our interface in what busctl monitor prints.
func onWire(printed []string) string {
	var out []string
	for _, line := range printed {
		var m struct{ Type, Interface, Member string }
		if json.Unmarshal([]byte(line), &m) == nil && m.Type == "signal" && m.Interface == bus.Name && !strings.Contains(line, `"data":["listening"`) {
			out = append(out, m.Member)
		}
	}
	return strings.Join(out, " ")
}

// The policy file lets everybody look and nobody but root, and the group, change something.
func TestPolicy(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: cannot become another user")
	}
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is missing")
	}
	d, n := newDaemon(t, strings.ReplaceAll(bus.Policy, `group="satchel"`, `group="daemon"`)), &node{}
	d.start()
	n.announce("lessons", 1)
	n.stage("lessons")
	d.serving(n)
	const denied = "Access denied"
	for _, c := range []struct {
		who  string
		args []string
		want string
	}{
		{"nobody", call("Apply", "s", "lessons"), denied},
		{"nobody", call("Confirm", "s", "lessons"), denied},
		{"nobody", call("Rollback", "s", "lessons"), denied},
		{"nobody", call("Hold", "xs", "0", ""), denied},
		{"nobody", call("Nothing"), denied},
		{"nobody", call("Check"), ""},
		{"nobody", []string{"busctl", "get-property", bus.Name, string(bus.Path), bus.Name, "State"}, `s "ready"`},
		{"nobody", []string{"busctl", "introspect", bus.Name, string(bus.Path)}, ".Apply"},
		{"nobody", []string{"busctl", "set-property", bus.Name, string(bus.Path), bus.Name, "State", "s", "x"}, "read-only"},
		{"nobody", []string{"busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su", bus.Name, "2"}, denied},
		{"member", []string{"busctl", "call", "org.freedesktop.DBus", "/", "org.freedesktop.DBus", "RequestName", "su", bus.Name, "2"}, denied},
		{"member", call("Apply", "s", "lessons"), `"v1"`},
		{"member", call("Hold", "xs", "0", ""), ""},
	} {
		got := d.run(append([]string{c.who}, c.args...)...)
		if !strings.Contains(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s %v: got %s, want %s", c.who, c.args, got, c.want)
		}
	}
	stranger := d.raw(65534)
	m := stranger.answer(stranger.send(bus.Name, string(bus.Path), "", "Apply", 0, "lessons"))
	if m.Headers[dbus.FieldErrorName].Value() != "org.freedesktop.DBus.Error.AccessDenied" {
		t.Errorf("without interface: %v", m)
	}
	heard := d.monitor(n, "nobody")
	n.announce("lessons", 2)
	heard.until("ReleaseFound ('lessons'")
}

// A bus that goes away and comes back finds the service again. What happened meanwhile is told once.
func TestDaemonRestarts(t *testing.T) {
	d, n := runningDaemon(t), &node{}
	l, _ := d.serve(n)
	l.until(onBus)
	n.announce("lessons", 1)
	first := d.monitor(n)
	n.stage("lessons")
	first.until("ReleaseReady")
	d.stop()
	l.until(offBus)

	n.announce("lessons", 2)
	d.setPolicy("<busconfig/>") // it may not be the service until somebody listens
	d.start()
	heard := d.watch("busctl", "--json=short", "monitor", bus.Name)
	heard.until("Monitoring bus message stream")
	d.admit()
	n.announce("last", 1) // told after what was pending
	if got := onWire(heard.until(`"data":["last","v1"`)); got != "ReleaseFound ReleaseFound" {
		t.Errorf("heard %v", got)
	}
	if said := l.until(onBus); len(said) != 1 {
		t.Errorf("it repeats itself: %q", said)
	}
	if got := d.run("busctl", "get-property", bus.Name, string(bus.Path), bus.Name, "ProductCount"); got != "u 3\n" {
		t.Errorf("got %s", got)
	}
}

// Without a bus the service can be ended.
func TestNoBus(t *testing.T) {
	d := newDaemon(t, bus.Policy)
	l, stop := d.serve(&node{})
	l.until(offBus)
	stop()
}

// A bus that comes late hears of what happened since the service began, not of what was before. That there was none is said once.
func TestLateBus(t *testing.T) {
	d, n := newDaemon(t, "<busconfig/>"), &node{pictures: make(chan struct{}, 100)}
	n.announce("before", 1)
	l, _ := d.serve(n)
	l.until(offBus)
	n.announce("since", 1)
	d.start()
	heard := d.watch("busctl", "--json=short", "monitor", bus.Name)
	heard.until("Monitoring bus message stream")
	for range 2 { // times it tries and may not be the service
		<-n.pictures
	}
	d.admit()
	if said := l.until(onBus); len(said) != 1 {
		t.Errorf("it repeats itself: %q", said)
	}
	n.announce("last", 1)
	printed := heard.until(`"data":["last","v1"`)
	if got := onWire(printed); got != "ReleaseFound ReleaseFound" {
		t.Errorf("heard %v", printed)
	}
}

// Two nodes: the second one is told that there is another.
func TestTwoServices(t *testing.T) {
	d := runningDaemon(t)
	stop := d.serving(&node{})
	l, _ := d.serve(&node{})
	l.until("another process is it")
	stop()
	l.until(onBus)
}

// A method that takes long keeps nobody else from anything, and at the end it is waited for.
func TestLongMethods(t *testing.T) {
	d, n := runningDaemon(t), &node{enter: make(chan struct{})}
	stop := d.serving(n)
	const most = 8
	callers := make([]*lines, most)
	for i := range most {
		callers[i] = d.watch(call("Confirm", "s", "lessons")...)
	}
	for range most {
		<-n.enter
	}
	if got := d.run(call("Apply", "s", "lessons")...); !strings.Contains(got, "too many calls at once") {
		t.Errorf("one more: %s", got)
	}
	if got := d.run(call("Check")...); got != "" {
		t.Errorf("check: %s", got)
	}
	if got := d.run("busctl", "get-property", bus.Name, string(bus.Path), bus.Name, "State"); got != "s \"idle\"\n" {
		t.Errorf("read: %s", got)
	}
	if stop(); n.left != most {
		t.Errorf("it ended with %d of %d calls in work", most-n.left, most)
	}
	for _, c := range callers {
		c.until("Call failed")
	}
}

// raw is a client of the bus by hand, which sends what no library would.
type raw struct {
	t      *testing.T
	conn   net.Conn
	r      *bufio.Reader
	serial uint32
}

// raw connects as a user; another one than the test's takes root.
func (d *daemon) raw(uid int) *raw {
	d.t.Helper()
	var conn net.Conn
	var err error
	var dialed sync.WaitGroup
	dialed.Go(func() {
		if uid != os.Getuid() {
			runtime.LockOSThread() // for ever: the thread ends with this goroutine
			if _, _, e := syscall.RawSyscall(syscall.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
				err = e
				return
			}
		}
		conn, err = net.Dial("unix", filepath.Join(d.dir, "bus"))
	})
	if dialed.Wait(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close() })
	c := &raw{t: d.t, conn: conn, r: bufio.NewReader(conn)}
	io.WriteString(conn, "\x00AUTH EXTERNAL "+hex.EncodeToString([]byte(strconv.Itoa(uid)))+"\r\n")
	if line, err := c.r.ReadString('\n'); !strings.HasPrefix(line, "OK ") {
		d.t.Fatalf("the bus greets with %q, %v", line, err)
	}
	io.WriteString(conn, "BEGIN\r\n")
	c.send("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello", 0)
	return c
}

// send sends a call and returns its serial.
func (c *raw) send(dest, path, iface, member string, flags dbus.Flags, body ...any) uint32 {
	c.t.Helper()
	m := &dbus.Message{Type: dbus.TypeMethodCall, Flags: flags, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldDestination: dbus.MakeVariant(dest), dbus.FieldPath: dbus.MakeVariant(dbus.ObjectPath(path)),
		dbus.FieldMember: dbus.MakeVariant(member)}}
	if iface != "" {
		m.Headers[dbus.FieldInterface] = dbus.MakeVariant(iface)
	}
	if len(body) > 0 {
		m.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	var b bytes.Buffer
	if err := m.EncodeTo(&b, binary.LittleEndian); err != nil {
		c.t.Fatal(err)
	}
	c.serial++
	binary.LittleEndian.PutUint32(b.Bytes()[8:], c.serial)
	if _, err := c.conn.Write(b.Bytes()); err != nil {
		c.t.Fatal(err)
	}
	return c.serial
}

// answer reads until the answer to a call; dropped says which calls must not have been answered.
func (c *raw) answer(serial uint32, dropped ...uint32) *dbus.Message {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(late))
	for {
		m, err := dbus.DecodeMessage(c.r)
		if err != nil {
			c.t.Fatal(err)
		}
		to, _ := m.Headers[dbus.FieldReplySerial].Value().(uint32)
		if to == serial {
			return m
		}
		if slices.Contains(dropped, to) {
			c.t.Fatalf("call %d is answered: %v", to, m)
		}
	}
}

// Whatever a client sends, the service answers the others, and it is small.
func TestHostileClients(t *testing.T) {
	d, n := runningDaemon(t), &node{}
	n.announce("lessons", 1)
	d.serving(n)
	c := d.raw(os.Getuid())
	ours := func(iface, member string, flags dbus.Flags, body ...any) uint32 {
		return c.send(bus.Name, string(bus.Path), iface, member, flags, body...)
	}

	if m := c.answer(ours("", "Apply", 0, "Bad Name")); m.Type != dbus.TypeError {
		t.Errorf("without interface: %v", m)
	}
	long := ours(bus.Name, "Apply", 0, strings.Repeat("a", 1<<20))
	longer := ours(bus.Name, "Check", 0, strings.Repeat("b", 20<<20))
	if m := c.answer(ours("org.freedesktop.DBus.Peer", "Ping", 0), long, longer); m.Type != dbus.TypeMethodReply {
		t.Errorf("after long messages: %v", m)
	}
	nested := dbus.MakeVariant("deep")
	for range 60 {
		nested = dbus.MakeVariant(nested)
	}
	for _, body := range [][]any{{nested}, {[]dbus.Variant{nested, nested}}, {map[string]dbus.Variant{"": nested}}, {make([][]string, 3000)},
		{uint64(1), "two", []any{uint8(3), 4.5}}, {dbus.ObjectPath("/"), dbus.Signature{}}} {
		if m := c.answer(ours(bus.Name, "Apply", 0, body...)); m.Headers[dbus.FieldErrorName].Value() != "org.freedesktop.DBus.Error.InvalidArgs" {
			t.Errorf("%.100v: %v", body, m)
		}
	}

	before := runtime.NumGoroutine()
	most := before
	const flood = 5000
	for i := range flood {
		ours("org.freedesktop.DBus.Properties", []string{"GetAll", "Introspect"}[i%2], dbus.FlagNoReplyExpected, bus.Name)
		if i%100 == 0 {
			most = max(most, runtime.NumGoroutine())
		}
	}
	if m := c.answer(ours("org.freedesktop.DBus.Peer", "Ping", 0)); m.Type != dbus.TypeMethodReply {
		t.Errorf("after a flood: %v", m)
	}
	if most > before+200 { // 64 in work, and some that are just done
		t.Errorf("%d goroutines in a flood, %d before", most, before)
	}
	if got := d.run("busctl", "get-property", bus.Name, string(bus.Path), bus.Name, "ProductCount"); got != "u 1\n" {
		t.Errorf("somebody else reads %s", got)
	}
	d.stop()
	if said := d.said.String(); strings.Contains(said, `type="method_return"`) || strings.Contains(said, `type="error"`) {
		t.Errorf("answers that nobody wanted are in the log of the bus: %.1000s", said)
	}
}
