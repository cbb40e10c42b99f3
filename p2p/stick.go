package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"

	"satchel/announce"
	"satchel/fetch"
	"satchel/fetch/stick"
	"satchel/store"
)

// A USB stick is a slow neighbour. Export makes one; Import lets it take part in fetches for as long as it has something to give,
// with or without a network beside it.

// ExportOptions says what Export writes.
type ExportOptions struct {
	Dir      string   `json:"dir"`                // absolute: where the stick is mounted
	Products []string `json:"products,omitempty"` // none: everything that is whole here
	Since    uint64   `json:"since,omitempty"`    // leave out what this release of the only product had; 0: nothing
}

// StickProgress is how far an Export or an Import is, in bytes of content.
type StickProgress struct {
	What  string `json:"what"`  // for Export checking or writing; for Import the state of the slowest product
	Done  uint64 `json:"done"`  // bytes
	Total uint64 `json:"total"` // bytes; 0: not known yet
}

// ExportResult is what Export has done.
type ExportResult struct {
	Path          string         `json:"path"`          // directory of satchel's files on the stick
	Root          string         `json:"root"`          // root file on the stick, for machines that trust nobody yet
	Releases      []StickRelease `json:"releases"`      // what is on the stick of this home
	Announcements int            `json:"announcements"` // products that the stick announces
	BytesTotal    uint64         `json:"bytes_total"`   // content of the releases
	BytesHere     uint64         `json:"bytes_here"`    // of it, was on the stick already
	BytesWritten  uint64         `json:"bytes_written"` // of it, was not
	Damaged       int            `json:"damaged"`       // pieces that were damaged on the stick, and were written again
	FreeBytes     uint64         `json:"free_bytes"`    // what can still be written to the stick
}

// StickRelease names a release on a stick.
type StickRelease struct {
	Product   string `json:"product"`
	Version   string `json:"version"`
	Epoch     uint64 `json:"epoch"`
	Seq       uint64 `json:"seq"`
	TotalSize uint64 `json:"total_size"`
	Since     uint64 `json:"since,omitempty"` // the rest must come from this release
}

// Export writes releases, and all that this home knows, to a stick.
func (n *Node) Export(ctx context.Context, o ExportOptions, progress func(StickProgress)) (res ExportResult, err error) {
	if progress == nil {
		progress = func(StickProgress) {}
	}
	res.Releases = []StickRelease{}
	c := stick.Config{Dir: o.Dir, Store: n.store, Progress: func(p stick.Progress) {
		what := "writing"
		if p.Written == 0 {
			what = "checking"
		}
		progress(StickProgress{What: what, Done: p.Done, Total: p.Total})
	}}
	if !filepath.IsAbs(o.Dir) {
		return res, fail(CodeBadInput, "give an absolute path", fmt.Errorf("the stick %q", o.Dir))
	}
	var targets []announce.Announcement
	var prunes int
	err = n.call(func() error {
		if n.pruning {
			return errPruned()
		}
		c.Kept, prunes = n.catalog.Kept(), n.prunes
		targets, err = n.exported(o.Products)
		return err
	})
	if err == nil {
		c.Releases, err = n.releasesOf(targets, o.Since)
	}
	if err != nil {
		return res, err
	}
	out, err := stick.Export(ctx, c)
	res.Path, res.Root, res.Announcements = out.Path, out.Root, out.Products
	res.BytesTotal, res.BytesHere, res.BytesWritten = out.Total, out.Here, out.Written
	res.Damaged, res.FreeBytes = out.Damaged, out.Free
	if errors.Is(err, stick.ErrStore) {
		n.do(func() {
			if n.prunes != prunes {
				err = errPruned()
			}
		})
	}
	if err != nil {
		return res, exportError(o.Dir, err)
	}
	for _, a := range targets {
		res.Releases = append(res.Releases, StickRelease{a.Product, a.Version, a.Epoch, a.Seq, a.TotalSize, o.Since})
	}
	return res, nil
}

func errPruned() error {
	return fail(CodeConflict, "export again when it is done", errors.New("the store is being pruned"))
}

