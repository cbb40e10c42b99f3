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
// medium is nil on this machine's network.
func newHost(key crypto.PrivKey, medium Medium, withQUIC bool, gater *gater, userAgent string) (h host.Host, err error) {
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
	if err := addTransports(sw, key, medium, withQUIC, rm, gater); err != nil {
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

func addTransports(sw *swarm.Swarm, key crypto.PrivKey, medium Medium, withQUIC bool, rm network.ResourceManager, gater *gater) error {
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
	if medium != nil {
		return sw.AddTransport(&mediumTransport{medium, up, rm})
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

// lanPrefixes are the ranges that a school's laptops share: new connections from one of them are counted together,
// and a whole class that wakes at once is no attack. Each costs a 433 MHz laptop 10 to 20 ms of handshake.
var lanPrefixes = []string{
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10", "fc00::/7", "fe80::/10",
}

// Connections from one place. libp2p's defaults take eight from one /56, so a whole class behind one IPv6 prefix
// would be turned away. One laptop that pretends to be many has an IPv4 address and an IPv6 prefix, and must
// not get every place (ConnsInbound) for itself.
var (
	connsFromIPv4 = []rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: 40}}
	connsFromIPv6 = []rcmgr.ConnLimitPerSubnet{{PrefixLength: 64, ConnCount: 48}}
)

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
	loop4, loop6 := netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128") // this machine's own nodes
	own := rate.Limit{RPS: 50, Burst: 200}
	rates := []rate.PrefixLimit{{Prefix: loop4, Limit: own}, {Prefix: loop6, Limit: own}}
	for _, s := range lanPrefixes {
		rates = append(rates, rate.PrefixLimit{Prefix: netip.MustParsePrefix(s), Limit: rate.Limit{RPS: 10, Burst: 200}})
	}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits), rcmgr.WithMetricsDisabled(),
		rcmgr.WithNetworkPrefixLimit([]rcmgr.NetworkPrefixLimit{{Network: loop4, ConnCount: 128}}, []rcmgr.NetworkPrefixLimit{{Network: loop6, ConnCount: 128}}),
		rcmgr.WithLimitPerSubnet(connsFromIPv4, connsFromIPv6),
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
