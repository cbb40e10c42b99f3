// Package sim runs real nodes in virtual time, on a medium of its own.
//
//	p2p.Node  p2p.Node  stranger        unmodified: catalog, gossip, exchange, fetch, store, TLS, yamux, libp2p's limits
//	    │         │         │
//	 Station   Station   Station        a p2p.Medium: dial and listen, by IP address and port
//	    └─────────┼─────────┘
//	           Medium                   latency, jitter, shared bandwidth, partitions that heal
//
// It holds no rule of any protocol. Time is that of the testing/synctest bubble in which a Medium, its laptops and its
// strangers live: a second passes when everyone waits, so an hour of a school takes a second. Disks are real ones; put
// homes where nothing is slow. A bubble ends when every goroutine in it has: close every laptop and every stranger.
//
//	m := sim.NewMedium(sim.Air{Seed: 1, Latency: 2 * time.Millisecond})
//	a, err := m.Laptop(netip.MustParseAddr("10.0.0.1"), p2p.Config{Home: dirA})
//	b, err := m.Laptop(netip.MustParseAddr("10.0.0.2"), p2p.Config{Home: dirB, Peers: []string{a.Addr()}})
//	a.Start()
//	b.Start()
//	time.Sleep(time.Hour)
//	m.Split([]netip.Addr{b.IP}) // b is out of reach
//	m.Heal()
//
// A Stranger is a libp2p host on the medium that runs no node: what it says is its owner's affair. The tests of this package
// are a collection of hostile ones. Each family of attacks runs against twelve laptops while releases are published, and the
// laptops must end up with exactly what they end up with in peace: the same releases, whole, in a bounded time, nobody honest
// shut out or blamed, and no table of strangers grown beyond its bound.
//
// What it is not: a radio. Bytes arrive, in order, as from TCP; what a lost packet costs is not modelled but for partitions,
// during which connections hold their bytes until it heals or somebody loses patience. There is no beacon and no QUIC here, so
// laptops find each other by Config.Peers. Runs with one seed are alike, not equal: goroutines and map orders are the machine's,
// and keys are random. So tests compare outcomes and bounds, not times.
package sim
