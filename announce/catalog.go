package announce

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Verdict is what becomes of a document that somebody sent.
type Verdict int

// Verdicts.
const (
	Accept Verdict = iota // new: keep it and pass it on
	Ignore                // of no use here; the sender is not to blame
	Reject                // no honest node sends it
)

// String is the verdict's name.
func (v Verdict) String() string {
	if v < Accept || v > Reject {
		return "unknown"
	}
	return [...]string{"accept", "ignore", "reject"}[v]
}

// Result is a verdict and its reason.
type Result struct {
	Verdict      Verdict
	Reason       string        // in words; empty on Accept
	Announcement *Announcement // the new release, when one was accepted
	NeedRoot     bool          // signed under a newer trust root than ours: ask the sender for the chain
	Equivocation bool          // two releases claim one number
	Checked      int           // how many signatures had to be checked, at most, of what was not accepted; 0 of what is malformed
}

// Head says what a node's catalog holds of one product.
type Head struct {
	Product    string
	Epoch, Seq uint64
	ID         [20]byte // of the announcement's payload; another one when it may wake, and of both when they equivocate
	Refused    bool     // two releases claim this number
}

// Evidence is two valid announcements of one (product, epoch, seq) with different manifests, the smaller ID first.
type Evidence struct{ A, B []byte } // envelopes

// RootStep is one version of the trust root.
type RootStep struct {
	Version  uint64
	Envelope []byte
}

// Limits of a catalog.
const (
	MaxProducts = 10_000
	MaxEvidence = 64 // what Evidence returns; more products than that are refused all the same
)

// Catalog is what one node has accepted. It is deterministic and has one owner.
type Catalog struct {
	chain   []*SignedRoot // oldest first, each the successor of the one before
	entries map[string]*entry
	marks   map[string]Mark // by product
	times   []heldTime      // the youngest first
	rival   *SignedRoot     // another root of our version, signed as well as ours; nil: none
	digest  *[8]byte        // nil: to be computed
}

// entry is the newest number of one product. What it holds is a function of the set of announcements seen, not
// of their order: of those with this number first has the smallest id, and second the smallest id among those
// with another manifest than first's.
type entry struct {
	first  *SignedAnnouncement
	second *SignedAnnouncement // nil, or both are refused
	wakes  bool                // first may wake, and there is no second
}

// NewCatalog is an empty catalog: it trusts nobody yet.
func NewCatalog() *Catalog { return &Catalog{entries: map[string]*entry{}, marks: map[string]Mark{}} }

// Root is the newest trust root, nil before Trust.
func (c *Catalog) Root() *Root {
	if len(c.chain) == 0 {
		return nil
	}
	return &c.chain[len(c.chain)-1].Root
}

// RootVersion is the version of Root, 0 for none.
func (c *Catalog) RootVersion() uint64 {
	if r := c.Root(); r != nil {
		return r.Version
	}
	return 0
}

// RootChain is every trust root from the one that a person trusted to the newest.
func (c *Catalog) RootChain() []RootStep {
	steps := make([]RootStep, len(c.chain))
	for i, sr := range c.chain {
		steps[i] = RootStep{sr.Version, sr.raw}
	}
	return steps
}

// Trust takes a root on a person's word: the first one, or the next of the same chain. The newest one that is
// here already is no error.
func (c *Catalog) Trust(data []byte) error {
	sr, err := ParseRoot(data)
	if err != nil {
		return err
	}
	if err := VerifyGenesis(sr); err != nil {
		return err
	}
	switch root := c.Root(); {
	case root == nil:
	case sr.ID() == c.chain[len(c.chain)-1].ID():
		return nil
	case slices.ContainsFunc(c.chain, func(old *SignedRoot) bool { return old.ID() == sr.ID() }):
		return fmt.Errorf("trust root version %d is older than version %d, which is trusted already", sr.Version, root.Version)
	case sr.Version <= root.Version:
		return fmt.Errorf("this is another trust root, not a newer version of the one that is trusted here (version %d)", root.Version)
	default:
		if err := VerifyRotation(root, sr); err != nil {
			return err
		}
	}
	c.chain, c.rival = append(c.chain, sr), nil
	c.recheck()
	return nil
}

// ForceTrust replaces the whole chain by one root, on a person's word. What that root did not sign is dropped.
func (c *Catalog) ForceTrust(data []byte) error {
	sr, err := ParseRoot(data)
	if err != nil {
		return err
	}
	if err := VerifyGenesis(sr); err != nil {
		return err
	}
	c.chain, c.rival = []*SignedRoot{sr}, nil
	clear(c.marks)
	c.recheck()
	return nil
}

