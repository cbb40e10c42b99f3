package fetch

import (
	"maps"
	"math"
	"time"
)

// Phase is how far a fetch is.
type Phase uint8

const (
	PhaseManifest Phase = iota // the manifest is being fetched
	PhaseLists                 // the chunk lists of the missing large blobs are being fetched
	PhaseLocal                 // chunks that lie in other blobs of the store are being copied
	PhaseChunks                // pieces are being fetched
	PhaseDone                  // everything is here and durable
)

// String is one of "manifest", "lists", "local", "chunks" and "done".
func (p Phase) String() string {
	switch p {
	case PhaseManifest:
		return "manifest"
	case PhaseLists:
		return "lists"
	case PhaseLocal:
		return "local"
	case PhaseChunks:
		return "chunks"
	}
	return "done"
}

// Progress is a snapshot of a Session. Sizes are in bytes of plain content. Each distinct blob counts once, however many
// entries have it; a chunk that several blobs share counts in each of them, but is fetched once.
type Progress struct {
	Phase Phase

	BytesTotal  uint64 // all distinct blobs; 0 until the manifest is here
	BytesHere   uint64 // of them, what was here when the session started
	BytesLocal  uint64 // of them, what was copied from other blobs of this store, or from another place of the same release
	BytesNeeded uint64 // of them, what is still missing

	BytesFetched   map[string]uint64 // verified bytes by neighbour, manifest and chunk lists included
	BytesDuplicate uint64            // came although they were here already
	BytesCorrupt   uint64            // came and were not what was asked for

	Rate float64 // bytes fetched a second, lately

	Pieces, PiecesHere int // distinct pieces that had to be found; of them, found
	Blobs, BlobsHere   int // distinct blobs; of them, whole here
	Peers              int // neighbours that take part

	Started time.Time // when Run began; zero before
}

// Progress says how far the fetch is. It may be called at any time.
func (s *Session) Progress() Progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.progress
	p.BytesFetched = maps.Clone(p.BytesFetched)
	if !p.Started.IsZero() {
		p.Rate = s.meter.rate(time.Since(p.Started))
	}
	return p
}

func (s *Session) update(f func(*Progress)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(&s.progress)
}

// meter measures a rate over about the last two seconds.
type meter struct {
	level float64 // bytes a second at the time at
	at    time.Duration
}

const meterSpan = 2 * time.Second

func (m *meter) rate(now time.Duration) float64 {
	return m.level * math.Exp(-float64(max(now-m.at, 0))/float64(meterSpan))
}

func (m *meter) add(now time.Duration, size int) {
	m.level, m.at = m.rate(now)+float64(size)/meterSpan.Seconds(), now
}
