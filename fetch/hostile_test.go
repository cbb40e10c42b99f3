package fetch_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"satchel/fetch"
	"satchel/fetch/fetchtest"
	"satchel/store"
	"satchel/store/manifest"
)

// The tests TestHostileNN are about one kind of hostile input each.

// lie is what a liar answers to a request, given the truth.
type lie func(r fetch.Request, data []byte) []byte

// gzipped is a compressed form of data, and bomb one of a megabyte of zeros.
func gzipped(data []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(data)
	w.Close()
	return b.Bytes()
}

// atLiar fetches a release from a liar alone until the liar is blamed, for the given reason, and then from the publisher. Whatever
// the liar sent, it alone is blamed, none of its bytes are taken, and the content is right.
func atLiar(t *testing.T, dir string, tell lie, reason string) {
	t.Helper()
	w := newWorld(t, dir, 0)
	node, blamed := fetchtest.NewHost("node", openStore(t, t.TempDir())), make(chan struct{}, 10)
	node.Configure = func(cfg *fetch.Config) {
		note := cfg.OnBlame
		cfg.OnBlame = func(peer, reason string) {
			note(peer, reason)
			blamed <- struct{}{}
		}
	}
	node.Fetch(w.release, 1)
	liar := fetchtest.NewHost("liar", w.publisher.Store)
	liar.Answer = func(r fetch.Request, data []byte) ([]byte, bool) { return tell(r, data), false }
	connect(t, node, liar)
	ctx := testContext(t)
	node.Start(ctx)
	select {
	case <-blamed:
	case <-ctx.Done():
		t.Fatal("the liar is never blamed")
	}
	connect(t, node, w.publisher)
	if err := node.Wait(); err != nil {
		t.Fatal(err)
	}
	sameContent(t, w.publisher.Store, node.Store, w.release)
	if blamed := node.Blamed(); len(blamed) != 1 || !strings.Contains(blamed["liar"], reason) {
		t.Errorf("blamed %v, want the liar for %q", blamed, reason)
	}
	if p := node.Session.Progress(); p.BytesFetched["liar"] > w.release.ManifestSize+64<<10 {
		t.Errorf("%d bytes were taken from the liar", p.BytesFetched["liar"])
	}
}

// TestHostile39Manifest: a manifest that is not the one announced costs the neighbour that sent it, and is not read.
func TestHostile39Manifest(t *testing.T) {
	small := tree(t, 21, 1, 70, 5000)
	many := t.TempDir()
	for i := range 3000 {
		write(t, filepath.Join(many, fmt.Sprintf("a file with a long name, so that the manifest has chunks %04d", i)), nil)
	}
	other := manifest.Manifest{Header: manifest.Header{Product: "lessons", Epoch: 1, Seq: 1, Version: "1"}}
	valid, err := other.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, dir := range map[string]string{"of one chunk": small, "of many chunks": many} {
		for how, tell := range map[string]struct {
			lie    lie
			reason string
		}{
			"a bit flipped":    {func(_ fetch.Request, data []byte) []byte { data[len(data)/2] ^= 1; return data }, "sent wrong bytes"},
			"longer":           {func(_ fetch.Request, data []byte) []byte { return append(data, 0) }, ""},
			"shorter":          {func(_ fetch.Request, data []byte) []byte { return data[:len(data)-1] }, ""},
			"another manifest": {func(fetch.Request, []byte) []byte { return valid }, ""},
			"no CBOR":          {func(_ fetch.Request, data []byte) []byte { return bytes.Repeat([]byte{0xff}, len(data)) }, "sent wrong bytes"},
		} {
			t.Run(how+" "+name, func(t *testing.T) { atLiar(t, dir, tell.lie, tell.reason) })
		}
	}
}

