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

// line is one product that this node follows or carries. Owned by the node's goroutine; its job, a fetch, runs beside. What comes
// after the fetch is the place's.
//
//	fetching ──► whole
//	    └── failed: tried again after a while
type line struct {
	product string
	place   *place // nil when only carried
	wanted  int    // how many changes of images wait for its newest release
	job     *job
	trouble
	last   *FetchStatus // of the newest finished fetch
	lastOf cid.Cid
}

// trouble is why something does not get on. It is tried again after a while, each time after twice as long.
type trouble struct {
	err      error
	about    string    // what err is about: other work need not wait; empty: all of it
	retryAt  time.Time // zero: now
	patience time.Duration
}

// calm forgets a failure that is over.
func (t *trouble) calm() { *t = trouble{} }

func (t *trouble) note(err error, about string) {
	t.err, t.about = err, about
	t.patience = min(max(2*t.patience, 2*time.Second), maxRetry)
	t.retryAt = time.Now().Add(t.patience)
}

// waiting says whether what it is about must wait.
func (t *trouble) waiting(about string) bool {
	return time.Now().Before(t.retryAt) && (t.about == about || t.about == "")
}

// job is work beside the node's goroutine: a fetch, or laying down a tree.
type job struct {
	about   string                // what it brings about
	mine    bool                  // a person waits for it
	made    image.Deployment      // by a staging that has ended
	want    []image.Release       // of a staging
	target  announce.Announcement // of a fetch
	state   string                // StateFetching or StateStaging
	session *fetch.Session
	cancel  context.CancelFunc
	done    chan struct{}
	err     error     // when done is closed
	alone   time.Time // since when its fetch has no neighbour; zero: it has
}

const (
	maxRetry   = 5 * time.Minute
	maxFetches = 8                // at once; times the requests of one fetch this stays below what a neighbour takes
	lonely     = 30 * time.Second // a fetch that has no neighbour for so long makes room for another
)

func (j *job) end() {
	if j != nil {
		j.cancel()
	}
}

// restoreLines reads follows, carries and a hold from state.db. Nothing is begun before the node runs or is told to: to ask for its status
// changes nothing.
func (n *Node) restoreLines() {
	n.db.getJSON("meta", "hold", &n.hold)
	n.db.all("carries", func(pattern string, _ []byte) { n.carries[pattern] = true })
	n.db.all("follows", func(product string, dir []byte) { n.line(product).place = n.placeAt(string(dir)) })
	for _, p := range n.places {
		n.openPlace(p)
	}
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

// carried reports whether a carry pattern covers product.
func (n *Node) carried(product string) bool {
	for pattern := range n.carries {
		if announce.Covers(pattern, product) {
			return true
		}
	}
	return false
}

// asked reports whether somebody here wants the product's newest release.
func (n *Node) asked(l *line) bool { return l.place != nil || l.wanted > 0 || n.carried(l.product) }

// advanceAll looks at every product that somebody here wants; those that are followed come first.
func (n *Node) advanceAll() {
	for _, h := range n.catalog.Heads() {
		if n.carried(h.Product) {
			n.line(h.Product)
		}
	}
	for _, followed := range []bool{true, false} {
		for _, l := range n.lines {
			if (l.place != nil || l.wanted > 0) == followed {
				n.advance(l)
			}
		}
	}
	for _, p := range n.places {
		n.lay(p)
	}
}

// advance starts a fetch for l, if there is something to fetch and none is under way.
func (n *Node) advance(l *line) {
	target, _, ok := n.catalog.Latest(l.product)
	about := target.Manifest.String()
	switch {
	case !ok || !n.asked(l):
		l.job.end()
		l.calm()
	case l.job != nil:
		if l.job.about != about {
			l.job.end() // something newer: what is on disk already is kept
		}
	case l.waiting(about) || n.pruning:
	case target.MinUpdater > formatLevel:
		n.failLine(l, about, fail(CodeTooNew, "update satchel on this machine first",
			fmt.Errorf("%s %s needs a satchel that installs format %d; this one installs %d", l.product, target.Version, target.MinUpdater, formatLevel)))
	case n.db.complete(target.Manifest):
		l.calm()
	case n.canFetch(target.Manifest) && len(n.sessions) < maxFetches:
		n.startFetch(l, target)
	}
}

// failLine notes why l does not get on with a release and tries again later.
func (n *Node) failLine(l *line, about string, err error) {
	l.note(err, about)
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
				l.retryAt, l.about = now.Add(lonely), j.about
				j.end()
			}
		}
		if l.job == nil && !l.retryAt.IsZero() && !now.Before(l.retryAt) {
			l.retryAt = time.Time{}
			n.advance(l)
		}
	}
	for _, p := range n.places {
		if p.job == nil && !p.retryAt.IsZero() && !now.Before(p.retryAt) {
			p.retryAt = time.Time{}
			n.lay(p)
		}
	}
}

// startJob runs work beside the node's goroutine and finish on it; its trouble is noted. at is where the job is kept.
func (n *Node) startJob(at **job, t *trouble, j *job, work func(ctx context.Context) error, finish func(err error)) {
	parent, wg := n.owner()
	ctx, cancel := context.WithCancel(parent)
	j.cancel, j.done = cancel, make(chan struct{})
	*at = j
	n.touch()
	wg.Add(1)
	go func() {
		defer wg.Done()
		err := work(ctx)
		n.do(func() {
			*at = nil
			switch {
			case err == nil:
				t.calm()
			case ctx.Err() == nil:
				t.note(err, j.about)
				n.log.Warn("stuck", slog.String("while", j.state), slog.Any("err", err))
			}
			finish(err)
			if parent.Err() == nil {
				n.advanceAll() // also others may have waited for this one's place
			}
			n.touch()
		})
		cancel()
		j.err = err
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
	may, room := n.policy(l.product), n.roomFor(l)
	s := n.beginSession(fetch.Release{Product: target.Product, Epoch: target.Epoch, Seq: target.Seq, Manifest: m,
		ManifestSize: target.ManifestSize, TotalSize: target.TotalSize, Recall: target.Recall},
		func(m *manifest.Manifest) error {
			if err := m.Check(may); err != nil {
				return err
			}
			return room(m)
		})
	n.log.Info("fetching", slog.String("product", l.product), slog.String("version", target.Version), slog.Uint64("seq", target.Seq))
	n.startJob(&l.job, &l.trouble, &job{about: m.String(), target: target, state: StateFetching, session: s}, func(ctx context.Context) error {
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
	var mine *Error
	switch {
	case errors.As(err, &mine): // what was checked before fetching
		return mine
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
