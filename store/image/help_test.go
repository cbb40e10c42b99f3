package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// blobs is a small store: one file for each blob and mode.
type blobs struct {
	dir     string
	content map[cid.Cid][]byte
	docs    map[cid.Cid]*manifest.Manifest
	mu      sync.Mutex
	fail    func() error // asked before each blob is given out, when set
}

func newBlobs(t testing.TB) *blobs {
	return blobsIn(tempDir(t))
}

func blobsIn(dir string) *blobs {
	return &blobs{dir: dir, content: map[cid.Cid][]byte{}, docs: map[cid.Cid]*manifest.Manifest{}}
}

func chunkList(data []byte) store.ChunkList {
	list := store.ChunkList{Size: uint64(len(data))}
	for off := 0; off < len(data); {
		n := store.Cut(data[off:])
		list.Chunks = append(list.Chunks, store.Chunk{Offset: uint64(off), Size: uint32(n), Digest: store.Sum(data[off : off+n])})
		off += n
	}
	return list
}

func blobCID(data []byte) cid.Cid {
	list := chunkList(data)
	if len(list.Chunks) < 2 {
		return store.RawCID(store.Sum(data))
	}
	return store.ListCID(store.Sum(list.Encode()))
}

func (b *blobs) add(data []byte) cid.Cid {
	c := blobCID(data)
	b.content[c] = data
	return c
}

func (b *blobs) path(c cid.Cid, mode uint32) string {
	return filepath.Join(b.dir, fmt.Sprintf("%v.%04o", c, mode))
}

// refetch forgets the files, as a store does with blobs that are found to be damaged.
func (b *blobs) refetch(t testing.TB) {
	t.Helper()
	must(t, os.RemoveAll(b.dir))
	must(t, os.Mkdir(b.dir, 0o755))
}

func (b *blobs) BlobFile(c cid.Cid, mode uint32) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		if err := b.fail(); err != nil {
			return "", err
		}
	}
	data, ok := b.content[c]
	if !ok {
		return "", store.ErrNotFound
	}
	path := b.path(c, mode)
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return "", err
	}
	sealed := time.Unix(store.FixedTime, 0)
	return path, errors.Join(syscall.Chmod(path, mode), os.Chtimes(path, sealed, sealed))
}

func (b *blobs) Has(c cid.Cid) bool { _, ok := b.content[c]; return ok }

func (b *blobs) Manifest(c cid.Cid) (*manifest.Manifest, error) {
	if m, ok := b.docs[c]; ok {
		return m, nil
	}
	return nil, store.ErrNotFound
}

