package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// These tests run the binary in network namespaces of their own, on a switched link without a router, a default
// route or the Internet. They need root and iproute2; without them they are skipped, and fail where
// SATCHEL_NO_SKIP is set.

const patience = 3 * time.Minute // bounds every wait; nothing asserts how long anything takes

// school is some laptops on one switch.
type school struct {
	t       *testing.T
	name    string
	bin     string
	root    string // trust root file
	key     string
	laptops []*machine
}

// machine is one namespace with one home.
type machine struct {
	s     *school
	ns    string
	home  string
	below string // directory that it sees at /mnt, or empty
	up    *exec.Cmd
	log   *bytes.Buffer
	done  chan struct{}
}

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "satchel-test-")
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "satchel")
	out, err := exec.Command("go", "build", "-o", bin, "satchel/cmd/satchel").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building: %v\n%s", err, out)
	}
	return bin, nil
})

func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("SATCHEL_NO_SKIP") != "" {
		t.Fatalf("must not be skipped here: %s", why)
	}
	t.Skip(why)
}

// newSchool makes n laptops that trust one root; rule is what "root new" is told of the products.
func newSchool(t *testing.T, n int, family string, rule ...string) *school {
	t.Helper()
	if testing.Short() {
		t.Skip("short")
	}
	if os.Getuid() != 0 {
		skip(t, "network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		skip(t, "network namespaces need ip, from the package iproute2")
	}
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &school{t: t, name: fmt.Sprintf("st%d-%d", os.Getpid(), rand.IntN(10000)), bin: bin}
	dir := t.TempDir()
	s.root, s.key = filepath.Join(dir, "root"), filepath.Join(dir, "key")
	s.must(exec.Command(bin, "keygen", s.key))
	s.must(exec.Command(bin, append([]string{"root", "new", "--out", s.root, "--key", s.key}, rule...)...))
	sw := s.name + "-sw"
	t.Cleanup(func() { exec.Command("ip", "netns", "del", sw).Run() })
	s.ip("netns", "add", sw)
	s.ip("-n", sw, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
	s.ip("-n", sw, "link", "set", "br0", "up")
	for i := range n {
		m := &machine{s: s, ns: fmt.Sprintf("%s-%d", s.name, i), home: filepath.Join(dir, fmt.Sprint("home", i))}
		t.Cleanup(func() { m.kill(); exec.Command("ip", "netns", "del", m.ns).Run() })
		s.ip("netns", "add", m.ns)
		s.ip("-n", m.ns, "link", "set", "lo", "up")
		m.plug(i, family)
		s.laptops = append(s.laptops, m)
		m.run("trust", s.root)
	}
	return s
}

// plug connects the machine to the switch with addresses of one family only.
func (m *machine) plug(i int, family string) {
	s, sw, port := m.s, m.s.name+"-sw", fmt.Sprint("p", i)
	s.ip("-n", sw, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", m.ns)
	s.ip("-n", sw, "link", "set", port, "master", "br0", "up")
	v6 := "0"
	if family == "v4" {
		v6 = "1"
	}
	s.must(exec.Command("ip", "netns", "exec", m.ns, "sh", "-c", "echo "+v6+" > /proc/sys/net/ipv6/conf/eth0/disable_ipv6"))
	if family == "v4" {
		s.ip("-n", m.ns, "addr", "add", fmt.Sprintf("10.77.0.%d/24", i+1), "dev", "eth0")
	}
	s.ip("-n", m.ns, "link", "set", "eth0", "up")
}

func (s *school) ip(args ...string) { s.t.Helper(); s.must(exec.Command("ip", args...)) }

func (s *school) must(c *exec.Cmd) string {
	s.t.Helper()
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		s.t.Fatalf("%v: %v\n%s%s", c.Args, err, out, stderr.Bytes())
	}
	return string(out)
}

func (m *machine) cmd(args ...string) *exec.Cmd {
	args = append([]string{m.s.bin, "--home", m.home}, args...)
	if m.below != "" { // ip gives it mounts of its own
		args = append([]string{"sh", "-c", `mount --bind "$0" /mnt && exec "$@"`, m.below}, args...)
	}
	return exec.Command("ip", append([]string{"netns", "exec", m.ns}, args...)...)
}

func (m *machine) run(args ...string) string { m.s.t.Helper(); return m.s.must(m.cmd(args...)) }

// start runs the node and returns once its control socket answers.
func (m *machine) start(args ...string) {
	m.s.t.Helper()
	m.up = m.cmd(append([]string{"up"}, args...)...)
	m.log = &bytes.Buffer{}
	m.up.Stderr, m.up.Stdout = m.log, m.log
	if err := m.up.Start(); err != nil {
		m.s.t.Fatal(err)
	}
	m.done = make(chan struct{})
	go func(up *exec.Cmd, done chan struct{}) { up.Wait(); close(done) }(m.up, m.done)
	m.until("running", func(st status) bool { return st.Running })
}

func (m *machine) kill() {
	if m.up != nil {
		m.up.Process.Kill()
		<-m.done
		m.up = nil
	}
}

func (m *machine) stop() {
	m.s.t.Helper()
	m.up.Process.Signal(syscall.SIGTERM)
	select {
	case <-m.done:
	case <-time.After(patience):
		m.s.t.Fatalf("does not stop\n%s", m.log)
	}
	if code := m.up.ProcessState.ExitCode(); code != 0 {
		m.s.t.Errorf("stopped with exit code %d\n%s", code, m.log)
	}
	m.up = nil
}

// status is the part of "satchel status --json" that is looked at here.
type status struct {
	Running bool
	Node    struct {
		BytesSent uint64 `json:"bytes_sent"`
		Addrs     []string
	}
	Neighbours []struct{ Addr, Source string }
	Products   []struct {
		Product, State string
		Fetch          *struct {
			Phase          string
			BytesTotal     uint64            `json:"bytes_total"`
			BytesNeeded    uint64            `json:"bytes_needed"`
			BytesFetched   uint64            `json:"bytes_fetched"`
			BytesDuplicate uint64            `json:"bytes_duplicate"`
			BySource       map[string]uint64 `json:"bytes_by_source"`
		}
	}
}

func (m *machine) status() (st status) {
	m.s.t.Helper()
	out, err := m.cmd("status", "--json").Output()
	if err != nil {
		return st // between start and listening
	}
	if err := json.Unmarshal(out, &st); err != nil {
		m.s.t.Fatalf("status --json: %v\n%s", err, out)
	}
	return st
}

func (m *machine) until(what string, cond func(status) bool) status {
	m.s.t.Helper()
	end := time.Now().Add(patience)
	for {
		st := m.status()
		if cond(st) {
			return st
		}
		select {
		case <-m.done:
			m.s.t.Fatalf("node ended while waiting for %s\n%s", what, m.log)
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			m.s.t.Fatalf("waited too long for %s: %+v\n%s", what, st, m.log)
		}
	}
}

func (m *machine) publish(product, version, tree string) {
	m.s.t.Helper()
	m.run("publish", tree, "--product", product, "--version", version, "--key", m.s.key)
}

func (m *machine) image() string { return m.home + "-image" }

func (m *machine) follow(product string) {
	m.s.t.Helper()
	m.run("follow", product, "--image", m.image())
}

func (m *machine) ready(product string, seq int) {
	m.s.t.Helper()
	out, err := m.cmd("wait", product, "--seq", fmt.Sprint(seq), "--timeout", patience.String()).CombinedOutput()
	if err != nil {
		m.s.t.Fatalf("%s: %v\n%s\n%s", m.ns, err, out, m.log)
	}
}

func (m *machine) same(product, tree string) {
	m.s.t.Helper()
	m.run("apply", product)
	// -a would compare times; rsync's itemised dry run over content, modes and links says nothing when trees are equal.
	if out := m.s.must(exec.Command("bash", "-c", `diff <(cd "$1" && list) <(cd "$2" && list)`, "", tree, m.image()+"/current/")); out != "" {
		m.s.t.Errorf("%s: trees differ:\n%s", m.ns, out)
	}
}

func TestMain(m *testing.M) {
	// What same compares: path, type, mode and link target of everything, and the content of files.
	os.Setenv("BASH_FUNC_list%%", `() { find . -mindepth 1 -printf '%P %y %m %l\n' | sort; find . -type f -print0 | sort -z | xargs -0r sha256sum; }`)
	code := m.Run()
	if bin, err := binary(); err == nil {
		os.RemoveAll(filepath.Dir(bin))
	}
	os.Exit(code)
}

// sample makes a tree of about size bytes, a few large files and many small ones.
func sample(t *testing.T, version, size int) string {
	t.Helper()
	dir := t.TempDir()
	rnd := rand.New(rand.NewPCG(1, 2))
	write := func(name string, n int) {
		path := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(path), 0o755)
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		if version > 1 && n > 100_000 {
			copy(b[n/2:], fmt.Sprintf("changed in version %d", version))
		}
		if err := os.WriteFile(path, b, 0o600|os.FileMode(rnd.IntN(0o200))); err != nil {
			t.Fatal(err)
		}
	}
	write("usr/lib/big.so", size/3)
	write("usr/lib/big2.so", size/6)
	for i := range 400 {
		write(fmt.Sprintf("usr/share/%d/%d.html", i%20, i), rnd.IntN(2*size/2/400))
	}
	write("empty", 0)
	os.Symlink("usr/lib/big.so", filepath.Join(dir, "link"))
	os.Chmod(filepath.Join(dir, "usr/lib"), 0o2750)
	return dir
}

func TestSwarm(t *testing.T) {
	for _, c := range []struct {
		n      int
		family string
	}{{2, "v4"}, {5, "v6"}, {12, "v4"}} {
		t.Run(fmt.Sprintf("%d %s", c.n, c.family), func(t *testing.T) {
			s := newSchool(t, c.n, c.family)
			pub, pupils := s.laptops[0], s.laptops[1:]
			tree := sample(t, 1, 30_000_000)
			pub.start()
			for _, m := range pupils {
				m.follow("xo-os")
				m.start()
			}
			pub.publish("xo-os", "1", tree)
			for _, m := range pupils {
				m.ready("xo-os", 1)
				m.same("xo-os", tree)
			}
			tree2 := sample(t, 2, 30_000_000)
			pub.publish("xo-os", "2", tree2)
			for _, m := range pupils {
				m.ready("xo-os", 2)
				m.same("xo-os", tree2)
				f := m.status().Products[0].Fetch
				// Two large files changed in one place each: two chunks at most, and lists and manifest.
				if limit := uint64(4*256<<10 + 150_000); f.BytesFetched > limit {
					t.Errorf("%s fetched %d bytes of version 2, at most %d", m.ns, f.BytesFetched, limit)
				}
			}
			for _, m := range s.laptops {
				m.stop()
			}
		})
	}
}

// Twelve nodes that fetch at once share the work: the publisher sends the tree at most twice, and hardly a byte
// arrives twice.
func TestPublisherIsSpared(t *testing.T) {
	s := newSchool(t, 12, "v4")
	pub, pupils := s.laptops[0], s.laptops[1:]
	tree := sample(t, 1, 60_000_000)
	pub.start()
	for _, m := range pupils {
		m.follow("xo-os")
		m.start()
		m.until("neighbours", func(st status) bool { return len(st.Neighbours) > 0 })
	}
	pub.publish("xo-os", "1", tree)
	var total, fetched, dup uint64
	for _, m := range pupils {
		m.ready("xo-os", 1)
		f := m.status().Products[0].Fetch
		total, fetched, dup = f.BytesTotal, fetched+f.BytesFetched, dup+f.BytesDuplicate
	}
	sent := pub.status().Node.BytesSent
	t.Logf("tree %d bytes; publisher sent %.2f times that; duplicates %.2f %%", total, float64(sent)/float64(total), 100*float64(dup)/float64(fetched))
	if sent > 2*total {
		t.Errorf("publisher sent %d bytes for a tree of %d", sent, total)
	}
	if dup > fetched*3/100 {
		t.Errorf("%d of %d bytes arrived twice", dup, fetched)
	}
}

// The publisher is killed when it has sent everything once: the others together hold the release, a late joiner
// gets it from them.
func TestPublisherKilled(t *testing.T) {
	s := newSchool(t, 5, "v6")
	pub, pupils, late := s.laptops[0], s.laptops[1:4], s.laptops[4]
	tree := sample(t, 1, 60_000_000)
	pub.start()
	for _, m := range pupils {
		m.follow("xo-os")
		m.start()
	}
	pub.publish("xo-os", "1", tree)
	pupils[0].ready("xo-os", 1)
	pub.kill()
	late.follow("xo-os")
	late.start()
	for _, m := range append(pupils, late) {
		m.ready("xo-os", 1)
		m.same("xo-os", tree)
	}
}

// A node that is killed thirty times during a fetch loses next to nothing.
func TestKilledThirtyTimes(t *testing.T) {
	s := newSchool(t, 2, "v4")
	pub, m := s.laptops[0], s.laptops[1]
	tree := sample(t, 1, 40_000_000)
	pub.start()
	pub.publish("xo-os", "1", tree)
	m.follow("xo-os")
	// A slow link, so that there is a middle to be killed in.
	s.must(exec.Command("ip", "netns", "exec", pub.ns, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "40mbit", "burst", "64kb", "latency", "100ms"))
	kills := 0
	var last uint64
	for kills < 30 {
		m.start()
		goal := uint64(rand.IntN(1_200_000)) // bytes to fetch in this life
		st := m.until("some progress", func(st status) bool {
			return len(st.Products) == 1 && st.Products[0].Fetch != nil &&
				(st.Products[0].Fetch.BytesFetched > goal || st.Products[0].State == "ready")
		})
		if f := st.Products[0].Fetch; f.Phase == "chunks" { // before, it is still looking at what is on the disk
			had := f.BytesTotal - f.BytesNeeded
			if had+256<<10 < last { // the chunk that was being written may be lost
				t.Errorf("after kill %d only %d bytes are left of %d", kills, had, last)
			}
			last = max(last, had)
		}
		if st.Products[0].State == "ready" {
			break
		}
		m.kill()
		kills++
	}
	if m.up == nil {
		m.start()
	}
	m.ready("xo-os", 1)
	m.same("xo-os", tree)
	m.run("verify")
	total, sent := m.status().Products[0].Fetch.BytesTotal, pub.status().Node.BytesSent
	// What was on the wire when it was killed is lost, one window a life, and one chunk of each open file.
	if limit := total + total/50 + uint64(kills)*(1<<20+2*256<<10) + 500_000; sent > limit {
		t.Errorf("publisher sent %d bytes for %d, with %d kills at most %d", sent, total, kills, limit)
	}
	t.Logf("%d kills, %d bytes sent for a tree of %d", kills, sent, total)
}

// Neighbours are found again after their interface went down, was made anew, or changed its address, and by a
// node that started before there was any.
func TestLinkComesAndGoes(t *testing.T) {
	for _, family := range []string{"v4", "v6"} {
		t.Run(family, func(t *testing.T) {
			s := newSchool(t, 2, family)
			a, b := s.laptops[0], s.laptops[1]
			s.ip("-n", b.ns, "link", "del", "eth0")
			b.start() // nothing but lo
			a.start()
			met := func(st status) bool { return len(st.Neighbours) == 1 }
			b.plug(1, family)
			a.until("a neighbour that started without a link", met)

			s.ip("-n", b.ns, "link", "set", "eth0", "down")
			s.ip("-n", b.ns, "link", "set", "eth0", "up")
			if family == "v4" {
				s.ip("-n", b.ns, "addr", "replace", "10.77.0.2/24", "dev", "eth0")
			}
			a.publish("xo-os", "1", sample(t, 1, 100_000))
			b.until("news after the link came back", func(st status) bool { return len(st.Products) == 1 && met(st) })

			s.ip("-n", b.ns, "link", "del", "eth0")
			a.publish("xo-os", "2", sample(t, 2, 100_000))
			b.plug(7, family) // another address, another interface index
			b.run("carry", "xo-os")
			b.ready("xo-os", 2)
			for _, m := range s.laptops {
				for _, n := range m.until("a neighbour", met).Neighbours {
					if strings.Contains(n.Addr, "127.0.0.1") || strings.Contains(n.Addr, "::1/") {
						t.Errorf("neighbour at %s is this machine", n.Addr)
					}
				}
			}
		})
	}
}

// A disk that fills up stops the fetch with advice, loses nothing, and lets it go on when there is room.
func TestDiskFull(t *testing.T) {
	s := newSchool(t, 2, "v4")
	pub, m := s.laptops[0], s.laptops[1]
	tree := sample(t, 1, 30_000_000)
	small := t.TempDir()
	s.must(exec.Command("mount", "-t", "tmpfs", "-o", "size=12m", "satchel-test", small))
	t.Cleanup(func() { m.kill(); exec.Command("umount", small).Run() })
	m.home = filepath.Join(small, "home")
	m.run("trust", s.root)
	pub.start()
	pub.publish("xo-os", "1", tree)
	m.follow("xo-os")
	m.start()
	m.until("a full disk", func(st status) bool { return len(st.Products) == 1 && st.Products[0].State == "failed" })
	if out := m.run("explain", "xo-os"); !strings.Contains(out, "are free") || !strings.Contains(out, "make room") {
		t.Errorf("explain does not say what to do:\n%s", out)
	}
	if out := m.run("prune", "--json"); !strings.Contains(out, `"blobs":0`) {
		t.Errorf("pruning a home whose fetch waits for room took what was fetched: %s", out)
	}
	s.must(exec.Command("mount", "-o", "remount,size=200m", small))
	m.ready("xo-os", 1)
	m.same("xo-os", tree)
	m.run("verify")
}
