package p2p

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"satchel/announce"
	"satchel/store/image"
	"satchel/store/manifest"
)

// formatLevel is what this program can install; see announce.Announcement.MinUpdater.
const formatLevel = 1

// NextTimestamp is what somebody with the timestamp role must know to sign one.
type NextTimestamp struct {
	RootVersion uint64          `json:"root_version"`
	Keys        []string        `json:"keys"` // ids of the keys that may sign, hexadecimal
	Threshold   int             `json:"threshold"`
	Earliest    int64           `json:"earliest"` // unix seconds: it cannot be earlier than this; 0: nothing says
	Latest      int64           `json:"latest"`   // unix seconds: a clock beyond this is taken for wrong; 0: nothing says
	Heads       []TimestampHead `json:"heads"`
}

// TimestampHead is the newest number of one product.
type TimestampHead struct {
	Product string `json:"product"`
	Epoch   uint64 `json:"epoch"`
	Seq     uint64 `json:"seq"`
}

// maxVouched is how many products timestamps of one time can name: more than eight are not kept.
const maxVouched = 8 * announce.MaxTimestampHeads

// NextTimestamp says what a timestamp of now would say.
func (n *Node) NextTimestamp() (next NextTimestamp, err error) {
	err = n.call(func() error {
		root := n.catalog.Root()
		if root == nil {
			return errNoRoot()
		}
		next = NextTimestamp{RootVersion: root.Version, Keys: []string{}, Heads: []TimestampHead{}}
		// Dates alone, without what was counted since: a clock that is a second behind another is right.
		if next.Earliest = n.catalog.Earliest(0); next.Earliest > 0 {
			next.Latest = n.catalog.Earliest(n.count.now().Up) + announce.MaxDrift
		}
		role, ok := root.Roles[announce.RoleTimestamp]
		if !ok {
			return fail(CodeRefused, `give it to a key with "satchel root add-key ROOT KEY --role timestamp"`, errors.New("nobody has the timestamp role"))
		}
		next.Threshold = role.Threshold
		for _, id := range role.Keys {
			next.Keys = append(next.Keys, id.String())
		}
		for _, h := range n.catalog.Heads() {
			if !h.Refused && len(next.Heads) < maxVouched {
				next.Heads = append(next.Heads, TimestampHead{h.Product, h.Epoch, h.Seq})
			}
		}
		return nil
	})
	return next, err
}

// Sign signs timestamps of the time at, in unix seconds: one for each announce.MaxTimestampHeads products. A time that
// cannot be is refused: a timestamp dated wrongly confuses everybody until its key is taken away.
func (t *NextTimestamp) Sign(at int64, keys ...announce.PrivateKey) (envelopes [][]byte, err error) {
	date := func(s int64) string { return time.Unix(s, 0).UTC().Format("2006-01-02 15:04") + " UTC" }
	switch {
	case at < t.Earliest:
		return nil, fail(CodeRefused, "set the clock of this machine right", fmt.Errorf("it cannot be %s: what is signed already is of %s", date(at), date(t.Earliest)))
	case t.Latest > 0 && at > t.Latest:
		return nil, fail(CodeRefused, "set the clock of this machine right; if it is, let the root's keys sign a new version of the root first",
			fmt.Errorf("it can hardly be %s: the newest thing that is signed is of %s", date(at), date(t.Earliest)))
	}
	signers := map[string]bool{}
	for _, k := range keys {
		id := k.Public().ID().String()
		if !slices.Contains(t.Keys, id) {
			return nil, fail(CodeRefused, "sign with "+strings.Join(t.Keys, ", "), fmt.Errorf("key %s does not have the timestamp role", id))
		}
		signers[id] = true
	}
	if len(signers) < t.Threshold {
		return nil, fail(CodeRefused, "sign with "+strings.Join(t.Keys, ", "), fmt.Errorf("a timestamp needs %d signatures and %d are here", t.Threshold, len(signers)))
	}
	for rest := t.Heads; len(envelopes) == 0 || len(rest) > 0; {
		stamp := announce.Timestamp{RootVer: t.RootVersion, Issued: at}
		some := rest[:min(len(rest), announce.MaxTimestampHeads)]
		rest = rest[len(some):]
		for _, h := range some {
			stamp.Heads = append(stamp.Heads, announce.TimestampHead{Product: h.Product, Epoch: h.Epoch, Seq: h.Seq})
		}
		env, err := stamp.Sign(keys...)
		if err != nil {
			return nil, err
		}
		envelopes = append(envelopes, env)
	}
	return envelopes, nil
}

