package p2p

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
)

// topicName is the one topic; its messages are announcement envelopes and nothing else.
const topicName = "satchel/announce/1"

// maxGossip is the largest gossip message. It is the same on every node for ever: a message above the
// receiver's limit resets the stream and leaves that direction deaf.
const maxGossip = 16 << 10

// deafAfter is how long a connected neighbour may be missing from the topic before its connection is closed
// and dialled again: after one of two duplicate connections closes, pubsub can lose a subscription for good.
const deafAfter = 10 * time.Second

// Limits that keep pubsub small on a machine with 256 MB. What is dropped over them, the exchange brings.
const (
	validateQueue = 64               // messages that wait for the one validator
	outboundQueue = 64               // frames that wait for a slow neighbour: half a megabyte if 24 are slow
	seenFor       = 30 * time.Second // ids of messages; pubsub forgets them once a minute, so some live for three times as long
	maxIDs        = 128              // ids in one IHAVE or IWANT
	maxMessages   = 16               // messages in one frame: honest nodes send one
	maxBackoff    = 600              // seconds that a PRUNE may ask for; pubsub remembers it for so long
	floodFrames   = 250              // frames over budget after which a neighbour is shut out
)

// gossip is the node's place in the topic.
type gossip struct {
	ps    *pubsub.PubSub
	topic *pubsub.Topic
	sub   *pubsub.Subscription
	since map[peer.ID]time.Time // connected but not in the topic; owned by the node's goroutine
	score atomic.Pointer[map[peer.ID]float64]

	mu     sync.Mutex // never held across a wait
	frames *budget
	seen   recent // what pubsub may have seen
}

// ruling is what is made of a gossiped envelope.
type ruling struct {
	announce.Verdict
	payload bool // it parsed, so its id is its payload's, and others may send that payload with other signatures
}

// judge is what gossip asks of its node. Its functions are called on pubsub's goroutines.
type judge struct {
	rule   func(from peer.ID, envelope []byte) ruling
	second func(from peer.ID, sa *announce.SignedAnnouncement) // a copy, which pubsub drops; must not wait
	flood  func(from peer.ID)                                  // must not wait
	refuse func(refusal)
}

// newGossip joins the topic.
func newGossip(ctx context.Context, h host.Host, j judge) (*gossip, error) {
	g := &gossip{since: map[peer.ID]time.Time{}, frames: newBudget(framesOfEach, framesOfAll)}
	var err error
	g.ps, err = pubsub.NewGossipSub(ctx, h,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(messageID), pubsub.WithMaxMessageSize(maxGossip), pubsub.WithFloodPublish(true),
		pubsub.WithSubscriptionFilter(pubsub.WrapLimitSubscriptionFilter(pubsub.NewAllowlistSubscriptionFilter(topicName), 16)),
		pubsub.WithGossipSubParams(meshParams()),
		pubsub.WithPeerScore(scoreParams(), scoreThresholds()),
		pubsub.WithPeerScoreInspect(func(m map[peer.ID]float64) { g.score.Store(&m) }, 15*time.Second),
		pubsub.WithPeerExchange(false), pubsub.WithSeenMessagesTTL(seenFor),
		pubsub.WithValidateQueueSize(validateQueue), pubsub.WithValidateWorkers(1), pubsub.WithPeerOutboundQueueSize(outboundQueue),
		pubsub.WithAppSpecificRpcInspector(func(from peer.ID, rpc *pubsub.RPC) error { return g.inspect(from, rpc, j) }))
	if err != nil {
		return nil, err
	}
	self := h.ID()
	check := func(_ context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		if from == self {
			return pubsub.ValidationAccept // verified before it was published
		}
		return g.check(j, from, m)
	}
	// Inline, by one worker: the node's goroutine judges one after the other anyway.
	if err := g.ps.RegisterTopicValidator(topicName, check, pubsub.WithValidatorInline(true)); err != nil {
		return nil, err
	}
	if g.topic, err = g.ps.Join(topicName); err != nil {
		return nil, err
	}
	if g.sub, err = g.topic.Subscribe(); err != nil {
		return nil, err
	}
	return g, nil
}

