package beacon

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/fxamacker/cbor/v2"
)

const (
	// MaxSize bounds an encoded beacon, in bytes. Longer packets are dropped unread.
	MaxSize = 512
	// MaxNode bounds Beacon.Node, in bytes.
	MaxNode = 64
	// MaxHeard bounds the tags in one beacon.
	MaxHeard = 64

	form = 1

	keyForm     = 1
	keyNode     = 2
	keyTCP      = 3
	keyQUIC     = 4
	keyDigest   = 5
	keyInstance = 6
	keyHeard    = 7
	// Keys from here on may be skipped by a reader that does not know them.
	keyExtension    = 32
	maxKey          = 1<<16 - 1
	maxExtensions   = 8
	maxExtensionLen = 128
)

// Tag is a short name of one run of one node, as it stands in Heard.
type Tag uint32

// Beacon is what one node says to its link. The zero Beacon is not valid: it names no node.
type Beacon struct {
	// Node is the sender's peer id, 1 to MaxNode bytes. The codec does not look inside.
	Node []byte
	// TCP and QUIC are the ports the sender listens on; 0 means it does not.
	TCP, QUIC uint16
	// Digest is the sender's catalog digest: equal digests mean there is nothing to exchange.
	Digest [8]byte
	// Instance is a random number of this run of the sender. A node and an instance
	// together name a run; another instance means the node started anew and remembers nobody.
	Instance uint64
	// Heard says whom the sender has heard on this link. Service fills it in before it sends.
	Heard Heard

	extensions map[uint64]cbor.RawMessage
}

// Heard is a part of what a node has heard on one link: of all tags from From to To
// (both included) exactly Tags. The zero Heard says almost nothing: that tag 0 was not heard.
type Heard struct {
	From, To Tag
	Tags     []Tag // ascending, at most MaxHeard
}

// Hearing is what a beacon says about one node being heard by its sender.
type Hearing int

const (
	Unsaid  Hearing = iota // the list does not reach that far
	Present                // the sender has heard it
	Absent                 // the sender has not heard it
)

// Says tells what h says of t.
func (h Heard) Says(t Tag) Hearing {
	if t < h.From || t > h.To {
		return Unsaid
	}
	if _, ok := slices.BinarySearch(h.Tags, t); ok {
		return Present
	}
	return Absent
}

// Tag returns the tag of the run that sent b: the first 32 bits of
// sha256("satchel/beacon-tag/v1\0" || instance, 8 bytes big-endian || node).
func (b *Beacon) Tag() Tag {
	text := append(make([]byte, 0, 128), "satchel/beacon-tag/v1\x00"...)
	text = binary.BigEndian.AppendUint64(text, b.Instance)
	sum := sha256.Sum256(append(text, b.Node...))
	return Tag(binary.BigEndian.Uint32(sum[:4]))
}

// ErrForm is returned by Parse for a beacon of a later form than this package knows.
var ErrForm = errors.New("unknown form")

// Encode returns the canonical CBOR of b, at most MaxSize bytes.
// It is an error when Node is empty or too long, or when Heard is not in order.
func (b Beacon) Encode() ([]byte, error) {
	data, err := b.encode()
	if err != nil {
		return nil, fmt.Errorf("encoding beacon: %w", err)
	}
	return data, nil
}

func (b *Beacon) encode() ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	m := map[uint64]any{
		keyForm: form, keyNode: b.Node, keyTCP: b.TCP, keyQUIC: b.QUIC,
		keyDigest: b.Digest[:], keyInstance: b.Instance, keyHeard: b.Heard.wire(),
	}
	for k, v := range b.extensions {
		m[k] = v
	}
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		return nil, err
	}
	data, err := mode.Marshal(m)
	if err == nil && len(data) > MaxSize {
		err = fmt.Errorf("%d bytes, more than %d", len(data), MaxSize)
	}
	return data, err
}

func (b *Beacon) check() error {
	if n := len(b.Node); n < 1 || n > MaxNode {
		return fmt.Errorf("node id of %d bytes", n)
	}
	return b.Heard.check()
}

func (h Heard) check() error {
	if len(h.Tags) > MaxHeard {
		return fmt.Errorf("%d heard tags, more than %d", len(h.Tags), MaxHeard)
	}
	if h.From > h.To {
		return errors.New("heard range ends before it begins")
	}
	for i, t := range h.Tags {
		if t < h.From || t > h.To {
			return errors.New("heard tag outside its range")
		}
		if i > 0 && t <= h.Tags[i-1] {
			return errors.New("heard tags not ascending")
		}
	}
	return nil
}

// wireHeard is Heard as it travels: [from, to, 4 bytes big-endian for each tag].
type wireHeard struct {
	_        struct{} `cbor:",toarray"`
	From, To uint32
	Tags     []byte
}

func (h Heard) wire() wireHeard {
	w := wireHeard{From: uint32(h.From), To: uint32(h.To), Tags: make([]byte, 0, 4*len(h.Tags))}
	for _, t := range h.Tags {
		w.Tags = binary.BigEndian.AppendUint32(w.Tags, uint32(t))
	}
	return w
}

