// Package controltest has a node in memory: it keeps what it is told, moves no bytes and touches no disk. It is for tests of what
// speaks to a node.
package controltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"satchel/p2p"
	"satchel/store/manifest"
)

// Node is a node in memory; the zero value is empty and ready. It is safe for concurrent use.
type Node struct {
	mu       sync.Mutex
	status   p2p.Status
	carries  []string
	changed  chan struct{}
	lists    map[string]*manifest.Manifest
	releases [][]byte
	verify   []p2p.VerifyProgress
}

// change runs f and tells those who wait for a change.
func (n *Node) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	if n.changed != nil {
		close(n.changed)
		n.changed = nil
	}
}

// product finds or makes a product. The caller holds mu.
func (n *Node) product(name string) *p2p.ProductStatus {
	i := slices.IndexFunc(n.status.Products, func(p p2p.ProductStatus) bool { return p.Product == name })
	if i < 0 {
		n.status.Products = append(n.status.Products, p2p.ProductStatus{Product: name, State: p2p.StateNone})
		i = len(n.status.Products) - 1
	}
	return &n.status.Products[i]
}

// Set changes the status, as news from the network would.
func (n *Node) Set(f func(*p2p.Status)) { n.change(func() { f(&n.status) }) }

// SetProduct changes one product.
func (n *Node) SetProduct(name string, f func(*p2p.ProductStatus)) {
	n.change(func() { f(n.product(name)) })
}

// SetManifest makes a list of entries known.
func (n *Node) SetManifest(m *manifest.Manifest) {
	n.change(func() {
		if n.lists == nil {
			n.lists = map[string]*manifest.Manifest{}
		}
		n.lists[m.Product] = m
	})
}

// SetVerify says which steps a verification takes.
func (n *Node) SetVerify(steps ...p2p.VerifyProgress) { n.change(func() { n.verify = steps }) }

// Announced lists the envelopes that Announce took.
func (n *Node) Announced() [][]byte {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.releases)
}

// Status is a copy of what was set.
func (n *Node) Status() p2p.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.status
	st.Products = slices.Clone(st.Products)
	return st
}

// Changed gives a channel that the next change closes.
func (n *Node) Changed() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.changed == nil {
		n.changed = make(chan struct{})
	}
	return n.changed
}

// Trust takes any root but an empty one; a second one only by force.
func (n *Node) Trust(root []byte, force bool) error {
	if len(root) == 0 {
		return fail(p2p.CodeRefused, "ask the publisher for it", "reading the trust root: it is empty")
	}
	n.mu.Lock()
	again := n.status.Root.Version > 0 && !force
	n.mu.Unlock()
	if again {
		return fail(p2p.CodeRefused, "use --force", "trusting a root of another chain")
	}
	n.Set(func(st *p2p.Status) { st.Root = p2p.RootStatus{Version: 1, Keys: 1, Products: []string{"*"}} })
	return nil
}

// Follow marks a product as followed.
func (n *Node) Follow(product, dir string) error {
	n.SetProduct(product, func(p *p2p.ProductStatus) { p.Followed, p.Image = true, dir })
	return nil
}

// Unfollow wants a product that is followed.
func (n *Node) Unfollow(product string) error {
	err := fail(p2p.CodeNotFound, "", "not following "+product)
	n.SetProduct(product, func(p *p2p.ProductStatus) {
		if p.Followed {
			p.Followed, p.Image, err = false, "", nil
		}
	})
	return err
}

// Carry keeps a pattern.
func (n *Node) Carry(pattern string) error {
	n.change(func() { n.carries = slices.Compact(slices.Sorted(slices.Values(append(n.carries, pattern)))) })
	return nil
}

// Uncarry wants a pattern that is carried.
func (n *Node) Uncarry(pattern string) error {
	err := fail(p2p.CodeNotFound, "", "not carrying "+pattern)
	n.change(func() {
		if i := slices.Index(n.carries, pattern); i >= 0 {
			n.carries, err = slices.Delete(n.carries, i, i+1), nil
		}
	})
	return err
}

// Carries lists the patterns.
func (n *Node) Carries() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.carries)
}

// Next counts from the newest release that was set.
func (n *Node) Next(product string) (p2p.NextRelease, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.status.Root.Version == 0 {
		return p2p.NextRelease{}, fail(p2p.CodeNoRoot, "satchel trust ROOT", "asking for the next release: no trust root")
	}
	next := p2p.NextRelease{RootVersion: n.status.Root.Version, Epoch: 1, Seq: 1, Keys: []string{"0123456789abcdef"}, Threshold: 1}
	if r := n.product(product).Newest; r != nil {
		next.Seq = r.Seq + 1
	}
	return next, nil
}

