package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

func newStatusCommand(e *env) *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show the node, its neighbours and every product",
		Long: withExit(`Show the node, its neighbours, and for every product: which release is the newest,
ready and live, and of a fetch how much was here, is still needed, and came from
whom. With --watch it is shown again at every change: in place on a terminal, one
line per change elsewhere, one object a line with --json; ^C ends it.

Works with and without a running node; --watch needs one.`, exitOK, exitFailure, exitUsage, exitInUse),
		Example:           "  satchel status\n  satchel status --watch\n  satchel status --json",
		Args:              exactly(),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again at every change")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if watch {
			return e.watch(ctx, *asJSON)
		}
		return e.withNode(ctx, func(s *session) error {
			st, err := s.Status(ctx)
			if err != nil {
				return err
			}
			if *asJSON {
				return e.printJSON(st)
			}
			fmt.Fprint(e.stdout, statusText(&st))
			return nil
		})
	}
	return cmd
}

func (e *env) watch(ctx context.Context, asJSON bool) error {
	s, err := e.dial(ctx)
	if err != nil {
		return err
	}
	defer s.Close()
	_, _, live := terminal(e.rawStdout)
	sc := &screen{w: e.stdout}
	seen := map[string]string{}
	for st, err := range s.Watch(ctx) {
		switch {
		case err != nil:
			return err
		case asJSON:
			err = e.printJSON(st)
		case live:
			width, height, _ := terminal(e.rawStdout)
			sc.draw(statusText(&st), width, height)
		default:
			err = e.printChanges(&st, seen)
		}
		if err != nil {
			return err
		}
	}
	return nil // ^C is how one leaves a picture
}

// printChanges prints a line for what changed since the last call.
func (e *env) printChanges(st *p2p.Status, seen map[string]string) error {
	line := func(key, text string) error {
		if seen[key] == text {
			return nil
		}
		seen[key] = text
		_, err := fmt.Fprintf(e.stdout, "%s %s\n", st.Time.Format("15:04:05"), text)
		return err
	}
	err := line("", fmt.Sprintf("node: %s", count(len(st.Neighbours), "neighbour", "neighbours")))
	for i := range st.Products {
		p := &st.Products[i]
		err = errors.Join(err, line(p.Product, productLine(p)))
	}
	return err
}

// productLine is a product in one line.
func productLine(p *p2p.ProductStatus) string {
	text := p.Product + ": " + p.State
	if p.Newest != nil {
		text += ", newest " + releaseWords(p.Newest)
	}
	if p.Live != nil {
		text += ", live " + releaseWords(p.Live)
	}
	if f := p.Fetch; f != nil && p.State == p2p.StateFetching {
		text += ", " + fetchWords(f)
	}
	if p.Error != "" {
		text += ": " + clean(p.Error)
	}
	return text
}

// fetchWords says how far a fetch is.
func fetchWords(f *p2p.FetchStatus) string {
	text := fmt.Sprintf("%s of %s to fetch", size(f.BytesNeeded), size(f.BytesTotal))
	if f.Phase == "done" {
		text = size(f.BytesTotal) + " here"
	}
	if f.RateBytes > 0 && f.Phase != "done" {
		text += " at " + rate(f.RateBytes)
	}
	if f.EndsInSeconds > 0 {
		text += ", " + span(time.Duration(f.EndsInSeconds*float64(time.Second))) + " left"
	}
	return text
}

// statusText is the whole picture for people.
func statusText(st *p2p.Status) string {
	var b strings.Builder
	table(&b, nodeRows(st)...)
	if len(st.Neighbours) > 0 {
		rows := []string{"NEIGHBOUR\tADDRESS\tFOUND BY\tSINCE\tCATALOG\tFROM IT\tTO IT"}
		for _, n := range st.Neighbours {
			rows = append(rows, strings.Join([]string{short(n.ID), clean(n.Addr), n.Source, seconds(n.ConnectedSeconds), n.Catalog,
				size(n.BytesFrom), size(n.BytesTo)}, "\t"))
		}
		b.WriteByte('\n')
		table(&b, rows...)
	}
	names := map[string]string{}
	for _, n := range st.Neighbours {
		names[n.ID] = short(n.ID)
	}
	for i := range st.Products {
		b.WriteByte('\n')
		table(&b, productRows(&st.Products[i])...)
	}
	if len(st.Products) == 0 {
		b.WriteString("\nno product is known or followed yet\n")
	}
	return b.String()
}

