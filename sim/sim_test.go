package sim_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"satchel/announce"
	"satchel/p2p"
	"satchel/sim"
	"satchel/store"
	"satchel/store/manifest"
)

// world is a school: one trust root, laptops, a medium.
type world struct {
	t      *testing.T
	dir    string
	medium *sim.Medium
	key    announce.PrivateKey
	root   []byte
	ids    []string // of laptops
	shut   *shutOut
	slept  atomic.Int64 // nanoseconds that clocks have counted without anything happening
}

var air = sim.Air{Seed: 1, Latency: 2 * time.Millisecond, Jitter: 10 * time.Millisecond}

// noise is n bytes that do not repeat, the same for the same name.
func noise(name string, n int) []byte {
	var b []byte
	for i := 0; len(b) < n; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", name, i))
		b = append(b, sum[:]...)
	}
	return b[:n]
}

func key(t *testing.T, name string) announce.PrivateKey {
	t.Helper()
	k, err := announce.GenerateKey(bytes.NewReader(noise(name, 1<<10)))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func rootOf(t *testing.T, key announce.PrivateKey) []byte {
	t.Helper()
	ids := []announce.KeyID{key.Public().ID()}
	role := announce.RoleRule{Keys: ids, Threshold: 1}
	root, err := (&announce.Root{Version: 1, Keys: []announce.PublicKey{key.Public()},
		Roles:    map[announce.Role]announce.RoleRule{announce.RoleRoot: role, announce.RoleTimestamp: role, announce.RoleWake: role},
		Products: []announce.ProductRule{{Pattern: "*", Epoch: 1, Keys: ids, Threshold: 1, Class: announce.ClassContent, MayWake: true}}}).Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func newWorld(t *testing.T, air sim.Air) *world {
	t.Helper()
	dir := memory(t)
	k := key(t, "publisher")
	return &world{t: t, dir: dir, medium: sim.NewMedium(air), key: k, root: rootOf(t, k), shut: &shutOut{}}
}

// memory is a directory for what a test keeps: in memory where there is such a place, since no disk is tested here.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "satchel-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// shutOut collects whom nodes shut out, from their logs.
type shutOut struct {
	mu    sync.Mutex
	peers []string
}

func (s *shutOut) Enabled(context.Context, slog.Level) bool { return true }
func (s *shutOut) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s *shutOut) WithGroup(string) slog.Handler            { return s }
func (s *shutOut) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "neighbour shut out" {
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "peer" {
				s.mu.Lock()
				s.peers = append(s.peers, a.Value.String())
				s.mu.Unlock()
			}
			return true
		})
	}
	return nil
}

func ip(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}) }

// laptop opens a node that carries everything and trusts root.
func (w *world) laptop(n int, root []byte, peers ...string) *sim.Laptop {
	w.t.Helper()
	log := slog.New(w.shut)
	if os.Getenv("SATCHEL_SIM_LOG") != "" {
		log = slog.New(slog.NewMultiHandler(w.shut, slog.NewTextHandler(os.Stderr, nil))).With("node", n)
	}
	began := time.Now()
	clock := func() (time.Time, string, time.Duration) {
		slept := time.Duration(w.slept.Load())
		return time.Now().Add(slept), "boot", time.Since(began) + slept
	}
	l, err := w.medium.Laptop(ip(n), p2p.Config{Home: filepath.Join(w.dir, fmt.Sprint(n)), Peers: peers, Log: log, Clock: clock})
	if err != nil {
		w.t.Fatal(err)
	}
	w.ids = append(w.ids, l.ID())
	if err := l.Trust(root, false); err != nil {
		w.t.Fatal(err)
	}
	if err := l.Carry("*"); err != nil {
		w.t.Fatal(err)
	}
	return l
}

