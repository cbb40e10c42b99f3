package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newPruneCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "give space back",
		Long: withExit(`Remove what nothing here needs any more: old deployments of images and content
of releases that are not the newest, live, previous, ready or being fetched. Of
what was published from this home the last three stay, so that "satchel recall"
can go back to them.

Works with and without a running node; not while a publish is under way.`, exitOK, exitFailure, exitUsage, exitInUse),
		Example:           "  satchel prune",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return e.withNode(cmd.Context(), func(s *session) error {
			res, err := s.Prune(cmd.Context())
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
