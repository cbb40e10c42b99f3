package announce

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Role is what a key may sign besides announcements.
type Role int

// The roles of a trust root.
const (
	RoleRoot      Role = iota // the next trust root
	RoleTimestamp             // timestamps
	RoleWake                  // the urgent bit of announcements
)

// String is the role's name.
func (r Role) String() string {
	if r < RoleRoot || r > RoleWake {
		return "unknown"
	}
	return [...]string{"root", "timestamp", "wake"}[r]
}

// RoleRule says which keys fill a role, and how many of them must sign.
type RoleRule struct {
	Keys      []KeyID
	Threshold int
}

// Classes of products.
const (
	ClassContent     = "content"     // may be switched at once
	ClassSystem      = "system"      // is switched at boot
	ClassBookkeeping = "bookkeeping" // is recorded, never installed
)

// ProductRule says who may publish the products whose name Pattern covers.
type ProductRule struct {
	Pattern    string // a product name, "name.*", or "*"; the most specific that fits counts
	Epoch      uint64 // announcements of another epoch are not taken
	Keys       []KeyID
	Threshold  int
	Floor      uint64 // no seq below it is taken
	Class      string
	MayWake    bool // its urgent announcements may wake sleeping radios
	MaySetuid  bool // its files may have setuid, setgid and sticky bits, and be writable by everybody
	MayNames   bool // its names may be ones that some file systems cannot hold or tell apart
	MayLinkOut bool // its symbolic links may be absolute or leave the tree
	MayRun     bool // machines run what its releases name as helper, and the health checks in them
}

const (
	flagMayWake    = 1
	flagMaySetuid  = 2
	flagMayNames   = 4
	flagMayLinkOut = 8
	flagMayRun     = 16
	maxKeys        = 64
	maxRules       = 1024
)

// Root is a trust root. Keys are sorted by their bytes and products by pattern in the document; Sign does that.
type Root struct {
	Version  uint64 // from 1, one step at a time
	Issued   int64  // unix seconds, 0: not said
	RenewBy  int64  // unix seconds, 0: never; after it people are warned, nothing else changes
	Keys     []PublicKey
	Roles    map[Role]RoleRule
	Products []ProductRule
}

// SignedRoot is a well-formed root whose signatures nobody has checked yet.
type SignedRoot struct {
	Root
	env *envelope
	raw []byte
}

// Envelope is the document as it arrived. It must not be changed.
func (sr *SignedRoot) Envelope() []byte { return sr.raw }

// ID is a hash of the payload alone.
func (sr *SignedRoot) ID() [20]byte { return sr.env.id() }

// Signers lists the keys of which the envelope bears a signature, checked or not.
func (sr *SignedRoot) Signers() []KeyID { return sr.env.claimed() }

// Keys of the payload map.
const (
	keyVer = iota + 1
	keyRootIssued
	keyRenewBy
	keyKeys
	keyRoles
	keyProducts
)

func (r *Root) key(id KeyID) (PublicKey, bool) {
	for _, k := range r.Keys {
		if k.ID() == id {
			return k, true
		}
	}
	return PublicKey{}, false
}

// Rule returns the rule for a product: the one that names it, else the one with the longest prefix.
func (r *Root) Rule(product string) (rule ProductRule, ok bool) {
	best := -1
	for _, p := range r.Products {
		if n := specificity(p.Pattern, product); n > best {
			rule, ok, best = p, true, n
		}
	}
	return rule, ok
}

// Covers reports whether a product pattern ("*", "name" or "prefix.*") covers product.
func Covers(pattern, product string) bool { return specificity(pattern, product) >= 0 }

// specificity says how many bytes of product the pattern spells out, -1 when it does not cover it.
func specificity(pattern, product string) int {
	prefix, wild := strings.CutSuffix(pattern, "*")
	if wild && strings.HasPrefix(product, prefix) || pattern == product {
		return len(prefix)
	}
	return -1
}

