package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/ipfs/go-cid"
)

// smallFile is how much of a file is read into memory at once, in bytes. Such files are written only when they are new.
const smallFile = 1 << 20

// errChanged says that a file was written to while it was read.
var errChanged = errors.New("changed while it was read")

// ingester turns files into blobs of the store. It counts, and it remembers what it has seen, so that one content is stored
// once even when several goroutines meet it at the same time.
type ingester struct {
	store *Store
	known *chunkSet // chunks that were in the store at the beginning

	mu     sync.Mutex
	seen   map[[16]byte]struct{} // guarded by mu; blobs that somebody has taken care of
	fresh  map[uint64]struct{}   // guarded by mu; chunks that were not in the store at the beginning
	counts counts                // guarded by mu
}

type counts struct {
	newBlobs, oldBlobs                int
	newBytes, oldBytes, newChunkBytes uint64
}

func newIngester(s *Store, known *chunkSet) *ingester {
	return &ingester{store: s, known: known, seen: make(map[[16]byte]struct{}), fresh: make(map[uint64]struct{})}
}

// claim says whether the caller is the first to meet a blob, and must see to it that it is stored.
func (g *ingester) claim(c cid.Cid) bool {
	d := DigestOf(c)
	key := [16]byte(d[:16])
	g.mu.Lock()
	defer g.mu.Unlock()
	_, seen := g.seen[key]
	g.seen[key] = struct{}{}
	return !seen
}

func (g *ingester) countOld(size uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counts.oldBlobs++
	g.counts.oldBytes += size
}

// countNew is called before the blob is visible, so that it does not find its own chunk in the store.
func (g *ingester) countNew(size uint64, chunks []Chunk) {
	var unknown []Chunk
	for _, c := range chunks {
		if !g.known.has(c.Digest) && !g.store.Has(RawCID(c.Digest)) {
			unknown = append(unknown, c)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.counts.newBlobs++
	g.counts.newBytes += size
	for _, c := range unknown {
		if _, twice := g.fresh[half(c.Digest)]; !twice {
			g.fresh[half(c.Digest)] = struct{}{}
			g.counts.newChunkBytes += uint64(c.Size)
		}
	}
}

// small stores a file that is in memory, and names it.
func (g *ingester) small(data []byte, mode uint32) (cid.Cid, error) {
	l := split(data)
	raw := l.name()
	if !g.claim(l.Blob) {
		return l.Blob, nil
	}
	if g.store.Has(l.Blob) {
		g.countOld(l.Size)
		return l.Blob, nil
	}
	g.countNew(l.Size, l.Chunks)
	return l.Blob, g.store.putBytes(l.Blob, data, raw, mode)
}

// split cuts data that is in memory.
func split(data []byte) *ChunkList {
	l := new(ChunkList)
	for len(data) > 0 {
		n := Cut(data)
		l.Chunks = append(l.Chunks, Chunk{Offset: l.Size, Size: uint32(n), Digest: Sum(data[:n])})
		l.Size += uint64(n)
		data = data[n:]
	}
	return l
}

// name sets the CID of the blob that the list describes, and gives the list's bytes when it is a large one.
func (l *ChunkList) name() (raw []byte) {
	if len(l.Chunks) > 1 {
		raw = l.Encode()
		l.Blob = ListCID(Sum(raw))
		return raw
	}
	d := Sum(nil)
	if len(l.Chunks) == 1 {
		d = l.Chunks[0].Digest
	}
	l.Blob = RawCID(d)
	return nil
}

// putBytes writes a blob that is in memory. The list is nil for a raw one.
func (s *Store) putBytes(c cid.Cid, data, list []byte, mode uint32) error {
	err := s.writeBlob(c, data, list, mode)
	if err != nil {
		return fmt.Errorf("storing blob %v: %w", c, noSpace(err))
	}
	return s.flushWhenFull()
}

func (s *Store) writeBlob(c cid.Cid, data, list []byte, mode uint32) error {
	if list == nil {
		return s.putRaw(c, data, mode)
	}
	name, err := s.writeTemp("large", data, mode)
	if err != nil {
		return err
	}
	return s.addLarge(c, name, int64(len(data)), list)
}

// addLarge makes a finished file of the session a pending large blob.
func (s *Store) addLarge(c cid.Cid, name string, size int64, list []byte) error {
	listName, err := s.writeTemp("list", list, 0o600)
	if err != nil {
		s.tmp.Remove(name)
		return err
	}
	s.addPending(c, pendingBlob{path: s.session + "/" + name, list: s.session + "/" + listName, size: size})
	return nil
}

// large is one big file on its way into the store. Its chunks are hashed by several goroutines. Chunks that are in the store
// already are not written at first: most often the whole file turns out to be known. If it does not, they are read a second time.
type large struct {
	*ingester
	src   *os.File
	dst   *os.File
	name  string // of dst, in the session
	whole bool   // dst has everything from the beginning, because the file system shares the blocks
	zeros Digest

	mu   sync.Mutex
	list ChunkList // guarded by mu
	skip []int     // guarded by mu; chunks that were not written
	err  error     // guarded by mu
}

// piece is a chunk on its way to the goroutines that hash.
type piece struct {
	index int
	off   int64
	data  []byte
}

// largeFile stores a file of any size, and names it. The stable function is asked, when all is read, whether the file
// was left alone meanwhile.
func (g *ingester) largeFile(f *os.File, mode uint32, size int64, stable func() error, read func(int)) (cid.Cid, error) {
	dst, name, err := g.store.temp("large")
	if err != nil {
		return cid.Undef, noSpace(err)
	}
	l := &large{ingester: g, src: f, dst: dst, name: name, zeros: zeroChunk()}
	c, raw, err := l.store(mode, size, stable, read)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err != nil || raw == nil {
		g.store.tmp.Remove(name)
		return c, noSpace(err)
	}
	if err := g.store.addLarge(c, name, int64(l.list.Size), raw); err != nil {
		return c, fmt.Errorf("storing blob %v: %w", c, noSpace(err))
	}
	return c, g.store.flushWhenFull()
}

// store gives the chunk list's bytes when the blob is new and dst is complete, and none when it is here already.
func (l *large) store(mode uint32, size int64, stable func() error, read func(int)) (cid.Cid, []byte, error) {
	tmp := l.ingester.store.tmp
	l.whole = tmp.change("cloning", l.name, func() error { return clone(l.dst, l.src) }) == nil
	from := l.src
	if l.whole {
		from = l.dst
	}
	if err := l.hash(from, read); err != nil {
		return cid.Undef, nil, err
	}
	if err := stable(); err != nil {
		return cid.Undef, nil, err
	}
	if int64(l.list.Size) != size || len(l.list.Chunks) < 2 {
		return cid.Undef, nil, errChanged
	}
	raw := l.list.name()
	c := l.list.Blob
	if l.ingester.store.Has(c) {
		if l.claim(c) {
			l.countOld(l.list.Size)
		}
		return c, nil, nil
	}
	if err := l.complete(); err != nil {
		return c, nil, err
	}
	if err := tmp.seal(l.dst, l.name, fileMode(mode)); err != nil {
		return c, nil, err
	}
	// Only now, when nothing can go wrong with the file: others rely on what is claimed.
	if !l.claim(c) {
		return c, nil, nil
	}
	l.countNew(l.list.Size, l.list.Chunks)
	return c, raw, nil
}

// hash cuts the file and hands the chunks to as many goroutines as there are processors.
func (l *large) hash(from io.Reader, read func(int)) error {
	workers := runtime.GOMAXPROCS(0)
	free := make(chan []byte, 2*workers)
	for range cap(free) {
		free <- make([]byte, MaxChunk)
	}
	pieces := make(chan piece, cap(free))
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for p := range pieces {
				l.take(p)
				free <- p.data[:MaxChunk]
			}
		})
	}
	err := l.cut(from, free, pieces, read)
	close(pieces)
	wg.Wait()
	if err == nil {
		err = l.err
	}
	return err
}

