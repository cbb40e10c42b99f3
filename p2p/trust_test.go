package p2p_test

import (
	"context"
	"crypto/rand"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"satchel/announce"
	"satchel/p2p"
)

// A recall is a newer number with older content: who still has the content fetches nothing, and does not go back.
func TestRecallFetchesNothing(t *testing.T) {
	m := newMesh(t)
	pub := m.up()
	good := tree(t, map[string]string{"a": noise(1, 300_000), "b": "good"})
	pub.publish("lessons", "1", good)
	l := m.up(pub.addr())
	img := t.TempDir()
	if err := l.Follow("lessons", img); err != nil {
		t.Fatal(err)
	}
	l.wait("lessons", 1, p2p.StateReady)
	if _, err := l.Apply(t.Context(), "lessons"); err != nil {
		t.Fatal(err)
	}
	pub.publish("lessons", "2", tree(t, map[string]string{"a": noise(2, 300_000), "b": "bad"}))
	l.wait("lessons", 2, p2p.StateReady)
	if _, err := l.Apply(t.Context(), "lessons"); err != nil {
		t.Fatal(err)
	}
	if _, err := pub.Prune(t.Context(), p2p.UsualPrune); err != nil { // the last three stay for this
		t.Fatal(err)
	}
	sent := pub.Status().Node.BytesSent
	pub.recall("lessons", 1)
	ps := l.wait("lessons", 3, p2p.StateReady)
	if ps.Ready == nil || ps.Ready.Seq != 3 || !ps.Newest.Recall {
		t.Fatalf("%+v", ps)
	}
	if more := pub.Status().Node.BytesSent - sent; more != 0 {
		t.Errorf("%d bytes were fetched for a recall", more)
	}
	live, err := l.Apply(t.Context(), "lessons")
	if err != nil || live.Seq != 3 {
		t.Fatalf("%+v %v", live, err)
	}
	sameTree(t, good, img)
	if back, err := l.Rollback(t.Context(), "lessons"); err != nil || back.Seq != 2 {
		t.Errorf("a person may still go back: %+v %v", back, err)
	}
}

func (l *laptop) recall(product string, to uint64) {
	l.m.t.Helper()
	past, err := l.Past(product, 0, to)
	if err != nil {
		l.m.t.Fatal(err)
	}
	next, err := l.Next(product)
	if err != nil {
		l.m.t.Fatal(err)
	}
	c, err := cid.Decode(past.Manifest)
	if err != nil {
		l.m.t.Fatal(err)
	}
	env, err := (&announce.Announcement{Product: product, RootVer: next.RootVersion, Epoch: next.Epoch, Seq: next.Seq, Version: past.Version,
		Manifest: c, ManifestSize: past.ManifestSize, TotalSize: past.TotalSize, Recall: true}).Sign(l.m.key)
	if err != nil {
		l.m.t.Fatal(err)
	}
	if err := l.Announce(env); err != nil {
		l.m.t.Fatal(err)
	}
}

// A manifest is bound to its announcement: without the recall flag an older one is none, with it a newer one is none.
func TestManifestOfAnotherRelease(t *testing.T) {
	m := newMesh(t)
	l := m.open(t.TempDir())
	one := l.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	res, _ := l.sign("lessons", "9", tree(t, map[string]string{"a": "9"}), 9)
	for name, a := range map[string]announce.Announcement{
		"older content unsaid":      {Seq: 2, Manifest: one.Manifest, ManifestSize: one.ManifestSize, TotalSize: one.TotalSize},
		"recall of what is to come": {Seq: 2, Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize, Recall: true},
		"recall of itself":          {Seq: 9, Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize, Recall: true},
		"another product's": {Product: "games", Seq: 1, Manifest: one.Manifest, ManifestSize: one.ManifestSize,
			TotalSize: one.TotalSize},
	} {
		if a.Product == "" {
			a.Product = "lessons"
		}
		a.RootVer, a.Epoch, a.Version = 1, 1, "x"
		env, err := a.Sign(m.key)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Announce(env); p2p.CodeOf(err) != p2p.CodeRefused {
			t.Errorf("%s: %v", name, err)
		}
	}
	if s := l.Status(); len(s.Products) != 1 || s.Products[0].Newest.Seq != 1 {
		t.Errorf("%+v", s.Products)
	}
}

