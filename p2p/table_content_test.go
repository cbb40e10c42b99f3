package p2p

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/network"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
	"satchel/store/manifest"
)

// bench is a node that carries everything below c, follows lessons, and has an honest neighbour with a store of its own. The neighbour
// gives a release when it is told to.
type bench struct {
	n      *Node
	image  string
	key    pen
	honest *store.Store
	good   *outsider
	list   cid.Cid       // the manifest of what the node has
	blob   manifest.Blob // a large one of it
}

func newBench(t *testing.T) *bench {
	b := &bench{key: newPen(t), image: t.TempDir()}
	b.n = openNode(t, Config{}, rootOf(t, b.key, announce.ProductRule{Pattern: "*"}))
	check(t, b.n.Follow("lessons", b.image))
	check(t, b.n.Carry("c.*"))
	publishHere(t, b.n, b.key.PrivateKey, announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: 1, Version: "v"},
		map[string]string{"README": "one", "big": random(2 << 20)})
	_, err := b.n.Apply(t.Context(), "lessons")
	check(t, err)
	list, err := b.n.Manifest("lessons", 0)
	check(t, err)
	newest, _, _ := b.n.catalog.Latest("lessons")
	b.list = newest.Manifest
	for _, blob := range list.Blobs() {
		if blob.Size > b.blob.Size {
			b.blob = blob
		}
	}
	b.honest, err = store.Open(t.TempDir())
	check(t, err)
	t.Cleanup(func() { b.honest.Close() })
	runNode(t, b.n)
	b.good = newOutsider(t, b.n)
	b.good.serve = honestly(b.honest)
	b.good.meet(t)
	b.good.gossiped(t) // who stays must join the topic
	return b
}

func contentRows(t *testing.T) []row {
	b := newBench(t)
	out := []row{
		{60, "the beginning of an answer, and then nothing", func(t *testing.T) {
			b.slow(t, "c.slow", func(q ask) []byte { return binary.AppendUvarint(nil, q.length+2) })
		}},
		{61, "no answer at all", func(t *testing.T) { b.slow(t, "c.mute", func(ask) []byte { return nil }) }},
		{62, "ten thousand requests", b.manyRequests},
		{62, "many streams and many watches", b.manyStreams},
		{63, "ranges outside the blob, and overlapping ones", b.ranges},
		{64, "requests for what is not announced", b.unannounced},
		{67, "a blob with wrong bits when it is linked", func(t *testing.T) { b.healed(t, "c.bits", wrongBits) }},
		{67, "a blob of the wrong size when it is linked", func(t *testing.T) { b.healed(t, "c.size", wrongSize) }},
		{67, "a blob that is damaged when it is live", b.repaired},
		{68, "links and pipes where the store makes its files", b.planted},
		{69, "a full disk", b.diskFull},
	}
	for _, l := range lies() {
		out = append(out, row{l.number, l.input, func(t *testing.T) { b.lied(t, l) }})
	}
	slices.SortStableFunc(out, func(a, b row) int { return a.number - b.number })
	return out
}

// release signs a release of a product of its own, whose content is with the honest neighbour.
func (b *bench) release(t *testing.T, product string, files map[string]string) (announce.Announcement, []byte) {
	t.Helper()
	a := announce.Announcement{Product: product, RootVer: 1, Epoch: 1, Seq: 1, Version: "v"}
	signInto(t, b.honest, &a, files)
	env, err := a.Sign(b.key.PrivateKey)
	check(t, err)
	return a, env
}

// lie is what a neighbour sends that has promised everything: how it answers a request, given the truth.
type lie struct {
	number int
	input  string
	tell   func(q ask, truth []byte) []byte
}

// content makes a lie of one about content only: the manifest and lists are true.
func content(tell func(truth []byte) []byte) func(ask, []byte) []byte {
	first := true
	return func(q ask, truth []byte) []byte {
		if first || q.kind == fetch.List {
			first = false
			return dataFrame(q.id, truth)
		}
		return dataFrame(q.id, tell(truth))
	}
}

