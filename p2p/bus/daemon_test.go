package bus_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"satchel/p2p"
	"satchel/p2p/bus"
	"satchel/p2p/control/controltest"
)

// late is when what should have happened is believed not to.
const late = time.Minute

// daemon is a system bus of our own.
type daemon struct {
	t       *testing.T
	dir     string
	address string
	cmd     *exec.Cmd
	said    bytes.Buffer // by the daemon, until it stopped
}

// The system bus's own policy, as in its system.conf.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=%s/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
  </policy>
  <policy user="%d">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
  <includedir>%[1]s/system.d</includedir>
</busconfig>
`

// newDaemon prepares a bus that has the policy; it does not run yet.
func newDaemon(t *testing.T, policy string) *daemon {
	t.Helper()
	for _, tool := range []string{"dbus-daemon", "gdbus", "busctl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing: see .ci/tools", tool)
		}
	}
	dir, err := os.MkdirTemp("", "bus")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // other users are to reach the bus
		t.Fatal(err)
	}
	d := &daemon{t: t, dir: dir, address: "unix:path=" + dir + "/bus"}
	if err := os.Mkdir(filepath.Join(dir, "system.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bus.conf"), fmt.Appendf(nil, busConfig, dir, os.Getuid()), 0o644); err != nil {
		t.Fatal(err)
	}
	d.setPolicy(policy)
	t.Cleanup(d.stop)
	return d
}

// setPolicy lays the policy file down; without root its root is who runs the test.
func (d *daemon) setPolicy(policy string) {
	d.t.Helper()
	policy = strings.ReplaceAll(policy, `user="root"`, fmt.Sprintf(`user="%d"`, os.Getuid()))
	if err := os.WriteFile(filepath.Join(d.dir, "system.d", "org.satchel.Updates1.conf"), []byte(policy), 0o644); err != nil {
		d.t.Fatal(err)
	}
}

// start returns when the bus can be connected to.
func (d *daemon) start() {
	d.t.Helper()
	os.Remove(filepath.Join(d.dir, "bus"))
	d.cmd = exec.Command("dbus-daemon", "--config-file", filepath.Join(d.dir, "bus.conf"), "--nofork", "--nopidfile", "--nosyslog", "--print-address")
	d.cmd.Stderr = &d.said
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		d.t.Fatalf("dbus-daemon: %v\n%s", err, &d.said)
	}
}

func (d *daemon) stop() {
	if d.cmd != nil {
		d.cmd.Process.Signal(syscall.SIGTERM)
		d.cmd.Wait()
		d.cmd = nil
	}
}

func runningDaemon(t *testing.T) *daemon {
	t.Helper()
	d := newDaemon(t, bus.Policy)
	d.start()
	return d
}

// tool is a client's command on the bus: busctl or gdbus with their arguments.
func (d *daemon) tool(ctx context.Context, args ...string) *exec.Cmd {
	switch args[0] {
	case "busctl":
		args = append([]string{"busctl", "--address=" + d.address}, args[1:]...)
	case "gdbus":
		args = append([]string{"gdbus", args[1], "--address", d.address}, args[2:]...)
	case "nobody":
		cmd := d.tool(ctx, args[1:]...)
		args = append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, cmd.Args...)
	case "member": // of the group that may change something in TestPolicy
		cmd := d.tool(ctx, args[1:]...)
		args = append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--groups=" + strconv.Itoa(memberGroup)}, cmd.Args...)
	}
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

// run runs a client and returns what it printed, with the error if there was one.
func (d *daemon) run(args ...string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), late)
	defer cancel()
	out, err := d.tool(ctx, args...).CombinedOutput()
	if ctx.Err() != nil {
		d.t.Fatalf("%v does not end: %s", args, out)
	}
	if err != nil {
		return fmt.Sprintf("%s(%v)", out, err)
	}
	return string(out)
}

// admit makes the running bus let the service be.
func (d *daemon) admit() {
	d.t.Helper()
	d.setPolicy(bus.Policy)
	d.run("busctl", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "ReloadConfig")
}

// call is busctl call on our interface; the words after the method are its signature and arguments.
func call(method string, args ...string) []string {
	return append([]string{"busctl", "call", bus.Name, string(bus.Path), bus.Name, method}, args...)
}

// lines are what a program prints.
type lines struct {
	t  *testing.T
	ch chan string
}

// watch starts a client that prints what it hears, and ends it with the test.
func (d *daemon) watch(args ...string) *lines {
	d.t.Helper()
	cmd := d.tool(d.t.Context(), args...)
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	l := &lines{d.t, make(chan string, 1000)}
	var ended sync.WaitGroup
	ended.Go(func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			l.ch <- s.Text()
		}
	})
	d.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		in.Close()
		ended.Wait()
	})
	return l
}

// until returns the lines up to the one that has the text.
func (l *lines) until(text string) (before []string) {
	l.t.Helper()
	deadline := time.After(late)
	for {
		select {
		case line := <-l.ch:
			before = append(before, line)
			if strings.Contains(line, text) {
				return before
			}
		case <-deadline:
			l.t.Fatalf("%q was not printed, but %q", text, before)
		}
	}
}

// node is a node in memory with what the bus wants beyond package control.
type node struct {
	controltest.Node
	pictures chan struct{} // if not nil, Status tells it
	enter    chan struct{} // if not nil, Confirm tells it and waits for ctx

	mu     sync.Mutex
	checks int
	left   int // how often Confirm has waited
}

func (n *node) Status() p2p.Status {
	if n.pictures != nil {
		n.pictures <- struct{}{}
	}
	return n.Node.Status()
}

func (n *node) Check(context.Context) error {
	n.mu.Lock()
	n.checks++
	n.mu.Unlock()
	n.SetProduct("checked", func(p *p2p.ProductStatus) {})
	return nil
}

func (n *node) Confirm(ctx context.Context, product string) (p2p.ReleaseStatus, error) {
	if n.enter != nil {
		n.enter <- struct{}{}
		<-ctx.Done()
		n.mu.Lock()
		n.left++
		n.mu.Unlock()
		return p2p.ReleaseStatus{}, ctx.Err()
	}
	return p2p.ReleaseStatus{}, &p2p.Error{Code: p2p.CodeNotReady, Hint: "apply something", Err: fmt.Errorf("%s is not on trial, says 10.0.0.7", product)}
}

// announce makes a release of a product known, and stage makes it ready.
func (n *node) announce(product string, seq uint64) {
	n.SetProduct(product, func(p *p2p.ProductStatus) {
		p.Followed, p.State = true, p2p.StateFetching
		p.Newest = &p2p.ReleaseStatus{Version: "v" + strconv.FormatUint(seq, 10), Epoch: 1, Seq: seq, TotalSize: 5000, Urgent: seq == 7}
		p.Fetch = &p2p.FetchStatus{BytesTotal: 5000, BytesNeeded: 1000, BytesFetched: 4000}
	})
}

func (n *node) stage(product string) {
	n.SetProduct(product, func(p *p2p.ProductStatus) {
		r := *p.Newest
		r.Deployment = "d" + r.Version
		p.Ready, p.State = &r, p2p.StateReady
	})
}

// onBus and offBus are in what the service logs.
const (
	onBus  = `msg="on the system bus"`
	offBus = `msg="not on the system bus; the node runs on"`
)

// log is what the service logs.
type log struct{ lines }

func (l *log) Write(p []byte) (int, error) {
	l.ch <- string(p)
	return len(p), nil
}

// serve serves a node on the bus; stop waits for the end.
func (d *daemon) serve(n bus.Node) (*log, func()) {
	d.t.Helper()
	l := &log{lines{d.t, make(chan string, 1000)}}
	ctx, cancel := context.WithCancel(d.t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		bus.Serve(ctx, n, bus.Config{Address: d.address, Log: slog.New(slog.NewTextHandler(l, nil))})
	}()
	stop := func() {
		cancel()
		<-ended
	}
	d.t.Cleanup(stop)
	return l, stop
}

// serving is serve, and returns when the service has its name.
func (d *daemon) serving(n bus.Node) (stop func()) {
	d.t.Helper()
	l, stop := d.serve(n)
	l.until(onBus)
	return stop
}
