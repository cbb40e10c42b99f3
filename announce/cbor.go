package announce

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// codec is core-deterministic CBOR (RFC 8949, 4.2.1) without floats, tags, simple values and indefinite lengths.
type codec struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

func newCodec() codec {
	enc, err := cbor.EncOptions{Sort: cbor.SortCoreDeterministic, ShortestFloat: cbor.ShortestFloat16,
		NaNConvert: cbor.NaNConvert7e00, InfConvert: cbor.InfConvertFloat16, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden}.EncMode()
	if err != nil {
		panic(err) // constants above: cannot happen on any input
	}
	dec, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden, IntDec: cbor.IntDecConvertNone, MaxNestedLevels: 8, MaxArrayElements: 4096,
		MaxMapPairs: 4096, UTF8: cbor.UTF8RejectInvalid}.DecMode()
	if err != nil {
		panic(err)
	}
	return codec{enc, dec}
}

// canonical is made once and never changes.
var canonical = newCodec()

// Keys below firstOptional must be understood: a document with an unknown one asks for a newer program. Keys
// from firstOptional on may be skipped; their bytes are signed and kept.
const firstOptional = 64

// ErrTooNew means that a document uses something this program does not know; it is nobody's fault.
var ErrTooNew = errors.New("document needs a newer satchel")

// fields is a decoded document: what is taken is known, what is left at the end is not.
type fields struct {
	m   map[uint64]any
	err error
}

// parseFields decodes a document, whose length its envelope bounds, and refuses every encoding but the canonical one.
func parseFields(data []byte) (*fields, error) {
	var m map[uint64]any
	if err := canonical.dec.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("reading CBOR: %w", err)
	}
	for k, v := range m {
		if err := plain(v); err != nil {
			return nil, fmt.Errorf("key %d: %w", k, err)
		}
	}
	again, err := canonical.enc.Marshal(m)
	if err != nil || !bytes.Equal(again, data) {
		return nil, errors.New("encoding is not canonical")
	}
	return &fields{m: m}, nil
}

// plain allows unsigned integers, texts, byte strings, arrays and maps of them; nothing else is in v1.
func plain(v any) error {
	switch t := v.(type) {
	case uint64, string, []byte:
		return nil
	case []any:
		for _, e := range t {
			if err := plain(e); err != nil {
				return err
			}
		}
		return nil
	case map[any]any:
		for k, e := range t {
			if _, ok := k.(uint64); !ok {
				return fmt.Errorf("map key of type %T", k)
			}
			if err := plain(e); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("value of type %T is not allowed", v)
}

func (f *fields) fail(format string, args ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, args...)
	}
}

func take[T any](f *fields, key uint64, name string) (v T) {
	raw, ok := f.m[key]
	if !ok {
		f.fail("%s is missing", name)
		return v
	}
	delete(f.m, key)
	v, ok = raw.(T)
	if !ok {
		f.fail("%s has type %T", name, raw)
	}
	return v
}

// number takes a required number.
func (f *fields) number(key uint64, name string) uint64 { return take[uint64](f, key, name) }

// optional takes a number that is left out when it is zero.
func (f *fields) optional(key uint64, name string) uint64 {
	if _, ok := f.m[key]; !ok {
		return 0
	}
	n := f.number(key, name)
	if n == 0 {
		f.fail("%s is zero and must then be left out", name)
	}
	return n
}

// time takes an optional time in unix seconds.
func (f *fields) time(key uint64, name string) int64 {
	n := f.optional(key, name)
	if n > math.MaxInt64 {
		f.fail("%s is out of range", name)
		return 0
	}
	return int64(n)
}

// end refuses what was not taken.
func (f *fields) end() error {
	if f.err != nil {
		return f.err
	}
	for k := range f.m {
		if k < firstOptional {
			return fmt.Errorf("%w: unknown key %d", ErrTooNew, k)
		}
	}
	return nil
}

// putOptional adds a number unless it is zero.
func putOptional(m map[uint64]any, key, n uint64) {
	if n != 0 {
		m[key] = n
	}
}

// ValidProduct reports why s is no product name: 1 to 64 of a-z, 0-9, dot and hyphen, beginning and ending with
// a letter or digit, no two dots in a row.
func ValidProduct(s string) error {
	if s == "" || len(s) > 64 {
		return fmt.Errorf("product name %q has %d bytes, 1 to 64 are allowed", clip(s), len(s))
	}
	prev := byte('.')
	for i := 0; i < len(s); i++ {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alnum && (c != '.' && c != '-' || i == 0 || i == len(s)-1 || c == '.' && prev == '.') {
			return fmt.Errorf("product name %q: only a-z, 0-9, single dots and hyphens inside", clip(s))
		}
		prev = c
	}
	return nil
}

// ValidPattern reports why s is no product pattern: a product name, "*", or "name.*".
func ValidPattern(s string) error {
	if s == "*" {
		return nil
	}
	if n := len(s); n > 2 && s[n-2:] == ".*" {
		return ValidProduct(s[:n-2])
	}
	return ValidProduct(s)
}

// ValidVersion reports why s is no display version: 1 to 64 bytes of visible text, nothing that could make
// it look like something else. FORMAT.md lists what is refused.
func ValidVersion(s string) error {
	if s == "" || len(s) > 64 {
		return fmt.Errorf("version %q has %d bytes, 1 to 64 are allowed", clip(s), len(s))
	}
	return printable("version", s)
}

func printable(name, s string) error {
	if !utf8.ValidString(s) {
		return fmt.Errorf("%s is not UTF-8", name)
	}
	if s[0] == ' ' || s[len(s)-1] == ' ' {
		return fmt.Errorf("%s %q begins or ends with a space", name, clip(s))
	}
	for _, r := range s {
		if unprintable(r) {
			return fmt.Errorf("%s %q has an unprintable character %U", name, clip(s), r)
		}
	}
	return nil
}

// invisible lists, as pairs of first and last, what a display version may not hold: controls, spaces but the
// plain one, format characters (bidirectional marks too), fillers, private use, tags. The list is part of the
// format: Unicode tables change with the compiler, and nodes must agree for ever.
var invisible = [...][2]rune{
	{0, 0x1f}, {0x7f, 0xa0}, {0xad, 0xad}, {0x34f, 0x34f}, {0x61c, 0x61c}, {0x115f, 0x1160}, {0x1680, 0x1680},
	{0x17b4, 0x17b5}, {0x180b, 0x180f}, {0x2000, 0x200f}, {0x2028, 0x202f}, {0x205f, 0x206f}, {0x2800, 0x2800},
	{0x3000, 0x3000}, {0x3164, 0x3164}, {0xe000, 0xf8ff}, {0xfdd0, 0xfdef}, {0xfe00, 0xfe0f}, {0xfeff, 0xfeff},
	{0xffa0, 0xffa0}, {0xfff0, 0xffff}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0xe0000, 0x10ffff},
}

func unprintable(r rune) bool {
	for _, p := range invisible {
		if r >= p[0] && r <= p[1] {
			return true
		}
	}
	return r&0xfffe == 0xfffe // noncharacters
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