func gzipped(data []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(data)
	w.Close()
	return out.Bytes()
}

// lies are what costs a neighbour its place.
func lies() []lie {
	any := func(tell func(truth []byte) []byte) func(ask, []byte) []byte {
		return func(q ask, truth []byte) []byte { return dataFrame(q.id, tell(truth)) }
	}
	flip := func(truth []byte) []byte { return flipped(truth, len(truth)/2) }
	bomb := gzipped(make([]byte, 10<<20))
	fitted := func(b []byte) func(truth []byte) []byte {
		return func(truth []byte) []byte { return append(bytes.Clone(b), make([]byte, len(truth))...)[:len(truth)] }
	}
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0x00, 0x00, 0x28, 0xb5, 0x2f, 0xfd} // zstd, the largest window
	return []lie{
		{57, "a wrong manifest", any(flip)},
		{57, "wrong bytes", content(flip)},
		{57, "zeros", content(func(truth []byte) []byte { return make([]byte, len(truth)) })},
		{57, "a wrong chunk list", func(q ask, truth []byte) []byte {
			if q.kind == fetch.List {
				truth = flip(truth)
			}
			return dataFrame(q.id, truth)
		}},
		{58, "one byte more", content(func(truth []byte) []byte { return append(truth, 0) })},
		{58, "bytes without end", func(q ask, truth []byte) []byte {
			part := appendFrame(nil, framePart, binary.AppendUvarint(nil, q.id), make([]byte, 64<<10))
			for range 1000 {
				if _, err := q.stream.Write(part); err != nil {
					break
				}
			}
			return nil
		}},
		{58, "a frame without end", func(ask, []byte) []byte { return []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, frameData} }},
		{58, "an answer that nobody asked for", func(q ask, truth []byte) []byte { return dataFrame(q.id+1000, truth) }},
		{58, "an answer twice", func(q ask, truth []byte) []byte { return append(dataFrame(q.id, truth), dataFrame(q.id, truth)...) }},
		{59, "one byte less", content(func(truth []byte) []byte { return truth[:len(truth)-1] })},
		{59, "nothing at all", content(func([]byte) []byte { return nil })},
		{65, "a compression bomb", content(func([]byte) []byte { return bomb })},
		{65, "a compression bomb of the right length", content(fitted(bomb))},
		{65, "frames in frames with the largest window", content(fitted(bytes.Repeat(window, 1000)))},
		{66, "the truth, compressed", content(gzipped)},
		{66, "the truth, compressed and of the right length", content(func(truth []byte) []byte { return fitted(gzipped(truth[:len(truth)/2]))(truth) })},
	}
}

// lied: a liar is all that the node has, until it is found out. Then the honest neighbour gives the release.
func (b *bench) lied(t *testing.T, l lie) {
	a, env := b.release(t, "c."+strings.ReplaceAll(strings.ReplaceAll(l.input, " ", "-"), ",", ""), map[string]string{"small": random(2000), "big": random(300_000)})
	before, had := snapshot(t, b.n, b.image), counts(b.n)
	liar := newOutsider(t, b.n)
	truth := truthOf(b.honest)
	liar.serve = func(q ask) []byte { return l.tell(q, truth(q)) }
	liar.has(a.Manifest)
	liar.meet(t)
	liar.gossiped(t, env)
	until(t, "the liar to be shut out", func() bool { return shutOut(b.n, liar.ID()) })
	had["protocol"]++
	if now := counts(b.n); fmt.Sprint(now) != fmt.Sprint(had) {
		t.Errorf("refused %v, want %v", now, had)
	}
	same(t, before, b.sound(t), "announced/"+a.Product, "store/")
	b.arrives(t, a, liar)
}

