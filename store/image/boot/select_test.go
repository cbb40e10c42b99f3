package boot_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"satchel/store/image/boot"
)

// imageDir lays out an image: trees, and a record in a slot.
func imageDir(t testing.TB, dir string, slot int, r boot.Record, trees ...string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(dir, "deploy"), 0o755))
	for _, id := range trees {
		must(t, os.Mkdir(filepath.Join(dir, "deploy", id), 0o755))
	}
	if r.Generation > 0 {
		must(t, os.WriteFile(filepath.Join(dir, boot.SlotName(slot)), r.Encode(), 0o644))
	}
}

// inForce is the record of an image directory that is in force.
func inForce(t testing.TB, dir string) (best boot.Record) {
	t.Helper()
	for slot := range 2 {
		text, _ := os.ReadFile(filepath.Join(dir, boot.SlotName(slot)))
		if r, err := boot.Parse(text); err == nil && r.Generation > best.Generation {
			best = r
		}
	}
	return best
}

func armed() boot.Record {
	return boot.Record{Generation: 5, Live: live, Previous: previous, Trial: trial, Tries: 2}
}

func TestSelect(t *testing.T) {
	dir := t.TempDir()
	imageDir(t, dir, 1, armed(), live, previous, trial)
	for i, want := range []boot.Choice{
		{ID: trial, Trial: true, TriesLeft: 1},
		{ID: trial, Trial: true, TriesLeft: 0},
		{ID: live, Failed: trial},
		{ID: live},
	} {
		want.Tree = dir + "/deploy/" + want.ID
		before := inForce(t, dir)
		if got, err := boot.Look(dir); err != nil || got != want || !inForce(t, dir).Same(before) {
			t.Errorf("look %d: %+v, %v, want %+v", i, got, err, want)
		}
		if got, err := boot.Select(dir); err != nil || got != want {
			t.Errorf("boot %d: %+v, %v, want %+v", i, got, err, want)
		}
	}
	r := inForce(t, dir)
	if want := []boot.Failure{{ID: trial, Why: "it was never confirmed"}}; !slices.Equal(r.Failed, want) || r.Generation != 9 || r.BootID != boot.ID() {
		t.Errorf("record is %+v", r)
	}
}

