package image_test

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"satchel/store/image"
	"satchel/store/image/boot"
)

// firmware is a machine that systemd-boot starts, seen from the outside: a system partition, and an image with kernels in its trees.
type firmware struct {
	t   *testing.T
	dir string // image
	esp string
	ids []string
	rs  []image.Release
}

// bootable is a tree with a kernel.
func bootable(version string) []entry {
	return []entry{
		{path: "boot/", mode: 0o755},
		{path: "boot/initrd.img", mode: 0o644, data: "initrd " + version},
		{path: "boot/vmlinuz", link: "vmlinuz-" + version},
		{path: "boot/vmlinuz-" + version, mode: 0o644, data: "kernel " + version},
	}
}

const loaderToml = `esp = "../esp"
linux = "boot/vmlinuz-*"
initrd = ["/boot/initrd.img"]
options = "root=LABEL=sys ro"
title = "XO OS"
`

// newFirmware has release 0 live, 1 and 2 staged, 3 staged without a kernel.
func newFirmware(t *testing.T) *firmware {
	t.Helper()
	top, b := tempDir(t), newBlobs(t)
	f := &firmware{t: t, dir: filepath.Join(top, "image"), esp: filepath.Join(top, "esp")}
	must(t, os.MkdirAll(filepath.Join(f.esp, "loader"), 0o755))
	im, err := image.OpenHook(f.dir, noSync)
	must(t, err)
	for i := range uint64(4) {
		tree := bootable(fmt.Sprint(i))
		if i == 3 {
			tree = small("no kernel")
		}
		r, m := release(t, b, i, tree)
		f.ids, f.rs = append(f.ids, stage(t, im, r, m, b)), append(f.rs, r)
	}
	must(t, os.WriteFile(filepath.Join(f.dir, "loader.toml"), []byte(loaderToml), 0o644))
	must(t, im.Activate(f.ids[0]))
	must(t, im.Close())
	return f
}

// open opens the image on a machine that runs what the entry says; no entry: another system.
func (f *firmware) open(running string, h func(op, path string) error) *image.Image {
	f.t.Helper()
	im, err := image.OpenRunning(f.dir, h, running)
	must(f.t, err)
	return im
}

// with opens the image, and has ReadLoader see what runs.
func (f *firmware) with(running string, do func(im *image.Image) error) {
	f.t.Helper()
	im := f.open(running, noSync)
	must(f.t, errors.Join(im.LoaderProblem(), im.ReadLoader(), do(im), im.Close()))
}