func truthOf(st *store.Store) func(ask) []byte {
	return func(q ask) []byte {
		if q.kind == fetch.List {
			_, raw, _ := st.List(q.blob)
			return raw
		}
		data := make([]byte, q.length)
		st.ReadRange(q.blob, int64(q.offset), data)
		return data
	}
}

// sound is a snapshot of a node whose store holds nothing but what it should.
func (b *bench) sound(t *testing.T) map[string]string {
	t.Helper()
	if bad, err := b.n.Store().Verify(t.Context(), nil); err != nil || len(bad) > 0 {
		t.Errorf("bad content in the store: %v, %v", bad, err)
	}
	return snapshot(t, b.n, b.image)
}

// arrives lets the honest neighbour give a release, and checks that nothing of it came from others but what is true.
func (b *bench) arrives(t *testing.T, a announce.Announcement, liars ...*outsider) {
	t.Helper()
	before := snapshot(t, b.n, b.image)
	b.good.has(a.Manifest)
	until(t, "the release", func() bool { return b.n.productStatus(a.Product).State == StateHeld })
	s := b.n.productStatus(a.Product)
	if s.Fetch.BytesBySource[b.good.ID().String()] == 0 || shutOut(b.n, b.good.ID()) {
		t.Errorf("the honest neighbour gave %v, and is shut out: %v", s.Fetch.BytesBySource, shutOut(b.n, b.good.ID()))
	}
	same(t, before, b.sound(t), "announced/"+a.Product, "complete/"+a.Manifest.String(), "fetches/"+a.Product, "store/")
	for _, liar := range liars {
		liar.Close()
	}
}

// slow: who promises everything and gives nothing holds nobody up, and is not to blame for it.
func (b *bench) slow(t *testing.T, product string, serve func(ask) []byte) {
	a, env := b.release(t, product, map[string]string{"small": random(2000), "big": random(300_000)})
	asked := make(chan struct{}, 1000)
	o := newOutsider(t, b.n)
	o.serve = func(q ask) []byte { asked <- struct{}{}; return serve(q) }
	o.has(a.Manifest)
	o.meet(t)
	o.gossiped(t, env)
	<-asked
	b.arrives(t, a)
	if from := b.n.productStatus(product).Fetch.BytesBySource[o.ID().String()]; from != 0 || shutOut(b.n, o.ID()) {
		t.Errorf("%d bytes came from it, shut out: %v", from, shutOut(b.n, o.ID()))
	}
	o.Close()
}

// asking opens a stream of requests to the node, for what belongs to the releases with these manifests.
func (o *outsider) asking(t *testing.T, manifests ...cid.Cid) (network.Stream, *bufio.Reader) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	s, err := o.NewStream(ctx, o.of.id, protoBlobs)
	check(t, err)
	s.SetDeadline(time.Now().Add(testPatience))
	r := bufio.NewReader(s)
	for _, m := range manifests {
		_, err := s.Write(appendFrame(nil, frameWatch, m.Bytes()))
		check(t, err)
		if typ, _, err := readFrame(r, maxReplyFrame); err == nil && typ != frameHaveMap { // a stream too many is reset
			t.Errorf("watching is answered with frame %d", typ)
		}
	}
	return s, r
}

// want is one request for bytes.
func want(id uint64, c cid.Cid, offset, length uint64) []byte {
	b := append(binary.AppendUvarint(nil, id), byte(fetch.Bytes))
	b = append(b, c.Bytes()...)
	return binary.AppendUvarint(binary.AppendUvarint(b, offset), length)
}

// requester is a stranger who asks the node for content.
func (b *bench) requester(t *testing.T) *outsider {
	o := newOutsider(t, b.n)
	o.meet(t)
	return o
}

