package main

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// progressLine is one line on a terminal that is drawn again and again; elsewhere it is silent.
type progressLine struct {
	w    io.Writer
	wide int
	last time.Time
}

func (e *env) progressLine() *progressLine {
	width, _, ok := terminal(e.stderr)
	if !ok {
		return &progressLine{}
	}
	return &progressLine{w: e.stderr, wide: width - 1}
}

// show draws the line, ten times a second at most.
func (p *progressLine) show(format string, args ...any) {
	if now := time.Now(); p.w != nil && now.Sub(p.last) >= 100*time.Millisecond {
		p.last = now
		fmt.Fprintf(p.w, "\r\x1b[K%s", cut(fmt.Sprintf(format, args...), p.wide))
	}
}

// clear leaves an empty line.
func (p *progressLine) clear() {
	if p.w != nil && !p.last.IsZero() {
		io.WriteString(p.w, "\r\x1b[K")
	}
}

// cut shortens text to a width in characters.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	r := []rune(s)
	return string(r[:max(width-1, 0)]) + "…"
}

// screen is some lines on a terminal that are replaced as a whole.
type screen struct {
	w     io.Writer
	drawn int // lines that are on the terminal
}

// draw replaces the lines, cut to the terminal's size.
func (s *screen) draw(text string, width, height int) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > height-1 {
		lines = append(lines[:height-2], "…")
	}
	var b strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.drawn)
	}
	for _, l := range lines {
		b.WriteString("\r\x1b[K" + cut(l, width-1) + "\n")
	}
	b.WriteString("\x1b[J")
	io.WriteString(s.w, b.String())
	s.drawn = len(lines)
}
