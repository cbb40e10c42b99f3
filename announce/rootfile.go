package announce

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// MaxRootSteps is how many versions a root file holds at most, and MaxRootFile its size in bytes.
const (
	MaxRootSteps = 64
	MaxRootFile  = MaxRootSteps * MaxRootEnvelope
)

// RootFile is the chain of trust roots that people pass around: consecutive versions, oldest first.
//
//	version 1 ──► version 2 ──► version 3, a draft ──Sign, Merge──► complete ──Edit──► version 4, a draft ──► ...
//	              complete       ▲      │
//	                             └─Edit─┘ signatures are dropped
//
// Every version but the last is complete: it bears the signatures that make it follow the one before. The last may
// be a draft that lacks some, or all. A RootFile has one owner.
type RootFile struct{ steps []*SignedRoot }

// NewRootFile begins a chain with a draft of r, which has version 1.
func NewRootFile(r *Root) (*RootFile, error) {
	f := &RootFile{}
	if r.Version != 1 {
		return nil, fmt.Errorf("a chain begins with version 1, not %d", r.Version)
	}
	sr, err := newDraft(r)
	if err != nil {
		return nil, err
	}
	f.steps = []*SignedRoot{sr}
	return f, nil
}

// newDraft is a root without signatures. There must be room for them.
func newDraft(r *Root) (*SignedRoot, error) {
	payload, err := r.payload()
	if err != nil {
		return nil, fmt.Errorf("making a trust root: %w", err)
	}
	const room = maxSignatures*80 + 16
	if len(payload)+room > MaxRootEnvelope {
		return nil, fmt.Errorf("making a trust root: it has %d bytes, and %d would leave no room for signatures", len(payload), MaxRootEnvelope-room)
	}
	raw, err := (&envelope{payload: payload}).encode()
	if err != nil {
		return nil, err
	}
	return parseDraftRoot(raw)
}

func parseDraftRoot(data []byte) (*SignedRoot, error) {
	e, err := parseDraft(data, MaxRootEnvelope)
	if err != nil {
		return nil, err
	}
	return openRoot(e, data)
}

// ParseRootFile reads a root file and checks that it is one chain. Whether the last version is complete, Verify says.
func ParseRootFile(data []byte) (*RootFile, error) {
	switch {
	case len(data) == 0:
		return nil, errors.New("root file: it is empty")
	case len(data) > MaxRootFile:
		return nil, fmt.Errorf("root file: it has %d bytes, limit %d", len(data), MaxRootFile)
	}
	f := &RootFile{}
	for len(data) > 0 {
		if len(f.steps) == MaxRootSteps {
			return nil, fmt.Errorf("root file: it has more than %d versions", MaxRootSteps)
		}
		size, err := f.parseStep(data)
		if err != nil {
			return nil, fmt.Errorf("root file: document %d: %w", len(f.steps)+1, err)
		}
		data = data[size:]
	}
	return f, nil
}

// parseStep reads the envelope at the beginning of data and says how long it is. It must follow the steps before it.
func (f *RootFile) parseStep(data []byte) (size int, err error) {
	var raw cbor.RawMessage
	head := data[:min(len(data), MaxRootEnvelope)]
	if _, err := canonical.dec.UnmarshalFirst(head, &raw); errors.Is(err, io.ErrUnexpectedEOF) && len(head) < len(data) {
		return 0, fmt.Errorf("it is longer than %d bytes", MaxRootEnvelope)
	} else if err != nil {
		return 0, fmt.Errorf("reading the envelope: %w", err)
	}
	sr, err := parseDraftRoot(raw)
	if err != nil {
		return 0, err
	}
	if len(f.steps) > 0 {
		before := f.Last()
		if sr.Version != before.Version+1 {
			return 0, fmt.Errorf("version %d stands after version %d", sr.Version, before.Version)
		}
		if err := f.Verify(); err != nil {
			return 0, fmt.Errorf("only the last version may lack signatures: %w", err)
		}
	}
	f.steps = append(f.steps, sr)
	return len(raw), nil
}

// Encode is the file's bytes.
func (f *RootFile) Encode() []byte {
	var out []byte
	for _, sr := range f.steps {
		out = append(out, sr.raw...)
	}
	return out
}

// Steps lists the versions, oldest first; there is at least one. They must not be changed.
func (f *RootFile) Steps() []*SignedRoot { return slices.Clone(f.steps) }

// Last is the newest version, complete or not. It must not be changed.
func (f *RootFile) Last() *SignedRoot { return f.steps[len(f.steps)-1] }

// before is the version that the last one must follow, nil when the file has none.
func (f *RootFile) before() *Root {
	if len(f.steps) < 2 {
		return nil
	}
	return &f.steps[len(f.steps)-2].Root
}

// Complete is the newest version that bears all its signatures, nil when there is none.
func (f *RootFile) Complete() *Root {
	if f.Verify() == nil {
		return &f.Last().Root
	}
	return f.before()
}