// AddRoot offers the next root of the chain, from anybody.
func (c *Catalog) AddRoot(data []byte) Result {
	sr, err := ParseRoot(data)
	if err != nil {
		return malformed(err)
	}
	root := c.Root()
	switch {
	case root == nil:
		return Result{Verdict: Ignore, Reason: "no trust root here yet"}
	case sr.Version <= root.Version:
		return c.addRival(sr)
	case sr.Version > root.Version+1:
		return Result{Verdict: Ignore, Reason: "trust root skips a version", NeedRoot: true}
	}
	if err := VerifyRotation(root, sr); err != nil {
		// A mesh of strangers holds other chains too; only a root that claims to follow ours and does not is a lie,
		// and we cannot tell the two apart.
		return Result{Verdict: Ignore, Reason: err.Error(), Checked: len(sr.env.sigs)}
	}
	c.chain, c.rival = append(c.chain, sr), nil
	c.recheck()
	return Result{Verdict: Accept}
}

// addRival looks whether sr is a second root of our version, signed by enough keys to follow the one before. Then those
// keys have told two stories. The chain stays as it is: the next root, which follows both, ends it.
func (c *Catalog) addRival(sr *SignedRoot) Result {
	n := len(c.chain)
	switch {
	case n < 2 || sr.Version < c.chain[n-1].Version:
		return Result{Verdict: Ignore, Reason: "trust root is not newer than ours"}
	case c.chain[n-1].ID() == sr.ID():
		return Result{Verdict: Ignore, Reason: "trust root is here already"}
	case c.rival != nil:
		return Result{Verdict: Ignore, Reason: "that the root keys signed two roots is known already"}
	}
	if err := VerifyRotation(&c.chain[n-2].Root, sr); err != nil {
		return Result{Verdict: Ignore, Reason: err.Error(), Checked: len(sr.env.sigs)}
	}
	c.rival, c.digest = sr, nil
	return Result{Verdict: Accept, Equivocation: true,
		Reason: fmt.Sprintf("the root keys signed two trust roots of version %d; the one that came first stays until there is a newer one", sr.Version)}
}

// Rival is another trust root of our version that the root keys signed too; false when none was seen. It counts for nothing.
func (c *Catalog) Rival() (RootStep, bool) {
	if c.rival == nil {
		return RootStep{}, false
	}
	return RootStep{c.rival.Version, c.rival.raw}, true
}

// RootID names the newest trust root: the first 8 bytes of its id; zero when there is none.
func (c *Catalog) RootID() (id [8]byte) {
	if n := len(c.chain); n > 0 {
		full := c.chain[n-1].ID()
		copy(id[:], full[:])
	}
	return id
}

// Foreign reports whether a node whose newest root has this version and RootID belongs to another mesh, as far as
// can be told: the chain here has another root of that version, or ends before it and could not be continued.
func (c *Catalog) Foreign(version uint64, id [8]byte) bool {
	if len(c.chain) == 0 || version < c.chain[0].Version {
		return false
	}
	for _, sr := range append(slices.Clone(c.chain), c.rival) {
		if sr != nil && sr.Version == version {
			if full := sr.ID(); bytes.Equal(full[:8], id[:]) {
				return false
			}
		}
	}
	return true
}

// malformed is the verdict on what does not parse.
func malformed(err error) Result {
	if errors.Is(err, ErrTooNew) {
		return Result{Verdict: Ignore, Reason: err.Error()}
	}
	return Result{Verdict: Reject, Reason: err.Error()}
}

// recheck drops what the newest root no longer covers: revoked keys, older epochs, raised floors.
func (c *Catalog) recheck() {
	for product, e := range c.entries {
		var hold []*SignedAnnouncement
		for _, sa := range []*SignedAnnouncement{e.first, e.second} {
			if sa != nil && c.holds(sa) {
				hold = append(hold, sa)
			}
		}
		if len(hold) == 0 {
			delete(c.entries, product)
		} else {
			c.set(product, hold...)
		}
	}
	c.recheckMarks()
	c.recheckTimes()
	c.digest = nil
}

func (c *Catalog) holds(sa *SignedAnnouncement) bool {
	v, _ := c.judge(sa)
	return v == Accept && sa.RootVer <= c.RootVersion()
}

// set makes the entry of a product from what was verified.
func (c *Catalog) set(product string, all ...*SignedAnnouncement) {
	e := &entry{}
	e.first, e.second = contenders(all...)
	e.wakes = e.second == nil && c.Root().mayWake(e.first)
	c.entries[product] = e
	for _, sa := range all {
		c.mark(sa)
	}
	c.digest = nil
}

