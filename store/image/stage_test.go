package image_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	"pgregory.net/rapid"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// everything is a tree with every kind of entry and mode that a release can have.
func everything() []entry {
	tree := append(small("all"),
		entry{path: "absolute", link: "/etc/passwd"},
		entry{path: "dangling", link: "no/such/file"},
		entry{path: "escape", link: "../../../../boot.0"},
		entry{path: "loop", link: "loop"},
		entry{path: "-rf", mode: 0o644, data: "a name like an option"},
		entry{path: `back\slash "and" $(quote)`, mode: 0o644, data: "a name that a shell would take apart"},
		entry{path: "späße \u200d", mode: 0o644, data: "a name in Unicode"},
		entry{path: strings.Repeat("n", 255), mode: 0o644, data: "the longest name"},
		entry{path: "boot.0", mode: 0o644, data: "a name of ours"},
		entry{path: "sticky/", mode: 0o1777},
		entry{path: "closed/", mode: 0o000},
		entry{path: "closed/file", mode: 0o000, data: "nobody reads this"},
		entry{path: "closed/sub/", mode: 0o111},
		entry{path: "closed/sub/empty", mode: 0o000},
		entry{path: "setgid", mode: 0o2755, data: "setgid"},
		entry{path: "all bits", mode: 0o7777, data: "all bits"},
		entry{path: "all bits, empty", mode: 0o7777},
	)
	deep := ""
	for range 63 {
		deep += "d/"
		tree = append(tree, entry{path: deep, mode: 0o755})
	}
	return sorted(append(tree, entry{path: deep + "bottom", mode: 0o644, data: "bottom"}))
}

// TestStageEverything runs as the user it is started by and, if that is root, again as an ordinary one, with the worst umask.
func TestStageEverything(t *testing.T) {
	old := syscall.Umask(0o777)
	syscall.Umask(0o077)
	defer syscall.Umask(old)
	dir, b := tempDir(t), newBlobs(t)
	r, m := release(t, b, 1, everything())
	im, err := image.Open(dir)
	must(t, err)
	defer im.Close()
	last := 0
	d, err := im.Stage(context.Background(), image.Plan{Parts: plan(r, m).Parts, Progress: func(p image.StageProgress) {
		if p.Phase != image.PhaseLay {
			return
		}
		if p.Done != last+1 || p.Total != len(m.Entries) {
			t.Errorf("progress %d of %d after %d", p.Done, p.Total, last)
		}
		last = p.Done
	}}, b)
	must(t, err)
	if last != len(m.Entries) {
		t.Errorf("progress ended at %d", last)
	}
	if problems, err := im.Verify(context.Background(), d.ID, b, nil); len(problems) > 0 || err != nil {
		t.Error(problems, err)
	}
	if os.Getuid() == 0 {
		checkTree(t, im.Tree(d.ID), m, b)
	}
	if fi, _ := os.Stat(im.Tree(d.ID)); fi.Mode().Perm() != 0o755 {
		t.Errorf("tree has mode %v", fi.Mode())
	}
	must(t, im.Destroy(d.ID))
	if names := ls(t, dir); len(names) > 0 {
		t.Errorf("left: %q", names)
	}
	if os.Getuid() == 0 {
		asNobody(t, "TestStageEverything", "TestVerifyAndRepair", "TestRecovery")
	}
}

// asNobody runs tests again without the powers of root.
func asNobody(t *testing.T, tests ...string) {
	t.Helper()
	home, err := os.MkdirTemp("", "image-nobody-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(home) })
	must(t, os.Chmod(home, 0o755))
	must(t, os.Chown(home, 65534, 65534))
	cmd := exec.Command("/proc/self/exe", "-test.run=^("+strings.Join(tests, "|")+")$")
	cmd.Dir, cmd.Env = home, append(os.Environ(), "TMPDIR="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("as an ordinary user: %v\n%s", err, out)
	}
}

func TestStageTwice(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	r, m := release(t, b, 3, small("x"))
	im := open(t, dir)
	first, err := im.Stage(context.Background(), plan(r, m), b)
	must(t, err)
	if first.ID != r.ID() || !slices.Equal(first.Releases, []image.Release{r}) || first.Created.IsZero() {
		t.Errorf("%+v", first)
	}
	before := snapshot(t, im.Tree(first.ID))
	second, err := im.Stage(context.Background(), plan(r, m), b)
	must(t, err)
	if !reflect.DeepEqual(second, first) || snapshot(t, im.Tree(first.ID)) != before {
		t.Errorf("staged again as %+v", second)
	}
	if list, err := im.List(); err != nil || !reflect.DeepEqual(list, []image.Deployment{first}) {
		t.Error(list, err)
	}
}

// TestLostDescription stages a release whose tree is there, but without the file beside it.
func TestLostDescription(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		dir, b := tempDir(t), newBlobs(t)
		r, m := release(t, b, 1, small("x"))
		im := open(t, dir)
		id := stage(t, im, r, m, b)
		must(t, os.Remove(im.Tree(id)+".toml"))
		if damaged {
			must(t, os.Remove(filepath.Join(im.Tree(id), "bin/su")))
		}
		before := snapshot(t, im.Tree(id))
		if d, err := im.List(); err != nil || len(d) != 1 || d[0].Releases[0].Seq != 1 || d[0].Releases[0].Manifest.Defined() {
			t.Errorf("%+v %v", d, err)
		}
		stage(t, im, r, m, b)
		if d, _ := im.List(); len(d) != 1 || d[0].Releases[0] != r {
			t.Errorf("%+v", d)
		}
		checkTree(t, im.Tree(id), m, b)
		if same := snapshot(t, im.Tree(id)) == before; same == damaged {
			t.Errorf("damaged %v, tree the same %v", damaged, same)
		}
	}
}

