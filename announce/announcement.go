package announce

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/ipfs/go-cid"
	mh "github.com/multiformats/go-multihash"
)

// Announcement says that a release exists. Only (Epoch, Seq) orders releases; Version is for people.
type Announcement struct {
	Product      string
	RootVer      uint64 // version of the trust root it was signed under
	Epoch        uint64 // set by the trust root; a new epoch overtakes every seq of the one before
	Seq          uint64 // from 1
	Version      string
	Manifest     cid.Cid // pins the content
	ManifestSize uint64  // bytes
	TotalSize    uint64  // bytes of all files
	Issued       int64   // unix seconds, 0: not said
	Expires      int64   // unix seconds, 0: never; only takes "urgent" away
	Floor        uint64  // machines never go below this seq of the epoch
	Urgent       bool    // may wake sleeping radios, when the wake role signed too
	Recall       bool    // the manifest is that of an older release: a newer number with older content
	MinUpdater   uint64  // oldest satchel format that can install it; 0: any
	Via          uint64  // seq to install first when MinUpdater is above ours; 0: none
}

// SignedAnnouncement is a well-formed announcement whose signatures nobody has checked yet.
type SignedAnnouncement struct {
	Announcement
	env *envelope
	raw []byte
}

// ID is a hash of the payload alone: the first 20 bytes of its SHA-256.
func (sa *SignedAnnouncement) ID() [20]byte { return sa.env.id() }

// Envelope is the document as it arrived. It must not be changed.
func (sa *SignedAnnouncement) Envelope() []byte { return sa.raw }

// Signers lists the keys of which the envelope bears a signature, checked or not.
func (sa *SignedAnnouncement) Signers() []KeyID { return sa.env.claimed() }

// Keys of the payload map.
const (
	keyProduct = iota + 1
	keyRootVer
	keyEpoch
	keySeq
	keyVersion
	keyManifest
	keyManifestSize
	keyTotalSize
	keyIssued
	keyExpires
	keyFloor
	keyFlags
	keyMinUpdater
	keyVia
)

const (
	flagUrgent = 1
	flagRecall = 2
)

// maxSize bounds the sizes that a document may claim: 2^50 bytes.
const maxSize = 1 << 50

func (a *Announcement) valid() error {
	if err := ValidProduct(a.Product); err != nil {
		return err
	}
	if err := ValidVersion(a.Version); err != nil {
		return err
	}
	switch {
	case a.RootVer == 0 || a.Epoch == 0 || a.Seq == 0:
		return errors.New("root version, epoch and seq begin at 1")
	case a.ManifestSize == 0 || a.ManifestSize > maxSize || a.TotalSize > maxSize:
		return errors.New("manifest size or total size is out of range")
	case a.Issued < 0 || a.Expires < 0:
		return errors.New("issued or expires is negative")
	case a.Floor > a.Seq:
		return errors.New("floor is above the release itself")
	case a.Via >= a.Seq:
		return errors.New("via is not below the release itself")
	}
	return validCID(a.Manifest)
}

func validCID(c cid.Cid) error {
	if !c.Defined() {
		return errors.New("manifest CID is missing")
	}
	p := c.Prefix()
	if p.Version != 1 || p.MhType != mh.SHA2_256 || p.MhLength != 32 || (p.Codec != cid.Raw && p.Codec != cborCodec) {
		return errors.New("manifest CID is not v1 with sha2-256, raw or cbor")
	}
	return nil
}

// cborCodec is the multicodec of a blob that is named by its chunk list.
const cborCodec = 0x51

// Sign checks the announcement and returns its envelope, at most MaxEnvelope bytes.
func (a *Announcement) Sign(keys ...PrivateKey) ([]byte, error) {
	if err := a.valid(); err != nil {
		return nil, fmt.Errorf("signing an announcement: %w", err)
	}
	m := map[uint64]any{keyProduct: a.Product, keyRootVer: a.RootVer, keyEpoch: a.Epoch, keySeq: a.Seq, keyVersion: a.Version,
		keyManifest: a.Manifest.Bytes(), keyManifestSize: a.ManifestSize}
	putOptional(m, keyTotalSize, a.TotalSize)
	putOptional(m, keyIssued, uint64(a.Issued))
	putOptional(m, keyExpires, uint64(a.Expires))
	putOptional(m, keyFloor, a.Floor)
	putOptional(m, keyFlags, a.flags())
	putOptional(m, keyMinUpdater, a.MinUpdater)
	putOptional(m, keyVia, a.Via)
	payload, err := canonical.enc.Marshal(m)
	if err != nil {
		return nil, err
	}
	return seal(domainAnnouncement, payload, keys, MaxEnvelope)
}

func (a *Announcement) flags() (flags uint64) {
	if a.Urgent {
		flags |= flagUrgent
	}
	if a.Recall {
		flags |= flagRecall
	}
	return flags
}

// ParseAnnouncement reads an envelope. It checks form, not trust.
func ParseAnnouncement(data []byte) (*SignedAnnouncement, error) {
	e, err := parseEnvelope(data, MaxEnvelope)
	if err != nil {
		return nil, err
	}
	f, err := parseFields(e.payload)
	if err != nil {
		return nil, fmt.Errorf("announcement: %w", err)
	}
	a := Announcement{Product: take[string](f, keyProduct, "product"), RootVer: f.number(keyRootVer, "root version"),
		Epoch: f.number(keyEpoch, "epoch"), Seq: f.number(keySeq, "seq"), Version: take[string](f, keyVersion, "version")}
	raw := take[[]byte](f, keyManifest, "manifest")
	a.ManifestSize = f.number(keyManifestSize, "manifest size")
	a.TotalSize = f.optional(keyTotalSize, "total size")
	a.Issued, a.Expires = f.time(keyIssued, "issued"), f.time(keyExpires, "expires")
	a.Floor = f.optional(keyFloor, "floor")
	flags := f.optional(keyFlags, "flags")
	a.MinUpdater, a.Via = f.optional(keyMinUpdater, "min updater"), f.optional(keyVia, "via")
	if err := f.end(); err != nil {
		return nil, fmt.Errorf("announcement: %w", err)
	}
	a.Urgent, a.Recall = flags&flagUrgent != 0, flags&flagRecall != 0
	if a.flags() != flags {
		return nil, fmt.Errorf("announcement: %w: unknown flags %#x", ErrTooNew, flags)
	}
	n, c, err := cid.CidFromBytes(raw)
	if err != nil || n != len(raw) {
		return nil, errors.New("announcement: manifest is not a CID")
	}
	a.Manifest = c
	if err := a.valid(); err != nil {
		return nil, fmt.Errorf("announcement: %w", err)
	}
	return &SignedAnnouncement{Announcement: a, env: e, raw: bytes.Clone(data)}, nil
}
