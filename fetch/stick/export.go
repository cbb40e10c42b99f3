package stick

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"github.com/ipfs/go-cid"
	"satchel/announce"
	"satchel/store"
)

// Release says what of a product goes onto a stick.
type Release struct {
	Manifest cid.Cid
	Since    cid.Cid // manifest of a release that the receiver has: what it names is left out; undefined: nothing is
}

// Config says what Export writes. Store, Dir and Releases must be set.
type Config struct {
	Dir      string // where the stick is mounted
	Store    *store.Store
	Kept     announce.Kept // the catalog of the home
	Releases []Release
	Progress func(Progress) // called now and then by the goroutine of Export; nil: nobody wants to know
}

// Progress is how far an Export is, in bytes of content.
type Progress struct {
	Done, Total uint64
	Written     uint64 // of Done, what was not on the stick
}

// Result is what an Export has done. Sizes are in bytes of content.
type Result struct {
	Path     string // of the directory on the stick
	Root     string // path of the root file
	Total    uint64 // what the releases consist of, without what was left out
	Here     uint64 // of it, what was on the stick already, and was read again
	Written  uint64 // of it, what was not
	Damaged  int    // pieces that were on the stick and damaged; they are there again
	Free     uint64 // what can still be written to the stick
	Products int    // announced by the catalog now
}

var (
	// ErrStore is in the chain when the home's own store is damaged.
	ErrStore = errors.New("the content here is damaged")
	// ErrMedium is in the chain when a stick does not give back what was written to it.
	ErrMedium = errors.New("the stick does not keep what is written to it")
)

const (
	packBytes  = 64 << 20 // content of a pack, about: what is lost when a stick is pulled out
	packPieces = 1 << 13  // and pieces
	freeMargin = 1 << 20  // bytes that names, tables and catalogs may take
	writeSize  = 4 << 20  // bytes of one write
)

// Export brings releases onto a stick, and adds what the home knows to what is on it. Content comes first, in new files that are
// complete and read back before they get their names; what the stick says it has comes last. So a stick that is pulled out, or is
// full, is at least as good as before, and another Export goes on. What is on the stick from other homes stays.
//
// The error has [ErrInUse], [ErrStore], [ErrMedium] or [store.ErrNoSpace] in its chain, or is that of the medium.
func Export(ctx context.Context, c Config) (Result, error) {
	return newExporter(ctx, c).run()
}

func newExporter(ctx context.Context, c Config) *exporter {
	return &exporter{cfg: c, ctx: ctx, left: make(map[store.Digest]struct{}), seen: make(map[store.Digest]struct{}),
		buf: make([]byte, store.MaxChunk), most: packBytes, read: (*os.File).ReadAt}
}

func (x *exporter) run() (Result, error) {
	err := x.export()
	if x.stick != nil {
		x.stick.Close()
	}
	if err != nil {
		return x.res, fmt.Errorf("writing to the stick %q: %w", x.cfg.Dir, noSpace(err))
	}
	return x.res, nil
}

// exporter is one run of Export.
type exporter struct {
	cfg   Config
	ctx   context.Context
	stick *Stick
	res   Result
	done  uint64

	left  map[store.Digest]struct{} // pieces that are left out
	seen  map[store.Digest]struct{} // pieces that are dealt with
	batch []source                  // the next pack
	bytes uint64                    // of batch
	most  uint64                    // of a pack
	buf   []byte

	blob cid.Cid // which file is
	file *os.File

	read func(f *os.File, p []byte, off int64) (int, error) // from the stick
}

// source is where in the home's store a piece comes from.
type source struct {
	entry
	blob   cid.Cid
	offset uint64
	list   bool // it is the blob's chunk list
	stick  bool // it comes from the stick itself
}

func (x *exporter) export() error {
	if err := x.openStick(); err != nil {
		return err
	}
	defer x.closeBlob()
	missing, err := x.plan()
	if err != nil {
		return err
	}
	if free, err := freeSpace(x.stick.dir); err == nil && missing+freeMargin > free {
		return fmt.Errorf("%w: it has %d bytes free, %d are needed", store.ErrNoSpace, free, missing+freeMargin)
	}
	for _, r := range x.cfg.Releases {
		if err := x.each(r, x.bring); err != nil {
			return err
		}
	}
	if err := x.writePack(); err != nil {
		return err
	}
	superseded, err := x.writeBooks()
	if err == nil && superseded {
		err = x.tidy()
	}
	if err != nil {
		return err
	}
	x.res.Free, _ = freeSpace(x.stick.dir)
	return nil
}