func (r *Root) valid() error {
	if r.Version == 0 {
		return errors.New("version begins at 1")
	}
	if r.Issued < 0 || r.RenewBy < 0 {
		return errors.New("issued or renew by is negative")
	}
	if len(r.Keys) == 0 || len(r.Keys) > maxKeys {
		return fmt.Errorf("%d keys, 1 to %d are allowed", len(r.Keys), maxKeys)
	}
	ids := map[KeyID]bool{}
	for i, k := range r.Keys {
		if ids[k.ID()] {
			return fmt.Errorf("key %s is listed twice", k.ID())
		}
		ids[k.ID()] = true
		if i > 0 && bytes.Compare(r.Keys[i-1].b[:], k.b[:]) >= 0 {
			return errors.New("keys are not sorted")
		}
	}
	for role, rule := range r.Roles {
		if role < RoleRoot || role > RoleWake {
			return fmt.Errorf("%w: unknown role %d", ErrTooNew, role)
		}
		if err := validThreshold(rule.Keys, rule.Threshold, ids); err != nil {
			return fmt.Errorf("role %s: %w", role, err)
		}
	}
	if _, ok := r.Roles[RoleRoot]; !ok {
		return errors.New("nobody has the root role")
	}
	return r.validProducts(ids)
}

func (r *Root) validProducts(ids map[KeyID]bool) error {
	if len(r.Products) > maxRules {
		return fmt.Errorf("%d products, limit %d", len(r.Products), maxRules)
	}
	for i, p := range r.Products {
		if err := ValidPattern(p.Pattern); err != nil {
			return err
		}
		if i > 0 && r.Products[i-1].Pattern >= p.Pattern {
			return fmt.Errorf("product pattern %q is not sorted, or listed twice", p.Pattern)
		}
		if p.Epoch == 0 {
			return fmt.Errorf("product %q: epoch begins at 1", p.Pattern)
		}
		if p.Class != ClassContent && p.Class != ClassSystem && p.Class != ClassBookkeeping {
			return fmt.Errorf("%w: product %q has class %q", ErrTooNew, p.Pattern, clip(p.Class))
		}
		if err := validThreshold(p.Keys, p.Threshold, ids); err != nil {
			return fmt.Errorf("product %q: %w", p.Pattern, err)
		}
	}
	return nil
}

func validThreshold(keys []KeyID, threshold int, known map[KeyID]bool) error {
	if threshold < 1 || threshold > len(keys) {
		return fmt.Errorf("threshold %d of %d keys", threshold, len(keys))
	}
	for i, id := range keys {
		if !known[id] {
			return fmt.Errorf("key %s is not in the root", id)
		}
		if i > 0 && bytes.Compare(keys[i-1][:], id[:]) >= 0 {
			return errors.New("key ids are not sorted, or listed twice")
		}
	}
	return nil
}

// normal returns a copy with everything in the document's order.
func (r *Root) normal() *Root {
	n := *r
	n.Keys = slices.Clone(r.Keys)
	slices.SortFunc(n.Keys, func(a, b PublicKey) int { return bytes.Compare(a.b[:], b.b[:]) })
	n.Roles = map[Role]RoleRule{}
	for role, rule := range r.Roles {
		n.Roles[role] = RoleRule{sortedIDs(rule.Keys), rule.Threshold}
	}
	n.Products = slices.Clone(r.Products)
	for i := range n.Products {
		n.Products[i].Keys = sortedIDs(n.Products[i].Keys)
	}
	slices.SortFunc(n.Products, func(a, b ProductRule) int { return strings.Compare(a.Pattern, b.Pattern) })
	return &n
}