// contenders picks what an entry keeps; of two with one id the earlier argument.
func contenders(all ...*SignedAnnouncement) (first, second *SignedAnnouncement) {
	slices.SortStableFunc(all, func(a, b *SignedAnnouncement) int {
		x, y := a.ID(), b.ID()
		return bytes.Compare(x[:], y[:])
	})
	for _, sa := range all[1:] {
		if sa.Manifest != all[0].Manifest {
			return all[0], sa
		}
	}
	return all[0], nil
}

// rootAt is the trust root of a version, when it is in our chain.
func (c *Catalog) rootAt(version uint64) *Root {
	if len(c.chain) == 0 || version < c.chain[0].Version || version > c.RootVersion() {
		return nil
	}
	return &c.chain[version-c.chain[0].Version].Root
}

// judge checks signatures, under the newest trust root and under the one that sa names. To hold it must satisfy both.
// Blame falls only on what neither bears out: a key that came or went since, a chain that begins later than ours, and
// the other side of two rival roots are no reason for honest nodes to punish each other.
func (c *Catalog) judge(sa *SignedAnnouncement) (Verdict, error) {
	root, named := c.Root(), c.rootAt(sa.RootVer)
	if err := root.covers(sa); err != nil {
		return Ignore, err
	}
	same := named != nil && sameSigners(named, root, sa.Product)
	err := root.signed(sa)
	if err == nil && named != nil && !same {
		if err := named.signed(sa); err != nil {
			return Ignore, err
		}
	}
	switch {
	case err == nil:
		return Accept, nil
	case named == nil, c.rival != nil && sa.RootVer == c.rival.Version:
		return Ignore, err
	case !same && named.signed(sa) == nil:
		return Ignore, err
	}
	return Reject, err
}

func sameSigners(a, b *Root, product string) bool {
	x, okA := a.Rule(product)
	y, okB := b.Rule(product)
	return okA && okB && x.Threshold == y.Threshold && slices.Equal(x.Keys, y.Keys)
}

// Add offers an announcement, from anybody. There is no clock in it: what is installed does not depend on one.
func (c *Catalog) Add(data []byte) Result {
	sa, err := ParseAnnouncement(data)
	if err != nil {
		return malformed(err)
	}
	return c.AddParsed(sa)
}

// Malformed is the verdict of Add on what ParseAnnouncement refused with err.
func Malformed(err error) Result { return malformed(err) }

// AddParsed is Add for what was parsed elsewhere. Cheap checks come first: a signature costs an old machine about as
// much as everything else together.
func (c *Catalog) AddParsed(sa *SignedAnnouncement) Result {
	if res, done := c.cheap(sa); done {
		return res
	}
	if v, err := c.judge(sa); err != nil {
		return Result{Verdict: v, Reason: err.Error(), Checked: len(sa.env.sigs)}
	}
	e := c.entries[sa.Product]
	if e == nil || newer(sa, e.first) {
		c.set(sa.Product, sa)
		return accepted(sa)
	}
	return c.same(e, sa)
}

func accepted(sa *SignedAnnouncement) Result {
	a := sa.Announcement
	return Result{Verdict: Accept, Announcement: &a}
}

// Glance is the part of AddParsed that checks no signature: its result, if that settles the matter.
func (c *Catalog) Glance(sa *SignedAnnouncement) (Result, bool) { return c.cheap(sa) }

// cheap says what can be said without checking a signature.
func (c *Catalog) cheap(sa *SignedAnnouncement) (Result, bool) {
	ignore := func(format string, args ...any) (Result, bool) {
		return Result{Verdict: Ignore, Reason: fmt.Errorf(format, args...).Error()}, true
	}
	root := c.Root()
	if root == nil {
		return ignore("no trust root here yet")
	}
	if sa.RootVer > root.Version {
		return Result{Verdict: Ignore, NeedRoot: true,
			Reason: fmt.Sprintf("signed under trust root version %d, ours is %d", sa.RootVer, root.Version)}, true
	}
	if err := root.covers(sa); err != nil {
		return ignore("%w", err)
	}
	e := c.entries[sa.Product]
	m := c.marks[sa.Product]
	switch {
	case m.Epoch == sa.Epoch && sa.Seq < m.Seq: // also what is older than what is here
		return ignore("%s seq %d is older than seq %d, which was here", sa.Product, sa.Seq, m.Seq)
	case e == nil && c.full(sa.Product):
		return ignore("catalog is full with %d products", MaxProducts)
	case e == nil || newer(sa, e.first):
	case e.second == nil && sa.ID() == e.first.ID() && (e.wakes || !sa.Urgent || bytes.Equal(sa.raw, e.first.raw)): // signatures change nothing
		return ignore("%s seq %d is here already", sa.Product, sa.Seq)
	case e.second != nil:
		if first, second := contenders(e.first, e.second, sa); first == e.first && second == e.second {
			return ignore("%s seq %d is refused: two releases claim it", sa.Product, sa.Seq)
		}
	}
	return Result{}, false
}

