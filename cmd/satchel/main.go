package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program: it does what args say and returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // nohup
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	defer stop()
	context.AfterFunc(ctx, stop) // the second signal ends the program at once

	out := &output{w: stdout}
	e := &env{stdin: stdin, stdout: out, stderr: stderr, rawStdout: stdout}
	root := newRootCommand(e)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(out)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !e.began {
		err = usage(cmd, err)
	}
	return e.report(ctx, errors.Join(err, out.err))
}

func newRootCommand(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "satchel",
		Short: "pass signed releases from neighbour to neighbour",
		Long: withExit(`satchel keeps machines on the newest signed release of what they follow: an
operating system, a set of lessons, a security fix. Releases travel from
neighbour to neighbour: no server and no Internet are needed.

A publisher makes a key and a trust root, and publishes a tree of files. Every
other machine trusts the root, follows the product, and runs a node; when the
release is ready beside the live one, "satchel apply" switches to it, and
"satchel rollback" back.

Everything satchel keeps is in one directory, its home: --home DIR, before or
after the verb, or SATCHEL_HOME, or /var/lib/satchel for root and
$XDG_DATA_HOME/satchel (~/.local/share/satchel) for others. Verbs speak to the
node that runs on the home, and most work without one. Results go to the
standard output, everything else to the standard error. A size is in decimal
units: 1 MB is 1,000,000 bytes.`,
			exitOK, exitFailure, exitUsage, exitTimeout, exitRefused, exitInUse, exitNotFound, exitInterrupted),
		Example: `  # on the publisher's machine
  satchel keygen school.key
  satchel root new --out school.root --key school.key
  satchel trust school.root
  satchel publish ./lessons --product lessons --version 1 --key school.key
  satchel up

  # on every laptop, with a copy of school.root
  satchel trust school.root
  satchel follow lessons --image ~/lessons
  satchel up &
  satchel wait lessons
  satchel apply lessons
  ls ~/lessons/current/`,
		Version:       versionText(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			err := required(cmd)
			if err == nil && cmd.Flags().Changed("home") && e.home == "" {
				err = badUsage("give --home DIR, or leave it out", "--home is empty")
			}
			if err == nil && cmd.Flags().Changed("root") && (e.otherRoot == "" || cmd.Annotations[takesRoot] == "") {
				err = badUsage("it goes with update, install, uninstall, rollback, confirm and image", "-R does not go with %q", cmd.Name())
			}
			e.began = err == nil
			return err
		},
	}
	root.PersistentFlags().StringVar(&e.home, "home", "", "`DIR` of everything satchel keeps (default $SATCHEL_HOME, else the system's or user's)")
	root.MarkPersistentFlagDirname("home")
	root.PersistentFlags().StringVarP(&e.otherRoot, "root", "R", "", "image `DIR` of another disk, a chroot or a card, in place of this machine's")
	root.MarkPersistentFlagDirname("root")
	root.SuggestionsMinimumDistance = 2
	root.SetVersionTemplate("satchel {{.Version}}\n")
	root.SetHelpCommand(newHelpCommand())
	addVerbs(root, e)
	root.InitDefaultCompletionCmd()
	amendCompletion(root)
	return root
}

func addVerbs(root *cobra.Command, e *env) {
	root.AddGroup(
		&cobra.Group{ID: groupPublish, Title: "To publish:"},
		&cobra.Group{ID: groupReceive, Title: "To receive:"},
		&cobra.Group{ID: groupNode, Title: "The node:"},
		&cobra.Group{ID: groupCare, Title: "To see and to care:"})
	for id, cmds := range map[string][]*cobra.Command{
		groupPublish: {newKeygenCommand(e), newRootDocCommand(e), newPublishCommand(e), newRecallCommand(e), newTimestampCommand(e),
			newExportCommand(e)},
		groupReceive: {newTrustCommand(e), newFollowCommand(e), newUnfollowCommand(e), newCarryCommand(e), newWaitCommand(e),
			newApplyCommand(e), newUpdateCommand(e), newInstallCommand(e), newUninstallCommand(e), newAttachCommand(e), newConfirmCommand(e),
			newRollbackCommand(e), newImportCommand(e)},
		groupNode: {newUpCommand(e), newDownCommand(e), newBootSelectCommand(e)},
		groupCare: {newStatusCommand(e), newExplainCommand(e), newListCommand(e), newVerifyCommand(e), newPruneCommand(e),
			newImageCommand(e), newHoldCommand(e)},
		"": {newDemoCommand(e), newVersionCommand(e), newManCommand(e)},
	} {
		for _, c := range cmds {
			c.GroupID = id
			root.AddCommand(c)
		}
	}
}

// takesRoot marks verbs that work on the image directory of -R.
const takesRoot = "takes-root"

const (
	groupPublish = "publish"
	groupReceive = "receive"
	groupNode    = "node"
	groupCare    = "care"
)

// newHelpCommand is cobra's, but a topic that does not exist is an error.
func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [VERB]",
		Short: "help about a verb",
		Args:  cobra.ArbitraryArgs,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var out []cobra.Completion
			at, _, err := cmd.Root().Find(args)
			if err == nil {
				for _, c := range at.Commands() {
					if c.IsAvailableCommand() {
						out = append(out, cobra.CompletionWithDesc(c.Name(), c.Short))
					}
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			at, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return unknownVerb(cmd.Root(), args[0])
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}

// amendCompletion has cobra's completion verb refuse shells that it does not know, and say how it ends.
func amendCompletion(root *cobra.Command) {
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		c.Short = "write what a shell needs to complete satchel's command lines"
		c.Long = withExit("Write what a shell needs to complete satchel's command lines.", exitOK, exitUsage)
		c.Example = "  satchel completion bash >/etc/bash_completion.d/satchel"
		c.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		c.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownVerb(cmd, args[0])
			}
			return nil
		}
		for _, shell := range c.Commands() {
			shell.Short = "for " + shell.Name()
			shell.Example = fmt.Sprintf("  satchel completion %s >satchel.%s", shell.Name(), shell.Name())
			shell.Long = withExit(shell.Long, exitOK, exitFailure, exitUsage)
		}
	}
}
