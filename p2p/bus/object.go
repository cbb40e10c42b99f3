package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	_ "embed"

	"github.com/godbus/dbus/v5"

	"satchel/announce"
	"satchel/p2p"
)

// The service's name, which is also that of its interface, and its one object.
const (
	Name = "org.satchel.Updates1"
	Path = dbus.ObjectPath("/org/satchel/Updates1")
)

// Interface is the description of the object: the introspection XML with its documentation.
//
//go:embed org.satchel.Updates1.xml
var Interface string

// Policy is the policy file for the system bus.
//
//go:embed org.satchel.Updates1.conf
var Policy string

const (
	ifaceProperties     = "org.freedesktop.DBus.Properties"
	ifaceIntrospectable = "org.freedesktop.DBus.Introspectable"
)

// Limits on the calls that are in work at a time, see the package's description.
const (
	maxCalls  = 64
	maxChecks = 32
	maxActs   = 8
)

// exports are the methods of the object by interface: the exported methods of each value.
func (s *session) exports() map[string]any {
	return map[string]any{Name: updates{s}, ifaceProperties: propertyMethods{s.shown}, ifaceIntrospectable: introspection{}}
}

// updates has the methods of the interface itself. Each runs in a goroutine of its own.
type updates struct{ s *session }

func (u updates) Check() *dbus.Error {
	return u.s.work(u.s.checking, func(ctx context.Context) error {
		return u.s.checks.run(ctx, func(ctx context.Context) error {
			defer u.s.refresh()
			return u.s.node.Check(ctx)
		})
	})
}

func (u updates) Apply(product string) (version string, epoch, seq uint64, deployment string, err *dbus.Error) {
	return u.s.act(product, u.s.node.Apply)
}

func (u updates) Confirm(product string) (version string, epoch, seq uint64, deployment string, err *dbus.Error) {
	return u.s.act(product, u.s.node.Confirm)
}

func (u updates) Rollback(product string) (version string, epoch, seq uint64, deployment string, err *dbus.Error) {
	return u.s.act(product, u.s.node.Rollback)
}

// maxUntil is the end of the year 9999 in unix seconds.
const maxUntil = 253402300799

func (u updates) Hold(until int64, reason string) *dbus.Error {
	return u.s.work(u.s.acting, func(ctx context.Context) error {
		if until < 0 || until > maxUntil {
			return bad("give it in unix seconds, or 0 to end the hold", fmt.Errorf("%d is no time to hold until", until))
		}
		if len(reason) > maxText {
			return bad("", fmt.Errorf("the reason is longer than %d bytes", maxText))
		}
		var t time.Time
		if until > 0 {
			t = time.Unix(until, 0)
		}
		defer u.s.refresh()
		return u.s.node.Hold(ctx, t, text(reason, maxText))
	})
}

// act runs a method that changes which release of a product is live.
func (s *session) act(product string, do func(context.Context, string) (p2p.ReleaseStatus, error)) (string, uint64, uint64, string, *dbus.Error) {
	var r p2p.ReleaseStatus
	err := s.work(s.acting, func(ctx context.Context) (err error) {
		if err := announce.ValidProduct(product); err != nil {
			return bad("the property Products lists what there is", err)
		}
		defer s.refresh()
		r, err = do(ctx, product)
		return err
	})
	return text(r.Version, maxName), r.Epoch, r.Seq, text(r.Deployment, maxName), err
}

// work runs do if the limit has room.
func (s *session) work(limit chan struct{}, do func(context.Context) error) *dbus.Error {
	select {
	case limit <- struct{}{}:
		defer func() { <-limit }()
	default:
		return &dbus.Error{Name: Name + ".Error.Busy", Body: []any{"too many calls at once (try again when they are done)"}}
	}
	return errorOf(do(s.ctx))
}

func bad(hint string, err error) error {
	return &p2p.Error{Code: p2p.CodeBadInput, Hint: hint, Err: err}
}

// errorOf gives an error its name on the bus: a code like not-ready becomes Error.NotReady.
func errorOf(err error) *dbus.Error {
	if err == nil {
		return nil
	}
	code := p2p.CodeOf(err)
	switch {
	case code == "" && errors.Is(err, context.Canceled):
		code = p2p.CodeOffline // the node stops
	case code == "":
		code = "failed"
	}
	var name strings.Builder
	for _, word := range strings.Split(code, "-") {
		name.WriteString(strings.ToUpper(word[:1]) + word[1:])
	}
	said := public(err.Error())
	if hint := p2p.HintOf(err); hint != "" {
		said += " (" + public(hint) + ")"
	}
	return &dbus.Error{Name: Name + ".Error." + name.String(), Body: []any{said}}
}

// checkEvery is how often neighbours are asked at most, whoever wants it how often: everybody may, and it costs the air.
const checkEvery = 10 * time.Second

// checks lets one check run at a time; who wants one during it, or soon after it began, gets its outcome.
type checks struct {
	mu   sync.Mutex
	last *check
}

type check struct {
	began time.Time
	done  chan struct{}
	err   error // after done
}

func (c *checks) run(ctx context.Context, do func(context.Context) error) error {
	c.mu.Lock()
	k := c.last
	mine := k == nil || k.over() && time.Since(k.began) >= checkEvery
	if mine {
		k = &check{began: time.Now(), done: make(chan struct{})}
		c.last = k
	}
	c.mu.Unlock()
	if mine {
		k.err = do(ctx)
		close(k.done)
	}
	select {
	case <-k.done:
		return k.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (k *check) over() bool {
	select {
	case <-k.done:
		return true
	default:
		return false
	}
}

// propertyMethods is org.freedesktop.DBus.Properties over the last picture.
type propertyMethods struct{ shown *shown }

func (p propertyMethods) Get(iface, name string) (dbus.Variant, *dbus.Error) {
	all, err := p.GetAll(iface)
	if err != nil {
		return dbus.Variant{}, err
	}
	v, ok := all[name]
	if !ok {
		return dbus.Variant{}, standard("UnknownProperty", "no such property: "+text(name, maxName))
	}
	return v, nil
}

func (p propertyMethods) GetAll(iface string) (map[string]dbus.Variant, *dbus.Error) {
	all := map[string]dbus.Variant{}
	switch iface {
	case Name, "":
		for name, v := range p.shown.get() {
			all[name] = dbus.MakeVariant(v)
		}
	case ifaceProperties, ifaceIntrospectable, "org.freedesktop.DBus.Peer": // they have none
	default:
		return nil, standard("UnknownInterface", "no such interface: "+text(iface, maxName))
	}
	return all, nil
}

func (p propertyMethods) Set(iface, name string, _ dbus.Variant) *dbus.Error {
	if _, err := p.Get(iface, name); err != nil {
		return err
	}
	return standard("PropertyReadOnly", name+" is read-only (methods change things: see Introspect)")
}

func standard(name, text string) *dbus.Error {
	return &dbus.Error{Name: "org.freedesktop.DBus.Error." + name, Body: []any{text}}
}

type introspection struct{}

func (introspection) Introspect() (string, *dbus.Error) { return Interface, nil }
