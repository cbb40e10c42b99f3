package image_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"satchel/store/image"
)

// TestMain lets the test binary be another process that has an image open, until its input ends.
func TestMain(m *testing.M) {
	dir := os.Getenv("IMAGE_TEST_HOLD")
	if dir == "" {
		os.Exit(m.Run())
	}
	if _, err := image.Open(dir); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
}

func TestOpenFresh(t *testing.T) {
	dir := filepath.Join(tempDir(t), "a", "b")
	im := open(t, dir)
	if _, ok := im.Live(); ok {
		t.Error("something is live")
	}
	if _, ok := im.Previous(); ok {
		t.Error("something was live")
	}
	if list, err := im.List(); len(list) > 0 || err != nil {
		t.Error(list, err)
	}
	if _, err := im.Rollback(); !errors.Is(err, image.ErrNoPrevious) {
		t.Error(err)
	}
	must(t, im.Close())
	before := snapshot(t, dir)
	open(t, dir)
	if after := snapshot(t, dir); after != before {
		t.Errorf("opening again changed\n%sto\n%s", before, after)
	}
}

func TestOneProcess(t *testing.T) {
	dir := tempDir(t)
	im := open(t, dir)
	_, err := image.Open(dir)
	if !errors.Is(err, image.ErrLocked) || !strings.Contains(err.Error(), "satchel down") {
		t.Errorf("second open: %v", err)
	}
	must(t, im.Close())

	other := exec.Command("/proc/self/exe")
	other.Env = append(os.Environ(), "IMAGE_TEST_HOLD="+dir)
	in, err := other.StdinPipe()
	must(t, err)
	out, err := other.StdoutPipe()
	must(t, err)
	must(t, other.Start())
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatal(line)
	}
	_, err = image.Open(dir)
	if !errors.Is(err, image.ErrLocked) {
		t.Errorf("open beside another process: %v", err)
	}
	must(t, in.Close())
	must(t, other.Wait())
	open(t, dir)
}

// TestUnsafeNames lays something else where an image has its own things: Open refuses, and touches nothing.
func TestUnsafeNames(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(path string) error
	}{
		{"current", func(p string) error { return os.Mkdir(p, 0o755) }},
		{"current", func(p string) error { return os.WriteFile(p, nil, 0o644) }},
		{"deploy", func(p string) error { return os.Symlink(os.TempDir(), p) }},
		{"deploy", func(p string) error { return os.WriteFile(p, nil, 0o644) }},
		{"boot.0", func(p string) error { return os.Symlink("/etc/passwd", p) }},
		{"boot.1", func(p string) error { return os.Mkdir(p, 0o755) }},
		{"boot.1", func(p string) error { return syscall.Mkfifo(p, 0o644) }},
	} {
		dir := tempDir(t)
		must(t, c.make(filepath.Join(dir, c.name)))
		before := snapshot(t, dir)
		_, err := image.Open(dir)
		if err == nil || !strings.Contains(err.Error(), c.name) || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", c.name, err)
		}
		if after := snapshot(t, dir); after != before {
			t.Errorf("%s: changed\n%sto\n%s", c.name, before, after)
		}
	}
}

// TestForeignFiles lives beside files of others, and follows none of the links that they laid out.
func TestForeignFiles(t *testing.T) {
	dir, victim, b := tempDir(t), tempDir(t), newBlobs(t)
	r, m := release(t, b, 1, small("one"))
	must(t, os.WriteFile(filepath.Join(victim, "file"), []byte("precious"), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("mine"), 0o600))
	must(t, os.MkdirAll(filepath.Join(dir, "deploy", "Others.tmp"), 0o755))
	for _, name := range []string{"boot.0.tmp", "boot.1.tmp", "current.tmp", "deploy/" + r.ID() + ".toml"} {
		must(t, os.Symlink(filepath.Join(victim, "file"), filepath.Join(dir, name)))
	}
	for _, name := range []string{"current", "deploy/" + r.ID() + ".tmp", "deploy/" + r.ID() + ".gone.tmp"} {
		must(t, os.Symlink(victim, filepath.Join(dir, name)))
	}
	before := snapshot(t, victim)
	im := open(t, dir)
	if current(dir) != victim {
		t.Error("a link of somebody else was changed before anything is live")
	}
	id := stage(t, im, r, m, b)
	must(t, im.Activate(id))
	checkTree(t, filepath.Join(dir, "current")+"/", m, b)
	if after := snapshot(t, victim); after != before {
		t.Errorf("a link was followed:\n%s", after)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "notes.txt")); string(text) != "mine" {
		t.Error("notes.txt changed")
	}
	if !slices.Contains(ls(t, dir), "Others.tmp") {
		t.Error("Others.tmp is gone")
	}
}

