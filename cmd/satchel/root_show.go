package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"satchel/announce"
)

func newRootShowCommand(e *env) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "show ROOT [--all]",
		Short: "say what a trust root says",
		Long: withExit(`Say what the last version of a root file says, who has signed it, and what has
changed since the version before, when the file has that one. ROOT is a file, or -
for the standard input. "root verify" tells by its exit status whether all is signed.`,
			exitOK, exitFailure, exitUsage, exitRefused, exitNotFound),
		Example: "  satchel root show school.root\n  satchel root show school.root --all",
		Args:    exactly("ROOT"),
	}
	cmd.Flags().BoolVar(&all, "all", false, "every version in the file, oldest first")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		f, err := e.readRoot(args[0])
		if err != nil {
			return err
		}
		steps := f.Steps()
		for i, sr := range steps {
			if !all && i < len(steps)-1 {
				continue
			}
			info := rootWords(sr)
			if i > 0 {
				info.Changes = rootChanges(&steps[i-1].Root, &sr.Root)
			}
			info.FirstVersion, info.Verified = steps[0].Version, true // but for the last, else it would be no root file
			if i == len(steps)-1 {
				info.Verified, info.Quorums = f.Verify() == nil, quorumWords(f)
			}
			switch {
			case *asJSON:
				if err := e.printJSON(info); err != nil {
					return err
				}
			default:
				if all && i > 0 {
					fmt.Fprintln(e.stdout)
				}
				e.printRoot(f, &info, i == len(steps)-1)
			}
		}
		e.warnRoot(f, time.Now())
		return nil
	}
	return cmd
}

// rootInfo is "root show --json".
type rootInfo struct {
	Version      uint64       `json:"version"`
	FirstVersion uint64       `json:"first_version"`
	Issued       int64        `json:"issued"`
	RenewBy      int64        `json:"renew_by"`
	Verified     bool         `json:"verified"`
	Keys         []string     `json:"keys"`
	Roles        []roleInfo   `json:"roles"`
	Products     []ruleInfo   `json:"products"`
	Signers      []string     `json:"signers"`
	Quorums      []quorumInfo `json:"quorums,omitempty"`
	Changes      []string     `json:"changes,omitempty"`
}

type roleInfo struct {
	Role      string   `json:"role"`
	Keys      []string `json:"keys"`
	Threshold int      `json:"threshold"`
}

type ruleInfo struct {
	Pattern    string   `json:"pattern"`
	Epoch      uint64   `json:"epoch"`
	Keys       []string `json:"keys"`
	Threshold  int      `json:"threshold"`
	Floor      uint64   `json:"floor"`
	Class      string   `json:"class"`
	MayWake    bool     `json:"may_wake"`
	MaySetuid  bool     `json:"may_setuid"`
	MayNames   bool     `json:"may_names"`
	MayLinkOut bool     `json:"may_link_out"`
	MayRun     bool     `json:"may_run"`
}

func rootWords(sr *announce.SignedRoot) rootInfo {
	info := rootInfo{Version: sr.Version, Issued: sr.Issued, RenewBy: sr.RenewBy, Signers: idStrings(sr.Signers()), Products: []ruleInfo{}}
	for _, k := range sr.Keys {
		info.Keys = append(info.Keys, k.ID().String())
	}
	for _, r := range []announce.Role{announce.RoleRoot, announce.RoleTimestamp, announce.RoleWake} {
		if rule, ok := sr.Roles[r]; ok {
			info.Roles = append(info.Roles, roleInfo{r.String(), idStrings(rule.Keys), rule.Threshold})
		}
	}
	for _, p := range sr.Products {
		info.Products = append(info.Products, ruleInfo{p.Pattern, p.Epoch, idStrings(p.Keys), p.Threshold, p.Floor, p.Class,
			p.MayWake, p.MaySetuid, p.MayNames, p.MayLinkOut, p.MayRun})
	}
	return info
}

// printRoot says for people what info says, and what the last version lacks.
func (e *env) printRoot(f *announce.RootFile, info *rootInfo, last bool) {
	rows := []string{fmt.Sprintf("version\t%d", info.Version)}
	switch {
	case !info.Verified:
		rows[0] += ", a draft: it lacks signatures"
	case last && info.Version > 1 && info.FirstVersion == info.Version:
		rows[0] += fmt.Sprintf("; version %d, which it follows, is not in the file", info.Version-1)
	}
	if info.Issued > 0 {
		rows = append(rows, "issued\t"+time.Unix(info.Issued, 0).UTC().Format(time.DateTime)+" UTC")
	}
	if info.RenewBy > 0 {
		rows = append(rows, "renew by\t"+dayWords(info.RenewBy))
	}
	for _, r := range info.Roles {
		rows = append(rows, fmt.Sprintf("%s\t%s", r.Role, ofWords(r.Threshold, r.Keys)))
	}
	for _, p := range info.Products {
		text := fmt.Sprintf("product\t%s: %s, epoch %d, %s", clean(p.Pattern), ofWords(p.Threshold, p.Keys), p.Epoch, p.Class)
		if p.Floor > 0 {
			text += fmt.Sprintf(", not below seq %d", p.Floor)
		}
		rule := announce.ProductRule{MayWake: p.MayWake, MaySetuid: p.MaySetuid, MayNames: p.MayNames, MayLinkOut: p.MayLinkOut, MayRun: p.MayRun}
		if words := mayList(rule); len(words) > 0 {
			text += ", may " + strings.Join(words, ", ")
		}
		rows = append(rows, text)
	}
	signers := "nobody"
	if len(info.Signers) > 0 {
		signers = strings.Join(info.Signers, ", ")
	}
	rows = append(rows, "signed by\t"+signers)
	if !info.Verified {
		for _, q := range f.Quorums() {
			rows = append(rows, "signatures\t"+q.String())
		}
	}
	for _, c := range info.Changes {
		rows = append(rows, "change\t"+clean(c))
	}
	table(e.stdout, rows...)
}

