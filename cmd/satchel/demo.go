package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"satchel/p2p"
)

func newDemoCommand(e *env) *cobra.Command {
	var alone bool
	cmd := &cobra.Command{
		Use:   "demo [TREE [NEXT]]",
		Short: "watch a publisher and five laptops on this machine",
		Long: withExit(`Run a publisher and five laptops as processes of their own on this machine, with
real sockets: publish TREE, watch it spread, start one laptop late, apply, publish
NEXT, watch again, roll one laptop back, and say how many bytes came from whom.
Every tree is compared with the published one. Nothing is left behind.

Without TREE, a tree of some 100 MB that this machine has is taken, such as the
source of Go; without NEXT, a copy of TREE with changes: files edited, one added,
one removed, one renamed. TREE and NEXT are only read.

The nodes find each other as they would in a classroom, by beacons on this
machine's links, so others may see them; a trust root of their own keeps them
apart. With --no-discovery they use the loopback interface alone and are told
each other's addresses; this is also what happens when beacons do not get
through. Needs free space of about eight times the tree under TMPDIR.`, exitOK, exitFailure, exitUsage, exitInterrupted),
		Example: "  satchel demo\n  satchel demo ~/lessons-1 ~/lessons-2",
		Args:    atMost(2),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	cmd.Flags().BoolVar(&alone, "no-discovery", false, "loopback interface only, addresses told")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d := &demo{env: e, alone: alone}
		if len(args) > 0 {
			d.tree = args[0]
		}
		if len(args) > 1 {
			d.next = args[1]
		}
		return d.run(cmd.Context())
	}
	return cmd
}

// demoProduct is what the demo publishes.
const demoProduct = "demo"

// demoPatience bounds one step of the demo.
const demoPatience = 15 * time.Minute

// demo is one run of the demo.
type demo struct {
	*env
	tree, next string
	alone      bool
	dir        string // everything is below it
	exe        string
	publisher  *machine
	laptops    []*machine // the last one starts late
	releases   []demoRelease
	began      time.Time
}

// demoRelease is what a release was and what each laptop moved for it.
type demoRelease struct {
	published
	tree    string
	fetched map[*machine]p2p.FetchStatus
}

func (d *demo) run(ctx context.Context) (err error) {
	d.began = time.Now()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// "satchel demo | head" must not leave anything either: with this, writing fails and does not kill.
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	defer signal.Stop(pipes)
	mine := *d.env
	mine.stdout = &watchedWriter{w: d.stdout, failed: stop}
	d.env = &mine
	if err := d.prepare(ctx); err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, d.clean()); err == nil {
			d.note("\nDone in %s. The nodes are stopped and %s is removed.", span(time.Since(d.began)), d.dir)
		}
	}()
	for _, step := range []func(context.Context) error{d.setUp, d.start, d.firstRelease, d.secondRelease, d.goBack} {
		limited, cancel := context.WithTimeoutCause(ctx, demoPatience, fmt.Errorf("the demo made no headway for %v", demoPatience))
		err := step(limited)
		cancel()
		if err != nil {
			return d.withLogs(ctx, err)
		}
	}
	d.summary()
	return nil
}

// prepare chooses the tree and makes the directory.
func (d *demo) prepare(ctx context.Context) (err error) {
	if d.exe, err = os.Executable(); err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	if d.tree == "" {
		if d.tree, err = findTree(ctx); err != nil {
			return err
		}
	}
	for _, tree := range []*string{&d.tree, &d.next} { // the machines run elsewhere
		if *tree == "" {
			continue
		}
		if *tree, err = filepath.Abs(*tree); err != nil {
			return fmt.Errorf("finding %s: %w", *tree, err)
		}
		if _, err := os.ReadDir(*tree); err != nil {
			return advise(p2p.CodeBadInput, "give directories that can be read", err)
		}
	}
	w, err := weigh(ctx, d.tree, 0)
	if err != nil {
		return advise(p2p.CodeBadInput, "give a directory that can be read", fmt.Errorf("reading the tree: %w", err))
	}
	if d.dir, err = os.MkdirTemp("", "satchel-demo-"); err != nil {
		return fmt.Errorf("making a directory for the demo: %w", err)
	}
	if free, err := freeSpace(d.dir); err == nil && free < 8*w.bytes {
		os.Remove(d.dir)
		return advise(p2p.CodeNoSpace, "set TMPDIR to a directory on a larger disk, or give a smaller TREE",
			fmt.Errorf("%s has %s free and the demo of %s needs about %s", os.TempDir(), size(free), d.tree, size(8*w.bytes)))
	}
	d.publisher = d.machine("publisher")
	for _, name := range []string{"ana", "bo", "chi", "dov", "eve"} {
		d.laptops = append(d.laptops, d.machine(name))
	}
	d.note("A publisher and five laptops, all on this machine, below %s.\nThe tree is %s: %s, %s.", d.dir, d.tree,
		count(w.files, "file", "files"), size(w.bytes))
	return nil
}

