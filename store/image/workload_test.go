package image_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// A play is the workload of power cuts: a store and an image beside it, that go through the steps below.
type play struct {
	b     *blobs
	rs    []image.Release               // by number; 0 is none
	ms    map[string]*manifest.Manifest // by id
	trees []string                      // to publish, by number
	steps []step
}

// step is one thing that is done, and what is then true for good.
type step struct {
	name string
	do   func(*theatre) error
	then func(*state)
}

// state is what is promised. Releases are told by their number, 0 is none.
type state struct {
	boots
	stored   uint // bit set of releases whose blobs are in the store
	deployed uint // bit set of releases that have a deployment
	damaged  int  // a deployment that may have problems
}

// boots is what the boot record says.
type boots struct {
	live, previous, trial, tries, booted int

	failed uint   // bit set
	floor  uint64 // seq
}

func bit(n int) uint { return 1 << n }

// theatre is where a play is on.
type theatre struct {
	*play
	st *store.Store
	im *image.Image
}

const releases = 3

// newPlay makes a play with releases of about so many files.
func newPlay(t testing.TB, files int) *play {
	p := &play{b: newBlobs(t), rs: make([]image.Release, 1), trees: make([]string, 1), ms: make(map[string]*manifest.Manifest)}
	for n := 1; n <= releases; n++ {
		entries := playTree(n, files)
		// Numbers of different length make boot records of different length.
		r, m := release(t, p.b, []uint64{0, 8, 9, 10}[n], entries)
		p.rs, p.ms[r.ID()] = append(p.rs, r), m
		p.trees = append(p.trees, layOut(t, entries))
	}
	p.steps = []step{
		{"publish 1", publish(1), stored(1)},
		{"stage 1", deploy(1), deployed(1)},
		{"activate 1", activate(1), func(s *state) { s.live = 1 }},
		{"fetch 2", fetch(2), stored(2)},
		{"stage 2", deploy(2), deployed(2)},
		{"activate 2", activate(2), func(s *state) { s.live, s.previous = 2, 1 }},
		{"roll back to 1", rollback, func(s *state) { s.live, s.previous = 1, 2 }},
		{"roll back to 2", rollback, func(s *state) { s.live, s.previous = 2, 1 }},
		{"publish 3", publish(3), stored(3)},
		{"stage 3", deploy(3), deployed(3)},
		{"arm 3", arm(3), func(s *state) { s.trial, s.tries = 3, 2 }},
		{"enter 3", enter, func(s *state) { s.tries, s.booted = 1, 3 }},
		{"enter 3 again", enter, func(s *state) { s.tries = 0 }},
		{"confirm 3", confirm, func(s *state) { s.live, s.previous, s.trial = 3, 2, 0 }},
		{"set the floor", func(h *theatre) error { return h.im.SetFloor("demo", 1, 8) }, func(s *state) { s.floor = 8 }},
		{"prune the image", func(h *theatre) error { _, err := h.im.Prune(image.Keep{}); return err }, func(s *state) { s.deployed &^= bit(1) }},
		{"stage 1 again", deploy(1), deployed(1)},
		{"arm 1", arm(1), func(s *state) { s.trial, s.tries = 1, 2 }},
		{"fail 1", func(h *theatre) error { return h.im.Fail("bad") }, func(s *state) { s.trial, s.tries, s.failed = 0, 0, bit(1) }},
		{"destroy 1", func(h *theatre) error { return h.im.Destroy(h.rs[1].ID()) }, func(s *state) { s.deployed &^= bit(1) }},
		{"prune the store", prune(2, 3), func(s *state) { s.stored &^= bit(1) }},
		{"damage 2", damage(2), func(s *state) { s.damaged = 2 }},
		{"repair 2", repair(2), func(s *state) { s.damaged = 0 }},
		{"roll back at the end", rollback, func(s *state) { s.live, s.previous = 2, 3 }},
	}
	return p
}

// playTree is a release of some dozens of files, of which each release changes a part.
func playTree(n, files int) []entry {
	tree := small(fmt.Sprint("release ", n))
	tree = append(tree, entry{path: "lessons/", mode: 0o755}, entry{path: "large2", mode: 0o644, data: text(fmt.Sprint("large", n), 700_000)})
	for i := range files {
		salt := fmt.Sprint("file ", i)
		if i%3 == n%3 {
			salt += fmt.Sprint(" of ", n)
		}
		tree = append(tree, entry{path: fmt.Sprintf("lessons/%02d", i), mode: 0o644, data: text(salt, 200+331*i)})
	}
	return sorted(tree)
}

