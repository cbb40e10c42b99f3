package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

func newPruneCommand(e *env) *cobra.Command {
	policy := p2p.UsualPrune
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "give space back",
		Long: withExit(`Remove what nothing here needs any more: old deployments of images and content
of releases that are not the newest, live, previous, ready or being fetched. The
last two deployments of each image stay, or what --keep and --days say, and those
that are live, tried, gone back to or pinned. Of what was published from this home
the last three stay, so that "satchel recall" can go back to them.

Works with and without a running node; not while a publish is under way.`, exitOK, exitFailure, exitUsage, exitInUse),
		Example:           "  satchel prune\n  satchel prune --keep 0\n  satchel prune --keep 1 --days 30",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().IntVar(&policy.Last, "keep", policy.Last, "keep the `N` deployments of each image that were laid down last")
	cmd.Flags().IntVar(&policy.Days, "days", 0, "also keep those laid down in the last `N` days")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if policy.Last < 0 || policy.Days < 0 {
			return badUsage("give numbers from 0 on", "--keep and --days cannot be negative")
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			res, err := s.Prune(cmd.Context(), policy)
			if err != nil {
				return err
			}
			if *asJSON {
				res.Deployments = append([]string{}, res.Deployments...)
				return e.printJSON(res)
			}
			fmt.Fprintf(e.stdout, "removed %s (%s) and %s\n", count(res.Blobs, "blob", "blobs"), size(res.Bytes),
				count(len(res.Deployments), "deployment", "deployments"))
			return nil
		})
	}
	return cmd
}
