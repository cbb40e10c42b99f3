package p2p

import (
	"cmp"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
)

// table is what the node knows of other nodes: where they were last reached and when to try again. Discovery
// libraries report a neighbour once and leave; this survives restarts, outages and sleep. It is a pure
// machine, owned by the node's goroutine: time comes in, dials come out.
//
//	heard or remembered ──due──► dialling ──ok──► connected ──exchange──► proved ──lost──► due within a second
//	                                 └──failed─────────┴──lost: waits twice as long as before, 1 s to 5 min, jittered
type table struct {
	self  peer.ID
	known map[peer.ID]*known
	rnd   *rand.Rand
}

type known struct {
	ID         peer.ID
	Source     string // beacon, configured, remembered, incoming
	addrs      map[string]time.Time
	configured bool
	connected  bool
	chosen     bool // it was dialled from here
	dialling   bool
	proved     bool // this connection has carried an exchange: only now it is one
	reached    bool // once it was proved, now or in an earlier run
	patience   time.Duration
	due        time.Time
	lastSeen   time.Time
}

const (
	wantNeighbours   = 12 // dial no more than this many by ourselves; configured peers always
	wantChosen       = 4  // dial as many, however many strangers have dialled us: they may all be one
	maxKnown         = 512
	maxAddrs         = 8
	maxDials         = 8
	maxPatience      = 5 * time.Minute
	politeness       = 400 * time.Millisecond // the larger id waits this long for the smaller to dial
	maxRemembered    = 128                    // peers that state.db keeps
	beaconPatience   = 15 * time.Second       // who is heard on the link is tried at least this often
	configuredAtMost = 30 * time.Second       // a peer somebody configured is tried at least this often
)

func newTable(self peer.ID) *table {
	return &table{self: self, known: map[peer.ID]*known{}, rnd: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))}
}

func (t *table) get(p peer.ID, source string, now time.Time) *known {
	k := t.known[p]
	if k == nil {
		if len(t.known) >= maxKnown {
			t.forget(now)
		}
		k = &known{ID: p, Source: source, addrs: map[string]time.Time{}, due: now, lastSeen: now}
		if source == "beacon" && t.self > p {
			k.due = now.Add(politeness)
		}
		t.known[p] = k
	}
	return k
}

// forget makes room: the neighbour not seen for the longest time goes.
func (t *table) forget(now time.Time) {
	var oldest *known
	for _, k := range t.known {
		if !k.connected && !k.dialling && !k.configured && (oldest == nil || k.lastSeen.Before(oldest.lastSeen)) {
			oldest = k
		}
	}
	if oldest != nil {
		delete(t.known, oldest.ID)
	}
}

// heard notes an address at which p was just heard on the link: worth a try now, whatever failed before.
func (t *table) heard(p peer.ID, addr ma.Multiaddr, source string, now time.Time) {
	if p == t.self {
		return
	}
	k := t.get(p, source, now)
	k.lastSeen = now
	_, old := k.addrs[addr.String()]
	k.add(addr, now)
	if !k.connected && !k.dialling && !old {
		k.patience = 0
		k.due = now
		if t.self > p {
			k.due = now.Add(politeness)
		}
	}
	if source == "beacon" && !k.connected && k.due.After(now.Add(beaconPatience)) {
		k.due = now.Add(time.Duration(t.rnd.Int64N(int64(beaconPatience))))
	}
	if source == "beacon" && k.Source == "remembered" {
		k.Source = source
	}
}

func (k *known) add(addr ma.Multiaddr, now time.Time) {
	if len(k.addrs) >= maxAddrs && k.addrs[addr.String()].IsZero() {
		oldest := ""
		for a, at := range k.addrs {
			if oldest == "" || at.Before(k.addrs[oldest]) {
				oldest = a
			}
		}
		delete(k.addrs, oldest)
	}
	k.addrs[addr.String()] = now
}

// configure adds a peer that somebody named.
func (t *table) configure(info peer.AddrInfo, now time.Time) {
	k := t.get(info.ID, "configured", now)
	k.Source, k.configured = "configured", true
	for _, a := range info.Addrs {
		k.add(a, now)
	}
}

func (t *table) up(p peer.ID, addr ma.Multiaddr, outbound bool, now time.Time) {
	k := t.get(p, "incoming", now)
	k.connected, k.dialling, k.proved, k.lastSeen, k.chosen = true, false, false, now, outbound
	if outbound { // an incoming connection's port is not where the peer listens
		k.add(addr, now)
	}
}

