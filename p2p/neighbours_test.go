package p2p

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"pgregory.net/rapid"
)

func addr(t testing.TB, s string) ma.Multiaddr {
	a, err := ma.NewMultiaddr(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

var start = time.Date(1970, 1, 1, 0, 0, 0, 0, time.UTC) // a machine without a clock is a machine

func ids(infos []peer.AddrInfo) (out []peer.ID) {
	for _, i := range infos {
		out = append(out, i.ID)
	}
	slices.Sort(out)
	return out
}

func TestDialPoliteness(t *testing.T) {
	a := addr(t, "/ip4/10.0.0.2/tcp/1")
	small, large := newTable("aaa"), newTable("zzz")
	small.heard("mmm", a, "beacon", start)
	large.heard("mmm", a, "beacon", start)
	if due, _ := small.dials(start); len(due) != 1 {
		t.Errorf("the smaller id dials %v at once", due)
	}
	if due, _ := large.dials(start); len(due) != 0 {
		t.Errorf("the larger id does not wait: %v", due)
	}
	large.up("mmm", a, false, start.Add(200*time.Millisecond))
	if due, _ := large.dials(start.Add(politeness)); len(due) != 0 {
		t.Errorf("connected meanwhile, yet dialled: %v", due)
	}
}

func TestRedialPatience(t *testing.T) {
	tab := newTable("aaa")
	tab.heard("bbb", addr(t, "/ip4/10.0.0.2/tcp/1"), "beacon", start)
	now, last := start, time.Duration(0)
	for i := range 20 {
		due, _ := tab.dials(now)
		if len(due) != 1 {
			t.Fatalf("try %d: dials %v", i, due)
		}
		if again, _ := tab.dials(now); len(again) != 0 {
			t.Fatalf("try %d: dialled twice at once", i)
		}
		tab.failed("bbb", now)
		k := tab.known["bbb"]
		if k.patience < last || k.patience > maxPatience {
			t.Fatalf("try %d: patience %v after %v", i, k.patience, last)
		}
		last, now = k.patience, k.due
	}
	tab.heard("bbb", addr(t, "/ip4/10.0.0.3/tcp/1"), "beacon", start)
	if due, _ := tab.dials(start); len(due) != 1 || due[0].Addrs[0].String() != "/ip4/10.0.0.2/tcp/1" && len(due[0].Addrs) != 2 {
		t.Errorf("a new address is not tried at once: %v", due)
	}
	tab.failed("bbb", start)
	before := tab.known["bbb"].patience
	tab.up("bbb", addr(t, "/ip4/10.0.0.2/tcp/1"), true, start)
	tab.down("bbb", start)
	if tab.known["bbb"].patience <= before {
		t.Error("a connection that was refused at once counts as a success")
	}
	tab.up("bbb", addr(t, "/ip4/10.0.0.2/tcp/1"), true, start)
	tab.prove("bbb")
	tab.down("bbb", start)
	if k := tab.known["bbb"]; k.patience != 0 || k.due.After(start.Add(time.Second)) {
		t.Error("a neighbour that was lost is not dialled soon")
	}
	tab.failed("bbb", start)
	tab.hurry(start)
	if tab.known["bbb"].due.After(start.Add(time.Second)) {
		t.Error("a changed network does not make it due")
	}
}

func TestDialLimits(t *testing.T) {
	tab := newTable("aaa")
	for i := range 100 {
		tab.heard(peer.ID(fmt.Sprintf("p%03d", i)), addr(t, fmt.Sprintf("/ip4/10.0.1.%d/tcp/1", i)), "beacon", start)
	}
	if due, _ := tab.dials(start); len(due) != maxDials {
		t.Errorf("%d dials at once, limit %d", len(due), maxDials)
	}
	n := 0
	for _, k := range tab.known {
		if n < wantNeighbours {
			tab.up(k.ID, addr(t, "/ip4/10.0.0.9/tcp/1"), true, start)
		}
		k.dialling = false
		n++
	}
	tab.configure(peer.AddrInfo{ID: "conf", Addrs: []ma.Multiaddr{addr(t, "/ip4/192.0.2.1/tcp/1")}}, start)
	due, _ := tab.dials(start)
	if got := ids(due); !slices.Equal(got, []peer.ID{"conf"}) {
		t.Errorf("with enough neighbours it dials %v, want only the configured peer", got)
	}
	for i := range 2 * maxKnown {
		tab.heard(peer.ID(fmt.Sprintf("q%05d", i)), addr(t, "/ip4/10.0.0.2/tcp/1"), "beacon", start)
	}
	if len(tab.known) > maxKnown {
		t.Errorf("%d known, limit %d", len(tab.known), maxKnown)
	}
	if tab.known["conf"] == nil {
		t.Error("the configured peer was forgotten")
	}
}

func TestTableRemembers(t *testing.T) {
	tab := newTable("aaa")
	key, err := peer.Decode("12D3KooWSHj3RRbBjD15g6wekV8y3mm57Pobmps2g2WJm6F67Lay")
	if err != nil {
		t.Fatal(err)
	}
	zone := "/ip6zone/eth0/ip6/fe80::1/tcp/4001"
	tab.up(key, addr(t, zone), true, start)
	text, err := json.Marshal(tab.known[key].remember())
	if err != nil {
		t.Fatal(err)
	}
	next := newTable("aaa")
	if !next.recall(key.String(), text, start) {
		t.Fatal("a remembered peer was not taken")
	}
	due, _ := next.dials(start.Add(time.Second))
	if len(due) != 1 || due[0].Addrs[0].String() != "/ip6zone/eth0"+zone || readable(due[0].Addrs[0]).String() != zone {
		t.Errorf("dials %v", due)
	}
	for _, bad := range []string{"", "{}", "null", `{"addrs":["x"]}`} {
		next.recall("not an id", []byte(bad), start)
		next.recall(key.String(), []byte(bad), start)
	}
}

func TestTableNeverDialsWrongly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := newTable("self")
		now := start
		a, _ := ma.NewMultiaddr("/ip4/10.0.0.2/tcp/1")
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			p := peer.ID(rapid.SampledFrom([]string{"a", "b", "c", "z", "self"}).Draw(t, "peer"))
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0:
				tab.heard(p, a, "beacon", now)
			case 1:
				if p != "self" {
					tab.up(p, a, true, now)
				}
			case 2:
				tab.down(p, now)
			case 3:
				tab.failed(p, now)
			case 4:
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(time.Minute)).Draw(t, "pass")))
			case 5:
				due, next := tab.dials(now)
				if !next.After(now) {
					t.Fatalf("next look is not later: %v at %v", next, now)
				}
				for _, d := range due {
					if d.ID == "self" || tab.known[d.ID].connected || len(d.Addrs) == 0 {
						t.Fatalf("dials %v", d)
					}
				}
			}
		}
	})
}

