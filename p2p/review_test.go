package p2p_test

import (
	"testing"

	"satchel/announce"
	"satchel/p2p"
)

// A machine that lost its catalog is offered what it has left behind long ago: it stays where it is.
func TestLostCatalogDoesNotGoBack(t *testing.T) {
	m := newMesh(t)
	old := m.up() // knows the first release only
	old.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	l := m.open(t.TempDir())
	img := t.TempDir()
	if err := l.Follow("lessons", img); err != nil {
		t.Fatal(err)
	}
	l.publish("lessons", "1", tree(t, map[string]string{"a": "1"}))
	l.publish("lessons", "2", tree(t, map[string]string{"a": "2"}))
	if r, err := l.Apply(t.Context(), "lessons"); err != nil || r.Seq != 2 {
		t.Fatal(r, err)
	}
	l.close()
	l = m.open(t.TempDir(), old.addr()) // a new home, the same image
	if err := l.Follow("lessons", img); err != nil {
		t.Fatal(err)
	}
	l.run()
	s := l.until("the old release", func(s p2p.Status) bool { return len(s.Products) == 1 && s.Products[0].Newest != nil })
	if _, err := l.Apply(t.Context(), "lessons"); err == nil {
		t.Error("the live tree went back")
	}
	if s = l.Status(); s.Products[0].Live.Seq != 2 || s.Products[0].Ready != nil {
		t.Errorf("%+v", s.Products[0])
	}
	if err := l.Trust(m.root, true); err != nil { // a person starts anew
		t.Fatal(err)
	}
	l.wait("lessons", 1, p2p.StateReady)
	if r, err := l.Apply(t.Context(), "lessons"); err != nil || r.Seq != 1 {
		t.Error(r, err)
	}
}

// A floor holds for the epoch, also when a later release does not repeat it.
func TestFloorIsKept(t *testing.T) {
	m := newMesh(t)
	l := m.open(t.TempDir())
	for i, floor := range []uint64{0, 2, 0} {
		res, _ := l.sign("lessons", "v", tree(t, map[string]string{"a": noise(i, 100)}), 0)
		env, err := (&announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: uint64(i + 1), Version: "v", Manifest: res.Manifest,
			ManifestSize: res.ManifestSize, TotalSize: res.TotalSize, Floor: floor}).Sign(m.key)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Announce(env); err != nil {
			t.Fatal(err)
		}
	}
	home := l.home
	l.close()
	l = m.open(home)
	next, err := l.Next("lessons")
	if err != nil || next.Floor != 2 || next.Seq != 4 {
		t.Errorf("%+v %v", next, err)
	}
}