// entries gives the names of the entries, without ids: satchel-1+3.conf is of release 1.
func (f *firmware) entries() string {
	var names []string
	list, _ := os.ReadDir(filepath.Join(f.esp, "loader", "entries"))
	for _, e := range list {
		name := e.Name()
		for i, id := range f.ids {
			name = strings.Replace(name, id, fmt.Sprint(i), 1)
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

var counter = regexp.MustCompile(`^(.*)\+([0-9]+)(?:-([0-9]+))?\.conf$`)

// start does what systemd-boot does: it takes the first entry, those without tries left last, and counts in its name. It gives
// the deployment.
func (f *firmware) start() string {
	f.t.Helper()
	type choice struct {
		name, key string
		left      int
	}
	var all []choice
	dir := filepath.Join(f.esp, "loader", "entries")
	list, err := os.ReadDir(dir)
	must(f.t, err)
	for _, e := range list {
		if !strings.HasSuffix(e.Name(), ".conf") {
			continue
		}
		c := choice{name: e.Name(), key: f.field(e.Name(), "sort-key"), left: -1}
		if m := counter.FindStringSubmatch(e.Name()); m != nil {
			fmt.Sscan(m[2], &c.left)
		}
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b choice) int {
		bad := func(c choice) int {
			if c.left == 0 {
				return 1
			}
			return 0
		}
		return cmp.Or(bad(a)-bad(b), strings.Compare(a.key, b.key))
	})
	if len(all) == 0 {
		f.t.Fatal("nothing to start")
	}
	first := all[0]
	if m := counter.FindStringSubmatch(first.name); m != nil && first.left > 0 {
		done := 0
		fmt.Sscan(m[3], &done)
		name := fmt.Sprintf("%s+%d-%d.conf", m[1], first.left-1, done+1)
		must(f.t, os.Rename(filepath.Join(dir, first.name), filepath.Join(dir, name)))
		first.name = name
	}
	f.whole(first.name)
	_, id, _ := strings.Cut(f.field(first.name, "options"), "satchel=")
	return id
}

// whole demands that an entry has its kernel and initrd.
func (f *firmware) whole(name string) {
	f.t.Helper()
	_, id, _ := strings.Cut(f.field(name, "options"), "satchel=")
	release := slices.Index(f.ids, id)
	for key, want := range map[string]string{"linux": "kernel", "initrd": "initrd"} {
		got, err := os.ReadFile(filepath.Join(f.esp, f.field(name, key)))
		if want = fmt.Sprint(want, " ", release); err != nil || string(got) != want {
			f.t.Errorf("%s has %s %q (%v), want %q", name, key, got, err, want)
		}
	}
}

func (f *firmware) field(name, key string) string {
	f.t.Helper()
	text, err := os.ReadFile(filepath.Join(f.esp, "loader", "entries", name))
	must(f.t, err)
	for line := range strings.Lines(string(text)) {
		if v, ok := strings.CutPrefix(line, key+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	f.t.Errorf("%s has no %s", name, key)
	return ""
}

func (f *firmware) expect(what, entries string) {
	f.t.Helper()
	if got := f.entries(); got != entries {
		f.t.Errorf("%s: entries are %q, want %q", what, got, entries)
	}
}

func (f *firmware) starts(want int) {
	f.t.Helper()
	if got := f.start(); got != f.ids[want] {
		f.t.Errorf("starts %s, want %s", got, f.ids[want])
	}
}

func nothing(*image.Image) error { return nil }

func TestLoaderEntry(t *testing.T) {
	f := newFirmware(t)
	text, err := os.ReadFile(filepath.Join(f.esp, "loader/entries/satchel-"+f.ids[0]+".conf"))
	must(t, err)
	want := strings.ReplaceAll(`title XO OS v0
version v0
sort-key satchel-1
linux /satchel/ID/linux
initrd /satchel/ID/initrd-1
options root=LABEL=sys ro satchel=ID
`, "ID", f.ids[0])
	if string(text) != want {
		t.Errorf("the entry is\n%swant\n%s", text, want)
	}
}

// TestLoaderTrial goes through a trial that is never confirmed, and one that systemd-bless-boot confirms.
func TestLoaderTrial(t *testing.T) {
	f := newFirmware(t)
	f.expect("at first", "satchel-0.conf")
	f.starts(0)
	f.with(f.ids[0], func(im *image.Image) error { return im.Arm(f.ids[1], 2) })
	f.expect("armed", "satchel-0.conf satchel-1+2.conf")
	f.starts(1)
	f.with(f.ids[1], func(im *image.Image) error {
		if d, ok := im.Booted(); !im.InTrial() || !ok || d.ID != f.ids[1] {
			t.Errorf("in trial: %v, booted %s", im.InTrial(), d.ID)
		}
		return nil
	})
	f.starts(1)
	f.expect("the last try", "satchel-0.conf satchel-1+0-2.conf")
	f.with(f.ids[1], nothing)
	f.expect("the last try runs", "satchel-0.conf satchel-1+0-2.conf")
	f.starts(0)
	f.with(f.ids[0], func(im *image.Image) error {
		if got := im.Failed(); !slices.Equal(got, f.ids[1:2]) {
			t.Errorf("failed are %q", got)
		}
		return nil
	})
	f.expect("failed", "satchel-0.conf")
	if list, _ := os.ReadDir(filepath.Join(f.esp, "satchel")); len(list) != 1 {
		t.Errorf("kernels left: %v", list)
	}

	f.with(f.ids[0], func(im *image.Image) error { return im.Arm(f.ids[2], 3) })
	f.starts(2)
	dir := filepath.Join(f.esp, "loader/entries/satchel-"+f.ids[2])
	must(t, os.Rename(dir+"+2-1.conf", dir+".conf")) // systemd-bless-boot good
	f.with(f.ids[2], func(im *image.Image) error {
		if l, _ := im.Live(); l.ID != f.ids[2] {
			t.Errorf("live is %s", l.ID)
		}
		return nil
	})
	f.expect("blessed", "satchel-0.conf satchel-2.conf")
	f.starts(2)

	f.with(f.ids[2], func(im *image.Image) error { _, err := im.RollbackAtBoot(1); return err })
	f.expect("going back", "satchel-0+1.conf satchel-2.conf")
	f.starts(0)
	f.with(f.ids[0], func(im *image.Image) error { _, err := im.Confirm(); return err })
	f.expect("back", "satchel-0.conf satchel-2.conf")
	f.starts(0)
}

// TestLoaderArmedAnew: what failed, is forgiven and armed again has all its tries.
func TestLoaderArmedAnew(t *testing.T) {
	f := newFirmware(t)
	arm := func(im *image.Image) error { return errors.Join(im.Forgive(f.ids[1]), im.Arm(f.ids[1], 1)) }
	f.with(f.ids[0], arm)
	f.starts(1)
	f.starts(0)
	f.with(f.ids[0], arm)
	f.expect("armed anew", "satchel-0.conf satchel-1+1.conf")
}

func TestLoaderErrors(t *testing.T) {
	f := newFirmware(t)
	im := f.open(f.ids[0], noSync)
	defer func() { im.Close() }()
	if err := im.Arm(f.ids[3], 1); !errors.Is(err, image.ErrNoKernel) {
		t.Errorf("armed without a kernel: %v", err)
	}
	f.expect("refused", "satchel-0.conf")
	for _, c := range []struct{ toml, want string }{
		{"esp = ", "loader.toml"},
		{`linux = "a"`, "esp is missing"},
		{`esp = "../esp"`, "linux is missing"},
		{"esp = \"../esp\"\nlinux = \"a\"\noptions = \"x\\ny\"", "control character"},
		{"esp = \"../nothing\"\nlinux = \"a\"", "no such file"},
		{"esp = \"../esp\"\nlinux = \"boot/*\"", "3 files are"},
		{"esp = \"../esp\"\nlinux = \"boot\"", "boot is not a file"},
		{"esp = \"..\"\nlinux = \"a\"", "mount the boot loader's partition"},
	} {
		must(t, os.WriteFile(filepath.Join(f.dir, "loader.toml"), []byte(c.toml), 0o644))
		if err := im.Arm(f.ids[1], 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.toml, err, c.want)
		}
		if d, ok := im.Trial(); ok {
			t.Errorf("%q: on trial is %s", c.toml, d.ID)
		}
	}
	must(t, im.Close())
	im = f.open("", noSync) // an image is in order also when the loader is not
	if im.LoaderProblem() == nil {
		t.Error("no problem")
	}
}

// TestLoaderForeign: entries and files of others stay.
func TestLoaderForeign(t *testing.T) {
	f := newFirmware(t)
	others := []string{"loader/entries/debian.conf", "loader/entries/satchel-.txt", "loader/loader.conf", "EFI"}
	for _, name := range others[:3] {
		must(t, os.WriteFile(filepath.Join(f.esp, name), []byte("mine"), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(f.esp, others[3]), 0o755))
	f.with(f.ids[0], func(im *image.Image) error { return im.Arm(f.ids[1], 1) })
	for _, name := range others {
		if _, err := os.Lstat(filepath.Join(f.esp, name)); err != nil {
			t.Error(err)
		}
	}
}

// loaderTale is what happens to an image with a boot loader, with boots in between.
func loaderTale(f *firmware) []func(im *image.Image) error {
	return []func(im *image.Image) error{
		func(im *image.Image) error { return im.Arm(f.ids[1], 2) },
		func(im *image.Image) error { return im.Fail("x") },
		func(im *image.Image) error { return im.Arm(f.ids[2], 2) },
		func(im *image.Image) error { im.SetRunning(f.ids[2]); _, err := im.Confirm(); return err },
		func(im *image.Image) error { _, err := im.RollbackAtBoot(2); return err },
		func(im *image.Image) error { im.SetRunning(f.ids[0]); _, err := im.Confirm(); return err },
	}
}

// TestLoaderCrash crashes, or fails one change, before each change of disk and partition. The machine then starts a whole deployment that the record knows, the
// live one or the trial; a trial that nobody confirmed is not live; after opening again entries and record agree, and a second opening changes nothing.
func TestLoaderCrash(t *testing.T) {
	for _, crash := range []bool{true, false} {
		for n := 0; ; n++ {
			f := newFirmware(t)
			count, failed := 0, ""
			im := f.open(f.ids[0], func(op, path string) error {
				if count++; count == n+1 || crash && count > n {
					failed += op + " " + path + " "
					return syscall.ENOSPC
				}
				return noSync(op, path)
			})
			step, err := 0, error(nil)
			for ; step < len(loaderTale(f)) && failed == "" && err == nil; step++ {
				err = loaderTale(f)[step](im)
			}
			must(t, im.Close())
			if failed == "" {
				must(t, err)
				t.Logf("%d places", n)
				break
			}
			f.check(fmt.Sprintf("%s, step %d: %v", failed, step, err))
			if t.Failed() {
				return
			}
		}
	}
}

// check starts the machine and opens the image twice.
func (f *firmware) check(name string) {
	f.t.Helper()
	r := inForce(f.t, f.dir)
	running := f.start()
	if !slices.Contains([]string{r.Live, r.Previous, r.Trial}, running) {
		f.t.Errorf("%s: starts %s with the record\n%s", name, running, r.Encode())
	}
	before := ""
	for range 2 {
		im := f.open(running, nil)
		must(f.t, errors.Join(im.LoaderProblem(), im.ReadLoader(), im.Close()))
		now := snapshot(f.t, filepath.Dir(f.dir))
		if before != "" && now != before {
			f.t.Errorf("%s: the second open changed\n%sto\n%s", name, before, now)
		}
		before = now
	}
	after := inForce(f.t, f.dir)
	if after.Live != r.Live || len(after.Failed) != len(r.Failed) {
		f.t.Errorf("%s: the loader decided\n%sto\n%s", name, r.Encode(), after.Encode())
	}
	want := 0
	for _, id := range []string{after.Live, after.Previous, after.Trial} {
		if id != "" && !(id == after.Trial && id == after.Previous && want > 1) {
			want++
		}
	}
	list, err := os.ReadDir(filepath.Join(f.esp, "loader/entries"))
	must(f.t, err)
	for _, e := range list {
		f.whole(e.Name())
	}
	if len(list) != want {
		f.t.Errorf("%s: entries %s with the record\n%s", name, f.entries(), after.Encode())
	}
}

// inForce is the record that is in force.
func inForce(t *testing.T, dir string) (best boot.Record) {
	t.Helper()
	for slot := range 2 {
		text, _ := os.ReadFile(filepath.Join(dir, boot.SlotName(slot)))
		if r, err := boot.Parse(text); err == nil && r.Generation > best.Generation {
			best = r
		}
	}
	return best
}

func TestEntryNames(t *testing.T) {
	for name, want := range map[string]string{
		"satchel-a.conf":                         "satchel-a.conf",
		"satchel-xo-os-1-2-aaaaaaaa+3.conf":      "satchel-xo-os-1-2-aaaaaaaa+3.conf",
		"satchel-xo-os-1-2-aaaaaaaa+0-3.conf":    "satchel-xo-os-1-2-aaaaaaaa+0-3.conf",
		"satchel-xo-os-1-2-aaaaaaaa+02-010.conf": "satchel-xo-os-1-2-aaaaaaaa+2-10.conf",
		"satchel-a+.conf":                        "", "satchel-a+1-.conf": "", "satchel-a+-1.conf": "", "satchel-a+1-1-1.conf": "", "satchel-a+x.conf": "",
		"satchel-.conf": "", "satchel-A.conf": "", "a.conf": "", "satchel-a": "", "satchel-a+9999999999999999999.conf": "",
	} {
		got, ok := image.ReprintEntry(name)
		if ok != (want != "") || ok && got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, ok, want)
		}
	}
}

// FuzzEntry: what is accepted is printed as a name that says the same.
func FuzzEntry(f *testing.F) {
	f.Add("satchel-xo-os-1-2-aaaaaaaa+2-1.conf")
	f.Add("satchel-before-exam.conf")
	f.Fuzz(func(t *testing.T, name string) {
		got, ok := image.ReprintEntry(name)
		if !ok {
			return
		}
		if again, ok := image.ReprintEntry(got); !ok || again != got || len(got) > len(name) {
			t.Errorf("%q was read as %q, and that as %q", name, got, again)
		}
	})
}

// FuzzLoader: nothing in loader.toml does harm by being read.
func FuzzLoader(f *testing.F) {
	f.Add([]byte(loaderToml))
	f.Fuzz(func(_ *testing.T, text []byte) { image.ParseLoader(text) })
}
