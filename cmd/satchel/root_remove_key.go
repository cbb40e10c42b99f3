package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"satchel/announce"
	"satchel/p2p"
)

// removal is what the command line of "root remove-key" says.
type removal struct {
	file      string
	from      []announce.Seat // empty: everywhere
	stolen    bool
	threshold int      // 0: not given
	overtaken []string // patterns whose epoch is raised
	rootRole  bool     // a key had the root role
}

func newRootRemoveKeyCommand(e *env) *cobra.Command {
	var r removal
	var from seatFlags
	cmd := &cobra.Command{
		Use:   "remove-key ROOT KEY... [--role ROLE]... [--product PATTERN]... [--threshold N] [--stolen]",
		Short: "take keys out of a trust root",
		Long: withExit(`Take keys out of roles and products, or, without --role and --product, out of the
root. KEY is a key file, or the beginning of the key's id, 4 digits or more. The
keys that are left must be enough for every threshold.

--stolen is for a key that somebody else may have. It also raises the epoch of
every product that the key could publish: then all releases of these products
begin anew, and whatever the thief announced, be it with the last number there is,
is older than your next release. Publish these products again when the new root is
trusted.

Begins a draft of the next version, or changes the draft that is there.`, exitOK, exitFailure, exitUsage, exitRefused, exitNotFound),
		Example: `  satchel root remove-key school.root 3611f0aa --stolen
  satchel root remove-key school.root dora.key.pub --product 'lessons.5b.*'
  satchel root remove-key school.root eve.key.pub --threshold 2`,
		Args: atLeast("ROOT", "KEY"),
	}
	from.add(cmd)
	cmd.Flags().IntVar(&r.threshold, "threshold", 0, "how many `N` must sign where the keys that are left are too few for the threshold")
	cmd.Flags().BoolVar(&r.stolen, "stolen", false, "somebody else may have the key: overtake what it has signed")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if r.from, err = from.seats(); err != nil {
			return err
		}
		r.file = args[0]
		switch {
		case r.stolen && len(r.from) > 0:
			return badUsage("leave --role and --product out", "a key that was stolen must go from everywhere")
		case cmd.Flags().Changed("threshold") && r.threshold < 1:
			return badUsage("give --threshold from 1 on", "a threshold of %d cannot be", r.threshold)
		}
		err = e.editRoot(args[0], func(f *announce.RootFile, next *announce.Root) error { return r.do(f, next, args[1:]) })
		if err == nil && r.stolen {
			e.sayStolen(&r)
		}
		return err
	}
	return cmd
}

func (r *removal) do(f *announce.RootFile, next *announce.Root, keys []string) error {
	for _, arg := range keys {
		key, err := namedKey(f, arg)
		if err != nil {
			return err
		}
		id, old := key.ID(), f.Complete()
		if !slices.Contains(next.Keys, key) && (old == nil || !slices.Contains(old.Keys, key)) {
			return advise(p2p.CodeNotFound, fmt.Sprintf("see \"satchel root show %s\"", r.file), fmt.Errorf("key %s is not in the root", id))
		}
		from := r.from
		if len(from) == 0 {
			from = next.Seats()
		}
		for _, s := range from {
			rule, ok := next.Seat(s)
			if !ok {
				return noSeat(r.file, next, s)
			}
			if len(r.from) > 0 && !slices.Contains(rule.Keys, id) {
				return advise(p2p.CodeNotFound, fmt.Sprintf("see \"satchel root show %s\"", r.file), fmt.Errorf("%s: key %s is not there", s, id))
			}
			next.RemoveKey(id, s)
		}
		if r.stolen && old != nil {
			patterns, err := old.Overtake(next, id)
			if err != nil {
				return err
			}
			r.overtaken = append(r.overtaken, patterns...)
			r.rootRole = r.rootRole || slices.Contains(old.Roles[announce.RoleRoot].Keys, id)
		}
	}
	return r.lower(next)
}

// lower sees that every threshold can still be met.
func (r *removal) lower(next *announce.Root) error {
	lowered := false
	for _, s := range next.Seats() {
		rule, _ := next.Seat(s)
		left := len(rule.Keys)
		switch {
		case rule.Threshold <= left:
		case left > 0 && r.threshold > 0:
			if err := setThreshold(r.file, next, s, r.threshold); err != nil {
				return err
			}
			lowered = true
		default:
			return advise(p2p.CodeBadInput, r.wayOut(s, left), fmt.Errorf("%s: %d must sign and %s would be left", s, rule.Threshold, count(left, "key", "keys")))
		}
	}
	if r.threshold > 0 && !lowered {
		return advise(p2p.CodeBadInput, "leave --threshold out; \"satchel root set\" changes one", fmt.Errorf("every threshold can be met without this key: none is changed"))
	}
	return nil
}

// wayOut says what to do about a threshold that can no longer be met.
func (r *removal) wayOut(s announce.Seat, left int) string {
	add := fmt.Sprintf("give it another key first: satchel root add-key %s KEY %s", r.file, seatFlag(s))
	switch {
	case left > 0:
		return fmt.Sprintf("give --threshold %d too, or %s", left, add)
	case s == announce.Seat{Role: announce.RoleRoot}:
		return add
	}
	return fmt.Sprintf("%s, or drop it: satchel root set %s %s --drop", add, r.file, seatFlag(s))
}

// sayStolen says what becomes of the thief's releases.
func (e *env) sayStolen(r *removal) {
	if r.rootRole {
		e.say("warning", "it has the root role until this version is trusted: hurry, and see that nobody signs another version with it")
	}
	if len(r.overtaken) == 0 {
		fmt.Fprintln(e.stdout, "it could publish none of the products, so no epoch is raised")
		return
	}
	slices.Sort(r.overtaken)
	fmt.Fprintf(e.stdout, "a new epoch begins for %s: once this version is trusted, all that the key has signed is overtaken, whatever its number\n",
		strings.Join(slices.Compact(r.overtaken), ", "))
	e.say("hint", "publish these products again then: their releases until now no longer count")
}
