package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
)

// Source is a place in a blob of the store where a chunk's bytes are.
type Source struct {
	Blob   cid.Cid
	Offset uint64
	Size   uint32
}

// FindChunks looks for chunks inside the large blobs that are here. It calls found for each place of a chunk that want
// says yes to, and stops when found says no. It does not look for whole small blobs: ask Has(RawCID(d)) for those. What is
// found is to be read with [Store.ReadRange] and checked, for the disk may have damaged it.
func (s *Store) FindChunks(ctx context.Context, want func(Digest) bool, found func(Digest, Source) bool) error {
	err := s.eachFile(ctx, func(f blobFileName) error {
		if f.suffix != listSuffix {
			return nil
		}
		l, _, err := readList(s.blobs, f.path(), f.cid)
		if err != nil {
			return nil // a damaged list is of no use here; Verify makes it anew
		}
		for i := range l.Chunks {
			c := &l.Chunks[i]
			if want(c.Digest) && !found(c.Digest, Source{Blob: f.cid, Offset: c.Offset, Size: c.Size}) {
				return errStop
			}
		}
		return nil
	})
	if err != nil && err != errStop {
		return fmt.Errorf("looking for chunks: %w", err)
	}
	return nil
}

var errStop = errors.New("stop")

// blobFileName is the name of a file below blobs, taken apart.
type blobFileName struct {
	cid    cid.Cid
	suffix string // empty for the blob itself, listSuffix, or a dot and the mode of a variant
}

func (f blobFileName) path() string { return blobPath(f.cid) + f.suffix }

// eachFile visits all files below blobs that have a name as they should.
func (s *Store) eachFile(ctx context.Context, visit func(blobFileName) error) error {
	shards, err := names(s.blobs, ".")
	if err != nil {
		return err
	}
	for _, dir := range shards {
		files, err := names(s.blobs, dir)
		if err != nil {
			return err
		}
		for _, name := range files {
			stem, suffix := name, ""
			if i := strings.IndexByte(name, '.'); i >= 0 {
				stem, suffix = name[:i], name[i:]
			}
			c, ok := parseName(stem)
			if !ok || shard(c) != dir {
				continue
			}
			if err := visit(blobFileName{c, suffix}); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// names lists a directory, sorted. Something that is no directory is empty.
func names(root *disk, dir string) ([]string, error) {
	if fi, err := root.Lstat(dir); err != nil || !fi.IsDir() {
		return nil, err
	}
	d, err := root.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	list, err := d.Readdirnames(-1)
	slices.Sort(list)
	return list, err
}

// List gives the chunk list of a large blob that is here or partially here, and its canonical bytes. A list that is missing
// on disk, or damaged, is made anew from the blob. The error has [ErrNotFound] in its chain when that cannot be done.
func (s *Store) List(c cid.Cid) (*ChunkList, []byte, error) {
	l, raw, err := s.findList(c)
	if err != nil {
		return nil, nil, fmt.Errorf("finding the chunk list of %v: %w", c, err)
	}
	return l, raw, nil
}

func (s *Store) findList(c cid.Cid) (*ChunkList, []byte, error) {
	if err := checkCID(c); err != nil {
		return nil, nil, err
	}
	if IsRaw(c) {
		return nil, nil, fmt.Errorf("a raw blob has none")
	}
	s.mu.Lock()
	pending := s.pending[c].list
	s.mu.Unlock()
	for _, path := range []string{pending, "blobs/" + blobPath(c) + listSuffix, "partial/" + c.String() + listSuffix} {
		if path == "" {
			continue
		}
		if l, raw, err := readList(s.root, path, c); err == nil {
			return l, raw, nil
		}
	}
	return s.remakeList(c)
}

// readList reads a chunk list from a file and checks it.
func readList(root *disk, path string, c cid.Cid) (*ChunkList, []byte, error) {
	f, size, err := openRegular(root, path, os.O_RDONLY)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	if size > int64(MaxListSize(MaxBlob)) {
		return nil, nil, fmt.Errorf("%d bytes are too many", size)
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(f, raw); err != nil {
		return nil, nil, err
	}
	l, err := parseChunkList(c, raw, len(raw))
	return l, raw, err
}

// remakeList cuts a whole blob into chunks again. That gives the list of its CID unless its publisher cut otherwise.
func (s *Store) remakeList(c cid.Cid) (*ChunkList, []byte, error) {
	f, _, err := s.openBlob(c)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	l, err := cutAll(f)
	if err != nil {
		return nil, nil, err
	}
	raw := l.Encode()
	if len(l.Chunks) < 2 || Sum(raw) != DigestOf(c) {
		return nil, nil, fmt.Errorf("making it anew from the blob: %w", ErrMismatch)
	}
	l.Blob = c
	if name, err := s.writeTemp("list", raw, 0o600); err == nil {
		// Only to be quicker the next time. A list that a power cut damages is found out by its hash.
		if s.replace(s.session+"/"+name, "blobs/"+blobPath(c)+listSuffix) != nil {
			s.tmp.Remove(name)
		}
	}
	return l, raw, nil
}

// cutAll cuts everything that r gives into chunks.
func cutAll(r io.Reader) (*ChunkList, error) {
	l := new(ChunkList)
	split := splitter{r: r, buf: make([]byte, splitBuffer)}
	for {
		chunk, err := split.next()
		if err == io.EOF {
			return l, nil
		}
		if err != nil {
			return nil, err
		}
		l.Chunks = append(l.Chunks, Chunk{Offset: l.Size, Size: uint32(len(chunk)), Digest: Sum(chunk)})
		l.Size += uint64(len(chunk))
	}
}

// PutList keeps the chunk list of a large blob, so that it can be passed on before the blob is here, and need not be
// fetched again after a restart. It is checked first, as [ParseChunkList] does.
func (s *Store) PutList(c cid.Cid, size uint64, raw []byte) (*ChunkList, error) {
	l, err := ParseChunkList(c, size, raw)
	if err != nil {
		return nil, err
	}
	if s.Has(c) {
		return l, nil
	}
	if err := s.saveList(c, raw); err != nil {
		return nil, fmt.Errorf("storing the chunk list of %v: %w", c, noSpace(err))
	}
	return l, nil
}

// chunkSet knows by half of a digest which chunks are in the store. That is enough to decide what is worth
// writing and to count, not to take a chunk for another: whoever uses it compares the whole digest afterwards.
type chunkSet struct{ sorted []uint64 }

func (s *Store) chunks(ctx context.Context) (*chunkSet, error) {
	set := new(chunkSet)
	err := s.FindChunks(ctx, func(d Digest) bool {
		set.sorted = append(set.sorted, half(d))
		return false
	}, nil)
	slices.Sort(set.sorted)
	set.sorted = slices.Compact(set.sorted)
	return set, err
}

func (c *chunkSet) has(d Digest) bool {
	_, ok := slices.BinarySearch(c.sorted, half(d))
	return ok
}

func half(d Digest) (h uint64) {
	for _, b := range d[:8] {
		h = h<<8 | uint64(b)
	}
	return h
}

// isGone says whether an error is that a file is not there.
func isGone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
