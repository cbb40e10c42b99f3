package main

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"satchel/p2p/control"
)

func newListCommand(e *env) *cobra.Command {
	var seq uint64
	var paths, null bool
	cmd := &cobra.Command{
		Use:   "ls PRODUCT",
		Short: "list what a release consists of",
		Long: withExit(`List the entries of a product's newest release, or of the one with --seq: mode,
size in bytes, path. Its list must be here: follow or carry the product. A name
with control characters is quoted, except with --null. With --json there is one
object a line, the first of them about the release.

Works with and without a running node.`, exitOK, exitFailure, exitUsage, exitInUse, exitNotFound),
		Example:           "  satchel ls lessons\n  satchel ls lessons --seq 3 --paths",
		Args:              exactly("PRODUCT"),
		ValidArgsFunction: e.completeProducts,
	}
	cmd.Flags().Uint64Var(&seq, "seq", 0, "number `N` of the release (default the newest)")
	cmd.Flags().BoolVar(&paths, "paths", false, "print only the paths")
	cmd.Flags().BoolVar(&null, "null", false, "print only the paths, as they are, each ended by a zero byte")
	asJSON := jsonFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		name, err := product(args[0])
		if err != nil {
			return err
		}
		if *asJSON && (paths || null) || paths && null {
			return badUsage("choose one of them", "--json, --paths and --null exclude each other")
		}
		out := bufio.NewWriterSize(e.stdout, 64<<10)
		each := func(en control.Entry) error { _, err := fmt.Fprintln(out, entryLine(en)); return err }
		head := func(control.Header) error { return nil }
		switch {
		case paths:
			each = func(en control.Entry) error { _, err := fmt.Fprintln(out, quoted(en.Path)); return err }
		case null:
			each = func(en control.Entry) error { _, err := out.WriteString(en.Path + "\x00"); return err }
		case *asJSON:
			buffered := &env{stdout: out}
			head = func(h control.Header) error { return buffered.printJSON(h) }
			each = func(en control.Entry) error { return buffered.printJSON(en) }
		}
		return e.withNode(cmd.Context(), func(s *session) error {
			if err := s.List(cmd.Context(), name, seq, head, each); err != nil {
				return err
			}
			return out.Flush()
		})
	}
	return cmd
}

func entryLine(en control.Entry) string {
	kind, end := "-", ""
	switch en.Type {
	case "dir":
		kind, end = "d", "/"
	case "symlink":
		kind, end = "l", " -> "+quoted(en.Link)
	}
	return fmt.Sprintf("%s%s %12d %s%s", kind, modeWords(en.Mode), en.Size, quoted(en.Path), end)
}

// modeWords is the mode as ls(1) shows it.
func modeWords(mode uint32) string {
	b := []byte("rwxrwxrwx")
	for i := range b {
		if mode&(1<<(8-i)) == 0 {
			b[i] = '-'
		}
	}
	for _, s := range []struct {
		bit      uint32
		at       int
		exec, no byte
	}{{0o4000, 2, 's', 'S'}, {0o2000, 5, 's', 'S'}, {0o1000, 8, 't', 'T'}} {
		if mode&s.bit == 0 {
			continue
		}
		if b[s.at] == 'x' {
			b[s.at] = s.exec
		} else {
			b[s.at] = s.no
		}
	}
	return string(b)
}

// quoted is the name itself, or in Go's quotes when a terminal could take it for something else.
func quoted(name string) string {
	if clean(name) != name || strings.HasPrefix(name, `"`) {
		return strconv.QuoteToGraphic(name)
	}
	return name
}