// check turns a ruling into pubsub's. pubsub blames everyone who sends a rejected id, so it may reject only what has an
// id of its own: a forged signature over a true payload is the forger's fault, not that of who then brings the true one.
func (g *gossip) check(j judge, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
	switch r := j.rule(from, m.Data); {
	case r.Verdict == announce.Accept:
		return pubsub.ValidationAccept
	case r.Verdict == announce.Reject && r.payload:
		g.ps.PeerFeedback(topicName, from, pubsub.PeerFeedbackInvalidMessage)
		return pubsub.ValidationIgnore
	case r.Verdict == announce.Reject:
		return pubsub.ValidationReject
	}
	return pubsub.ValidationIgnore
}

// copied reports whether m may be a copy of what pubsub has seen, and gives what it says. pubsub takes one message of an id and
// drops the others unseen. Whoever is first with a true payload, but with false signatures, or without the one that wakes, or
// with an empty purse, would silence it: so the node looks at each copy. Of one that it knows already it makes short work.
func (g *gossip) copied(m *pb.Message, now time.Time) (*announce.SignedAnnouncement, bool) {
	sa, err := announce.ParseAnnouncement(m.GetData())
	if err != nil {
		return nil, false // its id is that of its bytes: the verdict on one is the verdict on all
	}
	id := sa.ID()
	g.mu.Lock()
	defer g.mu.Unlock()
	return sa, g.seen.add(binary.BigEndian.Uint64(id[:]), now)
}

// recent remembers numbers for rememberFor at least, and at most for twice as long. There are no more than framesOfAll lets
// through in that time, 13,000.
type recent struct {
	young, old map[uint64]bool
	since      time.Time
}

// rememberFor is how long pubsub may drop copies.
const rememberFor = seenFor + time.Minute

// add reports whether id was added before.
func (r *recent) add(id uint64, now time.Time) bool {
	if now.Sub(r.since) >= rememberFor { // also at first
		r.old, r.young, r.since = r.young, map[uint64]bool{}, now
	}
	again := r.young[id] || r.old[id]
	r.young[id] = true
	return again
}

var errFlood = errors.New("more gossip than allowed")

// inspect is the first to see a frame, on pubsub's goroutine. It takes out what no honest node sends and what would
// make pubsub remember too much.
func (g *gossip) inspect(from peer.ID, rpc *pubsub.RPC, j judge) error {
	now := time.Now()
	g.mu.Lock()
	ok := g.frames.take(now, from, 1+len(rpc.GetPublish()))
	denied := g.frames.denied(from)
	g.mu.Unlock()
	if !ok {
		if j.refuse(refusedFlood); denied == floodFrames {
			j.flood(from)
		}
		return errFlood
	}
	rpc.Publish = first(rpc.Publish, maxMessages)
	rpc.Partial, rpc.TestExtension = nil, nil
	if c := rpc.GetControl(); c != nil {
		trim(c)
	}
	for _, m := range rpc.GetPublish() {
		if sa, again := g.copied(m, now); again {
			j.second(from, sa)
		}
	}
	return nil
}

// trim leaves of a control message what an honest node sends: there is one topic.
func trim(c *pb.ControlMessage) {
	c.Idontwant, c.Extensions = nil, nil
	c.Ihave, c.Iwant = first(c.Ihave, 1), first(c.Iwant, 1)
	c.Graft, c.Prune = first(c.Graft, 1), first(c.Prune, 1)
	for _, x := range c.Ihave {
		x.MessageIDs = first(x.MessageIDs, maxIDs)
	}
	for _, x := range c.Iwant {
		x.MessageIDs = first(x.MessageIDs, maxIDs)
	}
	for _, x := range c.Prune {
		x.Peers = nil
		if x.GetBackoff() > maxBackoff {
			*x.Backoff = maxBackoff
		}
	}
}

func first[T any](s []T, n int) []T { return s[:min(len(s), n)] }

// scores are neighbours' scores, at most a quarter of a minute old.
func (g *gossip) scores() map[peer.ID]float64 {
	if m := g.score.Load(); m != nil {
		return *m
	}
	return nil
}

// held is how many entries are kept of strangers.
func (g *gossip) held() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.frames.peers) + len(g.seen.young) + len(g.seen.old)
}