// exported lists the newest releases of products, all of which must be whole here; without products those that are.
func (n *Node) exported(products []string) (out []announce.Announcement, err error) {
	if n.catalog.Root() == nil {
		return nil, errNoRoot()
	}
	all := len(products) == 0
	if all {
		for _, h := range n.catalog.Heads() {
			products = append(products, h.Product)
		}
	}
	for _, p := range slices.Compact(slices.Sorted(slices.Values(products))) {
		a, _, ok := n.catalog.Latest(p)
		switch {
		case ok && n.db.complete(a.Manifest):
			out = append(out, a)
		case all:
		case ok:
			return nil, fail(CodeNotReady, `"satchel status" says how far it is`, fmt.Errorf("%s %s is not whole here", p, a.Version))
		case n.refused(p):
			return nil, fail(CodeEquivocal, "the publisher heals it by publishing again with a higher seq", fmt.Errorf("two releases claim the newest number of %s", p))
		default:
			return nil, fail(CodeNotFound, `"satchel status" lists what is known`, fmt.Errorf("no release of %s is known here", p))
		}
	}
	if len(out) == 0 {
		return nil, fail(CodeNotFound, "publish, follow or carry something first", errors.New("no release is whole here"))
	}
	return out, nil
}

func (n *Node) releasesOf(targets []announce.Announcement, since uint64) (out []stick.Release, err error) {
	for _, a := range targets {
		out = append(out, stick.Release{Manifest: a.Manifest})
	}
	if since == 0 {
		return out, nil
	}
	a := targets[0]
	switch {
	case len(targets) > 1:
		return nil, fail(CodeBadInput, "give one --product with --since", fmt.Errorf("%d products are whole here, and each counts by itself", len(targets)))
	case since >= a.Seq:
		return nil, fail(CodeBadInput, "give the number of the release that the other machines have", fmt.Errorf("seq %d is not older than %s %s (seq %d)", since, a.Product, a.Version, a.Seq))
	}
	m := n.announced(a.Product, a.Epoch, since)
	if !m.Defined() {
		if m, err = n.inStore(a.Product, a.Epoch, since); err != nil {
			return nil, err
		}
	}
	if !m.Defined() || !n.store.Has(m) {
		return nil, fail(CodeNotFound, "leave --since out, or export on a machine that still has that release",
			fmt.Errorf("what %s seq %d consists of is not known here", a.Product, since))
	}
	out[0].Since = m
	return out, nil
}

func exportError(dir string, err error) error {
	switch {
	case errors.Is(err, store.ErrNoSpace):
		return fail(CodeNoSpace, "take a larger stick, export fewer products, or remove the satchel directory on the stick and export anew; what is on the stick still works", err)
	case errors.Is(err, stick.ErrStore):
		return fail(CodeCorrupt, `run "satchel verify", then export again`, err)
	case errors.Is(err, stick.ErrMedium):
		return fail(CodeCorrupt, "take another stick: this one is worn out, or smaller than it says", err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, fs.ErrPermission):
		return fail(CodeReadOnly, "mount the stick so that the user of the node can write to it", err)
	}
	return stickError(dir, err)
}

// stickError is for what may happen when a stick is opened.
func stickError(dir string, err error) error {
	switch {
	case errors.Is(err, context.Canceled):
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fail(CodeNotFound, "is the stick mounted? give the directory where it is", err)
	case errors.Is(err, fs.ErrPermission):
		return fail(CodeReadOnly, "mount the stick so that the user of the node can read it", err)
	case errors.Is(err, stick.ErrNone):
		hint := `give the directory where the stick is mounted; "satchel export" makes one`
		if strings.EqualFold(filepath.Base(dir), stick.Dir) {
			hint = "give the directory that holds it: " + filepath.Dir(dir)
		}
		return fail(CodeNotFound, hint, err)
	case errors.Is(err, stick.ErrInUse):
		return fail(CodeConflict, "wait for it", err)
	case errors.Is(err, stick.ErrLimit):
		return fail(CodeRefused, "this is no stick of satchel's", err)
	}
	return err
}

// What became of a product of a stick.
const (
	StickReady      = "ready"      // brought by this import, and staged, or whole when it is only carried
	StickHere       = "here"       // was here already
	StickOlder      = "older"      // older than what is known here; nothing was taken
	StickNews       = "announced"  // the stick knows of a newer release, but has not its content
	StickUnwanted   = "unwanted"   // neither followed nor carried here
	StickIncomplete = "incomplete" // a part is missing; what came is kept
	StickFailed     = "failed"     // see Error
	StickRefused    = "refused"    // two releases claim one number
)

