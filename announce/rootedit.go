package announce

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"
)

// Seat is what keys can be given: a role, or a product rule.
type Seat struct {
	Role    Role   // when Pattern is empty
	Pattern string // of a product rule
}

// String names the seat: "role wake", "product lessons.*".
func (s Seat) String() string {
	if s.Pattern == "" {
		return "role " + s.Role.String()
	}
	return "product " + s.Pattern
}

// Seats lists the roles and product rules of r.
func (r *Root) Seats() []Seat {
	var out []Seat
	for role := RoleRoot; role <= RoleWake; role++ {
		if _, ok := r.Roles[role]; ok {
			out = append(out, Seat{Role: role})
		}
	}
	for _, p := range r.Products {
		out = append(out, Seat{Pattern: p.Pattern})
	}
	return out
}

// Product is the rule with exactly this pattern, nil when there is none.
func (r *Root) Product(pattern string) *ProductRule {
	i := slices.IndexFunc(r.Products, func(p ProductRule) bool { return p.Pattern == pattern })
	if i < 0 {
		return nil
	}
	return &r.Products[i]
}

// Seat says who has a seat; false when there is no such one.
func (r *Root) Seat(s Seat) (RoleRule, bool) {
	if s.Pattern == "" {
		rule, ok := r.Roles[s.Role]
		return rule, ok
	}
	if p := r.Product(s.Pattern); p != nil {
		return RoleRule{p.Keys, p.Threshold}, true
	}
	return RoleRule{}, false
}

// SetSeat says who has a seat from now on. A product rule that is new allows nothing beyond content, and Edit gives
// it its epoch. It keeps rule.Keys.
func (r *Root) SetSeat(s Seat, rule RoleRule) {
	if s.Pattern == "" {
		r.Roles[s.Role] = rule
		return
	}
	p := r.Product(s.Pattern)
	if p == nil {
		r.Products = append(r.Products, ProductRule{Pattern: s.Pattern, Class: ClassContent})
		p = &r.Products[len(r.Products)-1]
	}
	p.Keys, p.Threshold = rule.Keys, rule.Threshold
}

// DropSeat takes a role or a product rule away, and the keys that have no other seat with it.
func (r *Root) DropSeat(s Seat) {
	gone, _ := r.Seat(s)
	if s.Pattern == "" {
		delete(r.Roles, s.Role)
	} else {
		r.Products = slices.DeleteFunc(r.Products, func(p ProductRule) bool { return p.Pattern == s.Pattern })
	}
	for _, id := range gone.Keys {
		r.forget(id)
	}
}

// AddKey gives a key a seat. A seat that is new has threshold 1.
func (r *Root) AddKey(key PublicKey, s Seat) {
	if !slices.Contains(r.Keys, key) {
		r.Keys = append(r.Keys, key)
	}
	rule, ok := r.Seat(s)
	if !ok {
		rule.Threshold = 1
	}
	if !slices.Contains(rule.Keys, key.ID()) {
		rule.Keys = append(slices.Clone(rule.Keys), key.ID())
	}
	r.SetSeat(s, rule)
}

// RemoveKey takes a key from a seat, and from the trust root when it has no other. The threshold stays: whether it
// can still be met is the caller's to see.
func (r *Root) RemoveKey(id KeyID, s Seat) {
	if rule, ok := r.Seat(s); ok {
		rule.Keys = slices.DeleteFunc(slices.Clone(rule.Keys), func(k KeyID) bool { return k == id })
		r.SetSeat(s, rule)
	}
	r.forget(id)
}

// forget takes a key without a seat from the list of keys.
func (r *Root) forget(id KeyID) {
	for _, s := range r.Seats() {
		if rule, _ := r.Seat(s); slices.Contains(rule.Keys, id) {
			return
		}
	}
	r.Keys = slices.DeleteFunc(r.Keys, func(k PublicKey) bool { return k.ID() == id })
}

// Overtake raises, in next, the epoch of every product whose releases the key could sign under r, the version
// before: whatever its thief has announced, up to the last number, is older then. It names the patterns raised.
func (r *Root) Overtake(next *Root, id KeyID) (patterns []string, err error) {
	for _, p := range slices.Concat(r.Products, next.Products) {
		was, ok := r.Rule(p.Pattern)      // the rule that counted, also when this one is new
		is, still := next.Rule(p.Pattern) // the rule that counts, also when this one is gone
		if !ok || !still || !slices.Contains(was.Keys, id) {
			continue
		}
		if was.Epoch == math.MaxUint64 {
			return nil, fmt.Errorf("product %s has the last epoch already", p.Pattern)
		}
		if is.Epoch <= was.Epoch {
			rule := next.Product(is.Pattern)
			rule.Epoch, rule.Floor = was.Epoch+1, 0
		}
		if !slices.Contains(patterns, is.Pattern) {
			patterns = append(patterns, is.Pattern)
		}
	}
	return patterns, nil
}

// Edited says what an edit did.
type Edited struct {
	Version uint64  // of the last version now
	Changed bool    // false: the trust root says so already, nothing was done
	Begun   bool    // a new draft was begun
	Undone  bool    // the draft said the same as the version before, and is gone
	Cut     bool    // the file was full, and its oldest version is gone
	Dropped []KeyID // whose signatures the draft lost by this
}

