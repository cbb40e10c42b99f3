package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stickTest is a directory with homes in it and the binary.
type stickTest struct {
	t        *testing.T
	bin, dir string
}

func newStickTest(t *testing.T) *stickTest {
	t.Helper()
	bin, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	s := &stickTest{t, bin, t.TempDir()}
	s.run("keygen", "k")
	s.run("root", "new", "--out", "root", "--key", "k")
	s.home("pub")
	return s
}

func (s *stickTest) command(args ...string) *exec.Cmd {
	cmd := exec.Command(s.bin, args...)
	cmd.Dir = s.dir
	return cmd
}

func (s *stickTest) run(args ...string) string {
	s.t.Helper()
	out, err := s.command(args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

func (s *stickTest) home(name string) {
	s.t.Helper()
	s.run("--home", name, "trust", "root")
	s.run("--home", name, "follow", "lessons", "--image", name+".image")
}

func (s *stickTest) publish(version string, sizes ...int) {
	s.t.Helper()
	tree := filepath.Join(s.dir, "tree"+version)
	if err := os.Mkdir(tree, 0o755); err != nil {
		s.t.Fatal(err)
	}
	for i, size := range sizes {
		b := make([]byte, size)
		x := uint64(len(version)*1000 + i + int(version[0])*7919)
		for k := range b {
			x = x*6364136223846793005 + 1442695040888963407
			b[k] = byte(x >> 56)
		}
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), b, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	s.run("--home", "pub", "publish", tree, "--product", "lessons", "--version", version, "--key", "k")
}

// killed starts a verb and kills it when enough says so; false when it ended by itself.
func (s *stickTest) killed(enough func() bool, args ...string) bool {
	s.t.Helper()
	cmd := s.command(args...)
	var out strings.Builder
	cmd.Stderr = &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case err := <-ended:
			if err != nil {
				s.t.Fatalf("%v: %v\n%s", args, err, out.String())
			}
			return false
		default:
		}
		if enough() {
			cmd.Process.Kill()
			return <-ended != nil
		}
	}
}

// same applies and compares what is live with a tree.
func (s *stickTest) same(home, tree string) {
	s.t.Helper()
	s.run("--home", home, "apply", "lessons")
	cmd := exec.Command("bash", "-c", `diff <(cd "$1" && list) <(cd "$2/" && list)`, "", filepath.Join(s.dir, tree), filepath.Join(s.dir, home+".image", "current"))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Errorf("%v: %s", err, out)
	}
}

func grown(dir string) (bytes int64) {
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if fi, err := d.Info(); err == nil {
				bytes += fi.Size()
			}
		}
		return nil
	})
	return bytes
}

// An export that is killed at any moment leaves a stick from which the release before can be taken, and the next export goes on.
func TestKilledExport(t *testing.T) {
	s := newStickTest(t)
	usb := filepath.Join(s.dir, "usb")
	if err := os.Mkdir(usb, 0o755); err != nil {
		t.Fatal(err)
	}
	s.publish("1", 100_000, 500_000)
	s.run("--home", "pub", "export", "usb")
	s.publish("2", 60_000_000, 50_000_000, 100_000)
	kills, full := 0, int64(110_700_000)
	for _, much := range []int64{1, 1_000_000, 20_000_000, 60_000_000, 67_000_000, 68_000_000, 90_000_000, 110_000_000} {
		before := grown(usb)
		enough := func() bool { return grown(usb) >= min(before+much, full) }
		if s.killed(enough, "--home", "pub", "export", "usb") {
			kills++
			home := fmt.Sprintf("lap%d", kills)
			s.home(home)
			if out := s.run("--home", home, "import", "usb"); !strings.Contains(out, "lessons 1 (seq 1) is ready") && !strings.Contains(out, "lessons 2 (seq 2) is ready") {
				t.Errorf("after kill %d: %s", kills, out)
			}
		}
	}
	if kills < 4 {
		t.Errorf("only %d kills hit", kills)
	}
	s.run("--home", "pub", "export", "usb")
	s.home("last")
	s.run("--home", "last", "import", "usb")
	s.same("last", "tree2")
}

// An import that is killed at any moment leaves the live tree as it was; the next one goes on.
func TestKilledImport(t *testing.T) {
	s := newStickTest(t)
	if err := os.Mkdir(filepath.Join(s.dir, "usb"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.publish("1", 100_000, 500_000)
	s.run("--home", "pub", "export", "usb")
	s.home("lap")
	s.run("--home", "lap", "import", "usb")
	s.same("lap", "tree1")
	s.publish("2", 60_000_000, 50_000_000, 100_000)
	s.run("--home", "pub", "export", "usb")
	kills := 0
	for range 20 {
		before := stored(filepath.Join(s.dir, "lap/store"))
		enough := func() bool { return stored(filepath.Join(s.dir, "lap/store")) > before+10_000_000 }
		if kills == 0 {
			enough = func() bool { return true }
		}
		if !s.killed(enough, "--home", "lap", "import", "usb") {
			break
		}
		kills++
		if target, err := os.Readlink(filepath.Join(s.dir, "lap.image", "current")); err != nil || !strings.Contains(target, "lessons-1-1-") {
			t.Errorf("live is %q, %v", target, err)
		}
	}
	if kills < 4 {
		t.Errorf("only %d kills hit", kills)
	}
	s.run("--home", "lap", "import", "usb")
	s.same("lap", "tree2")
}

// stored is how much space the files of a store take: partial blobs have holes.
func stored(dir string) int64 {
	out, err := exec.Command("du", "-s", "-B1", dir).Output()
	if err != nil && len(out) == 0 {
		return 0
	}
	var n int64
	fmt.Sscan(string(out), &n)
	return n
}
