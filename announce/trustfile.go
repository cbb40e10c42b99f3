package announce

import (
	"fmt"
	"slices"
)

// TrustFile takes a root file on a person's word. While nothing is trusted, its first version is, and the chain is
// followed to the last. Later the file must go on from the chain here; what is here already is no error. force
// replaces the whole chain by the file's. On an error nothing is changed.
func (c *Catalog) TrustFile(data []byte, force bool) error {
	f, err := ParseRootFile(data)
	if err != nil {
		return err
	}
	if err := f.Verify(); err != nil {
		return err
	}
	if force || len(c.chain) == 0 {
		c.chain, c.rival = f.steps, nil
		clear(c.marks)
		c.recheck()
		return nil
	}
	chain, err := c.continued(f)
	if err != nil || len(chain) == len(c.chain) {
		return err
	}
	c.chain, c.rival = chain, nil
	c.recheck()
	return nil
}

// continued is the chain here and what the file adds to it.
func (c *Catalog) continued(f *RootFile) ([]*SignedRoot, error) {
	chain, shared := slices.Clone(c.chain), false
	first, newest := c.chain[0].Version, c.RootVersion()
	for _, sr := range f.steps {
		switch {
		case sr.Version < first: // not known here
		case sr.Version > newest:
			if err := VerifyRotation(&chain[len(chain)-1].Root, sr); err != nil {
				return nil, err
			}
			chain = append(chain, sr)
		case sr.ID() == c.chain[sr.Version-first].ID():
			shared = true
		case shared:
			return nil, fmt.Errorf("the history of this trust root was rewritten: its version %d is not the version %d that is trusted here", sr.Version, sr.Version)
		default:
			return nil, fmt.Errorf("this is another trust root, not a newer version of the one that is trusted here (version %d)", newest)
		}
	}
	switch last := f.Last().Version; {
	case last >= newest:
		return chain, nil
	case shared:
		return nil, fmt.Errorf("trust root version %d is older than version %d, which is trusted already", last, newest)
	}
	return nil, fmt.Errorf("this is another trust root, not a newer version of the one that is trusted here (version %d)", newest)
}
