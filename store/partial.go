package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// Partial is a large blob of which only some chunks are here yet. Chunks come in any order, and each can be read with
// [Store.ReadRange] as soon as it is written. What is here survives a crash of the process; after a power cut the chunks that
// were written out survive.
//
//	(file with holes) ──WriteChunk──► ... ──all there──► Commit ──► pending ──Sync──► blob
//	       ▲  └──Close, or the end of the process: kept
//	       └─────Partial: what is in the file is hashed again, so no journal is needed
//
// All methods may be called from several goroutines at once.
type Partial struct {
	store *Store
	list  *ChunkList
	mode  uint32
	file  *os.File
	refs  int           // guarded by store.mu
	ready chan struct{} // closed when file, have and openErr are set
	err   error         // why it could not be opened

	mu        sync.Mutex
	have      []bool // guarded by mu; by index: the chunk is in the file, verified
	missing   int    // guarded by mu; how many are not
	committed bool   // guarded by mu
}

// Partial opens the part of a large blob that is here, or begins it. What a former process left is continued. When it is
// open already, the same one is returned, and is closed when it was closed as often as it was opened. The blob's file will
// get the given permission bits. The error has [ErrInUse] in its chain when another process is at it.
func (s *Store) Partial(l *ChunkList, mode uint32) (*Partial, error) {
	s.mu.Lock()
	p := s.partials[l.Blob]
	first := p == nil
	if first {
		p = &Partial{store: s, list: l, mode: mode, ready: make(chan struct{})}
		s.partials[l.Blob] = p
	}
	p.refs++
	s.mu.Unlock()
	if first {
		p.err = p.open()
		close(p.ready)
	}
	<-p.ready
	if p.err != nil {
		p.release()
		return nil, fmt.Errorf("opening partial blob %v: %w", l.Blob, noSpace(p.err))
	}
	return p, nil
}

func partPath(c cid.Cid) string { return "partial/" + c.String() + partSuffix }

func (p *Partial) open() error {
	if p.store.Has(p.list.Blob) {
		p.have = slices.Repeat([]bool{true}, len(p.list.Chunks))
		p.committed = true
		return nil
	}
	if err := p.store.saveList(p.list.Blob, p.list.Encode()); err != nil {
		return err
	}
	f, err := p.openFile()
	if err != nil {
		return err
	}
	p.file = f
	if err = flock(f, unix.LOCK_EX|unix.LOCK_NB); err == nil {
		err = p.store.root.truncate(f, partPath(p.list.Blob), int64(p.list.Size))
	}
	if err == nil {
		err = p.resume()
	}
	if err != nil {
		f.Close()
	}
	return err
}

func (p *Partial) openFile() (*os.File, error) {
	root, name := p.store.root, partPath(p.list.Blob)
	switch fi, err := root.Lstat(name); {
	case err != nil:
	case !fi.Mode().IsRegular():
		if err := root.RemoveAll(name); err != nil {
			return nil, err
		}
	case fi.Mode().Perm()&0o600 != 0o600: // it was finished, but the end came before it got its name
		if err := root.Chmod(name, 0o600); err != nil {
			return nil, err
		}
	}
	return openOrMake(root, name)
}

// saveList keeps the chunk list of a blob that is not whole.
func (s *Store) saveList(c cid.Cid, raw []byte) error {
	name, err := s.writeTemp("list", raw, 0o600)
	if err != nil {
		return err
	}
	if err := s.replace(s.session+"/"+name, "partial/"+c.String()+listSuffix); err != nil {
		s.tmp.Remove(name)
		return err
	}
	return nil
}

// resume finds out which chunks are in the file, by hashing what is not a hole.
func (p *Partial) resume() error {
	n := len(p.list.Chunks)
	p.have = make([]bool, n)
	written, err := p.written()
	if err != nil {
		return err
	}
	zeros := zeroChunk()
	var next atomic.Int64
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var buf []byte
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if written[i] && buf == nil {
					buf = make([]byte, MaxChunk)
				}
				// A hole reads as zeros, so a chunk of zeros is always here.
				p.have[i] = isZero(&p.list.Chunks[i], zeros) || written[i] && p.check(i, buf)
			}
		})
	}
	wg.Wait()
	for _, here := range p.have {
		if !here {
			p.missing++
		}
	}
	return nil
}

// zeroChunk is the digest of the largest chunk of zeros, which is what stretches of zeros are cut into.
func zeroChunk() Digest { return Sum(make([]byte, MaxChunk)) }

func isZero(c *Chunk, zeros Digest) bool { return c.Size == MaxChunk && c.Digest == zeros }

