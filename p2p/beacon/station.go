package beacon

import "time"

const (
	maxReopen = time.Minute     // the longest wait before trying to open a socket again
	maxSilent = 5 * time.Minute // and before saying hello again where nothing could be sent
)

// station is one link in use: its cell and its sockets. It belongs to the goroutine of Run.
type station struct {
	link      link
	cell      *Cell
	sockets   [families]*socket // nil: none is needed, or it could not be opened
	retry     [families]backoff // when to open it again
	silent    backoff           // when to say hello again, after nothing could be sent
	complaint [families + 1]string
}

// open opens the sockets that the link's addresses call for and closes those they do not.
// It returns when to try again; zero when all is well.
func (r *runner) open(now time.Time, st *station) (again time.Time) {
	_, has4 := st.link.source()
	for f, need := range [families]bool{inet4: has4, inet6: st.link.has6()} {
		s := st.sockets[f]
		if need == (s != nil) {
			continue
		}
		if !need {
			s.close()
			st.sockets[f] = nil
			continue
		}
		if st.retry[f].try(now, maxReopen) {
			r.openSocket(st, family(f))
		}
		if next := st.retry[f].next; st.sockets[f] == nil && (again.IsZero() || next.Before(again)) {
			again = next
		}
	}
	return again
}

func (r *runner) openSocket(st *station, f family) {
	s, err := openSocket(r.ctx, &st.link, f, r.cfg.Port)
	if err != nil {
		r.count.openErrors.Add(1)
		r.complain(st, f, err)
		return
	}
	st.sockets[f] = s
	r.readers.Go(func() { s.read(r.ctx, r.packets) })
}

// broken takes a socket out that does not receive any more; open replaces it.
func (r *runner) broken(now time.Time, st *station, f family, err error) {
	r.count.openErrors.Add(1)
	r.complain(st, f, err)
	st.sockets[f].close()
	st.sockets[f] = nil
	st.retry[f].try(now, maxReopen) // not at once
	r.look()
}

// near tells whether a packet came in the way that our own go: see Cell.Hear.
func (st *station) near(p *packet) bool {
	preferred := inet4
	if st.sockets[inet4] == nil {
		preferred = inet6
	}
	return p.socket.family == preferred && (preferred == inet6 || st.link.local(p.from.Addr()))
}

func (st *station) close() {
	for f, s := range st.sockets {
		if s != nil {
			s.close()
			st.sockets[f] = nil
		}
	}
}
