package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

func newVerifyCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "hash everything again, and repair it",
		Long: withExit(`Hash the whole store and every live tree again. What is damaged is replaced:
files of a live tree from the store, content of the store from neighbours, for
which the node must run. What is in a live tree and not in its release is
removed. Damage that remains is listed and is a failure.`, exitOK, exitFailure, exitUsage, exitInUse),
		Example:           "  satchel verify\n  satchel verify --json",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return e.withNode(cmd.Context(), func(s *session) error {
			line := e.progressLine()
			res, err := s.Verify(cmd.Context(), func(p p2p.VerifyProgress) {
				line.show("verifying %s: %d of %d, %s", clean(p.What), p.Done, p.Total, size(p.Bytes))
			})
			line.clear()
			if err != nil && p2p.CodeOf(err) != p2p.CodeCorrupt {
				return err
			}
			if *asJSON {
				res.Problems = append([]string{}, res.Problems...)
				if err := e.printJSON(res); err != nil {
					return err
				}
			} else {
				e.printVerified(res)
			}
			if err != nil && !s.Running() {
				err = advise(p2p.CodeCorrupt, "start the node with \"satchel up\" and verify again: neighbours may have what is damaged here", err)
			}
			return err
		})
	}
	return cmd
}

func (e *env) printVerified(res p2p.VerifyResult) {
	text := fmt.Sprintf("%s (%s) and %s of live trees hashed", count(res.Blobs, "blob", "blobs"), size(res.Bytes), count(res.Files, "entry", "entries"))
	if res.Damaged == 0 {
		fmt.Fprintln(e.stdout, text+": all are whole")
		return
	}
	fmt.Fprintf(e.stdout, "%s: %d damaged, %d repaired\n", text, res.Damaged, res.Repaired)
	for _, p := range res.Problems {
		fmt.Fprintln(e.stdout, clean(p))
	}
}
