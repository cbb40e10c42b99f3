package main

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"satchel/announce"
)

// setting is what the command line of "root set" says.
type setting struct {
	flags          *pflag.FlagSet
	file           string
	product, role  string
	class          string
	epoch, floor   uint64
	threshold      int
	mayYes, mayNot []string
	drop           bool
	renewBy        string
	day            int64
}

func newRootSetCommand(e *env) *cobra.Command {
	var s setting
	cmd := &cobra.Command{
		Use:   "set ROOT [--product PATTERN | --role ROLE] [--threshold N] [--renew-by DATE] [FLAG]...",
		Short: "change a product's rule, a threshold or a date",
		Long: withExit(`Change what a trust root says of the products of a PATTERN, how many keys of a
product or a role must sign, or by when people are to renew it.

--epoch begins a new epoch: all releases of these products begin anew at number 1,
and those of older epochs no longer count. --floor says that no release below that
number counts. Neither can go down, except that a new epoch has no floor unless
one is given: no machine ever goes back.

--may and --may-not allow and forbid, separated by commas: wake (urgent releases
wake sleeping machines), setuid (files with setuid and setgid bits or that
everybody can write), names (file names that some file systems cannot hold or tell
apart), link-out (symbolic links that leave the tree), run (health checks and a helper in
its releases, which the machines run).

--drop takes a rule away, or a role; who only had that is no longer in the root.

Begins a draft of the next version, or changes the draft that is there.`, exitOK, exitFailure, exitUsage, exitRefused, exitNotFound),
		Example: `  satchel root set school.root --role root --threshold 2
  satchel root set school.root --product xo-os --class system --may setuid,link-out,run --may-not wake
  satchel root set school.root --product 'lessons.*' --epoch 2
  satchel root set school.root --product 'lessons.5b.*' --drop
  satchel root set school.root --renew-by 2028-09-01`,
		Args: exactly("ROOT"),
	}
	f := cmd.Flags()
	s.flags = f
	f.StringVar(&s.product, "product", "", "`PATTERN` of the rule to change")
	f.StringVar(&s.role, "role", "", "`ROLE` to change: root, timestamp or wake")
	f.StringVar(&s.class, "class", "", "`CLASS` content, system or bookkeeping")
	f.Uint64Var(&s.epoch, "epoch", 0, "`N` of the epoch")
	f.Uint64Var(&s.floor, "floor", 0, "lowest number `N` of a release that counts")
	f.IntVar(&s.threshold, "threshold", 0, "how many `N` of the keys must sign")
	f.StringSliceVar(&s.mayYes, "may", nil, "`WHAT` is allowed: "+strings.Join(mayWords, ", "))
	f.StringSliceVar(&s.mayNot, "may-not", nil, "`WHAT` is forbidden, of the same")
	f.BoolVar(&s.drop, "drop", false, "take the rule or the role away")
	f.StringVar(&s.renewBy, "renew-by", "", "`DATE` after which people are reminded to renew the root, as 2028-09-01, or never")
	completeRoles(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		s.file = args[0]
		if err := s.check(); err != nil {
			return err
		}
		return e.editRoot(s.file, func(_ *announce.RootFile, next *announce.Root) error { return s.do(next) })
	}
	return cmd
}

// given reports whether one of the flags is on the command line.
func (s *setting) given(names ...string) bool { return slices.ContainsFunc(names, s.flags.Changed) }

// check finds what is wrong with the command line.
func (s *setting) check() (err error) {
	switch {
	case s.given("product") && s.given("role"):
		return badUsage("change one after the other: both go into the same draft", "--product and --role are both given")
	case s.drop && s.given("class", "epoch", "floor", "threshold", "may", "may-not"):
		return badUsage("leave one of them out", "what is dropped cannot be changed besides")
	case !s.given("product", "role", "renew-by"):
		return badUsage("give --product PATTERN, --role ROLE or --renew-by DATE, and what is to be", "it is not said what to change")
	case !s.given("product") && s.given("class", "epoch", "floor", "may", "may-not"):
		return badUsage("give --product PATTERN", "--class, --epoch, --floor, --may and --may-not are about a product")
	case !s.given("product", "role") && s.given("threshold", "drop"):
		return badUsage("give --product PATTERN or --role ROLE", "--threshold and --drop are about a product or a role")
	case s.given("product", "role") && !s.given("class", "epoch", "floor", "threshold", "may", "may-not") && !s.drop:
		return badUsage("see \"satchel root set --help\"", "it is not said what is to change about %s", s.product+s.role)
	case s.given("epoch") && s.epoch == 0:
		return badUsage("give --epoch from 1 on", "there is no epoch 0")
	case s.drop && s.role == announce.RoleRoot.String():
		return badUsage("give it other keys instead", "without a root role nobody could ever change the root")
	}
	if s.given("product") {
		if err := checkPattern(s.product); err != nil {
			return err
		}
	}
	if s.given("role") {
		if _, err := roleNamed(s.role); err != nil {
			return err
		}
	}
	if s.given("class") {
		if err := checkClass(s.class); err != nil {
			return err
		}
	}
	for _, word := range append(slices.Clone(s.mayYes), s.mayNot...) {
		if _, err := may(new(announce.ProductRule), word); err != nil {
			return err
		}
		if slices.Contains(s.mayYes, word) && slices.Contains(s.mayNot, word) {
			return badUsage("give it in one of them", "--may and --may-not both have %s", word)
		}
	}
	if s.given("renew-by") {
		s.day, err = parseDay(s.renewBy)
	}
	return err
}

func (s *setting) do(next *announce.Root) error {
	if s.given("renew-by") {
		next.RenewBy = s.day
	}
	if !s.given("product", "role") {
		return nil
	}
	seat := announce.Seat{Pattern: s.product}
	if s.given("role") {
		seat.Role, _ = roleNamed(s.role)
	}
	if _, ok := next.Seat(seat); !ok {
		return noSeat(s.file, next, seat)
	}
	if s.drop {
		next.DropSeat(seat)
		return nil
	}
	if s.given("threshold") {
		if err := setThreshold(s.file, next, seat, s.threshold); err != nil {
			return err
		}
	}
	if s.given("product") {
		s.rule(next.Product(s.product))
	}
	return nil
}

// rule changes a product's rule.
func (s *setting) rule(p *announce.ProductRule) {
	if s.given("class") {
		p.Class = s.class
	}
	if s.given("epoch") {
		if s.epoch > p.Epoch {
			p.Floor = 0 // of the epoch before
		}
		p.Epoch = s.epoch
	}
	if s.given("floor") {
		p.Floor = s.floor
	}
	for i, word := range slices.Concat(s.mayYes, s.mayNot) {
		if on, err := may(p, word); err == nil {
			*on = i < len(s.mayYes)
		}
	}
}