// Edit changes what the last version says. When that is complete, a draft of the next version begins with the change;
// a draft is changed and loses its signatures. An edit that changes nothing makes no version. On an error nothing is
// done. Issued becomes now.
//
// Machines never go back to an older epoch, nor below a floor, so no rule may lead there, neither for its own pattern
// nor by leaving products to a wider one. A rule with epoch 0 takes the greatest epoch and floor that the file has for its pattern.
func (f *RootFile) Edit(now time.Time, change func(*Root) error) (Edited, error) {
	last, done, begun := f.Last(), f.steps, f.Verify() == nil
	if known, err := last.Root.payload(); err != nil || !bytes.Equal(known, last.env.payload) {
		return Edited{}, fmt.Errorf("%w: an edit would lose what this one does not know of trust root version %d", ErrTooNew, last.Version)
	}
	if !begun {
		done = f.steps[:len(f.steps)-1]
		if len(done) == 0 && last.Version > 1 {
			return Edited{}, fmt.Errorf("this is a draft of version %d without version %d, which it must follow", last.Version, last.Version-1)
		}
	}
	next := last.Root.normal()
	if err := change(next); err != nil {
		return Edited{}, err
	}
	if err := onward(next, done); err != nil {
		return Edited{}, err
	}
	if same, err := next.saysAs(&last.Root); same || err != nil {
		return Edited{Version: last.Version}, err
	}
	res := Edited{Version: last.Version, Changed: true, Begun: begun}
	if begun {
		res.Version++
	} else {
		res.Dropped = last.Signers()
		if old := f.before(); old != nil {
			if same, err := next.saysAs(old); same && err == nil {
				f.steps, res.Undone, res.Version = done, true, old.Version
				return res, nil
			}
		}
	}
	if res.Version == 0 {
		return Edited{}, fmt.Errorf("version %d is the last one that there can be", last.Version)
	}
	next.Version, next.Issued = res.Version, max(now.Unix(), 0)
	sr, err := newDraft(next)
	if err != nil {
		return Edited{}, err
	}
	if res.Cut = len(done) == MaxRootSteps; res.Cut {
		done = done[1:]
	}
	f.steps = append(slices.Clone(done), sr)
	return res, nil
}

// saysAs compares two roots but for version and issued. The error says why r is no root.
func (r *Root) saysAs(other *Root) (bool, error) {
	x := *r
	x.Version, x.Issued = other.Version, other.Issued
	p, err := x.payload()
	if err != nil {
		return false, fmt.Errorf("making a trust root: %w", err)
	}
	q, err := other.payload()
	return bytes.Equal(p, q), err
}

// onward fills in epochs that next leaves open, and refuses those that would lead machines back behind steps.
func onward(next *Root, steps []*SignedRoot) error {
	wider := &Root{Products: slices.DeleteFunc(slices.Clone(next.Products), func(p ProductRule) bool { return p.Epoch == 0 })}
	for i := range next.Products {
		if p := &next.Products[i]; p.Epoch == 0 {
			best, _ := greatest(steps, p.Pattern)
			if rule, ok := wider.Rule(p.Pattern); ok && below(best, rule) {
				best = rule
			}
			p.Epoch, p.Floor = max(best.Epoch, 1), best.Floor
		}
	}
	if len(steps) == 0 {
		return nil
	}
	old := &steps[len(steps)-1].Root
	for _, p := range slices.Concat(next.Products, old.Products) { // the rule that goes leaves its products to a wider one
		rule, ok := next.Rule(p.Pattern)
		if had, _ := old.Rule(p.Pattern); !ok || rule.Epoch == had.Epoch && rule.Floor == had.Floor {
			continue
		}
		was, version := greatest(steps, p.Pattern)
		if below(rule, was) {
			return &BackwardError{Pattern: p.Pattern, Version: version, Epoch: was.Epoch, Floor: was.Floor, Rule: rule}
		}
	}
	return nil
}

func below(a, b ProductRule) bool {
	return a.Epoch < b.Epoch || a.Epoch == b.Epoch && a.Floor < b.Floor
}

// greatest is the rule with the greatest epoch and floor that any version had for a pattern, and that version.
func greatest(steps []*SignedRoot, pattern string) (best ProductRule, version uint64) {
	for _, sr := range steps {
		if rule, ok := sr.Rule(pattern); ok && !below(rule, best) {
			best, version = rule, sr.Version
		}
	}
	return best, version
}

// BackwardError is an edit that would lead machines back.
type BackwardError struct {
	Pattern      string
	Version      uint64      // the version that has
	Epoch, Floor uint64      // this
	Rule         ProductRule // the rule that would count from now on
}

func (e *BackwardError) Error() string {
	text := fmt.Sprintf("product %s would be at epoch %d and floor %d", e.Pattern, e.Rule.Epoch, e.Rule.Floor)
	if e.Rule.Pattern != e.Pattern {
		text += ", those of " + e.Rule.Pattern
	}
	return text + fmt.Sprintf(": version %d has epoch %d and floor %d, and machines never go back", e.Version, e.Epoch, e.Floor)
}