func sortedIDs(ids []KeyID) []KeyID {
	ids = slices.Clone(ids)
	slices.SortFunc(ids, func(a, b KeyID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

func (r *Root) payload() ([]byte, error) {
	n := r.normal()
	if err := n.valid(); err != nil {
		return nil, err
	}
	keys := make([]any, len(n.Keys))
	for i, k := range n.Keys {
		if _, err := NewPublicKey(k.b[:]); err != nil { // the zero PublicKey
			return nil, err
		}
		keys[i] = k.b[:]
	}
	roles := map[uint64]any{}
	for role, rule := range n.Roles {
		roles[uint64(role)] = []any{anyIDs(rule.Keys), uint64(rule.Threshold)}
	}
	products := make([]any, len(n.Products))
	for i, p := range n.Products {
		products[i] = []any{p.Pattern, p.Epoch, anyIDs(p.Keys), uint64(p.Threshold), p.Floor, p.Class, p.flags()}
	}
	m := map[uint64]any{keyVer: n.Version, keyKeys: keys, keyRoles: roles, keyProducts: products}
	putOptional(m, keyRootIssued, uint64(n.Issued))
	putOptional(m, keyRenewBy, uint64(n.RenewBy))
	return canonical.enc.Marshal(m)
}

// may lists what a rule may allow, by its flag.
func (p *ProductRule) may() map[uint64]*bool {
	return map[uint64]*bool{flagMayWake: &p.MayWake, flagMaySetuid: &p.MaySetuid, flagMayNames: &p.MayNames, flagMayLinkOut: &p.MayLinkOut, flagMayRun: &p.MayRun}
}

func (p *ProductRule) flags() (flags uint64) {
	for flag, on := range p.may() {
		if *on {
			flags |= flag
		}
	}
	return flags
}

func anyIDs(ids []KeyID) []any {
	out := make([]any, len(ids))
	for i := range ids {
		out[i] = ids[i][:]
	}
	return out
}

// Sign checks the root and returns its envelope, at most MaxRootEnvelope bytes.
func (r *Root) Sign(keys ...PrivateKey) ([]byte, error) {
	payload, err := r.payload()
	if err != nil {
		return nil, fmt.Errorf("signing a trust root: %w", err)
	}
	return seal(domainRoot, payload, keys, MaxRootEnvelope)
}

// ParseRoot reads an envelope. It checks form, not trust.
func ParseRoot(data []byte) (*SignedRoot, error) {
	e, err := parseEnvelope(data, MaxRootEnvelope)
	if err != nil {
		return nil, err
	}
	return openRoot(e, data)
}

// openRoot reads the payload of an envelope.
func openRoot(e *envelope, data []byte) (*SignedRoot, error) {
	f, err := parseFields(e.payload)
	if err != nil {
		return nil, fmt.Errorf("trust root: %w", err)
	}
	r := Root{Version: f.number(keyVer, "version"), Issued: f.time(keyRootIssued, "issued"), RenewBy: f.time(keyRenewBy, "renew by")}
	keys := take[[]any](f, keyKeys, "keys")
	roles := take[map[any]any](f, keyRoles, "roles")
	products := take[[]any](f, keyProducts, "products")
	if err := f.end(); err != nil {
		return nil, fmt.Errorf("trust root: %w", err)
	}
	if err := r.fill(keys, roles, products); err != nil {
		return nil, fmt.Errorf("trust root: %w", err)
	}
	if err := r.valid(); err != nil {
		return nil, fmt.Errorf("trust root: %w", err)
	}
	return &SignedRoot{Root: r, env: e, raw: bytes.Clone(data)}, nil
}

// fill takes the lists, and counts before it computes: a point of the curve costs an old machine a millisecond.
func (r *Root) fill(keys []any, roles map[any]any, products []any) error {
	if len(keys) > maxKeys || len(products) > maxRules {
		return fmt.Errorf("%d keys and %d products, limits %d and %d", len(keys), len(products), maxKeys, maxRules)
	}
	for _, k := range keys {
		b, ok := k.([]byte)
		if !ok {
			return errors.New("key is not a byte string")
		}
		p, err := NewPublicKey(b)
		if err != nil {
			return err
		}
		r.Keys = append(r.Keys, p)
	}
	r.Roles = map[Role]RoleRule{}
	for k, v := range roles {
		n, _ := k.(uint64) // no other key passed plain
		pair, ok := v.([]any)
		switch {
		case n > uint64(RoleWake): // before it is made an int, which may have 32 bits
			return fmt.Errorf("%w: unknown role %d", ErrTooNew, n)
		case !ok || len(pair) != 2:
			return errors.New("role is not a pair")
		}
		ids, threshold, err := idsAndThreshold(pair[0], pair[1])
		if err != nil {
			return err
		}
		r.Roles[Role(n)] = RoleRule{ids, threshold}
	}
	for _, v := range products {
		p, err := productRule(v)
		if err != nil {
			return err
		}
		r.Products = append(r.Products, p)
	}
	return nil
}

func productRule(v any) (p ProductRule, err error) {
	a, ok := v.([]any)
	if !ok || len(a) != 7 {
		return p, errors.New("product rule is not seven values")
	}
	var okP, okE, okF, okC, okG bool
	p.Pattern, okP = a[0].(string)
	p.Epoch, okE = a[1].(uint64)
	p.Floor, okF = a[4].(uint64)
	p.Class, okC = a[5].(string)
	flags, okG := a[6].(uint64)
	if !okP || !okE || !okF || !okC || !okG {
		return p, errors.New("product rule has a value of the wrong type")
	}
	for flag, on := range p.may() {
		*on = flags&flag != 0
	}
	if p.flags() != flags {
		return p, fmt.Errorf("%w: product flags %#x", ErrTooNew, flags)
	}
	p.Keys, p.Threshold, err = idsAndThreshold(a[2], a[3])
	return p, err
}

func idsAndThreshold(rawIDs, rawThreshold any) (ids []KeyID, threshold int, err error) {
	list, ok := rawIDs.([]any)
	n, ok2 := rawThreshold.(uint64)
	if !ok || !ok2 || n > maxKeys || len(list) > maxKeys { // n is made an int, which may have 32 bits
		return nil, 0, errors.New("key ids or threshold have the wrong type or size")
	}
	for _, v := range list {
		b, ok := v.([]byte)
		var id KeyID
		if !ok || len(b) != len(id) {
			return nil, 0, errors.New("key id is not 8 bytes")
		}
		copy(id[:], b)
		ids = append(ids, id)
	}
	return ids, int(n), nil
}

// VerifyGenesis checks a root that a person trusts: it must be signed by its own root role.
func VerifyGenesis(sr *SignedRoot) error {
	return sr.verifyBy(&sr.Root)
}

// VerifyRotation checks that sr follows old: exactly one version later, signed by the root roles of both.
func VerifyRotation(old *Root, sr *SignedRoot) error {
	if sr.Version != old.Version+1 {
		return fmt.Errorf("trust root version %d does not follow version %d", sr.Version, old.Version)
	}
	if err := sr.verifyBy(old); err != nil {
		return fmt.Errorf("by the old root: %w", err)
	}
	if err := sr.verifyBy(&sr.Root); err != nil {
		return fmt.Errorf("by its own keys: %w", err)
	}
	return nil
}

func (sr *SignedRoot) verifyBy(r *Root) error {
	rule := r.Roles[RoleRoot]
	return sr.env.check(domainRoot, r, rule.Keys, rule.Threshold, "trust root")
}

// Verify checks that sa holds under this root: no newer one is named, a rule for its product, the rule's epoch and
// floor, and good signatures by the threshold of distinct keys. The error says which of them failed.
func (r *Root) Verify(sa *SignedAnnouncement) error {
	if sa.RootVer > r.Version {
		return fmt.Errorf("signed under trust root version %d, this is version %d", sa.RootVer, r.Version)
	}
	if err := r.covers(sa); err != nil {
		return err
	}
	return r.signed(sa)
}

// covers is the part of Verify that costs no signature.
func (r *Root) covers(sa *SignedAnnouncement) error {
	rule, ok := r.Rule(sa.Product)
	switch {
	case !ok:
		return fmt.Errorf("trust root version %d has no rule for product %s", r.Version, sa.Product)
	case sa.Epoch != rule.Epoch:
		return fmt.Errorf("epoch %d of %s is not the trust root's %d", sa.Epoch, sa.Product, rule.Epoch)
	case sa.Seq < rule.Floor:
		return fmt.Errorf("seq %d of %s is below the floor %d", sa.Seq, sa.Product, rule.Floor)
	}
	return nil
}

// signed checks that those signed sa who may publish its product.
func (r *Root) signed(sa *SignedAnnouncement) error {
	rule, ok := r.Rule(sa.Product)
	if !ok {
		return fmt.Errorf("trust root version %d has no rule for product %s", r.Version, sa.Product)
	}
	return sa.env.check(domainAnnouncement, r, rule.Keys, rule.Threshold, "product "+sa.Product)
}

// mayWake reports whether sa may wake: urgent, allowed for the product, signed by the wake role too.
func (r *Root) mayWake(sa *SignedAnnouncement) bool {
	rule, _ := r.Rule(sa.Product)
	role := r.Roles[RoleWake] // without it the threshold is zero, which nothing meets
	return sa.Urgent && rule.MayWake &&
		sa.env.check(domainAnnouncement, r, role.Keys, role.Threshold, "wake") == nil
}
