package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"satchel/p2p"
)

// server answers for one node.
type server struct {
	node    Node
	running bool   // what Status says: whether the node is on the network
	down    func() // stops the node; nil when it does not run
	log     *slog.Logger
}

// grace is how long answers under way have to end when the node stops.
const grace = 2 * time.Second

// tick is how often a watched status is sent while nothing changes, so that ages and rates stay true.
const tick = time.Second

// Serve answers on ln for a node that runs, until ctx ends, and closes ln. A request to stop calls down, once or more often, after
// it was answered. Serve returns when every answer has ended.
func Serve(ctx context.Context, ln net.Listener, node Node, down func(), log *slog.Logger) error {
	s := &server{node: node, running: true, down: down, log: log}
	return s.serve(ctx, ln)
}

func (s *server) serve(ctx context.Context, ln net.Listener) error {
	streams, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	srv := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return streams },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err := <-served:
		return fmt.Errorf("serving the control socket: %w", err)
	case <-ctx.Done():
	}
	end()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	err := srv.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	<-served
	if err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("closing the control socket: %w", err)
	}
	return nil
}

// answer sends a value or an error.
func (s *server) answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		wire := errorToWire(err)
		w.WriteHeader(httpStatus(wire.Code))
		v = wire
	}
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log.Debug("answering on the control socket", "err", err)
	}
}

// stream sends values a line each.
type stream struct {
	w   http.ResponseWriter
	enc *json.Encoder
	ctl *http.ResponseController
}

func newStream(w http.ResponseWriter) *stream {
	w.Header().Set("Content-Type", "application/x-ndjson")
	s := &stream{w: w, enc: json.NewEncoder(w), ctl: http.NewResponseController(w)}
	s.ctl.Flush() // the client may leave before there is anything to say: it needs the head of the answer to be able to
	return s
}

func (s *stream) send(v any) error {
	if err := s.enc.Encode(v); err != nil {
		return err
	}
	return s.ctl.Flush()
}

// take reads a request's body into a T and hands it to do, whose value it answers.
func take[T any](s *server, do func(ctx context.Context, in T) (any, error)) http.HandlerFunc {
	return takeMost(s, maxRequest, do)
}

// takeMost is take for a body of at most limit bytes.
func takeMost[T any](s *server, limit int64, do func(ctx context.Context, in T) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var in T
		if err := readJSON(http.MaxBytesReader(w, r.Body, limit), &in); err != nil {
			s.answer(w, nil, &p2p.Error{Code: p2p.CodeBadInput, Err: fmt.Errorf("reading the request: %w", err)})
			return
		}
		v, err := do(r.Context(), in)
		s.answer(w, v, err)
	}
}
