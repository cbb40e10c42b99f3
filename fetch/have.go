package fetch

import (
	"fmt"

	"satchel/store"
	"satchel/store/manifest"
)

// ManifestBlob stands for the manifest itself where a blob's index is asked for: it is the blob that has no index.
const ManifestBlob = ^uint32(0)

// HaveMap says what a node holds of one release. It refers to blobs by their index in the manifest's Blobs, so before it
// knows the manifest a node can only speak of the manifest itself.
//
// Bitfields count from the most significant bit of the first byte. A bitfield is as long as needed for all its bits and
// no longer, or empty when no bit is set.
type HaveMap struct {
	All      bool          // everything: the manifest, all lists, all blobs; the rest then says nothing
	Manifest bool          // the manifest, whole, with its chunk list
	Blobs    []byte        // whole blobs, with their chunk lists
	Partial  []PartialHave // blobs that are here in part, each once; ManifestBlob may be one of them
}

// PartialHave says which chunks of a large blob are here. The blob's chunk list is here too, even if no chunk is.
type PartialHave struct {
	Blob   uint32 // index of the blob, or ManifestBlob
	Chunks []byte // bitfield over its chunks
}

// Have is one thing that became available.
type Have struct {
	Blob  uint32 // index of the blob, or ManifestBlob
	Chunk int32  // index of the chunk; -1: the whole blob
	List  bool   // only the blob's chunk list became available; Chunk is then -1 and says nothing
}

// Bounds of what a neighbour may say before we know the manifest and can judge it.
const (
	maxEarlyBytes = 1 << 20 // bitfields of one have-map
	maxEarlyHaves = 1 << 16 // single haves that are kept; the news that a blob is whole makes up for those that are not
	maxHaveMaps   = 256     // have-maps from one neighbour
)

// shape is what is known of a release: enough to judge what others claim to hold.
type shape struct {
	manifestSize uint64
	blobs        []manifest.Blob // nil until the manifest is known
	known        bool            // blobs says all
}

// chunks gives an upper bound of how many chunks a blob has, and the number itself when its list is known. It is 0 for a blob
// that has no chunk list, and for one that does not exist.
func (sh *shape) chunks(blob uint32, list *store.ChunkList) (n int, exact bool) {
	if list != nil {
		return len(list.Chunks), true
	}
	size := sh.manifestSize
	if blob != ManifestBlob {
		if int64(blob) >= int64(len(sh.blobs)) || store.IsRaw(sh.blobs[blob].CID) {
			return 0, true
		}
		size = sh.blobs[blob].Size
	}
	return int(min(size, store.MaxBlob)/store.MinChunk) + 1, false
}

// holdings is what one neighbour is believed to hold, made of what it told. What it tells may be nonsense: it is checked
// against the shape of the release, and until that is known kept within bounds.
type holdings struct {
	all      bool
	manifest bool
	blobs    bitset            // whole blobs
	parts    map[uint32]bitset // chunks of large blobs; an entry says that the list is there
	early    *HaveMap          // told before the manifest was known
	haves    []Have            // likewise
	maps     int               // have-maps so far
	wanted   func(uint32) bool // whether the parts of a blob are worth remembering
	list     func(uint32) *store.ChunkList
}

// apply takes a have-map. The error says what is wrong with it; then nothing of it counts.
func (h *holdings) apply(sh *shape, m HaveMap) error {
	if h.maps++; h.maps > maxHaveMaps {
		return fmt.Errorf("more than %d have-maps", maxHaveMaps)
	}
	if m.All {
		*h = holdings{all: true, maps: h.maps, wanted: h.wanted, list: h.list}
		return nil
	}
	if !sh.known {
		if err := boundEarly(m); err != nil {
			return err
		}
		h.applyManifest(sh, m)
		h.early = &m
		return nil
	}
	if want := (len(sh.blobs) + 7) / 8; len(m.Blobs) != 0 && len(m.Blobs) != want {
		return fmt.Errorf("have-map of %d bytes, not %d", len(m.Blobs), want)
	}
	for _, p := range m.Partial {
		n, exact := sh.chunks(p.Blob, h.list(p.Blob))
		if want := (n + 7) / 8; n == 0 || len(p.Chunks) > want || exact && len(p.Chunks) != 0 && len(p.Chunks) != want {
			return fmt.Errorf("have-map of %d bytes for the chunks of blob %d", len(p.Chunks), p.Blob)
		}
	}
	h.applyManifest(sh, m)
	h.blobs = merge(h.blobs, parseField(m.Blobs).trim(len(sh.blobs)))
	for _, p := range m.Partial {
		h.part(sh, p)
	}
	return nil
}