// Below the floor nobody goes, not even a person with rollback.
func TestRollbackStopsAtFloor(t *testing.T) {
	m := newMesh(t)
	l := m.open(t.TempDir())
	img := t.TempDir()
	if err := l.Follow("lessons", img); err != nil {
		t.Fatal(err)
	}
	for i, floor := range []uint64{0, 0, 2} {
		dir := tree(t, map[string]string{"a": noise(i, 1000)})
		res, _ := l.sign("lessons", "v", dir, 0)
		env, err := (&announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: uint64(i + 1), Version: "v", Manifest: res.Manifest,
			ManifestSize: res.ManifestSize, TotalSize: res.TotalSize, Floor: floor}).Sign(m.key)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Announce(env); err != nil {
			t.Fatal(err)
		}
		if i < 2 { // the third is announced, and not applied
			if _, err := l.Apply(t.Context(), "lessons"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := l.Rollback(t.Context(), "lessons"); p2p.CodeOf(err) != p2p.CodeRefused {
		t.Errorf("below the floor: %v", err)
	}
	if s := l.Status(); s.Products[0].Live.Seq != 2 {
		t.Errorf("live: %+v", s.Products[0].Live)
	}
}

// handClock is a clock that a test sets.
type handClock struct {
	wall, since atomic.Int64 // seconds
}

func (c *handClock) read() (time.Time, string, time.Duration) {
	return time.Unix(c.wall.Load(), 0), "boot", time.Duration(c.since.Load()) * time.Second
}

const aDay = 24 * 3600

// Freeze: a node that hears nothing for a week says that it does not know, whatever its clock says, also when it was
// started anew in between; one contact with somebody honest ends that.
func TestFreezeShows(t *testing.T) {
	for name, wall := range map[string]int64{"right": 1_800_000_000, "1970": 0, "2099": 4_070_908_800} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			server, clock := &handClock{}, &handClock{}
			server.wall.Store(1_800_000_000)
			clock.wall.Store(wall)
			pub := m.openAs(p2p.Config{Home: t.TempDir(), Clock: server.read})
			pub.run()
			pub.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
			pub.timestamp(server.wall.Load())
			l := m.openAs(p2p.Config{Home: t.TempDir(), Clock: clock.read, Peers: []string{pub.addr()}})
			l.run()
			state := func(want string) {
				t.Helper()
				l.until("freshness "+want, func(s p2p.Status) bool {
					return len(s.Products) == 1 && s.Products[0].Freshness != nil && s.Products[0].Freshness.State == want
				})
			}
			state("fresh")
			l.stop() // eclipsed
			for range 8 {
				clock.since.Add(aDay)
				clock.wall.Add(aDay)
				if l.Status().Products[0].Freshness.State != "fresh" {
					break
				}
				l.Node.Close()
				l = m.openAs(p2p.Config{Home: l.home, Clock: clock.read, Peers: []string{pub.addr()}})
			}
			state("unknown")
			if days := clock.since.Load() / aDay; days != 8 {
				t.Errorf("unknown after %d days", days)
			}
			server.since.Add(8 * aDay)
			server.wall.Add(8 * aDay)
			pub.timestamp(server.wall.Load())
			l.run()
			state("fresh")
			if name == "1970" {
				if s := l.Status(); s.Clock.State != p2p.ClockWrong || s.Clock.Earliest != server.wall.Load() {
					t.Errorf("clock: %+v", s.Clock)
				}
			}
		})
	}
}

func (l *laptop) timestamp(at int64) {
	l.m.t.Helper()
	next, err := l.NextTimestamp()
	if err != nil {
		l.m.t.Fatal(err)
	}
	envs, err := next.Sign(at, l.m.key)
	if err != nil {
		l.m.t.Fatal(err)
	}
	for _, env := range envs {
		if err := l.AddTimestamp(env); err != nil {
			l.m.t.Fatal(err)
		}
	}
}

