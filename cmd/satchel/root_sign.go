package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
)

func newRootSignCommand(e *env) *cobra.Command {
	var keyFiles, others []string
	cmd := &cobra.Command{
		Use:   "sign ROOT [--key FILE]... [--merge OTHER]...",
		Short: "sign the draft of a trust root",
		Long: withExit(`Sign the last version of a root file, in place. Look at it first, with "satchel
root show": whoever signs lets others do what it says. It says whose signatures
still lack; when none does, what to do next.

--merge takes over the signatures of another copy of the same draft, so that
people can sign at the same time and one of them puts all together.`, exitOK, exitFailure, exitUsage, exitRefused, exitNotFound),
		Example: `  satchel root show school.root && satchel root sign school.root --key bo.key
  satchel root sign school.root --merge from-chi.root
  satchel root sign school.root --key bo.key --merge from-chi.root --merge from-dov.root`,
		Args: exactly("ROOT"),
	}
	cmd.Flags().StringArrayVar(&keyFiles, "key", nil, "private key `FILE` that signs; may be repeated")
	cmd.Flags().StringArrayVar(&others, "merge", nil, "root `FILE` with signatures of the same draft; may be repeated")
	cmd.MarkFlagFilename("merge")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(keyFiles)+len(others) == 0 {
			return badUsage("give --key FILE to sign, or --merge OTHER to take over signatures", "it is not said who signs")
		}
		f, err := e.readRootToWrite(args[0])
		if err != nil {
			return err
		}
		before := f.Encode()
		for _, other := range others {
			if err := e.mergeRoot(args[0], f, other); err != nil {
				return err
			}
		}
		if err := e.signRoot(args[0], f, keyFiles); err != nil {
			return err
		}
		if bytes.Equal(f.Encode(), before) {
			fmt.Fprintf(e.stdout, "%s: these signatures are there already\n", args[0])
		} else if err := replaceFile(args[0], f.Encode()); err != nil {
			return err
		}
		e.warnIssued(f.Last(), time.Now())
		e.sayDraft(args[0], f)
		return nil
	}
	return cmd
}

// mergeRoot takes over the signatures of another file.
func (e *env) mergeRoot(file string, f *announce.RootFile, other string) error {
	o, err := e.readRoot(other)
	if err != nil {
		return err
	}
	added, err := f.Merge(o)
	if err != nil {
		return advise(p2p.CodeRefused, fmt.Sprintf("compare them: satchel root show %s; satchel root show %s", file, other), fmt.Errorf("%s and %s: %w", file, other, err))
	}
	if len(added) == 0 {
		fmt.Fprintf(e.stdout, "%s has no signature that %s lacks\n", other, file)
		return nil
	}
	fmt.Fprintf(e.stdout, "from %s: signed by %s\n", other, strings.Join(idStrings(added), ", "))
	return nil
}

// signRoot signs with the keys of files.
func (e *env) signRoot(file string, f *announce.RootFile, keyFiles []string) error {
	for _, name := range keyFiles {
		key, err := e.readKey(name)
		if err != nil {
			return err
		}
		if err := f.Sign(key); err != nil {
			var can []string
			for _, q := range f.Quorums() {
				can = append(can, idStrings(q.CanSign())...)
			}
			slices.Sort(can)
			hint := "those that can still sign are " + strings.Join(slices.Compact(can), ", ")
			if len(can) == 0 {
				hint = "nothing lacks: " + file + " is complete"
			}
			return advise(p2p.CodeRefused, hint, err)
		}
		fmt.Fprintf(e.stdout, "signed by %s\n", key.Public().ID())
	}
	return nil
}