func nodeRows(st *p2p.Status) []string {
	var rows []string
	if st.Running {
		rows = append(rows, fmt.Sprintf("node\t%s, up %s, pid %d, version %s", st.Node.ID, seconds(st.Node.UptimeSeconds), st.Node.PID, clean(st.Node.Version)))
		for i, a := range st.Node.Addrs {
			label := ""
			if i == 0 {
				label = "address"
			}
			rows = append(rows, label+"\t"+clean(a))
		}
	} else {
		rows = append(rows, fmt.Sprintf("node\t%s, not running (start it with \"satchel up\")", st.Node.ID))
	}
	rows = append(rows, "home\t"+clean(st.Home))
	if st.Root.Version == 0 {
		rows = append(rows, "trust\tno root yet (\"satchel trust ROOT\")")
	} else {
		rows = append(rows, fmt.Sprintf("trust\troot version %d, %s, products %s", st.Root.Version, count(st.Root.Keys, "key", "keys"),
			clean(strings.Join(st.Root.Products, ", "))))
		if st.Root.Rival {
			rows = append(rows, "\tits keys have signed two roots of this version: \"satchel explain\"")
		}
	}
	if st.Clock.State == p2p.ClockWrong {
		rows = append(rows, fmt.Sprintf("clock\twrong: it says %s, what is signed says at least %s", utc(st.Time.Unix()), utc(st.Clock.Earliest)))
	}
	if st.Node.TimestampErr != "" {
		rows = append(rows, "timestamps\tnone signed: "+clean(st.Node.TimestampErr))
	}
	rows = append(rows, fmt.Sprintf("store\t%s, %s; %s free on its disk", count(st.Store.Blobs, "blob", "blobs"), size(st.Store.Bytes), size(st.Store.FreeBytes)))
	if st.Running {
		found := "none yet"
		if n := len(st.Neighbours); n > 0 {
			found = fmt.Sprint(n)
		}
		rows = append(rows, fmt.Sprintf("traffic\t%s sent, %s received", size(st.Node.BytesSent), size(st.Node.BytesReceived)), "neighbours\t"+found)
	}
	return rows
}

func productRows(p *p2p.ProductStatus) []string {
	rows := []string{p.Product + "\t" + stateWords(p)}
	if p.Newest != nil {
		text := fmt.Sprintf("  newest\t%s, %s", releaseWords(p.Newest), size(p.Newest.TotalSize))
		if p.Newest.Epoch > 1 {
			text += fmt.Sprintf(", epoch %d", p.Newest.Epoch)
		}
		if p.Newest.Issued > 0 {
			text += ", signed " + time.Unix(p.Newest.Issued, 0).UTC().Format("2006-01-02 15:04") + " UTC"
		}
		if p.Newest.Urgent {
			text += ", urgent"
		}
		if p.Newest.Recall {
			text += ", a recall"
		}
		rows = append(rows, text)
	}
	if f := p.Freshness; f != nil && (p.Newest != nil || f.NewerSeq > 0) {
		rows = append(rows, "  freshness\t"+freshWords(f))
	}
	for _, c := range p.Claims {
		rows = append(rows, fmt.Sprintf("  claim\t%s, manifest %s", releaseWords(&c), c.Manifest))
	}
	if p.Ready != nil {
		rows = append(rows, "  ready\t"+releaseWords(p.Ready))
	}
	if p.Live != nil {
		rows = append(rows, fmt.Sprintf("  live\t%s in %s", releaseWords(p.Live), clean(p.Image)))
	} else if p.Followed {
		rows = append(rows, "  live\tnothing yet in "+clean(p.Image))
	}
	if p.Previous != nil {
		rows = append(rows, "  previous\t"+releaseWords(p.Previous))
	}
	if p.Fetch != nil {
		rows = append(rows, fetchRows(p.Fetch)...)
	}
	if p.Error != "" {
		rows = append(rows, "  error\t"+clean(p.Error))
	}
	if p.Hint != "" {
		rows = append(rows, "  hint\t"+clean(p.Hint))
	}
	return rows
}

// freshWords says whether the newest release here is known to be the newest there is.
func freshWords(f *p2p.FreshStatus) string {
	switch {
	case f.NewerSeq > 0:
		return fmt.Sprintf("stale: a timestamp names seq %d", f.NewerSeq)
	case f.Expired:
		return "stale: it has expired"
	case f.AsOf > 0:
		return f.State + ", newest as of " + utc(f.AsOf)
	}
	return f.State + ": no timestamp vouches for it"
}

func stateWords(p *p2p.ProductStatus) string {
	text := p.State
	switch {
	case p.Followed && p.Carried:
		text += ", followed and carried"
	case p.Followed:
		text += ", followed"
	case p.Carried:
		text += ", carried"
	default:
		text += ", not followed here"
	}
	return text
}

func fetchRows(f *p2p.FetchStatus) []string {
	rows := []string{
		fmt.Sprintf("  content\t%s: %s were here, %s copied from other files here, %s fetched", size(f.BytesTotal), size(f.BytesHad),
			size(f.BytesLocal), size(f.BytesFetched)),
	}
	if f.Phase != "done" {
		rows = append(rows, fmt.Sprintf("  to go\t%s (%s)", fetchWords(f), f.Phase))
	}
	if f.BytesDuplicate+f.BytesCorrupt > 0 {
		rows = append(rows, fmt.Sprintf("  wasted\t%s arrived twice, %s were wrong", size(f.BytesDuplicate), size(f.BytesCorrupt)))
	}
	if len(f.BytesBySource) > 0 {
		rows = append(rows, "  from\t"+sources(f.BytesBySource, short))
	}
	return rows
}

// sources lists who gave how much, the most generous first.
func sources(by map[string]uint64, name func(string) string) string {
	ids := slices.SortedFunc(maps.Keys(by), func(a, b string) int {
		if by[a] != by[b] {
			return int(min(1, max(-1, int64(by[b])-int64(by[a]))))
		}
		return strings.Compare(a, b)
	})
	var out []string
	for _, id := range ids {
		if by[id] > 0 {
			out = append(out, name(id)+" "+size(by[id]))
		}
	}
	return strings.Join(out, ", ")
}
