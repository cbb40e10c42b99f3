package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

// An exitCode is what the program ends with.
type exitCode int

const (
	exitOK          exitCode = 0
	exitFailure     exitCode = 1
	exitUsage       exitCode = 2
	exitTimeout     exitCode = 3
	exitRefused     exitCode = 4
	exitInUse       exitCode = 5
	exitNotFound    exitCode = 6
	exitInterrupted exitCode = 130
)

// meaning is what the help says of a code.
func (c exitCode) meaning() string {
	switch c {
	case exitOK:
		return "it is done"
	case exitFailure:
		return "it failed; the error says why and what to do next"
	case exitUsage:
		return "the command line is wrong; nothing was done"
	case exitTimeout:
		return "the time given was over before what was waited for had happened"
	case exitRefused:
		return "refused: a signature is missing or wrong, the release is older, or no trust root covers it"
	case exitInUse:
		return "another process has this home"
	case exitNotFound:
		return "no such product, release or node, or there is nothing to do"
	case exitInterrupted:
		return "interrupted by a signal"
	}
	return "unknown"
}

// codeOf is the one place where errors become exit codes.
func codeOf(ctx context.Context, err error) exitCode {
	var u *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &u):
		return exitUsage
	case errors.Is(err, context.Canceled), ctx.Err() != nil && errors.Is(err, context.Cause(ctx)):
		return exitInterrupted
	}
	switch p2p.CodeOf(err) {
	case p2p.CodeTimeout:
		return exitTimeout
	case p2p.CodeRefused, p2p.CodeOlder, p2p.CodeNoRoot, p2p.CodeEquivocal:
		return exitRefused
	case p2p.CodeInUse:
		return exitInUse
	case p2p.CodeNotFound, p2p.CodeNotReady:
		return exitNotFound
	}
	return exitFailure
}

// report tells a person about an error and returns the exit code.
func (e *env) report(ctx context.Context, err error) int {
	code := codeOf(ctx, err)
	switch code {
	case exitOK:
		return int(code)
	case exitInterrupted:
		e.say("error", "interrupted")
		return int(code)
	}
	e.say("error", err.Error())
	if hint := p2p.HintOf(err); hint != "" {
		e.say("hint", hint)
	}
	return int(code)
}

// say writes a message for people, its further lines indented.
func (e *env) say(kind, text string) {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = clean(lines[i])
	}
	fmt.Fprintf(e.stderr, "satchel: %s: %s\n", kind, strings.Join(lines, "\n  "))
}

// usageError is a wrong command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// usage marks an error that came up before a verb began as one of the command line, and says where help is.
func usage(cmd *cobra.Command, err error) error {
	if p2p.HintOf(err) != "" {
		return &usageError{err}
	}
	return badUsage(fmt.Sprintf("see \"%s --help\"", cmd.CommandPath()), "%w", err)
}

// badUsage is for what a verb finds wrong with its own arguments.
func badUsage(hint, format string, args ...any) error {
	return &usageError{advise(p2p.CodeBadInput, hint, fmt.Errorf(format, args...))}
}

// advise gives an error a code and a hint.
func advise(code, hint string, err error) error {
	return &p2p.Error{Code: code, Hint: hint, Err: err}
}

func unknownVerb(cmd *cobra.Command, name string) error {
	hint := fmt.Sprintf("see \"%s --help\"", cmd.CommandPath())
	if like := cmd.SuggestionsFor(name); len(like) > 0 {
		slices.Sort(like)
		hint = fmt.Sprintf("did you mean \"%s %s\"?", cmd.CommandPath(), like[0])
	}
	return badUsage(hint, "there is no verb %q", name)
}

// withExit appends the part about exit codes to a help text. The heading is underlined so that it is one in the man page too.
func withExit(text string, codes ...exitCode) string {
	var b strings.Builder
	b.WriteString(text)
	b.WriteString("\n\nEXIT STATUS\n===========\n\n")
	for _, c := range codes {
		fmt.Fprintf(&b, "    %-4d %s\n", c, c.meaning())
	}
	return strings.TrimRight(b.String(), "\n")
}