// Discard forgets the files of a blob: it is as if it was fetched again at once.
func (b *blobs) Discard(c cid.Cid) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	files, err := filepath.Glob(filepath.Join(b.dir, c.String()+".*"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

func (b *blobs) OpenBlob(c cid.Cid) (*os.File, int64, error) {
	path, err := b.BlobFile(c, 0o600)
	if err != nil {
		return nil, 0, err
	}
	f, err := os.Open(path)
	return f, int64(len(b.content[c])), err
}

// entry is a line of a test's tree: "path" in the order of a manifest.
type entry struct {
	path string
	mode uint32
	data string // of a file; a directory has a path that ends with a slash
	link string // of a symbolic link
}

// release makes the manifest of a tree, with its blobs.
func release(t testing.TB, b *blobs, seq uint64, tree []entry) (image.Release, *manifest.Manifest) {
	t.Helper()
	m := &manifest.Manifest{Header: manifest.Header{Product: "demo", Epoch: 1, Seq: seq, Version: fmt.Sprintf("v%d", seq)}}
	for _, e := range tree {
		x := manifest.Entry{Path: strings.TrimSuffix(e.path, "/"), Mode: e.mode}
		switch {
		case strings.HasSuffix(e.path, "/"):
			x.Type = manifest.Dir
		case e.link != "":
			x.Type, x.Link, x.Mode = manifest.Symlink, e.link, 0o777
		default:
			x.Type, x.Blob, x.Size = manifest.File, b.add([]byte(e.data)), uint64(len(e.data))
		}
		m.Entries = append(m.Entries, x)
	}
	r := releaseOf(t, m)
	b.docs[r.Manifest] = m
	return r, m
}

// plan is the plan to stage one release.
func plan(r image.Release, m *manifest.Manifest) image.Plan {
	return image.Plan{Parts: []image.Part{{Release: r, Manifest: m}}}
}

func releaseOf(t testing.TB, m *manifest.Manifest) image.Release {
	t.Helper()
	text, err := m.Encode()
	must(t, err)
	return image.Release{Product: m.Product, Epoch: m.Epoch, Seq: m.Seq, Version: m.Version, Manifest: blobCID(text)}
}

// small is a tree with a little of everything; salt makes trees differ.
func small(salt string) []entry {
	return []entry{
		{path: "bin/", mode: 0o755},
		{path: "bin/su", mode: 0o4755, data: "su " + salt},
		{path: "bin/tool", mode: 0o755, data: "tool " + salt},
		{path: "empty", mode: 0o644},
		{path: "etc/", mode: 0o555},
		{path: "etc/deep/", mode: 0o500},
		{path: "etc/deep/secret", mode: 0o400, data: "same in all"},
		{path: "etc/link", link: "../bin/tool"},
		{path: "large", mode: 0o640, data: strings.Repeat(salt+" is much the same again and again.\n", 8_000)},
		{path: "share/", mode: 0o2775},
		{path: "share/same", mode: 0o444, data: "same in all"},
	}
}

// sorted puts a tree into the order of a manifest.
func sorted(tree []entry) []entry {
	slices.SortFunc(tree, func(a, b entry) int {
		return manifest.Compare(strings.TrimSuffix(a.path, "/"), strings.TrimSuffix(b.path, "/"))
	})
	return tree
}

// noSync leaves out what only a power cut would tell: most tests want to be quick on a busy disk.
func noSync(op, _ string) error {
	if strings.HasPrefix(op, "syncing") {
		return image.ErrSkip
	}
	return nil
}

func open(t testing.TB, dir string) *image.Image {
	t.Helper()
	im, err := image.OpenHook(dir, noSync)
	must(t, err)
	t.Cleanup(func() { im.Close() })
	return im
}

func stage(t testing.TB, im *image.Image, r image.Release, m *manifest.Manifest, b image.Blobs) string {
	t.Helper()
	d, err := im.Stage(context.Background(), plan(r, m), b)
	must(t, err)
	return d.ID
}

// tempDir is t.TempDir, but can be removed with read-only directories inside, also by an ordinary user.
func tempDir(t testing.TB) string {
	dir := t.TempDir()
	t.Cleanup(func() { permit(dir) })
	return dir
}

// permit lets the owner write to all directories below dir.
func permit(dir string) {
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if e != nil && e.IsDir() {
			os.Chmod(path, 0o755)
		}
		return nil
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// checkTree compares a deployment with its manifest without the help of Verify.
func checkTree(t testing.TB, top string, m *manifest.Manifest, b *blobs) {
	t.Helper()
	got := map[string]fs.FileInfo{}
	must(t, filepath.Walk(top, func(path string, fi fs.FileInfo, err error) error {
		if rel, _ := filepath.Rel(top, path); rel != "." {
			got[rel] = fi
		}
		return err
	}))
	for _, e := range m.Entries {
		fi := got[e.Path]
		if fi == nil {
			t.Errorf("%s is missing", e.Path)
			continue
		}
		delete(got, e.Path)
		checkEntry(t, filepath.Join(top, e.Path), fi, e, b)
	}
	for path := range got {
		t.Errorf("%s should not be there", path)
	}
}

func checkEntry(t testing.TB, path string, fi fs.FileInfo, e manifest.Entry, b *blobs) {
	t.Helper()
	mode := fi.Sys().(*syscall.Stat_t).Mode
	kinds := map[manifest.Type]uint32{manifest.Dir: syscall.S_IFDIR, manifest.File: syscall.S_IFREG, manifest.Symlink: syscall.S_IFLNK}
	if mode != kinds[e.Type]|e.Mode {
		t.Errorf("%s has mode %o, want %v with %o", e.Path, mode, e.Type, e.Mode)
	}
	switch e.Type {
	case manifest.File:
		data, err := os.ReadFile(path)
		if e.Mode&0o400 == 0 && os.Getuid() != 0 {
			return
		}
		if err != nil || !bytes.Equal(data, b.content[e.Blob]) {
			t.Errorf("%s has %d bytes that are not those of its blob (%v)", e.Path, len(data), err)
		}
	case manifest.Symlink:
		if target, _ := os.Readlink(path); target != e.Link {
			t.Errorf("%s points at %q, want %q", e.Path, target, e.Link)
		}
	}
}

// snapshot describes everything below a directory, with inodes and times, so that any change shows.
func snapshot(t testing.TB, top string) string {
	t.Helper()
	var s strings.Builder
	must(t, filepath.Walk(top, func(path string, fi fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		target, _ := os.Readlink(path)
		fmt.Fprintln(&s, path, st.Ino, st.Mode, st.Size, st.Mtim, st.Ctim, target)
		return nil
	}))
	return s.String()
}

// current is what the link points at, or empty.
func current(dir string) string {
	target, _ := os.Readlink(filepath.Join(dir, "current"))
	return strings.TrimPrefix(target, "deploy/")
}

// ls gives the names in IMAGE/deploy.
func ls(t testing.TB, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dir, "deploy"))
	must(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}
