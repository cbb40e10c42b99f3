package p2p

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"satchel/announce"
)

// Explain says in sentences why this machine is, or is not, on the newest release of product; of the node as a
// whole when product is "".
func (n *Node) Explain(product string) ([]string, error) {
	s := n.Status()
	if product == "" {
		return explainNode(&s), nil
	}
	i := slices.IndexFunc(s.Products, func(p ProductStatus) bool { return p.Product == product })
	if i < 0 {
		return nil, fail(CodeNotFound, strings.Join(explainUnknown(&s), " "), fmt.Errorf("no release of %s is known here", product))
	}
	out := append(explainProduct(&s.Products[i]), explainHold(&s)...)
	if st := s.Products[i].State; st == StateFetching || st == StateKnown || st == StateNone {
		out = append(out, explainNeighbours(&s)...)
	}
	return out, nil
}

func explainNode(s *Status) []string {
	var out []string
	if s.Root.Version == 0 {
		out = append(out, `This machine trusts no root yet, so it can believe no announcement. Trust one: "satchel trust ROOT".`)
	} else {
		out = append(out, fmt.Sprintf("This machine trusts version %d of a root that covers %s.", s.Root.Version, list(s.Root.Products)))
	}
	out = append(out, explainTrust(s)...)
	out = append(out, explainHold(s)...)
	out = append(out, explainNeighbours(s)...)
	if len(s.Products) == 0 {
		out = append(out, "No release is known here yet.")
	}
	var idle []string
	for i := range s.Products {
		if p := &s.Products[i]; p.State == StateKnown && !p.Followed && !p.Carried {
			idle = append(idle, p.Product)
		} else {
			out = append(out, explainProduct(p)...)
		}
	}
	if len(idle) > 0 {
		out = append(out, fmt.Sprintf("Known, and not asked for here: %s.", list(idle)))
	}
	return out
}

func explainHold(s *Status) []string {
	if s.Hold == nil {
		return nil
	}
	why := ""
	if s.Hold.Reason != "" {
		why = " (" + s.Hold.Reason + ")"
	}
	return []string{fmt.Sprintf("A hold is on for %s%s: nothing is applied. \"satchel hold --end\" ends it.", (time.Duration(s.Hold.Left) * time.Second).Round(time.Second), why)}
}

// explainTrust says what is odd about the root, the clock and the timestamps.
func explainTrust(s *Status) (out []string) {
	if s.Root.Rival {
		out = append(out, "The root's keys have signed two different roots of this version: a mistake, or stolen keys. The one that came here first stays; the next version, signed by keys of both, ends it.")
	}
	if s.Root.RenewBy > 0 && s.Clock.State == ClockPlausible && s.Time.Unix() > s.Root.RenewBy {
		out = append(out, "The trust root asks to be renewed since "+day(s.Root.RenewBy)+"; it goes on to count.")
	}
	if s.Clock.State == ClockWrong {
		out = append(out, fmt.Sprintf("The clock of this machine says %s, which it cannot be: what is signed is of %s. Nothing that is installed depends on it.",
			day(s.Time.Unix()), day(s.Clock.Earliest)))
	}
	if s.Node.TimestampErr != "" {
		out = append(out, "This machine is to sign timestamps and could not: "+s.Node.TimestampErr+".")
	}
	return out
}

func day(unix int64) string { return time.Unix(unix, 0).UTC().Format("2006-01-02 15:04") + " UTC" }

// explainFreshness says whether the newest release that is known here is known to be the newest there is.
func explainFreshness(p *ProductStatus) []string {
	f := p.Freshness
	switch {
	case f == nil || p.State == StateRefused:
		return nil
	case f.NewerSeq > 0:
		return []string{fmt.Sprintf("It is stale: a timestamp names seq %d, which has not come here yet. It comes with the first neighbour or stick that has it.", f.NewerSeq)}
	case f.Expired:
		return []string{"It is stale: it has expired, and no newer one has come. It stays installed; it wakes nobody any more."}
	case f.State == announce.Fresh.String():
		return []string{"It is fresh: a timestamp of " + day(f.AsOf) + " knows nothing newer."}
	case p.Newest == nil:
		return nil
	case f.AsOf > 0:
		return []string{fmt.Sprintf("Whether there is a newer one is unknown: the last timestamp that has come is of %s, more than %d days ago.", day(f.AsOf), announce.FreshFor/86400)}
	}
	return []string{"Whether there is a newer one is unknown: no timestamp that names it has come here."}
}

func explainNeighbours(s *Status) []string {
	if !s.Running {
		return []string{`No node runs here, so nothing is fetched. Start one: "satchel up".`}
	}
	switch n := len(s.Neighbours); {
	case n == 0 && !s.Node.Discovery:
		return []string{"No neighbour is connected. Discovery is off, so only peers given with --peer are tried."}
	case n == 0:
		return []string{"No neighbour is connected. The node looks for some on every link; another satchel must run on the same network, and the network must let machines speak to each other."}
	case n == 1:
		return []string{"One neighbour is connected."}
	default:
		return []string{fmt.Sprintf("%d neighbours are connected.", n)}
	}
}

