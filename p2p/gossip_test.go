package p2p

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"testing"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	pb "github.com/libp2p/go-libp2p-pubsub/pb"
	"github.com/libp2p/go-libp2p/core/peer"

	"satchel/announce"
	"satchel/store"
)

func announcedAs(t *testing.T, seq uint64, keys ...announce.PrivateKey) []byte {
	t.Helper()
	env, err := (&announce.Announcement{Product: "p", RootVer: 1, Epoch: 1, Seq: seq, Version: "v",
		Manifest: store.RawCID(store.Sum(nil)), ManifestSize: 1}).Sign(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

// offline is a node that trusts key and does not run.
func offline(t *testing.T, key announce.PrivateKey) *Node {
	t.Helper()
	n, err := Open(Config{Home: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	ids := []announce.KeyID{key.Public().ID()}
	root, err := (&announce.Root{Version: 1, Keys: []announce.PublicKey{key.Public()},
		Roles:    map[announce.Role]announce.RoleRule{announce.RoleRoot: {Keys: ids, Threshold: 1}},
		Products: []announce.ProductRule{{Pattern: "*", Epoch: 1, Keys: ids, Threshold: 1, Class: announce.ClassContent}}}).Sign(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Trust(root, false); err != nil {
		t.Fatal(err)
	}
	return n
}

// A liar's announcements are checked as long as its purse lasts, and then ignored; what others send is checked all the while.
func TestChecksAreRationed(t *testing.T) {
	key, forger := testKey(t), testKey(t)
	n := offline(t, key)
	rejected := 0
	for i := range 100 {
		switch r := n.validate("liar", announcedAs(t, uint64(i+10), forger)); r.Verdict {
		case announce.Reject:
			rejected++
		case announce.Accept:
			t.Fatal("a forgery is accepted")
		}
	}
	if rejected == 0 || rejected > int(checksOfEach.burst) {
		t.Errorf("%d of 100 forgeries were checked, at most %v may be", rejected, checksOfEach.burst)
	}
	if g := n.Guard(); g.Refused["signature"] != uint64(rejected) || g.Refused["budget"] != uint64(100-rejected) {
		t.Errorf("counted %v", g.Refused)
	}
	if r := n.validate("liar", announcedAs(t, 5, key)); r.Verdict != announce.Ignore {
		t.Errorf("over budget a true announcement gets %v, want to be ignored unchecked", r.Verdict)
	}
	if r := n.validate("honest", announcedAs(t, 5, key)); r.Verdict != announce.Accept {
		t.Errorf("an honest neighbour's announcement gets %v", r.Verdict)
	}
}

// Good news is never paid for, nor is what is here already, whatever its signatures.
func TestHonestPeersPayNothing(t *testing.T) {
	key := testKey(t)
	n := offline(t, key)
	for i := range 300 {
		env := announcedAs(t, uint64(i+1), key)
		if r := n.validate("honest", env); r.Verdict != announce.Accept {
			t.Fatalf("announcement %d gets %v", i, r.Verdict)
		}
		if r := n.validate("honest", env); r.Verdict != announce.Ignore {
			t.Fatalf("again it gets %v", r.Verdict)
		}
		spoiled := bytes.Clone(env)
		spoiled[len(spoiled)-1] ^= 1
		if r := n.validate("honest", spoiled); r.Verdict != announce.Ignore {
			t.Fatalf("with a false signature, but known, it gets %v", r.Verdict)
		}
	}
	if g := n.Guard(); g.Refused["signature"]+g.Refused["budget"] != 0 {
		t.Errorf("counted %v", g.Refused)
	}
}

// Copies of an urgent release that may not wake cost nothing either: they are the same bytes.
func TestUrgentCopiesCostNothing(t *testing.T) {
	key := testKey(t)
	n := offline(t, key)
	env, err := (&announce.Announcement{Product: "p", RootVer: 1, Epoch: 1, Seq: 1, Version: "v", Urgent: true,
		Manifest: store.RawCID(store.Sum(nil)), ManifestSize: 1}).Sign(key)
	check(t, err)
	for range 20 {
		n.validate("honest", env)
	}
	if r := n.validate("honest", announcedAs(t, 2, key)); r.Verdict != announce.Accept {
		t.Errorf("who has sent copies of an urgent release is not listened to: %v", r.Verdict)
	}
}

// What does not parse is counted for what it is; what is too new for us is nobody's fault.
func TestMalformed(t *testing.T) {
	key := newPen(t)
	n := offline(t, key.PrivateKey)
	for _, c := range []struct {
		envelope []byte
		counter  string
		want     announce.Verdict
	}{
		{make([]byte, announce.MaxEnvelope+1), "size", announce.Reject},
		{make([]byte, announce.MaxEnvelope), "form", announce.Reject},
		{signed(ofAnnouncement, cborMap(with(news("p", 1), 20, cborUint(1))...), key), "newer", announce.Ignore},
	} {
		had := counts(n)[c.counter]
		if r := n.validate("somebody", c.envelope); r.Verdict != c.want || r.payload || counts(n)[c.counter] != had+1 {
			t.Errorf("%d bytes: %+v, refused %v, want %v and %s", len(c.envelope), r, counts(n), c.want, c.counter)
		}
	}
}

// What is rejected in pubsub's sense is only what has an id of its own; a node's own announcements are not judged again.
func TestVerdicts(t *testing.T) {
	key := testKey(t)
	n := testNode(t, key)
	g := n.net.gossip
	m := &pubsub.Message{Message: &pb.Message{Data: announcedAs(t, 1, key)}}
	for _, c := range []struct {
		ruling
		want pubsub.ValidationResult
	}{
		{ruling{announce.Accept, true}, pubsub.ValidationAccept},
		{ruling{announce.Ignore, true}, pubsub.ValidationIgnore},
		{ruling{announce.Ignore, false}, pubsub.ValidationIgnore},
		{ruling{announce.Reject, true}, pubsub.ValidationIgnore},
		{ruling{announce.Reject, false}, pubsub.ValidationReject},
	} {
		if got := g.check(judge{rule: func(peer.ID, []byte) ruling { return c.ruling }}, "somebody", m); got != c.want {
			t.Errorf("%+v: %v, want %v", c.ruling, got, c.want)
		}
	}
	if v := n.validate("somebody", m.Data).Verdict; v != announce.Accept {
		t.Fatal(v)
	}
	check(t, g.publish(t.Context(), m.Data)) // known here, and told to others all the same
	kept := n.catalog.Digest()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(Config{Home: n.cfg.Home})
	check(t, err)
	defer again.Close()
	if again.catalog.Digest() != kept {
		t.Error("what was gossiped is not kept")
	}
}

// Who speaks of a trust root that is newer than ours is asked for it, once a minute, and only if he is here.
func TestWhoIsAskedForARoot(t *testing.T) {
	key := testKey(t)
	n := testNode(t, key)
	o := newOutsider(t, n)
	o.meet(t)
	env := func(version, seq uint64) []byte {
		env, err := (&announce.Announcement{Product: "p", RootVer: version, Epoch: 1, Seq: seq, Version: "v",
			Manifest: store.RawCID(store.Sum(nil)), ManifestSize: 1}).Sign(key)
		check(t, err)
		return env
	}
	asks := func(from peer.ID, envelope []byte) bool {
		until(t, "the exchange to end", func() bool {
			done := false
			n.do(func() { done = n.linked(o.ID()) && n.ex.begun > 0 && !n.ex.running[o.ID()] })
			return done
		})
		before := time.Time{}
		n.do(func() { before = n.ex.asked[from] })
		n.validate(from, envelope)
		now := before
		n.do(func() { now = n.ex.asked[from] })
		return now != before
	}
	had := counts(n)["root"]
	if asks(o.ID(), env(1, 1)) || asks("nobody", env(2, 2)) || !asks(o.ID(), env(2, 3)) || asks(o.ID(), env(2, 4)) {
		t.Error("the wrong one is asked, or the right one twice")
	}
	if c := counts(n)["root"] - had; c != 3 {
		t.Errorf("%d were counted, want 3", c)
	}
	n.do(func() { n.ex.asked[o.ID()] = time.Now().Add(-time.Minute - time.Second) })
	if !asks(o.ID(), env(2, 5)) {
		t.Error("after a minute it is not asked again")
	}
}

// Nobody can silence a true release by being first with it while the node does not listen to him: a copy from another neighbour
// is looked at.
func TestNobodyIsSilenced(t *testing.T) {
	key, forger := newPen(t), newPen(t)
	n := openNode(t, Config{}, rootOf(t, key, announce.ProductRule{Pattern: "*"}))
	runNode(t, n)
	for seq, c := range []struct {
		what string
		mute func(t *testing.T, o *outsider) // has the node ignore what o sends
		as   string
	}{
		{"signatures that cost too much", func(t *testing.T, o *outsider) {
			o.gossiped(t, announcedAs(t, 101, forger.PrivateKey), announcedAs(t, 102, forger.PrivateKey))
		}, "budget"},
		{"another trust root", func(t *testing.T, o *outsider) {
			met := func() (met bool) {
				n.do(func() { met = n.ex.begun > 0 && !n.ex.running[o.ID()] && n.linked(o.ID()) })
				return met
			}
			until(t, "the exchange", met)
			n.do(func() { n.ex.foreign[o.ID()] = true })
		}, "foreign"},
	} {
		t.Run(c.what, func(t *testing.T) {
			had := counts(n)
			news := announcedAs(t, uint64(seq+1), key.PrivateKey)
			liar, honest := newOutsider(t, n), newOutsider(t, n)
			defer liar.Close()
			defer honest.Close()
			liar.meet(t)
			c.mute(t, liar)
			liar.gossiped(t, news)
			until(t, "the node to ignore it", func() bool { return counts(n)[c.as] == had[c.as]+1 })
			honest.meet(t)
			honest.gossiped(t, news)
			until(t, "the release", func() bool {
				a, _, _ := latest(n, "p")
				return a.Seq == uint64(seq+1)
			})
		})
	}
}

// What no honest node sends is taken out of a frame before pubsub sees it.
func TestTrim(t *testing.T) {
	ids := make([]string, 1000)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	name, many := topicName, uint64(math.MaxUint64)
	c := &pb.ControlMessage{Idontwant: []*pb.ControlIDontWant{{MessageIDs: ids}}}
	for range 50 {
		c.Ihave = append(c.Ihave, &pb.ControlIHave{TopicID: &name, MessageIDs: ids})
		c.Iwant = append(c.Iwant, &pb.ControlIWant{MessageIDs: ids})
		c.Graft = append(c.Graft, &pb.ControlGraft{TopicID: &name})
		c.Prune = append(c.Prune, &pb.ControlPrune{TopicID: &name, Backoff: &many, Peers: []*pb.PeerInfo{{PeerID: []byte("x")}}})
	}
	trim(c)
	if len(c.Idontwant) != 0 || len(c.Ihave) != 1 || len(c.Iwant) != 1 || len(c.Graft) != 1 || len(c.Prune) != 1 {
		t.Errorf("left: %d IDONTWANT, %d IHAVE, %d IWANT, %d GRAFT, %d PRUNE", len(c.Idontwant), len(c.Ihave), len(c.Iwant), len(c.Graft), len(c.Prune))
	}
	if len(c.Ihave[0].MessageIDs) > maxIDs || len(c.Iwant[0].MessageIDs) > maxIDs {
		t.Error("more ids are left than fit")
	}
	if p := c.Prune[0]; p.GetBackoff() > maxBackoff || len(p.Peers) != 0 {
		t.Errorf("PRUNE asks for %d seconds and names %d peers", p.GetBackoff(), len(p.Peers))
	}
}

// A neighbour may send many frames at once and then some; who goes on is not heard, and then shut out. Others are heard.
func TestFloodOfFrames(t *testing.T) {
	g := &gossip{frames: newBudget(framesOfEach, framesOfAll)}
	refused, shut := 0, 0
	j := judge{flood: func(peer.ID) { shut++ }, refuse: func(refusal) { refused++ }}
	for i := range 5 * floodFrames {
		err := g.inspect("flooder", &pubsub.RPC{}, j)
		if heard := i < int(framesOfEach.burst); heard != (err == nil) {
			t.Fatalf("frame %d: %v", i, err)
		}
		if err != nil && !errors.Is(err, errFlood) {
			t.Fatal(err)
		}
	}
	if shut != 1 || refused != 5*floodFrames-int(framesOfEach.burst) {
		t.Errorf("refused %d, shut out %d times", refused, shut)
	}
	if err := g.inspect("other", &pubsub.RPC{}, j); err != nil {
		t.Errorf("another neighbour: %v", err)
	}
	// What a frame carries is cut to what honest nodes send.
	loaded := &pubsub.RPC{}
	loaded.Control = &pb.ControlMessage{Idontwant: []*pb.ControlIDontWant{{}}, Graft: make([]*pb.ControlGraft, 5)}
	if err := g.inspect("other", loaded, j); err != nil || len(loaded.Control.Idontwant) != 0 || len(loaded.Control.Graft) != 1 {
		t.Errorf("%v, left: %v", err, loaded.Control)
	}
	// One frame with many messages costs as much as many.
	full := &pubsub.RPC{}
	for range 300 {
		full.Publish = append(full.Publish, &pb.Message{})
	}
	if err := g.inspect("packer", full, j); err != nil || len(full.Publish) > maxMessages {
		t.Errorf("%v, %d messages are left", err, len(full.Publish))
	}
	if err := g.inspect("packer", &pubsub.RPC{}, j); err == nil {
		t.Error("three hundred messages in one frame cost one frame")
	}
}

// Copies of what pubsub may have seen get a look, as long as it may drop them, and whatever else was seen meanwhile. What does
// not parse gets none.
func TestCopies(t *testing.T) {
	g := &gossip{}
	key := testKey(t)
	start := time.Now()
	copied := func(data []byte, after time.Duration) bool {
		_, again := g.copied(&pb.Message{Data: data}, start.Add(after))
		return again
	}
	one := announcedAs(t, 1, key)
	spoiled := bytes.Clone(one)
	spoiled[len(spoiled)-1] ^= 1
	if copied(one, 0) {
		t.Error("the first is taken for a copy")
	}
	if !copied(one, 0) || !copied(spoiled, time.Second) {
		t.Error("a copy, or one with another signature, gets no look")
	}
	for i := range uint64(1000) {
		if copied(announcedAs(t, i+2, key), time.Second) {
			t.Fatal("another one is taken for a copy")
		}
	}
	if !copied(one, rememberFor-time.Second) || !copied(spoiled, 2*rememberFor-2*time.Second) {
		t.Error("forgotten while pubsub may drop copies")
	}
	last := announcedAs(t, 1000, key)
	if copied(last, 3*rememberFor) {
		t.Error("remembered for ever")
	}
	for range 2 {
		if copied([]byte("x"), 0) {
			t.Error("what does not parse gets a second look")
		}
	}
	copied(last, 5*rememberFor)
	copied(last, 7*rememberFor)
	if n := len(g.seen.young) + len(g.seen.old); n > 2 {
		t.Errorf("%d are remembered", n)
	}
}

// The numbers of the package's documentation.
func TestScoreNumbers(t *testing.T) {
	p, limits := scoreParams(), scoreThresholds()
	topic := p.Topics[topicName]
	if topic.TimeInMeshWeight != 0 || topic.FirstMessageDeliveriesWeight != 0 || p.AppSpecificWeight != 0 {
		t.Error("something earns a score above zero: whoever only forwards, or only stays, could save up for an attack")
	}
	if topic.MeshMessageDeliveriesWeight != 0 || topic.MeshFailurePenaltyWeight != 0 || p.IPColocationFactorWeight != 0 {
		t.Error("silence, or the address of a classroom, is punished")
	}
	invalid := func(n float64) float64 { return n * n * topic.InvalidMessageDeliveriesWeight * topic.TopicWeight }
	if invalid(4) < limits.GraylistThreshold || invalid(5) >= limits.GraylistThreshold {
		t.Errorf("four lies score %v, five %v; the gray list begins at %v", invalid(4), invalid(5), limits.GraylistThreshold)
	}
	behaviour := func(n float64) float64 {
		over := max(0, n-p.BehaviourPenaltyThreshold)
		return over * over * p.BehaviourPenaltyWeight
	}
	if behaviour(6) != 0 || behaviour(12) < limits.GraylistThreshold || behaviour(13) >= limits.GraylistThreshold {
		t.Errorf("six, twelve and thirteen breaches score %v, %v, %v", behaviour(6), behaviour(12), behaviour(13))
	}
	if limits.AcceptPXThreshold <= 0 {
		t.Error("peers that score nothing may send us peers")
	}
	// One lie is forgotten in half an hour, not in a minute.
	minute := math.Pow(topic.InvalidMessageDeliveriesDecay, 60)
	if half := math.Pow(topic.InvalidMessageDeliveriesDecay, 1800); minute < 0.8 || half > p.DecayToZero*1.01 {
		t.Errorf("of a lie %.2f is left after a minute, %.3f after half an hour", minute, half)
	}
}