// TestSelectAlways: there is a tree to start with whatever is broken, as long as there is one at all.
func TestSelectAlways(t *testing.T) {
	for _, c := range []struct {
		name   string
		break_ func(dir string) error
		want   string // what is said, empty: nothing
		warn   bool
	}{
		{"trial gone", func(dir string) error { return os.Remove(dir + "/deploy/" + trial) }, live, false},
		{"trial and live gone", func(dir string) error {
			return errors.Join(os.Remove(dir+"/deploy/"+trial), os.Remove(dir+"/deploy/"+live))
		}, previous, false},
		{"trial is a link", func(dir string) error {
			return errors.Join(os.Remove(dir+"/deploy/"+trial), os.Symlink(live, dir+"/deploy/"+trial))
		}, live, false},
		{"no record", func(dir string) error { return os.Remove(dir + "/boot.0") }, previous, true},
		{"torn record", func(dir string) error { return os.Truncate(dir+"/boot.0", 100) }, previous, true},
		{"record is a link", func(dir string) error {
			return errors.Join(os.Rename(dir+"/boot.0", dir+"/x"), os.Symlink("x", dir+"/boot.0"))
		}, previous, true},
		{"record is a pipe", func(dir string) error {
			return errors.Join(os.Remove(dir+"/boot.0"), syscall.Mkfifo(dir+"/boot.0", 0o644))
		}, previous, true},
		{"slot cannot be written", func(dir string) error { return os.Mkdir(dir+"/boot.1", 0o755) }, live, true},
		{"temporary cannot be removed", func(dir string) error { return os.Mkdir(dir+"/boot.1.tmp", 0o755) }, live, true},
		{"no deploy", func(dir string) error { return os.RemoveAll(dir + "/deploy") }, "", false},
		{"no image", os.RemoveAll, "", false},
		{"no record and no link", func(dir string) error { return errors.Join(os.Remove(dir+"/boot.0"), os.Remove(dir+"/current")) }, "", false},
	} {
		dir := t.TempDir()
		imageDir(t, dir, 0, armed(), live, previous, trial)
		must(t, os.Symlink("deploy/"+previous, dir+"/current")) // behind, so that it shows when it is used
		must(t, c.break_(dir))
		got, err := boot.Select(dir)
		if got.ID != c.want || (err == nil) != (c.want != "") || (got.Problem != nil) != c.warn || got.Trial {
			t.Errorf("%s: %+v, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestSelectReadOnly(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: only root can mount")
	}
	dir := t.TempDir()
	imageDir(t, dir, 0, armed(), live, previous, trial)
	must(t, syscall.Mount(dir, dir, "", syscall.MS_BIND, ""))
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	must(t, syscall.Mount("", dir, "", syscall.MS_BIND|syscall.MS_REMOUNT|syscall.MS_RDONLY, ""))
	got, err := boot.Select(dir)
	if err != nil || got.ID != live || !errors.Is(got.Problem, syscall.EROFS) || got.Trial {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestSelectLocked(t *testing.T) {
	dir := t.TempDir()
	imageDir(t, dir, 0, armed(), live, trial)
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
	got, err := boot.Select(dir)
	if err != nil || got.ID != live || !errors.Is(got.Problem, boot.ErrLocked) || !inForce(t, dir).Same(armed()) {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestSelectFails has one change after the other fail, alone and with all that follow: then it is never the trial, and the record
// does not say that the trial runs; unless the record itself could not be put right, after all failed that came behind the rename.
func TestSelectFails(t *testing.T) {
	for _, errno := range []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS} {
		for _, all := range []bool{false, true} {
			for n := 0; ; n++ {
				dir := t.TempDir()
				imageDir(t, dir, 0, armed(), live, previous, trial)
				count, failed := 0, ""
				c, err := boot.SelectHook(dir, func(op, name string) error {
					if count++; count == n+1 || all && count > n {
						failed += op + " " + name + ", "
						return errno
					}
					return nil
				}, bootA)
				must(t, err)
				if failed == "" {
					if n < 6 || !c.Trial {
						t.Errorf("%d changes, %+v", n, c)
					}
					break
				}
				renamed := all && strings.HasPrefix(failed, "syncing directory")
				if c.ID != live || c.Trial || !errors.Is(c.Problem, errno) || inForce(t, dir).InTrial(bootA) && !renamed {
					t.Errorf("%v in %s: %+v, record %+v", errno, failed, c, inForce(t, dir))
				}
				for i := 0; ; i++ { // the trial is entered no more than twice afterwards, and the machine starts
					c, err := boot.Select(dir)
					must(t, err)
					if !c.Trial {
						break
					}
					if i == 2 {
						t.Fatalf("%v in %s: entered three times", errno, failed)
					}
				}
			}
		}
	}
}

func TestSelectOrder(t *testing.T) {
	dir := t.TempDir()
	imageDir(t, dir, 0, armed(), live, trial)
	var ops []string
	_, err := boot.SelectHook(dir, func(op, name string) error { ops = append(ops, op+" "+name); return nil }, bootA)
	must(t, err)
	want := []string{"removing boot.1.tmp", "creating boot.1.tmp", "writing boot.1.tmp", "setting mode of boot.1.tmp", "syncing boot.1.tmp",
		"renaming boot.1.tmp", "syncing directory ."}
	if !slices.Equal(ops, want) {
		t.Errorf("order is\n%s", strings.Join(ops, "\n"))
	}
}

// flash is a disk in memory that can lose power: what was not synced may be lost, each thing for itself.
type flash struct {
	names, durable map[string]*flashFile
	cut            int                    // changes until the power goes; the disk does nothing more from then on
	lose           func(what string) bool // asked at a power cut
	mutant         string                 // a kind of sync that is left out, though the test must notice that
}

type flashFile struct {
	text   []byte
	synced bool
}

var errPower = errors.New("power cut")

func newFlash(r boot.Record) *flash {
	d := &flash{names: map[string]*flashFile{"boot.0": {r.Encode(), true}}}
	d.durable = maps.Clone(d.names)
	return d
}

func (d *flash) change(f func()) error {
	if d.cut == 0 {
		return errPower
	}
	d.cut--
	f()
	return nil
}

func (d *flash) ReadFile(name string, _ int64) ([]byte, error) {
	if f := d.names[name]; f != nil {
		return f.text, nil
	}
	return nil, fs.ErrNotExist
}

func (d *flash) WriteFile(name string, text []byte) error {
	f := &flashFile{}
	return errors.Join(d.change(func() { d.names[name] = f }), d.change(func() { f.text = text }),
		d.change(func() { f.synced = d.mutant != "file" }))
}

func (d *flash) Rename(from, to string) error {
	return d.change(func() { d.names[to] = d.names[from]; delete(d.names, from) })
}

func (d *flash) Remove(name string) error { return d.change(func() { delete(d.names, name) }) }

func (d *flash) Sync() error {
	return d.change(func() {
		if d.mutant != "directory" {
			d.durable = maps.Clone(d.names)
		}
	})
}

func (d *flash) Has(string) bool { return true }

// restart is what is left after the power was cut. Names are lost all or none, in the order of a journal.
func (d *flash) restart() {
	if d.lose("names") {
		d.names = maps.Clone(d.durable)
	}
	for name, f := range d.names {
		if !f.synced && d.lose("content of "+name) {
			f.text = f.text[:len(f.text)/2]
		}
		f.synced = true
	}
	d.durable = maps.Clone(d.names)
}

// boots starts a machine again and again, with a power cut at any change, and counts how often the trial was entered. It says what is wrong.
func boots(t *rapid.T, mutant string) string {
	d := newFlash(armed())
	d.mutant = mutant
	d.lose = func(what string) bool { return rapid.Bool().Draw(t, what+" is lost") }
	entered, failed := 0, false
	for i := range 8 {
		d.cut = rapid.IntRange(0, 12).Draw(t, "cut")
		c := boot.Choose(d, fmt.Sprintf("%036d", i))
		if c.ID == "" || c.Problem != nil && c.Problem.Error() == "no sound boot record" {
			return "nothing to start"
		}
		failed = failed || c.Failed != ""
		if c.Trial {
			if entered++; entered > 2 || failed {
				return "the trial was entered once more"
			}
		}
		if r, _ := boot.Read(d); c.Problem == nil && r.InTrial(fmt.Sprintf("%036d", i)) != c.Trial {
			return "what runs is not what the record says"
		}
		d.restart()
	}
	return ""
}

func TestSelectPowerCuts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		if wrong := boots(t, ""); wrong != "" {
			t.Fatal(wrong)
		}
	})
	for _, mutant := range []string{"file", "directory"} {
		caught := false
		rapid.Check(t, func(t *rapid.T) { caught = caught || boots(t, mutant) != "" })
		if !caught {
			t.Errorf("nothing was wrong without syncing the %s", mutant)
		}
	}
}

// shellSelect is the script of FORMAT.md.
func shellSelect(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("FORMAT.md")
	must(t, err)
	_, rest, _ := strings.Cut(string(text), "```sh\n")
	script, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("no script")
	}
	return script
}