// Quorum says how far the last version of a root file is with one of the thresholds that it must meet.
type Quorum struct {
	Version   uint64  // of the trust root whose root role this is
	Keys      []KeyID // the role's keys
	Threshold int     // how many of them must sign
	Signed    []KeyID // whose signature is good
	False     []KeyID // whose signature is not
}

// Missing is how many more of CanSign must sign.
func (q Quorum) Missing() int { return max(q.Threshold-len(q.Signed), 0) }

// CanSign lists the keys that have not signed well yet.
func (q Quorum) CanSign() []KeyID {
	return slices.DeleteFunc(slices.Clone(q.Keys), func(id KeyID) bool { return slices.Contains(q.Signed, id) })
}

// String says it for people.
func (q Quorum) String() string {
	text := fmt.Sprintf("root role of version %d: %d of %d must sign, %d %s", q.Version, q.Threshold, len(q.Keys), len(q.Signed), oneHas(len(q.Signed)))
	if len(q.False) > 0 {
		text += fmt.Sprintf(", the signature of %s is false", joinIDs(q.False, " and "))
	}
	if n := q.Missing(); n > 0 {
		text += fmt.Sprintf("; %d more of %s must", n, joinIDs(q.CanSign(), ", "))
	}
	return text
}

func oneHas(n int) string {
	if n == 1 {
		return "has"
	}
	return "have"
}

func joinIDs(ids []KeyID, sep string) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = id.String()
	}
	return strings.Join(words, sep)
}

// Quorums lists the thresholds that the last version must meet: that of the version before it, when the file has
// it, and its own.
func (f *RootFile) Quorums() []Quorum {
	last := f.Last()
	var out []Quorum
	for _, r := range []*Root{f.before(), &last.Root} {
		if r != nil {
			rule := r.Roles[RoleRoot]
			good, bad := last.env.signedBy(domainRoot, r, rule.Keys)
			out = append(out, Quorum{r.Version, rule.Keys, rule.Threshold, good, bad})
		}
	}
	return out
}

// Verify checks that the last version is complete. The error says what it lacks, Quorums says it as data. When the
// file begins with the last version, and that is not version 1, nobody can tell here whether it follows the one before.
func (f *RootFile) Verify() error {
	var lacks []string
	for _, q := range f.Quorums() {
		if q.Missing() > 0 {
			lacks = append(lacks, q.String())
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("trust root version %d lacks signatures: %s", f.Last().Version, strings.Join(lacks, "; "))
	}
	return nil
}

// Sign adds the signatures of keys to the last version. A key that none of the thresholds asks for is an error, and
// then nothing is added. A key that has signed signs again, which changes nothing.
func (f *RootFile) Sign(keys ...PrivateKey) error {
	last, quorums := f.Last(), f.Quorums()
	e := &envelope{last.env.payload, slices.Clone(last.env.sigs)}
	for _, k := range keys {
		id := k.Public().ID()
		if !slices.ContainsFunc(quorums, func(q Quorum) bool { return slices.Contains(q.Keys, id) }) {
			return fmt.Errorf("signing trust root version %d: key %s has no root role in it, nor in the version before: its signature would say nothing",
				last.Version, id)
		}
		e.add(domainRoot, k)
	}
	return f.signed(e)
}

// signed puts an envelope with other signatures in place of the last version's.
func (f *RootFile) signed(e *envelope) error {
	if len(e.sigs) > maxSignatures {
		return fmt.Errorf("trust root version %d would have %d signatures, limit %d", f.Last().Version, len(e.sigs), maxSignatures)
	}
	raw, err := e.encode()
	if err != nil {
		return err
	}
	if len(raw) > MaxRootEnvelope {
		return fmt.Errorf("signed trust root of %d bytes, limit %d", len(raw), MaxRootEnvelope)
	}
	f.steps[len(f.steps)-1] = &SignedRoot{Root: f.Last().Root, env: e, raw: raw}
	return nil
}

// Merge takes over the good signatures of another copy of the same last version, and says whose were new here.
func (f *RootFile) Merge(other *RootFile) (added []KeyID, err error) {
	mine, theirs := f.Last(), other.Last()
	if mine.Version != theirs.Version {
		return nil, fmt.Errorf("merging: one file ends with version %d, the other with version %d", mine.Version, theirs.Version)
	}
	if !bytes.Equal(mine.env.payload, theirs.env.payload) {
		return nil, fmt.Errorf("merging: the two files do not say the same in version %d", mine.Version)
	}
	merged, had := &envelope{mine.env.payload, slices.Clone(mine.env.sigs)}, f.Quorums()
	asked := &RootFile{append(slices.Clone(f.steps[:len(f.steps)-1]), theirs)} // their signatures, judged by the chain here
	var fresh []KeyID
	for i, q := range asked.Quorums() {
		for _, id := range q.Signed {
			if !slices.Contains(had[i].Signed, id) {
				fresh = append(fresh, id)
			}
		}
	}
	for _, s := range theirs.env.sigs {
		if slices.Contains(fresh, s.key) {
			merged.put(s)
			added = append(added, s.key)
		}
	}
	return added, f.signed(merged)
}
