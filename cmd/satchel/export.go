package main

import (
	"fmt"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

func newExportCommand(e *env) *cobra.Command {
	var products []string
	var since uint64
	cmd := &cobra.Command{
		Use:   "export DIR",
		Short: "put releases on a USB stick",
		Long: withExit(`Put the newest release of every product that is whole here, or of those given
with --product, on the stick that is mounted at DIR, for machines that no network
reaches: "satchel import" takes them there. All that this home knows goes with
them: trust roots, announcements, timestamps.

Everything is below DIR/satchel. Only what is missing there is written, and it is
read back from the stick; what other homes put there stays. A stick that is
pulled out is as good as before: export again, and it goes on.

With --since N only what has changed since release N of the product is written,
for machines that have that one.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitRefused, exitInUse, exitNotFound, exitInterrupted),
		Example: `  satchel export /media/usb
  satchel export /media/usb --product lessons --product xo-os
  satchel export /media/usb --product lessons --since 12`,
		Args: exactly("DIR"),
	}
	cmd.Flags().StringArrayVar(&products, "product", nil, "only this `PRODUCT`; may be given again")
	cmd.Flags().Uint64Var(&since, "since", 0, "leave out what release `N` of the one product had")
	cmd.RegisterFlagCompletionFunc("product", func(cmd *cobra.Command, _ []string, s string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return e.completeProducts(cmd, nil, s)
	})
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, name := range products {
			if _, err := product(name); err != nil {
				return err
			}
		}
		if cmd.Flags().Changed("since") && (since == 0 || len(products) > 1) {
			return badUsage("as in --product lessons --since 12", "--since takes the number of a release of one product")
		}
		dir, err := stickDir(args[0])
		if err != nil {
			return err
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			began, line := time.Now(), e.progressLine()
			res, err := s.Export(cmd.Context(), p2p.ExportOptions{Dir: dir, Products: products, Since: since}, line.stick())
			line.clear()
			if err != nil {
				return err
			}
			if *asJSON {
				return e.printJSON(res)
			}
			e.printExported(res, time.Since(began))
			e.say("hint", "on the other machines: \"satchel import DIR\"; one that trusts nobody yet must first trust "+clean(res.Root))
			return nil
		})
	}
	return cmd
}

// stickDir is where a stick is mounted, as a node elsewhere understands it.
func stickDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("finding %q: %w", dir, err)
	}
	return abs, nil
}

// stick shows how far an export or import is, and how long it will take when that can be told.
func (line *progressLine) stick() func(p2p.StickProgress) {
	began := time.Now()
	var first p2p.StickProgress
	return func(p p2p.StickProgress) {
		if first.What != p.What { // checking goes at another speed than writing
			first, began = p, time.Now()
		}
		text := fmt.Sprintf("%s: %s of %s", p.What, size(p.Done), size(p.Total))
		if p.Total == 0 {
			text = p.What
		}
		took, moved := time.Since(began), p.Done-min(first.Done, p.Done)
		if took > 2*time.Second && moved > 0 && p.Total >= p.Done {
			speed := float64(moved) / took.Seconds()
			text += fmt.Sprintf(", %s, %s left", rate(speed), span(time.Duration(float64(p.Total-p.Done)/speed*float64(time.Second))))
		}
		line.show("%s", text)
	}
}

func (e *env) printExported(res p2p.ExportResult, took time.Duration) {
	for _, r := range res.Releases {
		text := fmt.Sprintf("%s %s (seq %d)", r.Product, clean(r.Version), r.Seq)
		if r.Since > 0 {
			text += fmt.Sprintf(", for machines that have seq %d", r.Since)
		}
		fmt.Fprintln(e.stdout, text)
	}
	fmt.Fprintf(e.stdout, "wrote %s in %s to %s", size(res.BytesWritten), span(took), clean(res.Path))
	if res.BytesHere > 0 {
		fmt.Fprintf(e.stdout, "; %s were there already", size(res.BytesHere))
	}
	if res.Damaged > 0 {
		fmt.Fprintf(e.stdout, ", %s had become bad", count(res.Damaged, "piece", "pieces"))
	}
	fmt.Fprintf(e.stdout, "; %s are free there\n", size(res.FreeBytes))
}
