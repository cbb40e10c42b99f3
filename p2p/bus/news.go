package bus

import (
	"cmp"

	"satchel/p2p"
)

// Signal is one D-Bus signal of the interface.
type Signal struct {
	Name string // without the interface
	Args []any  // as the interface's XML lists them
}

// The signals.
const (
	releaseFound = "ReleaseFound"
	releaseReady = "ReleaseReady"
	staged       = "Staged"
	activated    = "Activated"
	rolledBack   = "RolledBack"
)

// News lists what happened between two pictures of a node, product by product, each in the order in which it happens. What
// came and went between them is told as far as the later one shows it: a release that is live was found and staged.
func News(before, after *p2p.Status) []Signal {
	was := make(map[string]*p2p.ProductStatus, len(before.Products))
	for i := range before.Products {
		was[before.Products[i].Product] = &before.Products[i]
	}
	var out []Signal
	for i := range after.Products {
		p := &after.Products[i]
		old := was[p.Product]
		if old == nil {
			old = &p2p.ProductStatus{}
		}
		out = append(out, productNews(old, p)...)
	}
	return out
}

func productNews(old, p *p2p.ProductStatus) (out []Signal) {
	tell := func(name string, args ...any) {
		out = append(out, Signal{name, append([]any{text(p.Product, maxName)}, args...)})
	}
	if n := p.Newest; n != nil && (after(n, old.Newest) || same(n, old.Newest) && n.Urgent && !old.Newest.Urgent) {
		tell(releaseFound, text(n.Version, maxName), n.Epoch, n.Seq, n.Urgent)
	}
	if r := p.Ready; r != nil && !same(r, old.Ready) && !same(r, old.Live) {
		tell(staged, text(r.Version, maxName), r.Epoch, r.Seq, text(r.Deployment, maxName))
		tell(releaseReady, text(r.Version, maxName), r.Epoch, r.Seq, same(r, p.Newest) && p.Newest.Urgent)
	}
	l := p.Live
	if l == nil || same(l, old.Live) || old.Live == nil && old.Error != "" { // its image could not be read before
		return out
	}
	if after(l, old.Live) {
		if !same(l, old.Ready) && !same(l, old.Previous) && !same(l, p.Ready) {
			tell(staged, text(l.Version, maxName), l.Epoch, l.Seq, text(l.Deployment, maxName))
		}
		tell(activated, text(l.Version, maxName), l.Epoch, l.Seq)
	} else {
		tell(rolledBack, text(old.Live.Version, maxName), text(l.Version, maxName))
	}
	return out
}

// after reports whether r is newer than old, which may be nil.
func after(r, old *p2p.ReleaseStatus) bool {
	return old == nil || cmp.Or(cmp.Compare(r.Epoch, old.Epoch), cmp.Compare(r.Seq, old.Seq)) > 0
}

// same reports whether both are there and one release.
func same(a, b *p2p.ReleaseStatus) bool {
	return a != nil && b != nil && a.Epoch == b.Epoch && a.Seq == b.Seq
}
