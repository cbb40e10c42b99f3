package store

import (
	"fmt"
	"maps"
	"os"

	"github.com/ipfs/go-cid"
)

// Put stores a blob of one chunk. The data is checked against the CID before anything is written: [ErrMismatch] says that
// it differs, [ErrNoSpace] that the disk is full. The blob can be read at once and is durable after [Store.Sync]. Its file
// gets the given permission bits. Putting a blob that is here already does nothing.
func (s *Store) Put(c cid.Cid, data []byte, mode uint32) error {
	if err := checkRaw(c, data); err != nil {
		return fmt.Errorf("storing blob %v: %w", c, err)
	}
	if s.Has(c) {
		return nil
	}
	if err := s.putRaw(c, data, mode); err != nil {
		return fmt.Errorf("storing blob %v: %w", c, noSpace(err))
	}
	return s.flushWhenFull()
}

func checkRaw(c cid.Cid, data []byte) error {
	if err := checkCID(c); err != nil {
		return err
	}
	switch {
	case !IsRaw(c):
		return fmt.Errorf("it has a chunk list, so it cannot be put whole")
	case len(data) > MaxChunk:
		return fmt.Errorf("%d bytes, limit for one chunk is %d", len(data), MaxChunk)
	case Sum(data) != DigestOf(c):
		return ErrMismatch
	}
	return nil
}

func (s *Store) putRaw(c cid.Cid, data []byte, mode uint32) error {
	name, err := s.writeTemp(c.String(), data, mode)
	if err != nil {
		return err
	}
	s.addPending(c, pendingBlob{path: s.session + "/" + name, size: int64(len(data))})
	return nil
}

// writeTemp makes a file of the session with this content. Nothing is left when it does not succeed.
func (s *Store) writeTemp(prefix string, data []byte, mode uint32) (string, error) {
	f, name, err := s.temp(prefix)
	if err != nil {
		return "", err
	}
	err = s.tmp.write(f, name, data)
	if err == nil {
		err = s.tmp.seal(f, name, fileMode(mode))
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		s.tmp.Remove(name)
		return "", err
	}
	return name, nil
}

// fileMode is the mode of the file that holds a blob. We must be able to read it, even when those who get a link must not:
// for them there are variants.
func fileMode(mode uint32) uint32 {
	if mode&0o400 == 0 {
		return 0o400
	}
	return mode & 0o7777
}

// addPending makes a whole, verified blob visible. If another was quicker, ours goes.
func (s *Store) addPending(c cid.Cid, b pendingBlob) {
	s.mu.Lock()
	old, twice := s.pending[c]
	if !twice {
		s.pending[c] = b
		s.pendingBytes += b.size
	}
	s.mu.Unlock()
	if twice && old.path != b.path {
		s.discard(b)
	}
}

func (s *Store) discard(b pendingBlob) {
	s.root.Remove(b.path)
	if b.list != "" {
		s.root.Remove(b.list)
	}
}

// flushWhenFull writes the pending blobs out when there are many. While one caller does it the others may go on, up to
// twice the limit.
func (s *Store) flushWhenFull() error {
	s.mu.Lock()
	n, size := len(s.pending), s.pendingBytes
	s.mu.Unlock()
	if n < maxPendingFiles && size < maxPendingBytes {
		return nil
	}
	if n < 2*maxPendingFiles && size < 2*maxPendingBytes {
		select {
		case <-s.syncing:
		default:
			return nil
		}
	} else {
		<-s.syncing
	}
	defer func() { s.syncing <- struct{}{} }()
	return s.flush()
}

// Sync makes everything durable that was put or committed before the call, and gives it its name. When writing fails, the
// blobs that were pending are thrown away, since the kernel may have dropped their bytes: an error means that some
// of what was accepted since the last Sync is not here.
func (s *Store) Sync() error {
	<-s.syncing
	defer func() { s.syncing <- struct{}{} }()
	err := s.flush()
	if err == nil {
		// The names too.
		err = s.writeOut()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		err = s.lost.err
	}
	s.lost.err = nil
	return err
}

func (s *Store) writeOut() error {
	if err := s.root.syncFS(s.dirFile); err != nil {
		return fmt.Errorf("writing the store out: %w", noSpace(err))
	}
	return nil
}

// flush writes out what is pending at this moment. The caller holds the token of syncing.
func (s *Store) flush() error {
	s.mu.Lock()
	batch := maps.Clone(s.pending)
	s.mu.Unlock()
	err := s.settle(batch)

	s.mu.Lock()
	defer s.mu.Unlock()
	for c, b := range batch {
		delete(s.pending, c)
		s.pendingBytes -= b.size
	}
	if err != nil {
		s.lost.count++
		s.lost.err = err
	}
	return err
}

// settle makes whole blobs durable and then gives them their names: first the bytes, then the names, so that at no
// moment a name stands for less than the whole blob. What cannot be settled is removed: a failed sync must never be
// repeated, because the kernel marks the pages that it could not write as clean.
//
//	syncfs
//	renameat partial/<session>/<cid>.<n>.list → blobs/<xx>/<cid>.list    large blobs only
//	renameat partial/<session>/<cid>.<n>      → blobs/<xx>/<cid>
func (s *Store) settle(batch map[cid.Cid]pendingBlob) error {
	if len(batch) == 0 {
		return nil
	}
	err := s.writeOut()
	for c, b := range batch {
		if err == nil {
			err = s.rename(c, b)
		}
		if err != nil {
			s.discard(b)
		}
	}
	return err
}

func (s *Store) rename(c cid.Cid, b pendingBlob) error {
	path := "blobs/" + blobPath(c)
	if b.list != "" {
		if err := s.moveTo(c, b.list, path+listSuffix); err != nil {
			return err
		}
	}
	return s.moveTo(c, b.path, path)
}

// moveTo renames, and makes the directory when it is the first blob in it.
func (s *Store) moveTo(c cid.Cid, from, to string) error {
	err := s.replace(from, to)
	if os.IsNotExist(err) {
		if err := mkdir(s.blobs, shard(c)); err != nil {
			return fmt.Errorf("storing blob %v: %w", c, noSpace(err))
		}
		err = s.replace(from, to)
	}
	if os.IsNotExist(err) {
		if _, done := s.committed(c); done {
			return nil // another process has continued the same partial blob, and finished it
		}
	}
	if err != nil {
		return fmt.Errorf("storing blob %v: %w", c, noSpace(err))
	}
	return nil
}

// replace gives a file of ours the name that something else may have. A directory there is not ours, and goes.
func (s *Store) replace(from, to string) error {
	err := s.root.Rename(from, to)
	if fi, lerr := s.root.Lstat(to); err != nil && lerr == nil && fi.IsDir() {
		if err = s.root.RemoveAll(to); err == nil {
			err = s.root.Rename(from, to)
		}
	}
	return err
}
