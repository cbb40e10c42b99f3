package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

func newImportCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "take releases from a USB stick",
		Long: withExit(`Take what the stick that is mounted at DIR has for this home: newer trust roots
and announcements, and the content of everything that is followed or carried
here. It ends when all of it is ready, as after a fetch from neighbours, or when
the stick has nothing more; what came is kept, and another import, another stick
or neighbours go on from there. Neighbours help meanwhile when a node runs.

Nothing on a stick is believed, and nothing on it is run: only what the trusted
publisher signed is taken, and content only when it is what was signed. A stick
with an older release changes nothing. On a machine that trusts nobody yet,
check the root file that the stick brings, and trust it first.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound, exitInterrupted),
		Example: `  satchel import /media/usb
  satchel import /media/usb && satchel apply lessons`,
		Args: exactly("DIR"),
	}
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dir, err := stickDir(args[0])
		if err != nil {
			return err
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			line := e.progressLine()
			res, err := s.Import(cmd.Context(), dir, line.stick())
			line.clear()
			if res.Path == "" { // it did not begin
				return err
			}
			if *asJSON {
				res.Products, res.Problems = append([]p2p.ImportedProduct{}, res.Products...), append([]string{}, res.Problems...)
				if perr := e.printJSON(res); perr != nil {
					return perr
				}
				return err
			}
			e.printImported(res)
			return err
		})
	}
	return cmd
}

func (e *env) printImported(res p2p.ImportResult) {
	if res.Roots > 0 {
		fmt.Fprintf(e.stdout, "the trust root was renewed, by %s\n", count(res.Roots, "version", "versions"))
	}
	var ready string
	var unwanted []string
	for _, p := range res.Products {
		release := fmt.Sprintf("%s %s (seq %d)", p.Product, clean(p.Version), p.Seq)
		switch p.Outcome {
		case p2p.StickReady:
			if !p.Followed {
				fmt.Fprintln(e.stdout, release+" is whole here, to be passed on")
				break
			}
			fmt.Fprintln(e.stdout, release+" is ready")
			ready = p.Product
		case p2p.StickHere:
			fmt.Fprintln(e.stdout, release+" was here already")
		case p2p.StickOlder:
			fmt.Fprintf(e.stdout, "%s is known here; seq %d on the stick is older\n", release, p.StickSeq)
		case p2p.StickNews:
			fmt.Fprintln(e.stdout, release+" is announced; its content is not on the stick")
		case p2p.StickIncomplete:
			text := release + " is not complete"
			if p.BytesNeeded > 0 {
				text += ": " + size(p.BytesNeeded) + " are missing"
			}
			fmt.Fprintln(e.stdout, text)
		case p2p.StickRefused:
			fmt.Fprintf(e.stdout, "%s: two releases claim one number; both are refused\n", p.Product)
		case p2p.StickFailed:
			fmt.Fprintf(e.stdout, "%s: %s\n", release, clean(p.Error))
		case p2p.StickUnwanted:
			unwanted = append(unwanted, p.Product)
		}
	}
	if n := len(unwanted); n > 10 {
		fmt.Fprintf(e.stdout, "on the stick, and not asked for here: %s and %s\n", strings.Join(unwanted[:10], ", "), count(n-10, "other", "others"))
	} else if n > 0 {
		fmt.Fprintf(e.stdout, "on the stick, and not asked for here: %s\n", strings.Join(unwanted, ", "))
	}
	if len(res.Products) > 0 {
		fmt.Fprintf(e.stdout, "took %s from %s\n", size(res.BytesFetched), clean(res.Path))
	}
	for _, p := range res.Problems {
		e.say("warning", "the stick: "+clean(p))
	}
	if more := res.ProblemCount - len(res.Problems); more > 0 {
		e.say("warning", fmt.Sprintf("the stick: and %s more", count(more, "problem", "problems")))
	}
	if ready != "" {
		e.say("hint", "make it live with \"satchel apply "+ready+"\"")
	}
}
