package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
)

func newRootVerifyCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify ROOT",
		Short: "check the signatures of a root file",
		Long: withExit(`Check that a root file is one chain, that each version bears the signatures that
make it follow the one before, and that the last one does too. Otherwise say what
lacks. ROOT is a file, or - for the standard input.`, exitOK, exitFailure, exitUsage, exitRefused, exitNotFound),
		Example: "  satchel root verify school.root",
		Args:    exactly("ROOT"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		f, err := e.readRoot(args[0])
		if err != nil {
			return err
		}
		first, last, lacks := f.Steps()[0].Version, f.Last().Version, f.Verify()
		if *asJSON {
			err = e.printJSON(rootVerified{first, last, lacks == nil, quorumWords(f)})
		} else {
			state := "complete"
			if lacks != nil {
				state = "the last one is a draft"
			}
			fmt.Fprintf(e.stdout, "%s: %s, %s\n", args[0], versionsWords(first, last), state)
			var rows []string
			for _, q := range f.Quorums() {
				rows = append(rows, "signatures\t"+q.String())
			}
			table(e.stdout, rows...)
		}
		switch {
		case err != nil:
			return err
		case lacks != nil:
			return incomplete(args[0], lacks)
		case first > 1 && first == last:
			e.say("warning", fmt.Sprintf("version %d is not in the file: only a machine that trusts it can tell whether version %d follows it", first-1, first))
		}
		return nil
	}
	return cmd
}

func versionsWords(first, last uint64) string {
	if first == last {
		return fmt.Sprintf("version %d", first)
	}
	return fmt.Sprintf("versions %d to %d", first, last)
}

// incomplete is the error about a draft where a complete root is wanted.
func incomplete(file string, lacks error) error {
	return advise(p2p.CodeRefused, fmt.Sprintf("pass it on to those who must sign: satchel root sign %s --key KEY", file), lacks)
}

// rootVerified is "root verify --json".
type rootVerified struct {
	FirstVersion uint64       `json:"first_version"`
	Version      uint64       `json:"version"`
	Complete     bool         `json:"complete"`
	Quorums      []quorumInfo `json:"quorums"`
}

// quorumInfo is how far the last version is with one threshold.
type quorumInfo struct {
	Version   uint64   `json:"version"`
	Keys      []string `json:"keys"`
	Threshold int      `json:"threshold"`
	Signed    []string `json:"signed"`
	False     []string `json:"false"`
	Missing   int      `json:"missing"`
	CanSign   []string `json:"can_sign"`
}

func quorumWords(f *announce.RootFile) (out []quorumInfo) {
	for _, q := range f.Quorums() {
		out = append(out, quorumInfo{q.Version, idStrings(q.Keys), q.Threshold, idStrings(q.Signed), idStrings(q.False), q.Missing(), idStrings(q.CanSign())})
	}
	return out
}