func (w wireHeard) heard() (Heard, error) {
	if len(w.Tags)%4 != 0 {
		return Heard{}, fmt.Errorf("heard tags of %d bytes", len(w.Tags))
	}
	h := Heard{From: Tag(w.From), To: Tag(w.To)}
	for b := w.Tags; len(b) > 0; b = b[4:] {
		h.Tags = append(h.Tags, Tag(binary.BigEndian.Uint32(b)))
	}
	return h, h.check()
}

// Parse reads one beacon. It accepts exactly what Encode can produce, plus extensions:
// keys from 32 on, whose values are unsigned integers or byte strings, are kept for Encode but
// not interpreted. Anything else, and any encoding that is not the canonical one, is an error;
// a beacon of another form gives ErrForm. Parse keeps no reference to data.
func Parse(data []byte) (Beacon, error) {
	b, err := parse(data)
	if err != nil {
		return Beacon{}, fmt.Errorf("parsing beacon: %w", err)
	}
	return b, nil
}

func parse(data []byte) (Beacon, error) {
	if len(data) > MaxSize {
		return Beacon{}, fmt.Errorf("%d bytes, more than %d", len(data), MaxSize)
	}
	d, err := newDecoder(data)
	if err != nil {
		return Beacon{}, err
	}
	b, err := d.beacon()
	if err != nil {
		return Beacon{}, err
	}
	again, err := b.encode()
	if err != nil {
		return Beacon{}, err
	}
	if !bytes.Equal(again, data) {
		return Beacon{}, errors.New("not in canonical form")
	}
	return b, nil
}

// decoder takes the fields out of a beacon's map one by one; the first error sticks.
// It need not look at types too closely: what it reads as something else than was written
// does not encode to the same bytes again.
type decoder struct {
	mode   cbor.DecMode
	fields map[uint64]cbor.RawMessage
	err    error
}

func newDecoder(data []byte) (*decoder, error) {
	mode, err := cbor.DecOptions{
		DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: 4, MaxArrayElements: 16, MaxMapPairs: 16, UTF8: cbor.UTF8RejectInvalid,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	d := &decoder{mode: mode}
	return d, mode.Unmarshal(data, &d.fields)
}

func (d *decoder) beacon() (Beacon, error) {
	var b Beacon
	var f uint64
	d.take(keyForm, &f)
	if d.err == nil && f != form {
		return b, fmt.Errorf("%w %d", ErrForm, f)
	}
	var digest []byte
	var heard wireHeard
	d.take(keyNode, &b.Node)
	d.take(keyTCP, &b.TCP)
	d.take(keyQUIC, &b.QUIC)
	d.take(keyDigest, &digest)
	d.take(keyInstance, &b.Instance)
	d.take(keyHeard, &heard)
	d.takeExtensions(&b)
	if d.err != nil {
		return b, d.err
	}
	if len(digest) != len(b.Digest) {
		return b, fmt.Errorf("digest of %d bytes", len(digest))
	}
	b.Digest = [8]byte(digest)
	var err error
	b.Heard, err = heard.heard()
	return b, err
}

func (d *decoder) take(key uint64, into any) {
	if d.err != nil {
		return
	}
	raw, ok := d.fields[key]
	if !ok {
		d.err = fmt.Errorf("key %d is missing", key)
		return
	}
	delete(d.fields, key)
	if err := d.mode.Unmarshal(raw, into); err != nil {
		d.err = fmt.Errorf("key %d: %w", key, err)
	}
}

const (
	majorUint  = 0
	majorBytes = 2
)

// takeExtensions keeps what is left, decoded, so that encoding it again shows whether it was canonical.
func (d *decoder) takeExtensions(b *Beacon) {
	if d.err != nil {
		return
	}
	if len(d.fields) > maxExtensions {
		d.err = fmt.Errorf("%d extensions", len(d.fields))
		return
	}
	for key, raw := range d.fields {
		if key < keyExtension || key > maxKey || len(raw) > maxExtensionLen {
			d.err = fmt.Errorf("key %d is unknown or too long", key)
			return
		}
		canonical, err := d.extension(raw)
		if err != nil {
			d.err = fmt.Errorf("key %d: %w", key, err)
			return
		}
		if b.extensions == nil {
			b.extensions = make(map[uint64]cbor.RawMessage)
		}
		b.extensions[key] = canonical
	}
}

func (d *decoder) extension(raw cbor.RawMessage) (cbor.RawMessage, error) {
	switch raw[0] >> 5 {
	case majorUint:
		var n uint64
		if err := d.mode.Unmarshal(raw, &n); err != nil {
			return nil, err
		}
		return cbor.Marshal(n)
	case majorBytes:
		var s []byte
		if err := d.mode.Unmarshal(raw, &s); err != nil {
			return nil, err
		}
		return cbor.Marshal(s)
	}
	return nil, errors.New("neither an unsigned integer nor a byte string")
}
