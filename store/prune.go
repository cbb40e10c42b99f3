package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
	"satchel/store/manifest"
)

// PruneResult says what a Prune has removed.
type PruneResult struct {
	Blobs int    // whole blobs
	Bytes uint64 // space that came free, in bytes; files that deployments still hold give none
}

// Prune removes every blob that none of the given manifests names, and partial blobs likewise, except those that are open.
// The manifests must be here. It does nothing, and the error has [ErrInUse] in its chain, while any process publishes:
// a publish relies on what it has found.
func (s *Store) Prune(ctx context.Context, keep []cid.Cid) (PruneResult, error) {
	r, err := s.prune(ctx, keep)
	if err != nil {
		return r, fmt.Errorf("pruning the store: %w", err)
	}
	return r, nil
}

func (s *Store) prune(ctx context.Context, keep []cid.Cid) (r PruneResult, err error) {
	lock, err := lockFile(s.root, "lock", unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, ErrInUse) {
		return r, fmt.Errorf("something is being published: %w", err)
	}
	if err != nil {
		return r, err
	}
	defer lock.Close()
	wanted, err := s.wanted(keep)
	if err != nil {
		return r, err
	}
	err = s.eachFile(ctx, func(f blobFileName) error {
		if wanted[f.cid] {
			return nil
		}
		fi, err := s.blobs.Lstat(f.path())
		if isGone(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.blobs.RemoveAll(f.path()); err != nil {
			return err
		}
		r.remove(f, fi)
		return nil
	})
	if err != nil {
		return r, err
	}
	return r, s.prunePartials(wanted)
}

func (r *PruneResult) remove(f blobFileName, fi fs.FileInfo) {
	if f.suffix == "" {
		r.Blobs++
	}
	if links(fi) == 1 {
		r.Bytes += uint64(fi.Size())
	}
}

// wanted is the set of blobs that manifests name, with the manifests.
func (s *Store) wanted(keep []cid.Cid) (map[cid.Cid]bool, error) {
	wanted := make(map[cid.Cid]bool)
	for _, c := range keep {
		m, err := s.Manifest(c)
		if err != nil {
			return nil, err
		}
		wanted[c] = true
		for i := range m.Entries {
			if e := &m.Entries[i]; e.Type == manifest.File {
				wanted[e.Blob] = true
			}
		}
	}
	return wanted, nil
}

// prunePartials removes parts and lists of unwanted blobs, and marks of manifests that went.
func (s *Store) prunePartials(wanted map[cid.Cid]bool) error {
	for _, dir := range []string{"partial", "manifests"} {
		list, err := names(s.root, dir)
		if err != nil {
			return err
		}
		for _, name := range list {
			stem, _, _ := strings.Cut(name, ".")
			c, ok := parseName(stem)
			if !ok || wanted[c] || s.busy(c) {
				continue
			}
			if err := s.root.RemoveAll(dir + "/" + name); err != nil {
				return err
			}
		}
	}
	return nil
}

// busy says whether a partial blob is open, here or in another process, or waits for its name.
func (s *Store) busy(c cid.Cid) bool {
	s.mu.Lock()
	_, open := s.partials[c]
	_, pending := s.pending[c]
	s.mu.Unlock()
	if open || pending {
		return true
	}
	if _, err := s.root.Lstat(partPath(c)); err != nil {
		return false
	}
	f, err := lockFile(s.root, partPath(c), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return errors.Is(err, ErrInUse)
	}
	f.Close()
	return false
}

// Usage says what the store takes.
type Usage struct {
	Blobs   int    // whole blobs
	Bytes   uint64 // of all files of blobs, with lists and variants; deployments share them
	Partial uint64 // bytes written of blobs that are not whole
}

// Usage measures the store. It looks at every file's size, but reads none.
func (s *Store) Usage(ctx context.Context) (u Usage, err error) {
	err = s.eachFile(ctx, func(f blobFileName) error {
		fi, err := s.blobs.Lstat(f.path())
		if err != nil {
			return nil // gone meanwhile
		}
		if f.suffix == "" {
			u.Blobs++
		}
		u.Bytes += uint64(fi.Size())
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("measuring the store: %w", err)
	}
	list, err := names(s.root, "partial")
	for _, name := range list {
		if fi, err := s.root.Lstat("partial/" + name); err == nil && strings.HasSuffix(name, partSuffix) {
			u.Partial += blocks(fi)
		}
	}
	return u, err
}
