package main_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"satchel/store/crash"
)

// point is one fault: what happens in place of which change of the disk of which verb.
type point struct {
	args    []string
	fault   string
	errno   unix.Errno
	at      int
	call    string // the system call that was there without faults
	reached bool
	problem error
}

// TestFaultAtEverySystemCall has a laptop take a release of 300 changed files from a stick and make it live, kills that at each
// change of the disk, or has the change fail, and recovers. SATCHEL_CRASH, when it is set, asks for all changes; without it there are a few of every
// kind.
func TestFaultAtEverySystemCall(t *testing.T) {
	s := newStickTest(t)
	s.dir = inMemory(t)
	s.run("keygen", "k")
	s.run("root", "new", "--out", "root", "--key", "k")
	s.home("pub")
	for _, version := range []string{"1", "2"} {
		s.lessons(version)
		s.run("--home", "pub", "publish", "tree"+version, "--product", "lessons", "--version", version, "--key", "k")
		s.run("--home", "pub", "export", "usb"+version)
	}
	lanes := []*lane{s.lane("a"), s.lane("b")}
	var points []*point
	for _, args := range [][]string{{"import", "../usb2"}, {"apply", "lessons"}} {
		calls := lanes[0].count(args)
		points = append(points, choose(args, calls)...)
	}
	todo := make(chan *point)
	var group sync.WaitGroup
	for _, l := range lanes {
		group.Go(func() {
			for p := range todo {
				p.problem = l.try(p)
			}
		})
	}
	for _, p := range points {
		todo <- p
	}
	close(todo)
	group.Wait()
	report(t, points)
}

// choose makes the points for a verb that makes these calls.
func choose(args []string, calls []string) (all []*point) {
	chance := rand.New(rand.NewPCG(1, 0))
	for _, f := range []struct {
		name  string
		errno unix.Errno
	}{{"killed", 0}, {"EIO", unix.EIO}, {"ENOSPC", unix.ENOSPC}} {
		seen := make(map[string]int)
		for _, i := range chance.Perm(len(calls)) {
			if seen[calls[i]]++; seen[calls[i]] <= 2 || os.Getenv("SATCHEL_CRASH") != "" {
				all = append(all, &point{args: args, fault: f.name, errno: f.errno, at: i + 1, call: calls[i]})
			}
		}
	}
	return all
}

func report(t *testing.T, points []*point) {
	type count struct{ points, missed, bad int }
	counts := make(map[string]*count)
	var order []string
	for _, p := range points {
		key := p.args[0] + "\t" + p.fault
		if counts[key] == nil {
			counts[key] = new(count)
			order = append(order, key)
		}
		c := counts[key]
		c.points++
		if !p.reached {
			c.missed++
		}
		if p.problem != nil {
			c.bad++
			t.Errorf("%s, %s at change %d, %s: %v", p.args[0], p.fault, p.at, p.call, p.problem)
		}
	}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "verb\tfault\tpoints\tnot reached\tbad")
	for _, key := range order {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", key, counts[key].points, counts[key].missed, counts[key].bad)
	}
	w.Flush()
	t.Logf("\n%s", out.String())
}

