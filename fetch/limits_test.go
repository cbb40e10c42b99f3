package fetch_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"

	"satchel/fetch"
	"satchel/fetch/fetchtest"
	"satchel/store"
	"satchel/store/manifest"
)

func TestClaimsAreCounted(t *testing.T) {
	c := fetch.NewClaims(100_000)
	for i := range 256 {
		if err := c.Apply(fetch.HaveMap{Manifest: true}); err != nil {
			t.Fatalf("map %d: %v", i, err)
		}
	}
	if c.Apply(fetch.HaveMap{Manifest: true}) == nil {
		t.Error("have-maps without end are taken")
	}
}

// TestClaimsAboutAKnownList: when the chunk list is here, a bitfield must have the length that it says.
func TestClaimsAboutAKnownList(t *testing.T) {
	for n, good := range map[int]bool{0: true, 1: false, 2: true, 3: false, 8: false} {
		c := fetch.NewClaims(100_000)
		c.KnowList(2, 12)
		if err := c.Know(sizes); err != nil {
			t.Fatal(err)
		}
		err := c.Apply(fetch.HaveMap{Partial: []fetch.PartialHave{{Blob: 2, Chunks: make([]byte, n)}}})
		if (err == nil) != good {
			t.Errorf("a bitfield of %d bytes for 12 chunks: %v", n, err)
		}
	}
	c := fetch.NewClaims(100_000)
	c.KnowList(2, 12)
	if err := c.Know(sizes); err != nil {
		t.Fatal(err)
	}
	if c.Add(fetch.Have{Blob: 2, Chunk: 11}) != nil || c.Add(fetch.Have{Blob: 2, Chunk: 12}) == nil {
		t.Error("which chunks can be is not known by the list")
	}
}

func TestClaimsThatSayNothing(t *testing.T) {
	known := func() *fetch.Claims {
		c := fetch.NewClaims(100_000)
		if err := c.Know(sizes); err != nil {
			t.Fatal(err)
		}
		return c
	}
	if known().Apply(fetch.HaveMap{Partial: []fetch.PartialHave{{Blob: 1}}}) == nil || known().Add(fetch.Have{Blob: 1, Chunk: 0}) == nil ||
		known().Add(fetch.Have{Blob: 1, Chunk: -1, List: true}) == nil {
		t.Error("a blob of one chunk has a part")
	}
	c := known()
	if c.Apply(fetch.HaveMap{Manifest: true}) != nil || c.Apply(fetch.HaveMap{}) != nil || !c.HoldsBlob(fetch.ManifestBlob) {
		t.Error("a later map takes the manifest away")
	}
	if c = known(); c.Add(fetch.Have{Blob: fetch.ManifestBlob, Chunk: -1, List: true}) != nil || c.HoldsBlob(fetch.ManifestBlob) {
		t.Error("the manifest's list is taken for the manifest")
	}
	if c = known(); c.Apply(fetch.HaveMap{All: true}) != nil || c.Add(fetch.Have{Blob: 2, Chunk: 3}) != nil || c.Size() != 0 {
		t.Error("what is said of one that has everything is remembered")
	}
	if c = known(); c.Add(fetch.Have{Blob: 5, Chunk: -1}) != nil {
		t.Error("news of a blob")
	}
	before := c.Size()
	if c.Add(fetch.Have{Blob: 5, Chunk: 500}) != nil || c.Size() != before {
		t.Error("chunks of a blob that is whole are remembered")
	}
	c = known()
	c.Want(func(uint32) bool { return false })
	if c.Apply(fetch.HaveMap{Partial: []fetch.PartialHave{{Blob: 5, Chunks: []byte{0x80}}}}) != nil || c.Add(fetch.Have{Blob: 5, Chunk: 3}) != nil || c.Size() != 0 {
		t.Error("parts that do not matter are remembered")
	}
}

// TestClaimsBeforeTheManifest: only what is said of the manifest itself can be judged, and not without bounds.
func TestClaimsBeforeTheManifest(t *testing.T) {
	c := fetch.NewClaims(100_000)
	if c.Apply(fetch.HaveMap{Partial: []fetch.PartialHave{{Blob: fetch.ManifestBlob, Chunks: []byte{0x80}}, {Blob: 2, Chunks: []byte{0x80}}}}) != nil ||
		!c.HoldsChunk(fetch.ManifestBlob, 0) || c.HoldsChunk(fetch.ManifestBlob, 1) || c.HoldsChunk(2, 0) {
		t.Error("a part of the manifest is not what it was said to be")
	}
	if c.Add(fetch.Have{Blob: fetch.ManifestBlob, Chunk: 1}) != nil || !c.HoldsChunk(fetch.ManifestBlob, 1) || c.HoldsBlob(fetch.ManifestBlob) {
		t.Error("news of a chunk of the manifest is not what it was said to be")
	}
	if err := c.Know(sizes); err != nil || !c.HoldsChunk(2, 0) {
		t.Errorf("when the manifest is known: %v", err)
	}
	if c.Add(fetch.Have{Blob: fetch.ManifestBlob, Chunk: 2}) != nil {
		t.Error("news of the manifest is refused when it is known")
	}
	for n, good := range map[int]bool{1<<20 - 16: true, 1<<20 - 15: false} {
		c := fetch.NewClaims(100_000)
		if err := c.Apply(fetch.HaveMap{Partial: []fetch.PartialHave{{Blob: 1, Chunks: make([]byte, n)}}}); (err == nil) != good {
			t.Errorf("a map of %d bytes: %v", n, err)
		}
	}
	c = fetch.NewClaims(100_000)
	if c.Apply(fetch.HaveMap{All: true}) != nil || c.Add(fetch.Have{Blob: 1, Chunk: 1}) != nil || c.Size() != 0 {
		t.Error("news of one that has everything is kept")
	}
	c = fetch.NewClaims(100_000)
	if c.Apply(fetch.HaveMap{Blobs: make([]byte, 1<<20+1)}) == nil {
		t.Error("a bitfield of a megabyte is taken")
	}
}

