package crash

import (
	"fmt"
	"math/rand/v2"
	"slices"
)

// Log is what happened to a disk.
type Log struct {
	FS     FileSystem
	base   blocks // the disk as mkfs left it
	events []event
}

// event is a write, or with neither data nor mark a flush.
type event struct {
	off  int64
	data []byte
	mark int // plus one; 0 when it is none
}

func (e *event) isFlush() bool { return e.data == nil && e.mark == 0 }

// Counts gives the number of writes, and of flushes between them.
func (l *Log) Counts() (writes, flushes int) {
	for i := range l.events {
		if l.events[i].isFlush() {
			flushes++
		} else if l.events[i].data != nil {
			writes++
		}
	}
	return writes, flushes
}

// State is a disk as a power cut can leave it.
type State struct {
	Marked  int         // the last mark before the cut; -1 when there was none
	durable int         // all events before this one are on the medium
	end     int         // the power was cut before this event
	lost    map[int]int // of those between: how many bytes of it are there, if not all
}

func (s State) String() string {
	return fmt.Sprintf("cut after event %d, mark %d, flushed up to %d, %d writes lost", s.end, s.Marked, s.durable, len(s.lost))
}

// States chooses n different states, or all that there are when there are fewer than that: for every moment the one with all writes and the
// one with only those that were flushed, if n allows it, and others with some of the writes lost or cut short. The order is that of time.
func (l *Log) States(n int, seed uint64) []State {
	chance := rand.New(rand.NewPCG(seed, 0))
	moments := l.moments()
	seen := make(map[string]bool)
	var states []State
	add := func(s State) {
		if key := l.key(s); !seen[key] && len(states) < n {
			seen[key] = true
			states = append(states, s)
		}
	}
	for _, i := range chance.Perm(len(moments)) {
		if len(states) > n/2 {
			break
		}
		add(l.without(moments[i], func(int) int { return 0 }))
		add(moments[i])
	}
	for tries := 0; len(states) < n && tries < 20*n && len(moments) > 0; tries++ {
		rate := []float64{0.1, 0.5, 0.9}[chance.IntN(3)]
		add(l.without(moments[chance.IntN(len(moments))], func(size int) int {
			switch {
			case chance.Float64() >= rate:
				return size
			case chance.IntN(4) > 0:
				return 0
			}
			return chance.IntN(size/blockSize+1) * blockSize
		}))
	}
	slices.SortStableFunc(states, func(a, b State) int { return a.durable - b.durable })
	return states
}

// moments are the states in which nothing is lost, one for each event.
func (l *Log) moments() []State {
	var all []State
	s := State{Marked: -1}
	for i := range l.events {
		e := &l.events[i]
		s.end = i + 1
		if e.mark > 0 {
			s.Marked = e.mark - 1
		}
		if e.isFlush() {
			s.durable = i + 1
		}
		all = append(all, s)
	}
	return all
}

// without is a state in which of each write that was not flushed only the first bytes are there; keep says how many.
func (l *Log) without(s State, keep func(size int) int) State {
	s.lost = make(map[int]int)
	for i := s.durable; i < s.end; i++ {
		if size := len(l.events[i].data); size > 0 {
			if n := keep(size); n < size {
				s.lost[i] = n
			}
		}
	}
	return s
}

// key is equal for states that do not differ.
func (l *Log) key(s State) string {
	key := fmt.Appendf(nil, "%d", s.Marked)
	writes, lost := 0, false
	for i := range l.events[:s.end] {
		size := len(l.events[i].data)
		if size == 0 {
			continue
		}
		n, cut := s.lost[i]
		switch {
		case !cut && !lost:
			writes++ // all so far
			continue
		case !cut:
			n = size
		case !lost:
			key = fmt.Appendf(key, " all of %d", writes)
		}
		lost = true
		if n > 0 {
			key = fmt.Appendf(key, " %d:%d", i, n)
		}
	}
	if !lost {
		key = fmt.Appendf(key, " all of %d", writes)
	}
	return string(key)
}
