package sim

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	ma "github.com/multiformats/go-multiaddr"

	"satchel/p2p"
)

// Port is where every machine of a medium listens.
const Port = 4001

// Laptop is a real node on a medium: what Run starts and Stop ends.
type Laptop struct {
	*p2p.Node
	IP     netip.Addr
	cancel context.CancelFunc
	ended  chan error
}

// Laptop opens a node whose machine has the address ip. Config's Medium, Listen and Clock, when it is nil, are set here.
func (m *Medium) Laptop(ip netip.Addr, cfg p2p.Config) (*Laptop, error) {
	cfg.Medium = m.Station(ip)
	cfg.Listen = []string{listenAddr(ip)}
	if cfg.Clock == nil {
		cfg.Clock = Clock("boot")
	}
	n, err := p2p.Open(cfg)
	if err != nil {
		return nil, err
	}
	return &Laptop{Node: n, IP: ip}, nil
}

// Clock is a machine's clock that is right, in virtual time; boot names its start.
func Clock(boot string) p2p.Clock {
	began := time.Now()
	return func() (time.Time, string, time.Duration) { return time.Now(), boot, time.Since(began) }
}

func listenAddr(ip netip.Addr) string {
	if ip.Is4() {
		return fmt.Sprintf("/ip4/%s/tcp/%d", ip, Port)
	}
	return fmt.Sprintf("/ip6/%s/tcp/%d", ip, Port)
}

// Addr is what others' Config.Peers take to find this laptop.
func (l *Laptop) Addr() string { return listenAddr(l.IP) + "/p2p/" + l.ID() }

// Start runs the node. It may be started again after Stop.
func (l *Laptop) Start() {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.ended = cancel, make(chan error, 1)
	go func() { l.ended <- l.Run(ctx) }()
}

// Stop ends what Start began and returns Run's error.
func (l *Laptop) Stop() error {
	if l.cancel == nil {
		return nil
	}
	l.cancel()
	l.cancel = nil
	return <-l.ended
}

// Close stops the node and releases its home.
func (l *Laptop) Close() error {
	err := l.Stop()
	if cerr := l.Node.Close(); err == nil {
		err = cerr
	}
	return err
}

// Stranger is a host that is no node, listening at ip: it speaks what its owner has it speak.
func (m *Medium) Stranger(ip netip.Addr, key crypto.PrivKey) (host.Host, error) {
	h, err := p2p.NewHost(key, m.Station(ip), "stranger")
	if err != nil {
		return nil, err
	}
	at, err := ma.NewMultiaddr(listenAddr(ip))
	if err == nil {
		err = h.Network().Listen(at)
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}
