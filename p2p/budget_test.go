package p2p

import (
	"fmt"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Liars together take no more than their share of an old machine, and forty-eight of them do not starve an honest peer.
func TestBudgetShares(t *testing.T) {
	b := newBudget(checksOfEach, checksOfAll)
	now := time.Now()
	const seconds = 1000
	spent, starved := 0, 0
	for range seconds {
		now = now.Add(time.Second)
		for liar := range 48 {
			for range 20 {
				if b.take(now, peer.ID(fmt.Sprint("liar", liar)), 1) {
					spent++
				}
			}
		}
		if !b.may(now, "honest") {
			starved++
		}
	}
	if limit := int(checksOfAll.start + seconds*checksOfAll.rate); spent > limit {
		t.Errorf("%d checks for liars in %d seconds, limit %d", spent, seconds, limit)
	}
	if starved > 0 {
		t.Errorf("the honest peer had nothing left in %d of %d seconds", starved, seconds)
	}
	if each := 48 * int(checksOfEach.start+checksOfEach.rate*seconds); spent > each {
		t.Errorf("%d checks for liars who together may have %d", spent, each)
	}
}

// New names are worth little, and are not remembered without end.
func TestBudgetOfNewcomers(t *testing.T) {
	b := newBudget(checksOfEach, checksOfAll)
	now := time.Now()
	spent := 0
	for i := range 10_000 {
		for b.take(now, peer.ID(fmt.Sprint(i)), 1) {
			spent++
		}
	}
	if limit := int(checksOfAll.start); spent > limit {
		t.Errorf("%d checks at once for newcomers, limit %d", spent, limit)
	}
	if len(b.peers) > maxPayers {
		t.Errorf("%d peers are remembered, limit %d", len(b.peers), maxPayers)
	}
	one := newBudget(checksOfEach, checksOfAll)
	first := 0
	for one.take(now, "new", 1) {
		first++
	}
	if first != int(checksOfEach.start) {
		t.Errorf("a newcomer gets %d checks, want %v", first, checksOfEach.start)
	}
	for range 5 { // debts are paid before anything is spent again
		one.spend(now, "new", 1)
	}
	if now = now.Add(55 * time.Second); one.may(now, "new") {
		t.Error("a debt is forgotten")
	}
	if now = now.Add(10 * time.Second); !one.may(now, "new") {
		t.Error("a debt is never paid")
	}
}

// Who owes is kept when there is no room for all, until time has forgiven it.
func TestBudgetForgetsTheRich(t *testing.T) {
	b := newBudget(checksOfEach, allowance{})
	now := time.Now()
	const debtors = maxPayers / 2
	for i := range debtors {
		b.spend(now, peer.ID(fmt.Sprint("debtor", i)), 50)
	}
	for i := range 4 * maxPayers {
		b.may(now, peer.ID(fmt.Sprint(i)))
	}
	if len(b.peers) != maxPayers {
		t.Errorf("%d peers are told apart, %d may be", len(b.peers), maxPayers)
	}
	for i := range debtors {
		p := peer.ID(fmt.Sprint("debtor", i))
		if w := b.peers[p]; w == nil || w.left > 0 || b.may(now, p) || b.denied(p) != 1 {
			t.Fatal("debts are gone when many come")
		}
		if !b.may(now.Add(time.Hour), p) || b.denied(p) != 0 {
			t.Fatal("after an hour it is not forgiven")
		}
	}
}

// A clock that goes back fills nothing, one that jumps ahead no more than there is room for.
func TestBudgetAndClocks(t *testing.T) {
	b := newBudget(checksOfEach, allowance{})
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	b.spend(now, "p", 2)
	if b.may(now.AddDate(-50, 0, 0), "p") {
		t.Error("a clock set back fills the purse")
	}
	b.may(now.AddDate(70, 0, 0), "p")
	if left := b.peers["p"].left; left != checksOfEach.burst {
		t.Errorf("after seventy years there are %v left, want %v", left, checksOfEach.burst)
	}
}

// However many strangers have dialled us, some neighbours are of our own choice.
func TestStrangersDoNotCrowdOut(t *testing.T) {
	now := time.Now()
	tab := newTable("me")
	for i := range 40 {
		tab.up(peer.ID(fmt.Sprint("stranger", i)), addr(t, fmt.Sprintf("/ip4/10.0.1.%d/tcp/5000", i+1)), false, now)
	}
	for i := range 10 {
		tab.heard(peer.ID(fmt.Sprint("honest", i)), addr(t, fmt.Sprintf("/ip4/10.0.2.%d/tcp/4001", i+1)), "beacon", now)
	}
	now = now.Add(time.Second)
	due, _ := tab.dials(now)
	if len(due) != wantChosen {
		t.Fatalf("among forty strangers %d are dialled, want %d", len(due), wantChosen)
	}
	for _, info := range due {
		tab.up(info.ID, info.Addrs[0], true, now)
	}
	if due, _ := tab.dials(now); len(due) != 0 {
		t.Errorf("%d more are dialled though there are enough", len(due))
	}
}

// Bans are remembered of the last many, and the one that ends first goes.
func TestBansAreBounded(t *testing.T) {
	g := newGater()
	now := time.Now()
	for range 5 {
		g.ban("worst", now)
	}
	for i := range 3 * maxBans {
		g.ban(peer.ID(fmt.Sprint(i)), now)
	}
	if g.size() > maxBans || len(g.count) > maxBans {
		t.Errorf("%d bans and %d counts, limit %d", g.size(), len(g.count), maxBans)
	}
	if !g.banned("worst") {
		t.Error("who was banned for longest is forgotten for others' sake")
	}
}
