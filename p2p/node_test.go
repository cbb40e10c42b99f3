package p2p_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"satchel/announce"
	"satchel/p2p"
	"satchel/store"
	"satchel/store/manifest"
)

// deadline bounds every wait of these tests; nothing asserts how long anything takes.
const deadline = 60 * time.Second

// mesh is nodes of one process on loopback, with one publisher's key.
type mesh struct {
	t    *testing.T
	key  announce.PrivateKey
	root []byte
}

func newMesh(t *testing.T) *mesh {
	t.Helper()
	key, err := announce.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &mesh{t, key, rootOf(t, key, 1)}
}

func rootOf(t *testing.T, key announce.PrivateKey, version uint64) []byte {
	t.Helper()
	id := []announce.KeyID{key.Public().ID()}
	role := announce.RoleRule{Keys: id, Threshold: 1}
	r := announce.Root{Version: version, Keys: []announce.PublicKey{key.Public()},
		Roles: map[announce.Role]announce.RoleRule{announce.RoleRoot: role, announce.RoleTimestamp: role, announce.RoleWake: role},
		Products: []announce.ProductRule{{Pattern: "*", Epoch: 1, Keys: id, Threshold: 1, Class: announce.ClassContent, MayWake: true,
			MaySetuid: true, MayNames: true, MayLinkOut: true}}}
	env, err := r.Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// laptop is a node of a mesh, running or not.
type laptop struct {
	*p2p.Node
	m      *mesh
	home   string
	cancel context.CancelFunc
	ended  chan error
}

func (m *mesh) open(home string, peers ...string) *laptop {
	m.t.Helper()
	return m.openAs(p2p.Config{Home: home, Peers: peers})
}

// openAs opens a node that is odd in some way.
func (m *mesh) openAs(cfg p2p.Config) *laptop {
	m.t.Helper()
	home := cfg.Home
	if testing.Verbose() {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("node", filepath.Base(home))
	}
	cfg.Listen, cfg.NoDiscovery = []string{"/ip4/127.0.0.1/tcp/0"}, true
	n, err := p2p.Open(cfg)
	if err != nil {
		m.t.Fatal(err)
	}
	if err := n.Trust(m.root, false); err != nil {
		m.t.Fatal(err)
	}
	l := &laptop{Node: n, m: m, home: home}
	m.t.Cleanup(l.close)
	return l
}

func (m *mesh) up(peers ...string) *laptop {
	l := m.open(m.t.TempDir(), peers...)
	l.run()
	return l
}

// run starts the network and returns when HOME/addrs is there.
func (l *laptop) run() {
	l.m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.ended = cancel, make(chan error, 1)
	go func() { l.ended <- l.Node.Run(ctx) }()
	l.until("listening", func(s p2p.Status) bool { return s.Running && len(s.Node.Addrs) > 0 })
}

func (l *laptop) stop() {
	if l.cancel != nil {
		l.cancel()
		if err := <-l.ended; err != nil {
			l.m.t.Errorf("running: %v", err)
		}
		l.cancel = nil
	}
}

func (l *laptop) close() {
	if l.Node != nil {
		l.stop()
		l.Node.Close()
		l.Node = nil
	}
}

func (l *laptop) addr() string {
	b, err := os.ReadFile(filepath.Join(l.home, "addrs"))
	if err != nil {
		l.m.t.Fatal(err)
	}
	return strings.SplitN(string(b), "\n", 2)[0]
}

// until waits for a status that satisfies cond.
func (l *laptop) until(what string, cond func(p2p.Status) bool) p2p.Status {
	l.m.t.Helper()
	end := time.After(deadline)
	for {
		changed := l.Changed()
		s := l.Status()
		if cond(s) {
			return s
		}
		select {
		case <-changed:
		case <-end:
			l.m.t.Fatalf("waited too long for %s; status %+v", what, s)
		}
	}
}

func (l *laptop) wait(product string, seq uint64, state string) p2p.ProductStatus {
	l.m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	ps, err := l.Wait(ctx, product, seq, state)
	if err != nil {
		l.m.t.Fatalf("%v (%+v, fetch %+v)", err, ps, ps.Fetch)
	}
	return ps
}

// publish announces tree as the next release.
func (l *laptop) publish(product, version, tree string) *store.PublishResult {
	l.m.t.Helper()
	res, env := l.sign(product, version, tree, 0)
	if err := l.Announce(env); err != nil {
		l.m.t.Fatal(err)
	}
	return res
}

func (l *laptop) sign(product, version, tree string, seq uint64) (*store.PublishResult, []byte) {
	l.m.t.Helper()
	next, err := l.Next(product)
	if err != nil {
		l.m.t.Fatal(err)
	}
	if seq == 0 {
		seq = next.Seq
	}
	res, err := l.Store().Publish(context.Background(), tree, store.PublishOptions{
		Header: manifest.Header{Product: product, Epoch: next.Epoch, Seq: seq, Version: version}})
	if err != nil {
		l.m.t.Fatal(err)
	}
	a := announce.Announcement{Product: product, RootVer: next.RootVersion, Epoch: next.Epoch, Seq: seq, Version: version,
		Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize}
	env, err := a.Sign(l.m.key)
	if err != nil {
		l.m.t.Fatal(err)
	}
	return res, env
}

// tree writes files; a name that ends in / is a directory, contents that begin with -> make a symlink.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "->"); ok {
			err = os.Symlink(target, path)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(path, 0o750)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// describe lists a tree: type, mode, path, and content or target.
func describe(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if rel == "." {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s %s ", fi.Mode(), rel)
		switch {
		case fi.Mode().IsRegular():
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%x", store.Sum(text))
		case fi.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			b.WriteString(target)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func sameTree(t *testing.T, want, image string) {
	t.Helper()
	got, err := filepath.EvalSymlinks(filepath.Join(image, "current"))
	if err != nil {
		t.Fatal(err)
	}
	if w, g := describe(t, want), describe(t, got); w != g {
		t.Errorf("trees differ; want\n%s\ngot\n%s", w, g)
	}
}

// noise is n bytes that do not repeat, the same for the same seed.
func noise(seed, n int) string {
	var b bytes.Buffer
	for i := 0; b.Len() < n; i++ {
		d := store.Sum(fmt.Appendf(nil, "%d %d", seed, i))
		b.Write(d[:])
	}
	return b.String()[:n]
}

func lessons(t *testing.T, version int) string {
	files := map[string]string{
		"README": fmt.Sprintf("lessons %d\n", version), "empty": "", "unit/": "", "unit/a/link": "->../../README",
		"unit/abs": "->/etc/hostname", "big": noise(1, 3<<20) + noise(100+version, 1000) + noise(2, 2<<20),
	}
	for i := range 200 {
		files[fmt.Sprintf("unit/%03d.txt", i)] = noise(1000+i, 100+97*i)
	}
	if version > 1 {
		files["unit/007.txt"] = noise(5000, 30_000)
		files["new"] = "new in version 2"
		delete(files, "unit/100.txt")
	}
	return tree(t, files)
}

func TestReleaseTravels(t *testing.T) {
	m := newMesh(t)
	pub := m.up()
	v1, v2 := lessons(t, 1), lessons(t, 2)
	img := filepath.Join(t.TempDir(), "image")
	a := m.up(pub.addr())
	b := m.up(a.addr()) // knows only a: what it gets has crossed two hops
	for _, l := range []*laptop{a, b} {
		dir := img + l.ID()
		if err := l.Follow("lessons", dir); err != nil {
			t.Fatal(err)
		}
	}
	pub.publish("lessons", "1", v1)
	for _, l := range []*laptop{a, b} {
		l.wait("lessons", 1, p2p.StateReady)
		if _, err := l.Apply(context.Background(), "lessons"); err != nil {
			t.Fatal(err)
		}
		l.wait("lessons", 1, p2p.StateActive)
		sameTree(t, v1, img+l.ID())
	}
	res := pub.publish("lessons", "2", v2)
	for _, l := range []*laptop{a, b} {
		ps := l.wait("lessons", 2, p2p.StateReady)
		sameTree(t, v1, img+l.ID()) // the live tree is untouched until somebody says so
		if max := res.NewChunkBytes + res.NewChunkBytes/50 + res.ManifestSize + 4096; ps.Fetch.BytesFetched > max {
			t.Errorf("fetched %d bytes for %d new ones, at most %d", ps.Fetch.BytesFetched, res.NewChunkBytes, max)
		}
		if _, err := l.Apply(context.Background(), "lessons"); err != nil {
			t.Fatal(err)
		}
		sameTree(t, v2, img+l.ID())
	}
	b.stop() // going back needs no network
	if _, err := b.Rollback(context.Background(), "lessons"); err != nil {
		t.Fatal(err)
	}
	sameTree(t, v1, img+b.ID())
	if from := a.Status().Products[0].Fetch.BytesBySource; len(from) != 1 {
		t.Errorf("a fetched from %v, only the publisher had it", from)
	}
}

// A node that joins long after the publish learns of it at the first contact, and one that restarts remembers
// its peers without being told again.
func TestLateJoinerAndRestart(t *testing.T) {
	m := newMesh(t)
	pub := m.up()
	pub.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	home := t.TempDir()
	late := m.open(home, pub.addr())
	img := t.TempDir()
	if err := late.Follow("lessons", img); err != nil {
		t.Fatal(err)
	}
	late.run()
	late.wait("lessons", 1, p2p.StateReady)
	late.close()

	again := m.open(home) // no --peer this time
	again.run()
	pub.publish("lessons", "2", tree(t, map[string]string{"a": "2"}))
	again.wait("lessons", 2, p2p.StateReady)
	if s := again.Status(); s.Neighbours[0].Source != "remembered" {
		t.Errorf("neighbour is %+v, want a remembered one", s.Neighbours[0])
	}
}

// The publisher leaves when the others together hold everything.
func TestPublisherLeaves(t *testing.T) {
	m := newMesh(t)
	pub := m.up()
	want := lessons(t, 1)
	pub.publish("lessons", "1", want)
	a := m.up(pub.addr())
	if err := a.Carry("less*"); err == nil {
		t.Error("carrying less* succeeded, it is no pattern")
	}
	if err := a.Carry("lessons"); err != nil {
		t.Fatal(err)
	}
	a.wait("lessons", 1, p2p.StateReady)
	pub.close()
	b := m.up(a.addr())
	img := t.TempDir()
	if err := b.Follow("lessons", img); err != nil {
		t.Fatal(err)
	}
	b.wait("lessons", 1, p2p.StateReady)
	if _, err := b.Apply(context.Background(), "lessons"); err != nil {
		t.Fatal(err)
	}
	sameTree(t, want, img)
}

func TestTrustArrivesLater(t *testing.T) {
	m := newMesh(t)
	pub := m.up()
	pub.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	home := t.TempDir()
	n, err := p2p.Open(p2p.Config{Home: home, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Peers: []string{pub.addr()}, NoDiscovery: true})
	if err != nil {
		t.Fatal(err)
	}
	l := &laptop{Node: n, m: m, home: home}
	t.Cleanup(l.close)
	l.run()
	l.until("a neighbour", func(s p2p.Status) bool { return len(s.Neighbours) == 1 && s.Neighbours[0].Catalog == "differs" })
	if err := l.Carry("*"); err != nil {
		t.Fatal(err)
	}
	if s := l.Status(); len(s.Products) != 0 {
		t.Fatalf("without a root it believes %+v", s.Products)
	}
	if err := l.Trust(m.root, false); err != nil {
		t.Fatal(err)
	}
	l.wait("lessons", 1, p2p.StateReady)
}

func TestRefusals(t *testing.T) {
	m := newMesh(t)
	l := m.open(t.TempDir())
	dir := tree(t, map[string]string{"a": "1"})
	l.publish("lessons", "1", dir)
	other, _ := announce.GenerateKey(rand.Reader)

	_, older := l.sign("lessons", "again", tree(t, map[string]string{"a": "other"}), 1)
	res, _ := l.sign("lessons", "2", dir, 2)
	forged, err := (&announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: 9, Version: "9",
		Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize}).Sign(other)
	if err != nil {
		t.Fatal(err)
	}
	_, good := l.sign("lessons", "3", dir, 3)
	for _, c := range []struct {
		name string
		env  []byte
		code string
	}{
		{"truncated", good[:len(good)-1], p2p.CodeRefused},
		{"empty", nil, p2p.CodeRefused},
		{"bit flipped in a signature", flip(good, len(good)-1), p2p.CodeRefused},
		{"signed by a stranger", forged, p2p.CodeRefused},
		{"same number, other content", older, p2p.CodeEquivocal},
	} {
		err := l.Announce(c.env)
		if p2p.CodeOf(err) != c.code || p2p.HintOf(err) == "" {
			t.Errorf("%s: error %v, code %q, hint %q; want code %q and a hint", c.name, err, p2p.CodeOf(err), p2p.HintOf(err), c.code)
		}
	}
	if s := l.Status(); s.Products[0].State != p2p.StateRefused {
		t.Errorf("after equivocation the state is %q", s.Products[0].State)
	}
	if err := l.Announce(good); err != nil {
		t.Errorf("a higher seq does not heal equivocation: %v", err)
	}
	if err := l.Announce(good); p2p.CodeOf(err) != p2p.CodeOlder {
		t.Errorf("announcing twice: %v", err)
	}
}

func flip(b []byte, i int) []byte {
	b = bytes.Clone(b)
	b[i] ^= 1
	return b
}

func TestHomeInUse(t *testing.T) {
	t.Parallel() // it waits
	m := newMesh(t)
	l := m.open(t.TempDir())
	_, err := p2p.Open(p2p.Config{Home: l.home})
	if p2p.CodeOf(err) != p2p.CodeInUse || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("second node on one home: %v", err)
	}
	img := t.TempDir()
	if err := l.Follow("one", img); err != nil {
		t.Fatal(err)
	}
	if err := l.Follow("two", img); err != nil {
		t.Errorf("two products in one image: %v", err)
	}
	if err := l.Follow("three", filepath.Join(img, "deploy", "x")); p2p.CodeOf(err) != p2p.CodeConflict {
		t.Errorf("an image in an image: %v", err)
	}
}

func TestVerifyRepairsFromNeighbours(t *testing.T) {
	m := newMesh(t)
	pub := m.up()
	want := lessons(t, 1)
	pub.publish("lessons", "1", want)
	l := m.up(pub.addr())
	img := t.TempDir()
	if err := l.Follow("lessons", img); err != nil {
		t.Fatal(err)
	}
	l.wait("lessons", 1, p2p.StateReady)
	if _, err := l.Apply(context.Background(), "lessons"); err != nil {
		t.Fatal(err)
	}
	live := filepath.Join(img, "current")
	for _, name := range []string{"big", "unit/050.txt"} { // in place: into the store, if it is linked
		f, err := os.OpenFile(filepath.Join(live, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("rot"), 10); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	if err := os.Remove(filepath.Join(live, "README")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(live, "stray"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	res, err := l.Verify(ctx, nil)
	if err != nil {
		t.Fatalf("%v: %+v", err, res)
	}
	if res.Damaged == 0 || res.Repaired != res.Damaged {
		t.Errorf("verify found and repaired %+v", res)
	}
	sameTree(t, want, img)
	if res, err := l.Verify(ctx, nil); err != nil || res.Damaged != 0 {
		t.Errorf("second verify: %+v, %v", res, err)
	}
}

// What is live is repaired also when it is not the newest release any more.
func TestVerifyRepairsAfterRollback(t *testing.T) {
	m := newMesh(t)
	pub := m.up()
	v1 := lessons(t, 1)
	pub.publish("lessons", "1", v1)
	l := m.up(pub.addr())
	img := t.TempDir()
	if err := l.Follow("lessons", img); err != nil {
		t.Fatal(err)
	}
	for seq := uint64(1); seq <= 2; seq++ {
		if seq == 2 {
			pub.publish("lessons", "2", lessons(t, 2))
		}
		l.wait("lessons", seq, p2p.StateReady)
		if _, err := l.Apply(context.Background(), "lessons"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.Rollback(context.Background(), "lessons"); err != nil {
		t.Fatal(err)
	}
	// big and unit/100.txt are only in version 1.
	for _, name := range []string{"big", "unit/100.txt"} {
		f, err := os.OpenFile(filepath.Join(img, "current", name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("rot"), 10); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if res, err := l.Verify(ctx, nil); err != nil || res.Damaged == 0 {
		t.Fatalf("%v: %+v", err, res)
	}
	sameTree(t, v1, img)
}

func TestWaitTimesOut(t *testing.T) {
	l := newMesh(t).open(t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Wait(ctx, "lessons", 0, p2p.StateReady); p2p.CodeOf(err) != p2p.CodeTimeout {
		t.Errorf("waiting: %v", err)
	}
	var e *p2p.Error
	if _, err := l.Apply(context.Background(), "lessons"); !errors.As(err, &e) || e.Code != p2p.CodeNotFound {
		t.Errorf("applying what is not followed: %v", err)
	}
}

// A home that cannot be opened is an error, whatever is wrong with it, and can be opened when that is put right.
func TestOpenBrokenHome(t *testing.T) {
	for _, name := range []string{"identity", "state.db", "store/blobs"} {
		home := t.TempDir()
		broken := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(broken), 0o700); err != nil {
			t.Fatal(err)
		}
		plant := func() error { return os.Mkdir(broken, 0o700) }
		if name == "store/blobs" {
			plant = func() error { return os.WriteFile(broken, nil, 0o600) }
		}
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if n, err := p2p.Open(p2p.Config{Home: home}); err == nil || n != nil {
			t.Errorf("%s is broken: %v, %v", name, n, err)
		}
		if err := os.Remove(broken); err != nil {
			t.Fatal(err)
		}
		n, err := p2p.Open(p2p.Config{Home: home})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Who opens a home and only looks writes nothing to state.db.
func TestOpenWritesNothing(t *testing.T) {
	home := t.TempDir()
	var before []byte
	for i := range 2 {
		n, err := p2p.Open(p2p.Config{Home: home})
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		now, err := os.ReadFile(filepath.Join(home, "state.db"))
		if err != nil {
			t.Fatal(err)
		}
		if i > 0 && !bytes.Equal(now, before) {
			t.Error("state.db was written to")
		}
		before = now
	}
}
