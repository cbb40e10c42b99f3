package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"time"

	"satchel/p2p"
)

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/hello", s.hello)
	mux.HandleFunc("GET /v1/status", s.status)
	mux.HandleFunc("GET /v1/carries", func(w http.ResponseWriter, r *http.Request) { s.answer(w, s.node.Carries(), nil) })
	mux.HandleFunc("GET /v1/next", s.next)
	mux.HandleFunc("GET /v1/past", s.past)
	mux.HandleFunc("GET /v1/timestamp", func(w http.ResponseWriter, _ *http.Request) {
		next, err := s.node.NextTimestamp()
		s.answer(w, next, err)
	})
	mux.HandleFunc("POST /v1/timestamp", take(s, func(_ context.Context, in announceRequest) (any, error) {
		return done(s.node.AddTimestamp(in.Envelope))
	}))
	mux.HandleFunc("GET /v1/wait", s.wait)
	mux.HandleFunc("GET /v1/manifest", s.manifest)
	mux.HandleFunc("GET /v1/explain", s.explain)
	mux.HandleFunc("POST /v1/trust", takeMost(s, maxRootRequest, func(_ context.Context, in rootRequest) (any, error) {
		return done(s.node.Trust(in.Root, in.Force))
	}))
	mux.HandleFunc("POST /v1/follow", take(s, func(_ context.Context, in followRequest) (any, error) {
		return done(s.node.Follow(in.Product, in.Image))
	}))
	mux.HandleFunc("POST /v1/unfollow", take(s, func(_ context.Context, in productRequest) (any, error) {
		return done(s.node.Unfollow(in.Product))
	}))
	mux.HandleFunc("POST /v1/carry", take(s, func(_ context.Context, in patternRequest) (any, error) {
		return done(s.node.Carry(in.Pattern))
	}))
	mux.HandleFunc("POST /v1/uncarry", take(s, func(_ context.Context, in patternRequest) (any, error) {
		return done(s.node.Uncarry(in.Pattern))
	}))
	mux.HandleFunc("POST /v1/announce", take(s, func(_ context.Context, in announceRequest) (any, error) {
		return done(s.node.Announce(in.Envelope))
	}))
	// A change of the live tree that has begun ends by itself: a person who presses ^C must not leave it half done.
	mux.HandleFunc("POST /v1/apply", take(s, func(ctx context.Context, in productRequest) (any, error) {
		return s.node.Apply(context.WithoutCancel(ctx), in.Product)
	}))
	mux.HandleFunc("POST /v1/rollback", take(s, func(ctx context.Context, in productRequest) (any, error) {
		return s.node.Rollback(context.WithoutCancel(ctx), in.Product)
	}))
	mux.HandleFunc("POST /v1/prune", take(s, func(ctx context.Context, in p2p.PrunePolicy) (any, error) {
		return s.node.Prune(ctx, in)
	}))
	mux.HandleFunc("POST /v1/verify", s.verify)
	mux.HandleFunc("POST /v1/export", streamed(s, s.node.Export))
	mux.HandleFunc("POST /v1/import", streamed(s, func(ctx context.Context, in importRequest, progress func(p2p.StickProgress)) (p2p.ImportResult, error) {
		return s.node.Import(ctx, in.Dir, progress)
	}))
	s.imageRoutes(mux)
	mux.HandleFunc("POST /v1/down", s.stop)
	return mux
}

func done(err error) (any, error) { return struct{}{}, err }

// picture is the node's status as this process knows it: only here is known whether the node is on the network.
func (s *server) picture() p2p.Status {
	st := s.node.Status()
	st.Running = s.running
	return st
}

func (s *server) hello(w http.ResponseWriter, _ *http.Request) { s.answer(w, hello{os.Getpid()}, nil) }

func (s *server) status(w http.ResponseWriter, r *http.Request) {
	if r.FormValue("watch") == "" {
		s.answer(w, s.picture(), nil)
		return
	}
	out := newStream(w)
	again := time.NewTicker(tick)
	defer again.Stop()
	for {
		changed := s.node.Changed() // before the status: a change in between must not be missed
		if out.send(s.picture()) != nil {
			return
		}
		select {
		case <-changed:
		case <-again.C:
		case <-r.Context().Done():
			return
		}
	}
}

