package announce

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
)

// MaxEnvelope and MaxRootEnvelope are the sizes in bytes above which an envelope is refused unread.
const (
	MaxEnvelope     = 512
	MaxRootEnvelope = 64 << 10
	maxSignatures   = 64
)

// Domains keep a signature over one kind of document from counting for another.
const (
	domainAnnouncement = "satchel/announcement/v1\x00"
	domainRoot         = "satchel/root/v1\x00"
	domainTimestamp    = "satchel/timestamp/v1\x00"
)

// envelope is a document and its signatures: CBOR [payload, [[key id, signature], ...]], sorted by key id.
type envelope struct {
	payload []byte
	sigs    []signature
}

type signature struct {
	key KeyID
	sig []byte
}

// id is a hash of the payload alone: signatures that a relay drops or reorders do not make another document.
func (e *envelope) id() (id [20]byte) {
	sum := sha256.Sum256(e.payload)
	copy(id[:], sum[:])
	return id
}

func (e *envelope) claimed() []KeyID {
	ids := make([]KeyID, len(e.sigs))
	for i, s := range e.sigs {
		ids[i] = s.key
	}
	return ids
}

func parseEnvelope(data []byte, limit int) (*envelope, error) {
	e, err := parseDraft(data, limit)
	if err == nil && len(e.sigs) == 0 {
		return nil, errors.New("envelope without a signature")
	}
	return e, err
}

// parseDraft reads an envelope that need not be signed yet.
func parseDraft(data []byte, limit int) (*envelope, error) {
	if len(data) > limit {
		return nil, fmt.Errorf("envelope of %d bytes, limit %d", len(data), limit)
	}
	var raw []any
	if err := canonical.dec.Unmarshal(data, &raw); err != nil {
		return nil, fmt.Errorf("reading the envelope: %w", err)
	}
	if len(raw) != 2 {
		return nil, fmt.Errorf("envelope of %d parts, not 2", len(raw))
	}
	e := &envelope{}
	payload, ok := raw[0].([]byte)
	list, ok2 := raw[1].([]any)
	if !ok || !ok2 || len(list) > maxSignatures {
		return nil, fmt.Errorf("envelope needs a payload and at most %d signatures", maxSignatures)
	}
	e.payload = payload
	for _, item := range list {
		s, err := parseSignature(item)
		if err != nil {
			return nil, err
		}
		if n := len(e.sigs); n > 0 && bytes.Compare(e.sigs[n-1].key[:], s.key[:]) >= 0 {
			return nil, errors.New("signatures are not sorted by key id, or one key signs twice")
		}
		e.sigs = append(e.sigs, s)
	}
	if again, err := e.encode(); err != nil || !bytes.Equal(again, data) {
		return nil, errors.New("envelope is not in canonical form")
	}
	return e, nil
}

func parseSignature(item any) (s signature, err error) {
	pair, ok := item.([]any)
	if !ok || len(pair) != 2 {
		return s, errors.New("signature is not a pair")
	}
	key, ok := pair[0].([]byte)
	sig, ok2 := pair[1].([]byte)
	if !ok || !ok2 || len(key) != len(s.key) || len(sig) != 64 {
		return s, errors.New("signature is not 8 bytes of key id and 64 bytes")
	}
	copy(s.key[:], key)
	s.sig = sig
	return s, nil
}

func (e *envelope) encode() ([]byte, error) {
	list := make([]any, len(e.sigs))
	for i, s := range e.sigs {
		list[i] = []any{s.key[:], s.sig}
	}
	return canonical.enc.Marshal([]any{e.payload, list})
}

func seal(domain string, payload []byte, keys []PrivateKey, limit int) ([]byte, error) {
	if len(keys) == 0 {
		return nil, errors.New("signing: no key given")
	}
	if len(keys) > maxSignatures {
		return nil, fmt.Errorf("signing: %d keys, limit %d", len(keys), maxSignatures)
	}
	e := &envelope{payload: payload}
	for _, k := range keys {
		e.add(domain, k)
	}
	out, err := e.encode()
	if err != nil {
		return nil, err
	}
	if len(out) > limit {
		return nil, fmt.Errorf("signed document of %d bytes, limit %d", len(out), limit)
	}
	return out, nil
}

// add signs with k; a signature by the same key is replaced.
func (e *envelope) add(domain string, k PrivateKey) {
	e.put(signature{k.Public().ID(), k.sign(append([]byte(domain), e.payload...))})
}

// put adds a signature; one by the same key is replaced.
func (e *envelope) put(sig signature) {
	e.sigs = slices.DeleteFunc(e.sigs, func(s signature) bool { return s.key == sig.key })
	e.sigs = append(e.sigs, sig)
	slices.SortFunc(e.sigs, func(a, b signature) int { return bytes.Compare(a.key[:], b.key[:]) })
}

// check counts how many of the allowed keys signed. Any other signature says nothing, a false one neither: a
// relay can add one by a key that only some of us still know, and they must not blame those who passed it on.
func (e *envelope) check(domain string, r *Root, allowed []KeyID, threshold int, what string) error {
	signed, wrong := e.signedBy(domain, r, allowed)
	good, bad := len(signed), len(wrong)
	if good < threshold || threshold < 1 {
		return fmt.Errorf("%s needs signatures by %d of its keys: %d are good, %d are false, %d are by other keys",
			what, threshold, good, bad, len(e.sigs)-good-bad)
	}
	return nil
}

// signedBy lists those of the allowed keys whose signature is good, and those whose signature is not.
func (e *envelope) signedBy(domain string, r *Root, allowed []KeyID) (good, bad []KeyID) {
	msg := append([]byte(domain), e.payload...)
	for _, s := range e.sigs {
		key, ok := r.key(s.key)
		switch {
		case !ok || !slices.Contains(allowed, s.key):
		case key.verify(msg, s.sig):
			good = append(good, s.key)
		default:
			bad = append(bad, s.key)
		}
	}
	return good, bad
}