// full reports whether there is no room for a new product. Who may publish under a pattern can invent names
// without end; the products that the trust root itself names find room all the same.
func (c *Catalog) full(product string) bool {
	rules := c.Root().Products
	if len(c.entries)+len(rules) < MaxProducts || len(c.entries) >= MaxProducts {
		return len(c.entries) >= MaxProducts
	}
	reserved := 0
	for _, r := range rules {
		if r.Pattern == product {
			return false
		}
		if c.entries[r.Pattern] == nil && ValidProduct(r.Pattern) == nil {
			reserved++
		}
	}
	return len(c.entries)+reserved >= MaxProducts
}

func newer(a, b *SignedAnnouncement) bool {
	return a.Epoch > b.Epoch || (a.Epoch == b.Epoch && a.Seq > b.Seq)
}

// same judges a verified announcement that has the number of what is here.
func (c *Catalog) same(e *entry, sa *SignedAnnouncement) Result {
	if sa.ID() == e.first.ID() { // other signatures: of use only if they make it urgent
		if !c.Root().mayWake(sa) {
			return Result{Verdict: Ignore, Reason: "already here with signatures as good"}
		}
		c.set(sa.Product, sa)
		return accepted(sa)
	}
	all := []*SignedAnnouncement{e.first, sa}
	if e.second != nil {
		all = append(all, e.second)
	}
	c.set(sa.Product, all...)
	switch now := c.entries[sa.Product]; {
	case now.second != nil:
		return Result{Verdict: Accept, Equivocation: true,
			Reason: fmt.Sprintf("two releases claim %s epoch %d seq %d; both are refused until a higher seq", sa.Product, sa.Epoch, sa.Seq)}
	case now.first == sa: // one release announced twice with other words: all nodes end with the smaller id
		return accepted(sa)
	}
	return Result{Verdict: Ignore, Reason: "the same release is here already"}
}

// AddEvidence offers two announcements that claim one number, from anybody. Rejected is what is no evidence, or
// has a document that no honest node sends.
func (c *Catalog) AddEvidence(a, b []byte) Result {
	var sas [2]*SignedAnnouncement
	for i, data := range [][]byte{a, b} {
		sa, err := ParseAnnouncement(data)
		if err != nil {
			return malformed(err)
		}
		sas[i] = sa
	}
	x, y := sas[0], sas[1]
	if x.Product != y.Product || x.Epoch != y.Epoch || x.Seq != y.Seq || x.Manifest == y.Manifest {
		return Result{Verdict: Reject, Reason: "evidence is not two releases that claim one number"}
	}
	ra, rb := c.AddParsed(x), c.AddParsed(y)
	res := ra
	if rb.Verdict == Reject || ra.Verdict == Ignore || rb.Equivocation {
		res = rb
	}
	if ra.Verdict == Reject {
		res = ra
	}
	res.NeedRoot, res.Checked = ra.NeedRoot || rb.NeedRoot, ra.Checked+rb.Checked
	return res
}

// Latest returns the newest accepted announcement of a product and its envelope; false when there is none, or
// when two releases claim the newest number.
func (c *Catalog) Latest(product string) (Announcement, []byte, bool) {
	e := c.entries[product]
	if e == nil || e.second != nil {
		return Announcement{}, nil, false
	}
	return e.first.Announcement, e.first.raw, true
}

// Claims are the envelopes of the two releases that claim the newest number of product; none when nobody equivocates.
func (c *Catalog) Claims(product string) [][]byte {
	if e := c.entries[product]; e != nil && e.second != nil {
		return [][]byte{e.first.raw, e.second.raw}
	}
	return nil
}

// Urgent reports whether the newest announcement of product may wake sleeping radios: urgent, allowed by the
// trust root, signed by the wake role, and not expired by the best guess at the time.
func (c *Catalog) Urgent(clock Clock, product string) bool {
	e := c.entries[product]
	return e != nil && e.wakes && (e.first.Expires == 0 || c.Now(clock) < e.first.Expires)
}

// Heads lists what is here, sorted by product.
func (c *Catalog) Heads() []Head {
	heads := make([]Head, 0, len(c.entries))
	for product, e := range c.entries {
		heads = append(heads, e.head(product))
	}
	slices.SortFunc(heads, func(a, b Head) int { return strings.Compare(a.Product, b.Product) })
	return heads
}

