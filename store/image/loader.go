package image

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"satchel/store/image/boot"
)

// ErrNoKernel is in the errors of methods that would have the machine start with a tree in which there is nothing to start, when the
// image has a boot loader.
var ErrNoKernel = errors.New("no kernel in the tree")

// Names on the system partition and in the image.
const (
	loaderName  = "loader.toml" // in the image: that there is a boot loader, and where
	loaderDir   = "loader"      // on the partition, with the directory "entries"
	entriesName = "entries"
	kernelsName = "satchel" // on the partition: a directory of kernels for each deployment
	entryPrefix = "satchel-"
	entrySuffix = ".conf"
	linuxName   = "linux"
	maxLoader   = 4096 // bytes of loader.toml, and of an entry
)

// loaderConf is loader.toml; FORMAT.md describes it.
type loaderConf struct {
	ESP     string   `toml:"esp"`
	Linux   string   `toml:"linux"`
	Initrd  []string `toml:"initrd"`
	Options string   `toml:"options"`
	Title   string   `toml:"title"`
}

// loader is the system partition of a machine that systemd-boot starts, or another loader of the Boot Loader Specification with boot
// counting. It gets an entry for each of the trial, the live and the previous deployment, with a counter for the trial. A nil loader does nothing.
//
// Kernels come before the record, entries behind it, and an entry that could pass for a confirmation, or is of a trial that is over, goes before it. So at any moment each entry has
// its kernel, and no trial is started that the record does not know.
type loader struct {
	im   *Image
	conf loaderConf
	esp  *dir
}

// loader opens the system partition. It is nil when the image has none. The caller closes it.
func (im *Image) loader() (*loader, error) {
	text, err := im.root.readFile(loaderName, maxLoader)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	l := &loader{im: im}
	if err == nil {
		l.conf, err = parseLoader(text)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", loaderName, err)
	}
	name := l.conf.ESP
	if !filepath.IsAbs(name) {
		name = filepath.Join(im.dir, name)
	}
	if l.esp, err = openTop(name, im.root.hook); err != nil {
		return nil, fmt.Errorf("opening the boot loader's partition: %w", err)
	}
	l.esp.path = "esp"
	if kind, err := l.esp.kind(loaderDir); err != nil || kind != unix.S_IFDIR {
		l.close()
		return nil, errors.Join(fmt.Errorf("there is no directory %q in %s: mount the boot loader's partition there", loaderDir, name), err)
	}
	return l, nil
}

func parseLoader(text []byte) (c loaderConf, err error) {
	if err := toml.Unmarshal(text, &c); err != nil {
		return c, err
	}
	switch {
	case c.ESP == "":
		return c, errors.New("esp is missing: the directory where the boot loader's partition is mounted")
	case c.Linux == "":
		return c, errors.New("linux is missing: the path of the kernel in the tree")
	}
	for _, s := range append([]string{c.Linux, c.Options, c.Title}, c.Initrd...) {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return c, fmt.Errorf("%q has a control character", s)
		}
	}
	return c, nil
}

func (l *loader) close() {
	if l != nil {
		l.esp.close()
	}
}

// before does what must come before a record: kernels of all that it names are on the partition; what will be on trial has no entry
// yet, neither one that says it is confirmed, nor an old count; and what is on trial no more, without being live, has none either.
func (l *loader) before(old, next boot.Record) error {
	if l == nil {
		return nil
	}
	kernels, err := l.sub(l.esp, kernelsName)
	if err != nil {
		return err
	}
	defer kernels.close()
	for _, id := range []string{next.Trial, next.Live, next.Previous} {
		if id == "" {
			continue
		}
		err := l.copyKernel(kernels, id)
		if errors.Is(err, ErrNoKernel) && (id == old.Live || id == old.Previous) {
			continue // from before there was a loader
		}
		if err != nil {
			return fmt.Errorf("copying the kernel of %s: %w", id, err)
		}
	}
	if next.Trial == old.Trial {
		return nil
	}
	entries, err := l.entriesDir()
	if err != nil {
		return err
	}
	defer entries.close()
	return tidy(entries, func(name string) bool {
		e, ok := parseEntry(name)
		return ok && (e.id == next.Trial || e.id == old.Trial && e.id != next.Live)
	})
}

