package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// mkfs makes the file systems that tests run on.
var mkfs = map[string][]string{
	"ext4":  {"mkfs.ext4", "-q", "-F"},
	"xfs":   {"mkfs.xfs", "-q", "-f", "-m", "reflink=1"},
	"btrfs": {"mkfs.btrfs", "-q", "-f"},
}

// onLoop makes a file system of a kind in a file and mounts it. The test is skipped where that cannot be done.
func onLoop(t testing.TB, kind string) string {
	dir, _ := onLoopFile(t, kind)
	return dir
}

// onLoopFile also says which file it is in.
func onLoopFile(t testing.TB, kind string) (dir, file string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: needs root to mount", kind)
	}
	base, err := os.MkdirTemp("", "image-loop-") // unlike that of t.TempDir, others may enter it
	must(t, err)
	must(t, os.Chmod(base, 0o755))
	t.Cleanup(func() { must(t, os.RemoveAll(base)) })
	file, dir = filepath.Join(base, "disk"), filepath.Join(base, "mnt")
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Truncate(file, 320<<20))
	args := append(slices.Clone(mkfs[kind]), file)
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: no %s here: %v %s", kind, err, out)
	}
	if out, err := exec.Command("mount", "-o", "loop", file, dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: cannot mount %s: %v %s", kind, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmounting: %v %s", err, out)
		}
	})
	return dir, file
}

// TestFileSystems runs the tests of this package again on each file system, with all that they make below one mount.
func TestFileSystems(t *testing.T) {
	for kind := range mkfs {
		t.Run(kind, func(t *testing.T) {
			dir := onLoop(t, kind)
			cmd := exec.Command("/proc/self/exe", "-test.run="+
				"^Test(StageEverything|Composed|Recall|WaysToPlace|Merge|MergeShapes|Refresh|ConfigIsApart|Changed|State|StateFromTree|StateRefused|Clone|PinAndPrune|Diff|"+
				"Recovery|VerifyAndRepair|SharedDamage|Hostile67DamagedBlob|HostileImage|RealStore|DestroyAndPrune|Differences)$")
			cmd.Env = append(os.Environ(), "TMPDIR="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("on %s: %v\n%s", kind, err, out)
			}
		})
	}
}

// TestDifferences stages one release after the other, each from the one before, and compares the last tree with what was to be laid down.
func TestDifferences(t *testing.T) {
	b := newBlobs(t)
	im := open(t, tempDir(t))
	trees := [][]entry{everything(), small("one"), small("two"), append(small("two")[:6], entry{path: "etc", mode: 0o644, data: "a file now"}), everything()}
	trees[3] = append(small("two")[:4], entry{path: "etc", mode: 0o644, data: "a file now"}, entry{path: "large/", mode: 0o700}, entry{path: "large/link", link: "../bin"})
	for i, tree := range trees {
		r, m := release(t, b, uint64(i), sorted(tree))
		d, err := im.Stage(context.Background(), plan(r, m), b)
		if errors.Is(err, store.ErrMismatch) { // a file that was written to in place is a link to the blob
			d, err = im.Stage(context.Background(), plan(r, m), b)
		}
		must(t, err)
		id := d.ID
		if os.Getuid() == 0 {
			checkTree(t, im.Tree(id), m, b)
		}
		if problems, err := im.Verify(context.Background(), id, b, nil); err != nil || len(problems) > 0 {
			t.Errorf("tree %d: %q, %v", i, problems, err)
		}
		must(t, im.Activate(id))
		// What is written in place, or put there, does not go over into the next tree.
		must(t, flip(im.Tree(id)+"/bin/tool", 1))
		must(t, os.WriteFile(im.Tree(id)+"/more", []byte("more"), 0o644))
		must(t, os.Chmod(im.Tree(id)+"/bin", 0o700))
	}
}

// TestFlippedOnDisk changes a bit of a blob on the disk, below the file system: what is in memory is still right. Staging reads the
// medium and finds it, both with links to the blob and where blocks are shared.
func TestFlippedOnDisk(t *testing.T) {
	for kind := range mkfs {
		if kind == "btrfs" {
			continue // its own checksums turn that into an error when the blob is read
		}
		t.Run(kind, func(t *testing.T) {
			dir, disk := onLoopFile(t, kind)
			source := tempDir(t)
			marker := []byte("a marker that is on this disk only once, " + kind)
			data := append(bytes.Repeat([]byte{'x'}, 100_000), marker...)
			must(t, os.WriteFile(source+"/file", data, 0o644))
			s, err := store.Open(dir + "/store")
			must(t, err)
			defer s.Close()
			p, err := s.Publish(context.Background(), source, store.PublishOptions{Header: manifest.Header{Product: "demo", Seq: 1}})
			must(t, err)
			must(t, s.Sync())
			syncFS(t, dir)
			m, err := s.Manifest(p.Manifest)
			must(t, err)
			flipOnDisk(t, disk, marker)
			path, err := s.BlobFile(m.Entries[0].Blob, 0o644)
			must(t, err)
			if !bytes.Equal([]byte(read(path)), data) {
				t.Fatal("the file system noticed by itself: nothing is shown")
			}
			im, err := image.Open(dir + "/image")
			must(t, err)
			defer im.Close()
			r := image.Release{Product: "demo", Seq: 1, Manifest: p.Manifest}
			if _, err := im.Stage(context.Background(), plan(r, m), s); !errors.Is(err, store.ErrMismatch) {
				t.Errorf("staged: %v", err)
			}
			if left := ls(t, dir+"/image"); len(left) > 0 || s.Has(m.Entries[0].Blob) {
				t.Errorf("left %q", left)
			}
		})
	}
}

// flipOnDisk changes one bit behind the place where the bytes are on a disk.
func flipOnDisk(t *testing.T, disk string, what []byte) {
	t.Helper()
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	buf := make([]byte, 8<<20)
	for off := int64(0); ; off += int64(len(buf) - len(what)) {
		n, err := f.ReadAt(buf, off)
		if i := bytes.Index(buf[:n], what); i >= 0 {
			must(t, flip(disk, off+int64(i)))
			return
		}
		if err == io.EOF {
			t.Fatal("not found on the disk")
		}
		must(t, err)
	}
}

// TestSnapshots: on btrfs a deployment is a snapshot of the one before, and is removed as one.
func TestSnapshots(t *testing.T) {
	dir, b := onLoop(t, "btrfs"), newBlobs(t)
	var ops []string
	im, err := image.OpenHook(dir+"/image", func(op, path string) error {
		ops = append(ops, op)
		return noSync(op, path)
	})
	must(t, err)
	defer im.Close()
	var ids []string
	tree := wide(900)
	for seq := range uint64(2) {
		ops = nil
		tree[len(tree)-1].data = fmt.Sprint("changed ", seq)
		r, m := release(t, b, seq, tree)
		ids = append(ids, stage(t, im, r, m, b))
		must(t, im.Activate(ids[seq]))
		checkTree(t, im.Tree(ids[seq]), m, b)
	}
	if len(ops) > 60 || !slices.Contains(ops, "making snapshot") {
		t.Errorf("%d changes of the disk for one file: %s", len(ops), strings.Join(ops, ", "))
	}
	c, err := im.Clone(context.Background(), ids[1], "clone")
	must(t, err)
	ops = nil
	must(t, im.Destroy(c.ID))
	if len(ops) > 6 || !slices.Contains(ops, "removing subvolume") {
		t.Errorf("removed by %q", ops)
	}
}
