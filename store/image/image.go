package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"satchel/store/image/boot"
)

var (
	// ErrLocked is in the error of [Open] when another process, or another [Image], has the directory.
	ErrLocked = errors.New("image is in use")
	// ErrNotFound is in the errors of methods that are given an id that no deployment has.
	ErrNotFound = errors.New("no such deployment")
	// ErrNoPrevious is in the error of [Image.Rollback] when there is nothing to go back to.
	ErrNoPrevious = boot.ErrNoPrevious
	// ErrInUse is in the error of [Image.Destroy] when the deployment is live, the previous one, on trial, or running.
	ErrInUse = errors.New("deployment is in use")
	// ErrBusy is in the error of [Image.Prune] while a deployment is being made or repaired.
	ErrBusy = errors.New("a deployment is being made")
)

// Names in an image directory.
const (
	deployName  = "deploy"
	currentName = "current"
	tmpSuffix   = ".tmp"      // a clone, or what takes the place of something by rename
	goneSuffix  = ".gone.tmp" // a deployment that is being removed
	fixSuffix   = ".fix.tmp"  // replacements for entries of a deployment
)

// Image is an open image directory. Its methods may be called by several goroutines: [Image.Stage] and [Image.Repair] wait
// for each other, and so do the methods that change what is live or remove deployments; those run while a clone is built.
type Image struct {
	dir    string
	root   *dir
	deploy *dir

	building chan struct{} // holds a token while a clone or replacements are built
	changing chan struct{} // holds a token while the boot record or the names of deployments change

	mu   sync.Mutex  // not held during I/O
	boot boot.Record // in force
	slot int         // that holds it

	bootID  func() string // the kernel's name for this boot
	running func() string // the deployment that its command line names

	loaderProblem error // set by Open

	source string // id of the deployment that another is made from, or empty; under mu

	sharing atomic.Int32 // one of the sharing constants
}

// Open opens an image directory, making it when there is none, and finishes or undoes what was interrupted: it removes
// clones and points current at the deployment that the boot record names. One process at a time can have it open.
//
// A live deployment that somebody removed is replaced by the previous one. When both slots of the boot record are lost, the
// deployment that current points at is taken for the live one.
//
// Open refuses a directory in which one of its names is taken by something of another type, such as a symbolic link instead
// of the directory deploy. The error has [ErrLocked] in its chain when the image is in use.
func Open(dir string) (*Image, error) { return open(dir, nil, Running) }

func open(name string, h hook, running func() string) (*Image, error) {
	im, err := prepare(name, h, running)
	if err != nil {
		return nil, fmt.Errorf("opening image %s: %w", name, err)
	}
	return im, nil
}

func prepare(name string, h hook, running func() string) (*Image, error) {
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, err
	}
	im := &Image{dir: abs, building: make(chan struct{}, 1), changing: make(chan struct{}, 1), bootID: boot.ID, running: running}
	if im.root, err = openTop(abs, h); err != nil {
		return nil, err
	}
	if err = im.begin(); err != nil {
		im.Close()
		return nil, err
	}
	return im, nil
}

func (im *Image) begin() error {
	if err := im.lock(); err != nil {
		return err
	}
	if err := im.checkNames(); err != nil {
		return err
	}
	if err := im.openDeploy(); err != nil {
		return err
	}
	return im.recover()
}

func (im *Image) lock() error {
	err := im.root.lock()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return err
	}
	by := "by another process"
	switch pid := im.root.holder(); pid {
	case 0:
	case os.Getpid():
		by = "by this process already"
	default:
		by = fmt.Sprintf("by process %d", pid)
	}
	return fmt.Errorf(`%w %s; stop that with "satchel down", or choose another image directory`, ErrLocked, by)
}

// checkNames refuses a directory where one of our names belongs to something else: to use or to replace it would be unsafe.
func (im *Image) checkNames() error {
	for _, want := range []struct {
		name string
		kind uint32
		what string
	}{
		{deployName, unix.S_IFDIR, "a directory"},
		{currentName, unix.S_IFLNK, "a symbolic link"},
		{boot.SlotName(0), unix.S_IFREG, "a file"},
		{boot.SlotName(1), unix.S_IFREG, "a file"},
	} {
		kind, err := im.root.kind(want.name)
		if err != nil {
			return err
		}
		if kind != 0 && kind != want.kind {
			return fmt.Errorf("%s is %s, where an image has %s; move it away, or choose another image directory",
				want.name, kindName(kind), want.what)
		}
	}
	return nil
}

func kindName(kind uint32) string {
	switch kind {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFREG:
		return "a file"
	case unix.S_IFLNK:
		return "a symbolic link"
	}
	return "a special file"
}

func (im *Image) openDeploy() (err error) {
	im.deploy, err = im.root.sub(deployName)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if im.deploy, err = im.root.mkdir(deployName); err != nil {
		return err
	}
	if err := im.deploy.chmod(0o755); err != nil {
		return err
	}
	return im.root.sync()
}

// Close gives the image back. No other method may be running or be called later.
func (im *Image) Close() error {
	var err error
	if im.deploy != nil {
		err = im.deploy.f.Close()
	}
	return errors.Join(err, im.root.f.Close())
}

// recover brings the directory to a state that a completed operation leaves.
func (im *Image) recover() error {
	for _, name := range []string{boot.SlotName(0), boot.SlotName(1), currentName} {
		if kind, err := im.root.kind(name + tmpSuffix); err != nil || kind == 0 {
			continue
		}
		if err := im.root.unlink(name + tmpSuffix); err != nil {
			return err
		}
	}
	if err := errors.Join(im.removeLeftovers(), im.removeStateSpare()); err != nil {
		return err
	}
	im.readSlots()
	if err := im.reconcile(); err != nil {
		return err
	}
	if err := im.repairCurrent(); err != nil {
		return err
	}
	im.loaderProblem = im.readLoader() // the partition may not be there: the image is in order all the same
	return im.markLived(im.record().Live)
}

// removeLeftovers removes clones, half-removed deployments, and descriptions of trees that never came.
func (im *Image) removeLeftovers() error {
	names, err := im.deployNames()
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, err := parseID(name); err == nil {
			if err := im.removeSpare(name); err != nil {
				return err
			}
			continue
		}
		if stem, ok := strings.CutSuffix(name, infoSuffix); ok {
			if there, err := im.has(stem); err != nil || there {
				continue
			}
		} else if !isLeftover(name) {
			continue
		}
		if err := im.deploy.removeAll(name); err != nil {
			return err
		}
	}
	return nil
}

func isLeftover(name string) bool {
	for _, suffix := range []string{goneSuffix, fixSuffix, infoSuffix + tmpSuffix, tmpSuffix} {
		if id, ok := strings.CutSuffix(name, suffix); ok {
			_, err := parseID(id)
			return err == nil
		}
	}
	return false
}

// acquire takes a token, or gives the context's error.
func acquire(ctx context.Context, token chan struct{}) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case token <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (im *Image) record() boot.Record {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.boot
}
