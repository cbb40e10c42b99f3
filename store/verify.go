package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/errgroup"
)

// VerifyProgress says how far a Verify has come.
type VerifyProgress struct {
	Blobs      int    // checked
	TotalBlobs int    // to be checked
	Bytes      uint64 // read
	Bad        int    // found bad
}

// Verify reads every blob and compares it with its name. Bad blobs are taken away, so that they can be fetched again, and
// returned; of a large one the good chunks stay as a partial blob. Damaged chunk lists are made anew, damaged variants are
// removed. Progress, which may be nil, is called after each blob by one goroutine at a time.
func (s *Store) Verify(ctx context.Context, progress func(VerifyProgress)) (bad []cid.Cid, err error) {
	var files []blobFileName
	err = s.eachFile(ctx, func(f blobFileName) error {
		if f.suffix != listSuffix {
			files = append(files, f)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verifying the store: %w", err)
	}
	var mu sync.Mutex
	var bytes atomic.Uint64
	p := VerifyProgress{TotalBlobs: len(files)}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, f := range files {
		group.Go(func() error {
			good, err := s.verifyFile(ctx, f, &bytes)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			p.Blobs++
			p.Bytes = bytes.Load()
			if !good {
				p.Bad++
				if f.suffix == "" {
					bad = append(bad, f.cid)
				}
			}
			if progress != nil {
				progress(p)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return bad, fmt.Errorf("verifying the store: %w", err)
	}
	return bad, nil
}

// verifyFile checks one file and takes it away when it is bad.
func (s *Store) verifyFile(ctx context.Context, name blobFileName, bytes *atomic.Uint64) (good bool, err error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	f, size, err := openRegular(s.blobs, name.path(), os.O_RDONLY)
	if isGone(err) {
		return true, nil // pruned meanwhile
	}
	if err == nil {
		defer f.Close()
		err = s.verifyContent(ctx, f, size, name.cid, bytes)
	}
	if err == nil {
		return true, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	return false, s.takeAway(name)
}

func (s *Store) verifyContent(ctx context.Context, f *os.File, size int64, c cid.Cid, bytes *atomic.Uint64) error {
	if !sizeFits(c, size) {
		return ErrMismatch
	}
	if IsRaw(c) {
		data := make([]byte, size)
		if _, err := io.ReadFull(f, data); err != nil {
			return err
		}
		bytes.Add(uint64(size))
		if Sum(data) != DigestOf(c) {
			return ErrMismatch
		}
		return nil
	}
	l, _, err := s.findList(c)
	if err != nil {
		return err
	}
	if uint64(size) != l.Size {
		return ErrMismatch
	}
	buf := make([]byte, MaxChunk)
	for i := range l.Chunks {
		data := buf[:l.Chunks[i].Size]
		if _, err := io.ReadFull(f, data); err != nil {
			return err
		}
		bytes.Add(uint64(len(data)))
		if Sum(data) != l.Chunks[i].Digest {
			return ErrMismatch
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// takeAway removes a bad file. A large blob becomes a partial one, unless there is one. Deployments may have links to
// the file, and partial blobs are written to, so such a file is copied.
func (s *Store) takeAway(f blobFileName) error {
	if f.suffix != "" || IsRaw(f.cid) {
		return s.blobs.RemoveAll(f.path())
	}
	path, part := "blobs/"+f.path(), partPath(f.cid)
	fi, err := s.root.Lstat(path)
	if err != nil {
		return err
	}
	_, err = s.root.Lstat(part)
	if !isGone(err) || !fi.Mode().IsRegular() {
		return s.removeLarge(f)
	}
	if links(fi) > 1 {
		err = s.salvage(path, part)
	} else {
		err = s.replace(path, part)
	}
	if err != nil && !errors.Is(noSpace(err), ErrNoSpace) {
		// What cannot be read is of no use for anybody.
		err = nil
	}
	if rerr := s.removeLarge(f); err == nil {
		err = rerr
	}
	return noSpace(err)
}

// removeLarge removes a blob; its list stays where a partial blob has it.
func (s *Store) removeLarge(f blobFileName) error {
	list := "blobs/" + f.path() + listSuffix
	if err := s.replace(list, "partial/"+f.cid.String()+listSuffix); err != nil && !isGone(err) {
		return err
	}
	return s.blobs.RemoveAll(f.path())
}

// salvage copies as much of a file as can be read.
func (s *Store) salvage(path, part string) error {
	src, _, err := openRegular(s.root, path, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, name, err := s.temp("salvage")
	if err != nil {
		return err
	}
	err = s.tmp.fill(dst, name, src)
	if cerr := dst.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.replace(s.session+"/"+name, part)
	}
	if err != nil {
		s.tmp.Remove(name)
	}
	return err
}

// Discard takes a blob that turned out to be damaged away, with its variants, so that it can be stored again; see Verify.
func (s *Store) Discard(c cid.Cid) error {
	if err := s.removeVariants(c); err != nil {
		return fmt.Errorf("discarding blob %v: %w", c, noSpace(err))
	}
	if _, ok := s.committed(c); !ok {
		return nil
	}
	return s.takeAway(blobFileName{cid: c})
}

func (s *Store) removeVariants(c cid.Cid) error {
	if checkCID(c) != nil {
		return nil
	}
	list, err := names(s.blobs, shard(c))
	if err != nil && !isGone(err) {
		return err
	}
	for _, name := range list {
		if suffix, ok := strings.CutPrefix(name, c.String()); ok && suffix != "" && suffix != listSuffix {
			if err := s.blobs.RemoveAll(shard(c) + "/" + name); err != nil {
				return err
			}
		}
	}
	return nil
}