// ofWords says "2 of 3 (ids)".
func ofWords(threshold int, ids []string) string {
	return fmt.Sprintf("%d of %d (%s)", threshold, len(ids), strings.Join(ids, ", "))
}

func dayWords(t int64) string {
	if t == 0 {
		return "never"
	}
	return time.Unix(t, 0).UTC().Format(time.DateOnly)
}

// warnRoot warns of what is wrong with a root, though its signatures are good.
func (e *env) warnRoot(f *announce.RootFile, now time.Time) {
	r := f.Last()
	if r.RenewBy > 0 && now.Unix() > r.RenewBy {
		e.say("warning", fmt.Sprintf("this root was to be renewed by %s: look it through, and set another --renew-by; machines go on trusting it", dayWords(r.RenewBy)))
	}
	e.warnIssued(r, now)
	if rule := r.Roles[announce.RoleRoot]; rule.Threshold == 1 {
		who := "key " + rule.Keys[0].String() + " alone"
		if len(rule.Keys) > 1 {
			who = "any one of the root keys"
		}
		e.say("warning", who+" can change everything in this root: whoever steals it has the whole mesh. Give the root role more keys and a threshold of 2")
	}
}

// warnIssued warns of a date that lies ahead: machines take it for a proof that the time is not earlier.
func (e *env) warnIssued(r *announce.SignedRoot, now time.Time) {
	if issued := time.Unix(r.Issued, 0); issued.Sub(now) > 24*time.Hour {
		e.say("warning", fmt.Sprintf("version %d is dated %s, and the clock of this machine says %s: one is wrong. Correct the clock of who made it before you sign",
			r.Version, dayWords(r.Issued), now.UTC().Format(time.DateOnly)))
	}
}

// rootChanges says in words what next says that old did not.
func rootChanges(old, next *announce.Root) (out []string) {
	for _, k := range next.Keys {
		if !slices.Contains(old.Keys, k) {
			out = append(out, "key "+k.ID().String()+" is new")
		}
	}
	for _, k := range old.Keys {
		if !slices.Contains(next.Keys, k) {
			out = append(out, "key "+k.ID().String()+" is gone")
		}
	}
	for _, s := range next.Seats() {
		if words := seatChanges(old, next, s); len(words) > 0 {
			out = append(out, s.String()+": "+strings.Join(words, ", "))
		}
	}
	for _, s := range old.Seats() {
		if _, ok := next.Seat(s); !ok {
			out = append(out, s.String()+" is gone")
		}
	}
	if old.RenewBy != next.RenewBy {
		out = append(out, fmt.Sprintf("renew by: %s, was %s", dayWords(next.RenewBy), dayWords(old.RenewBy)))
	}
	if len(out) == 0 {
		out = []string{"nothing but the date"}
	}
	return out
}

func seatChanges(old, next *announce.Root, s announce.Seat) (words []string) {
	is, _ := next.Seat(s)
	was, ok := old.Seat(s)
	if !ok {
		words = append(words, "new, "+ofWords(is.Threshold, idStrings(is.Keys)))
	} else if is.Threshold != was.Threshold || len(is.Keys) != len(was.Keys) {
		words = append(words, fmt.Sprintf("%d of %d, was %d of %d", is.Threshold, len(is.Keys), was.Threshold, len(was.Keys)))
	}
	if with := without(is.Keys, was.Keys); ok && len(with) > 0 {
		words = append(words, "with "+strings.Join(with, ", "))
	}
	if lost := without(was.Keys, is.Keys); len(lost) > 0 {
		words = append(words, "without "+strings.Join(lost, ", "))
	}
	if s.Pattern != "" {
		var none announce.ProductRule
		p, q := next.Product(s.Pattern), old.Product(s.Pattern)
		if q == nil {
			q = &none
		}
		words = append(words, ruleChanges(q, p)...)
	}
	return words
}

// without lists the ids of a that are not in b.
func without(a, b []announce.KeyID) []string {
	return idStrings(slices.DeleteFunc(slices.Clone(a), func(id announce.KeyID) bool { return slices.Contains(b, id) }))
}

func ruleChanges(old, next *announce.ProductRule) (words []string) {
	was := func(format string, is, was any) {
		text := fmt.Sprintf(format, is)
		if old.Pattern != "" {
			text += fmt.Sprintf(", was %v", was)
		}
		words = append(words, text)
	}
	if old.Epoch != next.Epoch {
		was("epoch %v", next.Epoch, old.Epoch)
	}
	if old.Floor != next.Floor {
		was("floor %v", next.Floor, old.Floor)
	}
	if old.Class != next.Class {
		was("class %v", next.Class, old.Class)
	}
	before, after := mayList(*old), mayList(*next)
	for _, word := range mayWords {
		switch had, has := slices.Contains(before, word), slices.Contains(after, word); {
		case has && !had:
			words = append(words, "may "+word)
		case had && !has:
			words = append(words, "may no longer "+word)
		}
	}
	return words
}