// TestHostile39AnnouncedSize has a publisher announce another size than its manifest has. That is his fault: no neighbour is blamed,
// and nothing is fetched.
func TestHostile39AnnouncedSize(t *testing.T) {
	many := t.TempDir()
	for i := range 3000 {
		write(t, filepath.Join(many, fmt.Sprintf("a file with a long name, so that the manifest has chunks %04d", i)), nil)
	}
	w := newWorld(t, many, 0)
	for _, size := range []uint64{w.release.ManifestSize - 1, w.release.ManifestSize + 1, 1, manifest.MaxSize + 1} {
		r := w.release
		r.ManifestSize = size
		node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
		node.Fetch(r, 1)
		connect(t, w.publisher, node)
		node.Start(testContext(t))
		if err := node.Wait(); !errors.Is(err, fetch.ErrRelease) || len(node.Blamed()) > 0 {
			t.Errorf("size %d: %v, blamed %v", size, err, node.Blamed())
		}
	}
}

// TestHostile39NoManifest has a publisher announce something else in the place of a manifest. The error is one line.
func TestHostile39NoManifest(t *testing.T) {
	w := newWorld(t, tree(t, 25, 10), 0)
	text := []byte("no manifest at all")
	w.release.Manifest, w.release.ManifestSize = store.RawCID(store.Sum(text)), uint64(len(text))
	if err := w.publisher.Store.Put(w.release.Manifest, text, 0o600); err != nil {
		t.Fatal(err)
	}
	node, err := w.ask(t, func(*fetch.Config) {})
	if !errors.Is(err, fetch.ErrRelease) || strings.Contains(err.Error(), "\n") || len(node.Blamed()) > 0 {
		t.Errorf("%q, blamed %v", err, node.Blamed())
	}
}

// ask fetches a release from its publisher with a change to the session's configuration.
func (w *world) ask(t *testing.T, change func(*fetch.Config)) (*fetchtest.Host, error) {
	t.Helper()
	node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
	node.Configure = change
	node.Fetch(w.release, 1)
	connect(t, w.publisher, node)
	node.Start(testContext(t))
	return node, node.Wait()
}

// TestHostile55OtherRelease: the manifest must be that of the release that was announced, or for a recall that of an older one.
func TestHostile55OtherRelease(t *testing.T) {
	w := newWorld(t, tree(t, 22, mixed(20, 2)...), 0) // lessons, epoch 1, seq 1
	for name, c := range map[string]struct {
		change func(*fetch.Release)
		good   bool
	}{
		"itself":                {func(*fetch.Release) {}, true},
		"product":               {func(r *fetch.Release) { r.Product = "lesson" }, false},
		"newer seq":             {func(r *fetch.Release) { r.Seq = 2 }, false},
		"older seq":             {func(r *fetch.Release) { r.Seq = 0 }, false},
		"newer epoch":           {func(r *fetch.Release) { r.Epoch = 2 }, false},
		"more bytes":            {func(r *fetch.Release) { r.TotalSize++ }, false},
		"fewer bytes":           {func(r *fetch.Release) { r.TotalSize-- }, false},
		"recall by seq":         {func(r *fetch.Release) { r.Recall, r.Seq = true, 2 }, true},
		"recall by epoch":       {func(r *fetch.Release) { r.Recall, r.Epoch, r.Seq = true, 2, 1 }, true},
		"recall of itself":      {func(r *fetch.Release) { r.Recall = true }, false},
		"recall of a newer one": {func(r *fetch.Release) { r.Recall, r.Epoch, r.Seq = true, 0, 9 }, false},
		"recall of another":     {func(r *fetch.Release) { r.Recall, r.Seq, r.Product = true, 2, "other" }, false},
		"recall, other bytes":   {func(r *fetch.Release) { r.Recall, r.Seq = true, 2; r.TotalSize++ }, false},
	} {
		t.Run(name, func(t *testing.T) {
			old := w.release
			defer func() { w.release = old }()
			c.change(&w.release)
			node, err := w.ask(t, nil)
			if c.good != (err == nil) || err != nil && !errors.Is(err, fetch.ErrRelease) {
				t.Errorf("got %v", err)
			}
			if len(node.Blamed()) > 0 {
				t.Errorf("blamed %v", node.Blamed())
			}
			if sum := fetched(node.Session.Progress()); err != nil && sum > old.ManifestSize {
				t.Errorf("%d bytes were fetched, the manifest has %d", sum, old.ManifestSize)
			}
		})
	}
}