func (l *loader) entriesDir() (*dir, error) {
	top, err := l.esp.sub(loaderDir)
	if err != nil {
		return nil, err
	}
	defer top.close()
	return l.sub(top, entriesName)
}

// sub opens a directory, and makes it when there is none.
func (l *loader) sub(d *dir, name string) (*dir, error) {
	sub, err := d.sub(name)
	if errors.Is(err, fs.ErrNotExist) {
		if sub, err = d.mkdir(name); err == nil {
			err = d.sync()
		}
	}
	return sub, err
}

// copyKernel makes satchel/<id> on the partition, with kernel and initrds, in one step at the end.
func (l *loader) copyKernel(kernels *dir, id string) error {
	if kind, err := kernels.kind(id); err != nil || kind == unix.S_IFDIR {
		return err
	}
	if kind, err := l.im.deploy.kind(id); err != nil || kind != unix.S_IFDIR {
		return errors.Join(fmt.Errorf("%s: %w", id, ErrNotFound), err)
	}
	tree, err := os.OpenRoot(l.im.Tree(id))
	if err != nil {
		return err
	}
	defer tree.Close()
	tmp := id + tmpSuffix
	if err := kernels.removeAll(tmp); err != nil {
		return err
	}
	err = l.copyFiles(kernels, tmp, tree)
	if err == nil {
		err = kernels.rename(tmp, kernels, id)
	}
	if err != nil {
		return errors.Join(err, kernels.removeAll(tmp))
	}
	return kernels.sync()
}

func (l *loader) copyFiles(kernels *dir, name string, tree *os.Root) error {
	d, err := kernels.mkdir(name)
	if err != nil {
		return err
	}
	defer d.close()
	for i, pattern := range append([]string{l.conf.Linux}, l.conf.Initrd...) {
		if err := d.copyMatch(loadName(i), tree, pattern); err != nil {
			return err
		}
	}
	return d.sync()
}

// loadName is what the kernel, 0, or an initrd is called on the partition.
func loadName(i int) string {
	if i == 0 {
		return linuxName
	}
	return fmt.Sprintf("initrd-%d", i)
}

// copyMatch copies the one file of the tree that a pattern matches; links are followed within the tree.
func (d *dir) copyMatch(name string, tree *os.Root, pattern string) error {
	pattern = strings.TrimPrefix(path.Clean("/"+pattern), "/")
	found, err := fs.Glob(tree.FS(), pattern)
	if err != nil || len(found) != 1 {
		return errors.Join(fmt.Errorf("%w: %d files are %s", ErrNoKernel, len(found), pattern), err)
	}
	src, err := tree.OpenFile(found[0], os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	if fi, err := src.Stat(); err != nil || !fi.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%w: %s is not a file", ErrNoKernel, found[0]), err)
	}
	return d.writeFrom(name, src)
}

// writeFrom makes a new file, durable but for its name, with the mode that the file system gives: FAT has none.
func (d *dir) writeFrom(name string, r io.Reader) error {
	f, err := d.create(name)
	if err != nil {
		return err
	}
	err = d.change("writing", name, func() error { _, err := io.Copy(f, r); return err })
	if err == nil {
		err = d.change("syncing", name, f.Sync)
	}
	return errors.Join(err, f.Close())
}

// entry is the name of an entry: satchel-<id>.conf, or with boot counting satchel-<id>+<left>[-<done>].conf.
type entry struct {
	id         string
	counted    bool
	left, done uint64
	hasDone    bool
}