// messageID is a hash of the payload alone, so that a relay cannot make a new message out of an old one by
// reordering signatures. What does not parse is named by its bytes.
func messageID(m *pb.Message) string {
	if sa, err := announce.ParseAnnouncement(m.GetData()); err == nil {
		id := sa.ID()
		return string(id[:])
	}
	sum := sha256.Sum256(m.GetData())
	return string(sum[:20])
}

// meshParams are gossipsub's own, without what one small topic has no use for and others could use against us.
func meshParams() pubsub.GossipSubParams {
	p := pubsub.DefaultGossipSubParams()
	p.MaxIHaveLength = maxIDs
	p.MaxIHaveMessages = 4
	p.MaxIDontWantMessages = 0 // saves the second copy of large messages; there are none
	p.IDontWantMessageThreshold = maxGossip
	p.Connectors, p.MaxPendingConnections = 0, 0 // peer exchange is off: the node's own table decides whom to dial
	return p
}

// scoreParams: see the package's documentation, "Gossip scores".
func scoreParams() *pubsub.PeerScoreParams {
	return &pubsub.PeerScoreParams{
		SkipAtomicValidation: true,
		Topics: map[string]*pubsub.TopicScoreParams{topicName: {
			SkipAtomicValidation:           true,
			TopicWeight:                    1,
			InvalidMessageDeliveriesWeight: -20,
			InvalidMessageDeliveriesDecay:  pubsub.ScoreParameterDecay(30 * time.Minute),
			TimeInMeshQuantum:              time.Second,
		}},
		AppSpecificScore:          func(peer.ID) float64 { return 0 },
		BehaviourPenaltyWeight:    -10,
		BehaviourPenaltyDecay:     pubsub.ScoreParameterDecay(10 * time.Minute),
		BehaviourPenaltyThreshold: 6,
		DecayInterval:             time.Second,
		DecayToZero:               0.01,
		RetainScore:               firstBan / 2,
		SeenMsgTTL:                seenFor,
	}
}

// graylisted is the score below which pubsub reads nothing more of a peer, and the node shuts it out.
const graylisted = -400

func scoreThresholds() *pubsub.PeerScoreThresholds {
	return &pubsub.PeerScoreThresholds{SkipAtomicValidation: true, GossipThreshold: -50, PublishThreshold: -100,
		GraylistThreshold: graylisted, AcceptPXThreshold: 1}
}

// drain keeps the subscription's buffer empty; the validator has already taken what it needs.
func (g *gossip) drain(ctx context.Context) {
	for {
		if _, err := g.sub.Next(ctx); err != nil {
			return
		}
	}
}

// publish offers an envelope to all neighbours. Success means nothing: the exchange is what delivers.
func (g *gossip) publish(ctx context.Context, envelope []byte) error {
	if len(envelope) > announce.MaxEnvelope { // see maxGossip: never find out what an oversized message does
		return fmt.Errorf("gossiping %d bytes, limit %d", len(envelope), announce.MaxEnvelope)
	}
	return g.topic.Publish(ctx, envelope)
}

// deaf returns the connected peers that have been missing from those who joined the topic for too long.
func (g *gossip) deaf(now time.Time, connected, joined []peer.ID) []peer.ID {
	in := map[peer.ID]bool{}
	for _, p := range joined {
		in[p] = true
	}
	next := make(map[peer.ID]time.Time, len(g.since))
	var deaf []peer.ID
	for _, p := range connected {
		if in[p] {
			continue
		}
		since, ok := g.since[p]
		if !ok {
			since = now
		}
		if now.Sub(since) >= deafAfter {
			deaf = append(deaf, p)
			continue
		}
		next[p] = since
	}
	g.since = next
	return deaf
}

// judge is what gossip asks of this node.
func (n *Node) judge() judge {
	return judge{
		rule: n.validate,
		second: func(from peer.ID, sa *announce.SignedAnnouncement) {
			n.post(func() { // few: gossip has its budget
				if n.ruleOn(from, sa, true).Verdict == announce.Reject && n.net != nil {
					ps := n.net.gossip.ps // its goroutine may be waiting for ours
					n.spawn(func(context.Context) { ps.PeerFeedback(topicName, from, pubsub.PeerFeedbackInvalidMessage) })
				}
			})
		},
		flood:  func(from peer.ID) { n.post(func() { n.offence(from, errFlood) }) },
		refuse: n.refusals.add,
	}
}

