package manifest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
	"github.com/ipfs/go-cid"
)

// wireHead is the document without its last field, which is the array of entries. It is for printing: the last field is
// printed as the empty array, and the entries come in its place.
type wireHead struct {
	Terms   *wireTerms `cbor:"0,keyasint,omitempty"`
	Ver     uint64     `cbor:"1,keyasint"`
	Product string     `cbor:"2,keyasint"`
	Epoch   uint64     `cbor:"3,keyasint"`
	Seq     uint64     `cbor:"4,keyasint"`
	Version string     `cbor:"5,keyasint"`
	Notes   string     `cbor:"6,keyasint"`
	Entries []struct{} `cbor:"7,keyasint"`
}

// fields is the number of fields of the document, whose keys are 1 to fields. A document with terms has them before, under key 0.
const fields = 7

// wireTerms is [Terms] as CBOR sees them.
type wireTerms struct {
	Config  []string `cbor:"1,keyasint,omitempty"`
	State   []string `cbor:"2,keyasint,omitempty"`
	Patches []string `cbor:"3,keyasint,omitempty"`
	Helper  string   `cbor:"4,keyasint,omitempty"`
}

// wireEntry is an entry as CBOR sees it.
type wireEntry struct {
	_    struct{} `cbor:",toarray"`
	Path string
	Type uint8
	Mode uint32
	Size uint64
	Blob []byte
	Link string
}

func encMode() (cbor.UserBufferEncMode, error) {
	o := cbor.CoreDetEncOptions()
	o.NilContainers = cbor.NilContainerAsEmpty
	return o.UserBufferEncMode()
}

func decMode() (cbor.DecMode, error) {
	return cbor.DecOptions{
		IndefLength:      cbor.IndefLengthForbidden,
		TagsMd:           cbor.TagsForbidden,
		UTF8:             cbor.UTF8RejectInvalid,
		MaxNestedLevels:  4,
		MaxArrayElements: 16,
	}.DecMode()
}

// ErrInvalid is in the chain of every error of [Parse].
var ErrInvalid = errors.New("invalid manifest")

// Parse reads a manifest. The document must be canonical and keep every rule and limit of the format; anything else is an
// error with [ErrInvalid] in its chain. The result does not refer to data.
func Parse(data []byte) (*Manifest, error) {
	m, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return m, nil
}

// parse goes through the document item by item and prints each again at once, so that there is never a second copy of it.
func parse(data []byte) (*Manifest, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes, limit is %d", len(data), MaxSize)
	}
	dec, err := decMode()
	if err != nil {
		return nil, err
	}
	m := new(Manifest)
	count, rest, err := m.parseHead(dec, data)
	if err != nil {
		return nil, err
	}
	printed, err := head(&m.Header, count)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(printed, data[:len(data)-len(rest)]) {
		return nil, errNotCanonical
	}
	if err := m.parseEntries(dec, rest, count); err != nil {
		return nil, err
	}
	return m, checkSizes(m.Entries)
}

// parseHead reads up to the first entry.
func (m *Manifest) parseHead(dec cbor.DecMode, data []byte) (count int, rest []byte, err error) {
	const majorMap = 5 << 5
	switch {
	case len(data) > 1 && data[0] == majorMap|(fields+1) && data[1] == 0:
		if rest, err = m.parseTerms(data[2:]); err != nil {
			return 0, nil, err
		}
	case len(data) > 0 && data[0] == majorMap|fields:
		rest = data[1:]
	default:
		return 0, nil, fmt.Errorf("not a map of %d fields", fields)
	}
	var ver, key uint64
	for i, v := range []any{&ver, &m.Product, &m.Epoch, &m.Seq, &m.Version, &m.Notes, nil} {
		if rest, err = dec.UnmarshalFirst(rest, &key); err != nil {
			return 0, nil, fmt.Errorf("decoding key: %w", err)
		}
		if key != uint64(i+1) {
			return 0, nil, fmt.Errorf("field %d where field %d must be", key, i+1)
		}
		if v == nil {
			break
		}
		if rest, err = dec.UnmarshalFirst(rest, v); err != nil {
			return 0, nil, fmt.Errorf("decoding field %d: %w", key, err)
		}
		if ver != version {
			return 0, nil, fmt.Errorf("format version %d, only %d is known", ver, version)
		}
	}
	return parseArrayHead(dec, rest)
}

// parseTerms reads the value of key 0. Strings of all lists together cannot be more than there is to read.
func (m *Manifest) parseTerms(data []byte) (rest []byte, err error) {
	dec, err := cbor.DecOptions{
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8RejectInvalid,
		ExtraReturnErrors: cbor.ExtraDecErrorUnknownField,
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		MaxNestedLevels:   4,
		MaxMapPairs:       16,
		MaxArrayElements:  MaxPatches,
	}.DecMode()
	if err != nil {
		return nil, err
	}
	var t wireTerms
	if rest, err = dec.UnmarshalFirst(data, &t); err != nil {
		return nil, fmt.Errorf("decoding terms: %w", err)
	}
	m.Terms = Terms(t)
	return rest, nil
}

