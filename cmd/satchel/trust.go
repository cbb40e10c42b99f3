package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newTrustCommand(e *env) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "trust ROOT",
		Short: "trust a publisher",
		Long: withExit(`Make this machine believe a trust root: releases that its keys signed are taken
from now on. ROOT is a root file, or - for the standard input; the last version in
it must bear all its signatures. Once a root is trusted, only a later version of it
is taken, which neighbours also bring by themselves: it is enough to do this on one
machine of the mesh. To go on from an older version, the file must have the versions
between; "satchel root" keeps them all in it.

A file that tells another story about a version that is trusted here is refused.
To replace the trust of this machine by an unrelated root, or by a story that was
rewritten, needs --force.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound),
		Example: "  satchel trust school.root\n  satchel trust --force other.root",
		Args:    exactly("ROOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := e.readRoot(args[0])
			if err != nil {
				return err
			}
			if lacks := f.Verify(); lacks != nil {
				return incomplete(args[0], fmt.Errorf("%s is a draft: %w", args[0], lacks))
			}
			return e.withNode(cmd.Context(), func(s *session) error {
				if err := s.Trust(cmd.Context(), f.Encode(), force); err != nil {
					return err
				}
				sr, chain, products := f.Last(), "", []string{}
				if steps := f.Steps(); len(steps) > 1 {
					chain = fmt.Sprintf(", with all versions from %d on", steps[0].Version)
				}
				for _, p := range sr.Products {
					products = append(products, p.Pattern)
				}
				fmt.Fprintf(e.stdout, "trusting root version %d: %s, products %s%s\n", sr.Version, count(len(sr.Keys), "key", "keys"),
					clean(strings.Join(products, ", ")), chain)
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace the root that is trusted now by an unrelated one")
	return cmd
}
