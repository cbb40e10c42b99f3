package p2p

import (
	"fmt"
	"slices"
	"strings"

	"satchel/announce"
	"satchel/store/image"
	"satchel/store/manifest"
)

// inventory is what is in an image, as far as it counts when two are compared: the number of each product's release, and the
// patches by number. What is for bookkeeping alone is not in it.
type inventory struct {
	releases map[string]image.Release
	patches  map[string]string // six digits → two digits of the revision
}

// takeInventory lists releases and patches; bookkeeping says whether a product is for that alone.
func takeInventory(releases []image.Release, patches []string, bookkeeping func(product string) bool) inventory {
	inv := inventory{releases: map[string]image.Release{}, patches: map[string]string{}}
	for _, r := range releases {
		if !bookkeeping(r.Product) {
			inv.releases[r.Product] = r
		}
	}
	for _, id := range patches {
		number, revision, _ := strings.Cut(id, "-")
		if !manifest.SpecialPatch(id) && revision > inv.patches[number] {
			inv.patches[number] = revision
		}
	}
	return inv
}

// down lists, in words, what of have would be older or gone in next. It is a pure function.
func (have inventory) down(next inventory) (list []string) {
	for product, r := range have.releases {
		n, ok := next.releases[product]
		switch {
		case !ok:
			list = append(list, fmt.Sprintf("%s %s (no release of it is known here)", product, r.Version))
		case newer(r, n):
			list = append(list, fmt.Sprintf("%s %s (epoch %d, seq %d; here epoch %d, seq %d)", product, r.Version, r.Epoch, r.Seq, n.Epoch, n.Seq))
		}
	}
	for number, revision := range have.patches {
		switch now, ok := next.patches[number]; {
		case !ok:
			list = append(list, fmt.Sprintf("patch %s-%s (not in what is here)", number, revision))
		case now < revision:
			list = append(list, fmt.Sprintf("patch %s-%s (here -%s)", number, revision, now))
		}
	}
	slices.Sort(list)
	return list
}

// compare refuses to attach an image of which anything would go down. Nothing is updated then, not even what is older.
func (c *change) compare() error {
	n := c.n
	live, ok := c.p.img.Live()
	if !ok {
		return fail(CodeNotFound, "an image has deployments that satchel laid down", fmt.Errorf("the image %q has no live deployment", c.p.dir))
	}
	var next []image.Release
	var class func(string) bool
	n.do(func() {
		for _, r := range live.Releases {
			if a, _, ok := n.catalog.Latest(r.Product); ok && n.db.complete(a.Manifest) {
				next = append(next, releaseOf(&a))
			}
		}
		root := n.catalog.Root()
		class = func(product string) bool {
			rule, ok := root.Rule(product)
			return ok && rule.Class == announce.ClassBookkeeping
		}
	})
	var patches []string
	for _, r := range next {
		m, err := n.store.Manifest(r.Manifest)
		if err != nil {
			return fmt.Errorf("reading the manifest of %s: %w", r.Product, err)
		}
		patches = append(patches, m.Terms.Patches...)
	}
	have, new := takeInventory(live.Releases, live.Patches, class), takeInventory(next, patches, class)
	if list := have.down(new); len(list) > 0 {
		return fail(CodeOlder, "update this machine first, by its neighbours or a stick, then attach again; nothing was changed",
			fmt.Errorf("attaching %q would make older: %s", c.p.dir, strings.Join(list, "; ")))
	}
	return nil
}
