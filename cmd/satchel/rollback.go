package main

import "github.com/spf13/cobra"

func newRollbackCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rollback PRODUCT",
		Short: "make the previous release live again",
		Long: withExit(`Make the release that was live before live again. The switch is one rename and
needs no network. The release that was left stays ready: "satchel apply" goes
back to it.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example:           "  satchel rollback lessons",
		Args:              exactly("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return e.switchLive(cmd.Context(), args[0], *asJSON, (*session).Rollback)
	}
	return cmd
}