// A clock has no voice in what is installed: with one at 1970, at 2099, or jumping, a node ends with the same things.
func TestClockDecidesNothing(t *testing.T) {
	m := newMesh(t)
	pub := m.up()
	var ends []string
	var jump atomic.Int64
	var nodes []*laptop
	for _, clock := range []p2p.Clock{
		nil,
		func() (time.Time, string, time.Duration) { return time.Unix(0, 0), "a", time.Hour },
		func() (time.Time, string, time.Duration) { return time.Unix(4_070_908_800, 0), "b", time.Hour },
		func() (time.Time, string, time.Duration) {
			return time.Unix(jump.Add(1)%2*4_070_908_800, 0), "c", time.Duration(jump.Add(7)%100) * time.Hour
		},
	} {
		l := m.openAs(p2p.Config{Home: t.TempDir(), Peers: []string{pub.addr()}, Clock: clock})
		if err := l.Follow("lessons", filepath.Join(l.home, "image")); err != nil {
			t.Fatal(err)
		}
		l.run()
		nodes = append(nodes, l)
	}
	expired := func(seq uint64, text string) {
		res, _ := pub.sign("lessons", text, tree(t, map[string]string{"a": text}), seq)
		env, err := (&announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: seq, Version: text, Manifest: res.Manifest,
			ManifestSize: res.ManifestSize, TotalSize: res.TotalSize, Issued: 1_700_000_000, Expires: 1_700_000_001}).Sign(m.key)
		if err != nil {
			t.Fatal(err)
		}
		if err := pub.Announce(env); err != nil {
			t.Fatal(err)
		}
	}
	expired(1, "long ago")
	pub.timestamp(time.Now().Unix())
	expired(2, "also")
	for _, l := range nodes {
		l.wait("lessons", 2, p2p.StateReady)
		r, err := l.Apply(t.Context(), "lessons")
		if err != nil {
			t.Fatal(err)
		}
		ends = append(ends, r.Manifest+" "+r.Version)
		l.until("the timestamp too", func(s p2p.Status) bool { return s.Node.Catalog == pub.Status().Node.Catalog })
	}
	for _, e := range ends[1:] {
		if e != ends[0] {
			t.Errorf("a clock decided: %q", ends)
		}
	}
}

// A server that has the timestamp role's key signs by itself, and refuses to when its clock cannot be right.
func TestServerSignsTimestamps(t *testing.T) {
	m := newMesh(t)
	clock := &handClock{}
	clock.wall.Store(1_800_000_000)
	s := m.openAs(p2p.Config{Home: t.TempDir(), Clock: clock.read, TimestampKeys: []announce.PrivateKey{m.key}})
	s.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	s.run()
	l := m.up(s.addr())
	l.until("the release", func(st p2p.Status) bool { return len(st.Products) == 1 })
	advance := func(wall, since int64) { clock.wall.Add(wall); clock.since.Add(since); s.Look() }
	asOf := func(l *laptop, at int64) {
		t.Helper()
		l.until("a timestamp", func(st p2p.Status) bool { return st.Products[0].Freshness.AsOf >= at })
	}
	s.until("the network", func(st p2p.Status) bool { return len(st.Neighbours) == 1 })
	next := s.NextStamp()
	if advance(59, 59); s.NextStamp() != next {
		t.Error("it signs before it has listened for a minute")
	}
	advance(2941, 2941)
	asOf(s, 1_800_003_000)
	asOf(l, 1_800_003_000)
	advance(3601, 3601)
	asOf(l, 1_800_006_601)
	advance(-aDay, 3601) // somebody set the clock back
	st := s.until("a refusal", func(st p2p.Status) bool { return st.Node.TimestampErr != "" })
	if !st.Node.Timestamps || st.Clock.State != p2p.ClockWrong || !strings.Contains(st.Node.TimestampErr, "cannot be") {
		t.Errorf("%+v %+v", st.Node, st.Clock)
	}
	draft, err := s.NextTimestamp()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := draft.Sign(draft.Latest+1, m.key); p2p.CodeOf(err) != p2p.CodeRefused {
		t.Errorf("dated years ahead: %v", err)
	}
	stranger, _ := announce.GenerateKey(rand.Reader)
	if _, err := draft.Sign(draft.Earliest, stranger); p2p.CodeOf(err) != p2p.CodeRefused {
		t.Errorf("a stranger's key: %v", err)
	}
	if _, err := draft.Sign(draft.Earliest); p2p.CodeOf(err) != p2p.CodeRefused {
		t.Errorf("no key: %v", err)
	}
}

