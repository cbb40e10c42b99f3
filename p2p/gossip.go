package p2p

import (
	"context"
	"crypto/sha256"
	"fmt"
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

type gossip struct {
	topic *pubsub.Topic
	sub   *pubsub.Subscription
	since map[peer.ID]time.Time // connected but not in the topic; owned by the node's goroutine
}

// newGossip joins the topic. validate runs for every message that is not ours, on pubsub's goroutines.
func newGossip(ctx context.Context, h host.Host, validate func(from peer.ID, envelope []byte) announce.Verdict) (*gossip, error) {
	ps, err := pubsub.NewGossipSub(ctx, h,
		pubsub.WithMessageSignaturePolicy(pubsub.StrictNoSign), pubsub.WithNoAuthor(),
		pubsub.WithMessageIdFn(messageID), pubsub.WithMaxMessageSize(maxGossip), pubsub.WithFloodPublish(true),
		pubsub.WithSubscriptionFilter(pubsub.WrapLimitSubscriptionFilter(pubsub.NewAllowlistSubscriptionFilter(topicName), 16)),
		pubsub.WithPeerScore(scoreParams(), scoreThresholds()),
		pubsub.WithPeerExchange(false))
	if err != nil {
		return nil, err
	}
	self := h.ID()
	check := func(_ context.Context, from peer.ID, m *pubsub.Message) pubsub.ValidationResult {
		if from == self {
			return pubsub.ValidationAccept // verified before it was published
		}
		switch validate(from, m.Data) {
		case announce.Accept:
			return pubsub.ValidationAccept
		case announce.Reject:
			return pubsub.ValidationReject
		default:
			return pubsub.ValidationIgnore
		}
	}
	if err := ps.RegisterTopicValidator(topicName, check); err != nil {
		return nil, err
	}
	topic, err := ps.Join(topicName)
	if err != nil {
		return nil, err
	}
	sub, err := topic.Subscribe()
	if err != nil {
		return nil, err
	}
	return &gossip{topic: topic, sub: sub, since: map[peer.ID]time.Time{}}, nil
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

// scoreParams punish what only a broken or hostile node sends, and nothing else: laptops behind one address
// are a classroom, silence is normal.
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
		RetainScore:               time.Hour,
	}
}

func scoreThresholds() *pubsub.PeerScoreThresholds {
	return &pubsub.PeerScoreThresholds{SkipAtomicValidation: true, GossipThreshold: -50, PublishThreshold: -100, GraylistThreshold: -400}
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
