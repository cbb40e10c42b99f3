package fetch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/ipfs/go-cid"
	"satchel/store"
	"satchel/store/manifest"
)

// Release says what to fetch, as its announcement does.
type Release struct {
	Product      string
	Epoch, Seq   uint64
	Manifest     cid.Cid
	ManifestSize uint64 // bytes
	TotalSize    uint64 // bytes of all file entries
	Recall       bool   // the content is that of an older release: the manifest has a lower (Epoch, Seq)
}

// Config is what a Session needs to know. Store and Release must be set.
type Config struct {
	Store   *store.Store
	Release Release

	// Self is this node's own name as its neighbours know it (their Peer.ID for us). With it, nodes that fetch together
	// divide the publisher's work among themselves without a word; without it they only have chance.
	Self string

	// Seed makes the random choices of nodes differ. Zero is a seed like any other.
	Seed uint64

	// Check is asked once about the manifest, when it is here and is the one announced. Its error ends the session, with
	// ErrRelease, before anything that the manifest names is fetched. It is called by a goroutine that may take its time. Nil:
	// every manifest will do.
	Check func(*manifest.Manifest) error

	// OnHave is told what became available here, for whoever watches us. An empty slice says that so much did that it is
	// better to tell Holdings anew. It is called by the session's goroutine and must not block; it may call Holdings.
	// The slice is the callee's. Nil: nobody wants to know.
	OnHave func([]Have)

	// OnBlame is told that a neighbour lied, sent wrong bytes or stalled (then the reason begins with Stalled). The session
	// is done with that neighbour already; one that only stalled is welcome again with PeerUp.
	// It is called by the session's goroutine and must not block. Nil: nobody wants to know.
	OnBlame func(peer, reason string)

	Log *slog.Logger // nil: silent
}

// ErrRelease is in the chain of Run's error when the release itself is at fault: its manifest, or a chunk list, is not what
// its announcement or its manifest says, or Config.Check refuses it. No neighbour can help; only a newer release can.
var ErrRelease = errors.New("the release contradicts itself")

// Session fetches one release into a store. Its methods may be called from any goroutine.
//
// One goroutine, that of Run, owns all state. Whatever may block (disk, hashing) is done by workers that hand it a
// continuation back; nothing else touches the fields below, except those under mu.
type Session struct {
	cfg     Config
	log     *slog.Logger
	events  chan func()   // from neighbours
	results chan func()   // from workers
	ended   chan struct{} // closed when Run returns
	ctx     context.Context
	start   time.Time

	planner *Planner
	pieces  []piece
	byHash  map[uint64]int32 // digest's first half → the piece with this content
	peers   map[string]*peer
	banned  map[string]bool
	asks    map[uint64]request // by request id
	nextID  uint64
	batches []*peer // those with requests to send or cancel

	shape    shape
	manifest *blob            // the manifest while it is being fetched
	raws     []int32          // by blob: the piece that brings a raw blob, or -1
	larges   map[uint32]*blob // large blobs that are not whole
	blobs    todo

	jobs     []func() func() // for the pool, not handed out yet
	busy     int             // jobs whose continuation has not run
	pool     chan func() func()
	working  sync.WaitGroup
	dirty    bool
	syncing  bool
	nextSync time.Time
	stopping bool
	finished bool
	err      error

	news []Have
	much bool // so much is new that Holdings says it better

	mu       sync.Mutex
	hold     ours     // guarded by mu
	progress Progress // guarded by mu
	meter    meter    // guarded by mu
}

// New makes a session; Run starts it. What neighbours say before is remembered.
func New(cfg Config) *Session {
	s := &Session{
		cfg: cfg, log: cfg.Log,
		events: make(chan func(), 1024), results: make(chan func(), 64), ended: make(chan struct{}),
		planner: NewPlanner(cfg.Seed, cfg.Self),
		byHash:  make(map[uint64]int32), peers: make(map[string]*peer), banned: make(map[string]bool),
		asks: make(map[uint64]request), larges: make(map[uint32]*blob), pool: make(chan func() func()),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With(slog.String("product", cfg.Release.Product), slog.Uint64("seq", cfg.Release.Seq))
	s.shape.manifestSize = cfg.Release.ManifestSize
	s.progress.BytesFetched = make(map[string]uint64)
	return s
}

// Run fetches until everything is here and durable, and then returns nil. It returns early with ctx's error, with an error
// of the local disk ([store.ErrNoSpace] when it is full), or with [ErrRelease]. Whatever came until then is kept: another
// session goes on from there. A session runs once.
func (s *Session) Run(ctx context.Context) error {
	r := s.cfg.Release
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("fetching %s %d/%d: %w", r.Product, r.Epoch, r.Seq, err)
	}
	return nil
}

func (s *Session) run(ctx context.Context) error {
	defer close(s.ended)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.ctx, s.start = ctx, time.Now()
	s.update(func(p *Progress) { p.Started = s.start })
	for range min(runtime.GOMAXPROCS(0), 4) {
		s.working.Go(func() {
			for job := range s.pool {
				s.results <- job()
			}
		})
	}
	s.begin()
	s.loop()
	cancel()
	s.stop()
	return s.err
}