// TestWaysToPlace makes the system refuse some ways to make a file: the tree is the same.
func TestWaysToPlace(t *testing.T) {
	for _, errno := range []syscall.Errno{0, syscall.EMLINK, syscall.EXDEV, syscall.EPERM} {
		for _, cloning := range []syscall.Errno{0, syscall.EOPNOTSUPP, syscall.EXDEV} {
			b := newBlobs(t)
			r, m := release(t, b, 1, small("x"))
			im, err := image.OpenHook(tempDir(t), func(op, path string) error {
				switch {
				case op == "linking" && errno != 0:
					return errno
				case op == "cloning" && cloning != 0:
					return cloning
				case op == "making subvolume": // to which there are no links from outside
					return syscall.EOPNOTSUPP
				}
				return noSync(op, path)
			})
			must(t, err)
			id := stage(t, im, r, m, b)
			checkTree(t, im.Tree(id), m, b)
			fi, err := os.Stat(filepath.Join(im.Tree(id), "bin/tool"))
			must(t, err)
			if linked := fi.Sys().(*syscall.Stat_t).Nlink > 1; cloning != 0 && linked != (errno == 0) {
				t.Errorf("link %v, clone %v: linked %v", errno, cloning, linked)
			}
			must(t, im.Close())
		}
	}
}

// TestChangedBlobMode stages from a blob whose mode somebody changed through a link.
func TestChangedBlobMode(t *testing.T) {
	b := newBlobs(t)
	r, m := release(t, b, 1, small("x"))
	e := m.Entries[2]
	_, err := b.BlobFile(e.Blob, e.Mode)
	must(t, err)
	must(t, os.Chmod(b.path(e.Blob, e.Mode), 0o600))
	im := open(t, tempDir(t))
	checkTree(t, im.Tree(stage(t, im, r, m, b)), m, b)
}

var errTest = errors.New("test error")

