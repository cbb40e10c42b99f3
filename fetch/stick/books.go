package stick

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"

	"satchel/announce"
	"satchel/store"
)

// maxRefused is how many documents of a stick may be false before the rest of them is left: each costs an old machine dear.
const maxRefused = 64

// writeBooks writes what the home knows: its trust roots and what was announced under them, together with what the stick knows of
// both. Chains of other publishers, and what was announced under those, are left as they are. Everything is verified as it is in a
// home, so that garbage on the stick cannot push out what is true.
// It is true when content on the stick may no longer be needed.
func (x *exporter) writeBooks() (superseded bool, err error) {
	cat, err := announce.Restore(x.cfg.Kept)
	if err != nil {
		return false, err
	}
	if cat.Root() == nil {
		return false, errors.New("the home trusts no root")
	}
	var files []rootOnStick
	for _, name := range x.stick.roots {
		if f := x.stick.chain(name); f != nil {
			files = append(files, rootOnStick{name, f})
			for _, step := range f.Steps() {
				cat.AddRoot(step.Envelope()) // only what follows ours is taken
			}
		}
	}
	var old []string // files that are replaced
	var chain *announce.RootFile
	for _, f := range files {
		joined := join(cat, f.chain)
		if joined == nil {
			continue
		}
		old = append(old, f.name)
		if chain == nil || len(joined.Steps()) > len(chain.Steps()) {
			chain = joined
		}
	}
	if chain == nil {
		if chain, err = announce.ParseRootFile(chainBytes(cat, nil)); err != nil {
			return false, err
		}
	}
	ids := map[[20]byte]bool{}
	for _, step := range chain.Steps() {
		ids[step.ID()] = true
	}
	var was []*announce.SignedAnnouncement
	for _, c := range x.stick.catalogs {
		if ids[c.Root] {
			was = append(was, x.learn(cat, c)...)
			old = append(old, c.Name)
		}
	}
	d := documents(cat, chain.Last().ID())
	for _, a := range was {
		newest, _, ok := cat.Latest(a.Product)
		switch {
		case !ok || newest.Manifest == a.Manifest:
		case x.brings(newest.Manifest) || !x.brings(a.Manifest) || len(d.Announcements) >= MaxAnnouncements:
			superseded = true
		default: // of the newer release the stick has only news: the older one is what it can still help with
			d.Announcements = append(d.Announcements, a.Envelope())
		}
	}
	x.res.Products = len(cat.Heads())
	return superseded, x.replaceBooks(d, chain, old)
}

// brings reports whether the stick has the manifest of a release, or has got it now.
func (x *exporter) brings(m cid.Cid) bool {
	return x.stick.Has(store.DigestOf(m)) || slices.ContainsFunc(x.cfg.Releases, func(r Release) bool { return r.Manifest == m })
}

type rootOnStick struct {
	name  string
	chain *announce.RootFile
}

// chain reads a root file; nil when it is none, or its newest version lacks signatures.
func (s *Stick) chain(name string) *announce.RootFile {
	b, err := s.RootFile(name)
	if err != nil {
		return nil
	}
	f, err := announce.ParseRootFile(b)
	if err != nil || f.Verify() != nil {
		return nil
	}
	return f
}

// join puts a catalog's chain behind the older versions that a root file has; nil when the two have nothing to do with each other.
func join(cat *announce.Catalog, f *announce.RootFile) *announce.RootFile {
	joined, err := announce.ParseRootFile(chainBytes(cat, f))
	if err != nil || joined.Verify() != nil {
		return nil
	}
	for _, step := range f.Steps() {
		if slices.ContainsFunc(joined.Steps(), func(s *announce.SignedRoot) bool { return s.ID() == step.ID() }) {
			return joined
		}
	}
	return nil
}

// chainBytes prints a catalog's chain behind what older a root file has, as long as a root file can be.
func chainBytes(cat *announce.Catalog, f *announce.RootFile) []byte {
	var all [][]byte
	chain := cat.RootChain()
	if f != nil {
		for _, step := range f.Steps() {
			if step.Version < chain[0].Version {
				all = append(all, step.Envelope())
			}
		}
	}
	for _, step := range chain {
		all = append(all, step.Envelope)
	}
	return slices.Concat(all[max(0, len(all)-announce.MaxRootSteps):]...)
}

// learn offers the documents of a catalog on the stick to the catalog that is to replace it, and gives what it announced.
func (x *exporter) learn(cat *announce.Catalog, c CatalogFile) (was []*announce.SignedAnnouncement) {
	d, err := x.stick.Documents(c)
	if err != nil {
		return nil // it is replaced
	}
	refused := 0
	for _, env := range d.Announcements {
		if refused >= maxRefused {
			break
		}
		sa, err := announce.ParseAnnouncement(env)
		if err != nil || cat.AddParsed(sa).Verdict == announce.Reject {
			refused++
			continue
		}
		was = append(was, sa)
	}
	for _, env := range d.Timestamps {
		if refused < maxRefused && cat.AddTimestamp(0, env).Verdict == announce.Reject {
			refused++
		}
	}
	return was
}

// replaceBooks writes root file and catalog, and only then removes what they replace.
func (x *exporter) replaceBooks(d *Documents, chain *announce.RootFile, old []string) error {
	name := hex.EncodeToString(d.Root[:8])
	root, catalog := name+".root", name+".catalog"
	x.res.Root = x.stick.join(root)
	if err := x.stick.writeSmall(root, chain.Encode()); err != nil {
		return err
	}
	if err := x.stick.writeSmall(catalog, d.Encode()); err != nil {
		return err
	}
	if err := x.stick.writeSmall("readme.txt", []byte(readme)); err != nil {
		return err
	}
	for _, f := range old {
		if strings.EqualFold(f, root) || strings.EqualFold(f, catalog) {
			continue // on FAT that is the one just written
		}
		if err := x.stick.root.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return syncDir(x.stick.dir)
}

// documents is everything that a catalog can tell others.
func documents(cat *announce.Catalog, root [20]byte) *Documents {
	k := cat.Kept()
	d := &Documents{Root: root, Announcements: k.Announcements}
	for _, e := range k.Evidence {
		d.Announcements = append(d.Announcements, e.A, e.B)
	}
	for _, t := range k.Timestamps {
		d.Timestamps = append(d.Timestamps, t.Envelope)
	}
	return d
}

const readme = "This directory holds signed releases for satchel.\r\n\r\n" +
	"On a machine with satchel, with this stick mounted at DIR:\r\n\r\n" +
	"    satchel import DIR\r\n\r\n" +
	"A machine that trusts nobody yet must first be told whom to trust: check the\r\n" +
	".root file here with its publisher, \"satchel root show FILE\" prints what to\r\n" +
	"compare, then \"satchel trust FILE\".\r\n\r\n" +
	"Nothing here is a program, and nothing here is run. File names do not matter.\r\n"
