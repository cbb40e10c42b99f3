package image_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"text/tabwriter"

	"satchel/store"
	"satchel/store/image"
)

// A fault takes the place of one change of the disk. It gives the error of the change; from then on nothing else happens when it ends the process.
type fault struct {
	name string
	err  error
	ends bool
	half bool // of what was to be written, something is there

	recovery error // what then happens to a change of the recovery, if anything
}

func faults() []fault {
	return []fault{
		{name: "end of the process", err: errCrash, ends: true},
		{name: "end in a write", err: errCrash, ends: true, half: true},
		{name: "end, and again in recovery", err: errCrash, ends: true, recovery: errCrash},
		{name: "end, and EIO in recovery", err: errCrash, ends: true, recovery: syscall.EIO},
		{name: "EIO", err: syscall.EIO},
		{name: "ENOSPC", err: syscall.ENOSPC},
		{name: "short write", err: syscall.ENOSPC, half: true},
	}
}

// TestFaultAtEveryChange has each change of the disk that the store and an image make, in each step of the workload, not happen, in each of
// the ways above; then two recoveries, as after a power cut, and the step again. SATCHEL_CRASH asks for all of them; without it there is a
// part of them.
func TestFaultAtEveryChange(t *testing.T) {
	p := newPlay(t, 6)
	before, work := inMemory(t), inMemory(t)
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "step\tchanges\tfaults\tbad")
	chance := rand.New(rand.NewPCG(1, 0))
	for i := range p.steps {
		changes := p.count(t, before, work, i)
		tried, bad := 0, 0
		for _, f := range faults() {
			for _, at := range f.places(changes, chance) {
				tried++
				if err := p.fault(t, before, work, i, at, f); err != nil {
					bad++
					t.Errorf("%s: %s at change %d of %d, %s: %v", p.steps[i].name, f.name, at+1, len(changes), changes[at], err)
				}
			}
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\n", p.steps[i].name, len(changes), tried, bad)
		must(t, p.do(t, before, i))
	}
	w.Flush()
	t.Logf("\n%s", table.String())
}

// places gives the changes that the fault is for: all, or one in forty.
func (f fault) places(changes []string, chance *rand.Rand) (all []int) {
	for _, at := range chance.Perm(len(changes)) {
		if !f.half || strings.HasPrefix(changes[at], "writing ") || strings.HasPrefix(changes[at], "copying ") {
			all = append(all, at)
		}
	}
	if os.Getenv("SATCHEL_CRASH") == "" {
		all = all[:(len(all)+39)/40]
	}
	return all
}

// inMemory is a directory on a file system in memory, if there is one.
func inMemory(t *testing.T) string {
	t.Helper()
	where := "/dev/shm"
	if fi, err := os.Stat(where); err != nil || !fi.IsDir() {
		where = ""
	}
	dir, err := os.MkdirTemp(where, "satchel-fault-")
	must(t, err)
	t.Cleanup(func() {
		permit(dir)
		os.RemoveAll(dir)
	})
	return dir
}

// do does a step, in a process that does nothing else.
func (p *play) do(t *testing.T, top string, step int) error {
	t.Helper()
	h, err := p.open(top, nil, nil)
	if err != nil {
		return err
	}
	err = p.steps[step].do(h)
	return errors.Join(err, h.close())
}

// count gives the changes that a step makes without a fault.
func (p *play) count(t *testing.T, before, work string, step int) []string {
	t.Helper()
	copyTree(t, before, work)
	s := &saboteur{top: work, at: -1}
	must(t, p.sabotaged(s, step))
	return s.changes
}

