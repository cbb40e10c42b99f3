package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"satchel/p2p"
)

// size says a number of bytes with three digits, in decimal units.
func size(n uint64) string { return p2p.Size(n) }

// rate says bytes a second.
func rate(bytes float64) string { return size(uint64(max(bytes, 0))) + "/s" }

// span says a time in at most two units.
func span(d time.Duration) string {
	s := int64(d.Round(time.Second).Seconds())
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 24*3600:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%d d %d h", s/(24*3600), s%(24*3600)/3600)
}

func seconds(s int64) string { return span(time.Duration(s) * time.Second) }

// count says how many, with separators from 10,000 on.
func count[T int | uint64](n T, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return thousands(uint64(n)) + " " + many
}

func thousands(n uint64) string {
	s := fmt.Sprint(n)
	if len(s) < 4 {
		return s
	}
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// short is the end of a node's id, which tells neighbours apart; the beginning is the same for all.
func short(id string) string {
	if len(id) <= 8 {
		return id
	}
	return id[len(id)-8:]
}

// releaseWords names a release for people.
func releaseWords(r *p2p.ReleaseStatus) string {
	if r == nil {
		return "none"
	}
	return fmt.Sprintf("%s (seq %d)", clean(r.Version), r.Seq)
}

// clean makes text from elsewhere harmless for a terminal: no control characters, none that reorder text.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

// table aligns columns; cells are separated by tabs.
func table(w io.Writer, rows ...string) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		io.WriteString(tw, r+"\n")
	}
	tw.Flush()
}

// percent of a whole; nothing is all of nothing.
func percent(part, whole uint64) int {
	if whole == 0 || part >= whole {
		return 100
	}
	return int(float64(part) / float64(whole) * 100)
}