func explainUnknown(s *Status) []string {
	if s.Root.Version == 0 {
		return []string{`This machine trusts no root yet, so it can believe no announcement. Trust one: "satchel trust ROOT".`}
	}
	out := []string{fmt.Sprintf("It is either not published yet, or published under a root that this machine does not trust (its root covers %s).", list(s.Root.Products))}
	return append(out, explainNeighbours(s)...)
}

func explainProduct(p *ProductStatus) []string {
	name := func(r *ReleaseStatus) string { return fmt.Sprintf("%s (seq %d)", r.Version, r.Seq) }
	var out []string
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if p.Newest != nil {
		say("The newest release of %s that this machine knows is %s.", p.Product, name(p.Newest))
		if p.Newest.Recall {
			say("It is a recall: an older release's content under a newer number.")
		}
	}
	out = append(out, explainFreshness(p)...)
	switch p.State {
	case StateNone:
		say("%s is followed, but no release of it is known here yet.", p.Product)
	case StateKnown:
		if p.Followed || p.Carried {
			say("Its content is not here yet; it is fetched while a node runs.")
		} else {
			say("Nobody here asked for it: follow it with \"satchel follow %s --image DIR\", or carry it.", p.Product)
		}
	case StateFetching:
		out = append(out, explainFetch(p.Fetch)...)
	case StateStaging:
		say("Its content is whole and its tree is being laid down beside the live one.")
	case StateReady:
		say("It is ready beside the live tree. Make it live with \"satchel apply %s\".", p.Product)
		if p.Policy == PolicyAuto {
			say("It is applied by itself as soon as nothing is in the way.")
		}
	case StateArmed:
		say("It is armed: the machine tries it at the next boot, and goes back by itself if it does not come up well.")
	case StateTrying:
		say("This boot tries it. It stays once its health checks have passed: \"satchel confirm\" runs them.")
	case StateRejected:
		why := ""
		if p.Error != "" {
			why = " (" + p.Error + ")"
		}
		say("It failed its trial on this machine%s, and is not tried again by itself. \"satchel update --again\" tries it once more; a newer release is tried anyway.", why)
	case StateActive:
		if p.Live != nil && p.Newest != nil && (p.Live.Epoch != p.Newest.Epoch || p.Live.Seq != p.Newest.Seq) {
			say("Live in %s/current is %s, which is newer: this home has lost what it knew, and does not go back.", p.Image, name(p.Live))
			break
		}
		say("It is live in %s/current.", p.Image)
	case StateHeld:
		if p.Followed {
			say("Its content is whole here and is passed on; nothing is laid down in %s by itself, since its apply policy is never. \"satchel update\" does it.", p.Image)
			break
		}
		if p.Published {
			say("It was published from this home, which has all of it and passes it on.")
			break
		}
		say("Its content is whole here and is passed on to neighbours; no image here follows it.")
	case StateFailed:
		say("It does not get on: %s.", p.Error)
		if p.Hint != "" {
			say("What to do: %s.", p.Hint)
		}
		say("It is tried again by itself.")
	case StateRefused:
		say("Two different releases of %s are signed with one number. That is a mistake or a stolen key, so both are refused until the publisher makes a newer one.", p.Product)
		for _, c := range p.Claims {
			say("One is %s, epoch %d, manifest %s.", name(&c), c.Epoch, c.Manifest)
		}
	}
	if p.Live != nil && p.State != StateActive {
		say("Live is %s.", name(p.Live))
	}
	if p.Previous != nil {
		say("Going back to %s needs no network: \"satchel rollback %s\".", name(p.Previous), p.Product)
	}
	return out
}

func explainFetch(f *FetchStatus) []string {
	if f == nil || f.Phase == "manifest" {
		return []string{"Its list of content is being fetched; no neighbour has given it yet."}
	}
	out := []string{fmt.Sprintf("%s of %s are still to be fetched; %s were here already.", Size(f.BytesNeeded), Size(f.BytesTotal), Size(f.BytesHad+f.BytesLocal))}
	switch {
	case f.EndsInSeconds > 0:
		out = append(out, fmt.Sprintf("At the present %s a second that takes %s.", Size(uint64(f.RateBytes)),
			(time.Duration(f.EndsInSeconds)*time.Second).Round(time.Second)))
	case f.BytesNeeded > 0:
		out = append(out, "Nothing is arriving at the moment: no connected neighbour has what is missing.")
	}
	return out
}

func list(items []string) string {
	switch len(items) {
	case 0:
		return "no product"
	case 1:
		if items[0] == "*" {
			return "all products"
		}
		return items[0]
	}
	out := items[0]
	for _, s := range items[1 : len(items)-1] {
		out += ", " + s
	}
	return out + " and " + items[len(items)-1]
}

// Size says a number of bytes for people: three digits, in decimal units.
func Size(n uint64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	v, unit := float64(n), 0
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	for v >= 999.5 && unit < len(units)-1 { // so that it never says 1000 MB
		v /= 1000
		unit++
	}
	switch {
	case v < 9.995:
		return fmt.Sprintf("%.2f %s", v, units[unit])
	case v < 99.95:
		return fmt.Sprintf("%.1f %s", v, units[unit])
	}
	return fmt.Sprintf("%.0f %s", v, units[unit])
}
