package p2p

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
	"satchel/fetch"
	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// line is one product that this node follows or carries. Owned by the node's goroutine; its job runs beside.
//
//	fetching ──► whole ──► staging ──► ready ──apply──► active
//	    └──────────┴──────────┴── failed: tried again after a while
type line struct {
	product  string
	dir      string       // image directory; "" when only carried
	img      *image.Image // nil when dir is "" or cannot be opened
	job      *job
	err      error
	failed   cid.Cid   // the release that err is about; undefined: any
	retryAt  time.Time // zero: now
	patience time.Duration
	last     *FetchStatus // of the newest finished fetch
	lastOf   cid.Cid
}

// job is the work on one release: a fetch, or laying down a tree.
type job struct {
	target  announce.Announcement
	state   string // StateFetching or StateStaging
	session *fetch.Session
	cancel  context.CancelFunc
	done    chan struct{}
	alone   time.Time // since when its fetch has no neighbour; zero: it has
}

const (
	maxRetry   = 5 * time.Minute
	maxFetches = 8                // at once; times the requests of one fetch this stays below what a neighbour takes
	lonely     = 30 * time.Second // a fetch that has no neighbour for so long makes room for another
)

func (l *line) cancelJob() {
	if l.job != nil {
		l.job.cancel()
	}
}

// restoreLines reads follows and carries from state.db.
func (n *Node) restoreLines() {
	n.db.all("carries", func(pattern string, _ []byte) { n.carries[pattern] = true })
	n.db.all("follows", func(product string, dir []byte) {
		l := n.line(product)
		l.dir = string(dir)
		n.openImage(l)
	})
	n.advanceAll()
}

func (n *Node) line(product string) *line {
	l := n.lines[product]
	if l == nil {
		l = &line{product: product}
		if text, ok := n.db.get("fetches", product); ok {
			var f storedFetch
			if json.Unmarshal(text, &f) == nil {
				l.last = &f.FetchStatus
				l.lastOf, _ = cid.Decode(f.Manifest)
			}
		}
		n.lines[product] = l
	}
	return l
}

// storedFetch is a finished fetch as state.db keeps it.
type storedFetch struct {
	Manifest string `json:"manifest"`
	FetchStatus
}

func (n *Node) openImage(l *line) {
	img, err := image.Open(l.dir)
	if err != nil {
		n.failLine(l, cid.Undef, imageError(l.dir, err))
		return
	}
	l.img = img
	l.calm()
}

// calm forgets a failure that is over.
func (l *line) calm() { l.err, l.failed, l.patience, l.retryAt = nil, cid.Undef, 0, time.Time{} }

// closingImage is an image that was given up while somebody worked on it.
type closingImage struct {
	img  *image.Image
	done chan struct{}
}

// use keeps img open until unuse.
func (n *Node) use(img *image.Image) { n.users[img]++ }

func (n *Node) unuse(img *image.Image) {
	if n.users[img]--; n.users[img] > 0 {
		return
	}
	delete(n.users, img)
	for dir, c := range n.closing {
		if c.img == img {
			img.Close()
			delete(n.closing, dir)
			close(c.done)
		}
	}
}

// giveUp closes l's image as soon as nobody works on it.
func (n *Node) giveUp(l *line) {
	if l.img == nil {
		return
	}
	if n.users[l.img] > 0 {
		n.closing[l.dir] = &closingImage{l.img, make(chan struct{})}
	} else {
		l.img.Close()
	}
	l.img = nil
}

func imageError(dir string, err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fail(CodeNoSpace, "make room on the disk of "+dir, fmt.Errorf("image %q: %w", dir, err))
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES):
		return fail(CodeReadOnly, "mount it read-write, or follow with an image directory that this user can write", fmt.Errorf("image %q: %w", dir, err))
	}
	if CodeOf(err) != "" {
		return err
	}
	return fail(CodeConflict, "", fmt.Errorf("image %q: %w", dir, err))
}

// carried reports whether a carry pattern covers product.
func (n *Node) carried(product string) bool {
	for pattern := range n.carries {
		if announce.Covers(pattern, product) {
			return true
		}
	}
	return false
}

