package main

import (
	"github.com/spf13/cobra"

	"satchel/announce"
)

func newRootAddKeyCommand(e *env) *cobra.Command {
	var to seatFlags
	var threshold int
	cmd := &cobra.Command{
		Use:   "add-key ROOT KEY... [--role ROLE]... [--product PATTERN]... [--threshold N]",
		Short: "let keys fill a role or publish products",
		Long: withExit(`Let keys fill a role, or publish the products of a PATTERN. KEY is a key file,
better the public one, or the beginning of the id of a key that the root has. A
PATTERN that the root does not have yet becomes a rule of its own, for these keys
alone: content, without any "may", with threshold 1. Since the longest pattern that
fits a product counts, a teacher who owns lessons.5b.* owns just that, and nobody
else does.

Begins a draft of the next version, or changes the draft that is there.`, exitOK, exitFailure, exitUsage, exitRefused, exitNotFound),
		Example: `  satchel root add-key school.root dora.key.pub --product 'lessons.5b.*'
  satchel root add-key school.root eve.key.pub --role root --threshold 3
  satchel root add-key school.root server.key.pub --role timestamp`,
		Args: atLeast("ROOT", "KEY"),
	}
	to.add(cmd)
	cmd.Flags().IntVar(&threshold, "threshold", 0, "how many `N` of the keys must sign from now on (default as before; 1 for a new rule)")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		seats, err := to.seats()
		if err != nil {
			return err
		}
		if len(seats) == 0 {
			return badUsage("give --product PATTERN for who publishes, or --role root, timestamp or wake", "it is not said what the key may do")
		}
		return e.editRoot(args[0], func(f *announce.RootFile, next *announce.Root) error {
			for _, arg := range args[1:] {
				key, err := namedKey(f, arg)
				if err != nil {
					return err
				}
				for _, s := range seats {
					next.AddKey(key, s)
				}
			}
			for _, s := range seats {
				if cmd.Flags().Changed("threshold") {
					if err := setThreshold(args[0], next, s, threshold); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return cmd
}
