package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"satchel/p2p"
	"satchel/store/image/boot"
)

func newBootSelectCommand(e *env) *cobra.Command {
	var look bool
	cmd := &cobra.Command{
		Use:   "boot-select IMAGE",
		Short: "say which tree to start the machine with",
		Long: withExit(`Print the path of the tree that the machine is to be started with. This is for
the initramfs or script that starts it: no node is needed, nor the home, and the
image may be read-only but for its boot record.

When a deployment is on trial and has tries left, one is taken away, durably,
before its tree is printed. When it has none left, it failed: that is remembered,
and the live tree is printed. When the record cannot be written, or a node has
the image, a warning says so, and the live tree is printed.

With --look nothing is changed. The program boot-select does the same, alone.`, exitOK, exitFailure, exitUsage, exitNotFound),
		Example: "  root=$(satchel boot-select /sysroot/image)\n  satchel boot-select --look ~/lessons",
		Args:    exactly("IMAGE"),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
	}
	asJSON := jsonFlag(cmd)
	cmd.Flags().BoolVar(&look, "look", false, "say it, and change nothing")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		choose := boot.Select
		if look {
			choose = boot.Look
		}
		c, err := choose(args[0])
		if errors.Is(err, boot.ErrNothing) {
			return advise(p2p.CodeNotFound, `give the image's directory, the one that holds "deploy"`, err)
		}
		if err != nil {
			return err
		}
		if c.Problem != nil {
			e.say("warning", c.Problem.Error())
		}
		if *asJSON {
			return e.printJSON(c.Telling())
		}
		_, err = fmt.Fprintln(e.stdout, c.Tree)
		return err
	}
	return cmd
}