// ImportResult is what Import has done.
type ImportResult struct {
	Path          string            `json:"path"`          // directory of satchel's files on the stick
	Products      []ImportedProduct `json:"products"`      // what the stick announces
	Roots         int               `json:"roots"`         // newer versions of the trust root that came
	Announcements int               `json:"announcements"` // newer releases that came to be known
	Timestamps    int               `json:"timestamps"`    // timestamps that came
	BytesFetched  uint64            `json:"bytes_fetched"` // from the stick, verified
	Problems      []string          `json:"problems"`      // what is wrong with the stick, in words; the first of them
	ProblemCount  int               `json:"problem_count"`
}

// ImportedProduct is one product that a stick announces.
type ImportedProduct struct {
	Product     string `json:"product"`
	Outcome     string `json:"outcome"` // see StickReady and the others
	Followed    bool   `json:"followed"`
	Version     string `json:"version"` // newest known here now
	Epoch       uint64 `json:"epoch"`
	Seq         uint64 `json:"seq"`
	StickSeq    uint64 `json:"stick_seq"`              // of the release on the stick
	BytesNeeded uint64 `json:"bytes_needed,omitempty"` // what is still missing; 0 also while that is not known
	Error       string `json:"error,omitempty"`
	Hint        string `json:"hint,omitempty"`
}

// plugged is a stick that takes part in fetches. The node's goroutine owns it.
type plugged struct {
	*stick.Neighbour
	has   func(store.Digest) bool
	spent map[cid.Cid]bool // by manifest: nothing more comes from here for it
	wg    sync.WaitGroup

	mu     sync.Mutex
	joined map[*fetch.Session]bool // guarded by mu: the fetch knows the stick
}

// Import takes what a stick has for this home: newer trust roots, announcements and timestamps, and the content of what is
// followed or carried here, which is staged as after any fetch. Nothing on the stick is believed: documents are verified by the
// catalog, content by its hash, in the bytes that are kept. It ends when the stick has nothing more to give; what came is kept,
// and another Import, or neighbours, go on from there. With an error there is a result too.
func (n *Node) Import(ctx context.Context, dir string, progress func(StickProgress)) (res ImportResult, err error) {
	res.Products, res.Problems = []ImportedProduct{}, []string{}
	if progress == nil {
		progress = func(StickProgress) {}
	}
	if !filepath.IsAbs(dir) {
		return res, fail(CodeBadInput, "give an absolute path", fmt.Errorf("the stick %q", dir))
	}
	st, err := stick.Open(dir)
	if err != nil {
		return res, stickError(dir, err)
	}
	defer st.Close()
	res.Path = st.Path()
	im := &importing{n: n, stick: st, res: &res, heads: map[string][2]uint64{}, was: map[string]bool{}, needs: map[string]uint64{}, fails: map[string]error{}, moved: map[string][2]uint64{}}
	err = im.learn(ctx)
	if err == nil {
		err = im.fetch(ctx, dir, progress)
		im.judge()
	}
	return res, im.verdict(err)
}

// importing is one run of Import.
type importing struct {
	n     *Node
	stick *stick.Stick
	res   *ImportResult
	heads map[string][2]uint64 // by product: epoch and seq that the stick announces
	was   map[string]bool      // by product: it needed nothing when the import began
	needs map[string]uint64    // by product: bytes that were missing when the stick had no more
	moved map[string][2]uint64 // by product: bytes that are here, and all
	fails map[string]error     // by product: why it did not get on
	own   []string             // problems of documents
	plug  *plugged
}

func (im *importing) problem(format string, args ...any) {
	im.own = append(im.own, fmt.Sprintf(format, args...))
}

