package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"satchel/p2p"
)

// every calls f with every command that a person can run.
func every(cmd *cobra.Command, f func(*cobra.Command)) {
	if cmd.Runnable() && cmd.Name() != "help" {
		f(cmd)
	}
	for _, c := range cmd.Commands() {
		every(c, f)
	}
}

// Every verb says what it is, how it is used, and how it ends.
func TestHelp(t *testing.T) {
	every(newRootCommand(&env{}), func(cmd *cobra.Command) {
		switch {
		case cmd.Short == "", cmd.Example == "" && cmd.Name() != "root":
			t.Errorf("%s: no description or no example", cmd.CommandPath())
		case !strings.Contains(cmd.Long, "EXIT STATUS\n==========="):
			t.Errorf("%s: no exit status", cmd.CommandPath())
		}
		for _, line := range strings.Split(cmd.Long, "\n") {
			if len(line) > 100 {
				t.Errorf("%s: a long line: %s", cmd.CommandPath(), line)
			}
		}
	})
}

// Every example in every help text is a command line that satchel takes.
func TestHelpExamples(t *testing.T) {
	word := regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
	seen := 0
	every(newRootCommand(&env{}), func(cmd *cobra.Command) {
		for _, line := range strings.Split(cmd.Example, "\n") {
			for _, part := range regexp.MustCompile(`&&|;|\||&`).Split(strings.TrimSpace(line), -1) {
				words := word.FindAllString(part, -1)
				if len(words) == 0 || words[0] != "satchel" {
					continue
				}
				words = slices.DeleteFunc(words, func(w string) bool { return strings.HasPrefix(w, ">") })
				for i, w := range words {
					words[i] = strings.Trim(w, `"'`)
				}
				seen++
				if err := accepts(words[1:]); err != nil {
					t.Errorf("%s: example %q: %v", cmd.CommandPath(), line, err)
				}
			}
		}
	})
	if seen < 20 {
		t.Errorf("only %d examples were found", seen)
	}
}

// accepts parses a command line without running it.
func accepts(args []string) error {
	cmd, rest, err := newRootCommand(&env{}).Find(args)
	if err != nil {
		return err
	}
	if err := cmd.ParseFlags(rest); err != nil {
		return err
	}
	return errors.Join(cmd.ValidateArgs(cmd.Flags().Args()), cmd.ValidateRequiredFlags(), cmd.ValidateFlagGroups())
}

func TestExitCodes(t *testing.T) {
	interrupted, cancel := context.WithCancelCause(context.Background())
	signal := errors.New("interrupt signal received")
	cancel(signal)
	for _, c := range []struct {
		ctx  context.Context
		err  error
		want exitCode
	}{
		{context.Background(), nil, 0},
		{context.Background(), io.ErrUnexpectedEOF, 1},
		{context.Background(), badUsage("", "x"), 2},
		{context.Background(), fmt.Errorf("doing: %w", badUsage("", "x")), 2},
		{context.Background(), advise(p2p.CodeTimeout, "", io.EOF), 3},
		{context.Background(), advise(p2p.CodeRefused, "", io.EOF), 4},
		{context.Background(), advise(p2p.CodeOlder, "", io.EOF), 4},
		{context.Background(), advise(p2p.CodeNoRoot, "", io.EOF), 4},
		{context.Background(), advise(p2p.CodeEquivocal, "", io.EOF), 4},
		{context.Background(), advise(p2p.CodeInUse, "", io.EOF), 5},
		{context.Background(), advise(p2p.CodeNotFound, "", io.EOF), 6},
		{context.Background(), fmt.Errorf("doing: %w", advise(p2p.CodeNotReady, "", io.EOF)), 6},
		{context.Background(), advise(p2p.CodeNoSpace, "", io.EOF), 1},
		{context.Background(), advise(p2p.CodeReadOnly, "", io.EOF), 1},
		{context.Background(), advise(p2p.CodeBadInput, "", io.EOF), 1},
		{context.Background(), advise(p2p.CodeOffline, "", io.EOF), 1},
		{context.Background(), advise(p2p.CodeCorrupt, "", io.EOF), 1},
		{context.Background(), advise(p2p.CodeConflict, "", io.EOF), 1},
		{interrupted, fmt.Errorf("doing: %w", signal), 130},
		{interrupted, context.Canceled, 130},
	} {
		if got := codeOf(c.ctx, c.err); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}

// An error's text may come from a neighbour: it must not move the cursor.
func TestReportIsClean(t *testing.T) {
	var b strings.Builder
	e := &env{stderr: &b}
	e.report(context.Background(), errors.New("one\x1b[2J\ntwo\rthree\u202e"))
	if want := "satchel: error: one\ufffd[2J\n  two\ufffdthree\ufffd\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}
