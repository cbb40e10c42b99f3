package stick

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"satchel/announce"
	"satchel/store"
)

// Dir is the directory on a stick that belongs to satchel. FAT may show it in upper case.
const Dir = "satchel"

var (
	// ErrNone is in the chain when a directory has nothing of satchel in it.
	ErrNone = errors.New("no satchel directory in it")
	// ErrInUse is in the chain when somebody else writes to the stick, or reads it while we want to write.
	ErrInUse = errors.New("in use by another export or import")
	// ErrLimit is in the chain when a stick holds more than any honest one.
	ErrLimit = errors.New("more than a stick made by satchel holds")
	// ErrAbsent is in the chain when a piece is not on the stick.
	ErrAbsent = errors.New("not on the stick")
	// ErrDamaged is in the chain when bytes on the stick are not what they were.
	ErrDamaged = errors.New("damaged on the stick")
)

// Limits of what is looked at, and kept in memory.
const (
	maxFiles    = 1 << 14   // names in the directory
	maxPieces   = 2_000_000 // of all packs: 24 bytes of memory each
	maxRoots    = 8         // root files
	maxCatalogs = 8
	maxOpen     = 32 // packs open at a time
	maxTries    = 8  // places where one piece is looked for
	maxProblems = 20 // that are kept in words
)

// Stick is what satchel keeps on a stick. It has one owner at a time.
//
// Every look at a file is a look at a stranger's file: it may have become another one since. So nothing is believed because
// it was checked before; what is used are the very bytes in memory that had the right hash, or the right signature.
type Stick struct {
	path  string // of the directory, for people
	root  *os.Root
	dir   *os.File // the directory, locked
	names []string // of all that is in the directory

	packs    []pack
	index    []place // sorted by half
	roots    []string
	catalogs []CatalogFile
	crowded  bool // there are more catalogs than are looked at
	problems Problems

	open map[uint16]*os.File // packs
	read func(f *os.File, p []byte, off int64) (int, error)
}

// CatalogFile is a catalog on the stick.
type CatalogFile struct {
	Name string
	Root [20]byte // id of the newest trust root where it was written, as it says
}

type pack struct {
	name string
	size int64
}

// place is where a piece lies, as a table says.
type place struct {
	half         uint64 // first half of the digest's first half: whoever finds a place compares the whole
	offset, size uint32
	pack         uint16
}

// Problems is what was found wrong with a stick, in words for people.
type Problems struct {
	Texts []string // the first of them
	Count int
	Last  error // the last error of reading the medium itself; nil: none
}

func (p *Problems) add(format string, args ...any) {
	if p.Count++; len(p.Texts) < maxProblems {
		p.Texts = append(p.Texts, fmt.Sprintf(format, args...))
	}
}

