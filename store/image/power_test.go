package image_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/tabwriter"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"satchel/store/crash"
)

// TestPowerCuts plays the workload of workload_test.go on real file systems, and cuts the power at many moments: see package crash.
// SATCHEL_CRASH says how many states there are to be, in all file systems together; without it there are a few.
//
// There are four processes, all of this program: the test, one with mounts of its own that serves the disks (conduct), one
// that has the workload, and one that looks at what is left. SATCHEL_POWER says which this is.
func TestPowerCuts(t *testing.T) {
	switch os.Getenv("SATCHEL_POWER") {
	case "":
		apart(t)
	case "conduct":
		conduct(t)
	case "work":
		work(t)
	case "check":
		inspect(t)
	}
}

// apart runs the rest with mounts of its own: they go with the process, and nobody else sees them.
func apart(t *testing.T) {
	for _, f := range crash.FileSystems() {
		if why := f.Missing(); why != "" {
			t.Skipf("SKIPPED: power cuts on %s: %s", f.Name, why)
		}
	}
	cmd := self(t, "conduct", "SATCHEL_POWER_KEEP="+os.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the thread's end is what Pdeathsig is about
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("SKIPPED: power cuts: having mounts of one's own is not permitted")
	}
	t.Logf("%s", out)
	if err != nil {
		t.Error(err)
	}
}

func self(t *testing.T, role string, env ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestPowerCuts$", "-test.v", "-test.timeout=0")
	cmd.Env = append(append(os.Environ(), "SATCHEL_POWER="+role, "TMPDIR="+t.TempDir()), env...)
	return cmd
}

// The workload is recorded anew after so many states, since each time the file systems do things in another order.
const (
	roundStates = 250
	maxRounds   = 100
)

// trial is one line of the table.
type trial struct {
	fs      crash.FileSystem
	mutant  mutant // without a name, our code as it is
	limit   int    // how many states there may be
	first   bool   // the first bad state is enough
	states  int
	writes  int // in all logs
	flushes int
	bad     []string // what was found, one line for each bad state
	took    time.Duration
}

// trials are what is to be tried, the long ones first.
func trials(t *testing.T) (all []*trial) {
	kinds, text := crash.FileSystems(), os.Getenv("SATCHEL_CRASH")
	whole, part := 48, 1000
	if text != "" {
		n, err := strconv.Atoi(text)
		must(t, err)
		whole, part = (n+len(kinds)-1)/len(kinds), n/50
	}
	for _, f := range kinds {
		all = append(all, &trial{fs: f, limit: whole})
	}
	for _, f := range kinds {
		for _, m := range mutants() {
			if text != "" || f.Name == m.shows {
				all = append(all, &trial{fs: f, mutant: m, limit: part, first: text == ""})
			}
		}
	}
	return all
}

func conduct(t *testing.T) {
	// Disks are kept in memory, and are gone with the mounts of this process.
	memory := t.TempDir()
	must(t, unix.Mount("tmpfs", memory, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(memory, unix.MNT_DETACH)) })
	all := trials(t)
	lanes := new(errgroup.Group)
	lanes.SetLimit(runtime.NumCPU())
	for _, trial := range all {
		lanes.Go(func() error { return trial.run(t, memory) })
	}
	must(t, lanes.Wait())
	t.Logf("\n%s", table(all))
	caught := make(map[string]bool)
	for _, trial := range all {
		caught[trial.mutant.name] = caught[trial.mutant.name] || len(trial.bad) > 0
		if trial.mutant.name == "" {
			for _, bad := range trial.bad {
				t.Errorf("%s: %s", trial.fs.Name, bad)
			}
		}
	}
	for _, m := range mutants() {
		if !caught[m.name] {
			t.Errorf("our code with %s was not caught", m.name)
		}
	}
}

func table(all []*trial) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "file system\tcode\twrites\tflushes\tstates\tbad\tseconds\tthe first bad one")
	for _, r := range all {
		name, first := r.mutant.name, ""
		if name == "" {
			name = "as it is"
		}
		if len(r.bad) > 0 {
			first = r.bad[0]
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%.0f\t%s\n", r.fs.Name, name, r.writes, r.flushes, r.states, len(r.bad), r.took.Seconds(), first)
	}
	w.Flush()
	return out.String()
}

func (r *trial) run(t *testing.T, memory string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s, %s: %w", r.fs.Name, r.mutant.name, err)
		}
	}()
	began := time.Now()
	defer func() { r.took = time.Since(began) }()
	check, err := startInspector(t)
	if err != nil {
		return err
	}
	for round := uint64(0); !r.enough() && round < maxRounds && err == nil; round++ {
		err = r.round(t, memory, check, round)
	}
	return errors.Join(err, check.stop())
}

func (r *trial) enough() bool { return r.states >= r.limit || r.first && len(r.bad) > 0 }

