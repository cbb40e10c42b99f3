package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

func newConfirmCommand(e *env) *cobra.Command {
	var flags imageFlags
	var unchecked bool
	cmd := &cobra.Command{
		Use:   "confirm",
		Short: "keep the system that this boot tries",
		Long: withExit(`Run the health checks of the system that this machine was started with for a
trial, and keep it when all pass: the executables in health.d of the image
directory and, where the trust root lets the product run something, those in
health.d of the tree. They run without a network. When one fails, the trial is
over, and the next boot starts what was live before. What nobody confirms is left
after a few boots, too. When nothing is on trial, nothing is done.

A boot script calls this late, and reboots when it fails.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example: "  satchel confirm\n  satchel confirm || reboot",
		Args:    exactly(),
	}
	flags.add(cmd)
	cmd.Flags().BoolVar(&unchecked, "unchecked", false, "keep it without running health checks")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := flags.dir(e)
		if err != nil {
			return err
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			res, err := s.ConfirmImage(cmd.Context(), dir, unchecked)
			if err != nil {
				return err
			}
			if *asJSON {
				return e.printJSON(res)
			}
			if res.When == p2p.WhenNothing {
				fmt.Fprintf(e.stdout, "%s: nothing is on trial; %s is live\n", clean(res.Image), releasesWords(res.Releases))
				return nil
			}
			for _, c := range res.Checks {
				fmt.Fprintf(e.stdout, "health check %s passed\n", clean(c.Name))
			}
			fmt.Fprintf(e.stdout, "%s: %s stays\n", clean(res.Image), releasesWords(res.Releases))
			return nil
		})
	}
	return cmd
}