// TestHostile49Check: what Config.Check refuses is not fetched. It is asked once, about the whole manifest.
func TestHostile49Check(t *testing.T) {
	dir := tree(t, 23, mixed(20, 2)...)
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "passwd")); err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, dir, 0)
	for _, p := range []manifest.Policy{{}, {LinkOut: true}} {
		asked := 0
		node, err := w.ask(t, func(cfg *fetch.Config) {
			cfg.Check = func(m *manifest.Manifest) error {
				asked++
				return m.Check(p)
			}
		})
		var e *manifest.PolicyError
		if p.LinkOut != (err == nil) || err != nil && (!errors.Is(err, fetch.ErrRelease) || !errors.As(err, &e)) {
			t.Errorf("with %+v: %v", p, err)
		}
		if asked != 1 {
			t.Errorf("asked %d times", asked)
		}
		if sum := fetched(node.Session.Progress()); err != nil && sum > w.release.ManifestSize {
			t.Errorf("%d bytes were fetched, the manifest has %d", sum, w.release.ManifestSize)
		}
	}
}

// TestHostile57WrongBytes, and the next three: a neighbour that sends something else than it was asked for.
func TestHostile57WrongBytes(t *testing.T) {
	dir := tree(t, 24, mixed(30, 3)...)
	atLiar(t, dir, notManifest(func(r fetch.Request, data []byte) []byte { data[len(data)/2] ^= 1; return data }), "sent wrong bytes")
	atLiar(t, dir, notManifest(func(r fetch.Request, data []byte) []byte { return make([]byte, len(data)) }), "sent wrong bytes")
	atLiar(t, dir, notManifest(func(r fetch.Request, data []byte) []byte { slices.Reverse(data); return data }), "sent wrong bytes")
}

func TestHostile58MoreBytes(t *testing.T) {
	dir := tree(t, 25, mixed(30, 3)...)
	for _, more := range []int{1, 100, 1 << 20} {
		atLiar(t, dir, notManifest(func(_ fetch.Request, data []byte) []byte { return append(data, make([]byte, more)...) }), "bytes where")
	}
}

func TestHostile59FewerBytes(t *testing.T) {
	dir := tree(t, 26, mixed(30, 3)...)
	for _, tell := range []lie{
		func(_ fetch.Request, data []byte) []byte { return data[:len(data)-1] },
		func(_ fetch.Request, data []byte) []byte { return data[:0] },
	} {
		atLiar(t, dir, notManifest(tell), "bytes where")
	}
}

// Nothing is decompressed between the wire and the store: a compressed form is wrong bytes, be it a bomb or the truth.
func TestHostile65And66Compressed(t *testing.T) {
	dir := tree(t, 27, mixed(30, 3)...)
	bomb := gzipped(make([]byte, 10<<20))
	atLiar(t, dir, notManifest(func(fetch.Request, []byte) []byte { return bomb }), "")
	atLiar(t, dir, notManifest(func(_ fetch.Request, data []byte) []byte { return gzipped(data) }), "")
	atLiar(t, dir, notManifest(func(_ fetch.Request, data []byte) []byte { // of the right length
		return append(gzipped(make([]byte, 100)), make([]byte, len(data))...)[:len(data)]
	}), "sent wrong bytes")
}

// notManifest tells the truth until something else than the manifest is asked for: the first request is for that, and it has one chunk
// in these tests.
func notManifest(tell lie) lie {
	first := true
	return func(r fetch.Request, data []byte) []byte {
		if first || r.Kind == fetch.List || len(data) == 0 {
			first = false
			return data
		}
		return tell(r, data)
	}
}

// TestHostile57Lists: a chunk list is verified like everything else.
func TestHostile57Lists(t *testing.T) {
	dir := tree(t, 28, 300_000, 900_000)
	atLiar(t, dir, func(r fetch.Request, data []byte) []byte {
		if r.Kind == fetch.List {
			data[len(data)-1] ^= 1
		}
		return data
	}, "sent wrong bytes")
}

