package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/ipfs/go-cid"
	"satchel/store/manifest"
)

// PutManifest stores a manifest and gives its CID and its size in bytes. It is durable after [Store.Sync].
func (s *Store) PutManifest(m *manifest.Manifest) (cid.Cid, uint64, error) {
	data, err := m.Encode()
	if err != nil {
		return cid.Undef, 0, err
	}
	l := split(data)
	raw := l.name()
	if !s.Has(l.Blob) {
		if err := s.putBytes(l.Blob, data, raw, 0o600); err != nil {
			return cid.Undef, 0, err
		}
	}
	return l.Blob, l.Size, s.markManifest(l.Blob)
}

// Manifest reads a manifest that is here as a blob. The bytes are checked against the CID again. The error has
// [ErrNotFound] in its chain when the blob is not here, [ErrMismatch] when the disk has damaged it.
func (s *Store) Manifest(c cid.Cid) (*manifest.Manifest, error) {
	data, err := s.readWhole(c)
	if err != nil {
		return nil, fmt.Errorf("reading manifest %v: %w", c, err)
	}
	m, err := manifest.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("reading manifest %v: %w", c, err)
	}
	// Only a help for people and for the day when everything but the store is lost.
	_ = s.markManifest(c)
	return m, nil
}

func (s *Store) readWhole(c cid.Cid) ([]byte, error) {
	f, size, err := s.openBlob(c)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if size > manifest.MaxSize {
		return nil, fmt.Errorf("%d bytes, limit is %d", size, manifest.MaxSize)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, err
	}
	if IsRaw(c) {
		if Sum(data) != DigestOf(c) {
			return nil, ErrMismatch
		}
		return data, nil
	}
	l, _, err := s.findList(c)
	if err != nil {
		return nil, err
	}
	return data, l.verify(data)
}

// verify checks data against the list.
func (l *ChunkList) verify(data []byte) error {
	if uint64(len(data)) != l.Size {
		return ErrMismatch
	}
	for i := range l.Chunks {
		c := &l.Chunks[i]
		if Sum(data[c.Offset:c.Offset+uint64(c.Size)]) != c.Digest {
			return ErrMismatch
		}
	}
	return nil
}

// Manifests gives the CIDs of the manifests that were published or read here and are still whole.
func (s *Store) Manifests() ([]cid.Cid, error) {
	list, err := names(s.root, "manifests")
	if err != nil {
		return nil, fmt.Errorf("listing manifests: %w", err)
	}
	var found []cid.Cid
	for _, name := range list {
		if c, ok := parseName(name); ok && s.Has(c) {
			found = append(found, c)
		}
	}
	return found, nil
}

// markManifest notes, by an empty file, that a blob is a manifest.
func (s *Store) markManifest(c cid.Cid) error {
	name := "manifests/" + c.String()
	if _, err := s.root.Lstat(name); err == nil {
		return nil
	}
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("noting manifest %v: %w", c, noSpace(err))
	}
	return f.Close()
}