// parseArrayHead reads the head of the array of entries: it is that of a number, with another major type.
func parseArrayHead(dec cbor.DecMode, data []byte) (count int, rest []byte, err error) {
	if len(data) == 0 || data[0]&majorType != majorArray {
		return 0, nil, errors.New("no array of entries")
	}
	number := append([]byte{data[0] &^ majorType}, data[1:min(len(data), 9)]...)
	var n uint64
	after, err := dec.UnmarshalFirst(number, &n)
	if err != nil {
		return 0, nil, fmt.Errorf("decoding the number of entries: %w", err)
	}
	if n > MaxEntries {
		return 0, nil, fmt.Errorf("%d entries, limit is %d", n, MaxEntries)
	}
	return int(n), data[len(number)-len(after):], nil
}

// The first three bits of an item's head are its major type.
const (
	majorType  = 7 << 5
	majorArray = 4 << 5
)

// smallestEntry is fewer bytes than any entry has. Together with what there is to read it limits what is allocated.
const smallestEntry = 8

func (m *Manifest) parseEntries(dec cbor.DecMode, rest []byte, count int) error {
	m.Entries = make([]Entry, 0, min(count, len(rest)/smallestEntry))
	same := &sameWriter{rest: rest}
	w := NewWriter(same)
	for i := range count {
		var we wireEntry
		var err error
		if rest, err = dec.UnmarshalFirst(rest, &we); err != nil {
			return fmt.Errorf("decoding entry %d: %w", i, err)
		}
		var e Entry
		if err = e.from(&we); err == nil {
			err = w.add(&e)
		}
		if err != nil {
			return fmt.Errorf("entry %q: %w", we.Path, err)
		}
		m.Entries = append(m.Entries, e)
	}
	if len(same.rest) != 0 {
		return fmt.Errorf("%d bytes behind the last entry", len(same.rest))
	}
	return nil
}

func (e *Entry) from(w *wireEntry) error {
	*e = Entry{Path: w.Path, Type: Type(w.Type), Mode: w.Mode, Size: w.Size, Link: w.Link}
	if len(w.Blob) == 0 {
		return nil
	}
	c, err := cid.Cast(w.Blob)
	if err != nil {
		return fmt.Errorf("reading blob CID: %w", err)
	}
	e.Blob = c
	return nil
}

var errNotCanonical = errors.New("not in canonical form")

// sameWriter accepts exactly the bytes it was given. With it, printing a document again costs no second copy.
type sameWriter struct{ rest []byte }

func (w *sameWriter) Write(p []byte) (int, error) {
	if !bytes.HasPrefix(w.rest, p) {
		return 0, errNotCanonical
	}
	w.rest = w.rest[len(p):]
	return len(p), nil
}

// Writer prints a manifest entry by entry, so that a publisher's memory does not grow with the tree. Entries go to the
// given writer, usually a temporary file, as they come; the head, which holds their number, is known only at the end, and
// the document is the head followed by what was written. A Writer is for one goroutine.
//
// Add checks everything that Parse does, except that one blob has one size: the Writer does not remember blobs.
type Writer struct {
	dst   io.Writer
	enc   cbor.UserBufferEncMode
	buf   bytes.Buffer
	order order
	size  int64
	err   error
}

// NewWriter makes a Writer that writes entries to dst, one Write for each.
func NewWriter(dst io.Writer) *Writer {
	enc, err := encMode()
	return &Writer{dst: dst, enc: enc, err: err}
}

// Add writes the next entry. After an error the Writer is of no more use, and every call returns that error.
func (w *Writer) Add(e Entry) error {
	if w.err == nil {
		if err := w.add(&e); err != nil {
			w.err = fmt.Errorf("writing manifest: entry %q: %w", e.Path, err)
		}
	}
	return w.err
}

func (w *Writer) add(e *Entry) error {
	if err := w.order.add(e); err != nil {
		return err
	}
	w.buf.Reset()
	we := wireEntry{Path: e.Path, Type: uint8(e.Type), Mode: e.Mode, Size: e.Size, Blob: e.Blob.Bytes(), Link: e.Link}
	if err := w.enc.MarshalToBuffer(&we, &w.buf); err != nil {
		return err
	}
	n, err := w.dst.Write(w.buf.Bytes())
	w.size += int64(n)
	return err
}

// Head is the beginning of the document, to be put before what Add wrote. It refuses a bad header, and a document that is
// longer than [MaxSize] in all.
func (w *Writer) Head(h Header) ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	b, err := head(&h, w.order.count)
	if err != nil {
		return nil, fmt.Errorf("writing manifest: %w", err)
	}
	if size := w.size + int64(len(b)); size > MaxSize {
		return nil, fmt.Errorf("writing manifest: %d bytes, limit is %d", size, MaxSize)
	}
	return b, nil
}

// Count is the number of entries so far.
func (w *Writer) Count() int { return w.order.count }

// TotalSize is the sum of the sizes of the file entries so far, in bytes.
func (w *Writer) TotalSize() uint64 { return w.order.total }

// head prints the map without its last value, which is an array of count entries.
func head(h *Header, count int) ([]byte, error) {
	if err := CheckHeader(h); err != nil {
		return nil, err
	}
	enc, err := encMode()
	if err != nil {
		return nil, err
	}
	w := wireHead{Ver: version, Product: h.Product, Epoch: h.Epoch, Seq: h.Seq, Version: h.Version, Notes: h.Notes}
	if !h.Terms.isZero() {
		t := wireTerms(h.Terms)
		w.Terms = &t
	}
	b, err := enc.Marshal(&w)
	if err != nil {
		return nil, err
	}
	// The map ends with an empty array, one byte.
	n, err := enc.Marshal(uint64(count))
	if err != nil {
		return nil, err
	}
	n[0] |= majorArray
	return append(b[:len(b)-1], n...), nil
}