func (e entry) name() string {
	s := entryPrefix + e.id
	if e.counted {
		s += fmt.Sprint("+", e.left)
		if e.hasDone {
			s += fmt.Sprint("-", e.done)
		}
	}
	return s + entrySuffix
}

// parseEntry reads what name prints, and counters with leading zeros, which are allowed.
func parseEntry(name string) (e entry, ok bool) {
	s, ok1 := strings.CutPrefix(name, entryPrefix)
	s, ok2 := strings.CutSuffix(s, entrySuffix)
	if !ok1 || !ok2 {
		return e, false
	}
	id, count, counted := strings.Cut(s, "+")
	e = entry{id: id, counted: counted}
	if !boot.ValidID(id) || !counted {
		return e, boot.ValidID(id)
	}
	left, done, hasDone := strings.Cut(count, "-")
	e.hasDone = hasDone
	if e.left, ok = parseCount(left); ok && hasDone {
		e.done, ok = parseCount(done)
	}
	return e, ok
}

func parseCount(s string) (uint64, bool) {
	if len(s) < 1 || len(s) > 18 {
		return 0, false
	}
	return boot.ParseNumber(cmp.Or(strings.TrimLeft(s, "0"), "0"))
}

// list gives the entries that are ours.
func (l *loader) list(entries *dir) (list []entry, names []string, err error) {
	all, err := entries.names(-1)
	for _, name := range all {
		if e, ok := parseEntry(name); ok {
			list, names = append(list, e), append(names, name)
		}
	}
	return list, names, err
}

// after makes the entries those of a record, then removes entries and kernels that nothing in it needs.
func (l *loader) after(r boot.Record) error {
	if l == nil {
		return nil
	}
	entries, err := l.entriesDir()
	if err != nil {
		return err
	}
	defer entries.close()
	kernels, err := l.sub(l.esp, kernelsName)
	if err != nil {
		return err
	}
	defer kernels.close()
	list, names, err := l.list(entries)
	if err != nil {
		return err
	}
	var want, ids []string
	for i, id := range []string{r.Trial, r.Live, r.Previous} {
		if id == "" || slices.Contains(ids, id) {
			continue
		}
		if kind, err := kernels.kind(id); err != nil || kind != unix.S_IFDIR {
			continue // it has none, see before
		}
		name := entry{id: id}.name()
		if i == 0 {
			name = trialName(r, list, names)
		}
		if err := entries.put(name, l.entryText(id, i)); err != nil {
			return err
		}
		want, ids = append(want, name), append(ids, id)
	}
	err = tidy(entries, func(name string) bool {
		_, ours := parseEntry(strings.TrimSuffix(name, tmpSuffix))
		return ours && !slices.Contains(want, name)
	})
	if err != nil {
		return err // before their kernels go
	}
	// What cannot be removed now is removed the next time; the change itself has been made.
	tidy(kernels, func(name string) bool {
		return boot.ValidID(strings.TrimSuffix(name, tmpSuffix)) && !slices.Contains(ids, name)
	})
	return nil
}

// trialName is the name of the trial's entry: the one that is there, which has the loader's count, or else a new one.
func trialName(r boot.Record, list []entry, names []string) string {
	for i, e := range list {
		if e.id == r.Trial && e.counted {
			return names[i]
		}
	}
	return entry{id: r.Trial, counted: true, left: uint64(r.Tries)}.name()
}

// put writes a small file by rename, unless it is there as it should be.
func (d *dir) put(name, text string) error {
	if now, err := d.readFile(name, maxLoader); err == nil && string(now) == text {
		return nil
	}
	tmp := name + tmpSuffix
	if err := d.removeAll(tmp); err != nil {
		return err
	}
	err := d.writeFrom(tmp, strings.NewReader(text))
	if err == nil {
		err = d.rename(tmp, d, name)
	}
	if err != nil {
		return errors.Join(err, d.unlink(tmp))
	}
	return d.sync()
}