// head names what is here. The id also tells a release that may wake from the same one without that signature,
// or else nodes would not see that they differ and the signature would not spread.
func (e *entry) head(product string) Head {
	h := Head{Product: product, Epoch: e.first.Epoch, Seq: e.first.Seq, ID: e.first.ID(), Refused: e.second != nil}
	switch {
	case e.second != nil:
		id := e.second.ID()
		h.ID = mixed("satchel/evidence/v1\x00", h.ID[:], id[:])
	case e.wakes:
		h.ID = mixed("satchel/wake/v1\x00", h.ID[:])
	}
	return h
}

func mixed(domain string, parts ...[]byte) (id [20]byte) {
	sum := sha256.Sum256(append([]byte(domain), bytes.Join(parts, nil)...))
	copy(id[:], sum[:])
	return id
}

// Evidence lists what equivocates, sorted by product: the first MaxEvidence.
func (c *Catalog) Evidence() []Evidence { return c.evidence(MaxEvidence) }

func (c *Catalog) evidence(most int) []Evidence {
	var refused []string
	for product, e := range c.entries {
		if e.second != nil {
			refused = append(refused, product)
		}
	}
	slices.Sort(refused)
	var out []Evidence
	for _, product := range refused[:min(len(refused), most)] {
		e := c.entries[product]
		out = append(out, Evidence{e.first.raw, e.second.raw})
	}
	return out
}

// Digest names everything here: nodes with equal digests have nothing to tell each other.
func (c *Catalog) Digest() [8]byte {
	if c.digest == nil {
		h := sha256.New()
		h.Write([]byte("satchel/catalog/v1\x00"))
		if n := len(c.chain); n > 0 {
			id := c.chain[n-1].ID()
			h.Write(binary.BigEndian.AppendUint64(nil, c.chain[n-1].Version))
			h.Write(id[:])
		}
		if c.rival != nil {
			id := c.rival.ID()
			h.Write(id[:])
		}
		for _, e := range c.Heads() {
			h.Write([]byte(e.Product))
			h.Write([]byte{0})
			h.Write(binary.BigEndian.AppendUint64(nil, e.Epoch))
			h.Write(binary.BigEndian.AppendUint64(nil, e.Seq))
			h.Write(e.ID[:])
		}
		for _, t := range c.times {
			id := t.ID()
			h.Write([]byte{0}) // no product is named so
			h.Write(id[:])
		}
		c.digest = new([8]byte)
		copy(c.digest[:], h.Sum(nil))
	}
	return *c.digest
}

// Kept is what a home keeps of a catalog.
type Kept struct {
	Chain         [][]byte // trust roots, oldest first
	Rival         []byte   // nil: none
	Announcements [][]byte
	Evidence      []Evidence
	Timestamps    []KeptTimestamp
	Marks         []Mark
}

// Kept is everything that Restore needs.
func (c *Catalog) Kept() Kept {
	k := Kept{Evidence: c.evidence(len(c.entries)), Timestamps: c.Timestamps(), Marks: c.Marks()}
	for _, sr := range c.chain {
		k.Chain = append(k.Chain, sr.raw)
	}
	if c.rival != nil {
		k.Rival = c.rival.raw
	}
	for _, h := range c.Heads() {
		if _, env, ok := c.Latest(h.Product); ok {
			k.Announcements = append(k.Announcements, env)
		}
	}
	return k
}

// Restore makes a catalog of what was kept. Everything is verified again; what no longer holds is dropped,
// only a broken chain is an error.
func Restore(k Kept) (*Catalog, error) {
	c := NewCatalog()
	for i, data := range k.Chain {
		if err := c.Trust(data); err != nil {
			return nil, fmt.Errorf("trust root %d of %d: %w", i+1, len(k.Chain), err)
		}
	}
	if k.Rival != nil {
		c.AddRoot(k.Rival)
	}
	for _, data := range k.Announcements {
		c.Add(data)
	}
	for _, e := range k.Evidence {
		c.AddEvidence(e.A, e.B)
	}
	for _, m := range k.Marks {
		if old := c.marks[m.Product]; ValidProduct(m.Product) == nil && m.Epoch >= old.Epoch {
			c.marks[m.Product] = Mark{m.Product, m.Epoch, max(m.Seq, old.Seq), max(m.Floor, old.Floor)}
		}
	}
	c.recheckMarks()
	for _, t := range k.Timestamps {
		c.AddTimestamp(t.Up, t.Envelope)
	}
	return c, nil
}