func (d *demo) machines() []*machine { return append([]*machine{d.publisher}, d.laptops...) }

// setUp makes the key and the root, and has everybody trust it.
func (d *demo) setUp(ctx context.Context) error {
	d.note("\nThe publisher makes a key and a trust root; every laptop trusts the root and follows the product.")
	// TREE is anybody's: it may have files that a school would not let a publisher have.
	newRoot := []string{"root", "new", "--out", "school.root", "--key", "school.key", "--may", "setuid,names,link-out"}
	for _, args := range [][]string{{"keygen", "school.key"}, newRoot} {
		if err := d.publisher.verb(ctx, true, args...); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, m := range d.machines() {
		g.Go(func() error {
			if err := m.verb(ctx, i == 1, "trust", "school.root"); err != nil || m == d.publisher {
				return err
			}
			return m.verb(ctx, i == 1, "follow", demoProduct, "--image", m.image)
		})
	}
	return g.Wait()
}

// start brings up all machines but the late one, and makes sure that they see each other.
func (d *demo) start(ctx context.Context) error {
	late := d.laptops[len(d.laptops)-1]
	d.note("\nThe publisher and four laptops start; %s comes later.", late.name)
	up := d.machines()[:len(d.laptops)]
	if !d.alone {
		for _, m := range up {
			if err := m.up(ctx, true); err != nil {
				return err
			}
		}
		met, err := d.meet(ctx, up)
		if met || err != nil {
			return err
		}
		d.say("warning", "the nodes do not hear each other's beacons on this machine: from here on they are told their addresses")
		d.alone = true
		for _, m := range up {
			m.stop()
		}
	}
	for _, m := range up {
		if err := m.up(ctx, m == up[0]); err != nil {
			return err
		}
	}
	if met, err := d.meet(ctx, up); err != nil || !met {
		return errors.Join(err, errors.New("the nodes do not connect to each other on this machine"))
	}
	return nil
}

// meetPatience is how long beacons get.
const meetPatience = 15 * time.Second

// meet waits until every machine has two of the others as neighbours.
func (d *demo) meet(ctx context.Context, up []*machine) (bool, error) {
	late := time.After(meetPatience)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		met := 0
		for _, m := range up {
			st, err := m.status(ctx)
			if err != nil {
				return false, err
			}
			if d.ours(&st) >= 2 {
				met++
			}
		}
		if met == len(up) {
			return true, nil
		}
		select {
		case <-again.C:
		case <-late:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// ours counts neighbours that belong to the demo.
func (d *demo) ours(st *p2p.Status) (n int) {
	for _, nb := range st.Neighbours {
		if d.named(nb.ID) != nil {
			n++
		}
	}
	return n
}

func (d *demo) named(id string) *machine {
	for _, m := range d.machines() {
		if m.id == id {
			return m
		}
	}
	return nil
}

func (d *demo) firstRelease(ctx context.Context) error {
	d.note("\nThe publisher publishes.")
	if err := d.publish(ctx, d.tree, "1.0"); err != nil {
		return err
	}
	if err := d.spread(ctx, true); err != nil {
		return err
	}
	return d.applyAll(ctx)
}

func (d *demo) secondRelease(ctx context.Context) error {
	if d.next == "" {
		d.next = filepath.Join(d.dir, "next")
		changes, err := makeNext(ctx, d.tree, d.next)
		if err != nil {
			return fmt.Errorf("making the next version of the tree: %w", err)
		}
		d.note("\nThe next version: %s.", changes)
	} else {
		d.note("\nThe next version: %s.", d.next)
	}
	if err := d.publish(ctx, d.next, "2.0"); err != nil {
		return err
	}
	if err := d.spread(ctx, false); err != nil {
		return err
	}
	return d.applyAll(ctx)
}

// publish makes a release of a tree.
func (d *demo) publish(ctx context.Context, tree, version string) error {
	r := demoRelease{tree: tree, fetched: map[*machine]p2p.FetchStatus{}}
	err := d.publisher.verbJSON(ctx, &r.published, "publish", tree, "--product", demoProduct, "--version", version, "--key", "school.key")
	if err != nil {
		return err
	}
	d.note("release %s: %s, %s; of it %s were not in the store before; announcement %d bytes; hashed in %.1f s", version,
		count(r.Files, "file", "files"), size(r.TotalSize), size(r.ChunkBytesNew), r.AnnouncementSize, r.Seconds)
	d.releases = append(d.releases, r)
	return nil
}

// spread shows the release spreading until it is ready everywhere, and brings up the late laptop on the way.
func (d *demo) spread(ctx context.Context, withLate bool) error {
	r := &d.releases[len(d.releases)-1]
	v := d.view(r)
	late := d.laptops[len(d.laptops)-1]
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		if _, err := d.publisher.status(ctx); err != nil {
			return err
		}
		ready, half := 0, 0
		for _, m := range d.laptops {
			if !m.running() {
				continue
			}
			p, err := m.product(ctx)
			if err != nil {
				return err
			}
			if isReady(&p, r.Seq) {
				ready++
			}
			if f := p.Fetch; f != nil && p.Newest.Seq == r.Seq {
				r.fetched[m] = *f
				if f.BytesNeeded <= f.BytesTotal/2 && f.BytesTotal > 0 {
					half++
				}
			}
		}
		if withLate && half >= 2 && !late.running() {
			v.say("%s starts, late", late.name)
			if err := late.up(ctx, false); err != nil {
				return err
			}
		}
		v.draw(ready == len(d.laptops))
		if ready == len(d.laptops) {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func isReady(p *p2p.ProductStatus, seq uint64) bool {
	return p.Newest != nil && p.Newest.Seq == seq && (p.Ready != nil && p.Ready.Seq == seq || p.Live != nil && p.Live.Seq == seq)
}

// applyAll makes the newest release live everywhere and compares the trees.
func (d *demo) applyAll(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for i, m := range d.laptops {
		g.Go(func() error { return m.verb(gctx, i == 0, "apply", demoProduct) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r := &d.releases[len(d.releases)-1]
	w, err := d.compare(ctx, r.tree, d.laptops...)
	if err == nil {
		d.note("all five apply: their trees are the publisher's, byte for byte, mode for mode, link for link (five times %s, %s)",
			count(w.files, "file", "files"), size(w.bytes))
	}
	return err
}

// compare compares the live trees of laptops with a tree.
func (d *demo) compare(ctx context.Context, tree string, laptops ...*machine) (w weight, err error) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i, m := range laptops {
		g.Go(func() error {
			got, err := sameTree(ctx, tree, filepath.Join(m.image, "current"))
			if err != nil {
				return fmt.Errorf("comparing %s's tree with the published one: %w", m.name, err)
			}
			if i == 0 {
				w = got
			}
			return nil
		})
	}
	return w, g.Wait()
}

// goBack rolls one laptop back.
func (d *demo) goBack(ctx context.Context) error {
	m := d.laptops[1]
	d.note("\n%s does not like it and goes back, without fetching anything.", m.name)
	if err := m.verb(ctx, true, "rollback", demoProduct); err != nil {
		return err
	}
	if _, err := d.compare(ctx, d.releases[0].tree, m); err != nil {
		return err
	}
	d.note("its tree is that of release 1.0 again, byte for byte")
	return nil
}

// note says something to the person who watches.
func (d *demo) note(format string, args ...any) { fmt.Fprintf(d.stdout, format+"\n", args...) }

// clean stops everything and removes everything, also after ^C.
func (d *demo) clean() error {
	var g errgroup.Group
	for _, m := range d.machines() {
		g.Go(func() error {
			m.stop()
			return errors.Join(removeTree(m.home), removeTree(m.image))
		})
	}
	if err := errors.Join(g.Wait(), removeTree(d.dir)); err != nil {
		return fmt.Errorf("removing the demo's directory: %w", err)
	}
	return nil
}

// watchedWriter tells about the first error of writing.
type watchedWriter struct {
	w      io.Writer
	failed func(error)
}

func (w *watchedWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		w.failed(err)
	}
	return n, err
}
