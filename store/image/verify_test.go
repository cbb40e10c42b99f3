package image_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"satchel/store"
	"satchel/store/image"
)

// TestVerifyAndRepair damages a live tree in many ways. Verify finds exactly that, and Repair puts it right.
func TestVerifyAndRepair(t *testing.T) {
	overwrite := func(path string) error { // in place, without changing the size
		os.Chmod(path, 0o600)
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteAt([]byte("X"), 3)
		return err
	}
	for name, c := range map[string]struct {
		damage func(top string) error
		want   []string // path: what
	}{
		"nothing": {func(string) error { return nil }, nil},
		"changed in place": {func(top string) error {
			os.Chmod(top+"/bin", 0o755)
			return errors.Join(overwrite(top+"/bin/tool"), os.Chmod(top+"/bin/tool", 0o755))
		}, []string{"bin/tool: other content"}},
		"large changed":     {func(top string) error { return errors.Join(overwrite(top+"/large"), os.Chmod(top+"/large", 0o640)) }, []string{"large: other content"}},
		"truncated":         {func(top string) error { return os.Truncate(top+"/large", 10) }, []string{"large: has 10 bytes"}},
		"empty is not":      {func(top string) error { return os.WriteFile(top+"/empty", []byte("x"), 0) }, []string{"empty: has 1 bytes"}},
		"mode":              {func(top string) error { return os.Chmod(top+"/bin/su", 0o755) }, []string{"bin/su: has mode 0755, not 4755"}},
		"mode of directory": {func(top string) error { return os.Chmod(top+"/etc", 0o755) }, []string{"etc: has mode 0755, not 0555"}},
		"file gone":         {func(top string) error { return os.Remove(top + "/bin/tool") }, []string{"bin/tool: missing"}},
		"directory gone":    {func(top string) error { return os.RemoveAll(top + "/bin") }, []string{"bin: missing", "bin/su: missing", "bin/tool: missing"}},
		"file extra":        {func(top string) error { return os.WriteFile(top+"/bin/more", nil, 0o644) }, []string{"bin/more: not in the release"}},
		"directory extra":   {func(top string) error { return os.MkdirAll(top+"/more/and/more", 0o755) }, []string{"more: not in the release"}},
		"pipe extra":        {func(top string) error { return syscall.Mkfifo(top+"/pipe", 0o644) }, []string{"pipe: not in the release"}},
		"link extra":        {func(top string) error { return os.Symlink("/etc", top+"/bin/etc") }, []string{"bin/etc: not in the release"}},
		"link target": {func(top string) error {
			return errors.Join(os.Chmod(top+"/etc", 0o755), os.Remove(top+"/etc/link"), os.Symlink("/tmp", top+"/etc/link"), os.Chmod(top+"/etc", 0o555))
		}, []string{"etc/link: points at"}},
		"file is a directory": {func(top string) error { os.Remove(top + "/large"); return os.MkdirAll(top+"/large/x", 0o755) }, []string{"large: is a directory"}},
		"file is a link":      {func(top string) error { os.Remove(top + "/large"); return os.Symlink("empty", top+"/large") }, []string{"large: is a symbolic link"}},
		"file is a pipe":      {func(top string) error { os.Remove(top + "/large"); return syscall.Mkfifo(top+"/large", 0o640) }, []string{"large: is a special file"}},
		"directory is a file": {func(top string) error { os.RemoveAll(top + "/bin"); return os.WriteFile(top+"/bin", nil, 0o755) }, []string{"bin: is a file", "bin/su: missing", "bin/tool: missing"}},
		"directory is a link": {func(top string) error { os.RemoveAll(top + "/bin"); return os.Symlink("share", top+"/bin") }, []string{"bin: is a symbolic link", "bin/su: missing", "bin/tool: missing"}},
		"deep in read-only": {func(top string) error {
			return errors.Join(os.Chmod(top+"/etc/deep", 0o700), os.Remove(top+"/etc/deep/secret"), os.Chmod(top+"/etc/deep", 0o500))
		}, []string{"etc/deep/secret: missing"}},
		"several, many places": {func(top string) error {
			return errors.Join(os.Remove(top+"/empty"), os.RemoveAll(top+"/share"), os.Chmod(top+"/bin", 0o700))
		}, []string{"bin: has mode 0700", "empty: missing", "share: missing", "share/same: missing"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, b := tempDir(t), newBlobs(t)
			r, m := release(t, b, 1, small("x"))
			im := open(t, dir)
			id := stage(t, im, r, m, b)
			must(t, im.Activate(id))
			must(t, c.damage(im.Tree(id)))
			done := 0
			problems, err := im.Verify(context.Background(), id, b, func(d, _ int) { done = d })
			must(t, err)
			if done != len(m.Entries) {
				t.Errorf("progress ended at %d of %d", done, len(m.Entries))
			}
			if !slices.EqualFunc(problems, c.want, matches) {
				t.Errorf("found %q, want %q", problems, c.want)
			}
			b.refetch(t)
			must(t, im.Repair(context.Background(), id, b, problems))
			if problems, err := im.Verify(context.Background(), id, b, nil); len(problems) > 0 || err != nil {
				t.Errorf("after repair: %q %v", problems, err)
			}
			checkTree(t, im.Tree(id), m, b)
			if slices.ContainsFunc(ls(t, dir), func(s string) bool { return strings.HasSuffix(s, ".tmp") }) {
				t.Errorf("left %q", ls(t, dir))
			}
		})
	}
}

