package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	"satchel/store"
	"satchel/store/manifest"
)

// leftover puts a file into the directory of a session whose process is gone.
func leftover(t *testing.T, dir, name string, data []byte) {
	t.Helper()
	session := filepath.Join(dir, "partial", "00dead.tmp")
	if err := os.MkdirAll(session, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(session, name), data, 0o640); err != nil {
		t.Fatal(err)
	}
}

func TestRecovery(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	keep := put(t, s, "from before")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole := store.RawCID(store.Sum([]byte("whole")))
	truncated := store.RawCID(store.Sum([]byte("truncated")))
	zeroed := store.RawCID(store.Sum([]byte("zeroed")))
	empty := store.RawCID(store.Sum([]byte("emptied")))
	leftover(t, dir, "lock", nil)
	leftover(t, dir, whole.String()+".1", []byte("whole"))
	leftover(t, dir, truncated.String()+".2", []byte("trunc"))
	leftover(t, dir, zeroed.String()+".3", make([]byte, 6))
	leftover(t, dir, empty.String()+".4", nil)
	leftover(t, dir, "large.5", stream("large", 1<<20))
	leftover(t, dir, "list.6", []byte("list"))
	l := listOf(stream("part", 1<<20))
	part := filepath.Join(dir, "partial", l.Blob.String()+".part")
	if err := os.WriteFile(part, stream("part", 200_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"rubbish", "bafkrei.part", whole.String() + ".part", ".part"} {
		if err := os.WriteFile(filepath.Join(dir, "partial", name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "partial", "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "partial", "other", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}

	for range 2 { // a second recovery finds nothing to do
		s = open(t, dir)
		if !s.Has(keep) || !s.Has(whole) || string(read(t, s, whole)) != "whole" {
			t.Error("a whole blob was lost")
		}
		for _, c := range []cid.Cid{truncated, zeroed, empty} {
			if s.Has(c) {
				t.Errorf("%v was taken for a blob", c)
			}
		}
		if fi, err := os.Stat(blobFile(dir, whole)); err != nil || fi.Mode() != 0o640 {
			t.Errorf("mode: %v, %v", fi, err)
		}
		left := files(t, filepath.Join(dir, "partial"))
		if len(left) != 3 { // the gate, our session's lock, the part
			t.Errorf("left in partial: %q", left)
		}
		p, err := s.Partial(l, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		if !p.Have()[0] || p.Missing() == 0 {
			t.Errorf("what is here of the large blob: %v", p.Have())
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if err := os.Remove(filepath.Join(dir, "partial", l.Blob.String()+".list")); err != nil {
			t.Error(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFinishedButNotNamed is the end of a process between Commit and Sync.
func TestFinishedButNotNamed(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	data := stream("unnamed", 1<<20)
	l := listOf(data)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, "partial", l.Blob.String()+".part")
	if err := os.WriteFile(part, data, 0o400); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir)
	p, err := s.Partial(l, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if p.Missing() != 0 {
		t.Errorf("%d chunks are missing", p.Missing())
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	// Opened again while it waits for its name.
	if p, err = s.Partial(l, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := p.Commit(); err != nil {
		t.Fatal(err)
	}
	sync1(t, s)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(read(t, s, l.Blob), data) {
		t.Error("other content")
	}
}

// TestHostilePlants checks that nothing in the store's directory that is not what it should be is followed or waited for.
func TestHostilePlants(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := store.RawCID(store.Sum([]byte("secret")))
	pipe := store.RawCID(store.Sum([]byte("pipe")))
	l := listOf(stream("plant", 1<<20))
	for _, c := range []cid.Cid{c, pipe} {
		if err := os.MkdirAll(filepath.Dir(blobFile(dir, c)), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(secret, blobFile(dir, c)); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(blobFile(dir, pipe), 0o600); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, "partial", l.Blob.String()+".part")
	if err := os.Symlink(secret, part); err != nil {
		t.Fatal(err)
	}
	for _, c := range []cid.Cid{c, pipe} {
		if s.Has(c) {
			t.Errorf("%v is taken for a blob", c)
		}
		if _, _, err := s.OpenBlob(c); err == nil {
			t.Errorf("%v was opened", c)
		}
	}
	p, err := s.Partial(l, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	if got := mustRead(t, secret); string(got) != "secret" {
		t.Errorf("the file behind the link was written to: %q", got)
	}
	// Storing the blob puts the plant right.
	put(t, s, "secret")
	sync1(t, s)
	if fi, err := os.Lstat(blobFile(dir, c)); err != nil || !fi.Mode().IsRegular() {
		t.Errorf("%v, %v", fi, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "manifests")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/tmp", filepath.Join(dir, "manifests")); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(dir); err == nil {
		t.Error("a link in place of a directory was accepted")
	}
}

func mountTmpfs(t *testing.T, dir, options string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: mounting a small tmpfs needs root")
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		if out, err2 := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err2 != nil {
			t.Skipf("SKIPPED: mounting a small tmpfs: %v, %s", err, out)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmounting %s: %v", dir, err)
		}
	})
}

// TestDiskFull fills a small disk in every way there is, and looks that each says so, leaves no rubbish, and that
// all works again when there is room.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	mountTmpfs(t, dir, "size=2m")
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ballast := filepath.Join(dir, "ballast")
	free, err := s.FreeSpace()
	if err != nil || free > 2<<20 {
		t.Fatalf("free space %d, %v", free, err)
	}
	if err := os.WriteFile(ballast, make([]byte, free-300<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var first cid.Cid
	for i := 0; err == nil; i++ {
		data := stream(fmt.Sprint(i), 100_000)
		c := store.RawCID(store.Sum(data))
		if err = s.Put(c, data, 0o644); err == nil && i == 0 {
			first = c
		}
		if i > 10 {
			t.Fatal("the disk does not get full")
		}
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Put: %v", err)
	}
	data := stream("large", 1<<20)
	l := listOf(data)
	if p, err := s.Partial(l, 0o644); err == nil {
		for i := range l.Chunks {
			if err = p.WriteChunk(i, data[l.Chunks[i].Offset:][:l.Chunks[i].Size]); err != nil {
				break
			}
		}
		if !errors.Is(err, store.ErrNoSpace) {
			t.Errorf("WriteChunk: %v", err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	} else if !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Partial: %v", err)
	}
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "big"), stream("big", 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(context.Background(), tree, options()); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("Publish: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	sync1(t, s)
	if !s.Has(first) {
		t.Error("what was accepted is gone")
	}
	if c := putLarge(t, s, data); !s.Has(c) {
		t.Error("no success with room again")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	for _, name := range files(t, filepath.Join(dir, "partial")) {
		if name != "lock" {
			t.Errorf("left in partial: %s", name)
		}
	}
}

func options() store.PublishOptions {
	return store.PublishOptions{Header: manifest.Header{Product: "test", Epoch: 1, Seq: 1, Version: "1"}}
}

// TestAsOrdinaryUser runs again, as nobody, the tests that root passes too easily.
func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // it is one already
	}
	exe := filepath.Join(t.TempDir(), "store.test")
	self := mustRead(t, os.Args[0])
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	tmp := t.TempDir()
	for _, dir := range []string{filepath.Dir(tmp), tmp} {
		if err := os.Chmod(dir, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(exe, "-test.v", "-test.run=^(TestPublishUnreadable|TestReadOnlyHome|TestUnreadableMode|TestFinishedButNotNamed|TestBlobFileModes|TestPublish|TestPrune)$")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Env = []string{"TMPDIR=" + tmp}
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Count(out, []byte("--- PASS")) != 7 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestKilled kills a process at many moments of a publish, and looks each time that every blob that is there is whole, and
// that the next publish succeeds.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("SATCHEL_STORE_TEST_PUBLISH"); dir != "" {
		s := open(t, filepath.Join(dir, "store"))
		fmt.Println("ready")
		for {
			if _, err := s.Publish(context.Background(), filepath.Join(dir, "tree"), options()); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), stream(fmt.Sprint(i), 100*i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "big"), stream("big", 5<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	for round := range 10 {
		killPublish(t, dir, round)
		s := open(t, filepath.Join(dir, "store"))
		if bad, err := s.Verify(context.Background(), nil); err != nil || len(bad) != 0 {
			t.Fatalf("round %d: bad blobs %v, %v", round, bad, err)
		}
		if _, err := s.Prune(context.Background(), nil); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		for _, name := range files(t, filepath.Join(dir, "store")) {
			if filepath.Base(name) != "lock" {
				t.Fatalf("round %d: left after Prune: %s", round, name)
			}
		}
	}
	s := open(t, filepath.Join(dir, "store"))
	if _, err := s.Publish(context.Background(), tree, options()); err != nil {
		t.Error(err)
	}
}

// killPublish starts a publishing process and kills it when it has stored some blobs, more of them each round.
func killPublish(t *testing.T, dir string, round int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$", "-test.v")
	cmd.Env = append(os.Environ(), "SATCHEL_STORE_TEST_PUBLISH="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	for seen := ""; !bytes.Contains([]byte(seen), []byte("ready")); {
		n, err := out.Read(buf)
		if err != nil {
			t.Fatalf("the process ended early: %v, %s", err, seen)
		}
		seen += string(buf[:n])
	}
	for {
		temps, err := filepath.Glob(filepath.Join(dir, "store", "partial", "*.tmp", "*"))
		if err != nil {
			t.Fatal(err)
		}
		blobs, err := filepath.Glob(filepath.Join(dir, "store", "blobs", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(temps)+len(blobs) > 30*round {
			break
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // it was killed
}

// TestOrderOfPublish looks at the order of the changes that a power cut must not see in another one.
func TestOrderOfPublish(t *testing.T) {
	var mu sync.Mutex
	var ops []string
	s, err := store.OpenHook(t.TempDir(), func(op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, op+" "+path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := s.Publish(context.Background(), tree, options())
	if err != nil {
		t.Fatal(err)
	}
	all, blob := strings.Join(ops, "\n"), "\nrenaming partial/"
	first, last := strings.Index(all, "\nsyncing file system of ."), strings.LastIndex(all, "\nsyncing file system of .")
	if strings.Index(all, blob) < first || strings.LastIndex(all, blob) > last || first < 0 {
		t.Errorf("blobs get their names between two syncs, and not so:\n%s", all)
	}
	if mark := strings.Index(all, "\ncreating manifests/"+r.Manifest.String()); mark < 0 || mark > last {
		t.Errorf("that it is a manifest is not durable:\n%s", all)
	}
}