// TestStageFails makes staging fail in many ways. Each leaves nothing, and what is live is untouched.
func TestStageFails(t *testing.T) {
	type setup struct {
		r      *image.Release
		m      *manifest.Manifest
		b      *blobs
		ctx    context.Context
		cancel func()
	}
	atPath := func(path string, change func(*manifest.Entry)) func(*setup) {
		return func(s *setup) {
			i := slices.IndexFunc(s.m.Entries, func(e manifest.Entry) bool { return e.Path == path })
			change(&s.m.Entries[i])
		}
	}
	for name, c := range map[string]struct {
		change func(*setup)
		want   string
	}{
		"blob missing":           {atPath("large", func(e *manifest.Entry) { e.Blob = blobCID([]byte("none")) }), "not in the store"},
		"store fails":            {func(s *setup) { s.b.fail = func() error { return errTest } }, "test error"},
		"blob truncated":         {atPath("large", func(e *manifest.Entry) { e.Size++ }), "damaged"},
		"context ended":          {func(s *setup) { s.cancel() }, "canceled"},
		"context ends halfway":   {func(s *setup) { s.b.fail = func() error { s.cancel(); return nil } }, "canceled"},
		"path leaves":            {atPath("large", func(e *manifest.Entry) { e.Path = "../large" }), "no directory"},
		"path is dotdot":         {atPath("large", func(e *manifest.Entry) { e.Path = ".." }), "unsafe name"},
		"path is dot":            {atPath("empty", func(e *manifest.Entry) { e.Path = "." }), "unsafe name"},
		"path is empty":          {atPath("empty", func(e *manifest.Entry) { e.Path = "" }), "no such file"},
		"path is absolute":       {atPath("empty", func(e *manifest.Entry) { e.Path = "/etc/x" }), "no directory"},
		"path with NUL":          {atPath("empty", func(e *manifest.Entry) { e.Path = "a\x00b" }), "unsafe name"},
		"path twice":             {atPath("empty", func(e *manifest.Entry) { e.Path = "bin" }), "exists"},
		"directory missing":      {atPath("empty", func(e *manifest.Entry) { e.Path = "none/x" }), "no directory"},
		"below a file":           {atPath("large", func(e *manifest.Entry) { e.Path = "empty/large" }), "no directory"},
		"below a link":           {atPath("large", func(e *manifest.Entry) { e.Path = "etc/link/large" }), "no directory"},
		"name too long":          {atPath("large", func(e *manifest.Entry) { e.Path = strings.Repeat("x", 256) }), "name too long"},
		"mode too high":          {atPath("large", func(e *manifest.Entry) { e.Mode = 0o100644 }), "mode"},
		"unknown type":           {atPath("large", func(e *manifest.Entry) { e.Type = 7 }), "unknown type 7"},
		"size beyond int64":      {atPath("large", func(e *manifest.Entry) { e.Size = 1 << 63 }), "damaged"},
		"link without target":    {atPath("etc/link", func(e *manifest.Entry) { e.Link = "" }), "no such file"},
		"other product":          {func(s *setup) { s.r.Product = "other" }, "manifest is of demo"},
		"other seq":              {func(s *setup) { s.r.Seq++ }, "manifest is of demo"},
		"product is a path":      {func(s *setup) { s.r.Product, s.m.Product = "../x", "../x" }, "product"},
		"product is empty":       {func(s *setup) { s.r.Product, s.m.Product = "", "" }, "product"},
		"version not printable":  {func(s *setup) { s.r.Version = "\x1b[2J" }, "version"},
		"manifest without a CID": {func(s *setup) { s.r.Manifest = cid.Undef }, "manifest"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, b := tempDir(t), newBlobs(t)
			im := open(t, dir)
			r, m := release(t, b, 1, small("one"))
			must(t, im.Activate(stage(t, im, r, m, b)))
			before := snapshot(t, im.Tree(r.ID()))
			names := ls(t, dir)

			r2, m2 := release(t, b, 2, small("two"))
			s := setup{r: &r2, m: m2, b: b}
			s.ctx, s.cancel = context.WithCancel(context.Background())
			defer s.cancel()
			c.change(&s)
			if _, err := im.Stage(s.ctx, plan(*s.r, m2), b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error is %v, want %q in it", err, c.want)
			}
			if now := ls(t, dir); !slices.Equal(now, names) {
				t.Errorf("left %q of %q", now, names)
			}
			if live, _ := im.Live(); live.ID != r.ID() || current(dir) != r.ID() || !sameTree(t, im.Tree(r.ID()), before) {
				t.Error("the live tree changed")
			}
		})
	}
}

// sameTree leaves out the change times: a link more or less to a blob changes them.
func sameTree(t *testing.T, top, before string) bool {
	strip := func(s string) string {
		var out []string
		for line := range strings.Lines(s) {
			f := strings.Split(line, "{")
			out = append(out, strings.Join(slices.Delete(f, len(f)-1, len(f)), "{"))
		}
		return strings.Join(out, "\n")
	}
	return strip(snapshot(t, top)) == strip(before)
}

// TestFullDisk stages on a file system that is too small; as another user than root the step hook plays the disk.
func TestFullDisk(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	var h image.Hook
	if os.Getuid() == 0 {
		must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=200k,nr_inodes=200"))
		t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	} else {
		h = func(op, path string) error {
			if op == "copying" && strings.HasSuffix(path, "large") {
				return syscall.ENOSPC
			}
			return nil
		}
	}
	im, err := image.OpenHook(dir, h)
	must(t, err)
	defer im.Close()
	r, m := release(t, b, 1, []entry{{path: "a", mode: 0o644, data: "fits"}})
	must(t, im.Activate(stage(t, im, r, m, b)))
	before := ls(t, dir)
	r2, m2 := release(t, b, 2, small("two"))
	if _, err := im.Stage(context.Background(), plan(r2, m2), b); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error is %v", err)
	}
	if now := ls(t, dir); !slices.Equal(now, before) {
		t.Errorf("left %q of %q", now, before)
	}
	checkTree(t, filepath.Join(dir, "current")+"/", m, b)
	r3, m3 := release(t, b, 3, []entry{{path: "a", mode: 0o644, data: "fits too"}})
	must(t, im.Activate(stage(t, im, r3, m3, b)))
}