// TestHostile54ListContradicts: a list that has the right hash and contradicts the manifest is the publisher's fault.
func TestHostile54ListContradicts(t *testing.T) {
	w := newWorld(t, tree(t, 29, 900_000), 0)
	m, err := w.publisher.Store.Manifest(w.release.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for i := range m.Entries {
		if m.Entries[i].Size > 0 {
			m.Entries[i].Size--
		}
	}
	w.release.TotalSize--
	if w.release.Manifest, w.release.ManifestSize, err = w.publisher.Store.PutManifest(m); err != nil {
		t.Fatal(err)
	}
	node, err := w.ask(t, nil)
	if !errors.Is(err, fetch.ErrRelease) || len(node.Blamed()) > 0 {
		t.Errorf("got %v, blamed %v", err, node.Blamed())
	}
}

// TestHostile54SmallContradicts: nor is a neighbour blamed when the manifest says a wrong size of a small blob that it has.
func TestHostile54SmallContradicts(t *testing.T) {
	w := newWorld(t, tree(t, 30, 900, 5000), 0)
	m, err := w.publisher.Store.Manifest(w.release.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []int{-1, +1} {
		lying := *m
		lying.Entries = slices.Clone(m.Entries)
		for i := range lying.Entries {
			if lying.Entries[i].Size == 5000 {
				lying.Entries[i].Size = uint64(5000 + change)
			}
		}
		r := w.release
		r.TotalSize = lying.TotalSize()
		if r.Manifest, r.ManifestSize, err = w.publisher.Store.PutManifest(&lying); err != nil {
			t.Fatal(err)
		}
		node := fetchtest.NewHost("node", openStore(t, t.TempDir()))
		node.Fetch(r, 1)
		refused := make(chan struct{}, 100)
		holder := fetchtest.NewHost("holder", w.publisher.Store)
		holder.Answer = func(_ fetch.Request, data []byte) ([]byte, bool) {
			if data == nil {
				refused <- struct{}{}
			}
			return data, false
		}
		disconnect := fetchtest.Connect(holder, node)
		ctx, cancel := context.WithCancel(testContext(t))
		node.Start(ctx)
		<-refused
		for !node.Session.Idle() { // nobody has more to give
			runtime.Gosched()
		}
		disconnect()
		cancel()
		if err := node.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("%+d: %v", change, err)
		}
		if blamed := node.Blamed(); len(blamed) > 0 {
			t.Errorf("%+d: blamed %v", change, blamed)
		}
	}
}

// TestHostile54SizeHere: when a blob that is here has another size than the manifest says, somebody lies: the publisher, or our disk.
func TestHostile54SizeHere(t *testing.T) {
	dir := tree(t, 32, 900, 5000, 900_000)
	w := newWorld(t, dir, 1)
	connect(t, w.publisher, w.nodes[0])
	w.run(t)
	st := w.nodes[0].Store
	m, err := st.Manifest(w.release.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	again := func(r fetch.Release) error {
		node := fetchtest.NewHost("again", st)
		node.Fetch(r, 1)
		defer fetchtest.Connect(w.publisher, node)()
		node.Start(testContext(t))
		err := node.Wait()
		if len(node.Blamed()) > 0 {
			t.Errorf("blamed %v", node.Blamed())
		}
		return err
	}
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Type != manifest.File {
			continue
		}
		e.Size++
		r := w.release
		r.TotalSize++
		if r.Manifest, r.ManifestSize, err = w.publisher.Store.PutManifest(m); err != nil {
			t.Fatal(err)
		}
		if err := again(r); !errors.Is(err, fetch.ErrRelease) {
			t.Errorf("a manifest that lies about %s: %v", e.Path, err)
		}
		e.Size--
		path, err := st.BlobFile(e.Blob, e.Mode)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(e.Size)-1); err != nil {
			t.Fatal(err)
		}
		if err := again(w.release); err != nil {
			t.Errorf("a disk that cut %s short: %v", e.Path, err)
		}
		sameContent(t, w.publisher.Store, st, w.release)
	}
}

// slowPeer is the time a neighbour takes for each piece in TestHostile60.
const slowPeer = time.Minute

