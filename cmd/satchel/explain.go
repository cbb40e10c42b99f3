package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newExplainCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [PRODUCT]",
		Short: "say in words why this machine is, or is not, on the newest release",
		Long: withExit(`Say in words why this machine is, or is not, on the newest release of a product;
without PRODUCT, how this machine stands. Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example:           "  satchel explain lessons\n  satchel explain",
		Args:              atMost(1),
		ValidArgsFunction: e.completeProducts,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name := ""
		if len(args) > 0 {
			var err error
			if name, err = product(args[0]); err != nil {
				return err
			}
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			sentences, err := s.Explain(cmd.Context(), name)
			if err != nil {
				return err
			}
			if *asJSON {
				return e.printJSON(struct {
					Product   string   `json:"product"`
					Sentences []string `json:"sentences"`
				}{name, append([]string{}, sentences...)})
			}
			for _, text := range sentences {
				fmt.Fprintln(e.stdout, clean(text))
			}
			return nil
		})
	}
	return cmd
}
