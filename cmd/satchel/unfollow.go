package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newUnfollowCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "unfollow PRODUCT",
		Short: "stop following a product",
		Long: withExit(`Stop following a product. The image directory stays as it is and is not changed
any more. Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example:           "  satchel unfollow lessons",
		Args:              exactly("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
		RunE: func(cmd *cobra.Command, args []string) error {
			name, err := product(args[0])
			if err != nil {
				return err
			}
			return e.withNode(cmd.Context(), func(s *session) error {
				if err := s.Unfollow(cmd.Context(), name); err != nil {
					return err
				}
				fmt.Fprintf(e.stdout, "no longer following %s\n", name)
				return nil
			})
		},
	}
}