// TestHostile60SlowPeer: a neighbour that gives a piece a minute holds nobody up when there is another one, and alone it is
// blamed as stalled.
func TestHostile60SlowPeer(t *testing.T) {
	s := &script{Planner: fetch.NewPlanner(1, "me")}
	s.step(fetch.Join{Peer: "slow"})
	s.step(fetch.HoldsAll{Peer: "slow"})
	s.step(fetch.Add{Pieces: same(200, 16<<10)})
	s.step(fetch.Tick{})
	asked := len(s.out)
	s.step(fetch.Join{Peer: "good"})
	s.step(fetch.HoldsAll{Peer: "good"})
	took := answer(t, s, "good", 200)
	if asked == 0 || took > slowPeer/4 {
		t.Errorf("%d pieces were asked of the slow one, and all took %v", asked, took)
	}

	s = &script{Planner: fetch.NewPlanner(1, "me")}
	s.step(fetch.Join{Peer: "slow"})
	s.step(fetch.HoldsAll{Peer: "slow"})
	s.step(fetch.Add{Pieces: same(200, 16<<10)})
	s.step(fetch.Tick{})
	s.wait(slowPeer - time.Second)
	if !slices.Contains(s.out, "blame slow") {
		t.Error("it is not blamed")
	}
}

// answer has one neighbour answer one of its asks every ten milliseconds, until all is here; the others are silent.
func answer(t *testing.T, s *script, peer string, pieces int) time.Duration {
	t.Helper()
	read := 0
	begin := s.now
	asked := map[int32]bool{}
	for s.Left() > 0 {
		if s.now-begin > 10*time.Minute {
			t.Fatalf("%d of %d pieces are missing after %v", s.Left(), pieces, s.now-begin)
		}
		for ; read < len(s.out); read++ {
			var verb, of string
			var piece int32
			fmt.Sscan(s.out[read], &verb, &of, &piece)
			if of == peer {
				asked[piece] = verb == "ask"
			}
		}
		for _, piece := range slices.Sorted(maps.Keys(asked)) {
			if asked[piece] {
				delete(asked, piece)
				s.step(fetch.Arrived{Peer: peer, Piece: piece})
				s.step(fetch.Verified{Piece: piece})
				break
			}
		}
		s.wait(10 * time.Millisecond)
	}
	return s.now - begin
}

// TestHostile61Stall: a neighbour that says it has everything, and then nothing more.
func TestHostile61Stall(t *testing.T) {
	s := &script{Planner: fetch.NewPlanner(1, "me")}
	s.step(fetch.Join{Peer: "mute"})
	s.step(fetch.HoldsAll{Peer: "mute"})
	s.step(fetch.Add{Pieces: same(10, 16<<10)})
	s.step(fetch.Tick{})
	s.wait(29 * time.Second)
	if slices.Contains(s.out, "blame mute") {
		t.Error("it is blamed too early")
	}
	s.wait(2 * time.Second)
	if !slices.Contains(s.out, "blame mute") {
		t.Error("it is not blamed")
	}
}

// TestHostile67DamagedSource: what the store has damaged on disk is no source for another blob; it is fetched.
func TestHostile67DamagedSource(t *testing.T) {
	dir := tree(t, 31, 900_000)
	w := newWorld(t, dir, 1)
	connect(t, w.publisher, w.nodes[0])
	w.run(t)
	node := w.nodes[0]
	large := filepath.Join(dir, "d00", "f0000")
	data, err := os.ReadFile(large)
	if err != nil {
		t.Fatal(err)
	}
	m, err := node.Store.Manifest(w.release.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	path, err := node.Store.BlobFile(m.Entries[1].Blob, m.Entries[1].Mode)
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(data)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(path, bad, 0); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "more"), append([]byte("a new beginning"), data...))
	next, _ := publish(t, w.publisher.Store, dir, 2)
	again := fetchtest.NewHost("again", node.Store)
	again.Fetch(next, 1)
	connect(t, w.publisher, again)
	again.Start(testContext(t))
	if err := again.Wait(); err != nil {
		t.Fatal(err)
	}
	m, err = again.Store.Manifest(next.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range m.Blobs() {
		if store.IsRaw(b.CID) || b.Size == 900_000 {
			continue
		}
		if !bytes.Equal(content(t, again.Store, b), content(t, w.publisher.Store, b)) {
			t.Error("the damage was copied")
		}
	}
	if len(again.Blamed()) > 0 {
		t.Errorf("blamed %v", again.Blamed())
	}
}