// TestRequestsTakenBack: requests that a neighbour never answers are forgotten in the end, and only those that were taken back.
func TestRequestsTakenBack(t *testing.T) {
	if first, second := fetch.TakeBack(1024); first != 1025 || second != 1025 {
		t.Errorf("%d and %d requests", first, second)
	}
	if first, second := fetch.TakeBack(1025); first != 1 || second != 1026 {
		t.Errorf("%d and %d requests", first, second)
	}
}

// TestLateAnswers: an answer to what was taken back is no lie, whatever it is.
func TestLateAnswers(t *testing.T) {
	bytes, asks := fetch.LateAnswers(fetch.Config{OnBlame: func(_, reason string) { t.Error(reason) }})
	if bytes != 5 || asks != 0 {
		t.Errorf("%d bytes were not needed, %d requests are remembered", bytes, asks)
	}
}

// TestLieOfOneWhoLeft: who sends wrong bytes and leaves is blamed all the same, once.
func TestLieOfOneWhoLeft(t *testing.T) {
	blamed := 0
	fetch.LeaveThenLie(fetch.Config{OnBlame: func(string, string) { blamed++ }})
	if blamed != 1 {
		t.Errorf("blamed %d times", blamed)
	}
	fetch.LeaveThenLie(fetch.Config{}) // nobody wants to know
}

func TestMuchNews(t *testing.T) {
	for n, want := range map[int]int{1: 1, 4096: 4096, 4097: 0} {
		told := 0
		fetch.MuchNews(fetch.Config{OnHave: func(h []fetch.Have) {
			if told++; len(h) != want {
				t.Errorf("of %d pieces of news %d were told", n, len(h))
			}
		}}, n)
		if told != 1 {
			t.Errorf("told %d times", told)
		}
	}
	fetch.MuchNews(fetch.Config{}, 1) // nobody wants to know
}

// hand is a neighbour that a test plays by hand.
type hand struct {
	name string
	mu   sync.Mutex
	reqs []fetch.Request
}

func (h *hand) ID() string      { return h.name }
func (h *hand) Cancel([]uint64) {}
func (h *hand) Request(reqs []fetch.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reqs = append(h.reqs, reqs...)
}

// asked waits for the next request.
func (h *hand) asked() fetch.Request {
	for {
		h.mu.Lock()
		if len(h.reqs) > 0 {
			q := h.reqs[0]
			h.reqs = h.reqs[1:]
			h.mu.Unlock()
			return q
		}
		h.mu.Unlock()
		runtime.Gosched()
	}
}

// TestAnswersOfOthers: only the one that was asked can answer, and what nobody asked for is no answer; nobody is blamed for it here,
// where it may be late. Who lied is not asked again, whatever it says.
func TestAnswersOfOthers(t *testing.T) {
	w := newWorld(t, tree(t, 40, 900), 0)
	truth := func(q fetch.Request) []byte {
		data := make([]byte, q.Length)
		if err := w.publisher.Store.ReadRange(q.Blob, int64(q.Offset), data); err != nil {
			t.Error(err)
		}
		return data
	}
	node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
	node.Fetch(w.release, 1)
	s := node.Session
	node.Start(testContext(t))
	for _, stranger := range []string{"nobody", "liar"} { // not here, or not yet
		s.HaveMap(stranger, fetch.HaveMap{All: true})
		s.Have(stranger, []fetch.Have{{Blob: 1, Chunk: -1}})
		s.Data(stranger, 1, []byte("junk"))
		s.Gone(stranger, 1)
		s.PeerDown(stranger)
	}
	liar, one, other := &hand{name: "liar"}, &hand{name: "one"}, &hand{name: "other"}
	s.PeerUp(liar)
	s.Have("liar", []fetch.Have{{Blob: 0, Chunk: -2}}) // nonsense
	s.PeerUp(liar)
	s.HaveMap("liar", fetch.HaveMap{All: true})
	s.PeerUp(one)
	s.HaveMap("one", fetch.HaveMap{All: true})
	q := one.asked()
	s.PeerUp(other)
	s.Data("other", q.ID, []byte("junk"))
	s.Gone("other", q.ID)
	s.Data("one", q.ID+1000, []byte("junk"))
	s.Gone("one", q.ID+1000)
	s.Data("one", q.ID, truth(q))
	s.Data("one", q.ID, truth(q)) // again
	q = one.asked()
	s.Data("one", q.ID, truth(q))
	if err := node.Wait(); err != nil {
		t.Error(err)
	}
	if blamed := node.Blamed(); len(blamed) != 1 || blamed["liar"] == "" || len(liar.reqs) > 0 {
		t.Errorf("blamed %v; the liar was asked %d times", blamed, len(liar.reqs))
	}
	if n := s.Progress().BytesDuplicate; n != uint64(len("junk")*2)+w.release.ManifestSize {
		t.Errorf("%d bytes came for nothing", n)
	}
}