// advanceAll looks at every product that somebody here wants; those that are followed come first.
func (n *Node) advanceAll() {
	for _, h := range n.catalog.Heads() {
		if n.carried(h.Product) {
			n.line(h.Product)
		}
	}
	for _, followed := range []bool{true, false} {
		for _, l := range n.lines {
			if (l.dir != "") == followed {
				n.advance(l)
			}
		}
	}
}

// advance starts the next step for l, if there is one to take and none is under way.
func (n *Node) advance(l *line) {
	target, _, ok := n.catalog.Latest(l.product)
	waiting := time.Now().Before(l.retryAt) && (l.failed == target.Manifest || l.failed == cid.Undef)
	if l.dir != "" && l.img == nil && !waiting {
		if n.openImage(l); l.img == nil {
			return
		}
	}
	switch {
	case !ok || (l.dir == "" && !n.carried(l.product)): // nobody wants it
		l.cancelJob()
		if l.img != nil || l.dir == "" {
			l.calm()
		}
	case l.job != nil:
		if l.job.target.Manifest != target.Manifest {
			l.cancelJob() // something newer: what is on disk already is kept
		}
	case waiting || n.pruning:
	case target.MinUpdater > formatLevel:
		n.failLine(l, target.Manifest, fail(CodeTooNew, "update satchel on this machine first",
			fmt.Errorf("%s %s needs a satchel that installs format %d; this one installs %d", l.product, target.Version, target.MinUpdater, formatLevel)))
	case !n.db.complete(target.Manifest):
		if n.canFetch(target.Manifest) && len(n.sessions) < maxFetches {
			n.startFetch(l, target)
		}
	case l.dir == "", n.behindLive(l, &target):
		l.calm()
	default:
		if _, ok := deployed(l.img, &target); ok {
			l.calm()
		} else {
			n.startStage(l, target)
		}
	}
}

// behindLive reports whether a is older than what is live: neighbours know less than this machine did before it lost its
// catalog. Only a person who rolled back, or who replaced the trust root, makes a machine go to a lower number.
func (n *Node) behindLive(l *line, a *announce.Announcement) bool {
	if l.img == nil {
		return false
	}
	d, _ := l.img.Live()
	live, ok := d.Release(a.Product)
	if !ok || live.Epoch < a.Epoch || live.Epoch == a.Epoch && live.Seq <= a.Seq {
		return false
	}
	_, anew := n.db.get("anew", a.Product)
	return !anew
}

// isRelease reports whether d is what a announces: a recall is another deployment of the same manifest.
func isRelease(d image.Deployment, a *announce.Announcement) bool {
	r, ok := d.Release(a.Product)
	return ok && r.Manifest == a.Manifest && r.Epoch == a.Epoch && r.Seq == a.Seq
}

func deployed(img *image.Image, a *announce.Announcement) (image.Deployment, bool) {
	all, err := img.List()
	if err != nil {
		return image.Deployment{}, false
	}
	for _, d := range all {
		if isRelease(d, a) {
			return d, true
		}
	}
	return image.Deployment{}, false
}

// failLine notes why l does not get on with a release and tries again later; each time the wait doubles.
func (n *Node) failLine(l *line, release cid.Cid, err error) {
	l.err, l.failed = err, release
	l.patience = min(max(2*l.patience, 2*time.Second), maxRetry)
	l.retryAt = time.Now().Add(l.patience)
	n.log.Warn("product is stuck", slog.String("product", l.product), slog.Any("err", err))
	n.touch()
}

// retryLines takes up what was put off, and lets a fetch without neighbours make room for others.
func (n *Node) retryLines() {
	now := time.Now()
	for _, l := range n.lines {
		if j := l.job; j != nil && j.session != nil {
			switch {
			case j.session.Progress().Peers > 0:
				j.alone = time.Time{}
			case j.alone.IsZero():
				j.alone = now
			case len(n.sessions) >= maxFetches && now.Sub(j.alone) > lonely:
				l.retryAt, l.failed = now.Add(lonely), j.target.Manifest
				l.cancelJob()
			}
		}
		if l.job == nil && !l.retryAt.IsZero() && !now.Before(l.retryAt) {
			l.retryAt = time.Time{}
			n.advance(l)
		}
	}
}

