package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"satchel/announce"
)

func newCarryCommand(e *env) *cobra.Command {
	var remove bool
	cmd := &cobra.Command{
		Use:   "carry [PATTERN]",
		Short: "store and pass on products, without an image",
		Long: withExit(`Store and pass on the newest release of every product that matches PATTERN (a
name, "prefix.*" or "*"), without laying it down: this machine is then a mule
for others. Without PATTERN, list what is carried; with --remove, stop carrying
it, after which "satchel prune" gives the space back.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example:           "  satchel carry 'lessons.*'\n  satchel carry\n  satchel carry --remove 'lessons.*'",
		Args:              atMost(1),
		ValidArgsFunction: e.completeProducts,
	}
	cmd.Flags().BoolVar(&remove, "remove", false, "stop carrying PATTERN")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			if remove {
				return badUsage("\"satchel carry\" lists the patterns", "PATTERN is missing")
			}
			return e.withNode(cmd.Context(), func(s *session) error { return e.listCarries(cmd, s, *asJSON) })
		}
		pattern := args[0]
		if err := announce.ValidPattern(pattern); err != nil {
			return badUsage(`a pattern looks like xo-os, lessons.* or *; quote it, so that the shell leaves it alone`, "%w", err)
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			if remove {
				if err := s.Uncarry(cmd.Context(), pattern); err != nil {
					return err
				}
				fmt.Fprintf(e.stdout, "no longer carrying %s\n", pattern)
				return nil
			}
			if err := s.Carry(cmd.Context(), pattern); err != nil {
				return err
			}
			fmt.Fprintf(e.stdout, "carrying %s\n", pattern)
			e.hintUp(s)
			return nil
		})
	}
	return cmd
}

func (e *env) listCarries(cmd *cobra.Command, s *session, asJSON bool) error {
	patterns, err := s.Carries(cmd.Context())
	if err != nil {
		return err
	}
	if asJSON {
		return e.printJSON(struct {
			Patterns []string `json:"patterns"`
		}{append([]string{}, patterns...)})
	}
	for _, p := range patterns {
		fmt.Fprintln(e.stdout, p)
	}
	return nil
}