// prove notes that the connection to p is of use: a dial that the other side refuses looks like success at first.
// It reports whether that is news.
func (t *table) prove(p peer.ID) bool {
	k := t.known[p]
	if k == nil || !k.connected || k.proved {
		return false
	}
	k.proved, k.reached, k.patience = true, true, 0
	return true
}

func (t *table) down(p peer.ID, now time.Time) {
	k := t.known[p]
	if k == nil || !k.connected {
		return
	}
	k.connected, k.lastSeen = false, now
	if !k.proved {
		t.failed(p, now)
		return
	}
	// Spread over a second: when a link comes back, everyone dials everyone.
	k.due = now.Add(time.Duration(t.rnd.Int64N(int64(time.Second))))
}

func (t *table) failed(p peer.ID, now time.Time) {
	k := t.known[p]
	if k == nil {
		return
	}
	k.dialling = false
	k.patience = min(max(2*k.patience, time.Second), maxPatience)
	if k.configured {
		k.patience = min(k.patience, configuredAtMost)
	}
	k.due = now.Add(k.patience/2 + time.Duration(t.rnd.Int64N(int64(k.patience))))
}

// hurry makes everyone due: the machine woke, or its network changed.
func (t *table) hurry(now time.Time) {
	for _, k := range t.known {
		if !k.connected {
			k.patience = 0
			k.due = now.Add(time.Duration(t.rnd.Int64N(int64(time.Second))))
		}
	}
}

// dials returns whom to dial now, marked as dialling, and when to ask again.
func (t *table) dials(now time.Time) (due []peer.AddrInfo, next time.Time) {
	connected, chosen, dialling := 0, 0, 0
	for _, k := range t.known {
		if k.connected {
			connected++
			if k.chosen {
				chosen++
			}
		}
		if k.dialling {
			dialling++
		}
	}
	next = now.Add(time.Minute)
	for _, k := range t.eager() {
		if k.connected || k.dialling || len(k.addrs) == 0 {
			continue
		}
		if k.due.After(now) {
			if k.due.Before(next) {
				next = k.due
			}
			continue
		}
		enough := connected+dialling >= wantNeighbours && chosen+dialling >= wantChosen
		if dialling >= maxDials || (enough && !k.configured) {
			if t := now.Add(time.Second); t.Before(next) {
				next = t
			}
			continue
		}
		k.dialling = true
		dialling++
		due = append(due, k.info())
	}
	return due, next
}

// eager lists who is known: configured peers first, then whom there is least reason to doubt.
func (t *table) eager() []*known {
	ks := make([]*known, 0, len(t.known))
	for _, k := range t.known {
		ks = append(ks, k)
	}
	slices.SortFunc(ks, func(a, b *known) int {
		if a.configured != b.configured {
			if a.configured {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.patience, b.patience), b.lastSeen.Compare(a.lastSeen))
	})
	return ks
}

// info lists the addresses of k, the freshest first, in the form the swarm dials.
func (k *known) info() peer.AddrInfo {
	texts := make([]string, 0, len(k.addrs))
	for a := range k.addrs {
		texts = append(texts, a)
	}
	slices.SortFunc(texts, func(a, b string) int { return k.addrs[b].Compare(k.addrs[a]) })
	info := peer.AddrInfo{ID: k.ID}
	for _, a := range texts {
		if m, err := ma.NewMultiaddr(a); err == nil {
			info.Addrs = append(info.Addrs, dialable(m))
		}
	}
	return info
}

// remembered is a known peer as state.db keeps it.
type remembered struct {
	Addrs    []string  `json:"addrs"`
	LastSeen time.Time `json:"last_seen"`
}

func (k *known) remember() remembered {
	r := remembered{LastSeen: k.lastSeen}
	for a := range k.addrs {
		r.Addrs = append(r.Addrs, a)
	}
	slices.Sort(r.Addrs)
	return r
}

// recall puts a peer from state.db into the table. A clock that was set back must not make it immortal, one
// set forward must not make it vanish at once: only the order of lastSeen decides who goes, see forget.
func (t *table) recall(id string, text []byte, now time.Time) bool {
	p, err := peer.Decode(id)
	if err != nil {
		return false
	}
	var r remembered
	if json.Unmarshal(text, &r) != nil || len(r.Addrs) == 0 {
		return false
	}
	k := t.get(p, "remembered", now)
	k.lastSeen, k.reached = r.LastSeen, true
	for i, a := range r.Addrs {
		if m, err := ma.NewMultiaddr(a); err == nil && i < maxAddrs {
			k.add(m, now)
		}
	}
	k.due = now.Add(time.Duration(t.rnd.Int64N(int64(time.Second))))
	return true
}
