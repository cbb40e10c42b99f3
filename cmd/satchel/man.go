package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newManCommand(e *env) *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "write the man pages",
		Long: withExit(`Write the man pages of all verbs into DIR, which is made when it is missing.
SOURCE_DATE_EPOCH sets their date.`, exitOK, exitFailure, exitUsage),
		Example: "  satchel man /usr/local/share/man/man1\n  satchel man . && man ./satchel-publish.1",
		Args:    exactly("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := args[0]
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("writing man pages: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Section: "1", Source: "satchel " + versionText(), Manual: "satchel"}
			if err := doc.GenManTree(root, header, dir); err != nil {
				return fmt.Errorf("writing man pages: %w", err)
			}
			pages, err := filepath.Glob(filepath.Join(dir, "satchel*.1"))
			if err != nil {
				return fmt.Errorf("counting man pages: %w", err)
			}
			fmt.Fprintf(e.stdout, "%s in %s\n", count(len(pages), "man page", "man pages"), dir)
			return nil
		},
	}
}
