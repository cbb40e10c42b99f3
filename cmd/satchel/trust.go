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
from now on. Once trusted, only a later version of the same root is taken, which
neighbours also bring by themselves. To replace the trust of this machine by an
unrelated root needs --force. ROOT is a file, or - for the standard input.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse),
		Example: "  satchel trust school.root\n  satchel trust --force other.root",
		Args:    exactly("ROOT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			sr, err := e.readRoot(args[0])
			if err != nil {
				return err
			}
			return e.withNode(cmd.Context(), func(s *session) error {
				if err := s.Trust(cmd.Context(), sr.Envelope(), force); err != nil {
					return err
				}
				var products []string
				for _, p := range sr.Products {
					products = append(products, p.Pattern)
				}
				fmt.Fprintf(e.stdout, "trusting root version %d: %s, products %s\n", sr.Version, count(len(sr.Keys), "key", "keys"),
					clean(strings.Join(products, ", ")))
				return nil
			})
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "replace the root that is trusted now by an unrelated one")
	return cmd
}