// TestHostile58LongLists: a list that is longer than asked for is the neighbour's lie.
func TestHostile58LongLists(t *testing.T) {
	w := newWorld(t, tree(t, 41, 900_000), 0)
	w.publisher.Answer = func(r fetch.Request, data []byte) ([]byte, bool) {
		if r.Kind == fetch.List && data != nil {
			data = append(data, make([]byte, int(r.Length)-len(data)+1)...)
		}
		return data, false
	}
	node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
	blamed := make(chan string, 1)
	node.Configure = func(c *fetch.Config) { c.OnBlame = func(_, reason string) { blamed <- reason } }
	node.Fetch(w.release, 1)
	connect(t, w.publisher, node)
	ctx, cancel := context.WithCancel(testContext(t))
	node.Start(ctx)
	if reason := <-blamed; !bytes.Contains([]byte(reason), []byte("asked for")) {
		t.Errorf("blamed for %q", reason)
	}
	cancel()
	node.Wait()
}

// TestHostile54ListHereContradicts: a list that is here already does not make the manifest's wrong size right.
func TestHostile54ListHereContradicts(t *testing.T) {
	w := newWorld(t, tree(t, 42, 900_000), 0)
	m, err := w.publisher.Store.Manifest(w.release.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Size > 0 {
			_, raw, err := w.publisher.Store.List(e.Blob)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := node.Store.PutList(e.Blob, e.Size, raw); err != nil {
				t.Fatal(err)
			}
			e.Size--
		}
	}
	w.release.TotalSize--
	if w.release.Manifest, w.release.ManifestSize, err = w.publisher.Store.PutManifest(m); err != nil {
		t.Fatal(err)
	}
	node.Fetch(w.release, 1)
	connect(t, w.publisher, node)
	node.Start(testContext(t))
	if err := node.Wait(); !errors.Is(err, fetch.ErrRelease) || len(node.Blamed()) > 0 {
		t.Errorf("got %v, blamed %v", err, node.Blamed())
	}
}

// TestHostile39ImpossibleSize: a manifest whose announced size cannot be that of its CID is asked of nobody.
func TestHostile39ImpossibleSize(t *testing.T) {
	raw, chunked := store.RawCID(store.Sum(nil)), store.ListCID(store.Sum(nil))
	for _, c := range []struct {
		r    fetch.Release
		good bool
	}{
		{fetch.Release{Manifest: raw, ManifestSize: store.MaxChunk + 1}, false},
		{fetch.Release{Manifest: chunked, ManifestSize: store.MinChunk}, false},
		{fetch.Release{Manifest: chunked, ManifestSize: manifest.MaxSize + 1}, false},
		{fetch.Release{Manifest: chunked, ManifestSize: manifest.MaxSize}, true},
		{fetch.Release{Manifest: raw, ManifestSize: store.MaxChunk}, true},
		{fetch.Release{Manifest: chunked, ManifestSize: store.MinChunk + 1}, true},
	} {
		node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
		node.Fetch(c.r, 1)
		asked := &hand{name: "hand"}
		node.Session.PeerUp(asked)
		node.Session.HaveMap("hand", fetch.HaveMap{All: true})
		ctx, cancel := context.WithCancel(testContext(t))
		node.Start(ctx)
		if c.good {
			asked.asked()
			cancel()
		}
		if err := node.Wait(); errors.Is(err, fetch.ErrRelease) == c.good || !c.good && len(asked.reqs) > 0 {
			t.Errorf("%d bytes: %v, %d requests", c.r.ManifestSize, err, len(asked.reqs))
		}
		cancel()
	}
}

// TestDamagedManifest: a manifest that our own disk has damaged is not the publisher's fault.
func TestDamagedManifest(t *testing.T) {
	w := newWorld(t, tree(t, 44, 900), 1)
	connect(t, w.publisher, w.nodes[0])
	w.run(t)
	st := w.nodes[0].Store
	path, err := st.BlobFile(w.release.Manifest, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, w.release.ManifestSize), 0); err != nil {
		t.Fatal(err)
	}
	node := fetchtest.NewHost("again", st)
	node.Fetch(w.release, 1)
	node.Start(testContext(t))
	if err := node.Wait(); !errors.Is(err, store.ErrMismatch) || errors.Is(err, fetch.ErrRelease) {
		t.Error(err)
	}
}