func (b *bench) manyRequests(t *testing.T) {
	before := snapshot(t, b.n, b.image)
	o := b.requester(t)
	s, _ := o.asking(t, b.list)
	for i := 0; i < 10_000; i += 500 {
		var reqs []byte
		for j := range 500 {
			reqs = append(reqs, want(uint64(i+j), b.blob.CID, 0, 100_000)...)
		}
		if _, err := s.Write(appendFrame(nil, frameWant, reqs)); err != nil {
			break // who asks, and takes nothing, is cut off early
		}
	}
	until(t, "the stranger to be shut out", func() bool { return shutOut(b.n, o.ID()) })
	same(t, before, b.sound(t))
	b.serves(t)
}

// serves checks that others still get what they ask for.
func (b *bench) serves(t *testing.T) {
	t.Helper()
	o := b.requester(t)
	defer o.Close()
	s, r := o.asking(t, b.list)
	_, err := s.Write(appendFrame(nil, frameWant, want(1, b.blob.CID, 0, 1000)))
	check(t, err)
	typ, data, err := readFrame(r, maxReplyFrame)
	if err != nil || typ != frameData || len(data) != 1001 {
		t.Errorf("frame %d with %d bytes, %v", typ, len(data), err)
	}
}

func (b *bench) manyStreams(t *testing.T) {
	before := snapshot(t, b.n, b.image)
	o := b.requester(t)
	for i := range maxStreams + 1 {
		s, r := o.asking(t, b.list)
		_, err := s.Write(appendFrame(nil, frameWant, want(1, b.blob.CID, 0, 1)))
		if err == nil {
			_, _, err = readFrame(r, maxReplyFrame)
		}
		if (i < maxStreams) != (err == nil) {
			t.Errorf("stream %d: %v", i, err)
		}
	}
	if shutOut(b.n, o.ID()) {
		t.Error("one stream too many is no crime")
	}
	o.Close()
	o = b.requester(t)
	s, _ := o.asking(t)
	_, err := s.Write(manyWatches())
	check(t, err)
	until(t, "the stranger to be shut out", func() bool { return shutOut(b.n, o.ID()) })
	same(t, before, b.sound(t))
	b.serves(t)
}

// ranges: what is not there is not there, be it a blob or a range; what cannot be meant breaks the protocol.
func (b *bench) ranges(t *testing.T) {
	before := snapshot(t, b.n, b.image)
	size := b.blob.Size
	o := b.requester(t)
	s, r := o.asking(t, b.list)
	for i, c := range []struct{ offset, length uint64 }{{size, 1}, {size - 1, 2}, {size + 1, 0}, {1 << 62, 1}, {1 << 40, store.MaxChunk}} {
		_, err := s.Write(appendFrame(nil, frameWant, want(uint64(i), b.blob.CID, c.offset, c.length)))
		check(t, err)
		if typ, raw, err := readFrame(r, maxReplyFrame); err != nil || typ != frameGone || raw[0] != byte(i) {
			t.Errorf("%d bytes at %d of %d: frame %d %x, %v", c.length, c.offset, size, typ, raw, err)
		}
	}
	for i, offset := range []uint64{0, 1, 0, size - 1000} { // each range is read anew
		_, err := s.Write(appendFrame(nil, frameWant, want(uint64(i), b.blob.CID, offset, 1000)))
		check(t, err)
		if typ, raw, err := readFrame(r, maxReplyFrame); err != nil || typ != frameData || len(raw) != 1001 {
			t.Errorf("1000 bytes at %d: frame %d, %v", offset, typ, err)
		}
	}
	o.Close()
	for _, q := range [][]byte{
		want(1, b.blob.CID, 1<<62+1, 1), want(1, b.blob.CID, 1<<64-1, 1), want(1, b.blob.CID, 0, store.MaxChunk+1), want(1, b.blob.CID, 0, 1<<64-1),
		append(want(1, b.blob.CID, 0, 1), 0), append(binary.AppendUvarint(nil, 1), 2),
	} {
		o := b.requester(t)
		s, _ := o.asking(t)
		_, err := s.Write(appendFrame(nil, frameWant, q))
		check(t, err)
		until(t, "the stranger to be shut out", func() bool { return shutOut(b.n, o.ID()) })
		o.Close()
	}
	same(t, before, b.sound(t))
	b.serves(t)
}