// written says which chunks touch no hole of the file.
func (p *Partial) written() ([]bool, error) {
	chunks := p.list.Chunks
	full := make([]bool, len(chunks))
	i := 0
	for off := int64(0); ; {
		start, end, err := extent(p.file, off)
		if err == io.EOF {
			return full, nil
		}
		if err != nil {
			return nil, err
		}
		for ; i < len(chunks) && int64(chunks[i].Offset) < end; i++ {
			full[i] = int64(chunks[i].Offset) >= start && int64(chunks[i].Offset)+int64(chunks[i].Size) <= end
		}
		if off = end; off >= int64(p.list.Size) {
			return full, nil
		}
	}
}

func (p *Partial) check(i int, buf []byte) bool {
	c := &p.list.Chunks[i]
	n, err := p.file.ReadAt(buf[:c.Size], int64(c.Offset))
	return (err == nil || err == io.EOF) && n == int(c.Size) && Sum(buf[:n]) == c.Digest
}

// List is the chunk list of the blob.
func (p *Partial) List() *ChunkList { return p.list }

// Have says, by index, which chunks are here. The caller may keep and change the slice.
func (p *Partial) Have() []bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]bool(nil), p.have...)
}

// Missing is the number of chunks that are not here.
func (p *Partial) Missing() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.missing
}

// WriteChunk stores the chunk with index i. The data is checked before anything is written: [ErrMismatch] says that it is
// not that chunk, [ErrNoSpace] that the disk is full. Writing a chunk that is here does nothing.
func (p *Partial) WriteChunk(i int, data []byte) error {
	if err := p.writeChunk(i, data); err != nil {
		return fmt.Errorf("storing chunk %d of blob %v: %w", i, p.list.Blob, noSpace(err))
	}
	return nil
}

func (p *Partial) writeChunk(i int, data []byte) error {
	if i < 0 || i >= len(p.list.Chunks) {
		return fmt.Errorf("it has %d chunks", len(p.list.Chunks))
	}
	c := &p.list.Chunks[i]
	if len(data) != int(c.Size) || Sum(data) != c.Digest {
		return ErrMismatch
	}
	if p.has(i) {
		return nil // the file may be whole by now, and then nobody may write to it
	}
	if err := p.store.root.writeAt(p.file, partPath(p.list.Blob), data, int64(c.Offset)); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.have[i] {
		p.have[i] = true
		p.missing--
	}
	return nil
}

func (p *Partial) has(i int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.have[i]
}

// readRange reads from verified chunks only.
func (p *Partial) readRange(off int64, b []byte) error {
	<-p.ready
	if p.file == nil || p.err != nil {
		return ErrNotFound
	}
	end := uint64(off) + uint64(len(b))
	if end > p.list.Size {
		return ErrRange
	}
	if len(b) == 0 {
		return nil
	}
	for i := p.list.find(uint64(off)); i < len(p.list.Chunks) && p.list.Chunks[i].Offset < end; i++ {
		if !p.has(i) {
			return ErrNotFound
		}
	}
	_, err := p.file.ReadAt(b, off)
	if errors.Is(err, fs.ErrClosed) {
		return ErrNotFound
	}
	return err
}

// Commit makes the blob, of which every chunk must be here, a whole one: it can be opened at once and is durable after
// [Store.Sync]. The Partial must still be closed.
func (p *Partial) Commit() error {
	if err := p.commit(); err != nil {
		return fmt.Errorf("finishing blob %v: %w", p.list.Blob, noSpace(err))
	}
	return p.store.flushWhenFull()
}

func (p *Partial) commit() error {
	p.mu.Lock()
	missing, done := p.missing, p.committed
	p.committed = p.missing == 0
	p.mu.Unlock()
	if missing > 0 {
		return fmt.Errorf("%d chunks are missing", missing)
	}
	if done {
		return nil
	}
	if err := p.store.root.seal(p.file, partPath(p.list.Blob), fileMode(p.mode)); err != nil {
		return err
	}
	c := p.list.Blob
	p.store.addPending(c, pendingBlob{path: partPath(c), list: "partial/" + c.String() + listSuffix, size: int64(p.list.Size)})
	return nil
}

// Close ends the work on the blob. What is here stays, to be continued later.
func (p *Partial) Close() error {
	if err := p.release(); err != nil {
		return fmt.Errorf("closing partial blob %v: %w", p.list.Blob, err)
	}
	return nil
}

// release gives up one reference; the last one closes the file, and with it goes the lock. That is done before anybody
// can open it anew, who would else meet our own lock.
func (p *Partial) release() error {
	p.store.mu.Lock()
	defer p.store.mu.Unlock()
	p.refs--
	if p.refs > 0 {
		return nil
	}
	delete(p.store.partials, p.list.Blob)
	if p.file == nil || p.err != nil {
		return nil
	}
	return p.file.Close()
}