// loop handles one event after the other until the session is finished or stopped.
func (s *Session) loop() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for s.err == nil && !s.finished {
		wait := s.wait()
		if wait == 0 {
			s.tick()
			continue
		}
		s.flush()
		timer.Reset(wait)
		var pool chan func() func()
		var job func() func()
		if len(s.jobs) > 0 {
			pool, job = s.pool, s.jobs[0]
		}
		select {
		case <-s.ctx.Done():
			s.err = s.ctx.Err()
		case event := <-s.events:
			event()
			s.drain()
		case done := <-s.results:
			s.busy--
			done()
		case pool <- job:
			s.jobs[0] = nil
			s.jobs = s.jobs[1:]
		case <-timer.C:
		}
	}
	s.flush()
}

// drain handles some more events that are here already, so that what follows from them is sent together.
func (s *Session) drain() {
	for range 64 {
		select {
		case event := <-s.events:
			event()
		default:
			return
		}
	}
}

// wait is how long nothing need be done.
func (s *Session) wait() time.Duration {
	wait := time.Hour
	if at, ok := s.planner.Deadline(); ok {
		wait = min(wait, at-s.clock())
	}
	if s.dirty && !s.syncing {
		wait = min(wait, time.Until(s.nextSync))
	}
	if d, ok := s.blobs.deadline(s); ok {
		wait = min(wait, time.Until(d))
	}
	return max(wait, 0)
}

func (s *Session) clock() time.Duration { return time.Since(s.start) }

func (s *Session) tick() {
	s.plan(Tick{})
	s.lateLists()
	if s.dirty && !s.syncing && !time.Now().Before(s.nextSync) {
		s.sync()
	}
}

// stop waits for the workers, keeps what they still bring, and leaves everything tidy.
func (s *Session) stop() {
	s.stopping = true
	close(s.pool)
	go func() {
		s.working.Wait()
		close(s.results)
	}()
	for done := range s.results {
		done()
	}
	for id := range s.peers {
		s.cancelAll(s.peers[id])
	}
	for _, l := range s.larges {
		s.closePartial(l)
	}
	if s.manifest != nil {
		s.closePartial(s.manifest)
	}
	if s.dirty {
		if err := s.cfg.Store.Sync(); err != nil && (s.err == nil || errors.Is(s.err, context.Canceled)) {
			s.err = err
		}
	}
	s.flush()
}

// do has the pool do something that takes long; what it returns is called by the session's goroutine afterwards.
func (s *Session) do(job func() func()) {
	if !s.stopping {
		s.busy++
		s.jobs = append(s.jobs, job)
	}
}

// slowly is like do for what takes so long that it would keep the pool from its work. The caller sees to it that few
// such things run at a time.
func (s *Session) slowly(job func() func()) {
	if !s.stopping {
		s.busy++
		s.working.Go(func() { s.results <- job() })
	}
}

// fail ends the session.
func (s *Session) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// sync makes durable what came until now.
func (s *Session) sync() {
	s.dirty, s.syncing = false, true
	s.slowly(func() func() {
		err := s.cfg.Store.Sync()
		return func() {
			s.syncing = false
			s.nextSync = time.Now().Add(time.Second)
			if err != nil {
				s.fail(err)
				return
			}
			s.finishIfDone()
		}
	})
}

// finishIfDone ends the session when all is here and durable.
func (s *Session) finishIfDone() {
	if !s.blobs.complete || s.syncing || s.stopping {
		return
	}
	if s.dirty {
		s.sync()
		return
	}
	s.finished = true
	s.update(func(p *Progress) { p.Phase = PhaseDone })
}

// inconsistent ends the session because of the release itself.
func (s *Session) inconsistent(format string, args ...any) {
	s.fail(fmt.Errorf("%w: %s", ErrRelease, fmt.Sprintf(format, args...)))
}

// check compares the manifest with the announcement.
func (s *Session) check(m *manifest.Manifest) error {
	r := s.cfg.Release
	same := m.Epoch == r.Epoch && m.Seq == r.Seq
	older := m.Epoch < r.Epoch || m.Epoch == r.Epoch && m.Seq < r.Seq
	if m.Product != r.Product || r.Recall && !older || !r.Recall && !same {
		return fmt.Errorf("%w: the manifest is for %s %d/%d", ErrRelease, m.Product, m.Epoch, m.Seq)
	}
	if total := m.TotalSize(); total != r.TotalSize {
		return fmt.Errorf("%w: the manifest has %d bytes of files, announced were %d", ErrRelease, total, r.TotalSize)
	}
	if s.cfg.Check == nil {
		return nil
	}
	if err := s.cfg.Check(m); err != nil {
		return fmt.Errorf("%w: %w", ErrRelease, err)
	}
	return nil
}