func matches(p image.Problem, want string) bool {
	path, what, _ := strings.Cut(want, ": ")
	return p.Path == path && strings.Contains(p.What, what)
}

// TestSharedDamage: who writes into a hard-linked file of a live tree damages the blob. Verify finds it in every tree that has
// it, and Repair does not take the damage for good.
func TestSharedDamage(t *testing.T) {
	b := newBlobs(t)
	im, err := image.OpenHook(tempDir(t), func(op, _ string) error {
		if op == "cloning" || op == "making subvolume" {
			return syscall.EOPNOTSUPP
		}
		return nil
	})
	must(t, err)
	defer im.Close()
	var ids []string
	for seq := range uint64(2) {
		r, m := release(t, b, seq, []entry{{path: "shared", mode: 0o644, data: "same in both"}})
		ids = append(ids, stage(t, im, r, m, b))
		if seq == 0 {
			continue
		}
		must(t, os.WriteFile(filepath.Join(im.Tree(ids[0]), "shared"), []byte("SAME IN BOTH"), 0))
		want := []image.Problem{{Path: "shared", What: "has other content"}}
		problems, err := im.Verify(context.Background(), ids[1], b, nil)
		if err != nil || !slices.Equal(problems, want) {
			t.Errorf("%q %v", problems, err)
		}
		err = im.Repair(context.Background(), ids[1], b, problems)
		if !errors.Is(err, store.ErrMismatch) || !strings.Contains(err.Error(), m.Entries[0].Blob.String()) {
			t.Errorf("repairing from a damaged blob: %v", err)
		}
		must(t, im.Repair(context.Background(), ids[1], b, problems)) // the fake fetches what is discarded at once
		checkTree(t, im.Tree(ids[1]), m, b)
	}
}

// TestRepairFollowsNoLinks: links to elsewhere stand where directories of the tree were.
func TestRepairFollowsNoLinks(t *testing.T) {
	b, victim := newBlobs(t), tempDir(t)
	must(t, os.WriteFile(victim+"/secret", []byte("precious"), 0o600))
	must(t, os.WriteFile(victim+"/tool", []byte("precious"), 0o600))
	before := snapshot(t, victim)
	r, m := release(t, b, 1, small("x"))
	im := open(t, tempDir(t))
	id := stage(t, im, r, m, b)
	top := im.Tree(id)
	must(t, os.RemoveAll(top+"/bin"))
	must(t, os.Symlink(victim, top+"/bin"))
	must(t, os.Remove(top+"/large"))
	must(t, os.Symlink(victim+"/tool", top+"/large"))

	// Told of less than what is wrong, it must fail rather than go through the link.
	for _, path := range []string{"bin/tool", "bin/extra", "../x", "bin/../../x", "/etc/passwd", ""} {
		if err := im.Repair(context.Background(), id, b, []image.Problem{{Path: path}}); err == nil && path != "" {
			t.Errorf("repaired %q", path)
		}
	}
	problems, err := im.Verify(context.Background(), id, b, nil)
	must(t, err)
	must(t, im.Repair(context.Background(), id, b, problems))
	checkTree(t, top, m, b)
	if after := snapshot(t, victim); after != before {
		t.Errorf("a link was followed:\n%s", after)
	}
}

func TestVerifyErrors(t *testing.T) {
	b := newBlobs(t)
	r, m := release(t, b, 1, small("x"))
	im := open(t, tempDir(t))
	if _, err := im.Verify(context.Background(), r.ID(), b, nil); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
	if err := im.Repair(context.Background(), r.ID(), b, nil); !errors.Is(err, image.ErrNotFound) {
		t.Error(err)
	}
	stage(t, im, r, m, b)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := im.Verify(ctx, r.ID(), b, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := im.Repair(ctx, r.ID(), b, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	slices.Reverse(m.Entries)
	if _, err := im.Verify(context.Background(), r.ID(), b, nil); err == nil {
		t.Error("a manifest out of order was accepted")
	}
}

// TestContent reads blobs of sizes around the limits, in pieces of all sizes.
func TestContent(t *testing.T) {
	noise := make([]byte, 3<<20)
	x := uint64(1)
	for i := range noise {
		x = x*6364136223846793005 + 1442695040888963407
		noise[i] = byte(x >> 56)
	}
	for _, data := range [][]byte{noise, make([]byte, 3<<20)} {
		for _, size := range []int{0, 1, 16 << 10, 64 << 10, 256<<10 - 1, 256 << 10, 256<<10 + 1, 1 << 20, 1<<20 + 1, 3 << 20} {
			want := blobCID(data[:size])
			for name, r := range map[string]io.Reader{
				"whole": bytes.NewReader(data[:size]),
				"half":  iotest.HalfReader(bytes.NewReader(data[:size])),
				"eof":   iotest.DataErrReader(bytes.NewReader(data[:size])),
			} {
				if same, err := image.HasContent(t.Context(), r, want, image.ContentBuffer()); !same || err != nil {
					t.Errorf("%d bytes, %s: %v %v", size, name, same, err)
				}
			}
			other := append(bytes.Clone(data[:size]), 1)
			if same, err := image.HasContent(t.Context(), bytes.NewReader(other), want, image.ContentBuffer()); same || err != nil {
				t.Errorf("%d bytes and one: %v %v", size, same, err)
			}
			if _, err := image.HasContent(t.Context(), iotest.ErrReader(errTest), want, image.ContentBuffer()); !errors.Is(err, errTest) {
				t.Error(err)
			}
		}
	}
}