// TestRealStore publishes a tree and stages it from the store.
func TestRealStore(t *testing.T) {
	source, home := tempDir(t), tempDir(t)
	rnd := rand.New(rand.NewPCG(1, 2))
	must(t, os.MkdirAll(source+"/lib/sub", 0o755))
	for i, size := range []int{0, 1, 5000, 5000, 300 << 10, 2 << 20} {
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(rnd.Uint32())
		}
		must(t, os.WriteFile(fmt.Sprintf("%s/lib/f%d", source, i), data, 0o600))
		must(t, os.Chmod(fmt.Sprintf("%s/lib/f%d", source, i), []os.FileMode{0o644, 0o755, 0o400}[i%3]))
		must(t, os.WriteFile(fmt.Sprintf("%s/lib/sub/same%d", source, i), data, 0o711))
	}
	must(t, os.Symlink("f3", source+"/lib/link"))
	must(t, os.Chmod(source+"/lib/sub", 0o555))
	t.Cleanup(func() { os.Chmod(source+"/lib/sub", 0o755) })
	s, err := store.Open(home)
	must(t, err)
	defer s.Close()
	p, err := s.Publish(context.Background(), source, store.PublishOptions{Header: manifest.Header{Product: "demo", Epoch: 1, Seq: 1, Version: "v1"}})
	must(t, err)
	m, err := s.Manifest(p.Manifest)
	must(t, err)
	im, err := image.Open(tempDir(t))
	must(t, err)
	defer im.Close()
	id := stage(t, im, image.Release{Product: "demo", Epoch: 1, Seq: 1, Version: "v1", Manifest: p.Manifest}, m, s)
	if problems, err := im.Verify(context.Background(), id, s, nil); len(problems) > 0 || err != nil {
		t.Error(problems, err)
	}
	if out, err := exec.Command("diff", "-r", "--no-dereference", source, im.Tree(id)).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestAnyTree stages and verifies random trees.
func TestAnyTree(t *testing.T) {
	top := tempDir(t)
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		b := blobsIn(filepath.Join(top, fmt.Sprint("blobs", n)))
		must(t, os.Mkdir(b.dir, 0o755))
		r, m := release(t, b, 1, anyTree(rt))
		im, err := image.OpenHook(filepath.Join(top, fmt.Sprint("image", n)), noSync)
		must(t, err)
		defer im.Close()
		id := stage(t, im, r, m, b)
		if problems, err := im.Verify(context.Background(), id, b, nil); len(problems) > 0 || err != nil {
			t.Error(problems, err)
		}
		if os.Getuid() == 0 {
			checkTree(t, im.Tree(id), m, b)
		}
		must(t, im.Destroy(id))
	})
}

func anyTree(t *rapid.T) []entry {
	var tree []entry
	dirs := []string{""}
	names := map[string]bool{}
	for range rapid.IntRange(0, 30).Draw(t, "entries") {
		path := rapid.SampledFrom(dirs).Draw(t, "in") + rapid.StringMatching(`[a-z!~.0]{3,6}`).Draw(t, "name")
		if names[path] || strings.HasSuffix(path, "...") {
			continue
		}
		names[path] = true
		e := entry{path: path, mode: rapid.Uint32Range(0, 0o777).Draw(t, "mode")}
		switch rapid.IntRange(0, 3).Draw(t, "type") {
		case 0:
			e.path += "/"
			dirs = append(dirs, e.path)
		case 1:
			e.link = rapid.StringMatching(`[a-z./]{1,20}`).Draw(t, "link")
		default:
			e.data = strings.Repeat(rapid.StringN(0, 20, -1).Draw(t, "data"), rapid.SampledFrom([]int{1, 1, 1, 3000, 30000}).Draw(t, "times"))
		}
		tree = append(tree, e)
	}
	return sorted(tree)
}

// TestReadersWhileStaging asks questions and switches while a clone is built.
func TestReadersWhileStaging(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im := open(t, dir)
	var ids []string
	for seq := range uint64(2) {
		r, m := release(t, b, seq, small(fmt.Sprint(seq)))
		ids = append(ids, stage(t, im, r, m, b))
	}
	must(t, im.Activate(ids[0]))
	r, m := release(t, b, 9, wide(600))
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for range 20 {
				if err := im.Activate(ids[i%2]); err != nil {
					t.Error(err)
				}
				if live, ok := im.Live(); !ok || !slices.Contains(ids, live.ID) {
					t.Error(live)
				}
				if list, err := im.List(); err != nil || len(list) < 2 {
					t.Error(list, err)
				}
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			if _, err := im.Stage(context.Background(), plan(r, m), b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkTree(t, im.Tree(r.ID()), m, b)
}