func boundEarly(m HaveMap) error {
	size := len(m.Blobs)
	for _, p := range m.Partial {
		size += len(p.Chunks) + 16
	}
	if size > maxEarlyBytes {
		return fmt.Errorf("have-map of %d bytes before the manifest is known", size)
	}
	return nil
}

// applyManifest takes what can be judged without the manifest.
func (h *holdings) applyManifest(sh *shape, m HaveMap) {
	h.manifest = h.manifest || m.Manifest
	for _, p := range m.Partial {
		if p.Blob == ManifestBlob {
			h.part(sh, p)
		}
	}
}

func (h *holdings) part(sh *shape, p PartialHave) {
	if !h.wanted(p.Blob) {
		return
	}
	n, _ := sh.chunks(p.Blob, h.list(p.Blob))
	if h.parts == nil {
		h.parts = make(map[uint32]bitset)
	}
	h.parts[p.Blob] = merge(h.parts[p.Blob], parseField(p.Chunks).trim(n))
}

// add takes one piece of news. The error says what is wrong with it.
func (h *holdings) add(sh *shape, v Have) error {
	if h.all {
		return nil
	}
	switch {
	case v.Chunk < -1:
		return fmt.Errorf("has chunk %d", v.Chunk)
	case v.Blob == ManifestBlob && v.Chunk < 0 && !v.List:
		h.manifest = true
		return nil
	case v.Blob != ManifestBlob && !sh.known:
		if len(h.haves) < maxEarlyHaves {
			h.haves = append(h.haves, v)
		}
		return nil
	case v.Blob != ManifestBlob && int64(v.Blob) >= int64(len(sh.blobs)):
		return fmt.Errorf("has blob %d of %d", v.Blob, len(sh.blobs))
	case v.Chunk < 0 && !v.List:
		h.blobs = h.blobs.grown(len(sh.blobs))
		h.blobs.set(int(v.Blob))
		delete(h.parts, v.Blob)
		return nil
	}
	return h.addChunk(sh, v)
}

func (h *holdings) addChunk(sh *shape, v Have) error {
	n, _ := sh.chunks(v.Blob, h.list(v.Blob))
	if n == 0 || !v.List && int(v.Chunk) >= n {
		return fmt.Errorf("has chunk %d of blob %d, which has at most %d", v.Chunk, v.Blob, n)
	}
	if !h.wanted(v.Blob) || h.holdsBlob(v.Blob) {
		return nil
	}
	if h.parts == nil {
		h.parts = make(map[uint32]bitset)
	}
	part := h.parts[v.Blob]
	if v.List {
		h.parts[v.Blob] = part // an empty entry still says that the list is there
		return nil
	}
	part = part.grown(n)
	part.set(int(v.Chunk))
	h.parts[v.Blob] = part
	return nil
}

// settle judges what was told early, now that the manifest is known.
func (h *holdings) settle(sh *shape) error {
	early, haves := h.early, h.haves
	h.early, h.haves = nil, nil
	if early != nil {
		if err := h.apply(sh, *early); err != nil {
			return err
		}
	}
	for _, v := range haves {
		if err := h.add(sh, v); err != nil {
			return err
		}
	}
	return nil
}

func (h *holdings) holdsBlob(blob uint32) bool {
	if blob == ManifestBlob {
		return h.all || h.manifest
	}
	return h.all || h.blobs.has(int(blob))
}

func (h *holdings) holdsChunk(blob uint32, chunk int) bool {
	return h.holdsBlob(blob) || h.parts[blob].has(chunk)
}

func (h *holdings) holdsList(blob uint32) bool {
	_, ok := h.parts[blob]
	return ok || h.holdsBlob(blob)
}

// merge is the union; it may change a.
func merge(a, b bitset) bitset {
	a = a.grown(len(b) * 64)
	for w := range b {
		a[w] |= b[w]
	}
	return a
}
