package store

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"
)

var (
	// ErrNotFound is in the chain when a blob, or the asked part of it, is not here.
	ErrNotFound = errors.New("not in the store")
	// ErrMismatch is in the chain when bytes do not have the hash that their name says.
	ErrMismatch = errors.New("content does not match its name")
	// ErrNoSpace is in the chain when the disk or a quota is full. What was being written is removed again.
	ErrNoSpace = errors.New("no space left on the store's disk")
	// ErrInUse is in the chain when another process has what is asked for: a partial blob, or the right to prune.
	ErrInUse = errors.New("in use by another process")
	// ErrRange is in the chain when a read reaches beyond a blob's end.
	ErrRange = errors.New("range outside the blob")
)

// How much may be pending before Put writes it out by itself.
const (
	maxPendingBytes = 64 << 20
	maxPendingFiles = 512
)

// Store is a directory of blobs. All methods may be called from several goroutines at once, and several processes may
// have the same directory open.
type Store struct {
	dir     string   // absolute, for links from outside
	root    *disk    // the whole directory
	blobs   *disk    // below blobs
	tmp     *disk    // our session's directory below partial
	session string   // its path below root
	dirFile *os.File // the whole directory, for syncfs and statfs
	lock    *os.File // held for as long as the session's files are ours
	seq     atomic.Uint64
	syncing chan struct{} // holds a token while nobody writes the pending blobs out

	mu           sync.Mutex
	pending      map[cid.Cid]pendingBlob // guarded by mu; whole and readable, not yet durable
	pendingBytes int64                   // guarded by mu
	partials     map[cid.Cid]*Partial    // guarded by mu; those that are open
	lost         lostBlobs               // guarded by mu
	closed       bool                    // guarded by mu
}

// pendingBlob is a whole, verified blob that has not got its name in blobs.
type pendingBlob struct {
	path string // of its file, below root
	list string // of its chunk list's file; empty for a raw blob
	size int64
}

// lostBlobs remembers that pending blobs had to be thrown away after they were accepted.
type lostBlobs struct {
	count uint64 // how many times it happened
	err   error  // not yet told to a caller of Sync
}

// Open opens the store in dir and makes what is missing. What a process that died left behind is put right first: small blobs
// that it had finished get their names, partial large blobs are kept to be continued, the rest is removed.
func Open(dir string) (*Store, error) { return open(dir, nil) }

func open(dir string, h Hook) (*Store, error) {
	s := &Store{syncing: make(chan struct{}, 1), pending: make(map[cid.Cid]pendingBlob), partials: make(map[cid.Cid]*Partial)}
	s.syncing <- struct{}{}
	if err := s.open(dir, h); err != nil {
		s.closeFiles()
		return nil, fmt.Errorf("opening store %s: %w", dir, noSpace(err))
	}
	return s, nil
}

func (s *Store) open(dir string, h Hook) (err error) {
	if s.dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return err
	}
	s.root = &disk{root, ".", h}
	for _, name := range []string{"blobs", "manifests", "partial"} {
		if err := mkdir(s.root, name); err != nil {
			return err
		}
	}
	if s.blobs, err = s.root.OpenRoot("blobs"); err != nil {
		return err
	}
	if err := s.checkShards(); err != nil {
		return err
	}
	if s.dirFile, err = s.root.Open("."); err != nil {
		return err
	}
	return s.begin()
}

// checkShards refuses a store in which something else is where a directory of blobs must be: a link would be followed.
func (s *Store) checkShards() error {
	list, err := names(s.blobs, ".")
	if err != nil {
		return err
	}
	for _, name := range list {
		if !isShard(name) {
			continue
		}
		fi, err := s.blobs.Lstat(name)
		if err == nil && !fi.IsDir() {
			err = fmt.Errorf("blobs/%s is not a directory; remove it", name)
		}
		if err != nil && !isGone(err) {
			return err
		}
	}
	return nil
}

func isShard(name string) bool {
	return len(name) == 2 && strings.Trim(name, "0123456789abcdef") == ""
}

// begin recovers and makes our session, under a lock, so that nobody takes our directory for that of a dead process in
// the moment before it is locked.
func (s *Store) begin() error {
	gate, err := lockFile(s.root, "partial/lock", unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer gate.Close()
	if err := s.recover(); err != nil {
		return fmt.Errorf("recovering: %w", err)
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return err
	}
	s.session = "partial/" + hex.EncodeToString(id[:]) + sessionSuffix
	if err := s.root.Mkdir(s.session, 0o700); err != nil {
		return err
	}
	if s.tmp, err = s.root.OpenRoot(s.session); err != nil {
		return err
	}
	s.lock, err = lockFile(s.tmp, "lock", unix.LOCK_EX|unix.LOCK_NB)
	return err
}

// mkdir makes a directory unless it is there, and does not take a link for one.
func mkdir(root *disk, name string) error {
	err := root.Mkdir(name, 0o700)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	fi, err := root.Lstat(name)
	if err == nil && !fi.IsDir() {
		err = fmt.Errorf("%s is not a directory; remove it", name)
	}
	return err
}

// lockFile opens a file, making it if need be, and locks it until it is closed.
func lockFile(root *disk, name string, how int) (*os.File, error) {
	f, err := openOrMake(root, name)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	if err := flock(f, how); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking %s: %w", name, err)
	}
	return f, nil
}

