package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newRollbackCommand(e *env) *cobra.Command {
	var flags imageFlags
	cmd := &cobra.Command{
		Use:   "rollback [PRODUCT]",
		Short: "make the previous deployment live again",
		Long: withExit(`Make what was live before live again, in the image that PRODUCT is followed into
or the one that is named. Content is switched at once, by one rename; a system
goes back at the next boot. It needs no network, also days later. What was left
stays ready: "satchel apply" goes back to it.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound),
		Example:           "  satchel rollback lessons\n  satchel -R /mnt/card rollback",
		Args:              atMost(1),
		ValidArgsFunction: e.completeProducts,
	}
	flags.add(cmd)
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := flags.dir(e)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			if dir != "" {
				return badUsage("leave one of them out", "a product and an image are named")
			}
			return e.switchLive(cmd.Context(), args[0], *asJSON, (*session).Rollback)
		}
		return e.rollbackImage(cmd.Context(), dir, *asJSON)
	}
	return cmd
}

func (e *env) rollbackImage(ctx context.Context, dir string, asJSON bool) error {
	return e.withNode(ctx, func(s *session) error {
		res, err := s.RollbackImage(ctx, dir)
		if err != nil {
			return fmt.Errorf("going back: %w", err)
		}
		if asJSON {
			return e.printJSON(res)
		}
		e.printChange(&res)
		return nil
	})
}