// TestShell runs the script of FORMAT.md beside Select, in every shell that is here: they say the same and leave the same record.
func TestShell(t *testing.T) {
	top := t.TempDir()
	script := filepath.Join(top, "script")
	must(t, os.WriteFile(script, []byte(shellSelect(t)), 0o755))
	shells := 0
	for _, shell := range [][]string{{"sh"}, {"busybox", "sh"}} {
		if _, err := exec.LookPath(shell[0]); err != nil {
			t.Logf("no %s here", shell[0])
			continue
		}
		shells++
		n := 0
		rapid.Check(t, func(rt *rapid.T) {
			if n++; n > 40 { // each starts a dozen processes
				return
			}
			r := drawRecord(rt)
			r.Generation = min(r.Generation, 1<<63-2)
			var trees []string
			for _, id := range []string{r.Live, r.Previous, r.Trial} {
				if id != "" && !slices.Contains(trees, id) && rapid.IntRange(0, 4).Draw(rt, "there") > 0 {
					trees = append(trees, id)
				}
			}
			slot := rapid.IntRange(0, 1).Draw(rt, "slot")
			one, two := fmt.Sprintf("%s/%s%d", top, shell[0], n), fmt.Sprintf("%s/go%s%d", top, shell[0], n)
			for _, dir := range []string{one, two} {
				imageDir(t, dir, slot, r, trees...)
			}
			out, err := exec.Command(shell[0], append(shell[1:], script, one)...).CombinedOutput()
			c, wantErr := boot.Select(two)
			if want := strings.Replace(c.Tree, two, one, 1); (err == nil) != (wantErr == nil) || strings.TrimSpace(string(out)) != want {
				rt.Fatalf("%q says %q, %v; want %q, %v", shell, out, err, want, wantErr)
			}
			for slot := range 2 {
				a, _ := os.ReadFile(filepath.Join(one, boot.SlotName(slot)))
				b, _ := os.ReadFile(filepath.Join(two, boot.SlotName(slot)))
				if !bytes.Equal(a, b) {
					rt.Fatalf("%q left\n%s\nwant\n%s", shell, a, b)
				}
			}
		})
	}
	if shells == 0 {
		t.Fatal("no shell")
	}
}
