package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ipfs/go-cid"

	"satchel/fetch"
	"satchel/store"
	"satchel/store/image"
	"satchel/store/manifest"
)

// VerifyProgress is how far Verify is.
type VerifyProgress struct {
	Done  int    `json:"done"`
	Total int    `json:"total"`
	Bytes uint64 `json:"bytes"`
	What  string `json:"what"` // store, repair or the image directory
}

// VerifyResult is what Verify found.
type VerifyResult struct {
	Blobs    int      `json:"blobs"`
	Files    int      `json:"files"`
	Bytes    uint64   `json:"bytes"`
	Damaged  int      `json:"damaged"`
	Repaired int      `json:"repaired"`
	Problems []string `json:"problems"` // what is still wrong
}

// repairPatience is how long Verify waits for neighbours to give back what is damaged here.
const repairPatience = 2 * time.Minute

// Verify hashes the whole store and every live tree again. Damaged blobs are set aside and fetched anew from
// neighbours when the node runs; damaged files of live trees are replaced by good ones.
func (n *Node) Verify(ctx context.Context, progress func(VerifyProgress)) (res VerifyResult, err error) {
	if progress == nil {
		progress = func(VerifyProgress) {}
	}
	res.Problems = []string{}
	bad, err := n.store.Verify(ctx, func(p store.VerifyProgress) {
		res.Blobs, res.Bytes = p.Blobs, p.Bytes
		progress(VerifyProgress{Done: p.Blobs, Total: p.TotalBlobs, Bytes: p.Bytes, What: "store"})
	})
	if err != nil {
		return res, fmt.Errorf("verifying the store: %w", err)
	}
	bad = append(bad, n.missing(bad)...)
	res.Damaged = len(bad)
	if len(bad) > 0 {
		n.refetch(ctx, bad, progress)
		for _, c := range bad {
			if n.store.Has(c) {
				res.Repaired++
			} else {
				res.Problems = append(res.Problems, fmt.Sprintf("blob %s is damaged and no neighbour has given it back", c))
			}
		}
	}
	var images []*place
	n.do(func() {
		for _, p := range n.places {
			if p.img != nil {
				n.use(p)
				images = append(images, p)
			}
		}
	})
	defer n.do(func() {
		for _, p := range images {
			n.unuse(p)
		}
	})
	for _, p := range images {
		if d, ok := p.img.Live(); ok {
			if err := n.verifyTree(ctx, p.img, d, &res, progress); err != nil {
				return res, fmt.Errorf("verifying the live tree of %s: %w", p.dir, err)
			}
		}
	}
	n.do(n.touch)
	if len(res.Problems) > 0 {
		return res, fail(CodeCorrupt, `run "satchel verify" again while the node runs and a neighbour has the release`,
			fmt.Errorf("%d things are damaged and not repaired", len(res.Problems)))
	}
	return res, nil
}

// missing lists what releases that are called complete name and the store does not have, besides what is in bad.
func (n *Node) missing(bad []cid.Cid) (gone []cid.Cid) {
	seen := map[cid.Cid]bool{}
	for _, c := range bad {
		seen[c] = true
	}
	add := func(c cid.Cid) {
		if !seen[c] {
			seen[c] = true
			gone = append(gone, c)
		}
	}
	for _, c := range n.completes() {
		m, err := n.store.Manifest(c)
		if err != nil {
			add(c)
			continue
		}
		for _, b := range m.Blobs() {
			if !n.store.Has(b.CID) {
				add(b.CID)
			}
		}
	}
	return gone
}

// completes lists the manifests of which everything is said to be here.
func (n *Node) completes() (all []cid.Cid) {
	n.db.all("complete", func(text string, _ []byte) {
		if c, err := cid.Decode(text); err == nil {
			all = append(all, c)
		}
	})
	return all
}