// startJob runs work beside the node's goroutine and finish on it.
func (n *Node) startJob(l *line, j *job, work func(ctx context.Context) error, finish func(err error)) {
	parent, wg := n.owner()
	ctx, cancel := context.WithCancel(parent)
	j.cancel, j.done = cancel, make(chan struct{})
	l.job = j
	n.touch()
	wg.Add(1)
	go func() {
		defer wg.Done()
		err := work(ctx)
		n.do(func() {
			l.job = nil
			switch {
			case err == nil:
				l.calm()
			case ctx.Err() == nil:
				n.failLine(l, j.target.Manifest, err)
			}
			finish(err)
			if parent.Err() == nil {
				n.advanceAll() // also others may have waited for this one's place
			}
			n.touch()
		})
		cancel()
		close(j.done)
		debug.FreeOSMemory() // a long list of files was in hand; an idle node should not sit on it
	}()
}

// startFetch brings a release's content here.
func (n *Node) startFetch(l *line, target announce.Announcement) {
	m := target.Manifest
	if n.sessions[m] != nil { // the very same content is under way for somebody else; its end comes back here
		return
	}
	may := n.policy(l.product)
	s := n.beginSession(fetch.Release{Product: target.Product, Epoch: target.Epoch, Seq: target.Seq, Manifest: m,
		ManifestSize: target.ManifestSize, TotalSize: target.TotalSize, Recall: target.Recall},
		func(m *manifest.Manifest) error { return m.Check(may) })
	n.log.Info("fetching", slog.String("product", l.product), slog.String("version", target.Version), slog.Uint64("seq", target.Seq))
	n.startJob(l, &job{target: target, state: StateFetching, session: s}, func(ctx context.Context) error {
		return fetchError(n.cfg.Home, s.Run(ctx))
	}, func(err error) {
		if errors.Is(err, store.ErrMismatch) {
			n.doubt(m)
		}
		if n.endSession(m, err) != nil {
			return
		}
		l.last, l.lastOf = fetchStatus(s.Progress()), m
		n.db.putJSON("fetches", l.product, storedFetch{Manifest: m.String(), FetchStatus: *l.last})
		n.log.Info("fetched", slog.String("product", l.product), slog.String("version", target.Version),
			slog.Uint64("bytes", l.last.BytesFetched))
	})
}

// beginSession makes a fetch that all neighbours know of. It must be run, and then ended. check judges its manifest; nil: it was
// judged before.
func (n *Node) beginSession(r fetch.Release, check func(*manifest.Manifest) error) *fetch.Session {
	m := r.Manifest
	news := func(cid.Cid, []fetch.Have, bool) {}
	if n.net != nil {
		news = n.net.server.news
	}
	s := fetch.New(fetch.Config{Store: n.store, Self: n.id.String(), Seed: maphash.String(maphash.MakeSeed(), m.String()), Log: n.log, Release: r,
		Check:   check,
		OnHave:  func(h []fetch.Have) { news(m, h, len(h) == 0) }, // none: so many that the whole map is shorter
		OnBlame: func(peer, reason string) { n.post(func() { n.blame(peer, reason) }) },
	})
	n.sessions[m] = s
	if n.net != nil {
		for p, k := range n.net.table.known {
			if k.connected {
				n.openAsker(p)
			}
		}
	}
	n.tellSticks(s)
	return s
}

// endSession takes a fetch off again; when err is nil its release is whole from now on.
func (n *Node) endSession(m cid.Cid, err error) error {
	delete(n.sessions, m)
	if r := n.net; r != nil {
		for _, a := range r.askers {
			a.detach(m)
		}
	}
	if err == nil {
		err = n.db.setComplete(m, true)
	}
	if err == nil && n.net != nil {
		n.net.server.news(m, nil, true)
	}
	n.usageAt = time.Time{}
	return err
}

