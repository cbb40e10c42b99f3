package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

// Suffixes of files that belong to a blob.
const (
	listSuffix = ".list" // its chunk list
	partSuffix = ".part" // as much of a large blob as is here
)

// Has says whether the whole blob is here, durable or pending.
func (s *Store) Has(c cid.Cid) bool {
	_, ok := s.Size(c)
	return ok
}

// Size gives the length in bytes of a whole blob that is here, durable or pending, as its file has it.
func (s *Store) Size(c cid.Cid) (size uint64, ok bool) {
	if checkCID(c) != nil {
		return 0, false
	}
	s.mu.Lock()
	b, ok := s.pending[c]
	s.mu.Unlock()
	if ok {
		return uint64(b.size), true
	}
	return s.committed(c)
}

// committed says whether a blob has its name. The size is looked at because it costs nothing: an emptied file is not a blob.
func (s *Store) committed(c cid.Cid) (size uint64, ok bool) {
	fi, err := s.blobs.Lstat(blobPath(c))
	if err != nil || !fi.Mode().IsRegular() || !sizeFits(c, fi.Size()) {
		return 0, false
	}
	return uint64(fi.Size()), true
}

func sizeFits(c cid.Cid, size int64) bool {
	if IsRaw(c) {
		return size <= MaxChunk && (size > 0) == (c != emptyBlob)
	}
	return size > MinChunk
}

// emptyBlob is the name of the blob of no bytes.
var emptyBlob = RawCID(Sum(nil))

// OpenBlob opens a whole blob for reading and gives its size in bytes. The caller closes the file. The error has
// [ErrNotFound] in its chain when the blob is not here.
func (s *Store) OpenBlob(c cid.Cid) (*os.File, int64, error) {
	f, size, err := s.openBlob(c)
	if err != nil {
		return nil, 0, fmt.Errorf("opening blob %v: %w", c, err)
	}
	return f, size, nil
}

func (s *Store) openBlob(c cid.Cid) (*os.File, int64, error) {
	if err := checkCID(c); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	b, ok := s.pending[c]
	s.mu.Unlock()
	if ok {
		// A blob that is gone from here by now has got its name meanwhile.
		if f, size, err := openRegular(s.root, b.path, os.O_RDONLY); err == nil {
			return f, size, nil
		}
	}
	f, size, err := openRegular(s.blobs, blobPath(c), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, ErrNotFound
	}
	if err == nil && !sizeFits(c, size) {
		f.Close()
		return nil, 0, ErrNotFound
	}
	return f, size, err
}

// openRegular opens a file, but neither a link nor a pipe, for reading or, with os.O_RDWR, for writing too.
func openRegular(root *disk, name string, how int) (*os.File, int64, error) {
	was, err := root.Lstat(name)
	if err != nil {
		return nil, 0, err
	}
	if !was.Mode().IsRegular() {
		return nil, 0, fmt.Errorf("%s: not a regular file", name)
	}
	f, err := root.OpenFile(name, how|unix.O_NONBLOCK|largeFile, 0)
	if err != nil {
		return nil, 0, err
	}
	is, err := f.Stat()
	if err == nil && !os.SameFile(was, is) {
		err = fmt.Errorf("%s: replaced while opening it", name)
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, is.Size(), nil
}

// ReadRange fills p with the bytes of a blob from off on. It reads whole blobs, and chunks of open partial blobs that are
// already verified. The error has [ErrNotFound] in its chain when the blob or a part of the range is not here, and
// [ErrRange] when the range reaches beyond the blob. What is read comes from the disk and may have been damaged there: who
// passes it on to people who check need not check it, everybody else must.
func (s *Store) ReadRange(c cid.Cid, off int64, p []byte) error {
	err := s.readRange(c, off, p)
	if err != nil {
		return fmt.Errorf("reading %d bytes at %d of blob %v: %w", len(p), off, c, err)
	}
	return nil
}

func (s *Store) readRange(c cid.Cid, off int64, p []byte) error {
	if off < 0 || off > MaxBlob || int64(len(p)) > MaxBlob {
		return ErrRange
	}
	s.mu.Lock()
	part := s.partials[c]
	s.mu.Unlock()
	f, size, err := s.openBlob(c)
	if errors.Is(err, ErrNotFound) && part != nil {
		if err := part.readRange(off, p); !errors.Is(err, ErrNotFound) {
			return err
		}
		f, size, err = s.openBlob(c) // it may have become whole between the two
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if off+int64(len(p)) > size {
		return ErrRange
	}
	if _, err := f.ReadAt(p, off); err != nil && err != io.EOF {
		return err
	} else if err == io.EOF && len(p) > 0 {
		return io.ErrUnexpectedEOF // cut off since it was opened
	}
	return nil
}

// BlobFile gives the path of a file with the blob's content and exactly these permission bits, to make a hard link of. Such
// a file must never be written to. When no entry wanted this mode before, a variant of the blob is made: it shares
// the blob's space where the file system can do that, and is a copy elsewhere.
func (s *Store) BlobFile(c cid.Cid, mode uint32) (path string, err error) {
	name, err := s.blobFile(c, mode&0o7777)
	if err != nil {
		return "", fmt.Errorf("finding a file of blob %v with mode %#o: %w", c, mode, noSpace(err))
	}
	return filepath.Join(s.dir, "blobs", name), nil
}

func (s *Store) blobFile(c cid.Cid, mode uint32) (string, error) {
	if !s.Has(c) {
		return "", ErrNotFound
	}
	fi, err := s.blobs.Lstat(blobPath(c))
	if errors.Is(err, fs.ErrNotExist) { // still pending
		if err := s.Sync(); err != nil {
			return "", err
		}
		fi, err = s.blobs.Lstat(blobPath(c))
	}
	if err != nil {
		return "", err
	}
	if permissions(fi) == mode {
		return blobPath(c), nil
	}
	name := fmt.Sprintf("%s.%04o", blobPath(c), mode)
	if v, err := s.blobs.Lstat(name); err == nil && v.Mode().IsRegular() && v.Size() == fi.Size() && permissions(v) == mode {
		return name, nil
	}
	return name, s.makeVariant(c, name, mode)
}

// makeVariant copies a blob to a file with another mode. Variants are rare, so each is synced by itself.
func (s *Store) makeVariant(c cid.Cid, name string, mode uint32) error {
	src, _, err := s.openBlob(c)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, temp, err := s.temp("variant")
	if err != nil {
		return err
	}
	err = s.tmp.fill(dst, temp, src)
	if err == nil {
		err = s.tmp.seal(dst, temp, mode)
	}
	if err == nil {
		err = s.tmp.sync(dst, temp)
	}
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.replace(s.session+"/"+temp, "blobs/"+name)
	}
	if err != nil {
		s.tmp.Remove(temp)
	}
	return err
}

// fill gives dst, an empty file, the content of src.
func fill(dst, src *os.File) error {
	if clone(dst, src) == nil {
		return nil
	}
	_, err := io.Copy(dst, src)
	return err
}