// sign puts a small tree into l's store and signs it as a release.
func (w *world) sign(l *sim.Laptop, key announce.PrivateKey, product string, seq uint64, urgent bool) []byte {
	w.t.Helper()
	dir := memory(w.t)
	for i := range 2 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), noise(fmt.Sprintf("%s/%d/%d", product, seq, i), 2000), 0o644); err != nil {
			w.t.Fatal(err)
		}
	}
	res, err := l.Store().Publish(context.Background(), dir, store.PublishOptions{
		Header: manifest.Header{Product: product, Epoch: 1, Seq: seq, Version: fmt.Sprint(seq)}})
	if err != nil {
		w.t.Fatal(err)
	}
	env, err := (&announce.Announcement{Product: product, RootVer: 1, Epoch: 1, Seq: seq, Version: fmt.Sprint(seq), Urgent: urgent,
		Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize}).Sign(key)
	if err != nil {
		w.t.Fatal(err)
	}
	return env
}

// publish announces a release from l.
func (w *world) publish(l *sim.Laptop, product string, seq uint64) {
	w.t.Helper()
	if err := l.Announce(w.sign(l, w.key, product, seq, false)); err != nil {
		w.t.Fatal(err)
	}
}

// converged waits until all hold the release and returns how long that took; a node that does not fails the test.
func (w *world) converged(all []*sim.Laptop, product string, seq uint64, bound time.Duration) time.Duration {
	w.t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), bound)
	defer cancel()
	for i, l := range all {
		if ps, err := l.Wait(ctx, product, seq, p2p.StateReady); err != nil {
			w.t.Errorf("laptop %d does not hold %s %d after %v: %v; %s %s; neighbours %v; guard %+v",
				i, product, seq, bound, err, ps.State, ps.Error, neighbours(l), l.Guard())
		}
	}
	return time.Since(began)
}

func neighbours(l *sim.Laptop) (out []string) {
	for _, n := range l.Status().Neighbours {
		out = append(out, n.Addr+" "+n.Catalog)
	}
	slices.Sort(out)
	return out
}

// state is what a laptop has accepted, in words; everything in its store is read and hashed again.
func (w *world) state(l *sim.Laptop) string {
	w.t.Helper()
	var b strings.Builder
	for _, p := range l.Status().Products {
		fmt.Fprintf(&b, "%s %s", p.Product, p.State)
		if r := p.Newest; r != nil {
			fmt.Fprintf(&b, " %d/%d %s", r.Epoch, r.Seq, r.Manifest)
		}
		b.WriteString("\n")
	}
	if bad, err := l.Store().Verify(context.Background(), nil); err != nil || len(bad) > 0 {
		w.t.Errorf("store of %v: %v bad, %v", l.IP, bad, err)
	}
	all, err := l.Store().Manifests()
	if err != nil {
		w.t.Error(err)
	}
	for _, c := range all {
		fmt.Fprintln(&b, c)
	}
	return b.String()
}

func closeAll(t *testing.T, all []*sim.Laptop) {
	t.Helper()
	for _, l := range all {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestThreeConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, air)
		a := w.laptop(1, w.root)
		b := w.laptop(2, w.root, a.Addr())
		c := w.laptop(3, w.root, b.Addr())
		all := []*sim.Laptop{a, b, c}
		for _, l := range all {
			l.Start()
		}
		time.Sleep(5 * time.Second)
		w.publish(a, "lessons", 1)
		w.converged(all, "lessons", 1, 5*time.Second)
		// c is out of reach when the next release comes, and hears of it when it is back.
		w.medium.Split([]netip.Addr{c.IP})
		w.publish(a, "lessons", 2)
		w.converged(all[:2], "lessons", 2, 5*time.Second)
		time.Sleep(20 * time.Minute)
		if s := c.Status(); s.Products[0].Newest.Seq != 1 || len(s.Neighbours) != 0 {
			t.Errorf("behind the partition it is %+v", s.Products[0])
		}
		w.medium.Heal()
		w.converged(all, "lessons", 2, 2*time.Minute)
		if one, two := w.state(a), w.state(b); one != two {
			t.Errorf("states differ:\n%s\n%s", one, two)
		}
		closeAll(t, all)
	})
}