// AddTimestamp takes a timestamp on, and passes it on.
func (n *Node) AddTimestamp(envelope []byte) error {
	return n.call(func() error {
		if n.catalog.Root() == nil {
			return errNoRoot()
		}
		switch res := n.catalog.AddTimestamp(n.count.now().Up, envelope); {
		case res.NeedRoot, res.Verdict == announce.Reject:
			return fail(CodeRefused, `"satchel root show" says who has the timestamp role`, fmt.Errorf("timestamp refused: %s", res.Reason))
		case res.Verdict == announce.Ignore:
			return fail(CodeOlder, "nothing need be done", fmt.Errorf("timestamp not taken: %s", res.Reason))
		}
		return n.keepCatalog()
	})
}

// stampPatience is how long, in seconds, a node that signs timestamps listens before its first: what it missed while
// it was off is not to be called the newest.
const stampPatience = 60

// stamp signs a timestamp when one is due, on a node that was given the key.
func (n *Node) stamp() {
	if len(n.cfg.TimestampKeys) == 0 {
		return
	}
	clock := n.count.now()
	if clock.Up < n.nextStamp {
		return
	}
	every := n.cfg.TimestampEvery
	if every <= 0 {
		every = time.Hour
	}
	n.nextStamp = clock.Up + max(1, int64(every/time.Second))
	n.spawn(func(context.Context) { // its verbs wait for the node's goroutine
		err := n.signStamp(clock.Wall)
		n.post(func() {
			if n.stampErr = err; err != nil {
				n.nextStamp = min(n.nextStamp, n.count.now().Up+stampPatience) // clocks are set
			}
			n.touch()
		})
		if err != nil {
			n.log.Warn("no timestamp signed", slog.Any("err", err))
		}
	})
}

func (n *Node) signStamp(at int64) error {
	next, err := n.NextTimestamp()
	if err != nil {
		return err
	}
	envelopes, err := next.Sign(at, n.cfg.TimestampKeys...)
	if err != nil {
		return err
	}
	for _, env := range envelopes {
		if err := n.AddTimestamp(env); err != nil && CodeOf(err) != CodeOlder { // another server was faster
			return err
		}
	}
	n.log.Info("timestamp signed", slog.Int("products", len(next.Heads)))
	return nil
}

// freshness says whether what is here is known to be the newest.
func (n *Node) freshness(product string) *FreshStatus {
	s := n.catalog.Standing(n.count.now(), product)
	f := &FreshStatus{State: s.State.String(), AsOf: s.AsOf, Expired: s.Expired}
	if s.Newer != nil {
		f.NewerEpoch, f.NewerSeq = s.Newer.Epoch, s.Newer.Seq
	}
	return f
}

// clockStatus says how the machine's clock stands to what is signed.
func (n *Node) clockStatus() ClockStatus {
	clock := n.count.now()
	c := ClockStatus{Earliest: n.catalog.Earliest(clock.Up), State: ClockUnproved}
	switch {
	case c.Earliest == 0:
	case n.catalog.Now(clock) == clock.Wall:
		c.State = ClockPlausible
	default:
		c.State = ClockWrong
	}
	return c
}

// claims are the two releases that claim the newest number of product.
func (n *Node) claims(product string) (out []ReleaseStatus) {
	for _, env := range n.catalog.Claims(product) {
		if sa, err := announce.ParseAnnouncement(env); err == nil {
			out = append(out, *releaseStatus(&sa.Announcement))
		}
	}
	return out
}

func releaseStatus(a *announce.Announcement) *ReleaseStatus {
	return &ReleaseStatus{Version: a.Version, Epoch: a.Epoch, Seq: a.Seq, Manifest: a.Manifest.String(), ManifestSize: a.ManifestSize,
		TotalSize: a.TotalSize, Issued: a.Issued, Recall: a.Recall}
}

// belongs checks that the manifest is that of the announcement. A recall has the manifest of an older release.
func belongs(m *manifest.Header, a *announce.Announcement) error {
	older := m.Epoch < a.Epoch || (m.Epoch == a.Epoch && m.Seq < a.Seq)
	if m.Product != a.Product || a.Recall && !older || !a.Recall && (m.Epoch != a.Epoch || m.Seq != a.Seq) {
		return fmt.Errorf("the manifest is that of %s epoch %d seq %d", m.Product, m.Epoch, m.Seq)
	}
	return nil
}

// policy is what the trust root lets the files of product be.
func (n *Node) policy(product string) (p manifest.Policy) {
	if root := n.catalog.Root(); root != nil {
		if rule, ok := root.Rule(product); ok {
			p = manifest.Policy{Setuid: rule.MaySetuid, Names: rule.MayNames, LinkOut: rule.MayLinkOut, Run: rule.MayRun}
		}
	}
	return p
}

