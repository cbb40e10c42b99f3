package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multihash"
)

// codecCBOR is the multicodec of CBOR; go-cid names only dag-cbor, which is another.
const codecCBOR = 0x51

// RawCID names the blob that is the one chunk with this digest.
func RawCID(d Digest) cid.Cid { return newCID(cid.Raw, d) }

// ListCID names the blob whose chunk list has this digest.
func ListCID(d Digest) cid.Cid { return newCID(codecCBOR, d) }

func newCID(codec uint64, d Digest) cid.Cid {
	mh := make([]byte, 0, 2+len(d))
	mh = append(mh, multihash.SHA2_256, sha256.Size)
	return cid.NewCidV1(codec, append(mh, d[:]...))
}

// IsRaw says whether the CID names a blob of one chunk, so that its digest is that of its bytes. Otherwise the digest is
// that of its chunk list.
func IsRaw(c cid.Cid) bool { return c.Defined() && c.Type() == cid.Raw }

// DigestOf is the digest inside a CID that [ParseCID] accepts.
func DigestOf(c cid.Cid) (d Digest) {
	h := c.Hash()
	copy(d[:], h[len(h)-len(d):])
	return d
}

// ParseCID reads the binary form of a CID. It accepts the two kinds that name blobs and nothing else: version 1, codec raw
// or cbor, sha2-256 of full length.
func ParseCID(b []byte) (cid.Cid, error) {
	c, err := cid.Cast(b)
	if err != nil {
		return cid.Undef, fmt.Errorf("parsing CID: %w", err)
	}
	return c, checkCID(c)
}

// checkCID refuses what is not the name of a blob. Names become file names, so it stands at every door of the store.
func checkCID(c cid.Cid) error {
	if !c.Defined() {
		return fmt.Errorf("no CID")
	}
	p := c.Prefix()
	if p.Version != 1 || (p.Codec != cid.Raw && p.Codec != codecCBOR) || p.MhType != multihash.SHA2_256 || p.MhLength != sha256.Size {
		return fmt.Errorf("CID %v: not version 1, raw or cbor, sha2-256", c)
	}
	return nil
}

// shard is the directory below blobs that holds a blob: the last byte of its digest, which is spread evenly.
func shard(c cid.Cid) string {
	d := DigestOf(c)
	return hex.EncodeToString(d[len(d)-1:])
}

// blobPath is a blob's file below blobs. Its chunk list has the same name with .list, its variants with their mode.
func blobPath(c cid.Cid) string { return shard(c) + "/" + c.String() }