// learn takes over roots and documents. Without a trust root that the stick's belong to nothing is taken at all.
func (im *importing) learn(ctx context.Context) error {
	ours, err := im.learnRoots()
	if err != nil {
		return err
	}
	for _, c := range im.stick.Catalogs() {
		if !ours[c.Root] {
			continue
		}
		d, err := im.stick.Documents(c)
		if err != nil {
			im.problem("%v", err)
			continue
		}
		if err := im.learnDocuments(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// learnRoots continues the chain that is trusted here, and gives the ids of all roots that belong to it.
func (im *importing) learnRoots() (ours map[[20]byte]bool, err error) {
	n := im.n
	var chains [][]*announce.SignedRoot
	var names []string
	for _, name := range im.stick.RootFiles() {
		b, err := im.stick.RootFile(name)
		var f *announce.RootFile
		if err == nil {
			f, err = announce.ParseRootFile(b)
		}
		if err != nil {
			im.problem("%q is no root file: %v", name, err)
			continue
		}
		chains, names = append(chains, f.Steps()), append(names, filepath.Join(im.stick.Path(), name))
	}
	err = n.call(func() error {
		if n.catalog.Root() == nil {
			return errUntrusted(names)
		}
		before, news := n.catalog.RootVersion(), false
		ours = n.rootIDs()
		for _, chain := range chains {
			if !slices.ContainsFunc(chain, func(sr *announce.SignedRoot) bool { return ours[sr.ID()] }) && chain[0].Version != before+1 {
				continue // it can neither follow ours nor say more of it
			}
			for _, step := range chain {
				if !ours[step.ID()] && n.catalog.AddRoot(step.Envelope()).Verdict == announce.Accept {
					news = true // also that the root keys signed two of one version
				}
			}
		}
		ours = n.rootIDs()
		if im.res.Roots = int(n.catalog.RootVersion() - before); !news {
			return nil
		}
		n.log.Info("news of the trust root", slog.Uint64("version", n.catalog.RootVersion()))
		clear(n.ex.seen)
		return n.keepCatalog()
	})
	if err != nil {
		return nil, err
	}
	related := len(chains) == 0
	for _, chain := range chains {
		mine := slices.IndexFunc(chain, func(sr *announce.SignedRoot) bool { return ours[sr.ID()] })
		related = related || mine >= 0
		for _, sr := range chain[:max(mine, 0)] { // older than what a person trusted here
			ours[sr.ID()] = true
		}
	}
	if !related {
		return nil, n.errStranger(names, chains)
	}
	return ours, nil
}

// rootIDs are the ids of the chain that is trusted here.
func (n *Node) rootIDs() map[[20]byte]bool {
	ids := map[[20]byte]bool{}
	for _, step := range n.catalog.RootChain() {
		if sr, err := announce.ParseRoot(step.Envelope); err == nil {
			ids[sr.ID()] = true
		}
	}
	return ids
}

func errUntrusted(names []string) error {
	if len(names) == 0 {
		return errNoRoot()
	}
	return fail(CodeNoRoot, fmt.Sprintf(`"satchel root show %[1]s" prints what to compare with the publisher; then "satchel trust %[1]s" and import again`, names[0]),
		fmt.Errorf("this home trusts no root yet, so it can believe nothing on the stick; the stick brings the root file %s", strings.Join(names, " and ")))
}

func (n *Node) errStranger(names []string, chains [][]*announce.SignedRoot) error {
	var version uint64
	n.do(func() { version = n.catalog.RootVersion() })
	for _, chain := range chains {
		if first := chain[0].Version; first > version+1 {
			return fail(CodeRefused, "neighbours, or a stick that was made by an older home, have what lies between; else ask the publisher for a root file with all versions",
				fmt.Errorf("the trust root on the stick begins with version %d, version %d is trusted here: nothing shows that they belong together, and nothing was taken", first, version))
		}
	}
	last := chains[0][len(chains[0])-1]
	return fail(CodeRefused, fmt.Sprintf(`the stick is another publisher's, or a forgery; "satchel root show %s" says whose. To trust that one instead use "satchel trust --force"`, names[0]),
		fmt.Errorf("the trust root on the stick (version %d, id %x) does not belong to the one that is trusted here; nothing was taken", last.Version, last.ID()))
}

const (
	documentsAtOnce = 32 // verified before others may speak to the node: signatures are dear
	maxFalse        = 64 // documents of a stick that may fail verification before the rest is left
)

func (im *importing) learnDocuments(ctx context.Context, d *stick.Documents) error {
	var before [8]byte
	im.n.do(func() { before = im.n.catalog.Digest() })
	refused := 0
	take := func(res announce.Result) bool {
		if res.Verdict == announce.Reject {
			refused++
		}
		return res.Verdict == announce.Accept
	}
	for batch := range slices.Chunk(d.Announcements, documentsAtOnce) {
		if refused >= maxFalse || ctx.Err() != nil {
			break
		}
		im.n.do(func() {
			for _, env := range batch {
				sa, err := announce.ParseAnnouncement(env)
				if err != nil {
					take(announce.Malformed(err))
					continue
				}
				res := im.n.catalog.AddParsed(sa)
				if take(res) && res.Announcement != nil {
					im.res.Announcements++
				}
				im.noteHead(&sa.Announcement)
			}
		})
	}
	err := im.n.call(func() error {
		for _, env := range d.Timestamps {
			if refused < maxFalse && take(im.n.catalog.AddTimestamp(im.n.count.now().Up, env)) {
				im.res.Timestamps++
			}
		}
		if im.n.catalog.Digest() == before {
			return nil
		}
		return im.n.keepCatalog()
	})
	if refused > 0 {
		im.problem("%d documents in the catalog are false and were left alone", refused)
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

// noteHead remembers what the stick announces, unless the catalog has nothing as new: then it did not believe it.
func (im *importing) noteHead(a *announce.Announcement) {
	head := [2]uint64{a.Epoch, a.Seq}
	newest, _, ok := im.n.catalog.Latest(a.Product)
	believed := ok && slices.Compare(head[:], []uint64{newest.Epoch, newest.Seq}) <= 0 || !ok && im.n.refused(a.Product)
	if believed && slices.Compare(head[:], im.head(a.Product)) > 0 {
		im.heads[a.Product] = head
	}
}

func (im *importing) head(product string) []uint64 {
	h := im.heads[product]
	return h[:]
}

// fetch has the stick take part in fetches until it has nothing more to give.
func (im *importing) fetch(ctx context.Context, dir string, progress func(StickProgress)) error {
	n := im.n
	p := &plugged{Neighbour: stick.NewNeighbour(im.stick, "stick:"+dir), has: im.stick.Has, spent: map[cid.Cid]bool{}, joined: map[*fetch.Session]bool{}}
	im.plug = p
	serving, stop := context.WithCancel(ctx)
	served := make(chan struct{})
	go func() { p.Run(serving); close(served) }()
	err := n.call(func() error { return n.plugIn(im) })
	if err == nil {
		err = im.await(ctx, progress)
		n.unplug(p)
	}
	stop()
	<-served
	im.res.BytesFetched = p.Served()
	return err
}

// plugIn begins what a stick can help with. It is for the node's goroutine.
func (n *Node) plugIn(im *importing) error {
	name := im.plug.Name()
	if n.sticks[name] != nil {
		return fail(CodeConflict, "wait for it", fmt.Errorf("the stick %q is being imported already", im.res.Path))
	}
	n.sticks[name] = im.plug
	for _, s := range n.sessions {
		im.plug.attach(s)
	}
	for _, l := range n.lines {
		a, _, ok := n.catalog.Latest(l.product)
		im.was[l.product] = ok && n.arrived(l, &a)
		if l.job == nil {
			l.calm() // what kept it from getting on may be over
		}
		if l.place != nil && l.place.job == nil {
			l.place.calm()
		}
	}
	n.advanceAll()
	return nil
}

// arrived reports whether nothing is left to do for a release: its content is whole, and its tree staged where it is followed.
func (n *Node) arrived(l *line, a *announce.Announcement) bool {
	if !n.db.complete(a.Manifest) || l.place == nil || n.policyFor(l.place.dir) == PolicyNever {
		return n.db.complete(a.Manifest)
	}
	if l.place.img == nil {
		return false
	}
	_, ok := n.staged1(l.place, a)
	return ok
}

// attach makes the stick known to a fetch.
func (p *plugged) attach(s *fetch.Session) {
	p.wg.Go(func() {
		p.Join(s)
		p.mu.Lock()
		p.joined[s] = true
		p.mu.Unlock()
	})
}

// idle reports whether a fetch has got all that it can from the stick and from everybody else.
func (p *plugged) idle(s *fetch.Session) bool {
	p.mu.Lock()
	joined := p.joined[s]
	p.mu.Unlock()
	return joined && s.Idle()
}

// unplug ends what only a stick made possible, and waits for it.
func (n *Node) unplug(p *plugged) {
	var ending []*job
	n.do(func() {
		delete(n.sticks, p.Name())
		for _, s := range n.sessions {
			p.wg.Go(func() { p.Leave(s) })
		}
		for _, l := range n.lines {
			if l.job != nil && l.job.session != nil && !n.canFetch(l.job.target.Manifest) {
				l.job.end()
				ending = append(ending, l.job)
			}
		}
	})
	p.wg.Wait()
	for _, j := range ending {
		<-j.done
	}
}

// canFetch reports whether somebody may have what is missing of a release: a neighbour, or a stick.
func (n *Node) canFetch(m cid.Cid) bool {
	for _, p := range n.sticks {
		if !p.spent[m] {
			return true
		}
	}
	return n.net != nil
}

// tellSticks makes a new fetch known to the sticks that are here.
func (n *Node) tellSticks(s *fetch.Session) {
	for _, p := range n.sticks {
		p.attach(s)
	}
}

// othersMayHave is how long a fetch must have nothing to do before a stick is done with it, when there are neighbours: they may just
// be getting what is missing.
const othersMayHave = 3 * time.Second

// await returns when every product that the stick has something for needs nothing more, or nothing more that it has.
func (im *importing) await(ctx context.Context, progress func(StickProgress)) error {
	n, since := im.n, map[*fetch.Session]time.Time{}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		changed := n.Changed()
		var busy []*fetch.Session
		done := true
		var p StickProgress
		if err := n.call(func() error { busy, done, p = im.look(); return nil }); err != nil {
			return err
		}
		progress(p)
		if done {
			return nil
		}
		for _, s := range busy {
			if !im.plug.idle(s) {
				delete(since, s)
				continue
			}
			if since[s].IsZero() {
				since[s] = time.Now()
			}
			if s.Progress().Peers == 1 || time.Since(since[s]) >= othersMayHave {
				n.do(func() { im.spend(s) })
			}
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.ended:
			return fail(CodeOffline, "import again when it runs", errors.New("the node has stopped"))
		}
	}
}

// spend notes that the stick has nothing more for a fetch. Without a network the fetch ends then.
func (im *importing) spend(s *fetch.Session) {
	p := im.plug
	for _, l := range im.n.lines {
		if l.job == nil || l.job.session != s {
			continue
		}
		m := l.job.target.Manifest
		p.spent[m] = true
		im.needs[l.product] = s.Progress().BytesNeeded
		p.wg.Go(func() { p.Leave(s) })
		if !im.n.canFetch(m) {
			l.job.end()
		}
	}
	im.n.touch()
}

// look says what is still going on for the products that the stick has something for: the fetches, whether everything has
// ended, and how far it is. It is for the node's goroutine.
func (im *importing) look() (fetches []*fetch.Session, done bool, p StickProgress) {
	n := im.n
	done = true
	for _, l := range n.lines {
		a, _, ok := n.catalog.Latest(l.product)
		if !ok || l.place == nil && !n.carried(l.product) || !im.plug.has(store.DigestOf(a.Manifest)) {
			continue
		}
		switch {
		case l.job != nil:
			pr := l.job.session.Progress()
			im.moved[l.product] = [2]uint64{pr.BytesTotal - pr.BytesNeeded, pr.BytesTotal}
			if im.plug.spent[l.job.target.Manifest] {
				continue
			}
			fetches = append(fetches, l.job.session)
			p.What, done = StateFetching, false
		case l.place != nil && l.place.job != nil:
			done = false
			im.moved[l.product] = [2]uint64{im.moved[l.product][1], im.moved[l.product][1]}
			if p.What == "" {
				p.What = l.place.job.state
			}
		case n.pruning:
			done = false
		case l.err != nil, n.db.complete(a.Manifest), im.plug.spent[a.Manifest]:
		default: // it waits for its turn
			done = false
		}
	}
	for _, m := range im.moved {
		p.Done += m[0]
		p.Total += m[1]
	}
	return fetches, done, p
}

// judge says what became of each product that the stick announces, or has content of.
func (im *importing) judge() {
	n := im.n
	n.do(func() {
		names := map[string]bool{}
		for name := range im.heads {
			names[name] = true
		}
		for name := range n.lines {
			if a, _, ok := n.catalog.Latest(name); ok && im.plug.has(store.DigestOf(a.Manifest)) {
				names[name] = true
			}
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			if p, ok := im.outcome(name); ok {
				im.res.Products = append(im.res.Products, p)
			}
		}
	})
}

// outcome is false for a product of which no release can be believed here.
func (im *importing) outcome(name string) (p ImportedProduct, ok bool) {
	n, l := im.n, im.n.lines[name]
	a, _, known := n.catalog.Latest(name)
	p = ImportedProduct{Product: name, Version: a.Version, Epoch: a.Epoch, Seq: a.Seq, StickSeq: im.heads[name][1]}
	if !known && !n.refused(name) {
		return p, false
	}
	followed := l != nil && l.place != nil
	p.Followed = followed
	switch {
	case !known:
		p.Outcome = StickRefused
	case !followed && !n.carried(name) && !n.published(name):
		p.Outcome = StickUnwanted
	case slices.Compare(im.head(name), []uint64{a.Epoch, a.Seq}) < 0 && !im.plug.has(store.DigestOf(a.Manifest)):
		p.Outcome = StickOlder
	case l == nil || n.arrived(l, &a):
		p.Outcome = StickReady
		if im.was[name] || l == nil {
			p.Outcome = StickHere
		}
	case l.failure() != nil:
		p.Outcome, p.Error, p.Hint = StickFailed, l.failure().Error(), HintOf(l.failure())
		im.fails[name] = l.failure()
	case !im.plug.has(store.DigestOf(a.Manifest)):
		p.Outcome = StickNews
	default:
		p.Outcome, p.BytesNeeded = StickIncomplete, im.needs[name]
	}
	return p, true
}

// verdict adds up what is wrong, and says what a person must know.
func (im *importing) verdict(err error) error {
	medium, res := im.stick.Problems(), im.res
	res.Problems = append(append(res.Problems, im.own...), medium.Texts...)
	res.ProblemCount = len(im.own) + medium.Count
	if err != nil {
		return err
	}
	of := map[string][]string{}
	for _, p := range res.Products {
		of[p.Outcome] = append(of[p.Outcome], p.Product)
	}
	switch part, bad := of[StickIncomplete], of[StickFailed]; {
	case len(bad) > 0:
		err := im.fails[bad[0]]
		return fail(cmp.Or(CodeOf(err), CodeNotReady), HintOf(err), fmt.Errorf("importing %s: %w", bad[0], err))
	case medium.Last != nil && (len(part) > 0 || len(res.Products) == 0):
		return fail(CodeNotReady, "is it still plugged in? what came is kept; import again, from this stick or another: it goes on where it stopped",
			fmt.Errorf("the stick stopped answering: %w", medium.Last))
	case len(part) > 0 && res.ProblemCount > 0:
		return fail(CodeCorrupt, `what was good is kept; export to the stick again, or let neighbours ("satchel up") or another stick bring the rest`,
			fmt.Errorf("a part of %s is damaged on the stick, or missing", list(part)))
	case len(part) > 0:
		return fail(CodeNotReady, `what came is kept; neighbours ("satchel up"), or a stick that was made without --since, bring the rest`,
			fmt.Errorf("the stick has only a part of what is missing here of %s", list(part)))
	case len(of[StickReady])+len(of[StickHere]) > 0:
		return nil
	}
	return im.nothing(of)
}

// nothing says why an import took no content.
func (im *importing) nothing(of map[string][]string) error {
	switch res := im.res; {
	case len(of[StickRefused]) > 0:
		return fail(CodeEquivocal, "the publisher heals it by publishing again with a higher seq",
			fmt.Errorf("two releases claim the newest number of %s", list(of[StickRefused])))
	case len(of[StickOlder]) > 0:
		return fail(CodeOlder, "export to the stick again from a machine that is on the newest release",
			fmt.Errorf("what the stick has of %s is older than what is known here; nothing was taken", list(of[StickOlder])))
	case len(of[StickNews]) > 0:
		return fail(CodeNotReady, `neighbours ("satchel up") or another stick must bring it`,
			fmt.Errorf("the stick knows of a newer %s, but has not its content", list(of[StickNews])))
	case res.ProblemCount > 0 && len(res.Products) == 0:
		return fail(CodeCorrupt, "export to the stick again", fmt.Errorf("the stick is damaged: %s", res.Problems[0]))
	case len(of[StickUnwanted]) > 0:
		some := of[StickUnwanted][:min(len(of[StickUnwanted]), 10)]
		return fail(CodeNotFound, fmt.Sprintf(`follow what you want, as in "satchel follow %s --image DIR", and import again`, some[0]),
			fmt.Errorf("nothing on the stick is followed or carried here; it announces %s", list(some)))
	}
	return fail(CodeNotFound, "export to the stick again, from a home that trusts the same root", errors.New("the stick has no release that this home can believe"))
}