// fetchError adds what to do about a disk that takes no more.
func fetchError(home string, err error) error {
	switch {
	case errors.As(err, new(*manifest.PolicyError)):
		return policyError(err)
	case errors.Is(err, fetch.ErrRelease):
		return releaseError(err)
	case errors.Is(err, fs.ErrExist):
		return fail(CodeConflict, "something else writes to "+home+"/store/partial: only satchel should be able to; what it put there can go", err)
	case errors.Is(err, store.ErrNoSpace), errors.Is(err, syscall.ENOSPC):
		return fail(CodeNoSpace, `make room on the disk of `+home+`, for example with "satchel prune"; what is here is kept, and the fetch goes on by itself`, err)
	case errors.Is(err, syscall.EROFS), errors.Is(err, syscall.EACCES):
		return fail(CodeReadOnly, "make "+home+" writable; the fetch then goes on by itself", err)
	}
	return err
}

// releaseError adds what to do about a release that is not what it was announced to be.
func releaseError(err error) error {
	return fail(CodeRefused, "only its publisher can help, with a newer release; what is live here stays", err)
}

// policyError adds what to do about files that the trust root does not allow.
func policyError(err error) error {
	return fail(CodeRefused, `its publisher changes the tree, or the holders of the root's keys allow it with "satchel root set"`, err)
}

// startStage lays the release's tree down beside the live one.
func (n *Node) startStage(l *line, target announce.Announcement) {
	img, may := l.img, n.policy(l.product)
	n.use(img)
	n.startJob(l, &job{target: target, state: StateStaging}, func(ctx context.Context) error {
		return n.stage(ctx, img, target, may)
	}, func(err error) {
		n.unuse(img)
		switch {
		case err == nil:
			n.log.Info("release ready", slog.String("product", l.product), slog.String("version", target.Version))
		case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrMismatch):
			n.doubt(target.Manifest) // fetched again, the missing part only
		case errors.Is(err, context.Canceled), errors.Is(err, syscall.ENOSPC), CodeOf(err) == CodeRefused:
		case l.img == img: // its directory may have gone away, and come back: look again
			n.giveUp(l)
		}
	})
}

func (n *Node) stage(ctx context.Context, img *image.Image, target announce.Announcement, may manifest.Policy) error {
	m, err := n.store.Manifest(target.Manifest)
	if err != nil {
		return fmt.Errorf("reading the manifest: %w", err)
	}
	if err := belongs(&m.Header, &target); err != nil { // it may have come for another release
		return releaseError(err)
	}
	if err := m.Check(may); err != nil { // it may have come before the root changed
		return policyError(err)
	}
	_, err = img.Stage(ctx, image.Plan{Parts: []image.Part{{Manifest: m, Recall: target.Recall, Release: image.Release{
		Product: target.Product, Epoch: target.Epoch, Seq: target.Seq, Version: target.Version, Manifest: target.Manifest}}}}, n.store)
	if errors.Is(err, syscall.ENOSPC) {
		return fail(CodeNoSpace, `make room, for example with "satchel prune"; staging goes on by itself`, err)
	}
	return err
}

// doubt takes back that a release is whole here, and its manifest away if that is what is damaged.
func (n *Node) doubt(m cid.Cid) {
	n.db.setComplete(m, false)
	if _, err := n.store.Manifest(m); errors.Is(err, store.ErrMismatch) {
		if err := n.store.Discard(m); err != nil {
			n.log.Warn("discarding a damaged manifest", slog.Any("err", err))
		}
	}
}

// blame is what a fetch says of a neighbour that lied or stalled.
func (n *Node) blame(name, reason string) {
	p, err := peer.Decode(name)
	if err != nil || n.net == nil {
		return
	}
	if !strings.HasPrefix(reason, fetch.Stalled) {
		n.offence(p, errors.New(reason))
		return
	}
	// Silence is no crime: it may sleep. A new stream gives it another chance.
	n.log.Info("neighbour stalled", slog.String("peer", name), slog.String("reason", reason))
	if a := n.net.askers[p]; a != nil {
		a.stream.Reset()
	}
}

// cleanDir is dir, absolute and without symbolic links as far as it exists.
func cleanDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return resolve(abs), nil
}

func resolve(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(resolve(parent), filepath.Base(path))
}

// within reports whether path is dir or lies below it.
func within(path, dir string) bool {
	rel, err := filepath.Rel(resolve(dir), resolve(path))
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}
