package main

import (
	"fmt"
	"strings"
	"time"

	"satchel/p2p"
)

// view shows how a release spreads: a table that is drawn again on a terminal, lines elsewhere.
type view struct {
	d     *demo
	r     *demoRelease
	sc    *screen // nil when not on a terminal
	began time.Time
	said  map[*machine]string
	lines time.Time // of the last lines with figures
}

func (d *demo) view(r *demoRelease) *view {
	v := &view{d: d, r: r, began: time.Now(), said: map[*machine]string{}, lines: time.Now()}
	if _, _, ok := terminal(d.rawStdout); ok {
		v.sc = &screen{w: d.stdout}
	}
	return v
}

// say prints a line between pictures.
func (v *view) say(format string, args ...any) {
	if v.sc == nil {
		v.d.note("  %5.1f s  "+format, append([]any{time.Since(v.began).Seconds()}, args...)...)
	}
}

// draw shows the machines as they were last seen; the last picture stays.
func (v *view) draw(last bool) {
	if v.sc != nil {
		width, height, _ := terminal(v.d.rawStdout)
		v.sc.draw(v.picture(width), width, height)
		return
	}
	figures := time.Since(v.lines) >= 2*time.Second
	if figures {
		v.lines = time.Now()
	}
	for _, m := range v.d.laptops {
		p := v.product(m)
		if !m.running() || (!figures || p.State != p2p.StateFetching) && v.said[m] == p.State {
			continue
		}
		v.said[m] = p.State
		v.say("%-5s %-9s %s", m.name, p.State, v.figures(&p))
	}
}

func (v *view) product(m *machine) p2p.ProductStatus {
	for _, p := range m.last.Products {
		if p.Product == demoProduct && p.Newest != nil && p.Newest.Seq >= v.r.Seq {
			return p
		}
	}
	return p2p.ProductStatus{State: p2p.StateNone}
}

// picture is the table: who has how much, and from whom.
func (v *view) picture(width int) string {
	all := v.d.machines()
	bar := width >= 100
	head := "LAPTOP\tSTATE\tHAS\t"
	if bar {
		head += "\t"
	}
	head += "HERE\t"
	for _, m := range all {
		head += strings.ToUpper(m.name) + "\t"
	}
	rows := []string{head}
	for _, m := range v.d.laptops {
		p := v.product(m)
		state, f := p.State, p.Fetch
		if !m.running() {
			state = "is off"
		}
		if f == nil {
			f = &p2p.FetchStatus{}
		}
		has := hasPercent(f)
		row := fmt.Sprintf("%s\t%s\t%d %%\t", m.name, state, has)
		if bar {
			row += strings.Repeat("█", has/5) + strings.Repeat("░", 20-has/5) + "\t"
		}
		row += megabytes(f.BytesHad+f.BytesLocal) + "\t"
		for _, from := range all {
			row += megabytes(f.BytesBySource[from.id]) + "\t"
		}
		rows = append(rows, row)
	}
	var b strings.Builder
	table(&b, rows...)
	fmt.Fprintf(&b, "MB that were here, and by source; the publisher has sent %s in all; %.1f s\n", size(v.d.publisher.last.Node.BytesSent), time.Since(v.began).Seconds())
	return b.String()
}

// megabytes is a number for a column of them; nothing is a dot.
func megabytes(n uint64) string {
	switch mb := float64(n) / 1e6; {
	case n == 0:
		return "."
	case mb < 10:
		return fmt.Sprintf("%.2f", mb)
	default:
		return fmt.Sprintf("%.1f", mb)
	}
}

func (v *view) sources(f *p2p.FetchStatus) string {
	text := sources(f.BytesBySource, func(id string) string {
		if m := v.d.named(id); m != nil {
			return m.name
		}
		return short(id)
	})
	if here := f.BytesHad + f.BytesLocal; here > 0 {
		text = strings.TrimPrefix(text+"; here "+size(here), "; ")
	}
	return text
}

func (v *view) figures(p *p2p.ProductStatus) string {
	f := p.Fetch
	if f == nil {
		return ""
	}
	return fmt.Sprintf("%3d %%  %s", hasPercent(f), v.sources(f))
}

// hasPercent is how much of a release's content is here; until its list is here, nobody knows.
func hasPercent(f *p2p.FetchStatus) int {
	if f.BytesTotal == 0 || f.Phase == "manifest" {
		return 0
	}
	return percent(f.BytesTotal-f.BytesNeeded, f.BytesTotal)
}

// share is what one laptop moved for one release.
type share struct{ publisher, neighbours, here, wasted uint64 }

func (d *demo) share(r *demoRelease, m *machine) (s share) {
	f := r.fetched[m]
	for id, n := range f.BytesBySource {
		if id == d.publisher.id {
			s.publisher += n
		} else {
			s.neighbours += n
		}
	}
	s.here, s.wasted = f.BytesHad+f.BytesLocal, f.BytesDuplicate
	return s
}

// summary is the table at the end.
func (d *demo) summary() {
	head, title := []string{"LAPTOP"}, []string{""}
	for _, r := range d.releases {
		title = append(title, "RELEASE "+r.Version, "", "")
		head = append(head, "from the publisher", "from neighbours", "was here")
	}
	rows := []string{strings.Join(title, "\t"), strings.Join(head, "\t")}
	totals := make([]share, len(d.releases))
	for _, m := range d.laptops {
		row := []string{m.name}
		for i := range d.releases {
			s := d.share(&d.releases[i], m)
			t := &totals[i]
			t.publisher, t.neighbours, t.here, t.wasted = t.publisher+s.publisher, t.neighbours+s.neighbours, t.here+s.here, t.wasted+s.wasted
			row = append(row, size(s.publisher), size(s.neighbours), size(s.here))
		}
		rows = append(rows, strings.Join(row, "\t"))
	}
	row := []string{"all"}
	for _, t := range totals {
		row = append(row, size(t.publisher), size(t.neighbours), size(t.here))
	}
	d.note("\nWhere the bytes came from:")
	table(d.stdout, append(rows, strings.Join(row, "\t"))...)
	for i, t := range totals {
		each := (t.publisher + t.neighbours) / uint64(len(d.laptops))
		d.note("release %s: a laptop fetched %s, and the publisher gave %.2f times that to all five together; %s arrived twice",
			d.releases[i].Version, size(each), float64(t.publisher)/float64(max(each, 1)), size(t.wasted))
	}
}
