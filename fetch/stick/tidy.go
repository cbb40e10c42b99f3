package stick

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/ipfs/go-cid"

	"satchel/announce"
	"satchel/store"
	"satchel/store/manifest"
)

// Bounds of what is tidied: it is not worth more. A stick beyond them is left as it is.
const (
	maxTidyManifest = 16 << 20 // bytes
	maxTidyReleases = 1000
)

var errUntidy = errors.New("too much to tidy")

// pieceSet is a set of pieces by half of their digest. That is enough to count with, and to keep what may be wanted.
type pieceSet map[uint64]struct{}

func (p pieceSet) has(half uint64) bool {
	_, ok := p[half]
	return ok
}

// tidy removes content that no release in any catalog here needs, so that a stick that is exported to every week does not fill up.
// Packs of which nothing is needed go; the others are written anew, without what is not needed, when that is more than a third of
// what they have in all. The catalogs are in place already: whoever reads them never looks for what goes.
func (x *exporter) tidy() error {
	if err := x.stick.rescan(); err != nil {
		return err
	}
	needed, err := x.stick.needed()
	if err != nil {
		return x.ctx.Err() // it cannot be told what is needed: everything stays
	}
	waste, all := make([]int64, len(x.stick.packs)), make([]int64, len(x.stick.packs))
	var wasted, total int64
	for _, p := range x.stick.index {
		all[p.pack] += int64(p.size)
		if !needed.has(p.half) {
			waste[p.pack] += int64(p.size)
			wasted += int64(p.size)
		}
	}
	for i := range all {
		if waste[i] > 0 {
			total += all[i]
		}
	}
	for i, p := range x.stick.packs {
		if waste[i] == 0 || waste[i] < all[i] && wasted*3 < total {
			continue
		}
		if err := x.replacePack(p, needed); err != nil {
			return err
		}
	}
	return syncDir(x.stick.dir)
}

// needed lists the pieces that the releases of all catalogs on the stick need.
func (s *Stick) needed() (pieceSet, error) {
	if s.crowded {
		return nil, errors.New("not every catalog was looked at")
	}
	needed, releases := pieceSet{}, 0
	for _, c := range s.catalogs {
		d, err := s.Documents(c)
		if err != nil {
			return nil, err
		}
		for _, env := range d.Announcements {
			a, err := announce.ParseAnnouncement(env)
			if err != nil || !s.Has(store.DigestOf(a.Manifest)) {
				continue
			}
			if releases++; releases > maxTidyReleases {
				return nil, errUntidy
			}
			if err := s.mark(&a.Announcement, needed); err != nil {
				return nil, err
			}
		}
	}
	return needed, nil
}

// mark adds the pieces of a release, as far as they can be told from what is on the stick.
func (s *Stick) mark(a *announce.Announcement, set pieceSet) error {
	if a.ManifestSize > maxTidyManifest {
		return errUntidy
	}
	var data []byte
	err := s.eachPiece(a.Manifest, a.ManifestSize, func(d store.Digest, size uint32, list bool) error {
		set[half(d)] = struct{}{}
		if list {
			return nil
		}
		b, err := s.Read(d, size)
		data = append(data, b...)
		return err
	})
	if err != nil {
		return err
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return err
	}
	for _, b := range m.Blobs() {
		// What a list that is not here names cannot be put together from this stick.
		s.eachPiece(b.CID, b.Size, func(d store.Digest, _ uint32, _ bool) error { set[half(d)] = struct{}{}; return nil })
	}
	return nil
}

// eachPiece visits the pieces of a blob, by the chunk list that is on the stick.
func (s *Stick) eachPiece(c cid.Cid, size uint64, visit func(d store.Digest, size uint32, list bool) error) error {
	if size == 0 {
		return nil
	}
	if store.IsRaw(c) {
		return visit(store.DigestOf(c), uint32(min(size, store.MaxChunk)), false)
	}
	if err := visit(store.DigestOf(c), 0, true); err != nil {
		return err
	}
	raw, err := s.Read(store.DigestOf(c), uint32(store.MaxListSize(size)))
	if err != nil {
		return err
	}
	l, err := store.ParseChunkList(c, size, raw)
	if err != nil {
		return err
	}
	for _, k := range l.Chunks {
		if err := visit(k.Digest, k.Size, false); err != nil {
			return err
		}
	}
	return nil
}

// replacePack writes what is needed of a pack into a new one, and removes it.
func (x *exporter) replacePack(p pack, needed pieceSet) error {
	table, err := x.stick.table(p)
	if err != nil {
		return nil // what cannot be read stays
	}
	for _, e := range table {
		if !needed.has(half(e.digest)) {
			continue
		}
		if _, err := x.stick.readInto(e.digest, e.size, x.buf); err != nil {
			continue // damaged: of no use to anybody
		}
		x.batch = append(x.batch, source{entry: e, stick: true})
	}
	if err := x.writePack(); err != nil {
		return err
	}
	if err := x.stick.root.Remove(p.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// table reads the table of a pack again; all of it must be good.
func (s *Stick) table(p pack) ([]entry, error) {
	f, size, err := s.openFile(p.name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, packHead)
	if _, err := s.read(f, head, 0); err != nil {
		return nil, err
	}
	n, err := packCount(head)
	if err != nil {
		return nil, err
	}
	if tableSize(n) > size {
		return nil, fmt.Errorf("%q is cut off", p.name)
	}
	b := make([]byte, tableSize(n))
	if _, err := s.read(f, b, 0); err != nil {
		return nil, err
	}
	return parseTable(b)
}

// rescan looks at everything again.
func (s *Stick) rescan() error {
	for i, f := range s.open {
		f.Close()
		delete(s.open, i)
	}
	s.packs, s.index, s.roots, s.catalogs, s.crowded = nil, nil, nil, nil, false
	return s.scan()
}