// round records the workload once, and looks at some of the states in that log.
func (r *trial) round(t *testing.T, memory string, check *inspector, round uint64) error {
	dir, err := os.MkdirTemp(memory, "disk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	apart := ""
	if r.mutant.apart || r.mutant.name == "" && round%4 == 3 {
		apart = t.TempDir()
	}
	log, err := crash.Record(r.fs, dir, func(mounted string, mark func(int)) error { return r.work(t, mounted, apart, round, mark) })
	if err != nil {
		return err
	}
	writes, flushes := log.Counts()
	r.writes, r.flushes = r.writes+writes, r.flushes+flushes
	m, err := crash.NewMachine(log, dir)
	if err != nil {
		return err
	}
	for _, s := range log.States(min(r.limit-r.states, roundStates, (r.limit+1)/2), round) {
		if err = r.try(t, m, check, apart, s); err != nil || r.enough() {
			break
		}
	}
	return errors.Join(err, m.Close())
}

// try looks at one state. A state that our code does not survive is kept, with the kernel's log.
func (r *trial) try(t *testing.T, m *crash.Machine, check *inspector, apart string, s crash.State) error {
	r.states++
	dir, err := m.Start(s)
	if err != nil {
		r.bad = append(r.bad, fmt.Sprintf("%v: %v", s, err))
	} else {
		problem, err := check.look(dir, apart, s.Marked)
		if err != nil {
			return err
		}
		if err := m.Stop(); err != nil {
			return err
		}
		if problem == "" {
			return nil
		}
		r.bad = append(r.bad, problem+"; "+s.String())
	}
	if r.mutant.name != "" || len(r.bad) > 3 {
		return nil
	}
	keep, err := os.MkdirTemp(os.Getenv("SATCHEL_POWER_KEEP"), "satchel-crash-")
	if err != nil {
		return err
	}
	t.Logf("%s: %s; disk and kernel log are in %s", r.fs.Name, r.bad[len(r.bad)-1], keep)
	return m.Keep(s, keep)
}

// work starts the process with the workload, and puts its marks into the log.
func (r *trial) work(t *testing.T, mounted, apart string, round uint64, mark func(int)) error {
	cmd := self(t, "work", "SATCHEL_POWER_DIR="+mounted, "SATCHEL_POWER_APART="+apart, "SATCHEL_POWER_MUTANT="+r.mutant.name, fmt.Sprint("SATCHEL_POWER_ROUND=", round))
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	c, err := talk(cmd)
	if err != nil {
		return err
	}
	defer c.close()
	for c.lines.Scan() {
		n, err := strconv.Atoi(c.lines.Text())
		if err != nil {
			return err
		}
		mark(n)
		if _, err := fmt.Fprintln(c.in, "go on"); err != nil {
			return err
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("the workload: %w: %s", err, out.String())
	}
	return nil
}

// conversation is a process that is told lines on its standard input and answers on descriptor 3.
type conversation struct {
	in    io.WriteCloser
	out   *os.File
	lines *bufio.Scanner
}

func talk(cmd *exec.Cmd) (*conversation, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	cmd.ExtraFiles = []*os.File{theirs}
	return &conversation{in, out, bufio.NewScanner(out)}, cmd.Start()
}

func (c *conversation) close() {
	c.in.Close()
	c.out.Close()
}

// inspector is the process that looks at what is left.
type inspector struct {
	*conversation
	cmd *exec.Cmd
	out strings.Builder
}

func startInspector(t *testing.T) (*inspector, error) {
	i := &inspector{cmd: self(t, "check")}
	i.cmd.Stdout, i.cmd.Stderr = &i.out, &i.out
	var err error
	i.conversation, err = talk(i.cmd)
	return i, err
}

// look gives what is wrong, or nothing.
func (i *inspector) look(dir, apart string, marked int) (problem string, err error) {
	if _, err := fmt.Fprintf(i.in, "%d\t%s\t%s\n", marked, dir, apart); err != nil {
		return "", fmt.Errorf("asking the inspector: %w", err)
	}
	if !i.lines.Scan() {
		i.cmd.Wait()
		return "", fmt.Errorf("the inspector is gone: %v: %s", i.lines.Err(), i.out.String())
	}
	return problem, json.Unmarshal(i.lines.Bytes(), &problem)
}

func (i *inspector) stop() error {
	i.close()
	return i.cmd.Wait()
}

// inspect is the process that looks at what is left.
func inspect(t *testing.T) {
	p := newPlay(t, 36)
	out := json.NewEncoder(os.NewFile(3, "answers"))
	questions := bufio.NewScanner(os.Stdin)
	for questions.Scan() {
		question := strings.Split(questions.Text(), "\t")
		n, err := strconv.Atoi(question[0])
		must(t, err)
		problem := ""
		p.apart = question[2]
		if err := p.look(question[1], n); err != nil {
			problem = strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		must(t, out.Encode(problem))
	}
}

// work is the process with the workload.
func work(t *testing.T) {
	out, answers := os.NewFile(3, "marks"), bufio.NewScanner(os.Stdin)
	mark := func(n int) {
		fmt.Fprintln(out, n)
		if !answers.Scan() {
			t.Fatal("nobody listens")
		}
	}
	var skip *mutant
	for _, m := range mutants() {
		if m.name == os.Getenv("SATCHEL_POWER_MUTANT") {
			skip = &m
		}
	}
	round, err := strconv.ParseUint(os.Getenv("SATCHEL_POWER_ROUND"), 10, 64)
	must(t, err)
	p := newPlay(t, 36)
	p.apart = os.Getenv("SATCHEL_POWER_APART")
	must(t, p.run(os.Getenv("SATCHEL_POWER_DIR"), skip, round, mark))
}