// openStick makes the directory when the stick has none, and removes what an Export that was cut short left in it.
func (x *exporter) openStick() error {
	top, err := openTop(x.cfg.Dir)
	if err != nil {
		return err
	}
	defer top.Close()
	if _, err := findDir(top); errors.Is(err, ErrNone) {
		if err := top.Mkdir(Dir, 0o755); err != nil {
			return err
		}
	}
	if x.stick, err = openDir(x.cfg.Dir, lockAlone); err != nil {
		return err
	}
	x.res.Path, x.stick.read = x.stick.path, x.read
	if err := x.stick.scan(); err != nil {
		return err
	}
	for _, name := range x.stick.names {
		if tempName.MatchString(name) {
			if err := x.stick.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// tempName is what a file is called until it is complete.
var tempName = regexp.MustCompile(`(?i)^[0-9a-f]{16}\.tmp$`)

// plan adds up what there is to do, going by what the stick says it has.
func (x *exporter) plan() (missing uint64, err error) {
	for _, r := range x.cfg.Releases {
		if r.Since.Defined() {
			if err := x.leaveOut(r.Since); err != nil {
				return 0, err
			}
		}
	}
	for _, r := range x.cfg.Releases {
		err := x.each(r, func(s source) error {
			x.res.Total += uint64(s.size)
			if !x.stick.Has(s.digest) {
				missing += uint64(s.size) + entrySize
			}
			return nil
		})
		if err != nil {
			return 0, err
		}
	}
	clear(x.seen)
	return missing, nil
}

// leaveOut marks what a release consists of, as far as that is known here: its content may be gone.
func (x *exporter) leaveOut(manifest cid.Cid) error {
	m, err := x.cfg.Store.Manifest(manifest)
	if err != nil {
		return storeError(err)
	}
	for _, b := range m.Blobs() {
		x.left[store.DigestOf(b.CID)] = struct{}{} // a blob that is in both is left out as a whole
		if store.IsRaw(b.CID) {
			continue
		}
		if l, _, err := x.cfg.Store.List(b.CID); err == nil {
			for _, k := range l.Chunks {
				x.left[k.Digest] = struct{}{}
			}
		}
	}
	return x.ctx.Err()
}

// each visits the pieces of a release, but those that are left out or were visited since seen was cleared.
func (x *exporter) each(r Release, visit func(source) error) error {
	m, err := x.cfg.Store.Manifest(r.Manifest)
	if err != nil {
		return storeError(err)
	}
	f, size, err := x.cfg.Store.OpenBlob(r.Manifest)
	if err != nil {
		return storeError(err)
	}
	f.Close()
	once := func(s source) error {
		if err := x.ctx.Err(); err != nil {
			return err
		}
		if x.dealt(s.digest) {
			return nil
		}
		x.seen[s.digest] = struct{}{}
		return visit(s)
	}
	if err := x.pieces(r.Manifest, uint64(size), once); err != nil {
		return err
	}
	for _, b := range m.Blobs() {
		if x.dealt(store.DigestOf(b.CID)) {
			continue
		}
		if err := x.pieces(b.CID, b.Size, once); err != nil {
			return err
		}
	}
	return nil
}

// dealt says that a piece, or a blob with all its pieces, need not be looked at.
func (x *exporter) dealt(d store.Digest) bool {
	_, left := x.left[d]
	_, seen := x.seen[d]
	return left || seen
}

// pieces visits the pieces of a blob, its chunk list first. The empty blob has none: everybody has it.
func (x *exporter) pieces(c cid.Cid, size uint64, visit func(source) error) error {
	if size == 0 {
		return nil
	}
	if store.IsRaw(c) {
		return visit(source{entry: entry{store.DigestOf(c), uint32(size)}, blob: c})
	}
	l, raw, err := x.cfg.Store.List(c)
	if err != nil {
		return storeError(err)
	}
	if err := visit(source{entry: entry{store.DigestOf(c), uint32(len(raw))}, blob: c, list: true}); err != nil {
		return err
	}
	for _, k := range l.Chunks {
		if err := visit(source{entry: entry{k.Digest, k.Size}, blob: c, offset: k.Offset}); err != nil {
			return err
		}
	}
	return nil
}

func storeError(err error) error { return fmt.Errorf("%w: %w", ErrStore, err) }

// bring sees to it that a piece is on the stick, undamaged.
func (x *exporter) bring(s source) error {
	if x.stick.Has(s.digest) {
		_, err := x.stick.readInto(s.digest, s.size, x.buf)
		if err == nil {
			x.res.Here += uint64(s.size)
			x.progress(s)
			return nil
		}
		x.res.Damaged++
	}
	if x.bytes+uint64(s.size) > x.most || len(x.batch) >= packPieces {
		if err := x.writePack(); err != nil {
			return err
		}
	}
	x.batch = append(x.batch, s)
	x.bytes += uint64(s.size)
	return nil
}

func (x *exporter) progress(s source) {
	x.done += uint64(s.size)
	if x.cfg.Progress != nil {
		x.cfg.Progress(Progress{Done: x.done, Total: x.res.Total, Written: x.res.Written})
	}
}

// writePack writes what has collected. A pack has its name when it is whole and was read back from the medium.
func (x *exporter) writePack() error {
	if len(x.batch) == 0 {
		return nil
	}
	table := make([]entry, len(x.batch))
	for i := range x.batch {
		table[i] = x.batch[i].entry
	}
	head := encodeTable(table)
	sum := store.Sum(head)
	err := x.stick.write(hex.EncodeToString(sum[:8])+".pack", func(f *os.File) error {
		if err := x.fill(f, head); err != nil {
			return err
		}
		return x.readBack(f, int64(len(head)))
	})
	if err != nil {
		return err
	}
	x.batch, x.bytes = x.batch[:0], 0
	return nil
}

// fill writes a pack. Progress is what has left this machine's memory: a slow stick takes its time.
func (x *exporter) fill(f *os.File, head []byte) error {
	out := append(make([]byte, 0, writeSize), head...)
	at, from := int64(0), 0
	write := func(upTo int) error {
		if _, err := f.Write(out); err != nil {
			return err
		}
		if err := push(f, at, int64(len(out))); err != nil {
			return err
		}
		at, out = at+int64(len(out)), out[:0]
		for ; from < upTo; from++ {
			if s := &x.batch[from]; !s.stick {
				x.res.Written += uint64(s.size)
				x.progress(*s)
			}
		}
		return x.ctx.Err()
	}
	for i := range x.batch {
		s := &x.batch[i]
		if len(out)+int(s.size) > writeSize {
			if err := write(i); err != nil {
				return err
			}
		}
		n := len(out)
		out = slices.Grow(out, int(s.size))[:n+int(s.size)]
		if err := x.load(s, out[n:]); err != nil {
			return err
		}
	}
	return write(len(x.batch))
}

// load reads a piece from the home's store.
func (x *exporter) load(s *source, b []byte) error {
	if s.stick {
		got, err := x.stick.Read(s.digest, s.size)
		copy(b, got)
		return err
	}
	if s.list {
		_, raw, err := x.cfg.Store.List(s.blob)
		if err == nil && copy(b, raw) != len(raw) {
			err = store.ErrMismatch
		}
		if err != nil {
			return storeError(err)
		}
		return nil
	}
	if x.file == nil || x.blob != s.blob {
		x.closeBlob()
		f, _, err := x.cfg.Store.OpenBlob(s.blob)
		if err != nil {
			return storeError(err)
		}
		x.blob, x.file = s.blob, f
	}
	if _, err := x.file.ReadAt(b, int64(s.offset)); err != nil {
		return storeError(err)
	}
	return nil
}

func (x *exporter) closeBlob() {
	if x.file != nil {
		x.file.Close()
		x.file = nil
	}
}

// readBack makes a pack durable and hashes it again, from the medium: there are sticks that say yes and keep nothing.
func (x *exporter) readBack(f *os.File, offset int64) error {
	if err := flush(f); err != nil {
		return err
	}
	for i := range x.batch {
		s := &x.batch[i]
		if uint32(cap(x.buf)) < s.size {
			x.buf = make([]byte, s.size)
		}
		b := x.buf[:s.size]
		n, err := x.stick.read(f, b, offset)
		if err != nil && err != io.EOF {
			return err
		}
		if n < len(b) || store.Sum(b) != s.digest {
			return x.guilty(s)
		}
		offset += int64(s.size)
		if err := x.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// guilty tells whether a piece is wrong on the stick because it is wrong here.
func (x *exporter) guilty(s *source) error {
	b := x.buf[:s.size]
	if err := x.load(s, b); err != nil {
		return err
	}
	if store.Sum(b) != s.digest {
		return storeError(fmt.Errorf("blob %v: %w", s.blob, store.ErrMismatch))
	}
	return ErrMedium
}

// write makes a file that is there as a whole or not at all, under a name that fill's success gives it. A failed fsync is not
// tried again: the file goes.
//
//	openat <16 hex>.tmp O_CREAT|O_EXCL, write, fsync    by fill
//	renameat <16 hex>.tmp → name
//	fsync of the directory
func (s *Stick) write(name string, fill func(*os.File) error) error {
	var id [8]byte
	rand.Read(id[:])
	temp := hex.EncodeToString(id[:]) + ".tmp"
	f, err := s.root.OpenFile(temp, createFlags, 0o644)
	if err != nil {
		return err
	}
	err = fill(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.root.Rename(temp, name)
	}
	if err == nil {
		return syncDir(s.dir)
	}
	s.root.Remove(temp)
	return err
}

// writeSmall writes a file of known bytes, unless it has them already.
func (s *Stick) writeSmall(name string, data []byte) error {
	if old, err := s.readFile(name, len(data)); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return s.write(name, func(f *os.File) error {
		if _, err := f.Write(data); err != nil {
			return err
		}
		if err := flush(f); err != nil {
			return err
		}
		again := make([]byte, len(data))
		if _, err := s.read(f, again, 0); err != nil || !bytes.Equal(again, data) {
			return ErrMedium
		}
		return nil
	})
}

func (s *Stick) join(name string) string { return filepath.Join(s.path, name) }