func (s *server) next(w http.ResponseWriter, r *http.Request) {
	n, err := s.node.Next(r.FormValue("product"))
	s.answer(w, n, err)
}

func (s *server) past(w http.ResponseWriter, r *http.Request) {
	epoch, err := numberOf(r, "epoch")
	seq, err2 := numberOf(r, "seq")
	if err := errors.Join(err, err2); err != nil {
		s.answer(w, nil, err)
		return
	}
	out, err := s.node.Past(r.FormValue("product"), epoch, seq)
	s.answer(w, out, err)
}

func (s *server) explain(w http.ResponseWriter, r *http.Request) {
	sentences, err := s.node.Explain(r.FormValue("product"))
	s.answer(w, sentences, err)
}

// seqOf reads the optional number of a release.
func seqOf(r *http.Request) (uint64, error) { return numberOf(r, "seq") }

func numberOf(r *http.Request, name string) (uint64, error) {
	v := r.FormValue(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, &p2p.Error{Code: p2p.CodeBadInput, Err: fmt.Errorf("reading %s: %w", name, err)}
	}
	return n, nil
}

// wait sends the product's status at each change, and at the end the one that was waited for.
func (s *server) wait(w http.ResponseWriter, r *http.Request) {
	product, state := r.FormValue("product"), r.FormValue("state")
	seq, err := seqOf(r)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	type end struct {
		p   p2p.ProductStatus
		err error
	}
	ended := make(chan end, 1)
	go func() {
		p, err := s.node.Wait(r.Context(), product, seq, state)
		ended <- end{p, err}
	}()
	out := newStream(w)
	for {
		changed := s.node.Changed()
		if p, ok := find(s.node.Status(), product); ok && out.send(line{Product: &p}) != nil {
			changed = nil // nobody reads any more: Wait ends with the request
		}
		select {
		case <-changed:
		case e := <-ended:
			if r.Context().Err() != nil {
				return // the node stops, or nobody listens: the end of the stream says it
			}
			if e.err != nil {
				out.send(line{Error: errorToWire(e.err)})
				return
			}
			out.send(line{Product: &e.p, End: true})
			return
		}
	}
}

func find(st p2p.Status, product string) (p2p.ProductStatus, bool) {
	for _, p := range st.Products {
		if p.Product == product {
			return p, true
		}
	}
	return p2p.ProductStatus{}, false
}

func (s *server) manifest(w http.ResponseWriter, r *http.Request) {
	seq, err := seqOf(r)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	m, err := s.node.Manifest(r.FormValue("product"), seq)
	if err != nil {
		s.answer(w, nil, err)
		return
	}
	out := newStream(w)
	head := headerToWire(m)
	if out.enc.Encode(line{Header: &head}) != nil {
		return
	}
	for i := range m.Entries {
		e := entryToWire(&m.Entries[i])
		if out.enc.Encode(line{Entry: &e}) != nil {
			return
		}
	}
	out.send(line{End: true})
}

func (s *server) verify(w http.ResponseWriter, r *http.Request) {
	out := newStream(w)
	var last time.Time
	res, err := s.node.Verify(r.Context(), func(p p2p.VerifyProgress) {
		if now := time.Now(); now.Sub(last) >= 100*time.Millisecond {
			last = now
			out.send(line{Progress: &p})
		}
	})
	if r.Context().Err() != nil {
		return
	}
	if out.send(line{Verified: &res, End: err == nil}); err != nil { // what was found counts also when not all could be repaired
		out.send(line{Error: errorToWire(err)})
	}
}

func (s *server) stop(w http.ResponseWriter, r *http.Request) {
	if s.down == nil {
		s.answer(w, nil, &p2p.Error{Code: p2p.CodeOffline, Err: errors.New("no node is running")})
		return
	}
	s.answer(w, struct{}{}, nil)
	http.NewResponseController(w).Flush()
	s.down()
}
