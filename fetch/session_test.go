package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"satchel/fetch"
	"satchel/fetch/fetchtest"
	"satchel/store"
	"satchel/store/manifest"
)

// tree makes files with content that depends on seed only. Sizes are in bytes.
func tree(t *testing.T, seed uint64, sizes ...int) string {
	t.Helper()
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(seed, 3))
	for i, size := range sizes {
		data := make([]byte, size)
		for k := range data {
			data[k] = byte(rng.Uint32())
		}
		sub := filepath.Join(dir, fmt.Sprintf("d%02d", i%7))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, fmt.Sprintf("f%04d", i)), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// mixed is a list of sizes: empty, small and large files.
func mixed(small, large int) []int {
	sizes := []int{0, 1, 70}
	for i := range small {
		sizes = append(sizes, 500+i*137%20000)
	}
	for i := range large {
		sizes = append(sizes, 300_000+i*91_733)
	}
	return sizes
}

func openStore(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func publish(t *testing.T, s *store.Store, dir string, seq uint64) (fetch.Release, *store.PublishResult) {
	t.Helper()
	h := manifest.Header{Product: "lessons", Epoch: 1, Seq: seq, Version: fmt.Sprint(seq)}
	res, err := s.Publish(context.Background(), dir, store.PublishOptions{Header: h})
	if err != nil {
		t.Fatal(err)
	}
	return fetch.Release{
		Product: h.Product, Epoch: h.Epoch, Seq: h.Seq,
		Manifest: res.Manifest, ManifestSize: res.ManifestSize, TotalSize: res.TotalSize,
	}, res
}

// world is a publisher with one release and some nodes that fetch it, all connected.
type world struct {
	publisher *fetchtest.Host
	release   fetch.Release
	nodes     []*fetchtest.Host
}

func newWorld(t *testing.T, dir string, nodes int) *world {
	t.Helper()
	w := &world{publisher: fetchtest.NewHost("publisher", openStore(t, t.TempDir()))}
	w.release, _ = publish(t, w.publisher.Store, dir, 1)
	for i := range nodes {
		n := fetchtest.NewHost(fmt.Sprintf("node%d", i), openStore(t, t.TempDir()))
		n.Fetch(w.release, uint64(i))
		w.nodes = append(w.nodes, n)
	}
	return w
}

// connect makes everybody a neighbour of everybody.
func connect(t *testing.T, hosts ...*fetchtest.Host) {
	for i, a := range hosts {
		for _, b := range hosts[:i] {
			t.Cleanup(fetchtest.Connect(a, b))
		}
	}
}

func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (w *world) run(t *testing.T) {
	t.Helper()
	ctx := testContext(t)
	for _, n := range w.nodes {
		n.Start(ctx)
	}
	for _, n := range w.nodes {
		if err := n.Wait(); err != nil {
			t.Fatalf("%s: %v\n%+v", n.Name, err, n.Session.Progress())
		}
		sameContent(t, w.publisher.Store, n.Store, w.release)
	}
}

// sameContent checks every blob of a release byte for byte.
func sameContent(t *testing.T, want, got *store.Store, r fetch.Release) {
	t.Helper()
	m, err := got.Manifest(r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range m.Blobs() {
		if !bytes.Equal(content(t, want, b), content(t, got, b)) {
			t.Errorf("blob %v differs", b.CID)
		}
	}
}

func content(t *testing.T, s *store.Store, b manifest.Blob) []byte {
	t.Helper()
	f, size, err := s.OpenBlob(b.CID)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil || int64(len(data)) != size || uint64(size) != b.Size {
		t.Fatalf("blob %v has %d bytes, want %d: %v", b.CID, len(data), b.Size, err)
	}
	return data
}

func fetched(p fetch.Progress) (sum uint64) {
	for _, n := range p.BytesFetched {
		sum += n
	}
	return sum
}

func TestFetchFromOne(t *testing.T) {
	w := newWorld(t, tree(t, 1, mixed(200, 6)...), 1)
	connect(t, w.publisher, w.nodes[0])
	w.run(t)
	p := w.nodes[0].Session.Progress()
	if p.Phase != fetch.PhaseDone || p.BytesNeeded != 0 || p.BytesTotal != w.release.TotalSize || p.Blobs != p.BlobsHere {
		t.Errorf("progress at the end: %+v", p)
	}
	if sum, limit := fetched(p), w.release.TotalSize+w.release.ManifestSize+10_000; sum > limit || p.BytesDuplicate > 0 {
		t.Errorf("fetched %d bytes of at most %d, %d twice", sum, limit, p.BytesDuplicate)
	}
	if !w.nodes[0].Session.Holdings().All {
		t.Error("holdings do not say that all is here")
	}
}

func TestFetchTogether(t *testing.T) {
	w := newWorld(t, tree(t, 2, mixed(400, 12)...), 5)
	connect(t, append(w.nodes, w.publisher)...)
	w.run(t)
	total := float64(w.release.TotalSize + w.release.ManifestSize)
	var dup uint64
	for _, n := range w.nodes {
		dup += n.Session.Progress().BytesDuplicate
		if len(n.Blamed()) > 0 {
			t.Errorf("%s blamed %v", n.Name, n.Blamed())
		}
	}
	t.Logf("the publisher sent %.2f of the tree, duplicates %.2f %%", float64(w.publisher.Uploaded())/total, 20*float64(dup)/total)
	if sent := float64(w.publisher.Uploaded()) / total; sent > 2 {
		t.Errorf("the publisher sent the tree %.2f times", sent)
	}
}

func TestChain(t *testing.T) {
	// The last node only knows the one before it: everybody passes on what it has, from the first chunk on.
	w := newWorld(t, tree(t, 3, mixed(50, 4)...), 4)
	last := w.publisher
	for _, n := range w.nodes {
		connect(t, last, n)
		last = n
	}
	w.run(t)
}

func TestWrongBytes(t *testing.T) {
	lies := map[string]func(r fetch.Request, data []byte) ([]byte, bool){
		"flipped": func(r fetch.Request, data []byte) ([]byte, bool) {
			if len(data) > 0 {
				data[len(data)/2] ^= 1
			}
			return data, false
		},
		"longer":  func(r fetch.Request, data []byte) ([]byte, bool) { return append(data, make([]byte, 1<<20)...), false },
		"shorter": func(r fetch.Request, data []byte) ([]byte, bool) { return data[:len(data)/2], false },
		"empty":   func(r fetch.Request, data []byte) ([]byte, bool) { return []byte{}, false },
		"bad lists": func(r fetch.Request, data []byte) ([]byte, bool) {
			if r.Kind == fetch.List {
				data[len(data)-1] ^= 1
			}
			return data, false
		},
	}
	dir := tree(t, 4, mixed(60, 5)...)
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, dir, 2)
			liar := fetchtest.NewHost("liar", w.publisher.Store)
			liar.Answer = lie
			connect(t, append(w.nodes, w.publisher, liar)...)
			w.run(t)
			for _, n := range w.nodes {
				for id := range n.Blamed() {
					if id != "liar" {
						t.Errorf("%s blamed %s", n.Name, id)
					}
				}
				if p := n.Session.Progress(); (p.BytesCorrupt > 0 || name == "empty") != (len(n.Blamed()) > 0) && name != "empty" {
					t.Errorf("%d corrupt bytes, blamed %v", p.BytesCorrupt, n.Blamed())
				}
			}
		})
	}
}