// tidy removes what is not wanted.
func tidy(d *dir, unwanted func(name string) bool) error {
	names, err := d.names(-1)
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(name string) bool { return !unwanted(name) })
	for _, name := range names {
		if err := d.discard(name); err != nil {
			return err
		}
	}
	if len(names) == 0 {
		return nil
	}
	return d.sync()
}

// discard removes a directory so that it is never seen in part, or anything else.
func (d *dir) discard(name string) error {
	kind, err := d.kind(name)
	if tmp := name + tmpSuffix; err == nil && kind == unix.S_IFDIR && !strings.HasSuffix(name, tmpSuffix) {
		if err = d.removeAll(tmp); err == nil {
			err = d.rename(name, d, tmp)
		}
		name = tmp
	}
	if err != nil {
		return err
	}
	return d.removeAll(name)
}

// entryText is an entry. The trial is sorted before the live deployment, and that before the previous one; what has no tries left comes last by
// itself.
func (l *loader) entryText(id string, rank int) string {
	d, _ := l.im.load(id)
	var versions []string
	for _, r := range d.Releases {
		versions = append(versions, cmp.Or(r.Version, fmt.Sprintf("%d-%d", r.Epoch, r.Seq)))
	}
	version := cmp.Or(strings.Join(versions, ", "), id)
	var s strings.Builder
	fmt.Fprintf(&s, "title %s %s\nversion %s\nsort-key satchel-%d\n", cmp.Or(l.conf.Title, "satchel"), version, version, rank)
	fmt.Fprintf(&s, "linux /%s/%s/%s\n", kernelsName, id, loadName(0))
	for i := range l.conf.Initrd {
		fmt.Fprintf(&s, "initrd /%s/%s/%s\n", kernelsName, id, loadName(i+1))
	}
	fmt.Fprintf(&s, "options %s\n", strings.TrimSpace(l.conf.Options+" satchel="+id))
	return s.String()
}

// ReadLoader takes over what the boot loader and systemd-bless-boot have decided: a trial whose entry lost its counter is confirmed, and one
// without tries left that this machine does not run has failed. Then it makes the entries what the record says. It does nothing when the image has no
// loader.toml. [Open] does the same, except that its errors are kept for [Image.LoaderProblem].
func (im *Image) ReadLoader() error {
	im.changing <- struct{}{}
	defer func() { <-im.changing }()
	if err := im.readLoader(); err != nil {
		return fmt.Errorf("reading the boot loader's entries: %w", err)
	}
	return nil
}

// LoaderProblem is why the boot loader's entries could not be read and written when the image was opened: its partition is not mounted, for one.
func (im *Image) LoaderProblem() error { return im.loaderProblem }

func (im *Image) readLoader() error {
	l, err := im.loader()
	if l == nil {
		return err
	}
	defer l.close()
	r := im.record()
	next, err := l.decided(r)
	if err != nil {
		return err
	}
	if !next.Same(r) {
		return im.putBy(l, next)
	}
	return errors.Join(l.before(r, r), l.after(r))
}

// decided is the record with what the loader has decided.
func (l *loader) decided(r boot.Record) (boot.Record, error) {
	if r.Trial == "" {
		return r, nil
	}
	entries, err := l.entriesDir()
	if err != nil {
		return r, err
	}
	defer entries.close()
	list, _, err := l.list(entries)
	if err != nil {
		return r, err
	}
	for _, e := range list {
		switch {
		case e.id != r.Trial:
		case !e.counted:
			return r.Activate(r.Trial), nil
		case e.left == 0 && !l.im.inTrial(r):
			return r.Fail("the boot loader tried it in vain")
		}
	}
	return r, nil
}

// Running is the deployment that the kernel's command line names, satchel=<id>, or empty.
func Running() string {
	text, _ := os.ReadFile("/proc/cmdline")
	id := ""
	for _, word := range strings.Fields(string(text)) {
		if s, ok := strings.CutPrefix(word, "satchel="); ok && boot.ValidID(s) {
			id = s
		}
	}
	return id
}
