package announce

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"
)

// MaxTimestampEnvelope is the size in bytes above which a timestamp is refused unread.
const MaxTimestampEnvelope = 64 << 10

// Timestamp says that at Issued the heads were the newest releases. It can show staleness, it installs nothing.
type Timestamp struct {
	RootVer uint64
	Issued  int64 // unix seconds
	Heads   []TimestampHead
}

// TimestampHead is one product's newest number, as a timestamp says.
type TimestampHead struct {
	Product    string
	Epoch, Seq uint64
}

// SignedTimestamp is a well-formed timestamp whose signatures nobody has checked yet.
type SignedTimestamp struct {
	Timestamp
	env *envelope
	raw []byte
}

// ID is a hash of the payload alone: the first 20 bytes of its SHA-256.
func (st *SignedTimestamp) ID() [20]byte { return st.env.id() }

// Envelope is the document as it arrived. It must not be changed.
func (st *SignedTimestamp) Envelope() []byte { return st.raw }

// head is what the timestamp says of product.
func (t *Timestamp) head(product string) (h TimestampHead, ok bool) {
	i, ok := slices.BinarySearchFunc(t.Heads, product, func(h TimestampHead, p string) int { return strings.Compare(h.Product, p) })
	if ok {
		h = t.Heads[i]
	}
	return h, ok
}

const (
	keyTimeRootVer = iota + 1
	keyTimeIssued
	keyTimeHeads
	// MaxTimestampHeads is how many products one timestamp can name.
	MaxTimestampHeads = 512
)

func (t *Timestamp) valid() error {
	if t.RootVer == 0 || t.Issued <= 0 || len(t.Heads) > MaxTimestampHeads {
		return errors.New("root version, issued or the number of heads is out of range")
	}
	for i, h := range t.Heads {
		if err := ValidProduct(h.Product); err != nil {
			return err
		}
		if h.Epoch == 0 || h.Seq == 0 || i > 0 && t.Heads[i-1].Product >= h.Product {
			return errors.New("heads are not sorted by product, or one has no number")
		}
	}
	return nil
}

// Sign checks the timestamp and returns its envelope. Heads must be sorted by product.
func (t *Timestamp) Sign(keys ...PrivateKey) ([]byte, error) {
	if err := t.valid(); err != nil {
		return nil, fmt.Errorf("signing a timestamp: %w", err)
	}
	heads := make([]any, len(t.Heads))
	for i, h := range t.Heads {
		heads[i] = []any{h.Product, h.Epoch, h.Seq}
	}
	payload, err := canonical.enc.Marshal(map[uint64]any{keyTimeRootVer: t.RootVer, keyTimeIssued: uint64(t.Issued), keyTimeHeads: heads})
	if err != nil {
		return nil, err
	}
	return seal(domainTimestamp, payload, keys, MaxTimestampEnvelope)
}

// Signers lists the keys of which the envelope bears a signature, checked or not.
func (st *SignedTimestamp) Signers() []KeyID { return st.env.claimed() }

// ParseFirstTimestamp reads one envelope of a file that has several one after the other (a CBOR sequence, RFC 8742).
func ParseFirstTimestamp(data []byte) (st *SignedTimestamp, rest []byte, err error) {
	var raw cbor.RawMessage
	if _, err = canonical.dec.UnmarshalFirst(data[:min(len(data), 2*MaxTimestampEnvelope)], &raw); err != nil {
		return nil, nil, fmt.Errorf("reading the envelope: %w", err)
	}
	st, err = ParseTimestamp(raw)
	return st, data[len(raw):], err
}

// ParseTimestamp reads an envelope. It checks form, not trust.
func ParseTimestamp(data []byte) (*SignedTimestamp, error) {
	e, err := parseEnvelope(data, MaxTimestampEnvelope)
	if err != nil {
		return nil, err
	}
	f, err := parseFields(e.payload)
	if err != nil {
		return nil, fmt.Errorf("timestamp: %w", err)
	}
	t := Timestamp{RootVer: f.number(keyTimeRootVer, "root version"), Issued: f.time(keyTimeIssued, "issued")}
	heads := take[[]any](f, keyTimeHeads, "heads")
	if err := f.end(); err != nil {
		return nil, fmt.Errorf("timestamp: %w", err)
	}
	for _, v := range heads {
		a, ok := v.([]any)
		if !ok || len(a) != 3 {
			return nil, errors.New("timestamp: head is not three values")
		}
		product, ok1 := a[0].(string)
		epoch, ok2 := a[1].(uint64)
		seq, ok3 := a[2].(uint64)
		if !ok1 || !ok2 || !ok3 {
			return nil, errors.New("timestamp: head has a value of the wrong type")
		}
		t.Heads = append(t.Heads, TimestampHead{product, epoch, seq})
	}
	if err := t.valid(); err != nil {
		return nil, fmt.Errorf("timestamp: %w", err)
	}
	return &SignedTimestamp{t, e, bytes.Clone(data)}, nil
}

// VerifyTimestamp checks that the timestamp role signed st.
func (r *Root) VerifyTimestamp(st *SignedTimestamp) error {
	rule, ok := r.Roles[RoleTimestamp]
	switch {
	case !ok:
		return errors.New("nobody has the timestamp role")
	case st.RootVer > r.Version:
		return fmt.Errorf("signed under trust root version %d, this is version %d", st.RootVer, r.Version)
	}
	return st.env.check(domainTimestamp, r, rule.Keys, rule.Threshold, "timestamp")
}
