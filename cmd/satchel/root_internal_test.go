package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"satchel/announce"
	"satchel/p2p"
)

// A file that cannot be replaced is as it was, and nothing is left beside it.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "root"), filepath.Join(dir, "link")
	if err := errors.Join(os.WriteFile(file, []byte("old"), 0o640), os.Chmod(file, 0o640), os.Symlink("root", link)); err != nil {
		t.Fatal(err)
	}
	check := func(want string) {
		t.Helper()
		text, err := os.ReadFile(file)
		info, err2 := os.Stat(file)
		entries, err3 := os.ReadDir(dir)
		if err := errors.Join(err, err2, err3); err != nil || string(text) != want || info.Mode().Perm() != 0o640 || len(entries) != 2 {
			t.Fatalf("%q, mode %v, %d entries, %v", text, info.Mode(), len(entries), err)
		}
	}
	if err := replaceFile(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	check("new")
	if target, err := os.Readlink(link); err != nil || target != "root" {
		t.Errorf("the link is now %q, %v", target, err)
	}
	err := asNobody(t, dir, func() error { return replaceFile(file, []byte("newer")) })
	if p2p.CodeOf(err) != p2p.CodeReadOnly || p2p.HintOf(err) == "" {
		t.Errorf("in a directory that cannot be written: %v", err)
	}
	check("new")
	if err := replaceFile(filepath.Join(dir, "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	check("new")
}

// asNobody runs f without the right to write dir, also when the tests run as root.
func asNobody(t *testing.T, dir string, f func() error) error {
	t.Helper()
	if os.Geteuid() != 0 {
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		defer os.Chmod(dir, 0o700)
		return f()
	}
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() { // the thread ends with the goroutine, since that never unlocks it
		runtime.LockOSThread()
		if err := unix.Setfsuid(65534); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func TestRootChanges(t *testing.T) {
	key := func(n byte) announce.PublicKey {
		k, err := announce.GenerateKey(strings.NewReader(strings.Repeat(string(rune(n)), 32)))
		if err != nil {
			t.Fatal(err)
		}
		return k.Public()
	}
	a, b := key(1), key(2)
	root := func() *announce.Root {
		r := &announce.Root{Version: 1, Roles: map[announce.Role]announce.RoleRule{}}
		for _, s := range []announce.Seat{{Role: announce.RoleRoot}, {Role: announce.RoleWake}, {Pattern: "x"}, {Pattern: "y"}} {
			r.AddKey(a, s)
		}
		r.Products[0].Epoch, r.Products[0].MayWake = 1, true
		return r
	}
	next := root()
	next.AddKey(b, announce.Seat{Role: announce.RoleRoot})
	next.DropSeat(announce.Seat{Role: announce.RoleWake})
	next.DropSeat(announce.Seat{Pattern: "y"})
	next.AddKey(b, announce.Seat{Pattern: "z"})
	next.AddKey(b, announce.Seat{Pattern: "x"})
	next.RemoveKey(a.ID(), announce.Seat{Pattern: "x"})
	next.Products[0].Epoch, next.Products[0].MayWake, next.Products[0].MayNames = 2, false, true
	next.RenewBy = 86_400
	want := []string{
		"key B is new",
		"role root: 1 of 2, was 1 of 1, with B",
		"product x: with B, without A, epoch 2, was 1, may no longer wake, may names",
		"product z: new, 1 of 1 (B), class content",
		"role wake is gone",
		"product y is gone",
		"renew by: 1970-01-02, was never",
	}
	got := rootChanges(root(), next)
	for i := range got {
		got[i] = strings.NewReplacer(a.ID().String(), "A", b.ID().String(), "B").Replace(got[i])
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
	if got := rootChanges(next, next); !slices.Equal(got, []string{"nothing but the date"}) {
		t.Errorf("%q", got)
	}
}

func TestWarnRoot(t *testing.T) {
	one, err := announce.GenerateKey(strings.NewReader(strings.Repeat("1", 32)))
	if err != nil {
		t.Fatal(err)
	}
	two, err := announce.GenerateKey(strings.NewReader(strings.Repeat("2", 32)))
	if err != nil {
		t.Fatal(err)
	}
	alone, both := []announce.PublicKey{one.Public()}, []announce.PublicKey{one.Public(), two.Public()}
	for _, c := range []struct {
		keys            []announce.PublicKey
		threshold       int
		renewBy, issued int64
		want            string // "": no warning
	}{
		{alone, 1, 0, 0, "key " + one.Public().ID().String() + " alone can change everything"},
		{both, 1, 0, 0, "any one of the root keys can change everything"},
		{both, 2, 0, 0, ""},
		{both, 2, 999_999, 0, "was to be renewed by 1970-01-12"},
		{both, 2, 1_000_000, 1_050_000, ""},
		{both, 2, 0, 1_100_000, "is dated 1970-01-13, and the clock of this machine says 1970-01-12"},
	} {
		r := &announce.Root{Version: 1, Issued: c.issued, RenewBy: c.renewBy, Roles: map[announce.Role]announce.RoleRule{}}
		for _, k := range c.keys {
			r.AddKey(k, announce.Seat{})
		}
		r.Roles[announce.RoleRoot] = announce.RoleRule{Keys: r.Roles[announce.RoleRoot].Keys, Threshold: c.threshold}
		f, err := announce.NewRootFile(r)
		if err != nil {
			t.Fatal(err)
		}
		var said strings.Builder
		(&env{stderr: &said}).warnRoot(f, time.Unix(1_000_000, 0))
		if (c.want == "") != (said.Len() == 0) || !strings.Contains(said.String(), c.want) {
			t.Errorf("%d of %d, renew by %d, issued %d: %q", c.threshold, len(c.keys), c.renewBy, c.issued, &said)
		}
	}
}

// The beginning of an id names a key only when it names no other.
func TestNamedKey(t *testing.T) {
	byPrefix := map[string]announce.PublicKey{}
	r := &announce.Root{Version: 1, Roles: map[announce.Role]announce.RoleRule{}}
	var prefix string
	for n := uint64(0); prefix == ""; n++ { // two keys with the same first four digits: some 300 tries
		k, err := announce.GenerateKey(bytes.NewReader(binary.BigEndian.AppendUint64(make([]byte, 24), n)))
		if err != nil {
			t.Fatal(err)
		}
		p := k.Public().ID().String()[:4]
		if other, ok := byPrefix[p]; ok {
			prefix = p
			r.AddKey(other, announce.Seat{})
			r.AddKey(k.Public(), announce.Seat{})
		}
		byPrefix[p] = k.Public()
	}
	f, err := announce.NewRootFile(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := namedKey(f, prefix); p2p.CodeOf(err) != p2p.CodeBadInput || !strings.Contains(err.Error(), "more than one key begins with "+prefix) {
		t.Errorf("%s: %v", prefix, err)
	}
	for _, k := range r.Keys {
		id := k.ID().String()
		for _, arg := range []string{id, strings.ToUpper(id), id[:15]} {
			if got, err := namedKey(f, arg); err != nil || got != k {
				t.Errorf("%s: %v, %v", arg, got.ID(), err)
			}
		}
		if _, err := namedKey(f, id+"0"); !errors.Is(err, fs.ErrNotExist) { // too long for an id: a file
			t.Error(err)
		}
	}
	if _, err := namedKey(f, "0123456789abcdef"); p2p.CodeOf(err) != p2p.CodeNotFound {
		t.Error(err)
	}
}