// unannounced: whatever lies in the store, only what belongs to a release that was told of is given, and to whoever names that
// release. All else looks like what nobody ever heard of.
func (b *bench) unannounced(t *testing.T) {
	st := b.n.Store()
	secret := announce.Announcement{Product: "secret", Epoch: 1, Seq: 1, Version: "v"} // published, and not announced
	signInto(t, st, &secret, map[string]string{"small": random(1000), "big": random(500_000)})
	list, err := st.Manifest(secret.Manifest)
	check(t, err)
	stray := []byte(random(1000))
	check(t, st.Put(store.RawCID(store.Sum(stray)), stray, 0o600))
	check(t, st.Sync())
	before := snapshot(t, b.n, b.image)
	o := b.requester(t)
	defer o.Close()
	s, r := o.asking(t, b.list, secret.Manifest)
	ask := func(kind fetch.Kind, c cid.Cid, length uint64) (typ byte, raw []byte) {
		t.Helper()
		q := want(7, c, 0, length)
		q[1] = byte(kind)
		_, err := s.Write(appendFrame(nil, frameWant, q))
		check(t, err)
		typ, raw, err = readFrame(r, maxReplyFrame)
		check(t, err)
		return typ, raw
	}
	typ, unknown := ask(fetch.Bytes, store.RawCID(store.Sum([]byte("unknown"))), 1000)
	if typ != frameGone {
		t.Errorf("unknown: frame %d", typ)
	}
	hidden := func(what string, kind fetch.Kind, c cid.Cid, length uint64) {
		t.Helper()
		if typ, raw := ask(kind, c, length); typ != frameGone || !bytes.Equal(raw, unknown) {
			t.Errorf("%s: frame %d with %d bytes", what, typ, len(raw))
		}
	}
	hidden("a blob of no release", fetch.Bytes, store.RawCID(store.Sum(stray)), 1000)
	hidden("the manifest of what was not announced", fetch.Bytes, secret.Manifest, secret.ManifestSize)
	for _, blob := range list.Blobs() {
		hidden("content that was not announced", fetch.Bytes, blob.CID, min(blob.Size, 1000))
		hidden("a list that was not announced", fetch.List, blob.CID, 100_000)
	}
	if typ, raw := ask(fetch.Bytes, b.blob.CID, 1000); typ != frameData || len(raw) != 1001 {
		t.Errorf("content of the release that was named: frame %d with %d bytes", typ, len(raw))
	}
	if typ, _ := ask(fetch.List, b.blob.CID, 100_000); typ != frameData {
		t.Errorf("a list of the release that was named: frame %d", typ)
	}
	_, err = s.Write(appendFrame(nil, frameUnwatch, b.list.Bytes()))
	check(t, err)
	hidden("content of a release that is not named any more", fetch.Bytes, b.blob.CID, 1000)
	hidden("a list of a release that is not named any more", fetch.List, b.blob.CID, 100_000)
	if shutOut(b.n, o.ID()) {
		t.Error("asking is no crime")
	}
	same(t, before, b.sound(t))
}

// damage changes something in every blob of a release, behind the store's back.
func (b *bench) damage(t *testing.T, m cid.Cid, change func(path string, size uint64) error) {
	t.Helper()
	list, err := b.n.Store().Manifest(m)
	check(t, err)
	for _, blob := range list.Blobs() {
		path, err := b.n.Store().BlobFile(blob.CID, blob.Mode)
		check(t, err)
		check(t, os.Chmod(path, 0o600))
		check(t, change(path, blob.Size))
		check(t, os.Chmod(path, os.FileMode(blob.Mode)))
	}
}

// wrongBits leaves a file as long as it was.
func wrongBits(path string, _ uint64) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte("damage"), 1000)
	return errors.Join(err, f.Close())
}

