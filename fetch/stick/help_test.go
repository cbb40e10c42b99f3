package stick

import (
	"context"
	cryptorand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
	"satchel/store/manifest"
)

// patienceOfTests bounds every wait; nothing asserts how long anything takes.
const patienceOfTests = time.Minute

// publisher is a home of a publisher, as far as a stick needs one.
type publisher struct {
	t     *testing.T
	key   announce.PrivateKey
	cat   *announce.Catalog
	store *store.Store
	seq   map[string]uint64
}

func newPublisher(t *testing.T) *publisher {
	t.Helper()
	key, err := announce.GenerateKey(cryptorand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &publisher{t: t, key: key, cat: announce.NewCatalog(), store: openStore(t), seq: map[string]uint64{}}
	if err := p.cat.Trust(p.root(1)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *publisher) root(version uint64) []byte {
	p.t.Helper()
	ids := []announce.KeyID{p.key.Public().ID()}
	role := announce.RoleRule{Keys: ids, Threshold: 1}
	env, err := (&announce.Root{Version: version, Keys: []announce.PublicKey{p.key.Public()},
		Roles:    map[announce.Role]announce.RoleRule{announce.RoleRoot: role, announce.RoleTimestamp: role},
		Products: []announce.ProductRule{{Pattern: "*", Epoch: 1, Keys: ids, Threshold: 1, Class: announce.ClassContent}}}).Sign(p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return env
}

// publish makes the next release of product.
func (p *publisher) publish(product string, files map[string]string) fetch.Release {
	p.t.Helper()
	p.seq[product]++
	h := manifest.Header{Product: product, Epoch: 1, Seq: p.seq[product], Version: fmt.Sprint(p.seq[product])}
	dir := p.t.TempDir()
	for name, text := range files {
		write(p.t, filepath.Join(dir, name), text)
	}
	res, err := p.store.Publish(context.Background(), dir, store.PublishOptions{Header: h})
	if err != nil {
		p.t.Fatal(err)
	}
	env, err := (&announce.Announcement{Product: product, RootVer: p.cat.RootVersion(), Epoch: 1, Seq: h.Seq, Version: h.Version,
		Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize}).Sign(p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	if r := p.cat.Add(env); r.Verdict != announce.Accept {
		p.t.Fatal(r.Reason)
	}
	return fetch.Release{Product: product, Epoch: 1, Seq: h.Seq, Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize}
}

func (p *publisher) config(dir string, releases ...fetch.Release) Config {
	c := Config{Dir: dir, Store: p.store, Kept: p.cat.Kept()}
	for _, r := range releases {
		c.Releases = append(c.Releases, Release{Manifest: r.Manifest})
	}
	return c
}

func (p *publisher) export(dir string, releases ...fetch.Release) Result {
	p.t.Helper()
	res, err := Export(context.Background(), p.config(dir, releases...))
	if err != nil {
		p.t.Fatal(err)
	}
	return res
}

func openStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func open(t *testing.T, dir string) *Stick {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// noise is n bytes that do not repeat, the same for the same seed.
func noise(seed, n int) string {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b)
	return string(b)
}

// lessons is a tree with small files, an empty one, and large ones that share most chunks with the version before.
func lessons(version int) map[string]string {
	files := map[string]string{"empty": "", "README": fmt.Sprintf("lessons %d", version),
		"big": noise(1, 1<<20) + noise(100+version, 500) + noise(2, 1<<20), "huge": noise(3, 3<<20)}
	for i := range 50 {
		files[fmt.Sprintf("unit/%03d", i)] = noise(1000+i, 200+97*i)
	}
	if version > 1 {
		files["unit/007"] = noise(5000, 30_000)
	}
	return files
}

// fetchFrom fetches a release from sticks into a store until it is complete, or they have nothing more to give.
func fetchFrom(t *testing.T, into *store.Store, r fetch.Release, sticks ...*Stick) (fetch.Progress, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patienceOfTests)
	defer cancel()
	s := fetch.New(fetch.Config{Store: into, Release: r, Self: "me", OnBlame: func(peer, reason string) { t.Errorf("%s is blamed: %s", peer, reason) }})
	serving, stop := context.WithCancel(ctx)
	served := make(chan struct{}, len(sticks))
	for i, st := range sticks {
		n := NewNeighbour(st, fmt.Sprintf("stick %d", i))
		go func() { n.Run(serving); served <- struct{}{} }()
		n.Join(s)
	}
	running, end := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(running) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var err error
	for waiting := true; waiting; {
		select {
		case err = <-ended:
			waiting = false
		case <-tick.C:
			if s.Idle() {
				end()
			}
		}
	}
	end()
	stop()
	for range sticks {
		<-served
	}
	if ctx.Err() != nil {
		t.Fatal("the fetch does not end")
	}
	return s.Progress(), err
}

// listing is names and sizes of what is on a stick.
func listing(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, Dir))
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, e := range entries {
		fi, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%s %d", e.Name(), fi.Size()))
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, Dir, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found
}

func flip(t *testing.T, path string, at int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if at < 0 {
		at += int64(len(b))
	}
	b[at] ^= 0x40
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// offsets lists where the pieces of a pack begin.
func offsets(t *testing.T, path string) (at []int64) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := packCount(b)
	if err != nil {
		t.Fatal(err)
	}
	entries, err := parseTable(b[:tableSize(n)])
	if err != nil {
		t.Fatal(err)
	}
	next := tableSize(n)
	for _, e := range entries {
		at = append(at, next)
		next += int64(e.size)
	}
	return at
}