func TestStallingNeighbour(t *testing.T) {
	w := newWorld(t, tree(t, 5, mixed(60, 5)...), 1)
	mute := fetchtest.NewHost("mute", w.publisher.Store)
	mute.Answer = func(fetch.Request, []byte) ([]byte, bool) { return nil, true }
	connect(t, w.nodes[0], mute, w.publisher)
	w.run(t)
}

func TestNeighbourWithoutAnything(t *testing.T) {
	w := newWorld(t, tree(t, 6, mixed(60, 5)...), 1)
	boaster := fetchtest.NewHost("boaster", openStore(t, t.TempDir())) // says that it has all
	connect(t, w.nodes[0], boaster, w.publisher)
	w.run(t)
}

func TestHostileHaveMaps(t *testing.T) {
	claims := map[string]fetch.HaveMap{
		"too long":          {Manifest: true, Blobs: bytes.Repeat([]byte{255}, 1000)},
		"far too long":      {Blobs: make([]byte, 2<<20)},
		"too short":         {Blobs: []byte{255}},
		"unknown blob":      {Partial: []fetch.PartialHave{{Blob: 1 << 30, Chunks: []byte{1}}}},
		"chunks of a raw":   {Partial: []fetch.PartialHave{{Blob: 1, Chunks: []byte{128}}}},
		"too many chunks":   {Partial: []fetch.PartialHave{{Blob: fetch.ManifestBlob, Chunks: bytes.Repeat([]byte{255}, 5000)}}},
		"too many partials": {Partial: make([]fetch.PartialHave, 1<<17)},
	}
	dir := tree(t, 7, mixed(60, 5)...)
	for name, claim := range claims {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, dir, 1)
			liar := fetchtest.NewHost("liar", openStore(t, t.TempDir()))
			liar.Claims = &claim
			connect(t, w.nodes[0], liar)
			ctx := testContext(t)
			w.nodes[0].Start(ctx)
			connect(t, w.nodes[0], w.publisher)
			if err := w.nodes[0].Wait(); err != nil {
				t.Fatal(err)
			}
			if blamed := w.nodes[0].Blamed(); len(blamed) != 1 || blamed["liar"] == "" {
				t.Errorf("blamed %v", blamed)
			}
		})
	}
}

