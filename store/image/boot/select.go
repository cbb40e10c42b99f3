package boot

import (
	"errors"
	"fmt"
	"path/filepath"
)

var (
	// ErrLocked is the problem of a [Choice] when a process has the image, such as a node: a person has called Select.
	ErrLocked = errors.New("image is in use")
	// ErrNothing is in the error of [Select] when there is no tree to enter.
	ErrNothing = errors.New("nothing to boot")
)

// Names in an image directory.
const (
	deployName  = "deploy"
	currentName = "current"
)

// Choice is what to start the machine with.
type Choice struct {
	ID        string
	Tree      string // path of the tree: the image directory as it was given, and below
	Trial     bool   // it is on trial
	TriesLeft int    // of the trial, after this one
	Failed    string // id of the trial that is given up with this boot, or empty
	Problem   error  // why the record could not be read, or what was decided not be written; then it is never a trial
}

// Select is what starts a machine asks: which tree of the image shall be entered? It takes one try away from a trial before it says the trial's
// tree, durably; a trial without tries left has failed. When that cannot be written, or somebody has the image, it says the live tree, and the choice
// says the problem. Without a sound record, it says what current points at. It says no tree that is not there; when there is
// none, the error has [ErrNothing] in its chain.
func Select(dir string) (Choice, error) { return selectHook(dir, true, nil, ID()) }

// Look says what [Select] would say, and changes nothing.
func Look(dir string) (Choice, error) { return selectHook(dir, false, nil, ID()) }

func selectHook(dir string, write bool, h hook, boot string) (Choice, error) {
	p, err := openPlace(dir, h)
	if err != nil {
		return Choice{}, fmt.Errorf("choosing what to boot: %w", err)
	}
	defer p.f.Close()
	c := choose(p, write, boot)
	if c.ID == "" {
		err := ErrNothing
		if c.Problem != nil {
			err = fmt.Errorf("%w: %w", ErrNothing, c.Problem)
		}
		return Choice{}, fmt.Errorf("choosing what to boot from %s: %w", dir, err)
	}
	c.Tree = filepath.Join(dir, deployName, c.ID)
	return c, nil
}

// source is an open image directory.
type source interface {
	Disk
	lock() error
	has(id string) bool // the tree of a deployment is there
	current() string    // what the symbolic link names and is there, or empty
}

func choose(p source, write bool, boot string) Choice {
	var problem error
	if write {
		problem = p.lock()
	}
	r, slot := Read(p)
	if r.Generation == 0 {
		return Choice{ID: p.current(), Problem: errors.New("no sound boot record")}
	}
	next, use := r.Select(p.has, boot)
	if write && problem == nil {
		problem = replace(p, r, next, slot)
	}
	if problem != nil {
		return Choice{ID: r.Fallback(p.has), Problem: problem}
	}
	c := Choice{ID: use, Trial: next.Trial != "" && use == next.Trial, TriesLeft: next.Tries}
	if next.Trial == "" {
		c.Failed = r.Trial
	}
	return c
}

// replace makes next durable. When that fails, the trial is not entered, and the record should not say that it was.
func replace(p source, r, next Record, slot int) error {
	next.Generation = r.Generation + 1
	err := Write(p, 1-slot, next)
	if err == nil {
		return nil
	}
	now, slot := Read(p)
	if now.InTrial(next.BootID) {
		now.Booted, now.Generation = r.Fallback(p.has), now.Generation+1
		err = errors.Join(err, Write(p, 1-slot, now))
	}
	return err
}

// Telling is a [Choice] for programs, as JSON.
type Telling struct {
	Deployment string `json:"deployment"`
	Tree       string `json:"tree"`
	Trial      bool   `json:"trial"`
	TriesLeft  int    `json:"tries_left"`
	Failed     string `json:"failed,omitempty"`
	Problem    string `json:"problem,omitempty"`
}

// Telling makes a choice printable.
func (c Choice) Telling() Telling {
	t := Telling{Deployment: c.ID, Tree: c.Tree, Trial: c.Trial, TriesLeft: c.TriesLeft, Failed: c.Failed}
	if c.Problem != nil {
		t.Problem = c.Problem.Error()
	}
	return t
}
