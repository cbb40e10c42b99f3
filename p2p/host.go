package p2p

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/sec"
	"github.com/libp2p/go-libp2p/core/transport"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/libp2p/go-libp2p/p2p/net/upgrader"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/x/rate"
	quicgo "github.com/quic-go/quic-go"
)

const (
	dialTimeout   = 10 * time.Second
	maxNeighbours = 48      // connections are trimmed down to lowNeighbours above this
	lowNeighbours = 32      // see maxNeighbours
	streamWindow  = 2 << 20 // bytes in flight on one stream; 2 MiB fill 1 Gbit/s at 16 ms
)

// newHost builds a libp2p host from its parts. libp2p.New would link every transport there is (26 MB of
// program instead of 18) and start services that nothing here uses.
func newHost(key crypto.PrivKey, withQUIC bool, gater *gater, userAgent string) (h host.Host, err error) {
	id, err := peer.IDFromPrivateKey(key)
	if err != nil {
		return nil, err
	}
	ps, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, err
	}
	if err := addOwnKey(ps, id, key); err != nil {
		return nil, err
	}
	rm, err := newResourceManager()
	if err != nil {
		return nil, err
	}
	bus := eventbus.NewBus()
	sw, err := swarm.NewSwarm(id, ps, bus, swarm.WithResourceManager(rm), swarm.WithConnectionGater(gater),
		swarm.WithDialTimeout(dialTimeout), swarm.WithDialTimeoutLocal(dialTimeout))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			sw.Close()
		}
	}()
	if err := addTransports(sw, key, withQUIC, rm, gater); err != nil {
		return nil, err
	}
	cm, err := connmgr.NewConnManager(lowNeighbours, maxNeighbours, connmgr.WithGracePeriod(20*time.Second))
	if err != nil {
		return nil, err
	}
	bh, err := basichost.NewHost(sw, &basichost.HostOpts{EventBus: bus, ConnManager: cm, UserAgent: userAgent})
	if err != nil {
		return nil, err
	}
	bh.Start()
	return bh, nil
}

func addOwnKey(ps peerstore.Peerstore, id peer.ID, key crypto.PrivKey) error {
	if err := ps.AddPrivKey(id, key); err != nil {
		return err
	}
	return ps.AddPubKey(id, key.GetPublic())
}

func addTransports(sw *swarm.Swarm, key crypto.PrivKey, withQUIC bool, rm network.ResourceManager, gater *gater) error {
	mux := *yamux.DefaultTransport
	mux.MaxStreamWindowSize = streamWindow
	muxers := []upgrader.StreamMuxer{{ID: yamux.ID, Muxer: &mux}}
	security, err := newTimeless(key, []protocol.ID{yamux.ID})
	if err != nil {
		return err
	}
	up, err := upgrader.New([]sec.SecureTransport{security}, muxers, nil, rm, gater)
	if err != nil {
		return err
	}
	// Without port reuse a dial gets a port of its own: two nodes that dial each other at once would otherwise
	// meet in a simultaneous open, which fails both.
	t, err := tcp.NewTCPTransport(up, rm, nil, tcp.DisableReuseport(), tcp.WithConnectionTimeout(dialTimeout))
	if err != nil {
		return err
	}
	if err := sw.AddTransport(&linkLocalTransport{t}); err != nil {
		return err
	}
	if !withQUIC {
		return nil
	}
	q, err := newQUIC(key, rm, gater)
	if err != nil {
		return fmt.Errorf("setting up QUIC: %w", err)
	}
	return sw.AddTransport(q)
}

func newQUIC(key crypto.PrivKey, rm network.ResourceManager, gater *gater) (transport.Transport, error) {
	raw, err := key.Raw()
	if err != nil {
		return nil, err
	}
	// Both keys only have to be secret and stable for one process: they let a restarted peer's packets be told apart.
	var reset quicgo.StatelessResetKey
	var token quicgo.TokenGeneratorKey
	copy(reset[:], deriveKey(raw, "satchel/quic-reset/v1"))
	copy(token[:], deriveKey(raw, "satchel/quic-token/v1"))
	cm, err := quicreuse.NewConnManager(reset, token)
	if err != nil {
		return nil, err
	}
	template, err := timelessCertificate()
	if err != nil {
		return nil, err
	}
	return quic.NewTransport(key, cm, nil, gater, rm, quic.WithTLSIdentityOption(libp2ptls.WithCertTemplate(template)))
}

// lanPrefixes are the ranges that a school's laptops share. libp2p's defaults take eight connections from one
// /56, so a whole class behind one IPv6 prefix would be turned away.
var lanPrefixes = []string{
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "127.0.0.0/8",
	"fc00::/7", "fe80::/10", "::1/128",
}

// newResourceManager bounds what all strangers together can take: 64 MB, so that a 256 MB machine keeps running.
func newResourceManager() (network.ResourceManager, error) {
	conf := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{Conns: 128, ConnsInbound: 96, ConnsOutbound: 96, FD: 160, Streams: 1024,
			StreamsInbound: 768, StreamsOutbound: 768, Memory: 64 << 20},
		Transient: rcmgr.ResourceLimits{Conns: 48, ConnsInbound: 32, ConnsOutbound: 32, FD: 48, Streams: 128,
			StreamsInbound: 96, StreamsOutbound: 96, Memory: 8 << 20},
		PeerDefault: rcmgr.ResourceLimits{Conns: 4, ConnsInbound: 4, ConnsOutbound: 4, FD: 4, Streams: 32,
			StreamsInbound: 24, StreamsOutbound: 24, Memory: 20 << 20},
	}
	limits := conf.Build(rcmgr.DefaultLimits.Scale(64<<20, 256))
	var v4, v6 []rcmgr.NetworkPrefixLimit
	var rates []rate.PrefixLimit
	for _, s := range lanPrefixes {
		p := netip.MustParsePrefix(s)
		limit := rcmgr.NetworkPrefixLimit{Network: p, ConnCount: 128}
		rates = append(rates, rate.PrefixLimit{Prefix: p, Limit: rate.Limit{RPS: 50, Burst: 200}})
		if p.Addr().Is4() {
			v4 = append(v4, limit)
		} else {
			v6 = append(v6, limit)
		}
	}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits), rcmgr.WithMetricsDisabled(),
		rcmgr.WithNetworkPrefixLimit(v4, v6),
		rcmgr.WithLimitPerSubnet([]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 32}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 64, ConnCount: 64}}),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			NetworkPrefixLimits: rates,
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: rate.Limit{RPS: 5, Burst: 32}}},
				IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 64, Limit: rate.Limit{RPS: 20, Burst: 64}}},
				GracePeriod:      time.Minute,
			},
		}))
}

// connect dials p at addrs, forgetting what libp2p remembers of failures: the redial loop has its own patience.
func connect(ctx context.Context, h host.Host, info peer.AddrInfo) error {
	if sw, ok := h.Network().(*swarm.Swarm); ok {
		sw.Backoff().Clear(info.ID)
	}
	return h.Connect(ctx, info)
}