func TestSecondReleaseFetchesTheDifference(t *testing.T) {
	w := newWorld(t, tree(t, 8, mixed(300, 8)...), 1)
	connect(t, w.publisher, w.nodes[0])
	w.run(t)

	// The next release changes one byte in the middle of a large file, moves another file, and has one new file.
	next := tree(t, 8, mixed(300, 8)...)
	large := filepath.Join(next, "d03", "f0304")
	data, err := os.ReadFile(large)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	write(t, large, data)
	write(t, filepath.Join(next, "d00", "copy"), append([]byte("a new beginning"), data...))
	write(t, filepath.Join(next, "d00", "new"), bytes.Repeat([]byte("new "), 1000))
	if err := os.Rename(filepath.Join(next, "d01", "f0008"), filepath.Join(next, "moved")); err != nil {
		t.Fatal(err)
	}
	release, res := publish(t, w.publisher.Store, next, 2)

	node := fetchtest.NewHost("again", w.nodes[0].Store)
	node.Fetch(release, 1)
	connect(t, w.publisher, node)
	node.Start(testContext(t))
	if err := node.Wait(); err != nil {
		t.Fatal(err)
	}
	sameContent(t, w.publisher.Store, node.Store, release)
	p := node.Session.Progress()
	lists := uint64(2 * 4 * 1024)
	if sum, limit := fetched(p), res.NewChunkBytes*102/100+release.ManifestSize+lists; sum > limit {
		t.Errorf("fetched %d bytes, changed chunks have %d, manifest %d", sum, res.NewChunkBytes, release.ManifestSize)
	}
	if p.BytesLocal == 0 || p.BytesHere+p.BytesLocal+fetched(p) < p.BytesTotal {
		t.Errorf("progress: %+v", p)
	}
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSameChunkTwice(t *testing.T) {
	// Two large files that differ at one place share their other chunks: those are fetched once.
	dir := tree(t, 9, 3_000_000)
	data, err := os.ReadFile(filepath.Join(dir, "d00", "f0000"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "twin"), append(bytes.Clone(data), "and an end"...))
	write(t, filepath.Join(dir, "double"), append(bytes.Clone(data), data...))
	w := newWorld(t, dir, 1)
	connect(t, w.publisher, w.nodes[0])
	w.run(t)
	if p := w.nodes[0].Session.Progress(); fetched(p) > 4_000_000 {
		t.Errorf("fetched %d bytes", fetched(p))
	}
}

func TestResume(t *testing.T) {
	w := newWorld(t, tree(t, 10, mixed(100, 10)...), 1)
	home := t.TempDir()
	var sum uint64
	for round := range 40 {
		st, err := store.Open(home)
		if err != nil {
			t.Fatal(err)
		}
		node := fetchtest.NewHost("node", st)
		node.Fetch(w.release, uint64(round))
		ctx, cancel := context.WithCancel(testContext(t))
		w.publisher.Answer = func(_ fetch.Request, data []byte) ([]byte, bool) {
			if node.Session.Progress().PiecesHere >= 15 {
				cancel()
			}
			return data, false
		}
		disconnect := fetchtest.Connect(w.publisher, node)
		node.Start(ctx)
		err = node.Wait()
		disconnect()
		sum += fetched(node.Session.Progress())
		if err == nil {
			sameContent(t, w.publisher.Store, st, w.release)
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		cancel()
		if err == nil {
			if limit := w.release.TotalSize + w.release.ManifestSize + 30_000; sum > limit {
				t.Errorf("fetched %d bytes of at most %d in all", sum, limit)
			}
			if round == 0 {
				t.Error("was never interrupted")
			}
			return
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	t.Error("never finished")
}

func TestReleaseContradictsItself(t *testing.T) {
	dir := tree(t, 11, mixed(20, 2)...)
	wrong := map[string]func(r *fetch.Release){
		"product": func(r *fetch.Release) { r.Product = "other" },
		"seq":     func(r *fetch.Release) { r.Seq = 9 },
		"epoch":   func(r *fetch.Release) { r.Epoch = 9 },
		"total":   func(r *fetch.Release) { r.TotalSize-- },
	}
	for name, change := range wrong {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, dir, 0)
			r := w.release
			change(&r)
			node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
			node.Fetch(r, 1)
			connect(t, w.publisher, node)
			node.Start(testContext(t))
			if err := node.Wait(); !errors.Is(err, fetch.ErrRelease) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBrokenDisk(t *testing.T) {
	w := newWorld(t, tree(t, 12, mixed(100, 3)...), 0)
	home := t.TempDir()
	st, err := store.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close() // its error is the point of the test
	node := fetchtest.NewHost("node", st)
	node.Fetch(w.release, 1)
	served := 0
	w.publisher.Answer = func(_ fetch.Request, data []byte) ([]byte, bool) {
		if served++; served == 10 {
			os.RemoveAll(filepath.Join(home, "partial"))
		}
		return data, false
	}
	connect(t, w.publisher, node)
	node.Start(testContext(t))
	if err := node.Wait(); err == nil || !strings.HasPrefix(err.Error(), "fetching lessons 1/1: ") {
		t.Errorf("got %v", err)
	}
}

func TestAllIsHere(t *testing.T) {
	w := newWorld(t, tree(t, 13, mixed(20, 2)...), 0)
	node := fetchtest.NewHost("node", w.publisher.Store)
	node.Fetch(w.release, 1)
	node.Start(testContext(t))
	if err := node.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestNoGoroutineStays(t *testing.T) {
	w := newWorld(t, tree(t, 14, mixed(20, 2)...), 0)
	before := runtime.NumGoroutine()
	for range 5 {
		node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
		node.Fetch(w.release, 1)
		disconnect := fetchtest.Connect(w.publisher, node)
		node.Start(testContext(t))
		if err := node.Wait(); err != nil {
			t.Fatal(err)
		}
		disconnect()
	}
	if after := runtime.NumGoroutine(); after > before+2 {
		t.Errorf("%d goroutines, %d before", after, before)
	}
}
