package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"satchel/p2p"
)

// The times of the service.
const (
	tellEvery    = 500 * time.Millisecond // pictures are taken at most this often by themselves
	answerTime   = 10 * time.Second       // the bus must greet, and take each message, within this
	firstPause   = 250 * time.Millisecond // before the first new try to reach the bus; it doubles
	longestPause = time.Minute
)

// Config is how to serve.
type Config struct {
	Address string       // of the bus, as in DBUS_SYSTEM_BUS_ADDRESS; "" is what that says, else the usual system bus
	Log     *slog.Logger // nil discards
}

// service is what outlasts a connection to the bus.
type service struct {
	node    Node
	log     *slog.Logger
	ctx     context.Context
	shown   *shown
	checks  checks
	told    p2p.Status // the picture up to which news was made; of the goroutine of Serve
	pending []Signal   // news that no bus has taken yet; of the goroutine of Serve

	checking, acting chan struct{} // a place is taken by each call in work
}

// Serve speaks for the node on the system bus until ctx ends and the calls in work have ended. What goes wrong with the bus is
// logged, once, and tried again.
func Serve(ctx context.Context, node Node, cfg Config) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &service{node: node, log: cfg.Log, ctx: ctx, shown: &shown{}, told: node.Status(),
		checking: make(chan struct{}, maxChecks), acting: make(chan struct{}, maxActs)}
	defer fill(s.checking)
	defer fill(s.acting)
	pause, said := firstPause, false
	for ctx.Err() == nil {
		began := time.Now()
		greeted, err := s.connect(cfg.Address)
		if ctx.Err() != nil {
			return
		}
		if greeted {
			said = false
		}
		if greeted && time.Since(began) > longestPause {
			pause = firstPause
		}
		if !said {
			s.log.Warn("not on the system bus; the node runs on", slog.Any("err", err))
			said = true
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, longestPause)
	}
}

// fill takes every place, so that it returns when all calls have ended and no further one begins.
func fill(places chan struct{}) {
	for range cap(places) {
		places <- struct{}{}
	}
}

// session is the service on one connection.
type session struct {
	*service
	conn      *dbus.Conn
	takes     map[string]dbus.Signature
	calls     chan struct{}      // a place is taken by each call until its answer is sent
	refreshes chan chan struct{} // see refresh

	mu     sync.Mutex
	silent map[caller]int // calls in work whose caller wants no answer
}

// caller is who waits for an answer, and to which of its calls.
type caller struct {
	name   string
	serial uint32
}

// connect serves on one connection until that breaks or the service ends. It reports whether it had the name.
func (s *service) connect(address string) (greeted bool, err error) {
	w, err := dial(s.ctx, address)
	if err != nil {
		return false, err
	}
	defer context.AfterFunc(s.ctx, func() { w.Close() })() // also while a write hangs
	ss := &session{service: s, calls: make(chan struct{}, maxCalls), refreshes: make(chan chan struct{}), silent: map[caller]int{}}
	ss.takes, w.answered = takes(ss.exports()), ss.leave
	ss.conn, err = dbus.NewConn(w, dbus.WithIncomingInterceptor(ss.enter), dbus.WithOutgoingInterceptor(ss.hush))
	if err != nil {
		w.Close()
		return false, err
	}
	defer func() { w.Close(); ss.conn.Close() }()
	if err := ss.greet(w); err != nil {
		return false, err
	}
	s.log.Info("on the system bus", slog.String("name", Name))
	return true, ss.tellAll()
}

// greet makes a connection known to the bus as the service.
func (s *session) greet(w *wire) error {
	w.SetDeadline(time.Now().Add(answerTime))
	if err := s.conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Geteuid()))}); err != nil {
		return fmt.Errorf("greeting the bus: %w", err)
	}
	if err := s.conn.Hello(); err != nil {
		return fmt.Errorf("greeting the bus: %w", err)
	}
	s.picture()
	for iface, methods := range s.exports() {
		if err := s.conn.Export(methods, Path, iface); err != nil {
			return err
		}
	}
	reply, err := s.conn.RequestName(Name, dbus.NameFlagDoNotQueue)
	if err != nil {
		return fmt.Errorf("becoming %s: %w", Name, err)
	}
	if reply != dbus.RequestNameReplyPrimaryOwner {
		return fmt.Errorf("becoming %s: another process is it", Name)
	}
	w.SetReadDeadline(time.Time{})
	return nil
}

