package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/ipfs/go-cid"
	"github.com/spf13/cobra"

	"satchel/p2p"
	"satchel/store"
	"satchel/store/manifest"
)

// noTerms is what a person gives to a flag below for none, in place of what the release before had.
const noTerms = "none"

// termFlags are the flags of publish that say how machines keep a release.
type termFlags struct {
	config, state, patches []string
	helper                 string
	given                  func(flag string) bool
}

func (t *termFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&t.config, "config", nil, "`PATH` in the tree that people change: merged into the next deployment")
	f.StringArrayVar(&t.state, "state", nil, "`PATH` of a directory whose content is each machine's own: never touched")
	f.StringArrayVar(&t.patches, "patch", nil, "`ID` NNNNNN-RR of a patch that the release contains")
	f.StringVar(&t.helper, "helper", "", "`PATH` in the tree of a static program that activates it in place of an older satchel")
	t.given = f.Changed
}

// terms are those of the flags; a kind that has no flag is as in old, the release before, which the result says.
func (t *termFlags) terms(old manifest.Terms) (out manifest.Terms, kept []string, err error) {
	for _, kind := range []struct {
		flag   string
		values []string
		old    []string
		out    *[]string
		clean  func(string) string
	}{
		{"config", t.config, old.Config, &out.Config, cleanTreePath},
		{"state", t.state, old.State, &out.State, cleanTreePath},
		{"patch", t.patches, old.Patches, &out.Patches, strings.TrimSpace},
		{"helper", []string{t.helper}, oneOrNone(old.Helper), nil, cleanTreePath},
	} {
		values := kind.old
		if t.given(kind.flag) {
			values = nil
			for _, v := range kind.values {
				if v != noTerms {
					values = append(values, kind.clean(v))
				}
			}
		} else if len(values) > 0 {
			kept = append(kept, kind.flag+" "+strings.Join(values, ", "))
		}
		if kind.out != nil {
			*kind.out = values
		} else if len(values) > 0 {
			out.Helper = values[0]
		}
	}
	slices.SortFunc(out.Config, manifest.Compare)
	slices.SortFunc(out.State, manifest.Compare)
	slices.Sort(out.Patches)
	h := manifest.Header{Product: "x", Terms: out}
	if err := manifest.CheckHeader(&h); err != nil {
		return out, nil, badUsage(`paths are relative to the tree, as etc/app.conf, and no path is below another; "none" is for none`, "%w", err)
	}
	return out, kept, nil
}

func oneOrNone(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// cleanTreePath takes the slash away that completion leaves behind a directory, and a leading "./".
func cleanTreePath(p string) string {
	if p == "" {
		return p
	}
	return path.Clean(p)
}

// termsNow finds the terms of a release that is being published.
func (e *env) termsNow(s *session, p *publishing, next p2p.NextRelease) (manifest.Terms, error) {
	old, err := termsBefore(s.home, next.Manifest)
	if err != nil {
		return old, err
	}
	terms, kept, err := p.termFlags.terms(old)
	if err == nil && len(kept) > 0 {
		e.say("hint", fmt.Sprintf("as in the release before: %s; a flag changes it, with %q for none", clean(strings.Join(kept, "; ")), noTerms))
	}
	return terms, err
}

// termsBefore are those of a manifest in the home's store; none when it is not there.
func termsBefore(home, text string) (manifest.Terms, error) {
	var none manifest.Terms
	c, err := cid.Decode(text)
	if err != nil { // there is no release before
		return none, nil
	}
	st, err := store.Open(storeDir(home))
	if err != nil {
		return none, fmt.Errorf("opening the store: %w", err)
	}
	defer st.Close()
	m, err := st.Manifest(c)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, os.ErrNotExist):
		return none, nil
	case err != nil:
		return none, fmt.Errorf("reading the release before: %w", err)
	}
	return m.Terms, nil
}