// Two roots of one version, both signed by enough root keys: everybody hears of it, nobody changes sides, and the next
// root makes one mesh again.
func TestRivalRootsShowEverywhere(t *testing.T) {
	m := newMesh(t)
	second := func(version uint64, renewBy int64) []byte {
		id := []announce.KeyID{m.key.Public().ID()}
		role := announce.RoleRule{Keys: id, Threshold: 1}
		env, err := (&announce.Root{Version: version, RenewBy: renewBy, Keys: []announce.PublicKey{m.key.Public()},
			Roles:    map[announce.Role]announce.RoleRule{announce.RoleRoot: role},
			Products: []announce.ProductRule{{Pattern: "*", Epoch: 1, Keys: id, Threshold: 1, Class: announce.ClassContent}}}).Sign(m.key)
		if err != nil {
			t.Fatal(err)
		}
		return env
	}
	a := m.up()
	b := m.up(a.addr())
	b.until("the same catalog", func(s p2p.Status) bool { return len(s.Neighbours) == 1 && s.Neighbours[0].Catalog == "same" })
	if err := b.Trust(second(2, 1), false); err != nil {
		t.Fatal(err)
	}
	a.until("the new root", func(s p2p.Status) bool { return s.Root.Version == 2 })
	c := m.open(t.TempDir())
	if err := c.Trust(second(2, 2), false); err != nil {
		t.Fatal(err)
	}
	addr := a.addr()
	c.Close()
	c.Node = nil
	c = m.openTrusting(c.home, addr)
	c.run()
	for _, l := range []*laptop{a, b, c} {
		s := l.until("the rival", func(s p2p.Status) bool { return s.Root.Rival })
		if s.Root.Version != 2 {
			t.Errorf("root version %d", s.Root.Version)
		}
		if text, _ := l.Explain(""); !strings.Contains(strings.Join(text, " "), "two different roots") {
			t.Errorf("explain does not say so: %q", text)
		}
	}
	if err := c.Trust(second(3, 3), false); err != nil {
		t.Fatal(err)
	}
	for _, l := range []*laptop{a, b, c} {
		l.until("one mesh", func(s p2p.Status) bool {
			return s.Root.Version == 3 && !s.Root.Rival && s.Node.Catalog == c.Status().Node.Catalog
		})
	}
}

// openTrusting opens a home that trusts something already.
func (m *mesh) openTrusting(home string, peers ...string) *laptop {
	m.t.Helper()
	n, err := p2p.Open(p2p.Config{Home: home, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Peers: peers, NoDiscovery: true})
	if err != nil {
		m.t.Fatal(err)
	}
	l := &laptop{Node: n, m: m, home: home}
	m.t.Cleanup(l.close)
	return l
}

// Two meshes on one link leave each other in peace.
func TestOtherMesh(t *testing.T) {
	m, other := newMesh(t), newMesh(t)
	a := m.up()
	b := other.up(a.addr())
	a.publish("lessons", "ours", tree(t, map[string]string{"a": "1"}))
	b.publish("lessons", "theirs", tree(t, map[string]string{"a": "2"}))
	for l, want := range map[*laptop]string{a: "ours", b: "theirs"} {
		s := l.until("the other root", func(s p2p.Status) bool { return len(s.Neighbours) == 1 && s.Neighbours[0].Catalog == "other root" })
		if len(s.Products) != 1 || s.Products[0].Newest.Version != want {
			t.Errorf("%+v", s.Products)
		}
	}
	c := m.up(b.addr(), a.addr()) // through the stranger nothing comes, past it everything does
	if err := c.Carry("*"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if ps, err := c.Wait(ctx, "lessons", 1, p2p.StateReady); err != nil || ps.Newest.Version != "ours" {
		t.Errorf("%+v %v", ps, err)
	}
}

// A release for a newer program is not laid down, and says so.
func TestReleaseForNewerProgram(t *testing.T) {
	m := newMesh(t)
	l := m.open(t.TempDir())
	if err := l.Follow("lessons", t.TempDir()); err != nil {
		t.Fatal(err)
	}
	res, _ := l.sign("lessons", "2", tree(t, map[string]string{"a": "1"}), 1)
	env, err := (&announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: 1, Version: "2", Manifest: res.Manifest,
		ManifestSize: res.ManifestSize, TotalSize: res.TotalSize, MinUpdater: 2}).Sign(m.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Announce(env); err != nil {
		t.Fatal(err)
	}
	s := l.until("an error", func(s p2p.Status) bool { return s.Products[0].State == p2p.StateFailed })
	if !strings.Contains(s.Products[0].Error, "format 2") || s.Products[0].Ready != nil {
		t.Errorf("%+v", s.Products[0])
	}
}