// enter waits for a place for a call that came in. While it does, nothing more is read from the bus.
func (s *session) enter(m *dbus.Message) {
	if m.Type != dbus.TypeMethodCall {
		return
	}
	if sender, _ := m.Headers[dbus.FieldSender].Value().(string); m.Flags&dbus.FlagNoReplyExpected != 0 {
		s.mu.Lock()
		s.silent[caller{sender, m.Serial()}]++
		s.mu.Unlock()
		m.Flags &^= dbus.FlagNoReplyExpected // the library answers it, so that we see its end
	}
	member, _ := m.Headers[dbus.FieldMember].Value().(string)
	got, _ := m.Headers[dbus.FieldSignature].Value().(dbus.Signature)
	if want, ok := s.takes[member]; ok && got != want {
		m.Body = make([]any, 9) // the library would convert what it can: give it what no method takes
	}
	select {
	case s.calls <- struct{}{}:
	case <-s.conn.Context().Done():
	}
}

// hush marks an answer that nobody wants: the wire drops it, since the bus would write it into the system's log.
func (s *session) hush(m *dbus.Message) {
	if m.Type != dbus.TypeMethodReply && m.Type != dbus.TypeError {
		return
	}
	var to caller
	to.name, _ = m.Headers[dbus.FieldDestination].Value().(string)
	to.serial, _ = m.Headers[dbus.FieldReplySerial].Value().(uint32)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.silent[to] == 0 {
		return
	}
	m.Flags |= dbus.FlagNoReplyExpected
	if s.silent[to]--; s.silent[to] == 0 {
		delete(s.silent, to)
	}
}

// leave frees the place of a call whose answer was sent, or dropped.
func (s *session) leave() {
	select {
	case <-s.calls:
	default:
	}
}

// takes are the signatures of what methods take, by their names, which no two interfaces share.
func takes(exports map[string]any) map[string]dbus.Signature {
	out := map[string]dbus.Signature{}
	for _, v := range exports {
		typ := reflect.TypeOf(v)
		for i := range typ.NumMethod() {
			m, sig := typ.Method(i), ""
			for i := 1; i < m.Type.NumIn(); i++ {
				sig += dbus.SignatureOfType(m.Type.In(i)).String()
			}
			out[m.Name] = dbus.ParseSignatureMust(sig)
		}
	}
	return out
}

// picture shows what is true now and returns it, and what is different from what was shown before.
func (s *service) picture() (p2p.Status, map[string]dbus.Variant) {
	st := s.node.Status()
	return st, s.shown.replace(pictureOf(&st))
}

// errLost is why a session ends whose bus went away.
var errLost = errors.New("the system bus is gone")

// tellAll tells what changes until the connection breaks or the service ends.
func (s *session) tellAll() error {
	for {
		changed := s.node.Changed()
		err := s.tell()
		if err != nil {
			return fmt.Errorf("telling the bus: %w", err)
		}
		pause := time.After(tellEvery)
		var next <-chan struct{} // not before the pause is over
		for again := true; again; {
			select {
			case <-pause:
				next = changed
			case <-next:
				again = false
			case done := <-s.refreshes:
				err = s.tell()
				close(done)
				if err != nil {
					return fmt.Errorf("telling the bus: %w", err)
				}
			case <-s.conn.Context().Done():
				return errLost
			case <-s.ctx.Done():
				return s.ctx.Err()
			}
		}
	}
}

// tell takes a picture and sends what is new in it: the properties, then the signals, each once.
func (s *session) tell() error {
	st, changed := s.picture()
	s.pending = append(s.pending, News(&s.told, &st)...)
	s.told = st
	if len(changed) > 0 {
		if err := s.conn.Emit(Path, ifaceProperties+".PropertiesChanged", Name, changed, []string{}); err != nil {
			return err
		}
	}
	for len(s.pending) > 0 {
		if err := s.conn.Emit(Path, Name+"."+s.pending[0].Name, s.pending[0].Args...); err != nil {
			return err
		}
		s.pending = s.pending[1:]
	}
	return nil
}

// refresh returns when the properties show what is true after its call.
func (s *session) refresh() {
	done := make(chan struct{})
	select {
	case s.refreshes <- done:
		<-done
	case <-s.conn.Context().Done():
	case <-s.ctx.Done():
	}
}