// validate judges a gossiped envelope, on pubsub's goroutine. What can be said of its bytes alone is said there; the
// node's goroutine, and in it the catalog, decides on the rest.
func (n *Node) validate(from peer.ID, envelope []byte) ruling {
	sa, err := announce.ParseAnnouncement(envelope)
	if err != nil {
		return ruling{Verdict: n.malformed(envelope, err)}
	}
	r := ruling{Verdict: announce.Ignore}
	n.do(func() { r = n.ruleOn(from, sa, false) })
	return r
}

// malformed is the verdict on an announcement that does not parse.
func (n *Node) malformed(envelope []byte, err error) announce.Verdict {
	v := announce.Malformed(err).Verdict
	switch {
	case len(envelope) > announce.MaxEnvelope:
		n.refusals.add(refusedSize)
	case v == announce.Ignore:
		n.refusals.add(refusedNewer)
	default:
		n.refusals.add(refusedForm)
	}
	return v
}

// ruleOn judges a well-formed announcement that from gossiped. tell says that the neighbours will not have it from the
// same gossip.
func (n *Node) ruleOn(from peer.ID, sa *announce.SignedAnnouncement, tell bool) ruling {
	before := n.catalog.Digest()
	res := n.offer(sa, from, n.ex.gossiped)
	if n.catalog.Digest() != before {
		n.catalogChanged(tell)
	}
	if now := time.Now(); res.NeedRoot && n.linked(from) && now.Sub(n.ex.asked[from]) > time.Minute {
		n.ex.asked[from] = now
		n.exchange(from, nil)
	}
	return ruling{res.Verdict, true}
}

// offer offers an announcement to the catalog. Whoever sends what a signature check refuses pays for it from purse.
func (n *Node) offer(sa *announce.SignedAnnouncement, from peer.ID, purse *budget) announce.Result {
	if n.ex.foreign[from] { // not worth a check, and no lie
		n.refusals.add(refusedForeign)
		return announce.Result{Verdict: announce.Ignore, Reason: "from a mesh with another trust root"}
	}
	res, done := n.catalog.Glance(sa)
	if !done {
		now := time.Now()
		if !purse.may(now, from) {
			n.refusals.add(refusedBudget)
			return announce.Result{Verdict: announce.Ignore, Reason: "too many announcements that were refused"}
		}
		if res = n.catalog.AddParsed(sa); res.Verdict != announce.Accept {
			purse.spend(now, from, len(sa.Signers()))
		}
	}
	switch {
	case res.Announcement != nil: // accepted
		a := res.Announcement
		n.log.Info("new release", slog.String("product", a.Product), slog.String("version", a.Version),
			slog.Uint64("seq", a.Seq), slog.String("from", from.String()))
	case res.Equivocation:
		n.log.Warn("two releases claim one number, both refused", slog.String("reason", res.Reason))
	case res.NeedRoot:
		n.refusals.add(refusedRoot)
	case res.Verdict == announce.Reject:
		n.refusals.add(refusedSignature)
		level := slog.LevelDebug
		if n.linked(from) && !n.ex.refused[from] {
			n.ex.refused[from] = true
			level = slog.LevelWarn // once a neighbour: it may speak for a whole other mesh
		}
		n.log.Log(context.Background(), level, "announcement refused", slog.String("peer", from.String()), slog.String("reason", res.Reason))
	}
	return res
}

// linked reports whether p is connected: only then is anything remembered of it.
func (n *Node) linked(p peer.ID) bool {
	if n.net == nil {
		return false
	}
	k := n.net.table.known[p]
	return k != nil && k.connected
}

// shutLiars cuts off whoever has sunk so low that pubsub reads nothing more of it: it would only cost.
func (n *Node) shutLiars() {
	for p, score := range n.net.gossip.scores() {
		if score < graylisted && n.linked(p) && !n.net.gater.banned(p) {
			n.offence(p, fmt.Errorf("gossip score %.0f", score))
		}
	}
}
