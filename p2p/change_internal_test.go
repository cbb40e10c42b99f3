package p2p

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"satchel/announce"
	"satchel/store/image/boot"
)

// classNode is a node whose root has the product os of a class, and b of content.
func classNode(t *testing.T, class string) (*Node, func(product string, seq uint64, files ...string)) {
	root, k := newPen(t), newPen(t)
	one := func(p pen) announce.RoleRule { return announce.RoleRule{Keys: []announce.KeyID{p.id()}, Threshold: 1} }
	rule := func(product, class string) announce.ProductRule {
		return announce.ProductRule{Pattern: product, Epoch: 1, Keys: []announce.KeyID{k.id()}, Threshold: 1, Class: class}
	}
	r := announce.Root{Version: 1, Issued: rootIssued, Roles: map[announce.Role]announce.RoleRule{announce.RoleRoot: one(root)},
		Keys: []announce.PublicKey{root.Public(), k.Public()}, Products: []announce.ProductRule{rule("os", class), rule("b", announce.ClassContent)}}
	env, err := r.Sign(root.PrivateKey)
	check(t, err)
	n := openNode(t, Config{}, env)
	return n, func(product string, seq uint64, files ...string) {
		t.Helper()
		tree := map[string]string{product: fmt.Sprint(seq)}
		for _, name := range files {
			tree[name] = product
		}
		publishHere(t, n, k.PrivateKey, announce.Announcement{Product: product, RootVer: 1, Epoch: 1, Seq: seq, Version: fmt.Sprint(seq)}, tree)
	}
}

// appliedTwice is classNode with an image of os, of which two releases were applied one after the other.
func appliedTwice(t *testing.T, class string) (n *Node, img string, publish func(product string, seq uint64, files ...string)) {
	t.Helper()
	n, publish = classNode(t, class)
	img = t.TempDir()
	check(t, n.Follow("os", img))
	for seq := uint64(1); seq <= 2; seq++ {
		publish("os", seq)
		_, err := n.Apply(t.Context(), "os")
		check(t, err)
	}
	return n, img, publish
}

// A node that ends just before the switch leaves everything as it was.
func TestStopBeforeTheSwitch(t *testing.T) {
	for _, class := range []string{announce.ClassSystem, announce.ClassContent} {
		n, publish := classNode(t, class)
		img := t.TempDir()
		check(t, n.Follow("os", img))
		publish("os", 1)
		_, err := n.Apply(t.Context(), "os")
		check(t, err)
		publish("os", 2)
		_, err = n.Change(t.Context(), ChangeRequest{Image: img}, func(p ChangeProgress) {
			if p.What == "switching" {
				n.stop()
				<-n.ended
			}
		})
		if text, _ := os.ReadFile(filepath.Join(img, "current", "os")); CodeOf(err) != CodeOffline || string(text) != "1" {
			t.Errorf("%s: %v, and %s is live", class, err, text)
		}
	}
}

func TestStopBeforeStaging(t *testing.T) {
	n, publish := classNode(t, announce.ClassContent)
	img := t.TempDir()
	check(t, n.Follow("os", img))
	publish("os", 1)
	c := &change{n: n, req: ChangeRequest{Image: img}, progress: func(ChangeProgress) {}}
	check(t, n.call(c.begin))
	defer n.wg.Done()
	check(t, n.call(c.decide))
	n.stop()
	<-n.ended
	if _, err := c.stage(t.Context()); err == nil {
		t.Error("staged without a node")
	}
}

// Prune, roll back, and a second change keep away from an image that is being changed.
func TestOneChangeAtATime(t *testing.T) {
	n, img, publish := appliedTwice(t, announce.ClassContent)
	publish("os", 3)
	tried := false
	_, err := n.Change(t.Context(), ChangeRequest{Image: img}, func(p ChangeProgress) {
		if p.What != "switching" {
			return
		}
		tried = true
		_, prune := n.Prune(context.Background(), UsualPrune)
		_, back := n.Rollback(context.Background(), "os")
		_, other := n.Change(context.Background(), ChangeRequest{Image: img}, nil)
		_, activate := n.ActivateDeployment(context.Background(), img, "x")
		for i, err := range []error{prune, back, other, activate} {
			if CodeOf(err) != CodeConflict || HintOf(err) == "" {
				t.Errorf("%d: %v", i, err)
			}
		}
	})
	if check(t, err); !tried {
		t.Error("nothing was switched")
	}
}

// That the checks of a trial did not come to an end says nothing of the trial.
func TestConfirmIsCut(t *testing.T) {
	n, img, _ := appliedTwice(t, announce.ClassSystem)
	home := n.cfg.Home
	check(t, n.Close())
	_, err := boot.Select(img, "")
	check(t, err)
	started := filepath.Join(t.TempDir(), "started")
	check(t, os.Mkdir(filepath.Join(img, "health.d"), 0o755))
	check(t, os.WriteFile(filepath.Join(img, "health.d", "slow"), []byte("#!/bin/sh\n: >"+started+"\nexec sleep 60\n"), 0o755))
	n = openNode(t, Config{Home: home}, nil)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		until(t, "the check", func() bool { _, err := os.Stat(started); return err == nil })
		cancel()
	}()
	if _, err := n.Confirm(ctx, "os"); err == nil {
		t.Error("confirmed what was not checked")
	}
	s, err := n.Image(img)
	check(t, err)
	for _, d := range s.Deployments {
		if d.Failed {
			t.Errorf("%s counts as failed", d.ID)
		}
	}
	if s.Trial == "" {
		t.Error("the trial is over")
	}
}

// Two products with one path in both are laid down no more often than patience allows, and the reason shows.
func TestConflictShows(t *testing.T) {
	n, publish := classNode(t, announce.ClassContent)
	img := t.TempDir()
	for _, product := range []string{"os", "b"} {
		check(t, n.Follow(product, img))
	}
	publish("os", 1)
	_, err := n.Change(t.Context(), ChangeRequest{Image: img}, nil)
	check(t, err)
	publish("b", 1, "os")
	runNode(t, n)
	until(t, "the conflict", func() bool {
		s := n.productStatus("b")
		return s.State == StateFailed && s.Error != ""
	})
	patience, again := time.Duration(0), 0
	n.do(func() { patience = n.places[img].patience })
	for range 20 {
		n.do(func() {
			n.advanceAll()
			if n.places[img].job != nil {
				again++
			}
		})
	}
	if patience == 0 || again > 0 {
		t.Errorf("tried %d times again, patience %v", again, patience)
	}
}