// TestRecovery damages an image that has "two" live and "one" before, and opens it.
func TestRecovery(t *testing.T) {
	one, two := "", ""
	rm := func(names ...string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			for _, name := range names {
				permit(filepath.Join(dir, name))
				must(t, os.RemoveAll(filepath.Join(dir, name)))
			}
		}
	}
	write := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)) }
	}
	for name, c := range map[string]struct {
		damage         func(t *testing.T, dir string)
		live, previous *string
	}{
		"nothing":      {rm(), &two, &one},
		"current gone": {rm("current"), &two, &one},
		"current stale": {func(t *testing.T, dir string) {
			rm("current")(t, dir)
			must(t, os.Symlink("deploy/"+one, dir+"/current"))
		}, &two, &one},
		"newer slot gone":         {rm("boot.1"), &one, nil}, // the second activation wrote boot.1
		"newer slot damaged":      {write("boot.1", "satchel boot 1\ngener"), &one, nil},
		"older slot gone":         {rm("boot.0"), &two, &one},
		"older slot damaged":      {write("boot.0", strings.Repeat("x", 10_000)), &two, &one},
		"both slots gone":         {rm("boot.0", "boot.1"), &two, nil},
		"slots and current gone":  {rm("boot.0", "boot.1", "current"), nil, nil},
		"both slots empty":        {func(t *testing.T, dir string) { write("boot.0", "")(t, dir); write("boot.1", "")(t, dir) }, &two, nil},
		"live tree gone":          {func(t *testing.T, dir string) { rm("deploy/"+two)(t, dir) }, &one, nil},
		"previous tree gone":      {func(t *testing.T, dir string) { rm("deploy/"+one)(t, dir) }, &two, nil},
		"all trees gone":          {rm("deploy"), nil, nil},
		"descriptions gone":       {func(t *testing.T, dir string) { rm("deploy/"+one+".toml", "deploy/"+two+".toml")(t, dir) }, &two, &one},
		"description without one": {func(t *testing.T, dir string) { write("deploy/a-1-1-aaaaaaaa.toml", "")(t, dir) }, &two, &one},
		"leftovers": {func(t *testing.T, dir string) {
			for _, suffix := range []string{".tmp", ".gone.tmp", ".fix.tmp"} {
				must(t, os.MkdirAll(dir+"/deploy/"+one+suffix+"/a/b", 0o755))
				must(t, os.Chmod(dir+"/deploy/"+one+suffix+"/a", 0o500))
			}
			write("boot.0.tmp", "half")(t, dir)
			must(t, os.Symlink("deploy/nowhere", dir+"/current.tmp"))
		}, &two, &one},
	} {
		t.Run(name, func(t *testing.T) {
			dir, b := tempDir(t), newBlobs(t)
			im := open(t, dir)
			for i, id := range []*string{&one, &two} {
				r, m := release(t, b, uint64(i+1), small(fmt.Sprint(i)))
				*id = stage(t, im, r, m, b)
				must(t, im.Activate(*id))
			}
			must(t, im.Close())
			c.damage(t, dir)
			checkState(t, dir, deref(c.live), deref(c.previous))
		})
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// checkState opens an image twice: the first time it recovers, the second time nothing may change.
func checkState(t *testing.T, dir, live, previous string) {
	t.Helper()
	var first string
	for range 2 {
		im, err := image.Open(dir)
		must(t, err)
		l, _ := im.Live()
		p, _ := im.Previous()
		if l.ID != live || p.ID != previous || current(dir) != live {
			t.Errorf("live %q, previous %q, current %q; want %q and %q", l.ID, p.ID, current(dir), live, previous)
		}
		for _, name := range ls(t, dir) {
			if id := strings.TrimSuffix(name, ".toml"); im.Tree(id) == "" {
				t.Errorf("%s was left", name)
			}
		}
		must(t, im.Close())
		if now := snapshot(t, dir); first != "" && now != first {
			t.Errorf("the second open changed\n%sto\n%s", first, now)
		} else {
			first = now
		}
	}
}