// inMemory is a directory on a file system in memory, if there is one: the kernel does not end, so nothing need be written out.
func inMemory(t *testing.T) string {
	t.Helper()
	where := "/dev/shm"
	if fi, err := os.Stat(where); err != nil || !fi.IsDir() {
		where = ""
	}
	dir, err := os.MkdirTemp(where, "satchel-fault-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// lessons makes a tree of 300 files, none of which is the same in two versions, and the directory of a stick.
func (s *stickTest) lessons(version string) {
	s.t.Helper()
	err := os.MkdirAll(filepath.Join(s.dir, "usb"+version), 0o755)
	for i := range 300 {
		dir := filepath.Join(s.dir, "tree"+version, fmt.Sprint("unit", i%10))
		err = errors.Join(err, os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), fmt.Appendf(nil, "lesson %d, version %s\n", i, version), 0o644))
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// lane is a laptop with release 1 live. Its home is lap, its image lap.image.
type lane struct {
	*stickTest
	trees map[string]string // by version
}

// lane makes a laptop, and copies of it: as it is before the import, and before the apply.
func (s *stickTest) lane(name string) *lane {
	s.t.Helper()
	l := &lane{&stickTest{s.t, s.bin, filepath.Join(s.dir, name)}, make(map[string]string)}
	for _, dir := range []string{"", "import", "apply"} {
		if err := os.MkdirAll(filepath.Join(l.dir, dir), 0o755); err != nil {
			s.t.Fatal(err)
		}
	}
	for _, version := range []string{"1", "2"} {
		l.trees[version] = l.list("../tree"+version, true)
	}
	l.run("--home", "lap", "trust", "../root")
	l.run("--home", "lap", "follow", "lessons", "--image", "lap.image")
	l.run("--home", "lap", "import", "../usb1")
	l.run("--home", "lap", "apply", "lessons")
	for _, err := range []error{l.copy(".", "import"), l.verb("import", "../usb2"), l.copy(".", "apply")} {
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return l
}

// copy copies home and image, with hard links between them.
func (l *lane) copy(from, to string) error {
	for _, name := range []string{"lap", "lap.image"} {
		if err := os.RemoveAll(filepath.Join(l.dir, to, name)); err != nil {
			return err
		}
	}
	cmd := exec.Command("cp", "-a", filepath.Join(from, "lap"), filepath.Join(from, "lap.image"), to)
	cmd.Dir = l.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("copying: %w: %s", err, out)
	}
	return nil
}

func (l *lane) verb(args ...string) error {
	if out, err := l.command(append([]string{"--home", "lap"}, args...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", args, err, out)
	}
	return nil
}

// withFault begins anew and runs a verb. It gives what the verb has said.
func (l *lane) withFault(args []string, f crash.Fault) (crash.Outcome, string, error) {
	if err := l.copy(args[0], "."); err != nil {
		return crash.Outcome{}, "", err
	}
	out, err := os.Create(filepath.Join(l.dir, "out"))
	if err != nil {
		return crash.Outcome{}, "", err
	}
	defer out.Close()
	o, err := crash.Run(append([]string{l.bin, "--home", "lap"}, args...), l.dir, out, f)
	if err != nil {
		return o, "", err
	}
	text, err := os.ReadFile(out.Name())
	return o, string(text), err
}

// count gives the changes that a verb makes without a fault.
func (l *lane) count(args []string) []string {
	o, text, err := l.withFault(args, crash.Fault{})
	if err != nil || o.Status.ExitStatus() != 0 {
		l.t.Fatalf("%v: %v, %v: %s", args, err, o.Status, text)
	}
	return o.Changes
}

// try makes one fault happen, and says what was not right afterwards.
func (l *lane) try(p *point) error {
	o, text, err := l.withFault(p.args, crash.Fault{At: p.at, Errno: p.errno})
	if err != nil {
		return err
	}
	p.reached = o.Reached
	switch killed := o.Status.Signaled(); {
	case killed != (p.errno == 0 && o.Reached), strings.Contains(text, "goroutine "):
		return fmt.Errorf("it ended otherwise, with %v: %s", o.Status, text)
	case !killed && strings.Contains(text, ": error: ") == (o.Status.ExitStatus() == 0):
		return fmt.Errorf("exit code %d and %s", o.Status.ExitStatus(), text)
	}
	allowed := []string{"1"}
	if p.args[0] == "apply" {
		allowed = []string{"1", "2"}
		if o.Status.ExitStatus() == 0 {
			allowed = []string{"2"}
		}
	}
	if err := l.recovers(allowed); err != nil {
		return err
	}
	for _, args := range [][]string{{"import", "../usb2"}, {"apply", "lessons"}, {"verify"}} {
		if err := l.verb(args...); err != nil {
			return fmt.Errorf("afterwards: %w", err)
		}
	}
	return l.live([]string{"2"})
}

// recovers runs a verb that changes nothing, which recovers, and looks at what is there. To do it again makes no difference, but that whoever has all
// of release 2 goes on to lay it down, and a verb that only looks may end before that is done.
func (l *lane) recovers(allowed []string) error {
	if err := l.live(allowed); err != nil {
		return fmt.Errorf("before recovery: %w", err)
	}
	var lists []string
	for range 2 {
		if err := l.verb("status"); err != nil {
			return err
		}
		if err := errors.Join(l.live(allowed), l.deployments(), l.leftovers()); err != nil {
			return err
		}
		lists = append(lists, l.list("lap", false)+l.list("lap.image", false))
	}
	gone, come := only(lists[0], lists[1]), only(lists[1], lists[0])
	come = slices.DeleteFunc(come, func(line string) bool { return strings.HasPrefix(line, "deploy/lessons-1-2-") })
	if len(gone)+len(come) > 0 {
		return fmt.Errorf("a second recovery changed %q to %q", gone, come)
	}
	return nil
}

// deployments looks that each is exactly one of the releases.
func (l *lane) deployments() error {
	found, err := filepath.Glob(filepath.Join(l.dir, "lap.image/deploy/*"))
	for _, path := range found {
		name := filepath.Base(path)
		if strings.HasSuffix(name, ".toml") {
			continue
		}
		if tree := l.list("lap.image/deploy/"+name, true); tree != l.trees["1"] && tree != l.trees["2"] {
			err = errors.Join(err, fmt.Errorf("deployment %s is neither release", name))
		}
	}
	return err
}

// only gives the lines of a that b does not have.
func only(a, b string) (lines []string) {
	other := strings.Split(b, "\n")
	for line := range strings.Lines(a) {
		if !slices.Contains(other, strings.TrimSuffix(line, "\n")) {
			lines = append(lines, line)
		}
	}
	return lines
}

// live looks that the boot record can be read, and that the tree in force is exactly that of an allowed version.
func (l *lane) live(allowed []string) error {
	top := filepath.Join(l.dir, "lap.image")
	target, err := os.Readlink(filepath.Join(top, "current"))
	if err != nil {
		return err
	}
	got := l.list("lap.image/"+target, true)
	if !slices.ContainsFunc(allowed, func(version string) bool { return l.trees[version] == got }) {
		return fmt.Errorf("the live tree %s is none of versions %v", target, allowed)
	}
	sound := false
	for _, slot := range []string{"boot.0", "boot.1"} {
		text, _ := os.ReadFile(filepath.Join(top, slot))
		body, sum, _ := strings.Cut(string(text), "sha256 ")
		sound = sound || sum == fmt.Sprintf("%x\n", sha256.Sum256([]byte(body)))
	}
	if !sound {
		return errors.New("there is no boot record")
	}
	return nil
}

// leftovers are files that only a verb that runs may have.
func (l *lane) leftovers() error {
	return filepath.WalkDir(l.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == filepath.Join(l.dir, "import") || path == filepath.Join(l.dir, "apply") {
			return fs.SkipDir
		}
		name := e.Name()
		if strings.HasSuffix(name, ".tmp") || filepath.Base(filepath.Dir(path)) == "partial" && name != "lock" {
			return fmt.Errorf("left is %s", path)
		}
		return nil
	})
}

// list describes all that is in a directory: names, modes and, of files, content, or else size and time.
func (l *lane) list(dir string, content bool) string {
	var out strings.Builder
	top := filepath.Join(l.dir, dir)
	err := filepath.Walk(top, func(path string, fi fs.FileInfo, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top, path)
		if name == "lock" && !content { // it says which process has the home
			return nil
		}
		fmt.Fprint(&out, name, " ", fi.Mode())
		switch {
		case fi.Mode().IsRegular() && content:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, " %x", sha256.Sum256(data))
		case fi.Mode().IsRegular():
			fmt.Fprint(&out, " ", fi.Size(), fi.ModTime())
		}
		out.WriteByte('\n')
		return nil
	})
	if err != nil {
		fmt.Fprint(&out, err)
	}
	return out.String()
}
