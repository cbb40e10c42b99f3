package announce

import (
	"slices"
	"strings"
)

// Mark is the highest that was ever accepted of a product in its epoch. It outlives the announcement: when a key is
// taken away, what it signed goes, and nothing below comes back in its place.
type Mark struct {
	Product    string
	Epoch, Seq uint64
	Floor      uint64 // the highest that an announcement of the epoch set
}

// mark notes that sa was accepted.
func (c *Catalog) mark(sa *SignedAnnouncement) {
	m := c.marks[sa.Product]
	if m.Epoch != sa.Epoch {
		m = Mark{Product: sa.Product, Epoch: sa.Epoch}
	}
	m.Seq, m.Floor = max(m.Seq, sa.Seq), max(m.Floor, sa.Floor)
	c.marks[sa.Product] = m
}

// recheckMarks drops those of epochs that are over.
func (c *Catalog) recheckMarks() {
	for product, m := range c.marks {
		if rule, ok := c.Root().Rule(product); ok && rule.Epoch > m.Epoch {
			delete(c.marks, product)
		}
	}
}

// Marks lists the marks, sorted by product.
func (c *Catalog) Marks() []Mark {
	out := make([]Mark, 0, len(c.marks))
	for _, m := range c.marks {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Mark) int { return strings.Compare(a.Product, b.Product) })
	return out
}

// Mark is the mark of a product; zero when nothing of its epoch was ever accepted.
func (c *Catalog) Mark(product string) Mark { return c.marks[product] }