// text is content that does not repeat.
func text(salt string, size int) string {
	var out bytes.Buffer
	for i := 0; out.Len() < size; i++ {
		sum := store.Sum([]byte(fmt.Sprint(salt, i)))
		out.Write(sum[:])
	}
	return out.String()[:size]
}

// layOut makes a directory with a tree.
func layOut(t testing.TB, tree []entry) string {
	t.Helper()
	top := tempDir(t)
	for _, e := range tree {
		path := filepath.Join(top, e.path)
		switch {
		case strings.HasSuffix(e.path, "/"):
			must(t, os.Mkdir(path, 0o700))
		case e.link != "":
			must(t, os.Symlink(e.link, path))
		default:
			must(t, os.WriteFile(path, []byte(e.data), 0o600))
		}
	}
	for _, e := range slices.Backward(tree) {
		if e.link == "" {
			must(t, syscall.Chmod(filepath.Join(top, e.path), e.mode))
		}
	}
	return top
}

func stored(n int) func(*state)   { return func(s *state) { s.stored |= bit(n) } }
func deployed(n int) func(*state) { return func(s *state) { s.deployed |= bit(n) } }

// publish takes a release from a tree, as a publisher does.
func publish(n int) func(*theatre) error {
	return func(h *theatre) error {
		m := h.ms[h.rs[n].ID()]
		r, err := h.st.Publish(context.Background(), h.trees[n], store.PublishOptions{Header: m.Header})
		if err == nil && r.Manifest != h.rs[n].Manifest {
			err = fmt.Errorf("manifest is %v, want %v", r.Manifest, h.rs[n].Manifest)
		}
		return err
	}
}

// fetch takes a release in pieces, as from neighbours.
func fetch(n int) func(*theatre) error {
	return func(h *theatre) error {
		m := h.ms[h.rs[n].ID()]
		for _, e := range m.Entries {
			if e.Type == manifest.File && !h.st.Has(e.Blob) {
				if err := h.fetchBlob(e); err != nil {
					return err
				}
			}
		}
		if _, _, err := h.st.PutManifest(m); err != nil {
			return err
		}
		return h.st.Sync()
	}
}

func (h *theatre) fetchBlob(e manifest.Entry) error {
	data := h.b.content[e.Blob]
	if store.IsRaw(e.Blob) {
		return h.st.Put(e.Blob, data, e.Mode)
	}
	l := chunkList(data)
	l.Blob = e.Blob
	p, err := h.st.Partial(&l, e.Mode)
	if err != nil {
		return err
	}
	for i, c := range l.Chunks {
		if err := p.WriteChunk(i, data[c.Offset:][:c.Size]); err != nil {
			return errors.Join(err, p.Close())
		}
	}
	return errors.Join(p.Commit(), p.Close())
}

func deploy(n int) func(*theatre) error {
	return func(h *theatre) error {
		_, err := h.im.Stage(context.Background(), image.Plan{Parts: []image.Part{{Release: h.rs[n], Manifest: h.ms[h.rs[n].ID()]}}}, h.st)
		return err
	}
}

func activate(n int) func(*theatre) error {
	return func(h *theatre) error { return h.im.Activate(h.rs[n].ID()) }
}

func rollback(h *theatre) error {
	_, err := h.im.Rollback()
	return err
}

func arm(n int) func(*theatre) error {
	return func(h *theatre) error { return h.im.Arm(h.rs[n].ID(), 2) }
}

// thisBoot is what the kernel calls the boot of the story.
const thisBoot = "0b7e6a4f-5a2e-4c79-9d0b-6a1f3f0f7c11"

// enter is a boot.
func enter(h *theatre) error {
	use, err := h.im.Select(thisBoot)
	if err == nil && use != h.rs[3].ID() {
		err = fmt.Errorf("the boot uses %q", use)
	}
	return err
}

func confirm(h *theatre) error {
	h.im.SetBootID(thisBoot)
	_, err := h.im.Confirm()
	return err
}

func prune(keep ...int) func(*theatre) error {
	return func(h *theatre) error {
		var manifests []cid.Cid
		for _, n := range keep {
			manifests = append(manifests, h.rs[n].Manifest)
		}
		_, err := h.st.Prune(context.Background(), manifests)
		return err
	}
}

// damage is what people do to a tree.
func damage(n int) func(*theatre) error {
	return func(h *theatre) error {
		top := h.im.Tree(h.rs[n].ID())
		return errors.Join(os.Remove(top+"/bin/tool"), os.RemoveAll(top+"/lessons"), os.WriteFile(top+"/extra", []byte("extra"), 0o644))
	}
}

func repair(n int) func(*theatre) error {
	return func(h *theatre) error {
		id := h.rs[n].ID()
		problems, err := h.im.Verify(context.Background(), id, h.st, nil)
		if err != nil {
			return err
		}
		return h.im.Repair(context.Background(), id, h.st, problems)
	}
}