func wrongSize(path string, size uint64) error { return os.Truncate(path, int64(size)-1) }

func hasFiles(t *testing.T, image string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if got, err := os.ReadFile(filepath.Join(image, "current", name)); err != nil || string(got) != text {
			t.Errorf("%s is wrong, or not there: %v", name, err)
		}
	}
}

// repaired: what is damaged later is found by who looks, and is fetched again.
// healed: what is damaged between the fetch and laying it down gets into no tree, and is fetched again by itself.
func (b *bench) healed(t *testing.T, product string, how func(path string, size uint64) error) {
	files := map[string]string{"small": random(2000), "big": random(300_000)}
	a, env := b.release(t, product, files)
	check(t, b.n.Carry(product))
	b.good.has(a.Manifest)
	b.good.gossiped(t, env)
	until(t, "the content", func() bool { return b.n.productStatus(product).State == StateHeld })
	b.damage(t, a.Manifest, how)
	image := t.TempDir()
	check(t, b.n.Follow(product, image))
	until(t, "the release", func() bool { return b.n.productStatus(product).State == StateReady })
	_, err := b.n.Apply(t.Context(), product)
	check(t, err)
	hasFiles(t, image, files)
	if bad, err := b.n.Store().Verify(t.Context(), nil); err != nil || len(bad) > 0 {
		t.Errorf("bad content in the store: %v, %v", bad, err)
	}
}

func (b *bench) repaired(t *testing.T) {
	files := map[string]string{"small": random(2000), "big": random(300_000)}
	a, env := b.release(t, "c.repaired", files)
	image := t.TempDir()
	check(t, b.n.Follow("c.repaired", image))
	b.good.has(a.Manifest)
	b.good.gossiped(t, env)
	until(t, "the release", func() bool { return b.n.productStatus("c.repaired").State == StateReady })
	_, err := b.n.Apply(t.Context(), "c.repaired")
	check(t, err)
	before := snapshot(t, b.n, b.image)
	b.damage(t, a.Manifest, wrongBits)
	ctx, cancel := context.WithTimeout(context.Background(), testPatience)
	defer cancel()
	res, err := b.n.Verify(ctx, nil)
	if err != nil || res.Damaged < 2 || res.Repaired != res.Damaged {
		t.Errorf("%+v, %v", res, err)
	}
	hasFiles(t, image, files)
	same(t, before, b.sound(t), "fetches/")
}

// planted: nothing is followed, opened or waited for that lies where the store makes a file.
func (b *bench) planted(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "precious")
	check(t, os.WriteFile(outside, []byte("precious"), 0o600))
	a, env := b.release(t, "c.planted", map[string]string{"small": random(2000), "big": random(300_000)})
	list, err := b.honest.Manifest(a.Manifest)
	check(t, err)
	partial := filepath.Join(b.n.cfg.Home, "store", "partial")
	sessions, err := filepath.Glob(partial + "/*.tmp")
	if err != nil || len(sessions) != 1 {
		t.Fatal(sessions, err)
	}
	before := snapshot(t, b.n, b.image)
	var small cid.Cid
	for _, blob := range list.Blobs() {
		if !store.IsRaw(blob.CID) {
			check(t, os.Symlink(outside, filepath.Join(partial, blob.CID.String()+".part")))
		} else {
			small = blob.CID
		}
	}
	var planted []string
	for i := range 600 {
		for _, prefix := range []string{small.String(), a.Manifest.String()} {
			name := filepath.Join(sessions[0], fmt.Sprintf("%s.%d", prefix, i))
			if i%2 == 0 {
				check(t, os.Symlink(outside, name))
			} else {
				check(t, syscall.Mkfifo(name, 0o666))
			}
			planted = append(planted, name)
		}
	}
	b.good.has(a.Manifest)
	b.good.gossiped(t, env)
	until(t, "it to be refused", func() bool { return b.n.productStatus(a.Product).State == StateFailed })
	s := b.n.productStatus(a.Product)
	if !strings.Contains(s.Error, "exists") || s.Hint == "" {
		t.Errorf("error %q, hint %q", s.Error, s.Hint)
	}
	for _, name := range planted {
		check(t, os.Remove(name))
	}
	same(t, before, snapshot(t, b.n, b.image), "announced/"+a.Product, "store/")
	b.n.do(func() { l := b.n.lines[a.Product]; l.calm(); b.n.advance(l) }) // what it does by itself a little later
	b.arrives(t, a)
	if got, err := os.ReadFile(outside); err != nil || string(got) != "precious" {
		t.Errorf("outside of the store a file is %q, %v", got, err)
	}
}