// Announce keeps an envelope.
func (n *Node) Announce(envelope []byte) error {
	n.change(func() { n.releases = append(n.releases, slices.Clone(envelope)) })
	return nil
}

// Past knows no release.
func (n *Node) Past(product string, epoch, seq uint64) (p2p.PastRelease, error) {
	return p2p.PastRelease{}, fail(p2p.CodeNotFound, "", fmt.Sprintf("no content of %s seq %d", product, seq))
}

// NextTimestamp wants a trust root.
func (n *Node) NextTimestamp() (p2p.NextTimestamp, error) {
	if n.Status().Root.Version == 0 {
		return p2p.NextTimestamp{}, fail(p2p.CodeNoRoot, "", "no trust root")
	}
	return p2p.NextTimestamp{RootVersion: 1, Threshold: 1}, nil
}

// AddTimestamp takes anything but nothing.
func (n *Node) AddTimestamp(envelope []byte) error {
	if len(envelope) == 0 {
		return fail(p2p.CodeRefused, "", "timestamp refused")
	}
	return nil
}

// Wait waits for SetProduct to bring the state.
func (n *Node) Wait(ctx context.Context, product string, seq uint64, state string) (p2p.ProductStatus, error) {
	for {
		changed := n.Changed()
		n.mu.Lock()
		p := *n.product(product)
		n.mu.Unlock()
		if p.State == state && (seq == 0 || p.Newest != nil && p.Newest.Seq >= seq) {
			return p, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return p, ctx.Err()
		}
	}
}

// Apply makes Ready live.
func (n *Node) Apply(ctx context.Context, product string) (p2p.ReleaseStatus, error) {
	var out p2p.ReleaseStatus
	err := fail(p2p.CodeNotReady, "wait for it", "applying: nothing is ready")
	n.SetProduct(product, func(p *p2p.ProductStatus) {
		if p.Ready != nil {
			p.Previous, p.Live, p.Ready, p.State = p.Live, p.Ready, nil, p2p.StateActive
			out, err = *p.Live, nil
		}
	})
	return out, err
}

// Rollback makes Previous live.
func (n *Node) Rollback(ctx context.Context, product string) (p2p.ReleaseStatus, error) {
	var out p2p.ReleaseStatus
	err := fail(p2p.CodeNotReady, "", "rolling back: nothing to go back to")
	n.SetProduct(product, func(p *p2p.ProductStatus) {
		if p.Previous != nil {
			p.Previous, p.Live, p.State = p.Live, p.Previous, p2p.StateReady
			out, err = *p.Live, nil
		}
	})
	return out, err
}

// Manifest gives what SetManifest set.
func (n *Node) Manifest(product string, seq uint64) (*manifest.Manifest, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := n.lists[product]
	if m == nil || seq != 0 && m.Seq != seq {
		return nil, fail(p2p.CodeNotFound, "", fmt.Sprintf("looking for %s: not here", product))
	}
	return m, nil
}

// Verify takes the steps of SetVerify.
func (n *Node) Verify(ctx context.Context, progress func(p2p.VerifyProgress)) (p2p.VerifyResult, error) {
	n.mu.Lock()
	steps := slices.Clone(n.verify)
	n.mu.Unlock()
	res := p2p.VerifyResult{Blobs: len(steps)}
	for _, s := range steps {
		if err := ctx.Err(); err != nil {
			return res, err
		}
		progress(s)
		res.Bytes += s.Bytes
	}
	return res, nil
}

// Prune finds one blob too many.
func (n *Node) Prune(ctx context.Context, _ p2p.PrunePolicy) (p2p.PruneResult, error) {
	return p2p.PruneResult{Blobs: 1, Bytes: 1000}, ctx.Err()
}

// Explain knows the products that were set.
func (n *Node) Explain(product string) ([]string, error) {
	if product == "" {
		return []string{"This node lives in memory."}, nil
	}
	if slices.ContainsFunc(n.Status().Products, func(p p2p.ProductStatus) bool { return p.Product == product }) {
		return []string{product + " is in memory."}, nil
	}
	return nil, fail(p2p.CodeNotFound, "", "nothing is known of "+product)
}

func fail(code, hint, text string) error {
	return &p2p.Error{Code: code, Hint: hint, Err: errors.New(text)}
}