func TestFramesAreBounded(t *testing.T) {
	long := append([]byte{0xff, 0xff, 0xff, 0xff, 0x7f}, bytes.Repeat([]byte{1}, 100)...)
	for _, c := range [][]byte{long, {0}, {0x80}, {5, 1}, {}} {
		if _, _, err := readFrame(reader(c), 1000); err == nil {
			t.Errorf("frame %x was taken", c)
		}
	}
	typ, b, err := readFrame(reader(appendFrame(nil, 7, []byte("ab"), []byte("c"))), 4)
	if err != nil || typ != 7 || string(b) != "abc" {
		t.Errorf("frame came back as %d %q, %v", typ, b, err)
	}
}

func TestLinkLocalForms(t *testing.T) {
	plain := addr(t, "/ip6zone/eth0/ip6/fe80::1/tcp/4001")
	double := dialable(plain)
	tr := &linkLocalTransport{}
	if !tr.CanDial(double) || !readable(double).Equal(plain) {
		t.Errorf("%v becomes %v and then %v", plain, double, readable(double))
	}
	for _, s := range []string{"/ip4/10.0.0.1/tcp/1", "/ip6/fd00::1/tcp/1", "/ip6zone/eth0/ip6/2001:db8::1/tcp/1"} {
		if a := addr(t, s); !dialable(a).Equal(a) {
			t.Errorf("%s is changed to %s", a, dialable(a))
		}
	}
}

func TestBansGrow(t *testing.T) {
	g := newGater()
	now := time.Now()
	if d1, d2 := g.ban("a", now), g.ban("a", now); d2 != 2*d1 || !g.banned("a") || g.banned("b") {
		t.Errorf("bans of %v and %v", d1, d2)
	}
	for i := range 100 {
		if d := g.ban("a", now); d > longBan || d <= 0 {
			t.Fatalf("ban %d is %v", i, d)
		}
	}
	for i := range 3 * maxBans {
		g.ban(peer.ID(fmt.Sprint(i)), now)
	}
	if len(g.until) > maxBans {
		t.Errorf("%d bans remembered", len(g.until))
	}
}

func TestDeafNeighbour(t *testing.T) {
	g := &gossip{since: map[peer.ID]time.Time{}}
	all := []peer.ID{"a", "b"}
	if d := g.deaf(start, all, []peer.ID{"a"}); len(d) != 0 {
		t.Errorf("at once: %v", d)
	}
	if d := g.deaf(start.Add(deafAfter), all, []peer.ID{"a"}); !slices.Equal(d, []peer.ID{"b"}) {
		t.Errorf("after a while: %v", d)
	}
	if d := g.deaf(start.Add(2*deafAfter), all, all); len(d) != 0 {
		t.Errorf("when it has joined: %v", d)
	}
}