// diskFull: a disk that takes no more leaves the trees as they are, and says what to do; going back needs no room, and with room it goes on.
func (b *bench) diskFull(t *testing.T) {
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=4m"); err != nil {
		t.Skip("SKIPPED: mounting a small tmpfs needs root")
	}
	t.Cleanup(func() { syscall.Unmount(small, syscall.MNT_DETACH) })
	image := filepath.Join(small, "image")
	n := openNode(t, Config{Home: filepath.Join(small, "home")}, rootOf(t, b.key, announce.ProductRule{Pattern: "*"}))
	check(t, n.Follow("lessons", image))
	runNode(t, n)
	o := newOutsider(t, n)
	o.serve = honestly(b.honest)
	o.meet(t)
	bring := func(seq uint64, big int) {
		a := announce.Announcement{Product: "lessons", RootVer: 1, Epoch: 1, Seq: seq, Version: "v"}
		signInto(t, b.honest, &a, map[string]string{"README": fmt.Sprint(seq), "big": random(big), "small": random(1000)})
		env, err := a.Sign(b.key.PrivateKey)
		check(t, err)
		o.has(a.Manifest)
		o.gossiped(t, env)
	}
	state := func(seq uint64, state string) {
		t.Helper()
		until(t, state, func() bool {
			s := n.productStatus("lessons")
			return s.Newest != nil && s.Newest.Seq == seq && s.State == state
		})
	}
	for seq := uint64(1); seq <= 2; seq++ {
		bring(seq, 200_000)
		state(seq, StateReady)
		_, err := n.Apply(t.Context(), "lessons")
		check(t, err)
	}
	before := snapshot(t, n, image)
	bring(3, 6<<20)
	state(3, StateFailed)
	n.do(func() { refused(t, "fetching", n.lines["lessons"].err, CodeNoSpace) })
	if s := n.productStatus("lessons"); s.Live.Seq != 2 || s.Ready != nil {
		t.Errorf("%+v", s)
	}
	same(t, before, snapshot(t, n, image), "announced/lessons", "store/")
	if bad, err := n.Store().Verify(t.Context(), nil); err != nil || len(bad) > 0 {
		t.Errorf("bad content in the store: %v, %v", bad, err)
	}
	if r, err := n.Rollback(t.Context(), "lessons"); err != nil || r.Seq != 1 { // there is room for that
		t.Errorf("going back: %+v, %v", r, err)
	}
	if shutOut(n, o.ID()) {
		t.Error("who served it is shut out, and it was our disk")
	}
	check(t, n.Unfollow("lessons")) // what came is kept as long as somebody wants the rest
	_, err := n.Prune(t.Context(), UsualPrune)
	check(t, err)
	if free, err := n.Store().FreeSpace(); err != nil || free < 2<<20 {
		t.Errorf("%d bytes are free when nobody wants it any more: %v", free, err)
	}
	check(t, n.Follow("lessons", image))
	check(t, syscall.Mount("tmpfs", small, "tmpfs", syscall.MS_REMOUNT, "size=64m"))
	n.do(func() { l := n.lines["lessons"]; l.calm(); n.advance(l) }) // what it does by itself a little later
	state(3, StateReady)
}