// refetch marks the releases that name damaged blobs as incomplete and waits until they are whole again.
func (n *Node) refetch(ctx context.Context, bad []cid.Cid, progress func(VerifyProgress)) {
	ctx, cancel := context.WithTimeout(ctx, repairPatience)
	defer cancel()
	damaged := map[cid.Cid]bool{}
	for _, c := range bad {
		damaged[c] = true
	}
	running := false
	repairs := make(map[cid.Cid]bool)
	n.do(func() {
		running = n.net != nil
		hurt := n.hurt(damaged)
		n.advanceAll() // fetches what is the newest of its product
		for m, r := range hurt {
			if running && r != nil && n.sessions[m] == nil {
				repairs[m] = true
				n.mend(ctx, *r, func() { delete(repairs, m); n.advanceAll() })
			}
		}
	})
	for running {
		changed := n.Changed()
		left := 0
		for _, c := range bad {
			if !n.store.Has(c) {
				left++
			}
		}
		progress(VerifyProgress{Done: len(bad) - left, Total: len(bad), What: "repair"})
		busy := false
		n.do(func() {
			busy = len(repairs) > 0
			for _, l := range n.lines {
				busy = busy || l.job != nil
			}
			for _, p := range n.places {
				busy = busy || p.job != nil
			}
			n.touch()
		})
		if left == 0 || !busy {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-n.ended:
			return
		}
	}
}

// hurt marks every release that names a damaged blob as incomplete and returns them; nil for one whose manifest
// is damaged itself, which only its announcement can bring back.
func (n *Node) hurt(damaged map[cid.Cid]bool) map[cid.Cid]*fetch.Release {
	hurt := map[cid.Cid]*fetch.Release{}
	for _, c := range n.completes() {
		m, err := n.store.Manifest(c)
		if err != nil || slices.ContainsFunc(m.Blobs(), func(b manifest.Blob) bool { return damaged[b.CID] }) {
			hurt[c] = n.mendable(c)
			n.db.setComplete(c, false)
		}
	}
	return hurt
}

// mendable is what a fetch must know of a release whose manifest is here; nil when the manifest is damaged itself.
func (n *Node) mendable(c cid.Cid) *fetch.Release {
	m, err := n.store.Manifest(c)
	if err != nil {
		return nil
	}
	f, size, err := n.store.OpenBlob(c)
	if err != nil {
		return nil
	}
	f.Close()
	return &fetch.Release{Product: m.Product, Epoch: m.Epoch, Seq: m.Seq, Manifest: c, ManifestSize: uint64(size), TotalSize: m.TotalSize()}
}

// mend fetches what is missing of a release that is not the newest of its product: the live one after a roll
// back, say. done runs on the node's goroutine.
func (n *Node) mend(ctx context.Context, r fetch.Release, done func()) {
	s := n.beginSession(r, nil)
	n.spawn(func(net context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(net, cancel)()
		err := s.Run(ctx)
		n.do(func() {
			n.endSession(r.Manifest, err)
			done()
			n.touch()
		})
	})
}

func (n *Node) verifyTree(ctx context.Context, img *image.Image, d image.Deployment, res *VerifyResult, progress func(VerifyProgress)) error {
	files := 0
	problems, err := img.Verify(ctx, d.ID, n.store, func(done, total int) {
		files = total
		progress(VerifyProgress{Done: done, Total: total, What: img.Tree(d.ID)})
	})
	if errors.Is(err, store.ErrNotFound) {
		res.Problems = append(res.Problems, fmt.Sprintf("manifest of %s is not in the store", d.ID))
		return nil
	}
	if err != nil {
		return err
	}
	res.Files += files
	if len(problems) == 0 {
		return nil
	}
	res.Damaged += len(problems)
	if err := img.Repair(ctx, d.ID, n.store, problems); err != nil {
		res.Problems = append(res.Problems, fmt.Sprintf("%s: %v", d.ID, err))
	}
	left, err := img.Verify(ctx, d.ID, n.store, nil)
	if err != nil {
		return err
	}
	res.Repaired += len(problems) - len(left)
	for _, p := range left {
		res.Problems = append(res.Problems, fmt.Sprintf("%s: %s: %s", d.ID, p.Path, p.What))
	}
	return nil
}