// openOrMake opens a file for reading and writing, neither through a link nor anything but a file. To make one is tried
// first, since that never follows a link: [os.Root] follows those that stay inside.
func openOrMake(root *disk, name string) (*os.File, error) {
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|largeFile, 0o600)
	if errors.Is(err, fs.ErrExist) {
		f, _, err = openRegular(root, name, os.O_RDWR)
	}
	return f, err
}

// Close writes out what is pending and gives up the store. Partial blobs must have been closed before. Closing it again does
// nothing.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	if again {
		return nil
	}
	err := s.Sync()
	if rerr := s.root.RemoveAll(s.session); err == nil && rerr != nil {
		err = fmt.Errorf("closing store: %w", rerr)
	}
	s.closeFiles()
	return err
}

func (s *Store) closeFiles() {
	for _, r := range []*disk{s.root, s.blobs, s.tmp} {
		if r != nil {
			r.Close()
		}
	}
	for _, f := range []*os.File{s.dirFile, s.lock} {
		if f != nil {
			f.Close()
		}
	}
}

// temp makes a new file of our own below the session. Its name begins with prefix.
func (s *Store) temp(prefix string) (*os.File, string, error) {
	name := fmt.Sprintf("%s.%d", prefix, s.seq.Add(1))
	f, err := s.tmp.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|largeFile, 0o600)
	return f, name, err
}

// sessionSuffix ends the names of the directories below partial that belong to one process each.
const sessionSuffix = ".tmp"

// recover puts right what dead processes left in partial. It runs under the gate.
func (s *Store) recover() error {
	entries, err := fs.ReadDir(s.root.FS(), "partial")
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := "partial/" + e.Name()
		switch {
		case e.Name() == "lock", e.Type().IsRegular() && isPartialName(e.Name()):
		case e.IsDir() && strings.HasSuffix(e.Name(), sessionSuffix):
			if err := s.recoverSession(name); err != nil {
				return err
			}
		default:
			if err := s.root.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// isPartialName says whether a file in partial is a part of a blob, or a chunk list.
func isPartialName(name string) bool {
	stem, ok := strings.CutSuffix(name, partSuffix)
	if !ok {
		stem, ok = strings.CutSuffix(name, listSuffix)
	}
	c, valid := parseName(stem)
	return ok && valid && !IsRaw(c)
}

// parseName reads the text form of a CID as it is in file names.
func parseName(name string) (cid.Cid, bool) {
	c, err := cid.Decode(name)
	if err != nil || checkCID(c) != nil || c.String() != name {
		return cid.Undef, false
	}
	return c, true
}

// recoverSession adopts the good small blobs of a session whose process is gone, and removes the session.
func (s *Store) recoverSession(name string) error {
	lock, err := lockFile(s.root, name+"/lock", unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, ErrInUse) {
		return nil
	}
	if err != nil {
		// A session without a lock that can be taken is nobody's.
		return s.root.RemoveAll(name)
	}
	defer lock.Close()
	entries, err := fs.ReadDir(s.root.FS(), name)
	if err != nil {
		return err
	}
	found := make(map[cid.Cid]pendingBlob)
	for _, e := range entries {
		if c, ok := s.leftover(name, e); ok {
			found[c] = pendingBlob{path: name + "/" + e.Name()}
		}
	}
	if err := s.settle(found); err != nil {
		return err
	}
	return s.root.RemoveAll(name)
}

// leftover says whether a file of a dead session is a whole small blob, and which. Large ones are left out: those that were
// being fetched are elsewhere, and of those that were being published the tree is still there.
func (s *Store) leftover(session string, e fs.DirEntry) (cid.Cid, bool) {
	stem, _, _ := strings.Cut(e.Name(), ".")
	c, ok := parseName(stem)
	if !ok || !IsRaw(c) {
		return cid.Undef, false
	}
	f, size, err := openRegular(s.root, session+"/"+e.Name(), os.O_RDONLY)
	if err != nil {
		return cid.Undef, false
	}
	defer f.Close()
	data := make([]byte, min(size, MaxChunk+1))
	if _, err := f.ReadAt(data, 0); err != nil || Sum(data) != DigestOf(c) {
		return cid.Undef, false
	}
	return c, true
}

// PartialBytes is what parts of blobs take on the disk, in bytes.
func (s *Store) PartialBytes() (total uint64) {
	d, err := s.root.Open("partial")
	if err != nil {
		return 0
	}
	defer d.Close()
	entries, _ := d.ReadDir(-1)
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				total += uint64(st.Blocks) * 512
			}
		}
	}
	return total
}

// FreeSpace is what may still be written to the store's disk, in bytes.
func (s *Store) FreeSpace() (uint64, error) {
	n, err := freeSpace(s.dirFile)
	if err != nil {
		return 0, fmt.Errorf("measuring free space: %w", err)
	}
	return n, nil
}