// Open looks at what is in dir, which is where the stick is mounted. The files are only listed and their heads read. The error has
// [ErrNone], [ErrInUse] or [ErrLimit] in its chain, or is that of the medium. The caller closes the Stick.
func Open(dir string) (*Stick, error) {
	s, err := openDir(dir, lockShared)
	if err == nil {
		if err = s.scan(); err != nil {
			s.Close()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the stick %q: %w", dir, err)
	}
	return s, nil
}

// openDir opens and locks the directory. Nothing in it is followed: not even the directory itself may be a link.
func openDir(dir string, how int) (*Stick, error) {
	top, err := openTop(dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	name, err := findDir(top)
	if err != nil {
		return nil, err
	}
	s := &Stick{path: filepath.Join(dir, name), open: make(map[uint16]*os.File), read: (*os.File).ReadAt}
	if s.root, err = top.OpenRoot(name); err != nil {
		return nil, err
	}
	// Now that it is open: on FAT the inode of what is not may be another one at each look.
	is, err := s.root.Stat(".")
	if fi, ferr := top.Lstat(name); err == nil && (ferr != nil || !os.SameFile(fi, is)) {
		err = fmt.Errorf("%s: replaced while opening it: %w", name, ErrNone)
	}
	if err == nil {
		s.dir, err = s.root.Open(".")
	}
	if err == nil {
		err = lock(s.dir, how)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// openTop opens where the stick is mounted.
func openTop(dir string) (*os.Root, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !fi.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: syscall.ENOTDIR}
	}
	return os.OpenRoot(dir)
}

func findDir(top *os.Root) (name string, err error) {
	for _, name := range []string{Dir, strings.ToUpper(Dir)} {
		fi, err := top.Lstat(name)
		if err == nil && fi.IsDir() {
			return name, nil
		}
		if err == nil {
			return "", fmt.Errorf("%s is not a directory: %w", name, ErrNone)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return "", ErrNone
}

// Close gives the stick up. Closing it again does nothing.
func (s *Stick) Close() error {
	for _, f := range s.open {
		f.Close()
	}
	clear(s.open)
	if s.dir != nil {
		s.dir.Close()
	}
	if s.root != nil {
		return s.root.Close()
	}
	return nil
}

// Path is the directory of satchel's files.
func (s *Stick) Path() string { return s.path }

// Problems is what was found wrong until now.
func (s *Stick) Problems() Problems { return s.problems }

// Pieces is how many pieces the stick says it has.
func (s *Stick) Pieces() int { return len(s.index) }

// Catalogs lists the catalogs; see [Stick.Documents].
func (s *Stick) Catalogs() []CatalogFile { return s.catalogs }

// RootFiles lists the files that may be root files.
func (s *Stick) RootFiles() []string { return s.roots }

// scan reads the heads of all files. Content decides what a file is.
func (s *Stick) scan() error {
	d, err := s.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	s.names, err = d.Readdirnames(maxFiles + 1)
	if err != nil && err != io.EOF {
		return err
	}
	if len(s.names) > maxFiles {
		return fmt.Errorf("more than %d files: %w", maxFiles, ErrLimit)
	}
	slices.Sort(s.names)
	for _, name := range s.names {
		if err := s.look(name); err != nil {
			return err
		}
	}
	slices.SortStableFunc(s.index, func(a, b place) int { return cmp.Compare(a.half, b.half) })
	return nil
}

// look finds out what a file is. An error ends everything; what is wrong with this file alone becomes a problem.
func (s *Stick) look(name string) error {
	f, size, err := s.openFile(name)
	if err != nil {
		if !errors.Is(err, errNotFile) {
			s.mediumError(err)
		}
		if !errors.Is(err, errDir) {
			s.problems.add("%q is left alone: %v", name, err)
		}
		return nil
	}
	defer f.Close()
	head := make([]byte, len(catalogMagic)+recordHead+20)
	n, err := s.read(f, head, 0)
	if err != nil && err != io.EOF {
		s.mediumError(err)
		s.problems.add("%q cannot be read: %v", name, err)
		return nil
	}
	head = head[:n]
	switch {
	case n >= packHead && string(head[:len(packMagic)]) == packMagic:
		return s.lookPack(name, f, size, head)
	case n == cap(head) && string(head[:len(catalogMagic)]) == catalogMagic:
		if len(s.catalogs) < maxCatalogs {
			s.catalogs = append(s.catalogs, CatalogFile{name, [20]byte(head[len(head)-20:])})
		} else if !s.crowded {
			s.crowded = true
			s.problems.add("there are more than %d catalogs; the others are not looked at", maxCatalogs)
		}
	case n > 0 && head[0] == rootHead && size <= announce.MaxRootFile:
		if len(s.roots) < maxRoots {
			s.roots = append(s.roots, name)
		}
	}
	return nil
}

// rootHead is how a root file begins: with a CBOR array of two.
const rootHead = 0x82

func (s *Stick) lookPack(name string, f *os.File, size int64, head []byte) error {
	n, err := packCount(head)
	if err != nil {
		s.problems.add("%q: %v", name, err)
		return nil
	}
	if len(s.index)+n > maxPieces {
		return fmt.Errorf("more than %d pieces: %w", maxPieces, ErrLimit)
	}
	if tableSize(n) > size {
		s.problems.add("%q is cut off: nothing of it can be used", name)
		return nil
	}
	table := make([]byte, tableSize(n))
	if _, err := s.read(f, table, 0); err != nil && err != io.EOF {
		s.mediumError(err)
		s.problems.add("%q cannot be read: %v", name, err)
		return nil
	}
	entries, err := parseTable(table)
	if err != nil {
		s.problems.add("%q: %v", name, err)
	}
	s.packs = append(s.packs, pack{name, size})
	offset := tableSize(n)
	for i, e := range entries {
		if offset+int64(e.size) > size {
			s.problems.add("%q is cut off: %d of its %d pieces are missing", name, len(entries)-i, len(entries))
			break
		}
		if offset > 1<<32-1 {
			s.problems.add("%q is longer than 4 GiB", name)
			break
		}
		s.index = append(s.index, place{half(e.digest), uint32(offset), e.size, uint16(len(s.packs) - 1)})
		offset += int64(e.size)
	}
	return nil
}

func half(d store.Digest) uint64 { return binary.BigEndian.Uint64(d[:]) }

var (
	errNotFile = errors.New("not a regular file")
	errDir     = fmt.Errorf("a directory: %w", errNotFile)
)

// openFile opens a regular file for reading: no link, no pipe, no device, and nothing that is waited for.
func (s *Stick) openFile(name string) (*os.File, int64, error) {
	was, err := s.root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	switch {
	case was.IsDir():
		return nil, 0, errDir
	case !was.Mode().IsRegular():
		return nil, 0, errNotFile
	}
	f, err := s.root.OpenFile(name, readFlags, 0)
	if err != nil {
		return nil, 0, err
	}
	is, err := f.Stat()
	if err == nil && !is.Mode().IsRegular() {
		err = fmt.Errorf("replaced while opening it: %w", errNotFile)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, is.Size(), nil
}

// mediumError notes that the medium itself failed, as when the stick was pulled out.
func (s *Stick) mediumError(err error) { s.problems.Last = err }

// readFile reads a whole file of at most limit bytes.
func (s *Stick) readFile(name string, limit int) ([]byte, error) {
	f, size, err := s.openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > int64(limit) {
		return nil, fmt.Errorf("%d bytes, limit is %d", size, limit)
	}
	b := make([]byte, size)
	if n, err := s.read(f, b, 0); err != nil && err != io.EOF {
		s.mediumError(err)
		return nil, err
	} else if n < len(b) {
		return nil, io.ErrUnexpectedEOF
	}
	return b, nil
}

// RootFile reads one of RootFiles. What it says is worth nothing until announce has verified it.
func (s *Stick) RootFile(name string) ([]byte, error) {
	b, err := s.readFile(name, announce.MaxRootFile)
	if err != nil {
		return nil, fmt.Errorf("reading the root file %q: %w", filepath.Join(s.path, name), err)
	}
	return b, nil
}

// Documents reads a catalog. It is there as a whole or not at all; the signatures in it are for others to check.
func (s *Stick) Documents(c CatalogFile) (*Documents, error) {
	b, err := s.readFile(c.Name, maxCatalog)
	if err == nil {
		var d *Documents
		if d, err = parseDocuments(b); err == nil {
			return d, nil
		}
	}
	return nil, fmt.Errorf("reading the catalog %q: %w: %w", filepath.Join(s.path, c.Name), ErrDamaged, err)
}

// places are where a piece may be. Damaged copies have good ones beside them when an export came by since.
func (s *Stick) places(d store.Digest) []place {
	h := half(d)
	first, _ := slices.BinarySearchFunc(s.index, h, func(p place, h uint64) int { return cmp.Compare(p.half, h) })
	last := first
	for last < len(s.index) && s.index[last].half == h && last-first < maxTries {
		last++
	}
	return s.index[first:last]
}

// Has says whether the stick claims to have a piece.
func (s *Stick) Has(d store.Digest) bool { return len(s.places(d)) > 0 }

// Read gives the piece with this SHA-256 when the stick has it, whole and undamaged, and it has at most limit bytes. The error has
// [ErrAbsent] or [ErrDamaged] in its chain, or is that of the medium.
func (s *Stick) Read(d store.Digest, limit uint32) ([]byte, error) { return s.readInto(d, limit, nil) }

// readInto is Read into buf when that is large enough.
func (s *Stick) readInto(d store.Digest, limit uint32, buf []byte) ([]byte, error) {
	err := ErrAbsent
	for _, p := range s.places(d) {
		if p.size > limit {
			continue
		}
		if uint32(cap(buf)) < p.size {
			buf = make([]byte, p.size)
		}
		var perr error
		if perr = s.readPlace(p, buf[:p.size]); perr == nil && store.Sum(buf[:p.size]) == d {
			return buf[:p.size], nil
		}
		if perr == nil {
			perr = ErrDamaged
		}
		s.problems.add("piece %x in %q: %v", d[:8], s.packs[p.pack].name, perr)
		err = perr
	}
	return nil, fmt.Errorf("reading piece %x: %w", d[:8], err)
}

func (s *Stick) readPlace(p place, b []byte) error {
	f, err := s.packFile(p.pack)
	if err == nil {
		var n int
		if n, err = s.read(f, b, int64(p.offset)); n == len(b) {
			return nil
		}
		if err == io.EOF {
			return ErrDamaged
		}
	}
	if !errors.Is(err, errNotFile) {
		s.mediumError(err)
	}
	return err
}

// packFile opens a pack, or finds it open.
func (s *Stick) packFile(i uint16) (*os.File, error) {
	if f := s.open[i]; f != nil {
		return f, nil
	}
	f, _, err := s.openFile(s.packs[i].name)
	if err != nil {
		return nil, err
	}
	if len(s.open) >= maxOpen {
		for k, old := range s.open {
			old.Close()
			delete(s.open, k)
			break
		}
	}
	s.open[i] = f
	return f, nil
}
