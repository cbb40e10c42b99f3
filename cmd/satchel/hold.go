package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

func newHoldCommand(e *env) *cobra.Command {
	var lasts, until, reason string
	var end bool
	cmd := &cobra.Command{
		Use:   "hold",
		Short: "keep live trees as they are for a while",
		Long: withExit(`Keep the live trees of this machine as they are for a while, as during a lesson:
nothing is applied, neither by itself nor by hand. Releases are fetched, passed on
and laid down all the same, and going back stays possible. A hold lasts a week at
most; without an argument the one that is on is shown.`, exitOK, exitFailure, exitUsage, exitInUse),
		Example: "  satchel hold --for 45m --reason \"maths test\"\n  satchel hold --until 10:45\n  satchel hold --end",
		Args:    exactly(),
	}
	f := cmd.Flags()
	f.StringVar(&lasts, "for", "", "how `LONG`, as 45m, 2h or 1d")
	f.StringVar(&until, "until", "", "end at this `TIME` of day, as 10:45")
	f.StringVar(&reason, "reason", "", "`TEXT` that people see")
	f.BoolVar(&end, "end", false, "end the hold")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if given := cmd.Flags().Changed; given("for") && given("until") || end && (given("for") || given("until")) {
			return badUsage("give one of them", "--for, --until and --end do not go together")
		}
		at, err := holdEnd(time.Now(), lasts, until)
		if err != nil {
			return err
		}
		if end {
			at = time.Unix(0, 0)
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			if !at.IsZero() {
				if err := s.Hold(cmd.Context(), at, reason); err != nil {
					return err
				}
			}
			st, err := s.Status(cmd.Context())
			if err != nil {
				return err
			}
			if *asJSON {
				return e.printJSON(struct {
					Hold *p2p.HoldStatus `json:"hold"`
				}{st.Hold})
			}
			e.printHold(st.Hold)
			return nil
		})
	}
	return cmd
}

func (e *env) printHold(h *p2p.HoldStatus) {
	if h == nil {
		fmt.Fprintln(e.stdout, "no hold is on")
		return
	}
	why := ""
	if h.Reason != "" {
		why = ": " + clean(h.Reason)
	}
	fmt.Fprintf(e.stdout, "nothing is applied for %s, until %s%s\n", span(time.Duration(h.Left)*time.Second), h.Until.Local().Format("2006-01-02 15:04"), why)
}

// holdEnd is when a hold is to end; zero when nothing was said.
func holdEnd(now time.Time, lasts, until string) (time.Time, error) {
	switch {
	case lasts != "":
		d, err := parseSpan(lasts)
		if err != nil {
			return time.Time{}, badUsage("give it as 45m, 2h or 1d", "reading --for %q: %w", lasts, err)
		}
		return now.Add(d), nil
	case until != "":
		t, err := time.ParseInLocation("15:04", until, now.Location())
		if err != nil {
			return time.Time{}, badUsage("give it as 10:45", "reading --until %q: not a time of day", until)
		}
		at := time.Date(now.Year(), now.Month(), now.Day(), t.Hour(), t.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = at.AddDate(0, 0, 1)
		}
		return at, nil
	}
	return time.Time{}, nil
}