func (l *large) cut(from io.Reader, free <-chan []byte, pieces chan<- piece, read func(int)) error {
	split := splitter{r: from, buf: make([]byte, splitBuffer)}
	for {
		chunk, err := split.next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return &sourceError{err}
		}
		data := append((<-free)[:0], chunk...)
		l.mu.Lock()
		p := piece{index: len(l.list.Chunks), off: int64(l.list.Size), data: data}
		l.list.Chunks = append(l.list.Chunks, Chunk{Offset: l.list.Size, Size: uint32(len(data))})
		l.list.Size += uint64(len(data))
		err = l.err
		l.mu.Unlock()
		if err != nil {
			return err
		}
		pieces <- p
		read(len(data))
	}
}

// take hashes one chunk, and writes it unless that can wait.
func (l *large) take(p piece) {
	d := Sum(p.data)
	known := l.known.has(d)
	hole := len(p.data) == MaxChunk && d == l.zeros
	var err error
	if !l.whole && !known && !hole {
		err = l.ingester.store.tmp.writeAt(l.dst, l.name, p.data, p.off)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list.Chunks[p.index].Digest = d
	if known && !hole && !l.whole {
		l.skip = append(l.skip, p.index)
	}
	if err != nil && l.err == nil {
		l.err = err
	}
}

// complete fills in the chunks that were not written.
func (l *large) complete() error {
	if l.whole {
		return nil
	}
	tmp := l.ingester.store.tmp
	if err := tmp.truncate(l.dst, l.name, int64(l.list.Size)); err != nil {
		return err
	}
	buf := make([]byte, MaxChunk)
	for _, i := range l.skip {
		c := &l.list.Chunks[i]
		data := buf[:c.Size]
		if n, err := l.src.ReadAt(data, int64(c.Offset)); n < len(data) || Sum(data) != c.Digest {
			if err != nil && err != io.EOF {
				return &sourceError{err}
			}
			return errChanged
		}
		if err := tmp.writeAt(l.dst, l.name, data, int64(c.Offset)); err != nil {
			return err
		}
	}
	return nil
}