// fault does a step with a fault, and says what was not right.
func (p *play) fault(t *testing.T, before, work string, step, at int, f fault) error {
	t.Helper()
	copyTree(t, before, work)
	s := &saboteur{top: work, at: at, fault: f}
	err := p.sabotaged(s, step)
	done := step - 1
	switch {
	case err == nil && !f.ends:
		done = step // made do without
	case err == nil:
		return errors.New("no error")
	case !errors.Is(err, f.err):
		return fmt.Errorf("another error: %w", err)
	}
	if last := s.changes[at]; !f.ends && !strings.HasPrefix(last, "removing ") {
		if err := tidy(work); err != nil {
			return err
		}
	}
	if f.recovery != nil {
		// One of the first changes, in turn; there may be fewer.
		s := &saboteur{top: work, at: at % 30, counts: true, fault: fault{err: f.recovery, ends: f.recovery == errCrash}}
		if err := p.sabotaged(s, -1); err != nil && !errors.Is(err, f.recovery) {
			return fmt.Errorf("another error in recovery: %w", err)
		}
	}
	if err := p.look(work, done); err != nil {
		return err
	}
	if p.look(work, step) == nil {
		return nil // it was as good as done
	}
	if err := p.do(t, work, step); err != nil {
		return fmt.Errorf("again: %w", err)
	}
	return p.look(work, step)
}

// tidy looks that whoever could not do something has left nothing of it, without any recovery. A deployment that could not be removed is
// another matter: the rest of it is for the recovery.
func tidy(top string) error {
	for _, pattern := range []string{"image/*.tmp", "image/deploy/*.tmp", "store/partial/*.tmp"} {
		left, err := filepath.Glob(filepath.Join(top, pattern))
		left = slices.DeleteFunc(left, func(path string) bool { return strings.HasSuffix(path, ".gone.tmp") })
		if err != nil || len(left) > 0 {
			return errors.Join(err, fmt.Errorf("before recovery there is %q", left))
		}
	}
	return nil
}

// sabotaged recovers, and does a step, if it is not -1, while s is at work.
func (p *play) sabotaged(s *saboteur, step int) error {
	h, err := p.open(s.top, s.hook("store"), s.hook("image"))
	if err != nil || step < 0 {
		return errors.Join(err, h.close())
	}
	s.on()
	err = p.steps[step].do(h)
	return errors.Join(err, h.close()) // with a process that has ended, close changes nothing
}

// saboteur counts changes, and has one of them go wrong.
type saboteur struct {
	top   string
	at    int // counted from 0
	fault fault

	mu      sync.Mutex
	counts  bool     // guarded by mu
	ended   bool     // guarded by mu
	changes []string // guarded by mu
}

func (s *saboteur) on() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts = true
}

func (s *saboteur) hook(dir string) store.Hook {
	return func(op, path string) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.ended {
			return s.fault.err
		}
		if !s.counts {
			return nil
		}
		s.changes = append(s.changes, op+" "+path)
		if len(s.changes)-1 != s.at {
			return nil
		}
		s.ended = s.fault.ends
		if s.fault.half && (op == "writing" || op == "copying") { // publishing goes in another order each time
			if err := os.WriteFile(filepath.Join(s.top, dir, path), []byte("half"), 0o600); err != nil {
				return err
			}
		}
		return s.fault.err
	}
}

// copyTree makes one directory like another, with hard links between files.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	permit(to)
	must(t, os.RemoveAll(to))
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	if err != nil {
		t.Fatalf("copying: %v: %s", err, out)
	}
}

// TestSpareStateStays: a tree that has its name is not given up when what helped to make its state cannot be removed; Open removes that.
func TestSpareStateStays(t *testing.T) {
	dir, b := tempDir(t), newBlobs(t)
	im, err := image.OpenHook(dir, func(op, path string) error {
		if op == "removing directory" && path == "state/.satchel-fill.tmp" {
			return syscall.EIO
		}
		return nil
	})
	must(t, err)
	d := stageParts(t, im, b, withTerms(t, b, 1, withState, []entry{{path: "var/", mode: 0o755}, {path: "var/seed", mode: 0o644, data: "seed"}}))
	must(t, im.Close())
	if _, err := os.Stat(dir + "/state/.satchel-fill.tmp"); err != nil {
		t.Error("nothing had to be removed")
	}
	im = open(t, dir)
	list, err := im.List()
	must(t, err)
	if len(list) != 1 || list[0].ID != d.ID || list[0].Releases[0].Version == "" {
		t.Errorf("deployments are %+v", list)
	}
	if left, _ := filepath.Glob(dir + "/state/*.tmp"); len(left) > 0 {
		t.Errorf("left is %q", left)
	}
}