// A mutant is our code with a mistake in it.
type mutant struct {
	name  string
	shows string                                       // a file system on which it does not take many states to see it
	hook  func(top string) func(op, path string) error // for an image at top, and the store
}

func mutants() []mutant {
	const hard = "ext4, noauto_da_alloc"
	return []mutant{
		{"no file fsync", hard, without("syncing", "")},
		{"no directory fsync", hard, without("syncing directory", "")},
		{"no syncfs", hard, without("syncing file system of", "")},
		{"no syncfs in the store", hard, without("syncing file system of", ".")},
		{"no syncfs in the image", "btrfs", noSubvolumes(without("syncing file system of", "deploy"))},
		{"record in place", hard, inPlace},
	}
}

// without leaves changes of one kind out, all or those of one path.
func without(op, path string) func(string) func(op, path string) error {
	return func(string) func(string, string) error {
		return func(o, p string) error {
			if o == op && (path == "" || p == path) {
				return store.ErrSkip
			}
			return nil
		}
	}
}

// noSubvolumes makes trees plain directories: to rename a subvolume makes btrfs write out everything, which hides what is left out.
func noSubvolumes(hook func(string) func(op, path string) error) func(string) func(op, path string) error {
	return func(top string) func(string, string) error {
		mistake := hook(top)
		return func(op, path string) error {
			if op == "making subvolume" {
				return syscall.EOPNOTSUPP
			}
			return mistake(op, path)
		}
	}
}

// inPlace writes the record over the one that is in force, and syncs it.
func inPlace(top string) func(op, path string) error {
	return func(op, path string) error {
		if op != "renaming" || !strings.HasPrefix(path, "boot.") {
			return nil
		}
		text, err := os.ReadFile(filepath.Join(top, path))
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(top, "boot.0"), os.O_WRONLY|os.O_CREATE, 0o644)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Write(text)
		err = errors.Join(err, f.Truncate(int64(len(text))), f.Sync(), os.Remove(filepath.Join(top, path)))
		if err == nil {
			err = store.ErrSkip
		}
		return err
	}
}

// run goes through all steps in a new directory, and gives a mark after each. In every round but the first a stranger is busy beside us.
func (p *play) run(top string, wrong *mutant, round uint64, mark func(n int)) error {
	mistake := func(op, path string) error { return nil }
	if wrong != nil {
		mistake = wrong.hook(filepath.Join(top, "image"))
	}
	other := newStranger(top, round)
	hook := func(op, path string) error {
		if err := other.meddle(); err != nil {
			return err
		}
		return mistake(op, path)
	}
	h, err := p.open(top, hook, hook)
	if err != nil {
		return err
	}
	for i, s := range p.steps {
		if err := s.do(h); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		mark(i)
	}
	return h.close()
}

func (p *play) open(top string, ofStore, ofImage store.Hook) (h *theatre, err error) {
	h = &theatre{play: p}
	if h.st, err = store.OpenHook(filepath.Join(top, "store"), ofStore); err != nil {
		return nil, err
	}
	if h.im, err = image.OpenHook(filepath.Join(top, "image"), ofImage); err != nil {
		return nil, errors.Join(err, h.st.Close())
	}
	return h, nil
}

// close does nothing with a theatre that could not be opened.
func (h *theatre) close() error {
	if h == nil {
		return nil
	}
	return errors.Join(h.im.Close(), h.st.Close())
}

// stranger is another program on the same file system. It syncs a file of its own now and then, between any two of our changes, and
// what the file system has in its journal of ours goes to the disk with it; sometimes it syncs everything.
type stranger struct {
	file string
	rate float64

	mu     sync.Mutex
	chance *rand.Rand // guarded by mu
}

func newStranger(top string, round uint64) *stranger {
	rates := []float64{0.03, 0.1, 0.3}
	s := &stranger{file: filepath.Join(top, "stranger"), rate: rates[round%3], chance: rand.New(rand.NewPCG(round, 0))}
	if round == 0 {
		s.rate = 0
	}
	return s
}

func (s *stranger) meddle() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.chance.Float64() >= s.rate {
		return nil
	}
	f, err := os.OpenFile(s.file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if s.chance.IntN(10) == 0 {
		return unix.Syncfs(int(f.Fd()))
	}
	_, err = f.WriteString("mine")
	return errors.Join(err, f.Sync())
}

// promised gives what is true when the step n is done and the next one is not, and what when the next one is done too.
func (p *play) promised(n int) (now, next state) {
	for i := range p.steps {
		if i <= n {
			p.steps[i].then(&now)
		}
		if i <= n+1 {
			p.steps[i].then(&next)
		}
	}
	return now, next
}