// belowFloor says why a person may not go back to d, or nil: its publisher said that machines never go below.
func (n *Node) belowFloor(d image.Release) error {
	floors := [][2]uint64{}
	if m := n.catalog.Mark(d.Product); m.Floor > 0 {
		floors = append(floors, [2]uint64{m.Epoch, m.Floor})
	}
	if root := n.catalog.Root(); root != nil {
		if rule, _ := root.Rule(d.Product); rule.Floor > 0 {
			floors = append(floors, [2]uint64{rule.Epoch, rule.Floor})
		}
	}
	for _, f := range floors {
		if d.Epoch < f[0] || (d.Epoch == f[0] && d.Seq < f[1]) {
			return fail(CodeRefused, "apply the newest release, or ask the publisher for a recall",
				fmt.Errorf("%s seq %d is below seq %d, under which its publisher lets no machine go", d.Product, d.Seq, f[1]))
		}
	}
	return nil
}

// PastRelease is an older release whose content is whole here.
type PastRelease struct {
	Version      string `json:"version"`
	Epoch        uint64 `json:"epoch"`
	Seq          uint64 `json:"seq"`
	Manifest     string `json:"manifest"`
	ManifestSize uint64 `json:"manifest_size"`
	TotalSize    uint64 `json:"total_size"`
}

// Past finds the release (epoch, seq) of product for a recall: one that was announced from this home, or whose manifest is in
// the store. Epoch 0 is the trust root's.
func (n *Node) Past(product string, epoch, seq uint64) (out PastRelease, err error) {
	if epoch == 0 {
		next, err := n.Next(product)
		if err != nil {
			return out, err
		}
		epoch = next.Epoch
	}
	m := n.announced(product, epoch, seq)
	if !m.Defined() {
		if m, err = n.inStore(product, epoch, seq); err != nil {
			return out, err
		}
	}
	if !m.Defined() {
		return out, fail(CodeNotFound, "publish the older tree again instead; a release of another epoch is named with --epoch",
			fmt.Errorf("no content of %s epoch %d, seq %d is in this home", product, epoch, seq))
	}
	out.Epoch, out.Seq = epoch, seq
	if err := n.checkWhole(m); err != nil {
		return out, err
	}
	list, err := n.store.Manifest(m)
	if err != nil {
		return out, err
	}
	f, size, err := n.store.OpenBlob(m)
	if err != nil {
		return out, err
	}
	f.Close()
	out.Version, out.Manifest, out.ManifestSize, out.TotalSize = list.Version, m.String(), uint64(size), list.TotalSize()
	return out, nil
}

// history is one release that was announced from this home, as state.db keeps it.
type history struct {
	product  string
	number   [2]uint64 // epoch, seq
	manifest cid.Cid
}

func (n *Node) putHistory(a *announce.Announcement) error {
	return n.db.put("history", fmt.Sprintf("%s %d %d", a.Product, a.Epoch, a.Seq), []byte(a.Manifest.String()))
}

// histories lists what was announced from this home, the newest of each product first.
func (n *Node) histories() (all []history) {
	n.db.all("history", func(key string, text []byte) {
		part := strings.Split(key, " ")
		m, err := cid.Decode(string(text))
		if err != nil || len(part) != 3 {
			return
		}
		epoch, err1 := strconv.ParseUint(part[1], 10, 64)
		seq, err2 := strconv.ParseUint(part[2], 10, 64)
		if err1 == nil && err2 == nil {
			all = append(all, history{part[0], [2]uint64{epoch, seq}, m})
		}
	})
	slices.SortFunc(all, func(a, b history) int {
		return cmp.Or(cmp.Compare(a.product, b.product), -slices.Compare(a.number[:], b.number[:]))
	})
	return all
}

func (n *Node) announced(product string, epoch, seq uint64) cid.Cid {
	for _, h := range n.histories() {
		if h.product == product && h.number == [2]uint64{epoch, seq} {
			return h.manifest
		}
	}
	return cid.Undef
}

func (n *Node) inStore(product string, epoch, seq uint64) (cid.Cid, error) {
	all, err := n.store.Manifests()
	if err != nil {
		return cid.Undef, err
	}
	for _, c := range all {
		if m, err := n.store.Manifest(c); err == nil && m.Product == product && m.Epoch == epoch && m.Seq == seq {
			return c, nil
		}
	}
	return cid.Undef, nil
}
